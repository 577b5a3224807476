//! Attributes of what somebody has open: who follows a console asks for its length again and again.

use std::time::Duration;

use super::content::Content;
use super::handles::{Open, OpenKind};
use super::node::{BuildFile, Node};
use super::{Attr, Result, Tree};
use crate::repository::model::ticket::{CONTROL_QUEUE, queue_path};
use crate::repository::names::Name;

impl Tree {
    /// Attributes of an open node. A console has the length of what is read through this opening. Its times are
    /// its build's: for these the queue of the builds' own tickets is watched, so that no ticket is read.
    pub(crate) async fn attr_of_open(&self, node: &Node, open: &Open) -> Result<(Attr, Duration)> {
        let OpenKind::Consoles { names, .. } = &open.kind else {
            return self.attr(node).await;
        };
        let grows = names.iter().any(|name| name.length.is_none());
        match node {
            Node::BuildFile(job, n, _) | Node::TaskFile(job, n, ..) => {
                if let Some(queue) = Name::new(CONTROL_QUEUE).filter(|_| grows) {
                    let _told = self.repository.store.watch_to_cache(&queue_path(&queue));
                }
                let mut facts = self.facts(&Node::BuildFile(job.clone(), *n, BuildFile::Wait)).await?;
                facts.size = Content::Consoles(names.clone()).size(&self.repository).await?;
                self.attr_with(node, facts).await
            }
            Node::TicketFile(ticket, _) => {
                let _told = self.repository.store.watch_to_cache(&queue_path(&ticket.key.queue));
                self.attr(node).await
            }
            _ => self.attr(node).await,
        }
    }
}
