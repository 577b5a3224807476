//! Names checked when they are made: a `Name` that exists is valid.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest name of a job, queue, label or parameter, bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// The name of a job, queue, label or parameter: `[A-Za-z0-9_][A-Za-z0-9_.-]*`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

impl Name {
    /// Checks the text; `None` if it is no valid name.
    pub fn new(text: &str) -> Option<Self> {
        is_name(text, NAME_BYTES_MAX).then(|| Name(text.into()))
    }

    /// Checks bytes that the kernel gave.
    pub fn from_os(name: &std::ffi::OsStr) -> Option<Self> {
        name.to_str().and_then(Self::new)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether the text has the form of a name and at most `max` bytes.
fn is_name(text: &str, max: usize) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let mut bytes = text.bytes();
    text.len() <= max && bytes.next().is_some_and(plain) && bytes.all(|b| plain(b) || b == b'.' || b == b'-')
}

/// Longest id of a ticket, bytes: a job's name, a build's number and a task fit in.
pub const TICKET_ID_BYTES_MAX: usize = 200;

/// The id of a ticket: formed like a name, but longer.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TicketId(Arc<str>);

impl TicketId {
    /// Checks the text; `None` if it is no valid id.
    pub fn new(text: &str) -> Option<Self> {
        is_name(text, TICKET_ID_BYTES_MAX).then(|| TicketId(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The job of a build's ticket, which is the only one whose id has this shape:
    /// `<job>.<build>.<task>` or `<job>.<build>.<task>.r<k>`, the task a number or `control`.
    pub fn job(&self) -> Option<&str> {
        let text = match self.0.rsplit_once(".r") {
            Some((head, run)) if is_number(run) => head,
            _ => &self.0,
        };
        let (head, task) = text.rsplit_once('.')?;
        let (job, build) = head.rsplit_once('.')?;
        let shaped = !job.is_empty() && is_number(build) && (task == "control" || is_number(task));
        shaped.then_some(job)
    }

    /// Whether it is one of a build's ticket.
    pub fn is_build_shaped(&self) -> bool {
        self.job().is_some()
    }
}

/// Whether the text is a decimal number without a sign.
fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// `Display`, `Debug`, `AsRef` and `Borrow` of a checked text.
macro_rules! text {
    ($type:ident) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

text!(Name);
text!(TicketId);

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Name::new(&text)
            .ok_or_else(|| D::Error::custom("this is no name: letters, digits and _ . -, at most 128 bytes"))
    }
}
