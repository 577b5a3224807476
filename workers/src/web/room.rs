//! Room for what waits until clients take it: bounded in bytes, however many clients are slow.

use std::sync::Arc;

use axum::body::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::sight::{Fault, Result};

/// What has no more bytes needs no room: connections are bounded in number.
const SMALL_BYTES: usize = 16 << 10;

/// Bytes of one permit.
const UNIT_BYTES: usize = 1 << 10;

/// So many bytes at once.
pub struct Room(Arc<Semaphore>);

/// Bytes with the room that they take.
struct Kept {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Room {
    /// For so many bytes.
    pub fn new(bytes: usize) -> Self {
        Room(Arc::new(Semaphore::new(bytes / UNIT_BYTES)))
    }

    /// The same bytes, which give their room back when the last who has them drops them.
    ///
    /// # Errors
    /// `Busy` if others have the room: nobody waits for it with what he has made already.
    pub fn keep(&self, bytes: impl Into<Bytes>) -> Result<Bytes> {
        let bytes = bytes.into();
        if bytes.len() <= SMALL_BYTES {
            return Ok(bytes);
        }
        let units = u32::try_from(bytes.len().div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        match self.0.clone().try_acquire_many_owned(units) {
            Ok(room) => Ok(Bytes::from_owner(Kept { bytes, _room: room })),
            Err(_) => Err(Fault::Busy("answers that clients have not taken yet")),
        }
    }

    /// Whether so many bytes would find room now: what would not is not even made.
    ///
    /// # Errors
    /// `Busy`, as `keep`.
    pub fn has(&self, bytes: usize) -> Result<()> {
        match self.0.available_permits() >= bytes.div_ceil(UNIT_BYTES) {
            true => Ok(()),
            false => Err(Fault::Busy("answers that clients have not taken yet")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_in_bytes() {
        let room = Room::new(100 << 10);
        let first = room.keep(vec![b'x'; 60 << 10]).unwrap();
        assert_eq!((first.len(), first[0]), (60 << 10, b'x'));
        assert!(matches!(room.keep(vec![0; 60 << 10]), Err(Fault::Busy(_))));
        assert!(room.has(40 << 10).is_ok() && room.has(41 << 10).is_err());
        // What is small goes on.
        let small: Vec<Bytes> = (0..100).map(|_| room.keep(vec![0; SMALL_BYTES]).unwrap()).collect();
        // A part of it is all of it.
        let part = first.slice(1..2);
        drop((first, small));
        assert!(room.keep(vec![0; 60 << 10]).is_err());
        drop(part);
        assert_eq!(room.keep(vec![0; 60 << 10]).unwrap().len(), 60 << 10);
        assert!(room.has(100 << 10).is_ok());
    }
}
