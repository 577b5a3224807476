//! Extended attributes: as many as a result carries.

use std::ffi::OsStr;

use super::{Bench, errno, ino};
use crate::tree::Ino;

/// A bench on a disk that takes far more, where there is one: files in memory.
fn bench() -> Bench {
    let roomy = tempfile::tempdir_in("/dev/shm").ok().map(Bench::on);
    let takes = |bench: &Bench| {
        let set = |length| {
            bench
                .work
                .setxattr(bench.root, OsStr::new("user.try"), &vec![1; length], 0)
        };
        let removed = set(1).and_then(|()| bench.work.removexattr(bench.root, OsStr::new("user.try")));
        removed.is_ok()
    };
    roomy.filter(takes).unwrap_or_else(Bench::new)
}

/// "The attributes of one file or folder have 4 KiB at most, names and values together: more is ENOSPC."
#[test]
fn no_more_is_taken_than_a_result_carries() {
    let bench = bench();
    let work = &bench.work;
    let (file, _) = bench.create("f", b"x");
    let folder = bench.mkdir(bench.root, "d");
    let set = |node: Ino, name: &str, length: usize| work.setxattr(node, OsStr::new(name), &vec![b'x'; length], 0);
    for node in [file, folder, bench.root] {
        set(node, "user.a", 3000).unwrap();
        assert_eq!(errno(set(node, "user.b", 1500)), libc::ENOSPC);
        assert_eq!(errno(set(node, "user.b", 5000)), libc::ENOSPC);
        set(node, "user.b", 900).unwrap();
        assert_eq!(
            errno(set(node, "user.b", 1500)),
            libc::ENOSPC,
            "one that is there grows"
        );
        assert_eq!(work.getxattr(node, OsStr::new("user.b")).unwrap().len(), 900);
        set(node, "user.a", 100).unwrap();
        set(node, "user.b", 1500).unwrap();
        work.removexattr(node, OsStr::new("user.a")).unwrap();
        assert_eq!(&work.listxattr(node).unwrap()[..], b"user.b\0");
    }
    let other = ino(&bench.lookup(bench.root, "f").unwrap());
    assert_eq!(errno(set(other, "user.c", 3000)), libc::ENOSPC);
}

/// Side by side too: of many that would fit alone, as many are taken as fit together.
#[test]
fn no_two_get_the_same_room() {
    let bench = bench();
    let (file, _) = bench.create("f", b"x");
    let taken = std::thread::scope(|scope| {
        let one = |number: usize| {
            let (work, name) = (&bench.work, format!("user.{number}"));
            scope.spawn(move || work.setxattr(file, OsStr::new(&name), &[b'x'; 900], 0).is_ok())
        };
        let all: Vec<_> = (0..16).map(one).collect();
        all.into_iter()
            .map(|one| usize::from(one.join().unwrap()))
            .sum::<usize>()
    });
    assert!((3..=4).contains(&taken), "{taken} times 900 bytes in 4 KiB");
}
