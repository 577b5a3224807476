//! Lookups and attributes of generated nodes.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::content::Content;
use super::node::{
    Area, BUILD_MAX, BuildFile, JobFile, JobRef, Node, PARAMS_MAX, QueueFile, TaskFile, TicketFile, TicketRef, Top,
};
use super::refused::{error_mode, written_file};
use super::view::Seen;
use super::{Attr, Attributes, Caller, Error, Found, Ino, Kind, Result, Tree};
use crate::repository::access::Access;
use crate::repository::core::{lock, time_of};
use crate::repository::model::build::Build;
use crate::repository::model::job::Job;
use crate::repository::model::ticket::{Posted, TicketKey};
use crate::repository::names::{Name, TicketId};

/// How long the kernel may believe what only this mount changes, or what it is told of.
pub(crate) const LONG: Duration = Duration::from_secs(3600);

/// How long it may believe what may change at any moment.
pub(crate) const NOT_AT_ALL: Duration = Duration::ZERO;

/// The same of attributes that it would ask for again at once, only to check permissions on its way
/// through a path: two requests of a claim.
pub(crate) const ON_THE_WAY: Duration = Duration::from_millis(20);

/// How long it may believe in the folder of a ticket that is claimed here: every path into a
/// claimant's workspace leads through it, and 10,000 `stat`s would look it up 10,000 times. If the
/// ticket goes in that time, whoever passes through gets ESTALE, upon which the kernel looks again.
const WHILE_CLAIMED: Duration = Duration::from_secs(1);

/// How long it may believe what other mounts change seldom, and tell of only by the store.
const WHILE_SHARED: Duration = Duration::from_secs(1);

/// Size of `.wait` and of streams, bytes. They are not listed, and nobody knows how much there will be; of a
/// file of 0 bytes sendfile, which busybox's cat uses, reads nothing.
pub(super) const WAIT_BYTES: u64 = 4096;

/// Longest name of a file.
pub(crate) const NAME_MAX: usize = 255;

/// Whether the attributes of a build's file or folder hang on what became of its tasks.
fn needs_tasks(node: &Node) -> bool {
    match node {
        Node::BuildFile(_, _, file) => matches!(file, BuildFile::State | BuildFile::Why | BuildFile::BuildJson),
        Node::BuildParam(..) => true,
        _ => false,
    }
}

/// What the attributes of a generated node are made of.
pub(crate) struct Facts {
    pub(crate) kind: Kind,
    pub(crate) access: Access,
    pub(crate) size: u64,
    pub(crate) time: SystemTime,
    pub(crate) ttl: Duration,
    pub(crate) nlink: u32,
}

impl Tree {
    /// What a name in a folder leads to.
    pub(crate) async fn find(&self, caller: Caller, parent: &Node, name: &str) -> Result<Node> {
        let missing = || Error::NotFound(name.to_owned());
        match parent {
            Node::Root => Top::parse(name).map(Node::Top).ok_or_else(missing),
            Node::Top(Top::Jobs) => self.find_in_jobs(name).await,
            Node::Top(Top::Trash) => self.find_in_trash(name).await,
            Node::Top(Top::Tickets) => {
                let queue = Name::new(name).ok_or_else(missing)?;
                self.repository.tops.queue_access(name).await?.ok_or_else(missing)?;
                Ok(Node::Queue(Arc::new(queue)))
            }
            Node::Top(Top::Nodes) => {
                let alive = self
                    .repository
                    .nodes
                    .nodes()
                    .await?
                    .into_iter()
                    .find(|n| n.as_str() == name);
                Ok(Node::Alive(Arc::new(alive.ok_or_else(missing)?)))
            }
            Node::Job(job) => self.find_in_job(caller, job, name),
            Node::JobFile(job, JobFile::Builds) => self.find_build(job, name).await,
            Node::Build(job, n) => self.find_in_build(job, *n, name).await,
            Node::BuildFile(job, n, BuildFile::Params) => {
                let build = self.build(job, *n).await?;
                let at = build
                    .all_params()
                    .iter()
                    .position(|(known, _)| known == name)
                    .filter(|at| *at < PARAMS_MAX);
                Ok(Node::BuildParam(job.clone(), *n, at.ok_or_else(missing)?))
            }
            Node::BuildFile(job, n, BuildFile::Tasks) => {
                let build = self.repository.builds.build_head(&self.job(job)?, *n).await?;
                let index: usize = name
                    .split_once('-')
                    .and_then(|(i, _)| i.parse().ok())
                    .ok_or_else(missing)?;
                build
                    .task_name(index)
                    .filter(|known| known == name)
                    .ok_or_else(missing)?;
                Ok(Node::Task(job.clone(), *n, index))
            }
            Node::Task(job, n, task) => {
                let file = TaskFile::parse(name).ok_or_else(missing)?;
                Ok(Node::TaskFile(job.clone(), *n, *task, file))
            }
            Node::Queue(queue) => self.find_in_queue(queue, name).await,
            Node::Ticket(ticket) => self.find_in_ticket(caller, ticket, name).await,
            Node::TicketFile(ticket, TicketFile::Jobs) => {
                let (ticket, node) = (ticket.clone(), Node::Top(Top::Jobs));
                self.find_seen(caller, &Seen { ticket, node }, name).await
            }
            Node::Seen(seen) => self.find_seen(caller, seen, name).await,
            Node::TicketFile(ticket, TicketFile::Needs) => self.find_needed(ticket, name).await,
            Node::TicketFile(ticket, TicketFile::Params) => {
                let names = self.ticket_params(ticket).await?;
                let at = names
                    .iter()
                    .position(|(known, _)| known == name)
                    .filter(|at| *at < PARAMS_MAX);
                Ok(Node::TicketParam(ticket.clone(), at.ok_or_else(missing)?))
            }
            _ => Err(Error::NotDirectory(name.to_owned())),
        }
    }

    /// A name in a job's folder: one of the fixed ones, or a scratch file.
    fn find_in_job(&self, caller: Caller, job: &Arc<JobRef>, name: &str) -> Result<Node> {
        match JobFile::parse(name) {
            Some(file) if self.hidden_files.is_for(caller, job, file) => Err(Error::NotFound(name.to_owned())),
            Some(file) => self.unless_absent(Node::JobFile(job.clone(), file)),
            None => self
                .scratch
                .find(&job.uid, name)
                .map(Node::Scratch)
                .ok_or_else(|| Error::NotFound(name.to_owned())),
        }
    }

    /// A build, or what stands beside the builds.
    async fn find_build(&self, job: &Arc<JobRef>, name: &str) -> Result<Node> {
        let missing = || Error::NotFound(format!("jobs/{}/builds/{name}", job.name));
        if let Some(found) = self.find_beside_builds(job, name).await? {
            return Ok(found);
        }
        let plain = !name.starts_with('0') && name.bytes().all(|b| b.is_ascii_digit());
        let n: u64 = plain
            .then(|| name.parse().ok())
            .flatten()
            .filter(|n| *n <= BUILD_MAX)
            .ok_or_else(missing)?;
        if !self.repository.builds.has_build(&self.job(job)?, n).await? {
            return Err(missing());
        }
        Ok(Node::Build(job.clone(), n))
    }

    /// A name in a build's folder.
    async fn find_in_build(&self, job: &Arc<JobRef>, n: u64, name: &str) -> Result<Node> {
        if let Some(area) = Area::parse(name) {
            let build = self.build(job, n).await?;
            return self.build_area(&build, area, None).await;
        }
        let file = BuildFile::parse(name).ok_or_else(|| Error::NotFound(name.to_owned()))?;
        if file == BuildFile::Approve && !self.was_held(job, n).await? {
            return Err(Error::NotFound(format!("jobs/{}/builds/{n}/{name}", job.name)));
        }
        self.unless_absent(Node::BuildFile(job.clone(), n, file))
    }

    /// Whether a build waits for approval, or did once.
    pub(super) async fn was_held(&self, job: &JobRef, n: u64) -> Result<bool> {
        let build = self.repository.builds.build_head(&self.job(job)?, n).await?;
        Ok(build.was_held())
    }

    /// A name in a queue's folder.
    async fn find_in_queue(&self, queue: &Arc<Name>, name: &str) -> Result<Node> {
        if let Some(file) = QueueFile::parse(name) {
            return Ok(Node::QueueFile(queue.clone(), file));
        }
        let missing = || Error::NotFound(format!("tickets/{queue}/{name}"));
        let key = TicketKey {
            queue: (**queue).clone(),
            id: TicketId::new(name).ok_or_else(missing)?,
        };
        let posted = self.repository.tickets.look_up(&key).await?.ok_or_else(missing)?;
        Ok(Node::Ticket(Arc::new(TicketRef {
            key,
            created: posted.created,
            turn: posted.ticket.ordinal(),
        })))
    }

    /// The answer to a user's lookup that found this node.
    pub(crate) async fn found(&self, node: &Node, uid: u32) -> Result<Found> {
        match node {
            Node::Published(id) => return Ok(self.of_generation(self.published.found(*id)?)),
            Node::Work(ino) => return self.work.found(*ino),
            _ => {}
        }
        let (mut attr, ttl) = self.attr(node).await?;
        attr.ino = self.numbers.looked_up(node, uid);
        let name_ttl = match node {
            // Whoever comes next may be another user.
            node if node.is_apart() => NOT_AT_ALL,
            // With the name the kernel learns whose it is, which it asks for in no other way before a rmdir.
            Node::Job(_) | Node::Queue(_) | Node::Build(..) => self.shared_ttl(),
            Node::Root | Node::Top(_) => LONG,
            node if written_file(node).is_some() => NOT_AT_ALL,
            Node::JobFile(..) | Node::BuildFile(..) => LONG,
            Node::Task(..) | Node::TaskFile(..) => LONG,
            Node::Ticket(ticket) => self.ticket_ttl(ticket),
            _ => NOT_AT_ALL,
        };
        let attributes = Attributes { attr, ttl };
        Ok(self.of_generation(Found {
            attributes,
            name_ttl,
            generation: 0,
        }))
    }

    /// Attributes of a generated node.
    pub(crate) async fn attr(&self, node: &Node) -> Result<(Attr, Duration)> {
        let facts = self.seen_by_kernel(node).await?;
        self.attr_with(node, facts).await
    }

    /// The same, made of these.
    pub(crate) async fn attr_with(&self, node: &Node, facts: Facts) -> Result<(Attr, Duration)> {
        let attr = Attr {
            ino: self.numbers.ino(node),
            kind: facts.kind,
            mode: self.grants(node).await?.shown(facts.access.mode),
            nlink: facts.nlink,
            uid: facts.access.uid,
            gid: facts.access.gid,
            rdev: 0,
            size: facts.size,
            blocks: facts.size.div_ceil(512),
            atime: facts.time,
            mtime: facts.time,
            ctime: self.renamed(node).unwrap_or(facts.time),
        };
        Ok((attr, facts.ttl))
    }

    pub(crate) async fn facts(&self, node: &Node) -> Result<Facts> {
        match node {
            Node::Root => Ok(self.folder(self.top_access(None).await?, self.started, self.shared_ttl())),
            Node::Top(top @ (Top::Jobs | Top::Tickets)) => {
                Ok(self.folder(self.top_access(Some(*top)).await?, self.started, self.shared_ttl()))
            }
            Node::Top(Top::Nodes) => Ok(self.folder(self.owned(0o755), self.started, LONG)),
            Node::Top(Top::Trash) | Node::Trashed(_) => self.trash_facts(node).await,
            Node::Top(Top::Events) => Ok(file(self.owned(0o444), WAIT_BYTES, self.started)),
            // Only root, and who mounted, may look and say.
            Node::Top(Top::Drain) => Ok(file(self.owned(0o600), WAIT_BYTES, self.started)),
            Node::Top(_) | Node::Alive(_) => {
                let size = self.size(node).await?;
                Ok(file(self.owned(0o444), size, self.started))
            }
            Node::Job(job) => {
                let job = self.job(job)?;
                Ok(self.folder(job.entry.access, time_of(job.entry.created), self.shared_ttl()))
            }
            Node::JobFile(job, of) => self.job_file_facts(job, *of).await,
            Node::Link(job, link) => {
                let target = self
                    .link_target(job, *link)
                    .await?
                    .ok_or_else(|| Error::NotFound(link.name().into()))?;
                Ok(link_facts(self.job(job)?.entry.access, target.to_string().len()))
            }
            Node::Next(job) => self.next_facts(job).await,
            Node::Scratch(id) => self.scratch.facts(*id),
            Node::Build(..) | Node::BuildFile(..) | Node::BuildParam(..) | Node::Task(..) | Node::TaskFile(..) => {
                self.build_facts(node).await
            }
            Node::Queue(queue) => Ok(self.folder(self.queue_access(queue).await?, self.started, self.shared_ttl())),
            Node::QueueFile(queue, _) => {
                // Whoever may write the folder may ask and post.
                let access = self.queue_access(queue).await?;
                let write = access.mode & 0o222;
                Ok(file(
                    Access {
                        mode: write | write << 1,
                        ..access
                    },
                    WAIT_BYTES,
                    self.started,
                ))
            }
            Node::Ticket(ticket) | Node::TicketFile(ticket, _) | Node::TicketParam(ticket, _) => {
                self.ticket_facts(ticket, node).await
            }
            Node::Seen(seen) => self.seen_facts(seen).await,
            Node::Published(id) => self.published.facts(*id),
            Node::Work(_) => Err(Error::Stale("workspace: its claim is over".into())),
        }
    }

    async fn job_file_facts(&self, job: &Arc<JobRef>, of: JobFile) -> Result<Facts> {
        let job_now = self.job(job)?;
        let entry = &job_now.entry;
        let plain = entry.access.mode & 0o666;
        let with = |mode| Access { mode, ..entry.access };
        let created = time_of(entry.created);
        match of {
            JobFile::Builds => Ok(self.folder(with(entry.access.mode & 0o7777), created, NOT_AT_ALL)),
            JobFile::Trigger => Ok(file(with(entry.files.trigger.unwrap_or(plain)), 0, created)),
            JobFile::Config => {
                let head = self.repository.configs.head(&job_now).await?;
                let time = head.as_ref().map_or(created, |head| time_of(head.written));
                Ok(file(
                    with(entry.files.config.unwrap_or(plain)),
                    head.map_or(0, |h| h.size),
                    time,
                ))
            }
            JobFile::Enabled => {
                let size = self.size(&Node::JobFile(job.clone(), of)).await?;
                Ok(file(with(entry.files.config.unwrap_or(plain)), size, created))
            }
            JobFile::ConfigError | JobFile::TriggerError => {
                let size = self.size(&Node::JobFile(job.clone(), of)).await?;
                // It quotes what was written.
                let mode = match of {
                    JobFile::ConfigError => entry.settings_mode(),
                    _ => error_mode(entry.files.trigger.unwrap_or(plain)),
                };
                Ok(file(with(mode), size, SystemTime::now()))
            }
        }
    }

    async fn build_facts(&self, node: &Node) -> Result<Facts> {
        let (Node::Build(job, n)
        | Node::BuildFile(job, n, _)
        | Node::BuildParam(job, n, _)
        | Node::Task(job, n, _)
        | Node::TaskFile(job, n, ..)) = node
        else {
            return Err(Error::NotFound("build".into()));
        };
        let build = self.build_for(job, *n, node).await?;
        let access = build.job.entry.access;
        let time = time_of(if build.finished() > 0 {
            build.finished()
        } else {
            build.triggered()
        });
        // Nothing can be made in them (EROFS), but rm -r asks for permission to write.
        let inner = Access {
            mode: access.mode & 0o777,
            ..access
        };
        let text = Access {
            mode: access.mode & 0o444,
            ..access
        };
        // Whoever may not read the job's configuration may not read what an old one said.
        let settings = Access {
            mode: build.job.entry.settings_mode(),
            ..access
        };
        match node {
            // Removing a build needs write permission on its folder: rm -r asks.
            // Its owner and mode are the job's and change with those.
            Node::Build(..) => Ok(self.folder(access, time, NOT_AT_ALL)),
            Node::BuildFile(_, _, BuildFile::Params | BuildFile::Tasks) => Ok(self.folder(inner, time, NOT_AT_ALL)),
            Node::Task(..) => Ok(self.folder(inner, time, NOT_AT_ALL)),
            // Who may write one may write the other.
            Node::BuildFile(_, _, BuildFile::Ctl | BuildFile::Approve) => {
                let mode = build.job.entry.files.ctl.unwrap_or(access.mode & 0o666);
                Ok(file(Access { mode, ..access }, 0, time))
            }
            Node::BuildFile(_, _, BuildFile::CtlError) => {
                let mode = error_mode(build.job.entry.files.ctl.unwrap_or(access.mode & 0o666));
                let size = self.size(node).await?;
                Ok(file(Access { mode, ..access }, size, SystemTime::now()))
            }
            Node::BuildFile(_, _, BuildFile::Wait) => Ok(file(text, WAIT_BYTES, time)),
            Node::BuildFile(_, _, BuildFile::Config) => Ok(file(settings, build.config_entry().size, time)),
            _ => {
                let says_settings = matches!(
                    node,
                    Node::BuildFile(_, _, BuildFile::BuildJson | BuildFile::Plan)
                        | Node::BuildParam(..)
                        | Node::TaskFile(_, _, _, TaskFile::Json)
                );
                let text = if says_settings { settings } else { text };
                let size = self
                    .content_of_build(&build, node)
                    .await?
                    .size(&self.repository)
                    .await?;
                Ok(file(text, size, time))
            }
        }
    }

    /// The size of a generated file.
    async fn size(&self, node: &Node) -> Result<u64> {
        match self.content(node).await? {
            Content::Bytes(bytes) => Ok(bytes.len() as u64),
            console => console.size(&self.repository).await,
        }
    }

    pub(super) fn folder(&self, access: Access, time: SystemTime, ttl: Duration) -> Facts {
        Facts {
            kind: Kind::Directory,
            access,
            size: 0,
            time,
            ttl,
            nlink: 2,
        }
    }

    /// Something that belongs to whoever mounted.
    pub(crate) fn owned(&self, mode: u32) -> Access {
        Access {
            uid: self.owner.0,
            gid: self.owner.1,
            mode,
        }
    }

    /// A job as it is now, by whatever name; `NotFound` if it was removed, also when another has its name.
    pub(crate) fn job(&self, job: &JobRef) -> Result<Job> {
        let now = self.repository.jobs.by_uid(&job.uid);
        now.ok_or_else(|| Error::NotFound(format!("jobs/{}", job.name)))
    }

    /// A build as it is now.
    pub(crate) async fn build(&self, job: &JobRef, n: u64) -> Result<Build> {
        self.repository.builds.build(&self.job(job)?, n).await
    }

    /// A build as far as the content and attributes of one of its nodes go.
    pub(crate) async fn build_for(&self, job: &JobRef, n: u64, node: &Node) -> Result<Build> {
        match node {
            // It tells of the tasks that it waits for.
            Node::TaskFile(_, _, _, TaskFile::Why) => self.build(job, n).await,
            Node::TaskFile(_, _, index, file) if *file != TaskFile::Name => {
                self.repository.builds.build_of_task(&self.job(job)?, n, *index).await
            }
            node if needs_tasks(node) => self.build(job, n).await,
            _ => self.repository.builds.build_head(&self.job(job)?, n).await,
        }
    }

    /// How long the kernel may believe owners and modes, and names of jobs and queues: alone, until this mount
    /// changes them; else others may.
    pub(super) fn shared_ttl(&self) -> Duration {
        if self.repository.store.shared {
            WHILE_SHARED
        } else {
            LONG
        }
    }

    /// How long the kernel may believe in a ticket's folder.
    pub(super) fn ticket_ttl(&self, ticket: &TicketRef) -> Duration {
        if lock(&self.held).contains_key(&ticket.key) {
            WHILE_CLAIMED
        } else {
            NOT_AT_ALL
        }
    }

    /// A ticket as it is now, or as it was last if it is gone and somebody is still looking.
    ///
    /// # Errors
    /// `Stale` if it is gone or another has its id: the kernel looks the name up again then.
    pub(crate) async fn posted(&self, ticket: &TicketRef) -> Result<Posted> {
        match self.repository.tickets.get(&ticket.key).await? {
            Some(posted) if posted.created == ticket.created => {
                if posted.ticket.outcome.is_some() {
                    self.repository.store.seen_for_good().await?;
                }
                Ok(posted)
            }
            Some(_) => Err(Error::claim_lost(&ticket.key)),
            None => {
                let gone = self.repository.claims.gone_ticket(&ticket.key, ticket.created).await?;
                gone.ok_or_else(|| Error::claim_lost(&ticket.key))
            }
        }
    }

    /// Owner and mode of a queue.
    pub(crate) async fn queue_access(&self, queue: &Name) -> Result<Access> {
        let access = self.repository.tops.queue_access(queue.as_str()).await?;
        access.ok_or_else(|| Error::NotFound(format!("tickets/{queue}")))
    }

    /// The folders in which everybody looks names up: `jobs`, and those of queues.
    pub(crate) fn shared_folders(&self) -> Vec<Ino> {
        let jobs = self.numbers.ino(&Node::Top(Top::Jobs));
        [jobs].into_iter().chain(self.numbers.queue_folders()).collect()
    }

    /// The inode number of a node's folder, for `..`.
    pub(crate) fn parent(&self, node: &Node) -> Ino {
        self.numbers.ino(&parent_node(node))
    }
}

/// A node's folder.
fn parent_node(node: &Node) -> Node {
    match node {
        Node::Job(_) | Node::Top(Top::Trash) => Node::Top(Top::Jobs),
        Node::Top(_) | Node::Root => Node::Root,
        Node::Trashed(_) => Node::Top(Top::Trash),
        Node::JobFile(job, _) => Node::Job(job.clone()),
        Node::Build(job, _) | Node::Link(job, _) | Node::Next(job) => Node::JobFile(job.clone(), JobFile::Builds),
        Node::BuildFile(job, n, _) => Node::Build(job.clone(), *n),
        Node::Task(job, n, _) => Node::BuildFile(job.clone(), *n, BuildFile::Tasks),
        Node::Queue(_) => Node::Top(Top::Tickets),
        Node::Ticket(ticket) => Node::Queue(Arc::new(ticket.key.queue.clone())),
        Node::TicketFile(ticket, _) => Node::Ticket(ticket.clone()),
        Node::Seen(seen) => match parent_node(&seen.node) {
            Node::Top(Top::Jobs) => Node::TicketFile(seen.ticket.clone(), TicketFile::Jobs),
            parent => seen.beside(parent),
        },
        _ => Node::Root,
    }
}

/// The job as the numbers know it.
pub(crate) fn job_ref(job: &Job) -> JobRef {
    JobRef {
        name: job.name.clone(),
        uid: job.uid().into(),
    }
}

pub(crate) fn file(access: Access, size: u64, time: SystemTime) -> Facts {
    Facts {
        kind: Kind::File,
        access,
        size,
        time,
        ttl: NOT_AT_ALL,
        nlink: 1,
    }
}

pub(super) fn link_facts(access: Access, size: usize) -> Facts {
    let access = Access { mode: 0o777, ..access };
    Facts {
        kind: Kind::Symlink,
        access,
        size: size as u64,
        time: SystemTime::now(),
        ttl: NOT_AT_ALL,
        nlink: 1,
    }
}
