//! Tasks that are added to builds by several at once, on both stores.

use std::fs;

use distcifs_tests::mount::{TEST_LIMIT, Words};
use distcifs_tests::repository::on_cluster;
use distcifs_tests::wait::USUAL;
use distcifs_tests::{Mount, Worker, wait_for};
use serde_json::{Value, json};

/// The names of the tasks of a plan; a task without one is called as its type.
fn names_in(text: &str) -> Vec<String> {
    let value: Value = serde_json::from_str(text).expect("JSON");
    let tasks = value["tasks"].as_array().expect("a list of tasks");
    let name = |task: &Value| task["name"].as_str().or(task["type"].as_str()).map(str::to_owned);
    tasks.iter().map(|task| name(task).expect("a name")).collect()
}

/// Builds of which two tasks add at the same moment.
const ROUNDS: u64 = 10;

/// "Where two tasks add at once, both do, one after the other": two workers that are let go at the same moment, on two
/// mounts where the store takes two.
#[test]
fn two_that_add_at_once_both_do() {
    let one = Mount::new();
    let other = on_cluster().then(|| Mount::of(one.repository(), "second", Words::default(), TEST_LIMIT));
    let _control = Worker::start(&one, "build-control", &[]);
    let second = other.as_ref().unwrap_or(&one);
    let _workers = [
        Worker::start(&one, "execute-shell", &["left", "later"]),
        Worker::start(second, "execute-shell", &["right", "later"]),
    ];
    let out = one.out().display().to_string();
    let added = |side: &str| {
        let script = format!("echo \"$BUILD_NUMBER $TASK_NAME\" >> '{out}/history'");
        let task = |i: u32| {
            json!({ "type": "execute-shell", "name": format!("{side}{i}"), "needs": [], "isolation": "none",
            "labels": ["later"], "params": { "script": script } })
        };
        json!({ "tasks": [task(0), task(1)] })
    };
    let adding = |side: &str| {
        let script = format!(
            "echo {side} >> '{out}/begun'; until [ -e '{out}/go'.$BUILD_NUMBER ]; do sleep 0.02; done
            cat > \"$TASKS\" <<'END'\n{}\nEND\n",
            added(side)
        );
        json!({ "type": "execute-shell", "name": side, "needs": [], "labels": [side], "params": { "script": script } })
    };
    let after = json!({ "type": "execute-shell", "name": "after", "needs": ["left", "right"], "labels": ["later"],
        "params": { "script": format!("echo \"$BUILD_NUMBER after\" >> '{out}/history'") } });
    let config = json!({ "tasks": [adding("left"), adding("right"), after], "allow": { "isolation": ["none"] } });
    one.job("a", &config.to_string());
    let read = |name: &str| fs::read_to_string(one.out().join(name)).unwrap_or_default();
    for round in 1..=ROUNDS {
        fs::write(one.out().join("begun"), "").expect("own folder");
        assert_eq!(one.trigger("a", ""), round);
        wait_for("both", USUAL, || read("begun").lines().count() == 2);
        fs::write(one.out().join(format!("go.{round}")), "").expect("own folder");
        let state = one.wait_state("a", round);
        assert_eq!(state, "success", "{}: {}", one.why("a", round), one.console("a", round));
        let history = read("history");
        let of_round = history
            .lines()
            .filter_map(|line| line.strip_prefix(&format!("{round} ")));
        let mut ran: Vec<&str> = of_round.collect();
        ran.sort_unstable();
        assert_eq!(ran, ["after", "left0", "left1", "right0", "right1"], "{round}");
        let mut plan = names_in(&second.read(&format!("jobs/a/builds/{round}/plan.json")));
        assert_eq!(plan[..3], ["left", "right", "after"]);
        plan.sort_unstable();
        assert_eq!(plan, ["after", "left", "left0", "left1", "right", "right0", "right1"]);
    }
}
