//! How a task of a build stands, in the words of the file `state` and of build.json.

use serde::{Deserialize, Serialize};

/// Where a task of a build stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// It has no ticket yet: it waits for others.
    #[default]
    Waiting,
    /// Its ticket is open.
    Posted,
    /// Its ticket is claimed.
    Running,
    /// It ended well.
    Success,
    /// It ran and failed: an exit status other than 0, or its timeout.
    Failure,
    /// It could not be run.
    Error,
    /// It was stopped by an abort.
    Aborted,
    /// The build ended without it.
    Skipped,
}

impl TaskState {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            TaskState::Waiting => "waiting",
            TaskState::Posted => "posted",
            TaskState::Running => "running",
            TaskState::Success => "success",
            TaskState::Failure => "failure",
            TaskState::Error => "error",
            TaskState::Aborted => "aborted",
            TaskState::Skipped => "skipped",
        }
    }

    /// Whether a ticket of it is in somebody's hands or waits for them.
    pub fn is_open(self) -> bool {
        matches!(self, TaskState::Posted | TaskState::Running)
    }

    /// Whether nothing more will happen to it in this run.
    pub fn is_ended(self) -> bool {
        !self.is_open() && self != TaskState::Waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// They stand in records of finished builds: a word that changes is a build that can't be read.
    #[test]
    fn the_words_are_those_of_the_records() {
        for (word, open, ended) in [
            ("waiting", false, false),
            ("posted", true, false),
            ("running", true, false),
            ("success", false, true),
            ("failure", false, true),
            ("error", false, true),
            ("aborted", false, true),
            ("skipped", false, true),
        ] {
            let json = format!("\"{word}\"");
            let state: TaskState = serde_json::from_str(&json).unwrap();
            assert_eq!(serde_json::to_string(&state).unwrap(), json);
            assert_eq!((state.as_str(), state.is_open(), state.is_ended()), (word, open, ended));
        }
        assert!(serde_json::from_str::<TaskState>("\"odd\"").is_err());
    }
}
