//! The requests of the kernel, one method each: the node decides what they mean.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::claim::Held;
use super::forget::Forgetter;
use super::handles::{Handles, OpenKind};
use super::hidden_files::HiddenFiles;
use super::look::NAME_MAX;
use super::node::{Node, Numbers, TicketFile, Top, WORK_FIRST};
use super::past::Past;
use super::published::Published;
use super::refused::Refusals;
use super::scarce::watch;
use super::scratch::Scratches;
use super::shares::{Lease, Shares, adapt};
use super::texts::Texts;
use super::trash::Removed;
use super::trust::Trust;
use super::view::Persons;
use super::work::{LONG, Work};
use super::{Attributes, Caller, DirEntry, Error, Found, Ino, Invalidation, Opened, Result, SetAttr, Space};
use crate::repository::core::lock;
use crate::repository::model::ticket::{Posted, TicketKey};
use crate::repository::{Repository, descriptors};

/// Wakes whoever polls a file, once.
pub type Waker = Box<dyn FnOnce() + Send + 'static>;

/// Tries of one lookup, each of which met a node that the kernel dropped at that moment.
const LOOKS_MAX: u32 = 8;

/// First handle: small numbers are easier to read in a log, 0 is never one.
const HANDLE_FIRST: u64 = 1;

/// The mounted tree.
pub struct Tree {
    pub(crate) repository: Arc<Repository>,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) numbers: Arc<Numbers>,
    pub(crate) handles: Handles,
    pub(crate) work: Arc<Work>,
    pub(crate) published: Published,
    pub(crate) scratch: Scratches,
    pub(crate) texts: Texts,
    /// The daemon's descriptors that others cause to be open.
    pub(crate) descriptors: Arc<Shares>,
    /// What open files and folders of claimants have taken of them, by handle.
    pub(crate) leases: Mutex<HashMap<u64, Lease>>,
    pub(crate) held: Arc<Mutex<HashMap<TicketKey, Arc<Held>>>>,
    pub(crate) past: Arc<Past>,
    pub(crate) refusals: Refusals,
    /// What was removed here and may come back.
    pub(crate) removed: Removed,
    /// What was unlinked or begun lately.
    pub(crate) hidden_files: HiddenFiles,
    pub(crate) told: super::told::Told,
    pub(crate) invalidate: mpsc::UnboundedSender<Invalidation>,
    invalidations: Mutex<Option<mpsc::UnboundedReceiver<Invalidation>>>,
    /// User and group of whoever mounted.
    pub(crate) owner: (u32, u32),
    /// Users of programs that look at all jobs and trigger them.
    pub(crate) control: Vec<u32>,
    /// Users that were looked up lately.
    pub(crate) persons: Persons,
    pub(crate) started: SystemTime,
}

impl Tree {
    /// The tree of a repository; must be called inside the runtime, after any fork.
    ///
    /// Users of `control` may search all jobs, read their configurations and builds, and trigger them.
    pub fn new(repository: Arc<Repository>, control: Vec<u32>) -> Result<Self> {
        let next = Arc::new(AtomicU64::new(HANDLE_FIRST));
        let (invalidate, invalidations) = mpsc::unbounded_channel();
        let numbers: Arc<Numbers> = Arc::default();
        let forgetter = Forgetter {
            repository: Arc::downgrade(&repository),
            numbers: numbers.clone(),
            invalidate: invalidate.clone(),
        };
        tokio::spawn(forgetter.follow());
        let room = repository.attempts.reserve().clone();
        let work = Arc::new(Work::new(WORK_FIRST, next.clone(), room)?);
        let owner = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
        let trusted: Vec<u32> = control.iter().copied().chain([owner.0]).collect();
        let trust = Arc::new(Trust::new(&trusted));
        let descriptors = Shares::new(descriptors::for_users() as u64, trust.clone());
        tokio::spawn(adapt(Arc::downgrade(&work), descriptors.clone()));
        let held = Arc::default();
        watch(&work, &held, &repository);
        Ok(Tree {
            work,
            descriptors,
            leases: Mutex::default(),
            handles: Handles::new(next),
            runtime: tokio::runtime::Handle::current(),
            numbers,
            published: Published::default(),
            scratch: Scratches::new(trust.clone()),
            texts: Texts::new(trust),
            held,
            past: Arc::default(),
            refusals: Refusals::default(),
            removed: Removed::default(),
            hidden_files: HiddenFiles::default(),
            told: Default::default(),
            invalidate,
            invalidations: Mutex::new(Some(invalidations)),
            owner,
            control,
            persons: Persons::default(),
            started: SystemTime::now(),
            repository,
        })
    }

    /// What the kernel must forget; can be taken once.
    pub fn invalidations(&self) -> Option<mpsc::UnboundedReceiver<Invalidation>> {
        lock(&self.invalidations).take()
    }

    /// What a number stands for.
    pub(super) fn node(&self, ino: Ino) -> Result<Node> {
        self.numbers
            .node(ino)
            .ok_or_else(|| Error::Stale(format!("inode {:#x}: the mount no longer knows it", ino.0)))
    }

    /// A node's path below the mount point, for the log.
    pub fn path_of(&self, ino: Ino) -> Option<String> {
        self.numbers.node(ino).map(|node| node.path())
    }

    /// lookup(parent, name). Number 0: there is nothing, and that may be believed.
    pub async fn lookup(&self, caller: Caller, parent: Ino, name: OsString) -> Result<Found> {
        if self.work.owns(parent) {
            return self.look_up_work(caller, parent, name).await;
        }
        check_length(&name)?;
        let found = match self.node(parent) {
            Ok(parent) => self.find_and_look(caller, &parent, &name).await,
            Err(error) => Err(error),
        };
        self.walked(caller, parent, &name, found)
    }

    /// Finds a name and looks at it. The kernel may drop its last lookup of a published node between
    /// the two, which then has another number.
    pub(crate) async fn find_and_look(&self, caller: Caller, parent: &Node, name: &OsStr) -> Result<Found> {
        let mut found = Err(Error::Stale("a published file that has gone".into()));
        for _ in 0..LOOKS_MAX {
            let node = match parent {
                Node::Published(id) => self.find_published(*id, name.as_bytes()).await?,
                parent => self.find(caller, parent, utf8(name)?).await?,
            };
            found = self.found(&node, caller.uid).await;
            if !matches!((&node, &found), (Node::Published(_), Err(Error::Stale(_)))) {
                break;
            }
        }
        found.map(|found| self.past.for_each(parent, found))
    }

    /// The kernel has dropped this many lookups.
    pub fn forget(&self, ino: Ino, count: u64) {
        if self.work.owns(ino) {
            return self.work.forget(ino, count);
        }
        match self.numbers.node(ino) {
            Some(Node::Published(id)) => {
                if self.published.forget(id, count) {
                    self.removed.forget(ino);
                }
            }
            _ => self.numbers.forget(ino, count),
        }
    }

    /// getattr.
    pub async fn getattr(&self, caller: Caller, ino: Ino, handle: Option<u64>) -> Result<Attributes> {
        if self.work.owns(ino) {
            let found = self.look_at(ino, handle).await;
            return match (&found, self.work.last_of_open(ino)) {
                (Err(Error::Stale(_)), Some(last)) if !self.has_claimed(caller) => Ok(last),
                _ => self.looked(caller, ino, found),
            };
        }
        let found = match self.node(ino) {
            Ok(Node::Published(id)) => self.published.attr(id),
            Ok(node) => match handle.and_then(|handle| self.handles.get(handle).ok()) {
                Some(open) => self.attr_of_open(&node, &open).await,
                None => self.attr(&node).await,
            },
            Err(error) => Err(error),
        };
        let (attr, ttl) = self.shown(caller, ino, found)?;
        Ok(Attributes { attr, ttl })
    }

    /// setattr.
    pub async fn setattr(&self, caller: Caller, ino: Ino, handle: Option<u64>, set: SetAttr) -> Result<Attributes> {
        if self.work.owns(ino) {
            return self.set_work(caller, ino, handle, set).await;
        }
        let node = self.node(ino)?;
        if let (Node::Published(id), Some(mode)) = (&node, set.mode)
            && let Some(job) = self.published.artifacts_of(*id)
        {
            self.change_artifacts(caller, &job, mode).await?;
            self.published.set_mode(*id, mode & 0o777);
        } else {
            self.change(caller, &node, handle, &set).await?;
        }
        self.getattr(caller, ino, handle).await
    }

    /// readlink.
    pub async fn readlink(&self, caller: Caller, ino: Ino) -> Result<OsString> {
        if self.work.owns(ino) {
            let read = self.work.on_disk(ino, move |work| work.readlink(ino), |_, _| ()).await;
            return self.looked(caller, ino, read);
        }
        match self.node(ino)? {
            Node::Published(id) => self.published.target(id),
            Node::Scratch(id) => {
                Ok(OsStr::from_bytes(&self.scratch.target(id, |job| self.mover(caller, job))?).to_owned())
            }
            Node::Seen(seen) => match &seen.node {
                Node::Link(job, link) => {
                    Ok(super::modify::link_text(self.link_target(job, *link).await?, *link)?.into())
                }
                _ => Err(Error::Invalid("no symbolic link".into())),
            },
            Node::Link(job, link) => Ok(super::modify::link_text(self.link_target(&job, link).await?, link)?.into()),
            Node::TicketFile(ticket, TicketFile::Build) => Ok(self.build_link(&self.posted(&ticket).await?)?.into()),
            _ => Err(Error::Invalid("no symbolic link".into())),
        }
    }

    /// The path from a ticket's folder to its build.
    pub(crate) fn build_link(&self, posted: &Posted) -> Result<String> {
        let part = posted
            .ticket
            .part
            .as_ref()
            .ok_or_else(|| Error::NotFound("build".into()))?;
        Ok(format!("../../../jobs/{}/builds/{}", part.job, part.build))
    }

    /// mknod; `mode` carries the type bits (S_IFMT); the umask is applied already.
    pub async fn mknod(&self, caller: Caller, parent: Ino, name: OsString, mode: u32, _rdev: u32) -> Result<Found> {
        if self.work.owns(parent) {
            let make = move |work: &Work| work.mknod(caller, parent, &name, mode);
            return self.work.on_disk(parent, make, Work::unfound).await;
        }
        check_length(&name)?;
        let plain = mode & libc::S_IFMT == libc::S_IFREG;
        if !plain {
            return Err(Error::NotPermitted(format!("{}: no devices here", name.display())));
        }
        let (found, opened) = self
            .create_file(caller, &self.node(parent)?, utf8_new(&name)?, mode, libc::O_WRONLY)
            .await?;
        self.release_open(opened.handle);
        Ok(found)
    }

    /// mkdir.
    pub async fn mkdir(&self, caller: Caller, parent: Ino, name: OsString, mode: u32) -> Result<Found> {
        if self.work.owns(parent) {
            let make = move |work: &Work| work.mkdir(caller, parent, &name, mode);
            return self.work.on_disk(parent, make, Work::unfound).await;
        }
        check_length(&name)?;
        let node = self
            .make_folder(caller, &self.node(parent)?, utf8_new(&name)?, mode)
            .await?;
        self.found(&node, caller.uid).await
    }

    /// unlink.
    pub async fn unlink(&self, caller: Caller, parent: Ino, name: OsString) -> Result<()> {
        if self.work.owns(parent) {
            let late = self.names_were_late(vec![(parent, name.clone())]);
            let remove = move |work: &Work| work.unlink(parent, &name);
            return self.work.on_disk(parent, remove, late).await;
        }
        let parent = self.node(parent)?;
        if let Node::Published(id) = parent {
            return self.remove_published(caller, id, &name).await.map(drop);
        }
        self.remove_file(caller, &parent, utf8(&name)?).await
    }

    /// rmdir.
    pub async fn rmdir(&self, caller: Caller, parent: Ino, name: OsString) -> Result<()> {
        if self.work.owns(parent) {
            let late = self.names_were_late(vec![(parent, name.clone())]);
            let remove = move |work: &Work| work.rmdir(parent, &name);
            return self.work.on_disk(parent, remove, late).await;
        }
        let parent = self.node(parent)?;
        if let Node::Published(id) = parent {
            return self.remove_published_folder(caller, id, &name).await;
        }
        self.remove_folder(caller, &parent, utf8(&name)?).await
    }

    /// symlink.
    pub async fn symlink(&self, caller: Caller, parent: Ino, name: OsString, target: OsString) -> Result<Found> {
        if self.work.owns(parent) {
            let make = move |work: &Work| work.symlink(caller, parent, &name, &target);
            return self.work.on_disk(parent, make, Work::unfound).await;
        }
        check_length(&name)?;
        let node = self.make_link(caller, &self.node(parent)?, utf8_new(&name)?, target.as_bytes())?;
        self.found(&node, caller.uid).await
    }

    /// rename; `flags` are those of renameat2(2).
    pub async fn rename(
        &self,
        caller: Caller,
        parent: Ino,
        name: OsString,
        new_parent: Ino,
        new_name: OsString,
        flags: u32,
    ) -> Result<()> {
        match (self.work.owns(parent), self.work.owns(new_parent)) {
            (true, true) => {
                let late = self.names_were_late(vec![(parent, name.clone()), (new_parent, new_name.clone())]);
                let rename = move |work: &Work| work.rename(parent, &name, new_parent, &new_name, flags);
                return self.work.on_disk(parent, rename, late).await;
            }
            (false, false) => {}
            _ => return Err(Error::CrossDevice(name.display().to_string())),
        }
        check_length(&new_name)?;
        let from = self.node(parent)?;
        if let Node::Top(top @ (Top::Jobs | Top::Trash)) = from {
            let to = self.node(new_parent)?;
            return match top {
                Top::Trash => self.restore(caller, &name, &to, &new_name, flags).await,
                _ => self.rename_job(caller, &name, &to, &new_name, flags).await,
            };
        }
        let (Node::Job(job), true) = (&from, parent == new_parent) else {
            let to = self.node(new_parent)?;
            let other = matches!((&from, &to), (Node::Job(_), _) | (_, Node::Job(_)));
            let what = name.display().to_string();
            return Err(if other {
                Error::CrossDevice(what)
            } else {
                Error::ReadOnly(what)
            });
        };
        if flags & !libc::RENAME_NOREPLACE != 0 {
            return Err(Error::Invalid(
                "rename: only RENAME_NOREPLACE is known in a job's folder".into(),
            ));
        }
        let node = self.find(caller, &from, utf8(&name)?).await?;
        let no_replace = flags & libc::RENAME_NOREPLACE != 0;
        self.rename_in_job(caller, job, node, utf8_new(&new_name)?, no_replace)
            .await
    }

    /// link.
    pub async fn link(&self, _caller: Caller, ino: Ino, new_parent: Ino, new_name: OsString) -> Result<Found> {
        match (self.work.owns(ino), self.work.owns(new_parent)) {
            (true, true) => {
                let link = move |work: &Work| work.link(ino, new_parent, &new_name);
                self.work.on_disk(ino, link, Work::unfound).await
            }
            (false, false) => Err(Error::NotPermitted(format!("{}: a hard link", new_name.display()))),
            _ => Err(Error::CrossDevice(new_name.display().to_string())),
        }
    }

    /// open; `flags` are those of open(2).
    pub async fn open(&self, caller: Caller, ino: Ino, flags: i32) -> Result<Opened> {
        if self.work.owns(ino) {
            let open = move |work: &Work| work.open(ino, flags);
            let open = self.work.on_disk(ino, open, Work::unopened);
            let mut opened = self.leased(ino, open, |opened| opened.handle).await;
            if flags & libc::O_TRUNC != 0 {
                opened = self.emptied(caller, ino, opened?).await;
            }
            return match flags & libc::O_ACCMODE {
                libc::O_RDONLY => self.looked(caller, ino, opened),
                _ => opened,
            };
        }
        self.open_node(caller, self.node(ino)?, flags).await
    }

    /// open with O_CREAT of a name that is not there.
    pub async fn create(
        &self,
        caller: Caller,
        parent: Ino,
        name: OsString,
        mode: u32,
        flags: i32,
    ) -> Result<(Found, Opened)> {
        if self.work.owns(parent) {
            let create = move |work: &Work| work.create(caller, parent, &name, mode, flags);
            let create = self.work.on_disk(parent, create, Work::uncreated);
            let (found, opened) = self.leased(parent, create, |(_, opened)| opened.handle).await?;
            // Another may have made it at this moment, and written to it.
            if flags & libc::O_TRUNC == 0 || found.attributes.attr.size == 0 {
                return Ok((found, opened));
            }
            return self.emptied_found(caller, found, opened).await;
        }
        check_length(&name)?;
        self.create_file(caller, &self.node(parent)?, utf8_new(&name)?, mode, flags)
            .await
    }

    /// read.
    pub async fn read(&self, caller: Caller, ino: Ino, handle: u64, offset: u64, size: u32) -> Result<Bytes> {
        if self.work.owns(ino) {
            return self.read_work(ino, handle, offset, size).await;
        }
        self.read_open(caller, handle, offset, size as usize).await
    }

    /// write; whether it takes set-id bits from a claimant's file.
    pub async fn write(&self, caller: Caller, at: (Ino, u64), offset: u64, data: Bytes, sheds: bool) -> Result<u32> {
        let (ino, handle) = at;
        if self.work.owns(ino) {
            return self.write_work((ino, handle), offset, data, sheds).await;
        }
        self.write_open(caller, handle, offset, &data).await?;
        Ok(u32::try_from(data.len()).unwrap_or(u32::MAX))
    }

    /// close of one copy of a descriptor.
    pub async fn flush(&self, caller: Caller, ino: Ino, handle: u64) -> Result<()> {
        if self.work.owns(ino) {
            return self.work.flush(handle);
        }
        self.flush_open(caller, handle).await
    }

    /// close of the last copy.
    pub fn release(&self, ino: Ino, handle: u64) {
        if self.work.owns(ino) {
            self.work.release(handle);
            lock(&self.leases).remove(&handle);
            return;
        }
        self.release_open(handle);
    }

    /// fsync.
    pub async fn fsync(&self, caller: Caller, ino: Ino, handle: u64, datasync: bool) -> Result<()> {
        if self.work.owns(ino) {
            let sync = move |work: &Work| work.fsync(handle, datasync);
            return self.work.off(ino, LONG, sync, |_, ()| ()).await;
        }
        self.fsync_open(caller, handle).await
    }

    /// opendir.
    pub async fn opendir(&self, caller: Caller, ino: Ino) -> Result<Opened> {
        if self.work.owns(ino) {
            let late = |work: &Work, opened: Opened| work.releasedir(opened.handle);
            let open = self.work.on_disk(ino, move |work| work.opendir(ino), late);
            let opened = self.leased(ino, open, |opened| opened.handle).await;
            return self.looked(caller, ino, opened);
        }
        let node = self.looked(caller, ino, self.node(ino))?;
        let mut opened = self.opened(caller, node, false, OpenKind::Folder(Mutex::default()))?;
        (opened.direct_io, opened.keep_cache) = (false, false);
        Ok(opened)
    }

    /// At most `limit` entries after `offset` (0: the first); with `plus` each carries `found`,
    /// which counts as a lookup.
    pub async fn readdir(
        &self,
        caller: Caller,
        ino: Ino,
        handle: u64,
        offset: u64,
        limit: usize,
        plus: bool,
    ) -> Result<Vec<DirEntry>> {
        if self.work.owns(ino) {
            let list = move |work: &Work| work.readdir(handle, offset, limit, plus);
            return self.listed(caller, self.work.on_disk(ino, list, Work::unlisted).await);
        }
        let listed = match self.node(ino) {
            Ok(node) => self.list(caller, &node, handle, offset, limit, plus).await,
            Err(error) => Err(error),
        };
        self.listed(caller, listed)
    }

    /// closedir.
    pub fn releasedir(&self, ino: Ino, handle: u64) {
        if self.work.owns(ino) {
            self.work.releasedir(handle);
            lock(&self.leases).remove(&handle);
            return;
        }
        self.handles.remove(handle);
    }

    /// fsync of a folder.
    pub async fn fsyncdir(&self, _caller: Caller, ino: Ino, handle: u64) -> Result<()> {
        if self.work.owns(ino) {
            let sync = move |work: &Work| work.fsyncdir(handle);
            return self.work.off(ino, LONG, sync, |_, ()| ()).await;
        }
        Ok(())
    }

    /// statfs: of the disk that holds the claimants' folders.
    pub async fn statfs(&self, ino: Ino) -> Result<Space> {
        if self.work.owns(ino) {
            return self.work.on_disk(ino, move |work| work.statfs(ino), |_, _| ()).await;
        }
        self.space()
    }

    /// The poll(2) events that hold now; if none of `events` does, `wake` is kept and called once
    /// when one might.
    pub async fn poll(&self, _caller: Caller, ino: Ino, handle: u64, events: u32, wake: Option<Waker>) -> Result<u32> {
        let (input, output) = (libc::POLLIN.unsigned_abs(), libc::POLLOUT.unsigned_abs());
        let (input, output) = (u32::from(input), u32::from(output));
        if self.work.owns(ino) {
            return Ok((input | output) & events);
        }
        let open = self.handles.get(handle)?;
        let readable = events & input == 0 || self.poll_stream(&open, wake).await?;
        Ok((output | if readable { input } else { 0 }) & events)
    }
}

/// A name that may be looked up; what is not UTF-8 is nowhere.
fn utf8(name: &OsStr) -> Result<&str> {
    name.to_str().ok_or_else(|| Error::NotFound(name.display().to_string()))
}

/// A name that may be made.
fn utf8_new(name: &OsStr) -> Result<&str> {
    name.to_str()
        .ok_or_else(|| Error::Invalid(format!("{}: the name is not UTF-8", name.display())))
}

fn check_length(name: &OsStr) -> Result<()> {
    if name.len() > NAME_MAX {
        return Err(Error::NameTooLong(name.display().to_string()));
    }
    Ok(())
}
