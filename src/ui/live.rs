//! The same pages again and again, as they change: a stream of server-sent events,
//! each with what then stands in `<main>`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::looks::{LOOK, Looks, Page};

/// Viewers at a time; whoever comes beyond sees the page without live updates.
const VIEWERS: usize = 100;

/// Who may follow.
#[derive(Clone)]
pub(super) struct Viewers(Arc<Semaphore>);

impl Default for Viewers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(VIEWERS)))
    }
}

struct Viewer {
    looks: Arc<Looks>,
    page: Page,
    // What it was shown last.
    hash: Option<u64>,
    _place: OwnedSemaphorePermit,
}

/// Follows a page until the viewer goes.
pub(super) fn follow(looks: Arc<Looks>, page: Page, viewers: &Viewers) -> Response {
    let Ok(place) = viewers.0.clone().try_acquire_owned() else {
        let why = "too many viewers follow this page; it is shown without live updates\n";
        return (StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    };
    let viewer = Viewer {
        looks,
        page,
        hash: None,
        _place: place,
    };
    let events = stream::unfold(viewer, |mut viewer| async {
        loop {
            if viewer.hash.is_some() {
                viewer.looks.source.clock.sleep(LOOK).await;
            }
            let shown = viewer.looks.at(&viewer.page).await;
            if viewer.hash == Some(shown.hash) {
                continue;
            }
            viewer.hash = Some(shown.hash);
            let event = Event::default().event("main").data(&shown.main);
            return Some((Ok::<_, Infallible>(event), viewer));
        }
    });
    let alive = KeepAlive::new().interval(Duration::from_secs(15));
    Sse::new(events).keep_alive(alive).into_response()
}
