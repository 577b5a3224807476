//! What a program that answers HTTP counts of it, and how counts are written as Prometheus text.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// Upper ends of the buckets of times, seconds.
const BUCKETS: [f64; 8] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0, 10.0];

/// Answers since the start.
#[derive(Default)]
pub struct Answers {
    by_status: BTreeMap<u16, u64>,
    /// Answers by the first bucket that they fit into; the last is for slower ones.
    times: [u64; BUCKETS.len() + 1],
    seconds: f64,
}

impl Answers {
    /// Something was answered.
    pub fn add(&mut self, status: u16, took: Duration) {
        *self.by_status.entry(status).or_default() += 1;
        let seconds = took.as_secs_f64();
        let bucket = BUCKETS.iter().position(|end| seconds <= *end).unwrap_or(BUCKETS.len());
        self.times[bucket] += 1;
        self.seconds += seconds;
    }

    /// How many of each status.
    pub fn by_status(&self, page: &mut Page, name: &str, help: &str) {
        page.family(name, "counter", help);
        for (status, n) in &self.by_status {
            page.line(&format!("{name}{{status=\"{status}\"}}"), *n);
        }
    }

    /// How long they took.
    pub fn times(&self, page: &mut Page, name: &str, help: &str) {
        page.family(name, "histogram", help);
        let ends = BUCKETS.iter().map(f64::to_string).chain(["+Inf".into()]);
        let mut sum = 0;
        for (end, count) in ends.zip(self.times) {
            sum += count;
            page.line(&format!("{name}_bucket{{le=\"{end}\"}}"), sum);
        }
        page.line(&format!("{name}_sum"), self.seconds);
        page.line(&format!("{name}_count"), sum);
    }
}

/// A page of metrics, each of which begins with the program's name.
pub struct Page {
    program: &'static str,
    text: String,
}

impl Page {
    /// An empty page.
    pub fn new(program: &'static str) -> Page {
        let text = String::new();
        Page { program, text }
    }

    /// A metric that is one number.
    pub fn one(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.family(name, kind, help);
        self.line(name, value);
    }

    /// The whole text.
    pub fn text(self) -> String {
        self.text
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let program = self.program;
        // Writing to a string can't fail.
        let _ = writeln!(
            self.text,
            "# HELP {program}_{name} {help}\n# TYPE {program}_{name} {kind}"
        );
    }

    fn line(&mut self, name: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.text, "{}_{name} {value}", self.program);
    }
}
