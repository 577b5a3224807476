//! Telling the kernel what it must forget, and noticing where it does not take that.
//!
//! To forget a name the kernel takes the lock of its folder. A process that lists the folder into a memory that never
//! answers holds that lock for as long as it likes, and whoever tells the kernel stands. So each folder has one of some
//! threads, and what stands is said: nothing here can end it (doc/security.md).

use std::ffi::OsString;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::tree::{Ino, Invalidation};

/// Threads that tell the kernel.
const LANES: usize = 16;

/// How often folders are tried, and how long a folder stands before that is said.
pub(super) const TRY_EVERY: Duration = Duration::from_secs(60);

/// A name that no folder has: the kernel looks for it under the folder's lock, and has nothing to forget.
const NO_NAME: &str = "/";

/// What a thread is at, and since when.
type At = Arc<Mutex<Option<(Instant, Ino)>>>;

fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The threads.
pub(super) struct Lanes(Vec<(Sender<Invalidation>, At)>);

impl Lanes {
    /// Starts them; `tell` tells the kernel, and may stand.
    ///
    /// # Errors
    /// If a thread can't be started.
    pub(super) fn start(tell: impl Fn(&Invalidation) + Clone + Send + 'static) -> io::Result<Lanes> {
        let one = |number: usize| {
            let (send, news) = channel();
            let (at, tell) = (At::default(), tell.clone());
            let stands = at.clone();
            thread::Builder::new()
                .name(format!("invalidate-{number}"))
                .spawn(move || pass_on(&news, &stands, tell))?;
            Ok((send, at))
        };
        (0..LANES).map(one).collect::<io::Result<_>>().map(Lanes)
    }

    /// Has one of them tell of this, after all else of the same folder or file.
    pub(super) fn pass(&self, news: Invalidation) {
        if let Some((send, _)) = self.of(folder_of(&news)) {
            // Its thread ends with this.
            let _ = send.send(news);
        }
    }

    /// Tries whether the kernel would forget something in a folder, unless somebody stands there already.
    pub(super) fn try_folder(&self, folder: Ino) {
        let free = self.of(folder).is_some_and(|(_, at)| lock(at).is_none());
        if free {
            let name = OsString::from(NO_NAME);
            self.pass(Invalidation::Name { parent: folder, name });
        }
    }

    /// Folders and files at which a thread has stood for so long.
    pub(super) fn standing(&self, long: Duration) -> Vec<Ino> {
        let stands = |at: &At| {
            let now = *lock(at);
            now.filter(|(since, _)| since.elapsed() >= long).map(|(_, ino)| ino)
        };
        self.0.iter().filter_map(|(_, at)| stands(at)).collect()
    }

    fn of(&self, ino: Ino) -> Option<&(Sender<Invalidation>, At)> {
        // Numbers say their class in the highest bits, and their slot in the lowest.
        let mixed = ino.0 ^ ino.0 >> 16 ^ ino.0 >> 40;
        self.0.get(usize::try_from(mixed % LANES as u64).unwrap_or(0))
    }
}

/// Where the kernel takes a lock to forget this.
fn folder_of(news: &Invalidation) -> Ino {
    match news {
        Invalidation::Name { parent, .. } => *parent,
        Invalidation::Node(ino) | Invalidation::Pages(ino, _) => *ino,
    }
}

fn pass_on(news: &Receiver<Invalidation>, at: &At, tell: impl Fn(&Invalidation)) {
    while let Ok(invalidation) = news.recv() {
        *lock(at) = Some((Instant::now(), folder_of(&invalidation)));
        tell(&invalidation);
        *lock(at) = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that somebody holds is told of, and keeps nobody from telling the kernel of others.
    #[test]
    fn a_folder_that_stands_holds_up_no_other() {
        let (held, folders) = (Ino(7), (8..8 + LANES as u64 - 1).map(Ino));
        let (told, tells) = channel();
        let (open, gate) = channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let lanes = Lanes::start(move |news: &Invalidation| {
            if folder_of(news) == held {
                let _ = lock(&gate).recv();
            }
            told.send(folder_of(news)).unwrap();
        })
        .unwrap();
        lanes.try_folder(held);
        for folder in folders.clone() {
            lanes.try_folder(folder);
            assert_eq!(tells.recv_timeout(Duration::from_secs(20)).unwrap(), folder);
        }
        // The others say that they have told, and come back then.
        let begun = Instant::now();
        while lanes.standing(Duration::ZERO) != [held] {
            assert!(begun.elapsed() < Duration::from_secs(20), "they are all at something");
            thread::yield_now();
        }
        // Nothing more is heaped up behind it.
        lanes.try_folder(held);
        open.send(()).unwrap();
        assert_eq!(tells.recv_timeout(Duration::from_secs(20)).unwrap(), held);
        drop(lanes);
        assert!(tells.recv_timeout(Duration::from_secs(20)).is_err());
    }
}
