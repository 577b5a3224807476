//! Configurations, triggers and tickets as users write them, good and bad.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use super::*;

mod arbitrary;
mod ceilings;
mod golden;
mod own;
mod pipelines;
mod requests;
mod texts;

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

/// Reads a configuration that must be good.
fn good(config: &Value) -> JobConfig {
    let text = config.to_string();
    JobConfig::read(text.as_bytes(), Some(&name("hello"))).unwrap_or_else(|faults| panic!("{faults:?} in {text}"))
}

/// The words of the faults of a configuration, without their places.
fn faults(config: &Value) -> Vec<String> {
    let text = config.to_string();
    let faults = JobConfig::read(text.as_bytes(), Some(&name("hello"))).expect_err(&text);
    faults.into_iter().map(|fault| fault.what).collect()
}

/// A configuration of these tasks.
fn of_tasks(tasks: Value) -> Value {
    json!({"parameters": {"ref": "main", "token": null}, "tasks": tasks})
}

/// A script called so that waits for these.
fn script(name: &str, needs: Value) -> Value {
    let mut task = json!({"type": "execute-shell", "name": name, "params": {"script": "true"}});
    if !needs.is_null() {
        task["needs"] = needs;
    }
    task
}

/// Asserts that one task has one fault, which contains these words.
#[track_caller]
fn refused(task: Value, words: &str) {
    let found = faults(&of_tasks(json!([task])));
    assert!(
        found.len() == 1 && found[0].contains(words),
        "wanted {words:?}, found {found:?}"
    );
}

#[test]
fn a_configuration_of_2013_is_valid_as_it_is() {
    let text = r#"{
    "configuration-version": "2013-02-26",
    "job_id": "hello",
    "tasks":
    [
        { "type": "git-checkout",
          "params": { "repository": "https://git.example.org/hello.git", "ref": "refs/heads/master", "checkout-dir": "hello" } },
        { "type": "execute-shell",
          "params": { "working_directory": "hello", "script": "make ${TARGET}\n", "nodelabels": ["linux", "x86_64"] } },
        { "type": "publish-artifacts", "params": { "artifacts": ["hello/out/*.tar", "hello/build.log" ] } },
        { "type": "copy-artifacts", "params": { "job": "base", "artifacts": ["*.deb"], "target_directory": "in" } }
    ],
    "downstream_jobs": ["package"]
}
"#;
    let config = JobConfig::read(text.as_bytes(), Some(&name("hello"))).unwrap();
    let kinds: Vec<_> = config.tasks.iter().map(|task| task.kind.as_str()).collect();
    assert_eq!(
        kinds,
        ["git-checkout", "execute-shell", "publish-artifacts", "copy-artifacts"]
    );
    assert_eq!(config.tasks[1].settings.labels, [name("linux"), name("x86_64")]);
    assert_eq!(config.tasks[1].params["script"], "make ${TARGET}\n");
    assert_eq!(config.downstream_jobs[0].job, name("package"));
    assert_eq!(
        (
            config.tasks[0].settings.attempts,
            config.tasks[0].settings.console_limit
        ),
        (3, Some(64 << 20))
    );
}

#[test]
fn the_early_form_with_numbered_tasks_is_valid_too() {
    let config = good(&json!({
        "configuration-version": "2013-02-26", "job_id": "hello", "triggers": [{"type": "github-webhook", "params": null}],
        "tasks": {"10": script("c", json!(null)), "2": script("b", json!(null)), "1": {"type": "execute-script", "params": {"script": "make"}}}
    }));
    let names: Vec<_> = config.tasks.iter().map(|task| task.name.as_str()).collect();
    assert_eq!(names, ["execute-script", "b", "c"]);
}

#[test]
fn every_member_is_read() {
    let config = good(&json!({
        "description": "d", "parameters": {"ref": "refs/heads/master", "n": 3},
        "tasks": [{"type": "execute-shell", "name": "unit", "params": {"script": "x", "nodelabels": ["linux"]}, "labels": ["x86_64", "linux"],
            "timeout": 600, "attempts": 5, "environment": {"A": "b", "N": 1}, "always": true, "allow_failure": true, "isolation": "lxc",
            "image": "job:base", "limits": {"cpus": 0.5, "memory": "1G", "processes": 100, "disk": "2G"}, "network": true, "x-mine": {}}],
        "github": {"repository": "owner/.name", "secret_file": "/etc/distci/github"},
        "cron": "TZ=Europe/Berlin H 3 * * 1-5", "cron_catch_up": true, "concurrency": 2, "keep": {"builds": 50, "days": 30},
        "console_limit": "1M", "isolation_required": true, "x-note": 1
    }));
    assert_eq!(config.parameters[1], (name("n"), Some("3".into())));
    assert_eq!(
        config.keep,
        Keep {
            builds: Some(50),
            days: Some(30)
        }
    );
    assert_eq!(config.github.unwrap().refs, ["refs/heads/*"]);
    assert_eq!(
        (config.cron_catch_up, config.concurrency, config.isolation_required),
        (true, Some(2), true)
    );
    let resolved = config.tasks[0].resolved();
    let wanted = json!({
        "index": 0, "type": "execute-shell", "name": "unit", "params": {"script": "x", "nodelabels": ["linux"]}, "labels": ["linux", "x86_64"],
        "timeout": 600, "attempts": 5, "environment": {"A": "b", "N": "1"}, "needs": [], "always": true, "allow_failure": true,
        "isolation": "lxc", "image": "job:base", "limits": {"cpus": 0.5, "memory": 1 << 30, "processes": 100, "disk": 2u64 << 30}, "network": true,
        "console_limit": 1 << 20
    });
    assert_eq!(resolved, wanted);
}

#[test]
fn faults_say_where_and_come_sorted_and_all_at_once() {
    let text = "{\n \"tasks\": [\n  {\"type\": \"publish-artifacts\", \"timeuot\": 1,\n   \"params\": {\"artifacts\": \"x\"}},\n  7],\n \"concurrency\": 0\n}";
    let faults = JobConfig::read(text.as_bytes(), None).unwrap_err();
    let lines: Vec<_> = faults.iter().map(Fault::to_string).collect();
    assert_eq!(
        lines,
        [
            "3:33: tasks[0]: unknown key \"timeuot\"; did you mean timeout?",
            "4:28: tasks[0].params.artifacts must be a list of strings",
            "5:3: tasks[1] must be an object {…}",
            "6:17: concurrency must be a whole number from 1 to 4294967295",
        ]
    );
}

#[test]
fn faults_are_bounded() {
    let many: Vec<Value> = (0..900).map(|i| json!({"type": 1, "name": format!("t{i}")})).collect();
    let faults = JobConfig::read(json!({"tasks": many}).to_string().as_bytes(), None).unwrap_err();
    assert_eq!(faults.len(), FAULTS_MAX);
    assert!(
        faults[0].what.starts_with("tasks[0].type must be a name"),
        "{}",
        faults[0]
    );
    assert!(faults.is_sorted());
}

#[test]
fn the_job_is_the_folders() {
    assert_eq!(
        faults(&json!({"job_id": "other", "tasks": []})),
        ["job_id is other, but the job's folder is called hello; write hello or leave job_id out"]
    );
    assert_eq!(
        faults(&json!({"downstream_jobs": ["hello"], "tasks": []})),
        ["downstream_jobs: hello would trigger itself for ever"]
    );
    assert!(JobConfig::read(br#"{"job_id": "other", "tasks": []}"#, None).is_ok());
    assert!(JobConfig::read(br#"{"job_id": "o", "downstream_jobs": ["o"], "tasks": []}"#, None).is_err());
    assert_eq!(faults(&json!([])), ["the whole must be an object {…}"]);
    assert_eq!(faults(&json!({})), ["tasks is missing"]);
}

#[test]
fn a_schedule_that_can_start_nothing_is_refused_with_the_column() {
    let places = |text: &str| {
        let faults = JobConfig::read(text.as_bytes(), Some(&name("hello"))).expect_err(text);
        faults.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        places("{\"tasks\": [],\n \"cron\": \"H 25 * * *\"}"),
        ["2:13: cron has a bad hour \"25\": numbers go from 0 to 23"]
    );
    assert_eq!(
        places("{\"tasks\": [], \"cron\": \"TZ=Europe/Berlim 0 0 * * *\"}"),
        ["1:24: cron names no time zone such as TZ=Europe/Berlin: \"Europe/Berlim\""]
    );
    assert_eq!(
        places("{\"tasks\": [], \"cron\": \"0 0 31 2,4 *\"}"),
        ["1:28: cron never comes: no such month has a day 31"]
    );
    let two = places("{\"tasks\": [], \"cron\": \"0 0\", \"parameters\": {\"ref\": null}}").join("\n");
    let fields = "1:27: cron must have five fields (minute, hour, day, month, weekday), not 2";
    let start = "1:23: cron can't start a build: the parameter ref has no default";
    assert_eq!(two, format!("{start}\n{fields}"));
}

/// "`"lfs": true` is refused when the configuration is written."
#[test]
fn files_of_lfs_are_not_offered() {
    let git = |lfs: bool| json!({"type": "git-checkout", "params": {"repository": "/x", "lfs": lfs}});
    refused(git(true), "params.lfs is not offered: files of LFS come as pointers");
    let without = json!({ "tasks": [git(false)] }).to_string();
    assert!(JobConfig::read(without.as_bytes(), None).is_ok());
}

#[test]
fn the_types_of_distcifs_are_checked() {
    let git = |params: Value| json!({"type": "git-checkout", "params": params});
    refused(git(json!({})), "params.repository is missing");
    refused(json!({"type": "git-checkout"}), "params.repository is missing");
    refused(
        git(json!({"repository": "x", "ref": "--upload-pack=x"})),
        "params.ref must not begin with -",
    );
    refused(
        git(json!({"repository": "-x"})),
        "params.repository must not begin with -",
    );
    refused(
        git(json!({"repository": "x", "depth": 0})),
        "params.depth must be a whole number",
    );
    refused(
        git(json!({"repository": "x", "checkout-dir": "../x"})),
        "must stay in the workspace",
    );
    refused(
        git(json!({"repository": "x", "chekout-dir": "x"})),
        "did you mean checkout-dir?",
    );
    refused(
        git(json!({"repository": "x", "commit": "main"})),
        "params.commit must be a commit: 40 or 64 hexadecimal digits",
    );
    for commit in ["", "${git_commit}", &"0aF1".repeat(10), &"b".repeat(64)] {
        good(&of_tasks(json!([git(json!({"repository": "x", "commit": commit}))])));
    }
    refused(
        git(json!({"repository": "x", "submodules": "yes"})),
        "must be true or false",
    );
    refused(
        json!({"type": "execute-shell", "params": {"script": {"a": 1}}}),
        "params.script must be a string",
    );
    refused(
        json!({"type": "execute-shell", "params": {"script": "x", "working_directory": "/x"}}),
        "must stay in the workspace",
    );
    refused(
        json!({"type": "execute-shell", "params": {"script": "x", "timeout": 1}}),
        "timeout belongs to the task, beside params",
    );
    refused(
        json!({"type": "publish-artifacts", "params": {"artifacts": ["../*"]}}),
        "artifacts[0] must stay in the workspace",
    );
    refused(
        json!({"type": "publish-artifacts", "params": {"artifacts": ["{a,".repeat(10_000)]}}),
        "artifacts[0] must be at most 4095 bytes",
    );
    refused(
        json!({"type": "publish-artifacts", "params": {"artifacts": vec!["a"; 257]}}),
        "artifacts[256] is one too many",
    );
    refused(
        json!({"type": "publish-artifacts", "params": {"artifacts": [1]}}),
        "tasks[0].params.artifacts must be a list of strings",
    );
    refused(json!({"type": "build-control"}), "it can't be a task");
    refused(
        json!({"type": "copy-artifacts", "params": {"job": "a"}, "isolation": "vm"}),
        "can't be isolated",
    );
}

/// "An empty list is refused when the configuration is written."
#[test]
fn a_list_of_artifacts_is_not_empty() {
    refused(
        json!({"type": "publish-artifacts", "params": {"artifacts": []}}),
        "tasks[0].params.artifacts must not be empty",
    );
}

/// What was taken when there were fewer rules is no fault of a stored text, or its builds were unreadable.
#[test]
fn newer_rules_are_not_held_against_what_is_stored() {
    let publish = |pattern: &str| json!({"type": "publish-artifacts", "params": {"artifacts": [pattern]}});
    let run = |script: &str| json!({"type": "execute-shell", "params": {"script": script}});
    let mut tasks = vec![run("a\r\n"), run("\u{feff}a"), run(&"x".repeat(900 << 10))];
    tasks.push(json!({"type": "publish-artifacts", "params": {"artifacts": []}}));
    tasks.extend(["**.jar", "***", "!x", "@(a|b)", "!/x", "{1..9}"].map(publish));
    for task in tasks {
        let text = of_tasks(json!([task])).to_string();
        assert!(JobConfig::read(text.as_bytes(), None).is_err(), "{text:.200}");
        let stored = JobConfig::read_stored(text.as_bytes());
        assert!(stored.is_ok_and(|config| config.tasks.len() == 1), "{text:.200}");
    }
    for refs in [json!([]), json!(["refs/heads/release-?"])] {
        let text = json!({"tasks": [], "github": {"repository": "a/b", "refs": refs}}).to_string();
        assert!(JobConfig::read(text.as_bytes(), None).is_err(), "{text}");
        assert!(JobConfig::read_stored(text.as_bytes()).is_ok(), "{text}");
    }
    // What was never taken is damaged.
    let never = of_tasks(json!([publish("../x")])).to_string();
    assert!(JobConfig::read_stored(never.as_bytes()).is_err());
}

#[test]
fn copy_artifacts_names_a_build() {
    refused(
        json!({"type": "copy-artifacts", "params": {"job": "a/b"}}),
        "params.job must be a name",
    );
    refused(
        json!({"type": "copy-artifacts", "params": {"job": "a", "build": "first"}}),
        "must be a build's number, latest, last-success or upstream",
    );
    for build in [json!(7), json!("7"), json!("latest"), json!("${ref}")] {
        good(&of_tasks(
            json!([{"type": "copy-artifacts", "params": {"job": "a${ref}", "build": build}}]),
        ));
    }
    good(&of_tasks(json!([
        {"type": "copy-artifacts", "params": {"build": "upstream"}},
        {"type": "copy-artifacts", "params": {"build": "upstream", "job": "a"}}
    ])));
    refused(
        json!({"type": "copy-artifacts", "params": {"build": "latest"}}),
        "job is missing",
    );
}

#[test]
fn queues_of_the_users_own_take_what_they_like() {
    let params = json!({"anything": {"deep": [1, {"er": null}]}, "nodelabels": 7, "b": "${ref}"});
    let config = good(&of_tasks(json!([{"type": "lint", "params": params}])));
    assert_eq!(Value::Object(config.tasks[0].params.clone()), params);
    refused(
        json!({"type": "lint", "params": {"a/b": 1}}),
        "is no name that a file in params/ could have",
    );
    refused(
        json!({"type": "lint", "params": {"a": ["b\nc"]}}),
        "can't contain a line end",
    );
}

#[test]
fn common_members_have_ranges() {
    let with = |key: &str, value: Value| json!({"type": "lint", key: value});
    refused(with("timeout", json!(0)), "timeout must be a whole number from 1");
    refused(
        with("attempts", json!(11)),
        "attempts must be a whole number from 1 to 10",
    );
    refused(
        with("console_limit", json!("17G")),
        "console_limit must be a number of bytes",
    );
    refused(with("labels", json!(["a b"])), "labels[0] must be a name");
    refused(with("labels", json!("a")), "labels must be a list of names");
    refused(with("environment", json!({"A-B": "x"})), "can't name a variable");
    refused(
        with("environment", json!({"PARAM_x": "x"})),
        "is set by distcifs itself",
    );
    refused(with("environment", json!({"A": []})), "must be a string");
    refused(
        with("isolation", json!("no such")),
        "must be none, namespace, lxc, vm or the name",
    );
    refused(with("image", json!("job:base")), "needs an isolation");
    refused(with("limits", json!({"cpus": 0})), "limits.cpus must be a number");
    refused(with("limits", json!({"cpu": 1})), "did you mean cpus?");
    refused(
        json!({"type": "execute-shell", "params": {"script": ""}, "isolation": "vm", "image": "debian"}),
        "must be job:<job>",
    );
    let config = json!({"isolation_required": true, "tasks": [script("a", json!(null))]});
    assert_eq!(
        faults(&config),
        ["tasks[0]: the job has isolation_required, so isolation must be namespace, lxc, vm or one of your own"]
    );
}

#[test]
fn references_name_known_parameters() {
    let lint = |text: &str| json!({"type": "lint", "params": {"a": ["x", {"b": text}]}});
    for text in [
        "${ref}${token}",
        "$${anything}",
        "${git_commit} ${upstream_job} ${upstream_build} ${upstream_depth}",
        "$ref $5 $$ {ref}",
    ] {
        good(&of_tasks(json!([lint(text)])));
    }
    refused(
        lint("${reff}"),
        "tasks[0].params.a: no parameter is called \"reff\"; did you mean ref?",
    );
    refused(lint("${HOME}"), "a literal ${ is written $${");
    refused(lint("a ${ref"), "without } after it");
    refused(lint("${matrix.os}"), "no parameter is called \"matrix.os\"");
}

#[test]
fn needs_are_resolved() {
    let config = good(&of_tasks(json!([
        script("a", json!(["c"])),
        script("b", json!([])),
        script("c", json!(["b", "b"])),
        script("d", json!(null))
    ])));
    let needs: Vec<_> = config.tasks.iter().map(|task| task.needs.clone()).collect();
    assert_eq!(needs, [Some(vec![2]), Some(vec![]), Some(vec![1]), None]);
    assert_eq!(config.tasks[3].resolved()["needs"], json!([2]));
}

#[test]
fn needs_are_refused_where_they_lead_nowhere() {
    let words = |tasks: Value| faults(&of_tasks(tasks)).join("; ");
    assert_eq!(
        words(json!([script("unit", json!(null)), script("b", json!(["unti"]))])),
        "tasks[1].needs: no task is called \"unti\"; did you mean unit?"
    );
    assert!(words(json!([script("a", json!(["b"])), script("b", json!(["a"]))])).contains("in a circle: a → b → a"));
    assert!(words(json!([script("a", json!(["b"])), script("b", json!(null))])).contains("in a circle: a → b → a"));
    assert!(words(json!([script("a", json!(["a"]))])).contains("in a circle: a → a"));
    assert!(
        words(json!([{"type": "lint"}, {"type": "lint"}, script("a", json!(["lint"]))]))
            .contains("several tasks are called \"lint\"")
    );
    assert!(
        words(json!([script("a", json!(null)), script("a", json!(null))]))
            .contains("another task is called \"a\" already")
    );
    assert!(words(json!([script("a", json!("b"))])).contains("tasks[0].needs must be a list of names of tasks"));
}

#[test]
fn a_matrix_makes_a_task_for_each_combination() {
    let mut unit = script("unit", json!(null));
    unit["matrix"] = json!({"os": ["debian12", "debian11"], "cc": ["gcc", "c++ 17"], "exclude": [{"os": "debian11", "cc": "gcc"}], "include": [{"os": "alpine", "cc": "tcc"}]});
    unit["labels"] = json!(["${matrix.os}"]);
    unit["environment"] = json!({"CC": "${matrix.cc}", "H": "${HOME}"});
    unit["params"] = json!({"script": "echo ${matrix.os}", "working_directory": "${matrix.os}/$${matrix.os}/${ref}"});
    let config = good(&of_tasks(json!([
        script("get", json!(null)),
        unit,
        script("end", json!(null)),
        script("x", json!(["unit"])),
        script("y", json!(["unit.alpine.tcc"]))
    ])));
    let names: Vec<_> = config.tasks.iter().map(|task| task.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "get",
            "unit.debian12.gcc",
            "unit.debian12.c___17",
            "unit.debian11.c___17",
            "unit.alpine.tcc",
            "end",
            "x",
            "y"
        ]
    );
    let needs: Vec<_> = config.tasks.iter().map(|task| task.needs.clone()).collect();
    let (get, units) = (Some(vec![0]), Some(vec![1, 2, 3, 4]));
    assert_eq!(
        needs,
        [
            None,
            get.clone(),
            get.clone(),
            get.clone(),
            get,
            units.clone(),
            units,
            Some(vec![4])
        ]
    );
    let task = &config.tasks[2];
    assert_eq!(task.settings.labels, [name("debian12")]);
    assert_eq!(
        task.settings.environment,
        [
            ("CC".to_owned(), "c++ 17".to_owned()),
            ("H".to_owned(), "${HOME}".to_owned())
        ]
    );
    assert_eq!(task.params["script"], "echo ${matrix.os}");
    assert_eq!(task.params["working_directory"], "debian12/$${matrix.os}/${ref}");
}

#[test]
fn a_matrix_is_refused_where_it_makes_no_sense() {
    let with = |matrix: Value| json!({"type": "lint", "params": {"a": "b"}, "matrix": matrix});
    refused(with(json!({})), "needs an axis");
    refused(with(json!({"os": []})), "must have from 1 to 256 values");
    refused(with(json!({"os": ["a", "a"]})), "has \"a\" twice");
    refused(with(json!({"os": ["$x"]})), "without $");
    refused(
        with(json!({"os": ["a"], "exclude": [{"os": "a"}]})),
        "must make from 1 to 256 tasks",
    );
    refused(
        with(json!({"os": ["a"], "exclude": [{"so": "a", "os": "b"}]})),
        "unknown key \"so\"; did you mean os?",
    );
    refused(
        with(json!({"os": ["a"], "cc": ["b"], "include": [{"os": "c"}]})),
        "must give a value for every axis",
    );
    let axis: Vec<u32> = (0..17).collect();
    refused(with(json!({"a": axis, "b": axis})), "makes more than 256 tasks");
    refused(
        json!({"type": "lint", "params": {"a": "${matrix.so}"}, "matrix": {"os": ["a"]}}),
        "the matrix has no axis \"so\"; did you mean os?",
    );
}

#[test]
fn tasks_and_matrices_are_bounded() {
    let tasks = |n: usize| json!({"tasks": vec![json!({"type": "lint"}); n]});
    assert_eq!(good(&tasks(TASKS_MAX)).tasks.len(), TASKS_MAX);
    assert_eq!(faults(&tasks(TASKS_MAX + 1)), ["tasks are more than 1000"]);
    let axis: Vec<u32> = (0..256).collect();
    let long =
        json!({"tasks": [{"type": "lint", "params": {"a": "${matrix.a}".repeat(50_000)}, "matrix": {"a": axis}}]});
    assert_eq!(
        faults(&long),
        ["the matrices of the tasks make more than 16777216 bytes of configuration"]
    );
}

#[test]
fn texts_made_to_be_slow_are_not() {
    // Of this thread alone: others may have the processor meanwhile.
    let spent = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap());
    let before = spent();
    let many = |item: &str, n: usize| vec![item.to_owned(); n];
    let names: Vec<String> = (0..40_000).map(|i| format!("p{i}")).collect();
    let parameters: serde_json::Map<String, Value> = names.iter().map(|name| (name.clone(), json!(""))).collect();
    let lint = |params: Value| json!({"type": "lint", "params": {"a": params}});
    for config in [
        json!({"tasks": [lint(json!("${".repeat(400_000)))]}),
        json!({"tasks": [lint(json!("${q}".repeat(200_000)))], "parameters": {"a": ""}}),
        json!({"tasks": [lint(json!(many("${q1}", 40_000)))], "parameters": parameters}),
        json!({"tasks": [{"type": "lint", "needs": many("lin", 100_000)}]}),
        json!({"tasks": [{"type": "lint", "matrix": names.iter().map(|name| (name.clone(), json!([1]))).collect::<serde_json::Map<_, _>>()}]}),
        Value::Object(parameters.clone()),
    ] {
        assert!(!faults(&config).is_empty());
    }
    let spent = spent() - before;
    assert!(spent < Duration::from_secs(20), "{spent:?}");
}

#[test]
fn a_file_is_checked_where_it_lies() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let missing = check_file(&path).unwrap_err();
    assert!(missing[0].to_string().starts_with("can't be read: "), "{}", missing[0]);
    std::fs::write(&path, "{\"job_id\": \"any\", \"tasks\": []}").unwrap();
    assert!(check_file(&path).is_ok());
    std::fs::write(&path, vec![b' '; TEXT_BYTES_MAX + 10]).unwrap();
    assert_eq!(
        check_file(&path).unwrap_err()[0].to_string(),
        "1:1: the text is longer than 1048576 bytes"
    );
}
