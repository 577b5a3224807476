//! The index of a job's finished builds: how each ended, by its number.

use std::sync::Arc;

use crate::repository::cache::Cache;
use crate::repository::core::{bounded, lock, settled};
use crate::repository::model::job::Job;
use crate::repository::model::json::from_json;
use crate::repository::model::keys::{BUILD_LINES, LineKey};
use crate::repository::model::ops::Changes;
use crate::repository::model::record::Indexed;
use crate::repository::{Repository, Result};
use crate::storage::{Notices, Object, Updated};

/// Lines of indexes kept in memory, of all jobs together: 3 MB.
const INDEXED_MAX: usize = 100_000;

/// Keys of the index read at once.
const PAGE: usize = 1000;

/// The lines of an index, by the builds' numbers.
type Lines = Arc<Vec<(u64, Indexed)>>;

/// Indexes of jobs as they were read last, each weighed by its lines. The truth is the job's record: where
/// others may change it a notice says so, and then its revision is compared.
#[derive(Default)]
pub struct Indexes(Cache<String, Known, INDEXED_MAX>);

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
    fn unchanged(&mut self, uid: &str) -> Option<Lines> {
        let known = self.0.get_mut(uid)?;
        let heard = known.notices.as_mut().is_none_or(Notices::heard);
        known.trusted &= !heard;
        known.trusted.then(|| known.lines.clone())
    }

    /// The index of a job, if it still has this revision.
    fn of_revision(&mut self, uid: &str, revision: u64) -> Option<Lines> {
        let known = self.0.get_mut(uid).filter(|known| known.revision == revision)?;
        known.trusted = true;
        Some(known.lines.clone())
    }

    /// Whether changes of an index are told.
    fn is_told(&mut self, uid: &str) -> bool {
        self.0.get(uid).is_some_and(|known| known.notices.is_some())
    }

    /// Keeps the index of a job, within bounds.
    fn keep(&mut self, uid: &str, revision: u64, lines: &Lines, notices: Option<Notices>) {
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

impl Repository {
    /// What the index has of a build.
    pub(in crate::repository) async fn index_line(&self, job: &Job, n: u64) -> Result<Option<Indexed>> {
        let indexed = self.indexed(job).await?;
        let found = indexed.binary_search_by_key(&n, |(n, _)| *n);
        Ok(found.ok().and_then(|at| indexed.get(at)).map(|(_, line)| *line))
    }

    /// Changes the index of a job: what is set to `None` is removed.
    pub(in crate::repository) async fn change_index(&self, job: &Job, n: u64, line: Option<Indexed>) -> Result<()> {
        let value = line.as_ref().map(crate::repository::model::json::to_json);
        let changes: Changes = vec![(LineKey::Build(n).key(), value)];
        let object = job.record();
        let update = || self.contents.update(&object, None, changes.clone());
        if let Updated::Done { revision } = settled("index of builds", update).await? {
            lock(&self.records.indexes).follow(job.uid(), revision, &[(n, line)]);
        }
        Ok(())
    }

    /// The index of a job's finished builds, ascending.
    pub async fn indexed(&self, job: &Job) -> Result<Lines> {
        if let Some(known) = lock(&self.records.indexes).unchanged(job.uid()) {
            return Ok(known);
        }
        let object = job.record();
        let notices = self.notices_of(job, &object).await?;
        let read = |after: String, limit| {
            let query = self.contents.query(&object, BUILD_LINES, &after, limit);
            async move { bounded("index of builds", query).await }
        };
        let revision = read(String::new(), 1).await?.revision;
        if let Some(known) = lock(&self.records.indexes).of_revision(job.uid(), revision) {
            return Ok(known);
        }
        let mut builds = Vec::new();
        let mut after = String::new();
        let mut settled = true;
        loop {
            let page = read(after.clone(), PAGE).await?;
            settled &= page.revision == revision;
            for (key, value) in &page.entries {
                if let Some(LineKey::Build(n)) = LineKey::parse(key) {
                    builds.push((n, from_json(key, value)?));
                }
            }
            match page.entries.last() {
                Some((key, _)) if page.entries.len() == PAGE => after.clone_from(key),
                _ => break,
            }
        }
        let builds = Arc::new(builds);
        if settled {
            lock(&self.records.indexes).keep(job.uid(), revision, &builds, notices);
        }
        Ok(builds)
    }

    /// Numbers of a job's finished builds, ascending.
    pub(crate) async fn finished_numbers(&self, job: &Job) -> Result<Vec<u64>> {
        Ok(self.indexed(job).await?.iter().map(|(n, _)| *n).collect())
    }

    /// Begins to listen to a job's record, unless that is done already or there is nobody to hear of.
    async fn notices_of(&self, job: &Job, object: &Object) -> Result<Option<Notices>> {
        if !self.shared || lock(&self.records.indexes).is_told(job.uid()) {
            return Ok(None);
        }
        match self.contents.listen(object).await {
            Ok(notices) => Ok(Some(notices)),
            // Past the bound of what may be listened to: it is asked each time then.
            Err(crate::storage::Error::Refused { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
