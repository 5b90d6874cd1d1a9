//! How the worker that serves the page is.

use maud::{Markup, html};

use super::{Part, foreign};
use crate::progress::figures;
use crate::telemetry::pulse::Age;
use crate::ui::look::Source;

/// The page of its health.
pub(in crate::ui) fn health(source: &Source) -> Part {
    let running = &source.running;
    let (stuck, unready) = (running.pulse.stuck(), running.pulse.unready());
    let timing = &source.timing;
    let waits = [
        ("status time", timing.status_time_ms),
        ("request timeout", timing.request_timeout_ms),
        ("clock skew", timing.max_skew_ms),
        ("row age", timing.row_age_ms),
        ("lease", timing.lease_ms),
        ("margin", timing.margin_ms),
        ("grace", timing.grace_ms),
        ("settle", timing.settle_ms()),
        ("drain", timing.drain_ms),
    ];
    let main = html! {
        h1 { "Health of this worker" }
        section #health data-live {
            (says("Alive", "Its loops move.", &stuck))
            (says("Ready", "Store and queue answer.", &unready))
            @match running.waiting.words() {
                Some(words) => p .notice .held { (foreign(&words)) },
                None => p { "It waits for nothing." },
            }
            div .pair {
                (ages("Loops, last moved", &running.pulse.loops()))
                (ages("Last answered", &running.pulse.reaches()))
            }
        }
        section {
            h2 { "Waits that all workers and clients on this store keep" }
            dl .facts {
                @for (name, ms) in waits {
                    dt { (name) } dd { (figures::span(std::time::Duration::from_millis(ms))) }
                }
            }
        }
    };
    ("Health".to_owned(), main)
}

fn says(what: &str, good: &str, reasons: &[String]) -> Markup {
    html! {
        @if reasons.is_empty() {
            p .notice .good { strong { (what) ". " } (good) }
        } @else {
            p .notice .bad { strong { "Not " (what.to_lowercase()) ": " } (foreign(&reasons.join("; "))) }
        }
    }
}

fn ages(name: &str, ages: &[Age]) -> Markup {
    html! {
        table .numbers {
            caption { (name) }
            tbody {
                @for age in ages {
                    tr { th scope="row" { (age.name) }
                        td { @match age.ms { Some(ms) => { (ms) " ms ago" } None => "never" } } }
                }
            }
        }
    }
}
