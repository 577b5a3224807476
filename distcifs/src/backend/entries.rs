//! The entries in memory: a sorted map of paths, changed by whole commits that can be undone.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use crate::storage::{Change, Entry, Op};

/// An entry in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) data: Bytes,
    pub(super) version: u32,
    pub(super) created: u64,
    pub(super) ephemeral: bool,
}

/// What an entry was before a commit changed it, in the order of the changes.
pub(super) type Undo = Vec<(Box<str>, Option<Node>)>;

/// A change of the disk: the entry as it is now, `None` if it is gone.
pub(super) type Row = (Box<str>, Option<Node>);

/// What a commit did.
#[derive(Debug, Default)]
pub(super) struct Applied {
    pub(super) rows: Vec<Row>,
    pub(super) undo: Undo,
    pub(super) events: Vec<(Box<str>, Change)>,
    /// Whether something ephemeral was removed.
    pub(super) ends: bool,
}

/// All entries.
#[derive(Debug, Clone)]
pub(super) struct Entries {
    nodes: BTreeMap<Box<str>, Node>,
}

impl Entries {
    /// The entries that were read from disk; the root is added if it is missing.
    pub(super) fn new(mut nodes: BTreeMap<Box<str>, Node>) -> Entries {
        let root = Node {
            data: Bytes::new(),
            version: 0,
            created: 0,
            ephemeral: false,
        };
        nodes.entry("/".into()).or_insert(root);
        Entries { nodes }
    }

    /// Reads an entry.
    pub(super) fn get(&self, path: &str) -> Option<Entry> {
        self.nodes.get(path).map(|node| Entry {
            data: node.data.clone(),
            version: node.version,
            created: node.created,
            ephemeral: node.ephemeral,
        })
    }

    /// Names of the direct children. What lies below a child is stepped over, not walked: its
    /// keys are those from `child/` up to `child0`, as `0` follows `/`.
    pub(super) fn children(&self, path: &str) -> Vec<String> {
        let prefix = below(path);
        let mut names = Vec::new();
        let mut from = format!("{prefix}\0");
        while let Some(key) = self.next(&from).filter(|key| key.starts_with(&prefix)) {
            let rest = &key[prefix.len()..];
            from.truncate(prefix.len());
            if let Some((child, _)) = rest.split_once('/') {
                from.push_str(child);
                from.push('0');
            } else {
                names.push(rest.to_owned());
                from.push_str(rest);
                from.push('\0');
            }
        }
        names
    }

    /// The first path at or after this one.
    fn next(&self, from: &str) -> Option<&str> {
        let range = (Bound::Included(from), Bound::Unbounded);
        self.nodes.range::<str, _>(range).next().map(|(key, _)| &**key)
    }

    fn has_children(&self, path: &str) -> bool {
        let prefix = below(path);
        self.next(&format!("{prefix}\0"))
            .is_some_and(|key| key.starts_with(&prefix))
    }

    /// Does all of it, or nothing and the index of the operation that met something else.
    pub(super) fn apply(&mut self, ops: Vec<Op>, position: u64) -> Result<Applied, usize> {
        let mut applied = Applied::default();
        for (index, op) in ops.into_iter().enumerate() {
            if self.step(op, position, &mut applied).is_none() {
                self.revert(applied.undo);
                return Err(index);
            }
        }
        Ok(applied)
    }

    fn step(&mut self, op: Op, position: u64, applied: &mut Applied) -> Option<()> {
        match op {
            Op::Create { path, data, ephemeral } => {
                let parent = self.nodes.get(parent(&path)?)?;
                if parent.ephemeral || self.nodes.contains_key(path.as_str()) {
                    return None;
                }
                let data = Bytes::copy_from_slice(&data);
                let node = Node {
                    data,
                    version: 0,
                    created: position,
                    ephemeral,
                };
                self.put(path.into(), Some(node), Change::Created, applied);
            }
            Op::Set { path, data, version } => {
                let old = self.nodes.get(path.as_str()).filter(|n| is(n, version))?;
                let data = Bytes::copy_from_slice(&data);
                let node = Node {
                    data,
                    version: old.version.wrapping_add(1),
                    ..*old
                };
                self.put(path.into(), Some(node), Change::Set, applied);
            }
            Op::Delete { path, version } => {
                self.nodes.get(path.as_str()).filter(|n| is(n, version))?;
                if path == "/" || self.has_children(&path) {
                    return None;
                }
                self.put(path.into(), None, Change::Deleted, applied);
            }
            Op::Check { path, version } => {
                self.nodes.get(path.as_str()).filter(|n| is(n, version))?;
            }
        }
        Some(())
    }

    fn put(&mut self, path: Box<str>, node: Option<Node>, change: Change, applied: &mut Applied) {
        let old = self.exchange(path.clone(), node.clone());
        if !node.as_ref().or(old.as_ref()).is_some_and(|n| n.ephemeral) {
            applied.rows.push((path.clone(), node));
        } else if change == Change::Deleted {
            applied.ends = true;
        }
        applied.undo.push((path.clone(), old));
        applied.events.push((path, change));
    }

    fn exchange(&mut self, path: Box<str>, node: Option<Node>) -> Option<Node> {
        match node {
            Some(node) => self.nodes.insert(path, node),
            None => self.nodes.remove(&path),
        }
    }

    /// Takes a commit back, and says what changes by that.
    pub(super) fn revert(&mut self, undo: Undo) -> Vec<(Box<str>, Change)> {
        let mut events = Vec::with_capacity(undo.len());
        for (path, old) in undo.into_iter().rev() {
            let wanted = old.is_some();
            let change = match (self.exchange(path.clone(), old).is_some(), wanted) {
                (_, false) => Change::Deleted,
                (true, true) => Change::Set,
                (false, true) => Change::Created,
            };
            events.push((path, change));
        }
        events
    }
}

fn is(node: &Node, version: Option<u32>) -> bool {
    version.is_none_or(|version| version == node.version)
}

/// How everything below this entry begins.
fn below(path: &str) -> String {
    if path == "/" {
        path.to_owned()
    } else {
        format!("{path}/")
    }
}

/// The entry that this one is a child of; `None` for the root.
fn parent(path: &str) -> Option<&str> {
    match path.rsplit_once('/')? {
        (_, "") => None,
        ("", _) => Some("/"),
        (parent, _) => Some(parent),
    }
}
