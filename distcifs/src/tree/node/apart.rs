//! Files of which each user has an inode of his own.
//!
//! The kernel holds an inode's lock while it writes, and waits for whoever has a lease of the inode: so one who
//! writes from a memory that never answers, or who leases a file of his, would hold up all others who come to the same
//! inode, for as long as he likes. What is written here stands in open files alone, so nothing hangs on the inode. A
//! user meets nobody but himself. stat(2) shows the same number to all: that is asked for by the descriptor.

use std::sync::Arc;

use super::numbered::Numbered;
use super::{BuildFile, JobFile, Node, TicketFile, Top};

/// A file, for one user.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Apart {
    pub(super) node: Node,
    pub(super) uid: u32,
}

impl Apart {
    /// That of a user, of a file that is each user's own.
    pub(super) fn of(node: &Node, uid: u32) -> Option<Arc<Apart>> {
        let node = node.is_apart().then(|| node.clone())?;
        Some(Arc::new(Apart { node, uid }))
    }

    /// Counts a lookup of it; its number.
    pub(super) fn looked_up(self: &Arc<Self>, all: &mut Numbered<Apart>) -> u64 {
        all.count(self);
        // Its job may have been renamed.
        all.renew(self);
        all.number(self)
    }
}

impl Node {
    /// Whether each user has an inode of his own of it: files that somebody writes to, and what workers read of a
    /// ticket. Of what else stands in a build there are too many, and the kernel remembers their names.
    pub(crate) fn is_apart(&self) -> bool {
        match self {
            Node::Top(Top::Drain) | Node::QueueFile(..) | Node::TicketParam(..) => true,
            Node::JobFile(_, file) => *file != JobFile::Builds,
            Node::BuildFile(_, _, file) => matches!(file, BuildFile::Ctl | BuildFile::CtlError | BuildFile::Approve),
            Node::TicketFile(_, file) => !matches!(
                file,
                TicketFile::Params | TicketFile::Build | TicketFile::Jobs | TicketFile::Needs
            ),
            Node::Seen(seen) => seen.node.is_apart(),
            _ => false,
        }
    }
}
