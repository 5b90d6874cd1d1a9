//! Pages that are made from the code, and the links between pages.
//! `UPDATE_DOCS=1 cargo test --test suite docs` writes the former.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rekeyd::cli::reference;
use rekeyd::registry::Timing;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Folders that hold nothing of ours, or no pages.
const NO_PAGES: [&str; 3] = ["target", ".git", "node_modules"];

/// Nobody is sent to a registry to fetch what a name there may hold one day.
const REGISTRIES: [&str; 6] = [
    "crates.io",
    "docs.rs",
    "pypi.org",
    "npmjs.com",
    "hub.docker.com",
    "pkg.go.dev",
];

#[test]
fn docs_of_the_commands_are_as_the_commands_are() {
    let path = root().join(reference::PAGE);
    let page = reference::page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let stands = std::fs::read_to_string(&path).unwrap_or_default();
    let first = stands
        .lines()
        .zip(page.lines())
        .position(|(stands, made)| stands != made);
    assert!(
        stands == page,
        "{} differs from the commands, at line {}; UPDATE_DOCS=1 cargo test --test suite docs \
         writes it",
        reference::PAGE,
        first.unwrap_or_else(|| stands.lines().count()) + 1
    );
}

fn pages(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
        if path.is_dir() && !NO_PAGES.contains(&name.as_str()) {
            pages(&path, found);
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
}

/// The lines of a page that are not in a block of code.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_block = false;
    text.lines().enumerate().filter(move |(_, line)| {
        let fence = line.trim_start().starts_with("```");
        in_block ^= fence;
        !in_block && !fence
    })
}

/// What stands outside of backticks.
fn outside_of_code(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join("`")
}

/// The anchors of a page, as GitHub makes them of its headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let mut anchors = BTreeSet::new();
    for (_, line) in prose(text) {
        let heading = line.trim_start_matches('#');
        if heading.len() == line.len() || !heading.starts_with(' ') {
            continue;
        }
        let slug: String = heading
            .trim()
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let times = seen.entry(slug.clone()).or_default();
        anchors.insert(match *times {
            0 => slug,
            n => format!("{slug}-{n}"),
        });
        *times += 1;
    }
    anchors
}

/// The targets of `[text](target)`.
fn targets(line: &str) -> Vec<String> {
    let line = outside_of_code(line);
    line.split("](")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once(')')?.0.to_owned()))
        .collect()
}

/// What is wrong with one link.
fn wrong_with(page: &Path, target: &str) -> Option<String> {
    if let Some((_, rest)) = target.split_once("://") {
        let host = rest.split('/').next().unwrap_or_default();
        let of_registry = |name: &&&str| host == **name || host.ends_with(&format!(".{name}"));
        return REGISTRIES
            .iter()
            .find(of_registry)
            .map(|name| format!("leads to {name}"));
    }
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let file = match file {
        "" => page.to_owned(),
        file => page.parent().unwrap().join(file),
    };
    if !file.exists() {
        return Some("leads nowhere".to_owned());
    }
    if anchor.is_empty() || file.extension().is_none_or(|e| e != "md") {
        return None;
    }
    let there = anchors(&std::fs::read_to_string(&file).unwrap());
    (!there.contains(anchor)).then(|| format!("there is no heading `#{anchor}`"))
}

#[test]
fn docs_lead_where_they_say() {
    let mut all = Vec::new();
    pages(root(), &mut all);
    let (mut links, mut wrong) = (0, Vec::new());
    for page in &all {
        let text = std::fs::read_to_string(page).unwrap();
        for (n, line) in prose(&text) {
            for target in targets(line) {
                links += 1;
                if let Some(why) = wrong_with(page, &target) {
                    let name = page.strip_prefix(root()).unwrap().display();
                    wrong.push(format!("{name}:{}: ({target}) {why}", n + 1));
                }
            }
        }
    }
    // Fewer would mean that this test has become blind.
    assert!(links > 150, "only {links} links were found");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// A page that no other leads to is found by nobody.
#[test]
fn docs_are_all_listed() {
    for (folder, index) in [
        ("docs", "docs/README.md"),
        ("runbooks", "runbooks/README.md"),
    ] {
        let index_text = std::fs::read_to_string(root().join(index)).unwrap();
        let mut all = Vec::new();
        pages(&root().join(folder), &mut all);
        for page in all {
            let name = page.file_name().unwrap().to_str().unwrap();
            assert!(
                name == "README.md" || index_text.contains(&format!("({name}")),
                "{index} does not lead to {name}"
            );
        }
    }
}

#[test]
fn docs_with_a_wrong_link_are_found_out() {
    let page = root().join("docs/README.md");
    assert_eq!(wrong_with(&page, "../README.md#what-it-does"), None);
    assert_eq!(wrong_with(&page, "https://toml.io"), None);
    for target in [
        "nowhere.md",
        "../README.md#nowhere",
        "#nowhere",
        "https://crates.io/crates/x",
        "https://www.npmjs.com/package/x",
    ] {
        assert!(wrong_with(&page, target).is_some(), "{target}");
    }
    let text = "# A\n## `rekeyd jobs`, and more!\n## A\n```text\n# no\n[x](y)\n```\n";
    let expected = ["a", "a-1", "rekeyd-jobs-and-more"].map(str::to_owned);
    assert_eq!(anchors(text), BTreeSet::from(expected));
    assert_eq!(targets("a [b](c.md) `[d](e)` [f](g#h)"), ["c.md", "g#h"]);
}

/// docs/sizing.md reckons with the waits of the code.
#[test]
fn docs_of_sizes_reckon_with_the_waits_there_are() {
    let page = std::fs::read_to_string(root().join("docs/sizing.md")).unwrap();
    let seconds = |ms: u64| ms / 1000;
    let t = Timing::production();
    let settle = seconds(t.settle_ms());
    let without_l = settle + seconds(t.row_age_ms) + seconds(t.request_timeout_ms);
    let demo = Timing::demo();
    let waits = demo.settle_ms() + demo.row_age_ms + demo.request_timeout_ms + demo.drain_ms;
    for said in [
        format!("= {settle} s |"),
        format!("= {without_l} s |"),
        format!("| L | {},000 s", seconds(t.drain_ms) / 1000),
        format!(
            "{},{:03} ms |",
            demo.settle_ms() / 1000,
            demo.settle_ms() % 1000
        ),
        format!("{},{:03} ms |", waits / 1000, waits % 1000),
    ] {
        assert!(page.contains(&said), "docs/sizing.md does not say `{said}`");
    }
}
