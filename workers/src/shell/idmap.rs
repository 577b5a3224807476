//! Folders whose owners look different: what is user 0 on disk is shown as the first id of a range,
//! by a mount (MOUNT_ATTR_IDMAP of mount_setattr). So an image lies on disk once, with its own ids,
//! and each task sees it as its own.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use composefs_ioctls::mount::mount_setattr_idmap;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::ranges::{IDS_COUNT, Ids};

/// The words that make execute-shell do this: try it, do it and become another program, and be the
/// owner of a user namespace for as long as somebody reads its number.
const TRY: &str = "--try-idmap";
const SHOW: &str = "--show-idmapped";
const HOLD: &str = "--hold-ids";

/// Whether folders at this place can be shown so.
pub(super) fn works(folder: &Path, ids: Ids) -> bool {
    let mut command = called(TRY, folder, ids);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The call of a program that sees the folder so; it must have a mount namespace of its own.
pub(super) fn shown_to(program: &Path, folder: &Path, ids: Ids) -> Command {
    let mut command = called(SHOW, folder, ids);
    command.arg(program);
    command
}

fn called(word: &str, folder: &Path, ids: Ids) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg(word)
        .arg(folder)
        .args([ids.uid.to_string(), ids.gid.to_string()]);
    command
}

/// What such a call does, if it is one.
pub fn main(words: &[OsString]) -> Option<ExitCode> {
    let (word, rest) = words.get(1..)?.split_first()?;
    let done = match word.to_str()? {
        HOLD => hold(),
        TRY => in_order(rest).and_then(|(folder, ids, _)| own_mounts().and_then(|()| show(folder, ids))),
        SHOW => in_order(rest).and_then(|(folder, ids, program)| match become_program(folder, ids, program) {
            Err(error) => Err(error),
            Ok(never) => match never {},
        }),
        _ => return None,
    };
    Some(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("execute-shell: can't show an image to its task: {error}");
            ExitCode::FAILURE
        }
    })
}

/// Folder, ids and further words of such a call.
fn in_order(words: &[OsString]) -> io::Result<(&Path, Ids, &[OsString])> {
    let number = |word: &OsStr| word.to_str().and_then(|word| word.parse().ok());
    let [folder, uid, gid, program @ ..] = words else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let (Some(uid), Some(gid)) = (number(uid), number(gid)) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    Ok((Path::new(folder), Ids { uid, gid }, program))
}

fn become_program(folder: &Path, ids: Ids, words: &[OsString]) -> io::Result<Infallible> {
    let (program, arguments) = words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    show(folder, ids)?;
    Err(Command::new(program).args(arguments).exec())
}

/// Gives this process a mount namespace of its own.
pub(super) fn own_mounts() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none: Option<&str> = None;
    Ok(mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?)
}

/// Mounts a folder over itself with the ids of a range; this process has a mount namespace of its own.
pub(super) fn show(folder: &Path, ids: Ids) -> io::Result<()> {
    let namespace = namespace(ids)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, folder, flags)?;
    mount_setattr_idmap(&tree, &namespace)?;
    move_mount(&tree, "", CWD, folder, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(())
}

/// A user namespace with these ids: that of a process which does nothing else and ends here.
fn namespace(ids: Ids) -> io::Result<File> {
    let mut holder = Command::new("/proc/self/exe")
        .arg(HOLD)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let pid = holder.id();
    let map = |kind: &str, first: u32| {
        let path = format!("/proc/{pid}/{kind}_map");
        fs::write(path, format!("0 {first} {IDS_COUNT}\n"))
    };
    let opened = match &mut holder.stdout {
        Some(stdout) => stdout
            .read_exact(&mut [0])
            .and_then(|()| map("uid", ids.uid))
            .and_then(|()| map("gid", ids.gid))
            .and_then(|()| File::open(format!("/proc/{pid}/ns/user"))),
        None => Err(io::ErrorKind::BrokenPipe.into()),
    };
    drop(holder.stdin.take());
    holder.wait()?;
    opened
}

/// Owns a user namespace until nobody holds the other end of its input.
fn hold() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWUSER)?;
    let mut stdout = io::stdout();
    stdout.write_all(b"!")?;
    stdout.flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
