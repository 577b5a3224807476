//! What the web page costs: a console of a gigabyte beside a small one, search, how soon a line is seen, 10,000 jobs,
//! and a thousand idle connections.

use std::fs::File;
use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use distcifs_tests::{HELLO, Mount, Web, process};
use serde_json::{Value, json};

use crate::report::{Measure, median, milliseconds};

/// Each measure holds its mount for less.
const LIMIT: Duration = Duration::from_secs(280);

/// Bytes of the large console.
const LARGE: usize = 1 << 30;

/// Runs of one page.
const RUNS: usize = 15;

/// Lines whose way to the page is measured.
const LINES: usize = 200;

/// Viewers of one console at once.
const VIEWERS: usize = 500;

/// Jobs of the first page, made by so many at once for so long.
const JOBS: usize = 10_000;
const MAKERS: usize = 16;
const MAKING: Duration = Duration::from_secs(120);

/// Idle connections.
const IDLE: usize = 1000;

/// A build whose task this test works itself.
struct Task {
    job: String,
    _claims: [File; 2],
    console: File,
}

fn task(mount: &Mount, job: &str) -> Task {
    let tasks = json!([{ "type": "hand", "console_limit": "2G" }]);
    mount.job(job, &json!({ "tasks": tasks }).to_string());
    mount.trigger(job, "");
    let control = mount.claim("build-control", &format!("{job}.1.control"));
    let control = control.expect("the control ticket");
    let id = format!("{job}.1.0");
    let ticket = json!({ "id": id, "job": job, "build": 1, "task": 0, "console_limit": 2u64 << 30 });
    mount.post("hand", &ticket);
    let claim = mount.claim("hand", &id).expect("the task's ticket");
    let path = mount.path(&format!("tickets/hand/{id}/console"));
    let console = File::options().append(true).open(path).expect("the claimant may");
    Task {
        job: job.to_owned(),
        _claims: [control, claim],
        console,
    }
}

impl Task {
    /// Lines of a log until there are so many bytes.
    fn fill(&mut self, bytes: usize) {
        let mut text = Vec::with_capacity((1 << 20) + 200);
        let (mut written, mut number) = (0, 0u64);
        while written < bytes {
            text.clear();
            while text.len() < (1 << 20).min(bytes - written) {
                number += 1;
                let _ = writeln!(
                    text,
                    "[{number:>9}] cc -O2 -Wall -c -o build/module{}.o src/module.c",
                    number % 977
                );
            }
            self.console.write_all(&text).expect("the console takes it");
            written += text.len();
        }
    }

    fn page(&self) -> String {
        format!("/jobs/{}/builds/1/tasks/0-hand/console", self.job)
    }
}

/// Times of a page, milliseconds, and its bytes.
fn times(web: &Web, path: &str) -> (Vec<f64>, usize) {
    let mut bytes = 0;
    let once = |_| {
        let begun = Instant::now();
        let (status, text) = web.page(path);
        assert_eq!(status, 200, "{path}: {text}");
        bytes = text.len();
        milliseconds(begun.elapsed())
    };
    ((0..RUNS).map(once).collect(), bytes)
}

/// Consoles, small and large: the first screen, and search.
fn consoles(mount: &Mount, web: &Web) {
    let (mut small, mut large) = (task(mount, "small"), task(mount, "large"));
    small.fill(1 << 10);
    large.fill(LARGE);
    // The very first look counts for itself: later ones find lines counted.
    let begun = Instant::now();
    assert_eq!(web.page(&large.page()).0, 200);
    let first = milliseconds(begun.elapsed());
    let (of_small, _) = times(web, &small.page());
    let (of_large, bytes) = times(web, &large.page());
    Measure::new(
        "web.first_screen",
        median(&of_large),
        "ms",
        "<= 1.5 times that of 1 KiB, or 300",
    )
    .runs(&of_large)
    .peer("a console of 1 KiB", median(&of_small))
    .note("console_bytes", LARGE)
    .note("very_first_ms", first)
    .note("page_bytes", bytes)
    .print();
    for (name, text) in [("web.search", "absent words"), ("web.search_exact", "Absent words")] {
        let path = format!("{}?q={}", large.page(), text.replace(' ', "+"));
        let once = |_| {
            let begun = Instant::now();
            let (status, body) = web.get(&path, "Accept: application/json\r\n");
            assert_eq!(status, 200);
            let found: Value = serde_json::from_slice(&body).expect("JSON");
            assert_eq!(found["found"]["whole"], true, "{found}");
            LARGE as f64 / 1e6 / begun.elapsed().as_secs_f64()
        };
        let runs: Vec<f64> = (0..3).map(once).collect();
        Measure::new(name, median(&runs), "MB/s", ">= 500").runs(&runs).print();
    }
}

/// From a line written to its coming by a stream, alone and with many who look.
fn lines(mount: &Mount, web: &Web) {
    let mut task = task(mount, "live");
    task.console.write_all(b"begins\n").expect("a line");
    let path = format!("{}?after=7", task.page());
    let mut stream = web.stream(&path, "");
    stream.until("event: at");
    let mut seen = |task: &mut Task, number: usize| {
        let line = format!("line {number} ends here");
        let begun = Instant::now();
        task.console.write_all(format!("{line}\n").as_bytes()).expect("a line");
        stream.until(&line);
        milliseconds(begun.elapsed())
    };
    let p99 = |runs: &[f64]| {
        let mut sorted = runs.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() * 99 / 100]
    };
    let runs: Vec<f64> = (0..LINES).map(|number| seen(&mut task, number)).collect();
    Measure::new("web.live_line", p99(&runs), "ms", "<= 100 (p99)")
        .runs(&runs)
        .note("median_ms", median(&runs))
        .print();
    let viewers: Vec<_> = (0..VIEWERS).map(|_| web.stream(&path, "")).collect();
    let pid = web.worker().pid();
    let (begun, before) = (Instant::now(), process::cpu_seconds(pid));
    let runs: Vec<f64> = (0..LINES).map(|number| seen(&mut task, LINES + number)).collect();
    let cores = (process::cpu_seconds(pid) - before) / begun.elapsed().as_secs_f64();
    Measure::new("web.viewers", cores, "cores", "< 1")
        .note("viewers", viewers.len())
        .note("lines_per_second", LINES as f64 / begun.elapsed().as_secs_f64())
        .note("live_line_p99_ms", p99(&runs))
        .print();
}

/// The list of very many jobs.
fn jobs(mount: &Mount, web: &Web) {
    let (begun, next) = (Instant::now(), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..MAKERS {
            scope.spawn(|| {
                while begun.elapsed() < MAKING {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= JOBS {
                        return;
                    }
                    mount.job(&format!("job-{number:05}"), HELLO);
                }
            });
        }
    });
    let jobs = next.load(Ordering::Relaxed).min(JOBS);
    let begun = Instant::now();
    while web.page("/").1.contains("not looked at yet") && begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(200));
    }
    for (name, path, target) in [
        ("web.front", "/", "<= 200 and 150 KB"),
        ("web.find", "/?q=job-0999", "<= 100"),
    ] {
        let (runs, bytes) = times(web, path);
        Measure::new(name, median(&runs), "ms", target)
            .runs(&runs)
            .note("jobs", jobs)
            .note("page_bytes", bytes)
            .print();
    }
}

/// Memory with connections that do nothing.
fn idle(mount: &Mount) {
    let web = Web::start(mount, &[]);
    assert_eq!(web.page("/").0, 200);
    let address = web.address("/");
    let port = address
        .trim_start_matches("http://")
        .split('/')
        .next()
        .expect("an address")
        .to_owned();
    let connect = |_| {
        let mut stream = TcpStream::connect(&port).expect("it listens");
        let request = format!("GET /healthz HTTP/1.1\r\nHost: {port}\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("it reads");
        stream
    };
    let held: Vec<TcpStream> = (0..IDLE).map(connect).collect();
    assert_eq!(web.page("/").0, 200);
    Measure::new("web.idle", process::resident_mib(web.worker().pid()), "MiB", "< 64")
        .note("connections", held.len())
        .print();
}

/// All of it.
pub(crate) fn page() {
    let mount = Mount::with(&[], LIMIT);
    mount.queue("hand");
    let web = Web::start(&mount, &[]);
    lines(&mount, &web);
    consoles(&mount, &web);
    idle(&mount);
    drop((web, mount));
    let mount = Mount::with(&[], LIMIT);
    let web = Web::start(&mount, &[]);
    jobs(&mount, &web);
}
