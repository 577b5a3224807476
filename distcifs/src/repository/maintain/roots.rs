//! Every reference that a repository holds, and what in it belongs to nothing.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::{Fault, PAGE, Upkeep};
use crate::repository::Result;
use crate::repository::builds::Live;
use crate::repository::configure::ConfigHead;
use crate::repository::consoles::scope_of;
use crate::repository::core::bounded;
use crate::repository::jobs::{Access, Counter, JobEntry};
use crate::repository::names::{Name, TicketId};
use crate::repository::records::{Indexed, Record};
use crate::repository::tickets::{Part, Ticket, TicketKey, control_key};
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
    /// An entry with all below it: what is left of a removed or half-made job, build or claim.
    Entry(String),
    /// A record of a job or build that is gone.
    Record(String),
    /// A line in the list of jobs, whose removal was begun.
    Job(String),
    /// A line in the index of builds of a job (its uid; the key) without a record.
    Build(String, String),
}

impl fmt::Display for Orphan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Orphan::Entry(path) => write!(f, "entry {path}"),
            Orphan::Record(name) => write!(f, "record {name}"),
            Orphan::Job(name) => write!(f, "jobs/{name}, half removed"),
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
    /// Folders with all below them.
    pub(super) snapshots: Vec<(Digest, Need)>,
    /// Consoles that a record tells the length of.
    pub(super) consoles: Vec<(String, u64, Need)>,
    pub(super) orphans: Vec<Orphan>,
    /// Uids of jobs, by name.
    pub(super) jobs: BTreeMap<String, String>,
    /// All builds, by their job's uid.
    pub(super) builds: HashSet<(String, u64)>,
    /// Consoles of tickets that stand alone.
    pub(super) lone: HashSet<String>,
    pub(super) tickets: u64,
}

/// What one may do where something of a job is damaged.
const RESTORE: &str = "restore the source from a backup, or remove what is affected";

impl Roots {
    /// Takes in plain data of ours; a fault if it does not read.
    fn read<T: DeserializeOwned>(&mut self, what: &str, affected: &str, data: &[u8]) -> Option<T> {
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

    fn body(&mut self, text: &str, need: Need) {
        if let Some(digest) = self.digest(text, &need) {
            self.bodies.push((digest, need));
        }
    }

    fn snapshot(&mut self, text: Option<&str>, need: Need) {
        if let Some(digest) = text.and_then(|text| self.digest(text, &need)) {
            self.snapshots.push((digest, need));
        }
    }

    /// Takes in what a finished build's record refers to.
    fn record(&mut self, whose: &Arc<str>, record: &Record) {
        let need = |what, task| Need {
            whose: whose.clone(),
            what,
            task,
        };
        self.body(&record.config.digest, need("config.json", None));
        for (index, task) in record.tasks.iter().enumerate() {
            self.snapshot(task.workspace.as_deref(), need("workspace", Some(index)));
            self.snapshot(task.artifacts.as_deref(), need("artifacts", Some(index)));
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
        self.snapshot(ticket.workspace.as_deref(), need("workspace to start from"));
        if let Some(outcome) = &ticket.outcome {
            self.snapshot(outcome.workspace.as_deref(), need("workspace"));
            self.snapshot(outcome.artifacts.as_deref(), need("artifacts"));
        }
        if ticket.part.is_none() {
            self.lone.extend(scope_of(key, ticket));
        }
    }
}

impl Upkeep {
    /// Gathers everything.
    pub(super) async fn roots(&self) -> Result<Roots> {
        self.progress.begin("reading jobs and builds");
        let mut roots = Roots::default();
        let jobs = Object::Record("jobs".into());
        for (name, line) in self.record(&jobs, "").await? {
            self.job(&mut roots, &name, &line).await?;
        }
        self.tickets(&mut roots).await?;
        self.strays(&mut roots).await?;
        Ok(roots)
    }

    /// All keys of a record that begin with a prefix.
    async fn record(&self, object: &Object, prefix: &str) -> Result<Vec<(String, bytes::Bytes)>> {
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

    /// A job: its line, its counter, its configuration, its builds.
    async fn job(&self, roots: &mut Roots, name: &str, line: &[u8]) -> Result<()> {
        self.progress.step();
        let whose: Arc<str> = format!("jobs/{name}").into();
        let Some(entry) = roots.read::<JobEntry>(&format!("line {name} in the list of jobs"), &whose, line) else {
            return Ok(());
        };
        let uid = entry.uid;
        let path = format!("/jobs/{uid}");
        let Some(counter) = bounded(&path, self.coordination.get(&path)).await? else {
            // Its removal begins with the counter: all that is left of it belongs to nothing.
            roots.orphans.push(Orphan::Job(name.to_owned()));
            return Ok(());
        };
        roots.read::<Counter>(&format!("entry {path}"), &whose, &counter.data);
        roots.jobs.insert(name.to_owned(), uid.clone());
        let keys = format!("/keys/{uid}");
        if bounded(&keys, self.coordination.get(&keys)).await?.is_none() {
            let (what, affected) = (
                format!("entry {keys}: missing"),
                format!("triggers of {whose} with @key"),
            );
            roots.lost.push(Fault::new(what, affected, "make the job anew"));
        }
        let record = Object::Record(format!("job.{uid}"));
        for (_, head) in self.record(&record, "config").await? {
            if let Some(head) = roots.read::<ConfigHead>(&format!("record {record}"), &whose, &head) {
                let what = "config.json";
                roots.body(
                    &head.digest,
                    Need {
                        whose: whose.clone(),
                        what,
                        task: None,
                    },
                );
            }
        }
        for (key, indexed) in self.record(&record, "b").await? {
            let n = key.strip_prefix('b').and_then(|n| n.parse::<u64>().ok());
            let what = format!("line {key} in the index of {whose}");
            let read = roots.read::<Indexed>(&what, &whose, &indexed);
            if let (Some(n), Some(_)) = (n, read)
                && !self.finished(roots, &whose, &uid, n).await?
            {
                let what = format!("record build.{uid}.{n}: missing");
                let remedy = "restore the source from a backup, or let distcifs gc forget the build";
                let affected = format!("{whose}/builds/{n}");
                roots.lost.push(Fault::new(what, affected, remedy));
                roots.orphans.push(Orphan::Build(uid.clone(), key));
            }
        }
        self.unfinished(roots, &whose, name, &uid).await
    }

    /// What a build's record refers to; `false` if there is none.
    async fn finished(&self, roots: &mut Roots, job: &str, uid: &str, n: u64) -> Result<bool> {
        self.progress.step();
        let whose: Arc<str> = format!("{job}/builds/{n}").into();
        let object = Object::Record(format!("build.{uid}.{n}"));
        let found = self.record(&object, "record").await?;
        let Some((_, record)) = found.first() else {
            return Ok(false);
        };
        roots.builds.insert((uid.to_owned(), n));
        if let Some(record) = roots.read::<Record>(&format!("record {object}"), &whose, record) {
            roots.record(&whose, &record);
        }
        Ok(true)
    }

    /// The builds of a job that are not finished, and its slots.
    async fn unfinished(&self, roots: &mut Roots, job: &str, name: &str, uid: &str) -> Result<()> {
        let folder = format!("/jobs/{uid}");
        for child in bounded(&folder, self.coordination.children(&folder)).await? {
            let path = format!("{folder}/{child}");
            let Some(entry) = bounded(&path, self.coordination.get(&path)).await? else {
                continue;
            };
            if child.starts_with("slot-") {
                self.slot(roots, name, &path, &child, &entry.data).await?;
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
            if let (None, Some(digest)) = (&live.params, &live.params_digest) {
                roots.body(digest, need("parameters"));
            }
            let control = control_key(name, n, live.run)?;
            if bounded("ticket", self.coordination.get(&control.path()))
                .await?
                .is_none()
            {
                let what = format!("{control}: missing");
                let remedy = "restore the source from a backup; the build can't go on";
                roots.faults.push(Fault::new(what, &*whose, remedy));
            }
        }
        Ok(())
    }

    /// A slot of a job's `concurrency`: its build must know of it.
    async fn slot(&self, roots: &mut Roots, job: &str, path: &str, slot: &str, data: &[u8]) -> Result<()> {
        let held = async {
            let n: u64 = serde_json::from_slice(data).ok()?;
            let folder = path.rsplit_once('/')?.0;
            let live = self.coordination.get(&format!("{folder}/{n}")).await.ok()??;
            let live: Live = serde_json::from_slice(&live.data).ok()?;
            let control = control_key(job, n, live.run).ok()?;
            let ticket = self.coordination.get(&control.path()).await.ok()??;
            let ticket: Ticket = serde_json::from_slice(&ticket.data).ok()?;
            (slot == format!("slot-{}", ticket.slot?)).then_some(())
        };
        if held.await.is_none() {
            roots.orphans.push(Orphan::Entry(path.to_owned()));
        }
        Ok(())
    }

    /// All tickets.
    async fn tickets(&self, roots: &mut Roots) -> Result<()> {
        self.progress.begin("reading tickets");
        for queue in bounded("/tickets", self.coordination.children("/tickets")).await? {
            let folder = format!("/tickets/{queue}");
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
        if let Some(Part { uid, build, .. }) = &ticket.part {
            let live = format!("/jobs/{uid}/{build}");
            if bounded(&live, self.coordination.get(&live)).await?.is_none() {
                roots.orphans.push(Orphan::Entry(path));
                return Ok(());
            }
        }
        roots.ticket(key, &ticket);
        Ok(())
    }

    /// Entries and records of jobs and builds that are gone.
    async fn strays(&self, roots: &mut Roots) -> Result<()> {
        let uids: HashSet<String> = roots.jobs.values().cloned().collect();
        for folder in ["/jobs", "/keys"] {
            for uid in bounded(folder, self.coordination.children(folder)).await? {
                if !uids.contains(&uid) {
                    roots.orphans.push(Orphan::Entry(format!("{folder}/{uid}")));
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
                    let known = match name.split('.').collect::<Vec<_>>().as_slice() {
                        ["job", uid] => uids.contains(*uid),
                        ["build", uid, n] => n.parse().is_ok_and(|n| roots.builds.contains(&((*uid).to_owned(), n))),
                        // Not of a form that we write: left alone.
                        _ => true,
                    };
                    if !known {
                        roots.orphans.push(Orphan::Record(name));
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
