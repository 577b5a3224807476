//! What the program counts, as Prometheus text; the mount's own metrics stand before it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Upper ends of the buckets of times, seconds.
const BUCKETS: [f64; 8] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0, 10.0];

/// Counters since the start.
#[derive(Default)]
pub struct Metrics(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    by_status: BTreeMap<u16, u64>,
    /// Requests by the first bucket that they fit into; the last is for slower ones.
    times: [u64; BUCKETS.len() + 1],
    seconds: f64,
    pushed_out: u64,
}

/// What is now, beside the counters.
pub struct Gauges {
    /// The tree is there.
    pub up: bool,
    /// Jobs that are known.
    pub jobs: usize,
    /// Open connections.
    pub connections: usize,
    /// Pages that are kept live.
    pub streams: usize,
}

impl Metrics {
    /// A request was answered.
    pub fn answered(&self, status: u16, took: Duration) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.by_status.entry(status).or_default() += 1;
        let seconds = took.as_secs_f64();
        let bucket = BUCKETS.iter().position(|end| seconds <= *end).unwrap_or(BUCKETS.len());
        counts.times[bucket] += 1;
        counts.seconds += seconds;
    }

    /// A connection was closed to make room for a newer one.
    pub fn pushed_out(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pushed_out += 1;
    }

    /// The program's own part of the page.
    pub fn page(&self, now: &Gauges) -> String {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut page = String::new();
        // Writing to a string can't fail.
        let mut head = |name: &str, kind: &str, help: &str| {
            let _ = writeln!(page, "# HELP web_{name} {help}\n# TYPE web_{name} {kind}");
            std::mem::take(&mut page)
        };
        let mut all = head("requests_total", "counter", "Requests by the status of the answer");
        for (status, n) in &counts.by_status {
            let _ = writeln!(all, "web_requests_total{{status=\"{status}\"}} {n}");
        }
        for (name, kind, help, value) in [
            (
                "connections_pushed_out_total",
                "counter",
                "Connections closed to make room for newer ones",
                counts.pushed_out as f64,
            ),
            (
                "tree_up",
                "gauge",
                "Whether the tree is there",
                f64::from(u8::from(now.up)),
            ),
            ("jobs", "gauge", "Jobs that are known", now.jobs as f64),
            ("connections", "gauge", "Open connections", now.connections as f64),
            ("streams", "gauge", "Pages that are kept live", now.streams as f64),
        ] {
            all += &head(name, kind, help);
            let _ = writeln!(all, "web_{name} {value}");
        }
        all += &head("seconds", "histogram", "From the request's head to that of the answer");
        let ends = BUCKETS.iter().map(f64::to_string).chain(["+Inf".into()]);
        let mut sum = 0;
        for (end, count) in ends.zip(counts.times) {
            sum += count;
            let _ = writeln!(all, "web_seconds_bucket{{le=\"{end}\"}} {sum}");
        }
        let _ = writeln!(all, "web_seconds_sum {}\nweb_seconds_count {sum}", counts.seconds);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_shown() {
        let metrics = Metrics::default();
        metrics.answered(200, Duration::from_millis(7));
        metrics.answered(404, Duration::from_secs(60));
        metrics.pushed_out();
        let now = Gauges {
            up: true,
            jobs: 3,
            connections: 4,
            streams: 5,
        };
        let page = metrics.page(&now);
        for line in [
            "web_requests_total{status=\"200\"} 1",
            "# TYPE web_tree_up gauge",
            "web_tree_up 1",
            "web_jobs 3",
            "web_streams 5",
            "web_connections_pushed_out_total 1",
            "web_seconds_bucket{le=\"0.005\"} 0",
            "web_seconds_bucket{le=\"0.01\"} 1",
            "web_seconds_count 2",
            "# TYPE web_seconds histogram",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in:\n{page}");
        }
    }
}
