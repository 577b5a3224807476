//! Ends that nobody wrote: of a task that may be tried once, whatever ends its claim, and of one that its `when` leaves out.

use std::fs;
use std::path::Path;
use std::time::Duration;

use distcifs_tests::job::shell_task;
use distcifs_tests::wait::USUAL;
use distcifs_tests::{Mount, Worker, wait_for};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// How long something that must not happen is waited for: a claim of a dead worker is over within one
/// second, and whoever waits for the ticket has it at once.
const NOT_AGAIN: Duration = Duration::from_secs(3);

/// Long enough that only its end can end it.
const FOR_EVER: &str = "exec sleep 100";

/// A script that leaves its mark outside of the tree and nothing in it, and goes on for ever.
fn deploys(mount: &Mount) -> Value {
    let mut task = shell_task(&format!("echo x >> '{}/deployed'\n{FOR_EVER}\n", mount.out().display()));
    task["attempts"] = json!(1);
    task
}

/// How often the script ran.
fn runs(out: &Path) -> usize {
    let text = fs::read_to_string(out.join("deployed")).unwrap_or_default();
    text.lines().count()
}

/// A mount with workers and a build whose deployment runs.
fn deploying() -> (Mount, Vec<Worker>) {
    let mount = Mount::new();
    let workers = Worker::usual(&mount, 1);
    mount.job_of("a", &[deploys(&mount)]);
    mount.trigger("a", "");
    wait_for("the script", USUAL, || runs(&mount.out()) == 1);
    (mount, workers)
}

/// It ended as error, says how to retry, was done once; and a retry does it again.
fn ended_once(mount: &Mount) {
    let _workers = Worker::usual(mount, 2);
    assert_eq!(mount.wait_state("a", 1), "error", "{}", mount.why("a", 1));
    let why = mount.why("a", 1);
    assert!(
        why.contains("attempts 1") && why.contains("retry into jobs/a/builds/1/ctl"),
        "{why}"
    );
    std::thread::sleep(NOT_AGAIN);
    assert_eq!(runs(&mount.out()), 1, "{}", mount.console("a", 1));
    mount.run("echo retry > jobs/a/builds/1/ctl");
    wait_for("the retry", USUAL, || runs(&mount.out()) == 2);
    mount.run("echo abort > jobs/a/builds/1/ctl");
}

/// "`attempts` 1 means once: any end of a claim without a result ends the task as `error`": its worker
/// is killed.
#[test]
fn a_worker_that_is_killed() {
    let (mount, mut workers) = deploying();
    workers.iter_mut().for_each(Worker::kill9);
    ended_once(&mount);
}

/// The same: its worker is told to stop, and its script has left no trace in the tree.
#[test]
fn a_worker_that_is_stopped() {
    let (mount, workers) = deploying();
    drop(workers);
    ended_once(&mount);
}

/// The same: the mount is killed, which no worker outlives, and is mounted again.
#[test]
fn a_mount_that_is_killed() {
    let (mount, workers) = deploying();
    mount.kill9();
    mount.mount();
    drop(workers);
    ended_once(&mount);
}

/// The same: the mount is ended in order.
#[test]
fn a_mount_that_is_restarted() {
    let (mount, workers) = deploying();
    distcifs_tests::process::signal(mount.daemon(), Signal::SIGTERM);
    drop(workers);
    wait_for("the mount to end", USUAL, || !mount.is_mounted());
    mount.mount();
    ended_once(&mount);
}

/// "Only `rm claim` by a claimant that began nothing gives it back": nothing changed in workspace/ and
/// artifacts/, the console not opened to write, no parameter recorded.
#[test]
fn rm_claim_gives_back_what_was_not_begun() {
    let mount = Mount::new();
    mount.queue("q");
    let post = |id: &str| mount.post("q", &json!({"id": id, "attempts": 1}));
    post("unbegun");
    mount.run("cd tickets/q/unbegun; echo $$ > claim; cat ticket.json > /dev/null; ls workspace; rm claim");
    assert_eq!(mount.read("tickets/q/unbegun/.wait"), "");
    mount.finish("q", "unbegun", "success");
    let beginnings = [
        ("file", ": > workspace/file"),
        ("artifact", "mkdir artifacts/folder"),
        ("console", ": >> console"),
        ("param", "echo 1 > params/version"),
    ];
    for (id, begin) in beginnings {
        post(id);
        mount.run(&format!("cd tickets/q/{id}; echo $$ > claim; {begin}; rm claim"));
        let result = mount.read(&format!("tickets/q/{id}/.wait"));
        assert!(
            result.starts_with("error\n") && result.contains("post it again"),
            "{id}: {result}"
        );
    }
}

/// "Two things alone open it again": a process id that is refused does so too only where nothing was begun.
#[test]
fn a_refused_process_id_ends_what_was_begun() {
    let mount = Mount::new();
    mount.queue("q");
    // No process has such a number.
    let refused = "echo 4194305 >&9 2> /dev/null";
    for (id, begin) in [
        ("unbegun", ":"),
        ("begun", "echo deployed > console; : > workspace/file"),
    ] {
        mount.post("q", &json!({"id": id, "attempts": 1}));
        let done = mount.sh(&format!("cd tickets/q/{id}; exec 9> claim; {begin}; {refused}"));
        assert!(!done.ok(), "{id}: the number is refused");
    }
    let result = mount.read("tickets/q/begun/.wait");
    assert!(
        result.starts_with("error\n") && result.contains("post it again"),
        "{result}"
    );
    assert_eq!(mount.read("tickets/q/unbegun/.wait"), "");
    mount.finish("q", "unbegun", "success");
}

/// A descriptor of `.next` that is closed after an id was read ends that ticket; one that may be tried
/// more often is open again.
#[test]
fn an_id_that_was_read_counts() {
    let mount = Mount::new();
    mount.queue("q");
    mount.post("q", &json!({"id": "once", "attempts": 1}));
    mount.post("q", &json!({"id": "twice", "attempts": 2}));
    for expected in ["once", "twice"] {
        let (next, id) = mount.ask("q", "").expect("a ticket");
        assert_eq!(id, expected);
        drop(next);
    }
    wait_for("the end", USUAL, || {
        mount.read("tickets/q/once/.wait").starts_with("error")
    });
    wait_for("it is open again", USUAL, || !mount.has("tickets/q/twice/claim"));
    assert_eq!(mount.read("tickets/q/twice/.wait"), "");
}

/// "Else it ends as `skipped`, which counts as success for all that waits for it and for the build." "What waits for a
/// skipped task starts from the workspace that the task would have started from."
#[test]
fn a_task_whose_when_does_not_match_is_skipped() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    let mut only = shell_task("exit 3\n");
    only["name"] = json!("only");
    only["when"] = json!({ "ref": ["*", "!*wip*"] });
    let tasks = [
        shell_task("echo of the first > made\n"),
        only.clone(),
        shell_task("cat made\n"),
    ];
    mount.job(
        "a",
        &json!({ "parameters": { "ref": "main" }, "tasks": tasks }).to_string(),
    );
    let skipped = mount.build("a", "ref=wip/x", "success");
    let of = |build: u64, file: &str| mount.read(&format!("jobs/a/builds/{build}/tasks/1-only/{file}"));
    assert!(mount.console("a", skipped).contains("of the first"));
    assert_eq!(of(skipped, "state"), "skipped");
    assert_eq!(of(skipped, "why"), "its when leaves it out: ref is wip/x");
    assert_eq!(mount.why("a", skipped), "all tasks ended well");
    // It is derived, so it is the same once the build is recorded.
    wait_for("the tickets to be tidied away", USUAL, || {
        mount.list("tickets/execute-shell").is_empty() && mount.list("tickets/build-control").is_empty()
    });
    assert_eq!(
        (of(skipped, "state"), of(skipped, "why")),
        ("skipped".into(), "its when leaves it out: ref is wip/x".into())
    );
    // What the trigger says with @ goes before the parameter.
    let said = mount.build("a", "ref=main\n@ref=refs/heads/wip", "success");
    assert_eq!(of(said, "why"), "its when leaves it out: ref is refs/heads/wip");
    let failed = mount.build("a", "", "failure");
    assert_eq!(of(failed, "state"), "failure");
    mount.job(
        "b",
        &json!({ "parameters": { "ref": "main" }, "tasks": [only] }).to_string(),
    );
    let nothing = mount.build("b", "ref=wip", "success");
    assert_eq!(mount.why("b", nothing), "no task fits ref wip");
}
