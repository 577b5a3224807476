//! What remains of an attempt after its end, and of an inode after it was forgotten.

use std::ffi::OsStr;
use std::time::{Duration, SystemTime};

use super::{Bench, errno, ino, me};
use crate::tree::{Ino, SetAttr};

#[test]
fn path_operations_are_stale_after_the_end() {
    let bench = Bench::new();
    let work = &bench.work;
    let (file, handle) = bench.create("f", b"old");
    let folder = bench.mkdir(bench.root, "d");
    let list = work.opendir(folder).unwrap().handle;
    let mut known = work.inodes_of(&bench.attempt);
    known.sort();
    let mut killed = work.kill(&bench.attempt);
    killed.sort();
    assert_eq!(killed, known);
    assert_eq!(known, [bench.root, bench.artifacts, file, folder]);

    let name = OsStr::new("f");
    let set = SetAttr {
        mode: Some(0),
        ..SetAttr::default()
    };
    let empty = SetAttr {
        size: Some(0),
        ..SetAttr::default()
    };
    // "A file … that is open answers fstat(2) after its claim is over": the kernel asks without a handle.
    assert_eq!(work.getattr(file, None).unwrap().attr.size, 3);
    let errors = [
        errno(work.lookup(bench.root, name)),
        errno(work.found(bench.root)),
        errno(work.getattr(folder, None)),
        errno(work.getattr(Ino(u64::MAX), None)),
        errno(work.setattr(file, None, set)),
        errno(work.setattr(file, Some(handle), set)),
        errno(work.setattr(file, None, empty)),
        errno(work.readlink(file)),
        errno(work.mknod(me(), folder, name, libc::S_IFREG)),
        errno(work.mkdir(me(), folder, name, 0)),
        errno(work.symlink(me(), folder, name, name)),
        errno(work.unlink(bench.root, name)),
        errno(work.rmdir(bench.root, OsStr::new("d"))),
        errno(work.rename(bench.root, name, folder, name, 0)),
        errno(work.link(file, folder, name)),
        errno(work.open(file, libc::O_RDONLY)),
        errno(work.create(me(), folder, name, 0, libc::O_RDWR)),
        errno(work.fsync(handle, false)),
        errno(work.fsync(handle, true)),
        errno(work.opendir(folder)),
        errno(work.readdir(list, 0, 10, true)),
        errno(work.fsyncdir(list)),
        errno(work.statfs(file)),
        errno(work.getxattr(file, OsStr::new("user.x"))),
        errno(work.setxattr(file, OsStr::new("user.x"), b"", 0)),
        errno(work.listxattr(file)),
        errno(work.removexattr(file, OsStr::new("user.x"))),
        errno(work.attach(&bench.attempt, bench.dir.path())),
    ];
    assert!(errors.iter().all(|errno| *errno == libc::ESTALE), "{errors:?}");
    work.releasedir(list);
}

#[test]
fn open_files_outlive_their_attempt() {
    let bench = Bench::new();
    let work = &bench.work;
    let (file, handle) = bench.create("f", b"old contents");
    let second = work.open(file, libc::O_RDONLY).unwrap().handle;
    assert_eq!(bench.attempt.open_files(), 2);
    work.kill(&bench.attempt);
    assert!(!bench.attempt.is_alive());
    std::fs::remove_dir_all(bench.path("")).unwrap();
    work.write(handle, 0, b"new").unwrap();
    assert_eq!(&work.read(second, 0, 100).unwrap()[..], b"new contents");
    assert_eq!(work.getattr(file, Some(second)).unwrap().attr.size, 12);
    let size = SetAttr {
        size: Some(3),
        ..SetAttr::default()
    };
    assert_eq!(work.setattr(file, Some(handle), size).unwrap().attr.size, 3);
    let mtime = SystemTime::UNIX_EPOCH + Duration::new(77, 5);
    let time = SetAttr {
        mtime: Some(Some(mtime)),
        ..size
    };
    assert_eq!(work.setattr(file, Some(handle), time).unwrap().attr.mtime, mtime);
    assert_eq!(errno(work.setattr(file, Some(second), time)), libc::ESTALE);
    work.fallocate(handle, 0, 8192, 0).unwrap();
    assert_eq!(work.lseek(handle, 0, libc::SEEK_END).unwrap(), 8192);
    work.flush(handle).unwrap();
    work.release(second);
    assert_eq!(bench.attempt.open_files(), 1);
    work.release(handle);
    assert_eq!(bench.attempt.open_files(), 0);
    assert_eq!(errno(work.read(handle, 0, 1)), libc::EBADF);
    assert_eq!(bench.descriptors(), 0);
}

#[test]
fn the_next_attempt_has_inodes_of_its_own() {
    let bench = Bench::new();
    let work = &bench.work;
    let (file, handle) = bench.create("f", b"x");
    work.release(handle);
    let next = work.begin();
    let root = work.attach(&next, &bench.path("")).unwrap();
    assert_ne!(root, bench.root);
    let theirs = ino(&work.lookup(root, OsStr::new("f")).unwrap());
    assert_ne!(theirs, file);
    assert_eq!(work.attempt_of(theirs).map(|a| a.roots()), Some(vec![root]));
    let name = OsStr::new("f");
    assert_eq!(errno(work.link(file, root, OsStr::new("g"))), libc::EXDEV);
    assert_eq!(errno(work.rename(bench.root, name, root, name, 0)), libc::EXDEV);
    work.kill(&bench.attempt);
    assert_eq!(errno(work.rename(root, name, bench.root, name, 0)), libc::ESTALE);
    assert_eq!(errno(work.getattr(file, None)), libc::ESTALE);
    assert_eq!(work.getattr(theirs, None).unwrap().attr.size, 1);
    assert!(work.inodes_of(&bench.attempt).contains(&file));
    work.forget(file, 1);
    assert!(!work.inodes_of(&bench.attempt).contains(&file));
}

#[test]
fn forgetting_drops_descriptors() {
    let bench = Bench::new();
    let work = &bench.work;
    let before = bench.descriptors();
    let mut inodes = Vec::new();
    for number in 0..100 {
        let (file, handle) = bench.create(&format!("f{number}"), b"");
        work.release(handle);
        assert_eq!(ino(&bench.lookup(bench.root, &format!("f{number}")).unwrap()), file);
        inodes.push(file);
    }
    assert_eq!(bench.descriptors(), before + 100);
    for file in &inodes {
        work.forget(*file, 1);
    }
    assert_eq!(bench.descriptors(), before + 100);
    for file in &inodes {
        work.forget(*file, 1);
    }
    assert_eq!(bench.descriptors(), before);
    assert_eq!(errno(work.getattr(inodes[0], None)), libc::ESTALE);
    let again = ino(&bench.lookup(bench.root, "f0").unwrap());
    assert!(!inodes.contains(&again), "numbers are never used twice");

    work.found(bench.root).unwrap();
    work.forget(bench.root, 1);
    work.forget(bench.root, u64::MAX);
    work.forget(Ino(u64::MAX), 1);
    assert!(work.getattr(bench.root, None).is_ok(), "a root stays");
    work.kill(&bench.attempt);
    assert_eq!(bench.descriptors(), 0);
    assert_eq!(work.inodes_of(&bench.attempt), [again]);
    assert!(work.owns(again) && !work.owns(Ino(super::FIRST - 1)));
}

/// Many threads work while the attempt is ended: after `kill` returned, nothing changes any more.
#[test]
fn nothing_changes_after_the_end() {
    let bench = Bench::new();
    let work = &bench.work;
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let bench = &bench;
            scope.spawn(move || {
                for number in 0.. {
                    let name = format!("{thread}-{number}");
                    let made = work.mkdir(me(), bench.root, OsStr::new(&name), 0o755);
                    if made.is_err() {
                        assert_eq!(errno(made), libc::ESTALE);
                        break;
                    }
                }
            });
        }
        while std::fs::read_dir(bench.path("")).unwrap().count() < 100 {
            std::thread::yield_now();
        }
        work.kill(&bench.attempt);
        let count = std::fs::read_dir(bench.path("")).unwrap().count();
        assert_eq!(bench.descriptors(), 0);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(std::fs::read_dir(bench.path("")).unwrap().count(), count);
    });
}
