//! The verbs driven on a real store that fails, or that is cut off, as a network and a power cut do.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::{Builder, Runtime};

use super::access::Access;
use super::claims::{Claim, TaskResult};
use super::config::TicketRequest;
use super::model::claim::Claimant;
use super::model::job::Job;
use super::model::ticket::{Poster, TicketKey, TicketState, Verdict};
use super::names::Name;
use super::snapshot::{self, Snapshot};
use super::{Digest, Error, Repository, Result, Setup};
use crate::storage::coordination::COMMIT_OPS_MAX;
use crate::storage::{Contents, Coordination};

mod adds;
mod bounds;
#[cfg(feature = "ceph")]
mod cluster;
mod cost;
mod crash;
mod damaged;
mod ends;
mod faults;
mod gate;
mod groups;
mod guards;
mod holes;
mod notify;
mod owners;
mod rebound;
mod recorders;
mod refused;
mod removed;
mod rename;
mod shared;
mod shown;
mod stopped;
mod strangers;
mod superseding;
mod trash;
mod unseen;

/// How long anything may take that goes on in the background.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the task writes to its console, and publishes.
const LINE: &str = "one line of the console\n";

/// A configuration of one task.
const CONFIG: &str = r#"{"tasks": [{"type": "execute-shell", "params": {"script": "true\n"}}]}"#;

/// The same, whose task adds another.
const CONFIG_THAT_ADDS: &str =
    r#"{"tasks": [{"type": "execute-shell", "name": "generate", "params": {"script": "true\n"}}]}"#;

/// What that one adds.
const ADDED: &str = r#"{"tasks": [{"type": "execute-shell", "name": "added", "params": {"script": "true"}}]}"#;

pub(super) fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// The two stores of a repository, and whether other mounts may be on them.
#[derive(Clone)]
pub(super) struct Stores {
    coordination: Arc<dyn Coordination>,
    contents: Arc<dyn Contents>,
    shared: bool,
}

impl Stores {
    /// One store that is both, and one process's alone.
    fn alone<S: Coordination + Contents + Clone>(store: &S) -> Stores {
        Stores {
            coordination: Arc::new(store.clone()),
            contents: Arc::new(store.clone()),
            shared: false,
        }
    }

    /// Opens the repository as the mount of a node, which works on every queue.
    async fn open(self, node: &str, dir: &Path) -> Result<Arc<Repository>> {
        let repository = Repository::open(Setup {
            coordination: self.coordination,
            contents: self.contents,
            node: name(node),
            attempts: dir.join(format!("attempts-{node}")),
            store: "test".into(),
            coordinator: "test".into(),
            shared: self.shared,
        });
        let repository = repository.await?;
        // As its workers do, who wait for tickets.
        let subscription = repository.store.subscribe(super::model::keys::TICKETS).await?;
        repository.store.runtime.spawn(async move {
            let _kept = subscription;
            std::future::pending::<()>().await;
        });
        Ok(repository)
    }
}

pub(super) async fn open<S: Coordination + Contents + Clone>(store: &S, dir: &Path) -> Result<Arc<Repository>> {
    Stores::alone(store).open("here", dir).await
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn me() -> (u32, u32) {
    (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw())
}

pub(super) fn poster() -> Poster {
    let (uid, gid) = me();
    Poster { uid, gid }
}

pub(super) fn claimant() -> Claimant {
    let (uid, gid) = me();
    let pid = std::process::id();
    Claimant { uid, gid, pid }
}

/// A job with a configuration.
pub(super) async fn job(repository: &Arc<Repository>, text: &str) -> Result<Job> {
    configured(repository, text, CONFIG).await
}

/// A job with this configuration.
async fn configured(repository: &Arc<Repository>, text: &str, config: &str) -> Result<Job> {
    let (uid, gid) = me();
    let job = repository
        .jobs
        .make(&name(text), Access { uid, gid, mode: 0o755 })
        .await?;
    let mut held = repository.configs.lock(&job, true).await?;
    let written = repository
        .configs
        .write(&job, &mut held, Bytes::copy_from_slice(config.as_bytes()), 0)
        .await?;
    assert!(written.is_ok(), "{written:?}");
    Ok(job)
}

pub(super) fn control_key(job: &Job, n: u64) -> TicketKey {
    super::model::ticket::control_key(job.name.as_str(), n, 0).unwrap()
}

pub(super) fn task_key(job: &Job, n: u64) -> TicketKey {
    key_of(job, n, 0)
}

/// The key of the ticket of a task, in the first run.
fn key_of(job: &Job, n: u64, index: usize) -> TicketKey {
    super::model::ticket::part_key("execute-shell", job.name.as_str(), n, &index.to_string(), 0).unwrap()
}

/// Posts the one task of a build, as build-control does.
pub(super) async fn post(repository: &Arc<Repository>, job: &Job, n: u64) -> Result<()> {
    post_task(repository, job, n, 0).await
}

/// Posts one of its tasks.
async fn post_task(repository: &Arc<Repository>, job: &Job, n: u64, index: usize) -> Result<()> {
    // What was added is shut off, as it did not say how.
    let isolation = if index == 0 { "none" } else { "namespace" };
    let text = format!(
        r#"{{"job": "{}", "build": {n}, "task": {index}, "params": {{"script": "true"}}, "isolation": "{isolation}"}}"#,
        job.name
    );
    let request = TicketRequest::read(text.as_bytes()).unwrap();
    repository
        .claims
        .post(&name("execute-shell"), request, poster())
        .await
        .map(|_| ())
}

/// Does the work of the task: a file in the workspace, one in the artifacts, a line of console.
async fn work(repository: &Arc<Repository>, claim: &Arc<Claim>) -> Result<()> {
    for dir in [
        repository.claims.workspace_dir(claim).await?,
        repository.claims.artifacts_dir(claim).await?,
    ] {
        std::fs::write(dir.join("made"), LINE).unwrap();
    }
    let mut console = claim.console.lock().await;
    console.append(&repository.consoles, claim, LINE.as_bytes()).await?;
    console.settle(&repository.consoles, claim).await
}

fn success() -> TaskResult {
    TaskResult::read(b"0").unwrap()
}

/// Claims a ticket as soon as nobody else has it; `None` if it is finished.
async fn claim(repository: &Arc<Repository>, key: &TicketKey) -> Result<Option<Arc<Claim>>> {
    let started = Instant::now();
    loop {
        match repository.tickets.get(key).await? {
            Some(posted) if posted.ticket.state != TicketState::Finished => {}
            _ => return Ok(None),
        }
        match repository.claims.claim(key, claimant()).await {
            Err(Error::Exists(_)) if started.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => return other.map(Some),
        }
    }
}

/// Goes through a whole build, or what is left of it to do.
pub(super) async fn build(repository: &Arc<Repository>, job: &Job, n: u64) -> Result<()> {
    if let Some(controller) = claim(repository, &control_key(job, n)).await? {
        let mut index = 0;
        while index < repository.builds.build(job, n).await?.plan.count() {
            post_task(repository, job, n, index).await?;
            if let Some(claim) = claim(repository, &key_of(job, n, index)).await? {
                work(repository, &claim).await?;
                if claim.ticket.name == "generate" {
                    repository
                        .claims
                        .write_tasks(&claim, Bytes::from_static(ADDED.as_bytes()), Arc::new(()))
                        .await?;
                }
                repository.claims.finish(&claim, success()).await?;
            }
            index += 1;
        }
        repository.claims.finish(&controller, success()).await?;
    }
    let started = Instant::now();
    let path = super::model::build::live_path(job.uid(), n);
    // A mount that is alone remembers what nobody else changes, and a process of a test that was ended goes on:
    // the store tells it so.
    let is_live = async || {
        if !repository.store.shared {
            repository.store.get_settled(&path, false).await?;
        }
        repository.store.get(&path).await
    };
    while is_live().await?.is_some() {
        if started.elapsed() > PATIENCE {
            return Err(Error::TimedOut("recording the build".into()));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// A finished build as everybody must see it: its result, its files, its console; no ticket of it
/// is left.
pub(super) async fn assert_whole(repository: &Arc<Repository>, job: &Job, n: u64) {
    let build = repository.builds.build(job, n).await.unwrap();
    assert_eq!(build.verdict(), Some(Verdict::Success));
    assert!(build.live.is_none());
    let task = build.task(0);
    for digest in [&task.workspace, &task.artifacts] {
        let digest = Digest::parse(digest.as_deref().unwrap()).unwrap();
        assert_ne!(digest, Snapshot::empty());
        let dir = tempfile::tempdir().unwrap();
        snapshot::restore(repository.store.contents.clone(), digest, dir.path(), None)
            .await
            .unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("made")).unwrap(), LINE);
    }
    let last = task.consoles.last().unwrap();
    let console = repository.consoles.read(last, 0, 1 << 20).await.unwrap();
    let console = std::str::from_utf8(&console).unwrap();
    // Whoever writes a line again after an error finds it once.
    assert_eq!(console, LINE);
    let all = repository
        .consoles
        .read(&build.extent_of_all().name, 0, 1 << 20)
        .await
        .unwrap();
    let all = std::str::from_utf8(&all).unwrap();
    // One that was lost may have said it, too: but nothing stands within a line of another.
    let mut lines = all.split_inclusive('\n').filter(|line| !line.starts_with("[claim "));
    assert!(lines.next() == Some(LINE) && lines.all(|line| line == LINE), "{all}");
    for key in [control_key(job, n), task_key(job, n)] {
        assert!(repository.tickets.get(&key).await.unwrap().is_none(), "{key} is left");
    }
    assert!(
        repository
            .builds
            .indexed(job)
            .await
            .unwrap()
            .iter()
            .any(|(i, _)| *i == n)
    );
}

/// Nothing is wrong with the repository.
pub(super) async fn assert_sound(repository: &Arc<Repository>) -> usize {
    let upkeep = super::maintain::Upkeep::new(repository.store.coordination.clone(), repository.store.contents.clone());
    let checked = upkeep.check().await.unwrap();
    assert_eq!(checked.faults, [], "{checked}");
    checked.orphans
}

/// A repository with a job, and where the job's idempotence keys stand.
async fn keyed_job(dir: &Path) -> (Arc<Repository>, Job, String) {
    let store = crate::backend::embedded::Embedded::open(&dir.join("store")).unwrap();
    let repository = open(&store, dir).await.unwrap();
    let job = job(&repository, "hello").await.unwrap();
    let folder = format!("/keys/{}", job.uid());
    (repository, job, folder)
}

/// No commit takes all keys of a job that was triggered for days by a busy repository.
#[test]
fn a_job_with_thousands_of_keys_is_removed_whole() {
    use super::core::now;
    use super::model::json::to_json;
    use super::model::ops::create;
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let (repository, job, folder) = keyed_job(dir.path()).await;
        let keys: Vec<_> = (0..COMMIT_OPS_MAX + 100)
            .map(|i| create(format!("{folder}/{i:08x}"), to_json(&(1_u64, now()))))
            .collect();
        for some in keys.chunks(COMMIT_OPS_MAX) {
            repository.store.commit(some.to_vec()).await.unwrap();
        }
        repository.builds.remove_job(&job, None).await.unwrap();
        assert!(repository.store.children("/keys").await.unwrap().is_empty());
        assert!(repository.jobs.get("hello").is_none());
    });
}

/// A key is remembered for at least seven days; older ones go when new ones come.
#[test]
fn keys_are_remembered_for_a_week_and_then_swept() {
    use super::core::now;
    use super::model::json::to_json;
    use super::model::ops::create;
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let (repository, job, folder) = keyed_job(dir.path()).await;
        let day = 24 * 3600 * 1000;
        for (name, days) in [("0old", 9), ("fold", 9), ("8young", 7)] {
            let data = to_json(&(1_u64, now() - days * day));
            repository
                .store
                .commit(vec![create(format!("{folder}/{name}"), data)])
                .await
                .unwrap();
        }
        assert_eq!(repository.builds.trigger(&job, b"@key=new", poster()).await.unwrap(), 1);
        let begun = Instant::now();
        let names = loop {
            let names = repository.store.children(&folder).await.unwrap();
            if !names.iter().any(|name| name.ends_with("old")) {
                break names;
            }
            assert!(begun.elapsed() < PATIENCE, "{names:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        assert!(names.len() == 2 && names.contains(&"8young".to_owned()), "{names:?}");
        assert_eq!(repository.builds.trigger(&job, b"@key=new", poster()).await.unwrap(), 1);
    });
}
