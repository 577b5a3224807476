//! Groups, builds that newer ones made an end of, and tasks that were added.

use super::super::groups::{self, GROUPED, TASKS};
use super::{BTreeMap, Call, Case, Kind, Millis};

/// What `why` says of a build that a newer one made an end of, before the number of that one.
const SUPERSEDED: &str = "superseded by build ";

impl Case<'_> {
    /// "A build starts if fewer hold a place than its `limit`": a build holds one from before its first script was
    /// told anything until after its last one asked.
    pub(super) fn places(&mut self) {
        let history = self.history;
        let mut spans: BTreeMap<(&str, u64), (Millis, Millis)> = BTreeMap::new();
        for operation in &history.operations {
            let (Call::Before { ticket }, Some(_)) = (&operation.call, operation.told()) else {
                continue;
            };
            let (told, asked) = (operation.ended(), operation.begin);
            let span = spans.entry((&ticket.job, ticket.build)).or_insert((told, asked));
            *span = (span.0.min(told), span.1.max(asked));
        }
        for grouped in &GROUPED {
            let of_job = spans.iter().filter(|((job, _), _)| *job == grouped.job);
            let of_job: Vec<_> = of_job.map(|((_, build), span)| (*build, *span)).collect();
            for (_, (moment, _)) in &of_job {
                let at_once = of_job.iter().filter(|(_, (from, to))| from <= moment && moment < to);
                let at_once: Vec<u64> = at_once.map(|(build, _)| *build).collect();
                if at_once.len() > grouped.limit {
                    let (job, limit) = (grouped.job, grouped.limit);
                    self.violates(Kind::TooMany, format!("{job}: {at_once:?} ran at once, of {limit}"));
                }
            }
        }
    }

    /// "With `running` a newer build of the job ends those that run too. They end as `aborted`, their `why` says by
    /// which": the newest is built.
    pub(super) fn superseded(&mut self) {
        let found = self.found;
        for grouped in GROUPED.iter().filter(|grouped| grouped.supersedes) {
            let of_job = found.builds.iter().filter(|((job, _), _)| job == grouped.job);
            let newest = of_job.clone().map(|((_, number), _)| *number).max();
            for ((job, number), build) in of_job.filter(|(_, build)| build.state == "aborted") {
                let by = build.why.strip_prefix(SUPERSEDED);
                let by = by.and_then(|by| by.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok());
                if by.is_none_or(|by| by <= *number || newest.is_none_or(|newest| by > newest)) {
                    let why = &build.why;
                    self.violates(Kind::NotSuperseded, format!("{job}/{number} is aborted: {why}"));
                }
                if Some(*number) == newest {
                    self.violates(
                        Kind::NotSuperseded,
                        format!("{job}/{number} is the newest and is aborted"),
                    );
                }
            }
        }
    }

    /// "It takes effect with the ticket's result": what a task adds is there, once, or nothing of it.
    pub(super) fn added(&mut self) {
        let found = self.found;
        let of_groups = found.builds.iter().filter(|((job, _), _)| groups::of(job).is_some());
        for ((job, number), build) in of_groups {
            let tasks = &build.tasks;
            let whole = *tasks == TASKS;
            if !(whole || build.state == "aborted" && *tasks == TASKS[..1]) {
                self.violates(Kind::Added, format!("{job}/{number} has the tasks {tasks:?}"));
            }
            let ran = build.artifacts.len();
            if build.state == "success" && ran != TASKS.len() {
                self.violates(Kind::Added, format!("{job}/{number}: {ran} of its tasks published"));
            }
        }
    }

    /// Whether a build was ended by a newer one, as it may be.
    pub(super) fn may_be_aborted(&self, job: &str, number: u64) -> bool {
        let supersedes = groups::of(job).is_some_and(|grouped| grouped.supersedes);
        let build = self.found.builds.get(&(job.to_owned(), number));
        supersedes && build.is_some_and(|build| build.state == "aborted")
    }
}
