//! `top --once`: the same as text for people, and as JSON for programs.

use std::fmt::Write;

use serde_json::{Value, json};

use super::facts::{Row, State};
use super::read::{View, now};

/// Rows of builds that ended well, queues and nodes in the text; programs get all.
const GOOD_MAX: usize = 10;
const QUEUES_MAX: usize = 50;
const NODES_MAX: usize = 50;

/// How long ago it was, in a few characters; `-` if that is not known.
pub(super) fn age(since: u64, now: u64) -> String {
    if since == 0 {
        return "-".to_owned();
    }
    let seconds = now.saturating_sub(since) / 1000;
    match seconds {
        0..=99 => format!("{seconds} s"),
        100..=5999 => format!("{} min", seconds / 60),
        6000..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// The word of a row's state.
pub(super) fn word(row: &Row) -> &'static str {
    row.state.map_or("?", State::word)
}

/// The first line of what a build says.
pub(super) fn why(row: &Row) -> &str {
    let words = row.words.as_ref();
    words.and_then(|words| words.why.lines().next()).unwrap_or_default()
}

/// How many builds and jobs there are, in words.
pub(super) fn counted(view: &View) -> String {
    let counts = &view.counts;
    let mut text = format!(
        "{} running, {} pending, {} held; {} of {} jobs failed last",
        counts.running, counts.pending, counts.held, counts.red, counts.jobs
    );
    // Writing to a string can't fail.
    if counts.closed > 0 {
        let _ = write!(text, ", {} are closed to you", counts.closed);
    }
    if counts.unlisted {
        text.push_str("; which jobs there are is closed to you");
    }
    if counts.unread > 0 {
        let _ = write!(text, "; {} not looked at yet", counts.unread);
    }
    if counts.cut {
        text.push_str("; there are more than can be listed");
    }
    text
}

/// The text: a line for each thing.
pub(super) fn text(view: &View) -> String {
    let mut page = String::new();
    let now = now();
    // Writing to a string can't fail.
    let _ = writeln!(
        page,
        "{}: node {}, session {}, room {}, drained {}",
        view.mount,
        view.fact("node"),
        view.fact("session"),
        view.fact("room"),
        view.fact("drained")
    );
    let _ = writeln!(page, "stores: {}; {}", view.fact("store"), view.fact("coordinator"));
    let _ = writeln!(page, "builds: {}", counted(view));
    let _ = writeln!(
        page,
        "tickets: {} open, {} claimed; {} workers wait",
        view.fact("tickets_open"),
        view.fact("tickets_claimed"),
        view.nodes
            .iter()
            .flat_map(|node| &node.waiting)
            .map(|(_, count, _)| count)
            .sum::<u64>()
    );
    page.push_str("\nBUILDS\n");
    let mut good = 0;
    let mut left = view.left;
    for row in &view.rows {
        let told = row.state.is_none_or(|state| !state.is_over() || state.is_red());
        good += usize::from(!told);
        if good > GOOD_MAX && !told {
            left += 1;
            continue;
        }
        let line = format!(
            "  {:<8} {:>7}  {} {}  {}",
            word(row),
            age(row.since, now),
            row.key.job,
            row.key.number,
            why(row)
        );
        let _ = writeln!(page, "{}", line.trim_end());
    }
    if left > 0 {
        let _ = writeln!(page, "  and {left} more");
    }
    queues_and_nodes(&mut page, view, now);
    page
}

fn queues_and_nodes(page: &mut String, view: &View, now: u64) {
    page.push_str("\nQUEUES\n");
    for queue in view.queues.iter().take(QUEUES_MAX) {
        let mut line = format!(
            "  {}  {} open, {} claimed, {} workers wait",
            queue.name, queue.open, queue.claimed, queue.workers
        );
        if !queue.oldest.is_empty() {
            let _ = write!(line, "; {} for {}: {}", queue.oldest, age(queue.since, now), queue.why);
        }
        let _ = writeln!(page, "{line}");
    }
    page.push_str("\nNODES\n");
    for node in view.nodes.iter().take(NODES_MAX) {
        let waiting: u64 = node.waiting.iter().map(|(_, count, _)| count).sum();
        let _ = writeln!(
            page,
            "  {}  version {}, since {}, {waiting} workers wait",
            node.name, node.version, node.since
        );
    }
}

/// The same as one object; times are milliseconds since 1970, 0 where none is known.
pub(super) fn json(view: &View, status: &Value) -> Value {
    let build = |row: &Row| {
        let words = row.words.clone().unwrap_or_default();
        json!({
            "job": &*row.key.job, "build": row.key.number, "state": row.state, "since": row.since,
            "why": words.why, "cause": words.cause, "ref": words.name, "commit": words.commit,
        })
    };
    let node = |node: &super::facts::Node| {
        let waiting = node.waiting.iter().map(|(queue, workers, labels)| {
            let labels: Vec<&str> = labels.split_whitespace().collect();
            json!({ "queue": queue, "workers": workers, "labels": labels })
        });
        json!({ "name": node.name, "version": node.version, "since": node.since,
            "waiting": waiting.collect::<Vec<_>>() })
    };
    json!({
        "mount": view.mount,
        "status": status,
        "counts": view.counts,
        "builds": view.rows.iter().map(build).collect::<Vec<_>>(),
        "more_builds": view.left,
        "queues": view.queues,
        "nodes": view.nodes.iter().map(node).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::facts::{Key, Queue, Words};
    use super::*;

    #[test]
    fn ages_are_short() {
        for (since, text) in [
            (0, "-"),
            (1_000_000_000, "0 s"),
            (999_901_000, "99 s"),
            (999_000_000, "16 min"),
            (990_000_000, "2 h"),
            (700_000_000, "3 d"),
            (2_000_000_000, "0 s"),
        ] {
            assert_eq!(age(since, 1_000_000_000), text);
        }
    }

    #[test]
    fn text_and_json_say_the_same() {
        let row = Row {
            key: Key::new("a", 7),
            state: Some(State::Failure),
            since: 5,
            words: Some(Words {
                why: "exit 1\nlast line".into(),
                ..Words::default()
            }),
        };
        let queue = Queue {
            name: "q".into(),
            open: 2,
            oldest: "t".into(),
            why: "needs labels gpu".into(),
            ..Queue::default()
        };
        let view = View {
            mount: "/ci".into(),
            status: vec![("node".into(), "vm".into())],
            rows: vec![row],
            left: 3,
            queues: vec![queue],
            ..View::default()
        };
        let page = text(&view);
        for part in [
            "/ci: node vm",
            "a 7  exit 1\n",
            "and 3 more",
            "q  2 open, 0 claimed",
            "t for -: needs labels gpu",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
        assert!(!page.contains("last line"), "{page}");
        let value = json(&view, &json!({ "node": "vm" }));
        assert_eq!(value["builds"][0]["why"], "exit 1\nlast line");
        assert_eq!(value["builds"][0]["state"], "failure");
        assert_eq!(
            (&value["more_builds"], &value["queues"][0]["open"]),
            (&json!(3), &json!(2))
        );
    }
}
