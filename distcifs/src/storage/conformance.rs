//! What every store must do, as functions that each backend's tests call.
//!
//! Each function works below names of its own, so that the store need not be empty, and panics
//! where the store breaks its promise.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "an assertion of this suite that fails has to end the test that called it"
)]

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Contents, Coordination};

mod consoles;
mod entries;
mod notices;
mod objects;
mod records;
mod watches;

pub use consoles::*;
pub use entries::*;
pub use notices::*;
pub use objects::*;
pub use records::*;
pub use watches::*;

/// How long a notice may take to arrive: a store on three busy machines answers in far less.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs everything that is asked of a coordination service.
pub async fn all_coordination(store: &dyn Coordination) {
    makes_and_reads_entries(store).await;
    lists_children(store).await;
    guards_by_version(store).await;
    commits_all_or_nothing(store).await;
    sees_its_own_operations_in_order(store).await;
    tells_the_first_mismatch(store).await;
    keeps_ephemeral_entries_childless(store).await;
    orders_creations(store).await;
    lets_one_racer_win(store).await;
    refuses_entries_out_of_bounds(store).await;
    refuses_malformed_paths(store).await;
    has_a_live_session(store).await;
    notifies_in_order(store).await;
    watches_whole_components(store).await;
    notifies_nothing_of_a_mismatch(store).await;
    tells_a_laggard_to_look_again(store).await;
}

/// Runs everything that is asked of a store of contents.
pub async fn all_contents(store: &dyn Contents) {
    puts_and_reads_blobs(store).await;
    reads_ranges(store).await;
    refuses_wrong_blobs(store).await;
    removes_blobs(store).await;
    lists_blobs(store).await;
    syncs_what_is_there_and_what_is_not(store).await;
    appends_under_the_guard(store).await;
    tells_where_consoles_stand(store).await;
    seals_consoles(store).await;
    lets_one_appender_win(store).await;
    lists_and_removes_consoles(store).await;
    refuses_odd_names(store).await;
    guards_records_by_revision(store).await;
    changes_keys_together(store).await;
    pages_through_a_record(store).await;
    lets_one_updater_win(store).await;
    lists_and_removes_records(store).await;
    refuses_records_out_of_bounds(store).await;
    tells_of_every_kind_of_change(store).await;
    tells_many_changes_as_one(store).await;
    tells_every_listener_and_no_other(store).await;
    refuses_to_listen_to_what_never_changes(store).await;
}

/// A word that no other call has returned, on this machine or another.
fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (pid, count) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    format!("t{:x}p{pid}c{count}", now.as_nanos())
}

/// Waits for all futures at once, on the caller's task.
async fn join_all<T: Unpin>(futures: Vec<Pin<Box<dyn Future<Output = T> + Send + '_>>>) -> Vec<T> {
    let mut running: Vec<_> = futures.into_iter().map(|future| (Some(future), None)).collect();
    poll_fn(move |cx| {
        for (future, result) in &mut running {
            if let Some(Poll::Ready(value)) = future.as_mut().map(|f| f.as_mut().poll(cx)) {
                (*future, *result) = (None, Some(value));
            }
        }
        if running.iter().any(|(future, _)| future.is_some()) {
            return Poll::Pending;
        }
        Poll::Ready(running.iter_mut().filter_map(|(_, result)| result.take()).collect())
    })
    .await
}
