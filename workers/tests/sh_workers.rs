//! The workers in sh, under each shell that is there, on a plain folder laid out like the tree.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is not as it should be"
)]

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, geteuid, mkfifo};

/// How long one ticket may take here.
const PATIENCE: Duration = Duration::from_secs(20);

const SHELLS: [&[&str]; 3] = [&["dash"], &["bash"], &["busybox", "sh"]];

struct Bench {
    root: PathBuf,
    queue: PathBuf,
    worker: Child,
}

impl Bench {
    fn new(shell: &[&str], queue: &str, worker: &str) -> Option<Self> {
        let name = format!("{queue}.{}.{}", shell[0], std::process::id());
        let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&root);
        let queue = root.join("tickets").join(queue);
        fs::create_dir_all(&queue).unwrap();
        mkfifo(&queue.join(".next"), Mode::S_IRWXU).unwrap();
        fs::create_dir(root.join("tmp")).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(worker);
        let worker = Command::new(shell[0])
            .args(&shell[1..])
            .arg(script)
            .arg(&root)
            .env("TMPDIR", root.join("tmp"))
            .env("TZ", "Europe/Berlin")
            .env("DEPLOY_TOKEN", "secret")
            .env("LINT_RULES", "a b'c\"$d")
            // For root: whom jobs of root run as.
            .envs(geteuid().is_root().then_some(("DISTCIFS_AS", "root")))
            .spawn()
            .ok()?;
        Some(Bench { root, queue, worker })
    }

    /// Lays out a ticket with these parameters.
    fn ticket(&self, id: &str, params: &[(&str, &str)]) -> PathBuf {
        let folder = self.queue.join(id);
        for inner in ["workspace", "artifacts", "params"] {
            fs::create_dir_all(folder.join(inner)).unwrap();
        }
        for inner in ["claim", "console", "result", ".wait"] {
            fs::write(folder.join(inner), "").unwrap();
        }
        fs::write(folder.join("owner"), format!("{}\n", geteuid())).unwrap();
        for (name, value) in params {
            fs::write(folder.join("params").join(name), value).unwrap();
        }
        folder
    }

    /// Gives a ticket to the worker, which must be there to read of it.
    fn give(&self, id: &str) {
        let start = Instant::now();
        let mut options = OpenOptions::new();
        options.write(true).custom_flags(nix::libc::O_NONBLOCK);
        let mut next = loop {
            match options.open(self.queue.join(".next")) {
                Ok(next) => break next,
                Err(error) => assert!(start.elapsed() < PATIENCE, "the worker does not read: {error}"),
            }
            sleep(Duration::from_millis(5));
        };
        writeln!(next, "{id}").unwrap();
    }

    /// Gives a ticket to the worker and waits for its result.
    fn work(&self, folder: &Path) -> String {
        self.give(folder.file_name().unwrap().to_str().unwrap());
        let start = Instant::now();
        loop {
            let result = fs::read_to_string(folder.join("result")).unwrap();
            if !result.is_empty() {
                // Of what a worker keeps for itself nothing has a name: it is gone however the worker ends.
                assert_eq!(fs::read_dir(self.root.join("tmp")).unwrap().count(), 0);
                return result;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "no result: {}",
                fs::read_to_string(folder.join("console")).unwrap()
            );
            sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.worker.kill();
        let _ = self.worker.wait();
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn benches(queue: &str, worker: &str) -> Vec<Bench> {
    let found: Vec<Bench> = SHELLS
        .iter()
        .filter_map(|shell| Bench::new(shell, queue, worker))
        .collect();
    assert!(!found.is_empty(), "no shell is there");
    found
}

#[test]
fn the_example_lints() {
    for bench in benches("lint", "examples/lint") {
        let ticket = bench.ticket("a", &[]);
        fs::write(ticket.join("workspace/a b.sh"), "if\n").unwrap();
        fs::write(ticket.join("workspace/c.sh"), ":\n").unwrap();
        assert!(bench.work(&ticket).starts_with("1\n1 of 2 scripts"));
    }
}

#[test]
fn usr1_lets_the_work_end_and_then_the_worker() {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("worker.sh");
    let script = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("slow.{}", std::process::id()));
    let text = format!(
        "queue=slow usage=slow\nwork() {{ echo begun; sleep 2; echo ended; return 7; }}\n. {}\n",
        library.display()
    );
    fs::write(&script, text).unwrap();
    for mut bench in benches("slow", script.to_str().unwrap()) {
        let ticket = bench.ticket("a", &[]);
        bench.give("a");
        let console = || fs::read_to_string(ticket.join("console")).unwrap();
        let start = Instant::now();
        while console() != "begun\n" {
            assert!(start.elapsed() < PATIENCE, "not begun");
            sleep(Duration::from_millis(5));
        }
        kill(Pid::from_raw(bench.worker.id().cast_signed()), Signal::SIGUSR1).unwrap();
        assert_eq!(bench.worker.wait().unwrap().code(), Some(0));
        assert_eq!(console(), "begun\nended\n");
        assert!(fs::read_to_string(ticket.join("result")).unwrap().starts_with("7\n"));
    }
    fs::remove_file(script).unwrap();
}

/// "When the ticket's `timeout` is over it gets TERM, and KILL 10 s later; the outcome is failure":
/// 2 s are 2 to 12, and what ends in time is not touched.
#[test]
fn timeouts_count() {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("worker.sh");
    let script = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("late.{}", std::process::id()));
    let text = format!(
        "queue=late usage=late\nwork() {{ case $(param how) in\n\
         deaf) trap '' TERM; sleep 41.7 ;;\ntidy) trap 'echo tidied; exit 9' TERM; sleep 41.8 & wait ;;\n\
         left) (trap 'sleep 2; echo left; exit' TERM; sleep 41.9 & wait) & wait ;;\nquick) sleep 1; return 3 ;;\n\
         esac; }}\n. {}\n",
        library.display()
    );
    fs::write(&script, text).unwrap();
    let benches = benches("late", script.to_str().unwrap());
    std::thread::scope(|scope| {
        for bench in &benches {
            scope.spawn(|| {
                for (how, seconds, result, said) in [
                    ("quick", 1..2, "3", ""),
                    ("tidy", 2..5, "failure\ntimed out after 2 s", "tidied\n"),
                    ("left", 4..7, "failure\ntimed out after 2 s", "left\n"),
                    ("deaf", 11..13, "failure\ntimed out after 2 s", ""),
                ] {
                    let ticket = bench.ticket(how, &[("how", how)]);
                    fs::write(ticket.join("timeout"), "2\n").unwrap();
                    let begun = Instant::now();
                    assert_eq!(bench.work(&ticket).trim(), result, "{how}");
                    let took = begun.elapsed();
                    assert!(seconds.contains(&took.as_secs()), "{how}: {took:?}");
                    assert_eq!(
                        fs::read_to_string(ticket.join("console")).unwrap(),
                        said,
                        "{how} in {:?}",
                        bench.root
                    );
                }
            });
        }
    });
    fs::remove_file(&script).unwrap();
}

/// The user whom work is done as has nothing of the worker: neither the fifo of what gets KILL, nor the file
/// of the result, nor what the work of a later ticket says.
#[test]
fn work_holds_nothing_of_its_worker() {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("worker.sh");
    let script = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("holds.{}", std::process::id()));
    let text = format!(
        "queue=holds usage=holds\nwork() {{ for fd in 3 4 5 7 8; do\n\
         [ ! -e \"/proc/$$/fd/$fd\" ] || fail \"it holds $fd: $(readlink \"/proc/$$/fd/$fd\")\"; done\n\
         case $(param how) in\n\
         keep) setsid sh -c 'i=0; while [ $i -lt 300 ]; do printf \"0\\n\" 1<>/proc/self/fd/6; i=$((i+1)); sleep 0.01; done' \
         >/dev/null 2>&1 & ;;\n\
         say) (fail \"what is wrong\"); sleep 1; return 5 ;;\nesac; }}\n. {}\n",
        library.display()
    );
    fs::write(&script, text).unwrap();
    for bench in benches("holds", script.to_str().unwrap()) {
        assert!(bench.work(&bench.ticket("a", &[("how", "keep")])).starts_with("0\n"));
        assert_eq!(
            bench.work(&bench.ticket("b", &[("how", "say")])).trim(),
            "5\nwhat is wrong"
        );
    }
    fs::remove_file(script).unwrap();
}

/// "`work` has PATH, LANG and TZ of the worker, the variables for proxies and certificates, and those that
/// `keep` names, and no others."
#[test]
fn work_has_an_environment_of_its_own() {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("worker.sh");
    let script = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("clean.{}", std::process::id()));
    let text = format!(
        "queue=clean usage=clean keep='LINT_RULES NOT_THERE'\nwork() {{ env; }}\n. {}\n",
        library.display()
    );
    fs::write(&script, text).unwrap();
    for bench in benches("clean", script.to_str().unwrap()) {
        let folder = bench.ticket("a", &[]);
        assert_eq!(bench.work(&folder).trim(), "0");
        let said = fs::read_to_string(folder.join("console")).unwrap();
        let lines: Vec<&str> = said.lines().collect();
        for line in ["TZ=Europe/Berlin", "LINT_RULES=a b'c\"$d"] {
            assert!(lines.contains(&line), "{line}: {said}");
        }
        assert!(lines.iter().any(|line| line.starts_with("PATH=")), "{said}");
        for name in ["DEPLOY_TOKEN", "DISTCIFS_AS", "NOT_THERE"] {
            assert!(!said.contains(name), "{name}: {said}");
        }
    }
    fs::remove_file(&script).unwrap();
}

/// Who lost a ticket ends its work, and leaves it to whoever has it by then.
#[test]
fn a_lost_ticket_is_left_alone() {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("worker.sh");
    let script = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("lost.{}", std::process::id()));
    let text = format!(
        "queue=lost usage=lost\nwork() {{ [ ! -e params/long ] || exec sleep 60; }}\n. {}\n",
        library.display()
    );
    fs::write(&script, text).unwrap();
    for bench in benches("lost", script.to_str().unwrap()) {
        let lost = bench.ticket("a", &[("long", "")]);
        fs::write(lost.join("claim"), "the first").unwrap();
        bench.give("a");
        let start = Instant::now();
        while !works(&lost) {
            assert!(start.elapsed() < PATIENCE, "not begun");
            sleep(Duration::from_millis(5));
        }
        fs::write(lost.join("claim"), "another").unwrap();
        assert_eq!(bench.work(&bench.ticket("b", &[])).trim(), "0");
        assert!(!works(&lost), "its work has ended");
        assert_eq!(fs::read_to_string(lost.join("claim")).unwrap(), "another");
        assert_eq!(fs::read_to_string(lost.join("result")).unwrap(), "");
    }
    fs::remove_file(&script).unwrap();
}

/// Whether a sleep runs in a ticket's folder.
fn works(ticket: &Path) -> bool {
    let inside = |process: &Path| {
        fs::read_link(process.join("cwd")).is_ok_and(|folder| folder == ticket)
            && fs::read_to_string(process.join("comm")).is_ok_and(|name| name.trim() == "sleep")
    };
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .any(|entry| inside(&entry.path()))
}

/// Work that is over before its watcher has begun.
#[test]
fn no_work_is_too_short() {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("worker.sh");
    let script = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("short.{}", std::process::id()));
    let text = format!("queue=short usage=short\nwork() {{ :; }}\n. {}\n", library.display());
    fs::write(&script, text).unwrap();
    let benches = benches("short", script.to_str().unwrap());
    std::thread::scope(|scope| {
        for bench in &benches {
            scope.spawn(|| {
                for number in 0..60 {
                    let ticket = bench.ticket(&number.to_string(), &[]);
                    assert_eq!(bench.work(&ticket).trim(), "0");
                }
            });
        }
    });
    fs::remove_file(&script).unwrap();
}

/// A worker in sh, of which some programs are others: each is a script that stands before the usual ones.
fn with_programs(queue: &str, programs: &[(&str, &str)]) -> Bench {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let folder = target.join(format!("{queue}.programs.{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(&folder).unwrap();
    for (name, text) in programs {
        let path = folder.join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("worker.sh");
    let script = folder.join("worker");
    // What it waits for half a minute is a second here.
    let text = fs::read_to_string(library)
        .unwrap()
        .replace("patience=30", "patience=1");
    fs::write(folder.join("worker.sh"), text).unwrap();
    let folder = folder.display();
    let text = format!("PATH={folder}:$PATH\nqueue={queue} usage=q\nwork() {{ echo worked; }}\n. {folder}/worker.sh\n");
    fs::write(&script, text).unwrap();
    Bench::new(&["dash"], queue, script.to_str().unwrap()).unwrap()
}

/// A cat that can't read a file so many times, for this reason.
fn cat_without(file: &str, times: u32, why: &str) -> String {
    format!(
        "case $1 in {file}) ;; *) exec /bin/cat \"$@\" ;; esac
        echo >>../../../tries
        [ $(wc -l <../../../tries) -gt {times} ] && exec /bin/cat \"$@\"
        echo \"cat: $1: {why}\" >&2; exit 1"
    )
}

/// "An outage is no fault of the job": what can't be read for a moment is read again, and for longer the ticket is given
/// back. It is no error, and nothing is begun without a bound of its time.
#[test]
fn an_outage_is_no_error_and_takes_no_bound_away() {
    let quick = ("sleep", "exec /bin/sleep 0.01");
    for (file, why) in [
        ("owner", "Input/output error"),
        ("timeout", "Input/output error"),
        // The user's share of the tree's memory is used up, or this process's descriptors.
        ("owner", "Cannot allocate memory"),
        ("timeout", "Too many open files in system"),
        ("timeout", "Device or resource busy"),
    ] {
        let short = format!("short-{file}-{}", why.len());
        let bench = with_programs(&short, &[("cat", &cat_without(file, 2, why)), quick]);
        let ticket = bench.ticket("a", &[]);
        fs::write(ticket.join("timeout"), "60\n").unwrap();
        assert_eq!(bench.work(&ticket).trim_end(), "0", "{file}");
        let long = format!("long-{file}-{}", why.len());
        let bench = with_programs(&long, &[("cat", &cat_without(file, 1000, why)), quick]);
        let ticket = bench.ticket("a", &[]);
        fs::write(ticket.join("timeout"), "60\n").unwrap();
        bench.give("a");
        let start = Instant::now();
        while ticket.join("claim").exists() {
            assert!(start.elapsed() < PATIENCE, "{file}: it is not given back");
            sleep(Duration::from_millis(5));
        }
        let said = ["result", "console"].map(|name| fs::read_to_string(ticket.join(name)).unwrap());
        assert_eq!(said, ["", ""], "{file}: nothing was done");
    }
}

/// "It begins nothing without knowing the owner and the `timeout`": also where the file can't be read for a reason that
/// nobody knows.
#[test]
fn nothing_is_begun_without_its_bound() {
    let cat = cat_without("timeout", 1000, "Something else");
    let bench = with_programs("no-bound", &[("cat", &cat)]);
    let ticket = bench.ticket("a", &[]);
    fs::write(ticket.join("timeout"), "60\n").unwrap();
    bench.give("a");
    let start = Instant::now();
    while ticket.join("claim").exists() {
        assert!(start.elapsed() < PATIENCE, "it is not given back");
        sleep(Duration::from_millis(5));
    }
    assert_eq!(fs::read_to_string(ticket.join("result")).unwrap(), "");
}
