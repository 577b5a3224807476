//! One JSON line per measure, and the plain operations of the same run to compare with.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A line carries at most this many single runs.
const RUNS_SHOWN: usize = 100;

/// A measure with its target in words ("<= 15"), its single runs and a peer of the same run.
pub(crate) struct Measure {
    line: Value,
    value: f64,
}

impl Measure {
    pub(crate) fn new(name: &str, value: f64, unit: &str, target: &str) -> Self {
        Measure {
            line: json!({"name": name, "value": round(value), "unit": unit, "target": target}),
            value,
        }
    }

    /// The single runs, in the measure's unit.
    pub(crate) fn runs(mut self, runs: &[f64]) -> Self {
        self.line["runs"] = runs.iter().take(RUNS_SHOWN).map(|run| json!(round(*run))).collect();
        self
    }

    /// What the same costs without distcifs, in the same unit.
    pub(crate) fn peer(mut self, name: &str, value: f64) -> Self {
        self.line["peer"] = json!({"name": name, "value": round(value)});
        self.line["ratio"] = json!(round(self.value / value.max(f64::MIN_POSITIVE)));
        self
    }

    /// A further word on how it was measured.
    pub(crate) fn note(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.line[key] = value.into();
        self
    }

    pub(crate) fn print(self) {
        println!("{}", self.line);
    }
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// The middle one; 0 of none.
pub(crate) fn median(runs: &[f64]) -> f64 {
    let mut sorted = runs.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// What a build can't do without, on the plain disk: one fdatasync and one shell, milliseconds.
pub(crate) fn sync_and_spawn(folder: &Path) -> f64 {
    let once = |number: usize| {
        let begun = Instant::now();
        let mut file = File::create(folder.join(format!("sync-{number}"))).expect("own folder");
        file.write_all(&[7; 512]).expect("a write");
        file.sync_data().expect("fdatasync");
        Command::new("sh").args(["-c", "true"]).status().expect("sh runs");
        milliseconds(begun.elapsed())
    };
    median(&(0..30).map(once).collect::<Vec<f64>>())
}
