//! One page, from its first command to its last.

use std::collections::BTreeSet;

use crate::expect::{self, Values};
use crate::json;
use crate::page::{Command, Kind, Page};
use crate::parsed;
use crate::shell::{Ended, Shell};

/// What came of a page.
pub struct Played {
    path: String,
    run: usize,
    unseen: usize,
    /// Commands that were run once more for programs.
    again: usize,
    looked: parsed::Looked,
    pub wrong: Vec<String>,
    /// What was printed where the page says otherwise, and where that stands.
    updates: Vec<((usize, usize), Vec<String>)>,
}

impl Played {
    pub fn summary(&self) -> String {
        format!(
            "{}: {} commands run and compared ({} of them for programs too), {} run unseen; {}",
            self.path,
            self.run,
            self.again,
            self.unseen,
            self.looked.words()
        )
    }

    /// Runs a command, and notes what came of it; `false` if it has no end.
    fn one(&mut self, page: &Page, kind: Kind, command: &Command, shell: &mut Shell) -> bool {
        let unseen = kind == Kind::Unseen;
        let Some(ended) = shell.run(&command.script, unseen) else {
            let (path, line, script) = (&page.path, command.line, &command.script);
            self.wrong
                .push(format!("{path}:{line}: has no end: {script}"));
            return false;
        };
        let values = values(page, shell);
        let good = ended.exit == command.exit
            && (unseen || expect::agree(&command.printed, &ended.printed, &values));
        if !good {
            self.wrong.push(told(page, command, &ended));
        }
        if page.path != self.path {
            return true;
        }
        if unseen {
            self.unseen += 1;
            return true;
        }
        self.run += 1;
        if !good {
            self.updates
                .push((command.span, update(command, &ended, &values)));
        }
        if let Some(misfit) = json::look_again(shell, &command.script) {
            self.again += 1;
            self.wrong.extend(misfit);
        }
        true
    }
}

/// Plays a page in a shell of its own, after the page that makes its store.
pub fn play(page: &Page, before: Option<&Page>) -> Played {
    let (dir, stage) = crate::stage();
    let mut looked = parsed::look_at(page, |block| block.kind == Kind::Shown);
    let mut played = Played {
        path: page.path.clone(),
        run: 0,
        unseen: 0,
        again: 0,
        wrong: std::mem::take(&mut looked.wrong),
        looked,
        updates: Vec::new(),
    };
    for line in &page.plain {
        played.wrong.push(format!(
            "{}:{line}: a block that nobody runs: make it `console`",
            page.path
        ));
    }
    let mut shell = Shell::start(&stage, dir.path());
    for page in before.into_iter().chain([page]) {
        for block in page.blocks.iter().filter(|b| b.kind != Kind::Shown) {
            for command in &block.commands {
                if !played.one(page, block.kind, command, &mut shell) {
                    return played;
                }
            }
        }
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        write_into(&page.path, std::mem::take(&mut played.updates));
    }
    played
}

/// What the shell has for the names of a page.
fn values(page: &Page, shell: &mut Shell) -> Values {
    names(page)
        .into_iter()
        .filter_map(|name| {
            let variable = name.to_uppercase().replace('-', "_");
            let value = shell.value(&variable)?;
            Some((name, value))
        })
        .collect()
}

/// Names that a page has for values of variables.
fn names(page: &Page) -> BTreeSet<String> {
    let variable = regex_lite::Regex::new(r"\b([A-Z][A-Z0-9_]*)=").unwrap();
    let mut names = BTreeSet::new();
    for command in page.blocks.iter().flat_map(|block| &block.commands) {
        for line in &command.printed {
            names.extend(expect::names(line));
        }
        for found in variable.captures_iter(&command.script) {
            names.insert(found[1].to_lowercase().replace('_', "-"));
        }
    }
    // Made by the page before; whoever plays on uses them.
    names.extend(["old".to_owned(), "new".to_owned()]);
    names
}

fn told(page: &Page, command: &Command, ended: &Ended) -> String {
    format!(
        "{}:{}: $ {}\n--- the page says, with exit code {}:\n{}\n--- printed, with exit code {}:\n{}",
        page.path,
        command.line,
        command.script,
        command.exit,
        command.printed.join("\n").trim_end(),
        ended.exit,
        ended.printed.trim_end()
    )
}

fn update(command: &Command, ended: &Ended, values: &Values) -> Vec<String> {
    let mut lines = expect::written(&ended.printed, values);
    if ended.exit != 0 {
        lines.push(format!("[exit code {}]", ended.exit));
    }
    let blank = command.printed.iter().rev().take_while(|l| l.is_empty());
    lines.extend(blank.map(|_| String::new()));
    lines
}

/// Puts what was printed in the place of what a page said.
fn write_into(path: &str, updates: Vec<((usize, usize), Vec<String>)>) {
    let path = crate::root().join(path);
    let text = std::fs::read_to_string(&path).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for ((from, to), new) in updates.into_iter().rev() {
        let command = &lines[from - 1];
        let indent = " ".repeat(command.len() - command.trim_start().len());
        let new = new.into_iter().map(|line| match line.is_empty() {
            true => line,
            false => format!("{indent}{line}"),
        });
        lines.splice(from..to, new);
    }
    std::fs::write(&path, lines.join("\n") + "\n").unwrap();
}
