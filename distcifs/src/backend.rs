//! The stores behind the traits; each client crate is named in one folder only.
#[cfg(feature = "ceph")]
pub mod ceph;
pub mod embedded;
mod entries;
#[cfg(any(test, feature = "conformance"))]
pub mod memory;
mod watches;
mod work;
#[cfg(feature = "zookeeper")]
pub mod zookeeper;
