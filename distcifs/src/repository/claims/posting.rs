//! Posting: a ticket of a build by whoever holds its build-control ticket, and one that stands alone by anybody.

use super::Claims;
use super::adding::Planned;
use crate::repository::config::TicketRequest;
use crate::repository::format::STRANGERS;
use crate::repository::model::notification::NOTIFY_QUEUE;
use crate::repository::model::steps;
use crate::repository::model::ticket::{BuildRef, CONTROL_QUEUE, OfBuild, Poster, TicketKey, control_key};
use crate::repository::names::{Name, TicketId};
use crate::repository::tickets::{Checked, Tickets};
use crate::repository::{Error, Result, trust};
use crate::storage::Op;

impl Claims {
    /// Posts a ticket; its id. The same one twice is made once.
    pub async fn post(&self, queue: &Name, request: TicketRequest, poster: Poster) -> Result<TicketId> {
        if queue.as_str() == CONTROL_QUEUE {
            return Err(Error::NotClaimant(format!(
                "tickets/{queue}: builds are started by jobs/<job>/trigger only"
            )));
        }
        if queue.as_str() == NOTIFY_QUEUE {
            return Err(Error::NotClaimant(format!(
                "tickets/{queue}: builds tell of themselves, by the notify of their job's config.json"
            )));
        }
        let key = TicketKey {
            queue: queue.clone(),
            id: Tickets::id_for(&request)?,
        };
        let part = self.part_of(&key, &request).await?;
        let mut checked = Checked {
            poster,
            part: part.clone(),
            of_build: OfBuild::default(),
            guard: Vec::new(),
            wrong: None,
        };
        if let Some(part) = &part {
            checked.guard = self.control_guard(part, poster)?;
            // What a build's ticket may be its entry says.
            let planned = self.planned(part).await?.ok_or_else(|| lost(part))?;
            if planned.1.source.untrusted {
                // A mount of before would work it as one of the job's own.
                self.builds.gate.pass(STRANGERS).await?;
            }
            checked.of_build = self.of_build(part, &planned).await?;
            let group = checked.of_build.group_text.as_deref();
            self.may_post(part, &planned, queue, &request, group).await?;
            checked.wrong = self.strangers_fault(part, &planned, queue, &request).await?;
        }
        self.tickets.post(&key, request, checked).await?;
        self.heed_abort(&key, part.as_ref()).await?;
        Ok(key.id)
    }

    /// What is wrong with the ticket of a task of a stranger's build: it is another than the build's configuration makes
    /// it, with the parameters that a stranger's scripts can't set. A commit that was approved is so taken by whatever
    /// is posted.
    async fn strangers_fault(
        &self,
        part: &BuildRef,
        (_, live, plan): &Planned,
        queue: &Name,
        request: &TicketRequest,
    ) -> Result<Option<String>> {
        let Some(task) = part
            .task
            .and_then(|index| plan.task(index))
            .filter(|_| live.source.untrusted)
        else {
            return Ok(None);
        };
        let mut values = self.builds.live_params(live).await?;
        let fault = |values: &[(String, String)]| trust::misfit(plan, task, live, values, (queue, &request.params));
        if fault(&values).is_none() {
            return Ok(None);
        }
        let job = self.jobs.by_uid(&part.uid).ok_or_else(|| lost(part))?;
        let build = self.builds.build(&job, part.build).await?;
        build.overlay_recorded(&mut values, |task| trust::may_record(&task.kind));
        Ok(fault(&values))
    }

    /// What the ticket is of a build, checked against the claim that entitles to post it.
    async fn part_of(&self, key: &TicketKey, request: &TicketRequest) -> Result<Option<BuildRef>> {
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
        Ok(Some(BuildRef {
            job: job.name.to_string(),
            uid: job.uid().to_owned(),
            build,
            task: Some(task),
            run: request.run,
        }))
    }

    /// The checks that the build's build-control ticket is still held here, by the same user. The version
    /// alone says too little: the job may have been removed and made again, with a build of this number.
    fn control_guard(&self, part: &BuildRef, poster: Poster) -> Result<Vec<Op>> {
        let key = control_key(&part.job, part.build, part.run)?;
        let refused = || lost(part);
        let claim = self.held.get(&key);
        let claim = claim.filter(|claim| claim.uid == poster.uid && claim.version().is_some());
        Ok(steps::guard(&key, &claim.ok_or_else(refused)?.posted()))
    }
}

/// Who posts a ticket of this build does not hold that of the build.
fn lost(part: &BuildRef) -> Error {
    let (job, n) = (&part.job, part.build);
    let key = control_key(job, n, part.run).map_or_else(|_| CONTROL_QUEUE.to_owned(), |key| key.to_string());
    Error::NotClaimant(format!(
        "jobs/{job}/builds/{n}: only whoever holds {key} posts its tickets"
    ))
}
