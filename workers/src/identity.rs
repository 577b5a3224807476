//! Whom the work of a ticket is done as, where nothing keeps it apart from the node (doc/workers.md).
//!
//! A worker that is root does all that happens outside an isolation as the owner of the job, with
//! the groups that this node knows of; jobs of root run as the user of `--as`. A worker that is not
//! root can be nobody else, so it works only for itself, unless it is started with `--shared`.
//!
//! In a worker's `main`, before anything else:
//!
//! ```no_run
//! # fn main() -> std::process::ExitCode {
//! if let Some(ended) = distcifs_workers::identity::program::main() {
//!     return std::process::ExitCode::from(ended);
//! }
//! # std::process::ExitCode::SUCCESS
//! # }
//! ```
//!
//! Then `Identity::find(&options)` once, for each ticket `identity.whom(&ticket)`, then
//! `whom.hand_over(&claimed)` and as many `whom.program(…)` as are needed.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{chown, lchown};
use std::path::{Path, PathBuf};

use clap::Args;
use nix::unistd::{Gid, Uid, User, geteuid, getgrouplist};

use crate::ticket::{Claimed, Ticket, patiently};
use crate::tree::{Result, Trouble};

pub mod program;

pub use program::Program;

/// Stands for `--as` where that is not given: `distcifs up` sets it for workers of one's own.
pub const VARIABLE: &str = "DISTCIFS_AS";

/// The name that must be said for scripts that are root of the node.
const ROOT: &str = "root";

/// What all workers of tickets may be told about whom they work as.
#[derive(Debug, Clone, Default, Args)]
pub struct Options {
    /// Whom jobs of root run as; a worker that is root does not start without. All other jobs run as
    /// their owners
    #[arg(long = "as", value_name = "USER")]
    pub jobs_of_root: Option<String>,
    /// Work for the owners of all jobs, as the user of this worker (for one that is not root)
    #[arg(long)]
    pub shared: bool,
}

/// How a worker finds whom it works as.
#[derive(Debug, Clone)]
pub enum Identity {
    /// It is root and can be anybody.
    Root {
        /// Whom jobs of root run as.
        jobs_of_root: Whom,
    },
    /// It can be nobody but this user.
    User {
        /// Its user.
        uid: Uid,
        /// Whether it works for others.
        shared: bool,
    },
}

/// Whom the work of one ticket is done as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whom {
    /// The user of the worker.
    Myself,
    /// Another user; the worker is root.
    Other(Account),
}

/// A user of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// Its number.
    pub uid: Uid,
    /// Its first group.
    pub gid: Gid,
    /// All its groups.
    pub groups: Vec<Gid>,
    /// Its home.
    pub home: PathBuf,
}

impl Identity {
    /// Of this process, as it was started.
    ///
    /// # Errors
    /// For people: why such a worker can't start.
    pub fn find(options: &Options) -> std::result::Result<Self, String> {
        let named = options.jobs_of_root.clone();
        let named = named.or_else(|| std::env::var(VARIABLE).ok().filter(|name| !name.is_empty()));
        if !geteuid().is_root() {
            return match &options.jobs_of_root {
                Some(name) => Err(format!("--as {name} is for a worker that is root, and this one is not")),
                None => Ok(Identity::User {
                    uid: geteuid(),
                    shared: options.shared,
                }),
            };
        }
        if options.shared {
            return Err(
                "--shared is for a worker that is not root: this one works as the owner of each job".to_owned(),
            );
        }
        let name = named.ok_or(
            "a worker that is root must be told whom jobs of root run as: --as USER (--as root if their scripts are \
             to be root on this node)",
        )?;
        Ok(Identity::Root {
            jobs_of_root: Whom::named(&name)?,
        })
    }

    /// Whom a ticket's work is done as.
    ///
    /// # Errors
    /// `Refused` with the remedy, if that is nobody; else as reading the ticket.
    pub fn whom(&self, ticket: &Ticket) -> Result<Whom> {
        let owner = ticket.owner.map(Uid::from_raw).ok_or_else(|| {
            Trouble::Refused("the ticket does not say who owns the job: the mount is older than this worker".to_owned())
        })?;
        match self {
            Identity::Root { jobs_of_root } if owner.is_root() => Ok(jobs_of_root.clone()),
            Identity::Root { .. } => patiently(|| Account::of(owner)).map(Whom::Other),
            Identity::User { uid, shared } if *shared || owner == *uid => Ok(Whom::Myself),
            Identity::User { uid, .. } => Err(Trouble::Refused(format!(
                "this worker runs as {}, and the job belongs to {}, who would act with the rights of another: \
                 start the worker as root with --as USER, or with --shared",
                title(*uid),
                title(owner)
            ))),
        }
    }
}

impl Identity {
    /// Whether a ticket is for this worker at all, though its work is kept apart from the node: one that is
    /// not root has no ids for that but its own.
    ///
    /// # Errors
    /// As `whom`.
    pub fn check(&self, ticket: &Ticket) -> Result<()> {
        match self {
            Identity::Root { .. } => Ok(()),
            Identity::User { .. } => self.whom(ticket).map(drop),
        }
    }
}

/// A user for messages.
fn title(uid: Uid) -> String {
    match User::from_uid(uid) {
        Ok(Some(user)) => user.name,
        _ => format!("user {uid}"),
    }
}

impl Whom {
    /// A user by name. Root must be called so: no other name and no number stands for it.
    ///
    /// # Errors
    /// For people: there is none.
    pub fn named(name: &str) -> std::result::Result<Self, String> {
        if name == ROOT {
            return Ok(Whom::Myself);
        }
        let found = User::from_name(name).map_err(|errno| format!("--as {name}: {errno}"))?;
        let user = found.ok_or_else(|| format!("--as {name}: this node has no user of this name"))?;
        if user.uid.is_root() {
            return Err(format!("--as {name} is root by another name: say --as root"));
        }
        let account = Account::from_user(user).map_err(|errno| format!("--as {name}: its groups: {errno}"))?;
        Ok(Whom::Other(account))
    }

    /// A program that is run as this user, in this folder, which is entered as this user too. It has
    /// an environment of its own: PATH and LANG of the worker, HOME, USER and LOGNAME of the user.
    pub fn program(&self, program: impl Into<std::ffi::OsString>, folder: &Path) -> Program {
        Program::new(self, program.into(), folder)
    }

    /// User and group of another; none for the worker's own.
    pub fn ids(&self) -> Option<(u32, u32)> {
        match self {
            Whom::Myself => None,
            Whom::Other(Account { uid, gid, .. }) => Some((uid.as_raw(), gid.as_raw())),
        }
    }

    /// Gives the folders of a claimed ticket to this user: all in them, whoever made it.
    ///
    /// # Errors
    /// `Refused` if the mount is not one of root.
    pub fn hand_over(&self, claimed: &Claimed) -> Result<()> {
        match self {
            Whom::Myself => Ok(()),
            Whom::Other(Account { uid, gid, .. }) => give(claimed, *uid, *gid),
        }
    }

    /// Takes them back, for a worker that goes on by itself. The result needs no such thing.
    ///
    /// # Errors
    /// As `hand_over`.
    pub fn take_back(&self, claimed: &Claimed) -> Result<()> {
        match self {
            Whom::Myself => Ok(()),
            Whom::Other(_) => give(claimed, Uid::from_raw(0), Gid::from_raw(0)),
        }
    }

    /// Gives a file of the worker to this user: a script, the end of a pipe. Links are not followed.
    ///
    /// # Errors
    /// Of the operating system.
    pub fn own(&self, path: &Path) -> io::Result<()> {
        match self {
            Whom::Myself => Ok(()),
            Whom::Other(Account { uid, gid, .. }) => lchown(path, Some(uid.as_raw()), Some(gid.as_raw())),
        }
    }
}

/// Hands a claimed ticket to one user.
fn give(claimed: &Claimed, uid: Uid, gid: Gid) -> Result<()> {
    let given = chown(claimed.path("claim"), Some(uid.as_raw()), Some(gid.as_raw()));
    given.map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => Trouble::Refused(format!(
            "the ticket can't be handed over to {}: that needs a mount of root, or a worker that is not root",
            title(uid)
        )),
        _ => Trouble::from_io("can't hand the ticket over", &error),
    })
}

impl Account {
    /// Of a user who may be unknown here.
    fn of(uid: Uid) -> Result<Self> {
        let asked = |errno| Trouble::Later(format!("can't ask who user {uid} is: {errno}"));
        let user = User::from_uid(uid).map_err(asked)?.ok_or_else(|| {
            Trouble::Refused(format!(
                "the job belongs to user {uid}, who has no account on this node: make one, or chown the job"
            ))
        })?;
        Account::from_user(user).map_err(asked)
    }

    fn from_user(user: User) -> nix::Result<Self> {
        let name = std::ffi::CString::new(user.name.as_bytes()).map_err(|_| nix::errno::Errno::EINVAL)?;
        Ok(Account {
            groups: getgrouplist(&name, user.gid)?,
            name: user.name,
            uid: user.uid,
            gid: user.gid,
            home: PathBuf::from(std::ffi::OsStr::from_bytes(user.dir.as_os_str().as_bytes())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(owner: u32) -> Ticket {
        Ticket {
            owner: Some(owner),
            ..Ticket::default()
        }
    }

    fn refused<T: std::fmt::Debug>(result: Result<T>) -> String {
        match result.unwrap_err() {
            Trouble::Refused(why) => why,
            other => other.to_string(),
        }
    }

    /// "A worker that is not root works `none` only for jobs of its own user, unless it is started
    /// with `--shared`."
    #[test]
    fn a_worker_that_is_not_root_works_for_its_user_alone() {
        let alone = |shared| Identity::User {
            uid: Uid::from_raw(65_534),
            shared,
        };
        assert_eq!(alone(false).whom(&ticket(65_534)).unwrap(), Whom::Myself);
        assert_eq!(alone(true).whom(&ticket(1)).unwrap(), Whom::Myself);
        for owner in [0, 1, 4_000_000_000] {
            let why = refused(alone(false).whom(&ticket(owner)));
            assert!(why.contains("--shared") && why.contains("--as USER"), "{why}");
        }
    }

    /// "Jobs of root run as `--as USER`", all others as their owners; who has no account is refused.
    #[test]
    fn a_worker_that_is_root_works_as_the_owner() {
        let root = Identity::Root {
            jobs_of_root: Whom::named("nobody").unwrap(),
        };
        let Whom::Other(nobody) = root.whom(&ticket(0)).unwrap() else {
            unreachable!("nobody is not this process");
        };
        assert_eq!(nobody.name, "nobody");
        let Whom::Other(daemon) = root.whom(&ticket(1)).unwrap() else {
            unreachable!("uid 1 is not root");
        };
        assert_eq!((daemon.uid.as_raw(), daemon.groups.contains(&daemon.gid)), (1, true));
        let why = refused(root.whom(&ticket(3_999_999_999)));
        assert!(why.contains("3999999999") && why.contains("no account"), "{why}");
    }

    #[test]
    fn root_must_be_called_by_its_name() {
        assert_eq!(Whom::named("root").unwrap(), Whom::Myself);
        assert!(Whom::named("0").is_err());
        assert!(
            Whom::named("no such user")
                .unwrap_err()
                .contains("no user of this name")
        );
    }

    #[test]
    fn who_is_not_told_the_owner_works_for_nobody() {
        let root = Identity::Root {
            jobs_of_root: Whom::Myself,
        };
        assert!(refused(root.whom(&Ticket::default())).contains("who owns the job"));
    }
}
