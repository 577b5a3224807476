//! What `.events` tells: each change is a value, and a line where somebody reads it.

use std::fmt;

use super::ticket::{TicketKey, TicketState, Verdict};
use crate::repository::names::Name;

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A job was made, or came back from the trash.
    JobCreated(Name),
    /// A job has another configuration.
    JobConfigured(Name),
    /// A job was removed.
    JobRemoved(Name),
    /// A job has another name.
    JobRenamed {
        /// What it was called.
        from: Name,
        /// What it is called.
        to: Name,
    },
    /// What became of a build.
    Build {
        /// The name of its job.
        job: Name,
        /// Its number.
        n: u64,
        /// What it is now.
        state: Stage,
    },
    /// A build was removed.
    BuildRemoved {
        /// The name of its job.
        job: Name,
        /// Its number.
        n: u64,
    },
    /// What became of a task.
    Task {
        /// The name of its job.
        job: Name,
        /// The number of its build.
        n: u64,
        /// Its place among the tasks of the configuration.
        index: usize,
        /// What it is called there.
        name: String,
        /// What it is now.
        state: Stage,
    },
    /// What became of a ticket.
    Ticket {
        /// Which one.
        key: TicketKey,
        /// What it is now.
        state: TicketState,
    },
    /// A ticket was removed.
    TicketRemoved(TicketKey),
    /// Somebody controls a build.
    Control {
        /// The name of its job.
        job: Name,
        /// Its number.
        n: u64,
        /// What is done to it.
        what: Control,
    },
    /// Lines were lost: whoever follows looks at everything again.
    Resync,
}

/// How far a build or a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It waits for approval.
    Held,
    /// Its ticket is open.
    Open,
    /// Its ticket is claimed.
    Running,
    /// It is over.
    Ended(Verdict),
}

/// What is done to a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// It is stopped.
    Abort,
    /// It runs again.
    Retry,
}

impl Event {
    /// Whether names go with it, as they do with a removed build or job and with a renamed one. After lost lines
    /// any name may be gone.
    pub(crate) fn takes_names(&self) -> bool {
        matches!(
            self,
            Event::JobRemoved(_) | Event::JobRenamed { .. } | Event::BuildRemoved { .. } | Event::Resync
        )
    }
}

impl Stage {
    /// The word, with the one for what has not begun.
    fn word(self, open: &'static str) -> &'static str {
        match self {
            Stage::Held => "held",
            Stage::Open => open,
            Stage::Running => "running",
            Stage::Ended(verdict) => verdict.as_str(),
        }
    }
}

impl fmt::Display for Event {
    /// The line, as doc/tree.md has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::JobCreated(job) => write!(f, "job {job} created"),
            Event::JobConfigured(job) => write!(f, "job {job} configured"),
            Event::JobRemoved(job) => write!(f, "job {job} removed"),
            Event::JobRenamed { from, to } => write!(f, "job {from} renamed {to}"),
            Event::Build { job, n, state } => write!(f, "build {job}/{n} {}", state.word("pending")),
            Event::BuildRemoved { job, n } => write!(f, "build {job}/{n} removed"),
            Event::Task {
                job,
                n,
                index,
                name,
                state,
            } => write!(f, "task {job}/{n}/{index}-{name} {}", state.word("posted")),
            Event::Ticket { key, state } => {
                let word = match state {
                    TicketState::Open => "open",
                    TicketState::Claimed => "claimed",
                    TicketState::Finished => "finished",
                };
                write!(f, "ticket {}/{} {word}", key.queue, key.id)
            }
            Event::TicketRemoved(key) => write!(f, "ticket {}/{} removed", key.queue, key.id),
            Event::Control { job, n, what } => {
                let word = match what {
                    Control::Abort => "abort",
                    Control::Retry => "retry",
                };
                write!(f, "control {job}/{n} {word}")
            }
            Event::Resync => f.write_str("resync"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::names::TicketId;

    fn job() -> Name {
        Name::new("a.b").unwrap()
    }

    fn key() -> TicketKey {
        TicketKey {
            queue: Name::new("execute-shell").unwrap(),
            id: TicketId::new("a.b.3.0").unwrap(),
        }
    }

    fn build(state: Stage) -> Event {
        Event::Build {
            job: job(),
            n: 3,
            state,
        }
    }

    fn task(state: Stage) -> Event {
        let (job, n, index, name) = (job(), 3, 0, "compile".to_owned());
        Event::Task {
            job,
            n,
            index,
            name,
            state,
        }
    }

    fn ticket(state: TicketState) -> Event {
        Event::Ticket { key: key(), state }
    }

    fn control(what: Control) -> Event {
        Event::Control { job: job(), n: 3, what }
    }

    /// "The lines of `.events`": each as the page has it.
    #[test]
    fn each_change_has_its_line() {
        let (from, to) = (job(), Name::new("c").unwrap());
        let table = [
            (Event::JobCreated(job()), "job a.b created"),
            (Event::JobConfigured(job()), "job a.b configured"),
            (Event::JobRemoved(job()), "job a.b removed"),
            (Event::JobRenamed { from, to }, "job a.b renamed c"),
            (build(Stage::Open), "build a.b/3 pending"),
            (build(Stage::Running), "build a.b/3 running"),
            (build(Stage::Ended(Verdict::Success)), "build a.b/3 success"),
            (build(Stage::Ended(Verdict::Failure)), "build a.b/3 failure"),
            (build(Stage::Ended(Verdict::Error)), "build a.b/3 error"),
            (build(Stage::Ended(Verdict::Aborted)), "build a.b/3 aborted"),
            (Event::BuildRemoved { job: job(), n: 3 }, "build a.b/3 removed"),
            (task(Stage::Open), "task a.b/3/0-compile posted"),
            (task(Stage::Running), "task a.b/3/0-compile running"),
            (task(Stage::Ended(Verdict::Success)), "task a.b/3/0-compile success"),
            (task(Stage::Ended(Verdict::Failure)), "task a.b/3/0-compile failure"),
            (task(Stage::Ended(Verdict::Error)), "task a.b/3/0-compile error"),
            (task(Stage::Ended(Verdict::Aborted)), "task a.b/3/0-compile aborted"),
            (ticket(TicketState::Open), "ticket execute-shell/a.b.3.0 open"),
            (ticket(TicketState::Claimed), "ticket execute-shell/a.b.3.0 claimed"),
            (ticket(TicketState::Finished), "ticket execute-shell/a.b.3.0 finished"),
            (Event::TicketRemoved(key()), "ticket execute-shell/a.b.3.0 removed"),
            (control(Control::Abort), "control a.b/3 abort"),
            (control(Control::Retry), "control a.b/3 retry"),
            (Event::Resync, "resync"),
        ];
        for (event, line) in table {
            assert_eq!(event.to_string(), line);
        }
    }

    #[test]
    fn names_go_with_few_changes() {
        let (from, to) = (job(), Name::new("c").unwrap());
        for event in [
            Event::JobRemoved(job()),
            Event::JobRenamed { from, to },
            Event::BuildRemoved { job: job(), n: 3 },
            Event::Resync,
        ] {
            assert!(event.takes_names(), "{event}");
        }
        for event in [
            Event::JobCreated(job()),
            build(Stage::Running),
            task(Stage::Open),
            Event::TicketRemoved(key()),
            control(Control::Abort),
        ] {
            assert!(!event.takes_names(), "{event}");
        }
    }
}
