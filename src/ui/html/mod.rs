//! The pages. What comes from elsewhere is escaped by the templates, stripped of
//! what could steer a reader (`foreign`), and kept from turning the text around it
//! (`<bdi>`).
//!
//! A part that changes while it is looked at has an id and `data-live`: the script
//! replaces it alone, so that a form keeps what was typed into it.

mod health;
mod job;
mod jobs;
mod steer;
mod workers;

use std::time::Duration;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::looks::{Page, Shown};
use crate::clock::WallTime;
use crate::ids::JobId;
use crate::job::{JobRow, JobState, Throttle};
use crate::progress::figures;

pub(super) use health::health;
pub(super) use job::job;
pub(super) use jobs::jobs;
pub(super) use steer::steer;
pub(super) use workers::workers;

/// A title and what stands in `<main>`.
pub(super) type Part = (String, Markup);

/// The whole page around what stands in `<main>`.
pub(super) fn whole(page: &Page, worker: &str, steers: bool, shown: &Shown) -> Markup {
    let here = |of: bool| of.then_some("page");
    let nav = [
        ("/", "Jobs", matches!(page, Page::Jobs(_) | Page::Job(_))),
        ("/workers", "Workers", *page == Page::Workers),
        ("/health", "Health", *page == Page::Health),
    ];
    html! {
        (DOCTYPE)
        html lang="en" {
            (head(&shown.title, true))
            body {
                header {
                    a .brand href="/" { "rekeyd" }
                    nav aria-label="Pages" {
                        @for (to, name, of) in nav {
                            a href=(to) aria-current=[here(of)] { (name) }
                        }
                    }
                    span #live .live hidden role="status" { "live" }
                }
                // Written by the templates of this folder, which escape.
                main #main { (PreEscaped(&shown.main)) }
                footer {
                    "rekeyd " (env!("CARGO_PKG_VERSION")) ", as seen by worker " (foreign(worker))
                    @if steers {
                        ". A job is steered on a page of its own, with a token, or by the commands that are shown."
                    } @else {
                        ". This page changes nothing: jobs are steered by the commands that it shows."
                    }
                }
            }
        }
    }
}

/// A page that says why there is none.
pub(super) fn refusal(why: &str) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            (head("not shown", false))
            body {
                header { a .brand href="/" { "rekeyd" } }
                main { h1 { "Not shown" } p { (foreign(why)) } p { a href="/" { "All jobs" } } }
            }
        }
    }
}

fn head(title: &str, live: bool) -> Markup {
    html! {
        head {
            meta charset="utf-8";
            meta name="viewport" content="width=device-width, initial-scale=1";
            title { (figures::printable(title)) " · rekeyd" }
            link rel="stylesheet" href="/style.css";
            link rel="icon" href="/icon.svg" type="image/svg+xml";
            @if live {
                script src="/live.js" defer {}
                // Without a script the page is read anew.
                noscript { meta http-equiv="refresh" content="5"; }
            }
        }
    }
}

/// There is no such job.
pub(super) fn no_job() -> Markup {
    html! {
        h1 { "No such job" }
        p { "No worker has recorded a job with this id. A message that was refused is in "
            code { "rekeyd dlq list" } "." }
        p { a href="/" { "All jobs" } }
    }
}

/// The page could not be read.
pub(super) fn unreadable(why: &str) -> Markup {
    html! {
        section #unreadable data-live .notice .bad {
            h1 { "This cannot be read now" }
            p { (foreign(why)) }
            p { "It is tried again by itself. " a href="/health" { "Health" } " says what is away." }
        }
    }
}

/// Text of unknown origin.
fn foreign(text: &str) -> Markup {
    html! { bdi { (figures::printable(text)) } }
}

/// A command to be copied.
fn command(text: &str) -> Markup {
    html! { code .command { (figures::printable(text)) } }
}

/// A state as a badge; its colour says how it stands, and so does its word.
fn badge(state: JobState) -> Markup {
    let kind = match state {
        JobState::Blocked | JobState::Failed => "bad",
        JobState::Paused | JobState::Cancelled => "held",
        JobState::Drained | JobState::Retired | JobState::Verified => "good",
        JobState::Queued => "idle",
        _ => "busy",
    };
    html! { span class=(format!("badge {kind}")) { (state) } }
}

/// What is asked for, in short: the CMKs stand among the facts of the job.
fn what(job: &JobRow) -> Markup {
    match job.request.channel_move() {
        None => html! {
            "rekey of " (foreign(job.request.org().as_str())) " (" (job.mode().as_str()) ")"
        },
        Some(m) => html! {
            "move " (foreign(&m.source().to_string())) " to " (foreign(&m.destination().to_string()))
        },
    }
}

fn job_link(id: JobId) -> Markup {
    html! { a .id href=(format!("/jobs/{id}")) { (id) } }
}

/// How long ago a time was, with the time itself for who points at it.
fn span_since(unix_ms: u64, now: WallTime) -> Markup {
    let since = Duration::from_millis(now.unix_ms().saturating_sub(unix_ms));
    html! {
        time datetime=(figures::time(unix_ms)) title=(figures::time(unix_ms)) {
            (figures::span(since))
        }
    }
}

/// A time that has been.
fn ago(unix_ms: u64, now: WallTime) -> Markup {
    html! { (span_since(unix_ms, now)) " ago" }
}

/// A time to come.
fn in_time(unix_ms: u64, now: WallTime) -> Markup {
    html! {
        time datetime=(figures::time(unix_ms)) title=(figures::time(unix_ms)) {
            @match figures::until(unix_ms, now) {
                Some(left) => { "in " (figures::span(left)) }
                None => { "due" }
            }
        }
    }
}

/// Throttles that hold, and those that cannot be read.
fn throttles(throttles: &[Throttle], unreadable: &[String], now: WallTime) -> Markup {
    html! {
        @for throttle in throttles {
            p .notice .held {
                "Throttled: "
                (foreign(&crate::progress::throttles::in_words(throttle, now)))
            }
        }
        @for name in unreadable {
            p .notice .bad {
                "The throttle of " (foreign(name)) " cannot be read: workers keep what they last \
                 knew of it, or begin nothing. Set it anew or clear it."
            }
        }
    }
}
