//! Mounts that are alive: what each tells of itself, and how they take turns.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::board::Skills;
use super::core::{from_json, lock, to_json};
use super::names::Name;
use super::tickets::{Ticket, TicketKey};
use super::{Error, Repository, Result};
use crate::storage::{Commit, Digest, Entry, Op, Session};

/// How often a mount tells who waits on it, if that has changed.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Sets of labels that a mount tells of, of all queues together: they fit into its entry.
const TOLD_MAX: usize = 48;

/// Bytes of labels that a mount tells of.
const TOLD_BYTES_MAX: usize = 2500;

/// Between the turns of two mounts that might claim the same ticket for a waiter: a multi that is
/// lost costs the coordinator as much as one that is won.
const CLAIM_TURN: Duration = Duration::from_millis(5);

/// Between the turns of two mounts that might repair the same ticket.
const REPAIR_TURN: Duration = Duration::from_millis(50);

/// How long the mount that ended a build has to record it before others do.
const RECORD_GRACE: Duration = Duration::from_secs(1);

/// Mounts that wait for their turn; those after them don't wait longer.
const TURNS_MAX: u32 = 16;

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
    /// Who waits there.
    #[serde(default)]
    pub waiting: Waiting,
}

/// The other mounts, as they told last.
#[derive(Default)]
pub struct Peers(Mutex<HashMap<Name, NodeFacts>>);

impl Repository {
    /// Tells that this mount is alive.
    ///
    /// # Errors
    /// `Busy` if another mount has its name.
    pub(crate) async fn enter_node(&self) -> Result<()> {
        let path = self.node_path();
        let data = to_json(&self.facts(Waiting::new()));
        let me = Op::Create {
            path: path.clone(),
            data: data.clone(),
            ephemeral: true,
        };
        let ours = |entry: Option<&Entry>| entry.is_some_and(|entry| entry.data == data);
        match self.commit_settled(vec![me], &path, ours).await? {
            Commit::Done => Ok(()),
            Commit::Mismatch { .. } => Err(Error::Busy(format!(
                "another mount of this repository is called {}: give this one another name with -o node=NAME",
                self.node
            ))),
        }
    }

    fn node_path(&self) -> String {
        format!("/nodes/{}", self.node)
    }

    fn facts(&self, waiting: Waiting) -> NodeFacts {
        NodeFacts {
            pid: std::process::id(),
            since: self.since,
            nonce: self.nonce.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            waiting,
        }
    }

    /// Keeps this mount's entry there and right, as long as it is mounted.
    /// `entered`: the session in which it was made.
    pub(crate) async fn keep_node(self: Arc<Self>, mut entered: Option<u64>) {
        let mut told = Waiting::new();
        let mut tick = tokio::time::interval(TELL_EVERY);
        let mut session = self.coordination.session();
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                changed = session.changed() => if changed.is_err() { return },
            }
            let Session::Live { id } = *session.borrow_and_update() else {
                continue;
            };
            if entered != Some(id) {
                // Its entry went with the former session, or will in a moment.
                match self.enter_node().await {
                    Ok(()) => (entered, told) = (Some(id), Waiting::new()),
                    Err(error) => tracing::warn!(node = %self.node, %error, "telling that this mount is alive"),
                }
            }
            let waiting = self.waiting_here();
            if self.shared && waiting != told {
                let data = to_json(&self.facts(waiting.clone()));
                let (path, version) = (self.node_path(), None);
                match self.commit(vec![Op::Set { path, data, version }]).await {
                    Ok(_) => told = waiting,
                    Err(error) => tracing::debug!(%error, "telling who waits here"),
                }
            }
        }
    }

    /// Who waits on this mount, as far as others are told.
    pub fn waiting_here(&self) -> Waiting {
        self.board.waiting_sets(TOLD_MAX, TOLD_BYTES_MAX)
    }

    /// The mounts that are alive, in order of their names.
    pub async fn nodes(&self) -> Result<Vec<Name>> {
        let mut nodes: Vec<Name> = self
            .children("/nodes")
            .await?
            .iter()
            .filter_map(|name| Name::new(name))
            .collect();
        nodes.sort();
        Ok(nodes)
    }

    /// What a mount says of itself.
    pub async fn node_facts(&self, node: &Name) -> Result<Option<NodeFacts>> {
        let path = format!("/nodes/{node}");
        let entry = self.get(&path).await?;
        entry.map(|entry| from_json(&path, &entry.data)).transpose()
    }

    /// Takes in all mounts that are alive.
    pub(super) async fn look_at_nodes(&self) {
        match self.nodes().await {
            Ok(nodes) => {
                lock(&self.peers.0).retain(|known, _| nodes.contains(known));
                for node in nodes {
                    self.look_at_node(&node).await;
                }
            }
            Err(error) => tracing::warn!(%error, "looking who is alive"),
        }
    }

    /// Takes in what a mount tells of itself; out, if it is gone.
    pub(super) async fn look_at_node(&self, node: &Name) {
        if *node == self.node {
            return;
        }
        match self.node_facts(node).await {
            Ok(Some(facts)) => drop(lock(&self.peers.0).insert(node.clone(), facts)),
            Ok(None) => drop(lock(&self.peers.0).remove(node)),
            Err(error) => tracing::warn!(%node, %error, "looking whether it is alive"),
        }
    }

    /// Waiters of a queue on all mounts, and how many of them have all that a ticket needs, one a line.
    pub fn waiters(&self, queue: &str, needs: &str) -> (usize, usize) {
        let (mut all, mut able) = self.board.waiters(queue, needs);
        for facts in lock(&self.peers.0).values() {
            for (has, count) in facts.waiting.get(queue).into_iter().flatten() {
                all += count;
                able += if Skills::new(has.split(' ')).meet(needs) {
                    *count
                } else {
                    0
                };
            }
        }
        (all, able)
    }

    /// How many of the mounts that count come before this one when it is about this ticket: each
    /// orders them by the same digest, which is another for each ticket.
    fn rank(&self, key: &TicketKey, counts: impl Fn(&NodeFacts) -> bool) -> u32 {
        let mine = weight(&self.node, key);
        let peers = lock(&self.peers.0);
        let before = peers
            .iter()
            .filter(|(node, facts)| counts(facts) && weight(node, key) > mine)
            .count();
        u32::try_from(before).unwrap_or(TURNS_MAX).min(TURNS_MAX)
    }

    /// How long to wait before this ticket is claimed for somebody here.
    pub(crate) fn claim_delay(&self, key: &TicketKey) -> Duration {
        CLAIM_TURN * self.rank(key, |facts| facts.waiting.contains_key(key.queue.as_str()))
    }

    /// How long to wait before this ticket is repaired here.
    pub(crate) fn repair_delay(&self, key: &TicketKey) -> Duration {
        REPAIR_TURN * self.rank(key, |_| true)
    }

    /// How long to wait before the build that this ticket ended is recorded here.
    pub(crate) fn record_delay(&self, key: &TicketKey, ticket: &Ticket) -> Duration {
        let nobody_else = lock(&self.peers.0).is_empty();
        if nobody_else || ticket.node == self.node.as_str() {
            return Duration::ZERO;
        }
        RECORD_GRACE * (1 + self.rank(key, |_| true))
    }
}

/// The place of a mount in the order for a ticket: rendezvous hashing.
fn weight(node: &Name, key: &TicketKey) -> Digest {
    Digest::of(format!("{node}\n{key}").as_bytes())
}

/// The session that is alive, if one is.
pub(crate) fn session_of(session: &Session) -> Option<u64> {
    match session {
        Session::Live { id } | Session::Doubtful { id } => Some(*id),
        Session::Lost { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::names::TicketId;

    #[test]
    fn each_ticket_has_an_order_of_its_own_and_all_orders_come_up() {
        let nodes = ["a", "b", "c"].map(|n| Name::new(n).unwrap());
        let mut first = [0; 3];
        for i in 0..300 {
            let id = TicketId::new(&format!("t{i}")).unwrap();
            let key = TicketKey {
                queue: Name::new("q").unwrap(),
                id,
            };
            let best = (0..3).max_by_key(|at| weight(&nodes[*at], &key)).unwrap();
            first[best] += 1;
        }
        assert!(first.iter().all(|count| *count > 60), "{first:?}");
    }

    #[test]
    fn what_an_older_version_tells_is_read() {
        let facts: NodeFacts = serde_json::from_str(r#"{"pid":1,"since":2,"new":"x"}"#).unwrap();
        assert_eq!((facts.pid, facts.since, facts.waiting.len()), (1, 2, 0));
    }
}
