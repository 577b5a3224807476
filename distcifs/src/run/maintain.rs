//! `distcifs fsck` and `distcifs gc`.

use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use super::ask::{Asked, ask, whoami};
use super::cluster::is_cluster;
use super::options::MountOptions;
use super::progress::Shown;
use super::stores::Stores;
use super::wire::{Answer, Verdict, Work};
use super::{Failure, Outcome};
use crate::backend::embedded::{Embedded, Placed};
use crate::cli;
use crate::repository::maintain::Upkeep;

/// How long fsck lets builds go on before it looks again at what seems wrong in a cluster: no single call
/// of a mount takes longer, so that what was half written is nearly always whole or gone by then.
const SETTLE_TIME: Duration = Duration::from_secs(10);

/// Threads that read objects.
const THREADS: usize = 2;

/// The folder in a source that holds what mounts have left of claimants' folders.
const LEFTOVERS: &str = "attempts";

/// Checks everything in a source; prints what is wrong.
pub(super) fn fsck(arguments: &cli::Source) -> Outcome {
    if Placed::is_one(&arguments.source) {
        return super::backup::fsck(&arguments.source);
    }
    let shown = Shown::new("checking");
    if let Some(asked) = ask_folder(arguments, Work::Fsck, 0, &shown)? {
        return asked.print(shown);
    }
    let (_source, stores, runtime) = open(arguments, &shown)?;
    let upkeep = upkeep(&stores, &shown);
    let checked = if stores.are_shared() {
        // The pause begins when it is waited for, not here.
        let settle = async { tokio::time::sleep(SETTLE_TIME).await };
        runtime.block_on(upkeep.check_live(settle))
    } else {
        runtime.block_on(upkeep.check())
    };
    let checked = checked.map_err(failed)?;
    stores.close(runtime.handle());
    drop(shown);
    print(Verdict::from(&checked))
}

/// Removes what nothing needs; prints what it freed.
pub(super) fn gc(arguments: &cli::Gc) -> Outcome {
    let shown = Shown::new("looking for what nothing needs");
    if let Some(asked) = ask_folder(&arguments.source, Work::Gc, arguments.wait, &shown)? {
        return asked.print(shown);
    }
    let (source, stores, runtime) = open(&arguments.source, &shown)?;
    let upkeep = upkeep(&stores, &shown);
    let shared = stores.are_shared();
    let swept = if shared {
        let patience = Duration::from_secs(arguments.wait);
        runtime.block_on(upkeep.sweep_beside(&whoami(), patience))
    } else {
        runtime.block_on(upkeep.sweep())
    };
    stores.close(runtime.handle());
    drop(shown);
    print(Verdict::of_gc(&source, &swept.map_err(failed)?))?;
    if shared {
        return Ok(());
    }
    // The store's lock is ours: nobody works in these folders.
    let folder = source.join(LEFTOVERS);
    let shown = Shown::new("removing folders of former mounts");
    let left = remove_below(&folder, &|| shown.progress.step());
    let left = left.map_err(|error| Failure::Refused(format!("{}: {error}", folder.display())))?;
    drop(shown);
    if left > 0 {
        say(&format!(
            "removed {left} folders of former mounts from {}",
            folder.display()
        ))?;
    }
    Ok(())
}

/// Asks the daemon of a folder that is mounted; `None` for a cluster, and for a folder that nobody
/// has.
fn ask_folder(arguments: &cli::Source, work: Work, wait: u64, shown: &Shown) -> Result<Option<Asked>, Failure> {
    let source = &arguments.source;
    MountOptions::parse(source.clone(), PathBuf::from("/"), &arguments.options).map_err(Failure::Usage)?;
    if is_cluster(source) {
        return Ok(None);
    }
    ask(&canonical(source)?, work, wait, shown)
}

/// Looks after stores, and shows how far that is.
fn upkeep(stores: &Stores, shown: &Shown) -> Upkeep {
    let mut upkeep = Upkeep::new(stores.coordination.clone(), stores.contents.clone());
    upkeep.progress = shown.progress.clone();
    upkeep
}

/// The reason of one that could not be looked after.
pub(super) fn failed(error: crate::repository::Error) -> Failure {
    Failure::Refused(error.to_string())
}

/// A folder without symbolic links on the way.
pub(super) fn canonical(source: &Path) -> Result<PathBuf, Failure> {
    let explain = |error| Failure::Refused(format!("{}: {error}", source.display()));
    source.canonicalize().map_err(explain)
}

/// Prints what came of it.
pub(super) fn print(verdict: Verdict) -> Outcome {
    for line in &verdict.lines {
        say(line)?;
    }
    match verdict.end {
        Answer::Failed(reason) => Err(Failure::Refused(reason)),
        Answer::End(false) => Err(Failure::Told),
        _ => Ok(()),
    }
}

/// Opens a source: a cluster, or a folder that nobody else has open.
fn open(arguments: &cli::Source, shown: &Shown) -> Result<(PathBuf, Stores, Runtime), Failure> {
    let source = arguments.source.as_path();
    shown.progress.begin(format!("opening {}", source.display()));
    let options = MountOptions::parse(source.to_owned(), PathBuf::from("/"), &arguments.options);
    let options = options.map_err(Failure::Usage)?;
    options.cluster.check(source).map_err(Failure::Usage)?;
    let runtime = runtime()?;
    if is_cluster(source) {
        let stores = Stores::open(source, &options.cluster, None, runtime.handle()).map_err(Failure::Refused)?;
        return Ok((source.to_owned(), stores, runtime));
    }
    let (source, stores) = open_folder(source)?;
    Ok((source, stores, runtime))
}

/// Threads for the work.
pub(super) fn runtime() -> Result<Runtime, Failure> {
    let runtime = Builder::new_multi_thread().worker_threads(THREADS).enable_all().build();
    runtime.map_err(|error| Failure::Refused(format!("can't start threads: {error}")))
}

/// Opens a folder that nobody else has open.
pub(super) fn open_folder(source: &Path) -> Result<(PathBuf, Stores), Failure> {
    let source = canonical(source)?;
    // Whoever comes between is refused by the store's lock, or we are.
    let store = Embedded::open(&source).map_err(|error| Failure::Refused(error.to_string()))?;
    let stores = Stores::embedded(&store, &source);
    Ok((source, stores))
}

/// Prints a line.
pub(super) fn say(line: &dyn Display) -> Outcome {
    writeln!(std::io::stdout(), "{line}").map_err(|error| Failure::Refused(format!("standard output: {error}")))
}

/// Removes everything in a folder; how many things stood in it. `step` is told of each.
fn remove_below(folder: &Path, step: &dyn Fn()) -> std::io::Result<u64> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
        removed += 1;
        step();
    }
    Ok(removed)
}
