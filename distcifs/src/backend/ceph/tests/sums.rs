//! The sums of blobs: bytes that have them are known again, all others are for the digest to decide.

use bytes::Bytes;
use distcifs_tests::cluster::Cluster;

use super::super::sums::Sum;
use super::{Ceph, Options, cluster, options};
use crate::storage::contents::VALUE_BYTES_MAX;
use crate::storage::{Contents, Digest, Error, Object};

/// A pool, looked at with Ceph's own tool as well.
struct Scene {
    cluster: &'static Cluster,
    options: Options,
    store: Ceph,
}

fn scene() -> Option<Scene> {
    let cluster = cluster()?;
    let options = options(cluster);
    let store = Ceph::connect(options.clone()).unwrap();
    Some(Scene {
        cluster,
        options,
        store,
    })
}

/// Bytes of a blob that takes one operation to read, and of one that takes several of whoever does
/// not know its length.
fn blobs() -> [(Object, Bytes); 2] {
    [3_000, 3 << 20].map(|length: usize| {
        let bytes: Bytes = (0..length).map(|at| ((at * at) >> 3) as u8).collect();
        (Object::Chunk(Digest::of(&bytes)), bytes)
    })
}

impl Scene {
    fn rados(&self, words: &[&str]) -> String {
        let words = [&["-N", &self.options.namespace], words].concat();
        self.cluster.rados(&words).unwrap().trim().to_owned()
    }

    fn sum(&self, object: &Object) -> String {
        self.rados(&["getxattr", &object.to_string(), "sum"])
    }

    fn forge(&self, object: &Object, sum: &str) {
        self.rados(&["setxattr", &object.to_string(), "sum", sum]);
    }

    /// Puts other bytes in an object's place, as an accident would; its attributes stay.
    fn damage(&self, object: &Object, bytes: &[u8]) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        self.rados(&["put", &object.to_string(), file.path().to_str().unwrap()]);
    }

    async fn read(&self, object: &Object) -> Result<Option<Bytes>, Error> {
        self.store.read(object, 0, VALUE_BYTES_MAX).await
    }

    async fn is_damaged(&self, object: &Object) -> bool {
        matches!(self.read(object).await, Err(Error::Damaged { .. }))
    }
}

fn flipped(bytes: &Bytes) -> Vec<u8> {
    let mut flipped = bytes.to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    flipped
}

#[tokio::test]
async fn a_blob_is_put_with_its_sum() {
    let Some(scene) = scene() else { return };
    for (object, bytes) in blobs() {
        scene.store.put(&object, bytes.clone()).await.unwrap();
        let sum = Sum::of(object.digest().unwrap(), &bytes);
        assert_eq!(scene.sum(&object), sum.text());
        assert_eq!(Sum::parse(&sum.text()), Some(sum));
        // Cut short by somebody, and sent again.
        scene.damage(&object, &bytes[..bytes.len() - 1]);
        scene.forge(&object, "1");
        assert!(scene.store.put(&object, bytes.clone()).await.unwrap());
        assert_eq!(scene.sum(&object), sum.text());
        assert_eq!(scene.read(&object).await, Ok(Some(bytes)));
    }
}

#[tokio::test]
async fn without_its_sum_the_digest_decides() {
    let Some(scene) = scene() else { return };
    for (object, bytes) in blobs() {
        scene.store.put(&object, bytes.clone()).await.unwrap();
        for sum in ["", "1", "-1", "no sum", "99999999999999999999999"] {
            match sum {
                "" => drop(scene.rados(&["rmxattr", &object.to_string(), "sum"])),
                sum => scene.forge(&object, sum),
            }
            assert_eq!(scene.read(&object).await, Ok(Some(bytes.clone())), "{sum:?}");
        }
        scene.damage(&object, &flipped(&bytes));
        assert!(scene.is_damaged(&object).await);
    }
}

#[tokio::test]
async fn damage_is_found_by_the_sum_that_stayed() {
    let Some(scene) = scene() else { return };
    let [(small, _), (large, _)] = blobs();
    for (object, bytes) in blobs() {
        scene.store.put(&object, bytes.clone()).await.unwrap();
        scene.damage(&object, &flipped(&bytes));
        let sum = Sum::of(object.digest().unwrap(), &bytes);
        assert_eq!(scene.sum(&object), sum.text(), "attributes stay");
        assert!(scene.is_damaged(&object).await, "a flipped bit");
        scene.damage(&object, &bytes[..bytes.len() - 1]);
        assert!(scene.is_damaged(&object).await, "cut short");
        scene.damage(&object, &[&bytes[..], b"."].concat());
        assert!(scene.is_damaged(&object).await, "longer");
        scene.damage(&object, &bytes);
        assert_eq!(scene.read(&object).await, Ok(Some(bytes)));
    }
    // With all that belongs to it.
    let target = format!("--target-nspace={}", scene.options.namespace);
    scene.rados(&["rm", &large.to_string()]);
    scene.rados(&[&target, "cp", &small.to_string(), &large.to_string()]);
    assert_eq!(scene.sum(&large), scene.sum(&small), "attributes are copied");
    assert!(scene.is_damaged(&large).await, "another blob");
}

/// What doc/decisions/033-sums.md says of whoever can write to the pool.
#[tokio::test]
async fn a_forged_sum_is_believed() {
    let Some(scene) = scene() else { return };
    for (object, bytes) in blobs() {
        scene.store.put(&object, bytes.clone()).await.unwrap();
        let forged = Bytes::from(flipped(&bytes));
        scene.damage(&object, &forged);
        scene.forge(&object, &Sum::of(object.digest().unwrap(), &forged).text());
        assert_eq!(scene.read(&object).await, Ok(Some(forged)));
    }
}
