//! Many at once: what one costs must not grow with how many wait.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use distcifs_tests::{Mount, Worker, process};
use serde_json::json;

use crate::report::{Measure, median};

/// Each measure holds its mount for less.
const LIMIT: Duration = Duration::from_secs(120);

/// Builds at once, few and many.
const BUILDS: [usize; 2] = [100, 1000];

/// Open tickets in a queue, few and many.
const TICKETS: [usize; 2] = [100, 10_000];

/// Tickets taken and finished while that many stand open.
const TAKEN: usize = 100;

/// Tickets are posted by so many threads.
const POSTERS: usize = 8;

/// A thousand builds at once, beside a hundred on the same mount.
pub(crate) fn builds() {
    let mount = Mount::with(&[], LIMIT);
    let _workers = Worker::usual(&mount, 2);
    mount.shell_job("a", &["true"]);
    let warm = mount.trigger("a", "");
    mount.wait_state("a", warm);
    let rates = BUILDS.map(|count| {
        let begun = Instant::now();
        let builds: Vec<u64> = (0..count).map(|_| mount.trigger("a", "")).collect();
        for build in builds {
            mount.wait_state_within("a", build, Duration::from_secs(60));
        }
        count as f64 / begun.elapsed().as_secs_f64()
    });
    Measure::new("load.builds", rates[1], "builds/s", "none")
        .peer("a tenth as many on the same mount", rates[0])
        .note("at_once", BUILDS[1])
        .print();
}

/// Ten thousand open tickets in a queue, beside a hundred in another.
pub(crate) fn tickets() {
    let mount = Mount::with(&[], LIMIT);
    let (mut posted, mut taken, mut listed) = (Vec::new(), Vec::new(), Vec::new());
    for count in TICKETS {
        let queue = format!("q{count}");
        mount.queue(&queue);
        posted.push(post(&mount, &queue, count));
        let begun = Instant::now();
        let names = fs::read_dir(mount.path(&format!("tickets/{queue}"))).expect("a queue");
        assert_eq!(names.count(), count);
        listed.push(count as f64 / begun.elapsed().as_secs_f64());
        let runs: Vec<f64> = (0..TAKEN).map(|_| take(&mount, &queue)).collect();
        taken.push(median(&runs));
    }
    for (name, runs, unit) in [
        ("load.post", &posted, "tickets/s"),
        ("load.list", &listed, "names/s"),
        ("load.take", &taken, "ms"),
    ] {
        Measure::new(name, runs[1], unit, "none")
            .peer("a hundred open tickets on the same mount", runs[0])
            .note("open", TICKETS[1])
            .note("rss_mib", process::resident_mib(mount.daemon()))
            .print();
    }
}

/// Posts tickets from several threads; tickets a second.
fn post(mount: &Mount, queue: &str, count: usize) -> f64 {
    let (begun, next) = (Instant::now(), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..POSTERS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    mount.post(queue, &json!({"id": format!("t{number}")}));
                }
            });
        }
    });
    count as f64 / begun.elapsed().as_secs_f64()
}

/// Asks for work, finishes what it gets; milliseconds.
fn take(mount: &Mount, queue: &str) -> f64 {
    let begun = Instant::now();
    let (_next, id) = mount.ask(queue, "linux").expect("an open ticket");
    mount.result(queue, &id, "0").expect("the claimant's result");
    begun.elapsed().as_secs_f64() * 1000.0
}
