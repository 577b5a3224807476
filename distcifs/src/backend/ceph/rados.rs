//! A safe way to the parts of librados' C interface that this backend needs: the one folder that
//! names `ceph::` and the one place with unsafe code.
//!
//! What makes it safe, for every call below:
//! - Handles (cluster, pool, write and read operations) are made and freed here, by the types that
//!   own them; a call that is under way holds the pool by an `Arc`, so the connection is never shut
//!   down below it.
//! - librados copies what a write carries and every name while the call that takes them runs; what
//!   it writes results to lies in a box that only the completion frees ([`flight`]).
//! - Callbacks run on librados' threads. They only move values and wake; a panic ends in them.

#![expect(
    unsafe_code,
    reason = "librados is a C library; the rules that make this sound stand above"
)]

use std::ffi::{CStr, CString};
use std::path::Path;
use std::ptr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use ceph::rados::{
    rados_conf_get, rados_conf_read_file, rados_conf_set, rados_connect, rados_create, rados_get_instance_id,
    rados_ioctx_create, rados_ioctx_destroy, rados_ioctx_set_namespace, rados_ioctx_t, rados_shutdown, rados_t,
};
use nix::errno::Errno;

mod extra;
mod flight;
mod list;
mod read;
mod standstill;
mod watch;
mod write;

pub(super) use read::{Answer, Keys, Read};
pub(super) use standstill::Standstill;
pub(super) use watch::{Heard, Watch};
pub(super) use write::Write;

/// Longest value of a setting that is read back, bytes.
const SETTING_BYTES_MAX: usize = 4096;

/// What librados answered.
pub(super) type Outcome<T> = std::result::Result<T, Errno>;

/// The outcome of a call that returns a negative error number, or what it counts.
fn outcome(code: libc::c_int) -> Outcome<usize> {
    usize::try_from(code).map_err(|_| Errno::from_raw(code.saturating_neg()))
}

/// Text for C.
fn text(text: &str) -> Outcome<CString> {
    CString::new(text).map_err(|_| Errno::EINVAL)
}

/// A connection that is being made.
pub(super) struct Cluster {
    handle: rados_t,
}

// SAFETY: librados' handles may be used from any thread, several at once.
unsafe impl Send for Cluster {}

impl Cluster {
    /// For a user, without `client.`.
    pub(super) fn new(user: &str) -> Outcome<Cluster> {
        let user = text(user)?;
        let mut handle: rados_t = ptr::null_mut();
        // SAFETY: both pointers are valid during the call.
        outcome(unsafe { rados_create(&raw mut handle, user.as_ptr()) })?;
        Ok(Cluster { handle })
    }

    /// Reads a configuration file; without one those that librados looks for.
    pub(super) fn read_conf(&self, path: Option<&Path>) -> Outcome<()> {
        let path = path.map(|path| text(path.to_str().ok_or(Errno::EINVAL)?)).transpose()?;
        let path = path.as_ref().map_or(ptr::null(), |path| path.as_ptr());
        // SAFETY: the handle is ours; the path is valid during the call, or null, which is allowed.
        outcome(unsafe { rados_conf_read_file(self.handle, path) }).map(drop)
    }

    /// Sets an option.
    pub(super) fn set(&self, option: &str, value: &str) -> Outcome<()> {
        let (option, value) = (text(option)?, text(value)?);
        // SAFETY: the handle is ours; both texts are valid during the call.
        outcome(unsafe { rados_conf_set(self.handle, option.as_ptr(), value.as_ptr()) }).map(drop)
    }

    /// An option's value.
    pub(super) fn get(&self, option: &str) -> Outcome<String> {
        let option = text(option)?;
        let mut value = vec![0_u8; SETTING_BYTES_MAX];
        // SAFETY: the buffer has the length that is given, and librados ends what it writes by NUL.
        outcome(unsafe { rados_conf_get(self.handle, option.as_ptr(), value.as_mut_ptr().cast(), value.len()) })?;
        let value = CStr::from_bytes_until_nul(&value).map_err(|_| Errno::EINVAL)?;
        Ok(value.to_string_lossy().into_owned())
    }

    /// Connects: waits up to `client_mount_timeout`.
    pub(super) fn connect(&self) -> Outcome<()> {
        // SAFETY: the handle is ours and configured.
        outcome(unsafe { rados_connect(self.handle) }).map(drop)
    }

    /// The pool and namespace of a connection. The second value is closed when the last user of
    /// the pool has gone and the connection is shut down.
    pub(super) fn pool(self, pool: &str, namespace: &str) -> Outcome<(Pool, Receiver<()>)> {
        let (pool, namespace) = (text(pool)?, text(namespace)?);
        let mut io: rados_ioctx_t = ptr::null_mut();
        // SAFETY: the handle is connected; both pointers are valid during the call.
        outcome(unsafe { rados_ioctx_create(self.handle, pool.as_ptr(), &raw mut io) })?;
        // SAFETY: the handle was just made; the text is valid during the call, which copies it.
        unsafe { rados_ioctx_set_namespace(io, namespace.as_ptr()) };
        let (ends, ended) = channel();
        let inner = Inner {
            cluster: Some(self),
            io,
            ends: Some(ends),
        };
        Ok((Pool { inner: Arc::new(inner) }, ended))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and nobody can use it after this.
        unsafe { rados_shutdown(self.handle) };
    }
}

/// A pool with its namespace, on a connection of its own. Clones share it.
#[derive(Clone)]
pub(super) struct Pool {
    inner: Arc<Inner>,
}

/// What calls under way share.
struct Inner {
    /// Taken when this is dropped.
    cluster: Option<Cluster>,
    io: rados_ioctx_t,
    /// Dropped when the connection is shut down.
    ends: Option<Sender<()>>,
}

// SAFETY: a pool's handle may be used from any thread, several at once; its namespace is set before
// it is shared, and never again.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl Drop for Inner {
    /// On a thread of its own: the last user may be a completion on a thread of librados, which a
    /// shutdown would wait for.
    fn drop(&mut self) {
        let (cluster, io, ends) = (self.cluster.take(), self.io(), self.ends.take());
        let end = move || {
            // SAFETY: every call that used it has completed, for each held this pool.
            unsafe { rados_ioctx_destroy(io.raw()) };
            drop(cluster);
            drop(ends);
        };
        if let Err(error) = thread::Builder::new().name("ceph-shutdown".to_owned()).spawn(end) {
            tracing::warn!(%error, "no thread to shut the connection to Ceph down");
        }
    }
}

impl Pool {
    /// The number that this connection has in the cluster.
    pub(super) fn id(&self) -> u64 {
        let cluster = self.inner.cluster.as_ref();
        // SAFETY: the handle is connected and lives as long as the pool.
        cluster.map_or(0, |cluster| unsafe { rados_get_instance_id(cluster.handle) })
    }
}

impl Inner {
    fn io(&self) -> Handle {
        Handle(self.io)
    }
}

/// A pool's handle, to be taken along to another thread by whoever keeps the pool.
#[derive(Clone, Copy)]
struct Handle(rados_ioctx_t);

// SAFETY: see `Inner`.
unsafe impl Send for Handle {}

impl Handle {
    fn raw(self) -> rados_ioctx_t {
        self.0
    }
}
