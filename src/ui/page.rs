//! The page's routes. Each answers a browser with the whole page, and the page's
//! own script, which asks for `text/event-stream`, with what changes in it.

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;

use super::guard::{self, Hosts};
use super::html;
use super::live::{self, Viewers};
use super::look::{Source, Which};
use super::looks::{Looks, Page};
use super::steer::{self, Steering};
use crate::ids::{JobId, OrgId};
use crate::job::JobState;

const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/live.js");
const ICON: &str = include_str!("page/icon.svg");

#[derive(Clone)]
pub(super) struct Shared {
    pub looks: Arc<Looks>,
    pub steering: Option<Steering>,
    viewers: Viewers,
}

/// The routes. Without `steering` they only read, so there is nothing that another
/// site could have a viewer's browser do; with it they ask for the token each time.
pub fn router(source: Source, steering: Option<Steering>, hosts: Hosts) -> Router {
    let steer_by = get(steer::form)
        .post(steer::act)
        .layer(DefaultBodyLimit::max(steer::FORM_BYTES));
    let steers = match steering {
        Some(_) => Router::new().route("/jobs/{id}/steer", steer_by),
        None => Router::new(),
    };
    let shared = Shared {
        looks: Arc::new(Looks::new(source)),
        steering,
        viewers: Viewers::default(),
    };
    steers
        .route("/", get(jobs))
        .route("/jobs/{id}", get(job))
        .route("/workers", get(workers))
        .route("/health", get(health))
        .route("/style.css", get(|| own("text/css; charset=utf-8", STYLE)))
        .route(
            "/live.js",
            get(|| own("text/javascript; charset=utf-8", SCRIPT)),
        )
        .route("/icon.svg", get(|| own("image/svg+xml", ICON)))
        .fallback(|| async { refuse(StatusCode::NOT_FOUND, "there is no such page") })
        .with_state(shared)
        .layer(middleware::from_fn_with_state(hosts, guard::guard))
}

async fn own(kind: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// What the form of the list sends. Empty fields are fields that were left empty.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    #[serde(default)]
    show: String,
    #[serde(default)]
    state: String,
    #[serde(default)]
    org: String,
    #[serde(default)]
    page: usize,
    #[serde(default)]
    after: String,
}

impl Asked {
    fn which(&self) -> Result<Which, String> {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let all = match self.show.as_str() {
            "" | "unfinished" => false,
            "all" => true,
            other => return Err(format!("`show` is `unfinished` or `all`, not `{other}`")),
        };
        Ok(Which {
            all,
            state: match given(&self.state) {
                Some(state) => Some(state.parse::<JobState>().map_err(|e| e.to_string())?),
                None => None,
            },
            org: match given(self.org.trim()) {
                Some(org) => Some(OrgId::new(org).map_err(|e| e.to_string())?),
                None => None,
            },
            page: self.page,
            after: match given(&self.after) {
                Some(id) => Some(id.parse().map_err(|_| format!("`{id}` is no job id"))?),
                None => None,
            },
        })
    }
}

async fn jobs(
    State(shared): State<Shared>,
    headers: HeaderMap,
    asked: Result<Query<Asked>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let which = asked
        .map_err(|e| e.body_text())
        .and_then(|Query(asked)| asked.which());
    match which {
        Ok(which) => show(&shared, &headers, Page::Jobs(which)).await,
        Err(why) => refuse(StatusCode::BAD_REQUEST, &why),
    }
}

async fn job(State(shared): State<Shared>, headers: HeaderMap, Path(id): Path<String>) -> Response {
    match id.parse::<JobId>() {
        Ok(id) => show(&shared, &headers, Page::Job(id)).await,
        Err(_) => refuse(StatusCode::NOT_FOUND, "that is no job id"),
    }
}

async fn workers(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    show(&shared, &headers, Page::Workers).await
}

async fn health(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    show(&shared, &headers, Page::Health).await
}

async fn show(shared: &Shared, headers: &HeaderMap, page: Page) -> Response {
    let accepts = headers.get(header::ACCEPT).and_then(|a| a.to_str().ok());
    let vary = [(header::VARY, "accept")];
    if accepts.is_some_and(|accepts| accepts.contains("text/event-stream")) {
        return (
            vary,
            live::follow(shared.looks.clone(), page, &shared.viewers),
        )
            .into_response();
    }
    let shown = shared.looks.at(&page).await;
    let source = &shared.looks.source;
    let whole = html::whole(&page, &source.running.name, source.steers, &shown);
    (shown.status, vary, Html(whole.into_string())).into_response()
}

pub(super) fn refuse(status: StatusCode, why: &str) -> Response {
    (status, Html(html::refusal(why).into_string())).into_response()
}
