//! `distcifs fsck` and `distcifs gc`.

use std::fmt::Display;
use std::future::Future;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use super::ask::{Asked, ask, whoami};
use super::cluster::is_cluster;
use super::options::MountOptions;
use super::stores::Stores;
use super::wire::{Answer, Verdict, Work};
use super::{Failure, Outcome};
use crate::backend::embedded::{Embedded, Placed};
use crate::cli;
use crate::repository::maintain::{Progress, Upkeep};

/// How long work may take before it shows on a terminal how far it is, and how often then.
const QUIET_TIME: Duration = Duration::from_secs(2);
const SHOW_EVERY: Duration = Duration::from_millis(500);

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
    if let Some(mut asked) = ask_folder(arguments, Work::Fsck, 0)? {
        return if asked.print()? { Ok(()) } else { Err(Failure::Told) };
    }
    let (_source, stores, runtime) = open(arguments)?;
    let upkeep = Upkeep::new(stores.coordination.clone(), stores.contents.clone());
    let checked = if stores.are_shared() {
        // The pause begins when it is waited for, not here.
        let settle = async { tokio::time::sleep(SETTLE_TIME).await };
        watched(&runtime, &upkeep.progress, upkeep.check_live(settle))?
    } else {
        watched(&runtime, &upkeep.progress, upkeep.check())?
    };
    stores.close(runtime.handle());
    print(Verdict::from(&checked))
}

/// Removes what nothing needs; prints what it freed.
pub(super) fn gc(arguments: &cli::Gc) -> Outcome {
    if let Some(mut asked) = ask_folder(&arguments.source, Work::Gc, arguments.wait)? {
        return if asked.print()? { Ok(()) } else { Err(Failure::Told) };
    }
    let (source, stores, runtime) = open(&arguments.source)?;
    let upkeep = Upkeep::new(stores.coordination.clone(), stores.contents.clone());
    let shared = stores.are_shared();
    let swept = if shared {
        let patience = Duration::from_secs(arguments.wait);
        watched(&runtime, &upkeep.progress, upkeep.sweep_beside(&whoami(), patience))
    } else {
        watched(&runtime, &upkeep.progress, upkeep.sweep())
    };
    stores.close(runtime.handle());
    print(Verdict::of_gc(&source, &swept?))?;
    if shared {
        return Ok(());
    }
    // The store's lock is ours: nobody works in these folders.
    let folder = source.join(LEFTOVERS);
    let left = remove_below(&folder).map_err(|error| Failure::Refused(format!("{}: {error}", folder.display())))?;
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
fn ask_folder(arguments: &cli::Source, work: Work, wait: u64) -> Result<Option<Asked>, Failure> {
    let source = &arguments.source;
    MountOptions::parse(source.clone(), PathBuf::from("/"), &arguments.options).map_err(Failure::Usage)?;
    if is_cluster(source) {
        return Ok(None);
    }
    ask(&canonical(source)?, work, wait)
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
fn open(arguments: &cli::Source) -> Result<(PathBuf, Stores, Runtime), Failure> {
    let source = arguments.source.as_path();
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

/// Does the work, and shows on a terminal how far it is.
pub(super) fn watched<T>(
    runtime: &Runtime,
    progress: &Arc<Progress>,
    work: impl Future<Output = crate::repository::Result<T>>,
) -> Result<T, Failure> {
    let (end, ended) = mpsc::channel::<()>();
    let shown = progress.clone();
    let shower = std::thread::spawn(move || {
        let mut pause = QUIET_TIME;
        while std::io::stderr().is_terminal() && ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
            let (doing, done) = shown.now();
            eprint!("\r\x1b[K{doing}: {done}");
            pause = SHOW_EVERY;
        }
        if pause == SHOW_EVERY {
            eprint!("\r\x1b[K");
        }
    });
    let done = runtime.block_on(work);
    drop(end);
    // It only prints: how it ended does not matter.
    shower.join().ok();
    done.map_err(|error| Failure::Refused(error.to_string()))
}

/// Prints a line.
pub(super) fn say(line: &dyn Display) -> Outcome {
    writeln!(std::io::stdout(), "{line}").map_err(|error| Failure::Refused(format!("standard output: {error}")))
}

/// Removes everything in a folder; how many things stood in it.
fn remove_below(folder: &Path) -> std::io::Result<u64> {
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
    }
    Ok(removed)
}
