//! What becomes of a job: made, called otherwise, switched, given away, removed, brought back.

use bytes::Bytes;

use crate::repository::access::Access;
use crate::repository::model::job::{ConfigHead, Counted, Counter, FileModes, Job, JobEntry, Switch};
use crate::repository::model::json::to_json;
use crate::repository::model::keys::{Key, LineKey};
use crate::repository::model::ops::{Changes, Step, create, delete, set};
use crate::repository::model::trash::{JobLine, Removal};
use crate::repository::names::Name;
use crate::storage::Op;

/// The name in a counter while nobody knows what the job is called.
pub(crate) const UNKNOWN: &str = "";

/// The name in a counter while a job is about to be called otherwise. Not the name to be: who knows the job by that,
/// from long ago, would begin builds before it has it, and perhaps never gets it.
pub(crate) const MOVING: &str = ".moving";

/// The name in the counter of a job that is removed for good.
pub(crate) const GONE: &str = ".gone";

/// Keys of tokens removed by one commit: 200 KB of operations.
const TOKENS_AT_ONCE: usize = 1000;

/// Why a step can't be made on a job as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It is not there, or another is.
    Gone,
    /// Another has the name.
    Taken,
    /// It was given to this user, who alone, or root, switches it on.
    Given(u32),
}

/// A new job: its entry in the list, and its counter and the place of its tokens. Until it stands in the list,
/// these look like what is left of one.
pub(crate) fn make(uid: String, access: Access, at: u64) -> Step<JobEntry> {
    let counter = Counter { next: 1, name: None };
    let ops = vec![
        create(Key::Job(&uid).path(), to_json(&counter)),
        create(Key::JobKeys(&uid).path(), Bytes::new()),
    ];
    let after = JobEntry {
        uid,
        access,
        files: FileModes::default(),
        created: at,
        named: None,
        off: false,
        former: None,
        vouched: None,
    };
    Step { after, ops }
}

/// Says in a job's counter under which name builds may begin; `None`: it says so, and nothing need be written to
/// keep those out that read it before.
pub(crate) fn call(job: &Job, read: &Counted, name: &str) -> Option<Step<Counted>> {
    if name == UNKNOWN && read.counter.name.as_deref() == Some(name) {
        return None;
    }
    let counter = Counter {
        name: Some(name.to_owned()),
        ..read.counter.clone()
    };
    let ops = vec![set(job.path(), to_json(&counter), read.version)];
    let version = read.version + 1;
    let after = Counted { counter, version };
    Some(Step { after, ops })
}

/// What the move of a job's line comes upon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shift {
    /// It is to be moved.
    Due(JobEntry),
    /// It was moved: nobody knew, and it had happened.
    Done(JobEntry),
}

/// Whether the line of the job with this uid can be moved from one key of the list to another, of which these were
/// read at one revision.
pub(crate) fn shift(uid: &str, here: Option<JobEntry>, there: Option<JobEntry>) -> Result<Shift, Refused> {
    match (here, there) {
        (_, Some(there)) if there.uid == uid => Ok(Shift::Done(there)),
        (None, _) => Err(Refused::Gone),
        (Some(here), _) if here.uid != uid => Err(Refused::Gone),
        (Some(_), Some(_)) => Err(Refused::Taken),
        (Some(here), None) => Ok(Shift::Due(here)),
    }
}

/// The lines that move it.
pub(crate) fn moved(from: &str, to: &str, line: Bytes) -> Changes {
    vec![(from.to_owned(), None), (to.to_owned(), Some(line))]
}

/// The entry of a job that gets another name, or comes back from the trash under one.
pub(crate) fn named(entry: JobEntry, at: u64) -> JobEntry {
    JobEntry {
        named: Some(at),
        ..entry
    }
}

/// The line of a job in the trash, and the key that it has there. `builds` come back with it.
pub(crate) fn into_trash(entry: JobEntry, name: &Name, builds: u64, trash: Removal) -> (String, JobLine) {
    let key = LineKey::RemovedJob(&entry.uid).key();
    let line = JobLine {
        entry,
        name: name.to_string(),
        builds,
        trash,
    };
    (key, line)
}

/// A job that was changed in one way or another: a change of its owner switches it off until the new one has seen
/// what others wrote into it.
pub(crate) fn changed<E>(
    mut entry: JobEntry,
    change: impl FnOnce(&mut JobEntry) -> Result<(), E>,
) -> Result<JobEntry, E> {
    let before = entry.access.uid;
    change(&mut entry)?;
    if entry.access.uid != before {
        entry.former = Some(before);
        entry.vouched = None;
    }
    Ok(entry)
}

/// Whether a user may switch a job on or off that has this configuration.
pub(crate) fn may_switch(entry: &JobEntry, head: Option<&ConfigHead>, on: bool, user: u32) -> Result<(), Refused> {
    let owner = entry.access.uid;
    let else_on = JobEntry {
        off: false,
        ..entry.clone()
    };
    let given = else_on.switch(head) == Switch::Given;
    if on && given && user != 0 && user != owner {
        return Err(Refused::Given(owner));
    }
    Ok(())
}

/// Switches it. Who switches it on vouches for the configuration that he looked at, unless the job has another
/// owner since: `owner` is whose it was then.
pub(crate) fn switched(entry: &mut JobEntry, head: Option<&ConfigHead>, on: bool, owner: u32) {
    entry.off = !on;
    if on && entry.access.uid == owner {
        entry.vouched = head.map(ConfigHead::mark);
    }
}

/// Removes a job's counter, of this version, and with it the tokens of these names: from then on nothing can be
/// triggered. What follows it removes the tokens that no one commit takes, when no trigger makes any more.
pub(crate) fn remove(job: &Job, version: u32, tokens: &[String]) -> Step<Vec<Vec<Op>>> {
    let token = |name: &String| delete(Key::Token(job.uid(), name).path(), None);
    let mut ops: Vec<Op> = tokens.iter().map(token).collect();
    ops.push(delete(Key::JobKeys(job.uid()).path(), None));
    let rest = ops.split_off(ops.len().min(TOKENS_AT_ONCE));
    // The counter's version is the guard: a trigger in between makes this a mismatch.
    ops.push(delete(job.path(), Some(version)));
    let after = rest.chunks(TOKENS_AT_ONCE).map(<[Op]>::to_vec).collect();
    Step { after, ops }
}

#[cfg(test)]
mod tests;
