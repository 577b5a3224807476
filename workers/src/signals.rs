//! TERM, INT, USR1 and CHLD, turned into flags and a byte in a pipe that can be polled.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc::c_int;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{pipe2, read, write};

static STOPPING: AtomicBool = AtomicBool::new(false);
static FINISHING: AtomicBool = AtomicBool::new(false);
static WRITER: OnceLock<OwnedFd> = OnceLock::new();

/// Wakes up when a signal came, a child ended, or another thread asks for it.
#[derive(Debug)]
pub struct Wake {
    reader: OwnedFd,
}

/// Whether TERM or INT came.
pub fn stopping() -> bool {
    STOPPING.load(Ordering::Relaxed)
}

/// Has the whole process end, as TERM would.
pub fn stop() {
    STOPPING.store(true, Ordering::Relaxed);
    wake();
}

/// Whether USR1 came: end when what is under way is done.
pub fn finishing() -> bool {
    FINISHING.load(Ordering::Relaxed)
}

/// Wakes whoever waits; a full pipe wakes it as well. Safe in a signal handler.
pub fn wake() {
    if let Some(writer) = WRITER.get() {
        let _ = write(writer, b"!");
    }
}

/// Installs the handlers, once in a process.
pub fn install() -> io::Result<Wake> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    WRITER
        .set(writer)
        .map_err(|_| io::Error::other("signal handlers are installed already"))?;
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1, Signal::SIGCHLD] {
        handle(signal)?;
    }
    Ok(Wake { reader })
}

/// Lets no program that is started here inherit what was open when this one began.
///
/// # Errors
/// Of close_range(2).
#[expect(unsafe_code, reason = "no safe wrapper at hand")]
pub fn seal_descriptors() -> io::Result<()> {
    // SAFETY: it closes nothing; only what later exec calls take along changes.
    let done = unsafe { nix::libc::close_range(3, u32::MAX, nix::libc::CLOSE_RANGE_CLOEXEC.cast_signed()) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[expect(
    unsafe_code,
    reason = "sigaction; the handler uses atomic flags, write(2) and errno only"
)]
fn handle(signal: Signal) -> io::Result<()> {
    let flags = SaFlags::SA_RESTART | SaFlags::SA_NOCLDSTOP;
    let action = SigAction::new(SigHandler::Handler(on_signal), flags, SigSet::empty());
    // SAFETY: on_signal is async-signal-safe.
    unsafe { sigaction(signal, &action) }?;
    Ok(())
}

extern "C" fn on_signal(signal: c_int) {
    let errno = Errno::last_raw();
    if signal == Signal::SIGUSR1 as c_int {
        FINISHING.store(true, Ordering::Relaxed);
    } else if signal != Signal::SIGCHLD as c_int {
        STOPPING.store(true, Ordering::Relaxed);
    }
    wake();
    Errno::set_raw(errno);
}

impl Wake {
    /// Waits for a wake-up, at most `limit`; wake-ups that came before count.
    pub fn wait(&self, limit: Option<Duration>) {
        // A wait cut short or drawn out to whole milliseconds does no harm: the caller looks at its own clock.
        let timeout = match limit {
            None => PollTimeout::NONE,
            Some(limit) => {
                PollTimeout::try_from(limit.saturating_add(Duration::from_micros(999))).unwrap_or(PollTimeout::MAX)
            }
        };
        let mut fds = [PollFd::new(self.reader.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, timeout);
        let mut bytes = [0; 64];
        while matches!(read(&self.reader, &mut bytes), Ok(n) if n > 0) {}
    }
}
