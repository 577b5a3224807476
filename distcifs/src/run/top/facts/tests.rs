//! What is known, and the order in which it is shown.

use super::*;

fn shown(board: &Board) -> Vec<String> {
    let word = |row: &Row| row.state.map_or("?", State::word);
    let rows = board.rows().0;
    rows.iter()
        .map(|row| format!("{} {} {}", row.key.job, row.key.number, word(row)))
        .collect()
}

#[test]
fn what_runs_comes_first_and_then_what_failed() {
    let mut board = Board::default();
    board.list_jobs(["a", "b", "c", "d", "e"].map(str::to_owned).to_vec());
    for (line, now) in [
        ("build a/1 pending", 1),
        ("build b/1 pending", 2),
        ("build b/1 running", 3),
        ("build c/1 success", 4),
        ("build d/1 failure", 5),
        ("build e/1 held", 6),
        ("build a/2 error", 7),
    ] {
        assert_eq!(board.hear(line, now), (false, false), "{line}");
    }
    let all = [
        "b 1 running",
        "e 1 held",
        "a 1 pending",
        "a 2 error",
        "d 1 failure",
        "c 1 success",
    ];
    assert_eq!(shown(&board), all);
    let counts = board.counts();
    assert_eq!((counts.running, counts.held, counts.pending, counts.red), (1, 1, 1, 2));
}

#[test]
fn events_move_builds_on_and_take_them_away() {
    let mut board = Board::default();
    board.hear("build a/7 running", 1);
    board.hear("build a/7 failure", 2);
    assert_eq!(shown(&board), ["a 7 failure"]);
    // An older one that ends later hides no newer end.
    board.hear("build a/6 success", 3);
    assert_eq!(shown(&board), ["a 7 failure"]);
    // A retry.
    board.hear("control a/7 retry", 4);
    board.hear("build a/7 pending", 4);
    assert_eq!((shown(&board), board.counts().red), (vec!["a 7 pending".to_owned()], 0));
    board.hear("build a/7 success", 5);
    board.hear("build a/7 removed", 6);
    assert!(shown(&board).is_empty() && board.stale_jobs.contains("a"));
    board.hear("build a/8 running", 7);
    board.hear("job a renamed b", 8);
    assert!(shown(&board).is_empty() && board.stale_jobs.contains("b"));
    assert_eq!(board.hear("ticket execute-shell/x open", 9), (true, false));
    assert_eq!(board.hear("resync", 9), (true, true));
}

#[test]
fn odd_lines_are_passed_over() {
    for line in [
        "",
        "build",
        "build a/x running",
        "build ../1 running",
        "build a\u{1b}/1 running",
        "job \u{202e} x",
    ] {
        assert_eq!(heard(line), Heard::Other, "{line:?}");
    }
    let mut board = Board::default();
    board.hear("build a/1 dancing", 1);
    assert!(shown(&board).is_empty());
}

#[test]
fn ten_thousand_jobs_and_tickets_are_bounded() {
    let mut board = Board::default();
    board.list_jobs((0..10_000).map(|n| format!("j{n}")).collect());
    let ids: Vec<String> = (0..30_000).map(|n| format!("j{}.{n}.control", n % 10_000)).collect();
    board.list_builds(&ids);
    assert_eq!(board.under_way.len(), BUILDS_MAX);
    for n in 0..10_000 {
        board.hear(&format!("build j{n}/99999 success"), n);
    }
    let (rows, left) = board.rows();
    assert_eq!(rows.len(), ROWS_MAX + ENDED_MAX);
    assert_eq!(left, BUILDS_MAX - ROWS_MAX + 10_000 - ENDED_MAX);
    // What has no ticket any more is not under way.
    board.list_builds(&[]);
    assert!(board.under_way.is_empty());
}

#[test]
fn what_nobody_looks_at_is_forgotten() {
    let mut board = Board::default();
    for line in ["build a/1 running", "build b/1 failure", "build c/1 running"] {
        board.hear(line, 1);
    }
    for job in ["a", "b", "c"] {
        board.says(&Key::new(job, 1), Words::default());
    }
    board.only_words_of(&[Key::new("a", 1)]);
    let told = |job: &str| board.known(&Key::new(job, 1)).unwrap().1.is_some();
    assert_eq!((told("a"), told("b"), told("c")), (true, false, false));
}

#[test]
fn a_closed_job_is_counted_and_not_shown() {
    let mut board = Board::default();
    board.list_jobs(vec!["a".into()]);
    board.is_closed("a");
    assert_eq!((board.counts().closed, board.counts().jobs), (1, 1));
    assert!(shown(&board).is_empty());
    // It is opened again, and has no build.
    board.is_open("a");
    assert_eq!((board.counts().closed, board.counts().jobs), (0, 1));
}

#[test]
fn tickets_of_builds_lead_to_them() {
    for (id, place) in [
        ("a.3.0", Some((Key::new("a", 3), Some(0)))),
        ("a.b.12.control", Some((Key::new("a.b", 12), None))),
        ("a.1.4.r2", Some((Key::new("a", 1), Some(4)))),
        ("a.1.control.r2", Some((Key::new("a", 1), None))),
        ("a.x.0", None),
        ("alone", None),
        ("a.1", None),
    ] {
        assert_eq!(build_of(id), place, "{id}");
    }
}

#[test]
fn figures_and_nodes_are_read() {
    let found = tickets(
        "distcifs_tickets{queue=\"x\",state=\"open\"} 3\ndistcifs_tickets{queue=\"x\",state=\"claimed\"} 2\n\
         distcifs_tickets{queue=\"x\",state=\"finished\"} 9\ndistcifs_tickets{queue=\"\n",
    );
    assert_eq!(found, BTreeMap::from([("x".to_owned(), (3, 2))]));
    let node = node("vm", "node vm\nversion 1\nwaiting x 2 linux gpu\nwaiting cron y\n");
    assert_eq!(node.waiting, [("x".to_owned(), 2, "linux gpu".to_owned())]);
    assert_eq!(node.version, "1");
}

/// The coordinator tells nothing of what ended while the stream was broken.
#[test]
fn held_builds_are_looked_at_after_events_were_lost() {
    let mut board = Board::default();
    board.hear("build a/3 held", 1);
    assert!(board.stale_builds.is_empty());
    board.list_builds(&["a.9.control".to_owned()]);
    let stale: Vec<Key> = board.stale_builds.iter().cloned().collect();
    assert_eq!(stale, [Key::new("a", 3), Key::new("a", 9)]);
    board.stands(&Key::new("a", 3), State::Aborted, 2);
    assert_eq!(board.counts().held, 0);
}
