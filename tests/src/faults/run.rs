//! A run: builds, faults, an end, and the judgement.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use super::checker::{Numbers, Violation, check};
use super::clients::JOBS;
use super::collector::Collected;
use super::dice::Dice;
use super::farm::Farm;
use super::found::Found;
use super::history::{Call, History, Millis};
use super::injector::{Fault, OF_MOUNTS, OF_STORES};
use crate::programs;

/// Between two faults of a lane.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_millis(3000));

/// What a run takes beyond its faults: the start, the end, and the judgement.
const BESIDE: Duration = Duration::from_secs(600);

/// How long killed workers may stand in their last call: a call's bound, and some more.
const WORKERS_GONE: Duration = Duration::from_secs(20);

/// What is done.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Decides who is hit by what, when.
    pub seed: u64,
    /// How long there are faults; `None`: until each has come once.
    pub time: Option<Duration>,
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// What was done.
    pub plan: Plan,
    /// How much happened.
    pub numbers: Numbers,
    /// Each fault with how long it lasted.
    pub faults: Vec<(String, Millis)>,
    /// The longest call of each kind.
    pub longest: BTreeMap<String, Millis>,
    /// How long the builds took to end after the last fault; `None`: they did not.
    pub ended: Option<Duration>,
    /// What gc did meanwhile.
    pub collected: Collected,
    /// Everything that is wrong.
    pub violations: Vec<Violation>,
    /// What `distcifs fsck` found wrong.
    pub fsck: Option<String>,
    /// The history and the logs.
    pub folder: PathBuf,
}

/// Runs a plan. `folder` is a new one, for the history and the logs.
pub fn run(plan: Plan, folder: &Path) -> Report {
    std::fs::create_dir_all(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let limit = plan.time.unwrap_or_default() + BESIDE;
    let farm = Farm::new(folder.join("history"), limit);
    let (ended, found, collected) = scope(|threads| {
        // However this ends, all the others must.
        let _over = Over(&farm);
        let seed = plan.seed;
        threads.spawn(|| farm.tend());
        let collector = threads.spawn(|| farm.collect());
        for node in 0..farm.nodes().len() {
            let farm = &farm;
            threads.spawn(move || farm.trigger_on(node, seed));
            threads.spawn(move || farm.configure_on(node, seed));
            threads.spawn(move || farm.look_on(node, seed));
        }
        let lanes = [
            threads.spawn(|| lane(&farm, plan, "mounts", &OF_MOUNTS)),
            threads.spawn(|| lane(&farm, plan, "stores", &OF_STORES)),
        ];
        lanes
            .into_iter()
            .for_each(|lane| lane.join().expect("a fault could not be brought about or undone"));
        farm.close();
        let judge = farm.judge(limit);
        let ended = farm.wait_ended(&judge);
        farm.end();
        let collected = collector.join().expect("gc can be run");
        (ended, Found::read(&judge, &JOBS.map(str::to_owned)), collected)
    });
    keep_logs(&farm, folder);
    let history = History::read(&folder.join("history"));
    let fsck = fsck(farm, folder);
    Report {
        plan,
        numbers: Numbers::of(&history),
        faults: faults(&history),
        longest: longest(&history),
        ended,
        collected,
        violations: check(&history, &found),
        fsck,
        folder: folder.to_owned(),
    }
}

/// Ends everybody when it is dropped.
struct Over<'a>(&'a Farm);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.close();
        self.0.end();
    }
}

/// One fault after another.
fn lane(farm: &Farm, plan: Plan, name: &str, faults: &[Fault]) {
    let mut dice = Dice::new(plan.seed, name.len() as u64 + u64::from(name.as_bytes()[0]));
    let begun = Instant::now();
    let mut left = dice.shuffled(faults);
    loop {
        let Some(fault) = left.pop() else {
            if plan.time.is_none_or(|time| begun.elapsed() >= time) {
                return;
            }
            left = dice.shuffled(faults);
            continue;
        };
        sleep(dice.between(PAUSE.0, PAUSE.1));
        fault.befall(farm, name, &mut dice);
        if plan.time.is_some_and(|time| begun.elapsed() >= time) {
            return;
        }
    }
}

/// What is wrong with the repository as a whole, once nobody has it mounted.
fn fsck(farm: Farm, folder: &Path) -> Option<String> {
    for node in farm.nodes() {
        // A killed worker is gone when what it asked the mount for is answered, and its keeper after it.
        node.mount().unmount_within(WORKERS_GONE);
    }
    let mut command = Command::new(programs::distcifs());
    command.arg("fsck").arg(farm.repository().source());
    let options = farm.repository().options("fsck", &folder.join("fsck"));
    command.args(options.iter().flat_map(|options| ["-o", options]));
    let output = command.output().expect("distcifs runs");
    (!output.status.success()).then(|| crate::cluster::text(&output))
}

fn keep_logs(farm: &Farm, folder: &Path) {
    for node in farm.nodes() {
        let log = node.mount().own_folder().join("log");
        // A mount may have died before its first line.
        let _ = std::fs::copy(log, folder.join(format!("{}.log", node.name())));
    }
}

fn faults(history: &History) -> Vec<(String, Millis)> {
    let faults = history.operations.iter().filter_map(|operation| match &operation.call {
        Call::Fault { kind, target } => {
            let lasted = operation.end.as_ref().map_or(0, |(end, _)| end - operation.begin);
            Some((format!("{kind} {target}"), lasted))
        }
        _ => None,
    });
    faults.collect()
}

fn longest(history: &History) -> BTreeMap<String, Millis> {
    let mut longest = BTreeMap::new();
    for operation in &history.operations {
        let kind = operation.call.to_string();
        let kind = kind.split(' ').next().unwrap_or_default().to_owned();
        if let (Some((end, _)), false) = (&operation.end, kind == "fault") {
            let slot: &mut Millis = longest.entry(kind).or_default();
            *slot = (*slot).max(end - operation.begin);
        }
    }
    longest
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.violations.is_empty() && self.fsck.is_none() && self.ended.is_some()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}", self.plan.seed)?;
        for (fault, lasted) in &self.faults {
            writeln!(f, "fault {fault} {lasted} ms")?;
        }
        writeln!(f, "{:?}", self.numbers)?;
        for (call, time) in &self.longest {
            writeln!(f, "longest {call} {time} ms")?;
        }
        match self.ended {
            Some(time) => writeln!(f, "every build had ended {} ms after the last fault", time.as_millis())?,
            None => writeln!(f, "NOT every build ended")?,
        }
        writeln!(f, "{:?}", self.collected)?;
        for violation in &self.violations {
            writeln!(f, "VIOLATED {violation}")?;
        }
        if let Some(fsck) = &self.fsck {
            writeln!(f, "FSCK {fsck}")?;
        }
        write!(f, "history and logs: {}", self.folder.display())
    }
}
