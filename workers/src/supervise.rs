//! Processes of a script: its group, and whatever it left behind.
//!
//! The worker is the subreaper of all that it starts, so a process that made itself a daemon becomes
//! its child again, and "no child left" means that nothing is left.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgid, getpid};

use crate::signals::Wake;

/// How long after KILL is waited for the last process: one that a dead disk holds may never go.
const KILL_BOUND: Duration = Duration::from_secs(5);

/// How often KILL is sent again meanwhile, to what was forked while we looked.
const KILL_AGAIN: Duration = Duration::from_millis(10);

/// Makes this process the parent of all orphans below it.
pub fn become_subreaper() -> io::Result<()> {
    prctl::set_child_subreaper(true).map_err(io::Error::from)
}

/// A script's processes.
#[derive(Debug)]
pub struct Processes {
    leader: Pid,
    ended: Option<Exit>,
    any_left: bool,
    /// Whether the leader is an environment with the script somewhere below it.
    isolated: bool,
}

/// How the script itself ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// With this status.
    Status(i32),
    /// By a signal.
    Signal(Signal),
}

impl Exit {
    /// As a shell has it: 128 and its number for a signal.
    pub fn status(self) -> i32 {
        match self {
            Exit::Status(status) => status,
            Exit::Signal(signal) => 128 + signal as i32,
        }
    }
}

impl Processes {
    /// Of a script that was started as the leader of its own group.
    pub fn new(leader: u32) -> Self {
        Processes {
            leader: Pid::from_raw(leader.cast_signed()),
            ended: None,
            any_left: true,
            isolated: false,
        }
    }

    /// The same in an environment: TERM is for its leader, which may hand it on, and for processes
    /// in pid namespaces of their own. The helpers between would take the script along at once.
    pub fn isolated(leader: u32) -> Self {
        Processes {
            isolated: true,
            ..Processes::new(leader)
        }
    }

    /// How the script ended, if it has. Buries the dead.
    pub fn ended(&mut self) -> Option<Exit> {
        self.reap();
        self.ended
    }

    fn reap(&mut self) {
        loop {
            let (pid, exit) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, status)) => (pid, Exit::Status(status)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Exit::Signal(signal)),
                Ok(WaitStatus::StillAlive) => return,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(_) => {
                    self.any_left = false;
                    // Its status went elsewhere, which nothing in this program does.
                    self.ended.get_or_insert(Exit::Status(255));
                    return;
                }
            };
            if pid == self.leader {
                self.ended = Some(exit);
            }
        }
    }

    /// Ends all that is left: TERM, then KILL after `grace`. False if something would not die.
    /// `no_more` is called before KILL: it may see to it that nothing is forked any more.
    pub fn end_all(&mut self, grace: Duration, wake: &Wake, no_more: impl Fn()) -> bool {
        self.reap();
        if self.any_left {
            self.signal(Signal::SIGTERM);
            self.signal(Signal::SIGCONT);
            self.wait_until(Instant::now() + grace, grace, wake);
        }
        if self.any_left {
            no_more();
        }
        let bound = Instant::now() + KILL_BOUND;
        while self.any_left && Instant::now() < bound {
            self.signal(Signal::SIGKILL);
            self.wait_until(bound, KILL_AGAIN, wake);
        }
        !self.any_left
    }

    /// Waits until nothing is left, `limit` is over or `deadline` is there.
    fn wait_until(&mut self, deadline: Instant, limit: Duration, wake: &Wake) {
        let deadline = deadline.min(Instant::now() + limit);
        while self.any_left {
            let rest = deadline.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return;
            }
            wake.wait(Some(rest));
            self.reap();
        }
    }

    fn signal(&self, signal: Signal) {
        let gently = self.isolated && signal == Signal::SIGTERM;
        // Until it is waited for, the leader's number can't be anybody else's.
        let to_group = self.ended.is_none() && !gently;
        if self.ended.is_none() {
            let _ = if gently {
                kill(self.leader, signal)
            } else {
                killpg(self.leader, signal)
            };
        }
        let depth = namespaces(getpid());
        for pid in descendants() {
            // Each is told once: a trap would run twice, and a second TERM ends what heeds the first.
            let told = to_group && getpgid(Some(pid)) == Ok(self.leader);
            if !told && (!gently || namespaces(pid) > depth) {
                let _ = kill(pid, signal);
            }
        }
    }
}

/// Every process below this one.
fn descendants() -> Vec<Pid> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in entries.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok()) {
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue;
        };
        if let Some(parent) = parent(&stat) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut below = vec![getpid().as_raw()];
    while let Some(pid) = below.pop() {
        // Taken out of the map: no process is met twice, though numbers change while we look.
        for child in children.remove(&pid).unwrap_or_default() {
            found.push(Pid::from_raw(child));
            below.push(child);
        }
    }
    found
}

/// How many pid namespaces a process is in that can be seen from here.
fn namespaces(pid: Pid) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    line.map_or(0, |ids| ids.split_ascii_whitespace().count())
}

/// The parent in a line of `/proc/PID/stat`; the name before it may hold anything, `)` too.
fn parent(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_of_odd_names() {
        assert_eq!(parent("12 (sh) S 7 12 12 0"), Some(7));
        assert_eq!(parent("12 (a) S 1 (b) R 9 1"), Some(9));
        assert_eq!(parent(""), None);
    }
}
