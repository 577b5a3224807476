//! Copies what a script writes to its ticket's console, as it comes.

use std::fmt;
use std::fs::File;
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::signals;
use crate::ticket::Claimed;
use crate::tree::{self, Trouble};

mod spool;

use spool::Spool;

/// Where output waits that the console does not take, and how much of it counts.
#[derive(Debug, Clone)]
pub struct Shelf {
    /// A folder of the worker's own.
    pub folder: PathBuf,
    /// Bytes that the console keeps of the ticket: what is beyond need not wait.
    pub limit: u64,
}

/// Bytes of one write: what a pipe holds.
const BLOCK_BYTES: usize = 64 << 10;

/// Lines that come within this time after a write go with the next one: a reader sees no delay,
/// and a script that writes line by line costs hundreds of writes a second instead of thousands.
const COALESCE: Duration = Duration::from_millis(2);

/// How often the copier looks whether it shall stop while nothing comes.
const LOOK: Duration = Duration::from_millis(50);

/// Pause between two tries of what the console did not take.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// Bytes of output that wait on the node at most; a script that writes more waits at its pipe.
const SPOOL_BYTES_MAX: u64 = 1 << 30;

/// How long output is tried once the script has ended and the store is away: as long as the result would
/// be, which comes after it. The end of the claim ends this too.
const DEADLINE: Duration = Duration::from_secs(900);

/// The same where the store is full, and where this process was told to end.
const DEADLINE_SHORT: Duration = Duration::from_secs(30);

/// Most bytes that a pipe holds, if the script made it as large as it may.
const PIPE_BYTES_MAX: usize = 1 << 20;

/// Bytes of the last line that are kept.
const LAST_BYTES_MAX: usize = 1 << 10;

/// Flags between the copier and whoever waits for it.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    done: AtomicBool,
    lost: AtomicBool,
    left: Mutex<Left>,
}

/// What is left when all is copied.
#[derive(Debug, Default)]
struct Left {
    dropped: Option<Dropped>,
    last: Vec<u8>,
}

/// Output that is missing in the console, though its limit has room for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// How many bytes.
    pub bytes: u64,
    /// What was in the way.
    pub why: String,
    /// Whether it was nothing but that the store was away: then another attempt may store its output.
    pub away: bool,
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bytes of its console could not be stored: {}",
            self.bytes, self.why
        )
    }
}

/// What came of the output.
#[derive(Debug)]
pub struct Copied {
    /// Whether the claim turned out to be lost, so that output is missing.
    pub lost: bool,
    /// What the console could not take, if that is something.
    pub dropped: Option<Dropped>,
    /// The last line that came, cut to what it may have.
    pub last: String,
}

/// A thread that copies.
#[derive(Debug)]
pub struct Copier {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

impl Copier {
    /// Starts copying from the pipe to the console of a ticket, which is opened with the first byte.
    pub fn start(pipe: PipeReader, claimed: Claimed, shelf: Shelf) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        let thread = thread::Builder::new().spawn(move || {
            let console = Console::new(claimed, shelf);
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

    /// Copies no more than what is in the pipe now, and ends. What waited for the store may take long, and the
    /// claim may turn out to be lost by then.
    pub fn finish(self) -> Copied {
        self.shared.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.join();
        let mut left = self.shared.left.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.is_err() {
            left.dropped = Some(Dropped {
                bytes: 1,
                why: "a defect of distcifs: what copies them ended by a panic".to_owned(),
                away: false,
            });
        }
        let text = String::from_utf8_lossy(&left.last);
        let last = text.trim_end().rsplit('\n').next().unwrap_or_default().to_owned();
        Copied {
            lost: self.shared.lost.load(Ordering::Relaxed),
            dropped: left.dropped.take(),
            last,
        }
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
        // Of what the pipe may hold when the script is over.
        let mut left = PIPE_BYTES_MAX;
        let mut last = Vec::new();
        loop {
            let stop = self.shared.stop.load(Ordering::Relaxed);
            let mut end = match self.fill(if stop { Duration::ZERO } else { LOOK }) {
                Some(0) => true,
                Some(_) => false,
                None => stop,
            };
            let open_until = written.map(|at: Instant| at + COALESCE);
            while !end && !self.block.is_empty() && self.block.len() < BLOCK_BYTES {
                let rest = open_until.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
                match self.fill(rest) {
                    Some(0) => end = true,
                    Some(_) => {}
                    None => break,
                }
            }
            if !self.block.is_empty() {
                self.console.take(&self.block, &self.shared.stop);
                left = left.saturating_sub(if stop { self.block.len() } else { 0 });
                last.clear();
                last.extend(&self.block[self.block.len().saturating_sub(LAST_BYTES_MAX)..]);
                self.block.clear();
                written = Some(Instant::now());
            } else if !end {
                self.console.deliver_if_due();
            }
            if self.console.lost && !self.shared.lost.swap(true, Ordering::Relaxed) {
                signals::wake();
            }
            // A writer that goes on for ever, out of reach, must not hold up the result.
            if end || left == 0 {
                break;
            }
        }
        self.console.close();
        if self.console.lost {
            self.shared.lost.store(true, Ordering::Relaxed);
        }
        let dropped = self.console.dropped.take();
        *self.shared.left.lock().unwrap_or_else(PoisonError::into_inner) = Left { dropped, last };
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
    claimed: Claimed,
    file: Option<File>,
    lost: bool,
    dropped: Option<Dropped>,
    /// What was in the way the last time.
    trouble: String,
    /// Whether that was the store's absence.
    away: bool,
    /// What waits, in front of everything that comes.
    spool: Spool,
    try_at: Instant,
    /// Bytes that still count: one more than the console keeps, by which it says that it was cut.
    room: u64,
    /// How long it is tried once the script has ended: one time for all that waits.
    deadline: Option<Deadline>,
}

impl Console {
    fn new(claimed: Claimed, shelf: Shelf) -> Self {
        Console {
            claimed,
            file: None,
            lost: false,
            dropped: None,
            trouble: String::new(),
            away: false,
            spool: Spool::new(shelf.folder),
            try_at: Instant::now(),
            room: shelf.limit.saturating_add(1),
            deadline: None,
        }
    }

    /// Takes a block: to the console, or while that takes nothing behind what waits. Where it can't wait
    /// either, the script does.
    fn take(&mut self, block: &[u8], stop: &AtomicBool) {
        let counts = usize::try_from(self.room).unwrap_or(usize::MAX).min(block.len());
        self.room -= counts as u64;
        let mut block = &block[..counts];
        self.deliver_if_due();
        if self.spool.is_empty() {
            block = self.append(block);
        }
        while !block.is_empty() && !self.lost {
            let waits = if self.spool.len() < SPOOL_BYTES_MAX {
                self.spool.push(block).inspect_err(|error| {
                    eprintln!("{}: its output can't wait here: {error}", self.spool.place());
                })
            } else {
                Err(io::ErrorKind::StorageFull.into())
            };
            if waits.is_ok() {
                return;
            }
            // Nobody but the result waits for us any more.
            if stop.load(Ordering::Relaxed) && self.deadline().has_passed(false) {
                self.drop(block.len() as u64);
                return;
            }
            thread::sleep(TRY_AGAIN);
            self.deliver_if_due();
            if self.spool.is_empty() {
                block = self.append(block);
            }
        }
    }

    /// The deadline, counted from when nobody but the result waits any more.
    fn deadline(&mut self) -> &mut Deadline {
        self.deadline.get_or_insert_default()
    }

    /// Delivers what waits, if it is time to try again.
    fn deliver_if_due(&mut self) {
        if !self.spool.is_empty() && Instant::now() >= self.try_at {
            let _ = self.deliver();
        }
    }

    /// Delivers what waits, as much as the console takes; the trouble, if that is not all.
    fn deliver(&mut self) -> Result<(), Trouble> {
        let mut room = vec![0; BLOCK_BYTES];
        while !self.spool.is_empty() && !self.lost {
            let count = match self.spool.first(&mut room) {
                Ok(count) if count > 0 => count,
                unread => {
                    let why = unread.map_or_else(|error| error.to_string(), |_| "it ends before".to_owned());
                    self.trouble = format!("what waited in {} can't be read: {why}", self.spool.place());
                    self.away = false;
                    eprintln!("{}: {}", self.claimed.folder.display(), self.trouble);
                    self.drop_what_waits();
                    return Ok(());
                }
            };
            let (taken, ended) = self.write_out(&room[..count]);
            self.spool.drop_first(taken as u64);
            if let Err(trouble) = ended {
                if matches!(trouble, Trouble::Refused(_)) {
                    self.drop_what_waits();
                }
                self.try_at = Instant::now() + TRY_AGAIN;
                return Err(trouble);
            }
        }
        Ok(())
    }

    /// Appends a block; what of it has to wait.
    fn append<'a>(&mut self, block: &'a [u8]) -> &'a [u8] {
        let (taken, ended) = self.write_out(block);
        let rest = &block[taken..];
        match ended {
            Err(Trouble::Refused(_)) => {
                self.drop(rest.len() as u64);
                &[]
            }
            Err(_) => {
                self.try_at = Instant::now() + TRY_AGAIN;
                rest
            }
            Ok(()) => rest,
        }
    }

    /// Writes until all is taken or something is in the way; how much was.
    fn write_out(&mut self, block: &[u8]) -> (usize, Result<(), Trouble>) {
        let mut taken = 0;
        while taken < block.len() && !self.lost {
            let error = match self.write(&block[taken..]) {
                Ok(count) if count > 0 => {
                    taken += count.min(block.len() - taken);
                    continue;
                }
                Ok(_) => io::Error::from(io::ErrorKind::WriteZero),
                Err(error) => error,
            };
            self.file = None;
            if error.kind() != io::ErrorKind::Interrupted {
                return (taken, Err(self.trouble(&error)));
            }
        }
        (taken, Ok(()))
    }

    /// What an error means.
    fn trouble(&mut self, error: &io::Error) -> Trouble {
        let trouble = Trouble::from_io("can't write the console", error);
        // Whoever may not write it is no claimant any more: another has the ticket.
        self.lost |=
            matches!(trouble, Trouble::Lost(_) | Trouble::Away(_)) || error.kind() == io::ErrorKind::PermissionDenied;
        if !self.lost && matches!(trouble, Trouble::Refused(_)) {
            eprintln!("{}: {trouble}", self.claimed.folder.display());
        }
        self.trouble = trouble.to_string();
        self.away = matches!(trouble, Trouble::Later(_) | Trouble::Held(_));
        trouble
    }

    fn write(&mut self, block: &[u8]) -> io::Result<usize> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(tree::open_console(&self.claimed.path(""))?),
        };
        file.write(block)
    }

    /// Delivers what waits, and has it stored: what was written is durable once fsync has returned.
    fn close(&mut self) {
        while let Err(trouble) = self.deliver().and_then(|()| self.store()) {
            let lost = self.lost;
            let deadline = self.deadline();
            if lost || matches!(trouble, Trouble::Refused(_)) || deadline.has_passed(is_full(&trouble)) {
                break;
            }
            if deadline.is_new() {
                eprintln!("{}: {trouble}; trying again", self.claimed.folder.display());
            }
            thread::sleep(TRY_AGAIN);
        }
        if !self.lost {
            self.drop_what_waits();
        }
        self.file = None;
    }

    /// So many bytes are missing: what was in the way first is the reason, but for the store's absence.
    fn drop(&mut self, bytes: u64) {
        if bytes > 0 {
            let (why, away) = (&self.trouble, self.away);
            let dropped = self.dropped.get_or_insert_with(|| Dropped {
                bytes: 0,
                why: why.clone(),
                away,
            });
            if dropped.away && !away {
                dropped.why.clone_from(why);
                dropped.away = false;
            }
            dropped.bytes += bytes;
        }
    }

    fn drop_what_waits(&mut self) {
        self.drop(self.spool.len());
        self.spool.drop_first(u64::MAX);
    }

    fn store(&mut self) -> Result<(), Trouble> {
        match self.file.as_ref().map_or(Ok(()), File::sync_all) {
            Err(error) => Err(self.trouble(&error)),
            Ok(()) => Ok(()),
        }
    }
}

fn is_full(trouble: &Trouble) -> bool {
    matches!(trouble, Trouble::Full(_))
}

/// Until when something is tried that the store does not take.
struct Deadline {
    since: Instant,
    full_since: Option<Instant>,
    told: bool,
}

impl Default for Deadline {
    fn default() -> Self {
        Deadline {
            since: Instant::now(),
            full_since: None,
            told: false,
        }
    }
}

impl Deadline {
    /// Whether it has passed, after another try in vain.
    fn has_passed(&mut self, full: bool) -> bool {
        let now = Instant::now();
        self.full_since = full.then(|| self.full_since.unwrap_or(now));
        let (waited, waited_for_room) = (now - self.since, self.full_since.map_or(Duration::ZERO, |at| now - at));
        waited >= DEADLINE || waited_for_room >= DEADLINE_SHORT || (waited >= DEADLINE_SHORT && signals::stopping())
    }

    /// Whether nothing was said yet.
    fn is_new(&mut self) -> bool {
        !std::mem::replace(&mut self.told, true)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A claim that is lost while its output still waits for the store is lost to whoever asks at the end: else
    /// its result would say success of output that is nowhere.
    #[test]
    fn a_claim_that_is_lost_at_the_very_end_is_told() {
        let folder = std::env::temp_dir().join(format!("distcifs-copier-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let console = folder.join("console");
        symlink("/dev/full", &console).unwrap();
        let (reader, mut writer) = io::pipe().unwrap();
        let shelf = Shelf {
            folder: folder.clone(),
            limit: 1 << 20,
        };
        let copier = Copier::start(reader, Claimed::new(folder.clone()).unwrap(), shelf).unwrap();
        writer.write_all(b"a line\n").unwrap();
        drop(writer);
        thread::scope(|scope| {
            let end = scope.spawn(|| copier.finish());
            assert!(!end.is_finished(), "it goes on trying while there is no room");
            fs::remove_file(&console).unwrap();
            let Copied { lost, dropped, last } = end.join().unwrap();
            assert_eq!((lost, dropped, &last[..]), (true, None, "a line"));
        });
        fs::remove_dir_all(&folder).unwrap();
    }

    /// "Where nothing but the store's absence was in the way": what is left when the deadline has passed says so, and
    /// whatever else was in the way is the reason.
    #[test]
    fn what_an_absent_store_did_not_take_is_told_apart() {
        let folder = std::env::temp_dir().join(format!("distcifs-copier-away-{}", std::process::id()));
        // The kernel answers EIO at address 0, and ENOSPC.
        for (target, away) in [("/proc/self/mem", true), ("/dev/full", false)] {
            let _ = fs::remove_dir_all(&folder);
            fs::create_dir_all(&folder).unwrap();
            symlink(target, folder.join("console")).unwrap();
            let shelf = Shelf {
                folder: folder.clone(),
                limit: 1 << 20,
            };
            let mut console = Console::new(Claimed::new(folder.clone()).unwrap(), shelf);
            console.deadline = Some(Deadline {
                since: Instant::now().checked_sub(DEADLINE).unwrap(),
                ..Deadline::default()
            });
            console.take(b"a line\n", &AtomicBool::new(true));
            console.close();
            let dropped = console.dropped.take().unwrap();
            assert_eq!((dropped.bytes, dropped.away), (7, away), "{dropped}");
            assert!(!console.lost);
            // Of two reasons it is the one that another attempt would meet again.
            for away in [true, false, true] {
                (console.away, console.trouble) = (away, format!("away: {away}"));
                console.drop(1);
            }
            let both = console.dropped.take().unwrap();
            assert_eq!((both.bytes, both.away, &both.why[..]), (3, false, "away: false"));
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
