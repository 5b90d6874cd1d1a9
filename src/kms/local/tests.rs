use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::*;
use crate::clock::{Clock, FakeClock, WallTime};
use crate::ids::{ChannelId, WorkspaceId};
use crate::kms::conformance::{self, FaultHarness, Harness, OwnerHarness};
use crate::kms::{CmkState, Kms, KmsClass, ReasonCode, SharedKms, Use};

fn why() -> Use {
    Use::new(ReasonCode::Verify, "test")
}

fn scope() -> Scope {
    Scope::Message {
        org: OrgId::new("acme").unwrap(),
        workspace: WorkspaceId::new("w1").unwrap(),
        channel: ChannelId::new("c1").unwrap(),
        hour: "2019-02-13T17".parse().unwrap(),
    }
}

pub(in crate::kms) fn rule(id: &str) -> DenyRule {
    DenyRule {
        id: id.to_owned(),
        cmks: Vec::new(),
        permissions: Vec::new(),
        context: BTreeMap::new(),
        callers: Vec::new(),
        reason: String::new(),
    }
}

fn fault(id: &str, effect: Effect) -> Fault {
    Fault {
        id: id.to_owned(),
        operations: Vec::new(),
        callers: Vec::new(),
        effect,
    }
}

/// A ring in a folder of its own. The administrator and the users have separate
/// handles, as separate processes have.
pub(in crate::kms) struct Bench {
    dir: tempfile::TempDir,
    pub admin: RingAdmin,
    kms: Arc<LocalKeyRing>,
}

impl Bench {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let kms = LocalKeyRing::create_with_key_file(dir.path(), "tester").unwrap();
        Self {
            admin: RingAdmin::open(dir.path()).unwrap(),
            kms: Arc::new(kms),
            dir,
        }
    }

    fn unlock(&self) -> Unlock {
        Unlock::KeyFile(self.admin.default_key_file())
    }

    fn cmk(&self) -> CmkArn {
        self.admin
            .create_key(&self.unlock(), &NewKey::default())
            .unwrap()
    }

    pub fn open_as(&self, caller: &str) -> LocalKeyRing {
        LocalKeyRing::open(self.dir.path(), caller, &self.unlock()).unwrap()
    }
}

#[async_trait::async_trait]
impl Harness for Bench {
    fn kms(&self) -> SharedKms {
        self.kms.clone()
    }
    async fn create_cmk(&self) -> CmkArn {
        self.cmk()
    }
}

#[async_trait::async_trait]
impl OwnerHarness for Bench {
    fn missing_cmk(&self) -> CmkArn {
        CmkArn::new("arn:aws:kms:local:000000000000:key/00000000-0000-0000-0000-000000000000")
            .unwrap()
    }
    async fn disable(&self, cmk: &CmkArn) {
        self.admin.disable(cmk).unwrap();
    }
    async fn enable(&self, cmk: &CmkArn) {
        self.admin.enable(cmk).unwrap();
    }
    async fn schedule_deletion(&self, cmk: &CmkArn) {
        self.admin.schedule_deletion(cmk, 7).unwrap();
    }
    async fn cancel_deletion(&self, cmk: &CmkArn) {
        self.admin.cancel_deletion(cmk).unwrap();
    }
    async fn deny(
        &self,
        cmk: &CmkArn,
        permissions: &[Permission],
        pairs: &BTreeMap<String, String>,
    ) {
        let rule = DenyRule {
            cmks: vec![cmk.clone()],
            permissions: permissions.to_vec(),
            context: pairs.clone(),
            ..rule("denied")
        };
        self.admin.add_deny(rule).unwrap();
    }
    async fn allow(&self, _cmk: &CmkArn) {
        self.admin.remove_deny("denied").unwrap();
    }
}

#[async_trait::async_trait]
impl FaultHarness for Bench {
    async fn fail_with(&self, code: &str, message: &str) {
        let effect = Effect::Error {
            code: code.to_owned(),
            message: message.to_owned(),
        };
        self.admin.set_fault(fault("injected", effect)).unwrap();
    }
    async fn work_again(&self) {
        self.admin.clear_fault("injected").unwrap();
    }
}

#[tokio::test]
async fn conforms_wire() {
    conformance::wire(&Bench::new()).await;
}

#[tokio::test]
async fn conforms_meaning() {
    conformance::meaning(&Bench::new()).await;
}

#[tokio::test]
async fn conforms_codes() {
    conformance::codes(&Bench::new()).await;
}

#[tokio::test]
async fn every_change_holds_for_the_next_call_of_every_handle() {
    let bench = Bench::new();
    let cmk = bench.cmk();
    let handles = [bench.open_as("a"), bench.open_as("b")];
    let made = handles[0]
        .generate_data_key(&cmk, &scope(), &why())
        .await
        .unwrap();
    // Many changes within one tick of the file system's clock, back and forth
    // between states of the same size.
    for round in 0..200 {
        let denied = round % 2 == 0;
        if denied {
            bench
                .admin
                .add_deny(DenyRule {
                    cmks: vec![cmk.clone()],
                    ..rule("r")
                })
                .unwrap();
        } else {
            bench.admin.remove_deny("r").unwrap();
        }
        for handle in &handles {
            let result = handle
                .decrypt(&cmk, &made.wrapped.bytes, &scope(), &why())
                .await;
            assert_eq!(result.is_err(), denied, "round {round}");
        }
    }
}

#[tokio::test]
async fn a_denial_during_the_latency_holds() {
    let bench = Bench::new();
    let cmk = bench.cmk();
    bench.admin.set_latency_ms(200).unwrap();
    let (scope, why) = (scope(), why());
    let call = bench.kms.generate_data_key(&cmk, &scope, &why);
    tokio::pin!(call);
    // Polled once, the call has arrived and waits.
    assert!(futures::poll!(call.as_mut()).is_pending());
    bench
        .admin
        .add_deny(DenyRule {
            cmks: vec![cmk.clone()],
            ..rule("r")
        })
        .unwrap();
    let error = call.await.err().expect("denied");
    assert_eq!(error.class, KmsClass::Denied);
}

#[tokio::test]
async fn rules_and_faults_tell_callers_and_operations_apart() {
    let bench = Bench::new();
    let cmk = bench.cmk();
    let worker = bench.open_as("worker-7");
    let made = bench
        .kms
        .generate_data_key(&cmk, &scope(), &why())
        .await
        .unwrap();
    let wrapped = &made.wrapped.bytes;
    let deny = DenyRule {
        callers: vec!["worker-*".into()],
        permissions: vec![Permission::Decrypt],
        ..rule("workers")
    };
    bench.admin.add_deny(deny).unwrap();
    assert!(
        worker
            .decrypt(&cmk, wrapped, &scope(), &why())
            .await
            .is_err()
    );
    assert!(
        worker
            .generate_data_key(&cmk, &scope(), &why())
            .await
            .is_ok()
    );
    assert!(
        bench
            .kms
            .decrypt(&cmk, wrapped, &scope(), &why())
            .await
            .is_ok()
    );

    let error = Effect::Error {
        code: "KMSInternalException".into(),
        message: String::new(),
    };
    let broken = Fault {
        operations: vec![DESCRIBE_KEY.into()],
        callers: vec!["tester".into()],
        ..fault("broken", error)
    };
    bench.admin.set_fault(broken).unwrap();
    let org = scope().org().clone();
    assert!(bench.kms.describe(&cmk, &org, &why()).await.is_err());
    assert!(
        bench
            .kms
            .decrypt(&cmk, wrapped, &scope(), &why())
            .await
            .is_ok()
    );
    assert!(worker.describe(&cmk, &org, &why()).await.is_ok());
}

#[tokio::test]
async fn a_throttle_is_shared_and_leaves_no_latency() {
    let bench = Bench::new();
    let cmk = bench.cmk();
    let both = [bench.open_as("a"), bench.open_as("b")];
    let effect = Effect::Throttle {
        rate_per_s: 0.001,
        burst: 3,
    };
    bench.admin.set_fault(fault("t", effect)).unwrap();
    let mut codes = Vec::new();
    for n in 0..6 {
        let result = both[n % 2].generate_data_key(&cmk, &scope(), &why()).await;
        codes.push(result.map_or_else(|e| e.code, |_| "ok".to_owned()));
    }
    assert_eq!(codes[..3], ["ok", "ok", "ok"]);
    assert_eq!(codes[3..], ["ThrottlingException"; 3]);
}

#[tokio::test]
async fn a_key_is_gone_after_its_window() {
    let dir = tempfile::tempdir().unwrap();
    let clock = FakeClock::at(WallTime(1_700_000_000_000_000));
    RingAdmin::create_with_key_file(dir.path()).unwrap();
    let admin = RingAdmin::open_with_clock(dir.path(), clock.clone()).unwrap();
    let unlock = Unlock::KeyFile(admin.default_key_file());
    let cmk = admin.create_key(&unlock, &NewKey::default()).unwrap();
    let kms = LocalKeyRing::open_with_clock(dir.path(), "t", &unlock, clock.clone()).unwrap();
    for days in [0, 6, 31] {
        assert!(matches!(
            admin.schedule_deletion(&cmk, days),
            Err(RingError::Window { .. })
        ));
    }
    let at_ms = admin.schedule_deletion(&cmk, 7).unwrap();
    assert_eq!(at_ms, clock.wall().unix_ms() + 7 * 24 * 3600 * 1000);
    clock.advance(Duration::from_secs(7 * 24 * 3600 - 1));
    let org = scope().org().clone();
    let about = kms.describe(&cmk, &org, &why()).await.unwrap();
    assert_eq!(
        (about.state, about.deletion_ms),
        (CmkState::PendingDeletion, Some(at_ms))
    );
    clock.advance(Duration::from_secs(1));
    assert_eq!(
        kms.describe(&cmk, &org, &why()).await.unwrap_err().code,
        "NotFoundException"
    );
    assert!(matches!(
        admin.cancel_deletion(&cmk),
        Err(RingError::NoSuchKey { .. })
    ));
    assert!(admin.list().unwrap().is_empty());
}

#[tokio::test]
async fn states_that_only_aws_leads_to() {
    let bench = Bench::new();
    let cmk = bench.cmk();
    let transient = KmsClass::Transient { throttled: false };
    for (state, class) in [
        (CmkState::PendingImport, KmsClass::CmkUnusable),
        (CmkState::Unavailable, KmsClass::CmkUnusable),
        (CmkState::Creating, transient),
    ] {
        bench.admin.force_state(&cmk, state).unwrap();
        let error = bench
            .kms
            .generate_data_key(&cmk, &scope(), &why())
            .await
            .err()
            .unwrap();
        assert_eq!(
            (error.code.as_str(), error.class),
            ("KMSInvalidStateException", class)
        );
    }
}

#[tokio::test]
async fn each_call_is_one_line_without_key_bytes() {
    let bench = Bench::new();
    let (cmk, to) = (bench.cmk(), bench.cmk());
    let made = bench
        .kms
        .generate_data_key(&cmk, &scope(), &why())
        .await
        .unwrap();
    let moved = bench
        .kms
        .re_encrypt(&cmk, &made.wrapped.bytes, &to, &scope(), &why())
        .await
        .unwrap();
    let error = bench
        .kms
        .decrypt(&cmk, &moved.bytes, &scope(), &why())
        .await
        .err()
        .unwrap();
    let log = bench.admin.log_tail(10).unwrap();
    let seen: Vec<_> = log
        .iter()
        .map(|r| {
            (
                r.operation.as_str(),
                r.cmk_to.as_ref(),
                r.result.as_str(),
                r.caller.as_str(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("GenerateDataKey", None, "ok", "tester"),
            ("ReEncrypt", Some(&to), "ok", "tester"),
            ("Decrypt", None, "IncorrectKeyException", "tester"),
        ]
    );
    assert_eq!(log[0].context, scope().context());
    assert_eq!(error.request_id.as_ref(), Some(&log[2].request_id));
    assert_eq!(bench.admin.log_tail(2).unwrap(), log[1..]);

    let key = hex::encode(made.dek.expose());
    for entry in std::fs::read_dir(bench.dir.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains(&key));
        assert!(!bytes.windows(32).any(|w| w == made.dek.expose()));
    }
}

#[test]
fn the_tail_reads_over_block_borders() {
    let bench = Bench::new();
    let record = CallRecord {
        ts: String::new(),
        request_id: String::new(),
        operation: "x".repeat(700),
        cmk: bench.cmk(),
        cmk_to: None,
        context: EncryptionContext::new(),
        caller: String::new(),
        result: String::new(),
        latency_us: 0,
    };
    for n in 0..300 {
        bench
            .kms
            .ring
            .log
            .append(&CallRecord {
                latency_us: n,
                ..record.clone()
            })
            .unwrap();
    }
    for count in [0, 1, 100, 299, 300, 301] {
        let tail = bench.admin.log_tail(count).unwrap();
        let numbers: Vec<u64> = tail.iter().map(|r| r.latency_us).collect();
        let from = 300_u64.saturating_sub(count as u64);
        assert_eq!(numbers, (from..300).collect::<Vec<_>>(), "{count}");
    }
}

#[tokio::test]
async fn a_passphrase_opens_its_ring_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let unlock = |text: &str| Unlock::Passphrase(Zeroizing::new(text.to_owned()));
    let admin = RingAdmin::create(dir.path(), &unlock("right")).unwrap();
    let cmk = admin
        .create_key(&unlock("right"), &NewKey::default())
        .unwrap();
    let kms = LocalKeyRing::open(dir.path(), "t", &unlock("right")).unwrap();
    kms.generate_data_key(&cmk, &scope(), &why()).await.unwrap();
    let wrong = LocalKeyRing::open(dir.path(), "t", &unlock("wrong"));
    assert!(matches!(wrong, Err(RingError::WrongUnlock)));
    let wrong = admin.create_key(&unlock("wrong"), &NewKey::default());
    assert!(matches!(wrong, Err(RingError::WrongUnlock)));
    let file = Unlock::KeyFile(admin.default_key_file());
    assert!(matches!(
        LocalKeyRing::open(dir.path(), "t", &file),
        Err(RingError::NeedsPassphrase)
    ));
}

#[test]
fn a_key_file_that_others_can_read_is_refused() {
    let bench = Bench::new();
    let path = bench.admin.default_key_file();
    let set = |mode| std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    for mode in [0o640, 0o604, 0o620, 0o777] {
        set(mode);
        let opened = LocalKeyRing::open(bench.dir.path(), "t", &bench.unlock());
        assert!(
            matches!(opened, Err(RingError::KeyFileMode { .. })),
            "{mode:o}"
        );
    }
    set(0o400);
    assert!(LocalKeyRing::open(bench.dir.path(), "t", &bench.unlock()).is_ok());
}

#[test]
fn a_ring_is_never_replaced() {
    let bench = Bench::new();
    let again = RingAdmin::create(bench.dir.path(), &bench.unlock());
    assert!(matches!(again, Err(RingError::Exists { .. })));
    let again = RingAdmin::create_with_key_file(bench.dir.path());
    assert!(matches!(again, Err(RingError::Exists { .. })));
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(
        RingAdmin::open(empty.path()),
        Err(RingError::NotARing { .. })
    ));
}

#[test]
fn administrators_at_once_lose_no_change() {
    let bench = Bench::new();
    std::thread::scope(|threads| {
        for who in 0..4 {
            let admin = RingAdmin::open(bench.dir.path()).unwrap();
            threads.spawn(move || {
                for n in 0..25 {
                    let id = format!("rule-{who}-{n}");
                    admin
                        .add_deny(DenyRule {
                            callers: vec!["x".into()],
                            ..rule(&id)
                        })
                        .unwrap();
                }
            });
        }
    });
    assert_eq!(bench.admin.denies().unwrap().len(), 100);
}

#[test]
fn names_and_faults_are_checked() {
    let bench = Bench::new();
    for id in ["", "A", "../x", "a/b", &"x".repeat(41)] {
        let effect = Effect::LatencyMs(1);
        let set = bench.admin.set_fault(fault(id, effect));
        assert!(matches!(set, Err(RingError::BadName { .. })), "{id}");
    }
    for rate in [-1.0, f64::NAN, f64::INFINITY, 1e-9] {
        assert!(bench.admin.set_throttle(rate).is_err(), "{rate}");
    }
    bench.admin.set_throttle(100.0).unwrap();
    bench.admin.set_latency_ms(5).unwrap();
    assert_eq!(bench.admin.faults().unwrap().len(), 2);
    bench.admin.set_throttle(0.0).unwrap();
    bench.admin.set_latency_ms(0).unwrap();
    bench.admin.set_latency_ms(0).unwrap();
    assert!(bench.admin.faults().unwrap().is_empty());
    assert_eq!(Permission::named("ReEncrypt").unwrap().len(), 2);
    assert!(Permission::named("Encrypt").is_err());
}
