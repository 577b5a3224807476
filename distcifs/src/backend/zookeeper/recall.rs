//! The session of a mount that was killed: found in a file, and ended at once, so that its claims
//! need not wait for the session timeout.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use zookeeper_client::{Client, SessionInfo};

use super::opening;
use super::options::Access;

/// Longest that a former session may delay a mount.
const RECALL_MAX: Duration = Duration::from_secs(2);

/// Longest file that is read, bytes: it holds one short line.
const LINE_BYTES_MAX: u64 = 4096;

/// What ZooKeeper servers mix into the seed of a session's password.
const PASSWORD_SALT: u64 = 0xB341_5C00;

/// Length of a session's password, bytes.
const PASSWORD_BYTES: usize = 16;

/// The file with the id of this mount's session, locked for as long as this lives.
#[derive(Debug)]
pub(super) struct SessionFile {
    path: PathBuf,
    file: Flock<File>,
    /// What the session is with: an id is known to the servers that gave it only.
    place: String,
}

impl SessionFile {
    /// Takes the file; without it the mount goes on, and so may its former session.
    pub(super) fn take(path: &Path, place: String) -> Option<SessionFile> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let lock = |file| Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno.into());
        match options.open(path).and_then(lock) {
            Ok(file) => Some(SessionFile {
                path: path.to_owned(),
                file,
                place,
            }),
            Err(error) => {
                tracing::warn!(%error, "{}: the session's id can't be kept there", path.display());
                None
            }
        }
    }

    /// Writes down the session that lives now.
    pub(super) fn save(&self, id: u64) {
        let mut file = &*self.file;
        let line = format!("{id:#018x} {}\n", self.place);
        let written = file
            .rewind()
            .and_then(|()| file.write_all(line.as_bytes()))
            .and_then(|()| file.set_len(line.len() as u64));
        if let Err(error) = written {
            tracing::warn!(%error, "{}: the session's id can't be kept there", self.path.display());
        }
    }

    /// Ends the session that is written down, if it is one with the same servers.
    pub(super) async fn end_former(&self, access: &Access) {
        let Some(id) = self.former() else {
            return;
        };
        let ending = async {
            let session = session(id).await?;
            opening::end(access, session).await.map_err(io::Error::other)
        };
        let session = format!("{id:#x}");
        match timeout(RECALL_MAX, ending).await {
            Ok(Ok(())) => tracing::info!(session, "ended the former session with ZooKeeper"),
            Ok(Err(error)) => tracing::warn!(session, %error, "the former session lives until its timeout"),
            Err(_) => tracing::warn!(session, "the former session lives until its timeout"),
        }
    }

    /// The id that is written down.
    fn former(&self) -> Option<u64> {
        let mut line = String::new();
        let mut file = &*self.file;
        file.rewind().ok()?;
        file.take(LINE_BYTES_MAX).read_to_string(&mut line).ok()?;
        let (id, place) = line.trim_end().split_once(' ')?;
        let id = u64::from_str_radix(id.strip_prefix("0x")?, 16).ok()?;
        (place == self.place && id != 0).then_some(id)
    }
}

/// A session by its id alone. The client makes such a thing only from what a server gave it: so it
/// is given one by ourselves, over the loopback.
async fn session(id: u64) -> io::Result<SessionInfo> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let giving = async {
        let (stream, _) = listener.accept().await?;
        give(stream, id).await
    };
    let taking = Client::connector()
        .with_detached()
        .with_fail_eagerly()
        .connect(&address);
    tokio::select! {
        given = giving => Err(given.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into())),
        taken = taking => Ok(taken.map_err(io::Error::other)?.into_session()),
    }
}

/// Answers a client's request for a session with that of this id, and its signs of life until it
/// goes.
async fn give(mut stream: TcpStream, id: u64) -> io::Result<()> {
    /// Longest request of a client that does nothing but connect, bytes.
    const REQUEST_BYTES_MAX: usize = 1024;
    /// The time that it is told for its session's timeout, milliseconds.
    const TIMEOUT_MS: i32 = 10_000;
    /// The number of the request and the answer that are signs of life.
    const PING: i32 = -2;
    let mut session = Vec::new();
    session.extend(0_i32.to_be_bytes());
    session.extend(TIMEOUT_MS.to_be_bytes());
    session.extend(id.to_be_bytes());
    session.extend((PASSWORD_BYTES as i32).to_be_bytes());
    session.extend(password(id));
    session.push(0);
    let mut ping = Vec::new();
    ping.extend(PING.to_be_bytes());
    ping.extend(0_i64.to_be_bytes());
    ping.extend(0_i32.to_be_bytes());
    let mut answer = session;
    loop {
        let length = usize::try_from(stream.read_i32().await?).unwrap_or(usize::MAX);
        if length > REQUEST_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        stream.read_exact(&mut vec![0; length]).await?;
        stream.write_i32(answer.len() as i32).await?;
        stream.write_all(&answer).await?;
        answer.clone_from(&ping);
    }
}

/// The password of a session: ZooKeeper servers make it from the id alone, with Java's random
/// numbers, so that any of them can check it.
fn password(id: u64) -> [u8; PASSWORD_BYTES] {
    const FACTOR: u64 = 0x5_DEEC_E66D;
    const MASK: u64 = (1 << 48) - 1;
    let mut state = (id ^ PASSWORD_SALT ^ FACTOR) & MASK;
    let mut password = [0; PASSWORD_BYTES];
    for bytes in password.chunks_mut(4) {
        state = state.wrapping_mul(FACTOR).wrapping_add(0xB) & MASK;
        // The upper 32 of the 48 bits, least significant byte first.
        bytes.copy_from_slice(&((state >> 16) as u32).to_le_bytes());
    }
    password
}
