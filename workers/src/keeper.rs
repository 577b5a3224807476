//! The process that stands over a worker, so that nothing it began for a ticket outlives it.
//!
//! The claim of a worker that dies is over within a second, and another worker starts the script
//! anew: what the dead one started must be gone by then. Each of the two processes ends with the
//! other: the keeper is the subreaper above the worker and kills what a killed worker leaves behind;
//! a worker whose keeper was killed is told so by the kernel (TERM) and ends its script, while it
//! still holds the claim.

use std::env;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid};

use crate::signals::{self, Wake};
use crate::supervise::{Exit, Processes, become_subreaper};

/// Carries the keeper's process id to the worker.
const VARIABLE: &str = "DISTCIFS_WORKER_KEEPER";

/// Who this process is.
pub enum Role {
    /// The worker, under a keeper.
    Worker,
    /// The keeper, whose worker has ended like this.
    Kept(ExitStatus),
}

/// Starts this program again as the worker and stays above it until it ends. In the worker it
/// returns at once.
///
/// # Errors
/// If this program can't be started again.
pub fn keep() -> io::Result<Role> {
    signals::seal_descriptors()?;
    if let Some(keeper) = env::var(VARIABLE).ok().and_then(|pid| pid.parse().ok()) {
        set_pdeathsig(Signal::SIGTERM)?;
        // It may have died before the kernel was asked to tell.
        if getppid() != Pid::from_raw(keeper) {
            return Err(io::Error::other("its keeper is gone"));
        }
        return Ok(Role::Worker);
    }
    let wake = signals::install()?;
    become_subreaper()?;
    let worker = Command::new("/proc/self/exe")
        .arg0(env::args_os().next().unwrap_or_else(|| "worker".into()))
        .args(env::args_os().skip(1))
        .env(VARIABLE, std::process::id().to_string())
        // Who kills the keeper's group lets the worker end its script itself.
        .process_group(0)
        .spawn()?;
    Ok(Role::Kept(stand_over(worker.id(), &wake)))
}

/// Waits for the worker's end, hands TERM, INT and USR1 on, and ends what it left.
fn stand_over(worker: u32, wake: &Wake) -> ExitStatus {
    let mut processes = Processes::new(worker);
    let (mut told, mut told_to_finish) = (false, false);
    // It is not waited for yet, so the number is still its own.
    let tell = |signal| kill(Pid::from_raw(worker.cast_signed()), signal).ok();
    let exit = loop {
        if let Some(exit) = processes.ended() {
            break exit;
        }
        if signals::stopping() && !told {
            told = true;
            tell(Signal::SIGTERM);
        }
        if signals::finishing() && !told_to_finish {
            told_to_finish = true;
            tell(Signal::SIGUSR1);
        }
        wake.wait(None);
    };
    processes.end_all(Duration::ZERO, wake, || {});
    match exit {
        Exit::Status(status) => ExitStatus::from_raw(status << 8),
        Exit::Signal(signal) => ExitStatus::from_raw(signal as i32),
    }
}
