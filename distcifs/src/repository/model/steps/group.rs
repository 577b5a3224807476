//! What becomes of a group: places are taken with a claim and left with its ticket's end, and nothing stays of one
//! that nobody uses.

use crate::repository::model::group::{GroupEntry, Holder, Member, Place, sharing};
use crate::repository::model::json::to_json;
use crate::repository::model::keys::Key;
use crate::repository::model::ops::{create, delete, set};
use crate::repository::model::ticket::{BuildRef, Ticket, TicketKey};
use crate::storage::Op;

/// Operations at the beginning of a claim that only another claim of the group refuses.
pub(crate) const TURN_OPS: usize = 2;

/// Takes a place, as long as nobody else has taken one since the group was read: `version` is its entry's, `None`
/// if there was none. Who leaves one does not change that, and does not matter: there are only more of them then.
pub(crate) fn take(key: &TicketKey, ticket: &Ticket, part: &BuildRef, member: &Member, place: Place) -> Vec<Op> {
    let path = Key::Group(&member.digest).path();
    let entry = GroupEntry {
        of: sharing(ticket),
        name: member.name.clone(),
    };
    let turn = match place.version {
        Some(version) => set(path, to_json(&entry), version),
        None => create(path, to_json(&entry)),
    };
    let place = Key::Place(&member.digest, place.at).path();
    vec![turn, create(place, to_json(&Holder::of(key, part)))]
}

/// Leaves a place.
pub(crate) fn leave(member: &Member, place: u32) -> Op {
    delete(Key::Place(&member.digest, place).path(), None)
}

/// Removes a group that nobody has a place in: the entry of this version, which each claim changes.
pub(crate) fn remove(digest: &str, version: u32) -> Op {
    delete(Key::Group(digest).path(), Some(version))
}

#[cfg(test)]
mod tests;
