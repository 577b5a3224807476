//! An abort waits: what was aborted may end, and nothing begins beside it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use distcifs_tests::job::shell_task;
use distcifs_tests::programs::project;
use distcifs_tests::wait::USUAL;
use distcifs_tests::{Mount, Sh, Worker, errno, wait_for};
use serde_json::{Value, json};

/// A script that takes its time to end, and says so, and marks each TERM, its end and its next begin.
fn slow_to_end(mount: &Mount) -> String {
    let out = mount.out().display().to_string();
    format!(
        "end() {{ echo x >> '{out}/terms'; echo 'cleaning up'; sleep 2 & wait; echo cleaned; date +%s%N > '{out}/ended'; exit 1; }}
         trap end TERM; date +%s%N > '{out}/began.'$BUILD_NUMBER
         [ $BUILD_NUMBER != 1 ] || for i in $(seq 600); do sleep 0.1; done\n"
    )
}

/// What was written into a file outside of the tree, as a number.
fn mark(mount: &Mount, name: &str) -> u64 {
    let text = fs::read_to_string(mount.out().join(name)).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// Two builds, one after the other, of a task and its clean-up; the first runs and is aborted.
fn abort_first(mount: &Mount, task: Value) {
    let mut clean = shell_task(&format!(
        "date +%s%N > '{}/always.'$BUILD_NUMBER\n",
        mount.out().display()
    ));
    clean["always"] = json!(true);
    clean["name"] = json!("clean");
    let after_failure = json!({"type": "execute-shell", "params": {"script": "false"}});
    let tasks = json!([task, after_failure, clean]);
    mount.job("a", &json!({"concurrency": 1, "tasks": tasks}).to_string());
    mount.trigger("a", "");
    mount.trigger("a", "");
    wait_for("the first build", USUAL, || mark(mount, "began.1") > 0);
}

/// It ended by itself, after one TERM, with all that it said; then came the clean-up and the next build.
fn one_after_the_other(mount: &Mount) {
    mount.run("echo abort > jobs/a/builds/1/ctl");
    assert_eq!(mount.wait_state("a", 1), "aborted", "{}", mount.why("a", 1));
    wait_for("the next build", USUAL, || mark(mount, "began.2") > 0);
    let (ended, next) = (mark(mount, "ended"), mark(mount, "began.2"));
    assert!(ended > 0 && next >= ended, "{ended} {next}");
    let console = mount.console("a", 1);
    assert!(console.contains("cleaning up\ncleaned"), "{console}");
    let terms = fs::read_to_string(mount.out().join("terms")).expect("it was told");
    assert_eq!(terms, "x\n", "TERM comes once");
    assert_eq!(mount.read("jobs/a/builds/1/tasks/0-execute-shell/state"), "aborted");
}

/// "Neither `always` tasks nor the next build of a `concurrency` begin before the aborted script has
/// ended; what its traps print stands in the console; TERM comes once": execute-shell.
#[test]
fn nothing_begins_before_an_aborted_script_has_ended() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 3);
    let task = shell_task(&slow_to_end(&mount));
    abort_first(&mount, task);
    // An abort that is repeated does not tell the script twice; it leaves the clean-up out.
    mount.run("echo abort > jobs/a/builds/1/ctl");
    one_after_the_other(&mount);
    assert_eq!(
        mark(&mount, "always.1"),
        0,
        "a second abort stops what runs always, too"
    );
}

/// The same for what runs `always`, which waits until the script has ended.
#[test]
fn a_clean_up_waits_for_what_was_aborted() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 3);
    let out = mount.out().display().to_string();
    let mut clean = shell_task(&format!("date +%s%N > '{out}/always.'$BUILD_NUMBER\n"));
    clean["always"] = json!(true);
    clean["name"] = json!("clean");
    let mut task = shell_task(&slow_to_end(&mount));
    // Nothing makes it come later but the abort: it needs what is skipped.
    task["name"] = json!("slow");
    task["needs"] = json!([]);
    let skipped = json!({"type": "execute-shell", "name": "skipped", "labels": ["nobody"], "needs": [], "params": {"script": "true"}});
    clean["needs"] = json!(["skipped"]);
    let tasks = json!([task, skipped, clean]);
    mount.job("a", &json!({"concurrency": 1, "tasks": tasks}).to_string());
    mount.trigger("a", "");
    wait_for("the script", USUAL, || mark(&mount, "began.1") > 0);
    mount.run("echo abort > jobs/a/builds/1/ctl");
    let state = |task: &str| mount.read(&format!("jobs/a/builds/1/tasks/{task}/state"));
    assert_eq!(
        (state("0-slow"), state("1-skipped")),
        ("running".into(), "aborted".into())
    );
    assert_eq!(mount.wait_state("a", 1), "aborted");
    assert!(mark(&mount, "always.1") >= mark(&mount, "ended"));
    assert!(mark(&mount, "ended") > 0);
}

/// The same for a worker made of worker.sh.
#[test]
fn a_shell_worker_ends_what_was_aborted_before_anything_begins() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    mount.queue("hand");
    let worker = mount.out().join("hand");
    let work = slow_to_end(&mount).replace(
        "$BUILD_NUMBER",
        "$(sed -n 's/.*\"build\": \\([0-9]*\\),*/\\1/p' ticket.json)",
    );
    let text = format!(
        "#!/bin/sh\nqueue=hand usage='Waits.'\nwork() {{\n{work}\n}}\n. '{}'\n",
        project().join("workers/worker.sh").display()
    );
    fs::write(&worker, text).expect("own folder");
    fs::set_permissions(&worker, fs::Permissions::from_mode(0o755)).expect("own folder");
    let _hand = mount.start(&format!("exec '{}' \"$M\" --as root", worker.display()));
    abort_first(&mount, json!({"type": "hand"}));
    mount.run("echo abort > jobs/a/builds/1/ctl");
    assert_eq!(mount.wait_state("a", 1), "aborted", "{}", mount.why("a", 1));
    wait_for("the next build", USUAL, || mark(&mount, "began.2") > 0);
    let (ended, clean, next) = (mark(&mount, "ended"), mark(&mount, "always.1"), mark(&mount, "began.2"));
    assert!(ended > 0 && clean >= ended && next >= ended, "{ended} {clean} {next}");
    let console = mount.console("a", 1);
    assert!(console.contains("cleaning up\ncleaned"), "{console}");
    assert_eq!(
        fs::read_to_string(mount.out().join("terms")).expect("it was told"),
        "x\n"
    );
}

/// A build of one task of the queue `hand`, claimed by a process of its own that does as the script says.
fn claimed(mount: &Mount, script: &str) -> Sh {
    mount.queue("hand");
    mount.job("a", r#"{"tasks":[{"type":"hand"}]}"#);
    mount.trigger("a", "");
    wait_for("the ticket", USUAL, || mount.has("tickets/hand/a.1.0"));
    let worker = mount.start(&format!(
        "cd tickets/hand/a.1.0; command exec 9>claim; echo held
        while s=$(cat .wait) && [ -z \"$s\" ]; do :; done; echo \"waited: $s\"; {script}"
    ));
    wait_for("the claim", USUAL, || worker.so_far().contains("held"));
    worker
}

/// "`.wait` gives `aborted` at once, the claim stays until its claimant ends it": what is written then
/// is kept, and the outcome is `aborted` whatever the result says. The build goes on meanwhile, says
/// what it waits for, and can't be retried.
#[test]
fn an_aborted_claim_can_be_ended_by_its_claimant() {
    let mount = Mount::new();
    let _control = Worker::start(&mount, "build-control", &[]);
    let out = mount.out().display().to_string();
    let worker = claimed(
        &mount,
        &format!(
            "until [ -e '{out}/go' ]; do sleep 0.05; done
            echo last words >> console && echo kept > artifacts/log && echo 0 > result && cat result; cat claim"
        ),
    );
    mount.run("echo abort > jobs/a/builds/1/ctl");
    wait_for("the worker to be told", USUAL, || {
        worker.so_far().contains("waited: aborted")
    });
    assert_eq!(mount.state("a", 1), "running");
    let why = mount.why("a", 1);
    assert!(why.starts_with("aborting: waits for 0-hand on "), "{why}");
    assert_eq!(errno(mount.write("jobs/a/builds/1/ctl", "retry\n")), libc::EBUSY);
    fs::write(mount.out().join("go"), "").expect("own folder");
    assert_eq!(mount.wait_state("a", 1), "aborted");
    let said = worker.finish().stdout;
    assert!(said.contains("waited: aborted\naborted\nsomebody aborted it"), "{said}");
    assert_eq!(mount.read("jobs/a/builds/1/console"), "last words");
    assert_eq!(mount.read("jobs/a/builds/1/artifacts/log"), "kept");
    assert_eq!(mount.read("jobs/a/builds/1/tasks/0-hand/state"), "aborted");
}

/// A claimant that dies, or gives the ticket back, ends what was aborted: it is not open again.
#[test]
fn an_aborted_ticket_is_not_open_again() {
    for end in ["kill -9 $$", "rm claim", "exec 9>&-; sleep 1"] {
        let mount = Mount::new();
        let _control = Worker::start(&mount, "build-control", &[]);
        let worker = claimed(&mount, end);
        mount.run("echo abort > jobs/a/builds/1/ctl");
        assert_eq!(mount.wait_state("a", 1), "aborted", "{end}");
        assert_eq!(mount.read("jobs/a/builds/1/tasks/0-hand/attempt"), "1", "{end}");
        drop(worker);
    }
}

/// The same when the mount goes meanwhile: the next one finds it, and the build ends.
#[test]
fn an_aborted_ticket_ends_with_its_mount() {
    let mount = Mount::new();
    let control = Worker::start(&mount, "build-control", &[]);
    let mut worker = claimed(&mount, "exec sleep 100");
    mount.run("echo abort > jobs/a/builds/1/ctl");
    wait_for("the worker to be told", USUAL, || {
        worker.so_far().contains("waited: aborted")
    });
    mount.kill9();
    worker.kill9();
    mount.mount();
    drop(control);
    let _control = Worker::start(&mount, "build-control", &[]);
    assert_eq!(mount.wait_state("a", 1), "aborted", "{}", mount.why("a", 1));
    assert_eq!(mount.read("jobs/a/builds/1/tasks/0-hand/state"), "aborted");
}
