//! Each fault once, in an order that the seed decides, while three mounts build: see
//! `distcifs_tests::faults`. `scripts/soak` does the same for longer.

use std::time::Duration;

use distcifs_tests::Cluster;
use distcifs_tests::faults::network::Network;
use distcifs_tests::faults::run::{Plan, run};

/// Of the run in scripts/test.
const SEED: u64 = 1;

/// A run in which less was acknowledged has proved nothing. It is a fraction of what a machine with
/// two processors does.
const LEAST: usize = 25;

#[test]
fn nothing_is_lost_stuck_or_done_twice() {
    if !Cluster::available() || !Network::available() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let plan = Plan { seed: SEED, time: None };
    let report = run(plan, &folder.path().join("run"));
    eprintln!("{report}");
    if !report.is_good() {
        let _kept = folder.keep();
        panic!("seed {SEED}: see above");
    }
    let numbers = report.numbers;
    assert!(
        numbers.triggers >= LEAST && numbers.results >= LEAST && numbers.lines >= LEAST && numbers.configs >= LEAST,
        "{numbers:?}"
    );
    assert!(numbers.faults >= 15, "{numbers:?}");
    assert!(
        report.collected.done > 0,
        "gc never went to its end: {:?}",
        report.collected
    );
    assert!(report.ended.is_some_and(|time| time < Duration::from_secs(120)));
}
