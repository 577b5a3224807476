//! execute-shell: runs the script of one ticket after the other.

use std::fs;
use std::io::{self, Read, pipe};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::console::Copier;
use crate::signals::{self, Wake};
use crate::supervise::{Exit, Processes, become_subreaper};
use crate::ticket::Claimed;
use crate::tree::{self, Tree, Trouble};

pub mod cgroup;
pub mod environment;
pub mod isolation;
pub mod limits;
mod prepare;
pub mod state;

use cgroup::{Cgroups, Group};
use isolation::{Ids, Isolations, Tools};
use state::{Run, State};

/// The queue of this worker.
pub const QUEUE: &str = "execute-shell";

/// From TERM to KILL for a script that must end before its time: what job.md promises.
const GRACE: Duration = Duration::from_secs(10);

/// From TERM to KILL for what a script left behind; it had its time.
const LEFTOVER_GRACE: Duration = Duration::from_secs(1);

/// How long output of processes out of our reach is waited for after the end.
const DRAIN_BOUND: Duration = Duration::from_secs(1);

/// How long a script runs before its claim is watched: most are over by then and cost no thread.
const WATCH_AFTER: Duration = Duration::from_millis(100);

/// Pause of the watcher after an error or an answer that came at once: reads are held for a second,
/// and a tree that does not hold them must not be asked thousands of times.
const WATCH_PAUSE: Duration = Duration::from_millis(300);

/// Longest reason that an environment can give, bytes: it becomes the message of a result.
const REASON_BYTES_MAX: u64 = 4096;

/// How a worker is set up.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// What it has, besides its isolations.
    pub labels: Vec<String>,
    /// The isolations it takes; none named: all that work here.
    pub isolation: Vec<String>,
    /// Folders with environments, before the usual ones.
    pub environments: Vec<PathBuf>,
    /// Where it keeps its state; `None`: the usual folder.
    pub state: Option<PathBuf>,
}

/// Runs until TERM or INT, or to the end of a script after USR1 (`Ok`), or until the tree is away (`Err`).
///
/// # Errors
/// `Refused` if it can't work here at all, else `Away`.
pub fn run(tree: &Tree, setup: &Setup) -> tree::Result<()> {
    let cant = |e: io::Error| Trouble::Refused(format!("can't start: {e}"));
    let wake = signals::install().map_err(cant)?;
    become_subreaper().map_err(cant)?;
    let state = State::open(setup.state.as_deref()).map_err(cant)?;
    let run = state.begin().map_err(cant)?;
    let cache = state.cache();
    let tools = Tools {
        ids: Ids::find(),
        cache: &cache,
    };
    let isolations = Isolations::find(&setup.environments, &setup.isolation, &tools).map_err(Trouble::Refused)?;
    let cgroups = Cgroups::find();
    let labels: Vec<String> = setup.labels.iter().cloned().chain(isolations.labels()).collect();
    let mut next = tree.next(QUEUE, &labels)?;
    while !signals::stopping() && !signals::finishing() {
        let id = next.next_line()?;
        if id.is_empty() {
            continue;
        }
        let claimed = Claimed {
            folder: tree.ticket(QUEUE, &id),
        };
        let shell = Shell {
            claimed,
            since: Instant::now(),
            run: &run,
            tools,
            isolations: &isolations,
            cgroups: &cgroups,
            wake: &wake,
        };
        shell.work()?;
    }
    Ok(())
}

/// Removes what workers that were killed left on this node.
pub fn sweep(setup: &Setup) {
    let swept = State::open(setup.state.as_deref()).and_then(|state| state.sweep());
    if let Err(error) = swept {
        eprintln!("execute-shell: what the killed worker left is not removed: {error}");
    }
}

/// Why a script is over.
enum Over {
    /// It ended.
    Ended(Exit),
    /// Its time was up.
    TimedOut,
    /// The ticket was aborted, or is another's.
    Lost,
    /// The worker was told to end.
    Stopped,
}

/// A script about to start.
struct Prepared {
    command: Command,
    isolated: bool,
    group: Option<Group>,
    deadline: Option<Instant>,
    timeout: f64,
}

/// One claimed ticket.
struct Shell<'a> {
    claimed: Claimed,
    since: Instant,
    run: &'a Run,
    tools: Tools<'a>,
    isolations: &'a Isolations,
    cgroups: &'a Cgroups,
    wake: &'a Wake,
}

impl Shell<'_> {
    /// Works on it to its end. Errors: only `Away`.
    fn work(&self) -> tree::Result<()> {
        if signals::stopping() {
            self.claimed.give_back();
            return Ok(());
        }
        let done = self.prepare().and_then(|prepared| self.carry_out(prepared));
        if !self.run.clean() {
            eprintln!(
                "execute-shell: {}: something of it can't be removed yet",
                self.claimed.folder.display()
            );
        }
        match done {
            Ok(()) => Ok(()),
            Err(Trouble::Away(why)) => Err(Trouble::Away(why)),
            Err(Trouble::Lost(_)) => Ok(()),
            Err(Trouble::Later(why)) => {
                eprintln!("execute-shell: {why}; the ticket is given back");
                self.claimed.give_back();
                Ok(())
            }
            Err(Trouble::Refused(why)) => self.refuse(&why),
        }
    }

    /// The outcome `error`, with the reason in the console too.
    fn refuse(&self, why: &str) -> tree::Result<()> {
        let written = tree::open_console(&self.claimed.folder)
            .and_then(|mut console| io::Write::write_all(&mut console, format!("{why}\n").as_bytes()));
        // The result says it as well.
        drop(written);
        self.claimed.finish("error", why)
    }

    fn carry_out(&self, prepared: Prepared) -> tree::Result<()> {
        let Prepared {
            mut command,
            isolated,
            group,
            deadline,
            timeout,
        } = prepared;
        let start = || -> io::Result<(Copier, Processes)> {
            let (reader, writer) = pipe()?;
            command.stdout(writer.try_clone()?).stderr(writer);
            let copier = Copier::start(reader, self.claimed.folder.clone())?;
            // If this fails the writer is dropped with the command, and the copier ends.
            let child = command.spawn()?;
            drop(command);
            let processes = if isolated { Processes::isolated } else { Processes::new };
            Ok((copier, processes(child.id())))
        };
        let (copier, mut processes) = start().map_err(|e| Trouble::Refused(format!("can't run the script: {e}")))?;
        let over = self.supervise(&mut processes, &copier, deadline);
        let grace = if matches!(over, Over::Ended(_)) {
            LEFTOVER_GRACE
        } else {
            GRACE
        };
        let killed_for_memory = group.as_ref().map_or(0, Group::killed_for_memory);
        let over_forking = || group.iter().for_each(Group::stop_forking);
        if !processes.end_all(grace, self.wake, over_forking) {
            eprintln!(
                "execute-shell: {}: a process can't be killed",
                self.claimed.folder.display()
            );
        }
        let drained = Instant::now() + DRAIN_BOUND;
        while !copier.is_done() && Instant::now() < drained {
            self.wake.wait(Some(drained.saturating_duration_since(Instant::now())));
        }
        let lost = copier.is_lost();
        copier.finish();
        match over {
            Over::Lost => Ok(()),
            _ if lost => Ok(()),
            Over::Stopped => {
                self.claimed.give_back();
                Ok(())
            }
            Over::TimedOut => self.claimed.finish("failure", &format!("timed out after {timeout} s")),
            Over::Ended(exit) => match self.reason() {
                Some(why) => self.claimed.finish("error", &why),
                None => {
                    let (status, message) = outcome(exit, killed_for_memory);
                    self.claimed.finish(&status.to_string(), &message)
                }
            },
        }
    }

    /// Why the environment could not do its work, if it says so.
    fn reason(&self) -> Option<String> {
        let mut text = Vec::new();
        let file = fs::File::open(self.run.error()).ok()?;
        file.take(REASON_BYTES_MAX).read_to_end(&mut text).ok()?;
        let text = String::from_utf8_lossy(&text);
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    /// Waits for the first reason why the script is over.
    fn supervise(&self, processes: &mut Processes, copier: &Copier, deadline: Option<Instant>) -> Over {
        let lost = Arc::new(AtomicBool::new(false));
        let mut watch_at = Some(Instant::now() + WATCH_AFTER);
        let over = loop {
            if let Some(exit) = processes.ended() {
                break Over::Ended(exit);
            }
            let now = Instant::now();
            if copier.is_lost() || lost.load(Ordering::Acquire) {
                break Over::Lost;
            }
            if signals::stopping() {
                break Over::Stopped;
            }
            if deadline.is_some_and(|at| now >= at) {
                break Over::TimedOut;
            }
            if watch_at.is_some_and(|at| now >= at) {
                watch_at = None;
                self.watch(&lost);
            }
            let until = [deadline, watch_at].into_iter().flatten().min();
            self.wake.wait(until.map(|at| at.saturating_duration_since(now)));
        };
        // The watcher ends: the only other owner of the flag is gone.
        drop(lost);
        over
    }

    /// Watches for the end of the claim, in a thread that ends with the ticket.
    fn watch(&self, lost: &Arc<AtomicBool>) {
        let weak = Arc::downgrade(lost);
        let (path, claim) = (self.claimed.folder.join(".wait"), self.claimed.folder.join("claim"));
        let spawned = thread::Builder::new().spawn(move || {
            let mut ours = None;
            while weak.strong_count() > 0 {
                let asked = Instant::now();
                // The ticket may be open again, or another's: then it has no result, but another claim.
                let answer = tree::read(&claim).and_then(|text| {
                    if *ours.get_or_insert_with(|| text.clone()) == text {
                        tree::read(&path)
                    } else {
                        Err(Trouble::Lost("another has the ticket".to_owned()))
                    }
                });
                match answer {
                    Ok(text) if text.is_empty() && asked.elapsed() < WATCH_PAUSE => thread::sleep(WATCH_PAUSE),
                    Ok(text) if text.is_empty() => {}
                    Err(Trouble::Later(_)) => thread::sleep(WATCH_PAUSE),
                    Ok(_) | Err(_) => {
                        if let Some(lost) = weak.upgrade() {
                            lost.store(true, Ordering::Release);
                        }
                        signals::wake();
                        return;
                    }
                }
            }
        });
        if let Err(error) = spawned {
            eprintln!("execute-shell: the claim is not watched: {error}");
        }
    }
}

/// Exit status and message of a script.
fn outcome(exit: Exit, killed_for_memory: u64) -> (i32, String) {
    let (status, mut message) = match exit {
        Exit::Status(0) => return (0, String::new()),
        Exit::Status(status) => (status, format!("exit {status}")),
        Exit::Signal(signal) => (
            128 + signal as i32,
            format!("killed by signal {} ({signal})", signal as i32),
        ),
    };
    if killed_for_memory > 0 {
        message += "; the kernel killed a process of it, its limit of memory being used up";
    }
    (status, message)
}
