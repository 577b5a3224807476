//! System calls that no crate here wraps.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Largest value, or list of names, of extended attributes (XATTR_SIZE_MAX and XATTR_LIST_MAX of
/// the kernel), bytes.
const XATTR_BYTES_MAX: usize = 65_536;

/// A count of bytes that a system call returned, or its error.
fn count(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// One pread(2) of at most `size` bytes.
#[expect(unsafe_code, reason = "reads into memory that is not initialised before")]
pub(super) fn pread(file: impl AsFd, size: usize, offset: i64) -> io::Result<Vec<u8>> {
    let mut data: Vec<u8> = Vec::with_capacity(size);
    // SAFETY: the vector has room for `size` bytes, and as many as the call says it wrote become
    // its length.
    unsafe {
        let fd = file.as_fd().as_raw_fd();
        let got = count(libc::pread(fd, data.as_mut_ptr().cast(), size, offset))?;
        data.set_len(got.min(size));
    }
    Ok(data)
}

/// One getdents64(2) of at most `size` bytes of records.
#[expect(unsafe_code, reason = "the C library has no function for it that keeps no state")]
pub(super) fn getdents(folder: impl AsFd, size: usize) -> io::Result<Vec<u8>> {
    let mut records: Vec<u8> = Vec::with_capacity(size);
    // SAFETY: as in `pread`.
    unsafe {
        let fd = folder.as_fd().as_raw_fd();
        let got = libc::syscall(libc::SYS_getdents64, fd, records.as_mut_ptr(), size);
        let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
        records.set_len(got.min(size));
    }
    Ok(records)
}

/// The value of an extended attribute of what the path leads to.
#[expect(unsafe_code, reason = "no safe wrapper at hand")]
pub(super) fn getxattr(path: &CStr, name: &CStr) -> io::Result<Vec<u8>> {
    let mut value: Vec<u8> = Vec::with_capacity(XATTR_BYTES_MAX);
    // SAFETY: the strings end with NUL; the vector as in `pread`.
    unsafe {
        let at = value.as_mut_ptr().cast();
        let got = count(libc::getxattr(path.as_ptr(), name.as_ptr(), at, XATTR_BYTES_MAX))?;
        value.set_len(got.min(XATTR_BYTES_MAX));
    }
    value.shrink_to_fit();
    Ok(value)
}

/// The names of the extended attributes, each ended by NUL.
#[expect(unsafe_code, reason = "no safe wrapper at hand")]
pub(super) fn listxattr(path: &CStr) -> io::Result<Vec<u8>> {
    let mut names: Vec<u8> = Vec::with_capacity(XATTR_BYTES_MAX);
    // SAFETY: as in `getxattr`.
    unsafe {
        let at = names.as_mut_ptr().cast();
        let got = count(libc::listxattr(path.as_ptr(), at, XATTR_BYTES_MAX))?;
        names.set_len(got.min(XATTR_BYTES_MAX));
    }
    Ok(names)
}

/// Sets an extended attribute; `flags`: XATTR_CREATE, XATTR_REPLACE.
#[expect(unsafe_code, reason = "no safe wrapper at hand")]
pub(super) fn setxattr(path: &CStr, name: &CStr, value: &[u8], flags: i32) -> io::Result<()> {
    // SAFETY: the strings end with NUL; the value is read only, for its own length.
    let result = unsafe {
        let at = value.as_ptr().cast();
        libc::setxattr(path.as_ptr(), name.as_ptr(), at, value.len(), flags)
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Removes an extended attribute.
#[expect(unsafe_code, reason = "no safe wrapper at hand")]
pub(super) fn removexattr(path: &CStr, name: &CStr) -> io::Result<()> {
    // SAFETY: the strings end with NUL.
    let result = unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// One copy_file_range(2) of at most `size` bytes at explicit offsets; bytes copied.
#[expect(unsafe_code, reason = "no safe wrapper at hand")]
pub(super) fn copy_file_range(from: (impl AsFd, i64), to: (impl AsFd, i64), size: usize) -> io::Result<usize> {
    let (mut from_at, mut to_at) = (from.1, to.1);
    // SAFETY: both offsets live until the call returns; no memory besides is touched.
    unsafe {
        let (source, target) = (from.0.as_fd().as_raw_fd(), to.0.as_fd().as_raw_fd());
        count(libc::copy_file_range(
            source,
            &raw mut from_at,
            target,
            &raw mut to_at,
            size,
            0,
        ))
    }
}
