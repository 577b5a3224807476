//! Refusals that are seen, and the switch of a job (doc/tree.md).

use super::driver::Fs;
use super::verbs::{HELLO, errno};

on_both! {
    refused_triggers_and_control_words_are_seen,
    a_job_that_is_off_is_not_triggered,
}

/// "`trigger.error` and `ctl.error` are there after a refused write on this mount, with what was wrong,
/// for who may write trigger and ctl, until the next good write."
fn refused_triggers_and_control_words_are_seen(fs: Fs) {
    fs.mkdir("jobs/a").unwrap();
    assert!(!fs.has("jobs/a/trigger.error"));
    assert_eq!(errno(fs.write("jobs/a/trigger", "\n")), libc::EINVAL);
    let why = fs.read("jobs/a/trigger.error");
    assert!(why.contains("no valid configuration"), "{why}");
    assert!(fs.list("jobs/a").contains(&"trigger.error".to_owned()));
    fs.configure("a", HELLO);
    fs.chmod("jobs/a/trigger", 0o640).unwrap();
    assert_eq!(errno(fs.echo("jobs/a/trigger", "nosuch=1")), libc::EINVAL);
    let why = fs.read("jobs/a/trigger.error");
    assert!(why.starts_with("trigger: ") && why.contains("nosuch"), "{why}");
    assert_eq!(fs.stat("jobs/a/trigger.error").unwrap().mode, 0o400);
    fs.trigger("a", "");
    assert!(!fs.has("jobs/a/trigger.error"));
    let mut ctl = fs.open("jobs/a/builds/1/ctl", libc::O_WRONLY).unwrap();
    assert_eq!(errno(ctl.write(b"explode\n")), libc::EINVAL);
    let why = fs.read("jobs/a/builds/1/ctl.error");
    assert!(why.contains("write abort, retry, keep or unkeep"), "{why}");
    assert_eq!(errno(fs.write("jobs/a/builds/1/ctl", "retry\n")), libc::EBUSY);
    assert!(fs.read("jobs/a/builds/1/ctl.error").contains("not finished"));
    fs.echo("jobs/a/builds/1/ctl", "abort").unwrap();
    assert!(!fs.has("jobs/a/builds/1/ctl.error"));
    assert_eq!(errno(fs.echo("jobs/a/trigger", "nosuch=1")), libc::EINVAL);
    assert_eq!(fs.wait_state("a", 1), "aborted");
    fs.rmdir("jobs/a").unwrap();
    fs.mkdir("jobs/a").unwrap();
    assert!(!fs.has("jobs/a/trigger.error"), "it was another job's");
}

/// "`enabled`: write off or on; a trigger of one that is off is EACCES and says so", for root as well. What
/// was triggered before goes on.
fn a_job_that_is_off_is_not_triggered(mut fs: Fs) {
    fs.job("a", HELLO);
    assert_eq!(fs.read("jobs/a/enabled"), "on");
    fs.trigger("a", "");
    fs.echo("jobs/a/enabled", "off").unwrap();
    assert_eq!(fs.read("jobs/a/enabled"), "off");
    assert_eq!(errno(fs.write("jobs/a/trigger", "\n")), libc::EACCES);
    let why = fs.read("jobs/a/trigger.error");
    assert!(why.contains("switched off") && why.contains("jobs/a/enabled"), "{why}");
    assert_eq!(errno(fs.write("jobs/a/enabled", "maybe\n")), libc::EINVAL);
    assert_eq!(fs.read("jobs/a/enabled"), "off");
    fs.finish("build-control", "a.1.control", "success");
    assert_eq!(fs.wait_state("a", 1), "success");
    fs.wait_for("the record", || fs.list("tickets/build-control").is_empty());
    assert_eq!(errno(fs.write("jobs/a/builds/1/ctl", "retry\n")), libc::EACCES);
    assert!(fs.read("jobs/a/builds/1/ctl.error").contains("switched off"));
    fs.echo("jobs/a/enabled", "on").unwrap();
    fs.echo("jobs/a/trigger", "").unwrap();
    assert!(!fs.has("jobs/a/trigger.error"), "gone with the next good write");
    fs.finish("build-control", "a.2.control", "success");
    assert_eq!(fs.wait_state("a", 2), "success");
    fs.echo("jobs/a/builds/1/ctl", "keep").unwrap();
    assert!(!fs.has("jobs/a/builds/1/ctl.error"));
    fs.remount();
    assert_eq!(fs.read("jobs/a/enabled"), "on");
}
