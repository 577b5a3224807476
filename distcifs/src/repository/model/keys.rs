//! What entries and records are called: every path and name that is on disk is made and read here.
//!
//! A name that changes is a repository that is lost, so the table of tests.rs is written by hand.

use std::fmt;

use crate::storage::Object;

/// The path of [`Key::Format`].
pub(crate) const FORMAT: &str = "/format";

/// The path of [`Key::Nodes`].
pub(crate) const NODES: &str = "/nodes";

/// The path of [`Key::Leases`].
pub(crate) const LEASES: &str = "/leases";

/// The path of [`Key::Epoch`].
pub(crate) const EPOCH: &str = "/epoch";

/// The path of [`Key::Locks`].
pub(crate) const LOCKS: &str = "/locks";

/// The path of [`Key::GcLock`].
pub(crate) const GC_LOCK: &str = "/locks/gc";

/// The path of [`Key::Groups`].
pub(crate) const GROUPS: &str = "/groups";

/// The path of [`Key::Keys`].
pub(crate) const KEYS: &str = "/keys";

/// The path of [`Key::HeldBuilds`].
pub(crate) const HELD: &str = "/held";

/// The path of [`Key::Jobs`].
pub(crate) const JOBS: &str = "/jobs";

/// The path of [`Key::Tickets`].
pub(crate) const TICKETS: &str = "/tickets";

/// The first slot of builds of strangers, who must not keep the job's own builds waiting.
pub(crate) const UNTRUSTED_SLOTS: u32 = 1 << 31;

/// An entry with the coordinator. Names and uids are neither empty nor have a slash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key<'a> {
    /// Above all.
    Root,
    /// What the repository is made of.
    Format,
    /// Above the mounts that are alive.
    Nodes,
    /// One of them, by its name.
    Node(&'a str),
    /// Above the leases.
    Leases,
    /// That of a session.
    Lease(&'a str),
    /// The epoch that gc began last.
    Epoch,
    /// Above the locks.
    Locks,
    /// Held by the gc that runs.
    GcLock,
    /// That of a job's configuration, by the job's uid.
    JobLock(&'a str),
    /// Above the groups.
    Groups,
    /// A group, by its digest.
    Group(&'a str),
    /// A place in it.
    Place(&'a str, u32),
    /// Above the tokens.
    Keys,
    /// Above those of a job, by its uid.
    JobKeys(&'a str),
    /// A token of a job's uid, by its digest.
    Token(&'a str, &'a str),
    /// Above the jobs.
    Jobs,
    /// The counter of a job, by its uid.
    Job(&'a str),
    /// A build that is not finished, by its job's uid and its number.
    Build(&'a str, u64),
    /// A place of a job's `concurrency`.
    Slot(&'a str, u32),
    /// Above the builds that wait for approval.
    HeldBuilds,
    /// Above those of a job, by its uid.
    HeldOf(&'a str),
    /// One of them, by its number.
    Held(&'a str, u64),
    /// Above the queues.
    Tickets,
    /// A queue.
    Queue(&'a str),
    /// A ticket, by its queue and its id.
    Ticket(&'a str, &'a str),
    /// The claim on a ticket.
    Claim(&'a str, &'a str),
    /// What tells a ticket from one that is posted later under its id.
    Post(&'a str, &'a str, &'a str),
}

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Root => write!(f, "/"),
            Key::Format => f.write_str(FORMAT),
            Key::Nodes => f.write_str(NODES),
            Key::Node(node) => write!(f, "/nodes/{node}"),
            Key::Leases => f.write_str(LEASES),
            Key::Lease(lease) => write!(f, "/leases/{lease}"),
            Key::Epoch => f.write_str(EPOCH),
            Key::Locks => f.write_str(LOCKS),
            Key::GcLock => f.write_str(GC_LOCK),
            Key::JobLock(uid) => write!(f, "/locks/{uid}"),
            Key::Groups => f.write_str(GROUPS),
            Key::Group(digest) => write!(f, "/groups/{digest}"),
            Key::Place(digest, place) => write!(f, "/groups/{digest}/{place}"),
            Key::Keys => f.write_str(KEYS),
            Key::JobKeys(uid) => write!(f, "/keys/{uid}"),
            Key::Token(uid, digest) => write!(f, "/keys/{uid}/{digest}"),
            Key::Jobs => f.write_str(JOBS),
            Key::Job(uid) => write!(f, "/jobs/{uid}"),
            Key::Build(uid, n) => write!(f, "/jobs/{uid}/{n}"),
            Key::Slot(uid, slot) => write!(f, "/jobs/{uid}/slot-{slot}"),
            Key::HeldBuilds => f.write_str(HELD),
            Key::HeldOf(uid) => write!(f, "/held/{uid}"),
            Key::Held(uid, n) => write!(f, "/held/{uid}/{n}"),
            Key::Tickets => f.write_str(TICKETS),
            Key::Queue(queue) => write!(f, "/tickets/{queue}"),
            Key::Ticket(queue, id) => write!(f, "/tickets/{queue}/{id}"),
            Key::Claim(queue, id) => write!(f, "/tickets/{queue}/{id}/claim"),
            Key::Post(queue, id, post) => write!(f, "/tickets/{queue}/{id}/post-{post}"),
        }
    }
}

impl<'a> Key<'a> {
    /// The path.
    pub(crate) fn path(self) -> String {
        self.to_string()
    }

    /// What a path is the path of; `None`: of nothing that is made here.
    pub(crate) fn parse(path: &'a str) -> Option<Self> {
        if path == "/" {
            return Some(Key::Root);
        }
        let parts: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        if parts.iter().any(|part| part.is_empty()) {
            return None;
        }
        let key = match *parts.as_slice() {
            ["format"] => Key::Format,
            ["nodes"] => Key::Nodes,
            ["nodes", node] => Key::Node(node),
            ["leases"] => Key::Leases,
            ["leases", lease] => Key::Lease(lease),
            ["epoch"] => Key::Epoch,
            ["locks"] => Key::Locks,
            ["locks", "gc"] => Key::GcLock,
            ["locks", uid] => Key::JobLock(uid),
            ["groups"] => Key::Groups,
            ["groups", digest] => Key::Group(digest),
            ["groups", digest, place] => Key::Place(digest, number(place)?.try_into().ok()?),
            ["keys"] => Key::Keys,
            ["keys", uid] => Key::JobKeys(uid),
            ["keys", uid, digest] => Key::Token(uid, digest),
            ["jobs"] => Key::Jobs,
            ["jobs", uid] => Key::Job(uid),
            ["jobs", uid, child] => match child.strip_prefix("slot-") {
                Some(slot) => Key::Slot(uid, number(slot)?.try_into().ok()?),
                None => Key::Build(uid, number(child)?),
            },
            ["held"] => Key::HeldBuilds,
            ["held", uid] => Key::HeldOf(uid),
            ["held", uid, n] => Key::Held(uid, number(n)?),
            ["tickets"] => Key::Tickets,
            ["tickets", queue] => Key::Queue(queue),
            ["tickets", queue, id] => Key::Ticket(queue, id),
            ["tickets", queue, id, "claim"] => Key::Claim(queue, id),
            ["tickets", queue, id, below] => {
                let post = below.strip_prefix("post-").filter(|post| !post.is_empty())?;
                Key::Post(queue, id, post)
            }
            _ => return None,
        };
        Some(key)
    }
}

/// A number as it is written here.
fn number(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// A record in the store of contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordKey<'a> {
    /// The list of jobs.
    Jobs,
    /// What the repository is made of.
    Format,
    /// Owner and mode of the top folders.
    Settings,
    /// When what is in the trash came there.
    Trash,
    /// A job's configuration and the index of its builds, by its uid.
    Job(&'a str),
    /// A finished build, by its job's uid and its number.
    Build(&'a str, u64),
}

impl fmt::Display for RecordKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordKey::Jobs => write!(f, "jobs"),
            RecordKey::Format => write!(f, "format"),
            RecordKey::Settings => write!(f, "settings"),
            RecordKey::Trash => write!(f, "trash"),
            RecordKey::Job(uid) => write!(f, "job.{uid}"),
            RecordKey::Build(uid, n) => write!(f, "build.{uid}.{n}"),
        }
    }
}

impl<'a> RecordKey<'a> {
    /// The record.
    pub(crate) fn object(self) -> Object {
        Object::Record(self.to_string())
    }

    /// What a record's name is the name of; `None`: of nothing that is made here.
    pub(crate) fn parse(name: &'a str) -> Option<Self> {
        let parts: Vec<&str> = name.split('.').collect();
        let key = match *parts.as_slice() {
            ["jobs"] => RecordKey::Jobs,
            ["format"] => RecordKey::Format,
            ["settings"] => RecordKey::Settings,
            ["trash"] => RecordKey::Trash,
            ["job", uid] => RecordKey::Job(uid),
            ["build", uid, n] => RecordKey::Build(uid, number(n)?),
            _ => return None,
        };
        Some(key)
    }
}

/// What the keys of a job's finished builds begin with in its index.
pub(crate) const BUILD_LINES: &str = "b";

/// What those of its removed builds begin with.
pub(crate) const REMOVED_BUILD_LINES: &str = "t";

/// What the keys of the pages of a build's record begin with.
pub(crate) const RECORD_LINES: &str = "record";

/// What the keys of removed jobs begin with in the list of jobs: no name of a job has a slash.
pub(crate) const REMOVED_JOB_LINES: &str = ".trash/";

/// A key inside a record, but for names of jobs and top folders, which are their own keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LineKey<'a> {
    /// Of a job's record: which text is its configuration.
    Config,
    /// Of a build's record: all that is kept of it, or the first page of that.
    Record,
    /// A further page of it, from 1.
    RecordPage(usize),
    /// Of a job's record: a finished build, in order of the numbers.
    Build(u64),
    /// The same of a removed one.
    RemovedBuild(u64),
    /// Of the list of jobs: a removed one, by its uid.
    RemovedJob(&'a str),
}

impl fmt::Display for LineKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LineKey::Config => f.write_str("config"),
            LineKey::Record => f.write_str(RECORD_LINES),
            LineKey::RecordPage(page) => write!(f, "{RECORD_LINES}.{page:03}"),
            LineKey::Build(n) => write!(f, "{BUILD_LINES}{n:020}"),
            LineKey::RemovedBuild(n) => write!(f, "{REMOVED_BUILD_LINES}{n:020}"),
            LineKey::RemovedJob(uid) => write!(f, "{REMOVED_JOB_LINES}{uid}"),
        }
    }
}

impl<'a> LineKey<'a> {
    /// The key.
    pub(crate) fn key(self) -> String {
        self.to_string()
    }

    /// What a key is the key of; `None`: of nothing that is made here.
    pub(crate) fn parse(key: &'a str) -> Option<Self> {
        let found = match key {
            "config" => LineKey::Config,
            RECORD_LINES => LineKey::Record,
            _ if key.starts_with(RECORD_LINES) => {
                let page = key.strip_prefix(RECORD_LINES)?.strip_prefix('.')?;
                LineKey::RecordPage(page.parse().ok().filter(|page| *page > 0)?)
            }
            _ => match key.strip_prefix(REMOVED_JOB_LINES) {
                Some(uid) if !uid.is_empty() && !uid.contains('/') => LineKey::RemovedJob(uid),
                Some(_) => return None,
                None => {
                    let build = |prefix: &str| -> Option<u64> { key.strip_prefix(prefix)?.parse().ok() };
                    match build(BUILD_LINES) {
                        Some(n) => LineKey::Build(n),
                        None => LineKey::RemovedBuild(build(REMOVED_BUILD_LINES)?),
                    }
                }
            },
        };
        (found.key() == key).then_some(found)
    }

    /// The number of a build that it stands for, removed or not.
    pub(crate) fn build(self) -> Option<u64> {
        match self {
            LineKey::Build(n) | LineKey::RemovedBuild(n) => Some(n),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
