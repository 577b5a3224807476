//! Where the work of one ticket is done: by a process that is the owner of the job, and has the
//! ticket's folder and nothing else of its worker.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use distcifs_settings::expand::plain;
use nix::sys::prctl;
use nix::unistd::geteuid;
use rustix::io::Errno;
use serde_json::Value;

use super::{Kind, Report};
use crate::beneath::{Folder, inside, is, more_descriptors, trouble};
use crate::signals;
use crate::ticket::Ticket;
use crate::tree::{self, Trouble};

/// Longest file of a ticket that is read, bytes: a ticket has 256 KiB.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Longest reason in a report, bytes; the result cuts it to its own length.
const REASON_BYTES_MAX: usize = 8 << 10;

/// A ticket at hand.
#[derive(Debug)]
pub struct Desk {
    /// The name of the worker, which begins its lines in the console.
    pub name: &'static str,
    /// `tickets/<queue>/<id>`.
    folder: Folder,
    /// Where the tree is mounted.
    mount: PathBuf,
    /// What is to be done.
    pub ticket: Ticket,
}

/// What the process for a ticket does: the work, then the report on standard output.
pub(super) fn main(kind: &Kind, mount: &OsStr) -> ExitCode {
    let done = Desk::new(kind, Path::new(mount)).and_then(|desk| (kind.work)(&desk));
    let mut report = Report::default();
    let code = match done {
        Ok(found) => {
            report.recorded = found.recorded;
            report.tasks = found.tasks;
            report.wrong = found.wrong.map(|why| cut(&why).to_owned());
            ExitCode::SUCCESS
        }
        Err(Trouble::Refused(why) | Trouble::Full(why)) => {
            say(&format!("{}: {why}", kind.name));
            report.failed = Some(cut(&why).to_owned());
            ExitCode::FAILURE
        }
        Err(Trouble::Away(why) | Trouble::Lost(why) | Trouble::Later(why) | Trouble::Held(why)) => {
            report.later = Some(cut(&why).to_owned());
            ExitCode::FAILURE
        }
    };
    let written = serde_json::to_vec(&report).map_err(io::Error::other).and_then(|text| {
        if text.len() > kind.report_bytes() {
            return Err(io::Error::other("too much to report"));
        }
        let mut out = io::stdout().lock();
        out.write_all(&text)?;
        out.flush()
    });
    if let Err(error) = written {
        say(&format!("{}: can't report: {error}", kind.name));
        return ExitCode::FAILURE;
    }
    code
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(REASON_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Writes a line to the console; without a reader there is nobody to tell.
pub fn say(line: &str) {
    let _ = io::stderr().lock().write_all(format!("{line}\n").as_bytes());
}

impl Desk {
    fn new(kind: &Kind, mount: &Path) -> tree::Result<Self> {
        let cant = |error: io::Error| Trouble::from_io("can't begin", &error);
        // Other processes of this user have no business in this one, nor with what it holds open.
        prctl::set_dumpable(false).map_err(|errno| cant(errno.into()))?;
        signals::seal_descriptors().map_err(cant)?;
        more_descriptors();
        let folder = Folder::of(io::stdin().as_fd().try_clone_to_owned().map_err(cant)?);
        let bytes = read(&folder, Path::new("ticket.json")).map_err(|e| Trouble::from_io("ticket.json", &e))?;
        let ticket = serde_json::from_slice(&bytes).map_err(|e| Trouble::Refused(format!("ticket.json: {e}")))?;
        Ok(Desk {
            name: kind.name,
            folder,
            mount: mount.to_owned(),
            ticket,
        })
    }

    /// A parameter as text; what is empty is as if it were not given.
    pub fn param(&self, name: &str) -> Option<String> {
        let value = self.ticket.params.get(name).map(plain).unwrap_or_default();
        Some(value).filter(|value| !value.is_empty())
    }

    /// A parameter that is a list, or one text with an item a line.
    pub fn list(&self, name: &str) -> Vec<String> {
        let items = match self.ticket.params.get(name) {
            Some(Value::Array(items)) => items.iter().map(plain).collect(),
            Some(value) => plain(value).lines().map(str::to_owned).collect(),
            None => Vec::new(),
        };
        items.into_iter().filter(|item: &String| !item.is_empty()).collect()
    }

    /// A parameter that is a folder in the workspace, as a path below it.
    ///
    /// # Errors
    /// `Refused` if it leads out.
    pub fn folder_param(&self, name: &str) -> tree::Result<PathBuf> {
        let text = self.param(name).unwrap_or_default();
        inside(&text)
            .ok_or_else(|| Trouble::Refused(format!("params.{name} '{text}' must be a folder in the workspace")))
    }

    /// The workspace.
    ///
    /// # Errors
    /// If it can't be entered.
    pub fn workspace(&self) -> tree::Result<Folder> {
        self.enter("workspace")
    }

    /// The folder of what is to be published.
    ///
    /// # Errors
    /// If it can't be entered.
    pub fn artifacts(&self) -> tree::Result<Folder> {
        self.enter("artifacts")
    }

    fn enter(&self, name: &str) -> tree::Result<Folder> {
        self.folder.enter(name).map_err(|e| Trouble::from_io(name, &e))
    }

    /// A folder in the workspace, made if it is not there, of which no part is a link.
    ///
    /// # Errors
    /// `Refused` with the parameter's name if it can't be had.
    pub fn make_folder(&self, name: &str) -> tree::Result<Folder> {
        let path = self.folder_param(name)?;
        let made = self.workspace()?.make(&path);
        made.map_err(|e| trouble(&format!("params.{name} '{}'", path.display()), &e))
    }

    /// The jobs as the owner of this ticket's job sees them.
    ///
    /// # Errors
    /// If they can't be had.
    pub fn jobs(&self) -> tree::Result<Folder> {
        let cant = |e: io::Error| Trouble::from_io("jobs", &e);
        match self.folder.enter("jobs") {
            // A ticket that stands alone has none: it sees what this process does, if that is who posted it.
            Err(error) if is(&error, Errno::NOENT) && self.ticket.job.is_none() => {
                if !is_for(self.ticket.owner, geteuid().as_raw()) {
                    return Err(Trouble::Refused(
                        "a ticket that stands alone sees the jobs of nobody but who posted it, and this worker is \
                         another user"
                            .to_owned(),
                    ));
                }
                Folder::open(&self.mount.join("jobs")).map_err(cant)
            }
            other => other.map_err(cant),
        }
    }
}

/// Whether who posted a ticket may see what this user does. Root may see everything.
fn is_for(owner: Option<u32>, user: u32) -> bool {
    owner.is_some_and(|owner| owner == user || owner == 0)
}

/// Reads a small file.
///
/// # Errors
/// If it can't be read.
pub fn read(folder: &Folder, path: &Path) -> io::Result<Vec<u8>> {
    let file: File = folder.read(path)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        // Half of a file would be read for something else.
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("{} is longer than {FILE_BYTES_MAX} bytes", path.display()),
        ));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_not_read_in_part() {
        let place = std::env::temp_dir().join(format!("distcifs-desk.{}", std::process::id()));
        std::fs::create_dir_all(&place).unwrap();
        let folder = Folder::open(&place).unwrap();
        let most = usize::try_from(FILE_BYTES_MAX).unwrap();
        for (bytes, fits) in [(most, true), (most + 1, false)] {
            std::fs::write(place.join("f"), vec![b'x'; bytes]).unwrap();
            let read = read(&folder, Path::new("f"));
            assert_eq!(read.map(|read| read.len()).ok(), fits.then_some(most), "{bytes}");
        }
        std::fs::remove_dir_all(&place).unwrap();
    }

    /// "A worker with --shared shows a ticket that stands alone no jobs by its own rights."
    #[test]
    fn a_ticket_that_stands_alone_sees_what_its_poster_may() {
        assert!(is_for(Some(1000), 1000) && is_for(Some(0), 1000));
        assert!(!is_for(Some(1001), 1000) && !is_for(None, 1000));
    }
}
