//! Names and what they lead to.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::{Bench, errno, ino, me};

#[test]
fn hard_links_are_one_inode() {
    let bench = Bench::new();
    let work = &bench.work;
    let (file, _) = bench.create("f", b"x");
    let sub = bench.mkdir(bench.root, "d");
    let linked = work.link(file, sub, OsStr::new("g")).unwrap();
    assert_eq!((ino(&linked), linked.attributes.attr.nlink), (file, 2));
    assert_eq!(ino(&bench.lookup(sub, "g").unwrap()), file);
    assert_eq!(ino(&bench.lookup(bench.root, "f").unwrap()), file);
    let over = work.link(file, bench.root, OsStr::new("f"));
    assert_eq!(errno(over), libc::EEXIST);
    assert_eq!(errno(work.link(sub, bench.root, OsStr::new("e"))), libc::EPERM);
    work.unlink(bench.root, OsStr::new("f")).unwrap();
    assert_eq!(work.getattr(file, None).unwrap().attr.nlink, 1);
    work.unlink(sub, OsStr::new("g")).unwrap();
    assert_eq!(errno(work.link(file, bench.root, OsStr::new("h"))), libc::ENOENT);
}

#[test]
fn renames_keep_the_inode() {
    let bench = Bench::new();
    let work = &bench.work;
    let (f, g, h) = (OsStr::new("f"), OsStr::new("g"), OsStr::new("h"));
    let (first, _) = bench.create("f", b"1");
    let (second, handle) = bench.create("g", b"2");
    let noreplace = libc::RENAME_NOREPLACE;
    assert_eq!(
        errno(work.rename(bench.root, f, bench.root, g, noreplace)),
        libc::EEXIST
    );
    work.rename(bench.root, f, bench.root, g, libc::RENAME_EXCHANGE)
        .unwrap();
    assert_eq!(ino(&bench.lookup(bench.root, "g").unwrap()), first);
    work.rename(bench.root, g, bench.root, f, 0).unwrap();
    assert_eq!(ino(&bench.lookup(bench.root, "f").unwrap()), first);
    assert_eq!(work.getattr(second, None).unwrap().attr.nlink, 0);
    assert_eq!(&work.read(handle, 0, 9).unwrap()[..], b"2");

    work.rename(bench.root, f, bench.artifacts, h, 0).unwrap();
    assert_eq!(ino(&bench.lookup(bench.artifacts, "h").unwrap()), first);
    assert!(bench.dir.path().join("artifacts/h").exists());
    let outer = bench.mkdir(bench.root, "outer");
    let inner = bench.mkdir(outer, "inner");
    let loop_ = work.rename(bench.root, OsStr::new("outer"), inner, OsStr::new("x"), 0);
    assert_eq!(errno(loop_), libc::EINVAL);
    let whiteout = work.rename(bench.artifacts, h, bench.artifacts, f, libc::RENAME_WHITEOUT);
    assert_eq!(errno(whiteout), libc::EINVAL);
    assert_eq!(
        errno(work.rename(bench.artifacts, h, bench.artifacts, f, 1 << 30)),
        libc::EINVAL
    );
    assert_eq!(errno(work.rmdir(bench.root, OsStr::new("outer"))), libc::ENOTEMPTY);
    assert_eq!(errno(work.unlink(bench.root, OsStr::new("outer"))), libc::EISDIR);
    assert_eq!(errno(work.rmdir(bench.artifacts, h)), libc::ENOTDIR);
}

#[test]
fn any_bytes_make_a_name() {
    let bench = Bench::new();
    let work = &bench.work;
    let long = "n".repeat(255);
    for name in [&b"\xff\xfe caf\xe9"[..], b"-rf", b"new\nline", b"...", long.as_bytes()] {
        let name = OsStr::from_bytes(name);
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
        let (found, _) = work.create(me(), bench.root, name, 0o600, flags).unwrap();
        assert_eq!(ino(&work.lookup(bench.root, name).unwrap()), ino(&found));
        assert!(bench.path(name).exists());
    }
    let list = work.opendir(bench.root).unwrap().handle;
    let entries = work.readdir(list, 0, 100, false).unwrap();
    assert!(entries.iter().any(|entry| entry.name.as_bytes() == b"\xff\xfe caf\xe9"));
    let longer = "n".repeat(256);
    assert_eq!(errno(bench.lookup(bench.root, &longer)), libc::ENAMETOOLONG);
    let made = work.mkdir(me(), bench.root, OsStr::new(&longer), 0o700);
    assert_eq!(errno(made), libc::ENAMETOOLONG);
    let target = "t".repeat(5000);
    let link = work.symlink(me(), bench.root, OsStr::new("l"), OsStr::new(&target));
    assert_eq!(errno(link), libc::ENAMETOOLONG);
    let target = OsStr::from_bytes(&[0xff; 4000]);
    let link = work.symlink(me(), bench.root, OsStr::new("l"), target).unwrap();
    assert_eq!(work.readlink(ino(&link)).unwrap(), target);
    assert_eq!(errno(work.readlink(bench.root)), libc::EINVAL);
}

/// "Folders nest 2,048 deep at most": what is made or moved deeper is ENAMETOOLONG, and can be removed.
#[test]
fn folders_nest_as_deep_as_can_be_stored() {
    let bench = Bench::new();
    let work = &bench.work;
    let deepen = |mut at, levels: usize| {
        for _ in 0..levels {
            at = bench.mkdir(at, "d");
        }
        at
    };
    let short = bench.mkdir(bench.root, "short");
    deepen(short, 99);
    let end = deepen(bench.root, crate::repository::snapshot::DEPTH_MAX);
    let deeper = work.mkdir(me(), end, OsStr::new("d"), 0o755);
    assert_eq!(errno(deeper), libc::ENAMETOOLONG);
    let top = ino(&bench.lookup(bench.root, "d").unwrap());
    let rename = |name: &str, to| work.rename(bench.root, OsStr::new(name), to, OsStr::new("moved"), 0);
    assert_eq!(errno(rename("d", short)), libc::ENAMETOOLONG);
    rename("short", top).unwrap();
    bench.create("file", b"x");
    rename("file", end).unwrap();
    crate::repository::attempts::remove_tree(&bench.dir.keep());
}
