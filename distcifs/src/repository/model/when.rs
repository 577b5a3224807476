//! Which tasks of a build `when` leaves out: derived from what it was triggered with and from the paths that its first
//! git-checkout found changed, and never written.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use distcifs_settings::matching;
use distcifs_settings::source::Event;

use super::build::Build;
use crate::repository::config::Facts;

/// For each task the member of its `when` that does not match, once somebody has asked: thousands of patterns are
/// not looked at again for each task, nor for each look at a build that is remembered.
#[derive(Debug, Clone, Default)]
pub(crate) struct LeftOut(Arc<OnceLock<Vec<Option<usize>>>>);

#[cfg(test)]
impl LeftOut {
    /// What is known already.
    pub(crate) fn get(&self) -> Option<&Vec<Option<usize>>> {
        self.0.get()
    }
}

impl Build {
    /// What `when` looks at.
    fn facts(&self) -> Facts<'_> {
        let source = match (&self.live, &self.record) {
            (Some((live, _)), _) => Some(&live.source),
            (None, record) => record.as_deref().map(|record| &record.source),
        };
        Facts {
            event: source.map_or(Event::Manual, |source| source.event).as_str(),
            name: source.map_or("", |source| &source.name),
            base: source.map_or("", |source| &source.base),
            parameters: &self.params,
        }
    }

    /// The first member of a task's `when` that does not match, and what it looked at; `None`: the task runs.
    pub(crate) fn misfit(&self, index: usize) -> Option<(&str, &str)> {
        let left_out = self.left_out.0.get_or_init(|| self.leave_out());
        let member = left_out.get(index).copied().flatten()?;
        let name = self.plan.task(index)?.when.member(member)?;
        Some((name, self.facts().get(name)))
    }

    /// For each task the member of its `when` that does not match.
    fn leave_out(&self) -> Vec<Option<usize>> {
        let facts = self.facts();
        let parameters = self.params.iter().rev();
        let parameters: HashMap<&str, &str> = parameters.map(|(name, value)| (&**name, &**value)).collect();
        let parameter = |name: &str| parameters.get(name).copied().unwrap_or_default();
        let value = |name: &str| facts.said(name).unwrap_or_else(|| parameter(name));
        let mut looked = self.plan.changed().map(Looked::at);
        let tasks = self.plan.tasks();
        let mut changed = |patterns| looked.as_mut().is_none_or(|looked| looked.takes_any(patterns));
        tasks.map(|task| task.when.misfit(value, &mut changed)).collect()
    }

    /// How many paths changed; `None`: nobody knows.
    pub(crate) fn changed(&self) -> Option<usize> {
        self.plan.changed().map(<[String]>::len)
    }

    /// What no task of it fits: the ref that was triggered, or else the event.
    pub(crate) fn fits_nothing(&self) -> Option<String> {
        if self.plan.count() == 0 || self.plan.tasks().any(|task| self.misfit(task.index).is_none()) {
            return None;
        }
        let facts = self.facts();
        Some(match facts.get("ref") {
            "" => format!("no task fits event {}", facts.event),
            name => format!("no task fits ref {name}"),
        })
    }
}

/// Bytes of paths and patterns that are held against each other for one build: thousands of tasks may have patterns of
/// their own. What is beyond is as good as not known, and runs.
const LOOKED_BYTES_MAX: usize = 1 << 30;

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
        let pattern_bytes: usize = patterns.iter().map(String::len).sum();
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
        looked.left = 2;
        assert!(!looked.takes_any(&first));
        assert!(!looked.takes_any(&first), "what is known costs nothing");
        assert!(looked.takes_any(&second));
    }
}
