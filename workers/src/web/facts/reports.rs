//! What reports of tests said, as the workers lay it among the artifacts of a build.

use serde::{Deserialize, Serialize};

use super::few::Few;
use super::{cut, read_json};
use crate::record::nullable;
use crate::web::sight::{Fault, Kind, Result, Seen};

/// Tasks of one build whose reports are read.
const REPORTS_MAX: usize = 20;

/// Longest such file, bytes: 200 tests with what they said.
const BYTES_MAX: u64 = 4 << 20;

/// Tests that are shown by name of one task, and faults of its reports.
const FAILED_MAX: usize = 50;
const FAULTS_MAX: usize = 10;

/// Characters of a name or reason, and of the details, that are shown.
const NAME_CHARS_MAX: usize = 300;
const TEXT_CHARS_MAX: usize = 2000;

/// What the reports of one task said.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Report {
    /// The place of the task in its build.
    #[serde(skip_deserializing)]
    pub index: usize,
    /// How many tests there were.
    #[serde(deserialize_with = "nullable")]
    pub tests: u64,
    /// Those that failed.
    #[serde(deserialize_with = "nullable")]
    pub failures: u64,
    /// Those that could not be carried out.
    #[serde(deserialize_with = "nullable")]
    pub errors: u64,
    /// Those that were left out.
    #[serde(deserialize_with = "nullable")]
    pub skipped: u64,
    /// Their time together.
    #[serde(deserialize_with = "nullable")]
    pub seconds: f64,
    /// The first that did not go well.
    #[serde(deserialize_with = "nullable")]
    pub failed: Few<Failed, FAILED_MAX>,
    /// What is wrong with the reports.
    #[serde(deserialize_with = "nullable")]
    pub faults: Few<String, FAULTS_MAX>,
}

/// A test that did not go well.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Failed {
    /// Suite or class, and the test.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// The first line of what it said.
    #[serde(deserialize_with = "nullable")]
    pub message: String,
    /// What else it said.
    #[serde(deserialize_with = "nullable")]
    pub text: String,
}

impl Report {
    /// How many did not go well.
    pub fn bad(&self) -> u64 {
        self.failures.saturating_add(self.errors)
    }

    /// How many of them are not shown by name.
    pub fn unnamed(&self) -> u64 {
        self.bad().saturating_sub(self.failed.len() as u64)
    }

    /// The counts for people.
    pub fn counts(&self) -> String {
        let mut text = match self.tests {
            1 => "1 test".to_owned(),
            tests => format!("{tests} tests"),
        };
        for (count, what) in [
            (self.failures, "failed"),
            (self.errors, "could not be carried out"),
            (self.skipped, "skipped"),
        ] {
            if count > 0 {
                text.push_str(&format!(", {count} {what}"));
            }
        }
        if self.seconds.is_finite() && self.seconds > 0.0 {
            text.push_str(&format!("; {:.1} s", self.seconds));
        }
        text
    }

    fn cut(&mut self) {
        for failed in self.failed.iter_mut() {
            cut(&mut failed.name, NAME_CHARS_MAX);
            cut(&mut failed.message, NAME_CHARS_MAX);
            cut(&mut failed.text, TEXT_CHARS_MAX);
        }
        self.faults.iter_mut().for_each(|fault| cut(fault, NAME_CHARS_MAX));
    }
}

/// What reports of the tasks of a build said, by its folder; whatever else lies there under their names is told as a fault.
///
/// # Errors
/// The tree is away.
pub fn reports(build: &Seen) -> Result<Vec<Report>> {
    let folder = build.enter("artifacts").and_then(|folder| folder.enter("reports"));
    let names = folder.and_then(|folder| Ok((folder.names(REPORTS_MAX * 8)?.0, folder)));
    let (names, folder) = match names {
        Err(Fault::Away(why)) => return Err(Fault::Away(why)),
        Err(_) => return Ok(Vec::new()),
        Ok(found) => found,
    };
    let place = |name: &str| name.strip_suffix(".json")?.parse().ok();
    let mut places: Vec<usize> = names
        .iter()
        .filter(|(_, kind)| *kind == Kind::File)
        .filter_map(|(name, _)| place(name.to_str()?))
        .collect();
    places.sort_unstable();
    places.truncate(REPORTS_MAX);
    let mut found = Vec::new();
    for index in places {
        let mut report: Report = match read_json(&folder, &format!("{index}.json"), BYTES_MAX) {
            Ok(report) => report,
            Err(Fault::Away(why)) => return Err(Fault::Away(why)),
            Err(Fault::Unreadable(why)) => Report {
                faults: Few::new(vec![format!("can't be read: {why}")], 0),
                ..Report::default()
            },
            // It went meanwhile, or is closed.
            Err(_) => continue,
        };
        report.index = index;
        report.cut();
        found.push(report);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_said() {
        let report = |text: &str| serde_json::from_str::<Report>(text).unwrap();
        for (text, said) in [
            (r#"{"tests":1}"#, "1 test"),
            (
                r#"{"tests":120,"failures":2,"errors":1,"skipped":3,"seconds":12.34,"failed":null}"#,
                "120 tests, 2 failed, 1 could not be carried out, 3 skipped; 12.3 s",
            ),
            (r#"{"seconds":1e308,"tests":null}"#, &format!("0 tests; {:.1} s", 1e308)),
        ] {
            assert_eq!(report(text).counts(), said);
        }
        let huge = report(r#"{"failures":18446744073709551615,"errors":9}"#);
        assert_eq!((huge.bad(), huge.unnamed()), (u64::MAX, u64::MAX));
    }
}
