//! What tasks cost that are added to builds, and what becomes of builds that newer ones make an end of.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use distcifs_tests::github::{Receiver, push};
use distcifs_tests::job::shell_task;
use distcifs_tests::{Mount, Worker, process, wait_for};
use serde_json::{Value, json};

use crate::cluster::mounts;
use crate::report::{Measure, median, milliseconds};
use crate::webhook::Client;

/// Each measure holds its mount for less.
const LIMIT: Duration = Duration::from_secs(900);

/// Pushes to each of the two jobs, and those before the first that counts.
const PUSHES: usize = 40;
const WARM_UP: usize = 3;

/// Tasks that are added at once, and how often.
const ADDED: usize = 500;
const ADDED_RUNS: usize = 5;

/// A build of many tasks and one of few: how many add others, and how many each of them adds.
const LARGE: (usize, usize) = (8, 499);
const SMALL: (usize, usize) = (1, 39);

/// Small builds beside each large one.
const SMALL_BUILDS: usize = 25;

/// How often both.
const TURNS: usize = 2;

/// Threads that end tasks.
const ENDERS: usize = 4;

/// Whatever is waited for comes within this, or the measure ends.
const PATIENCE: Duration = Duration::from_secs(240);

/// A queue whose tasks add others, and one of tasks that do nothing.
const GENERATE: &str = "generate";
const WORK: &str = "work";

/// A signed push until the first script after the checkout begins: one that stands in the repository, by turns with one
/// that stands in the job.
pub(crate) fn push_to_task() {
    let mount = Mount::with(&[], LIMIT);
    let folder = mount.out().join("src");
    fs::create_dir(&folder).expect("own folder");
    let task = json!({ "type": "execute-shell", "isolation": "none",
        "params": { "script": format!("date +%s%N > '{}/'$JOB_NAME.$BUILD_NUMBER", mount.out().display()) } });
    fs::write(folder.join(".distcifs.json"), json!({ "tasks": [task] }).to_string()).expect("own folder");
    let commit = mount.run(
        "cd \"$OUT/src\"; git init -q -b main .; git add -A
        git -c user.name=a -c user.email=a@b commit -qm first; git rev-parse HEAD",
    );
    let job = |name: &str, params: Value, more: &[Value]| {
        let mut tasks = vec![json!({ "type": "git-checkout", "params": params })];
        tasks.extend_from_slice(more);
        let config = json!({ "tasks": tasks, "allow": { "isolation": ["none"] }, "parameters": { "ref": "" },
            "github": { "repository": format!("o/{name}") } });
        mount.job(name, &config.to_string());
    };
    job(
        "with",
        json!({ "repository": folder, "tasks": [".distcifs.yaml", ".distcifs.json"] }),
        &[],
    );
    job("without", json!({ "repository": folder }), &[task]);
    let _workers = [
        Worker::start(&mount, "build-control", &[]),
        Worker::start(&mount, "git-checkout", &[]),
        Worker::start(&mount, "execute-shell", &[]),
    ];
    let receiver = Receiver::start(&mount, &[]);
    receiver.wait_jobs(2);
    let mut clients = ["with", "without"].map(|name| {
        let mut payload = push("refs/heads/main");
        payload["after"] = commit.as_str().into();
        payload["head_commit"]["id"] = commit.as_str().into();
        payload["repository"]["full_name"] = format!("o/{name}").into();
        (name, Client::new(&receiver, payload))
    });
    let mut runs = [const { Vec::new() }; 2];
    for build in 1..=WARM_UP + PUSHES {
        for ((name, client), runs) in clients.iter_mut().zip(&mut runs) {
            let begun = SystemTime::now();
            client.deliver();
            let state = mount.wait_state(name, build as u64);
            assert_eq!(state, "success", "{name}: {}", mount.why(name, build as u64));
            if build > WARM_UP {
                runs.push(since(begun, &mount.out().join(format!("{name}.{build}"))));
            }
        }
    }
    let [with, without] = &runs;
    let (value, peer) = (median(with), median(without));
    Measure::new("pipeline.push", value, "ms", "<= without tasks + 50")
        .runs(with)
        .peer("a job with the same checkout and the task in its config.json", peer)
        .note("over_it_ms", value - peer)
        .print();
}

/// Milliseconds from a moment to that which a script wrote down in nanoseconds.
fn since(begun: SystemTime, file: &Path) -> f64 {
    let text = fs::read_to_string(file).expect("the script wrote it");
    let then = SystemTime::UNIX_EPOCH + Duration::from_nanos(text.trim().parse().expect("a number"));
    milliseconds(then.duration_since(begun).expect("it began after the push"))
}

/// Five hundred tasks added at once, alone.
pub(crate) fn many_added() {
    let mount = Mount::with(&[], LIMIT);
    added("pipeline.added", &mount, &mount, "<= 2");
}

/// The same on a cluster, build-control on another mount.
pub(crate) fn many_added_on_cluster() {
    let (_repository, mounts) = mounts(2);
    added("cluster.added", &mounts[0], &mounts[1], "<= 5");
}

/// From the moment before tasks.json is written until all its tickets are there and the last can be claimed.
fn added(name: &str, mount: &Mount, of_control: &Mount, target: &str) {
    mount.queue(GENERATE);
    let config = json!({ "tasks": [{ "type": GENERATE, "params": {} }], "allow": { "isolation": ["none"] } });
    mount.job("a", &config.to_string());
    let _control = Worker::start(of_control, "build-control", &[]);
    let text = texts("execute-shell", 0, ADDED);
    let (mut runs, mut written) = (Vec::new(), Vec::new());
    for _ in 0..ADDED_RUNS {
        let build = mount.trigger("a", "");
        let (claim, id) = mount.ask(GENERATE, "").expect("a ticket");
        let begun = Instant::now();
        let tasks = format!("tickets/{GENERATE}/{id}/tasks.json");
        mount.write(&tasks, &text).expect("the tasks are good");
        mount.result(GENERATE, &id, "success").expect("a result");
        written.push(milliseconds(begun.elapsed()));
        drop(claim);
        wait_for("all tickets", PATIENCE, || {
            mount.list("tickets/execute-shell").len() >= ADDED
        });
        mount.finish("execute-shell", &format!("a.{build}.{ADDED}"), "success");
        runs.push(begun.elapsed().as_secs_f64());
        mount.run(&format!("echo abort > jobs/a/builds/{build}/ctl"));
        mount.wait_state_within("a", build, PATIENCE);
        wait_for("no ticket", PATIENCE, || mount.list("tickets/execute-shell").is_empty());
    }
    Measure::new(name, median(&runs), "s", target)
        .runs(&runs)
        .note("tasks", ADDED)
        .note("until_the_result_ms", median(&written))
        .print();
}

/// A text of so many tasks side by side; `first` tells their names from those of other texts.
fn texts(kind: &str, first: usize, count: usize) -> String {
    let task = |i: usize| {
        let name = format!("t{first}-{i}");
        let params = if kind == WORK {
            json!({})
        } else {
            json!({ "script": "true" })
        };
        json!({ "type": kind, "name": name, "needs": [], "isolation": "none", "params": params })
    };
    json!({ "tasks": (0..count).map(task).collect::<Vec<_>>() }).to_string()
}

/// build-control's processor time for each task of a build of 4,000, by turns with builds of 40.
pub(crate) fn control_time() {
    let mount = Mount::with(&[], LIMIT);
    for queue in [GENERATE, WORK] {
        mount.queue(queue);
    }
    for (name, (adders, _)) in [("large", LARGE), ("small", SMALL)] {
        let task = |i: usize| json!({ "type": GENERATE, "name": format!("g{i}"), "needs": [], "params": {} });
        let tasks: Vec<Value> = (0..adders).map(task).collect();
        mount.job(
            name,
            &json!({ "tasks": tasks, "allow": { "types": [WORK], "isolation": ["none"], "tasks": 4000 } }).to_string(),
        );
    }
    let control = Worker::start(&mount, "build-control", &[]);
    let over = AtomicBool::new(false);
    let (mut large, mut small, mut seconds) = (Vec::new(), Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        scope.spawn(|| each_ticket(&mount, GENERATE, &over, adds));
        for _ in 0..ENDERS {
            scope.spawn(|| each_ticket(&mount, WORK, &over, |_, _| {}));
        }
        let mut timed = |job: &str, builds: usize, (adders, each): (usize, usize)| {
            let (before, begun) = (process::cpu_seconds(control.pid()), Instant::now());
            for _ in 0..builds {
                let build = mount.trigger(job, "");
                let state = mount.wait_state_within(job, build, PATIENCE);
                assert_eq!(state, "success", "{}", mount.why(job, build));
            }
            seconds.push(begun.elapsed().as_secs_f64());
            let tasks = builds * adders * (each + 1);
            (process::cpu_seconds(control.pid()) - before) * 1e6 / tasks as f64
        };
        timed("small", SMALL_BUILDS, SMALL);
        for _ in 0..TURNS {
            small.push(timed("small", SMALL_BUILDS, SMALL));
            large.push(timed("large", 1, LARGE));
        }
        over.store(true, Ordering::SeqCst);
    });
    Measure::new(
        "pipeline.control",
        median(&large),
        "us of a processor for each task of 4,000",
        "<= 2 times",
    )
    .runs(&large)
    .peer("for each task of 40", median(&small))
    .note("seconds", seconds)
    .print();
}

/// What a ticket's task adds: as many as its job's builds are to have.
fn adds(mount: &Mount, id: &str) {
    let (job, index) = (id.split('.').next(), id.rsplit('.').next());
    let (_, each) = if job == Some("large") { LARGE } else { SMALL };
    let first = index.and_then(|index| index.parse().ok()).expect("a task's ticket");
    let path = format!("tickets/{GENERATE}/{id}/tasks.json");
    mount
        .write(&path, texts(WORK, first, each))
        .expect("the tasks are good");
}

/// Ends each ticket of a queue as a success, after this.
fn each_ticket(mount: &Mount, queue: &str, over: &AtomicBool, work: impl Fn(&Mount, &str)) {
    let path = mount.path(&format!("tickets/{queue}/.next"));
    let mut next = File::options().read(true).write(true).open(path).expect("the queue");
    let mut asked = false;
    while !over.load(Ordering::SeqCst) {
        if !asked {
            next.write_all(b"any\n").expect("the queue");
            asked = true;
        }
        let mut line = [0_u8; 256];
        let length = next.read(&mut line).expect("the queue");
        let id = String::from_utf8_lossy(&line[..length]).trim().to_owned();
        if id.is_empty() {
            continue;
        }
        work(mount, &id);
        mount.result(queue, &id, "success").expect("a result");
        asked = false;
    }
}

/// A thousand pushes to one ref, of which each makes an end of the one before.
pub(crate) fn pushes() {
    let mount = Mount::with(&[], LIMIT);
    storm("pipeline.pushes", &mount, &mount, 1000);
}

/// A hundred on a cluster, the workers on another mount.
pub(crate) fn pushes_on_cluster() {
    let (_repository, mounts) = mounts(2);
    storm("cluster.pushes", &mounts[0], &mounts[1], 100);
}

fn storm(name: &str, mount: &Mount, of_workers: &Mount, count: usize) {
    let config = json!({
        "concurrency": { "group": "push-${ref}", "supersede": "running" },
        "tasks": [shell_task("echo begun; exec sleep 600")],
    });
    mount.job("a", &config.to_string());
    mount.shell_job("b", &["true"]);
    let _workers = Worker::usual(of_workers, 2);
    mount.build("b", "", "success");
    let aborted = Mutex::new(vec![None; count + 1]);
    let over = AtomicBool::new(false);
    let other_over = Mutex::new(None);
    let events = BufReader::new(File::open(mount.path(".events")).expect("the events"));
    let mut told = Vec::new();
    let (pushed, other, newest, ended) = std::thread::scope(|scope| {
        scope.spawn(|| note(events, &aborted, &other_over, &over));
        let begun = Instant::now();
        let mut other = begun;
        for number in 1..=count {
            assert_eq!(mount.trigger("a", "@ref=refs/heads/main"), number as u64);
            told.push(Instant::now());
            // No worker is held by one that waits: a build of another job is done by the second one meanwhile.
            if number == count / 2 {
                other = Instant::now();
                assert_eq!(mount.trigger("b", ""), 2);
            }
        }
        let pushed = begun.elapsed();
        assert_eq!(mount.wait_state_within("b", 2, PATIENCE), "success");
        wait_for("the newest one's script", PATIENCE, || {
            mount.console("a", count as u64).contains("begun")
        });
        let newest = told[count - 1].elapsed();
        for build in 1..count as u64 {
            assert_eq!(mount.wait_state_within("a", build, PATIENCE), "aborted", "{build}");
        }
        let ended = told[count - 1].elapsed();
        assert_eq!(mount.state("a", count as u64), "running");
        wait_for("the events", PATIENCE, || {
            let all = aborted.lock().expect("no panic")[1..count].iter().all(Option::is_some);
            all && other_over.lock().expect("no panic").is_some()
        });
        let other_over: Option<Instant> = *other_over.lock().expect("no panic");
        let other = other_over.map_or(Duration::ZERO, |over| over.saturating_duration_since(other));
        over.store(true, Ordering::SeqCst);
        (pushed, other, newest, ended)
    });
    let aborted = aborted.into_inner().expect("no panic");
    let late =
        (1..count).filter_map(|build| Some(milliseconds(aborted[build]?.saturating_duration_since(told[build]))));
    let mut late: Vec<f64> = late.collect();
    late.sort_by(f64::total_cmp);
    Measure::new(
        name,
        late.last().copied().unwrap_or_default(),
        "ms",
        "<= 2000, pushed within 10 s",
    )
    .note("pushes", count)
    .note("pushed_within_s", pushed.as_secs_f64())
    .note("median_ms", median(&late))
    .note("newest_began_after_ms", milliseconds(newest))
    .note("all_others_aborted_after_ms", milliseconds(ended))
    .note("build_of_another_job_within_ms", milliseconds(other))
    .print();
    mount.run(&format!("echo abort > jobs/a/builds/{count}/ctl"));
    mount.wait_state_within("a", count as u64, PATIENCE);
}

/// Notes when each build was seen to be aborted, and when that of the other job was over.
fn note(
    events: BufReader<File>,
    aborted: &Mutex<Vec<Option<Instant>>>,
    other: &Mutex<Option<Instant>>,
    over: &AtomicBool,
) {
    for line in events.lines() {
        if over.load(Ordering::SeqCst) {
            return;
        }
        let line = line.expect("the events");
        if line == "build b/2 success" {
            other.lock().expect("no panic").get_or_insert_with(Instant::now);
        }
        let build = line
            .strip_prefix("build a/")
            .and_then(|rest| rest.strip_suffix(" aborted"));
        if let Some(build) = build.and_then(|build| build.parse::<usize>().ok()) {
            aborted.lock().expect("no panic")[build].get_or_insert_with(Instant::now);
        }
    }
}
