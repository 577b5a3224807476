//! Builds of strangers that wait for approval: who lets them run, and what ends them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::builds::{Builds, begun, group_of, not_begun};
use super::core::{bounded, now};
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
use super::model::ticket::{Part, Poster, Verdict};
use super::trust::is_held;
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

impl Builds {
    /// What is done to the held builds of a job in the commit that triggers this one: those of its ref end, and if
    /// it is held one of them too when they are too many. Read after the counter, so that none is missed that was
    /// triggered before.
    pub(super) async fn making_room(&self, job: &Job, read: &Counted, live: &Live) -> Result<Vec<Op>> {
        if live.source.name.is_empty() && !live.held {
            return Ok(Vec::new());
        }
        let found = self.held_of(job.uid()).await?;
        let (older, mut others): (Vec<Found>, Vec<Found>) =
            found.into_iter().partition(|found| found.mark.is_of(&live.source.name));
        let mut ended: Vec<(Found, Dismissal)> = older
            .into_iter()
            .map(|found| (found, Dismissal::Superseded(read.counter.next)))
            .collect();
        while live.held && others.len() >= HELD_MAX {
            let marks: Vec<(u64, Mark)> = others.iter().map(|found| (found.n, found.mark.clone())).collect();
            let Some(at) = surplus(&marks).and_then(|n| others.iter().position(|found| found.n == n)) else {
                break;
            };
            ended.push((others.remove(at), Dismissal::Crowded));
        }
        let end = |(found, cause): &(Found, Dismissal)| held::end(job.uid(), found.n, &found.live, *cause, now(), None);
        Ok(ended.iter().filter_map(end).flat_map(|step| step.ops).collect())
    }

    /// The builds of a job that are held, as the coordinator has them.
    async fn held_of(&self, uid: &str) -> Result<Vec<Found>> {
        let folder = Key::HeldOf(uid).path();
        let mut found = Vec::new();
        for child in bounded(&folder, self.store.coordination.children(&folder)).await? {
            let Ok(n) = child.parse::<u64>() else { continue };
            let (mark_path, live_path) = (held::mark_path(uid, n), live_path(uid, n));
            let paths = vec![mark_path.clone(), live_path.clone()];
            let entries = bounded(&folder, self.store.coordination.get_all(paths)).await?;
            // Approved or recorded meanwhile.
            let [Some(mark), Some(live)] = entries.as_slice() else {
                continue;
            };
            let (mark, version) = (from_json(&mark_path, &mark.data)?, live.version);
            let live: Live = from_json(&live_path, &live.data)?;
            if live.held && live.ended.is_none() {
                let live = (live, version);
                found.push(Found { n, mark, live });
            }
        }
        found.sort_by_key(|found| found.n);
        Ok(found)
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
        if is_held(job, &config, &record.source.senders)? && record.approved.is_none() {
            return Err(Error::NotPermitted(format!(
                "jobs/{}/builds/{n}: nobody approved it, and the job holds builds of strangers now: trigger a new one",
                job.name
            )));
        }
        Ok(())
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

    /// Does so once.
    pub(super) async fn sweep_held(self: &Arc<Self>, now: u64) -> Result<()> {
        for uid in bounded(HELD, self.store.coordination.children(HELD)).await? {
            // One in the trash, or gone, has none.
            let Some(job) = self.jobs.by_uid(&uid) else { continue };
            for found in self.held_of(&uid).await? {
                if found.mark.triggered.saturating_add(HELD_TIME) > now {
                    continue;
                }
                if let Some(Step { ops, .. }) = held::end(&uid, found.n, &found.live, Dismissal::Expired, now, None) {
                    self.store.commit(ops).await?;
                }
            }
            let folder = Key::HeldOf(&uid).path();
            for child in bounded(&folder, self.store.coordination.children(&folder)).await? {
                let Ok(n) = child.parse() else { continue };
                if let Some(part) = self.ended_unapproved(&job, n).await? {
                    self.record_later(part, Duration::ZERO);
                }
            }
            self.clear_held(&uid).await;
        }
        Ok(())
    }

    /// A held build that has ended and is not recorded.
    async fn ended_unapproved(&self, job: &Job, n: u64) -> Result<Option<Part>> {
        let path = live_path(job.uid(), n);
        let Some(entry) = self.store.get(&path).await? else {
            return Ok(None);
        };
        let live: Live = from_json(&path, &entry.data)?;
        let ended = live.held && live.ended.is_some();
        Ok(ended.then(|| Part {
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
    pub(super) async fn look_at_set(self: &Arc<Self>, uid: &str, n: u64, delay: impl Fn(&Part) -> Duration) {
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
        let hold = self.store.hold_epoch().await?;
        let commit = commit.trim().to_ascii_lowercase();
        let person = self.builds.people.person(who.uid).await;
        for _ in 0..RACES_MAX {
            job.check_switch(&self.configs.current(job).await?.0)?;
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
            let Step { after, ops } = match step {
                Ok(step) => step,
                // Its name is settled when it is asked for the next time.
                Err(Refused::Renamed) => continue,
                Err(refused) => return Err(not_approved(&build, refused)),
            };
            let (path, data) = (live_path(job.uid(), n), to_json(&after));
            let ours = |entry: Option<&Entry>| entry.is_some_and(|e| e.data == data);
            if self.store.commit_held(&hold, ops, &path, ours).await? == Commit::Done {
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
