//! A headless Chromium, told what to do over two pipes (its `--remote-debugging-pipe`:
//! JSON with a zero byte after each).

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// The longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);
/// What it may be called.
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
/// Where its own errors go, in its profile.
const ERRORS: &str = "stderr";

/// The browser; ends with the test whatever happens.
pub struct Chromium {
    process: Child,
    say: ChildStdin,
    heard: Receiver<Value>,
    last: u64,
    // Of the page that is open.
    session: String,
    events: Vec<Value>,
    profile: tempfile::TempDir,
}

fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = NAMES.iter().find_map(|name| {
        let mut files = std::env::split_paths(&path).map(|dir| dir.join(name));
        files.find(|file| file.is_file())
    });
    found.unwrap_or_else(|| {
        panic!(
            "this test opens the status page in a browser, and none of {NAMES:?} is on the PATH. \
             On Debian: apt-get install --yes chromium"
        )
    })
}

impl Chromium {
    /// Starts one, with an empty page.
    pub fn start() -> Self {
        let profile = tempfile::tempdir().unwrap();
        // It reads from descriptor 3 and writes to 4; the shell makes them of ours.
        let mut command = Command::new("sh");
        command
            .args(["-c", "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null", "sh"])
            .arg(program())
            .args(["--headless", "--disable-gpu", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-dev-shm-usage"])
            .arg("--remote-debugging-pipe")
            .arg(format!("--user-data-dir={}", profile.path().display()));
        if rustix::process::geteuid().is_root() {
            // Its sandbox needs a user without rights. It opens our page alone.
            command.arg("--no-sandbox");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let errors = std::fs::File::create(profile.path().join(ERRORS)).unwrap();
        let mut process = command.stderr(errors).spawn().unwrap();
        let (tell, heard) = channel();
        let mut from = BufReader::new(process.stdout.take().unwrap());
        std::thread::spawn(move || {
            let mut text = Vec::new();
            // Ends with the browser, or when nobody listens any more.
            while from.read_until(0, &mut text).is_ok_and(|read| read > 0) {
                text.pop();
                let message = serde_json::from_slice(&text).unwrap();
                if tell.send(message).is_err() {
                    return;
                }
                text.clear();
            }
        });
        let mut chromium = Self {
            say: process.stdin.take().unwrap(),
            process,
            heard,
            last: 0,
            session: String::new(),
            events: Vec::new(),
            profile,
        };
        let made = chromium.ask("Target.createTarget", json!({"url": "about:blank"}));
        let attach = json!({"targetId": made["targetId"], "flatten": true});
        let attached = chromium.ask("Target.attachToTarget", attach);
        chromium.session = attached["sessionId"].as_str().unwrap().to_owned();
        for part in ["Page", "Runtime", "Network", "Log", "DOM"] {
            chromium.ask(&format!("{part}.enable"), json!({}));
        }
        chromium
    }

    /// One command, and what it comes to.
    pub fn ask(&mut self, method: &str, parameters: Value) -> Value {
        self.last += 1;
        let mut message = json!({"id": self.last, "method": method, "params": parameters});
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        self.say
            .write_all(format!("{message}\0").as_bytes())
            .unwrap();
        self.say.flush().unwrap();
        loop {
            let heard = self.heard.recv_timeout(PATIENCE);
            let heard = heard.unwrap_or_else(|e| {
                let errors = std::fs::read_to_string(self.profile.path().join(ERRORS));
                panic!("{method}: the browser is silent: {e}\n{}", errors.unwrap())
            });
            if heard["id"] == json!(self.last) {
                assert!(heard.get("error").is_none(), "{method}: {heard}");
                return heard["result"].clone();
            }
            self.events.push(heard);
        }
    }

    /// What an expression of JavaScript comes to, in the page.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let parameters =
            json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.ask("Runtime.evaluate", parameters);
        assert!(
            answer.get("exceptionDetails").is_none(),
            "{expression}: {answer}"
        );
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    pub fn wait_for(&mut self, expression: &str) {
        let end = Instant::now() + PATIENCE;
        while self.evaluate(expression) != json!(true) {
            assert!(
                Instant::now() < end,
                "never so: {expression}\n{}",
                self.html()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Opens an address, and waits until it is loaded.
    pub fn open(&mut self, url: &str) {
        self.events.clear();
        let answer = self.ask("Page.navigate", json!({"url": url}));
        assert!(answer.get("errorText").is_none(), "{url}: {answer}");
        self.wait_for_events("Page.loadEventFired", 1);
    }

    /// Waits until so many events of a kind came since the page was opened.
    pub fn wait_for_events(&mut self, method: &str, times: usize) {
        let end = Instant::now() + PATIENCE;
        while self.events(method).count() < times {
            let left = end.saturating_duration_since(Instant::now());
            let heard = self.heard.recv_timeout(left);
            self.events
                .push(heard.unwrap_or_else(|e| panic!("{method} does not come: {e}")));
        }
    }

    /// The events of a kind since the page was opened: what each says.
    pub fn events(&self, method: &str) -> impl Iterator<Item = &Value> {
        let of_kind = self.events.iter().filter(move |e| e["method"] == method);
        of_kind.map(|event| &event["params"])
    }

    /// The document as it stands, also where scripts may not run.
    pub fn html(&mut self) -> String {
        let root = self.ask("DOM.getDocument", json!({}));
        let node = json!({"nodeId": root["root"]["nodeId"]});
        let html = self.ask("DOM.getOuterHTML", node);
        html["outerHTML"].as_str().unwrap().to_owned()
    }

    /// Where `SCREENSHOTS` names a folder: a picture of the whole page in it, for a
    /// person to look at.
    pub fn picture(&mut self, name: &str) {
        use base64::Engine;
        let Some(folder) = std::env::var_os("SCREENSHOTS") else {
            return;
        };
        let whole = json!({"format": "png", "captureBeyondViewport": true});
        let picture = self.ask("Page.captureScreenshot", whole);
        let engine = base64::engine::general_purpose::STANDARD;
        let png = engine.decode(picture["data"].as_str().unwrap()).unwrap();
        std::fs::write(PathBuf::from(folder).join(format!("{name}.png")), png).unwrap();
    }

    /// What the browser holds against the page since it was opened: errors of its
    /// script, of its policy, of what it loads. Asked of our host alone.
    pub fn complaints(&self, origin: &str) -> Vec<String> {
        let thrown = self.events("Runtime.exceptionThrown").map(Value::to_string);
        let entries = self.events("Log.entryAdded").map(|said| &said["entry"]);
        let logged = entries.filter(|entry| entry["level"] == "error");
        let asked = self.events("Network.requestWillBeSent");
        let urls = asked.map(|said| said["request"]["url"].as_str().unwrap());
        let elsewhere = urls.filter(|url| !url.starts_with(origin));
        thrown
            .chain(logged.map(Value::to_string))
            .chain(elsewhere.map(|url| format!("asks for {url}")))
            .collect()
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        // Fails if it has ended already, which is as well.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
