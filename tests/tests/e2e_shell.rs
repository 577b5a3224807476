//! execute-shell: what a script finds, and that nothing of it outlives its task.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use distcifs_tests::job::shell_task;
use distcifs_tests::programs::skipped;
use distcifs_tests::{Mount, Worker, process};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

/// "script runs under `sh -e` in the workspace with JOB_NAME, BUILD_NUMBER, WORKSPACE, each
/// parameter as PARAM_<name>, and environment."
#[test]
fn the_environment_of_a_script() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    let mut task = shell_task(
        "false || true; echo \"$JOB_NAME $BUILD_NUMBER $PARAM_ref $EXTRA\"; [ \"$PWD\" -ef \"$WORKSPACE\" ]; echo '${ref}' \"$(cat ../params/script | head -c 5)\"\n",
    );
    task["environment"] = json!({"EXTRA": "x y"});
    mount.job(
        "a",
        &json!({"parameters": {"ref": "main; echo injected"}, "tasks": [task]}).to_string(),
    );
    let build = mount.build("a", "", "success");
    let console = mount.console("a", build);
    assert!(
        console.contains(&format!("a {build} main; echo injected x y")),
        "{console}"
    );
    assert!(
        console.contains("${ref}") && !console.lines().any(|line| line == "injected"),
        "{console}"
    );
    mount.shell_job("b", &["false\necho never"]);
    let build = mount.build("b", "", "failure");
    assert!(!mount.console("b", build).contains("never"), "sh -e");
}

/// "working_directory".
#[test]
fn a_working_directory() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    let second =
        json!({"type": "execute-shell", "params": {"script": "pwd; cat file", "working_directory": "src/deep"}});
    mount.job_of(
        "a",
        &[shell_task("mkdir -p src/deep; echo found > src/deep/file"), second],
    );
    let build = mount.build("a", "", "success");
    assert!(mount.console("a", build).contains("found"));
    let outside = json!({"type": "execute-shell", "params": {"script": "pwd", "working_directory": "../.."}});
    fs::create_dir(mount.path("jobs/b")).expect("a job");
    if mount
        .write("jobs/b/config.json", json!({"tasks": [outside]}).to_string())
        .is_ok()
    {
        mount.build("b", "", "failure");
    }
}

/// What a script leaves in the background ends with its task.
#[test]
fn what_is_left_in_the_background_ends() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    mount.shell_job(
        "a",
        &["sleep 4321.1 & setsid sleep 4321.2 & (sleep 4321.3 &) ; nohup sleep 4321.4 >/dev/null 2>&1 & echo left"],
    );
    let begun = Instant::now();
    mount.build("a", "", "success");
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    distcifs_tests::wait_for("the sleepers to end", Duration::from_secs(5), || {
        !process::runs("sleep 4321.")
    });
}

/// "timeout is in seconds, from the claim: then TERM to the whole process group, 10 s later KILL,
/// and the outcome is failure with the message 'timed out after 600 s'."
#[test]
fn a_timeout_stops_even_what_ignores_term() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    let mut task = shell_task("trap '' TERM; echo begun; while :; do sleep 0.2; done\n");
    task["timeout"] = json!(1);
    mount.job_of("a", &[task]);
    let begun = Instant::now();
    let build = mount.trigger("a", "");
    assert_eq!(mount.wait_state_within("a", build, Duration::from_secs(30)), "failure");
    let took = begun.elapsed();
    assert!(
        took > Duration::from_secs(9) && took < Duration::from_secs(20),
        "{took:?}"
    );
    let said =
        mount.console("a", build) + &mount.why("a", build) + &mount.read(&format!("jobs/a/builds/{build}/build.json"));
    assert!(said.contains("timed out after 1 s"), "{said}");
}

/// The same for one that heeds TERM: no ten seconds.
#[test]
fn a_timeout_is_quick_for_what_heeds_term() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    let mut task = shell_task("sleep 60\n");
    task["timeout"] = json!(1);
    mount.job_of("a", &[task]);
    let begun = Instant::now();
    let build = mount.trigger("a", "");
    assert_eq!(mount.wait_state("a", build), "failure");
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
}

/// A script that removes its own workspace leaves an empty one to the next task.
#[test]
fn a_script_that_deletes_its_workspace() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    mount.shell_job(
        "a",
        &[
            "echo x > file; cd ..; rm -rf workspace",
            "[ -z \"$(ls -A)\" ]; echo y > file",
        ],
    );
    let build = mount.build("a", "", "success");
    assert_eq!(mount.list(&format!("jobs/a/builds/{build}/workspace")), ["file"]);
}

/// kill -9 of the worker, or of the process above it: its script ends too, and runs once more under
/// another worker, never twice at a time.
#[test]
fn a_killed_worker_leaves_no_script() {
    let mount = Mount::new();
    let _control = Worker::start(&mount, "build-control", &[]);
    let out = mount.out().display().to_string();
    let script = format!(
        "mkdir '{out}/alone'; trap \"rmdir '{out}/alone'\" TERM; (exec setsid sleep 4322.1) & [ -e '{out}/again' ] || sleep 4322.2; rmdir '{out}/alone'"
    );
    for above in [true, false] {
        let _ = fs::remove_file(mount.out().join("again"));
        let name = if above { "above" } else { "below" };
        mount.shell_job(name, &[&script]);
        let mut first = Worker::start(&mount, "execute-shell", &[]);
        let build = mount.trigger(name, "");
        let sleeps = |yes: bool| {
            distcifs_tests::wait_for("the sleepers", Duration::from_secs(10), || {
                process::runs("sleep 4322.") == yes
            });
        };
        sleeps(true);
        fs::write(mount.out().join("again"), "").expect("own folder");
        match process::children(first.pid()).first() {
            Some(worker) if !above => process::signal(*worker, nix::sys::signal::Signal::SIGKILL),
            _ => first.kill9(),
        }
        sleeps(false);
        let _ = fs::remove_dir(mount.out().join("alone"));
        let _second = Worker::start(&mount, "execute-shell", &[]);
        assert_eq!(
            mount.wait_state(name, build),
            "success",
            "{}",
            mount.console(name, build)
        );
    }
}

/// kill -9 of a worker in sh ends its work too.
#[test]
fn a_killed_sh_worker_leaves_no_work() {
    let mount = Mount::new();
    let library = distcifs_tests::programs::project().join("workers/worker.sh");
    let text = format!(
        "queue=slow usage=slow\nwork() {{ sleep 4323.1 & sleep 4323.2; }}\n. '{}'\n",
        library.display()
    );
    let worker = mount.out().join("slow");
    fs::write(&worker, text).expect("own folder");
    mount.queue("slow");
    mount.post("slow", &json!({"id": "t"}));
    let script = worker.display().to_string();
    for way in ["alone", "with its group"] {
        let mut words = vec!["sh", &script, mount.root_text()];
        words.extend(nix::unistd::geteuid().is_root().then_some("--as=root"));
        let mut worker = mount.start_words(&words);
        let sleeps = |yes: bool| {
            distcifs_tests::wait_for("the sleepers", Duration::from_secs(10), || {
                process::runs("sleep 4323.") == yes
            });
        };
        sleeps(true);
        if way == "alone" {
            worker.kill9_alone();
        } else {
            worker.kill9();
        }
        sleeps(false);
    }
}

/// One that removes the claim gives its ticket back: it is done again, but not for ever.
#[test]
fn a_script_that_deletes_its_ticket() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    mount.shell_job("a", &["cd ..; rm -rf ./*"]);
    mount.build("a", "", "error");
    mount.job("b", distcifs_tests::HELLO);
    mount.build("b", "", "success");
}

/// Hostile output: a long line, every byte, a flood; the console has it and the build ends.
#[test]
fn any_output_arrives() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    let script = "head -c 3000000 /dev/zero | tr '\\0' x; echo; printf '\\000\\377\\n'; i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; echo err >&2; printf 'no end'";
    mount.shell_job("a", &[script]);
    let build = mount.build("a", "", "success");
    let console =
        fs::read(mount.path(&format!("jobs/a/builds/{build}/tasks/0-execute-shell/console"))).expect("a console");
    let text = String::from_utf8_lossy(&console);
    assert!(
        console.len() > 3_000_000 && text.contains("line 1999\n") && text.contains("err\n") && text.contains("no end")
    );
    let numbers: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("line ")).collect();
    assert_eq!(
        numbers,
        (0..2000).map(|n| n.to_string()).collect::<Vec<_>>(),
        "in order, none lost, none twice"
    );
}

/// A script killed by a signal is a failure with its status.
#[test]
fn a_script_that_dies_by_a_signal() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    mount.shell_job("a", &["kill -9 $$"]);
    let build = mount.build("a", "", "failure");
    assert_eq!(
        mount.read(&format!("jobs/a/builds/{build}/tasks/0-execute-shell/exit")),
        "137"
    );
}

/// A small file system below a folder, gone when dropped.
struct Small(PathBuf);

impl Small {
    fn mount(folder: PathBuf, bytes: u64) -> Small {
        let options = format!("size={bytes}");
        mount(
            Some("none"),
            &folder,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .expect("a tmpfs");
        Small(folder)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// "ENOSPC: the store is full; nothing half-written is visible." A script that fills the disk ends its
/// build with `error` and gives the room back; all others go on.
#[test]
fn a_script_that_fills_the_disk() {
    if !nix::unistd::geteuid().is_root() {
        return skipped("a full disk: only root mounts a small file system");
    }
    let mount = Mount::new();
    mount.unmount();
    let _small = Small::mount(mount.own_folder(), 64 << 20);
    mount.mount();
    let _workers = Worker::usual(&mount, 2);
    mount.shell_job("small", &["echo fine"]);
    mount.shell_job("full", &["head -c 100000000 /dev/urandom > big"]);
    mount.build("small", "", "success");
    let build = mount.trigger("full", "");
    // The worker tries for half a minute, as others may give room back.
    let state = mount.wait_state_within("full", build, Duration::from_secs(90));
    assert_eq!(state, "error", "{}", mount.why("full", build));
    let why = mount.why("full", build);
    assert!(
        why.contains("could not be stored") && why.contains("No space left"),
        "{why}"
    );
    assert_eq!(mount.list(&format!("jobs/full/builds/{build}/workspace")), [""; 0]);
    mount.build("small", "", "success");
}

/// "A ticket whose job was removed and made again under its name must not stay claimed with nobody working": its id
/// is that of a ticket that was there a moment ago.
#[test]
fn a_job_that_is_made_again_is_built_each_time() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    for round in 0..6 {
        mount.shell_job("a", &[&format!("sleep 0.3; echo round {round}")]);
        let build = mount.build("a", "", "success");
        assert_eq!(build, 1);
        let console = mount.console("a", build);
        assert!(console.contains(&format!("round {round}")), "{console}");
        fs::remove_dir_all(mount.path("jobs/a")).expect("rm -r of a job");
    }
}

/// job.md: "A line that can't be a parameter makes the outcome `error`, which names its number: `OUTPUTS:3: …`. Then none
/// of them counts", whoever refuses it.
#[test]
fn a_script_tells_all_of_its_parameters_or_none() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    let task = |script: &str| serde_json::json!({"type": "execute-shell", "params": {"script": script}});
    let mut tells = task("printf 'a=1\\n\\nupstream_job=x\\nb=2\\n' > \"$OUTPUTS\"\n");
    tells["allow_failure"] = true.into();
    let says = task("echo \"a ${PARAM_a-unset}, b ${PARAM_b-unset}\"; echo c= > \"$OUTPUTS\"\n");
    let reads = task("echo \"c ${PARAM_c-unset}.\"\n");
    mount.job("a", &serde_json::json!({"tasks": [tells, says, reads]}).to_string());
    let build = mount.build("a", "", "success");
    let console = mount.console("a", build);
    assert!(
        console.contains("a unset, b unset\n") && console.contains("c ."),
        "{console}"
    );
    let why = mount.read(&format!("jobs/a/builds/{build}/tasks/0-execute-shell/why"));
    assert!(
        why.starts_with("OUTPUTS:3: upstream_job is not a task's to say"),
        "{why}"
    );
}

/// "`reports`": what tests said that failed is in `why` of task and build, and among the artifacts; the outcome is that of
/// the script, and a report that is none changes nothing.
#[test]
fn what_reports_say_is_in_why_and_among_the_artifacts() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    let report = r#"<testsuite name="s"><testcase name="good"/><testcase name="bad"><failure message="1 is not 2"/></testcase></testsuite>"#;
    let task = json!({
        "type": "execute-shell", "reports": ["**/junit*.xml"],
        "params": {"script": format!("mkdir out; echo '{report}' >out/junit-1.xml; echo '<oops' >junit-2.xml; exit 3")},
    });
    mount.job_of("a", &[task]);
    mount.build("a", "", "failure");
    let said = "exit 3; 1 of 2 tests failed: s.bad (1 is not 2)";
    assert!(mount.why("a", 1).contains(said), "{}", mount.why("a", 1));
    let why = mount.read("jobs/a/builds/1/tasks/0-execute-shell/why");
    assert_eq!(why.lines().next(), Some(said), "{why}");
    let text = mount.read("jobs/a/builds/1/artifacts/reports/0.json");
    let kept: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((&kept["tests"], &kept["failures"]), (&json!(2), &json!(1)));
    assert_eq!(kept["failed"][0]["name"], "s.bad");
    let fault = kept["faults"][0].as_str().unwrap_or_default();
    assert!(fault.contains("junit-2.xml"), "{kept}");
    assert!(mount.console("a", 1).contains("reports: junit-2.xml: "));
}
