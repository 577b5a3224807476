//! The holes that doc/storage.md names, each brought about on purpose on two mounts of a real
//! cluster; and how long the work of the dead waits.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use distcifs_tests::faults::network::Cut;
use distcifs_tests::faults::stage::{Pair, Stage};
use distcifs_tests::wait::USUAL;
use distcifs_tests::{Mount, Sh, Worker, errno, process, wait_for};
use nix::sys::signal::Signal;
use serde_json::json;

/// How long a session outlives its mount here.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The same where it must survive a connection that is silent for half of it.
const LONGER: Duration = Duration::from_secs(8);

/// How long Ceph is away where that shall not make its return take longer.
const AWAY: Duration = Duration::from_secs(14);

/// What a way that is back may take to be used again: attempts to connect are up to four seconds apart,
/// and what was asked then is asked again.
const WELL_WITHIN: Duration = Duration::from_secs(6);

/// ZooKeeper's tick in scripts/dev-cluster.
const TICK: Duration = Duration::from_millis(500);

/// The ticket that stands alone.
const TICKET: &str = "tickets/q/t";

/// The ticket of the one task of build 1.
const PART: &str = "tickets/q/a.1.0";

/// For a machine whose processors are all busy.
const GRACE: Duration = Duration::from_secs(2);

/// A claimant on a mount, which does one thing, and the next when it is told. It is a process of its
/// own: a file of a daemon that is stopped can't even be closed, and each fork of this process would
/// have to close it.
struct Claimant {
    script: Sh,
    go: PathBuf,
}

impl Claimant {
    /// Claims a ticket, publishes its name and says it in the console, and waits; then `then`, which
    /// has the console open as 8.
    fn start(mount: &Mount, ticket: &str, name: &str, then: &str) -> Claimant {
        let go = mount.out().join(format!("go-{name}"));
        let script = mount.start(&format!(
            "cd {ticket} && exec 9>claim 8>console || exit 1
            echo {name} > artifacts/made; echo {name} >&8; echo 0 > \"$OUT/result-{name}\"; echo held
            while ! [ -e '{}' ]; do sleep 0.02; done
            {then}",
            go.display()
        ));
        let claimant = Claimant { script, go };
        wait_for(&format!("the claim of {name}"), USUAL, || {
            claimant.script.so_far().contains("held")
        });
        claimant
    }

    /// Has it go on.
    fn go(&self) {
        fs::write(&self.go, "").expect("own folder");
    }

    /// What it says in the end.
    fn said(self) -> String {
        self.script.finish().stdout
    }
}

/// Writes the result and says what came of it.
fn finish(name: &str) -> String {
    said(&format!("cp \"$OUT/result-{name}\" result"), "published")
}

/// Writes one more line, in one request and no other, and says what came of it.
fn late_line() -> String {
    said("echo late >&8", "acknowledged")
}

/// Does something; says this word, or that it is not so and why.
fn said(command: &str, word: &str) -> String {
    format!("if {command} 2> \"$OUT/why\"; then echo {word}; else echo \"not {word}: $(cat \"$OUT/why\")\"; fi")
}

fn posted(pair: &Pair) {
    pair.first.queue("q");
    pair.first.post("q", &json!({"id": "t", "attempts": 10}));
    wait_for("the ticket on the other mount", USUAL, || pair.second.has(TICKET));
}

fn wait_open(mount: &Mount, ticket: &str) {
    wait_for("the ticket to be open again", TIMEOUT + USUAL, || {
        !mount.has(&format!("{ticket}/claim"))
    });
}

/// "A claim made again by another": the first claimant's mount was stopped past its session's end, and
/// its result, which waits before the daemon already, comes to nothing; it neither takes the second's
/// claim away nor becomes visible.
#[test]
fn a_claim_made_again_by_another() {
    let Some(stage) = Stage::enter() else { return };
    let pair = stage.pair(TIMEOUT);
    posted(&pair);
    let zombie = Claimant::start(&pair.first, TICKET, "zombie", &finish("zombie"));
    let daemon = pair.first.daemon();
    process::signal(daemon, Signal::SIGSTOP);
    zombie.go();
    wait_open(&pair.second, TICKET);
    let second = Claimant::start(&pair.second, TICKET, "second", &finish("second"));
    process::signal(daemon, Signal::SIGCONT);
    let said = zombie.said();
    assert!(said.contains("not published") && said.contains("Stale"), "{said}");
    assert!(pair.second.has("tickets/q/t/claim"), "the second still has it");
    assert_eq!(pair.second.read("tickets/q/t/.wait"), "");
    second.go();
    let said = second.said();
    assert!(said.ends_with("\npublished"), "{said}");
    for mount in [&pair.first, &pair.second] {
        wait_for("the result", USUAL, || !mount.read("tickets/q/t/.wait").is_empty());
        assert_eq!(
            mount.read("tickets/q/t/artifacts/made"),
            "second",
            "on {}",
            mount.node()
        );
    }
}

/// "An expiry noticed late": a mount that was stopped past its session's timeout gives ESTALE at once
/// when it goes on, though nobody has told it yet, and though nobody else wants the ticket.
#[test]
fn an_expiry_noticed_late() {
    let Some(stage) = Stage::enter() else { return };
    let pair = stage.pair(TIMEOUT);
    posted(&pair);
    let then = format!("{}\n{}", late_line(), finish("zombie"));
    let zombie = Claimant::start(&pair.first, TICKET, "zombie", &then);
    let daemon = pair.first.daemon();
    process::signal(daemon, Signal::SIGSTOP);
    zombie.go();
    std::thread::sleep(TIMEOUT + Duration::from_millis(100));
    process::signal(daemon, Signal::SIGCONT);
    let said = zombie.said();
    assert!(said.contains("not acknowledged") && said.contains("Stale"), "{said}");
    wait_open(&pair.second, TICKET);
    assert_eq!(pair.second.read("tickets/q/t/.wait"), "");
    let nothing: [&str; 0] = [];
    assert_eq!(pair.second.list("tickets/q/t/artifacts"), nothing);
    for mount in [&pair.first, &pair.second] {
        assert_eq!(mount.read("tickets/q/t/console"), "zombie", "on {}", mount.node());
    }
    // The mount has a new session by itself.
    wait_for("the first mount to work again", USUAL, || {
        pair.first.claim("q", "t").is_ok()
    });
}

/// Shorter than the session's timeout it costs nothing: the claim holds and the result stands.
#[test]
fn a_short_stop_costs_nothing() {
    let Some(stage) = Stage::enter() else { return };
    let pair = stage.pair(Duration::from_secs(10));
    posted(&pair);
    let patient = Claimant::start(&pair.first, TICKET, "patient", &finish("patient"));
    let daemon = pair.first.daemon();
    process::signal(daemon, Signal::SIGSTOP);
    patient.go();
    std::thread::sleep(Duration::from_secs(3));
    process::signal(daemon, Signal::SIGCONT);
    let said = patient.said();
    assert!(said.ends_with("\npublished"), "{said}");
    wait_for("the result", USUAL, || {
        pair.second.read("tickets/q/t/.wait").starts_with('0')
    });
}

/// A job with one task, of which build 1 is under way as far as its ticket.
fn under_way(pair: &Pair) -> Worker {
    pair.first.queue("q");
    pair.first.job_of("a", &[json!({ "type": "q" })]);
    assert_eq!(pair.first.trigger("a", ""), 1);
    let control = Worker::start(&pair.second, "build-control", &[]);
    wait_for("the ticket", USUAL, || pair.first.has(PART));
    control
}

/// On both mounts build 1 and its task have this line in their consoles, and none of those.
fn see_consoles(pair: &Pair, line: &str, absent: &[&str]) {
    for mount in [&pair.first, &pair.second] {
        for console in ["console", "tasks/0-q/console"] {
            let text = mount.read(&format!("jobs/a/builds/1/{console}"));
            assert!(text.contains(line), "{console} on {}: {text}", mount.node());
            for absent in absent {
                assert!(!text.contains(absent), "{console} on {}: {text}", mount.node());
            }
        }
    }
}

/// "What a script writes while the store is away waits in a file of the worker's, and stands in the console
/// before the result." The outage is longer than the half minute after which it once was dropped, and the
/// script writes more than a pipe holds and ends meanwhile.
#[test]
fn output_while_ceph_is_away() {
    let Some(stage) = Stage::enter() else { return };
    let pair = stage.pair(LONGER);
    let go = pair.first.out().join("go");
    let ended = pair.first.out().join("ended");
    let script = format!(
        "echo early; until [ -e '{}' ]; do sleep 0.05; done; seq 1 20000; : > '{}'\n",
        go.display(),
        ended.display()
    );
    pair.first.shell_job("a", &[&script]);
    let _control = Worker::start(&pair.second, "build-control", &[]);
    let _shell = Worker::start(&pair.first, "execute-shell", &[]);
    assert_eq!(pair.first.trigger("a", ""), 1);
    wait_for("the first line", USUAL, || pair.first.console("a", 1).contains("early"));
    pair.network.cut(Cut::Ceph, &stage.cluster().zookeepers());
    fs::write(&go, "").expect("own folder");
    wait_for("the script to end", USUAL, || ended.exists());
    // How long the outage is, and nothing that is waited for.
    std::thread::sleep(Duration::from_secs(35));
    pair.network.heal(Cut::Ceph);
    assert_eq!(pair.second.wait_state("a", 1), "success");
    let whole: String = (1..=20000).map(|line| format!("{line}\n")).collect();
    for console in ["console", "tasks/0-execute-shell/console"] {
        let text = pair.second.raw(&format!("jobs/a/builds/1/{console}"));
        assert!(text == format!("early\n{whole}"), "{console}: {} bytes", text.len());
    }
}

/// "A late console append": a line that was on its way when its mount was cut off from Ceph and stopped
/// is sent again when it goes on. By then another has the ticket, and the console does not change.
#[test]
fn a_late_console_append() {
    let Some(stage) = Stage::enter() else { return };
    let pair = stage.pair(TIMEOUT);
    let _control = under_way(&pair);
    let first = Claimant::start(&pair.first, PART, "early", &late_line());
    pair.network.cut(Cut::Ceph, &stage.cluster().zookeepers());
    first.go();
    // Until the line is on its way: nothing tells from outside.
    std::thread::sleep(Duration::from_millis(500));
    let daemon = pair.first.daemon();
    process::signal(daemon, Signal::SIGSTOP);
    wait_open(&pair.second, PART);
    let second = Claimant::start(&pair.second, PART, "second", &finish("second"));
    let console_of = || pair.second.console("a", 1);
    let before = console_of();
    assert!(before.contains("early") && before.contains("second"), "{before}");
    pair.network.heal(Cut::Ceph);
    process::signal(daemon, Signal::SIGCONT);
    let said = first.said();
    assert!(said.contains("not acknowledged"), "{said}");
    second.go();
    let said = second.said();
    assert!(said.ends_with("\npublished"), "{said}");
    assert_eq!(pair.second.wait_state("a", 1), "success");
    // Whatever librados had under way is through when it has answered for something later.
    wait_for("the first mount to reach Ceph", USUAL, || {
        fs::read_to_string(pair.first.path("jobs/a/config.json")).is_ok()
    });
    see_consoles(&pair, "second", &["late"]);
}

/// "A job removed and made again": what a mount still has of the old one, on its way when it was cut
/// off from Ceph and stopped, reaches nothing of the new one, though name, build, ticket and the place
/// in the console are the same.
#[test]
fn a_job_removed_and_made_again() {
    let Some(stage) = Stage::enter() else { return };
    let pair = stage.pair(TIMEOUT);
    let control = under_way(&pair);
    let then = format!("{}\n{}", late_line(), finish("old"));
    let old = Claimant::start(&pair.first, PART, "old", &then);
    pair.network.cut(Cut::Ceph, &stage.cluster().zookeepers());
    old.go();
    // Until the line is on its way: nothing tells from outside.
    std::thread::sleep(Duration::from_millis(500));
    let daemon = pair.first.daemon();
    process::signal(daemon, Signal::SIGSTOP);
    wait_open(&pair.second, PART);
    pair.second.write("jobs/a/builds/1/ctl", "abort\n").expect("it runs");
    assert_eq!(pair.second.wait_state("a", 1), "aborted");
    fs::remove_dir_all(pair.second.path("jobs/a")).expect("nothing of it runs");
    pair.second.job_of("a", &[json!({ "type": "q" })]);
    assert_eq!(pair.second.trigger("a", ""), 1, "the new job counts from 1");
    wait_for("the new ticket", USUAL, || pair.second.has(PART));
    let new = Claimant::start(&pair.second, PART, "new", &finish("new"));
    pair.network.heal(Cut::Ceph);
    process::signal(daemon, Signal::SIGCONT);
    let said = old.said();
    assert!(
        said.contains("not acknowledged") && said.contains("not published"),
        "{said}"
    );
    assert_eq!(pair.second.read(&format!("{PART}/.wait")), "");
    new.go();
    let said = new.said();
    assert!(said.ends_with("\npublished"), "{said}");
    assert_eq!(pair.second.wait_state("a", 1), "success");
    drop(control);
    for mount in [&pair.first, &pair.second] {
        wait_for("the new build", USUAL, || {
            fs::read_to_string(mount.path("jobs/a/builds/1/state")).is_ok_and(|state| state.trim() == "success")
        });
        assert_eq!(mount.read("jobs/a/builds/1/artifacts/made"), "new");
    }
    see_consoles(&pair, "new", &["old", "late"]);
}

/// "A persistent watch over a cut TCP connection": the connection of a mount breaks, and its session
/// lives on with what it holds. Who waits there for work is told of what was posted meanwhile, and of
/// what is posted after.
#[test]
fn a_watch_over_a_cut_connection() {
    let Some(stage) = Stage::enter() else { return };
    let pair = stage.pair(LONGER);
    posted(&pair);
    let holder = Claimant::start(&pair.first, TICKET, "holder", &finish("holder"));
    let asker = pair.first.start(
        "exec 9<>tickets/q/.next && echo any >&9 || exit 1
        for turn in 1 2; do
            id=; until read -r id <&9 && [ \"$id\" ]; do :; done
            echo \"has $id\"; echo 0 > \"tickets/q/$id/result\"
        done",
    );
    let has = |id: &str| {
        wait_for(&format!("{id} to be offered"), LONGER, || {
            asker.so_far().contains(&format!("has {id}\n"))
        });
    };
    // It waits by now: nothing else tells so.
    std::thread::sleep(Duration::from_secs(1));
    pair.network.cut(Cut::Zookeeper, &stage.cluster().zookeepers());
    pair.second.post("q", &json!({"id": "meanwhile"}));
    // The client gives up a connection that is silent for three tenths of the timeout.
    std::thread::sleep(LONGER / 2);
    pair.network.heal(Cut::Zookeeper);
    has("meanwhile");
    pair.second.post("q", &json!({"id": "after"}));
    has("after");
    holder.go();
    let said = holder.said();
    assert!(said.ends_with("\npublished"), "{said}");
}

/// A mount that is cut off from ZooKeeper past its timeout refuses the result by itself, and is well
/// again by itself.
#[test]
fn a_mount_that_is_cut_off() {
    let Some(stage) = Stage::enter() else { return };
    for cut in [Cut::Zookeeper, Cut::Both] {
        let pair = stage.pair(TIMEOUT);
        posted(&pair);
        let _cut_off = Claimant::start(&pair.first, TICKET, "apart", "exec sleep 60");
        pair.network.cut(cut, &stage.cluster().zookeepers());
        wait_open(&pair.second, TICKET);
        let begun = Instant::now();
        let refused = pair.first.result("q", "t", "0");
        assert!(refused.is_err(), "{cut:?}: a result without a session");
        assert!(
            begun.elapsed() < Duration::from_secs(10) + GRACE,
            "{:?}",
            begun.elapsed()
        );
        pair.second.finish("q", "t", "failure");
        pair.network.heal(cut);
        wait_for("the first mount to see the other's result", USUAL + USUAL, || {
            fs::read_to_string(pair.first.path("tickets/q/t/result")).is_ok_and(|text| text.starts_with("failure"))
        });
        assert_eq!(errno(pair.first.claim("q", "t")), libc::ENOENT, "{cut:?}");
    }
}

/// "The mount recovers by itself when it is back": also where TCP would try again after as long as it
/// was away, and whichever OSD has what is asked for.
#[test]
fn a_mount_is_well_soon_after_its_way_is_back() {
    let Some(stage) = Stage::enter() else { return };
    let pair = stage.pair(LONGER);
    let jobs: Vec<String> = (0..12).map(|n| format!("j{n}")).collect();
    for job in &jobs {
        pair.first.shell_job(job, &["true"]);
    }
    pair.network.cut(Cut::Answers, &stage.cluster().zookeepers());
    let back = Instant::now() + AWAY;
    std::thread::scope(|scope| {
        let read_until_back = |job| {
            let path = pair.first.path(&format!("jobs/{job}/config.json"));
            // Asked for all the while, so that there is something to be sent again.
            let mut refused = 0;
            loop {
                match fs::read_to_string(&path) {
                    Ok(_) if Instant::now() >= back => break,
                    Ok(_) => {}
                    Err(_) => refused += 1,
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            assert!(refused > 0, "{job} was read without Ceph");
            back.elapsed()
        };
        let readers: Vec<_> = jobs
            .iter()
            .map(|job| scope.spawn(move || read_until_back(job)))
            .collect();
        std::thread::sleep(back.saturating_duration_since(Instant::now()));
        pair.network.heal(Cut::Answers);
        for reader in readers {
            let took = reader.join().expect("a reader");
            assert!(took < WELL_WITHIN + GRACE, "{took:?}");
        }
    });
}

/// Someone on a mount who asks for work of `q` until there is some; how long that took.
fn time_to_claim(mount: &Mount, since: Instant) -> Duration {
    let (claim, id) = mount.ask("q", "any").expect("the queue is there");
    let took = since.elapsed();
    assert_eq!(id, "t");
    drop(claim);
    took
}

/// Promise 3: "Work of a dead node is open again within the session timeout + one tick + 1 s".
#[test]
fn how_long_the_work_of_a_dead_mount_waits() {
    let Some(stage) = Stage::enter() else { return };
    let pair = stage.pair(TIMEOUT);
    posted(&pair);
    let mut longest = Duration::ZERO;
    for _ in 0..3 {
        let claimant = Claimant::start(&pair.first, TICKET, "mortal", "exec sleep 60");
        let since = Instant::now();
        pair.first.kill9();
        longest = longest.max(time_to_claim(&pair.second, since));
        drop(claimant);
        pair.first.mount();
        wait_open(&pair.first, TICKET);
        fs::remove_file(pair.first.out().join("go-mortal")).ok();
    }
    let bound = TIMEOUT + TICK + Duration::from_secs(1);
    eprintln!("a dead mount's ticket was claimed elsewhere after {longest:?} at most; the bound is {bound:?}");
    assert!(longest < bound + GRACE, "{longest:?}");
}

/// "… of a dead process within 1 s."
#[test]
fn how_long_the_work_of_a_dead_process_waits() {
    let Some(stage) = Stage::enter() else { return };
    let pair = stage.pair(Duration::from_secs(60));
    posted(&pair);
    let mut longest = Duration::ZERO;
    for _ in 0..5 {
        let mut claimant = Claimant::start(&pair.first, TICKET, "mortal", "exec sleep 60");
        let since = Instant::now();
        claimant.script.kill9();
        longest = longest.max(time_to_claim(&pair.second, since));
        wait_open(&pair.first, TICKET);
    }
    let bound = Duration::from_secs(1);
    eprintln!("a dead process's ticket was claimed elsewhere after {longest:?} at most; the bound is {bound:?}");
    assert!(longest < bound + GRACE, "{longest:?}");
}

/// Promise 5: "A mount that restarts takes its old session back, closes it, and so frees its claims at
/// once", however long its session would have lived.
#[test]
fn a_mount_that_restarts_frees_its_claims() {
    let Some(stage) = Stage::enter() else { return };
    let pair = stage.pair(Duration::from_secs(60));
    posted(&pair);
    let _claimant = Claimant::start(&pair.first, TICKET, "mortal", "exec sleep 60");
    pair.first.kill9();
    assert!(pair.second.has("tickets/q/t/claim"), "its session lives");
    let since = Instant::now();
    pair.first.mount();
    let took = time_to_claim(&pair.second, since);
    eprintln!("a ticket of a mount that restarts was claimed elsewhere after {took:?}");
    assert!(took < USUAL, "{took:?}");
}
