//! The screen on a terminal of memory.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::super::app::Leave;
use super::super::facts::{Counts, Key, Node, Queue, Row, Words};
use super::super::follow::Follower;
use super::super::read::{Shared, View};
use super::super::sight::{Asked, Sight};
use super::*;

const NOW: u64 = 1_000_000_000;

fn row(job: &str, number: u64, state: Option<State>, why: &str) -> Row {
    Row {
        key: Key::new(job, number),
        state,
        since: NOW - 12_000,
        words: Some(Words {
            why: why.into(),
            commit: "c0ffee".into(),
            ..Words::default()
        }),
    }
}

fn view(rows: Vec<Row>) -> View {
    let queue = Queue {
        name: "execute-shell".into(),
        open: 3,
        claimed: 1,
        oldest: "slow.3.0".into(),
        since: NOW - 61_000,
        why: "needs labels gpu; 2 workers wait, none has them".into(),
        ..Queue::default()
    };
    let node = Node {
        name: "vm".into(),
        version: "0.1.0".into(),
        waiting: vec![("execute-shell".into(), 2, "linux x86_64".into())],
        ..Node::default()
    };
    let status = [
        ("node", "vm"),
        ("session", "connected"),
        ("room", "yes"),
        ("drained", "no"),
    ];
    View {
        mount: "/ci".into(),
        ready: true,
        status: status.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec(),
        counts: Counts {
            jobs: 4,
            running: 1,
            held: 1,
            ..Counts::default()
        },
        rows,
        queues: vec![queue],
        nodes: vec![node],
        ..View::default()
    }
}

fn usual() -> View {
    view(vec![
        row("hello", 7, Some(State::Running), "task 0-execute-shell runs on vm"),
        row("pulls", 2, Some(State::Held), "waits for approval of c0ffee"),
        row("slow", 3, None, ""),
        row("red", 4, Some(State::Failure), "task 1-unit: exit 3\nlast line"),
    ])
}

fn app(view: View) -> App {
    let folder = std::env::temp_dir().join("no-such-tree");
    let (tell, _told) = sync_channel(1);
    let mut app = App::new(Sight::new(folder), Arc::new(Shared::default()), tell, Asked::default());
    app.view = Arc::new(view);
    app
}

fn press(app: &mut App, keys: &str) -> Option<Leave> {
    let press = |key| app.press(KeyEvent::new(key, KeyModifiers::NONE));
    keys.chars().map(KeyCode::Char).map(press).last().flatten()
}

/// The screen's lines, without space at their ends.
fn drawn(app: &mut App, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal
        .draw(|frame| draw(frame, app, Look { colour: true }, NOW))
        .unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..height).map(|y| line(y).trim_end().to_owned()).collect()
}

#[test]
fn a_usual_terminal_shows_everything_at_once() {
    let mut app = app(usual());
    press(&mut app, "jjjj");
    let lines = drawn(&mut app, 80, 24);
    let wanted = [
        " /ci  node vm  session connected  room yes",
        " 1 running, 0 pending, 1 held; 0 of 4 jobs failed last",
        ">BUILDS 4",
        " running     12 s hello 7  task 0-execute-shell runs on vm",
        " held        12 s pulls 2  waits for approval of c0ffee",
        " ?           12 s slow 3",
        " failure     12 s red 4    task 1-unit: exit 3",
    ];
    assert_eq!(lines[..wanted.len()], wanted, "{lines:#?}");
    assert!(
        lines.contains(&"red 4: task 1-unit: exit 3 | last line; commit c0ffee".to_owned()),
        "{lines:#?}"
    );
    let queue = lines.iter().find(|line| line.contains("execute-shell  ")).unwrap();
    assert_eq!(
        queue.trim_end(),
        " execute-shell      3      1     0  61 s: needs labels gpu; 2 workers wait, none"
    );
    assert!(
        lines
            .iter()
            .any(|line| line == " vm  0.1.0  2 execute-shell (linux x86_64)"),
        "{lines:#?}"
    );
    assert!(lines[23].contains("q quit"), "{lines:#?}");
}

#[test]
fn any_size_is_drawn() {
    for (width, height) in [
        (1, 1),
        (2, 2),
        (10, 3),
        (20, 5),
        (30, 15),
        (40, 16),
        (46, 17),
        (80, 24),
        (300, 100),
    ] {
        let mut app = app(usual());
        press(&mut app, "j");
        for keys in ["", "\t", "?", "xa", "n"] {
            press(&mut app, keys);
            drawn(&mut app, width, height);
        }
        app.press(KeyEvent::new(KeyCode::Tab, KeyModifiers::NONE));
        drawn(&mut app, width, height);
    }
    // A low one shows the part that has the keys.
    let mut app = app(usual());
    let lines = drawn(&mut app, 30, 8);
    assert_eq!(lines[3], " running  hello 7  task 0-exec", "{lines:#?}");
    app.press(KeyEvent::new(KeyCode::Tab, KeyModifiers::NONE));
    assert!(drawn(&mut app, 30, 8)[2].starts_with(">QUEUES"));
}

/// What comes this far has been cleaned; if something has not, the cells still hold nothing that steers.
#[test]
fn hostile_texts_reach_no_cell() {
    let evil = "\x1b[2J\x1b]0;x\x07\u{9b}31m\r\nnext\0\u{7f}";
    let mut hostile = view(vec![row("a", 1, Some(State::Error), evil)]);
    hostile.mount = evil.into();
    hostile.away = Some(evil.into());
    hostile.queues[0].why = evil.into();
    hostile.nodes[0].version = evil.into();
    let mut app = app(hostile);
    press(&mut app, "j");
    for width in [20, 80] {
        for line in drawn(&mut app, width, 24) {
            assert!(!line.chars().any(char::is_control), "{line:?}");
        }
    }
}

#[test]
fn without_colours_there_are_none() {
    let mut app = app(usual());
    press(&mut app, "j");
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    for (colour, some) in [(false, false), (true, true)] {
        terminal
            .draw(|frame| draw(frame, &mut app, Look { colour }, NOW))
            .unwrap();
        let cells = &terminal.backend().buffer().content;
        let coloured = cells
            .iter()
            .any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset);
        assert_eq!(coloured, some);
    }
}

#[test]
fn nothing_is_done_without_a_build_and_a_yes() {
    let mut app = app(usual());
    assert_eq!(press(&mut app, "a"), None);
    assert!(matches!(&app.said, Some((false, text)) if text.contains("choose a build")));
    press(&mut app, "ja");
    let Mode::Confirm { question, .. } = &app.mode else {
        panic!("no question")
    };
    assert_eq!(question, "Abort build hello 7?");
    let lines = drawn(&mut app, 80, 24);
    assert!(
        lines.iter().any(|line| line.contains("Abort build hello 7?")),
        "{lines:#?}"
    );
    press(&mut app, "n");
    assert!(matches!(&app.said, Some((true, text)) if text == "abort: left alone") && app.doing().is_none());
    // What is confirmed is what was asked, wherever the build stands by now.
    press(&mut app, "jp");
    let Mode::Confirm { question, order, .. } = &app.mode else {
        panic!("no question")
    };
    assert_eq!(
        (question.as_str(), order.commit.as_str()),
        ("Approve commit c0ffee for build pulls 2?", "c0ffee")
    );
    // Nor does a key that was pressed before the question stood there, also not as a no or for the rest of the screen.
    press(&mut app, "copy and q");
    assert!(app.doing().is_none() && app.asks_anew());
    drawn(&mut app, 80, 24);
    press(&mut app, "y");
    assert_eq!(app.doing(), Some("approve pulls 2"));
    assert_eq!(press(&mut app, "q"), Some(Leave::Quit));
}

#[test]
fn a_build_that_leaves_is_not_chosen_any_more() {
    let mut app = app(usual());
    press(&mut app, "jjj");
    assert_eq!(app.chosen, Some(Key::new("slow", 3)));
    // The view that is shared has no builds.
    app.refresh();
    assert_eq!(app.chosen, None);
    press(&mut app, "a");
    assert!(!matches!(app.mode, Mode::Confirm { .. }));
}

#[test]
fn a_long_list_is_scrolled() {
    let rows = (1..500).map(|n| row("a", n, Some(State::Pending), "")).collect();
    let mut app = app(view(rows));
    drawn(&mut app, 80, 24);
    for _ in 0..3 {
        app.press(KeyEvent::new(KeyCode::PageDown, KeyModifiers::NONE));
    }
    let lines = drawn(&mut app, 80, 24);
    assert!(
        lines.iter().any(|line| line.contains(&format!(" a {}", app.at + 1))),
        "{lines:#?}"
    );
    press(&mut app, "G");
    let lines = drawn(&mut app, 80, 24);
    assert!(lines.iter().any(|line| line.contains(" a 499")), "{lines:#?}");
    press(&mut app, "g");
    assert!(drawn(&mut app, 80, 24)[3].contains(" a 1"));
}

#[test]
fn a_tree_that_is_away_or_silent_is_said() {
    let mut gone = usual();
    gone.away = Some("/ci: Transport endpoint is not connected".into());
    let mut app = app(gone);
    assert_eq!(
        drawn(&mut app, 80, 24)[1],
        " the tree is away: /ci: Transport endpoint is not connected"
    );
}

/// An app that follows a console of so many lines.
fn following(lines: usize) -> App {
    let mut app = app(usual());
    let nothing = Sight::new(std::env::temp_dir().join("no-such-tree"));
    let follower = Follower::begin(Key::new("a", 1), &nothing).unwrap();
    app.mode = Mode::Console(Console {
        follower,
        back: 0,
        came: 0,
        right: 0,
    });
    log(&app, 0..lines);
    app
}

fn log(app: &App, numbers: std::ops::Range<usize>) {
    let Mode::Console(console) = &app.mode else {
        panic!("no console")
    };
    for n in numbers {
        console.follower.lines().add(format!("line {n}\n").as_bytes());
    }
}

#[test]
fn a_console_that_is_read_stays_where_it_is() {
    let mut app = following(100);
    assert_eq!(drawn(&mut app, 80, 12)[10], "line 99");
    log(&app, 100..110);
    assert_eq!(drawn(&mut app, 80, 12)[10], "line 109");
    press(&mut app, "kkk");
    assert_eq!(drawn(&mut app, 80, 12)[10], "line 106");
    log(&app, 110..150);
    assert_eq!(drawn(&mut app, 80, 12)[10], "line 106");
    press(&mut app, "G");
    assert_eq!(drawn(&mut app, 80, 12)[10], "line 149");
    // From the begin there is no further back, also before it is drawn.
    press(&mut app, "gkb");
    assert_eq!(drawn(&mut app, 80, 12)[1], "line 0");
    // What is not kept can't be shown: the oldest line is.
    log(&app, 150..2150);
    assert_eq!(drawn(&mut app, 80, 12)[1], "line 150");
}

#[test]
fn all_builds_of_a_high_terminal_are_looked_at() {
    let rows: Vec<Row> = (1..500).map(|n| row("a", n, Some(State::Pending), "")).collect();
    let shared = Arc::new(Shared::default());
    shared.show(view(rows));
    let (tell, _told) = sync_channel(1);
    let nothing = Sight::new(std::env::temp_dir().join("no-such-tree"));
    let mut app = App::new(nothing, shared.clone(), tell, Asked::default());
    drawn(&mut app, 80, 300);
    press(&mut app, "jG");
    drawn(&mut app, 80, 300);
    app.refresh();
    assert!(app.room > 200, "{}", app.room);
    let wanted = (1..500).skip(app.first).map(|n| Key::new("a", n)).collect();
    assert!(!shared.want(wanted), "others are looked at");
}
