//! A small HTTP server that plays answers by script and keeps what it was asked.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// One request.
#[derive(Debug, Clone)]
pub struct Seen {
    head: String,
    pub body: String,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The operation: of KMS by its header, of STS by its form.
    pub fn operation(&self) -> &str {
        match self.header("x-amz-target") {
            Some(target) => target.trim_start_matches("TrentService."),
            None => self.form("Action").unwrap_or(""),
        }
    }

    /// A field of the form, as it stands there.
    pub fn form(&self, name: &str) -> Option<&str> {
        let pair = |pair: &'_ str| {
            pair.split_once('=')
                .filter(|(key, _)| *key == name)
                .is_some()
        };
        let found = self.body.split('&').find(|text| pair(text))?;
        found.split_once('=').map(|(_, value)| value)
    }

    /// Access key id, Region and service of the signature.
    pub fn signed_for(&self) -> (&str, &str, &str) {
        let header = self.header("authorization").unwrap();
        let scope = header.split("Credential=").nth(1).unwrap();
        let mut parts = scope.split('/');
        let (id, region) = (parts.next().unwrap(), parts.nth(1).unwrap());
        (id, region, parts.next().unwrap())
    }
}

/// What is played.
#[derive(Clone)]
pub enum Answer {
    /// An answer.
    Http {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: String,
    },
    /// The connection is reset before the request is read.
    Reset,
    /// Nothing, for as long as the client waits.
    Silence,
    /// The start of an answer, then the end of the connection.
    Cut,
}

impl Answer {
    pub fn http(status: u16, body: impl ToString) -> Self {
        let headers = vec![("x-amzn-requestid", "req-1".to_owned())];
        let body = body.to_string();
        Answer::Http {
            status,
            headers,
            body,
        }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        if let Answer::Http { headers, .. } = &mut self {
            headers.push((name, value.into()));
        }
        self
    }
}

type Script = dyn Fn(&Seen) -> Answer + Send + Sync;

/// The server. It ends with the test's runtime.
pub struct Canned {
    pub endpoint: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Canned {
    pub async fn playing(script: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let script: Arc<Script> = Arc::new(script);
        let all = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, script.clone(), all.clone()));
            }
        });
        Self { endpoint, seen }
    }

    /// Always the same answer.
    pub async fn always(answer: Answer) -> Self {
        Self::playing(move |_| answer.clone()).await
    }

    /// What was asked so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The requests of one operation.
    pub fn seen_of(&self, operation: &str) -> Vec<Seen> {
        let mut seen = self.seen();
        seen.retain(|request| request.operation() == operation);
        seen
    }
}

async fn serve(mut stream: TcpStream, script: Arc<Script>, all: Arc<Mutex<Vec<Seen>>>) {
    while let Some(seen) = request(&mut stream).await {
        all.lock().unwrap().push(seen.clone());
        match script(&seen) {
            // `request` leaves the last byte unread, so this resets.
            Answer::Reset => return,
            Answer::Silence => std::future::pending().await,
            Answer::Cut => {
                let half = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"KeyId\":";
                let _ = stream.write_all(half).await;
                return;
            }
            Answer::Http {
                status,
                headers,
                body,
            } => {
                let mut last = [0];
                stream.read_exact(&mut last).await.unwrap();
                let mut text = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n", body.len());
                for (name, value) in headers {
                    text += &format!("{name}: {value}\r\n");
                }
                text += "\r\n";
                text += &body;
                if stream.write_all(text.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Reads one request but for the last byte of its body. Every request of these
/// protocols has a body.
async fn request(stream: &mut TcpStream) -> Option<Seen> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(bytes).unwrap();
    let seen = Seen {
        head,
        body: String::new(),
    };
    let length: usize = seen.header("content-length")?.parse().unwrap();
    let mut body = vec![0; length];
    // The last byte is peeked at, for the record, and stays.
    stream.read_exact(&mut body[..length - 1]).await.ok()?;
    if stream.peek(&mut body[length - 1..]).await.ok()? == 0 {
        return None;
    }
    Some(Seen {
        body: String::from_utf8(body).unwrap(),
        ..seen
    })
}
