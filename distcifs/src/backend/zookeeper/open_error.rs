//! Why the coordinator can't be used, in words for whoever mounts.

use std::path::PathBuf;

/// Why a session can't be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// What was given is no address.
    #[error("{address}: {why}; give zk://host:port,host:port/chroot")]
    Address {
        /// As it was given.
        address: String,
        /// Which part.
        why: String,
    },
    /// A file with credentials, keys or certificates can't be used.
    #[error("{}: {why}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's words, or which part is wrong.
        why: String,
    },
    /// No server gave us a session.
    #[error("{address}: no ZooKeeper server gives a session ({why}); check the addresses and that the servers run")]
    Unreachable {
        /// What was connected to.
        address: String,
        /// What each host said.
        why: String,
    },
    /// The entry below which ours lie is not there.
    #[error("{address}: there is no {chroot}; make it with: distcifs init {address}")]
    NoChroot {
        /// What was connected to.
        address: String,
        /// The entry.
        chroot: String,
    },
    /// We may not work there.
    #[error("{address}: {identity} may not change {chroot} (not authorized); give the credentials that made it")]
    NotAllowed {
        /// What was connected to.
        address: String,
        /// The entry.
        chroot: String,
        /// Who we are.
        identity: String,
    },
    /// It failed in another way.
    #[error("{address}: can't be used: {why}")]
    Unusable {
        /// What was connected to.
        address: String,
        /// The client's words.
        why: String,
    },
}
