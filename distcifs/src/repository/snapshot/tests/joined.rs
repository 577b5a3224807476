//! Merging, browsing, and naming all objects.

use super::round_trip::put;
use super::*;

/// A folder of these files; `a=b` makes `a` a hard link to `b`.
async fn captured(store: &Arc<Memory>, files: &[&str]) -> Digest {
    let dir = TempDir::new().unwrap();
    for file in files {
        let (name, target) = file.split_once('=').unwrap_or((file, ""));
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match target {
            "" => fs::write(&path, file.repeat(300)).unwrap(),
            _ => fs::hard_link(dir.path().join(target), &path).unwrap(),
        }
    }
    capture(store.clone(), dir.path(), None).await.unwrap().digest
}

async fn restored(store: &Arc<Memory>, digest: Digest) -> BTreeMap<PathBuf, (Seen, PathBuf)> {
    let dir = TempDir::new().unwrap();
    restore(store.clone(), digest, dir.path(), None).await.unwrap();
    seen(dir.path())
}

#[tokio::test]
async fn the_empty_snapshot_merges_without_asking() {
    let store = memory();
    let (empty, other) = (Snapshot::empty(), Digest::of(b"never stored"));
    for (base, over) in [(empty, other), (other, empty), (other, other)] {
        assert_eq!(merge(store.clone(), base, over).await.unwrap(), other);
    }
    assert_eq!(merge(store.clone(), empty, empty).await.unwrap(), empty);
    assert_eq!(store.reads.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_merge_is_the_union_and_links_stay_apart() {
    let store = memory();
    let base = captured(
        &store,
        &[
            "both",
            "dir/base",
            "dir/linked=both",
            "thing/inside",
            "deep/x/y",
            "only",
        ],
    )
    .await;
    let over = captured(
        &store,
        &[
            "first",
            "dir/over",
            "dir/two=first",
            "thing",
            "deep/x/z",
            "new/l1",
            "new/l2=new/l1",
        ],
    )
    .await;
    let merged = merge(store.clone(), base, over).await.unwrap();
    let found = restored(&store, merged).await;
    let names: Vec<_> = found.keys().filter_map(|path| path.to_str()).collect();
    let expected = [
        "",
        "both",
        "deep",
        "deep/x",
        "deep/x/y",
        "deep/x/z",
        "dir",
        "dir/base",
        "dir/linked",
        "dir/over",
        "dir/two",
        "first",
        "new",
        "new/l1",
        "new/l2",
        "only",
        "thing",
    ];
    assert_eq!(names, expected);
    let same = |path: &str| found[Path::new(path)].1.to_str().unwrap().to_owned();
    assert_eq!(
        (same("dir/linked"), same("dir/two"), same("new/l2")),
        ("both".into(), "dir/two".into(), "new/l1".into())
    );
    assert_eq!(same("first"), "dir/two");
    assert_eq!(found[Path::new("both")].0.links, 2);
    assert_eq!(found[Path::new("thing")].0.bytes, "thing".repeat(300).as_bytes());
    assert_eq!(*store.durable.lock().unwrap(), store.objects().into_iter().collect());
}

#[tokio::test]
async fn files_are_read_in_place() {
    let (dir, store) = (TempDir::new().unwrap(), memory());
    let mut bytes = noise(9 << 20, 1);
    bytes[2 << 20..3 << 20].fill(0);
    let file = File::create(dir.path().join("file")).unwrap();
    file.write_all_at(&bytes[..2 << 20], 0).unwrap();
    file.write_all_at(&bytes[3 << 20..], 3 << 20).unwrap();
    fs::write(dir.path().join("small"), "small").unwrap();
    let digest = capture(store.clone(), dir.path(), None).await.unwrap().digest;
    let browser = Browser::new(store.clone());
    let folder = browser.folder(digest).await.unwrap();
    let entry = folder.get(b"file").unwrap();
    for (offset, length) in [
        (0, 10),
        (2 << 20, 100),
        ((2 << 20) - 5, 10),
        ((3 << 20) - 5, 4 << 20),
        (9 << 20, 1),
        (5 << 20, 8 << 20),
        (0, 0),
    ] {
        let end = (offset + length).min(bytes.len());
        let read = browser.read_file(entry, offset as u64, length).await.unwrap();
        assert!(read == bytes[offset..end], "{offset} {length}: {} bytes", read.len());
    }
    assert_eq!(browser.read_file(entry, u64::MAX, 1).await.unwrap().len(), 0);
    assert_eq!(
        browser.read_file(entry, 0, usize::MAX).await.unwrap().len(),
        VALUE_BYTES_MAX
    );
    let reads = store.reads.load(Ordering::SeqCst);
    let small = browser.folder(digest).await.unwrap().get(b"small").unwrap().clone();
    assert_eq!(browser.read_file(&small, 1, 3).await.unwrap()[..], *b"mal");
    assert_eq!(browser.read_file(entry, 77, 1000).await.unwrap()[..], bytes[77..1077]);
    assert_eq!(
        store.reads.load(Ordering::SeqCst),
        reads,
        "what was read lately is read again"
    );
    assert!(folder.get(b"other").is_none());
}

/// "slow copying of artifacts": more is read side by side than there is room for, each in order.
#[tokio::test]
async fn what_is_fetched_ahead_of_several_readers_is_fetched_once() {
    for readers in 1..=6 {
        read_side_by_side(readers).await;
    }
}

async fn read_side_by_side(readers: u64) {
    const CHUNKS: u64 = 24;
    const LENGTH: usize = 4 << 20;
    let store = memory();
    let entry = |reader: u64| {
        let segments: Vec<Segment> = (0..CHUNKS)
            .map(|i| {
                let bytes = Bytes::from(noise(LENGTH, reader * CHUNKS + i));
                let digest = Digest::of(&bytes);
                store.store(&Object::Chunk(digest), bytes);
                Segment::Data {
                    digest,
                    length: LENGTH as u32,
                }
            })
            .collect();
        Entry {
            name: b"file"[..].into(),
            meta: Meta::default(),
            kind: Kind::File {
                size: CHUNKS * LENGTH as u64,
                segments: segments.into(),
            },
            link: None,
        }
    };
    let entries: Vec<Entry> = (0..readers).map(entry).collect();
    let browser = Browser::new(store.clone());
    for mib in 0..CHUNKS * (LENGTH as u64 >> 20) {
        for entry in &entries {
            let read = browser.read_file(entry, mib << 20, 1 << 20).await.unwrap();
            assert_eq!(read.len(), 1 << 20);
            // So that what is fetched ahead comes.
            tokio::task::yield_now().await;
        }
    }
    let reads = store.reads.load(Ordering::SeqCst);
    assert_eq!(reads, readers * CHUNKS, "{readers} readers");
}

#[tokio::test]
async fn every_object_is_reached_and_what_is_broken_is_named() {
    let store = memory();
    let digest = captured(&store, &["chunk", "one/b", "one/two/chunk", "three/d"]).await;
    let (mut all, mut broken) = (BTreeSet::new(), Vec::new());
    let mut failed = |object, error| broken.push((object, error));
    reachable(store.clone(), digest, &mut |object| all.insert(object), &mut failed)
        .await
        .unwrap();
    assert_eq!(all, store.objects());
    reachable(
        store.clone(),
        Snapshot::empty(),
        &mut |_| panic!("nothing is needed"),
        &mut failed,
    )
    .await
    .unwrap();
    assert!(broken.is_empty());
    let root = Folder::load(&*store, digest).await.unwrap();
    let Kind::Folder(one) = root.get(b"one").unwrap().kind else {
        panic!("one is a folder")
    };
    let Kind::Folder(three) = root.get(b"three").unwrap().kind else {
        panic!("three is a folder")
    };
    store.forget(&Object::Tree(one));
    store
        .blobs
        .lock()
        .unwrap()
        .insert(Object::Tree(three), Bytes::from_static(b"other"));
    let (mut left, mut broken) = (BTreeSet::new(), BTreeMap::new());
    let mut failed = |object, error| drop(broken.insert(object, error));
    reachable(store.clone(), digest, &mut |object| left.insert(object), &mut failed)
        .await
        .unwrap();
    assert_eq!(left.len(), 4, "{left:?}");
    assert!(matches!(broken[&Object::Tree(one)], SnapshotError::Missing { .. }));
    assert!(matches!(broken[&Object::Tree(three)], SnapshotError::Damaged { .. }));
}

/// However many look at names of a large folder, its listing is read once and held once: nobody takes the
/// daemon's memory by looking.
#[tokio::test]
async fn a_large_listing_is_read_once() {
    let store = memory();
    let file = |at: usize| Entry {
        name: format!("{at:06}").into_bytes().into(),
        meta: Meta::default(),
        kind: Kind::file(vec![Segment::Inline(noise(1 << 10, at as u64).into())].into()),
        link: None,
    };
    let folder = Folder {
        entries: (0..12_000).map(file).collect(),
        ..Folder::empty()
    };
    let objects = folder.encode().unwrap().len() as u64;
    assert!(objects > 2, "it has several parts");
    let digest = put(&store, &folder);
    let browser = Browser::new(store.clone());
    let all = crate::repository::work::join_all((0..16).map(|_| browser.folder(digest))).await;
    let all: Vec<_> = all.into_iter().map(Result::unwrap).collect();
    let later = browser.folder(digest).await.unwrap();
    assert!(all.iter().all(|one| Arc::ptr_eq(one, &later)));
    assert_eq!(store.reads.load(Ordering::Relaxed), objects);
}
