//! A disk that runs full of files which the kernel writes without asking.
//!
//! Nothing takes such a file back from the kernel, and who has it open goes on writing it after his claim
//! is over. So the claim that grew most lately ends, and its files are cut, as often as it takes.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, fstat};
use nix::unistd::ftruncate;

use super::Work;
use super::attempt::Attempt;
use super::growth::Growth;
use super::inodes::Inode;
use super::locks::Lock;
use super::quota::blocks;
use crate::repository::apart::Owners;
use crate::repository::core::lock;
use crate::repository::flood;
use crate::repository::reserve::Level;

/// Most files of a claim that are cut when it ends; those that are open are cut later, too.
const CUT_MAX: usize = 64;

/// Cuts of one owner at once, each of one file; each may stand. Those of others go on beside them.
const CUTS_OF_ONE: usize = 4;

/// How long the watch of the disk waits for them.
const CUT_TIME: Duration = Duration::from_secs(5);

/// Device and number of a file.
type Place = (u64, u64);

/// The cuts of files that fill the disk.
#[derive(Debug)]
pub(super) struct Cuts {
    places: Owners,
    /// Those under way: one that stands takes no second thread.
    under_way: Arc<Mutex<HashSet<Place>>>,
    /// How long they are waited for.
    time: Duration,
}

impl Default for Cuts {
    fn default() -> Cuts {
        Cuts::within(CUT_TIME)
    }
}

/// A file that is to be cut.
#[derive(Debug)]
pub(super) struct Full {
    pub(super) owner: u32,
    /// Whether somebody may hold its lock.
    pub(super) is_held: bool,
    pub(super) file: Arc<File>,
}

/// A file under way, until it is dropped.
struct UnderWay {
    place: Place,
    all: Arc<Mutex<HashSet<Place>>>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        lock(&self.all).remove(&self.place);
    }
}

impl Cuts {
    /// Those that are waited for as long as this.
    pub(super) fn within(time: Duration) -> Cuts {
        Cuts {
            places: Owners::new(CUTS_OF_ONE),
            under_way: Arc::default(),
            time,
        }
    }

    /// Cuts files by `cut`, on threads of their owners: whoever has one open may hold its lock. One that stands keeps
    /// its thread, and the others go on. Waits for them as long as cutting takes.
    pub(super) fn all(&self, files: Vec<Full>, cut: impl Fn(&File) + Clone + Send + 'static) {
        let mut owners: HashMap<u32, Vec<Full>> = HashMap::new();
        for full in files {
            owners.entry(full.owner).or_default().push(full);
        }
        let mut begun = Vec::new();
        for (owner, files) in owners {
            let files = self.order(files);
            let threads = files.len().min(CUTS_OF_ONE);
            let files = Arc::new(Mutex::new(VecDeque::from(files)));
            let before = begun.len();
            for _ in 0..threads {
                let (files, all, cut) = (files.clone(), self.under_way.clone(), cut.clone());
                begun.extend(self.places.begin(owner, move || {
                    while let Some((_under_way, file)) = next(&files, &all) {
                        cut(&file);
                    }
                }));
            }
            if threads > 0 && begun.len() == before && flood::has_line_of("files can't be cut", owner) {
                tracing::warn!(
                    owner,
                    "files that fill the disk can't be cut: others of their owner's are held"
                );
            }
        }
        let end = Instant::now() + self.time;
        for over in begun {
            let _or_left = over.recv_timeout(end.saturating_duration_since(Instant::now()));
        }
    }

    /// Files of one owner, without those under way: those first that nobody can hold, and of the others the largest.
    pub(super) fn order(&self, files: Vec<Full>) -> Vec<(Place, Arc<File>)> {
        let mut known = lock(&self.under_way).clone();
        let measured = files.into_iter().filter_map(|full| {
            let stat = fstat(&full.file).ok()?;
            let place = (stat.st_dev, stat.st_ino);
            let first = (full.is_held, Reverse(blocks(&stat)));
            known.insert(place).then_some((first, place, full.file))
        });
        let mut ordered: Vec<_> = measured.collect();
        ordered.sort_by_key(|(first, _, _)| *first);
        ordered.into_iter().map(|(_, place, file)| (place, file)).collect()
    }
}

/// Takes the next one to cut that is not under way.
fn next(
    files: &Mutex<VecDeque<(Place, Arc<File>)>>,
    all: &Arc<Mutex<HashSet<Place>>>,
) -> Option<(UnderWay, Arc<File>)> {
    loop {
        let (place, file) = lock(files).pop_front()?;
        if lock(all).insert(place) {
            let all = all.clone();
            return Some((UnderWay { place, all }, file));
        }
    }
}

/// A file that the kernel may have got to write.
#[derive(Debug)]
pub struct Passed {
    /// What it had when it was looked at last, bytes, and one more; 0 while the kernel has not got it.
    seen: AtomicU64,
    attempt: Arc<Attempt>,
    growth: Arc<Growth>,
    /// The lock of what is below.
    pub(super) lock: Lock,
}

impl Passed {
    /// One of this claim, which the kernel has not got.
    pub(super) fn new(attempt: &Arc<Attempt>, growth: &Arc<Growth>) -> Passed {
        Passed {
            seen: AtomicU64::new(0),
            attempt: attempt.clone(),
            growth: growth.clone(),
            lock: Lock::default(),
        }
    }

    /// The kernel reads and writes this file by an open that it gets now, for as long as memory of users takes.
    pub fn lend(&self) {
        self.lock.lend();
    }

    /// That open has ended.
    pub fn give_back(&self) {
        self.lock.give_back();
    }

    /// The kernel writes this file from now on.
    pub fn mark(&self, file: &File) {
        let Ok(stat) = fstat(file) else { return };
        let first = blocks(&stat) + 1;
        let known = self
            .seen
            .compare_exchange(0, first, Ordering::Relaxed, Ordering::Relaxed);
        if known.is_ok() {
            self.growth.begin(&self.attempt);
        }
    }

    /// Whether the kernel has got it.
    pub(super) fn is_marked(&self) -> bool {
        self.seen.load(Ordering::Relaxed) > 0
    }

    /// The file has so many bytes by now; to be told of marked ones.
    pub(super) fn note(&self, bytes: u64) {
        let before = self.seen.swap(bytes + 1, Ordering::Relaxed);
        self.growth
            .change(&self.attempt, (bytes + 1).wrapping_sub(before).cast_signed());
    }

    /// The same, of what is known of it.
    pub(super) fn look(&self, stat: &FileStat) {
        if self.is_marked() {
            self.note(blocks(stat));
        }
    }
}

/// The claim whose files fill the disk.
#[derive(Debug)]
pub struct Filler {
    /// Its folders.
    pub attempt: Arc<Attempt>,
    /// By how much its files have grown lately, bytes.
    pub grown: u64,
    /// Each with whether somebody may hold its lock.
    files: Vec<(bool, Arc<File>)>,
}

impl Filler {
    /// Gives the room of its files back, once its folders are over. One that somebody holds is left behind.
    pub fn cut(self, work: &Work) {
        if !self.attempt.is_alive() {
            let owner = self.attempt.owner();
            let files = self
                .files
                .into_iter()
                .map(|(is_held, file)| Full { owner, is_held, file });
            work.cuts.all(files.collect(), cut);
        }
    }
}

pub(super) fn cut(file: &File) {
    if let Err(error) = ftruncate(file, 0) {
        tracing::warn!(%error, "a file that fills the disk can't be cut");
    }
}

impl Work {
    /// How the disk of the folders stands, and the claim that is to end. To be called now and then, where waiting
    /// for a disk is no harm.
    pub fn look_at_room(&self, place: &Path) -> (Level, Option<Filler>) {
        self.look_at_hidden();
        self.look_at_open();
        let Ok(disk) = File::open(place) else {
            return (Level::Plenty, None);
        };
        let mut room = self.room.room(&disk);
        let level = self.room.level(room);
        if level != Level::Scarce {
            self.growth.keep(room, Instant::now());
            return (level, None);
        }
        if self.cut_files_of_the_dead() {
            room = self.room.room(&disk);
            if self.room.level(room) != Level::Scarce {
                return (Level::Near, None);
            }
        }
        let now = Instant::now();
        let filler = if self.growth.is_losing(room, now) {
            self.look_at_all();
            self.growth.filler(room, now)
        } else {
            None
        };
        // With nobody to be ended there is no hurry.
        let level = if self.growth.is_any() { Level::Near } else { level };
        (level, filler.map(|(attempt, grown)| self.filler(attempt, grown)))
    }

    /// Sees what the files have that are open for writing.
    fn look_at_open(&self) {
        let open: Vec<_> = {
            let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
            let passed = files
                .values()
                .filter(|open| open.writable && open.inode.passed.is_marked());
            passed.cloned().collect()
        };
        for open in open {
            if let Ok(stat) = fstat(&open.file) {
                open.inode.passed.look(&stat);
            }
        }
    }

    /// The same of all that can be found: a mapping writes what nobody has open.
    fn look_at_all(&self) {
        for inode in self.marked(|_| true) {
            if let Some(stat) = self.path(&inode).ok().and_then(|fd| fstat(&fd).ok()) {
                inode.passed.look(&stat);
            }
        }
    }

    /// The files of living claims that the kernel has got to write.
    fn marked(&self, of: impl Fn(&Attempt) -> bool) -> Vec<Arc<Inode>> {
        let is_so = |inode: &Inode| inode.passed.is_marked() && of(&inode.attempt) && !inode.attempt.is_over();
        self.table().all(is_so)
    }

    /// Cuts what claims that are over still have open; whether there was something.
    fn cut_files_of_the_dead(&self) -> bool {
        let files: Vec<_> = {
            let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
            let dead = files.values().filter(|open| {
                let inode = &open.inode;
                open.writable && inode.passed.is_marked() && !inode.attempt.is_alive()
            });
            let full = dead.map(|open| Full {
                owner: open.inode.attempt.owner(),
                is_held: open.inode.passed.lock.is_held(),
                file: open.file.clone(),
            });
            full.collect()
        };
        let full = |full: &Full| fstat(&full.file).is_ok_and(|stat| stat.st_blocks > 0);
        let full: Vec<_> = files.into_iter().filter(full).collect();
        let any = !full.is_empty();
        self.cuts.all(full, cut);
        any
    }

    /// A claim with the largest of its files.
    pub(in crate::tree) fn filler(&self, attempt: Arc<Attempt>, grown: u64) -> Filler {
        let of_it = self.marked(|of| of.id == attempt.id);
        let size = |inode: &Arc<Inode>| {
            let fd = self.path(inode).ok()?;
            Some((blocks(&fstat(&fd).ok()?), inode.clone()))
        };
        let mut sizes: Vec<_> = of_it.iter().filter_map(size).collect();
        sizes.sort_by_key(|(bytes, _)| Reverse(*bytes));
        sizes.truncate(CUT_MAX);
        let open = |inode: &Arc<Inode>| {
            let file = self.reopen(&*self.path(inode).ok()?, OFlag::O_RDWR).ok()?;
            Some((inode.passed.lock.is_held(), file))
        };
        let files = sizes.iter().filter_map(|(_, inode)| open(inode));
        let hidden = self.named_hidden_of(&attempt).into_iter().map(|file| (false, file));
        let files = files
            .chain(hidden)
            .map(|(is_held, file)| (is_held, Arc::new(file)))
            .collect();
        Filler { attempt, grown, files }
    }
}
