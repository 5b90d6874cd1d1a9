//! The list of jobs.

use maud::{Markup, html};

use super::{Part, ago, badge, foreign, job_link, what};
use crate::clock::WallTime;
use crate::job::{JobRow, JobState, is_free};
use crate::ui::look::{Jobs, Which};

/// A page of the list.
pub(in crate::ui) fn jobs(which: &Which, jobs: &Jobs, now: WallTime) -> Part {
    let title = match which.all {
        true => "All jobs",
        false => "Unfinished jobs",
    };
    let main = html! {
        h1 { (title) }
        (by_state(which, jobs, now))
        (filter(which))
        section #list data-live {
            @if jobs.rows.is_empty() {
                (nothing(which, jobs))
            } @else {
                (table(&jobs.rows, now))
            }
            (pages(which, jobs))
        }
    };
    (title.to_owned(), main)
}

fn by_state(which: &Which, jobs: &Jobs, now: WallTime) -> Markup {
    html! {
        section #states data-live aria-label="Unfinished jobs by state" {
            @match &jobs.by_state {
                None => p .notice { "The worker has not read the jobs yet." },
                Some((at, by_state)) => {
                    ul .tiles {
                        @for (state, n) in by_state {
                            li {
                                a href=(link(&Which { state: Some(*state), org: which.org.clone(), ..Which::default() })) {
                                    strong { (n) } " " (badge(*state))
                                }
                            }
                        }
                        @if by_state.is_empty() {
                            li { strong { "0" } " unfinished jobs" }
                        }
                    }
                    p .quiet { "Unfinished jobs of all organizations, read " (ago(at.unix_ms(), now)) "." }
                }
            }
        }
    }
}

fn filter(which: &Which) -> Markup {
    html! {
        form method="get" action="/" aria-label="Which jobs" {
            label { "Show "
                select name="show" {
                    option value="unfinished" selected[!which.all] { "unfinished" }
                    option value="all" selected[which.all] { "all of one organization" }
                }
            }
            label { "State "
                select name="state" {
                    option value="" { "any" }
                    @for state in JobState::ALL {
                        option value=(state) selected[which.state == Some(state)] { (state) }
                    }
                }
            }
            label { "Organization "
                input name="org" autocomplete="off" autocapitalize="off" spellcheck="false"
                    value=(which.org.as_ref().map_or("", |org| org.as_str()));
            }
            button { "Show" }
        }
    }
}

fn table(rows: &[JobRow], now: WallTime) -> Markup {
    html! {
        div .scroll {
            table .cards {
                thead { tr {
                    th { "State" } th { "What" } th { "Organization" } th { "Changed" }
                    th { "Why, and who drives it" } th { "Job" }
                } }
                tbody {
                    @for job in rows {
                        tr {
                            td data-name="State" { (badge(job.state)) }
                            td data-name="What" { a href=(format!("/jobs/{}", job.request.job_id())) { (what(job)) } }
                            td data-name="Organization" { (foreign(job.request.org().as_str())) }
                            td data-name="Changed" { (ago(job.since_ms, now)) }
                            td data-name="Why" { (why(job, now)) }
                            td data-name="Job" { (job_link(job.request.job_id())) }
                        }
                    }
                }
            }
        }
    }
}

fn why(job: &JobRow, now: WallTime) -> Markup {
    let driver = job.lease.as_ref().filter(|_| !is_free(job, now.unix_ms()));
    html! {
        // What the verdict of a drained job says may have lapsed; its page knows.
        @if job.state.is_drained() {
            "at its end; see the job for its verdict"
        } @else {
            (foreign(&job.why))
        }
        @if job.blocked_slices > 0 {
            " · " strong { (job.blocked_slices) " blocked" }
        }
        @if let Some(lease) = driver {
            span .quiet { " · " (foreign(&lease.worker)) }
        }
    }
}

fn nothing(which: &Which, jobs: &Jobs) -> Markup {
    html! {
        p .notice {
            @match (which.all, &which.org) {
                (true, None) => "Name an organization to see its ended jobs too.",
                (true, Some(_)) if jobs.next.is_some() => "None in this part of the list.",
                (true, Some(_)) => "This organization has no such jobs.",
                (false, _) if which.state.is_none() && which.org.is_none() => "No unfinished jobs.",
                (false, _) => "No such unfinished jobs.",
            }
        }
    }
}

fn pages(which: &Which, jobs: &Jobs) -> Markup {
    let first = which.after.map(|_| Which {
        after: None,
        ..which.clone()
    });
    html! {
        nav .pages aria-label="Pages of the list" {
            @if let Some(before) = jobs.before.as_ref().or(first.as_ref()) {
                a rel="prev" href=(link(before)) {
                    @if which.all { "← from the beginning" } @else { "← before" }
                }
            }
            @if let Some(found) = jobs.found {
                span .quiet { (found) " found" }
            }
            @if let Some(next) = &jobs.next {
                a rel="next" href=(link(next)) { "next →" }
            }
        }
    }
}

/// The address of a page of the list. Ids and states need no escapes.
fn link(which: &Which) -> String {
    let mut parts = Vec::new();
    if which.all {
        parts.push("show=all".to_owned());
    }
    parts.extend(which.state.map(|state| format!("state={state}")));
    parts.extend(which.org.as_ref().map(|org| format!("org={org}")));
    if which.page > 0 {
        parts.push(format!("page={}", which.page));
    }
    parts.extend(which.after.map(|id| format!("after={id}")));
    match parts.is_empty() {
        true => "/".to_owned(),
        false => format!("/?{}", parts.join("&")),
    }
}
