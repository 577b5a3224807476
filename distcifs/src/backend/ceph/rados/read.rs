//! Reads of one object: all that is asked for is of one moment.

use std::ffi::CStr;
use std::{ptr, slice};

use bytes::Bytes;
use ceph::rados::{
    rados_aio_read_op_operate, rados_create_read_op, rados_getxattrs_end, rados_getxattrs_next, rados_omap_get_end,
    rados_omap_get_next, rados_omap_iter_t, rados_read_op_getxattrs, rados_read_op_read, rados_read_op_stat,
    rados_read_op_t, rados_release_read_op, rados_xattrs_iter_t,
};
use libc::{c_char, c_int, time_t};
use nix::errno::Errno;
use tokio::sync::OwnedSemaphorePermit;

use super::extra::rados_read_op_omap_get_vals2;
use super::flight::{Cargo, fly};
use super::{Outcome, Pool, outcome, text};

/// No flags for a whole read.
const NO_FLAGS: c_int = 0;

/// Keys to read, with their values.
#[derive(Debug, Clone)]
pub(in crate::backend::ceph) struct Keys {
    /// They come after this.
    pub(in crate::backend::ceph) after: String,
    /// They begin with this.
    pub(in crate::backend::ceph) prefix: String,
    /// So many of them at most; there may be fewer though more are there.
    pub(in crate::backend::ceph) limit: u64,
}

/// What is asked for, beside the size.
#[derive(Debug, Clone, Default)]
pub(in crate::backend::ceph) struct Read {
    /// Offset and length of the bytes.
    pub(in crate::backend::ceph) range: Option<(u64, usize)>,
    /// Whether the attributes are wanted.
    pub(in crate::backend::ceph) attributes: bool,
    /// The keys.
    pub(in crate::backend::ceph) keys: Option<Keys>,
}

/// What was there.
#[derive(Debug, Default)]
pub(in crate::backend::ceph) struct Answer {
    /// The object's size, bytes.
    pub(in crate::backend::ceph) size: u64,
    /// The bytes, fewer than asked for only at the end.
    pub(in crate::backend::ceph) bytes: Vec<u8>,
    /// The attributes.
    pub(in crate::backend::ceph) attributes: Vec<(String, Vec<u8>)>,
    /// Keys and values, in order.
    pub(in crate::backend::ceph) entries: Vec<(String, Bytes)>,
    /// Whether more keys follow.
    pub(in crate::backend::ceph) more: bool,
}

impl Answer {
    /// An attribute as text; empty if there is none.
    pub(in crate::backend::ceph) fn text(&self, name: &CStr) -> String {
        let found = self
            .attributes
            .iter()
            .find(|(known, _)| known.as_bytes() == name.to_bytes());
        found.map_or(String::new(), |(_, value)| String::from_utf8_lossy(value).into_owned())
    }
}

/// Where librados writes to while the call is under way.
struct Places {
    size: u64,
    modified: time_t,
    got: usize,
    buffer: Vec<u8>,
    attributes: rados_xattrs_iter_t,
    entries: rados_omap_iter_t,
    more: u8,
    /// What each part of the call returned; the first that failed is the call's own result.
    results: [c_int; 4],
}

// SAFETY: the iterators are used by whoever has the places.
unsafe impl Send for Places {}

impl Drop for Places {
    fn drop(&mut self) {
        if !self.attributes.is_null() {
            // SAFETY: it was made for this call, which is over, and is freed once.
            unsafe { rados_getxattrs_end(self.attributes) };
        }
        if !self.entries.is_null() {
            // SAFETY: as above.
            unsafe { rados_omap_get_end(self.entries) };
        }
    }
}

impl Places {
    fn new(read: &Read) -> Places {
        Places {
            size: 0,
            modified: 0,
            got: 0,
            buffer: Vec::with_capacity(read.range.map_or(0, |(_, length)| length)),
            attributes: ptr::null_mut(),
            entries: ptr::null_mut(),
            more: 0,
            results: [0; 4],
        }
    }

    fn attributes(&self) -> Outcome<Vec<(String, Vec<u8>)>> {
        let mut all = Vec::new();
        while !self.attributes.is_null() {
            let (mut name, mut value, mut length) = (ptr::null(), ptr::null(), 0);
            // SAFETY: the iterator is ours and filled; the places are valid during the call.
            outcome(unsafe { rados_getxattrs_next(self.attributes, &raw mut name, &raw mut value, &raw mut length) })?;
            if name.is_null() {
                break;
            }
            // SAFETY: until the iterator ends the name is a text, and the value has this length.
            all.push(unsafe { (copy_text(name), copy_bytes(value, length)) });
        }
        Ok(all)
    }

    fn entries(&self) -> Outcome<Vec<(String, Bytes)>> {
        let mut all = Vec::new();
        while !self.entries.is_null() {
            let (mut key, mut value, mut length) = (ptr::null_mut(), ptr::null_mut(), 0);
            // SAFETY: the iterator is ours and filled; the places are valid during the call.
            outcome(unsafe { rados_omap_get_next(self.entries, &raw mut key, &raw mut value, &raw mut length) })?;
            if key.is_null() {
                break;
            }
            // SAFETY: until the iterator ends the key is a text, and the value has this length.
            all.push(unsafe { (copy_text(key), copy_bytes(value, length).into()) });
        }
        Ok(all)
    }
}

/// # Safety
/// `text` ends by NUL.
unsafe fn copy_text(text: *const c_char) -> String {
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// # Safety
/// `bytes` is null or has this length.
unsafe fn copy_bytes(bytes: *const c_char, length: usize) -> Vec<u8> {
    if bytes.is_null() {
        return Vec::new();
    }
    // SAFETY: the caller's promise.
    unsafe { slice::from_raw_parts(bytes.cast::<u8>(), length) }.to_vec()
}

impl Cargo for Places {
    type Goods = Answer;

    fn unload(mut self, value: Outcome<usize>) -> Outcome<Answer> {
        value?;
        if let Some(failed) = self.results.into_iter().find(|result| *result < 0) {
            return Err(Errno::from_raw(failed.saturating_neg()));
        }
        let mut bytes = std::mem::take(&mut self.buffer);
        // SAFETY: librados has written so many bytes there, and was told that there is room for no more.
        unsafe { bytes.set_len(self.got.min(bytes.capacity())) };
        if bytes.capacity() > 2 * bytes.len() {
            bytes.shrink_to_fit();
        }
        Ok(Answer {
            size: self.size,
            bytes,
            attributes: self.attributes()?,
            entries: self.entries()?,
            more: self.more != 0,
        })
    }
}

/// A read that is put together.
struct Operation(rados_read_op_t);

impl Drop for Operation {
    fn drop(&mut self) {
        // SAFETY: the operation is ours; a call under way has taken what it needs out of it.
        unsafe { rados_release_read_op(self.0) };
    }
}

impl Pool {
    /// Reads; `ENOENT` if there is no such object.
    pub(in crate::backend::ceph) async fn read(
        &self,
        object: &str,
        read: Read,
        room: OwnedSemaphorePermit,
    ) -> Outcome<Answer> {
        let name = text(object)?;
        let keys = read.keys.clone().unwrap_or(Keys {
            after: String::new(),
            prefix: String::new(),
            limit: 0,
        });
        let (after, prefix) = (text(&keys.after)?, text(&keys.prefix)?);
        let (io, places) = (self.inner.io(), Places::new(&read));
        let start = move |places: *mut Places, completion| {
            // SAFETY: it makes a value that `Operation` frees.
            let op = Operation(unsafe { rados_create_read_op() });
            // SAFETY: the operation is ours; the places lie still and live until the call has
            // completed, and the buffer has room for the length that is told.
            unsafe {
                let results = (&raw mut (*places).results).cast::<c_int>();
                let (size, modified) = (&raw mut (*places).size, &raw mut (*places).modified);
                rados_read_op_stat(op.0, size, modified, results);
                if let Some((offset, length)) = read.range {
                    let (buffer, got) = (Vec::as_mut_ptr(&mut (*places).buffer), &raw mut (*places).got);
                    rados_read_op_read(op.0, offset, length, buffer.cast(), got, results.add(1));
                }
                if read.attributes {
                    rados_read_op_getxattrs(op.0, &raw mut (*places).attributes, results.add(2));
                }
                if read.keys.is_some() {
                    let (entries, more) = (&raw mut (*places).entries, &raw mut (*places).more);
                    let (after, prefix) = (after.as_ptr(), prefix.as_ptr());
                    rados_read_op_omap_get_vals2(op.0, after, prefix, keys.limit, entries, more, results.add(3));
                }
            }
            // SAFETY: the pool outlives the flight; operation and name are valid during the call,
            // which takes over the one and copies the other.
            unsafe { rados_aio_read_op_operate(op.0, io.raw(), completion, name.as_ptr(), NO_FLAGS) }
        };
        fly(&self.inner, Some(room), places, start).await
    }
}
