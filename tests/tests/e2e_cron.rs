//! Schedules: each time once, whoever dies; what was missed; what changes meanwhile.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use distcifs_tests::wait::USUAL;
use distcifs_tests::{HELLO, Mount, Worker, wait_for};
use serde_json::json;

/// Two full minutes and what comes before.
const LIMIT: Duration = Duration::from_secs(300);

/// A worker reads within a second, and a busy machine takes its time.
const LATE: Duration = Duration::from_secs(15);

fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs_f64()
}

/// Waits until a moment, seconds since 1970.
fn sleep_until(moment: f64) {
    std::thread::sleep(Duration::from_secs_f64((moment - now()).max(0.0)));
}

/// The beginning of the next minute that is at least `ahead` seconds away.
fn next_minute(ahead: f64) -> f64 {
    ((now() + ahead) / 60.0).ceil() * 60.0
}

/// The fields of a schedule for this one minute of today.
fn only(minute: f64) -> String {
    let of_day = (minute / 60.0) as u64 % 1440;
    format!("{} {} * * *", of_day % 60, of_day / 60)
}

fn job(cron: &str, catch_up: bool) -> String {
    json!({"cron": cron, "cron_catch_up": catch_up, "tasks": []}).to_string()
}

fn builds(mount: &Mount, job: &str) -> usize {
    let names = mount.list(&format!("jobs/{job}/builds"));
    names.iter().filter(|name| name.parse::<u64>().is_ok()).count()
}

/// "Triggered once, however many such workers run and whichever dies at the moment": of four, two
/// are killed just before the minute and two just after, when others have come.
#[test]
fn each_minute_makes_one_build_whoever_dies() {
    let mount = Mount::with(&[], LIMIT);
    let start = || Worker::start(&mount, "cron", &[]);
    let minute = next_minute(8.0);
    // One that is too near is let pass: it would make a build as well.
    sleep_until(minute - 59.5);
    let mut workers: Vec<Worker> = (0..4).map(|_| start()).collect();
    for (name, config) in [
        ("every", job("* * * * *", false)),
        ("once", job(&only(minute), false)),
        ("other", job(&only(minute + 7200.0), false)),
        ("zone", job(&format!("TZ=Etc/GMT-1 {}", only(minute + 3600.0)), false)),
        ("plain", HELLO.to_owned()),
        ("removed", job("* * * * *", false)),
        ("unset", job("* * * * *", false)),
    ] {
        mount.job(name, &config);
    }
    mount.run("rmdir jobs/removed");
    mount.configure("unset", HELLO);
    sleep_until(minute - 0.3);
    workers.drain(..2).for_each(|mut worker| worker.kill9());
    sleep_until(minute + 0.4);
    workers.extend([start(), start()]);
    workers.drain(..2).for_each(|mut worker| worker.kill9());
    wait_for("the first build", LATE, || {
        ["every", "once", "zone"].iter().all(|job| builds(&mount, job) > 0)
    });
    sleep_until(minute + 59.5);
    workers.drain(..).for_each(|mut worker| worker.kill9());
    // All were dead at the minute; the next one is late and makes it all the same.
    sleep_until(minute + 62.0);
    workers.extend([start(), start()]);
    wait_for("the second build", LATE, || builds(&mount, "every") == 2);
    sleep_until(minute + 70.0);
    let counts = ["every", "once", "other", "zone", "plain", "unset"].map(|job| builds(&mount, job));
    assert_eq!(counts, [2, 1, 0, 1, 0, 0]);
    let cause = mount.read("jobs/once/builds/1/cause");
    assert!(cause.starts_with("cron 20") && cause.ends_with(":00Z"), "{cause}");
    assert!(workers.iter().all(Worker::alive));
}

/// "cron_catch_up: a time that was missed is made up for, once"; others are not, and neither is a
/// time before the configuration.
#[test]
fn what_was_missed_is_made_up_for_if_asked() {
    let mount = Mount::with(&[], LIMIT);
    let minute = next_minute(3.0);
    mount.job("asked", &job(&only(minute), true));
    mount.job("silent", &job(&only(minute), false));
    mount.job("off", &job(&only(minute), true));
    mount.run("echo off > jobs/off/enabled");
    sleep_until(minute + 8.0);
    mount.job("new", &job(&only(minute), true));
    let both = [
        Worker::start(&mount, "cron", &["--late", "5"]),
        Worker::start(&mount, "cron", &["--late", "5"]),
    ];
    wait_for("the build that was missed", LATE, || builds(&mount, "asked") == 1);
    // "cron and github-webhook say so in their logs and go on with the next."
    wait_for("word of the job that is off", LATE, || {
        both[0].complaints().contains("switched off")
    });
    drop(both);
    let again = Worker::start(&mount, "cron", &["--late", "5"]);
    std::thread::sleep(Duration::from_secs(2));
    let counts = ["asked", "silent", "new"].map(|job| builds(&mount, job));
    assert_eq!(counts, [1, 0, 0]);
    assert!(again.alive());
}

/// "Ends with status 0 on TERM, and with 75 when the tree is away."
#[test]
fn it_ends_as_workers_do() {
    let mount = Mount::new();
    let script =
        "cron $M & p=$!; until [ -n \"$up\" ]; do kill -0 $p; sleep 0.2; up=1; done; kill $p; wait $p; echo $?";
    assert_eq!(mount.sh(script).stdout, "0");
    let running = mount.start("cd /; cron $M; echo $?");
    std::thread::sleep(Duration::from_millis(500));
    mount.kill9();
    let ended = running.finish_within(USUAL);
    assert_eq!(ended.stdout, "75", "{}", ended.stderr);
}
