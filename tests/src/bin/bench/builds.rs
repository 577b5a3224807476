//! What a build costs, alone and among many.

use std::time::{Duration, Instant};

use distcifs_tests::{Mount, Worker};

use crate::report::{Measure, median, milliseconds, sync_and_spawn};

/// Each measure holds its mount for less.
const LIMIT: Duration = Duration::from_secs(120);

/// Builds measured one after another.
const RUNS: usize = 100;

/// Builds triggered at once.
const AT_ONCE: usize = 200;

/// Builds before the first that counts.
const WARM_UP: usize = 5;

/// From trigger to final state of a build of one `true`, one after another.
pub(crate) fn one_task() {
    let mount = Mount::with(&[], LIMIT);
    let _workers = Worker::usual(&mount, 1);
    mount.shell_job("a", &["true"]);
    let once = || {
        let begun = Instant::now();
        let build = mount.trigger("a", "");
        mount.wait_state("a", build);
        milliseconds(begun.elapsed())
    };
    for _ in 0..WARM_UP {
        once();
    }
    let runs: Vec<f64> = (0..RUNS).map(|_| once()).collect();
    let peer = sync_and_spawn(&mount.out());
    Measure::new("build.p50", median(&runs), "ms", "<= 15")
        .runs(&runs)
        .peer("fdatasync and spawn of sh", peer)
        .print();
}

/// Two hundred builds triggered at once, two workers.
pub(crate) fn throughput() {
    let mount = Mount::with(&[], LIMIT);
    let _workers = Worker::usual(&mount, 2);
    mount.shell_job("a", &["true"]);
    let warm = mount.trigger("a", "");
    mount.wait_state("a", warm);
    let begun = Instant::now();
    let builds: Vec<u64> = (0..AT_ONCE).map(|_| mount.trigger("a", "")).collect();
    let triggered = milliseconds(begun.elapsed());
    for build in builds {
        mount.wait_state_within("a", build, Duration::from_secs(60));
    }
    let seconds = begun.elapsed().as_secs_f64();
    let peer = 1000.0 / sync_and_spawn(&mount.out());
    Measure::new("throughput", AT_ONCE as f64 / seconds, "builds/s", ">= 100")
        .peer("fdatasync and spawn of sh, one after another", peer)
        .note("triggered_ms", triggered)
        .print();
}
