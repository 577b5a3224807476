//! What a build costs in calls of the stores, as doc/storage.md tells it.

use std::collections::BTreeMap;

use super::*;
use crate::backend::embedded::Embedded;
use crate::storage::counted::{Call, Counted};
use crate::tree::requests::Tree;
use crate::tree::{Caller, Ino};

/// A store of which every call is noted.
type Store = Counted<Embedded>;

/// Opens a repository on one.
async fn counted(dir: &Path) -> (Store, Arc<Repository>) {
    let store = Counted::new(Embedded::open(&dir.join("store")).unwrap());
    let repository = open(&store, dir).await.unwrap();
    (store, repository)
}

/// How often each thing was done that asks or changes a store, by what it was done for.
fn table(calls: &[Call]) -> BTreeMap<&'static str, BTreeMap<&'static str, usize>> {
    let mut table: BTreeMap<_, BTreeMap<_, usize>> = BTreeMap::new();
    for call in calls {
        *table.entry(call.doing).or_default().entry(call.verb).or_default() += 1;
    }
    table
}

/// All that is written of a call, for a test that fails.
fn lines(calls: &[Call]) -> String {
    calls.iter().map(|call| format!("{call}\n")).collect()
}

/// Goes through a build of one task, each step under its name, and waits until it is tidied away.
async fn counted_build(store: &Store, repository: &Arc<Repository>, job: &Job) -> Vec<Call> {
    store.take();
    let n = store
        .on_behalf_of("trigger", repository.builds.trigger(job, b"", poster()))
        .await
        .unwrap();
    let (control, task) = (control_key(job, n), task_key(job, n));
    let controller = store
        .on_behalf_of("claim", repository.claims.claim(&control, claimant()))
        .await
        .unwrap();
    store.on_behalf_of("post", post(repository, job, n)).await.unwrap();
    let claim = store
        .on_behalf_of("claim", repository.claims.claim(&task, claimant()))
        .await
        .unwrap();
    store.on_behalf_of("output", work(repository, &claim)).await.unwrap();
    store
        .on_behalf_of("result", repository.claims.finish(&claim, success()))
        .await
        .unwrap();
    store
        .on_behalf_of("final", repository.claims.finish(&controller, success()))
        .await
        .unwrap();
    // Asked of the store inside, so that it is not counted.
    let started = Instant::now();
    let live = crate::repository::model::build::live_path(job.uid(), n);
    while store.inner().get(&live).await.unwrap().is_some() {
        assert!(started.elapsed() < PATIENCE, "recording the build");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    store.take()
}

/// Most entries that are read beside a build by whoever hears of its changes: each ticket twice when it was
/// claimed, when it ended and when it is tidied away, and what the record is made of. Changes that are heard of
/// together are looked at once.
const HEARD_MAX: usize = 24;

/// "Trigger, claim, post, claim, result, final: six writes of the coordinator one after another, seven in all,
/// and two updates of records that nobody waits for"; and the table of what is read for it, at most.
#[test]
fn a_build_of_one_task_costs_six_writes_one_after_another() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let (store, repository) = counted(dir.path()).await;
        let job = job(&repository, "hello").await.unwrap();
        // The first one finds what later ones know.
        counted_build(&store, &repository, &job).await;
        let mut calls = counted_build(&store, &repository, &job).await;
        // What is heard late of the one before.
        calls.retain(|call| !call.what.contains("/hello.1."));
        let mut table = table(&calls);
        // What was just read is cached until a change of it is told.
        let mut entries = |doing: &str| {
            let step = table.get_mut(doing).unwrap();
            step.remove("get").unwrap_or_default()
        };
        let read = ["trigger", "claim", "post", "beside"].map(&mut entries);
        let most = [1, 4, 2, HEARD_MAX];
        assert!(
            read.iter().zip(most).all(|(read, most)| *read <= most),
            "{read:?}: {}",
            lines(&calls)
        );
        let expected: [(&str, &[(&str, usize)]); 7] = [
            // The folders of the result are stored by threads of their own, and made durable.
            (
                "beside",
                &[("commit", 1), ("put", 2), ("query", 2), ("sync", 3), ("update", 2)],
            ),
            ("claim", &[("commit", 2)]),
            ("final", &[("commit", 1)]),
            ("output", &[("append", 2), ("sync", 1)]),
            ("post", &[("commit", 1)]),
            ("result", &[("commit", 1)]),
            ("trigger", &[("commit", 1)]),
        ];
        let expected = expected.map(|(doing, counts)| (doing, counts.iter().copied().collect()));
        assert_eq!(table, BTreeMap::from(expected), "{}", lines(&calls));
    });
}

/// "Nothing for notifications": their tickets are made with the commit that takes the entry of the build away.
#[test]
fn a_build_that_tells_costs_no_commit_more() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    let entries = r#"[{"on": ["*"], "type": "irc"}, {"on": ["changed"], "type": "irc"}]"#;
    let config = CONFIG.replace(r#"{"tasks""#, &format!(r#"{{"notify": {entries}, "tasks""#));
    runtime.block_on(async {
        let (store, repository) = counted(dir.path()).await;
        let job = configured(&repository, "hello", &config).await.unwrap();
        counted_build(&store, &repository, &job).await;
        let mut calls = counted_build(&store, &repository, &job).await;
        calls.retain(|call| !call.what.contains("/hello.1."));
        let count = |doing: &str, verb: &str| {
            let of = |call: &&Call| (call.doing, call.verb) == (doing, verb);
            calls.iter().filter(of).count()
        };
        let commits = ["trigger", "claim", "post", "result", "final", "beside"].map(|doing| count(doing, "commit"));
        assert_eq!(commits, [1, 2, 1, 1, 1, 1], "{}", lines(&calls));
        assert_eq!(count("beside", "update"), 2);
        assert_eq!(repository.store.children("/tickets/notify").await.unwrap().len(), 2);
    });
}

/// The same store, as one of many mounts has it.
async fn as_one_of_many(store: &Store, dir: &Path) -> Arc<Repository> {
    let stores = Stores {
        shared: true,
        ..Stores::alone(store)
    };
    stores.open("many", dir).await.unwrap()
}

/// What is done through the tree as the kernel does it.
struct Mounted {
    tree: Tree,
    caller: Caller,
}

impl Mounted {
    fn new(repository: &Arc<Repository>) -> Mounted {
        let (uid, gid) = me();
        let tid = std::process::id();
        Mounted {
            tree: Tree::new(repository.clone(), Vec::new()).unwrap(),
            caller: Caller { tid, uid, gid },
        }
    }

    /// Looks a path up.
    async fn find(&self, path: &str) -> Ino {
        let mut at = Ino(1);
        for name in path.split('/') {
            let found = self.tree.lookup(self.caller, at, name.into()).await.unwrap();
            at = found.attributes.attr.ino;
        }
        at
    }

    /// Triggers as `echo > trigger` does.
    async fn trigger(&self, file: Ino) {
        let flags = libc::O_WRONLY | libc::O_TRUNC;
        let handle = self.tree.open(self.caller, file, flags).await.unwrap().handle;
        let text = Bytes::from_static(b"\n");
        self.tree
            .write(self.caller, (file, handle), 0, text, false)
            .await
            .unwrap();
        self.tree.flush(self.caller, file, handle).await.unwrap();
        self.tree.release(file, handle);
    }

    /// The calls of a stat.
    async fn stat(&self, store: &Store, file: Ino) -> Vec<Call> {
        store.take();
        let stat = self.tree.getattr(self.caller, file, None);
        store.on_behalf_of("stat", stat).await.unwrap();
        let mut calls = store.take();
        // How long a console is it asks by an append that none takes, which is no entry and no record.
        calls.retain(|call| call.doing == "stat" && call.verb != "append");
        calls
    }
}

/// "Nothing for the addition": what a result adds goes with its one commit, and the build's entry is read for it.
#[test]
fn a_result_that_adds_tasks_costs_no_commit_more() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let (store, repository) = counted(dir.path()).await;
        let job = configured(&repository, "hello", CONFIG_THAT_ADDS).await.unwrap();
        let n = repository.builds.trigger(&job, b"", poster()).await.unwrap();
        let control = repository.claims.claim(&control_key(&job, n), claimant()).await;
        let _controller = control.unwrap();
        post(&repository, &job, n).await.unwrap();
        let held = repository.claims.claim(&task_key(&job, n), claimant()).await.unwrap();
        work(&repository, &held).await.unwrap();
        let text = Bytes::from_static(ADDED.as_bytes());
        repository.claims.write_tasks(&held, text, Arc::new(())).await.unwrap();
        // Once in a store's life the first use raises its format.
        repository.builds.gate.pass("tasks.json").await.unwrap();
        store.take();
        let finished = repository.claims.finish(&held, success());
        store.on_behalf_of("result", finished).await.unwrap();
        let calls = store.take();
        let commits = calls
            .iter()
            .filter(|call| (call.doing, call.verb) == ("result", "commit"));
        assert_eq!(commits.count(), 1, "{}", lines(&calls));
        assert_eq!(repository.builds.build(&job, n).await.unwrap().plan.count(), 2);
    });
}

/// "Where two tasks add at once, both do, one after the other": of those of one mount none does its work in vain. With n
/// that add there are n commits, and two bodies for each.
#[test]
fn tasks_that_add_at_once_wait_for_each_other() {
    const ADDERS: usize = 40;
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    let config = serde_json::json!({"tasks": [{
        "type": "execute-shell", "params": {"script": "true"}, "matrix": {"x": (0..ADDERS).collect::<Vec<_>>()},
    }]});
    runtime.block_on(async {
        let (store, repository) = counted(dir.path()).await;
        let job = configured(&repository, "hello", &config.to_string()).await.unwrap();
        let n = repository.builds.trigger(&job, b"", poster()).await.unwrap();
        let control = repository.claims.claim(&control_key(&job, n), claimant()).await;
        let _controller = control.unwrap();
        let mut held = Vec::new();
        for index in 0..ADDERS {
            post_task(&repository, &job, n, index).await.unwrap();
            let key = key_of(&job, n, index);
            let claim = repository.claims.claim(&key, claimant()).await.unwrap();
            let task =
                serde_json::json!({"type": "execute-shell", "name": format!("t{index}"), "params": {"script": "true"}});
            let text = serde_json::json!({"tasks": [task]}).to_string();
            repository
                .claims
                .write_tasks(&claim, text.into(), Arc::new(()))
                .await
                .unwrap();
            held.push(claim);
        }
        repository.builds.gate.pass("tasks.json").await.unwrap();
        store.take();
        let finish = |claim: Arc<Claim>| {
            let (store, repository) = (store.clone(), repository.clone());
            tokio::spawn(async move {
                store
                    .on_behalf_of("result", repository.claims.finish(&claim, success()))
                    .await
            })
        };
        let results: Vec<_> = held.into_iter().map(finish).collect();
        for result in results {
            result.await.unwrap().unwrap();
        }
        let calls = store.take();
        let count = |verb: &str| {
            calls
                .iter()
                .filter(|call| (call.doing, call.verb) == ("result", verb))
                .count()
        };
        assert_eq!(count("commit"), ADDERS, "{}", lines(&calls));
        assert!(
            count("put") <= 2 * ADDERS && count("sync") <= 2 * ADDERS,
            "{}",
            lines(&calls)
        );
        assert_eq!(repository.builds.build(&job, n).await.unwrap().plan.count(), 2 * ADDERS);
    });
}

/// How often a configuration is read.
fn heads(calls: &[Call]) -> usize {
    calls.iter().filter(|call| call.what.ends_with(" config")).count()
}

/// "A trigger reads the job's configuration at most once, and not at all when it is unchanged here": from the
/// open to the close.
#[test]
fn a_trigger_reads_the_configuration_once_at_most() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let (store, repository) = counted(dir.path()).await;
        let job = job(&repository, "hello").await.unwrap();
        let alone = Mounted::new(&repository);
        let file = alone.find("jobs/hello/trigger").await;
        for at_most in [1, 0, 0] {
            store.take();
            alone.trigger(file).await;
            let calls = store.take();
            assert!(heads(&calls) <= at_most, "{}", lines(&calls));
        }
        // What was written here is what the next trigger takes.
        let mut held = repository.configs.lock(&job, true).await.unwrap();
        let text = CONFIG.replace("true", "false");
        let written = repository.configs.write(&job, &mut held, text.into(), 0).await.unwrap();
        drop(held);
        store.take();
        alone.trigger(file).await;
        assert!(heads(&store.take()) <= 1);
        let newest = repository
            .builds
            .build_numbers(&job)
            .await
            .unwrap()
            .into_iter()
            .max()
            .unwrap();
        let build = repository.builds.build(&job, newest).await.unwrap();
        assert_eq!(build.config_entry().digest, written.unwrap().digest);

        let shared = as_one_of_many(&store, dir.path()).await;
        let many = Mounted::new(&shared);
        let file = many.find("jobs/hello/trigger").await;
        for _ in 0..2 {
            store.take();
            many.trigger(file).await;
            let calls = store.take();
            assert_eq!(heads(&calls), 1, "{}", lines(&calls));
        }
    });
}

/// The files of a build, and of its task.
const FILES: [&str; 14] = [
    "",
    "state",
    "why",
    "cause",
    "commit",
    "by",
    "build.json",
    "config.json",
    "console",
    "ctl",
    "params",
    "tasks",
    "tasks/0-execute-shell/state",
    "tasks/0-execute-shell/console",
];

/// Those that tell of the tasks.
fn tells_of_tasks(file: &str) -> bool {
    ["state", "why", "build.json"].contains(&file) || file.starts_with("tasks/")
}

/// "A stat of a file of a build reads its entry, while it is not finished the ticket of build-control, and its
/// record, each once at most; nothing where these are watched and have not changed."
#[test]
fn a_stat_of_a_file_of_a_build_reads_one_entry_and_one_record_at_most() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let (store, repository) = counted(dir.path()).await;
        let job = job(&repository, "hello").await.unwrap();
        let first = repository.builds.trigger(&job, b"", poster()).await.unwrap();
        build(&repository, &job, first).await.unwrap();
        let second = repository.builds.trigger(&job, b"", poster()).await.unwrap();
        let control = repository
            .claims
            .claim(&control_key(&job, second), claimant())
            .await
            .unwrap();
        post(&repository, &job, second).await.unwrap();
        let alone = Mounted::new(&repository);
        let shared = as_one_of_many(&store, dir.path()).await;
        let many = Mounted::new(&shared);
        for n in [first, second] {
            for file in FILES {
                let path = format!("jobs/hello/builds/{n}/{file}");
                let path = path.trim_end_matches('/');
                let ino = alone.find(path).await;
                // What was done before may still be told.
                let started = Instant::now();
                loop {
                    let calls = alone.stat(&store, ino).await;
                    if calls.is_empty() {
                        break;
                    }
                    assert!(started.elapsed() < PATIENCE, "{path}: {}", lines(&calls));
                }
                if tells_of_tasks(file) {
                    continue;
                }
                let ino = many.find(path).await;
                many.stat(&store, ino).await;
                let calls = many.stat(&store, ino).await;
                let most = if n == second { 2 } else { 1 };
                let entries = calls.iter().filter(|call| call.verb == "get").count();
                assert!(entries <= most, "{path}: {}", lines(&calls));
                let records = calls.iter().filter(|call| call.verb == "query").count();
                assert!(records <= 1, "{path}: {}", lines(&calls));
                assert_eq!(calls.len(), entries + records, "{path}: {}", lines(&calls));
            }
        }
        drop(control);
    });
}

/// The reads of tickets by who follows a console.
fn of_tickets(calls: &[Call]) -> Vec<Call> {
    let is = |call: &&Call| call.doing == "follow" && call.what.contains("/tickets");
    calls.iter().filter(is).cloned().collect()
}

/// "Following a console costs no read of tickets": as `tail -f` does, which asks for the length and reads on.
#[test]
fn following_a_console_reads_no_ticket() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let (store, repository) = counted(dir.path()).await;
        let job = job(&repository, "hello").await.unwrap();
        let n = repository.builds.trigger(&job, b"", poster()).await.unwrap();
        let _control = repository
            .claims
            .claim(&control_key(&job, n), claimant())
            .await
            .unwrap();
        post(&repository, &job, n).await.unwrap();
        let claim = repository.claims.claim(&task_key(&job, n), claimant()).await.unwrap();
        let shared = as_one_of_many(&store, dir.path()).await;
        for mount in [Mounted::new(&repository), Mounted::new(&shared)] {
            let (tree, caller) = (&mount.tree, mount.caller);
            for file in ["console", "tasks/0-execute-shell/console"] {
                let ino = mount.find(&format!("jobs/hello/builds/{n}/{file}")).await;
                let handle = tree.open(caller, ino, libc::O_RDONLY).await.unwrap().handle;
                let length = || tree.getattr(caller, ino, Some(handle));
                // One of many is told of changes from a moment later on.
                let started = Instant::now();
                loop {
                    store.take();
                    store.on_behalf_of("follow", length()).await.unwrap();
                    if of_tickets(&store.take()).is_empty() {
                        break;
                    }
                    assert!(started.elapsed() < PATIENCE, "{file}");
                }
                let mut at = length().await.unwrap().attr.size;
                for _ in 0..3 {
                    {
                        let mut console = claim.console.lock().await;
                        console
                            .append(&repository.consoles, &claim, LINE.as_bytes())
                            .await
                            .unwrap();
                    }
                    store.take();
                    let follow = async {
                        let size = length().await.unwrap().attr.size;
                        let data = tree.read(caller, ino, handle, at, 1 << 16).await.unwrap();
                        assert_eq!((&data[..], size), (LINE.as_bytes(), at + LINE.len() as u64));
                        at = size;
                    };
                    store.on_behalf_of("follow", follow).await;
                    assert_eq!(of_tickets(&store.take()), [], "{file}");
                }
                tree.release(ino, handle);
            }
        }
    });
}

/// Builds of so many tasks, each of which needs a place in a group that parameters name.
fn grouped(tasks: usize) -> String {
    let task = r#"{"type": "execute-shell", "needs": [], "concurrency": {"group": "on-${where}"},
        "params": {"script": "true\n"}}"#;
    format!(
        r#"{{"parameters": {{"where": "test"}}, "tasks": [{}]}}"#,
        vec![task; tasks].join(",")
    )
}

/// "However many others there are, so it costs the same": to post a task that needs a place of a group reads nothing
/// of those that it does not wait for.
#[test]
fn posting_a_task_of_a_group_costs_the_same_in_a_large_build() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let (store, first) = counted(dir.path()).await;
        drop(first);
        // One that follows no queue reads each entry that it looks at.
        let many = Repository::open(Setup {
            coordination: Arc::new(store.clone()),
            contents: Arc::new(store.clone()),
            node: name("many"),
            attempts: dir.path().join("many"),
            store: "test".into(),
            coordinator: "test".into(),
            shared: true,
        });
        let many = many.await.unwrap();
        let mut reads = Vec::new();
        for tasks in [4, 60] {
            let job = configured(&many, &format!("of-{tasks}"), &grouped(tasks))
                .await
                .unwrap();
            let n = many.builds.trigger(&job, b"", poster()).await.unwrap();
            let _controller = many.claims.claim(&control_key(&job, n), claimant()).await.unwrap();
            for index in 0..tasks - 1 {
                post_task(&many, &job, n, index).await.unwrap();
            }
            store.take();
            let posted = post_task(&many, &job, n, tasks - 1);
            store.on_behalf_of("post", posted).await.unwrap();
            let calls = store.take();
            let of_post = calls.iter().filter(|call| call.doing == "post");
            reads.push(of_post.count());
            let ticket = many.tickets.get(&key_of(&job, n, tasks - 1)).await.unwrap().unwrap();
            assert_eq!(ticket.ticket.group.unwrap().name, "on-test");
        }
        assert_eq!(reads[0], reads[1], "of 4, and of 60");
    });
}

/// "However many are held, a push asks for them twice": for their names, and for the marks together, which this store
/// counts each. Of those of other refs nothing else is read.
#[test]
fn of_what_strangers_hold_a_push_reads_the_marks_alone() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let (store, repository) = counted(dir.path()).await;
        let job = job(&repository, "hello").await.unwrap();
        let push = b"@ref=refs/heads/main";
        repository.builds.trigger(&job, push, poster()).await.unwrap();
        let reads = async || {
            store.take();
            let trigger = repository.builds.trigger(&job, push, poster());
            store.on_behalf_of("trigger", trigger).await.unwrap();
            let calls = store.take();
            calls.iter().filter(|call| call.doing == "trigger").count()
        };
        let alone = reads().await;
        for pull in 0..100 {
            let said = format!("@trust=untrusted\n@ref=refs/pull/{pull}/head");
            let held = repository.builds.trigger(&job, said.as_bytes(), poster()).await;
            held.unwrap();
        }
        let crowded = reads().await;
        assert_eq!(crowded, alone + 100, "100 marks, and what is read where none is held");
    });
}

/// Whoever waits for a place reads what it waits for, and need not have all tickets of all users listed for that;
/// nor need whoever asks why it waits.
#[test]
fn a_build_that_waits_has_no_queue_listed() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let (store, repository) = counted(dir.path()).await;
        for (text, bound) in [("group", r#"{"group": "deploy"}"#), ("number", "1")] {
            let config = CONFIG.replacen('{', &format!(r#"{{"concurrency": {bound},"#), 1);
            let job = configured(&repository, text, &config).await.unwrap();
            let mut numbers = Vec::new();
            for _ in 0..3 {
                numbers.push(repository.builds.trigger(&job, b"", poster()).await.unwrap());
            }
            let first = control_key(&job, numbers[0]);
            let _runs = repository.claims.claim(&first, claimant()).await.unwrap();
            let last = control_key(&job, numbers[2]);
            let started = Instant::now();
            while !repository.queue_index.is_open(&last) {
                assert!(started.elapsed() < PATIENCE, "it is told of");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            store.take();
            let claimed = store.on_behalf_of("claim", repository.claims.claim(&last, claimant()));
            let claimed = claimed.await;
            assert!(matches!(claimed, Err(Error::Busy(_))), "{text}: {:?}", claimed.err());
            let build = repository.builds.build(&job, numbers[2]).await.unwrap();
            store.on_behalf_of("why", repository.why(&build)).await;
            let mut calls = store.take();
            calls.retain(|call| call.verb == "children" && call.what.contains("/tickets"));
            assert!(calls.is_empty(), "{text}: {}", lines(&calls));
        }
    });
}
