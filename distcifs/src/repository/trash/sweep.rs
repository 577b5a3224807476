//! What has been in the trash for long enough goes, and the oldest where there is too much.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::{BuildLine, JobLine};
use crate::repository::core::{bounded, now, random_id};
use crate::repository::jobs::Job;
use crate::repository::{Repository, Result};

/// When a mount looks at the trash for the first time: one that lives for minutes does, too.
const FIRST_SWEEP: Duration = Duration::from_secs(60);

/// Pause between two sweeps of a mount; up to a tenth longer, so that mounts that began together part.
const SWEEP_PAUSE: Duration = Duration::from_secs(3600);

/// Removals after which a mount sweeps at once: so no more than that stand beyond the bounds.
const SWEEP_AFTER: u64 = 500;

/// Removed jobs of one owner that stay: each is a line of some hundred bytes, which listing reads.
const JOBS_MAX: usize = 1000;

/// Removed builds of one job that stay.
const BUILDS_MAX: usize = 10_000;

impl Repository {
    /// Sweeps the trash now and then, as long as the mount lives.
    pub(in crate::repository) async fn keep_trash_swept(self: Arc<Self>) {
        let mut pause = FIRST_SWEEP;
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.trash.wake.notified() => {}
            }
            if let Err(error) = self.sweep_trash(now()).await {
                tracing::warn!(%error, "sweeping the trash; it is swept again within the hour");
            }
            pause = SWEEP_PAUSE + SWEEP_PAUSE / 1000 * (spread() % 100);
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
        for uid in self.noted_jobs().await? {
            let swept = match (self.job_of_uid(&uid), removed.get(uid.as_str())) {
                (Some(job), _) => self.sweep_builds(&job, None, now).await,
                (None, Some(line)) => self.sweep_builds(&line.job()?, Some(line), now).await,
                (None, None) => self.forget_stale_note(&uid).await,
            };
            if let Err(error) = swept {
                tracing::warn!(uid, %error, "removed builds stay until the next sweep");
            }
        }
        Ok(())
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
        bounded("sync", self.coordination.sync()).await?;
        let path = format!("/jobs/{uid}");
        match bounded(&path, self.coordination.get(&path)).await? {
            Some(_) => Ok(()),
            None => self.forget_note(uid).await,
        }
    }
}

/// Removed jobs that go, each with the time until which those go that are over.
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
        let surplus = lines.len().saturating_sub(JOBS_MAX);
        over.extend(lines[..surplus].iter().map(|line| (line.entry.uid.clone(), u64::MAX)));
    }
    over
}

/// The same of a job's removed builds.
fn builds_over(mut lines: Vec<(u64, BuildLine)>, now: u64) -> Vec<(u64, u64)> {
    lines.sort_by_key(|(_, line)| line.trash.removed);
    let surplus = lines.len().saturating_sub(BUILDS_MAX);
    let goes = |(at, (n, line)): (usize, (u64, BuildLine))| match at < surplus {
        true => Some((n, u64::MAX)),
        false => (line.trash.until <= now).then_some((n, now)),
    };
    lines.into_iter().enumerate().filter_map(goes).collect()
}

/// Some number.
fn spread() -> u32 {
    u32::from_str_radix(&random_id()[..4], 16).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::people::Person;
    use crate::repository::records::Indexed;
    use crate::repository::tickets::Verdict;
    use crate::repository::trash::Removal;

    const NOW: u64 = 1_000_000;

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

    /// "At most 10,000 builds of a job: the oldest go first."
    #[test]
    fn the_oldest_builds_go_beyond_the_bound() {
        let many = BUILDS_MAX as u64 + 2;
        let mut lines: Vec<_> = (1..=many).map(|n| (n, build(many - n, NOW + 1))).collect();
        lines[0].1.trash.until = NOW;
        let over = builds_over(lines, NOW);
        assert_eq!(over, [(many, u64::MAX), (many - 1, u64::MAX), (1, NOW)]);
    }

    /// "At most 1,000 jobs of an owner": whoever removes many pushes out nobody else's.
    #[test]
    fn the_oldest_jobs_of_an_owner_go_beyond_the_bound() {
        let mut lines = vec![job("over", 7, 1, NOW), job("others", 8, 0, NOW + 1)];
        let many = (0..=JOBS_MAX as u64).rev();
        lines.extend(many.map(|at| job(&format!("j{at}"), 7, at + 5, NOW + 1)));
        let over = jobs_over(&lines, NOW);
        assert_eq!(over, [("over".to_owned(), NOW), ("j0".to_owned(), u64::MAX)]);
    }

    /// What an earlier version reads of such a line is the job, and the build.
    #[test]
    fn the_lines_are_those_of_jobs_and_builds_with_more() {
        let line = job("j", 7, 1, 2);
        let text = serde_json::to_vec(&line).unwrap();
        let entry: crate::repository::jobs::JobEntry = serde_json::from_slice(&text).unwrap();
        assert_eq!(entry, line.entry);
        let line = build(1, 2);
        let indexed: Indexed = serde_json::from_slice(&serde_json::to_vec(&line).unwrap()).unwrap();
        assert_eq!(indexed, line.indexed);
    }
}
