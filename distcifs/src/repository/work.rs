//! How work goes on side by side, and is tried again: bounds and pauses that several share.

use std::future::{Future, poll_fn};
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::Error;
use super::deadline::carried;

/// Pause before acting on a notice is tried again; it doubles each time.
pub(super) const FOLLOW_PAUSE: Duration = Duration::from_millis(200);

/// Longest such pause.
pub(super) const FOLLOW_PAUSE_MAX: Duration = Duration::from_secs(5);

/// Tries to act on a notice: about ten minutes of them.
pub(super) const FOLLOW_TRIES: u32 = 120;

/// Reads under way at once while many tickets are looked at.
pub(crate) const READS_MAX: usize = 64;

/// Races lost against others who change the same entry or record before one gives up (EBUSY): the list of jobs, a
/// job's counter, owner and mode of a queue or a top folder. Each lost race is another's success, so this many in a
/// row mean that somebody changes it in a loop.
pub(super) const RACES_MAX: u32 = 1000;

/// Waits for all futures side by side, on the caller's task; what came of them, in their order.
pub(crate) async fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    poll_fn(move |cx| {
        let mut waits = false;
        for (future, done) in &mut running {
            if done.is_none() {
                match future.as_mut().poll(cx) {
                    Poll::Ready(value) => *done = Some(value),
                    Poll::Pending => waits = true,
                }
            }
        }
        if waits {
            return Poll::Pending;
        }
        Poll::Ready(running.iter_mut().filter_map(|(_, done)| done.take()).collect())
    })
    .await
}

/// Does something for each item, [`READS_MAX`] of them at once, by the deadline of what is being answered; what
/// came of them, in no order.
pub(crate) async fn in_parallel<I, T, F>(items: impl IntoIterator<Item = I>, action: impl FnMut(I) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    in_turns(items, READS_MAX, action).await
}

/// The same with `most` of them at once.
pub(crate) async fn in_turns<I, T, F>(
    items: impl IntoIterator<Item = I>,
    most: usize,
    mut action: impl FnMut(I) -> F,
) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let mut running = JoinSet::new();
    let mut done = Vec::new();
    for item in items {
        if running.len() >= most {
            done.extend(running.join_next().await.and_then(Result::ok));
        }
        running.spawn(carried(action(item)));
    }
    while let Some(ended) = running.join_next().await {
        // One that panicked gives nothing; the runtime has said so.
        done.extend(ended);
    }
    done
}

/// Looks at something again in the background, until the store answers.
pub(crate) fn again_later<F>(runtime: &Handle, what: String, mut error: Error, look: impl Fn() -> F + Send + 'static)
where
    F: Future<Output = super::Result<()>> + Send,
{
    runtime.spawn(async move {
        let mut pause = FOLLOW_PAUSE;
        for tries in 1..=FOLLOW_TRIES {
            if tries.is_power_of_two() {
                tracing::warn!(%error, what, tries, "following the coordinator: trying again");
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(FOLLOW_PAUSE_MAX);
            match look().await {
                Ok(()) => return,
                Err(again) => error = again,
            }
        }
        tracing::error!(%error, what, "given up; run distcifs fsck");
    });
}
