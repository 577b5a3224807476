//! Ids that stand for those of an environment: no account's, and no other task's.
//!
//! Root's lines in /etc/subuid and /etc/subgid say which there are. Each task that runs takes a range
//! of them by a lock, which the kernel lets go with its worker. They are given in turns, so that those of a task
//! that has just ended are not at once another's. Where the lines have room for fewer than there are tasks, the
//! further ones share the last range.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;
use nix::unistd::{Group, User, geteuid};

use super::state::try_lock;

/// Where the locks of a node are: they need not outlive it.
const LOCKS: &str = "/run/distcifs/ids";

/// First of the ids if /etc/subuid gives root none and nobody these.
const IDS_DEFAULT: u32 = 1_000_000;

/// Ids that an environment has.
pub const IDS_COUNT: u32 = 1 << 16;

/// The file beside the locks that says which range is the next to be given.
const TURN: &str = "next";

/// Most ranges that are looked at: more than tasks run on one node.
const RANGES_MAX: usize = 1024;

/// User and group that stand for the inner ones from 0, for a worker that is root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    /// Stands for user 0.
    pub uid: u32,
    /// Stands for group 0.
    pub gid: u32,
}

/// All ranges of a node.
#[derive(Debug, Clone)]
pub struct Ranges {
    all: Vec<Ids>,
    last: Ids,
    locks: PathBuf,
}

/// A range that a task has for as long as this lives.
#[derive(Debug)]
pub struct Taken {
    /// The ids.
    pub ids: Ids,
    /// None: others have them too.
    _lock: Option<Flock<fs::File>>,
}

impl Ranges {
    /// Those of this node; `None` for an ordinary user, who can be nobody but himself.
    pub fn find() -> Option<Self> {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        geteuid().is_root().then(|| {
            Ranges::of(
                &text("/etc/subuid"),
                &text("/etc/subgid"),
                Path::new(LOCKS),
                &Known::HERE,
            )
        })
    }

    fn of(users: &str, groups: &str, locks: &Path, known: &Known) -> Self {
        let all: Vec<Ids> = starts(users)
            .into_iter()
            .zip(starts(groups))
            .map(|(uid, gid)| Ids { uid, gid })
            .take(RANGES_MAX)
            .collect();
        let first =
            |text: &str, known: fn(u32) -> bool| starts(text).first().copied().unwrap_or_else(|| nobodys(text, known));
        let alone = Ids {
            uid: first(users, known.user),
            gid: first(groups, known.group),
        };
        Ranges {
            last: all.last().copied().unwrap_or(alone),
            all,
            locks: locks.to_owned(),
        }
    }

    /// One of them, to try what works here.
    pub fn any(&self) -> Ids {
        self.all.first().copied().unwrap_or(self.last)
    }

    /// A range that no other task has; the last one if all are taken. In turns: the one behind that which was
    /// given last, by whichever worker. Else the first: each range that is used costs something.
    ///
    /// # Errors
    /// If the locks can't be had.
    pub fn take(&self, in_turns: bool) -> io::Result<Taken> {
        DirBuilder::new().recursive(true).mode(0o755).create(&self.locks)?;
        let open = |name: &str| {
            let mut open = OpenOptions::new();
            open.read(true).write(true).create(true).truncate(false).mode(0o600);
            open.open(self.locks.join(name))
        };
        // Two at once may begin at the same one: the locks keep them apart.
        let turn = in_turns.then(|| open(TURN)).transpose()?;
        let mut number = [0; 4];
        // One that has none yet begins at the first.
        let begun = turn
            .as_ref()
            .is_some_and(|turn| turn.read_exact_at(&mut number, 0).is_ok());
        let first = if begun {
            usize::try_from(u32::from_ne_bytes(number)).unwrap_or_default()
        } else {
            0
        };
        let count = self.all.len();
        for at in (0..count).map(|step| (first % count + step) % count) {
            let ids = &self.all[at];
            if let Some(lock) = try_lock(open(&ids.uid.to_string())?)? {
                if let Some(turn) = turn {
                    turn.write_all_at(&u32::try_from(at + 1).unwrap_or_default().to_ne_bytes(), 0)?;
                }
                return Ok(Taken {
                    ids: *ids,
                    _lock: Some(lock),
                });
            }
        }
        Ok(Taken {
            ids: self.last,
            _lock: None,
        })
    }
}

/// Which ids the node's user database knows: those of a directory stand in no line.
struct Known {
    user: fn(u32) -> bool,
    group: fn(u32) -> bool,
}

impl Known {
    const HERE: Known = Known {
        user: |id| User::from_uid(id.into()).is_ok_and(|user| user.is_some()),
        group: |id| Group::from_gid(id.into()).is_ok_and(|group| group.is_some()),
    };
}

/// The first range from the usual place on that no line gives to a user, and whose first and last are nobody's
/// either: his scripts would be those of all tasks.
fn nobodys(text: &str, known: fn(u32) -> bool) -> u32 {
    let taken = |line: &str| {
        let mut parts = line.split(':').skip(1);
        let first: u32 = parts.next()?.trim().parse().ok()?;
        let count: u32 = parts.next()?.trim().parse().ok()?;
        Some((first, first.saturating_add(count)))
    };
    let mut taken: Vec<(u32, u32)> = text.lines().filter_map(taken).collect();
    taken.sort_unstable();
    let mut start = IDS_DEFAULT;
    for _ in 0..RANGES_MAX {
        for (first, end) in &taken {
            if *first < start.saturating_add(IDS_COUNT) && *end > start {
                start = *end;
            }
        }
        // Where the numbers end there is none that nobody has.
        if start > u32::MAX - 2 * IDS_COUNT {
            break;
        }
        if !known(start) && !known(start + (IDS_COUNT - 1)) {
            return start;
        }
        start += IDS_COUNT;
    }
    IDS_DEFAULT
}

/// Where root's ranges begin.
fn starts(text: &str) -> Vec<u32> {
    let line = |line: &str| {
        let mut parts = line.split(':');
        let (name, first, count) = (parts.next()?, parts.next()?, parts.next()?);
        let count: u32 = count.trim().parse().ok()?;
        let first: u32 = first.parse().ok()?;
        // None reaches the number that stands for nobody at all.
        let fits = first > 0 && first.checked_add(count).is_some();
        (matches!(name, "root" | "0") && fits).then_some((first, count / IDS_COUNT))
    };
    let mut all = Vec::new();
    for (first, number) in text.lines().filter_map(line) {
        all.extend((0..number).map(|n| first + n * IDS_COUNT).take(RANGES_MAX));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(uid: u32, gid: u32) -> Ids {
        Ids { uid, gid }
    }

    const NOBODY: Known = Known {
        user: |_| false,
        group: |_| false,
    };

    #[test]
    fn ids_are_those_that_the_system_gives_root() {
        assert_eq!(starts("ci:100000:65536\nroot:100:10\nroot:200000:65536\n"), [200_000]);
        assert_eq!(starts("0:300000:140000"), [300_000, 365_536]);
        assert!(starts("root:0:65536\nroot:4294960000:65536\nnonsense\n").is_empty());
    }

    /// "Each running task gets 65,536 ids of its own."
    #[test]
    fn tasks_have_ranges_of_their_own_while_there_are_some() {
        let locks = std::env::temp_dir().join(format!("distcifs-ranges-{}", std::process::id()));
        let ranges = Ranges::of(
            "root:100000:131072\nroot:400000:65536",
            "root:500000:200000",
            &locks,
            &NOBODY,
        );
        let take = || ranges.take(true).unwrap();
        let (first, second, third) = (take(), take(), take());
        assert_eq!(
            [first.ids, second.ids, third.ids],
            [ids(100_000, 500_000), ids(165_536, 565_536), ids(400_000, 631_072)]
        );
        assert_eq!(take().ids, third.ids, "one too many shares the last");
        drop(second);
        assert_eq!(take().ids, ids(165_536, 565_536), "what is free is taken");
        drop((first, third));
        fs::remove_dir_all(&locks).unwrap();
    }

    /// "The ids of a task that has just ended are not those of the next", where images are shown with any.
    #[test]
    fn ranges_are_given_in_turns() {
        let locks = std::env::temp_dir().join(format!("distcifs-ranges-turns-{}", std::process::id()));
        let ranges = Ranges::of("root:100000:196608", "root:100000:196608", &locks, &NOBODY);
        let taken = |in_turns| ranges.take(in_turns).unwrap().ids.uid;
        let turns: Vec<u32> = (0..4).map(|_| taken(true)).collect();
        assert_eq!(turns, [100_000, 165_536, 231_072, 100_000]);
        assert_eq!((taken(false), taken(false)), (100_000, 100_000));
        assert_eq!(taken(true), 165_536);
        // Whatever stands in the file.
        fs::write(locks.join(TURN), [0xff; 9]).unwrap();
        assert!([100_000, 165_536, 231_072].contains(&taken(true)));
        fs::write(locks.join(TURN), "x").unwrap();
        assert_eq!(taken(true), 100_000);
        fs::remove_dir_all(&locks).unwrap();
    }

    #[test]
    fn a_node_without_lines_has_one_range_for_all() {
        let locks = std::env::temp_dir().join(format!("distcifs-ranges-none-{}", std::process::id()));
        let ranges = Ranges::of("", "", &locks, &NOBODY);
        let taken = (ranges.take(true).unwrap(), ranges.take(true).unwrap());
        assert_eq!((taken.0.ids, taken.1.ids), (ranges.any(), ids(1_000_000, 1_000_000)));
        let ranges = Ranges::of(
            "alice:100000:65536\nbob:1065000:65536\ncarol:990000:65536\n",
            "dave:1000000:1",
            &locks,
            &NOBODY,
        );
        let none_of_theirs = ids(1_130_536, 1_000_001);
        assert_eq!(
            ranges.take(true).unwrap().ids,
            none_of_theirs,
            "what a user was given is his"
        );
        let ranges = Ranges::of("root:200000:65536", "", &locks, &NOBODY);
        assert_eq!(ranges.take(true).unwrap().ids, ids(200_000, 1_000_000));
        // People of a directory, whom no line names.
        let directory = Known {
            user: |id| (900_000..1_100_000).contains(&id),
            group: |id| id == 1_065_535,
        };
        let ranges = Ranges::of("alice:1131072:65536", "", &locks, &directory);
        assert_eq!(ranges.take(true).unwrap().ids, ids(1_196_608, 1_065_536));
        let everybody = Known {
            user: |_| true,
            ..NOBODY
        };
        assert_eq!(Ranges::of("", "", &locks, &everybody).any(), ids(1_000_000, 1_000_000));
        fs::remove_dir_all(&locks).unwrap();
    }
}
