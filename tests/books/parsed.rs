//! Commands that are only looked at: they need AWS, a cluster, root, or the page
//! does not say what they print. The shell takes the line apart with every
//! command in it left out, and the command line itself says whether it would
//! take the words.

use std::process::{Command, Stdio};

use crate::page::{Block, Page};

/// Ends a command, and a word of one, in what the shell noted.
const END: char = '\u{1e}';
const WORD: char = '\u{1f}';

/// What variables of pages stand for, where nothing is run that would set them.
const VALUES: &str = r"
UUID=7b1f3e38-56b1-4f3a-9a0e-1f2d3c4b5a69
ARN=arn:aws:kms:eu-west-1:111122223333:key/0d990263-018e-4e65-a703-eff731de951e
JOB=$UUID BACK=$UUID MOVE=$UUID ORG=acme OLD=$ARN NEW=$ARN CMK=$ARN
ROLE=arn:aws:iam::111122223333:role/rekeyd EXTERNAL_ID=4711
QUEUE_URL=https://sqs.eu-west-1.amazonaws.com/111122223333/jobs
";

/// What was found in a page.
#[derive(Default)]
pub struct Looked {
    pub understood: Vec<String>,
    /// First words of what is not ours.
    others: Vec<String>,
    pub wrong: Vec<String>,
}

impl Looked {
    pub fn words(&self) -> String {
        let mut others = self.others.clone();
        others.sort();
        others.dedup();
        let of_others = match others.as_slice() {
            [] => String::new(),
            others => format!("; not ours, and only shown: {}", others.join(", ")),
        };
        format!("{} commands only parsed{of_others}", self.understood.len())
    }

    pub fn summary(&self, path: &str) -> String {
        let list: Vec<String> = self.understood.iter().map(|u| format!("\n  {u}")).collect();
        format!("{path}: {}{}", self.words(), list.concat())
    }
}

/// Looks at the commands of some blocks of a page.
pub fn look_at(page: &Page, which: impl Fn(&Block) -> bool) -> Looked {
    let mut looked = Looked::default();
    for line in &page.unmarked {
        looked.wrong.push(format!(
            "{}:{line}: a block that does not say what it is: `sh`, `text`, …",
            page.path
        ));
    }
    let shown = page.blocks.iter().filter(|block| which(block));
    for command in shown.flat_map(|block| &block.commands) {
        let at = format!("{}:{}", page.path, command.line);
        for words in taken_apart(&command.script) {
            if words[0] != "rekeyd" {
                looked.others.push(words[0].clone());
                continue;
            }
            match rekeyd::cli::reference::refusal(&words) {
                None => looked.understood.push(words.join(" ")),
                Some(why) => looked
                    .wrong
                    .push(format!("{at}: {}\n{why}", words.join(" "))),
            }
        }
    }
    looked
}

/// The commands of a line with their words; none of them is run.
fn taken_apart(script: &str) -> Vec<Vec<String>> {
    let (dir, stage) = crate::stage();
    let noted = dir.path().join("noted");
    let source = dir.path().join("line.sh");
    std::fs::write(&source, script).unwrap();
    // Commands of a pipe note at the same time: each in one write.
    let program = format!(
        "{VALUES}
note() {{ local words; printf -v words '%s{WORD}' \"$@\"; printf '%s{END}' \"$words\" >>{noted}; }}
command_not_found_handle() {{ note \"$@\"; }}
kill() {{ :; }}
wait() {{ :; }}
PATH=/nonexistent
source {source}
",
        noted = noted.display(),
        source = source.display()
    );
    Command::new("bash")
        .args(["--noprofile", "--norc", "-c", &program])
        .current_dir(stage)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    let noted = std::fs::read_to_string(&noted).unwrap_or_default();
    noted
        .split_terminator(END)
        .map(|words| words.split_terminator(WORD).map(str::to_owned).collect())
        .collect()
}

#[test]
fn a_line_is_taken_apart_and_a_wrong_one_is_told() {
    let text = "```sh\nJOB=$(rekeyd enqueue rekey --org acme --to \"$NEW\" --reason 'a b' | head -n 1)\n\
                rekeyd status $JOB --wiat && rekeyd kms disable\n```\n";
    let looked = look_at(&Page::read("p", text), |_| true);
    assert_eq!(looked.understood.len(), 1, "{:?}", looked.understood);
    assert!(looked.understood[0].ends_with("--reason a b"));
    assert_eq!(looked.others, ["head"]);
    assert_eq!(looked.wrong.len(), 2, "{:?}", looked.wrong);
}
