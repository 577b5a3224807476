//! `distcifs backup` and `distcifs restore`.
//!
//! The index is told by whoever has the source, as it is at one moment; by it this command finds out
//! what is needed, and brings what is not in the backup yet. Nothing is removed from the source
//! meanwhile. The new index is the last that is written (backend/embedded/archive.rs).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::runtime::Runtime;

use super::ask::{Asked, ask};
use super::cluster::is_cluster;
use super::maintain::{canonical, open_folder, print, runtime, say, watched};
use super::wire::{Answer, Verdict, Work};
use super::{Failure, Outcome};
use crate::backend::embedded::{Archive, Copied, Copier, Embedded, OpenError, Placed, Rows, RowsError};
use crate::cli;
use crate::repository::Error;
use crate::repository::maintain::{Needed, Progress, Upkeep};

/// Saves a folder.
pub(super) fn backup(arguments: &cli::Backup) -> Outcome {
    let source = folder(
        &arguments.source,
        "its pool is saved by Ceph's own means: doc/deploy.md, Backup",
    )?;
    keep_apart(&source, &arguments.dir)?;
    let archive = Archive::of_backup(&arguments.dir).map_err(refused)?;
    archive.clean().map_err(refused)?;
    let saved =
        Teller::find(&source, arguments.wait).and_then(|teller| save(&source, &archive, teller, !arguments.copy));
    let saved = saved.map_err(|failure| former(named(failure, &archive), &arguments.dir))?;
    say(&saved)
}

/// Adds to an error what the folder holds all the same.
fn former(failure: Failure, dir: &Path) -> Failure {
    match failure {
        Failure::Refused(reason) if dir.join("index.redb").exists() => {
            Failure::Refused(format!("{reason}; the former backup in {} is as it was", dir.display()))
        }
        other => other,
    }
}

/// Names the folder in an error as people know it.
fn named(failure: Failure, archive: &Archive) -> Failure {
    match failure {
        Failure::Refused(reason) => Failure::Refused(archive.named(&reason)),
        other => other,
    }
}

/// A folder without symbolic links on the way; `instead`: what is done with a cluster.
fn folder(source: &Path, instead: &str) -> Result<PathBuf, Failure> {
    if is_cluster(source) {
        return Err(Failure::Refused(format!(
            "{}: that is a cluster; {instead}",
            source.display()
        )));
    }
    canonical(source)
}

/// Refuses a backup within its source, and the reverse.
fn keep_apart(source: &Path, dir: &Path) -> Outcome {
    let dir = super::options::resolve(dir);
    if dir.starts_with(source) || source.starts_with(&dir) {
        return Err(Failure::Refused(format!(
            "{} and {}: one is inside the other; choose a folder elsewhere",
            source.display(),
            dir.display()
        )));
    }
    Ok(())
}

fn refused(error: OpenError) -> Failure {
    Failure::Refused(error.to_string())
}

/// Who tells the index: the daemon of the mount, or the store itself.
enum Teller {
    Daemon(Asked),
    Own(Embedded),
}

impl Teller {
    /// Whoever has the source, or this process.
    fn find(source: &Path, wait: u64) -> Result<Teller, Failure> {
        if let Some(mut asked) = ask(source, Work::Backup, wait)? {
            return match asked.next()? {
                Answer::Rows => Ok(Teller::Daemon(asked)),
                Answer::Failed(reason) => Err(Failure::Refused(reason)),
                other => Err(Failure::Refused(format!("the daemon answers {other:?}"))),
            };
        }
        let (_, stores) = open_folder(source)?;
        let store = stores.folder.ok_or_else(|| Failure::Refused("no folder".into()))?;
        Ok(Teller::Own(store))
    }

    /// Makes an index of what is told.
    fn make_index(&mut self, path: &Path) -> Result<u64, Failure> {
        let made = match self {
            Teller::Daemon(asked) => Rows(&mut asked.stream).make_index(path),
            Teller::Own(store) => store.copy_index(path),
        };
        made.map_err(|error| match error {
            RowsError::Cut(error) => Failure::Refused(format!(
                "the index was not told to its end ({error}); the log of the mount says why: try again"
            )),
            other => Failure::Refused(other.to_string()),
        })
    }
}

/// Brings everything into the backup and makes it the one that counts; what was done.
fn save(source: &Path, archive: &Archive, mut teller: Teller, link: bool) -> Result<String, Failure> {
    let runtime = runtime()?;
    let index = archive.new_index();
    teller.make_index(&index)?;
    let needed = needed(&runtime, source, &index)?;
    if !needed.faults.is_empty() {
        for fault in &needed.faults {
            say(fault)?;
        }
        return Err(Failure::Refused(format!(
            "{}: what is damaged can't be saved; run distcifs fsck",
            source.display()
        )));
    }
    archive.begin(&needed.repository).map_err(refused)?;
    let copier = Copier::new(source, archive.dir(), link);
    let needed = Arc::new(needed);
    let copier = bring(&runtime, copier, needed.clone())?;
    archive.finish().map_err(refused)?;
    // From here on nothing of the source is needed.
    drop(teller);
    let consoles: std::collections::HashSet<_> = needed.consoles.iter().collect();
    let pruned = archive.prune(&|object| needed.has(object) || consoles.contains(object));
    let text = told("saved", &copier.copied);
    match pruned {
        Ok(0) => Ok(text),
        Ok(removed) => Ok(format!("{text}; {removed} not needed any more removed")),
        Err(error) => Ok(format!(
            "{text}; what is not needed any more stays until the next time ({error})"
        )),
    }
}

/// What an index needs of a folder.
fn needed(runtime: &Runtime, dir: &Path, index: &Path) -> Result<Needed, Failure> {
    let store = Embedded::look(dir, index).map_err(refused)?;
    let upkeep = Upkeep::new(store.coordination(), store.contents());
    watched(runtime, &upkeep.progress, upkeep.needed())
}

/// Brings all objects.
fn bring(runtime: &Runtime, copier: Copier, needed: Arc<Needed>) -> Result<Copier, Failure> {
    let progress: Arc<Progress> = Arc::default();
    let shown = progress.clone();
    progress.tell("copying objects", 0);
    let work = move || {
        let brought = copier.bring(needed.objects(), &|| shown.step());
        brought.map(|()| copier)
    };
    let brought = async {
        let brought = tokio::task::spawn_blocking(work).await;
        let brought = brought.map_err(|error| Error::Io(format!("copying: {error}")))?;
        brought.map_err(|(object, error)| Error::Io(format!("{object}: {error}")))
    };
    watched(runtime, &progress, brought)
}

/// One line about what was brought.
fn told(verb: &str, copied: &Copied) -> String {
    let count = |number: &std::sync::atomic::AtomicU64| number.load(Ordering::Relaxed);
    format!(
        "{verb}: {} chunks and folders and {} consoles brought ({} bytes); {} were there",
        count(&copied.blobs),
        count(&copied.consoles),
        count(&copied.bytes),
        count(&copied.there)
    )
}

/// Makes a folder of a backup.
pub(super) fn restore(arguments: &cli::Restore) -> Outcome {
    let dir = canonical(&arguments.dir)?;
    keep_apart(&dir, &arguments.source)?;
    if is_cluster(&arguments.source) {
        return Err(Failure::Refused(
            "a backup of a folder is restored into a folder".into(),
        ));
    }
    let placed = Placed::open(&dir).map_err(refused)?;
    let archive = Archive::of_restore(&arguments.source).map_err(refused)?;
    let verdict = bring_back(&placed, &archive, !arguments.copy);
    print(verdict.map_err(|failure| named(failure, &archive))?)
}

/// Brings all of a backup into a folder, and makes that a store; what is wrong with it.
fn bring_back(placed: &Placed, archive: &Archive, link: bool) -> Result<Verdict, Failure> {
    let runtime = runtime()?;
    let index = archive.new_index();
    let copied = std::fs::copy(&placed.index, &index);
    copied.map_err(|error| Failure::Refused(format!("{}: {error}", placed.index.display())))?;
    // What is damaged or missing is named at the end; all the rest is restored.
    let needed = needed(&runtime, &placed.dir, &index)?;
    let mut copier = Copier::new(&placed.dir, archive.dir(), link);
    copier.patient = true;
    let copier = bring(&runtime, copier, Arc::new(needed))?;
    archive.finish().map_err(refused)?;
    say(&told("restored", &copier.copied))?;
    let verdict = check(&runtime, archive.dir(), &archive.dir().join("index.redb"))?;
    archive.become_store().map_err(refused)?;
    Ok(verdict)
}

/// Checks everything in a folder by an index.
fn check(runtime: &Runtime, dir: &Path, index: &Path) -> Result<Verdict, Failure> {
    let store = Embedded::look(dir, index).map_err(refused)?;
    let upkeep = Upkeep::new(store.coordination(), store.contents());
    let checked = watched(runtime, &upkeep.progress, upkeep.check())?;
    Ok(Verdict::from(&checked))
}

/// Checks everything in a backup.
pub(super) fn fsck(dir: &Path) -> Outcome {
    let placed = Placed::open(&canonical(dir)?).map_err(refused)?;
    print(check(&runtime()?, &placed.dir, &placed.index)?)
}
