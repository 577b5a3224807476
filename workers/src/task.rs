//! The loop of the workers that come with distcifs and do one thing with a ticket: claim, have a
//! process do it as the owner of the job, and write how it went.
//!
//! The process is this program again, for one ticket ([`desk`]). So whatever a ticket makes it do it
//! does with the rights of that owner, and it ends like a script: with its time, its claim or its
//! worker. What it has to tell comes back in a few bytes of memory that both share.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use clap::{CommandFactory, Parser};
use distcifs_settings::Rendered;
use distcifs_settings::fault::Place;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use crate::adding;
use crate::console::Shelf;
use crate::execute::{Ended, Over, Prepared, Runner};
use crate::identity::{self, Identity, Options};
use crate::keeper::{Role, keep};
use crate::pages;
use crate::signals::{self, Wake};
use crate::supervise::{Exit, become_subreaper};
use crate::ticket::{Claimed, Ticket, UNTRUSTED};
use crate::tree::{self, EXIT_TREE_AWAY, Tree, Trouble};

pub mod desk;

use desk::Desk;

/// The word that makes a worker's program do one ticket.
const WORD: &str = "--work";

/// Most bytes that the process for a ticket can tell: a reason and a few parameters.
const REPORT_BYTES_MAX: usize = 16 << 10;

/// The same for one that may add tasks: their text, and a place for each of its lines.
const ADDING_BYTES_MAX: usize = 16 << 20;

/// Most characters of a name that are shown.
const NAME_CHARS_MAX: usize = 100;

/// Variables of the worker that its work needs beside those of every program, git among it: how the node
/// reaches others, and the administrator's choice of a program for ssh. worker.sh has the same list.
pub(crate) const OF_THE_NODE: [&str; 15] = [
    "http_proxy",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
    "GIT_SSH_COMMAND",
    "GIT_EXEC_PATH",
    "SSH_AUTH_SOCK",
    "DISTCIFS_GIT_MEMORY",
];

/// What the work of a ticket gives back.
pub type Done = tree::Result<Found>;

/// What the work of a ticket found out.
#[derive(Debug, Default)]
pub struct Found {
    /// Parameters of the build.
    pub recorded: Vec<(String, String)>,
    /// Tasks that are to be added to the build.
    pub tasks: Option<Tasks>,
    /// Why what was asked for can't be done though the work went well: the outcome is `error`.
    pub wrong: Option<String>,
}

/// Tasks to be added, and where each line of their text was written.
#[derive(Debug, Serialize, Deserialize)]
pub struct Tasks {
    file: String,
    text: String,
    places: Vec<(u32, u32)>,
}

impl Tasks {
    /// Those of a file, by its path in the checkout.
    pub fn new(file: &str, rendered: Rendered) -> Self {
        let places = rendered.places.iter().map(|place| (place.line, place.column));
        Tasks {
            file: file.to_owned(),
            places: places.collect(),
            text: rendered.text,
        }
    }

    /// Their text, as JSON.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// A fault of the text by its place in the file.
    pub fn told(&self, line: &str) -> String {
        let places = self.places.iter().map(|(line, column)| Place {
            line: *line,
            column: *column,
        });
        let rendered = Rendered {
            text: String::new(),
            places: places.collect(),
        };
        rendered.told(line, &self.file)
    }
}

/// A kind of worker.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// Its name, which is that of its queue.
    pub name: &'static str,
    /// What it does, in a sentence.
    pub about: &'static str,
    /// The parameters of the build that it may record, and no others: whoever is the owner of the job
    /// can write what the process tells.
    pub records: &'static [&'static str],
    /// Whether it may add tasks to the build.
    pub adds: bool,
    /// How: as the owner of the job, in a process of its own.
    pub work: fn(&Desk) -> Done,
}

impl Kind {
    /// Most bytes that a process of it can tell.
    fn report_bytes(&self) -> usize {
        if self.adds { ADDING_BYTES_MAX } else { REPORT_BYTES_MAX }
    }
}

/// Ends with status 0 on TERM or INT, after the ticket at hand on USR1, and with 75 when the tree is
/// away. A second process of the same name stands above the worker and ends what it began if it is killed.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Where the tree is mounted
    mount: PathBuf,
    /// What this worker has: a ticket goes to it only if all the ticket's labels are among these
    labels: Vec<String>,
    #[command(flatten)]
    identity: Options,
}

/// What the process for a ticket tells. It runs as the owner of the job, who can trace it and write what
/// it writes: this is believed no more than what a script says.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Report {
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failed: Option<String>,
    /// Why it is to be tried again by somebody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    later: Option<String>,
    /// Parameters of the build that it found out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    recorded: Vec<(String, String)>,
    /// Tasks to be added to the build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tasks: Option<Tasks>,
    /// Why it is an error though the work went well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wrong: Option<String>,
}

/// All that such a worker's `main` does.
pub fn main(kind: &Kind) -> ExitCode {
    if let Some(ended) = identity::program::main() {
        return ExitCode::from(ended);
    }
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|word| word == WORD) {
        return desk::main(kind, words.next().unwrap_or_default().as_ref());
    }
    let about = format!(
        "{}\n\n{}",
        kind.about,
        Arguments::command()
            .get_about()
            .map(ToString::to_string)
            .unwrap_or_default()
    );
    let command = Arguments::command().about(kind.about).long_about(about);
    let arguments: Arguments = pages::read(kind.name, command);
    let identity = match Identity::find(&arguments.identity) {
        Ok(identity) => identity,
        Err(why) => {
            eprintln!("{}: {why}", kind.name);
            return ExitCode::FAILURE;
        }
    };
    match keep() {
        Ok(Role::Worker) => {}
        Ok(Role::Kept(status)) => {
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            // Killed: a supervisor may start it again.
            return ExitCode::from(code.unwrap_or(EXIT_TREE_AWAY));
        }
        Err(error) => {
            eprintln!("{}: can't start: {error}", kind.name);
            return ExitCode::FAILURE;
        }
    }
    let ended = Tree::new(&arguments.mount)
        .map_err(|e| Trouble::Refused(format!("{}: {e}", arguments.mount.display())))
        .and_then(|tree| run(kind, &tree, &arguments.mount, &arguments.labels, &identity));
    Trouble::report(kind.name, ended)
}

/// Runs until TERM or INT, or to the end of a ticket after USR1 (`Ok`), or until the tree is away.
fn run(kind: &Kind, tree: &Tree, mount: &Path, labels: &[String], identity: &Identity) -> tree::Result<()> {
    let cant = |e: io::Error| Trouble::Refused(format!("can't start: {e}"));
    let mount = std::path::absolute(mount).map_err(cant)?;
    let wake = signals::install().map_err(cant)?;
    become_subreaper().map_err(cant)?;
    // Each of these keeps the rules of what strangers wrote.
    let labels: Vec<String> = labels.iter().cloned().chain([UNTRUSTED.to_owned()]).collect();
    let mut next = tree.next(kind.name, &labels)?;
    while !signals::stopping() && !signals::finishing() {
        let id = next.next_line()?;
        if id.is_empty() {
            continue;
        }
        let Some(claimed) = Claimed::new(tree.ticket(kind.name, &id)) else {
            continue;
        };
        let task = Task {
            kind,
            mount: &mount,
            identity,
            wake: &wake,
            claimed,
            since: Instant::now(),
        };
        task.work()?;
    }
    Ok(())
}

/// One claimed ticket.
struct Task<'a> {
    kind: &'a Kind,
    mount: &'a Path,
    identity: &'a Identity,
    wake: &'a Wake,
    claimed: Claimed,
    since: Instant,
}

impl Task<'_> {
    /// Works on it to its end. Errors: only `Away`.
    fn work(&self) -> tree::Result<()> {
        if signals::stopping() {
            self.claimed.give_back();
            return Ok(());
        }
        match self.carry_out() {
            Ok(()) => Ok(()),
            Err(Trouble::Away(why)) => Err(Trouble::Away(why)),
            Err(Trouble::Lost(_)) => Ok(()),
            Err(Trouble::Later(why) | Trouble::Held(why) | Trouble::Full(why)) => {
                eprintln!("{}: {why}; the ticket is given back", self.kind.name);
                self.claimed.give_back();
                Ok(())
            }
            Err(Trouble::Refused(why)) => {
                let console = tree::open_console(&self.claimed.path(""));
                // The result says it as well.
                drop(console.and_then(|mut console| console.write_all(format!("{why}\n").as_bytes())));
                self.claimed.finish("error", &why)
            }
        }
    }

    fn carry_out(&self) -> tree::Result<()> {
        let ticket = self.claimed.ticket()?;
        let whom = self.identity.whom(&ticket)?;
        whom.hand_over(&self.claimed)?;
        let program = whom
            .program("/proc/self/exe", Path::new("/"))
            .arg(WORD)
            .arg(self.mount)
            .envs(
                OF_THE_NODE
                    .iter()
                    .filter_map(|name| Some((name, std::env::var_os(name)?))),
            )
            .supervised();
        let report =
            report(self.kind.report_bytes()).map_err(|e| Trouble::Later(format!("no memory to share: {e}")))?;
        let prepared = self.prepare(program.command(), &report);
        let prepared = prepared.map_err(|e| Trouble::from_io("can't enter the ticket", &e))?;
        let runner = Runner {
            worker: self.kind.name,
            claimed: &self.claimed,
            wake: self.wake,
            shelf: Shelf {
                folder: std::env::temp_dir(),
                limit: ticket.settings.console_bytes(),
            },
            settings: &ticket.settings,
        };
        let deadline = ticket.limit().and_then(|limit| self.since.checked_add(limit));
        let ended = runner.execute(prepared, deadline)?;
        self.conclude(&ended, &ticket, &read_report(&report))
    }

    /// The process gets the ticket's folder as its standard input: it need not be able to go there.
    fn prepare(&self, mut command: Command, report: &File) -> io::Result<Prepared> {
        command.stdin(Stdio::from(self.claimed.open()?)).process_group(0);
        Ok(Prepared {
            report: Some(report.try_clone()?),
            ..Prepared::plain(command)
        })
    }

    /// Writes what became of it.
    fn conclude(&self, ended: &Ended, ticket: &Ticket, report: &Report) -> tree::Result<()> {
        let exit = match ended.over {
            Over::Lost => return Ok(()),
            Over::Aborted => {
                let (outcome, message) = ended.aborted();
                return self.claimed.finish(&outcome, &message);
            }
            Over::Stopped => {
                self.claimed.give_back();
                return Ok(());
            }
            Over::TimedOut => {
                let (outcome, message) = ended.unless_dropped("failure", &ticket.timed_out());
                return self.claimed.finish(&outcome, &message);
            }
            Over::Ended(exit) => exit,
        };
        if let Some(why) = &report.later {
            return Err(Trouble::Later(why.clone()));
        }
        if exit == Exit::Status(0) && ended.dropped.is_none() {
            for (name, value) in &report.recorded {
                record(self.kind, &self.claimed, name, value)?;
            }
            if let Some(why) = &report.wrong {
                return Err(Trouble::Refused(why.clone()));
            }
            if let Some(tasks) = &report.tasks {
                add(self.kind, &self.claimed, tasks)?;
            }
        }
        let (outcome, message) = match &report.failed {
            None => ended.outcome(exit),
            Some(why) => ended.unless_dropped(&exit.status().to_string(), why),
        };
        self.claimed.finish(&outcome, &message)
    }
}

/// Makes a parameter of the build, which takes effect with the result. The name was told by a process of
/// the job's owner, and this one may be root: it is one that this kind of worker records, or nothing.
fn record(kind: &Kind, claimed: &Claimed, name: &str, value: &str) -> tree::Result<()> {
    if !kind.records.contains(&name) {
        let name: String = name.escape_debug().take(NAME_CHARS_MAX).collect();
        return Err(Trouble::Refused(format!(
            "{} records no parameter '{name}': somebody changed what it told",
            kind.name
        )));
    }
    let path = claimed.path("params").join(name);
    let written = tree::open(&path, File::options().write(true).create(true).truncate(true))
        .and_then(|mut file| file.write_all(value.as_bytes()));
    if written
        .as_ref()
        .is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists)
    {
        // The trigger gave it, and what it gave stays.
        return Ok(());
    }
    written.map_err(|e| Trouble::from_io(&format!("can't record {name}"), &e))
}

/// Adds tasks to the build, which takes effect with the result. Their text is the owner's, and the daemon holds it
/// against what the job allows.
fn add(kind: &Kind, claimed: &Claimed, tasks: &Tasks) -> tree::Result<()> {
    if !kind.adds {
        let why = format!("{} adds no tasks: somebody changed what it told", kind.name);
        return Err(Trouble::Refused(why));
    }
    adding::add(claimed, tasks.text.as_bytes(), |line| tasks.told(line))
}

/// Memory for a report, of which the other process can't make more.
fn report(bytes: usize) -> io::Result<File> {
    let file = File::from(memfd_create(
        c"report",
        MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING,
    )?);
    file.set_len(bytes as u64)?;
    let seals = SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
    fcntl(file.as_fd(), FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file)
}

/// What was told; whoever ended before telling anything told nothing.
fn read_report(file: &File) -> Report {
    let mut text = Vec::new();
    let mut part = vec![0; REPORT_BYTES_MAX];
    // It ends with the first NUL, or with the memory: most are short.
    while let Ok(count @ 1..) = file.read_at(&mut part, text.len() as u64) {
        let read = &part[..count];
        let end = read.iter().position(|byte| *byte == 0);
        text.extend_from_slice(&read[..end.unwrap_or(count)]);
        if end.is_some() || text.len() >= ADDING_BYTES_MAX {
            break;
        }
    }
    serde_json::from_slice(&text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "What the process for a ticket tells is believed no more than what a script says": a worker that is
    /// root writes nothing but the parameters that it records.
    #[test]
    fn only_what_a_worker_records_is_recorded() {
        let folder = std::env::temp_dir().join(format!("distcifs-record-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(folder.join("ticket/params")).unwrap();
        let claimed = Claimed::new(folder.join("ticket")).unwrap();
        let kind = Kind {
            name: "git-checkout",
            about: "",
            records: &["git_commit"],
            adds: false,
            work: |_| Ok(Found::default()),
        };
        let outside = folder.join("outside");
        for name in [
            "../../outside",
            outside.to_str().unwrap(),
            "git_commit/../../../outside",
            "other",
            "",
            ".",
        ] {
            let refused = record(&kind, &claimed, name, "x").unwrap_err();
            assert!(matches!(refused, Trouble::Refused(_)), "{name}: {refused}");
        }
        assert!(!outside.exists());
        assert_eq!(std::fs::read_dir(folder.join("ticket/params")).unwrap().count(), 0);
        record(&kind, &claimed, "git_commit", "abc").unwrap();
        assert_eq!(std::fs::read(folder.join("ticket/params/git_commit")).unwrap(), b"abc");
        let tasks = |report: &Report| report.tasks.as_ref().map(|tasks| tasks.text().len());
        let told = super::report(kind.report_bytes()).unwrap();
        assert!(tasks(&read_report(&told)).is_none(), "nothing was told");
        // Where it may, whatever its length, and where it may not nothing.
        let long = Rendered {
            text: "x".repeat((1 << 20) + 1),
            places: Vec::new(),
        };
        let long = Tasks::new("a.yaml", long);
        let text = serde_json::to_vec(&Report {
            tasks: Some(long),
            ..Report::default()
        })
        .unwrap();
        assert!(told.write_all_at(&text, 0).is_err(), "there is no room for it");
        let told = super::report(ADDING_BYTES_MAX).unwrap();
        told.write_all_at(&text, 0).unwrap();
        let report = read_report(&told);
        assert!(tasks(&report).is_some_and(|bytes| bytes > 1 << 20));
        let refused = add(&kind, &claimed, report.tasks.as_ref().unwrap()).unwrap_err();
        assert!(matches!(refused, Trouble::Refused(_)) && !folder.join("ticket/tasks.json").exists());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
