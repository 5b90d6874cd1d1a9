//! What workers call is what the printed policies allow: whole jobs are run, and
//! each call in the key ring's log is judged.

use std::collections::BTreeMap;

use rekeyd::demo::generate::{Recipe, Shape};
use rekeyd::iam::evaluate::{Decision, Request, decide};
use rekeyd::iam::{Cast, Policy, Role, Sides, key_policies, role_policy};
use rekeyd::job::{JobState, Mode};
use rekeyd::kms::local::{CallRecord, DenyRule};

use crate::rig::Rig;

const ROLE: &str = "arn:aws:iam::111122223333:role/rekeyd-worker";

/// The permissions that one call of the log asks for, each with its CMK.
fn asked(call: &CallRecord) -> Vec<(String, String)> {
    match &call.cmk_to {
        Some(to) => vec![
            ("kms:ReEncryptFrom".to_owned(), call.cmk.to_string()),
            ("kms:ReEncryptTo".to_owned(), to.to_string()),
        ],
        None => vec![(format!("kms:{}", call.operation), call.cmk.to_string())],
    }
}

async fn every_call_of_a_job_is_allowed(mode: Mode, role: Role, used: &[&str]) {
    let rig = Rig::new().await;
    rig.fill(&Recipe {
        seed: 11,
        messages: 200,
        shape: Shape::Realistic,
        expiries_from_s: None,
    })
    .await;
    // One channel is revoked for a while: the canary is then called too.
    let rule = DenyRule {
        id: "revoked".to_owned(),
        cmks: Vec::new(),
        permissions: Vec::new(),
        context: BTreeMap::from([("kind".to_owned(), "message".to_owned())]),
        callers: vec![rig.config.kms.caller.clone()],
        reason: String::new(),
    };
    rig.ring.add_deny(rule).unwrap();
    let job = rig.enqueue(rig.request(&rig.new, mode)).await;
    let worker = rig.worker().await;
    rig.wait_state(job, JobState::Blocked).await;
    rig.ring.remove_deny("revoked").unwrap();
    rig.wait_state(job, JobState::Drained).await;
    worker.stop().await;

    let sides = Sides {
        old: vec![rig.old.clone()],
        new: vec![rig.new.clone()],
    };
    let cast = Cast {
        process_role: ROLE.to_owned(),
        customer_role: None,
        external_id: None,
    };
    let of_role = role_policy(role, &rig.org, &sides);
    let of_keys = key_policies(role, &rig.org, &sides, &cast);
    let mut seen = std::collections::BTreeSet::new();
    let mut refused = Vec::new();
    rig.ring
        .each_call(|call| {
            if call.caller != rig.config.kms.caller {
                return;
            }
            for (action, cmk) in asked(&call) {
                let request = Request::new(ROLE, &action, &cmk).under(&call.context);
                let key = of_keys.iter().find(|key| key.cmk.as_str() == cmk);
                let both: [&Policy; 2] = [&of_role, &key.unwrap().policy];
                for policy in both {
                    if decide([policy], &request) != Ok(Decision::Allowed) {
                        refused.push((action.clone(), call.clone()));
                    }
                }
                seen.insert(action);
            }
        })
        .unwrap();
    assert_eq!(refused, []);
    assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), used);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_of_a_reencrypt_is_allowed_and_no_right_is_unused() {
    let used = [
        "kms:Decrypt",
        "kms:DescribeKey",
        "kms:GenerateDataKey",
        "kms:GetKeyPolicy",
    ];
    every_call_of_a_job_is_allowed(Mode::Reencrypt, Role::Reencrypt, &used).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_of_a_rewrap_is_allowed_and_no_right_is_unused() {
    let used = [
        "kms:DescribeKey",
        "kms:GetKeyPolicy",
        "kms:ReEncryptFrom",
        "kms:ReEncryptTo",
    ];
    every_call_of_a_job_is_allowed(Mode::Rewrap, Role::Rewrap, &used).await;
}
