//! The index of a job's finished builds: how each ended, by its number.

use std::sync::Arc;

use crate::repository::Result;
use crate::repository::builds::{Builds, Lines};
use crate::repository::core::{bounded, lock, settled};
use crate::repository::model::job::Job;
use crate::repository::model::json::from_json;
use crate::repository::model::keys::{BUILD_LINES, LineKey};
use crate::repository::model::ops::Changes;
use crate::repository::model::record::Indexed;
use crate::storage::{Notices, Object, Updated};

/// Keys of the index read at once.
const PAGE: usize = 1000;

impl Builds {
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
        let update = || self.store.contents.update(&object, None, changes.clone());
        if let Updated::Done { revision } = settled("index of builds", update).await? {
            lock(&self.records.indexes).follow(job.uid(), revision, &[(n, line)]);
        }
        Ok(())
    }

    /// The index of a job's finished builds, ascending.
    pub(crate) async fn indexed(&self, job: &Job) -> Result<Lines> {
        if let Some(known) = lock(&self.records.indexes).unchanged(job.uid()) {
            return Ok(known);
        }
        let object = job.record();
        let notices = self.notices_of(job, &object).await?;
        let read = |after: String, limit| {
            let query = self.store.contents.query(&object, BUILD_LINES, &after, limit);
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
        if !self.store.shared || lock(&self.records.indexes).is_told(job.uid()) {
            return Ok(None);
        }
        // Past the bound of what may be listened to it is asked each time.
        self.store.listen(object).await
    }
}
