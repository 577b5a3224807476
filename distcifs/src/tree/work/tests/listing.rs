//! Listing folders.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};

use super::{Bench, errno, ino};
use crate::tree::Kind;

impl Bench {
    /// All names of a folder, read a few at a time; `between` runs after each portion.
    fn list(&self, handle: u64, limit: usize, mut between: impl FnMut(&[OsString])) -> Vec<OsString> {
        let (mut names, mut offset) = (Vec::new(), 0);
        loop {
            let entries = self.work.readdir(handle, offset, limit, false).unwrap();
            assert!(entries.len() <= limit);
            let Some(last) = entries.last() else {
                return names;
            };
            assert_ne!(last.offset, 0);
            offset = last.offset;
            let portion: Vec<_> = entries.into_iter().map(|entry| entry.name).collect();
            between(&portion);
            names.extend(portion);
        }
    }
}

#[test]
fn ten_thousand_names_in_small_portions_while_they_are_removed() {
    let bench = Bench::new();
    for number in 0..10_000 {
        std::fs::write(bench.path(format!("{number}")), "").unwrap();
    }
    let handle = bench.work.opendir(bench.root).unwrap().handle;
    let names = bench.list(handle, 7, |_| {});
    assert_eq!(names.len(), 10_002);
    assert_eq!(names.iter().collect::<HashSet<_>>().len(), 10_002);

    let remove = |portion: &[OsString]| {
        for name in portion.iter().filter(|name| *name != "." && *name != "..") {
            bench.work.unlink(bench.root, name).unwrap();
        }
    };
    let seen: HashSet<_> = bench.list(handle, 64, remove).into_iter().collect();
    assert_eq!(seen.len(), 10_002, "rm -r sees each name once");
    assert_eq!(bench.list(handle, 64, |_| {}).len(), 2);
    bench.work.releasedir(handle);
    assert_eq!(errno(bench.work.readdir(handle, 0, 1, false)), libc::EBADF);
}

#[test]
fn an_offset_leads_back_to_where_it_came_from() {
    let bench = Bench::new();
    for number in 0..500 {
        std::fs::write(bench.path(format!("{number}")), "").unwrap();
    }
    let handle = bench.work.opendir(bench.root).unwrap().handle;
    let all = bench.work.readdir(handle, 0, usize::MAX, false).unwrap();
    assert_eq!(all.len(), 502);
    for at in [400, 3, 250, 0] {
        let rest = bench.work.readdir(handle, all[at].offset, 10, false).unwrap();
        let names =
            |entries: &[crate::tree::DirEntry]| entries.iter().map(|entry| entry.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&rest), names(&all[at + 1..at + 11]));
    }
    assert!(
        bench
            .work
            .readdir(handle, all[501].offset, 10, false)
            .unwrap()
            .is_empty()
    );
    assert!(bench.work.readdir(handle, u64::MAX, 10, false).is_err());
    assert!(bench.work.readdir(handle, 0, 0, false).unwrap().is_empty());
}

#[test]
fn with_plus_each_entry_is_looked_up() {
    let bench = Bench::new();
    let (file, open) = bench.create("f", b"12345");
    let folder = bench.mkdir(bench.root, "d");
    bench.work.release(open);
    std::os::unix::fs::symlink("nowhere", bench.path("l")).unwrap();
    let handle = bench.work.opendir(bench.root).unwrap().handle;
    let entries = bench.work.readdir(handle, 0, 100, true).unwrap();
    let entry = |name: &str| entries.iter().find(|entry| entry.name == name).unwrap();
    assert_eq!(entries.len(), 5);
    assert_eq!((entry(".").ino, entry("..").ino), (bench.root, bench.root));
    assert!(entry(".").found.is_none() && entry("..").found.is_none());
    assert_eq!((entry("f").ino, entry("f").kind), (file, Kind::File));
    assert_eq!(entry("f").found.unwrap().attributes.attr.size, 5);
    assert_eq!((entry("d").ino, entry("d").kind), (folder, Kind::Directory));
    assert_eq!(entry("l").kind, Kind::Symlink);
    bench.work.forget(file, 1);
    assert!(
        bench.work.getattr(file, None).is_ok(),
        "the listing counted as a lookup"
    );
    bench.work.forget(file, 1);
    assert_eq!(errno(bench.work.getattr(file, None)), libc::ESTALE);

    let below = bench.work.opendir(folder).unwrap().handle;
    let entries = bench.work.readdir(below, 0, 100, false).unwrap();
    let up = entries.iter().find(|entry| entry.name == "..").unwrap();
    assert_eq!((up.ino, up.kind), (bench.root, Kind::Directory));
    bench.work.fsyncdir(below).unwrap();
    let link = ino(&bench.work.lookup(bench.root, OsStr::new("l")).unwrap());
    assert_eq!(errno(bench.work.opendir(link)), libc::ENOTDIR);
}
