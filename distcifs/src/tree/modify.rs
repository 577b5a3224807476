//! Making, removing, renaming and owning generated nodes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::Mutex;

use super::handles::{OPEN_FILE, OpenKind};
use super::handover::To;
use super::node::{JobFile, JobRef, Link, Node, TicketFile, TicketRef, Top};
use super::rights::{Reader, rights_to_open};
use super::texts::hold;
use super::{Caller, Error, Found, Opened, Result, SetAttr, Tree};
use crate::repository::access::Access;
use crate::repository::deadline::locked;
use crate::repository::model::claim::Cause;
use crate::repository::model::job::JobEntry;
use crate::repository::names::Name;

/// Where a job's record keeps the mode of one of its files.
type ModeOf = fn(&mut JobEntry) -> &mut Option<u32>;

impl Tree {
    /// mkdir: a job or a queue.
    pub(crate) async fn make_folder(&self, caller: Caller, parent: &Node, name: &str, mode: u32) -> Result<Node> {
        let valid = || Name::new(name).ok_or_else(|| no_name(name));
        match parent {
            Node::Top(Top::Jobs) => {
                let access = self.access_made_in(parent, caller, mode).await?;
                let job = self.repository.jobs.make(&valid()?, access).await?;
                let job = super::look::job_ref(&job);
                self.begin_job(caller, &job);
                Ok(Node::Job(Arc::new(job)))
            }
            Node::Top(Top::Tickets) => {
                let name = valid()?;
                let access = self.access_made_in(parent, caller, mode).await?;
                self.repository.tops.make_queue(&name, access).await?;
                Ok(Node::Queue(Arc::new(name)))
            }
            Node::Job(_) | Node::JobFile(..) => Err(Error::NotPermitted(format!("a folder {name} in a job's folder"))),
            _ => Err(Error::ReadOnly(name.to_owned())),
        }
    }

    /// Whose a folder is that somebody makes, and its mode. In a folder with the set-group-id bit it is of that
    /// folder's group, and has the bit itself.
    async fn access_made_in(&self, parent: &Node, caller: Caller, mode: u32) -> Result<Access> {
        let folder = self.facts(parent).await?.access;
        let maker = caller.made_in(folder);
        Ok(Access {
            uid: maker.uid,
            gid: maker.gid,
            mode: (mode & 0o7777) | (folder.mode & libc::S_ISGID),
        })
    }

    /// open with O_CREAT of a name that is not there.
    pub(crate) async fn create_file(
        &self,
        caller: Caller,
        parent: &Node,
        name: &str,
        mode: u32,
        flags: i32,
    ) -> Result<(Found, Opened)> {
        let both = flags & libc::O_ACCMODE == libc::O_RDWR;
        match parent {
            Node::Job(job) => match JobFile::parse(name) {
                None => {
                    let maker = caller.made_in(self.job(job)?.entry.access);
                    let owner = self.mover(caller, &job.uid).owner;
                    let id = self.scratch.make(maker, owner, &job.uid, name, mode, None)?;
                    let node = Node::Scratch(id);
                    self.open_made(caller, node, both, OpenKind::Scratch(id)).await
                }
                Some(file) => {
                    let node = Node::JobFile(job.clone(), file);
                    // The kernel looked at the folder alone.
                    self.need(caller, &node, rights_to_open(flags)).await?;
                    let first = self.make_anew(job, file, mode).await?;
                    // What was unlinked and is made anew begins empty, though it stays in force.
                    let opened = self.open_node(caller, node.clone(), flags | libc::O_TRUNC).await?;
                    if first && flags & libc::O_EXCL != 0 {
                        self.go_on_making(caller, job);
                    }
                    let found = self.found(&node, caller.uid).await;
                    let found = found.inspect_err(|_| self.release_open(opened.handle))?;
                    Ok((found, opened))
                }
            },
            Node::Ticket(ticket) => match TicketFile::parse(name) {
                Some(TicketFile::Claim) => {
                    // Who has no memory left for an open file claims nothing.
                    drop(self.texts.open(caller)?);
                    let held = self.make_claim(caller, ticket).await?;
                    let node = Node::TicketFile(ticket.clone(), TicketFile::Claim);
                    let made = self.open_made(caller, node, both, OpenKind::Claim(held.clone())).await;
                    if made.is_err() {
                        self.repository.claims.end_claim(&held.claim, Cause::Unbegun).await;
                    }
                    made
                }
                Some(file) => {
                    let node = Node::TicketFile(ticket.clone(), file);
                    let opened = self.open_node(caller, node.clone(), flags).await?;
                    let found = self.found(&node, caller.uid).await;
                    let found = found.inspect_err(|_| self.release_open(opened.handle))?;
                    Ok((found, opened))
                }
                None => Err(Error::NotPermitted(format!("{}/{name}", ticket.key))),
            },
            Node::TicketFile(ticket, TicketFile::Params) => self.create_param(caller, ticket, name, both).await,
            _ => Err(Error::ReadOnly(name.to_owned())),
        }
    }

    /// The claimant records a parameter of the build.
    async fn create_param(
        &self,
        caller: Caller,
        ticket: &Arc<TicketRef>,
        name: &str,
        both: bool,
    ) -> Result<(Found, Opened)> {
        let claim = self.claim_of(caller, ticket).await?;
        let name =
            Name::new(name).ok_or_else(|| Error::Invalid(format!("{name:?} is no valid name of a parameter")))?;
        self.repository.claims.may_record(&claim, name.as_str()).await?;
        claim.record(name.as_str(), "")?;
        let node = self
            .find(
                caller,
                &Node::TicketFile(ticket.clone(), TicketFile::Params),
                name.as_str(),
            )
            .await?;
        let kind = OpenKind::Record(claim, name, Mutex::default());
        self.open_made(caller, node, both, kind).await
    }

    /// Opens what was made just now; found is it last, as the kernel forgets only what it was told of.
    async fn open_made(&self, caller: Caller, node: Node, both: bool, kind: OpenKind) -> Result<(Found, Opened)> {
        let opened = self.opened(caller, node.clone(), both, kind)?;
        let found = self.found(&node, caller.uid).await;
        let found = found.inspect_err(|_| self.release_open(opened.handle))?;
        Ok((found, opened))
    }

    /// symlink: editors lock with one.
    pub(crate) fn make_link(&self, caller: Caller, parent: &Node, name: &str, target: &[u8]) -> Result<Node> {
        match parent {
            Node::Job(job) if JobFile::parse(name).is_none() => Ok(Node::Scratch(self.scratch.make(
                caller.made_in(self.job(job)?.entry.access),
                self.mover(caller, &job.uid).owner,
                &job.uid,
                name,
                0o777,
                Some(target),
            )?)),
            Node::Job(_) => Err(Error::Exists(format!("{name} exists"))),
            _ => Err(Error::ReadOnly(name.to_owned())),
        }
    }

    /// unlink: a claim, a scratch file; what is generated stays and says nothing the first time, so that
    /// rm -r works.
    pub(crate) async fn remove_file(&self, caller: Caller, parent: &Node, name: &str) -> Result<()> {
        if let Node::Seen(seen) = parent {
            return Err(Error::ReadOnly(seen.node.path()));
        }
        if let Node::TicketFile(_, TicketFile::Needs) = parent {
            return Err(Error::ReadOnly(parent.path()));
        }
        if let Node::TicketFile(ticket, TicketFile::Params) = parent
            && let Ok(claim) = self.claim_of(caller, ticket).await
            && claim.take_back(name)?
        {
            return Ok(());
        }
        match self.find_any(caller, parent, name).await? {
            Node::Scratch(id) => {
                let Node::Job(job) = parent else { return Ok(()) };
                self.scratch.remove_by(id, self.mover(caller, &job.uid))
            }
            Node::Trashed(id) => self.discard(caller, &id).await,
            Node::TicketFile(ticket, TicketFile::Claim) => self.give_back(caller, &ticket).await,
            Node::TicketFile(ticket, TicketFile::Tasks) => self.withdraw_tasks(caller, &ticket).await,
            Node::JobFile(job, file @ (JobFile::Config | JobFile::Enabled)) => {
                self.unlink_file(caller, &job, file);
                Ok(())
            }
            Node::Top(_) | Node::Alive(_) => Err(Error::NotPermitted(name.to_owned())),
            node => self.tell_removed(caller, parent, &node, name),
        }
    }

    /// rmdir: a job or a build, which go to the trash, a finished ticket, a queue without tickets; what is
    /// generated stays.
    pub(crate) async fn remove_folder(&self, caller: Caller, parent: &Node, name: &str) -> Result<()> {
        if let Node::Seen(_) | Node::TicketFile(_, TicketFile::Jobs | TicketFile::Needs) = parent {
            return Err(Error::ReadOnly(name.to_owned()));
        }
        let of = self.must_own(caller, parent).await?;
        let node = self.find_any(caller, parent, name).await?;
        // Of jobs and queues the stores are asked, by what removes them.
        if matches!(node, Node::Build(..) | Node::Ticket(_)) && of.is_some() {
            self.facts(&node).await?.access.must_be_of(of, || node.path())?;
        }
        // Tickets never come back, and go by the thousand.
        let comes_back = !matches!(node, Node::Ticket(_) | Node::TicketFile(..) | Node::Queue(_));
        let ino = self.numbers.ino(&node);
        let whole = matches!(node, Node::Job(_) | Node::Build(..) | Node::Ticket(_) | Node::Queue(_));
        let removed = self.remove_whole(caller, parent, node, name, of).await;
        self.tried_folder(caller, ino, whole && removed.is_err());
        if comes_back && removed.is_ok() {
            self.removed.note(ino);
        }
        removed
    }

    /// Removes what goes as a whole, for whoever owns it (`of`, as in `must_own`); all else stays.
    async fn remove_whole(&self, caller: Caller, parent: &Node, node: Node, name: &str, of: Option<u32>) -> Result<()> {
        match node {
            Node::Job(job) => {
                self.repository
                    .builds
                    .trash_job(&self.job(&job)?, caller.uid, of)
                    .await?;
                self.scratch.remove_all(&job.uid);
                self.refusals.forget_job(&job.uid);
            }
            Node::Build(job, n) => {
                self.repository
                    .builds
                    .trash_build(&self.job(&job)?, n, caller.uid)
                    .await?
            }
            Node::Ticket(ticket) => self.repository.tickets.remove(&ticket.key).await?,
            Node::Queue(queue) => self.repository.tops.remove_queue(&queue, of).await?,
            Node::Top(_) => return Err(Error::NotPermitted(name.to_owned())),
            node => self.tell_removed(caller, parent, &node, name)?,
        }
        Ok(())
    }

    /// Whose a thing must be that this caller takes out of a folder: `None`, if it may be anybody's. The kernel
    /// holds a sticky folder against the owners that it saw last.
    async fn must_own(&self, caller: Caller, parent: &Node) -> Result<Option<u32>> {
        let folder = self.facts(parent).await?.access;
        let free = folder.mode & libc::S_ISVTX == 0 || [0, folder.uid].contains(&caller.uid);
        Ok((!free).then_some(caller.uid))
    }

    /// unlink and rmdir of what is published: it stays and says nothing the first time, so that rm -r of a build
    /// works. What is in `needs/` of a ticket goes by no rm -r of anything.
    pub(crate) async fn remove_published(&self, caller: Caller, folder: u64, name: &OsStr) -> Result<Node> {
        if self.published.is_needed(folder) {
            return Err(Error::ReadOnly(format!("needs: {}", name.display())));
        }
        let node = self.find_published(folder, name.as_bytes()).await?;
        self.tell_removed(caller, &Node::Published(folder), &node, &name.display().to_string())?;
        Ok(node)
    }

    /// rmdir of what is published: whoever tries it may begin anew in it.
    pub(crate) async fn remove_published_folder(&self, caller: Caller, folder: u64, name: &OsStr) -> Result<()> {
        let ino = self.numbers.ino(&self.remove_published(caller, folder, name).await?);
        self.tried_folder(caller, ino, false);
        self.removed.note(ino);
        Ok(())
    }

    /// Renames in `jobs`: a job gets another name there, and can be moved nowhere else.
    pub(crate) async fn rename_job(
        &self,
        caller: Caller,
        name: &OsStr,
        to: &Node,
        new_name: &OsStr,
        flags: u32,
    ) -> Result<()> {
        let (shown, new) = (name.display(), new_name.display());
        if flags & !libc::RENAME_NOREPLACE != 0 {
            return Err(Error::Invalid(format!(
                "jobs/{shown}: two jobs don't change places: rename one after the other"
            )));
        }
        let job = name.to_str().unwrap_or_default();
        let job = self.repository.jobs.find(job).await?;
        let job = job.ok_or_else(|| Error::NotFound(format!("jobs/{shown}")))?;
        match to {
            Node::Top(Top::Jobs) => {
                let to = Name::from_os(new_name).ok_or_else(|| no_name(&new.to_string()))?;
                let of = self.must_own(caller, &Node::Top(Top::Jobs)).await?;
                self.repository.builds.rename_job(&job, &to, of).await
            }
            // `mv` moves into what is a folder.
            Node::Job(other) => Err(Error::NotPermitted(format!(
                "jobs/{}/{new}: a job in a job; jobs/{} exists: remove it first, or choose another name for {shown}",
                other.name, other.name
            ))),
            _ => Err(Error::NotPermitted(format!(
                "jobs/{shown}: a job can be renamed in jobs, and moved nowhere else"
            ))),
        }
    }

    /// A name in any folder but a claimant's own.
    pub(crate) async fn find_any(&self, caller: Caller, parent: &Node, name: &str) -> Result<Node> {
        match parent {
            Node::Published(id) => self.find_published(*id, name.as_bytes()).await,
            _ => self.find(caller, parent, name).await,
        }
    }

    /// setattr of a generated node: owner and mode of what has them; sizes and times are taken
    /// without effect where editors and `touch` set them.
    pub(crate) async fn change(&self, caller: Caller, node: &Node, handle: Option<u64>, set: &SetAttr) -> Result<()> {
        let owns = set.mode.is_some() || set.uid.is_some() || set.gid.is_some();
        match node {
            Node::Scratch(id) => {
                // Who cuts a file has written it: truncate(2) opens nothing.
                if set.size.is_some() {
                    self.scratch.opened_to_write(*id, caller.uid)?;
                }
                return self.scratch.change(*id, set, owns.then(|| Reader::of(caller)).as_ref());
            }
            Node::TicketFile(ticket, TicketFile::Claim) if !owns => {
                return if self.touched_claim(caller, ticket) {
                    Ok(())
                } else {
                    Err(Error::Exists(format!("{} is claimed already", ticket.key)))
                };
            }
            Node::Published(_) if owns && set.size.is_none() => {
                return self.change_nothing(&Reader::of(caller), node, set).await;
            }
            Node::Published(_) => return Err(Error::ReadOnly("a published file".into())),
            // Truncation of a trigger commits nothing.
            Node::Seen(seen) if !owns && matches!(seen.node, Node::JobFile(_, JobFile::Trigger)) => return Ok(()),
            Node::Seen(seen) => return Err(Error::ReadOnly(seen.node.path())),
            _ => {}
        }
        if let Some(size) = set.size {
            self.truncate(node, handle, size).await?;
        }
        if !owns {
            return Ok(());
        }
        let set = &self.meant(node, set).await?;
        let (changer, path) = (Reader::of(caller), node.path());
        let apply = |access: &mut Access| {
            changer.may_change(*access, set, &path)?;
            access.mode = set.mode.map_or(access.mode, |mode| mode & 0o7777);
            access.uid = set.uid.unwrap_or(access.uid);
            access.gid = set.gid.unwrap_or(access.gid);
            Ok(())
        };
        match node {
            Node::Root | Node::Top(Top::Jobs | Top::Tickets) => self.change_top(node, apply).await,
            Node::Job(job) => self
                .repository
                .jobs
                .change(&self.job(job)?, |entry| apply(&mut entry.access))
                .await
                .map(|_| ()),
            Node::Queue(queue) => self.repository.tops.change_queue(queue, apply).await.map(|_| ()),
            Node::Ticket(ticket) if set.mode.is_none() => self.hand_over(caller, ticket, To::Range, set).await,
            Node::TicketFile(ticket, TicketFile::Claim) if set.mode.is_none() => {
                self.hand_over(caller, ticket, To::User, set).await
            }
            _ => self.change_file(&changer, node, set).await,
        }
    }

    /// The change that is meant: a mode that was read and set again gives nobody more than before.
    async fn meant(&self, node: &Node, set: &SetAttr) -> Result<SetAttr> {
        let Some(mode) = set.mode else { return Ok(*set) };
        let facts = self.facts(node).await?;
        let mode = self.grants(node).await?.meant(facts.kind, mode, facts.access.mode);
        Ok(SetAttr {
            mode: Some(mode),
            ..*set
        })
    }

    /// ftruncate and truncate of what takes writes.
    async fn truncate(&self, node: &Node, handle: Option<u64>, size: u64) -> Result<()> {
        if let Some(open) = handle.and_then(|handle| self.handles.get(handle).ok()) {
            // What it is extended to counts before, and what is cut off until then.
            match &open.kind {
                OpenKind::Config(write) => {
                    let mut write = locked(OPEN_FILE, write).await?;
                    hold(&open.memory, write.size_after(size, &[]))?;
                    write.resize(size)?;
                    return hold(&open.memory, write.size_after(0, &[]));
                }
                OpenKind::Tasks(write) => {
                    let mut write = locked(OPEN_FILE, write).await?;
                    hold(&open.memory, write.size_after(size, &[]))?;
                    write.resize(size)?;
                    return hold(&open.memory, write.size_after(0, &[]));
                }
                _ => {}
            }
        }
        match node {
            // Truncation alone commits nothing.
            Node::JobFile(_, JobFile::Config | JobFile::Trigger | JobFile::Enabled) | Node::QueueFile(..) => Ok(()),
            Node::BuildFile(_, _, super::node::BuildFile::Ctl | super::node::BuildFile::Approve)
            | Node::Top(Top::Drain) => Ok(()),
            Node::TicketFile(_, TicketFile::Result | TicketFile::Console | TicketFile::Tasks)
            | Node::TicketParam(..) => Ok(()),
            _ => Err(Error::ReadOnly("a generated file".into())),
        }
    }

    /// chmod of a job's files; a build's stand for those of all its job's builds. The owner is the folder's to
    /// change: programs that copy (`mv`, `cp -p`, `tar`, `rsync -a`) set that of the source on what they wrote.
    async fn change_file(&self, changer: &Reader, node: &Node, set: &SetAttr) -> Result<()> {
        use super::node::BuildFile;
        let (job, place): (_, ModeOf) = match node {
            // Who may configure a job may switch it.
            Node::JobFile(job, JobFile::Config | JobFile::Enabled) => (job, |entry| &mut entry.files.config),
            Node::JobFile(job, JobFile::Trigger) => (job, |entry| &mut entry.files.trigger),
            Node::BuildFile(job, _, BuildFile::Ctl) => (job, |entry| &mut entry.files.ctl),
            _ => return self.change_nothing(changer, node, set).await,
        };
        let job = self.job(job)?;
        let Some(mode) = set.mode else {
            return changer.may_change(job.entry.access, set, &node.path());
        };
        let changed = self.repository.jobs.change(&job, |entry| {
            changer.may_change(entry.access, set, &node.path())?;
            *place(entry) = Some(mode & 0o777);
            Ok(())
        });
        changed.await.map(|_| ())
    }

    /// chmod and chown of what has no mode and no owner of its own: refused, if it asks for more than there is. All
    /// in a job is its owner's, and bits of writing say nothing there: so `chown -R` and `chmod -R u+w` go through.
    async fn change_nothing(&self, changer: &Reader, node: &Node, set: &SetAttr) -> Result<()> {
        let now = self.facts(node).await?.access;
        let job = match node {
            Node::Published(id) => self.published.build_of(*id),
            node => node.job().cloned(),
        };
        let owner = match &job {
            Some(job) => self.job(job)?.entry.access,
            None => now,
        };
        changer.may_change(
            Access {
                mode: now.mode,
                ..owner
            },
            set,
            &node.path(),
        )?;
        let no_matter = if job.is_some() { 0o222 } else { 0 };
        let moded = set
            .mode
            .is_some_and(|mode| (mode ^ now.mode) & 0o7777 & !no_matter != 0);
        let given = set.uid.is_some_and(|uid| uid != now.uid) || set.gid.is_some_and(|gid| gid != now.gid);
        match node {
            _ if !moded && (job.is_some() || !given) => Ok(()),
            Node::Published(_) => Err(Error::ReadOnly("a published file".into())),
            _ => Err(Error::NotPermitted("changing owner or mode of a generated file".into())),
        }
    }

    /// chmod of a build's `artifacts` folder: of all the job's builds.
    pub(crate) async fn change_artifacts(&self, caller: Caller, job: &Arc<JobRef>, mode: u32) -> Result<()> {
        let (changer, what) = (Reader::of(caller), format!("jobs/{}: artifacts", job.name));
        let set = SetAttr {
            mode: Some(mode & 0o777),
            ..SetAttr::default()
        };
        let job = self.job(job)?;
        let changed = self.repository.jobs.change(&job, |entry| {
            changer.may_change(entry.access, &set, &what)?;
            entry.files.artifacts = set.mode;
            Ok(())
        });
        changed.await.map(|_| ())
    }
}

fn no_name(name: &str) -> Error {
    Error::Invalid(format!(
        "{name:?}: names are letters, digits, _ . and - (not first), 128 bytes at most"
    ))
}

/// Where a link in `builds` leads, as text.
pub(crate) fn link_text(target: Option<u64>, link: Link) -> Result<String> {
    target
        .map(|n| n.to_string())
        .ok_or_else(|| Error::NotFound(link.name().to_owned()))
}
