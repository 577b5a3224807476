//! ZooKeeper as a coordination service.

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::timeout;
use zookeeper_client::{Client, CreateMode, Error as ClientError, MultiReadResult, MultiWriteError, MultiWriter, Stat};

use super::calls::{CALL_MAX, is_lost, refusal, slow, unavailable};
use super::{Shared, Zookeeper, clock};
use crate::storage::bounds::{check_commit, check_path, refused};
use crate::storage::{Commit, Coordination, Entry, Error, Fut, Op, Result, Session, Watch};

/// Most bytes of a commit. A server ends the connection of a client that sends more than its
/// jute.maxbuffer, 1,048,575 bytes unless it was changed.
const COMMIT_BYTES_MAX: usize = 1_000_000;

/// Bytes that an operation takes beside its path and data: lengths, versions and the owner.
const OP_BYTES: usize = 64;

/// Entries read in one request: with the largest of each the answer has 256 KiB.
const TOGETHER_MAX: usize = 64;

impl Coordination for Zookeeper {
    fn get(&self, path: &str) -> Fut<'_, Option<Entry>> {
        let path = path.to_owned();
        Box::pin(async move {
            check_path(&path)?;
            let get = |client: Client| {
                let path = path.clone();
                async move {
                    match client.get_data(&path).await {
                        Ok((data, stat)) => Ok(Some(entry(data, &stat))),
                        Err(ClientError::NoNode) => Ok(None),
                        Err(error) => Err(error),
                    }
                }
            };
            self.shared().read(&format!("get {path}"), get).await
        })
    }

    fn get_all(&self, paths: Vec<String>) -> Fut<'_, Vec<Option<Entry>>> {
        Box::pin(async move {
            paths.iter().try_for_each(|path| check_path(path))?;
            let mut entries = Vec::with_capacity(paths.len());
            for paths in paths.chunks(TOGETHER_MAX) {
                let what = format!("get {} and others", paths[0]);
                let read = |client: Client| async move { read_together(&client, paths).await };
                entries.append(&mut self.shared().read(&what, read).await?);
            }
            Ok(entries)
        })
    }

    fn children(&self, path: &str) -> Fut<'_, Vec<String>> {
        let path = path.to_owned();
        Box::pin(async move {
            check_path(&path)?;
            let list = |client: Client| {
                let path = path.clone();
                async move {
                    match client.list_children(&path).await {
                        Err(ClientError::NoNode) => Ok(Vec::new()),
                        other => other,
                    }
                }
            };
            self.shared().read(&format!("list {path}"), list).await
        })
    }

    /// The commit goes on when its future is dropped after it was sent.
    fn commit(&self, ops: Vec<Op>) -> Fut<'_, Commit> {
        Box::pin(async move {
            let what = check_commit(&ops)?;
            self.shared().check_bytes(&what, &ops)?;
            self.shared().commit(&what, &ops).await
        })
    }

    fn watch(&self, path: &str) -> Fut<'_, Watch> {
        let path = path.to_owned();
        Box::pin(async move {
            check_path(&path)?;
            super::watches::add(self.shared(), &path).await
        })
    }

    fn sync(&self) -> Fut<'_, ()> {
        Box::pin(self.shared().catch_up())
    }

    /// It stands as the clock says now: after a stop of the process timers are behind.
    fn session(&self) -> watch::Receiver<Session> {
        let shared = self.shared();
        shared.publish(&shared.link());
        shared.session.subscribe()
    }
}

impl Shared {
    /// A commit can't be split, so one that no server takes is refused here.
    fn check_bytes(&self, what: &str, ops: &[Op]) -> Result<()> {
        let root = self.access.options.chroot.len();
        let bytes = ops.iter().map(|op| {
            root + OP_BYTES
                + match op {
                    Op::Create { path, data, .. } | Op::Set { path, data, .. } => path.len() + data.len(),
                    Op::Delete { path, .. } | Op::Check { path, .. } => path.len(),
                }
        });
        match bytes.sum::<usize>() {
            bytes if bytes <= COMMIT_BYTES_MAX => Ok(()),
            bytes => Err(refused(
                what,
                format!("a commit has {COMMIT_BYTES_MAX} bytes at most, not {bytes}"),
            )),
        }
    }

    /// Commits under the session that lives now, and under no other.
    async fn commit(&self, what: &str, ops: &[Op]) -> Result<Commit> {
        let (link, client) = self.reach(what).await?;
        let mut writer = client.new_multi_writer();
        for op in ops {
            self.add(&mut writer, op).map_err(|error| refusal(what, &error))?;
        }
        let sent = clock::now();
        let ended = match timeout(CALL_MAX, writer.commit()).await {
            Ok(ended) => ended,
            Err(_) => return Err(indeterminate(what, slow())),
        };
        match ended {
            Ok(_) => {
                link.hear(sent);
                Ok(Commit::Done)
            }
            Err(MultiWriteError::OperationFailed { index, source }) if is_mismatch(&source) => {
                link.hear(sent);
                Ok(Commit::Mismatch { index })
            }
            Err(MultiWriteError::OperationFailed { source, .. }) => Err(refused_whole(what, &source)),
            Err(MultiWriteError::RequestFailed { source }) => Err(failed(what, &source)),
        }
    }

    fn add(&self, writer: &mut MultiWriter<'_>, op: &Op) -> std::result::Result<(), ClientError> {
        match op {
            Op::Create { path, data, ephemeral } => {
                let mode = if *ephemeral {
                    CreateMode::Ephemeral
                } else {
                    CreateMode::Persistent
                };
                writer.add_create(path, data, &mode.with_acls(self.access.acls()))
            }
            Op::Set { path, data, version } => writer.add_set_data(path, data, version.map(guard)),
            // The client refuses this by itself, but the operation's turn may not come: so it is
            // made one that the server can't do either.
            Op::Delete { path, .. } if path == "/" => {
                let mode = CreateMode::Persistent.with_acls(self.access.acls());
                writer.add_create(path, b"", &mode)
            }
            Op::Delete { path, version } => writer.add_delete(path, version.map(guard)),
            Op::Check { path, version } => writer.add_check_version(path, version.map_or(ANY_VERSION, guard)),
        }
    }
}

/// Reads entries in one request.
async fn read_together(client: &Client, paths: &[String]) -> std::result::Result<Vec<Option<Entry>>, ClientError> {
    let mut reader = client.new_multi_reader();
    for path in paths {
        reader.add_get_data(path)?;
    }
    let read = reader.commit().await?.into_iter().map(|result| match result {
        MultiReadResult::Data { data, stat } => Ok(Some(entry(data, &stat))),
        MultiReadResult::Error {
            err: ClientError::NoNode,
        } => Ok(None),
        MultiReadResult::Error { err } => Err(err),
        other => Err(ClientError::UnexpectedError(format!("{other:?} in place of an entry"))),
    });
    let entries: Vec<_> = read.collect::<std::result::Result<_, _>>()?;
    // Whoever asked takes the answers by their places.
    if entries.len() == paths.len() {
        Ok(entries)
    } else {
        let why = format!("{} answers to {} questions", entries.len(), paths.len());
        Err(ClientError::UnexpectedError(why))
    }
}

fn entry(data: Vec<u8>, stat: &Stat) -> Entry {
    Entry {
        data: Bytes::from(data),
        version: stat.version.cast_unsigned(),
        created: stat.czxid.cast_unsigned(),
        ephemeral: stat.ephemeral_owner != 0,
    }
}

/// What ZooKeeper takes for "any version".
const ANY_VERSION: i32 = -1;

/// A version as ZooKeeper counts it. It takes -1 for any, so that becomes a version that no entry
/// has.
fn guard(version: u32) -> i32 {
    match version.cast_signed() {
        -1 => i32::MIN,
        version => version,
    }
}

/// Whether an operation met something else than it asked for.
fn is_mismatch(error: &ClientError) -> bool {
    use ClientError as E;
    matches!(
        error,
        E::NoNode | E::NodeExists | E::BadVersion | E::NotEmpty | E::NoChildrenForEphemerals
    )
}

/// The error of a commit that a server refused: none of it happened, whatever the reason.
fn refused_whole(what: &str, error: &ClientError) -> Error {
    match error {
        ClientError::SessionExpired => expired(what),
        other if is_lost(other) => unavailable(what, &other.to_string()),
        other => refusal(what, other),
    }
}

/// The error of a commit that failed as a whole.
fn failed(what: &str, error: &ClientError) -> Error {
    use ClientError as E;
    match error {
        // Requests are served in their order: one that meets the end of its session has not been,
        // and neither has one that was never sent.
        E::SessionExpired | E::ClientClosed => expired(what),
        E::SessionMoved | E::NotReadOnly | E::Throttled => unavailable(what, &error.to_string()),
        other if is_lost(other) => indeterminate(what, other.to_string()),
        other => refusal(what, other),
    }
}

fn expired(what: &str) -> Error {
    Error::Expired { what: what.to_owned() }
}

fn indeterminate(what: &str, why: String) -> Error {
    Error::Indeterminate {
        what: what.to_owned(),
        why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a server refuses did not happen; what nobody answered may have.
    #[test]
    fn each_error_says_whether_it_happened() {
        use ClientError as E;
        let lost = [E::ConnectionLoss, E::Timeout, E::UnexpectedErrorCode(-1), E::AuthFailed];
        for error in lost {
            assert!(failed("a", &error).is_indeterminate(), "{error}");
            assert!(
                matches!(refused_whole("a", &error), Error::Unavailable { .. }),
                "{error}"
            );
        }
        for error in [E::SessionMoved, E::NotReadOnly, E::Throttled] {
            assert!(matches!(failed("a", &error), Error::Unavailable { .. }), "{error}");
        }
        let both = |error: &E| [failed("a", error), refused_whole("a", error)];
        for error in both(&E::SessionExpired) {
            assert_eq!(error, expired("a"));
        }
        for error in both(&E::QuotaExceeded) {
            assert!(matches!(error, Error::Full { .. }), "{error}");
        }
        for error in [E::NoAuth, E::InvalidAcl, E::BadArguments(&"path"), E::Unimplemented] {
            assert!(
                both(&error).iter().all(|error| matches!(error, Error::Refused { .. })),
                "{error}"
            );
        }
    }

    /// No version that is asked for means any to ZooKeeper.
    #[test]
    fn no_guard_is_lost_on_the_way() {
        assert_eq!([guard(0), guard(7), guard(u32::MAX >> 1)], [0, 7, i32::MAX]);
        assert!([u32::MAX, 1 << 31].iter().all(|version| guard(*version) != -1));
    }
}
