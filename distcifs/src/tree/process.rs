//! Who a caller is: its process, its session, whether it lives.

use std::os::fd::{AsFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::repository::descriptors::spare_now;

/// Generations of ancestors looked at before a caller is no descendant.
const ANCESTORS_MAX: u32 = 128;

/// SIGKILL's bit in the masks of /proc/PID/status.
const SIGKILL_BIT: u64 = 1 << 8;

/// What /proc/PID/status says of a process or thread.
///
/// Nothing else below /proc/PID is read while a request is served: a process that execs may wait
/// for our answer with its exec lock held, and /proc/PID/stat waits for that lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// The process that the thread belongs to.
    pub process: u32,
    /// Parent.
    pub parent: u32,
    /// Whether it is on its way out: its memory is gone before its files are closed.
    pub exiting: bool,
}

/// Reads a process's (or thread's) figures; `None` if there is no such process.
pub fn stat(pid: u32) -> Option<Stat> {
    let text = status(pid)?;
    Some(Stat {
        process: line(&text, "Tgid")?.parse().ok()?,
        parent: line(&text, "PPid")?.parse().ok()?,
        exiting: line(&text, "VmSize").is_none(),
    })
}

fn status(pid: u32) -> Option<String> {
    // A process's name may hold any bytes.
    let text = spare_now(|| std::fs::read(format!("/proc/{pid}/status"))).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// The value of one line of /proc/PID/status.
fn line<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
        .map(str::trim)
}

/// One line of /proc/PID/status.
fn status_line(pid: u32, key: &str) -> Option<String> {
    line(&status(pid)?, key).map(str::to_owned)
}

/// The session of a process.
fn session_of(pid: u32) -> Option<u32> {
    let pid = libc::pid_t::try_from(pid).ok().filter(|pid| *pid > 0)?;
    let session = nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(pid))).ok()?;
    u32::try_from(session.as_raw()).ok()
}

/// The process of a thread.
pub fn process_of(tid: u32) -> Option<u32> {
    status_line(tid, "Tgid")?.parse().ok()
}

/// The real user of a process.
pub fn user_of(pid: u32) -> Option<u32> {
    status_line(pid, "Uid")?.split_whitespace().next()?.parse().ok()
}

/// The supplementary groups of a process or thread.
pub fn groups_of(tid: u32) -> Vec<u32> {
    let line = status_line(tid, "Groups").unwrap_or_default();
    line.split_whitespace().filter_map(|id| id.parse().ok()).collect()
}

/// Whether there is no such process or thread, whatever hinders us from reading about it.
pub fn is_gone(tid: u32) -> bool {
    let id = libc::pid_t::try_from(tid).map(nix::unistd::Pid::from_raw);
    id.is_ok_and(|id| nix::sys::signal::kill(id, None) == Err(nix::errno::Errno::ESRCH))
}

/// Whether somebody has killed it already, though it may not know yet.
pub fn is_killed(tid: u32) -> bool {
    let pending = |text: &str, key| line(text, key).and_then(|mask| u64::from_str_radix(mask, 16).ok());
    match status(tid) {
        _ if tid == 0 => false,
        None => is_gone(tid),
        Some(text) => ["SigPnd", "ShdPnd"]
            .into_iter()
            .any(|key| pending(&text, key).unwrap_or(0) & SIGKILL_BIT != 0),
    }
}

/// A process id as `writer` sees it, in the ids of the daemon.
pub fn translate(writer: u32, pid: u32) -> Option<u32> {
    let space = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let theirs = space(&writer.to_string())?;
    if Some(&theirs) == space("self").as_ref() {
        return Some(pid);
    }
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|id| space(&id.to_string()).as_ref() == Some(&theirs))
        .find(|id| status_line(*id, "NSpid").and_then(|ids| ids.split_whitespace().last()?.parse().ok()) == Some(pid))
}

/// A process named for ever, and a descriptor that tells of its end.
#[derive(Debug)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its session.
    pub session: u32,
    end: AsyncFd<OwnedFd>,
}

impl Process {
    /// Takes hold of a living process; must be called inside the runtime.
    pub fn hold(pid: u32) -> Option<Process> {
        let fd = pidfd_open(pid)?;
        let process = Process {
            pid,
            session: session_of(pid)?,
            end: watch(fd)?,
        };
        process.lives().then_some(process)
    }

    /// Returns when it is dead.
    pub async fn ended(&self) {
        // An error of epoll itself: then it is not known to live either.
        let _ = self.end.readable().await;
    }

    /// Whether it lives: then its id is still its own.
    pub fn lives(&self) -> bool {
        let mut wait = [PollFd::new(self.end.get_ref().as_fd(), PollFlags::POLLIN)];
        poll(&mut wait, PollTimeout::ZERO) == Ok(0)
    }

    /// Whether the caller is this process, one below it or one of its session.
    pub fn covers(&self, tid: u32) -> bool {
        self.distance(tid).is_some()
    }

    /// How many generations the caller is below this process: 0 for itself, `u32::MAX` for one that is
    /// only of its session.
    pub fn distance(&self, tid: u32) -> Option<u32> {
        if tid == self.pid {
            return Some(0);
        }
        let caller = stat(tid)?;
        if caller.process == self.pid {
            return Some(0);
        }
        let mut at = caller;
        for generation in 1..=ANCESTORS_MAX {
            if at.parent == self.pid {
                return Some(generation);
            }
            match stat(at.parent) {
                Some(parent) if at.parent > 1 => at = parent,
                _ => break,
            }
        }
        (session_of(caller.process) == Some(self.session)).then_some(u32::MAX)
    }
}

/// The process of a thread, and those above it.
pub(super) fn lineage(tid: u32) -> Vec<u32> {
    let mut all = vec![tid];
    let Some(mut at) = stat(tid) else { return all };
    all.push(at.process);
    for _ in 0..ANCESTORS_MAX {
        if at.parent <= 1 {
            break;
        }
        all.push(at.parent);
        match stat(at.parent) {
            Some(parent) => at = parent,
            None => break,
        }
    }
    all
}

/// Registers a descriptor with the runtime.
#[expect(unsafe_code, reason = "tokio wants a promise that the descriptor stays open")]
fn watch(fd: OwnedFd) -> Option<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by what is made of it and never given out or replaced.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.ok()
}

/// A descriptor that becomes readable when the process ends.
#[expect(unsafe_code, reason = "neither std nor nix has pidfd_open")]
fn pidfd_open(pid: u32) -> Option<OwnedFd> {
    use std::os::fd::FromRawFd;
    let pid = libc::pid_t::try_from(pid).ok().filter(|pid| *pid > 0)?;
    let open = || {
        // SAFETY: the call takes two numbers and returns a new descriptor or -1.
        match unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } {
            -1 => Err(std::io::Error::last_os_error()),
            fd => Ok(fd),
        }
    };
    let fd = i32::try_from(spare_now(open).ok()?).ok()?;
    // SAFETY: the descriptor was just made and belongs to nobody else.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_held_until_it_ends() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let held = Process::hold(child.id()).unwrap();
        assert!(held.covers(child.id()));
        // The test shares the child's session.
        assert!(held.covers(std::process::id()));
        assert!(
            tokio::time::timeout(std::time::Duration::from_millis(50), held.ended())
                .await
                .is_err()
        );
        child.kill().unwrap();
        tokio::time::timeout(std::time::Duration::from_secs(5), held.ended())
            .await
            .unwrap();
        child.wait().unwrap();
        assert!(Process::hold(child.id()).is_none());
        assert!(is_killed(child.id()));
    }
}
