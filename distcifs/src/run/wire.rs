//! What a command and the daemon of a mounted folder say to each other on the socket in the source:
//! lines of JSON, and after those of a backup the rows of the index.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::repository::maintain::{Checked, Far, Swept};

/// The socket's name in a source.
pub(super) const SOCKET: &str = "socket";

/// Longest line, bytes: a fault names some paths and digests.
pub(super) const LINE_BYTES_MAX: u64 = 64 << 10;

/// What a command asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Request {
    /// What to do.
    pub(super) work: Work,
    /// Who asks, for those who come meanwhile.
    pub(super) who: String,
    /// Seconds to wait for others.
    pub(super) wait: u64,
    /// Device and inode of the source as the command sees it.
    pub(super) source: (u64, u64),
}

/// What can be done beside a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Work {
    /// Remove what nothing needs.
    Gc,
    /// Check everything.
    Fsck,
    /// Tell all rows of the index, and keep all that they refer to until the command hangs up.
    Backup,
}

/// A line of the daemon's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Answer {
    /// How far it is.
    Progress(Told),
    /// A line for standard output.
    Line(String),
    /// The rows of the index follow (see backend/embedded/snapshot.rs), and nothing after them. How many, the word
    /// before has told.
    Rows,
    /// It is over; whether everything is well.
    End(bool),
    /// It is over, for this reason.
    Failed(String),
}

/// How far it is. A program that was installed anew meets the daemon of before, which tells what is being done and
/// to how many things.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Told {
    /// As it is told now.
    Far(Far),
    /// As it was.
    Plain(String, u64),
}

impl From<Told> for Far {
    fn from(told: Told) -> Far {
        match told {
            Told::Far(far) => far,
            Told::Plain(doing, done) => Far {
                doing,
                done,
                ..Far::default()
            },
        }
    }
}

/// What came of the work: lines for standard output, and the last word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) lines: Vec<String>,
    pub(super) end: Answer,
}

impl From<&Checked> for Verdict {
    fn from(checked: &Checked) -> Self {
        let mut lines: Vec<String> = checked.faults.iter().map(ToString::to_string).collect();
        lines.push(checked.to_string());
        let end = Answer::End(checked.faults.is_empty());
        Verdict { lines, end }
    }
}

impl Verdict {
    /// What gc did in a source.
    pub(super) fn of_gc(source: &Path, swept: &Swept) -> Self {
        let mut lines: Vec<String> = swept.faults.iter().map(ToString::to_string).collect();
        if lines.is_empty() {
            lines.extend(swept.told.iter().map(ToString::to_string));
            lines.push(swept.to_string());
            let end = Answer::End(true);
            return Verdict { lines, end };
        }
        let end = Answer::Failed(format!(
            "{}: nothing was removed, as what is damaged may need it; run distcifs fsck",
            source.display()
        ));
        Verdict { lines, end }
    }
}

/// Device and inode of a folder: whether two see the same one.
pub(super) fn identity(folder: &Path) -> std::io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let found = std::fs::metadata(folder)?;
    Ok((found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_plain_json() {
        let request = Request {
            work: Work::Gc,
            who: "process 7".into(),
            wait: 600,
            source: (1, 2),
        };
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(text, r#"{"work":"gc","who":"process 7","wait":600,"source":[1,2]}"#);
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
        let far = Far {
            doing: "x".into(),
            done: 3,
            of: 7,
            bytes: 0,
        };
        for answer in [Answer::Progress(Told::Far(far)), Answer::Rows, Answer::End(true)] {
            let text = serde_json::to_string(&answer).unwrap();
            assert_eq!(serde_json::from_str::<Answer>(&text).unwrap(), answer, "{text}");
        }
        let before = serde_json::from_str(r#"{"progress":["reading",3]}"#).unwrap();
        let Answer::Progress(told) = before else {
            panic!("{before:?}")
        };
        assert_eq!(Far::from(told).to_string(), "reading: 3");
    }
}
