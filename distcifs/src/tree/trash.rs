//! `jobs/.trash`: what was removed, a file for each thing. A rename out of it restores, an unlink in it
//! removes for good.
//!
//! The folder is sticky and belongs to the owner of `jobs`, each file to the owner of its job: so the kernel
//! lets nobody else take them. It may go by an owner of a moment ago, and is asked of nothing that a
//! daemon of its own does: so it is looked at here again.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::sync::{Arc, Mutex};

use serde_json::json;

use super::content::moment;
use super::look::{Facts, file, job_ref};
use super::node::{JobFile, Node, Top};
use super::rights::{Grants, READ, SEARCH, WRITE};
use super::{Attr, Caller, Error, Found, Ino, Kind, Result, Tree};
use crate::repository::access::Access;
use crate::repository::core::{lock, time_of};
use crate::repository::names::Name;
use crate::repository::trash::{TrashId, TrashItem};

/// Its name in `jobs`.
const FOLDER: &str = ".trash";

/// Everybody's, as /tmp is.
const FOLDER_MODE: u32 = 0o1777;

/// Folders that were removed and are remembered, the oldest forgotten. Published ones, which a single `rm -r`
/// removes by the thousand, are remembered only while the kernel knows them.
const REMOVED_MAX: usize = 65_536;

/// How often a folder of an inode number was removed.
///
/// The kernel holds an inode for dead from its rmdir on, for as long as somebody stands in it or below. What
/// comes back from the trash, and what is generated and was never gone, has the same number: by its generation
/// it is another one.
#[derive(Default)]
pub(crate) struct Removed(Mutex<Folders>);

#[derive(Default)]
struct Folders {
    /// How often, and the place in the order.
    times: HashMap<Ino, (u64, u64)>,
    order: BTreeMap<u64, Ino>,
    next: u64,
}

impl Removed {
    /// Notes that a folder was removed.
    pub(crate) fn note(&self, ino: Ino) {
        let mut folders = lock(&self.0);
        let place = folders.next;
        let (times, _) = folders.times.entry(ino).or_insert((0, place));
        *times += 1;
        if *times == 1 {
            folders.order.insert(place, ino);
            folders.next += 1;
        }
        if folders.order.len() > REMOVED_MAX
            && let Some((_, oldest)) = folders.order.pop_first()
        {
            folders.times.remove(&oldest);
        }
    }

    /// Forgets a folder of which the kernel knows nothing any more: whatever has its number next is new to it.
    pub(crate) fn forget(&self, ino: Ino) {
        let mut folders = lock(&self.0);
        if let Some((_, place)) = folders.times.remove(&ino) {
            folders.order.remove(&place);
        }
    }

    fn times(&self, ino: Ino) -> u64 {
        lock(&self.0).times.get(&ino).map_or(0, |(times, _)| *times)
    }
}

impl Tree {
    /// The answer to a lookup, with the generation of what was found.
    pub(crate) fn of_generation(&self, found: Found) -> Found {
        let Attr { ino, kind, .. } = found.attributes.attr;
        let generation = match kind {
            Kind::Directory => self.removed.times(ino),
            _ => 0,
        };
        Found { generation, ..found }
    }

    /// A name in `jobs`.
    pub(crate) async fn find_in_jobs(&self, name: &str) -> Result<Node> {
        if name == FOLDER {
            return Ok(Node::Top(Top::Trash));
        }
        let job = self.repository.jobs.find(name).await?;
        let job = job.ok_or_else(|| Error::NotFound(name.to_owned()))?;
        Ok(Node::Job(Arc::new(job_ref(&job))))
    }

    /// A name in the trash.
    pub(crate) async fn find_in_trash(&self, name: &str) -> Result<Node> {
        let id = TrashId::parse(name).ok_or_else(|| Error::NotFound(format!("jobs/.trash/{name}")))?;
        self.trash_item(&id).await?;
        Ok(Node::Trashed(Arc::new(id)))
    }

    async fn trash_item(&self, id: &TrashId) -> Result<TrashItem> {
        let item = self.repository.builds.trash_item(id).await?;
        item.ok_or_else(|| Error::NotFound(format!("jobs/.trash/{id}")))
    }

    /// What a user sees of the trash: what is his own.
    pub(crate) async fn names_in_trash(&self, uid: u32) -> Result<Vec<(String, Kind)>> {
        let all = uid == 0 || uid == self.top_access(Some(Top::Jobs)).await?.uid;
        let items = self.repository.builds.trash(&|owner| all || owner == uid).await?;
        let mut names: Vec<_> = items
            .into_iter()
            .map(|item| (item.id.to_string(), Kind::File))
            .collect();
        names.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        Ok(names)
    }

    /// The folder, or a thing in it.
    pub(crate) async fn trash_facts(&self, node: &Node) -> Result<Facts> {
        let Node::Trashed(id) = node else {
            let jobs = self.top_access(Some(Top::Jobs)).await?;
            let access = Access {
                mode: FOLDER_MODE,
                ..jobs
            };
            return Ok(Facts {
                kind: Kind::Directory,
                nlink: 2,
                ..file(access, 0, self.started)
            });
        };
        let item = self.trash_item(id).await?;
        let access = Access {
            mode: 0o400,
            ..item.access
        };
        Ok(file(access, text(&item).len() as u64, time_of(item.removal.removed)))
    }

    /// What the file of a thing in the trash says: one line of JSON.
    pub(crate) async fn trash_text(&self, id: &TrashId) -> Result<String> {
        Ok(text(&self.trash_item(id).await?))
    }

    /// Who may read it besides its owner: the owner of `jobs`.
    pub(crate) async fn trash_grants(&self) -> Result<Grants> {
        match self.top_access(Some(Top::Jobs)).await?.uid {
            0 => Ok(Grants::default()),
            uid => Ok(Grants::to_user(uid, READ)),
        }
    }

    /// Refuses who may do nothing with a thing in the trash.
    async fn may_handle(&self, caller: Caller, item: &TrashItem) -> Result<()> {
        let jobs = self.top_access(Some(Top::Jobs)).await?;
        if [0, item.access.uid, jobs.uid].contains(&caller.uid) {
            return Ok(());
        }
        Err(Error::NotClaimant(format!(
            "jobs/.trash/{}: only the job's owner (user {}), the owner of jobs and root restore or remove it",
            item.id, item.access.uid
        )))
    }

    /// rename out of the trash.
    pub(crate) async fn restore(
        &self,
        caller: Caller,
        name: &OsStr,
        to: &Node,
        new_name: &OsStr,
        flags: u32,
    ) -> Result<()> {
        let (shown, new) = (name.display(), new_name.display());
        let invalid = |why: String| Err(Error::Invalid(format!("jobs/.trash/{shown}: {why}")));
        if flags & !libc::RENAME_NOREPLACE != 0 {
            return invalid("it can be moved out, and change places with nothing".into());
        }
        let id = name.to_str().and_then(TrashId::parse);
        let id = id.ok_or_else(|| Error::NotFound(format!("jobs/.trash/{shown}")))?;
        self.may_handle(caller, &self.trash_item(&id).await?).await?;
        // As it is called there: `mv` into a folder.
        let same = new_name == name;
        match (id.build, to) {
            (None, Node::Top(Top::Jobs)) => {
                let to = if same {
                    Some(id.job.clone())
                } else {
                    Name::from_os(new_name)
                };
                let Some(to) = to else {
                    return invalid(format!("{new} is no valid name of a job"));
                };
                // The kernel may go by a mode of a moment ago.
                self.need(caller, &Node::Top(Top::Jobs), WRITE | SEARCH).await?;
                self.repository.builds.restore_job(&id.uid, &to).await.map(drop)
            }
            (Some(n), Node::JobFile(job, JobFile::Builds)) if *job.uid == *id.uid => {
                if !same && new_name.to_str() != Some(&n.to_string()) {
                    return invalid(format!(
                        "a build keeps its number: move it to jobs/{}/builds/{n}",
                        job.name
                    ));
                }
                self.repository.builds.restore_build(&self.job(job)?, n).await
            }
            (None, Node::Job(job)) => Err(Error::Exists(format!(
                "jobs/{} exists: restore {} under another name",
                job.name, id.job
            ))),
            (None, _) => invalid("a job can be moved to jobs, and nowhere else".into()),
            (Some(n), _) => invalid(format!(
                "it can be moved to jobs/{}/builds/{n}, and nowhere else",
                id.job
            )),
        }
    }

    /// unlink in the trash: gone for good.
    pub(crate) async fn discard(&self, caller: Caller, id: &TrashId) -> Result<()> {
        self.may_handle(caller, &self.trash_item(id).await?).await?;
        let gone = match id.build {
            None => self.repository.builds.discard_job(&id.uid, u64::MAX).await?,
            Some(n) => {
                let job = self.repository.jobs.by_uid(&id.uid);
                let job = job.ok_or_else(|| Error::NotFound(format!("jobs/.trash/{id}")))?;
                self.repository.builds.discard_build(&job, n, u64::MAX).await?
            }
        };
        match gone {
            true => Ok(()),
            false => Err(Error::NotFound(format!("jobs/.trash/{id}"))),
        }
    }
}

/// A thing in the trash as one line of JSON.
fn text(item: &TrashItem) -> String {
    let mut said = json!({
        "id": item.id.to_string(),
        "job": item.id.job.as_str(),
        "owner": item.access.uid,
        "removed": moment(item.removal.removed),
        "by": item.removal.by.to_string(),
        "until": moment(item.removal.until),
    });
    let more = [
        ("build", item.id.build.map(|n| json!(n))),
        ("builds", item.builds.map(|n| json!(n))),
        ("state", item.state.map(|state| json!(state.as_str()))),
    ];
    for (key, value) in more {
        if let Some(value) = value {
            said[key] = value;
        }
    }
    said.to_string() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that comes back is not the dead one to the kernel, however much was removed meanwhile.
    #[test]
    fn what_the_kernel_does_not_know_pushes_nothing_out() {
        let removed = Removed::default();
        let ino = Ino(7);
        removed.note(ino);
        removed.note(ino);
        for other in 100..100 + 2 * REMOVED_MAX as u64 {
            removed.note(Ino(other));
            removed.forget(Ino(other));
        }
        assert_eq!(removed.times(ino), 2);
        assert_eq!(removed.times(Ino(100)), 0);
        // What it knows is bounded all the same.
        for other in 100..100 + REMOVED_MAX as u64 {
            removed.note(Ino(other));
        }
        assert_eq!(removed.times(ino), 0);
        assert_eq!(lock(&removed.0).order.len(), REMOVED_MAX);
        assert_eq!(lock(&removed.0).times.len(), REMOVED_MAX);
        removed.forget(ino);
        removed.note(ino);
        assert_eq!(removed.times(ino), 1);
    }
}
