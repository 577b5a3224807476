//! The process that serves a mount, from the lock of its source to the unmount.

use std::fs::{DirBuilder, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::Flock;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{dup2_stderr, dup2_stdout, geteuid, setsid};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::cluster::is_cluster;
use super::desk::Desk;
use super::log::{self, LogFile};
use super::mount::{ANSWERS, DOING, TELLS};
use super::mounts::{self, Probe, Refusal};
use super::options::MountOptions;
use super::stores::Stores;
use super::{Failure, Outcome, lock, notify, open_tree};
use crate::cli::Child;
use crate::fuse::session::{Mounted, Settings, advice, mount};
use crate::repository::deadline::Deadline;

/// Threads that run what has to wait; they never block, and a build machine has other work.
const RUNTIME_THREADS: usize = 2;

/// Threads for calls of the system that block (local files, stores with a synchronous client).
const BLOCKING_THREADS_MAX: usize = 64;

/// How long the mount may take from mount(2) to its first answer.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// How long a daemon that is ending may hold the source while the next one starts.
const SOURCE_PATIENCE: Duration = Duration::from_secs(2);

/// How long users of a detached mount may finish what they have under way.
const DETACHED_TIME: Duration = Duration::from_secs(1);

/// How long tasks may hold up the end of the runtime.
const RUNTIME_END_TIME: Duration = Duration::from_secs(2);

/// Mounts and serves until the mount is gone or a signal ends it.
pub(super) fn serve(options: &MountOptions, told: Option<Child>, foreground: bool) -> Result<(), String> {
    if told == Some(Child::Background) {
        setsid().map_err(|error| format!("a session of my own: {error}"))?;
    }
    free_place(&options.mountpoint)?;
    let source = options.source.display();
    tell_doing(told, &format!("waiting until the former mount has let go of {source}"));
    let _own = own_state(options)?;
    tell_doing(told, &format!("opening {source}"));
    let log = log::start(log_path(options, foreground).as_deref(), &options.log_level)?;
    prepare_process()?;
    let runtime = runtime()?;
    let session_file = is_cluster(&options.source).then(|| options.state.join("session"));
    let stores = Stores::open(
        &options.source,
        &options.cluster,
        session_file.as_deref(),
        runtime.handle(),
    )?;
    tell_doing(told, "looking at what goes on from before");
    let tree = open_tree(options, &stores, runtime.handle())?;
    let desk = stores.folder.as_ref();
    let desk = desk
        .map(|store| Desk::open(&options.source, store, &tree.repository))
        .transpose()?;
    tell_doing(told, &format!("mounting {}", options.mountpoint.display()));
    let served = match mount(Arc::clone(&tree), &settings(options), runtime.handle().clone()) {
        Ok(mounted) => run(&runtime, options, mounted, told, log.as_deref()),
        Err(error) => Err(advice(&error, &options.mountpoint)),
    };
    // No request comes any more.
    desk.into_iter().for_each(Desk::close);
    drop(tree);
    stores.close(runtime.handle());
    runtime.shutdown_timeout(RUNTIME_END_TIME);
    served
}

/// Says what comes next, to the parent if there is one that listens.
fn tell_doing(told: Option<Child>, doing: &str) {
    if told.is_some() && std::env::var_os(TELLS).is_some() {
        // One line, whatever names are in it. Whoever started us may be gone; that is no reason to end.
        writeln!(std::io::stdout(), "{DOING}{}", doing.replace('\n', "?")).ok();
    }
}

/// Says why there is no mount: to the parent if there is one that listens.
pub(super) fn tell_failure(told: Option<Child>, reason: String) -> Outcome {
    tracing::error!("{reason}");
    if told.is_some() && writeln!(std::io::stdout(), "{reason}").is_ok() {
        return Err(Failure::Told);
    }
    Err(Failure::Refused(reason))
}

/// Makes sure that something can be mounted here.
fn free_place(mountpoint: &Path) -> Result<(), String> {
    mounts::detach_dead(mountpoint)?;
    let place = mountpoint.display();
    if let Some(entry) = mounts::find(mountpoint)?.filter(mounts::MountEntry::is_ours) {
        let source = entry.source.display();
        return Err(format!(
            "{place}: {source} is mounted there already; `distcifs umount {place}` first"
        ));
    }
    match std::fs::metadata(mountpoint) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => Err(format!("{place}: the mount point must be a folder")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(format!(
            "{place}: there is no such folder; make it first: mkdir -p {place}"
        )),
        Err(error) => Err(format!("{place}: {error}")),
    }
}

/// Takes the folder in which the mount keeps what is its own; it is let go with the process.
///
/// A source that is a folder has a lock of its own in its store, which is waited for only.
fn own_state(options: &MountOptions) -> Result<Option<Flock<File>>, String> {
    let free = lock::wait_free(&options.state, SOURCE_PATIENCE);
    if !is_cluster(&options.source) {
        return Ok(None);
    }
    let place = options.state.display();
    if !free {
        return Err(format!(
            "{place}: another mount of this machine uses it; give this one another name with -o node=NAME"
        ));
    }
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&options.state);
    made.map_err(|error| format!("{place}: {error}; say with -o state=DIR where this mount may keep what is its own"))?;
    lock::take(&options.state).map(Some)
}

/// Where the log goes; `None` is standard error.
fn log_path(options: &MountOptions, foreground: bool) -> Option<std::path::PathBuf> {
    match (&options.log, foreground) {
        (Some(path), _) => Some(path.clone()),
        (None, true) => None,
        (None, false) => Some(options.state.join("log")),
    }
}

/// What a daemon's process has that a command's has not.
fn prepare_process() -> Result<(), String> {
    std::env::set_current_dir("/").map_err(|error| format!("/: {error}"))?;
    // The kernel has applied the callers' umasks already; files of ours say their modes.
    umask(Mode::empty());
    // Each open file of each user is a descriptor of ours.
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!("{soft} open files at most: {error}");
    }
    Ok(())
}

fn runtime() -> Result<Runtime, String> {
    Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name("distcifs")
        .enable_all()
        .build()
        .map_err(|error| format!("can't start threads: {error}"))
}

fn settings(options: &MountOptions) -> Settings {
    Settings {
        name: options.source.to_string_lossy().into_owned(),
        mountpoint: options.mountpoint.clone(),
        allow_other: options.allow_other.unwrap_or_else(|| geteuid().is_root()),
        passthrough: options.passthrough,
        read_only: options.read_only,
        no_exec: options.no_exec,
        no_atime: options.no_atime,
    }
}

/// From the first answer to the unmount.
fn run(
    runtime: &Runtime,
    options: &MountOptions,
    mounted: Mounted,
    told: Option<Child>,
    log: Option<&LogFile>,
) -> Result<(), String> {
    let place = &options.mountpoint;
    let mut signals = runtime.block_on(async { Signals::new() })?;
    if mounts::probe_for(place, ANSWER_TIME) != Probe::Alive {
        unmount(place);
        return Err(format!(
            "{}: mounted, but without an answer for {ANSWER_TIME:?}",
            place.display()
        ));
    }
    if nix::unistd::geteuid().is_root()
        && let Err(error) = mounts::widen_readahead(place)
    {
        // A container may withhold it; it is slower so, and no more.
        tracing::debug!("the kernel reads 128 KiB ahead: {error}");
    }
    tracing::info!("{} is mounted on {}", options.source.display(), place.display());
    match told {
        Some(child) => tell_answer(child)?,
        None => notify::ready(),
    }
    let mut ended = mounted.ended;
    if runtime.block_on(signals.wait(&mut ended, log)) == Ended::Signal {
        if told.is_none() {
            notify::stopping();
        }
        unmount(place);
        // A detached mount goes on while somebody is inside; they get ENOTCONN when we end.
        runtime.block_on(async { Deadline::after(DETACHED_TIME).wait(&mut ended).await });
    }
    tracing::info!("{} is unmounted", place.display());
    Ok(())
}

/// Tells the parent, and lets go of what we have from it.
fn tell_answer(child: Child) -> Result<(), String> {
    // Whoever started us may be gone; the mount stands all the same.
    writeln!(std::io::stdout(), "{ANSWERS}").ok();
    let explain = |error: &dyn std::fmt::Display| format!("/dev/null: {error}");
    let null = File::options()
        .write(true)
        .open("/dev/null")
        .map_err(|error| explain(&error))?;
    dup2_stdout(null.as_fd()).map_err(|error| explain(&error))?;
    if child == Child::Background {
        dup2_stderr(null.as_fd()).map_err(|error| explain(&error))?;
    }
    Ok(())
}

/// Unmounts our own mount; lazily if somebody is inside.
fn unmount(place: &Path) {
    let unmounted = match mounts::unmount(place, false) {
        Err(Refusal::Busy) => {
            tracing::info!("{} is busy: detached", place.display());
            mounts::unmount(place, true)
        }
        other => other,
    };
    if let Err(Refusal::Other(reason)) = unmounted {
        tracing::warn!("{reason}");
    }
}

/// Why the waiting is over.
#[derive(PartialEq, Eq)]
enum Ended {
    /// Somebody unmounted.
    Unmounted,
    /// INT or TERM.
    Signal,
}

/// The signals that a daemon listens to.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self, String> {
        let listen = |kind| signal(kind).map_err(|error| format!("signals: {error}"));
        Ok(Signals {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for the end; on HUP the log is opened anew.
    async fn wait(&mut self, ended: &mut oneshot::Receiver<()>, log: Option<&LogFile>) -> Ended {
        loop {
            tokio::select! {
                _ = &mut *ended => return Ended::Unmounted,
                _ = self.interrupt.recv() => return Ended::Signal,
                _ = self.terminate.recv() => return Ended::Signal,
                _ = self.hang_up.recv() => {
                    if let Some(Err(error)) = log.map(LogFile::reopen) {
                        tracing::warn!("the log can't be opened anew: {error}");
                    }
                }
            }
        }
    }
}
