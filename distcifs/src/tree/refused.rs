//! Why the last write of a file was refused on this mount: config.error, trigger.error, ctl.error. A
//! shell does not see what close says.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

use bytes::Bytes;

use super::node::{BuildFile, JobFile, Node};
use super::{Error, Result, Tree};
use crate::repository::core::lock;

/// Refusals that are kept; past it the oldest go of whoever has most. Each is some hundred bytes, of a
/// configuration some kilobytes.
const REFUSALS_MAX: usize = 4096;

/// Refusals by the file that was written.
#[derive(Default)]
pub(crate) struct Refusals(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// What was said, and to whom.
    texts: HashMap<Node, (u32, Bytes)>,
    /// Each user's, the oldest first.
    orders: HashMap<u32, VecDeque<Node>>,
}

impl Kept {
    fn remove(&mut self, of: &Node) {
        let Some((by, _)) = self.texts.remove(of) else { return };
        if let Some(order) = self.orders.get_mut(&by) {
            order.retain(|node| node != of);
            if order.is_empty() {
                self.orders.remove(&by);
            }
        }
    }
}

impl Refusals {
    /// Notes one, of a user's write.
    pub(crate) fn note(&self, of: &Node, by: u32, text: Bytes) {
        let mut kept = lock(&self.0);
        kept.remove(of);
        kept.texts.insert(of.clone(), (by, text));
        kept.orders.entry(by).or_default().push_back(of.clone());
        if kept.texts.len() <= REFUSALS_MAX {
            return;
        }
        let most = kept.orders.values().max_by_key(|order| order.len());
        if let Some(oldest) = most.and_then(|order| order.front().cloned()) {
            kept.remove(&oldest);
        }
    }

    /// A good write followed.
    pub(crate) fn forget(&self, of: &Node) {
        lock(&self.0).remove(of);
    }

    /// Why the last write was refused.
    pub(crate) fn of(&self, of: &Node) -> Option<Bytes> {
        lock(&self.0).texts.get(of).map(|(_, text)| text.clone())
    }

    /// Forgets all of a job.
    pub(crate) fn forget_job(&self, uid: &str) {
        let mut kept = lock(&self.0);
        let other = |node: &Node| match node {
            Node::JobFile(job, _) | Node::BuildFile(job, ..) => &*job.uid != uid,
            _ => true,
        };
        kept.texts.retain(|node, _| other(node));
        kept.orders.retain(|_, order| {
            order.retain(other);
            !order.is_empty()
        });
    }
}

/// The file whose refusal an error file shows.
pub(crate) fn written_file(node: &Node) -> Option<Node> {
    match node {
        Node::JobFile(job, JobFile::ConfigError) => Some(Node::JobFile(job.clone(), JobFile::Config)),
        Node::JobFile(job, JobFile::TriggerError) => Some(Node::JobFile(job.clone(), JobFile::Trigger)),
        // It tells of approve too.
        Node::BuildFile(job, n, BuildFile::CtlError) => Some(Node::BuildFile(job.clone(), *n, BuildFile::Ctl)),
        _ => None,
    }
}

/// The mode of an error file whose file has this mode: whoever may write that may read this. It quotes
/// what was written, and tells what the job takes.
pub(crate) fn error_mode(mode: u32) -> u32 {
    (mode & 0o222) << 1
}

impl Tree {
    /// What an error file says; `None`: it is not there.
    pub(crate) fn refusal(&self, node: &Node) -> Option<Bytes> {
        self.refusals.of(&written_file(node)?)
    }

    /// A file that may be an error file, if that is there.
    pub(crate) fn unless_absent(&self, node: Node) -> Result<Node> {
        if written_file(&node).is_some() && self.refusal(&node).is_none() {
            return Err(Error::NotFound(node.path()));
        }
        Ok(node)
    }

    /// Keeps word of a write of trigger or ctl that was refused, or forgets it when `good`.
    pub(crate) fn heed_refusal<T>(&self, node: &Node, by: u32, done: &Result<T>, good: bool) {
        let name = match node {
            Node::JobFile(_, JobFile::Trigger) => "trigger",
            Node::BuildFile(_, _, BuildFile::Ctl) => "ctl",
            Node::BuildFile(_, _, BuildFile::Approve) => "approve",
            _ => return,
        };
        let beside = match node {
            Node::BuildFile(job, n, BuildFile::Approve) => Some(Node::BuildFile(job.clone(), *n, BuildFile::Ctl)),
            _ => None,
        };
        let node = beside.as_ref().unwrap_or(node);
        match done {
            Ok(_) if good => self.refusals.forget(node),
            Ok(_) => {}
            Err(error) => self.refusals.note(node, by, said(name, error)),
        }
    }
}

/// One line about an error.
fn said(name: &str, error: &Error) -> Bytes {
    let words = error.to_string().replace(char::is_control, " ");
    Bytes::from(format!("{name}: {words}\n"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::repository::names::Name;
    use crate::tree::node::JobRef;

    #[test]
    fn refusals_are_bounded_and_go_with_their_job() {
        let refusals = Refusals::default();
        let job = |uid: &str| {
            let (name, uid) = (Name::new("a").unwrap(), uid.into());
            Arc::new(JobRef { name, uid })
        };
        let ctl = |n| Node::BuildFile(job("1"), n, BuildFile::Ctl);
        // Who is refused a thousand times pushes out his own.
        let config = Node::JobFile(job("3"), JobFile::Config);
        refusals.note(&config, 8, Bytes::from_static(b"no\n"));
        for n in 0..REFUSALS_MAX as u64 {
            refusals.note(&ctl(n), 7, Bytes::from_static(b"no\n"));
        }
        assert_eq!((refusals.of(&ctl(0)), refusals.of(&ctl(1)).is_some()), (None, true));
        assert_eq!(refusals.of(&config).unwrap(), "no\n");
        let trigger = Node::JobFile(job("2"), JobFile::Trigger);
        refusals.note(&trigger, 7, said("trigger", &Error::Invalid("a\nb".into())));
        assert_eq!(refusals.of(&trigger).unwrap(), "trigger: a b\n");
        refusals.forget_job("1");
        assert_eq!(refusals.of(&ctl(2)), None);
        refusals.forget(&trigger);
        assert_eq!(refusals.of(&trigger), None);
        assert_eq!(
            (error_mode(0o664), error_mode(0o622), error_mode(0o400)),
            (0o440, 0o444, 0)
        );
    }
}
