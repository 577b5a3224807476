//! The harness does what the other tests rely on: limits end what hangs, nothing is left running.

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::time::{Duration, Instant};

use distcifs_tests::wait::USUAL;
use distcifs_tests::{Mount, Sh, Worker, errno, process, wait_for, wait_some};
use nix::sys::signal::Signal;

fn start(script: &str, folder: &Path) -> Sh {
    Sh::start(&["dash", "-c", script], folder, folder, &[("OUT", folder)])
}

#[test]
fn a_script_gives_its_output_and_status() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = start("echo out; echo err >&2; exit 3", folder.path()).finish();
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out", "err\n"));
    assert_eq!(output.status.and_then(|status| status.code()), Some(3));
    assert!(!output.ok());
}

/// The script's process leads a session of its own: a claim that it makes ends with it.
#[test]
fn a_script_leads_its_own_session() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let script = start("cut -d' ' -f6 /proc/$$/stat", folder.path());
    let pid = script.pid();
    assert_eq!(script.finish().stdout.trim(), pid.to_string());
}

#[test]
fn a_script_that_hangs_is_ended_with_its_children() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let begun = Instant::now();
    let script = start("sleep 987.1 & trap '' TERM; while :; do sleep 1; done", folder.path());
    let output = script.finish_within(Duration::from_millis(300));
    assert!(output.status.is_none() && begun.elapsed() < Duration::from_secs(5));
    wait_for("the child to end", USUAL, || !process::runs("sleep 987.1"));
}

#[test]
fn a_script_ends_with_its_guard() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let script = start("echo begun; exec sleep 987.2", folder.path());
    wait_for("the script", USUAL, || script.so_far().contains("begun"));
    let pid = script.pid();
    assert!(process::is_alive(pid) && process::working_below(folder.path()).contains(&pid));
    script.signal(Signal::SIGSTOP);
    assert!(script.alive(), "stopped is alive");
    drop(script);
    assert!(!process::is_alive(pid));
}

#[test]
fn waiting_is_bounded() {
    let begun = Instant::now();
    let waited = std::panic::catch_unwind(|| wait_for("what never comes", Duration::from_millis(50), || false));
    assert!(waited.is_err() && begun.elapsed() < Duration::from_secs(5));
    let mut looks = 0;
    let third = wait_some("the third look", USUAL, || {
        looks += 1;
        (looks == 3).then_some(looks)
    });
    assert_eq!(third, 3);
}

/// Who waits in vain for a build is told where it stands, and who is at work or dead.
#[test]
fn a_build_that_does_not_end_is_shown() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    let dead = Worker::start(&mount, "execute-shell", &["--isolation", "none-such"]);
    mount.shell_job("long", &["echo begun; sleep 987.3"]);
    let build = mount.trigger("long", "");
    wait_for("the script", USUAL, || mount.console("long", build).contains("begun"));
    wait_for("the worker's end", USUAL, || !dead.alive());
    let wait = AssertUnwindSafe(|| mount.wait_state_within("long", build, Duration::from_millis(50)));
    let why = std::panic::catch_unwind(wait).expect_err("it sleeps");
    let why = why.downcast_ref::<String>().expect("words");
    for part in [
        "waited 50ms in vain for: long/1 to end",
        "jobs/long/builds/1/state: running",
        "jobs/long/builds/1/console: begun",
        "jobs/long/builds/1/tasks/0-execute-shell/attempt: 1",
        "tickets/execute-shell/long.1.0/claim: ",
        "isolation none-such: no program of this name",
        "build-control",
        "sleep 987.3",
        "nanosleep",
    ] {
        assert!(why.contains(part), "{part}: {why}");
    }
}

/// A number is nobody else's while a test may send a signal to it.
#[test]
fn a_killed_script_keeps_its_number() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut script = start("sleep 987.4 & exec sleep 987.4", folder.path());
    wait_for("the script", USUAL, || process::find("sleep 987.4").len() == 2);
    script.kill9_alone();
    assert!(
        !script.alive() && process::runs("sleep 987.4"),
        "its child is not killed"
    );
    assert!(process::all().contains(&script.pid()));
    let pid = script.pid();
    drop(script);
    assert!(!process::all().contains(&pid));
    wait_for("the child to end", USUAL, || !process::runs("sleep 987.4"));
}

#[test]
fn errno_is_that_of_the_failure() {
    assert_eq!(errno(std::fs::read("/nonexistent/file")), libc::ENOENT);
    assert!(std::panic::catch_unwind(|| errno(Ok(()))).is_err());
}
