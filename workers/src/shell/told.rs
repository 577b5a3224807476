//! Files in which a script tells something of its build: `$OUTPUTS` and `$TASKS`.
//!
//! They lie among the artifacts, because every environment shows these and they have their bounds already. They are none
//! of them: they are taken away before the result. The script was free to leave anything in their place.

use std::ffi::OsStr;
use std::io::{self, Read};

use crate::adding::{self, OF_TASKS, TASKS_BYTES_MAX};
use crate::beneath::{Folder, trouble};
use crate::ticket::{Claimed, as_a_result};
use crate::tree::{self, Trouble};

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

impl Told {
    /// Takes it away; gives what was in it, if it was there.
    ///
    /// # Errors
    /// `Refused` if it is no file, or too long.
    pub(super) fn take(&self, claimed: &Claimed) -> tree::Result<Option<Vec<u8>>> {
        let Some(folder) = self.folder(claimed)? else {
            return Ok(None);
        };
        let read = self.read(&folder);
        self.remove(&folder)?;
        read.map(Some)
    }

    /// Takes it away unread.
    ///
    /// # Errors
    /// If it can't be removed.
    pub(super) fn discard(&self, claimed: &Claimed) -> tree::Result<()> {
        self.folder(claimed)?.map_or(Ok(()), |folder| self.remove(&folder))
    }

    /// The artifacts, if it is among them.
    fn folder(&self, claimed: &Claimed) -> tree::Result<Option<Folder>> {
        let path = claimed.path("artifacts");
        let look = || {
            let folder = Folder::open(&path).map_err(|e| Trouble::from_io("artifacts", &e))?;
            match folder.stat(OsStr::new(self.name)) {
                Ok(_) => Ok(Some(folder)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(Trouble::from_io(self.variable, &error)),
            }
        };
        as_a_result(look)
    }

    fn remove(&self, folder: &Folder) -> tree::Result<()> {
        as_a_result(|| {
            let removed = folder.remove(OsStr::new(self.name));
            removed.map_err(|e| trouble(&format!("can't remove {}", self.variable), &e))
        })
    }

    fn read(&self, folder: &Folder) -> tree::Result<Vec<u8>> {
        let Told { name, variable, .. } = *self;
        let look = || -> tree::Result<_> {
            let file = folder.read(name).map_err(|e| trouble(variable, &e))?;
            let is_file = file.metadata().map_err(|e| trouble(variable, &e))?.is_file();
            is_file
                .then_some(file)
                .ok_or_else(|| Trouble::Refused(format!("{variable}: not a file")))
        };
        let file = as_a_result(look)?;
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
