//! The command line as data: its reference page, its commands, and whether it
//! would take a line. For docs/cli-reference.md, and for tests that hold the
//! documentation to it.

use clap::{Arg, Command, CommandFactory, Parser};

use super::Arguments;

/// Where the page is.
pub const PAGE: &str = "docs/cli-reference.md";

const HEAD: &str = "\
# Command reference

Every command with all of its flags, as `--help` shows them. [cli.md](cli.md) says \
what the commands are for, what they print for programs and how they end.

This page is made from the command line itself: `UPDATE_DOCS=1 cargo test --test suite \
docs` writes it, and a test fails where it differs.
";

/// Why a command line would be refused; `None` if it would be taken. The first
/// word is the program's name.
#[must_use]
pub fn refusal(words: &[String]) -> Option<String> {
    let error = Arguments::try_parse_from(words).err()?;
    // Not those that ask for help or for the version.
    error.use_stderr().then(|| error.render().to_string())
}

/// Every command that does something, such as `kms deny add`, in the order of
/// the help.
#[must_use]
pub fn commands() -> Vec<String> {
    let mut names = Vec::new();
    walk(&built(), "", &mut |command, path| {
        let is_one_itself = command.is_args_conflicts_with_subcommands_set();
        if is_one_itself || command.get_subcommands().next().is_none() {
            names.push(path.to_owned());
        }
    });
    names
}

/// The reference page (Markdown).
#[must_use]
pub fn page() -> String {
    let command = built();
    let mut page = HEAD.to_owned();
    page += "\n## For all commands\n\n";
    page += &table(command.get_arguments().filter(|arg| arg.is_global_set()));
    page += "\n## Commands\n\n";
    walk(&command, "", &mut |command, path| {
        let name = format!("rekeyd {path}");
        page += &format!(
            "- [`{name}`](#{}): {}\n",
            name.replace(' ', "-"),
            words(command.get_about())
        );
    });
    walk(&command, "", &mut |command, path| {
        page += &section(command, path);
    });
    page
}

/// With the flags that are for all commands in each, and the full names.
fn built() -> Command {
    let mut command = Arguments::command().term_width(100);
    command.build();
    command
}

fn walk(command: &Command, path: &str, look: &mut impl FnMut(&Command, &str)) {
    for inner in command.get_subcommands() {
        if inner.is_hide_set() || inner.get_name() == "help" {
            continue;
        }
        let path = format!("{path} {}", inner.get_name());
        look(inner, path.trim_start());
        walk(inner, &path, look);
    }
}

fn section(command: &Command, path: &str) -> String {
    let about = command.get_long_about().or(command.get_about());
    let mut text = format!("\n## `rekeyd {path}`\n\n{}\n", words(about));
    let usage = command.clone().render_usage().to_string();
    let usage: Vec<&str> = usage.split_whitespace().skip(1).collect();
    text += &format!("\n```text\n{}\n```\n", usage.join(" "));
    let own = || {
        command
            .get_arguments()
            .filter(|arg| !arg.is_global_set() && !arg.is_hide_set() && arg.get_id() != "help")
    };
    if own().next().is_some() {
        text += &format!("\n{}", table(own()));
    }
    if let Some(after) = command.get_after_help() {
        text += &format!("\n```text\n{}\n```\n", after.to_string().trim_end());
    }
    text
}

fn table<'a>(arguments: impl Iterator<Item = &'a Arg>) -> String {
    let mut text = "| argument | default | what |\n|---|---|---|\n".to_owned();
    for arg in arguments {
        let default: Vec<String> = match arg.get_action().takes_values() {
            true => arg
                .get_default_values()
                .iter()
                .map(|value| format!("`{}`", value.to_string_lossy()))
                .collect(),
            false => Vec::new(),
        };
        let mut what = words(arg.get_long_help().or(arg.get_help()));
        let values: Vec<String> = match arg.get_action().takes_values() {
            true => arg
                .get_possible_values()
                .iter()
                .filter(|value| !value.is_hide_set())
                .map(|value| format!("`{}`", value.get_name()))
                .collect(),
            false => Vec::new(),
        };
        if !values.is_empty() {
            what += &format!(" One of {}.", values.join(", "));
        }
        if let Some(env) = arg.get_env() {
            what += &format!(" Also `{}`.", env.to_string_lossy());
        }
        if arg.is_required_set() {
            what += " Required.";
        }
        text += &format!(
            "| `{}` | {} | {} |\n",
            form(arg),
            default.join(", "),
            what.trim().replace('|', "\\|")
        );
    }
    text
}

/// `--timeout <SPAN>`, `--label <TEXT>...` or `<JOB>`.
fn form(arg: &Arg) -> String {
    // Without the brackets of what may be left out: the usage has them.
    let text = arg.to_string();
    match text.strip_prefix('[') {
        Some(inner) => inner
            .replace("]...", "...")
            .trim_end_matches(']')
            .to_owned(),
        // `--ui [<ADDRESS:PORT>]`: a value that may be left out.
        None => text,
    }
}

/// In one line, as a sentence.
fn words(text: Option<&clap::builder::StyledStr>) -> String {
    let text = text.map(ToString::to_string).unwrap_or_default();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match text.chars().last() {
        Some('.' | '?' | '!' | ':') | None => text,
        Some(_) => text + ".",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(line: &str) -> bool {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        refusal(&words).is_some()
    }

    #[test]
    fn lines_are_taken_or_refused_as_the_program_does() {
        assert!(!refused("rekeyd jobs --org acme"));
        assert!(!refused("rekeyd --version"));
        assert!(!refused("rekeyd help enqueue rekey"));
        assert!(refused("rekeyd jobs --organization acme"));
        assert!(refused("rekeyd status twelve"));
        assert!(refused("rekeyd org add acme"));
        assert!(refused("rekeyd stats"));
    }

    #[test]
    fn every_command_is_in_the_page() {
        let page = page();
        let commands = commands();
        assert!(commands.contains(&"kms deny add".to_owned()));
        assert!(!commands.contains(&"kms".to_owned()));
        for command in commands {
            assert!(
                page.contains(&format!("\n## `rekeyd {command}`\n")),
                "{command}"
            );
        }
    }
}
