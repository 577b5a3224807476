//! What paths and commits a coordination service takes: the same on every backend, so that what
//! works on one works on all.

use super::coordination::{COMMIT_OPS_MAX, ENTRY_BYTES_MAX};
use super::{Error, Op, Result};

/// Longest path of an entry, bytes: ours have 300 at most.
pub const PATH_BYTES_MAX: usize = 1024;

/// An error for an argument outside what the store takes.
pub(crate) fn refused(what: impl Into<String>, why: impl Into<String>) -> Error {
    Error::Refused {
        what: what.into(),
        why: why.into(),
    }
}

/// Checks the path of an entry.
///
/// # Errors
/// `Refused` unless it is absolute, plain and at most [`PATH_BYTES_MAX`] long.
pub(crate) fn check_path(path: &str) -> Result<()> {
    let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && part.chars().all(is_plain);
    let below = path.strip_prefix('/');
    if path.len() > PATH_BYTES_MAX {
        let start: String = path.chars().take(64).collect();
        return Err(refused(start, format!("a path has {PATH_BYTES_MAX} bytes at most")));
    }
    if below.is_some_and(|below| below.is_empty() || below.split('/').all(plain)) {
        return Ok(());
    }
    Err(refused(format!("{path:?}"), "not an absolute path of plain components"))
}

/// Whether ZooKeeper takes the character in a path: no control, private or special ones.
fn is_plain(c: char) -> bool {
    !c.is_control() && !('\u{e000}'..='\u{f8ff}').contains(&c) && !('\u{fff0}'..='\u{ffff}').contains(&c)
}

/// Checks the bounds of a commit, and gives it a name for errors: that of its first operation.
///
/// # Errors
/// `Refused` past [`ENTRY_BYTES_MAX`] or [`COMMIT_OPS_MAX`], or with a malformed path.
pub(crate) fn check_commit(ops: &[Op]) -> Result<String> {
    if ops.len() > COMMIT_OPS_MAX {
        let why = format!("a commit has {COMMIT_OPS_MAX} operations at most, not {}", ops.len());
        return Err(refused("commit", why));
    }
    for op in ops {
        let (path, data) = match op {
            Op::Create { path, data, .. } | Op::Set { path, data, .. } => (path, data.len()),
            Op::Delete { path, .. } | Op::Check { path, .. } => (path, 0),
        };
        check_path(path)?;
        if data > ENTRY_BYTES_MAX {
            let why = format!("an entry has {ENTRY_BYTES_MAX} bytes at most, not {data}");
            return Err(refused(path, why));
        }
    }
    Ok(match ops.first() {
        Some(Op::Create { path, .. }) => format!("create {path}"),
        Some(Op::Set { path, .. }) => format!("set {path}"),
        Some(Op::Delete { path, .. }) => format!("delete {path}"),
        Some(Op::Check { path, .. }) => format!("check {path}"),
        None => "commit".to_owned(),
    })
}
