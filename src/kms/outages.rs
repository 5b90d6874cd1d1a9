//! Says in the log when a KMS begins not to answer, and when it answers again: a
//! line for each outage and CMK, not for each call.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::BootTime;
use crate::ids::CmkArn;

/// Tries of one call that fail before it is called an outage: one that fails now
/// and then is none.
pub(super) const FAILURES: u32 = 3;

/// The CMKs that do not answer, and since when.
#[derive(Default)]
pub(super) struct Outages {
    // Whether there are any: answers, which are many, look at this only.
    any: AtomicBool,
    since: Mutex<HashMap<CmkArn, BootTime>>,
}

impl Outages {
    /// A call to a CMK failed again; true if that is news.
    pub fn begins(&self, cmk: &CmkArn, now: BootTime) -> bool {
        let mut since = self.lock();
        self.any.store(true, Ordering::Relaxed);
        let is_news = !since.contains_key(cmk);
        since.entry(cmk.clone()).or_insert(now);
        is_news
    }

    /// It answered; for how long it had not, if that is news.
    pub fn ends(&self, cmk: &CmkArn, now: BootTime) -> Option<Duration> {
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        let mut since = self.lock();
        let began = since.remove(cmk)?;
        self.any.store(!since.is_empty(), Ordering::Relaxed);
        Some(now.since(began))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<CmkArn, BootTime>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_news_once_and_so_is_its_end() {
        let cmk = |name: &str| {
            let arn = format!("arn:aws:kms:eu-west-1:111122223333:key/{name}");
            CmkArn::new(arn).unwrap()
        };
        let at = |s| BootTime(Duration::from_secs(s));
        let outages = Outages::default();
        assert_eq!(outages.ends(&cmk("a"), at(0)), None);
        assert!(outages.begins(&cmk("a"), at(1)));
        assert!(!outages.begins(&cmk("a"), at(5)));
        assert!(outages.begins(&cmk("b"), at(6)), "each by itself");
        assert_eq!(
            outages.ends(&cmk("a"), at(96)),
            Some(Duration::from_secs(95))
        );
        assert_eq!(outages.ends(&cmk("a"), at(97)), None);
        assert!(outages.begins(&cmk("a"), at(98)), "the next one");
    }
}
