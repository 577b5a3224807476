//! `jobs/` of a claimed ticket: all jobs, as the owner of the ticket's job sees them.
//!
//! A worker acts for that owner and for nobody else. Through this folder it gets nothing that the
//! owner could not get by hand, whoever the worker is. The rights are looked at here, and shown to the
//! kernel as those of whoever runs the work.

use std::ffi::CString;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::{Gid, Uid, User, getgrouplist};

use super::look::{Facts, NOT_AT_ALL};
use super::node::{Area, JobFile, Node, TicketRef, Top};
use super::rights::{READ, SEARCH, WRITE, rights_of};
use super::{Caller, Error, Kind, Opened, Result, Tree};
use crate::repository::access::Access;
use crate::repository::config::Upstream;
use crate::repository::lookups::Lookups;

/// Longest look at the node's users and groups, which may be asked for over the network.
const PERSON_MAX: Duration = Duration::from_secs(5);

/// A generated node as the owner of a ticket's job sees it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Seen {
    /// The ticket through which it is seen.
    pub ticket: Arc<TicketRef>,
    /// What is seen.
    pub node: Node,
}

/// A user with the groups that this node's user database gives him.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Person {
    pub(crate) uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl Person {
    /// The rights on something.
    pub(crate) fn rights(&self, access: Access) -> u32 {
        rights_of(access, self.uid, &self.groups)
    }
}

/// Whose eyes see, and for whom.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Viewer {
    /// The owner of the ticket's job.
    pub(crate) owner: Arc<Person>,
    /// User and group that run the work.
    pub(crate) runner: (u32, u32),
}

impl Viewer {
    /// Shows the owner's rights as the runner's, without that to write.
    fn show(&self, access: Access) -> Access {
        Access {
            uid: self.runner.0,
            gid: self.runner.1,
            mode: (self.owner.rights(access) & (READ | SEARCH)) << 6,
        }
    }

    /// The same of a published file or folder. As much of its mode stays as can, for those who copy it:
    /// nobody writes to it.
    pub(crate) fn show_published(&self, access: Access, folder: bool) -> Access {
        let decided = if folder { READ | SEARCH } else { READ } << 6;
        Access {
            uid: self.runner.0,
            gid: self.runner.1,
            mode: access.mode & !decided | (self.owner.rights(access) << 6) & decided,
        }
    }

    /// Refuses what the owner may not do.
    pub(crate) fn need(&self, rights: u32, access: Access, what: &str) -> Result<()> {
        if self.owner.rights(access) & rights == rights {
            return Ok(());
        }
        Err(Error::Access(format!(
            "{what}: user {}, who owns the job of this ticket, may not",
            self.owner.uid
        )))
    }
}

/// The users that were looked up lately.
pub(crate) type Persons = Lookups<Arc<Person>>;

impl Tree {
    /// A user as this node's user database has him; one that it does not know has no groups.
    async fn person(&self, uid: u32) -> Result<Arc<Person>> {
        let person = self.persons.ask(uid, PERSON_MAX, |uid| Arc::new(look_up(uid))).await;
        person.ok_or_else(|| Error::TimedOut(format!("looking up user {uid} on this node").into()))
    }

    /// Who looks through a ticket's `jobs/`.
    ///
    /// # Errors
    /// `NotFound` for a ticket that stands alone or has no claimant.
    pub(crate) async fn viewer(&self, ticket: &TicketRef) -> Result<Viewer> {
        let posted = self.posted(ticket).await?;
        let missing = || Error::NotFound(format!("{}/jobs", ticket.key));
        let job = self.job_of(&posted.ticket)?.ok_or_else(missing)?;
        let runner = self.runner(ticket, &posted).await?.ok_or_else(missing)?;
        Ok(Viewer {
            owner: self.person(posted.ticket.owner.unwrap_or(job.entry.access.uid)).await?,
            runner,
        })
    }

    /// Owner and mode of what is seen.
    async fn access_of(&self, node: &Node) -> Result<Access> {
        Ok(self.facts(node).await?.access)
    }

    /// A name in a folder that is seen: as the owner would find it.
    pub(crate) async fn find_seen(&self, caller: Caller, seen: &Seen, name: &str) -> Result<Node> {
        let viewer = self.viewer(&seen.ticket).await?;
        let path = seen.node.path();
        viewer.need(SEARCH, self.access_of(&seen.node).await?, &path)?;
        if let (Node::Build(job, n), Some(area)) = (&seen.node, Area::parse(name)) {
            let build = self.build(job, *n).await?;
            return self.build_area(&build, area, Some((&seen.ticket, viewer))).await;
        }
        // Boxed: what is found in a folder may be seen itself.
        let node = Box::pin(self.find(caller, &seen.node, name)).await?;
        if matches!(node, Node::Scratch(_) | Node::Seen(_) | Node::Top(_)) {
            return Err(Error::NotFound(format!("{path}/{name}")));
        }
        Ok(seen.beside(node))
    }

    /// Attributes of what is seen.
    pub(crate) async fn seen_facts(&self, seen: &Seen) -> Result<Facts> {
        let viewer = self.viewer(&seen.ticket).await?;
        let facts = Box::pin(self.facts(&seen.node)).await?;
        let mut access = viewer.show(facts.access);
        match (&seen.node, facts.kind) {
            // The names of all jobs are no secret.
            (Node::Top(_), _) => access.mode = (READ | SEARCH) << 6,
            (Node::JobFile(_, JobFile::Trigger), _) => {
                access.mode |= (viewer.owner.rights(facts.access) & WRITE) << 6;
            }
            (_, Kind::Symlink) => access.mode = 0o777,
            _ => {}
        }
        Ok(Facts {
            access,
            ttl: NOT_AT_ALL,
            ..facts
        })
    }

    /// Opens what is seen, as the owner would: to read, and a trigger to write.
    pub(crate) async fn open_seen(&self, caller: Caller, seen: &Seen, flags: i32) -> Result<Opened> {
        let viewer = self.viewer(&seen.ticket).await?;
        let mode = flags & libc::O_ACCMODE;
        let mut needed = if mode == libc::O_WRONLY { 0 } else { READ };
        if mode != libc::O_RDONLY {
            if !matches!(seen.node, Node::JobFile(_, JobFile::Trigger)) {
                return Err(Error::ReadOnly(seen.node.path()));
            }
            needed |= WRITE;
        }
        viewer.need(needed, self.access_of(&seen.node).await?, &seen.node.path())?;
        let owner = Caller {
            tid: caller.tid,
            uid: viewer.owner.uid,
            gid: viewer.owner.gid,
        };
        if let (Node::JobFile(job, JobFile::Trigger), true) = (&seen.node, mode != libc::O_RDONLY) {
            let upstream = Some(self.upstream_of(&seen.ticket).await?);
            let kind = self.open_trigger(owner, &seen.node, job, upstream).await?;
            return self.opened(owner, seen.node.clone(), mode == libc::O_RDWR, kind);
        }
        Box::pin(self.open_node(owner, seen.node.clone(), flags)).await
    }

    /// The build that a ticket is of, as those know it that are triggered through the ticket.
    async fn upstream_of(&self, ticket: &TicketRef) -> Result<Upstream> {
        let posted = self.posted(ticket).await?;
        let missing = || Error::NotFound(format!("{}/jobs", ticket.key));
        let job = self.job_of(&posted.ticket)?.ok_or_else(missing)?;
        if posted.ticket.untrusted {
            return Err(Error::Access(format!(
                "{}/jobs: a build of strangers triggers nothing",
                ticket.key
            )));
        }
        let part = posted.ticket.part.ok_or_else(missing)?;
        self.repository.builds.upstream(&job, part.build).await
    }

    /// Refuses to list what the owner may not.
    pub(crate) async fn may_list_seen(&self, seen: &Seen) -> Result<()> {
        let viewer = self.viewer(&seen.ticket).await?;
        if matches!(seen.node, Node::Top(Top::Jobs)) {
            return Ok(());
        }
        viewer.need(READ, self.access_of(&seen.node).await?, &seen.node.path())
    }
}

impl Seen {
    /// Another node, seen through the same ticket.
    pub(crate) fn beside(&self, node: Node) -> Node {
        Node::Seen(Arc::new(Seen {
            ticket: self.ticket.clone(),
            node,
        }))
    }
}

/// Asks the node's user database; it may take long.
fn look_up(uid: u32) -> Person {
    let unknown = Person {
        uid,
        gid: u32::MAX,
        groups: Vec::new(),
    };
    let Ok(Some(user)) = User::from_uid(Uid::from_raw(uid)) else {
        return unknown;
    };
    let Ok(name) = CString::new(user.name) else {
        return unknown;
    };
    let groups = getgrouplist(&name, user.gid).unwrap_or_else(|_| vec![user.gid]);
    Person {
        uid,
        gid: user.gid.as_raw(),
        groups: groups.into_iter().map(Gid::as_raw).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owners_rights_are_shown_as_the_runners() {
        let owner = Arc::new(Person {
            uid: 7,
            gid: 7,
            groups: vec![7, 9],
        });
        let viewer = Viewer {
            owner: owner.clone(),
            runner: (100, 200),
        };
        let of = |uid, gid, mode| Access { uid, gid, mode };
        assert_eq!(viewer.show(of(7, 1, 0o750)), of(100, 200, 0o500));
        assert_eq!(viewer.show(of(1, 9, 0o740)), of(100, 200, 0o400));
        assert_eq!(viewer.show(of(1, 1, 0o770)), of(100, 200, 0));
        assert_eq!(viewer.show_published(of(1, 1, 0o744), false), of(100, 200, 0o744));
        assert_eq!(viewer.show_published(of(1, 1, 0o744), true), of(100, 200, 0o644));
        assert_eq!(viewer.show_published(of(1, 1, 0o770), true), of(100, 200, 0o270));
        let root = Viewer { owner, runner: (0, 0) };
        assert_eq!(root.show(of(1, 1, 0o770)), of(0, 0, 0));
        assert!(viewer.need(READ, of(1, 9, 0o740), "x").is_ok());
        assert!(viewer.need(READ | WRITE, of(1, 9, 0o740), "x").is_err());
    }

    #[test]
    fn root_is_known_and_an_unknown_user_has_no_groups() {
        assert_eq!(look_up(0).gid, 0);
        assert_eq!(look_up(3_999_999_999).groups, Vec::<u32>::new());
    }
}
