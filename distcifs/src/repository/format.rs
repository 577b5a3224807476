//! What a repository is made of, and which programs may use it.
//!
//! The coordinator and the store of contents each hold the version and the repository's id, so that
//! neither is taken for another's, and no older program works on what it does not understand.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::core::{bounded, random_id};
use super::model::job::{Counter, JobEntry, jobs_record};
use super::model::json::{from_json, to_json};
use super::model::keys::{FORMAT, GROUPS, JOBS, KEYS, Key, LOCKS, NODES, RecordKey, TICKETS};
use super::model::ops::create;
use super::{Error, Result};
use crate::storage::{Contents, Coordination, Object, Op, Updated};

mod gate;

pub(crate) use gate::{Gate, STRANGERS};

/// Keys read at once of a record.
const PAGE: usize = 1000;

/// The version that this program makes. What came later stands in a repository once somebody uses it.
const FIRST: u32 = 1;

/// The newest version that this program understands. The second brought builds of strangers and what goes with
/// them.
pub(crate) const VERSION: u32 = 2;

/// The entry, and the key of the record, that hold it.
const ENTRY: &str = FORMAT;
const KEY: &str = "format";

/// The entries that everything else stands below.
const TOP: [&str; 6] = [NODES, LOCKS, JOBS, KEYS, GROUPS, TICKETS];

/// What stands in both stores; fields of later versions are preserved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Format {
    version: u32,
    least_reader: u32,
    least_writer: u32,
    /// The repository's id; empty in those that were made before there was one.
    #[serde(default)]
    repository: String,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

/// What [`make`] found or did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// It made the repository.
    Fresh,
    /// It is there already.
    Known,
    /// The contents were there, and the coordinator knew nothing of them.
    Adopted,
}

/// The record of contents that holds the format.
pub(crate) fn record() -> Object {
    RecordKey::Format.object()
}

/// What the two stores say.
async fn read(coordination: &dyn Coordination, contents: &dyn Contents) -> Result<(Option<Format>, Option<Format>)> {
    let entry = bounded(ENTRY, coordination.get(ENTRY)).await?;
    let entry = entry.map(|entry| from_json(ENTRY, &entry.data)).transpose()?;
    let page = bounded("format", contents.query(&record(), KEY, "", 1)).await?;
    let kept = page.entries.first().map(|(_, value)| from_json("format", value));
    Ok((entry, kept.transpose()?))
}

impl Format {
    fn fresh(repository: String) -> Self {
        Format {
            version: FIRST,
            least_reader: FIRST,
            least_writer: FIRST,
            repository,
            unknown: Map::new(),
        }
    }

    /// Whether this program may read and write it.
    fn check(&self, place: &str) -> Result<()> {
        if self.least_reader.max(self.least_writer) <= VERSION {
            return Ok(());
        }
        Err(Error::Invalid(format!(
            "{place}: it is of version {}, for programs that know version {} at least; this one knows {VERSION}: \
             upgrade distcifs on this node",
            self.version,
            self.least_reader.max(self.least_writer)
        )))
    }
}

/// The repository's id; empty in one that was made before there was one.
pub(crate) async fn id(coordination: &dyn Coordination) -> Result<String> {
    let entry = bounded(ENTRY, coordination.get(ENTRY)).await?;
    let entry: Option<Format> = entry.map(|entry| from_json(ENTRY, &entry.data)).transpose()?;
    Ok(entry.map(|format| format.repository).unwrap_or_default())
}

/// The version of the coordinator's entry, if this program may write what that says.
///
/// # Errors
/// `Invalid` if not, with what to do.
pub(crate) async fn writable(coordination: &dyn Coordination) -> Result<u32> {
    let entry = bounded(ENTRY, coordination.get(ENTRY)).await?;
    let entry = entry.ok_or_else(|| Error::Io(format!("{ENTRY}: missing; run distcifs fsck").into()))?;
    from_json::<Format>(ENTRY, &entry.data)?.check("the coordinator's /format")?;
    Ok(entry.version)
}

/// Checks that both stores hold one repository that this program may use.
///
/// # Errors
/// `Invalid`, with what to do.
pub async fn check(coordination: &Arc<dyn Coordination>, contents: &Arc<dyn Contents>) -> Result<()> {
    let wrong = |why: &str| Err(Error::Invalid(why.to_owned()));
    // A server that lags knows nothing of what was made a moment ago.
    bounded(ENTRY, coordination.sync()).await?;
    match read(&**coordination, &**contents).await? {
        (None, None) => wrong("no repository is there: make one with: distcifs init SOURCE -o OPTIONS"),
        (None, Some(_)) => wrong(
            "the pool holds a repository that the coordinator knows nothing of: check the chroot; \
             if its entries are lost: distcifs init --adopt SOURCE -o OPTIONS",
        ),
        (Some(_), None) => wrong(
            "the coordinator knows a repository whose contents are not in this pool: \
             check pool= and namespace=",
        ),
        (Some(entry), Some(kept)) if entry.repository != kept.repository => {
            wrong("chroot and pool belong to two repositories: check both")
        }
        (Some(entry), Some(kept)) => {
            entry.check("the coordinator's /format")?;
            kept.check("the pool's format")
        }
    }
}

/// Makes the repository in both stores, if it is not there; goes on where an earlier call ended.
/// `adopt`: contents of which the coordinator knows nothing are taken over.
///
/// # Errors
/// `Invalid` if what is there is another's, with what to do.
pub async fn make(coordination: &Arc<dyn Coordination>, contents: &Arc<dyn Contents>, adopt: bool) -> Result<Made> {
    let made = match read(&**coordination, &**contents).await? {
        (None, None) => {
            let format = Format::fresh(random_id());
            let change = vec![(KEY.to_owned(), Some(to_json(&format)))];
            match bounded("format", contents.update(&record(), Some(0), change)).await? {
                Updated::Done { .. } => {}
                Updated::Mismatch { .. } => {
                    return Err(Error::Busy("somebody else makes it just now: try again".into()));
                }
            }
            enter(&**coordination, &format).await?;
            Made::Fresh
        }
        (None, Some(kept)) => {
            kept.check("the pool's format")?;
            // Without a job there is nothing that another coordinator could know of.
            let jobs = bounded("jobs", contents.query(&super::model::job::jobs_record(), "", "", 1)).await?;
            if !jobs.entries.is_empty() && !adopt {
                check(coordination, contents).await?;
            }
            enter(&**coordination, &kept).await?;
            if jobs.entries.is_empty() {
                Made::Fresh
            } else {
                Made::Adopted
            }
        }
        // Made before there was an id.
        (Some(entry), None) if entry.repository.is_empty() => Made::Known,
        _ => {
            check(coordination, contents).await?;
            Made::Known
        }
    };
    for path in TOP {
        lay(&**coordination, path, Bytes::new()).await?;
    }
    if made == Made::Adopted {
        adopt_jobs(&**coordination, &**contents).await?;
    }
    Ok(made)
}

/// Writes the coordinator's part.
async fn enter(coordination: &dyn Coordination, format: &Format) -> Result<()> {
    lay(coordination, ENTRY, to_json(format)).await
}

/// Makes an entry unless it is there.
pub(super) async fn lay(coordination: &dyn Coordination, path: &str, data: Bytes) -> Result<()> {
    let ops: Vec<Op> = vec![create(path, data)];
    bounded(path, coordination.commit(ops)).await.map(|_| ())
}

/// Makes the entries of jobs anew of which only the contents are left: the next build of each is
/// numbered after all that are known.
async fn adopt_jobs(coordination: &dyn Coordination, contents: &dyn Contents) -> Result<()> {
    let mut after = String::new();
    loop {
        let page = bounded("jobs", contents.query(&jobs_record(), "", &after, PAGE)).await?;
        let full = page.entries.len() == PAGE;
        for (name, value) in page.entries {
            let entry: JobEntry = from_json(&format!("job {name}"), &value)?;
            let object = RecordKey::Job(&entry.uid).object();
            let last = last_indexed(contents, &object).await?;
            let counter = to_json(&Counter {
                next: last + 1,
                name: None,
            });
            lay(coordination, &Key::Job(&entry.uid).path(), counter).await?;
            lay(coordination, &Key::JobKeys(&entry.uid).path(), Bytes::new()).await?;
            after = name;
        }
        if !full {
            return Ok(());
        }
    }
}

/// The number of the newest build in a job's index or in the trash; 0 if there is none.
async fn last_indexed(contents: &dyn Contents, job: &Object) -> Result<u64> {
    let mut last = 0;
    for prefix in ["b", "t"] {
        let mut after = String::new();
        loop {
            let page = bounded("index of builds", contents.query(job, prefix, &after, PAGE)).await?;
            let full = page.entries.len() == PAGE;
            for (key, _) in page.entries {
                let n = key.strip_prefix(prefix).and_then(|n| n.parse().ok());
                last = last.max(n.unwrap_or(0));
                after = key;
            }
            if !full {
                break;
            }
        }
    }
    Ok(last)
}
