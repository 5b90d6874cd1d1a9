//! Ports that nobody uses.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::Mutex;

/// Below the range that Linux gives to outgoing connections: a killed server's
/// port must still be free when it is started again.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// A port that is free on all of these addresses and was not given before.
///
/// Another process may take it before it is used: whoever starts a server on it
/// tries another when the server says that it is in use.
pub fn free(addresses: &[&str]) -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap();
    for _ in 0..1000 {
        let port = rand::random_range(RANGE);
        let is_free = |address: &&str| TcpListener::bind((*address, port)).is_ok();
        if !given.contains(&port) && addresses.iter().all(is_free) {
            given.insert(port);
            return port;
        }
    }
    panic!("no port in {RANGE:?} is free on {addresses:?}");
}
