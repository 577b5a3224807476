//! The one table from errors to errno (doc/tree.md, "Errors").

use fuser::Errno;

use crate::tree::Error;

/// The errno that a caller sees for an error; no arm is left open, so a new error must choose.
pub(super) fn errno(error: &Error) -> Errno {
    match error {
        Error::Invalid(_) => Errno::EINVAL,
        Error::NotFound(_) => Errno::ENOENT,
        Error::Exists(_) => Errno::EEXIST,
        Error::Busy(_) => Errno::EBUSY,
        Error::WouldBlock(_) => Errno::EAGAIN,
        Error::Stale(_) => Errno::ESTALE,
        Error::ReadOnly(_) => Errno::EROFS,
        Error::NotClaimant(_) | Error::NotPermitted(_) => Errno::EPERM,
        Error::Access(_) => Errno::EACCES,
        Error::TooBig(_) => Errno::EFBIG,
        Error::NameTooLong(_) => Errno::ENAMETOOLONG,
        Error::NotDirectory(_) => Errno::ENOTDIR,
        Error::IsDirectory(_) => Errno::EISDIR,
        Error::NotEmpty(_) => Errno::ENOTEMPTY,
        Error::CrossDevice(_) => Errno::EXDEV,
        // Never ENOSYS: the kernel takes that as "never ask again" for the whole mount.
        Error::Unsupported(_) => Errno::EOPNOTSUPP,
        Error::NoData => Errno::ENODATA,
        Error::Range => Errno::ERANGE,
        Error::Full(_) => Errno::ENOSPC,
        Error::Quota(_) => Errno::EDQUOT,
        Error::TimedOut(_) => Errno::ETIMEDOUT,
        Error::Io(_) => Errno::EIO,
        Error::System { errno, .. } => system(*errno),
    }
}

/// What the system said, unless it would mean something else to the FUSE driver than to a caller.
fn system(errno: i32) -> Errno {
    // The driver accepts 1 to 511 (it treats a reply outside of that as a broken daemon), and
    // ENOSYS would switch the operation off for good.
    match errno {
        libc::ENOSYS => Errno::EOPNOTSUPP,
        1..=511 => Errno::from_i32(errno),
        _ => Errno::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(error: &Error) -> i32 {
        errno(error).into()
    }

    #[test]
    fn the_table_is_that_of_the_contract() {
        let what = String::new;
        let table = [
            (Error::Invalid(what()), libc::EINVAL),
            (Error::NotFound(what()), libc::ENOENT),
            (Error::Exists(what()), libc::EEXIST),
            (Error::Busy(what()), libc::EBUSY),
            (Error::WouldBlock(what()), libc::EAGAIN),
            (Error::Stale(what()), libc::ESTALE),
            (Error::ReadOnly(what()), libc::EROFS),
            (Error::NotClaimant(what()), libc::EPERM),
            (Error::NotPermitted(what()), libc::EPERM),
            (Error::Access(what()), libc::EACCES),
            (Error::TooBig(what()), libc::EFBIG),
            (Error::NameTooLong(what()), libc::ENAMETOOLONG),
            (Error::NotDirectory(what()), libc::ENOTDIR),
            (Error::IsDirectory(what()), libc::EISDIR),
            (Error::NotEmpty(what()), libc::ENOTEMPTY),
            (Error::CrossDevice(what()), libc::EXDEV),
            (Error::Unsupported(what()), libc::EOPNOTSUPP),
            (Error::NoData, libc::ENODATA),
            (Error::Range, libc::ERANGE),
            (Error::Full(what().into()), libc::ENOSPC),
            (Error::Quota(what()), libc::EDQUOT),
            (Error::TimedOut(what().into()), libc::ETIMEDOUT),
            (Error::Io(what().into()), libc::EIO),
        ];
        for (error, expected) in table {
            assert_eq!(code(&error), expected, "{error:?}");
        }
    }

    #[test]
    fn an_errno_of_the_system_stays_unless_the_driver_would_misread_it() {
        let system = |errno| {
            code(&Error::System {
                what: String::new(),
                errno,
            })
        };
        assert_eq!(system(libc::ENOSPC), libc::ENOSPC);
        assert_eq!(system(libc::EDQUOT), libc::EDQUOT);
        assert_eq!(system(libc::ENOSYS), libc::EOPNOTSUPP);
        for odd in [0, -5, 512, i32::MIN, i32::MAX] {
            assert_eq!(system(odd), libc::EIO, "{odd}");
        }
    }
}
