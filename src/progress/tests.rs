use super::*;
use crate::clock::BootTime;
use crate::epoch::Epoch;
use crate::job::{
    Activated, BlockedSlice, CopyProgress, Effort, JobMessage, Lease, Round, SliceId, Window,
};
use proptest::prelude::*;

fn job(state: JobState) -> JobRow {
    let request = JobMessage::parse(
        r#"{"v":1,"kind":"rekey","job_id":"7b1f3e38-56b1-4f3a-9a0e-1f2d3c4b5a69","org":"acme",
        "to_cmk":"arn:aws:kms:local:000000000000:key/b","requested_by":"ops"}"#,
    )
    .unwrap();
    let mut row = JobRow::recorded(&request, "", 0, "2 slices revoked");
    (row.state, row.since_ms, row.token) = (state, 1_000_000, 1);
    (row.rounds, row.rewrite_round) = (1, 1);
    row.lease = Some(Lease {
        worker: "w".into(),
        until_ms: u64::MAX,
        waits: None,
        intake_waits: None,
        slowed: None,
    });
    row.round = Some(Round {
        number: 1,
        pass: Pass::Rewrite,
        tasks: Some(1),
        slices: 1024,
    });
    row
}

fn task(state: TaskState, planned: u64, done: u64, blocked: usize) -> TaskRow {
    let slice = SliceId {
        channel: "c1".parse().unwrap(),
        hour: "2019-02-13T17".parse().unwrap(),
    };
    TaskRow {
        from: slice.clone(),
        to: None,
        planned,
        state,
        token: 1,
        lease: None,
        takeovers: 0,
        checkpoint: None,
        counts: Counts {
            scanned: 18_349_000,
            ..Counts::default()
        },
        effort: Effort {
            slices: done,
            kms_calls: 4200,
            ..Effort::default()
        },
        blocked: vec![
            BlockedSlice {
                slice,
                code: "revoked".into(),
                message: String::new(),
                after: None,
                counts: Counts::default(),
                tries: 1,
                retry_ms: 1_060_000,
            };
            blocked
        ],
        streams: Vec::new(),
    }
}

const NOW: WallTime = WallTime(1_020_000_000);

#[test]
fn the_line_says_it_all() {
    let job = job(JobState::Rewriting);
    let tasks = [task(TaskState::Parked, 414, 500, 2)];
    let mut progress = Progress::of(&job, &tasks, &Timing::demo(), NOW);
    let boot = BootTime(Duration::from_secs(5000));
    Speed::default().look(&mut progress, &job, NOW, boot);
    assert_eq!(
        progress.line(&job),
        "rekey acme  412/1024 slices 40.2 %  18.3 M messages  917.5 k/s  KMS 210/s  \
         2 blocked  ETA 30 s"
    );
}

/// Slices that wait for a key are counted in the effort while the task goes on.
#[test]
fn what_is_parked_is_never_done_and_progress_never_goes_back() {
    let job = job(JobState::Rewriting);
    let mut last = 0;
    for (state, gone_through, blocked, done) in [
        (TaskState::Open, 0, 0, 0),
        (TaskState::Open, 166, 16, 150),
        (TaskState::Open, 200, 50, 150),
        (TaskState::Parked, 200, 50, 150),
        (TaskState::Parked, 200, 20, 180),
        (TaskState::Done, 200, 0, 200),
    ] {
        let tasks = [task(state, 200, gone_through, blocked)];
        let progress = Progress::of(&job, &tasks, &Timing::demo(), NOW);
        assert_eq!(progress.slices_done, done, "{state:?} {blocked}");
        assert!(progress.slices_done >= last);
        last = progress.slices_done;
    }
}

#[test]
fn an_unknown_eta_says_so_and_so_does_a_job_nobody_drives() {
    let mut job = job(JobState::Rewriting);
    let idle = [task(TaskState::Open, 1024, 0, 0)];
    let progress = Progress::of(&job, &idle, &Timing::demo(), NOW);
    assert!(progress.line(&job).ends_with("ETA unknown"));
    job.lease = None;
    let progress = Progress::of(&job, &idle, &Timing::demo(), NOW);
    let line = progress.line(&job);
    assert!(line.ends_with("no worker drives it; start one with `rekeyd worker`"));
    assert_eq!(progress.waits.unwrap().code, "no_worker");
}

#[test]
fn a_job_that_rests_needs_nobody() {
    let timing = Timing::demo();
    let mut draining = job(JobState::Draining);
    draining.drain_until_ms = Some(1_030_000);
    let mut refused = job(JobState::Blocked);
    refused.retry_ms = Some(1_030_000);
    for (mut job, code) in [(draining, "draining"), (refused, "blocked")] {
        job.round = None;
        job.lease = None;
        let waits = |ms: i64| {
            let now = WallTime(ms * 1000);
            Progress::of(&job, &[], &timing, now).waits.unwrap()
        };
        assert_eq!(waits(1_020_000).code, code);
        assert_eq!(waits(1_034_000).code, code);
        assert_eq!(waits(1_035_000).code, "no_worker");
    }
    let mut settling = job(JobState::Settling);
    settling.round = None;
    let over = Progress::of(&settling, &[], &timing, NOW).waits.unwrap();
    assert_eq!(over.words, "waits for every writer to follow");
}

#[test]
fn each_wait_is_named() {
    let timing = Timing::demo();
    let cases = [
        (JobState::Settling, "settling"),
        (JobState::Verifying, "settling_writes"),
        (JobState::Draining, "draining"),
        (JobState::Blocked, "blocked"),
        (JobState::Rewriting, "planning"),
        (JobState::Preflight, "preflight"),
    ];
    for (state, code) in cases {
        let mut job = job(state);
        job.round = None;
        let progress = Progress::of(&job, &[], &timing, NOW);
        assert_eq!(progress.waits.as_ref().map(|w| w.code), Some(code));
    }
    let mut paused = job(JobState::Paused);
    (paused.lease, paused.why) = (None, "by ops: repair".to_owned());
    let progress = Progress::of(&paused, &[], &timing, NOW);
    assert_eq!(progress.waits.as_ref().map(|w| w.code), Some("paused"));
    assert!(progress.line(&paused).ends_with("paused by ops: repair"));
    for state in [
        JobState::Drained,
        JobState::Retired,
        JobState::Failed,
        JobState::Cancelled,
    ] {
        assert!(Progress::of(&job(state), &[], &timing, NOW).waits.is_none());
    }
    let blocked = job(JobState::Blocked);
    let tasks = [task(TaskState::Parked, 10, 8, 2)];
    let line = Progress::of(&blocked, &tasks, &timing, NOW).line(&blocked);
    assert!(
        line.ends_with("blocked: 2 slices revoked; tried again in 40 s"),
        "{line}"
    );
}

#[test]
fn a_job_that_somebody_asked_to_retry_is_not_at_an_end() {
    let mut blocked = job(JobState::Blocked);
    blocked.activated = Some(Activated {
        epoch: Epoch::FIRST,
        from_cmk: "arn:aws:kms:local:000000000000:key/a".parse().unwrap(),
        at_ms: 0,
    });
    blocked.blocked_slices = 2;
    let mut tasks = [task(TaskState::Parked, 10, 8, 2)];
    assert!(!is_tried_again(&blocked, &tasks), "due by itself later");
    tasks[0].blocked[1].retry_ms = 0;
    assert!(is_tried_again(&blocked, &tasks));
    let line = Progress::of(&blocked, &tasks, &Timing::demo(), NOW).line(&blocked);
    assert!(
        line.ends_with("2 slices revoked; is tried again now"),
        "{line}"
    );
    // It was good, and the driver has not seen it yet.
    let done = [task(TaskState::Done, 10, 10, 0)];
    assert!(is_tried_again(&blocked, &done));
    // Cells that do not open wait for a person.
    blocked.blocked_slices = 0;
    assert!(!is_tried_again(&blocked, &done));
    // Before activation there are no tasks.
    (blocked.activated, blocked.round) = (None, None);
    assert!(!is_tried_again(&blocked, &[]));
    blocked.retry_ms = Some(0);
    assert!(is_tried_again(&blocked, &[]));
    blocked.state = JobState::Rewriting;
    assert!(!is_tried_again(&blocked, &tasks));
}

#[test]
fn the_first_look_tells_the_speed_only_of_a_round_that_nothing_has_held_up() {
    let boot = BootTime(Duration::from_secs(5000));
    let tasks = [task(TaskState::Open, 1024, 612, 0)];
    let speed = |job: &JobRow| {
        let mut progress = Progress::of(job, &tasks, &Timing::demo(), NOW);
        Speed::default().look(&mut progress, job, NOW, boot);
        (progress.rates.is_some(), progress.eta_s.is_some())
    };
    let job = job(JobState::Rewriting);
    assert_eq!(speed(&job), (true, true));
    // It was paused and let go on: its time in this state is not that of its work.
    let mut resumed = job.clone();
    resumed.transitions = 6;
    assert_eq!(speed(&resumed), (false, false));
    let mut taken_over = job.clone();
    taken_over.token = 2;
    assert_eq!(speed(&taken_over), (false, false));
    let mut alone = job;
    alone.lease = None;
    assert_eq!(speed(&alone), (false, false), "no worker drives it");
}

#[test]
fn what_is_tried_at_the_end_of_a_task_is_not_retried_by_command() {
    assert!(has_parked(&[task(TaskState::Parked, 10, 8, 2)]));
    assert!(!has_parked(&[
        task(TaskState::Open, 10, 4, 2),
        task(TaskState::Done, 10, 10, 0)
    ]));
}

#[test]
fn what_an_open_round_did_counts_before_its_end() {
    let tasks = [
        task(TaskState::Done, 512, 512, 0),
        task(TaskState::Parked, 512, 510, 2),
    ];
    let mut row = job(JobState::Blocked);
    row.effort.slices = 7;
    let so_far = row.so_far(&tasks);
    assert_eq!(so_far.effort.slices, 7 + 512 + 510);
    assert_eq!(so_far.effort.kms_calls, 2 * 4200);
    assert_eq!(so_far.rewriting.scanned, 2 * 18_349_000);
    // Half of a scan proves nothing.
    row.round.as_mut().unwrap().pass = Pass::Verify;
    let so_far = row.so_far(&tasks);
    assert_eq!(so_far.proof, row.proof);
    assert_eq!(so_far.rewriting, row.rewriting);
}

#[test]
fn a_closed_window_is_waited_for_and_named() {
    // 1970-01-01T00:17 UTC; opens at two o'clock.
    let window = Window::new("0 2 * * *", "UTC", 60).unwrap();
    let waits = |state, pass| {
        let mut job = job(state);
        let JobMessage::Rekey(request) = &mut job.request else {
            unreachable!("the job of these tests is a rekey");
        };
        request.window = Some(window.clone());
        job.lease = None;
        job.round = job.round.map(|round| Round { pass, ..round });
        job.activated = Some(Activated {
            epoch: Epoch::FIRST,
            from_cmk: "arn:aws:kms:local:000000000000:key/a".parse().unwrap(),
            at_ms: 0,
        });
        (
            job.is_due(NOW.unix_ms()),
            Progress::of(&job, &[], &Timing::demo(), NOW).waits,
        )
    };
    for (state, pass) in [
        (JobState::Queued, Pass::Rewrite),
        (JobState::Preflight, Pass::Rewrite),
        (JobState::Rewriting, Pass::Rewrite),
        (JobState::Verifying, Pass::Verify),
        (JobState::Verified, Pass::Verify),
    ] {
        let (due, waits) = waits(state, pass);
        let waits = waits.unwrap();
        assert!(!due, "{state}");
        assert_eq!((waits.code, waits.until_ms), ("window", Some(7_200_000)));
        assert_eq!(
            waits.words,
            "its window is closed until 1970-01-01T02:00:00Z (1 h 43 m)"
        );
    }
    // What has begun goes on outside.
    for (state, pass) in [
        (JobState::Activating, Pass::Rewrite),
        (JobState::Settling, Pass::Rewrite),
        (JobState::Draining, Pass::Drain),
        (JobState::Blocked, Pass::Sweep),
    ] {
        let (due, waits) = waits(state, pass);
        assert!(due, "{state}");
        assert_ne!(waits.map(|w| w.code), Some("window"), "{state}");
    }
    let (due, blocked) = waits(JobState::Blocked, Pass::Rewrite);
    assert!(!due, "its tasks are not taken");
    assert_eq!(blocked.unwrap().code, "blocked");
}

#[test]
fn a_copy_says_its_phase_and_what_clients_do() {
    let mut job = job(JobState::Rewriting);
    job.request = JobMessage::parse(
        r#"{"v":1,"kind":"channel_move","job_id":"7b1f3e38-56b1-4f3a-9a0e-1f2d3c4b5a69",
        "org":"acme","from":{"workspace":"w1","channel":"c1"},
        "to":{"workspace":"w2","channel":"c2"},"requested_by":"ops"}"#,
    )
    .unwrap();
    let line =
        |job: &JobRow, tasks: &[TaskRow]| Progress::of(job, tasks, &Timing::demo(), NOW).line(job);
    assert!(line(&job, &[]).starts_with("move acme/w1/c1 to acme/w2/c2  0/1024"));
    job.copy = Some(CopyProgress {
        phase: CopyPhase::Mirrored,
        leave_behind: None,
        left_behind: 0,
    });
    let tasks = [task(TaskState::Open, 1024, 412, 0)];
    assert_eq!(
        line(&job, &tasks),
        "copy acme/w1/c1 to acme/w2/c2  phase mirrored: clients write to both places  \
         412/1024 slices 40.2 %  18.3 M messages  ETA unknown"
    );
    job.round = None;
    job.state = JobState::Settling;
    job.copy.as_mut().unwrap().phase = CopyPhase::Moved;
    assert_eq!(
        line(&job, &[]),
        "settle acme/w1/c1 to acme/w2/c2  phase moved: clients have left the old place  \
         waits for every client to follow"
    );
    job.state = JobState::Drained;
    assert_eq!(line(&job, &[]), "drained acme/w1/c1 to acme/w2/c2");
}

#[test]
fn what_holds_the_workers_up_is_what_each_said_last() {
    let lease = |worker: &str, until_ms, waits: Option<&str>| {
        Some(Lease {
            worker: worker.into(),
            until_ms,
            waits: waits.map(str::to_owned),
            intake_waits: None,
            slowed: None,
        })
    };
    let held = |lease| TaskRow {
        lease,
        ..task(TaskState::Open, 10, 0, 0)
    };
    let (kms, queue) = (Some("waits for the KMS: x"), Some("waits for the queue: y"));
    let mut job = job(JobState::Rewriting);
    job.lease = lease("w", 2_000_000, kms);
    let words = |job: &JobRow, tasks: &[TaskRow]| {
        let waits = Progress::of(job, tasks, &Timing::demo(), NOW).waits;
        waits.filter(|w| w.code == "held_up").map(|w| w.words)
    };
    assert_eq!(words(&job, &[]).as_deref(), kms);
    // The same worker has written a row since.
    let newer = |waits| held(lease("w", 2_000_001, waits));
    assert_eq!(words(&job, &[newer(queue)]).as_deref(), queue);
    assert_eq!(words(&job, &[newer(None)]), None);
    // Another one is held up by something else, a third by the same.
    let all = [
        newer(queue),
        held(lease("v", 2_000_000, kms)),
        held(lease("u", 2_000_000, kms)),
    ];
    let both = "waits for the KMS: x; waits for the queue: y";
    assert_eq!(words(&job, &all).as_deref(), Some(both));
}

/// A job that is recorded goes on without the queue: what the taking in of jobs
/// waits for is the worker's alone.
#[test]
fn what_intake_waits_for_is_said_of_the_worker_and_not_of_the_job() {
    let mut job = job(JobState::Rewriting);
    let queue = "waits for the queue: refused";
    job.lease.as_mut().unwrap().intake_waits = Some(queue.to_owned());
    let tasks = [task(TaskState::Open, 1024, 412, 0)];
    let mut progress = Progress::of(&job, &tasks, &Timing::demo(), NOW);
    assert_eq!(progress.waits, None);
    let boot = BootTime(Duration::from_secs(5000));
    Speed::default().look(&mut progress, &job, NOW, boot);
    assert!(progress.rates.is_some() && progress.eta_s.is_some());
    let said = |job: &JobRow| {
        let mut workers = std::collections::BTreeMap::new();
        held(&mut workers, job, []);
        workers.remove("w").and_then(|seen| seen.waits)
    };
    assert_eq!(said(&job).as_deref(), Some(queue));
    job.lease.as_mut().unwrap().waits = Some("waits for the KMS: x".to_owned());
    let both = format!("waits for the KMS: x; {queue}");
    assert_eq!(said(&job), Some(both));
}

#[test]
fn the_setting_aside_of_old_keys_is_no_scan_that_hangs() {
    let mut job = job(JobState::Draining);
    job.round.as_mut().unwrap().pass = Pass::Drain;
    let mut tasks = [task(TaskState::Done, 1024, 1024, 0)];
    assert!(may_set_aside(&job, &tasks));
    tasks[0].state = TaskState::Open;
    assert!(!may_set_aside(&job, &tasks), "it is scanned");
    tasks[0].state = TaskState::Done;
    let mut speed = Speed::default();
    let mut line = |s, keys| {
        let mut progress = Progress::of(&job, &tasks, &Timing::demo(), NOW);
        let so_far = AsideSoFar {
            keys,
            refused: 2,
            channels_done: 3,
        };
        progress.set_aside(so_far, 17);
        speed.look(&mut progress, &job, NOW, BootTime(Duration::from_secs(s)));
        progress.line(&job)
    };
    let scanned = "drain acme  1024/1024 slices 100.0 %  18.3 M messages  old keys are set aside:";
    assert_eq!(
        line(5000, 1000),
        format!("{scanned} 1000 so far, 2 not, 3 of 17 channels")
    );
    assert_eq!(
        line(5010, 6000),
        format!("{scanned} 6000 so far, 500/s, 2 not, 3 of 17 channels")
    );
}

proptest! {
    #[test]
    fn progress_never_passes_the_whole(
        tasks in prop::collection::vec((0u8..3, 0u64..600, 0u64..1000, 0usize..5), 0..8),
        planned in 0u64..2000,
    ) {
        let mut job = job(JobState::Rewriting);
        if let Some(round) = &mut job.round {
            round.slices = planned;
        }
        let tasks: Vec<TaskRow> = tasks
            .into_iter()
            .map(|(state, planned, done, blocked)| {
                let state = [TaskState::Open, TaskState::Parked, TaskState::Done][usize::from(state)];
                task(state, planned, done, blocked)
            })
            .collect();
        let progress = Progress::of(&job, &tasks, &Timing::demo(), NOW);
        prop_assert!(progress.slices_done <= progress.slices);
        let _ = progress.line(&job);
    }
}
