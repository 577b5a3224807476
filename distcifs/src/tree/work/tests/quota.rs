//! `limits.disk`: what is counted is what stands on the disk, and nothing goes beyond.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;

use super::{Bench, errno, ino, me};
use crate::tree::{Ino, SetAttr};

const MIB: u64 = 1 << 20;

/// A bench whose folders may take so much.
fn bounded(limit: u64) -> Bench {
    let bench = Bench::new();
    bench.work.limit(&bench.attempt, limit).unwrap();
    bench
}

impl Bench {
    /// What counts, which must be what is found by looking.
    fn counted(&self) -> u64 {
        let (_, used) = self.attempt.quota().unwrap().figures();
        assert_eq!(used, self.work.count(&self.attempt).unwrap());
        used
    }

    fn remove(&self, parent: Ino, name: &str) {
        self.work.unlink(parent, OsStr::new(name)).unwrap();
    }
}

fn size(bytes: u64) -> SetAttr {
    SetAttr {
        size: Some(bytes),
        ..SetAttr::default()
    }
}

/// "A file counts the blocks that it has on the disk, once however many names it has, a name 1 KiB, and
/// extended attributes their bytes. What is removed, cut or punched gives its room back."
#[test]
fn what_counts_is_what_stands_on_the_disk() {
    let bench = bounded(64 * MIB);
    let work = &bench.work;
    assert_eq!(bench.counted(), 0);
    let (file, handle) = bench.create("f", &[7; 300_000]);
    let one = bench.counted();
    assert!((300_000..600_000).contains(&one), "{one}");
    work.write(handle, 100_000, &[8; 100_000]).unwrap();
    assert_eq!(bench.counted(), one, "written over");
    work.link(file, bench.root, OsStr::new("g")).unwrap();
    assert_eq!(bench.counted(), one + 1024);
    work.setattr(file, Some(handle), size(50 * MIB)).unwrap();
    bench.counted();
    work.fallocate(handle, 10 * MIB, MIB, 0).unwrap();
    assert!(bench.counted() >= one + MIB);
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    work.fallocate(handle, 0, 20 * MIB, punch).unwrap();
    assert!(bench.counted() < one);
    work.setattr(file, None, size(0)).unwrap();
    let folder = bench.mkdir(bench.root, "d");
    work.symlink(me(), folder, OsStr::new("l"), OsStr::new(&"x".repeat(3000)))
        .unwrap();
    work.mknod(me(), folder, OsStr::new("p"), libc::S_IFIFO | 0o644)
        .unwrap();
    bench.counted();
    if work.setxattr(file, OsStr::new("user.a"), &[1; 1000], 0).is_ok() {
        let with = bench.counted();
        work.setxattr(file, OsStr::new("user.a"), &[1; 10], 0).unwrap();
        // The disk may take back a block of its own.
        assert!(bench.counted() <= with - 990);
        work.setxattr(folder, OsStr::new("user.b"), &[1; 10], 0).unwrap();
        work.removexattr(folder, OsStr::new("user.b")).unwrap();
        bench.counted();
    }
    let (_, over) = bench.create("over", &[1; 200_000]);
    work.release(over);
    work.rename(bench.root, OsStr::new("g"), bench.root, OsStr::new("over"), 0)
        .unwrap();
    bench.counted();
    work.rename(bench.root, OsStr::new("over"), folder, OsStr::new("m"), 0)
        .unwrap();
    work.write(handle, 0, &[1; 100_000]).unwrap();
    bench.remove(bench.root, "f");
    assert!(bench.counted() > 100_000, "it has a name still");
    bench.remove(folder, "m");
    let (_, used) = bench.attempt.quota().unwrap().figures();
    assert!(used > 100_000, "it is open still: {used}");
    work.write(handle, 100_000, &[1; 100_000]).unwrap();
    work.release(handle);
    bench.remove(folder, "l");
    bench.remove(folder, "p");
    work.rmdir(bench.root, OsStr::new("d")).unwrap();
    assert_eq!(bench.counted(), 0);
}

/// "What is removed gives its room back", also where it is closed at that moment, and with the attributes that
/// it got without a name.
#[test]
fn what_is_closed_while_it_is_removed_gives_its_room_back() {
    let bench = bounded(64 * MIB);
    let work = &bench.work;
    for _ in 0..300 {
        let (_, handle) = bench.create("f", &[7; 20_000]);
        std::thread::scope(|both| {
            both.spawn(|| work.release(handle));
            bench.remove(bench.root, "f");
        });
        assert_eq!(bench.counted(), 0);
    }
    // The close had found a name, and looks at what the file takes when it is gone.
    let (file, handle) = bench.create("f", &[7; 20_000]);
    let inode = work.inode(file).unwrap();
    let fd = work.path(&inode).unwrap();
    work.release(handle);
    bench.remove(bench.root, "f");
    work.recount(&inode, &fd);
    assert_eq!(bench.counted(), 0);
    let (kept, other) = (bench.create("kept", &[7; 20_000]), bench.create("other", &[7; 20_000]));
    let set = |bytes: &[u8]| work.setxattr(other.0, OsStr::new("user.a"), bytes, 0).is_ok();
    set(&[1; 100]);
    bench.remove(bench.root, "other");
    set(&[1; 300]);
    work.write(other.1, 0, &[1; 40_000]).unwrap();
    set(&[1; 200]);
    work.release(other.1);
    assert!(bench.counted() > 20_000);
    work.release(kept.1);
    bench.remove(bench.root, "kept");
    assert_eq!(bench.counted(), 0);
}

/// "Extended attributes count": a folder that was removed takes none, though somebody stands in it.
#[test]
fn a_removed_folder_takes_no_attributes() {
    let bench = bounded(4 * MIB);
    let work = &bench.work;
    let folder = bench.mkdir(bench.root, "d");
    if work.setxattr(folder, OsStr::new("user.a"), &[1; 10], 0).is_err() {
        // A disk without them has nothing to count.
        return;
    }
    work.rmdir(bench.root, OsStr::new("d")).unwrap();
    let set = |bytes: &[u8]| work.setxattr(folder, OsStr::new("user.a"), bytes, 0);
    assert_eq!(errno(set(&[1; 2000])), libc::ENOENT);
    assert_eq!(errno(set(&[])), libc::ENOENT);
    work.removexattr(folder, OsStr::new("user.a")).unwrap();
    assert_eq!(bench.counted(), 0);
}

/// "Beyond it: ENOSPC", whichever way it is tried; and what is there can be written over, cut and removed.
#[test]
fn nothing_goes_beyond_the_limit() {
    let bench = bounded(4 * MIB);
    let work = &bench.work;
    let (file, handle) = bench.create("f", &vec![7; 3 << 20]);
    let full = vec![8; 1 << 20];
    assert_eq!(errno(work.write(handle, 3 * MIB, &full)), libc::ENOSPC);
    assert_eq!(errno(work.fallocate(handle, 0, 200 * MIB, 0)), libc::ENOSPC);
    work.fallocate(handle, 0, 3 * MIB, 0).unwrap();
    work.write(handle, MIB, &full).unwrap();
    work.setattr(file, Some(handle), size(1 << 40)).unwrap();
    assert_eq!(errno(work.write(handle, 1 << 39, &full)), libc::ENOSPC);
    work.setattr(file, Some(handle), size(3 * MIB)).unwrap();
    let (_, copy) = bench.create("copy", b"");
    assert_eq!(
        errno(work.copy_file_range((handle, 0), (copy, 0), 2 * MIB)),
        libc::ENOSPC
    );
    let made = (0..2000).find(|n| work.mkdir(me(), bench.root, OsStr::new(&n.to_string()), 0o755).is_err());
    assert!(made.is_some_and(|made| made > 50), "{made:?}");
    let long = "x".repeat(3000);
    let link = |n: i32| work.symlink(me(), bench.root, OsStr::new(&format!("l{n}")), OsStr::new(&long));
    assert!((0..2000).any(|n| link(n).is_err()));
    let linked = (0..2000).find(|n| work.link(file, bench.root, OsStr::new(&format!("h{n}"))).is_err());
    assert!(linked.is_some());
    assert_eq!(
        errno(work.setxattr(file, OsStr::new("user.a"), &[0; 2000], 0)),
        libc::ENOSPC
    );
    assert!(bench.counted() <= 4 * MIB);
    assert_eq!(
        bench.attempt.note().unwrap(),
        "its folder holds its limits.disk of 4 MiB"
    );
    assert_eq!(work.statfs(bench.root).unwrap().available, 0);
    work.setattr(file, Some(handle), size(0)).unwrap();
    work.write(handle, 0, &full).unwrap();
}

/// "Files that were reserved can be written": they look like holes to who asks the disk.
#[test]
fn what_was_reserved_can_be_written() {
    let bench = bounded(4 * MIB);
    let (_, handle) = bench.create("f", b"");
    let most = 3 * MIB + MIB / 2;
    bench.work.fallocate(handle, 0, most, 0).unwrap();
    for at in 0..most >> 19 {
        bench.work.write(handle, at << 19, &vec![1; 1 << 19]).unwrap();
    }
    assert!(std::fs::metadata(bench.path("f")).unwrap().blocks() >= most / 512);
    bench.counted();
}

/// "What the task before left counts too", and is counted at the claim, hard links once.
#[test]
fn what_was_there_counts() {
    let bench = Bench::new();
    std::fs::create_dir_all(bench.path("a/b")).unwrap();
    std::fs::write(bench.path("a/b/f"), vec![1; 2 << 20]).unwrap();
    std::fs::hard_link(bench.path("a/b/f"), bench.path("g")).unwrap();
    bench.work.limit(&bench.attempt, 3 * MIB).unwrap();
    let used = bench.counted();
    assert!((2 * MIB..3 * MIB).contains(&used), "{used}");
    let (_, handle) = bench.create("new", b"");
    assert_eq!(errno(bench.work.write(handle, 0, &vec![1; 1 << 20])), libc::ENOSPC);
    bench.lookup(bench.root, "g").unwrap();
    bench.remove(bench.root, "g");
    let folder = ino(&bench.lookup(bench.root, "a").unwrap());
    let folder = ino(&bench.lookup(folder, "b").unwrap());
    bench.lookup(folder, "f").unwrap();
    bench.remove(folder, "f");
    assert!(bench.counted() < MIB);
    bench.work.write(handle, 0, &vec![1; 1 << 20]).unwrap();
}
