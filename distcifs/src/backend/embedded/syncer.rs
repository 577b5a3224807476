//! Makes files durable, for many callers at once: whoever asks while a sync runs is served by
//! the next one, together.

use std::collections::HashSet;
use std::io;
use std::mem;
use std::sync::{Condvar, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::files::{Files, failed};
use super::lock;
use crate::storage::{Error, Object, Result};

/// Most callers that may wait; past it a caller is told at once.
const QUEUE_MAX: usize = 65_536;

/// One caller.
struct Request {
    objects: Vec<Object>,
    done: oneshot::Sender<Result<()>>,
}

#[derive(Default)]
struct Queue {
    requests: Vec<Request>,
    closing: bool,
    /// Why nothing can be made durable any more.
    broken: Option<String>,
}

/// Who waits for a sync.
#[derive(Default)]
pub(super) struct Syncer {
    queue: Mutex<Queue>,
    wake: Condvar,
}

impl Syncer {
    /// Asks for these objects to be made durable.
    pub(super) fn request(&self, objects: Vec<Object>) -> Result<oneshot::Receiver<Result<()>>> {
        let (done, waits) = oneshot::channel();
        let mut queue = lock(&self.queue);
        let refused = match &queue.broken {
            Some(why) => Some(why.clone()),
            None if queue.requests.len() < QUEUE_MAX => None,
            None => Some("too many wait for the disk; try again later".to_owned()),
        };
        if let Some(why) = refused {
            return Err(Error::Unavailable {
                what: "sync".to_owned(),
                why,
            });
        }
        queue.requests.push(Request { objects, done });
        self.wake.notify_one();
        Ok(waits)
    }

    /// Lets the thread end when nobody waits.
    pub(super) fn close(&self) {
        lock(&self.queue).closing = true;
        self.wake.notify_all();
    }

    /// The syncing thread. First it settles what an earlier process may have left in memory only,
    /// so that from then on what is not marked is durable.
    pub(super) fn run(&self, files: &Files) {
        if let Err(error) = files.settle() {
            self.answer(Vec::new(), &Err(error));
        }
        while let Some(requests) = self.take() {
            let all: HashSet<&Object> = requests.iter().flat_map(|r| &r.objects).collect();
            let all: Vec<Object> = all.into_iter().cloned().collect();
            let synced = files.sync(&all);
            self.answer(requests, &synced);
        }
    }

    fn take(&self) -> Option<Vec<Request>> {
        let mut queue = lock(&self.queue);
        while queue.requests.is_empty() {
            if queue.closing {
                return None;
            }
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        Some(mem::take(&mut queue.requests))
    }

    /// After an error of the device the kernel forgets which bytes it lost, and a second try would
    /// succeed wrongly: then no sync succeeds until the store is opened again.
    fn answer(&self, requests: Vec<Request>, synced: &io::Result<()>) {
        let error = synced.as_ref().err().map(|error| failed("sync", error));
        if let Some(Error::Unavailable { why, .. }) = &error {
            tracing::error!("sync: {why}; unmount and mount again");
            lock(&self.queue).broken = Some(format!("{why}; unmount and mount again"));
        }
        for request in requests {
            let _gone = request.done.send(error.clone().map_or(Ok(()), Err));
        }
    }
}
