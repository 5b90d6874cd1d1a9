//! The runbooks, the page for beginners and that of sizes, played word for word: each command
//! is run in a shell, on a store of its own, and what it prints and how it ends
//! is what the page says. `runbooks/README.md` says how blocks are written.
//!
//! | file | what |
//! |---|---|
//! | `page` | a page's blocks and commands |
//! | `shell` | the shell that a page is played in |
//! | `expect` | what is printed against what the page says |
//! | `play` | one page, from its first command to its last |
//! | `parsed` | commands that are only looked at |
//! | `json` | what commands print for programs, against docs/schemas |
//!
//! `UPDATE_DOCS=1 cargo test --test books` writes what was printed into the
//! pages, for a person to read over. `BOOK=slow` plays the pages alone whose
//! names contain that.

mod expect;
mod json;
mod page;
mod parsed;
mod play;
#[path = "../schema/mod.rs"]
mod schema;
mod shell;

use std::path::{Path, PathBuf};

use page::{Kind, Page};

/// Every runbook begins on the store that this page makes.
const TRIAL_STORE: &str = "runbooks/README.md";
/// Played besides the runbooks.
const OTHERS: [&str; 3] = [
    "docs/getting-started.md",
    "docs/sizing.md",
    "tests/books/other-commands.md",
];
/// Those that only say that they run, go on for minutes, or need a cluster.
const NOT_PLAYED: [&str; 5] = ["demo", "chaos", "kms serve", "schema print", "schema apply"];
/// Played from nothing.
const FROM_NOTHING: [&str; 2] = [TRIAL_STORE, "docs/getting-started.md"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The pages under a folder, by name.
fn pages_in(folder: &str) -> Vec<String> {
    let mut found: Vec<String> = std::fs::read_dir(root().join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".md"))
        .map(|name| format!("{folder}/{name}"))
        .collect();
    found.sort();
    found
}

fn read(path: &str) -> Page {
    let text = std::fs::read_to_string(root().join(path)).unwrap();
    Page::read(path, &text)
}

fn asked_for(path: &str) -> bool {
    std::env::var("BOOK").map_or(true, |part| path.contains(&part))
}

#[test]
fn every_command_does_what_its_page_says() {
    let mut paths = pages_in("runbooks");
    paths.extend(OTHERS.map(str::to_owned));
    paths.retain(|path| asked_for(path));
    // All at once: they wait much longer than they work.
    let plays: Vec<_> = paths
        .into_iter()
        .map(|path| {
            std::thread::spawn(move || {
                let before = (!FROM_NOTHING.contains(&path.as_str())).then(|| read(TRIAL_STORE));
                play::play(&read(&path), before.as_ref())
            })
        })
        .collect();
    let mut wrong = Vec::new();
    for play in plays {
        let played = play.join().unwrap();
        println!("{}", played.summary());
        wrong.extend(played.wrong);
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n\n"));
}

/// So that what it prints for people is compared somewhere.
#[test]
fn every_command_is_in_a_page_that_is_played() {
    let mut paths = pages_in("runbooks");
    paths.extend(OTHERS.map(str::to_owned));
    let scripts: Vec<String> = paths
        .iter()
        .flat_map(|path| read(path).blocks)
        .filter(|block| block.kind == Kind::Run)
        .flat_map(|block| block.commands)
        .map(|command| command.script)
        .collect();
    for command in rekeyd::cli::reference::commands() {
        let shown = format!("rekeyd {command} ");
        let is_shown = scripts.iter().any(|s| format!("{s} ").contains(&shown));
        assert!(
            is_shown != NOT_PLAYED.contains(&command.as_str()),
            "`rekeyd {command}` is to be in a page that is played (tests/books/other-commands.md \
             is for those that no runbook needs), or to stand among those that are not"
        );
    }
}

#[test]
fn every_runbook_has_its_five_parts() {
    for path in pages_in("runbooks") {
        if path == TRIAL_STORE {
            continue;
        }
        let text = std::fs::read_to_string(root().join(&path)).unwrap();
        let parts: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("## "))
            .collect();
        assert_eq!(
            parts,
            ["Meaning", "Impact", "Diagnosis", "Mitigation", "Rollback"],
            "{path}"
        );
    }
}

/// Everywhere else commands are shown without what they print: that each is one
/// of ours, with flags that exist, is what can be held.
#[test]
fn every_command_of_other_pages_is_understood() {
    let mut paths = pages_in("docs");
    paths.retain(|path| !OTHERS.contains(&path.as_str()));
    for path in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"] {
        paths.push(path.to_owned());
    }
    paths.retain(|path| asked_for(path));
    let (mut understood, mut wrong) = (0, Vec::new());
    for path in paths {
        let looked = parsed::look_at(&read(&path), |_| true);
        println!("{}", looked.summary(&path));
        understood += looked.understood.len();
        wrong.extend(looked.wrong);
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n\n"));
    assert!(
        understood > 40 || std::env::var("BOOK").is_ok(),
        "only {understood} commands were found"
    );
}

/// Where a page is played: a directory of its own, with what a checkout has that
/// pages name.
fn stage() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let stage = dir.path().join("stage");
    std::fs::create_dir(&stage).unwrap();
    for name in ["examples", "config"] {
        std::os::unix::fs::symlink(root().join(name), stage.join(name)).unwrap();
    }
    (dir, stage)
}
