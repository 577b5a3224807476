//! Entries of the coordinator that are remembered: what is followed need not be asked for again
//! until a change of it is told.
//!
//! What is remembered may be behind by the time that a notice takes. That is what every reader of
//! a shared tree must reckon with; a commit that is based on it carries its guard, and whoever has
//! to know for certain asks the coordinator itself.

use std::collections::HashMap;
use std::sync::Mutex;

use crate::repository::cache::Cache;
use crate::repository::core::lock;
use crate::repository::looked::Looked;
use crate::storage::{Change, Entry, Event};

/// Entries that are remembered, some hundred bytes each.
const ENTRIES_MAX: usize = 12_288;

/// Listings that are, with 1,000 names at most where one of them is a job's builds.
const LISTINGS_MAX: usize = 4096;

/// What is known of a path.
#[derive(Debug, Clone)]
enum Known<T> {
    /// It is being read: nothing was told of it since that began.
    Asked(u64),
    /// It was this when it was read.
    Is(T),
}

/// What is remembered.
#[derive(Default)]
pub(crate) struct Remembered {
    table: Mutex<Table>,
    /// Builds that were looked at.
    pub(crate) looked: Looked,
}

/// The truth is the coordinator: an entry counts as long as all changes of it are told, and is forgotten by each.
#[derive(Default)]
struct Table {
    entries: Cache<String, Known<Option<Entry>>, ENTRIES_MAX>,
    children: Cache<String, Known<Vec<String>>, LISTINGS_MAX>,
    /// Entries, and listings, that commits under way change, with how many of these: nothing is remembered of
    /// them, as the store may have either by now.
    changing: HashMap<String, usize>,
    listings_changing: HashMap<String, usize>,
    /// The number of the next question.
    next: u64,
}

/// Entries that a commit under way changes, until it is dropped.
pub(crate) struct Changing<'a> {
    remembered: &'a Remembered,
    paths: Vec<String>,
}

/// A question under way; its answer is kept if nothing was told meanwhile.
pub(crate) struct Question(u64);

impl Remembered {
    /// An entry, or the question to answer.
    pub(crate) fn entry(&self, path: &str) -> Result<Option<Entry>, Question> {
        let mut table = lock(&self.table);
        let next = table.question();
        if table.changing.contains_key(path) {
            return Err(Question(next));
        }
        ask(&mut table.entries, path, next)
    }

    /// Keeps the answer.
    pub(crate) fn keep_entry(&self, path: &str, question: &Question, entry: &Option<Entry>) {
        answer(&mut lock(&self.table).entries, path, question, entry);
    }

    /// The names below an entry, or the question to answer.
    pub(crate) fn children(&self, path: &str) -> Result<Vec<String>, Question> {
        let mut table = lock(&self.table);
        let next = table.question();
        if table.listings_changing.contains_key(path) {
            return Err(Question(next));
        }
        ask(&mut table.children, path, next)
    }

    /// Keeps the answer.
    pub(crate) fn keep_children(&self, path: &str, question: &Question, names: &Vec<String>) {
        answer(&mut lock(&self.table).children, path, question, names);
    }

    /// Takes note of what was told of a path.
    pub(crate) fn heard(&self, path: &str, events: &[Event]) {
        let mut table = lock(&self.table);
        for event in events {
            match event {
                Event::Changed { path, change } => {
                    table.forget(path, *change != Change::Set);
                    self.looked.forget(path);
                }
                Event::Resync => {
                    table.forget_below(path);
                    self.looked.forget_all();
                }
            }
        }
    }

    /// Forgets entries that a commit is about to change, and the listings that they stand in, until it has
    /// returned: entries that one commit changes, and those of them that are not remembered, are seen together.
    pub(crate) fn changing(&self, paths: Vec<String>) -> Changing<'_> {
        let mut table = lock(&self.table);
        for path in &paths {
            table.count(path, |count| *count += 1);
            table.forget(path, true);
        }
        self.looked.changing(&paths);
        drop(table);
        Changing {
            remembered: self,
            paths,
        }
    }

    /// Forgets all below a path, of which nothing is told any more.
    pub(crate) fn forget_below(&self, path: &str) {
        lock(&self.table).forget_below(path);
        self.looked.forget_all();
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        let mut table = lock(&self.remembered.table);
        for path in &self.paths {
            table.count(path, |count| *count = count.saturating_sub(1));
            table.forget(path, true);
        }
        self.remembered.looked.changed(&self.paths);
    }
}

impl Table {
    /// Counts commits of an entry, and of the listings that it stands in or has.
    fn count(&mut self, path: &str, by: impl Fn(&mut usize)) {
        let apply = |counts: &mut HashMap<String, usize>, path: &str| {
            let count = counts.entry(path.to_owned()).or_default();
            by(count);
            if *count == 0 {
                counts.remove(path);
            }
        };
        apply(&mut self.changing, path);
        apply(&mut self.listings_changing, path);
        if let Some((parent, _)) = path.rsplit_once('/') {
            apply(&mut self.listings_changing, parent);
        }
    }

    /// A number for a question.
    fn question(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn forget(&mut self, path: &str, listing: bool) {
        self.entries.forget(path);
        if listing && let Some((parent, _)) = path.rsplit_once('/') {
            self.children.forget(parent);
        }
        // An entry that goes takes its listing along.
        self.children.forget(path);
    }

    fn forget_below(&mut self, path: &str) {
        let below = |known: &str| {
            known
                .strip_prefix(path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.entries.retain(|known, _| path != "/" && !below(known));
        self.children.retain(|known, _| path != "/" && !below(known));
    }
}

fn ask<T: Clone, const MOST: usize>(
    table: &mut Cache<String, Known<T>, MOST>,
    path: &str,
    next: u64,
) -> Result<T, Question> {
    match table.get(path) {
        Some(Known::Is(value)) => Ok(value.clone()),
        // Whoever asked before has a claim of its own on the place: the later answer is kept.
        Some(Known::Asked(_)) | None => {
            table.keep(path.to_owned(), Known::Asked(next));
            Err(Question(next))
        }
    }
}

fn answer<T: Clone, const MOST: usize>(
    table: &mut Cache<String, Known<T>, MOST>,
    path: &str,
    question: &Question,
    value: &T,
) {
    if let Some(known) = table.get_mut(path)
        && matches!(known, Known::Asked(asked) if *asked == question.0)
    {
        *known = Known::Is(value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(path: &str, change: Change) -> Event {
        let path = path.to_owned();
        Event::Changed { path, change }
    }

    #[test]
    fn what_was_answered_is_known_until_a_change_is_told() {
        let remembered = Remembered::default();
        let question = remembered.entry("/t/a").unwrap_err();
        remembered.keep_entry("/t/a", &question, &None);
        assert_eq!(remembered.entry("/t/a").ok(), Some(None));
        remembered.heard("/t", &[changed("/t/b", Change::Set)]);
        assert!(remembered.entry("/t/a").is_ok());
        remembered.heard("/t", &[changed("/t/a", Change::Created)]);
        assert!(remembered.entry("/t/a").is_err());
    }

    #[test]
    fn an_answer_that_was_overtaken_by_a_change_is_not_kept() {
        let remembered = Remembered::default();
        let question = remembered.entry("/t/a").unwrap_err();
        remembered.heard("/t", &[changed("/t/a", Change::Created)]);
        remembered.keep_entry("/t/a", &question, &None);
        assert!(remembered.entry("/t/a").is_err());
    }

    /// Nobody knows what the store has of an entry while a commit of it is under way.
    #[test]
    fn nothing_is_remembered_of_what_a_commit_changes() {
        let remembered = Remembered::default();
        let question = remembered.entry("/t/a").unwrap_err();
        let listing = remembered.children("/t").unwrap_err();
        let changing = [(); 2].map(|()| remembered.changing(vec!["/t/a".to_owned()]));
        remembered.keep_entry("/t/a", &question, &None);
        remembered.keep_children("/t", &listing, &vec![]);
        for commit in changing {
            let (during, list) = (
                remembered.entry("/t/a").unwrap_err(),
                remembered.children("/t").unwrap_err(),
            );
            remembered.keep_entry("/t/a", &during, &None);
            remembered.keep_children("/t", &list, &vec![]);
            assert!(remembered.entry("/t/a").is_err() && remembered.children("/t").is_err());
            drop(commit);
            // What was asked before it returned is not kept after.
            remembered.keep_entry("/t/a", &during, &None);
            remembered.keep_children("/t", &list, &vec![]);
        }
        let (after, list) = (
            remembered.entry("/t/a").unwrap_err(),
            remembered.children("/t").unwrap_err(),
        );
        remembered.keep_entry("/t/a", &after, &None);
        remembered.keep_children("/t", &list, &vec![]);
        assert!(remembered.entry("/t/a").is_ok() && remembered.children("/t").is_ok());
    }

    #[test]
    fn listings_change_with_what_comes_and_goes_only() {
        let remembered = Remembered::default();
        let question = remembered.children("/t").unwrap_err();
        remembered.keep_children("/t", &question, &vec!["a".to_owned()]);
        remembered.heard("/t", &[changed("/t/a", Change::Set)]);
        assert!(remembered.children("/t").is_ok());
        remembered.heard("/t", &[changed("/t/a", Change::Deleted)]);
        assert!(remembered.children("/t").is_err());
    }

    #[test]
    fn lost_notices_forget_all_below_and_nothing_beside() {
        let remembered = Remembered::default();
        for path in ["/t/a", "/tb"] {
            let question = remembered.entry(path).unwrap_err();
            remembered.keep_entry(path, &question, &None);
        }
        remembered.heard("/t", &[Event::Resync]);
        assert!(remembered.entry("/t/a").is_err());
        assert!(remembered.entry("/tb").is_ok());
    }

    #[test]
    fn it_is_bounded() {
        let remembered = Remembered::default();
        for i in 0..2 * ENTRIES_MAX {
            let path = format!("/t/{i}");
            let question = remembered.entry(&path).unwrap_err();
            remembered.keep_entry(&path, &question, &None);
        }
        assert_eq!(lock(&remembered.table).entries.len(), ENTRIES_MAX);
        assert!(remembered.entry("/t/0").is_err());
        assert!(remembered.entry(&format!("/t/{}", 2 * ENTRIES_MAX - 1)).is_ok());
    }
}
