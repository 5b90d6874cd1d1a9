//! `rekeyd doctor`

use std::time::Duration;

use clap::ValueEnum;
use serde_json::json;

use crate::audit::AuditLog;
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::report::Failure;
use crate::config::QueueKind;
use crate::doctor::keys::{self, Asking};
use crate::doctor::{Broken, Check, Part, State, queue, settings, store, system, worst};
use crate::ids::OrgId;
use crate::job::{JobBook, Mode};
use crate::registry::Registry;
use crate::store::SharedStore;
use crate::{telemetry, wiring};

#[derive(clap::Args)]
#[command(
    after_help = "Nothing is changed. The KMS is called with canaries, as the worker would be, and the \
                  audit log records each call. Ends with 9 if anything is wrong.\n\n\
                  Example:\n  rekeyd doctor --org acme"
)]
pub(super) struct Arguments {
    /// Look at the CMKs of this organization only.
    #[arg(long)]
    org: Option<OrgId>,
    /// Which rights the worker has: how the CMKs are tried.
    #[arg(long, value_enum, default_value = "reencrypt")]
    mode: Rights,
    /// Longest wait for one answer.
    #[arg(long, value_name = "SECONDS", default_value = "10",
          value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Rights {
    /// Opens keys and makes new ones.
    Reencrypt,
    /// Has keys wrapped anew inside the KMS.
    Rewrap,
}

pub(super) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, Failure> {
    // Before any thread is started, and before any key is there.
    let hardened = telemetry::harden();
    let checks = context.run(async {
        let mut checks = settings::check(context.config(), |name| std::env::var(name).ok());
        checks.extend(parts(context, arguments).await);
        checks.extend(system::hardening(&hardened));
        checks.push(system::memory(context.config()));
        checks.extend(system::disks(context.config()));
        checks.push(system::time_service());
        checks.sort_by_key(|check| check.part);
        Ok(checks)
    })?;
    show(context, &checks)?;
    Ok(match worst(&checks) {
        State::Wrong => Exit::Unfit,
        State::Ok | State::NotChecked | State::Warning => Exit::Done,
    })
}

/// Store, queue, audit log and KMS.
async fn parts(context: &Context, arguments: &Arguments) -> Vec<Check> {
    let limit = Duration::from_secs(arguments.timeout);
    let config = context.config();
    let opened = open(limit, context.store()).await;
    let (mut checks, timing) = store::check(&opened, config, &context.clock, limit).await;
    // A store that did not answer once is not asked again.
    let answers = checks
        .iter()
        .all(|c| c.part != Part::Timing || c.state != State::NotChecked);
    checks.push(match config.queue.kind {
        QueueKind::Sqlite => queue::embedded(&open(limit, context.queue()).await, limit).await,
        QueueKind::Sqs => {
            let asking = wiring::queue_facts(config, &context.clock);
            queue::sqs(open(limit, async { Ok(asking.await?) }).await)
        }
    });
    let service = "rekeyd doctor";
    let audit = wiring::audit_as(config, service, &config.kms.caller, None, &context.clock)
        .map_err(|error| broken(&error.into()));
    checks.push(system::audit(&match &audit {
        Ok(log) => Ok(log.path().to_path_buf()),
        Err(broken) => Err(broken.clone()),
    }));
    let needs = |what: &str| {
        let says = format!("the CMKs of the organizations: needs {what}");
        Check::not_checked(Part::Kms, says)
    };
    match (&opened, &audit) {
        (Ok(store), Ok(audit)) if answers => {
            let skew_ms = timing.map_or(0, |t| t.max_skew_ms);
            checks.extend(cmks(context, arguments, store, audit, skew_ms).await);
        }
        (Ok(_), Err(_)) if answers => {
            checks.push(needs(
                "the audit log, for what cannot be recorded is not done",
            ));
        }
        _ => checks.push(needs("the store")),
    }
    if let Ok(audit) = audit
        && let Err(error) = audit.close().await
    {
        checks.push(broken(&error.into()).check(Part::Audit));
    }
    checks
}

async fn cmks(
    context: &Context,
    arguments: &Arguments,
    store: &SharedStore,
    audit: &AuditLog,
    skew_ms: u64,
) -> Vec<Check> {
    let limit = Duration::from_secs(arguments.timeout);
    // A worker waits for a KMS that is away; here that is the answer.
    let mut config = context.config().clone();
    config.kms.give_up_s = config.kms.give_up_s.min(arguments.timeout);
    let registry = Registry::new(store.clone(), context.clock.clone());
    let book = JobBook::new(store.clone(), context.clock.clone());
    let listing = keys::entered(&registry, &book, arguments.org.as_ref());
    let entered = match open(limit, async { Ok(listing.await?) }).await {
        Ok(entered) => entered,
        Err(broken) => return vec![broken.check(Part::Kms)],
    };
    let mut checks = Vec::new();
    if skew_ms > 0 {
        checks.extend(keys::clock_behind(&entered, &context.clock, skew_ms));
    }
    let making = wiring::kms(&config, &config.kms.caller, audit, &context.clock);
    let kms = match open(limit, async { Ok(making.await?.0) }).await {
        Ok(kms) => kms,
        Err(broken) => {
            checks.push(broken.check(Part::Kms));
            let says = "the CMKs of the organizations: needs the KMS";
            checks.push(Check::not_checked(Part::Kms, says));
            return checks;
        }
    };
    if entered.is_empty() {
        let says = "no organization is entered: there is no CMK to try";
        checks.push(Check::not_checked(Part::Kms, says));
    }
    let asking = Asking {
        kms: &*kms,
        kind: config.kms.kind,
        mode: match arguments.mode {
            Rights::Reencrypt => Mode::Reencrypt,
            Rights::Rewrap => Mode::Rewrap,
        },
        limit,
    };
    for org in &entered {
        checks.extend(keys::check(&asking, org).await);
    }
    checks
}

/// Opens a part, or says why it cannot be.
async fn open<T>(
    limit: Duration,
    opening: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Broken> {
    match tokio::time::timeout(limit, opening).await {
        Ok(opened) => opened.map_err(|failure| broken(&failure)),
        Err(_) => Err(Broken {
            what: format!("no answer within {} s", limit.as_secs()),
            fix: "see that it runs and that this machine reaches it".to_owned(),
        }),
    }
}

fn broken(failure: &Failure) -> Broken {
    use miette::Diagnostic;
    Broken {
        what: failure.to_string(),
        fix: failure.help().map_or_else(
            || "mend what it says, and look again".to_owned(),
            |help| help.to_string(),
        ),
    }
}

fn show(context: &Context, checks: &[Check]) -> Result<(), Failure> {
    let count = |state| checks.iter().filter(|c| c.state == state).count();
    let programs = json!({
        "ok": count(State::Ok), "warnings": count(State::Warning),
        "wrong": count(State::Wrong), "not_checked": count(State::NotChecked),
        "checks": checks,
    });
    context.out.show(&programs, || {
        let mut text = String::new();
        for check in checks {
            let state = check.state.in_words();
            text += &format!("{state:<11}  {:<13}  ", check.part.as_str());
            if let (Some(org), Some(cmk)) = (&check.org, &check.cmk) {
                text += &format!("{org} {cmk} ");
            }
            text += &check.says;
            text += "\n";
            if let Some(fix) = &check.fix {
                text += &format!("{:26}  mend: {fix}\n", "");
            }
        }
        text += &format!(
            "\n{} ok, {} warnings, {} wrong, {} not checked",
            count(State::Ok),
            count(State::Warning),
            count(State::Wrong),
            count(State::NotChecked)
        );
        text
    })
}
