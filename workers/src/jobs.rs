//! The configurations of all jobs, for whoever has to know them: read once, then followed by events.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::tree::{self, Result, Tree, Trouble};

/// Longest configuration read, bytes: the tree takes no longer one.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// What an event means for somebody who knows all configurations.
#[derive(Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// This job was configured or removed.
    Job(&'a str),
    /// This job was made, or came back from the trash.
    Made(&'a str),
    /// The first is called as the second from now on, and is the same job.
    Renamed(&'a str, &'a str),
    /// Events were lost: look at every job again.
    All,
    /// Nothing.
    None,
}

/// Reads a line of `.events`.
pub fn change(line: &str) -> Change<'_> {
    let mut words = line.split_ascii_whitespace();
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some("resync"), ..) => Change::All,
        (Some("job"), Some(job), Some("renamed"), Some(to)) => Change::Renamed(job, to),
        (Some("job"), Some(job), Some("created"), _) => Change::Made(job),
        (Some("job"), Some(job), Some("configured" | "removed"), _) => Change::Job(job),
        _ => Change::None,
    }
}

/// The names of all jobs.
pub fn names(tree: &Tree) -> Result<Vec<String>> {
    let folder = tree.jobs();
    let away = |e: io::Error| Trouble::Away(format!("can't list {}: {e}", folder.display()));
    let name = |entry: io::Result<fs::DirEntry>| entry.map(|entry| entry.file_name().to_string_lossy().into_owned());
    fs::read_dir(&folder)
        .map_err(away)?
        .map(name)
        .collect::<io::Result<_>>()
        .map_err(away)
}

/// When a job got its name, if that is later than it was made; `None` if it is not there or may not be looked
/// at.
pub fn named(tree: &Tree, job: &str) -> Option<SystemTime> {
    let facts = fs::metadata(tree.job(job)).ok()?;
    let (seconds, rest) = (
        u64::try_from(facts.ctime()).ok()?,
        u32::try_from(facts.ctime_nsec()).ok()?,
    );
    UNIX_EPOCH.checked_add(Duration::new(seconds, rest))
}

/// Who owns a job; nobody if that is not known.
pub(crate) fn owner(tree: &Tree, job: &str) -> u32 {
    fs::metadata(tree.job(job)).map_or(u32::MAX, |facts| facts.uid())
}

/// A job's configuration and when it was written; `None` if there is none that may be read.
///
/// # Errors
/// `Held` if its owner holds it by a lease: the other jobs are not to wait for that.
pub fn configuration(tree: &Tree, job: &str) -> Result<Option<(Vec<u8>, SystemTime)>> {
    let path = tree.job(job).join("config.json");
    let what = || format!("can't read {}", path.display());
    let read = |file: File| -> io::Result<_> {
        let written = file.metadata()?.modified()?;
        let mut text = Vec::new();
        file.take(CONFIG_BYTES_MAX).read_to_end(&mut text)?;
        Ok((text, written))
    };
    let opened = tree::open_to_read(&path).map_err(|e| Trouble::of_open(&what(), &e));
    match opened.and_then(|file| read(file).map_err(|e| Trouble::from_io(&what(), &e))) {
        Ok(found) => Ok(Some(found)),
        Err(Trouble::Lost(_) | Trouble::Refused(_)) => Ok(None),
        Err(trouble) => Err(trouble),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_configurations_and_lost_events_matter() {
        for (line, want) in [
            ("job a.b created", Change::Made("a.b")),
            ("job a.b configured", Change::Job("a.b")),
            ("job a.b removed", Change::Job("a.b")),
            ("resync", Change::All),
            ("job a.b renamed c", Change::Renamed("a.b", "c")),
            ("job a.b renamed", Change::None),
            ("", Change::None),
            ("job", Change::None),
            ("job a", Change::None),
            ("build a/1 running", Change::None),
        ] {
            assert_eq!(change(line), want, "{line}");
        }
    }
}
