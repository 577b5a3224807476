//! Many jobs, many builds, many names.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use distcifs_tests::{HELLO, Mount, process};
use serde_json::json;

use crate::report::{Measure, median, milliseconds};

const JOBS: usize = 10_000;
const BUILDS_EACH: u64 = 10;

/// Making the repository may take this long; then what is there is measured, and how much it is
/// stands in the line.
const MAKING: Duration = Duration::from_secs(150);

/// The whole measure holds its mount for less.
const LIMIT: Duration = Duration::from_secs(280);

/// Jobs are made by so many at once: enough for commits to be shared.
const MAKERS: usize = 16;

/// Names for the warm stat.
const NAMES: usize = 10_000;

/// A repository of 10,000 jobs with 10 builds each: listing it, its memory, mounting it.
pub(crate) fn jobs_and_builds() {
    let mount = Mount::with(&[], LIMIT);
    let (begun, next, built) = (Instant::now(), AtomicUsize::new(0), AtomicUsize::new(0));
    // First all jobs, then one build of each in turn, so that a bound hit leaves it even.
    make(&next, JOBS, begun, |number| {
        mount.job(&format!("job-{number:05}"), HELLO)
    });
    let jobs = next.load(Ordering::Relaxed).min(JOBS);
    next.store(0, Ordering::Relaxed);
    let total = jobs * BUILDS_EACH as usize;
    make(&next, total, begun, |number| {
        let job = format!("job-{:05}", number % jobs);
        let build = mount.trigger(&job, "");
        mount.finish("build-control", &format!("{job}.{build}.control"), "success");
        built.fetch_add(1, Ordering::Relaxed);
    });
    let built = built.load(Ordering::Relaxed);
    let made = |measure: Measure| measure.note("jobs", jobs).note("builds", built).print();
    made(Measure::new(
        "many.made",
        built as f64 / begun.elapsed().as_secs_f64(),
        "builds/s",
        "none",
    ));
    let listed = |words: &[&str]| {
        let runs: Vec<f64> = (0..5).map(|_| timed(words, &mount.path("jobs"))).collect();
        (median(&runs), runs)
    };
    let (value, runs) = listed(&["-f"]);
    made(Measure::new("many.ls", value, "s", "<= 0.2").runs(&runs));
    let (value, runs) = listed(&["-l"]);
    made(Measure::new("many.ls-l", value, "s", "<= 1").runs(&runs));
    made(Measure::new(
        "many.rss",
        process::resident_mib(mount.daemon()),
        "MiB",
        "<= 100",
    ));
    mount.unmount();
    let begun = Instant::now();
    mount.mount();
    made(Measure::new("many.mount", begun.elapsed().as_secs_f64(), "s", "<= 1"));
    made(Measure::new(
        "many.rss-after-mount",
        process::resident_mib(mount.daemon()),
        "MiB",
        "<= 100",
    ));
}

/// Runs `one` for the numbers up to `bound`, by several threads, until the time is over.
fn make(next: &AtomicUsize, bound: usize, begun: Instant, one: impl Fn(usize) + Sync) {
    std::thread::scope(|scope| {
        for _ in 0..MAKERS {
            scope.spawn(|| {
                while begun.elapsed() < MAKING {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= bound {
                        return;
                    }
                    one(number);
                }
            });
        }
    });
}

/// `ls` of a folder, seconds.
fn timed(words: &[&str], folder: &Path) -> f64 {
    let begun = Instant::now();
    let output = Command::new("ls").args(words).arg(folder).output().expect("ls runs");
    assert!(output.status.success(), "ls: {output:?}");
    begun.elapsed().as_secs_f64()
}

/// Stats of 10,000 names that were looked at before, in a workspace, beside the plain disk.
pub(crate) fn warm_stat() {
    let mount = Mount::with(&[], LIMIT);
    mount.queue("q");
    mount.post("q", &json!({"id": "t"}));
    let claim = mount.claim("q", "t").expect("the claim");
    let inside = stats_a_second(&mount.path("tickets/q/t/workspace"));
    let outside = stats_a_second(&mount.out());
    Measure::new("stat.warm", median(&inside), "stats/s", ">= 50000")
        .runs(&inside)
        .peer("the plain disk", median(&outside))
        .print();
    drop(claim);
}

fn stats_a_second(folder: &Path) -> Vec<f64> {
    let names: Vec<_> = (0..NAMES).map(|number| folder.join(format!("name-{number}"))).collect();
    names.iter().for_each(|name| fs::write(name, "").expect("own folder"));
    let all = || {
        let begun = Instant::now();
        names.iter().for_each(|name| assert!(fs::metadata(name).is_ok()));
        NAMES as f64 / (milliseconds(begun.elapsed()) / 1000.0)
    };
    all();
    (0..5).map(|_| all()).collect()
}
