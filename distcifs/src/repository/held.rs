//! Builds of strangers that wait for approval: who lets them run, and what ends them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::builds::{Builds, begun, group_of, not_begun};
use super::config::JobConfig;
use super::core::{bounded, now};
use super::format::STRANGERS;
use super::model::build::{Build, Live, live_path};
use super::model::event::{Event, Stage};
use super::model::hold::{Approval, Dismissal, HELD_MAX, HELD_TIME, Mark, surplus};
use super::model::job::{Counted, Job};
use super::model::json::{from_json, to_json};
use super::model::keys::{HELD, Key};
use super::model::ops::{Step, delete};
use super::model::record::Record;
use super::model::steps;
use super::model::steps::build::{Refused, held};
use super::model::ticket::{BuildRef, Poster, Verdict};
use super::trust::{binds, is_held};
use super::{Error, Repository, Result, format};
use crate::storage::{Commit, Entry, Op};

/// Races lost before an approval is given up.
const RACES_MAX: u32 = 100;

/// Pause between two looks for held builds whose time is over, or whose end nobody recorded.
const SWEEP_PAUSE: Duration = Duration::from_secs(3600);

/// A held build of a job, as it was found.
struct Found {
    n: u64,
    mark: Mark,
    live: (Live, u32),
}

/// What a new build does to the held ones of its job.
#[derive(Default)]
pub(super) struct Room {
    /// Ends some of them, in the commit that triggers the new one.
    pub(super) ops: Vec<Op>,
    /// Whether the new build waits for approval because of them.
    pub(super) held: bool,
}

impl Builds {
    /// What is done to the held builds of a job in the commit that triggers this one: those of its ref end, and if
    /// it is held one of them too when they are too many. Read after the counter, so that none is missed that was
    /// triggered before. `steers`: whether it is triggered by somebody who may say what is built; others end none.
    ///
    /// # Errors
    /// `Busy` if there are too many and it may end none.
    pub(super) async fn making_room(&self, job: &Job, read: &Counted, live: &Live, steers: bool) -> Result<Room> {
        if !live.held && (live.source.name.is_empty() || !steers) {
            return Ok(Room::default());
        }
        let is_older = |mark: &Mark| mark.is_of(&live.source.name);
        // What can't be read may be of this ref.
        let marks = self.marks_of(job.uid()).await?.into_iter();
        let (older, others): (Vec<_>, Vec<_>) =
            marks.partition(|(_, mark)| mark.as_ref().is_none_or(|mark| steers && is_older(mark)));
        let older = self.held_of(job.uid(), older).await?.into_iter();
        let (older, unread): (Vec<Found>, Vec<Found>) = older.partition(|found| steers && is_older(&found.mark));
        // Its senders speak for themselves, not for who pushed what nobody approved.
        let held = live.held || (live.source.untrusted && !older.is_empty());
        let superseded = Dismissal::Superseded(read.counter.next);
        let mut ended: Vec<(Found, Dismissal)> = older.into_iter().map(|found| (found, superseded)).collect();
        if held && others.len() + unread.len() >= HELD_MAX {
            let mut others = self.held_of(job.uid(), others).await?;
            others.extend(unread);
            if others.len() >= HELD_MAX && !steers {
                return Err(Error::Busy(format!(
                    "jobs/{}/trigger: {HELD_MAX} builds of strangers wait for approval already",
                    job.name
                )));
            }
            while others.len() >= HELD_MAX {
                let marks: Vec<(u64, Mark)> = others.iter().map(|found| (found.n, found.mark.clone())).collect();
                let Some(at) = surplus(&marks).and_then(|n| others.iter().position(|found| found.n == n)) else {
                    break;
                };
                ended.push((others.remove(at), Dismissal::Crowded));
            }
        }
        let end = |(found, cause): &(Found, Dismissal)| held::end(job.uid(), found.n, &found.live, *cause, now(), None);
        let ops = ended.iter().filter_map(end).flat_map(|step| step.ops).collect();
        Ok(Room { ops, held })
    }

    /// The builds of a job beside which a mark stands, as the coordinator has them, in order; `None`: the mark can't be
    /// read. Two reads, however many there are.
    async fn marks_of(&self, uid: &str) -> Result<Vec<(u64, Option<Mark>)>> {
        let folder = Key::HeldOf(uid).path();
        let children = bounded(&folder, self.store.coordination.children(&folder)).await?;
        let mut numbers: Vec<u64> = children.iter().filter_map(|child| child.parse().ok()).collect();
        numbers.sort_unstable();
        let paths: Vec<String> = numbers.iter().map(|n| held::mark_path(uid, *n)).collect();
        let entries = self.entries(&folder, paths.clone()).await?;
        let read = |((n, path), entry): ((u64, String), Option<Entry>)| {
            let mark = from_json(&path, &entry?.data).inspect_err(|error| {
                tracing::warn!(%path, %error, "a build that waits for approval: it is known by its own entry alone");
            });
            Some((n, mark.ok()))
        };
        // Approved or recorded meanwhile: there is none.
        Ok(numbers.into_iter().zip(paths).zip(entries).filter_map(read).collect())
    }

    /// Those of these builds that are held, as the coordinator has them. One read for all.
    async fn held_of(&self, uid: &str, marks: Vec<(u64, Option<Mark>)>) -> Result<Vec<Found>> {
        let paths: Vec<String> = marks.iter().map(|(n, _)| live_path(uid, *n)).collect();
        let entries = self.entries(uid, paths.clone()).await?;
        let mut found = Vec::new();
        for (((n, mark), path), entry) in marks.into_iter().zip(paths).zip(entries) {
            let Some(entry) = entry else { continue };
            let live: Live = match from_json(&path, &entry.data) {
                Ok(live) => live,
                Err(error) => {
                    tracing::warn!(%path, %error, "a build that waits for approval is passed over");
                    continue;
                }
            };
            if live.held && live.ended.is_none() {
                let source = &live.source;
                let mark = mark.unwrap_or_else(|| Mark::new(&source.name, &source.senders, live.triggered));
                let live = (live, entry.version);
                found.push(Found { n, mark, live });
            }
        }
        Ok(found)
    }

    /// Entries as the coordinator has them.
    async fn entries(&self, what: &str, paths: Vec<String>) -> Result<Vec<Option<Entry>>> {
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        bounded(what, self.store.coordination.get_all(paths)).await
    }

    /// Ends all held builds of a job, which is about to be removed.
    pub(super) async fn dismiss_held(&self, uid: &str) -> Result<()> {
        let marks = self.marks_of(uid).await?;
        for found in self.held_of(uid, marks).await? {
            if let Some(step) = held::end(uid, found.n, &found.live, Dismissal::Removed, now(), None) {
                self.store.commit(step.ops).await?;
            }
        }
        Ok(())
    }

    /// Makes the entry above the held builds of a job, if it is not there.
    pub(super) async fn lay_held(&self, job: &Job) -> Result<()> {
        let path = Key::HeldOf(job.uid()).path();
        if bounded(&path, self.store.coordination.get(&path)).await?.is_none() {
            format::lay(&*self.store.coordination, &path, Bytes::new()).await?;
        }
        Ok(())
    }

    /// Removes that entry again, if no build of the job is held any more.
    pub(super) async fn clear_held(&self, uid: &str) {
        let path = Key::HeldOf(uid).path();
        // While there are builds below it, it stays.
        if let Err(error) = self.store.commit(vec![delete(path, None)]).await {
            tracing::debug!(uid, %error, "what held builds stood below stays");
        }
    }

    /// Refuses to begin a build of strangers again that today's configuration would not let run.
    pub(super) async fn check_trust_again(&self, job: &Job, n: u64, record: &Record) -> Result<()> {
        if !record.source.untrusted {
            return Ok(());
        }
        let (_, config) = self.configs.current(job).await?;
        let what = format!("jobs/{}/builds/{n}", job.name);
        if is_held(&what, &config, &record.source.senders)? && record.approved.is_none() {
            return Err(Error::NotPermitted(format!(
                "{what}: nobody approved it, and the job holds builds of strangers now: trigger a new one"
            )));
        }
        self.gate.pass(STRANGERS).await
    }

    /// Ends held builds whose time is over, and records those whose end nobody recorded, now and then.
    pub(super) async fn keep_held_swept(self: Arc<Self>) {
        loop {
            if let Err(error) = self.sweep_held(now()).await {
                tracing::warn!(%error, "looking at builds that wait for approval; it is done again within the hour");
            }
            tokio::time::sleep(SWEEP_PAUSE).await;
        }
    }

    /// Does so once. What is wrong with one job keeps no other waiting.
    pub(super) async fn sweep_held(self: &Arc<Self>, now: u64) -> Result<()> {
        for uid in bounded(HELD, self.store.coordination.children(HELD)).await? {
            // One in the trash, or gone, has none.
            let Some(job) = self.jobs.by_uid(&uid) else { continue };
            if let Err(error) = self.sweep_held_of(&job, now).await {
                tracing::warn!(job = %job.name, %error, "looking at its builds that wait for approval");
            }
        }
        Ok(())
    }

    async fn sweep_held_of(self: &Arc<Self>, job: &Job, now: u64) -> Result<()> {
        let marks = self.marks_of(job.uid()).await?;
        let numbers: Vec<u64> = marks.iter().map(|(n, _)| *n).collect();
        for found in self.held_of(job.uid(), marks).await? {
            if found.mark.triggered.saturating_add(HELD_TIME) > now {
                continue;
            }
            if let Some(Step { ops, .. }) = held::end(job.uid(), found.n, &found.live, Dismissal::Expired, now, None) {
                self.store.commit(ops).await?;
            }
        }
        for n in numbers {
            match self.ended_unapproved(job, n).await {
                Ok(part) => part
                    .into_iter()
                    .for_each(|part| self.record_later(part, Duration::ZERO)),
                Err(error) => {
                    tracing::warn!(job = %job.name, build = n, %error, "looking whether it ended without approval");
                }
            }
        }
        self.clear_held(job.uid()).await;
        Ok(())
    }

    /// A held build that has ended and is not recorded.
    async fn ended_unapproved(&self, job: &Job, n: u64) -> Result<Option<BuildRef>> {
        let path = live_path(job.uid(), n);
        let Some(entry) = self.store.get(&path).await? else {
            return Ok(None);
        };
        let live: Live = from_json(&path, &entry.data)?;
        let ended = live.held && live.ended.is_some();
        Ok(ended.then(|| BuildRef {
            job: job.name.to_string(),
            uid: job.uid().to_owned(),
            build: n,
            task: None,
            run: live.run,
        }))
    }
}

impl Builds {
    /// Looks at a build whose entry was set: one that was held may have ended. `delay`: how long others have to record
    /// it first.
    pub(super) async fn refresh_held(self: &Arc<Self>, uid: &str, n: u64, delay: impl Fn(&BuildRef) -> Duration) {
        let Some(job) = self.jobs.by_uid(uid) else { return };
        match self.ended_unapproved(&job, n).await {
            Ok(None) => {}
            Ok(Some(part)) => {
                let state = Stage::Ended(Verdict::Aborted);
                let name = job.name.clone();
                self.events.announce(Event::Build { job: name, n, state });
                let delay = delay(&part);
                self.record_later(part, delay);
            }
            Err(error) => {
                tracing::warn!(job = %job.name, build = n, %error, "looking whether it ended; that is done again within the hour");
            }
        }
    }

    /// Says that a build is held.
    pub(super) fn tell_held(&self, uid: &str, n: u64) {
        if let Some(job) = self.jobs.by_uid(uid) {
            let (job, state) = (job.name, Stage::Held);
            self.events.announce(Event::Build { job, n, state });
        }
    }
}

impl Repository {
    /// Lets a held build run, for exactly the commit that it is of.
    ///
    /// # Errors
    /// `Stale` if that is another commit, or a newer build of the ref was triggered; `Exists` if it was approved
    /// before; `Busy` if it has ended; `NotPermitted` if its trigger named no commit; `Access` while the job is off,
    /// or another's.
    pub async fn approve(self: &Arc<Self>, job: &Job, n: u64, commit: &str, who: Poster) -> Result<()> {
        let pin = self.store.pin_epoch().await?;
        let commit = commit.trim().to_ascii_lowercase();
        let person = self.builds.people.person(who.uid).await;
        for _ in 0..RACES_MAX {
            let (head, config) = self.configs.current(job).await?;
            job.check_switch(&head)?;
            let named = self.jobs.named(job).await?;
            let build = self.builds.build(job, n).await?;
            let approval = Approval {
                who: person.clone(),
                commit: commit.clone(),
                at: now(),
            };
            let owner = build.live.as_ref().and_then(|(live, _)| live.owner);
            let owner = owner.unwrap_or(job.entry.access.uid);
            let group = group_of(owner, &build.config, &build.params, &build.source())?;
            let begun = begun(who, group);
            let step = steps::build::held::approve(job, &build, &named, approval, begun);
            if step.is_ok() {
                self.may_approve_today(&build, &config).await?;
            }
            let Step { after, ops } = match step {
                Ok(step) => step,
                // Its name is settled when it is asked for the next time.
                Err(Refused::Renamed) => continue,
                Err(refused) => return Err(not_approved(&build, refused)),
            };
            let (path, data) = (live_path(job.uid(), n), to_json(&after));
            let ours = |entry: Option<&Entry>| entry.is_some_and(|e| e.data == data);
            if self.store.commit_pinned(&pin, ops, &path, ours).await? == Commit::Done {
                self.builds.clear_held(job.uid()).await;
                return Ok(());
            }
        }
        Err(Error::Busy(format!(
            "jobs/{}/builds/{n}: it changes too fast: try again",
            job.name
        )))
    }
}

impl Repository {
    /// Refuses an approval that would let something else run than what was looked at, or more than the job allows by
    /// now.
    async fn may_approve_today(&self, build: &Build, config: &JobConfig) -> Result<()> {
        let what = format!("jobs/{}/builds/{}/approve", build.job.name, build.n);
        is_held(&what, config, &build.source().senders)?;
        binds(build)
            .map_err(|why| Error::NotPermitted(format!("{what}: nothing would hold it to its commit: {why}")))?;
        self.builds.gate.pass(STRANGERS).await
    }
}

/// Why a build is not approved.
fn not_approved(build: &Build, refused: Refused) -> Error {
    let what = format!("jobs/{}/builds/{}", build.job.name, build.n);
    match refused {
        Refused::NotHeld => Error::NotFound(format!("{what}/approve")),
        Refused::Uncommitted => Error::NotPermitted(format!(
            "{what}: its trigger named no @commit, so there is nothing to approve: trigger it with one"
        )),
        Refused::OtherCommit => Error::Stale(format!(
            "{what} is of another commit: read commit, and write that if it is the one you have looked at"
        )),
        Refused::Approved => Error::Exists(format!("{what} is approved already")),
        Refused::Superseded(by) => Error::Stale(format!("{what}: build {by} of the same ref is newer: look at that")),
        Refused::Over => Error::Busy(format!("{what} has ended ({})", build.state())),
        refused => not_begun(&build.job, build.n, refused),
    }
}
