//! One job.

use std::time::Duration;

use maud::{Markup, html};

use super::{Part, ago, badge, command, foreign, in_time, span_since};
use crate::clock::WallTime;
use crate::job::{Counts, JobRow, is_free};
use crate::progress::{self, figures};
use crate::ui::heat::{Cell, Row};
use crate::ui::look::{Job, Point, STEPS};

/// The page of a job.
pub(in crate::ui) fn job(job: &Job, steers: bool, now: WallTime) -> Part {
    let row = &job.row;
    let title = format!("{} {}", row.state, row.request.org());
    let main = html! {
        section #head data-live {
            h1 { (badge(row.state)) " " (super::what(row)) }
            p .quiet { "Job " code { (row.request.job_id()) } ", " (row.state) " for " (span_since(row.since_ms, now))
                @if let Some(lease) = row.lease.as_ref().filter(|_| !is_free(row, now.unix_ms())) {
                    ", driven by " (foreign(&lease.worker))
                }
                "."
            }
            @if let Some(verdict) = &row.verdict {
                p .notice .verdict { strong { "Verdict: " } (foreign(verdict)) }
            } @else {
                p { (foreign(&row.why)) }
            }
            @if let Some(next) = progress::next(row) {
                p .notice .held { "What to do: " (foreign(&next)) }
            }
            (super::throttles(&job.throttles, &[], now))
            @if steers && !row.state.is_final() {
                p { a href=(format!("/jobs/{}/steer", row.request.job_id())) { "Pause, resume or slow down" } }
            }
        }
        @if !row.state.is_final() {
            (how_far(job))
        }
        (map(job))
        (failures(job, now))
        (counts(row))
        (history(job, now))
        (asked_for(row, now))
    };
    (title, main)
}

fn how_far(job: &Job) -> Markup {
    let progress = &job.progress;
    let rates = progress.rates.as_ref();
    let per_s = |rate: Option<f64>| rate.map_or("unknown".to_owned(), |r| figures::rate(r) + "/s");
    let eta = match (&progress.waits, progress.eta_s) {
        (Some(_), _) => "waits".to_owned(),
        (None, Some(s)) => figures::span(Duration::from_secs(s)),
        (None, None) => "unknown".to_owned(),
    };
    html! {
        section #progress data-live {
            h2 { "Progress: " (progress.phase) }
            @if progress.slices > 0 {
                progress max=(progress.slices) value=(progress.slices_done) aria-label="Slices gone through" {}
                p { strong { (percent(progress.slices_done, progress.slices)) } " · "
                    (progress.slices_done) " of " (figures::count(progress.slices, "slice")) " · "
                    (figures::amount(progress.counts.scanned)) " messages read in this pass" }
            }
            @if let Some(aside) = &progress.setting_aside { p { (aside.in_words()) } }
            @if let Some(wait) = &progress.waits {
                p .notice { (foreign(&wait.words)) }
            }
            @if let Some(slowed) = &progress.slowed {
                p .notice .held { "Slowed down: " (foreign(slowed)) }
            }
            dl .figures {
                div { dt { "Messages" } dd { (per_s(rates.map(|r| r.messages_per_s))) } }
                div { dt { "KMS calls" } dd { (per_s(rates.map(|r| r.kms_per_s))) } }
                div { dt { "KMS calls, this pass" } dd { (figures::amount(progress.kms_calls)) } }
                div { dt { "Left for this pass" } dd { (eta) } }
            }
            (graphs(&job.trend))
        }
    }
}

/// Rounded down: 100 % is said when all is done, not just before.
fn percent(done: u64, of: u64) -> String {
    let permille = (done * 1000).checked_div(of).unwrap_or(0);
    format!("{}.{} %", permille / 10, permille % 10)
}

fn graphs(trend: &[Point]) -> Markup {
    let messages: Vec<f64> = trend.iter().map(|point| point.messages_per_s).collect();
    let kms: Vec<f64> = trend.iter().map(|point| point.kms_per_s).collect();
    html! {
        @if trend.len() > 1 {
            div .graphs {
                (graph("Messages per second", &messages))
                (graph("KMS calls per second", &kms))
            }
            p .quiet { "The graphs begin when somebody looks." }
        }
    }
}

/// A line from the left edge to the right, and its highest value in words.
fn graph(name: &str, values: &[f64]) -> Markup {
    const WIDTH: f64 = 240.0;
    const HEIGHT: f64 = 48.0;
    let highest = values.iter().copied().fold(0.0, f64::max);
    let step = WIDTH / (values.len().max(2) - 1) as f64;
    let points: Vec<String> = values
        .iter()
        .enumerate()
        .map(|(n, value)| {
            let share = if highest > 0.0 { value / highest } else { 0.0 };
            format!(
                "{:.1},{:.1}",
                n as f64 * step,
                (HEIGHT - 2.0) * (1.0 - share) + 1.0
            )
        })
        .collect();
    html! {
        figure {
            figcaption { (name) ", at most " (figures::rate(highest)) }
            svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) preserveAspectRatio="none" aria-hidden="true" {
                polyline points=(points.join(" ")) vector-effect="non-scaling-stroke" {}
            }
        }
    }
}

fn map(job: &Job) -> Markup {
    html! {
        @if !job.heat.is_empty() {
            section #map data-live {
                h2 { "Slices by channel and time" }
                div .heat {
                    @for row in &job.heat {
                        @let (done, planned) = row.sums();
                        div .line role="img" aria-label=(format!("{}: {done} of {planned} slices", channels(row))) {
                            span .name { (foreign(&channels(row))) }
                            span .cells { @for cell in &row.cells { (square(cell)) } }
                            span .sum { (percent(done, planned)) }
                        }
                    }
                }
                p .quiet .legend {
                    "Each square is a run of slices, in order of channel and hour: "
                    span .cell .h0 {} " none done, " span .cell .h5 {} " half, " span .cell .h10 {} " all, "
                    span .cell .h5 .blocked {} " some wait for a key, "
                    span .cell .h5 .at-work {} " a worker is at it."
                }
            }
        }
    }
}

fn channels(row: &Row) -> String {
    match row.first == row.last {
        true => row.first.clone(),
        false => format!("{} … {}", row.first, row.last),
    }
}

fn square(cell: &Cell) -> Markup {
    let mut class = format!("cell h{}", cell.tenths().min(10));
    let mut said = format!(
        "{} to {}: {} of {}",
        cell.from,
        if cell.to.is_empty() {
            "the end"
        } else {
            &cell.to
        },
        cell.done,
        figures::count(cell.planned, "slice"),
    );
    if cell.blocked > 0 {
        class += " blocked";
        said += &format!(", {} blocked", cell.blocked);
    }
    if cell.held {
        class += " at-work";
        said += ", being worked on";
    }
    html! { span class=(class) title=(said) {} }
}

fn failures(job: &Job, now: WallTime) -> Markup {
    let (row, blocked) = (&job.row, !job.blocked.is_empty());
    let quarantined = !job.quarantined.is_empty();
    let again = |kind, there_are| progress::retry(row, kind, there_are);
    html! {
        @if blocked || quarantined {
            section #failures data-live {
                h2 { "Not done" }
                @for (code, of_code) in &job.blocked {
                    div .notice .bad {
                        p { strong { (figures::count(of_code.slices as u64, "slice")) " blocked: " (foreign(code)) }
                            ", tried again " (in_time(of_code.retry_ms, now)) "." }
                        p { "The KMS says: " (foreign(&of_code.message)) }
                        details { summary { "Which" }
                            ul { @for slice in &of_code.some { li { (foreign(slice)) } } }
                            (more(of_code.slices > of_code.some.len(), row))
                        }
                    }
                }
                @if let Some(retry) = again("blocked", job.has_parked) {
                    p { "When the cause is gone: " (command(&retry)) }
                }
                @if quarantined {
                    div .notice .bad {
                        p { strong { "Cells that do not open or parse, left as found." } }
                        details { summary { "Which" }
                            ul {
                                @for cell in &job.quarantined {
                                    li { (foreign(&cell.slice.to_string())) " " code { (cell.record) } " "
                                        (foreign(&cell.code)) ", found " (ago(cell.found_ms, now)) }
                                }
                            }
                            (more(job.more_quarantined, row))
                        }
                    }
                    @if let Some(retry) = again("quarantined", !blocked) {
                        p { "When they are mended or deleted: " (command(&retry)) }
                    }
                }
            }
        }
    }
}

fn more(there_is: bool, row: &JobRow) -> Markup {
    html! {
        @if there_is {
            p { "All of them: " (command(&format!("rekeyd failures {} --output json", row.request.job_id()))) }
        }
    }
}

/// One of the counts.
type Of = fn(&Counts) -> u64;

fn counts(row: &JobRow) -> Markup {
    let columns = [("Rewriting", &row.rewriting), ("Proof", &row.proof)];
    let columns: Vec<(&str, &Counts)> = columns
        .into_iter()
        .filter(|(_, counts)| counts.scanned > 0)
        .collect();
    let kinds: [(&str, Of); 8] = [
        ("rewritten", |c| c.rewritten),
        ("current already", |c| c.current),
        ("changed meanwhile", |c| c.changed),
        ("expired", |c| c.expired),
        ("empty", |c| c.empty),
        ("blocked", |c| c.blocked),
        ("quarantined", |c| c.quarantined),
        ("rows read", |c| c.scanned),
    ];
    html! {
        @if !columns.is_empty() {
            section #counts data-live {
                h2 { "Rows of finished passes" }
                table .numbers {
                    thead { tr { th {} @for (name, _) in &columns { th { (name) } } } }
                    tbody {
                        @for (kind, of) in kinds {
                            tr { th scope="row" { (kind) } @for (_, counts) in &columns { td { (of(counts)) } } }
                        }
                    }
                }
            }
        }
    }
}

fn history(job: &Job, now: WallTime) -> Markup {
    let row = &job.row;
    html! {
        section #history data-live {
            h2 { "Timeline" }
            ol .timeline {
                @for step in job.history.iter().rev() {
                    li {
                        strong { (progress::way(step)) } " " (ago(step.at_ms, now))
                        " by " (foreign(&step.who)) br; span .quiet { (foreign(&step.why)) }
                    }
                }
                @if row.transitions <= STEPS {
                    li { strong { "recorded" } " " (ago(row.recorded_ms, now)) " for " (foreign(row.request.requested_by()))
                        @if !row.request.reason().is_empty() {
                            br; span .quiet { (foreign(row.request.reason())) }
                        }
                    }
                } @else {
                    li { "What was before: " (command(&format!("rekeyd history {}", row.request.job_id()))) }
                }
            }
        }
    }
}

fn asked_for(row: &JobRow, now: WallTime) -> Markup {
    let mut facts: Vec<(&str, String)> = vec![
        ("asked for by", row.request.requested_by().to_owned()),
        ("reason", row.request.reason().to_owned()),
        ("recorded", figures::time(row.recorded_ms)),
    ];
    if let Some(rekey) = row.request.rekey() {
        facts.push(("new CMK", rekey.to_cmk.to_string()));
    }
    if let Some(activated) = &row.activated {
        let name = match row.request.rekey() {
            Some(_) => "old CMK",
            None => "CMK",
        };
        facts.push((name, activated.from_cmk.to_string()));
        facts.push((
            "epoch",
            format!(
                "{} since {}",
                activated.epoch,
                figures::time(activated.at_ms)
            ),
        ));
    }
    if let Some(estimate) = &row.estimate {
        let words = format!(
            "{}, {} KMS calls, {}",
            figures::count(estimate.slices, "slice"),
            estimate.kms_calls,
            figures::span(Duration::from_secs(estimate.seconds))
        );
        facts.push(("estimate", words));
    }
    facts.extend(progress::planned::in_words(row, now).map(|plan| ("plan", plan)));
    if let Some(window) = row.request.window() {
        facts.push(("window", window.to_string()));
    }
    if row.request.priority() != 0 {
        facts.push(("priority", row.request.priority().to_string()));
    }
    if row.takeovers > 0 {
        facts.push(("tasks taken over", row.takeovers.to_string()));
    }
    html! {
        section #facts data-live {
            h2 { "What was asked for" }
            dl .facts {
                @for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
                    dt { (name) } dd { (foreign(value)) }
                }
            }
        }
    }
}
