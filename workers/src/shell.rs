//! execute-shell: runs the script of one ticket after the other.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write, pipe};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use crate::console::Copier;
use crate::expand::plain;
use crate::signals::{self, Wake};
use crate::supervise::{Exit, Processes, become_subreaper};
use crate::ticket::{Claimed, Ticket, of_build};
use crate::tree::{self, Tree, Trouble};

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

/// Variables that a script inherits from the worker.
const INHERITED: [&str; 6] = ["PATH", "HOME", "LANG", "USER", "TZ", "TMPDIR"];

/// Where programs are looked for if the worker has no PATH.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs until TERM or INT (`Ok`) or until the tree is away (`Err`).
pub fn run(tree: &Tree, labels: &[String]) -> tree::Result<()> {
    let cant = |e: io::Error| Trouble::Refused(format!("can't start: {e}"));
    let wake = signals::install().map_err(cant)?;
    become_subreaper().map_err(cant)?;
    let scratch = Scratch::new().map_err(cant)?;
    let mut next = tree.next(QUEUE, labels)?;
    while !signals::stopping() {
        let id = next.next_line()?;
        if id.is_empty() {
            continue;
        }
        let claimed = Claimed {
            folder: tree.ticket(QUEUE, &id),
        };
        Shell {
            claimed,
            since: Instant::now(),
            scratch: &scratch,
            wake: &wake,
        }
        .work()?;
    }
    Ok(())
}

/// A private folder for the text of scripts, removed at the end.
#[derive(Debug)]
struct Scratch {
    folder: PathBuf,
}

impl Scratch {
    fn new() -> io::Result<Self> {
        let folder = nix::unistd::mkdtemp(&std::env::temp_dir().join("execute-shell.XXXXXX"))?;
        Ok(Scratch { folder })
    }

    fn write(&self, script: &str) -> io::Result<PathBuf> {
        let path = self.folder.join("script");
        // Something may have cleaned the folder for temporary files.
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let _ = fs::remove_file(&path);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o700)
            .open(&path)?;
        file.write_all(script.as_bytes())?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nobody else writes there; what is left is a private folder in /tmp.
        let _ = fs::remove_dir_all(&self.folder);
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
    deadline: Option<Instant>,
    timeout: f64,
}

/// One claimed ticket.
struct Shell<'a> {
    claimed: Claimed,
    since: Instant,
    scratch: &'a Scratch,
    wake: &'a Wake,
}

impl Shell<'_> {
    /// Works on it to its end. Errors: only `Away`.
    fn work(&self) -> tree::Result<()> {
        if signals::stopping() {
            self.claimed.give_back();
            return Ok(());
        }
        match self.prepare().and_then(|prepared| self.run(prepared)) {
            Ok(()) => Ok(()),
            Err(Trouble::Away(why)) => Err(Trouble::Away(why)),
            Err(Trouble::Lost(_)) => Ok(()),
            Err(Trouble::Later(why)) => {
                eprintln!("execute-shell: {why}; the ticket is given back");
                self.claimed.give_back();
                Ok(())
            }
            Err(Trouble::Refused(why)) => self.claimed.finish("error", &why),
        }
    }

    /// `Refused` becomes the outcome `error`.
    fn prepare(&self) -> tree::Result<Prepared> {
        let ticket = self.claimed.ticket()?;
        check_isolation(&ticket).map_err(Trouble::Refused)?;
        let Some(Value::String(script)) = ticket.params.get("script") else {
            return Err(Trouble::Refused("params.script is missing or no string".to_owned()));
        };
        let workspace = self.claimed.folder.join("workspace");
        let wanted = ticket.params.get("working_directory").map(plain).unwrap_or_default();
        let cwd = working_directory(&workspace, &wanted)?;
        let (params, name) = match &ticket.job {
            Some(_) => of_build(&self.claimed.folder, ticket.task)?,
            None => (Map::new(), None),
        };
        let environment = environment(&self.claimed.folder, &ticket, &params, name.as_deref());
        let script = self
            .scratch
            .write(script)
            .map_err(|e| Trouble::Later(format!("can't write the script: {e}")))?;
        let mut command = Command::new("/bin/sh");
        command
            .arg("-e")
            .arg(script)
            .current_dir(cwd)
            .env_clear()
            .envs(environment);
        command.stdin(Stdio::null()).process_group(0);
        let timeout = ticket.timeout.filter(|t| t.is_finite() && *t > 0.0);
        let limit = timeout.and_then(|t| Duration::try_from_secs_f64(t).ok());
        let deadline = limit.and_then(|limit| self.since.checked_add(limit));
        Ok(Prepared {
            command,
            deadline,
            timeout: timeout.unwrap_or(0.0),
        })
    }

    fn run(&self, prepared: Prepared) -> tree::Result<()> {
        let Prepared {
            mut command,
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
            Ok((copier, Processes::new(child.id())))
        };
        let (copier, mut processes) = start().map_err(|e| Trouble::Refused(format!("can't run /bin/sh: {e}")))?;
        let over = self.supervise(&mut processes, &copier, deadline);
        let grace = if matches!(over, Over::Ended(_)) {
            LEFTOVER_GRACE
        } else {
            GRACE
        };
        if !processes.end_all(grace, self.wake) {
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
            Over::Ended(exit) => {
                let (status, message) = outcome(exit);
                self.claimed.finish(&status.to_string(), &message)
            }
        }
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

/// This worker runs scripts as they are; anything that asks for more is refused, never run unconfined.
fn check_isolation(ticket: &Ticket) -> Result<(), String> {
    let isolation = ticket.isolation.as_deref().unwrap_or("none");
    if isolation != "none" {
        return Err(format!(
            "isolation '{isolation}' is not available on this worker, only 'none'"
        ));
    }
    let limits = ticket
        .limits
        .as_ref()
        .and_then(Value::as_object)
        .is_some_and(|l| !l.is_empty());
    if limits || ticket.image.as_ref().is_some_and(|i| !i.is_null()) {
        return Err("limits and image need an isolation, which is not available on this worker".to_owned());
    }
    Ok(())
}

/// The folder to run in: inside the workspace after all symbolic links.
fn working_directory(workspace: &Path, wanted: &str) -> tree::Result<PathBuf> {
    if wanted.is_empty() || wanted == "." {
        return Ok(workspace.to_owned());
    }
    let refused = |why: &str| Trouble::Refused(format!("working_directory '{wanted}': {why}"));
    let io = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => refused("no such folder in the workspace"),
        _ => Trouble::from_io(&format!("working_directory '{wanted}'"), &error),
    };
    let root = workspace
        .canonicalize()
        .map_err(|e| Trouble::from_io("workspace", &e))?;
    let found = root.join(wanted).canonicalize().map_err(io)?;
    if !found.starts_with(&root) {
        return Err(refused("leads out of the workspace"));
    }
    if !found.is_dir() {
        return Err(refused("not a folder"));
    }
    Ok(found)
}

/// What the script finds in its environment.
fn environment(
    folder: &Path,
    ticket: &Ticket,
    params: &Map<String, Value>,
    task: Option<&str>,
) -> BTreeMap<String, String> {
    let mut all = BTreeMap::from([("PATH".to_owned(), PATH_DEFAULT.to_owned())]);
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let inherited = INHERITED
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)));
    all.extend(inherited);
    for (name, value) in params {
        let readable: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
            .collect();
        all.entry(format!("PARAM_{readable}")).or_insert_with(|| plain(value));
        all.insert(format!("PARAM_{name}"), plain(value));
    }
    all.extend(
        ticket
            .environment
            .iter()
            .map(|(name, value)| (name.clone(), plain(value))),
    );
    all.insert("WORKSPACE".to_owned(), text(folder.join("workspace")));
    all.insert("ARTIFACTS".to_owned(), text(folder.join("artifacts")));
    all.extend(ticket.job.clone().map(|job| ("JOB_NAME".to_owned(), job)));
    all.extend(ticket.build.map(|n| ("BUILD_NUMBER".to_owned(), n.to_string())));
    all.extend(task.map(|name| ("TASK_NAME".to_owned(), name.to_owned())));
    // The kernel has no way to pass these.
    all.retain(|name, value| !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0'));
    all
}

/// Exit status and message of a script.
fn outcome(exit: Exit) -> (i32, String) {
    match exit {
        Exit::Status(0) => (0, String::new()),
        Exit::Status(status) => (status, format!("exit {status}")),
        Exit::Signal(signal) => (
            128 + signal as i32,
            format!("killed by signal {} ({signal})", signal as i32),
        ),
    }
}
