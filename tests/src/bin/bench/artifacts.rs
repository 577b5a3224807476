//! Publishing many files, by the folder that holds them and by patterns, in turns.

use std::time::Duration;

use distcifs_tests::{Mount, Worker};
use serde_json::{Value, json};

use crate::report::{Measure, median};

/// The measure holds its mount for less.
const LIMIT: Duration = Duration::from_secs(900);

/// Folders, and files in each.
const FOLDERS: usize = 50;
const FILES: usize = 100;

/// Rounds, each of all ways.
const ROUNDS: usize = 3;

/// 5,000 files published by a folder and by two patterns, each in a build of its own.
pub(crate) fn by_pattern() {
    let mount = Mount::with(&[], LIMIT);
    let _usual = Worker::usual(&mount, 1);
    let _publishing = Worker::start(&mount, "publish-artifacts", &[]);
    let script = format!(
        "mkdir d; for i in $(seq {FOLDERS}); do mkdir d/$i; for j in $(seq {FILES}); do echo $i $j > d/$i/$j.txt; done; done"
    );
    let ways: [(&str, Value); 3] = [
        ("folder", json!(["d"])),
        ("any-depth", json!(["**/*.txt"])),
        ("two-stars", json!(["d/*/*.txt"])),
    ];
    for (name, patterns) in &ways {
        mount.job_of(
            name,
            &[
                json!({ "type": "execute-shell", "params": { "script": script } }),
                json!({ "type": "publish-artifacts", "params": { "artifacts": patterns } }),
            ],
        );
    }
    let mut runs = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        for ((name, _), runs) in ways.iter().zip(&mut runs) {
            let build = mount.trigger(name, "");
            let state = mount.wait_state_within(name, build, Duration::from_secs(120));
            assert_eq!(state, "success", "{}", mount.why(name, build));
            runs.push(publishing(&mount, name, build));
        }
    }
    let [folder, rest @ ..] = &runs;
    for ((name, _), runs) in ways[1..].iter().zip(rest) {
        Measure::new(&format!("artifacts.{name}"), median(runs), "s", "<= 1.3 of the folder")
            .runs(runs)
            .peer("the folder that holds them", median(folder))
            .note("files", FOLDERS * FILES)
            .print();
    }
}

/// How long the task that publishes took, seconds.
fn publishing(mount: &Mount, job: &str, build: u64) -> f64 {
    let record = mount.read(&format!("jobs/{job}/builds/{build}/build.json"));
    let record: Value = serde_json::from_str(&record).expect("a record is JSON");
    let at = |name: &str| {
        let time = record["tasks"][1][name].as_f64();
        time.unwrap_or_else(|| panic!("no {name} in {}", record["tasks"][1]))
    };
    (at("finished") - at("started")) / 1000.0
}
