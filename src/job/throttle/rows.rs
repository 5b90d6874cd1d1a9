//! A throttle as it stands in the store. docs/format.md lists the rows.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::clock::WallTime;
use crate::ids::{JobId, OrgId};

/// What a throttle slows down.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ThrottleTarget {
    /// Every job.
    All,
    /// The jobs of an organization.
    Org(OrgId),
    /// One job.
    Job(JobId),
}

impl ThrottleTarget {
    /// Whether work for a job of an organization is slowed down by it.
    pub fn applies_to(&self, org: &OrgId, job: JobId) -> bool {
        self.concerns(org, Some(job))
    }

    /// The same for a use that may be of no job.
    pub(super) fn concerns(&self, org: &OrgId, job: Option<JobId>) -> bool {
        match self {
            ThrottleTarget::All => true,
            ThrottleTarget::Org(own) => own == org,
            ThrottleTarget::Job(own) => job == Some(*own),
        }
    }
}

/// As in row ids: `all`, `org/acme`, `job/<id>`.
impl fmt::Display for ThrottleTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ThrottleTarget::All => f.write_str("all"),
            ThrottleTarget::Org(org) => write!(f, "org/{org}"),
            ThrottleTarget::Job(job) => write!(f, "job/{job}"),
        }
    }
}

impl FromStr for ThrottleTarget {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            None if text == "all" => Ok(ThrottleTarget::All),
            Some(("org", org)) => Ok(ThrottleTarget::Org(
                OrgId::new(org).map_err(|e| e.to_string())?,
            )),
            Some(("job", job)) => Ok(ThrottleTarget::Job(
                job.parse().map_err(|_| format!("`{job}` is no job id"))?,
            )),
            _ => Err(format!("`{text}` is no target of a throttle")),
        }
    }
}

impl Serialize for ThrottleTarget {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ThrottleTarget {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// How slow. Each number holds in each worker process by itself; what is not
/// given is not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ThrottleLimits {
    /// Rows read per second; above 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_per_s: Option<f64>,
    /// Requests to the KMS per second, tries after a failure not counted; above 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kms_per_s: Option<f64>,
    /// Tasks at a time; at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<u32>,
}

impl ThrottleLimits {
    /// What is wrong with it, in words. A limit that stops everything is a pause
    /// under another name, and one that limits nothing is none.
    pub fn problem(&self) -> Option<&'static str> {
        let rates = [self.rows_per_s, self.kms_per_s];
        if rates
            .iter()
            .flatten()
            .any(|rate| !rate.is_finite() || *rate <= 0.0)
        {
            return Some("a rate is above 0; to stop a job altogether, pause it");
        }
        if self.tasks == Some(0) {
            return Some("the tasks at a time are at least 1; to stop a job altogether, pause it");
        }
        if rates.iter().all(Option::is_none) && self.tasks.is_none() {
            return Some("it limits nothing");
        }
        None
    }
}

/// In words: `100 rows/s, 2 tasks, in each worker`.
impl fmt::Display for ThrottleLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            self.rows_per_s.map(|rate| format!("{rate} rows/s")),
            self.kms_per_s.map(|rate| format!("{rate} KMS calls/s")),
            self.tasks.map(|tasks| match tasks {
                1 => "1 task at a time".to_owned(),
                n => format!("{n} tasks at a time"),
            }),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        write!(f, "{} in each worker", parts.join(", "))
    }
}

/// One throttle: of a target there is one at most, and a new one replaces it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Throttle {
    /// What it slows down; its row is named by it too.
    pub target: ThrottleTarget,
    /// How slow.
    pub limits: ThrottleLimits,
    /// When it was set, Unix milliseconds.
    pub set_ms: u64,
    /// When it ends by itself, Unix milliseconds.
    pub until_ms: u64,
    /// Who set it.
    pub who: String,
    /// Why, in words.
    pub why: String,
}

impl Throttle {
    /// Whether it has ended for a process whose clock may be ahead of the
    /// others' by `skew_ms`: a throttle never ends early.
    pub fn has_ended(&self, now: WallTime, skew_ms: u64) -> bool {
        now.unix_ms() >= self.until_ms.saturating_add(skew_ms)
    }
}

/// A throttle that was set or cleared. Only inserted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ThrottleEvent {
    /// Of what.
    pub target: ThrottleTarget,
    /// When, Unix milliseconds.
    pub at_ms: u64,
    /// Who did it.
    pub who: String,
    /// Why, in words.
    pub why: String,
    /// What was set; `None`: it was cleared.
    pub set: Option<Throttle>,
}
