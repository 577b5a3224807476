//! The folders tried with real directories: the calls here, the outcome on disk.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use nix::unistd::geteuid;
use tempfile::TempDir;

use super::{Attempt, Work};
use crate::repository::{Error, Result};
use crate::tree::{Caller, Found, Ino, Kind, SetAttr};

mod confinement;
mod ends;
mod files;
mod given_up;
mod listing;
mod model;
mod names;
mod quota;
mod room;
mod scarce;
pub(in crate::tree::work) mod waits;
mod ways;
mod xattrs;

/// Where the inodes of these tests begin.
const FIRST: u64 = 1 << 40;

/// An attempt with a workspace and an artifacts folder.
struct Bench {
    work: Work,
    attempt: Arc<Attempt>,
    root: Ino,
    artifacts: Ino,
    /// Whether nothing is ever forgotten.
    remembers: bool,
    dir: TempDir,
}

impl Bench {
    fn new() -> Bench {
        Bench::on(tempfile::tempdir().unwrap())
    }

    fn on(dir: TempDir) -> Bench {
        let work = Work::new(FIRST, Arc::new(AtomicU64::new(1)), Arc::default()).unwrap();
        let attempt = work.begin();
        for name in ["workspace", "artifacts"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let root = work.attach(&attempt, &dir.path().join("workspace")).unwrap();
        let artifacts = work.attach(&attempt, &dir.path().join("artifacts")).unwrap();
        Bench {
            work,
            attempt,
            root,
            artifacts,
            remembers: false,
            dir,
        }
    }

    /// A path in the workspace.
    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join("workspace").join(name)
    }

    fn lookup(&self, parent: Ino, name: &str) -> Result<Found> {
        self.work.lookup(parent, OsStr::new(name))
    }

    /// Makes a file in the workspace with these contents; its inode and handle.
    fn create(&self, name: &str, contents: &[u8]) -> (Ino, u64) {
        let name = OsStr::new(name);
        let flags = libc::O_RDWR | libc::O_CREAT;
        let (found, opened) = self.work.create(me(), self.root, name, 0o644, flags).unwrap();
        let written = self.work.write(opened.handle, 0, contents).unwrap();
        assert_eq!(written as usize, contents.len());
        (ino(&found), opened.handle)
    }

    fn mkdir(&self, parent: Ino, name: &str) -> Ino {
        ino(&self.work.mkdir(me(), parent, OsStr::new(name), 0o755).unwrap())
    }

    /// Descriptors of this process on files below the bench's folder.
    fn descriptors(&self) -> usize {
        let of_bench = |entry: std::io::Result<std::fs::DirEntry>| {
            let target = std::fs::read_link(entry.unwrap().path());
            target.is_ok_and(|target| target.starts_with(self.dir.path()))
        };
        std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .map(of_bench)
            .filter(|is| *is)
            .count()
    }
}

/// Whoever runs the tests.
fn me() -> Caller {
    Caller {
        tid: 1,
        uid: geteuid().as_raw(),
        gid: nix::unistd::getegid().as_raw(),
    }
}

fn ino(found: &Found) -> Ino {
    found.attributes.attr.ino
}

/// The errno that an error becomes.
fn errno<T: std::fmt::Debug>(result: Result<T>) -> i32 {
    match result.unwrap_err() {
        Error::System { errno, .. } => errno,
        Error::Invalid(_) => libc::EINVAL,
        Error::NotDirectory(_) => libc::ENOTDIR,
        Error::IsDirectory(_) => libc::EISDIR,
        Error::NameTooLong(_) => libc::ENAMETOOLONG,
        Error::Stale(_) => libc::ESTALE,
        Error::CrossDevice(_) => libc::EXDEV,
        Error::NotPermitted(_) => libc::EPERM,
        Error::Unsupported(_) => libc::EOPNOTSUPP,
        Error::NoData => libc::ENODATA,
        other => panic!("unexpected: {other}"),
    }
}

#[test]
fn attributes_are_those_of_the_file() {
    let bench = Bench::new();
    let (file, handle) = bench.create("f", &[7; 5000]);
    let (atime, mtime) = (
        SystemTime::UNIX_EPOCH + Duration::new(1_234_567_890, 123_456_789),
        SystemTime::UNIX_EPOCH - Duration::new(5, 250_000_000),
    );
    let set = SetAttr {
        mode: Some(0o4751),
        atime: Some(Some(atime)),
        mtime: Some(Some(mtime)),
        ..SetAttr::default()
    };
    let attr = bench.work.setattr(file, None, set).unwrap().attr;
    let meta = std::fs::metadata(bench.path("f")).unwrap();
    assert_eq!(
        (attr.ino, attr.kind, attr.mode, attr.size),
        (file, Kind::File, 0o4751, 5000)
    );
    assert_eq!((attr.atime, attr.mtime), (atime, mtime));
    assert_eq!((meta.mtime(), meta.mtime_nsec()), (-6, 750_000_000));
    assert_eq!((attr.blocks, attr.nlink), (meta.blocks(), 1));
    assert_eq!(bench.work.getattr(file, Some(handle)).unwrap().attr, attr);
    assert_eq!(meta.permissions().mode() & 0o7777, 0o4751);

    let before = SystemTime::now() - Duration::from_secs(1);
    let set = SetAttr {
        mtime: Some(None),
        ..SetAttr::default()
    };
    let attr = bench.work.setattr(file, None, set).unwrap().attr;
    assert!(attr.mtime > before);
    assert_eq!(attr.atime, atime);
}

#[test]
fn times_of_a_symbolic_link_are_its_own() {
    let bench = Bench::new();
    bench.create("target", b"x");
    let found = bench
        .work
        .symlink(me(), bench.root, OsStr::new("l"), OsStr::new("target"));
    let link = ino(&found.unwrap());
    let mtime = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
    let set = SetAttr {
        mtime: Some(Some(mtime)),
        ..SetAttr::default()
    };
    assert_eq!(bench.work.setattr(link, None, set).unwrap().attr.mtime, mtime);
    assert_eq!(std::fs::symlink_metadata(bench.path("l")).unwrap().mtime(), 1000);
    assert_ne!(std::fs::metadata(bench.path("target")).unwrap().mtime(), 1000);
    assert_eq!(bench.work.readlink(link).unwrap(), "target");
}

/// New nodes belong to the caller when the daemon is root; folders pass their group on if setgid.
#[test]
fn new_nodes_belong_to_the_caller() {
    let bench = Bench::new();
    let caller = Caller {
        tid: 1,
        uid: 1000,
        gid: 1001,
    };
    let owner = if geteuid().is_root() {
        (1000, 1001)
    } else {
        (me().uid, me().gid)
    };
    let name = OsString::from;
    let work = &bench.work;
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
    let (file, _) = work.create(caller, bench.root, &name("f"), 0o6755, flags).unwrap();
    let link = work
        .symlink(caller, bench.root, &name("l"), OsStr::new("/etc"))
        .unwrap();
    let fifo = work
        .mknod(caller, bench.root, &name("p"), libc::S_IFIFO | 0o622)
        .unwrap();
    let sock = work
        .mknod(caller, bench.root, &name("s"), libc::S_IFSOCK | 0o777)
        .unwrap();
    let plain = work
        .mknod(caller, bench.root, &name("r"), libc::S_IFREG | 0o444)
        .unwrap();
    let dir = work.mkdir(caller, bench.root, &name("d"), 0o2777).unwrap();
    for (found, mode, kind) in [
        (file, 0o6755, Kind::File),
        (link, 0o777, Kind::Symlink),
        (fifo, 0o622, Kind::Fifo),
        (sock, 0o777, Kind::Socket),
        (plain, 0o444, Kind::File),
        (dir, 0o2777, Kind::Directory),
    ] {
        let attr = found.attributes.attr;
        let attr = work.getattr(attr.ino, None).map(|now| {
            assert!(kind == Kind::Symlink || now.attr == attr, "{kind:?}");
            now.attr
        });
        let attr = attr.unwrap();
        assert_eq!(
            (attr.uid, attr.gid, attr.mode, attr.kind),
            (owner.0, owner.1, mode, kind)
        );
    }
    let other = Caller {
        tid: 1,
        uid: 1000,
        gid: 2002,
    };
    let below = work
        .mkdir(other, ino(&dir), &name("below"), 0o700)
        .unwrap()
        .attributes
        .attr;
    assert_eq!((below.gid, below.mode), (owner.1, 0o2700));
    let (file, _) = work.create(other, ino(&dir), &name("g"), 0o600, flags).unwrap();
    assert_eq!(file.attributes.attr.gid, owner.1);
    assert_eq!(
        errno(work.mknod(caller, bench.root, &name("c"), libc::S_IFCHR | 0o600)),
        libc::EPERM
    );
}

#[test]
fn giving_a_file_away_and_setting_its_mode_at_once_keeps_the_mode() {
    if !geteuid().is_root() {
        return;
    }
    let bench = Bench::new();
    let (file, _) = bench.create("f", b"");
    let set = SetAttr {
        uid: Some(1000),
        gid: Some(1000),
        mode: Some(0o4755),
        ..SetAttr::default()
    };
    let attr = bench.work.setattr(file, None, set).unwrap().attr;
    assert_eq!((attr.uid, attr.gid, attr.mode), (1000, 1000, 0o4755));
    let set = SetAttr {
        uid: Some(1001),
        ..SetAttr::default()
    };
    let attr = bench.work.setattr(file, None, set).unwrap().attr;
    assert_eq!((attr.uid, attr.mode), (1001, 0o755));
}

/// user.* passes through; whatever speaks of rights is not supported.
#[test]
fn extended_attributes_of_users_pass_through() {
    let bench = Bench::new();
    let (file, _) = bench.create("f", b"");
    let work = &bench.work;
    let name = OsStr::new("user.mark");
    assert!(matches!(work.getxattr(file, name), Err(Error::NoData)));
    work.setxattr(file, name, b"one\0two", 0).unwrap();
    assert_eq!(&work.getxattr(file, name).unwrap()[..], b"one\0two");
    let again = work.setxattr(file, name, b"x", libc::XATTR_CREATE);
    assert_eq!(errno(again), libc::EEXIST);
    work.setxattr(bench.root, OsStr::new("user.empty"), b"", 0).unwrap();
    assert!(work.getxattr(bench.root, OsStr::new("user.empty")).unwrap().is_empty());
    assert_eq!(&work.listxattr(file).unwrap()[..], b"user.mark\0");
    work.removexattr(file, name).unwrap();
    assert!(work.listxattr(file).unwrap().is_empty());
    assert_eq!(errno(work.removexattr(file, name)), libc::ENODATA);
    for name in ["security.capability", "system.posix_acl_access", "trusted.x", "us\0er."] {
        let name = OsStr::new(name);
        assert_eq!(errno(work.setxattr(file, name, b"", 0)), libc::EOPNOTSUPP);
        assert_eq!(errno(work.getxattr(file, name)), libc::EOPNOTSUPP);
        assert_eq!(errno(work.removexattr(file, name)), libc::EOPNOTSUPP);
    }
    let link = work
        .symlink(me(), bench.root, OsStr::new("l"), OsStr::new("f"))
        .unwrap();
    assert_eq!(errno(work.setxattr(ino(&link), name, b"", 0)), libc::EPERM);
    assert!(work.listxattr(ino(&link)).unwrap().is_empty());
}

#[test]
fn the_space_is_that_of_the_disk() {
    let bench = Bench::new();
    let space = bench.work.statfs(bench.root).unwrap();
    let disk = nix::sys::statvfs::statvfs(bench.dir.path()).unwrap();
    assert_eq!(space.blocks, disk.blocks());
    assert_eq!(u64::from(space.block_size), disk.fragment_size());
    assert!(space.available <= space.free);
}
