//! Blobs, records and consoles, and how much of them is durable.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use bytes::Bytes;

use crate::storage::contents::SEALED;
use crate::storage::names::{CONSOLE, kind_of};
use crate::storage::{Appended, Object, Page, Updated};

/// Keys of a record with what they are set to.
pub(super) type Changes = Vec<(String, Option<Bytes>)>;

/// All objects.
#[derive(Default)]
pub(super) struct Objects {
    blobs: HashMap<Object, Blob>,
    records: BTreeMap<String, Record>,
    consoles: BTreeMap<String, Console>,
}

#[derive(Clone)]
struct Blob {
    bytes: Bytes,
    /// The epoch in which it was put last.
    mark: u64,
    durable: bool,
}

#[derive(Clone, Default)]
struct Record {
    revision: u64,
    values: BTreeMap<String, Bytes>,
}

#[derive(Clone, Default)]
struct Console {
    bytes: Vec<u8>,
    sequence: u64,
    /// Its length and its sequence number when it was synced.
    durable: Option<(usize, u64)>,
}

impl Objects {
    /// Stores a blob; whether it was not there.
    pub(super) fn put(&mut self, object: &Object, bytes: Bytes, epoch: u64) -> bool {
        let known = self.blobs.get_mut(object);
        let new = known.is_none();
        match known {
            // A later mark is another mount's: it must never be lowered.
            Some(blob) => blob.mark = blob.mark.max(epoch),
            None => {
                let (mark, durable) = (epoch, false);
                self.blobs.insert(object.clone(), Blob { bytes, mark, durable });
            }
        }
        new
    }

    /// All bytes of a blob or console.
    pub(super) fn bytes(&self, object: &Object) -> Option<&[u8]> {
        match object {
            Object::Console(name) => self.consoles.get(name).map(|console| &console.bytes[..]),
            blob => self.blobs.get(blob).map(|blob| &blob.bytes[..]),
        }
    }

    pub(super) fn append(&mut self, name: &str, sequence: u64, bytes: &[u8]) -> Appended {
        let (length, now) = self
            .consoles
            .get(name)
            .map_or((0, 0), |console| (console.bytes.len() as u64, console.sequence));
        let seals = sequence == SEALED && bytes.is_empty();
        if !seals && (sequence != now || now == SEALED) {
            return Appended::Mismatch { length, sequence: now };
        }
        let console = self.consoles.entry(name.to_owned()).or_default();
        console.bytes.extend_from_slice(bytes);
        console.sequence = if seals { SEALED } else { now + 1 };
        Appended::Done {
            length: console.bytes.len() as u64,
            sequence: console.sequence,
        }
    }

    pub(super) fn update(&mut self, name: &str, revision: Option<u64>, changes: Changes) -> Updated {
        let now = self.records.get(name).map_or(0, |record| record.revision);
        if revision.is_some_and(|revision| revision != now) {
            return Updated::Mismatch { revision: now };
        }
        let record = self.records.entry(name.to_owned()).or_default();
        record.revision += 1;
        for (key, value) in changes {
            match value {
                Some(value) => drop(record.values.insert(key, value)),
                None => drop(record.values.remove(&key)),
            }
        }
        Updated::Done {
            revision: record.revision,
        }
    }

    pub(super) fn query(&self, name: &str, prefix: &str, after: &str, limit: usize) -> Page {
        let Some(record) = self.records.get(name) else {
            return Page::default();
        };
        let from = if after.is_empty() || after < prefix {
            Bound::Included(prefix)
        } else {
            Bound::Excluded(after)
        };
        let found = record.values.range::<str, _>((from, Bound::Unbounded));
        let found = found.take_while(|(key, _)| key.starts_with(prefix)).take(limit);
        Page {
            revision: record.revision,
            entries: found.map(|(key, value)| (key.clone(), value.clone())).collect(),
        }
    }

    /// Removes an object.
    pub(super) fn remove(&mut self, object: &Object) {
        match object {
            Object::Record(name) => drop(self.records.remove(name)),
            Object::Console(name) => drop(self.consoles.remove(name)),
            blob => drop(self.blobs.remove(blob)),
        }
    }

    /// Removes a blob whose mark is older; its length if it was removed.
    pub(super) fn sweep(&mut self, object: &Object, epoch: u64) -> Option<u64> {
        let older = |blob: &&Blob| epoch == u64::MAX || blob.mark < epoch;
        let length = self.blobs.get(object).filter(older)?.bytes.len();
        self.blobs.remove(object);
        Some(length as u64)
    }

    /// Forgets all marks.
    pub(super) fn unmark(&mut self) {
        self.blobs.values_mut().for_each(|blob| blob.mark = 0);
    }

    /// All objects of a kind.
    pub(super) fn list(&self, kind: &str) -> Vec<Object> {
        match kind {
            "chunk" => self
                .blobs
                .keys()
                .filter(|b| matches!(b, Object::Chunk(_)))
                .cloned()
                .collect(),
            "tree" => self
                .blobs
                .keys()
                .filter(|b| matches!(b, Object::Tree(_)))
                .cloned()
                .collect(),
            CONSOLE => self.consoles.keys().cloned().map(Object::Console).collect(),
            kind => {
                let names = self.records.keys().filter(|name| kind_of(name) == kind);
                names.cloned().map(Object::Record).collect()
            }
        }
    }

    /// Makes an object durable as it is now.
    pub(super) fn sync(&mut self, object: &Object) {
        match object {
            Object::Record(_) => {}
            Object::Console(name) => {
                if let Some(console) = self.consoles.get_mut(name) {
                    console.durable = Some((console.bytes.len(), console.sequence));
                }
            }
            blob => {
                if let Some(blob) = self.blobs.get_mut(blob) {
                    blob.durable = true;
                }
            }
        }
    }

    /// What is left after a power cut.
    pub(super) fn crash(&self) -> Objects {
        let blobs = self.blobs.iter().filter(|(_, blob)| blob.durable);
        let consoles = self.consoles.iter().filter_map(|(name, console)| {
            let (length, sequence) = console.durable?;
            let bytes = console.bytes.get(..length)?.to_vec();
            let durable = console.durable;
            let left = Console {
                bytes,
                sequence,
                durable,
            };
            Some((name.clone(), left))
        });
        Objects {
            blobs: blobs.map(|(object, blob)| (object.clone(), blob.clone())).collect(),
            records: self.records.clone(),
            consoles: consoles.collect(),
        }
    }
}
