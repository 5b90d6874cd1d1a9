//! Old data keys of a rekey, set aside at its end for a time.
//!
//! A retire deletes the wraps that a rekey left behind, and that cannot be taken
//! back. So before the job says that its old CMK may be disabled, each old key is
//! put where it outlives the retire (I10), under the CMK that is active then:
//!
//! | mode | how | what may open it |
//! |---|---|---|
//! | re-encryption | Decrypt, then sealed under a data key made for the channel | the new CMK, with kind `set_aside`, organization, channel and job as context |
//! | rewrap | ReEncrypt, in the KMS; of a key that a cell names the new wrap stands among the key rows already | the new CMK, with the key's own scope |
//!
//! A key is old if every wrap of it is below the job's epoch. A key that cannot be
//! opened, because the customer revoked it or because its row is bad, does not
//! hold the job: it is counted with its reason, and a retire leaves it where it
//! is. What is set aside is deleted by the workers when its time is over, retired
//! or not: else the old keys would be there for ever under the new CMK. Until then,
//! in a window for a backup, a task that rewrites uses it where a cell names a key
//! that has no row any more (`pipeline/aside.rs`); readers do not.
//!
//! | file | what |
//! |---|---|
//! | `fill` | sets a job's old keys aside, resumable |
//! | `sweep` | deletes what has been set aside for long enough |

mod fill;
mod sweep;

pub(crate) use fill::{Fill, Filled};
pub(crate) use sweep::sweep;
