//! `probe`: tries what it is told on standard input, a line each, as whoever it runs as, and says
//! how it went: `ok`, or the number of the error. The matrix of permissions is made with it.
//!
//! A line is OPERATION, ARGUMENT and PATH with tabs between them. What an operation makes it takes
//! away again, so that the next caller finds the same tree; `hold` and `keep` alone keep what they opened.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufRead, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};
use rustix::fs::{XattrFlags, setxattr};

/// As much of a file as is searched for a mark: no file of the matrix is larger.
const SEARCHED_MAX: u64 = 1 << 20;

/// An access control list that gives the user 1 everything: user::rwx, user:1:rwx, group::---,
/// mask::rwx, other::---.
const OPEN_TO_ONE: [u8; 44] = [
    2, 0, 0, 0, // version
    1, 0, 7, 0, 255, 255, 255, 255, // the owner
    2, 0, 7, 0, 1, 0, 0, 0, // user 1
    4, 0, 0, 0, 255, 255, 255, 255, // the group
    16, 0, 7, 0, 255, 255, 255, 255, // the mask
    32, 0, 0, 0, 255, 255, 255, 255, // others
];

fn main() {
    let mut held = Vec::new();
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        let mut words = line.splitn(3, '\t');
        let (Some(operation), Some(argument), Some(path)) = (words.next(), words.next(), words.next()) else {
            panic!("no operation, argument and path in {line:?}");
        };
        let said = match run(operation, argument, Path::new(path), &mut held) {
            Ok(()) => "ok".to_owned(),
            Err(error) => error
                .raw_os_error()
                .map_or(error.to_string(), |errno| errno.to_string()),
        };
        println!("{said}");
        // Nobody to tell if that is gone.
        let _ = io::stdout().flush();
    }
}

fn run(operation: &str, argument: &str, path: &Path, held: &mut Vec<(PathBuf, File)>) -> io::Result<()> {
    match operation {
        "stat" => fs::symlink_metadata(path).map(|_| ()),
        "list" => fs::read_dir(path)?.try_for_each(|entry| entry.map(|_| ())),
        "readlink" => fs::read_link(path).map(|_| ()),
        "read" => File::open(path)?.read(&mut [0_u8; 1]).map(|_| ()),
        // For what answers late or does something when it is read.
        "open" => File::open(path).map(|_| ()),
        "write" => writing(path).map(|_| ()),
        "create" => {
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            fs::remove_file(path)
        }
        "mkdir" => {
            fs::DirBuilder::new().mode(0o700).create(path)?;
            fs::remove_dir(path)
        }
        "unlink" => fs::remove_file(path),
        "rmdir" => fs::remove_dir(path),
        "rename" => fs::rename(path, argument),
        "chmod" => {
            let mode = argument.parse().map_err(io::Error::other)?;
            let mode = Mode::from_bits_truncate(mode);
            Ok(fchmodat(
                nix::fcntl::AT_FDCWD,
                path,
                mode,
                FchmodatFlags::FollowSymlink,
            )?)
        }
        "acl" => Ok(setxattr(
            path,
            "system.posix_acl_access",
            &OPEN_TO_ONE,
            XattrFlags::empty(),
        )?),
        "hold" => {
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
            held.push((path.to_owned(), file));
            Ok(())
        }
        "keep" => {
            held.push((path.to_owned(), File::open(path)?));
            Ok(())
        }
        // Through what is kept of that path, whatever is there now.
        "fchmod" => {
            let mode = argument.parse().map_err(io::Error::other)?;
            kept(path, held)?.set_permissions(Permissions::from_mode(mode))
        }
        "fchown" => {
            let user = argument.parse().map_err(io::Error::other)?;
            fchown(kept(path, held)?, Some(user), None)
        }
        "search" => search(argument, path),
        _ => panic!("no operation {operation}"),
    }
}

/// What was opened of a path and kept.
fn kept<'a>(path: &Path, held: &'a [(PathBuf, File)]) -> io::Result<&'a File> {
    let found = held.iter().rev().find(|(known, _)| known == path);
    found.map(|(_, file)| file).ok_or_else(|| io::Error::other("not kept"))
}

/// Opens for writing as a shell does, without waiting for a lock, and without cutting anything.
fn writing(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(path)
}

/// Ok if the mark stands in the file; ENODATA if it does not.
fn search(mark: &str, path: &Path) -> io::Result<()> {
    let mut text = Vec::new();
    File::open(path)?.take(SEARCHED_MAX).read_to_end(&mut text)?;
    let there = text.windows(mark.len()).any(|window| window == mark.as_bytes());
    if there {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(nix::libc::ENODATA))
    }
}
