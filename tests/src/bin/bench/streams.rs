//! Waiting for work, and consoles.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use distcifs_tests::{Mount, Worker, process};
use serde_json::json;

use crate::report::{Measure, median, milliseconds};

const LIMIT: Duration = Duration::from_secs(120);
const WAITERS: usize = 100;
const TICKETS: usize = 50;

/// How long the idle cost is measured.
const IDLE: Duration = Duration::from_secs(5);

/// Console lines whose way is measured, and lines of the flood.
const LINES: usize = 200;
const FLOOD: usize = 500_000;

/// A hundred waiters, one ticket at a time: from the post to the claim, and how many got it.
pub(crate) fn waiters() {
    let mount = Mount::with(&[], LIMIT);
    mount.queue("q");
    let (stop, (told, claims)) = (AtomicBool::new(false), channel());
    std::thread::scope(|scope| {
        for _ in 0..WAITERS {
            let (told, mount, stop) = (told.clone(), &mount, &stop);
            scope.spawn(move || wait_for_work(mount, &told, stop));
        }
        std::thread::sleep(Duration::from_secs(2));
        let before = process::cpu_seconds(mount.daemon());
        std::thread::sleep(IDLE);
        let idle = (process::cpu_seconds(mount.daemon()) - before) / IDLE.as_secs_f64() * 100.0;
        let (mut runs, mut most) = (Vec::new(), 0);
        for number in 0..TICKETS {
            let begun = Instant::now();
            mount.post("q", &json!({"id": format!("t{number}")}));
            let first = claims
                .recv_timeout(Duration::from_secs(10))
                .expect("somebody claims it");
            runs.push(milliseconds(first.duration_since(begun)));
            std::thread::sleep(Duration::from_millis(20));
            most = most.max(1 + claims.try_iter().count());
        }
        stop.store(true, Ordering::Relaxed);
        Measure::new("waiters.claim", median(&runs), "ms", "<= 10")
            .runs(&runs)
            .note("most_claimants_of_one", most)
            .print();
        Measure::new("waiters.idle", idle, "% of a core", "< 2")
            .note("waiters", WAITERS)
            .print();
    });
}

/// Waits in `.next` again and again, finishes what it gets, and tells when it got it.
fn wait_for_work(mount: &Mount, told: &Sender<Instant>, stop: &AtomicBool) {
    let path = mount.path("tickets/q/.next");
    while !stop.load(Ordering::Relaxed) {
        let mut next = File::options().read(true).write(true).open(&path).expect(".next opens");
        next.write_all(b"linux\n").expect("labels");
        let mut line = [0; 256];
        while !stop.load(Ordering::Relaxed) {
            let length = next.read(&mut line).expect("a line");
            let id = String::from_utf8_lossy(&line[..length]).trim().to_owned();
            if !id.is_empty() {
                let _ = told.send(Instant::now());
                mount.result("q", &id, "0").expect("the claimant's result");
                break;
            }
        }
    }
}

/// From a line written to the line read by another descriptor; then a flood from one worker.
pub(crate) fn console() {
    let mount = Mount::with(&[], LIMIT);
    mount.shell_job("a", &["true"]);
    mount.trigger("a", "");
    // The controller and the worker of this build are we.
    let control = mount.claim("build-control", "a.1.control").expect("the control ticket");
    mount.post(
        "execute-shell",
        &json!({"id": "a.1.0", "job": "a", "build": 1, "task": 0}),
    );
    let claim = mount.claim("execute-shell", "a.1.0").expect("the task's ticket");
    let ticket = mount.path("tickets/execute-shell/a.1.0/console");
    let mut writer = File::options().append(true).open(ticket).expect("the claimant may");
    let path = mount.path("jobs/a/builds/1/console");
    let runs: Vec<f64> = (0..LINES).map(|number| one_line(&mut writer, &path, number)).collect();
    Measure::new("console.line", median(&runs), "ms", "<= 2")
        .runs(&runs)
        .print();
    drop(writer);
    mount.result("execute-shell", "a.1.0", "0").expect("the result");
    mount
        .result("build-control", "a.1.control", "success")
        .expect("the end");
    drop((claim, control));
    let _workers = Worker::usual(&mount, 1);
    mount.shell_job("b", &[&format!("seq {FLOOD}")]);
    let begun = Instant::now();
    let build = mount.trigger("b", "");
    mount.wait_state_within("b", build, Duration::from_secs(60));
    let seconds = begun.elapsed().as_secs_f64();
    let lines = mount.console("b", build).lines().count();
    let measure = Measure::new("console.flood", lines as f64 / seconds, "lines/s", ">= 50000");
    measure.note("lines", lines).print();
}

/// Writes a line and reads it by a descriptor of its own; milliseconds.
fn one_line(writer: &mut File, path: &Path, number: usize) -> f64 {
    let reader = File::open(path).expect("a console is readable");
    let place = reader.metadata().expect("an open file").len();
    let line = format!("line {number} ends here\n");
    let (begun, mut seen) = (Instant::now(), [0; 256]);
    writer.write_all(line.as_bytes()).expect("a line");
    loop {
        let length = reader.read_at(&mut seen, place).expect("a read");
        if seen[..length].ends_with(line.as_bytes()) {
            return milliseconds(begun.elapsed());
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "the line never came");
    }
}
