//! The repository as one mount opens it: its stores, and what every part of it knows.

use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use nix::unistd::{getgid, getuid};

use super::access::Access;
use super::attempts::AttemptDirs;
use super::board::Board;
use super::claims::Claims;
use super::consoles::Consoles;
use super::core::{bounded, now, random_id};
use super::epochs::Epochs;
use super::events::Events;
use super::fresh::Fresh;
use super::jobs::JobTable;
use super::model::json::to_json;
use super::model::keys::{EPOCH, JOBS, Key, LEASES, NODES};
use super::model::ticket::QUEUES;
use super::names::Name;
use super::patience::STORE_TIMEOUT;
use super::records::cache::RecordCache;
use super::snapshot::Browser;
use super::wakers::Wakers;
use super::{Result, format};
use crate::storage::{Contents, Coordination};

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
    pub(crate) events: Arc<Events>,
    pub(crate) wakers: Arc<Wakers>,
    pub(crate) board: Board,
    pub(crate) claims: Claims,
    /// Tickets that were tidied away lately.
    pub(crate) gone: super::tickets::Gone,
    pub(crate) unread: super::notices::Unread,
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
        let (events, wakers) = (Arc::<Events>::default(), Arc::<Wakers>::default());
        let repository = Arc::new(Repository {
            jobs: JobTable::default(),
            board: Board::new(events.clone(), wakers.clone()),
            events,
            wakers,
            claims: Claims::default(),
            gone: super::tickets::Gone::default(),
            unread: super::notices::Unread::default(),
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
            let notices = bounded("jobs", repository.contents.listen(&super::model::job::jobs_record())).await?;
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
        let always: &[&str] = if self.shared { &[NODES, JOBS, EPOCH] } else { &["/"] };
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
            format::lay(&*self.coordination, &Key::Queue(queue).path(), to_json(&owner)).await?;
        }
        Ok(())
    }
}
