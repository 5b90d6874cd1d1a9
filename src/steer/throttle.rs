//! Slowing down, until a given time.

use std::time::Duration;

use super::{SteerError, unless_overtaken};
use crate::audit::{AuditLog, Record, RecordType};
use crate::clock::SharedClock;
use crate::job::{JobBook, Throttle, ThrottleLimits, ThrottleTarget};
use crate::kms::{ReasonCode, Use};

/// The longest that a throttle may hold: what is meant for longer is a setting of
/// the workers.
pub const LONGEST: Duration = Duration::from_secs(31 * 86_400);

/// Slows a target down for a while. `why` says who as well.
///
/// # Errors
/// If the limits or the time are none, or it cannot be recorded or written.
pub async fn throttle(
    (book, audit, clock): (&JobBook, &AuditLog, &SharedClock),
    target: &ThrottleTarget,
    limits: ThrottleLimits,
    span: Duration,
    (who, why): (&str, &str),
) -> Result<Throttle, SteerError> {
    if let Some(problem) = limits.problem() {
        return Err(SteerError::Limits(problem.to_string()));
    }
    if span.is_zero() || span > LONGEST {
        let what = "the time that it holds for is above 0 and at most 31d";
        return Err(SteerError::Limits(what.to_owned()));
    }
    let record = record(target, "throttle", who, &format!("{limits}, {why}"));
    audit.record(record.clone().intended());
    audit.durable().await?;
    let mut tries = 0;
    loop {
        let until = clock.wall().plus(span);
        let set = book.set_throttle(target.clone(), limits, until, who, why);
        if let Some(throttle) = unless_overtaken(set.await, &mut tries)? {
            audit.record(record);
            return Ok(throttle);
        }
    }
}

/// Ends a throttle.
///
/// # Errors
/// If there is none, or it cannot be recorded or written.
pub async fn clear(
    (book, audit): (&JobBook, &AuditLog),
    target: &ThrottleTarget,
    (who, why): (&str, &str),
) -> Result<(), SteerError> {
    let record = record(target, "throttle_clear", who, why);
    audit.record(record.clone().intended());
    audit.durable().await?;
    let mut tries = 0;
    loop {
        let cleared = book.clear_throttle(target.clone(), who, why).await;
        if let Some(was_there) = unless_overtaken(cleared, &mut tries)? {
            audit.record(record);
            return match was_there {
                true => Ok(()),
                false => Err(SteerError::NoThrottle(target.clone())),
            };
        }
    }
}

fn record(target: &ThrottleTarget, action: &'static str, who: &str, why: &str) -> Record {
    let mut because = Use::new(ReasonCode::Rekey, format!("{target}: {why}"));
    because.requested_by = Some(who.to_owned());
    if let ThrottleTarget::Job(job) = target {
        because.job = Some(*job);
    }
    let mut record = Record::new(RecordType::Job, action).because(&because);
    if let ThrottleTarget::Org(org) = target {
        record.org = Some(org.clone());
    }
    record
}
