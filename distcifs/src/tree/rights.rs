//! Who may what: rights beyond owner, group and others, as POSIX ACLs that the kernel enforces, and the
//! rights that a user has on a node.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::handles::Open;
use super::node::{BuildFile, JobFile, Node, QueueFile, TicketFile, TicketRef};
use super::process;
use super::{Caller, Error, Kind, Result, SetAttr, Tree};
use crate::repository::access::Access;
use crate::repository::model::event::Event;
use crate::repository::model::job::Job;
use crate::repository::model::ticket::{CONTROL_QUEUE, Posted, Ticket};
use crate::repository::names::Name;

/// The extended attribute that the kernel asks for an ACL by.
pub(crate) const ACL_NAME: &[u8] = b"system.posix_acl_access";

/// What the names of all ACLs begin with.
pub(crate) const ACL_PREFIX: &[u8] = b"system.posix_acl_";

/// The version and the tags of an ACL as the attribute has it: linux/posix_acl_xattr.h.
const ACL_VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
/// The id of entries that name nobody.
const NO_ID: u32 = u32::MAX;

/// The group's bits of a mode.
const GROUP_BITS: u32 = 0o070;

/// The one of them that is shown where the group has none: whoever adds read and search to it
/// (`chmod g+rx`) gets what was meant.
const SHOWN_ONLY: u32 = 0o010;

/// Bits of a right.
pub(crate) const READ: u32 = 4;
pub(crate) const WRITE: u32 = 2;
pub(crate) const SEARCH: u32 = 1;

/// A right that one user or one group has beside those of owner, group and others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    /// A user.
    User(u32),
    /// A group.
    Group(u32),
}

/// The grants of a node; none: it has no ACL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Grants(Vec<(Who, u32)>);

impl Grants {
    /// What one user has.
    pub(crate) fn to_user(uid: u32, bits: u32) -> Self {
        Grants(vec![(Who::User(uid), bits)])
    }

    /// Gives somebody these bits, beside those given already.
    fn give(&mut self, who: Who, bits: u32) {
        match self.0.iter_mut().find(|(known, _)| *known == who) {
            Some((_, given)) => *given |= bits,
            None => self.0.push((who, bits)),
        }
        self.0.sort_unstable();
    }

    /// The mode that stat shows.
    ///
    /// The kernel looks at an ACL only where the group has any bit: a mode without one shows search. The
    /// mask of the ACL is not shown: who changes a mode takes what is shown and changes a part of it
    /// (`chmod o-rwx`, cp -p), and would give the mask's bits to the group.
    pub(crate) fn shown(&self, mode: u32) -> u32 {
        if self.0.is_empty() || mode & GROUP_BITS != 0 {
            return mode;
        }
        mode | SHOWN_ONLY
    }

    /// The mode that is meant by one that somebody sets where `was` holds: the bit that only shows is no
    /// right of the group.
    pub(crate) fn meant(&self, kind: Kind, set: u32, was: u32) -> u32 {
        let only_shown = self.shown(was) != was && set & SHOWN_ONLY != 0;
        if only_shown && (set & GROUP_BITS == SHOWN_ONLY || kind != Kind::Directory) {
            return set & !SHOWN_ONLY;
        }
        set
    }

    /// The bits of the mask: all that is granted, to the group too.
    fn mask(&self, mode: u32) -> u32 {
        self.0.iter().fold(mode >> 3, |mask, (_, bits)| mask | bits)
    }

    /// The ACL of a node of this mode, as its attribute has it.
    pub(crate) fn acl(&self, mode: u32) -> Option<Bytes> {
        if self.0.is_empty() {
            return None;
        }
        let mut bytes = BytesMut::new();
        bytes.put_u32_le(ACL_VERSION);
        let mut entry = |tag: u16, bits: u32, id: u32| {
            bytes.put_u16_le(tag);
            // Three bits.
            bytes.put_u16_le(u16::try_from(bits & 7).unwrap_or(0));
            bytes.put_u32_le(id);
        };
        entry(USER_OBJ, mode >> 6, NO_ID);
        for (who, bits) in &self.0 {
            if let Who::User(id) = who {
                entry(USER, *bits, *id);
            }
        }
        entry(GROUP_OBJ, mode >> 3, NO_ID);
        for (who, bits) in &self.0 {
            if let Who::Group(id) = who {
                entry(GROUP, *bits, *id);
            }
        }
        entry(MASK, self.mask(mode), NO_ID);
        entry(OTHER, mode, NO_ID);
        Some(bytes.freeze())
    }
}

/// Rights of a user with these groups on something.
pub(crate) fn rights_of(access: Access, uid: u32, groups: &[u32]) -> u32 {
    let shift = if uid == 0 {
        return READ | WRITE | SEARCH;
    } else if uid == access.uid {
        6
    } else if groups.contains(&access.gid) {
        3
    } else {
        0
    };
    access.mode >> shift & 7
}

/// The rights that open(2) with these flags needs.
pub(crate) fn rights_to_open(flags: i32) -> u32 {
    match flags & libc::O_ACCMODE {
        libc::O_RDONLY => READ,
        libc::O_WRONLY => WRITE,
        _ => READ | WRITE,
    }
}

/// Who reads something that shows each reader what it may read.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    uid: u32,
    groups: Vec<u32>,
}

impl Reader {
    /// Whoever asks, with the groups that its process has now.
    pub(crate) fn of(caller: Caller) -> Self {
        let mut groups = process::groups_of(caller.tid);
        groups.push(caller.gid);
        Reader {
            uid: caller.uid,
            groups,
        }
    }

    /// Whether all of these rights are there.
    pub(crate) fn may(&self, access: Access, bits: u32) -> bool {
        rights_of(access, self.uid, &self.groups) & bits == bits
    }

    /// Refuses a change of owner or mode by who does not own it as it is now: the kernel goes by the
    /// owner that it saw last, and does not look again for a descriptor that somebody holds.
    pub(crate) fn may_change(&self, now: Access, set: &SetAttr, what: &str) -> Result<()> {
        let refused = |why: &str| Err(Error::NotPermitted(format!("{what}: {why}")));
        if self.uid == 0 {
            return Ok(());
        }
        if self.uid != now.uid {
            return refused("only its owner and root change its owner and mode");
        }
        if set.uid.is_some_and(|uid| uid != now.uid) {
            return refused("only root gives it away");
        }
        if set.gid.is_some_and(|gid| gid != now.gid && !self.groups.contains(&gid)) {
            return refused("you are not in that group");
        }
        Ok(())
    }
}

/// What a node is to those who may write into its folder or read from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// A folder.
    Folder,
    /// A folder that nothing can be made in.
    Shown,
    /// A file to read.
    Text,
    /// A file of the job's settings.
    Settings,
    /// A file that the claimant writes.
    Claimed,
    /// The same of the job's settings.
    Written,
}

impl Tree {
    /// What the programs named by `-o control=` may, beside all others: search jobs, read
    /// configurations and builds, and trigger.
    pub(crate) fn control_grants(&self, node: &Node) -> Grants {
        let mut grants = Grants::default();
        let bits = match node {
            Node::Job(_) | Node::JobFile(_, JobFile::Builds) | Node::Build(..) | Node::Task(..) => READ | SEARCH,
            Node::BuildFile(_, _, BuildFile::Params | BuildFile::Tasks) => READ | SEARCH,
            Node::JobFile(_, JobFile::Trigger) => READ | WRITE,
            Node::BuildFile(_, _, BuildFile::Ctl | BuildFile::Approve) => return grants,
            Node::JobFile(..) | Node::Next(..) | Node::BuildFile(..) | Node::BuildParam(..) | Node::TaskFile(..) => {
                READ
            }
            _ => return grants,
        };
        for uid in &self.control {
            grants.give(Who::User(*uid), bits);
        }
        grants
    }

    /// What some users may beside owner, group and others, for a node that is not of a ticket.
    ///
    /// Whoever has the queue build-control works builds, and these have tasks of any type: so its owner
    /// may post to every queue. The tickets of a build are posted by its controller alone.
    pub(crate) async fn grants(&self, node: &Node) -> Result<Grants> {
        let (queue, bits) = match node {
            Node::Queue(queue) => (queue, SEARCH),
            Node::QueueFile(queue, QueueFile::Post) => (queue, READ | WRITE),
            Node::Trashed(_) => return self.trash_grants().await,
            node => return Ok(self.control_grants(node)),
        };
        let mut grants = Grants::default();
        if queue.as_str() == CONTROL_QUEUE {
            return Ok(grants);
        }
        let control = self.repository.tops.queue_access(CONTROL_QUEUE).await?;
        if let Some(uid) = control.map(|control| control.uid).filter(|uid| *uid != 0) {
            // Whom an ACL names has nothing of what others have.
            let others = rights_of(self.facts(node).await?.access, uid, &[]);
            grants.give(Who::User(uid), bits | others);
        }
        Ok(grants)
    }

    /// Whether a reader of `.events` may have the line of a change: "only the lines of jobs that it may read", and of
    /// queues for tickets that stand alone.
    pub(crate) async fn may_hear(&self, reader: &Reader, event: &Event) -> Result<bool> {
        if reader.uid == 0 || reader.uid == self.owner.0 || self.control.contains(&reader.uid) {
            return Ok(true);
        }
        let job = match event {
            // The names of jobs are no secret.
            Event::JobRemoved(_) | Event::Resync => return Ok(true),
            Event::JobCreated(job) | Event::JobConfigured(job) => job.as_str(),
            // A renamed one is there by its new name.
            Event::JobRenamed { to, .. } => to.as_str(),
            Event::Build { job, .. }
            | Event::BuildRemoved { job, .. }
            | Event::Task { job, .. }
            | Event::Control { job, .. } => job.as_str(),
            Event::Ticket { key, .. } | Event::TicketRemoved(key) => match key.id.job() {
                Some(job) => job,
                None => {
                    let queue = self.repository.tops.queue_access(key.queue.as_str()).await?;
                    return Ok(queue.is_some_and(|queue| reader.may(queue, READ)));
                }
            },
        };
        let job = self.repository.jobs.get(job);
        Ok(job.is_some_and(|job| reader.may(job.entry.access, READ)))
    }

    /// Refuses a claim by who may not write to the queue's folder. The owner of a build may write to the
    /// folder of its tickets, but who claims decides what was built, and as what worker.
    pub(crate) async fn may_claim(&self, caller: Caller, ticket: &TicketRef) -> Result<()> {
        let queue = self.queue_access(&ticket.key.queue).await?;
        if Reader::of(caller).may(queue, WRITE | SEARCH) {
            return Ok(());
        }
        let queue = &ticket.key.queue;
        Err(Error::Access(format!(
            "{}/claim: to claim you need write and search on tickets/{queue}",
            ticket.key
        )))
    }

    /// Refuses `.next` and `.post` to who opened them when the queue let him in, and does not any more: such
    /// a descriptor is held for days, and the queue may have been given away or made anew.
    pub(crate) async fn may_still(&self, open: &Open, queue: &Name) -> Result<()> {
        let access = self.queue_access(queue).await?;
        let let_in = |access| {
            open.reader
                .as_ref()
                .is_some_and(|reader| reader.may(access, WRITE | SEARCH))
        };
        if let_in(access) {
            return Ok(());
        }
        if matches!(open.node, Node::QueueFile(_, QueueFile::Post)) {
            let control = self.repository.tops.queue_access(CONTROL_QUEUE).await?;
            if control.is_some_and(|control| control.uid == open.caller.uid) {
                return Ok(());
            }
        }
        Err(Error::Access(format!(
            "{}: you need write and search on tickets/{queue}",
            open.node.path()
        )))
    }

    /// Refuses what the caller has no right to on a node that the kernel did not look at: one that a
    /// rename comes onto or leaves, or that is made.
    pub(crate) async fn need(&self, caller: Caller, node: &Node, bits: u32) -> Result<()> {
        if Reader::of(caller).may(self.facts(node).await?.access, bits) {
            return Ok(());
        }
        Err(Error::Access(format!("{}: its mode does not let you", node.path())))
    }

    /// The job that a ticket belongs to; `None` for one that stands alone.
    pub(crate) fn job_of(&self, ticket: &Ticket) -> Result<Option<Job>> {
        let Some(part) = &ticket.part else { return Ok(None) };
        let job = self.repository.jobs.get(&part.job).filter(|job| job.uid() == part.uid);
        match job {
            Some(job) => Ok(Some(job)),
            None => Err(Error::Stale(format!(
                "jobs/{}: the job is gone, or another has its name",
                part.job
            ))),
        }
    }

    /// What the job of a ticket gives to it: owner and mode, and the mode of what a configuration says; `None` for one
    /// that stands alone. A notification whose job is gone is for the job's owner alone.
    fn home_access(&self, ticket: &Ticket, queue: Access) -> Result<Option<(Access, u32)>> {
        let job = match &ticket.notify {
            Some(of) => self.repository.jobs.by_uid(&of.uid),
            None => self.job_of(ticket)?,
        };
        if let Some(job) = job {
            return Ok(Some((job.entry.access, job.entry.settings_mode())));
        }
        let of_owner = |_: &_| {
            let access = Access {
                uid: ticket.uid,
                gid: queue.gid,
                mode: 0o700,
            };
            (access, 0o400)
        };
        Ok(ticket.notify.as_ref().map(of_owner))
    }

    /// Owner, mode and grants of a ticket's folder or of a file in it.
    ///
    /// A ticket of a build has its job's owner, group and mode. The owner and the group of the queue, and
    /// the claimant, have what the queue gives them. One that stands alone has the queue's.
    pub(crate) async fn ticket_access(
        &self,
        ticket: &Arc<TicketRef>,
        posted: &Posted,
        node: &Node,
    ) -> Result<(Access, Grants)> {
        let queue = self.queue_access(&ticket.key.queue).await?;
        let entry = self.repository.claims.held.entry_of(&ticket.key, posted).await?;
        let claimant = entry.map(|claim| (claim.uid, claim.gid));
        let how = use_of(node);
        let Some((mut access, settings)) = self.home_access(&posted.ticket, queue)? else {
            let grants = self.handed_grants(ticket, node);
            return Ok((self.standalone_access(ticket, how, queue, claimant), grants));
        };
        access.mode = match how {
            Use::Folder => access.mode & 0o777,
            Use::Shown => access.mode & 0o555,
            Use::Text => access.mode & 0o444,
            Use::Settings => settings,
            Use::Claimed => access.mode & 0o444 | 0o200,
            Use::Written => settings | 0o200,
        };
        let bits = |given: u32| match how {
            Use::Folder => given,
            Use::Shown => given & (READ | SEARCH),
            Use::Text | Use::Settings => given & READ,
            Use::Claimed | Use::Written => given & (READ | WRITE),
        };
        let mut grants = Grants::default();
        grants.give(Who::User(queue.uid), bits(queue.mode >> 6 & 7));
        grants.give(Who::Group(queue.gid), bits(queue.mode >> 3 & 7));
        if let Some((uid, gid)) = claimant {
            // It claimed, so the queue let it, by whatever group.
            grants.give(
                Who::User(uid),
                bits(rights_of(queue, uid, &[gid]) | READ | WRITE | SEARCH),
            );
        }
        if let Some((uid, _)) = self.shift(ticket).user() {
            grants.give(Who::User(uid), bits(READ | WRITE | SEARCH));
        }
        for (who, given) in self.handed_grants(ticket, node).0 {
            grants.give(who, given);
        }
        Ok((access, grants))
    }

    /// What the ids of an isolation may in a ticket that was handed to them: pass through its folder, and read what its
    /// task needs. The folders of the task show them as owners. With more a script would have the rights of the
    /// job's owner.
    fn handed_grants(&self, ticket: &TicketRef, node: &Node) -> Grants {
        let shift = self.shift(ticket);
        let (Some((uid, _)), None) = (shift.handed_to(), shift.user()) else {
            return Grants::default();
        };
        match node {
            Node::Ticket(_) => Grants::to_user(uid, SEARCH),
            Node::TicketFile(_, TicketFile::Needs) => Grants::to_user(uid, READ | SEARCH),
            _ => Grants::default(),
        }
    }

    /// Owner and mode of what a ticket that stands alone has.
    fn standalone_access(&self, ticket: &TicketRef, how: Use, queue: Access, claimant: Option<(u32, u32)>) -> Access {
        let (uid, gid) = match how {
            Use::Folder => self.shift(ticket).user(),
            _ => claimant,
        }
        .unwrap_or((queue.uid, queue.gid));
        let mode = match how {
            Use::Folder => queue.mode,
            Use::Shown => queue.mode & 0o555,
            Use::Text | Use::Settings => queue.mode & 0o444,
            Use::Claimed | Use::Written => queue.mode & 0o444 | 0o200,
        };
        Access { uid, gid, mode }
    }

    /// The ACL of a generated node.
    pub(crate) async fn acl(&self, node: &Node) -> Result<Option<Bytes>> {
        match node {
            // It is that of whoever runs the work, alone.
            Node::TicketFile(_, TicketFile::Jobs) => Ok(None),
            Node::Ticket(ticket) | Node::TicketFile(ticket, _) | Node::TicketParam(ticket, _) => {
                let posted = self.posted(ticket).await?;
                let (access, grants) = self.ticket_access(ticket, &posted, node).await?;
                Ok(grants.acl(access.mode))
            }
            node => {
                let grants = self.grants(node).await?;
                if grants == Grants::default() {
                    return Ok(None);
                }
                let facts = self.facts(node).await?;
                Ok(grants.acl(facts.access.mode))
            }
        }
    }
}

/// What a ticket's node is.
fn use_of(node: &Node) -> Use {
    match node {
        Node::TicketFile(_, TicketFile::Json | TicketFile::Labels) | Node::TicketParam(..) => Use::Settings,
        Node::TicketFile(_, TicketFile::Result | TicketFile::Console | TicketFile::Claim) => Use::Claimed,
        Node::TicketFile(_, TicketFile::Tasks) => Use::Written,
        Node::TicketFile(_, TicketFile::TasksError) => Use::Settings,
        Node::TicketFile(_, TicketFile::Params | TicketFile::Jobs) | Node::Ticket(_) => Use::Folder,
        Node::TicketFile(_, TicketFile::Needs) => Use::Shown,
        _ => Use::Text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As linux/posix_acl_xattr.h has it: sorted by tag, the mask in the group's bits of the mode.
    #[test]
    fn an_acl_as_the_kernel_reads_it() {
        let mut grants = Grants::default();
        assert_eq!((grants.acl(0o700), grants.shown(0o700)), (None, 0o700));
        grants.give(Who::Group(9), 5);
        grants.give(Who::User(7), 4);
        grants.give(Who::User(7), 1);
        assert_eq!((grants.shown(0o704), grants.shown(0o740)), (0o714, 0o740));
        let bytes = grants.acl(0o700).unwrap();
        let expected: Vec<u8> = [
            vec![2, 0, 0, 0],
            vec![1, 0, 7, 0, 255, 255, 255, 255],
            vec![2, 0, 5, 0, 7, 0, 0, 0],
            vec![4, 0, 0, 0, 255, 255, 255, 255],
            vec![8, 0, 5, 0, 9, 0, 0, 0],
            vec![16, 0, 5, 0, 255, 255, 255, 255],
            vec![32, 0, 0, 0, 255, 255, 255, 255],
        ]
        .concat();
        assert_eq!(bytes, expected);
    }

    /// `chmod o-x` of what is shown leaves the group without a right; one that names rights gives them.
    #[test]
    fn a_mode_that_is_set_gives_no_more_than_it_says() {
        let mut grants = Grants::default();
        let folder = |grants: &Grants, set, was| grants.meant(Kind::Directory, set, was);
        assert_eq!(folder(&grants, 0o710, 0o701), 0o710);
        grants.give(Who::User(7), 5);
        assert_eq!(folder(&grants, 0o710, 0o701), 0o700);
        assert_eq!(folder(&grants, 0o750, 0o701), 0o750);
        assert_eq!(folder(&grants, 0o710, 0o750), 0o710);
        assert_eq!(grants.meant(Kind::File, 0o614, 0o604), 0o604);
        assert_eq!(grants.meant(Kind::File, 0o650, 0o600), 0o640);
    }

    /// "Only its owner, as it is now, and root change owner and mode": as chmod(2) and chown(2) have it.
    #[test]
    fn an_owner_changes_the_mode_and_takes_a_group_of_his() {
        let now = Access {
            uid: 1,
            gid: 2,
            mode: 0o750,
        };
        let may = |uid, set: SetAttr| {
            let groups = vec![5];
            Reader { uid, groups }.may_change(now, &set, "x").is_ok()
        };
        let set = SetAttr::default();
        let mode = SetAttr {
            mode: Some(0o777),
            ..set
        };
        let user = |uid| SetAttr { uid: Some(uid), ..set };
        let group = |gid| SetAttr { gid: Some(gid), ..set };
        assert!(may(1, mode) && may(0, mode) && !may(3, mode));
        assert!(may(1, user(1)) && may(0, user(3)) && !may(1, user(3)) && !may(3, user(3)));
        assert!(may(1, group(2)) && may(1, group(5)) && may(0, group(9)) && !may(1, group(9)) && !may(3, group(5)));
    }

    #[test]
    fn rights_are_those_of_the_first_class_that_fits() {
        let access = Access {
            uid: 1,
            gid: 2,
            mode: 0o741,
        };
        assert_eq!(rights_of(access, 0, &[]), 7);
        assert_eq!(rights_of(access, 1, &[2]), 7);
        assert_eq!(rights_of(access, 3, &[5, 2]), 4);
        assert_eq!(rights_of(access, 3, &[5]), 1);
        assert_eq!(rights_of(Access { mode: 0o077, ..access }, 1, &[2]), 0);
    }
}
