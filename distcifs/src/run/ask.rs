//! Asks the daemon of a mounted folder, by the socket in the source.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{OFlag, open};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::sys::stat::Mode;
use nix::unistd::geteuid;

use super::progress::Shown;
use super::wire::{Answer, LINE_BYTES_MAX, Request, SOCKET, Work, identity};
use super::{Failure, Outcome, lock};
use crate::repository::deadline::Deadline;
use crate::repository::maintain::Progress;

/// How long a daemon that has the source may take to answer: it may be about to begin or to end.
const CONNECT_TIME: Duration = Duration::from_secs(5);
const TRY_EVERY: Duration = Duration::from_millis(50);

/// How long the daemon may say nothing: it tells twice a second how far it is, if it gets the
/// processor.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Most that is shown of another process's command line, characters.
const SHOWN_MAX: usize = 80;

/// A daemon that was asked.
pub(super) struct Asked {
    pub(super) stream: BufReader<UnixStream>,
    progress: Arc<Progress>,
}

/// The address of the socket of a source, whatever the length of its path; the descriptor is what
/// it is named by.
pub(super) fn address(source: &Path) -> io::Result<(OwnedFd, PathBuf)> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let folder = open(source, flags, Mode::empty())?;
    let address = format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd());
    Ok((folder, address.into()))
}

/// Asks the daemon that has a folder; `None` if nobody has it. How far that is goes to `shown`.
pub(super) fn ask(source: &Path, work: Work, wait: u64, shown: &Shown) -> Result<Option<Asked>, Failure> {
    let place = source.display();
    let explain = |error: io::Error| Failure::Refused(format!("{place}: {error}"));
    if !source.join("format").exists() {
        return Err(Failure::Refused(format!("{place}: holds no store of distcifs")));
    }
    shown.progress.begin(format!("asking who has {place}"));
    let Some(stream) = connect(source)? else {
        return Ok(None);
    };
    shown.progress.begin("asking the daemon of the mount");
    let request = Request {
        work,
        who: whoami(),
        wait,
        source: identity(source).map_err(explain)?,
    };
    let mut text = serde_json::to_vec(&request).map_err(|error| explain(error.into()))?;
    text.push(b'\n');
    // Whoever refuses us may have hung up already: its answer says why.
    match (&stream).write_all(&text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(explain(error)),
        _ => {}
    }
    Ok(Some(Asked {
        stream: BufReader::new(stream),
        progress: shown.progress.clone(),
    }))
}

/// Who asks, for those who come meanwhile.
pub(super) fn whoami() -> String {
    let host = nix::unistd::gethostname().unwrap_or_default();
    format!("process {} on {}", std::process::id(), host.to_string_lossy())
}

/// Connects to the daemon that has the folder; `None` if nobody has it.
fn connect(source: &Path) -> Result<Option<UnixStream>, Failure> {
    let (deadline, place) = (Deadline::after(CONNECT_TIME), source.display());
    loop {
        let tried = address(source).and_then(|(_folder, address)| UnixStream::connect(address));
        match tried {
            Ok(stream) => return check(source, stream).map(Some),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(Failure::Refused(format!(
                    "{place}: only root and the user who mounted may ask for that ({error})"
                )));
            }
            // What a dead daemon has left, or none there.
            Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused].contains(&error.kind()) => {
                if lock::wait_free(source, Duration::ZERO) {
                    return Ok(None);
                }
            }
            Err(error) => return Err(Failure::Refused(format!("{place}/{SOCKET}: {error}"))),
        }
        if deadline.passed() {
            return Err(Failure::Refused(format!(
                "{place} is in use by {}, which does not answer on {place}/{SOCKET}: wait for its end; \
                 if it is a mount of an earlier version, unmount and mount it anew",
                holder(source)
            )));
        }
        std::thread::sleep(TRY_EVERY);
    }
}

/// Makes sure that it is a daemon that may have this folder, and no stranger's trap.
fn check(source: &Path, stream: UnixStream) -> Result<UnixStream, Failure> {
    let explain = |error: io::Error| Failure::Refused(format!("{}/{SOCKET}: {error}", source.display()));
    let peer = getsockopt(&stream, PeerCredentials).map_err(|error| explain(error.into()))?;
    let owner = std::fs::metadata(source).map_err(explain)?.uid();
    if ![0, owner, geteuid().as_raw()].contains(&peer.uid()) {
        return Err(Failure::Refused(format!(
            "{}/{SOCKET} belongs to process {} of user {}, who does not own the folder",
            source.display(),
            peer.pid(),
            peer.uid()
        )));
    }
    stream.set_read_timeout(Some(SILENCE_MAX)).map_err(explain)?;
    stream.set_write_timeout(Some(SILENCE_MAX)).map_err(explain)?;
    Ok(stream)
}

/// The process that has the folder, as it is called.
fn holder(source: &Path) -> String {
    let mut text = String::new();
    let read = File::open(source.join("lock")).and_then(|file| file.take(32).read_to_string(&mut text));
    let (Ok(_), Ok(pid)) = (read, text.trim().parse::<u32>()) else {
        return "another process".into();
    };
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line).replace('\0', " ");
    let line: String = line
        .trim()
        .chars()
        .filter(|c| !c.is_control())
        .take(SHOWN_MAX)
        .collect();
    format!("process {pid} ({line})")
}

impl Asked {
    /// The daemon's next word, but for how far it is, which is shown.
    pub(super) fn next(&mut self) -> Result<Answer, Failure> {
        loop {
            let mut text = String::new();
            let read = (&mut self.stream).take(LINE_BYTES_MAX).read_line(&mut text);
            let lost = |why: &str| Failure::Refused(format!("the daemon of the mount {why}; run it again"));
            match read {
                Ok(0) => return Err(lost("ended meanwhile")),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(lost("says nothing more")),
                // What it had not read of us is lost with it.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(lost("ended meanwhile")),
                Err(error) => return Err(lost(&format!("can't be heard any more ({error})"))),
            }
            let answer = serde_json::from_str(&text);
            match answer.map_err(|error| lost(&format!("is not understood ({error})")))? {
                Answer::Progress(told) => self.progress.follow(told.into()),
                other => return Ok(other),
            }
        }
    }

    /// Prints what the daemon says up to its end.
    pub(super) fn print(mut self, shown: Shown) -> Outcome {
        let mut answer = self.next()?;
        // The work is done: its lines stand on clean ones.
        drop(shown);
        loop {
            match answer {
                Answer::Line(line) => super::maintain::say(&line)?,
                Answer::End(true) => return Ok(()),
                Answer::End(false) => return Err(Failure::Told),
                Answer::Failed(reason) => return Err(Failure::Refused(reason)),
                Answer::Rows | Answer::Progress(_) => {}
            }
            answer = self.next()?;
        }
    }
}
