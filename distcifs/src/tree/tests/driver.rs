//! A tree on servers in memory, and the calls that a kernel makes of it for one system call each.
//!
//! It is what a kernel is to the tree and no more: a path is looked up name by name and its lookups
//! are forgotten, a file is opened, read, written, flushed and released. It checks no permissions, as
//! a kernel does for root.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::backend::memory::Memory;
use crate::repository::names::Name;
use crate::repository::{Repository, Setup, format};
use crate::tree::{Attr, Caller, Error, Found, Ino, Kind, Result, SetAttr, Tree};

/// The root of the tree.
const ROOT: Ino = Ino(1);

/// Bytes that are read or written by one request, as a kernel does.
const PART_BYTES: usize = 128 << 10;

/// Entries of a folder that are read at once.
const ENTRIES: usize = 100;

/// Symbolic links in one path.
const LINKS_MAX: usize = 40;

/// Between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Longest wait for anything.
pub(super) const USUAL: Duration = Duration::from_secs(20);

/// A tree and all it stands on, gone with the test that made it.
pub(super) struct Fs {
    tree: Option<Arc<Tree>>,
    runtime: Runtime,
    memory: Memory,
    dir: TempDir,
    shared: bool,
    /// Whether time goes only while there is nothing else to do, and then at once.
    paused: bool,
    /// Who calls.
    pub(super) caller: Caller,
}

/// What a tree lives in.
fn runtime(paused: bool) -> Runtime {
    let runtime = if paused {
        Builder::new_current_thread().enable_all().start_paused(true).build()
    } else {
        Builder::new_multi_thread().worker_threads(2).enable_all().build()
    };
    runtime.unwrap()
}

impl Fs {
    /// The tree of a new, empty repository, which this mount has for itself.
    pub(super) fn alone() -> Fs {
        Fs::of(false, false)
    }

    /// The same where other mounts may be: a cluster's.
    pub(super) fn shared() -> Fs {
        Fs::of(true, false)
    }

    /// The first of them in a time of its own, which jumps to what is waited for: a minute takes no
    /// time. Nothing may be under way outside the runtime meanwhile, such as a process.
    pub(super) fn paused() -> Fs {
        Fs::of(false, true)
    }

    fn of(shared: bool, paused: bool) -> Fs {
        let caller = Caller {
            tid: std::process::id(),
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
        };
        let mut fs = Fs {
            tree: None,
            runtime: runtime(paused),
            memory: Memory::new(),
            dir: tempfile::tempdir().unwrap(),
            shared,
            paused,
            caller,
        };
        if shared {
            fs.wait(async {
                let mount = fs.memory.mount();
                let (coordination, contents) = (mount.coordination(), mount.contents());
                format::make(&coordination, &contents, false).await.unwrap();
            });
        }
        fs.mount();
        fs
    }

    fn mount(&mut self) {
        let tree = self.runtime.block_on(async {
            let mount = self.memory.mount();
            let repository = Repository::open(Setup {
                coordination: mount.coordination(),
                contents: mount.contents(),
                node: Name::new("here").unwrap(),
                attempts: self.dir.path().join("attempts"),
                store: "memory".into(),
                coordinator: "memory".into(),
                shared: self.shared,
            });
            let tree = Tree::new(repository.await.unwrap(), Vec::new()).unwrap();
            let mut invalidations = tree.invalidations().unwrap();
            // A kernel without caches.
            tokio::spawn(async move { while invalidations.recv().await.is_some() {} });
            tree
        });
        self.tree = Some(Arc::new(tree));
    }

    /// Unmounts and mounts again, with nothing but what is durable: harder than an unmount is.
    pub(super) fn remount(&mut self) {
        self.tree = None;
        self.memory = self.memory.crash();
        drop(std::mem::replace(&mut self.runtime, runtime(self.paused)));
        self.mount();
    }

    /// The tree itself.
    pub(super) fn tree(&self) -> &Arc<Tree> {
        self.tree.as_ref().unwrap()
    }

    /// Waits for a call.
    pub(super) fn wait<T>(&self, call: impl Future<Output = T>) -> T {
        self.runtime.block_on(call)
    }

    /// Begins a call, which goes on while something is waited for.
    pub(super) fn begin<T: Send + 'static>(&self, call: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.runtime.spawn(call)
    }

    /// Lets time pass.
    pub(super) fn pass(&self, time: Duration) {
        self.wait(async { sleep(time).await });
    }

    /// The time in which the tree lives.
    pub(super) fn now(&self) -> Instant {
        self.wait(async { Instant::now() })
    }

    /// Waits until the condition holds.
    #[track_caller]
    pub(super) fn wait_for(&self, what: &str, condition: impl FnMut() -> bool) {
        self.wait_within(USUAL, what, condition);
    }

    /// The same with another bound.
    #[track_caller]
    pub(super) fn wait_within(&self, bound: Duration, what: &str, mut condition: impl FnMut() -> bool) {
        let end = self.now() + bound;
        while !condition() {
            assert!(self.now() < end, "waited {bound:?} in vain for: {what}");
            self.pass(LOOK_EVERY);
        }
    }

    /// Looks a path up. The last name may be a symbolic link, which is not followed.
    pub(super) fn find(&self, path: &str) -> Result<Way<'_>> {
        let mut left: VecDeque<String> = path.split('/').map(str::to_owned).collect();
        let mut way = Way {
            fs: self,
            looked: Vec::new(),
            folders: vec![ROOT],
        };
        let mut links = 0;
        while let Some(name) = left.pop_front() {
            match name.as_str() {
                "" | "." => continue,
                ".." => {
                    way.folders.truncate(way.folders.len().saturating_sub(1).max(1));
                    continue;
                }
                _ => {}
            }
            let found = way.look(&name)?.ok_or_else(|| Error::NotFound(path.into()))?;
            let attr = found.attributes.attr;
            if attr.kind == Kind::Symlink && !left.is_empty() {
                links += 1;
                assert!(links < LINKS_MAX, "{path}: too many symbolic links");
                let target = self.wait(self.tree().readlink(self.caller, attr.ino))?;
                let target = target.into_string().unwrap();
                target.rsplit('/').for_each(|name| left.push_front(name.to_owned()));
                continue;
            }
            way.folders.push(attr.ino);
        }
        Ok(way)
    }

    /// Looks up the folder that a name stands in.
    fn parent<'a>(&self, path: &'a str) -> Result<(Way<'_>, &'a str)> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        // A link to a folder stands for it.
        Ok((self.find(&format!("{parent}/."))?, name))
    }

    /// open(2), with the flags of it.
    pub(super) fn open(&self, path: &str, flags: i32) -> Result<Fd<'_>> {
        let (mut way, name) = self.parent(path)?;
        let creates = flags & libc::O_CREAT != 0;
        let (ino, opened) = match way.look(name)? {
            Some(_) if creates && flags & libc::O_EXCL != 0 => return Err(Error::Exists(path.into())),
            Some(found) => {
                let ino = found.attributes.attr.ino;
                let opened = self.wait(self.tree().open(self.caller, ino, flags & !libc::O_CREAT))?;
                (ino, opened)
            }
            None if creates => {
                let create = self.tree().create(self.caller, way.at(), name.into(), 0o644, flags);
                let (found, opened) = self.wait(create)?;
                way.looked.push(found.attributes.attr.ino);
                (found.attributes.attr.ino, opened)
            }
            None => return Err(Error::NotFound(path.into())),
        };
        Ok(Fd {
            way,
            ino,
            handle: opened.handle,
            flushes: opened.flushes,
            offset: 0,
        })
    }

    /// All bytes of a file, as `cat` reads them.
    pub(super) fn bytes(&self, path: &str) -> Result<Vec<u8>> {
        let mut file = self.open(path, libc::O_RDONLY)?;
        let mut all = Vec::new();
        loop {
            let some = file.read()?;
            if some.is_empty() {
                return Ok(all);
            }
            all.extend_from_slice(&some);
        }
    }

    /// Opens for writing with truncation, writes in one go and closes, looking at what close
    /// returns, as `cp` and an editor do.
    pub(super) fn write(&self, path: &str, text: impl AsRef<[u8]>) -> Result<()> {
        let mut file = self.open(path, libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC)?;
        file.write(text.as_ref())?;
        file.close()
    }

    /// The same as a shell's `echo TEXT > PATH`, which does not look at what close returns.
    pub(super) fn echo(&self, path: &str, text: &str) -> Result<()> {
        let mut file = self.open(path, libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC)?;
        file.write(format!("{text}\n").as_bytes())
    }

    /// The names in a folder, sorted.
    pub(super) fn names(&self, path: &str) -> Result<Vec<String>> {
        let way = self.find(&format!("{path}/."))?;
        let (ino, caller, tree) = (way.at(), self.caller, self.tree());
        let handle = self.wait(tree.opendir(caller, ino))?.handle;
        let (mut names, mut offset) = (Vec::new(), 0);
        let listed = loop {
            match self.wait(tree.readdir(caller, ino, handle, offset, ENTRIES, false)) {
                Ok(entries) if entries.is_empty() => break Ok(()),
                Ok(entries) => {
                    offset = entries.last().map_or(offset, |entry| entry.offset);
                    names.extend(entries.into_iter().map(|entry| entry.name.into_string().unwrap()));
                }
                Err(error) => break Err(error),
            }
        };
        tree.releasedir(ino, handle);
        names.retain(|name| name != "." && name != "..");
        names.sort();
        listed.map(|()| names)
    }

    /// stat(2), of a link itself.
    pub(super) fn stat(&self, path: &str) -> Result<Attr> {
        let way = self.find(path)?;
        Ok(self.wait(self.tree().getattr(self.caller, way.at(), None))?.attr)
    }

    /// mkdir(2).
    pub(super) fn mkdir(&self, path: &str) -> Result<()> {
        let (mut way, name) = self.parent(path)?;
        if way.look(name)?.is_some() {
            return Err(Error::Exists(path.into()));
        }
        let made = self.wait(self.tree().mkdir(self.caller, way.at(), name.into(), 0o755))?;
        way.looked.push(made.attributes.attr.ino);
        Ok(())
    }

    /// The same of any name, which nobody has looked up before.
    pub(super) fn mkdir_at(&self, folder: &str, name: OsString) -> Result<()> {
        let mut way = self.find(&format!("{folder}/."))?;
        let made = self.wait(self.tree().mkdir(self.caller, way.at(), name, 0o755))?;
        way.looked.push(made.attributes.attr.ino);
        Ok(())
    }

    /// A look for any name, which gives the errno of one that is not there.
    pub(super) fn look_at(&self, folder: &str, name: OsString) -> Result<()> {
        let mut way = self.find(&format!("{folder}/."))?;
        let found = self.wait(self.tree().lookup(self.caller, way.at(), name))?;
        match found.attributes.attr.ino {
            Ino(0) => Err(Error::NotFound(folder.into())),
            ino => {
                way.looked.push(ino);
                Ok(())
            }
        }
    }

    /// rmdir(2).
    pub(super) fn rmdir(&self, path: &str) -> Result<()> {
        let (way, name) = self.parent(path)?;
        self.wait(self.tree().rmdir(self.caller, way.at(), name.into()))
    }

    /// chmod(2).
    pub(super) fn chmod(&self, path: &str, mode: u32) -> Result<()> {
        let (way, mode) = (self.find(path)?, Some(mode));
        let set = SetAttr {
            mode,
            ..SetAttr::default()
        };
        self.wait(self.tree().setattr(self.caller, way.at(), None, set))
            .map(drop)
    }

    /// unlink(2).
    pub(super) fn unlink(&self, path: &str) -> Result<()> {
        let (way, name) = self.parent(path)?;
        self.wait(self.tree().unlink(self.caller, way.at(), name.into()))
    }

    /// rename(2).
    pub(super) fn rename(&self, from: &str, to: &str) -> Result<()> {
        let ((from, name), (to, new)) = (self.parent(from)?, self.parent(to)?);
        let rename = self
            .tree()
            .rename(self.caller, from.at(), name.into(), to.at(), new.into(), 0);
        self.wait(rename)
    }
}

impl Drop for Fs {
    fn drop(&mut self) {
        // What ends with the tree may want the runtime.
        let _entered = self.runtime.enter();
        self.tree = None;
    }
}

/// A path that was looked up. Dropping it forgets its lookups.
pub(super) struct Way<'a> {
    fs: &'a Fs,
    /// What was looked up.
    looked: Vec<Ino>,
    /// The folders on the way, and the last node.
    folders: Vec<Ino>,
}

impl Way<'_> {
    /// Where it leads.
    pub(super) fn at(&self) -> Ino {
        self.folders.last().copied().unwrap_or(ROOT)
    }

    /// Looks a name up there; `None` if there is nothing.
    fn look(&mut self, name: &str) -> Result<Option<Found>> {
        let (tree, caller, parent) = (self.fs.tree(), self.fs.caller, self.at());
        match self.fs.wait(tree.lookup(caller, parent, OsString::from(name))) {
            Ok(found) if found.attributes.attr.ino.0 == 0 => Ok(None),
            Ok(found) => {
                self.looked.push(found.attributes.attr.ino);
                Ok(Some(found))
            }
            Err(Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Way<'_> {
    fn drop(&mut self) {
        for ino in &self.looked {
            self.fs.tree().forget(*ino, 1);
        }
    }
}

/// An open file. Dropping it closes it.
pub(super) struct Fd<'a> {
    /// The kernel remembers what is open.
    way: Way<'a>,
    ino: Ino,
    handle: u64,
    /// Whether the kernel asks at each close.
    pub(super) flushes: bool,
    offset: u64,
}

impl Fd<'_> {
    /// One read(2), which may be one of many that are made at once.
    pub(super) async fn one(&self) -> Result<Bytes> {
        let fs = self.way.fs;
        let size = u32::try_from(PART_BYTES).unwrap();
        let tree = fs.tree();
        tree.read_by(fs.caller, self.ino, self.handle, self.offset, size, false)
            .await
    }

    /// read(2) of as much as there is; empty at the end.
    pub(super) fn read(&mut self) -> Result<Bytes> {
        let bytes = self.way.fs.wait(self.one())?;
        self.offset += bytes.len() as u64;
        Ok(bytes)
    }

    /// write(2) of all of it.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let (fs, at) = (self.way.fs, (self.ino, self.handle));
        for part in bytes.chunks(PART_BYTES) {
            let part = Bytes::copy_from_slice(part);
            let written = fs.wait(fs.tree().write(fs.caller, at, self.offset, part, false))?;
            self.offset += u64::from(written);
        }
        Ok(())
    }

    /// ftruncate(2).
    pub(super) fn truncate(&self, size: u64) -> Result<()> {
        let fs = self.way.fs;
        let set = SetAttr {
            size: Some(size),
            ..SetAttr::default()
        };
        let handle = Some(self.handle);
        fs.wait(fs.tree().setattr(fs.caller, self.ino, handle, set)).map(|_| ())
    }

    fn flush(&self) -> Result<()> {
        if !self.flushes {
            return Ok(());
        }
        let fs = self.way.fs;
        fs.wait(fs.tree().flush(fs.caller, self.ino, self.handle))
    }

    /// fsync(2).
    pub(super) fn fsync(&self) -> Result<()> {
        let fs = self.way.fs;
        fs.wait(fs.tree().fsync(fs.caller, self.ino, self.handle, false))
    }

    /// close(2), looking at what it returns. The file is closed all the same.
    pub(super) fn close(self) -> Result<()> {
        // Dropping it flushes once more, and there is nothing left to flush.
        self.flush()
    }
}

impl Drop for Fd<'_> {
    fn drop(&mut self) {
        // As close does whose answer nobody looks at.
        let _unseen = self.flush();
        self.way.fs.tree().release(self.ino, self.handle);
    }
}

/// One whose claims are not this process's: it may run in the session of process 1, as containers begin.
pub(super) fn process_of_another_session() -> std::process::Child {
    let process = std::process::Command::new("setsid")
        .args(["sleep", "60"])
        .spawn()
        .unwrap();
    let pid = nix::unistd::Pid::from_raw(process.id().try_into().unwrap());
    let is_apart = || nix::unistd::getsid(Some(pid)) == Ok(pid);
    for _ in 0..10_000 {
        if is_apart() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(is_apart(), "setsid began no session");
    process
}
