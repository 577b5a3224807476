//! Listing: a walk over the pool's namespace that takes the names of one kind.

use super::Core;
use super::errors::Kind;
use crate::storage::contents::LISTING_PAGE_MAX;
use crate::storage::names::{CONSOLE, check_object, kind_of};
use crate::storage::{Digest, Listing, Object, Result};

impl Core {
    /// Lists the objects of a kind.
    pub(super) fn list(&self, kind: &str) -> Result<Listing> {
        let (what, kind, user) = (format!("list {kind}"), kind.to_owned(), self.user.clone());
        let failed = |what: &str, user: &str, errno| super::fault(what, Kind::Reads, errno, user);
        let pool = self.pool().map_err(|errno| failed(&what, &user, errno))?.clone();
        let mut names = pool.names();
        let (mut found, mut ended) = (Vec::new(), false);
        Listing::by_thread(what.clone(), move || {
            while !ended && found.len() < LISTING_PAGE_MAX {
                match names.more().map_err(|errno| failed(&what, &user, errno))? {
                    Some(some) => found.extend(some.iter().filter_map(|name| object_of(&kind, name))),
                    None => ended = true,
                }
            }
            let rest = found.split_off(found.len().min(LISTING_PAGE_MAX));
            Ok(std::mem::replace(&mut found, rest))
        })
    }
}

/// The object of this name, if it is of the kind; names that are none of ours are passed over.
fn object_of(kind: &str, name: &str) -> Option<Object> {
    let rest = kind_of(name) == kind;
    let digest = || name.split_once('.').and_then(|(_, digits)| Digest::parse(digits));
    let object = match kind {
        _ if !rest => None,
        "chunk" => digest().map(Object::Chunk),
        "tree" => digest().map(Object::Tree),
        CONSOLE => Some(Object::Console(name.to_owned())),
        _ => Some(Object::Record(name.to_owned())),
    };
    object.filter(|object| check_object(object).is_ok())
}
