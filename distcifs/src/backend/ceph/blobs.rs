//! Blobs, and ranges of blobs and consoles.

use std::ffi::CStr;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use nix::errno::Errno;

use super::errors::Kind;
use super::rados::{Answer, Outcome, Read, Write};
use super::sums::{SUM, Sum};
use super::{Core, ROUNDS_MAX};
use crate::backend::work::run;
use crate::storage::bounds::refused;
use crate::storage::contents::VALUE_BYTES_MAX;
use crate::storage::names::check_blob;
use crate::storage::{Digest, Error, Object, Result};

/// The attribute with the epoch in which a blob was put last.
const EPOCH: &CStr = c"epoch";

/// Most bytes read by one operation: the largest chunk, and one byte that shows its end.
const STEP_BYTES_MAX: usize = VALUE_BYTES_MAX + 1;

/// Bytes read first by whoever does not know the length and asks for [`VALUE_BYTES_MAX`]: most blobs
/// are smaller, and room is taken for what is asked for.
const FIRST_BYTES: usize = 1 << 20;

/// An offset past which no object reaches.
const OFFSET_MAX: u64 = 1 << 40;

/// How a blob stands before it is put.
enum Standing {
    Absent,
    /// It is there, with this mark.
    Whole(Mark),
    /// It has another length: somebody else has been there.
    Broken(Mark),
}

/// The epoch in which a blob was put last, as its attribute has it; empty if it has none.
struct Mark(String);

impl Mark {
    /// The epoch; what is no number is older than all.
    fn epoch(&self) -> Option<u64> {
        self.0.parse().ok()
    }

    /// Whether it is older than an epoch.
    fn is_before(&self, epoch: u64) -> bool {
        self.epoch() < Some(epoch)
    }

    /// The start of a change that is made only while the mark is still this one.
    fn guard(&self) -> Write {
        match self.0.as_str() {
            "" => Write::new().assert_exists(),
            mark => Write::new().assert_exists().guard(EPOCH, mark.as_bytes()),
        }
    }
}

impl Core {
    /// Stores a blob; `true` if it was not there.
    pub(super) async fn put(&self, what: &str, object: Object, bytes: Bytes) -> Result<bool> {
        let (name, length) = (object.to_string(), bytes.len());
        let checked = bytes.clone();
        // The sum first: bytes that change in between are not those of the digest, or not those of the sum.
        let sum = run(length, move || {
            let sum = object.digest().map(|digest| Sum::of(digest, &checked));
            check_blob(&object, &checked).map(|()| sum)
        });
        let sum = sum.await?.map_or(String::new(), Sum::text);
        let epoch = self.epoch.load(Ordering::SeqCst);
        let stored = async {
            for _ in 0..ROUNDS_MAX {
                // Asking costs a fifth of a write, and a write that is refused as much as one that is
                // done: OSDs keep a log of both.
                match self.standing(&name, length).await? {
                    // A later mark is another mount's: it must never be lowered.
                    Standing::Whole(mark) if !mark.is_before(epoch) => return Ok(false),
                    Standing::Whole(mark) => {
                        let touch = mark.guard().set(EPOCH, epoch.to_string().as_bytes());
                        match self.write(&name, touch).await {
                            Ok(()) => return Ok(false),
                            // It was swept, or somebody else marked it.
                            Err(Errno::ENOENT | Errno::ECANCELED) => {}
                            Err(errno) => return Err(errno),
                        }
                    }
                    Standing::Broken(mark) => {
                        let later = mark.epoch().unwrap_or(0).max(epoch);
                        match self.send(&name, &bytes, &sum, later, mark.guard()).await {
                            Ok(()) => return Ok(true),
                            Err(Errno::ENOENT | Errno::ECANCELED) => {}
                            Err(errno) => return Err(errno),
                        }
                    }
                    Standing::Absent => match self.send(&name, &bytes, &sum, epoch, Write::new().create()).await {
                        Ok(()) => return Ok(true),
                        Err(Errno::EEXIST) => {}
                        Err(errno) => return Err(errno),
                    },
                }
            }
            Err(Errno::EBUSY)
        };
        stored.await.map_err(|errno| self.fault(what, Kind::Writes, errno))
    }

    /// Sends a blob's bytes with their mark and sum, if what `start` asks for holds.
    async fn send(&self, name: &str, bytes: &Bytes, sum: &str, epoch: u64, start: Write) -> Outcome<()> {
        let length = bytes.len();
        // Before the copy that the operation makes.
        let room = self.room(length).await?;
        let (bytes, sum, epoch) = (bytes.clone(), sum.to_owned(), epoch.to_string());
        let write = run(length, move || {
            Ok(start
                .replace(&bytes)
                .set(EPOCH, epoch.as_bytes())
                .set(SUM, sum.as_bytes()))
        });
        let write = write.await.map_err(|_| Errno::ECANCELED)?;
        self.fly(self.pool()?.write(name, write, room, drop)).await
    }

    async fn standing(&self, name: &str, length: usize) -> Outcome<Standing> {
        Ok(match self.marked(name).await? {
            None => Standing::Absent,
            Some((size, mark)) if size != length as u64 => Standing::Broken(mark),
            Some((_, mark)) => Standing::Whole(mark),
        })
    }

    /// The length and the mark of a blob.
    async fn marked(&self, name: &str) -> Outcome<Option<(u64, Mark)>> {
        let read = Read {
            attributes: true,
            ..Read::default()
        };
        let found = self.read(name, read).await?;
        Ok(found.map(|found| (found.size, Mark(found.text(EPOCH)))))
    }

    /// Removes a blob whose mark is older than an epoch; its length if it was removed. One without
    /// a mark stays: that it has none can't be compared in the operation that removes it.
    pub(super) async fn sweep(&self, what: &str, name: &str, epoch: u64) -> Result<Option<u64>> {
        let swept = async {
            for _ in 0..ROUNDS_MAX {
                let Some((size, mark)) = self.marked(name).await? else {
                    return Ok(None);
                };
                if mark.0.is_empty() || !mark.is_before(epoch) {
                    return Ok(None);
                }
                match self.write(name, mark.guard().remove()).await {
                    Ok(()) => return Ok(Some(size)),
                    Err(Errno::ENOENT) => return Ok(None),
                    // Somebody put it just now.
                    Err(Errno::ECANCELED) => {}
                    Err(errno) => return Err(errno),
                }
            }
            Err(Errno::EBUSY)
        };
        swept.await.map_err(|errno| self.fault(what, Kind::Writes, errno))
    }

    /// Reads a range of a blob or console.
    pub(super) async fn read_range(
        &self,
        what: &str,
        object: Object,
        offset: u64,
        length: usize,
    ) -> Result<Option<Bytes>> {
        if let Object::Record(name) = &object {
            return Err(refused(name, "a record is queried, not read"));
        }
        let digest = object.digest().copied();
        let name = object.to_string();
        let failed = |errno| self.fault(what, Kind::Reads, errno);
        let first = match length {
            VALUE_BYTES_MAX => FIRST_BYTES,
            known => known.min(STEP_BYTES_MAX),
        };
        let sums = digest.is_some() && offset == 0;
        let Some(answer) = self.read_some(&name, offset, first, sums).await.map_err(failed)? else {
            return Ok(None);
        };
        let sum = Sum::parse(&answer.text(SUM));
        let size = answer.size;
        if digest.is_some() && size > VALUE_BYTES_MAX as u64 {
            let why = format!("it has {size} bytes, more than any blob");
            return Err(damaged(what, why));
        }
        let mut bytes = Bytes::from(answer.bytes);
        let left = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX);
        if bytes.len() < left.min(length) {
            let rest = self
                .read_rest(&name, offset, bytes, left.min(length))
                .await
                .map_err(failed)?;
            let Some(all) = rest else { return Ok(None) };
            bytes = all;
        }
        match digest {
            // Fewer bytes than that: it was another at the second look, and these may be of both.
            Some(digest) if offset == 0 && length as u64 >= size => verify(what, digest, sum, bytes).await.map(Some),
            _ => Ok(Some(bytes)),
        }
    }

    async fn read_some(&self, name: &str, offset: u64, length: usize, attributes: bool) -> Outcome<Option<Answer>> {
        let read = Read {
            range: (length > 0 && offset < OFFSET_MAX).then_some((offset, length)),
            attributes,
            ..Read::default()
        };
        self.read(name, read).await
    }

    /// Reads on, up to `wanted` bytes; `None` if the object has gone meanwhile.
    async fn read_rest(&self, name: &str, offset: u64, start: Bytes, wanted: usize) -> Outcome<Option<Bytes>> {
        let mut all = BytesMut::with_capacity(wanted);
        all.extend_from_slice(&start);
        drop(start);
        while all.len() < wanted {
            let length = (wanted - all.len()).min(STEP_BYTES_MAX);
            let Some(answer) = self.read_some(name, offset + all.len() as u64, length, false).await? else {
                return Ok(None);
            };
            if answer.bytes.is_empty() {
                break;
            }
            all.extend_from_slice(&answer.bytes);
        }
        Ok(Some(all.freeze()))
    }
}

fn damaged(what: &str, why: String) -> Error {
    Error::Damaged {
        what: what.to_owned(),
        why,
    }
}

async fn verify(what: &str, digest: Digest, sum: Option<Sum>, bytes: Bytes) -> Result<Bytes> {
    let what = what.to_owned();
    run(bytes.len(), move || {
        if sum == Some(Sum::of(&digest, &bytes)) || Digest::of(&bytes) == digest {
            Ok(bytes)
        } else {
            Err(damaged(&what, "its bytes have another digest".to_owned()))
        }
    })
    .await
}
