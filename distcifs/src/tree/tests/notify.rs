//! Notifications: what a build tells of itself, and to whom (doc/notify.md).

use serde_json::{Value, json};

use super::driver::Fs;
use super::verbs::errno;

on_both! {
    a_build_tells_of_its_end_once,
    a_worker_is_given_all_that_one_build_tells,
    what_changed_hangs_on_the_build_before_of_the_ref,
    a_retry_is_held_against_the_run_before,
    a_stranger_is_told_of_where_that_is_said,
    a_notification_outlasts_its_build_and_job,
    who_may_not_read_the_job_reads_no_notification,
    a_build_ends_without_the_queue,
    nobody_else_makes_notifications,
}

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn job(fs: &Fs, notify: Value) {
    fs.job("a", &json!({"tasks": [], "notify": notify}).to_string());
}

/// Triggers a build and has it end so.
fn built(fs: &Fs, said: &str, state: &str) -> u64 {
    let n = fs.trigger("a", said);
    fs.finish("build-control", &format!("a.{n}.control"), state);
    fs.wait_state("a", n);
    // It is told when it is recorded.
    let live = format!("a.{n}.control");
    fs.wait_for("the record", || {
        !fs.list(&format!("jobs/a/builds/{n}")).is_empty() && !fs.has(&format!("tickets/build-control/{live}"))
    });
    n
}

/// The notifications that wait: build and events of each, by their ids.
fn told(fs: &Fs) -> Vec<(String, String)> {
    let read = |id: &String, name: &str| {
        fs.read(&format!("tickets/notify/{id}/params/{name}"))
            .replace('\n', " ")
    };
    let ids = fs.list("tickets/notify");
    ids.iter().map(|id| (read(id, "build"), read(id, "events"))).collect()
}

/// "The daemon makes the tickets with the end of the build, and removes them when finished."
fn a_build_tells_of_its_end_once(fs: Fs) {
    job(
        &fs,
        json!([
            {"on": ["failure"], "type": "mail", "to": ["x@example.org", "y@example.org"]},
            {"on": ["success"], "type": "mail", "to": "z@example.org"},
            {"on": ["*"], "type": "irc", "channel": "#ci"},
        ]),
    );
    built(&fs, "@ref=refs/heads/main", "failure\nit broke");
    let ids = fs.list("tickets/notify");
    assert_eq!(ids.len(), 2);
    let mail = format!("tickets/notify/{}", ids[0]);
    let read = |name: &str| fs.read(&format!("{mail}/params/{name}"));
    assert_eq!(
        ["to", "state", "why", "ref"].map(read),
        ["x@example.org\ny@example.org", "failure", "it broke", "refs/heads/main"]
    );
    assert_eq!(fs.read(&format!("{mail}/labels")), "mail");
    assert_eq!(fs.read(&format!("{mail}/owner")), fs.caller.uid.to_string());
    let ticket: Value = serde_json::from_str(&fs.read(&format!("{mail}/ticket.json"))).unwrap();
    assert_eq!(
        (&ticket["params"]["build"], &ticket["params"]["job"]),
        (&json!(1), &json!("a"))
    );
    assert!(!fs.has(&format!("{mail}/build")) && !fs.has(&format!("{mail}/needs")));
    // Whatever becomes of it, it is gone then.
    for (id, words) in ids.iter().zip(["success", "failure\nnobody answered"]) {
        let claimed = fs.claim("notify", id).unwrap();
        fs.result("notify", id, words).unwrap();
        drop(claimed);
    }
    fs.wait_for("their end", || fs.list("tickets/notify").is_empty());
}

/// All tickets of a build are made in one commit, and a worker is given each of them.
fn a_worker_is_given_all_that_one_build_tells(fs: Fs) {
    job(
        &fs,
        json!([{"on": ["*"], "type": "irc"}, {"on": ["*"], "type": "irc"}, {"on": ["*"], "type": "irc"}]),
    );
    built(&fs, "", "success");
    let asked: Vec<_> = (0..3).map(|_| fs.ask("notify", "irc").unwrap()).collect();
    let mut given: Vec<String> = asked.iter().map(|(_, id)| id.clone()).collect();
    given.sort();
    assert_eq!(given, fs.list("tickets/notify"));
}

/// "`changed` and `fixed`: against the trusted build before of the same ref. One that was aborted does not count."
fn what_changed_hangs_on_the_build_before_of_the_ref(fs: Fs) {
    job(&fs, json!([{"on": ["changed", "fixed"], "type": "irc"}]));
    let expected = [
        ("main", "success", None),
        ("main", "failure", Some("failure changed")),
        ("main", "failure", None),
        ("other", "success", None),
        ("main", "aborted", None),
        ("new", "failure", Some("failure changed")),
        ("main", "error", Some("error changed")),
        ("main", "success", Some("success changed fixed")),
    ];
    for (n, (name, state, words)) in (1..).zip(expected) {
        assert_eq!(built(&fs, &format!("@ref=refs/heads/{name}"), state), n);
        let new: Vec<String> = told(&fs)
            .into_iter()
            .filter(|(build, _)| *build == n.to_string())
            .map(|(_, events)| events)
            .collect();
        assert_eq!(new, words.into_iter().collect::<Vec<_>>(), "{n}: {name} {state}");
    }
}

/// "Of a retry the build before is its own run before": whoever was told that it failed is told that it is mended.
fn a_retry_is_held_against_the_run_before(fs: Fs) {
    job(&fs, json!([{"on": ["fixed"], "type": "irc"}]));
    built(&fs, "", "success");
    built(&fs, "", "failure");
    assert_eq!(told(&fs), []);
    fs.echo("jobs/a/builds/2/ctl", "retry").unwrap();
    fs.finish("build-control", "a.2.control.r1", "success");
    fs.wait_for("the end of the retry", || {
        told(&fs) == [("2".to_owned(), "success changed fixed".to_owned())]
    });
    assert_eq!(
        fs.read(&format!("tickets/notify/{}/params/run", fs.list("tickets/notify")[0])),
        "1"
    );
}

/// "`held` is told with the trigger; the end of a stranger's build only where `untrusted` says so."
fn a_stranger_is_told_of_where_that_is_said(fs: Fs) {
    job(
        &fs,
        json!([
            {"on": ["*"], "type": "irc"},
            {"on": ["aborted"], "type": "irc", "untrusted": true},
        ]),
    );
    let n = fs.trigger(
        "a",
        &format!("@trust=untrusted\n@ref=refs/pull/1/head\n@commit={COMMIT}\n@cause=free money"),
    );
    assert_eq!(told(&fs), [(n.to_string(), "held".to_owned())]);
    let id = &fs.list("tickets/notify")[0];
    let why = fs.read(&format!("tickets/notify/{id}/params/why"));
    assert!(why.starts_with(&format!("waits for approval of {COMMIT}")), "{why}");
    assert!(!fs.has(&format!("tickets/notify/{id}/params/cause")));
    // The first is told once, not again when it is approved.
    fs.echo("jobs/a/builds/1/approve", COMMIT).unwrap();
    fs.finish("build-control", "a.1.control", "failure");
    fs.wait_state("a", 1);
    fs.trigger(
        "a",
        &format!("@trust=untrusted\n@ref=refs/pull/2/head\n@commit={COMMIT}"),
    );
    fs.echo("jobs/a/builds/2/ctl", "abort").unwrap();
    let all = [("1", "held"), ("2", "held"), ("2", "aborted")];
    fs.wait_for("the end that is told", || {
        told(&fs) == all.map(|(n, word)| (n.to_owned(), word.to_owned()))
    });
}

/// "It says all that it tells": its build and its job may be gone by then. It is the owner's then, alone.
fn a_notification_outlasts_its_build_and_job(fs: Fs) {
    job(&fs, json!([{"on": ["*"], "type": "irc"}]));
    built(&fs, "", "success");
    fs.rmdir("jobs/a/builds/1").unwrap();
    fs.rmdir("jobs/a").unwrap();
    // Another of the same name tells of a build of the same number.
    job(&fs, json!([{"on": ["*"], "type": "irc"}]));
    built(&fs, "", "success");
    let ids = fs.list("tickets/notify");
    assert_eq!(ids.len(), 2);
    let open = |id: &&String| fs.stat(&format!("tickets/notify/{id}")).unwrap().mode & 0o007 != 0;
    assert_eq!(ids.iter().filter(open).count(), 1);
    for id in &ids {
        fs.finish("notify", id, "success");
    }
    fs.wait_for("their end", || fs.list("tickets/notify").is_empty());
}

/// "What a configuration says has no more readers than config.json, wherever it stands."
fn who_may_not_read_the_job_reads_no_notification(fs: Fs) {
    job(&fs, json!([{"on": ["*"], "type": "irc", "channel": "#secret"}]));
    fs.chmod("jobs/a", 0o750).unwrap();
    fs.chmod("jobs/a/config.json", 0o600).unwrap();
    built(&fs, "", "success");
    let id = &fs.list("tickets/notify")[0];
    let mode = |path: &str| fs.stat(&format!("tickets/notify/{id}{path}")).unwrap().mode & 0o007;
    for path in ["", "/params", "/ticket.json", "/params/channel", "/labels", "/attempt"] {
        assert_eq!(mode(path), 0, "{path}");
    }
}

/// "A build is recorded though somebody removed the queue": it is made again.
fn a_build_ends_without_the_queue(fs: Fs) {
    job(&fs, json!([{"on": ["*"], "type": "irc"}]));
    match fs.rmdir("tickets/notify") {
        Ok(()) => assert!(!fs.has("tickets/notify")),
        Err(_) => assert!(fs.has("tickets/notify"), "queues stay"),
    }
    built(&fs, "", "success");
    assert_eq!(told(&fs).len(), 1);
}

/// "Builds tell of themselves": nobody posts into the queue, and no task has the type.
fn nobody_else_makes_notifications(fs: Fs) {
    let forged = json!({"labels": ["mail"], "params": {"to": ["x@example.org"], "why": "free money"}});
    assert_eq!(errno(fs.try_post("notify", &forged)), libc::EPERM);
    fs.mkdir("jobs/b").unwrap();
    assert!(
        fs.write("jobs/b/config.json", r#"{"tasks": [{"type": "notify"}]}"#)
            .is_err()
    );
    assert!(fs.read("jobs/b/config.error").contains("it can't be a task"));
}
