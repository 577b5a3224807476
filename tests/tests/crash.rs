//! The failure stories: the daemon, a worker, the controller die at any moment, and what was
//! acknowledged is there, every build ends, nothing is done twice.

use std::fs;
use std::time::Duration;

use distcifs_tests::job::shell_task;
use distcifs_tests::wait::USUAL;
use distcifs_tests::{Mount, Worker, wait_for};
use serde_json::json;

/// These tests kill and mount many times; each round is bounded by itself.
const LIMIT: Duration = Duration::from_secs(400);

/// How often the daemon dies in the first story.
const ROUNDS: u64 = 8;

/// Builds end well within this after the last death.
const RECOVERY: Duration = Duration::from_secs(60);

/// Numbers that look random and are the same in every run: a failure can be brought about again.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// A job of three tasks; each notes its end in a history outside the tree, and publishes a file.
fn three_tasks(mount: &Mount, name: &str) {
    let history = mount.out().join("history").display().to_string();
    let task = |i: u32, check: &str| {
        shell_task(&format!(
            "{check}; echo {i} >> steps; sleep 0.0$((BUILD_NUMBER % 7)); echo \"$BUILD_NUMBER {i}\" >> '{history}'; echo {i} > ../artifacts/{i}.txt"
        ))
    };
    let seen = |steps: &str| format!("[ \"$(cat steps)\" = \"{steps}\" ]");
    let tasks = [task(0, "[ ! -e steps ]"), task(1, &seen("0")), task(2, &seen("0\n1"))];
    mount.job(
        name,
        &json!({"tasks": tasks.map(|mut task| { task["attempts"] = json!(10); task })}).to_string(),
    );
}

/// A finished build holds exactly what its three tasks published, whatever was tried before.
fn assert_whole(mount: &Mount, job: &str, build: u64) {
    assert_eq!(
        mount.state(job, build),
        "success",
        "{job}/{build}: {}\n{}",
        mount.why(job, build),
        mount.console(job, build)
    );
    assert_eq!(
        mount.list(&format!("jobs/{job}/builds/{build}/artifacts")),
        ["0.txt", "1.txt", "2.txt"]
    );
    assert_eq!(
        mount.read(&format!("jobs/{job}/builds/{build}/workspace/steps")),
        "0\n1\n2"
    );
    for task in 0..3 {
        let folder = format!("jobs/{job}/builds/{build}/tasks/{task}-execute-shell");
        assert_eq!(mount.read(&format!("{folder}/state")), "success");
    }
}

/// Promise 1: "Kill -9 of any process, at any moment, loses none of it." The daemon dies at random
/// moments while builds are triggered and run; workers are started anew, as `up` does.
#[test]
fn the_daemon_dies_again_and_again() {
    let mount = Mount::with(&[], LIMIT);
    three_tasks(&mount, "a");
    let (mut acknowledged, mut dice) = (Vec::new(), Dice(0x9e37_79b9_7f4a_7c15));
    for _ in 0..ROUNDS {
        let workers = Worker::usual(&mount, 2);
        let trigger = mount.start("i=0; while [ $i -lt 20 ]; do exec 3<>jobs/a/trigger && echo >&3 && read -r n <&3 && echo \"$n\"; exec 3>&-; i=$((i+1)); sleep 0.03; done");
        std::thread::sleep(Duration::from_millis(200 + dice.below(900)));
        mount.kill9();
        acknowledged.extend(
            trigger
                .finish()
                .stdout
                .lines()
                .filter_map(|line| line.parse::<u64>().ok()),
        );
        drop(workers);
        mount.mount();
        for build in &acknowledged {
            assert!(
                mount.has(&format!("jobs/a/builds/{build}/state")),
                "the acknowledged build {build} is lost"
            );
        }
    }
    let mut sorted = acknowledged.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), acknowledged.len(), "a number was given twice");
    assert!(!sorted.is_empty());
    let _workers = Worker::usual(&mount, 2);
    let all = mount
        .list("jobs/a/builds")
        .into_iter()
        .filter_map(|name| name.parse::<u64>().ok());
    for build in all {
        mount.wait_state_within("a", build, RECOVERY);
        assert_whole(&mount, "a", build);
    }
    wait_for("the tickets to be tidied away", USUAL, || {
        mount.list("tickets/execute-shell").is_empty() && mount.list("tickets/build-control").is_empty()
    });
}

/// What a build once showed as final never changes, over the daemon's death.
#[test]
fn a_final_state_stays() {
    let mount = Mount::with(&[], LIMIT);
    three_tasks(&mount, "a");
    for round in 1..=5 {
        let workers = Worker::usual(&mount, 2);
        let build = mount.trigger("a", "");
        assert_eq!(mount.wait_state("a", build), "success");
        mount.kill9();
        drop(workers);
        mount.mount();
        for build in 1..=round {
            assert_whole(&mount, "a", build);
        }
    }
    let history = fs::read_to_string(mount.out().join("history")).expect("the scripts wrote it");
    let mut lines: Vec<&str> = history.lines().collect();
    let count = lines.len();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!((lines.len(), count), (15, 15), "a finished task was done again");
}

/// Promise 3: "Every ticket gets a result as long as one able worker lives … of a dead process
/// within 1 s." execute-shell dies at each stage of a script.
#[test]
fn a_worker_dies_at_each_stage() {
    let mount = Mount::with(&[], LIMIT);
    let out = mount.out().display().to_string();
    let _control = Worker::start(&mount, "build-control", &[]);
    let script = format!(
        "echo begun >> '{out}/begun'; for i in 1 2 3 4 5 6; do echo line $i; sleep 0.1; done; echo x > file; echo done >> '{out}/done'; sleep 0.2"
    );
    let mut dice = Dice(7);
    for stage in [0, 50, 150, 300, 500, 700, 800, 900] {
        let name = format!("job{stage}");
        mount.shell_job(&name, &[&script, "[ -e file ]"]);
        let (begun, mut first) = (mount.out().join("begun"), Worker::start(&mount, "execute-shell", &[]));
        let _ = fs::remove_file(&begun);
        let build = mount.trigger(&name, "");
        wait_for("the script to begin", USUAL, || begun.exists());
        std::thread::sleep(Duration::from_millis(stage + dice.below(40)));
        first.kill9();
        let _second = Worker::start(&mount, "execute-shell", &[]);
        assert_eq!(
            mount.wait_state(&name, build),
            "success",
            "killed {stage} ms into it: {}",
            mount.console(&name, build)
        );
    }
}

/// "build-control is a worker like any other": killed in mid-build, another goes on, and no task
/// is posted or done twice.
#[test]
fn the_controller_dies_and_another_goes_on() {
    let mount = Mount::with(&[], LIMIT);
    three_tasks(&mount, "a");
    let _shells: Vec<Worker> = (0..2).map(|_| Worker::start(&mount, "execute-shell", &[])).collect();
    let mut dice = Dice(11);
    for round in 1..=12 {
        let mut first = Worker::start(&mount, "build-control", &[]);
        let build = mount.trigger("a", "");
        assert_eq!(build, round);
        std::thread::sleep(Duration::from_millis(dice.below(250)));
        first.kill9();
        let _second = Worker::start(&mount, "build-control", &[]);
        mount.wait_state("a", build);
        assert_whole(&mount, "a", build);
    }
    let history = fs::read_to_string(mount.out().join("history")).expect("the scripts wrote it");
    let mut lines: Vec<&str> = history.lines().collect();
    lines.sort_unstable();
    let count = lines.len();
    lines.dedup();
    assert_eq!((count, lines.len()), (36, 36), "a task was done twice:\n{history}");
}

/// Promise 2: "At most one claimant of a ticket can publish, whatever is paused": a worker that
/// was stopped, lost its claim and is continued publishes nothing.
#[test]
fn a_zombie_publishes_nothing() {
    let mount = Mount::with(&[], LIMIT);
    mount.queue("q");
    mount.post("q", &json!({"id": "t"}));
    let zombie = mount.start(
        "exec 9>tickets/q/t/claim; cd tickets/q/t/artifacts; exec 8>../result; echo zombie > a
        echo held; kill -STOP $$; echo 0 >&8; echo more > b; echo 0 > ../result",
    );
    wait_for("the first", USUAL, || zombie.so_far().contains("held"));
    fs::remove_file(mount.path("tickets/q/t/claim")).expect("taken away");
    // A process beside the zombie: to one above it, the zombie would be a part of the claimant.
    let second = mount.start(
        "exec 9>tickets/q/t/claim || exit 1; echo held
        while ! [ -e \"$OUT/go\" ]; do sleep 0.02; done
        echo c > tickets/q/t/artifacts/c; echo failure > tickets/q/t/result; cat tickets/q/t/result",
    );
    wait_for("the second", USUAL, || second.so_far().contains("held"));
    zombie.signal(nix::sys::signal::Signal::SIGCONT);
    let said = zombie.finish();
    assert!(!said.ok(), "{said:?}");
    assert_eq!(mount.read("tickets/q/t/.wait"), "", "it has no result of the zombie");
    fs::write(mount.out().join("go"), "").expect("own folder");
    assert!(second.finish().expect_ok().contains("failure"));
    assert_eq!(mount.list("tickets/q/t/artifacts"), ["c"]);
    assert!(mount.read("tickets/q/t/result").starts_with("failure"));
}

/// A result that was acknowledged is there after the daemon's death, with its files, whole; one
/// that was not is there whole or not at all.
#[test]
fn results_are_whole_or_absent() {
    let mount = Mount::with(&[], LIMIT);
    mount.queue("q");
    let mut dice = Dice(23);
    for round in 0..10 {
        let id = format!("t{round}");
        mount.post("q", &json!({"id": id}));
        let script = format!(
            "cd tickets/q/{id}; echo $$ > claim; i=0; while [ $i -lt 50 ]; do echo $i > artifacts/$i; i=$((i+1)); done; echo 0 > \"$OUT/result\"; cp \"$OUT/result\" result && echo acknowledged"
        );
        let finishing = mount.start(&script);
        std::thread::sleep(Duration::from_millis(40 + dice.below(120)));
        mount.kill9();
        let said = finishing.finish();
        mount.mount();
        let result = fs::read_to_string(mount.path(&format!("tickets/q/{id}/result"))).unwrap_or_default();
        if said.stdout.contains("acknowledged") {
            assert!(result.starts_with('0'), "round {round}: an acknowledged result is lost");
        }
        if result.is_empty() {
            mount.finish("q", &id, "0");
            assert_eq!(mount.list(&format!("tickets/q/{id}/artifacts")), Vec::<String>::new());
        } else {
            assert_eq!(
                mount.list(&format!("tickets/q/{id}/artifacts")).len(),
                50,
                "round {round}: published by half"
            );
        }
    }
}

/// A configuration, a trigger, a console line: acknowledged, then the daemon dies at once.
#[test]
fn what_was_acknowledged_is_durable() {
    let mount = Mount::with(&[], LIMIT);
    for round in 1..=5_u64 {
        let name = format!("job{round}");
        mount.job(&name, distcifs_tests::HELLO);
        assert_eq!(mount.trigger(&name, "@key=once"), 1);
        mount.kill9();
        mount.mount();
        assert_eq!(mount.read(&format!("jobs/{name}/config.json")), distcifs_tests::HELLO);
        assert_eq!(mount.trigger(&name, "@key=once"), 1, "the key outlives the daemon");
        assert!(mount.has(&format!("tickets/build-control/{name}.1.control")));
    }
    mount.queue("q");
    mount.post("q", &json!({"id": "t"}));
    let writer = mount.start("exec 9>tickets/q/t/claim; echo kept > tickets/q/t/console; echo written; exec sleep 20");
    wait_for("the line", USUAL, || writer.so_far().contains("written"));
    mount.kill9();
    mount.mount();
    mount.finish("q", "t", "0");
}
