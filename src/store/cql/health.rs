//! What would break a promise of the store: settings, guardrails, clocks.

use std::time::Duration;

use scylla::policies::load_balancing::{NodeIdentifier, SingleTargetLoadBalancingPolicy};
use scylla::statement::Statement;

use super::Requests;
use super::connect::Cluster;
use super::errors::{self, Failure};
use crate::store::{
    Applied, ControlTable, ControlWrite, Expect, StoreErrorClass, StoreHealth, StoreProblem,
    StoreResult,
};

/// The partition of the canaries. No organization's id starts so.
const CANARY_ORG: &str = "~canary";
/// How far in the future a client's clock may be: within the skew that all
/// processes keep.
const NEWEST_AHEAD: Duration = Duration::from_secs(1);
/// Clock readings of one node; the one with the shortest round trip counts.
const READINGS: usize = 3;
/// Readings of a node that is slow to answer. A reading is wrong by up to half of
/// its round trip, and a busy node must not look like one whose clock is off.
const MOST_READINGS: usize = 20;
/// A round trip this short says enough.
const SHORT_TRIP_US: i64 = 10_000;
/// Nodes whose clocks are read.
const NODES: usize = 32;

impl Requests {
    pub(super) async fn look(&self) -> StoreResult<StoreHealth> {
        let mut problems = self.cluster.schema_problems().await?;
        if problems.is_empty() {
            problems.extend(self.canaries().await?);
            problems.extend(self.try_condition().await?);
        }
        Ok(StoreHealth {
            server: self.cluster.server.to_string(),
            problems,
            clock_offset_ms: self.cluster.clock_offset_ms().await?,
        })
    }

    /// Writes a row at the oldest and one at the newest time there may be, and
    /// deletes both: guardrails may refuse such times.
    async fn canaries(&self) -> StoreResult<Vec<StoreProblem>> {
        let newest = self.cluster.clock.wall().plus(NEWEST_AHEAD).0;
        let mut problems = Vec::new();
        for (name, at) in [("oldest", 1), ("newest", newest)] {
            let key = (CANARY_ORG, "canary", "canary", name.as_bytes());
            let values = (at, 0, name.as_bytes(), key.0, key.1, key.2, key.3);
            let session = &self.cluster.session;
            let written = session
                .execute_unpaged(&self.statements.update, values)
                .await
                .map_err(Failure::from);
            match written {
                Ok(_) => {
                    let values = (at, key.0, key.1, key.2, key.3);
                    session
                        .execute_unpaged(&self.statements.delete_row, values)
                        .await
                        .map_err(|e| Failure::from(e).into_error("deleting a canary"))?;
                }
                Err(failure) if failure.class == StoreErrorClass::Invalid => {
                    let why = failure.into_error("a canary");
                    problems.push(StoreProblem {
                        what: format!(
                            "table {}.cells refuses a write at the {name} time ({at} µs): {}",
                            self.cluster.keyspace, why.message
                        ),
                        fix: "raise the guardrails minimum_timestamp and maximum_timestamp in cassandra.yaml: the worker writes at the time of what it replaces".to_owned(),
                    });
                }
                Err(failure) => return Err(failure.into_error("writing a canary")),
            }
        }
        Ok(problems)
    }

    /// Tries a conditional write: ScyllaDB refuses them on tablets by version.
    async fn try_condition(&self) -> StoreResult<Option<StoreProblem>> {
        let id = uuid::Uuid::new_v4().to_string();
        let mut write = ControlWrite {
            id,
            expect: Expect::Absent,
            body: Some("{}".to_owned()),
        };
        let table = ControlTable::Timing;
        let what = match self.apply(table, CANARY_ORG, &[write.clone()]).await {
            Ok(Applied::Yes) => {
                write.expect = Expect::Rev(1);
                write.body = None;
                match self.apply(table, CANARY_ORG, &[write]).await? {
                    Applied::Yes => return Ok(None),
                    Applied::No => "a second write did not find the first".to_owned(),
                }
            }
            Ok(Applied::No) => "a row that nobody made is said to stand".to_owned(),
            Err(error) if error.class == StoreErrorClass::Transient => return Err(error),
            Err(error) => error.message,
        };
        Ok(Some(StoreProblem {
            what: format!(
                "table {}.{} does not take conditional writes: {what}",
                self.cluster.keyspace,
                table.as_str()
            ),
            fix: "on ScyllaDB before 2025.4 the keyspace must be made with tablets = {'enabled': false}".to_owned(),
        }))
    }
}

/// Readings of one node's clock.
#[derive(Default)]
struct Readings {
    taken: usize,
    /// The shortest round trip in microseconds, and its offset in milliseconds.
    best: Option<(i64, i64)>,
}

impl Readings {
    fn are_enough(&self) -> bool {
        let is_short = self
            .best
            .is_some_and(|(took_us, _)| took_us <= SHORT_TRIP_US);
        self.taken >= MOST_READINGS || (self.taken >= READINGS && is_short)
    }

    fn add(&mut self, took_us: i64, offset_ms: i64) {
        self.taken += 1;
        if self.best.is_none_or(|(shortest, _)| took_us < shortest) {
            self.best = Some((took_us, offset_ms));
        }
    }

    fn offset_ms(&self) -> i64 {
        self.best.map_or(0, |(_, offset)| offset)
    }
}

impl Cluster {
    /// How far the nodes' clocks are from ours at most, milliseconds: of the
    /// home datacenter, whose nodes coordinate what we send.
    async fn clock_offset_ms(&self) -> StoreResult<i64> {
        let state = self.session.get_cluster_state();
        let nodes = state.get_nodes_info().iter().filter(|node| {
            node.is_connected() && (self.datacenter.is_none() || node.datacenter == self.datacenter)
        });
        let mut worst = 0_i64;
        for node in nodes.take(NODES) {
            let target = NodeIdentifier::Node(node.clone());
            let mut statement = Statement::new(
                "SELECT toUnixTimestamp(now()) AS now_ms FROM system.local WHERE key = 'local'",
            );
            statement.set_load_balancing_policy(Some(SingleTargetLoadBalancingPolicy::new(
                target, None,
            )));
            let mut readings = Readings::default();
            while !readings.are_enough() {
                let (took_us, offset_ms) = self.one_reading(&statement).await?;
                readings.add(took_us, offset_ms);
            }
            let offset = readings.offset_ms();
            if offset.abs() > worst.abs() {
                worst = offset;
            }
        }
        Ok(worst)
    }

    /// The round trip in microseconds, and the offset in milliseconds.
    async fn one_reading(&self, statement: &Statement) -> StoreResult<(i64, i64)> {
        const WHAT: &str = "reading a node's clock";
        let before = self.clock.wall();
        let answer = self
            .session
            .query_unpaged(statement.clone(), ())
            .await
            .map_err(|e| Failure::from(e).into_error(WHAT))?;
        let took_us = self.clock.wall().0.saturating_sub(before.0);
        let answer = answer
            .into_rows_result()
            .map_err(|e| errors::unexpected(WHAT, e))?;
        let (now_ms,) = answer
            .first_row::<(i64,)>()
            .map_err(|e| errors::unexpected(WHAT, e))?;
        // Theirs was read in the middle of the trip, and is cut to milliseconds.
        let ours_us = before.0.saturating_add(took_us / 2);
        let theirs_us = now_ms.saturating_mul(1000).saturating_add(500);
        Ok((took_us, theirs_us.saturating_sub(ours_us) / 1000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The offset that comes of these round trips, the last one again and again,
    /// and how many were taken.
    fn of(trips: &[(i64, i64)]) -> (i64, usize) {
        let mut readings = Readings::default();
        while !readings.are_enough() {
            let (took_us, offset_ms) = trips[readings.taken.min(trips.len() - 1)];
            readings.add(took_us, offset_ms);
        }
        (readings.offset_ms(), readings.taken)
    }

    #[test]
    fn a_slow_node_is_asked_until_it_answers_soon_or_has_had_its_chances() {
        assert_eq!(of(&[(900, 1), (800, -1), (2_000, 7)]), (-1, 3));
        let slow = (400_000, 200);
        assert_eq!(of(&[slow, slow, slow, slow, (5_000, 2)]), (2, 5));
        // A clock that is off stays off, however often it is read.
        assert_eq!(of(&[slow]), (200, MOST_READINGS));
        assert_eq!(of(&[(500, 3_000)]), (3_000, READINGS));
    }
}
