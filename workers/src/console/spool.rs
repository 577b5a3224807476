//! What the console could not take yet: a file without a name, that goes with its worker.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::reserve;

/// Bytes that wait, in order.
#[derive(Debug)]
pub(super) struct Spool {
    folder: PathBuf,
    file: Option<File>,
    begin: u64,
    end: u64,
}

impl Spool {
    /// An empty one, whose file will be in this folder.
    pub(super) fn new(folder: PathBuf) -> Self {
        Spool {
            folder,
            file: None,
            begin: 0,
            end: 0,
        }
    }

    /// Where its file is, for messages.
    pub(super) fn place(&self) -> std::path::Display<'_> {
        self.folder.display()
    }

    /// How many bytes wait.
    pub(super) fn len(&self) -> u64 {
        self.end - self.begin
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts all of these behind what waits, or nothing.
    ///
    /// # Errors
    /// If there is no room, but for what is kept for others.
    pub(super) fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(nameless(&self.folder)?),
        };
        reserve::check(file, bytes.len() as u64)?;
        file.write_all_at(bytes, self.end)?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// The first that wait, as many as there is room for; they go on waiting.
    ///
    /// # Errors
    /// If they can't be read.
    pub(super) fn first(&self, room: &mut [u8]) -> io::Result<usize> {
        let count = usize::try_from(self.len()).unwrap_or(usize::MAX).min(room.len());
        match &self.file {
            Some(file) => file.read_exact_at(&mut room[..count], self.begin).map(|()| count),
            None => Ok(0),
        }
    }

    /// So many of the first wait no longer. An empty spool gives its room back.
    pub(super) fn drop_first(&mut self, count: u64) {
        self.begin += count.min(self.len());
        if self.is_empty() {
            *self = Spool::new(std::mem::take(&mut self.folder));
        }
    }
}

/// A file that this process alone can open, and only by the descriptor.
fn nameless(folder: &Path) -> io::Result<File> {
    let mode = Mode::RUSR | Mode::WUSR;
    if let Ok(fd) = rustix::fs::open(folder, OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC, mode) {
        return Ok(fd.into());
    }
    // Not every file system has these. Where others may write, nobody can take a name that he can't guess.
    let random = RandomState::new().build_hasher().finish();
    let path = folder.join(format!(".console-{random:016x}"));
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_comes_out_in_order_and_leaves_no_name() {
        let folder = std::env::temp_dir().join(format!("distcifs-spool-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let mut spool = Spool::new(folder.clone());
        assert!(spool.is_empty());
        spool.push(b"abc").unwrap();
        spool.push(b"defg").unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "it has a name");
        let mut room = [0; 5];
        assert_eq!((spool.first(&mut room).unwrap(), &room[..]), (5, &b"abcde"[..]));
        spool.drop_first(4);
        assert_eq!((spool.first(&mut room).unwrap(), &room[..3]), (3, &b"efg"[..]));
        spool.drop_first(3);
        assert!(spool.is_empty() && spool.file.is_none());
        spool.push(b"h").unwrap();
        assert_eq!((spool.first(&mut room).unwrap(), room[0]), (1, b'h'));
        fs::remove_dir_all(&folder).unwrap();
    }
}
