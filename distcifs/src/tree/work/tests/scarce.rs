//! A disk that runs full of files which the kernel writes: who else is refused, and what is found of them.

use std::fs::{File, OpenOptions};
use std::sync::Mutex;
use std::sync::mpsc::channel;

use super::room::Small;
use super::*;
use crate::tree::Opened;
use crate::tree::work::scarce::{Cuts, Full};

const MIB: u64 = 1 << 20;

/// A file that the kernel has got to write, open.
fn passed(work: &Work, parent: Ino, name: &str) -> Opened {
    let (_, opened) = work
        .create(me(), parent, OsStr::new(name), 0o644, libc::O_RDWR)
        .unwrap();
    opened.passed.as_ref().unwrap().mark(opened.backing.as_ref().unwrap());
    opened
}

/// Writes a MiB at a time until that is refused; how much is free then, MiB.
fn fill(small: &Small, work: &Work, parent: Ino, name: &str) -> u64 {
    let (_, opened) = work
        .create(me(), parent, OsStr::new(name), 0o644, libc::O_RDWR)
        .unwrap();
    let block = vec![1; MIB as usize];
    for at in 0.. {
        if let Err(error) = work.write(opened.handle, at * MIB, &block) {
            assert_eq!(errno::<()>(Err(error)), libc::ENOSPC);
            break;
        }
    }
    work.release(opened.handle);
    drop(opened);
    let (free, _) = small.free();
    work.unlink(parent, OsStr::new(name)).unwrap();
    free / MIB
}

/// "While there are such files, other writes are refused from there on": what is below the mark is for nobody who is
/// asked, but for small claims.
#[test]
fn who_is_asked_for_room_stops_at_the_mark() {
    let Some(small) = Small::mount("size=80m") else { return };
    let (work, root) = (&small.0.work, small.1);
    work.pass_from(160 * MIB);
    let before = fill(&small, work, root, "before");
    assert!((19..30).contains(&before), "{before} MiB: the reserve alone");
    let opened = passed(work, root, "passed");
    let while_passed = fill(&small, work, root, "beside");
    assert!((39..50).contains(&while_passed), "{while_passed} MiB: the mark");
    work.release(opened.handle);
    drop(opened);
    let other = work.begin();
    let other_root = work.attach(&other, &small.0.path("small")).unwrap();
    work.kill(&small.0.attempt);
    let after = fill(&small, work, other_root, "after");
    assert!((19..30).contains(&after), "{after} MiB: it is over");
}

/// "Also where it was mapped, closed and unlinked": it is found while somebody may write it, and cut when its claim
/// is over.
#[test]
fn a_file_that_nothing_leads_to_is_found_and_cut() {
    let bench = Bench::new();
    // Who has it open for writing stands for a mapping: both keep the system from granting a lease.
    let hide = |name: &str, bytes: u64| {
        let opened = passed(&bench.work, bench.root, name);
        let writer = OpenOptions::new().write(true).open(bench.path(name)).unwrap();
        writer.set_len(bytes).unwrap();
        bench.work.release(opened.handle);
        drop(opened);
        bench.work.unlink(bench.root, OsStr::new(name)).unwrap();
        writer
    };
    let small = hide("small", 8 * MIB);
    assert_eq!(bench.work.hidden_count(), 0, "small ones are not asked for");
    let mut writers: Vec<_> = (0..63).map(|n| hide(&format!("f{n}"), 8 * MIB)).collect();
    assert_eq!(bench.work.hidden_count(), 63);
    bench.work.look_at_hidden();
    assert_eq!(bench.work.hidden_count(), 63);
    drop(writers.pop());
    bench.work.look_at_hidden();
    assert_eq!(bench.work.hidden_count(), 62, "nobody writes it any more");
    writers.extend([hide("one", 8 * MIB), hide("two", 8 * MIB)]);
    assert_eq!(bench.work.hidden_count(), 64);
    let more = hide("more", 8 * MIB);
    assert_eq!(bench.work.hidden_count(), 64);
    assert_eq!(more.metadata().unwrap().len(), 0, "one too many is cut at once");
    bench.work.kill(&bench.attempt);
    bench.work.look_at_hidden();
    assert_eq!(bench.work.hidden_count(), 0);
    for writer in &writers {
        assert_eq!(writer.metadata().unwrap().len(), 0);
    }
    assert_eq!(small.metadata().unwrap().len(), 8 * MIB);
}

/// The same of a file that the kernel has forgotten: it has its name, so another task may go on in its folder, and the
/// end of its claim alone cuts nothing.
#[test]
fn a_file_that_the_kernel_has_forgotten_is_found_and_left() {
    let bench = Bench::new();
    let name = OsStr::new("mapped");
    let opened = passed(&bench.work, bench.root, "mapped");
    let writer = OpenOptions::new().write(true).open(bench.path("mapped")).unwrap();
    writer.set_len(32 * MIB).unwrap();
    bench.work.release(opened.handle);
    drop(opened);
    let found = ino(&bench.work.lookup(bench.root, name).unwrap());
    bench.work.forget(found, 2);
    assert_eq!(bench.work.hidden_count(), 1);
    bench.work.look_at_hidden();
    assert_eq!(bench.work.hidden_count(), 1);
    bench.work.kill(&bench.attempt);
    bench.work.look_at_hidden();
    assert_eq!(bench.work.hidden_count(), 0);
    assert_eq!(writer.metadata().unwrap().len(), 32 * MIB);
}

/// "One file that somebody holds keeps no other from being cut": not those of its owner, however often the disk is
/// looked at; the largest go first.
#[test]
fn a_file_that_can_not_be_cut_keeps_no_other_from_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: usize| {
        let path = dir.path().join(name);
        std::fs::write(&path, vec![1; bytes]).unwrap();
        Arc::new(OpenOptions::new().write(true).open(path).unwrap())
    };
    let (held, small, large) = (file("held", 9 << 20), file("small", 1 << 20), file("large", 4 << 20));
    let full = |file: &Arc<File>, is_held| Full {
        owner: 7,
        is_held,
        file: file.clone(),
    };
    // Also where an open of the same file is met twice.
    let all = || {
        vec![
            full(&small, true),
            full(&held, true),
            full(&held, true),
            full(&large, true),
        ]
    };
    let (go, stands) = channel::<()>();
    let (cut, told) = channel();
    let stands = Arc::new(Mutex::new(stands));
    let number = held.metadata().unwrap().ino();
    let by = move |file: &File| {
        let meta = file.metadata().unwrap();
        cut.send(meta.len()).unwrap();
        if meta.ino() == number {
            assert!(stands.lock().unwrap().recv().is_err());
        }
        file.set_len(0).unwrap();
    };
    let cuts = Cuts::within(Duration::ZERO);
    for round in 0..8 {
        cuts.all(all(), by.clone());
        if round == 0 {
            let mut sizes = [(); 3].map(|()| told.recv_timeout(Duration::from_secs(60)).unwrap());
            sizes.sort_unstable();
            assert_eq!(sizes, [1 << 20, 4 << 20, 9 << 20]);
        }
    }
    // The four places of the owner are free but for one.
    let more = file("more", 2 << 20);
    while more.metadata().unwrap().len() > 0 {
        cuts.all(vec![full(&more, true)], by.clone());
        std::thread::yield_now();
    }
    assert_eq!(held.metadata().unwrap().len(), 9 << 20);
    drop(go);
    while held.metadata().unwrap().len() > 0 {
        std::thread::yield_now();
    }
    // One after the other: those that nobody can hold, and the largest of the rest.
    let names = [(1, true), (2, true), (3, false), (5, false)];
    let files = names.map(|(mib, is_held)| full(&file(&mib.to_string(), mib << 20), is_held));
    let order = cuts.order(files.into());
    let order: Vec<_> = order
        .iter()
        .map(|(_, file)| file.metadata().unwrap().len() >> 20)
        .collect();
    assert_eq!(order, [5, 3, 2, 1]);
}
