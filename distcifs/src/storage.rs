//! The two storage traits, and all that is said about them in one place.
//!
//! *Coordination* holds what must be agreed on or must vanish with its owner: small entries,
//! changed together or not at all. *Contents* hold everything that is kept: blobs named by their
//! digest, records of keys and values, and consoles that are appended to. Nothing above this
//! module knows which backend stands behind it (doc/storage.md).

use std::future::Future;
use std::pin::Pin;

#[cfg(any(test, feature = "conformance"))]
pub mod around;
pub mod bounds;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod contents;
pub mod coordination;
#[cfg(any(test, feature = "conformance"))]
pub mod counted;
pub(crate) mod descriptors;
pub mod error;
#[cfg(any(test, feature = "conformance"))]
pub mod faults;
pub(crate) mod listeners;
pub(crate) mod mix;
pub(crate) mod names;
pub(crate) mod watcher;

pub use contents::{Appended, Contents, Digest, Listing, Notices, Object, Page, Updated};
pub use coordination::{Change, Commit, Coordination, Entry, Event, Op, Session, Watch};
pub use error::{Error, Result};

/// A boxed future of a storage call; it borrows the store and never the arguments.
pub type Fut<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;
