//! What stores hold, as mounts that see it at one time and write at another share it.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::repository::model::claim::ClaimEntry;
use crate::repository::model::keys::Key;
use crate::repository::model::ops::Changes;
use crate::repository::model::ticket::{Posted, TicketKey};
use crate::storage::{Object, Op};

/// An entry; ephemeral ones belong to an actor.
pub(in crate::repository::model::steps) struct Node {
    pub(in crate::repository::model::steps) data: Bytes,
    pub(in crate::repository::model::steps) version: u32,
    created: u64,
    pub(in crate::repository::model::steps) of: Option<usize>,
}

/// A record: its revision and its lines.
#[derive(Default)]
struct Lines {
    revision: u64,
    lines: BTreeMap<String, Bytes>,
}

/// A coordinator, whole commits or none, in one order; and records, each of which changes as one.
#[derive(Default)]
pub(in crate::repository::model::steps) struct World {
    pub(in crate::repository::model::steps) nodes: BTreeMap<String, Node>,
    records: BTreeMap<String, Lines>,
    commits: u64,
}

impl World {
    /// Whether an operation can be done after those before it.
    fn meets(&self, op: &Op, before: &[Op]) -> bool {
        let is = |path: &str, version: Option<u32>| {
            let node = self.nodes.get(path);
            node.is_some_and(|node| version.is_none_or(|version| version == node.version))
        };
        match op {
            Op::Create { path, .. } => !self.nodes.contains_key(path) && self.has_group(path, before),
            Op::Delete { path, version } => is(path, *version) && !self.has_places(path),
            Op::Set { path, version, .. } | Op::Check { path, version } => is(path, *version),
        }
    }

    /// Whether a place is to be made below a group that is there.
    fn has_group(&self, path: &str, before: &[Op]) -> bool {
        let Some(Key::Place(digest, _)) = Key::parse(path) else {
            return true;
        };
        let group = Key::Group(digest).path();
        let made = |op: &Op| matches!(op, Op::Create { path, .. } if *path == group);
        self.nodes.contains_key(&group) || before.iter().any(made)
    }

    /// Whether this is a group in which somebody has a place.
    fn has_places(&self, path: &str) -> bool {
        matches!(Key::parse(path), Some(Key::Group(_))) && !self.below(path).is_empty()
    }

    /// The names of what stands below an entry.
    pub(in crate::repository::model::steps) fn below(&self, path: &str) -> Vec<&str> {
        let below = |known: &'_ String| known.strip_prefix(path)?.strip_prefix('/').map(str::len);
        let names = self
            .nodes
            .keys()
            .filter_map(|known| Some(&known[known.len() - below(known)?..]));
        names.filter(|name| !name.contains('/')).collect()
    }

    /// Does all of it or nothing; whether it did. No commit names a path twice but to check it.
    pub(in crate::repository::model::steps) fn commit(&mut self, actor: usize, ops: Vec<Op>) -> bool {
        if !ops.iter().enumerate().all(|(at, op)| self.meets(op, &ops[..at])) {
            return false;
        }
        self.commits += 1;
        for op in ops {
            match op {
                Op::Create { path, data, ephemeral } => {
                    let node = Node {
                        data,
                        version: 0,
                        created: self.commits,
                        of: ephemeral.then_some(actor),
                    };
                    self.nodes.insert(path, node);
                }
                Op::Set { path, data, .. } => {
                    let node = self.nodes.get_mut(&path).unwrap();
                    (node.data, node.version) = (data, node.version + 1);
                }
                Op::Delete { path, .. } => drop(self.nodes.remove(&path)),
                Op::Check { .. } => {}
            }
        }
        true
    }

    /// What an entry holds, and its version.
    pub(in crate::repository::model::steps) fn read<T: DeserializeOwned>(&self, path: &str) -> Option<(T, u32)> {
        let node = self.nodes.get(path)?;
        Some((serde_json::from_slice(&node.data).unwrap(), node.version))
    }

    pub(in crate::repository::model::steps) fn ticket(&self, key: &TicketKey) -> Option<Posted> {
        let node = self.nodes.get(&key.path())?;
        Some(Posted {
            ticket: serde_json::from_slice(&node.data).unwrap(),
            version: node.version,
            created: node.created,
        })
    }

    pub(in crate::repository::model::steps) fn entry(&self, key: &TicketKey) -> Option<ClaimEntry> {
        Some(self.read(&key.claim_path())?.0)
    }

    /// Changes a record that has this revision, or any; whether it did.
    pub(in crate::repository::model::steps) fn update(
        &mut self,
        object: &Object,
        revision: Option<u64>,
        changes: Changes,
    ) -> bool {
        let record = self.records.entry(object.to_string()).or_default();
        if revision.is_some_and(|revision| revision != record.revision) {
            return false;
        }
        record.revision += 1;
        for (key, value) in changes {
            match value {
                Some(value) => drop(record.lines.insert(key, value)),
                None => drop(record.lines.remove(&key)),
            }
        }
        true
    }

    /// A record's revision.
    pub(in crate::repository::model::steps) fn revision(&self, object: &Object) -> u64 {
        self.records
            .get(&object.to_string())
            .map_or(0, |record| record.revision)
    }

    /// A line of a record.
    pub(in crate::repository::model::steps) fn line<T: DeserializeOwned>(
        &self,
        object: &Object,
        key: &str,
    ) -> Option<T> {
        let line = self.records.get(&object.to_string())?.lines.get(key)?;
        Some(serde_json::from_slice(line).unwrap())
    }
}
