//! What stands of a removed job in the list of jobs, and of a removed build in its job's index.

use serde::{Deserialize, Serialize};

use crate::repository::model::deed::Person;
use crate::repository::model::job::{Job, JobEntry};
use crate::repository::model::record::Indexed;
use crate::repository::names::Name;
use crate::repository::{Error, Result};

/// Builds that were removed so long before their job come back with it, milliseconds: `rm -r` of a job
/// removes its builds first.
pub(crate) const TOGETHER: u64 = 3600 * 1000;

/// When something was removed, and by whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    /// When, milliseconds since 1970.
    pub removed: u64,
    /// Until when it can be restored.
    pub until: u64,
    /// Who removed it.
    pub by: Person,
}

/// The line of a removed job in the list of jobs: what it was, and more.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct JobLine {
    #[serde(flatten)]
    pub(crate) entry: JobEntry,
    /// What it was called.
    pub(crate) name: String,
    /// Builds that come back with it.
    pub(crate) builds: u64,
    pub(crate) trash: Removal,
}

impl JobLine {
    /// The job by its former name.
    pub(crate) fn job(&self) -> Result<Job> {
        let name = Name::new(&self.name);
        let damaged = || Error::Io(format!("jobs/.trash: {:?} is no name; run distcifs fsck", self.name).into());
        Ok(Job {
            name: name.ok_or_else(damaged)?,
            entry: self.entry.clone().into(),
        })
    }
}

/// The line of a removed build in its job's index.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BuildLine {
    #[serde(flatten)]
    pub(crate) indexed: Indexed,
    pub(crate) trash: Removal,
}

impl BuildLine {
    /// Whether a build comes back with its job.
    pub(crate) fn goes_with(&self, job: &Removal) -> bool {
        // Of two nodes' clocks one may be ahead: it was removed before the job in any case.
        self.trash.removed >= job.removed.saturating_sub(TOGETHER)
    }
}
