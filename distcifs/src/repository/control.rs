//! `ctl`: abort, retry, keep, unkeep.

use std::sync::Arc;

use super::builds::control_ticket;
use super::core::{now, random_id};
use super::model::build::{Build, Live, live_path};
use super::model::deed::{Did, and, or_trigger};
use super::model::event::{Control, Event};
use super::model::job::Job;
use super::model::json::to_json;
use super::model::ops::{Step, create, set};
use super::model::record::Record;
use super::model::steps;
use super::model::ticket::{Part, Posted, Poster, TicketKey, TicketState, control_key, part_key};
use super::{Error, Repository, Result};
use crate::storage::{Commit, Entry};

/// Races lost before a control word is given up.
const RACES_MAX: u32 = 100;

/// Retries of one build.
const RETRIES_MAX: u32 = 1000;

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
            let build = self.unfinished(job, n).await?;
            let Some((live, version)) = &build.live else { continue };
            insist = live.abort;
            if live.insist {
                break;
            }
            let live = Live {
                abort: true,
                insist,
                by: and(&build.deeds(), Did::Aborted, who.clone()),
                ..live.clone()
            };
            let (path, data) = (live_path(job.uid(), n), to_json(&live));
            let ours = |entry: Option<&Entry>| entry.is_some_and(|e| e.data == data);
            let ops = vec![set(&path, data.clone(), *version)];
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
            if build.live.is_none() || build.verdict().is_some() {
                return Ok(());
            }
            let (mut lost_race, mut busy) = (false, false);
            for (index, piece) in build.tickets.iter() {
                let always = build.config.tasks.get(*index).is_some_and(|task| task.always);
                let (queue, task) = (piece.queue.as_str(), index.to_string());
                let key = part_key(queue, job.name.as_str(), n, &task, build.run())?;
                match piece.posted.ticket.state {
                    TicketState::Open if insist || !always => {
                        lost_race |= !self.abort_ticket(&key, &piece.posted).await?;
                    }
                    // Its claimant is told by the build's entry, if there is one.
                    TicketState::Claimed => {
                        self.reopen_orphan(&key).await?;
                        busy = true;
                    }
                    TicketState::Open | TicketState::Finished => {}
                }
            }
            let Some(control) = &build.control else { return Ok(()) };
            let claimed = control.posted.ticket.state == TicketState::Claimed;
            let over = (insist && !busy) || (!claimed && build.tickets.is_empty());
            if over && !lost_race {
                let key = control_key(job.name.as_str(), n, build.run())?;
                lost_race = !self.abort_ticket(&key, &control.posted).await?;
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
        if record.run >= RETRIES_MAX {
            return Err(Error::Busy(format!(
                "jobs/{}/builds/{n}: retried {RETRIES_MAX} times",
                job.name
            )));
        }
        let run = record.run + 1;
        let retrier = self.person(who.uid).await;
        // The record may be removed meanwhile: put anew, the text is nobody's garbage.
        self.keep_body(self.text_of(&record.config).await?).await?;
        let (params, params_digest) = self.short_params(&record.params).await?;
        let live = Live {
            config: record.config.clone(),
            params,
            params_digest,
            run,
            abort: false,
            insist: false,
            keep: record.keep,
            triggered: record.triggered,
            uid: record.uid,
            owner: record.owner,
            by: and(&or_trigger(&record.by, record.uid), Did::Retried, retrier),
            cause: record.cause.clone(),
            priority: self.priority_again(job, &record).await?,
            nonce: random_id(),
        };
        let control = control_key(job.name.as_str(), n, run)?;
        for _ in 0..RACES_MAX {
            let named = self.check_name(job).await?;
            let ops = vec![
                create(live_path(job.uid(), n), to_json(&live)),
                create(
                    control.path(),
                    to_json(&control_ticket(job, n, run, who, live.priority)),
                ),
                named.clone(),
            ];
            if self.began(&hold, job, n, &live.nonce, ops).await? {
                self.bring_back(job, n).await?; // Somebody may have removed it meanwhile.
                let (job, what) = (job.name.clone(), Control::Retry);
                self.events.announce(Event::Control { job, n, what });
                return Ok(());
            }
            // Else another build was triggered meanwhile.
            if self.check_name(job).await? == named {
                break;
            }
        }
        Err(Error::Busy(format!("jobs/{}/builds/{n} is not finished", job.name)))
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

    /// Parameters for an entry: themselves if they are short, else the digest of their JSON.
    pub(crate) async fn short_params(
        &self,
        params: &[(String, String)],
    ) -> Result<(Option<Vec<(String, String)>>, Option<String>)> {
        let json = to_json(&params);
        if json.len() <= super::core::INLINE_BYTES_MAX {
            return Ok((Some(params.to_vec()), None));
        }
        Ok((None, Some(self.keep_body(json).await?.to_string())))
    }

    /// Sets whether pruning must leave a build.
    async fn keep(&self, job: &Job, n: u64, did: Did, who: Poster) -> Result<()> {
        let (keep, who) = (did == Did::Kept, self.person(who.uid).await);
        for _ in 0..RACES_MAX {
            let build = self.build(job, n).await?;
            match (&build.live, &build.record) {
                (Some((live, version)), _) => {
                    let by = and(&build.deeds(), did, who.clone());
                    let live = Live {
                        keep,
                        by,
                        ..live.clone()
                    };
                    let ops = vec![set(live_path(job.uid(), n), to_json(&live), *version)];
                    if self.commit(ops).await? == Commit::Done {
                        return Ok(());
                    }
                }
                (None, Some(_)) => {
                    let (Some(record), revision) = self.stored_record(job, n).await? else {
                        continue;
                    };
                    let mut kept = (*record).clone();
                    kept.keep = keep;
                    kept.by = and(&or_trigger(&kept.by, kept.uid), did, who.clone());
                    if self.save_record(job, n, revision, Arc::new(kept)).await? {
                        return Ok(());
                    }
                }
                (None, None) => return Err(Error::NotFound(format!("jobs/{}/builds/{n}", job.name))),
            }
        }
        Err(Error::Busy(format!(
            "jobs/{}/builds/{n}: it changes too fast: try again",
            job.name
        )))
    }

    /// A build that is not finished; `Busy` if it is.
    async fn unfinished(&self, job: &Job, n: u64) -> Result<Build> {
        let build = self.build(job, n).await?;
        if build.live.is_none() || build.verdict().is_some() {
            return Err(Error::Busy(format!(
                "jobs/{}/builds/{n} is finished ({})",
                job.name,
                build.state()
            )));
        }
        Ok(build)
    }
}
