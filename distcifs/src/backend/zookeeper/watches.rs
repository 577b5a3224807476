//! Watches: one of ZooKeeper's for each watched path, however many listen.
//!
//! ZooKeeper's persistent recursive watches end with their connection: the client does not set
//! them again, and a server replays nothing. So after each reconnect the watch is set again
//! first, and then everybody who listens is told to look again: nothing can change between unseen.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use zookeeper_client::{AddWatchMode, EventType, PersistentWatcher};

use super::Shared;
use super::calls::{AGAIN_PAUSE, CALL_MAX, is_lost, refusal, slow, unavailable};
use super::link::{Link, is_connected, is_over, lock};
use crate::storage::watcher::Watcher;
use crate::storage::{Change, Error, Event, Result, Watch};

/// The watched paths.
pub(super) struct Topics {
    by_path: Mutex<HashMap<String, Topic>>,
    stopped: watch::Sender<bool>,
}

/// A watched path.
struct Topic {
    /// How many listen or are about to.
    members: usize,
    audience: Arc<Audience>,
    pump: AbortHandle,
}

/// Who listens.
struct Audience {
    watchers: Mutex<Vec<Watcher>>,
    /// Whether ZooKeeper's watch was set, once.
    set: watch::Sender<Setting>,
}

#[derive(Clone)]
enum Setting {
    Pending,
    Set,
    Refused(Error),
}

impl Topics {
    pub(super) fn new() -> Topics {
        Topics {
            by_path: Mutex::default(),
            stopped: watch::Sender::new(false),
        }
    }

    /// Ends all watches: whoever listens hears that nobody speaks any more.
    pub(super) fn stop(&self) {
        self.stopped.send_replace(true);
        for (_, topic) in lock(&self.by_path).drain() {
            topic.pump.abort();
            lock(&topic.audience.watchers).clear();
        }
    }
}

/// One who listens, or is about to; ZooKeeper's watch goes with the last.
struct Member {
    shared: Arc<Shared>,
    path: String,
}

impl Member {
    fn join(shared: &Arc<Shared>, path: &str) -> (Member, Arc<Audience>) {
        let mut topics = lock(&shared.topics.by_path);
        let topic = topics.entry(path.to_owned()).or_insert_with(|| {
            let audience = Arc::new(Audience {
                watchers: Mutex::default(),
                set: watch::Sender::new(Setting::Pending),
            });
            let pump = pump(Arc::clone(shared), path.to_owned(), Arc::clone(&audience));
            Topic {
                members: 0,
                audience,
                pump: tokio::spawn(pump).abort_handle(),
            }
        });
        topic.members += 1;
        let member = Member {
            shared: Arc::clone(shared),
            path: path.to_owned(),
        };
        (member, Arc::clone(&topic.audience))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut topics = lock(&self.shared.topics.by_path);
        let Some(topic) = topics.get_mut(&self.path) else {
            return;
        };
        topic.members -= 1;
        if topic.members == 0 {
            topic.pump.abort();
            topics.remove(&self.path);
        }
    }
}

/// Watches a path; returns when ZooKeeper does.
pub(super) async fn add(shared: &Arc<Shared>, path: &str) -> Result<Watch> {
    let what = format!("watch {path}");
    shared.reach_any(&what).await?;
    let (member, audience) = Member::join(shared, path);
    let mut setting = audience.set.subscribe();
    let set = setting.wait_for(|setting| !matches!(setting, Setting::Pending));
    match timeout(CALL_MAX, set).await {
        Ok(Ok(setting)) => {
            if let Setting::Refused(error) = &*setting {
                return Err(error.clone());
            }
        }
        Ok(Err(_)) => return Err(unavailable(&what, "the store closed")),
        Err(_) => return Err(unavailable(&what, &slow())),
    }
    let (watcher, watch) = Watcher::new();
    let ended = watcher.ended();
    lock(&audience.watchers).push(watcher);
    let mut stopped = shared.topics.stopped.subscribe();
    tokio::spawn(async move {
        tokio::select! {
            () = ended => lock(&audience.watchers).retain(|watcher| !watcher.is_closed()),
            _ = stopped.wait_for(|stopped| *stopped) => {}
        }
        drop(member);
    });
    Ok(watch)
}

impl Audience {
    /// Whether the watch was never set.
    fn waits(&self) -> bool {
        matches!(*self.set.borrow(), Setting::Pending)
    }

    /// Tells everybody.
    fn tell(&self, event: impl Fn() -> Event) {
        lock(&self.watchers).retain_mut(|watcher| watcher.tell(&event));
    }
}

/// Follows one path, from session to session.
async fn pump(shared: Arc<Shared>, path: String, audience: Arc<Audience>) {
    let mut links = shared.links.subscribe();
    loop {
        let link = Arc::clone(&links.borrow_and_update());
        // The next session may be there before the client has noticed the end of this one.
        let mut next = links.clone();
        tokio::select! {
            _ = next.changed() => {}
            followed = follow(&link, &path, &audience) => if let Err(error) = followed {
                audience.set.send_replace(Setting::Refused(error));
                return;
            }
        }
        drop(link);
        if links.changed().await.is_err() {
            return;
        }
    }
}

/// Follows one path until the session is over.
async fn follow(link: &Link, path: &str, audience: &Audience) -> Result<()> {
    let Some(mut watcher) = set(link, path, audience).await? else {
        return Ok(());
    };
    loop {
        let event = watcher.changed().await;
        let change = match event.event_type {
            EventType::NodeCreated => Change::Created,
            EventType::NodeDataChanged => Change::Set,
            EventType::NodeDeleted => Change::Deleted,
            EventType::NodeChildrenChanged => continue,
            EventType::Session if is_over(event.session_state) => return Ok(()),
            EventType::Session if is_connected(event.session_state) => {
                // The former watch goes after the next is set, or the server would drop both.
                match set(link, path, audience).await? {
                    Some(next) => watcher = next,
                    None => return Ok(()),
                }
                continue;
            }
            EventType::Session => continue,
        };
        audience.tell(|| Event::Changed {
            path: event.path.clone(),
            change,
        });
    }
}

/// Sets ZooKeeper's watch, and then tells everybody to look again; `None` if the session is over.
async fn set(link: &Link, path: &str, audience: &Audience) -> Result<Option<PersistentWatcher>> {
    while let Some(client) = link.client() {
        match timeout(CALL_MAX, client.watch(path, AddWatchMode::PersistentRecursive)).await {
            Ok(Ok(watcher)) => {
                audience.tell(|| Event::Resync);
                audience.set.send_replace(Setting::Set);
                return Ok(Some(watcher));
            }
            Ok(Err(error)) if !is_lost(&error) && audience.waits() => {
                return Err(refusal(&format!("watch {path}"), &error));
            }
            Ok(Err(_)) if is_over(client.state()) => return Ok(None),
            Ok(Err(_)) | Err(_) => sleep(AGAIN_PAUSE).await,
        }
    }
    Ok(None)
}
