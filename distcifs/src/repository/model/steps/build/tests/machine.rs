//! Builds under many mounts that read at one time and write at another: they begin, are stopped, end, are recorded
//! and tidied up, begin again, go into the trash and come back, in any order. What was told of one stays so.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::repository::model::build::build_record;
use crate::repository::model::claim::Cause;
use crate::repository::model::steps::tests::taken;
use crate::repository::model::steps::tests::world::World;
use crate::repository::model::steps::{self, claim, finish, guard, lose, post};
use crate::repository::model::ticket::part_key;

mod checks;
mod holds;

/// Who acts: mounts with views of their own.
const ACTORS: usize = 3;

/// Tasks of a build.
const TASKS: usize = 2;

/// Builds that are acted on: one that has a higher number is only triggered.
const BUILDS: u64 = 2;

/// A build as somebody saw it, and the revision that its record had before.
#[derive(Clone)]
struct Seen {
    build: Build,
    revision: u64,
}

/// What a mount knows.
#[derive(Default)]
struct Mount {
    counter: Option<Counted>,
    seen: BTreeMap<u64, Seen>,
    /// Builds that it saw since it read the counter: the order that a retry keeps.
    since: BTreeSet<u64>,
    /// Builds that it has recorded and is about to tidy up.
    recorded: BTreeMap<u64, Build>,
    /// The revision of the index with which it is about to move a build to the trash.
    index: u64,
    /// Builds that it has moved there, and looks at once more.
    moved: BTreeSet<u64>,
}

/// A claim that somebody made once; whoever made it never forgets.
struct Made {
    actor: usize,
    key: TicketKey,
    posted: Posted,
}

/// A run of a build: its number, and which retry.
type Run = (u64, u32);

struct Machine {
    world: World,
    job: Job,
    config: Arc<JobConfig>,
    mounts: [Mount; ACTORS],
    made: Vec<Made>,
    next: u32,
    /// Runs that began.
    begun: BTreeSet<Run>,
    /// How runs ended.
    ends: BTreeMap<Run, String>,
    /// The run in which each task of a build was posted last.
    posted: BTreeMap<(u64, usize), u32>,
    /// How tasks of runs ended.
    results: BTreeMap<(Run, usize), String>,
    /// Builds that were removed for good: nothing is told of them any more.
    removed: BTreeSet<u64>,
    /// Builds of strangers, and whether somebody approved them.
    strangers: BTreeMap<u64, bool>,
}

impl Machine {
    fn new() -> Self {
        let (job, mut world) = (job("j", "u"), World::default());
        let counter = Counter { next: 1, name: None };
        let ops = vec![
            create(job.path(), to_json(&counter)),
            create("/keys/u", bytes::Bytes::new()),
        ];
        assert!(world.commit(0, ops));
        Machine {
            world,
            job,
            config: config(),
            mounts: Default::default(),
            made: Vec::new(),
            next: 0,
            begun: BTreeSet::new(),
            ends: BTreeMap::new(),
            posted: BTreeMap::new(),
            results: BTreeMap::new(),
            removed: BTreeSet::new(),
            strangers: BTreeMap::new(),
        }
    }

    fn fresh(&mut self) -> String {
        self.next += 1;
        format!("{}", self.next)
    }

    fn key(n: u64, task: Option<usize>, run: u32) -> TicketKey {
        match task {
            None => control_key("j", n, run).unwrap(),
            Some(task) => part_key("q", "j", n, &task.to_string(), run).unwrap(),
        }
    }

    fn live(&self, n: u64) -> Option<(Live, u32)> {
        self.world.read(&live_path("u", n))
    }

    fn stored(&self, n: u64) -> Option<Record> {
        self.world.line(&build_record("u", n), &LineKey::Record.key())
    }

    fn indexed(&self, n: u64) -> Option<Indexed> {
        self.world.line(&self.job.record(), &LineKey::Build(n).key())
    }

    fn trashed(&self, n: u64) -> Option<BuildLine> {
        self.world.line(&self.job.record(), &LineKey::RemovedBuild(n).key())
    }

    /// The revision of the record first, the build second.
    fn look(&mut self, actor: usize, n: u64) {
        let revision = self.world.revision(&build_record("u", n));
        let build_ticket = |queue: &str, key: &TicketKey| {
            let posted = self.world.ticket(key)?;
            let queue = Name::new(queue).unwrap();
            Some(BuildTicket { queue, posted })
        };
        let (live, stored) = (self.live(n), self.stored(n));
        let run = live.as_ref().map_or(0, |(live, _)| live.run);
        let control = live
            .as_ref()
            .and_then(|_| build_ticket(CONTROL_QUEUE, &Self::key(n, None, run)));
        let tasks = (0..TASKS).filter(|_| live.is_some());
        let tickets: BTreeMap<_, _> = tasks
            .filter_map(|at| Some((at, build_ticket("q", &Self::key(n, Some(at), run))?)))
            .collect();
        let hidden = live.is_none() && self.indexed(n).is_none();
        let record = stored.filter(|_| !hidden && (run > 0 || control.is_none()));
        if live.is_none() && record.is_none() {
            self.mounts[actor].seen.remove(&n);
            return;
        }
        let build = Build {
            job: self.job.clone(),
            n,
            config: self.config.clone(),
            plan: Arc::new(Plan::of(self.config.clone())),
            live,
            control,
            tickets: Arc::new(tickets),
            record: record.map(Arc::new),
            params: Vec::new(),
            left_out: LeftOut::default(),
        };
        self.mounts[actor].seen.insert(n, Seen { build, revision });
        self.mounts[actor].since.insert(n);
    }

    fn seen(&self, actor: usize, n: u64) -> Option<Seen> {
        self.mounts[actor].seen.get(&n).cloned()
    }

    fn read_counter(&mut self, actor: usize) {
        let (counter, version) = self.world.read(&self.job.path()).unwrap();
        self.mounts[actor].counter = Some(Counted { counter, version });
        self.mounts[actor].since.clear();
    }

    fn trigger(&mut self, actor: usize) {
        let few = self.begun.iter().filter(|(_, run)| *run == 0).count() < 4;
        let Some(counted) = self.mounts[actor].counter.clone().filter(|_| few) else {
            return;
        };
        let nonce = self.fresh();
        let step = trigger(&self.job, &counted, &live(&nonce), begun(&nonce), None).unwrap();
        if self.world.commit(actor, step.ops) {
            assert!(
                self.begun.insert((step.after, 0)),
                "build {}: a number used twice",
                step.after
            );
        }
    }

    /// Begins a build again as it was seen, by the counter as it was seen before that.
    fn retry(&mut self, actor: usize, n: u64) {
        let (Some(counted), Some(seen)) = (self.mounts[actor].counter.clone(), self.seen(actor, n)) else {
            return;
        };
        let Some(record) = seen
            .build
            .record
            .filter(|_| seen.build.live.is_none() && self.mounts[actor].since.contains(&n))
            .filter(|record| may_retry(record, 1).is_ok())
        else {
            return;
        };
        let nonce = self.fresh();
        let live = Live {
            nonce: nonce.clone(),
            ..again(&record, with(""))
        };
        let step = retry(&self.job, n, &counted, &live, begun(&nonce)).unwrap();
        if self.world.commit(actor, step.ops) {
            assert!(
                self.begun.insert((n, live.run)),
                "build {n}: run {} began twice",
                live.run
            );
            self.bring_back(n);
        }
    }

    /// Claims a ticket of a build as it was seen.
    fn claim(&mut self, actor: usize, n: u64, task: Option<usize>) {
        let Some(Seen { build, .. }) = self.seen(actor, n) else {
            return;
        };
        let build_ticket = match task {
            None => build.control.as_ref(),
            Some(task) => build.tickets.get(&task),
        };
        let Some(build_ticket) = build_ticket else { return };
        let (key, nonce) = (Self::key(n, task, build.run()), self.fresh());
        if let Ok(step) = claim(&key, &build_ticket.posted, taken(&nonce, None))
            && self.world.commit(actor, step.ops)
        {
            let posted = step.after;
            self.made.push(Made { actor, key, posted });
        }
    }

    /// Posts a task under the newest claim of its build that this mount made.
    fn post(&mut self, actor: usize, n: u64, task: usize) {
        let of = |made: &&Made| {
            let part = made.posted.ticket.part.as_ref().unwrap();
            made.actor == actor && part.build == n && part.task.is_none()
        };
        let Some(made) = self.made.iter().rev().find(of) else {
            return;
        };
        let part = made.posted.ticket.part.clone().unwrap();
        let (run, under) = ((n, part.run), guard(&made.key, &made.posted));
        let part = BuildRef {
            task: Some(task),
            ..part
        };
        let ticket = Ticket {
            part: Some(part),
            ..ticket_of_build("u", Some(task))
        };
        let step = post(&Self::key(n, Some(task), run.1), ticket, under);
        if self.world.commit(actor, step.ops) {
            assert!(!self.ends.contains_key(&run), "build {run:?}: a task after its end");
            self.posted.insert((n, task), run.1);
        }
    }

    /// A ticket has its outcome.
    fn ended(&mut self, ticket: &Ticket) {
        let part = ticket.part.as_ref().unwrap();
        let (run, message) = ((part.build, part.run), ticket.outcome.as_ref().unwrap().message.clone());
        let first = match part.task {
            None => self.ends.insert(run, message).is_none(),
            Some(task) => self.results.insert((run, task), message).is_none(),
        };
        assert!(first, "{part:?}: two outcomes");
    }

    /// Whoever made a claim once gives its result, however long ago that was.
    fn finish(&mut self, pick: usize) {
        let message = format!("result {}", self.fresh());
        let Some(made) = self.made.get(pick % self.made.len().max(1)) else {
            return;
        };
        let step = finish(&made.key, &made.posted, outcome(message));
        if self.world.commit(made.actor, step.ops) {
            self.ended(&step.after.ticket);
        }
    }

    /// The mount of a claim is gone, and somebody finds that.
    fn lose(&mut self, pick: usize) {
        let Some(made) = self.made.get(pick % self.made.len().max(1)) else {
            return;
        };
        let key = made.key.clone();
        let Some(posted) = self.world.ticket(&key) else { return };
        let entry = self.world.entry(&key).is_some();
        if let Ok(step) = lose(&key, &posted, None, Cause::Session, NOW, entry) {
            let over = step.after.ticket.outcome.is_some();
            assert!(self.world.commit(0, step.ops));
            if over {
                self.ended(&step.after.ticket);
            }
        }
    }

    fn ask_abort(&mut self, actor: usize, n: u64) {
        if let Some(Seen { build, .. }) = self.seen(actor, n)
            && let Ok(step) = ask_abort(&build, eve(), NOW)
            && self.world.commit(actor, step.ops)
            && step.after.ended.is_some()
        {
            self.ended_unapproved(n, Dismissal::Aborted);
        }
    }

    /// Ends what a build has of open tickets as it was seen.
    fn stop(&mut self, actor: usize, n: u64) {
        let Some(Seen { build, .. }) = self.seen(actor, n) else {
            return;
        };
        let insist = build.live.as_ref().is_some_and(|(live, _)| live.insist);
        let Some(stop) = stop(&build, insist).unwrap().filter(|_| build.aborting()) else {
            return;
        };
        let mut lost_race = false;
        for (key, posted) in stop.open {
            lost_race |= !self.abort(actor, &key, &posted);
        }
        if let Some((key, posted)) = stop.own.filter(|_| !lost_race) {
            self.abort(actor, &key, &posted);
        }
    }

    fn abort(&mut self, actor: usize, key: &TicketKey, posted: &Posted) -> bool {
        let entry = self.world.entry(key).is_some();
        let Ok(step) = steps::abort(key, posted, NOW, entry) else {
            return true;
        };
        let done = self.world.commit(actor, step.ops);
        if done {
            self.ended(&step.after.ticket);
        }
        done
    }

    fn keep(&mut self, actor: usize, n: u64, did: Did) {
        let Some(Seen { build, revision }) = self.seen(actor, n) else {
            return;
        };
        if let Ok(step) = keep(&build, did, eve()) {
            self.world.commit(actor, step.ops);
        } else if let Some(record) = build.record {
            self.save(n, revision, &keep_record(&record, did, eve()));
        }
    }

    /// The record under the revision that was read before the build, its line, and a look at the trash.
    fn save(&mut self, n: u64, revision: u64, record: &Record) -> bool {
        let change = vec![(LineKey::Record.key(), Some(to_json(record)))];
        let written = self.world.update(&build_record("u", n), Some(revision), change);
        if !written && self.stored(n).as_ref() != Some(record) {
            return false;
        }
        let line = vec![(LineKey::Build(n).key(), Some(to_json(&Indexed::of(record))))];
        self.world.update(&self.job.record(), None, line);
        if self.trashed(n).is_some() {
            let change = match self.live(n) {
                Some(_) => out_of_trash(n, self.indexed(n).unwrap()),
                None => vec![(LineKey::Build(n).key(), None)],
            };
            self.world.update(&self.job.record(), None, change);
        }
        true
    }

    fn record(&mut self, actor: usize, n: u64) {
        let Some(Seen { build, revision }) = self.seen(actor, n) else {
            return;
        };
        let tasks = (0..TASKS).map(|at| build.task(at)).collect();
        if let Some(record) = record(&build, tasks, BTreeMap::new())
            && self.save(n, revision, &record)
        {
            self.mounts[actor].recorded.insert(n, build);
        }
    }

    fn tidy(&mut self, actor: usize, n: u64) {
        if let Some(build) = self.mounts[actor].recorded.remove(&n) {
            let step = tidy(&build, &[]).unwrap().unwrap();
            self.world.commit(actor, step.ops);
        }
    }

    /// Moves a build to the trash, by the index as it was when it was seen to be finished.
    fn trash(&mut self, actor: usize, n: u64) {
        let (index, line) = (self.mounts[actor].index, self.indexed(n));
        if let Some(indexed) = line.filter(|_| self.live(n).is_none()) {
            let trash = Removal {
                removed: NOW,
                until: NOW,
                by: eve(),
            };
            let change = into_trash(n, indexed, &trash);
            if self.world.update(&self.job.record(), Some(index), change) {
                self.mounts[actor].moved.insert(n);
            }
        }
    }

    /// Looks once more: one that was retried meanwhile comes back.
    fn look_after_trash(&mut self, actor: usize, n: u64) {
        if self.mounts[actor].moved.remove(&n) && self.live(n).is_some() {
            self.bring_back(n);
        }
    }

    fn bring_back(&mut self, n: u64) {
        if let Some(line) = self.trashed(n) {
            let change = out_of_trash(n, line.indexed);
            self.world.update(&self.job.record(), None, change);
        }
    }

    /// What was removed for good leaves a record without its line, so that nobody late brings it back.
    fn discard(&mut self, n: u64) {
        if self.live(n).is_none() && (self.indexed(n).is_some() || self.trashed(n).is_some()) {
            let lines = vec![(LineKey::Build(n).key(), None), (LineKey::RemovedBuild(n).key(), None)];
            self.world.update(&self.job.record(), None, lines);
            let record = vec![(LineKey::Record.key(), None)];
            self.world.update(&build_record("u", n), None, record);
            self.removed.insert(n);
        }
    }

    fn act(&mut self, (command, actor, n, pick): (u8, usize, u64, usize)) {
        match command {
            0..=3 => self.look(actor, n),
            4 => self.read_counter(actor),
            5 => self.trigger(actor),
            6..=7 => self.claim(actor, n, None),
            8..=9 => self.post(actor, n, pick % TASKS),
            10..=11 => self.claim(actor, n, Some(pick % TASKS)),
            12..=14 => self.finish(pick),
            15 => self.lose(pick),
            16 => self.ask_abort(actor, n),
            17 => self.stop(actor, n),
            18 if pick.is_multiple_of(2) => self.keep(actor, n, Did::Kept),
            18 => self.keep(actor, n, Did::Unkept),
            19..=20 => self.record(actor, n),
            21..=22 => self.tidy(actor, n),
            23 => self.retry(actor, n),
            24 => self.mounts[actor].index = self.world.revision(&self.job.record()),
            25 => self.trash(actor, n),
            26 => self.look_after_trash(actor, n),
            27 => self.bring_back(n),
            28 if pick == 0 => self.discard(n),
            // The ways on that chance alone finds seldom: a build that runs, ends, is recorded, begins again.
            29 => self.run(actor, n),
            30 => {
                self.look(actor, n);
                self.record(actor, n);
                self.tidy(actor, n);
            }
            31 => {
                self.read_counter(actor);
                self.look(actor, n);
                self.retry(actor, n);
            }
            34 => self.trigger_held(actor),
            35 => self.approve(actor, n),
            36 => self.end_held(actor, n, Dismissal::Superseded(9)),
            37 => {
                self.read_counter(actor);
                self.trigger_held(actor);
            }
            38 => {
                self.read_counter(actor);
                self.look(actor, n);
                self.approve(actor, n);
            }
            _ => {
                self.read_counter(actor);
                self.trigger(actor);
            }
        }
    }

    /// One who is at it alone takes a build to its end.
    fn run(&mut self, actor: usize, n: u64) {
        for at in [None, Some(0), Some(1)] {
            if let Some(task) = at {
                self.post(actor, n, task);
            }
            self.look(actor, n);
            self.claim(actor, n, at);
        }
        for back in 1..=3 {
            let pick = self.made.len().saturating_sub(back);
            self.finish(pick);
        }
    }
}

fn run(commands: impl IntoIterator<Item = (u8, usize, u64, usize)>) {
    let mut machine = Machine::new();
    for command in commands {
        machine.act(command);
        machine.check();
    }
    machine.drain();
}

/// Found by the machine: a mount that had read a record was away while another retried the build to its end, and
/// began that retry a second time.
#[test]
fn who_read_the_record_of_an_earlier_run_retries_nothing() {
    let (begin, one, ended, look, counter, retry, again) = (32, 29, 30, 0, 4, 23, 31);
    run([
        (begin, 0, 1, 0),
        (one, 0, 1, 0),
        (ended, 0, 1, 0),
        (counter, 1, 1, 0),
        (look, 1, 1, 0),
        (again, 0, 1, 0),
        (one, 0, 1, 0),
        (ended, 0, 1, 0),
        (retry, 1, 1, 0),
    ]);
}

/// Found by the machine: an abort that saw an earlier run replaced the entry of the retry, which has the same
/// version, by that of the run that was over.
#[test]
fn who_saw_an_earlier_run_aborts_nothing() {
    let (begin, one, ended, again, abort) = (32, 29, 30, 31, 16);
    run([
        (begin, 0, 1, 0),
        (one, 2, 1, 0),
        (ended, 0, 1, 0),
        (again, 0, 1, 0),
        (abort, 2, 1, 0),
    ]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    /// Whatever mounts do that look at one time and write at another: a number and a retry are begun once, a run
    /// has one end that stays, no task is posted after it, what was told of a task is in the record, and each
    /// build can be ended and recorded from where it stands.
    #[test]
    fn many_that_see_the_past_agree_on_each_build(
        commands in prop::collection::vec((0..40_u8, 0..ACTORS, 1..=BUILDS, 0..12_usize), 1..160)
    ) {
        run(commands);
    }
}
