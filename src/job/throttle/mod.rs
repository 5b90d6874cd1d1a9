//! An operator's throttles: what slows workers down until a given time.
//!
//! | file | what |
//! |---|---|
//! | `rows` | a throttle and who set it, as it stands in the store |
//! | `bucket` | when the next rows or calls are due at a rate, pure |
//! | `keeper` | the throttles as one worker knows and keeps them |
//!
//! Reading and changing the rows is in `book/throttles`.

mod bucket;
mod keeper;
mod rows;

pub(crate) use bucket::Bucket;
pub use keeper::{Allowance, Slot, Throttles};
pub use rows::{Throttle, ThrottleEvent, ThrottleLimits, ThrottleTarget};
