//! Reads everything through the client library, hour by hour, and judges each
//! message by the ledger.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;

use super::DemoError;
use crate::client::{Channel, Client, ClientError, ErrorClass, PageLimit, Use};
use crate::clock::SharedClock;
use crate::demo::ledger::{Ledger, MessageName, Observed, TextId};
use crate::demo::traffic::ReadBack;
use crate::ids::RecordId;

/// Hours read at once.
const HOURS_AT_ONCE: usize = 64;
/// Tries of an hour that is `unavailable`.
const TRIES: u32 = 10;
const PAGE: PageLimit = PageLimit {
    rows: 500,
    bytes: 1 << 20,
};

/// What is read with, and judged by.
#[derive(Clone)]
pub struct Reader {
    /// The client.
    pub client: Client,
    /// What should be.
    pub ledger: Arc<Ledger>,
    /// The time.
    pub clock: SharedClock,
    /// Why, for the audit log.
    pub why: Use,
}

impl Reader {
    /// Reads every hour in which the ledger knows a message. A message there
    /// that the ledger does not know is judged too: nobody wrote it.
    ///
    /// # Errors
    /// If a task of it ends early.
    pub async fn everything(&self, seen: &mut dyn FnMut(u64)) -> Result<ReadBack, DemoError> {
        let names = self.ledger.names();
        let hours: Vec<Vec<MessageName>> = names
            .chunk_by(|a, b| a.channel == b.channel && a.hour == b.hour)
            .map(<[MessageName]>::to_vec)
            .collect();
        // Each on a task of its own: opening cells is work for every core.
        let mut reading = futures::stream::iter(hours)
            .map(|names| {
                let reader = self.clone();
                tokio::spawn(async move { reader.hour(&names).await })
            })
            .buffer_unordered(HOURS_AT_ONCE);
        let mut all = ReadBack::default();
        while let Some(hour) = reading.next().await {
            let hour = hour.map_err(|e| DemoError::Task(e.to_string()))?;
            all.present += hour.present;
            all.absent += hour.absent;
            for (code, n) in hour.refused {
                *all.refused.entry(code).or_default() += n;
            }
            for violation in hour.violations.iter() {
                all.violations.push(violation.clone());
            }
            seen(all.present + all.absent);
        }
        Ok(all)
    }

    /// Reads one hour, of which `names` are all that the ledger knows.
    async fn hour(&self, names: &[MessageName]) -> ReadBack {
        let mut found = ReadBack::default();
        let Some(first) = names.first() else {
            return found;
        };
        let channel = self
            .client
            .organization(&first.org)
            .channel(&first.workspace, &first.channel);
        let mut tries = 0;
        let (began, seen) = loop {
            tries += 1;
            let began = self.ledger.reading(self.clock.wall());
            match self.list(&channel, first).await {
                Ok(seen) => break (began, seen),
                Err(error) if error.class() == ErrorClass::Transient && tries < TRIES => {
                    self.clock.sleep(Duration::from_millis(50) * tries).await;
                }
                Err(error) => {
                    let n = names.len() as u64;
                    *found.refused.entry(error.code()).or_default() += n;
                    return found;
                }
            }
        };
        let ended = self.clock.wall();
        let mut judge = |name: &MessageName, observed: &Observed| {
            match observed {
                Observed::Absent => found.absent += 1,
                Observed::Present { .. } | Observed::Undecryptable { .. } => found.present += 1,
            }
            if let Some(violation) = self.ledger.judge(name, observed, began, ended) {
                found.violations.push(violation);
            }
        };
        let mut seen = seen;
        for name in names {
            let observed = seen.remove(&name.record).unwrap_or(Observed::Absent);
            judge(name, &observed);
        }
        for (record, observed) in seen {
            let stranger = MessageName {
                record,
                ..first.clone()
            };
            judge(&stranger, &observed);
        }
        found
    }

    /// What is in an hour. An error that is not about the message itself is an
    /// error of the whole reading.
    async fn list(
        &self,
        channel: &Channel,
        of: &MessageName,
    ) -> Result<HashMap<RecordId, Observed>, ClientError> {
        let mut seen = HashMap::new();
        let mut after = None;
        loop {
            let page = channel
                .list(of.hour, after.as_ref(), PAGE, &self.why)
                .await?;
            for (record, message) in page.messages {
                let observed = match message {
                    Ok(message) => Observed::Present {
                        text: TextId::of(message.text()),
                        at: message.write_time(),
                    },
                    Err(error) if error.class() == ErrorClass::Quarantined => {
                        Observed::Undecryptable {
                            code: error.code().to_owned(),
                        }
                    }
                    Err(error) => return Err(error),
                };
                seen.insert(record, observed);
            }
            after = page.next;
            if after.is_none() {
                return Ok(seen);
            }
        }
    }
}
