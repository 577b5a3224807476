//! The checker of the faults finds what it must: a history in which all is well passes, and each
//! kind of violation, planted in it, is refused.

use distcifs_tests::faults::checker::{Kind, Numbers, check};
use distcifs_tests::faults::found::{ARTIFACT_LINES, Build, Found, judge};
use distcifs_tests::faults::history::{Call, History, Recorder};

/// One build of two tasks. The first claimant of the second was stopped and lost its claim.
const HISTORY: &str = "\
1.00 maker n1 begin configure a 1
1.10 maker n1 end ok
1.20 client n1 begin trigger a t1 keyed
1.30 client n1 end Input/output-error
1.40 client n2 begin trigger a t1 keyed
1.50 client n2 end ok 1
2.00 w1 n1 begin next hand
2.10 w1 n1 end ok a.1.0
2.20 w1 n1 begin before a.1.0
2.21 w1 n1 end ok
2.30 w1 n1 begin line a.1.0 w1.1 says hello
2.31 w1 n1 end ok
2.40 w1 n1 begin result a.1.0 w1.1
2.50 w1 n1 end ok
3.00 w1 n1 begin next hand
3.10 w1 n1 end ok a.1.1
3.15 w1 n1 begin line a.1.1 w1.2 says hello
3.16 w1 n1 end ok
3.20 injector - begin fault stop-worker w1
3.25 w1 n1 begin result a.1.1 w1.2
4.00 look n2 begin state a 1
4.01 look n2 end ok running
15.00 w2 n2 begin next hand
15.10 w2 n2 end ok a.1.1
15.20 w2 n2 begin before a.1.1
15.21 w2 n2 end ok w1.1
15.30 w2 n2 begin result a.1.1 w2.1
15.40 w2 n2 end ok
20.00 look n2 begin state a 1
20.01 look n2 end ok success
29.00 injector - end ok
29.10 w1 n1 end cp:-Stale-file-handle
30.00 maker n2 begin configure a 2
30.10 maker n2 end ok
31.00 look n1 begin config a
31.01 look n1 end ok 2
32.00 look n1 begin state a 1
32.01 look n1 end ok success
";

fn build() -> Build {
    Build {
        state: "success".into(),
        why: String::new(),
        token: "t1".into(),
        console: "w1.1 says hello\nw1.2 says hello\nw2.1 says hello\n".into(),
        artifacts: [(0, Ok("w1.1".into())), (1, Ok("w2.1".into()))].into(),
        steps: vec!["w1.1".into(), "w2.1".into()],
        tasks: Vec::new(),
    }
}

fn found(build: Build) -> Found {
    Found {
        builds: [(("a".to_owned(), 1), build)].into(),
        configs: [("a".to_owned(), "2".to_owned())].into(),
        tickets: Vec::new(),
    }
}

fn kinds(history: &str, found: &Found) -> Vec<Kind> {
    let mut kinds: Vec<Kind> = check(&History::parse(history), found).iter().map(|v| v.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

/// What is told is changed; what is there is not.
#[track_caller]
fn planted_in_history(from: &str, to: &str, kind: Kind) {
    assert_eq!(HISTORY.matches(from).count(), 1, "{from:?} stands there once");
    let history = HISTORY.replace(from, to);
    assert_eq!(kinds(&history, &found(build())), [kind], "{from:?} -> {to:?}");
}

/// What is there is changed; what is told is not.
#[track_caller]
fn planted_in_found(change: impl FnOnce(&mut Found), kind: Kind) {
    let mut found = found(build());
    change(&mut found);
    assert!(kinds(HISTORY, &found).contains(&kind), "{found:?}");
}

fn the_build(found: &mut Found) -> &mut Build {
    found.builds.values_mut().next().expect("there is one")
}

#[test]
fn a_history_in_which_all_is_well_passes() {
    assert_eq!(check(&History::parse(HISTORY), &found(build())), []);
    let numbers = Numbers::of(&History::parse(HISTORY));
    assert_eq!((numbers.triggers, numbers.triggers_failed, numbers.claims), (1, 1, 3));
    assert_eq!((numbers.results, numbers.results_failed, numbers.lines), (2, 1, 2));
    assert_eq!((numbers.configs, numbers.looks, numbers.faults), (2, 4, 1));
}

#[test]
fn two_who_published_are_found() {
    planted_in_history(
        "29.10 w1 n1 end cp:-Stale-file-handle",
        "29.10 w1 n1 end ok",
        Kind::TwoPublished,
    );
    planted_in_found(
        |found| the_build(found).steps = vec!["w1.1".into(), "w1.2".into()],
        Kind::TwoPublished,
    );
    planted_in_found(
        |found| _ = the_build(found).artifacts.insert(1, Ok("w1.2".into())),
        Kind::TwoPublished,
    );
}

/// Who was told that its claim is lost must not have published, even if nobody else did.
#[test]
fn one_who_published_after_its_claim_is_found() {
    let history = HISTORY.replace("15.40 w2 n2 end ok\n", "");
    let mut found = found(build());
    let build = the_build(&mut found);
    build.artifacts.insert(1, Ok("w1.2".into()));
    build.steps[1] = "w1.2".into();
    assert_eq!(kinds(&history, &found), [Kind::LostPublished]);
}

#[test]
fn what_is_lost_is_found() {
    planted_in_found(|found| found.builds.clear(), Kind::LostTrigger);
    planted_in_found(|found| the_build(found).token = "t2".into(), Kind::LostTrigger);
    planted_in_history(
        "32.01 look n1 end ok success",
        "32.01 look n1 end No-such-file",
        Kind::LostTrigger,
    );
    let unmounted = HISTORY.replace("32.01 look n1 end ok success", "32.01 look n1 end No-such-file")
        + "25.00 injector.2 - begin fault kill-mount n1\n32.50 injector.2 - end ok\n";
    assert_eq!(kinds(&unmounted, &found(build())), []);
    planted_in_found(|found| _ = the_build(found).artifacts.remove(&1), Kind::LostResult);
    planted_in_found(|found| the_build(found).console.truncate(32), Kind::LostLine);
    planted_in_found(
        |found| the_build(found).console = "w1.1 says hello\nw2.1 says hello\n".into(),
        Kind::LostLine,
    );
    planted_in_found(
        |found| _ = found.configs.insert("a".into(), "1".into()),
        Kind::LostConfig,
    );
}

#[test]
fn what_is_there_once_too_often_is_found() {
    planted_in_found(
        |found| {
            let again = the_build(found).clone();
            found.builds.insert(("a".into(), 2), again);
        },
        Kind::ExtraBuild,
    );
    planted_in_found(|found| the_build(found).token = "nobody's".into(), Kind::ExtraBuild);
    planted_in_found(
        |found| the_build(found).console.push_str("w1.1 says hello\n"),
        Kind::LineTwice,
    );
}

#[test]
fn what_never_ended_is_found() {
    for word in ["running", "error", "failure", "aborted", ""] {
        planted_in_found(|found| the_build(found).state = word.into(), Kind::NotEnded);
    }
    planted_in_found(|found| found.tickets.push("hand/a.1.1".into()), Kind::TicketLeft);
}

#[test]
fn bytes_that_differ_are_found() {
    let damaged = Err("line 7 is of another".to_owned());
    planted_in_found(|found| _ = the_build(found).artifacts.insert(1, damaged), Kind::Differs);
    planted_in_found(|found| the_build(found).artifacts.clear(), Kind::Differs);
    planted_in_history("begin result a.1.1 w2.1", "begin result a.1.1 w2.9", Kind::Differs);
    let whole = "w1.1\n".repeat(ARTIFACT_LINES);
    assert_eq!(judge(&whole), Ok("w1.1".to_owned()));
    let bad = [
        whole.replacen("w1.1\nw1.1", "w1.1\nw1.2", 1),
        whole.replacen("w1.1\n", "", 1),
        whole.trim_end().to_owned(),
        whole.replacen("\nw", "\n\0", 1),
        String::new(),
    ];
    assert!(bad.iter().all(|text| judge(text).is_err()));
}

#[test]
fn an_attempt_that_began_elsewhere_is_found() {
    planted_in_history(
        "15.21 w2 n2 end ok w1.1",
        "15.21 w2 n2 end ok w1.1,w1.2",
        Kind::BeganElsewhere,
    );
    planted_in_history("15.21 w2 n2 end ok w1.1", "15.21 w2 n2 end ok", Kind::BeganElsewhere);
}

#[test]
fn what_goes_back_is_found() {
    planted_in_history(
        "32.01 look n1 end ok success",
        "32.01 look n1 end ok running",
        Kind::WentBack,
    );
    planted_in_history(
        "20.01 look n2 end ok success",
        "20.01 look n2 end ok error",
        Kind::WentBack,
    );
    // Within a second another mount may not know.
    let soon = HISTORY
        .replace("32.00 look n1", "20.50 late n1")
        .replace("32.01 look n1 end ok success", "20.51 late n1 end ok running");
    assert_eq!(kinds(&soon, &found(build())), []);
}

#[test]
fn an_old_configuration_is_found() {
    planted_in_history("31.01 look n1 end ok 2", "31.01 look n1 end ok 1", Kind::LostConfig);
    planted_in_history("31.01 look n1 end ok 2", "31.01 look n1 end ok 7", Kind::LostConfig);
    // A write that nobody knows of may be seen, or not.
    let unknown = HISTORY.replace("30.10 maker n2 end ok", "30.10 maker n2 end Input/output-error");
    for version in ["1", "2"] {
        let mut found = found(build());
        found.configs.insert("a".into(), version.into());
        let history = unknown.replace("31.01 look n1 end ok 2", &format!("31.01 look n1 end ok {version}"));
        assert_eq!(kinds(&history, &found), [], "{version}");
    }
}

#[test]
fn what_waited_too_long_is_found() {
    planted_in_history(
        "32.01 look n1 end ok success",
        "49.00 look n1 end ok success",
        Kind::Waited,
    );
    planted_in_history("15.40 w2 n2 end ok", "49.00 w2 n2 end ok", Kind::Waited);
    planted_in_history("fault stop-worker w1", "fault stop-worker w7", Kind::Waited);
    let hangs = format!("{HISTORY}5.00 late n2 begin state a 1\n");
    assert_eq!(kinds(&hangs, &found(build())), [Kind::Waited]);
    let stopped = format!("{hangs}4.00 injector.2 - begin fault stop-mount n2\n");
    assert_eq!(kinds(&stopped, &found(build())), []);
    let killed = format!("{hangs}7.00 injector.2 - begin fault kill-worker late\n");
    assert_eq!(kinds(&killed, &found(build())), []);
}

/// A script is on one node, whichever it is: what was stopped there answered later.
#[test]
fn a_script_on_a_stopped_mount_waits_for_it() {
    let slow = format!("{HISTORY}50.00 s0-1-50.00 - begin before a.1.0\n75.00 s0-1-50.00 - end ok \n");
    let found = found(build());
    let waited = |lines: &str| kinds(&format!("{slow}{lines}"), &found).contains(&Kind::Waited);
    let stop = |what: &str, begin: &str, end: &str| {
        format!("{begin} injector.3 - begin fault {what}\n{end} injector.3 - end ok\n")
    };
    assert!(waited(""));
    assert!(!waited(&stop("stop-mount n2", "50.02", "74.72")));
    assert!(!waited(&stop("stop-worker execute-shell-n0-7", "50.02", "74.72")));
    assert!(waited(&stop("stop-worker hand-n0-7", "50.02", "74.72")));
    // A part of it on one node and a part on another.
    let halves = stop("stop-mount n0", "50.02", "58.00") + &stop("stop-mount n1", "58.00", "66.00");
    assert!(waited(&halves));
}

/// A script that never ends what it began was killed with its worker or its mount, if one was killed then.
#[test]
fn a_script_that_was_killed_waits_for_nothing() {
    let hangs = format!(
        "{HISTORY}50.00 s0-1-50.00 - begin before a.1.0\n99.00 look n1 begin state a 1\n99.01 look n1 end ok success\n"
    );
    let found = found(build());
    let waited = |line: &str| kinds(&format!("{hangs}{line}"), &found).contains(&Kind::Waited);
    assert!(waited(""));
    for (line, excused) in [
        (
            "49.95 injector.3 - begin fault kill-mount n1\n50.20 injector.3 - end ok\n",
            true,
        ),
        (
            "50.02 injector.3 - begin fault kill-worker execute-shell-n0-7\n50.03 injector.3 - end ok\n",
            true,
        ),
        (
            "50.02 injector.3 - begin fault kill-worker hand-n0-7\n50.03 injector.3 - end ok\n",
            false,
        ),
        (
            "40.00 injector.3 - begin fault kill-mount n1\n41.00 injector.3 - end ok\n",
            false,
        ),
        (
            "70.00 injector.3 - begin fault kill-mount n1\n71.00 injector.3 - end ok\n",
            false,
        ),
    ] {
        assert_eq!(waited(line), !excused, "{line}");
    }
}

/// What is written is what is read.
#[test]
fn a_history_is_written_and_read() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let recorder = Recorder::new(&folder.path().join("history"));
    let call = Call::State {
        job: "a".into(),
        build: 7,
    };
    let told = recorder.call("look", "n1", &call, || Ok("running"));
    assert_eq!(told.ok(), Some("running"));
    let refused = std::io::Error::from_raw_os_error(libc::ESTALE);
    assert!(
        recorder
            .call("look", "n1", &call, || Err::<String, _>(refused))
            .is_err()
    );
    recorder.begin("other", "n2", &call);
    let history = History::read(recorder.path());
    assert_eq!(history.operations.len(), 3);
    assert!(history.operations.iter().all(|operation| operation.call == call));
    assert_eq!(history.operations[0].told(), Some("running"));
    assert!(history.operations[1].told().is_none() && history.operations[1].end.is_some());
    assert_eq!(
        (history.operations[2].who.as_str(), &history.operations[2].end),
        ("other", &None)
    );
    for line in [
        "1.00 a n end ok",
        "1.00 a n begin jump a",
        "hello",
        "1 a n begin config a",
        "1.00 a n middle",
    ] {
        assert!(std::panic::catch_unwind(|| History::parse(line)).is_err(), "{line}");
    }
}

/// Three builds of a group of two, of a job whose builds add two tasks each.
const LINE: &str = "\
1.00 t n1 begin trigger line t1 keyed
1.10 t n1 end ok 1
1.20 t n1 begin trigger line t2 keyed
1.30 t n1 end ok 2
1.40 t n1 begin trigger line t3 keyed
1.50 t n1 end ok 3
2.00 s1 - begin before line.1.0
2.01 s1 - end ok
2.10 s2 - begin before line.2.0
2.11 s2 - end ok
5.00 s3 - begin before line.1.2
5.01 s3 - end ok s1,x1
5.20 s4 - begin before line.3.0
5.21 s4 - end ok
6.00 s5 - begin before line.2.2
6.01 s5 - end ok s2,x2
7.00 s6 - begin before line.3.2
7.01 s6 - end ok s4,x4
";

/// A build that added what it must, as the history has it.
fn added(token: &str, steps: [&str; 3]) -> Build {
    Build {
        state: "success".into(),
        token: token.into(),
        console: steps.map(|token| format!("{token} says hello\n")).concat(),
        artifacts: steps
            .iter()
            .zip(0..)
            .map(|(token, task)| (task, Ok((*token).into())))
            .collect(),
        steps: steps.map(str::to_owned).to_vec(),
        tasks: ["add", "x", "y"].map(str::to_owned).to_vec(),
        why: String::new(),
    }
}

/// What is left of those three, of this job.
fn grouped(job: &str) -> Found {
    let builds = [
        ("t1", ["s1", "x1", "s3"]),
        ("t2", ["s2", "x2", "s5"]),
        ("t3", ["s4", "x4", "s6"]),
    ];
    let builds = builds.iter().zip(1..);
    Found {
        builds: builds
            .map(|((token, steps), n)| ((job.to_owned(), n), added(token, *steps)))
            .collect(),
        ..Found::default()
    }
}

#[test]
fn more_of_a_group_than_its_limit_are_found() {
    assert_eq!(check(&History::parse(LINE), &grouped("line")), []);
    let early = LINE.replace("5.20 s4", "4.50 s4").replace("5.21 s4", "4.51 s4");
    assert_eq!(kinds(&early, &grouped("line")), [Kind::TooMany]);
}

#[test]
fn what_a_newer_build_did_not_end_is_found() {
    // One after another, as this group has one place.
    let history = LINE.replace("line", "push");
    let history = history.replace("6.00 s5", "5.10 s5").replace("6.01 s5", "5.11 s5");
    let history = history.replace("2.10 s2", "5.02 s2").replace("2.11 s2", "5.03 s2");
    let ended = |number: u64, why: &str| {
        let mut found = grouped("push");
        let build = found.builds.get_mut(&("push".to_owned(), number)).expect("it is there");
        (build.state, build.why) = ("aborted".into(), why.into());
        kinds(&history, &found)
    };
    assert_eq!(ended(2, "superseded by build 3"), []);
    assert_eq!(ended(2, "superseded by build 1"), [Kind::NotSuperseded]);
    assert_eq!(ended(2, "superseded by build 4"), [Kind::NotSuperseded]);
    assert_eq!(ended(2, "aborted"), [Kind::NotSuperseded]);
    assert_eq!(ended(3, "superseded by build 4"), [Kind::NotSuperseded]);
}

#[test]
fn tasks_that_were_not_added_once_are_found() {
    for tasks in [&["add"][..], &["add", "x"], &["add", "x", "y", "x", "y"]] {
        let mut found = grouped("line");
        the_build(&mut found).tasks = tasks.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(kinds(LINE, &found), [Kind::Added], "{tasks:?}");
    }
    let mut found = grouped("line");
    let build = the_build(&mut found);
    build.artifacts.remove(&2);
    build.steps.pop();
    assert!(kinds(LINE, &found).contains(&Kind::Added));
}
