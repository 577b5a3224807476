//! A job under many mounts that rename it, remove it, bring it back and begin builds of it, each step made of what
//! its mount saw last. Builds stand under the name that the list has, and numbers rise.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::repository::model::build::{ConfigEntry, Live, live_path};
use crate::repository::model::job::jobs_record;
use crate::repository::model::steps::build::{Begun, trigger};
use crate::repository::model::steps::tests::world::World;
use crate::repository::model::ticket::{Poster, control_key};

/// Who acts: mounts with views of their own.
const ACTORS: usize = 3;

/// Builds that may run at once: enough to keep a job busy.
const BUILDS: u64 = 4;

const NAMES: [&str; 2] = ["a", "b"];

/// A line of the job that is being moved, as rename.rs does it.
#[derive(Clone)]
struct Move {
    from: String,
    to: String,
    /// As it was set for this move.
    counted: Counted,
    /// The list as it was read after that: its revision, and the lines at both keys.
    list: Option<(u64, Option<JobEntry>, Option<JobEntry>)>,
    /// Whether the counter was as it was set after the list was read.
    sure: bool,
    /// Whether the line was moved.
    moved: bool,
}

/// What a mount knows.
#[derive(Default, Clone)]
struct Mount {
    /// The job by its name as the list had it.
    job: Option<Job>,
    counted: Option<Counted>,
    moving: Option<Move>,
    /// The counter as it was set to no name.
    unknown: Option<Counted>,
}

struct Machine {
    world: World,
    mounts: [Mount; ACTORS],
    told: BTreeSet<u64>,
}

impl Machine {
    fn new() -> Self {
        let mut world = World::default();
        let step = make("u".into(), access(1), NOW);
        assert!(world.commit(0, step.ops));
        let line = vec![("a".to_owned(), Some(to_json(&step.after)))];
        assert!(world.update(&jobs_record(), Some(0), line));
        Machine {
            world,
            mounts: Default::default(),
            told: BTreeSet::new(),
        }
    }

    /// The key at which the job stands in the list.
    fn key(&self) -> String {
        let keys = NAMES.into_iter().chain([".trash/u"]);
        let mut standing = keys.filter(|key| self.line(key).is_some());
        let key = standing.next().expect("the job is nowhere");
        assert_eq!(standing.next(), None, "the job is in two places");
        key.to_owned()
    }

    fn line(&self, key: &str) -> Option<JobEntry> {
        self.world.line(&jobs_record(), key)
    }

    fn counted(&self) -> Counted {
        let (counter, version) = self.world.read("/jobs/u").unwrap();
        Counted { counter, version }
    }

    fn unfinished(&self) -> Vec<u64> {
        (1..100)
            .filter(|n| self.world.nodes.contains_key(&live_path("u", *n)))
            .collect()
    }

    /// The list, and the job in it if it is not removed.
    fn look(&mut self, actor: usize) {
        let key = self.key();
        let job = Name::new(&key).map(|_| named_job(&key, self.line(&key).unwrap()));
        self.mounts[actor].job = job;
    }

    fn trigger(&mut self, actor: usize) {
        let Mount { job, counted, .. } = self.mounts[actor].clone();
        let (Some(job), Some(counted)) = (job, counted) else {
            return;
        };
        if self.unfinished().len() as u64 >= BUILDS {
            return;
        }
        let config = ConfigEntry {
            digest: "d".into(),
            size: 1,
        };
        let live: Live =
            serde_json::from_value(serde_json::json!({"config": config, "triggered": NOW, "uid": 1})).unwrap();
        let begun = Begun {
            who: Poster { uid: 1, gid: 1 },
            nonce: "n".into(),
            at: NOW,
            group: None,
        };
        if let Ok(step) = trigger(&job, &counted, &live, begun, None)
            && self.world.commit(actor, step.ops)
        {
            let rises = self.told.last().is_none_or(|last| *last < step.after);
            assert!(rises && self.told.insert(step.after), "a number used twice");
        }
    }

    /// A build ends, is recorded and tidied up.
    fn end(&mut self, pick: usize) {
        let unfinished = self.unfinished();
        let Some(n) = unfinished.get(pick % unfinished.len().max(1)) else {
            return;
        };
        self.world.nodes.remove(&live_path("u", *n));
        for name in NAMES {
            self.world.nodes.remove(&control_key(name, *n, 0).unwrap().path());
        }
    }

    /// Says in the counter what the job is to be called, unless a build of it runs: a rename, a removal, a return.
    fn begin_move(&mut self, actor: usize, to: &str) {
        let from = match &self.mounts[actor].job {
            Some(job) => job.name.to_string(),
            None => ".trash/u".to_owned(),
        };
        let Some(read) = self.mounts[actor].counted.clone().filter(|_| from != to) else {
            return;
        };
        let job = named_job("a", entry("u"));
        let aim = if to.starts_with('.') { to } else { MOVING };
        let step = call(&job, &read, aim).unwrap();
        if self.world.commit(actor, step.ops) {
            self.mounts[actor].moving = Some(Move {
                from,
                to: to.to_owned(),
                counted: step.after,
                list: None,
                sure: false,
                moved: false,
            });
        }
    }

    /// One step on the way: no build runs and the list is read; the counter is looked at; the line is moved; the
    /// counter says so.
    fn go_on(&mut self, actor: usize) {
        let Some(mut moving) = self.mounts[actor].moving.take() else {
            return;
        };
        match &moving.list {
            _ if moving.moved => {
                let (job, to) = (named_job("a", entry("u")), Name::new(&moving.to));
                if let Some(to) = to {
                    let step = call(&job, &moving.counted, to.as_str()).unwrap();
                    self.world.commit(actor, step.ops);
                }
                return;
            }
            None if !self.unfinished().is_empty() => return,
            None => {
                let revision = self.world.revision(&jobs_record());
                moving.list = Some((revision, self.line(&moving.from), self.line(&moving.to)));
            }
            Some(_) if !moving.sure => {
                if self.counted() != moving.counted {
                    return;
                }
                moving.sure = true;
            }
            Some((revision, here, there)) => {
                let Ok(Shift::Due(entry)) = shift("u", here.clone(), there.clone()) else {
                    return;
                };
                let change = moved(&moving.from, &moving.to, to_json(&named(entry, NOW)));
                moving.moved = self.world.update(&jobs_record(), Some(*revision), change);
                if !moving.moved {
                    return;
                }
            }
        }
        self.mounts[actor].moving = Some(moving);
    }

    /// Nobody knows what the job is called: first half of settling it. The list's revision changes.
    fn unsettle(&mut self, actor: usize) {
        let Some(read) = self.mounts[actor].counted.clone() else {
            return;
        };
        let job = named_job("a", entry("u"));
        let unknown = match call(&job, &read, UNKNOWN) {
            None if self.counted() == read => read,
            None => return,
            Some(step) => {
                if !self.world.commit(actor, step.ops) {
                    return;
                }
                step.after
            }
        };
        self.world.update(&jobs_record(), None, Vec::new());
        self.mounts[actor].unknown = Some(unknown);
        self.look(actor);
    }

    /// The second: the name that the list had goes into the counter.
    fn settle(&mut self, actor: usize) {
        let Mount { job, unknown, .. } = self.mounts[actor].clone();
        if let (Some(job), Some(unknown)) = (job, unknown) {
            let step = call(&job, &unknown, job.name.as_str()).unwrap();
            self.world.commit(actor, step.ops);
        }
        self.mounts[actor].unknown = None;
    }

    fn act(&mut self, (command, actor, pick): (u8, usize, usize)) {
        match command {
            0..=2 => self.look(actor),
            3..=5 => self.mounts[actor].counted = Some(self.counted()),
            6..=9 => self.trigger(actor),
            10..=11 => self.end(pick),
            12..=13 => self.begin_move(actor, NAMES[pick % 2]),
            14 => self.begin_move(actor, ".trash/u"),
            15..=18 => self.go_on(actor),
            19 => self.unsettle(actor),
            20 => self.settle(actor),
            // The ways on that chance alone finds seldom.
            21 => {
                self.look(actor);
                self.mounts[actor].counted = Some(self.counted());
                let to = [NAMES[0], NAMES[1], ".trash/u"][pick % 3];
                self.begin_move(actor, to);
                self.go_on(actor);
                self.go_on(actor);
            }
            _ => {
                self.mounts[actor].counted = Some(self.counted());
                self.unsettle(actor);
                self.settle(actor);
            }
        }
    }

    /// What holds at every moment: the job is in one place, and its builds run under its name.
    fn check(&self) {
        let key = self.key();
        for n in self.unfinished() {
            assert!(Name::new(&key).is_some(), "build {n} of a removed job");
            let ticket = control_key(&key, n, 0).unwrap();
            assert!(self.world.ticket(&ticket).is_some(), "build {n} is not called {key}");
        }
    }

    /// From any state, the job can be brought back, settled and triggered.
    fn drain(&mut self) {
        while !self.unfinished().is_empty() {
            self.end(0);
        }
        self.look(0);
        if self.mounts[0].job.is_none() {
            self.mounts[0].counted = Some(self.counted());
            self.begin_move(0, "a");
            (0..4).for_each(|_| self.go_on(0));
            self.look(0);
        }
        self.act((22, 0, 0));
        self.act((3, 0, 0));
        let before = self.told.len();
        self.trigger(0);
        assert_eq!(self.told.len(), before + 1, "it can't be triggered any more");
        self.check();
    }
}

fn run(commands: impl IntoIterator<Item = (u8, usize, usize)>) {
    let mut machine = Machine::new();
    for command in commands {
        machine.act(command);
        machine.check();
    }
    machine.drain();
}

/// Found by the machine: while a job that was renamed was about to get its first name again, a mount that had not
/// heard of the first rename began a build under that name.
#[test]
fn who_knows_a_job_by_the_name_that_it_is_to_have_begins_nothing() {
    let (rename, go_on, counter, trigger) = (21, 15, 3, 6);
    run([
        (rename, 1, 1),
        (go_on, 1, 0),
        (go_on, 1, 0),
        (rename, 0, 3),
        (counter, 1, 0),
        (trigger, 1, 0),
    ]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    /// "Of a rename and a trigger one wins": whatever mounts do that look at one time and write at another, a job
    /// stands in the list once, each unfinished build has its ticket under the name there and none is of a removed
    /// job, no number is used twice, and it can be triggered from where it stands.
    #[test]
    fn many_that_see_the_past_agree_on_what_a_job_is_called(
        commands in prop::collection::vec((0..24_u8, 0..ACTORS, 0..12_usize), 1..160)
    ) {
        run(commands);
    }
}
