//! What only a ZIP file can do.

use super::*;

#[test]
fn a_zip_file_cannot_lead_out_of_itself() {
    let day = r#"[{"ts":"1550077323.000200"}]"#;
    let bytes = as_zip(&files(&[
        (
            "channels.json",
            r#"[{"id":"C1","name":"a"},{"id":"C2","name":".."}]"#,
        ),
        ("a/2019-02-13.json", day),
        ("../2019-02-13.json", day),
        ("a/../../2019-02-14.json", day),
        ("/a/2019-02-15.json", day),
        ("a\\2019-02-16.json", day),
    ]));
    let (got, report) = read_from(&mut ZipSource::new(Cursor::new(bytes)).unwrap(), None);
    assert_eq!(got.days, ["a/2019-02-13"]);
    assert_eq!(counts(&report), [(SkipReason::RefusedName, 4)]);
}

#[test]
fn names_in_a_zip_file_are_utf8_whatever_its_flag_says() {
    let export = files(&[
        ("channels.json", r#"[{"id":"C1","name":"größe"}]"#),
        ("größe/2019-02-13.json", r#"[{"ts":"1550077323.000200"}]"#),
    ]);
    let mut bytes = as_zip(&export);
    // Clear bit 11 of the flags in every local and central header.
    let mut cleared = 0;
    for at in 0..bytes.len() - 10 {
        let flags = match &bytes[at..at + 4] {
            b"PK\x03\x04" => at + 7,
            b"PK\x01\x02" => at + 9,
            _ => continue,
        };
        cleared += u32::from(bytes[flags] & 0x08 != 0);
        bytes[flags] &= !0x08;
    }
    assert_eq!(cleared, 2);
    let (got, report) = read_from(&mut ZipSource::new(Cursor::new(bytes)).unwrap(), None);
    assert_eq!(got.messages.len(), 1, "{report:?}");
}

#[test]
fn a_damaged_file_in_a_zip_file_is_counted_and_the_next_one_read() {
    let day = r#"[{"ts":"1550077323.000200"}]"#;
    let list = r#"[{"id":"C1","name":"a"}]"#;
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (path, text) in [
        ("channels.json", list),
        ("a/2019-02-13.json", day),
        ("a/2019-02-14.json", day),
    ] {
        zip.start_file(path, stored).unwrap();
        zip.write_all(text.as_bytes()).unwrap();
    }
    let mut bytes = zip.finish().unwrap().into_inner();
    let text = bytes
        .windows(day.len())
        .position(|w| w == day.as_bytes())
        .unwrap();
    bytes[text + day.len() - 6] ^= 1; // a digit of `ts`: only the checksum can tell
    let (got, report) = read_from(&mut ZipSource::new(Cursor::new(bytes)).unwrap(), None);
    assert_eq!(got.days, ["a/2019-02-13", "a/2019-02-14"]);
    assert_eq!(counts(&report), [(SkipReason::Unreadable, 1)]);
}

#[test]
fn links_in_a_zip_file_are_not_read() {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default();
    zip.start_file("channels.json", options).unwrap();
    zip.write_all(br#"[{"id":"C1","name":"a"}]"#).unwrap();
    zip.add_symlink("a/2019-02-13.json", "[]", options).unwrap();
    let bytes = zip.finish().unwrap().into_inner();
    let (got, report) = read_from(&mut ZipSource::new(Cursor::new(bytes)).unwrap(), None);
    assert_eq!(got, Got::default());
    assert_eq!(counts(&report), [(SkipReason::RefusedName, 1)]);
}
