//! What a build does: all its tasks, by their indexes.

use std::sync::Arc;

use crate::repository::config::{JobConfig, Task};

/// The tasks of a build.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    config: Arc<JobConfig>,
}

impl Plan {
    /// Those of a configuration.
    pub(crate) fn of(config: Arc<JobConfig>) -> Self {
        Plan { config }
    }

    /// The configuration.
    pub fn config(&self) -> &Arc<JobConfig> {
        &self.config
    }

    /// How many they are.
    pub fn count(&self) -> usize {
        self.config.tasks.len()
    }

    /// One of them.
    pub fn task(&self, index: usize) -> Option<&Task> {
        self.config.tasks.get(index)
    }

    /// All, in order of their indexes.
    pub fn tasks(&self) -> impl Iterator<Item = &Task> {
        self.config.tasks.iter()
    }

    /// The indexes of the tasks that one waits for.
    pub fn waits_for(&self, index: usize) -> Vec<usize> {
        self.task(index).map(Task::waits_for).unwrap_or_default()
    }

    /// Whether a task runs whatever became of those before it.
    pub fn is_always(&self, index: usize) -> bool {
        self.task(index).is_some_and(|task| task.always)
    }

    /// What the lines of a task begin with in the build's console: its name, with its index where others
    /// are called so; nothing where tasks run one after another.
    pub fn name_of_lines(&self, task: &Task) -> String {
        if !self.config.side_by_side {
            return String::new();
        }
        match self.tasks().filter(|other| other.name == task.name).count() {
            0 | 1 => task.name.to_string(),
            _ => task.folder(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn lines_have_names_where_tasks_run_side_by_side() {
        let names = |tasks: Value| {
            let config = JobConfig::read(json!({ "tasks": tasks }).to_string().as_bytes(), None).unwrap();
            let plan = Plan::of(Arc::new(config));
            let names = plan.tasks().map(|task| plan.name_of_lines(task));
            names.collect::<Vec<_>>()
        };
        assert_eq!(names(json!([{"type": "t"}, {"type": "t", "name": "u"}])), ["", ""]);
        let beside = json!([{"type": "t"}, {"type": "t", "needs": []}, {"type": "t", "name": "u"}]);
        assert_eq!(names(beside), ["0-t", "1-t", "u"]);
    }
}
