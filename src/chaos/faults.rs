//! What the KMS does meanwhile. It is a key ring, and its administrator is asked.

use crate::demo::run::DemoError;
use crate::demo::run::scene::{Scene, WORKER};
use crate::ids::ChannelId;
use crate::kms::local::{DenyRule, Effect, Fault};

use super::script::KmsFault;

/// Of the one rule or fault at a time.
const ID: &str = "chaos";

impl KmsFault {
    /// Its name in the figures.
    pub(super) fn name(self) -> &'static str {
        match self {
            KmsFault::DeniesChannel { .. } => "denies a channel",
            KmsFault::DeniesMessages => "denies all messages",
            KmsFault::Slow { .. } => "slow",
            KmsFault::Throttles { .. } => "throttles",
            KmsFault::Down => "unreachable",
        }
    }

    /// Begins it. `channel` is the one that is meant, where one is.
    pub(super) fn begin(self, scene: &Scene, channel: &ChannelId) -> Result<(), DemoError> {
        let deny = |pairs: &[(&str, &str)]| {
            scene.ring.add_deny(DenyRule {
                id: ID.to_owned(),
                cmks: Vec::new(),
                permissions: Vec::new(),
                context: pairs
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                    .collect(),
                // A client that is refused keeps that in mind for a minute, and
                // the traffic is to go on.
                callers: vec![WORKER.to_owned()],
                reason: "rekeyd chaos".to_owned(),
            })
        };
        let fault = |callers: &[&str], effect| {
            scene.ring.set_fault(Fault {
                id: ID.to_owned(),
                operations: Vec::new(),
                callers: callers.iter().map(|who| (*who).to_owned()).collect(),
                effect,
            })
        };
        match self {
            KmsFault::DeniesChannel { .. } => deny(&[("channel", channel.as_str())]),
            // Not the canary's, or jobs would be refused in preflight, as they
            // should be.
            KmsFault::DeniesMessages => deny(&[("kind", "message")]),
            KmsFault::Slow { ms } => fault(&[], Effect::LatencyMs(ms)),
            KmsFault::Throttles { per_s } => fault(
                &[],
                Effect::Throttle {
                    rate_per_s: f64::from(per_s),
                    burst: 5,
                },
            ),
            KmsFault::Down => fault(
                &[WORKER],
                Effect::Error {
                    code: "KMSInternalException".to_owned(),
                    message: "rekeyd chaos".to_owned(),
                },
            ),
        }?;
        Ok(())
    }

    /// Ends it.
    pub(super) fn end(self, scene: &Scene) -> Result<(), DemoError> {
        match self {
            KmsFault::DeniesChannel { .. } | KmsFault::DeniesMessages => scene.ring.remove_deny(ID),
            _ => scene.ring.clear_fault(ID),
        }?;
        Ok(())
    }
}
