//! What names the store takes: stricter than a file system, as the cluster's stores are.

use crate::storage::{Error, Object, Result};

/// Longest path of an entry, bytes: ours have 300 at most.
pub(super) const PATH_BYTES_MAX: usize = 1024;

/// Longest name of a record or console, bytes.
pub(super) const NAME_BYTES_MAX: usize = 200;

/// Longest key of a record, bytes: names of jobs and tasks are far shorter.
pub(super) const KEY_BYTES_MAX: usize = 1024;

/// The kind that consoles have in `list`, and how their names begin.
pub(super) const CONSOLE: &str = "console";

/// An error for an argument outside what the store takes.
pub(super) fn refused(what: impl Into<String>, why: impl Into<String>) -> Error {
    Error::Refused {
        what: what.into(),
        why: why.into(),
    }
}

/// Checks the path of an entry.
pub(super) fn check_path(path: &str) -> Result<()> {
    let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.chars().any(char::is_control);
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

/// The kind of a name: its part before the first dot.
pub(super) fn kind_of(name: &str) -> &str {
    name.split_once('.').map_or(name, |(kind, _)| kind)
}

/// Checks the name of an object.
pub(super) fn check_object(object: &Object) -> Result<()> {
    let (name, console) = match object {
        Object::Chunk(_) | Object::Tree(_) => return Ok(()),
        Object::Record(name) => (name, false),
        Object::Console(name) => (name, true),
    };
    let printable = |b: u8| (b' '..=b'~').contains(&b) && b != b'/';
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(printable) {
        let start: String = name.chars().take(64).collect();
        let why = format!("a name has 1 to {NAME_BYTES_MAX} bytes of printable ASCII without /");
        return Err(refused(format!("{start:?}"), why));
    }
    match (kind_of(name), console) {
        (CONSOLE, true) => Ok(()),
        (_, true) => Err(refused(name, "the name of a console begins with \"console.\"")),
        ("chunk" | "tree" | CONSOLE, false) => {
            Err(refused(name, "the name of a record begins like that of another kind"))
        }
        (_, false) => Ok(()),
    }
}

/// Checks a key of a record.
pub(super) fn check_key(name: &str, key: &str) -> Result<()> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX || key.contains('\0') {
        let why = format!("a key has 1 to {KEY_BYTES_MAX} bytes and no NUL");
        return Err(refused(name, why));
    }
    Ok(())
}

/// Whether every name that begins with `prefix` comes before or at `after`.
pub(super) fn is_past(prefix: &str, after: &str) -> bool {
    after > prefix && !after.starts_with(prefix)
}
