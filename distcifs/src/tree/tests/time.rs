//! What the tree does after a time, in a time that does not have to pass: bounds of waiting, locks that
//! end, claims that are taken away (doc/tree.md).
//!
//! The clock stands still while anything works and jumps to the next thing that is waited for. So a
//! bound is exact here, and a busy machine changes nothing.

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;

use super::driver::Fs;
use super::verbs::{HELLO, errno};
use crate::repository::work::join_all;

/// A second configuration, told from HELLO by its script.
const OTHER: &str = r#"{"tasks":[{"type":"execute-shell","params":{"script":"echo other\n"}}]}"#;

/// "within one second a read gives a line, or an empty line for 'nothing yet'".
#[test]
fn next_answers_within_a_second() {
    let fs = Fs::paused();
    fs.queue("q");
    let mut next = fs.open("tickets/q/.next", libc::O_RDWR).unwrap();
    next.write(b"linux\n").unwrap();
    for _ in 0..3 {
        let begun = fs.now();
        assert_eq!(next.read().unwrap(), "\n");
        let took = fs.now() - begun;
        assert!(took > Duration::ZERO && took <= Duration::from_secs(1), "{took:?}");
    }
}

/// "each of many who read one descriptor of them is answered within that second": none waits for the turns
/// of the others.
#[test]
fn readers_of_one_descriptor_are_answered_within_a_second_each() {
    let fs = Fs::paused();
    fs.queue("q");
    fs.job("a", HELLO);
    fs.trigger("a", "");
    let mut next = fs.open("tickets/q/.next", libc::O_RDWR).unwrap();
    next.write(b"linux\n").unwrap();
    let wait = fs.open("jobs/a/builds/1/.wait", libc::O_RDONLY).unwrap();
    let events = fs.open(".events", libc::O_RDONLY).unwrap();
    while fs.wait(events.one()).unwrap() != "\n" {}
    for (file, nothing) in [(&next, "\n"), (&wait, ""), (&events, "\n")] {
        let begun = fs.now();
        for read in fs.wait(join_all((0..20).map(|_| file.one()))) {
            assert_eq!(read.unwrap(), nothing);
        }
        let took = fs.now() - begun;
        assert!(took <= Duration::from_secs(1), "{took:?}");
    }
    fs.post("q", &json!({"id": "t"}));
    let read = fs.wait(join_all((0..20).map(|_| next.one())));
    let lines: Vec<_> = read.into_iter().map(|line| line.unwrap()).collect();
    assert_eq!(lines.iter().filter(|line| **line == "t\n").count(), 1, "{lines:?}");
}

/// ".wait: a read answers within one second with the data or with end of file".
#[test]
fn wait_answers_within_a_second() {
    let fs = Fs::paused();
    fs.job("a", HELLO);
    fs.trigger("a", "");
    let begun = fs.now();
    assert_eq!(fs.read("jobs/a/builds/1/.wait"), "");
    let took = fs.now() - begun;
    assert!(took > Duration::ZERO && took <= Duration::from_secs(1), "{took:?}");
    fs.finish("build-control", "a.1.control", "failure");
    assert_eq!(fs.wait_state("a", 1), "failure");
}

/// "A second writer waits up to 5 s, then gets EBUSY; with O_NONBLOCK EAGAIN at once." "a rename never
/// waits".
#[test]
fn the_lock_makes_writers_take_turns() {
    let fs = Fs::paused();
    fs.job("a", HELLO);
    let path = "jobs/a/config.json";
    let holder = fs.open(path, libc::O_WRONLY).unwrap();
    let timed = |call: &dyn Fn() -> i32| {
        let begun = fs.now();
        (call(), fs.now() - begun)
    };
    let (refused, took) = timed(&|| errno(fs.open(path, libc::O_WRONLY | libc::O_NONBLOCK)));
    assert_eq!(refused, libc::EAGAIN);
    assert!(took < Duration::from_millis(500), "at once, not {took:?}");
    let (refused, took) = timed(&|| errno(fs.open(path, libc::O_WRONLY)));
    assert_eq!(refused, libc::EBUSY);
    let exact = Duration::from_secs(5)..Duration::from_millis(5100);
    assert!(exact.contains(&took), "{took:?}");
    fs.write("jobs/a/new", OTHER).unwrap();
    let (refused, took) = timed(&|| errno(fs.rename("jobs/a/new", path)));
    assert_eq!(refused, libc::EBUSY);
    assert!(took < Duration::from_secs(1), "a rename never waits: {took:?}");

    let (caller, ino, tree) = (fs.caller, fs.find(path).unwrap().at(), fs.tree().clone());
    let flags = libc::O_WRONLY | libc::O_TRUNC;
    let waiting = fs.begin(async move { tree.open(caller, ino, flags).await });
    fs.pass(Duration::from_millis(300));
    assert!(!waiting.is_finished());
    drop(holder);
    let handle = fs.wait(waiting).unwrap().unwrap().handle;
    let text = Bytes::from_static(OTHER.as_bytes());
    fs.wait(fs.tree().write(caller, (ino, handle), 0, text, false)).unwrap();
    fs.wait(fs.tree().flush(caller, ino, handle)).unwrap();
    fs.tree().release(ino, handle);
    assert!(fs.read(path).contains("echo other"), "the second got its turn");
}

/// A lock of config.json that nobody uses for a minute ends: whoever holds it is told, and the next one has it.
#[test]
fn a_lock_that_nobody_uses_ends() {
    let fs = Fs::paused();
    fs.job("a", HELLO);
    let path = "jobs/a/config.json";
    let mut idle = fs.open(path, libc::O_WRONLY | libc::O_TRUNC).unwrap();
    for _ in 0..3 {
        fs.pass(Duration::from_secs(50));
        idle.write(b" ").expect("it is used");
    }
    fs.pass(Duration::from_secs(61));
    assert_eq!(errno(idle.write(b" ")), libc::ESTALE);
    let begun = fs.now();
    fs.configure("a", OTHER);
    assert!(fs.now() - begun < Duration::from_secs(1), "nobody holds it");
    assert!(fs.read(path).contains("echo other"));
}

/// "A claim older than the ticket's `timeout` … by 60 s is taken away, outcome failure": not before, and
/// nothing is taken from it after.
#[test]
fn a_claim_is_taken_away_a_minute_after_its_timeout() {
    let fs = Fs::paused();
    fs.queue("q");
    fs.post("q", &json!({"id": "t", "timeout": 30}));
    let claim = fs.claim("q", "t").unwrap();
    fs.pass(Duration::from_secs(89));
    assert!(fs.has("tickets/q/t/claim"));
    fs.pass(Duration::from_secs(2));
    fs.wait_for("its end", || !fs.has("tickets/q/t/claim"));
    assert!(fs.result("q", "t", "0").is_err(), "it is too late");
    assert!(fs.read("tickets/q/t/.wait").starts_with("failure"));
    drop(claim);
}

/// "At most until its claim is taken away, 60 s after the abort": of one that does not listen.
#[test]
fn an_abort_waits_for_a_minute_at_most() {
    let fs = Fs::paused();
    fs.job("a", HELLO);
    fs.trigger("a", "");
    let control = fs.claim("build-control", "a.1.control").unwrap();
    fs.post(
        "execute-shell",
        &json!({"id": "a.1.0", "job": "a", "build": 1, "task": 0, "params": {"script": "true\n"}}),
    );
    let task = fs.claim("execute-shell", "a.1.0").unwrap();
    fs.echo("tickets/execute-shell/a.1.0/console", "more").unwrap();
    let begun = fs.now();
    fs.echo("jobs/a/builds/1/ctl", "abort").unwrap();
    let told = fs.read("tickets/execute-shell/a.1.0/.wait");
    assert!(told.starts_with("aborted"), "it is told at once: {told}");
    let taken = || !fs.has("tickets/execute-shell/a.1.0/claim");
    fs.wait_within(Duration::from_secs(75), "the end of the claim", taken);
    let took = fs.now() - begun;
    let exact = Duration::from_secs(59)..Duration::from_secs(62);
    assert!(exact.contains(&took), "{took:?}");
    assert!(fs.result("execute-shell", "a.1.0", "0").is_err(), "it is refused");
    assert_eq!(fs.read("jobs/a/builds/1/tasks/0-execute-shell/state"), "aborted");
    fs.result("build-control", "a.1.control", "aborted").unwrap();
    assert_eq!(fs.wait_state("a", 1), "aborted");
    drop((task, control));
}
