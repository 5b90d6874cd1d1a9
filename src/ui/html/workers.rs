//! What each worker holds.

use maud::html;

use super::{Part, ago, foreign, in_time, job_link};
use crate::clock::WallTime;
use crate::progress::figures;
use crate::registry::Timing;
use crate::ui::look::Workers;

/// Leases of a worker that are listed one by one.
const LISTED: usize = 50;

/// The page of the workers.
pub(in crate::ui) fn workers(workers: &Workers, timing: &Timing, now: WallTime) -> Part {
    let main = html! {
        h1 { "Workers" }
        section #workers data-live {
            (super::throttles(&workers.throttles, &workers.unreadable, now))
            @if workers.seen.is_empty() {
                p .notice { "No worker holds a job or a task now; one that has nothing to do is not listed." }
            }
            @for (name, seen) in &workers.seen {
                article {
                    h2 { (foreign(name)) }
                    p .quiet { "Heard of " (ago(seen.heartbeat_ms(timing), now)) ", holds "
                        (figures::count(seen.held.len() as u64, "lease")) "." }
                    @for said in [&seen.waits, &seen.slowed].into_iter().flatten() {
                        p .notice .held { (foreign(said)) }
                    }
                    div .scroll {
                        table .cards {
                            thead { tr { th { "Holds" } th { "Organization" } th { "Lease ends" } th { "Job" } } }
                            tbody {
                                @for held in seen.held.iter().take(LISTED) {
                                    tr {
                                        td data-name="Holds" { (foreign(&held.what)) }
                                        td data-name="Organization" { (foreign(held.org.as_str())) }
                                        td data-name="Lease ends" {
                                            @if held.until_ms > now.unix_ms() { (in_time(held.until_ms, now)) }
                                            @else { "has run out; others may take it" }
                                        }
                                        td data-name="Job" { (job_link(held.job)) }
                                    }
                                }
                            }
                        }
                    }
                    @if seen.held.len() > LISTED {
                        p .quiet { "… and " (seen.held.len() - LISTED) " more: " code { "rekeyd workers" } }
                    }
                }
            }
            @if workers.left_out > 0 {
                p .quiet { "The tasks of " (figures::count(workers.left_out as u64, "more job"))
                    " are not listed here; " code { "rekeyd workers" } " lists all." }
            }
        }
    };
    ("Workers".to_owned(), main)
}
