//! The reader against an export with everything odd that real ones have, as a
//! folder and as a ZIP file.

mod zip_files;

use std::collections::BTreeMap;
use std::io::{Cursor, Write};
use std::path::Path;

use proptest::prelude::*;
use zip::write::{SimpleFileOptions, ZipWriter};

use super::elements::tests::{Drip, json};
use super::*;
use crate::import::Subject;

const NOW: WallTime = WallTime(1_700_000_000_000_000);

type Files = BTreeMap<String, Vec<u8>>;

fn files(list: &[(&str, &str)]) -> Files {
    list.iter()
        .map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec()))
        .collect()
}

fn as_dir(files: &Files) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, bytes) in files {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    dir
}

fn as_zip(files: &Files) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (path, bytes) in files {
        zip.start_file(path.as_str(), SimpleFileOptions::default())
            .unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// Everything the sink got, in a form that can be compared.
#[derive(Debug, Default, PartialEq)]
struct Got {
    messages: Vec<(String, String, String, i64, String)>,
    days: Vec<String>,
}

impl Got {
    fn take(&mut self, imported: Imported) {
        match imported {
            Imported::Message(m) => self.messages.push((
                m.channel.to_string(),
                m.hour.to_string(),
                String::from_utf8(m.record.as_bytes().to_vec()).unwrap(),
                m.write_time.0,
                String::from_utf8(m.json.to_vec()).unwrap(),
            )),
            Imported::DayDone(p) => self.days.push(format!("{}/{}", p.folder, p.day)),
        }
    }
}

fn read_from(
    source: &mut dyn ExportSource,
    resume: Option<&ImportProgress>,
) -> (Got, ImportReport) {
    let mut got = Got::default();
    let report = read(source, NOW, resume, &mut |imported| {
        got.take(imported);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_adds_up(&got, &report);
    (got, report)
}

fn assert_adds_up(got: &Got, report: &ImportReport) {
    assert_eq!(got.messages.len() as u64, report.messages);
    assert_eq!(
        report.elements,
        report.messages + report.duplicates + report.unreadable_messages(),
        "{report:?}"
    );
}

/// Reads the files both ways and checks that it makes no difference.
fn read_both(files: &Files) -> (Got, ImportReport) {
    let dir = as_dir(files);
    let from_dir = read_from(&mut DirSource::new(dir.path()), None);
    let from_zip = read_from(
        &mut ZipSource::new(Cursor::new(as_zip(files))).unwrap(),
        None,
    );
    assert_eq!(from_dir, from_zip);
    from_dir
}

fn counts(report: &ImportReport) -> Vec<(SkipReason, u64)> {
    report
        .skipped
        .iter()
        .map(|(reason, skipped)| (*reason, skipped.count))
        .collect()
}

/// The message spelled as no serializer would: its bytes must come through.
const SPACED: &str = "{ \"type\":\"message\",\n  \"text\":\"a \\u00e9 \\\"]}[{ , \\\\\",\t\"ts\" : \"1550077323.000200\" }";

fn odd_export() -> Files {
    let of_bytes = |second: u64, bytes: usize| {
        let (head, tail) = (format!(r#"{{"ts":"{second}.000100","text":""#), r#""}"#);
        format!(
            "{head}{}{tail}",
            "x".repeat(bytes - head.len() - tail.len())
        )
    };
    let huge = of_bytes(1_550_250_000, MAX_MESSAGE_BYTES + 1);
    let full = of_bytes(1_550_250_001, MAX_MESSAGE_BYTES);
    let mut files = files(&[
        (
            "channels.json",
            r#"[{"id":"C0000000A","name":"general","members":["U1"]},
               {"id":"C0000000B","name":"größe-日本"},
               {"id":"C0000000X","name":"both"},{"id":"bad*id","name":"star"},
               {"name":"nobody"}]"#,
        ),
        (
            "groups.json",
            r#"[{"id":"G0000000C","name":"secret-plan"},{"id":"G0000000X","name":"both"}]"#,
        ),
        (
            "mpims.json",
            r#"[{"id":"G0000000D","name":"mpdm-a--b--c-1"}]"#,
        ),
        ("dms.json", r#"[{"id":"D0000000E","members":["U1","U2"]}]"#),
        ("users.json", r#"[{"id":"U1"}]"#),
        ("integration_logs.json", "[]"),
        (".DS_Store", "noise"),
        ("__MACOSX/general/._2019-02-13.json", "noise"),
        // Replies, an edit, a bot, a tombstone, an unknown subtype; 18:00 UTC.
        (
            "general/2019-02-13.json",
            r#"[{"type":"message","user":"U1","text":"parent","ts":"1550080800.000100",
                 "thread_ts":"1550080800.000100","reply_count":1,
                 "replies":[{"user":"U2","ts":"1550080860.000200"}]},
                {"type":"message","user":"U2","text":"reply","ts":"1550080860.000200",
                 "thread_ts":"1550080800.000100","parent_user_id":"U1"},
                {"type":"message","user":"U1","text":"edited","ts":"1550084399.999999",
                 "edited":{"user":"U1","ts":"1550170000.000000"}},
                {"type":"message","subtype":"bot_message","bot_id":"B1","ts":"1550084400.000000"},
                {"type":"message","subtype":"tombstone","ts":"1550084401.000000"},
                {"type":"message","subtype":"never_heard_of","ts":"1550084402.000000"}]"#,
        ),
        ("general/2019-02-14.json", "[]"),
        ("general/2019-02-16.json", ""),
        ("general/canvas_in_the_conversation.json", "[]"),
        ("general/attachments/F1-picture.png", "png"),
        (
            "größe-日本/2019-02-13.json",
            &format!("\u{feff} [\r\n{SPACED}\r\n]\n"),
        ),
        // The same `ts` three times: older, newer, older again.
        (
            "secret-plan/2019-02-13.json",
            r#"[{"ts":"1550077323.000200","text":"first"},
                {"ts":"1550077323.000200","text":"second","edited":{"ts":"1550077400.000000"}},
                {"ts":"1550077323.000200","text":"third"},
                {"ts":"1550077324.000000","edited":{"user":"U1"}}]"#,
        ),
        // One bad message after another, and a good one among and after them.
        (
            "mpdm-a--b--c-1/2019-02-13.json",
            r#"[{"text":"no ts"},{"ts":1550077323.0002},{"ts":"1550077323.000201","text":oops},
                7,"text",null,[{"ts":"1"}],{"ts":"1550077323.000300"},{"ts":"never"},
                {"ts":"1800000000.000000"},{"ts":"1550077324.000300"}]"#,
        ),
        // Broken in its third message.
        (
            "D0000000E/2019-02-13.json",
            r#"[{"ts":"1550077323.000200"},{"ts":"1550077324.000200"},{"ts":"155"#,
        ),
        ("D0000000E/2019-02-14.json", r#"{"ts":"1550077323.000200"}"#),
        ("both/2019-02-13.json", r#"[{"ts":"1550077323.000200"}]"#),
        ("star/2019-02-13.json", r#"[{"ts":"1550077323.000200"}]"#),
        ("stray/2019-02-13.json", r#"[{"ts":"1550077323.000200"}]"#),
        (
            "D0000000F/2019-02-13.json",
            r#"[{"ts":"1550077323.000200"}]"#,
        ),
    ]);
    files.insert(
        "general/2019-02-15.json".into(),
        format!("[{huge},{full}]").into_bytes(),
    );
    files
}

#[test]
fn reads_an_export_with_everything_odd_from_a_folder_and_from_a_zip_file() {
    let (got, report) = read_both(&odd_export());
    let lines: Vec<String> = got
        .messages
        .iter()
        .map(|(channel, hour, record, at, _)| format!("{channel} {hour} {record} {at}"))
        .collect();
    assert_eq!(
        lines,
        [
            "D0000000E 2019-02-13T17 1550077323.000200 1550077323000200",
            "D0000000E 2019-02-13T17 1550077324.000200 1550077324000200",
            "D0000000F 2019-02-13T17 1550077323.000200 1550077323000200",
            "C0000000A 2019-02-13T18 1550080800.000100 1550080800000100",
            "C0000000A 2019-02-13T18 1550080860.000200 1550080860000200",
            "C0000000A 2019-02-13T18 1550084399.999999 1550170000000000",
            "C0000000A 2019-02-13T19 1550084400.000000 1550084400000000",
            "C0000000A 2019-02-13T19 1550084401.000000 1550084401000000",
            "C0000000A 2019-02-13T19 1550084402.000000 1550084402000000",
            "C0000000A 2019-02-15T17 1550250001.000100 1550250001000100",
            "C0000000B 2019-02-13T17 1550077323.000200 1550077323000200",
            "G0000000D 2019-02-13T17 1550077323.000300 1550077323000300",
            "G0000000D 2019-02-13T17 1550077324.000300 1550077324000300",
            "G0000000C 2019-02-13T17 1550077323.000200 1550077323000200",
            "G0000000C 2019-02-13T17 1550077323.000200 1550077400000000",
            "G0000000C 2019-02-13T17 1550077324.000000 1550077324000000",
        ]
    );
    assert!(
        got.messages.iter().any(|m| m.4 == SPACED),
        "a message's own bytes are kept"
    );
    assert_eq!(
        counts(&report),
        [
            (SkipReason::NotAnObject, 4),
            (SkipReason::BadJson, 1),
            (SkipReason::NoTimestamp, 1),
            (SkipReason::BadTimestamp, 2),
            (SkipReason::FutureTimestamp, 1),
            (SkipReason::TooLarge, 1),
            (SkipReason::Broken, 3),
            (SkipReason::NotADay, 4),
            (SkipReason::NoEntry, 1),
            (SkipReason::BadChannelId, 1),
            (SkipReason::AmbiguousFolder, 1),
            (SkipReason::BadEntry, 1),
        ]
    );
    let places = |reason| {
        report.skipped[&reason]
            .examples
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        places(SkipReason::Broken),
        [
            "D0000000E/2019-02-13.json at byte 65",
            "D0000000E/2019-02-14.json at byte 0",
            "general/2019-02-16.json at byte 0",
        ]
    );
    assert_eq!(
        places(SkipReason::TooLarge),
        ["general/2019-02-15.json [0] at byte 1"]
    );
    assert_eq!(
        places(SkipReason::BadJson),
        ["mpdm-a--b--c-1/2019-02-13.json [2] at byte 41"]
    );
    assert_eq!(places(SkipReason::NoEntry), ["stray"]);
    assert_eq!(
        (report.duplicates, report.replacements, report.edits_ignored),
        (1, 1, 1)
    );
    assert_eq!((report.channels, report.unlisted_channels), (6, 1));
    assert_eq!(report.days, 10);
    assert!(!report.stopped);
}

#[test]
fn a_report_holds_no_message_text() {
    let files = files(&[
        ("channels.json", r#"[{"id":"C1","name":"a"}]"#),
        (
            "a/2019-02-13.json",
            r#"[{"ts":"1550077323.000200","text":"MARKED"},{"ts":"MARKED"},{"text":MARKED},
                "MARKED",{"ts":"1550077323.000200","text":"MARKED"},{"ts":"MARKED"#,
        ),
    ]);
    let dir = as_dir(&files);
    let mut printed = String::new();
    let report = read(
        &mut DirSource::new(dir.path()),
        NOW,
        None,
        &mut |imported| {
            printed.push_str(&format!("{imported:?}"));
            ControlFlow::Continue(())
        },
    )
    .unwrap();
    printed.push_str(&format!(
        "{report:?}{}",
        serde_json::to_string(&report).unwrap()
    ));
    assert_eq!(report.elements, 5);
    assert!(!printed.contains("MARKED"), "{printed}");
}

#[test]
fn an_import_goes_on_after_any_day_and_misses_nothing() {
    let dir = as_dir(&odd_export());
    let (whole, whole_report) = read_from(&mut DirSource::new(dir.path()), None);
    for stop_after in 1..=whole.days.len() {
        let mut got = Got::default();
        let mut progress = None;
        let first = read(
            &mut DirSource::new(dir.path()),
            NOW,
            None,
            &mut |imported| {
                if let Imported::DayDone(done) = &imported {
                    progress = Some(done.clone());
                }
                got.take(imported);
                if got.days.len() < stop_after {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            },
        )
        .unwrap();
        assert!(first.stopped);
        // As a caller would: through JSON.
        let kept = serde_json::to_string(&progress.unwrap()).unwrap();
        let kept: ImportProgress = serde_json::from_str(&kept).unwrap();
        let (rest, second) = read_from(&mut DirSource::new(dir.path()), Some(&kept));
        got.messages.extend(rest.messages);
        got.days.extend(rest.days);
        assert_eq!(got, whole, "stopped after {stop_after} days");
        assert_eq!(first.days + second.days, whole_report.days);
        let unreadable = first.unreadable_messages() + second.unreadable_messages();
        assert_eq!(unreadable, whole_report.unreadable_messages());
    }
}

#[test]
fn a_sink_that_stops_gets_no_more() {
    let dir = as_dir(&odd_export());
    let mut calls = 0;
    let report = read(&mut DirSource::new(dir.path()), NOW, None, &mut |_| {
        calls += 1;
        ControlFlow::Break(())
    })
    .unwrap();
    assert!(report.stopped);
    assert_eq!((calls, report.messages), (1, 1));
}

#[test]
fn one_folder_around_the_export_is_tolerated_and_no_export_is_an_error() {
    let inner = odd_export();
    let wrapped: Files = inner
        .iter()
        .map(|(path, bytes)| (format!("My export/{path}"), bytes.clone()))
        .collect();
    assert_eq!(read_both(&wrapped).0, read_both(&inner).0);

    for files in [
        files(&[("a/2019-02-13.json", "[]"), ("b/2019-02-13.json", "[]")]),
        files(&[("users.json", "[]")]),
        files(&[("x/y/z/channels.json", "[]")]),
    ] {
        let dir = as_dir(&files);
        let got = read(&mut DirSource::new(dir.path()), NOW, None, &mut |_| {
            panic!("nothing to hand over")
        });
        assert!(matches!(got, Err(ImportError::NotAnExport)), "{files:?}");
    }
    assert!(matches!(
        open(Path::new("/nowhere/at/all")),
        Err(ImportError::Io { .. })
    ));
    let dir = as_dir(&files(&[("export.zip", "PK, but no more")]));
    assert!(matches!(
        open(&dir.path().join("export.zip")),
        Err(ImportError::Zip { .. })
    ));
}

#[test]
fn a_damaged_list_is_read_as_far_as_it_goes() {
    let (got, report) = read_both(&files(&[
        ("channels.json", r#"[{"id":"C1","name":"a"},{"id":"C2","na"#),
        ("groups.json", "not json"),
        ("a/2019-02-13.json", r#"[{"ts":"1550077323.000200"}]"#),
        ("b/2019-02-13.json", r#"[{"ts":"1550077323.000200"}]"#),
    ]));
    assert_eq!(got.messages.len(), 1);
    assert_eq!(
        counts(&report),
        [(SkipReason::Broken, 2), (SkipReason::NoEntry, 1)]
    );
}

#[cfg(unix)]
#[test]
fn links_and_devices_in_a_folder_are_not_followed() {
    let dir = as_dir(&files(&[
        (
            "channels.json",
            r#"[{"id":"C1","name":"a"},{"id":"C2","name":"b"}]"#,
        ),
        ("a/2019-02-13.json", r#"[{"ts":"1550077323.000200"}]"#),
    ]));
    let link = |to: &str, from: &str| std::os::unix::fs::symlink(to, dir.path().join(from));
    link("a", "b").unwrap();
    link("2019-02-13.json", "a/2019-02-14.json").unwrap();
    let (got, report) = read_from(&mut DirSource::new(dir.path()), None);
    assert_eq!(got.messages.len(), 1);
    assert_eq!(counts(&report), [(SkipReason::RefusedName, 2)]);
}

/// A source of one channel with one day.
struct OneDay<'a>(&'a [u8]);

impl ExportSource for OneDay<'_> {
    fn list(&mut self, folder: &str) -> std::io::Result<Listing> {
        let (files, folders) = match folder {
            "" => ("channels.json", vec!["a".to_owned()]),
            _ => ("2019-02-13.json", vec![]),
        };
        Ok(Listing {
            files: vec![files.to_owned()],
            folders,
            refused: vec![],
        })
    }

    fn open(&mut self, path: &str) -> std::io::Result<Box<dyn std::io::Read + '_>> {
        if path == "channels.json" {
            Ok(Box::new(&br#"[{"id":"C1","name":"a"}]"#[..]))
        } else {
            Ok(Box::new(Drip(self.0, 7)))
        }
    }
}

proptest! {
    #[test]
    fn any_truncation_of_a_day_keeps_what_stands_before_it(
        extra in prop::collection::vec(json(), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let messages: Vec<serde_json::Value> = extra
            .iter()
            .enumerate()
            .map(|(n, extra)| serde_json::json!({"ts": format!("1550077323.{n:06}"), "x": extra}))
            .collect();
        let ends: Vec<usize> = messages
            .iter()
            .scan(0, |at, m| {
                *at += 1 + m.to_string().len();
                Some(*at)
            })
            .collect();
        let text = serde_json::Value::from(messages).to_string();
        let cut = cut.index(text.len());
        let (got, report) = read_from(&mut OneDay(&text.as_bytes()[..cut]), None);
        prop_assert_eq!(got.messages.len(), ends.iter().filter(|end| **end <= cut).count());
        prop_assert_eq!(report.skipped_for(SkipReason::Broken), 1);
        prop_assert_eq!(
            report.skipped[&SkipReason::Broken].examples[0].byte,
            Some(cut as u64)
        );
        prop_assert_eq!(report.unreadable_messages(), 0);
    }

    #[test]
    fn of_equal_times_the_latest_edit_is_handed_over_last(
        written in prop::collection::vec((0u8..3, 0u8..4), 0..12),
    ) {
        let messages: Vec<serde_json::Value> = written
            .iter()
            .map(|(record, edit)| serde_json::json!({
                "ts": format!("1550077323.00000{record}"),
                "edited": {"ts": format!("155007740{edit}.000000")},
            }))
            .collect();
        let mut last: BTreeMap<u8, u8> = BTreeMap::new();
        let want: Vec<_> = written
            .iter()
            .filter(|(record, edit)| {
                let newer = last.get(record).is_none_or(|before| edit > before);
                if newer {
                    last.insert(*record, *edit);
                }
                newer
            })
            .map(|(record, edit)| {
                (format!("1550077323.00000{record}"), 1_550_077_400_000_000 + i64::from(*edit) * 1_000_000)
            })
            .collect();
        let text = serde_json::Value::from(messages).to_string();
        let (got, report) = read_from(&mut OneDay(text.as_bytes()), None);
        let handed: Vec<_> = got.messages.into_iter().map(|m| (m.2, m.3)).collect();
        prop_assert_eq!(&handed, &want);
        prop_assert_eq!(report.duplicates as usize, written.len() - want.len());
        prop_assert_eq!(report.replacements as usize, want.len() - last.len());
    }

    #[test]
    fn any_damage_to_a_day_is_survived_and_counted(
        spots in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let day = odd_export()["mpdm-a--b--c-1/2019-02-13.json"].clone();
        let mut damaged = day;
        for (at, byte) in spots {
            let at = at.index(damaged.len());
            damaged[at] = byte;
        }
        // `read_from` checks the sums.
        let (_, report) = read_from(&mut OneDay(&damaged), None);
        prop_assert!(report.skipped.keys().all(|reason| matches!(
            (reason.subject(), reason),
            (Subject::Message, _) | (_, SkipReason::Broken)
        )));
    }
}
