//! `distcifs up`: the daemon and its workers, kept alive until a signal.

use std::future::pending;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal as Number, kill};
use nix::sys::utsname::uname;
use nix::unistd::{Uid, User, geteuid};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::mount::{answered, hear, output_of, program, start};
use super::options::{MountOptions, places};
use super::progress::Shown;
use super::workers::{self, Plan, Worker, pid, reap, supervised};
use super::{Failure, Outcome, drain, mounts};
use crate::cli;
use crate::repository::deadline::Deadline;

/// How long workers may take to give back what they have, and the daemon to unmount.
const END_TIME: Duration = Duration::from_secs(5);

/// Between two looks at those who are ending: only then, and only for `END_TIME`.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Whom tasks of root's jobs run as if nobody says so: the first that this machine knows.
const USERS: [&str; 2] = ["distci", "nobody"];

/// Pauses before the daemon is started again when it can't be: at first, and at most.
const DAEMON_PAUSE_MIN: Duration = Duration::from_millis(100);
const DAEMON_PAUSE_MAX: Duration = Duration::from_secs(10);

/// Mounts, starts the workers, and keeps all of them alive until INT or TERM.
pub(super) fn up(arguments: cli::Up) -> Outcome {
    MountOptions::parse(arguments.source.clone(), PathBuf::from("/"), &arguments.options).map_err(Failure::Usage)?;
    let (source, mountpoint) = places(&arguments.source, &arguments.mountpoint).map_err(Failure::Refused)?;
    let plans = plans(&arguments, &mountpoint).map_err(Failure::Refused)?;
    mounts::detach_dead(&mountpoint).map_err(Failure::Refused)?;
    std::fs::create_dir_all(&mountpoint)
        .map_err(|error| Failure::Refused(format!("can't make {}: {error}", mountpoint.display())))?;
    // One thread: the kernel takes a parent's thread for the parent when it tells of its death.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Refused(format!("signals: {error}")))?;
    let house = House {
        source,
        mountpoint,
        options: arguments.options,
        plans,
        drain_for: Duration::from_secs(arguments.drain_for),
    };
    runtime.block_on(house.keep())
}

/// The workers that were asked for.
fn plans(arguments: &cli::Up, mountpoint: &Path) -> Result<Vec<Plan>, String> {
    let program = std::env::current_exe().map_err(|error| format!("my own program: {error}"))?;
    let variable = std::env::var_os("DISTCIFS_WORKERS");
    let folders = workers::folders(arguments.workers_dir.as_deref(), variable, &program);
    let number = match arguments.workers {
        Some(number) => usize::from(number),
        None => available_parallelism().map_or(1, usize::from),
    };
    let labels = if arguments.labels.is_empty() {
        machine_labels()?
    } else {
        arguments.labels.clone()
    };
    let mut words = labels;
    if !arguments.isolation.is_empty() {
        words.push(format!("--isolation={}", arguments.isolation.join(",")));
    }
    let user = jobs_of_root(arguments.jobs_of_root.as_deref(), geteuid(), known)?;
    let mut plans = workers::plans(&folders, mountpoint, number, &words, &arguments.with, user.as_deref())?;
    if let Some(address) = arguments.web {
        let token = (!geteuid().is_root()).then(web_token).transpose()?;
        plans.push(workers::web(&folders, mountpoint, address, token.as_deref())?);
    }
    Ok(plans)
}

/// Where the token of one's own web page is: who mounted sees everything in the tree, so his page is not for everybody
/// on the machine.
fn web_token() -> Result<PathBuf, String> {
    let folder = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let state = folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")));
    let state = state
        .ok_or("--web keeps a token below $HOME/.local/state: set HOME")?
        .join("distcifs");
    std::fs::create_dir_all(&state).map_err(|error| format!("--web: {}: {error}", state.display()))?;
    Ok(state.join("web.token"))
}

/// Whom tasks of root's jobs run as, if the workers are root's: each worker must be told.
fn jobs_of_root(
    chosen: Option<&str>,
    this: Uid,
    known: impl Fn(&str) -> Result<bool, String>,
) -> Result<Option<String>, String> {
    match chosen {
        Some(name) if !this.is_root() => Err(format!("--as {name} is for root, and you are not")),
        Some(name) if !known(name)? => Err(format!("--as {name}: this machine has no user of this name")),
        Some(name) => Ok(Some(name.to_owned())),
        None if !this.is_root() => Ok(None),
        None => {
            for name in USERS {
                if known(name)? {
                    return Ok(Some(name.to_owned()));
                }
            }
            let users = USERS.join(" or ");
            Err(format!(
                "say whom tasks of root's jobs run as: --as USER (there is no user {users})"
            ))
        }
    }
}

/// Whether there is a user of this name.
fn known(name: &str) -> Result<bool, String> {
    let found = User::from_name(name).map_err(|errno| format!("can't look for the user {name}: {errno}"))?;
    Ok(found.is_some())
}

/// System and processor, such as `linux x86_64`.
fn machine_labels() -> Result<Vec<String>, String> {
    let name = uname().map_err(|error| format!("uname: {error}"))?;
    let words = [name.sysname(), name.machine()];
    Ok(words.map(|word| word.to_string_lossy().to_lowercase()).into())
}

/// What is kept alive.
struct House {
    source: PathBuf,
    mountpoint: PathBuf,
    options: Vec<String>,
    plans: Vec<Plan>,
    drain_for: Duration,
}

/// The signals that `up` lives by.
struct Signals {
    child: Signal,
    interrupt: Signal,
    terminate: Signal,
    drain: Signal,
}

/// What ended a life of the daemon.
#[derive(PartialEq, Eq)]
enum Ended {
    /// INT or TERM to us.
    Signal,
    /// Its own end.
    Daemon,
    /// USR1 to us.
    Drain,
}

impl House {
    /// Life after life of the daemon, until a signal.
    async fn keep(&self) -> Outcome {
        let mut signals = Signals::new().map_err(|error| Failure::Refused(format!("signals: {error}")))?;
        let Some(mut daemon) = self.start_daemon(&mut signals).await? else {
            return Ok(());
        };
        loop {
            let place = self.mountpoint.display();
            println!(
                "distcifs: {place} is up: {} workers; stop with Ctrl-C",
                self.plans.len()
            );
            let mut workers: Vec<Worker> = self.plans.iter().cloned().map(Worker::new).collect();
            let mut left = None;
            let mut ended = signals.tend(&mut daemon, &mut workers).await;
            if ended == Ended::Drain {
                left = self.drain(&mut signals, &mut daemon, &mut workers).await;
                ended = Ended::Signal;
            }
            end_workers(&mut workers);
            if ended == Ended::Signal {
                self.end_daemon(&mut daemon)?;
                return left.map_or(Ok(()), |left| Err(Failure::Left(left)));
            }
            let Some(next) = self.start_again(&mut signals).await else {
                return Ok(());
            };
            daemon = next;
        }
    }

    /// Has the mount take no more work, and waits until what is worked is finished; what is left in
    /// the end. The workers need not be told: they are given nothing any more.
    async fn drain(&self, signals: &mut Signals, daemon: &mut Child, workers: &mut [Worker]) -> Option<String> {
        let (place, begun) = (self.mountpoint.display(), Instant::now());
        println!("distcifs: {place} takes no more work, and ends when what is worked is finished");
        let mountpoint = self.mountpoint.clone();
        if let Err(reason) = beside(move || drain::say(&mountpoint, "begin")).await {
            return Some(reason);
        }
        let shown = Shown::new("asking what is worked");
        loop {
            let mountpoint = self.mountpoint.clone();
            let left = match beside(move || drain::still_worked(&mountpoint)).await {
                Ok(left) if left.is_empty() => return None,
                Ok(left) => left,
                Err(reason) => return Some(reason),
            };
            drain::show(&shown.progress, &left, begun.elapsed(), self.drain_for);
            if begun.elapsed() >= self.drain_for {
                return Some(drain::told(&self.mountpoint, &left, self.drain_for));
            }
            let look = Deadline::after(drain::LOOK_EVERY);
            let tended = look.wait(signals.tend(daemon, workers)).await;
            match tended {
                Some(Ended::Signal) => return Some(drain::told(&self.mountpoint, &left, begun.elapsed())),
                Some(Ended::Daemon) => return Some(format!("{place}: the daemon died; what was worked begins anew")),
                Some(Ended::Drain) | None => {}
            }
        }
    }

    /// Starts the daemon and waits until it answers; `None` when a signal ends it.
    async fn start_daemon(&self, signals: &mut Signals) -> Result<Option<Child>, Failure> {
        let program = program()?.get_program().to_owned();
        let mut line = vec![program, "mount".into(), "-f".into()];
        line.extend(["--child".into(), "supervised".into()]);
        line.extend(self.options.iter().flat_map(|value| ["-o".into(), value.into()]));
        line.extend([
            "--".into(),
            self.source.clone().into_os_string(),
            self.mountpoint.clone().into_os_string(),
        ]);
        let mut daemon = start(supervised(&line)?)?;
        let (shown, output) = (Shown::new("starting the daemon"), output_of(&mut daemon)?);
        let progress = shown.progress.clone();
        let heard = tokio::task::spawn_blocking(move || hear(output, &progress));
        let reason = tokio::select! {
            reason = heard => Some(reason.map_err(|error| Failure::Refused(error.to_string()))?),
            () = signals.told() => None,
        };
        drop(shown);
        let Some(reason) = reason else {
            self.end_daemon(&mut daemon)?;
            // It may have ended between the mount and its first answer.
            mounts::detach_dead(&self.mountpoint).map_err(Failure::Refused)?;
            return Ok(None);
        };
        answered(&mut daemon, reason)?;
        Ok(Some(daemon))
    }

    /// Starts the daemon after its death, however often it takes; `None` when a signal ends it.
    async fn start_again(&self, signals: &mut Signals) -> Option<Child> {
        let mut pause = DAEMON_PAUSE_MIN;
        loop {
            if let Err(reason) = mounts::detach_dead(&self.mountpoint) {
                eprintln!("distcifs: {reason}");
            }
            match self.start_daemon(signals).await {
                Ok(daemon) => return daemon,
                Err(reason) => {
                    eprintln!("distcifs: the daemon can't be started: {reason}; again in {pause:?}")
                }
            }
            if signals.told_within(pause).await {
                return None;
            }
            pause = (pause * 2).min(DAEMON_PAUSE_MAX);
        }
    }

    /// Has the daemon unmount and end.
    fn end_daemon(&self, daemon: &mut Child) -> Outcome {
        // It may have ended by itself.
        kill(pid(daemon), Number::SIGTERM).ok();
        if within(END_TIME, || reap(daemon).is_some()) {
            return Ok(());
        }
        daemon.kill().ok();
        daemon.wait().ok();
        mounts::detach_dead(&self.mountpoint).map_err(Failure::Refused)?;
        Err(Failure::Refused(format!(
            "the daemon did not end within {END_TIME:?} and was killed"
        )))
    }
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Signals {
            child: signal(SignalKind::child())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            drain: signal(SignalKind::user_defined1())?,
        })
    }

    /// Starts workers again when they die, until the daemon does or a signal comes.
    async fn tend(&mut self, daemon: &mut Child, workers: &mut [Worker]) -> Ended {
        loop {
            if let Some(status) = reap(daemon) {
                eprintln!("distcifs: the daemon ended ({status}); it and the workers are started again");
                return Ended::Daemon;
            }
            // A worker that has just died is given its next start by the same call.
            let next = workers.iter_mut().filter_map(Worker::tend).min();
            tokio::select! {
                _ = self.child.recv() => {}
                () = sleep_until(next) => {}
                _ = self.interrupt.recv() => return Ended::Signal,
                _ = self.terminate.recv() => return Ended::Signal,
                _ = self.drain.recv() => return Ended::Drain,
            }
        }
    }

    /// Until INT or TERM comes.
    async fn told(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Whether INT or TERM comes within a time.
    async fn told_within(&mut self, time: Duration) -> bool {
        Deadline::after(time).wait(self.told()).await.is_some()
    }
}

/// Does what a stuck daemon might hold up on a thread of its own, for a while.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work);
    match Deadline::after(END_TIME).wait(done).await {
        Some(Ok(done)) => done,
        Some(Err(error)) => Err(error.to_string()),
        None => Err(format!("the daemon did not answer within {END_TIME:?}")),
    }
}

/// Until a moment, or for ever without one.
async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => pending().await,
    }
}

/// Asks all workers to end; after a while they are made to, with all that they started.
fn end_workers(workers: &mut [Worker]) {
    workers.iter().for_each(Worker::ask_to_end);
    within(END_TIME, || !workers.iter_mut().any(Worker::runs));
    workers.iter_mut().for_each(Worker::kill);
}

/// Whether something comes true within a time.
fn within(time: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Deadline::after(time);
    while !done() {
        if deadline.passed() {
            return false;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "`up` passes distci, else nobody; `--as root` asks for root by name."
    #[test]
    fn tasks_of_roots_jobs_are_not_root_unless_somebody_says_so() {
        let root = Uid::from_raw(0);
        let user = |chosen, this, there: &'static [&str]| jobs_of_root(chosen, this, |name| Ok(there.contains(&name)));
        let everybody = &["root", "nobody", "distci", "ci"][..];
        assert_eq!(user(None, root, everybody).unwrap().as_deref(), Some("distci"));
        assert_eq!(
            user(None, root, &["root", "nobody"]).unwrap().as_deref(),
            Some("nobody")
        );
        assert_eq!(user(Some("ci"), root, everybody).unwrap().as_deref(), Some("ci"));
        assert_eq!(user(Some("root"), root, everybody).unwrap().as_deref(), Some("root"));
        assert!(user(None, root, &["root"]).unwrap_err().contains("--as USER"));
        assert!(user(Some("x"), root, everybody).unwrap_err().contains("no user"));
        let other = Uid::from_raw(1000);
        assert_eq!(user(None, other, everybody).unwrap(), None);
        assert!(user(Some("ci"), other, everybody).is_err());
    }
}
