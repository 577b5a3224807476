//! The repository: the stores, what is known of them here, and how calls to them are bounded.

use std::fs::File;
use std::future::Future;
use std::io::Read;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use nix::unistd::{getgid, getuid};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::attempts::AttemptDirs;
use super::board::Board;
use super::claims::Claims;
use super::consoles::Consoles;
use super::epochs::{EPOCH, Epochs, LEASES};
use super::format;
use super::fresh::Fresh;
use super::jobs::{Access, JobTable};
use super::names::Name;
use super::records::RecordCache;
use super::remembered::Question;
use super::snapshot::Browser;
use super::{Error, Result, patience};
use crate::storage::{self, Commit, Contents, Coordination, Digest, Entry, Fut, Object, Op, Updated};

/// Longest wait for one call of a store, as the contract's promise 5 has it.
pub const STORE_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause before a call is made again of which nobody knows whether it happened.
const SETTLE_PAUSE: Duration = Duration::from_millis(5);

/// Keys of a record with what they are set to; `None` removes one.
pub(crate) type Changes = Vec<(String, Option<Bytes>)>;

/// Longest time a commit of a result may take: it writes a whole workspace.
pub const CAPTURE_TIMEOUT: Duration = Duration::from_secs(3600);

/// Bodies up to this many bytes stand in their coordination entry; longer ones are objects.
pub const INLINE_BYTES_MAX: usize = 1536;

/// The kinds of work that every repository knows.
pub(super) const QUEUES: [&str; 5] = [
    "build-control",
    "git-checkout",
    "execute-shell",
    "publish-artifacts",
    "copy-artifacts",
];

/// What a mount needs to know to open a repository.
pub struct Setup {
    /// Locks, tickets, claims, live builds.
    pub coordination: Arc<dyn Coordination>,
    /// Everything that is kept.
    pub contents: Arc<dyn Contents>,
    /// Name of this node.
    pub node: Name,
    /// Folder for the claimants' own folders; its contents are thrown away at each start.
    pub attempts: PathBuf,
    /// What the store calls itself, for `status`.
    pub store: String,
    /// What the coordinator calls itself, for `status`.
    pub coordinator: String,
    /// Whether other mounts may be on the same store.
    pub shared: bool,
}

/// A CI repository, as one mount sees it.
pub struct Repository {
    pub(crate) coordination: Arc<dyn Coordination>,
    pub(crate) contents: Arc<dyn Contents>,
    /// What results under way have stored, where nobody else can refer to it.
    pub(crate) fresh: Option<Arc<Fresh>>,
    pub(crate) node: Name,
    pub(crate) store: String,
    pub(crate) coordinator: String,
    pub(crate) shared: bool,
    pub(crate) peers: super::nodes::Peers,
    pub(crate) epochs: Epochs,
    pub(crate) followed: super::follow::Followed,
    pub(crate) regarded: super::regard::Regarded,
    pub(crate) remembered: super::remembered::Remembered,
    pub(crate) jobs: JobTable,
    pub(crate) board: Board,
    pub(crate) claims: Claims,
    /// Tickets that were tidied away lately.
    pub(crate) gone: super::tickets::Gone,
    pub(crate) doubts: super::claims::Doubts,
    pub(crate) unread: super::notices::Unread,
    pub(crate) aborted: super::claims::Aborted,
    pub(crate) consoles: Consoles,
    pub(crate) attempts: AttemptDirs,
    pub(crate) records: RecordCache,
    pub(crate) people: super::people::People,
    pub(crate) trash: super::trash::Trash,
    /// Users of the programs that steer, named at the mount.
    pub(crate) steering: OnceLock<Vec<u32>>,
    /// Reads published folders.
    pub(crate) browser: Browser,
    /// Texts of build.json that were made.
    pub(crate) shown: super::shown::Shown,
    pub(crate) runtime: tokio::runtime::Handle,
    /// When it was mounted, milliseconds since 1970.
    pub(crate) since: u64,
    /// Tells this mount from an earlier one of its name.
    pub(crate) nonce: String,
    pub(crate) counts: Counts,
}

/// What `metrics` counts since the mount was made.
#[derive(Default)]
pub struct Counts {
    /// Builds triggered here.
    pub triggered: AtomicU64,
    /// Builds recorded here.
    pub recorded: AtomicU64,
    /// Claims made here.
    pub claims: AtomicU64,
    /// Claims lost here, by any cause but a result.
    pub claims_lost: AtomicU64,
    /// Results committed here.
    pub results: AtomicU64,
    /// Bytes appended to consoles here.
    pub console_bytes: AtomicU64,
}

impl Repository {
    /// Opens the repository: reads the list of jobs, starts following the coordinator and
    /// repairs what a former mount left behind.
    pub async fn open(setup: Setup) -> Result<Arc<Self>> {
        let attempts = AttemptDirs::open(&setup.attempts)?;
        let fresh = (!setup.shared).then(|| Fresh::new(setup.contents.clone()));
        let contents = fresh.as_ref().map_or(setup.contents, Fresh::contents);
        let repository = Arc::new(Repository {
            jobs: JobTable::default(),
            board: Board::default(),
            claims: Claims::default(),
            gone: super::tickets::Gone::default(),
            doubts: super::claims::Doubts::default(),
            unread: super::notices::Unread::default(),
            aborted: super::claims::Aborted::default(),
            consoles: Consoles::default(),
            records: RecordCache::default(),
            people: super::people::People::default(),
            trash: super::trash::Trash::default(),
            steering: OnceLock::new(),
            runtime: tokio::runtime::Handle::current(),
            since: now(),
            nonce: random_id(),
            peers: super::nodes::Peers::default(),
            epochs: if setup.shared {
                Epochs::shared()
            } else {
                Epochs::alone()
            },
            followed: super::follow::Followed::default(),
            regarded: super::regard::Regarded::default(),
            remembered: super::remembered::Remembered::default(),
            shown: super::shown::Shown::default(),
            counts: Counts::default(),
            browser: Browser::new(contents.clone()),
            coordination: setup.coordination,
            contents,
            fresh,
            node: setup.node,
            store: setup.store,
            coordinator: setup.coordinator,
            shared: setup.shared,
            attempts,
        });
        repository.lay_out().await?;
        let session = repository.current_session()?;
        repository.enter_node().await?;
        if repository.shared {
            let notices = bounded("jobs", repository.contents.listen(&super::jobs::jobs_record())).await?;
            repository.runtime.spawn(repository.clone().keep_jobs(notices));
        }
        repository.load_jobs().await?;
        repository.begin(session).await?;
        Ok(repository)
    }

    /// Names the users of the programs that steer.
    pub fn steered_by(&self, users: Vec<u32>) {
        if self.steering.set(users).is_err() {
            tracing::warn!("they were named before");
        }
    }

    /// Starts what goes on as long as the store is open.
    async fn begin(self: &Arc<Self>, session: u64) -> Result<()> {
        // Alone, all that happens is ours; of many, each follows what somebody here waits for.
        let always: &[&str] = if self.shared {
            &["/nodes", "/jobs", EPOCH]
        } else {
            &["/"]
        };
        for path in always {
            let attendance = self.attend(path).await?;
            attendance.looked(STORE_TIMEOUT).await;
            self.runtime.spawn(async move {
                let _kept = attendance;
                std::future::pending::<()>().await;
            });
        }
        self.runtime.spawn(self.clone().keep_dispatching());
        self.runtime.spawn(self.clone().keep_node(Some(session)));
        self.runtime.spawn(self.clone().keep_session());
        self.runtime.spawn(self.clone().unfollow_idle());
        self.runtime.spawn(self.clone().keep_trash_swept());
        Ok(())
    }

    /// Makes sure that there is a repository, and that every kind of work has its queue.
    async fn lay_out(&self) -> Result<()> {
        if self.shared {
            // One that many share is made on purpose: a mistyped address makes none.
            format::check(&self.coordination, &self.contents).await?;
            // Earlier versions made none.
            format::lay(&*self.coordination, EPOCH, Bytes::from_static(b"0")).await?;
            format::lay(&*self.coordination, LEASES, Bytes::new()).await?;
        } else {
            format::make(&self.coordination, &self.contents, false).await?;
        }
        let owner = Access {
            uid: getuid().as_raw(),
            gid: getgid().as_raw(),
            mode: 0o755,
        };
        for queue in QUEUES {
            format::lay(&*self.coordination, &format!("/tickets/{queue}"), to_json(&owner)).await?;
        }
        Ok(())
    }

    /// Commits within the bound.
    pub(crate) async fn commit(&self, ops: Vec<Op>) -> Result<Commit> {
        let paths = paths_of(&ops);
        let committed = bounded("commit", self.coordination.commit(ops)).await;
        paths.iter().for_each(|path| self.remembered.forget(path));
        committed
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
        let settled = tokio::time::timeout(patience::left(), settle).await;
        paths_of(&ops).iter().for_each(|path| self.remembered.forget(path));
        match settled {
            Ok(settled) => settled,
            Err(_) => Err(Error::TimedOut(format!("{path}: nobody knows whether it was changed"))),
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
            Updated::Mismatch { .. } => Err(Error::Io(format!("{what}: an unguarded write was refused"))),
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
        let (paths, questions): (Vec<String>, Vec<Question>) = paths.into_iter().filter_map(unknown).unzip();
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

    /// Whether changes of an entry are told. Alone, asking costs no more than remembering; and while
    /// nothing is heard of the coordinator, what is remembered may be as old as that silence.
    fn is_told_of(&self, path: &str) -> bool {
        self.shared && (self.followed.tells(path) || self.regarded.tells(path)) && self.is_in_touch()
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
        .ok_or_else(|| Error::Io(format!("{object}: missing from the store; run distcifs fsck")))
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
        Err(_) => Err(Error::TimedOut(format!(
            "{what}: no answer from the store within {} s",
            STORE_TIMEOUT.as_secs()
        ))),
    }
}

/// The entries that operations change.
fn paths_of(ops: &[Op]) -> Vec<String> {
    let path = |op: &Op| match op {
        Op::Create { path, .. } | Op::Set { path, .. } | Op::Delete { path, .. } => Some(path.clone()),
        Op::Check { .. } => None,
    };
    ops.iter().filter_map(path).collect()
}

/// An operation that makes a lasting entry.
pub(crate) fn create(path: impl Into<String>, data: Bytes) -> Op {
    Op::Create {
        path: path.into(),
        data,
        ephemeral: false,
    }
}

/// An operation that makes an entry which goes with the session.
pub(crate) fn create_ephemeral(path: impl Into<String>, data: Bytes) -> Op {
    Op::Create {
        path: path.into(),
        data,
        ephemeral: true,
    }
}

/// JSON for people too.
pub(crate) fn pretty(json: &serde_json::Value) -> String {
    serde_json::to_string_pretty(json).unwrap_or_default() + "\n"
}

/// An operation that replaces the data of an entry of that version.
pub(crate) fn set(path: impl Into<String>, data: Bytes, version: u32) -> Op {
    Op::Set {
        path: path.into(),
        data,
        version: Some(version),
    }
}

/// An operation that removes an entry, of that version if one is given.
pub(crate) fn delete(path: impl Into<String>, version: Option<u32>) -> Op {
    Op::Delete {
        path: path.into(),
        version,
    }
}

/// The JSON text of plain data of ours.
pub(crate) fn to_json<T: Serialize>(value: &T) -> Bytes {
    // Plain structs of strings and numbers: serialisation to memory cannot fail.
    Bytes::from(serde_json::to_vec(value).unwrap_or_default())
}

/// Plain data of ours out of an entry or record.
pub(crate) fn from_json<T: DeserializeOwned>(what: &str, data: &[u8]) -> Result<T> {
    serde_json::from_slice(data).map_err(|e| Error::Io(format!("{what}: damaged: {e}; run distcifs fsck")))
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
