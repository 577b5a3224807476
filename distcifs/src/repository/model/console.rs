//! Names of consoles.

use crate::repository::model::ticket::{BuildRef, Ticket, TicketKey};
use crate::storage::Digest;

/// A console, and its length if nothing will be appended to it any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub length: Option<u64>,
}

/// The name of a build's console.
pub(crate) fn build_console(uid: &str, build: u64) -> String {
    format!("console.{uid}.{build}.all")
}

/// The name of the console of one claim on a ticket.
pub(crate) fn attempt_console(key: &TicketKey, ticket: &Ticket, ordinal: u32) -> String {
    match &ticket.part {
        Some(BuildRef {
            uid, build, task, run, ..
        }) => {
            let task = task.map_or("control".to_owned(), |i| i.to_string());
            format!("console.{uid}.{build}.{task}-{run}.{ordinal}")
        }
        None => {
            let name = format!("{key} {}", ticket.posted);
            let digest = Digest::of(name.as_bytes()).to_string();
            format!("console.t{}.{ordinal}", &digest[..24])
        }
    }
}

/// The names of all consoles of a ticket, in order of its attempts.
pub(crate) fn scope_of(key: &TicketKey, ticket: &Ticket) -> Vec<String> {
    (1..=ticket.ordinal())
        .map(|ordinal| attempt_console(key, ticket, ordinal))
        .collect()
}
