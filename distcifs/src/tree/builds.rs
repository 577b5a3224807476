//! What stands in a job's `builds` beside the builds: links to some of them, and when the next one comes.

use std::sync::Arc;

use super::look::{Facts, file};
use super::node::{JobRef, Link, NEXT, Node};
use super::{Error, Kind, Result, Tree};
use crate::repository::access::Access;
use crate::repository::core::time_of;
use crate::repository::schedules::Coming;

impl Tree {
    /// A name that is no number; `None` if there is none such.
    pub(crate) async fn find_beside_builds(&self, job: &Arc<JobRef>, name: &str) -> Result<Option<Node>> {
        if let Some(link) = Link::parse(name) {
            let target = self.link_target(job, link).await?;
            return Ok(target.map(|_| Node::Link(job.clone(), link)));
        }
        if name != NEXT {
            return Ok(None);
        }
        let coming = self.repository.coming(&self.job(job)?).await?;
        Ok(coming.map(|_| Node::Next(job.clone())))
    }

    /// The names that are there.
    pub(crate) async fn names_beside_builds(&self, job: &JobRef) -> Result<Vec<(String, Kind)>> {
        let mut names = Vec::new();
        for link in Link::ALL {
            let listed = *link != Link::LatestTrusted;
            if listed && self.link_target(job, *link).await?.is_some() {
                names.push((link.name().to_owned(), Kind::Symlink));
            }
        }
        // A configuration that can't be read keeps nobody from the builds.
        if let Ok(Some(_)) = self.repository.coming(&self.job(job)?).await {
            names.push((NEXT.to_owned(), Kind::File));
        }
        Ok(names)
    }

    /// The build that a link leads to.
    pub(crate) async fn link_target(&self, job: &JobRef, link: Link) -> Result<Option<u64>> {
        let job = self.job(job)?;
        match link {
            Link::Latest => self.repository.builds.latest(&job).await,
            Link::LatestTrusted => self.repository.builds.latest_trusted(&job).await,
            Link::LastSuccess => self.repository.builds.newest(&job, true).await,
            Link::LastFailure => self.repository.builds.newest(&job, false).await,
        }
    }

    /// Attributes of `next`. It tells of the configuration, so who may not read that may not read it.
    pub(crate) async fn next_facts(&self, job: &JobRef) -> Result<Facts> {
        let now = self.job(job)?;
        let coming = self.coming(job).await?;
        let access = Access {
            mode: now.entry.settings_mode(),
            ..now.entry.access
        };
        Ok(file(access, text(&coming).len() as u64, time_of(coming.written)))
    }

    /// What `next` holds.
    pub(crate) async fn next_text(&self, job: &JobRef) -> Result<String> {
        Ok(text(&self.coming(job).await?))
    }

    async fn coming(&self, job: &JobRef) -> Result<Coming> {
        let coming = self.repository.coming(&self.job(job)?).await?;
        coming.ok_or_else(|| Error::NotFound(format!("jobs/{}/builds/{NEXT}", job.name)))
    }
}

fn text(coming: &Coming) -> String {
    let local = coming.local.iter().map(|local| format!("{local}\n"));
    format!("{}\n", coming.utc) + &local.collect::<String>()
}
