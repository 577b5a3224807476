//! Extended attributes of open files: `user.` ones.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

use super::format::{XATTR_BYTES_MAX, Xattrs};

/// Room for the names of one file, bytes: the kernel's XATTR_LIST_MAX.
const LIST_BYTES: usize = 64 << 10;

/// The `user.` attributes of a file, sorted; `E2BIG` if they are more than a listing takes.
pub(super) fn read(fd: BorrowedFd<'_>) -> Result<Xattrs, Errno> {
    let mut kept = Xattrs::new();
    // Most files have none: the first call, without a buffer, tells.
    match list(fd, &mut []) {
        Ok(0) | Err(Errno::EOPNOTSUPP) => return Ok(kept),
        Ok(_) => {}
        Err(errno) => return Err(errno),
    }
    let mut names = vec![0; LIST_BYTES];
    let length = list(fd, &mut names)?;
    names.truncate(length);
    let mut names: Vec<CString> = names
        .split_inclusive(|&b| b == 0)
        .filter_map(|name| CStr::from_bytes_with_nul(name).ok())
        .filter(|name| name.to_bytes().starts_with(b"user."))
        .map(CStr::to_owned)
        .collect();
    names.sort();
    let mut room = XATTR_BYTES_MAX;
    let mut value = vec![0; XATTR_BYTES_MAX];
    for name in names {
        let length = match get(fd, &name, &mut value) {
            Ok(length) => length,
            // Removed since it was listed.
            Err(Errno::ENODATA) => continue,
            Err(Errno::ERANGE) => return Err(Errno::E2BIG),
            Err(errno) => return Err(errno),
        };
        let cost = length + name.as_bytes().len();
        room = room.checked_sub(cost).ok_or(Errno::E2BIG)?;
        kept.push((name.as_bytes().into(), value.get(..length).unwrap_or_default().into()));
    }
    Ok(kept)
}

/// Gives a file these attributes; a filesystem without any is no error.
pub(super) fn write(fd: BorrowedFd<'_>, xattrs: &Xattrs) -> Result<(), Errno> {
    for (name, value) in xattrs {
        let name = CString::new(name.as_ref()).map_err(|_| Errno::EINVAL)?;
        match set(fd, &name, value) {
            Ok(()) | Err(Errno::EOPNOTSUPP) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

#[expect(unsafe_code, reason = "nix has no extended attributes")]
fn list(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the pointer and length are those of one live buffer; with length 0 it is not written.
    let got = unsafe { libc::flistxattr(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
    Errno::result(got).map(|length| length as usize)
}

#[expect(unsafe_code, reason = "nix has no extended attributes")]
fn get(fd: BorrowedFd<'_>, name: &CStr, buffer: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the name ends with NUL, and the pointer and length are those of one live buffer.
    let got = unsafe { libc::fgetxattr(fd.as_raw_fd(), name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) };
    Errno::result(got).map(|length| length as usize)
}

#[expect(unsafe_code, reason = "nix has no extended attributes")]
fn set(fd: BorrowedFd<'_>, name: &CStr, value: &[u8]) -> Result<(), Errno> {
    // SAFETY: the name ends with NUL, and the pointer and length are those of one live slice.
    let got = unsafe { libc::fsetxattr(fd.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    Errno::result(got).map(drop)
}
