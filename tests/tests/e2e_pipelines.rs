//! Pipelines beside the code, and scripts that make tasks: with the workers, on real mounts.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use distcifs_tests::job::shell_task;
use distcifs_tests::programs::{bin_dir, distcifs, project};
use distcifs_tests::{Folder, Mount, Worker};
use serde_json::{Value, json};

/// A script of a pipeline that needs nothing of the node.
const SHELL: &str = "x-shell: &shell { type: execute-shell, isolation: none }\n";

/// How long a file may wait for those before it, and all of them may take: each is a checkout of all, three seconds of a
/// cluster whose servers share two busy processors.
const LONG: Duration = Duration::from_secs(120);
const ALL: Duration = Duration::from_secs(500);

fn workers(mount: &Mount) -> Vec<Worker> {
    let mut workers = Worker::usual(mount, 2);
    workers.push(Worker::start(mount, "git-checkout", &[]));
    workers
}

/// Commits this text as a file of the repository that jobs check out; it is made with the first.
fn commit(mount: &Mount, name: &str, text: &str) {
    let folder = mount.out().join("src");
    fs::create_dir_all(&folder).expect("own folder");
    fs::write(folder.join(name), text).expect("own folder");
    mount.run(
        "cd \"$OUT/src\"; [ -d .git ] || git init -q -b main .; git add -A
        git -c user.name=a -c user.email=a@b commit -qm more",
    );
}

/// A job whose tasks stand in the repository; what its pipelines may be beside the defaults.
fn pipeline_job(mount: &Mount, name: &str, allow: &Value) {
    let files = [".distcifs.yaml", ".distcifs.toml", ".distcifs.json"];
    let params = json!({ "repository": mount.out().join("src"), "tasks": files });
    let checkout = json!({ "type": "git-checkout", "params": params });
    let config = json!({ "parameters": { "team": "red" }, "tasks": [checkout], "allow": allow });
    mount.job(name, &config.to_string());
}

/// "git-checkout's parameter `tasks` is a path in the checkout or a list of which the first that exists counts. After the
/// checkout the worker makes tasks.json of it": its tasks run in what was checked out, with matrix and `when`.
#[test]
fn the_tasks_of_a_repository_are_run() {
    let mount = Mount::new();
    let _workers = workers(&mount);
    let text = format!(
        "{SHELL}tasks:
- <<: *shell
  name: unit
  matrix: {{ python: [ 3.9, 3.10 ] }}
  environment: {{ V: '${{matrix.python}}' }}
  params: {{ script: 'echo \"testing $V of $PARAM_team\"; cat data' }}
- <<: *shell
  name: release
  when: {{ ref: refs/tags/* }}
  params: {{ script: 'echo released' }}
"
    );
    fs::create_dir_all(mount.out().join("src")).expect("own folder");
    fs::write(mount.out().join("src/data"), "the data\n").expect("own folder");
    commit(&mount, ".distcifs.yaml", &text);
    pipeline_job(&mount, "a", &json!({ "isolation": ["none"] }));
    let build = mount.build("a", "@ref=refs/heads/main", "success");
    let folder = format!("jobs/a/builds/{build}/tasks");
    assert_eq!(
        mount.list(&folder),
        ["0-git-checkout", "1-unit.3.9", "2-unit.3.10", "3-release"]
    );
    let console = mount.console("a", build);
    for words in ["testing 3.9 of red", "testing 3.10 of red", "the data"] {
        assert!(console.contains(words), "{words}: {console}");
    }
    assert_eq!(mount.read(&format!("{folder}/3-release/state")), "skipped");
    assert!(!console.contains("released"), "{console}");
    let build = mount.build("a", "@ref=refs/tags/v1", "success");
    assert!(mount.console("a", build).contains("released"));
    let kept = mount.read(&format!("jobs/a/builds/{build}/config.json"));
    assert!(!kept.contains("unit"), "as triggered: {kept}");
}

/// Files, and what is said of each.
const HOSTILE: [(&str, &str); 10] = [
    ("tasks: [\n", ".distcifs.yaml:2:1: "),
    ("tasks:\n- type: build-control\n", ".distcifs.yaml:2:9: tasks[0].type"),
    (
        "tasks:\n- type: paint-hunter2\n",
        ".distcifs.yaml:2:9: tasks[0].type may be execute-shell",
    ),
    (
        "tasks:\n- { type: execute-shell, hunter2: x, params: { script: a } }\n",
        ".distcifs.yaml:2:26: tasks[0]: unknown key",
    ),
    (
        "tasks:\n- type: execute-shell\n  isolation: none\n  params: { script: a }\n",
        ".distcifs.yaml:3:14: tasks[0].isolation may be namespace, lxc, vm",
    ),
    (
        "tasks:\n- type: execute-shell\n  network: true\n  params: { script: a }\n",
        ".distcifs.yaml:3:12: tasks[0].network must be false",
    ),
    (
        "tasks:\n- type: execute-shell\n  params: { script: a }\n  timeout: 86400\n",
        ".distcifs.yaml:4:12: tasks[0].timeout must be at most 3600",
    ),
    (
        "tasks:\n- type: git-checkout\n  params:\n    repository: https://secret:hunter2@example.org/a\n",
        ".distcifs.yaml:4:17: tasks[0].params.repository must be one that config.json names",
    ),
    (
        "tasks:\n- type: copy-artifacts\n  params: { job: secret }\n",
        ".distcifs.yaml:3:18: tasks[0].params.job must name this job",
    ),
    (
        "tasks:\n- { type: publish-artifacts, name: a, needs: [ b ], params: { artifacts: [ x ] } }\n\
         - { type: publish-artifacts, name: b, needs: [ a ], params: { artifacts: [ x ] } }\n",
        ".distcifs.yaml:2:",
    ),
];

/// "A fault is `path:line:column: what` in the lines that the author wrote and quotes no text of the file", of the
/// grammar and of every ceiling; the job stays as it was.
#[test]
fn a_hostile_file_is_an_error_with_its_place() {
    let mount = Mount::new();
    let _workers = workers(&mount);
    commit(&mount, "README", "");
    pipeline_job(&mount, "a", &json!({}));
    let before = mount.read("jobs/a/config.json");
    let fails = |expected: &str| {
        let build = mount.trigger("a", "");
        let state = mount.wait_state("a", build);
        let why = mount.why("a", build);
        assert!(
            state != "success" && why.contains(expected),
            "{expected}: {state}: {why}"
        );
        let task = format!("jobs/a/builds/{build}/tasks/0-git-checkout");
        assert_eq!(mount.read(&format!("{task}/state")), "error", "{why}");
        let said = mount.read(&format!("{task}/console"));
        assert!(said.contains(expected), "{said}");
        for quoted in ["secret", "hunter2"] {
            assert!(!why.contains(quoted) && !said.contains(quoted), "{why}: {said}");
        }
    };
    fails("the commit has none of .distcifs.yaml, .distcifs.toml, .distcifs.json");
    let many = format!(
        "tasks:\n{}",
        "- { type: execute-shell, params: { script: a } }\n".repeat(501)
    );
    let level = |n: usize| format!("x-{n}: &{n} [ {} ]\n", vec![format!("*{}", n - 1); 9].join(", "));
    let bomb = format!("x-0: &0 [ x ]\n{}tasks: []\n", (1..9).map(level).collect::<String>());
    let rows = [
        (many.as_str(), ".distcifs.yaml:2:3: tasks are more than 500"),
        (
            bomb.as_str(),
            "aliases and merge keys stand for more than 1000 values in all",
        ),
    ];
    for (text, expected) in HOSTILE.into_iter().chain(rows) {
        commit(&mount, ".distcifs.yaml", text);
        fails(expected);
    }
    assert_eq!(mount.read("jobs/a/config.json"), before);
}

/// Each file of the corpus, through a checkout: `error` and its place in `why`, all that is wrong with it in the console, and
/// the job as it was.
#[test]
fn no_file_of_the_corpus_adds_a_task() {
    let mount = Mount::with(&[], ALL);
    let _workers = workers(&mount);
    let corpus = project().join("tests/corpus/distcifs");
    let faults = fs::read_to_string(corpus.join("faults")).expect("a list of all faults");
    let mut first: BTreeMap<&str, &str> = BTreeMap::new();
    for line in faults.lines() {
        first.entry(line.split(':').next().unwrap_or_default()).or_insert(line);
    }
    assert!(first.len() > 100, "{}", first.len());
    let folder = mount.out().join("src");
    fs::create_dir_all(&folder).expect("own folder");
    for name in first.keys() {
        fs::copy(corpus.join(name), folder.join(name)).expect("own folder");
    }
    commit(&mount, "README", "");
    let params = json!({ "repository": folder, "tasks": "${file}" });
    let checkout = json!({ "type": "git-checkout", "params": params });
    mount.job(
        "a",
        &json!({ "parameters": { "file": "x" }, "tasks": [checkout] }).to_string(),
    );
    let before = mount.read("jobs/a/config.json");
    let builds: Vec<u64> = first
        .keys()
        .map(|name| mount.trigger("a", &format!("file={name}")))
        .collect();
    for ((name, fault), build) in first.iter().zip(builds) {
        assert_eq!(mount.wait_state_within("a", build, LONG), "error", "{name}");
        let why = mount.why("a", build);
        assert!(
            why.starts_with(&format!("task 0-git-checkout: {name}:")),
            "{name}: {why}"
        );
        let task = format!("jobs/a/builds/{build}/tasks");
        let said = mount.read(&format!("{task}/0-git-checkout/console"));
        assert!(said.contains(fault), "{fault}: {said}");
        assert_eq!(fs::read_dir(mount.path(&task)).expect("the tasks").count(), 1, "{name}");
    }
    assert_eq!(mount.read("jobs/a/config.json"), before);
}

/// "execute-shell gives `$TASKS` (a file: becomes tasks.json after the script succeeded) and `$OUTPUTS`": first the
/// parameters, so the tasks may name these, whether the job declares them or not.
#[test]
fn a_script_makes_tasks() {
    let mount = Mount::new();
    let _workers = workers(&mount);
    let added = json!({ "tasks": [{ "type": "execute-shell", "isolation": "none",
        "params": { "script": "echo found in $(pwd); cat file", "working_directory": "${where}" } }] });
    let config = |script: &str| {
        json!({ "parameters": { "team": "red" }, "allow": { "isolation": ["none"] }, "tasks": [shell_task(script)] })
            .to_string()
    };
    let write = format!("cat > \"$TASKS\" <<'END'\n{added}\nEND\n");
    mount.job(
        "a",
        &config(&format!(
            "mkdir blue; echo x > blue/file; echo where=blue > \"$OUTPUTS\"\n{write}"
        )),
    );
    let build = mount.build("a", "", "success");
    let console = mount.console("a", build);
    assert!(console.contains("/blue") && console.contains("found in"), "{console}");
    assert_eq!(mount.list(&format!("jobs/a/builds/{build}/artifacts")), [""; 0]);
    // Only success adds, and what is wrong has its place.
    mount.configure("a", &config(&format!("{write}exit 3")));
    let build = mount.build("a", "", "failure");
    assert_eq!(mount.list(&format!("jobs/a/builds/{build}/tasks")).len(), 1);
    mount.configure(
        "a",
        &config("echo '{ \"tasks\": [ { \"type\": \"execute-shell\" } ] }' > \"$TASKS\""),
    );
    let build = mount.trigger("a", "");
    let state = mount.wait_state("a", build);
    let why = mount.why("a", build);
    assert!(
        state != "success" && why.contains("TASKS:1:14: tasks[0]"),
        "{state}: {why}"
    );
    assert_eq!(mount.list(&format!("jobs/a/builds/{build}/tasks")).len(), 1);
}

/// "When a ticket is posted, the bounds are held against it again, with parameters put in": a repository may come from a
/// recorded parameter.
#[test]
fn a_parameter_lifts_no_ceiling() {
    let mount = Mount::new();
    let _workers = workers(&mount);
    commit(&mount, "README", "");
    let added = json!({ "tasks": [{ "type": "git-checkout", "params": { "repository": "${repository}" } }] });
    let script = format!("echo repository=$OTHER > \"$OUTPUTS\"; echo '{added}' > \"$TASKS\"");
    let mut task = shell_task(&script);
    let repository = mount.out().join("src");
    task["environment"] = json!({ "OTHER": repository });
    let config =
        |allow: Value| json!({ "parameters": { "repository": "" }, "allow": allow, "tasks": [task] }).to_string();
    mount.job("a", &config(json!({})));
    let build = mount.trigger("a", "");
    let state = mount.wait_state("a", build);
    let why = mount.why("a", build);
    assert!(
        state != "success" && why.contains("params.repository must be one that config.json names"),
        "{state}: {why}"
    );
    mount.configure("a", &config(json!({ "repositories": [repository] })));
    mount.build("a", "", "success");
}

/// workers/examples/tasks makes a task of each script that it finds, and no task of none.
#[test]
fn the_example_makes_good_tasks() {
    let folder = Folder::new();
    let run = |script: &str| {
        let mut sh = Command::new("sh");
        sh.args(["-euc", script]).current_dir(folder.path());
        sh.env("EXAMPLE", project().join("workers/examples/tasks"))
            .env("DISTCIFS", distcifs())
            .env("TASK_NAME", "git-checkout")
            .env("TASKS", folder.out().join("tasks.json"));
        let output = sh.output().expect("sh runs");
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    let (good, said) = run("mkdir -p services/a services/b-c 'services/odd name' services/none
        for test in services/a/test services/b-c/test 'services/odd name/test'; do echo true > \"$test\"; done
        \"$EXAMPLE\"; \"$DISTCIFS\" check \"$TASKS\"; cat \"$TASKS\"");
    assert!(good, "{said}");
    let tasks: Value = serde_json::from_str(&said).expect("JSON");
    let tasks = tasks["tasks"].as_array().expect("a list");
    let names: Vec<&str> = tasks.iter().filter_map(|task| task["name"].as_str()).collect();
    assert_eq!(names, ["test.a", "test.b-c"]);
    let (_, said) = run("rm -r services; \"$EXAMPLE\" || true; cat \"$TASKS\"");
    assert_eq!(said, "");
}

/// `distcifs run` with these words, in a folder.
fn run(folder: &Path, words: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(distcifs());
    command.arg("run").args(words).arg("--workers-dir").arg(bin_dir());
    let Output { status, stdout, stderr } = command.current_dir(folder).output().expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (status.code(), text(&stdout), text(&stderr))
}

/// "`distcifs run [FILE] [--task NAME]` runs one on a private embedded store in the working copy at hand, console on
/// standard output, and exits with the outcome."
#[test]
fn a_pipeline_is_run_in_the_working_copy() {
    let folder = Folder::new();
    let code = folder.path();
    let text = format!(
        "{SHELL}tasks:
- {{ <<: *shell, name: build, params: {{ script: 'cat new; echo \"$PARAM_team\" > made' }} }}
- {{ <<: *shell, name: unit, params: {{ script: 'cat made; [ ! -e ignored ]; echo on $DISTCIFS_REF' }} }}
- {{ <<: *shell, name: broken, params: {{ script: 'echo broken; exit 3' }} }}
"
    );
    fs::write(code.join(".distcifs.yaml"), text).expect("own folder");
    fs::write(code.join("new"), "not yet added\n").expect("own folder");
    let job = folder.out().join("job.json");
    let config = json!({ "parameters": { "team": "red" }, "allow": { "isolation": ["none"] }, "tasks": [] });
    fs::write(&job, config.to_string()).expect("own folder");
    let job = job.to_str().expect("the path is text");
    let git = Command::new("git")
        .args(["init", "-q", "-b", "main", "."])
        .current_dir(&code)
        .status();
    assert!(git.is_ok_and(|status| status.success()));
    fs::write(code.join(".gitignore"), "ignored\n").expect("own folder");
    fs::write(code.join("ignored"), "").expect("own folder");
    let (status, said, why) = run(&code, &["--job", job, "--task", "unit", "--param", "team=blue"]);
    assert_eq!(status, Some(0), "{said}\n{why}");
    for words in ["not yet added", "blue", "on refs/heads/main"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!said.contains("broken"), "{said}");
    assert!(!code.join("made").exists(), "the working copy stays as it was");
    let (status, said, why) = run(&code, &["--job", job]);
    assert_eq!(status, Some(1), "{said}\n{why}");
    assert!(
        said.contains("broken") && why.contains("broken: exit 3"),
        "{said}\n{why}"
    );
    // The bounds are those of a job that is not given.
    let (status, said, why) = run(&code, &[]);
    assert_eq!((status, said.as_str()), (Some(2), ""), "{why}");
    assert!(
        why.contains(".distcifs.yaml:1:51: tasks[0].isolation may be namespace"),
        "{why}"
    );
    let (status, _, why) = run(&code, &["--job", job, "--task", "deploy"]);
    assert!(
        status == Some(2) && why.contains("there are build, unit, broken"),
        "{why}"
    );
    let (status, _, why) = run(&code, &["no.yaml"]);
    assert!(status == Some(1) && why.contains("no.yaml"), "{why}");
}

/// "What all tasks of a build take in its build.json is bounded by 16 MiB": a short file may stand for more. It is an
/// error with its place, and what runs `always` runs.
#[test]
fn a_file_that_stands_for_too_much_ends_its_task_alone() {
    let mount = Mount::new();
    let _workers = workers(&mount);
    let values: Vec<usize> = (0..250).collect();
    // Six bytes of JSON for each of the script.
    let script = "\u{1}".repeat(12_000);
    let task =
        json!({ "type": "execute-shell", "name": "a", "params": { "script": script }, "matrix": { "x": values } });
    commit(&mount, ".distcifs.json", &json!({ "tasks": [task] }).to_string());
    let params = json!({ "repository": mount.out().join("src"), "tasks": ".distcifs.json" });
    let mut clean = shell_task("echo cleaned");
    clean["always"] = json!(true);
    let tasks = json!([{ "type": "git-checkout", "params": params }, clean]);
    mount.job("a", &json!({ "tasks": tasks }).to_string());
    let build = mount.trigger("a", "");
    assert_eq!(mount.wait_state("a", build), "error");
    let why = mount.why("a", build);
    assert!(
        why.contains(".distcifs.json:1:") && why.contains("tasks are too much"),
        "{why}"
    );
    assert!(mount.console("a", build).contains("cleaned"));
}
