//! The queue: reachable, and whether it has messages that were refused. Nothing
//! is taken from it.

use std::time::Duration;

use super::{Broken, Check, Part, within};
use crate::queue::SharedQueue;

/// Dead letters that are counted at most: more need no exact number.
const LOOKED_AT: usize = 10;

/// Looks at a queue.
pub async fn check(opened: &Result<SharedQueue, Broken>, limit: Duration) -> Check {
    let queue = match opened {
        Ok(queue) => queue,
        Err(broken) => return broken.check(Part::Queue),
    };
    let unreached = "see that it is there, that this machine reaches it, and that the worker's role \
                     may use it (`rekeyd iam-policy` prints what it needs)";
    match within(limit, queue.dead_letters(LOOKED_AT)).await {
        Ok(Ok(letters)) if letters.is_empty() => {
            Check::ok(Part::Queue, "answers; no message was refused")
        }
        Ok(Ok(letters)) => {
            let more = if letters.len() == LOOKED_AT {
                " or more"
            } else {
                ""
            };
            Check::warning(
                Part::Queue,
                format!(
                    "{}{more} messages are among the dead letters",
                    letters.len()
                ),
                "`rekeyd dlq list` says why each was refused",
            )
        }
        Ok(Err(error)) => Check::wrong(Part::Queue, error.to_string(), unreached),
        Err(silence) => Check::wrong(Part::Queue, silence, unreached),
    }
}
