//! The index as it is at one moment, told as rows: for a backup of a store that goes on.
//!
//! A row is written as the letter of its table, the length of key and value (four bytes each,
//! little-endian), and both.

use std::io::{self, BufReader, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::disk::{Disk, Row};
use super::{Embedded, Shared};

/// Bytes told at once, about.
const BLOCK_BYTES: usize = 256 << 10;

/// The letter of the row that is none: the end.
const END: u8 = b'.';

/// Largest value of a row, bytes: more than any entry or value of a record has.
const VALUE_BYTES_MAX: u32 = 64 << 20;

/// Largest key, bytes: a path, or the name of a record with a key of it.
const KEY_BYTES_MAX: u32 = 64 << 10;

/// How long the index may be read for one backup: it grows by what is written meanwhile.
const READ_TIME: Duration = Duration::from_secs(1800);

/// Keeps what the store removes by itself while it lives: consoles. What gc removes is its own
/// affair.
pub struct Keeping(Arc<Shared>);

impl Drop for Keeping {
    fn drop(&mut self) {
        self.0.files.consoles.let_go();
    }
}

/// Why rows could not be told or taken.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    /// The index can't be read or written.
    #[error("the index: {0}")]
    Index(Box<redb::Error>),
    /// What came is cut short or no row.
    #[error("the rows of the index: {0}")]
    Cut(#[from] io::Error),
    /// It was given up.
    #[error("{0}")]
    GivenUp(&'static str),
}

impl From<redb::Error> for RowsError {
    fn from(error: redb::Error) -> Self {
        RowsError::Index(Box::new(error))
    }
}

/// What takes the blocks of rows: `false` if it takes none at the moment, `None` if none any more.
pub type Take<'a> = dyn FnMut(&mut Vec<u8>) -> Option<bool> + 'a;

impl Embedded {
    /// Keeps all that an index told from now on refers to, but for what gc removes.
    ///
    /// # Errors
    /// Those of the system.
    pub fn keep(&self) -> io::Result<Keeping> {
        self.core.shared.files.consoles.keep()?;
        Ok(Keeping(self.core.shared.clone()))
    }

    /// How many rows the index has now.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn count_rows(&self) -> Result<u64, RowsError> {
        Ok(self.core.shared.committer.disk.count()?)
    }

    /// Tells the whole index as it is durable now, in blocks. It blocks, and must be told where that
    /// does not matter.
    ///
    /// # Errors
    /// If it can't be read, nobody takes it, or the store needs its index for itself.
    pub fn tell_rows(&self, take: &mut Take<'_>) -> Result<(), RowsError> {
        let (begun, mut block, mut given_up) = (Instant::now(), Vec::with_capacity(BLOCK_BYTES), None);
        self.core.shared.committer.disk.rows(|row, wanted| {
            write(&mut block, row);
            if block.len() < BLOCK_BYTES {
                return true;
            }
            given_up = hand_over(&mut block, take, &|| {
                if wanted() {
                    return Some("the disk is full, and the index is needed for itself; try again later");
                }
                (begun.elapsed() > READ_TIME).then_some("the index was read too slowly; try again later")
            });
            given_up.is_none()
        })?;
        if given_up.is_none() {
            block.push(END);
            given_up = hand_over(&mut block, take, &|| {
                (begun.elapsed() > READ_TIME).then_some("the index was read too slowly; try again later")
            });
        }
        given_up.map_or(Ok(()), |why| Err(RowsError::GivenUp(why)))
    }
}

impl Embedded {
    /// Makes another index of what this one tells; how many rows. `step` is told of each.
    ///
    /// # Errors
    /// As telling and making have them.
    pub fn copy_index(&self, path: &Path, step: &dyn Fn()) -> Result<u64, RowsError> {
        let (reader, mut writer) = io::pipe()?;
        std::thread::scope(|threads| {
            let telling = threads.spawn(move || {
                // A reader that has gone is told by its own error.
                self.tell_rows(&mut |block| writer.write_all(block).is_ok().then_some(true))
            });
            let made = Rows(BufReader::new(reader)).make_index(path, step);
            match telling.join() {
                Ok(Err(error)) if made.is_ok() => Err(error),
                _ => made,
            }
        })
    }
}

/// Hands a block over, as soon as it is taken; why it is given up instead.
fn hand_over(
    block: &mut Vec<u8>,
    take: &mut Take<'_>,
    ends: &dyn Fn() -> Option<&'static str>,
) -> Option<&'static str> {
    loop {
        match take(block) {
            Some(true) => {
                block.clear();
                return None;
            }
            Some(false) => {}
            None => return Some("nobody takes the rows any more"),
        }
        if let Some(why) = ends() {
            return Some(why);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn write(block: &mut Vec<u8>, row: &Row<'_>) {
    block.push(row.table);
    for bytes in [row.key.as_bytes(), row.value] {
        // Both are bounded far below.
        block.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    }
    block.extend_from_slice(row.key.as_bytes());
    block.extend_from_slice(row.value);
}

/// Rows that come from somewhere.
pub struct Rows<R>(pub R);

impl<R: Read> Rows<R> {
    /// Makes an index of them, durably. `step` is told of each.
    ///
    /// # Errors
    /// If they are cut short or are none, or the index can't be written.
    pub fn make_index(mut self, path: &Path, step: &dyn Fn()) -> Result<u64, RowsError> {
        let (mut cut, mut count) = (None, 0);
        let made = Disk::make(path, |put| match self.next() {
            Ok(Some((table, key, value))) => {
                count += 1;
                step();
                let (key, value) = (&*key, &*value);
                put(Row { table, key, value }).map(|()| true)
            }
            Ok(None) => Ok(false),
            Err(error) => {
                cut = Some(error);
                Err(redb::Error::PreviousIo)
            }
        });
        match cut {
            Some(error) => Err(error.into()),
            None => Ok(made.map(|()| count)?),
        }
    }

    fn next(&mut self) -> io::Result<Option<(u8, String, Vec<u8>)>> {
        let odd = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let mut table = [0];
        self.0.read_exact(&mut table)?;
        if table[0] == END {
            return Ok(None);
        }
        let (key, value) = (self.length()?, self.length()?);
        if key > KEY_BYTES_MAX || value > VALUE_BYTES_MAX {
            return Err(odd("a row is too long"));
        }
        let key = String::from_utf8(self.bytes(key)?).map_err(|_| odd("a key is no text"))?;
        Ok(Some((table[0], key, self.bytes(value)?)))
    }

    fn length(&mut self) -> io::Result<u32> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length)?;
        Ok(u32::from_le_bytes(length))
    }

    fn bytes(&mut self, length: u32) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        self.0.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}
