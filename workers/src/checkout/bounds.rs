//! What git may take of the node. It works outside of isolations on what anybody has pushed, and some objects of a few
//! bytes stand for more files than any node holds.
//!
//! The bounds hold for each process of git, and for what it starts. They are those of this process for the moment in
//! which git is started, so that no program stands between that sets them.

use std::io;
use std::process::{Child, Command};
use std::sync::{Mutex, PoisonError};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Most memory, bytes, and least: else it is half of the node's.
const MEMORY_BYTES_MAX: u64 = 8 << 30;
const MEMORY_BYTES_MIN: u64 = 1 << 30;

/// Least that this process itself has: what it keeps, and room.
const OWN_BYTES_MIN: u64 = 512 << 20;

/// Says another bound of memory, in bytes: for a node with larger repositories, or with little room.
const MEMORY: &str = "DISTCIFS_GIT_MEMORY";

/// Largest file that it writes, bytes: a repository's files come as one.
const FILE_BYTES_MAX: u64 = 64 << 30;

/// Most bytes of a listing of git's that are read here, and that are kept.
const LISTING_BYTES_MAX: u64 = 8 << 30;
const KEPT_BYTES_MAX: u64 = 128 << 20;

/// What a path that is kept takes beside its bytes, at least.
const PATH_BYTES: u64 = 64;

/// Settings that keep git's own memory within the bound: files are streamed, packs are shown in windows, and not one
/// thread for each processor has buffers.
pub(super) const SETTINGS: [(&str, &str); 7] = [
    ("core.bigFileThreshold", "64m"),
    ("core.packedGitLimit", "1g"),
    ("core.packedGitWindowSize", "32m"),
    ("core.deltaBaseCacheLimit", "64m"),
    ("pack.windowMemory", "64m"),
    ("pack.threads", "4"),
    ("index.threads", "4"),
];

/// Heaps of the C library: it has one for each thread else, and each counts with the room that it may grow into.
pub(super) const HEAPS: (&str, &str) = ("MALLOC_ARENA_MAX", "2");

/// One at a time: the limits are the process's.
static TURN: Mutex<()> = Mutex::new(());

/// Starts a process that has the bounds.
///
/// # Errors
/// If it can't be started.
pub(super) fn start(command: &mut Command) -> io::Result<Child> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let _memory = Lowered::to(Resource::RLIMIT_AS, memory())?;
    let _file = Lowered::to(Resource::RLIMIT_FSIZE, FILE_BYTES_MAX)?;
    command.spawn()
}

/// Gives this process the bound of memory, too: what it keeps of what git says is bounded where it is kept, and what is
/// forgotten there costs the task and not the node.
///
/// # Errors
/// If the kernel refuses that.
pub(super) fn heed() -> io::Result<()> {
    let (before, most) = getrlimit(Resource::RLIMIT_AS)?;
    let bytes = memory().max(OWN_BYTES_MIN);
    Ok(setrlimit(Resource::RLIMIT_AS, before.min(bytes), most)?)
}

/// A limit that is back as it was when this goes.
struct Lowered {
    resource: Resource,
    before: u64,
    most: u64,
}

impl Lowered {
    fn to(resource: Resource, bytes: u64) -> io::Result<Self> {
        let (before, most) = getrlimit(resource)?;
        // Whoever started this process may have lowered it further.
        setrlimit(resource, before.min(bytes), most)?;
        Ok(Lowered { resource, before, most })
    }
}

impl Drop for Lowered {
    fn drop(&mut self) {
        // It is not above what it was, so nothing refuses that.
        let _ = setrlimit(self.resource, self.before, self.most);
    }
}

/// How much memory a process of git may have.
fn memory() -> u64 {
    let said = std::env::var(MEMORY).ok().and_then(|text| text.parse().ok());
    if let Some(bytes) = said.filter(|bytes| *bytes > 0) {
        return bytes;
    }
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    half_of(&text)
}

fn half_of(meminfo: &str) -> u64 {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    let half = kib.map_or(MEMORY_BYTES_MAX, |kib| kib.saturating_mul(1024) / 2);
    half.clamp(MEMORY_BYTES_MIN, MEMORY_BYTES_MAX)
}

/// A listing that is read, and what is kept of it.
#[derive(Debug, Default)]
pub(super) struct Kept {
    read: u64,
    kept: u64,
}

impl Kept {
    /// An item more, which is kept or not.
    ///
    /// # Errors
    /// If that is too much.
    pub(super) fn add(&mut self, item: &[u8], kept: bool) -> io::Result<()> {
        let bytes = PATH_BYTES.saturating_add(item.len() as u64);
        self.read = self.read.saturating_add(item.len() as u64);
        self.kept = self.kept.saturating_add(if kept { bytes } else { 0 });
        if self.read <= LISTING_BYTES_MAX && self.kept <= KEPT_BYTES_MAX {
            return Ok(());
        }
        Err(io::Error::other("it has more than git-checkout looks at"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_has_half_of_the_nodes_memory_within_bounds() {
        for (kib, bytes) in [(512 << 10, 1 << 30), (4 << 20, 2 << 30), (24 << 20, 8 << 30)] {
            let text = format!("MemFree:  1 kB\nMemTotal:  {kib} kB\n");
            assert_eq!(half_of(&text), bytes);
        }
        assert_eq!(half_of("what?"), 8 << 30);
        assert!((MEMORY_BYTES_MIN..=MEMORY_BYTES_MAX).contains(&memory()));
    }

    /// The limits are those of what is started, and of nothing else.
    #[test]
    fn what_is_started_has_the_bounds() {
        let limits = || [Resource::RLIMIT_AS, Resource::RLIMIT_FSIZE].map(|of| getrlimit(of).unwrap());
        let before = limits();
        let mut command = Command::new("sh");
        command
            .args(["-c", "cat /proc/self/limits"])
            .stdout(std::process::Stdio::piped());
        let said = start(&mut command).unwrap().wait_with_output().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        for (name, bytes) in [("Max address space", memory()), ("Max file size", FILE_BYTES_MAX)] {
            let line = said.lines().find(|line| line.starts_with(name)).unwrap();
            assert!(line.contains(&format!(" {bytes} ")), "{line}");
        }
        assert_eq!(limits(), before);
    }

    #[test]
    fn a_listing_is_bounded() {
        let mut kept = Kept::default();
        let path = vec![b'x'; 1 << 20];
        assert!((0..127).all(|_| kept.add(&path, true).is_ok()));
        assert!((0..1000).all(|_| kept.add(&path, false).is_ok()));
        assert!(kept.add(&path, true).is_err());
        let mut read = Kept::default();
        assert!((0..8 << 10).all(|_| read.add(&path, false).is_ok()));
        assert!(read.add(&path, false).is_err());
    }
}
