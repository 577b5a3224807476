//! Plain data: what stands in entries and records, what it is called there, and what can be told from it
//! alone. Nothing here waits, locks or asks a store.

pub mod build;
pub mod claim;
pub mod console;
pub mod deed;
pub mod event;
pub(crate) mod given;
pub mod group;
pub mod hold;
pub mod job;
pub(crate) mod json;
pub(crate) mod keys;
pub mod notification;
pub(crate) mod ops;
pub mod plan;
pub mod record;
pub mod skills;
pub(crate) mod steps;
pub mod ticket;
pub mod trash;
pub mod unknown;
pub(crate) mod when;
