//! Tells GitHub, one status after the other: GitHub asks for requests one at a time.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::built::{built, judge};
use super::github::{Outcome, Status, Telling};
use super::told::{Build, Key};
use super::{Settings, Shared, line, made};
use crate::pauses::{growing, spread};
use crate::signals;
use crate::tree::{self, Result, Trouble};

/// Pause between two requests: GitHub counts 5 points for each of ours, and allows 900 a minute.
const PAUSE: Duration = Duration::from_millis(350);

/// How long the sender sleeps at most, and how often the file is written at most.
const TICK: Duration = Duration::from_secs(1);

/// How long a token that was not taken is not tried again, unless the file holds another.
const BAD_TOKEN_PAUSE: Duration = Duration::from_secs(60);

/// First and longest pause after an answer that may be another later, such as 500.
const LATER_PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// How long such a status is tried: GitHub was never away for a day.
const LATER_TIME: Duration = Duration::from_secs(86_400);

/// First and longest pause after an answer that needs somebody to change something, such as 404.
const REFUSED_PAUSES: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(900));

/// Tries of such a status: about an hour.
const REFUSED_TRIES_MAX: u32 = 9;

/// A status that was not told at the first try.
#[derive(Debug, Clone, Copy)]
struct Retry {
    tries: u32,
    since: Instant,
    until: Instant,
}

/// What there is to report of a build.
struct Report {
    /// `None`: a word that is not known.
    status: Option<Status>,
    removed: bool,
    /// Why, if its own words do not say so.
    why: Option<String>,
}

impl Report {
    fn now(status: Option<Status>, why: Option<String>) -> Self {
        let removed = false;
        Report { status, removed, why }
    }

    fn removed() -> Self {
        Report {
            status: Some(Status::Error),
            removed: true,
            why: Some("the build was removed".into()),
        }
    }
}

/// The thread that tells.
pub struct Sender {
    settings: Settings,
    shared: Arc<Shared>,
    retries: BTreeMap<Key, Retry>,
    /// Nothing is asked before this.
    pause: Instant,
    bad_token: Option<(String, Instant)>,
    /// What was said last of what holds everything up.
    said: String,
}

impl Sender {
    /// Of these settings.
    pub fn new(settings: Settings, shared: Arc<Shared>) -> Self {
        Sender {
            settings,
            shared,
            retries: BTreeMap::new(),
            pause: Instant::now(),
            bad_token: None,
            said: String::new(),
        }
    }

    /// Tells until the worker ends. Errors: only `Away`.
    pub fn run(mut self) -> Result<()> {
        let mut saved = Instant::now();
        while !signals::stopping() {
            if saved.elapsed() >= TICK {
                self.shared.save();
                saved = Instant::now();
            }
            let now = Instant::now();
            let due = if now < self.pause { None } else { self.due(now) };
            match due.and_then(|due| Some((due, self.token()?))) {
                Some(((key, build), token)) => self.tell(&key, &build, &token)?,
                None => self.sleep(),
            }
        }
        Ok(())
    }

    /// Sleeps until there is news, for a moment at most.
    fn sleep(&self) {
        let rest = self.pause.saturating_duration_since(Instant::now());
        let rest = if rest.is_zero() { TICK } else { rest.min(TICK) };
        let told = self.shared.lock();
        // Whoever is woken without a reason looks again, which does no harm.
        drop(
            self.shared
                .news
                .wait_timeout(told, rest)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    /// A build that may have changed and whose turn it is.
    fn due(&self, now: Instant) -> Option<(Key, Build)> {
        let told = self.shared.lock();
        let ready = |key: &Key| self.retries.get(key).is_none_or(|retry| retry.until <= now);
        let gone = told.gone.iter().map(|(key, build)| (key, build));
        let mut due = told
            .builds
            .iter()
            .chain(gone)
            .filter(|(key, build)| build.is_due() && ready(key));
        due.next().map(|(key, build)| (key.clone(), build.clone()))
    }

    /// The token, unless there is none or it was not taken a moment ago.
    fn token(&mut self) -> Option<String> {
        let token = match self.settings.api.token() {
            Ok(token) => token,
            Err(why) => {
                self.hold(TICK, why);
                return None;
            }
        };
        match &self.bad_token {
            Some((bad, until)) if *bad == token && Instant::now() < *until => {
                self.pause = Instant::now() + TICK;
                None
            }
            _ => Some(token),
        }
    }

    /// Asks for nothing for some time, and says why, once.
    fn hold(&mut self, time: Duration, why: String) {
        self.pause = Instant::now() + time;
        if self.said != why {
            eprintln!("github-status: {why}");
            self.said = why;
        }
    }

    /// What there is to report of a build.
    fn report(&self, key: &Key, build: &Build) -> Result<Report> {
        let folder = self.settings.tree.build(&key.0, key.1);
        if build.gone {
            return Ok(Report::removed());
        }
        let found = line(&folder.join("state")).and_then(|word| {
            let Some(ended) = Status::of(&word).filter(|status| *status != Status::Pending) else {
                return Ok(Report::now(Status::of(&word), None));
            };
            let record = tree::read(&folder.join("build.json"))?;
            let built = built(&record, &build.repository).map_err(Trouble::Refused)?;
            let (status, why) = judge(ended, &build.commit, &built);
            Ok(Report::now(Some(status), why))
        });
        match found {
            // Of a job that is not there by this name it is told soon whether it was removed or renamed.
            Err(Trouble::Lost(why)) => match self.is_job(&key.0)? {
                true => Ok(Report::removed()),
                false => Err(Trouble::Later(why)),
            },
            found => found,
        }
    }

    /// Whether a job of that name is there, and the one that is known.
    fn is_job(&self, job: &str) -> Result<bool> {
        let known = self.shared.lock().jobs.get(job).map(|job| job.made);
        let is = made(&self.settings.tree, job)?;
        Ok(is.is_some() && known.is_none_or(|known| is == Some(known)))
    }

    /// Looks at a build and tells how it stands, if GitHub does not know.
    fn tell(&mut self, key: &Key, build: &Build, token: &str) -> Result<()> {
        let report = match self.report(key, build) {
            Ok(found) => found,
            Err(Trouble::Away(why)) => return Err(Trouble::Away(why)),
            Err(trouble) => {
                self.later(key, build, LATER_PAUSES, &trouble.to_string());
                return Ok(());
            }
        };
        let removed = report.removed;
        // Of what ended and was removed afterwards the end is known.
        let known = removed && build.told.is_some_and(|told| told != Status::Pending);
        let Some(status) = report.status.filter(|status| build.told != Some(*status) && !known) else {
            self.settle(key, build, build.told, removed);
            return Ok(());
        };
        let (job, n) = key;
        let why = || line(&self.settings.tree.build(job, *n).join("why")).unwrap_or_default();
        let url = self.settings.target_url.as_deref();
        let url = url.map(|url| url.replace("{job}", job).replace("{build}", &n.to_string()));
        let telling = Telling {
            repository: &build.repository,
            commit: &build.commit,
            status,
            description: &report.why.unwrap_or_else(why),
            context: &format!("{}/{}", self.settings.context, build.called.as_ref().unwrap_or(job)),
            target_url: url.as_deref(),
        };
        let outcome = self.settings.api.tell(&telling, token);
        self.take(key, build, status, removed, outcome, token);
        Ok(())
    }

    /// Does what an answer asks for.
    fn take(&mut self, key: &Key, build: &Build, status: Status, removed: bool, outcome: Outcome, token: &str) {
        let (job, n) = key;
        self.pause = Instant::now() + PAUSE;
        match outcome {
            Outcome::Told(pause) => {
                eprintln!("github-status: {job}/{n}: {} of {}", status.word(), build.repository);
                self.said.clear();
                self.bad_token = None;
                self.settle(key, build, Some(status), removed);
                if let Some(pause) = pause {
                    self.hold(
                        pause,
                        format!("the limit of requests is reached: waiting {} s", pause.as_secs()),
                    );
                }
            }
            Outcome::Pause(pause, why) => {
                let pause = pause + spread(pause / 10);
                self.hold(pause, format!("waiting {} s: {why}", pause.as_secs()));
            }
            Outcome::BadToken(why) => {
                self.bad_token = Some((token.to_owned(), Instant::now() + BAD_TOKEN_PAUSE));
                self.hold(TICK, format!("the token is not taken: {why}"));
            }
            Outcome::Later(why) => self.later(key, build, LATER_PAUSES, &why),
            Outcome::Refused(why) => {
                let tries = self.retries.get(key).map_or(0, |retry| retry.tries);
                if tries + 1 < REFUSED_TRIES_MAX {
                    self.later(key, build, REFUSED_PAUSES, &why);
                } else {
                    self.give_up(key, build, status, removed, &why);
                }
            }
            Outcome::Never(why) => self.give_up(key, build, status, removed, &why),
        }
    }

    /// Tries again after a pause that grows; after a day no more.
    fn later(&mut self, key: &Key, build: &Build, pauses: (Duration, Duration), why: &str) {
        let now = Instant::now();
        let first = Retry {
            tries: 0,
            since: now,
            until: now,
        };
        let retry = self.retries.entry(key.clone()).or_insert(first);
        retry.tries += 1;
        let pause = growing(pauses, retry.tries);
        let pause = pause / 2 + spread(pause / 2);
        retry.until = now + pause;
        let over = retry.since.elapsed() > LATER_TIME;
        let (job, n) = key;
        eprintln!("github-status: {job}/{n}: {why}; again in {:.1} s", pause.as_secs_f64());
        if over {
            self.settle(key, build, build.told, false);
            eprintln!("github-status: {job}/{n}: given up");
        }
    }

    fn give_up(&mut self, key: &Key, build: &Build, status: Status, removed: bool, why: &str) {
        let (job, n) = key;
        eprintln!("github-status: {job}/{n}: {} is not told: {why}", status.word());
        self.settle(key, build, Some(status), removed);
    }

    /// Notes what is known of a build as it was when it was looked at.
    fn settle(&mut self, key: &Key, build: &Build, told: Option<Status>, removed: bool) {
        self.retries.remove(key);
        let mut all = self.shared.lock();
        all.dirty = true;
        if build.gone {
            all.gone
                .retain(|(gone, other)| gone != key || other.commit != build.commit);
        } else if removed {
            all.builds.remove(key);
        } else if let Some(known) = all.builds.get_mut(key) {
            known.told = told;
            known.looked = build.changed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound() {
        let seconds = |tries| growing(LATER_PAUSES, tries).as_secs();
        assert_eq!(
            [0, 1, 2, 3, 8, 9, 10, 40, u32::MAX].map(seconds),
            [1, 1, 2, 4, 128, 256, 300, 300, 300]
        );
        let all: Duration = (1..REFUSED_TRIES_MAX).map(|tries| growing(REFUSED_PAUSES, tries)).sum();
        assert!(
            all > Duration::from_secs(3600),
            "time enough to change a permission: {all:?}"
        );
    }
}
