//! Reads and tries what a plan is made of. Nothing is changed.

use serde_json::{Value, json};

use super::Asked;
use crate::audit::AuditLog;
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::figures;
use crate::cli::report::Failure;
use crate::clock::WallTime;
use crate::ids::OrgId;
use crate::job::{JobBook, JobMessage, Mode, ThrottleTarget};
use crate::kms::{Kms, ReasonCode, Use};
use crate::plan::{
    Budgets, Cost, Plan, Price, Sample, Survey, Time, Waits, Way, of_survey, survey,
};
use crate::registry::Registry;
use crate::store::PageLimit;
use crate::wiring;
use crate::worker::WorkerError;
use crate::worker::drift::{self, Drift};
use crate::worker::preflight::{Obstacle, Preflight};

/// A worker waits for a KMS that is away; here that is the answer, of each CMK.
/// Seconds.
const GIVE_UP_S: u64 = 10;

/// What was found before anything was reckoned.
#[derive(Default)]
struct Found {
    obstacles: Vec<String>,
    notes: Vec<String>,
    drift: Value,
}

pub(super) async fn plan(context: &Context, asked: &Asked<'_>) -> Result<Plan, Failure> {
    let config = context.config();
    let store = context.store().await?;
    let registry = Registry::new(store.clone(), context.clock.clone());
    let book = JobBook::new(store.clone(), context.clock.clone());
    let timing = registry.timing().await?;
    let caller = &config.kms.caller;
    let audit = wiring::audit_as(config, "rekeyd plan", caller, None, &context.clock)?;
    let kms = kms(context, &audit).await?;
    let look = Preflight {
        store: &store,
        registry: &registry,
        kms: &*kms,
        clock: &context.clock,
        timing: &timing,
        message: &asked.message,
        why: Use::new(ReasonCode::Canary, "plan"),
    };
    let mut found = Found::default();
    let tried = try_all(&look, asked, &mut found).await;
    // What was called is on record, however it went.
    audit.close().await?;
    tried?;
    let (org, channel) = look.reads();
    let w = &config.worker;
    let sample = Sample {
        slices: usize::try_from(asked.common.sample).unwrap_or(usize::MAX),
        page: PageLimit {
            rows: w.page_rows,
            bytes: w.page_bytes,
        },
    };
    let size = survey(&store, &registry, org, channel, sample).await?;
    note_jobs(&book, org, &mut found.notes).await?;
    let now = context.clock.wall();
    let budgets = budgets(context, &book, org, asked.common.workers, now, &mut found).await?;
    let way = Way::of(&asked.message);
    note_way(way, &size, &mut found.notes);
    let calls = of_survey(way, &size);
    let price = &config.plan.kms_price_per_10k_usd;
    let usd = Price::parse(price)
        .ok_or_else(|| {
            let what = format!("plan.kms_price_per_10k_usd is no amount: `{price}`");
            Failure::new(Exit::Config, what)
        })?
        .of(calls.total());
    Ok(Plan {
        v: 1,
        made: figures::time(now.unix_ms()),
        job: Plan::of_job(&asked.message),
        time: Time::of(way, &size, &Waits::of(way, &timing), &budgets),
        size,
        kms: Cost {
            calls,
            total: calls.total(),
            usd,
            price_per_10k_usd: price.clone(),
            price_date: config.plan.price_date.clone(),
        },
        budgets,
        obstacles: found.obstacles,
        notes: found.notes,
        drift: found.drift,
    })
}

async fn kms(context: &Context, audit: &AuditLog) -> Result<std::sync::Arc<dyn Kms>, Failure> {
    let caller = &context.config().kms.caller;
    context.kms_within(GIVE_UP_S, caller, audit).await
}

/// Everything that preflight looks at; what stands in the way of one look does
/// not keep from the others.
async fn try_all(
    look: &Preflight<'_>,
    asked: &Asked<'_>,
    found: &mut Found,
) -> Result<(), Failure> {
    note(look.store().await?, found);
    // The organization has to be there for anything else.
    let (org, _) = look.reads();
    look.registry.org(org).await?;
    let authority = look.authority().await?;
    let refused = authority.is_some();
    note(authority, found);
    if refused {
        // A CMK that may not be used is not called (I15).
        found.drift = not_looked("the job may not do what it asks for");
        return Ok(());
    }
    match look.cmks().await {
        Ok(obstacle) => note(obstacle, found),
        Err(WorkerError::Kms(error)) => found.obstacles.push(format!(
            "kms_refused: {} answers {} ({})",
            error.operation, error.code, error.message
        )),
        Err(error) => return Err(error.into()),
    }
    let drift = match (&asked.policies, &asked.message) {
        (Some((old, new)), JobMessage::Rekey(request)) => {
            let active = look.registry.org(&request.org).await?.cmk;
            Ok(drift::compare(&active, old, &request.to_cmk, new))
        }
        _ => drift::look(look).await,
    };
    match drift {
        Ok(Drift::Compared(lifted)) => {
            found.obstacles.extend(lifted.iter().map(|one| {
                format!("policy_drift: the new CMK lacks a Deny of the old one: {one}")
            }));
            found.drift = json!({"looked": true, "lifted": lifted});
        }
        Ok(Drift::NotLooked(why) | Drift::Wait(why)) => found.drift = not_looked(&why),
        Ok(Drift::NotOfThisJob) => {
            found.drift = not_looked("a move changes the scope");
            found.notes.push(
                "a move changes the scope: Denies by workspace, channel or organization do not \
                 follow it; the owner of the CMK writes them anew"
                    .to_owned(),
            );
        }
        Err(WorkerError::Kms(error)) => found.drift = not_looked(&error.code),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn note(obstacle: Option<Obstacle>, found: &mut Found) {
    if let Some(Obstacle::Refuse(reason) | Obstacle::Wait(reason)) = obstacle {
        found.obstacles.push(reason);
    }
}

fn not_looked(why: &str) -> Value {
    json!({"looked": false, "why": why})
}

/// What other jobs of the organization mean for this one.
async fn note_jobs(book: &JobBook, org: &OrgId, notes: &mut Vec<String>) -> Result<(), Failure> {
    for id in book.open(org).await? {
        let Some(job) = book.get(org, id).await? else {
            continue;
        };
        let row = job.row;
        notes.push(format!(
            "job {id} is {} and not at its end; jobs of one organization may overlap",
            row.state
        ));
        if row.blocked_slices > 0 {
            notes.push(format!(
                "{} of job {id} cannot be opened now and would wait here too: `rekeyd failures {id}`",
                figures::count(row.blocked_slices, "slice")
            ));
        }
    }
    Ok(())
}

fn note_way(way: Way, size: &Survey, notes: &mut Vec<String>) {
    if !(size.cells.exact && size.keys.exact) {
        notes.push(format!(
            "data keys, cells and bytes are reckoned from {} of {}",
            figures::count(size.sampled, "slice"),
            size.slices
        ));
    }
    if way == Way::Rewrap {
        notes.push(format!(
            "mode {} keeps the data keys: it does not cure a key that has leaked",
            Mode::Rewrap.as_str()
        ));
    }
}

/// The budgets of this configuration, and what throttles leave of them.
async fn budgets(
    context: &Context,
    book: &JobBook,
    org: &OrgId,
    workers: u64,
    now: WallTime,
    found: &mut Found,
) -> Result<Budgets, Failure> {
    let config = context.config();
    let mut kms_per_s = u64::from(config.kms.rate_per_s);
    let mut rows_per_s: Option<u64> = None;
    let whole = |rate: f64| (rate.floor() as u64).max(1);
    let rows = book.throttles().await?;
    for (name, _) in rows.unreadable() {
        let name = figures::printable(&name);
        found.notes.push(format!(
            "the throttle of `{name}` cannot be read: nothing new begins where it may hold"
        ));
    }
    for throttle in rows.live(now) {
        let holds = match &throttle.target {
            ThrottleTarget::All => true,
            ThrottleTarget::Org(own) => own == org,
            ThrottleTarget::Job(_) => false,
        };
        if !holds {
            continue;
        }
        found.notes.push(format!(
            "throttled for {}: {}",
            throttle.target, throttle.limits
        ));
        if let Some(rate) = throttle.limits.kms_per_s {
            kms_per_s = kms_per_s.min(whole(rate));
        }
        if let Some(rate) = throttle.limits.rows_per_s {
            let rate = whole(rate);
            rows_per_s = Some(rows_per_s.map_or(rate, |other| other.min(rate)));
        }
    }
    let w = &config.worker;
    let at_once = match config.store.kind.is_cluster() {
        true => w.slices_in_flight.min(config.store.requests_in_flight),
        // One file, one writer: workers wait for one another.
        false => 1,
    } as u64;
    Ok(Budgets {
        workers,
        kms_per_s: kms_per_s * workers,
        rows_per_s: rows_per_s.map(|rate| rate * workers),
        store_at_once: match config.store.kind.is_cluster() {
            true => at_once * workers,
            false => at_once,
        },
        page_rows: w.page_rows as u64,
    })
}
