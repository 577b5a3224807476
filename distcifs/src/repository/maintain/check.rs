//! `fsck`: every object is read whole, every reference is followed.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::future::Future;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::roots::{Heads, Need, Orphan, Roots, is_wanted};
use super::sweep::Wanted;
use super::{Blobs, Fault, Upkeep};
use crate::repository::model::keys::REMOVED_JOB_LINES;
use crate::repository::snapshot::{self, Snapshot};
use crate::repository::{Error, Result};
use crate::storage::contents::VALUE_BYTES_MAX;
use crate::storage::{self, Digest, Object};

/// Objects read at once: enough to keep a disk busy, at most 128 MiB of them in memory.
const READS: usize = 16;

/// Of those that need a broken object, so many are named.
const NAMED_MAX: usize = 5;

/// What was checked, and what is wrong.
#[derive(Debug, Default)]
pub struct Checked {
    /// Jobs.
    pub jobs: usize,
    /// Builds, finished or not.
    pub builds: usize,
    /// Tickets.
    pub tickets: u64,
    /// Consoles that a record tells of.
    pub consoles: usize,
    /// Folders and chunks read.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What belongs to nothing: no fault, and freed by gc.
    pub orphans: usize,
    /// What is wrong.
    pub faults: Vec<Fault>,
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "checked {} jobs, {} builds, {} tickets, {} consoles, {} objects ({} bytes): ",
            self.jobs, self.builds, self.tickets, self.consoles, self.objects, self.bytes
        )?;
        match self.faults.len() {
            0 => f.write_str("nothing is wrong")?,
            n => write!(f, "{n} faults")?,
        }
        match self.orphans {
            0 => Ok(()),
            n => write!(f, "; {n} things belong to nothing: distcifs gc frees them"),
        }
    }
}

/// What is wrong with objects, and who needs them.
type Broken = BTreeMap<Object, (String, Vec<String>, usize)>;

impl Upkeep {
    /// Checks everything.
    pub async fn check(&self) -> Result<Checked> {
        let mut roots = self.roots(Heads::Read).await?;
        let mut checked = Checked {
            jobs: roots.jobs.len(),
            builds: roots.builds.len(),
            tickets: roots.tickets,
            consoles: roots.consoles.len(),
            orphans: roots.orphans.len(),
            ..Checked::default()
        };
        checked.faults.append(&mut roots.faults);
        checked.faults.append(&mut roots.lost);
        checked.faults.append(&mut roots.unworkable);
        for orphan in &roots.orphans {
            // What goes from the trash is nobody's loss.
            if let Orphan::Job(name, _) = orphan
                && !name.starts_with(REMOVED_JOB_LINES)
            {
                let (what, remedy) = (orphan.to_string(), "distcifs gc, or rmdir it on a mount");
                checked
                    .faults
                    .push(Fault::new(what, "nothing can be built there", remedy));
            }
        }
        let (good, mut broken) = self.read_all(&mut checked).await?;
        let wanted = self.follow_all(&roots, &good, &mut broken).await?;
        checked.orphans += good.chunks.difference(&wanted.chunks).count();
        checked.orphans += good.trees.difference(&wanted.trees).count();
        self.check_consoles(&roots, &mut checked).await?;
        for (object, (why, needs, count)) in broken {
            checked.faults.push(fault_of(&object, &why, &needs, count));
        }
        Ok(checked)
    }

    /// Checks everything while builds may run: what shows is a fault only if it is still there after
    /// `settle`, when every object and reference is looked at again.
    pub async fn check_live(&self, settle: impl Future<Output = ()>) -> Result<Checked> {
        let first = self.check().await?;
        if first.faults.is_empty() {
            return Ok(first);
        }
        self.progress.begin("waiting to look at faults again");
        settle.await;
        let seen: HashSet<&str> = first.faults.iter().map(Fault::subject).collect();
        let mut checked = self.check().await?;
        checked.faults.retain(|fault| seen.contains(fault.subject()));
        Ok(checked)
    }

    /// Reads every chunk and folder; those that are whole, and those that are not.
    async fn read_all(&self, checked: &mut Checked) -> Result<(Blobs, Broken)> {
        self.progress.begin("reading chunks and folders");
        let (mut good, mut broken) = (Blobs::default(), Broken::new());
        for kind in ["tree", "chunk"] {
            let mut objects = self.list(kind).await?;
            loop {
                let page = objects.page().await?;
                if page.is_empty() {
                    break;
                }
                for part in page.chunks(READS) {
                    for (object, read) in self.read_some(part).await? {
                        checked.objects += 1;
                        self.progress.step_of(*read.as_ref().unwrap_or(&0));
                        match read {
                            Ok(bytes) => {
                                checked.bytes += bytes;
                                good.insert(&object);
                            }
                            Err(why) => {
                                broken.insert(object, (why, Vec::new(), 0));
                            }
                        }
                    }
                }
            }
        }
        Ok((good, broken))
    }

    /// Reads some objects side by side; the length of each, or what is wrong with it.
    async fn read_some(&self, objects: &[Object]) -> Result<Vec<(Object, std::result::Result<u64, String>)>> {
        let mut reads = JoinSet::new();
        for object in objects {
            let (object, contents) = (object.clone(), self.contents.clone());
            reads.spawn(async move {
                let read = contents.read(&object, 0, VALUE_BYTES_MAX).await;
                // A store may know bytes again by less than their digest.
                let whole = |bytes: &Bytes| object.digest() == Some(&Digest::of(bytes));
                let read = read.map(|found| found.map(|bytes| (bytes.len() as u64, whole(&bytes))));
                (object, read)
            });
        }
        let mut all = Vec::new();
        while let Some(done) = reads.join_next().await {
            let (object, read) = done.map_err(|error| Error::Io(format!("reading objects: {error}").into()))?;
            let read = match read {
                Ok(Some((length, true))) => Ok(length),
                Ok(Some((_, false))) => Err("damaged: its bytes have another digest".to_owned()),
                Ok(None) => Err("vanished while it was read".to_owned()),
                Err(storage::Error::Damaged { why, .. }) => Err(format!("damaged: {why}")),
                // A disk that can't read it is what fsck is to find.
                Err(storage::Error::Unavailable { why, .. }) => Err(format!("can't be read: {why}")),
                Err(error) => return Err(error.into()),
            };
            all.push((object, read));
        }
        Ok(all)
    }

    /// Follows every reference; the objects met. Names who needs what is broken.
    async fn follow_all(&self, roots: &Roots, good: &Blobs, broken: &mut Broken) -> Result<Blobs> {
        self.progress.begin_of("following references", roots.snapshots.len());
        let mut wanted = Blobs::default();
        let mut missing = false;
        for (digest, _) in &roots.bodies {
            let object = Object::Chunk(*digest);
            wanted.insert(&object);
            missing |= !good.contains(&object);
        }
        for (digest, _) in &roots.snapshots {
            let mut visit = |object: Object| {
                missing |= !good.contains(&object);
                wanted.insert(&object)
            };
            let mut torn = Vec::new();
            let mut told = |object, error: snapshot::SnapshotError| torn.push((object, error.to_string()));
            snapshot::reachable(self.contents.clone(), *digest, &mut visit, &mut told).await?;
            missing |= !torn.is_empty();
            self.progress.step();
        }
        if missing {
            self.blame(roots, good, broken).await?;
            return Ok(wanted);
        }
        let mut all = Wanted::from(wanted);
        self.mark_joined(roots, &mut all).await?;
        Ok(all.blobs)
    }

    /// Goes through every reference by itself, to name all that need a broken object.
    async fn blame(&self, roots: &Roots, good: &Blobs, broken: &mut Broken) -> Result<()> {
        self.progress
            .begin_of("finding what is affected", roots.snapshots.len());
        for (digest, need) in &roots.bodies {
            let object = Object::Chunk(*digest);
            if !good.contains(&object) {
                add(broken, object, "missing", need);
            }
        }
        for (digest, need) in &roots.snapshots {
            if *digest == Snapshot::empty() {
                continue;
            }
            let (mut seen, mut bad) = (Blobs::default(), Vec::new());
            let mut visit = |object: Object| {
                let new = seen.insert(&object);
                if new && !good.contains(&object) {
                    bad.push((object, "missing".to_owned()));
                }
                new
            };
            let mut torn = Vec::new();
            let mut told = |object, error: snapshot::SnapshotError| torn.push((object, error.to_string()));
            snapshot::reachable(self.contents.clone(), *digest, &mut visit, &mut told).await?;
            // Whole by its digest, but no valid listing.
            bad.extend(torn.into_iter().filter(|(object, _)| good.contains(object)));
            for (object, why) in bad {
                add(broken, object, &why, need);
            }
            self.progress.step();
        }
        Ok(())
    }

    /// Consoles: are those there, and as long, that records tell of; which belong to nothing?
    async fn check_consoles(&self, roots: &Roots, checked: &mut Checked) -> Result<()> {
        self.progress.begin_of("checking consoles", roots.consoles.len());
        for (name, length, need) in &roots.consoles {
            self.progress.step();
            let found = self.console_length(name).await?;
            let what = match found {
                Some(found) if found >= *length => continue,
                Some(found) => format!("{name}: {found} bytes where its record has {length}"),
                None => format!("{name}: missing"),
            };
            let remedy = "restore the source from a backup, or remove the build";
            checked.faults.push(Fault::new(what, need.to_string(), remedy));
        }
        let mut objects = self.list("console").await?;
        loop {
            let page = objects.page().await?;
            if page.is_empty() {
                return Ok(());
            }
            checked.orphans += page
                .iter()
                .filter(|object| !is_wanted(roots, &object.to_string()))
                .count();
        }
    }
}

/// Notes that somebody needs a broken object.
fn add(broken: &mut Broken, object: Object, why: &str, need: &Need) {
    let (_, needs, count) = broken.entry(object).or_insert_with(|| (why.to_owned(), Vec::new(), 0));
    *count += 1;
    if needs.len() < NAMED_MAX {
        needs.push(need.to_string());
    }
}

/// The line for a broken object.
fn fault_of(object: &Object, why: &str, needs: &[String], count: usize) -> Fault {
    let what = format!("{object}: {why}");
    if count == 0 {
        return Fault::new(what, "nothing that is kept", "distcifs gc removes it");
    }
    let more = match count - needs.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let remedy = "restore the object from a backup, or remove what is affected and build it again";
    Fault::new(what, needs.join(", ") + &more, remedy)
}
