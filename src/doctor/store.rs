//! The store: reachable, fit, all nodes there, its waits, its clock, and whether
//! another process has this worker's name.

use std::time::Duration;

use super::{Broken, Check, Part, within};
use crate::clock::SharedClock;
use crate::config::Config;
use crate::job::JobBook;
use crate::registry::{Registry, RegistryError, Timing};
use crate::store::SharedStore;

/// Looks at a store. `None` in place of the waits means that they are not there
/// or break a rule.
pub async fn check(
    opened: &Result<SharedStore, Broken>,
    config: &Config,
    clock: &SharedClock,
    limit: Duration,
) -> (Vec<Check>, Option<Timing>) {
    let unreached = |why: &str| {
        let rest = [Part::Timing, Part::Clock, Part::Worker];
        rest.map(|part| Check::not_checked(part, format!("needs the store, which {why}")))
    };
    let store = match opened {
        Ok(store) => store,
        Err(broken) => {
            let mut checks = vec![broken.check(Part::Store)];
            checks.extend(unreached("could not be opened"));
            return (checks, None);
        }
    };
    let health = match within(limit, store.health()).await {
        Ok(Ok(health)) => health,
        Ok(Err(error)) => return (away(error.to_string(), unreached("fails")), None),
        Err(silence) => return (away(silence, unreached("does not answer")), None),
    };
    let mut checks = Vec::new();
    if health.problems.is_empty() {
        checks.push(Check::ok(
            Part::Store,
            format!(
                "{} answers, and its tables are as they must be",
                health.server
            ),
        ));
    }
    for problem in &health.problems {
        checks.push(Check::wrong(Part::Store, &problem.what, &problem.fix));
    }
    match within(limit, store.away()).await {
        Ok(Ok(nodes)) => checks.extend(nodes.iter().map(|node| {
            Check::warning(
                Part::Store,
                format!("node {node} cannot be reached"),
                "bring it back: work goes on without it, but no job ends while it is away",
            )
        })),
        Ok(Err(error)) => checks.push(Check::not_checked(
            Part::Store,
            format!("whether all nodes are there: {error}"),
        )),
        Err(silence) => checks.push(Check::not_checked(
            Part::Store,
            format!("whether all nodes are there: {silence}"),
        )),
    }
    let registry = Registry::new(store.clone(), clock.clone());
    let (check, timing) = waits(within(limit, registry.timing()).await, config);
    checks.push(check);
    checks.push(offset(health.clock_offset_ms, timing.as_ref()));
    let book = JobBook::new(store.clone(), clock.clone());
    checks.push(name(&book, config, clock, limit).await);
    (checks, timing)
}

fn away(why: String, rest: [Check; 3]) -> Vec<Check> {
    let fix = "see that its servers run and that this machine reaches them";
    let mut checks = vec![Check::wrong(Part::Store, why, fix)];
    checks.extend(rest);
    checks
}

fn waits(
    read: Result<Result<Timing, RegistryError>, String>,
    config: &Config,
) -> (Check, Option<Timing>) {
    let set_up = if config.store.kind.is_cluster() {
        "make the tables and their waits with `rekeyd schema apply`"
    } else {
        "make the store and its waits with `rekeyd init`"
    };
    let timing = match read {
        Ok(Ok(timing)) => timing,
        Ok(Err(RegistryError::NoTiming)) => {
            let says = "the store has no timing row: no process may use it";
            return (Check::wrong(Part::Timing, says, set_up), None);
        }
        Ok(Err(error)) => {
            let fix = "the row was changed by hand: put back what `schema apply` or `init` wrote";
            return (Check::wrong(Part::Timing, error.to_string(), fix), None);
        }
        Err(silence) => return (Check::not_checked(Part::Timing, silence), None),
    };
    let longest = timing.request_timeout_ms;
    let check = if config.store.kind.is_cluster() && config.store.request_timeout_ms > longest {
        Check::wrong(
            Part::Timing,
            format!(
                "store.request_timeout_ms is {} ms, and the store's waits reckon with {longest} ms",
                config.store.request_timeout_ms
            ),
            format!("set store.request_timeout_ms to at most {longest}"),
        )
    } else if config.store.kind.is_cluster() && timing.lease_ms < Timing::production().lease_ms {
        Check::warning(
            Part::Timing,
            format!(
                "leases of {} ms on a cluster: waits for a trial",
                timing.lease_ms
            ),
            "fine for a trial; a store in earnest is made with the production waits",
        )
    } else {
        Check::ok(
            Part::Timing,
            format!(
                "{} ms for clients to follow, leases of {} ms, {} ms to drain",
                timing.status_time_ms, timing.lease_ms, timing.drain_ms
            ),
        )
    };
    (check, Some(timing))
}

fn offset(offset_ms: i64, timing: Option<&Timing>) -> Check {
    const FIX: &str = "have this machine and the store's nodes keep time by the same NTP servers";
    let Some(timing) = timing else {
        return Check::not_checked(Part::Clock, "what is allowed stands in the timing row");
    };
    let allowed = timing.max_skew_ms;
    let off = offset_ms.unsigned_abs();
    let says = format!("the store's clock is {offset_ms} ms from ours; {allowed} ms are allowed");
    if off > allowed {
        Check::wrong(Part::Clock, says, FIX)
    } else if off * 2 > allowed {
        Check::warning(Part::Clock, says, FIX)
    } else {
        Check::ok(Part::Clock, says)
    }
}

/// Whether a lease that runs now names this configuration's worker.
async fn name(book: &JobBook, config: &Config, clock: &SharedClock, limit: Duration) -> Check {
    let Some(id) = &config.worker.id else {
        return Check::ok(
            Part::Worker,
            "its name is made when it starts, and is unique",
        );
    };
    let now_ms = clock.wall().unix_ms();
    let holds = async {
        for org in book.orgs().await? {
            for job in book.jobs(&org).await? {
                let lease = job.row.lease.as_ref();
                if lease.is_some_and(|l| l.worker == *id && l.until_ms > now_ms) {
                    return Ok(Some(job.row.request.job_id()));
                }
            }
        }
        Ok::<_, crate::job::BookError>(None)
    };
    match within(limit, holds).await {
        Ok(Ok(None)) => Check::ok(Part::Worker, format!("no job is driven by a `{id}` now")),
        Ok(Ok(Some(job))) => Check::warning(
            Part::Worker,
            format!("a worker called `{id}` drives job {job} now"),
            "right if it is the one of this configuration; a second process needs another worker.id",
        ),
        Ok(Err(error)) => Check::not_checked(Part::Worker, error.to_string()),
        Err(silence) => Check::not_checked(Part::Worker, silence),
    }
}
