//! Schedules of jobs: five fields as cron has them, `H` spread by the job's name, `TZ=` in front.
//!
//! The daemon checks a configuration with it, and the worker `cron` asks it when a build is due:
//! so what is accepted is what is carried out.

mod fields;
mod times;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use fields::Fields;

/// Longest schedule, bytes.
const TEXT_BYTES_MAX: usize = 256;

/// When builds of a job start.
#[derive(Debug, Clone)]
pub struct Schedule {
    fields: Fields,
    zone: TimeZone,
}

/// What is wrong with the text of a schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Fault {
    /// Where it is, in bytes from the beginning of the text.
    pub at: usize,
    /// What is wrong, and what would be right; the words go on after "cron".
    pub what: String,
}

impl Fault {
    /// A fault in a part of the text.
    fn new(text: &str, part: &str, what: impl Into<String>) -> Self {
        let at = (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
        Fault {
            at: at.min(text.len()),
            what: what.into(),
        }
    }
}

impl Schedule {
    /// Reads `H 3 * * 1-5`, `TZ=Europe/Berlin H 3 * * 1-5` or `@daily`. `job` is what `H` is spread by; the
    /// zone is UTC if none is named.
    ///
    /// # Errors
    /// The first fault in the text. A day that no month has, such as 30 February, is one.
    pub fn parse(text: &str, job: &str) -> Result<Self, Fault> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(Fault::new(
                text,
                text,
                format!("must have at most {TEXT_BYTES_MAX} bytes"),
            ));
        }
        let mut words: Vec<&str> = text.split_ascii_whitespace().collect();
        let zone = match words.first().copied() {
            Some(word) if word.starts_with("TZ=") => {
                words.remove(0);
                zone(&word[3..]).map_err(|what| Fault::new(text, word, what))?
            }
            Some(word) if word.starts_with("CRON_TZ=") => {
                let what = format!("names a zone by TZ=: write TZ={}", &word[8..]);
                return Err(Fault::new(text, word, what));
            }
            _ => TimeZone::UTC,
        };
        let fields = Fields::parse(text, &words, job)?;
        Ok(Schedule { fields, zone })
    }

    /// Whether it has an `H`, so that under another name it comes at other times.
    pub fn is_spread(&self) -> bool {
        self.fields.is_spread()
    }

    /// The last time that is later than `after` and not later than `until`, if there is one; all
    /// are seconds since 1970.
    ///
    /// When clocks are put forward, a time that is left out comes at the first moment after; when
    /// they are put back, a given hour comes once, and `*` in the hour or minute goes on.
    pub fn last(&self, after: i64, until: i64) -> Option<i64> {
        let until = Timestamp::from_second(until).ok()?;
        self.fields.last(&self.zone, after, until)
    }

    /// The first time that is later than `after`.
    pub fn next(&self, after: i64) -> Option<i64> {
        let after = Timestamp::from_second(after).ok()?;
        self.fields.next(&self.zone, after)
    }

    /// A time as the clock of the schedule's zone shows it: `2026-11-24T04:17:00+01:00 Europe/Berlin`;
    /// `None` in UTC.
    pub fn local(&self, second: i64) -> Option<String> {
        let name = self.zone.iana_name().filter(|_| self.zone != TimeZone::UTC)?;
        let moment = Timestamp::from_second(second).ok()?.to_zoned(self.zone.clone());
        Some(format!("{} {name}", moment.strftime("%Y-%m-%dT%H:%M:%S%:z")))
    }
}

/// A time as people read it: `2026-11-24T03:17:00Z`.
pub fn readable(second: i64) -> String {
    Timestamp::from_second(second).map_or_else(|_| second.to_string(), |moment| moment.to_string())
}

/// A zone by its name: `Europe/Berlin`. Names that could be paths are none.
fn zone(name: &str) -> Result<TimeZone, String> {
    let plain = |part: &str| {
        part.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+-".contains(&b))
    };
    let found = name.split('/').all(plain).then(|| TimeZone::get(name).ok()).flatten();
    found.ok_or_else(|| format!("names no time zone such as TZ=Europe/Berlin: {name:?}"))
}

#[cfg(test)]
mod tests;
