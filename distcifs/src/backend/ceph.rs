//! Contents on RADOS: objects in a pool's namespace, through one connection (doc/storage.md).
//!
//! ```text
//! chunk.<digest>, tree.<digest>   the blob's bytes; attributes `epoch`: when it was last put, and `sum`
//! console.…                       what was appended; attribute `sequence`: length + 1, or `sealed`
//! any other name without a slash  a record: keys and values; attribute `revision`
//! distcifs/…                      this backend's own; `/` is in no object's name
//! ```
//!
//! Attributes are decimal numbers, so that `rados getxattr` shows them. Every change of a record or
//! console is one operation that carries its guard; RADOS has it on all copies before it answers.
//! Calls are answered by completions: no thread waits for the cluster but those that list.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::channels::{Channels, may_have_happened};
use self::errors::{Kind, fault, timed_out};
use self::health::Health;
use self::rados::{Answer, Outcome, Pool, Read, Standstill, Write};
use crate::storage::{Contents, Error, Result};

mod blobs;
mod channels;
mod connect;
mod consoles;
mod contents;
mod errors;
mod health;
mod list;
mod rados;
mod records;
mod sums;
#[cfg(test)]
pub(crate) mod tests;

pub use connect::{OpenError, Options};

/// Longest time of one call, its repetitions included: the contract's promise 5.
const CALL_TIME_MAX: Duration = Duration::from_secs(10);

/// Bytes under way at once, in KiB: enough to keep several disks busy, and librados holds a copy.
const IN_FLIGHT_KIB: u32 = 64 << 10;

/// What a call counts at least, KiB: so at most 1,024 are under way.
const IN_FLIGHT_LEAST_KIB: u32 = 64;

/// How long the end waits for calls under way and for the connection to be shut down.
const END_TIME_MAX: Duration = Duration::from_secs(3);

/// Rounds in which a call that lost a race looks again, before it gives up: each round lost means
/// that somebody else won one.
const ROUNDS_MAX: u32 = 64;

/// An open pool; clones share it. The last clone to go waits a few seconds for what is under way.
#[derive(Clone)]
pub struct Ceph {
    core: Arc<Core>,
}

/// What all clones share.
struct Core {
    /// Taken at the end.
    pool: Option<Pool>,
    /// Taken before that.
    channels: Option<Channels>,
    room: Arc<Semaphore>,
    health: Arc<Health>,
    /// What blobs are marked with when they are put, for gc to compare.
    epoch: AtomicU64,
    /// The user, for errors.
    user: String,
    ended: std::sync::Mutex<Receiver<()>>,
}

impl Ceph {
    /// Connects to a pool. Blocks for at most 10 seconds.
    ///
    /// # Errors
    /// When the pool can't be used, with the reason and the remedy.
    pub fn connect(options: Options) -> std::result::Result<Ceph, OpenError> {
        let standstill = Standstill::new(options.not_ceph.clone());
        let opened = connect::connect(options)?;
        let channels = Channels::new(opened.pool.clone(), standstill.clone()).map_err(|error| OpenError::Other {
            what: "starting a thread".to_owned(),
            why: error.to_string(),
        })?;
        Ok(Ceph {
            core: Arc::new(Core {
                pool: Some(opened.pool),
                channels: Some(channels),
                room: Arc::new(Semaphore::new(IN_FLIGHT_KIB as usize)),
                health: Health::new(standstill),
                epoch: AtomicU64::new(0),
                user: opened.user,
                ended: opened.ended.into(),
            }),
        })
    }

    /// This pool as a store of contents.
    pub fn contents(&self) -> Arc<dyn Contents> {
        Arc::new(self.clone())
    }
}

impl Core {
    fn pool(&self) -> Outcome<&Pool> {
        self.pool.as_ref().ok_or(nix::errno::Errno::ESHUTDOWN)
    }

    fn channels(&self) -> Outcome<&Channels> {
        self.channels.as_ref().ok_or(nix::errno::Errno::ESHUTDOWN)
    }

    /// Room for a call that carries so many bytes; none while the cluster is known to be away.
    async fn room(&self, bytes: usize) -> Outcome<OwnedSemaphorePermit> {
        self.health.check().await?;
        let kib = u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(IN_FLIGHT_KIB);
        let room = Arc::clone(&self.room).acquire_many_owned(kib.clamp(IN_FLIGHT_LEAST_KIB, IN_FLIGHT_KIB));
        room.await.map_err(|_| nix::errno::Errno::ESHUTDOWN)
    }

    /// Reads; `None` if there is no such object.
    async fn read(&self, object: &str, read: Read) -> Outcome<Option<Answer>> {
        let room = self.room(read.range.map_or(0, |(_, length)| length)).await?;
        match self.fly(self.pool()?.read(object, read, room)).await {
            Ok(answer) => Ok(Some(answer)),
            Err(nix::errno::Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Changes something that never changes for whoever reads it.
    async fn write(&self, object: &str, write: Write) -> Outcome<()> {
        let room = self.room(0).await?;
        self.fly(self.pool()?.write(object, write, room, drop)).await
    }

    /// Changes a record or console by so many bytes, and tells everybody of it.
    async fn change(&self, object: &str, write: Write, bytes: usize) -> Outcome<()> {
        let room = self.room(bytes).await?;
        let notify = self.channels()?.notifier(object);
        let landed = move |ended| {
            if may_have_happened(ended) {
                notify();
            }
        };
        self.fly(self.pool()?.write(object, write, room, landed)).await
    }

    /// Makes a call, and sees whether it is answered.
    async fn fly<T>(&self, call: impl Future<Output = Outcome<T>>) -> Outcome<T> {
        let outcome = call.await;
        self.health.ended(&outcome);
        outcome
    }

    /// Waits for what a caller asked for, up to the longest time of a call. What it has sent by
    /// then is still under way: a write may happen or not.
    async fn limited<T>(&self, what: &str, kind: Kind, call: impl Future<Output = Result<T>>) -> Result<T> {
        let begun = Instant::now();
        let result = tokio::time::timeout(CALL_TIME_MAX, self.health.hurried(call)).await;
        if let Ok(pool) = self.pool() {
            self.health.waited(begun, pool);
        }
        result.unwrap_or_else(|_| Err(timed_out(what, kind, CALL_TIME_MAX)))
    }

    /// The error for an answer that the call has no use for.
    fn fault(&self, what: &str, kind: Kind, errno: nix::errno::Errno) -> Error {
        fault(what, kind, errno, &self.user)
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.room.close();
        drop(self.channels.take());
        drop(self.pool.take());
        let ended = self.ended.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Nothing is ever sent: an error is the end, or that it takes too long.
        if ended.recv_timeout(END_TIME_MAX) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            tracing::warn!("the connection to Ceph has not ended after {END_TIME_MAX:?}; calls are still under way");
        }
    }
}
