//! What is printed against what the page says.
//!
//! | in the page | what may stand there |
//! |---|---|
//! | `…` in a line | any text, or none |
//! | `…` as a whole line | any lines, or none |
//! | `<job>` | the value of the shell's `JOB`, if it has one; else any one word |
//! | several spaces | at least one: the width of columns differs |

use std::collections::BTreeMap;

use regex_lite::Regex;

const ANY: &str = "…";

/// The shell's variables by the names that pages use: `JOB` is `job`.
pub type Values = BTreeMap<String, String>;

/// Whether all that was printed is what the page says.
pub fn agree(page: &[String], printed: &str, values: &Values) -> bool {
    let page: Vec<Line> = trimmed(page.iter().map(String::as_str))
        .into_iter()
        .map(|line| Line::read(line, values))
        .collect();
    lines_agree(&page, &trimmed(printed.lines()))
}

/// Names in angle brackets.
pub fn names(text: &str) -> Vec<String> {
    name()
        .captures_iter(text)
        .map(|found| found[1].to_owned())
        .collect()
}

fn name() -> Regex {
    Regex::new("<([a-z][a-z0-9-]*)>").unwrap()
}

/// Without empty lines at either end.
fn trimmed<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let lines: Vec<&str> = lines.collect();
    let is_text = |line: &&str| !line.trim().is_empty();
    let Some(from) = lines.iter().position(is_text) else {
        return Vec::new();
    };
    let to = lines.iter().rposition(is_text).unwrap();
    lines[from..=to].to_vec()
}

enum Line {
    AnyLines,
    One(Regex),
}

impl Line {
    fn read(line: &str, values: &Values) -> Self {
        if line.trim() == ANY {
            return Line::AnyLines;
        }
        let mut pattern = String::from("^");
        let mut rest = 0;
        let text = spaced(line);
        for found in name().captures_iter(&text) {
            let whole = found.get(0).unwrap();
            pattern += &literal(&text[rest..whole.start()]);
            pattern += &match values.get(&found[1]) {
                Some(value) => regex_lite::escape(value),
                None => r"\S+".to_owned(),
            };
            rest = whole.end();
        }
        pattern += &literal(&text[rest..]);
        Line::One(Regex::new(&(pattern + "$")).unwrap())
    }
}

fn literal(text: &str) -> String {
    regex_lite::escape(text).replace(ANY, ".*")
}

/// With one space where there are several.
fn spaced(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn lines_agree(page: &[Line], printed: &[&str]) -> bool {
    match (page, printed) {
        ([], []) => true,
        ([Line::AnyLines, rest @ ..], _) => {
            (0..=printed.len()).any(|skipped| lines_agree(rest, &printed[skipped..]))
        }
        ([Line::One(pattern), rest @ ..], [line, others @ ..]) => {
            pattern.is_match(&spaced(line)) && lines_agree(rest, others)
        }
        _ => false,
    }
}

/// What differs from run to run and can be told by its look.
const DIFFERS: [(&str, &str); 5] = [
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "<time>"),
    (
        r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
        "<id>",
    ),
    (r"\b01[0-9A-Z]{24}\b", "<stream>"),
    (r"\b[\w.-]+-\d+-[0-9a-f]{8}\b", "<worker>"),
    (r"\b\d+ s\b", "… s"),
];

/// What was printed as a page would say it: values by their names, and names for
/// what differs.
pub fn written(printed: &str, values: &Values) -> Vec<String> {
    let mut text = printed.trim_matches('\n').to_owned();
    let mut by_length: Vec<_> = values.iter().filter(|(_, v)| v.len() > 8).collect();
    by_length.sort_by_key(|(_, value)| std::cmp::Reverse(value.len()));
    for (name, value) in by_length {
        text = text.replace(value.as_str(), &format!("<{name}>"));
    }
    for (pattern, name) in DIFFERS {
        let pattern = Regex::new(pattern).unwrap();
        text = pattern.replace_all(&text, name).into_owned();
    }
    text.lines().map(|l| l.trim_end().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agrees(page: &str, printed: &str) -> bool {
        let values = Values::from([("job".to_owned(), "7b1f.x".to_owned())]);
        let page: Vec<String> = page.lines().map(str::to_owned).collect();
        agree(&page, printed, &values)
    }

    #[test]
    fn what_differs_is_seen_and_what_may_vary_is_not() {
        for (page, printed) in [
            ("", ""),
            ("a\n\n", "\na\n"),
            ("JOB  STATE", "JOB      STATE   "),
            ("job <job> is <state>", "job 7b1f.x is drained"),
            ("again in … s", "again in 14 s"),
            ("…", ""),
            ("…", "a\nb"),
            ("a\n…\nd", "a\nb\nc\nd"),
            ("a (b) [c] $ .*", "a (b) [c] $ .*"),
            ("<TEXT>", "<TEXT>"),
        ] {
            assert!(agrees(page, printed), "{page:?} {printed:?}");
        }
        for (page, printed) in [
            ("", "a"),
            ("a", ""),
            ("a", "a\nb"),
            ("a\nb", "b\na"),
            ("job <job> is <state>", "job 7b1f-x is drained"),
            ("job <job> is <state>", "job 7b1f.x is not drained"),
            ("again in … s", "again in 14 m"),
            ("a\n…\nd", "a\nb\nc"),
            ("a.c", "abc"),
            ("a", "ab"),
        ] {
            assert!(!agrees(page, printed), "{page:?} {printed:?}");
        }
    }

    #[test]
    fn what_is_written_agrees_with_what_was_printed() {
        let values = Values::from([("old".to_owned(), "arn:aws:kms:x:key/1".to_owned())]);
        let printed = "CMK  SINCE\narn:aws:kms:x:key/1  2026-03-01T00:00:00.5Z\n";
        let page = written(printed, &values);
        assert_eq!(page, ["CMK  SINCE", "<old>  <time>"]);
        assert!(agree(&page, printed, &values));
    }
}
