//! Records: keys and values under a revision, which is an attribute of their object.

use std::collections::BTreeMap;
use std::ffi::CStr;

use bytes::Bytes;
use nix::errno::Errno;

use super::errors::Kind;
use super::rados::{Answer, Keys, Outcome, Read, Write};
use super::{Core, ROUNDS_MAX};
use crate::storage::{Error, Page, Result, Updated};

/// The attribute with the revision.
const REVISION: &CStr = c"revision";

/// Keys read by one operation; an OSD gives no more (`osd_max_omap_entries_per_request`).
const KEYS_MAX: usize = 1024;

impl Core {
    /// Changes a record that has this revision, or any.
    pub(super) async fn update(
        &self,
        what: &str,
        name: &str,
        revision: Option<u64>,
        changes: &[(String, Option<Bytes>)],
    ) -> Result<Updated> {
        let failed = |errno| self.fault(what, Kind::Writes, errno);
        for _ in 0..ROUNDS_MAX {
            let from = match revision {
                Some(revision) => revision,
                None => self.revision(what, name).await?,
            };
            match self.update_from(name, from, changes).await {
                Ok(()) => return Ok(Updated::Done { revision: from + 1 }),
                Err(Errno::ECANCELED | Errno::EEXIST | Errno::ENOENT | Errno::ENODATA) => {}
                Err(errno) => return Err(failed(errno)),
            }
            if revision.is_some() {
                let found = self.revision(what, name).await?;
                if found != from {
                    return Ok(Updated::Mismatch { revision: found });
                }
                // It came to have that revision just now.
            }
        }
        Err(Error::Unavailable {
            what: what.to_owned(),
            why: format!("{ROUNDS_MAX} others changed it first"),
        })
    }

    async fn update_from(&self, name: &str, from: u64, changes: &[(String, Option<Bytes>)]) -> Outcome<()> {
        // The last change of a key counts.
        let last: BTreeMap<&str, Option<&[u8]>> = changes
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_deref()))
            .collect();
        let sets: Vec<(&str, &[u8])> = last.iter().filter_map(|(key, value)| Some((*key, (*value)?))).collect();
        let removals: Vec<&str> = last
            .iter()
            .filter(|(_, value)| value.is_none())
            .map(|(key, _)| *key)
            .collect();
        let bytes = sets.iter().map(|(key, value)| key.len() + value.len()).sum();
        let mut write = match from {
            0 => Write::new().create(),
            _ => Write::new().guard(REVISION, from.to_string().as_bytes()),
        };
        write = write.set(REVISION, (from + 1).to_string().as_bytes());
        if !removals.is_empty() {
            write = write.remove_keys(&removals)?;
        }
        if !sets.is_empty() {
            write = write.set_keys(&sets)?;
        }
        self.change(name, write, bytes).await
    }

    /// The revision of a record, 0 if there is none.
    async fn revision(&self, what: &str, name: &str) -> Result<u64> {
        let read = Read {
            attributes: true,
            ..Read::default()
        };
        let found = self.read(name, read).await;
        let found = found.map_err(|errno| self.fault(what, Kind::Reads, errno))?;
        found.map_or(Ok(0), |answer| revision_of(what, &answer))
    }

    /// Reads keys and the revision, all of one moment.
    pub(super) async fn query(
        &self,
        what: &str,
        name: &str,
        prefix: String,
        after: String,
        limit: usize,
    ) -> Result<Page> {
        'rounds: for _ in 0..ROUNDS_MAX {
            let mut page = Page::default();
            loop {
                let after = page.entries.last().map_or(&after, |(key, _)| key).clone();
                let wanted = (limit - page.entries.len()).min(KEYS_MAX);
                let keys = Keys {
                    after,
                    prefix: prefix.clone(),
                    limit: wanted as u64,
                };
                let read = Read {
                    attributes: true,
                    keys: (wanted > 0).then_some(keys),
                    ..Read::default()
                };
                let found = self.read(name, read).await;
                let Some(answer) = found.map_err(|errno| self.fault(what, Kind::Reads, errno))? else {
                    if page.entries.is_empty() {
                        return Ok(page);
                    }
                    continue 'rounds;
                };
                let revision = revision_of(what, &answer)?;
                if !page.entries.is_empty() && revision != page.revision {
                    // It was changed between two parts: from the start.
                    continue 'rounds;
                }
                page.revision = revision;
                let none = answer.entries.is_empty();
                page.entries.extend(answer.entries);
                if none || !answer.more || page.entries.len() >= limit {
                    return Ok(page);
                }
            }
        }
        Err(Error::Unavailable {
            what: what.to_owned(),
            why: format!("it was changed {ROUNDS_MAX} times while it was read"),
        })
    }
}

fn revision_of(what: &str, answer: &Answer) -> Result<u64> {
    let text = answer.text(REVISION);
    text.parse().map_err(|_| Error::Damaged {
        what: what.to_owned(),
        why: format!("its attribute revision is {text:?}"),
    })
}
