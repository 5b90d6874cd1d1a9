//! A queue that hands out at least once and in no order.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::process::Process;
use super::replicas::Replicas;
use crate::queue::{DeadLetter, Delivery, Queue, QueueError, Which};

struct Message {
    id: String,
    body: String,
    // Not handed out before this time of the history.
    hidden_until: Duration,
    receipt: u64,
    receives: u32,
}

#[derive(Default)]
struct State {
    messages: Vec<Message>,
    dead: Vec<DeadLetter>,
    next: u64,
}

/// The queue of a history.
#[derive(Default)]
pub(super) struct Letters(Mutex<State>);

impl Letters {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection to the queue.
pub(super) struct SimQueue {
    pub(super) letters: Arc<Letters>,
    pub(super) replicas: Arc<Replicas>,
    pub(super) process: Arc<Process>,
}

impl SimQueue {
    async fn way(&self) -> Result<(), QueueError> {
        self.process.gate().await;
        let replicas = &self.replicas;
        let weather = replicas.weather();
        replicas.time.sleep(weather.way(&replicas.dice)).await;
        self.process.gate().await;
        if replicas.dice.chance(weather.refused) {
            return Err(QueueError::Transient("no answer".to_owned()));
        }
        Ok(())
    }

    fn take(&self, max: usize, visibility: Duration) -> Vec<Delivery> {
        let (replicas, mut state) = (&self.replicas, self.letters.state());
        let now = replicas.time.now();
        let mut taken = Vec::new();
        let mut order: Vec<usize> = (0..state.messages.len()).collect();
        while !order.is_empty() && taken.len() < max {
            let n = order.remove(replicas.dice.below(order.len()));
            state.next += 1;
            let receipt = state.next;
            let message = &mut state.messages[n];
            if message.hidden_until > now {
                continue;
            }
            // At least once: now and then it stays to be seen by others.
            if !replicas.dice.chance(replicas.weather().doubled) {
                message.hidden_until = now + visibility;
            }
            message.receipt = receipt;
            message.receives += 1;
            taken.push(Delivery {
                message_id: message.id.clone(),
                receipt: receipt.to_string(),
                body: message.body.clone(),
                receive_count: message.receives,
            });
        }
        taken
    }

    fn by_receipt(
        &self,
        receipt: &str,
        then: impl FnOnce(&mut State, usize),
    ) -> Result<(), QueueError> {
        let mut state = self.letters.state();
        let found = state
            .messages
            .iter()
            .position(|m| m.receipt.to_string() == receipt);
        match found {
            Some(n) => {
                then(&mut state, n);
                Ok(())
            }
            None => Err(QueueError::ReceiptExpired),
        }
    }

    fn dead(&self, message_id: &str, body: &str, reason: &str) -> DeadLetter {
        DeadLetter {
            message_id: message_id.to_owned(),
            body: body.to_owned(),
            reason: reason.to_owned(),
            at_ms: self.replicas.time.now().as_millis() as u64,
        }
    }
}

#[async_trait::async_trait]
impl Queue for SimQueue {
    async fn send(&self, body: &str) -> Result<String, QueueError> {
        self.way().await?;
        let mut state = self.letters.state();
        state.next += 1;
        let id = format!("m{}", state.next);
        state.messages.push(Message {
            id: id.clone(),
            body: body.to_owned(),
            hidden_until: Duration::ZERO,
            receipt: 0,
            receives: 0,
        });
        Ok(id)
    }

    async fn receive(
        &self,
        max: usize,
        visibility: Duration,
        wait: Duration,
    ) -> Result<Vec<Delivery>, QueueError> {
        self.way().await?;
        let taken = self.take(max, visibility);
        if !taken.is_empty() || wait.is_zero() {
            return Ok(taken);
        }
        self.replicas.time.sleep(wait).await;
        self.process.gate().await;
        Ok(self.take(max, visibility))
    }

    async fn extend(&self, receipt: &str, visibility: Duration) -> Result<(), QueueError> {
        self.way().await?;
        let until = self.replicas.time.now() + visibility;
        self.by_receipt(receipt, |state, n| state.messages[n].hidden_until = until)
    }

    async fn delete(&self, receipts: &[&str]) -> Vec<Result<(), QueueError>> {
        if self.way().await.is_err() {
            let lost = || Err(QueueError::Transient("no answer".to_owned()));
            return receipts.iter().map(|_| lost()).collect();
        }
        let remove = |state: &mut State, n: usize| {
            state.messages.remove(n);
        };
        receipts
            .iter()
            .map(|receipt| self.by_receipt(receipt, remove))
            .collect()
    }

    async fn refuse(&self, delivery: &Delivery, reason: &str) -> Result<(), QueueError> {
        self.way().await?;
        let letter = self.dead(&delivery.message_id, &delivery.body, reason);
        self.letters.state().dead.push(letter);
        self.by_receipt(&delivery.receipt, |state, n| {
            state.messages.remove(n);
        })
    }

    async fn bury(&self, body: &str, reason: &str) -> Result<(), QueueError> {
        self.way().await?;
        let letter = self.dead("", body, reason);
        self.letters.state().dead.push(letter);
        Ok(())
    }

    async fn dead_letters(&self, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        let dead = &self.letters.state().dead;
        Ok(dead.iter().take(limit).cloned().collect())
    }

    async fn redrive(&self, _: Which<'_>) -> Result<Vec<String>, QueueError> {
        // No history asks for it.
        Ok(Vec::new())
    }
}
