//! A worker as a process that a test may stop, continue and kill.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::{Pid, geteuid};

use crate::mount::Mount;
use crate::process;
use crate::programs;
use crate::shell::Sh;

/// A worker asked to end gets this long: it leaves within one read of `.next`, a second.
const LEAVE: Duration = Duration::from_secs(3);

/// Workers that do the tasks of jobs, as the owners of these.
const OF_TASKS: [&str; 4] = ["execute-shell", "git-checkout", "publish-artifacts", "copy-artifacts"];

/// A running worker; it ends with this value.
pub struct Worker {
    process: Sh,
}

impl Worker {
    /// Starts `<name> MOUNT [label…]`.
    pub fn start(mount: &Mount, name: &str, labels: &[&str]) -> Worker {
        Worker::with(mount, name, labels, &[])
    }

    /// The same with more in its environment.
    pub fn with(mount: &Mount, name: &str, labels: &[&str], environment: &[(&str, &Path)]) -> Worker {
        // Here the scripts are to be whoever runs the tests.
        let user = (OF_TASKS.contains(&name) && geteuid().is_root()).then_some("--as=root");
        let labels: Vec<&str> = labels.iter().copied().chain(user).collect();
        Worker::of(mount, name, &labels, environment)
    }

    /// The same with its words as they are: it says itself whom it works as.
    pub fn start_as(mount: &Mount, name: &str, labels: &[&str]) -> Worker {
        Worker::of(mount, name, labels, &[])
    }

    fn of(mount: &Mount, name: &str, labels: &[&str], environment: &[(&str, &Path)]) -> Worker {
        let program = programs::worker(name);
        let mut words = vec![program.to_str().expect("the path is text"), mount.root_text()];
        words.extend(labels);
        // What its scripts need while they run goes with the mount's folder.
        let state = mount.out().join("shell").display().to_string();
        if name == "execute-shell" {
            words.extend(["--state", &state]);
        }
        Worker {
            process: Sh::start(&words, &mount.out(), &mount.out(), environment),
        }
    }

    /// One of build-control and `shells` of execute-shell, without labels.
    pub fn usual(mount: &Mount, shells: usize) -> Vec<Worker> {
        let mut workers = vec![Worker::start(mount, "build-control", &[])];
        workers.extend((0..shells).map(|_| Worker::start(mount, "execute-shell", &[])));
        workers
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// What it wrote to standard error so far.
    pub fn complaints(&self) -> String {
        self.process.complaints()
    }

    /// Whether it runs.
    pub fn alive(&self) -> bool {
        self.process.alive()
    }

    /// SIGKILL, to it alone.
    pub fn kill9(&mut self) {
        self.process.kill9_alone();
    }

    /// SIGSTOP.
    pub fn stop(&self) {
        self.process.signal(Signal::SIGSTOP);
    }

    /// SIGCONT.
    pub fn cont(&self) {
        self.process.signal(Signal::SIGCONT);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.process.signal(Signal::SIGCONT);
        self.process.signal(Signal::SIGTERM);
        let begun = std::time::Instant::now();
        while process::is_alive(self.pid()) && begun.elapsed() < LEAVE && !std::thread::panicking() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
