//! What `top` does to a build: a word into a file that steers, and what the tree says of a refusal.

use std::io;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::facts::{Key, Row, State};
use super::sight::{Sight, clean};

/// The tree answers within 10 s or refuses; past that nobody knows.
const ANSWER_TIME: Duration = Duration::from_secs(15);

/// What can be done to a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    Abort,
    Retry,
    Approve,
}

impl Deed {
    /// The word for it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Deed::Abort => "abort",
            Deed::Retry => "retry",
            Deed::Approve => "approve",
        }
    }

    /// Whether it makes sense for a build that stands so. The tree decides; this only spares a question.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn fits(self, row: &Row) -> Result<(), String> {
        let build = format!("{} {}", row.key.job, row.key.number);
        let over = row.state.is_some_and(State::is_over);
        match self {
            Deed::Abort if over => Err(format!("{build} is over: nothing to abort")),
            Deed::Retry if !over => Err(format!("{build} is not over: nothing to retry")),
            Deed::Approve if row.state != Some(State::Held) => Err(format!("{build} is not held")),
            Deed::Approve if commit(row).is_empty() => Err(format!("the commit of {build} is not known")),
            _ => Ok(()),
        }
    }
}

/// The commit that a row shows.
pub(super) fn commit(row: &Row) -> &str {
    row.words.as_ref().map_or("", |words| words.commit.as_str())
}

/// Something that is to be done, as it was confirmed: an approval is for the commit that was shown, and no other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) deed: Deed,
    pub(super) key: Key,
    /// Of an approval.
    pub(super) commit: String,
}

impl Order {
    /// What is asked before it is done.
    pub(super) fn question(&self, name: &str) -> String {
        let build = format!("{} {}", self.key.job, self.key.number);
        match self.deed {
            Deed::Abort => format!("Abort build {build}?"),
            Deed::Retry => format!("Retry build {build}?"),
            Deed::Approve if name.is_empty() => format!("Approve commit {} for build {build}?", self.commit),
            Deed::Approve => format!("Approve commit {} ({name}) for build {build}?", self.commit),
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// In the tree's own words, if it has any.
    pub(super) fn carry_out(&self, sight: &Sight) -> Result<String, String> {
        let what = format!("{} {} {}", self.deed.word(), self.key.job, self.key.number);
        let top = sight.top().map_err(|fault| format!("{what}: {fault}"))?;
        let folder = self.key.folder();
        let (file, word) = match self.deed {
            Deed::Approve => ("approve", self.commit.as_str()),
            deed => ("ctl", deed.word()),
        };
        match top.write(&folder, file, word) {
            Ok(()) => Ok(format!("{what}: done")),
            Err(error) => {
                let said = match error.kind() {
                    // Nobody who may not write it may read why.
                    io::ErrorKind::NotFound => String::new(),
                    _ => top.small(&format!("{folder}/ctl.error")).unwrap_or_default(),
                };
                let why = said
                    .lines()
                    .next()
                    .map_or_else(|| clean(&error.to_string()), str::to_owned);
                Err(format!("{what}: refused: {why}"))
            }
        }
    }
}

/// Something that is being done, on a thread of its own: the screen waits for nothing.
pub(super) struct Doing {
    what: String,
    since: Instant,
    answer: Receiver<Result<String, String>>,
}

impl Doing {
    /// Begins.
    ///
    /// # Errors
    /// There are no threads left.
    pub(super) fn begin(order: Order, sight: &Sight) -> Result<Doing, String> {
        let (sender, answer) = channel();
        let what = format!("{} {} {}", order.deed.word(), order.key.job, order.key.number);
        let sight = sight.another();
        let begun = thread::Builder::new().name("act".into()).spawn(move || {
            // Nobody listens any more when it took too long.
            sender.send(order.carry_out(&sight)).ok();
        });
        begun.map_err(|error| format!("{what}: no thread: {error}"))?;
        Ok(Doing {
            what,
            since: Instant::now(),
            answer,
        })
    }

    /// What became of it, once that is known.
    pub(super) fn answer(&self) -> Option<Result<String, String>> {
        match self.answer.try_recv() {
            Ok(answer) => Some(answer),
            Err(TryRecvError::Empty) if self.since.elapsed() < ANSWER_TIME => None,
            Err(TryRecvError::Empty) => Some(Err(format!(
                "{}: the tree does not answer; whether it was done is not known",
                self.what
            ))),
            Err(TryRecvError::Disconnected) => Some(Err(format!("{}: it was given up", self.what))),
        }
    }

    /// The same, waiting for it: for tests.
    #[cfg(test)]
    fn wait(&self) -> Result<String, String> {
        match self.answer.recv_timeout(ANSWER_TIME) {
            Ok(answer) => answer,
            Err(error) => Err(error.to_string()),
        }
    }

    /// What is being done.
    pub(super) fn what(&self) -> &str {
        &self.what
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::Words;
    use super::*;

    fn row(state: State, commit: &str) -> Row {
        Row {
            key: Key::new("a", 1),
            state: Some(state),
            since: 0,
            words: Some(Words {
                commit: commit.into(),
                ..Words::default()
            }),
        }
    }

    #[test]
    fn what_makes_no_sense_is_not_asked() {
        for (deed, state, commit, fits) in [
            (Deed::Abort, State::Running, "", true),
            (Deed::Abort, State::Held, "", true),
            (Deed::Abort, State::Success, "", false),
            (Deed::Retry, State::Failure, "", true),
            (Deed::Retry, State::Pending, "", false),
            (Deed::Approve, State::Held, "c0ffee", true),
            (Deed::Approve, State::Held, "", false),
            (Deed::Approve, State::Running, "c0ffee", false),
        ] {
            assert_eq!(
                deed.fits(&row(state, commit)).is_ok(),
                fits,
                "{deed:?} {state:?} {commit}"
            );
        }
    }

    #[test]
    fn the_word_is_written_and_a_refusal_is_told_in_the_trees_words() {
        let folder = tempfile::tempdir().unwrap();
        let build = folder.path().join("jobs/a/builds/1");
        std::fs::create_dir_all(&build).unwrap();
        std::fs::write(build.join("approve"), "").unwrap();
        std::fs::write(build.join("ctl.error"), "no \x1b[2J such\nmore\n").unwrap();
        let sight = Sight::new(folder.path().to_owned());
        let order = |deed| Order {
            deed,
            key: Key::new("a", 1),
            commit: "c0ffee".into(),
        };
        let done = Doing::begin(order(Deed::Approve), &sight).unwrap().wait();
        assert_eq!(done.as_deref(), Ok("approve a 1: done"));
        assert_eq!(std::fs::read_to_string(build.join("approve")).unwrap(), "c0ffee\n");
        // A link is no file that steers.
        std::os::unix::fs::symlink("approve", build.join("ctl")).unwrap();
        let refused = order(Deed::Abort).carry_out(&sight).unwrap_err();
        assert_eq!(refused, "abort a 1: refused: no \\u{1b}[2J such");
    }
}
