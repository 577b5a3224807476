//! `distcifs up`: a mount and its workers in one command.

use std::fs;
use std::time::Duration;

use distcifs_tests::folder::is_mounted;
use distcifs_tests::wait::USUAL;
use distcifs_tests::{Folder, HELLO, Sh, process, wait_for};
use nix::sys::signal::Signal;

/// How many shell steps run at once.
const USUAL_WORKERS: [&str; 2] = ["--workers", "2"];

/// Starts it on a repository and waits until it says that it is up.
fn up(folder: &Folder, repository: &[String], more: &[&str]) -> Sh {
    let mut words = vec!["distcifs", "up", "ci"];
    words.splice(2..2, repository.iter().map(String::as_str));
    words.extend(more);
    let up = Sh::start(&words, &folder.path(), &folder.out(), &[]);
    wait_for("up", USUAL, || up.so_far().contains(" is up") || !up.alive());
    assert!(up.so_far().contains(" is up"), "{:#?}", up.finish());
    up
}

/// Runs a script in the mount point.
fn run(folder: &Folder, script: &str) -> String {
    Sh::start(&["dash", "-euc", script], &folder.mount_point(), &folder.out(), &[])
        .finish()
        .expect_ok()
}

/// A trigger, a wait for its end, and the state.
const BUILD: &str = "exec 3<>jobs/a/trigger; echo >&3; read -r n <&3
    while s=$(cat jobs/a/builds/$n/.wait) && [ -z \"$s\" ]; do :; done; echo \"$s\"";

/// Up, a build, TERM: it ends with 0, unmounted, and nothing of it runs; then up again with
/// everything there.
#[test]
fn up_builds_and_ends_cleanly() {
    let folder = Folder::new();
    let repository = folder.repository();
    let first = up(&folder, &repository, &USUAL_WORKERS);
    fs::create_dir(folder.mount_point().join("jobs/a")).expect("a job");
    fs::write(folder.mount_point().join("jobs/a/config.json"), HELLO).expect("a configuration");
    assert_eq!(run(&folder, BUILD), "success");
    first.signal(Signal::SIGTERM);
    let ended = first.finish_within(Duration::from_secs(20));
    assert!(ended.ok(), "{ended:#?}");
    assert!(!is_mounted(&folder.mount_point()));
    assert!(
        !process::runs(&folder.mount_point().display().to_string()),
        "a worker is left"
    );
    let second = up(&folder, &repository, &USUAL_WORKERS);
    assert_eq!(run(&folder, "cat jobs/a/builds/1/state"), "success");
    assert_eq!(run(&folder, BUILD), "success");
    second.signal(Signal::SIGINT);
    assert!(second.finish_within(Duration::from_secs(20)).ok());
}

/// "--with": a further program gets its arguments after the mount point, and is kept alive.
#[test]
fn up_keeps_further_programs_alive() {
    let folder = Folder::new();
    let up = up(
        &folder,
        &folder.repository(),
        &["--workers", "1", "--with", "cron --late 77"],
    );
    let cron = format!("cron {} --late 77", folder.mount_point().display());
    let found = || process::find(&cron);
    wait_for("cron", USUAL, || found().len() == 1);
    let first = found()[0];
    process::signal(first, Signal::SIGKILL);
    wait_for(
        "another cron",
        USUAL,
        || matches!(found().as_slice(), [next] if *next != first),
    );
    up.signal(Signal::SIGTERM);
    assert!(up.finish_within(Duration::from_secs(20)).ok());
    assert!(found().is_empty());
}

/// "`umount` under `up` names the process to end": it would be mounted again at once.
#[test]
fn umount_names_the_up_that_keeps_the_mount() {
    let folder = Folder::new();
    let up = up(&folder, &folder.repository(), &["--workers", "1"]);
    let umount = |more: &[&str]| {
        let mut words = vec!["distcifs", "umount"];
        words.extend(more);
        words.push("ci");
        Sh::start(&words, &folder.path(), &folder.out(), &[]).finish()
    };
    for more in [&[][..], &["--lazy"]] {
        let refused = umount(more);
        assert!(!refused.ok(), "{refused:#?}");
        assert!(refused.stderr.contains(&format!("kill {}", up.pid())), "{refused:#?}");
        assert!(is_mounted(&folder.mount_point()));
    }
    up.signal(Signal::SIGTERM);
    assert!(up.finish_within(Duration::from_secs(20)).ok());
    assert!(!is_mounted(&folder.mount_point()));
}

/// SIGKILL for `up` itself: the next one starts all the same, and builds.
#[test]
fn up_again_after_sigkill() {
    let folder = Folder::new();
    let repository = folder.repository();
    let mut first = up(&folder, &repository, &USUAL_WORKERS);
    first.kill9_alone();
    std::thread::sleep(Duration::from_secs(1));
    let second = up(&folder, &repository, &USUAL_WORKERS);
    fs::create_dir(folder.mount_point().join("jobs/a")).expect("a job");
    fs::write(folder.mount_point().join("jobs/a/config.json"), HELLO).expect("a configuration");
    assert_eq!(run(&folder, BUILD), "success");
    second.signal(Signal::SIGTERM);
    assert!(second.finish_within(Duration::from_secs(20)).ok());
}
