//! Who a caller is: its process, its session, whether it lives.

use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Generations of ancestors looked at before a caller is no descendant.
const ANCESTORS_MAX: u32 = 128;

/// The flag of a task that is on its way out (PF_EXITING of linux/sched.h, in /proc/PID/stat).
const PF_EXITING: u64 = 0x4;

/// SIGKILL's bit in the masks of /proc/PID/status.
const SIGKILL_BIT: u64 = 1 << 8;

/// The figures of /proc/PID/stat that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Parent.
    pub parent: u32,
    /// Session.
    pub session: u32,
    /// Whether it is on its way out.
    pub exiting: bool,
    /// Whether it is dead already, but not waited for.
    pub zombie: bool,
    /// When it began, clock ticks since boot: with the id it names a process for ever.
    pub began: u64,
}

/// Reads a process's (or thread's) figures; `None` if there is no such process.
pub fn stat(pid: u32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, parentheses and blanks too: the fields follow the last one.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat {
        zombie: matches!(*fields.first()?, "Z" | "X"),
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        exiting: fields.get(6)?.parse::<u64>().ok()? & PF_EXITING != 0,
        began: fields.get(19)?.parse().ok()?,
    })
}

/// One line of /proc/PID/status.
fn status_line(pid: u32, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

/// The process of a thread.
pub fn process_of(tid: u32) -> Option<u32> {
    status_line(tid, "Tgid")?.parse().ok()
}

/// The real user of a process.
pub fn user_of(pid: u32) -> Option<u32> {
    status_line(pid, "Uid")?.split_whitespace().next()?.parse().ok()
}

/// Whether somebody has killed it already, though it may not know yet.
pub fn is_killed(tid: u32) -> bool {
    let pending = |key| {
        status_line(tid, key)
            .and_then(|mask| u64::from_str_radix(&mask, 16).ok())
            .unwrap_or(0)
    };
    tid != 0 && (stat(tid).is_none() || (pending("SigPnd") | pending("ShdPnd")) & SIGKILL_BIT != 0)
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
    /// When it began.
    pub began: u64,
    /// Its session.
    pub session: u32,
    end: AsyncFd<OwnedFd>,
}

impl Process {
    /// Takes hold of a living process; must be called inside the runtime.
    pub fn hold(pid: u32) -> Option<Process> {
        let fd = pidfd_open(pid)?;
        let stat = stat(pid).filter(|stat| !stat.zombie)?;
        Some(Process {
            pid,
            began: stat.began,
            session: stat.session,
            end: watch(fd)?,
        })
    }

    /// Returns when it is dead.
    pub async fn ended(&self) {
        // An error of epoll itself: then it is not known to live either.
        let _ = self.end.readable().await;
    }

    /// Whether the caller is this process, one below it or one of its session.
    pub fn covers(&self, tid: u32) -> bool {
        if tid == self.pid {
            return true;
        }
        let Some(caller) = stat(tid) else { return false };
        if caller.session == self.session || process_of(tid) == Some(self.pid) {
            return true;
        }
        let mut at = caller;
        for _ in 0..ANCESTORS_MAX {
            if at.parent == self.pid {
                return true;
            }
            match stat(at.parent) {
                Some(parent) if at.parent > 1 => at = parent,
                _ => return false,
            }
        }
        false
    }
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
    // SAFETY: the call takes two numbers and returns a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
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
