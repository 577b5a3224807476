//! Users as the daemon counts them: those whom the mount trusts, and those that are one person.

use std::sync::{PoisonError, RwLock};
use std::time::SystemTime;

use super::shares::Party;

/// Which ids belong to which user.
const SUBORDINATES: &str = "/etc/subuid";

/// Ids of one isolation: root's are for tasks, a block for each.
const BLOCK: u32 = 1 << 16;

/// Lines that are looked at: more than a node has users. A lookup is by halves.
const LINES_MAX: usize = 1 << 16;

/// Ids that belong to a user.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Range {
    first: u32,
    last: u32,
    /// The first of the user's; `None`: each block is somebody's own.
    of: Option<u32>,
}

/// What is known of users.
#[derive(Debug, Default)]
pub(crate) struct Trust {
    trusted: Vec<u32>,
    /// The truth is the node's file of subordinate ids, which is read again when it changes.
    ranges: RwLock<Vec<Range>>,
    read: RwLock<Option<SystemTime>>,
}

impl Trust {
    /// Of a mount that trusts root and these.
    pub(crate) fn new(trusted: &[u32]) -> Trust {
        let trust = Trust {
            trusted: trusted.to_vec(),
            ..Trust::default()
        };
        trust.read_again();
        trust
    }

    /// The same with this text of subordinate ids.
    #[cfg(test)]
    pub(super) fn of(trusted: &[u32], text: &str) -> Trust {
        Trust {
            trusted: trusted.to_vec(),
            ranges: RwLock::new(ranges(text)),
            read: RwLock::default(),
        }
    }

    /// Whether a user may take what is left: root, who mounted, and programs that steer.
    pub(super) fn is_trusted(&self, uid: u32) -> bool {
        uid == 0 || self.trusted.contains(&uid)
    }

    /// Whose share a user takes of.
    pub(super) fn party(&self, uid: u32) -> Party {
        if self.is_trusted(uid) {
            return Party::User(uid);
        }
        let ranges = self.ranges.read().unwrap_or_else(PoisonError::into_inner);
        let after = ranges.partition_point(|range| range.first <= uid);
        match after
            .checked_sub(1)
            .and_then(|at| ranges.get(at))
            .filter(|range| uid <= range.last)
        {
            Some(Range { of: Some(of), .. }) => Party::Subordinates(*of),
            Some(Range { first, of: None, .. }) => Party::Subordinates(uid - (uid - first) % BLOCK),
            None => Party::User(uid),
        }
    }

    /// Reads which ids belong to whom, if that changed. It may block.
    pub(super) fn read_again(&self) {
        let changed = std::fs::metadata(SUBORDINATES).and_then(|meta| meta.modified()).ok();
        if changed == *self.read.read().unwrap_or_else(PoisonError::into_inner) {
            return;
        }
        // What can't be read has no lines: then each id is a user.
        let text = std::fs::read_to_string(SUBORDINATES).unwrap_or_default();
        *self.ranges.write().unwrap_or_else(PoisonError::into_inner) = ranges(&text);
        *self.read.write().unwrap_or_else(PoisonError::into_inner) = changed;
    }
}

/// The lines of subordinate ids, in order of the ids.
fn ranges(text: &str) -> Vec<Range> {
    let mut firsts = std::collections::HashMap::new();
    let mut ranges = Vec::new();
    for line in text.lines().take(LINES_MAX) {
        let mut parts = line.split(':');
        let (Some(name), Some(first), Some(count)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let (Ok(first), Ok(count)) = (first.trim().parse::<u32>(), count.trim().parse::<u32>()) else {
            continue;
        };
        let Some(last) = count.checked_sub(1).and_then(|more| first.checked_add(more)) else {
            continue;
        };
        let of = *firsts.entry(name).or_insert(first);
        let of = (!matches!(name, "root" | "0")).then_some(of);
        ranges.push(Range { first, last, of });
    }
    ranges.sort_by_key(|range| range.first);
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_their_users() {
        let text = "alice:100000:65536\nnonsense\nroot:300000:200000\nalice:700000:10\nbob:4294967295:9\n7:900000:0\n";
        let trust = Trust::of(&[990, 100_005], text);
        for (uid, party) in [
            (0, Party::User(0)),
            (990, Party::User(990)),
            (1000, Party::User(1000)),
            (100_000, Party::Subordinates(100_000)),
            (165_535, Party::Subordinates(100_000)),
            (165_536, Party::User(165_536)),
            (700_009, Party::Subordinates(100_000)),
            (300_000, Party::Subordinates(300_000)),
            (365_535, Party::Subordinates(300_000)),
            (365_536, Party::Subordinates(365_536)),
            (100_005, Party::User(100_005)),
            (u32::MAX, Party::User(u32::MAX)),
            (900_000, Party::User(900_000)),
        ] {
            assert_eq!(trust.party(uid), party, "{uid}");
        }
    }
}
