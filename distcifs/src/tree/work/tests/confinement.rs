//! Nothing outside an attempt's folders can be reached.

use std::ffi::OsStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{Bench, errno, ino, me};
use crate::tree::{Kind, SetAttr};

#[test]
fn a_symbolic_link_is_never_followed() {
    let bench = Bench::new();
    let outside = bench.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), "s").unwrap();
    let work = &bench.work;
    let link = work
        .symlink(me(), bench.root, OsStr::new("a"), outside.as_os_str())
        .unwrap();
    assert_eq!(link.attributes.attr.kind, Kind::Symlink);
    let link = ino(&link);
    let secret = OsStr::new("secret");
    assert_eq!(errno(work.lookup(link, secret)), libc::ENOTDIR);
    assert_eq!(errno(work.unlink(link, secret)), libc::ENOTDIR);
    assert_eq!(errno(work.mkdir(me(), link, OsStr::new("d"), 0o700)), libc::ENOTDIR);
    assert_eq!(
        errno(work.create(me(), link, secret, 0o600, libc::O_RDWR)),
        libc::ENOTDIR
    );
    assert_eq!(errno(work.opendir(link)), libc::ENOTDIR);
    assert_eq!(errno(work.open(link, libc::O_RDONLY)), libc::ELOOP);
    let file = work.symlink(me(), bench.root, OsStr::new("b"), outside.join("secret").as_os_str());
    let file = ino(&file.unwrap());
    assert_eq!(errno(work.open(file, libc::O_RDWR | libc::O_TRUNC)), libc::ELOOP);
    assert_eq!(
        errno(work.create(me(), bench.root, OsStr::new("b"), 0o6, libc::O_RDWR)),
        libc::ELOOP
    );
    let empty = SetAttr {
        size: Some(0),
        ..SetAttr::default()
    };
    assert_eq!(errno(work.setattr(file, None, empty)), libc::ELOOP);
    let mode = SetAttr {
        mode: Some(0o777),
        ..SetAttr::default()
    };
    let before = std::fs::metadata(outside.join("secret")).unwrap().permissions();
    assert!(work.setattr(file, None, mode).is_err());
    assert_eq!(std::fs::metadata(outside.join("secret")).unwrap().permissions(), before);
    let hard = ino(&work.link(file, bench.root, OsStr::new("c")).unwrap());
    assert_eq!(hard, file);
    assert_eq!(std::fs::read(outside.join("secret")).unwrap(), b"s");
}

#[test]
fn names_are_single_components() {
    let bench = Bench::new();
    let sub = bench.mkdir(bench.root, "d");
    let work = &bench.work;
    for name in ["", ".", "..", "/", "../outside", "d/", "/etc/passwd", "a\0b"] {
        let name = OsStr::new(name);
        assert_eq!(errno(work.lookup(sub, name)), libc::EINVAL, "{name:?}");
        assert_eq!(errno(work.mkdir(me(), sub, name, 0o700)), libc::EINVAL, "{name:?}");
        assert_eq!(errno(work.create(me(), sub, name, 0o600, 0)), libc::EINVAL, "{name:?}");
        assert_eq!(errno(work.unlink(sub, name)), libc::EINVAL, "{name:?}");
        assert_eq!(errno(work.rmdir(sub, name)), libc::EINVAL, "{name:?}");
        assert_eq!(errno(work.link(sub, sub, name)), libc::EINVAL, "{name:?}");
        let there = OsStr::new("there");
        assert_eq!(errno(work.symlink(me(), sub, name, there)), libc::EINVAL, "{name:?}");
        assert_eq!(errno(work.rename(sub, name, sub, there, 0)), libc::EINVAL, "{name:?}");
        assert_eq!(errno(work.rename(sub, there, sub, name, 0)), libc::EINVAL, "{name:?}");
    }
}

/// A folder and a link to a folder outside change places while another thread walks through them.
#[test]
fn a_race_of_folder_and_link_leads_nowhere() {
    let bench = Bench::new();
    let outside = bench.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("f"), "outside").unwrap();
    let inside = bench.mkdir(bench.root, "x");
    let flags = libc::O_RDWR | libc::O_CREAT;
    let (_, opened) = bench.work.create(me(), inside, OsStr::new("f"), 0o644, flags).unwrap();
    bench.work.write(opened.handle, 0, b"inside").unwrap();
    bench
        .work
        .symlink(me(), bench.root, OsStr::new("y"), outside.as_os_str())
        .unwrap();
    let over = AtomicBool::new(false);
    let (mut folders, mut links) = (0, 0);
    let until = Instant::now() + Duration::from_secs(30);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) && Instant::now() < until {
                let (x, y) = (OsStr::new("x"), OsStr::new("y"));
                let flags = libc::RENAME_EXCHANGE;
                bench.work.rename(bench.root, x, bench.root, y, flags).unwrap();
            }
        });
        while (folders < 500 || links < 500) && Instant::now() < until {
            let found = bench.lookup(bench.root, "x").unwrap();
            let file = bench.lookup(ino(&found), "f");
            if found.attributes.attr.kind == Kind::Symlink {
                assert_eq!(errno(file), libc::ENOTDIR);
                links += 1;
                continue;
            }
            let opened = bench.work.open(ino(&file.unwrap()), libc::O_RDONLY).unwrap();
            assert_eq!(&bench.work.read(opened.handle, 0, 100).unwrap()[..], b"inside");
            bench.work.release(opened.handle);
            folders += 1;
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(folders >= 500 && links >= 500, "{folders} {links}");
}
