//! `rekeyd completions`: what a shell needs to complete the command line, made
//! from the command line itself. Written here and not by a crate: three short
//! scripts, and one dependency less.

use clap::{CommandFactory, ValueEnum};
use serde_json::json;

use crate::cli::exit::Exit;
use crate::cli::out::Out;
use crate::cli::report::Failure;

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  rekeyd completions bash > /etc/bash_completion.d/rekeyd\n  \
                  rekeyd completions zsh > ~/.zsh/rekeyd.zsh   # and source it in ~/.zshrc\n  \
                  rekeyd completions fish > ~/.config/fish/completions/rekeyd.fish"
)]
pub(super) struct Arguments {
    /// For this shell.
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

pub(super) fn run(out: Out, arguments: &Arguments) -> Result<Exit, Failure> {
    let script = match arguments.shell {
        Shell::Bash => bash(),
        // Its own way of completing bash's scripts.
        Shell::Zsh => format!("autoload -U +X bashcompinit && bashcompinit\n{}", bash()),
        Shell::Fish => fish(),
    };
    out.show(&json!({ "script": script }), || script.clone())?;
    Ok(Exit::Done)
}

/// A command by its path, and what may follow it.
struct Known {
    path: String,
    commands: Vec<(String, String)>,
    flags: Vec<Flag>,
}

struct Flag {
    long: String,
    help: String,
    values: Vec<String>,
}

/// Every command, outer ones first.
fn known() -> Vec<Known> {
    fn walk(command: &clap::Command, path: &str, known: &mut Vec<Known>) {
        let about = |c: &clap::Command| c.get_about().map(ToString::to_string).unwrap_or_default();
        let inner = || command.get_subcommands().filter(|c| !c.is_hide_set());
        let flags = command.get_arguments().filter(|a| !a.is_hide_set());
        let flags = flags.filter_map(|argument| {
            let values = argument.get_possible_values().into_iter();
            Some(Flag {
                long: argument.get_long()?.to_owned(),
                help: argument
                    .get_help()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
                values: match argument.get_action().takes_values() {
                    true => values.map(|v| v.get_name().to_owned()).collect(),
                    false => Vec::new(),
                },
            })
        });
        known.push(Known {
            path: path.to_owned(),
            commands: inner()
                .map(|c| (c.get_name().to_owned(), about(c)))
                .collect(),
            flags: flags.collect(),
        });
        for c in inner() {
            walk(c, &format!("{path} {}", c.get_name()), known);
        }
    }
    let mut command = super::Arguments::command();
    // Puts the flags that are for all commands into each.
    command.build();
    let mut all = Vec::new();
    walk(&command, "rekeyd", &mut all);
    all
}

fn bash() -> String {
    let known = known();
    let paths: Vec<String> = known[1..]
        .iter()
        .map(|k| format!("\"{}\"", k.path))
        .collect();
    let mut values = String::new();
    let mut words = String::new();
    for k in &known {
        for flag in k.flags.iter().filter(|flag| !flag.values.is_empty()) {
            values += &format!(
                "    \"{} --{}\") COMPREPLY=($(compgen -W \"{}\" -- \"$cur\")); return ;;\n",
                k.path,
                flag.long,
                flag.values.join(" ")
            );
        }
        let commands = k.commands.iter().map(|(name, _)| name.clone());
        let flags = k.flags.iter().map(|flag| format!("--{}", flag.long));
        let all: Vec<String> = commands.chain(flags).collect();
        words += &format!(
            "    \"{}\") COMPREPLY=($(compgen -W \"{}\" -- \"$cur\")) ;;\n",
            k.path,
            all.join(" ")
        );
    }
    format!(
        r#"_rekeyd() {{
  local cur="${{COMP_WORDS[COMP_CWORD]}}" prev="${{COMP_WORDS[COMP_CWORD-1]}}" path=rekeyd i
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    case "$path ${{COMP_WORDS[i]}}" in
      {}) path="$path ${{COMP_WORDS[i]}}" ;;
    esac
  done
  case "$path $prev" in
{values}  esac
  case "$path" in
{words}  esac
}}
complete -o default -F _rekeyd rekeyd
"#,
        paths.join("|")
    )
}

fn fish() -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    let mut script = String::from("complete -c rekeyd -f\n");
    for k in known() {
        let mut names = k.path.split(' ').skip(1).peekable();
        let mut conditions: Vec<String> = Vec::new();
        if names.peek().is_none() {
            conditions.push("__fish_use_subcommand".to_owned());
        }
        conditions.extend(names.map(|name| format!("__fish_seen_subcommand_from {name}")));
        if k.path != "rekeyd" && !k.commands.is_empty() {
            let inner: Vec<&str> = k.commands.iter().map(|(name, _)| name.as_str()).collect();
            conditions.push(format!(
                "not __fish_seen_subcommand_from {}",
                inner.join(" ")
            ));
        }
        let condition = quoted(&conditions.join("; and "));
        for (name, about) in &k.commands {
            script += &format!(
                "complete -c rekeyd -n {condition} -a {name} -d {}\n",
                quoted(about)
            );
        }
        for flag in &k.flags {
            let takes = match flag.values.is_empty() {
                true => String::new(),
                false => format!(" -x -a {}", quoted(&flag.values.join(" "))),
            };
            let help = quoted(&flag.help);
            script += &format!(
                "complete -c rekeyd -n {condition} -l {} -d {help}{takes}\n",
                flag.long
            );
        }
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What bash completes after these words.
    fn completed(words: &[&str]) -> Vec<String> {
        let quoted: Vec<String> = words.iter().map(|w| format!("'{w}'")).collect();
        let script = format!(
            "complete() {{ :; }}\n{}COMP_WORDS=({})\nCOMP_CWORD={}\n_rekeyd\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"\n",
            bash(),
            quoted.join(" "),
            words.len() - 1
        );
        let output = std::process::Command::new("bash")
            .arg("-c")
            .arg(script)
            .output();
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
        let script = fish();
        for k in known() {
            for (name, _) in &k.commands {
                assert!(
                    script.contains(&format!(" -a {name} ")),
                    "{} {name}",
                    k.path
                );
            }
        }
        assert!(!script.contains("end-with"), "{script}");
        assert!(
            script
                .lines()
                .all(|line| line.starts_with("complete -c rekeyd "))
        );
    }
}
