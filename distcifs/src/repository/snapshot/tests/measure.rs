//! How long it takes, on demand: `cargo test --release -- --ignored --nocapture snapshot::tests::measure`.

use std::time::Instant;

use super::*;

async fn measured(what: &str, dir: &Path) {
    let blobs = TempDir::new().unwrap();
    let store = Arc::new(Memory {
        folder: Some(blobs.path().to_owned()),
        ..Memory::default()
    });
    settle().await;
    let start = Instant::now();
    let first = capture(store.clone(), dir, None).await.unwrap();
    let captured = start.elapsed();
    let start = Instant::now();
    let again = capture(store.clone(), dir, Some(&first.manifest)).await.unwrap();
    let recaptured = start.elapsed();
    assert_eq!((again.hashed_bytes, again.digest), (0, first.digest));
    let there = TempDir::new().unwrap();
    let start = Instant::now();
    restore(store, first.digest, there.path(), None).await.unwrap();
    println!(
        "{what}: capture {captured:?}, again {recaptured:?}, restore {:?}",
        start.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement of seconds and 2 GiB of disk"]
async fn ten_thousand_small_files_and_one_large() {
    let dir = TempDir::new().unwrap();
    for i in 0..10_000 {
        let folder = dir.path().join(format!("d{}", i / 100));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("f{i}")), noise(4096, i)).unwrap();
    }
    measured("10,000 files of 4 KiB", dir.path()).await;
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("large"), noise(1 << 30, 1)).unwrap();
    measured("one file of 1 GiB", dir.path()).await;
}
