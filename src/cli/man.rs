//! `rekeyd man`: manual pages, made from the command line itself.

use std::path::PathBuf;

use clap::CommandFactory;
use serde_json::json;

use crate::cli::exit::Exit;
use crate::cli::out::Out;
use crate::cli::report::{self, Failure};

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  rekeyd man --dir /usr/local/share/man/man1 && man rekeyd-throttle-set\n  \
                  rekeyd man | man -l -"
)]
pub(super) struct Arguments {
    /// Write a page for each command into this directory; without it the page of
    /// `rekeyd` itself is printed.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn run(out: Out, arguments: &Arguments) -> Result<Exit, Failure> {
    let pages = pages();
    let Some(dir) = &arguments.dir else {
        let (_, page) = &pages[0];
        out.show(&json!({ "page": page }), || page.clone())?;
        return Ok(Exit::Done);
    };
    let failed = |error| report::system(&format!("cannot write to `{}`", dir.display()), error);
    std::fs::create_dir_all(dir).map_err(failed)?;
    for (name, page) in &pages {
        std::fs::write(dir.join(name), page).map_err(failed)?;
    }
    let names: Vec<&String> = pages.iter().map(|(name, _)| name).collect();
    out.show(&json!({ "dir": dir, "pages": names }), || {
        format!("{} pages are in {}", names.len(), dir.display())
    })?;
    Ok(Exit::Done)
}

/// File names and pages, that of `rekeyd` first.
fn pages() -> Vec<(String, String)> {
    fn walk(command: &mut clap::Command, name: &str, pages: &mut Vec<(String, String)>) {
        pages.push((format!("{name}.1"), page(command, name)));
        for inner in command.get_subcommands_mut().filter(|c| !c.is_hide_set()) {
            if inner.get_name() != "help" {
                let name = format!("{name}-{}", inner.get_name());
                walk(inner, &name, pages);
            }
        }
    }
    let mut command = super::Arguments::command();
    // Puts the flags that are for all commands into each.
    command.build();
    let mut pages = Vec::new();
    walk(&mut command, "rekeyd", &mut pages);
    pages
}

fn page(command: &mut clap::Command, name: &str) -> String {
    let man = clap_mangen::Man::new(command.clone().display_name(name))
        .title(name)
        .source(concat!("rekeyd ", env!("CARGO_PKG_VERSION")));
    let mut page = Vec::new();
    // Writing to memory does not fail.
    let _ = man.render(&mut page);
    let page = String::from_utf8_lossy(&page);
    format!("{page}.SH EXIT STATUS\n`rekeyd explain <number>` says what each means.\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_of_known_requests() {
        let pages = pages();
        assert_eq!(pages[0].0, "rekeyd.1");
        for name in [
            "rekeyd-status.1",
            "rekeyd-throttle-set.1",
            "rekeyd-org-add.1",
        ] {
            assert!(pages.iter().any(|(page, _)| page == name), "no {name}");
        }
        for (name, page) in &pages {
            assert!(
                page.contains(".SH NAME\n") && page.contains(".SH SYNOPSIS\n"),
                "{name}"
            );
            assert!(!page.contains("end\\-with"), "{name} shows a hidden flag");
        }
    }
}
