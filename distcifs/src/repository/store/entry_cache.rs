//! Entries of the coordinator that are cached: what is followed need not be asked for again
//! until a change of it is told.
//!
//! What is cached may be behind by the time that a notice takes. That is what every reader of
//! a shared tree must reckon with; a commit that is based on it carries its guard, and whoever has
//! to know for certain asks the coordinator itself.

use std::collections::HashMap;
use std::sync::Mutex;

use crate::repository::cache::Cache;
use crate::repository::core::lock;
use crate::repository::looked::Looked;
use crate::storage::{Change, Entry, Event};

/// Entries that are cached, some hundred bytes each.
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

/// What is cached.
#[derive(Default)]
pub(crate) struct EntryCache {
    table: Mutex<Table>,
    /// Builds that were looked at.
    pub(crate) looked: Looked,
}

/// The truth is the coordinator: an entry counts as long as all changes of it are told, and is forgotten by each.
#[derive(Default)]
struct Table {
    entries: Cache<String, Known<Option<Entry>>, ENTRIES_MAX>,
    children: Cache<String, Known<Vec<String>>, LISTINGS_MAX>,
    /// Entries, and listings, that commits under way change, with how many of these: nothing is cached of
    /// them, as the store may have either by now.
    changing: HashMap<String, usize>,
    listings_changing: HashMap<String, usize>,
    /// The number of the next read.
    next: u64,
}

/// Entries that a commit under way changes, until it is dropped.
pub(crate) struct Changing<'a> {
    entry_cache: &'a EntryCache,
    paths: Vec<String>,
}

/// A read under way; its answer is kept if nothing was told meanwhile.
pub(crate) struct InFlightRead(u64);

impl EntryCache {
    /// An entry, or the read to make.
    pub(crate) fn entry(&self, path: &str) -> Result<Option<Entry>, InFlightRead> {
        let mut table = lock(&self.table);
        let next = table.next_read();
        if table.changing.contains_key(path) {
            return Err(InFlightRead(next));
        }
        ask(&mut table.entries, path, next)
    }

    /// Keeps the answer.
    pub(crate) fn keep_entry(&self, path: &str, read: &InFlightRead, entry: &Option<Entry>) {
        answer(&mut lock(&self.table).entries, path, read, entry);
    }

    /// The names below an entry, or the read to make.
    pub(crate) fn children(&self, path: &str) -> Result<Vec<String>, InFlightRead> {
        let mut table = lock(&self.table);
        let next = table.next_read();
        if table.listings_changing.contains_key(path) {
            return Err(InFlightRead(next));
        }
        ask(&mut table.children, path, next)
    }

    /// Keeps the answer.
    pub(crate) fn keep_children(&self, path: &str, read: &InFlightRead, names: &Vec<String>) {
        answer(&mut lock(&self.table).children, path, read, names);
    }

    /// Takes note of what was told of a path.
    pub(crate) fn apply(&self, path: &str, events: &[Event]) {
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
    /// returned: entries that one commit changes, and those of them that are not cached, are seen together.
    pub(crate) fn changing(&self, paths: Vec<String>) -> Changing<'_> {
        let mut table = lock(&self.table);
        for path in &paths {
            table.count(path, |count| *count += 1);
            table.forget(path, true);
        }
        self.looked.changing(&paths);
        drop(table);
        Changing {
            entry_cache: self,
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
        let mut table = lock(&self.entry_cache.table);
        for path in &self.paths {
            table.count(path, |count| *count = count.saturating_sub(1));
            table.forget(path, true);
        }
        self.entry_cache.looked.changed(&self.paths);
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

    /// A number for a read.
    fn next_read(&mut self) -> u64 {
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
) -> Result<T, InFlightRead> {
    match table.get(path) {
        Some(Known::Is(value)) => Ok(value.clone()),
        // Whoever asked before has a claim of its own on the place: the later answer is kept.
        Some(Known::Asked(_)) | None => {
            table.keep(path.to_owned(), Known::Asked(next));
            Err(InFlightRead(next))
        }
    }
}

fn answer<T: Clone, const MOST: usize>(
    table: &mut Cache<String, Known<T>, MOST>,
    path: &str,
    read: &InFlightRead,
    value: &T,
) {
    if let Some(known) = table.get_mut(path)
        && matches!(known, Known::Asked(asked) if *asked == read.0)
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
        let entry_cache = EntryCache::default();
        let read = entry_cache.entry("/t/a").unwrap_err();
        entry_cache.keep_entry("/t/a", &read, &None);
        assert_eq!(entry_cache.entry("/t/a").ok(), Some(None));
        entry_cache.apply("/t", &[changed("/t/b", Change::Set)]);
        assert!(entry_cache.entry("/t/a").is_ok());
        entry_cache.apply("/t", &[changed("/t/a", Change::Created)]);
        assert!(entry_cache.entry("/t/a").is_err());
    }

    #[test]
    fn an_answer_that_was_overtaken_by_a_change_is_not_kept() {
        let entry_cache = EntryCache::default();
        let read = entry_cache.entry("/t/a").unwrap_err();
        entry_cache.apply("/t", &[changed("/t/a", Change::Created)]);
        entry_cache.keep_entry("/t/a", &read, &None);
        assert!(entry_cache.entry("/t/a").is_err());
    }

    /// Nobody knows what the store has of an entry while a commit of it is under way.
    #[test]
    fn nothing_is_cached_of_what_a_commit_changes() {
        let entry_cache = EntryCache::default();
        let read = entry_cache.entry("/t/a").unwrap_err();
        let listing = entry_cache.children("/t").unwrap_err();
        let changing = [(); 2].map(|()| entry_cache.changing(vec!["/t/a".to_owned()]));
        entry_cache.keep_entry("/t/a", &read, &None);
        entry_cache.keep_children("/t", &listing, &vec![]);
        for commit in changing {
            let (during, list) = (
                entry_cache.entry("/t/a").unwrap_err(),
                entry_cache.children("/t").unwrap_err(),
            );
            entry_cache.keep_entry("/t/a", &during, &None);
            entry_cache.keep_children("/t", &list, &vec![]);
            assert!(entry_cache.entry("/t/a").is_err() && entry_cache.children("/t").is_err());
            drop(commit);
            // What was asked before it returned is not kept after.
            entry_cache.keep_entry("/t/a", &during, &None);
            entry_cache.keep_children("/t", &list, &vec![]);
        }
        let (after, list) = (
            entry_cache.entry("/t/a").unwrap_err(),
            entry_cache.children("/t").unwrap_err(),
        );
        entry_cache.keep_entry("/t/a", &after, &None);
        entry_cache.keep_children("/t", &list, &vec![]);
        assert!(entry_cache.entry("/t/a").is_ok() && entry_cache.children("/t").is_ok());
    }

    #[test]
    fn listings_change_with_what_comes_and_goes_only() {
        let entry_cache = EntryCache::default();
        let read = entry_cache.children("/t").unwrap_err();
        entry_cache.keep_children("/t", &read, &vec!["a".to_owned()]);
        entry_cache.apply("/t", &[changed("/t/a", Change::Set)]);
        assert!(entry_cache.children("/t").is_ok());
        entry_cache.apply("/t", &[changed("/t/a", Change::Deleted)]);
        assert!(entry_cache.children("/t").is_err());
    }

    #[test]
    fn lost_notices_forget_all_below_and_nothing_beside() {
        let entry_cache = EntryCache::default();
        for path in ["/t/a", "/tb"] {
            let read = entry_cache.entry(path).unwrap_err();
            entry_cache.keep_entry(path, &read, &None);
        }
        entry_cache.apply("/t", &[Event::Resync]);
        assert!(entry_cache.entry("/t/a").is_err());
        assert!(entry_cache.entry("/tb").is_ok());
    }

    #[test]
    fn it_is_bounded() {
        let entry_cache = EntryCache::default();
        for i in 0..2 * ENTRIES_MAX {
            let path = format!("/t/{i}");
            let read = entry_cache.entry(&path).unwrap_err();
            entry_cache.keep_entry(&path, &read, &None);
        }
        assert_eq!(lock(&entry_cache.table).entries.len(), ENTRIES_MAX);
        assert!(entry_cache.entry("/t/0").is_err());
        assert!(entry_cache.entry(&format!("/t/{}", 2 * ENTRIES_MAX - 1)).is_ok());
    }
}
