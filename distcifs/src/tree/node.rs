//! Nodes of the generated tree and the arithmetic of their inode numbers.
//!
//! A number says what it stands for: its class (3 bits), then for a job's things the job (21), the
//! build (24, 0: the job itself) and the slot (16); so millions of builds can be walked without keeping
//! anything for them. Only jobs, queues, tickets and nodes are numbered, in the order they are met.

use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex};

use self::apart::Apart;
use self::numbered::Numbered;
use super::Ino;
use super::view::Seen;
use crate::repository::core::lock;
use crate::repository::model::ticket::TicketKey;
use crate::repository::names::Name;
use crate::repository::trash::TrashId;

const CLASS_SHIFT: u32 = 61;
const CLASS_JOB: u64 = 2;
const CLASS_QUEUE: u64 = 3;
const CLASS_TICKET: u64 = 4;
const CLASS_SCRATCH: u64 = 1;
const CLASS_PUBLISHED: u64 = 6;
const CLASS_NODE: u64 = 5;
const SLOT_BITS: u32 = 16;
const BUILD_BITS: u32 = 24;
const JOB_BITS: u32 = 21;

/// Slot of `next`, beside those of a job's files and links.
const SLOT_NEXT: u64 = 10;

/// The name of the file in `builds` that says when the schedule starts the job next.
pub(crate) const NEXT: &str = "next";

/// First slot of parameters; the fixed ones stand below.
const SLOT_PARAMS: u64 = 256;
/// Most parameters that can be shown: those of a build and a ticket are far fewer.
pub(crate) const PARAMS_MAX: usize = 4096;
/// Slot of what is seen through a ticket, in the class of nodes.
const SLOT_SEEN: u64 = 1;
/// Slot of what is in the trash, in the same class.
const SLOT_TRASHED: u64 = 2;
/// Slot of files of which each user has one of his own, in the same class.
const SLOT_APART: u64 = 3;
/// First slot of tasks.
const SLOT_TASKS: u64 = SLOT_PARAMS + PARAMS_MAX as u64;
/// Slots of each task: 4,000 tasks fit.
const SLOTS_PER_TASK: u64 = 12;
/// Largest number of a build that has an inode number.
pub(crate) const BUILD_MAX: u64 = (1 << BUILD_BITS) - 1;

/// First number of the claimants' own files.
pub const WORK_FIRST: u64 = 7 << CLASS_SHIFT;

/// A job as it was met: its name then, and its uid. One that is renamed stays the same, one that is removed
/// and made again is another.
#[derive(Debug, Clone)]
pub struct JobRef {
    /// Its name.
    pub name: Name,
    /// Its uid.
    pub uid: Arc<str>,
}

impl PartialEq for JobRef {
    fn eq(&self, other: &Self) -> bool {
        self.uid == other.uid
    }
}

impl Eq for JobRef {}

impl Hash for JobRef {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.uid.hash(state);
    }
}

/// A ticket as it was met: one removed and made again is another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TicketRef {
    /// Queue and id.
    pub key: TicketKey,
    /// Its place in the order of all tickets.
    pub created: u64,
    /// Which claim of it was the next, or the one at hand, when it was met: after one that was lost its
    /// folder is another.
    pub turn: u32,
}

/// Declares an enum of files with their slots and names.
macro_rules! slots {
    ($(#[$doc:meta])* $type:ident { $($(#[$vdoc:meta])* $variant:ident = $slot:literal, $name:literal;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $type { $($(#[$vdoc])* $variant,)* }

        impl $type {
            /// All of them, in the order in which they are listed.
            pub const ALL: &'static [$type] = &[$($type::$variant,)*];

            /// The name.
            pub fn name(self) -> &'static str {
                match self { $($type::$variant => $name,)* }
            }

            /// From the name.
            pub fn parse(name: &str) -> Option<Self> {
                match name { $($name => Some($type::$variant),)* _ => None }
            }

            fn slot(self) -> u64 {
                match self { $($type::$variant => $slot,)* }
            }

            fn from_slot(slot: u64) -> Option<Self> {
                match slot { $($slot => Some($type::$variant),)* _ => None }
            }
        }
    };
}

slots! {
    /// What stands at the top.
    Top {
        /// How to use the tree.
        Readme = 2, "README";
        /// Key and value lines.
        Status = 3, "status";
        /// Prometheus text.
        Metrics = 4, "metrics";
        /// One file for each mount.
        Nodes = 6, "nodes";
        /// The jobs.
        Jobs = 7, "jobs";
        /// The queues.
        Tickets = 8, "tickets";
        /// The stream of changes; not listed.
        Events = 5, ".events";
        /// Whether the mount takes work; not listed.
        Drain = 9, ".drain";
        /// What was removed and can be brought back; in `jobs`, and not listed there.
        Trash = 10, "jobs/.trash";
    }
}

slots! {
    /// What stands in a job's folder.
    JobFile {
        /// What was wrong with the last one written here; there only then.
        ConfigError = 2, "config.error";
        /// Starts a build.
        Trigger = 3, "trigger";
        /// The builds.
        Builds = 4, "builds";
        /// Switches it on and off.
        Enabled = 8, "enabled";
        /// Why the last trigger here was refused; there only then.
        TriggerError = 9, "trigger.error";
        /// The configuration. The last in every order but that of names: programs that copy a folder make what
        /// comes before it while nobody has written it yet.
        Config = 11, "config.json";
    }
}

slots! {
    /// The links in `builds`.
    Link {
        /// The newest build.
        Latest = 5, "latest";
        /// The newest that succeeded.
        LastSuccess = 6, "last-success";
        /// The newest that failed.
        LastFailure = 7, "last-failure";
        /// The newest that is no stranger's; not listed.
        LatestTrusted = 12, ".latest-trusted";
    }
}

slots! {
    /// What stands in a build's folder, workspace and artifacts apart.
    BuildFile {
        /// One word.
        State = 1, "state";
        /// One line.
        Why = 2, "why";
        /// The whole record.
        BuildJson = 3, "build.json";
        /// The configuration as it was.
        Config = 4, "config.json";
        /// One file for each parameter.
        Params = 5, "params";
        /// All that the tasks wrote.
        Console = 6, "console";
        /// Takes control words.
        Ctl = 7, "ctl";
        /// One folder for each task.
        Tasks = 8, "tasks";
        /// The final state, once there is one; not listed.
        Wait = 9, ".wait";
        /// One line.
        Cause = 10, "cause";
        /// Who did what to it, one a line.
        By = 11, "by";
        /// Why the last control word here was refused; there only then.
        CtlError = 12, "ctl.error";
        /// What made somebody trigger it.
        Event = 13, "event";
        /// The ref that is built, if that was said.
        Ref = 14, "ref";
        /// The commit that is built, if that was said.
        Commit = 15, "commit";
        /// The ref that a pull request is to be merged into.
        Base = 16, "base";
        /// Whether a stranger wrote what is built.
        Trust = 17, "trust";
        /// Takes the commit that may be built; of one that is held, or was.
        Approve = 18, "approve";
        /// All tasks, and which of them added each.
        Plan = 30, "plan.json";
    }
}

slots! {
    /// What stands in a task's folder.
    TaskFile {
        /// One word.
        State = 1, "state";
        /// Its exit status.
        Exit = 2, "exit";
        /// What it wrote.
        Console = 3, "console";
        /// When it was claimed.
        Started = 4, "started";
        /// When it ended.
        Finished = 5, "finished";
        /// Where it ran.
        Node = 6, "node";
        /// Its attempt.
        Attempt = 7, "attempt";
        /// Who claimed it.
        By = 8, "by";
        /// Its name.
        Name = 9, "name";
        /// What it waits for, or how it ended; then the last lines of one that failed.
        Why = 10, "why";
        /// It as build.json has it.
        Json = 11, "task.json";
    }
}

slots! {
    /// The hidden files of a queue.
    QueueFile {
        /// Asks for work.
        Next = 1, ".next";
        /// Posts a ticket.
        Post = 2, ".post";
    }
}

slots! {
    /// What stands in a ticket's folder, workspace and artifacts apart.
    TicketFile {
        /// The whole ticket.
        Json = 1, "ticket.json";
        /// One file for each parameter.
        Params = 2, "params";
        /// Labels a worker must have.
        Labels = 3, "labels";
        /// Counts lost claims.
        Attempt = 4, "attempt";
        /// Link to the build; absent for a ticket that stands alone.
        Build = 5, "build";
        /// Absent until claimed.
        Claim = 6, "claim";
        /// The claimant appends to it.
        Console = 7, "console";
        /// The claimant writes the outcome.
        Result = 8, "result";
        /// The result, once there is one; not listed.
        Wait = 9, ".wait";
        /// The user with whose rights the work is done.
        Owner = 10, "owner";
        /// All jobs, as that user sees them; not listed.
        Jobs = 11, "jobs";
        /// How long its work may take, seconds from the claim.
        Timeout = 12, "timeout";
        /// What the tasks that it waits for published, one folder for each; of a task of a build only.
        Needs = 13, "needs";
        /// Tasks that it adds to its build; absent until its claimant makes it.
        Tasks = 20, "tasks.json";
        /// Why the last write of that was refused; there only then.
        TasksError = 21, "tasks.error";
    }
}

/// A folder of files that tasks made: workspace or artifacts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Area {
    /// The working folder.
    Workspace,
    /// What is published.
    Artifacts,
}

impl Area {
    /// Both.
    pub const ALL: [Area; 2] = [Area::Workspace, Area::Artifacts];

    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Area::Workspace => "workspace",
            Area::Artifacts => "artifacts",
        }
    }

    /// From the name.
    pub fn parse(name: &str) -> Option<Self> {
        Area::ALL.into_iter().find(|area| area.name() == name)
    }
}

/// What an inode number stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Node {
    /// The mount point.
    Root,
    /// Something at the top.
    Top(Top),
    /// `nodes/<node>`.
    Alive(Arc<Name>),
    /// A job's folder.
    Job(Arc<JobRef>),
    /// A file in it.
    JobFile(Arc<JobRef>, JobFile),
    /// A link in its `builds`.
    Link(Arc<JobRef>, Link),
    /// When its schedule starts it next.
    Next(Arc<JobRef>),
    /// A scratch file.
    Scratch(u64),
    /// A build's folder.
    Build(Arc<JobRef>, u64),
    /// A file in it.
    BuildFile(Arc<JobRef>, u64, BuildFile),
    /// A parameter of a build, by its place.
    BuildParam(Arc<JobRef>, u64, usize),
    /// A task's folder.
    Task(Arc<JobRef>, u64, usize),
    /// A file in it.
    TaskFile(Arc<JobRef>, u64, usize, TaskFile),
    /// A queue's folder.
    Queue(Arc<Name>),
    /// A hidden file in it.
    QueueFile(Arc<Name>, QueueFile),
    /// A ticket's folder.
    Ticket(Arc<TicketRef>),
    /// A file in it.
    TicketFile(Arc<TicketRef>, TicketFile),
    /// A parameter of a ticket, by its place.
    TicketParam(Arc<TicketRef>, usize),
    /// Something of a job, seen through a ticket.
    Seen(Arc<Seen>),
    /// Something in the trash.
    Trashed(Arc<TrashId>),
    /// A published file or folder.
    Published(u64),
    /// A claimant's own file.
    Work(Ino),
}

impl Node {
    /// The job that it is in, as far as the node itself tells.
    pub(crate) fn job(&self) -> Option<&Arc<JobRef>> {
        match self {
            Node::Job(job)
            | Node::JobFile(job, _)
            | Node::Link(job, _)
            | Node::Next(job)
            | Node::Build(job, _)
            | Node::BuildFile(job, ..)
            | Node::BuildParam(job, ..)
            | Node::Task(job, ..)
            | Node::TaskFile(job, ..) => Some(job),
            _ => None,
        }
    }

    /// Its path below the mount point, as far as the node itself tells.
    pub fn path(&self) -> String {
        match self {
            Node::Root => String::new(),
            Node::Top(top) => format!("/{}", top.name()),
            Node::Alive(name) => format!("/nodes/{name}"),
            Node::Job(job) => format!("/jobs/{}", job.name),
            Node::JobFile(job, file) => format!("/jobs/{}/{}", job.name, file.name()),
            Node::Link(job, link) => format!("/jobs/{}/builds/{}", job.name, link.name()),
            Node::Next(job) => format!("/jobs/{}/builds/{NEXT}", job.name),
            Node::Scratch(_) => "/jobs/(a scratch file)".into(),
            Node::Build(job, n) => format!("/jobs/{}/builds/{n}", job.name),
            Node::BuildFile(job, n, file) => format!("/jobs/{}/builds/{n}/{}", job.name, file.name()),
            Node::BuildParam(job, n, at) => format!("/jobs/{}/builds/{n}/params/(number {at})", job.name),
            Node::Task(job, n, task) => format!("/jobs/{}/builds/{n}/tasks/{task}", job.name),
            Node::TaskFile(job, n, task, file) => format!("/jobs/{}/builds/{n}/tasks/{task}/{}", job.name, file.name()),
            Node::Queue(queue) => format!("/tickets/{queue}"),
            Node::QueueFile(queue, file) => format!("/tickets/{queue}/{}", file.name()),
            Node::Ticket(ticket) => format!("/{}", ticket.key),
            Node::TicketFile(ticket, file) => format!("/{}/{}", ticket.key, file.name()),
            Node::TicketParam(ticket, at) => format!("/{}/params/(number {at})", ticket.key),
            Node::Seen(seen) => format!("/{}{}", seen.ticket.key, seen.node.path()),
            Node::Trashed(id) => format!("/jobs/.trash/{id}"),
            Node::Published(id) => format!("(published file {id})"),
            Node::Work(ino) => format!("(claimant's file {:#x})", ino.0),
        }
    }
}

/// Numbers of jobs: more fit into no inode number.
const JOBS_MAX: u64 = (1 << JOB_BITS) - 1;

/// The numbers given so far.
pub struct Numbers {
    jobs: Mutex<Numbered<JobRef>>,
    queues: Mutex<Numbered<Name>>,
    tickets: Mutex<Numbered<TicketRef>>,
    nodes: Mutex<Numbered<Name>>,
    seen: Mutex<Numbered<Seen>>,
    trashed: Mutex<Numbered<TrashId>>,
    apart: Mutex<Numbered<Apart>>,
}

impl Default for Numbers {
    fn default() -> Self {
        Numbers {
            jobs: Mutex::new(Numbered::up_to(JOBS_MAX)),
            queues: Mutex::default(),
            tickets: Mutex::default(),
            nodes: Mutex::default(),
            seen: Mutex::default(),
            trashed: Mutex::default(),
            apart: Mutex::default(),
        }
    }
}

fn pack(class: u64, thing: u64, slot: u64) -> Ino {
    Ino(class << CLASS_SHIFT | thing << SLOT_BITS | slot)
}

impl Numbers {
    /// The inode number of a node, as all see it; 0 for one that has none of this arithmetic.
    pub fn ino(&self, node: &Node) -> Ino {
        let job = |job: &Arc<JobRef>, n: u64, slot: u64| {
            pack(CLASS_JOB, lock(&self.jobs).number(job) << BUILD_BITS | n, slot)
        };
        let ticket = |ticket: &Arc<TicketRef>, slot| pack(CLASS_TICKET, lock(&self.tickets).number(ticket), slot);
        let queue = |queue: &Arc<Name>, slot| pack(CLASS_QUEUE, lock(&self.queues).number(queue), slot);
        match node {
            Node::Root => Ino(1),
            Node::Top(top) => Ino(top.slot()),
            Node::Alive(name) => pack(CLASS_NODE, lock(&self.nodes).number(name), 0),
            Node::Job(j) => job(j, 0, 0),
            Node::JobFile(j, file) => job(j, 0, file.slot()),
            Node::Link(j, link) => job(j, 0, link.slot()),
            Node::Next(j) => job(j, 0, SLOT_NEXT),
            Node::Scratch(id) => pack(CLASS_SCRATCH, *id, 0),
            Node::Build(j, n) => job(j, *n, 0),
            Node::BuildFile(j, n, file) => job(j, *n, file.slot()),
            Node::BuildParam(j, n, at) => job(j, *n, SLOT_PARAMS + *at as u64),
            Node::Task(j, n, task) => job(j, *n, SLOT_TASKS + SLOTS_PER_TASK * *task as u64),
            Node::TaskFile(j, n, task, file) => job(j, *n, SLOT_TASKS + SLOTS_PER_TASK * *task as u64 + file.slot()),
            Node::Queue(q) => queue(q, 0),
            Node::QueueFile(q, file) => queue(q, file.slot()),
            Node::Ticket(t) => ticket(t, 0),
            Node::TicketFile(t, file) => ticket(t, file.slot()),
            Node::TicketParam(t, at) => ticket(t, SLOT_PARAMS + *at as u64),
            Node::Seen(seen) => pack(CLASS_NODE, lock(&self.seen).number(seen), SLOT_SEEN),
            Node::Trashed(id) => pack(CLASS_NODE, lock(&self.trashed).number(id), SLOT_TRASHED),
            Node::Published(id) => pack(CLASS_PUBLISHED, *id, 0),
            Node::Work(ino) => *ino,
        }
    }

    /// What a number stands for; `None` if it was never given or is forgotten.
    pub fn node(&self, ino: Ino) -> Option<Node> {
        let slot = ino.0 & ((1 << SLOT_BITS) - 1);
        let thing = (ino.0 & ((1 << CLASS_SHIFT) - 1)) >> SLOT_BITS;
        match ino.0 >> CLASS_SHIFT {
            0 if ino.0 == 1 => Some(Node::Root),
            0 => Top::from_slot(ino.0).map(Node::Top),
            CLASS_SCRATCH => Some(Node::Scratch(thing)),
            CLASS_JOB => self.job_node(thing, slot),
            CLASS_QUEUE => {
                let queue = lock(&self.queues).value(thing)?;
                Some(if slot == 0 {
                    Node::Queue(queue)
                } else {
                    Node::QueueFile(queue, QueueFile::from_slot(slot)?)
                })
            }
            CLASS_TICKET => {
                let ticket = lock(&self.tickets).value(thing)?;
                Some(match slot {
                    0 => Node::Ticket(ticket),
                    SLOT_PARAMS.. => Node::TicketParam(ticket, usize::try_from(slot - SLOT_PARAMS).ok()?),
                    _ => Node::TicketFile(ticket, TicketFile::from_slot(slot)?),
                })
            }
            CLASS_NODE if slot == SLOT_SEEN => lock(&self.seen).value(thing).map(Node::Seen),
            CLASS_NODE if slot == SLOT_TRASHED => lock(&self.trashed).value(thing).map(Node::Trashed),
            CLASS_NODE if slot == SLOT_APART => lock(&self.apart).value(thing).map(|apart| apart.node.clone()),
            CLASS_NODE => lock(&self.nodes).value(thing).map(Node::Alive),
            CLASS_PUBLISHED => Some(Node::Published(thing)),
            _ => Some(Node::Work(ino)),
        }
    }

    /// A node of a job or of one of its builds.
    fn job_node(&self, thing: u64, slot: u64) -> Option<Node> {
        let n = thing & BUILD_MAX;
        let job = lock(&self.jobs).value(thing >> BUILD_BITS & ((1 << JOB_BITS) - 1))?;
        Some(match (n, slot) {
            (0, 0) => Node::Job(job),
            (0, SLOT_NEXT) => Node::Next(job),
            (0, slot) => match Link::from_slot(slot) {
                Some(link) => Node::Link(job, link),
                None => Node::JobFile(job, JobFile::from_slot(slot)?),
            },
            (n, 0) => Node::Build(job, n),
            (n, SLOT_TASKS..) => {
                let task = usize::try_from((slot - SLOT_TASKS) / SLOTS_PER_TASK).ok()?;
                match (slot - SLOT_TASKS) % SLOTS_PER_TASK {
                    0 => Node::Task(job, n, task),
                    file => Node::TaskFile(job, n, task, TaskFile::from_slot(file)?),
                }
            }
            (n, SLOT_PARAMS..) => Node::BuildParam(job, n, usize::try_from(slot - SLOT_PARAMS).ok()?),
            (n, slot) => Node::BuildFile(job, n, BuildFile::from_slot(slot)?),
        })
    }

    /// The folders of queues that have a number.
    pub(crate) fn queue_folders(&self) -> Vec<Ino> {
        let numbers = lock(&self.queues).numbers();
        numbers.into_iter().map(|number| pack(CLASS_QUEUE, number, 0)).collect()
    }

    /// The inode number that answers a user's lookup. Those of nodes of jobs, queues and tickets are counted, for
    /// they are many and go again. Counted first: a number that was asked for before may be forgotten
    /// meanwhile, when the kernel drops an earlier lookup just as it looks again.
    pub fn looked_up(&self, node: &Node, uid: u32) -> Ino {
        if let Some(apart) = Apart::of(node, uid) {
            return pack(CLASS_NODE, apart.looked_up(&mut lock(&self.apart)), SLOT_APART);
        }
        match node {
            Node::Ticket(ticket) | Node::TicketFile(ticket, _) | Node::TicketParam(ticket, _) => {
                lock(&self.tickets).count(ticket);
            }
            Node::Seen(seen) => lock(&self.seen).count(seen),
            Node::Trashed(id) => lock(&self.trashed).count(id),
            Node::Queue(queue) | Node::QueueFile(queue, _) => lock(&self.queues).count(queue),
            Node::Job(job) => {
                let mut jobs = lock(&self.jobs);
                jobs.count(job);
                // It may have been renamed.
                jobs.renew(job);
            }
            _ => node.job().into_iter().for_each(|job| lock(&self.jobs).count(job)),
        }
        self.ino(node)
    }

    /// Takes lookups back.
    pub fn forget(&self, ino: Ino, count: u64) {
        let (slot, thing) = (
            ino.0 & ((1 << SLOT_BITS) - 1),
            (ino.0 & ((1 << CLASS_SHIFT) - 1)) >> SLOT_BITS,
        );
        match ino.0 >> CLASS_SHIFT {
            CLASS_TICKET => lock(&self.tickets).forget(thing, count),
            CLASS_QUEUE => lock(&self.queues).forget(thing, count),
            CLASS_JOB => lock(&self.jobs).forget(thing >> BUILD_BITS, count),
            CLASS_NODE if slot == SLOT_SEEN => lock(&self.seen).forget(thing, count),
            CLASS_NODE if slot == SLOT_TRASHED => lock(&self.trashed).forget(thing, count),
            CLASS_NODE if slot == SLOT_APART => lock(&self.apart).forget(thing, count),
            _ => {}
        }
    }
}

mod apart;
mod numbered;
#[cfg(test)]
mod tests;
