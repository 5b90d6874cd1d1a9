//! A plan as it is printed, stored and hashed. No number with a point in it: a
//! plan that was read back has the hash of the one that was written.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::arithmetic::{Budgets, KmsCalls, Time};
use super::survey::Survey;
use crate::ids::Sha256Hex;
use crate::job::{Estimate, JobMessage};

/// How much there is to do, and in how much of it a look was taken.
pub type Size = Survey;

/// The calls of the KMS and their price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// By kind.
    pub calls: KmsCalls,
    /// All of them.
    pub total: u64,
    /// US dollars, without whatever the account has free.
    pub usd: String,
    /// US dollars for 10,000 calls.
    pub price_per_10k_usd: String,
    /// The day of the price list.
    pub price_date: String,
}

/// A plan of one job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Version of this document: 1.
    pub v: u32,
    /// When it was made, RFC 3339.
    pub made: String,
    /// What was planned: the fields of the job's message that it depends on.
    pub job: Value,
    /// What there is to do.
    pub size: Size,
    /// The calls of the KMS.
    pub kms: Cost,
    /// What was reckoned with.
    pub budgets: Budgets,
    /// How long it takes.
    pub time: Time,
    /// What keeps the job from being done, each beginning with a code.
    pub obstacles: Vec<String>,
    /// What to know.
    pub notes: Vec<String>,
    /// What the new CMK's key policy lacks, or why nobody looked.
    pub drift: Value,
}

impl Plan {
    /// What the job is, for a plan: not who asks, when, and by which id.
    pub fn of_job(message: &JobMessage) -> Value {
        let mut job: Value = serde_json::from_str(&message.to_json()).unwrap_or_default();
        if let Some(fields) = job.as_object_mut() {
            let kept = ["kind", "org", "to_cmk", "mode", "from", "to"];
            fields.retain(|name, _| kept.contains(&name.as_str()));
        }
        job
    }

    /// Its hash: SHA-256 of its canonical JSON.
    pub fn sha256(&self) -> Sha256Hex {
        Sha256Hex::of_json(&serde_json::to_value(self).unwrap_or_default())
    }

    /// The figures that are stored with the job.
    pub fn estimate(&self) -> Estimate {
        Estimate {
            slices: self.size.slices,
            kms_calls: self.kms.total,
            seconds: self.time.total_s,
        }
    }
}

/// A plan with its hash, as `rekeyd plan --output json` writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlanFile {
    /// The plan's hash.
    pub sha256: Sha256Hex,
    /// The plan.
    pub plan: Plan,
}

impl PlanFile {
    /// Puts a hash to a plan.
    pub fn of(plan: Plan) -> Self {
        Self {
            sha256: plan.sha256(),
            plan,
        }
    }

    /// Reads one, and checks that the plan is the one that was hashed.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: Self = serde_json::from_str(text).map_err(|e| format!("it is no plan: {e}"))?;
        if file.plan.v != 1 {
            return Err(format!(
                "it is a plan of version {}; this rekeyd reads version 1",
                file.plan.v
            ));
        }
        let hash = file.plan.sha256();
        if hash != file.sha256 {
            return Err(format!(
                "it was changed: its hash is {hash}, and it says {}",
                file.sha256
            ));
        }
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Figure, Waits, Way, calls};

    fn plan() -> Plan {
        let message = JobMessage::parse(
            r#"{"v":1,"kind":"rekey","job_id":"7b1f3e38-56b1-4f3a-9a0e-1f2d3c4b5a69","org":"acme",
            "to_cmk":"arn:aws:kms:local:000000000000:key/b","requested_by":"ops","priority":3}"#,
        )
        .unwrap();
        let figure = Figure {
            value: 7,
            exact: false,
        };
        let size = Survey {
            slices: 3,
            sampled: 2,
            keys: figure,
            named_keys: figure,
            cells: figure,
            bytes: figure,
            read_us: 120,
        };
        let waits = Waits {
            settle_ms: 1,
            verify_ms: 1,
            drain_ms: 1,
        };
        let budgets = Budgets {
            workers: 1,
            kms_per_s: 1000,
            rows_per_s: None,
            store_at_once: 64,
            page_rows: 500,
        };
        let calls = calls(Way::Reencrypt, 3, 7, 7);
        Plan {
            v: 1,
            made: "2026-11-25T21:00:00Z".to_owned(),
            job: Plan::of_job(&message),
            kms: Cost {
                calls,
                total: calls.total(),
                usd: "0.01".to_owned(),
                price_per_10k_usd: "0.03".to_owned(),
                price_date: "2026-06-13".to_owned(),
            },
            budgets,
            time: Time::of(Way::Reencrypt, &size, &waits, &budgets),
            size,
            obstacles: vec!["cmk_not_allowed: é".to_owned()],
            notes: Vec::new(),
            drift: serde_json::json!({"looked": false}),
        }
    }

    #[test]
    fn a_plan_that_is_read_back_has_its_hash_and_a_changed_one_has_not() {
        let file = PlanFile::of(plan());
        let text = serde_json::to_string_pretty(&file).unwrap();
        assert_eq!(PlanFile::parse(&text).unwrap(), file);
        let changed = text.replace("\"slices\": 3", "\"slices\": 2");
        assert_ne!(changed, text);
        let error = PlanFile::parse(&changed).unwrap_err();
        assert!(error.starts_with("it was changed"), "{error}");
        assert!(PlanFile::parse("{}").is_err());
    }

    #[test]
    fn a_plan_is_of_the_job_and_not_of_who_asks() {
        let plan = plan();
        let fields: Vec<&String> = plan.job.as_object().unwrap().keys().collect();
        assert_eq!(fields, ["kind", "mode", "org", "to_cmk"]);
        assert_eq!(plan.estimate().kms_calls, 20);
    }
}
