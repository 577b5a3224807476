//! Starting a program in a session of its own without a copy of the worker.
//!
//! The standard library begins a session only by code of ours between fork and exec, and a fork copies
//! the worker's page tables for a process that execs at once: more than a short script costs. Here the C
//! library does what is needed (posix_spawn, which borrows the worker's memory until the exec).

use std::ffi::{CString, OsStr};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use libc::{POSIX_SPAWN_SETSID, POSIX_SPAWN_SETSIGDEF, POSIX_SPAWN_SETSIGMASK, c_char, c_int, pid_t};

/// Starts a command as the leader of a session and group of its own, with these three streams, and gives
/// its process id. Program, arguments, folder and environment are the command's; the environment is what
/// was set on it and nothing else, and the program is a path.
///
/// # Errors
/// As posix_spawn(3): also where the folder can't be entered or the program not be run.
pub fn in_session(command: &Command, streams: [BorrowedFd<'_>; 3]) -> io::Result<u32> {
    let program = text(command.get_program())?;
    let arguments: Vec<CString> = std::iter::once(Ok(program.clone()))
        .chain(command.get_args().map(text))
        .collect::<io::Result<_>>()?;
    let variables: Vec<CString> = command
        .get_envs()
        .filter_map(|(name, value)| Some([name.as_bytes(), b"=", value?.as_bytes()].concat()))
        .map(|variable| CString::new(variable).map_err(io::Error::from))
        .collect::<io::Result<_>>()?;
    let folder = command
        .get_current_dir()
        .map(|folder| text(folder.as_os_str()))
        .transpose()?;
    // Copies that are none of 0, 1 and 2: else one would be overwritten before it is taken.
    let streams = streams.map(|stream| stream.try_clone_to_owned());
    let mut actions = Actions::new()?;
    if let Some(folder) = &folder {
        actions.enter(folder)?;
    }
    let mut owned = Vec::new();
    for (stream, number) in streams.into_iter().zip(0..) {
        let stream = stream?;
        actions.duplicate(stream.as_raw_fd(), number)?;
        owned.push(stream);
    }
    spawn(
        &program,
        &actions,
        &Attributes::new()?,
        &pointers(&arguments),
        &pointers(&variables),
    )
}

fn text(words: &OsStr) -> io::Result<CString> {
    Ok(CString::new(words.as_bytes())?)
}

/// An array of the C library: pointers, and a null at its end.
fn pointers(texts: &[CString]) -> Vec<*mut c_char> {
    let texts = texts.iter().map(|text| text.as_ptr().cast_mut());
    texts.chain([std::ptr::null_mut()]).collect()
}

#[expect(unsafe_code, reason = "no crate at hand spawns into a session")]
fn spawn(
    program: &CString,
    actions: &Actions,
    attributes: &Attributes,
    arguments: &[*mut c_char],
    variables: &[*mut c_char],
) -> io::Result<u32> {
    let mut pid: pid_t = 0;
    // SAFETY: all pointers are of values that live until the call returns; both arrays end with a null.
    done(unsafe {
        libc::posix_spawn(
            &raw mut pid,
            program.as_ptr(),
            &raw const actions.0,
            &raw const attributes.0,
            arguments.as_ptr(),
            variables.as_ptr(),
        )
    })?;
    u32::try_from(pid).map_err(io::Error::other)
}

/// The result of a call that returns its errno.
fn done(errno: c_int) -> io::Result<()> {
    match errno {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// What the process does before the exec.
struct Actions(libc::posix_spawn_file_actions_t);

#[expect(unsafe_code, reason = "no crate at hand spawns into a session")]
impl Actions {
    fn new() -> io::Result<Self> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: the call fills in what it is given, or fails.
        done(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
        // SAFETY: it was filled in.
        Ok(Actions(unsafe { actions.assume_init() }))
    }

    fn enter(&mut self, folder: &CString) -> io::Result<()> {
        // SAFETY: initialized above; the call copies the path.
        done(unsafe { libc::posix_spawn_file_actions_addchdir_np(&raw mut self.0, folder.as_ptr()) })
    }

    fn duplicate(&mut self, from: c_int, to: c_int) -> io::Result<()> {
        // SAFETY: initialized above; numbers only.
        done(unsafe { libc::posix_spawn_file_actions_adddup2(&raw mut self.0, from, to) })
    }
}

#[expect(unsafe_code, reason = "no crate at hand spawns into a session")]
impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: initialized, and not used again.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

/// A session of its own, no signal blocked, and SIGPIPE as it is for programs that know nothing of it.
struct Attributes(libc::posix_spawnattr_t);

#[expect(unsafe_code, reason = "no crate at hand spawns into a session")]
impl Attributes {
    fn new() -> io::Result<Self> {
        let mut attributes = MaybeUninit::uninit();
        let (mut none, mut pipe) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        // SAFETY: each call fills in what it is given, or fails; `attributes` is filled in by the first.
        unsafe {
            done(libc::posix_spawnattr_init(attributes.as_mut_ptr()))?;
            let mut attributes = Attributes(attributes.assume_init());
            libc::sigemptyset(none.as_mut_ptr());
            libc::sigemptyset(pipe.as_mut_ptr());
            libc::sigaddset(pipe.as_mut_ptr(), libc::SIGPIPE);
            done(libc::posix_spawnattr_setsigmask(&raw mut attributes.0, none.as_ptr()))?;
            done(libc::posix_spawnattr_setsigdefault(
                &raw mut attributes.0,
                pipe.as_ptr(),
            ))?;
            let flags = c_int::from(POSIX_SPAWN_SETSID) | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF;
            let flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
            done(libc::posix_spawnattr_setflags(&raw mut attributes.0, flags))?;
            Ok(attributes)
        }
    }
}

#[expect(unsafe_code, reason = "no crate at hand spawns into a session")]
impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialized, and not used again.
        unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;

    /// What a script of `sh` says when it is started so in a folder.
    fn said(script: &str, folder: &str) -> io::Result<String> {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", script])
            .env_clear()
            .env("WORD", "a b")
            .current_dir(folder);
        let null = File::open("/dev/null")?;
        let (mut reader, writer) = io::pipe()?;
        let pid = in_session(&command, [null.as_fd(), writer.as_fd(), writer.as_fd()])?;
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text)?;
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
        nix::sys::wait::waitpid(pid, None)?;
        Ok(text.replace(&pid.to_string(), "PID"))
    }

    #[test]
    fn it_leads_a_session_of_its_own() {
        assert_eq!(
            said("set -- $(cat /proc/$$/stat); echo $1 $5 $6", "/").unwrap(),
            "PID PID PID\n"
        );
    }

    #[test]
    fn it_has_the_commands_folder_environment_and_streams() {
        assert_eq!(
            said("pwd; echo \"$WORD\"; echo ${HOME-none}; cat; echo to >&2", "/usr").unwrap(),
            "/usr\na b\nnone\nto\n"
        );
        // As a shell has it: nothing blocked, and SIGPIPE ends whom it reaches.
        let masks = said("grep -E '^Sig(Blk|Ign)' /proc/self/status", "/").unwrap();
        assert_eq!(
            masks.split_whitespace().collect::<Vec<_>>()[1],
            "0000000000000000",
            "{masks}"
        );
        let ignored = masks
            .split_whitespace()
            .last()
            .and_then(|mask| u64::from_str_radix(mask, 16).ok());
        assert_eq!(ignored.unwrap() & 1 << (libc::SIGPIPE - 1), 0, "{masks}");
    }

    #[test]
    fn what_cannot_begin_is_told() {
        let missing = said("true", "/nowhere").unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
