//! Calls of the coordinator and of the store of contents: within their bound, again where nobody knows, and from
//! memory what is followed.

use bytes::Bytes;

use super::Store;
use crate::repository::core::{SETTLE_PAUSE, bounded, settled};
use crate::repository::deadline::Deadline;
use crate::repository::model::keys::Key;
use crate::repository::model::ops::Changes;
use crate::repository::{Error, Result};
use crate::storage::{self, Commit, Digest, Entry, Notices, Object, Op, Updated};

/// What became of a guarded change of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guarded {
    /// It happened, and the record has this revision.
    Done { revision: u64 },
    /// It did not: the record has this other revision.
    Refused { revision: u64 },
    /// Nobody knows.
    Unknown,
}

impl Store {
    /// Commits within the bound.
    ///
    /// # Errors
    /// `Io` too if this mount is one of many, and was not let in.
    pub(crate) async fn commit(&self, ops: Vec<Op>) -> Result<Commit> {
        self.check_let_in().await?;
        let _changing = self.entry_cache.changing(paths_of(&ops));
        bounded("commit", self.coordination.commit(ops)).await
    }

    /// Commits a change that its guards let happen once. Where nobody knows whether it did, asks
    /// for the entry until `ours` tells our write from anybody else's, and commits again if it is
    /// not there; a mismatch is looked at in the same way, as an earlier try may be its cause.
    ///
    /// # Errors
    /// `TimedOut` if it is still unknown at [`Deadline::of_call`]; after any other it did not happen.
    pub(crate) async fn commit_settled(
        &self,
        ops: Vec<Op>,
        path: &str,
        ours: impl Fn(Option<&Entry>) -> bool,
    ) -> Result<Commit> {
        self.check_let_in().await?;
        self.commit_entering(ops, path, ours).await
    }

    /// The same for a mount that is about to be let in by it.
    pub(crate) async fn commit_entering(
        &self,
        ops: Vec<Op>,
        path: &str,
        ours: impl Fn(Option<&Entry>) -> bool,
    ) -> Result<Commit> {
        let _changing = self.entry_cache.changing(paths_of(&ops));
        let mut unknown = false;
        let settle = async {
            loop {
                match self.coordination.commit(ops.clone()).await {
                    Ok(Commit::Done) => return Ok(Commit::Done),
                    Ok(Commit::Mismatch { index }) => match self.get_settled(path, unknown).await {
                        Ok(entry) if ours(entry.as_ref()) => return Ok(Commit::Done),
                        Ok(_) => return Ok(Commit::Mismatch { index }),
                        Err(error) if !unknown => return Err(error),
                        Err(_) => {}
                    },
                    Err(error) if !unknown && !error.is_indeterminate() => return Err(error.into()),
                    Err(_) => {
                        unknown = true;
                        if self
                            .get_settled(path, true)
                            .await
                            .is_ok_and(|entry| ours(entry.as_ref()))
                        {
                            return Ok(Commit::Done);
                        }
                    }
                }
                tokio::time::sleep(SETTLE_PAUSE).await;
            }
        };
        match Deadline::of_call().wait(settle).await {
            Some(settled) => settled,
            None => Err(Error::TimedOut(
                format!("{path}: nobody knows whether it was changed").into(),
            )),
        }
    }

    /// Reads an entry as it is everywhere; `elsewhere`: whether another server may have it and ours not yet.
    pub(crate) async fn get_settled(&self, path: &str, elsewhere: bool) -> Result<Option<Entry>> {
        let read = async {
            if elsewhere {
                self.coordination.sync().await?;
            }
            self.coordination.get(path).await
        };
        bounded(path, read).await
    }

    /// Changes keys of a record, whatever its revision. What it sets is the same however often it
    /// is done: so it is done again when nobody knows.
    pub(crate) async fn update(&self, what: &str, object: &Object, changes: Changes) -> Result<()> {
        match settled(what, || self.contents.update(object, None, changes.clone())).await? {
            Updated::Done { .. } => Ok(()),
            Updated::Mismatch { .. } => Err(Error::Io(format!("{what}: an unguarded write was refused").into())),
        }
    }

    /// Changes keys of a record if it has this revision. Where nobody knows whether it did, that is said: whoever
    /// asked reads the record then, and looks whether it has what he set.
    ///
    /// # Errors
    /// After any it did not happen.
    pub(crate) async fn update_guarded(
        &self,
        what: &str,
        object: &Object,
        revision: u64,
        changes: Changes,
    ) -> Result<Guarded> {
        match bounded(what, self.contents.update(object, Some(revision), changes)).await {
            Ok(Updated::Done { revision }) => Ok(Guarded::Done { revision }),
            Ok(Updated::Mismatch { revision }) => Ok(Guarded::Refused { revision }),
            Err(Error::TimedOut(_)) => Ok(Guarded::Unknown),
            Err(error) => Err(error),
        }
    }

    /// Returns when what was seen of an end is durable, so that nobody who was told of it ever sees
    /// it undone. A coordinator that many share shows nothing else.
    pub(crate) async fn seen_for_good(&self) -> Result<()> {
        if self.shared {
            return Ok(());
        }
        bounded("sync", self.coordination.sync()).await
    }

    /// Reads an entry within the bound; one that is followed from memory, while nothing is told.
    pub(crate) async fn get(&self, path: &str) -> Result<Option<Entry>> {
        if !self.is_told_of(path) {
            return bounded(path, self.coordination.get(path)).await;
        }
        let read = match self.entry_cache.entry(path) {
            Ok(entry) => return Ok(entry),
            Err(read) => read,
        };
        let entry = bounded(path, self.coordination.get(path)).await?;
        self.entry_cache.keep_entry(path, &read, &entry);
        Ok(entry)
    }

    /// Reads an entry as it is everywhere by now, within the bound: not what is cached.
    pub(crate) async fn get_anew(&self, path: &str) -> Result<Option<Entry>> {
        if self.shared {
            bounded(path, self.coordination.sync()).await?;
            drop(self.entry_cache.changing(vec![path.to_owned()]));
        }
        self.get(path).await
    }

    /// Reads an entry from the coordinator, whatever is cached.
    pub(crate) async fn get_uncached(&self, path: &str) -> Result<Option<Entry>> {
        bounded(path, self.coordination.get(path)).await
    }

    /// Reads entries from the coordinator, whatever is cached.
    pub(crate) async fn get_all_uncached(&self, paths: Vec<String>) -> Result<Vec<Option<Entry>>> {
        let Some(first) = paths.first().cloned() else {
            return Ok(Vec::new());
        };
        bounded(&first, self.coordination.get_all(paths)).await
    }

    /// Reads entries together that somebody is about to look at one by one, where they are cached.
    pub(crate) async fn read_ahead(&self, paths: impl IntoIterator<Item = String>) -> Result<()> {
        let unknown = |path: String| {
            let read = self.is_told_of(&path).then(|| self.entry_cache.entry(&path).err())??;
            Some((path, read))
        };
        let (paths, reads): (Vec<String>, Vec<_>) = paths.into_iter().filter_map(unknown).unzip();
        let Some(first) = paths.first() else { return Ok(()) };
        let entries = bounded(first, self.coordination.get_all(paths.clone())).await?;
        for ((path, read), entry) in paths.iter().zip(&reads).zip(&entries) {
            self.entry_cache.keep_entry(path, read, entry);
        }
        Ok(())
    }

    /// Names below an entry, like `get`.
    pub(crate) async fn children(&self, path: &str) -> Result<Vec<String>> {
        if !self.is_told_of(path) {
            return bounded(path, self.coordination.children(path)).await;
        }
        let read = match self.entry_cache.children(path) {
            Ok(names) => return Ok(names),
            Err(read) => read,
        };
        let names = bounded(path, self.coordination.children(path)).await?;
        self.entry_cache.keep_children(path, &read, &names);
        Ok(names)
    }

    /// Whether changes of an entry are told, and it is worth remembering. Alone all are told: the entries of
    /// builds and tickets are asked for again and again. While nothing is heard of a coordinator that many
    /// share, what is cached may be as old as that silence.
    fn is_told_of(&self, path: &str) -> bool {
        if !self.shared {
            return is_asked_often(path) && self.subscriptions.tells(path);
        }
        (self.subscriptions.tells(path) || self.cache_watches.tells(path)) && self.is_in_touch()
    }

    /// Begins to listen to an object; `None` past the bound of what may be listened to.
    pub(crate) async fn listen(&self, object: &Object) -> Result<Option<Notices>> {
        let listening = async {
            match self.contents.listen(object).await {
                Ok(notices) => Ok(Some(notices)),
                Err(storage::Error::Refused { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        };
        bounded(&object.to_string(), listening).await
    }

    /// Stores a body as an object, durably; its digest.
    pub(crate) async fn keep_body(&self, bytes: Bytes) -> Result<Digest> {
        let digest = Digest::of(&bytes);
        let object = self.put_body(bytes).await?;
        // One that was there already, too: whoever put it may not have made it durable yet.
        settled("body", || self.contents.sync(vec![object.clone()])).await?;
        Ok(digest)
    }

    /// Stores a body as an object that is not durable yet.
    pub(crate) async fn put_body(&self, bytes: Bytes) -> Result<Object> {
        let object = Object::Chunk(Digest::of(&bytes));
        settled("body", || self.contents.put(&object, bytes.clone())).await?;
        Ok(object)
    }

    /// Stores a body, durably with one that was put before; its digest.
    pub(crate) async fn keep_body_with(&self, bytes: Bytes, put: &Object) -> Result<Digest> {
        let digest = Digest::of(&bytes);
        let both = vec![put.clone(), self.put_body(bytes).await?];
        settled("body", || self.contents.sync(both.clone())).await?;
        Ok(digest)
    }

    /// Reads a body whole.
    pub(crate) async fn body(&self, digest: Digest) -> Result<Bytes> {
        let object = Object::Chunk(digest);
        bounded(
            "body",
            self.contents.read(&object, 0, storage::contents::VALUE_BYTES_MAX),
        )
        .await?
        .ok_or_else(|| Error::Io(format!("{object}: missing from the store; run distcifs fsck").into()))
    }
}

/// Whether this is the entry of a build or a ticket.
fn is_asked_often(path: &str) -> bool {
    matches!(Key::parse(path), Some(Key::Build(..) | Key::Ticket(..)))
}

/// The entries that operations change.
fn paths_of(ops: &[Op]) -> Vec<String> {
    let path = |op: &Op| match op {
        Op::Create { path, .. } | Op::Set { path, .. } | Op::Delete { path, .. } => Some(path.clone()),
        Op::Check { .. } => None,
    };
    ops.iter().filter_map(path).collect()
}
