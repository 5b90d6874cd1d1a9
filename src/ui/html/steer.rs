//! The form that steers a job. A page of its own, which is not read anew: what is
//! being typed stays.

use maud::{DOCTYPE, Markup, html};

use super::{badge, head, what};
use crate::job::{JobRow, JobState};

/// The form for a job.
pub(in crate::ui) fn steer(job: &JobRow) -> Markup {
    let id = job.request.job_id();
    let back = format!("/jobs/{id}");
    html! {
        (DOCTYPE)
        html lang="en" {
            (head("steer", false))
            body {
                header { a .brand href="/" { "rekeyd" } }
                main {
                    h1 { "Steer: " (badge(job.state)) " " (what(job)) }
                    p .quiet { "Job " code { (id) } }
                    @if job.state.is_final() {
                        p .notice { "This job is at its end: there is nothing to steer." }
                    } @else {
                        (form(job, &back))
                    }
                    p { a href=(back) { "Back to the job" } }
                }
            }
        }
    }
}

fn form(job: &JobRow, back: &str) -> Markup {
    let is_paused = job.state == JobState::Paused;
    html! {
        form method="post" action=(format!("{back}/steer")) aria-label="Steer this job" {
            label { "Token "
                input type="password" name="token" required autocomplete="current-password";
            }
            label { "Your name "
                input name="who" required maxlength="64" autocomplete="username";
            }
            label { "Why (it stands in the history) "
                input name="why" required maxlength="200" autocomplete="off";
            }
            label { "Rows a second, in each worker "
                input name="rows_per_s" inputmode="decimal" placeholder="500" autocomplete="off";
            }
            label { "For so many minutes "
                input name="minutes" inputmode="numeric" placeholder="60" autocomplete="off";
            }
            @if is_paused {
                button name="do" value="resume" { "Resume" }
            } @else {
                button name="do" value="pause" { "Pause" }
            }
            button name="do" value="throttle" { "Slow down" }
            button name="do" value="clear" { "Clear the throttle" }
        }
        p .quiet { "Pause: batches in flight are finished, nothing new is begun; the application \
                    goes on as it is. Whatever is done is in the job's history and in the audit \
                    log, with your name and why." }
    }
}
