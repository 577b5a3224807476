//! Where commands ask the daemon of a mounted folder for what only it can do: gc, fsck and backup.
//!
//! A socket in the source, for root and the user of the mount. The work is done by threads of its
//! own that stand behind all others of the machine, so that builds hardly notice it. Whoever hangs
//! up ends what it asked for.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::stat::{Mode, umask};
use nix::unistd::geteuid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, Semaphore, mpsc};

use super::wire::{Answer, LINE_BYTES_MAX, Request, SOCKET, Told, Verdict, Work, identity};
use crate::backend::embedded::Embedded;
use crate::repository::Repository;
use crate::repository::deadline::Deadline;
use crate::repository::maintain::{Progress, Upkeep};

/// Threads for the work.
const THREADS: usize = 2;

/// How much those threads are behind all others: a tenth of a processor where somebody else wants
/// all of it, and otherwise as much as there is.
const NICENESS: i32 = 10;

/// Blocks of rows that wait to be sent, 256 KiB each.
const BLOCKS_MAX: usize = 4;

/// Commands served at once; others wait.
const COMMANDS_MAX: usize = 8;

/// How long a command may take to say what it wants, or to read what it is told.
const TALK_TIME: Duration = Duration::from_secs(60);

/// How often a command is told how far its work is.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// How often one is looked at that waits for others.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long work may hold up the end of the mount.
const END_TIME: Duration = Duration::from_secs(2);

/// How long fsck lets builds go on before it looks again at what seems wrong: no single call of the
/// mount takes longer.
const SETTLE_TIME: Duration = Duration::from_secs(10);

/// Pause after a connection that can't be taken, such as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The desk of a mount; it is closed before the store is.
pub(super) struct Desk {
    runtime: Runtime,
    path: PathBuf,
}

/// What all connections share.
struct Room {
    store: Embedded,
    repository: Arc<Repository>,
    source: PathBuf,
    /// gc holds it alone, backups together.
    lock: Arc<RwLock<()>>,
    /// Who has the lock.
    holders: Mutex<Vec<String>>,
}

/// The lock, of gc or of a backup.
struct UpkeepLock<'a> {
    _holder: Holder<'a>,
    _guard: Guard,
}

/// What keeps others out.
#[expect(dead_code, reason = "they are kept, and dropped")]
enum Guard {
    /// Everybody.
    Alone(OwnedRwLockWriteGuard<()>),
    /// gc.
    Together(OwnedRwLockReadGuard<()>),
}

/// One who has the lock.
struct Holder<'a> {
    room: &'a Room,
    who: String,
}

impl Drop for Holder<'_> {
    fn drop(&mut self) {
        let mut holders = self.room.holders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = holders.iter().position(|who| *who == self.who) {
            holders.remove(at);
        }
    }
}

impl Desk {
    /// Opens it in the source, whose store this process has: a socket that is there is a dead
    /// mount's.
    pub(super) fn open(source: &Path, store: &Embedded, repository: &Arc<Repository>) -> Result<Desk, String> {
        let path = source.join(SOCKET);
        let explain = |error: io::Error| format!("{}: {error}", path.display());
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .max_blocking_threads(THREADS * 2)
            .thread_name("upkeep")
            .on_thread_start(stand_behind)
            .enable_all()
            .build()
            .map_err(explain)?;
        let listener = listen(source).map_err(explain)?;
        let room = Arc::new(Room {
            store: store.clone(),
            repository: repository.clone(),
            source: source.to_owned(),
            lock: Arc::default(),
            holders: Mutex::default(),
        });
        let _inside = runtime.enter();
        let listener = UnixListener::from_std(listener).map_err(explain)?;
        runtime.spawn(serve(listener, room));
        drop(_inside);
        Ok(Desk { runtime, path })
    }

    /// Ends all that was asked for.
    pub(super) fn close(self) {
        // The next mount takes the place of what is left of it.
        let _left = std::fs::remove_file(&self.path);
        self.runtime.shutdown_timeout(END_TIME);
    }
}

/// Lets everybody else go first.
fn stand_behind() {
    if let Err(error) = rustix::process::nice(NICENESS) {
        tracing::debug!("upkeep stands beside the builds, not behind them: {error}");
    }
}

/// A socket that nobody else may connect to from its first moment on. Its path may be longer than
/// an address: it is named through its folder.
fn listen(source: &Path) -> io::Result<StdListener> {
    let path = source.join(SOCKET);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (_folder, address) = super::ask::address(source)?;
    let before = umask(Mode::from_bits_truncate(0o177));
    let bound = StdListener::bind(address);
    umask(before);
    let listener = bound?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Takes connections, as long as the mount lives.
async fn serve(listener: UnixListener, room: Arc<Room>) {
    let places = Arc::new(Semaphore::new(COMMANDS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let room = room.clone();
                tokio::spawn(async move {
                    room.serve(stream).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!("{SOCKET}: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Room {
    /// Serves one command.
    async fn serve(&self, stream: UnixStream) {
        let peer = match stream.peer_cred() {
            Ok(peer) => peer,
            Err(error) => return tracing::warn!("{SOCKET}: {error}"),
        };
        let (reader, writer) = stream.into_split();
        let mut connection = Connection { writer };
        // The mode says the same; it may have been changed.
        if peer.uid() != 0 && peer.uid() != geteuid().as_raw() {
            tracing::warn!(uid = peer.uid(), pid = peer.pid(), "{SOCKET}: refused");
            let reason = "only root and the user who mounted may ask for that".to_owned();
            return connection.tell(&Answer::Failed(reason)).await.unwrap_or_default();
        }
        let mut reader = BufReader::new(reader);
        let answer = match Deadline::after(TALK_TIME).wait(request(&mut reader)).await {
            Some(Ok(request)) => self.answer(&request, &mut connection, reader).await,
            Some(Err(reason)) => Err(reason),
            None => Err("nothing was asked for".into()),
        };
        let last = answer.unwrap_or_else(Answer::Failed);
        // It may have hung up.
        let _gone = connection.tell(&last).await;
    }

    /// Does what was asked for; the last word.
    async fn answer(
        &self,
        request: &Request,
        connection: &mut Connection,
        mut reader: BufReader<OwnedReadHalf>,
    ) -> Result<Answer, String> {
        let here = self.source.display();
        match identity(&self.source) {
            Ok(found) if found == request.source => {}
            Ok(_) | Err(_) => {
                return Err(format!(
                    "it was mounted as {here} and has been moved since: unmount it, and mount it where it is now"
                ));
            }
        }
        tracing::info!("{:?} asked for by {}", request.work, request.who);
        if request.work == Work::Backup {
            return self.backup(request, connection, reader).await;
        }
        let upkeep = Upkeep::new(self.store.coordination(), self.store.contents());
        let progress = upkeep.progress.clone();
        let work = async {
            match request.work {
                Work::Gc => self.gc(&upkeep, request).await,
                Work::Fsck | Work::Backup => self.fsck(&upkeep).await,
            }
        };
        let verdict = accompany(connection, &mut reader, &progress, work).await?;
        for text in verdict.lines {
            connection.tell(&Answer::Line(text)).await?;
        }
        Ok(verdict.end)
    }

    /// Removes what nothing needs.
    async fn gc(&self, upkeep: &Upkeep, request: &Request) -> Result<Verdict, String> {
        let patience = Duration::from_secs(request.wait);
        let _lock = self.alone(request, &upkeep.progress, patience).await?;
        let swept = upkeep.sweep_own(&self.repository, patience).await;
        let swept = swept.map_err(|error| error.to_string())?;
        tracing::info!("gc: {swept}");
        Ok(Verdict::of_gc(&self.source, &swept))
    }

    /// The lock of gc.
    async fn alone(
        &self,
        request: &Request,
        progress: &Progress,
        patience: Duration,
    ) -> Result<UpkeepLock<'_>, String> {
        let who = format!("gc, {}", request.who);
        let take = || Some(Guard::Alone(self.lock.clone().try_write_owned().ok()?));
        self.take(who, take, progress, patience).await
    }

    /// The lock of a backup.
    async fn together(&self, request: &Request, progress: &Progress) -> Result<UpkeepLock<'_>, String> {
        let who = format!("backup, {}", request.who);
        let take = || Some(Guard::Together(self.lock.clone().try_read_owned().ok()?));
        self.take(who, take, progress, Duration::from_secs(request.wait)).await
    }

    async fn take(
        &self,
        who: String,
        take: impl Fn() -> Option<Guard>,
        progress: &Progress,
        patience: Duration,
    ) -> Result<UpkeepLock<'_>, String> {
        let deadline = Deadline::after(patience);
        loop {
            if let Some(guard) = take() {
                let holder = self.holder(who);
                return Ok(UpkeepLock {
                    _holder: holder,
                    _guard: guard,
                });
            }
            let others = self.others();
            if who.starts_with("gc") && others.starts_with("gc") {
                return Err(format!("gc runs already ({others}): wait for its end"));
            }
            if deadline.passed() {
                return Err(format!(
                    "nothing was done: {others} has not ended within {} s; try again later, or with a longer --wait",
                    patience.as_secs()
                ));
            }
            progress.wait(&others, patience.saturating_sub(deadline.left()), patience);
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Tells the index as it is now, and keeps what it refers to until the command hangs up.
    async fn backup(
        &self,
        request: &Request,
        connection: &mut Connection,
        mut reader: BufReader<OwnedReadHalf>,
    ) -> Result<Answer, String> {
        let progress = Progress::default();
        let lock = self.together(request, &progress);
        let _lock = accompany(connection, &mut reader, &progress, lock).await?;
        let _keeping = self.store.keep().map_err(|error| error.to_string())?;
        let (store, (blocks, mut told)) = (self.store.clone(), mpsc::channel(BLOCKS_MAX));
        let counted = store.clone();
        let rows = tokio::task::spawn_blocking(move || counted.count_rows()).await;
        let rows = rows.map_err(|error| error.to_string())?;
        let rows = usize::try_from(rows.map_err(|error| error.to_string())?).unwrap_or(0);
        progress.begin_of("copying the index", rows);
        connection.tell(&Answer::Progress(Told::Far(progress.now()))).await?;
        connection.tell(&Answer::Rows).await?;
        let telling = tokio::task::spawn_blocking(move || {
            store.tell_rows(&mut |block| match blocks.try_reserve() {
                Ok(place) => {
                    place.send(std::mem::take(block));
                    Some(true)
                }
                Err(TrySendError::Full(())) => Some(false),
                Err(TrySendError::Closed(())) => None,
            })
        });
        while let Some(block) = told.recv().await {
            connection.send(&block).await?;
        }
        if let Err(error) = telling.await.map_err(|error| error.to_string())? {
            // No word of ours is expected among the rows: it meets their end.
            tracing::warn!("backup for {}: {error}", request.who);
            return Err(error.to_string());
        }
        // It copies now, and says nothing more.
        let _hung_up = reader.read_u8().await;
        tracing::info!("backup for {} is over", request.who);
        Ok(Answer::End(true))
    }

    fn holder(&self, who: String) -> Holder<'_> {
        let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        holders.push(who.clone());
        Holder { room: self, who }
    }

    /// Who has the lock.
    fn others(&self) -> String {
        let holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        holders.join(", ")
    }

    /// Checks everything while builds go on.
    async fn fsck(&self, upkeep: &Upkeep) -> Result<Verdict, String> {
        let settle = async { tokio::time::sleep(SETTLE_TIME).await };
        let checked = upkeep.check_live(settle).await.map_err(|error| error.to_string())?;
        Ok(Verdict::from(&checked))
    }
}

/// Does the work, tells how far it is, and gives it up when the command hangs up.
async fn accompany<T>(
    connection: &mut Connection,
    reader: &mut BufReader<OwnedReadHalf>,
    progress: &Progress,
    work: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    let mut work = std::pin::pin!(work);
    let mut tick = tokio::time::interval(TELL_EVERY);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = tick.tick() => {
                connection.tell(&Answer::Progress(Told::Far(progress.now()))).await?;
            }
            // It says nothing more: this is its end.
            _ = reader.read_u8() => return Err("the command hung up".into()),
        }
    }
}

/// Reads what a command wants.
async fn request(reader: &mut BufReader<OwnedReadHalf>) -> Result<Request, String> {
    let mut text = String::new();
    let mut limited = reader.take(LINE_BYTES_MAX);
    limited.read_line(&mut text).await.map_err(|error| error.to_string())?;
    serde_json::from_str(&text).map_err(|error| format!("what is asked for is not understood: {error}"))
}

/// The way back to a command.
struct Connection {
    writer: OwnedWriteHalf,
}

impl Connection {
    async fn tell(&mut self, answer: &Answer) -> Result<(), String> {
        let mut text = serde_json::to_vec(answer).map_err(|error| error.to_string())?;
        text.push(b'\n');
        self.send(&text).await
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        match Deadline::after(TALK_TIME).wait(self.writer.write_all(bytes)).await {
            Some(sent) => sent.map_err(|error| format!("the command hung up: {error}")),
            None => Err("the command reads nothing".into()),
        }
    }
}
