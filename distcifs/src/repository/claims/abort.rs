//! Aborts of what is claimed: its claimant is told, and has a while to end it.
//!
//! What says that a build is to stop is its entry, written once. Whoever holds a claim of it sees that
//! there, so nothing is written for each claim, and none is missed that is made at the same moment.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::adding::Planned;
use super::stopped::GRACE;
use super::{Claim, Claims, TaskResult};
use crate::repository::core::{bounded, now};
use crate::repository::model::build::{Live, live_path};
use crate::repository::model::claim::Cause;
use crate::repository::model::event::{Control, Event};
use crate::repository::model::job::Job;
use crate::repository::model::json::{from_json, to_json};
use crate::repository::model::ops::Step;
use crate::repository::model::steps::build::Tickets;
use crate::repository::model::steps::{self, ABORTED};
use crate::repository::model::ticket::{BuildRef, OfBuild, Posted, TicketKey, TicketState, Verdict};
use crate::repository::names::Name;
use crate::repository::work::in_turns;
use crate::repository::{Error, Result};
use crate::storage::{Commit, Entry};

/// How long a claimant may take to end what was aborted: TERM, ten seconds, KILL, and the result.
/// Then its claim is taken away.
const ABORT_GRACE: Duration = Duration::from_secs(60);

/// Races lost before the end of a ticket is given up.
const RACES_MAX: u32 = 100;

/// Open tickets of one build that are ended at once: those of a large one leave room for others.
const ENDS_MAX: usize = 16;

/// Tries to look at a build that was aborted of which nothing is claimed here, and the pause between: two
/// minutes of them.
const LOOKS_MAX: u32 = 120;
const LOOK_PAUSE: Duration = Duration::from_secs(1);

impl Claim {
    /// Whether its build was aborted: its claimant is to end, and the outcome is `aborted`.
    pub fn is_aborting(&self) -> bool {
        self.aborting.load(Ordering::Relaxed)
    }

    /// A result as it counts.
    pub(super) fn counted(&self, result: TaskResult) -> TaskResult {
        if !self.is_aborting() {
            return self.noted(result);
        }
        TaskResult {
            verdict: Verdict::Aborted,
            exit: None,
            message: ABORTED.to_owned(),
        }
    }

    /// Why it ended, as it counts.
    pub(super) fn counted_cause(&self, cause: Cause) -> Cause {
        if self.is_aborting() { Cause::Aborted } else { cause }
    }
}

impl Claims {
    /// Looks at a build's entry that was set, in the background: its claims here end if it was aborted.
    pub(crate) fn look_for_abort(self: &Arc<Self>, uid: String, n: u64) {
        let claims = self.clone();
        self.store.runtime.spawn(async move {
            // As long as somebody here is at it, and a while for a claim that is being made.
            let mut looks = 0_u32;
            while looks < LOOKS_MAX || !claims.held.of_build(&uid, n).is_empty() {
                match claims.heed_abort_here(&uid, n).await {
                    Ok(()) => return,
                    Err(error) if looks.is_power_of_two() => {
                        tracing::warn!(job = %uid, build = n, %error, "looking whether it was aborted");
                    }
                    Err(_) => {}
                }
                looks += 1;
                tokio::time::sleep(LOOK_PAUSE).await;
            }
        });
    }

    /// Looks at the builds of all claims held here: notices of them were lost.
    pub(crate) fn look_for_aborts(self: &Arc<Self>) {
        for part in self.held.parts() {
            self.look_for_abort(part.uid, part.build);
        }
    }

    /// The same for a claim that was made while its build was aborted, as far as was heard.
    pub(super) fn look_for_abort_of(self: &Arc<Self>, claim: &Claim) {
        if let Some(part) = &claim.ticket.part
            && self.stopped.has(part)
        {
            self.look_for_abort(part.uid.clone(), part.build);
        }
    }

    /// Tells the claimants here of an aborted build.
    pub(crate) async fn heed_abort_here(self: &Arc<Self>, uid: &str, n: u64) -> Result<()> {
        let Some(live) = self.live(uid, n).await? else {
            return Ok(());
        };
        if !live.abort {
            return Ok(());
        }
        // Noted first: a claim that is not there yet finds it.
        self.stopped.note(uid, n, GRACE);
        for claim in self.held.of_build(uid, n) {
            let part = claim.ticket.part.as_ref();
            let Some(part) = part else { continue };
            if self.stops(&live, part).await? {
                self.begin_abort(&claim);
            }
        }
        Ok(())
    }

    /// Tells a claimant that it is to end, and takes the claim away after a while.
    fn begin_abort(self: &Arc<Self>, claim: &Arc<Claim>) {
        if claim.aborting.swap(true, Ordering::Relaxed) {
            return;
        }
        self.wakers.notify(&claim.key.path());
        let (claims, claim) = (self.clone(), claim.clone());
        self.store.runtime.spawn(async move {
            if !claim.is_over_within(ABORT_GRACE).await {
                claims.end_claim(&claim, Cause::Aborted).await;
            }
        });
    }

    /// Whether the task of a ticket is to stop, as its build's entry has it now.
    pub(crate) async fn is_aborted(&self, part: &BuildRef) -> Result<bool> {
        match self.live(&part.uid, part.build).await? {
            Some(live) => self.stops(&live, part).await,
            None => Ok(false),
        }
    }

    /// Whether a build's abort is for this task: the first one leaves out what runs `always`.
    pub(super) async fn stops(&self, live: &Live, part: &BuildRef) -> Result<bool> {
        let (Some(task), Some(job)) = (part.task, Name::new(&part.job)) else {
            return Ok(false);
        };
        if !live.abort || live.run != part.run {
            return Ok(false);
        }
        if live.insist {
            return Ok(true);
        }
        let plan = self.configs.plan_of(&job, live).await?;
        Ok(!plan.is_always(task))
    }

    /// Ends one ticket as aborted, whoever holds it; `false` if it changed meanwhile.
    pub(crate) async fn abort_ticket(&self, key: &TicketKey, posted: &Posted) -> Result<bool> {
        let ticket = &posted.ticket;
        // One that is gone with its mount has no entry any more.
        let claimed = ticket.state == TicketState::Claimed && self.store.get(&key.claim_path()).await?.is_some();
        let Ok(Step { after, ops }) = steps::abort(key, posted, now(), claimed) else {
            return Ok(true);
        };
        let data = to_json(&after.ticket);
        let ours = |entry: Option<&Entry>| entry.is_some_and(|e| e.data == data);
        Ok(self.store.commit_settled(ops, &key.path(), ours).await? == Commit::Done)
    }

    /// Ends a ticket that was posted, or is open again, while its build was aborted: whoever did that
    /// looked for the build's open tickets before. What runs `always` stays.
    pub(crate) async fn heed_abort(&self, key: &TicketKey, part: Option<&BuildRef>) -> Result<()> {
        let Some(part) = part else { return Ok(()) };
        if !self.is_aborted(part).await? {
            return Ok(());
        }
        for _ in 0..RACES_MAX {
            let Some(posted) = self.tickets.get(key).await? else {
                break;
            };
            // Who claimed it meanwhile is told.
            let open = posted.ticket.state == TicketState::Open;
            if !open || self.abort_ticket(key, &posted).await? {
                break;
            }
        }
        Ok(())
    }

    /// Ends what is to end of a build that was asked to stop: who holds a claim is told, open tickets end. Whoever is
    /// cut short leaves the rest to the next look (stopped.rs).
    pub(crate) async fn stop_build(self: &Arc<Self>, job: &Job, n: u64) -> Result<()> {
        let _working = self.stopped.work(job.uid(), n);
        self.heed_abort_here(job.uid(), n).await?;
        self.finish_stop(job, n).await?;
        if !self.store.shared {
            let (job, what) = (job.name.clone(), Control::Abort);
            self.builds.events.announce(Event::Control { job, n, what });
        }
        Ok(())
    }

    /// Ends the open tickets of a build that was asked to stop, as its entry has it; its own too, if nothing of it
    /// was begun or somebody insists and nothing of it is claimed. How many it ended.
    pub(crate) async fn finish_stop(self: &Arc<Self>, job: &Job, n: u64) -> Result<usize> {
        let mut ended = 0;
        for _ in 0..RACES_MAX {
            let build = self.builds.build(job, n).await?;
            let Some((live, _)) = build.live.as_ref().filter(|(live, _)| live.abort) else {
                return Ok(ended);
            };
            let Some(stop) = steps::build::stop(&build, live.insist)? else {
                return Ok(ended);
            };
            let open = stop.open.len();
            let done = self.abort_all(stop.open).await?;
            // Their claimants are told by the build's entry, if there are any.
            for key in &stop.claimed {
                self.reopen_orphan(key).await?;
            }
            ended += done;
            let mut lost_race = done < open;
            if let Some((key, posted)) = stop.own.filter(|_| !lost_race) {
                lost_race = !self.abort_ticket(&key, &posted).await?;
                ended += usize::from(!lost_race);
            }
            if !lost_race {
                return Ok(ended);
            }
        }
        Err(Error::Busy(format!(
            "jobs/{}/builds/{n}: it changes too fast: try again",
            job.name
        )))
    }

    /// Ends tickets as aborted, some at once; how many have not changed meanwhile.
    ///
    /// # Errors
    /// The first that there was, when all the others were tried.
    async fn abort_all(self: &Arc<Self>, tickets: Tickets) -> Result<usize> {
        let claims = self.clone();
        let ended = in_turns(tickets, ENDS_MAX, move |(key, posted)| {
            let claims = claims.clone();
            async move { claims.abort_ticket(&key, &posted).await }
        });
        let mut done = 0;
        for ended in ended.await {
            done += usize::from(ended?);
        }
        Ok(done)
    }

    /// What the ticket of a task has of its build.
    pub(super) async fn of_build(&self, part: &BuildRef, (_, live, plan): &Planned) -> Result<OfBuild> {
        let task = part.task.and_then(|index| plan.task(index));
        let group = match task {
            Some(task) => self.group_of_task(part, (live, plan), task).await?,
            None => None,
        };
        let (group, group_text) = group.unzip();
        Ok(OfBuild {
            group,
            group_text,
            owner: live.owner,
            priority: live.priority,
            source: live.source.clone(),
            types: plan.config().untrusted.types.clone(),
            name: task.map(|task| task.name.to_string()).unwrap_or_default(),
            lines: task.map(|task| plan.name_of_lines(task)).unwrap_or_default(),
        })
    }

    /// A build's entry as the coordinator has it: what is cached may be from before the abort.
    pub(super) async fn live(&self, uid: &str, n: u64) -> Result<Option<Live>> {
        let path = live_path(uid, n);
        let entry = bounded(&path, self.store.coordination.get(&path)).await?;
        entry.map(|entry| from_json(&path, &entry.data)).transpose()
    }
}
