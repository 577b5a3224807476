//! Real builds on a real store, damaged and orphaned in every way: all of it is named, and gc
//! frees the orphans and nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::backend::embedded::Embedded;
use crate::repository::Repository;
use crate::repository::config::TicketRequest;
use crate::repository::model::job::Job;
use crate::repository::model::ops::{create, set};
use crate::repository::model::ticket::TicketKey;
use crate::repository::names::Name;
use crate::repository::tests::{assert_whole, build, job, open, poster};
use crate::storage::Commit;

mod beside;
mod marked;
mod own;
mod saved;

/// A store with a job that was built twice.
struct Scene {
    dir: TempDir,
    store: Embedded,
    repository: Arc<Repository>,
    job: Job,
    upkeep: Upkeep,
}

async fn scene() -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(&dir.path().join("store")).unwrap();
    let repository = open(&store, dir.path()).await.unwrap();
    let job = job(&repository, "hello").await.unwrap();
    for n in [1, 2] {
        assert_eq!(repository.builds.trigger(&job, b"", poster()).await.unwrap(), n);
        build(&repository, &job, n).await.unwrap();
    }
    let upkeep = Upkeep::new(store.coordination(), store.contents());
    Scene {
        dir,
        store,
        repository,
        job,
        upkeep,
    }
}

impl Scene {
    fn object(&self, kind: &str, digest: &str) -> PathBuf {
        self.dir
            .path()
            .join("store/objects")
            .join(kind)
            .join(&digest[..2])
            .join(digest)
    }

    /// The digest of the artifacts of a build.
    async fn artifacts(&self, n: u64) -> String {
        self.repository
            .builds
            .build(&self.job, n)
            .await
            .unwrap()
            .task(0)
            .artifacts
            .unwrap()
    }

    /// The digests of the folders of a build, each once.
    async fn folders(&self, n: u64) -> BTreeSet<String> {
        let task = self.repository.builds.build(&self.job, n).await.unwrap().task(0);
        task.artifacts.into_iter().chain(task.workspace).collect()
    }

    async fn config(&self) -> String {
        self.repository
            .configs
            .read_head(&self.job)
            .await
            .unwrap()
            .0
            .unwrap()
            .digest
    }

    async fn faults(&self) -> Vec<Fault> {
        self.upkeep.check().await.unwrap().faults
    }

    async fn put(&self, object: Object, bytes: &'static str) -> Object {
        self.store
            .put(&object, Bytes::from_static(bytes.as_bytes()))
            .await
            .unwrap();
        object
    }
}

fn overwrite(path: &Path, bytes: &[u8]) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_whole_has_no_faults_and_no_orphans() {
    let scene = scene().await;
    let checked = scene.upkeep.check().await.unwrap();
    assert_eq!((checked.faults.len(), checked.orphans), (0, 0), "{checked}");
    assert_eq!((checked.jobs, checked.builds, checked.tickets), (1, 2, 0));
    assert!(
        checked.consoles >= 4 && checked.objects >= 2 && checked.bytes > 0,
        "{checked}"
    );
    let swept = scene.upkeep.sweep().await.unwrap();
    let nothing = Swept {
        kept: swept.kept,
        ..Swept::default()
    };
    assert_eq!(swept, nothing);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_damage_is_named_with_what_suffers() {
    let scene = scene().await;
    let (config, artifacts) = (scene.config().await, scene.artifacts(1).await);
    let whole = fs::read(scene.object("chunk", &config)).unwrap();
    overwrite(&scene.object("chunk", &config), b"other bytes");
    let faults = scene.faults().await;
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert_eq!(
        faults[0].what.split(':').next(),
        Some(format!("chunk.{config}").as_str())
    );
    assert!(faults[0].what.contains("damaged"), "{}", faults[0]);
    for affected in [
        "config.json of jobs/hello",
        "jobs/hello/builds/1",
        "jobs/hello/builds/2",
    ] {
        assert!(faults[0].affected.contains(affected), "{}", faults[0]);
    }
    overwrite(&scene.object("chunk", &config), &whole);
    assert_eq!(scene.faults().await, []);

    fs::remove_file(scene.object("tree", &artifacts)).unwrap();
    let build = scene.repository.builds.build(&scene.job, 1).await.unwrap();
    let console = build.task(0).consoles[0].clone();
    let uid = scene.job.uid();
    scene
        .store
        .remove(&Object::Console(format!("{console}.0")))
        .await
        .unwrap();
    let record = Object::Record(format!("build.{uid}.2"));
    let faults = scene.faults().await;
    let named = |what: &str, affected: &str| {
        let found = faults
            .iter()
            .any(|f| f.what.starts_with(what) && f.affected.contains(affected));
        assert!(found, "{what} is not among {faults:#?}");
    };
    named(
        &format!("tree.{artifacts}: missing"),
        "artifacts of task 0 of jobs/hello/builds/1",
    );
    named(&format!("{console}: missing"), "jobs/hello/builds/1");
    assert_eq!(faults.len(), 2);

    let swept = scene.upkeep.sweep().await.unwrap();
    assert_eq!(
        (swept.faults.is_empty(), swept.objects, swept.remains),
        (false, 0, 0),
        "gc touches nothing"
    );
    scene
        .store
        .update(&record, None, vec![("record".to_owned(), Some("{".into()))])
        .await
        .unwrap();
    let faults = scene.faults().await;
    assert!(
        faults.iter().any(|f| f.what.contains(&record.to_string())),
        "{faults:#?}"
    );
    scene.store.remove(&record).await.unwrap();
    let faults = scene.faults().await;
    let gone = |f: &Fault| f.what == format!("record {record}: missing") && f.affected == "jobs/hello/builds/2";
    assert!(faults.iter().any(gone), "{faults:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_takes_for_whole_is_hashed_all_the_same() {
    let scene = scene().await;
    let config = scene.config().await;
    let (path, store) = (scene.object("chunk", &config), marked::Marked::new(&scene.store));
    store.believe();
    let upkeep = Upkeep::new(Arc::new(store.clone()), Arc::new(store.clone()));
    assert_eq!(upkeep.check().await.unwrap().faults, []);
    let mut bytes = fs::read(&path).unwrap();
    bytes[0] ^= 1;
    overwrite(&path, &bytes);
    let object = Object::Chunk(Digest::parse(&config).unwrap());
    let believed = Contents::read(&store, &object, 0, bytes.len() + 1).await.unwrap();
    assert_eq!(believed, Some(bytes.into()));
    let faults = upkeep.check().await.unwrap().faults;
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(
        faults[0].what.starts_with(&format!("chunk.{config}: damaged")),
        "{}",
        faults[0]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn while_builds_run_only_what_stays_wrong_is_a_fault() {
    let scene = scene().await;
    let config = scene.object("chunk", &scene.config().await);
    let whole = fs::read(&config).unwrap();
    let artifacts = scene.artifacts(1).await;
    // Wrong at the first look only.
    overwrite(&config, b"other bytes");
    let settle = async { overwrite(&config, &whole) };
    let checked = scene.upkeep.check_live(settle).await.unwrap();
    assert_eq!(checked.faults, [], "{checked}");
    // Wrong at the second look only: perhaps something that a build is about to write.
    let settle = async { overwrite(&config, b"other bytes") };
    let checked = scene.upkeep.check_live(settle).await.unwrap();
    assert_eq!(checked.faults, [], "{checked}");
    overwrite(&config, &whole);
    // Wrong at both, even if it shows differently, beside what is wrong at one only.
    let tree = scene.object("tree", &artifacts);
    overwrite(&tree, b"other bytes");
    overwrite(&config, b"other bytes");
    let settle = async {
        fs::remove_file(&tree).unwrap();
        overwrite(&config, &whole);
    };
    let checked = scene.upkeep.check_live(settle).await.unwrap();
    assert_eq!(checked.faults.len(), 1, "{:?}", checked.faults);
    assert_eq!(checked.faults[0].what, format!("tree.{artifacts}: missing"));
}

#[tokio::test(flavor = "multi_thread")]
async fn gc_frees_the_orphans_and_nothing_else() {
    let scene = scene().await;
    let before = scene.upkeep.check().await.unwrap();
    let chunk = scene.put(Object::Chunk(Digest::of(b"nobody's")), "nobody's").await;
    let tree = scene.put(Object::Tree(Digest::of(b"no list")), "no list").await;
    let mut stray = vec![chunk, tree];
    for name in ["console.0123456789abcdef.1.all.0", "console.t0123.1.0"] {
        let console = Object::Console(name.to_owned());
        scene.store.append(&console, 0, "line\n".into()).await.unwrap();
        stray.push(console);
    }
    for name in [
        "build.0123456789abcdef.1".to_owned(),
        format!("build.{}.77", scene.job.uid()),
    ] {
        let record = Object::Record(name);
        scene
            .store
            .update(&record, None, vec![("record".to_owned(), Some("{}".into()))])
            .await
            .unwrap();
    }
    let entries = [
        "/jobs/0123456789abcdef",
        "/jobs/0123456789abcdef/1",
        "/keys/0123456789abcdef",
    ];
    let slot = format!("/jobs/{}/slot-0", scene.job.uid());
    let ops = entries
        .iter()
        .copied()
        .chain([slot.as_str()])
        .map(|path| create(path, "1".into()));
    scene.store.commit(ops.collect()).await.unwrap();
    let checked = scene.upkeep.check().await.unwrap();
    // A tree that is no listing is whole by its digest, and needed by nobody.
    assert_eq!((checked.faults.len(), checked.orphans), (0, 4 + 2 + 3), "{checked}");

    let swept = scene.upkeep.sweep().await.unwrap();
    let wanted = Swept {
        objects: 2,
        consoles: 2,
        bytes: 8 + 7 + 2 * 5,
        remains: 5,
        kept: before.objects,
        faults: Vec::new(),
        told: Vec::new(),
    };
    assert_eq!(swept, wanted);
    for object in stray {
        assert_eq!(
            Contents::read(&scene.store, &object, 0, 9).await.unwrap(),
            None,
            "{object}"
        );
    }
    let after = scene.upkeep.check().await.unwrap();
    assert_eq!(
        (after.faults.len(), after.orphans, after.objects),
        (0, 0, before.objects),
        "{after}"
    );
    for n in [1, 2] {
        assert_whole(&scene.repository, &scene.job, n).await;
    }
}

/// "A ticket that stands alone and starts from a workspace that is not there" stops nothing: gc and a backup
/// tell it and go on, fsck names it with the remedy.
#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_without_its_start_stops_nothing() {
    let scene = scene().await;
    let queue = Name::new("execute-shell").unwrap();
    let request = TicketRequest::read(br#"{"id": "alone"}"#).unwrap();
    let id = scene.repository.claims.post(&queue, request, poster()).await.unwrap();
    let key = TicketKey { queue, id };
    let start = Digest::of(b"nowhere");
    let set_start = |digest: String| async {
        let entry = scene.store.get(&key.path()).await.unwrap().unwrap();
        let mut ticket: serde_json::Value = serde_json::from_slice(&entry.data).unwrap();
        ticket["workspace"] = digest.into();
        let data = serde_json::to_vec(&ticket).unwrap().into();
        let ops = vec![set(key.path(), data, entry.version)];
        assert_eq!(scene.store.commit(ops).await.unwrap(), Commit::Done);
    };
    set_start(start.to_string()).await;
    scene.put(Object::Chunk(Digest::of(b"lone")), "lone").await;
    let named = |faults: &[Fault]| {
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert_eq!(faults[0].what, format!("tree.{start}: missing"));
        assert_eq!(
            faults[0].affected,
            "workspace to start from of tickets/execute-shell/alone"
        );
        assert!(
            faults[0].remedy.starts_with("rmdir tickets/execute-shell/alone"),
            "{}",
            faults[0]
        );
    };
    named(&scene.faults().await);
    let needed = scene.upkeep.needed().await.unwrap();
    assert_eq!(needed.faults, []);
    named(&needed.told);
    let swept = scene.upkeep.sweep().await.unwrap();
    assert_eq!((swept.faults.len(), swept.objects), (0, 1), "{swept}");
    named(&swept.told);
    let swept = scene
        .upkeep
        .sweep_own(&scene.repository, Duration::from_secs(30))
        .await
        .unwrap();
    assert_eq!((swept.faults.len(), swept.objects), (0, 0), "{swept}");
    named(&swept.told);
    // One that is there is needed with all below it, and what is damaged below it stops gc.
    let artifacts = scene.artifacts(1).await;
    set_start(artifacts.clone()).await;
    assert_eq!(scene.faults().await, []);
    for n in [1, 2] {
        scene.repository.builds.remove_build(&scene.job, n).await.unwrap();
    }
    assert_eq!(scene.upkeep.sweep().await.unwrap().faults, []);
    assert!(scene.object("tree", &artifacts).exists());
    overwrite(&scene.object("tree", &artifacts), b"other bytes");
    let swept = scene.upkeep.sweep().await.unwrap();
    assert_eq!(
        (swept.faults.len(), swept.told.len(), swept.objects),
        (1, 0, 0),
        "{swept}"
    );
}

/// What only a removed build had goes; what it shared with another stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_build_is_freed() {
    let scene = scene().await;
    let wanted = scene.folders(2).await;
    let lone = scene.put(Object::Chunk(Digest::of(b"lone")), "lone").await;
    let mut folders = scene.folders(1).await;
    folders.retain(|digest| !wanted.contains(digest));
    scene.repository.builds.remove_build(&scene.job, 1).await.unwrap();
    let swept = scene.upkeep.sweep().await.unwrap();
    assert_eq!(
        (swept.faults.len(), swept.objects),
        (0, 1 + folders.len() as u64),
        "{swept}"
    );
    assert_eq!(Contents::read(&scene.store, &lone, 0, 9).await.unwrap(), None);
    assert_whole(&scene.repository, &scene.job, 2).await;
    scene.repository.builds.remove_build(&scene.job, 2).await.unwrap();
    scene.repository.builds.remove_job(&scene.job, None).await.unwrap();
    let swept = scene.upkeep.sweep().await.unwrap();
    assert_eq!((swept.kept, swept.faults.len()), (0, 0), "{swept}");
    for kind in ["chunk", "tree", "console", "job", "build"] {
        let mut listing = scene.store.list(kind).await.unwrap();
        assert_eq!(listing.next().await.unwrap(), [], "{kind}");
    }
}

/// A job whose removal was cut short after its counter went.
#[tokio::test(flavor = "multi_thread")]
async fn a_removal_cut_short_is_finished() {
    let scene = scene().await;
    let uid = scene.job.uid().to_owned();
    let ops =
        [format!("/keys/{uid}"), format!("/jobs/{uid}")].map(|path| crate::repository::model::ops::delete(path, None));
    scene.store.commit(ops.into()).await.unwrap();
    let faults = scene.faults().await;
    assert!(
        faults.len() == 1 && faults[0].what == "jobs/hello, half removed",
        "{faults:?}"
    );
    let swept = scene.upkeep.sweep().await.unwrap();
    assert_eq!((swept.kept, swept.faults.len()), (0, 0), "{swept}");
    let checked = scene.upkeep.check().await.unwrap();
    assert_eq!(
        (checked.faults.len(), checked.orphans, checked.jobs),
        (0, 0, 0),
        "{checked}"
    );
}
