//! What names, blobs and changes a store of contents takes: the same on every backend.

use bytes::Bytes;

use super::bounds::refused;
use super::contents::VALUE_BYTES_MAX;
use super::{Digest, Object, Result};

/// Longest name of a record or console, bytes.
pub(crate) const NAME_BYTES_MAX: usize = 200;

/// Longest key of a record, bytes: names of jobs and tasks are far shorter.
pub(crate) const KEY_BYTES_MAX: usize = 1024;

/// Most bytes that one change of a record may carry: two of the largest values.
const UPDATE_BYTES_MAX: usize = 2 * VALUE_BYTES_MAX;

/// The kind that consoles have in `list`, and how their names begin.
pub(crate) const CONSOLE: &str = "console";

/// The kind of a name: its part before the first dot.
pub(crate) fn kind_of(name: &str) -> &str {
    name.split_once('.').map_or(name, |(kind, _)| kind)
}

/// Checks the name of an object.
///
/// # Errors
/// `Refused` unless it is printable ASCII without `/`, and begins as its kind asks.
pub(crate) fn check_object(object: &Object) -> Result<()> {
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

/// The name of a record.
///
/// # Errors
/// `Refused` for another object.
pub(crate) fn check_record(object: Object) -> Result<String> {
    check_object(&object)?;
    match object {
        Object::Record(name) => Ok(name),
        other => Err(refused(other.to_string(), "not a record")),
    }
}

/// Checks what is to be put.
///
/// # Errors
/// `Refused` if it is no blob, too large, or its bytes have another digest.
pub(crate) fn check_blob(object: &Object, bytes: &Bytes) -> Result<()> {
    let Some(digest) = object.digest() else {
        return Err(refused(object.to_string(), "only a blob can be put"));
    };
    if bytes.len() > VALUE_BYTES_MAX {
        let why = format!("a blob has {VALUE_BYTES_MAX} bytes at most, not {}", bytes.len());
        return Err(refused(object.to_string(), why));
    }
    if Digest::of(bytes) != *digest {
        return Err(refused(object.to_string(), "its bytes have another digest"));
    }
    Ok(())
}

/// Checks what is to be appended.
///
/// # Errors
/// `Refused` if it is no console, or there are too many bytes.
pub(crate) fn check_append(object: &Object, bytes: &Bytes) -> Result<()> {
    check_object(object)?;
    let Object::Console(_) = object else {
        return Err(refused(object.to_string(), "only a console is appended to"));
    };
    if bytes.len() > VALUE_BYTES_MAX {
        let why = format!("an append has {VALUE_BYTES_MAX} bytes at most");
        return Err(refused(object.to_string(), why));
    }
    Ok(())
}

/// Checks the bounds of a change of a record, and says how large it is, bytes.
///
/// # Errors
/// `Refused` for a key that is empty, has a NUL or is too long, and for too many bytes.
pub(crate) fn check_changes(name: &str, changes: &[(String, Option<Bytes>)]) -> Result<u64> {
    let mut sum = name.len();
    for (key, value) in changes {
        if key.is_empty() || key.len() > KEY_BYTES_MAX || key.contains('\0') {
            let why = format!("a key has 1 to {KEY_BYTES_MAX} bytes and no NUL");
            return Err(refused(name, why));
        }
        let bytes = value.as_ref().map_or(0, Bytes::len);
        if bytes > VALUE_BYTES_MAX {
            return Err(refused(name, format!("a value has {VALUE_BYTES_MAX} bytes at most")));
        }
        sum += key.len() + bytes;
    }
    if sum > UPDATE_BYTES_MAX {
        return Err(refused(name, format!("a change has {UPDATE_BYTES_MAX} bytes at most")));
    }
    Ok(sum as u64)
}
