//! The bytes of generated files that are open: each version once, however often it is open.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;

use super::node::Node;
use super::shares::{Lease, Party, Shares};
use super::trust::Trust;
use super::{Caller, Error, Result};
use crate::repository::core::lock;

/// What open files may hold in all, bytes; users share them. The daemon as a whole stays small.
const BYTES_MAX: u64 = 96 << 20;

/// What each open file counts beside the bytes that it holds.
const HANDLE_BYTES: u64 = 1 << 10;

/// Versions that are looked through for those nobody has open any more, at least.
const KNOWN_MIN: usize = 64;

/// Spare room of a text that grows, bytes at most: what is counted is what is in it.
const SPARE_BYTES: usize = 64 << 10;

/// Writes into a text at an offset, with zeros before it where the text was shorter. The caller has bounded both.
pub(crate) fn put_at(text: &mut Vec<u8>, start: usize, data: &[u8]) {
    let end = start.saturating_add(data.len());
    if text.len() < end {
        if text.capacity() < end {
            let spare = text.len().min(SPARE_BYTES);
            text.reserve_exact((end - text.len()).max(spare));
        }
        text.resize(end, 0);
    }
    if let Some(room) = text.get_mut(start..end) {
        room.copy_from_slice(data);
    }
}

/// A version of a generated file, as long as a user has it open: its bytes are shared with all others who
/// have, and count for each of them.
pub(crate) struct Text {
    pub(crate) bytes: Bytes,
    _lease: Lease,
}

/// The users who have a version of a file open.
type Users = HashMap<Party, Weak<Text>>;

/// The versions that are open, and the memory of all open files.
pub(crate) struct Texts {
    room: Arc<Shares>,
    known: Mutex<HashMap<Node, Users>>,
}

impl Texts {
    /// None so far.
    pub(crate) fn new(trust: Arc<Trust>) -> Texts {
        Texts {
            room: Shares::new(BYTES_MAX, trust),
            known: Mutex::default(),
        }
    }

    /// Takes what an open file itself counts of its user's share.
    pub(crate) fn open(&self, caller: Caller) -> Result<Lease> {
        self.room.take(caller.uid, HANDLE_BYTES).ok_or_else(full)
    }

    /// What a file holds, shared with all who have the same version open. It counts once for each user,
    /// until he has closed it: nobody pays for what others hold open.
    pub(crate) fn share(&self, caller: Caller, node: &Node, bytes: Bytes) -> Result<Arc<Text>> {
        let party = self.room.party(caller.uid);
        let mut known = lock(&self.known);
        let mut same = None;
        if let Some(users) = known.get_mut(node) {
            users.retain(|_, text| text.strong_count() > 0);
            let own = users.get(&party).and_then(Weak::upgrade);
            if let Some(text) = own.filter(|text| text.bytes == bytes) {
                return Ok(text);
            }
            let others = users.values().filter_map(Weak::upgrade);
            same = others.map(|text| text.bytes.clone()).find(|others| *others == bytes);
        }
        let lease = self.room.take(caller.uid, bytes.len() as u64);
        let text = Arc::new(Text {
            bytes: same.unwrap_or(bytes),
            _lease: lease.ok_or_else(full)?,
        });
        // Looked for when the list has doubled: so it costs each next to nothing.
        if known.len() >= KNOWN_MIN && known.len() == known.capacity() {
            known.retain(|_, users| users.values().any(|text| text.strong_count() > 0));
            let kept = known.len();
            known.reserve(kept);
        }
        let users = known.entry(node.clone()).or_default();
        users.insert(party, Arc::downgrade(&text));
        Ok(text)
    }
}

/// Has an open file count so many bytes from now on.
pub(crate) fn hold(lease: &Mutex<Lease>, bytes: usize) -> Result<()> {
    if lock(lease).set(HANDLE_BYTES + bytes as u64) {
        Ok(())
    } else {
        Err(full())
    }
}

/// The same for one that is about to be opened.
pub(crate) fn hold_all(mut lease: Lease, bytes: usize) -> Result<Lease> {
    if lease.set(HANDLE_BYTES + bytes as u64) {
        Ok(lease)
    } else {
        Err(full())
    }
}

/// The refusal of one whose share is used up.
fn full() -> Error {
    Error::System {
        what: format!("your open files hold your share of {BYTES_MAX} bytes of the daemon's memory; close some"),
        errno: libc::ENOMEM,
    }
}

#[cfg(test)]
mod tests {
    use super::super::node::Top;
    use super::*;

    fn user(uid: u32) -> Caller {
        Caller { tid: 1, uid, gid: 1 }
    }

    fn text(byte: u8, mib: usize) -> Bytes {
        Bytes::from(vec![byte; mib << 20])
    }

    fn texts() -> Texts {
        Texts::new(Arc::default())
    }

    #[test]
    fn a_version_is_held_once_and_counts_once_for_each_user() {
        let texts = texts();
        let node = Node::Top(Top::Status);
        let opened: Vec<_> = (0..1000)
            .map(|_| texts.share(user(1), &node, text(1, 1)).unwrap())
            .collect();
        assert!(opened.iter().all(|text| Arc::ptr_eq(text, &opened[0])));
        let other = texts.share(user(1), &node, text(2, 1)).unwrap();
        assert!(!Arc::ptr_eq(&other, &opened[0]));
        assert!(
            texts.share(user(1), &Node::Root, text(3, 35)).is_err(),
            "half of 72 MiB"
        );
        assert!(texts.share(user(2), &Node::Root, text(3, 35)).is_ok(), "others go on");
        drop((opened, other));
        assert!(texts.share(user(1), &Node::Root, text(3, 35)).is_ok());
    }

    /// "nobody pays for what others hold open" (doc/tree.md)
    #[test]
    fn what_others_hold_open_counts_for_them() {
        let texts = texts();
        let node = Node::Top(Top::Status);
        let first = texts.share(user(1), &node, text(1, 30)).unwrap();
        let second = texts.share(user(2), &node, text(1, 30));
        assert!(second.is_err(), "it is more than his own share");
        drop(first);
        let first = texts.share(user(1), &node, text(1, 20)).unwrap();
        let second = texts.share(user(2), &node, text(1, 20)).unwrap();
        assert_eq!(first.bytes.as_ptr(), second.bytes.as_ptr(), "the bytes are there once");
        drop(first);
        assert!(
            texts.share(user(1), &Node::Root, text(3, 25)).is_ok(),
            "the first is free again"
        );
        drop(second);
    }

    /// What is counted is what a text has: it keeps no more beside that than a little.
    #[test]
    fn a_text_that_grows_has_little_spare_room() {
        let mut text = Vec::new();
        for at in (0..1 << 20).step_by(1 << 10) {
            put_at(&mut text, at, &[1; 1 << 10]);
            assert!(text.capacity() <= text.len() + text.len().min(SPARE_BYTES), "{at}");
        }
        put_at(&mut text, 5, b"abc");
        assert_eq!((text.len(), text.get(4..9)), (1 << 20, Some(&b"\x01abc\x01"[..])));
    }

    #[test]
    fn what_nobody_has_open_is_forgotten() {
        let texts = texts();
        for n in 0..10_000 {
            texts
                .share(user(1), &Node::Published(n), Bytes::from_static(b"x"))
                .unwrap();
        }
        assert!(lock(&texts.known).len() < 1000);
        let lease = Mutex::new(texts.open(user(1)).unwrap());
        assert!(hold(&lease, 35 << 20).is_ok() && hold(&lease, 36 << 20).is_err() && hold(&lease, 0).is_ok());
    }
}
