//! Files cut into pieces: holes as the filesystem tells them, data where its content says.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;
use fastcdc::v2020::FastCDC;
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use super::error::{Result, SnapshotError};
use super::format::{INLINE_BYTES_MAX, Segment};
use super::local::shown;
use super::store::Uploads;
use crate::storage::contents::VALUE_BYTES_MAX;
use crate::storage::{Digest, Object};

/// Bytes of the chunks of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sizes {
    /// Smallest, but for the last of a run of data: bounds the number of objects.
    min: usize,
    /// Usual: a change sends about this much.
    usual: usize,
    /// Largest; no more than a store takes.
    max: usize,
}

impl Sizes {
    const SMALL: Sizes = Sizes {
        min: 256 << 10,
        usual: 1 << 20,
        max: 4 << 20,
    };
    /// As large as the pieces in which Ceph is read best, and as the cutter can make them; a change
    /// sends a 64th of the file at most.
    const LARGE: Sizes = Sizes {
        min: 1 << 20,
        usual: 4 << 20,
        max: VALUE_BYTES_MAX,
    };
    /// A file of so many bytes has large chunks.
    const LARGE_FILE_BYTES: u64 = 256 << 20;

    /// For a file of so many bytes.
    fn of(file_bytes: u64) -> Sizes {
        match file_bytes {
            ..Self::LARGE_FILE_BYTES => Self::SMALL,
            _ => Self::LARGE,
        }
    }

    /// What is read ahead of the cutter, bytes: two of the largest chunks, so few bytes are moved.
    fn buffer(self) -> usize {
        2 * self.max
    }
}

/// Cuts one file after another; keeps the buffer between them.
#[derive(Default)]
pub(super) struct Cutter {
    buffer: Vec<u8>,
    /// Bytes that were read and hashed.
    pub(super) hashed: u64,
}

impl Cutter {
    /// Sends the bytes of a file that had `size` bytes a moment ago. What another process does to
    /// it meanwhile may or may not be included.
    pub(super) fn cut(&mut self, file: &File, size: u64, uploads: &mut Uploads, path: &Path) -> Result<Vec<Segment>> {
        if size <= INLINE_BYTES_MAX as u64 {
            let mut bytes = vec![0; size as usize];
            let length = fill(file, &mut bytes, 0, path)?;
            bytes.truncate(length);
            self.hashed += length as u64;
            return Ok(if bytes.is_empty() {
                Vec::new()
            } else {
                vec![Segment::Inline(Bytes::from(bytes))]
            });
        }
        let (sizes, mut segments) = (Sizes::of(size), Vec::new());
        let mut at = 0;
        while at < size {
            let data = seek(file, at, Whence::SeekData, size, path)?;
            if data > at {
                segments.push(Segment::Hole(data - at));
            }
            if data >= size {
                break;
            }
            // Never at `data` itself, or a hole punched just now would keep us here.
            let end = seek(file, data, Whence::SeekHole, size, path)?.max(data + 1);
            let reached = self.data(file, sizes, data..end, &mut segments, uploads, path)?;
            if reached < end {
                break;
            }
            at = end;
        }
        Ok(segments)
    }

    /// Cuts one run of data; returns where it ended, before `end` if the file was made shorter.
    fn data(
        &mut self,
        file: &File,
        sizes: Sizes,
        Range { start, end }: Range<u64>,
        segments: &mut Vec<Segment>,
        uploads: &mut Uploads,
        path: &Path,
    ) -> Result<u64> {
        if end - start <= sizes.min as u64 {
            let mut bytes = vec![0; (end - start) as usize];
            let length = fill(file, &mut bytes, start, path)?;
            bytes.truncate(length);
            self.chunk(Bytes::from(bytes), segments, uploads, path)?;
            return Ok(start + length as u64);
        }
        self.buffer.resize(sizes.buffer(), 0);
        let (mut at, mut from, mut to, mut ended) = (start, 0, 0, false);
        loop {
            if to - from < sizes.max && !ended {
                self.buffer.copy_within(from..to, 0);
                (from, to) = (0, to - from);
                let want = (end - at).min((sizes.buffer() - to) as u64) as usize;
                let room = self.buffer.get_mut(to..to + want).unwrap_or_default();
                let got = fill(file, room, at, path)?;
                at += got as u64;
                to += got;
                ended = got < want || at == end;
            }
            let window = self.buffer.get(from..to).unwrap_or_default();
            if window.is_empty() {
                return Ok(at);
            }
            let cutter = FastCDC::new(window, sizes.min, sizes.usual, sizes.max);
            let (_, length) = cutter.cut(0, window.len());
            let length = length.clamp(1, window.len());
            let bytes = Bytes::copy_from_slice(window.get(..length).unwrap_or(window));
            from += length;
            self.chunk(bytes, segments, uploads, path)?;
        }
    }

    /// Names and sends one chunk.
    fn chunk(&mut self, bytes: Bytes, segments: &mut Vec<Segment>, uploads: &mut Uploads, path: &Path) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let digest = Digest::of(&bytes);
        self.hashed += bytes.len() as u64;
        segments.push(Segment::Data {
            digest,
            length: bytes.len() as u32,
        });
        uploads.put(Object::Chunk(digest), bytes, path)
    }
}

/// Reads until the buffer is full or the file ends; the bytes read.
fn fill(file: &File, buffer: &mut [u8], offset: u64, path: &Path) -> Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(got) => filled += got,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => {
                let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
                return Err(SnapshotError::local(format!("reading {}", shown(path)), errno));
            }
        }
    }
    Ok(filled)
}

/// Where data or the next hole begins, `size` at most. A filesystem that can't tell has data only.
fn seek(file: &File, at: u64, whence: Whence, size: u64, path: &Path) -> Result<u64> {
    let from = i64::try_from(at).unwrap_or(i64::MAX);
    let data = matches!(whence, Whence::SeekData);
    match lseek(file, from, whence) {
        Ok(found) => Ok(u64::try_from(found).unwrap_or(size).clamp(at, size)),
        Err(Errno::ENXIO) => Ok(size),
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => Ok(if data { at } else { size }),
        Err(errno) => Err(SnapshotError::local(format!("reading {}", shown(path)), errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_sends_a_64th_of_a_large_file_at_most() {
        assert_eq!(Sizes::of(Sizes::LARGE_FILE_BYTES - 1), Sizes::SMALL);
        assert_eq!(Sizes::of(Sizes::LARGE_FILE_BYTES), Sizes::LARGE);
        assert!(Sizes::LARGE.usual as u64 <= Sizes::LARGE_FILE_BYTES / 64);
        for sizes in [Sizes::SMALL, Sizes::LARGE] {
            assert!(sizes.min < sizes.usual && sizes.usual < sizes.max && sizes.max <= VALUE_BYTES_MAX);
        }
    }
}
