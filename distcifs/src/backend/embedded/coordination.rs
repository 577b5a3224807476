//! The store as a coordination service.

use tokio::sync::watch;

use super::Embedded;
use super::committer::Accepted;
use super::names::{check_path, refused};
use crate::storage::coordination::{COMMIT_OPS_MAX, ENTRY_BYTES_MAX};
use crate::storage::{Commit, Coordination, Entry, Error, Fut, Op, Result, Session, Watch};

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
            let what = check(&ops)?;
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

    /// There is no other mount, and reads here see every commit at once.
    fn sync(&self) -> Fut<'_, ()> {
        Box::pin(async { Ok(()) })
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

/// Checks the bounds, and gives the commit a name for errors: that of its first operation.
fn check(ops: &[Op]) -> Result<String> {
    if ops.len() > COMMIT_OPS_MAX {
        let why = format!("a commit has {COMMIT_OPS_MAX} operations at most, not {}", ops.len());
        return Err(refused("commit", why));
    }
    for op in ops {
        let (path, data) = match op {
            Op::Create { path, data, .. } | Op::Set { path, data, .. } => (path, data.len()),
            Op::Delete { path, .. } | Op::Check { path, .. } => (path, 0),
        };
        check_path(path)?;
        if data > ENTRY_BYTES_MAX {
            let why = format!("an entry has {ENTRY_BYTES_MAX} bytes at most, not {data}");
            return Err(refused(path, why));
        }
    }
    Ok(match ops.first() {
        Some(Op::Create { path, .. }) => format!("create {path}"),
        Some(Op::Set { path, .. }) => format!("set {path}"),
        Some(Op::Delete { path, .. }) => format!("delete {path}"),
        Some(Op::Check { path, .. }) => format!("check {path}"),
        None => "commit".to_owned(),
    })
}
