//! `distcifs top` on a real mount: what it prints once, and its screen on a terminal, driven by keys and signals.

use std::fs;

use distcifs_tests::process::signal;
use distcifs_tests::programs::distcifs;
use distcifs_tests::terminal::Terminal;
use distcifs_tests::wait::{USUAL, look_for};
use distcifs_tests::{Mount, Worker, wait_for};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// A commit that a stranger asks for.
const COMMIT: &str = "abababababababababababababababababababab";

/// What a script writes that would clear the screen, set the title and turn letters around.
const HOSTILE: &str = r"printf '\033[31mred\033[0m \033]0;title\007 \302\233\062J \342\200\256end\n'";

/// A mount where one build runs until `$OUT/go` is there, and one waits for a label that nobody has.
fn busy() -> (Mount, Vec<Worker>) {
    let mount = Mount::new();
    let workers = Worker::usual(&mount, 2);
    let go = mount.out().join("go");
    let script = format!("{HOSTILE}\nuntil [ -e {} ]; do sleep 0.05; done\n", go.display());
    mount.shell_job("slow", &[&script]);
    let gpu = json!({ "type": "execute-shell", "labels": ["gpu"], "params": { "script": "true" } });
    mount.job_of("gpu", &[gpu]);
    mount.trigger("slow", "");
    mount.trigger("gpu", "");
    wait_for("one that runs, and one that waits", USUAL, || {
        mount.why("slow", 1).contains("runs on") && mount.why("gpu", 1).contains("gpu")
    });
    (mount, workers)
}

/// `distcifs top` on a terminal.
fn screen(mount: &Mount, environment: &[(&str, &str)]) -> Terminal {
    let program = distcifs();
    let words = [program.to_str().expect("text"), "top", mount.root_text()];
    Terminal::start(&words, &mount.out(), environment, 80, 24)
}

fn state(mount: &Mount, job: &str) -> String {
    mount.read(&format!("jobs/{job}/builds/1/state"))
}

/// "`--once` prints and ends (also when stdout is no terminal), `--json` for programs", for the mount at hand too.
#[test]
fn it_is_printed_once() {
    let (mount, _workers) = busy();
    for command in [
        "distcifs top --once",
        "distcifs top",
        "cd /; distcifs top --once \"$M\"",
    ] {
        let page = mount.run(command);
        for part in [
            "running",
            "  slow 1  ",
            "  gpu 1  ",
            "execute-shell  1 open, 1 claimed",
            "gpu.1.0 for ",
        ] {
            assert!(page.contains(part), "{command}: {part:?} is not in:\n{page}");
        }
        let waits = mount.why("gpu", 1);
        assert!(page.contains(&waits), "{waits:?} is not in:\n{page}");
    }
    let page: Value = serde_json::from_str(&mount.run("distcifs top --json")).expect("JSON");
    let build = |job: &str| {
        let builds = page["builds"].as_array().expect("a list");
        builds
            .iter()
            .find(|build| build["job"] == job)
            .expect("it is there")
            .clone()
    };
    assert_eq!(
        (&build("slow")["state"], &build("slow")["build"]),
        (&json!("running"), &json!(1))
    );
    assert!(build("slow")["since"].as_u64() > Some(1_700_000_000_000), "{page:#}");
    assert_eq!(build("gpu")["why"], json!(mount.why("gpu", 1)));
    let queues = page["queues"].as_array().expect("a list");
    let shell = queues
        .iter()
        .find(|queue| queue["name"] == "execute-shell")
        .expect("it is there");
    assert_eq!((&shell["open"], &shell["claimed"]), (&json!(1), &json!(1)), "{page:#}");
    assert_eq!(page["status"]["jobs"], json!(2));
    assert_eq!(page["nodes"][0]["name"], page["status"]["node"]);
    // What is no mount is named, and so is what it can't be asked of.
    let nothing = mount.sh("distcifs top --once /proc");
    assert!(!nothing.ok() && nothing.stderr.contains("/proc"), "{nothing:?}");
    let cluster = mount.sh("distcifs top zk://a:1/b; exit $?");
    assert!(cluster.stderr.contains("mount"), "{cluster:?}");
}

/// A build is chosen, its console looked at, and aborted; what is refused says why; and the terminal is given back.
#[test]
fn a_build_is_followed_and_aborted_by_keys() {
    let (mount, _workers) = busy();
    let mut top = screen(&mount, &[]);
    top.until("slow 1");
    top.until("arrows choose");
    assert!(!top.is_given_back());
    // Nothing is chosen yet, so nothing is done.
    top.press("a");
    top.until("choose a build first");
    top.press("G");
    wait_for("the build that runs to be chosen", USUAL, || {
        top.press("k");
        top.text().contains("slow 1: ")
    });
    top.press("f");
    top.until(r"red \u{1b}]0;title\u{7} \u{9b}2J \u{202e}end");
    top.press("q");
    top.until("arrows choose");
    top.press("a");
    top.until("Abort build slow 1?");
    top.press("n");
    top.until("abort: left alone");
    assert_eq!(state(&mount, "slow"), "running");
    // Neither what was typed ahead nor what is pasted answers a question that nobody has seen.
    top.press("ayay");
    top.until("Abort build slow 1?");
    top.press("n");
    top.until("abort: left alone");
    top.press("\u{1b}[200~may\u{1b}[201~a");
    top.until("Abort build slow 1?");
    top.press("n");
    top.until("abort: left alone");
    assert!(top.sequences().iter().any(|sequence| sequence == "[?2004h"));
    assert_eq!(state(&mount, "slow"), "running");
    top.press("a");
    top.until("Abort build slow 1?");
    top.press("y");
    top.until("abort slow 1: done");
    assert_eq!(mount.wait_state("slow", 1), "aborted");
    top.until("aborted");
    // The tree says in its own words why it refuses.
    mount.run("echo off > jobs/slow/enabled");
    top.press("r");
    top.until("Retry build slow 1?");
    top.press("y");
    top.until("retry slow 1: refused: ");
    let why = mount.read("jobs/slow/builds/1/ctl.error");
    let shown = why.chars().take(40).collect::<String>();
    assert!(
        top.text().contains(&shown),
        "{shown:?} is not on the screen:\n{}",
        top.text()
    );
    top.resize(40, 10);
    top.until("BUILDS");
    top.resize(120, 40);
    top.until("NODES");
    top.press("q");
    assert_eq!(top.end().code(), Some(0));
    assert!(top.is_given_back());
    assert_eq!(top.odd(), [] as [char; 0], "the terminal got what steers it");
}

/// "Writing exactly the build's commit starts the build": that which was on the screen when it was asked.
#[test]
fn a_held_build_is_approved_by_keys() {
    let mount = Mount::new();
    mount.shell_job("pulls", &["true"]);
    let mut top = screen(&mount, &[("NO_COLOR", "1")]);
    top.until("0 held");
    mount.trigger(
        "pulls",
        &format!("@trust=untrusted\n@ref=refs/pull/2/head\n@commit={COMMIT}"),
    );
    top.until("held");
    top.until("pulls 1");
    top.press("j");
    top.until("ref refs/pull/2/head; commit");
    top.press("p");
    top.until(&format!("Approve commit {COMMIT}"));
    top.press("y");
    top.until("approve pulls 1: done");
    wait_for("it to be approved", USUAL, || state(&mount, "pulls") == "pending");
    top.until("pending");
    top.press("\u{3}");
    assert_eq!(top.end().code(), Some(0));
    let coloured = |sequence: &&String| {
        let numbers = sequence.strip_prefix('[').and_then(|rest| rest.strip_suffix('m'));
        let colours = |number: &str| {
            number
                .parse()
                .is_ok_and(|number: u32| matches!(number, 30..=38 | 40..=48 | 90..=107))
        };
        numbers.is_some_and(|numbers| numbers.split(';').any(colours))
    };
    assert_eq!(top.sequences().iter().find(coloured), None, "NO_COLOR");
}

/// "Terminal restored on SIGTERM, SIGINT, SIGTSTP."
#[test]
fn signals_give_the_terminal_back() {
    let mount = Mount::new();
    mount.shell_job("a", &["true"]);
    for (number, name) in [
        (Signal::SIGTERM, "TERM"),
        (Signal::SIGINT, "INT"),
        (Signal::SIGHUP, "HUP"),
    ] {
        let mut top = screen(&mount, &[]);
        top.until("arrows choose");
        top.signal(number);
        assert_eq!(top.end().code(), Some(128 + number as i32), "{name}");
        assert!(top.is_given_back(), "{name}");
    }
    let mut top = screen(&mount, &[]);
    top.until("arrows choose");
    let stopped = |top: &Terminal| {
        let stat = fs::read_to_string(format!("/proc/{}/stat", top.pid())).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    };
    top.signal(Signal::SIGTSTP);
    wait_for("it to stop", USUAL, || stopped(&top));
    wait_for("the terminal", USUAL, || top.is_given_back());
    top.signal(Signal::SIGCONT);
    top.until("arrows choose");
    top.press("\u{1a}");
    wait_for("it to stop", USUAL, || stopped(&top));
    top.signal(Signal::SIGCONT);
    top.until("arrows choose");
    top.press("q");
    assert_eq!(top.end().code(), Some(0));
    assert!(top.is_given_back());
    let mut poor = screen(&mount, &[("TERM", "dumb")]);
    assert_eq!(poor.end().code(), Some(1));
    poor.until("--once");
}

/// Nobody is left to look at a screen whose terminal is gone, also where no signal says so.
#[test]
fn it_ends_with_its_terminal() {
    let mount = Mount::new();
    mount.shell_job("a", &["true"]);
    let script = "trap '' HUP; exec \"$0\" top \"$1\"";
    let program = distcifs();
    let words = ["sh", "-c", script, program.to_str().expect("text"), mount.root_text()];
    let mut top = Terminal::start(&words, &mount.out(), &[], 80, 24);
    top.until("arrows choose");
    top.hang_up();
    assert_eq!(top.end().code(), Some(128 + Signal::SIGHUP as i32));
}

/// "The screen never hangs on a mount that hangs", and it is new again when that goes on.
#[test]
fn a_mount_that_hangs_is_said_to() {
    let mount = Mount::new();
    mount.shell_job("a", &["true"]);
    let daemon = mount.daemon();
    let mut top = screen(&mount, &[]);
    top.until("0 running");
    signal(daemon, Signal::SIGSTOP);
    let told = wait_told(&top);
    // Keys are answered meanwhile.
    top.press("?");
    let helped = look_for(USUAL, || top.text().contains("any program").then_some(()));
    signal(daemon, Signal::SIGCONT);
    assert!(told && helped.is_some(), "{}", top.text());
    top.press("x");
    top.until("0 running");
    mount.trigger("a", "");
    top.until("1 pending");
    top.press("q");
    assert_eq!(top.end().code(), Some(0));
    // Of a mount that went away too, until it is there again.
    let mut top = screen(&mount, &[]);
    top.until("1 pending");
    mount.kill9();
    top.until("the tree is away");
    mount.remount();
    top.until("1 pending");
    top.press("q");
    assert_eq!(top.end().code(), Some(0));
}

fn wait_told(top: &Terminal) -> bool {
    let said = || top.text().contains("the tree does not answer since").then_some(());
    look_for(USUAL, said).is_some()
}
