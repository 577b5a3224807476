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
use super::maintain::{canonical, failed, open_folder, print, runtime, say};
use super::progress::Shown;
use super::wire::{Answer, Verdict, Work};
use super::{Failure, Outcome};
use crate::backend::embedded::{Archive, Copied, Copier, Embedded, OpenError, Placed, Rows, RowsError};
use crate::cli;
use crate::repository::maintain::{Needed, Progress, Upkeep};
use crate::repository::{self, Error};

/// Told while the system writes what is in memory only.
const DURABLE: &str = "waiting until all of it is on the disk";

/// Saves a folder.
pub(super) fn backup(arguments: &cli::Backup) -> Outcome {
    let source = folder(
        &arguments.source,
        "its pool is saved by Ceph's own means: doc/deploy.md, Backup",
    )?;
    keep_apart(&source, &arguments.dir)?;
    let archive = Archive::of_backup(&arguments.dir).map_err(refused)?;
    let shown = Shown::new("clearing what an end in the middle has left");
    archive.clean().map_err(refused)?;
    let saved = Teller::find(&source, arguments.wait, &shown)
        .and_then(|teller| save(&source, &archive, teller, !arguments.copy, shown));
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
    fn find(source: &Path, wait: u64, shown: &Shown) -> Result<Teller, Failure> {
        if let Some(mut asked) = ask(source, Work::Backup, wait, shown)? {
            return match asked.next()? {
                Answer::Rows => Ok(Teller::Daemon(asked)),
                Answer::Failed(reason) => Err(Failure::Refused(reason)),
                other => Err(Failure::Refused(format!("the daemon answers {other:?}"))),
            };
        }
        shown.progress.begin(format!("opening {}", source.display()));
        let (_, stores) = open_folder(source)?;
        let store = stores.folder.ok_or_else(|| Failure::Refused("no folder".into()))?;
        Ok(Teller::Own(store))
    }

    /// Makes an index of what is told.
    fn make_index(&mut self, path: &Path, progress: &Progress) -> Result<u64, Failure> {
        let rows = match self {
            // It has told so before.
            Teller::Daemon(_) => Ok(progress.now().of),
            Teller::Own(store) => store.count_rows(),
        };
        let begin = |rows: u64| progress.begin_of("copying the index", usize::try_from(rows).unwrap_or(0));
        let step = || progress.step();
        let made = rows.map(begin).and_then(|()| match self {
            Teller::Daemon(asked) => Rows(&mut asked.stream).make_index(path, &step),
            Teller::Own(store) => store.copy_index(path, &step),
        });
        made.map_err(|error| match error {
            RowsError::Cut(error) => Failure::Refused(format!(
                "the index was not told to its end ({error}); the log of the mount says why: try again"
            )),
            other => Failure::Refused(other.to_string()),
        })
    }
}

/// Brings everything into the backup and makes it the one that counts; what was done.
fn save(source: &Path, archive: &Archive, mut teller: Teller, link: bool, shown: Shown) -> Result<String, Failure> {
    let (runtime, progress) = (runtime()?, shown.progress.clone());
    let index = archive.new_index();
    teller.make_index(&index, &progress)?;
    let needed = needed(&runtime, source, &index, &progress)?;
    if !needed.faults.is_empty() {
        drop(shown);
        for fault in &needed.faults {
            say(fault)?;
        }
        return Err(Failure::Refused(format!(
            "{}: what is damaged can't be saved; run distcifs fsck",
            source.display()
        )));
    }
    for fault in &needed.told {
        say(fault)?;
    }
    archive.begin(&needed.repository).map_err(refused)?;
    let copier = Copier::new(source, archive.dir(), link);
    let needed = Arc::new(needed);
    let copier = bring(&runtime, copier, needed.clone(), &progress)?;
    progress.begin(DURABLE);
    archive.finish().map_err(refused)?;
    // From here on nothing of the source is needed.
    drop(teller);
    let consoles: std::collections::HashSet<_> = needed.consoles.iter().collect();
    progress.begin("removing what is not needed any more, looked at");
    let pruned = archive.prune(&|object| {
        progress.step();
        needed.has(object) || consoles.contains(object)
    });
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
fn needed(runtime: &Runtime, dir: &Path, index: &Path, progress: &Arc<Progress>) -> Result<Needed, Failure> {
    let upkeep = look(dir, index, progress)?;
    runtime.block_on(upkeep.needed()).map_err(failed)
}

/// Looks at a folder by an index.
fn look(dir: &Path, index: &Path, progress: &Arc<Progress>) -> Result<Upkeep, Failure> {
    progress.begin("reading the index");
    let store = Embedded::look(dir, index).map_err(refused)?;
    let mut upkeep = Upkeep::new(store.coordination(), store.contents());
    upkeep.progress = progress.clone();
    Ok(upkeep)
}

/// Brings all objects.
fn bring(runtime: &Runtime, copier: Copier, needed: Arc<Needed>, progress: &Arc<Progress>) -> Result<Copier, Failure> {
    let progress = progress.clone();
    progress.begin_of("copying chunks, folders and consoles", needed.len());
    let work = move || {
        let brought = copier.bring(needed.objects(), &|bytes| progress.step_of(bytes));
        brought.map(|()| copier)
    };
    let brought = async {
        let brought = tokio::task::spawn_blocking(work).await;
        let brought =
            brought.map_err(|error| Error::Io(repository::Failure::because(format!("copying: {error}"), error)))?;
        brought.map_err(|(object, error)| Error::Io(repository::Failure::because(format!("{object}: {error}"), error)))
    };
    runtime.block_on(brought).map_err(failed)
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
    let verdict = bring_back(&placed, &archive, !arguments.copy, Shown::new("copying the index"));
    print(verdict.map_err(|failure| named(failure, &archive))?)
}

/// Brings all of a backup into a folder, and makes that a store; what is wrong with it.
fn bring_back(placed: &Placed, archive: &Archive, link: bool, shown: Shown) -> Result<Verdict, Failure> {
    let (runtime, progress) = (runtime()?, shown.progress.clone());
    let index = archive.new_index();
    let copied = std::fs::copy(&placed.index, &index);
    copied.map_err(|error| Failure::Refused(format!("{}: {error}", placed.index.display())))?;
    // What is damaged or missing is named at the end; all the rest is restored.
    let needed = needed(&runtime, &placed.dir, &index, &progress)?;
    let mut copier = Copier::new(&placed.dir, archive.dir(), link);
    copier.patient = true;
    let copier = bring(&runtime, copier, Arc::new(needed), &progress)?;
    progress.begin(DURABLE);
    archive.finish().map_err(refused)?;
    drop(shown);
    say(&told("restored", &copier.copied))?;
    let shown = Shown::new("checking");
    let verdict = check(&runtime, archive.dir(), &archive.dir().join("index.redb"), &shown)?;
    archive.become_store().map_err(refused)?;
    Ok(verdict)
}

/// Checks everything in a folder by an index.
fn check(runtime: &Runtime, dir: &Path, index: &Path, shown: &Shown) -> Result<Verdict, Failure> {
    let upkeep = look(dir, index, &shown.progress)?;
    let checked = runtime.block_on(upkeep.check()).map_err(failed)?;
    Ok(Verdict::from(&checked))
}

/// Checks everything in a backup.
pub(super) fn fsck(dir: &Path) -> Outcome {
    let placed = Placed::open(&canonical(dir)?).map_err(refused)?;
    let shown = Shown::new("checking");
    let verdict = check(&runtime()?, &placed.dir, &placed.index, &shown)?;
    drop(shown);
    print(verdict)
}
