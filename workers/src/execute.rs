//! Running one command for a ticket: its output, its time, its claim, and its end.

use std::fs::File;
use std::io::{self, pipe};
use std::os::fd::AsFd;
use std::os::unix::fs::fchown;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use distcifs_settings::task::TaskSettings;

use crate::console::{Copied, Copier, Dropped, Shelf};
use crate::shell::cgroup::Group;
use crate::signals::{self, Wake};
use crate::spawn;
use crate::supervise::{Exit, Processes};
use crate::ticket::Claimed;
use crate::tree::{self, Trouble};

/// From TERM to KILL for a script that must end before its time, unless its task says: what job.md promises.
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

/// The status of a script that could not begin, and how the line that says why begins.
const NOT_BEGUN: i32 = 127;
const NOT_BEGUN_HEAD: &str = "execute-shell: ";

/// What the watcher of a claim has seen: nothing, that the ticket was aborted, that it is not ours.
const HELD: u8 = 0;
const ABORTED: u8 = 1;
const LOST: u8 = 2;

/// Why a command is over.
#[derive(Debug, PartialEq)]
pub enum Over {
    /// It ended.
    Ended(Exit),
    /// Its time was up.
    TimedOut,
    /// The ticket was aborted: it is to be ended, while it is still ours.
    Aborted,
    /// The ticket is another's, or has its result.
    Lost,
    /// The worker was told to end, or the store was away for longer than its output can wait: the ticket is to be
    /// given back.
    Stopped,
}

impl Over {
    /// The same, once it is known whether the claim is lost and what of its output is not stored. Who aborted it
    /// wants no other attempt.
    fn with_output(self, lost: bool, dropped: Option<&Dropped>) -> Self {
        match (self, dropped) {
            _ if lost => Over::Lost,
            (Over::Ended(_) | Over::TimedOut, Some(dropped)) if dropped.away => Over::Stopped,
            (over, _) => over,
        }
    }
}

/// How a command ended.
pub struct Ended {
    /// Why.
    pub over: Over,
    /// How many of its processes were killed because its memory was used up.
    pub killed_for_memory: u64,
    /// What of its output the console could not take, if that is something.
    pub dropped: Option<Dropped>,
    /// The last line of its output.
    pub last: String,
}

impl Ended {
    /// Outcome and message of a command that ended so.
    pub fn outcome(&self, exit: Exit) -> (String, String) {
        let (status, mut message) = match exit {
            Exit::Status(0) => (0, String::new()),
            Exit::Status(status) => (status, format!("exit {status}")),
            Exit::Signal(signal) => (exit.status(), format!("killed by signal {} ({signal})", signal as i32)),
        };
        // A script that can say this line itself changes nothing but its own message.
        if status == NOT_BEGUN && self.last.starts_with(NOT_BEGUN_HEAD) {
            message = format!("{message}: {}", &self.last[NOT_BEGUN_HEAD.len()..]);
        }
        if self.killed_for_memory > 0 && status != 0 {
            message += "; the kernel killed a process of it, its limit of memory being used up";
        }
        self.unless_dropped(&status.to_string(), &message)
    }

    /// Outcome and message of one that was aborted.
    pub fn aborted(&self) -> (String, String) {
        let dropped = self.dropped.as_ref().map(Dropped::to_string);
        ("aborted".to_owned(), dropped.unwrap_or_default())
    }

    /// This outcome and message; `error` if output is missing, for nobody sees what it said.
    pub fn unless_dropped(&self, outcome: &str, message: &str) -> (String, String) {
        let Some(dropped) = &self.dropped else {
            return (outcome.to_owned(), message.to_owned());
        };
        let comma = if message.is_empty() { "" } else { "; " };
        ("error".to_owned(), format!("{message}{comma}{dropped}"))
    }
}

/// A command about to start.
pub struct Prepared {
    /// The command.
    pub command: Command,
    /// Whether it is started in a session of its own; else it does that itself, or is our own.
    pub in_session: bool,
    /// Whether the script is somewhere below it.
    pub isolated: bool,
    /// Who may open its output by a name, such as /dev/stderr; none: the worker.
    pub owner: Option<(u32, u32)>,
    /// What bounds it.
    pub group: Option<Group>,
    /// Where its standard output goes instead of the console.
    pub report: Option<File>,
}

impl Prepared {
    /// One of our own, without bounds.
    pub fn plain(command: Command) -> Self {
        Prepared {
            command,
            in_session: false,
            isolated: false,
            owner: None,
            group: None,
            report: None,
        }
    }
}

/// Who runs commands, and for which ticket.
#[derive(Debug, Clone)]
pub struct Runner<'a> {
    /// The worker's name, for messages.
    pub worker: &'static str,
    /// The ticket; its console takes what a command says.
    pub claimed: &'a Claimed,
    /// Wakes up when a child ended.
    pub wake: &'a Wake,
    /// Where its output waits while the console takes none.
    pub shelf: Shelf,
    /// How the ticket is worked on.
    pub settings: &'a TaskSettings,
}

/// Why a command was not started. What is not there (ENOENT) is the command's fault and no lost claim; a tree
/// that does not answer (EIO) is nobody's, and another worker may begin.
fn not_begun(error: &io::Error) -> Trouble {
    match Trouble::from_io("can't begin", error) {
        passing @ (Trouble::Later(_) | Trouble::Held(_) | Trouble::Away(_)) => passing,
        Trouble::Lost(why) | Trouble::Full(why) | Trouble::Refused(why) => Trouble::Refused(why),
    }
}

impl Runner<'_> {
    /// Runs a command until it ends, or until it must end, at the latest at the deadline; nothing of
    /// it is left then.
    ///
    /// # Errors
    /// `Refused` if it can't be started, `Later` or `Away` if only the tree or the node can't do it now, `Lost` if
    /// the claim is lost before it starts.
    pub fn execute(&self, prepared: Prepared, deadline: Option<Instant>) -> tree::Result<Ended> {
        let Prepared {
            mut command,
            in_session,
            isolated,
            owner,
            group,
            report,
        } = prepared;
        self.claimed.check()?;
        let start = || -> io::Result<(Copier, Processes)> {
            let (reader, writer) = pipe()?;
            if let Some((uid, gid)) = owner {
                fchown(&writer, Some(uid), Some(gid))?;
            }
            let copier = Copier::start(reader, self.claimed.clone(), self.shelf.clone())?;
            // If this fails the writer is dropped, and the copier ends.
            let pid = if in_session {
                let null = File::open("/dev/null")?;
                let output = report.as_ref().map_or(writer.as_fd(), AsFd::as_fd);
                spawn::in_session(&command, [null.as_fd(), output, writer.as_fd()])?
            } else {
                match report {
                    Some(report) => command.stdout(report),
                    None => command.stdout(writer.try_clone()?),
                };
                command.stderr(writer);
                let child = command.spawn()?;
                drop(command);
                child.id()
            };
            let processes = if isolated { Processes::isolated } else { Processes::new };
            Ok((copier, processes(pid)))
        };
        let (copier, mut processes) = start().map_err(|error| not_begun(&error))?;
        let over = self.supervise(&mut processes, &copier, deadline);
        let grace = match over {
            Over::Ended(_) => LEFTOVER_GRACE,
            Over::TimedOut | Over::Aborted => self.grace(),
            // Whoever told the worker to end waits no longer, and a ticket that is lost may be at work elsewhere.
            Over::Stopped | Over::Lost => self.grace().min(GRACE),
        };
        let killed_for_memory = group.as_ref().map_or(0, Group::killed_for_memory);
        let no_more = || group.iter().for_each(Group::stop_forking);
        if !processes.end_all(grace, self.wake, no_more) {
            eprintln!(
                "{}: {}: a process can't be killed",
                self.worker,
                self.claimed.folder.display()
            );
        }
        let drained = Instant::now() + DRAIN_BOUND;
        while !copier.is_done() && Instant::now() < drained {
            self.wake.wait(Some(drained.saturating_duration_since(Instant::now())));
        }
        let Copied { lost, dropped, last } = copier.finish();
        let over = over.with_output(lost, dropped.as_ref());
        if let (Over::Stopped, Some(dropped)) = (&over, &dropped) {
            let folder = self.claimed.folder.display();
            eprintln!("{}: {folder}: {dropped}; the ticket is given back", self.worker);
        }
        Ok(Ended {
            over,
            killed_for_memory,
            dropped,
            last,
        })
    }

    /// From TERM to KILL.
    fn grace(&self) -> Duration {
        self.settings.grace.map_or(GRACE, Duration::from_secs)
    }

    /// Waits for the first reason why the script is over.
    fn supervise(&self, processes: &mut Processes, copier: &Copier, deadline: Option<Instant>) -> Over {
        let seen = Arc::new(AtomicU8::new(HELD));
        let mut watch_at = Some(Instant::now() + WATCH_AFTER);
        let over = loop {
            if let Some(exit) = processes.ended() {
                break Over::Ended(exit);
            }
            let now = Instant::now();
            match seen.load(Ordering::Acquire) {
                HELD if !copier.is_lost() => {}
                ABORTED => break Over::Aborted,
                _ => break Over::Lost,
            }
            if signals::stopping() {
                break Over::Stopped;
            }
            if deadline.is_some_and(|at| now >= at) {
                break Over::TimedOut;
            }
            if watch_at.is_some_and(|at| now >= at) {
                watch_at = None;
                self.watch(&seen);
            }
            let until = [deadline, watch_at].into_iter().flatten().min();
            self.wake.wait(until.map(|at| at.saturating_duration_since(now)));
        };
        // The watcher ends: the only other owner of the flag is gone.
        drop(seen);
        over
    }

    /// Watches for an abort and for the end of the claim, in a thread that ends with the ticket.
    fn watch(&self, seen: &Arc<AtomicU8>) {
        let weak = Arc::downgrade(seen);
        let claimed = self.claimed.clone();
        let spawned = thread::Builder::new().spawn(move || {
            // In the folder of this claim: another's is not read there.
            let (path, claim) = (claimed.path(".wait"), claimed.path("claim"));
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
                    Err(Trouble::Later(_) | Trouble::Held(_) | Trouble::Full(_)) => thread::sleep(WATCH_PAUSE),
                    ended => {
                        if let Some(seen) = weak.upgrade() {
                            seen.store(if ended.is_ok() { ABORTED } else { LOST }, Ordering::Release);
                        }
                        signals::wake();
                        return;
                    }
                }
            }
        });
        if let Err(error) = spawned {
            eprintln!("{}: the claim is not watched: {error}", self.worker);
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;

    /// "Else what waited is lost, and the outcome is `error`, with the number of bytes and the reason": whatever the
    /// script ended with, but for an abort.
    #[test]
    fn output_that_is_missing_is_an_error() {
        let ended = |dropped| Ended {
            over: Over::Aborted,
            killed_for_memory: 0,
            dropped,
            last: String::new(),
        };
        let (bytes, why) = (7, "no room".to_owned());
        let some = ended(Some(Dropped {
            bytes,
            why,
            away: false,
        }));
        let said = "7 bytes of its console could not be stored: no room";
        let error = |message: String| ("error".to_owned(), message);
        assert_eq!(some.outcome(Exit::Status(0)), error(said.to_owned()));
        assert_eq!(some.outcome(Exit::Status(3)), error(format!("exit 3; {said}")));
        assert_eq!(
            some.unless_dropped("failure", "timed out"),
            error(format!("timed out; {said}"))
        );
        assert_eq!(some.aborted(), ("aborted".to_owned(), said.to_owned()));
        let none = ended(None);
        assert_eq!(none.outcome(Exit::Status(0)), ("0".to_owned(), String::new()));
        assert_eq!(none.outcome(Exit::Status(3)), ("3".to_owned(), "exit 3".to_owned()));
    }

    /// "Where nothing but the store's absence was in the way, the worker then gives the ticket back": an abort is no
    /// attempt to be made again, and a claim that is lost is nobody's to give.
    #[test]
    fn output_that_waited_for_an_absent_store_is_an_attempt_in_vain() {
        let dropped = |away| {
            Some(Dropped {
                bytes: 1,
                why: "away".to_owned(),
                away,
            })
        };
        let with = |over: Over, lost, dropped: Option<Dropped>| over.with_output(lost, dropped.as_ref());
        let ended = || Over::Ended(Exit::Status(0));
        assert_eq!(with(ended(), false, dropped(true)), Over::Stopped);
        assert_eq!(with(Over::TimedOut, false, dropped(true)), Over::Stopped);
        assert_eq!(with(Over::Aborted, false, dropped(true)), Over::Aborted);
        assert_eq!(with(ended(), true, dropped(true)), Over::Lost);
        assert_eq!(with(ended(), false, dropped(false)), ended());
        assert_eq!(with(ended(), false, None), ended());
    }

    /// A store that is away fails no task: the ticket is given back, and somebody begins it later. What can't
    /// be run at all is the task's own error.
    #[test]
    fn a_store_that_is_away_is_no_fault_of_the_command() {
        let of = |errno: Errno| not_begun(&io::Error::from(errno));
        for errno in [Errno::EIO, Errno::ETIMEDOUT, Errno::EAGAIN, Errno::ENOMEM] {
            assert!(matches!(of(errno), Trouble::Later(_)), "{errno}");
        }
        assert!(matches!(of(Errno::ENOTCONN), Trouble::Away(_)));
        for errno in [
            Errno::ENOENT,
            Errno::EACCES,
            Errno::ENOEXEC,
            Errno::ESTALE,
            Errno::ENOSPC,
        ] {
            let Trouble::Refused(why) = of(errno) else {
                panic!("{errno}: not refused");
            };
            assert!(why.starts_with("can't begin: "), "{why}");
        }
    }
}
