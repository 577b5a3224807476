//! `distcifs run`: a pipeline of the working copy at hand, on a store, a mount and workers of its own.
//!
//! They are those of `distcifs up`, so tasks run as they do anywhere. The one thing that is done here is what git-checkout
//! does elsewhere: a queue of this process's own has the first task, which brings the working copy as it is, and adds
//! the tasks of the pipeline.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use distcifs_beneath::{self as beneath, is};
use distcifs_settings::Rendered;
use distcifs_settings::fault::{plain, plain_lines};
use distcifs_settings::pipeline::{self, Format};
use nix::sys::signal::{Signal, kill};
use rustix::io::Errno;
use tokio::signal::unix::{SignalKind, signal};

use super::workers::{pid, reap, supervised};
use super::{Failure, Outcome, tell};
use crate::cli;
use crate::repository::config::{self, TEXT_BYTES_MAX};
use crate::repository::names::Name;

mod choice;
mod copy;
mod folder;
mod git;

use choice::Job;
use copy::WorkingCopy;
use folder::Folder;

/// The files that are looked for if none is named.
const FILES: [&str; 3] = [".distcifs.yaml", ".distcifs.toml", ".distcifs.json"];

/// The queue of the task that this process does, and the name that the task has on a server.
const QUEUE: &str = "working-copy";
const CHECKOUT: &str = "git-checkout";

/// The job's name if the folder's can't be one.
const JOB: &str = "pipeline";

/// How long the mount and its workers may take to end.
const END_TIME: Duration = Duration::from_secs(15);

/// How often the console is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long a console may say nothing before it is asked whether a task runs.
const RUNS_AFTER: Duration = Duration::from_secs(2);

/// How much of a console is shown at once, bytes.
const PIECE_BYTES: usize = 64 << 10;

/// How long no task may run before the build is given up: nobody but the workers at hand will come.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Runs it; its outcome is the exit status.
pub(super) fn run(arguments: &cli::Run) -> Outcome {
    let plan = Plan::of(arguments)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Refused(format!("signals: {error}")))?;
    let ended = runtime.block_on(plan.keep());
    // Whoever was not waited for may wait for a terminal that is stopped.
    runtime.shutdown_background();
    ended
}

/// What is run, known to be good.
struct Plan {
    copy: WorkingCopy,
    /// The pipeline as people call it, and its text for `tasks.json`.
    file: String,
    tasks: Rendered,
    name: Name,
    job: Job,
    /// What `up` is told beside its source and mount point.
    words: Vec<String>,
}

impl Plan {
    fn of(arguments: &cli::Run) -> Result<Self, Failure> {
        let here = std::env::current_dir().map_err(|error| Failure::Refused(format!("the folder at hand: {error}")))?;
        let copy = WorkingCopy::of(&here).map_err(Failure::Refused)?;
        let (text, file) = chosen(arguments.file.as_deref(), &copy)?;
        let told = |faults: Vec<config::Fault>, file: &str| {
            for fault in faults {
                let space = if fault.line == 0 { " " } else { "" };
                eprintln!("{file}:{space}{fault}");
            }
            Failure::Ended(Ended::Error.status())
        };
        let format = Format::of(&file).unwrap_or(Format::Yaml);
        let mut value = pipeline::read(&text, format).map_err(|fault| told(vec![fault], &file))?;
        let given = match &arguments.job {
            Some(config) => {
                config::check_file(config).map_err(|faults| told(faults, &plain(&config.to_string_lossy())))?;
                let text = File::open(config).and_then(read);
                let text = text.map_err(|error| Failure::Refused(format!("{}: {error}", config.display())))?;
                serde_json::from_slice(&text).ok()
            }
            None => None,
        };
        let mut job = Job::new(given.as_ref(), &arguments.param).map_err(Failure::Usage)?;
        let folder = copy.top.file_name().and_then(Name::from_os);
        let name = folder.or_else(|| Name::new(JOB));
        let name = name.ok_or_else(|| Failure::Refused("the job has no name".into()))?;
        let tasks = job.tasks(&value, &name).map_err(|faults| told(faults, &file))?;
        job.allow_labels(&tasks).map_err(Failure::Usage)?;
        if let Some(task) = &arguments.task {
            choice::only(&mut value, &tasks, task).map_err(Failure::Usage)?;
        }
        let mut words = Vec::new();
        words.extend(arguments.workers.map(|number| format!("--workers={number}")));
        words.extend(arguments.jobs_of_root.iter().map(|user| format!("--as={user}")));
        words.extend(
            arguments
                .workers_dir
                .iter()
                .map(|dir| format!("--workers-dir={}", dir.display())),
        );
        Ok(Plan {
            copy,
            file,
            tasks: value.render_lines(),
            name,
            job,
            words,
        })
    }

    /// What the build is triggered with: what was given, and the branch at hand.
    fn trigger(&self) -> Result<String, String> {
        let mut trigger = self.job.trigger.clone();
        if let Some(branch) = self.copy.line(&["symbolic-ref", "-q", "HEAD"])? {
            trigger.entry("@ref").or_insert_with(|| branch.into());
        }
        Ok(serde_json::Value::from(trigger).to_string())
    }

    /// Runs it to its end, or to that of the third signal.
    async fn keep(self) -> Outcome {
        let explain = |error: io::Error| Failure::Refused(format!("signals: {error}"));
        let mut interrupt = signal(SignalKind::interrupt()).map_err(explain)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(explain)?;
        // Under nohup it is to go on.
        let mut hangup = match ignores(Signal::SIGHUP) {
            true => None,
            false => Some(signal(SignalKind::hangup()).map_err(explain)?),
        };
        folder::sweep();
        let folder = Folder::make().map_err(Failure::Refused)?;
        let mut house = House::start(&folder, &self.words)?;
        let stops = Arc::new(AtomicU32::new(0));
        let build = Build {
            plan: self,
            mount: folder.mount(),
            top: folder.path.clone(),
            stops: stops.clone(),
        };
        let output = house.output();
        let mut work = tokio::task::spawn_blocking(move || build.run(output));
        let ended = loop {
            tokio::select! {
                done = &mut work => break done.unwrap_or_else(|error| Err(error.to_string())),
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = heard(&mut hangup) => {}
            }
            // The third one waits for nobody.
            if stops.fetch_add(1, Ordering::Relaxed) >= 2 {
                break Ok(Ended::Aborted);
            }
        };
        let left = house.end().err();
        folder.remove();
        // What ended so is no task that failed, which is what the status of a refusal would say.
        let ended = ended.unwrap_or_else(|why| {
            tell(&why);
            Ended::Error
        });
        match (ended, left) {
            (Ended::Success, None) => Ok(()),
            (ended, None) => Err(Failure::Ended(ended.status())),
            (ended, Some(why)) => {
                tell(&why);
                let ended = if ended == Ended::Success { Ended::Error } else { ended };
                Err(Failure::Ended(ended.status()))
            }
        }
    }
}

/// Whether this process was started to ignore a signal.
fn ignores(signal: Signal) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.unwrap_or_default() >> (signal as i32 - 1) & 1 == 1
}

/// Waits for a signal; for ever if nobody listens to it.
async fn heard(signal: &mut Option<tokio::signal::unix::Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// The text of the file that is run, and how it is called. One that is not named is looked for as git-checkout does it:
/// no link is followed.
fn chosen(file: Option<&Path>, copy: &WorkingCopy) -> Result<(Vec<u8>, String), Failure> {
    let refused = |file: &str, what: String| Failure::Refused(format!("{file}: {what}"));
    if let Some(file) = file {
        let name = plain(&file.to_string_lossy()).into_owned();
        let text = File::open(file).and_then(read);
        return text
            .map(|text| (text, name.clone()))
            .map_err(|error| refused(&name, error.to_string()));
    }
    for name in FILES {
        let file = match copy.folder.read(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) if is(&error, Errno::LOOP) => {
                return Err(refused(
                    name,
                    "a link, and links are not followed: name the file itself".into(),
                ));
            }
            other => other.map_err(|error| refused(name, error.to_string()))?,
        };
        if !file.metadata().is_ok_and(|meta| meta.is_file()) {
            return Err(refused(name, "it is no file".into()));
        }
        let text = read(file).map_err(|error| refused(name, error.to_string()))?;
        return Ok((text, name.to_owned()));
    }
    let (place, names) = (copy.top.display(), FILES.join(", "));
    Err(Failure::Refused(format!(
        "{place} has none of {names}; name another file"
    )))
}

/// Reads a text that may be too long by a byte, which whoever looks at it says.
fn read(file: File) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let bound = u64::try_from(TEXT_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    file.take(bound).read_to_end(&mut text)?;
    Ok(text)
}

/// How a build ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Success,
    Failure,
    Error,
    Aborted,
}

impl Ended {
    fn of(state: &str) -> Self {
        match state {
            "success" => Ended::Success,
            "failure" => Ended::Failure,
            "aborted" => Ended::Aborted,
            _ => Ended::Error,
        }
    }

    /// The exit status; that of an abort is a shell's for Ctrl-C.
    fn status(self) -> u8 {
        match self {
            Ended::Success => 0,
            Ended::Failure => 1,
            Ended::Error => 2,
            Ended::Aborted => 130,
        }
    }
}

/// The mount and its workers: `distcifs up`, as a child.
struct House {
    child: Child,
    place: PathBuf,
}

impl House {
    fn start(folder: &Folder, words: &[String]) -> Result<Self, Failure> {
        let program = super::mount::program()?.get_program().to_owned();
        let mut line = vec![program, "up".into(), "-o".into(), "log_level=warn".into()];
        line.extend(words.iter().map(Into::into));
        line.extend(["--".into(), folder.store().into(), folder.mount().into()]);
        let child = supervised(&line)?.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let child = child.map_err(|error| Failure::Refused(format!("can't start the mount: {error}")))?;
        Ok(House {
            child,
            place: folder.mount(),
        })
    }

    fn output(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Has it end, and waits for that.
    fn end(&mut self) -> Result<(), String> {
        // It may have ended by itself.
        kill(pid(&self.child), Signal::SIGTERM).ok();
        let begun = Instant::now();
        while begun.elapsed() < END_TIME {
            if reap(&mut self.child).is_some() {
                return Ok(());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        let place = self.place.display();
        self.child.kill().ok();
        self.child.wait().ok();
        Err(format!("{place} is still mounted: distcifs umount --lazy {place}"))
    }
}

/// The build, from its job to its end.
struct Build {
    plan: Plan,
    mount: PathBuf,
    /// The folder of all this, which may be in the working copy.
    top: PathBuf,
    /// How often somebody wanted it to end.
    stops: Arc<AtomicU32>,
}

impl Build {
    fn run(&self, output: Option<ChildStdout>) -> Result<Ended, String> {
        // Read to its end: whoever says more would wait for that.
        let mut lines = BufReader::new(output.ok_or("the mount has no output")?).lines();
        if !lines
            .by_ref()
            .map_while(Result::ok)
            .any(|line| line.contains(" is up: "))
        {
            return Err("the mount did not come up".into());
        }
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        let job = self.mount.join("jobs").join(self.plan.name.as_str());
        make(&job)?;
        write(&job.join("config.json"), &self.plan.job.text)?;
        let queue = self.mount.join("tickets").join(QUEUE);
        make(&queue)?;
        let trigger = self.plan.trigger()?;
        let number = converse(&job.join("trigger"), &trigger)?;
        let build = job.join("builds").join(number);
        let next = self.claim(&queue, &build)?;
        let Some((_claim, ticket)) = next else {
            return self.follow(&build);
        };
        if let Err(why) = self.bring(&ticket) {
            let why = plain_lines(&why);
            if self.stopped() == 0 {
                eprintln!("{why}");
            }
            write(&ticket.join("result"), &format!("error\n{why}\n"))?;
        }
        self.follow(&build)
    }

    fn stopped(&self) -> u32 {
        self.stops.load(Ordering::Relaxed)
    }

    /// Waits for the ticket of the first task; it is claimed while the stream is open. `None`: the build ended before.
    fn claim(&self, queue: &Path, build: &Path) -> Result<Option<(BufReader<File>, PathBuf)>, String> {
        let path = queue.join(".next");
        let explain = |error: io::Error| format!("{}: {error}", path.display());
        let mut file = OpenOptions::new().read(true).write(true).open(&path).map_err(explain)?;
        file.write_all(b"\n").map_err(explain)?;
        let mut lines = BufReader::new(file);
        let begun = Instant::now();
        loop {
            let mut line = String::new();
            // An empty line is "nothing yet", and none at all the end of the stream.
            if lines.read_line(&mut line).map_err(explain)? == 0 {
                return Err(format!("{}: the stream ended", path.display()));
            }
            if !line.trim().is_empty() {
                return Ok(Some((lines, queue.join(line.trim()))));
            }
            if self.stopped() > 0 {
                write(&build.join("ctl"), "abort\n")?;
                return Ok(None);
            }
            if begun.elapsed() > IDLE_MAX {
                return Err("the build did not begin".into());
            }
        }
    }

    /// What git-checkout does elsewhere: the files, the commit, and the tasks.
    fn bring(&self, ticket: &Path) -> Result<(), String> {
        let copy = &self.plan.copy;
        let workspace = ticket.join("workspace");
        let workspace =
            beneath::Folder::open(&workspace).map_err(|error| format!("{}: {error}", workspace.display()))?;
        for path in copy.paths(&self.top)? {
            if self.stopped() > 0 {
                return Err("interrupted".into());
            }
            if !copy.copy(&path, &workspace)? {
                tell(&format!("{} is left out: neither a file nor a link", path.display()));
            }
        }
        if let Some(commit) = copy.line(&["rev-parse", "--verify", "-q", "HEAD"])? {
            write(&ticket.join("params/git_commit"), &commit)?;
        }
        let Err(error) = put(&ticket.join("tasks.json"), &self.plan.tasks.text) else {
            return write(&ticket.join("result"), "success\n");
        };
        let faults = fs::read_to_string(ticket.join("tasks.error")).unwrap_or_default();
        let told = faults.lines().map(|line| self.plan.tasks.told(line, &self.plan.file));
        let told: Vec<String> = told.collect();
        if told.is_empty() {
            return Err(format!("tasks.json: {error}"));
        }
        Err(told.join("\n"))
    }

    /// Shows the console until the build has ended, and says why it ended if that was not well. Who can't be shown
    /// anything any more, as the terminal or the next of the pipe is gone, wants no more of the build.
    fn follow(&self, build: &Path) -> Result<Ended, String> {
        let explain = |error: io::Error| format!("{}: {error}", build.display());
        let mut console = File::open(build.join("console")).map_err(explain)?;
        let (mut heeded, mut heard, mut unheard) = (0, Instant::now(), None);
        let ended = loop {
            let state = self.state(build)?;
            let deaf = unheard.is_some();
            let shown = show(&mut console, &mut unheard).map_err(explain)?;
            if let Some(ended) = state {
                break ended;
            }
            if shown > 0 || heard.elapsed() > RUNS_AFTER && runs(build) {
                heard = Instant::now();
            }
            let idle = heard.elapsed() > IDLE_MAX;
            if self.stopped() > heeded || idle || deaf != unheard.is_some() {
                heeded = self.stopped();
                if idle {
                    tell(&format!("given up: {}", text(&build.join("why"))));
                    heard = Instant::now();
                }
                write(&build.join("ctl"), "abort\n")?;
                if idle {
                    break Ended::Error;
                }
            }
        };
        if let Some(error) = unheard {
            return Err(format!("standard output: {error}"));
        }
        if ended != Ended::Success {
            tell(&text(&build.join("why")));
        }
        Ok(ended)
    }

    /// How the build ended, if it did within a moment.
    fn state(&self, build: &Path) -> Result<Option<Ended>, String> {
        std::thread::sleep(LOOK_EVERY);
        let path = build.join("state");
        let state = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(match state.trim() {
            "pending" | "running" | "held" => None,
            ended => Some(Ended::of(ended)),
        })
    }
}

/// Shows what a console has by now; how many bytes that were. `unheard`: why nothing can be shown any more.
fn show(console: &mut File, unheard: &mut Option<io::Error>) -> io::Result<u64> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut shown = 0;
    loop {
        let length = match console.read(&mut piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if length == 0 {
            return Ok(shown);
        }
        shown += length as u64;
        if unheard.is_none() {
            let mut output = io::stdout().lock();
            let written = output.write_all(piece.get(..length).unwrap_or_default());
            *unheard = written.and_then(|()| output.flush()).err();
        }
    }
}

/// Whether a task of the build is worked.
fn runs(build: &Path) -> bool {
    let tasks = fs::read_dir(build.join("tasks"));
    let mut states = tasks
        .into_iter()
        .flatten()
        .flatten()
        .map(|task| text(&task.path().join("state")));
    states.any(|state| state == "running")
}

/// A short text of the tree, for people.
fn text(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_else(|error| format!("{}: {error}", path.display()));
    text.trim().to_owned()
}

/// Makes a folder of the tree for oneself: what a build says and has is its job's to show, and whoever works on a task
/// of it gets in by the ticket.
fn make(folder: &Path) -> Result<(), String> {
    let made = DirBuilder::new().mode(0o700).create(folder);
    made.map_err(|error| format!("can't make {}: {error}", folder.display()))
}

/// Writes a file of the tree; what its close says counts.
fn write(path: &Path, text: &str) -> Result<(), String> {
    put(path, text).map_err(|error| format!("can't write {}: {error}", path.display()))
}

fn put(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    file.write_all(text.as_bytes())?;
    nix::unistd::close(file).map_err(io::Error::from)
}

/// Writes, and reads what the tree answers on the same descriptor.
fn converse(path: &Path, text: &str) -> Result<String, String> {
    let told = |error: io::Error| {
        let said = fs::read_to_string(path.with_extension("error")).unwrap_or_default();
        match said.trim() {
            "" => format!("{}: {error}", path.display()),
            said => said.to_owned(),
        }
    };
    let mut file = OpenOptions::new().read(true).write(true).open(path).map_err(told)?;
    file.write_all(text.as_bytes()).map_err(told)?;
    let mut answer = String::new();
    BufReader::new(file).read_line(&mut answer).map_err(told)?;
    Ok(answer.trim().to_owned())
}
