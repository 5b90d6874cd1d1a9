use std::time::Duration;

use super::*;
use crate::clock::{Clock, FakeClock, WallTime};
use crate::kms::caller::{Access, Caller, Callers, Grant, RoleCache, Roles};
use crate::kms::codes::Circumstance;
use crate::kms::{CmkState, ReasonCode};
use crate::retry::RetryPolicy;

/// What call number n gets at a time: an error's code and message, or an answer.
type Script = dyn Fn(u64, BootTime) -> Option<(&'static str, &'static str)> + Send + Sync;

/// A KMS of which only `describe` is called: it takes a while, then answers by
/// script, or throttles above a rate of its own.
struct Scripted {
    clock: Arc<FakeClock>,
    latency: Duration,
    answer: Box<Script>,
    calls: AtomicU64,
    attempts: Mutex<Vec<u32>>,
}

#[async_trait::async_trait]
impl Kms for Scripted {
    async fn generate_data_key(
        &self,
        _: &CmkArn,
        _: &Scope,
        _: &Use,
    ) -> Result<GeneratedKey, KmsError> {
        unreachable!("the tests describe")
    }
    async fn decrypt(&self, _: &CmkArn, _: &[u8], _: &Scope, _: &Use) -> Result<Dek, KmsError> {
        unreachable!("the tests describe")
    }
    async fn re_encrypt(
        &self,
        _: &CmkArn,
        _: &[u8],
        _: &CmkArn,
        _: &Scope,
        _: &Use,
    ) -> Result<Wrapped, KmsError> {
        unreachable!("the tests describe")
    }
    async fn describe(
        &self,
        cmk: &CmkArn,
        _: &OrgId,
        why: &Use,
    ) -> Result<CmkDescription, KmsError> {
        self.attempts.lock().unwrap().push(why.attempt);
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let answer = (self.answer)(call, self.clock.boot());
        if !self.latency.is_zero() {
            self.clock.sleep(self.latency).await;
        }
        match answer {
            Some((code, message)) => Err(KmsError::new(
                "DescribeKey",
                code,
                message,
                &Circumstance::default(),
            )),
            None => Ok(CmkDescription {
                arn: cmk.clone(),
                state: CmkState::Enabled,
                symmetric: true,
                deletion_ms: None,
                replicas: Vec::new(),
            }),
        }
    }
    async fn key_policy(&self, _: &CmkArn, _: &OrgId, _: &Use) -> Result<String, KmsError> {
        unreachable!("the tests describe")
    }
}

struct Bench {
    clock: Arc<FakeClock>,
    kms: Arc<Budgeted>,
    budgets: Arc<Budgets>,
    script: Arc<Scripted>,
    waiting: Waiting,
}

impl Bench {
    fn new(
        settings: BudgetSettings,
        policy: RetryPolicy,
        latency_ms: u64,
        answer: impl Fn(u64, BootTime) -> Option<(&'static str, &'static str)> + Send + Sync + 'static,
    ) -> Self {
        let clock = FakeClock::at(WallTime(0));
        // The boot clock starts at nothing; a burst reaches back.
        clock.advance(Duration::from_secs(1));
        let script = Arc::new(Scripted {
            clock: clock.clone(),
            latency: Duration::from_millis(latency_ms),
            answer: Box::new(answer),
            calls: AtomicU64::new(0),
            attempts: Mutex::default(),
        });
        let budgets = Arc::new(Budgets::new(settings, clock.clone()));
        let callers = Callers::Always(Caller::of_account("111122223333"));
        let waiting = Waiting::default();
        let kms = Budgeted::new(script.clone(), callers, budgets.clone(), policy);
        let kms = kms.noting(waiting.clone());
        Self {
            clock,
            kms: Arc::new(kms),
            budgets,
            script,
            waiting,
        }
    }

    async fn call(kms: &Budgeted) -> Result<CmkDescription, KmsError> {
        let cmk = CmkArn::new("arn:aws:kms:eu-west-1:444455556666:key/a").unwrap();
        let org = OrgId::new("acme").unwrap();
        kms.describe(&cmk, &org, &Use::new(ReasonCode::Verify, "test"))
            .await
    }

    /// Lets everyone run who can, then turns the clock.
    async fn step(&self, span: Duration) {
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
        self.clock.advance(span);
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
    }

    /// One call, the clock turned until it is answered; and how long it took.
    async fn settle(&self) -> (Result<CmkDescription, KmsError>, Duration) {
        let began = self.clock.boot();
        let kms = self.kms.clone();
        let call = tokio::spawn(async move { Self::call(&kms).await });
        while !call.is_finished() {
            self.step(Duration::from_millis(1)).await;
        }
        (call.await.unwrap(), self.clock.boot().since(began))
    }

    /// So many callers, one call after the other each, until the tasks are dropped.
    fn callers(&self, count: usize) -> tokio::task::JoinSet<()> {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..count {
            let kms = self.kms.clone();
            tasks.spawn(async move {
                loop {
                    let _ = Self::call(&kms).await;
                }
            });
        }
        tasks
    }

    fn snapshot(&self) -> BudgetSnapshot {
        self.budgets.snapshot().remove(0)
    }
}

#[tokio::test]
async fn latency_does_not_cost_budget() {
    // 1000 a second, 10 ms each: ten are under way at least. Timers of 1 ms and
    // worse ones of 3 ms; barely enough callers, and more.
    for (step_ms, callers) in [(1, 13), (1, 48), (3, 20), (3, 48)] {
        let settings = BudgetSettings::per_second(1000.0);
        let bench = Bench::new(settings, RetryPolicy::KMS, 10, |_, _| None);
        let _callers = bench.callers(callers);
        for _ in 0..(6000 / step_ms) {
            bench.step(Duration::from_millis(step_ms)).await;
        }
        let calls = bench.snapshot().calls;
        assert!(
            (5700..=6000 + 21).contains(&calls),
            "{calls} calls in 6 s, steps of {step_ms} ms, {callers} callers"
        );
    }
}

#[tokio::test]
async fn too_few_callers_are_not_slowed_and_many_see_the_budget() {
    let settings = BudgetSettings::per_second(1000.0);
    let bench = Bench::new(settings, RetryPolicy::KMS, 10, |_, _| None);
    let few = bench.callers(2);
    for _ in 0..1000 {
        bench.step(Duration::from_millis(1)).await;
    }
    let calls = bench.snapshot().calls;
    assert!(
        (195..=202).contains(&calls),
        "two callers make 200 calls a second of 10 ms: {calls}"
    );
    assert_eq!(bench.snapshot().waiting_for(), None);
    drop(few);
    let _many = bench.callers(100);
    for _ in 0..100 {
        bench.step(Duration::from_millis(1)).await;
    }
    assert_eq!(bench.snapshot().waiting_for(), Some("kms_budget"));
}

#[tokio::test]
async fn throttling_finds_the_rate_the_kms_gives() {
    // Half of what is configured. A bucket of a tenth of a second, as a KMS has.
    let bucket = Mutex::new((50.0_f64, BootTime(Duration::from_secs(1))));
    let limit = move |_, now: BootTime| {
        let mut bucket = bucket.lock().unwrap();
        let filled = bucket.0 + 500.0 * now.since(bucket.1).as_secs_f64();
        *bucket = (filled.min(50.0), now);
        if bucket.0 >= 1.0 {
            bucket.0 -= 1.0;
            None
        } else {
            Some(("ThrottlingException", ""))
        }
    };
    let settings = BudgetSettings::per_second(1000.0);
    let bench = Bench::new(settings, RetryPolicy::KMS, 10, limit);
    let _callers = bench.callers(48);
    for _ in 0..20_000 {
        bench.step(Duration::from_millis(1)).await;
    }
    let seen = bench.snapshot();
    let good = seen.calls - seen.throttled;
    assert!(
        good > 500 * 20 * 65 / 100,
        "most of what the KMS gives is used: {seen:?}"
    );
    assert!(
        seen.throttled * 20 < seen.calls,
        "few calls are throttled: {seen:?}"
    );
    assert!(seen.rate_per_s <= 1000.0);
}

#[tokio::test]
async fn transient_errors_end_in_success_or_in_kms_unavailable() {
    let policy = RetryPolicy {
        base_ms: 10,
        cap_ms: 100,
        give_up_after: Duration::from_secs(2),
    };
    let settings = BudgetSettings::per_second(1000.0);
    let bench = Bench::new(settings, policy, 0, |call, _| {
        (call < 5).then_some(("KMSInternalException", ""))
    });
    assert!(bench.settle().await.0.is_ok());
    assert_eq!((bench.snapshot().calls, bench.snapshot().retries), (6, 5));

    for code in ["KMSInternalException", "ThrottlingException"] {
        let bench = Bench::new(settings, policy, 0, move |_, _| Some((code, "")));
        let (result, took) = bench.settle().await;
        let error = result.unwrap_err();
        assert_eq!(error.class, KmsClass::Unavailable);
        assert_eq!(error.blocked_reason().as_deref(), Some("kms_unavailable"));
        let ms = took.as_millis();
        assert!((1900..2400).contains(&ms), "gave up after {ms} ms");
        assert!(bench.script.calls.load(Ordering::Relaxed) > 5);
    }
}

#[tokio::test]
async fn patience_is_shorter_where_the_table_says_so() {
    let corrupted = "the ciphertext or additional authenticated data is corrupted";
    let state = "KMSInvalidStateException";
    for (code, message, attempts, class) in [
        ("ExpiredTokenException", "", 2, KmsClass::Unavailable),
        ("InvalidGrantTokenException", "", 2, KmsClass::Denied),
        (state, corrupted, 3, KmsClass::QuarantinedKey),
        (
            state,
            "the proxy did not respond in time",
            3,
            KmsClass::CmkUnusable,
        ),
        ("AccessDeniedException", "", 1, KmsClass::Denied),
        (
            "InvalidCiphertextException",
            "",
            1,
            KmsClass::QuarantinedKey,
        ),
        ("DisabledException", "", 1, KmsClass::CmkUnusable),
        ("BrandNewException", "", 1, KmsClass::Unknown),
    ] {
        let settings = BudgetSettings::per_second(1000.0);
        let bench = Bench::new(settings, RetryPolicy::KMS, 0, move |_, _| {
            Some((code, message))
        });
        let error = bench.settle().await.0.unwrap_err();
        let calls = bench.script.calls.load(Ordering::Relaxed);
        assert_eq!((calls, error.class), (attempts, class), "{code} {message}");
    }
}

#[tokio::test]
async fn a_cancelled_caller_is_not_counted_any_more() {
    let settings = BudgetSettings::per_second(10.0);
    let bench = Bench::new(settings, RetryPolicy::KMS, 10, |_, _| None);
    let callers = bench.callers(5);
    bench.step(Duration::from_millis(1)).await;
    assert!(bench.snapshot().waiting_for_slot > 0 && bench.snapshot().in_flight > 0);
    drop(callers);
    bench.step(Duration::from_millis(1)).await;
    let seen = bench.snapshot();
    assert_eq!(
        (seen.waiting_for_slot, seen.in_flight, seen.backing_off),
        (0, 0, 0)
    );
}

#[tokio::test]
async fn each_account_and_region_has_its_own_budget() {
    /// The customer of account 222 has us assume a role in account 333.
    struct OneRole;

    #[async_trait::async_trait]
    impl Roles for OneRole {
        async fn access(&self, _: &OrgId, cmk: &CmkArn) -> Result<Access, String> {
            let role = "arn:aws:iam::333:role/rekeyd".parse().unwrap();
            let external_id = None;
            Ok(match cmk.account() {
                "222" => Access::Role(Grant { role, external_id }),
                _ => Access::Own,
            })
        }
    }

    let own = || Caller::of_account("999");
    let clock = FakeClock::at(WallTime(0));
    let cache = RoleCache::new(Arc::new(OneRole), Duration::from_secs(60), clock);
    for (callers, expected) in [
        (
            Callers::Always(own()),
            vec![("999", "eu-west-1"), ("999", "us-east-1")],
        ),
        (
            Callers::ByRole {
                own: own(),
                roles: Arc::new(cache),
            },
            vec![
                ("333", "eu-west-1"),
                ("333", "us-east-1"),
                ("999", "eu-west-1"),
            ],
        ),
    ] {
        let settings = BudgetSettings::per_second(5.0);
        let bench = Bench::new(settings, RetryPolicy::KMS, 0, |_, _| None);
        let kms = Budgeted::new(
            bench.script.clone(),
            callers,
            bench.budgets.clone(),
            RetryPolicy::KMS,
        );
        let org = OrgId::new("acme").unwrap();
        let why = Use::new(ReasonCode::Verify, "test");
        for arn in [
            "arn:aws:kms:eu-west-1:111:key/a",
            "arn:aws:kms:eu-west-1:222:key/b",
            "arn:aws:kms:us-east-1:222:key/c",
        ] {
            let cmk = CmkArn::new(arn).unwrap();
            // Reaching for a slot makes the budget; whether it waits is no matter.
            let _ = futures::poll!(kms.describe(&cmk, &org, &why));
        }
        let snapshot = bench.budgets.snapshot();
        let keys: Vec<_> = snapshot
            .iter()
            .map(|s| (s.key.account.as_str(), s.key.region.as_str()))
            .collect();
        assert_eq!(keys, expected);
    }
}

#[tokio::test]
async fn attempts_are_counted_and_a_silent_kms_is_named_until_it_answers() {
    let settings = BudgetSettings::per_second(1000.0);
    let bench = Bench::new(settings, RetryPolicy::KMS, 0, |call, _| match call {
        0 => Some(("NoResponse", "connection refused")),
        1 => Some(("KMSInternalException", "")),
        2 => None,
        3 => Some(("NoResponse", "")),
        _ => Some(("AccessDeniedException", "")),
    });
    let kms = bench.kms.clone();
    let call = tokio::spawn(async move { Bench::call(&kms).await });
    while bench.script.calls.load(Ordering::Relaxed) < 2 {
        // What is noted stands while the next attempt is waited for.
        if bench.script.calls.load(Ordering::Relaxed) == 1
            && let Some(words) = bench.waiting.words()
        {
            assert_eq!(words, "waits for the KMS: NoResponse");
        }
        bench.step(Duration::from_millis(1)).await;
    }
    assert_eq!(
        bench.waiting.words().unwrap(),
        "waits for the KMS: KMSInternalException"
    );
    while !call.is_finished() {
        bench.step(Duration::from_millis(1)).await;
    }
    call.await.unwrap().unwrap();
    assert_eq!(bench.waiting.words(), None);
    assert_eq!(*bench.script.attempts.lock().unwrap(), [1, 2, 3]);

    // A refusal is an answer: nothing is waited for.
    let (refused, _) = bench.settle().await;
    assert_eq!(refused.unwrap_err().class, KmsClass::Denied);
    assert_eq!(bench.waiting.words(), None);
    assert_eq!(*bench.script.attempts.lock().unwrap(), [1, 2, 3, 1, 2]);
}
