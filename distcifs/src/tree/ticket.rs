//! A ticket's folder: what stands in it, and `needs/`, where its task finds what those before it published.
//!
//! `needs/` shows stored snapshots as they are: nothing is copied, and nothing is written to any store.

use std::sync::Arc;

use super::look::{Facts, NOT_AT_ALL, ON_THE_WAY, WAIT_BYTES, file, link_facts};
use super::node::{Area, Node, TicketFile, TicketRef};
use super::published::{Place, Whose};
use super::{Caller, Error, Result, Tree};
use crate::repository::access::Access;
use crate::repository::core::time_of;
use crate::repository::model::job::Job;
use crate::repository::model::ticket::{BuildRef, Posted};

/// What a folder in `needs/` lets be done by those who come there: `needs/` itself and the ticket's folder
/// say who does.
const NEEDED_MODE: u32 = 0o555;

impl Tree {
    /// A name in a ticket's folder.
    pub(crate) async fn find_in_ticket(&self, caller: Caller, ticket: &Arc<TicketRef>, name: &str) -> Result<Node> {
        let missing = || Error::NotFound(format!("{}/{name}", ticket.key));
        if let Some(area) = Area::parse(name) {
            return self.ticket_area(caller, ticket, area).await;
        }
        let file = TicketFile::parse(name).ok_or_else(missing)?;
        let posted = self.posted(ticket).await?;
        let there = match file {
            TicketFile::Claim => {
                let claimed = self.is_claimed(ticket, &posted).await?;
                if claimed && posted.ticket.ordinal() != ticket.turn {
                    return Err(Error::claim_lost(&ticket.key));
                }
                claimed
            }
            TicketFile::Build => posted.ticket.part.is_some(),
            TicketFile::Jobs => self.viewer(ticket).await.is_ok(),
            TicketFile::Tasks | TicketFile::TasksError => self.has_tasks(ticket, file),
            TicketFile::Needs => {
                // Who looks at what it is to work on has begun.
                self.touch(caller, ticket);
                self.needing(ticket, &posted)?;
                true
            }
            _ => true,
        };
        if there {
            Ok(Node::TicketFile(ticket.clone(), file))
        } else {
            Err(missing())
        }
    }

    /// Attributes of a ticket's folder and of what stands in it.
    pub(crate) async fn ticket_facts(&self, ticket: &Arc<TicketRef>, node: &Node) -> Result<Facts> {
        let posted = self.posted(ticket).await?;
        let time = time_of(posted.ticket.claimed.max(posted.ticket.posted));
        let (access, grants) = self.ticket_access(ticket, &posted, node).await?;
        let access = Access {
            mode: grants.shown(access.mode),
            ..access
        };
        match node {
            Node::Ticket(_) => {
                // What is made and removed in it is decided by who holds the claim.
                let sticky = if posted.ticket.part.is_none() { 0o1000 } else { 0 };
                let mode = access.mode | sticky;
                Ok(self.folder(Access { mode, ..access }, time, self.ticket_ttl(ticket).max(ON_THE_WAY)))
            }
            Node::TicketFile(_, TicketFile::Params) => Ok(self.folder(access, time, NOT_AT_ALL)),
            Node::TicketFile(_, TicketFile::Needs) => {
                self.needing(ticket, &posted)?;
                Ok(self.folder(access, time, NOT_AT_ALL))
            }
            Node::TicketFile(_, TicketFile::Jobs) => {
                let (uid, gid) = self.viewer(ticket).await?.runner;
                Ok(self.folder(Access { uid, gid, mode: 0o500 }, time, NOT_AT_ALL))
            }
            Node::TicketFile(_, TicketFile::Build) => {
                let size = self.build_link(&posted)?.len();
                Ok(link_facts(access, size))
            }
            Node::TicketFile(_, TicketFile::Wait) => Ok(file(access, WAIT_BYTES, time)),
            _ => {
                let size = self
                    .content_of_ticket(ticket, &posted, node)
                    .await?
                    .size(&self.repository)
                    .await?;
                Ok(file(access, size, time))
            }
        }
    }

    /// Whether somebody holds a ticket that was seen like this.
    pub(crate) async fn is_claimed(&self, ticket: &TicketRef, posted: &Posted) -> Result<bool> {
        let claim = self.repository.claims.held.entry_of(&ticket.key, posted).await?;
        Ok(claim.is_some())
    }

    /// User and group who act with the rights of the job's owner: a ticket's claimant, or the user to whom it was
    /// handed. The ids of an isolation never do.
    pub(crate) async fn runner(&self, ticket: &TicketRef, posted: &Posted) -> Result<Option<(u32, u32)>> {
        let claim = self.repository.claims.held.entry_of(&ticket.key, posted).await?;
        Ok(claim.map(|claim| self.shift(ticket).user().unwrap_or((claim.uid, claim.gid))))
    }

    /// The job and the task that a ticket with `needs/` is of.
    ///
    /// # Errors
    /// `NotFound` for one that is of no task; `Stale` for who stands in the folder since before a claim was
    /// lost.
    fn needing(&self, ticket: &TicketRef, posted: &Posted) -> Result<(Job, BuildRef)> {
        let missing = || Error::NotFound(format!("{}/needs", ticket.key));
        let part = posted.ticket.part.clone().filter(|part| part.task.is_some());
        let part = part.ok_or_else(missing)?;
        if posted.ticket.ordinal() != ticket.turn {
            return Err(Error::claim_lost(&ticket.key));
        }
        Ok((self.job_of(&posted.ticket)?.ok_or_else(missing)?, part))
    }

    /// The names in `needs/`.
    pub(crate) async fn needed_names(&self, ticket: &TicketRef) -> Result<Vec<String>> {
        let posted = self.posted(ticket).await?;
        let (job, part) = self.needing(ticket, &posted)?;
        self.repository.needed_names(&job, &part).await
    }

    /// A name in `needs/`: what the task of that name published. It belongs to whoever runs the work, as
    /// the workspace does, and before that to the job's owner.
    pub(crate) async fn find_needed(&self, ticket: &Arc<TicketRef>, name: &str) -> Result<Node> {
        let posted = self.posted(ticket).await?;
        let (job, part) = self.needing(ticket, &posted)?;
        let found = self.repository.needed(&job, &part, name).await?;
        let found = found.ok_or_else(|| Error::NotFound(format!("{}/needs/{name}", ticket.key)))?;
        let entry = &job.entry;
        let shown_to = match self.shift(ticket).handed_to() {
            Some(ids) => Some(ids),
            None => self.runner(ticket, &posted).await?,
        };
        let (uid, gid) = match shown_to {
            Some(ids) => ids,
            None => (entry.access.uid, entry.access.gid),
        };
        // Whom the job's artifacts are closed to, this is.
        let open_to = entry.files.artifacts.map_or(NEEDED_MODE, |mode| mode | 0o700);
        let mode = NEEDED_MODE & open_to;
        let place = Place {
            whose: Whose::Needed(ticket.clone(), found.index),
            access: Access { uid, gid, mode },
            viewer: None,
            time: time_of(posted.ticket.posted),
            parent: self.numbers.ino(&Node::TicketFile(ticket.clone(), TicketFile::Needs)),
        };
        Ok(self.published_root(place, found.artifacts.as_deref()))
    }
}
