//! Whether anybody may go on changing a file that is no longer open: through a mapping.
//!
//! The kernel maps a passed-through file by itself and lets the file that was opened go: the daemon
//! sees it closed while the mapping lives. A read lease tells: the kernel grants none while a file
//! is open for writing anywhere, and a mapping that may write keeps it open.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::errno::Errno;

/// fcntl(2) has it; libc has not, on most systems. The same on all that Linux runs on here.
const F_SETSIG: libc::c_int = 10;

/// How long a file that was just closed may still look open: the kernel lets it go a moment after it has told.
const CLOSING_MAX: Duration = Duration::from_millis(10);
/// One step of that wait.
const CLOSING_STEP: Duration = Duration::from_millis(1);

/// Looks at files one after another, and waits for all of them together no longer than for one.
#[derive(Debug, Default)]
pub(super) struct Look {
    waited: Duration,
    /// Whether one was met that somebody may go on writing, or may for all that is known.
    pub(super) met_writers: bool,
}

impl Look {
    /// Looks at a file, by a descriptor that reads.
    pub(super) fn at(&mut self, file: &File) {
        while !self.met_writers {
            match take(file) {
                Ok(()) => return,
                Err(Errno::EAGAIN) if self.waited < CLOSING_MAX => {
                    std::thread::sleep(CLOSING_STEP);
                    self.waited += CLOSING_STEP;
                }
                // EACCES: neither the owner nor CAP_LEASE; EINVAL: a disk without leases.
                Err(_) => self.met_writers = true,
            }
        }
    }
}

/// Whether somebody may go on writing a file, by a descriptor that only reads. Of one that was just closed this
/// may be told for a moment; of a disk without leases never.
pub(crate) fn is_written(file: &File) -> bool {
    take(file) == Err(Errno::EAGAIN)
}

/// Takes a read lease and gives it back.
#[expect(unsafe_code, reason = "neither nix nor rustix has leases")]
fn take(file: &File) -> Result<(), Errno> {
    let fd = file.as_raw_fd();
    // SAFETY: the descriptor is open for as long as `file`, and no call takes a pointer.
    unsafe {
        // Who opens it for writing in this moment has the kernel tell us: by a signal that nobody minds, and
        // not by the one that ends a process.
        Errno::result(libc::fcntl(fd, F_SETSIG, libc::SIGURG))?;
        Errno::result(libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK))?;
        Errno::result(libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    #[test]
    fn a_file_that_is_open_for_writing_is_told_from_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, "x").unwrap();
        let (read, reader) = (File::open(&path).unwrap(), File::open(&path).unwrap());
        let look = || {
            let mut look = Look::default();
            look.at(&read);
            look.at(&read);
            look.met_writers
        };
        assert!(!look());
        drop(reader);
        let writer = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        assert!(look());
        drop(writer);
        assert!(!look());
        OpenOptions::new().append(true).open(&path).unwrap();
        assert!(!look());
    }
}
