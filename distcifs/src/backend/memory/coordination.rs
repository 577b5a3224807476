//! A mount as a coordination service.

use tokio::sync::watch;
use tokio::task::yield_now;

use super::seat::Seat;
use super::{Handle, MemoryMount, State};
use crate::storage::bounds::{check_commit, check_path};
use crate::storage::{Commit, Coordination, Entry, Error, Fut, Op, Result, Session, Watch};

impl Coordination for MemoryMount {
    fn get(&self, path: &str) -> Fut<'_, Option<Entry>> {
        let path = path.to_owned();
        Box::pin(async move {
            check_path(&path)?;
            self.0
                .look(&format!("get {path}"), |seat| seat.entries.get(&path))
                .await
        })
    }

    fn children(&self, path: &str) -> Fut<'_, Vec<String>> {
        let path = path.to_owned();
        Box::pin(async move {
            check_path(&path)?;
            self.0
                .look(&format!("list {path}"), |seat| seat.entries.children(&path))
                .await
        })
    }

    /// A commit whose future is dropped has happened or not.
    fn commit(&self, ops: Vec<Op>) -> Fut<'_, Commit> {
        Box::pin(async move {
            let what = check_commit(&ops)?;
            let handle = &self.0;
            yield_now().await;
            let committed = handle.reach(&what, |state| {
                let seat = state.seats.get(&handle.seat);
                let session = seat.and_then(|seat| seat.live(&state.coordinator));
                let session = session.ok_or_else(|| Error::Expired { what: what.clone() })?;
                Ok(state.commit(handle.seat, session, ops))
            })??;
            handle.servers.tell_mounts();
            yield_now().await;
            // It was done, and nobody says so.
            handle.reach(&what, |_| ()).map_err(|_| Error::Indeterminate {
                what: what.clone(),
                why: "the connection was lost".to_owned(),
            })?;
            Ok(committed.map_or_else(|index| Commit::Mismatch { index }, |()| Commit::Done))
        })
    }

    fn watch(&self, path: &str) -> Fut<'_, Watch> {
        let path = path.to_owned();
        Box::pin(async move {
            check_path(&path)?;
            let watch = |seat: &mut Seat| {
                // What was seen before is nothing for this one.
                seat.tell();
                seat.watches.add(&path)
            };
            self.0.look(&format!("watch {path}"), watch).await
        })
    }

    fn sync(&self) -> Fut<'_, ()> {
        Box::pin(self.0.look("sync", Seat::catch_up))
    }

    fn session(&self) -> watch::Receiver<Session> {
        self.0.publish();
        self.0.session.subscribe()
    }
}

impl Handle {
    /// Asks the coordinator, unless this mount is cut off.
    fn reach<T>(&self, what: &str, ask: impl FnOnce(&mut State) -> T) -> Result<T> {
        let mut state = self.servers.state();
        if state.seats.get(&self.seat).is_none_or(Seat::is_cut) {
            let (what, why) = (what.to_owned(), "the connection was lost".to_owned());
            return Err(Error::Unavailable { what, why });
        }
        Ok(ask(&mut state))
    }

    /// Looks at what this mount sees.
    async fn look<T>(&self, what: &str, look: impl FnOnce(&mut Seat) -> T) -> Result<T> {
        yield_now().await;
        let seen = self.reach(what, |state| state.seats.get_mut(&self.seat).map(look))?;
        yield_now().await;
        self.reach(what, |_| ())?;
        seen.ok_or_else(|| Error::Unavailable {
            what: what.to_owned(),
            why: "the mount is gone".to_owned(),
        })
    }
}
