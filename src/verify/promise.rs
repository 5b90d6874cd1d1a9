//! Whether what a job promised holds: held against a scan of what it was about.
//!
//! A rekey promises that no live cell or key needs the old CMK, and none is below
//! its epoch; a move, that nothing is under an old scope or in an old place. The
//! promise is made at `drained`, when no late write can land any more, so only a
//! scan that began after that can confirm it. From then on time does not matter:
//! a slice that was found good stays so, whenever it was read.

use std::fmt;

use serde::Serialize;

use super::{Found, Proof};
use crate::epoch::Epoch;
use crate::ids::{CmkArn, JobId};
use crate::job::{JobMessage, JobRow, JobState, Mode};

/// How a scan looked.
#[derive(Debug, Clone, Copy)]
pub struct Looked {
    /// When it began, Unix milliseconds; of one in parts, the first of them.
    pub began_ms: u64,
    /// It opened the cells.
    pub opened: bool,
    /// It read every slice.
    pub all: bool,
}

/// What a scan says of a job's promise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Promise {
    /// The job.
    pub job_id: JobId,
    /// Whether it is a move.
    pub is_move: bool,
    /// Where it is.
    pub state: JobState,
    /// The epoch it was given.
    pub epoch: Option<Epoch>,
    /// Of a rekey: the CMKs that nothing should need any more.
    pub old_cmks: Vec<CmkArn>,
    /// Live cells below the job's epoch. Of a rewrap, which leaves cells as they
    /// are, always 0.
    pub below_epoch: u64,
    /// Live cells whose key is wrapped under an old CMK.
    pub under_old_cmks: u64,
    /// Whether it holds; `None` where nothing speaks against it, but not every
    /// cell was opened.
    pub holds: Option<bool>,
    /// What is not as it should be, in words.
    pub lacks: Vec<String>,
}

impl Promise {
    /// Judges. `lapsed` says in words that a later job took back what this one
    /// had said; `moved` is what the scan says of the moves of the channel.
    pub fn of(
        id: JobId,
        job: &JobRow,
        lapsed: Option<&str>,
        found: &Found,
        looked: Looked,
        moved: Option<&Proof>,
    ) -> Self {
        let activated = job.activated.as_ref();
        let epoch = activated.map(|activated| activated.epoch);
        let old_cmks: Vec<CmkArn> = match &job.request {
            JobMessage::Rekey(_) => activated
                .map(|activated| activated.from_cmk.clone())
                .into_iter()
                .chain(job.freed.iter().cloned())
                .collect(),
            JobMessage::Move(_) => Vec::new(),
        };
        let below_epoch = match (job.mode(), epoch) {
            (Mode::Reencrypt, Some(epoch)) => {
                found.by_epoch.range(..epoch.get()).map(|(_, n)| n).sum()
            }
            _ => 0,
        };
        let under_old_cmks = old_cmks.iter().map(|cmk| found.cells_under(cmk)).sum();
        let mut lacks = Vec::new();
        if !job.state.is_drained() {
            lacks.push(format!(
                "the job is {}, and promises nothing before it is drained",
                job.state
            ));
        } else if job.ended_ms().is_some_and(|ended| looked.began_ms < ended) {
            lacks.push("the scan began before the job was drained".to_owned());
        }
        lacks.extend(lapsed.map(str::to_owned));
        let cells = |n| match n {
            1 => "1 cell".to_owned(),
            n => format!("{n} cells"),
        };
        if let (true, Some(epoch)) = (below_epoch > 0, epoch) {
            lacks.push(format!("{} below epoch {epoch}", cells(below_epoch)));
        }
        if under_old_cmks > 0 {
            let n = cells(under_old_cmks);
            lacks.push(format!("{n} under an old CMK"));
        }
        let shut = |list: &std::collections::BTreeMap<String, super::Wrong>| {
            list.values().map(|wrong| wrong.cells).sum::<u64>()
        };
        let bad = shut(&found.quarantined) + shut(&found.blocked);
        if bad > 0 {
            lacks.push(match looked.opened {
                true => format!("{} not opened", cells(bad)),
                false => format!("{} without a key that is allowed", cells(bad)),
            });
        }
        if let Some(proof) = moved.filter(|proof| proof.proven == Some(false)) {
            lacks.extend(proof.lacks.iter().cloned());
        }
        let holds = match lacks.is_empty() {
            false => Some(false),
            true => (looked.opened && looked.all).then_some(true),
        };
        Self {
            job_id: id,
            is_move: job.request.channel_move().is_some(),
            state: job.state,
            epoch,
            old_cmks,
            below_epoch,
            under_old_cmks,
            holds,
            lacks,
        }
    }
}

/// The one sentence.
impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.job_id;
        match self.holds {
            Some(true) if self.old_cmks.is_empty() => {
                write!(f, "what job {id} promised holds")
            }
            Some(true) => {
                let old: Vec<&str> = self.old_cmks.iter().map(CmkArn::as_str).collect();
                write!(
                    f,
                    "what job {id} promised holds: no live cell needs {}",
                    old.join(", ")
                )
            }
            Some(false) => write!(
                f,
                "what job {id} promises is not shown: {}",
                self.lacks.join("; ")
            ),
            None => write!(
                f,
                "nothing that was read speaks against what job {id} promised; that is no proof"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::OrgId;
    use crate::job::{Activated, JobMessage};
    use crate::verify::Wrong;

    const OLD: &str = "arn:aws:kms:local:000000000000:key/k1";
    const NEW: &str = "arn:aws:kms:local:000000000000:key/k2";

    fn cmk(arn: &str) -> CmkArn {
        CmkArn::new(arn).unwrap()
    }

    fn drained(mode: &str) -> JobRow {
        let cause = match mode {
            "rewrap" => r#""cause":"scheduled","#,
            _ => "",
        };
        let body = format!(
            r#"{{"v":1,"kind":"rekey","job_id":"{}","org":"acme","to_cmk":"{NEW}","mode":"{mode}",{cause}"requested_by":"t"}}"#,
            JobId::random()
        );
        let request = JobMessage::parse(&body).unwrap();
        let mut job = JobRow::recorded(&request, "", 0, "");
        job.state = JobState::Drained;
        job.since_ms = 100;
        job.activated = Some(Activated {
            epoch: Epoch::new(2).unwrap(),
            from_cmk: cmk(OLD),
            at_ms: 50,
        });
        job
    }

    fn good() -> Found {
        let mut found = Found {
            slices: 2,
            cells: 5,
            opened: 5,
            ..Found::default()
        };
        found.by_epoch.insert(2, 5);
        found.by_cmk.entry(cmk(NEW)).or_default().cells = 5;
        // An old wrap that no reader uses.
        found.by_cmk.entry(cmk(OLD)).or_default().wraps = 2;
        found
    }

    const WHOLE: Looked = Looked {
        began_ms: 200,
        opened: true,
        all: true,
    };

    fn judge(job: &JobRow, found: &Found, looked: Looked) -> Promise {
        Promise::of(JobId::random(), job, None, found, looked, None)
    }

    #[test]
    fn a_promise_holds_only_if_all_was_opened_after_it_was_made() {
        let job = drained("reencrypt");
        let promise = judge(&job, &good(), WHOLE);
        assert_eq!(promise.holds, Some(true), "{promise}");
        assert!(promise.to_string().ends_with(&format!("needs {OLD}")));
        for looked in [
            Looked {
                all: false,
                ..WHOLE
            },
            Looked {
                opened: false,
                ..WHOLE
            },
        ] {
            let promise = judge(&job, &good(), looked);
            assert_eq!(promise.holds, None, "{looked:?}");
            assert!(promise.to_string().contains("no proof"), "{promise}");
        }
        let early = Looked {
            began_ms: 99,
            ..WHOLE
        };
        let promise = judge(&job, &good(), early);
        assert_eq!(promise.holds, Some(false));
        assert!(promise.to_string().contains("began before"), "{promise}");
    }

    #[test]
    fn whatever_speaks_against_it_is_named_in_a_sample_too() {
        type Change = fn(&mut JobRow, &mut Found);
        let cases: [(Change, &str); 5] = [
            (
                |_, f| {
                    f.by_epoch.insert(1, 1);
                },
                "1 cell below epoch 2",
            ),
            (
                |_, f| f.by_cmk.entry(cmk(OLD)).or_default().cells = 3,
                "3 cells under an old CMK",
            ),
            (
                |j, f| {
                    j.freed.push(cmk("arn:aws:kms:local:000000000000:key/k0"));
                    let freed = f.by_cmk.entry(j.freed[0].clone()).or_default();
                    freed.cells = 1;
                },
                "1 cell under an old CMK",
            ),
            (
                |_, f| {
                    let wrong = Wrong {
                        cells: 2,
                        examples: Vec::new(),
                    };
                    f.quarantined.insert("does_not_open".to_owned(), wrong);
                },
                "2 cells not opened",
            ),
            (
                |j, _| j.state = JobState::Draining,
                "the job is draining, and promises nothing",
            ),
        ];
        for (change, says) in cases {
            let (mut job, mut found) = (drained("reencrypt"), good());
            change(&mut job, &mut found);
            for all in [true, false] {
                let promise = judge(&job, &found, Looked { all, ..WHOLE });
                assert_eq!(promise.holds, Some(false), "{says}");
                assert!(promise.to_string().contains(says), "{promise}");
            }
        }
        let lapsed = Promise::of(
            JobId::random(),
            &drained("reencrypt"),
            Some("it is active again"),
            &good(),
            WHOLE,
            None,
        );
        assert_eq!(lapsed.holds, Some(false));
    }

    #[test]
    fn a_rewrap_leaves_cells_at_their_epoch() {
        let mut found = good();
        found.by_epoch.clear();
        found.by_epoch.insert(1, 5);
        assert_eq!(judge(&drained("rewrap"), &found, WHOLE).holds, Some(true));
        found.by_cmk.entry(cmk(OLD)).or_default().cells = 1;
        assert_eq!(judge(&drained("rewrap"), &found, WHOLE).holds, Some(false));
        assert_eq!(
            OrgId::new("acme").unwrap(),
            *drained("rewrap").request.org()
        );
    }
}
