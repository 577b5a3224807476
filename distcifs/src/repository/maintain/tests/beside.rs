//! gc beside mounts: what is under way is waited for, what is put or copied meanwhile stays, what
//! was garbage before goes.

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::marked::Marked;
use super::*;
use crate::repository::model::keys::EPOCH;
use crate::repository::model::ops::create_ephemeral;
use crate::repository::names::Name;
use crate::repository::{Error, Result, Setup, format, snapshot};
use crate::storage::{Commit, Coordination, Op, Updated};

/// How long a gc waits here for what nobody ends.
const SHORT: Duration = Duration::from_millis(300);

/// How long it waits for what a test ends, and a test for it.
const LONG: Duration = Duration::from_secs(30);

/// A store with two mounts.
struct Shared {
    dir: TempDir,
    store: Marked,
    mounts: [Arc<Repository>; 2],
}

async fn mount(store: &Marked, dir: &Path, node: &str) -> Result<Arc<Repository>> {
    Repository::open(Setup {
        coordination: Arc::new(store.clone()),
        contents: Arc::new(store.clone()),
        node: Name::new(node).unwrap(),
        attempts: dir.join(node),
        store: "test".into(),
        coordinator: "test".into(),
        shared: true,
    })
    .await
}

async fn shared() -> Shared {
    let dir = tempfile::tempdir().unwrap();
    let store = Marked::new(&Embedded::open(&dir.path().join("store")).unwrap());
    let (coordination, contents): (Arc<dyn Coordination>, Arc<dyn Contents>) =
        (Arc::new(store.clone()), Arc::new(store.clone()));
    format::make(&coordination, &contents, false).await.unwrap();
    let mounts = [
        mount(&store.other(), dir.path(), "one").await.unwrap(),
        mount(&store.other(), dir.path(), "two").await.unwrap(),
    ];
    Shared { dir, store, mounts }
}

impl Shared {
    fn upkeep(&self) -> Upkeep {
        Upkeep::new(Arc::new(self.store.clone()), Arc::new(self.store.clone()))
    }

    async fn gc(&self, patience: Duration) -> Result<Swept> {
        self.upkeep().sweep_beside("a test", patience).await
    }

    /// A gc in the background.
    fn begin_gc(&self) -> JoinHandle<Result<Swept>> {
        let upkeep = self.upkeep();
        tokio::spawn(async move { upkeep.sweep_beside("a test", LONG).await })
    }

    async fn epoch(&self) -> u64 {
        self.mounts[0].store.read_epoch().await.unwrap().0
    }

    /// Waits for gc to begin an epoch after this one, and for the first mount to know it.
    async fn epoch_after(&self, epoch: u64) -> u64 {
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < LONG, "no epoch after {epoch}");
            let now = self.epoch().await;
            if now > epoch && self.mounts[0].store.pin_epoch().await.unwrap().epoch() == now {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn garbage(&self, text: &'static str) -> Object {
        let object = Object::Chunk(Digest::of(text.as_bytes()));
        self.store.put(&object, text.into()).await.unwrap();
        object
    }

    async fn is_there(&self, object: &Object) -> bool {
        self.store.size(object).await.unwrap().is_some()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_garbage_goes_and_what_is_under_way_is_waited_for() {
    let scene = shared().await;
    let [one, two] = &scene.mounts;
    let job = job(one, "hello").await.unwrap();
    for n in [1, 2] {
        assert_eq!(two.builds.trigger(&job, b"", poster()).await.unwrap(), n);
        build(two, &job, n).await.unwrap();
    }
    let (lone, reused) = (scene.garbage("lone").await, scene.garbage("reused").await);
    let (start, pin) = (scene.epoch().await, one.store.pin_epoch().await.unwrap());
    let gc = scene.begin_gc();
    let first = scene.epoch_after(start).await;
    // Begun before gc, put and committed while it waits.
    assert_eq!(
        one.store.keep_body("reused".into()).await.unwrap(),
        Digest::of(b"reused")
    );
    assert!(scene.is_there(&lone).await && scene.epoch().await == first && !gc.is_finished());
    // Begun in the first epoch: the second is waited for in its turn.
    let next = one.store.pin_epoch().await.unwrap();
    drop(pin);
    scene.epoch_after(first).await;
    tokio::time::sleep(SHORT).await;
    assert!(scene.is_there(&lone).await && !gc.is_finished());
    drop(next);
    let swept = gc.await.unwrap().unwrap();
    assert_eq!((swept.faults.len(), swept.objects), (0, 1), "{swept}");
    assert!(!scene.is_there(&lone).await);
    assert!(scene.is_there(&reused).await, "put after gc began");
    for n in [1, 2] {
        assert_whole(one, &job, n).await;
    }
    let swept = scene.gc(LONG).await.unwrap();
    assert_eq!(
        (swept.faults.len(), swept.objects),
        (0, 1),
        "nothing refers to it: {swept}"
    );
}

/// A capture that finds a chunk "there already" while gc is between its last reading and the removal.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_again_stays_until_it_is_committed_or_given_up() {
    let scene = shared().await;
    let one = &scene.mounts[0];
    let reused = scene.garbage("reused").await;
    let (start, blocker) = (scene.epoch().await, one.store.pin_epoch().await.unwrap());
    let gc = scene.begin_gc();
    let first = scene.epoch_after(start).await;
    let late = one.store.pin_epoch().await.unwrap();
    drop(blocker);
    scene.epoch_after(first).await;
    // From here on gc waits for nobody but `late`.
    let under_way = one.store.pin_epoch().await.unwrap();
    one.store.keep_body("reused".into()).await.unwrap();
    drop(late);
    let swept = gc.await.unwrap().unwrap();
    assert_eq!((swept.faults.len(), swept.objects), (0, 0), "{swept}");
    assert!(scene.is_there(&reused).await);
    drop(under_way);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_that_does_not_answer_ends_gc_with_its_name() {
    let scene = shared().await;
    let lone = scene.garbage("lone").await;
    let pin = scene.mounts[1].store.pin_epoch().await.unwrap();
    let Err(Error::Busy(why)) = scene.gc(SHORT).await else {
        panic!("gc did not wait")
    };
    assert!(why.contains("mount two has not ended"), "{why}");
    drop(pin);
    // An earlier version tells nothing.
    let old = br#"{"pid":1,"since":2,"version":"0.0.9"}"#;
    let path = "/nodes/ancient";
    let enter = vec![create_ephemeral(path, Bytes::from_static(old))];
    assert_eq!(scene.store.commit(enter).await, Ok(Commit::Done));
    let Err(Error::Busy(why)) = scene.gc(LONG).await else {
        panic!("gc did not see it")
    };
    assert!(why.contains("ancient") && why.contains("0.0.9"), "{why}");
    assert!(scene.is_there(&lone).await, "nothing was removed");
    let version = None;
    let leave = vec![Op::Delete {
        path: path.into(),
        version,
    }];
    assert_eq!(scene.store.commit(leave).await, Ok(Commit::Done));
    assert_eq!(scene.gc(LONG).await.unwrap().objects, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_gc_runs_at_a_time() {
    let scene = shared().await;
    let pin = scene.mounts[0].store.pin_epoch().await.unwrap();
    let start = scene.epoch().await;
    let gc = scene.begin_gc();
    scene.epoch_after(start).await;
    let Err(Error::Busy(why)) = scene.gc(LONG).await else {
        panic!("two at once")
    };
    assert!(why.contains("gc runs already (a test)"), "{why}");
    drop(pin);
    gc.await.unwrap().unwrap();
    scene.gc(LONG).await.unwrap();
}

/// The session in which an operation was begun is over by its commit: gc may have run meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_begun_in_a_former_session_is_not_committed() {
    let scene = shared().await;
    let one = &scene.mounts[0];
    let job = job(one, "hello").await.unwrap();
    let pin = one.store.pin_epoch().await.unwrap();
    // As at the end of a session: its entries go, then it enters anew.
    one.store.epochs.leave();
    one.nodes.enter_node().await.unwrap();
    let ops = vec![create("/jobs/x", "1".into())];
    let committed = one.store.commit_pinned(&pin, ops, "/jobs/x", |_| false).await;
    assert!(matches!(committed, Err(Error::Io(_))), "{committed:?}");
    assert!(scene.store.get("/jobs/x").await.unwrap().is_none());
    drop(pin);
    assert_eq!(one.builds.trigger(&job, b"", poster()).await.unwrap(), 1);
    build(one, &job, 1).await.unwrap();
    scene.gc(LONG).await.unwrap();
    assert_whole(one, &job, 1).await;
    let leases = scene.store.children("/leases").await.unwrap();
    assert_eq!(leases.len(), 2, "one for each mount: {leases:?}");
}

/// A configuration whose writer was cut off: the text may be gone, so its head must not come.
#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_written_too_late_is_refused() {
    let scene = shared().await;
    let one = &scene.mounts[0];
    let job = job(one, "hello").await.unwrap();
    let (head, revision) = one.configs.read_head(&job).await.unwrap();
    let mut held = one.configs.lock(&job, true).await.unwrap();
    scene.gc(LONG).await.unwrap();
    let change = vec![("config".to_owned(), Some("{}".into()))];
    let late = scene.store.update(&job.record(), Some(revision), change).await.unwrap();
    assert!(matches!(late, Updated::Mismatch { .. }), "{late:?}");
    // Whoever still has the lock writes all the same.
    let text = r#"{"tasks": [{"type": "execute-shell", "params": {"script": "exit 3\n"}}]}"#;
    let written = one
        .configs
        .write(&job, &mut held, text.into(), 0)
        .await
        .unwrap()
        .unwrap();
    assert_ne!(Some(written.digest), head.map(|head| head.digest));
}

/// While gc reads, a build takes the configuration over that was in force, and another comes into force:
/// whoever has looked at the builds already and not at the configuration yet sees it nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn what_moves_while_it_is_read_is_seen_the_second_time() {
    let scene = shared().await;
    let one = scene.mounts[0].clone();
    let job = job(&one, "hello").await.unwrap();
    let text = one.configs.read_head(&job).await.unwrap().0.unwrap();
    let (mount, of) = (one.clone(), job.clone());
    scene.store.before_head(Box::new(move || {
        Box::pin(async move {
            assert_eq!(mount.builds.trigger(&of, b"", poster()).await.unwrap(), 1);
            let mut held = mount.configs.lock(&of, true).await.unwrap();
            let other = r#"{"tasks": [{"type": "execute-shell", "params": {"script": "false\n"}}]}"#;
            mount
                .configs
                .write(&of, &mut held, other.into(), 0)
                .await
                .unwrap()
                .unwrap();
            Ok(())
        })
    }));
    let swept = scene.gc(LONG).await.unwrap();
    assert_eq!(swept.faults, []);
    assert_ne!(
        one.configs.read_head(&job).await.unwrap().0.unwrap().digest,
        text.digest
    );
    assert!(
        scene
            .is_there(&Object::Chunk(Digest::parse(&text.digest).unwrap()))
            .await
    );
    build(&one, &job, 1).await.unwrap();
    assert_whole(&one, &job, 1).await;
}

/// A record written by a mount that was cut off while others recorded the build and removed it.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_written_too_late_gets_no_line() {
    let scene = shared().await;
    let one = &scene.mounts[0];
    let job = job(one, "hello").await.unwrap();
    assert_eq!(one.builds.trigger(&job, b"", poster()).await.unwrap(), 1);
    build(one, &job, 1).await.unwrap();
    let record = one.builds.stored_record(&job, 1).await.unwrap().0.unwrap();
    one.builds.remove_build(&job, 1).await.unwrap();
    assert_ne!(
        one.builds.stored_record(&job, 1).await.unwrap().1,
        0,
        "it leaves a revision"
    );
    let swept = scene.gc(LONG).await.unwrap();
    assert!(swept.objects > 0 && swept.remains == 1, "{swept}");
    assert_eq!(one.builds.stored_record(&job, 1).await.unwrap().1, 0);
    assert!(!one.builds.save_record(&job, 1, 0, record).await.unwrap());
    assert_eq!(one.builds.indexed(&job).await.unwrap().len(), 0);
    let swept = scene.gc(LONG).await.unwrap();
    assert_eq!((swept.faults.len(), swept.remains), (0, 1), "{swept}");
}

/// Builds are made, pruned and retried on both mounts while gc runs again and again.
#[tokio::test(flavor = "multi_thread")]
async fn builds_go_on_beside_it() {
    let scene = shared().await;
    let [one, two] = &scene.mounts;
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (upkeep, ended) = (scene.upkeep(), over.clone());
    let gc = tokio::spawn(async move {
        let mut all = Swept::default();
        let mut runs = 0;
        while !ended.load(std::sync::atomic::Ordering::SeqCst) || runs == 0 {
            let swept = upkeep.sweep_beside("a test", LONG).await.unwrap();
            assert_eq!(swept.faults, []);
            (all.objects, runs) = (all.objects + swept.objects, runs + 1);
        }
        (all.objects, runs)
    });
    let jobs = [job(one, "a").await.unwrap(), job(two, "b").await.unwrap()];
    for n in 1..=12 {
        for (mount, job) in scene.mounts.iter().zip(&jobs) {
            // Found by the other mount once it was told of the job.
            assert_eq!(mount.builds.trigger(job, b"", poster()).await.unwrap(), n);
            build(mount, job, n).await.unwrap();
            assert_whole(mount, job, n).await;
            if n > 2 {
                mount.builds.remove_build(job, n - 2).await.unwrap();
            }
        }
        let lone: &'static str = ["x1", "x2", "x3"][usize::try_from(n).unwrap() % 3];
        scene.garbage(lone).await;
    }
    over.store(true, std::sync::atomic::Ordering::SeqCst);
    let (objects, runs) = gc.await.unwrap();
    assert!(runs > 1, "{objects} freed in {runs} runs");
    for job in &jobs {
        for n in [11, 12] {
            assert_whole(one, job, n).await;
        }
    }
    let left = scene.gc(LONG).await.unwrap();
    let checked = scene.upkeep().check().await.unwrap();
    assert_eq!((checked.faults.len(), checked.orphans), (0, 0), "{checked}; {left}");
    drop(scene.dir);
}

/// Two tasks publish into one folder: its listing is in no record, and stays as long as the build.
#[tokio::test(flavor = "multi_thread")]
async fn what_mounts_join_stays() {
    let scene = shared().await;
    let one = &scene.mounts[0];
    let mut parts = Vec::new();
    for name in ["a", "b"] {
        let dir = scene.dir.path().join(name);
        fs::create_dir_all(dir.join("both")).unwrap();
        fs::write(dir.join("both").join(name), name).unwrap();
        let captured = snapshot::capture(one.store.contents.clone(), &dir, None).await.unwrap();
        parts.push(captured.digest);
    }
    let known: BTreeSet<Object> = trees(&scene.store).await;
    let named = snapshot::joined(one.store.contents.clone(), &parts).await.unwrap();
    assert_eq!(trees(&scene.store).await, known, "nothing is stored by that");
    snapshot::merge(one.store.contents.clone(), parts[0], parts[1])
        .await
        .unwrap();
    let named: BTreeSet<Object> = named.into_iter().map(Object::Tree).collect();
    assert_eq!(&trees(&scene.store).await - &known, named);
    assert_eq!(named.len(), 2, "the root and the folder that both have");
    let mut roots = super::super::roots::Roots::default();
    let tasks = parts.iter().map(|part| Some(*part)).enumerate().collect();
    roots.artifacts.insert(("uid".into(), 1), tasks);
    let mut wanted = super::super::sweep::Wanted::default();
    scene.upkeep().mark_joined(&roots, &mut wanted).await.unwrap();
    assert!(named.iter().all(|object| wanted.blobs.contains(object)));
}

async fn trees(store: &Marked) -> BTreeSet<Object> {
    let mut listing = store.list("tree").await.unwrap();
    let mut all = BTreeSet::new();
    loop {
        let page = listing.next().await.unwrap();
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

/// The entry of the epoch is where mounts look for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_repository_of_an_earlier_version_gets_an_epoch() {
    let scene = shared().await;
    assert_eq!(scene.epoch().await, 0);
    let entry = scene.store.get(EPOCH).await.unwrap().unwrap();
    assert!(!entry.ephemeral);
}
