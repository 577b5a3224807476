//! Keys of the kernel: what a worker has among them is not for whom it starts.

use std::io;

/// KEYCTL_JOIN_SESSION_KEYRING of keyctl(2): a new keyring without a name.
const JOIN_SESSION_KEYRING: nix::libc::c_long = 1;

/// Lets go of the session's keyring, which may hold root's keys, for an empty one. It may be called after
/// a fork. Where the kernel has no keys, or lets nobody ask for them, there is nothing to let go of.
///
/// # Errors
/// There are keys, and they can't be let go of.
#[expect(unsafe_code, reason = "no crate at hand has this call")]
pub fn forget() -> io::Result<()> {
    // SAFETY: a system call that takes numbers only.
    if unsafe { nix::libc::syscall(nix::libc::SYS_keyctl, JOIN_SESSION_KEYRING, 0) } >= 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(nix::libc::ENOSYS | nix::libc::EPERM) => Ok(()),
        _ => Err(error),
    }
}
