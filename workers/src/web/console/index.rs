//! Where lines begin in a console of any size: one place for each block of it, so that an index is bounded. It is
//! made as far as it is needed, and goes on where it ended as the console grows.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use memchr::{memchr, memchr_iter};

/// Bytes of a block at first; they double when there are too many.
const BLOCK_BYTES: u64 = 64 << 10;

/// Places of one index, at most: 256 KiB of memory.
const PLACES_MAX: usize = 16 << 10;

/// Indexes that are kept.
const INDEXES_MAX: usize = 48;

/// Bytes that are read at once.
pub(super) const READ_BYTES: usize = 1 << 20;

/// The beginning of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The line, counted from 0.
    pub line: u64,
    /// Its first byte.
    pub at: u64,
}

/// What is known of one console.
#[derive(Debug)]
pub struct Index {
    block: u64,
    places: Vec<Place>,
    /// Ends of lines before `upto`.
    lines: u64,
    /// How far it was read.
    upto: u64,
    /// Whether a place was found in the block that is read.
    placed: bool,
}

/// What an index knows of the end of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// It is there.
    At(u64),
    /// It is not before this byte.
    NotBefore(u64),
}

impl Default for Index {
    fn default() -> Self {
        Index {
            block: BLOCK_BYTES,
            places: Vec::new(),
            lines: 0,
            upto: 0,
            placed: false,
        }
    }
}

impl Index {
    /// Ends of lines that were counted.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// How far it was counted.
    pub fn upto(&self) -> u64 {
        self.upto
    }

    /// Reads on up to a byte, for a time at most; whether it got there.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn extend(&mut self, file: &File, to: u64, time: Duration) -> io::Result<bool> {
        let begun = Instant::now();
        let mut bytes = vec![0; READ_BYTES.min(usize::try_from(to.saturating_sub(self.upto)).unwrap_or(READ_BYTES))];
        while self.upto < to {
            let want = usize::try_from(to - self.upto).unwrap_or(READ_BYTES).min(bytes.len());
            let count = file.read_at(&mut bytes[..want], self.upto)?;
            if count == 0 {
                return Ok(false);
            }
            self.take(&bytes[..count]);
            if begun.elapsed() >= time {
                return Ok(self.upto >= to);
            }
        }
        Ok(true)
    }

    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let left = self.block - self.upto % self.block;
            let count = usize::try_from(left).unwrap_or(bytes.len()).min(bytes.len());
            let (part, rest) = bytes.split_at(count);
            if self.upto.is_multiple_of(self.block) {
                self.placed = false;
            }
            if !self.placed
                && let Some(end) = memchr(b'\n', part)
            {
                self.placed = true;
                self.places.push(Place {
                    line: self.lines + 1,
                    at: self.upto + end as u64 + 1,
                });
            }
            self.lines += memchr_iter(b'\n', part).count() as u64;
            self.upto += count as u64;
            bytes = rest;
            if self.places.len() > PLACES_MAX {
                self.block *= 2;
                let mut nth = 0usize;
                self.places.retain(|_| {
                    nth += 1;
                    nth.is_multiple_of(2)
                });
            }
        }
    }

    /// The nearest known beginning at or before a line.
    pub fn before_line(&self, line: u64) -> Place {
        let after = self.places.partition_point(|place| place.line <= line);
        self.places[..after].last().copied().unwrap_or(Place { line: 0, at: 0 })
    }

    /// The nearest known beginning at or before a byte.
    pub fn before_byte(&self, at: u64) -> Place {
        let after = self.places.partition_point(|place| place.at <= at);
        self.places[..after].last().copied().unwrap_or(Place { line: 0, at: 0 })
    }

    /// Where the line ends that a byte belongs to. Up to the first byte of the answer it must be looked for; if it does
    /// not end before, the second one says where it does. `None` where the index knows nothing of that.
    pub fn line_end(&self, at: u64) -> Option<(u64, Known)> {
        // Where places were left out, a block without one may have an end of a line all the same.
        if self.block != BLOCK_BYTES || at >= self.upto {
            return None;
        }
        let near = (at / self.block + 1) * self.block;
        let after = self.places.partition_point(|place| place.at <= near);
        let far = match self.places.get(after) {
            Some(place) => Known::At(place.at - 1),
            None => Known::NotBefore(self.upto),
        };
        Some((near, far))
    }

    /// Which line begins at a byte; `None` if it was not counted so far yet.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn line_at(&self, file: &File, at: u64) -> io::Result<Option<u64>> {
        if at > self.upto {
            return Ok(None);
        }
        let mut place = self.before_byte(at);
        let mut bytes = vec![0; 64 << 10];
        while place.at < at {
            let want = usize::try_from(at - place.at).unwrap_or(bytes.len()).min(bytes.len());
            let count = file.read_at(&mut bytes[..want], place.at)?;
            if count == 0 {
                return Ok(None);
            }
            place.line += memchr_iter(b'\n', &bytes[..count]).count() as u64;
            place.at += count as u64;
        }
        Ok(Some(place.line))
    }
}

/// An index that several may wait for.
pub type Shared = Arc<Mutex<Index>>;

/// The indexes of consoles that were looked at lately.
#[derive(Default)]
pub struct Indexes(Mutex<HashMap<String, (u64, Instant, Shared)>>);

impl Indexes {
    /// That of a console, by its path and what tells it from an earlier one of that path.
    pub fn of(&self, path: &str, inode: u64, size: u64) -> Shared {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, used, index)) = all.get_mut(path)
            && *of == inode
            // One that somebody works at is not waited for here.
            && index.try_lock().map_or(true, |index| index.upto <= size)
        {
            *used = Instant::now();
            return index.clone();
        }
        if all.len() >= INDEXES_MAX {
            let oldest = all
                .iter()
                .min_by_key(|(_, (_, used, _))| *used)
                .map(|(path, _)| path.clone());
            oldest.and_then(|path| all.remove(&path));
        }
        let index = Shared::default();
        all.insert(path.to_owned(), (inode, Instant::now(), index.clone()));
        index
    }
}

#[cfg(test)]
mod tests {

    use super::super::tests::file;
    use super::*;

    fn whole(text: &[u8]) -> (File, Index) {
        let (file, mut index) = (file(text), Index::default());
        assert!(index.extend(&file, text.len() as u64, Duration::MAX).unwrap());
        (file, index)
    }

    #[test]
    fn lines_are_found_by_their_numbers_and_bytes() {
        let text: Vec<u8> = (0..100_000).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
        let (file, index) = whole(&text);
        assert_eq!(index.lines(), 100_000);
        for line in [0u64, 1, 7, 9_999, 10_000, 54_321, 99_999] {
            let place = index.before_line(line);
            assert!(place.line <= line && line - place.line < 10_000, "{line} {place:?}");
            let at = usize::try_from(place.at).unwrap();
            assert!(text[at..].starts_with(format!("line {}\n", place.line).as_bytes()));
            assert_eq!(index.line_at(&file, place.at).unwrap(), Some(place.line));
        }
        assert_eq!(index.line_at(&file, text.len() as u64 + 1).unwrap(), None);
    }

    #[test]
    fn it_goes_on_where_it_ended_byte_by_byte() {
        let text = b"a\n\nbc\n".repeat(40_000);
        let (_, once) = whole(&text);
        let (file, mut index) = (file(&text), Index::default());
        for to in (0..text.len() as u64).step_by(777).chain([text.len() as u64]) {
            assert!(index.extend(&file, to, Duration::MAX).unwrap());
        }
        assert_eq!((index.lines, index.upto), (once.lines, once.upto));
        for place in &index.places {
            assert_eq!(once.line_at(&file, place.at).unwrap(), Some(place.line));
        }
    }

    /// "A bounded index of lines."
    #[test]
    fn an_index_is_bounded() {
        let mut index = Index::default();
        let block = [b"x\n".as_slice(), &[b'x'; (BLOCK_BYTES - 2) as usize]].concat();
        for _ in 0..3 * PLACES_MAX {
            index.take(&block);
        }
        assert!(index.places.len() <= PLACES_MAX);
        assert_eq!(index.lines, 3 * PLACES_MAX as u64);
        let line = index.lines / 2;
        assert!(line - index.before_line(line).line <= 8);
    }
}
