//! What a worker answers over HTTP, the status page above all: what it answers, to whom, and what that costs the
//! store.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rekeyd::audit::{AuditLog, Origin};
use rekeyd::clock::{Clock, FakeClock, SharedClock, WallTime};
use rekeyd::ids::{JobId, OrgId};
use rekeyd::job::{
    Activated, BlockedSlice, Counts, Effort, JobBook, JobMessage, JobRow, JobState, Lease, Mode,
    OpenJobs, Pass, RekeyRequest, Round, SliceId, TaskRow, TaskState, Versioned,
};
use rekeyd::registry::{Registry, Timing};
use rekeyd::store::sqlite::SqliteStore;
use rekeyd::store::{Applied, ControlTable, ControlWrite, Expect, SharedStore, Store};
use rekeyd::telemetry::pulse::{Beat, Pulse, Reached, STUCK_AFTER};
use rekeyd::telemetry::waiting::Waiting;
use rekeyd::ui::{self, Hosts, Machines, Running, Source, Steering, Token};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::watched::{StepIn, Watched};

const NOW: WallTime = WallTime(1_700_000_000_000_000);
const PATIENCE: Duration = Duration::from_secs(30);
const SECOND: Duration = Duration::from_secs(1);

/// Counts how often control rows are read.
#[derive(Default)]
struct Count(AtomicUsize);

impl StepIn for Count {
    fn before_control_read(&self, _: ControlTable) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A page on a store of its own, at a time that stands still.
pub struct Site {
    dir: tempfile::TempDir,
    pub clock: Arc<FakeClock>,
    store: Arc<Watched<Count>>,
    pub book: JobBook,
    open: OpenJobs,
    pulse: Pulse,
    address: String,
}

/// An answer, head and body.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .find(|(found, _)| *found == name)
            .map(|(_, value)| value)
    }
}

impl Site {
    pub async fn new() -> Self {
        Self::with(None).await
    }

    /// One that steers with a token, if that is given.
    async fn with(token: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = FakeClock::at(NOW);
        let shared: SharedClock = clock.clone();
        let inner = SqliteStore::open_or_create(dir.path().join("s"), shared.clone()).unwrap();
        let store = Watched::around(Arc::new(inner), Count::default());
        let as_store: SharedStore = store.clone();
        let registry = Registry::new(as_store.clone(), shared.clone());
        let timing = registry.init_timing(&Timing::demo()).await.unwrap();
        let book = JobBook::new(as_store, shared.clone());
        let (open, pulse) = (OpenJobs::default(), Pulse::new(shared.clone()));
        let source = Source {
            book: book.clone(),
            registry,
            clock: shared,
            timing,
            open: open.clone(),
            running: Running {
                name: "worker <1>".to_owned(),
                pulse: pulse.clone(),
                waiting: Waiting::default(),
            },
            steers: false,
        };
        let steering = token.map(|token| {
            let path = dir.path().join("token");
            std::fs::write(&path, token).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            let origin = Origin::here("page test", "worker", None);
            let audit = AuditLog::open(&dir.path().join("audit"), origin, source.clock.clone());
            Steering {
                token: Token::read(&path).unwrap(),
                audit: audit.unwrap(),
            }
        });
        let source = Source {
            steers: steering.is_some(),
            ..source
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let hosts = Hosts::of(address, std::iter::empty()).unwrap();
        tokio::spawn(ui::serve(listener, ui::page(source, steering, hosts)));
        Self {
            dir,
            clock,
            store,
            book,
            open,
            pulse,
            address: address.to_string(),
        }
    }

    /// How often control rows were read since this was last asked.
    fn reads(&self) -> usize {
        self.store.step_in().0.swap(0, Ordering::SeqCst)
    }

    async fn ask(&self, request: &str) -> Answer {
        ask(&self.address, request).await
    }

    async fn get(&self, path: &str) -> Answer {
        let host = &self.address;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        self.ask(&request).await
    }

    /// Sends the form of a job, with headers besides.
    async fn steer(&self, id: JobId, form: &str, headers: &str) -> Answer {
        let (host, length) = (&self.address, form.len());
        self.ask(&format!(
            "POST /jobs/{id}/steer HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
             Content-Type: application/x-www-form-urlencoded\r\n{headers}\
             Content-Length: {length}\r\n\r\n{form}"
        ))
        .await
    }

    async fn state(&self, id: JobId) -> JobState {
        self.book.find(id).await.unwrap().unwrap().row.state
    }

    /// As the worker does after it has read the unfinished jobs.
    fn worker_has_read(&self, jobs: Vec<JobRow>) {
        let versioned = jobs.into_iter().map(|row| Versioned {
            id: format!("job/{}", row.request.job_id()),
            rev: 1,
            row,
        });
        let jobs: Vec<Versioned<JobRow>> = versioned.collect();
        self.open
            .read_at(self.clock.wall(), jobs.into(), &Timing::demo());
    }

    /// Records a job that is being rewritten.
    pub async fn job(&self, org: &str, reason: &str) -> Versioned<JobRow> {
        let request = request(org, reason);
        let id = request.job_id;
        let message = JobMessage::Rekey(request);
        self.book.record(&message, "hash", "taken").await.unwrap();
        self.book
            .get(&OrgId::new(org).unwrap(), id)
            .await
            .unwrap()
            .unwrap()
    }
}

async fn ask(address: &str, request: &str) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    tokio::time::timeout(PATIENCE, reading)
        .await
        .unwrap()
        .unwrap();
    let text = String::from_utf8(answer).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

fn request(org: &str, reason: &str) -> RekeyRequest {
    RekeyRequest {
        job_id: JobId::random(),
        org: OrgId::new(org).unwrap(),
        from_cmk: None,
        to_cmk: "arn:aws:kms:local:000000000000:key/b".parse().unwrap(),
        mode: Mode::Reencrypt,
        requested_by: "ops".to_owned(),
        reason: reason.to_owned(),
        cause: None,
        not_before: None,
        not_after: None,
        window: None,
        priority: None,
        plan: None,
        accept_lifted_denies: Vec::new(),
    }
}

fn slice(channel: &str, hour: &str) -> SliceId {
    SliceId {
        channel: channel.parse().unwrap(),
        hour: hour.parse().unwrap(),
    }
}

pub fn task(channel: &str, planned: u64, done: u64) -> TaskRow {
    TaskRow {
        from: slice(channel, "2019-02-13T17"),
        to: None,
        planned,
        state: TaskState::Open,
        token: 1,
        lease: None,
        takeovers: 0,
        checkpoint: None,
        counts: Counts::default(),
        effort: Effort {
            slices: done,
            ..Effort::default()
        },
        blocked: Vec::new(),
        streams: Vec::new(),
    }
}

/// Everything that a page of the site may name.
const PAGES: [&str; 4] = ["/", "/?state=blocked&org=acme", "/workers", "/health"];

#[tokio::test]
async fn every_page_is_whole_without_script_and_needs_nothing_from_elsewhere() {
    let site = Site::new().await;
    let job = site.job("acme", "yearly").await;
    let of_job = format!("/jobs/{}", job.row.request.job_id());
    site.worker_has_read(vec![job.row]);
    for page in PAGES.iter().copied().chain([of_job.as_str()]) {
        let answer = site.get(page).await;
        assert_eq!(answer.status, 200, "{page}: {}", answer.body);
        assert_eq!(
            answer.header("content-type"),
            Some("text/html; charset=utf-8")
        );
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("vary"), Some("accept"));
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; style-src 'self'; script-src 'self'"));
        assert!(!policy.contains("unsafe"), "{policy}");
        let html = &answer.body;
        assert!(
            html.starts_with("<!DOCTYPE html>") && html.ends_with("</html>"),
            "{html}"
        );
        assert!(html.contains("name=\"viewport\"") && html.contains("http-equiv=\"refresh\""));
        for forbidden in ["http://", "https://", "//", "style=", " on", "<script>"] {
            let tags = html.split('<').filter_map(|tag| tag.split('>').next());
            let found: Vec<&str> = tags.filter(|tag| tag.contains(forbidden)).collect();
            assert!(found.is_empty(), "{page}: {forbidden:?} in {found:?}");
        }
        for own in html
            .split("src=\"")
            .skip(1)
            .chain(html.split("href=\"").skip(1))
        {
            let to = own.split('"').next().unwrap().replace("&amp;", "&");
            let there = site.get(&to).await;
            assert_eq!(there.status, 200, "{page} leads to {to}");
        }
        let written = format!(
            "POST {page} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            site.address
        );
        assert_eq!(site.ask(&written).await.status, 405, "{page}");
    }
}

#[tokio::test]
async fn what_is_not_there_or_not_asked_well_is_said() {
    let site = Site::new().await;
    let nobody = format!("/jobs/{}", JobId::random());
    for (page, status, says) in [
        ("/nowhere", 404, "no such page"),
        ("/jobs/x", 404, "no job id"),
        (nobody.as_str(), 404, "No such job"),
        ("/?state=lost", 400, "lost"),
        ("/?org=%3Cb%3E", 400, "Not shown"),
        ("/?page=-1", 400, "Not shown"),
        ("/?colour=red", 400, "colour"),
        ("/?show=all", 200, "Name an organization"),
    ] {
        let answer = site.get(page).await;
        assert_eq!(answer.status, status, "{page}: {}", answer.body);
        assert!(answer.body.contains(says), "{page}: {}", answer.body);
        assert!(!answer.body.contains("<b>"), "{page}: {}", answer.body);
        assert!(answer.header("content-security-policy").is_some(), "{page}");
    }
}

#[tokio::test]
async fn only_names_of_ours_are_answered() {
    let site = Site::new().await;
    let asked_by = |host: &str| format!("GET / HTTP/1.1\r\n{host}Connection: close\r\n\r\n");
    let port = site.address.rsplit(':').next().unwrap();
    for host in ["localhost", "127.0.0.1:1", &format!("[::1]:{port}")] {
        let answer = site.ask(&asked_by(&format!("Host: {host}\r\n"))).await;
        assert_eq!(answer.status, 200, "{host}");
    }
    for host in [
        "evil.example",
        &format!("evil.example:{port}"),
        "localhost.evil.example",
        "",
    ] {
        let answer = site.ask(&asked_by(&format!("Host: {host}\r\n"))).await;
        assert_eq!(answer.status, 421, "{host}");
        assert!(!answer.body.contains("unfinished"), "{}", answer.body);
    }
    // A stream is a page like any other.
    let stream = "GET / HTTP/1.1\r\nHost: evil.example\r\nAccept: text/event-stream\r\n\
                  Connection: close\r\n\r\n";
    assert_eq!(site.ask(stream).await.status, 421);
}

#[tokio::test]
async fn names_from_elsewhere_are_shown_and_do_nothing() {
    const EVIL: &str =
        "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>\u{202e}\u{1b}[2J\r\n";
    let site = Site::new().await;
    let mut job = site.job("acme", EVIL).await;
    let round = Round {
        number: 1,
        pass: Pass::Rewrite,
        tasks: Some(1),
        slices: 4,
    };
    job.row.state = JobState::Blocked;
    job.row.why = EVIL.to_owned();
    job.row.round = Some(round);
    job.row.verdict = Some(EVIL.to_owned());
    job.row.lease = Some(Lease {
        worker: EVIL.to_owned(),
        until_ms: u64::MAX,
        waits: Some(EVIL.to_owned()),
        intake_waits: None,
        slowed: Some(EVIL.to_owned()),
    });
    let id = job.row.request.job_id();
    site.book
        .write_back(ControlTable::Jobs, "acme", &mut job)
        .await
        .unwrap();
    let mut parked = task("c1", 4, 2);
    parked.blocked.push(BlockedSlice {
        slice: slice("c1", "2019-02-13T17"),
        code: EVIL.to_owned(),
        message: EVIL.to_owned(),
        after: None,
        counts: Counts::default(),
        tries: 1,
        retry_ms: 0,
    });
    site.book.add_tasks(id, 1, 0, &[parked]).await.unwrap();
    site.worker_has_read(vec![job.row]);
    for page in ["/", "/workers", &format!("/jobs/{id}")] {
        let html = site.get(page).await.body;
        assert!(html.contains("&lt;script&gt;alert(1)"), "{page}: {html}");
        for bad in ["<script>alert", "<img", "\u{1b}", "\r"] {
            assert!(!html.contains(bad), "{page}: {bad:?}");
        }
        // Text that turns the direction of writing turns its own only.
        let turned = html.match_indices('\u{202e}').count();
        assert!(
            turned > 0 && html.matches("<bdi>").count() >= turned,
            "{page}"
        );
    }
}

#[tokio::test]
async fn ten_thousand_unfinished_jobs_cost_the_store_nothing() {
    let site = Site::new().await;
    let one = site.job("acme", "one of many").await.row;
    let many: Vec<JobRow> = (0..10_000)
        .map(|n| {
            let mut row = one.clone();
            row.request = JobMessage::Rekey(request(&format!("org{}", n % 100), ""));
            row.recorded_ms += n;
            row.state = [JobState::Queued, JobState::Rewriting][(n % 2) as usize];
            row
        })
        .collect();
    site.worker_has_read(many);
    site.reads();
    for (page, rows, found) in [
        ("/", 50, 10_000),
        ("/?page=199", 50, 10_000),
        ("/?page=200", 0, 10_000),
        ("/?state=queued", 50, 5_000),
        ("/?org=org7", 50, 100),
        ("/?org=org7&state=rewriting&page=1", 50, 100),
        ("/?org=org8&state=rewriting", 0, 0),
    ] {
        let answer = site.get(page).await;
        assert_eq!(answer.status, 200);
        let html = answer.body;
        assert_eq!(html.matches("class=\"id\"").count(), rows, "{page}");
        assert!(html.contains(&format!("{found} found")), "{page}: {html}");
        assert!(html.len() < 64 * 1024, "{page}: {} bytes", html.len());
    }
    assert_eq!(site.reads(), 0);
    // Each row stands on one page.
    let first = site.get("/").await.body;
    assert!(first.contains("href=\"/?page=1\""), "{first}");
}

#[tokio::test]
async fn the_list_of_all_jobs_is_read_by_pages() {
    let site = Site::new().await;
    let one = site.job("acme", "one of many").await;
    let body = |row: &JobRow| serde_json::to_string(row).unwrap();
    let rows: Vec<JobRow> = (0..10_000)
        .map(|n| {
            let mut row = one.row.clone();
            row.request = JobMessage::Rekey(request("acme", ""));
            row.state = JobState::Drained;
            if n == 5_000 {
                row.state = JobState::Failed;
            }
            row
        })
        .collect();
    for part in rows.chunks(1000) {
        let writes: Vec<ControlWrite> = part
            .iter()
            .map(|row| ControlWrite {
                id: format!("job/{}", row.request.job_id()),
                expect: Expect::Absent,
                body: Some(body(row)),
            })
            .collect();
        let applied = site
            .store
            .control_apply(ControlTable::Jobs, "acme", &writes)
            .await;
        assert_eq!(applied.unwrap(), Applied::Yes);
    }
    let next_of = |html: &str| {
        let (_, rest) = html.split_once("rel=\"next\" href=\"")?;
        Some(rest.split('"').next().unwrap().replace("&amp;", "&"))
    };
    site.reads();
    let html = site.get("/?show=all&org=acme").await.body;
    assert_eq!(html.matches("class=\"id\"").count(), 50);
    assert_eq!(site.reads(), 1);
    // The one failed job is found, and no request reads more than its share.
    let (mut page, mut found, mut pages) = ("/?show=all&state=failed&org=acme".to_owned(), 0, 0);
    loop {
        let html = site.get(&page).await.body;
        assert!(site.reads() <= 10);
        found += html.matches("class=\"id\"").count();
        pages += 1;
        match next_of(&html) {
            Some(next) => page = next,
            None => break,
        }
    }
    assert_eq!((found, pages), (1, 21), "10,001 rows, 500 a page");
}

#[tokio::test]
async fn a_million_slices_are_shown_at_the_cost_of_their_tasks_once_for_all_viewers() {
    let site = Site::new().await;
    let mut job = site.job("acme", "a large one").await;
    let id = job.row.request.job_id();
    let tasks: Vec<TaskRow> = (0..3907)
        .map(|n| {
            task(
                &format!("c{:03}", n / 40),
                256,
                if n < 2000 { 256 } else { 0 },
            )
        })
        .collect();
    job.row.state = JobState::Rewriting;
    job.row.round = Some(Round {
        number: 1,
        pass: Pass::Rewrite,
        tasks: Some(3907),
        slices: 3907 * 256,
    });
    site.book
        .write_back(ControlTable::Jobs, "acme", &mut job)
        .await
        .unwrap();
    for (n, part) in tasks.chunks(500).enumerate() {
        site.book
            .add_tasks(id, 1, n as u32 * 500, part)
            .await
            .unwrap();
    }
    site.reads();
    let page = format!("/jobs/{id}");
    let viewers = futures::future::join_all((0..30).map(|_| site.get(&page))).await;
    // 8 pages of tasks; owner, job, history, quarantined cells, throttles.
    assert_eq!(site.reads(), 8 + 5, "one look for all viewers");
    for answer in &viewers {
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body, viewers[0].body);
    }
    let html = &viewers[0].body;
    assert!(html.contains("512000 of 1000192 slices"), "{html}");
    assert!(html.matches("<span class=\"cell").count() < 32 * 48 + 10);
    assert!(html.len() < 256 * 1024, "{} bytes", html.len());
    site.clock.advance(SECOND - Duration::from_millis(1));
    site.get(&page).await;
    assert_eq!(site.reads(), 0, "not within a second");
    site.clock.advance(Duration::from_millis(1));
    site.get(&page).await;
    assert_eq!(site.reads(), 8 + 5, "a second later once more");
}

#[tokio::test]
async fn a_stream_sends_what_changes_and_nothing_else() {
    let site = Site::new().await;
    let mut job = site.job("acme", "watched").await;
    let id = job.row.request.job_id();
    let mut stream = TcpStream::connect(&site.address).await.unwrap();
    let request =
        format!("GET /jobs/{id} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = String::new();
    let mut events = async |until: &str| {
        let waited = tokio::time::timeout(PATIENCE, async {
            let mut buffer = vec![0; 64 * 1024];
            while !seen.contains(until) {
                // The stream waits for its clock, whenever it gets to it.
                site.clock.advance(SECOND);
                let read = tokio::time::timeout(SECOND / 20, stream.read(&mut buffer)).await;
                if let Ok(read) = read {
                    seen.push_str(&String::from_utf8_lossy(&buffer[..read.unwrap()]));
                }
            }
        });
        assert!(waited.await.is_ok(), "no {until}: {seen}");
        std::mem::take(&mut seen)
    };
    let first = events("recorded").await;
    assert!(first.contains("content-type: text/event-stream"), "{first}");
    assert!(
        first.contains("content-security-policy: default-src 'none'"),
        "{first}"
    );
    assert!(
        first.contains("event: main") && first.contains("data: <section"),
        "{first}"
    );
    assert!(!first.contains("<html"), "{first}");
    let book = &site.book;
    book.transition(&mut job, JobState::Preflight, "w", "its turn")
        .await
        .unwrap();
    let next = events("its turn").await;
    assert!(next.contains("queued -&gt; preflight"), "{next}");
}

#[tokio::test]
async fn what_is_held_up_says_so_on_its_page() {
    let site = Site::new().await;
    let mut job = site.job("acme", "for show").await;
    let id = job.row.request.job_id();
    job.row.state = JobState::Blocked;
    job.row.activated = Some(Activated {
        epoch: rekeyd::epoch::Epoch::new(2).unwrap(),
        from_cmk: "arn:aws:kms:local:000000000000:key/a".parse().unwrap(),
        at_ms: NOW.unix_ms(),
    });
    job.row.round = Some(Round {
        number: 1,
        pass: Pass::Rewrite,
        tasks: Some(1),
        slices: 4,
    });
    let mut parked = task("c1", 4, 4);
    parked.state = TaskState::Parked;
    parked.blocked.push(BlockedSlice {
        slice: slice("c1", "2019-02-13T18"),
        code: "revoked".to_owned(),
        message: "AccessDenied".to_owned(),
        after: None,
        counts: Counts::default(),
        tries: 3,
        retry_ms: NOW.unix_ms() + 60_000,
    });
    site.book
        .write_back(ControlTable::Jobs, "acme", &mut job)
        .await
        .unwrap();
    site.book.add_tasks(id, 1, 0, &[parked]).await.unwrap();
    let html = site.get(&format!("/jobs/{id}")).await.body;
    for said in [
        "1 slice blocked: <bdi>revoked",
        "in 60 s",
        "c1/2019-02-13T18",
        &format!("rekeyd retry {id} --blocked"),
        "75.0 %",
        "cell h7 blocked",
        "arn:aws:kms:local:000000000000:key/a",
    ] {
        assert!(html.contains(said), "{said}: {html}");
    }
}

#[tokio::test]
async fn the_page_of_health_says_what_is_wrong() {
    let site = Site::new().await;
    site.pulse.reached(Reached::Store);
    let html = site.get("/health").await.body;
    assert!(html.contains("Its loops move."), "{html}");
    assert!(html.contains("the queue has not answered yet"), "{html}");
    assert!(html.contains("worker &lt;1&gt;"), "{html}");
    site.clock.advance(STUCK_AFTER);
    site.pulse.beat(Beat::Intake);
    let html = site.get("/health").await.body;
    assert!(
        html.contains("the loop `claims` has not moved for 120 s"),
        "{html}"
    );
    assert!(!html.contains("`intake`"), "{html}");
    assert_eq!(site.reads(), 1, "only the waits, at the beginning");
}

#[tokio::test]
async fn the_probes_say_what_a_restart_would_mend_and_what_not() {
    let clock = FakeClock::at(NOW);
    let shared: SharedClock = clock.clone();
    let pulse = Pulse::new(shared);
    let worker = Arc::new(OnceLock::new());
    let exposition = rekeyd::telemetry::metrics::install().unwrap();
    let machines = ui::machines(Machines {
        exposition,
        worker: worker.clone(),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(ui::serve(listener, machines));
    let says = async |path: &str, status: u16, reasons: &[&str]| {
        // By any name: whoever starts containers asks by address.
        let request = format!("GET {path} HTTP/1.1\r\nHost: pod-7\r\nConnection: close\r\n\r\n");
        let answer = ask(&address, &request).await;
        let json: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(answer.status, status, "{path}: {json}");
        let found = json["reasons"].as_array().unwrap();
        assert_eq!(found.len(), reasons.len(), "{path}: {json}");
        for (found, part) in found.iter().zip(reasons) {
            assert!(found.as_str().unwrap().contains(part), "{path}: {json}");
        }
    };
    // Prometheus is told the same.
    let ready = async || {
        let request = "GET /metrics HTTP/1.1\r\nHost: pod-7\r\nConnection: close\r\n\r\n";
        let metrics = ask(&address, request).await.body;
        let value = metrics
            .lines()
            .find_map(|l| l.strip_prefix("rekeyd_ready "));
        value.map(str::to_owned)
    };
    says("/healthz", 200, &[]).await;
    says("/readyz", 503, &["timing row"]).await;
    assert_eq!(ready().await.as_deref(), Some("0"));
    let running = Running {
        name: "w".to_owned(),
        pulse: pulse.clone(),
        waiting: Waiting::default(),
    };
    assert!(worker.set(running).is_ok());
    says("/readyz", 503, &["store", "queue"]).await;
    pulse.reached(Reached::Store);
    pulse.reached(Reached::Queue);
    says("/readyz", 200, &[]).await;
    assert_eq!(ready().await.as_deref(), Some("1"));
    clock.advance(STUCK_AFTER);
    pulse.beat(Beat::Intake);
    pulse.beat(Beat::Sweeper);
    says("/healthz", 503, &["the loop `claims`"]).await;
    says("/readyz", 503, &["the loop `claims`", "store", "queue"]).await;
    assert_eq!(ready().await.as_deref(), Some("0"));
    pulse.beat(Beat::Claims);
    // Store and queue are away still: no restart mends that.
    says("/healthz", 200, &[]).await;
    let request = "GET /metrics HTTP/1.1\r\nHost: pod-7\r\nConnection: close\r\n\r\n";
    let metrics = ask(&address, request).await;
    assert_eq!(metrics.status, 200);
    assert!(
        metrics.body.contains("rekeyd_build_info{"),
        "{}",
        metrics.body
    );
}

const TOKEN: &str = "0123456789abcdef01234567";

#[tokio::test]
async fn without_a_token_nothing_can_be_steered() {
    let site = Site::new().await;
    let id = site.job("acme", "why").await.row.request.job_id();
    let page = site.get(&format!("/jobs/{id}")).await;
    assert!(!page.body.contains("/steer"), "{}", page.body);
    assert_eq!(site.get(&format!("/jobs/{id}/steer")).await.status, 404);
    let form = format!("do=pause&token={TOKEN}&who=ana&why=because");
    assert_eq!(site.steer(id, &form, "").await.status, 404);
    assert_eq!(site.state(id).await, JobState::Queued);
}

#[tokio::test]
async fn with_the_token_a_job_is_paused_slowed_down_and_resumed_and_it_is_recorded() {
    let site = Site::with(Some(TOKEN)).await;
    let id = site.job("acme", "why").await.row.request.job_id();
    let page = site.get(&format!("/jobs/{id}")).await;
    assert!(
        page.body.contains(&format!("/jobs/{id}/steer")),
        "{}",
        page.body
    );
    let form = site.get(&format!("/jobs/{id}/steer")).await;
    assert_eq!(form.status, 200);
    assert!(form.body.contains("value=\"pause\""), "{}", form.body);
    // It is not read anew under the hands of who types.
    for part in ["http-equiv", "<script", TOKEN] {
        assert!(!form.body.contains(part), "{part}: {}", form.body);
    }
    let asked = |what: &str, more: &str| format!("do={what}&token={TOKEN}&who=ana&{more}");
    let paused = site.steer(id, &asked("pause", "why=incident+42"), "").await;
    assert_eq!(paused.status, 303, "{}", paused.body);
    assert_eq!(
        paused.header("location"),
        Some(format!("/jobs/{id}").as_str())
    );
    assert_eq!(site.state(id).await, JobState::Paused);
    let row = site.book.find(id).await.unwrap().unwrap().row;
    assert_eq!(row.why, "by ana (status page): incident 42");
    let again = site.steer(id, &asked("pause", "why=once+more"), "").await;
    assert_eq!(again.status, 409);
    assert!(again.body.contains("is paused already"), "{}", again.body);
    let slower = asked("throttle", "why=peak&rows_per_s=12.5&minutes=30");
    assert_eq!(site.steer(id, &slower, "").await.status, 303);
    let live = site.book.throttles().await.unwrap().live(site.clock.wall());
    assert_eq!(live.len(), 1);
    assert_eq!(live[0].limits.rows_per_s, Some(12.5));
    assert_eq!(live[0].until_ms, site.clock.wall().unix_ms() + 30 * 60_000);
    assert_eq!(
        site.steer(id, &asked("clear", "why=over"), "").await.status,
        303
    );
    assert_eq!(
        site.steer(id, &asked("clear", "why=over"), "").await.status,
        404
    );
    let form = asked("resume", "why=over");
    let resumed = site.steer(id, &form, "Sec-Fetch-Site: same-origin\r\n");
    assert_eq!(resumed.await.status, 303);
    assert_eq!(site.state(id).await, JobState::Queued);

    // Each change before and after it was made, and the token nowhere.
    let streams = std::fs::read_dir(site.dir.path().join("audit")).unwrap();
    let log: String = streams
        .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap())
        .collect();
    for action in [
        "\"to\":\"paused\"",
        "\"throttle\"",
        "\"throttle_clear\"",
        "\"from\":\"paused\"",
    ] {
        let lines = log.lines().filter(|line| line.contains(action));
        assert!(lines.count() >= 2, "{action}: {log}");
    }
    assert!(
        log.contains("ana (status page)") && !log.contains(TOKEN),
        "{log}"
    );
}

#[tokio::test]
async fn whoever_has_no_token_or_asks_badly_changes_nothing() {
    let site = Site::with(Some(TOKEN)).await;
    let id = site.job("acme", "why").await.row.request.job_id();
    let good = format!("do=pause&token={TOKEN}&who=ana&why=because");
    for (form, headers, status) in [
        ("do=pause&token=&who=ana&why=because", "", 403),
        (
            "do=pause&token=0123456789abcdef01234566&who=ana&why=because",
            "",
            403,
        ),
        (good.as_str(), "Sec-Fetch-Site: cross-site\r\n", 403),
        (good.as_str(), "Sec-Fetch-Site: same-site\r\n", 403),
        (&good.replace("because", "+"), "", 400),
        (&good.replace("because", "a%1b[2J"), "", 400),
        (&good.replace("ana", ""), "", 400),
        (&good.replace("do=pause", "do=drop"), "", 422),
        (&good.replace("pause", "throttle"), "", 400),
        (
            &format!(
                "{}&rows_per_s=0&minutes=5",
                good.replace("pause", "throttle")
            ),
            "",
            400,
        ),
        (
            &format!(
                "{}&rows_per_s=5&minutes=0",
                good.replace("pause", "throttle")
            ),
            "",
            400,
        ),
        (&format!("{good}&more={}", "x".repeat(20_000)), "", 413),
    ] {
        let answer = site.steer(id, form, headers).await;
        let short: String = form.chars().take(80).collect();
        assert_eq!(answer.status, status, "{short} {headers}: {}", answer.body);
        assert!(!answer.body.contains(TOKEN), "{}", answer.body);
    }
    assert_eq!(site.state(id).await, JobState::Queued);
    assert!(
        site.book
            .throttles()
            .await
            .unwrap()
            .live(site.clock.wall())
            .is_empty()
    );
    let nobody = JobId::random();
    assert_eq!(site.steer(nobody, &good, "").await.status, 404);
}
