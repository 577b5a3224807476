//! `distcifs mount`: the process that was called, which ends when the mount answers.
//!
//! The daemon is this program started again, in a session of its own, rather than a fork: so it
//! begins without a thread, a lock or a descriptor of ours.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

use super::daemon;
use super::options::{MountOptions, places};
use super::progress::Shown;
use super::{Failure, Outcome};
use crate::cli;
use crate::repository::maintain::Progress;

/// What the daemon says when its mount answers.
pub(super) const ANSWERS: &str = "mounted";

/// What its lines begin with that say what it is doing until then.
pub(super) const DOING: &str = "doing: ";

/// The variable that asks for these lines: an `up` that runs since before an upgrade does not know them.
pub(super) const TELLS: &str = "DISTCIFS_TELLS";

/// Bytes of a reason that are read from the daemon at most.
const REASON_BYTES_MAX: u64 = 64 * 1024;

/// How glibc is told the number of its memory arenas: mallopt(3).
const ARENAS: &str = "MALLOC_ARENA_MAX";

/// Mounts; returns when the mount answers, with `-f` when it has ended.
pub(super) fn mount(arguments: cli::Mount) -> Outcome {
    // Wrong options are told before anything is touched.
    MountOptions::parse(arguments.source.clone(), PathBuf::from("/"), &arguments.options).map_err(Failure::Usage)?;
    let told = arguments.child;
    if arguments.foreground || told.is_some() {
        let served = places(&arguments.source, &arguments.mountpoint).and_then(|(source, mountpoint)| {
            let options = MountOptions::parse(source, mountpoint, &arguments.options)?;
            daemon::serve(&options, told, arguments.foreground)
        });
        return served.or_else(|reason| daemon::tell_failure(told, reason));
    }
    let mut command = program()?;
    command.args(["mount", "--child", "background"]);
    command.args(arguments.options.iter().flat_map(|value| ["-o", value]));
    command.arg("--").args([&arguments.source, &arguments.mountpoint]);
    let mut child = start(command)?;
    let shown = Shown::new(format!("mounting {}", arguments.mountpoint.display()));
    let reason = hear(output_of(&mut child)?, &shown.progress);
    drop(shown);
    answered(&mut child, reason)
}

/// This program, to be started again.
pub(super) fn program() -> Result<Command, Failure> {
    let path = std::env::current_exe().map_err(|error| Failure::Refused(format!("my own program: {error}")))?;
    // An upgrade may have replaced the file; the running one is still there under this name.
    let mut command = Command::new(if path.exists() {
        path
    } else {
        PathBuf::from("/proc/self/exe")
    });
    command.arg0("distcifs");
    Ok(command)
}

/// Starts a daemon that tells on its standard output how it fares.
pub(super) fn start(mut command: Command) -> Result<Child, Failure> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).env(TELLS, "1");
    // Chunks pass from thread to thread: what one has freed another is to use again, not new pages.
    if std::env::var_os(ARENAS).is_none() {
        command.env(ARENAS, "1");
    }
    command
        .spawn()
        .map_err(|error| Failure::Refused(format!("can't start the daemon: {error}")))
}

/// Where the daemon tells how it fares.
pub(super) fn output_of(daemon: &mut Child) -> Result<ChildStdout, Failure> {
    let output = daemon.stdout.take();
    output.ok_or_else(|| Failure::Refused("the daemon's output is not to be had".into()))
}

/// Waits until the daemon's mount answers, or for the reason why it does not, which it gives back.
pub(super) fn hear(output: ChildStdout, progress: &Progress) -> Option<String> {
    let mut output = BufReader::new(output.take(REASON_BYTES_MAX));
    let mut text = String::new();
    // An end without a word has an empty one.
    while output.read_line(&mut text).is_ok() {
        if text.trim_end() == ANSWERS {
            return None;
        }
        let Some(doing) = text.strip_prefix(DOING) else { break };
        progress.begin(doing.trim_end());
        text.clear();
    }
    output.read_to_string(&mut text).ok();
    Some(text)
}

/// What came of a daemon that was heard.
pub(super) fn answered(daemon: &mut Child, reason: Option<String>) -> Outcome {
    let Some(mut text) = reason else { return Ok(()) };
    let status = daemon.wait();
    if text.trim().is_empty() {
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        text = format!("the daemon ended without a word ({status})");
    }
    Err(Failure::Refused(text.trim().to_owned()))
}
