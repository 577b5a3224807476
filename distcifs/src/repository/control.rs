//! `ctl`: abort, retry, keep, unkeep.

use std::sync::Arc;

use distcifs_settings::source::Source;

use super::builds::{begun, not_begun};
use super::core::{now, random_id};
use super::model::build::{Build, Live, live_path};
use super::model::deed::Did;
use super::model::event::{Control, Event};
use super::model::job::Job;
use super::model::json::to_json;
use super::model::ops::Step;
use super::model::record::Record;
use super::model::steps;
use super::model::steps::build::{Again, Refused};
use super::model::ticket::{Part, Posted, Poster, TicketKey, TicketState};
use super::records::Going;
use super::{Error, Repository, Result};
use crate::storage::{Commit, Entry};

/// Races lost before a control word is given up.
const RACES_MAX: u32 = 100;

/// What may be written into ctl.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// Stop it, or do not start it.
    Abort,
    /// Run again what did not succeed.
    Retry,
    /// Pruning must leave it.
    Keep,
    /// Pruning may take it.
    Unkeep,
}

impl Word {
    /// Reads a control word.
    pub fn read(text: &[u8]) -> Result<Self> {
        let text = String::from_utf8_lossy(text);
        match text.trim() {
            "abort" => Ok(Word::Abort),
            "retry" => Ok(Word::Retry),
            "keep" => Ok(Word::Keep),
            "unkeep" => Ok(Word::Unkeep),
            other => Err(Error::Invalid(format!(
                "ctl {:?}: write abort, retry, keep or unkeep",
                super::model::ticket::cut(other, 40)
            ))),
        }
    }
}

impl Repository {
    /// Does what was written into a build's ctl.
    pub async fn control(self: &Arc<Self>, job: &Job, n: u64, word: Word, who: Poster) -> Result<()> {
        match word {
            Word::Abort => self.abort(job, n, who).await,
            Word::Retry => self.retry(job, n, who).await,
            Word::Keep => self.keep(job, n, Did::Kept, who).await,
            Word::Unkeep => self.keep(job, n, Did::Unkept, who).await,
        }
    }

    /// Stops a build: what is queued of it ends as aborted at once, what is claimed when its claimant
    /// has ended it, a minute later at most. Its `always` tasks still run where build-control is at it;
    /// a second abort stops those, too.
    async fn abort(self: &Arc<Self>, job: &Job, n: u64, who: Poster) -> Result<()> {
        let who = self.person(who.uid).await;
        let mut insist = false;
        for _ in 0..RACES_MAX {
            let build = self.build(job, n).await?;
            insist = build.aborting();
            let Step { after, ops } = match steps::build::ask_abort(&build, who.clone()) {
                Ok(step) => step,
                Err(Refused::Insisted) => break,
                Err(_) => return Err(over(&build)),
            };
            let (path, data) = (live_path(job.uid(), n), to_json(&after));
            let ours = |entry: Option<&Entry>| entry.is_some_and(|e| e.data == data);
            if self.commit_settled(ops, &path, ours).await? == Commit::Done {
                break;
            }
        }
        self.heed_abort_here(job.uid(), n).await?;
        self.abort_tickets(job, n, insist).await?;
        if !self.shared {
            let (job, what) = (job.name.clone(), Control::Abort);
            self.events.announce(Event::Control { job, n, what });
        }
        Ok(())
    }

    /// Ends the open tickets of a build; its own too, if nothing of it was begun or somebody insists
    /// and nothing of it is claimed.
    async fn abort_tickets(self: &Arc<Self>, job: &Job, n: u64, insist: bool) -> Result<()> {
        for _ in 0..RACES_MAX {
            let build = self.build(job, n).await?;
            let Some(stop) = steps::build::stop(&build, insist)? else {
                return Ok(());
            };
            let mut lost_race = false;
            for (key, posted) in &stop.open {
                lost_race |= !self.abort_ticket(key, posted).await?;
            }
            // Their claimants are told by the build's entry, if there are any.
            for key in &stop.claimed {
                self.reopen_orphan(key).await?;
            }
            if let Some((key, posted)) = stop.own.filter(|_| !lost_race) {
                lost_race = !self.abort_ticket(&key, &posted).await?;
            }
            if !lost_race {
                return Ok(());
            }
        }
        Err(Error::Busy(format!(
            "jobs/{}/builds/{n}: it changes too fast: try again",
            job.name
        )))
    }

    /// Ends one ticket as aborted, whoever holds it; `false` if it changed meanwhile.
    async fn abort_ticket(&self, key: &TicketKey, posted: &Posted) -> Result<bool> {
        let ticket = &posted.ticket;
        // One that is gone with its mount has no entry any more.
        let claimed = ticket.state == TicketState::Claimed && self.get(&key.claim_path()).await?.is_some();
        let Ok(Step { after, ops }) = steps::abort(key, posted, now(), claimed) else {
            return Ok(true);
        };
        let data = to_json(&after.ticket);
        let ours = |entry: Option<&Entry>| entry.is_some_and(|e| e.data == data);
        Ok(self.commit_settled(ops, &key.path(), ours).await? == Commit::Done)
    }

    /// Ends a ticket that was posted, or is open again, while its build was aborted: whoever did that
    /// looked for the build's open tickets before. What runs `always` stays.
    pub(super) async fn heed_abort(&self, key: &TicketKey, part: Option<&Part>) -> Result<()> {
        let Some(part) = part else { return Ok(()) };
        if !self.is_aborted(part).await? {
            return Ok(());
        }
        for _ in 0..RACES_MAX {
            let Some(posted) = self.ticket(key).await? else { break };
            // Who claimed it meanwhile is told.
            let open = posted.ticket.state == TicketState::Open;
            if !open || self.abort_ticket(key, &posted).await? {
                break;
            }
        }
        Ok(())
    }

    /// Runs again what did not succeed, in the state in which it ran.
    async fn retry(&self, job: &Job, n: u64, who: Poster) -> Result<()> {
        let hold = self.hold_epoch().await?;
        // Until its entry is there nobody here removes the record that it begins from.
        let _turn = self.records.turn(job.uid(), n).await;
        self.record_now(job, n).await?;
        for _ in 0..RACES_MAX {
            // Before the record is read: a retry that began and ended since has changed it.
            let named = self.named(job).await?;
            // Whoever removes the record takes its line away, and changes then what was just read.
            Going::new(self, job, n).check_line().await?;
            let live = self.live_again(job, n, who).await?;
            let step = steps::build::retry(job, n, &named, &live, begun(who));
            let step = step.map_err(|refused| not_begun(job, n, refused))?;
            if self.began(&hold, job, n, &live.nonce, step.ops).await? {
                self.bring_back(job, n).await?; // Somebody may have removed it meanwhile.
                let (job, what) = (job.name.clone(), Control::Retry);
                self.events.announce(Event::Control { job, n, what });
                return Ok(());
            }
            // Else another build began meanwhile.
            if self.named(job).await? == named {
                break;
            }
        }
        Err(Error::Busy(format!("jobs/{}/builds/{n} is not finished", job.name)))
    }

    /// The entry of a build that is to run again, of its record as it is now.
    async fn live_again(&self, job: &Job, n: u64, who: Poster) -> Result<Live> {
        let Some(record) = self.stored_record(job, n).await?.0 else {
            let stage = if self.build(job, n).await?.aborting() {
                "is being aborted"
            } else {
                "is not finished"
            };
            return Err(Error::Busy(format!(
                "jobs/{}/builds/{n} {stage}: it can be retried when it has ended (read .wait)",
                job.name
            )));
        };
        self.check_retry(job, n, &record).await?;
        // The record may be removed meanwhile: put anew, the text is nobody's garbage.
        self.keep_body(self.text_of(&record.config).await?).await?;
        let (params, params_digest) = self.short_params(&record.params, &record.source).await?;
        let again = Again {
            params,
            params_digest,
            by: self.person(who.uid).await,
            priority: self.priority_again(job, &record).await?,
            nonce: random_id(),
        };
        Ok(steps::build::again(&record, again))
    }

    /// The priority of a retry: that of the build, and no more than the job may have by now.
    async fn priority_again(&self, job: &Job, record: &Record) -> Result<i8> {
        let then = self
            .parsed_config(&job.name, &record.config.digest)
            .await?
            .priority
            .value;
        if then <= 0 {
            return Ok(then);
        }
        let now = match self.head(job).await? {
            Some(head) => self.parsed_config(&job.name, &head.digest).await?.priority.value,
            None => 0,
        };
        Ok(then.min(now.max(0)))
    }

    /// Parameters for an entry: themselves if they are short, also with the build's source beside them, else the
    /// digest of their JSON.
    pub(crate) async fn short_params(
        &self,
        params: &[(String, String)],
        source: &Source,
    ) -> Result<(Option<Vec<(String, String)>>, Option<String>)> {
        let json = to_json(&params);
        if json.len() + to_json(source).len() <= super::core::INLINE_BYTES_MAX {
            return Ok((Some(params.to_vec()), None));
        }
        Ok((None, Some(self.keep_body(json).await?.to_string())))
    }

    /// Sets whether pruning must leave a build.
    async fn keep(&self, job: &Job, n: u64, did: Did, who: Poster) -> Result<()> {
        let who = self.person(who.uid).await;
        for _ in 0..RACES_MAX {
            let build = self.build(job, n).await?;
            if let Ok(step) = steps::build::keep(&build, did, who.clone()) {
                if self.commit(step.ops).await? == Commit::Done {
                    return Ok(());
                }
                continue;
            }
            // Its line in the index comes after the record: nobody here removes both in between.
            let _turn = self.records.turn(job.uid(), n).await;
            let (Some(record), revision) = self.stored_record(job, n).await? else {
                continue;
            };
            let kept = steps::build::keep_record(&record, did, who.clone());
            if self.save_record(job, n, revision, Arc::new(kept)).await? {
                return Going::new(self, job, n).heed().await;
            }
        }
        Err(Error::Busy(format!(
            "jobs/{}/builds/{n}: it changes too fast: try again",
            job.name
        )))
    }
}

fn over(build: &Build) -> Error {
    let (job, n, state) = (&build.job.name, build.n, build.state());
    Error::Busy(format!("jobs/{job}/builds/{n} is finished ({state})"))
}
