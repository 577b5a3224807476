//! What a stranger's build may be made of: the commit that was approved, and what its configuration says (doc/tree.md).

use serde_json::{Value, json};

use super::driver::Fs;
use super::verbs::errno;

on_both! {
    what_was_approved_is_what_is_checked_out,
    what_nothing_would_take_is_not_approved,
    what_a_script_records_chooses_nothing_of_others,
}

/// A commit, and another.
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const OTHER: &str = "ffffffffffffffffffffffffffffffffffffffff";

/// A trigger as the webhook makes it of a stranger's pull request.
fn told() -> String {
    let pull = "refs/pull/7/head";
    format!(
        "@trust=untrusted\n@ref={pull}\n@commit={COMMIT}\n@sender=eve\nref={pull}\n\
         @cause=github pull_request octo/hello {COMMIT} {pull} eve"
    )
}

fn checkout(repository: &str, name: &str) -> Value {
    json!({"type": "git-checkout", "params": {"repository": repository, "ref": name}})
}

/// Makes a job that checks out these, and more.
fn job(fs: &Fs, more: &str, tasks: &[Value]) {
    let tasks = Value::from(tasks.to_vec());
    fs.job(
        "a",
        &format!(r#"{{"parameters": {{"ref": null}}, {more} "tasks": {tasks}}}"#),
    );
}

/// Posts a task of the first build to its queue; its state and why.
fn post(fs: &Fs, queue: &str, task: usize, params: &Value) -> (String, String) {
    let isolation = if queue == "execute-shell" { "namespace" } else { "none" };
    fs.post(
        queue,
        &json!({"job": "a", "build": 1, "task": task, "params": params, "isolation": isolation}),
    );
    let folder = format!("jobs/a/builds/1/tasks/{task}-{queue}");
    (fs.read(&format!("{folder}/state")), fs.read(&format!("{folder}/why")))
}

/// "Of what is approved exactly that commit is checked out, whoever posts the task": the mount takes no git-checkout of
/// the build without it.
fn what_was_approved_is_what_is_checked_out(fs: Fs) {
    let (own, tools) = ("https://github.com/octo/hello", "https://git.example/ci/tools");
    let tasks = [
        checkout(own, "${ref}"),
        checkout("ssh://git@mirror.example/octo/hello.git", "${ref}"),
        checkout(own, "main"),
        checkout(own, "${ref}"),
        checkout(tools, "main"),
        checkout(tools, "main"),
    ];
    job(&fs, "", &tasks);
    fs.trigger("a", &told());
    fs.echo("jobs/a/builds/1/approve", COMMIT).unwrap();
    let control = fs.claim("build-control", "a.1.control").unwrap();
    let (pull, commit) = ("refs/pull/7/head", COMMIT);
    for (task, params, state) in [
        (0, json!({"repository": own, "ref": pull}), "error"),
        (
            1,
            json!({"repository": "ssh://git@mirror.example/octo/hello.git", "ref": pull, "commit": OTHER}),
            "error",
        ),
        (2, json!({"repository": own, "ref": "main", "commit": ""}), "error"),
        (3, json!({"repository": own, "ref": pull, "commit": commit}), "posted"),
        (4, json!({"repository": tools, "ref": "main"}), "posted"),
        (5, json!({"repository": tools, "ref": pull}), "error"),
    ] {
        let (found, why) = post(&fs, "git-checkout", task, &params);
        assert_eq!(found, state, "{task}: {why}");
        assert_eq!(state == "error", why.contains("params."), "{task}: {why}");
    }
    assert_eq!(errno(fs.claim("git-checkout", "a.1.0")), libc::ENOENT);
    drop(control);
}

/// "A commit that no git-checkout of the configuration would take can't be approved: EPERM", and its task is `error` where
/// the job lets strangers run.
fn what_nothing_would_take_is_not_approved(fs: Fs) {
    let (tools, mirror) = (
        "https://git.example/ci/tools",
        "ssh://git@mirror.example/mirrors/hello.git",
    );
    let tasks = [checkout(tools, "main"), checkout(mirror, "${ref}")];
    job(&fs, "", &tasks);
    fs.trigger("a", &told());
    assert_eq!(
        errno(fs.write("jobs/a/builds/1/approve", format!("{COMMIT}\n"))),
        libc::EPERM
    );
    let why = fs.read("jobs/a/builds/1/ctl.error");
    assert!(why.contains("octo/hello") && why.contains("0-git-checkout"), "{why}");
    assert_eq!(fs.read("jobs/a/builds/1/state"), "held");
    fs.echo("jobs/a/builds/1/ctl", "abort").unwrap();
    fs.wait_state("a", 1);
    fs.rmdir("jobs/a").unwrap();

    job(&fs, r#""untrusted": "run","#, &tasks);
    fs.trigger("a", &told());
    let control = fs.claim("build-control", "a.1.control").unwrap();
    for (task, params) in [
        (0, json!({"repository": tools, "ref": "main"})),
        (
            1,
            json!({"repository": mirror, "ref": "refs/pull/7/head", "commit": COMMIT}),
        ),
    ] {
        let (state, why) = post(&fs, "git-checkout", task, &params);
        assert_eq!(state, "error");
        assert!(why.contains("octo/hello"), "{why}");
    }
    drop(control);
}

/// "What a script of it records sets nothing of tasks of other types": it names no job whose artifacts are copied. What
/// git-checkout records does.
fn what_a_script_records_chooses_nothing_of_others(fs: Fs) {
    let copy = |job: &str| json!({"type": "copy-artifacts", "params": {"job": job, "build": "latest"}});
    let tasks = [
        json!({"type": "git-checkout", "params": {"repository": "https://github.com/octo/hello"}}),
        json!({"type": "execute-shell", "isolation": "namespace", "params": {"script": "true\n"}}),
        copy("${base_job}"),
        copy("${base_job}"),
        copy("b${git_commit}"),
        copy("${new}"),
    ];
    let tasks = Value::from(tasks.to_vec());
    fs.job(
        "a",
        &format!(r#"{{"untrusted": "run", "parameters": {{"base_job": "public", "new": "x"}}, "tasks": {tasks}}}"#),
    );
    fs.trigger("a", "@trust=untrusted");
    let control = fs.claim("build-control", "a.1.control").unwrap();
    let record = |queue: &str, task: usize, params: Value, recorded: &[(&str, &str)]| {
        post(&fs, queue, task, &params);
        let id = format!("a.1.{task}");
        let claim = fs.claim(queue, &id).unwrap();
        for (name, value) in recorded {
            fs.write(&format!("tickets/{queue}/{id}/params/{name}"), *value)
                .unwrap();
        }
        fs.result(queue, &id, "success").unwrap();
        drop(claim);
    };
    let repository = json!({"repository": "https://github.com/octo/hello"});
    record("git-checkout", 0, repository, &[("git_commit", "1")]);
    let script = json!({"script": "true\n"});
    record(
        "execute-shell",
        1,
        script,
        &[("base_job", "private"), ("new", "private")],
    );
    assert_eq!(fs.read("jobs/a/builds/1/params/base_job"), "private");
    for (task, job, state) in [
        (2, "private", "error"),
        (3, "public", "posted"),
        (4, "b1", "posted"),
        (5, "private", "error"),
    ] {
        let (found, why) = post(&fs, "copy-artifacts", task, &json!({"job": job, "build": "latest"}));
        assert_eq!(found, state, "{task}: {why}");
        assert_eq!(state == "error", why.contains("params.job"), "{task}: {why}");
    }
    drop(control);
}
