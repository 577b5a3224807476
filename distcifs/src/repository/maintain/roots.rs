//! Every reference that a repository holds, and what in it belongs to nothing.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::{Fault, PAGE, Upkeep};
use crate::repository::access::Access;
use crate::repository::core::{bounded, settled};
use crate::repository::model::build::Live;
use crate::repository::model::console::scope_of;
use crate::repository::model::job::{ConfigHead, Counter, JobEntry};
use crate::repository::model::keys::{
    BUILD_LINES, Key, LineKey, RECORD_LINES, REMOVED_BUILD_LINES, REMOVED_JOB_LINES, RecordKey, TICKETS,
};
use crate::repository::model::record::{Indexed, Record};
use crate::repository::model::ticket::{BuildRef, Ticket, TicketKey, control_key};
use crate::repository::names::{Name, TicketId};
use crate::repository::snapshot::Snapshot;
use crate::repository::{Error, Result};
use crate::storage::{Digest, Object};

/// Who needs something.
#[derive(Debug, Clone)]
pub(super) struct Need {
    /// Such as `jobs/hello/builds/3`.
    pub(super) whose: Arc<str>,
    /// Such as `artifacts`.
    pub(super) what: &'static str,
    /// The task, where it is one's.
    pub(super) task: Option<usize>,
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.task {
            Some(task) => write!(f, "{} of task {task} of {}", self.what, self.whose),
            None => write!(f, "{} of {}", self.what, self.whose),
        }
    }
}

/// Something that belongs to nothing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Orphan {
    /// An entry with all below it, and when it was made: what is left of a removed or half-made job,
    /// build or claim.
    Entry(String, u64),
    /// A record of a job or build that is gone.
    Record(String),
    /// A line in the list of jobs (its key, its uid), whose removal was begun.
    Job(String, String),
    /// A line in the index of builds of a job (its uid; the key) without a record.
    Build(String, String),
}

impl fmt::Display for Orphan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Orphan::Entry(path, _) => write!(f, "entry {path}"),
            Orphan::Record(name) => write!(f, "record {name}"),
            Orphan::Job(name, _) => write!(f, "jobs/{name}, half removed"),
            Orphan::Build(uid, key) => write!(f, "line {key} of record job.{uid}"),
        }
    }
}

/// All that was found.
#[derive(Debug, Default)]
pub(super) struct Roots {
    /// What can't be read or is not there, so that references may be missing here.
    pub(super) faults: Vec<Fault>,
    /// What is gone for good, and holds nothing else up.
    pub(super) lost: Vec<Fault>,
    /// Whole texts, and how long they are, if that is known.
    pub(super) bodies: Vec<(Digest, Need)>,
    /// Tickets that stand alone and start from a workspace that is not there: nothing else needs it.
    pub(super) unworkable: Vec<Fault>,
    /// The workspaces that such tickets start from, until it is known whether they are there.
    starts: Vec<(Digest, Need)>,
    /// Folders with all below them.
    pub(super) snapshots: Vec<(Digest, Need)>,
    /// Consoles that a record tells the length of.
    pub(super) consoles: Vec<(String, u64, Need)>,
    pub(super) orphans: BTreeSet<Orphan>,
    /// Uids of jobs, by name.
    pub(super) jobs: BTreeMap<String, String>,
    /// All builds, by their job's uid.
    pub(super) builds: HashSet<(String, u64)>,
    /// What the tasks of each build published; merged, it is what the build shows.
    pub(super) artifacts: BTreeMap<(String, u64), BTreeMap<usize, Option<Digest>>>,
    /// Consoles of tickets that stand alone.
    pub(super) lone: HashSet<String>,
    pub(super) tickets: u64,
}

/// How the heads of configurations are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heads {
    /// As they are.
    Read,
    /// So that nobody who has read them before can change them any more without reading again.
    Fenced,
}

/// Readings of a record that changes meanwhile.
const WHOLE_TRIES: u32 = 100;

/// What one may do where something of a job is damaged.
const RESTORE: &str = "restore the source from a backup, or remove what is affected";

impl Roots {
    /// Takes in the pages of a build's record; a fault if one does not read.
    fn record_of<'a>(
        &mut self,
        what: &str,
        affected: &str,
        pages: impl IntoIterator<Item = &'a (String, bytes::Bytes)>,
    ) -> Option<Record> {
        Record::of_pages(what, pages).unwrap_or_else(|error| {
            self.faults.push(Fault::new(format!("{error}"), affected, RESTORE));
            None
        })
    }

    /// Takes in plain data of ours; a fault if it does not read.
    pub(super) fn read<T: DeserializeOwned>(&mut self, what: &str, affected: &str, data: &[u8]) -> Option<T> {
        match serde_json::from_slice(data) {
            Ok(value) => Some(value),
            Err(error) => {
                self.faults
                    .push(Fault::new(format!("{what}: damaged: {error}"), affected, RESTORE));
                None
            }
        }
    }

    /// Takes in a digest; a fault if it is none.
    fn digest(&mut self, text: &str, need: &Need) -> Option<Digest> {
        let digest = Digest::parse(text);
        if digest.is_none() {
            let what = format!("{need}: {text:?} is no digest");
            self.faults.push(Fault::new(what, need.to_string(), RESTORE));
        }
        digest
    }

    pub(super) fn body(&mut self, text: &str, need: Need) {
        if let Some(digest) = self.digest(text, &need) {
            self.bodies.push((digest, need));
        }
    }

    fn snapshot(&mut self, text: Option<&str>, need: Need) -> Option<Digest> {
        let digest = text.and_then(|text| self.digest(text, &need))?;
        self.snapshots.push((digest, need));
        Some(digest)
    }

    /// Takes in what the record of a build refers to.
    fn record(&mut self, whose: &Arc<str>, build: &(String, u64), record: &Record) {
        let need = |what, task| Need {
            whose: whose.clone(),
            what,
            task,
        };
        self.body(&record.config.digest, need("config.json", None));
        for (index, task) in record.tasks.iter().enumerate() {
            self.snapshot(task.workspace.as_deref(), need("workspace", Some(index)));
            let digest = self.snapshot(task.artifacts.as_deref(), need("artifacts", Some(index)));
            let known = self.artifacts.entry(build.clone()).or_default();
            // A ticket of a later run stands over it.
            known.entry(index).or_insert(digest);
        }
        for (name, length) in record.lengths.iter().filter(|(_, length)| **length > 0) {
            self.consoles.push((name.clone(), *length, need("console", None)));
        }
    }

    /// Takes in what a ticket refers to.
    fn ticket(&mut self, key: &TicketKey, ticket: &Ticket) {
        self.tickets += 1;
        let whose: Arc<str> = key.to_string().into();
        let need = |what| Need {
            whose: whose.clone(),
            what,
            task: None,
        };
        match (&ticket.body, &ticket.body_digest) {
            (None, Some(digest)) => self.body(digest, need("ticket.json")),
            (Some(_), _) => {}
            (None, None) => {
                let what = format!("{key}: its text is missing");
                self.faults.push(Fault::new(what, whose.to_string(), RESTORE));
            }
        }
        let start = need("workspace to start from");
        if ticket.part.is_some() {
            self.snapshot(ticket.workspace.as_deref(), start);
        } else if let Some(digest) = ticket.workspace.as_deref().and_then(|text| self.digest(text, &start)) {
            self.starts.push((digest, start));
        }
        let mut artifacts = None;
        if let Some(outcome) = &ticket.outcome {
            self.snapshot(outcome.workspace.as_deref(), need("workspace"));
            artifacts = self.snapshot(outcome.artifacts.as_deref(), need("artifacts"));
        }
        if let Some(BuildRef {
            uid,
            build,
            task: Some(task),
            ..
        }) = &ticket.part
        {
            let known = self.artifacts.entry((uid.clone(), *build)).or_default();
            known.insert(*task, artifacts);
        }
        if ticket.part.is_none() {
            self.lone.extend(scope_of(key, ticket));
        }
    }
}

/// Whether a key of the list of jobs is that of a removed one.
fn is_trashed(key: &str) -> bool {
    key.starts_with(REMOVED_JOB_LINES)
}

impl Upkeep {
    /// Gathers everything. What builds and tickets refer to moves from the coordinator to the
    /// records: so, in case they go on meanwhile, the coordinator is read first.
    pub(super) async fn roots(&self, heads: Heads) -> Result<Roots> {
        self.progress.begin("reading builds and tickets");
        let (mut roots, mut jobs) = (Roots::default(), Vec::new());
        let list = RecordKey::Jobs.object();
        for (name, line) in self.whole_record(&list).await? {
            jobs.extend(self.job(&mut roots, &name, &line).await?);
        }
        self.tickets(&mut roots).await?;
        self.groups(&mut roots).await?;
        self.progress.begin("reading records");
        for (whose, uid) in jobs {
            self.kept(&mut roots, &whose, &uid, heads).await?;
        }
        self.strays(&mut roots).await?;
        self.starts(&mut roots).await?;
        Ok(roots)
    }

    /// What tickets that stand alone start from. A digest that somebody wrote there by hand may never
    /// have been stored, or be swept since: that holds nothing up.
    async fn starts(&self, roots: &mut Roots) -> Result<()> {
        for (digest, need) in std::mem::take(&mut roots.starts) {
            let object = Object::Tree(digest);
            let there = digest == Snapshot::empty()
                || bounded(&object.to_string(), self.contents.size(&object))
                    .await?
                    .is_some();
            if there {
                roots.snapshots.push((digest, need));
                continue;
            }
            let (what, remedy) = (
                format!("{object}: missing"),
                format!("rmdir {} on a mount: nobody can work it", need.whose),
            );
            roots.unworkable.push(Fault::new(what, need.to_string(), remedy));
        }
        Ok(())
    }

    /// All keys of a record that begin with a prefix.
    pub(super) async fn record(&self, object: &Object, prefix: &str) -> Result<Vec<(String, bytes::Bytes)>> {
        let what = object.to_string();
        let (mut all, mut after) = (Vec::new(), String::new());
        loop {
            let page = bounded(&what, self.contents.query(object, prefix, &after, PAGE)).await?;
            let full = page.entries.len() == PAGE;
            all.extend(page.entries);
            match all.last() {
                Some((key, _)) if full => after.clone_from(key),
                _ => return Ok(all),
            }
        }
    }

    /// A record of which no key moved while it was read: what is renamed meanwhile stands in it once.
    async fn whole_record(&self, object: &Object) -> Result<Vec<(String, bytes::Bytes)>> {
        let what = object.to_string();
        let revision =
            || async { Ok::<_, Error>(bounded(&what, self.contents.query(object, "", "", 1)).await?.revision) };
        for _ in 0..WHOLE_TRIES {
            let before = revision().await?;
            let all = self.record(object, "").await?;
            if revision().await? == before {
                return Ok(all);
            }
        }
        Err(Error::Busy(format!("{what}: it changes too fast: try again")))
    }

    /// A job: its line, its counter, its unfinished builds. What the rest is read by: whose it is,
    /// and its uid.
    async fn job(&self, roots: &mut Roots, name: &str, line: &[u8]) -> Result<Option<(Arc<str>, String)>> {
        self.progress.step();
        let whose: Arc<str> = format!("jobs/{name}").into();
        let Some(entry) = roots.read::<JobEntry>(&format!("line {name} in the list of jobs"), &whose, line) else {
            return Ok(None);
        };
        let uid = entry.uid;
        let path = Key::Job(&uid).path();
        let Some(counter) = bounded(&path, self.coordination.get(&path)).await? else {
            // Its removal begins with the counter: all that is left of it belongs to nothing.
            roots.orphans.insert(Orphan::Job(name.to_owned(), uid));
            return Ok(None);
        };
        roots.read::<Counter>(&format!("entry {path}"), &whose, &counter.data);
        roots.jobs.insert(name.to_owned(), uid.clone());
        let keys = Key::JobKeys(&uid).path();
        if bounded(&keys, self.coordination.get(&keys)).await?.is_none() {
            let (what, affected) = (
                format!("entry {keys}: missing"),
                format!("triggers of {whose} with @key"),
            );
            roots.lost.push(Fault::new(what, affected, "make the job anew"));
        }
        self.unfinished(roots, &whose, name, &uid).await?;
        self.held(roots, &uid).await?;
        Ok(Some((whose, uid)))
    }

    /// What stands beside the held builds of a job: without one it belongs to nothing.
    async fn held(&self, roots: &mut Roots, uid: &str) -> Result<()> {
        let folder = Key::HeldOf(uid).path();
        for child in bounded(&folder, self.coordination.children(&folder)).await? {
            let path = format!("{folder}/{child}");
            let Some(entry) = bounded(&path, self.coordination.get(&path)).await? else {
                continue;
            };
            let live = match child.parse() {
                Ok(n) => {
                    let live = Key::Build(uid, n).path();
                    bounded(&live, self.coordination.get(&live)).await?
                }
                Err(_) => None,
            };
            // What can't be read is told where the build is.
            let held = |entry: crate::storage::Entry| {
                serde_json::from_slice::<Live>(&entry.data).map_or(true, |live| live.held)
            };
            if !live.is_some_and(held) {
                roots.orphans.insert(Orphan::Entry(path, entry.created));
            }
        }
        Ok(())
    }

    /// What is kept of a job: its configuration, its finished builds.
    async fn kept(&self, roots: &mut Roots, whose: &Arc<str>, uid: &str, heads: Heads) -> Result<()> {
        self.progress.step();
        let record = RecordKey::Job(uid).object();
        if heads == Heads::Fenced {
            // With another revision, what somebody still writes who was cut off long ago is refused.
            match settled(&record.to_string(), || self.contents.update(&record, None, Vec::new())).await {
                // In a full store what is there changes; what is not, nobody else makes either.
                Ok(_) | Err(Error::Full(_)) => {}
                Err(error) => return Err(error),
            }
        }
        for (_, head) in self.record(&record, &LineKey::Config.key()).await? {
            if let Some(head) = roots.read::<ConfigHead>(&format!("record {record}"), whose, &head) {
                let (whose, what) = (whose.clone(), "config.json");
                let task = None;
                roots.body(&head.digest, Need { whose, what, task });
            }
        }
        for (key, indexed) in self.build_lines(&record).await? {
            let n = LineKey::parse(&key).and_then(LineKey::build);
            let what = format!("line {key} in the index of {whose}");
            let read = roots.read::<Indexed>(&what, whose, &indexed);
            if let (Some(n), Some(_)) = (n, read)
                && !self.finished(roots, whose, uid, n).await?
            {
                self.without_record(roots, whose, uid, n).await?;
                if !roots.builds.contains(&(uid.to_owned(), n)) {
                    roots.orphans.insert(Orphan::Build(uid.to_owned(), key));
                }
            }
        }
        Ok(())
    }

    /// The lines of a job's builds, those in the trash included. One that moves between two readings, into
    /// the trash or out of it, stands in one of them.
    async fn build_lines(&self, record: &Object) -> Result<BTreeMap<String, bytes::Bytes>> {
        let mut lines = BTreeMap::new();
        for prefix in [BUILD_LINES, REMOVED_BUILD_LINES, BUILD_LINES] {
            lines.extend(self.record(record, prefix).await?);
        }
        Ok(lines)
    }

    /// What a build's record refers to; `false` if there is none.
    async fn finished(&self, roots: &mut Roots, job: &str, uid: &str, n: u64) -> Result<bool> {
        self.progress.step();
        let whose: Arc<str> = format!("{job}/builds/{n}").into();
        let object = RecordKey::Build(uid, n).object();
        let found = self.record(&object, RECORD_LINES).await?;
        // Pages without it are left of one that a mount of before removed.
        if found.first().is_none_or(|(key, _)| *key != LineKey::Record.key()) {
            return Ok(false);
        }
        let build = (uid.to_owned(), n);
        if let Some(record) = roots.record_of(&format!("record {object}"), &whose, &found) {
            roots.record(&whose, &build, &record);
            self.plan(roots, &whose, record.plan.as_ref()).await?;
        }
        roots.builds.insert(build);
        Ok(true)
    }

    /// The builds of a job that are not finished, and its slots.
    async fn unfinished(&self, roots: &mut Roots, job: &str, name: &str, uid: &str) -> Result<()> {
        let folder = Key::Job(uid).path();
        for child in bounded(&folder, self.coordination.children(&folder)).await? {
            let path = format!("{folder}/{child}");
            let Some(entry) = bounded(&path, self.coordination.get(&path)).await? else {
                continue;
            };
            if child.starts_with("slot-") {
                if !self.is_held(name, &path, &child, &entry.data).await? {
                    roots.orphans.insert(Orphan::Entry(path, entry.created));
                }
                continue;
            }
            let Ok(n) = child.parse::<u64>() else { continue };
            // Earlier runs of it may have a record.
            self.finished(roots, job, uid, n).await?;
            roots.builds.insert((uid.to_owned(), n));
            let whose: Arc<str> = format!("{job}/builds/{n}").into();
            let Some(live) = roots.read::<Live>(&format!("entry {path}"), &whose, &entry.data) else {
                continue;
            };
            let need = |what| Need {
                whose: whose.clone(),
                what,
                task: None,
            };
            roots.body(&live.config.digest, need("config.json"));
            self.plan(roots, &whose, live.plan.as_ref()).await?;
            if let (None, Some(digest)) = (&live.params, &live.params_digest) {
                roots.body(digest, need("parameters"));
            }
            // Tickets are named after a job's name. Read as one in the trash, it was restored since and triggered. One
            // that is held has none.
            if is_trashed(name) || live.held {
                continue;
            }
            let control = control_key(name, n, live.run)?;
            let ticket = bounded("ticket", self.coordination.get(&control.path())).await?;
            // Both go as one: if the build has just ended, its entry is another one or gone.
            if ticket.is_none()
                && bounded(&path, self.coordination.get(&path)).await? == Some(entry)
                && self.is_called(name, uid).await?
            {
                let what = format!("{control}: missing");
                let remedy = "restore the source from a backup; the build can't go on";
                roots.faults.push(Fault::new(what, &*whose, remedy));
            }
        }
        Ok(())
    }

    /// Whether a job has its name still: its builds' tickets are named after it.
    async fn is_called(&self, name: &str, uid: &str) -> Result<bool> {
        let page = bounded("jobs", self.contents.query(&RecordKey::Jobs.object(), name, "", 1)).await?;
        let line = page.entries.first().filter(|(key, _)| key == name);
        let found = line.and_then(|(_, line)| serde_json::from_slice::<JobEntry>(line).ok());
        Ok(found.is_some_and(|found| found.uid == uid))
    }

    /// Whether the build that a slot of a job's `concurrency` is held for knows of it.
    async fn is_held(&self, job: &str, path: &str, slot: &str, data: &[u8]) -> Result<bool> {
        let (Ok(n), Some((folder, _))) = (serde_json::from_slice::<u64>(data), path.rsplit_once('/')) else {
            return Ok(false);
        };
        let live = format!("{folder}/{n}");
        let entry = bounded(&live, self.coordination.get(&live)).await?;
        let Some(live) = entry.and_then(|entry| serde_json::from_slice::<Live>(&entry.data).ok()) else {
            return Ok(false);
        };
        if is_trashed(job) {
            return Ok(true);
        }
        let control = control_key(job, n, live.run)?.path();
        let entry = bounded(&control, self.coordination.get(&control)).await?;
        let ticket = entry.and_then(|entry| serde_json::from_slice::<Ticket>(&entry.data).ok());
        let held = ticket.and_then(|ticket| ticket.slot);
        Ok(held.is_some_and(|held| slot == format!("slot-{held}")))
    }

    /// All tickets.
    async fn tickets(&self, roots: &mut Roots) -> Result<()> {
        self.progress.begin("reading tickets");
        for queue in bounded(TICKETS, self.coordination.children(TICKETS)).await? {
            let folder = Key::Queue(&queue).path();
            let entry = bounded(&folder, self.coordination.get(&folder)).await?;
            if let Some(entry) = entry {
                let whose = format!("tickets/{queue}");
                roots.read::<Access>(&format!("entry {folder}"), &whose, &entry.data);
            }
            for id in bounded(&folder, self.coordination.children(&folder)).await? {
                self.progress.step();
                let path = format!("{folder}/{id}");
                let (Some(queue), Some(id)) = (Name::new(&queue), TicketId::new(&id)) else {
                    let what = format!("entry {path}: no name of a ticket");
                    roots.faults.push(Fault::new(what, "nothing else", RESTORE));
                    continue;
                };
                let key = TicketKey { queue, id };
                self.ticket(roots, &key).await?;
            }
        }
        Ok(())
    }

    async fn ticket(&self, roots: &mut Roots, key: &TicketKey) -> Result<()> {
        let path = key.path();
        let Some(entry) = bounded(&path, self.coordination.get(&path)).await? else {
            return Ok(());
        };
        let Some(ticket) = roots.read::<Ticket>(&format!("entry {path}"), &key.to_string(), &entry.data) else {
            return Ok(());
        };
        if let Some(BuildRef { uid, build, .. }) = &ticket.part {
            let live = Key::Build(uid, *build).path();
            if bounded(&live, self.coordination.get(&live)).await?.is_none() {
                roots.orphans.insert(Orphan::Entry(path, entry.created));
                return Ok(());
            }
        }
        roots.ticket(key, &ticket);
        Ok(())
    }

    /// Entries and records of jobs and builds that are gone.
    async fn strays(&self, roots: &mut Roots) -> Result<()> {
        let uids: HashSet<String> = roots.jobs.values().cloned().collect();
        for folder in [Key::Jobs.path(), Key::Keys.path(), Key::HeldBuilds.path()] {
            for uid in bounded(&folder, self.coordination.children(&folder)).await? {
                let path = format!("{folder}/{uid}");
                if !uids.contains(&uid)
                    && let Some(entry) = bounded(&path, self.coordination.get(&path)).await?
                {
                    roots.orphans.insert(Orphan::Entry(path, entry.created));
                }
            }
        }
        for kind in ["job", "build"] {
            let mut objects = self.list(kind).await?;
            loop {
                let page = objects.page().await?;
                if page.is_empty() {
                    break;
                }
                for object in page {
                    let name = object.to_string();
                    let known = match RecordKey::parse(&name) {
                        Some(RecordKey::Job(uid)) => uids.contains(uid),
                        Some(RecordKey::Build(uid, n)) => roots.builds.contains(&(uid.to_owned(), n)),
                        // Of the repository itself, or not of a form that we write: left alone.
                        _ => true,
                    };
                    if !known {
                        roots.orphans.insert(Orphan::Record(name));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Whether a console, named with its part, belongs to a build or ticket that is there.
pub(super) fn is_wanted(roots: &Roots, object: &str) -> bool {
    let Some((name, _part)) = object.rsplit_once('.') else {
        return true;
    };
    match name.split('.').collect::<Vec<_>>().as_slice() {
        ["console", _, _] => roots.lone.contains(name),
        ["console", uid, n, ..] => n.parse().is_ok_and(|n| roots.builds.contains(&((*uid).to_owned(), n))),
        // Not of a form that we write: left alone.
        _ => true,
    }
}
