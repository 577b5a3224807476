//! Owner and mode: what jobs, queues and the top folders have.

use nix::unistd::{getgid, getuid};
use serde::{Deserialize, Serialize};

use super::{Error, Result};

/// Owner and permissions of a job, a queue or one of the two top folders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits of the folder.
    pub mode: u32,
}

impl Access {
    /// What a queue has that a mount makes.
    pub(crate) fn of_mounter() -> Self {
        Access {
            uid: getuid().as_raw(),
            gid: getgid().as_raw(),
            mode: 0o755,
        }
    }

    /// Refuses what only this user's may be done to; `None`: whoever it belongs to.
    pub(crate) fn must_be_of(&self, uid: Option<u32>, what: impl Fn() -> String) -> Result<()> {
        if uid.is_none_or(|uid| uid == self.uid) {
            return Ok(());
        }
        Err(Error::NotPermitted(format!(
            "{}: it belongs to user {}, and its folder is sticky",
            what(),
            self.uid
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_anothers_is_refused() {
        let access = Access {
            uid: 5,
            gid: 5,
            mode: 0o700,
        };
        let of = |uid| access.must_be_of(uid, || "jobs/x".into());
        assert!(of(None).is_ok() && of(Some(5)).is_ok());
        assert!(matches!(of(Some(6)), Err(Error::NotPermitted(why)) if why.starts_with("jobs/x: ")));
    }
}
