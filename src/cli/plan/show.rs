//! A plan for people.

use std::time::Duration;

use crate::cli::figures;
use crate::plan::{Bottleneck, Figure, Plan, PlanFile, Time};

pub(super) fn in_words(file: &PlanFile) -> String {
    let plan = &file.plan;
    let mut rows = vec![
        ("plan", file.sha256.to_string()),
        ("made", plan.made.clone()),
        ("job", job(plan)),
        ("slices", format!("{} (counted)", plan.size.slices)),
        ("data keys", figure(plan.size.keys)),
        ("cells", figure(plan.size.cells)),
        ("bytes", figure(plan.size.bytes)),
        ("KMS calls", calls(plan)),
        (
            "cost",
            format!(
                "USD {} at {} for 10,000 calls (list price of {})",
                plan.kms.usd, plan.kms.price_per_10k_usd, plan.kms.price_date
            ),
        ),
        ("time", time(plan)),
        ("waits", waits(&plan.time)),
        ("drift", drift(plan)),
    ];
    for obstacle in &plan.obstacles {
        rows.push(("obstacle", figures::printable(obstacle)));
    }
    for note in &plan.notes {
        rows.push(("note", figures::printable(note)));
    }
    rows.push(("next", next(file)));
    rows.iter()
        .map(|(name, value)| format!("{name:<11} {value}\n"))
        .collect()
}

fn job(plan: &Plan) -> String {
    let field = |name: &str| plan.job.pointer(name).and_then(|v| v.as_str());
    match field("/to_cmk") {
        Some(to) => format!(
            "rekey of {} to {to} ({})",
            field("/org").unwrap_or_default(),
            field("/mode").unwrap_or_default()
        ),
        None => {
            let org = field("/org").unwrap_or_default();
            let end = |end: &str| {
                let of = |name: &str| field(&format!("/{end}/{name}")).unwrap_or_default();
                let org = field(&format!("/{end}/org")).unwrap_or(org);
                format!("{org}/{}/{}", of("workspace"), of("channel"))
            };
            format!("move of {} to {}", end("from"), end("to"))
        }
    }
}

fn figure(figure: Figure) -> String {
    match figure.exact {
        true => format!("{} (counted)", figure.value),
        false => format!("about {} (from a sample)", figures::amount(figure.value)),
    }
}

fn calls(plan: &Plan) -> String {
    let calls = &plan.kms.calls;
    let kinds = [
        ("GenerateDataKey", calls.generate_data_key),
        ("Decrypt", calls.decrypt),
        ("ReEncrypt", calls.re_encrypt),
    ];
    let kinds: Vec<String> = kinds
        .iter()
        .filter(|(_, n)| *n > 0)
        .map(|(name, n)| format!("{n} {name}"))
        .collect();
    let about = match plan.size.keys.exact && plan.size.named_keys.exact {
        true => "",
        false => "about ",
    };
    match kinds.is_empty() {
        true => "none".to_owned(),
        false => format!("{about}{} ({})", plan.kms.total, kinds.join(", ")),
    }
}

fn span(seconds: u64) -> String {
    figures::span(Duration::from_secs(seconds))
}

fn time(plan: &Plan) -> String {
    let time = &plan.time;
    let budgets = &plan.budgets;
    let bound = match time.bottleneck {
        Bottleneck::Kms => format!("the KMS, at {} calls/s", budgets.kms_per_s),
        Bottleneck::Store => format!(
            "the store, at {} at a time of {} µs each",
            figures::count(budgets.store_at_once, "request"),
            plan.size.read_us
        ),
        Bottleneck::Settle => "the settle: every client has to follow".to_owned(),
        Bottleneck::Drain => "the drain: late writes have to land".to_owned(),
    };
    format!(
        "at least {} with {}; bound by {bound}",
        span(time.total_s),
        figures::count(budgets.workers, "worker")
    )
}

fn waits(time: &Time) -> String {
    format!(
        "KMS {}, store {}; settle {}, before the proof {}, drain {}",
        span(time.kms_s),
        span(time.store_s),
        span(time.settle_s),
        span(time.verify_s),
        span(time.drain_s)
    )
}

fn drift(plan: &Plan) -> String {
    let lifted = plan.drift.get("lifted").and_then(|l| l.as_array());
    match lifted {
        Some(all) if all.is_empty() => {
            "none: the new CMK denies whatever the old one does".to_owned()
        }
        Some(all) => format!(
            "{} of the old CMK would be lifted: carry each over, or accept it by its SHA-256",
            figures::count(all.len() as u64, "Deny")
        ),
        None => {
            let why = plan.drift.get("why").and_then(|why| why.as_str());
            let why = figures::printable(why.unwrap_or_default());
            format!("was not looked at: {why}")
        }
    }
}

fn next(file: &PlanFile) -> String {
    match file.plan.obstacles.is_empty() {
        true => format!("rekeyd enqueue … --plan {}", file.sha256),
        false => "clear the obstacles, from the top, and plan again".to_owned(),
    }
}
