//! Tickets: posting, claiming, losing a claim, and `.next`.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use distcifs_tests::wait::USUAL;
use distcifs_tests::{Mount, errno, wait_for};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::json;

/// A claim ends "within 1 s after the claimant is gone"; the rest is for a busy machine.
const OPEN_AGAIN: Duration = Duration::from_millis(1500);

/// Longer than the descriptor of a claim may be open that is one command's, as of `touch claim`.
const HELD: Duration = Duration::from_millis(600);

fn mount_with_ticket() -> Mount {
    let mount = Mount::new();
    mount.queue("q");
    mount.post("q", &json!({"id": "t"}));
    mount
}

/// "Exactly one of any number of racing claimants succeeds", by each of the usual ways.
#[test]
fn fifty_claimants_and_one_succeeds() {
    for shell in ["dash", "bash", "busybox sh"] {
        for way in ["echo $$ > claim", "command exec 9>claim"] {
            race(shell, way);
        }
    }
    for way in ["touch claim", ": >> claim", "set -C; : > claim"] {
        race("dash", way);
    }
}

/// Fifty shells wait for a file, then claim at once; the winner holds on until the race is over.
fn race(shell: &str, way: &str) {
    let mount = mount_with_ticket();
    let until = |name: &str| format!("while ! [ -e \"$OUT/{name}\" ]; do sleep 0.05; done");
    let body = format!(
        "cd tickets/q/t; {}; {{ {way}; }} 2>/dev/null && {{ echo won; {}; }}",
        until("gate"),
        until("over")
    );
    let words: Vec<&str> = shell.split(' ').chain(["-c", &body]).collect();
    let running: Vec<_> = (0..50).map(|_| mount.start_words(&words)).collect();
    std::thread::sleep(Duration::from_millis(300));
    fs::write(mount.out().join("gate"), "").expect("own folder");
    wait_for("forty-nine to lose", USUAL, || {
        running.iter().filter(|script| script.alive()).count() <= 1
    });
    fs::write(mount.out().join("over"), "").expect("own folder");
    let won = running
        .into_iter()
        .filter(|script| script.so_far().contains("won"))
        .count();
    assert_eq!(won, 1, "{shell}: {way}");
}

/// "for everyone else opening it for writing or changing its times is EEXIST".
#[test]
fn claimed_is_claimed() {
    let mount = mount_with_ticket();
    let claim = mount.claim("q", "t").expect("the first claim");
    assert_eq!(errno(mount.claim("q", "t")), libc::EEXIST);
    assert_eq!(
        errno(File::options().write(true).open(mount.path("tickets/q/t/claim"))),
        libc::EEXIST
    );
    let other = mount.sh("touch tickets/q/t/claim");
    assert!(!other.ok() && other.stderr.contains("exists"), "{other:?}");
    assert!(!mount.sh("echo $$ > tickets/q/t/claim").ok());
    assert!(!mount.read("tickets/q/t/claim").is_empty(), "node, process, time");
    drop(claim);
}

/// Kind 1: "the open descriptor: until its last copy is closed or the process that opened it dies,
/// though a child still holds a copy".
#[test]
fn a_claim_by_descriptor_ends_with_its_process() {
    let mount = mount_with_ticket();
    let mut holder = mount.start("exec 9>tickets/q/t/claim; sleep 30 & echo $!; exec sleep 60");
    wait_for("the claim", USUAL, || {
        mount.has("tickets/q/t/claim") && holder.so_far().contains('\n')
    });
    let child: i32 = holder.so_far().trim().parse().expect("the child's id");
    holder.kill9_alone();
    wait_for("the ticket to be open again", OPEN_AGAIN, || {
        !mount.has("tickets/q/t/claim")
    });
    assert!(
        distcifs_tests::process::is_alive(nix::unistd::Pid::from_raw(child)),
        "the copy was still held"
    );
    distcifs_tests::process::signal(nix::unistd::Pid::from_raw(child), nix::sys::signal::Signal::SIGKILL);
    assert_eq!(mount.read("tickets/q/t/attempt"), "2");
}

/// Kind 2: "the process whose id was written into it"; an id that is no living process is EINVAL.
#[test]
fn a_claim_by_process_id_ends_with_that_process() {
    let mount = mount_with_ticket();
    let mut holder = mount.start("exec sleep 60");
    mount.run(&format!("echo {} > tickets/q/t/claim", holder.pid()));
    std::thread::sleep(Duration::from_millis(1200));
    assert!(
        mount.has("tickets/q/t/claim"),
        "the writer is gone, the process named is not"
    );
    holder.kill9();
    wait_for("the ticket to be open again", OPEN_AGAIN, || {
        !mount.has("tickets/q/t/claim")
    });
    let refused = mount.sh("echo 4194999 > tickets/q/t/claim");
    assert!(!refused.ok(), "{refused:?}");
    wait_for("nothing to be left of a refused claim", OPEN_AGAIN, || {
        !mount.has("tickets/q/t/claim")
    });
}

/// Kind 3: "the leader of the session of the process that made it".
#[test]
fn a_claim_by_touch_ends_with_the_session() {
    let mount = mount_with_ticket();
    let mut session = mount.start("touch tickets/q/t/claim; sleep 60");
    wait_for("the claim", USUAL, || mount.has("tickets/q/t/claim"));
    std::thread::sleep(Duration::from_millis(1200));
    assert!(mount.has("tickets/q/t/claim"), "touch is gone, its session is not");
    session.kill9();
    wait_for("the ticket to be open again", OPEN_AGAIN, || {
        !mount.has("tickets/q/t/claim")
    });
}

/// "`rm claim` gives the ticket back"; "a ticket given back … doesn't count against it".
#[test]
fn rm_gives_the_ticket_back() {
    let mount = mount_with_ticket();
    mount.run("cd tickets/q/t; echo $$ > claim; rm claim; [ ! -e claim ]; cat attempt");
    assert_eq!(mount.read("tickets/q/t/attempt"), "1");
    drop(mount.claim("q", "t").expect("claimed again"));
}

/// The kernel tells of a close after close has returned: what it tells of an old claim must not
/// end the new one.
#[test]
fn a_late_release_does_not_end_the_next_claim() {
    let mount = Mount::new();
    mount.queue("q");
    let mut held = Vec::new();
    for round in 0..50 {
        let id = mount.post("q", &json!({"id": format!("t{round}")}));
        let first = mount.claim("q", &id).expect("the first claim");
        fs::remove_file(mount.path(&format!("tickets/q/{id}/claim"))).expect("given back");
        held.push((mount.claim("q", &id).expect("the second claim"), id));
        drop(first);
    }
    std::thread::sleep(OPEN_AGAIN);
    for (_, id) in &held {
        assert!(
            mount.has(&format!("tickets/q/{id}/claim")),
            "{id}: the old release ended it"
        );
    }
}

/// "`attempt` counts claims that were lost by a worker's death … After `attempts` of them (default
/// 3) the ticket is finished with the outcome `error`"; and then "a finished ticket: ENOENT".
#[test]
fn three_deaths_are_an_error() {
    let mount = mount_with_ticket();
    for attempt in 1..=3 {
        // The claim's file goes before the ticket is offered again.
        wait_for("the attempt", USUAL, || {
            mount.read("tickets/q/t/attempt") == attempt.to_string()
        });
        let mut holder = mount.start("exec 9>tickets/q/t/claim; echo held; exec sleep 60");
        wait_for("the claim", USUAL, || holder.so_far().contains("held"));
        holder.kill9();
        wait_for("the claim's end", USUAL, || !mount.has("tickets/q/t/claim"));
    }
    wait_for("the outcome", USUAL, || {
        mount.read("tickets/q/t/.wait").starts_with("error")
    });
    assert_eq!(errno(mount.claim("q", "t")), libc::ENOENT);
}

/// "attempts" of the ticket's own.
#[test]
fn one_death_is_an_error_where_one_attempt_is_allowed() {
    let mount = Mount::new();
    mount.queue("q");
    mount.post("q", &json!({"id": "t", "attempts": 1}));
    let mut holder = mount.start("exec 9>tickets/q/t/claim; echo held; exec sleep 60");
    wait_for("the claim", USUAL, || holder.so_far().contains("held"));
    holder.kill9();
    wait_for("the outcome", USUAL, || {
        mount.read("tickets/q/t/.wait").starts_with("error")
    });
}

/// "`.next` does the same in one step", in the words of the page; "oldest first".
#[test]
fn next_gives_the_oldest() {
    let mount = Mount::new();
    mount.queue("q");
    for id in ["z", "y", "x"] {
        mount.post("q", &json!({"id": id}));
    }
    let script = "command exec 3<>tickets/q/.next; echo linux x86_64 >&3
        while read -r id <&3 && [ -z \"$id\" ]; do :; done; [ -n \"$id\" ] || exit 75
        echo \"$id\"; cd \"tickets/q/$id\"; echo 0 > result";
    for (shell, id) in [("dash", "z"), ("bash", "y"), ("busybox sh", "x")] {
        assert_eq!(mount.sh_with(shell, script).expect_ok(), id);
        assert_eq!(mount.read(&format!("tickets/q/{id}/result")).lines().next(), Some("0"));
    }
}

/// "both support poll(2)": nothing is readable before a ticket is there.
#[test]
fn poll_wakes_when_there_is_work() {
    let mount = Mount::new();
    mount.queue("q");
    let mut next = File::options()
        .read(true)
        .write(true)
        .open(mount.path("tickets/q/.next"))
        .expect(".next opens");
    next.write_all(b"linux\n").expect("labels");
    let ready = |file: &File, milliseconds: u16| {
        let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(milliseconds)).expect("poll") > 0
    };
    assert!(!ready(&next, 0));
    let post = mount.start("sleep 0.5; exec 3<>tickets/q/.post; echo '{\"id\":\"t\"}' >&3; read -r id <&3; echo $id");
    let begun = Instant::now();
    assert!(ready(&next, 10_000), "poll slept over the ticket");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    post.finish().expect_ok();
    let mut line = String::new();
    wait_for("the ticket", USUAL, || {
        let mut bytes = [0; 64];
        let length = next.read(&mut bytes).expect("a line");
        line = String::from_utf8_lossy(&bytes[..length]).trim().to_owned();
        !line.is_empty()
    });
    assert_eq!(line, "t");
}

/// "A claim older than the ticket's `timeout` by 60 s is taken away": not before; a stopped worker
/// keeps its claim meanwhile, and a continued one still may publish.
#[test]
fn a_stopped_claimant_keeps_its_claim() {
    let mount = mount_with_ticket();
    let holder = mount.start(
        "exec 9>tickets/q/t/claim; echo held; read -r x < \"$OUT/fifo\" || sleep 1; cd tickets/q/t; echo 0 > result",
    );
    wait_for("the claim", USUAL, || holder.so_far().contains("held"));
    holder.signal(nix::sys::signal::Signal::SIGSTOP);
    std::thread::sleep(Duration::from_millis(1500));
    assert!(mount.has("tickets/q/t/claim"));
    holder.signal(nix::sys::signal::Signal::SIGCONT);
    holder.finish().expect_ok();
    assert_eq!(mount.read("tickets/q/t/result").lines().next(), Some("0"));
}

/// "`attempt` counts claims that were lost by a worker's death", also of one that is killed and has no time to say
/// that it closes anything; who closes it and lives on has given it back.
#[test]
fn a_worker_that_is_killed_had_an_attempt() {
    let mount = Mount::new();
    mount.queue("q");
    mount.post("q", &json!({"id": "t", "attempts": 3}));
    let attempt = || mount.read("tickets/q/t/attempt");
    let begins = "echo begun > tickets/q/t/console; echo held";
    let asks = format!("exec 3<>tickets/q/.next; echo >&3; until [ \"$id\" ]; do read -r id <&3; done; {begins}");
    let claims = format!("exec 9>tickets/q/t/claim; {begins}");
    let gone = |what: &str| {
        wait_for(what, USUAL, || !mount.has("tickets/q/t/claim"));
        attempt()
    };
    for (script, lost) in [(&asks, "2"), (&claims, "3")] {
        // Its child has a copy of what is open, and is killed with it.
        let mut worker = mount.start(&format!("{script}; while :; do sleep 1; done"));
        wait_for("a claimant", USUAL, || worker.so_far().contains("held"));
        std::thread::sleep(HELD);
        worker.kill9();
        assert_eq!(gone("the end of who was killed"), lost, "{script}");
    }
    let lets_go = |script: &str, number: u32| format!("{script}; sleep 1; exec {number}>&-; sleep 1");
    for script in [lets_go(&asks, 3), lets_go(&claims, 9)] {
        mount.start(&script).finish();
        assert_eq!(gone("the end of who gave it back"), "3", "{script}");
    }
}
