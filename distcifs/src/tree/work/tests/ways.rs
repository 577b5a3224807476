//! Inodes without a descriptor are found again, and descriptors that run out hurt nobody.

use std::ffi::OsStr;

use super::{Bench, errno, ino, me};
use crate::tree::{Ino, SetAttr};

/// A bench whose inodes share one descriptor.
fn narrow() -> Bench {
    let bench = Bench::new();
    bench.work.cache.resize(1);
    bench
}

/// Makes all inodes but the newest lose their descriptors.
fn lose_descriptors(bench: &Bench) {
    for root in [bench.root, bench.artifacts] {
        for _ in 0..3 {
            bench.work.getattr(root, None).unwrap();
        }
    }
    bench.work.cache.resize(0);
    bench.work.cache.resize(1);
}

fn size_of(bench: &Bench, ino: Ino) -> u64 {
    lose_descriptors(bench);
    bench.work.getattr(ino, None).unwrap().attr.size
}

/// A file with so many bytes, closed.
fn file(bench: &Bench, parent: Ino, name: &str, size: usize) -> Ino {
    let flags = libc::O_RDWR | libc::O_CREAT;
    let (found, opened) = bench.work.create(me(), parent, OsStr::new(name), 0o644, flags).unwrap();
    bench.work.write(opened.handle, 0, &vec![7; size]).unwrap();
    bench.work.release(opened.handle);
    ino(&found)
}

#[test]
fn a_moved_file_or_folder_is_found_where_it_is_now() {
    let bench = narrow();
    let work = &bench.work;
    let name = OsStr::new;
    let (a, b) = (bench.mkdir(bench.root, "a"), bench.mkdir(bench.root, "b"));
    let below = bench.mkdir(a, "below");
    let (one, two) = (file(&bench, below, "one", 1), file(&bench, b, "two", 2));
    work.rename(a, name("below"), b, name("moved"), 0).unwrap();
    assert_eq!((size_of(&bench, one), size_of(&bench, two)), (1, 2));
    work.rename(below, name("one"), a, name("one"), 0).unwrap();
    assert_eq!(size_of(&bench, one), 1);
    work.rename(bench.root, name("a"), bench.root, name("b"), libc::RENAME_EXCHANGE)
        .unwrap();
    assert_eq!((size_of(&bench, one), size_of(&bench, two)), (1, 2));
    work.rename(a, name("one"), b, name("two"), libc::RENAME_EXCHANGE)
        .unwrap();
    assert_eq!((size_of(&bench, one), size_of(&bench, two)), (1, 2));
    assert_eq!(ino(&bench.lookup(b, "two").unwrap()), one);
    work.rename(b, name("two"), b, name("two"), 0).unwrap();
    assert_eq!(
        errno(work.rename(b, name("two"), a, name("one"), libc::RENAME_NOREPLACE)),
        libc::EEXIST
    );
    assert_eq!((size_of(&bench, one), size_of(&bench, two)), (1, 2));
    let made = file(&bench, below, "three", 3);
    assert_eq!(size_of(&bench, made), 3);
}

#[test]
fn a_file_with_several_names_is_found_by_any() {
    let bench = narrow();
    let work = &bench.work;
    let d = bench.mkdir(bench.root, "d");
    let linked = file(&bench, bench.root, "n0", 5);
    for number in 1..20 {
        let name = format!("n{number}");
        assert_eq!(ino(&work.link(linked, d, OsStr::new(&name)).unwrap()), linked);
    }
    assert_eq!(size_of(&bench, linked), 5);
    work.unlink(bench.root, OsStr::new("n0")).unwrap();
    for number in (2..20).rev() {
        work.unlink(d, OsStr::new(&format!("n{number}"))).unwrap();
    }
    // Which of its many names is left, only a lookup tells.
    assert_eq!(ino(&bench.lookup(d, "n1").unwrap()), linked);
    assert_eq!(size_of(&bench, linked), 5);
    work.rename(d, OsStr::new("n1"), bench.root, OsStr::new("last"), 0)
        .unwrap();
    assert_eq!(size_of(&bench, linked), 5);
}

/// Who has it open goes on with a file that has no name any more; its number, which the system gives
/// to the next file, leads to no other.
#[test]
fn a_removed_file_stays_itself_while_it_is_known() {
    let bench = narrow();
    let work = &bench.work;
    for round in 0..50 {
        let old = file(&bench, bench.root, "f", 3);
        let open = work.open(old, libc::O_RDWR).unwrap();
        if round % 2 == 0 {
            work.unlink(bench.root, OsStr::new("f")).unwrap();
        } else {
            file(&bench, bench.root, "g", 3);
            work.rename(bench.root, OsStr::new("g"), bench.root, OsStr::new("f"), 0)
                .unwrap();
        }
        let mode = SetAttr {
            mode: Some(0o600),
            ..SetAttr::default()
        };
        assert_eq!(work.setattr(old, None, mode).unwrap().attr.mode, 0o600);
        assert_eq!(size_of(&bench, old), 3);
        work.release(open.handle);
        if round % 2 == 1 {
            work.unlink(bench.root, OsStr::new("f")).unwrap();
        }
        let new = file(&bench, bench.root, "f", 9);
        assert_ne!(new, old);
        assert_eq!(size_of(&bench, new), 9);
        work.unlink(bench.root, OsStr::new("f")).unwrap();
        let gone = work.getattr(old, None);
        assert!(gone.is_err() || gone.unwrap().attr.size == 3);
        work.forget(old, u64::MAX);
        work.forget(new, u64::MAX);
    }
    let d = bench.mkdir(bench.root, "d");
    work.rmdir(bench.root, OsStr::new("d")).unwrap();
    assert_eq!(work.getattr(d, None).unwrap().attr.nlink, 0);
    assert!(work.lookup(d, OsStr::new("x")).is_err());
}

/// What was put behind the tree's back where an inode's name was is not that inode.
#[test]
fn another_file_of_the_same_name_is_not_taken_for_it() {
    let bench = narrow();
    let d = bench.mkdir(bench.root, "d");
    let f = file(&bench, d, "f", 4);
    lose_descriptors(&bench);
    let outside = bench.dir.path().join("outside");
    std::fs::rename(bench.path("d"), &outside).unwrap();
    std::os::unix::fs::symlink(&outside, bench.path("d")).unwrap();
    assert_eq!(errno(bench.work.getattr(f, None)), libc::ESTALE);
    assert_eq!(errno(bench.work.lookup(d, OsStr::new("f"))), libc::ESTALE);
    std::fs::remove_file(bench.path("d")).unwrap();
    std::fs::rename(&outside, bench.path("d")).unwrap();
    std::fs::rename(bench.path("d/f"), bench.path("d/g")).unwrap();
    std::fs::write(bench.path("d/f"), "another").unwrap();
    assert_eq!(errno(bench.work.getattr(f, None)), libc::ESTALE);
}

/// Folders move while other threads follow ways through them.
#[test]
fn a_way_is_not_lost_while_folders_move() {
    let bench = narrow();
    let work = &bench.work;
    let (a, b) = (bench.mkdir(bench.root, "a"), bench.mkdir(bench.root, "b"));
    let d = bench.mkdir(a, "d");
    let f = file(&bench, d, "f", 6);
    std::thread::scope(|scope| {
        let mover = scope.spawn(|| {
            for _ in 0..500 {
                work.rename(a, OsStr::new("d"), b, OsStr::new("e"), 0).unwrap();
                work.rename(b, OsStr::new("e"), a, OsStr::new("d"), 0).unwrap();
            }
        });
        while !mover.is_finished() {
            assert_eq!(work.getattr(f, None).unwrap().attr.size, 6);
            work.getattr(bench.root, None).unwrap();
        }
    });
}

/// A folder is found however deep it is, by a thread with an ordinary stack.
#[test]
fn a_deep_folder_is_found() {
    let bench = narrow();
    let mut at = bench.root;
    for _ in 0..2000 {
        at = bench.mkdir(at, "d");
    }
    let f = file(&bench, at, "f", 8);
    assert_eq!(size_of(&bench, f), 8);
    bench.work.kill(&bench.attempt);
    assert_eq!(bench.descriptors(), 0);
    let mut at = bench.path("");
    for _ in 0..2000 {
        // Whole, the path is longer than the system takes.
        let next = bench.dir.path().join("next");
        std::fs::rename(at.join("d"), &next).unwrap();
        std::fs::remove_dir_all(&at).unwrap();
        at = bench.dir.path().join("here");
        std::fs::rename(&next, &at).unwrap();
    }
}

/// Set in the process that `more_files_than_descriptors` starts.
const FEW: &str = "DISTCIFS_TEST_FEW_DESCRIPTORS";

/// A workspace may have more files than the daemon may have descriptors. In a process of its own, for
/// the limit is the whole process's.
#[test]
fn more_files_than_descriptors() {
    if std::env::var_os(FEW).is_none() {
        let test = std::env::current_exe().unwrap();
        let name = "tree::work::tests::ways::more_files_than_descriptors";
        let output = std::process::Command::new("sh")
            .args(["-c", "ulimit -n 64 && exec \"$0\" --exact \"$1\""])
            .args([test.as_os_str(), OsStr::new(name)])
            .env(FEW, "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let bench = Bench::new();
    let folders: Vec<Ino> = (0..20).map(|n| bench.mkdir(bench.root, &format!("d{n}"))).collect();
    let files: Vec<Ino> = (0..2000usize)
        .map(|n| file(&bench, folders[n % 20], &format!("f{n}"), n))
        .collect();
    for (n, folder) in folders.iter().enumerate() {
        let (old, new) = (format!("d{n}"), format!("e{n}"));
        bench
            .work
            .rename(bench.root, OsStr::new(&old), bench.root, OsStr::new(&new), 0)
            .unwrap();
        assert!(bench.work.getattr(*folder, None).is_ok());
    }
    for (size, ino) in files.iter().enumerate() {
        assert_eq!(bench.work.getattr(*ino, None).unwrap().attr.size, size as u64);
    }
    // Only what users hold open takes descriptors, and then the caller is told so.
    let mut open = Vec::new();
    let error = files
        .iter()
        .find_map(|ino| match bench.work.open(*ino, libc::O_RDONLY) {
            Ok(opened) => {
                open.push(opened.handle);
                None
            }
            Err(error) => Some(error),
        });
    assert_eq!(errno::<()>(Err(error.unwrap())), libc::EMFILE);
    assert!(open.len() > 20, "{}", open.len());
    bench.work.release(open.pop().unwrap());
    bench.work.release(open.pop().unwrap());
    assert_eq!(bench.work.getattr(files[1999], None).unwrap().attr.size, 1999);
}
