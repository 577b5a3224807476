//! `needs`: which tasks a task waits for.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::fault::{Faults, Place};
use super::json::Value;
use super::object::as_list;
use super::tasks::Task;

/// A task of the text: it stands for one task, or for all that its matrix makes.
pub(super) struct Source {
    /// Where it stands.
    pub(super) at: Place,
    /// `tasks[2]`
    pub(super) path: String,
    /// Its name without what a matrix adds; empty if it has no valid one.
    pub(super) base: String,
    /// Whether a matrix made it, or would have.
    pub(super) matrix: bool,
    /// The indexes of the tasks that it stands for.
    pub(super) range: Range<usize>,
}

/// A task with its `needs` as written.
pub(super) struct Wish<'a> {
    pub(super) source: usize,
    pub(super) name: &'a str,
    pub(super) needs: Option<&'a Value>,
}

/// The indexes that each task waits for; `None`: the task before it. One of `outside` has the index of its place there,
/// counted on after the tasks of the text.
pub(super) fn resolve(
    sources: &[Source],
    wishes: &[Wish<'_>],
    outside: &[&str],
    faults: &mut Faults,
) -> Vec<Option<Vec<usize>>> {
    let mut names = Names {
        sources,
        count: wishes.len(),
        by_base: HashMap::new(),
        by_name: HashMap::new(),
        outside: HashMap::new(),
    };
    for (index, name) in (names.count..).zip(outside) {
        let found = names.outside.entry(name).or_insert((index, false));
        found.1 |= found.0 != index;
    }
    for (i, source) in sources.iter().enumerate().filter(|(_, source)| !source.base.is_empty()) {
        names.by_base.entry(&source.base).or_default().push(i);
    }
    names.by_name = wishes.iter().enumerate().map(|(i, wish)| (wish.name, i)).collect();
    let needs: Vec<_> = wishes.iter().map(|wish| names.needs_of(wish, faults)).collect();
    check_circles(sources, wishes, &needs, faults);
    needs
}

struct Names<'a> {
    sources: &'a [Source],
    /// How many tasks the text has.
    count: usize,
    by_base: HashMap<&'a str, Vec<usize>>,
    by_name: HashMap<&'a str, usize>,
    /// Tasks that are over when these begin, the one that adds these and those that it waited for: the index of the first
    /// one with a name, and whether there are more.
    outside: HashMap<&'a str, (usize, bool)>,
}

impl Names<'_> {
    fn needs_of(&self, wish: &Wish<'_>, faults: &mut Faults) -> Option<Vec<usize>> {
        let source = self.sources.get(wish.source)?;
        let Some(written) = wish.needs else {
            // Beside a matrix "the task before" is the whole of it, and its tasks run side by side.
            let before = wish.source.checked_sub(1).and_then(|i| self.sources.get(i));
            return match before {
                Some(before) => (source.matrix || before.matrix).then(|| before.range.clone().collect()),
                // The first ones of a text wait for the task that adds them, if there is one.
                None if !self.outside.is_empty() => Some(vec![self.count]),
                None => source.matrix.then(Vec::new),
            };
        };
        let path = format!("{}.needs", source.path);
        let mut indexes = Vec::new();
        let mut seen = vec![false; self.by_name.len().max(source.range.end)];
        let mut named = HashSet::new();
        for item in as_list(written, &path, "names of tasks", faults).unwrap_or_default() {
            let Some(name) = item.as_str() else {
                faults.add(item.at, format!("{path} must be a list of names of tasks"));
                continue;
            };
            // A list may have more items than there are tasks.
            if !named.insert(name) {
                continue;
            }
            for index in self.find(name, item.at, &path, faults) {
                if seen.len() <= index {
                    seen.resize(index + 1, false);
                }
                if let Some(seen) = seen.get_mut(index).filter(|seen| !**seen) {
                    *seen = true;
                    indexes.push(index);
                }
            }
        }
        Some(indexes)
    }

    /// The tasks that a name stands for.
    fn find(&self, name: &str, at: Place, path: &str, faults: &mut Faults) -> Range<usize> {
        match (self.by_base.get(name).map(Vec::as_slice), self.by_name.get(name)) {
            (Some([only]), _) => self
                .sources
                .get(*only)
                .map(|source| source.range.clone())
                .unwrap_or_default(),
            (Some(_), _) => several(name, at, path, faults),
            (None, Some(index)) => *index..*index + 1,
            (None, None) => self.find_outside(name, at, path, faults),
        }
    }

    /// The task that a name stands for which no task of the text has.
    fn find_outside(&self, name: &str, at: Place, path: &str, faults: &mut Faults) -> Range<usize> {
        match self.outside.get(name) {
            Some((index, false)) => *index..*index + 1,
            Some((_, true)) => several(name, at, path, faults),
            None => {
                let near = faults.hint_of_text(name, self.by_base.keys().chain(self.by_name.keys()).copied());
                faults.add(at, format!("{path}: no task is called {}{near}", faults.quoted(name)));
                0..0
            }
        }
    }
}

/// Notes that a name stands for more than one task.
fn several(name: &str, at: Place, path: &str, faults: &mut Faults) -> Range<usize> {
    let quoted = faults.quoted(name);
    let what = format!("{path}: several tasks are called {quoted}; give the one that is meant a name of its own");
    faults.add(at, what);
    0..0
}

/// Finds tasks that would wait for each other for ever.
fn check_circles(sources: &[Source], wishes: &[Wish<'_>], needs: &[Option<Vec<usize>>], faults: &mut Faults) {
    let before: Vec<Vec<usize>> = needs
        .iter()
        .enumerate()
        .map(|(i, n)| waits_within(i, n.as_deref(), needs.len()))
        .collect();
    let open = open_edges(&before);
    let Some(mut task) = open.iter().position(|&count| count > 0) else {
        return;
    };
    let mut way: Vec<usize> = Vec::new();
    while !way.contains(&task) {
        way.push(task);
        let stuck = |other: &&usize| open.get(**other).is_some_and(|&count| count > 0);
        let Some(&next) = before.get(task).and_then(|waits| waits.iter().find(stuck)) else {
            return;
        };
        task = next;
    }
    let circle = way.iter().skip_while(|&&t| t != task).chain([&task]);
    let word = |wish: &Wish<'_>| {
        let path = sources.get(wish.source).map_or("", |source| &source.path);
        faults.shown(wish.name, path).to_owned()
    };
    let words: Vec<String> = circle.filter_map(|&t| wishes.get(t)).map(word).collect();
    let source = wishes.get(task).and_then(|wish| sources.get(wish.source));
    let (Some(source), Some(wish)) = (source, wishes.get(task)) else {
        return;
    };
    let at = wish.needs.map_or(source.at, |needs| needs.at);
    let why = "a task without needs waits for the one before it";
    faults.add(
        at,
        format!(
            "{}: tasks wait for each other in a circle: {} ({why})",
            source.path,
            words.join(" → ")
        ),
    );
}

/// How many others each task still waits for once all that can run have run.
fn open_edges(before: &[Vec<usize>]) -> Vec<usize> {
    let mut after: Vec<Vec<usize>> = vec![Vec::new(); before.len()];
    for (task, waits) in before.iter().enumerate() {
        for &other in waits {
            if let Some(list) = after.get_mut(other) {
                list.push(task);
            }
        }
    }
    let mut open: Vec<usize> = before.iter().map(Vec::len).collect();
    let mut ready: Vec<usize> = (0..open.len()).filter(|&i| open.get(i) == Some(&0)).collect();
    while let Some(task) = ready.pop() {
        for &next in after.get(task).into_iter().flatten() {
            let Some(count) = open.get_mut(next) else {
                continue;
            };
            *count -= 1;
            if *count == 0 {
                ready.push(next);
            }
        }
    }
    open
}

/// Whether any two of these tasks may run at the same time: they do not where only one order is possible, and
/// in that each waits for the one before it.
pub(crate) fn side_by_side(tasks: &[Task]) -> bool {
    let waits = tasks.iter().enumerate();
    let waits: Vec<Vec<usize>> = waits
        .map(|(at, task)| waits_within(at, task.needs.as_deref(), tasks.len()))
        .collect();
    let mut followers = vec![Vec::new(); tasks.len()];
    let mut missing: Vec<usize> = waits.iter().map(Vec::len).collect();
    for (index, before) in waits.iter().enumerate() {
        for before in before {
            if let Some(followers) = followers.get_mut(*before) {
                followers.push(index);
            }
        }
    }
    let mut ready: Vec<usize> = (0..tasks.len())
        .filter(|index| missing.get(*index) == Some(&0))
        .collect();
    while let Some(index) = ready.pop() {
        if !ready.is_empty() {
            return true;
        }
        for follower in followers.get(index).into_iter().flatten() {
            if let Some(missing) = missing.get_mut(*follower) {
                *missing -= 1;
                if *missing == 0 {
                    ready.push(*follower);
                }
            }
        }
    }
    false
}

/// The indexes that a task of a text with so many tasks waits for, without those that stand outside.
fn waits_within(index: usize, needs: Option<&[usize]>, count: usize) -> Vec<usize> {
    let mut waits = waits_for(index, needs);
    waits.retain(|other| *other < count);
    waits
}

/// The indexes that a task waits for.
pub(super) fn waits_for(index: usize, needs: Option<&[usize]>) -> Vec<usize> {
    needs.map_or_else(|| index.checked_sub(1).into_iter().collect(), <[usize]>::to_vec)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::repository::config::JobConfig;

    fn config(tasks: &Value) -> JobConfig {
        JobConfig::read(json!({ "tasks": tasks }).to_string().as_bytes(), None).unwrap()
    }

    /// However often a list has a name, it is looked for once: a text of 1 MiB has 200,000 of them.
    #[test]
    fn a_name_in_needs_counts_once() {
        let needs = vec!["t"; 100_000];
        let text = json!([{"type": "t", "matrix": {"x": (0..250).collect::<Vec<_>>()}}, {"type": "u", "needs": needs}]);
        let config = config(&text);
        assert_eq!(config.tasks[250].needs, Some((0..250).collect()));
    }

    #[test]
    fn side_by_side_is_what_has_more_than_one_order() {
        for (tasks, expected) in [
            (json!([]), false),
            (json!([{"type": "t"}, {"type": "t"}]), false),
            (json!([{"type": "t"}, {"type": "t", "needs": []}]), true),
            // A diamond, and one whose sides wait for each other.
            (
                json!([{"type": "a"}, {"type": "b", "needs": ["a"]}, {"type": "c", "needs": ["a"]}, {"type": "d", "needs": ["b", "c"]}]),
                true,
            ),
            (
                json!([{"type": "a"}, {"type": "b", "needs": ["a"]}, {"type": "c", "needs": ["a", "b"]}, {"type": "d", "needs": ["b", "c"]}]),
                false,
            ),
            (
                json!([{"type": "a", "needs": ["b"]}, {"type": "b", "needs": []}]),
                false,
            ),
            (json!([{"type": "t", "matrix": {"x": [1]}}, {"type": "t"}]), false),
            (json!([{"type": "t", "matrix": {"x": [1, 2]}}]), true),
        ] {
            assert_eq!(config(&tasks).side_by_side, expected, "{tasks}");
        }
    }
}
