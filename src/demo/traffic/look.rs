//! Reading against the ledger: one message, or all of them.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;

use crate::client::{Channel, Client, ClientError, ErrorClass, Use};
use crate::clock::SharedClock;
use crate::demo::ledger::{Ledger, MessageName, Observed, TextId, Violation, Violations};

pub(super) fn channel(client: &Client, name: &MessageName) -> Channel {
    client
        .organization(&name.org)
        .channel(&name.workspace, &name.channel)
}

pub(super) struct Look {
    pub(super) seen: Observed,
    pub(super) violation: Option<Violation>,
}

/// Reads one message and judges what was seen. A refusal or an outage is an
/// error and no judgement.
pub(super) async fn look(
    client: &Client,
    ledger: &Ledger,
    clock: &SharedClock,
    name: &MessageName,
    why: &Use,
) -> Result<Look, ClientError> {
    let began = ledger.reading(clock.wall());
    let channel = channel(client, name);
    let seen = match channel.read(name.hour, &name.record, why).await {
        Ok(None) => Observed::Absent,
        Ok(Some(message)) => Observed::Present {
            text: TextId::of(message.text()),
            at: message.write_time(),
        },
        Err(error) if error.class() == ErrorClass::Quarantined => Observed::Undecryptable {
            code: error.code().to_owned(),
        },
        Err(error) => return Err(error),
    };
    let violation = ledger.judge(name, &seen, began, clock.wall());
    Ok(Look { seen, violation })
}

/// What a reading of everything found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadBack {
    /// Messages that are there.
    pub present: u64,
    /// Messages that are not, rightly or not.
    pub absent: u64,
    /// Messages that could not be judged, by the code of the refusal.
    pub refused: BTreeMap<&'static str, u64>,
    /// What is wrong.
    pub violations: Violations,
}

/// Reads every message that the ledger knows, `at_once` at a time, and judges
/// it. `unavailable` is tried again up to ten times.
pub async fn read_back(
    client: &Client,
    ledger: &Ledger,
    clock: &SharedClock,
    why: &Use,
    at_once: usize,
) -> ReadBack {
    let mut looks = futures::stream::iter(ledger.names())
        .map(|name| async move {
            let mut result = look(client, ledger, clock, &name, why).await;
            for tries in 1u32..=10 {
                match &result {
                    Err(error) if error.class() == ErrorClass::Transient => {
                        clock.sleep(Duration::from_millis(50) * tries).await;
                        result = look(client, ledger, clock, &name, why).await;
                    }
                    _ => break,
                }
            }
            result
        })
        .buffer_unordered(at_once.max(1));
    let mut found = ReadBack::default();
    while let Some(result) = looks.next().await {
        match result {
            Ok(Look { seen, violation }) => {
                match seen {
                    Observed::Absent => found.absent += 1,
                    Observed::Present { .. } | Observed::Undecryptable { .. } => {
                        found.present += 1;
                    }
                }
                if let Some(violation) = violation {
                    found.violations.push(violation);
                }
            }
            Err(error) => *found.refused.entry(error.code()).or_default() += 1,
        }
    }
    found
}
