//! The claimant's own folders on local disk.
