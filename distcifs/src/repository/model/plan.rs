//! What a build does: all its tasks, those of its configuration and those that its tasks added, by their indexes.

use std::collections::{HashMap, HashSet};
use std::ops::Add;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::repository::config::{Added, Adding, Ceilings, JobConfig, Size, Task, beside_each_other};
use crate::repository::names::Name;

mod changed;

/// Most tasks of a build, those of its configuration included.
pub(crate) const TASKS_MAX: usize = 4000;

/// Most levels: a task of the configuration adds one, which adds another.
pub(crate) const LEVELS_MAX: usize = 8;

/// Most texts that are added to a build.
pub(crate) const TEXTS_MAX: usize = 1000;

/// Most bytes that these texts have together.
pub(crate) const TEXTS_BYTES_MAX: u64 = 16 << 20;

/// Most bytes of the commit that removes the tickets of a build that is over: a coordinator takes a million.
const TIDY_BYTES_MAX: usize = 900_000;

/// What a ticket takes of that beside the names of its queue and its job: the rest of its path, and the frame.
const TICKET_BYTES: usize = 114;

/// Bytes of a digest as it is written.
const DIGEST_BYTES: usize = 64;

/// What of a build names the tasks that were added to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanEntry {
    /// Digest of the list of texts.
    pub digest: String,
    /// Its length, bytes.
    pub size: u64,
    /// How many tasks the build has with them.
    pub tasks: usize,
}

/// A text of tasks that was added: a line of the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Addition {
    /// The task that added it.
    pub(crate) by: usize,
    /// The index of its first task.
    pub(crate) at: usize,
    /// How many tasks it has.
    pub(crate) count: usize,
    /// Digest of the text, as it was written.
    pub(crate) text: String,
    /// Its length, bytes.
    pub(crate) bytes: u64,
}

/// A task that was added.
#[derive(Debug, Clone, PartialEq)]
struct AddedTask {
    by: usize,
    task: Arc<Task>,
}

/// The tasks of a build.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    config: Arc<JobConfig>,
    texts: Vec<Addition>,
    added: Vec<AddedTask>,
    /// What the tasks of each text take.
    sizes: Vec<Size>,
    side_by_side: bool,
    /// The paths that changed, once the first git-checkout has told them.
    changed: Option<Arc<[String]>>,
    fits: changed::Fits,
}

/// A part of a plan that it may share with others: it is the same one where its mark is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shared {
    /// Its place in memory.
    pub(crate) mark: usize,
    /// Bytes that it takes.
    pub(crate) bytes: usize,
}

impl Plan {
    /// The tasks of a configuration.
    pub(crate) fn of(config: Arc<JobConfig>) -> Self {
        Plan {
            side_by_side: config.side_by_side,
            config,
            texts: Vec::new(),
            added: Vec::new(),
            changed: None,
            fits: changed::Fits::default(),
            sizes: Vec::new(),
        }
    }

    /// What its tasks take.
    pub(crate) fn size(&self) -> Size {
        self.sizes.iter().copied().fold(self.config.size, Add::add)
    }

    /// What it takes by itself: bytes of memory.
    pub(crate) fn own_bytes(&self) -> usize {
        let texts = self.texts.len() * (size_of::<Addition>() + DIGEST_BYTES + size_of::<Size>());
        size_of::<Plan>() + self.added.len() * size_of::<AddedTask>() + texts
    }

    /// What it shares with the other plans of this configuration and of these texts: that, the tasks of each text, and the
    /// paths that changed.
    pub(crate) fn shared(&self) -> impl Iterator<Item = Shared> + '_ {
        let config = Shared {
            mark: Arc::as_ptr(&self.config).addr(),
            bytes: self.config.size.memory,
        };
        let own = self.config.tasks.len();
        let texts = self.texts.iter().zip(&self.sizes).filter(|(text, _)| text.count > 0);
        let texts = texts.filter_map(move |(text, size)| {
            let first = self.added.get(text.at.checked_sub(own)?)?;
            Some(Shared {
                mark: Arc::as_ptr(&first.task).addr(),
                bytes: size.memory,
            })
        });
        let changed = self.changed.iter().map(|paths| Shared {
            mark: paths.as_ptr().addr(),
            bytes: paths.iter().map(|path| size_of::<String>() + path.len()).sum(),
        });
        std::iter::once(config).chain(texts).chain(changed)
    }

    /// The configuration.
    pub fn config(&self) -> &Arc<JobConfig> {
        &self.config
    }

    /// How many tasks there are.
    pub fn count(&self) -> usize {
        self.config.tasks.len() + self.added.len()
    }

    /// How many were added.
    pub(crate) fn added(&self) -> usize {
        self.added.len()
    }

    /// The texts that were added, in order.
    pub(crate) fn texts(&self) -> &[Addition] {
        &self.texts
    }

    /// The paths that changed; `None`: nobody knows, or nobody knows yet.
    pub(crate) fn changed(&self) -> Option<&[String]> {
        self.changed.as_deref()
    }

    /// Whether this task says which paths changed: one does, so that it is the same whoever ends first. `asked`: whether
    /// what it adds may ask for them.
    pub fn tells_changed(&self, index: usize, asked: bool) -> bool {
        self.teller() == Some(index) && (asked || self.tasks().any(|task| task.when.changed().is_some()))
    }

    /// One of the tasks.
    pub fn task(&self, index: usize) -> Option<&Task> {
        let own = self.config.tasks.len();
        match index.checked_sub(own) {
            None => self.config.tasks.get(index),
            Some(at) => self.added.get(at).map(|added| &*added.task),
        }
    }

    /// The task that added one; `None`: it stands in the configuration.
    pub fn added_by(&self, index: usize) -> Option<usize> {
        let at = index.checked_sub(self.config.tasks.len())?;
        self.added.get(at).map(|added| added.by)
    }

    /// All tasks, in order of their indexes.
    pub fn tasks(&self) -> impl Iterator<Item = &Task> {
        self.config
            .tasks
            .iter()
            .chain(self.added.iter().map(|added| &*added.task))
    }

    /// Whether a task runs whatever became of those before it.
    pub fn is_always(&self, index: usize) -> bool {
        self.task(index).is_some_and(|task| task.always)
    }

    /// What the lines of a task begin with in the build's console: its name, with its index where others
    /// are called so; nothing where tasks run one after another.
    pub fn name_of_lines(&self, task: &Task) -> String {
        if !self.side_by_side {
            return String::new();
        }
        match self.tasks().filter(|other| other.name == task.name).count() {
            0 | 1 => task.name.to_string(),
            _ => task.folder(),
        }
    }

    /// Whether another task added one, or added what did.
    fn is_within(&self, index: usize, other: usize) -> bool {
        self.above(index).any(|by| by == other)
    }

    /// The tasks that a task was added by, the last one first.
    fn above(&self, index: usize) -> impl Iterator<Item = usize> + '_ {
        std::iter::successors(self.added_by(index), |by| self.added_by(*by))
    }

    /// What each task added.
    fn children(&self) -> HashMap<usize, Vec<usize>> {
        let mut children: HashMap<usize, Vec<usize>> = HashMap::new();
        let first = self.config.tasks.len();
        for (at, added) in self.added.iter().enumerate() {
            children.entry(added.by).or_default().push(first + at);
        }
        children
    }

    /// The indexes of the tasks that one waits for, each with what it added and what those added, unless the one
    /// that waits came of it.
    pub fn waits_for(&self, index: usize) -> Vec<usize> {
        self.waits_with(index, &self.children())
    }

    fn waits_with(&self, index: usize, children: &HashMap<usize, Vec<usize>>) -> Vec<usize> {
        let needs = self.task(index).map(Task::waits_for).unwrap_or_default();
        let (mut all, mut seen) = (Vec::new(), HashSet::new());
        for need in needs {
            let mut open = vec![need];
            while let Some(one) = open.pop() {
                if seen.insert(one) {
                    all.push(one);
                    if !self.is_within(index, one) {
                        open.extend(children.get(&one).into_iter().flatten().rev());
                    }
                }
            }
        }
        all
    }

    /// A task, and then all that it waited for, and that these waited for: what it adds may name them.
    pub(crate) fn before(&self, index: usize) -> Vec<usize> {
        let children = self.children();
        let mut seen = HashSet::from([index]);
        let mut all = vec![index];
        let mut at = 0;
        while let Some(one) = all.get(at).copied() {
            at += 1;
            let waits = self.waits_with(one, &children).into_iter().chain(self.added_by(one));
            for other in waits {
                if seen.insert(other) {
                    all.push(other);
                }
            }
        }
        all
    }

    /// What a text is read against that a task adds, and the indexes of the tasks that it may name.
    pub(crate) fn adding<'a>(&'a self, by: usize, ceilings: &'a Ceilings) -> (Adding<'a>, Vec<usize>) {
        let before = self.before(by);
        let names = before.iter().filter_map(|index| self.task(*index));
        let adding = Adding {
            config: &self.config,
            before: names.map(|task| task.name.as_str()).collect(),
            taken: self.tasks().map(|task| task.name.as_str()).collect(),
            ceilings,
            added: self.added(),
            size: self.size(),
            told: &[],
            tells_changed: self.tells_changed(by, true),
        };
        (adding, before)
    }

    /// Whether the tasks of a text that this task adds can be laid on. The error is a line for people.
    pub(crate) fn may_add(&self, job: &Name, by: usize, tasks: &[Task], bytes: u64) -> Result<(), String> {
        if self.above(by).count() >= LEVELS_MAX {
            return Err(format!("tasks are added on more than {LEVELS_MAX} levels"));
        }
        if self.count() + tasks.len() > TASKS_MAX {
            return Err(format!("the build has more than {TASKS_MAX} tasks with them"));
        }
        let all = self.tasks().chain(tasks);
        let all = all.map(|task| TICKET_BYTES + task.kind.as_str().len() + job.as_str().len());
        if all.sum::<usize>() > TIDY_BYTES_MAX {
            return Err(
                "the build has more tasks with them than its end can remove at once: the name of its job and the types of \
                 its tasks are too long for so many"
                    .to_owned(),
            );
        }
        if self.texts.len() >= TEXTS_MAX {
            return Err(format!("more than {TEXTS_MAX} texts of tasks were added to the build"));
        }
        let all: u64 = self.texts.iter().map(|text| text.bytes).sum();
        if all + bytes > TEXTS_BYTES_MAX {
            return Err(format!(
                "the texts that were added to the build have more than {TEXTS_BYTES_MAX} bytes with them"
            ));
        }
        self.check_names(tasks)
    }

    /// Refuses a name of its own that another task is called by, and one whose folder another is called as.
    fn check_names(&self, tasks: &[Task]) -> Result<(), String> {
        let known: HashMap<&str, usize> = self.tasks().map(|task| (task.name.as_str(), task.index)).collect();
        for task in tasks {
            let folder = format!("{}-{}", self.count() + task.index, task.name);
            let own = task.own_name().map(Name::as_str);
            let Some((name, index)) = [own, Some(&folder)]
                .into_iter()
                .flatten()
                .find_map(|name| Some((name, *known.get(name)?)))
            else {
                continue;
            };
            let by = self.added_by(index).and_then(|by| self.task(by));
            let by = by.map(|by| format!(" (added by {})", by.folder())).unwrap_or_default();
            return Err(format!("another task is called {name} already{by}"));
        }
        Ok(())
    }

    /// Lays on the tasks of a text as they were read: their indexes and needs are those in the text, and those of
    /// `before` are counted on after them.
    pub(crate) fn push(&mut self, by: usize, before: &[usize], added: Added, text: (String, u64)) {
        let Added { tasks, changed: told } = added;
        self.changed = self.changed.take().or(told.map(Arc::from));
        self.fits = changed::Fits::default();
        let (at, count) = (self.count(), tasks.len());
        self.side_by_side |= beside_each_other(&tasks);
        self.sizes.push(Size::of(&tasks));
        for mut task in tasks {
            let needs = task
                .waits_for()
                .into_iter()
                .filter_map(|need| match need.checked_sub(count) {
                    None => Some(at + need),
                    Some(place) => before.get(place).copied(),
                });
            task.needs = Some(needs.collect());
            task.index += at;
            let task = Arc::new(task);
            self.added.push(AddedTask { by, task });
        }
        let (text, bytes) = text;
        self.texts.push(Addition {
            by,
            at,
            count,
            text,
            bytes,
        });
    }
}

#[cfg(test)]
mod tests;
