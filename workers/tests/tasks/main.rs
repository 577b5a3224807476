//! git-checkout, copy-artifacts and publish-artifacts with real processes, on a plain folder laid out
//! like the tree: the stream of tickets is a fifo.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is not as it should be"
)]

mod artifacts;
mod checkout;
mod hostile;
mod names;
mod patterns;
mod pipelines;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, geteuid, mkfifo};
use serde_json::{Value, json};

/// How long one ticket may take here.
const PATIENCE: Duration = Duration::from_secs(120);

/// A worker and the folder that it takes for the tree.
pub(crate) struct Bench {
    pub(crate) root: PathBuf,
    pub(crate) queue: PathBuf,
    pub(crate) worker: Child,
}

impl Bench {
    /// `program` is the worker's, `name` the test's.
    pub(crate) fn new(program: &str, name: &str) -> Self {
        Bench::with(program, name, &[])
    }

    /// The same; the worker has these variables besides.
    pub(crate) fn with(program: &str, name: &str, variables: &[(&str, &Path)]) -> Self {
        let kind = Path::new(program).file_name().unwrap().to_str().unwrap();
        // Two tests may choose one name: each bench has a folder of its own.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (pid, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{kind}.{name}.{pid}.{number}"));
        let _ = fs::remove_dir_all(&root);
        let queue = root.join("tickets").join(kind);
        fs::create_dir_all(&queue).unwrap();
        fs::create_dir(root.join("jobs")).unwrap();
        mkfifo(&queue.join(".next"), Mode::S_IRWXU).unwrap();
        let mut worker = Command::new(program);
        worker.arg(&root).envs(variables.iter().copied());
        if geteuid().is_root() {
            worker.args(["--as", "root"]);
        }
        let worker = worker.spawn().unwrap();
        Bench { root, queue, worker }
    }

    /// Lays out a ticket with these parameters.
    pub(crate) fn ticket(&self, id: &str, params: Value) -> PathBuf {
        self.ticket_of(id, json!({ "params": params }))
    }

    /// Lays out a ticket of which all is said.
    pub(crate) fn ticket_of(&self, id: &str, mut ticket: Value) -> PathBuf {
        let folder = self.queue.join(id);
        for inner in ["workspace", "artifacts", "params"] {
            fs::create_dir_all(folder.join(inner)).unwrap();
        }
        for inner in ["console", "result", "claim", ".wait"] {
            fs::write(folder.join(inner), "").unwrap();
        }
        ticket["owner"] = geteuid().as_raw().into();
        fs::write(folder.join("ticket.json"), ticket.to_string()).unwrap();
        folder
    }

    /// Gives a ticket to the worker.
    pub(crate) fn give(&self, folder: &Path) {
        let mut next = OpenOptions::new().write(true).open(self.queue.join(".next")).unwrap();
        writeln!(next, "{}", folder.file_name().unwrap().to_str().unwrap()).unwrap();
    }

    /// Gives a ticket to the worker and waits for its result.
    pub(crate) fn work(&self, folder: &Path) -> String {
        self.give(folder);
        let result = || fs::read_to_string(folder.join("result")).unwrap();
        until("a result", || !result().is_empty());
        result().trim_end().to_owned()
    }
}

/// Waits until something is so.
pub(crate) fn until(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what} did not come");
        sleep(Duration::from_millis(3));
    }
}

/// What a ticket's console holds.
pub(crate) fn console(folder: &Path) -> String {
    fs::read_to_string(folder.join("console")).unwrap()
}

/// The processes with these words in their command lines.
pub(crate) fn processes(words: &str) -> Vec<Pid> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let pid = entry.file_name().to_string_lossy().parse::<i32>();
        if let Ok(pid) = pid
            && String::from_utf8_lossy(&line).replace('\0', " ").contains(words)
        {
            found.push(Pid::from_raw(pid));
        }
    }
    found
}

impl Drop for Bench {
    fn drop(&mut self) {
        // First the worker below its keeper: its queue here is a fifo, whose read no signal ends.
        for pid in processes(&format!("{} ", self.root.display())) {
            let _ = kill(pid, Signal::SIGKILL);
        }
        let _ = self.worker.kill();
        let _ = self.worker.wait();
        let _ = fs::remove_dir_all(&self.root);
    }
}
