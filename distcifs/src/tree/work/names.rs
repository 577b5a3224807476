//! Names in folders: looking up, making, moving, removing.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat, mknodat};
use nix::unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat};

use super::super::{Caller, Found, Ino, Kind};
use super::attempt::Gate;
use super::attributes::{attributes_of, give, kind_of};
use super::given_up::{Changes, changes};
use super::inodes::{Inode, expect_kind};
use super::locks::{Taken, may_stand};
use super::way::{Leaving, spared};
use super::{TTL, Work, fd_name, system};
use crate::repository::reserve::NAME_BYTES;
use crate::repository::{Error, Result};

/// Longest name, bytes (NAME_MAX of Linux).
const NAME_BYTES_MAX: usize = 255;

/// What a new node is given.
pub(super) struct NewNode {
    caller: Caller,
    /// Permission bits; `None` for a symbolic link, which has none.
    mode: Option<u32>,
    kind: Kind,
}

impl NewNode {
    /// A node of that kind for the caller.
    pub(super) fn new(caller: Caller, mode: Option<u32>, kind: Kind) -> NewNode {
        NewNode {
            caller,
            mode: mode.map(|mode| mode & 0o7777),
            kind,
        }
    }

    /// What it may take of the disk at first.
    fn first_bytes(&self) -> u64 {
        Work::first_bytes(matches!(self.kind, Kind::Directory | Kind::Symlink))
    }

    /// Until it has its owner, nobody else may do anything with it.
    pub(super) fn first_mode(&self) -> Mode {
        Mode::from_bits_truncate(self.mode.unwrap_or(0) & 0o700)
    }
}

impl Work {
    /// What a name leads to; counts as a lookup of it.
    pub fn lookup(&self, parent: Ino, name: &OsStr) -> Result<Found> {
        let parent = self.inode(parent)?;
        let _gate = parent.attempt.enter()?;
        self.look_up(&parent, name)
    }

    /// Makes a regular file, a named pipe or a socket; `mode` with the type bits.
    pub fn mknod(&self, caller: Caller, parent: Ino, name: &OsStr, mode: u32) -> Result<Found> {
        let kind = match SFlag::from_bits_truncate(mode & libc::S_IFMT) {
            SFlag::S_IFREG => SFlag::S_IFREG,
            flag if flag.is_empty() => SFlag::S_IFREG,
            SFlag::S_IFIFO => SFlag::S_IFIFO,
            SFlag::S_IFSOCK => SFlag::S_IFSOCK,
            _ => return Err(Error::NotPermitted(format!("{}: a device", name.display()))),
        };
        let new = NewNode::new(caller, Some(mode), kind_of(kind.bits()));
        self.make(parent, name, &new, |fd, first| mknodat(fd, name, kind, first, 0))
    }

    /// Makes a folder.
    pub fn mkdir(&self, caller: Caller, parent: Ino, name: &OsStr, mode: u32) -> Result<Found> {
        let new = NewNode::new(caller, Some(mode), Kind::Directory);
        self.may_nest(None, &*self.inode(parent)?)?;
        self.make(parent, name, &new, |fd, first| mkdirat(fd, name, first))
    }

    /// Makes a symbolic link.
    pub fn symlink(&self, caller: Caller, parent: Ino, name: &OsStr, target: &OsStr) -> Result<Found> {
        let new = NewNode::new(caller, None, Kind::Symlink);
        self.make(parent, name, &new, |fd, _| symlinkat(target, fd, name))
    }

    /// Removes a name of anything but a folder.
    pub fn unlink(&self, parent: Ino, name: &OsStr) -> Result<()> {
        self.remove(parent, name, UnlinkatFlags::NoRemoveDir)
    }

    /// Removes an empty folder.
    pub fn rmdir(&self, parent: Ino, name: &OsStr) -> Result<()> {
        self.remove(parent, name, UnlinkatFlags::RemoveDir)
    }

    /// Moves a name, within one attempt; `flags` of renameat2(2): RENAME_NOREPLACE,
    /// RENAME_EXCHANGE.
    pub fn rename(&self, parent: Ino, name: &OsStr, new_parent: Ino, new_name: &OsStr, flags: u32) -> Result<()> {
        let invalid = || Error::Invalid(format!("{}: rename with flags {flags:#x}", name.display()));
        let flags = RenameFlags::from_bits(flags).ok_or_else(invalid)?;
        if !(RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_EXCHANGE).contains(flags) {
            return Err(invalid());
        }
        let (from, to) = (self.inode(parent)?, self.inode(new_parent)?);
        let _gate = same_attempt(&from, &to, name)?;
        let (from_dir, to_dir) = (self.folder_for(&from, name)?, self.folder_for(&to, new_name)?);
        let _folders = self.take_both(&from, &to)?;
        let moving = self.leaving(&from_dir, name, &from.attempt);
        let mut replaced = self.leaving(&to_dir, new_name, &from.attempt);
        let (its, other) = (inode_of(moving.as_ref()), inode_of(replaced.as_ref()));
        let _nodes = (take(its.as_ref())?, take(other.as_ref())?);
        let same = |a: &Leaving, b: &Leaving| a.inode.ino == b.inode.ino;
        if moving.as_ref().zip(replaced.as_ref()).is_some_and(|(a, b)| same(a, b)) {
            // Two names of one file: nothing happens, but for an error. By the time it is done they may be of two.
            let nodes = [Some(&from), Some(&to), its.as_ref()];
            return change(&nodes, name, || renameat2(&*from_dir, name, &*to_dir, new_name, flags)).1;
        }
        let exchanges = flags.contains(RenameFlags::RENAME_EXCHANGE);
        if from.ino != to.ino {
            let (depth, there) = (self.depth(&from) + 1, self.depth(&to) + 1);
            let goes = moving.as_ref().map(|moving| (&moving.inode, depth));
            let comes = replaced
                .as_ref()
                .filter(|_| exchanges)
                .map(|other| (&other.inode, there));
            goes.map_or(Ok(()), |moved| self.may_nest(Some(moved), &to))?;
            comes.map_or(Ok(()), |moved| self.may_nest(Some(moved), &from))?;
        }
        if let Some(going) = replaced.as_mut().filter(|_| !exchanges) {
            self.before_leaving(going);
        }
        let going = replaced.as_ref().filter(|_| !exchanges);
        // Who stands keeps nobody from finding what does not move yet.
        let names = (!may_stand()).then(|| from.attempt.move_names());
        let nodes = [Some(&from), Some(&to), its.as_ref(), other.as_ref()];
        let (_changes, moved) = change(&nodes, name, || renameat2(&*from_dir, name, &*to_dir, new_name, flags));
        let names = names.unwrap_or_else(|| from.attempt.move_names());
        if let (Some(Leaving { inode, .. }), Ok(())) = (&moving, &moved) {
            inode.change_names(|names| {
                names.lose(parent, name);
                names.gain(inode.kind, new_parent, new_name);
            });
        }
        if let (Some(Leaving { inode, .. }), true, Ok(())) = (&replaced, exchanges, &moved) {
            inode.change_names(|names| {
                names.lose(new_parent, new_name);
                names.gain(inode.kind, parent, name);
            });
        }
        drop(names);
        if let Some(going) = going {
            self.after_leaving(going, new_parent, new_name, moved.is_ok());
        }
        self.recount(&to, &to_dir);
        moved
    }

    /// Gives a node one more name; counts as a lookup of it.
    pub fn link(&self, ino: Ino, new_parent: Ino, new_name: &OsStr) -> Result<Found> {
        let (inode, parent) = (self.inode(ino)?, self.inode(new_parent)?);
        let _gate = same_attempt(&inode, &parent, new_name)?;
        let (fd, to) = (self.path(&inode)?, self.folder_for(&parent, new_name)?);
        self.need_name(&parent, &to, new_name)?;
        let _taken = (inode.take()?, parent.take_to_change()?);
        let follow = AtFlags::AT_SYMLINK_FOLLOW;
        let link = || linkat(&self.proc_fds, fd_name(&*fd).as_str(), &*to, new_name, follow);
        let ((), _changes) = self.naming(&parent, &to, 0, || {
            link().map_err(|errno| system(new_name.display(), errno))
        })?;
        inode.change_names(|names| names.gain(inode.kind, new_parent, new_name));
        let attributes = self.attributes(&inode)?;
        self.table_mut().count(&inode);
        Ok(Found {
            attributes,
            name_ttl: TTL,
            generation: 0,
        })
    }

    /// `lookup`, within the attempt's gate.
    pub(super) fn look_up(&self, parent: &Arc<Inode>, name: &OsStr) -> Result<Found> {
        let dir = self.folder_for(parent, name)?;
        let _taken = parent.take()?;
        let fd = spared(|| open_name(&dir, name)).map_err(|errno| system(name.display(), errno))?;
        self.meet(parent, fd, name)
    }

    /// The answer to a lookup that led to this descriptor.
    pub(super) fn meet(&self, parent: &Inode, fd: File, name: &OsStr) -> Result<Found> {
        let stat = fstat(&fd).map_err(|errno| system(name.display(), errno))?;
        let inode = {
            let mut table = self.table_mut();
            // Who stood until the attempt was over brings nothing back.
            if parent.attempt.is_over() {
                return Err(parent.attempt.stale());
            }
            table.look_up(&parent.attempt, &stat)
        };
        inode.change_names(|names| names.gain(inode.kind, parent.ino, name));
        if inode.hold(&Arc::new(fd)) {
            self.cache.keep(&inode);
        }
        Ok(Found {
            attributes: attributes_of(&inode, &stat),
            name_ttl: TTL,
            generation: 0,
        })
    }

    /// Makes a node with `call`, gives it its owner and mode, and looks it up.
    fn make(
        &self,
        parent: Ino,
        name: &OsStr,
        new: &NewNode,
        call: impl FnOnce(&File, Mode) -> nix::Result<()>,
    ) -> Result<Found> {
        let parent = self.inode(parent)?;
        let _gate = parent.attempt.enter_to_change()?;
        let dir = self.folder_for(&parent, name)?;
        let _taken = parent.take_to_change()?;
        self.need_inode(&parent, &dir, name)?;
        let (fd, _changes) = self.naming(&parent, &dir, new.first_bytes(), || {
            call(&dir, new.first_mode()).map_err(|errno| system(name.display(), errno))?;
            let adopted = spared(|| open_name(&dir, name));
            let adopted = adopted.and_then(|fd| self.adopt(&parent, &dir, &fd, new).map(|()| fd));
            adopted.map_err(|errno| undo(&dir, name, new.kind, errno))
        })?;
        self.meet_new(&parent, fd, name)
    }

    /// `meet` of what was made just now: what it takes counts.
    pub(super) fn meet_new(&self, parent: &Inode, fd: File, name: &OsStr) -> Result<Found> {
        let stat = fstat(&fd).ok().filter(|_| parent.attempt.quota().is_some());
        let found = self.meet(parent, fd, name)?;
        if let Some(stat) = stat {
            self.count_new(&*self.inode(found.attributes.attr.ino)?, &stat);
        }
        Ok(found)
    }

    /// Gives a new node its owner and mode, as the system would have if the caller had made it.
    pub(super) fn adopt(&self, parent: &Inode, dir: &File, fd: &File, new: &NewNode) -> nix::Result<()> {
        let inherits = fstat(dir)?.st_mode & libc::S_ISGID;
        if self.root {
            let shift = parent.attempt.shift();
            let gid = (inherits == 0).then_some(shift.kept_group(new.caller.gid));
            give(fd, Some(shift.kept_user(new.caller.uid)), gid)?;
        }
        match new.mode {
            Some(mode) if new.kind == Kind::Directory => self.chmod(fd, mode | inherits),
            Some(mode) => self.chmod(fd, mode),
            None => Ok(()),
        }
    }

    /// Refuses a new node that would leave too little room, or too few inodes, for everybody else.
    pub(super) fn need_inode(&self, parent: &Inode, dir: &File, name: &OsStr) -> Result<()> {
        let before = parent.attempt.writes(NAME_BYTES);
        self.room
            .check_inode(dir, before)
            .map_err(|errno| system(name.display(), errno))
    }

    /// The same for one more name of a node.
    fn need_name(&self, parent: &Inode, dir: &File, name: &OsStr) -> Result<()> {
        let before = parent.attempt.writes(NAME_BYTES);
        self.room
            .check(dir, before, NAME_BYTES)
            .map_err(|errno| system(name.display(), errno))
    }

    /// Held while a name moves between two folders. Between different ones the system moves one at a time.
    fn take_both<'a>(&'a self, from: &'a Inode, to: &'a Inode) -> Result<[Option<Taken<'a>>; 3]> {
        let moving = || Error::WouldBlock(format!("{}: somebody holds up who moves names", to.what()));
        let between = (from.ino != to.ino).then(|| self.moving.take().ok_or_else(moving));
        Ok([
            Some(from.take_to_change()?),
            Some(to.take_to_change()?),
            between.transpose()?,
        ])
    }

    fn remove(&self, parent: Ino, name: &OsStr, flag: UnlinkatFlags) -> Result<()> {
        let parent = self.inode(parent)?;
        let _gate = parent.attempt.enter_to_change()?;
        let dir = self.folder_for(&parent, name)?;
        let _folder = parent.take_to_change()?;
        let mut leaving = self.leaving(&dir, name, &parent.attempt);
        let its = inode_of(leaving.as_ref());
        let _node = take(its.as_ref())?;
        if let Some(leaving) = &mut leaving {
            self.before_leaving(leaving);
        }
        let nodes = [Some(&parent), its.as_ref()];
        let (_changes, removed) = change(&nodes, name, || unlinkat(&*dir, name, flag));
        if let Some(leaving) = &leaving {
            self.after_leaving(leaving, parent.ino, name, removed.is_ok());
        }
        removed
    }

    /// A descriptor of a folder in which the name may be used.
    pub(super) fn folder_for(&self, parent: &Arc<Inode>, name: &OsStr) -> Result<Arc<File>> {
        let bytes = name.as_bytes();
        if bytes.len() > NAME_BYTES_MAX {
            return Err(Error::NameTooLong(name.display().to_string()));
        }
        if matches!(bytes, b"" | b"." | b"..") || bytes.iter().any(|byte| matches!(byte, b'/' | 0)) {
            return Err(Error::Invalid(format!("{:?}: not a name in a folder", name.display())));
        }
        expect_kind(parent, Kind::Directory)?;
        self.path(parent)
    }
}

/// The node that is about to lose a name.
fn inode_of(leaving: Option<&Leaving>) -> Option<Arc<Inode>> {
    leaving.map(|leaving| leaving.inode.clone())
}

/// Held during a call that takes a node's lock, if it is one that anybody knows.
fn take(inode: Option<&Arc<Inode>>) -> Result<Option<Taken<'_>>> {
    inode.map(|inode| inode.take()).transpose()
}

/// Changes a name, and these nodes by that, unless nobody waits for it any more. What comes with it is to be held until
/// what is known of the names is right again.
fn change(
    nodes: &[Option<&Arc<Inode>>],
    name: &OsStr,
    act: impl FnOnce() -> nix::Result<()>,
) -> (Option<Changes>, Result<()>) {
    let nodes: Vec<&Inode> = nodes.iter().flatten().map(|inode| &***inode).collect();
    match changes(&nodes) {
        Ok(changes) => (Some(changes), act().map_err(|errno| system(name.display(), errno))),
        Err(error) => (None, Err(error)),
    }
}

/// Takes back a node that could not be opened or given its owner, and passes on why.
pub(super) fn undo(dir: &File, name: &OsStr, kind: Kind, errno: Errno) -> Error {
    let flag = match kind {
        Kind::Directory => UnlinkatFlags::RemoveDir,
        _ => UnlinkatFlags::NoRemoveDir,
    };
    let left = unlinkat(dir, name, flag).is_err();
    let outcome = if left {
        "was left without its owner"
    } else {
        "was made and removed again"
    };
    system(format!("{} {outcome}", name.display()), errno)
}

/// Opens what a name stands for, without following it.
pub(super) fn open_name(dir: &File, name: &OsStr) -> nix::Result<File> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(dir, name, flags, Mode::empty()).map(File::from)
}

/// Enters the attempt that both belong to.
fn same_attempt<'a>(one: &'a Inode, other: &Inode, name: &OsStr) -> Result<Gate<'a>> {
    let gate = one.attempt.enter_to_change()?;
    if one.attempt.id == other.attempt.id {
        return Ok(gate);
    }
    drop(gate);
    let _other = other.attempt.enter()?;
    Err(Error::CrossDevice(name.display().to_string()))
}
