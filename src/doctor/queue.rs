//! The queue: reachable, and whether it has messages that were refused. Nothing
//! is taken from it, so on SQS, which cannot be looked at without receiving, only
//! its attributes are asked for.

use std::time::Duration;

use super::{Broken, Check, Part, within};
use crate::queue::SharedQueue;

/// Dead letters that are counted at most: more need no exact number.
const LOOKED_AT: usize = 10;

const UNREACHED: &str = "see that it is there, that this machine reaches it, and that the worker's \
     role may use it (`rekeyd iam-policy` prints what it needs)";

/// Looks at an embedded queue.
pub async fn embedded(opened: &Result<SharedQueue, Broken>, limit: Duration) -> Check {
    let queue = match opened {
        Ok(queue) => queue,
        Err(broken) => return broken.check(Part::Queue),
    };
    match within(limit, queue.dead_letters(LOOKED_AT)).await {
        Ok(Ok(letters)) if letters.is_empty() => {
            Check::ok(Part::Queue, "answers; no message was refused")
        }
        Ok(Ok(letters)) => {
            let more = match letters.len() == LOOKED_AT {
                true => " or more",
                false => "",
            };
            Check::warning(
                Part::Queue,
                format!("refused messages: {}{more}", letters.len()),
                "`rekeyd dlq list` says why each was refused",
            )
        }
        Ok(Err(error)) => Check::wrong(Part::Queue, error.to_string(), UNREACHED),
        Err(silence) => Check::wrong(Part::Queue, silence, UNREACHED),
    }
}

/// Judges what SQS said of a queue: after how many deliveries it moves a message
/// away, and where refused messages go.
pub fn sqs(found: Result<(Option<u32>, String), Broken>) -> Check {
    match found {
        Ok((Some(n), dead)) => Check::ok(
            Part::Queue,
            format!("answers; refused messages, and those delivered {n} times, go to {dead}"),
        ),
        Ok((None, dead)) => Check::warning(
            Part::Queue,
            format!("answers; refused messages go to {dead}, and the queue has no redrive policy"),
            "give it a RedrivePolicy: without one a message that can never be recorded comes back \
             until its retention ends",
        ),
        Err(broken) => Check::wrong(
            Part::Queue,
            broken.what,
            format!("{}; or {UNREACHED}", broken.fix),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    #[test]
    fn what_sqs_says_is_judged() {
        let url = || "https://sqs.eu-west-1.amazonaws.com/111122223333/dead".to_owned();
        assert_eq!(sqs(Ok((Some(5), url()))).state, State::Ok);
        assert_eq!(sqs(Ok((None, url()))).state, State::Warning);
        let broken = Broken {
            what: "AccessDenied".to_owned(),
            fix: "allow it".to_owned(),
        };
        let check = sqs(Err(broken));
        assert_eq!(check.state, State::Wrong);
        assert!(check.fix.unwrap().contains("iam-policy"));
    }
}
