//! What the program counts, as Prometheus text; the mount's own metrics stand before it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::connections::counts::{Answers, Page};

/// Counters since the start.
#[derive(Default)]
pub struct Metrics(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    answers: Answers,
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
        counts.answers.add(status, took);
    }

    /// A connection was closed to make room for a newer one.
    pub fn pushed_out(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pushed_out += 1;
    }

    /// The program's own part of the page.
    pub fn page(&self, now: &Gauges) -> String {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut page = Page::new("web");
        let answers = &counts.answers;
        answers.by_status(&mut page, "requests_total", "Requests by the status of the answer");
        page.one(
            "connections_pushed_out_total",
            "counter",
            "Connections closed to make room for newer ones",
            counts.pushed_out,
        );
        page.one("tree_up", "gauge", "Whether the tree is there", u8::from(now.up));
        page.one("jobs", "gauge", "Jobs that are known", now.jobs);
        page.one("connections", "gauge", "Open connections", now.connections);
        page.one("streams", "gauge", "Pages that are kept live", now.streams);
        answers.times(&mut page, "seconds", "From the request's head to that of the answer");
        page.text()
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
