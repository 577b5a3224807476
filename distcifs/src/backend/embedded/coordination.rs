//! The store as a coordination service.

use tokio::sync::watch;

use super::Embedded;
use super::committer::Accepted;
use crate::storage::bounds::{check_commit, check_path};
use crate::storage::{Commit, Coordination, Entry, Error, Fut, Op, Session, Watch};

impl Coordination for Embedded {
    fn get(&self, path: &str) -> Fut<'_, Option<Entry>> {
        let path = path.to_owned();
        Box::pin(async move {
            check_path(&path)?;
            Ok(self.core.shared.committer.state(|state| state.entries.get(&path)))
        })
    }

    fn children(&self, path: &str) -> Fut<'_, Vec<String>> {
        let path = path.to_owned();
        Box::pin(async move {
            check_path(&path)?;
            Ok(self.core.shared.committer.state(|state| state.entries.children(&path)))
        })
    }

    /// The commit goes on when its future is dropped after the first poll.
    fn commit(&self, ops: Vec<Op>) -> Fut<'_, Commit> {
        Box::pin(async move {
            let what = check_commit(&ops)?;
            match self.core.shared.committer.commit(what, ops)? {
                Accepted::Ended(commit) => Ok(commit),
                Accepted::Waits(done) => {
                    done.await.map_err(|_| closed("commit"))??;
                    Ok(Commit::Done)
                }
            }
        })
    }

    fn watch(&self, path: &str) -> Fut<'_, Watch> {
        let path = path.to_owned();
        Box::pin(async move {
            check_path(&path)?;
            Ok(self.core.shared.committer.state(|state| state.watches.add(&path)))
        })
    }

    /// There is no other mount, and reads here see every commit at once: what is waited for is that
    /// they are durable.
    fn sync(&self) -> Fut<'_, ()> {
        Box::pin(async move {
            match self.core.shared.committer.commit("sync".to_owned(), Vec::new())? {
                Accepted::Ended(_) => Ok(()),
                Accepted::Waits(done) => done.await.map_err(|_| closed("sync"))?.map(|_| ()),
            }
        })
    }

    fn session(&self) -> watch::Receiver<Session> {
        self.core.shared.session.subscribe()
    }
}

/// The error of a call whose answer never came.
pub(super) fn closed(what: &str) -> Error {
    let why = "the store closed".to_owned();
    Error::Indeterminate {
        what: what.to_owned(),
        why,
    }
}
