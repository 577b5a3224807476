//! Calls of the stores: within their bound, again where nobody knows, and from memory what is followed.

use std::fs::File;
use std::future::Future;
use std::io::Read;
use std::sync::{LazyLock, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::model::keys::Key;
use super::model::ops::Changes;
use super::patience::STORE_TIMEOUT;
use super::{Error, Repository, Result, patience};
use crate::storage::{self, Commit, Digest, Entry, Fut, Object, Op, Updated};

/// Pause before a call is made again of which nobody knows whether it happened.
const SETTLE_PAUSE: Duration = Duration::from_millis(5);

/// Bodies up to this many bytes stand in their coordination entry; longer ones are objects.
pub const INLINE_BYTES_MAX: usize = 1536;

impl Repository {
    /// Commits within the bound.
    pub(crate) async fn commit(&self, ops: Vec<Op>) -> Result<Commit> {
        let _changing = self.remembered.changing(paths_of(&ops));
        bounded("commit", self.coordination.commit(ops)).await
    }

    /// Commits a change that its guards let happen once. Where nobody knows whether it did, asks
    /// for the entry until `ours` tells our write from anybody else's, and commits again if it is
    /// not there; a mismatch is looked at in the same way, as an earlier try may be its cause.
    ///
    /// # Errors
    /// `TimedOut` if it is still unknown after [`patience::left`]; after any other it did not happen.
    pub(crate) async fn commit_settled(
        &self,
        ops: Vec<Op>,
        path: &str,
        ours: impl Fn(Option<&Entry>) -> bool,
    ) -> Result<Commit> {
        let _changing = self.remembered.changing(paths_of(&ops));
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
        match tokio::time::timeout(patience::left(), settle).await {
            Ok(settled) => settled,
            Err(_) => Err(Error::TimedOut(
                format!("{path}: nobody knows whether it was changed").into(),
            )),
        }
    }

    /// Reads an entry as it is everywhere.
    pub(crate) async fn get_settled(&self, path: &str, elsewhere: bool) -> Result<Option<Entry>> {
        if elsewhere {
            self.coordination.sync().await?;
        }
        Ok(self.coordination.get(path).await?)
    }

    /// Changes keys of a record, whatever its revision. What it sets is the same however often it
    /// is done: so it is done again when nobody knows.
    pub(crate) async fn update(&self, what: &str, object: &Object, changes: Changes) -> Result<()> {
        match settled(what, || self.contents.update(object, None, changes.clone())).await? {
            Updated::Done { .. } => Ok(()),
            Updated::Mismatch { .. } => Err(Error::Io(format!("{what}: an unguarded write was refused").into())),
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
        let question = match self.remembered.entry(path) {
            Ok(entry) => return Ok(entry),
            Err(question) => question,
        };
        let entry = bounded(path, self.coordination.get(path)).await?;
        self.remembered.keep_entry(path, &question, &entry);
        Ok(entry)
    }

    /// Reads entries together that somebody is about to look at one by one, where they are remembered.
    pub(crate) async fn read_ahead(&self, paths: impl IntoIterator<Item = String>) -> Result<()> {
        let unknown = |path: String| {
            let question = self.is_told_of(&path).then(|| self.remembered.entry(&path).err())??;
            Some((path, question))
        };
        let (paths, questions): (Vec<String>, Vec<_>) = paths.into_iter().filter_map(unknown).unzip();
        let Some(first) = paths.first() else { return Ok(()) };
        let entries = bounded(first, self.coordination.get_all(paths.clone())).await?;
        for ((path, question), entry) in paths.iter().zip(&questions).zip(&entries) {
            self.remembered.keep_entry(path, question, entry);
        }
        Ok(())
    }

    /// Names below an entry, like `get`.
    pub(crate) async fn children(&self, path: &str) -> Result<Vec<String>> {
        if !self.is_told_of(path) {
            return bounded(path, self.coordination.children(path)).await;
        }
        let question = match self.remembered.children(path) {
            Ok(names) => return Ok(names),
            Err(question) => question,
        };
        let names = bounded(path, self.coordination.children(path)).await?;
        self.remembered.keep_children(path, &question, &names);
        Ok(names)
    }

    /// Whether changes of an entry are told, and it is worth remembering. Alone all are told: the entries of
    /// builds and tickets are asked for again and again. While nothing is heard of a coordinator that many
    /// share, what is remembered may be as old as that silence.
    fn is_told_of(&self, path: &str) -> bool {
        if !self.shared {
            return is_asked_often(path) && self.followed.tells(path);
        }
        (self.followed.tells(path) || self.regarded.tells(path)) && self.is_in_touch()
    }

    /// Stores a body as an object, durably; its digest.
    pub(crate) async fn keep_body(&self, bytes: Bytes) -> Result<Digest> {
        let digest = Digest::of(&bytes);
        let object = Object::Chunk(digest);
        settled("body", || self.contents.put(&object, bytes.clone())).await?;
        // One that was there already, too: whoever put it may not have made it durable yet.
        settled("body", || self.contents.sync(vec![object.clone()])).await?;
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

/// Makes a call that may be made any number of times, again while nobody knows whether it happened.
pub(crate) async fn settled<'a, T>(what: &str, call: impl Fn() -> Fut<'a, T>) -> Result<T> {
    let settle = async {
        loop {
            match call().await {
                Err(error) if error.is_indeterminate() => tokio::time::sleep(SETTLE_PAUSE).await,
                other => return other,
            }
        }
    };
    bounded(what, settle).await
}

/// Waits for a storage call, at most [`patience::left`].
pub(crate) async fn bounded<T>(what: &str, call: impl Future<Output = storage::Result<T>>) -> Result<T> {
    match tokio::time::timeout(patience::left(), call).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(Error::TimedOut(
            format!("{what}: no answer from the store within {} s", STORE_TIMEOUT.as_secs()).into(),
        )),
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

/// Seconds and milliseconds since 1970, for people: no rule compares it with another node's.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// `now`'s milliseconds as a time.
pub(crate) fn time_of(millis: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(millis)
}

/// 64 random bits as 16 hexadecimal digits: uids of jobs and nonces of claims.
pub(crate) fn random_id() -> String {
    static RANDOM: LazyLock<Option<File>> = LazyLock::new(|| File::open("/dev/urandom").ok());
    let mut bytes = [0u8; 8];
    let read = RANDOM
        .as_ref()
        .is_some_and(|mut file| file.read_exact(&mut bytes).is_ok());
    if !read {
        // Without /dev (a bare chroot): the hasher's keys are random for each process and call.
        use std::hash::{BuildHasher, Hasher};
        let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
        hasher.write_u64(now());
        bytes = hasher.finish().to_ne_bytes();
    }
    format!("{:016x}", u64::from_ne_bytes(bytes))
}

/// Locks, also after a panic elsewhere: what the locks guard is kept consistent by single
/// assignments.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
