//! Builds of strangers: held, approved, ended, and what they may (doc/tree.md).

use serde_json::{Value, json};

use super::driver::Fs;
use super::verbs::{HELLO, errno};

on_both! {
    a_strangers_build_waits_for_its_commit,
    what_is_not_held_has_nothing_to_approve,
    one_that_nobody_approved_is_not_retried,
    a_newer_build_of_the_ref_ends_what_is_held,
    a_hundred_wait_and_the_oldest_of_the_many_goes,
    who_may_approve_and_when,
    what_becomes_of_them_is_the_jobs_to_say,
    links_and_pruning_pass_strangers_over,
    a_stranger_waits_for_no_place_of_the_jobs_own,
    a_strangers_task_is_confined_or_an_error,
    a_strangers_build_triggers_nothing,
    what_the_trigger_gave_stays,
}

/// A commit.
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A trigger of a stranger's build of this pull request.
fn stranger(pull: u32) -> String {
    format!("@trust=untrusted\n@ref=refs/pull/{pull}/head\n@commit={COMMIT}\n@sender=eve\n@sender=bob")
}

fn file(n: u64, name: &str) -> String {
    format!("jobs/a/builds/{n}/{name}")
}

fn json_of(fs: &Fs, n: u64) -> Value {
    serde_json::from_str(&fs.read(&file(n, "build.json"))).unwrap()
}

/// "A held build has the state `held` and no ticket. Its `why` says which commit waits for approval." "Writing exactly the
/// build's commit there starts the build. Another value is ESTALE." "A second approval is EEXIST." "The build stays
/// untrusted."
fn a_strangers_build_waits_for_its_commit(mut fs: Fs) {
    fs.job("a", HELLO);
    assert_eq!(fs.trigger("a", &stranger(1)), 1);
    assert_eq!(
        (fs.read(&file(1, "state")).as_str(), fs.read(&file(1, "trust")).as_str()),
        ("held", "untrusted")
    );
    let why = fs.read(&file(1, "why"));
    assert!(
        why.contains(COMMIT) && why.contains("builds/1/approve") && why.contains("eve, sent by bob"),
        "{why}"
    );
    assert_eq!(fs.list("tickets/build-control"), Vec::<String>::new());
    let names = fs.list("jobs/a/builds/1");
    assert!(
        names.contains(&"approve".to_owned()) && names.contains(&"trust".to_owned()),
        "{names:?}"
    );
    for other in ["ab".repeat(20).as_str(), "main", &COMMIT[..39]] {
        assert_eq!(
            errno(fs.write(&file(1, "approve"), format!("{other}\n"))),
            libc::ESTALE,
            "{other}"
        );
    }
    assert!(fs.read(&file(1, "ctl.error")).contains("another commit"));
    fs.remount();
    assert_eq!(fs.read(&file(1, "state")), "held");
    fs.echo(&file(1, "approve"), COMMIT).unwrap();
    assert_eq!(fs.read(&file(1, "state")), "pending");
    assert_eq!(
        errno(fs.write(&file(1, "approve"), format!("{COMMIT}\n"))),
        libc::EEXIST
    );
    let build = json_of(&fs, 1);
    assert_eq!(
        (&build["trust"], &build["senders"], &build["approved"]["commit"]),
        (&json!("untrusted"), &json!(["eve", "bob"]), &json!(COMMIT))
    );
    assert_eq!(build["approved"]["uid"], fs.caller.uid);
    assert!(fs.read(&file(1, "by")).contains("\napproved "));
    fs.finish("build-control", "a.1.control", "failure");
    assert_eq!(fs.wait_state("a", 1), "failure");
    fs.wait_for("the record", || fs.list("tickets/build-control").is_empty());
    fs.remount();
    // "The approval covers retries of that build."
    fs.echo(&file(1, "ctl"), "retry").unwrap();
    assert_eq!(
        (fs.read(&file(1, "state")).as_str(), fs.read(&file(1, "trust")).as_str()),
        ("pending", "untrusted")
    );
    assert_eq!(json_of(&fs, 1)["approved"], build["approved"]);
}

/// "Of a build that is held, or was": others have no such file. "A build whose trigger gave no `@commit` can't be
/// approved: EPERM."
fn what_is_not_held_has_nothing_to_approve(fs: Fs) {
    fs.job("a", HELLO);
    fs.trigger("a", &format!("@ref=refs/heads/main\n@commit={COMMIT}"));
    assert_eq!(fs.read(&file(1, "trust")), "trusted");
    assert!(!fs.has(&file(1, "approve")) && !fs.list("jobs/a/builds/1").contains(&"approve".to_owned()));
    assert_eq!(errno(fs.open(&file(1, "approve"), libc::O_WRONLY)), libc::ENOENT);
    fs.trigger("a", "@trust=untrusted");
    assert_eq!(fs.read(&file(2, "state")), "held");
    assert!(fs.read(&file(2, "why")).contains("no commit"));
    assert_eq!(errno(fs.write(&file(2, "approve"), format!("{COMMIT}\n"))), libc::EPERM);
    assert_eq!(errno(fs.write(&file(2, "approve"), "\n")), libc::EPERM);
}

/// "It ends as aborted by `abort`." "A build that ended without approval can't be retried: EPERM", "one of a build that
/// has ended EBUSY."
fn one_that_nobody_approved_is_not_retried(mut fs: Fs) {
    fs.job("a", HELLO);
    fs.trigger("a", &stranger(1));
    fs.echo(&file(1, "ctl"), "keep").unwrap();
    assert_eq!(
        (fs.read(&file(1, "state")).as_str(), fs.read(&file(1, "trust")).as_str()),
        ("held", "untrusted")
    );
    fs.echo(&file(1, "ctl"), "abort").unwrap();
    assert_eq!(fs.wait_state("a", 1), "aborted");
    assert_eq!(fs.read(&file(1, "why")), "somebody aborted it");
    assert_eq!(errno(fs.write(&file(1, "approve"), format!("{COMMIT}\n"))), libc::EBUSY);
    for _ in 0..2 {
        assert_eq!(errno(fs.write(&file(1, "ctl"), "retry\n")), libc::EPERM);
        assert_eq!(errno(fs.write(&file(1, "ctl"), "abort\n")), libc::EBUSY);
        assert_eq!(json_of(&fs, 1)["keep"], true);
        fs.remount();
    }
    assert_eq!(
        (fs.read(&file(1, "state")).as_str(), fs.read(&file(1, "trust")).as_str()),
        ("aborted", "untrusted")
    );
    fs.rmdir("jobs/a/builds/1").unwrap();
    fs.rmdir("jobs/a").unwrap();
}

/// "It is ESTALE too if a newer build of the same `@ref` was triggered", trusted or not; that of another ref changes
/// nothing.
fn a_newer_build_of_the_ref_ends_what_is_held(fs: Fs) {
    fs.job("a", HELLO);
    fs.trigger("a", &stranger(1));
    fs.trigger("a", &stranger(2));
    assert_eq!([1, 2].map(|n| fs.read(&file(n, "state"))), ["held", "held"]);
    fs.trigger("a", &stranger(1));
    assert_eq!(
        [1, 2, 3].map(|n| fs.read(&file(n, "state"))),
        ["aborted", "held", "held"]
    );
    assert_eq!(fs.read(&file(1, "why")), "superseded by build 3 of the same ref");
    assert_eq!(
        errno(fs.write(&file(1, "approve"), format!("{COMMIT}\n"))),
        libc::ESTALE
    );
    fs.trigger("a", "@ref=refs/pull/2/head");
    assert_eq!(fs.read(&file(2, "state")), "aborted");
    fs.echo(&file(3, "approve"), COMMIT).unwrap();
    // What runs is not held any more.
    fs.trigger("a", &stranger(1));
    assert_eq!([3, 5].map(|n| fs.read(&file(n, "state"))), ["pending", "held"]);
}

/// "A job has at most 100 of them. Past that, the oldest goes of the sender who has most."
fn a_hundred_wait_and_the_oldest_of_the_many_goes(fs: Fs) {
    fs.job("a", r#"{"tasks":[]}"#);
    let of = |pull: u32, sender: &str| {
        format!("@trust=untrusted\n@ref=refs/pull/{pull}/head\n@commit={COMMIT}\n@sender={sender}")
    };
    fs.trigger("a", &of(0, "one"));
    for pull in 1..100 {
        fs.trigger("a", &of(pull, "many"));
    }
    assert_eq!(
        [1, 2, 100].map(|n| fs.read(&file(n, "state"))),
        ["held", "held", "held"]
    );
    fs.trigger("a", &of(100, "other"));
    assert_eq!(
        [1, 2, 3, 101].map(|n| fs.read(&file(n, "state"))),
        ["held", "aborted", "held", "held"]
    );
    assert!(fs.read(&file(2, "why")).contains("more than 100"));
}

/// "Who may write `ctl` may write `approve`." "While the job is off, or has another owner than at the trigger, approving is
/// EACCES."
fn who_may_approve_and_when(fs: Fs) {
    fs.job("a", HELLO);
    fs.trigger("a", &stranger(1));
    let modes = || ["ctl", "approve"].map(|name| fs.stat(&file(1, name)).unwrap().mode & 0o777);
    assert_eq!(modes()[0], modes()[1]);
    fs.chmod(&file(1, "ctl"), 0o620).unwrap();
    assert_eq!(modes(), [0o620, 0o620]);
    fs.echo("jobs/a/enabled", "off").unwrap();
    assert_eq!(
        errno(fs.write(&file(1, "approve"), format!("{COMMIT}\n"))),
        libc::EACCES
    );
    assert!(fs.read(&file(1, "ctl.error")).contains("switched off"));
    assert_eq!(fs.read(&file(1, "state")), "held");
    fs.echo("jobs/a/enabled", "on").unwrap();
    fs.echo(&file(1, "approve"), &COMMIT.to_uppercase()).unwrap();
    assert_eq!(fs.read(&file(1, "state")), "pending");
    assert!(!fs.has(&file(1, "ctl.error")));
}

/// "The job's `untrusted` says what becomes of it: it is held, it runs, or the trigger is EACCES."
fn what_becomes_of_them_is_the_jobs_to_say(fs: Fs) {
    fs.job("a", r#"{"tasks":[], "untrusted": "run"}"#);
    fs.trigger("a", &stranger(1));
    assert_eq!(
        (fs.read(&file(1, "state")).as_str(), fs.read(&file(1, "trust")).as_str()),
        ("pending", "untrusted")
    );
    fs.finish("build-control", "a.1.control", "failure");
    fs.wait_for("the record", || fs.list("tickets/build-control").is_empty());
    fs.configure("a", r#"{"tasks":[], "untrusted_run_for": ["Eve", "bob"]}"#);
    fs.trigger("a", &stranger(2));
    assert_eq!(fs.read(&file(2, "state")), "pending");
    for senders in ["@sender=eve\n@sender=mallory", "@sender=mallory", ""] {
        let n = fs.trigger("a", &format!("@trust=untrusted\n{senders}"));
        assert_eq!(fs.read(&file(n, "state")), "held", "{senders}");
    }
    // "Nor can one that ran without approval, if its job holds such builds by now."
    fs.configure("a", r#"{"tasks":[]}"#);
    assert_eq!(errno(fs.write(&file(1, "ctl"), "retry\n")), libc::EPERM);
    fs.configure("a", r#"{"tasks":[], "untrusted": "refuse"}"#);
    assert_eq!(errno(fs.write(&file(1, "ctl"), "retry\n")), libc::EACCES);
    assert_eq!(errno(fs.try_trigger("a", &stranger(3))), libc::EACCES);
    assert!(fs.read("jobs/a/trigger.error").contains("untrusted"));
    fs.trigger("a", "");
    for bad in ["@trust=maybe", "@trust=untrusted\n@trust=trusted", "@sender=a b"] {
        assert_eq!(errno(fs.try_trigger("a", bad)), libc::EINVAL, "{bad}");
    }
}

/// "`last-success` and `last-failure` pass it over, `latest` does not." "`keep` counts builds of strangers apart."
fn links_and_pruning_pass_strangers_over(mut fs: Fs) {
    fs.job("a", r#"{"tasks":[], "untrusted": "run", "keep": {"builds": 2}}"#);
    let run = |fs: &Fs, said: &str, result: &str| {
        let n = fs.trigger("a", said);
        fs.finish("build-control", &format!("a.{n}.control"), result);
        fs.wait_for("the record", || fs.list("tickets/build-control").is_empty());
        n
    };
    assert_eq!([run(&fs, "", "success"), run(&fs, "", "failure")], [1, 2]);
    for pull in 3..=7 {
        run(&fs, &stranger(pull), if pull == 7 { "failure" } else { "success" });
    }
    let links = |fs: &Fs| {
        ["latest", "last-success", "last-failure"].map(|link| fs.read(&format!("jobs/a/builds/{link}/build.json")))
    };
    let number = |text: String| serde_json::from_str::<Value>(&text).unwrap()["build"].as_u64().unwrap();
    for _ in 0..2 {
        assert_eq!(links(&fs).map(number), [7, 1, 2]);
        let mut left = Vec::new();
        fs.wait_for("pruning", || {
            left = fs.list("jobs/a/builds");
            left.retain(|name| name.parse::<u64>().is_ok());
            left.len() <= 4
        });
        assert_eq!(left, ["1", "2", "6", "7"]);
        fs.remount();
    }
}

/// "`concurrency` counts them apart": builds of strangers keep none of the job's own waiting.
fn a_stranger_waits_for_no_place_of_the_jobs_own(fs: Fs) {
    fs.job("a", r#"{"tasks":[], "untrusted": "run", "concurrency": 1}"#);
    for pull in 1..=3 {
        fs.trigger("a", &stranger(pull));
    }
    fs.trigger("a", "");
    let first = fs.claim("build-control", "a.1.control").unwrap();
    assert_eq!(errno(fs.claim("build-control", "a.2.control")), libc::EBUSY);
    let own = fs.claim("build-control", "a.4.control").unwrap();
    assert_eq!(errno(fs.claim("build-control", "a.3.control")), libc::EBUSY);
    fs.result("build-control", "a.1.control", "success").unwrap();
    drop(first);
    let second = fs.claim("build-control", "a.2.control").unwrap();
    drop((own, second));
}

/// "Each ticket of its tasks needs the label `untrusted`." "Other queues and environments must stand in the job's
/// `untrusted_types`. Else the task is `error`, and its `why` says what to set."
fn a_strangers_task_is_confined_or_an_error(fs: Fs) {
    fs.queue("lint");
    fs.queue("deploy");
    let tasks = r#"[{"type": "execute-shell", "params": {"script": "true\n"}},
        {"type": "execute-shell", "name": "in", "isolation": "namespace", "network": true, "params": {"script": "true\n"}},
        {"type": "lint"}, {"type": "deploy"}]"#;
    fs.job(
        "a",
        &format!(r#"{{"untrusted": "run", "untrusted_types": ["lint"], "tasks": {tasks}}}"#),
    );
    fs.trigger("a", &stranger(1));
    let control = fs.claim("build-control", "a.1.control").unwrap();
    let script = json!({"script": "true\n"});
    for (queue, ticket) in [
        (
            "execute-shell",
            json!({"job": "a", "build": 1, "task": 0, "params": script}),
        ),
        (
            "execute-shell",
            json!({"job": "a", "build": 1, "task": 1, "params": script, "isolation": "namespace", "network": true}),
        ),
        ("lint", json!({"job": "a", "build": 1, "task": 2})),
        ("deploy", json!({"job": "a", "build": 1, "task": 3})),
    ] {
        fs.post(queue, &ticket);
    }
    let states = ["0-execute-shell", "1-in", "2-lint", "3-deploy"].map(|task| {
        let folder = file(1, &format!("tasks/{task}"));
        (fs.read(&format!("{folder}/state")), fs.read(&format!("{folder}/why")))
    });
    assert_eq!(
        [0, 1, 2, 3].map(|at| states[at].0.as_str()),
        ["error", "posted", "posted", "error"]
    );
    assert!(
        states[0].1.contains("set its isolation") && states[3].1.contains("untrusted_types"),
        "{states:?}"
    );
    assert_eq!(fs.read("tickets/lint/a.1.2/labels"), "untrusted");
    assert_eq!(
        fs.read("tickets/execute-shell/a.1.1/labels"),
        "untrusted\nuntrusted.network"
    );
    let ticket: Value = serde_json::from_str(&fs.read("tickets/execute-shell/a.1.1/ticket.json")).unwrap();
    assert_eq!(ticket["trust"], "untrusted");
    assert_eq!(errno(fs.claim("deploy", "a.1.3")), libc::ENOENT);
    fs.finish("lint", "a.1.2", "success");
    fs.finish("execute-shell", "a.1.1", "success");
    fs.result("build-control", "a.1.control", "error").unwrap();
    assert_eq!(fs.wait_state("a", 1), "error");
    drop(control);
}

/// "It triggers nothing: opening a `trigger` below its tickets' `jobs/` is EACCES."
fn a_strangers_build_triggers_nothing(fs: Fs) {
    fs.job("a", r#"{"tasks":[], "untrusted": "run"}"#);
    fs.job("b", r#"{"tasks":[]}"#);
    fs.trigger("a", &stranger(1));
    fs.trigger("a", "");
    let path = |n: u64| format!("tickets/build-control/a.{n}.control/jobs/b/trigger");
    let claims = [1, 2].map(|n| fs.claim("build-control", &format!("a.{n}.control")).unwrap());
    assert_eq!(errno(fs.open(&path(1), libc::O_WRONLY)), libc::EACCES);
    fs.echo(&path(2), "").unwrap();
    assert_eq!(fs.list("jobs/b/builds"), ["1", "latest"]);
    drop(claims);
}

/// "A parameter that the trigger gave stays: a task that records it is refused with EEXIST. What a task records replaces
/// defaults only."
fn what_the_trigger_gave_stays(mut fs: Fs) {
    fs.job("a", r#"{"parameters": {"given": "1", "other": "2"}, "tasks": [{"type": "execute-shell", "params": {"script": "true\n"}}]}"#);
    fs.trigger("a", "given=mine");
    for run in 0..2 {
        let again = if run == 0 { "" } else { ".r1" };
        let control = fs.claim("build-control", &format!("a.1.control{again}")).unwrap();
        fs.post(
            "execute-shell",
            &json!({"job": "a", "build": 1, "task": 0, "run": run, "params": {"script": "true\n"}}),
        );
        let task = format!("a.1.0{again}");
        let claim = fs.claim("execute-shell", &task).unwrap();
        let params = format!("tickets/execute-shell/{task}/params");
        assert_eq!(errno(fs.write(&format!("{params}/given"), "yours")), libc::EEXIST);
        fs.write(&format!("{params}/other"), "recorded").unwrap();
        fs.write(&format!("{params}/other"), "recorded twice").unwrap();
        fs.write(&format!("{params}/new"), "3").unwrap();
        fs.result("execute-shell", &task, "failure").unwrap();
        drop(claim);
        fs.result("build-control", &format!("a.1.control{again}"), "failure")
            .unwrap();
        drop(control);
        fs.wait_for("the record", || fs.list("tickets/build-control").is_empty());
        let values = ["given", "other", "new"].map(|name| fs.read(&file(1, &format!("params/{name}"))));
        assert_eq!(values, ["mine", "recorded twice", "3"]);
        fs.remount();
        if run == 0 {
            fs.echo(&file(1, "ctl"), "retry").unwrap();
        }
    }
}
