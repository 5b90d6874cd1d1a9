//! The status page in a real browser: a worker serves it, a headless Chromium opens
//! it. Needs Chromium (`apt-get install --yes chromium`).
//!
//! `SCREENSHOTS=folder cargo test --test browser` leaves pictures for a person.
//!
//! | file | what |
//! |---|---|
//! | `chromium` | the browser, told what to do |

#[allow(dead_code)]
#[path = "../cli/bench.rs"]
mod bench;
mod chromium;

use std::time::{Duration, Instant};

use bench::{Bench, Worker, sample_export};
use chromium::Chromium;
use serde_json::json;

/// A worker that serves the page, on a store with messages.
struct Site {
    bench: Bench,
    new: String,
    origin: String,
    _worker: Worker,
}

impl Site {
    fn new() -> Self {
        let bench = Bench::new();
        let (_, new) = bench.acme();
        let export = sample_export(bench.dir());
        let import = ["import", "slack-export", &export, "--org", "acme"];
        bench.run(0, &[&import[..], &["--workspace", "w1"]].concat());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let worker = bench.worker_with(&["--ui", &address]);
        let end = Instant::now() + Duration::from_secs(60);
        while std::net::TcpStream::connect(&address).is_err() {
            assert!(Instant::now() < end, "the worker does not come up");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self {
            bench,
            new,
            origin: format!("http://{address}"),
            _worker: worker,
        }
    }

    fn at(&self, path: &str) -> String {
        self.origin.clone() + path
    }

    /// A job that takes a while, for rows are let through one by one.
    fn slow_job(&self) -> String {
        let slow = ["throttle", "set", "--org", "acme", "--rows-per-s", "0.2"];
        let why = ["--for", "1h", "--reason", "evening peak"];
        self.bench.run(0, &[&slow[..], &why[..]].concat());
        let job = self.bench.enqueue("acme", &self.new);
        let end = Instant::now() + Duration::from_secs(60);
        // Its tasks are planned, and the worker is at one.
        let begun = || {
            let workers = self.bench.json(0, &["workers"]);
            let workers = workers["workers"].as_array().unwrap().iter();
            let mut held = workers.flat_map(|worker| worker["holds"].as_array().unwrap());
            held.any(|held| held["task"].is_string())
        };
        while !begun() {
            assert!(Instant::now() < end, "it does not begin to rewrite");
            std::thread::sleep(Duration::from_millis(50));
        }
        job
    }
}

#[test]
fn a_browser_follows_a_job_to_its_end_without_asking_for_the_page_again() {
    let site = Site::new();
    let mut browser = Chromium::start();
    browser.open(&site.at("/"));
    browser.wait_for("document.getElementById('live').textContent === 'live'");
    browser.evaluate("window.stays = true");
    let job = site.bench.enqueue("acme", &site.new);
    browser.wait_for(&format!(
        "!!document.querySelector('a[href=\"/jobs/{job}\"]')"
    ));
    assert_eq!(browser.evaluate("window.stays"), json!(true));
    assert_eq!(browser.complaints(&site.origin), Vec::<String>::new());

    browser.open(&site.at(&format!("/jobs/{job}")));
    browser.evaluate("window.stays = true");
    browser.wait_for("document.querySelector('h1 .badge').textContent === 'drained'");
    browser.wait_for("document.getElementById('main').innerText.includes('Verdict:')");
    let text = browser.evaluate("document.getElementById('main').innerText");
    for said in ["settling -> rewriting", "Rows of finished passes"] {
        assert!(text.as_str().unwrap().contains(said), "{said}: {text}");
    }
    assert_eq!(browser.evaluate("window.stays"), json!(true));
    let loads = browser.events("Page.loadEventFired").count();
    assert_eq!(loads, 1, "the page was loaded again");
    assert_eq!(browser.complaints(&site.origin), Vec::<String>::new());
    browser.picture("job-drained");
}

#[test]
fn every_page_fits_a_phone_and_a_desktop() {
    let site = Site::new();
    let job = site.slow_job();
    let of_job = format!("/jobs/{job}");
    let mut browser = Chromium::start();
    for (screen, width, height, mobile) in
        [("phone", 360, 740, true), ("desktop", 1280, 800, false)]
    {
        let metrics = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile
        });
        browser.ask("Emulation.setDeviceMetricsOverride", metrics);
        let pages = [
            ("jobs", "/"),
            ("all", "/?show=all&org=acme"),
            ("job", &of_job),
            ("workers", "/workers"),
            ("health", "/health"),
        ];
        for (name, path) in pages {
            browser.open(&site.at(path));
            browser.wait_for("document.getElementById('live').textContent === 'live'");
            // Wider than the screen is what a person would have to push aside.
            let wide = browser.evaluate("document.documentElement.scrollWidth");
            assert!(
                wide.as_u64().unwrap() <= width,
                "{path} is {wide} wide on a {screen}"
            );
            let small = browser.evaluate("parseFloat(getComputedStyle(document.body).fontSize)");
            assert!(
                small.as_f64().unwrap() >= 14.0,
                "{path}: letters of {small}"
            );
            assert_eq!(
                browser.complaints(&site.origin),
                Vec::<String>::new(),
                "{path}"
            );
            browser.picture(&format!("{screen}-{name}"));
        }
    }
}

#[test]
fn whoever_goes_through_many_pages_waits_for_none_and_finds_the_first_live() {
    let site = Site::new();
    let mut browser = Chromium::start();
    // More than a browser has connections to one place.
    for _ in 0..10 {
        for path in ["/workers", "/health"] {
            let begun = Instant::now();
            browser.open(&site.at(path));
            browser.wait_for("document.getElementById('live').textContent === 'live'");
            let took = begun.elapsed();
            assert!(took < Duration::from_secs(15), "{path} takes {took:?}");
        }
    }
    browser.evaluate("history.back()");
    browser.wait_for("location.pathname === '/workers' && document.readyState === 'complete'");
    browser.wait_for("document.getElementById('live').textContent === 'live'");
    let job = site.slow_job();
    browser.wait_for(&format!(
        "!!document.querySelector('a[href=\"/jobs/{job}\"]')"
    ));
}

#[test]
fn without_script_the_page_is_whole_and_read_anew() {
    let site = Site::new();
    let job = site.slow_job();
    let mut browser = Chromium::start();
    browser.ask(
        "Emulation.setScriptExecutionDisabled",
        json!({"value": true}),
    );
    browser.open(&site.at(&format!("/jobs/{job}")));
    let html = browser.html();
    for said in [
        "rewriting",
        "evening peak",
        "Slices by channel and time",
        "Timeline",
    ] {
        assert!(html.contains(said), "{said}: {html}");
    }
    browser.picture("no-script");
    // The page asks for itself again after five seconds.
    browser.wait_for_events("Page.loadEventFired", 2);
    assert_eq!(browser.complaints(&site.origin), Vec::<String>::new());
}

#[test]
fn what_a_browser_is_told_to_forbid_it_forbids() {
    let site = Site::new();
    let mut browser = Chromium::start();
    browser.open(&site.at("/"));
    browser.evaluate(
        "window.ran = false; window.forbidden = [];
         addEventListener('securitypolicyviolation', (e) => forbidden.push(e.effectiveDirective));
         const script = document.createElement('script');
         script.textContent = 'window.ran = true';
         document.body.append(script);
         const image = document.createElement('img');
         image.src = 'http://127.0.0.1:1/x.png';
         document.body.append(image);
         const frame = document.createElement('iframe');
         frame.src = 'http://127.0.0.1:1/';
         document.body.append(frame);
         fetch('http://127.0.0.1:1/').catch(() => {});
         document.body.setAttribute('style', 'color: red');",
    );
    browser.wait_for("forbidden.length >= 5");
    let mut forbidden: Vec<String> = serde_json::from_value(browser.evaluate("forbidden")).unwrap();
    forbidden.sort();
    let expected = [
        "connect-src",
        "frame-src",
        "img-src",
        "script-src-elem",
        "style-src-attr",
    ];
    assert_eq!(forbidden, expected);
    assert_eq!(browser.evaluate("window.ran"), json!(false));
}
