//! What names of objects the store takes: stricter than a file system, as the cluster's stores are.

use crate::storage::bounds::refused;
use crate::storage::{Object, Result};

/// Longest name of a record or console, bytes.
pub(super) const NAME_BYTES_MAX: usize = 200;

/// Longest key of a record, bytes: names of jobs and tasks are far shorter.
pub(super) const KEY_BYTES_MAX: usize = 1024;

/// The kind that consoles have in `list`, and how their names begin.
pub(super) const CONSOLE: &str = "console";

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
