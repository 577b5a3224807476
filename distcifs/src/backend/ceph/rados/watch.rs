//! Watches and notices of objects.
//!
//! The argument of librados' callbacks is a number, never a pointer: one that comes after its watch
//! has ended finds nobody under it.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use std::{ptr, slice};

use ceph::rados::{rados_buffer_free, rados_notify_ack, rados_watch_check};
use libc::{c_char, c_int, c_void};
use nix::errno::Errno;

use super::extra::{rados_aio_notify, rados_aio_unwatch, rados_aio_watch2};
use super::flight::{Cargo, Told, launch};
use super::{Inner, Outcome, Pool, outcome, text};

/// What reaches a watch.
pub(in crate::backend::ceph) enum Heard<'a> {
    /// Somebody notifies.
    Notice {
        /// The number of their connection.
        from: u64,
        /// What they say.
        bytes: &'a [u8],
    },
    /// The watch is over: notices may have been missed.
    Lost(Errno),
}

/// Who is told of what reaches a watch, on a thread of librados: it must not wait.
type OnNotice = Box<dyn Fn(Heard<'_>) + Send + Sync>;

/// Whom callbacks look for.
struct Listener {
    on_notice: OnNotice,
    name: CString,
    pool: Weak<Inner>,
}

/// Those whose watches have not ended.
static LISTENERS: Mutex<BTreeMap<usize, Arc<Listener>>> = Mutex::new(BTreeMap::new());

fn listeners() -> MutexGuard<'static, BTreeMap<usize, Arc<Listener>>> {
    LISTENERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A place among the listeners.
struct Place(usize);

impl Place {
    fn take(listener: Listener) -> Place {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        listeners().insert(number, Arc::new(listener));
        Place(number)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        listeners().remove(&self.0);
    }
}

/// A watch that stands. Dropping it ends it.
pub(in crate::backend::ceph) struct Watch {
    pool: Pool,
    cookie: u64,
    _place: Place,
}

impl Watch {
    /// How long ago the cluster confirmed it last.
    pub(in crate::backend::ceph) fn age(&self) -> Outcome<Duration> {
        let io = self.pool.inner.io();
        // SAFETY: the cookie is that of a watch that stands: only `drop` ends it.
        let age = outcome(unsafe { rados_watch_check(io.raw(), self.cookie) })?;
        Ok(Duration::from_millis(age as u64))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let (io, cookie) = (self.pool.inner.io(), self.cookie);
        let start = |_, completion| {
            // SAFETY: the cookie is that of a watch that stands, and is not used again; the pool
            // outlives the flight.
            unsafe { rados_aio_unwatch(io.raw(), cookie, completion) }
        };
        // Nobody waits for it: who is lost here is forgotten by the cluster after its time.
        drop(launch(&self.pool.inner, None, Told(drop), start));
    }
}

/// A watch that is asked for.
struct Asked<F> {
    cookie: u64,
    pool: Pool,
    place: Place,
    told: F,
}

impl<F: FnOnce(Outcome<Watch>) + Send + 'static> Cargo for Asked<F> {
    type Goods = ();

    fn unload(self, value: Outcome<usize>) -> Outcome<()> {
        let (pool, cookie, place) = (self.pool, self.cookie, self.place);
        // One that failed has been ended by librados itself.
        (self.told)(value.map(|_| Watch {
            pool,
            cookie,
            _place: place,
        }));
        Ok(())
    }
}

/// A notice under way.
struct Notice<F> {
    reply: *mut c_char,
    length: usize,
    told: Option<F>,
}

// SAFETY: the reply is used by whoever has this.
unsafe impl<F: Send> Send for Notice<F> {}

impl<F> Drop for Notice<F> {
    fn drop(&mut self) {
        if !self.reply.is_null() {
            // SAFETY: librados has made it for us to free, once.
            unsafe { rados_buffer_free(self.reply) };
        }
    }
}

impl<F: FnOnce(Outcome<Vec<u64>>) + Send + 'static> Cargo for Notice<F> {
    type Goods = ();

    fn unload(mut self, value: Outcome<usize>) -> Outcome<()> {
        let reply = match self.reply.is_null() {
            true => &[],
            // SAFETY: librados has made it, of this length.
            false => unsafe { slice::from_raw_parts(self.reply.cast::<u8>(), self.length) },
        };
        let heard = value.map(|_| acknowledged(reply));
        if let Some(told) = self.told.take() {
            told(heard);
        }
        Ok(())
    }
}

/// The connections that have acknowledged a notice: a count, then connection, cookie, length of the
/// answer and the answer for each, all little-endian.
fn acknowledged(reply: &[u8]) -> Vec<u64> {
    let mut rest = reply;
    let mut take = |count: usize| {
        let (taken, after) = rest.split_at_checked(count)?;
        rest = after;
        Some(taken)
    };
    let mut found = Vec::new();
    let mut count = take(4)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u32::from_le_bytes);
    while count > 0 {
        let from = take(8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
        let length = take(12)
            .and_then(|bytes| bytes[8..].try_into().ok())
            .map(u32::from_le_bytes);
        let (Some(from), Some(length)) = (from, length) else {
            break;
        };
        if take(length as usize).is_none() {
            break;
        }
        found.push(from);
        count -= 1;
    }
    found
}

impl Pool {
    /// Watches an object that is there; the cluster forgets the watch when this connection is away
    /// for so many seconds. `told` how that ended, on a thread of librados: it must not wait.
    pub(in crate::backend::ceph) fn watch(
        &self,
        object: &str,
        seconds: u32,
        on_notice: impl Fn(Heard<'_>) + Send + Sync + 'static,
        told: impl FnOnce(Outcome<Watch>) + Send + 'static,
    ) {
        let name = match text(object) {
            Ok(name) => name,
            Err(errno) => return told(Err(errno)),
        };
        let place = Place::take(Listener {
            on_notice: Box::new(on_notice),
            name: name.clone(),
            pool: Arc::downgrade(&self.inner),
        });
        let (io, number) = (self.inner.io(), place.0);
        let asked = Asked {
            cookie: 0,
            pool: self.clone(),
            place,
            told,
        };
        let start = move |asked: *mut Asked<_>, completion| {
            let number = ptr::without_provenance_mut::<c_void>(number);
            // SAFETY: the pool outlives the flight, and the cookie's place lives until the call has
            // completed; the name is copied; the argument is but a number.
            unsafe {
                let cookie = &raw mut (*asked).cookie;
                rados_aio_watch2(
                    io.raw(),
                    name.as_ptr(),
                    completion,
                    cookie,
                    Some(heard),
                    Some(lost),
                    seconds,
                    number,
                )
            }
        };
        drop(launch(&self.inner, None, asked, start));
    }

    /// Notifies everybody who watches an object, and waits up to `patience` (in whole seconds) for
    /// each. `told` who has acknowledged, on a thread of librados: it must not wait. `ETIMEDOUT` if
    /// somebody has not.
    pub(in crate::backend::ceph) fn notify(
        &self,
        object: &str,
        bytes: &[u8],
        patience: Duration,
        told: impl FnOnce(Outcome<Vec<u64>>) + Send + 'static,
    ) {
        let (Ok(name), Ok(length)) = (text(object), c_int::try_from(bytes.len())) else {
            return told(Err(Errno::EINVAL));
        };
        let (io, patience) = (self.inner.io(), u64::try_from(patience.as_millis()).unwrap_or(u64::MAX));
        let notice = Notice {
            reply: ptr::null_mut(),
            length: 0,
            told: Some(told),
        };
        let start = move |notice: *mut Notice<_>, completion| {
            // SAFETY: the pool outlives the flight, and the reply's place lives until the call has
            // completed; name and bytes are copied.
            unsafe {
                let (reply, reply_length) = (&raw mut (*notice).reply, &raw mut (*notice).length);
                let bytes = bytes.as_ptr().cast();
                rados_aio_notify(
                    io.raw(),
                    name.as_ptr(),
                    completion,
                    bytes,
                    length,
                    patience,
                    reply,
                    reply_length,
                )
            }
        };
        drop(launch(&self.inner, None, notice, start));
    }
}

/// Called by librados with each notice.
extern "C" fn heard(number: *mut c_void, notice: u64, cookie: u64, from: u64, bytes: *mut c_void, length: usize) {
    let Some(listener) = listeners().get(&number.addr()).cloned() else {
        return;
    };
    let bytes = match bytes.is_null() {
        true => &[],
        // SAFETY: librados gives bytes of this length, which last until this returns.
        false => unsafe { slice::from_raw_parts(bytes.cast::<u8>(), length) },
    };
    tell(&listener, Heard::Notice { from, bytes });
    if let Some(pool) = listener.pool.upgrade() {
        // SAFETY: the pool is alive; the name is copied; an empty answer may be null.
        unsafe { rados_notify_ack(pool.io().raw(), listener.name.as_ptr(), notice, cookie, ptr::null(), 0) };
    }
}

/// Called by librados when a watch is over.
extern "C" fn lost(number: *mut c_void, _cookie: u64, error: c_int) {
    let listener = listeners().get(&number.addr()).cloned();
    if let Some(listener) = listener {
        let errno = outcome(error).err().unwrap_or(Errno::ENOTCONN);
        tell(&listener, Heard::Lost(errno));
    }
}

fn tell(listener: &Listener, what: Heard<'_>) {
    if catch_unwind(AssertUnwindSafe(|| (listener.on_notice)(what))).is_err() {
        tracing::error!("hearing a notice of Ceph ended in a panic");
    }
}
