//! The mounted tree as `top` reads it: small files and listings by name, no link followed, and how long the tree has
//! been asked without an answer.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use distcifs_beneath::Folder;
use distcifs_settings::fault::plain;
use distcifs_settings::names::Name;
use rustix::fs::{FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl, fstat, openat};
use rustix::io::Errno;

/// Longest small file that is read, bytes: a `why` with the last lines of a console has some 2 KiB.
pub(super) const SMALL_BYTES_MAX: usize = 4 << 10;

/// Longest file of facts that is read, bytes: `status`, `metrics` and that of a node.
pub(super) const FACTS_BYTES_MAX: usize = 256 << 10;

/// Why something is not seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// There is no such thing.
    Absent,
    /// Its modes keep it from us.
    Closed,
    /// It alone can't be read just now: it is damaged, its store is away, somebody holds it by a lease.
    Odd(String),
    /// The tree is away, in words.
    Away(String),
}

impl Fault {
    /// Says what it is about.
    pub(super) fn at(self, place: &str) -> Self {
        match self {
            Fault::Odd(why) => Fault::Odd(format!("{place}: {why}")),
            other => other,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Absent => f.write_str("it is not there"),
            Fault::Closed => f.write_str("it is closed to you"),
            Fault::Odd(why) | Fault::Away(why) => f.write_str(why),
        }
    }
}

/// What comes of a look.
pub(super) type Result<T> = std::result::Result<T, Fault>;

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(
                Errno::NOENT
                | Errno::NOTDIR
                | Errno::ISDIR
                | Errno::LOOP
                | Errno::XDEV
                | Errno::STALE
                | Errno::INVAL
                | Errno::NAMETOOLONG,
            ) => Fault::Absent,
            Some(Errno::ACCESS | Errno::PERM) => Fault::Closed,
            Some(Errno::NOTCONN | Errno::CONNABORTED | Errno::SHUTDOWN | Errno::NODEV) => {
                Fault::Away(error.to_string())
            }
            _ => Fault::Odd(error.to_string()),
        }
    }
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Self {
        io::Error::from(errno).into()
    }
}

/// Since when one thread has asked the tree something that it has not answered.
#[derive(Debug, Clone, Default)]
pub(super) struct Asked(Arc<Mutex<Option<Instant>>>);

impl Asked {
    fn set(&self, since: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// Does what may hang.
    pub(super) fn ask<T>(&self, question: impl FnOnce() -> T) -> T {
        self.set(Some(Instant::now()));
        let answer = question();
        self.set(None);
        answer
    }

    /// How long it has been waited for an answer; zero if for none.
    pub(super) fn waits(&self) -> Duration {
        let since = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// A mounted tree.
#[derive(Debug, Clone)]
pub(super) struct Sight {
    root: PathBuf,
    /// What this copy of it waits for.
    pub(super) asked: Asked,
}

/// The tree as it is mounted at this moment.
pub(super) struct Top {
    folder: Folder,
    asked: Asked,
}

impl Sight {
    /// Of a mount point.
    pub(super) fn new(root: PathBuf) -> Self {
        Sight {
            root,
            asked: Asked::default(),
        }
    }

    /// The same for another thread, which waits by itself.
    pub(super) fn another(&self) -> Self {
        Sight::new(self.root.clone())
    }

    /// Where it is mounted.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Opens it: a mount may have been replaced since the last look.
    ///
    /// # Errors
    /// `Away` if nothing of ours is mounted there.
    pub(super) fn top(&self) -> Result<Top> {
        let away = |why: String| Fault::Away(format!("{}: {why}", self.root.display()));
        let opened = self.asked.ask(|| {
            let folder = Folder::open(&self.root)?;
            // The folder that it is mounted on is there without it, and empty.
            folder.enter("jobs").map(|_| folder)
        });
        Ok(Top {
            folder: opened.map_err(|error| away(error.to_string()))?,
            asked: self.asked.clone(),
        })
    }
}

impl Top {
    /// A file for reading, at its beginning.
    ///
    /// # Errors
    /// There is none that we may read.
    pub(super) fn open(&self, path: &str) -> Result<File> {
        let opened = self.asked.ask(|| {
            let file = self.folder.read(path)?;
            plainly(file.as_fd())?;
            Ok(file)
        });
        opened.map_err(|fault: Fault| fault.at(path))
    }

    /// The text of a file, of which `most` bytes are read, and when it was changed, milliseconds since 1970.
    ///
    /// # Errors
    /// There is none that we may read.
    pub(super) fn text(&self, path: &str, most: usize) -> Result<(String, u64)> {
        let file = self.open(path)?;
        let read = self.asked.ask(|| {
            let time = modified(&fstat(&file)?);
            let mut bytes = Vec::new();
            file.take(most as u64).read_to_end(&mut bytes)?;
            Ok((clean(&String::from_utf8_lossy(&bytes)), time))
        });
        read.map_err(|fault: Fault| fault.at(path))
    }

    /// A small text without space at its ends; empty where there is none that we may read.
    ///
    /// # Errors
    /// It can't be read just now, or the tree is away.
    pub(super) fn small(&self, path: &str) -> Result<String> {
        match self.text(path, SMALL_BYTES_MAX) {
            Ok((text, _)) => Ok(text.trim().to_owned()),
            Err(Fault::Absent | Fault::Closed) => Ok(String::new()),
            Err(fault) => Err(fault),
        }
    }

    /// The names in a folder in its own order, at most so many, and whether there are more. What has not the form of a
    /// name is none of ours; so no name steers a terminal or leads elsewhere.
    ///
    /// # Errors
    /// There is none that we may list.
    pub(super) fn names(&self, path: &str, most: usize) -> Result<(Vec<String>, bool)> {
        self.asked.ask(|| {
            let mut names = Vec::new();
            for entry in self.folder.enter(path)?.entries()? {
                let entry = entry?;
                let Some(name) = entry.file_name().to_str().ok().filter(|name| is_name(name)) else {
                    continue;
                };
                if names.len() == most {
                    return Ok((names, true));
                }
                names.push(name.to_owned());
            }
            Ok((names, false))
        })
    }

    /// Where a link leads.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn target(&self, folder: &str, name: &str) -> Result<String> {
        let target = self.asked.ask(|| {
            let target = self.folder.enter(folder)?.target(OsStr::new(name))?;
            Ok(target.to_string_lossy().into_owned())
        });
        target.map_err(|fault: Fault| fault.at(&format!("{folder}/{name}")))
    }

    /// When a name was changed, milliseconds since 1970.
    ///
    /// # Errors
    /// There is nothing of that name.
    pub(super) fn changed(&self, folder: &str, name: &str) -> Result<u64> {
        let stat = self.asked.ask(|| self.folder.enter(folder)?.stat(OsStr::new(name)));
        Ok(modified(&stat?))
    }

    /// Writes one word to a file that steers, in one write, and commits it.
    ///
    /// # Errors
    /// What the system said of it.
    pub(super) fn write(&self, folder: &str, name: &str, word: &str) -> io::Result<()> {
        self.asked.ask(|| {
            let folder = self.folder.enter(folder)?;
            let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut file = File::from(openat(folder.as_fd(), name, flags, Mode::empty())?);
            plainly(file.as_fd())?;
            file.write_all(format!("{word}\n").as_bytes())?;
            // What is refused may be refused only here.
            nix::unistd::close(file).map_err(io::Error::from)
        })
    }
}

/// A regular file, which is read and written as ever though it was opened without waiting.
fn plainly(file: std::os::fd::BorrowedFd<'_>) -> io::Result<()> {
    if FileType::from_raw_mode(fstat(file)?.st_mode) != FileType::RegularFile {
        return Err(Errno::NOENT.into());
    }
    Ok(fcntl_setfl(file, fcntl_getfl(file)? - OFlags::NONBLOCK)?)
}

/// Milliseconds since 1970 of a stat.
fn modified(stat: &rustix::fs::Stat) -> u64 {
    let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
    seconds.saturating_mul(1000) + stat.st_mtime_nsec / 1_000_000
}

/// Whether it is what a job, a queue, a ticket or a node may be called.
pub(super) fn is_name(text: &str) -> bool {
    // Ids of tickets and names of a task's folder are longer than names of jobs.
    const MOST: usize = 255;
    let ends = text
        .get(..text.len().min(64))
        .is_some_and(|begin| Name::new(begin).is_some());
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    ends && text.len() <= MOST && text.bytes().all(inner)
}

/// A text of several lines in which nothing steers a terminal.
pub(super) fn clean(text: &str) -> String {
    let lines: Vec<_> = text
        .lines()
        .map(|line| plain(&line.replace('\t', " ")).into_owned())
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> (tempfile::TempDir, Sight) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("jobs/a/builds/1")).unwrap();
        let sight = Sight::new(folder.path().to_owned());
        (folder, sight)
    }

    #[test]
    fn what_steers_a_terminal_is_not_read_as_it_is() {
        let (folder, sight) = tree();
        let why = folder.path().join("jobs/a/builds/1/why");
        std::fs::write(&why, "exit 1\x1b]0;x\x07\t\u{202e}z\u{9b}2J\nb\r\n").unwrap();
        let (text, time) = sight.top().unwrap().text("jobs/a/builds/1/why", 100).unwrap();
        assert_eq!(text, "exit 1\\u{1b}]0;x\\u{7} \\u{202e}z\\u{9b}2J\nb");
        assert!(time > 0);
        assert_eq!(sight.asked.waits(), Duration::ZERO);
    }

    #[test]
    fn links_fifos_and_odd_names_are_not_there() {
        let (folder, sight) = tree();
        let build = folder.path().join("jobs/a/builds/1");
        std::os::unix::fs::symlink("/etc/passwd", build.join("why")).unwrap();
        nix::unistd::mkfifo(&build.join("state"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        for name in ["\x1b[2J", "a\nb", "\u{202e}", ".hidden", "good-1.x"] {
            std::fs::create_dir(folder.path().join("jobs").join(name)).unwrap();
        }
        let top = sight.top().unwrap();
        for file in ["why", "state", "none"] {
            let path = format!("jobs/a/builds/1/{file}");
            assert_eq!(top.text(&path, 100).unwrap_err(), Fault::Absent, "{file}");
        }
        assert!(top.write("jobs/a/builds/1", "why", "abort").is_err());
        let (mut names, more) = top.names("jobs", 10).unwrap();
        names.sort();
        assert_eq!((names, more), (vec!["a".to_owned(), "good-1.x".to_owned()], false));
        assert!(top.names("jobs", 1).unwrap().1);
    }

    #[test]
    fn a_folder_without_a_mount_is_away() {
        let folder = tempfile::tempdir().unwrap();
        let sight = Sight::new(folder.path().to_owned());
        assert!(matches!(sight.top(), Err(Fault::Away(_))));
    }
}
