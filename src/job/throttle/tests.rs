use std::sync::Arc;

use futures::FutureExt;

use super::*;
use crate::clock::{Clock, FakeClock, WallTime};
use crate::job::{ThrottleLimits, Versioned};

const SKEW_MS: u64 = 1_000;

struct Bench {
    clock: Arc<FakeClock>,
    throttles: Throttles,
    org: OrgId,
    job: JobId,
}

impl Bench {
    fn new() -> Self {
        let clock = FakeClock::at(WallTime(1_000_000_000));
        Self {
            throttles: Throttles::new(clock.clone(), SKEW_MS, Waiting::default()),
            clock,
            org: OrgId::new("acme").unwrap(),
            job: JobId::random(),
        }
    }

    fn throttle(&self, target: ThrottleTarget, limits: ThrottleLimits, for_s: u64) -> Throttle {
        let now_ms = self.clock.wall().unix_ms();
        Throttle {
            target,
            limits,
            set_ms: now_ms,
            until_ms: now_ms + 1000 * for_s,
            who: "ops".to_owned(),
            why: "a test".to_owned(),
        }
    }

    /// The rows as the store gives them; `None` is one that does not parse.
    fn read(&self, rows: &[(&str, Option<&Throttle>)]) {
        let malformed = |row: &str| BookError::Malformed {
            table: "jobs",
            row: row.to_owned(),
            why: "a test".to_owned(),
        };
        let rows = rows.iter().map(|(name, throttle)| {
            let row = throttle.map(|throttle| Versioned {
                id: format!("set/{name}"),
                rev: 1,
                row: throttle.clone(),
            });
            ((*name).to_owned(), row.ok_or_else(|| malformed(name)))
        });
        self.throttles.take_in(ThrottleRows {
            rows: rows.collect(),
        });
    }

    fn ask(&self, rows: u32) -> Ask {
        let (org, job) = (&self.org, Some(self.job));
        self.throttles.ask(org, job, What::Rows, f64::from(rows))
    }

    fn goes(&self, rows: u32) -> bool {
        matches!(self.ask(rows), Ask::Go(_))
    }

    /// A page that may be read at once.
    fn allowed(&self, rows: usize) -> Allowance {
        let stop = watch::channel(false).1;
        let allowed = self.throttles.rows(&self.org, self.job, rows, &stop);
        allowed.now_or_never().unwrap().unwrap()
    }

    fn advance(&self, s: u64) {
        self.clock.advance(Duration::from_secs(s));
    }
}

use crate::job::BookError;

fn rows(rate: f64) -> ThrottleLimits {
    ThrottleLimits {
        rows_per_s: Some(rate),
        ..ThrottleLimits::default()
    }
}

fn tasks(most: u32) -> ThrottleLimits {
    ThrottleLimits {
        tasks: Some(most),
        ..ThrottleLimits::default()
    }
}

#[test]
fn rows_come_at_the_rate_and_the_tightest_throttle_holds() {
    let b = Bench::new();
    let all = b.throttle(ThrottleTarget::All, rows(100.0), 3600);
    let job = b.throttle(ThrottleTarget::Job(b.job), rows(10.0), 3600);
    let other = b.throttle(ThrottleTarget::Job(JobId::random()), rows(0.001), 3600);
    let (name, other_name) = (job.target.to_string(), other.target.to_string());
    b.read(&[
        ("all", Some(&all)),
        (&name, Some(&job)),
        (&other_name, Some(&other)),
    ]);
    let allowed = b.allowed(100);
    assert_eq!(b.ask(1), Ask::Wait(Duration::from_secs(10)));
    // What was allowed and not read is given back to each.
    allowed.read(40);
    assert_eq!(b.ask(1), Ask::Wait(Duration::from_secs(4)));
    b.advance(4);
    assert!(b.goes(1));
    // Read anew and unchanged, nothing is forgotten.
    b.read(&[("all", Some(&all)), (&name, Some(&job))]);
    assert!(matches!(b.ask(1), Ask::Wait(_)));
    b.read(&[]);
    assert!(b.goes(1_000_000));
}

#[test]
fn it_ends_by_itself_and_never_early() {
    let b = Bench::new();
    let throttle = b.throttle(ThrottleTarget::Org(b.org.clone()), rows(0.001), 60);
    b.read(&[("org/acme", Some(&throttle))]);
    assert!(b.goes(1));
    b.advance(60);
    // This clock may be ahead of the one that set it.
    assert!(matches!(b.ask(1), Ask::Wait(_)));
    b.advance(SKEW_MS / 1000);
    assert!(b.goes(1_000));
    assert!(b.goes(1_000));
}

#[test]
fn what_cannot_be_read_never_means_unthrottled() {
    let b = Bench::new();
    // Before the first read.
    assert_eq!(b.ask(1), Ask::Held);
    assert!(!b.throttles.may_begin(&b.org, b.job));
    // A row that was never read, of this organization or of nobody known.
    for name in ["all", "org/acme", "zone/7"] {
        b.read(&[(name, None)]);
        assert_eq!(b.ask(1), Ask::Held, "{name}");
        assert!(!b.throttles.may_begin(&b.org, b.job), "{name}");
    }
    b.read(&[("org/other", None)]);
    assert!(b.goes(1));
    assert!(b.throttles.may_begin(&b.org, b.job));
    // One that was known holds on as it was, and after its end nobody knows.
    let known = b.throttle(ThrottleTarget::All, rows(1.0), 60);
    b.read(&[("all", Some(&known))]);
    assert!(b.goes(10));
    b.read(&[("all", None)]);
    b.read(&[("all", None)]);
    assert_eq!(b.ask(10), Ask::Wait(Duration::from_secs(10)));
    assert!(b.throttles.may_begin(&b.org, b.job));
    assert!(b.throttles.0.waiting.words().unwrap().contains("throttle"));
    b.advance(62);
    assert_eq!(b.ask(1), Ask::Held);
    b.read(&[]);
    assert!(b.goes(1));
    assert_eq!(b.throttles.0.waiting.words(), None);
}

#[test]
fn a_service_without_room_holds_everything_and_says_so() {
    let b = Bench::new();
    b.read(&[]);
    b.throttles.hold(Some("127.0.0.1:80 answers 503"));
    assert_eq!(b.ask(1), Ask::Held);
    assert!(!b.throttles.may_begin(&b.org, b.job));
    let words = b.throttles.0.waiting.words().unwrap();
    assert_eq!(
        words,
        "waits for the service to have room: 127.0.0.1:80 answers 503"
    );
    b.throttles.hold(None);
    assert!(b.goes(1));
    assert!(b.throttles.may_begin(&b.org, b.job));
    assert_eq!(b.throttles.0.waiting.words(), None);
}

#[test]
fn tasks_at_a_time_are_counted_for_each_target() {
    let b = Bench::new();
    b.read(&[]);
    let slots: Vec<Slot> = (0..3).map(|_| b.throttles.begin(&b.org, b.job)).collect();
    let elsewhere = b
        .throttles
        .begin(&OrgId::new("other").unwrap(), JobId::random());
    assert!(b.throttles.may_begin(&b.org, b.job));
    let throttle = b.throttle(ThrottleTarget::Org(b.org.clone()), tasks(2), 60);
    b.read(&[("org/acme", Some(&throttle))]);
    assert!(!b.throttles.may_begin(&b.org, b.job));
    // The last of them goes.
    let too_many = |slot: &Slot| b.throttles.is_one_too_many(slot);
    assert_eq!(
        slots.iter().map(too_many).collect::<Vec<_>>(),
        [false, false, true]
    );
    assert!(!too_many(&elsewhere));
    let mut slots = slots;
    slots.pop();
    assert!(!b.throttles.may_begin(&b.org, b.job));
    slots.pop();
    assert!(b.throttles.may_begin(&b.org, b.job));
}

#[tokio::test]
async fn who_waits_is_let_on_when_it_is_cleared_or_asked_to_stop() {
    let b = Bench::new();
    let throttle = b.throttle(ThrottleTarget::All, rows(0.001), 3600);
    b.read(&[("all", Some(&throttle))]);
    let (ask, stop) = watch::channel(false);
    b.allowed(1).read(1);
    let waiter = |stop: watch::Receiver<bool>| {
        let (throttles, org, job) = (b.throttles.clone(), b.org.clone(), b.job);
        tokio::spawn(async move { throttles.rows(&org, job, 1, &stop).await.is_some() })
    };
    let cleared = waiter(watch::channel(false).1);
    let stopped = waiter(stop.clone());
    tokio::task::yield_now().await;
    ask.send_replace(true);
    assert!(!stopped.await.unwrap());
    assert!(!cleared.is_finished());
    b.read(&[]);
    tokio::task::yield_now().await;
    b.clock.advance(LOOK);
    assert!(cleared.await.unwrap());
}

/// Pages that could have 400 rows and have 15: what is kept is the rate of the 15,
/// and no reader waits for ever behind another.
#[tokio::test]
async fn small_pages_come_at_the_whole_rate_and_in_turn() {
    let b = Bench::new();
    let throttle = b.throttle(ThrottleTarget::All, rows(1000.0), 3600);
    b.read(&[("all", Some(&throttle))]);
    let _counted = b.throttles.begin(&b.org, b.job);
    let reader = || {
        let (throttles, org, job) = (b.throttles.clone(), b.org.clone(), b.job);
        let pages = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let counted = pages.clone();
        let clock = b.clock.clone();
        tokio::spawn(async move {
            let stop = watch::channel(false).1;
            while let Some(allowed) = throttles.rows(&org, job, 400, &stop).await {
                // As long as a read takes.
                clock.sleep(Duration::from_millis(20)).await;
                allowed.read(15);
                counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        });
        pages
    };
    let pages: Vec<_> = (0..8).map(|_| reader()).collect();
    for _ in 0..2_000 {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        b.clock.advance(Duration::from_millis(1));
    }
    let read = |pages: &Arc<std::sync::atomic::AtomicU32>| {
        pages.load(std::sync::atomic::Ordering::Relaxed)
    };
    let each: Vec<u32> = pages.iter().map(read).collect();
    let rows = 15 * each.iter().sum::<u32>();
    // Two seconds, and at the start whole pages are reckoned with.
    assert!((1_400..=2_200).contains(&rows), "{rows}: {each:?}");
    let (least, most) = (each.iter().min(), each.iter().max());
    assert!(most.unwrap() - least.unwrap() <= 2, "{each:?}");
}
