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
        let asks = self.task(index).is_some_and(|task| task.when.changed().is_some());
        let (true, Some(paths), Some(teller)) = (asks, &self.changed, self.teller()) else {
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

    /// Looks at what changed, if a task asks, for all who ask later: it takes as long as there are tasks, patterns and
    /// paths.
    pub(crate) fn look_at_changed(&self) {
        if let Some(asks) = self.tasks().find(|task| task.when.changed().is_some()) {
            self.changed_fits(asks.index);
        }
    }

    /// The task that tells which paths changed: the first git-checkout of the configuration.
    pub(super) fn teller(&self) -> Option<usize> {
        let mut own = self.config.tasks.iter();
        own.find(|task| task.kind.as_str() == CHECKOUT).map(|first| first.index)
    }

    /// For each task whether it begins after one has ended: it waits for it, or came of it, or waits for what does.
    fn after(&self, first: usize) -> Vec<bool> {
        let mut next = self.next();
        let mut after = vec![false; next.len()];
        let mut open = vec![first];
        while let Some(one) = open.pop() {
            for follower in next.get_mut(one).map(std::mem::take).unwrap_or_default() {
                if let Some(after) = after.get_mut(follower).filter(|after| !**after) {
                    *after = true;
                    open.push(follower);
                }
            }
        }
        after.truncate(self.count());
        after
    }

    /// What comes after the end of each task, and, behind all of them, after that of each with all that came of it: most
    /// tasks that wait for one wait for that. So there are no more edges than needs and tasks, however much was added.
    fn next(&self) -> Vec<Vec<usize>> {
        let count = self.count();
        let mut next: Vec<Vec<usize>> = vec![Vec::new(); 2 * count];
        let mut edge = |from: usize, to: usize| {
            if let Some(next) = next.get_mut(from) {
                next.push(to);
            }
        };
        for task in self.tasks() {
            let index = task.index;
            edge(index, count + index);
            if let Some(by) = self.added_by(index) {
                edge(by, index);
                edge(count + index, count + by);
            }
            for need in task.waits_for() {
                // Who came of a task does not wait for itself.
                let with_all = if self.is_within(index, need) { 0 } else { count };
                edge(with_all + need, index);
            }
        }
        next
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

    /// A plan of `own` tasks of which the second added `added`, and of those the first another one; the rest of the
    /// configuration waits for the second.
    fn grown(own: usize, added: usize) -> Plan {
        use crate::repository::config::{Added, JobConfig, Task};

        let script = |name: usize, needs: &[&str]| {
            serde_json::json!({"type": "execute-shell", "name": format!("t{name}"), "needs": needs,
                "params": {"script": "true"}})
        };
        let mut tasks = vec![serde_json::json!({"type": CHECKOUT, "name": "c", "params": {"repository": "/r"}})];
        tasks.push(script(1, &["c"]));
        tasks.extend((2..own).map(|name| script(name, &["t1"])));
        tasks.push(script(own, &[]));
        let config = JobConfig::read(serde_json::json!({ "tasks": tasks }).to_string().as_bytes(), None).unwrap();
        let mut plan = Plan::of(Arc::new(config));
        let like = plan.task(1).unwrap().clone();
        let text = |by: usize, count: usize, plan: &mut Plan| {
            let tasks = (0..count).map(|index| Task {
                index,
                needs: Some(vec![count]),
                ..like.clone()
            });
            let added = Added {
                tasks: tasks.collect(),
                changed: None,
            };
            plan.push(by, &[by], added, ("text".into(), 1));
        };
        text(1, added, &mut plan);
        text(own + 1, 1, &mut plan);
        plan
    }

    /// Who begins after a task has ended: by all edges that there are, one by one.
    #[test]
    fn what_comes_after_a_task_is_what_waits_for_it() {
        let plan = grown(6, 5);
        for first in 0..plan.count() {
            let mut after = vec![false; plan.count()];
            let mut grows = true;
            while grows {
                grows = false;
                for index in 0..plan.count() {
                    let mut waits = plan.waits_for(index).into_iter().chain(plan.added_by(index));
                    if !after[index] && waits.any(|other| other == first || after[other]) {
                        (after[index], grows) = (true, true);
                    }
                }
            }
            assert_eq!(plan.after(first), after, "{first}");
        }
    }

    /// Of thousands of tasks that wait for thousands no edge is looked at; and nothing at all where nobody asks.
    #[test]
    fn looking_costs_no_more_than_there_are_tasks() {
        let mut plan = grown(900, 3000);
        let edges: usize = plan.next().iter().map(Vec::len).sum();
        assert!(edges < 4 * plan.count(), "{edges}");
        plan.changed = Some(Arc::from(texts(&["src/a"])));
        plan.look_at_changed();
        assert!(plan.changed_fits(1) && plan.fits.0.get().is_none());
    }
}
