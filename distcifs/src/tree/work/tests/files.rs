//! Open files.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use super::{Bench, errno, ino, me};
use crate::tree::SetAttr;

#[test]
fn a_removed_file_lives_while_it_is_open() {
    let bench = Bench::new();
    let work = &bench.work;
    let (file, handle) = bench.create("f", b"hello");
    work.unlink(bench.root, OsStr::new("f")).unwrap();
    assert_eq!(errno(bench.lookup(bench.root, "f")), libc::ENOENT);
    work.write(handle, 5, b" world").unwrap();
    assert_eq!(&work.read(handle, 0, 100).unwrap()[..], b"hello world");
    let attr = work.getattr(file, Some(handle)).unwrap().attr;
    assert_eq!((attr.ino, attr.nlink, attr.size), (file, 0, 11));
    assert_eq!(work.getattr(file, None).unwrap().attr, attr);
    let size = SetAttr {
        size: Some(4),
        ..SetAttr::default()
    };
    assert_eq!(work.setattr(file, Some(handle), size).unwrap().attr.size, 4);
    assert_eq!(work.setattr(file, None, size).unwrap().attr.size, 4);
    assert_eq!(&work.read(handle, 2, 100).unwrap()[..], b"ll");
    let again = work.open(file, libc::O_RDWR).unwrap();
    assert_eq!(&work.read(again.handle, 0, 100).unwrap()[..], b"hell");
}

/// "The space of a removed file is free when rm returns": no descriptor is left on it, and whoever has
/// found it before still sees what it was.
#[test]
fn a_removed_file_that_nobody_has_open_is_gone_at_once() {
    let bench = Bench::new();
    let work = &bench.work;
    let (kept, over) = (bench.create("kept", b"k"), bench.create("over", b"o"));
    let (file, handle) = bench.create("f", b"hello");
    work.release(over.1);
    work.release(handle);
    let before = bench.descriptors();
    work.unlink(bench.root, OsStr::new("f")).unwrap();
    work.rename(bench.root, OsStr::new("kept"), bench.root, OsStr::new("over"), 0)
        .unwrap();
    assert_eq!(bench.descriptors(), before - 2);
    let attr = work.getattr(file, None).unwrap().attr;
    assert_eq!((attr.ino, attr.nlink, attr.size), (file, 0, 5));
    assert_eq!(errno(work.open(file, libc::O_RDONLY)), libc::ESTALE);
    work.unlink(bench.root, OsStr::new("over")).unwrap();
    assert_eq!(&work.read(kept.1, 0, 10).unwrap()[..], b"k");
    work.release(kept.1);
    assert_eq!(work.getattr(kept.0, None).unwrap().attr.nlink, 0);
    assert_eq!(bench.descriptors(), before - 4);
}

/// "A write by anybody but root takes the set-user-id bit", and files with such are not passed through.
#[test]
fn set_id_bits_go_with_a_write() {
    let bench = Bench::new();
    let work = &bench.work;
    for (mode, left) in [(0o6755, 0o755), (0o2745, 0o2745), (0o4644, 0o644), (0o1644, 0o1644)] {
        let (file, handle) = bench.create(&mode.to_string(), b"hello");
        work.release(handle);
        let set = SetAttr {
            mode: Some(mode),
            ..SetAttr::default()
        };
        work.setattr(file, None, set).unwrap();
        let opened = work.open(file, libc::O_RDWR).unwrap();
        assert_eq!(opened.passes, mode & 0o6000 == 0);
        work.shed_set_id(file, None).unwrap();
        assert_eq!(work.getattr(file, None).unwrap().attr.mode, left);
    }
}

/// git makes its objects with mode 0444 and writes them through the descriptor it has.
#[test]
fn a_read_only_file_is_written_by_who_made_it() {
    let bench = Bench::new();
    let work = &bench.work;
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
    let (found, opened) = work.create(me(), bench.root, OsStr::new("f"), 0o444, flags).unwrap();
    assert_eq!(found.attributes.attr.mode, 0o444);
    work.write(opened.handle, 0, b"object").unwrap();
    let size = SetAttr {
        size: Some(3),
        ..SetAttr::default()
    };
    let set = work.setattr(ino(&found), Some(opened.handle), size).unwrap();
    assert_eq!((set.attr.size, set.attr.mode), (3, 0o444));
    work.fsync(opened.handle, false).unwrap();
    assert_eq!(std::fs::read(bench.path("f")).unwrap(), b"obj");
}

#[test]
fn all_opens_of_an_inode_share_one_backing_file() {
    let bench = Bench::new();
    let work = &bench.work;
    let (file, first) = bench.create("f", b"data");
    work.link(file, bench.root, OsStr::new("g")).unwrap();
    let one = work.open(file, libc::O_RDONLY).unwrap();
    let linked = ino(&bench.lookup(bench.root, "g").unwrap());
    let two = work.open(linked, libc::O_WRONLY | libc::O_APPEND).unwrap();
    let (a, b) = (one.backing.unwrap(), two.backing.unwrap());
    assert!(Arc::ptr_eq(&a, &b));
    assert!(!one.direct_io && one.keep_cache && !one.nonseekable);
    let mut contents = String::new();
    (&*a).read_to_string(&mut contents).unwrap();
    assert_eq!(contents, "data");
    drop((a, b));
    let before = bench.descriptors();
    for handle in [first, one.handle, two.handle] {
        work.release(handle);
    }
    assert_eq!(bench.descriptors(), before - 1);
}

#[test]
fn o_trunc_empties_and_o_excl_refuses() {
    let bench = Bench::new();
    let work = &bench.work;
    let (file, handle) = bench.create("f", b"0123456789");
    let opened = work.open(file, libc::O_WRONLY | libc::O_TRUNC).unwrap();
    assert_eq!(
        work.getattr(file, None).unwrap().attr.size,
        10,
        "it is a step of its own"
    );
    work.empty(opened.handle).unwrap();
    assert_eq!(work.getattr(file, None).unwrap().attr.size, 0);
    assert!(work.read(handle, 0, 10).unwrap().is_empty());
    work.write(opened.handle, 0, b"abc").unwrap();
    let name = OsStr::new("f");
    let excl = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
    assert_eq!(errno(work.create(me(), bench.root, name, 0o600, excl)), libc::EEXIST);
    let (found, _) = work.create(me(), bench.root, name, 0o600, libc::O_RDWR).unwrap();
    assert_eq!((ino(&found), found.attributes.attr.size), (file, 3));
    let flags = libc::O_RDWR | libc::O_TRUNC;
    let (found, opened) = work.create(me(), bench.root, name, 0o600, flags).unwrap();
    assert_eq!((found.attributes.attr.size, found.attributes.attr.mode), (3, 0o644));
    work.empty(opened.handle).unwrap();
    assert_eq!(work.getattr(file, None).unwrap().attr.size, 0);
    bench.mkdir(bench.root, "d");
    let folder = work.create(me(), bench.root, OsStr::new("d"), 0o600, libc::O_RDWR);
    assert_eq!(errno(folder), libc::EISDIR);
    let fifo = work
        .mknod(me(), bench.root, OsStr::new("p"), libc::S_IFIFO | 0o600)
        .unwrap();
    assert_eq!(errno(work.open(ino(&fifo), libc::O_RDONLY)), libc::EINVAL);
}

#[test]
fn large_files_and_far_offsets() {
    let bench = Bench::new();
    let work = &bench.work;
    let data: Vec<u8> = (0..3_000_000u32).map(|n| n as u8 ^ (n >> 8) as u8).collect();
    let (file, handle) = bench.create("f", &data);
    assert_eq!(&work.read(handle, 0, 4 << 20).unwrap()[..], &data[..]);
    assert_eq!(&work.read(handle, 2_999_990, 1 << 20).unwrap()[..], &data[2_999_990..]);
    assert!(work.read(handle, 1 << 50, 10).unwrap().is_empty());
    assert_eq!(errno(work.read(handle, u64::MAX, 10)), libc::EINVAL);
    assert!(work.write(handle, u64::MAX, b"x").is_err());
    let size = SetAttr {
        size: Some(u64::MAX),
        ..SetAttr::default()
    };
    assert_eq!(errno(work.setattr(file, None, size)), libc::EFBIG);
    assert_eq!(errno(work.fallocate(handle, 0, u64::MAX, 0)), libc::EINVAL);
    assert!(work.fallocate(handle, 0, 1, -1).is_err());
    assert_eq!(std::fs::read(bench.path("f")).unwrap(), data);
}

#[test]
fn holes_are_found_and_kept() {
    let bench = Bench::new();
    let work = &bench.work;
    let (file, handle) = bench.create("f", &[1; 4096]);
    work.write(handle, 10 << 20, &[2; 4096]).unwrap();
    assert_eq!(work.lseek(handle, 0, libc::SEEK_HOLE).unwrap(), 4096);
    assert_eq!(work.lseek(handle, 4096, libc::SEEK_DATA).unwrap(), 10 << 20);
    let end = (10 << 20) + 4096;
    assert_eq!(work.lseek(handle, 0, libc::SEEK_END).unwrap(), end);
    assert_eq!(errno(work.lseek(handle, end, libc::SEEK_DATA)), libc::ENXIO);
    assert_eq!(errno(work.lseek(handle, 0, libc::SEEK_CUR)), libc::EINVAL);
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    work.fallocate(handle, 10 << 20, 4096, punch).unwrap();
    let attr = work.getattr(file, None).unwrap().attr;
    assert_eq!(attr.size, end as u64);
    assert_eq!(attr.blocks, std::fs::metadata(bench.path("f")).unwrap().blocks());
    assert!(attr.blocks < 100);
}

#[test]
fn ranges_are_copied_by_the_system() {
    let bench = Bench::new();
    let work = &bench.work;
    let data: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
    let (_, from) = bench.create("from", &data);
    let (_, to) = bench.create("to", b"head");
    let copied = work.copy_file_range((from, 1000), (to, 4), 150_000).unwrap();
    assert_eq!(copied, 150_000);
    let result = std::fs::read(bench.path("to")).unwrap();
    assert_eq!(&result[..4], b"head");
    assert_eq!(&result[4..], &data[1000..151_000]);
    assert_eq!(work.copy_file_range((from, 500_000), (to, 0), u64::MAX).unwrap(), 0);
    assert_eq!(work.copy_file_range((from, 199_999), (to, 0), u64::MAX).unwrap(), 1);
    assert_eq!(errno(work.copy_file_range((from, 0), (from, 10), 100)), libc::EINVAL);
    assert_eq!(errno(work.copy_file_range((from, 0), (u64::MAX, 0), 1)), libc::EBADF);
}
