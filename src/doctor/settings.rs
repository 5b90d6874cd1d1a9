//! What the configuration names and is not there or not safe, and what in the
//! environment a worker must not be started with. That the settings are valid by
//! themselves is known before anything is checked.

use std::path::Path;

use super::{Check, Part};
use crate::config::{Config, Switch};

/// The checks. `env` gives a variable of the environment.
pub fn check(config: &Config, env: impl Fn(&str) -> Option<String>) -> Vec<Check> {
    let mut found = Vec::new();
    let mut wrong = |says: String, fix: &str| {
        found.push(Check::wrong(Part::Configuration, says, fix));
    };
    let store = &config.store;
    if store.tls == Switch::Off && (store.tls_ca.is_some() || store.tls_cert.is_some()) {
        wrong(
            "store.tls is off and certificates are named: the connection is in clear".to_owned(),
            "set store.tls = \"on\"",
        );
    }
    let files = [
        ("store.password_file", &store.password_file),
        ("store.tls_ca", &store.tls_ca),
        ("store.tls_cert", &store.tls_cert),
        ("store.tls_key", &store.tls_key),
        ("kms.key_file", &config.kms.key_file),
        ("aws.credentials_file", &config.aws.credentials_file),
    ];
    for (setting, path) in files {
        if let Some(path) = path
            && let Err(error) = std::fs::File::open(path)
        {
            let says = format!("{setting}: {} cannot be read: {error}", path.display());
            wrong(
                says,
                "put the file there, readable by the user that the worker runs as",
            );
        }
    }
    // The SDK's own rule: anything but these two words switches it on.
    if env("LOG_SENSITIVE_BODIES").is_some_and(|v| !matches!(v.as_str(), "" | "0" | "false")) {
        wrong(
            "LOG_SENSITIVE_BODIES is set: the AWS SDK would write keys to its trace log".to_owned(),
            "take it out of the environment; a worker refuses to start with it",
        );
    }
    if env("REKEYD_KILL_AT").is_some_and(|v| !v.is_empty()) {
        wrong(
            "REKEYD_KILL_AT is set: a worker kills itself at that point".to_owned(),
            "take it out of the environment; it is for the project's own tests",
        );
    }
    for (setting, path) in [
        ("store.password_file", &store.password_file),
        ("store.tls_key", &store.tls_key),
        ("kms.key_file", &config.kms.key_file),
        ("aws.credentials_file", &config.aws.credentials_file),
    ] {
        if let Some(path) = path
            && is_open_to_all(path)
        {
            found.push(Check::warning(
                Part::Configuration,
                format!("{setting}: {} can be read by every user", path.display()),
                format!("chmod 0600 {}", path.display()),
            ));
        }
    }
    if found.is_empty() {
        found.push(Check::ok(
            Part::Configuration,
            "valid, and what it names is there",
        ));
    }
    found
}

fn is_open_to_all(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o004 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    fn config() -> Config {
        Config::default_for(Path::new("/nowhere")).unwrap()
    }

    #[test]
    fn the_defaults_are_ok() {
        let checks = check(&config(), |_| None);
        assert_eq!(checks.len(), 1, "{checks:?}");
        assert_eq!(checks[0].state, State::Ok);
    }

    #[test]
    fn each_file_and_contradiction_is_named() {
        type Spoil = fn(&mut Config);
        let cases: [(&str, Spoil); 3] = [
            ("in clear", |c| c.store.tls_ca = Some("/dev/null".into())),
            ("cannot be read", |c| {
                c.store.password_file = Some("/nowhere/x".into());
            }),
            ("every user", |c| {
                c.kms.key_file = Some("/etc/passwd".into());
            }),
        ];
        for (says, spoil) in cases {
            let mut config = config();
            spoil(&mut config);
            let checks = check(&config, |_| None);
            assert!(
                checks
                    .iter()
                    .any(|c| c.state >= State::Warning && c.says.contains(says)),
                "{says}: {checks:?}"
            );
        }
    }

    #[test]
    fn variables_that_would_harm_are_named() {
        for (name, value, bad) in [
            ("LOG_SENSITIVE_BODIES", "true", true),
            ("LOG_SENSITIVE_BODIES", "false", false),
            ("REKEYD_KILL_AT", "key_after_insert", true),
        ] {
            let env = |asked: &str| (asked == name).then(|| value.to_owned());
            let checks = check(&config(), env);
            assert_eq!(
                checks[0].state == State::Wrong,
                bad,
                "{name}={value}: {checks:?}"
            );
        }
    }
}
