//! Jobs: what was asked for, how far it is, and what may happen next.
//!
//! | file | what |
//! |---|---|
//! | `message` | what travels on the queue, and why a message is refused |
//! | `cron` | a cron expression of five fields |
//! | `envelope` | what SNS and EventBridge put around a message |
//! | `schema` | the message as a JSON Schema, for who sends it |
//! | `state` | the states of a job and every way from one to another |
//! | `rows` | jobs, tasks and their counts as they stand in the store |
//! | `book` | reading and changing those rows, always conditionally |
//! | `lease` | holding a job or a task for a bounded time |
//! | `open` | the unfinished jobs as a worker last read them |
//! | `so_far` | what a job has done, its open round included |
//! | `throttle` | what operators slow workers down by, until a given time |
//! | `verdict` | the sentence at the end |
//! | `window` | when a job may act |

mod book;
mod cron;
mod envelope;
mod lease;
mod message;
mod open;
mod rows;
mod schema;
mod set_aside;
mod so_far;
mod state;
mod throttle;
mod verdict;
mod window;

pub(crate) use book::{Aside, ROWS_AT_ONCE};
pub use book::{BookError, JobBook, Recorded, ThrottleRows, Versioned, task_id};
pub use lease::{Hold, HoldError, JobHold, Leased, TaskHold, WorkerName, is_free, note_stream};
pub use message::{
    Cause, JobMessage, MessageError, Mode, MoveFrom, MoveKind, MoveRequest, MoveTo, PlanRef,
    RekeyRequest,
};
pub use open::{OpenJobs, Snapshot};
pub use rows::{
    Activated, BlockedSlice, Checkpoint, CopyProgress, Counts, Effort, Estimate, JobRow, Lease,
    LeaveBehind, Pass, QuarantineRow, Round, SliceId, TaskRow, TaskState, Transition,
};
pub use schema::MESSAGE_SCHEMA;
pub use set_aside::{
    AsideChannel, AsideHead, AsideKey, AsideSeal, AsideSoFar, RetireCounts, RetireProgress,
    Retired, SetAside,
};
pub use state::JobState;
pub(crate) use throttle::Bucket;
pub use throttle::{
    Allowance, Slot, Throttle, ThrottleEvent, ThrottleLimits, ThrottleTarget, Throttles,
};
pub use verdict::Verdict;
pub use window::{Opening, Window};
