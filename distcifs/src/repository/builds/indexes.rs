//! Indexes of finished builds, as far as they are known without asking.

use std::sync::Arc;

use crate::repository::cache::Cache;
use crate::repository::model::record::Indexed;
use crate::storage::Notices;

/// Lines of indexes kept in memory, of all jobs together: 3 MB.
const INDEXED_MAX: usize = 100_000;

/// The lines of an index, by the builds' numbers.
pub(crate) type Lines = Arc<Vec<(u64, Indexed)>>;

/// Indexes of jobs as they were read last, each weighed by its lines. The truth is the job's record: where
/// others may change it a notice says so, and then its revision is compared.
#[derive(Default)]
pub(crate) struct Indexes(Cache<String, Known, INDEXED_MAX>);

/// An index as it was read last.
struct Known {
    /// The revision that it had.
    revision: u64,
    lines: Lines,
    /// Tells of changes by other mounts; none where nobody else makes any.
    notices: Option<Notices>,
    /// Whether nothing was told since it was read.
    trusted: bool,
}

impl Indexes {
    /// The index of a job, if nothing was told since it was read.
    pub(in crate::repository) fn unchanged(&mut self, uid: &str) -> Option<Lines> {
        let known = self.0.get_mut(uid)?;
        let heard = known.notices.as_mut().is_none_or(Notices::heard);
        known.trusted &= !heard;
        known.trusted.then(|| known.lines.clone())
    }

    /// The index of a job, if it still has this revision.
    pub(in crate::repository) fn of_revision(&mut self, uid: &str, revision: u64) -> Option<Lines> {
        let known = self.0.get_mut(uid).filter(|known| known.revision == revision)?;
        known.trusted = true;
        Some(known.lines.clone())
    }

    /// Whether changes of an index are told.
    pub(in crate::repository) fn is_told(&mut self, uid: &str) -> bool {
        self.0.get(uid).is_some_and(|known| known.notices.is_some())
    }

    /// Keeps the index of a job, within bounds.
    pub(in crate::repository) fn keep(&mut self, uid: &str, revision: u64, lines: &Lines, notices: Option<Notices>) {
        let old = self.0.forget(uid);
        let known = Known {
            revision,
            lines: lines.clone(),
            notices: notices.or_else(|| old.and_then(|old| old.notices)),
            trusted: true,
        };
        let weight = known.weight();
        self.0.keep_weighed(uid.to_owned(), known, weight);
    }

    /// Takes in a change that was made here, if it followed on what is known.
    pub(in crate::repository) fn follow(&mut self, uid: &str, revision: u64, changes: &[(u64, Option<Indexed>)]) {
        if self.0.get(uid).is_none_or(|known| known.revision + 1 != revision) {
            return;
        }
        self.0.change(uid, |known| {
            known.revision = revision;
            let lines = Arc::make_mut(&mut known.lines);
            for (n, change) in changes {
                match (lines.binary_search_by_key(n, |(n, _)| *n), change) {
                    (Ok(at), Some(line)) => lines[at].1 = *line,
                    (Ok(at), None) => drop(lines.remove(at)),
                    (Err(at), Some(line)) => lines.insert(at, (*n, *line)),
                    (Err(_), None) => {}
                }
            }
            known.weight()
        });
    }
}

impl Known {
    /// Each job counts one line more, so that those without builds have a bound too.
    fn weight(&self) -> usize {
        self.lines.len() + 1
    }
}
