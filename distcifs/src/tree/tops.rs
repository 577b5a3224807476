//! The mount point and the folders at the top: whose they are, and how they are seen while the store is away.

use super::look::Facts;
use super::node::{Node, Top};
use super::{Result, Tree};
use crate::repository::access::Access;

impl Tree {
    /// Owner and mode of the mount point or one of the two top folders that can be given away.
    pub(crate) async fn top_access(&self, top: Option<Top>) -> Result<Access> {
        let name = top.map_or("root", Top::name);
        Ok(self
            .repository
            .tops
            .top_access(name)
            .await?
            .unwrap_or_else(|| self.owned(0o755)))
    }

    /// Changes owner or mode of one of them.
    pub(crate) async fn change_top(&self, node: &Node, change: impl Fn(&mut Access) -> Result<()>) -> Result<()> {
        let name = if let Node::Top(top) = node { top.name() } else { "root" };
        self.repository.tops.change_top(name, self.owned(0o755), change).await
    }

    /// Attributes of a node as the kernel is told them: paths lead through the folders at the top while the store is
    /// away, also to what is on this node. Whatever is decided goes by [`Tree::facts`].
    pub(crate) async fn seen_by_kernel(&self, node: &Node) -> Result<Facts> {
        let name = match node {
            Node::Root => "root",
            Node::Top(top @ (Top::Jobs | Top::Tickets)) => top.name(),
            node => return self.facts(node).await,
        };
        let access = self.repository.tops.seen(name).await?;
        let access = access.unwrap_or_else(|| self.owned(0o755));
        Ok(self.folder(access, self.started, self.shared_ttl()))
    }
}
