//! A rewrap by a role that may neither decrypt nor make data keys.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use rekeyd::demo::generate::{Recipe, Shape};
use rekeyd::ids::{CmkArn, Sha256Hex};
use rekeyd::job::{JobState, Mode};
use rekeyd::kms::local::{DenyRule, Permission};
use rekeyd::kms::{ReasonCode, Use};
use rekeyd::worker::drift::Drift;

use crate::process::Process;
use crate::rig::{Rig, short_waits};

/// What only the old CMK denies: all to the verifier. That is the point here.
async fn lifted(rig: &Rig) -> Vec<Sha256Hex> {
    let why = Use::new(ReasonCode::Canary, "a test");
    let old = rig.kms.key_policy(&rig.old, &rig.org, &why).await.unwrap();
    let new = rig.kms.key_policy(&rig.new, &rig.org, &why).await.unwrap();
    let drift = rekeyd::worker::drift::compare(&rig.old, &old, &rig.new, &new);
    let Drift::Compared(lifted) = drift else {
        panic!("{drift:?}");
    };
    assert_eq!(lifted.len(), 1, "{lifted:?}");
    lifted.into_iter().map(|one| one.sha256).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewrap_is_proven_by_roles_that_see_no_key_of_the_old_cmk() {
    let rig = Rig::with_timing(&short_waits()).await;
    let rows = rig
        .fill(&Recipe {
            seed: 23,
            messages: 500,
            shape: Shape::Realistic,
            expiries_from_s: None,
        })
        .await;
    let forbid = |cmk: &CmkArn, caller: &str, permissions: &[Permission]| {
        let rule = DenyRule {
            id: uuid::Uuid::new_v4().to_string(),
            cmks: vec![cmk.clone()],
            permissions: permissions.to_vec(),
            context: BTreeMap::new(),
            callers: vec![caller.to_owned()],
            reason: "a test".to_owned(),
        };
        rig.ring.add_deny(rule).unwrap();
    };
    for cmk in [&rig.old, &rig.new] {
        forbid(
            cmk,
            "rekeyd-worker",
            &[Permission::Decrypt, Permission::GenerateDataKey],
        );
    }
    forbid(&rig.old, "rekeyd-worker", &[Permission::ReEncryptTo]);
    // The verifier may decrypt under the new CMK and do nothing else.
    forbid(&rig.old, "verifier", &[]);

    let mut request = rig.request(&rig.new, Mode::Rewrap);
    request.accept_lifted_denies = lifted(&rig).await;
    let job = rig.enqueue(request).await;
    let worker = Process::start(&rig, "worker-0", None);
    let row = rig.wait_state(job, JobState::Drained).await;
    worker.stop().await;
    assert_eq!(row.rewriting.current, rows, "cells stay as they are");
    assert!(row.effort.keys_rewrapped > 0);
    let calls = rig.ring.log_tail(usize::MAX).unwrap();
    let by_worker: Vec<_> = calls
        .iter()
        .filter(|call| call.caller == "rekeyd-worker")
        .collect();
    assert!(!by_worker.is_empty());
    assert!(
        by_worker
            .iter()
            .all(|call| !["Decrypt", "GenerateDataKey"].contains(&call.operation.as_str())),
        "the worker's role was never used for a plaintext key"
    );

    rig.ring.disable(&rig.old).unwrap();
    let mut verify = Command::new(env!("CARGO_BIN_EXE_rekeyd"));
    verify.args(["verify", "--org", rig.org.as_str()]);
    rig.backend.tell(&mut verify);
    verify
        .env("REKEYD_AWS__PROFILE", "verifier")
        .stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || verify.output().unwrap())
        .await
        .unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{said}");
}
