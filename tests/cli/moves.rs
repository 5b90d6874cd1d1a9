//! Moves of channels as operators see them.

use rekeyd::clock::{SharedClock, SystemClock};
use rekeyd::ids::JobId;
use rekeyd::job::{
    Activated, BlockedSlice, CopyProgress, Counts, Effort, JobBook, JobMessage, JobRow, JobState,
    MoveRequest, Pass, Round, SliceId, TaskRow, TaskState,
};
use rekeyd::registry::{CopyPhase, Registry};
use rekeyd::store::{Consistency, PageLimit, Partition, SharedStore};
use serde_json::{Value, json};

use crate::bench::{Bench, sample_export};
use crate::{
    CONFLICT, DONE, JOB_CANCELLED, JOB_FAILED, MOVE_UNFINISHED, NOT_FOUND, TIMEOUT, USAGE,
};

/// Two channels of workspace `T1`, C1 with five messages in three hours.
fn filled(b: &Bench) {
    b.acme();
    let export = sample_export(b.dir());
    let import = [
        "import",
        "slack-export",
        &export,
        "--org",
        "acme",
        "--workspace",
        "T1",
    ];
    b.run(DONE, &import);
}

fn enqueue_move(b: &Bench, from: &str, to: &str) -> String {
    let sent = b.json(
        DONE,
        &[
            "enqueue", "move", "--org", "acme", "--from", from, "--to", to,
        ],
    );
    sent["job_id"].as_str().unwrap().to_owned()
}

/// The rows of a bench, changed by hand where no worker is to do it.
struct Rows {
    store: SharedStore,
    registry: Registry,
    book: JobBook,
}

impl Rows {
    async fn of(b: &Bench) -> Self {
        let config = rekeyd::config::Config::default_for(&b.dir().join("data")).unwrap();
        let clock: SharedClock = SystemClock::shared();
        let store = rekeyd::wiring::store(&config, &clock).await.unwrap();
        Self {
            registry: Registry::new(store.clone(), clock.clone()),
            book: JobBook::new(store.clone(), clock),
            store,
        }
    }

    /// A copy of C1 to T2/C9 that has come to a phase, as its driver would have
    /// left it.
    async fn copy(&self, phase: CopyPhase) -> (JobId, MoveRequest) {
        let job = JobId::random();
        let message = JobMessage::parse(
            &json!({"v": 1, "kind": "channel_move", "job_id": job, "org": "acme",
                "from": {"workspace": "T1", "channel": "C1"},
                "to": {"workspace": "T2", "channel": "C9"}, "requested_by": "test"})
            .to_string(),
        )
        .unwrap();
        let request = message.channel_move().unwrap().clone();
        let hash = message.body_sha256();
        self.book.record(&message, &hash, "a test").await.unwrap();
        self.go(job, JobState::Preflight, |_| {}).await;
        self.go(job, JobState::Activating, |_| {}).await;
        let row = self
            .registry
            .activate_move(&request, || true)
            .await
            .unwrap();
        self.registry
            .advance_copy(&request, phase, || true)
            .await
            .unwrap();
        self.go(job, JobState::Settling, |job| {
            job.activated = Some(Activated {
                epoch: row.epoch,
                from_cmk: row.cmk.clone(),
                at_ms: row.at_ms,
            });
            job.copy = Some(CopyProgress {
                phase,
                leave_behind: None,
                left_behind: 0,
            });
        })
        .await;
        self.go(job, JobState::Rewriting, |_| {}).await;
        (job, request)
    }

    async fn go(&self, job: JobId, to: JobState, change: impl Fn(&mut JobRow)) {
        let mut row = self.book.find(job).await.unwrap().unwrap();
        change(&mut row.row);
        self.book
            .transition(&mut row, to, "test", "a test")
            .await
            .unwrap();
    }

    /// Blocks it in a round, with one slice that waits for a key.
    async fn block(&self, job: JobId, pass: Pass) {
        let slice = SliceId {
            channel: "C1".parse().unwrap(),
            hour: "2019-02-13T17".parse().unwrap(),
        };
        let task = TaskRow {
            from: slice.clone(),
            to: None,
            planned: 3,
            state: TaskState::Parked,
            token: 1,
            lease: None,
            takeovers: 0,
            checkpoint: None,
            counts: Counts::default(),
            effort: Effort::default(),
            blocked: vec![BlockedSlice {
                slice,
                code: "revoked".to_owned(),
                message: "explicit deny".to_owned(),
                after: None,
                counts: Counts::default(),
                tries: 1,
                retry_ms: u64::MAX >> 12,
            }],
            streams: Vec::new(),
        };
        self.book.add_tasks(job, 1, 0, &[task]).await.unwrap();
        self.go(job, JobState::Blocked, |row| {
            row.rounds = 1;
            row.blocked_slices = 1;
            row.round = Some(Round {
                number: 1,
                pass,
                tasks: Some(1),
                slices: 3,
            });
        })
        .await;
    }

    async fn row(&self, job: JobId) -> JobRow {
        self.book.find(job).await.unwrap().unwrap().row
    }
}

#[test]
fn a_channel_goes_to_another_workspace_in_place_and_is_proven() {
    let b = Bench::new();
    filled(&b);
    let verify = ["verify", "--org", "acme", "--channel", "C1"];
    let before = b.json(DONE, &verify);
    assert_eq!(before["proof"]["standing"]["is"], "never_moved");
    assert_eq!(before["proof"]["proven"], Value::Null);
    assert_eq!(before["proof"]["live"], 5);
    assert!(
        b.run(DONE, &verify)
            .contains("acme/T1/C1 never moved; it has 5 live cells")
    );

    let job = enqueue_move(&b, "T1/C1", "T2/C1");
    let worker = b.worker();
    let status = b.json(DONE, &["status", &job, "--wait", "--timeout", "60"]);
    assert_eq!(status["state"], "drained");
    assert_eq!(status["move"], "in_place");
    assert_eq!(status["rewriting"]["rewritten"], 5);
    let verdict = status["verdict"].as_str().unwrap();
    assert!(
        verdict.starts_with("acme/T1/C1 is acme/T2/C1 now"),
        "{verdict}"
    );
    worker.stop();

    let after = b.json(DONE, &verify);
    assert_eq!(after["proof"]["standing"]["is"], "moved");
    assert_eq!(after["proof"]["proven"], true);
    assert_eq!(after["found"]["by_workspace"], json!({"T2": 5}));
    // The job leads to the same channel, and adds what it promised.
    let held = b.json(DONE, &["verify", "--job", &job]);
    assert_eq!(held["channel"], "C1");
    assert_eq!(held["proof"], after["proof"]);
    assert_eq!(held["job"]["is_move"], true);
    assert_eq!(held["job"]["holds"], true);
    let shown = b.run(DONE, &verify);
    assert!(
        shown.contains("the move is proven: each of the 5 live cells"),
        "{shown}"
    );
    // Nothing is claimed of cells that were not opened.
    let unopened = b.json(DONE, &[&verify[..], &["--no-open"]].concat());
    assert_eq!(unopened["proof"]["proven"], Value::Null);
    // A verdict of a move does not lapse with the CMK.
    let shown = b.run(DONE, &["jobs", "--all"]);
    assert!(
        shown.contains("move of acme/T1/C1 to acme/T2/C1 (in place)"),
        "{shown}"
    );
    b.run(CONFLICT, &["cancel", &job]);
    b.run(DONE, &["audit", "verify"]);

    // Refused, with the reason: nothing is there any more. By a worker, too.
    let gone = [
        "enqueue", "move", "--org", "acme", "--from", "T1/C1", "--to", "T3/C1",
    ];
    let shown = b.run(CONFLICT, &gone);
    assert!(shown.contains("wrong_workspace"), "{shown}");
    let late = b.json(DONE, &[&gone[..], &["--unchecked"]].concat());
    let late = late["job_id"].as_str().unwrap().to_owned();
    let worker = b.worker();
    let shown = b.run(JOB_FAILED, &["status", &late, "--wait", "--timeout", "60"]);
    assert!(shown.contains("wrong_workspace"), "{shown}");
    worker.stop();
}

#[tokio::test]
async fn a_move_in_place_that_is_not_finished_is_not_proven() {
    let b = Bench::new();
    filled(&b);
    let rows = Rows::of(&b).await;
    let request = JobMessage::parse(
        &json!({"v": 1, "kind": "channel_move", "job_id": JobId::random(), "org": "acme",
            "from": {"workspace": "T1", "channel": "C1"},
            "to": {"workspace": "T2", "channel": "C1"}, "requested_by": "test"})
        .to_string(),
    )
    .unwrap();
    let request = request.channel_move().unwrap();
    rows.registry.activate_move(request, || true).await.unwrap();
    let verify = ["verify", "--org", "acme", "--channel", "C1"];
    let found = b.json(MOVE_UNFINISHED, &verify);
    assert_eq!(found["proof"]["under_old_scope"], 5);
    assert_eq!(found["proof"]["below_epoch"], 5);
    let shown = b.run(MOVE_UNFINISHED, &verify);
    assert!(
        shown.contains("5 cells under an old scope; 5 cells below epoch 2"),
        "{shown}"
    );
}

#[tokio::test]
async fn a_copy_is_called_off_and_what_was_copied_is_gone() {
    let b = Bench::new();
    filled(&b);
    let rows = Rows::of(&b).await;
    let (job, request) = rows.copy(CopyPhase::Mirrored).await;
    let id = job.to_string();
    // What a worker had copied: any bytes will do, nobody opens them.
    let org = request.to_org().clone();
    let moved = rows.registry.move_row(&org, job).await.unwrap().unwrap();
    let partition = Partition {
        org: org.clone(),
        place: moved.place.clone(),
        hour: "2019-02-13T17".parse().unwrap(),
    };
    copied_by_hand(&rows, &partition).await;

    let shown = b.run(DONE, &["status", &id]);
    assert!(
        shown.contains("phase mirrored: clients write to both places"),
        "{shown}"
    );
    let jobs = b.json(DONE, &["jobs"]);
    assert_eq!(jobs["jobs"][0]["copy"]["phase"], "mirrored");
    let from = b.json(
        MOVE_UNFINISHED,
        &["verify", "--org", "acme", "--channel", "C1"],
    );
    assert_eq!(from["proof"]["standing"]["phase"], "mirrored");
    let org = b.json(DONE, &["org", "show", "acme"]);
    assert_eq!(org["channels"][0]["outgoing"]["phase"], "mirrored");

    let cancelled = b.json(DONE, &["cancel", &id, "--reason", "not this week"]);
    assert_eq!(cancelled["to"], "cancelled");
    assert_eq!(cancelled["purged"], json!({"slices": 1}));
    let verdict = cancelled["verdict"].as_str().unwrap();
    assert!(
        verdict.starts_with("acme/T1/C1 stays where it was"),
        "{verdict}"
    );
    let page = PageLimit {
        rows: 10,
        bytes: 1 << 20,
    };
    let left = rows
        .store
        .read_page(&partition, None, page, Consistency::All);
    assert_eq!(left.await.unwrap().cells, []);
    b.run(JOB_CANCELLED, &["status", &id, "--wait"]);
    // The registry is as before, and the id is free for another try.
    assert_eq!(rows.registry.copy_phase(&request).await.unwrap(), None);
    b.run(NOT_FOUND, &["verify", "--org", "acme", "--channel", "C9"]);
    let again = b.json(DONE, &["verify", "--org", "acme", "--channel", "C1"]);
    assert_eq!(again["proof"]["standing"]["is"], "never_moved");
    let row = rows.row(job).await;
    assert_eq!(
        (row.state, row.why.as_str()),
        (JobState::Cancelled, "by operator: not this week")
    );
    b.run(DONE, &["audit", "verify"]);
}

/// A cell and the key row by which its slice is found.
async fn copied_by_hand(rows: &Rows, partition: &Partition) {
    use rekeyd::store::{CellWrite, SliceKey};
    let of = |channel: &str| {
        let channel = channel.parse().unwrap();
        SliceKey::messages(&partition.org, &channel, partition.hour)
    };
    let keys = rows.store.read_keys(&of("C1")).await.unwrap();
    rows.store.insert_key(&of("C9"), &keys[0]).await.unwrap();
    let write = CellWrite {
        record: rekeyd::ids::RecordId::new("r1").unwrap(),
        cell: vec![7; 60].into(),
        write_time: rekeyd::clock::WriteTime(1_550_077_323_000_200),
        ttl_s: 0,
    };
    rows.store.write_cells(partition, &[write]).await.unwrap();
}

#[tokio::test]
async fn from_switched_on_the_way_back_is_a_move_back() {
    let b = Bench::new();
    filled(&b);
    let rows = Rows::of(&b).await;
    let (job, request) = rows.copy(CopyPhase::Switched).await;
    let id = job.to_string();
    let before = rows.row(job).await;
    let shown = b.run(CONFLICT, &["cancel", &id]);
    assert!(
        shown.contains("rekeyd enqueue move --org acme --from T2/C9 --to T1/C1"),
        "{shown}"
    );
    assert_eq!(rows.row(job).await, before, "nothing was changed");
    let phase = rows.registry.copy_phase(&request).await.unwrap();
    assert_eq!(phase, Some(CopyPhase::Switched));

    // At the end, by the rows: the old place still has its messages.
    rows.registry
        .advance_copy(&request, CopyPhase::Closed, || true)
        .await
        .unwrap();
    rows.registry.release_destination(&request).await.unwrap();
    let verify = ["verify", "--org", "acme", "--channel", "C9"];
    let found = b.json(MOVE_UNFINISHED, &verify);
    // Of a copy the job is held against where it went.
    let held = b.json(MOVE_UNFINISHED, &["verify", "--job", &job.to_string()]);
    assert_eq!(held["channel"], "C9");
    assert_eq!(held["job"]["holds"], false);
    let lacks = held["job"]["lacks"].to_string();
    assert!(lacks.contains("5 cells in the old place"), "{lacks}");
    assert_eq!(found["proof"]["old_places"][0]["live"], 5);
    assert_eq!(found["proof"]["old_places"][0]["slices"], 3);
    assert_eq!(found["proof"]["old_places"][0]["phase"], "closed");
    let shown = b.run(MOVE_UNFINISHED, &verify);
    assert!(
        shown.contains("5 cells in the old place of acme/T1/C1"),
        "{shown}"
    );
    let gone = b.json(
        MOVE_UNFINISHED,
        &["verify", "--org", "acme", "--channel", "C1"],
    );
    assert_eq!(gone["proof"]["standing"]["is"], "gone");
    // And when they are gone from there.
    let origin = rows
        .registry
        .view(&request.org, &request.to.channel)
        .await
        .unwrap()
        .channel_row
        .came_from[0]
        .clone();
    for hour in ["2019-02-13T17", "2019-02-13T18", "2019-02-14T13"] {
        let partition = Partition {
            org: request.org.clone(),
            place: origin.place.clone(),
            hour: hour.parse().unwrap(),
        };
        let at = rekeyd::clock::WriteTime(i64::MAX / 4);
        rows.store.delete_partition(&partition, at).await.unwrap();
    }
    let found = b.json(DONE, &verify);
    assert_eq!(found["proof"]["proven"], true, "{found}");
}

#[tokio::test]
async fn what_waits_for_a_key_is_left_behind_only_by_an_operators_word() {
    let b = Bench::new();
    filled(&b);
    let rows = Rows::of(&b).await;
    let (job, _) = rows.copy(CopyPhase::Mirrored).await;
    let id = job.to_string();
    let leave = ["retry", &id, "--leave-behind", "--reason", "ticket 4711"];
    let shown = b.run(CONFLICT, &leave);
    assert!(shown.contains("it is not blocked but rewriting"), "{shown}");
    b.run(USAGE, &["retry", &id, "--leave-behind"]);
    rows.block(job, Pass::Copy).await;
    let shown = b.run(MOVE_UNFINISHED, &["status", &id, "--wait"]);
    assert!(shown.contains("--leave-behind"), "{shown}");
    assert!(b.run(DONE, &["failures", &id]).contains("--leave-behind"));
    let did = b.json(DONE, &leave);
    assert_eq!(
        (&did["retried"], &did["slices"]),
        (&json!("left_behind"), &json!(1))
    );
    let row = rows.row(job).await;
    assert_eq!(row.state, JobState::Rewriting);
    assert_eq!(row.copy.unwrap().leave_behind.unwrap().why, "ticket 4711");
    assert_eq!(row.round.unwrap().pass, Pass::Copy, "the round goes on");
    let shown = b.run(DONE, &["status", &id]);
    assert!(
        shown.contains("left behind") && shown.contains("ticket 4711"),
        "{shown}"
    );
    let org = "acme".parse().unwrap();
    let history = rows.book.history(&org, job).await.unwrap();
    assert!(history.last().unwrap().why.contains("ticket 4711"));
    b.run(DONE, &["audit", "verify"]);
}

#[test]
fn what_cannot_leave_anything_behind_says_why() {
    let b = Bench::new();
    let (_, new) = b.acme();
    let job = b.enqueue("acme", &new);
    let worker = b.worker();
    b.run(DONE, &["status", &job, "--wait", "--timeout", "60"]);
    worker.stop();
    let shown = b.run(
        CONFLICT,
        &["retry", &job, "--leave-behind", "--reason", "x"],
    );
    assert!(shown.contains("it is a rekey"), "{shown}");
}

#[tokio::test]
async fn a_job_is_paused_with_its_reason_and_goes_on() {
    let b = Bench::new();
    filled(&b);
    let rows = Rows::of(&b).await;
    let (job, _) = rows.copy(CopyPhase::Mirrored).await;
    let id = job.to_string();
    b.run(USAGE, &["pause", &id]);
    b.run(USAGE, &["pause", &id, "--reason", " "]);
    b.run(CONFLICT, &["resume", &id]);
    let paused = b.json(DONE, &["pause", &id, "--reason", "repair tonight"]);
    assert_eq!(paused["from"], "rewriting");
    assert_eq!(paused["to"], "paused");
    let why = paused["why"].as_str().unwrap();
    assert!(
        why.starts_with("by ") && why.ends_with(": repair tonight"),
        "{why}"
    );
    let shown = b.run(CONFLICT, &["pause", &id, "--reason", "again"]);
    assert!(shown.contains("rekeyd resume"), "{shown}");
    for (arguments, says) in [
        (&["status", &id][..], "rekeyd resume"),
        (&["status", &id], "repair tonight"),
        (&["jobs"], "paused (mirrored)"),
        (&["jobs"], "repair tonight"),
    ] {
        let shown = b.run(DONE, arguments);
        assert!(shown.contains(says), "{arguments:?}: {shown}");
    }
    let status = b.json(DONE, &["status", &id]);
    assert_eq!(status["paused_from"], "rewriting");
    assert_eq!(status["progress"]["waits"]["code"], "paused");
    let shown = b.run(CONFLICT, &["retry", &id]);
    assert!(shown.contains("rekeyd resume"), "{shown}");
    b.run(TIMEOUT, &["status", &id, "--wait", "--timeout", "0"]);
    let resumed = b.json(DONE, &["resume", &id]);
    assert_eq!(
        (&resumed["from"], &resumed["to"]),
        (&json!("paused"), &json!("rewriting"))
    );
    b.run(DONE, &["pause", &id, "--reason", "once more"]);
    // A paused copy is called off like any.
    let cancelled = b.json(DONE, &["cancel", &id]);
    assert_eq!(cancelled["from"], "paused");
    let shown = b.run(CONFLICT, &["pause", &id, "--reason", "late"]);
    assert!(shown.contains("at its end"), "{shown}");
    b.run(DONE, &["audit", "verify"]);
}

#[test]
fn consent_is_entered_where_it_belongs_and_shown() {
    let b = Bench::new();
    let (old, _) = b.acme();
    b.run(DONE, &["org", "add", "other", "--cmk", &old]);
    let at = |days: i64| {
        let s = jiff::Timestamp::now().as_second() + days * 86_400;
        jiff::Timestamp::from_second(s).unwrap().to_string()
    };
    let (from, to) = ("acme/T1/C1", "other/T9/C1");
    let consent = |org: &str, from: &str, to: &str, until: &str| -> Vec<String> {
        [
            "org",
            "consent-move",
            org,
            "--from",
            from,
            "--to",
            to,
            "--until",
            until,
        ]
        .map(str::to_owned)
        .to_vec()
    };
    let cases = [
        (USAGE, consent("beta", from, to, &at(1)), "neither"),
        (USAGE, consent("acme", from, to, &at(-1)), "is past"),
        (USAGE, consent("acme", from, to, &at(91)), "90 days"),
        (
            USAGE,
            consent("acme", from, "acme/T2/C1", &at(1)),
            "no consent",
        ),
        (
            USAGE,
            consent("acme", "acme/T1", to, &at(1)),
            "workspace/channel",
        ),
        (
            NOT_FOUND,
            consent("beta", from, "beta/T1/C1", &at(1)),
            "org add beta",
        ),
    ];
    for (code, arguments, says) in cases {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let shown = b.run(code, &arguments).to_lowercase();
        assert!(
            shown.contains(says),
            "{arguments:?} does not say `{says}`: {shown}"
        );
    }
    for org in ["acme", "other"] {
        let arguments = consent(org, from, to, &at(30));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let entered = b.json(DONE, &arguments);
        assert_eq!(entered["org"], org);
        let shown = b.run(DONE, &arguments);
        assert!(
            shown.contains("rekeyd enqueue move --org acme --from T1/C1 --to-org other --to T9/C1"),
            "{shown}"
        );
        let listed = b.json(DONE, &["org", "show", org]);
        assert_eq!(listed["consents"].as_array().unwrap().len(), 1, "replaced");
        assert_eq!(listed["consents"][0]["valid"], true);
        assert!(
            b.run(DONE, &["org", "show", org])
                .contains("CONSENT TO MOVE")
        );
    }
    b.run(DONE, &["audit", "verify"]);
}

#[test]
fn a_move_is_asked_for_by_flags_or_by_file_and_not_mistaken_for_a_rekey() {
    let b = Bench::new();
    let (_, new) = b.acme();
    let cases: [(&[&str], &str); 5] = [
        (&["--from", "T1/C1", "--to", "T1/C1"], "bad_request"),
        (&["--from", "C1", "--to", "T2/C1"], "w1/c1"),
        (&["--from", "T1/C1", "--to", "T2/C*"], "channel id"),
        (&["--from", "T1/C1"], "--to"),
        (
            &[
                "--from",
                "T1/C1",
                "--to",
                "T2/C1",
                "--not-before",
                "2026-03-02T00:00:00Z",
                "--not-after",
                "2026-03-01T00:00:00Z",
            ],
            "not_before",
        ),
    ];
    for (arguments, says) in cases {
        let all = [&["enqueue", "move", "--org", "acme"][..], arguments].concat();
        let shown = b.run(USAGE, &all);
        assert!(
            shown.contains(says),
            "{arguments:?} does not say `{says}`: {shown}"
        );
    }
    let job = JobId::random().to_string();
    let sent = b.json(
        DONE,
        &[
            "enqueue",
            "move",
            "--org",
            "acme",
            "--from",
            "T1/C1",
            "--to",
            "T9/C1",
            "--to-org",
            "other",
            "--job-id",
            &job,
            "--reason",
            "sold",
            "--cause",
            "customer_request",
            "--unchecked",
        ],
    );
    assert_eq!(sent["job_id"], job.as_str());
    assert_eq!(sent["move"], "copy");
    assert_eq!(
        sent["to"],
        json!({"org": "other", "workspace": "T9", "channel": "C1"})
    );
    let shown = b.run(
        DONE,
        &[
            &["enqueue", "move", "--org", "acme", "--unchecked"][..],
            &["--from", "T1/C1", "--to", "T2/C1"],
        ]
        .concat(),
    );
    assert!(
        shown.contains("asked for: move of acme/T1/C1 to acme/T2/C1 (in place)"),
        "{shown}"
    );

    let file = |name: &str, body: &Value| {
        let path = b.dir().join(name);
        std::fs::write(&path, body.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let a_move = file(
        "move.json",
        &json!({"v": 1, "kind": "channel_move", "job_id": JobId::random(), "org": "acme",
            "from": {"workspace": "T1", "channel": "C1"},
            "to": {"workspace": "T2", "channel": "C2"}, "requested_by": "test"}),
    );
    let a_rekey = file(
        "rekey.json",
        &json!({"v": 1, "kind": "rekey", "job_id": JobId::random(), "org": "acme",
            "to_cmk": new, "requested_by": "test"}),
    );
    let shown = b.run(NOT_FOUND, &["enqueue", "move", "--file", &a_move]);
    assert!(shown.contains("unknown_channel"), "{shown}");
    b.run(DONE, &["enqueue", "move", "--file", &a_move, "--unchecked"]);
    b.run(DONE, &["enqueue", "rekey", "--file", &a_rekey]);
    let shown = b.run(USAGE, &["enqueue", "rekey", "--file", &a_move]);
    assert!(shown.contains("rekeyd enqueue move --file"), "{shown}");
    let shown = b.run(USAGE, &["enqueue", "move", "--file", &a_rekey]);
    assert!(shown.contains("rekeyd enqueue rekey --file"), "{shown}");
    b.run(
        USAGE,
        &["enqueue", "move", "--file", &a_move, "--org", "acme"],
    );
    let schema = b.json(DONE, &["schema", "job"]);
    assert_eq!(schema["oneOf"].as_array().unwrap().len(), 2);
}
