//! A certificate as a page: one file without a script, a picture or a link to
//! elsewhere, to be kept, sent and printed. It carries the signed document, and
//! is made from it and nothing else, so whoever checks it can make it again and
//! compare.

use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value;

use super::content::{Certificate, Evidence};
use super::keys::PublicKey;
use crate::job::Counts;

const BEGIN: &str = "<script type=\"application/json\" id=\"signed\">";
const END: &str = "</script>";

const STYLE: &str = "
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.verdict { padding: .8rem 1rem; border-left: .4rem solid #8a8f98; background: #f3f4f6; }
.verdict.good { border-color: #1a7f37; } .verdict.bad { border-color: #b42318; }
table { border-collapse: collapse; width: 100%; display: block; overflow-x: auto; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #d9dce1; overflow-wrap: anywhere; }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
code { font: .9em ui-monospace, monospace; overflow-wrap: anywhere; }
@media print { body { margin: 0; max-width: none; } }
";

/// The page. `document` is what it carries.
pub(super) fn of(certificate: &Certificate, signer: Option<PublicKey>, document: &Value) -> String {
    let c = certificate;
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy"
                    content="default-src 'none'; style-src 'unsafe-inline'";
                title { "Job " (c.job_id) " of " (c.org) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (c.asked.what) }
                (verdict(c))
                (pairs(&[
                    ("job", c.job_id.to_string()),
                    ("organization", c.org.to_string()),
                    ("asked for by", c.asked.requested_by.clone()),
                    ("why", c.asked.reason.clone()),
                    ("recorded", c.asked.recorded_at.clone()),
                    ("state", format!("{} since {}", c.outcome.state, c.outcome.since)),
                    ("request, SHA-256", c.asked.request_sha256.clone()),
                ]))
                @if let Some(a) = &c.activation {
                    h2 { "The change" }
                    (pairs(&[
                        ("epoch", format!("{}, from {}", a.epoch, a.at)),
                        ("CMK before", a.from_cmk.to_string()),
                        ("CMK after", a.to_cmk.as_ref().unwrap_or(&a.from_cmk).to_string()),
                    ]))
                }
                h2 { "Plan and what it took" }
                (plan(c))
                h2 { "Evidence" }
                (evidence(&c.evidence))
                h2 { "History" }
                table {
                    tr { th { "when" } th { "what" } th { "who" } th { "why" } }
                    @for step in &c.history {
                        tr {
                            td { (step.at) }
                            td {
                                @if step.from == step.to { "stays " (step.to) }
                                @else { (step.from) " → " (step.to) }
                            }
                            td { (step.who) }
                            td { (step.why) }
                        }
                    }
                }
                @if !c.throttles.is_empty() {
                    h2 { "Throttles" }
                    table {
                        tr { th { "when" } th { "of" } th { "to" } th { "who" } th { "why" } }
                        @for t in &c.throttles {
                            tr {
                                td { (t.at) } td { (t.target) }
                                td { (t.limits.as_deref().unwrap_or("cleared")) }
                                td { (t.who) } td { (t.why) }
                            }
                        }
                    }
                }
                h2 { "Audit log" }
                p { "The streams of all who worked on the job, each with the hash of its newest record when the job ended." }
                table {
                    tr { th { "stream" } th { "record" } th { "SHA-256" } }
                    @for stream in &c.evidence.audit {
                        tr {
                            td { code { (stream.stream) } }
                            td.n { (stream.seq) }
                            td { code { (stream.head) } }
                        }
                    }
                }
                h2 { "Signature" }
                @match signer {
                    Some(key) => p { "Signed with the Ed25519 key " code { (key.to_hex()) } ". Check it with " code { "rekeyd report check" } " and a copy of that key which did not come with this page." }
                    None => p { "Not signed." }
                }
                p { "Made by rekeyd " (c.rekeyd) " for " (c.made_by) " at " (c.made_at) "." }
                (PreEscaped(BEGIN)) (PreEscaped(in_a_script(document))) (PreEscaped(END))
            }
        }
    }
    .into_string()
}

/// JSON that can stand in a script element: nothing in it ends the element.
fn in_a_script(document: &Value) -> String {
    document.to_string().replace('<', "\\u003c")
}

/// The signed document that a page carries, if the text is such a page.
pub(super) fn embedded(text: &str) -> Option<String> {
    let after = text.split_once(BEGIN)?.1;
    Some(after.split_once(END)?.0.to_owned())
}

fn verdict(c: &Certificate) -> Markup {
    let class = match (c.outcome.at_its_end, c.outcome.old_cmk_may_be_disabled) {
        (_, Some(true)) => "verdict good",
        (true, Some(false)) => "verdict bad",
        _ => "verdict",
    };
    html! {
        p class=(class) {
            strong { (c.outcome.verdict.as_deref().unwrap_or("There is no verdict yet.")) }
        }
    }
}

fn pairs(rows: &[(&str, String)]) -> Markup {
    html! {
        table {
            @for (name, value) in rows {
                @if !value.is_empty() { tr { th { (name) } td { (value) } } }
            }
        }
    }
}

fn plan(c: &Certificate) -> Markup {
    let planned = |of: fn(&super::Plan) -> u64| {
        c.plan
            .as_ref()
            .map_or_else(|| "–".to_owned(), |plan| of(plan).to_string())
    };
    let none = || "–".to_owned();
    let done = &c.done;
    let rows = [
        (
            "slices (done: of all passes)",
            planned(|p| p.slices),
            done.slices,
        ),
        ("KMS calls", planned(|p| p.kms_calls), done.kms_calls),
        ("seconds", planned(|p| p.seconds), done.seconds),
        ("data keys made", none(), done.keys_made),
        ("keys wrapped anew", none(), done.keys_rewrapped),
        ("bytes of cells read", none(), done.bytes),
        ("times a worker took the job up", none(), done.drivers),
        ("tasks taken over", none(), done.takeovers),
    ];
    html! {
        table {
            tr { th {} th { "planned" } th { "done" } }
            @for (name, planned, done) in rows {
                tr { th { (name) } td.n { (planned) } td.n { (done) } }
            }
        }
    }
}

fn evidence(e: &Evidence) -> Markup {
    let parts = |c: &Counts| {
        [
            ("scanned", c.scanned),
            ("rewritten", c.rewritten),
            ("current", c.current),
            ("changed meanwhile", c.changed),
            ("expired", c.expired),
            ("empty", c.empty),
            ("blocked", c.blocked),
            ("quarantined", c.quarantined),
        ]
    };
    html! {
        table {
            tr { th { "rows" } th { "rewriting" } th { "last scan" } }
            @for ((name, rewriting), (_, proof)) in parts(&e.rewriting).into_iter().zip(parts(&e.proof)) {
                tr { th { (name) } td.n { (rewriting) } td.n { (proof) } }
            }
        }
        p {
            @if e.counts_balance { "The parts sum to the rows scanned." }
            @else { "The parts do not sum to the rows scanned." }
            @if e.times_blocked > 0 {
                " The job was blocked " (e.times_blocked) @if e.times_blocked == 1 { " time" } @else { " times" } "; the history says why."
            }
        }
        @for (what, counts) in [("slices wait for a key", &e.blocked_slices), ("cells left as found", &e.quarantined_cells)] {
            @for (code, n) in counts { p { (n) " " (what) ": " (code) } }
        }
    }
}
