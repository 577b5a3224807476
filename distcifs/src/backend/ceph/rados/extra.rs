//! Declarations of librados that the crate lacks, as /usr/include/rados/librados.h (16.2) has them.

use ceph::rados::{
    rados_completion_t, rados_ioctx_t, rados_omap_iter_t, rados_read_op_t, rados_watchcb2_t, rados_watcherrcb_t,
    rados_write_op_t,
};
use libc::{c_char, c_int, c_uchar, c_void, size_t};

/// `LIBRADOS_OPERATION_FULL_TRY`: a full pool or cluster is an error at once; without it, a write
/// waits until there is room.
pub(super) const FULL_TRY: c_int = 64;

/// `LIBRADOS_ALLOC_HINT_FLAG_SEQUENTIAL_WRITE`, `_SEQUENTIAL_READ`, `_APPEND_ONLY` and `_IMMUTABLE`: what is
/// written once, from its beginning to its end, and read so.
pub(super) const WRITTEN_ONCE: u32 = 1 | 4 | 16 | 32;

/// A place in the order of a pool's objects.
pub(super) type Cursor = *mut c_void;

/// A name that a listing found.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Item {
    pub(super) oid_length: size_t,
    pub(super) oid: *mut c_char,
    pub(super) nspace_length: size_t,
    pub(super) nspace: *mut c_char,
    pub(super) locator_length: size_t,
    pub(super) locator: *mut c_char,
}

#[link(name = "rados", kind = "dylib")]
unsafe extern "C" {
    pub(super) fn rados_read_op_omap_get_vals2(
        read_op: rados_read_op_t,
        start_after: *const c_char,
        filter_prefix: *const c_char,
        max_return: u64,
        iter: *mut rados_omap_iter_t,
        pmore: *mut c_uchar,
        prval: *mut c_int,
    );

    pub(super) fn rados_write_op_set_alloc_hint2(
        write_op: rados_write_op_t,
        expected_object_size: u64,
        expected_write_size: u64,
        flags: u32,
    );

    pub(super) fn rados_aio_watch2(
        io: rados_ioctx_t,
        object: *const c_char,
        completion: rados_completion_t,
        cookie: *mut u64,
        watchcb: rados_watchcb2_t,
        watcherrcb: rados_watcherrcb_t,
        timeout: u32,
        arg: *mut c_void,
    ) -> c_int;

    pub(super) fn rados_aio_unwatch(io: rados_ioctx_t, cookie: u64, completion: rados_completion_t) -> c_int;

    pub(super) fn rados_aio_notify(
        io: rados_ioctx_t,
        object: *const c_char,
        completion: rados_completion_t,
        buf: *const c_char,
        buf_len: c_int,
        timeout_ms: u64,
        reply_buffer: *mut *mut c_char,
        reply_buffer_len: *mut size_t,
    ) -> c_int;

    pub(super) fn rados_object_list_begin(io: rados_ioctx_t) -> Cursor;

    pub(super) fn rados_object_list_end(io: rados_ioctx_t) -> Cursor;

    pub(super) fn rados_object_list_is_end(io: rados_ioctx_t, cursor: Cursor) -> c_int;

    pub(super) fn rados_object_list_cursor_free(io: rados_ioctx_t, cursor: Cursor);

    pub(super) fn rados_object_list(
        io: rados_ioctx_t,
        start: Cursor,
        finish: Cursor,
        result_size: size_t,
        filter_buf: *const c_char,
        filter_buf_len: size_t,
        results: *mut Item,
        next: *mut Cursor,
    ) -> c_int;

    pub(super) fn rados_object_list_free(result_size: size_t, results: *mut Item);
}
