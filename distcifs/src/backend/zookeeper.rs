//! ZooKeeper as the coordinator: one session for each mount, entries as znodes below a chroot.
//!
//! A commit is a `multi`, a watch is a persistent recursive one. A session is over when
//! its timeout has passed, on the clock that goes on in sleep, since the last request was *sent*
//! that the leader answered: the servers count from when they received it, so they are later.
//! After that nothing more is sent under it, and a new one is made (doc/storage.md).

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::storage::{Coordination, Session};

mod calls;
mod clock;
mod coordination;
mod keeper;
mod link;
mod open_error;
mod opening;
mod options;
mod recall;
#[cfg(test)]
pub(crate) mod tests;
mod watches;

pub use open_error::OpenError;
pub use options::{Options, SESSION_TIMEOUT, Tls};

use link::Link;
use recall::SessionFile;

/// A session with ZooKeeper, followed by another when it is over; clones share it. With the last
/// clone it ends, and so do its ephemeral entries.
#[derive(Clone)]
pub struct Zookeeper {
    core: Arc<Core>,
}

/// What all clones share, and the task that ends with them.
struct Core {
    shared: Arc<Shared>,
    keeper: AbortHandle,
}

/// What the tasks and the calls work on.
struct Shared {
    access: options::Access,
    links: watch::Sender<Arc<Link>>,
    session: watch::Sender<Session>,
    topics: watches::Topics,
    session_file: Option<SessionFile>,
}

impl Zookeeper {
    /// Makes a session, within 10 s, and keeps one from then on. Needs a tokio runtime, and uses
    /// the one it is called in for as long as it lives.
    ///
    /// # Errors
    /// When there is no session or we may not work below the chroot, in one line that says which
    /// address, file or entry is wrong and what to do.
    pub async fn connect(options: &Options) -> Result<Zookeeper, OpenError> {
        let access = options::Access::new(options)?;
        let link = opening::open(&access).await?;
        let session_file = match &options.session_file {
            Some(path) => SessionFile::take(path, options.to_string()),
            None => None,
        };
        if let Some(file) = &session_file {
            file.end_former(&access).await;
            file.save(link.id());
        }
        let shared = Arc::new(Shared {
            access,
            session: watch::Sender::new(Session::Live { id: link.id() }),
            links: watch::Sender::new(Arc::new(link)),
            topics: watches::Topics::new(),
            session_file,
        });
        let keeper = tokio::spawn(keeper::keep(Arc::clone(&shared))).abort_handle();
        Ok(Zookeeper {
            core: Arc::new(Core { shared, keeper }),
        })
    }

    /// Makes the chroot, with the entries above it, if they are not there: theirs is the identity
    /// of the credentials. Within 10 s.
    ///
    /// # Errors
    /// As [`Zookeeper::connect`].
    pub async fn init(options: &Options) -> Result<(), OpenError> {
        opening::make_root(&options::Access::new(options)?).await
    }

    /// This store as a coordination service.
    pub fn coordination(&self) -> Arc<dyn Coordination> {
        Arc::new(self.clone())
    }

    /// Ends the session now, and with it this mount's ephemeral entries; calls fail from then on.
    /// Returns when the server has confirmed it, or after 2 s.
    pub async fn close(&self) {
        self.core.keeper.abort();
        self.core.shared.topics.stop();
        let link = self.core.shared.link();
        let client = link.retire();
        self.core.shared.publish(&link);
        if let Some(client) = client
            && !opening::farewell(client).await
        {
            tracing::warn!("ZooKeeper did not confirm the end of the session; it ends by its timeout");
        }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.core.shared
    }
}

impl Shared {
    /// The session of now; it may be over.
    fn link(&self) -> Arc<Link> {
        Arc::clone(&self.links.borrow())
    }

    /// Says how the session stands, if that has changed; one that is over stays so.
    fn publish(&self, link: &Link) {
        let now = link.standing();
        self.session.send_if_modified(|said| {
            let (Session::Live { id } | Session::Doubtful { id } | Session::Lost { id }) = *said;
            let changes = id == link.id() && *said != now && *said != Session::Lost { id };
            if changes {
                *said = now;
            }
            changes
        });
    }

    /// Puts a new session in the place of one that is over.
    fn replace(&self, link: Link) {
        let id = link.id();
        self.links.send_replace(Arc::new(link));
        self.session.send_replace(Session::Live { id });
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.keeper.abort();
        self.shared.topics.stop();
        // With its client the session ends, as soon as the calls in flight have.
        drop(self.shared.link().retire());
    }
}
