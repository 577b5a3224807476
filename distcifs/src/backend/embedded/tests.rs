//! Tests of the embedded store: the suite of all stores, reopening, and what its own files do.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use bytes::Bytes;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

use super::{Embedded, OpenError};
use crate::storage::contents::SEALED;
use crate::storage::{Appended, Change, Commit, Contents, Coordination, Digest, Error, Event, Object, Op, conformance};

fn store() -> (TempDir, Embedded) {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(&dir.path().join("store")).unwrap();
    (dir, store)
}

#[tokio::test]
async fn coordination_conforms() {
    let (_dir, store) = store();
    conformance::all_coordination(&store).await;
}

#[tokio::test]
async fn contents_conform() {
    let (_dir, store) = store();
    conformance::all_contents(&store).await;
}

fn create(path: &str, data: impl Into<Bytes>) -> Op {
    Op::Create {
        path: path.to_owned(),
        data: data.into(),
        ephemeral: false,
    }
}

fn set(path: &str, data: impl Into<Bytes>) -> Op {
    Op::Set {
        path: path.to_owned(),
        data: data.into(),
        version: None,
    }
}

/// What is ephemeral ends with the process; all else is there, and what is made later is later.
#[tokio::test]
async fn what_was_written_is_there_when_opened_again() {
    let (dir, store) = store();
    let path = dir.path().join("store");
    let (job, claim) = ("/job", "/job/claim");
    let ephemeral = Op::Create {
        path: claim.to_owned(),
        data: Bytes::new(),
        ephemeral: true,
    };
    let ops = vec![create(job, "1"), ephemeral, set(job, "2"), set("/", "root")];
    assert_eq!(store.commit(ops).await, Ok(Commit::Done));
    let (record, console) = (Object::Record("jobs".into()), Object::Console("console.a.1".into()));
    store
        .update(&record, None, vec![("a".to_owned(), Some("1".into()))])
        .await
        .unwrap();
    store.append(&console, 0, "line\n".into()).await.unwrap();
    store.append(&console, SEALED, Bytes::new()).await.unwrap();
    let blob = Object::Chunk(Digest::of(b"blob"));
    store.put(&blob, "blob".into()).await.unwrap();
    let before = (store.get(job).await.unwrap().unwrap(), *store.session().borrow());
    drop(store);

    let store = Embedded::open(&path).unwrap();
    assert_eq!(store.get(job).await.unwrap(), Some(before.0.clone()));
    assert_eq!(store.get("/").await.unwrap().unwrap().data, "root");
    assert_eq!(store.get(claim).await.unwrap(), None);
    assert_ne!(*store.session().borrow(), before.1);
    store.commit(vec![create("/later", "")]).await.unwrap();
    assert!(store.get("/later").await.unwrap().unwrap().created > before.0.created);
    let page = store.query(&record, "", "", 9).await.unwrap();
    assert_eq!((page.revision, &page.entries[0].1[..]), (1, &b"1"[..]));
    let late = store.append(&console, 6, "late".into()).await.unwrap();
    assert_eq!(
        late,
        Appended::Mismatch {
            length: 5,
            sequence: SEALED
        }
    );
    assert!(!store.put(&blob, "blob".into()).await.unwrap());
}

/// Every reason has words of its own.
#[test]
fn says_why_it_cannot_be_opened() {
    let (dir, store) = store();
    let path = dir.path().join("store");
    let said = |path: &Path| Embedded::open(path).err().unwrap().to_string();
    let wanted = format!("is mounted already by process {}; unmount it first", std::process::id());
    assert!(said(&path).ends_with(&wanted), "{}", said(&path));
    drop(store);
    drop(Embedded::open(&path).unwrap());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o700);

    fs::write(path.join("format"), "distcifs embedded store, format 9\n").unwrap();
    assert!(said(&path).contains("made by another version"), "{}", said(&path));
    assert!(said(&path.join("lock")).contains("not a directory"));
    assert!(said(&path.join("lock/below")).contains("not a directory"));
    assert!(said(dir.path()).contains("holds other files (store) and no store"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was made there");
    assert!(said(Path::new("/proc/none")).contains("can't be opened"));
}

/// An index that something else has written to is told, not met with a panic.
#[test]
fn a_damaged_index_is_told() {
    let (dir, store) = store();
    let path = dir.path().join("store");
    drop(store);
    let index = path.join("index.redb");
    let whole = fs::read(&index).unwrap();
    for damage in [&b"no database"[..], &whole[..whole.len() / 2], &vec![7; 1 << 20]] {
        fs::write(&index, damage).unwrap();
        let error = Embedded::open(&path).err().unwrap();
        assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    }
    fs::write(&index, whole).unwrap();
    drop(Embedded::open(&path).unwrap());
}

/// When the index is lost under an open store, the first writer is told that nobody knows, the
/// others that nothing happens any more; nobody waits for ever, and memory is not ahead.
#[tokio::test]
async fn a_lost_index_stops_all_writing() {
    let (_dir, store) = store();
    let record = Object::Record("jobs".into());
    store.commit(vec![create("/a", "")]).await.unwrap();
    let change = |i| vec![(format!("k{i:02}"), Some(Bytes::from(vec![b'x'; 1 << 20])))];
    for i in 0..40 {
        store.update(&record, None, change(i)).await.unwrap();
    }
    File::options()
        .write(true)
        .open(store.dir().join("index.redb"))
        .unwrap()
        .set_len(0)
        .unwrap();
    let mut ends = Vec::new();
    for i in (0..40).chain(0..40) {
        ends.push(store.update(&record, None, change(i)).await);
    }
    let failed = ends.iter().position(Result::is_err).unwrap();
    assert!(
        ends[failed].as_ref().is_err_and(Error::is_indeterminate),
        "{:?}",
        ends[failed]
    );
    let down = |end: &Result<_, Error>| matches!(end, Err(Error::Unavailable { .. }));
    assert!(ends[failed + 1..].iter().all(down));
    let late = store.commit(vec![set("/a", "late"), create("/b", "")]).await;
    assert!(matches!(late, Err(Error::Unavailable { .. })), "{late:?}");
    assert_eq!(store.get("/a").await.unwrap().unwrap().version, 0);
    assert_eq!(store.get("/b").await.unwrap(), None);
}

/// A blob whose bytes have changed on disk is never handed out whole, and is mended by a put.
#[tokio::test]
async fn a_damaged_blob_is_told() {
    let (_dir, store) = store();
    let blob = Object::Chunk(Digest::of(b"blob"));
    store.put(&blob, "blob".into()).await.unwrap();
    let name = Digest::of(b"blob").to_string();
    let file = store.dir().join("objects/chunk").join(&name[..2]).join(name);
    fs::remove_file(&file).unwrap();
    fs::write(&file, "blot").unwrap();
    let read = store.read(&blob, 0, 100).await;
    assert!(matches!(read, Err(Error::Damaged { .. })), "{read:?}");
    fs::write(&file, "bl").unwrap();
    assert!(
        store.put(&blob, "blob".into()).await.unwrap(),
        "a short one is written again"
    );
    assert_eq!(store.read(&blob, 0, 100).await.unwrap().unwrap(), "blob");
}

/// More consoles than descriptors, from several threads: each line is where its guard says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_consoles_at_once() {
    let (_dir, store) = store();
    let tasks = (0..400).map(|i| {
        let store = store.clone();
        tokio::spawn(async move {
            let object = Object::Console(format!("console.job{}.{i}.1.1.0", i % 7));
            let mut sequence = 0;
            for line in 0..20 {
                let line = format!("{i}:{line}\n");
                match store.append(&object, sequence, line.into()).await.unwrap() {
                    Appended::Done { sequence: next, .. } => sequence = next,
                    other => panic!("{other:?}"),
                }
                tokio::task::yield_now().await;
            }
            let wanted: String = (0..20).map(|line| format!("{i}:{line}\n")).collect();
            Contents::sync(&store, vec![object.clone()]).await.unwrap();
            assert_eq!(store.read(&object, 0, 1 << 20).await.unwrap().unwrap(), wanted);
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
}

/// A small file system of its own, gone when dropped.
struct Small(TempDir);

impl Small {
    /// `None` without the right to mount one.
    fn mount(bytes: u64) -> Option<Small> {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={bytes}");
        let flags = MsFlags::empty();
        match mount(Some("none"), dir.path(), Some("tmpfs"), flags, Some(options.as_str())) {
            Ok(()) => Some(Small(dir)),
            Err(errno) => {
                eprintln!("SKIPPED, a full disk is not tested: mounting a tmpfs: {errno}");
                assert!(!nix::unistd::geteuid().is_root(), "root must be able to test this");
                None
            }
        }
    }

    /// Takes all the room there is, but for `leave` bytes.
    fn fill(&self, leave: u64) {
        let free = super::files::free_bytes(self.0.path());
        let bytes = vec![7; usize::try_from(free.saturating_sub(leave)).unwrap()];
        fs::write(self.0.path().join("ballast"), bytes).unwrap();
    }

    fn relieve(&self) {
        fs::remove_file(self.0.path().join("ballast")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        umount2(self.0.path(), MntFlags::MNT_DETACH).unwrap();
    }
}

/// What every full disk must look like: commits fail as full and are not seen, what was there is
/// there, and everything goes on when there is room.
async fn fills_and_recovers(small: &Small, store: &Embedded) {
    let (record, full) = (Object::Record("jobs".into()), |e: Error| {
        matches!(e, Error::Full { .. })
    });
    store.commit(vec![create("/a", "kept")]).await.unwrap();
    let mut watch = store.watch("/a").await.unwrap();
    small.fill(0);
    let mut made = 0;
    for i in 0..2000 {
        let ops = vec![
            set("/a", vec![b'x'; 4000]),
            create(&format!("/a/{i}"), vec![b'x'; 4000]),
        ];
        match store.commit(ops).await {
            Ok(_) => made += 1,
            Err(error) => {
                assert!(full(error.clone()), "{error}");
                break;
            }
        }
    }
    assert!(made < 2000, "the disk was to be full");
    let seen = store.get("/a").await.unwrap().unwrap();
    assert_eq!(
        (seen.version, store.children("/a").await.unwrap().len()),
        (made, made as usize)
    );
    let mut told = BTreeSet::new();
    while let Ok(Event::Changed { path, change }) = watch.events.try_recv() {
        match change {
            Change::Created => told.insert(path),
            Change::Deleted => told.remove(&path),
            Change::Set => false,
        };
    }
    assert_eq!(told.len(), made as usize, "of what was taken back nothing is left");
    let large = Some(vec![1; 1 << 20].into());
    assert!(
        store
            .update(&record, None, vec![("a".to_owned(), large)])
            .await
            .is_err_and(full)
    );
    assert_eq!(store.query(&record, "", "", 9).await.unwrap().revision, 0);
    let blob = vec![3; 1 << 20];
    let name = Object::Chunk(Digest::of(&blob));
    assert!(store.put(&name, blob.into()).await.is_err_and(full));
    assert_eq!(store.read(&name, 0, 1).await.unwrap(), None);
    let console = Object::Console("console.a.1".into());
    assert!(
        store
            .append(&console, 0, vec![b'x'; 1 << 20].into())
            .await
            .is_err_and(full)
    );
    assert_eq!(store.read(&console, 0, 1).await.unwrap(), None);
    small.relieve();
    store.commit(vec![set("/a", "again"), create("/b", "")]).await.unwrap();
    store
        .update(&record, Some(0), vec![("a".to_owned(), None)])
        .await
        .unwrap();
    assert!(matches!(
        store.append(&console, 0, "x".into()).await,
        Ok(Appended::Done { .. })
    ));
    assert_eq!(store.get("/a").await.unwrap().unwrap().version, made + 1);
}

#[tokio::test]
async fn a_full_disk_is_told_and_got_over() {
    let Some(small) = Small::mount(48 << 20) else {
        return;
    };
    for reserve in [super::disk::RESERVE_BYTES, 0] {
        let dir = small.0.path().join(format!("reserve-{reserve}"));
        let store = Embedded::open_with(&dir, reserve).unwrap();
        fills_and_recovers(&small, &store).await;
        let seen = store.get("/a").await.unwrap();
        drop(store);
        let store = Embedded::open(&dir).unwrap();
        assert_eq!(store.get("/a").await.unwrap(), seen);
    }
}

/// What removes may use the last room, or a full disk would stay full.
#[tokio::test]
async fn a_full_disk_can_be_emptied() {
    let Some(small) = Small::mount(48 << 20) else {
        return;
    };
    let store = Embedded::open(&small.0.path().join("store")).unwrap();
    let record = Object::Record("jobs".into());
    store.commit(vec![create("/a", "")]).await.unwrap();
    let changes = vec![("a".to_owned(), Some(Bytes::new()))];
    store.update(&record, None, changes.clone()).await.unwrap();
    small.fill(2 << 20);
    let full = |e: Error| matches!(e, Error::Full { .. });
    assert!(store.commit(vec![create("/b", "")]).await.is_err_and(full));
    assert!(store.update(&record, None, changes).await.is_err_and(full));
    let delete = Op::Delete {
        path: "/a".to_owned(),
        version: None,
    };
    assert_eq!(store.commit(vec![delete]).await, Ok(Commit::Done));
    store.update(&record, None, vec![("a".to_owned(), None)]).await.unwrap();
    store.remove(&record).await.unwrap();
    small.relieve();
    store.commit(vec![create("/b", "")]).await.unwrap();
}

/// The end of a claim may use a part of the reserve, or who died would keep a ticket for as long as the
/// disk is full; what makes or changes something else may not.
#[tokio::test]
async fn claims_end_on_a_full_disk() {
    let Some(small) = Small::mount(48 << 20) else {
        return;
    };
    let store = Embedded::open(&small.0.path().join("store")).unwrap();
    let claim = |path: &str| Op::Create {
        path: path.to_owned(),
        data: Bytes::new(),
        ephemeral: true,
    };
    let end = |path: &str| Op::Delete {
        path: path.to_owned(),
        version: None,
    };
    store.commit(vec![create("/a", "open")]).await.unwrap();
    store
        .commit(vec![set("/a", "claimed"), claim("/a/claim")])
        .await
        .unwrap();
    small.fill(2 << 20);
    let full = |e: Error| matches!(e, Error::Full { .. });
    assert!(store.commit(vec![set("/a", "changed")]).await.is_err_and(full));
    assert!(
        store
            .commit(vec![create("/b", ""), claim("/b/claim")])
            .await
            .is_err_and(full)
    );
    let ended = store.commit(vec![set("/a", "ended"), end("/a/claim")]).await;
    assert_eq!(ended, Ok(Commit::Done));
    assert_eq!(store.get("/a").await.unwrap().unwrap().data, "ended");
}

/// Bytes of a console that a full disk took half of are not there, on disk neither.
#[test]
fn a_short_append_is_cut_off_again() {
    let Some(small) = Small::mount(4 << 20) else {
        return;
    };
    fs::create_dir(small.0.path().join("consoles")).unwrap();
    let consoles = super::consoles::Consoles::new(small.0.path());
    consoles.append("console.a.1", 0, b"line\n", |_| {}).unwrap();
    small.fill(64 << 10);
    let error = consoles
        .append("console.a.1", 6, &vec![b'x'; 1 << 20], |_| panic!())
        .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    let file = small.0.path().join("consoles/a/console.a.1");
    assert_eq!(fs::read(file).unwrap(), b"line\n");
    let mut told = false;
    let next = consoles
        .append("console.a.1", 6, b"more\n", |named| told = !named)
        .unwrap();
    assert_eq!(
        (next, told),
        (
            Appended::Done {
                length: 10,
                sequence: 11
            },
            true
        )
    );
}
