//! What is done with files that a script may hold, by a process of its own. Who writes such a file from memory that
//! never answers keeps the kernel's lock of it, and whoever removes it then stands until that one ends, whatever
//! signal he gets. So it is done by a process that is left behind when it does.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// How long who was killed is waited for: the kernel needs less, unless it stands.
const KILLED: Duration = Duration::from_millis(50);

/// What such a process wrote, and whether it ended well.
#[derive(Debug)]
pub struct Wrote {
    /// Its standard output.
    pub bytes: Vec<u8>,
    /// Whether its status was 0.
    pub well: bool,
}

/// Runs a program for so long at most. `None`: it takes longer; then it is killed, and left behind if that ends
/// nothing.
///
/// # Errors
/// If it can't be begun.
pub fn run(mut command: Command, limit: Duration) -> io::Result<Option<Wrote>> {
    let end = Instant::now() + limit;
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let Some(mut out) = child.stdout.take() else {
        return Err(io::Error::other("a process without its output"));
    };
    let (told, heard) = channel();
    let reads = move || {
        let mut bytes = Vec::new();
        // What is cut short shows in how the process ended.
        drop(out.read_to_end(&mut bytes));
        drop(told.send(bytes));
    };
    thread::Builder::new().name("aside".into()).spawn(reads)?;
    let bytes = heard.recv_timeout(end.saturating_duration_since(Instant::now()));
    match (bytes, ended(&mut child, end)?) {
        (Ok(bytes), Some(status)) => Ok(Some(Wrote {
            bytes,
            well: status.success(),
        })),
        _ => {
            // Where it stands that does not reach it, and nobody waits.
            let _ = child.kill();
            let _ = ended(&mut child, Instant::now() + KILLED);
            Ok(None)
        }
    }
}

/// Waits until a child has ended. `None`: it has not by `end`. The kernel says when it has: whoever looked from time to
/// time would wait the whole of such a time for each, as most end within a millisecond.
///
/// # Errors
/// If it is no child, or descriptors are short.
pub fn ended(child: &mut Child, end: Instant) -> io::Result<Option<ExitStatus>> {
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty());
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let process = process.as_ref().map_err(|&e| io::Error::from(e))?;
        // Rounded up: else the last millisecond would be spent asking.
        let left = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], left) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null());
        command
    }

    #[test]
    fn what_it_wrote_and_how_it_ended_is_told() {
        let limit = Duration::from_secs(60);
        let wrote = run(sh("printf abc"), limit).unwrap().unwrap();
        assert!(wrote.well && wrote.bytes == b"abc");
        let wrote = run(sh("printf a; exit 3"), limit).unwrap().unwrap();
        assert!(!wrote.well && wrote.bytes == b"a");
        assert!(run(Command::new("/nowhere/at/all"), limit).is_err());
    }

    /// It is not waited for, nor for what it began, which has its output still.
    #[test]
    fn who_takes_longer_is_left_behind() {
        let limit = Duration::from_millis(50);
        let begun = Instant::now();
        assert!(run(sh("trap '' TERM; sleep 600"), limit).unwrap().is_none());
        assert!(run(sh("sleep 30 & exit 0"), limit).unwrap().is_none());
        assert!(begun.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn an_end_is_told_by_the_kernel() {
        let mut child = sh("exit 3").spawn().unwrap();
        let status = ended(&mut child, Instant::now() + Duration::from_secs(60)).unwrap();
        assert_eq!(status.and_then(|status| status.code()), Some(3));
        let mut child = sh("sleep 600").spawn().unwrap();
        assert!(ended(&mut child, Instant::now()).unwrap().is_none());
        let soon = Instant::now() + Duration::from_millis(20);
        assert!(ended(&mut child, soon).unwrap().is_none() && Instant::now() >= soon);
        child.kill().unwrap();
        assert!(
            ended(&mut child, Instant::now() + Duration::from_secs(60))
                .unwrap()
                .is_some()
        );
    }
}
