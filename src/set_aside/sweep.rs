//! Deletes what has been set aside for long enough.

use crate::audit::{Record, RecordType};
use crate::job::BookError;
use crate::kms::{ReasonCode, Use};
use crate::pipeline::Shared;

/// Deletes all whose time is over. Any number of workers may do so at once.
///
/// # Errors
/// If the store fails. What is left is deleted by the next call.
pub(crate) async fn sweep(shared: &Shared) -> Result<(), BookError> {
    let now_ms = shared.clock.wall().unix_ms();
    for (until_ms, org, job) in shared.book.ended_set_asides(now_ms).await? {
        shared.book.end_set_aside((until_ms, &org, job)).await?;
        let mut why = Use::new(ReasonCode::Retire, "its time is over");
        why.job = Some(job);
        let mut record = Record::new(RecordType::Job, "set_aside_end").because(&why);
        record.org = Some(org.clone());
        shared.audit.record(record);
        tracing::info!(%org, %job, "the old keys that were set aside are deleted");
    }
    Ok(())
}
