//! Mounts that are alive: what each tells of itself, and how they take turns.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::about::About;
use super::claims::{Held, Outlook};
use super::core::{bounded, lock, random_id};
use super::format::{self, VERSION};
use super::model::json::{from_json, to_json};
use super::model::keys::{EPOCH, FORMAT, Key, NODES};
use super::model::ops::{create_ephemeral, delete};
use super::model::skills::{Skills, Waiters};
use super::model::ticket::{BuildRef, Posted, Ticket, TicketKey, control_key};
use super::names::{Name, TicketId};
use super::queue_index::{Ahead, QueueIndex};
use super::store::{Store, session_of};
use super::turns::Turns;
use super::{Error, Result};
use crate::storage::{Commit, Entry, Op, Session};

mod drain;

/// How often a mount tells who waits on it, if that has changed.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Sets of labels that a mount tells of, of all queues together: they fit into its entry.
const TOLD_MAX: usize = 48;

/// Bytes of labels that a mount tells of.
const TOLD_BYTES_MAX: usize = 2500;

/// Between the turns of two mounts that might repair the same ticket.
const REPAIR_TURN: Duration = Duration::from_millis(50);

/// How long the mount that ended a build has to record it before others do.
const RECORD_GRACE: Duration = Duration::from_secs(1);

/// Tries to enter while gc begins epochs or a former session ends.
const RACES_MAX: u32 = 100;

/// Workers that wait: by queue, then by their labels (sorted, with a blank between).
pub type Waiting = BTreeMap<String, BTreeMap<String, usize>>;

/// What a mount tells of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// The daemon's process.
    pub pid: u32,
    /// When it was mounted, milliseconds since 1970.
    pub since: u64,
    /// Tells this mount from an earlier one of its name.
    #[serde(default)]
    pub nonce: String,
    /// The version of the program.
    #[serde(default)]
    pub version: String,
    /// The newest version of the format that it understands; 0 of one that does not tell.
    #[serde(default)]
    pub knows: u32,
    /// Who waits there.
    #[serde(default)]
    pub waiting: Waiting,
    /// The smallest epoch in which something is under way there; none of a version that does not
    /// tell, or where nobody asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// The entry of the session's lease.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub lease: String,
}

/// This mount and the others that are alive.
pub struct Nodes {
    store: Arc<Store>,
    about: Arc<About>,
    queue_index: Arc<QueueIndex>,
    held: Arc<Held>,
    peers: Peers,
}

/// The other mounts, as they told last. The truth is their entries.
#[derive(Default)]
struct Peers(Mutex<HashMap<Name, NodeFacts>>);

impl Outlook for Nodes {
    fn note_worked(&self, queue: &Name) {
        self.queue_index.note_worked(queue);
    }

    fn older(&self, key: &TicketKey, of: (&str, bool), most: usize) -> Vec<TicketId> {
        self.queue_index.older(key, of, most)
    }

    fn waiting(&self, queue: &Name, group: &str, before: u64) -> Vec<TicketId> {
        self.queue_index.waiting(queue, group, before)
    }

    fn unknown(&self, queue: &Name, ids: Vec<TicketId>) -> Vec<TicketId> {
        self.queue_index.unknown(queue, ids)
    }

    fn unknown_builds(&self, uid: &str, numbers: Vec<u64>) -> Vec<u64> {
        self.queue_index.unknown_builds(uid, numbers)
    }

    fn is_superseded(&self, key: &TicketKey) -> bool {
        self.queue_index.is_superseded(key)
    }

    fn of_another_bound(&self, key: &TicketKey, posted: &Posted) -> Vec<TicketId> {
        self.queue_index.of_another_bound(key, posted)
    }

    fn repair_delay(&self, key: &TicketKey) -> Duration {
        REPAIR_TURN * self.rank(key)
    }
}

impl Nodes {
    /// None is known but this mount.
    pub(crate) fn new(
        store: Arc<Store>,
        about: Arc<About>,
        queue_index: Arc<QueueIndex>,
        held: Arc<Held>,
    ) -> Arc<Self> {
        Arc::new(Nodes {
            store,
            about,
            queue_index,
            held,
            peers: Peers::default(),
        })
    }

    /// Tells that this mount is alive, in the present session.
    ///
    /// # Errors
    /// `Busy` if another mount has its name.
    pub(crate) async fn enter_node(self: &Arc<Self>) -> Result<()> {
        let path = self.node_path();
        for _ in 0..RACES_MAX {
            let mut facts = self.facts(Waiting::new());
            let mut ops = Vec::new();
            if self.store.shared {
                let (epoch, version) = self.store.read_epoch().await?;
                // Either gc sees this mount, or this mount has seen the epoch that gc began.
                let (path, version, lease) = (EPOCH.to_owned(), Some(version), Key::Lease(&random_id()).path());
                ops.push(Op::Check { path, version });
                // It may have been raised past this program while no session was.
                let writable = format::writable(&*self.store.coordination).await;
                let version = Some(writable.inspect_err(|error| self.note_shut_out(error))?);
                ops.push(Op::Check {
                    path: FORMAT.to_owned(),
                    version,
                });
                ops.extend(self.leave_former().await?);
                ops.push(create_ephemeral(&lease, Bytes::new()));
                (facts.epoch, facts.lease) = (Some(epoch), lease);
            }
            let data = to_json(&facts);
            ops.push(create_ephemeral(&path, data.clone()));
            let ours = |entry: Option<&Entry>| entry.is_some_and(|entry| entry.data == data);
            if self.store.commit_entering(ops, &path, ours).await? == Commit::Done {
                if let Some(epoch) = facts.epoch {
                    self.store.contents.enter(epoch);
                    self.store.epochs.enter(facts.lease, epoch);
                    // One that began since was told to nobody.
                    self.store.refresh_epoch();
                    if self.queue_index.drain.shut_out(false) {
                        self.queue_index.poke_all();
                    }
                }
                return Ok(());
            }
            if !self.store.shared {
                break;
            }
        }
        Err(self.name_is_taken())
    }

    /// Takes no work any more, where this program is too old for what is there by now.
    fn note_shut_out(&self, error: &Error) {
        if let Error::Invalid(why) = error {
            self.store.epochs.shut_out(why.clone());
            self.queue_index.drain.shut_out(true);
        }
    }

    /// The removal of what this mount entered in a former session that is still there, or in this one
    /// when nobody knew whether it did.
    ///
    /// # Errors
    /// `Busy` if another mount has its name.
    async fn leave_former(&self) -> Result<Vec<Op>> {
        let path = self.node_path();
        let Some(entry) = bounded(&path, self.store.coordination.get(&path)).await? else {
            return Ok(Vec::new());
        };
        let former: NodeFacts = from_json(&path, &entry.data)?;
        if former.nonce != self.about.nonce {
            return Err(self.name_is_taken());
        }
        let mut ops = vec![delete(path, Some(entry.version))];
        let lease = bounded(&former.lease, self.store.coordination.get(&former.lease)).await?;
        ops.extend(lease.map(|lease| delete(former.lease, Some(lease.version))));
        Ok(ops)
    }

    fn name_is_taken(&self) -> Error {
        Error::Busy(format!(
            "another mount of this repository is called {}: give this one another name with -o node=NAME",
            self.about.node
        ))
    }

    fn node_path(&self) -> String {
        Key::Node(self.about.node.as_str()).path()
    }

    fn facts(&self, waiting: Waiting) -> NodeFacts {
        NodeFacts {
            pid: std::process::id(),
            since: self.about.since,
            nonce: self.about.nonce.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            knows: VERSION,
            waiting,
            epoch: None,
            lease: String::new(),
        }
    }

    /// Keeps this mount's entry there and right, as long as it is mounted.
    /// `entered`: the session in which it was made.
    pub(crate) async fn keep_node(self: Arc<Self>, mut entered: Option<u64>) {
        let mut told = None;
        let mut tick = tokio::time::interval(TELL_EVERY);
        let mut session = self.store.coordination.session();
        let mut least = self.store.epochs.current().map(|session| session.least());
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                changed = session.changed() => if changed.is_err() { return },
                () = changed(&mut least) => {}
            }
            let now = *session.borrow_and_update();
            if self.store.shared && session_of(&now) != entered {
                self.store.epochs.leave();
                (entered, least) = (None, None);
            }
            let Session::Live { id } = now else { continue };
            if entered != Some(id) {
                // Its entry went with the former session, or will in a moment.
                match self.enter_node().await {
                    Ok(()) => (entered, told) = (Some(id), None),
                    Err(error) => tracing::warn!(node = %self.about.node, %error, "telling that this mount is alive"),
                }
                least = self.store.epochs.current().map(|session| session.least());
            }
            if self.store.shared && entered == Some(id) {
                self.tell_node(&mut told).await;
            }
        }
    }

    /// Tells the others who waits here, and what is under way, if they have been told otherwise.
    async fn tell_node(&self, told: &mut Option<NodeFacts>) {
        let Some(session) = self.store.epochs.current() else {
            return;
        };
        let mut facts = self.facts(self.waiting_here());
        (facts.epoch, facts.lease) = (Some(*session.least().borrow()), session.lease());
        if told.as_ref() == Some(&facts) {
            return;
        }
        let (path, version, data) = (self.node_path(), None, to_json(&facts));
        match self.store.commit(vec![Op::Set { path, data, version }]).await {
            Ok(_) => *told = Some(facts),
            Err(error) => tracing::debug!(%error, "telling what goes on here"),
        }
    }

    /// Who waits on this mount, as far as others are told.
    pub fn waiting_here(&self) -> Waiting {
        if self.is_drained() {
            // They are given nothing here.
            return Waiting::new();
        }
        self.queue_index.waiting_sets(TOLD_MAX, TOLD_BYTES_MAX)
    }

    /// The mounts that are alive, in order of their names.
    pub async fn nodes(&self) -> Result<Vec<Name>> {
        let mut nodes: Vec<Name> = self
            .store
            .children(NODES)
            .await?
            .iter()
            .filter_map(|name| Name::new(name))
            .collect();
        nodes.sort();
        Ok(nodes)
    }

    /// What a mount says of itself.
    pub async fn node_facts(&self, node: &Name) -> Result<Option<NodeFacts>> {
        let path = Key::Node(node.as_str()).path();
        let entry = self.store.get(&path).await?;
        entry.map(|entry| from_json(&path, &entry.data)).transpose()
    }

    /// Takes in all mounts that are alive.
    pub(crate) async fn refresh_nodes(&self) {
        match self.nodes().await {
            Ok(nodes) => {
                lock(&self.peers.0).retain(|known, _| nodes.contains(known));
                for node in nodes {
                    self.refresh_node(&node).await;
                }
            }
            Err(error) => tracing::warn!(%error, "looking who is alive"),
        }
    }

    /// Takes in what a mount tells of itself; out, if it is gone.
    pub(crate) async fn refresh_node(&self, node: &Name) {
        if *node == self.about.node {
            return;
        }
        match self.node_facts(node).await {
            Ok(Some(facts)) => {
                let queues = facts.waiting.keys().filter_map(|queue| Name::new(queue));
                queues.for_each(|queue| self.queue_index.note_worked(&queue));
                drop(lock(&self.peers.0).insert(node.clone(), facts));
            }
            Ok(None) => drop(lock(&self.peers.0).remove(node)),
            Err(error) => tracing::warn!(%node, %error, "looking whether it is alive"),
        }
    }

    /// Waiters of a queue on all mounts, in view of what a ticket needs, one a line.
    pub fn waiters(&self, queue: &str, needs: &str) -> Waiters {
        let mut waiters = if self.is_drained() {
            Waiters::default()
        } else {
            self.queue_index.waiters(queue, needs)
        };
        for facts in lock(&self.peers.0).values() {
            for (has, count) in facts.waiting.get(queue).into_iter().flatten() {
                waiters.add(&Skills::new(has.split(' ')), *count, needs);
            }
        }
        waiters
    }

    /// What comes before an open ticket, as far as this mount follows its queue.
    pub(crate) fn ahead(&self, key: &TicketKey) -> Option<Ahead> {
        let skills = |facts: &NodeFacts| -> Vec<Skills> {
            let sets = facts.waiting.get(key.queue.as_str()).into_iter().flatten();
            sets.map(|(has, _)| Skills::new(has.split(' '))).collect()
        };
        let elsewhere = lock(&self.peers.0).values().flat_map(skills).collect();
        self.queue_index.ahead(key, elsewhere)
    }

    /// How many mounts come before this one when it is about this ticket.
    fn rank(&self, key: &TicketKey) -> u32 {
        self.turns_among(|_| true).of(key)
    }

    /// Whether other mounts are alive.
    pub(crate) fn has_peers(&self) -> bool {
        !lock(&self.peers.0).is_empty()
    }

    /// Whose turn it is among the mounts with a waiter in this queue that has all of these labels, one a
    /// line.
    pub(crate) fn turns(&self, queue: &Name, needs: &str) -> Turns {
        let able = |facts: &NodeFacts| {
            let mut sets = facts.waiting.get(queue.as_str()).into_iter().flatten();
            sets.any(|(has, _)| Skills::new(has.split(' ')).meet(needs))
        };
        self.turns_among(able)
    }

    /// The order of this mount and those others that count.
    fn turns_among(&self, counts: impl Fn(&NodeFacts) -> bool) -> Turns {
        let peers = lock(&self.peers.0);
        let counting = peers.iter().filter(|(_, facts)| counts(facts));
        Turns::among(&self.about.node, counting.map(|(node, _)| node))
    }

    /// How long to wait before a build that ended without a ticket is recorded here.
    pub(crate) fn record_delay_of(&self, part: &BuildRef) -> Duration {
        let key = control_key(&part.job, part.build, part.run).ok();
        key.filter(|_| self.has_peers())
            .map_or(Duration::ZERO, |key| RECORD_GRACE * self.rank(&key))
    }

    /// How long to wait before the build that this ticket ended is recorded here.
    pub(crate) fn record_delay(&self, key: &TicketKey, ticket: &Ticket) -> Duration {
        if !self.has_peers() || ticket.node == self.about.node.as_str() {
            return Duration::ZERO;
        }
        RECORD_GRACE * (1 + self.rank(key))
    }
}

/// Returns when the smallest epoch in which something is under way is another one.
async fn changed(least: &mut Option<watch::Receiver<u64>>) {
    let told = match least {
        Some(least) => least.changed().await,
        None => std::future::pending().await,
    };
    // Of a session that is over nothing more is told.
    if told.is_err() {
        *least = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_older_version_tells_is_read() {
        let facts: NodeFacts = serde_json::from_str(r#"{"pid":1,"since":2,"new":"x"}"#).unwrap();
        assert_eq!((facts.pid, facts.since, facts.waiting.len()), (1, 2, 0));
    }
}
