//! Triggers, results, consoles, artifacts, ends.

use super::{Answer, BTreeMap, BTreeSet, Call, Case, Kind, Millis, Operation, Ticket};

/// Promise 4: "Claims and results are visible within 1 s on all others"; the rest is for a machine
/// whose processors are all busy.
const SEEN_WITHIN: Millis = 1000 + 2000;

/// A mount is seen to be back a moment before that is written down.
const BACK: Millis = 100;

/// The words that a build ends with.
const FINAL: [&str; 4] = ["success", "failure", "error", "aborted"];

/// How coreutils and we call ESTALE.
const STALE: &str = "Stale";

/// How they call ENOENT.
const ABSENT: &str = "No-such";

/// What whoever publishes has written to the console before.
pub fn says(token: &str) -> String {
    format!("{token} says hello")
}

/// The attempts to publish a ticket: tokens, and what was told of them.
#[derive(Default)]
struct Attempts<'a> {
    told: BTreeSet<&'a str>,
    refused: BTreeSet<&'a str>,
    all: BTreeSet<&'a str>,
}

impl Case<'_> {
    /// "What returned success is durable: a trigger"; "a number is never used twice"; the same key
    /// gives the same build.
    pub(super) fn triggers(&mut self) {
        let (history, found) = (self.history, self.found);
        let mut asked: BTreeSet<(&str, &str)> = BTreeSet::new();
        for operation in &history.operations {
            let Call::Trigger { job, token, .. } = &operation.call else {
                continue;
            };
            asked.insert((job, token));
            let Some(number) = operation.told() else { continue };
            let build = number
                .parse()
                .ok()
                .and_then(|number| found.builds.get(&(job.clone(), number)));
            match build {
                None => self.violates(Kind::LostTrigger, format!("{job}/{number} of {token} is not there")),
                Some(build) if build.token != *token => {
                    let other = &build.token;
                    self.violates(
                        Kind::LostTrigger,
                        format!("{job}/{number} was told to {token} and is of {other}"),
                    );
                }
                Some(_) => {}
            }
        }
        let mut seen: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for ((job, number), build) in &found.builds {
            if !asked.contains(&(job.as_str(), build.token.as_str())) {
                self.violates(
                    Kind::ExtraBuild,
                    format!("{job}/{number}: nobody asked for {:?}", build.token),
                );
            }
            if let Some(first) = seen.insert((job, &build.token), *number) {
                self.violates(
                    Kind::ExtraBuild,
                    format!("{job}: {} is both {first} and {number}", build.token),
                );
            }
        }
    }

    /// "Every build ended", each task of it published, and no ticket is left.
    pub(super) fn ends(&mut self) {
        let found = self.found;
        for ((job, number), build) in &found.builds {
            if self.may_be_aborted(job, *number) {
                continue;
            }
            if build.state != "success" {
                let (state, why) = (&build.state, &build.why);
                self.violates(Kind::NotEnded, format!("{job}/{number} is {state}: {why}"));
                continue;
            }
            for (task, artifact) in &build.artifacts {
                match artifact {
                    Err(why) => self.violates(Kind::Differs, format!("{job}/{number}: artifact of task {task}: {why}")),
                    Ok(token) if build.steps.get(*task as usize) != Some(token) => {
                        let steps = &build.steps;
                        self.violates(
                            Kind::TwoPublished,
                            format!("{job}/{number}: task {task} published {token}, and the workspace has {steps:?}"),
                        );
                    }
                    Ok(_) => {}
                }
            }
            for token in build.artifacts.values().flatten() {
                if !build.console.lines().any(|line| line == says(token)) {
                    self.violates(
                        Kind::LostLine,
                        format!("{job}/{number}: {token} published, and its line is not there"),
                    );
                }
            }
            if build.artifacts.is_empty() || build.steps.len() != build.artifacts.len() {
                let (files, steps) = (build.artifacts.len(), build.steps.len());
                self.violates(
                    Kind::Differs,
                    format!("{job}/{number}: {files} artifacts of {steps} tasks"),
                );
            }
        }
        for ticket in &found.tickets {
            self.violates(Kind::TicketLeft, ticket);
        }
    }

    /// "No reader sees a build go backwards", and what one sees final the others see within a second.
    pub(super) fn states(&mut self) {
        let history = self.history;
        let mut finals: BTreeMap<(&str, u64), (Millis, &str)> = BTreeMap::new();
        let mut made: BTreeMap<(&str, u64), Millis> = BTreeMap::new();
        let mut looks = Vec::new();
        for operation in &history.operations {
            match (&operation.call, operation.told()) {
                (Call::Trigger { job, .. }, Some(number)) => {
                    made.insert((job, number.parse().unwrap_or(0)), operation.ended());
                }
                (Call::State { job, build }, told) => {
                    looks.push((operation, (job.as_str(), *build)));
                    if let Some(word) = told.filter(|word| FINAL.contains(word)) {
                        let first = finals.entry((job, *build)).or_insert((operation.ended(), word));
                        *first = (*first).min((operation.ended(), word));
                    }
                }
                _ => {}
            }
        }
        for (look, build) in looks {
            self.look(look, finals.get(&build).copied(), made.get(&build).copied());
        }
        for ((job, number), (_, word)) in finals {
            let last = self.found.builds.get(&(job.to_owned(), number));
            if last.is_none_or(|build| build.state != word) {
                let last = last.map(|build| &build.state);
                self.violates(
                    Kind::WentBack,
                    format!("{job}/{number} was seen {word} and is {last:?}"),
                );
            }
        }
    }

    fn look(&mut self, look: &Operation, ended: Option<(Millis, &str)>, made: Option<Millis>) {
        let Operation { call, node, begin, .. } = look;
        match (&look.end, ended, made) {
            (Some((_, Answer::Ok(word))), Some((when, last)), _)
                if word != last && (FINAL.contains(&word.as_str()) || *begin > when + SEEN_WITHIN) =>
            {
                let late = begin.saturating_sub(when);
                self.violates(
                    Kind::WentBack,
                    format!("{call}: {word} on {node}, {late} ms after {last} was seen"),
                );
            }
            (Some((_, Answer::Failed(why))), _, Some(made))
                if why.contains(ABSENT) && *begin > made + SEEN_WITHIN && !self.unmounted(look) =>
            {
                let late = begin - made;
                self.violates(
                    Kind::LostTrigger,
                    format!("{call}: {why} on {node}, {late} ms after the trigger was told"),
                );
            }
            _ => {}
        }
    }

    /// Whether nothing was mounted there for a while: then the folder below was seen.
    fn unmounted(&self, look: &Operation) -> bool {
        self.history.operations.iter().any(|fault| match &fault.call {
            Call::Fault { kind, target } => {
                kind == "kill-mount"
                    && *target == look.node
                    && fault.begin <= look.ended()
                    && look.begin <= fault.ended().saturating_add(BACK)
            }
            _ => false,
        })
    }

    /// "At most one claimant of a ticket can publish", and a result that was acknowledged stays.
    pub(super) fn results(&mut self) {
        let (history, found) = (self.history, self.found);
        let mut tickets: BTreeMap<&Ticket, Attempts<'_>> = BTreeMap::new();
        for operation in &history.operations {
            let Call::Result { ticket, token } = &operation.call else {
                continue;
            };
            let attempts = tickets.entry(ticket).or_default();
            attempts.all.insert(token);
            match &operation.end {
                Some((_, Answer::Ok(_))) => _ = attempts.told.insert(token),
                Some((_, Answer::Failed(why))) if why.contains(STALE) => _ = attempts.refused.insert(token),
                _ => {}
            }
        }
        for (ticket, attempts) in tickets {
            let told = &attempts.told;
            if told.len() > 1 {
                self.violates(
                    Kind::TwoPublished,
                    format!("{ticket}: {told:?} were all told that they had"),
                );
            }
            let Some(Ok(published)) = found.artifact(ticket) else {
                for token in told {
                    self.violates(
                        Kind::LostResult,
                        format!("{ticket}: nothing is published, and {token} was told so"),
                    );
                }
                continue;
            };
            let published = published.as_str();
            if !attempts.all.contains(published) {
                self.violates(
                    Kind::Differs,
                    format!("{ticket}: {published} is there and wrote no result"),
                );
            } else if !told.is_empty() && !told.contains(published) {
                self.violates(
                    Kind::TwoPublished,
                    format!("{ticket}: {told:?} was told so, and {published} is there"),
                );
            } else if told.is_empty() && attempts.refused.contains(published) {
                self.violates(
                    Kind::LostPublished,
                    format!("{ticket}: {published} was told that its claim is lost, and is there"),
                );
            }
        }
    }

    /// "What returned success is durable: a console line after close or fsync", and it is there once.
    pub(super) fn lines(&mut self) {
        let (history, found) = (self.history, self.found);
        for operation in &history.operations {
            let (Call::Line { ticket, text }, Some(_)) = (&operation.call, operation.told()) else {
                continue;
            };
            let console = found.build(ticket).map_or("", |build| &build.console);
            match console.lines().filter(|line| line == text).count() {
                0 => self.violates(Kind::LostLine, format!("{ticket}: {text:?}")),
                1 => {}
                times => self.violates(Kind::LineTwice, format!("{ticket}: {text:?}, {times} times")),
            }
        }
    }

    /// "The next claimant starts from the same state as the first": what the tasks before published.
    pub(super) fn beginnings(&mut self) {
        let (history, found) = (self.history, self.found);
        for operation in &history.operations {
            let (Call::Before { ticket }, Some(told)) = (&operation.call, operation.told()) else {
                continue;
            };
            let saw: Vec<&str> = told.split(',').filter(|token| !token.is_empty()).collect();
            // Of one that was aborted the workspace is what its last task that ended left.
            let build = found
                .build(ticket)
                .filter(|_| !self.may_be_aborted(&ticket.job, ticket.build));
            let Some(build) = build else { continue };
            let steps = build.steps.iter().take(ticket.task as usize);
            if !steps.clone().eq(saw.iter()) {
                let steps: Vec<&String> = steps.collect();
                self.violates(
                    Kind::BeganElsewhere,
                    format!("{ticket} saw {saw:?} instead of {steps:?}"),
                );
            }
        }
    }
}
