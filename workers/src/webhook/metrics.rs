//! What the receiver counts, as Prometheus text.

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
    builds: u64,
    /// Requests by the first bucket that they fit into; the last is for slower ones.
    times: [u64; BUCKETS.len() + 1],
    seconds: f64,
    pushed_out: u64,
}

/// What is now, beside the counters.
pub struct Gauges {
    /// The tree is there.
    pub up: bool,
    /// Jobs that wait for deliveries.
    pub jobs: usize,
    /// Open connections.
    pub connections: usize,
    /// Bytes of bodies in memory.
    pub body_bytes: usize,
}

impl Metrics {
    /// A delivery was answered.
    pub fn answered(&self, status: u16, builds: usize, took: Duration) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.by_status.entry(status).or_default() += 1;
        counts.builds += builds as u64;
        let seconds = took.as_secs_f64();
        let bucket = BUCKETS.iter().position(|end| seconds <= *end).unwrap_or(BUCKETS.len());
        counts.times[bucket] += 1;
        counts.seconds += seconds;
    }

    /// A connection was closed to make room for a newer one.
    pub fn pushed_out(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pushed_out += 1;
    }

    /// The whole page.
    pub fn page(&self, now: &Gauges) -> String {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut page = String::new();
        let mut family = |name: &str, kind: &str, help: &str, lines: &[(String, String)]| {
            let name = format!("github_webhook_{name}");
            // Writing to a string can't fail.
            let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in lines {
                let _ = writeln!(page, "{name}{labels} {value}");
            }
        };
        let one = |value: f64| vec![(String::new(), value.to_string())];
        let by_status = counts
            .by_status
            .iter()
            .map(|(status, n)| (format!("{{status=\"{status}\"}}"), n.to_string()));
        family(
            "deliveries_total",
            "counter",
            "Deliveries by the status of the answer",
            &by_status.collect::<Vec<_>>(),
        );
        family(
            "builds_total",
            "counter",
            "Builds made or found made",
            &one(counts.builds as f64),
        );
        family(
            "connections_pushed_out_total",
            "counter",
            "Connections closed to make room for newer ones",
            &one(counts.pushed_out as f64),
        );
        family(
            "tree_up",
            "gauge",
            "Whether the tree is there",
            &one(f64::from(u8::from(now.up))),
        );
        family("jobs", "gauge", "Jobs that wait for deliveries", &one(now.jobs as f64));
        family("connections", "gauge", "Open connections", &one(now.connections as f64));
        family(
            "body_bytes",
            "gauge",
            "Bytes of bodies in memory",
            &one(now.body_bytes as f64),
        );
        family("seconds", "histogram", "From the request's head to the answer", &[]);
        let mut sum = 0;
        for (end, count) in BUCKETS
            .iter()
            .map(f64::to_string)
            .chain(["+Inf".into()])
            .zip(counts.times)
        {
            sum += count;
            let _ = writeln!(page, "github_webhook_seconds_bucket{{le=\"{end}\"}} {sum}");
        }
        let _ = writeln!(
            page,
            "github_webhook_seconds_sum {}\ngithub_webhook_seconds_count {sum}",
            counts.seconds
        );
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_shown() {
        let metrics = Metrics::default();
        metrics.answered(201, 2, Duration::from_millis(7));
        metrics.answered(401, 0, Duration::from_secs(60));
        metrics.pushed_out();
        let now = Gauges {
            up: true,
            jobs: 3,
            connections: 4,
            body_bytes: 5,
        };
        let page = metrics.page(&now);
        for line in [
            "github_webhook_deliveries_total{status=\"201\"} 1",
            "github_webhook_builds_total 2",
            "github_webhook_connections_pushed_out_total 1",
            "github_webhook_tree_up 1",
            "github_webhook_seconds_bucket{le=\"0.005\"} 0",
            "github_webhook_seconds_bucket{le=\"0.01\"} 1",
            "github_webhook_seconds_bucket{le=\"+Inf\"} 2",
            "github_webhook_seconds_count 2",
            "# TYPE github_webhook_seconds histogram",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in:\n{page}");
        }
    }
}
