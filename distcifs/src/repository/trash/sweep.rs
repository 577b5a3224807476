//! What has been in the trash for long enough goes, and the oldest where there is too much.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::DAY;
use crate::repository::Result;
use crate::repository::builds::Builds;
use crate::repository::core::{bounded, now, random_id};
use crate::repository::model::job::Job;
use crate::repository::model::keys::Key;
use crate::repository::model::trash::{BuildLine, JobLine};
use crate::repository::work::{READS_MAX, join_all};

/// Pause before each sweep of a mount; up to a tenth longer, so that mounts that began together part. Before the
/// first one, too: somebody may have mounted an old backup to take out what is over by now.
const SWEEP_PAUSE: Duration = Duration::from_secs(3600);

/// Removals after which a mount sweeps at once: so no more than that stand beyond the highest bounds.
const SWEEP_AFTER: u64 = 5000;

/// Removed jobs of one owner that stay: each is a line of some hundred bytes, which listing reads.
const JOBS: Bound = Bound(1000);

/// Removed builds of one job that stay.
const BUILDS: Bound = Bound(10_000);

/// How many stay of what was removed more than a day ago. Of the rest ten times as many do: what one mistake
/// removed, which is noticed within the day, must not push itself out.
struct Bound(usize);

impl Bound {
    /// How many of these, which were removed at these times, the oldest first, are too many.
    fn surplus(&self, removed: &[u64], now: u64) -> usize {
        let old = removed.partition_point(|removed| removed.saturating_add(DAY) <= now);
        let hard = removed.len().saturating_sub(10 * self.0);
        old.saturating_sub(self.0).max(hard)
    }
}

impl Builds {
    /// Sweeps the trash now and then, as long as the mount lives.
    pub(in crate::repository) async fn keep_trash_swept(self: Arc<Self>) {
        loop {
            let pause = SWEEP_PAUSE + SWEEP_PAUSE / 1000 * (spread() % 100);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.trash.wake.notified() => {}
            }
            if let Err(error) = self.sweep_trash(now()).await {
                tracing::warn!(%error, "sweeping the trash; it is swept again within the hour");
            }
        }
    }

    /// Has the trash swept if so much went into it.
    pub(super) fn sweep_after(&self, moves: u64) {
        if moves.is_multiple_of(SWEEP_AFTER) {
            self.trash.wake.notify_one();
        }
    }

    /// Removes for good what was to stay until now at most, and the oldest beyond the bounds. Others may do
    /// the same meanwhile, and restore.
    pub(in crate::repository) async fn sweep_trash(&self, now: u64) -> Result<()> {
        let lines = self.trashed_jobs().await?;
        for (uid, until) in jobs_over(&lines, now) {
            if let Err(error) = self.discard_job(&uid, until).await {
                tracing::warn!(uid, %error, "a removed job stays until the next sweep");
            }
        }
        let removed: HashMap<&str, &JobLine> = lines.iter().map(|line| (line.entry.uid.as_str(), line)).collect();
        for some in self.noted_jobs().await?.chunks(READS_MAX) {
            let swept = some
                .iter()
                .map(|uid| self.sweep_noted(uid, removed.get(uid.as_str()).copied(), now));
            for (uid, swept) in some.iter().zip(join_all(swept).await) {
                if let Err(error) = swept {
                    tracing::warn!(uid, %error, "removed builds stay until the next sweep");
                }
            }
        }
        Ok(())
    }

    /// Sweeps the removed builds of a job by its uid; `removed`: its line, if it is in the trash itself.
    async fn sweep_noted(&self, uid: &str, removed: Option<&JobLine>, now: u64) -> Result<()> {
        match (self.jobs.by_uid(uid), removed) {
            (Some(job), _) => self.sweep_builds(&job, None, now).await,
            (None, Some(line)) => self.sweep_builds(&line.job()?, Some(line), now).await,
            (None, None) => self.forget_stale_note(uid).await,
        }
    }

    /// Sweeps the removed builds of a job, which may be in the trash itself.
    async fn sweep_builds(&self, job: &Job, removed: Option<&JobLine>, now: u64) -> Result<()> {
        let mut lines = self.trashed_builds(job).await?;
        // What comes back with its job stays as long as that.
        lines.retain(|(_, line)| removed.is_none_or(|job| !line.goes_with(&job.trash)));
        for (n, until) in builds_over(lines, now) {
            self.discard_build(job, n, until).await?;
        }
        Ok(())
    }

    /// Forgets a job that is gone for good: one that is not known here yet has a counter.
    async fn forget_stale_note(&self, uid: &str) -> Result<()> {
        bounded("sync", self.store.coordination.sync()).await?;
        let path = Key::Job(uid).path();
        match bounded(&path, self.store.coordination.get(&path)).await? {
            Some(_) => Ok(()),
            None => self.forget_note(uid).await,
        }
    }
}

/// Removed jobs that go, each with the time until which it was to stay at most: another is another removal's.
fn jobs_over(lines: &[JobLine], now: u64) -> Vec<(String, u64)> {
    let mut over = Vec::new();
    let mut owners: BTreeMap<u32, Vec<&JobLine>> = BTreeMap::new();
    for line in lines {
        match line.trash.until <= now {
            true => over.push((line.entry.uid.clone(), now)),
            false => owners.entry(line.entry.access.uid).or_default().push(line),
        }
    }
    for mut lines in owners.into_values() {
        lines.sort_by_key(|line| line.trash.removed);
        let removed: Vec<u64> = lines.iter().map(|line| line.trash.removed).collect();
        let surplus = &lines[..JOBS.surplus(&removed, now)];
        over.extend(surplus.iter().map(|line| (line.entry.uid.clone(), line.trash.until)));
    }
    over
}

/// The same of a job's removed builds.
fn builds_over(lines: Vec<(u64, BuildLine)>, now: u64) -> Vec<(u64, u64)> {
    let (over, mut lines): (Vec<_>, Vec<_>) = lines.into_iter().partition(|(_, line)| line.trash.until <= now);
    lines.sort_by_key(|(_, line)| line.trash.removed);
    let removed: Vec<u64> = lines.iter().map(|(_, line)| line.trash.removed).collect();
    let surplus = &lines[..BUILDS.surplus(&removed, now)];
    let over = over.into_iter().map(|(n, _)| (n, now));
    over.chain(surplus.iter().map(|(n, line)| (*n, line.trash.until)))
        .collect()
}

/// Some number.
fn spread() -> u32 {
    u32::from_str_radix(&random_id()[..4], 16).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::model::deed::Person;
    use crate::repository::model::record::Indexed;
    use crate::repository::model::ticket::Verdict;
    use crate::repository::model::trash::Removal;

    const NOW: u64 = 100 * DAY;

    fn removal(removed: u64, until: u64) -> Removal {
        let by = Person {
            uid: 0,
            name: String::new(),
        };
        Removal { removed, until, by }
    }

    fn build(removed: u64, until: u64) -> BuildLine {
        let indexed = Indexed {
            state: Verdict::Success,
            finished: 1,
            keep: false,
            untrusted: false,
        };
        BuildLine {
            indexed,
            trash: removal(removed, until),
        }
    }

    fn job(uid: &str, owner: u32, removed: u64, until: u64) -> JobLine {
        let text = format!(
            r#"{{"id": "{uid}", "uid": {owner}, "gid": 0, "mode": 488, "created": 1, "name": "a", "builds": 0,
            "trash": {{"removed": {removed}, "until": {until}, "by": {{"uid": 0, "name": ""}}}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    /// "The oldest go early where more than 10,000 builds of one job were removed more than a day ago."
    #[test]
    fn the_oldest_builds_go_beyond_the_bound() {
        let many = BUILDS.0 as u64 + 2;
        let mut lines: Vec<_> = (1..=many).map(|n| (n, build(many - n, NOW + n))).collect();
        assert_eq!(
            builds_over(lines.clone(), NOW),
            [(many, NOW + many), (many - 1, NOW + many - 1)]
        );
        lines[0].1.trash.until = NOW;
        lines[1].1.trash.removed = NOW - DAY + 1;
        assert_eq!(builds_over(lines, NOW), [(1, NOW)]);
    }

    /// "Of those of the last day up to ten times as many stay": one `rm -r` does not push itself out.
    #[test]
    fn what_was_removed_today_stays_up_to_ten_times_the_bound() {
        let many = 10 * BUILDS.0 as u64;
        let mut lines: Vec<_> = (1..=many).map(|n| (n, build(NOW - DAY + n, NOW + 1))).collect();
        assert_eq!(builds_over(lines.clone(), NOW), []);
        lines.push((many + 1, build(NOW, NOW + 1)));
        assert_eq!(builds_over(lines, NOW), [(1, NOW + 1)]);
    }

    /// "More than 1,000 jobs of one owner": whoever removes many pushes out nobody else's.
    #[test]
    fn the_oldest_jobs_of_an_owner_go_beyond_the_bound() {
        let mut lines = vec![job("over", 7, 1, NOW), job("others", 8, 0, NOW + 1)];
        let many = (0..=JOBS.0 as u64).rev();
        lines.extend(many.map(|at| job(&format!("j{at}"), 7, at + 5, NOW + 1)));
        let over = jobs_over(&lines, NOW);
        assert_eq!(over, [("over".to_owned(), NOW), ("j0".to_owned(), NOW + 1)]);
        // Had they all been removed today, they would stay.
        for line in &mut lines {
            line.trash.removed += NOW - DAY;
        }
        assert_eq!(jobs_over(&lines, NOW), [("over".to_owned(), NOW)]);
    }

    /// What an earlier version reads of such a line is the job, and the build.
    #[test]
    fn the_lines_are_those_of_jobs_and_builds_with_more() {
        let line = job("j", 7, 1, 2);
        let text = serde_json::to_vec(&line).unwrap();
        let entry: crate::repository::model::job::JobEntry = serde_json::from_slice(&text).unwrap();
        assert_eq!(entry, line.entry);
        let line = build(1, 2);
        let indexed: Indexed = serde_json::from_slice(&serde_json::to_vec(&line).unwrap()).unwrap();
        assert_eq!(indexed, line.indexed);
    }
}
