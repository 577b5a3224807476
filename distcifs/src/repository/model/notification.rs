//! Notifications: which entries of `notify` a build's state concerns, and the tickets by which workers tell it.
//!
//! Each says all that is told, so that it hangs on nothing: its build, and its job, may be gone when it is worked.

use distcifs_settings::fault::plain;
use distcifs_settings::source::Source;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::repository::config::{Notify, On};
use crate::repository::model::json::to_json;
use crate::repository::model::ticket::{Ticket, TicketKey, TicketState, Verdict, cut};
use crate::repository::model::unknown::Unknown;
use crate::repository::names::{Name, TicketId};
use crate::storage::coordination::ENTRY_BYTES_MAX;

/// The queue of these tickets.
pub const NOTIFY_QUEUE: &str = "notify";

/// Seconds that a worker may hold one: a day in which it tries, and one for what comes between.
const TIMEOUT_SECS: u64 = 2 * 24 * 3600;

/// Deaths of workers with it: each death counts against all that the worker held.
const ATTEMPTS: u32 = 100;

/// Bytes of the reason, and of a cause, that are told.
const WORDS_BYTES_MAX: usize = 400;

/// Names of tasks that did not end well that are told.
const FAILED_MAX: usize = 10;

/// Digits of a run's nonce that its tickets carry: those of a job that was made again under its name have others.
const NONCE_DIGITS: usize = 16;

/// Which run of a build a ticket tells of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotifyRef {
    /// The job's name.
    pub job: String,
    /// The job's uid.
    pub uid: String,
    /// The build's number.
    pub build: u64,
    /// 0, or the number of the retry.
    #[serde(default)]
    pub run: u32,
}

/// How a build stands that is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// It waits for approval.
    Held,
    /// It ended so, and the one that it is held against, if there is one, so.
    Ended(Verdict, Option<Verdict>),
}

impl Moment {
    /// The words of `on` that fit.
    pub(crate) fn words(self) -> Vec<On> {
        let Moment::Ended(state, before) = self else {
            return vec![On::Held];
        };
        let mut words = vec![match state {
            Verdict::Success => On::Success,
            Verdict::Failure => On::Failure,
            Verdict::Error => On::Error,
            Verdict::Aborted => On::Aborted,
        }];
        let good = state == Verdict::Success;
        // Of what somebody ended nobody knows how it would have ended. The first failure of a ref is news, its first
        // success is not.
        let changed = state != Verdict::Aborted && before.map_or(!good, |before| before != state);
        words.extend(changed.then_some(On::Changed));
        words.extend((good && before.is_some_and(|before| before != state)).then_some(On::Fixed));
        words
    }

    fn state(self) -> &'static str {
        match self {
            Moment::Held => "held",
            Moment::Ended(state, _) => state.as_str(),
        }
    }
}

/// Whether anything is told that hangs on how the build before ended.
pub(crate) fn compares(notify: &[Notify]) -> bool {
    let on = notify.iter().flat_map(|entry| &entry.on);
    on.copied().any(|on| matches!(on, On::Changed | On::Fixed))
}

/// What is told of a build.
#[derive(Debug)]
pub(crate) struct News<'a> {
    /// Which.
    pub(crate) of: NotifyRef,
    /// Who owned its job when it was triggered.
    pub(crate) owner: u32,
    /// Tells its run from every other.
    pub(crate) nonce: &'a str,
    /// How it stands.
    pub(crate) moment: Moment,
    /// Where it comes from.
    pub(crate) source: &'a Source,
    /// Why it was triggered; empty if nobody said.
    pub(crate) cause: &'a str,
    /// Why it stands so, for people.
    pub(crate) why: &'a str,
    /// Names of tasks that did not end well.
    pub(crate) failed: Vec<String>,
    /// When it was triggered, and when it ended or 0, milliseconds since 1970.
    pub(crate) times: (u64, u64),
    /// The time now.
    pub(crate) at: u64,
}

impl News<'_> {
    /// The tickets that tell it, one for each entry that it concerns. Of strangers' builds the end is told only where an
    /// entry says so: anybody can bring one about.
    pub(crate) fn tickets(&self, notify: &[Notify]) -> Vec<(TicketKey, Ticket)> {
        let words = self.moment.words();
        let concerns = |entry: &&(usize, &Notify)| {
            let told = self.moment == Moment::Held || !self.source.untrusted || entry.1.untrusted;
            told && entry.1.on.iter().any(|on| words.contains(on))
        };
        let entries: Vec<(usize, &Notify)> = notify.iter().enumerate().collect();
        let concerned = entries.iter().filter(concerns);
        concerned
            .filter_map(|(index, entry)| self.ticket(*index, entry, &words))
            .collect()
    }

    fn ticket(&self, index: usize, entry: &Notify, words: &[On]) -> Option<(TicketKey, Ticket)> {
        let nonce = self.nonce.get(..NONCE_DIGITS).unwrap_or(self.nonce);
        // A build that was held may end before anybody has told that it is: both stand in the queue then.
        let moment = if self.moment == Moment::Held { "held-" } else { "" };
        let id = format!("{}.{}.{index}-{moment}{nonce}", self.of.job, self.of.build);
        let key = TicketKey {
            queue: Name::new(NOTIFY_QUEUE)?,
            id: TicketId::new(&id)?,
        };
        let mut ticket = self.open(&entry.kind);
        // The least that can be missed goes first.
        for left_out in [
            &[][..],
            &["failed", "cause"],
            &["failed", "cause", "why", "base", "senders"],
        ] {
            let mut params: Map<String, Value> = entry.params.iter().cloned().collect();
            params.extend(
                self.facts(words)
                    .into_iter()
                    .filter(|(name, _)| !left_out.contains(name))
                    .map(|(name, value)| (name.to_owned(), value)),
            );
            let body = serde_json::json!({
                "id": key.id.as_str(), "queue": NOTIFY_QUEUE, "labels": ticket.labels, "params": params,
            });
            ticket.body = Some(body.to_string());
            if to_json(&ticket).len() <= ENTRY_BYTES_MAX {
                return Some((key, ticket));
            }
        }
        None
    }

    /// What is told, by the names of the files that say it. What a stranger may have written is no reason: his scripts
    /// and tasks have words of their own.
    fn facts(&self, words: &[On]) -> Vec<(&'static str, Value)> {
        let (of, source) = (&self.of, self.source);
        let line = |text: &str| {
            let line = text.lines().next().unwrap_or_default();
            Value::from(cut(&plain(line), WORDS_BYTES_MAX))
        };
        let mut facts: Vec<(&'static str, Value)> = vec![
            ("job", of.job.as_str().into()),
            ("build", of.build.into()),
            ("run", of.run.into()),
            ("state", self.moment.state().into()),
            ("events", words.iter().map(|on| on.as_str()).collect()),
            ("triggered", self.times.0.into()),
        ];
        facts.extend(source.words().map(|(name, word)| (name, line(word))));
        facts.extend((!source.senders.is_empty()).then(|| ("senders", Value::from(source.senders.clone()))));
        facts.extend((self.times.1 > 0).then(|| ("finished", self.times.1.into())));
        if let Moment::Ended(_, Some(before)) = self.moment {
            facts.push(("before", before.as_str().into()));
        }
        if !source.untrusted || self.moment == Moment::Held {
            facts.push(("why", line(self.why)));
        }
        if !source.untrusted {
            facts.push(("cause", line(self.cause)));
            let failed: Vec<Value> = self.failed.iter().take(FAILED_MAX).map(|name| line(name)).collect();
            facts.extend((!failed.is_empty()).then(|| ("failed", failed.into())));
        }
        facts
    }

    /// A ticket that says nothing yet.
    fn open(&self, kind: &Name) -> Ticket {
        Ticket {
            state: TicketState::Open,
            attempt: 1,
            given: 0,
            nonce: String::new(),
            part: None,
            notify: Some(self.of.clone()),
            name: String::new(),
            lines: String::new(),
            labels: vec![kind.to_string()],
            isolation: None,
            timeout: Some(TIMEOUT_SECS),
            attempts: ATTEMPTS,
            console_limit: None,
            disk: None,
            workspace: None,
            body: None,
            body_digest: None,
            group: None,
            slot: None,
            uid: self.owner,
            owner: Some(self.owner),
            priority: 0,
            untrusted: self.source.untrusted,
            post: None,
            posted: self.at,
            claimed: 0,
            node: String::new(),
            by: None,
            outcome: None,
            unknown: Unknown::default(),
        }
    }
}

#[cfg(test)]
mod tests;
