//! Tasks that a claimant adds to the build of its ticket: kept in memory until its result, which makes them the
//! build's in the same commit.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::{Claim, Claims, TaskResult};
use crate::repository::config::{Ceilings, Fault, Task, TicketRequest, read_added};
use crate::repository::core::lock;
use crate::repository::model::build::{Live, live_path};
use crate::repository::model::json::{from_json, to_json};
use crate::repository::model::ops::Step;
use crate::repository::model::plan::Plan;
use crate::repository::model::steps::{self, ABORTED};
use crate::repository::model::ticket::{BuildRef, MESSAGE_BYTES_MAX, Outcome, Posted, Verdict, cut};
use crate::repository::names::Name;
use crate::repository::{Error, Result};
use crate::storage::coordination::ENTRY_BYTES_MAX;
use crate::storage::{Digest, Object};

/// Largest text of tasks, bytes.
pub const TASKS_BYTES_MAX: usize = 1 << 20;

/// How `${` can stand in JSON.
const NAMING: [&[u8]; 2] = [b"${", b"\\u0024"];

/// What a claimant wrote into tasks.json.
#[derive(Debug, Clone)]
pub struct Tasks {
    /// The text as it was closed last.
    pub text: Bytes,
    /// What is wrong with it, a line for each fault; empty: nothing.
    pub error: String,
    /// Kept as long as this is: what it counts of somebody's memory.
    _held: Kept,
}

#[derive(Clone)]
struct Kept(#[expect(dead_code, reason = "it is only dropped")] Arc<dyn Any + Send + Sync>);

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("kept")
    }
}

/// The name of a build's job, the build's entry, and its plan.
pub(super) type Planned = (Name, Live, Arc<Plan>);

/// What a result is to add.
pub(super) struct Adding<'a> {
    /// The part of its build that the ticket is.
    pub(super) part: &'a BuildRef,
    /// The text.
    text: Bytes,
    /// It as it is stored, durably with the list that names it.
    stored: Object,
    /// The parameters that it may name beside those of the configuration: the whole build is read for these, before
    /// others wait for this one.
    told: Vec<String>,
}

/// The build of a ticket with what its result adds.
pub(super) struct Grown {
    /// Its entry.
    pub(super) live: Live,
    /// The version of the entry that it was made of.
    pub(super) version: u32,
}

impl Claim {
    /// The tasks that it is to add, if it has written any.
    pub fn tasks(&self) -> Option<Tasks> {
        lock(&self.tasks).clone()
    }

    /// Takes them back.
    pub fn withdraw_tasks(&self) -> Result<()> {
        self.check()?;
        *lock(&self.tasks) = None;
        self.forget_untaken();
        Ok(())
    }

    /// The part of a build that its ticket is.
    ///
    /// # Errors
    /// `ReadOnly` for a ticket that stands alone, and that of a build itself.
    pub fn part_that_adds(&self) -> Result<&BuildRef> {
        let part = self.ticket.part.as_ref().filter(|part| part.task.is_some());
        part.ok_or_else(|| Error::ReadOnly(format!("{}/tasks.json: only a task of a build adds tasks", self.key)))
    }

    /// Its ticket with a result, and the operations for that: with those of the build that it adds tasks to.
    pub(super) fn finished(&self, outcome: Outcome, grown: Option<&Grown>) -> Step<Posted> {
        match (grown, &self.ticket.part) {
            (Some(Grown { live, version }), Some(part)) => {
                let build = (part.uid.as_str(), part.build);
                steps::finish_adding(&self.key, &self.posted(), outcome, (live, *version), build)
            }
            _ => steps::finish(&self.key, &self.posted(), outcome),
        }
    }

    /// A result with what stands against the tasks that go with it.
    pub(super) fn refused(&self, result: TaskResult) -> TaskResult {
        if result.verdict != Verdict::Success {
            return result;
        }
        let error = self.tasks().map(|tasks| tasks.error).unwrap_or_default();
        let untaken = || self.untaken().map(|why| failed(&why));
        error.lines().next().map(failed).or_else(untaken).unwrap_or(result)
    }
}

impl Claims {
    /// Takes the text that a claimant has written, or notes what is wrong with it. `held` goes when that does.
    ///
    /// # Errors
    /// `Invalid` with the first fault, if it is not valid; `Stale` if the claim is over.
    pub async fn write_tasks(&self, claim: &Claim, text: Bytes, held: Arc<dyn Any + Send + Sync>) -> Result<()> {
        claim.check()?;
        let part = claim.part_that_adds()?;
        if text.len() > TASKS_BYTES_MAX {
            return Err(Error::TooBig(format!(
                "{}/tasks.json: over {TASKS_BYTES_MAX} bytes",
                claim.key
            )));
        }
        let (live, _) = self.live_of(part).await?.ok_or_else(|| Error::claim_lost(&claim.key))?;
        let told = self.told(claim, part, &text).await?;
        let extended = self.extended(claim, &live, text.clone(), Names::Placed, told).await?;
        let error: String = extended.err().map(|wrong| wrong.lines()).unwrap_or_default();
        claim.check()?;
        *lock(&claim.tasks) = Some(Tasks {
            text,
            error: error.clone(),
            _held: Kept(held),
        });
        match error.lines().next() {
            Some(first) => Err(Error::Invalid(first.to_owned())),
            None => Ok(()),
        }
    }

    /// What a result adds, stored, if it is a success and its claimant has written tasks.
    pub(super) async fn adding<'a>(&self, claim: &'a Claim, result: &TaskResult) -> Result<Option<Adding<'a>>> {
        let Some(Tasks { text, .. }) = claim.tasks().filter(|_| result.verdict == Verdict::Success) else {
            return Ok(None);
        };
        let part = claim.part_that_adds()?;
        self.builds.gate.pass("tasks.json").await?;
        let stored = self.store.put_body(text.clone()).await?;
        let told = self.told(claim, part, &text).await?;
        Ok(Some(Adding {
            part,
            text,
            stored,
            told,
        }))
    }

    /// What a result makes of the build: its entry with the tasks that it adds, and the result as it counts. `None`: it
    /// adds nothing.
    pub(super) async fn grown(
        &self,
        claim: &Claim,
        result: TaskResult,
        adding: Option<&Adding<'_>>,
    ) -> Result<(TaskResult, Option<Grown>)> {
        let Some(Adding {
            part,
            text,
            stored,
            told,
        }) = adding
        else {
            return Ok((result, None));
        };
        let (live, version) = self.live_of(part).await?.ok_or_else(|| Error::claim_lost(&claim.key))?;
        if live.abort {
            // What runs `always` goes on, and adds nothing any more.
            let aborted = TaskResult {
                verdict: Verdict::Aborted,
                exit: None,
                message: ABORTED.to_owned(),
            };
            let stops = self.stops(&live, part).await?;
            return Ok((if stops { aborted } else { result }, None));
        }
        let extended = self.extended(claim, &live, text.clone(), Names::Said, told.clone());
        let plan = match extended.await? {
            Ok(Some(plan)) => plan,
            Ok(None) => return Ok((result, None)),
            Err(Wrong::Whole(why)) => return Ok((failed(&why), None)),
            Err(wrong) => return Ok((failed(wrong.lines().lines().next().unwrap_or_default()), None)),
        };
        let plan = self.configs.keep_plan(part, &live, plan, stored).await?;
        let live = Live {
            plan: Some(plan),
            ..live
        };
        if to_json(&live).len() > ENTRY_BYTES_MAX {
            return Ok((failed("the entry of the build has no room for more tasks"), None));
        }
        Ok((result, Some(Grown { live, version })))
    }

    /// The plan of a build with the tasks of a text on it, or what is wrong with that; `None`: it has no tasks.
    async fn extended(
        &self,
        claim: &Claim,
        live: &Live,
        text: Bytes,
        names: Names,
        told: Vec<String>,
    ) -> Result<std::result::Result<Option<Plan>, Wrong>> {
        let part = claim.part_that_adds()?;
        let job = Name::new(&part.job).ok_or_else(|| Error::NotFound(format!("jobs/{}", part.job)))?;
        let by = part.task.unwrap_or_default();
        let plan = self.configs.plan_of(&job, live).await?;
        let triggered = self.builds.live_params(live).await?;
        let untrusted = live.source.untrusted;
        let extended = tokio::task::spawn_blocking(move || {
            let ceilings = Ceilings::of(plan.config(), &job, &triggered, untrusted);
            extend((&plan, &job), &ceilings, by, (&text, names, &told))
        });
        extended
            .await
            .map_err(|error| Error::Io(format!("reading tasks.json: {error}").into()))
    }

    /// The parameters that a text may name beside those of the configuration: what tasks of the build have told, and
    /// what this claim has. It is asked only for a text that names any.
    async fn told(&self, claim: &Claim, part: &BuildRef, text: &[u8]) -> Result<Vec<String>> {
        if !NAMING
            .iter()
            .any(|sign| text.windows(sign.len()).any(|piece| piece == *sign))
        {
            return Ok(Vec::new());
        }
        let job = self.jobs.find(&part.job).await?.filter(|job| job.uid() == part.uid);
        let job = job.ok_or_else(|| Error::claim_lost(&claim.key))?;
        let told = self.builds.build(&job, part.build).await?.all_params();
        Ok(told.into_iter().chain(claim.recorded()).map(|(name, _)| name).collect())
    }

    /// Refuses the ticket of a task that was added, if it is more than its job allows: its parameters are put in by now.
    ///
    /// # Errors
    /// `Invalid` with what it is.
    pub(super) async fn may_post(
        &self,
        part: &BuildRef,
        (job, live, plan): &Planned,
        queue: &Name,
        request: &TicketRequest,
        group: Option<&str>,
    ) -> Result<()> {
        let Some(index) = part.task.filter(|index| plan.added_by(*index).is_some()) else {
            return Ok(());
        };
        let triggered = self.builds.live_params(live).await?;
        let ceilings = Ceilings::of(plan.config(), job, &triggered, live.source.untrusted);
        let task = plan.task(index);
        let name = task.map(Task::folder).unwrap_or_default();
        let written = task.and_then(|task| task.group.as_ref());
        // Of which task the ticket is, and so of which group, its poster does not choose.
        let group = group.map(|text| (written.map_or(text, |group| group.name.as_str()), text));
        ceilings
            .may_post(queue.as_str(), &request.params, &request.settings, group)
            .map_err(|what| Error::Invalid(format!("{name}: {what}")))
    }

    /// Whether a ticket is to say which paths changed. `asked`: whether what it adds may ask for them.
    pub async fn tells_changed(&self, part: &BuildRef, asked: bool) -> Result<bool> {
        let (Some(index), Some((_, _, plan))) = (part.task, self.planned(part).await?) else {
            return Ok(false);
        };
        Ok(plan.tells_changed(index, asked))
    }

    /// The repositories that the checkout of a build's ticket with these params may fetch from; `None`: any. Of a build
    /// that is over: none.
    pub(crate) async fn fetches(&self, part: &BuildRef, params: &Map<String, Value>) -> Result<Option<Vec<String>>> {
        let Some((job, live, plan)) = self.planned(part).await? else {
            return Ok(Some(Vec::new()));
        };
        let triggered = self.builds.live_params(&live).await?;
        let ceilings = Ceilings::of(plan.config(), &job, &triggered, live.source.untrusted);
        let added = part.task.is_some_and(|index| plan.added_by(index).is_some());
        Ok(ceilings.fetches(params, added))
    }

    /// The job's name, the entry and the plan of the build of a ticket, which has its task; `None`: it is over.
    ///
    /// # Errors
    /// `Invalid` if the build has no such task.
    pub(super) async fn planned(&self, part: &BuildRef) -> Result<Option<Planned>> {
        let job = Name::new(&part.job).ok_or_else(|| Error::NotFound(format!("jobs/{}", part.job)))?;
        let path = live_path(&part.uid, part.build);
        let mut entry = self.store.get(&path).await?;
        loop {
            let Some(known) = entry else { return Ok(None) };
            let live: Live = from_json(&path, &known.data)?;
            let plan = self.configs.plan_of(&job, &live).await?;
            if part.task.is_none_or(|index| index < plan.count()) {
                return Ok(Some((job, live, plan)));
            }
            // What added it may not have been told here yet.
            entry = self.store.get_anew(&path).await?;
            if entry.as_ref().is_some_and(|now| now.version == known.version) {
                let task = part.task.unwrap_or_default();
                return Err(Error::Invalid(format!(
                    "jobs/{job}/builds/{}: it has no task {task}",
                    part.build
                )));
            }
        }
    }

    /// A build's entry in the run of a ticket, as it is everywhere.
    async fn live_of(&self, part: &BuildRef) -> Result<Option<(Live, u32)>> {
        let path = live_path(&part.uid, part.build);
        let entry = self.store.get_anew(&path).await?;
        let live = entry.map(|entry| Ok::<_, Error>((from_json::<Live>(&path, &entry.data)?, entry.version)));
        Ok(live.transpose()?.filter(|(live, _)| live.run == part.run))
    }
}

/// Reads a text of tasks, and lays it on a plan. It takes as long as the text is large.
fn extend(
    (plan, job): (&Arc<Plan>, &Name),
    ceilings: &Ceilings,
    by: usize,
    (text, names, told): (&[u8], Names, &[String]),
) -> std::result::Result<Option<Plan>, Wrong> {
    let (mut adding, before) = plan.adding(by, ceilings);
    adding.told = told;
    if names == Names::Said {
        adding.taken.clear();
    }
    let added = read_added(text, &adding).map_err(Wrong::Faults)?;
    if added.tasks.is_empty() && added.changed.is_none() {
        return Ok(None);
    }
    let bytes = text.len() as u64;
    plan.may_add(job, by, &added.tasks, bytes).map_err(Wrong::Whole)?;
    let mut grown = (**plan).clone();
    grown.push(by, &before, added, (Digest::of(text).to_string(), bytes));
    if names == Names::Said {
        // It is the build's soon.
        grown.look_at_changed();
    }
    Ok(Some(grown))
}

/// Where a name that is taken is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    /// In the text: its fault has its place.
    Placed,
    /// In the plan: whoever has the name is named.
    Said,
}

/// What is wrong with a text of tasks.
enum Wrong {
    /// At its places.
    Faults(Vec<Fault>),
    /// With all of it, beside what the build has.
    Whole(String),
}

impl Wrong {
    /// As tasks.error has it: a line for each fault.
    fn lines(&self) -> String {
        match self {
            Wrong::Faults(faults) => faults.iter().map(|fault| format!("tasks.json:{fault}\n")).collect(),
            Wrong::Whole(what) => format!("tasks.json:1:1: {what}\n"),
        }
    }
}

/// The result of a task whose tasks can't be added.
fn failed(why: &str) -> TaskResult {
    TaskResult {
        verdict: Verdict::Error,
        exit: None,
        message: cut(why, MESSAGE_BYTES_MAX).to_owned(),
    }
}
