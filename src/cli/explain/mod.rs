//! `rekeyd explain`
//!
//! | file | what |
//! |---|---|
//! | `codes` | every code in words |

mod codes;

use serde_json::json;

use crate::cli::exit::Exit;
use crate::cli::out::{self, Out};
use crate::cli::report::Failure;
use codes::{Explained, all};

/// A code that is less like the one asked for was not meant.
const ALIKE: f64 = 0.85;

#[derive(clap::Args)]
#[command(
    after_help = "A code is a word from an error, from `rekeyd failures` or from a refused message, \
                  or the number that a command ended with. Without one, all are listed.\n\n\
                  Examples:\n  rekeyd explain tag_mismatch\n  rekeyd explain 10\n  rekeyd explain"
)]
pub(super) struct Arguments {
    /// The code.
    code: Option<String>,
}

pub(super) fn run(out: Out, arguments: &Arguments) -> Result<Exit, Failure> {
    let found = match &arguments.code {
        Some(code) => find(code)?,
        None => all().collect(),
    };
    out.show(&json!({ "codes": found }), || match arguments.code {
        Some(_) => found.iter().map(in_words).collect::<Vec<_>>().join("\n"),
        None => out::table(
            ["code", "meaning"],
            found
                .iter()
                .map(|e| [e.code.to_owned(), e.meaning.to_owned()]),
        ),
    })?;
    Ok(Exit::Done)
}

fn in_words(e: &Explained) -> String {
    format!(
        "{}: {}\n  where  {}\n  cause  {}\n  next   {}\n",
        e.code,
        e.meaning,
        e.of.in_words(),
        e.cause,
        e.next
    )
}

/// What a code means, in each place where it is met.
fn find(asked: &str) -> Result<Vec<Explained>, Failure> {
    // As an error shows it, with what a KMS added, or as an exit code.
    let code = asked.trim().trim_start_matches("rekeyd::");
    let code = code.split(':').next().unwrap_or(code).to_lowercase();
    let exit = code.parse::<u8>().ok();
    let exit = Exit::ALL.into_iter().find(|e| Some(e.number()) == exit);
    let code = exit.map_or(code, |exit| exit.as_str().to_owned());
    let with = |code: &str| all().filter(|e| e.code == code).collect::<Vec<_>>();
    let mut found = with(&code);
    if let (true, Some(of_source)) = (found.is_empty(), code.strip_prefix("source_")) {
        // Preflight says what is wrong with the active CMK in the same words.
        found = with(of_source);
    }
    if !found.is_empty() {
        return Ok(found);
    }
    let near = all().max_by(|a, b| {
        let near = |e: &Explained| strsim::jaro_winkler(&code, e.code);
        near(a).total_cmp(&near(b))
    });
    let near = near
        .filter(|e| strsim::jaro_winkler(&code, e.code) >= ALIKE)
        .map_or(String::new(), |e| format!("did you mean `{}`? ", e.code));
    Err(
        Failure::new(Exit::NotFound, format!("there is no code `{asked}`"))
            .help(format!("{near}`rekeyd explain` lists all")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    /// The source without this folder, file by file.
    fn sources() -> Vec<(String, String)> {
        fn walk(dir: &Path, found: &mut Vec<(String, String)>) {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let name = path.to_str().unwrap().to_owned();
                if path.is_dir() && !name.ends_with("cli/explain") {
                    walk(&path, found);
                } else if name.ends_with(".rs") {
                    found.push((name, std::fs::read_to_string(&path).unwrap()));
                }
            }
        }
        let mut found = Vec::new();
        walk(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
            &mut found,
        );
        found
    }

    fn is_code(text: &str) -> bool {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c == '_')
    }

    /// Words that stand between `before` and `after` in a file.
    fn words<'a>(text: &'a str, before: &str, after: &str) -> BTreeSet<&'a str> {
        let parts = text.split(before).skip(1);
        let words = parts.filter_map(|part| Some(part.split_once(after)?.0));
        words.filter(|word| is_code(word)).collect()
    }

    #[test]
    fn every_code_that_is_given_out_is_explained() {
        let explained: BTreeSet<&str> = all().map(|e| e.code).collect();
        let mut given = BTreeSet::new();
        let sources = sources();
        for (name, text) in &sources {
            let code = text.split("mod tests {").next().unwrap();
            if name.ends_with("crypto/error.rs") || name.ends_with("kms/codes.rs") {
                let code = code.replace("=> Some(\"", "=> \"");
                let of_file = words(&code, "=> \"", "\"");
                given.extend(of_file.into_iter().map(str::to_owned));
            }
            // A refusal begins with its code.
            for part in ["worker/", "registry/error", "job/message", "job/envelope"] {
                if name.contains(&format!("src/{part}")) {
                    given.extend(words(code, "\"", ": ").into_iter().map(str::to_owned));
                }
            }
            if name.contains("src/pipeline/") {
                let codes = words(code, "Bad(\"", "\".");
                given.extend(codes.into_iter().map(str::to_owned));
            }
        }
        // Fewer would mean that this test has become blind.
        assert!(
            given.len() > 60,
            "only {} codes were found: {given:?}",
            given.len()
        );
        // Words of those files that are no codes.
        for word in ["store", "audit"] {
            given.remove(word);
        }
        let missing: Vec<&String> = given
            .iter()
            .filter(|code| !explained.contains(code.as_str()))
            .collect();
        assert!(missing.is_empty(), "not explained: {missing:?}");
    }

    #[test]
    fn every_code_that_is_explained_is_given_out_once_for_each_place() {
        let sources = sources();
        let mut seen = BTreeSet::new();
        for e in all() {
            assert!(seen.insert((e.code, e.of)), "{} twice", e.code);
            let used = sources.iter().any(|(_, text)| {
                ["\"", ":", ": "]
                    .iter()
                    .any(|end| text.contains(&format!("\"{}{end}", e.code)))
            });
            assert!(used, "`{}` is given out nowhere", e.code);
            for text in [e.meaning, e.cause, e.next] {
                assert!(
                    !text.is_empty() && !text.ends_with('.'),
                    "{}: {text}",
                    e.code
                );
            }
        }
    }

    #[test]
    fn a_code_is_found_as_it_is_met() {
        let places = |asked: &str| {
            let found = find(asked).unwrap();
            found.iter().map(|e| (e.code, e.of)).collect::<Vec<_>>()
        };
        use codes::Where::*;
        assert_eq!(places("10"), [("must_not_disable", Command)]);
        assert_eq!(places("rekeyd::not_found"), [("not_found", Command)]);
        assert_eq!(places("unknown:SomethingException"), [("unknown", Blocked)]);
        assert_eq!(places("source_cmk_disabled"), [("cmk_disabled", Blocked)]);
        let both = [
            ("cmk_not_allowed", Request),
            ("cmk_not_allowed", Quarantined),
        ];
        assert_eq!(places("cmk_not_allowed"), both);
        let failure = find("tag_missmatch").err().unwrap();
        assert_eq!(failure.exit, Exit::NotFound);
    }
}
