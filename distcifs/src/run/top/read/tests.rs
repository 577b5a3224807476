//! A tree of plain files, read.

use std::fs::{create_dir_all, write};
use std::os::unix::fs::symlink;

use super::*;

/// A tree of plain files.
fn tree() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let put = |path: &str, text: &str| {
        create_dir_all(root.join(path).parent().unwrap()).unwrap();
        write(root.join(path), text).unwrap();
    };
    put("status", "store folder /s\nnode vm\nsession connected\n");
    put("nodes/vm", "node vm\nversion 1\nwaiting execute-shell 2 linux\n");
    put(
        "metrics",
        "distcifs_tickets{queue=\"execute-shell\",state=\"open\"} 2\n\
         distcifs_tickets{queue=\"execute-shell\",state=\"claimed\"} 1\n",
    );
    for (build, state) in [
        ("a/builds/1", "failure"),
        ("b/builds/3", "running"),
        ("b/builds/2", "held"),
    ] {
        put(&format!("jobs/{build}/state"), &format!("{state}\n"));
        put(&format!("jobs/{build}/why"), "because \x1b[31mof\n");
        put(&format!("jobs/{build}/commit"), "c0ffee\n");
    }
    symlink("1", root.join("jobs/a/builds/latest")).unwrap();
    symlink("3", root.join("jobs/b/builds/latest")).unwrap();
    put(
        "jobs/b/builds/3/tasks/0-execute-shell/why",
        "needs labels gpu; 2 workers wait, none has them\n",
    );
    put("tickets/build-control/b.3.control/claim", "");
    put("tickets/execute-shell/b.3.0/labels", "gpu\n");
    folder
}

#[test]
fn everything_is_seen_at_once() {
    let folder = tree();
    let mut reader = Reader::new(Sight::new(folder.path().to_owned()));
    let view = reader.once(Instant::now() + Duration::from_secs(60)).unwrap();
    let rows: Vec<_> = view.rows.iter().map(|row| (row.key.clone(), row.state)).collect();
    assert_eq!(
        rows,
        [
            (Key::new("b", 3), Some(State::Running)),
            (Key::new("b", 2), Some(State::Held)),
            (Key::new("a", 1), Some(State::Failure)),
        ]
    );
    let words = view.rows[1].words.clone().unwrap();
    assert_eq!(
        (words.why.as_str(), words.commit.as_str()),
        ("because \\u{1b}[31mof", "c0ffee")
    );
    assert_eq!((view.fact("node"), view.nodes.len(), view.counts.unread), ("vm", 1, 0));
    let queue = &view.queues[0];
    assert_eq!((queue.open, queue.claimed, queue.workers), (2, 1, 2));
    assert_eq!(queue.oldest, "b.3.0");
    assert_eq!(queue.why, "needs labels gpu; 2 workers wait, none has them");
}

#[test]
fn time_that_runs_out_leaves_something_unread() {
    let folder = tree();
    for n in 0..3000 {
        create_dir_all(folder.path().join(format!("jobs/j{n}"))).unwrap();
    }
    let mut reader = Reader::new(Sight::new(folder.path().to_owned()));
    let view = reader.once(Instant::now()).unwrap();
    assert_eq!(view.counts.jobs, 3002);
    let mut reader = Reader::new(Sight::new(folder.path().to_owned()));
    reader.round(&[], Duration::ZERO).unwrap();
    assert!(reader.view().counts.unread >= 3002);
}

#[test]
fn a_tree_that_goes_is_away_and_comes_back() {
    let folder = tree();
    let (to, told) = std::sync::mpsc::sync_channel(8);
    let shared = Arc::new(Shared::default());
    let reader = Reader::new(Sight::new(folder.path().to_owned()));
    let all = shared.clone();
    let thread = std::thread::spawn(move || reader.follow(&all, &told));
    let until = |what: &str, seen: &dyn Fn(&View) -> bool| {
        let begun = Instant::now();
        while !seen(&shared.view()) {
            assert!(begun.elapsed() < Duration::from_secs(20), "{what}: {:?}", shared.view());
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    until("there", &|view| view.ready && view.rows.len() == 3);
    std::fs::rename(folder.path().join("jobs"), folder.path().join("gone")).unwrap();
    until("away", &|view| view.away.is_some());
    std::fs::rename(folder.path().join("gone"), folder.path().join("jobs")).unwrap();
    until("back", &|view| view.away.is_none());
    to.send(Told::Line("build a/2 running".into())).unwrap();
    until("an event", &|view| view.counts.running == 2);
    drop(to);
    thread.join().unwrap();
}

/// A store that is away for a moment is no CI in which nothing runs.
#[test]
fn a_listing_that_fails_is_told_and_tried_again() {
    let folder = tree();
    let fault = || Err(Fault::Odd("Input/output error".into()));
    let (none, later) = (|| Ok((Vec::new(), false)), Instant::now() + Duration::from_secs(3600));
    let told = [
        (fault(), none(), "jobs can't be listed: Input/output error"),
        (
            none(),
            fault(),
            "tickets/build-control can't be listed: Input/output error",
        ),
    ];
    for (jobs, builds, why) in told {
        let mut reader = Reader::new(Sight::new(folder.path().to_owned()));
        reader.listed(jobs, builds).unwrap();
        // It was listed, and is not yet to be listed again.
        (reader.list, reader.listed_at) = (false, Some(later));
        assert_eq!(reader.once(later).unwrap_err(), Fault::Odd(why.into()));
        reader.listed_at = None;
        let view = reader.once(later).unwrap();
        assert_eq!((view.counts.jobs, view.rows.len()), (2, 3));
    }
    let mut reader = Reader::new(Sight::new(folder.path().to_owned()));
    reader.listed(Err(Fault::Closed), Err(Fault::Closed)).unwrap();
    (reader.list, reader.listed_at) = (false, Some(later));
    let view = reader.once(later).unwrap();
    assert!(view.counts.unlisted, "{view:?}");
    assert!(super::super::page::counted(&view).contains("closed to you"));
}

/// "In pieces of 50 ms": so are nodes and queues, however many there are, and `--once` says which it did not come to.
#[test]
fn nodes_and_queues_are_looked_at_in_pieces() {
    let folder = tree();
    for n in 0..40 {
        write(folder.path().join(format!("nodes/n{n:02}")), "version 1\n").unwrap();
    }
    let mut reader = Reader::new(Sight::new(folder.path().to_owned()));
    reader.round(&[], Duration::ZERO).unwrap();
    assert!(
        !reader.is_idle() && reader.view().nodes.is_empty(),
        "{:?}",
        reader.view()
    );
    let begun = Instant::now();
    while !reader.is_idle() {
        assert!(begun.elapsed() < Duration::from_secs(60));
        reader.round(&[], Duration::from_micros(1)).unwrap();
    }
    let view = reader.view();
    assert_eq!((view.nodes.len(), view.queues.len(), view.counts.unread), (41, 1, 0));

    // Time that runs out with one of them.
    let mut reader = Reader::new(Sight::new(folder.path().to_owned()));
    reader.round(&[], Duration::ZERO).unwrap();
    let (before, late) = (reader.view().counts.unread, reader.late.take().unwrap());
    reader.take_late(late);
    let view = reader.view();
    assert_eq!((view.nodes.len(), view.counts.unread), (1, before + 41));
}

/// Holds a file by a lease, so that nobody else opens it without waiting.
#[expect(unsafe_code, reason = "neither nix nor rustix has leases")]
fn held(path: &std::path::Path) -> File {
    use std::os::fd::AsRawFd;

    use nix::errno::Errno;
    use nix::libc;
    /// fcntl(2) has it; libc has not, on most systems.
    const F_SETSIG: libc::c_int = 10;
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    // SAFETY: the descriptor is open for as long as `file`, and no call takes a pointer.
    unsafe {
        // By a signal that nobody minds.
        Errno::result(libc::fcntl(file.as_raw_fd(), F_SETSIG, libc::SIGURG)).unwrap();
        Errno::result(libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK)).unwrap();
    }
    file
}

/// "What can't be read just now holds up nothing else, and is named".
#[test]
fn what_can_not_be_read_is_named_and_holds_up_nothing() {
    let folder = tree();
    let new = || Reader::new(Sight::new(folder.path().to_owned()));
    let later = Instant::now() + Duration::from_secs(60);
    for (file, named) in [("status", "status: "), ("metrics", "metrics: ")] {
        let lease = held(&folder.path().join(file));
        let mut reader = new();
        let why = reader.once(later).unwrap_err().to_string();
        assert!(why.starts_with(named), "{why}");
        let view = reader.view();
        assert_eq!((view.rows.len(), view.nodes.len()), (3, 1), "{file}");
        drop(lease);
        assert!(new().once(later).is_ok(), "{file}");
    }
    let lease = held(&folder.path().join("nodes/vm"));
    let view = new().once(later).unwrap();
    assert_eq!((view.nodes.len(), view.nodes[0].name.as_str()), (1, "vm"));
    assert_eq!(view.counts.unread, 1);
    drop(lease);
    let lease = held(&folder.path().join("jobs/a/builds/1/why"));
    let mut reader = new();
    let words = reader.once(later).unwrap().rows[2].words.clone();
    assert!(words.is_none(), "{words:?}");
    drop(lease);
    let words = reader.once(later).unwrap().rows[2].words.clone();
    assert_eq!(words.unwrap().commit, "c0ffee", "it is read again");
}

/// What is no stream is none, and whoever hears nothing is told why.
#[test]
fn events_are_read_of_a_file_alone() {
    let folder = tree();
    let events = folder.path().join(".events");
    let sight = Sight::new(folder.path().to_owned());
    let heard = |put: &dyn Fn()| {
        let _gone = std::fs::remove_file(&events);
        put();
        let (to, told) = std::sync::mpsc::sync_channel(8);
        let sight = sight.clone();
        let thread = std::thread::spawn(move || listen(&sight, &to));
        let first = told.recv_timeout(Duration::from_secs(20)).expect("it waits");
        let second = matches!(first, Told::Listening).then(|| told.recv().unwrap());
        drop(told);
        thread.join().unwrap();
        (first, second)
    };
    let lost = |told| matches!(told, (Told::Lost(Some(why)), None) if why.starts_with(".events: "));
    assert!(lost(heard(&|| {})));
    assert!(lost(heard(&|| nix::unistd::mkfifo(
        &events,
        nix::sys::stat::Mode::S_IRWXU
    )
    .unwrap())));
    let told = heard(&|| write(&events, "build a/2 running\n").unwrap());
    assert!(matches!(told, (Told::Listening, Some(Told::Line(line))) if line == "build a/2 running"));
}
