//! Jobs, tasks, their history and what was quarantined, as they stand in the
//! store. The input is taken as each of them.

use rekeyd::job::{
    JobRow, JobState, Leased, Pass, QuarantineRow, TaskRow, Transition, is_free, note_stream,
};

use super::json_row;

/// Takes the input as each row. Answers whether it is one.
pub fn run(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else {
        return false;
    };
    let job: Option<JobRow> = json_row(text, &[]);
    if let Some(job) = &job {
        asks_of_a_job(job);
    }
    let task: Option<TaskRow> = json_row(text, &[]);
    if let Some(task) = &task {
        let _ = task.counts.balances();
        asks_of_a_lease(task);
    }
    let taken = [
        job.is_some(),
        task.is_some(),
        json_row::<QuarantineRow>(text, &[]).is_some(),
        json_row::<Transition>(text, &[]).is_some(),
    ];
    let kinds = taken.iter().filter(|taken| **taken).count();
    if text.trim_start().starts_with('{') {
        assert!(kinds <= 1, "one row is taken for two things");
    }
    kinds > 0
}

/// Whatever the row says, it can be asked.
fn asks_of_a_job(job: &JobRow) {
    let _ = (job.rewriting.balances(), job.proof.balances());
    let _ = job.mode();
    for pass in [
        Pass::Rewrite,
        Pass::Verify,
        Pass::Drain,
        Pass::Copy,
        Pass::Sweep,
    ] {
        let _ = job.scans(pass);
    }
    if let Some(until) = job.rests_until_ms(0) {
        assert!(job.is_due(until));
        assert!(until == 0 || !job.is_due(until - 1));
    } else {
        assert!(job.is_due(0));
    }
    let ways = job.state.next();
    let ends = ways.iter().all(|way| *way == JobState::Retired);
    assert_eq!(ends, job.state.is_final());
    assert!(!ways.contains(&job.state));
    asks_of_a_lease(job);
}

fn asks_of_a_lease<T: Leased>(row: &T) {
    match row.lease() {
        None => assert!(is_free(row, 0)),
        Some(lease) => {
            assert!(is_free(row, lease.until_ms));
            assert!(lease.until_ms == 0 || !is_free(row, lease.until_ms - 1));
        }
    }
    // A stream is noted once, and never goes back.
    let mut row = row.clone();
    let streams = row.streams_mut().clone();
    for stream in &streams {
        note_stream(row.streams_mut(), stream.clone());
    }
    assert_eq!(row.streams_mut().len(), streams.len());
}
