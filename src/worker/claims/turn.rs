//! Whose turn it is: the organizations one after the other, and of each its jobs,
//! the most urgent first. Pure.

use std::cmp::Reverse;
use std::collections::{BTreeSet, VecDeque};

use crate::ids::{JobId, OrgId};
use crate::job::JobRow;

/// The open jobs in the order in which they are asked for tasks.
#[derive(Default)]
pub(super) struct Turn {
    // In the order in which they are asked next.
    orgs: VecDeque<OrgId>,
    // Of one organization in the order in which they are asked.
    jobs: Vec<JobRow>,
}

impl Turn {
    /// Takes a new list of open jobs. Organizations that were waiting keep their
    /// place; new ones come after them.
    pub fn renew(&mut self, mut jobs: Vec<JobRow>) {
        // Stable: jobs of one priority stay in the order of the list.
        jobs.sort_by_key(|job| Reverse(job.request.priority()));
        let orgs: BTreeSet<&OrgId> = jobs.iter().map(|job| job.request.org()).collect();
        self.orgs.retain(|org| orgs.contains(org));
        for org in orgs {
            if !self.orgs.contains(org) {
                self.orgs.push_back(org.clone());
            }
        }
        self.jobs = jobs;
    }

    /// How many organizations have open jobs.
    pub fn orgs(&self) -> usize {
        self.orgs.len()
    }

    /// Whether a job is open.
    pub fn has(&self, job: JobId) -> bool {
        self.jobs.iter().any(|row| row.request.job_id() == job)
    }

    /// The organization whose turn it is, with its jobs, the most urgent first. It
    /// is the last in turn then, whether it has something to do or not: a priority
    /// counts among the jobs of one organization and not between organizations.
    pub fn next(&mut self) -> Option<(OrgId, Vec<JobRow>)> {
        let org = self.orgs.pop_front()?;
        self.orgs.push_back(org.clone());
        let of_org = self.jobs.iter().filter(|job| *job.request.org() == org);
        let jobs = of_org.cloned().collect();
        Some((org, jobs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::JobMessage;

    fn job(org: &str, number: u8, priority: Option<i8>) -> JobRow {
        let mut message = serde_json::json!({
            "v": 1, "kind": "rekey", "org": org, "requested_by": "ops",
            "job_id": format!("7b1f3e38-56b1-4f3a-9a0e-1f2d3c4b5a{number:02}"),
            "to_cmk": "arn:aws:kms:local:000000000000:key/b",
        });
        if let Some(priority) = priority {
            message["priority"] = priority.into();
        }
        let message = JobMessage::parse(&message.to_string()).unwrap();
        JobRow::recorded(&message, "", 0, "")
    }

    fn asked(turn: &mut Turn, times: usize) -> Vec<(String, Vec<i8>)> {
        let next = |turn: &mut Turn| {
            let (org, jobs) = turn.next().unwrap();
            let priorities = jobs.iter().map(|job| job.request.priority());
            (org.to_string(), priorities.collect())
        };
        (0..times).map(|_| next(turn)).collect()
    }

    #[test]
    fn a_priority_counts_within_an_organization_and_not_between_them() {
        let mut turn = Turn::default();
        let of_large = (0..20).map(|n| job("large", n, Some(100)));
        let mut jobs: Vec<JobRow> = of_large.collect();
        jobs.extend([
            job("small", 30, None),
            job("small", 31, Some(-5)),
            job("small", 32, Some(7)),
            job("tiny", 40, Some(-100)),
        ]);
        turn.renew(jobs.clone());
        let large = || ("large".to_owned(), vec![100; 20]);
        let small = || ("small".to_owned(), vec![7, 0, -5]);
        let tiny = || ("tiny".to_owned(), vec![-100]);
        assert_eq!(
            asked(&mut turn, 4),
            [large(), small(), tiny(), large()],
            "in turn, however many jobs one has and however urgent"
        );
        // A new list takes nobody's turn away.
        turn.renew(jobs);
        assert_eq!(asked(&mut turn, 3), [small(), tiny(), large()]);
    }

    #[test]
    fn jobs_of_one_priority_stay_in_order_and_who_has_none_is_forgotten() {
        let mut turn = Turn::default();
        turn.renew(vec![
            job("a", 1, None),
            job("a", 2, Some(0)),
            job("b", 3, None),
        ]);
        let (_, jobs) = turn.next().unwrap();
        let ids: Vec<String> = jobs
            .iter()
            .map(|j| j.request.job_id().to_string())
            .collect();
        assert!(ids[0].ends_with("01") && ids[1].ends_with("02"), "{ids:?}");
        turn.renew(vec![job("b", 3, None)]);
        assert_eq!(turn.orgs(), 1);
        assert!(turn.has(job("b", 3, None).request.job_id()));
        assert!(!turn.has(job("a", 1, None).request.job_id()));
    }
}
