//! The way to an inode: its descriptor if it has one, else its names.
//!
//! This module's filesystem sees every change of a living attempt itself, so the names that an
//! inode has are known: of a folder the one, of a file those that were looked up last. A way is
//! followed name by name from the attempt's own folder, never through a symbolic link, and what is
//! found at its end must have the device and number of the inode.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};

use super::super::{Ino, Kind};
use super::attempt::Attempt;
use super::inodes::Inode;
use super::locks::may_stand;
use super::names::open_name;
use super::through::through;
use super::{Work, system};
use crate::repository::{Error, Result, descriptors, snapshot};

/// Names kept of a file that has many: one is enough to find it.
const NAMES_MAX: usize = 8;

/// Deepest folder that is found again: deeper ones can't be stored either.
const DEPTH_MAX: usize = 65_536;

/// Names of a path for people.
const PLACE_NAMES_MAX: usize = 32;

/// Tries to find what a name that moves apart leads to, and the time between two.
const MOVES_TRIES: usize = 3;
const MOVES_STEP: Duration = Duration::from_millis(1);

/// What leads to an inode.
#[derive(Debug, Default)]
pub(super) enum Names {
    /// Nothing any more.
    #[default]
    None,
    /// It is a folder of the attempt itself.
    Root(PathBuf),
    /// A name in a folder.
    One(Ino, Box<OsStr>),
    /// Several, the one that was met last at the end.
    Several(Vec<(Ino, Box<OsStr>)>),
}

impl Names {
    /// It has this name. A folder has no other.
    pub(super) fn gain(&mut self, kind: Kind, parent: Ino, name: &OsStr) {
        match self {
            Names::Root(_) => {}
            Names::One(known, at) if *known == parent && **at == *name => {}
            Names::One(known, at) if kind != Kind::Directory => {
                let first = (*known, at.clone());
                *self = Names::Several(vec![first, (parent, name.into())]);
            }
            Names::None | Names::One(..) => *self = Names::One(parent, name.into()),
            Names::Several(all) => {
                all.retain(|(known, at)| *known != parent || **at != *name);
                if all.len() >= NAMES_MAX {
                    all.remove(0);
                }
                all.push((parent, name.into()));
            }
        }
    }

    /// It has not got this name any more.
    pub(super) fn lose(&mut self, parent: Ino, name: &OsStr) {
        match self {
            Names::One(known, at) if *known == parent && **at == *name => *self = Names::None,
            Names::Several(all) => all.retain(|(known, at)| *known != parent || **at != *name),
            _ => {}
        }
    }

    /// The folder that one of them is in.
    fn parent(&self) -> Option<Ino> {
        match self {
            Names::None | Names::Root(_) => None,
            Names::One(parent, _) => Some(*parent),
            Names::Several(all) => all.last().map(|(parent, _)| *parent),
        }
    }

    /// All of them, the likeliest first.
    fn all(&self) -> Vec<(Ino, OsString)> {
        let owned = |(parent, name): &(Ino, Box<OsStr>)| (*parent, OsString::from(&**name));
        match self {
            Names::None | Names::Root(_) => Vec::new(),
            Names::One(parent, name) => vec![(*parent, OsString::from(&**name))],
            Names::Several(all) => all.iter().rev().map(owned).collect(),
        }
    }
}

/// A node that is about to lose a name.
pub(super) struct Leaving {
    pub(super) inode: Arc<Inode>,
    /// Whether it is its last.
    last: bool,
    /// A descriptor of it, if it is its last.
    fd: Option<Arc<File>>,
}

impl Work {
    /// A descriptor that names an inode. To be asked for within the attempt's gate.
    pub(super) fn path(&self, inode: &Arc<Inode>) -> Result<Arc<File>> {
        if let Some(fd) = inode.held()? {
            return Ok(fd);
        }
        let open = inode.backing.try_lock().ok().and_then(|backing| backing.file.upgrade());
        match open {
            Some(file) => Ok(file),
            None => self.find(inode),
        }
    }

    /// Finds an inode by its names.
    fn find(&self, inode: &Arc<Inode>) -> Result<Arc<File>> {
        let mut found = self.find_once(inode);
        // A name that moves apart is on its way for a moment.
        for _ in 0..MOVES_TRIES {
            if !matches!(found, Err(Error::Stale(_))) || !inode.attempt.is_held_up() || inode.attempt.is_over() {
                break;
            }
            std::thread::sleep(MOVES_STEP);
            found = self.find_once(inode);
        }
        found
    }

    fn find_once(&self, inode: &Arc<Inode>) -> Result<Arc<File>> {
        // Who may stand keeps no name from moving.
        let _still = (!may_stand()).then(|| inode.attempt.stand_still());
        let mut names = inode.with_names(Names::all).into_iter();
        if inode.kind == Kind::Directory {
            return self.find_folder(inode);
        }
        names
            .find_map(|(parent, name)| {
                let parent = self.table().get(parent)?;
                let found = self
                    .find_folder(&parent)
                    .and_then(|dir| self.enter((&parent, &dir), inode, &name));
                match found {
                    Err(Error::Stale(_)) => None,
                    done => Some(done),
                }
            })
            .unwrap_or_else(|| Err(inode.attempt.stale()))
    }

    /// Finds a folder, from the nearest one above it that has a descriptor.
    fn find_folder(&self, inode: &Arc<Inode>) -> Result<Arc<File>> {
        let mut below = Vec::new();
        let mut at = inode.clone();
        let (mut fd, mut above) = loop {
            if let Some(fd) = at.held()? {
                break (fd, at);
            }
            if let Some(path) = at.with_names(root_path) {
                break (self.enter_root(&at, &path)?, at);
            }
            let above = at.with_names(Names::all).into_iter().next();
            let (parent, name) = above.ok_or_else(|| at.attempt.stale())?;
            below.push((at, name));
            let known = self.table().get(parent).filter(|_| below.len() <= DEPTH_MAX);
            at = known.ok_or_else(|| inode.attempt.stale())?;
        };
        while let Some((folder, name)) = below.pop() {
            fd = self.enter((&above, &fd), &folder, &name)?;
            above = folder;
        }
        Ok(fd)
    }

    /// Opens what must be this inode, by its name.
    fn enter(&self, (folder, dir): (&Inode, &File), inode: &Arc<Inode>, name: &OsStr) -> Result<Arc<File>> {
        let _taken = folder.take()?;
        let opened = spared(|| open_name(dir, name));
        self.recognise(inode, opened)
    }

    /// Opens what must be this folder of the attempt.
    fn enter_root(&self, inode: &Arc<Inode>, path: &Path) -> Result<Arc<File>> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let opened = spared(|| open(path, flags, Mode::empty()).map(File::from));
        self.recognise(inode, opened)
    }

    /// Keeps a descriptor if it names the inode.
    fn recognise(&self, inode: &Arc<Inode>, opened: nix::Result<File>) -> Result<Arc<File>> {
        let fd = match opened {
            Ok(fd) => fd,
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Err(inode.attempt.stale()),
            Err(errno) => return Err(system(inode.what(), errno)),
        };
        let stat = fstat(&fd).map_err(|errno| system(inode.what(), errno))?;
        if (stat.st_dev, stat.st_ino) != inode.place() {
            return Err(inode.attempt.stale());
        }
        let fd = Arc::new(fd);
        if inode.hold(&fd) {
            self.cache.keep(inode);
        }
        Ok(fd)
    }

    /// The known node that a name stands for, before the name is taken from it.
    pub(super) fn leaving(&self, dir: &File, name: &OsStr, attempt: &Attempt) -> Option<Leaving> {
        let stat = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
        let table = self.table();
        let inode = table.get(table.known(attempt, stat.st_dev, stat.st_ino)?)?;
        let last = inode.kind == Kind::Directory || stat.st_nlink <= 1;
        Some(Leaving { inode, last, fd: None })
    }

    /// The name is about to go. Who has a node open, or works in it, goes on with it when it has no
    /// name any more; and its number is free for another file from then on.
    pub(super) fn before_leaving(&self, leaving: &mut Leaving) {
        if leaving.last {
            // Out of descriptors even now: who has it open reads and writes on, and no more.
            leaving.fd = self.path(&leaving.inode).ok();
            leaving.inode.hold_alone(leaving.fd.clone());
            self.table_mut().unkey(&leaving.inode);
        }
    }

    /// The name was taken away, or not.
    pub(super) fn after_leaving(&self, leaving: &Leaving, parent: Ino, name: &OsStr, gone: bool) {
        if gone {
            self.uncount_name(&leaving.inode);
        }
        match (gone, leaving.last) {
            (true, true) => {
                let inode = &leaving.inode;
                self.weigh(inode, leaving.fd.as_deref());
                inode.change_names(|names| *names = Names::None);
                // Whoever closes it at this moment sees that it has no name, or is seen to have closed it.
                let parted = self.part_with(inode);
                if parted || inode.kind != Kind::File {
                    self.uncount(inode);
                }
                if !parted {
                    self.cache.keep_nameless(inode);
                }
            }
            (true, false) => leaving.inode.change_names(|names| names.lose(parent, name)),
            (false, true) => {
                self.table_mut().rekey(&leaving.inode);
                if leaving.inode.hold_no_longer_alone() {
                    self.cache.keep(&leaving.inode);
                }
            }
            (false, false) => {}
        }
    }
}

impl Work {
    /// Lets go of a file that has no name and that nobody has open, so that its room is free at once.
    /// Whoever has found it before still sees its attributes. `false` if it may be used on.
    pub(super) fn part_with(&self, inode: &Arc<Inode>) -> bool {
        if inode.kind != Kind::File || inode.is_open() {
            return false;
        }
        let (fd, nameless) = {
            let mut way = inode.way.lock().unwrap_or_else(PoisonError::into_inner);
            let nameless = way.alone && matches!(way.names, Names::None);
            (if nameless { way.fd.take() } else { None }, nameless)
        };
        if let Some(fd) = &fd {
            self.hide(inode, fd);
        }
        if let Some(stat) = fd.as_ref().and_then(|fd| fstat(fd).ok()) {
            let mut way = inode.way.lock().unwrap_or_else(PoisonError::into_inner);
            way.last = Some(Box::new(stat));
        }
        nameless
    }

    /// A file was closed for the last time: if it has no name either, it is gone.
    pub(super) fn closed(&self, inode: &Arc<Inode>) {
        if self.part_with(inode) {
            self.uncount(inode);
        } else if inode.attempt.quota().is_some()
            && !inode.is_open()
            && let Ok(_gate) = inode.attempt.enter()
            && let Ok(fd) = self.path(inode)
        {
            // Some disks take back at the close what they kept ready for more.
            self.recount(inode, &fd);
        }
    }
}

impl Work {
    /// How many folders of its attempt a folder is in.
    pub(super) fn depth(&self, folder: &Inode) -> usize {
        let table = self.table();
        let mut at = folder.with_names(Names::parent);
        let mut depth = 0;
        while let Some(above) = at.filter(|_| depth < DEPTH_MAX) {
            depth += 1;
            at = table.get(above).and_then(|inode| inode.with_names(Names::parent));
        }
        depth
    }

    /// Refuses what would be too deep to be stored: a folder made in another, or moved there.
    pub(super) fn may_nest(&self, moved: Option<(&Arc<Inode>, usize)>, to: &Inode) -> Result<()> {
        if moved.is_some_and(|(inode, _)| inode.kind != Kind::Directory) {
            return Ok(());
        }
        let (attempt, depth) = (&to.attempt, self.depth(to) + 1);
        let mut deepest = depth;
        if let Some((inode, before)) = moved {
            // At most as deep below it as anything that was made is below where it was.
            deepest += attempt.deepest().saturating_sub(before);
            if depth > before && deepest > snapshot::DEPTH_MAX {
                let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
                let folder = self.path(inode).and_then(|fd| {
                    let folder = self.reopen(&fd, flags);
                    folder.map_err(|errno| system(inode.what(), errno))
                })?;
                let held = || Error::WouldBlock(format!("{}: somebody holds up who walks there", to.what()));
                let _walk = attempt.walks.take().ok_or_else(held)?;
                let below = through(folder, |_, _, _| {});
                deepest = depth + below.map_err(|errno| system(inode.what(), errno))?;
            }
        }
        if deepest > snapshot::DEPTH_MAX && moved.is_none_or(|(_, before)| depth > before) {
            let what = format!("{}: folders nest {} deep at most", to.what(), snapshot::DEPTH_MAX);
            return Err(Error::NameTooLong(what));
        }
        attempt.reaches(deepest);
        Ok(())
    }
}

fn root_path(names: &Names) -> Option<PathBuf> {
    match names {
        Names::Root(path) => Some(path.clone()),
        _ => None,
    }
}

impl Work {
    /// A node's path for people: its claim's name, and the way below its folders as far as it is known.
    pub(super) fn place_of(&self, ino: Ino) -> String {
        let table = self.table();
        let Some(inode) = table.get(ino) else {
            return format!("inode {}", ino.0);
        };
        let (mut at, mut names) = (inode.clone(), Vec::new());
        while names.len() < PLACE_NAMES_MAX {
            let above = at.with_names(Names::all).into_iter().next();
            let Some((parent, name)) = above else { break };
            names.push(name);
            let Some(parent) = table.get(parent) else { break };
            at = parent;
        }
        let path: PathBuf = names.iter().rev().collect();
        let shown = path.to_string_lossy().escape_debug().to_string();
        format!("{}, file {shown}", inode.attempt.name())
    }
}

/// Calls again if there were no descriptors, after those that are kept to save time were let go.
pub(super) fn spared<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    match call() {
        Err(Errno::EMFILE | Errno::ENFILE) => {
            descriptors::shed();
            call()
        }
        done => done,
    }
}

impl Inode {
    /// Reads its names.
    fn with_names<T>(&self, read: impl FnOnce(&Names) -> T) -> T {
        read(&self.way.lock().unwrap_or_else(PoisonError::into_inner).names)
    }

    /// Changes its names.
    pub(super) fn change_names(&self, change: impl FnOnce(&mut Names)) {
        change(&mut self.way.lock().unwrap_or_else(PoisonError::into_inner).names);
    }

    /// Its descriptor, if it has one.
    fn held(&self) -> Result<Option<Arc<File>>> {
        let way = self.way.lock().unwrap_or_else(PoisonError::into_inner);
        if way.over {
            return Err(self.attempt.stale());
        }
        if way.fd.is_some() {
            self.use_it();
        }
        Ok(way.fd.clone())
    }

    /// What it was, if it is gone.
    pub(super) fn last(&self) -> Option<Box<FileStat>> {
        let way = self.way.lock().unwrap_or_else(PoisonError::into_inner);
        way.last.clone().filter(|_| !way.over)
    }

    /// Keeps a descriptor, unless it has one; whether it did.
    pub(super) fn hold(&self, fd: &Arc<File>) -> bool {
        let mut way = self.way.lock().unwrap_or_else(PoisonError::into_inner);
        let takes = way.fd.is_none() && !way.over;
        if takes {
            way.fd = Some(fd.clone());
        }
        takes
    }

    /// Keeps a descriptor that only `lose` takes again.
    fn hold_alone(&self, fd: Option<Arc<File>>) {
        let mut way = self.way.lock().unwrap_or_else(PoisonError::into_inner);
        way.alone = true;
        way.fd = way.fd.take().or(fd);
    }

    /// It has kept its name; whether it has a descriptor.
    fn hold_no_longer_alone(&self) -> bool {
        let mut way = self.way.lock().unwrap_or_else(PoisonError::into_inner);
        way.alone = false;
        way.fd.is_some()
    }

    /// Gives its descriptor away, if it can be found by a name.
    pub(super) fn let_go(&self) -> Option<Arc<File>> {
        let mut way = self.way.lock().unwrap_or_else(PoisonError::into_inner);
        if way.alone { None } else { way.fd.take() }
    }

    /// Gives its descriptor away, and then nothing leads to it any more.
    pub(super) fn lose(&self) -> Option<Arc<File>> {
        self.way.lock().unwrap_or_else(PoisonError::into_inner).fd.take()
    }

    /// The attempt is over: nothing leads to it any more.
    pub(super) fn end(&self) -> Option<Arc<File>> {
        let mut way = self.way.lock().unwrap_or_else(PoisonError::into_inner);
        way.over = true;
        way.names = Names::None;
        way.fd.take()
    }
}
