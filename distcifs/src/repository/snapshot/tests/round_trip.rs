//! Folders captured, restored and captured again.

use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::mkdirat;
use nix::unistd::symlinkat;

use super::*;
use crate::repository::attempts::remove_tree;

#[tokio::test]
async fn the_empty_folder_costs_nothing() {
    let (store, captured) = {
        let (dir, store) = (TempDir::new().unwrap(), memory());
        let captured = capture(store.clone(), dir.path(), None).await.unwrap();
        (store, captured)
    };
    assert_eq!(captured.digest, Snapshot::empty());
    let there = TempDir::new().unwrap();
    restore(store.clone(), Snapshot::empty(), there.path(), Some((1234, 1235)))
        .await
        .unwrap();
    let meta = fs::metadata(there.path()).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o755, 1234, 1235));
    assert_eq!(
        (store.puts.load(Ordering::SeqCst), store.reads.load(Ordering::SeqCst)),
        (0, 0)
    );
    assert!(store.durable.lock().unwrap().is_empty());
}

/// "the same bytes, modes, times and links"
#[tokio::test]
async fn names_modes_times_and_links_come_back() {
    let dir = TempDir::new().unwrap();
    let root = dir.path();
    for name in [&b"\xff\xfe\x80 \n"[..], &[b'x'; 255], b"-rf", b"\\", b"...", b"a\tb"] {
        fs::write(root.join(OsStr::from_bytes(name)), name).unwrap();
    }
    for mode in [0o4755, 0o2755, 0o1777, 0o000, 0o444, 0o777] {
        let path = root.join(format!("mode{mode:o}"));
        fs::write(&path, noise(2000, mode)).unwrap();
        set_mode(&path, mode.try_into().unwrap());
    }
    fs::create_dir_all(root.join("one/two/empty")).unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::write(root.join("binary"), noise(100_000, 1)).unwrap();
    for (name, target) in [
        ("dangling", "nowhere"),
        ("absolute", "/etc/passwd"),
        ("loop", "loop"),
        ("up", ".."),
    ] {
        symlink(target, root.join("one").join(name)).unwrap();
        set_time(&root.join("one").join(name), 1_000_000_000, 123_456_789);
    }
    fs::hard_link(root.join("binary"), root.join("one/two/linked")).unwrap();
    fs::hard_link(root.join("binary"), root.join("one/linked")).unwrap();
    fs::hard_link(root.join("one/loop"), root.join("one/two/loop-too")).unwrap();
    nix::unistd::chown(&root.join("empty"), Some(1000.into()), Some(2000.into())).unwrap();
    set_time(&root.join("binary"), -5, 999_999_999);
    set_time(&root.join("empty"), 4_000_000_000, 1);
    set_mode(&root.join("one"), 0o1700);
    set_mode(&root.join("one/two"), 0o555);
    set_time(&root.join("one/two"), 12, 34);
    set_time(&root.join("one"), 56, 78);
    set_time(root, 1_234_567_890, 987_654_321);
    let (_, captured) = round_trip(root).await;
    assert_eq!(captured.files, 6 + 6 + 1 + 3);
    assert!(captured.skipped.is_empty());
}

#[tokio::test]
async fn large_and_sparse_files_come_back() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("large"), noise(20 << 20, 2)).unwrap();
    fs::write(dir.path().join("zeros"), vec![0; 9 << 20]).unwrap();
    let sparse = File::create(dir.path().join("sparse")).unwrap();
    sparse.write_all_at(b"first", 4 << 20).unwrap();
    sparse.write_all_at(&noise(10_000, 3), 200 << 20).unwrap();
    sparse.set_len(300 << 20).unwrap();
    File::create(dir.path().join("hole")).unwrap().set_len(1 << 30).unwrap();
    let (store, captured) = round_trip(dir.path()).await;
    assert!(
        captured.hashed_bytes < 30 << 20,
        "{} bytes hashed",
        captured.hashed_bytes
    );
    let there = TempDir::new().unwrap();
    restore(store, captured.digest, there.path(), None).await.unwrap();
    for (name, blocks) in [("sparse", 64), ("hole", 0)] {
        let meta = fs::metadata(there.path().join(name)).unwrap();
        assert!(meta.blocks() <= blocks, "{name} takes {} blocks", meta.blocks());
    }
}

/// Chunks of the large kind, those of a file of 256 MiB, most of which is a hole.
#[tokio::test]
async fn files_with_large_chunks_come_back() {
    let dir = TempDir::new().unwrap();
    let file = File::create(dir.path().join("large")).unwrap();
    let bytes = noise(40 << 20, 7);
    file.write_all_at(&bytes, 0).unwrap();
    file.set_len(256 << 20).unwrap();
    let (store, captured) = round_trip(dir.path()).await;
    let chunks = store
        .objects()
        .into_iter()
        .filter(|object| matches!(object, Object::Chunk(_)));
    let mut lengths: Vec<usize> = chunks.map(|object| store.blob(&object).unwrap().len()).collect();
    lengths.sort_unstable();
    assert_eq!(lengths.iter().sum::<usize>(), bytes.len());
    assert!(lengths[1..].iter().all(|length| *length >= 1 << 20), "{lengths:?}");
    assert!(lengths.last() > Some(&(4 << 20)), "{lengths:?}");
    let browser = Browser::new(store);
    let folder = browser.folder(captured.digest).await.unwrap();
    let entry = folder.get(b"large").unwrap();
    for (i, piece) in bytes.chunks(1 << 20).enumerate() {
        let read = browser.read_file(entry, (i as u64) << 20, piece.len()).await.unwrap();
        assert!(read == piece, "MiB {i} differs");
    }
}

#[tokio::test]
async fn deep_folders_have_a_bound() {
    let (dir, there, store) = (TempDir::new().unwrap(), TempDir::new().unwrap(), memory());
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    let mut at = open(dir.path(), flags, Mode::empty()).unwrap();
    for _ in 0..DEPTH_MAX {
        mkdirat(&at, "d", Mode::S_IRWXU).unwrap();
        at = openat(&at, "d", flags, Mode::empty()).unwrap();
    }
    symlinkat("deep", &at, "f").unwrap();
    let captured = capture(store.clone(), dir.path(), None).await.unwrap();
    let manifest = restore(store.clone(), captured.digest, there.path(), None)
        .await
        .unwrap();
    let again = capture(store.clone(), there.path(), Some(&manifest)).await.unwrap();
    assert_eq!(again.digest, captured.digest);
    mkdirat(&at, "e", Mode::S_IRWXU).unwrap();
    let error = capture(store.clone(), dir.path(), None).await.unwrap_err();
    assert!(matches!(error, SnapshotError::TooLarge { .. }), "{error}");
    for deep in [dir, there] {
        remove_tree(&deep.keep());
    }
    let mut digest = captured.digest;
    for _ in 0..3 {
        let entry = Entry {
            name: b"d"[..].into(),
            meta: Meta::default(),
            kind: Kind::Folder(digest),
            link: None,
        };
        digest = put(
            &store,
            &Folder {
                entries: vec![entry],
                ..Folder::empty()
            },
        );
    }
    let there = TempDir::new().unwrap();
    let error = restore(store.clone(), digest, there.path(), None).await.unwrap_err();
    assert!(matches!(error, SnapshotError::TooLarge { .. }), "{error}");
}

/// Stores a listing made by hand.
pub(super) fn put(store: &Memory, folder: &Folder) -> Digest {
    let objects = folder.encode().unwrap();
    for (digest, bytes) in &objects {
        store.store(&Object::Tree(*digest), bytes.clone());
    }
    objects.last().unwrap().0
}

#[tokio::test]
async fn what_is_known_is_not_read_again() {
    let (dir, store) = (TempDir::new().unwrap(), memory());
    for i in 0..20 {
        fs::write(dir.path().join(format!("f{i}")), noise(5000, i)).unwrap();
    }
    settle().await;
    let first = capture(store.clone(), dir.path(), None).await.unwrap();
    assert_eq!(
        (first.files, first.bytes, first.hashed_bytes, first.manifest.len()),
        (20, 100_000, 100_000, 20)
    );
    let moved = dir.path().with_extension("moved");
    fs::rename(dir.path(), &moved).unwrap();
    let second = capture(store.clone(), &moved, Some(&first.manifest)).await.unwrap();
    assert_eq!(
        (second.digest, second.hashed_bytes, second.new_bytes),
        (first.digest, 0, 0)
    );
    // The same size and time of modification: the change time tells.
    let meta = fs::metadata(moved.join("f3")).unwrap();
    fs::write(moved.join("f3"), noise(5000, 99)).unwrap();
    set_time(&moved.join("f3"), meta.mtime(), meta.mtime_nsec());
    let third = capture(store.clone(), &moved, Some(&second.manifest)).await.unwrap();
    assert_eq!(third.hashed_bytes, 5000);
    assert_ne!(third.digest, second.digest);
    // Too new to be trusted, it is read again, and found again; on a slow machine it is not that new.
    let fourth = capture(store, &moved, Some(&third.manifest)).await.unwrap();
    let expected = if third.manifest.len() == 20 { 0 } else { 5000 };
    assert_eq!(
        (fourth.digest, fourth.hashed_bytes, fourth.new_bytes),
        (third.digest, expected, 0)
    );
    fs::remove_dir_all(&moved).unwrap();
}

#[tokio::test]
async fn a_write_right_after_a_restore_is_seen() {
    let (dir, store) = (TempDir::new().unwrap(), memory());
    fs::write(dir.path().join("f"), noise(5000, 1)).unwrap();
    let first = capture(store.clone(), dir.path(), None).await.unwrap();
    for seed in 10..30 {
        let there = TempDir::new().unwrap();
        let manifest = restore(store.clone(), first.digest, there.path(), None).await.unwrap();
        assert_eq!(manifest.len(), 1);
        let meta = fs::metadata(there.path().join("f")).unwrap();
        fs::write(there.path().join("f"), noise(5000, seed)).unwrap();
        set_time(&there.path().join("f"), meta.mtime(), meta.mtime_nsec());
        let again = capture(store.clone(), there.path(), Some(&manifest)).await.unwrap();
        assert_eq!(again.hashed_bytes, 5000);
    }
}

#[tokio::test]
async fn fifos_and_sockets_are_named_and_skipped() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("sub")).unwrap();
    for i in 0..25 {
        nix::unistd::mkfifo(&dir.path().join(format!("sub/fifo{i:02}")), Mode::S_IRWXU).unwrap();
    }
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    fs::write(dir.path().join("file"), "x").unwrap();
    let captured = capture(memory(), dir.path(), None).await.unwrap();
    assert_eq!(
        (captured.files, captured.skipped_count, captured.skipped.len()),
        (1, 26, 20)
    );
    assert_eq!(captured.skipped[..2], ["socket".to_owned(), "sub/fifo00".to_owned()]);
}

#[tokio::test]
async fn names_outside_of_the_folder_are_no_links() {
    let outer = TempDir::new().unwrap();
    let dir = outer.path().join("dir");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("alone"), noise(3000, 1)).unwrap();
    fs::write(dir.join("pair1"), noise(3000, 2)).unwrap();
    fs::hard_link(dir.join("pair1"), dir.join("pair2")).unwrap();
    fs::hard_link(dir.join("pair1"), outer.path().join("out1")).unwrap();
    fs::hard_link(dir.join("alone"), outer.path().join("out2")).unwrap();
    let store = memory();
    let captured = capture(store.clone(), &dir, None).await.unwrap();
    assert_eq!((captured.files, captured.hashed_bytes), (3, 6000));
    let folder = Folder::load(&*store, captured.digest).await.unwrap();
    assert_eq!(folder.get(b"alone").unwrap().link, None);
    assert_eq!(folder.get(b"pair2").unwrap().link, Some(Link { group: 0, count: 2 }));
}

#[tokio::test]
async fn owners_are_given_and_attributes_kept() {
    let (dir, store) = (TempDir::new().unwrap(), memory());
    fs::create_dir(dir.path().join("d")).unwrap();
    let file = File::create(dir.path().join("d/f")).unwrap();
    symlink("f", dir.path().join("d/l")).unwrap();
    let xattrs = vec![
        (b"user.colour"[..].into(), b"green"[..].into()),
        (b"user.empty"[..].into(), b""[..].into()),
    ];
    xattr::write(std::os::fd::AsFd::as_fd(&file), &xattrs).unwrap();
    set_mode(&dir.path().join("d/f"), 0o4711);
    let captured = capture(store.clone(), dir.path(), None).await.unwrap();
    let there = TempDir::new().unwrap();
    restore(store, captured.digest, there.path(), Some((1234, 1235)))
        .await
        .unwrap();
    for (path, (seen, _)) in seen(there.path()) {
        assert_eq!(seen.owner, (1234, 1235), "{}", path.display());
    }
    let file = File::open(there.path().join("d/f")).unwrap();
    assert_eq!(xattr::read(std::os::fd::AsFd::as_fd(&file)).unwrap(), xattrs);
    assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o4711);
}

/// A disk may take more attributes than a listing does: that is said, and nothing is left out.
#[tokio::test]
async fn attributes_beyond_a_listing_are_refused() {
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else {
        return;
    };
    let file = File::create(dir.path().join("f")).unwrap();
    let one = |name: &[u8]| (name.into(), vec![b'x'; 2500].into());
    let xattrs = vec![one(b"user.a"), one(b"user.b")];
    xattr::write(std::os::fd::AsFd::as_fd(&file), &xattrs).unwrap();
    if matches!(xattr::read(std::os::fd::AsFd::as_fd(&file)), Ok(none) if none.is_empty()) {
        return;
    }
    let refused = capture(memory(), dir.path(), None).await.unwrap_err();
    assert!(
        matches!(&refused, SnapshotError::TooLarge { place, .. } if place == "f"),
        "{refused}"
    );
}

/// A folder with nothing in it keeps its mode and attributes; one that is as it was made costs nothing.
#[tokio::test]
async fn a_bare_folder_keeps_its_mode_and_attributes() {
    for (mode, xattrs) in [(0o755, false), (0o700, false), (0o755, true)] {
        let (dir, store) = (TempDir::new().unwrap(), memory());
        set_mode(dir.path(), mode);
        let root = File::open(dir.path()).unwrap();
        let attributes = vec![(b"user.a"[..].into(), b"b"[..].into())];
        if xattrs {
            xattr::write(std::os::fd::AsFd::as_fd(&root), &attributes).unwrap();
        }
        let captured = capture(store.clone(), dir.path(), None).await.unwrap();
        let untouched = mode == 0o755 && !xattrs;
        assert_eq!(captured.digest == Snapshot::empty(), untouched);
        assert_eq!(store.blobs.lock().unwrap().is_empty(), untouched);
        let there = TempDir::new().unwrap();
        restore(store, captured.digest, there.path(), None).await.unwrap();
        let root = File::open(there.path()).unwrap();
        assert_eq!(root.metadata().unwrap().mode() & 0o7777, mode);
        assert_eq!(
            xattr::read(std::os::fd::AsFd::as_fd(&root)).unwrap().len(),
            usize::from(xattrs)
        );
    }
}

#[tokio::test]
async fn missing_and_damaged_objects_are_named() {
    let (dir, store) = (TempDir::new().unwrap(), memory());
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::write(dir.path().join("sub/file"), noise(3000, 1)).unwrap();
    let captured = capture(store.clone(), dir.path(), None).await.unwrap();
    let chunk = Object::Chunk(Digest::of(&noise(3000, 1)));
    store
        .blobs
        .lock()
        .unwrap()
        .insert(chunk.clone(), Bytes::from(noise(3000, 2)));
    let there = TempDir::new().unwrap();
    let error = restore(store.clone(), captured.digest, there.path(), None)
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with(&format!("sub/file: {chunk} is damaged")), "{text}");
    store.forget(&chunk);
    let there = TempDir::new().unwrap();
    let error = restore(store, captured.digest, there.path(), None).await.unwrap_err();
    assert!(matches!(&error, SnapshotError::Missing { place, object } if place == "sub/file" && *object == chunk));
    assert!(matches!(Error::from(error), Error::Io(_)));
}

#[tokio::test]
async fn a_full_store_is_said_to_be_full() {
    let dir = TempDir::new().unwrap();
    for i in 0..50 {
        fs::write(dir.path().join(format!("f{i}")), noise(50_000, i)).unwrap();
    }
    let store = Arc::new(Memory {
        room: Some(10),
        ..Memory::default()
    });
    let error = capture(store.clone(), dir.path(), None).await.unwrap_err();
    assert!(matches!(Error::from(error), Error::Full(_)));
    assert!(store.durable.lock().unwrap().is_empty());
    let error = capture(store, &dir.path().join("nowhere"), None).await.unwrap_err();
    assert!(matches!(
        Error::from(error),
        Error::System {
            errno: libc::ENOENT,
            ..
        }
    ));
}

/// A listing of many parts, and two captures at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_of_many_entries_is_cut_into_parts() {
    let dir = TempDir::new().unwrap();
    for i in 0..3000 {
        fs::write(dir.path().join(format!("file{i}")), noise(300, i)).unwrap();
    }
    let store = memory();
    let (one, two) = tokio::join!(
        capture(store.clone(), dir.path(), None),
        capture(store.clone(), dir.path(), None)
    );
    assert_eq!(one.unwrap().digest, two.unwrap().digest);
    assert!(store.objects().len() > 3);
    round_trip(dir.path()).await;
}

/// What a random folder is made of.
#[derive(Debug, Clone)]
enum Made {
    File {
        length: usize,
        hole: u64,
        mode: u32,
        time: (i64, i64),
    },
    Folder(u32),
    Symlink(String),
    Link(usize),
}

fn made() -> impl Strategy<Value = Made> {
    prop_oneof![
        3 => (0..70_000usize, 0..3u64, 0..0o10000u32, (-10_000_000_000..10_000_000_000i64, 0..1_000_000_000i64))
            .prop_map(|(length, hole, mode, time)| Made::File { length, hole, mode, time }),
        2 => (0..0o10000u32).prop_map(Made::Folder),
        1 => "[a-z./]{1,20}".prop_map(Made::Symlink),
        1 => any::<usize>().prop_map(Made::Link),
    ]
}

/// Makes it below one of the folders that are there.
fn make(root: &Path, plan: &[(usize, Made)]) {
    let (mut folders, mut files) = (vec![root.to_owned()], Vec::<PathBuf>::new());
    let mut modes = Vec::new();
    for (i, (place, made)) in plan.iter().enumerate() {
        let path = folders[place % folders.len()].join(format!("n{i}"));
        match made {
            Made::File {
                length,
                hole,
                mode,
                time,
            } => {
                let file = File::create(&path).unwrap();
                file.write_all_at(&noise(*length, i as u64), hole << 16).unwrap();
                file.set_len((hole << 17) + *length as u64).unwrap();
                set_mode(&path, *mode);
                set_time(&path, time.0, time.1);
                files.push(path);
            }
            Made::Folder(mode) => {
                fs::create_dir(&path).unwrap();
                modes.push((path.clone(), *mode));
                folders.push(path);
            }
            Made::Symlink(target) => symlink(target, &path).unwrap(),
            Made::Link(_) if files.is_empty() => {}
            Made::Link(which) => fs::hard_link(&files[which % files.len()], &path).unwrap(),
        }
    }
    for (path, mode) in modes {
        set_mode(&path, mode);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_folder_comes_back(plan in prop::collection::vec((any::<usize>(), made()), 1..25)) {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("never-empty"), "").unwrap();
        make(dir.path(), &plan);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(round_trip(dir.path()));
    }
}

/// "Bytes written to the workspace after the commit began may or may not be included."
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_meanwhile_does_no_harm() {
    let dir = TempDir::new().unwrap();
    let (root, over) = (dir.path().to_owned(), Arc::new(AtomicU64::new(0)));
    let ended = over.clone();
    let writer = std::thread::spawn(move || {
        let mut turn = 0;
        while ended.load(Ordering::SeqCst) == 0 {
            turn += 1;
            let path = root.join(format!("file{}", turn % 7));
            fs::write(&path, noise(turn * 997 % 600_000, 1)).unwrap();
            File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_len(turn as u64 * 31 % 400_000)
                .unwrap();
            fs::create_dir_all(root.join("sub/sub")).unwrap();
            fs::rename(&path, root.join("sub/sub/moved")).unwrap();
            fs::remove_dir_all(root.join("sub")).unwrap();
            symlink("/etc", root.join("sub")).unwrap();
            fs::remove_file(root.join("sub")).unwrap();
            fs::write(root.join(format!("kept{}", turn % 5)), noise(300_000, 2)).unwrap();
        }
    });
    let store = memory();
    let mut manifest = Manifest::default();
    for _ in 0..30 {
        let captured = capture(store.clone(), dir.path(), Some(&manifest)).await.unwrap();
        let there = TempDir::new().unwrap();
        restore(store.clone(), captured.digest, there.path(), None)
            .await
            .unwrap();
        manifest = captured.manifest;
    }
    over.store(1, Ordering::SeqCst);
    writer.join().unwrap();
    let last = capture(store.clone(), dir.path(), Some(&manifest)).await.unwrap();
    let afresh = capture(store, dir.path(), None).await.unwrap();
    assert_eq!(last.digest, afresh.digest);
}

#[tokio::test]
async fn a_change_in_a_large_file_sends_little() {
    let (dir, store) = (TempDir::new().unwrap(), memory());
    let mut bytes = noise(20 << 20, 5);
    fs::write(dir.path().join("large"), &bytes).unwrap();
    capture(store.clone(), dir.path(), None).await.unwrap();
    bytes.splice(10 << 20..10 << 20, *b"inserted");
    fs::write(dir.path().join("large"), &bytes).unwrap();
    let again = capture(store, dir.path(), None).await.unwrap();
    assert!(again.new_bytes < 9 << 20, "{} bytes are new", again.new_bytes);
}
