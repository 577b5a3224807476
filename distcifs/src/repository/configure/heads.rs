//! Which text is in force, known without asking: a mount that is alone writes all of them itself, and who opens
//! a job's trigger on one of many is told once for what he writes next.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use crate::repository::cache::Cache;
use crate::repository::config::JobConfig;
use crate::repository::core::lock;
use crate::repository::model::job::ConfigHead;
use crate::repository::store::{EpochPin, Epochs};

/// Heads that are known at once, some hundred bytes each.
const HEADS_MAX: usize = 4096;

/// How long what was read at the opening of a trigger counts for what is written to it: a configuration that
/// another mount puts in force meanwhile may count for it or not, as if it had come a moment later.
const CARRIED_FOR: Duration = Duration::from_secs(1);

/// The heads of configurations, by job. For a mount that is alone. The truth is the job's record, which only
/// this mount writes.
#[derive(Default)]
pub(crate) struct Heads(Mutex<Table>);

#[derive(Default)]
struct Table {
    known: Cache<String, Known, HEADS_MAX>,
    /// How many writes of a job's head are under way, or nobody knows whether they are over.
    written: HashMap<String, u64>,
    /// The number of the next read.
    next: u64,
}

/// What is known of one.
enum Known {
    /// It is being asked for: nothing was written since that began.
    Asked(u64),
    /// It is this.
    Is(Option<ConfigHead>),
}

/// A read under way; its answer is kept if nothing was written meanwhile.
pub(super) struct InFlightRead(u64);

impl Heads {
    /// A job's head, or the read to make.
    pub(super) fn ask(&self, uid: &str) -> Result<Option<ConfigHead>, InFlightRead> {
        let mut table = lock(&self.0);
        if table.written.contains_key(uid) {
            return Err(InFlightRead(0));
        }
        match table.known.get(uid) {
            Some(Known::Is(head)) => return Ok(head.clone()),
            Some(Known::Asked(read)) => return Err(InFlightRead(*read)),
            None => {}
        }
        table.next += 1;
        let read = table.next;
        table.known.keep(uid.to_owned(), Known::Asked(read));
        Err(InFlightRead(read))
    }

    /// Keeps the answer.
    pub(super) fn answer(&self, uid: &str, read: &InFlightRead, head: &Option<ConfigHead>) {
        let mut table = lock(&self.0);
        if let Some(known) = table.known.get_mut(uid)
            && matches!(known, Known::Asked(asked) if *asked == read.0)
        {
            *known = Known::Is(head.clone());
        }
    }

    /// Whether a head is known, however many reads there were.
    #[cfg(test)]
    fn knows(&self, uid: &str) -> bool {
        matches!(lock(&self.0).known.get(uid), Some(Known::Is(_)))
    }

    /// A write begins. Nothing is known until it is [`over`](Self::over); for good where nobody knows that.
    pub(super) fn begin(&self, uid: &str) {
        let mut table = lock(&self.0);
        *table.written.entry(uid.to_owned()).or_default() += 1;
        table.known.forget(uid);
    }

    /// A write has ended, whether it happened or not.
    pub(super) fn over(&self, uid: &str) {
        let mut table = lock(&self.0);
        match table.written.get_mut(uid) {
            Some(writes) if *writes > 1 => *writes -= 1,
            _ => drop(table.written.remove(uid)),
        }
    }
}

/// What was read when a trigger was opened, for the first build that is begun through it within a second. It
/// is held against gc until then, as if that build had begun at the opening.
#[derive(Default)]
pub struct Carried(Arc<Mutex<Option<Opened>>>);

/// The configuration that was in force, under this pin.
pub(crate) struct Opened {
    pub(crate) pin: EpochPin,
    pub(crate) head: ConfigHead,
    pub(crate) config: Arc<JobConfig>,
}

impl Carried {
    /// Carries it for a second.
    pub(crate) fn new(opened: Opened, runtime: &tokio::runtime::Handle) -> Carried {
        let carried = Arc::new(Mutex::new(Some(opened)));
        let kept: Weak<_> = Arc::downgrade(&carried);
        runtime.spawn(async move {
            tokio::time::sleep(CARRIED_FOR).await;
            if let Some(carried) = kept.upgrade() {
                drop(lock(&carried).take());
            }
        });
        Carried(carried)
    }

    /// The configuration, if it is still carried.
    pub(crate) fn config(&self) -> Option<Arc<JobConfig>> {
        lock(&self.0).as_ref().map(|opened| opened.config.clone())
    }

    /// All of it, for one build, if that can be committed under the pin.
    pub(crate) fn take(&self, epochs: &Epochs) -> Option<Opened> {
        lock(&self.0).take().filter(|opened| epochs.is_current(&opened.pin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(digest: &str) -> Option<ConfigHead> {
        Some(ConfigHead {
            digest: digest.to_owned(),
            size: 1,
            written: 1,
            by: None,
            owner: None,
        })
    }

    fn asked(heads: &Heads) -> InFlightRead {
        heads.ask("a").err().unwrap()
    }

    #[test]
    fn what_was_answered_is_known_until_something_is_written() {
        let heads = Heads::default();
        let read = asked(&heads);
        heads.answer("a", &read, &head("one"));
        assert_eq!(heads.ask("a").ok().unwrap().unwrap().digest, "one");
        heads.begin("a");
        assert!(heads.ask("a").is_err());
        heads.over("a");
        let read = asked(&heads);
        heads.answer("a", &read, &None);
        assert!(heads.ask("a").ok().unwrap().is_none());
    }

    /// Who asked before a write, or while it was under way, may have read what was before it.
    #[test]
    fn an_answer_of_before_a_write_is_not_kept() {
        let heads = Heads::default();
        let before = asked(&heads);
        heads.begin("a");
        let meanwhile = asked(&heads);
        heads.answer("a", &before, &head("old"));
        heads.over("a");
        let after = asked(&heads);
        for read in [&before, &meanwhile] {
            heads.answer("a", read, &head("old"));
            assert!(!heads.knows("a"));
        }
        heads.answer("a", &after, &head("new"));
        assert!(heads.knows("a"));
    }

    /// A write that was given up without knowing how it ended may happen at any time after.
    #[test]
    fn nothing_is_known_while_a_write_may_still_happen() {
        let heads = Heads::default();
        heads.begin("a");
        heads.begin("a");
        heads.over("a");
        let read = asked(&heads);
        heads.answer("a", &read, &head("one"));
        assert!(!heads.knows("a"));
        heads.over("a");
        let read = asked(&heads);
        heads.answer("a", &read, &head("one"));
        assert!(heads.knows("a"));
    }

    #[test]
    fn what_is_known_is_bounded() {
        let heads = Heads::default();
        heads.begin("written");
        for i in 0..=HEADS_MAX {
            let uid = i.to_string();
            let read = heads.ask(&uid).err().unwrap();
            heads.answer(&uid, &read, &head("one"));
        }
        assert_eq!(lock(&heads.0).known.len(), HEADS_MAX);
        assert!(!heads.knows("0") && heads.knows(&HEADS_MAX.to_string()));
        let read = heads.ask("written").err().unwrap();
        heads.answer("written", &read, &head("old"));
        assert!(!heads.knows("written"));
    }
}
