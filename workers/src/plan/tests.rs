//! The plan of builds whose tasks all stand in their configuration.

use super::*;
use serde_json::json;

/// A build of `[name, state, needs, extra]` tasks.
fn build(tasks: &[(&str, &[usize], Value)]) -> Build {
    let one = |(i, (state, needs, extra)): (usize, &(&str, &[usize], Value))| {
        let mut task = json!({ "index": i, "type": "t", "state": state, "needs": needs });
        for (k, v) in extra.as_object().unwrap() {
            task[k] = v.clone();
        }
        task
    };
    let tasks: Vec<Value> = tasks.iter().enumerate().map(one).collect();
    Build::parse(
        json!({ "job": "j", "build": 7, "params": { "ref": "x" }, "tasks": tasks })
            .to_string()
            .as_bytes(),
    )
    .unwrap()
}

fn posts(tasks: &[(&str, &[usize], Value)], want: &[usize]) {
    assert_eq!(plan(&build(tasks)), Plan::Post(want.to_vec()));
}

fn ends(tasks: &[(&str, &[usize], Value)], want: TaskState, line: &str) {
    assert_eq!(plan(&build(tasks)), Plan::Finish(want, line.to_owned()));
}

/// "The first git-checkout of the build takes `@commit`, and so do others of the same `repository`. One that
/// asks for another commit ends as error."
#[test]
fn the_commit_of_the_trigger_is_checked_out() {
    let (said, other) = ("ab".repeat(20), "cd".repeat(20));
    let task = |(index, params): (usize, &Value)| {
        let kind = if index == 0 { "execute-shell" } else { "git-checkout" };
        json!({ "index": index, "type": kind, "params": params, "state": "waiting" })
    };
    let of = |commit: &str, params: &[Value]| {
        let tasks: Vec<Value> = params.iter().enumerate().map(task).collect();
        let build = json!({ "job": "j", "build": 7, "commit": commit, "params": { "r": "x" }, "tasks": tasks });
        Build::parse(build.to_string().as_bytes()).unwrap()
    };
    let params = [
        json!({ "repository": "x" }),
        json!({ "repository": "${r}" }),
        json!({ "repository": "x", "commit": "" }),
        json!({ "repository": "y" }),
        json!({ "repository": "x", "commit": said.to_uppercase() }),
        json!({ "repository": "x", "commit": other }),
        json!({ "repository": "y", "commit": other }),
    ];
    let took = |commit: &str, index: usize| {
        let build = of(commit, &params);
        let posting = posting(&build, index)?;
        Ok::<_, String>(posting.params.get("commit").and_then(Value::as_str).map(str::to_owned))
    };
    for (index, wanted) in [
        (0, None),
        (1, Some(&said)),
        (2, Some(&said)),
        (3, None),
        (4, Some(&said)),
        (6, Some(&other)),
    ] {
        assert_eq!(took(&said, index), Ok(wanted.cloned()), "{index}");
    }
    assert!(took(&said, 5).unwrap_err().contains(&other));
    assert_eq!(took("", 1), Ok(None));
    assert_eq!(took("", 5), Ok(Some(other)));
}

/// "`@commit` is of the repository that the webhook named": in the form of 2013 the tools may come first.
#[test]
fn the_commit_goes_to_the_repository_that_it_is_of() {
    let (said, other) = ("ab".repeat(20), "cd".repeat(20));
    let took = |cause: &str, repositories: &[&str]| {
        let task = |(index, repository): (usize, &&str)| {
            let params = json!({ "repository": repository, "ref": "main" });
            json!({ "index": index, "type": "git-checkout", "params": params, "state": "waiting" })
        };
        let tasks: Vec<Value> = repositories.iter().enumerate().map(task).collect();
        let build = json!({ "job": "j", "build": 7, "commit": said, "cause": cause, "tasks": tasks });
        let build = Build::parse(build.to_string().as_bytes()).unwrap();
        let takes = |index: &usize| posting(&build, *index).unwrap().params.contains_key("commit");
        (0..tasks.len()).filter(takes).collect::<Vec<_>>()
    };
    let (tools, app) = ("https://github.com/o/tools", "https://github.com/O/app.git");
    let told = format!("github push o/app {said} refs/heads/main x");
    // "Only tasks of the configuration say which": what a checkout added changes nothing of that in a retry.
    let with_added = |added: &str| {
        let task = |index: usize, repository: &str| {
            json!({ "index": index, "type": "git-checkout",
            "params": { "repository": repository }, "state": "waiting" })
        };
        let mut last = task(1, added);
        last["added_by"] = json!(0);
        let tasks = [task(0, "/srv/git/app"), last];
        let build = json!({ "job": "j", "build": 7, "commit": said, "cause": told, "tasks": tasks });
        let build = Build::parse(build.to_string().as_bytes()).unwrap();
        [0, 1].map(|index| posting(&build, index).unwrap().params.contains_key("commit"))
    };
    assert_eq!(with_added(tools), [true, false]);
    assert_eq!(with_added(app), [true, false]);
    assert_eq!(with_added("/srv/git/app"), [true, true]);
    for (cause, repositories, wanted) in [
        (told.as_str(), &[tools, app][..], &[1][..]),
        (&told, &[app, tools], &[0]),
        (&told, &[tools, app, "git@github.com:o/app"], &[1, 2]),
        // A mirror: there is nothing else that it could be.
        (&told, &["/srv/git/app"], &[0]),
        (&told, &[tools, "/srv/git/app"], &[]),
        // By hand, or of another commit.
        ("", &[tools, app], &[0]),
        (
            &format!("github push o/app {other} refs/heads/main x"),
            &[tools, app, tools],
            &[0, 2],
        ),
    ] {
        assert_eq!(took(cause, repositories), wanted, "{cause} {repositories:?}");
    }
}

fn none() -> Value {
    json!({})
}

#[test]
fn no_tasks_is_success() {
    ends(&[], TaskState::Success, "");
}

#[test]
fn one_after_the_other() {
    posts(&[("waiting", &[], none()), ("waiting", &[0], none())], &[0]);
    posts(&[("success", &[], none()), ("waiting", &[0], none())], &[1]);
    assert_eq!(
        plan(&build(&[("posted", &[], none()), ("waiting", &[0], none())])),
        Plan::Wait
    );
    assert_eq!(
        plan(&build(&[("running", &[], none()), ("waiting", &[0], none())])),
        Plan::Wait
    );
    ends(
        &[("success", &[], none()), ("success", &[0], none())],
        TaskState::Success,
        "",
    );
}

#[test]
fn side_by_side() {
    let diamond = |a, b, c, d| {
        build(&[
            (a, &[], none()),
            (b, &[0], none()),
            (c, &[0], none()),
            (d, &[1, 2], none()),
        ])
    };
    assert_eq!(
        plan(&diamond("success", "waiting", "waiting", "waiting")),
        Plan::Post(vec![1, 2])
    );
    assert_eq!(plan(&diamond("success", "success", "running", "waiting")), Plan::Wait);
    assert_eq!(
        plan(&diamond("success", "success", "success", "waiting")),
        Plan::Post(vec![3])
    );
    assert_eq!(plan(&diamond("success", "failure", "running", "waiting")), Plan::Wait);
    let Plan::Finish(TaskState::Failure, _) = plan(&diamond("success", "failure", "success", "waiting")) else {
        panic!("a failure in one arm");
    };
}

#[test]
fn a_failure_ends_the_build_and_says_where() {
    let tasks = [
        ("success", &[][..], none()),
        ("failure", &[0], json!({ "name": "unit", "exit": 2 })),
        ("waiting", &[1], none()),
    ];
    ends(&tasks, TaskState::Failure, "task 1-unit: exit 2");
    ends(
        &[("error", &[], json!({ "message": "no sh\nmore" }))],
        TaskState::Error,
        "task 0-t: no sh",
    );
    ends(
        &[("aborted", &[], none()), ("waiting", &[0], none())],
        TaskState::Aborted,
        "task 0-t: aborted",
    );
}

#[test]
fn allowed_failures_count_as_success() {
    let allowed = json!({ "allow_failure": true });
    posts(&[("failure", &[], allowed.clone()), ("waiting", &[0], none())], &[1]);
    ends(&[("error", &[], allowed)], TaskState::Success, "");
}

#[test]
fn always_runs_when_all_it_needs_has_ended() {
    let always = || json!({ "always": true });
    posts(
        &[
            ("failure", &[], none()),
            ("waiting", &[0], none()),
            ("waiting", &[1], always()),
        ],
        &[2],
    );
    let waits = [
        ("failure", &[][..], none()),
        ("running", &[], none()),
        ("waiting", &[0, 1], always()),
    ];
    assert_eq!(plan(&build(&waits)), Plan::Wait);
    ends(
        &[
            ("failure", &[], none()),
            ("waiting", &[0], none()),
            ("failure", &[1], always()),
        ],
        TaskState::Failure,
        "task 0-t: failure",
    );
    ends(
        &[("success", &[], none()), ("failure", &[0], always())],
        TaskState::Failure,
        "task 1-t: failure",
    );
}

#[test]
fn an_abort_starts_only_always() {
    let mut aborted = build(&[
        ("success", &[], none()),
        ("waiting", &[0], none()),
        ("waiting", &[1], json!({ "always": true })),
    ]);
    aborted.abort = true;
    assert_eq!(plan(&aborted), Plan::Post(vec![2]));
    aborted.tasks[2].state = TaskState::Success;
    assert_eq!(plan(&aborted), Plan::Finish(TaskState::Aborted, "aborted".into()));
    aborted.tasks[0].state = TaskState::Running;
    assert_eq!(plan(&aborted), Plan::Wait);
}

#[test]
fn after_an_abort_nothing_begins_while_something_ends() {
    let always = || json!({ "always": true });
    let mut aborted = build(&[
        ("running", &[], none()),
        ("waiting", &[], always()),
        ("running", &[], always()),
    ]);
    aborted.abort = true;
    assert_eq!(plan(&aborted), Plan::Wait);
    aborted.tasks[0].state = TaskState::Aborted;
    assert_eq!(plan(&aborted), Plan::Post(vec![1]));
    aborted.abort_always = true;
    assert_eq!(plan(&aborted), Plan::Wait);
    aborted.tasks[2].state = TaskState::Aborted;
    assert_eq!(plan(&aborted), Plan::Finish(TaskState::Aborted, "aborted".into()));
}

#[test]
fn a_retry_keeps_what_succeeded() {
    let mut again = build(&[
        ("success", &[], none()),
        ("failure", &[0], none()),
        ("waiting", &[1], none()),
    ]);
    again.run = 2;
    assert_eq!(plan(&again), Plan::Post(vec![1]));
    assert_eq!(posting(&again, 1).unwrap().id, "j.7.1.r2");
    again.tasks[1].run = Some(2);
    let Plan::Finish(TaskState::Failure, _) = plan(&again) else {
        panic!("failed again")
    };
    again.tasks[1].state = TaskState::Success;
    assert_eq!(plan(&again), Plan::Post(vec![2]));
}

#[test]
fn a_circle_ends_in_an_error() {
    let Plan::Finish(TaskState::Error, line) = plan(&build(&[("waiting", &[1], none()), ("waiting", &[0], none())]))
    else {
        panic!("a circle must end");
    };
    assert!(line.contains("0-t"), "{line}");
}

#[test]
fn the_ticket_follows_the_first_need() {
    let digest = |d: &str| json!({ "workspace": d });
    let tasks = [
        ("success", &[][..], digest("w0")),
        ("success", &[0], digest("w1")),
        ("waiting", &[1], none()),
        (
            "waiting",
            &[2, 0],
            json!({ "params": { "a": "${ref}", "script": "${ref}" }, "timeout": 5, "labels": ["l"] }),
        ),
    ];
    let posting = serde_json::to_value(posting(&build(&tasks), 3).unwrap()).unwrap();
    assert_eq!(
        posting,
        json!({ "id": "j.7.3", "job": "j", "build": 7, "task": 3, "run": 0, "labels": ["l"],
            "params": { "a": "x", "script": "${ref}" }, "timeout": 5, "workspace": "w1" })
    );
}

/// What the record says of how a task is run goes into its ticket as it stands; what is null there is left
/// out, for a ticket has no null.
#[test]
fn settings_go_into_the_ticket_as_they_stand() {
    let settings = json!({ "labels": ["l"], "timeout": 600, "attempts": 2, "environment": { "B": "2", "A": "x" },
        "isolation": "lxc", "image": "job:base", "limits": { "cpus": 0.5, "disk": 7 }, "network": true,
        "console_limit": 67108864 });
    let posted = |extra: &Value| {
        let build = build(&[("waiting", &[][..], extra.clone())]);
        serde_json::to_value(posting(&build, 0).unwrap()).unwrap()
    };
    let whole = posted(&settings);
    for (name, value) in settings.as_object().unwrap() {
        assert_eq!(&whole[name], value, "{name}");
    }
    let few = posted(&json!({ "labels": [], "timeout": null, "image": null, "limits": {}, "network": false }));
    assert_eq!(
        few,
        json!({ "id": "j.7.0", "job": "j", "build": 7, "task": 0, "run": 0, "labels": [], "params": {}, "limits": {},
            "network": false })
    );
}

#[test]
fn a_parameter_nobody_set_is_named() {
    let tasks = [("waiting", &[][..], json!({ "params": { "a": "${nope}" } }))];
    assert!(posting(&build(&tasks), 0).unwrap_err().contains("nope"));
}
