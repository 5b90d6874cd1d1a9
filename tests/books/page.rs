//! A page's blocks and commands.

/// How a block of commands begins that is shown and not run: what it needs
/// follows.
const NOT_RUN: &str = "# Not run by the test:";
/// How a comment begins whose lines the test runs and the reader does not see:
/// they play the customer, the fault, or wait for a moment.
const UNSEEN: &str = "<!-- test";

/// Languages of blocks that hold no commands.
const NO_COMMANDS: [&str; 8] = [
    "text", "json", "toml", "yaml", "mermaid", "rust", "cql", "sql",
];

/// A page, as far as the test sees it.
pub struct Page {
    pub path: String,
    pub blocks: Vec<Block>,
    /// The lines of blocks of bare commands: not for pages that are played, for
    /// nobody would run them.
    pub plain: Vec<usize>,
    /// The lines of blocks that do not say what they are.
    pub unmarked: Vec<usize>,
}

pub struct Block {
    pub kind: Kind,
    pub commands: Vec<Command>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Run, and compared.
    Run,
    /// Run without being shown; must end with 0.
    Unseen,
    /// Shown, and only looked at.
    Shown,
}

/// One command and what it prints.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// The line of the page, from 1.
    pub line: usize,
    /// As it is given to the shell.
    pub script: String,
    pub printed: Vec<String>,
    pub exit: i32,
    /// The lines of the page that hold `printed` and `exit`, from 0, half open.
    pub span: (usize, usize),
}

impl Page {
    pub fn read(path: &str, text: &str) -> Self {
        let mut page = Self {
            path: path.to_owned(),
            blocks: Vec::new(),
            plain: Vec::new(),
            unmarked: Vec::new(),
        };
        let lines: Vec<&str> = text.lines().collect();
        let mut at = 0;
        while at < lines.len() {
            let begin = at;
            at += 1;
            let indent = lines[begin].len() - lines[begin].trim_start().len();
            let mut block_until = |end: &str| {
                let from = at;
                while at < lines.len() && lines[at].trim() != end {
                    at += 1;
                }
                at += 1;
                (from, at - 1)
            };
            if lines[begin].trim() == UNSEEN {
                let (from, to) = block_until("-->");
                page.blocks.push(Block {
                    kind: Kind::Unseen,
                    commands: vec![Command {
                        line: from + 1,
                        script: lines[from..to].join("\n"),
                        ..Command::default()
                    }],
                });
            } else if let Some(language) = lines[begin].trim_start().strip_prefix("```") {
                let (from, to) = block_until("```");
                // A block in a list is indented as a whole.
                let inner: Vec<&str> = lines[from..to]
                    .iter()
                    .map(|line| line.get(indent..).unwrap_or(""))
                    .collect();
                match language.split_whitespace().next() {
                    Some("console") => page.blocks.push(console(&inner, from)),
                    Some(other) if NO_COMMANDS.contains(&other) => {}
                    Some("sh") => {
                        page.plain.push(begin + 1);
                        page.blocks.push(plain(&inner, from));
                    }
                    _ => page.unmarked.push(begin + 1),
                }
            }
        }
        page
    }
}

/// A block with `$ command` lines and what they print.
fn console(lines: &[&str], offset: usize) -> Block {
    let shown = lines.first().is_some_and(|line| line.starts_with(NOT_RUN));
    let mut commands: Vec<Command> = Vec::new();
    for (n, line) in lines.iter().enumerate() {
        if let Some(script) = line.strip_prefix("$ ") {
            commands.push(Command {
                line: offset + n + 1,
                script: script.to_owned(),
                span: (offset + n + 1, offset + n + 1),
                ..Command::default()
            });
            continue;
        }
        let Some(command) = commands.last_mut() else {
            continue;
        };
        command.span.1 = offset + n + 1;
        if command.printed.is_empty() && command.script.ends_with('\\') {
            let more = line.strip_prefix("> ").unwrap_or(line);
            command.script += &format!("\n{more}");
            command.span.0 = command.span.1;
        } else if let Some(code) = exit_code(line) {
            command.exit = code;
        } else {
            command.printed.push((*line).to_owned());
        }
    }
    Block {
        kind: if shown { Kind::Shown } else { Kind::Run },
        commands,
    }
}

/// `[exit code 10]`.
fn exit_code(line: &str) -> Option<i32> {
    let code = line.strip_prefix("[exit code ")?.strip_suffix(']')?;
    code.parse().ok()
}

/// A block of bare commands, one a line.
fn plain(lines: &[&str], offset: usize) -> Block {
    let mut commands: Vec<Command> = Vec::new();
    let mut goes_on = false;
    for (n, line) in lines.iter().enumerate() {
        match commands.last_mut() {
            Some(command) if goes_on => command.script += &format!("\n{line}"),
            _ => commands.push(Command {
                line: offset + n + 1,
                script: (*line).to_owned(),
                ..Command::default()
            }),
        }
        goes_on = line.ends_with('\\');
    }
    Block {
        kind: Kind::Shown,
        commands,
    }
}

#[test]
fn blocks_and_commands_are_found() {
    let text = "\
# A page
```console
$ rekeyd jobs
no unfinished jobs

$ rekeyd org add acme \\
>     --cmk x
rekeyd::conflict
[exit code 6]
```
<!-- test
kill $W
-->
1. a list

   ```console
   # Not run by the test: needs AWS.
   $ aws sqs list-queues
   ```
```text
$ no command
```
```sh
rekeyd jobs
```
```
what is this
```
";
    let page = Page::read("p", text);
    let kinds: Vec<Kind> = page.blocks.iter().map(|b| b.kind).collect();
    assert_eq!(kinds, [Kind::Run, Kind::Unseen, Kind::Shown, Kind::Shown]);
    let first = &page.blocks[0].commands;
    assert_eq!(first[0].printed, ["no unfinished jobs", ""]);
    assert_eq!(
        (first[0].line, first[0].exit, first[0].span),
        (3, 0, (3, 5))
    );
    assert_eq!(first[1].script, "rekeyd org add acme \\\n    --cmk x");
    assert_eq!(first[1].printed, ["rekeyd::conflict"]);
    assert_eq!((first[1].exit, first[1].span), (6, (7, 9)));
    assert_eq!(page.blocks[1].commands[0].script, "kill $W");
    assert_eq!(page.blocks[2].commands[0].script, "aws sqs list-queues");
    assert_eq!((page.plain, page.unmarked), (vec![23], vec![26]));
}
