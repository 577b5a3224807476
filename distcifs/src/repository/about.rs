//! What a mount says of itself, and what it counts of its work.

use std::sync::atomic::AtomicU64;

use super::names::Name;

/// What a mount says of itself.
pub(crate) struct About {
    /// Name of its node.
    pub(crate) node: Name,
    /// What its store calls itself.
    pub(crate) store: String,
    /// What its coordinator calls itself.
    pub(crate) coordinator: String,
    /// When it was mounted, milliseconds since 1970.
    pub(crate) since: u64,
    /// Tells it from an earlier one of its name.
    pub(crate) nonce: String,
}

/// What `metrics` counts since the mount was made.
#[derive(Default)]
pub struct Counts {
    /// Builds triggered here.
    pub triggered: AtomicU64,
    /// Builds recorded here.
    pub recorded: AtomicU64,
    /// Claims made here.
    pub claims: AtomicU64,
    /// Claims lost here, by any cause but a result.
    pub claims_lost: AtomicU64,
    /// Results committed here.
    pub results: AtomicU64,
}
