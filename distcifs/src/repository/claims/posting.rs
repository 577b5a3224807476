//! Posting: a ticket of a build by whoever holds its build-control ticket, and one that stands alone by anybody.

use super::Claims;
use crate::repository::config::TicketRequest;
use crate::repository::model::steps;
use crate::repository::model::ticket::{CONTROL_QUEUE, OfBuild, Part, Poster, TicketKey, control_key};
use crate::repository::names::{Name, TicketId};
use crate::repository::tickets::{Checked, Tickets};
use crate::repository::{Error, Result};
use crate::storage::Op;

impl Claims {
    /// Posts a ticket; its id. The same one twice is made once.
    pub async fn post(&self, queue: &Name, request: TicketRequest, poster: Poster) -> Result<TicketId> {
        if queue.as_str() == CONTROL_QUEUE {
            return Err(Error::NotClaimant(format!(
                "tickets/{queue}: builds are started by jobs/<job>/trigger only"
            )));
        }
        let key = TicketKey {
            queue: queue.clone(),
            id: Tickets::id_for(&request)?,
        };
        let part = self.part_of(&key, &request).await?;
        let (guard, of_build) = match &part {
            Some(part) => (self.control_guard(part, poster)?, self.of_build(part).await?),
            None => (Vec::new(), OfBuild::default()),
        };
        if let Some(part) = &part {
            self.may_post(part, queue, &request, of_build.group_text.as_deref())
                .await?;
        }
        let checked = Checked {
            poster,
            part: part.clone(),
            of_build,
            guard,
        };
        self.tickets.post(&key, request, checked).await?;
        self.heed_abort(&key, part.as_ref()).await?;
        Ok(key.id)
    }

    /// What the ticket is of a build, checked against the claim that entitles to post it.
    async fn part_of(&self, key: &TicketKey, request: &TicketRequest) -> Result<Option<Part>> {
        let (Some(job), Some(build), Some(task)) = (&request.job, request.build, request.task) else {
            if request.build.is_some() || request.task.is_some() {
                return Err(Error::Invalid(format!(
                    "{key}: job, build and task are given together or not at all"
                )));
            }
            return Ok(None);
        };
        if Tickets::id_in_build(request)? != key.id {
            return Err(Error::Invalid(format!(
                "{key}: a build's ticket is called job.build.task"
            )));
        }
        let job = self
            .jobs
            .find(job.as_str())
            .await?
            .ok_or_else(|| Error::NotFound(format!("jobs/{job}")))?;
        Ok(Some(Part {
            job: job.name.to_string(),
            uid: job.uid().to_owned(),
            build,
            task: Some(task),
            run: request.run,
        }))
    }

    /// The checks that the build's build-control ticket is still held here, by the same user. The version
    /// alone says too little: the job may have been removed and made again, with a build of this number.
    fn control_guard(&self, part: &Part, poster: Poster) -> Result<Vec<Op>> {
        let key = control_key(&part.job, part.build, part.run)?;
        let refused = || {
            Error::NotClaimant(format!(
                "jobs/{}/builds/{}: only whoever holds {key} posts its tickets",
                part.job, part.build
            ))
        };
        let claim = self.held.get(&key);
        let claim = claim.filter(|claim| claim.uid == poster.uid && claim.version().is_some());
        Ok(steps::guard(&key, &claim.ok_or_else(refused)?.posted()))
    }
}
