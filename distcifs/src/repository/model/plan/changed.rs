//! Which tasks of a plan fit the paths that changed: it hangs on the plan alone, and is looked at once.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use distcifs_settings::matching;

use super::Plan;
use crate::repository::config::CHECKOUT;

/// For each task whether what changed fits it, once somebody has asked.
#[derive(Debug, Clone, Default)]
pub(super) struct Fits(Arc<OnceLock<Vec<bool>>>);

/// What is derived makes no two plans differ.
impl PartialEq for Fits {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Plan {
    /// Whether what changed fits a task. What is not known fits, and for a task that does not wait for who tells it nothing
    /// is known: else its fate would hang on which of the two ended first.
    pub(crate) fn changed_fits(&self, index: usize) -> bool {
        let (Some(paths), Some(teller)) = (&self.changed, self.teller()) else {
            return true;
        };
        let fits = self.fits.0.get_or_init(|| {
            let mut looked = Looked::at(paths);
            let knows = self.after(teller);
            let fits = self.tasks().zip(knows).map(|(task, knows)| {
                let patterns = task.when.changed().filter(|_| knows);
                patterns.is_none_or(|patterns| looked.takes_any(patterns))
            });
            fits.collect()
        });
        fits.get(index).copied().unwrap_or(true)
    }

    /// The task that tells which paths changed: the first git-checkout of the configuration.
    pub(super) fn teller(&self) -> Option<usize> {
        let mut own = self.config.tasks.iter();
        own.find(|task| task.kind.as_str() == CHECKOUT).map(|first| first.index)
    }

    /// For each task whether it begins after one has ended: it waits for it, or came of it, or waits for what does.
    fn after(&self, first: usize) -> Vec<bool> {
        let children = self.children();
        let mut followers: Vec<Vec<usize>> = vec![Vec::new(); self.count()];
        for index in 0..self.count() {
            let waits = self
                .waits_with(index, &children)
                .into_iter()
                .chain(self.added_by(index));
            for other in waits {
                if let Some(followers) = followers.get_mut(other) {
                    followers.push(index);
                }
            }
        }
        let mut after = vec![false; self.count()];
        let mut open = vec![first];
        while let Some(one) = open.pop() {
            for follower in followers.get_mut(one).map(std::mem::take).unwrap_or_default() {
                if let Some(after) = after.get_mut(follower).filter(|after| !**after) {
                    *after = true;
                    open.push(follower);
                }
            }
        }
        after
    }
}

/// Bytes of paths and patterns that are held against each other for one plan, and what a pair counts besides: thousands of
/// tasks may have patterns of their own. What is beyond is as good as not known, and runs.
const LOOKED_BYTES_MAX: usize = 1 << 26;
const PAIR_BYTES: usize = 16;

/// Paths that changed, and what each list of patterns takes of them.
struct Looked<'a> {
    paths: &'a [String],
    bytes: usize,
    left: usize,
    known: HashMap<&'a [String], bool>,
}

impl<'a> Looked<'a> {
    fn at(paths: &'a [String]) -> Self {
        Looked {
            paths,
            bytes: paths.iter().map(String::len).sum(),
            left: LOOKED_BYTES_MAX,
            known: HashMap::new(),
        }
    }

    /// Whether these patterns take one of the paths.
    fn takes_any(&mut self, patterns: &'a [String]) -> bool {
        if let Some(known) = self.known.get(patterns) {
            return *known;
        }
        let pattern_bytes: usize = patterns.iter().map(|pattern| pattern.len() + PAIR_BYTES).sum();
        let cost = patterns.len() * self.bytes + self.paths.len() * pattern_bytes;
        let Some(left) = self.left.checked_sub(cost) else {
            return true;
        };
        self.left = left;
        let takes = self.paths.iter().any(|path| matching::takes_name(patterns, path));
        self.known.insert(patterns, takes);
        takes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    /// "`changed` matches if the patterns take one of the paths."
    #[test]
    fn patterns_are_held_against_each_path() {
        let paths = texts(&["src/a.c", "doc/src/b.md"]);
        for (patterns, takes) in [
            (&["src/*"][..], true),
            (&["*.md"], true),
            (&["*.md", "!doc/*"], false),
            (&["lib/*"], false),
            (&["src"], false),
        ] {
            let patterns = texts(patterns);
            assert_eq!(Looked::at(&paths).takes_any(&patterns), takes, "{patterns:?}");
        }
        assert!(!Looked::at(&[]).takes_any(&texts(&["*"])), "nothing changed");
    }

    /// What looking would take too long for matches.
    #[test]
    fn looking_is_bounded() {
        let paths = texts(&["a"]);
        let (first, second) = (texts(&["b"]), texts(&["c"]));
        let mut looked = Looked::at(&paths);
        looked.left = 2 + PAIR_BYTES;
        assert!(!looked.takes_any(&first));
        assert!(!looked.takes_any(&first), "what is known costs nothing");
        assert!(looked.takes_any(&second));
    }
}
