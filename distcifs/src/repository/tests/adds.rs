//! Tasks that are added to a build by the result of another.

use distcifs_settings::state::TaskState;
use tokio::sync::{Notify, watch};

use super::*;
use crate::backend::embedded::Embedded;
use crate::backend::memory::Memory;
use crate::repository::control::Word;
use crate::repository::format;
use crate::repository::maintain::Upkeep;
use crate::repository::model::build::live_path;
use crate::repository::model::claim::Cause;
use crate::storage::around::{Around, Asked, Wrapped};
use crate::storage::watcher::Watcher;
use crate::storage::{Commit, Entry, Fut, Op, Session, Watch};

/// Two tasks side by side, and one that waits for the first.
const THREE: &str = r#"{"tasks": [
    {"type": "execute-shell", "name": "generate", "params": {"script": "true"}},
    {"type": "execute-shell", "name": "beside", "needs": [], "params": {"script": "true"}},
    {"type": "execute-shell", "name": "deploy", "needs": ["generate"], "params": {"script": "true"}}]}"#;

/// A text that adds tasks of these names.
fn adds(names: &[&str]) -> Bytes {
    let one = |name: &&str| serde_json::json!({"type": "execute-shell", "name": name, "params": {"script": "true"}});
    let tasks: Vec<_> = names.iter().map(one).collect();
    serde_json::json!({ "tasks": tasks }).to_string().into()
}

/// A build of a job, whose own ticket is claimed here and whose tasks are posted.
async fn begun(repository: &Arc<Repository>, tasks: &[usize]) -> (Job, u64, Arc<Claim>) {
    let job = match repository.jobs.get("a") {
        Some(job) => job,
        None => configured(repository, "a", THREE).await.unwrap(),
    };
    let n = repository.builds.trigger(&job, b"", poster()).await.unwrap();
    let controller = claim(repository, &control_key(&job, n)).await.unwrap().unwrap();
    for index in tasks {
        post_task(repository, &job, n, *index).await.unwrap();
    }
    (job, n, controller)
}

/// Claims a task, and writes what it adds.
async fn generates(repository: &Arc<Repository>, key: &TicketKey, text: Bytes) -> Arc<Claim> {
    let claim = claim(repository, key).await.unwrap().unwrap();
    repository.claims.write_tasks(&claim, text, Arc::new(())).await.unwrap();
    claim
}

async fn names(repository: &Arc<Repository>, job: &Job, n: u64) -> Vec<String> {
    let build = repository.builds.build(job, n).await.unwrap();
    (0..build.plan.count())
        .filter_map(|index| build.task_name(index))
        .collect()
}

const ALONE: [&str; 3] = ["0-generate", "1-beside", "2-deploy"];

async fn alone(dir: &Path) -> Arc<Repository> {
    open(&Embedded::open(&dir.join("store")).unwrap(), dir).await.unwrap()
}

async fn is_recorded(repository: &Arc<Repository>, job: &Job, n: u64) {
    let started = Instant::now();
    while repository.builds.is_unfinished(job, n).await.unwrap() {
        assert!(started.elapsed() < PATIENCE, "it is not recorded");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// "It takes effect with the ticket's result, in the same commit, if the outcome is success." "A retry keeps what was
/// added by tasks that succeeded: each added task is made once." The record has it, and neither fsck nor gc takes it
/// for garbage; with the build it goes.
#[test]
fn what_a_task_adds_stands_from_its_result_to_the_end_of_the_build() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let repository = alone(dir.path()).await;
        let (job, n, controller) = begun(&repository, &[0]).await;
        let held = generates(&repository, &key_of(&job, n, 0), adds(&["x", "y"])).await;
        assert_eq!(names(&repository, &job, n).await, ALONE);
        repository.claims.finish(&held, success()).await.unwrap();
        let all = ["0-generate", "1-beside", "2-deploy", "3-x", "4-y"];
        assert_eq!(names(&repository, &job, n).await, all);
        let upkeep = Upkeep::new(repository.store.coordination.clone(), repository.store.contents.clone());
        assert_eq!(upkeep.sweep().await.unwrap().faults, []);
        assert_sound(&repository).await;
        let build = repository.builds.build(&job, n).await.unwrap();
        let json: serde_json::Value = serde_json::from_slice(&repository.build_text(&build).await).unwrap();
        let of = |index: usize| {
            (
                json["tasks"][index]["needs"].clone(),
                json["tasks"][index]["added_by"].clone(),
            )
        };
        assert_eq!(of(3), (serde_json::json!([0]), 0.into()));
        assert_eq!(of(4), (serde_json::json!([3]), 0.into()));
        assert!(json["tasks"][2].get("added_by").is_none());
        post_task(&repository, &job, n, 3).await.unwrap();
        let added = claim(&repository, &key_of(&job, n, 3)).await.unwrap().unwrap();
        assert_eq!((added.ticket.name.as_str(), added.ticket.lines.as_str()), ("x", "x"));
        repository
            .claims
            .finish(&added, TaskResult::read(b"1").unwrap())
            .await
            .unwrap();
        repository
            .claims
            .finish(&controller, TaskResult::read(b"failure").unwrap())
            .await
            .unwrap();
        is_recorded(&repository, &job, n).await;
        assert_eq!(names(&repository, &job, n).await, all);
        repository.control(&job, n, Word::Retry, poster()).await.unwrap();
        assert_eq!(names(&repository, &job, n).await, all);
        let build = repository.builds.build(&job, n).await.unwrap();
        let states: Vec<_> = (0..5).map(|index| build.task(index).state).collect();
        assert_eq!(states[..1], [TaskState::Success]);
        assert_eq!(states[1..], [TaskState::Waiting; 4]);
        assert_eq!(upkeep.sweep().await.unwrap().faults, []);
        assert_sound(&repository).await;
        let control = crate::repository::model::ticket::control_key("a", n, 1).unwrap();
        let controller = claim(&repository, &control).await.unwrap().unwrap();
        repository.claims.finish(&controller, success()).await.unwrap();
        is_recorded(&repository, &job, n).await;
        repository.builds.remove_build(&job, n).await.unwrap();
        upkeep.sweep().await.unwrap();
        assert_eq!(assert_sound(&repository).await, 0, "nothing of it is left");
    });
}

/// "With any other outcome, after an abort, and with a claim that is lost, it is discarded." "Unlinking it withdraws
/// it." `{ "tasks": [] }` adds nothing.
#[test]
fn what_does_not_end_well_adds_nothing() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let repository = alone(dir.path()).await;
        let (job, n, _controller) = begun(&repository, &[0, 1]).await;
        let held = generates(&repository, &key_of(&job, n, 0), adds(&["x"])).await;
        repository.claims.end_claim(&held, Cause::GivenBack).await;
        let held = claim(&repository, &key_of(&job, n, 0)).await.unwrap().unwrap();
        assert!(held.tasks().is_none(), "the next claim begins without");
        repository
            .claims
            .write_tasks(&held, adds(&["x"]), Arc::new(()))
            .await
            .unwrap();
        held.withdraw_tasks().unwrap();
        repository.claims.finish(&held, success()).await.unwrap();
        assert_eq!(names(&repository, &job, n).await, ALONE);
        let held = generates(&repository, &key_of(&job, n, 1), adds(&["x"])).await;
        repository
            .claims
            .finish(&held, TaskResult::read(b"1").unwrap())
            .await
            .unwrap();
        assert_eq!(names(&repository, &job, n).await, ALONE);
        let (job, n, _controller) = begun(&repository, &[0, 1]).await;
        let held = generates(&repository, &key_of(&job, n, 0), adds(&[])).await;
        let version = repository
            .store
            .get(&live_path(job.uid(), n))
            .await
            .unwrap()
            .unwrap()
            .version;
        repository.claims.finish(&held, success()).await.unwrap();
        let build = repository.builds.build(&job, n).await.unwrap();
        assert_eq!((build.plan.added(), build.live.unwrap().1), (0, version));
        let held = generates(&repository, &key_of(&job, n, 1), adds(&["x"])).await;
        repository.control(&job, n, Word::Abort, poster()).await.unwrap();
        repository.claims.finish(&held, success()).await.unwrap();
        assert_eq!(
            repository.builds.build(&job, n).await.unwrap().task(1).state,
            TaskState::Aborted
        );
        assert_eq!(names(&repository, &job, n).await, ALONE);
    });
}

/// "EINVAL, and tasks.error has `tasks.json:line:column: what` for each fault." "A `success` while tasks.error stands
/// becomes `error` with its first line."
#[test]
fn a_text_that_is_wrong_is_said_and_makes_the_outcome_an_error() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let repository = alone(dir.path()).await;
        let (job, n, _controller) = begun(&repository, &[0]).await;
        let held = claim(&repository, &key_of(&job, n, 0)).await.unwrap().unwrap();
        let write = async |text: &str| repository.claims.write_tasks(&held, text.to_owned().into(), Arc::new(())).await;
        for (text, line) in [
            ("{", "tasks.json:1:2: "),
            (r#"{"tasks": [{"type": "execute-shell", "name": "deploy", "params": {"script": "true"}}]}"#,
                "tasks.json:1:46: tasks[0]: another task is called"),
            (r#"{"tasks": [{"type": "build-control"}]}"#, "tasks.json:1:21: "),
            ("{\"tasks\": [\n {\"type\": \"execute-shell\", \"needs\": [\"beside\"], \"params\": {\"script\": \"true\"}}]}",
                "tasks.json:2:38: tasks[0].needs: no task is called"),
        ] {
            let refused = write(text).await;
            assert!(matches!(&refused, Err(Error::Invalid(why)) if why.starts_with(line)), "{text}: {refused:?}");
            assert!(held.tasks().unwrap().error.starts_with(line), "{text}");
        }
        assert!(matches!(write(&" ".repeat((1 << 20) + 1)).await, Err(Error::TooBig(_))));
        repository.claims.finish(&held, success()).await.unwrap();
        let task = repository.builds.build(&job, n).await.unwrap().task(0);
        assert_eq!(task.state, TaskState::Error);
        assert!(task.message.starts_with("tasks.json:2:38: tasks[0].needs"), "{}", task.message);
    });
}

/// A ticket that stands alone, and that of a build itself, add nothing.
#[test]
fn only_a_task_of_a_build_adds_tasks() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let repository = alone(dir.path()).await;
        let (_, _, controller) = begun(&repository, &[]).await;
        let (queue, request) = (name("execute-shell"), TicketRequest::read(br#"{"id": "t"}"#).unwrap());
        let id = repository.claims.post(&queue, request, poster()).await.unwrap();
        let held = claim(&repository, &TicketKey { queue, id }).await.unwrap().unwrap();
        for claim in [controller, held] {
            let refused = repository.claims.write_tasks(&claim, adds(&["x"]), Arc::new(())).await;
            assert!(matches!(refused, Err(Error::ReadOnly(_))), "{refused:?}");
        }
    });
}

/// "It is checked at the close, and again when the task's ticket is posted, parameters put in": an address may come
/// from a parameter that a task recorded.
#[test]
fn the_ticket_of_a_task_that_was_added_is_held_against_allow() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    let config = r#"{"parameters": {"u": "https://good.example/a"}, "tasks": [
        {"type": "execute-shell", "params": {"script": "true"}},
        {"type": "git-checkout", "needs": [], "params": {"repository": "https://good.example/a"}}]}"#;
    let text = r#"{"tasks": [{"type": "git-checkout", "params": {"repository": "${u}"}}]}"#;
    runtime.block_on(async {
        let repository = alone(dir.path()).await;
        let job = configured(&repository, "a", config).await.unwrap();
        let n = repository.builds.trigger(&job, b"", poster()).await.unwrap();
        let _controller = claim(&repository, &control_key(&job, n)).await.unwrap().unwrap();
        post_task(&repository, &job, n, 0).await.unwrap();
        let held = generates(&repository, &key_of(&job, n, 0), text.into()).await;
        let posts = async |index: usize, queue: &str, address: &str| {
            let params = serde_json::json!({"repository": address});
            let text = serde_json::json!({"job": "a", "build": n, "task": index, "params": params, "timeout": 3600});
            let request = TicketRequest::read(text.to_string().as_bytes()).unwrap();
            repository.claims.post(&name(queue), request, poster()).await
        };
        let early = posts(2, "git-checkout", "https://good.example/a").await;
        assert!(
            matches!(early, Err(Error::Invalid(_))),
            "it is not there yet: {early:?}"
        );
        repository.claims.finish(&held, success()).await.unwrap();
        for (queue, address) in [
            ("git-checkout", "https://bad.example/a"),
            ("git-checkout", "/etc"),
            ("own", "https://good.example/a"),
        ] {
            let refused = posts(2, queue, address).await;
            let why = format!("{refused:?}");
            assert!(
                matches!(refused, Err(Error::Invalid(_))) && why.contains("2-git-checkout: "),
                "{queue} {why}"
            );
        }
        posts(2, "git-checkout", "https://good.example/a").await.unwrap();
        // What the configuration has is nobody's to bound here.
        posts(1, "git-checkout", "https://bad.example/a").await.unwrap();
    });
}

/// "`${name}` in them may name what the same script told", and what tasks before it told; nothing that nobody did. Another
/// mount reads the plan as well.
#[test]
fn a_task_that_is_added_names_what_was_told() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    let text = |name: &str| {
        let params = serde_json::json!({"script": "true", "working_directory": format!("${{{name}}}")});
        Bytes::from(
            serde_json::json!({"tasks": [{"type": "execute-shell", "name": name, "params": params}]}).to_string(),
        )
    };
    runtime.block_on(async {
        let (_gate, [first, second]) = two(dir.path()).await;
        let (job, n, _controller) = begun(&first, &[0, 1]).await;
        let before = claim(&first, &key_of(&job, n, 1)).await.unwrap().unwrap();
        before.record("flavour", "debug").unwrap();
        let held = claim(&first, &key_of(&job, n, 0)).await.unwrap().unwrap();
        let write = async |name: &str| first.claims.write_tasks(&held, text(name), Arc::new(())).await;
        for name in ["version", "flavour"] {
            let why = format!("{:?}", write(name).await);
            assert!(why.contains("no parameter is called"), "{name}: {why}");
        }
        first.claims.finish(&before, success()).await.unwrap();
        write("flavour").await.unwrap();
        held.record("version", "7").unwrap();
        write("version").await.unwrap();
        first.claims.finish(&held, success()).await.unwrap();
        let all = ["0-generate", "1-beside", "2-deploy", "3-version"];
        assert_eq!(names(&first, &job, n).await, all);
        second.store.coordination.sync().await.unwrap();
        let there = heard_of(&second).await;
        assert_eq!(names(&second, &there, n).await, all);
        assert_sound(&second).await;
    });
}

/// Stops the first commit that adds tasks until it is let go.
#[derive(Default)]
struct Gate {
    armed: std::sync::atomic::AtomicBool,
    reached: Notify,
    go: Notify,
}

impl Around for Arc<Gate> {
    /// Whether it is stopped.
    type Noted = bool;

    fn asked(&self, asked: &Asked<'_>) -> bool {
        let Asked::Commit(ops) = asked else { return false };
        let sets_build = ops
            .iter()
            .any(|op| matches!(op, Op::Set { path, .. } if path.starts_with("/jobs/")));
        let ends = ops
            .iter()
            .any(|op| matches!(op, Op::Delete { path, .. } if path.ends_with("/claim")));
        sets_build && ends && self.armed.swap(false, std::sync::atomic::Ordering::SeqCst)
    }

    fn pass<'a, T: Send + 'a>(&'a self, stopped: bool, call: Fut<'a, T>) -> Fut<'a, T> {
        Box::pin(async move {
            if stopped {
                self.reached.notify_one();
                self.go.notified().await;
            }
            call.await
        })
    }
}

/// Two mounts of a cluster; the first stops before it adds.
async fn two(dir: &Path) -> (Arc<Gate>, [Arc<Repository>; 2]) {
    let memory = Memory::new();
    let mount = memory.mount();
    format::make(&mount.coordination(), &mount.contents(), false)
        .await
        .unwrap();
    let shared = |mount: &crate::backend::memory::MemoryMount| Stores {
        shared: true,
        ..Stores::alone(mount)
    };
    let gate = Arc::new(Gate::default());
    let first = shared(&mount);
    let first = Stores {
        coordination: Arc::new(Wrapped::around(first.coordination, gate.clone())),
        ..first
    };
    let first = first.open("first", dir).await.unwrap();
    let second = shared(&memory.mount()).open("second", dir).await.unwrap();
    (gate, [first, second])
}

/// Ends a claim of the first mount while its commit is stopped and something else is done.
async fn finish_while(gate: &Arc<Gate>, first: &Arc<Repository>, held: &Arc<Claim>, act: impl Future<Output = ()>) {
    gate.armed.store(true, std::sync::atomic::Ordering::SeqCst);
    let (first, held) = (first.clone(), held.clone());
    let finished = tokio::spawn(async move { first.claims.finish(&held, success()).await });
    tokio::time::timeout(PATIENCE, gate.reached.notified()).await.unwrap();
    act.await;
    gate.go.notify_one();
    tokio::time::timeout(PATIENCE, finished)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

/// "Where two tasks add at once, both do, one after the other." Both have read the plan without the other's.
#[test]
fn two_that_add_at_once_both_do() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let (gate, [first, second]) = two(dir.path()).await;
        let (job, n, _controller) = begun(&first, &[0, 1]).await;
        second.store.coordination.sync().await.unwrap();
        let one = generates(&first, &key_of(&job, n, 0), adds(&["x", "y"])).await;
        let other = generates(&second, &key_of(&job, n, 1), adds(&["z"])).await;
        finish_while(&gate, &first, &one, async {
            second.claims.finish(&other, success()).await.unwrap();
        })
        .await;
        let all = ["0-generate", "1-beside", "2-deploy", "3-z", "4-x", "5-y"];
        assert_eq!(names(&first, &job, n).await, all);
        let build = first.builds.build(&job, n).await.unwrap();
        assert_eq!((build.plan.added_by(3), build.plan.added_by(4)), (Some(1), Some(0)));
        assert_sound(&second).await;
    });
}

/// "A name that another task took meanwhile makes the outcome `error`."
#[test]
fn of_two_that_add_the_same_name_the_second_is_an_error() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let (gate, [first, second]) = two(dir.path()).await;
        let (job, n, _controller) = begun(&first, &[0, 1]).await;
        second.store.coordination.sync().await.unwrap();
        let one = generates(&first, &key_of(&job, n, 0), adds(&["x"])).await;
        let other = generates(&second, &key_of(&job, n, 1), adds(&["x"])).await;
        finish_while(&gate, &first, &one, async {
            second.claims.finish(&other, success()).await.unwrap();
        })
        .await;
        let build = first.builds.build(&job, n).await.unwrap();
        assert_eq!(build.plan.count(), 4);
        assert_eq!(build.task(1).state, TaskState::Success);
        assert_eq!(build.task(0).state, TaskState::Error);
        let why = "another task is called x already (added by 1-beside)";
        assert!(build.task(0).message.ends_with(why), "{}", build.task(0).message);
    });
}

/// "With any other outcome, after an abort … it is discarded": the abort comes when the plan was read.
#[test]
fn an_abort_that_comes_before_the_commit_leaves_the_plan_as_it_was() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let (gate, [first, second]) = two(dir.path()).await;
        let (job, n, _controller) = begun(&first, &[0]).await;
        second.store.coordination.sync().await.unwrap();
        let held = generates(&first, &key_of(&job, n, 0), adds(&["x"])).await;
        let there = heard_of(&second).await;
        finish_while(&gate, &first, &held, async {
            second.control(&there, n, Word::Abort, poster()).await.unwrap();
        })
        .await;
        let build = first.builds.build(&job, n).await.unwrap();
        assert_eq!((build.plan.added(), build.task(0).state), (0, TaskState::Aborted));
    });
}

/// A change of the build's entry that is none of the plan's, such as keep, is only a race.
#[test]
fn what_is_added_is_laid_on_whatever_the_entry_is_by_then() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let (gate, [first, second]) = two(dir.path()).await;
        let (job, n, _controller) = begun(&first, &[0]).await;
        second.store.coordination.sync().await.unwrap();
        let held = generates(&first, &key_of(&job, n, 0), adds(&["x"])).await;
        let there = heard_of(&second).await;
        finish_while(&gate, &first, &held, async {
            second.control(&there, n, Word::Keep, poster()).await.unwrap();
        })
        .await;
        let build = first.builds.build(&job, n).await.unwrap();
        assert!(build.kept() && build.plan.added() == 1);
    });
}

/// The job, once this mount has heard of it: a sync says that its notice is there, and not that it was heeded.
async fn heard_of(repository: &Arc<Repository>) -> Job {
    let began = Instant::now();
    loop {
        if let Some(job) = repository.jobs.get("a") {
            return job;
        }
        assert!(began.elapsed() < PATIENCE, "no notice of the job came");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A coordinator whose notices of builds' entries are on their way for ever; those of tickets come.
struct Half {
    inner: Arc<dyn Coordination>,
    watchers: std::sync::Mutex<Vec<Watcher>>,
}

impl Coordination for Half {
    fn get(&self, path: &str) -> Fut<'_, Option<Entry>> {
        self.inner.get(path)
    }
    fn children(&self, path: &str) -> Fut<'_, Vec<String>> {
        self.inner.children(path)
    }
    fn commit(&self, ops: Vec<Op>) -> Fut<'_, Commit> {
        self.inner.commit(ops)
    }
    fn watch(&self, path: &str) -> Fut<'_, Watch> {
        if !path.starts_with("/jobs") {
            return self.inner.watch(path);
        }
        let (watcher, watch) = Watcher::new();
        self.watchers.lock().unwrap().push(watcher);
        Box::pin(async { Ok(watch) })
    }
    fn sync(&self) -> Fut<'_, ()> {
        self.inner.sync()
    }
    fn session(&self) -> watch::Receiver<Session> {
        self.inner.session()
    }
}

/// A final result may be heard before the entry that has what it added: whoever looks at the build then does not see
/// an end without the tasks.
#[test]
fn nobody_sees_a_task_that_added_without_what_it_added() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let memory = Memory::new();
        let mount = memory.mount();
        format::make(&mount.coordination(), &mount.contents(), false)
            .await
            .unwrap();
        let shared = |mount: &crate::backend::memory::MemoryMount| Stores {
            shared: true,
            ..Stores::alone(mount)
        };
        let first = shared(&mount).open("first", dir.path()).await.unwrap();
        let late = shared(&memory.mount());
        let half = Half {
            inner: late.coordination,
            watchers: std::sync::Mutex::default(),
        };
        let late = Stores {
            coordination: Arc::new(half),
            ..late
        };
        let late = late.open("late", dir.path()).await.unwrap();
        let (job, n, _controller) = begun(&first, &[0]).await;
        let there = late.jobs.find("a").await.unwrap().unwrap();
        let path = live_path(job.uid(), n);
        let _subscription = late.store.subscribe(&there.path()).await.unwrap();
        late.store.coordination.sync().await.unwrap();
        assert_eq!(names(&late, &there, n).await, ALONE);
        let held = generates(&first, &key_of(&job, n, 0), adds(&["x"])).await;
        first.claims.finish(&held, success()).await.unwrap();
        late.store.coordination.sync().await.unwrap();
        let known = late.store.get(&path).await.unwrap().unwrap();
        let is = late.store.coordination.get(&path).await.unwrap().unwrap();
        assert!(known.version < is.version, "it has not heard of the entry");
        let started = Instant::now();
        loop {
            let build = late.builds.build(&there, n).await.unwrap();
            let ended = build.task(0).state == TaskState::Success;
            assert_eq!(build.plan.count(), if ended { 4 } else { 3 });
            if ended {
                break;
            }
            assert!(started.elapsed() < PATIENCE, "it does not hear of the ticket");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}
