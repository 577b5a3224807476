//! Copies what a script writes to its ticket's console, as it comes.

use std::fs::File;
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::signals;
use crate::tree::{self, Trouble};

/// Bytes of one write: what a pipe holds.
const BLOCK_BYTES: usize = 64 << 10;

/// Lines that come within this time after a write go with the next one: a reader sees no delay,
/// and a script that writes line by line costs hundreds of writes a second instead of thousands.
const COALESCE: Duration = Duration::from_millis(2);

/// How often the copier looks whether it shall stop while nothing comes.
const LOOK: Duration = Duration::from_millis(50);

/// How long a write is tried again while the store is away or full, as a result is: meanwhile the
/// script waits at its pipe. Then the block is dropped, and those after it that fail at once.
const PATIENCE: Duration = Duration::from_secs(30);

/// Pause between two tries.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// Flags between the copier and whoever waits for it.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    done: AtomicBool,
    lost: AtomicBool,
    dropped: AtomicU64,
}

/// A thread that copies.
#[derive(Debug)]
pub struct Copier {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

impl Copier {
    /// Starts copying from the pipe to the console in the ticket's folder, which is opened with the first byte.
    pub fn start(pipe: PipeReader, folder: PathBuf) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        let thread = thread::Builder::new().spawn(move || {
            let console = Console {
                folder,
                file: None,
                lost: false,
                dropped: 0,
            };
            Copy {
                pipe,
                console,
                shared: &of_thread,
                block: Vec::with_capacity(BLOCK_BYTES),
            }
            .run();
            of_thread.done.store(true, Ordering::Release);
            signals::wake();
        })?;
        Ok(Copier { shared, thread })
    }

    /// Whether the claim turned out to be lost.
    pub fn is_lost(&self) -> bool {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// Whether everything is copied.
    pub fn is_done(&self) -> bool {
        self.shared.done.load(Ordering::Acquire)
    }

    /// Copies no more than what is in the pipe now, and ends; the number of bytes that the console
    /// could not take.
    pub fn finish(self) -> u64 {
        self.shared.stop.store(true, Ordering::Relaxed);
        if self.thread.join().is_err() {
            eprintln!("the console's copier ended by a panic");
        }
        self.shared.dropped.load(Ordering::Relaxed)
    }
}

struct Copy<'a> {
    pipe: PipeReader,
    console: Console,
    shared: &'a Shared,
    block: Vec<u8>,
}

impl Copy<'_> {
    fn run(mut self) {
        let mut written = None::<Instant>;
        loop {
            let stop = self.shared.stop.load(Ordering::Relaxed);
            let mut end = match self.fill(if stop { Duration::ZERO } else { LOOK }) {
                Some(0) => true,
                Some(_) => false,
                None if stop => true,
                None => continue,
            };
            let open_until = written.map(|at: Instant| at + COALESCE);
            while !end && self.block.len() < BLOCK_BYTES {
                let rest = open_until.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
                match self.fill(rest) {
                    Some(0) => end = true,
                    Some(_) => {}
                    None => break,
                }
            }
            self.console.append(&self.block);
            self.block.clear();
            written = Some(Instant::now());
            if self.console.lost && !self.shared.lost.swap(true, Ordering::Relaxed) {
                signals::wake();
            }
            // A writer that goes on for ever, out of reach, must not hold up the result.
            if end || stop {
                break;
            }
        }
        self.console.close();
        self.shared.dropped.store(self.console.dropped, Ordering::Relaxed);
    }

    /// Reads what is there, waiting for at most `limit`; `None` if nothing came, 0 at the end.
    fn fill(&mut self, limit: Duration) -> Option<usize> {
        let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::ZERO);
        let mut fds = [PollFd::new(self.pipe.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, limit) {
            Ok(0) | Err(Errno::EINTR | Errno::EAGAIN) => return None,
            Ok(_) => {}
            Err(_) => return Some(0),
        }
        let old = self.block.len();
        self.block.resize(BLOCK_BYTES, 0);
        let count = self.pipe.read(&mut self.block[old..]);
        self.block.truncate(old + *count.as_ref().unwrap_or(&0));
        match count {
            Ok(count) => Some(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => None,
            Err(_) => Some(0),
        }
    }
}

/// The console's file; once the claim is lost everything is discarded.
struct Console {
    folder: PathBuf,
    file: Option<File>,
    lost: bool,
    dropped: u64,
}

impl Console {
    fn append(&mut self, mut block: &[u8]) {
        let mut patient_until = None;
        while !block.is_empty() && !self.lost {
            let error = match self.write(block) {
                Ok(count) if count > 0 => {
                    block = &block[count.min(block.len())..];
                    patient_until = None;
                    continue;
                }
                Ok(_) => io::Error::from(io::ErrorKind::WriteZero),
                Err(error) => error,
            };
            self.file = None;
            if !self.try_again(&error, &mut patient_until) {
                self.dropped += block.len() as u64;
                return;
            }
        }
    }

    /// Whether what failed is to be tried again, after a pause.
    fn try_again(&mut self, error: &io::Error, patient_until: &mut Option<Instant>) -> bool {
        if error.kind() == io::ErrorKind::Interrupted {
            return true;
        }
        let trouble = Trouble::from_io("can't write the console", error);
        // Whoever may not write it is no claimant any more: another has the ticket.
        let lost =
            matches!(trouble, Trouble::Lost(_) | Trouble::Away(_)) || error.kind() == io::ErrorKind::PermissionDenied;
        if lost {
            self.lost = true;
            return false;
        }
        let patience = if self.dropped == 0 { PATIENCE } else { Duration::ZERO };
        let until = *patient_until.get_or_insert_with(|| Instant::now() + patience);
        if matches!(trouble, Trouble::Refused(_)) || Instant::now() >= until {
            eprintln!("{}: {trouble}", self.folder.display());
            return false;
        }
        thread::sleep(TRY_AGAIN);
        true
    }

    fn write(&mut self, block: &[u8]) -> io::Result<usize> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(tree::open_console(&self.folder)?),
        };
        file.write(block)
    }

    /// What was written is durable once fsync has returned; what is not by the result is lost.
    fn close(&mut self) {
        let mut patient_until = None;
        while let Some(file) = &self.file
            && let Err(error) = file.sync_all()
        {
            if !self.try_again(&error, &mut patient_until) {
                break;
            }
        }
        self.file = None;
    }
}
