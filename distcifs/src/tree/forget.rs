//! Has the kernel forget the names of what was removed behind its back.

use std::sync::{Arc, Weak};

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc::UnboundedSender;

use super::node::{JobFile, Node, Numbers, Top};
use super::{Invalidation, look};
use crate::repository::Repository;
use crate::repository::model::event::Event;

/// What it takes to say which name is gone.
pub(crate) struct Forgetter {
    /// Weak: following what happens keeps nothing open.
    pub(crate) repository: Weak<Repository>,
    pub(crate) numbers: Arc<Numbers>,
    pub(crate) invalidate: UnboundedSender<Invalidation>,
}

impl Forgetter {
    /// Follows the changes until the repository is closed.
    pub(crate) async fn follow(self) {
        let Some(mut events) = self
            .repository
            .upgrade()
            .map(|repository| repository.events.listen_names())
        else {
            return;
        };
        loop {
            match events.recv().await {
                Ok(event) => self.apply(&event),
                Err(RecvError::Lagged(_)) => self.missed(),
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// One change: a removed build (pruned, or by another mount) or job, or a renamed job.
    fn apply(&self, event: &Event) {
        match event {
            Event::Resync => self.missed(),
            // The new name is not known yet: whoever looks it up finds the folder that he stands in.
            Event::JobRenamed { from: job, .. } | Event::JobRemoved(job) => {
                self.forget(&Node::Top(Top::Jobs), job.as_str());
            }
            Event::BuildRemoved { job, n } => self.forget_build(job.as_str(), *n),
            _ => {}
        }
    }

    fn forget_build(&self, job: &str, n: u64) {
        let known = self
            .repository
            .upgrade()
            .and_then(|repository| repository.jobs.get(job));
        if let Some(job) = known {
            let builds = Node::JobFile(Arc::new(look::job_ref(&job)), JobFile::Builds);
            self.forget(&builds, &n.to_string());
        }
    }

    /// Too much happened at once: every job is looked up again, and all below it.
    fn missed(&self) {
        let Some(repository) = self.repository.upgrade() else {
            return;
        };
        for job in repository.jobs.after(None, usize::MAX) {
            self.forget(&Node::Top(Top::Jobs), job.name.as_str());
        }
    }

    fn forget(&self, parent: &Node, name: &str) {
        let parent = self.numbers.ino(parent);
        // Nobody listens once the mount is gone.
        let _ = self.invalidate.send(Invalidation::Name {
            parent,
            name: name.into(),
        });
    }
}
