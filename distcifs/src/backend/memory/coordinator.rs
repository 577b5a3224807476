//! The coordinator's own view: the entries as the last commit left them, and the sessions.

use std::collections::{BTreeMap, HashMap};

use tokio::time::Instant;

use crate::backend::entries::Entries;
use crate::storage::Op;

/// The entries and whose they are.
pub(super) struct Coordinator {
    entries: Entries,
    /// Position of the next commit.
    position: u64,
    /// The sessions of ephemeral entries.
    owners: HashMap<String, u64>,
    /// The sessions that live, and when they end unless something is heard of their mounts.
    sessions: BTreeMap<u64, Option<Instant>>,
    last_session: u64,
}

impl Coordinator {
    pub(super) fn new() -> Coordinator {
        Coordinator {
            entries: Entries::new(BTreeMap::new()),
            position: 1,
            owners: HashMap::new(),
            sessions: BTreeMap::new(),
            last_session: 0,
        }
    }

    /// The entries as they are now.
    pub(super) fn entries(&self) -> &Entries {
        &self.entries
    }

    /// Begins a session, with an id that none had before.
    pub(super) fn begin(&mut self) -> u64 {
        self.last_session += 1;
        self.sessions.insert(self.last_session, None);
        self.last_session
    }

    /// Whether a session lives.
    pub(super) fn lives(&self, session: u64) -> bool {
        self.sessions.contains_key(&session)
    }

    /// Nothing more is heard of a session's mount: it ends then.
    pub(super) fn leave(&mut self, session: u64, end: Instant) {
        if let Some(ends) = self.sessions.get_mut(&session) {
            *ends = Some(end);
        }
    }

    /// Something is heard of a session's mount again; of one that is over nothing comes back.
    pub(super) fn hear(&mut self, session: u64) {
        if let Some(ends) = self.sessions.get_mut(&session) {
            *ends = None;
        }
    }

    /// When the next session ends, if nothing is heard of it.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.sessions.values().flatten().min().copied()
    }

    /// The sessions whose time is over.
    pub(super) fn overdue(&self, now: Instant) -> Vec<u64> {
        let over = self
            .sessions
            .iter()
            .filter(|(_, end)| end.is_some_and(|end| end <= now));
        over.map(|(session, _)| *session).collect()
    }

    /// Ends a session; the removal of what was in it.
    pub(super) fn end(&mut self, session: u64) -> Vec<Op> {
        self.sessions.remove(&session);
        let owned = self.owners.iter().filter(|(_, owner)| **owner == session);
        let mut paths: Vec<String> = owned.map(|(path, _)| path.clone()).collect();
        paths.sort();
        paths
            .into_iter()
            .map(|path| Op::Delete { path, version: None })
            .collect()
    }

    /// Does all of it and says at which position, or nothing and the index of the operation that met
    /// something else.
    pub(super) fn commit(&mut self, session: u64, ops: &[Op]) -> Result<u64, usize> {
        let position = self.position;
        self.entries.apply(ops.to_vec(), position)?;
        self.position += 1;
        for op in ops {
            match op {
                Op::Create { path, ephemeral, .. } if *ephemeral => drop(self.owners.insert(path.clone(), session)),
                Op::Delete { path, .. } => drop(self.owners.remove(path)),
                Op::Create { .. } | Op::Set { .. } | Op::Check { .. } => {}
            }
        }
        Ok(position)
    }

    /// As it is after a power cut: no session is left.
    pub(super) fn crash(&self) -> Coordinator {
        let mut after = Coordinator {
            entries: self.entries.clone(),
            position: self.position,
            owners: self.owners.clone(),
            sessions: self.sessions.clone(),
            last_session: self.last_session,
        };
        for session in self.sessions.keys() {
            let ops = after.end(*session);
            // What a session owned is there, and has no children.
            let _ended = after.commit(*session, &ops);
        }
        after
    }
}
