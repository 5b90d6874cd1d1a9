//! The window for a backup.

use serde_json::json;

use crate::bench::{Bench, sample_export};
use crate::{CONFLICT, DONE, NOT_FOUND, USAGE};

#[test]
fn the_window_for_a_backup_is_opened_shown_and_closed() {
    let b = Bench::new();
    let (old, new) = b.acme();
    let export = sample_export(b.dir());
    let place = ["--org", "acme", "--workspace", "T1"];
    b.run(
        DONE,
        &[&["import", "slack-export", &export], &place[..]].concat(),
    );
    let job = b.enqueue("acme", &new);
    let worker = b.worker();
    b.run(DONE, &["status", &job, "--wait", "--timeout", "1m"]);
    worker.stop();
    let shown = b.json(DONE, &["org", "show", "acme"]);
    assert_eq!(
        (&shown["cell_floor"], &shown["wrap_floor"]),
        (&json!(2), &json!(2))
    );

    let why = ["--reason", "a backup of March"];
    let window =
        |code, arguments: &[&str]| b.run(code, &[&["restore-window"], arguments, &why].concat());
    window(NOT_FOUND, &["open", "nobody"]);
    window(CONFLICT, &["close", "acme"]);
    window(USAGE, &["open", "acme", "--from-epoch", "3"]);
    b.run(USAGE, &["restore-window", "open", "acme"]);
    let told = window(DONE, &["open", "acme"]);
    assert!(told.contains(&old), "the CMK that was left: {told}");
    let told = window(CONFLICT, &["open", "acme"]);
    assert!(told.contains("a backup of March"), "{told}");
    let shown = b.json(DONE, &["org", "show", "acme"]);
    assert_eq!(shown["restore_window"]["reason"], "a backup of March");
    assert!(
        b.run(DONE, &["org", "show", "acme"])
            .contains("window is open")
    );
    let told = window(DONE, &["close", "acme"]);
    assert!(told.contains("below epoch 2"), "{told}");
    let shown = b.json(DONE, &["org", "show", "acme"]);
    assert_eq!(shown["restore_window"], json!(null));
    let audit = std::fs::read_dir(b.dir().join("data/audit")).unwrap();
    let audit: String = audit
        .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap_or_default())
        .collect();
    for action in [
        "raise_floors",
        "restore_window_open",
        "restore_window_close",
    ] {
        assert!(audit.contains(action), "no record of {action}");
    }
}
