//! Files of jobs that somebody holds up: their owners by leases, and whoever may write by a write that never ends. The
//! programs that steer go on with all others.

use std::fs;
use std::time::Duration;

use distcifs_tests::github::{Receiver, fresh, job, push};
use distcifs_tests::job::shell_task;
use distcifs_tests::programs::{self, compile};
use distcifs_tests::shell::Sh;
use distcifs_tests::wait::USUAL;
use distcifs_tests::{Mount, Worker, wait_for};
use serde_json::json;

const MALLORY: u32 = 61_002;

/// What was held is looked at again every half minute at least.
const AGAIN: Duration = Duration::from_secs(90);

/// Two full minutes and what comes before.
const LIMIT: Duration = Duration::from_secs(300);

/// Holds files until it is dropped: by leases, as Mallory, or as root by a write from a memory that never answers.
fn hold(mount: &Mount, how: &str, files: &[String]) -> Sh {
    let program = mount.out().join("hold");
    if !program.exists() {
        compile("hold.c", &[], &program);
    }
    let (program, id) = (program.display().to_string(), MALLORY.to_string());
    let mut words = vec!["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"];
    words.retain(|_| how == "lease");
    words.extend([program.as_str(), how]);
    words.extend(files.iter().map(String::as_str));
    let holder = mount.start_words(&words);
    wait_for("a holder", USUAL, || {
        assert!(holder.alive(), "{}", holder.complaints());
        holder.so_far().contains("held")
    });
    holder
}

/// A job becomes Mallory's, who switches it on.
fn to_mallory(mount: &Mount, job: &str) {
    mount.run(&format!(
        "chown {MALLORY}:{MALLORY} jobs/{job} && echo on > jobs/{job}/enabled"
    ));
}

fn builds(mount: &Mount, job: &str) -> usize {
    let names = mount.list(&format!("jobs/{job}/builds"));
    names.iter().filter(|name| name.parse::<u64>().is_ok()).count()
}

/// "A configuration that its owner holds by a lease holds up that job alone": the receiver follows all others, and the
/// job waits for what it did before.
#[test]
fn the_receiver_goes_on_when_a_configuration_is_leased() {
    let mount = Mount::new();
    mount.job("mine", &job(&json!({})));
    to_mallory(&mount, "mine");
    let receiver = Receiver::start(&mount, &["--owner", &MALLORY.to_string()]);
    receiver.wait_jobs(1);
    let holder = hold(&mount, "lease", &["jobs/mine/config.json".to_owned()]);
    // A rename opens nothing of what it replaces.
    fs::write(mount.out().join("new"), json!({ "tasks": [] }).to_string()).expect("own folder");
    mount.run(&format!(
        "setpriv --reuid {MALLORY} --regid {MALLORY} --clear-groups \
         sh -c 'cp $OUT/new jobs/mine/new && mv jobs/mine/new jobs/mine/config.json'"
    ));
    wait_for("word of the lease", USUAL, || receiver.log().contains("by a lease"));
    mount.job("other", &job(&json!({})));
    receiver.wait_jobs(2);
    let answered = receiver.deliver("push", &fresh(&push("refs/heads/master")));
    assert_eq!((answered.status, answered.body), (201, json!({ "builds": 2 })));
    drop(holder);
    wait_for("the configuration that was held", AGAIN, || {
        receiver
            .get("/metrics")
            .1
            .lines()
            .any(|line| line == "github_webhook_jobs 1")
    });
}

/// "What is written to a trigger may be held up": a delivery builds all others of its repository.
#[test]
fn a_delivery_builds_what_is_not_held_up() {
    let mount = Mount::new();
    ["held", "stands", "other"]
        .iter()
        .for_each(|name| mount.job(name, &job(&json!({}))));
    to_mallory(&mount, "held");
    let receiver = Receiver::start(&mount, &["--owner", &MALLORY.to_string()]);
    receiver.wait_jobs(3);
    let _held = hold(&mount, "lease", &["jobs/held/trigger".to_owned()]);
    let stands = hold(&mount, "write", &["jobs/stands/trigger".to_owned()]);
    for count in 1..=2 {
        receiver.deliver("push", &fresh(&push("refs/heads/master")));
        assert_eq!((builds(&mount, "other"), builds(&mount, "held")), (count, 0));
    }
    assert!(receiver.log().contains("refused by held"), "{}", receiver.log());
    drop(stands);
    // It was only late.
    wait_for("the builds that stood", USUAL, || builds(&mount, "stands") == 2);
}

/// "A file that is held makes its own build wait": another's goes through meanwhile, and that one when it is let go.
#[test]
fn builds_go_on_while_others_are_leased() {
    let mount = Mount::new();
    let workers = Worker::usual(&mount, 1);
    let mut task = shell_task("true");
    task["labels"] = json!(["nowhere"]);
    mount.job_of("held", &[task]);
    to_mallory(&mount, "held");
    let held: Vec<u64> = (0..16).map(|_| mount.trigger("held", "")).collect();
    let records = held.iter().map(|n| format!("jobs/held/builds/{n}/build.json"));
    let holder = hold(&mount, "lease", &records.collect::<Vec<_>>());
    wait_for("word of the leases", USUAL, || {
        workers[0].complaints().matches("by a lease").count() == 16
    });
    mount.shell_job("good", &["echo one", "echo two"]);
    for _ in 0..3 {
        mount.build("good", "", "success");
    }
    for n in &held {
        mount.run(&format!("echo abort > jobs/held/builds/{n}/ctl"));
    }
    drop(holder);
    for n in held {
        assert_eq!(mount.wait_state_within("held", n, AGAIN), "aborted");
    }
}

/// "A trigger that somebody holds, or holds up, is none that others wait for": cron starts the others at their time.
#[test]
fn the_schedule_of_others_goes_on() {
    let mount = Mount::with(&[], LIMIT);
    let every = json!({ "cron": "* * * * *", "tasks": [] }).to_string();
    ["a-held", "b-stands", "z-good"]
        .iter()
        .for_each(|name| mount.job(name, &every));
    to_mallory(&mount, "a-held");
    let cron = Worker::start(&mount, "cron", &[]);
    let held = hold(&mount, "lease", &["jobs/a-held/trigger".to_owned()]);
    let stands = hold(&mount, "write", &["jobs/b-stands/trigger".to_owned()]);
    wait_for("two minutes of the job that nobody holds", LIMIT / 2, || {
        builds(&mount, "z-good") >= 2
    });
    assert!(
        cron.alive() && cron.complaints().contains("by a lease"),
        "{}",
        cron.complaints()
    );
    drop((held, stands));
    wait_for("the builds that were held up", AGAIN, || {
        builds(&mount, "a-held") > 0 && builds(&mount, "b-stands") > 0
    });
}

/// "worker.sh reads them for 5 s at most", and goes on to the next ticket: a worker in sh, one ticket after the other.
#[test]
fn a_worker_in_sh_goes_on_to_the_next_ticket() {
    let mount = Mount::new();
    let _control = Worker::start(&mount, "build-control", &[]);
    ["mine", "good"]
        .iter()
        .for_each(|name| mount.job_of(name, &[json!({ "type": "toy" })]));
    to_mallory(&mount, "mine");
    let ticket = |job: &str| format!("tickets/toy/{job}.{}.0", mount.trigger(job, ""));
    let mine = ticket("mine");
    wait_for("the first ticket", USUAL, || mount.has(&mine));
    let files = ["timeout", "owner", ".wait"].map(|name| format!("{mine}/{name}"));
    let _holder = hold(&mount, "lease", &files);
    let good = ticket("good");
    wait_for("the second ticket", USUAL, || mount.has(&good));
    let sh = programs::project().join("workers/worker.sh");
    let text = format!("queue=toy usage=toy\nwork() {{ echo good; }}\n. {}\n", sh.display());
    fs::write(mount.out().join("toy"), text).expect("own folder");
    let _toy = mount.start("exec sh $OUT/toy $M --as root");
    assert_eq!(mount.wait_state_within("good", 1, AGAIN / 2), "success");
}
