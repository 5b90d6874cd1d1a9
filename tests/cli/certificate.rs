//! Reports: made, signed, checked and refused.

use serde_json::json;

use crate::bench::{Bench, sample_export};
use crate::{BAD_DATA, CONFIG, CONFLICT, DONE, NO_JOB, NOT_FOUND, USAGE};

#[test]
fn a_report_is_signed_and_a_changed_one_is_found() {
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

    let path = |name: &str| b.dir().join(name).to_str().unwrap().to_owned();
    let (key, public, page, document) = (
        path("report.key"),
        path("report.pub"),
        path("r.html"),
        path("r.json"),
    );
    b.run(NOT_FOUND, &["report", NO_JOB]);
    b.run(USAGE, &["report"]);
    let unsigned = b.json(DONE, &["report", &job]);
    assert_eq!(unsigned["signature"], json!(null));
    std::fs::write(&document, unsigned.to_string()).unwrap();

    let pem = b.run(DONE, &["report", "new-key", &key]);
    std::fs::write(&public, &pem).unwrap();
    b.run(CONFLICT, &["report", "new-key", &key]);
    b.run(USAGE, &["report", "check", &document]);
    let check = |code, file: &str| b.run(code, &["report", "check", file, "--public-key", &public]);
    assert!(check(BAD_DATA, &document).contains("not signed"));
    let config = path("rekeyd.toml");
    std::fs::write(&config, format!("[report]\nsigning_key_file = \"{key}\"\n")).unwrap();
    let sign = ["--config", &config, "report", &job, "--html", &page];
    let signed = b.json(DONE, &sign);
    b.run(CONFLICT, &sign);
    let c = &signed["certificate"];
    assert_eq!(c["outcome"]["old_cmk_may_be_disabled"], json!(true));
    assert_eq!(c["activation"]["from_cmk"], json!(old));
    assert_eq!(c["evidence"]["counts_balance"], json!(true));
    assert!(c["evidence"]["rewriting"]["rewritten"].as_u64().unwrap() > 0);
    assert!(!c["evidence"]["audit"].as_array().unwrap().is_empty());
    std::fs::write(&document, signed.to_string()).unwrap();
    for file in [&document, &page] {
        let told = check(DONE, file);
        assert!(told.contains("good") && told.contains(&old), "{told}");
        // By the configuration's own key.
        b.run(DONE, &["--config", &config, "report", "check", file]);
    }
    let changed = signed.to_string().replace("\"drained\"", "\"failed\"");
    std::fs::write(&document, changed).unwrap();
    assert!(check(BAD_DATA, &document).contains("changed after it was signed"));
    let text = std::fs::read_to_string(&page).unwrap();
    std::fs::write(&page, text.replace("<td>acme</td>", "<td>other</td>")).unwrap();
    assert!(check(BAD_DATA, &page).contains("shows something else"));
    check(NOT_FOUND, &path("nothing"));
    b.run(CONFIG, &["report", "check", &page, "--public-key", &key]);
    let shown = b.run(DONE, &["report", &job]);
    assert!(
        shown.trim_end().ends_with("schedule its deletion"),
        "the verdict comes last: {shown}"
    );
}
