//! What the tree keeps of a claimant's folders, as the repository asks for it.

use std::collections::HashSet;

/// What was done below a claim's folders.
#[derive(Debug, Clone)]
pub struct Changes {
    /// Grows with every change and every open file that may change something.
    pub count: u64,
    /// Device and inode number of files that were opened for writing: a mapping may have changed
    /// them without a trace. `None`: so many that nobody remembers which.
    pub written: Option<HashSet<(u64, u64)>>,
}

impl Default for Changes {
    /// Nothing was done.
    fn default() -> Self {
        Changes {
            count: 0,
            written: Some(HashSet::new()),
        }
    }
}

/// What the tree keeps of a claim: the open files below its folders.
pub trait View: Send + Sync {
    /// From now on every path operation below the folders is refused.
    fn kill(&self);
    /// Has the kernel write down what was stored through mappings that are still there; the
    /// receiver ends when that is done.
    fn write_back(&self) -> tokio::sync::mpsc::Receiver<()>;
    /// How much was changed below the folders so far, and which files were opened for writing.
    fn changes(&self) -> Changes;
    /// What is to be said of the folders with a result that is no success.
    fn note(&self) -> Option<String>;
    /// Whether a call in the folders may stand.
    fn is_held_up(&self) -> bool;
    /// Whether no file is open and nothing was changed since.
    fn is_quiet_since(&self, changes: &Changes) -> bool;
}
