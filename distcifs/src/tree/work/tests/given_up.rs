//! Calls of which whoever asked was told that they failed: nothing is done behind his back.

use std::ffi::OsString;
use std::fmt::Debug;
use std::fs::Permissions;
use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;

use super::me;
use super::waits::{LARGE, Opens, at_once, file, tree};
use crate::repository::deadline::Deadline;
use crate::repository::{Error, Result};
use crate::tree::requests::Tree;
use crate::tree::work::LONG;
use crate::tree::{Caller, Ino, Invalidation, SetAttr};

/// Places of one owner.
const PLACES: usize = 4;

fn size(size: usize) -> SetAttr {
    SetAttr {
        size: Some(size as u64),
        ..SetAttr::default()
    }
}

/// Lets the time of a call pass that has come to one of these gates.
async fn times_out<T: Debug>(gates: &Opens<'_>, call: impl Future<Output = Result<T>>) {
    let mut call = pin!(call);
    let before = gates.met();
    while gates.met() == before {
        assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        std::thread::yield_now();
    }
    // A moment more: the clock of timers counts whole milliseconds.
    tokio::time::advance(LONG + Duration::from_secs(1)).await;
    let refused = call.await;
    assert!(matches!(refused, Err(Error::TimedOut(_))), "{refused:?}");
}

/// Waits until no call is under way.
async fn all_back(tree: &Tree) {
    for turns in [&tree.work.off.data, &tree.work.off.locks] {
        let mut places = Vec::new();
        for _ in 0..PLACES {
            let place = turns
                .places
                .owners
                .place(0, Deadline::after(LONG), || "a test".to_owned());
            places.push(place.await.unwrap());
        }
    }
}

fn refused<T: Debug>(answer: Option<Result<T>>) {
    assert!(matches!(answer, Some(Err(Error::Busy(_)))), "{answer:?}");
}

/// "A cut of which somebody was told that it failed takes nothing that is written afterwards": nor does anything else
/// that changes bytes.
#[tokio::test]
async fn a_cut_that_was_given_up_before_it_began_is_not_done() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, root) = tree(dir.path()).await;
    let (one, first) = file(&tree, root, "one", LARGE).await;
    let (two, second) = file(&tree, root, "two", LARGE).await;
    tokio::time::pause();
    let gates = Opens::before(&tree);
    times_out(&gates, tree.open(me(), one, libc::O_WRONLY | libc::O_TRUNC)).await;
    times_out(&gates, tree.setattr(me(), one, Some(first), size(0))).await;
    times_out(&gates, tree.copy_file_range(me(), two, second, 0, one, first, 1, 1000)).await;
    let hole = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    times_out(&gates, tree.fallocate(me(), one, first, 0, 8192, hole)).await;
    let new = Bytes::from_static(b"new");
    assert_eq!(
        at_once(tree.write(me(), (one, first), 0, new, false)).unwrap().unwrap(),
        3
    );
    drop(gates);
    all_back(&tree).await;
    let mut kept = vec![7; LARGE];
    kept[..3].copy_from_slice(b"new");
    assert!(
        std::fs::read(dir.path().join("workspace/one")).unwrap() == kept,
        "it was cut"
    );
}

/// The same of names, and of whoever goes without waiting for the end of the time.
#[tokio::test]
async fn a_name_is_not_removed_behind_the_back_of_whoever_went() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, root) = tree(dir.path()).await;
    for name in ["one", "two", "three"] {
        file(&tree, root, name, 10).await;
    }
    let folder = tree.work.inode(root).unwrap();
    {
        let gates = Opens::before(&tree);
        let stands = folder.passed.lock.mark();
        assert!(at_once(tree.unlink(me(), root, "one".into())).is_none());
        let name = |name: &str| OsString::from(name);
        assert!(at_once(tree.rename(me(), root, name("two"), root, name("three"), 0)).is_none());
        assert!(at_once(tree.mkdir(me(), root, name("four"), 0o755)).is_none());
        drop((stands, gates));
    }
    all_back(&tree).await;
    let mut names: Vec<_> = std::fs::read_dir(dir.path().join("workspace")).unwrap().collect();
    assert_eq!(names.len(), 3, "{names:?}");
    names.clear();
    at_once(tree.unlink(me(), root, "one".into())).unwrap().unwrap();
}

/// "What stands in the system can't be stopped": until it has come back nobody writes what it may take away, and the
/// kernel is told then.
#[tokio::test]
async fn nobody_changes_what_a_cut_that_was_given_up_may_still_take() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, root) = tree(dir.path()).await;
    let mut told = tree.invalidations().unwrap();
    let (one, first) = file(&tree, root, "one", LARGE).await;
    let (two, second) = file(&tree, root, "two", 10).await;
    tokio::time::pause();
    let gates = Opens::within(&tree);
    times_out(&gates, tree.setattr(me(), one, Some(first), size(0))).await;
    let new = || Bytes::from_static(b"new");
    refused(at_once(tree.write(me(), (one, first), 0, new(), false)));
    for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_RDONLY | libc::O_TRUNC] {
        refused(at_once(tree.open(me(), one, flags)));
    }
    refused(Some(tree.setattr(me(), one, None, size(1)).await));
    refused(Some(tree.fallocate(me(), one, first, 0, 1, 0).await));
    refused(Some(tree.copy_file_range(me(), two, second, 0, one, first, 0, 1).await));
    let read = at_once(tree.open(me(), one, libc::O_RDONLY)).unwrap().unwrap();
    assert_eq!(tree.read(me(), one, read.handle, 0, 2).await.unwrap(), [7; 2][..]);
    assert_eq!(
        at_once(tree.write(me(), (two, second), 0, new(), false))
            .unwrap()
            .unwrap(),
        3
    );
    drop(gates);
    all_back(&tree).await;
    assert_eq!(tree.getattr(me(), one, None).await.unwrap().attr.size, 0);
    assert_eq!(
        at_once(tree.write(me(), (one, first), 0, new(), false))
            .unwrap()
            .unwrap(),
        3
    );
    let mut known = Vec::new();
    while let Ok(invalidation) = told.try_recv() {
        known.push(invalidation);
    }
    assert!(known.iter().any(|news| is_of(news, one)), "{known:?}");
}

fn is_of(news: &Invalidation, ino: Ino) -> bool {
    matches!(news, Invalidation::Node(told) if *told == ino)
}

/// The same of a name that is being removed: nothing comes under it meanwhile, and nobody writes what it names.
#[tokio::test]
async fn nothing_comes_under_a_name_that_may_still_be_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, root) = tree(dir.path()).await;
    let (one, first) = file(&tree, root, "one", 10).await;
    file(&tree, root, "two", 10).await;
    let below = tree.mkdir(me(), root, "below".into(), 0o755).await.unwrap();
    let below = below.attributes.attr.ino;
    let folder = tree.work.inode(root).unwrap();
    tokio::time::pause();
    let gates = Opens::within(&tree);
    {
        let _stands = folder.passed.lock.mark();
        times_out(&gates, tree.unlink(me(), root, "one".into())).await;
    }
    let name = |name: &str| OsString::from(name);
    refused(at_once(tree.rename(me(), root, name("two"), root, name("one"), 0)));
    refused(at_once(tree.rename(me(), root, name("two"), below, name("one"), 0)));
    refused(at_once(tree.unlink(me(), root, name("two"))));
    refused(at_once(tree.mkdir(me(), root, name("three"), 0o755)));
    refused(at_once(tree.create(me(), root, name("four"), 0o644, libc::O_RDWR)));
    refused(at_once(tree.open(me(), one, libc::O_WRONLY)));
    refused(at_once(tree.write(
        me(),
        (one, first),
        0,
        Bytes::from_static(b"x"),
        false,
    )));
    assert!(at_once(tree.mkdir(me(), below, name("other"), 0o755)).unwrap().is_ok());
    drop(gates);
    all_back(&tree).await;
    assert!(!dir.path().join("workspace/one").exists());
    assert!(at_once(tree.mkdir(me(), root, name("three"), 0o755)).unwrap().is_ok());
}

/// "Until it has come back, nothing else is changed there": nor if the kernel has forgotten the folder meanwhile, as it
/// does whenever it lacks memory. No thread that reads requests takes the lock of that one, and it goes in the end.
#[tokio::test]
async fn a_folder_in_which_a_call_stands_is_not_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, root) = tree(dir.path()).await;
    let below = tree.mkdir(me(), root, "below".into(), 0o755).await.unwrap();
    let below = below.attributes.attr.ino;
    let folder = tree.work.inode(below).unwrap();
    tokio::time::pause();
    let gates = Opens::within(&tree);
    {
        let _stands = folder.passed.lock.mark();
        times_out(&gates, tree.mkdir(me(), below, "late".into(), 0o755)).await;
    }
    drop(folder);
    tree.forget(below, 1);
    let again = at_once(tree.lookup(me(), root, "below".into())).unwrap().unwrap();
    let again = again.attributes.attr.ino;
    let apart = Opens::before(&tree);
    assert!(at_once(tree.lookup(me(), again, "other".into())).is_none());
    drop(apart);
    refused(at_once(tree.mkdir(me(), again, "other".into(), 0o755)));
    tree.forget(again, 1);
    assert!(tree.work.inode(again).is_ok());
    // Others end all the time meanwhile, and take the table from nobody.
    assert!(!tree.work.table().has_left());
    drop(gates);
    all_back(&tree).await;
    assert!(dir.path().join("workspace/below/late").exists());
    assert!(
        matches!(tree.work.inode(again), Err(Error::Stale(_))),
        "it stays for ever"
    );
}

/// "Until it has come back": what is known here of the names is right by then.
#[tokio::test]
async fn a_move_has_not_come_back_before_the_names_are_known() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, root) = tree(dir.path()).await;
    let (one, _) = file(&tree, root, "one", 10).await;
    let (folder, moved) = (tree.work.inode(root).unwrap(), tree.work.inode(one).unwrap());
    tokio::time::pause();
    let gates = Opens::within(&tree);
    {
        let _stands = folder.passed.lock.mark();
        times_out(&gates, tree.rename(me(), root, "one".into(), root, "two".into(), 0)).await;
    }
    {
        let _way = moved.way.lock().unwrap();
        drop(gates);
        while !dir.path().join("workspace/two").exists() {
            std::thread::yield_now();
        }
        for _ in 0..1000 {
            std::thread::yield_now();
            assert!(folder.passed.lock.is_late(), "others may change the names");
        }
    }
    all_back(&tree).await;
    assert!(!folder.passed.lock.is_late());
}

/// "The kernel is told then", of names as well: it would open what has gone.
#[tokio::test]
async fn the_kernel_forgets_names_that_were_changed_late() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, root) = tree(dir.path()).await;
    let mut told = tree.invalidations().unwrap();
    for name in ["one", "two"] {
        file(&tree, root, name, 10).await;
    }
    tree.mkdir(me(), root, "below".into(), 0o755).await.unwrap();
    let folder = tree.work.inode(root).unwrap();
    tokio::time::pause();
    let gates = Opens::within(&tree);
    {
        let _stands = folder.passed.lock.mark();
        times_out(&gates, tree.rename(me(), root, "one".into(), root, "three".into(), 0)).await;
    }
    drop(gates);
    all_back(&tree).await;
    let gates = Opens::within(&tree);
    {
        let _stands = folder.passed.lock.mark();
        times_out(&gates, tree.unlink(me(), root, "two".into())).await;
    }
    drop(gates);
    all_back(&tree).await;
    let gates = Opens::within(&tree);
    {
        let _stands = folder.passed.lock.mark();
        times_out(&gates, tree.rmdir(me(), root, "below".into())).await;
    }
    drop(gates);
    all_back(&tree).await;
    let (mut names, mut is_folder_told) = (Vec::new(), false);
    while let Ok(news) = told.try_recv() {
        is_folder_told |= is_of(&news, root);
        if let Invalidation::Name { parent, name } = news {
            assert_eq!(parent, root);
            names.push(name);
        }
    }
    assert_eq!(names, ["one", "three", "two", "below"]);
    assert!(is_folder_told);
}

/// Two names of one file are moved by nobody behind whose back: meanwhile they may have become those of two.
#[tokio::test]
async fn a_move_of_two_names_of_one_file_is_a_change() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, root) = tree(dir.path()).await;
    let (one, _) = file(&tree, root, "one", 10).await;
    tree.link(me(), one, root, "two".into()).await.unwrap();
    let folder = tree.work.inode(root).unwrap();
    tokio::time::pause();
    let gates = Opens::within(&tree);
    {
        let _stands = folder.passed.lock.mark();
        times_out(&gates, tree.rename(me(), root, "one".into(), root, "two".into(), 0)).await;
    }
    refused(at_once(tree.unlink(me(), root, "two".into())));
    drop(gates);
    all_back(&tree).await;
    at_once(tree.unlink(me(), root, "two".into())).unwrap().unwrap();
    assert!(dir.path().join("workspace/one").exists());
}

/// "A write by anybody but root takes the set-user-id bit": of bytes that come when nobody waits for them any more, too.
#[tokio::test]
async fn no_bytes_come_late_into_a_file_with_set_id_bits() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, root) = tree(dir.path()).await;
    let (one, first) = file(&tree, root, "one", LARGE).await;
    let (two, second) = file(&tree, root, "two", LARGE).await;
    let held = tree.work.inode(one).unwrap();
    let path = dir.path().join("workspace/one");
    let caller = Caller { uid: 1000, ..me() };
    tokio::time::pause();
    for call in 0..6 {
        std::fs::set_permissions(&path, Permissions::from_mode(0o6777)).unwrap();
        let gates = Opens::within(&tree);
        {
            let _stands = held.passed.lock.mark();
            match call {
                0 => {
                    let data = Bytes::from_static(b"new");
                    times_out(&gates, tree.write(caller, (one, first), 0, data, true)).await;
                }
                1 => {
                    let hole = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                    times_out(&gates, tree.fallocate(caller, one, first, 0, 8192, hole)).await;
                }
                2 => times_out(&gates, tree.copy_file_range(caller, two, second, 9, one, first, 0, 9)).await,
                3 => times_out(&gates, tree.setattr(caller, one, Some(first), size(1))).await,
                4 => times_out(&gates, tree.setattr(caller, one, None, size(1))).await,
                _ => times_out(&gates, tree.open(caller, one, libc::O_WRONLY | libc::O_TRUNC)).await,
            }
        }
        drop(gates);
        all_back(&tree).await;
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode, 0o777, "call {call}");
        assert!(std::fs::read(&path).unwrap() == vec![7; LARGE], "call {call}");
    }
}

/// "As on any disk": who is refused to open a file that is to be emptied takes nothing from it, as of a program that
/// runs.
#[tokio::test]
async fn an_open_that_is_refused_takes_no_set_id_bits() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, root) = tree(dir.path()).await;
    let path = dir.path().join("workspace/program");
    std::fs::copy("/bin/sleep", &path).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o4777)).unwrap();
    let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
    let caller = Caller { uid: 1000, ..me() };
    let found = tree.lookup(caller, root, "program".into()).await.unwrap();
    let open = || tree.open(caller, found.attributes.attr.ino, libc::O_WRONLY | libc::O_TRUNC);
    let mut runs = std::process::Command::new(&path).arg("3600").spawn().unwrap();
    let refused = open().await;
    let is_running = runs.try_wait().unwrap().is_none();
    runs.kill().unwrap();
    runs.wait().unwrap();
    let busy = |error: &Error| {
        matches!(
            error,
            Error::System {
                errno: libc::ETXTBSY,
                ..
            }
        )
    };
    assert!(is_running && refused.as_ref().is_err_and(busy), "{refused:?}");
    assert_eq!(mode(), 0o4777);
    open().await.unwrap();
    assert_eq!(mode(), 0o777);
}

/// A call that is answered in time leaves nothing behind.
#[tokio::test]
async fn a_call_that_is_answered_refuses_nothing_later() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, root) = tree(dir.path()).await;
    let (one, first) = file(&tree, root, "one", LARGE).await;
    for bytes in [0, 5, 0] {
        tree.setattr(me(), one, Some(first), size(bytes)).await.unwrap();
        tree.fallocate(me(), one, first, 0, 4096, 0).await.unwrap();
    }
    assert!(!tree.work.inode(one).unwrap().passed.lock.is_late());
    let data = Bytes::from_static(b"x");
    assert_eq!(
        at_once(tree.write(me(), (one, first), 0, data, false))
            .unwrap()
            .unwrap(),
        1
    );
}
