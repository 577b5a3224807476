//! What librados' error numbers mean to a caller: one table.

use std::time::Duration;

use nix::errno::Errno;

use crate::storage::Error;

/// Whether a call may change something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It only reads: there is nothing to be in doubt about.
    Reads,
    /// It writes: where it is not known that nothing happened, it may have.
    Writes,
}

/// The error for a number, of a call by this user.
pub(super) fn fault(what: &str, kind: Kind, errno: Errno, user: &str) -> Error {
    let what = what.to_owned();
    match errno {
        Errno::ENOSPC => Error::Full {
            what,
            why: "the cluster has no room left: remove old builds and run distcifs gc, or add disks".to_owned(),
        },
        Errno::EDQUOT => Error::Full {
            what,
            why: "the pool's quota is used up: remove old builds and run distcifs gc, or raise it".to_owned(),
        },
        Errno::EPERM | Errno::EACCES => Error::Unavailable {
            what,
            why: format!("client.{user} may not do that: see `ceph auth get client.{user}` and doc/deploy.md"),
        },
        Errno::EHOSTDOWN => Error::Unavailable {
            what,
            why: "the cluster does not answer, and was not asked again: see `ceph -s`".to_owned(),
        },
        Errno::EIO if kind == Kind::Reads => Error::Damaged {
            what,
            why: "the OSD can't read it: see `ceph health detail`".to_owned(),
        },
        Errno::EINVAL | Errno::E2BIG | Errno::EFBIG | Errno::EMSGSIZE | Errno::ENAMETOOLONG | Errno::EOPNOTSUPP => {
            Error::Refused {
                what,
                why: format!("by the cluster: {}", errno.desc()),
            }
        }
        Errno::ESHUTDOWN => doubtful(
            what,
            kind,
            "the connection is closed: this client was blocklisted; mount again",
        ),
        Errno::ETIMEDOUT => doubtful(what, kind, "no answer from the cluster: see `ceph -s`"),
        other => doubtful(what, kind, &format!("{other}")),
    }
}

/// The error for a call that took too long.
pub(super) fn timed_out(what: &str, kind: Kind, after: Duration) -> Error {
    let why = format!("no answer from the cluster within {} s: see `ceph -s`", after.as_secs());
    doubtful(what.to_owned(), kind, &why)
}

fn doubtful(what: String, kind: Kind, why: &str) -> Error {
    let why = why.to_owned();
    match kind {
        Kind::Reads => Error::Unavailable { what, why },
        Kind::Writes => Error::Indeterminate { what, why },
    }
}
