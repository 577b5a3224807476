//! Several mounts record one build, and some of them are told late.

use distcifs_settings::state::TaskState;
use tokio::sync::Notify;

use super::holes::Late;
use super::*;
use crate::backend::memory::{Memory, MemoryMount};
use crate::repository::format;
use crate::repository::model::build::live_path;
use crate::repository::model::ticket::part_key;
use crate::storage::around::{Around, Asked, Wrapped};
use crate::storage::{Fut, Op};

/// Two tasks, of two queues.
const TWO: &str = r#"{"tasks": [
    {"type": "execute-shell", "params": {"script": "true\n"}}, {"type": "other", "needs": []}
]}"#;

/// Holds up the commit that tidies a build away.
#[derive(Default)]
struct Gate {
    reached: Notify,
    open: Notify,
}

impl Around for Arc<Gate> {
    type Noted = bool;

    fn asked(&self, asked: &Asked<'_>) -> bool {
        let tidies = |op: &Op| matches!(op, Op::Delete { path, .. } if path.starts_with("/jobs/"));
        matches!(asked, Asked::Commit(ops) if ops.iter().any(tidies))
    }

    fn pass<'a, T: Send + 'a>(&'a self, shut: bool, call: Fut<'a, T>) -> Fut<'a, T> {
        Box::pin(async move {
            if shut {
                self.reached.notify_one();
                self.open.notified().await;
            }
            call.await
        })
    }
}

fn shared(mount: &MemoryMount) -> Stores {
    Stores {
        shared: true,
        ..Stores::alone(mount)
    }
}

/// "Who records a build reads its entry and its tickets from the coordinator": the second mount remembers the entry
/// and some of the tickets, and asks for the others when the first has recorded the build and tidied it away. A task
/// of which there is no ticket counts as skipped: the record would be replaced by one without what it published.
#[test]
fn who_has_heard_half_of_the_end_replaces_no_record() {
    assert!((0..TRIES).any(|_| recorded_by_both()), "the first was never before it");
}

/// The second mount looks for ended builds too, when it begins: in some tries it tidies the build away before the first.
const TRIES: u32 = 50;

/// Two mounts record one build. `false`: the second was not late, as it did all of it itself.
fn recorded_by_both() -> bool {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let (memory, gate) = (Memory::new(), Arc::new(Gate::default()));
        let mount = memory.mount();
        format::make(&mount.coordination(), &mount.contents(), false)
            .await
            .unwrap();
        let first = shared(&mount);
        let first = Stores {
            coordination: Arc::new(Wrapped::around(first.coordination, gate.clone())),
            ..first
        };
        let first = first.open("first", dir.path()).await.unwrap();
        let (uid, gid) = me();
        let access = Access { uid, gid, mode: 0o755 };
        first.tops.make_queue(&name("other"), access).await.unwrap();
        let job = configured(&first, "a", TWO).await.unwrap();
        let n = first.builds.trigger(&job, b"", poster()).await.unwrap();
        let controller = first.claims.claim(&control_key(&job, n), claimant()).await.unwrap();
        let keys = [task_key(&job, n), part_key("other", "a", n, "1", 0).unwrap()];
        for (index, key) in keys.iter().enumerate() {
            let text = format!(r#"{{"job": "a", "build": {n}, "task": {index}, "params": {{"script": "true"}}}}"#);
            let request = TicketRequest::read(text.as_bytes()).unwrap();
            first.claims.post(&key.queue, request, poster()).await.unwrap();
            let held = claim(&first, key).await.unwrap().unwrap();
            work(&first, &held).await.unwrap();
            first.claims.finish(&held, success()).await.unwrap();
        }
        first.claims.finish(&controller, success()).await.unwrap();
        gate.reached.notified().await;
        // The second remembers what it reads here, and is told of nothing after it.
        let late = shared(&memory.mount());
        let late = Stores {
            coordination: Arc::new(Wrapped::around(late.coordination, Late::default())),
            ..late
        };
        let late = late.open("late", dir.path()).await.unwrap();
        let there = late.jobs.find("a").await.unwrap().unwrap();
        let _subscription = late.store.subscribe(&there.path()).await.unwrap();
        let live = live_path(job.uid(), n);
        for path in [live.clone(), control_key(&job, n).path(), keys[0].path()] {
            if late.store.get(&path).await.unwrap().is_none() {
                return false;
            }
        }
        gate.open.notify_one();
        let started = Instant::now();
        while first.builds.is_unfinished(&job, n).await.unwrap() {
            assert!(started.elapsed() < PATIENCE, "it is not tidied away");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if late.store.get(&live).await.unwrap().is_none() {
            return false;
        }
        late.builds.record_now(&there, n).await.unwrap();
        let record = first.builds.stored_record(&job, n).await.unwrap().0.unwrap();
        for task in &record.tasks {
            assert_eq!(task.state, TaskState::Success);
            assert!(task.artifacts.is_some());
        }
        // Nor does it show such a thing to anybody.
        let shown = late.builds.build(&there, n).await.unwrap();
        assert_eq!(
            (0..2).map(|i| shown.task(i).state).collect::<Vec<_>>(),
            [TaskState::Success; 2]
        );
        true
    })
}
