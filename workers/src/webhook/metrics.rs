//! What the receiver counts, as Prometheus text.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::connections::counts::{Answers, Page};

/// Counters since the start.
#[derive(Default)]
pub struct Metrics(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    answers: Answers,
    builds: u64,
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
        counts.answers.add(status, took);
        counts.builds += builds as u64;
    }

    /// A connection was closed to make room for a newer one.
    pub fn pushed_out(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pushed_out += 1;
    }

    /// The whole page.
    pub fn page(&self, now: &Gauges) -> String {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut page = Page::new("github_webhook");
        let answers = &counts.answers;
        answers.by_status(&mut page, "deliveries_total", "Deliveries by the status of the answer");
        page.one("builds_total", "counter", "Builds made or found made", counts.builds);
        page.one(
            "connections_pushed_out_total",
            "counter",
            "Connections closed to make room for newer ones",
            counts.pushed_out,
        );
        page.one("tree_up", "gauge", "Whether the tree is there", u8::from(now.up));
        page.one("jobs", "gauge", "Jobs that wait for deliveries", now.jobs);
        page.one("connections", "gauge", "Open connections", now.connections);
        page.one("body_bytes", "gauge", "Bytes of bodies in memory", now.body_bytes);
        answers.times(&mut page, "seconds", "From the request's head to the answer");
        page.text()
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
