//! Defaults, file, environment and flags, one over the other.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Problem, Source};
use super::schema::{Default, ENV_PREFIX, KEYS, Key, OTHER_VARIABLES, Value, nearest};

/// What was set for a key, and where. `None`: switched off there.
pub type Settings = BTreeMap<&'static str, (Option<Value>, Source)>;

/// Collects the layers; a later one wins.
#[derive(std::default::Default)]
pub struct Layers {
    set: Settings,
    problems: Vec<Problem>,
}

impl Layers {
    /// Takes a configuration file.
    pub fn file(&mut self, path: &Path) {
        match std::fs::read_to_string(path) {
            Ok(text) => self.text(path, &text),
            Err(error) => self.problems.push(Problem::Unreadable {
                path: path.to_owned(),
                error: error.to_string(),
            }),
        }
    }

    /// Takes the text of a configuration file.
    pub fn text(&mut self, path: &Path, text: &str) {
        let at = |offset: usize| Source::File {
            path: path.to_owned(),
            line: 1 + text.bytes().take(offset).filter(|b| *b == b'\n').count(),
        };
        match DeTable::parse(text) {
            Ok(table) => self.table("", table.get_ref(), &at),
            Err(error) => self.problems.push(Problem::Syntax {
                at: at(error.span().map_or(0, |span| span.start)),
                error: error.message().to_owned(),
            }),
        }
    }

    fn table(&mut self, section: &str, table: &DeTable<'_>, at: &dyn Fn(usize) -> Source) {
        for (name, value) in table {
            let place = at(name.span().start);
            let is_section =
                |s: &str| section.is_empty() && KEYS.iter().any(|key| key.parts().0 == s);
            match value.get_ref() {
                DeValue::Table(inner) if is_section(name.get_ref()) => {
                    self.table(name.get_ref(), inner, at);
                }
                _ => self.entry(section, name.get_ref(), value, place),
            }
        }
    }

    fn entry(&mut self, section: &str, name: &str, value: &Spanned<DeValue<'_>>, at: Source) {
        let full = if section.is_empty() {
            name.to_owned()
        } else {
            format!("{section}.{name}")
        };
        let Some(key) = Key::named(&full) else {
            // A whole section that is wrong is compared with the sections.
            let suggestion = match value.get_ref() {
                DeValue::Table(_) => nearest(&full, KEYS.iter().map(|key| key.parts().0)),
                // `store = "x"`: the section's first setting is what is meant.
                _ => KEYS
                    .iter()
                    .find(|key| key.parts().0 == full)
                    .map(|key| key.name)
                    .or_else(|| nearest(&full, KEYS.iter().map(|key| key.name))),
            };
            self.problems.push(Problem::Unknown {
                at,
                name: full,
                suggestion: suggestion.map(str::to_owned),
            });
            return;
        };
        let (checked, given) = match value.get_ref() {
            DeValue::Integer(n) => {
                let n = i128::from_str_radix(n.as_str(), n.radix()).ok();
                (
                    n.and_then(|n| key.check_int(n)),
                    n.map_or("a number".into(), |n| n.to_string()),
                )
            }
            DeValue::String(text) if text.is_empty() && key.is_optional() => {
                self.set.insert(key.name, (None, at));
                return;
            }
            DeValue::String(text) => (key.check_text(text), quoted(text)),
            DeValue::Float(n) => (None, n.as_str().to_owned()),
            DeValue::Boolean(b) => (None, b.to_string()),
            DeValue::Datetime(_) => (None, "a date".to_owned()),
            DeValue::Array(_) => (None, "a list".to_owned()),
            DeValue::Table(_) => (None, "a section".to_owned()),
        };
        self.take(key, checked, given, at);
    }

    /// Takes the variables that start with `REKEYD_`; the rest is not ours.
    pub fn environment(&mut self, vars: impl IntoIterator<Item = (OsString, OsString)>) {
        for (name, value) in vars {
            let name = name.to_string_lossy().into_owned();
            if !name.starts_with(ENV_PREFIX) || OTHER_VARIABLES.contains(&name.as_str()) {
                continue;
            }
            let at = Source::Environment(name.clone());
            let Some(key) = KEYS.iter().find(|key| key.env() == name) else {
                let dotted = name[ENV_PREFIX.len()..].replace("__", ".").to_lowercase();
                let suggestion = nearest(&dotted, KEYS.iter().map(|key| key.name))
                    .and_then(Key::named)
                    .map(Key::env);
                self.problems.push(Problem::Unknown {
                    at,
                    name,
                    suggestion,
                });
                continue;
            };
            match value.to_str() {
                Some(text) => self.untyped(key, text, at),
                None => self.take(key, None, "bytes that are not UTF-8".to_owned(), at),
            }
        }
    }

    /// Takes what the command line sets, as setting and value.
    pub fn flags<'a>(&mut self, flags: impl IntoIterator<Item = (&'a str, &'a str)>) {
        for (name, value) in flags {
            let at = Source::Flag(name.to_owned());
            match Key::named(name) {
                Some(key) => self.untyped(key, value, at),
                None => self.problems.push(Problem::Unknown {
                    at,
                    name: name.to_owned(),
                    suggestion: nearest(name, KEYS.iter().map(|key| key.name)).map(str::to_owned),
                }),
            }
        }
    }

    fn untyped(&mut self, key: &'static Key, text: &str, at: Source) {
        if text.is_empty() && key.is_optional() {
            self.set.insert(key.name, (None, at));
        } else {
            self.take(key, key.check_untyped(text), quoted(text), at);
        }
    }

    fn take(&mut self, key: &'static Key, value: Option<Value>, given: String, at: Source) {
        match value {
            Some(value) => {
                self.set.insert(key.name, (Some(value), at));
            }
            None => self.problems.push(Problem::Value {
                at,
                name: key.name,
                allowed: key.allowed(),
                given,
            }),
        }
    }

    /// Fills in the defaults and returns every setting, or all that is wrong.
    pub fn finish(mut self) -> Result<Settings, ConfigError> {
        // `data_dir` stands first in the list, so it is known when the paths
        // that start from it are filled in.
        for key in KEYS {
            if self.set.contains_key(key.name) {
                continue;
            }
            let value = match key.default {
                Default::None => None,
                Default::Int(n) => Some(Value::Int(n)),
                Default::Text(text) => Some(Value::Text(text.to_owned())),
                Default::InDataDir(name) => {
                    let dir = match self.set.get("data_dir") {
                        Some((Some(Value::Text(dir)), _)) => dir.as_str(),
                        _ => ".",
                    };
                    Path::new(dir)
                        .join(name)
                        .to_str()
                        .map(|path| Value::Text(path.to_owned()))
                }
            };
            self.set.insert(key.name, (value, Source::Default));
        }
        self.check_together();
        if self.problems.is_empty() {
            Ok(self.set)
        } else {
            Err(ConfigError(self.problems))
        }
    }

    /// Rules between settings.
    fn check_together(&mut self) {
        let int = |name| match self.set.get(name) {
            Some((Some(Value::Int(n)), at)) => Some((*n, at.clone())),
            _ => None,
        };
        if let (Some((page, page_at)), Some((all, all_at))) =
            (int("worker.page_bytes"), int("worker.bytes_in_flight"))
            && page > all
        {
            let at = if page_at == Source::Default {
                all_at
            } else {
                page_at
            };
            self.problems.push(Problem::Value {
                at,
                name: "worker.page_bytes",
                allowed: format!("at most worker.bytes_in_flight, {all}"),
                given: page.to_string(),
            });
        }
        for (name, why, needed_by) in NEEDED {
            let is_set = matches!(self.set.get(name), Some((Some(_), _)));
            let by = KEYS
                .iter()
                .filter_map(|key| match self.set.get(key.name) {
                    Some((Some(Value::Text(text)), at)) => Some((key.name, text.as_str(), at)),
                    _ => None,
                })
                .find(|(key, text, _)| {
                    needed_by.contains(&(*key, *text)) || needed_by.contains(&(*key, ""))
                });
            if let (false, Some((_, _, at))) = (is_set, by)
                && let Some(key) = Key::named(name)
            {
                self.problems.push(Problem::Value {
                    at: at.clone(),
                    name: key.name,
                    allowed: format!("{} {why}", key.allowed()),
                    given: "not set".to_owned(),
                });
            }
        }
    }
}

/// Settings that others need: name, why in words, and the settings (with their
/// value; empty for any) that need it.
type Need = (
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
);
const NEEDED: [Need; 5] = [
    (
        "aws.profile",
        "where aws.credentials_file is set",
        &[("aws.credentials_file", "")],
    ),
    (
        "store.nodes",
        "where store.kind is a cluster",
        &[("store.kind", "scylla"), ("store.kind", "cassandra")],
    ),
    (
        "queue.url",
        "where queue.kind is `sqs`",
        &[("queue.kind", "sqs")],
    ),
    (
        "store.tls_key",
        "where store.tls_cert is set",
        &[("store.tls_cert", "")],
    ),
    (
        "store.tls_cert",
        "where store.tls_key is set",
        &[("store.tls_key", "")],
    ),
];

fn quoted(text: &str) -> String {
    let short: String = text.chars().take(80).collect();
    format!("{short:?}")
}
