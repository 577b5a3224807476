//! The verbs of a CI: configure, trigger, post, claim, append, finish, abort.

pub mod about;
pub mod access;
pub(crate) mod apart;
pub mod attempts;
pub mod builds;
mod cache;
pub mod claims;
pub mod config;
pub mod configure;
pub mod consoles;
pub mod control;
pub mod core;
pub(crate) mod deadline;
pub(crate) mod dispatch;
mod downstream;
mod drain;
pub mod enabled;
pub mod error;
mod events;
pub(crate) mod flood;
pub mod format;
mod fresh;
mod groups;
mod held;
pub mod jobs;
mod looked;
pub(crate) mod lookups;
pub mod maintain;
pub mod model;
pub mod names;
mod needs;
pub mod nodes;
mod notices;
mod notify;
mod one_by_one;
pub mod people;
pub mod queue_index;
pub mod records;
mod rename;
pub(crate) mod reserve;
pub mod schedules;
pub mod service;
mod shown;
pub mod snapshot;
pub mod store;
pub mod summary;
mod supersede;
pub mod tickets;
pub(crate) mod tops;
pub mod trash;
mod trust;
mod turns;
pub mod view;
pub(crate) mod wakers;
pub(crate) mod work;

#[cfg(test)]
mod tests;

pub use error::{Error, Failure, Result};
pub use service::{Repository, Setup};

pub use crate::storage::Digest;
pub(crate) use crate::storage::descriptors;
