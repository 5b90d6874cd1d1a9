//! Deletes what has been set aside for long enough.

use crate::audit::{Record, RecordType};
use crate::job::BookError;
use crate::kms::{ReasonCode, Use};
use crate::pipeline::Shared;
use crate::registry::RegistryError;

/// Deletes all whose time is over. Any number of workers may do so at once. While
/// a window for a backup is open nothing of that organization goes: a job may be
/// about to need it, and its hours are walked by what is there.
///
/// # Errors
/// If the store fails. What is left is deleted by the next call.
pub(crate) async fn sweep(shared: &Shared) -> Result<(), BookError> {
    let now_ms = shared.clock.wall().unix_ms();
    for (until_ms, org, job) in shared.book.ended_set_asides(now_ms).await? {
        match shared.registry.org(&org).await {
            Ok(row) if row.restore_window.is_none() => {}
            // Nobody is left who could bring anything back.
            Err(RegistryError::UnknownOrg(_)) => {}
            // The next sweep looks again.
            Ok(_) | Err(_) => continue,
        }
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
