//! What stores hold, as mounts that see it at one time and write at another share it.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::repository::model::claim::ClaimEntry;
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
    fn meets(&self, op: &Op) -> bool {
        let is = |path: &str, version: Option<u32>| {
            let node = self.nodes.get(path);
            node.is_some_and(|node| version.is_none_or(|version| version == node.version))
        };
        match op {
            Op::Create { path, .. } => !self.nodes.contains_key(path),
            Op::Set { path, version, .. } | Op::Delete { path, version } | Op::Check { path, version } => {
                is(path, *version)
            }
        }
    }

    /// Does all of it or nothing; whether it did. No commit names a path twice but to check it.
    pub(in crate::repository::model::steps) fn commit(&mut self, actor: usize, ops: Vec<Op>) -> bool {
        if !ops.iter().all(|op| self.meets(op)) {
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
