//! The proxy does to a connection what its modes say.

use std::error::Error;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use scylla::client::session_builder::SessionBuilder;

use crate::services::{Mode, Proxy, cassandra};

/// How long a test listens for an answer that must not come.
const SILENCE: Duration = Duration::from_millis(100);

/// The longest that anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that sends back what it gets, and a proxy in front of it.
fn echo() -> Proxy {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut back = stream.try_clone().unwrap();
                // Ends with an error when the proxy resets it.
                let _ = std::io::copy(&mut stream, &mut back);
            });
        }
    });
    Proxy::start(target.to_string())
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.addr()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// What comes back for `question`.
fn ask(stream: &mut TcpStream, question: &[u8]) -> Vec<u8> {
    stream.write_all(question).unwrap();
    let mut answer = vec![0; question.len()];
    stream.read_exact(&mut answer).unwrap();
    answer
}

fn ends_with_reset(stream: &mut TcpStream) {
    let error = stream.read(&mut [0; 1]).expect_err("no answer and no end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn pass_changes_nothing() {
    let proxy = echo();
    let mut stream = connect(&proxy);
    let long = vec![7; 1 << 20];
    let mut sender = stream.try_clone().unwrap();
    let sent = long.clone();
    let sending = std::thread::spawn(move || {
        sender.write_all(&sent).unwrap();
        sender.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    sending.join().unwrap();
    assert!(answer == long);
    assert_eq!((proxy.accepted(), proxy.resets()), (1, 0));
}

#[test]
fn cut_ends_connections_and_refuses_new_ones() {
    let proxy = echo();
    let mut stream = connect(&proxy);
    assert_eq!(ask(&mut stream, b"one"), b"one");
    proxy.set(Mode::Cut);
    ends_with_reset(&mut stream);
    let refused = TcpStream::connect(proxy.addr()).expect_err("nobody listens");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    proxy.set(Mode::Pass);
    assert_eq!(ask(&mut connect(&proxy), b"two"), b"two");
}

#[test]
fn delay_holds_each_direction_up() {
    const DELAY: Duration = Duration::from_millis(150);
    let proxy = echo();
    let mut stream = connect(&proxy);
    assert_eq!(ask(&mut stream, b"one"), b"one");
    proxy.set(Mode::Delay(DELAY));
    let begin = Instant::now();
    assert_eq!(ask(&mut stream, b"two"), b"two");
    assert!(begin.elapsed() >= 2 * DELAY, "{:?}", begin.elapsed());
}

#[test]
fn half_open_takes_everything_and_never_answers() {
    let proxy = echo();
    let mut old = connect(&proxy);
    assert_eq!(ask(&mut old, b"one"), b"one");
    proxy.set(Mode::HalfOpen);
    let mut new = connect(&proxy);
    for stream in [&mut old, &mut new] {
        stream.write_all(b"two").unwrap();
    }
    let begin = Instant::now();
    while proxy.swallowed() < 6 {
        assert!(begin.elapsed() < PATIENCE, "{}", proxy.swallowed());
        std::thread::sleep(Duration::from_millis(1));
    }
    for stream in [&mut old, &mut new] {
        stream.set_read_timeout(Some(SILENCE)).unwrap();
        let silent = stream.read(&mut [0; 1]).expect_err("an answer or an end");
        assert_eq!(silent.kind(), ErrorKind::WouldBlock);
    }
    proxy.set(Mode::Pass);
    for stream in [&mut old, &mut new] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        ends_with_reset(stream);
    }
    assert_eq!(ask(&mut connect(&proxy), b"three"), b"three");
}

#[test]
fn reset_comes_in_the_middle_of_an_answer() {
    let proxy = echo();
    let mut stream = connect(&proxy);
    assert_eq!(ask(&mut stream, b"one"), b"one");
    proxy.set(Mode::ResetAfter(4));
    stream.write_all(b"two-three").unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"two-");
    ends_with_reset(&mut stream);
    assert_eq!(proxy.resets(), 1);
}

#[tokio::test]
async fn a_driver_behind_it_loses_the_store_and_finds_it_again() -> Result<(), Box<dyn Error>> {
    let proxy = Proxy::start(cassandra().node());
    let session = SessionBuilder::new().known_node(proxy.addr().to_string());
    let session = session.build().await?;
    let select = "select release_version from system.local";
    session.query_unpaged(select, ()).await?;
    proxy.set(Mode::Cut);
    // All of its connections go through the proxy.
    let lost = session.query_unpaged(select, ()).await;
    assert!(lost.is_err(), "the driver knows another way");
    proxy.set(Mode::Pass);
    let begin = Instant::now();
    while let Err(error) = session.query_unpaged(select, ()).await {
        assert!(begin.elapsed() < PATIENCE, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
