//! The verbs of a CI: configure, trigger, post, claim, append, finish, abort.

pub mod config;
pub mod error;
pub mod names;
pub mod snapshot;

pub use error::{Error, Result};
