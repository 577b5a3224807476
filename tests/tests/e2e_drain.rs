//! A mount that is drained takes no work, finishes what is worked there, and says what is left.

use std::fs;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use distcifs_tests::folder::is_mounted;
use distcifs_tests::job::shell_task;
use distcifs_tests::wait::USUAL;
use distcifs_tests::{Folder, Mount, Sh, Worker, programs, wait_for};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use serde_json::json;

fn drain(mount: &Mount, more: &[&str]) -> Command {
    let mut command = Command::new(programs::distcifs());
    command.arg("drain").args(more).arg(mount.root());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn said(output: &Output) -> (Option<i32>, String) {
    let text = [&output.stdout[..], &output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

fn run(mount: &Mount, more: &[&str]) -> (Option<i32>, String) {
    said(&drain(mount, more).output().expect("distcifs runs"))
}

/// doc/tree.md: "From then on nobody claims on this mount: making `claim` is EBUSY, and `.next` gives
/// empty lines only."
#[test]
fn a_drained_mount_takes_no_work_until_that_is_ended() {
    let mount = Mount::new();
    mount.queue("q");
    for id in ["a", "b"] {
        mount.post("q", &json!({ "id": id }));
    }
    assert!(mount.read("status").contains("drained no"));
    let held = mount.claim("q", "a").expect("it is open");
    let (code, text) = run(&mount, &["--for", "1"]);
    assert_eq!(code, Some(3), "{text}");
    assert!(
        text.contains("still worked are: tickets/q/a by process") || text.contains("q/a by process"),
        "{text}"
    );
    assert!(mount.read("status").contains("drained yes"));
    let refused = mount.claim("q", "b").expect_err("no work is taken");
    assert_eq!(refused.raw_os_error(), Some(Errno::EBUSY as i32));
    let empty = mount.run("exec 3<>tickets/q/.next; echo >&3; for i in 1 2 3; do read -r id <&3; echo \"[$id]\"; done");
    assert_eq!(empty, "[]\n[]\n[]");
    // What is worked goes on: the result is committed, and then nothing is left.
    mount.result("q", "a", "0").expect("its claim holds");
    drop(held);
    let (code, text) = run(&mount, &[]);
    assert_eq!((code, text.as_str()), (Some(0), ""));
    assert!(mount.has("tickets/q/b/ticket.json") && !mount.has("tickets/q/b/claim"));
    // "until it is unmounted or drain --end": a waiter that waits all the while gets it at once.
    let waiter = mount
        .start("exec 3<>tickets/q/.next; echo >&3; while read -r id <&3 && [ -z \"$id\" ]; do :; done; echo \"$id\"");
    std::thread::sleep(Duration::from_millis(300));
    let (code, text) = run(&mount, &["--end"]);
    assert_eq!((code, text.as_str()), (Some(0), ""));
    assert_eq!(waiter.finish().expect_ok(), "b");
    assert!(mount.read("status").contains("drained no"));
    run(&mount, &[]);
    mount.remount();
    assert!(mount.read("status").contains("drained no"), "a mount begins undrained");
}

/// "build-control goes on meanwhile and begins no build; the builds that it steers go on where they
/// stand": the task at hand is finished, its result counts, the next stays posted.
#[test]
fn a_running_task_is_finished_and_the_next_waits_for_the_next_mount() {
    let mount = Mount::new();
    let workers = Worker::usual(&mount, 2);
    let (gate, seen) = (mount.out().join("gate"), mount.out().join("seen"));
    let first = format!(
        "while [ ! -e {} ]; do sleep 0.05; done; echo first > kept",
        gate.display()
    );
    let second = format!("cat kept; echo x >> {}", seen.display());
    mount.shell_job("a", &[&first, &second]);
    let build = mount.trigger("a", "");
    wait_for("the task to run", USUAL, || {
        mount.read(&format!("jobs/a/builds/{build}/why")).contains("runs on")
    });
    let draining = drain(&mount, &["--for", "60"]).spawn().expect("distcifs runs");
    wait_for("the drain", USUAL, || mount.read("status").contains("drained yes"));
    let later = mount.trigger("a", "");
    fs::write(&gate, "").expect("own folder");
    let (code, text) = said(&draining.wait_with_output().expect("it ends"));
    assert_eq!((code, text.as_str()), (Some(0), ""));
    wait_for("the first task to be over", USUAL, || {
        mount.read(&format!("jobs/a/builds/{build}/tasks/0-execute-shell/state")) == "success"
    });
    wait_for("the next to be posted", USUAL, || {
        mount.has(&format!("tickets/execute-shell/a.{build}.1"))
    });
    std::thread::sleep(Duration::from_millis(500));
    assert!(!seen.exists(), "the next task was begun");
    let why = mount.why("a", later);
    assert_eq!(mount.state("a", later), "pending");
    assert!(why.contains("is drained"), "{why}");
    drop(workers);
    mount.remount();
    let _workers = Worker::usual(&mount, 2);
    for number in [build, later] {
        assert_eq!(
            mount.wait_state("a", number),
            "success",
            "{}",
            mount.console("a", number)
        );
    }
    assert_eq!(fs::read_to_string(&seen).expect("both wrote"), "x\nx\n");
    let attempt = mount.read(&format!("jobs/a/builds/{build}/tasks/0-execute-shell/attempt"));
    assert_eq!(attempt, "1", "the first task was not done again");
}

/// "The file has mode 0600: it is for root and whoever mounted."
#[test]
fn only_root_and_the_mounts_user_may_drain() {
    let mount = Mount::new();
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let program = programs::distcifs();
    let line = ["--reuid", "54321", "--regid", "54321", "--clear-groups"];
    let output = Command::new("setpriv")
        .args(line)
        .arg(program)
        .arg("drain")
        .arg(mount.root())
        .output();
    let (code, text) = said(&output.expect("setpriv runs"));
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("only root and the user who mounted"), "{text}");
    assert!(mount.read("status").contains("drained no"));
    // A word that is none, and more than one.
    assert_eq!(
        mount
            .write(".drain", "begin now\n")
            .expect_err("no such word")
            .raw_os_error(),
        Some(libc_einval())
    );
    assert_eq!(mount.read(".drain"), "open");
    assert!(!mount.list("").contains(&".drain".to_owned()), "it is listed");
    let (code, text) = said(
        &Command::new(programs::distcifs())
            .args(["drain", "/"])
            .output()
            .expect("distcifs runs"),
    );
    assert!(code == Some(1) && text.contains("no mount of distcifs"), "{text}");
    mount.kill9();
    let (code, text) = run(&mount, &[]);
    assert!(code == Some(1) && text.contains("daemon is dead"), "{text}");
    mount.mount();
}

fn libc_einval() -> i32 {
    Errno::EINVAL as i32
}

/// Starts `up` on a repository and waits until it says that it is up.
fn up(folder: &Folder, more: &[&str]) -> Sh {
    let repository = folder.repository();
    let mut words = vec!["distcifs", "up", "ci", "--workers", "2"];
    words.splice(2..2, repository.iter().map(String::as_str));
    words.extend(more);
    let up = Sh::start(&words, &folder.path(), &folder.out(), &[]);
    wait_for("up", USUAL, || up.so_far().contains(" is up") || !up.alive());
    assert!(up.so_far().contains(" is up"), "{:#?}", up.finish());
    up
}

/// A job whose script waits for a file beside the mount, triggered.
fn slow_build(folder: &Folder) {
    let job = folder.mount_point().join("jobs/a");
    fs::create_dir(&job).expect("a job");
    let gate = folder.out().join("gate");
    let script = format!("while [ ! -e {} ]; do sleep 0.05; done", gate.display());
    let config = json!({ "tasks": [shell_task(&script), shell_task("echo second")] });
    fs::write(job.join("config.json"), config.to_string()).expect("a configuration");
    fs::write(job.join("trigger"), "\n").expect("a build");
    wait_for("the task to run", USUAL, || {
        fs::read_to_string(job.join("builds/1/why")).is_ok_and(|why| why.contains("runs on"))
    });
}

/// `distcifs up --help`: "USR1: take no more work, finish what is worked for at most --drain-for, then
/// end".
#[test]
fn up_finishes_what_is_worked_after_usr1() {
    let folder = Folder::new();
    let first = up(&folder, &[]);
    slow_build(&folder);
    first.signal(Signal::SIGUSR1);
    wait_for("the drain", USUAL, || {
        fs::read_to_string(folder.mount_point().join("status")).is_ok_and(|status| status.contains("drained yes"))
    });
    assert!(first.alive());
    fs::write(folder.out().join("gate"), "").expect("own folder");
    let ended = first.finish_within(Duration::from_secs(20));
    assert!(ended.ok(), "{ended:#?}");
    assert!(!is_mounted(&folder.mount_point()));
    // What was finished stands, and the build goes on with the next task.
    let second = up(&folder, &[]);
    let build = folder.mount_point().join("jobs/a/builds/1");
    wait_for("the build", USUAL, || {
        fs::read_to_string(build.join("state")).is_ok_and(|state| state == "success\n")
    });
    let attempt = fs::read_to_string(build.join("tasks/0-execute-shell/attempt")).expect("it was done");
    assert_eq!(attempt.trim(), "1");
    second.signal(Signal::SIGTERM);
    assert!(second.finish_within(Duration::from_secs(20)).ok());
}

/// At the end of its time it ends all the same, and says what is left; so it does on TERM.
#[test]
fn up_waits_no_longer_than_it_is_told() {
    for (more, term) in [(&["--drain-for", "1"][..], false), (&[], true)] {
        let folder = Folder::new();
        let up = up(&folder, more);
        slow_build(&folder);
        let begun = Instant::now();
        up.signal(Signal::SIGUSR1);
        if term {
            std::thread::sleep(Duration::from_millis(500));
            up.signal(Signal::SIGTERM);
        }
        let ended = up.finish_within(Duration::from_secs(30));
        assert_eq!(ended.status.and_then(|status| status.code()), Some(3), "{ended:#?}");
        assert!(ended.stderr.contains("a.1.0 by process"), "{ended:#?}");
        assert!(begun.elapsed() < Duration::from_secs(20));
        assert!(!is_mounted(&folder.mount_point()));
    }
}
