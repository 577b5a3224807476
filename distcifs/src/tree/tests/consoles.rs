//! Consoles of tasks and of builds, whose lines they have and when (doc/tree.md).

use serde_json::json;

use super::driver::Fs;
use super::verbs::errno;

/// "An incomplete line is shown within a second, even if it has no end": a prompt, or progress. Whoever writes
/// then begins a new line, and the rest of the first says again whose it is.
#[test]
fn an_incomplete_line_is_shown_while_it_waits() {
    let fs = Fs::paused();
    for queue in ["ask", "other"] {
        fs.queue(queue);
    }
    let tasks = json!([{"type": "ask", "needs": []}, {"type": "other", "needs": []}]);
    fs.job("a", &json!({ "tasks": tasks }).to_string());
    fs.trigger("a", "");
    let control = fs.claim("build-control", "a.1.control").unwrap();
    let open = |queue: &str, task: u32| {
        let id = fs.post(queue, &json!({"job": "a", "build": 1, "task": task, "params": {}}));
        let claim = fs.claim(queue, &id).expect("it is open");
        let path = format!("tickets/{queue}/{id}/console");
        let console = fs.open(&path, libc::O_WRONLY | libc::O_APPEND).expect("it is ours");
        (claim, console)
    };
    let (_ask, mut ask) = open("ask", 0);
    let (_other, mut other) = open("other", 1);
    let shown = || String::from_utf8(fs.bytes("jobs/a/builds/1/console").unwrap()).unwrap();
    let shows = |expected: &str| {
        let begun = fs.now();
        fs.wait_for(expected, || shown() == expected);
        assert!(fs.now() - begun <= std::time::Duration::from_secs(1), "{expected:?}");
    };
    ask.write(b"whole\nname> ").unwrap();
    shows("[ask] whole\n[ask] name> ");
    other.write(b"line\n").unwrap();
    shows("[ask] whole\n[ask] name> \n[other] line\n");
    ask.write(b"me\n").unwrap();
    shows("[ask] whole\n[ask] name> \n[other] line\n[ask] me\n");
    // What is long does not wait: 64 KiB in one write, and it is there when that returns.
    ask.write("x".repeat(64 << 10).as_bytes()).unwrap();
    assert!(shown().len() > 64 << 10);
    drop(control);
}

/// After a claim is lost its console takes nothing more, through a descriptor of before neither; what it wrote stays
/// in front of what the next one writes.
#[test]
fn a_console_is_closed_to_who_lost_the_claim() {
    let fs = Fs::alone();
    fs.queue("q");
    fs.post("q", &json!({"id": "t"}));
    let claim = fs.claim("q", "t").unwrap();
    let mut console = fs.open("tickets/q/t/console", libc::O_WRONLY | libc::O_APPEND).unwrap();
    console.write(b"mine\n").unwrap();
    fs.unlink("tickets/q/t/claim").unwrap();
    assert_eq!(errno(console.write(b"late\n")), libc::ESTALE);
    let next = fs.claim("q", "t").unwrap();
    assert_eq!(errno(console.write(b"later\n")), libc::ESTALE);
    assert_eq!(fs.read("tickets/q/t/console"), "mine", "what it wrote before stays");
    drop((claim, next));
}
