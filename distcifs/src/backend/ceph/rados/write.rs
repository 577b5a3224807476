//! Changes of one object, made as one or not at all.

use std::ffi::{CStr, CString};
use std::ptr;

use ceph::rados::{
    XattrFlags, rados_aio_write_op_operate, rados_completion_t, rados_create_write_op, rados_release_write_op,
    rados_write_op_append, rados_write_op_assert_exists, rados_write_op_cmpxattr, rados_write_op_create,
    rados_write_op_omap_rm_keys, rados_write_op_omap_set, rados_write_op_remove, rados_write_op_setxattr,
    rados_write_op_t, rados_write_op_write_full,
};
use libc::{c_char, c_int};
use tokio::sync::OwnedSemaphorePermit;

use super::extra::{FULL_TRY, WRITTEN_ONCE, rados_write_op_set_alloc_hint2};
use super::flight::{Told, fly, launch};
use super::{Outcome, Pool, text};

/// Does nothing if the object is there.
const IF_ABSENT: c_int = 0;

/// Fails if the object is there.
const EXCLUSIVE: c_int = 1;

/// Changes of one object, in order. Everything given is copied at once.
pub(in crate::backend::ceph) struct Write {
    op: rados_write_op_t,
}

// SAFETY: it is plain data of librados, used by one thread at a time: every method takes it whole.
unsafe impl Send for Write {}

impl Write {
    /// Nothing yet.
    pub(in crate::backend::ceph) fn new() -> Write {
        // SAFETY: it makes a value that `drop` frees.
        let op = unsafe { rados_create_write_op() };
        Write { op }
    }

    fn raw(&self) -> rados_write_op_t {
        self.op
    }

    /// Makes the object: `EEXIST` if it is there.
    pub(in crate::backend::ceph) fn create(self) -> Write {
        // SAFETY: the operation is ours; a category is not used any more and may be null.
        unsafe { rados_write_op_create(self.op, EXCLUSIVE, ptr::null()) };
        self
    }

    /// Makes the object if it is not there.
    pub(in crate::backend::ceph) fn make(self) -> Write {
        // SAFETY: the operation is ours; a category is not used any more and may be null.
        unsafe { rados_write_op_create(self.op, IF_ABSENT, ptr::null()) };
        self
    }

    /// `ENOENT` unless the object is there.
    pub(in crate::backend::ceph) fn assert_exists(self) -> Write {
        // SAFETY: the operation is ours.
        unsafe { rados_write_op_assert_exists(self.op) };
        self
    }

    /// `ECANCELED` unless the attribute has this value.
    pub(in crate::backend::ceph) fn guard(self, attribute: &CStr, value: &[u8]) -> Write {
        let equal = XattrFlags::LIBRADOS_CMPXATTR_OP_EQ.bits() as u8;
        // SAFETY: the operation is ours; name and value are valid during the call, which copies them.
        unsafe { rados_write_op_cmpxattr(self.op, attribute.as_ptr(), equal, value.as_ptr().cast(), value.len()) };
        self
    }

    /// Sets an attribute.
    pub(in crate::backend::ceph) fn set(self, attribute: &CStr, value: &[u8]) -> Write {
        // SAFETY: the operation is ours; name and value are valid during the call, which copies them.
        unsafe { rados_write_op_setxattr(self.op, attribute.as_ptr(), value.as_ptr().cast(), value.len()) };
        self
    }

    /// Makes these the object's bytes, for good: the OSDs keep them in the largest pieces that they have, and
    /// with the fewest checksums.
    pub(in crate::backend::ceph) fn replace(self, bytes: &[u8]) -> Write {
        // A checksum is of as many bytes as the largest power of two that divides the size of a write.
        let (size, write_size) = (bytes.len() as u64, bytes.len().next_power_of_two() as u64);
        // SAFETY: the operation is ours.
        unsafe { rados_write_op_set_alloc_hint2(self.op, size, write_size, WRITTEN_ONCE) };
        // SAFETY: the operation is ours; the bytes are valid during the call, which copies them.
        unsafe { rados_write_op_write_full(self.op, bytes.as_ptr().cast(), bytes.len()) };
        self
    }

    /// Appends these to the object's bytes.
    pub(in crate::backend::ceph) fn append(self, bytes: &[u8]) -> Write {
        // SAFETY: the operation is ours; the bytes are valid during the call, which copies them.
        unsafe { rados_write_op_append(self.op, bytes.as_ptr().cast(), bytes.len()) };
        self
    }

    /// Removes the object.
    pub(in crate::backend::ceph) fn remove(self) -> Write {
        // SAFETY: the operation is ours.
        unsafe { rados_write_op_remove(self.op) };
        self
    }

    /// Sets keys to values. The keys have no NUL.
    pub(in crate::backend::ceph) fn set_keys(self, pairs: &[(&str, &[u8])]) -> Outcome<Write> {
        let keys = names(pairs.iter().map(|(key, _)| *key))?;
        let keys: Vec<*const c_char> = keys.iter().map(|key| key.as_ptr()).collect();
        let values: Vec<*const c_char> = pairs.iter().map(|(_, value)| value.as_ptr().cast()).collect();
        let lengths: Vec<usize> = pairs.iter().map(|(_, value)| value.len()).collect();
        let (keys, values, lengths) = (keys.as_ptr(), values.as_ptr(), lengths.as_ptr());
        // SAFETY: the operation is ours; the three lists have as many items as told, and they and
        // what they point to are valid during the call, which copies all of it.
        unsafe { rados_write_op_omap_set(self.op, keys, values, lengths, pairs.len()) };
        Ok(self)
    }

    /// Removes keys. They have no NUL.
    pub(in crate::backend::ceph) fn remove_keys(self, keys: &[&str]) -> Outcome<Write> {
        let count = keys.len();
        let keys = names(keys.iter().copied())?;
        let keys: Vec<*const c_char> = keys.iter().map(|key| key.as_ptr()).collect();
        // SAFETY: as in `set_keys`.
        unsafe { rados_write_op_omap_rm_keys(self.op, keys.as_ptr(), count) };
        Ok(self)
    }
}

impl Drop for Write {
    fn drop(&mut self) {
        // SAFETY: the operation is ours; a call under way has taken what it needs out of it.
        unsafe { rados_release_write_op(self.op) };
    }
}

fn names<'a>(keys: impl Iterator<Item = &'a str>) -> Outcome<Vec<CString>> {
    keys.map(text).collect()
}

impl Pool {
    /// Changes an object; durable when it returns. `landed` is told how it ended, though nobody
    /// waits for that any more; on a thread of librados, so it must not wait.
    pub(in crate::backend::ceph) async fn write(
        &self,
        object: &str,
        write: Write,
        room: OwnedSemaphorePermit,
        landed: impl FnOnce(Outcome<()>) + Send + 'static,
    ) -> Outcome<()> {
        fly(&self.inner, Some(room), Told(landed), self.start(text(object)?, write)).await
    }

    /// The same, for which nobody waits.
    pub(in crate::backend::ceph) fn write_alone(
        &self,
        object: &str,
        write: Write,
        landed: impl FnOnce(Outcome<()>) + Send + 'static,
    ) {
        match text(object) {
            Ok(name) => drop(launch(&self.inner, None, Told(landed), self.start(name, write))),
            Err(errno) => landed(Err(errno)),
        }
    }

    fn start<C>(
        &self,
        name: CString,
        write: Write,
    ) -> impl FnOnce(*mut C, rados_completion_t) -> c_int + Send + use<C> {
        let io = self.inner.io();
        move |_, completion| {
            // SAFETY: the pool outlives the flight; operation and name are valid during the call,
            // which takes over the one and copies the other; no time means now.
            unsafe {
                rados_aio_write_op_operate(
                    write.raw(),
                    io.raw(),
                    completion,
                    name.as_ptr(),
                    ptr::null_mut(),
                    FULL_TRY,
                )
            }
        }
    }
}
