//! execute-shell with real processes, on a plain folder laid out like the tree: the streams are fifos.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is not as it should be"
)]

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, geteuid, mkfifo};
use serde_json::{Value, json};

mod told;

/// How long anything may take here, seconds: machines that run tests may be slow.
const PATIENCE: Duration = Duration::from_secs(120);

struct Bench {
    root: PathBuf,
    worker: Child,
}

impl Bench {
    fn new(name: &str) -> Self {
        let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        let queue = root.join("tickets/execute-shell");
        fs::create_dir_all(&queue).unwrap();
        mkfifo(&queue.join(".next"), Mode::S_IRWXU).unwrap();
        let worker = Command::new(env!("CARGO_BIN_EXE_execute-shell"))
            .arg(&root)
            .arg("--state")
            .arg(root.join("state"))
            // Here the scripts are to be whoever runs the tests.
            .args(geteuid().is_root().then_some("--as=root"))
            .spawn()
            .unwrap();
        Bench { root, worker }
    }

    fn ticket(&self, id: &str) -> PathBuf {
        self.root.join("tickets/execute-shell").join(id)
    }

    /// Lays out a ticket and gives it to the worker.
    fn give(&self, id: &str, mut ticket: Value) -> PathBuf {
        ticket["owner"] = geteuid().as_raw().into();
        let folder = self.ticket(id);
        for inner in ["workspace", "artifacts", "build"] {
            fs::create_dir_all(folder.join(inner)).unwrap();
        }
        for inner in ["console", "result", "claim", ".wait"] {
            fs::write(folder.join(inner), "").unwrap();
        }
        fs::write(folder.join("ticket.json"), ticket.to_string()).unwrap();
        let build = json!({ "params": { "ref": "a b", "git-ref": "x" }, "tasks": [{ "type": "execute-shell", "name": "unit" }] });
        fs::write(folder.join("build/build.json"), build.to_string()).unwrap();
        let mut next = OpenOptions::new()
            .write(true)
            .open(self.root.join("tickets/execute-shell/.next"))
            .unwrap();
        next.write_all(format!("{id}\n").as_bytes()).unwrap();
        folder
    }

    /// Runs a script and gives its result and console.
    fn script(&self, id: &str, script: &str) -> (String, String) {
        let folder = self.give(id, json!({ "params": { "script": script } }));
        (result(&folder), console(&folder))
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // First the worker below its keeper: its queue here is a fifo, whose read no signal ends.
        let words = format!("{}\0", self.root.display());
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let pid = entry.file_name().to_string_lossy().parse::<i32>();
            if let Ok(pid) = pid
                && String::from_utf8_lossy(&line).contains(&words)
            {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
            }
        }
        let _ = self.worker.wait();
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn until(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what} did not happen");
        sleep(Duration::from_millis(1));
    }
}

fn result(folder: &Path) -> String {
    let read = || fs::read_to_string(folder.join("result")).unwrap();
    until("a result", || !read().is_empty());
    read()
}

fn console(folder: &Path) -> String {
    fs::read_to_string(folder.join("console")).unwrap()
}

/// Whether a process with these words in its command line lives.
fn lives(words: &str) -> bool {
    let alive = |entry: fs::DirEntry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).replace('\0', " ").contains(words)
    };
    fs::read_dir("/proc").unwrap().flatten().any(alive)
}

/// A ticket whose console takes nothing, and then its file in place of that.
fn without_room(bench: &Bench, id: &str, ticket: Value) -> PathBuf {
    let folder = bench.ticket(id);
    fs::create_dir_all(&folder).unwrap();
    std::os::unix::fs::symlink("/dev/full", folder.join("console")).unwrap();
    bench.give(id, ticket)
}

fn make_room(folder: &Path) {
    let room = folder.with_extension("room");
    fs::write(&room, "").unwrap();
    fs::rename(&room, folder.join("console")).unwrap();
}

/// "A script that begins with `#!` is run by the program that the line names"; "`script_file`, a file of the
/// workspace instead"; what can't begin says why in the console and in the result.
#[test]
fn a_script_is_run_by_the_program_that_it_names() {
    let bench = Bench::new("named");
    let put = |folder: &Path| {
        let workspace = folder.join("workspace");
        fs::create_dir_all(workspace.join("ci it's/empty")).unwrap();
        for (name, text) in [
            ("plain", "echo plain $0; false; echo no"),
            ("bash", "#! /bin/bash\na=(1 2); false; echo ${#a[@]} $-"),
            ("awk", "#!/usr/bin/env -S awk -f\nBEGIN { print \"awk\" }"),
            ("crlf", "#!/bin/sh\necho\r\n"),
            ("bom", "\u{feff}#!/bin/sh\necho no\n"),
            ("gone", "#!/no/such  -x\n"),
            ("gone-too", "#!/usr/bin/env no-such\n"),
        ] {
            fs::write(workspace.join("ci it's").join(name), text).unwrap();
        }
        std::os::unix::fs::symlink("bash", workspace.join("ci it's/link")).unwrap();
        std::os::unix::fs::symlink("ci it's", workspace.join("way")).unwrap();
    };
    let file = |name: &str| json!({ "script_file": format!("ci it's/{name}") });
    for (id, params, status, said) in [
        (
            "lines",
            json!({ "script": ["a='x", "y'", "echo \"$a\""] }),
            "0",
            "x\ny\n",
        ),
        (
            "bash",
            json!({ "script": "#!/bin/bash\na=(1 2)\necho ${#a[@]}\nfalse\necho no" }),
            "1",
            "2\n",
        ),
        (
            "env",
            json!({ "script": "#!/usr/bin/env bash\n[[ $- == *e* ]] && echo e" }),
            "0",
            "e\n",
        ),
        (
            "awk",
            json!({ "script": ["#!/usr/bin/awk -f", "BEGIN { print 6 * 7 }"] }),
            "0",
            "42\n",
        ),
        (
            "no",
            json!({ "script": "#!/no/such\n" }),
            "127",
            "begins with #!/no/such, and there is no such program here",
        ),
        (
            "no-env",
            json!({ "script": "#!/usr/bin/env no-such\n" }),
            "127",
            "there is no program no-such here",
        ),
        ("short", json!({ "script": "#!bash\n" }), "127", "by its whole path"),
        ("f-plain", file("plain"), "1", "plain "),
        ("f-bash", file("bash"), "0", "2 "),
        ("f-awk", file("awk"), "0", "awk\n"),
        ("f-crlf", file("crlf"), "127", "has CR LF at the end of line 2"),
        ("f-bom", file("bom"), "127", "begins with a byte order mark"),
        ("f-gone", file("gone"), "127", "there is no such program here"),
        ("f-too", file("gone-too"), "127", "there is no program no-such here"),
        ("f-none", file("nothing"), "127", "is not in the workspace"),
        ("f-dir", file("empty"), "127", "is no file"),
        ("f-link", file("link"), "127", "links are not followed"),
        (
            "f-way",
            json!({ "script_file": "way/bash" }),
            "127",
            "links are not followed",
        ),
        (
            "both",
            json!({ "script": "x", "script_file": "y" }),
            "error",
            "both script and script_file",
        ),
        (
            "crlf",
            json!({ "script": "a\r\n" }),
            "error",
            "line 1 of the script ends with CR LF",
        ),
    ] {
        put(&bench.ticket(id));
        let folder = bench.give(id, json!({ "params": params }));
        let (result, console) = (result(&folder), console(&folder));
        assert_eq!(result.lines().next(), Some(status), "{id}: {result}{console}");
        assert!(console.contains(said) && !console.contains("no\n"), "{id}: {console}");
        // What kept it from beginning stands in the result too.
        assert!(status != "127" || result.contains(said), "{id}: {result}");
    }
}

/// "What a script writes to its console while the store is away or full waits in a file of the worker's, and
/// stands in the console before the result. The script does not wait."
#[test]
fn a_console_that_takes_nothing_for_a_while_misses_nothing() {
    let bench = Bench::new("full");
    // More than a pipe holds.
    let script = "seq 1 60000; : > ../ended\n";
    let folder = without_room(&bench, "t", json!({ "params": { "script": script } }));
    until("the end of the script", || folder.join("ended").exists());
    assert_eq!(
        fs::read_to_string(folder.join("result")).unwrap(),
        "",
        "it waits for the console"
    );
    make_room(&folder);
    assert_eq!(result(&folder), "0\n");
    let whole: String = (1..=60000).map(|line| format!("{line}\n")).collect();
    assert!(
        console(&folder) == whole,
        "{} bytes of {}",
        console(&folder).len(),
        whole.len()
    );
}

/// "… as many bytes as the console keeps": the daemon cuts there, and says so for one byte more.
#[test]
fn no_more_waits_than_the_console_keeps() {
    let bench = Bench::new("limited");
    let ticket = json!({ "console_limit": 1000, "params": { "script": "yes | head -n 200000; : > ../ended\n" } });
    let folder = without_room(&bench, "t", ticket);
    until("the end of the script", || folder.join("ended").exists());
    make_room(&folder);
    assert_eq!(result(&folder), "0\n");
    assert_eq!(console(&folder).len(), 1001);
}

/// "Else what waited is lost, and the outcome is `error`, with the number of bytes and the reason": a script that ended
/// well is no success of which nobody can read what it said.
#[test]
fn output_that_can_not_be_stored_is_no_success() {
    let bench = Bench::new("dropped");
    // ELOOP: refused, and by nobody's rights.
    let script = "rm ../console; ln -s console ../console; echo gone; mkdir ../ended";
    let result = result(&bench.give("t", json!({ "params": { "script": script } })));
    let lines: Vec<&str> = result.lines().collect();
    assert!(bench.ticket("t").join("ended").exists());
    assert_eq!(lines[0], "error", "{result}");
    let said = "5 bytes of its console could not be stored: can't write the console: ";
    assert!(lines.len() == 2 && lines[1].starts_with(said), "{result}");
}

#[test]
fn results_and_consoles() {
    let bench = Bench::new("results");
    assert_eq!(
        bench.script("a", "echo out; echo err >&2"),
        ("0\n".into(), "out\nerr\n".into())
    );
    assert_eq!(
        bench.script("b", "false; echo not"),
        ("1\nexit 1\n".into(), String::new())
    );
    assert_eq!(bench.script("c", "exit 42").0, "42\nexit 42\n");
    assert_eq!(bench.script("d", "kill -9 $$").0, "137\nkilled by signal 9 (SIGKILL)\n");
    assert_eq!(
        bench.script("e", "cat; cat <<X\nhere\nX\n"),
        ("0\n".into(), "here\n".into())
    );
    assert_eq!(
        bench.script("f", "pwd >&2; ls -l \"$0\" | cut -c1-10").1.lines().last(),
        Some("-rwx------")
    );
    let (result, all) = bench.script("g", "i=0; while [ $i -lt 50000 ]; do echo line $i; i=$((i+1)); done");
    assert_eq!(
        (result.as_str(), all.lines().count(), all.ends_with("line 49999\n")),
        ("0\n", 50_000, true)
    );
}

#[test]
fn the_environment_is_what_the_contract_says() {
    let bench = Bench::new("environment");
    let ticket = json!({ "job": "j", "build": 3, "task": 0, "environment": { "X": "y", "N": 1 },
        "params": { "script": "env", "working_directory": "." } });
    let folder = bench.give("a", ticket);
    assert_eq!(result(&folder), "0\n");
    let console = console(&folder);
    let workspace = format!("WORKSPACE={}", folder.join("workspace").display());
    let artifacts = format!("ARTIFACTS={}", folder.join("artifacts").display());
    let needs = format!("NEEDS={}", folder.join("needs").display());
    for line in [
        "JOB_NAME=j",
        "BUILD_NUMBER=3",
        "TASK_NAME=unit",
        "PARAM_ref=a b",
        "PARAM_git_ref=x",
        "X=y",
        "N=1",
        &workspace,
        &artifacts,
        &needs,
    ] {
        assert!(console.lines().any(|l| l == line), "{line} is missing in {console}");
    }
    assert!(
        !console.contains("CARGO"),
        "the worker's own environment leaks: {console}"
    );
}

#[test]
fn what_cannot_be_run_is_an_error_and_says_why() {
    let bench = Bench::new("errors");
    for (id, ticket, why) in [
        ("a", json!({ "params": {} }), "script is missing"),
        (
            "b",
            json!({ "isolation": "no-such", "params": { "script": "touch /tmp/unconfined" } }),
            "isolation 'no-such'",
        ),
        (
            "c",
            json!({ "params": { "script": ":", "working_directory": "../artifacts" } }),
            "out of the workspace",
        ),
        (
            "d",
            json!({ "params": { "script": ":", "working_directory": "nope" } }),
            "no such folder",
        ),
        (
            "e",
            json!({ "limits": { "memory": 0.5 }, "params": { "script": ":" } }),
            "limits.memory must be a whole number",
        ),
    ] {
        let folder = bench.give(id, ticket);
        let result = result(&folder);
        assert!(result.starts_with("error\n") && result.contains(why), "{result}");
        assert!(console(&folder).contains(why), "the console says it too");
    }
}

#[test]
fn nothing_is_left_running() {
    let bench = Bench::new("leftovers");
    let start = Instant::now();
    let script =
        "setsid sh -c 'trap \"\" TERM; sleep 4.4301; sleep 4.4302' & sleep 4.4303 & (sleep 4.4304 &) & echo done";
    assert_eq!(bench.script("a", script), ("0\n".into(), "done\n".into()));
    assert!(start.elapsed() < Duration::from_secs(4), "leftovers hold up the result");
    assert!(!lives("sleep 4.430"));
}

#[test]
fn a_timeout_is_a_failure_with_a_message() {
    let bench = Bench::new("timeout");
    let folder = bench.give("a", json!({ "timeout": 1, "params": { "script": "sleep 4.4401" } }));
    assert_eq!(result(&folder), "failure\ntimed out after 1 s\n");
    assert!(!lives("sleep 4.4401"));
}

/// "`grace` is how many seconds a task has from TERM to KILL": with one of them a trap that takes five does not
/// get to its end.
#[test]
fn a_task_says_how_long_its_traps_may_take() {
    let bench = Bench::new("grace");
    let script = "trap 'echo told; sleep 5; echo late; exit 1' TERM; sleep 44.901 & wait; sleep 44.901";
    let folder = bench.give("a", json!({ "timeout": 1, "grace": 1, "params": { "script": script } }));
    assert_eq!(result(&folder), "failure\ntimed out after 1 s\n");
    assert_eq!(fs::read_to_string(folder.join("console")).unwrap(), "told\n");
    assert!(!lives("sleep 44.901"));
}

/// "TERM, once; what the traps print is kept; then a result."
#[test]
fn an_abort_ends_the_script_and_then_the_claim() {
    let bench = Bench::new("abort");
    let script = "trap 'echo told; sleep 0.5; echo ended; exit 1' TERM; sleep 44.501 & wait; sleep 44.501";
    let folder = bench.give("a", json!({ "params": { "script": script } }));
    until("the script's start", || lives("sleep 44.501"));
    fs::write(folder.join(".wait"), "aborted\n").unwrap();
    assert_eq!(result(&folder), "aborted\n");
    assert!(!lives("sleep 44.501"));
    assert_eq!(fs::read_to_string(folder.join("console")).unwrap(), "told\nended\n");
    assert_eq!(bench.script("b", "echo next").1, "next\n");
}

#[test]
fn term_gives_the_ticket_back() {
    let mut bench = Bench::new("term");
    let folder = bench.give("a", json!({ "params": { "script": "sleep 44.601" } }));
    until("the script's start", || lives("sleep 44.601"));
    kill(Pid::from_raw(bench.worker.id().cast_signed()), Signal::SIGTERM).unwrap();
    until("the claim's end", || !folder.join("claim").exists());
    assert!(!lives("sleep 44.601"));
    assert_eq!(fs::read_to_string(folder.join("result")).unwrap(), "");
    let status = bench.worker.wait().unwrap();
    assert_eq!((status.code(), status.signal()), (Some(0), None));
}

#[test]
fn usr1_lets_the_script_end_and_then_the_worker() {
    let mut bench = Bench::new("usr1");
    let folder = bench.give("a", json!({ "params": { "script": "sleep 1.701" } }));
    until("the script's start", || lives("sleep 1.701"));
    kill(Pid::from_raw(bench.worker.id().cast_signed()), Signal::SIGUSR1).unwrap();
    let status = bench.worker.wait().unwrap();
    assert_eq!((status.code(), status.signal()), (Some(0), None));
    assert_eq!(fs::read_to_string(folder.join("result")).unwrap(), "0\n");
}

#[test]
fn no_tree_is_75() {
    let status = Command::new(env!("CARGO_BIN_EXE_execute-shell"))
        .arg("/nonexistent")
        .args(geteuid().is_root().then_some("--as=root"))
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(75));
    let status = Command::new(env!("CARGO_BIN_EXE_build-control"))
        .arg("/nonexistent")
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(75));
}

/// Limits hold without an environment too, whatever version of control groups there is. Without any
/// they are refused, and the script does not run.
#[test]
fn limits_hold_or_are_refused() {
    let bench = Bench::new("limits");
    let limited = |id: &str, limits: Value, script: &str| {
        let folder = bench.give(id, json!({ "limits": limits, "params": { "script": script } }));
        (result(&folder), console(&folder))
    };
    let (first, said) = limited("a", json!({ "memory": 50 << 20 }), "echo begun; tail /dev/zero");
    if first.starts_with("error") {
        assert!(
            first.contains("can't be enforced") && first.contains("Delegate=yes"),
            "{first}"
        );
        assert!(!said.contains("begun"), "{said}");
        eprintln!("SKIPPED: no control groups for this user: {first}");
        return;
    }
    assert!(
        first.starts_with("137\n") && first.contains("limit of memory"),
        "{first}"
    );
    let forks = "i=0; while [ $i -lt 100 ]; do sleep 44.7 & i=$((i + 1)); done";
    let (second, said) = limited("b", json!({ "processes": 20 }), forks);
    assert!(second.starts_with("2\n") && said.contains("fork"), "{second} {said}");
    assert!(!lives("sleep 44.7"));
    // The shell waits for its turn: a tenth of a second of work takes a second.
    let begun = Instant::now();
    let work = "i=0; while [ $i -lt 300000 ]; do i=$((i + 1)); done; times";
    let (third, _) = limited("c", json!({ "cpus": 0.05 }), work);
    assert_eq!(third, "0\n");
    assert!(begun.elapsed() > Duration::from_secs(1), "{:?}", begun.elapsed());
}
