//! What is kept of finished builds: their records, the job's index, pruning, removal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::builds::{Builds, Lines};
use super::config::Keep;
use super::core::{bounded, lock, now, settled};
use super::model::build::{Build, Live, build_record, live_path};
use super::model::console::build_console;
use super::model::event::Event;
use super::model::job::Job;
use super::model::json::from_json;
use super::model::keys::RECORD_LINES;
use super::model::ops::Step;
use super::model::record::{Indexed, PAGES_MAX, Record, TaskRecord};
use super::model::steps;
use super::model::ticket::{BuildRef, Ticket, TicketKey, Verdict};
use super::store::Guarded;
use super::{Error, Result};
use crate::storage::{Commit, Digest};

/// Pause before recording a build is tried again.
const RECORD_PAUSE: Duration = Duration::from_secs(1);

/// Tries to record a build before that is left to the next look, or the next mount.
const RECORD_TRIES: u32 = 120;

/// Lines that are met of builds that are gone, one after the other: each mount that dies leaves one.
const GONE_MAX: u32 = 100;

/// Pause between two such looks: an older mount may have to go first, or a store to be mended.
const RECORD_LOOK: Duration = Duration::from_secs(3600);

/// Tries to remove a record while no answer comes.
const DROP_TRIES: u32 = 3;

mod going;
mod index;

pub(in crate::repository) use going::{Going, Heed};

/// What was known of a build whose record is removed.
pub(in crate::repository) struct Dropped(Option<Arc<Record>>);

/// The builds that stay in any case: the newest, and the newest success.
fn spared(builds: &[(u64, Indexed)]) -> BTreeSet<u64> {
    let success = builds.iter().rev().find(|(_, line)| line.state == Verdict::Success);
    builds.last().into_iter().chain(success).map(|(n, _)| *n).collect()
}

impl Builds {
    /// Records a build that ended, in the background, and tidies its tickets up.
    pub(crate) fn record_later(self: &Arc<Self>, part: BuildRef, delay: Duration) {
        let builds = self.clone();
        self.store.runtime.spawn(async move {
            tokio::time::sleep(delay).await;
            // It ends with the build at the latest: of one that is gone there is nothing to record.
            for tries in std::iter::once(RECORD_TRIES).chain(std::iter::repeat(1)) {
                for _ in 0..tries {
                    match builds.record_build(&part).await {
                        Ok(()) => return,
                        Err(error) => {
                            tracing::warn!(job = %part.job, build = part.build, %error, "recording the build");
                        }
                    }
                    tokio::time::sleep(RECORD_PAUSE).await;
                }
                tokio::time::sleep(RECORD_LOOK).await;
            }
        });
    }

    /// Records a build that ended and prunes what is too old then.
    async fn record_build(&self, part: &BuildRef) -> Result<()> {
        let turn = self.records.turn(&part.uid, part.build).await?;
        let recorded = self.record_ended(part).await?;
        drop(turn);
        match recorded {
            Some(build) => self.prune(&build.job, &build).await,
            None => Ok(()),
        }
    }

    /// Writes the record, then the index, then removes the tickets. Any mount may, any number of
    /// times: the record is written under the revision that was read before the build was looked
    /// at, and a removed build leaves one, so that nobody who is late brings it back.
    async fn record_ended(&self, part: &BuildRef) -> Result<Option<Build>> {
        let _pin = self.store.pin_epoch().await?;
        let Some(job) = self.jobs.find(&part.job).await?.filter(|job| job.uid() == part.uid) else {
            return Ok(None);
        };
        let (_, revision) = self.stored_record(&job, part.build).await?;
        let build = match self.build_as_stored(&job, part.build).await {
            Ok(build) => build,
            Err(Error::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        if build.live.is_none() || build.verdict().is_none() {
            return Ok(None);
        }
        let tasks: Vec<TaskRecord> = (0..build.plan.count()).map(|i| build.task(i)).collect();
        let lengths = self.lengths(&build, &tasks).await?;
        let Some(record) = steps::build::record(&build, tasks, lengths) else {
            return Ok(None);
        };
        let told = self.notifications(&build, &record).await?;
        if !self.save_record(&job, part.build, revision, Arc::new(record)).await? {
            return Err(Error::Busy("another mount records it just now".into()));
        }
        self.tidy(&build, &told).await?;
        if build.was_held() {
            self.clear_held(job.uid()).await;
        }
        self.counts.recorded.fetch_add(1, Ordering::Relaxed);
        self.forget_build(&build);
        Ok(Some(build))
    }

    /// The lengths of a build's consoles; what is known of earlier runs is not asked again. They count for ever:
    /// of what others append, notices may be late.
    async fn lengths(&self, build: &Build, tasks: &[TaskRecord]) -> Result<BTreeMap<String, u64>> {
        let mut lengths = build
            .record
            .as_ref()
            .map(|record| record.lengths.clone())
            .unwrap_or_default();
        let own = build_console(build.job.uid(), build.n);
        lengths.remove(&own);
        for name in tasks.iter().flat_map(|task| &task.consoles).chain([&own]) {
            if !lengths.contains_key(name) {
                let length = if self.store.shared {
                    self.consoles.length_anew(name).await?
                } else {
                    self.consoles.length(name).await?
                };
                lengths.insert(name.clone(), length);
            }
        }
        Ok(lengths)
    }

    /// Writes a record that is to follow on this revision, and its line in the index; `false` if
    /// it has another revision.
    pub(crate) async fn save_record(&self, job: &Job, n: u64, revision: u64, record: Arc<Record>) -> Result<bool> {
        let (object, moves) = (build_record(job.uid(), n), self.trash.moves());
        if record.has_pages() {
            self.gate.pass("a record in pages").await?;
        }
        let change = record.changes();
        let update = self.store.update_guarded("build", &object, revision, change);
        let written = match update.await? {
            Guarded::Done { .. } => true,
            // Nobody knows, or it is ours from an earlier try.
            Guarded::Refused { .. } | Guarded::Unknown => self
                .stored_record(job, n)
                .await?
                .0
                .is_some_and(|stored| *stored == *record),
        };
        // Whoever is so late that others have recorded and removed the build, and gc what was left of it, meets no
        // other revision, whether he is told so or nobody knows: without a line in the index, gc takes the record
        // again.
        let alone = revision > 0 || !self.store.shared;
        let written = written && (alone || self.is_unfinished(job, n).await?);
        if written {
            self.change_index(job, n, Some(Indexed::of(&record))).await?;
            if !self.heed_trash(job, n).await? {
                self.remember_record((job.uid().to_owned(), n), record, moves);
            }
        }
        Ok(written)
    }

    /// Whether a build's entry stands, as the coordinator has it.
    pub(in crate::repository) async fn is_unfinished(&self, job: &Job, n: u64) -> Result<bool> {
        let path = live_path(job.uid(), n);
        Ok(self.store.get_uncached(&path).await?.is_some())
    }

    /// A finished build's record as it is in the store, and its revision.
    pub(crate) async fn stored_record(&self, job: &Job, n: u64) -> Result<(Option<Arc<Record>>, u64)> {
        let object = build_record(job.uid(), n);
        let page = bounded(
            "build",
            self.store.contents.query(&object, RECORD_LINES, "", PAGES_MAX + 1),
        )
        .await?;
        let what = format!("jobs/{}/builds/{n}", job.name);
        let record = Record::of_pages(&what, &page.entries)?;
        Ok((record.map(Arc::new), page.revision))
    }

    /// A finished build's record, from memory while it is what the index says.
    pub(crate) async fn record(&self, job: &Job, n: u64) -> Result<Option<Arc<Record>>> {
        let key = (job.uid().to_owned(), n);
        let known = lock(&self.records.records).get(&key).cloned();
        if let Some(known) = known
            && (!self.store.shared || self.index_line(job, n).await? == Some(Indexed::of(&known)))
        {
            return Ok(Some(known));
        }
        let moves = self.trash.moves();
        let (record, _) = self.stored_record(job, n).await?;
        // One in the trash keeps its record. It is there where both lines are.
        if record.is_some() && self.is_trashed(job, n).await? && self.index_line(job, n).await?.is_none() {
            return Ok(None);
        }
        match &record {
            Some(record) => self.remember_record(key, record.clone(), moves),
            None => drop(lock(&self.records.records).forget(&key)),
        }
        Ok(record)
    }

    /// Keeps a record in memory, within bounds, unless something went into the trash since so many moves.
    fn remember_record(&self, key: (String, u64), record: Arc<Record>, moves: u64) {
        let mut records = lock(&self.records.records);
        if self.trash.moves() != moves {
            return;
        }
        records.keep(key, record);
    }

    /// Removes the tickets and the entry of a build whose record stands, and makes those that tell of it.
    async fn tidy(&self, build: &Build, told: &[(TicketKey, Ticket)]) -> Result<()> {
        let Some(Step { after, ops }) = steps::build::tidy(build, told)? else {
            return Ok(());
        };
        for (key, posted) in after {
            self.tickets.tombstones.remember(&key, posted);
        }
        let live = live_path(build.job.uid(), build.n);
        match self.store.commit_settled(ops, &live, |entry| entry.is_none()).await? {
            Commit::Done => Ok(()),
            Commit::Mismatch { .. } => Err(Error::Busy("its tickets changed while it was recorded".into())),
        }
    }

    /// Lets go of what memory and disk hold for a build that is over.
    fn forget_build(&self, build: &Build) {
        let tasks: Vec<_> = (0..build.plan.count()).map(|i| build.task(i)).collect();
        let digests: Vec<Digest> = tasks
            .iter()
            .filter_map(|t| t.workspace.as_deref().and_then(Digest::parse))
            .collect();
        self.attempts.forget_reusable(&digests);
        let mut consoles: Vec<String> = tasks.into_iter().flat_map(|t| t.consoles).collect();
        consoles.push(build_console(build.job.uid(), build.n));
        self.consoles.forget(&consoles);
    }

    /// The newest build.
    pub async fn latest(&self, job: &Job) -> Result<Option<u64>> {
        self.standing(job, || self.latest_told(job)).await
    }

    async fn latest_told(&self, job: &Job) -> Result<Option<u64>> {
        let live = self.live_numbers(job).await?.last().copied();
        Ok(live.max(self.indexed(job).await?.last().map(|(n, _)| *n)))
    }

    /// The newest build that is no stranger's, finished or not, however many of strangers are newer.
    pub async fn latest_trusted(&self, job: &Job) -> Result<Option<u64>> {
        self.standing(job, || self.trusted_told(job)).await
    }

    async fn trusted_told(&self, job: &Job) -> Result<Option<u64>> {
        let newest = |indexed: &[(u64, Indexed)]| {
            let mut newest_first = indexed.iter().rev();
            newest_first.find(|(_, line)| !line.untrusted).map(|(n, _)| *n)
        };
        let recorded = newest(&self.indexed(job).await?);
        let mut live = None;
        for n in self.live_numbers(job).await?.into_iter().rev() {
            if recorded.is_some_and(|recorded| n < recorded) {
                break;
            }
            let path = live_path(job.uid(), n);
            let Some(entry) = self.store.get(&path).await? else {
                continue;
            };
            // One that is damaged keeps nobody from those before it.
            if from_json::<Live>(&path, &entry.data).is_ok_and(|live| !live.source.untrusted) {
                live = Some(n);
                break;
            }
        }
        // One that was recorded meanwhile is in the index by now.
        Ok(live.max(newest(&self.indexed(job).await?)))
    }

    /// The newest build that succeeded, or the newest that ended in failure or error. Those of strangers do not count.
    pub async fn newest(&self, job: &Job, success: bool) -> Result<Option<u64>> {
        self.standing(job, || self.newest_told(job, success)).await
    }

    /// The build that is told, if it is there: else its line goes, and the next one is told. A mount that dies while it
    /// removes a build on a cluster leaves such a line.
    async fn standing<F: Future<Output = Result<Option<u64>>>>(
        &self,
        job: &Job,
        told: impl Fn() -> F,
    ) -> Result<Option<u64>> {
        let mut found = told().await?;
        for _ in 0..GONE_MAX {
            match found {
                Some(n) if self.store.shared && !Going::new(self, job, n).stands().await? => found = told().await?,
                _ => break,
            }
        }
        Ok(found)
    }

    async fn newest_told(&self, job: &Job, success: bool) -> Result<Option<u64>> {
        let asked = |v: Verdict| (v == Verdict::Success) == success && v != Verdict::Aborted;
        let of = |line: &Indexed| !line.untrusted && asked(line.state);
        let newest = |indexed: &[(u64, Indexed)]| indexed.iter().rev().find(|(_, line)| of(line)).map(|(n, _)| *n);
        let recorded = newest(&self.indexed(job).await?);
        let mut ended = None;
        // Builds that have ended are recorded at once, so that few of these are looked at twice.
        for n in self.live_numbers(job).await?.into_iter().rev() {
            if recorded.is_some_and(|recorded| n < recorded) {
                break;
            }
            if self.live_verdict(job, n).await?.is_some_and(asked) {
                ended = Some(n);
                break;
            }
        }
        // One that was recorded and tidied up meanwhile is in the index by now.
        Ok(ended.max(newest(&self.indexed(job).await?)))
    }

    /// How a build ended that is not recorded yet, and not a stranger's.
    async fn live_verdict(&self, job: &Job, n: u64) -> Result<Option<Verdict>> {
        let path = live_path(job.uid(), n);
        let Some(entry) = self.store.get(&path).await? else {
            return Ok(None);
        };
        // One that is damaged keeps nobody from those before it.
        let live = from_json::<Live>(&path, &entry.data).ok();
        let Some(live) = live.filter(|live| !live.source.untrusted) else {
            return Ok(None);
        };
        let control = super::model::ticket::control_key(job.name.as_str(), n, live.run)?;
        let posted = self.tickets.get(&control).await?;
        Ok(posted
            .and_then(|posted| posted.ticket.outcome)
            .map(|outcome| outcome.verdict))
    }

    /// Removes what the job's `keep` does not ask for.
    async fn prune(&self, job: &Job, build: &Build) -> Result<()> {
        let keep = &build.config.keep;
        if keep.builds.is_none() && keep.days.is_none() {
            return Ok(());
        }
        let all = self.all_standing(job).await?;
        // Builds of strangers push out none of the others, and none of theirs is spared for what the others did.
        let (strangers, own): (Vec<_>, Vec<_>) = all.iter().partition(|(_, line)| line.untrusted);
        for builds in [own, strangers] {
            self.prune_of(job, keep, &builds).await?;
        }
        Ok(())
    }

    /// All builds that ended, of which those that would be spared are there.
    async fn all_standing(&self, job: &Job) -> Result<Lines> {
        let mut all = self.indexed(job).await?;
        for _ in 0..GONE_MAX {
            let classes = [false, true].map(|strangers| {
                let of: Vec<_> = all
                    .iter()
                    .filter(|(_, line)| line.untrusted == strangers)
                    .copied()
                    .collect();
                spared(&of)
            });
            let mut gone = false;
            for n in classes.into_iter().flatten() {
                gone |= self.store.shared && !Going::new(self, job, n).stands().await?;
            }
            if !gone {
                break;
            }
            all = self.indexed(job).await?;
        }
        Ok(all)
    }

    /// Removes of these builds what the job's `keep` does not ask for.
    async fn prune_of(&self, job: &Job, keep: &Keep, builds: &[(u64, Indexed)]) -> Result<()> {
        let spared = spared(builds);
        let oldest = keep
            .days
            .map(|days| now().saturating_sub(days.saturating_mul(24 * 3600 * 1000)));
        let surplus = keep.builds.map_or(0, |most| {
            builds.len().saturating_sub(usize::try_from(most).unwrap_or(usize::MAX))
        });
        let surplus = builds.iter().enumerate().filter(|(at, (n, indexed))| {
            let old = oldest.is_some_and(|oldest| indexed.finished < oldest);
            (old || *at < surplus) && !indexed.keep && !spared.contains(n)
        });
        let surplus: Vec<u64> = surplus.map(|(_, (n, _))| *n).collect();
        self.prune_these(job, &surplus).await
    }

    /// Removes these builds, but for those that somebody keeps by now: many take some time.
    pub(in crate::repository) async fn prune_these(&self, job: &Job, builds: &[u64]) -> Result<()> {
        for n in builds {
            match self.remove_finished(job, *n, Heed::Keep).await {
                // It is kept, runs again, or is removed already.
                Ok(()) | Err(Error::Busy(_) | Error::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Removes a finished build for good.
    pub async fn remove_build(&self, job: &Job, n: u64) -> Result<()> {
        self.remove_finished(job, n, Heed::Nothing).await
    }

    async fn remove_finished(&self, job: &Job, n: u64, heed: Heed) -> Result<()> {
        let _turn = self.records.turn(job.uid(), n).await?;
        self.record_now(job, n).await?;
        self.check_finished(job, n).await?;
        let known = self.record(job, n).await?;
        // Others may have kept it, which is heard of late.
        let (stored, revision) = if self.store.shared {
            self.stored_record(job, n).await?
        } else {
            (known.clone(), 0)
        };
        let going = Going::new(self, job, n);
        let (Some(_), Some(record)) = (known, stored) else {
            going.heed().await?;
            return Err(Error::NotFound(format!("jobs/{}/builds/{n}", job.name)));
        };
        going.drop_unless_retried(Indexed::of(&record), revision, heed).await?;
        let job = job.name.clone();
        self.events.announce(Event::BuildRemoved { job, n });
        Ok(())
    }

    /// Records a build that has ended and is not recorded yet: that it is so is nobody's business.
    pub(crate) async fn record_now(&self, job: &Job, n: u64) -> Result<()> {
        let part = BuildRef {
            job: job.name.to_string(),
            uid: job.uid().to_owned(),
            build: n,
            task: None,
            run: 0,
        };
        self.record_ended(&part).await.map(|_| ())
    }

    /// Records all builds of a job that have ended.
    pub(crate) async fn record_all(&self, job: &Job) -> Result<()> {
        for n in self.live_numbers(job).await? {
            let _turn = self.records.turn(job.uid(), n).await?;
            self.record_now(job, n).await?;
        }
        Ok(())
    }

    /// Removes a build's record and consoles; its files go with the next gc.
    pub(crate) async fn drop_build_objects(&self, job: &Job, n: u64) -> Result<()> {
        let record = self.stored_record(job, n).await?.0;
        let object = build_record(job.uid(), n);
        if self.store.shared {
            // What is left keeps its revision, until gc: a mount that is late finds another one.
            self.store.update("build", &object, Record::removal()).await?;
        } else {
            settled("build", || self.store.contents.remove(&object)).await?;
        }
        self.forget_record(job, n);
        self.drop_consoles(job, n, &Dropped(record)).await
    }

    /// The same of the record alone, if that has this revision still: what it had.
    pub(in crate::repository) async fn drop_build_of(
        &self,
        job: &Job,
        n: u64,
        revision: u64,
    ) -> Result<Option<Dropped>> {
        let record = self.stored_record(job, n).await?.0;
        let object = build_record(job.uid(), n);
        for _ in 0..DROP_TRIES {
            let change = Record::removal();
            let dropped = match self.store.update_guarded("build", &object, revision, change).await? {
                Guarded::Done { .. } => true,
                // By an earlier try of ours, or another mount's.
                Guarded::Refused { .. } => self.stored_record(job, n).await?.0.is_none(),
                Guarded::Unknown => continue,
            };
            if dropped {
                self.forget_record(job, n);
            }
            return Ok(dropped.then_some(Dropped(record)));
        }
        Err(Error::TimedOut(
            format!("jobs/{}/builds/{n}: nobody knows whether it is removed", job.name).into(),
        ))
    }

    /// A record is gone: whoever read it before this keeps it no more.
    fn forget_record(&self, job: &Job, n: u64) {
        self.trash.moved();
        lock(&self.records.records).forget(&(job.uid().to_owned(), n));
    }

    /// Removes what a build had beside its record.
    pub(in crate::repository) async fn drop_consoles(
        &self,
        job: &Job,
        n: u64,
        Dropped(record): &Dropped,
    ) -> Result<()> {
        let tasks = record.iter().flat_map(|record| record.tasks.iter());
        let mut consoles: Vec<String> = tasks.flat_map(|task| task.consoles.iter().cloned()).collect();
        consoles.push(build_console(job.uid(), n));
        self.consoles.remove(&consoles).await
    }
}
