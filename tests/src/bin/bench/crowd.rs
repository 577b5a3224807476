//! Hundreds of builds that run at once on several mounts, and thousands of processes that wait for more.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use distcifs_tests::{Mount, Worker, process, wait_for};

use crate::cluster::mounts;
use crate::report::{Measure, milliseconds};

const MOUNTS: usize = 4;

/// Builds that run at once, each of one task.
const BUILDS: usize = 500;

/// Processes that wait in `.next`, on all mounts together.
const WAITERS: usize = 2_000;

/// Until all that was triggered is claimed, and until all has ended.
const PATIENCE: Duration = Duration::from_secs(300);

/// Waits for one ticket, says which, holds it until its standard input ends, and finishes it.
const WAITER: &str = r#"exec 3<>tickets/execute-shell/.next; echo linux >&3
while read -r id <&3 && [ -z "$id" ]; do :; done
[ -n "$id" ] || exit 75
echo "$id"; read -r _; echo 0 > "tickets/execute-shell/$id/result""#;

/// How long 500 tickets take until each is claimed by one of 2,000 waiters on four mounts, and what
/// the daemons hold then.
pub(crate) fn waiting() {
    let (_repository, mounts) = mounts(MOUNTS);
    let _control: Vec<Worker> = mounts[..2]
        .iter()
        .map(|mount| Worker::start(mount, "build-control", &[]))
        .collect();
    mounts[0].shell_job("a", &["true"]);
    let claimed = mounts[0].out().join("claimed");
    let said = File::create(&claimed).expect("own folder");
    let mut waiters: Vec<Child> = (0..WAITERS).map(|i| wait_on(&mounts[i % MOUNTS], &said)).collect();
    let idle: Vec<_> = mounts
        .iter()
        .map(|mount| process::resident_mib(mount.daemon()))
        .collect();
    let begun = Instant::now();
    let builds: Vec<u64> = (0..BUILDS).map(|_| mounts[0].trigger("a", "")).collect();
    wait_for("all tickets to be claimed", PATIENCE, || {
        lines(&claimed).len() >= BUILDS
    });
    let took = milliseconds(begun.elapsed());
    let mut ids = lines(&claimed);
    ids.sort();
    ids.dedup();
    let busy: Vec<_> = mounts
        .iter()
        .map(|mount| process::resident_mib(mount.daemon()))
        .collect();
    // Those that hold a ticket finish it, the others are not waited for.
    waiters.iter_mut().for_each(|waiter| drop(waiter.stdin.take()));
    let ending = Instant::now();
    for build in builds {
        mounts[1].wait_state_within("a", build, PATIENCE);
    }
    let ended = milliseconds(ending.elapsed());
    // All at once: each ends with the read that it is in, after up to a second. Some have ended.
    waiters.iter_mut().for_each(|waiter| drop(waiter.kill()));
    waiters.iter_mut().for_each(|waiter| drop(waiter.wait()));
    let most = busy.iter().copied().fold(0.0, f64::max);
    Measure::new("cluster.crowd.rss", most, "MiB", "<= 200 each")
        .note("each_mib", busy)
        .note("each_mib_before", idle)
        .note("builds_at_once", BUILDS)
        .note("waiters", WAITERS)
        .print();
    Measure::new(
        "cluster.crowd.claimed",
        ids.len() as f64,
        "tickets",
        "all 500, each once",
    )
    .note("milliseconds", took)
    .note("until_all_had_ended_ms", ended)
    .print();
}

fn wait_on(mount: &Mount, said: &File) -> Child {
    Command::new("sh")
        .args(["-c", WAITER])
        .current_dir(mount.root())
        .stdin(Stdio::piped())
        .stdout(said.try_clone().expect("a descriptor"))
        .spawn()
        .expect("sh runs")
}

fn lines(path: &std::path::Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}
