//! What came with the second version of the format, and mounts that do not know it.

use std::time::Duration;

use bytes::Bytes;

use super::{Error, Stores, runtime};
use crate::backend::memory::Memory;
use crate::repository::format;
use crate::storage::Op;

/// What an older mount tells of itself.
fn older() -> Vec<Op> {
    vec![Op::Create {
        path: "/nodes/old".into(),
        data: Bytes::from_static(br#"{"pid":1,"since":2,"version":"0.1.0"}"#),
        // So that it stays, however busy the machine is.
        ephemeral: false,
    }]
}

/// The versions that a text of the format has.
fn versions(data: &[u8]) -> (u64, u64, u64) {
    let format: serde_json::Value = serde_json::from_slice(data).unwrap();
    let number = |key: &str| format[key].as_u64().unwrap();
    (number("version"), number("least_reader"), number("least_writer"))
}

/// "An older mount would drop what it does not know": nothing of it is written while one lives, and once it is no
/// older program writes the repository.
#[test]
fn nothing_new_is_written_while_an_older_mount_lives() {
    runtime().block_on(async {
        let (memory, dir) = (Memory::new(), tempfile::tempdir().unwrap());
        let mount = memory.mount();
        let (coordination, contents) = (mount.coordination(), mount.contents());
        format::make(&coordination, &contents, false).await.unwrap();
        let other = memory.mount().coordination();
        other.commit(older()).await.unwrap();
        let stores = Stores {
            shared: true,
            ..Stores::alone(&mount)
        };
        let repository = stores.open("new", dir.path()).await.unwrap();
        let gate = &repository.builds.gate;
        let refused = gate.pass("builds of strangers").await;
        let says = |error: &Error| error.to_string().contains("mount old is older");
        assert!(
            matches!(&refused, Err(error @ Error::Busy(_)) if says(error)),
            "{refused:?}"
        );
        let entry = coordination.get("/format").await.unwrap().unwrap();
        assert_eq!(versions(&entry.data), (1, 1, 1));
        let (path, version) = ("/nodes/old".to_owned(), None);
        other.commit(vec![Op::Delete { path, version }]).await.unwrap();
        gate.pass("builds of strangers").await.unwrap();
        // From memory, once it has heard that the other is gone.
        while gate.pass("builds of strangers").await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let entry = coordination.get("/format").await.unwrap().unwrap();
        assert_eq!((versions(&entry.data), entry.version), ((2, 1, 2), 1));
        let kept = contents.query(&format::record(), "format", "", 1).await.unwrap();
        assert_eq!(versions(&kept.entries[0].1), (2, 1, 2));
        assert!(coordination.get("/held").await.unwrap().is_some());
        format::check(&coordination, &contents).await.unwrap();
        // One that read the format before, and is late.
        other.commit(older()).await.unwrap();
        while gate.pass("builds of strangers").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

/// Who has the store alone raises it at once, and what was there before is of the first version.
#[test]
fn alone_the_first_use_raises_the_format() {
    runtime().block_on(async {
        let (memory, dir) = (Memory::new(), tempfile::tempdir().unwrap());
        let mount = memory.mount();
        let repository = Stores::alone(&mount).open("n", dir.path()).await.unwrap();
        let coordination = mount.coordination();
        let entry = coordination.get("/format").await.unwrap().unwrap();
        assert_eq!(versions(&entry.data), (1, 1, 1));
        assert!(!repository.builds.gate.is_raised());
        repository.builds.gate.pass("groups").await.unwrap();
        assert!(repository.builds.gate.is_raised());
        let entry = coordination.get("/format").await.unwrap().unwrap();
        assert_eq!(versions(&entry.data), (2, 1, 2));
    });
}
