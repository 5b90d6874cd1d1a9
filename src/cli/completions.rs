//! `rekeyd completions`: what a shell needs to complete the command line, made
//! from the command line itself.

use clap::CommandFactory;
use clap_complete::Shell;
use serde_json::json;

use crate::cli::exit::Exit;
use crate::cli::out::Out;
use crate::cli::report::Failure;

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  rekeyd completions bash > /etc/bash_completion.d/rekeyd\n  \
                  rekeyd completions zsh > ~/.zsh/_rekeyd   # in a directory of $fpath\n  \
                  rekeyd completions fish > ~/.config/fish/completions/rekeyd.fish"
)]
pub(super) struct Arguments {
    /// For this shell.
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn run(out: Out, arguments: &Arguments) -> Result<Exit, Failure> {
    let script = script(arguments.shell);
    out.show(&json!({ "script": script }), || script.clone())?;
    Ok(Exit::Done)
}

fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    let mut command = super::Arguments::command();
    clap_complete::generate(shell, &mut command, "rekeyd", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    if shell != Shell::Fish {
        return script;
    }
    // For fish the crate lists hidden flags too, each on a line of its own.
    let mut hidden = Vec::new();
    hidden_flags(&command, &mut hidden);
    let shows = |line: &&str| !hidden.iter().any(|flag| line.contains(flag));
    let lines: Vec<&str> = script.lines().filter(shows).collect();
    lines.join("\n")
}

fn hidden_flags(command: &clap::Command, hidden: &mut Vec<String>) {
    let flags = command.get_arguments().filter(|a| a.is_hide_set());
    hidden.extend(flags.filter_map(|a| Some(format!(" -l {} ", a.get_long()?))));
    for inner in command.get_subcommands() {
        hidden_flags(inner, hidden);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What bash completes after these words.
    fn completed(words: &[&str]) -> Vec<String> {
        let quoted: Vec<String> = words.iter().map(|w| format!("'{w}'")).collect();
        let last = words.len() - 1;
        let script = format!(
            "complete() {{ :; }}\n{}COMP_WORDS=({})\nCOMP_CWORD={last}\n_rekeyd rekeyd {} {}\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"\n",
            script(Shell::Bash),
            quoted.join(" "),
            quoted[last],
            quoted[last - 1],
        );
        // Too long for an argument.
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), script).unwrap();
        let output = std::process::Command::new("bash").arg(file.path()).output();
        let output = output.expect("bash is there");
        assert!(
            output.stderr.is_empty(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout).unwrap();
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn bash_completes_commands_flags_and_values() {
        assert_eq!(completed(&["rekeyd", "thr"]), ["throttle"]);
        assert_eq!(completed(&["rekeyd", "throttle", "s"]), ["set", "show"]);
        let flags = completed(&["rekeyd", "throttle", "set", "--all", "--rows"]);
        assert_eq!(flags, ["--rows-per-s"]);
        assert_eq!(completed(&["rekeyd", "jobs", "--kind", "m"]), ["move"]);
        assert_eq!(completed(&["rekeyd", "jobs", "--output", "j"]), ["json"]);
        assert_eq!(completed(&["rekeyd", "jobs", "--nothing"]), [""; 0]);
    }

    #[test]
    fn fish_knows_every_command_and_no_hidden_flag() {
        let script = script(Shell::Fish);
        fn walk(command: &clap::Command, script: &str) {
            for inner in command.get_subcommands().filter(|c| !c.is_hide_set()) {
                let name = inner.get_name();
                assert!(script.contains(&format!(" -a \"{name}\" ")), "{name}");
                walk(inner, script);
            }
        }
        walk(&super::super::Arguments::command(), &script);
        assert!(!script.contains("end-with"), "{script}");
    }
}
