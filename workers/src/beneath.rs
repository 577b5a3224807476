//! Folders of which nothing leads out, and what it means for a task where one of them fails.

use std::io;

use rustix::io::Errno;

use crate::tree::Trouble;

pub use distcifs_beneath::{DEPTH_MAX, Folder, PATH_BYTES_MAX, inside, is, more_descriptors, next_name, shown};

/// What failed at a place below a folder. Unlike in the tree, what is missing there is no lost claim.
pub fn trouble(what: &str, error: &io::Error) -> Trouble {
    let errno = Errno::from_io_error(error);
    match errno {
        Some(Errno::LOOP) => Trouble::Refused(format!("{what}: a link, and links are not followed")),
        Some(Errno::XDEV) => Trouble::Refused(format!("{what}: leads out of the folder")),
        Some(Errno::NOENT | Errno::EXIST | Errno::NOSPC | Errno::DQUOT) => Trouble::Refused(format!("{what}: {error}")),
        Some(Errno::NOSYS) => Trouble::Refused(format!("{what}: {error}; this needs Linux 5.6 and its openat2")),
        _ => Trouble::from_io(what, error),
    }
}
