//! What was looked up a moment ago, for all viewers.
//!
//! However many viewers a page has, it is read once a second at most, and so that
//! it takes up a tenth of the time at most: a page that took a second to read is
//! read every ten. Whoever asks meanwhile is shown what was read last.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use tokio::sync::{Mutex as AsyncMutex, Semaphore};

use super::html;
use super::look::{LookError, Source, Track, Which};
use crate::clock::BootTime;
use crate::ids::JobId;

/// From one look at a page to the next at least.
pub(super) const LOOK: Duration = Duration::from_secs(1);
/// A page takes up one part in so many of the time at most.
const SHARE: u32 = 10;
/// Pages kept; beyond it those that nobody has asked for are forgotten first.
const KEPT: usize = 256;
/// Pages read from the store at a time.
const AT_ONCE: usize = 2;

/// A page.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Page {
    Jobs(Which),
    Job(JobId),
    Workers,
    Health,
}

/// A page as it is shown.
pub(super) struct Shown {
    pub status: StatusCode,
    pub title: String,
    /// What stands in `<main>`.
    pub main: String,
    /// Differs where `main` does.
    pub hash: u64,
}

/// All pages.
pub(super) struct Looks {
    pub source: Source,
    slots: Mutex<HashMap<Page, Slot>>,
    reading: Semaphore,
}

#[derive(Clone)]
struct Slot {
    asked: BootTime,
    last: Arc<AsyncMutex<Last>>,
}

#[derive(Default)]
struct Last {
    // When it was read, how long that took, and what it was.
    shown: Option<(BootTime, Duration, Arc<Shown>)>,
    track: Track,
}

impl Looks {
    pub(super) fn new(source: Source) -> Self {
        Self {
            source,
            slots: Mutex::default(),
            reading: Semaphore::new(AT_ONCE),
        }
    }

    /// The page as it was read last, or anew if that was long enough ago.
    pub(super) async fn at(&self, page: &Page) -> Arc<Shown> {
        let slot = self.slot(page);
        // Whoever comes while it is read waits here, and finds it read.
        let mut last = slot.last.lock().await;
        let now = self.source.clock.boot();
        if let Some((at, took, shown)) = &last.shown
            && now.since(*at) < LOOK.max(*took * SHARE)
        {
            return shown.clone();
        }
        // Never closed.
        let _permit = self.reading.acquire().await.ok();
        let begun = self.source.clock.boot();
        let shown = Arc::new(self.read(page, &mut last.track).await);
        let took = self.source.clock.boot().since(begun);
        last.shown = Some((begun, took, shown.clone()));
        shown
    }

    async fn read(&self, page: &Page, track: &mut Track) -> Shown {
        let source = &self.source;
        let now = source.clock.wall();
        let read: Result<_, LookError> = async {
            Ok(Some(match page {
                Page::Jobs(which) => html::jobs(which, &source.jobs(which).await?, now),
                Page::Job(id) => match source.job(*id, track).await? {
                    Some(job) => html::job(&job, source.steers, now),
                    None => return Ok(None),
                },
                Page::Workers => html::workers(&source.workers().await?, &source.timing, now),
                Page::Health => html::health(source),
            }))
        }
        .await;
        let (status, title, main) = match read {
            Ok(Some((title, main))) => (StatusCode::OK, title, main),
            Ok(None) => (
                StatusCode::NOT_FOUND,
                "no such job".to_owned(),
                html::no_job(),
            ),
            Err(error) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "cannot be read".to_owned(),
                html::unreadable(&error.to_string()),
            ),
        };
        let main = main.into_string();
        let mut hasher = DefaultHasher::new();
        main.hash(&mut hasher);
        Shown {
            status,
            title,
            hash: hasher.finish(),
            main,
        }
    }

    fn slot(&self, page: &Page) -> Slot {
        let asked = self.source.clock.boot();
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= KEPT && !slots.contains_key(page) {
            let oldest = slots.iter().min_by_key(|(_, slot)| slot.asked);
            if let Some(oldest) = oldest.map(|(page, _)| page.clone()) {
                slots.remove(&oldest);
            }
        }
        let slot = slots.entry(page.clone()).or_insert_with(|| Slot {
            asked,
            last: Arc::default(),
        });
        slot.asked = asked;
        slot.clone()
    }
}
