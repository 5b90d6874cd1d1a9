//! The spans that say what a log line is about. They nest: a worker's, within it
//! a job's, within it a task's, within it a slice's.
//!
//! They are made at level `error`, so that a filter that lets only errors
//! through still says where they belong.

use std::fmt::Display;

use tracing::{Span, error_span};

use crate::ids::{JobId, OrgId};

/// The span of a worker process. Field `worker`.
pub const WORKER: &str = "worker";
/// The span of a job. Fields `job` and `org`.
pub const JOB: &str = "job";
/// The span of a held task. Fields `task` and `token`, its fencing token.
pub const TASK: &str = "task";
/// The span of a slice. Field `slice`.
pub const SLICE: &str = "slice";

/// What a worker process does.
pub fn worker(worker: &str) -> Span {
    error_span!(WORKER, worker)
}

/// What is done for a job.
pub fn job(org: &OrgId, job: JobId) -> Span {
    error_span!(JOB, %job, %org)
}

/// What is done under one lease of a task.
pub fn task(task: &dyn Display, token: u64) -> Span {
    error_span!(TASK, %task, token)
}

/// What is done with a slice.
pub fn slice(slice: &dyn Display) -> Span {
    error_span!(SLICE, %slice)
}
