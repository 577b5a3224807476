//! Tests of the embedded store: the suite of all stores, reopening, and what its own files do.

use tempfile::TempDir;

use super::Embedded;
use crate::storage::conformance;

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
