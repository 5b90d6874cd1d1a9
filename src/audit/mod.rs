//! The audit log: what was done with which key, why and for whom. One JSON
//! object a line, chained by hash, durable before anything relies on it (I16).
//! docs/audit.md tells a customer what each field means and how to check a log.
//!
//! | file | what |
//! |---|---|
//! | `record` | the fields of a record, and a constructor for each kind |
//! | `chain` | from a record to a line: numbers and hashes |
//! | `log` | the handle everyone holds; queue, tickets, waiting |
//! | `writer` | the thread that writes and syncs; the file |
//! | `cache_hits` | uses of a cached key, counted by the minute |
//! | `verify` | reads a log back and finds the first place where it was changed |
//! | `reconcile` | holds a log against CloudTrail |

mod cache_hits;
mod chain;
mod log;
pub mod reconcile;
mod record;
mod verify;
mod writer;

pub use cache_hits::CachedUse;
pub use chain::{Head, Origin};
pub use log::{AuditError, AuditLog, Ticket};
pub use record::{
    Counts, INTERNAL_FIELDS, Outcome, Phase, REASON_MAX_CHARS, Record, RecordType, SliceRef,
    StreamRef,
};
pub use verify::{Break, Ending, Report, StreamReport, Why, verify};
pub use writer::Sink;

#[cfg(test)]
mod tests;
