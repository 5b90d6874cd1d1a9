//! One look-up at a time for one thing: who asks while it runs gets its answer.
//!
//! The look-up runs as a task of its own. So it is finished when its first asker
//! goes away, and a new data key is stored even if nobody waits for it any more.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};

use super::error::ErrorKind;

type Answer<V> = Result<V, ErrorKind>;
type Running<V> = Shared<BoxFuture<'static, Answer<V>>>;

pub(super) struct Flights<K, V: Clone>(Arc<Mutex<HashMap<K, Running<V>>>>);

/// Takes the flight off the list when it ends, however it ends.
struct Landing<K: Hash + Eq, V: Clone> {
    key: K,
    running: Arc<Mutex<HashMap<K, Running<V>>>>,
}

impl<K: Hash + Eq, V: Clone> Drop for Landing<K, V> {
    fn drop(&mut self) {
        lock(&self.running).remove(&self.key);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds the lock can panic half way through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K, V> Flights<K, V>
where
    K: Hash + Eq + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    /// The answer, and whether this call is the one that started the look-up.
    pub(super) async fn run<F>(&self, key: K, start: impl FnOnce() -> F) -> (Answer<V>, bool)
    where
        F: Future<Output = Answer<V>> + Send + 'static,
    {
        let (flight, mine) = {
            let mut running = lock(&self.0);
            match running.get(&key) {
                Some(flight) => (flight.clone(), false),
                None => {
                    let landing = Landing {
                        key: key.clone(),
                        running: self.0.clone(),
                    };
                    let look_up = start();
                    // The task takes itself off the list; it cannot do so
                    // before it stands there, since that takes the same lock.
                    let task = tokio::spawn(async move {
                        let _landing = landing;
                        look_up.await
                    });
                    let flight = task
                        .map(|ended| {
                            ended.unwrap_or_else(|_| {
                                Err(ErrorKind::Fatal("a look-up ended abruptly".to_owned()))
                            })
                        })
                        .boxed()
                        .shared();
                    running.insert(key, flight.clone());
                    (flight, true)
                }
            }
        };
        (flight.await, mine)
    }
}
