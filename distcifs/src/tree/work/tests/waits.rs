//! What may wait for a disk holds nobody up: shown by a gate that such work passes, and by no clock.

use std::ffi::OsString;
use std::future::Future;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::me;
use crate::backend::embedded::Embedded;
use crate::repository::names::Name;
use crate::repository::{Error, Repository, Result, Setup};
use crate::tree::requests::Tree;
use crate::tree::work::locks::standing;
use crate::tree::work::{LONG, Work};
use crate::tree::{Ino, SetAttr};

/// More than is done at once.
const SYNCS: usize = 20;

/// What it takes long to cut.
pub(super) const LARGE: usize = 20 << 20;

/// The top of the mount.
const TOP: Ino = Ino(1);

/// What work that may wait has to pass; open at first.
#[derive(Debug, Default)]
pub(in crate::tree::work) struct Gate {
    shut: Mutex<bool>,
    opened: Condvar,
    /// How often it was come to.
    pub(super) met: AtomicUsize,
}

impl Gate {
    pub(in crate::tree::work) fn pass(&self) {
        self.met.fetch_add(1, Ordering::SeqCst);
        let shut = self.shut.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.opened.wait_while(shut, |shut| *shut));
    }

    pub(super) fn set(&self, shut: bool) {
        *self.shut.lock().unwrap_or_else(PoisonError::into_inner) = shut;
        self.opened.notify_all();
    }
}

/// Opens the gate when a test ends, however it does: the runtime waits for those before it.
pub(super) struct Opens<'a>([&'a Gate; 2]);

impl<'a> Opens<'a> {
    /// Shuts those before all such work.
    pub(super) fn before(tree: &'a Tree) -> Opens<'a> {
        Opens::shut([&tree.work.off.data.gate, &tree.work.off.locks.gate])
    }

    /// Shuts those that are passed by what changes something, once it has begun.
    pub(super) fn within(tree: &'a Tree) -> Opens<'a> {
        Opens::shut([&tree.work.off.data.within, &tree.work.off.locks.within])
    }

    fn shut(gates: [&'a Gate; 2]) -> Opens<'a> {
        let gates = Opens(gates);
        gates.set(true);
        gates
    }

    fn set(&self, shut: bool) {
        self.0.iter().for_each(|gate| gate.set(shut));
    }

    /// How often they were come to.
    pub(super) fn met(&self) -> usize {
        self.0.iter().map(|gate| gate.met.load(Ordering::SeqCst)).sum()
    }
}

impl Drop for Opens<'_> {
    fn drop(&mut self) {
        self.set(false);
    }
}

/// A tree on a new repository, with a claim's folder; its inode.
pub(super) async fn tree(dir: &Path) -> (Tree, Ino) {
    let store = Arc::new(Embedded::open(&dir.join("store")).unwrap());
    let repository = Repository::open(Setup {
        coordination: store.clone(),
        contents: store,
        node: Name::new("here").unwrap(),
        attempts: dir.join("attempts"),
        store: "test".into(),
        coordinator: "test".into(),
        shared: false,
    });
    let tree = Tree::new(repository.await.unwrap(), Vec::new()).unwrap();
    std::fs::create_dir(dir.join("workspace")).unwrap();
    let root = tree.work.attach(&tree.work.begin(), &dir.join("workspace")).unwrap();
    (tree, root)
}

/// A file of so many bytes; its inode and handle.
pub(super) async fn file(tree: &Tree, root: Ino, name: &str, bytes: usize) -> (Ino, u64) {
    let (found, opened) = tree
        .create(me(), root, OsString::from(name), 0o644, libc::O_RDWR)
        .await
        .unwrap();
    let at = (found.attributes.attr.ino, opened.handle);
    let written = tree.write(me(), at, 0, Bytes::from(vec![7; bytes]), false).await;
    assert_eq!(written.unwrap() as usize, bytes);
    at
}

/// The answer that there is at once.
pub(super) fn at_once<T>(future: impl Future<Output = Result<T>>) -> Option<Result<T>> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}

pub(super) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

type Waiting<'a> = Pin<Box<dyn Future<Output = Result<u64>> + Send + 'a>>;

/// "No FUSE thread waits for a disk": a sync, a copy, a reservation and the cutting of a large file answer
/// later, and meanwhile everything else is answered.
#[test]
fn what_waits_for_a_disk_holds_nobody_up() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let (tree, root) = tree(dir.path()).await;
        let (one, first) = file(&tree, root, "one", 1000).await;
        let (two, second) = file(&tree, root, "two", LARGE).await;
        let (three, third) = file(&tree, root, "three", LARGE).await;
        let (four, _) = file(&tree, root, "four", LARGE).await;
        let (copy, fifth) = file(&tree, root, "copy", 0).await;
        let folder = tree.opendir(me(), root).await.unwrap().handle;
        let tree = &tree;
        let gate = Opens::before(tree);
        let cut = SetAttr {
            size: Some(0),
            ..SetAttr::default()
        };
        let mut waiting: Vec<Waiting<'_>> = Vec::new();
        waiting.push(Box::pin(async move {
            tree.copy_file_range(me(), one, first, 0, copy, fifth, 0, 1000).await
        }));
        waiting.push(Box::pin(async move {
            let done = tree.fallocate(me(), copy, fifth, 1 << 20, 4096, 0).await;
            done.map(|()| 0)
        }));
        waiting.push(Box::pin(async move {
            tree.setattr(me(), two, Some(second), cut)
                .await
                .map(|now| now.attr.size)
        }));
        waiting.push(Box::pin(async move {
            tree.setattr(me(), three, None, cut).await.map(|now| now.attr.size)
        }));
        waiting.push(Box::pin(async move {
            let opened = tree.open(me(), four, libc::O_WRONLY | libc::O_TRUNC).await?;
            Ok(tree.getattr(me(), four, Some(opened.handle)).await?.attr.size)
        }));
        waiting.push(Box::pin(
            async move { tree.fsyncdir(me(), root, folder).await.map(|()| 0) },
        ));
        for only_data in [true, false].repeat(SYNCS / 2) {
            waiting.push(Box::pin(async move {
                tree.fsync(me(), one, first, only_data).await.map(|()| 0)
            }));
        }
        for (place, one) in waiting.iter_mut().enumerate() {
            let answer = one.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(answer.is_pending(), "{place}: {answer:?}");
        }
        answers(tree, root, (one, first), (three, third)).await;
        gate.set(false);
        let mut done = Vec::new();
        for one in waiting {
            done.push(one.await.unwrap());
        }
        assert_eq!((done[0], done[2], done[3], done[4]), (1000, 0, 0, 0));
        let copied = tree.getattr(me(), copy, None).await.unwrap().attr;
        assert_eq!(copied.size, (1 << 20) + 4096);
        let data = tree.read(me(), copy, fifth, 990, 20).await.unwrap();
        assert_eq!(&data[..], [[7; 10], [0; 10]].concat());
    });
}

/// What everybody does all day long is answered at once.
async fn answers(tree: &Tree, root: Ino, small: (Ino, u64), large: (Ino, u64)) {
    let (one, first) = small;
    assert_eq!(at_once(tree.getattr(me(), one, None)).unwrap().unwrap().attr.size, 1000);
    assert_eq!(at_once(tree.read(me(), one, first, 0, 5)).unwrap().unwrap(), [7; 5][..]);
    let data = Bytes::from_static(b"new");
    assert_eq!(at_once(tree.write(me(), small, 0, data, false)).unwrap().unwrap(), 3);
    let size = SetAttr {
        size: Some(LARGE as u64 - 1),
        ..SetAttr::default()
    };
    let little = at_once(tree.setattr(me(), large.0, Some(large.1), size));
    assert_eq!(little.unwrap().unwrap().attr.size, LARGE as u64 - 1);
    let opened = at_once(tree.opendir(me(), root)).unwrap().unwrap();
    let names = at_once(tree.readdir(me(), root, opened.handle, 0, 100, true));
    assert_eq!(names.unwrap().unwrap().len(), 5 + 2);
    let jobs = tree.lookup(me(), TOP, "jobs".into()).await.unwrap();
    assert!(tree.getattr(me(), jobs.attributes.attr.ino, None).await.is_ok());
    let opened = tree.opendir(me(), TOP).await.unwrap();
    assert!(
        !tree
            .readdir(me(), TOP, opened.handle, 0, 100, true)
            .await
            .unwrap()
            .is_empty()
    );
}

/// "Who waits for the disk with all that he has holds up himself": the claims of one owner have a quarter of the turns,
/// so that others find one at once.
#[test]
fn one_owner_takes_no_turns_of_others() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let (tree, root) = tree(dir.path()).await;
        tree.work.attempt_of(root).unwrap().set_owner(1004);
        let one = file(&tree, root, "one", 1000).await;
        std::fs::create_dir(dir.path().join("other")).unwrap();
        let other = tree.work.begin();
        other.set_owner(1005);
        let other = tree.work.attach(&other, &dir.path().join("other")).unwrap();
        let two = file(&tree, other, "two", 1000).await;
        let tree = &tree;
        let gate = Opens::before(tree);
        let sync = |(ino, handle)| -> Waiting<'_> {
            Box::pin(async move { tree.fsync(me(), ino, handle, true).await.map(|()| 0) })
        };
        let mut waiting: Vec<_> = (0..SYNCS).map(|_| sync(one)).collect();
        waiting.push(sync(two));
        let left = |waiting: &mut [Waiting<'_>]| {
            for one in waiting {
                let answer = one.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                assert!(answer.is_pending(), "{answer:?}");
            }
            tree.work.off.data.places.turns.available_permits()
        };
        assert_eq!(left(&mut waiting[..SYNCS]), 12);
        assert_eq!(left(&mut waiting[SYNCS..]), 11);
        gate.set(false);
        for one in waiting {
            one.await.unwrap();
        }
    });
}

/// "Who removes a file waits for no sync": what waits for a lock alone has places that data takes none of.
#[test]
fn what_waits_for_a_lock_waits_for_no_sync() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let (tree, root) = tree(dir.path()).await;
        let (one, first) = file(&tree, root, "one", 1000).await;
        let (two, _) = file(&tree, root, "two", 1000).await;
        let held = tree.work.inode(two).unwrap();
        held.passed.lend();
        let gate = Opens([&tree.work.off.data.gate; 2]);
        gate.set(true);
        let tree = &tree;
        let mut waiting: Vec<Waiting<'_>> = Vec::new();
        for _ in 0..SYNCS {
            waiting.push(Box::pin(
                async move { tree.fsync(me(), one, first, true).await.map(|()| 0) },
            ));
        }
        for one in &mut waiting {
            let answer = one.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(answer.is_pending(), "{answer:?}");
        }
        tree.unlink(me(), root, "two".into()).await.unwrap();
        gate.set(false);
        for one in waiting {
            one.await.unwrap();
        }
    });
}

/// Who reads or writes a file that is being cut or copied to waits for that, as on any disk: so he does it where
/// waiting is no harm.
#[test]
fn what_touches_a_file_that_lasting_work_is_done_on_waits_apart() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let (tree, root) = tree(dir.path()).await;
        let (ino, handle) = file(&tree, root, "one", 1000).await;
        let (other, its) = file(&tree, root, "two", 1000).await;
        let _opens = Opens::before(&tree);
        let write = |at: (Ino, u64)| tree.write(me(), at, 0, Bytes::from_static(b"x"), false);
        {
            let open = tree.work.file(handle).unwrap();
            let _busy = open.busy();
            assert!(at_once(write((ino, handle))).is_none());
            assert!(at_once(tree.read(me(), ino, handle, 0, 1)).is_none());
            let cut = SetAttr {
                size: Some(1),
                ..SetAttr::default()
            };
            assert!(at_once(tree.setattr(me(), ino, None, cut)).is_none());
            assert!(at_once(write((other, its))).unwrap().is_ok());
        }
        assert!(at_once(write((ino, handle))).unwrap().is_ok());
    });
}

/// A defect in such work is an error of that request, and the next one is done.
#[test]
fn a_panic_of_work_that_waits_is_an_error() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let (tree, _) = tree(dir.path()).await;
        for _ in 0..SYNCS {
            let defect = |_: &Work| -> Result<()> { panic!("a defect of the test") };
            let done = tree.work.off(Ino(7), LONG, defect, |_, ()| ()).await;
            assert!(matches!(done, Err(Error::Io(_))), "{done:?}");
        }
        assert_eq!(tree.work.off(Ino(7), LONG, |_| Ok(7), |_, _| ()).await.unwrap(), 7);
    });
}

/// "No thread that reads requests waits for a lock that a user may hold": of a file that the kernel writes by itself,
/// as long as it does; and of a folder in which somebody waits for one. Everybody else is answered at once.
#[test]
fn what_a_user_may_hold_is_done_apart() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let (tree, root) = tree(dir.path()).await;
        let (one, _) = file(&tree, root, "one", 10).await;
        let (other, its) = file(&tree, root, "other", 10).await;
        let tree = &tree;
        let held = tree.work.inode(one).unwrap();
        let place = tree.work.place_of(one);
        assert!(place.ends_with(", file one"), "{place}");
        held.passed.lend();
        let gate = Opens::before(tree);
        let mode = SetAttr {
            mode: Some(0o600),
            ..SetAttr::default()
        };
        let mut waiting: Vec<Waiting<'_>> = vec![
            Box::pin(async move {
                tree.open(me(), one, libc::O_WRONLY | libc::O_TRUNC)
                    .await
                    .map(|now| now.handle)
            }),
            Box::pin(async move { tree.setattr(me(), one, None, mode).await.map(|now| now.attr.size) }),
            Box::pin(async move { tree.link(me(), one, root, "more".into()).await.map(|_| 0) }),
            Box::pin(async move {
                tree.rename(me(), root, "one".into(), root, "moved".into(), 0)
                    .await
                    .map(|()| 0)
            }),
        ];
        for (place, one) in waiting.iter_mut().enumerate() {
            let answer = one.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(answer.is_pending(), "{place}: {answer:?}");
        }
        assert!(at_once(tree.getattr(me(), one, None)).unwrap().is_ok());
        assert!(
            at_once(tree.open(me(), other, libc::O_WRONLY | libc::O_TRUNC))
                .unwrap()
                .is_ok()
        );
        assert!(
            at_once(tree.write(me(), (other, its), 0, Bytes::from_static(b"x"), false))
                .unwrap()
                .is_ok()
        );
        assert!(at_once(tree.mkdir(me(), root, "new".into(), 0o755)).unwrap().is_ok());
        gate.set(false);
        for one in waiting {
            one.await.unwrap();
        }
        held.passed.give_back();
        assert!(at_once(tree.setattr(me(), one, None, mode)).unwrap().is_ok());
        let folder = tree.work.inode(root).unwrap();
        gate.set(true);
        let stands = folder.passed.lock.mark();
        assert!(at_once(tree.lookup(me(), root, "other".into())).is_none());
        assert!(at_once(tree.unlink(me(), root, "other".into())).is_none());
        drop(stands);
        assert!(at_once(tree.lookup(me(), root, "other".into())).unwrap().is_ok());
    });
}

/// "A claim ends, whoever stands in its folders": that leads nowhere any more, and brings nothing back.
#[test]
fn who_stands_in_a_folder_keeps_no_attempt_from_ending() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let (tree, root) = tree(dir.path()).await;
        let (file, _) = file(&tree, root, "one", 10).await;
        let attempt = tree.work.attempt_of(file).unwrap();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let (told, heard) = std::sync::mpsc::channel();
        let inside = attempt.clone();
        let thread = std::thread::spawn(move || {
            standing(|| {
                let _gate = inside.enter().unwrap();
                told.send(()).unwrap();
                assert!(wait.recv().is_err());
            });
        });
        heard.recv().unwrap();
        tree.work.kill(&attempt);
        assert!(!attempt.is_alive() && attempt.is_held_up());
        drop(go);
        thread.join().unwrap();
        assert!(!attempt.is_held_up());
    });
}
