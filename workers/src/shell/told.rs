//! Files in which a script tells something of its build: `$OUTPUTS` and `$TASKS`.
//!
//! They lie among the artifacts, because every environment shows these and they have their bounds already. They are none
//! of them: they are taken away before the result. The script was free to leave anything in their place, and to leave
//! somebody who holds them: so a process of its own does it.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::adding::{self, OF_TASKS, TASKS_BYTES_MAX};
use crate::aside;
use crate::beneath::{Folder, trouble};
use crate::ticket::{Claimed, as_a_result};
use crate::tree::{self, Trouble};

/// The word that makes the worker's program take one away, and what it does with it.
const WORD: &str = "--told";
const TAKE: &str = "take";
const DISCARD: &str = "discard";

/// In the place of the variable: whether there is any of them.
const ANY: &str = "any";

/// How long that may take; who holds one may hold it for ever.
const STANDS: Duration = Duration::from_secs(30);

/// Such a file.
#[derive(Debug)]
pub(super) struct Told {
    /// Its name among the artifacts.
    pub(super) name: &'static str,
    /// The variable that has its path, which is what people know it by.
    pub(super) variable: &'static str,
    /// Its most bytes.
    pub(super) bytes_max: u64,
}

/// Parameters of the build.
pub(super) const OUTPUTS: Told = Told {
    name: ".outputs",
    variable: "OUTPUTS",
    bytes_max: 64 << 10,
};

/// Tasks to be added to the build.
pub(super) const TASKS: Told = Told {
    name: ".tasks",
    variable: "TASKS",
    bytes_max: TASKS_BYTES_MAX,
};

/// All of them.
pub(super) const ALL: [Told; 2] = [OUTPUTS, TASKS];

/// Whether a script left one of them: most tell nothing, and one process finds that out for all.
///
/// # Errors
/// `Refused` if somebody holds the artifacts.
pub(super) fn any(claimed: &Claimed) -> tree::Result<bool> {
    let held = "a process has held the artifacts";
    as_a_result(|| ask(claimed, &[ANY], held)?.into()).map(|found| found.is_some())
}

/// Has a process do what these words say, which may stand: somebody may hold what it needs. `held` says so.
fn ask(claimed: &Claimed, words: &[&str], held: &str) -> tree::Result<Answer> {
    let folder = claimed.open().map_err(|e| Trouble::from_io("artifacts", &e))?;
    let mut command = Command::new("/proc/self/exe");
    command.arg(WORD).args(words).stdin(Stdio::from(folder));
    let what = words.join(" ");
    let cant = |e: io::Error| Trouble::Later(format!("{what}: no process to look for it: {e}"));
    let wrote = aside::run(command, STANDS).map_err(cant)?;
    let held = || {
        let limit = STANDS.as_secs();
        Trouble::Refused(format!("{held} for {limit} s; what the script told is lost"))
    };
    let ended = |_| Trouble::Refused(format!("{what}: who looks for it was ended"));
    serde_json::from_slice(&wrote.ok_or_else(held)?.bytes).map_err(ended)
}

impl Told {
    /// Takes it away; gives what was in it, if it was there.
    ///
    /// # Errors
    /// `Refused` if it is no file, or too long, or if somebody holds it.
    pub(super) fn take(&self, claimed: &Claimed) -> tree::Result<Option<Vec<u8>>> {
        self.ask(claimed, TAKE)
    }

    /// Takes it away unread.
    ///
    /// # Errors
    /// If it can't be removed.
    pub(super) fn discard(&self, claimed: &Claimed) -> tree::Result<()> {
        self.ask(claimed, DISCARD).map(drop)
    }

    fn ask(&self, claimed: &Claimed, how: &str) -> tree::Result<Option<Vec<u8>>> {
        let Told { name, variable, .. } = self;
        let held = format!("{variable}: a process has held artifacts/{name}");
        let read = RefCell::default();
        as_a_result(|| ask(claimed, &[variable, how], &held)?.after(&read))
    }

    /// Takes it away; says what was in it, if it was there.
    fn take_here(&self, ticket: &Folder) -> Answer {
        let folder = match self.folder(ticket) {
            Ok(Some(folder)) => folder,
            none => return none.map(|_| None).into(),
        };
        match (self.read(&folder), self.remove(&folder)) {
            (Ok(bytes), Err(Trouble::Later(why) | Trouble::Held(why))) => Answer::Stays { bytes, why },
            (read, removed) => removed.and(read.map(Some)).into(),
        }
    }

    fn discard_here(&self, ticket: &Folder) -> tree::Result<()> {
        self.folder(ticket)?.map_or(Ok(()), |folder| self.remove(&folder))
    }

    /// The artifacts, if it is among them.
    fn folder(&self, ticket: &Folder) -> tree::Result<Option<Folder>> {
        let folder = artifacts(ticket)?;
        Ok(self.is_in(&folder)?.then_some(folder))
    }

    fn is_in(&self, folder: &Folder) -> tree::Result<bool> {
        match folder.stat(OsStr::new(self.name)) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Trouble::from_io(self.variable, &error)),
        }
    }

    fn remove(&self, folder: &Folder) -> tree::Result<()> {
        let removed = folder.remove(OsStr::new(self.name));
        removed.map_err(|e| trouble(&format!("can't remove {}", self.variable), &e))
    }

    fn read(&self, folder: &Folder) -> tree::Result<Vec<u8>> {
        let Told { name, variable, .. } = *self;
        let file = folder.read(name).map_err(|e| trouble(variable, &e))?;
        if !file.metadata().map_err(|e| trouble(variable, &e))?.is_file() {
            return Err(Trouble::Refused(format!("{variable}: not a file")));
        }
        let mut bytes = Vec::new();
        let read = file.take(self.bytes_max + 1).read_to_end(&mut bytes);
        read.map_err(|e| trouble(variable, &e))?;
        if bytes.len() as u64 > self.bytes_max {
            return Err(Trouble::Refused(format!(
                "{variable}: more than {} bytes",
                self.bytes_max
            )));
        }
        Ok(bytes)
    }
}

/// Whether one of them is among the artifacts.
fn any_here(ticket: &Folder) -> tree::Result<bool> {
    let folder = artifacts(ticket)?;
    ALL.iter().try_fold(false, |any, told| Ok(any || told.is_in(&folder)?))
}

fn artifacts(ticket: &Folder) -> tree::Result<Folder> {
    let entered = ticket.enter("artifacts");
    entered.map_err(|e| Trouble::from_io("artifacts", &e))
}

/// What the process that does it says.
#[derive(Serialize, Deserialize)]
enum Answer {
    Took(Option<Vec<u8>>),
    /// It was read, and its removal may be done later.
    Stays {
        bytes: Vec<u8>,
        why: String,
    },
    Away(String),
    Lost(String),
    Later(String),
    Held(String),
    Full(String),
    Refused(String),
}

impl Answer {
    /// What it means after the tries before, of which one may have read it: then a file that is gone is one whose
    /// removal was done later, and not one that never was.
    fn after(self, read: &RefCell<Option<Vec<u8>>>) -> tree::Result<Option<Vec<u8>>> {
        match self {
            Answer::Stays { bytes, why } => {
                read.replace(Some(bytes));
                Err(Trouble::Later(why))
            }
            Answer::Took(None) => Ok(read.take()),
            answer => answer.into(),
        }
    }
}

impl From<tree::Result<Option<Vec<u8>>>> for Answer {
    fn from(done: tree::Result<Option<Vec<u8>>>) -> Self {
        match done {
            Ok(took) => Answer::Took(took),
            Err(Trouble::Away(why)) => Answer::Away(why),
            Err(Trouble::Lost(why)) => Answer::Lost(why),
            Err(Trouble::Later(why)) => Answer::Later(why),
            Err(Trouble::Held(why)) => Answer::Held(why),
            Err(Trouble::Full(why)) => Answer::Full(why),
            Err(Trouble::Refused(why)) => Answer::Refused(why),
        }
    }
}

impl From<Answer> for tree::Result<Option<Vec<u8>>> {
    fn from(answer: Answer) -> Self {
        Err(match answer {
            Answer::Took(took) => return Ok(took),
            Answer::Away(why) => Trouble::Away(why),
            Answer::Lost(why) => Trouble::Lost(why),
            Answer::Later(why) | Answer::Stays { why, .. } => Trouble::Later(why),
            Answer::Held(why) => Trouble::Held(why),
            Answer::Full(why) => Trouble::Full(why),
            Answer::Refused(why) => Trouble::Refused(why),
        })
    }
}

/// What that process does, if this is one: it has the ticket's folder as its standard input.
pub fn main(words: &[String]) -> Option<ExitCode> {
    let [_, word, what, how @ ..] = words else { return None };
    if word != WORD {
        return None;
    }
    let told = ALL.iter().find(|told| told.variable == *what);
    let done = match (io::stdin().as_fd().try_clone_to_owned().map(Folder::of), told) {
        (Err(error), _) => Err(Trouble::from_io("artifacts", &error)).into(),
        (Ok(ticket), None) => any_here(&ticket).map(|any| any.then(Vec::new)).into(),
        (Ok(ticket), Some(told)) if how == [TAKE] => told.take_here(&ticket),
        (Ok(ticket), Some(told)) => told.discard_here(&ticket).map(|()| None).into(),
    };
    let text = serde_json::to_vec(&done).unwrap_or_default();
    let written = io::stdout().lock().write_all(&text);
    Some(written.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS))
}

/// Adds the tasks of a text to the build. An empty one adds nothing.
///
/// # Errors
/// `Refused` with what is wrong, a line for each fault.
pub(super) fn add_tasks(claimed: &Claimed, text: &[u8]) -> tree::Result<()> {
    if text.trim_ascii().is_empty() {
        return Ok(());
    }
    adding::add(claimed, text, |line| match line.strip_prefix(OF_TASKS) {
        Some(fault) => format!("{}:{fault}", TASKS.variable),
        None => line.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A removal that the tree answers too late is done later: what the first try read is what the script told, though
    /// the next one finds no file.
    #[test]
    fn what_was_read_is_not_lost_with_the_answer() {
        let read = RefCell::default();
        let (bytes, why) = (b"name=value".to_vec(), "no answer".to_owned());
        let stays = Answer::Stays { bytes, why };
        assert!(matches!(stays.after(&read), Err(Trouble::Later(why)) if why == "no answer"));
        let took = Answer::Took(None).after(&read).unwrap();
        assert_eq!(took.as_deref(), Some(&b"name=value"[..]));
        assert!(Answer::Took(None).after(&RefCell::default()).unwrap().is_none());
    }
}
