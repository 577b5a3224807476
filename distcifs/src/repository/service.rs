//! The repository as one mount opens it: its stores, and what every part of it knows.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;

use super::about::About;
use super::access::Access;
use super::attempts::AttemptDirs;
use super::builds::{Builds, RecordCache, Trash};
use super::claims::{Claims, Held};
use super::configure::Configurations;
use super::consoles::Consoles;
use super::core::{bounded, now, random_id};
use super::deadline::{Deadline, STORE_TIMEOUT};
use super::dispatch::Dispatcher;
use super::events::Events;
use super::format::Gate;
use super::fresh::Fresh;
use super::jobs::Jobs;
use super::model::json::to_json;
use super::model::keys::{EPOCH, GROUPS, JOBS, Key, LEASES, NODES};
use super::model::ticket::QUEUES;
use super::names::Name;
use super::nodes::Nodes;
use super::notices::Reconciler;
use super::queue_index::QueueIndex;
use super::snapshot::Browser;
use super::store::{Acting, Reactor, Store};
use super::supersede::Superseding;
use super::tickets::Tickets;
use super::tops::Tops;
use super::wakers::Wakers;
use super::{Result, format};
use crate::storage::{Contents, Coordination, Event};

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
    pub(crate) store: Arc<Store>,
    /// What this mount says of itself.
    pub(crate) about: Arc<About>,
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) jobs: Arc<Jobs>,
    pub(crate) tops: Tops,
    pub(crate) configs: Arc<Configurations>,
    pub(crate) events: Arc<Events>,
    pub(crate) wakers: Arc<Wakers>,
    pub(crate) queue_index: Arc<QueueIndex>,
    pub(crate) claims: Arc<Claims>,
    pub(crate) tickets: Arc<Tickets>,
    pub(crate) reconciler: Arc<Reconciler>,
    pub(crate) dispatcher: Arc<Dispatcher>,
    pub(crate) consoles: Arc<Consoles>,
    pub(crate) attempts: Arc<AttemptDirs>,
    pub(crate) builds: Arc<Builds>,
    /// Reads published folders.
    pub(crate) browser: Browser,
    /// Texts of build.json that were made.
    pub(crate) shown: super::shown::Shown,
}

/// What is told of the coordinator is for the reconciler to act upon.
impl Reactor for Repository {
    fn rescan(self: Arc<Self>, path: String) -> Acting {
        Box::pin(async move { self.reconciler.rescan(&path).await })
    }

    fn act(self: Arc<Self>, path: String, events: Vec<Event>) -> Acting {
        Box::pin(async move { self.reconciler.act(&path, events).await })
    }

    fn unsubscribed(&self, path: &str) {
        self.queue_index.forget_below(path);
    }
}

impl Repository {
    /// Opens the repository: reads the list of jobs, starts following the coordinator and
    /// repairs what a former mount left behind.
    pub async fn open(setup: Setup) -> Result<Arc<Self>> {
        let repository = Self::assemble(setup)?;
        repository.lay_out().await?;
        let session = repository.store.current_session()?;
        repository.nodes.enter_node().await?;
        if repository.store.shared {
            let notices = bounded(
                "jobs",
                repository.store.contents.listen(&super::model::job::jobs_record()),
            )
            .await?;
            repository.store.runtime.spawn(repository.jobs.clone().keep(notices));
        }
        repository.jobs.load().await?;
        repository.begin(session).await?;
        Ok(repository)
    }

    /// Its parts, of which each knows those that it needs.
    fn assemble(setup: Setup) -> Result<Arc<Self>> {
        let fresh = (!setup.shared).then(|| Fresh::new(setup.contents.clone()));
        let contents = fresh.as_ref().map_or(setup.contents, Fresh::contents);
        let attempts = Arc::new(AttemptDirs::open(&setup.attempts, contents.clone(), fresh)?);
        let (events, wakers) = (Arc::<Events>::default(), Arc::<Wakers>::default());
        let about = Arc::new(About {
            node: setup.node,
            store: setup.store,
            coordinator: setup.coordinator,
            since: now(),
            nonce: random_id(),
        });
        Ok(Arc::new_cyclic(|repository: &Weak<Repository>| {
            let store = Store::new(setup.coordination, contents.clone(), setup.shared, repository.clone());
            let jobs = Jobs::new(store.clone(), events.clone());
            let (tops, node) = (Tops::new(store.clone()), about.node.clone());
            let shared = (store.clone(), events.clone(), wakers.clone());
            let consoles = Arc::new(Consoles::new(store.clone(), wakers.clone()));
            let held = Held::new(store.clone());
            let configs = Configurations::new(shared, jobs.clone(), tops.clone(), node);
            let tickets = Tickets::new(store.clone(), consoles.clone(), attempts.clone(), held.clone());
            let builds = Arc::new(Builds {
                store: store.clone(),
                gate: Gate::new(store.clone()),
                events: events.clone(),
                jobs: jobs.clone(),
                configs: configs.clone(),
                tickets: tickets.clone(),
                consoles: consoles.clone(),
                attempts: attempts.clone(),
                people: Arc::default(),
                counts: Arc::default(),
                steering: OnceLock::new(),
                records: RecordCache::default(),
                trash: Trash::default(),
            });
            let queue_index = Arc::new(QueueIndex::new(events.clone(), wakers.clone()));
            let nodes = Nodes::new(store.clone(), about.clone(), queue_index.clone(), held.clone());
            let claims = Claims::new(&builds, about.clone(), wakers.clone(), held, nodes.clone());
            let (of_queue_index, of_nodes) = (queue_index.clone(), nodes.clone());
            let reconciler = Reconciler::new(&builds, of_queue_index, of_nodes, claims.clone(), wakers.clone());
            let dispatcher = Dispatcher::new(&reconciler, tops.clone());
            Repository {
                about,
                builds,
                configs,
                tops,
                jobs,
                queue_index,
                nodes,
                claims,
                tickets,
                reconciler,
                dispatcher,
                consoles,
                shown: super::shown::Shown::default(),
                browser: Browser::new(contents.clone()),
                attempts,
                store,
                events,
                wakers,
            }
        }))
    }

    /// Names the users of the programs that steer.
    pub fn steered_by(&self, users: Vec<u32>) {
        if self.builds.steering.set(users).is_err() {
            tracing::warn!("they were named before");
        }
    }

    /// Starts what goes on as long as the store is open.
    async fn begin(self: &Arc<Self>, session: u64) -> Result<()> {
        // Alone, all that happens is ours; of many, each follows what somebody here waits for.
        let always: &[&str] = if self.store.shared {
            &[NODES, JOBS, GROUPS, EPOCH]
        } else {
            &["/"]
        };
        for path in always {
            let subscription = self.store.subscribe(path).await?;
            subscription.scanned(Deadline::after(STORE_TIMEOUT)).await;
            self.store.runtime.spawn(async move {
                let _kept = subscription;
                std::future::pending::<()>().await;
            });
        }
        self.store.runtime.spawn(self.dispatcher.clone().keep_dispatching());
        self.store.runtime.spawn(self.nodes.clone().keep_node(Some(session)));
        self.store.runtime.spawn(self.claims.clone().keep_session());
        self.store.runtime.spawn(self.claims.clone().keep_stopping());
        self.store.runtime.spawn(self.store.clone().unsubscribe_idle());
        self.store.runtime.spawn(self.builds.clone().keep_trash_swept());
        self.store.runtime.spawn(self.claims.groups.clone().keep_swept());
        self.store.runtime.spawn(Superseding::new(self).keep());
        self.store.runtime.spawn(self.builds.clone().keep_held_swept());
        self.store.runtime.spawn(self.builds.clone().keep_unsent_swept());
        Ok(())
    }

    /// Makes sure that there is a repository, and that every kind of work has its queue.
    async fn lay_out(&self) -> Result<()> {
        if self.store.shared {
            // One that many share is made on purpose: a mistyped address makes none.
            format::check(&self.store.coordination, &self.store.contents).await?;
            // Earlier versions made none.
            format::lay(&*self.store.coordination, EPOCH, Bytes::from_static(b"0")).await?;
            format::lay(&*self.store.coordination, LEASES, Bytes::new()).await?;
            format::lay(&*self.store.coordination, GROUPS, Bytes::new()).await?;
        } else {
            format::make(&self.store.coordination, &self.store.contents, false).await?;
        }
        let owner = Access::of_mounter();
        for queue in QUEUES {
            format::lay(&*self.store.coordination, &Key::Queue(queue).path(), to_json(&owner)).await?;
        }
        Ok(())
    }
}
