//! Compares what everybody was told with what is there: the promises of doc/storage.md, each as a
//! kind of violation.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::found::Found;
use super::history::{Answer, Call, History, Millis, Operation, Ticket};

mod builds;
mod configs;
mod groups;
mod waits;

pub use builds::says;

/// How a promise was broken, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which promise.
    pub kind: Kind,
    /// In words.
    pub what: String,
}

/// The promises, by how they can be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Two claimants of a ticket published.
    TwoPublished,
    /// Who was told that its claim is lost published.
    LostPublished,
    /// A trigger that was acknowledged made no build, or another one's.
    LostTrigger,
    /// One trigger made two builds, or a build was asked for by nobody.
    ExtraBuild,
    /// A result that was acknowledged is not there.
    LostResult,
    /// A configuration that was acknowledged is not there, or an older one was read after it.
    LostConfig,
    /// A console line that was acknowledged is not there.
    LostLine,
    /// A console line that was written once is there twice.
    LineTwice,
    /// A build has not ended, or not as it must.
    NotEnded,
    /// A ticket is left of a build that is over.
    TicketLeft,
    /// A file differs from what was written.
    Differs,
    /// An attempt began from another state than the first.
    BeganElsewhere,
    /// What was seen final changed, or was not seen by another in time.
    WentBack,
    /// More builds of a group ran at once than its limit lets.
    TooMany,
    /// A build ended as if a newer one had ended it, and none did.
    NotSuperseded,
    /// Tasks that were added are missing, or there twice.
    Added,
    /// Something waited for longer than its bound.
    Waited,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.what)
    }
}

/// What the checker was given, sorted by what it asks for.
struct Case<'a> {
    history: &'a History,
    found: &'a Found,
    violations: Vec<Violation>,
}

/// Everything that is wrong. `jobs`: those of which each build must succeed; `found` has them all.
pub fn check(history: &History, found: &Found) -> Vec<Violation> {
    let mut case = Case {
        history,
        found,
        violations: Vec::new(),
    };
    case.triggers();
    case.ends();
    case.states();
    case.results();
    case.lines();
    case.beginnings();
    case.configs();
    case.places();
    case.superseded();
    case.added();
    case.waits();
    case.violations
}

impl Case<'_> {
    fn violates(&mut self, kind: Kind, what: impl fmt::Display) {
        let what = what.to_string();
        self.violations.push(Violation { kind, what });
    }
}

/// What a history holds, in numbers: a run in which nothing happened proves nothing.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    /// Triggers that were acknowledged.
    pub triggers: usize,
    /// Triggers that failed.
    pub triggers_failed: usize,
    /// Claims told.
    pub claims: usize,
    /// Results that were acknowledged.
    pub results: usize,
    /// Results that failed.
    pub results_failed: usize,
    /// Console lines that were acknowledged.
    pub lines: usize,
    /// Configurations that were acknowledged.
    pub configs: usize,
    /// Looks that were answered.
    pub looks: usize,
    /// Faults.
    pub faults: usize,
}

impl Numbers {
    /// Counts.
    pub fn of(history: &History) -> Numbers {
        let mut numbers = Numbers::default();
        for operation in &history.operations {
            let told = operation.told().is_some();
            let failed = matches!(operation.end, Some((_, Answer::Failed(_))));
            let counter = match &operation.call {
                Call::Trigger { .. } if told => &mut numbers.triggers,
                Call::Trigger { .. } if failed => &mut numbers.triggers_failed,
                Call::Next { .. } if operation.told().is_some_and(|id| !id.is_empty()) => &mut numbers.claims,
                Call::Result { .. } if told => &mut numbers.results,
                Call::Result { .. } if failed => &mut numbers.results_failed,
                Call::Line { .. } if told => &mut numbers.lines,
                Call::Configure { .. } if told => &mut numbers.configs,
                Call::State { .. } | Call::Config { .. } if told => &mut numbers.looks,
                Call::Fault { .. } => &mut numbers.faults,
                _ => continue,
            };
            *counter += 1;
        }
        numbers
    }
}
