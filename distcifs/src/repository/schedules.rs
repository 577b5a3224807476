//! When the schedule of a job starts it next.

use distcifs_schedule::{Schedule, readable};

use super::core::now;
use super::model::job::{Job, Switch};
use super::{Error, Repository, Result};

/// A time that will come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coming {
    /// In UTC, as the build's `cause` will have it.
    pub utc: String,
    /// The same by the clock of the zone that the schedule names, and that name.
    pub local: Option<String>,
    /// When the schedule was written, milliseconds since 1970.
    pub written: u64,
}

impl Repository {
    /// The next time of a job's schedule; `None` if it has none, or is not triggered by it as it is off.
    pub async fn coming(&self, job: &Job) -> Result<Option<Coming>> {
        let Some(head) = self.configs.head(job).await? else {
            return Ok(None);
        };
        if job.entry.switch(Some(&head)) != Switch::On {
            return Ok(None);
        }
        let config = self.configs.parsed(&job.name, &head.digest).await?;
        let Some(text) = config.cron.clone() else {
            return Ok(None);
        };
        let (name, written) = (job.name.clone(), head.written);
        // A time zone is read from the disk.
        let found = tokio::task::spawn_blocking(move || after(&text, name.as_str(), now(), written));
        found
            .await
            .map_err(|error| Error::Io(format!("schedule: {error}").into()))
    }
}

/// The first time of a schedule after a moment, milliseconds since 1970. One that is not understood here, such
/// as by a zone that this node does not know, has none.
fn after(text: &str, job: &str, moment: u64, written: u64) -> Option<Coming> {
    let schedule = Schedule::parse(text, job).ok()?;
    let next = schedule.next(i64::try_from(moment / 1000).ok()?)?;
    Some(Coming {
        utc: readable(next),
        local: schedule.local(next),
        written,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-24T02:16:59.999Z.
    const MOMENT: u64 = 1_795_486_619_999;

    fn shown(text: &str) -> Option<(String, Option<String>)> {
        after(text, "nightly", MOMENT, 7).map(|coming| (coming.utc, coming.local))
    }

    /// "`next` holds the time at which the schedule starts the job next" (doc/tree.md).
    #[test]
    fn the_next_time_is_later_than_now() {
        let utc = |text: &str| shown(text).map(|(utc, _)| utc);
        assert_eq!(utc("17 2 * * *").as_deref(), Some("2026-11-24T02:17:00Z"));
        assert_eq!(utc("16 2 * * *").as_deref(), Some("2026-11-25T02:16:00Z"));
        assert_eq!(utc("0 0 29 2 *").as_deref(), Some("2028-02-29T00:00:00Z"));
        let berlin = shown("TZ=Europe/Berlin 17 3 * * *").unwrap();
        assert_eq!(berlin.0, "2026-11-24T02:17:00Z");
        assert_eq!(berlin.1.as_deref(), Some("2026-11-24T03:17:00+01:00 Europe/Berlin"));
    }

    #[test]
    fn what_never_comes_or_is_not_understood_has_no_next_time() {
        for text in ["0 0 30 2 *", "TZ=Mars/Phobos @daily", "@reboot", ""] {
            assert_eq!(shown(text), None, "{text}");
        }
    }
}
