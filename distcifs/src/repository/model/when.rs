//! Which tasks of a build `when` leaves out: derived from what it was triggered with, and never written.

use distcifs_settings::source::Event;

use super::build::Build;
use crate::repository::config::Facts;

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
        self.config.tasks.get(index)?.when.misfit(&self.facts())
    }

    /// What no task of it fits: the ref that was triggered, or else the event.
    pub(crate) fn fits_nothing(&self) -> Option<String> {
        let tasks = &self.config.tasks;
        if tasks.is_empty() || tasks.iter().any(|task| self.misfit(task.index).is_none()) {
            return None;
        }
        let facts = self.facts();
        Some(match facts.get("ref") {
            "" => format!("no task fits event {}", facts.event),
            name => format!("no task fits ref {name}"),
        })
    }
}
