//! The body of a request, read within bounds of size, time and memory.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Longest body, bytes: GitHub sends no longer one.
pub const BODY_BYTES_MAX: usize = 25 << 20;

/// Bytes of bodies in memory at once: one of the longest, and room for many of the usual ones of
/// some kilobytes. With it the whole process stays below 64 MiB.
pub const BODIES_BYTES_MAX: usize = 32 << 20;

/// How long a body may take to arrive: GitHub itself gives up after 10 s.
const BODY_TIME: Duration = Duration::from_secs(10);

/// How long a body waits for memory.
const MEMORY_TIME: Duration = Duration::from_secs(2);

/// How much of a body that is too long is read and thrown away, so that whoever sends it is still
/// there for the answer.
const DRAINED_BYTES_MAX: usize = 64 << 20;

/// Memory is taken in steps of so many bytes, as the body arrives: a promise costs nothing.
const STEP_BYTES: usize = 16 << 10;

/// A body, and its share of the memory for as long as it lives.
#[derive(Debug)]
pub struct Whole {
    /// The bytes as they came.
    pub bytes: Vec<u8>,
    _memory: Vec<OwnedSemaphorePermit>,
}

/// Why a body was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It did not arrive in time.
    Slow,
    /// It is too long.
    Long,
    /// There is no memory for it just now.
    Full,
    /// The connection broke.
    Broken,
}

/// The memory of all bodies.
#[derive(Clone)]
pub struct Memory(Arc<Semaphore>);

impl Default for Memory {
    fn default() -> Self {
        Memory(Arc::new(Semaphore::new(BODIES_BYTES_MAX)))
    }
}

impl Memory {
    /// Bytes in use.
    pub fn used(&self) -> usize {
        BODIES_BYTES_MAX.saturating_sub(self.0.available_permits())
    }

    /// Reads a body. `length` is what Content-Length says of it.
    pub async fn read(&self, body: Body, length: Option<u64>) -> Result<Whole, Refused> {
        let long = length.is_some_and(|length| length > BODY_BYTES_MAX as u64);
        let reading = async {
            if long {
                drain(body, 0).await
            } else {
                self.collect(body).await
            }
        };
        tokio::time::timeout(BODY_TIME, reading)
            .await
            .unwrap_or(Err(Refused::Slow))
    }

    async fn collect(&self, mut body: Body) -> Result<Whole, Refused> {
        let mut whole = Whole {
            bytes: Vec::new(),
            _memory: Vec::new(),
        };
        let mut room = 0;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| Refused::Broken)?.into_data() else {
                continue;
            };
            let length = whole.bytes.len() + data.len();
            if length > BODY_BYTES_MAX {
                drop(whole);
                return drain(body, length).await;
            }
            if length > room {
                let more = (length - room).next_multiple_of(STEP_BYTES);
                whole._memory.push(self.take(more).await?);
                room += more;
            }
            whole.bytes.extend_from_slice(&data);
        }
        Ok(whole)
    }

    async fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Refused> {
        let bytes = u32::try_from(bytes).map_err(|_| Refused::Full)?;
        let taking = self.0.clone().acquire_many_owned(bytes);
        match tokio::time::timeout(MEMORY_TIME, taking).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Refused::Full),
        }
    }
}

/// Reads on and keeps nothing.
async fn drain(mut body: Body, mut read: usize) -> Result<Whole, Refused> {
    while read < DRAINED_BYTES_MAX {
        let Some(Ok(frame)) = body.frame().await else { break };
        read += frame.data_ref().map_or(0, |data| data.len());
    }
    Err(Refused::Long)
}
