//! Operations on entries of the coordinator, and steps made of them.

use bytes::Bytes;

use crate::storage::Op;

/// Keys of a record with what they are set to; `None` removes one.
pub(crate) type Changes = Vec<(String, Option<Bytes>)>;

/// One step: what stands after it, and the operations that make it so in one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step<T> {
    /// What stands then.
    pub(crate) after: T,
    /// In this order.
    pub(crate) ops: Vec<Op>,
}

/// An operation that makes a lasting entry.
pub(crate) fn create(path: impl Into<String>, data: Bytes) -> Op {
    Op::Create {
        path: path.into(),
        data,
        ephemeral: false,
    }
}

/// An operation that makes an entry which goes with the session.
pub(crate) fn create_ephemeral(path: impl Into<String>, data: Bytes) -> Op {
    Op::Create {
        path: path.into(),
        data,
        ephemeral: true,
    }
}

/// An operation that replaces the data of an entry of that version.
pub(crate) fn set(path: impl Into<String>, data: Bytes, version: u32) -> Op {
    Op::Set {
        path: path.into(),
        data,
        version: Some(version),
    }
}

/// An operation that removes an entry, of that version if one is given.
pub(crate) fn delete(path: impl Into<String>, version: Option<u32>) -> Op {
    Op::Delete {
        path: path.into(),
        version,
    }
}
