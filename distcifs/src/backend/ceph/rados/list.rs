//! All names in a pool's namespace, by calls that block.

use std::{ptr, slice};

use super::extra::{
    Cursor, Item, rados_object_list, rados_object_list_begin, rados_object_list_cursor_free, rados_object_list_end,
    rados_object_list_free, rados_object_list_is_end,
};
use super::{Outcome, Pool, outcome};

/// Names asked for at once.
const NAMES: usize = 1000;

/// A walk over all names, in an order of librados' own.
pub(in crate::backend::ceph) struct Names {
    pool: Pool,
    next: Cursor,
    end: Cursor,
}

// SAFETY: the cursors are plain data of librados, used by whoever has this.
unsafe impl Send for Names {}

impl Pool {
    /// A walk over all names.
    pub(in crate::backend::ceph) fn names(&self) -> Names {
        let io = self.inner.io();
        // SAFETY: the pool's handle is valid; both are freed by `drop`.
        let (next, end) = unsafe { (rados_object_list_begin(io.raw()), rados_object_list_end(io.raw())) };
        Names {
            pool: self.clone(),
            next,
            end,
        }
    }
}

impl Names {
    /// Some more names; `None` at the end. It may be called again after an error.
    pub(in crate::backend::ceph) fn more(&mut self) -> Outcome<Option<Vec<String>>> {
        let io = self.pool.inner.io();
        // SAFETY: handle and cursor are valid.
        if unsafe { rados_object_list_is_end(io.raw(), self.next) } != 0 {
            return Ok(None);
        }
        let nothing = Item {
            oid_length: 0,
            oid: ptr::null_mut(),
            nspace_length: 0,
            nspace: ptr::null_mut(),
            locator_length: 0,
            locator: ptr::null_mut(),
        };
        let mut items = vec![nothing; NAMES];
        let place = items.as_mut_ptr();
        // SAFETY: the handle is valid; librados wants a cursor that is there to write the next to.
        let mut after = unsafe { rados_object_list_begin(io.raw()) };
        // SAFETY: handle and cursors are valid, there is room for as many items as told, and no
        // filter is a null one.
        let count = outcome(unsafe {
            rados_object_list(
                io.raw(),
                self.next,
                self.end,
                NAMES,
                ptr::null(),
                0,
                place,
                &raw mut after,
            )
        });
        if count.is_ok() {
            // After an error it is the end.
            std::mem::swap(&mut self.next, &mut after);
        }
        // SAFETY: this cursor is ours and not used again.
        unsafe { rados_object_list_cursor_free(io.raw(), after) };
        let count = count?.min(NAMES);
        let name = |item: &Item| {
            // SAFETY: librados has made the name, of this length, for us to free.
            let name = unsafe { slice::from_raw_parts(item.oid.cast::<u8>(), item.oid_length) };
            String::from_utf8_lossy(name).into_owned()
        };
        let names = items[..count].iter().map(name).collect();
        // SAFETY: the first so many items were filled by librados, and are not used again.
        unsafe { rados_object_list_free(count, place) };
        Ok(Some(names))
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        let io = self.pool.inner.io();
        // SAFETY: the cursors are ours and not used again.
        unsafe {
            rados_object_list_cursor_free(io.raw(), self.next);
            rados_object_list_cursor_free(io.raw(), self.end);
        }
    }
}
