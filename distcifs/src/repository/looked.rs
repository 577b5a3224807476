//! Builds that were looked at lately.

use std::sync::Mutex;

use super::cache::Cache;
use super::core::lock;
use super::model::build::{Build, live_path};
use super::model::job::Job;
use super::model::keys::Key;

/// Bytes that the builds take of which a look is cached.
const LOOKED_BYTES_MAX: usize = 128 << 20;

/// What one counts at least, bytes: as much as 4,000 tickets of some hundred bytes. So 32 are cached.
const LOOK_BYTES_MIN: usize = LOOKED_BYTES_MAX / 32;

/// The builds that were looked at last, each until a change of its entry or of one of its tickets is told:
/// of a build of 1,000 tasks so not every look reads 1,000 tickets. For a mount that is alone. The truth is
/// what the coordinator has.
#[derive(Default)]
pub(crate) struct Looked(Mutex<Table>);

#[derive(Default)]
struct Table {
    builds: Cache<String, Known, LOOKED_BYTES_MAX>,
    next: u64,
    /// Entries that commits under way change, one for each of these.
    changing: Vec<String>,
    #[cfg(test)]
    answers: u64,
}

struct Known {
    /// What the names of its tickets begin with.
    tickets: String,
    /// The read that is under way.
    asked: u64,
    is: Option<Build>,
}

impl Known {
    /// Whether a change of this path is one of the build whose entry this is. Of another too, if its name is
    /// odd enough.
    fn hangs_on(&self, live: &str, path: &str) -> bool {
        match Key::parse(path) {
            Some(Key::Ticket(_, id) | Key::Claim(_, id) | Key::Post(_, id, _)) => id.starts_with(&self.tickets),
            _ => live == path,
        }
    }
}

impl Table {
    fn forget(&mut self, paths: &[String]) {
        self.builds
            .retain(|live, known| !paths.iter().any(|path| known.hangs_on(live, path)));
    }
}

impl Looked {
    /// A build as it was looked at, whose entry has this version; or the read to make.
    pub(crate) fn ask(&self, job: &Job, n: u64, version: u32) -> std::result::Result<Build, u64> {
        let live = live_path(job.uid(), n);
        let mut table = lock(&self.0);
        let build = table.builds.get(&live).and_then(|known| known.is.as_ref());
        if let Some(build) = build.filter(|build| build.live.as_ref().is_some_and(|(_, known)| *known == version)) {
            // The job may have another owner or mode by now.
            return Ok(Build {
                job: job.clone(),
                ..build.clone()
            });
        }
        table.next += 1;
        let asked = table.next;
        let known = Known {
            tickets: format!("{}.{n}.", job.name),
            asked,
            is: None,
        };
        table.builds.keep_weighed(live, known, LOOK_BYTES_MIN);
        Err(asked)
    }

    /// Keeps the answer, if nothing was told meanwhile. Of changes of a record nothing is.
    pub(crate) fn answer(&self, live: &str, read: u64, build: &Build) {
        let mut table = lock(&self.0);
        let Table { builds, changing, .. } = &mut *table;
        if build.record.is_none()
            && let Some(known) = builds.get_mut(live)
            && known.asked == read
            && !changing.iter().any(|path| known.hangs_on(live, path))
        {
            let weight = build.plan.size().memory.max(LOOK_BYTES_MIN);
            builds.change(live, |known| {
                known.is = Some(build.clone());
                weight
            });
            #[cfg(test)]
            {
                table.answers += 1;
            }
        }
    }

    /// Entries are about to change.
    pub(crate) fn changing(&self, paths: &[String]) {
        let mut table = lock(&self.0);
        table.changing.extend_from_slice(paths);
        table.forget(paths);
    }

    /// They have changed, or not.
    pub(crate) fn changed(&self, paths: &[String]) {
        let mut table = lock(&self.0);
        for path in paths {
            let at = table.changing.iter().position(|changing| changing == path);
            at.map(|at| table.changing.swap_remove(at));
        }
        table.forget(paths);
    }

    /// Takes note of a change of an entry.
    pub(crate) fn forget(&self, path: &str) {
        lock(&self.0).builds.retain(|live, known| !known.hangs_on(live, path));
    }

    /// Forgets all: nobody knows what has changed.
    pub(crate) fn forget_all(&self) {
        lock(&self.0).builds.clear();
    }

    /// How many answers were kept so far.
    #[cfg(test)]
    pub(crate) fn answers(&self) -> u64 {
        lock(&self.0).answers
    }
}
