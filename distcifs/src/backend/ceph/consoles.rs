//! Consoles: objects that are appended to under the guard of an attribute. The sequence number of
//! a console is its length + 1, so an append that was done tells both without being asked.

use std::ffi::CStr;

use bytes::Bytes;
use nix::errno::Errno;

use super::errors::Kind;
use super::rados::{Outcome, Read, Write};
use super::{Core, ROUNDS_MAX};
use crate::storage::contents::SEALED;
use crate::storage::{Appended, Error, Result};

/// The attribute with the sequence number.
const SEQUENCE: &CStr = c"sequence";

/// What it is on a console that takes nothing more.
const SEALED_TEXT: &str = "sealed";

impl Core {
    /// Appends under the guard, or seals.
    pub(super) async fn append(&self, what: &str, name: &str, sequence: u64, bytes: &Bytes) -> Result<Appended> {
        let failed = |errno| self.fault(what, Kind::Writes, errno);
        for _ in 0..ROUNDS_MAX {
            if sequence == SEALED {
                if !bytes.is_empty() {
                    let (length, sequence) = self.console(what, name).await?;
                    return Ok(Appended::Mismatch { length, sequence });
                }
                let seal = Write::new().set(SEQUENCE, SEALED_TEXT.as_bytes());
                self.change(name, seal, 0).await.map_err(failed)?;
                let (length, sequence) = self.console(what, name).await?;
                return Ok(Appended::Done { length, sequence });
            }
            let length = sequence.saturating_sub(1) + bytes.len() as u64;
            let next = length + 1;
            match self.append_at(name, sequence, bytes, next).await {
                Ok(()) => return Ok(Appended::Done { length, sequence: next }),
                Err(Errno::ECANCELED | Errno::EEXIST | Errno::ENOENT | Errno::ENODATA) => {}
                Err(errno) => return Err(failed(errno)),
            }
            let (length, found) = self.console(what, name).await?;
            if found != sequence {
                return Ok(Appended::Mismatch {
                    length,
                    sequence: found,
                });
            }
            // It came to stand there just now.
        }
        Err(failed(Errno::EBUSY))
    }

    async fn append_at(&self, name: &str, sequence: u64, bytes: &Bytes, next: u64) -> Outcome<()> {
        let guarded = match sequence {
            0 => Write::new().create(),
            _ => Write::new().guard(SEQUENCE, sequence.to_string().as_bytes()),
        };
        let write = guarded.append(bytes).set(SEQUENCE, next.to_string().as_bytes());
        self.change(name, write, bytes.len()).await
    }

    /// Where a console stands: its length and sequence number; 0 and 0 if there is none.
    async fn console(&self, what: &str, name: &str) -> Result<(u64, u64)> {
        let read = Read {
            attributes: true,
            ..Read::default()
        };
        let found = self.read(name, read).await;
        let Some(answer) = found.map_err(|errno| self.fault(what, Kind::Reads, errno))? else {
            return Ok((0, 0));
        };
        let text = answer.text(SEQUENCE);
        if text == SEALED_TEXT {
            return Ok((answer.size, SEALED));
        }
        match text.parse() {
            Ok(sequence) => Ok((answer.size, sequence)),
            Err(_) => Err(Error::Damaged {
                what: what.to_owned(),
                why: format!("its attribute sequence is {text:?}"),
            }),
        }
    }
}
