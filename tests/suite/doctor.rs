//! Each CMK is tried, and what is wrong with it is named.

use std::sync::Arc;
use std::time::Duration;

use rekeyd::config::KmsKind;
use rekeyd::doctor::keys::{self, Asking};
use rekeyd::doctor::{Check, State};
use rekeyd::ids::{CmkArn, OrgId};
use rekeyd::job::Mode;
use rekeyd::kms::{CmkDescription, Dek, GeneratedKey, Kms, KmsError, SharedKms, Use, Wrapped};
use rekeyd::scope::Scope;

use crate::rig::Rig;

/// What is wrong with a KMS.
#[derive(Clone, Copy, PartialEq)]
enum Flaw {
    /// Opens whatever the context is.
    AnyContext,
    /// Never answers a Decrypt.
    Silent,
}

/// A KMS with a flaw.
struct Flawed {
    kms: SharedKms,
    flaw: Flaw,
}

impl Flawed {
    /// The scope that the KMS looks at.
    fn seen(&self, scope: &Scope) -> Scope {
        match self.flaw {
            Flaw::AnyContext => Scope::Canary {
                org: scope.org().clone(),
            },
            Flaw::Silent => scope.clone(),
        }
    }
}

#[async_trait::async_trait]
impl Kms for Flawed {
    async fn generate_data_key(
        &self,
        cmk: &CmkArn,
        scope: &Scope,
        why: &Use,
    ) -> Result<GeneratedKey, KmsError> {
        self.kms.generate_data_key(cmk, scope, why).await
    }

    async fn decrypt(
        &self,
        cmk: &CmkArn,
        wrapped: &[u8],
        scope: &Scope,
        why: &Use,
    ) -> Result<Dek, KmsError> {
        if self.flaw == Flaw::Silent {
            std::future::pending::<()>().await;
        }
        self.kms.decrypt(cmk, wrapped, &self.seen(scope), why).await
    }

    async fn re_encrypt(
        &self,
        from: &CmkArn,
        wrapped: &[u8],
        to: &CmkArn,
        scope: &Scope,
        why: &Use,
    ) -> Result<Wrapped, KmsError> {
        let seen = self.seen(scope);
        self.kms.re_encrypt(from, wrapped, to, &seen, why).await
    }

    async fn describe(
        &self,
        cmk: &CmkArn,
        org: &OrgId,
        why: &Use,
    ) -> Result<CmkDescription, KmsError> {
        self.kms.describe(cmk, org, why).await
    }

    async fn key_policy(&self, cmk: &CmkArn, org: &OrgId, why: &Use) -> Result<String, KmsError> {
        self.kms.key_policy(cmk, org, why).await
    }
}

/// What the checks of a flawed KMS find wrong: the CMK and the words.
async fn wrong(rig: &Rig, flaw: Option<Flaw>, mode: Mode) -> Vec<(String, String, String)> {
    let found = checks(rig, flaw, mode).await.into_iter();
    let wrong = found.filter(|check| check.state == State::Wrong);
    wrong
        .map(|check| (check.cmk.unwrap(), check.says, check.fix.unwrap()))
        .collect()
}

async fn checks(rig: &Rig, flaw: Option<Flaw>, mode: Mode) -> Vec<Check> {
    let kms: SharedKms = match flaw {
        Some(flaw) => Arc::new(Flawed {
            kms: rig.kms.clone(),
            flaw,
        }),
        None => rig.kms.clone(),
    };
    let asking = Asking {
        kms: &*kms,
        kind: KmsKind::Ring,
        mode,
        limit: match flaw {
            // Only who never answers is cut off.
            Some(Flaw::Silent) => Duration::from_millis(50),
            _ => crate::rig::PATIENCE,
        },
    };
    let all = keys::entered(&rig.registry, &rig.book, Some(&rig.org))
        .await
        .unwrap();
    let mut found = Vec::new();
    for entered in &all {
        found.extend(keys::check(&asking, entered).await);
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kms_that_opens_under_any_context_is_told_in_both_modes() {
    let rig = Rig::new().await;
    for mode in [Mode::Reencrypt, Mode::Rewrap] {
        assert_eq!(wrong(&rig, None, mode).await, []);
        let found = wrong(&rig, Some(Flaw::AnyContext), mode).await;
        // Of the target only: under the other no key is made any more.
        let [(cmk, says, fix)] = &found[..] else {
            panic!("{mode:?}: {found:?}");
        };
        assert_eq!(cmk, rig.new.as_str());
        assert!(says.contains("opened a canary under another"), "{says}");
        assert!(fix.contains("rekey nothing to it"), "{fix}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kms_that_does_not_answer_is_told_and_ends() {
    let rig = Rig::new().await;
    let found = wrong(&rig, Some(Flaw::Silent), Mode::Reencrypt).await;
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(
        found
            .iter()
            .all(|(_, says, _)| says.contains("no answer within"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cmk_that_a_rekey_has_left_may_be_disabled() {
    let rig = Rig::new().await;
    rig.registry
        .make_source_only(&rig.org, &rig.new)
        .await
        .unwrap();
    rig.ring.disable(&rig.new).unwrap();
    // The active one is now the one that is new, and good.
    assert_eq!(wrong(&rig, None, Mode::Reencrypt).await, []);
    // And nobody is told to enable what the verdict let them disable.
    let left = checks(&rig, None, Mode::Reencrypt).await;
    let fixes: Vec<_> = left
        .iter()
        .filter(|check| check.cmk.as_deref() == Some(rig.new.as_str()))
        .filter_map(|check| check.fix.as_deref())
        .collect();
    assert!(!fixes.is_empty(), "{left:?}");
    assert!(fixes.iter().all(|fix| !fix.contains("enable")), "{fixes:?}");
    rig.ring.disable(&rig.old).unwrap();
    let found = wrong(&rig, None, Mode::Reencrypt).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].0, rig.old.as_str());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_behind_the_registry_is_told() {
    use rekeyd::clock::{FakeClock, SharedClock, WallTime};
    let rig = Rig::new().await;
    let all = keys::entered(&rig.registry, &rig.book, None).await.unwrap();
    assert!(keys::clock_behind(&all, &rig.clock, 1_000).is_none());
    let hour_ago = rig.clock.wall().0 - 3_600_000_000;
    let late: SharedClock = FakeClock::at(WallTime(hour_ago));
    let check = keys::clock_behind(&all, &late, 1_000).unwrap();
    assert_eq!(check.state, State::Wrong);
}
