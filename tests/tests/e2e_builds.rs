//! Builds from trigger to end, with the workers that come with distcifs.

use std::fs;
use std::time::Duration;

use distcifs_tests::job::shell_task;
use distcifs_tests::wait::USUAL;
use distcifs_tests::{HELLO, Mount, Worker, errno, wait_for};
use serde_json::json;

/// How often a job is made again; what it is about went wrong once in a hundred times.
const AGAIN: u32 = 40;

/// A task that fails.
fn failing() -> serde_json::Value {
    shell_task("echo broken; exit 3\n")
}

/// The whole way: trigger, control, shell, console, state, links, `.wait`, record.
#[test]
fn hello() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    mount.job("hello", HELLO);
    let build = mount.build("hello", "", "success");
    assert_eq!(mount.state("hello", build), "success");
    assert!(mount.console("hello", build).contains("hello"));
    assert_eq!(mount.list("jobs/hello/builds/1/tasks"), ["0-execute-shell"]);
    assert_eq!(mount.read("jobs/hello/builds/1/tasks/0-execute-shell/state"), "success");
    assert_eq!(mount.read("jobs/hello/builds/1/tasks/0-execute-shell/exit"), "0");
    assert!(
        mount
            .read("jobs/hello/builds/1/tasks/0-execute-shell/console")
            .contains("hello")
    );
    assert_eq!(
        mount.run("readlink jobs/hello/builds/latest jobs/hello/builds/last-success"),
        "1\n1"
    );
    assert!(!mount.has("jobs/hello/builds/last-failure"));
    wait_for("the tickets to be tidied away", USUAL, || {
        mount.list("tickets/execute-shell").is_empty() && mount.list("tickets/build-control").is_empty()
    });
}

/// Tickets of the same names come again while the kernel still believes in the folders of the former
/// ones: it asks again, and drops what it knew at the same moment.
#[test]
fn a_job_that_is_made_again_at_once_builds_again() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    for _ in 0..AGAIN {
        mount.job("hello", HELLO);
        assert_eq!(mount.build("hello", "", "success"), 1);
        fs::remove_dir_all(mount.path("jobs/hello")).expect("rm -r of a job");
    }
}

/// "A task that ends with anything but success ends the build"; "why: why it ended as it did".
#[test]
fn a_failure_ends_the_build() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    mount.job_of("a", &[failing(), shell_task("echo never\n")]);
    let build = mount.build("a", "", "failure");
    assert!(!mount.console("a", build).contains("never"));
    assert_eq!(mount.read("jobs/a/builds/1/tasks/0-execute-shell/exit"), "3");
    assert!(!mount.why("a", build).is_empty());
    assert_eq!(mount.run("readlink jobs/a/builds/last-failure"), "1");
}

/// "unless it has allow_failure: true; tasks with always: true run all the same".
#[test]
fn always_and_allow_failure() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    let mut allowed = failing();
    allowed["allow_failure"] = json!(true);
    mount.job_of("a", &[allowed, shell_task("echo after\n")]);
    let build = mount.build("a", "", "success");
    assert!(mount.console("a", build).contains("after"));
    let mut always = shell_task("echo clean\n");
    always["always"] = json!(true);
    mount.job_of("b", &[failing(), shell_task("echo never\n"), always]);
    let build = mount.build("b", "", "failure");
    let console = mount.console("b", build);
    assert!(console.contains("clean") && !console.contains("never"), "{console}");
}

/// "`needs` names the tasks to wait for instead, so that independent tasks run side by side": two
/// that wait for each other can only end if both run.
#[test]
fn needs_let_tasks_run_side_by_side() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 2);
    let meet = |mine: &str, other: &str| {
        let out = mount.out().display().to_string();
        format!(
            ": > '{out}/{mine}'; i=0; while ! [ -e '{out}/{other}' ]; do i=$((i+1)); [ $i -lt 200 ]; sleep 0.05; done; [ -e base ]"
        )
    };
    let named = |name: &str, script: &str, needs: &[&str]| {
        let mut task = shell_task(script);
        task["name"] = json!(name);
        if !needs.is_empty() {
            task["needs"] = json!(needs);
        }
        task
    };
    mount.job_of(
        "a",
        &[
            named("base", "echo 1 > base", &[]),
            named("left", &(meet("l", "r") + "; echo 1 > left"), &["base"]),
            named("right", &(meet("r", "l") + "; echo 1 > right"), &["base"]),
            named(
                "join",
                "[ -e base ] && [ -e left ] && [ ! -e right ]",
                &["left", "right"],
            ),
        ],
    );
    mount.build("a", "", "success");
}

/// "concurrency: builds of this job running at once; more wait, oldest first".
#[test]
fn concurrency_holds_builds_back() {
    let mount = Mount::new();
    let _controls: Vec<Worker> = (0..3).map(|_| Worker::start(&mount, "build-control", &[])).collect();
    let _shells: Vec<Worker> = (0..3).map(|_| Worker::start(&mount, "execute-shell", &[])).collect();
    let out = mount.out().display().to_string();
    let script =
        format!("mkdir '{out}/alone'; sleep 0.3; rmdir '{out}/alone'; echo \"$BUILD_NUMBER\" >> '{out}/order'");
    mount.job(
        "a",
        &json!({"concurrency": 1, "tasks": [shell_task(&script)]}).to_string(),
    );
    let builds: Vec<u64> = (0..4).map(|_| mount.trigger("a", "")).collect();
    for build in builds {
        assert_eq!(mount.wait_state("a", build), "success", "{}", mount.console("a", build));
    }
    assert_eq!(
        fs::read_to_string(mount.out().join("order")).expect("the script wrote it"),
        "1\n2\n3\n4\n"
    );
}

/// "downstream_jobs: triggered on success, with upstream_job and upstream_build".
#[test]
fn downstream_jobs_are_triggered_once() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    mount.job("down", r#"{"parameters":{"upstream_job":null,"upstream_build":null},"tasks":[{"type":"execute-shell","params":{"script":"echo $PARAM_upstream_job/$PARAM_upstream_build"}}]}"#);
    mount.job(
        "up",
        &json!({"tasks": [shell_task("true\n")], "downstream_jobs": ["down"]}).to_string(),
    );
    let build = mount.build("up", "", "success");
    wait_for("the downstream build", USUAL, || mount.has("jobs/down/builds/1"));
    assert_eq!(mount.wait_state("down", 1), "success");
    assert!(mount.console("down", 1).contains(&format!("up/{build}")));
    std::thread::sleep(Duration::from_millis(500));
    assert!(!mount.has("jobs/down/builds/2"));
}

/// "ctl: write abort, retry, keep or unkeep": abort ends what runs and what is queued.
#[test]
fn abort() {
    let mount = Mount::new();
    mount.shell_job("a", &["echo begun; exec sleep 30"]);
    mount.trigger("a", "");
    mount.run("echo abort > jobs/a/builds/1/ctl");
    assert_eq!(mount.wait_state("a", 1), "aborted", "while it was queued");
    let _workers = Worker::usual(&mount, 1);
    let build = mount.trigger("a", "");
    wait_for("the script", USUAL, || mount.console("a", build).contains("begun"));
    mount.run(&format!("echo abort > jobs/a/builds/{build}/ctl"));
    assert_eq!(mount.wait_state("a", build), "aborted");
    assert_eq!(errno(mount.write("jobs/a/builds/1/ctl", "explode\n")), libc::EINVAL);
    mount.job("b", HELLO);
    mount.build("b", "", "success");
}

/// The same for what is posted by a build-control that has not heard of it yet; what runs `always`
/// still runs.
#[test]
fn abort_while_tickets_are_posted() {
    let mount = Mount::new();
    let mut always = shell_task("true\n");
    always["always"] = json!(true);
    mount.job_of("a", &[shell_task("true\n"), always]);
    mount.trigger("a", "");
    let control = mount.claim("build-control", "a.1.control").expect("the control ticket");
    mount.run("echo abort > jobs/a/builds/1/ctl");
    for task in [0, 1] {
        let id = format!("a.1.{task}");
        mount.post(
            "execute-shell",
            &json!({"id": id, "job": "a", "build": 1, "task": task}),
        );
    }
    assert_eq!(mount.read("jobs/a/builds/1/tasks/0-execute-shell/state"), "aborted");
    assert_eq!(mount.read("jobs/a/builds/1/tasks/1-execute-shell/state"), "posted");
    assert_eq!(mount.list("tickets/execute-shell"), ["a.1.1"]);
    mount
        .result("build-control", "a.1.control", "aborted")
        .expect("the end");
    drop(control);
    assert_eq!(mount.wait_state("a", 1), "aborted");
}

/// "retry": a finished build runs again from the task that failed, in the state in which it ran.
#[test]
fn retry() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    let out = mount.out().display().to_string();
    mount.shell_job(
        "a",
        &[
            &format!("echo one >> '{out}/ran'; echo made > file"),
            &format!("echo two >> '{out}/ran'; [ \"$(cat file)\" = made ]; echo spoilt > file; [ -e '{out}/good' ]"),
        ],
    );
    let build = mount.build("a", "", "failure");
    fs::write(mount.out().join("good"), "").expect("own folder");
    mount.run(&format!("echo retry > jobs/a/builds/{build}/ctl"));
    wait_for("the retry's success", USUAL, || mount.state("a", build) == "success");
    assert_eq!(
        fs::read_to_string(mount.out().join("ran")).expect("written"),
        "one\ntwo\ntwo\n"
    );
    assert_eq!(mount.run("readlink jobs/a/builds/last-success"), build.to_string());
}

/// "keep": a kept build is not removed by pruning; the word is taken and read back in the record.
#[test]
fn keep_and_unkeep() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    mount.job("a", HELLO);
    let build = mount.build("a", "", "success");
    let record = || mount.read(&format!("jobs/a/builds/{build}/build.json"));
    let before = record();
    mount.run(&format!("echo keep > jobs/a/builds/{build}/ctl"));
    let kept = record();
    assert_ne!(kept, before);
    mount.run(&format!("echo unkeep > jobs/a/builds/{build}/ctl"));
    assert_ne!(record(), kept);
}

/// "publish-artifacts … patterns", then copy-artifacts takes them from the last successful build.
#[test]
fn publish_and_copy_artifacts() {
    let mount = Mount::new();
    let mut workers = Worker::usual(&mount, 1);
    workers.extend(["publish-artifacts", "copy-artifacts"].map(|name| Worker::start(&mount, name, &[])));
    let publish = json!({"type": "publish-artifacts", "params": {"artifacts": ["*.txt"]}});
    mount.job_of(
        "make",
        &[
            shell_task("echo made > a.txt; chmod 750 a.txt; echo other > b.log\n"),
            publish,
        ],
    );
    let build = mount.build("make", "", "success");
    assert_eq!(mount.list(&format!("jobs/make/builds/{build}/artifacts")), ["a.txt"]);
    assert_eq!(mount.read(&format!("jobs/make/builds/{build}/artifacts/a.txt")), "made");
    let copy = json!({"type": "copy-artifacts", "params": {"job": "make", "target_directory": "in"}});
    mount.job_of(
        "use",
        &[copy, shell_task("cat in/a.txt; [ \"$(stat -c %a in/a.txt)\" = 750 ]\n")],
    );
    let build = mount.build("use", "", "success");
    assert!(mount.console("use", build).contains("made"));
}

/// "git-checkout … records the commit it took as the build parameter git_commit".
#[test]
fn git_checkout_records_its_commit() {
    let mount = Mount::new();
    let mut workers = Worker::usual(&mount, 1);
    workers.push(Worker::start(&mount, "git-checkout", &[]));
    let commit = mount.run("git init -q -b main \"$OUT/src\"; cd \"$OUT/src\"; echo x > file; git add .; git -c user.name=a -c user.email=a@b commit -qm first; git rev-parse HEAD");
    let checkout = json!({"type": "git-checkout", "params": {"repository": mount.out().join("src"), "ref": "refs/heads/main", "checkout-dir": "src"}});
    mount.job_of(
        "a",
        &[checkout, shell_task("cat src/file; echo \"took $PARAM_git_commit\"\n")],
    );
    let build = mount.build("a", "", "success");
    assert_eq!(mount.read(&format!("jobs/a/builds/{build}/params/git_commit")), commit);
    assert!(mount.console("a", build).contains(&format!("took {commit}")));
    let option =
        json!({"type": "git-checkout", "params": {"repository": mount.out().join("src"), "ref": "--upload-pack=true"}});
    fs::create_dir(mount.path("jobs/bad")).expect("a job");
    if mount
        .write("jobs/bad/config.json", json!({"tasks": [option]}).to_string())
        .is_ok()
    {
        mount.build("bad", "", "failure");
    }
}

/// A job as DistCI had them in 2013, with the five workers: checkout, make, publish.
#[test]
fn a_job_of_2013() {
    let mount = Mount::new();
    let mut workers = Worker::usual(&mount, 1);
    workers
        .extend(["git-checkout", "publish-artifacts", "copy-artifacts"].map(|name| Worker::start(&mount, name, &[])));
    mount.run(
        "git init -q -b master \"$OUT/src\"; cd \"$OUT/src\"
        printf 'all:\\n\\tmkdir -p dist\\n\\techo egg > dist/a.egg\\n\\techo log > build.log\\ntests:\\n\\techo tested\\n' > Makefile
        git add .; git -c user.name=a -c user.email=a@b commit -qm first",
    );
    let config = json!({"configuration-version": "2013-02-26", "job_id": "distci", "tasks": [
        {"type": "git-checkout", "params": {"repository": mount.out().join("src"), "ref": "refs/heads/master", "checkout-dir": "distci"}},
        {"type": "execute-shell", "params": {"working_directory": "distci", "script": "make tests\nmake all\n"}},
        {"type": "publish-artifacts", "params": {"artifacts": ["distci/dist/*.egg", "distci/build.log"]}},
    ]});
    mount.job("distci", &config.to_string());
    let build = mount.build("distci", "", "success");
    assert!(mount.console("distci", build).contains("tested"));
    let artifacts = format!("jobs/distci/builds/{build}/artifacts/distci");
    assert_eq!(mount.read(&format!("{artifacts}/dist/a.egg")), "egg");
    assert_eq!(mount.read(&format!("{artifacts}/build.log")), "log");
}

/// A repository that is not there is a failure that names it.
#[test]
fn a_checkout_of_nothing() {
    let mount = Mount::new();
    let mut workers = Worker::usual(&mount, 1);
    workers.push(Worker::start(&mount, "git-checkout", &[]));
    let checkout = json!({"type": "git-checkout", "params": {"repository": mount.out().join("nothing")}});
    mount.job_of("a", &[checkout]);
    let build = mount.build("a", "", "failure");
    assert!(
        mount.why("a", build).contains("can't read the repository"),
        "{}",
        mount.why("a", build)
    );
}

/// "why: what it waits for": a build that nobody can take says which label is missing.
#[test]
fn why_says_what_is_missing() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    let mut task = shell_task("true\n");
    task["labels"] = json!(["gpu"]);
    mount.job_of("a", &[task]);
    let build = mount.trigger("a", "");
    wait_for("the label to be named", USUAL, || mount.why("a", build).contains("gpu"));
    let _gpu = Worker::start(&mount, "execute-shell", &["gpu"]);
    assert_eq!(mount.wait_state("a", build), "success");
}

/// "A task type that no queue has ever had says so": nobody works on it, until somebody does.
#[test]
fn why_asks_whether_a_type_is_misspelt() {
    let mount = Mount::new();
    let _control = Worker::start(&mount, "build-control", &[]);
    mount.job_of("a", &[json!({"type": "execute-shel"})]);
    mount.job_of("b", &[shell_task("true\n")]);
    let (misspelt, usual) = (mount.trigger("a", ""), mount.trigger("b", ""));
    let says = |job: &str, build, words: &str| mount.why(job, build).contains(words);
    wait_for("the type to be doubted", USUAL, || {
        says("a", misspelt, "is the type misspelt?")
    });
    assert!(
        says("a", misspelt, "tickets/execute-shel has had no worker"),
        "{}",
        mount.why("a", misspelt)
    );
    wait_for("the worker to be missed", USUAL, || says("b", usual, "none is free"));
    assert!(!says("b", usual, "misspelt"), "{}", mount.why("b", usual));
    mount.run("cd tickets/execute-shel/a.1.0; echo $$ > claim; rm claim");
    wait_for("the queue to be known", USUAL, || !says("a", misspelt, "misspelt"));
}

/// "console: grows under tail -f", and console_limit cuts it with a line that says so.
#[test]
fn consoles_grow_and_have_a_limit() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    mount.shell_job("a", &["echo first; sleep 1; echo last"]);
    let build = mount.trigger("a", "");
    wait_for("the first line, while it runs", USUAL, || {
        mount.console("a", build).contains("first")
    });
    let tail = mount.start(&format!("timeout 10 tail -n +1 -f jobs/a/builds/{build}/console"));
    wait_for("tail to show the last line", USUAL, || tail.so_far().contains("last"));
    assert_eq!(mount.wait_state("a", build), "success");
    mount.job(
        "b",
        &json!({"console_limit": 10_000, "tasks": [shell_task("yes | head -c 1000000\n")]}).to_string(),
    );
    let build = mount.build("b", "", "success");
    let console = mount.console("b", build);
    assert!(console.len() < 12_000, "{} bytes", console.len());
    assert!(
        console.lines().any(|line| line != "y" && line.contains("limit")),
        "{}",
        &console[console.len().saturating_sub(300)..]
    );
}

/// "any other name is a queue of the user's own, and its params pass through as they are."
#[test]
fn a_worker_of_ones_own() {
    let mount = Mount::new();
    let _control = Worker::start(&mount, "build-control", &[]);
    mount.queue("lint");
    let _lint = mount.start(
        "command exec 3<>tickets/lint/.next; echo >&3
        while read -r id <&3 && [ -z \"$id\" ]; do :; done; [ -n \"$id\" ] || exit 75
        cd \"tickets/lint/$id\"; echo \"linting $(cat params/what)\" > console; echo ok > artifacts/report; echo 0 > result",
    );
    mount.job(
        "a",
        r#"{"parameters":{"who":"me"},"tasks":[{"type":"lint","params":{"what":"${who}","deep":{"any":[1,2]}}}]}"#,
    );
    let build = mount.build("a", "", "success");
    assert!(mount.console("a", build).contains("linting me"));
    assert_eq!(mount.read(&format!("jobs/a/builds/{build}/artifacts/report")), "ok");
}

/// Writing a new name below `params` of one's own ticket records a parameter of the build.
#[test]
fn a_task_records_a_parameter() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    mount.shell_job(
        "a",
        &["echo 1.2.3 > ../params/version", "echo \"it is $PARAM_version\""],
    );
    let build = mount.build("a", "", "success");
    assert_eq!(mount.read(&format!("jobs/a/builds/{build}/params/version")), "1.2.3");
    assert!(mount.console("a", build).contains("it is 1.2.3"));
}

/// "The tickets of a build are named `<job>.<build>.<task>` (`.r<k>` after it for a retry)", and
/// `.events` has a line for each change of a task.
#[test]
fn tickets_and_events_of_tasks_and_retries() {
    let mount = Mount::new();
    let listener = mount.start("exec 3<.events; while read -r line <&3; do echo \"$line\"; done");
    wait_for("the listener", USUAL, || !listener.so_far().is_empty());
    let _workers = Worker::usual(&mount, 1);
    let out = mount.out().display().to_string();
    mount.shell_job("a", &["true", &format!("[ -e '{out}/good' ]")]);
    mount.build("a", "", "failure");
    fs::write(mount.out().join("good"), "").expect("own folder");
    mount.run("echo retry > jobs/a/builds/1/ctl");
    for line in [
        "ticket execute-shell/a.1.0 open",
        "ticket execute-shell/a.1.0 claimed",
        "task a/1/0-execute-shell success",
        "task a/1/1-execute-shell failure",
        "build a/1 failure",
        "ticket execute-shell/a.1.1.r1 open",
        "task a/1/1-execute-shell success",
        "build a/1 success",
    ] {
        let seen = || listener.so_far().lines().any(|seen| seen == line);
        wait_for(&format!("the event {line:?}"), USUAL, seen);
    }
    assert!(
        !listener.so_far().contains("a.1.0.r1"),
        "what succeeded is not done again"
    );
}

/// "`matrix` makes one task for each combination, with `${matrix.os}` in its strings": each goes to a
/// worker with its labels, from the workspace before; what comes after waits for them all.
#[test]
fn a_matrix_runs_each_combination_on_a_worker_that_has_its_labels() {
    let mount = Mount::new();
    let _control = Worker::start(&mount, "build-control", &[]);
    let _workers = ["debian12", "debian11"].map(|os| Worker::start(&mount, "execute-shell", &[os]));
    let combination = json!({
        "type": "execute-shell", "name": "unit",
        "matrix": {
            "os": ["debian12", "debian11"], "cc": ["gcc", "clang"],
            "exclude": [{"os": "debian11", "cc": "clang"}], "include": [{"os": "debian12", "cc": "tcc"}],
        },
        "labels": ["${matrix.os}"],
        "environment": {"CC": "${matrix.cc}"},
        "params": {"script": "[ \"$(cat start)\" = begun ]; echo \"$CC\" '${matrix.os}' > \"$ARTIFACTS/$TASK_NAME\"; [ \"$CC\" != tcc ]"},
        "allow_failure": true,
    });
    let clang =
        json!({"type": "execute-shell", "needs": ["unit.debian12.clang"], "params": {"script": "echo after clang"}});
    let all = json!({"type": "execute-shell", "needs": ["unit"], "params": {"script": "echo after all"}});
    let tasks = json!([
        distcifs_tests::job::shell_task("echo begun > start"),
        combination,
        clang,
        all
    ]);
    mount.job("a", &json!({"tasks": tasks}).to_string());
    let build = mount.build("a", "", "success");
    let folder = format!("jobs/a/builds/{build}");
    let names = [
        "unit.debian11.gcc",
        "unit.debian12.clang",
        "unit.debian12.gcc",
        "unit.debian12.tcc",
    ];
    assert_eq!(mount.list(&format!("{folder}/artifacts")), names);
    // A script is never expanded; what it needs of the combination is in its environment.
    assert_eq!(
        mount.read(&format!("{folder}/artifacts/unit.debian12.clang")),
        "clang ${matrix.os}"
    );
    let folders = [
        "1-unit.debian12.gcc",
        "2-unit.debian12.clang",
        "3-unit.debian11.gcc",
        "4-unit.debian12.tcc",
    ];
    let states = folders.map(|task| mount.read(&format!("{folder}/tasks/{task}/state")));
    assert_eq!(states, ["success", "success", "success", "failure"], "only tcc fails");
    let console = mount.console("a", build);
    // These two wait for different tasks, and not for each other.
    let mut lines: Vec<&str> = console.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["[5-execute-shell] after clang", "[6-execute-shell] after all"]);
}

/// A combination that no worker can take says which label it waits for.
#[test]
fn a_combination_that_nobody_can_take_says_why() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    let task = json!({"type": "execute-shell", "matrix": {"os": ["plan9"]}, "labels": ["${matrix.os}"], "params": {"script": "true"}});
    mount.job_of("a", &[task]);
    let build = mount.trigger("a", "");
    wait_for("the reason", USUAL, || {
        mount.why("a", build).contains("needs labels plan9")
    });
}

/// "`why` says that workers wait which are for tickets of a label only": they have what it needs.
#[test]
fn a_ticket_that_is_left_to_others_says_so() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 0);
    let _gpu = Worker::start(&mount, "execute-shell", &["linux", "only:gpu"]);
    let task =
        |labels: serde_json::Value| json!({"type": "execute-shell", "labels": labels, "params": {"script": "true"}});
    mount.job_of("plain", &[task(json!([]))]);
    mount.job_of("linux", &[task(json!(["linux"]))]);
    for job in ["plain", "linux"] {
        let build = mount.trigger(job, "");
        wait_for("the reason", USUAL, || {
            let why = mount.why(job, build);
            why.contains("of 1 workers that wait") && why.contains("take only tickets that need gpu")
        });
    }
}

/// ".wait answers sendfile as it does read": busybox's cat uses it, and a script would wait for ever.
#[test]
fn busybox_cat_reads_wait() {
    let mount = Mount::new();
    mount.shell_job("a", &[]);
    mount.trigger("a", "");
    let cat = "i=0; while s=$(busybox cat jobs/a/builds/1/.wait) && [ -z \"$s\" ] && [ $i -lt 20 ]; do i=$((i+1)); done; echo \"$s\"";
    let waiting = mount.start_words(&["busybox", "sh", "-c", cat]);
    let control = mount.claim("build-control", "a.1.control").expect("the claim");
    mount
        .result("build-control", "a.1.control", "success")
        .expect("the claim");
    drop(control);
    assert_eq!(waiting.finish().expect_ok(), "success");
    for file in ["state", "build.json", "config.json", "why", "by"] {
        let path = format!("jobs/a/builds/1/{file}");
        assert_eq!(mount.run(&format!("busybox cat {path}")), mount.read(&path), "{file}");
    }
}
