//! What `rekeyd verify` says to people.

use crate::cli::{figures, out};
use crate::ids::CmkArn;
use crate::verify::{Found, Part, Proof, Sample, Wrong};

/// The sentence about all that was read. Of a sample it never says that all is
/// well, for that nobody knows.
pub(super) fn in_sum(found: &Found, opened: bool, sample: Option<&Sample>) -> String {
    let whole = found.is_whole();
    let Some(sample) = sample else {
        return match (whole, opened) {
            (true, true) => "every live cell opens",
            (true, false) => {
                "every live cell parses and has a key that is allowed; none was opened"
            }
            (false, _) => "not everything opens: see above",
        }
        .to_owned();
    };
    let drawn = format!(
        "this is a sample, and no proof: {} of {} read, drawn by chance from all (--seed {})",
        sample.slices,
        figures::count(sample.of, "slice"),
        sample.seed
    );
    let seen = match (whole, opened) {
        (true, true) => "what was read opens",
        (true, false) => "what was read parses and has a key that is allowed; none was opened",
        (false, _) => "not everything that was read opens: see above",
    };
    format!("{drawn}\n{seen}")
}

/// In which parts it was read, where there was more than one.
pub(super) fn in_parts(parts: &[Part]) -> String {
    if parts.len() < 2 {
        return String::new();
    }
    let mut text = format!("\nread in {} parts:", parts.len());
    for part in parts {
        let (from, to) = (figures::time(part.from_ms), figures::time(part.to_ms));
        text += &format!("\n  {from} to {to}");
    }
    text + "\neach slice is as it was when it was read"
}

pub(super) fn old_places(proof: &Proof) -> String {
    let mut text = String::new();
    for old in &proof.old_places {
        text += &format!(
            "\nthe old place of {}: {} in {}",
            old.from,
            figures::count(old.live, "live cell"),
            figures::count(old.slices, "slice")
        );
        for place in &old.examples {
            text += &format!("\n  {} {} {}", place.channel, place.hour, place.record);
        }
    }
    text
}

pub(super) fn for_people(found: &Found, active: &CmkArn) -> String {
    let mut text = format!(
        "{}, {} ({} past their expiry), {} rows without a value\n\n",
        figures::count(found.slices, "slice"),
        figures::count(found.cells, "cell"),
        found.expired,
        found.empty,
    );
    let mut by_cmk: Vec<_> = found.by_cmk.iter().collect();
    by_cmk.sort_by_key(|(cmk, _)| *cmk != active);
    text += &out::table(
        ["cmk", "cells", "keys", "wraps", ""],
        by_cmk.into_iter().map(|(cmk, under)| {
            [
                cmk.to_string(),
                under.cells.to_string(),
                under.keys.to_string(),
                under.wraps.to_string(),
                if cmk == active { "active" } else { "" }.to_owned(),
            ]
        }),
    );
    text += "\n\n";
    text += &out::table(
        ["cell epoch", "cells"],
        found
            .by_epoch
            .iter()
            .map(|(epoch, n)| [epoch.to_string(), n.to_string()]),
    );
    text += "\n\n";
    text += &out::table(
        ["keys of workspace", "cells"],
        found
            .by_workspace
            .iter()
            .map(|(workspace, n)| [workspace.to_string(), n.to_string()]),
    );
    for (what, list) in [
        ("quarantined", &found.quarantined),
        ("blocked", &found.blocked),
    ] {
        for (code, wrong) in list {
            text += &wrong_lines(what, code, wrong);
        }
    }
    text + "\n"
}

fn wrong_lines(what: &str, code: &str, wrong: &Wrong) -> String {
    let mut text = format!(
        "\n\n{what}: {code}: {}",
        figures::count(wrong.cells, "cell")
    );
    for place in &wrong.examples {
        text += &format!("\n  {} {} {}", place.channel, place.hour, place.record);
    }
    let more = wrong.cells.saturating_sub(wrong.examples.len() as u64);
    if more > 0 {
        text += &format!("\n  … and {more} more");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_never_says_that_every_cell_opens() {
        let sample = Sample {
            asked: 5,
            slices: 5,
            of: 90,
            seed: 7,
        };
        let mut found = Found::default();
        for bad in [false, true] {
            if bad {
                found
                    .quarantined
                    .entry("does_not_open".into())
                    .or_default()
                    .cells = 1;
            }
            for opened in [true, false] {
                let text = in_sum(&found, opened, Some(&sample));
                assert!(!text.contains("every live cell"), "{text}");
                assert!(
                    text.contains("sample, and no proof: 5 of 90 slices"),
                    "{text}"
                );
                assert_eq!(text.contains("not everything"), bad, "{text}");
            }
        }
        assert_eq!(
            in_sum(&Found::default(), true, None),
            "every live cell opens"
        );
    }

    #[test]
    fn parts_are_named_where_there_are_several() {
        let part = |from_ms, to_ms| Part { from_ms, to_ms };
        assert_eq!(in_parts(&[part(0, 1000)]), "");
        let text = in_parts(&[part(0, 1000), part(60_000, 61_000)]);
        assert!(text.contains("in 2 parts"), "{text}");
        assert!(
            text.contains("1970-01-01T00:01:00Z to 1970-01-01T00:01:01Z"),
            "{text}"
        );
        assert!(text.contains("as it was when it was read"), "{text}");
    }
}
