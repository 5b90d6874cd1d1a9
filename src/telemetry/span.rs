//! The spans that say what a log line is about: by their fields the lines of one
//! job, task or worker are found together, across processes.
//!
//! Each says all, and none relies on another around it: work for one job goes on
//! in many tasks of the runtime. They are made at level `error`, so that a filter
//! that lets only errors through still says where they belong.

use std::fmt::Display;

use tracing::{Span, error_span};

use crate::ids::{JobId, OrgId};

/// What a worker does as the driver of a job. Fields `worker`, `org`, `job`.
pub fn job(worker: &str, org: &OrgId, job: JobId) -> Span {
    error_span!("job", %worker, %org, %job)
}

/// What is done under one lease of a task. Besides the job's fields: `task`, the
/// `pass` and `token`, the lease's fencing token.
pub fn task(
    worker: &str,
    org: &OrgId,
    job: JobId,
    task: &dyn Display,
    pass: &str,
    token: u64,
) -> Span {
    error_span!("task", %worker, %org, %job, %task, %pass, token)
}
