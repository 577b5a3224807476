//! The embedded store: one directory, one process, no service to run.
//!
//! Entries live in memory and in redb, records in redb, blobs and consoles in plain files. One
//! thread commits everything that waits as a group; another makes files durable, also as a group.
//! What is ephemeral dies with the process.
//!
//! ```text
//! DIR/lock              held by the process that has the store open; its process number
//! DIR/format            the version line
//! DIR/index.redb        entries and records
//! DIR/objects/chunk/ab/<64 digits>, DIR/objects/tree/ab/<64 digits>
//! DIR/consoles/<uid>/<name>
//! DIR/tmp/              files not yet renamed into place; emptied at open
//! ```

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::watch;

use crate::storage::listeners::Listeners;
use crate::storage::{Contents, Coordination, Session};

mod archive;
mod blobs;
mod committer;
mod consoles;
mod contents;
mod coordination;
mod copy;
mod dirty;
mod disk;
mod files;
mod home;
mod marks;
mod rows;
mod snapshot;
#[cfg(test)]
mod speed;
mod syncer;
#[cfg(test)]
mod tests;

pub use archive::{Archive, Placed};
pub use copy::{Copied, Copier};
pub use home::OpenError;
pub use snapshot::{Keeping, Rows, RowsError, Take};

/// Tries to look at an index that a thread of this process, which has just listed it, is about to
/// let go of, and the pause between: five seconds in all.
const LOOKS_MAX: u32 = 2500;
const LOOK_PAUSE: Duration = Duration::from_millis(2);

/// An open embedded store; clones share it. The last clone to go waits until what is queued is
/// written, and lets another process open the directory.
#[derive(Clone)]
pub struct Embedded {
    core: Arc<Core>,
}

/// What all clones share, and the threads that end with it.
struct Core {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What the threads and the calls work on.
struct Shared {
    committer: committer::Committer,
    listeners: Arc<Listeners>,
    files: files::Files,
    syncer: syncer::Syncer,
    session: watch::Sender<Session>,
    /// Declared last, so that the directory is let go after everything in it is closed.
    home: home::Home,
}

impl Embedded {
    /// Opens the store in a directory, which is made if there is none, and takes it for this
    /// process.
    ///
    /// # Errors
    /// When the directory cannot be used, with the reason and the remedy.
    pub fn open(dir: &Path) -> Result<Embedded, OpenError> {
        Self::open_with(dir, disk::RESERVE_BYTES)
    }

    /// Opens the store; `reserve`: room that commits leave on the disk, bytes.
    fn open_with(dir: &Path, reserve: u64) -> Result<Embedded, OpenError> {
        let home = home::Home::open(dir)?;
        let disk = disk::Disk::open(&home.index(), reserve).map_err(|e| home.damaged(&e))?;
        let loaded = disk.load().map_err(|e| home.damaged(&e))?;
        home.settle().map_err(|e| home.unusable(e))?;
        let shared = Arc::new(Shared::new(home, disk, loaded));
        let mut core = Core {
            shared: Arc::clone(&shared),
            threads: Vec::new(),
        };
        let failed = |error| shared.home.unusable(error);
        let committing = Arc::clone(&shared);
        core.start("store-commit", move || committing.committer.run())
            .map_err(failed)?;
        let syncing = Arc::clone(&shared);
        core.start("store-sync", move || syncing.syncer.run(&syncing.files))
            .map_err(failed)?;
        Ok(Embedded { core: Arc::new(core) })
    }

    /// Looks at the files of a directory, which others may use meanwhile, by an index that nobody
    /// writes. Whoever has the store so changes nothing in it: nothing would be written.
    ///
    /// # Errors
    /// When the index can't be read.
    pub fn look(dir: &Path, index: &Path) -> Result<Embedded, OpenError> {
        let home = home::Home::frozen(dir, index);
        let mut opened = disk::Disk::open(&home.index(), 0);
        for _ in 1..LOOKS_MAX {
            if !matches!(opened, Err(redb::Error::DatabaseAlreadyOpen)) {
                break;
            }
            thread::sleep(LOOK_PAUSE);
            opened = disk::Disk::open(&home.index(), 0);
        }
        let disk = opened.map_err(|e| home.damaged(&e))?;
        let loaded = disk.look().map_err(|e| home.damaged(&e))?;
        let shared = Arc::new(Shared::new(home, disk, loaded));
        let threads = Vec::new();
        Ok(Embedded {
            core: Arc::new(Core { shared, threads }),
        })
    }

    /// This store as a coordination service.
    pub fn coordination(&self) -> Arc<dyn Coordination> {
        Arc::new(self.clone())
    }

    /// This store as a store of contents.
    pub fn contents(&self) -> Arc<dyn Contents> {
        Arc::new(self.clone())
    }

    /// The directory it lives in.
    pub fn dir(&self) -> PathBuf {
        self.core.shared.home.dir().to_owned()
    }
}

impl Shared {
    fn new(home: home::Home, disk: disk::Disk, loaded: disk::Loaded) -> Shared {
        let id = loaded.epoch;
        let listeners = Arc::<Listeners>::default();
        Shared {
            committer: committer::Committer::new(disk, loaded, Arc::clone(&listeners)),
            listeners,
            files: files::Files::new(home.dir()),
            syncer: syncer::Syncer::default(),
            session: watch::Sender::new(Session::Live { id }),
            home,
        }
    }
}

impl Core {
    fn start(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        self.threads
            .push(thread::Builder::new().name(name.to_owned()).spawn(body)?);
        Ok(())
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.shared.committer.close();
        self.shared.syncer.close();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the store ended in a panic");
            }
        }
    }
}

/// Locks, whatever a thread that panicked has left: every change under these locks is made by
/// single steps that leave a whole state.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
