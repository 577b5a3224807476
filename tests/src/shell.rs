//! Scripts under a real shell, each a session of its own, each with a hard time limit.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use crate::process::{is_alive, signal_group};
use crate::programs;

/// A script that takes longer than this hangs.
const SCRIPT_LIMIT: Duration = Duration::from_secs(60);

/// What a script left.
#[derive(Debug)]
pub struct Output {
    /// How it ended; of a script that was stopped at its limit, `None`.
    pub status: Option<ExitStatus>,
    /// What it wrote, without the last line's end.
    pub stdout: String,
    /// Its complaints.
    pub stderr: String,
}

impl Output {
    /// Whether it ended with 0.
    pub fn ok(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// Panics with everything it wrote unless it ended with 0; gives what it wrote.
    pub fn expect_ok(self) -> String {
        assert!(self.ok(), "the script failed: {self:#?}");
        self.stdout
    }
}

/// A script that runs in the background, killed with its whole session when this is dropped. Until
/// then its number is nobody else's: a signal never goes to another test's process.
pub struct Sh {
    child: Child,
    reaped: bool,
    out: PathBuf,
    err: PathBuf,
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

impl Sh {
    /// Starts `words` (a shell and what it takes) in `cwd`, in a session of its own; its output
    /// goes to files in `out`, a folder outside the mount.
    pub fn start(words: &[&str], cwd: &Path, out: &Path, environment: &[(&str, &Path)]) -> Sh {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let (stdout, stderr) = (
            out.join(format!("script-{number}.out")),
            out.join(format!("script-{number}.err")),
        );
        let path = std::env::var("PATH").unwrap_or_default();
        let workers = programs::project().join("workers");
        let child = Command::new("setsid")
            .args(words)
            .current_dir(cwd)
            .envs(environment.iter().copied())
            .env(
                "PATH",
                format!("{}:{}:{path}", programs::bin_dir().display(), workers.display()),
            )
            .stdin(Stdio::null())
            .stdout(File::create(&stdout).expect("the scratch folder is writable"))
            .stderr(File::create(&stderr).expect("the scratch folder is writable"))
            .spawn()
            .expect("setsid of util-linux runs");
        Sh {
            child,
            reaped: false,
            out: stdout,
            err: stderr,
        }
    }

    /// The id of the process, which is its session's as well.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Whether it still runs.
    pub fn alive(&self) -> bool {
        !self.reaped && is_alive(self.pid())
    }

    /// What it wrote so far.
    pub fn so_far(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.out).unwrap_or_default()).into_owned()
    }

    /// What it complained of so far.
    pub fn complaints(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.err).unwrap_or_default()).into_owned()
    }

    /// Waits for its end, within the limit of a script.
    pub fn finish(self) -> Output {
        self.finish_within(SCRIPT_LIMIT)
    }

    /// Waits for its end; after `limit` it is killed.
    pub fn finish_within(mut self, limit: Duration) -> Output {
        let begun = Instant::now();
        while self.alive() && begun.elapsed() < limit {
            std::thread::sleep(Duration::from_millis(3));
        }
        let ended = !self.alive();
        self.kill9();
        let status = self.child.wait().ok().filter(|_| ended);
        let text = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        let (stdout, stderr) = (text(&self.out).trim_end_matches('\n').to_owned(), text(&self.err));
        Output { status, stdout, stderr }
    }

    /// Kills the process and its group with SIGKILL and reaps it.
    pub fn kill9(&mut self) {
        if !self.reaped {
            signal_group(self.pid(), Signal::SIGKILL);
            let _ = self.child.kill();
            let _ = self.child.wait();
            self.reaped = true;
        }
    }

    /// Kills the one process with SIGKILL, not its children, and waits for its end.
    pub fn kill9_alone(&mut self) {
        if !self.reaped {
            let _ = self.child.kill();
            let _ = waitid(Id::Pid(self.pid()), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
        }
    }

    /// Sends a signal to the one process.
    pub fn signal(&self, signal: Signal) {
        if !self.reaped {
            crate::process::signal(self.pid(), signal);
        }
    }
}

impl Drop for Sh {
    fn drop(&mut self) {
        self.kill9();
    }
}
