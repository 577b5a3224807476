//! Which tasks of a build `when` leaves out: derived from what it was triggered with and from the paths that its first
//! git-checkout found changed, and never written.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

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
        let tasks = self.plan.tasks();
        tasks
            .map(|task| task.when.misfit(value, self.plan.changed_fits(task.index)))
            .collect()
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
