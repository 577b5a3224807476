//! Pushes that are told after the ones that followed them. A newer build makes an end of older ones, and a late one is
//! no newer one, whatever its number.

use distcifs_settings::source::Source;

use super::Builds;
use crate::repository::core::bounded;
use crate::repository::model::build::{Live, live_path};
use crate::repository::model::group::{Member, Push};
use crate::repository::model::job::Job;
use crate::repository::model::json::from_json;
use crate::repository::model::ticket::{TicketState, control_key};
use crate::repository::work::READS_MAX;
use crate::repository::{Error, Result};

/// Newest builds of a job among which one is looked for whose push followed.
const LOOKED_MAX: usize = 256;

impl Builds {
    /// The group of a build that is to be number `next`, with what is known then of when its push was told. It is
    /// found once, for good: when the build of the later push has ended, the late one is no newer than before.
    pub(super) async fn told(
        &self,
        job: &Job,
        group: Option<Member>,
        source: &Source,
        next: u64,
    ) -> Result<Option<Member>> {
        let (Some(member), Some(push)) = (group.clone(), Push::of(source)) else {
            return Ok(group);
        };
        if member.supersede.is_no() {
            return Ok(Some(member));
        }
        let late = self.is_late(job, &push, next).await?;
        let before = source.before.clone();
        Ok(Some(Member { before, late, ..member }))
    }

    /// Whether an unfinished build was made by the push that followed this one, and this one does not take that back.
    async fn is_late(&self, job: &Job, push: &Push<'_>, next: u64) -> Result<bool> {
        let Some(follower) = self.follower(job, push).await? else {
            return Ok(false);
        };
        let since = (follower..next).rev().take(LOOKED_MAX);
        for n in since {
            match self.build_head(job, n).await {
                Ok(build) if push.follows(&build.source()) => return Ok(false),
                // One that is damaged or gone says nothing.
                Ok(_) | Err(Error::NotFound(_) | Error::Io(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// The newest unfinished build whose push followed this one. Read after the counter, and as the coordinator has
    /// them, so that none is missed that was triggered before.
    async fn follower(&self, job: &Job, push: &Push<'_>) -> Result<Option<u64>> {
        let path = job.path();
        let names = bounded(&path, self.store.coordination.children(&path)).await?;
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| name.parse().ok()).collect();
        numbers.sort_unstable_by_key(|n| std::cmp::Reverse(*n));
        numbers.truncate(LOOKED_MAX);
        for numbers in numbers.chunks(READS_MAX) {
            let paths = numbers.iter().map(|n| live_path(job.uid(), *n));
            self.store.read_ahead(paths).await?;
            for n in numbers {
                if self.is_follower(job, *n, push).await? {
                    return Ok(Some(*n));
                }
            }
        }
        Ok(None)
    }

    /// Whether a build has not ended, and was made by the push that followed this one.
    async fn is_follower(&self, job: &Job, n: u64, push: &Push<'_>) -> Result<bool> {
        let path = live_path(job.uid(), n);
        // This mount may not have been told of it yet.
        let entry = match self.store.get(&path).await? {
            None => self.store.get_anew(&path).await?,
            entry => entry,
        };
        let Some(entry) = entry else { return Ok(false) };
        let Ok(live) = from_json::<Live>(&path, &entry.data) else {
            return Ok(false);
        };
        let key = control_key(job.name.as_str(), n, live.run)?;
        let Some(posted) = self.tickets.get_sound(&key).await? else {
            return Ok(false);
        };
        let before = posted.ticket.group.as_ref().map(|member| member.before.as_str());
        let of_job = posted.ticket.part.as_ref().is_some_and(|part| part.uid == job.uid());
        let goes_on = of_job && posted.ticket.state != TicketState::Finished;
        Ok(goes_on && before.is_some_and(|before| push.is_followed_by(&live.source, before)))
    }
}
