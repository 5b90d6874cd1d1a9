//! ARCHITECTURE.md against the source: no arrow that it forbids, nothing in it
//! that is not there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What may name every other part.
const EVERYTHING: &str = "everything";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page() -> String {
    std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap()
}

/// The rows of the first table under a heading, cell by cell, without its head.
fn table(page: &str, heading: &str) -> Vec<Vec<String>> {
    let (_, after) = page
        .split_once(&format!("\n## {heading}\n"))
        .unwrap_or_else(|| panic!("ARCHITECTURE.md has no heading `{heading}`"));
    let rows: Vec<Vec<String>> = after
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| {
            line.trim_matches('|')
                .split('|')
                .map(|cell| cell.trim().to_owned())
                .collect()
        })
        .collect();
    assert!(!rows.is_empty(), "no table under `{heading}`");
    rows
}

/// What stands between backticks.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// A file of `src`: its path there without `.rs` (`mod.rs` is its folder), and
/// its code without comments and tests.
struct Source {
    path: String,
    code: String,
}

impl Source {
    /// The folder or file right under `src`.
    fn part(&self) -> &str {
        self.path.split('/').next().unwrap()
    }
}

fn sources() -> Vec<Source> {
    let src = root().join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    let mut sources = Vec::new();
    for file in files {
        let path = file.strip_prefix(&src).unwrap().with_extension("");
        let path = path.to_str().unwrap().replace('\\', "/");
        if path.split('/').any(|name| name == "tests") {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        let code: Vec<&str> = text
            .lines()
            .take_while(|line| !line.starts_with("mod tests {"))
            .filter(|line| !line.trim_start().starts_with("//"))
            .map(|line| line.split(" // ").next().unwrap())
            .collect();
        sources.push(Source {
            path: path.trim_end_matches("/mod").to_owned(),
            code: code.join("\n"),
        });
    }
    sources
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The parts of the crate that code names, as `root::part` or `root::{a, b}`.
fn parts_named(code: &str, root: &str) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    let start = format!("{root}::");
    for (at, _) in code.match_indices(&start) {
        if code[..at].ends_with(is_name) {
            continue;
        }
        let rest = &code[at + start.len()..];
        let Some(list) = rest.strip_prefix('{') else {
            named.insert(rest.chars().take_while(|c| is_name(*c)).collect());
            continue;
        };
        let mut depth = 0;
        let mut first = true;
        let mut name = String::new();
        for c in list.chars() {
            match c {
                '}' if depth == 0 => break,
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    named.insert(std::mem::take(&mut name));
                    first = true;
                }
                c if depth == 0 && first && is_name(c) => name.push(c),
                ':' => first = false,
                _ => {}
            }
        }
        named.insert(name);
    }
    named.remove("");
    named
}

#[test]
fn names_are_found_in_every_way_of_writing_them() {
    let code = "use crate::{a, b::c, d::{e, f}};\nuse crate::g::h;\nlet x = crate::i::j();\n\
                mycrate::k::l();";
    let found: Vec<String> = parts_named(code, "crate").into_iter().collect();
    assert_eq!(found, ["a", "b", "d", "g", "i"]);
}

#[test]
fn no_part_uses_what_it_may_not() {
    let page = page();
    let mut may: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut everything = BTreeSet::new();
    for row in table(&page, "What may depend on what") {
        let part = quoted(&row[0])[0].to_owned();
        if row[2] == EVERYTHING {
            everything.insert(part.clone());
        }
        let uses = quoted(&row[2]).into_iter().map(str::to_owned).collect();
        assert!(may.insert(part.clone(), uses).is_none(), "{part} twice");
    }
    let sources = sources();
    let there: BTreeSet<&str> = sources
        .iter()
        .map(Source::part)
        .filter(|part| *part != "lib")
        .collect();
    let listed: BTreeSet<&str> = may.keys().map(String::as_str).collect();
    assert_eq!(there, listed, "the parts of src and the parts in the table");

    let mut wrong = Vec::new();
    let mut arrows = 0;
    for source in sources.iter().filter(|s| s.part() != "lib") {
        let part = source.part();
        let root = if part == "main" { "rekeyd" } else { "crate" };
        for used in parts_named(&source.code, root) {
            if used == part || !there.contains(used.as_str()) {
                continue;
            }
            arrows += 1;
            if !everything.contains(part) && !may[part].contains(&used) {
                wrong.push(format!("src/{}: {part} -> {used}", source.path));
            }
        }
    }
    // Fewer would mean that this test has become blind.
    assert!(arrows > 200, "only {arrows} arrows were found");
    assert!(
        wrong.is_empty(),
        "ARCHITECTURE.md does not allow:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn what_one_place_knows_no_other_names() {
    let sources = sources();
    let mut wrong = Vec::new();
    for row in table(&page(), "What only one place knows") {
        let known = quoted(&row[0])[0];
        let places = quoted(&row[1]);
        // A backend is known where it is, and to the folder it is in.
        let own = known.strip_prefix("crate::").map(|m| m.replace("::", "/"));
        let mut found = false;
        for source in &sources {
            let names = source.code.match_indices(known).any(|(at, _)| {
                let (before, after) = (&source.code[..at], &source.code[at + known.len()..]);
                !before.ends_with(|c| is_name(c) || c == ':') && after.starts_with("::")
            });
            let lies_in =
                |place: &str| source.path == place || source.path.starts_with(&format!("{place}/"));
            found |= names;
            if names && !places.iter().any(|p| lies_in(p)) && !own.iter().any(|p| lies_in(p)) {
                wrong.push(format!("src/{}: {known}", source.path));
            }
        }
        assert!(found, "nothing in src names `{known}`");
    }
    assert!(
        wrong.is_empty(),
        "ARCHITECTURE.md does not allow:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn the_invariants_name_files_and_tests_that_are_there() {
    let mut files = Vec::new();
    rust_files(&root().join("src"), &mut files);
    rust_files(&root().join("tests"), &mut files);
    let all: String = files
        .iter()
        .map(|file| std::fs::read_to_string(file).unwrap())
        .collect();
    let rows = table(&page(), "Invariants");
    let names: Vec<String> = rows.iter().map(|row| row[0].clone()).collect();
    let expected: Vec<String> = (1..=16).map(|n| format!("I{n}")).collect();
    assert_eq!(names, expected);
    for row in rows {
        let (kept_by, held_by) = (quoted(&row[2]), quoted(&row[3]));
        assert!(!kept_by.is_empty(), "{}: kept by nothing", row[0]);
        for file in kept_by {
            assert!(root().join(file).is_file(), "{}: no file {file}", row[0]);
        }
        for test in held_by {
            let there = all.contains(&format!("fn {test}("));
            assert!(there, "{}: no test {test}", row[0]);
        }
    }
}
