//! Ends that were never seen here: another mount recorded the build, and removed its tickets, before they were read.

use super::Reconciler;
use crate::repository::model::event::{Event, Stage};
use crate::repository::model::ticket::{CONTROL_QUEUE, TicketKey, Verdict, part_key};
use crate::repository::names::Name;
use crate::repository::{Error, Result};

/// What a ticket of a build is a part of, as its key says.
struct Part {
    job: Name,
    build: u64,
    /// `None`: the build itself.
    task: Option<usize>,
    run: u32,
}

impl Part {
    /// `None`: its key is not that of a build's ticket.
    fn of(key: &TicketKey) -> Option<Part> {
        let id = key.id.as_str();
        let again = id.rsplit_once(".r").and_then(|(id, run)| Some((id, run.parse().ok()?)));
        let (id, run) = again.unwrap_or((id, 0));
        let (rest, word) = id.rsplit_once('.')?;
        let (job, build) = rest.rsplit_once('.')?;
        let part = Part {
            job: Name::new(job)?,
            build: build.parse().ok()?,
            task: if word == "control" {
                None
            } else {
                Some(word.parse().ok()?)
            },
            run,
        };
        let own = part.task.is_some() || key.queue.as_str() == CONTROL_QUEUE;
        let same = part_key(key.queue.as_str(), job, part.build, word, run).is_ok_and(|made| made == *key);
        (own && same).then_some(part)
    }
}

impl Reconciler {
    /// Tells how a build or task ended whose ticket is gone before its end was seen.
    pub(super) async fn tell_unseen_end(&self, key: &TicketKey) {
        match self.unseen_end(key).await {
            Ok(Some(event)) => self.events.announce(event),
            // It was removed, or its ticket stood alone.
            Ok(None) | Err(Error::NotFound(_)) => {}
            Err(error) => {
                tracing::warn!(ticket = %key, %error, "looking how it ended");
                self.events.announce(Event::Resync);
            }
        }
    }

    async fn unseen_end(&self, key: &TicketKey) -> Result<Option<Event>> {
        let Some(part) = Part::of(key) else { return Ok(None) };
        let Some(job) = self.jobs.find(part.job.as_str()).await? else {
            return Ok(None);
        };
        let build = self.builds.build(&job, part.build).await?;
        if build.run() != part.run {
            return Ok(None);
        }
        let (job, n) = (part.job, part.build);
        let Some(index) = part.task else {
            let state = build.verdict().map(Stage::Ended);
            return Ok(state.map(|state| Event::Build { job, n, state }));
        };
        let Some(task) = build.plan.task(index).filter(|task| task.kind == key.queue) else {
            return Ok(None);
        };
        let (name, ended) = (task.name.to_string(), build.task(index).state);
        let verdicts = [Verdict::Success, Verdict::Failure, Verdict::Error, Verdict::Aborted];
        let Some(verdict) = verdicts.into_iter().find(|verdict| ended == (*verdict).into()) else {
            return Ok(None);
        };
        let state = Stage::Ended(verdict);
        Ok(Some(Event::Task {
            job,
            n,
            index,
            name,
            state,
        }))
    }
}
