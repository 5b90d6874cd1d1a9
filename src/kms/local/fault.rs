//! Faults that can be set: latency, throttling, and error codes. They exist so
//! that demo, tests and benches meet what a real KMS does.

use serde::{Deserialize, Serialize};

use super::RingError;
use super::policy::any_matches;
use crate::kms::codes::{
    ASSUME_ROLE, DECRYPT, DESCRIBE_KEY, GENERATE_DATA_KEY, GET_KEY_POLICY, RE_ENCRYPT,
};

/// The operations of the ring, by name. `AssumeRole` is there only where the ring
/// is served over HTTP.
pub const OPERATIONS: [&str; 6] = [
    GENERATE_DATA_KEY,
    DECRYPT,
    RE_ENCRYPT,
    DESCRIBE_KEY,
    GET_KEY_POLICY,
    ASSUME_ROLE,
];

/// One fault. It is kept in the ring's file, so it holds in every process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What the fault is called, for clearing it.
    pub id: String,
    /// Operations it is about, for example `Decrypt`; empty means all of KMS, but
    /// not `AssumeRole`, which has to be named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<String>,
    /// Patterns of caller names; empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub callers: Vec<String>,
    /// What happens.
    pub effect: Effect,
}

/// What a fault does to a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Effect {
    /// The answer comes so much later. Of several the longest holds.
    LatencyMs(u64),
    /// More calls than this, over all processes, get `ThrottlingException`.
    Throttle {
        /// Calls per second.
        rate_per_s: f64,
        /// How many may come at once after a pause.
        burst: u32,
    },
    /// The call fails with this code and message. Of several the first holds.
    Error {
        /// The code, for example `KMSInternalException`.
        code: String,
        /// The message.
        #[serde(default)]
        message: String,
    },
}

/// Longest latency that can be set: a forgotten fault must not look like a hang.
const MAX_LATENCY_MS: u64 = 10 * 60 * 1000;

impl Fault {
    /// The fault is about this call.
    pub(super) fn touches(&self, operation: &str, caller: &str) -> bool {
        let all = self.operations.is_empty() && operation != ASSUME_ROLE;
        (all || self.operations.iter().any(|o| o == operation))
            && any_matches(&self.callers, caller)
    }

    pub(super) fn check(&self) -> Result<(), RingError> {
        super::check_id(&self.id)?;
        let wrong = |rule| {
            Err(RingError::BadFault {
                id: self.id.clone(),
                rule,
            })
        };
        if let Some(unknown) = self
            .operations
            .iter()
            .find(|o| !OPERATIONS.contains(&o.as_str()))
        {
            return Err(RingError::UnknownOperation {
                given: unknown.clone(),
            });
        }
        match &self.effect {
            Effect::LatencyMs(ms) if *ms > MAX_LATENCY_MS => {
                wrong("a latency is at most 600,000 ms")
            }
            Effect::Throttle { rate_per_s, burst }
                if !(0.001..=1e9).contains(rate_per_s) || *burst == 0 =>
            {
                wrong("a rate is from 0.001 to 1e9 calls a second, a burst at least 1")
            }
            Effect::Error { code, .. } if code.is_empty() => wrong("an error needs a code"),
            _ => Ok(()),
        }
    }
}
