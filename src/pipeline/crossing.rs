//! The one place where work goes from the async runtime to the compute threads
//! and back.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, oneshot};

use crate::pipeline::TaskError;
use crate::replay;

/// Has one piece of work done on the compute threads.
pub(super) async fn cross_once<O: Send + 'static>(
    pool: &rayon::ThreadPool,
    work: impl FnOnce() -> O + Send + 'static,
) -> Result<O, TaskError> {
    hand_over(pool, work).await.map_err(|_| TaskError::Compute)
}

/// A panic of the work must cost the task, not the process: its answer is then
/// an error. What is behind it is dropped with it, and the task is taken up again
/// at its checkpoint.
fn hand_over<O: Send + 'static>(
    pool: &rayon::ThreadPool,
    work: impl FnOnce() -> O + Send + 'static,
) -> oneshot::Receiver<O> {
    let (done, answer) = oneshot::channel();
    let run = move || {
        if let Ok(result) = catch_unwind(AssertUnwindSafe(work)) {
            // Nobody listens any more if the task was dropped meanwhile.
            let _ = done.send(result);
        }
    };
    if replay::is_on() {
        run();
    } else {
        pool.spawn(run);
    }
    answer
}

/// Items handed over at once at most. Real pages are small: one by one, the
/// hand-over would cost more than the work.
const ITEMS_AT_ONCE: usize = 32;

/// Applies `work` to every item on the compute threads. Items of one hand-over
/// keep their order; hand-overs may overtake each other.
pub(super) async fn cross<I, O>(
    pool: Arc<rayon::ThreadPool>,
    mut items: mpsc::Receiver<I>,
    out: mpsc::Sender<O>,
    work: impl Fn(I) -> O + Send + Sync + 'static,
) -> Result<(), TaskError>
where
    I: Send + 'static,
    O: Send + 'static,
{
    let work = Arc::new(work);
    let most = pool.current_num_threads() * 2;
    let mut computing: FuturesUnordered<oneshot::Receiver<Vec<O>>> = FuturesUnordered::new();
    let mut buffer = Vec::with_capacity(ITEMS_AT_ONCE);
    let mut more = true;
    loop {
        tokio::select! {
            biased;
            Some(results) = computing.next(), if !computing.is_empty() => {
                for result in results.map_err(|_| TaskError::Compute)? {
                    if out.send(result).await.is_err() {
                        return Ok(());
                    }
                }
            }
            n = items.recv_many(&mut buffer, ITEMS_AT_ONCE), if more && computing.len() < most => {
                if n == 0 {
                    more = false;
                    continue;
                }
                let batch: Vec<I> = std::mem::take(&mut buffer);
                let work = work.clone();
                let all = move || batch.into_iter().map(|item| work(item)).collect::<Vec<O>>();
                computing.push(hand_over(&pool, all));
            }
            else => return Ok(()),
        }
    }
}
