//! Builds that wait for approval: what ends them, what they keep waiting, and who follows them (doc/tree.md).

use serde_json::{Value, json};

use super::driver::Fs;
use super::verbs::errno;

on_both! {
    who_waits_for_approval_is_followed_by_who_waits,
    who_may_not_say_the_commit_ends_nothing,
    what_was_pushed_out_can_be_sent_again,
    a_job_with_held_builds_is_renamed_and_removed,
    what_strangers_built_is_no_latest_of_others,
    an_approval_heeds_what_the_job_says_today,
}

/// A commit, and another.
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const OTHER: &str = "ffffffffffffffffffffffffffffffffffffffff";

/// "What ends a build that is held waits for approval too, whoever sent it": the sender speaks for himself, not for who
/// pushed the commits that were held.
fn who_waits_for_approval_is_followed_by_who_waits(fs: Fs) {
    fs.job("a", r#"{"tasks":[], "untrusted_run_for": ["alice", "maint"]}"#);
    let said =
        |pull: u32, senders: &str| format!("@trust=untrusted\n@ref=refs/pull/{pull}/head\n@commit={COMMIT}\n{senders}");
    let state = |n: u64| fs.read(&format!("jobs/a/builds/{n}/state"));
    fs.trigger("a", &said(1, "@sender=alice\n@sender=mallory"));
    let n = fs.trigger("a", &said(1, "@sender=alice\n@sender=maint"));
    assert_eq!((state(1).as_str(), state(n).as_str()), ("aborted", "held"));
    let n = fs.trigger("a", &said(1, "@sender=alice"));
    assert_eq!((state(2).as_str(), state(n).as_str()), ("aborted", "held"));
    // Another one's is not his.
    assert_eq!(state(fs.trigger("a", &said(2, "@sender=alice"))), "pending");
    // What was approved is known.
    fs.echo("jobs/a/builds/3/approve", COMMIT).unwrap();
    assert_eq!(state(fs.trigger("a", &said(1, "@sender=alice"))), "pending");
}

/// "Only who may say `@commit` ends held builds by a newer one": who may write `trigger` alone pushes out none.
fn who_may_not_say_the_commit_ends_nothing(mut fs: Fs) {
    fs.job("a", r#"{"tasks":[]}"#);
    let held = |pull: u32| format!("@trust=untrusted\n@ref=refs/pull/{pull}/head");
    for pull in 1..=100 {
        fs.trigger("a", &held(pull));
    }
    let own = fs.caller.uid;
    fs.caller.uid = 4321;
    assert_eq!(errno(fs.try_trigger("a", &held(101))), libc::EBUSY);
    let n = fs.trigger("a", "@ref=refs/pull/1/head");
    assert_eq!(fs.read("jobs/a/builds/1/state"), "held");
    fs.caller.uid = own;
    assert_eq!(fs.read(&format!("jobs/a/builds/{n}/state")), "pending");
    fs.trigger("a", "@ref=refs/pull/1/head");
    assert_eq!(fs.read("jobs/a/builds/1/state"), "aborted");
}

/// "A `@key` whose build was pushed out is free again", and one that somebody aborted is not.
fn what_was_pushed_out_can_be_sent_again(fs: Fs) {
    fs.job("a", r#"{"tasks":[]}"#);
    let said =
        |commit: &str, key: &str| format!("@trust=untrusted\n@ref=refs/pull/1/head\n@commit={commit}\n@key={key}");
    assert_eq!(fs.trigger("a", &said(COMMIT, "one")), 1);
    assert_eq!(fs.trigger("a", &said(COMMIT, "one")), 1);
    assert_eq!(fs.trigger("a", &said(OTHER, "two")), 2);
    assert_eq!(fs.trigger("a", &said(COMMIT, "one")), 3);
    assert_eq!(fs.trigger("a", &said(COMMIT, "one")), 3);
    let state = |n: u64| fs.read(&format!("jobs/a/builds/{n}/state"));
    assert_eq!([1, 2, 3].map(state), ["aborted", "aborted", "held"]);
    fs.echo("jobs/a/builds/3/ctl", "abort").unwrap();
    fs.wait_state("a", 3);
    assert_eq!(fs.trigger("a", &said(COMMIT, "one")), 3);
}

/// "Builds that wait for approval keep no job from another name", and are approved under it; with their job they end.
fn a_job_with_held_builds_is_renamed_and_removed(fs: Fs) {
    fs.job("a", r#"{"tasks":[]}"#);
    for pull in [1, 2] {
        fs.trigger(
            "a",
            &format!("@trust=untrusted\n@ref=refs/pull/{pull}/head\n@commit={COMMIT}"),
        );
    }
    fs.rename("jobs/a", "jobs/b").unwrap();
    assert_eq!(fs.read("jobs/b/builds/1/state"), "held");
    fs.echo("jobs/b/builds/1/approve", COMMIT).unwrap();
    assert_eq!(fs.list("tickets/build-control"), ["b.1.control"]);
    assert_eq!(errno(fs.rmdir("jobs/b")), libc::EBUSY);
    assert_eq!(fs.read("jobs/b/builds/2/state"), "held");
    fs.finish("build-control", "b.1.control", "success");
    fs.wait_for("the record", || fs.list("tickets/build-control").is_empty());
    fs.rmdir("jobs/b").unwrap();
    assert!(!fs.has("jobs/b"));
}

/// "The newest build that is no stranger's, however many of those are newer."
fn what_strangers_built_is_no_latest_of_others(mut fs: Fs) {
    fs.job("a", r#"{"tasks":[], "untrusted": "run"}"#);
    let link = "jobs/a/builds/.latest-trusted";
    fs.trigger("a", "@trust=untrusted");
    assert!(!fs.has(link));
    fs.trigger("a", "");
    for n in 3..=5 {
        fs.trigger("a", "@trust=untrusted");
        fs.finish("build-control", &format!("a.{n}.control"), "success");
    }
    let number = |fs: &Fs| {
        let record: Value = serde_json::from_str(&fs.read(&format!("{link}/build.json"))).unwrap();
        record["build"].as_u64().unwrap()
    };
    assert_eq!(number(&fs), 2);
    fs.finish("build-control", "a.2.control", "failure");
    fs.wait_for("the record", || fs.list("tickets/build-control").len() == 1);
    fs.remount();
    assert_eq!(number(&fs), 2);
    assert!(!fs.list("jobs/a/builds").contains(&".latest-trusted".to_owned()));
}

/// "While the job's `untrusted` is refuse, approving is EACCES." And: each ticket of such a build needs the label, that for
/// build-control too.
fn an_approval_heeds_what_the_job_says_today(fs: Fs) {
    fs.job("a", r#"{"tasks":[]}"#);
    fs.trigger("a", &format!("@trust=untrusted\n@commit={COMMIT}"));
    fs.configure("a", r#"{"tasks":[], "untrusted": "refuse"}"#);
    let approve = "jobs/a/builds/1/approve";
    assert_eq!(errno(fs.write(approve, format!("{COMMIT}\n"))), libc::EACCES);
    assert!(fs.read("jobs/a/builds/1/ctl.error").contains("refuse"));
    fs.configure("a", r#"{"tasks":[], "untrusted": "run"}"#);
    fs.echo(approve, COMMIT).unwrap();
    let control = |n: u64, name: &str| fs.read(&format!("tickets/build-control/a.{n}.control/{name}"));
    assert_eq!(control(1, "labels"), "untrusted");
    let ticket: Value = serde_json::from_str(&control(1, "ticket.json")).unwrap();
    assert_eq!(ticket["labels"], json!(["untrusted"]));
    fs.trigger("a", "");
    assert_eq!(control(2, "labels"), "");
}
