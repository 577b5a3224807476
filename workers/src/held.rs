//! One build whose build-control ticket this process holds: look at the record, do what it asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use distcifs_settings::expand::{Uses, plain};
use distcifs_settings::state::TaskState;

use crate::plan::{Plan, plan, posting};
use crate::record::{Build, Downstream, Task};
use crate::standing::Standing;
use crate::ticket::{Claimed, UNTRUSTED};
use crate::tree::{self, Tree, Trouble};

/// Queue of the tickets that this module works on.
pub const QUEUE: &str = "build-control";

/// How often a trigger of a downstream job is tried while the store is away, about a second apart:
/// long enough for an election of a coordinator, short enough not to hold up the build's end.
const TRIGGER_TRIES_MAX: u32 = 15;

/// How often a ticket's folder that can't be entered is tried, before the ticket is given back.
const ENTRIES_MAX: u32 = 10;

/// Tasks that are posted at once: each is a commit, and then another build has its turn.
const POSTS_MAX: usize = 16;

/// Tasks of a build of which the whole record is read once a minute only, beside what is heard of it.
const LARGE_MIN: usize = 200;

/// Bytes of names of jobs that a message has: with the reasons of the first it is cut to 600.
const NAMES_BYTES_MAX: usize = 300;

/// Builds that may stand in a row, each triggered by the one before. Pipelines have a handful; a
/// circle that two writers closed at the same moment ends here.
const DEPTH_MAX: u64 = 32;

/// What the trigger of a downstream job is told: the parameters that the configuration gives it, and what
/// stands before it. The error says why there is no such text.
fn told(build: &Build, other: &Downstream, depth: u64) -> Result<Vec<u8>, String> {
    let (job, number, when) = (&build.job, build.build, build.triggered);
    let mut members = other.parameters(&build.params)?;
    // A daemon of today sets the three itself; an earlier one takes them from here.
    let mut give = |name: &str, value: String| members.insert(name.to_owned(), value.into());
    give("upstream_job", job.clone());
    give("upstream_build", number.to_string());
    give("upstream_depth", depth.to_string());
    // The job may get another name, and be built anew; its uid stays. The time tells two from each other that
    // a restored store has under one number.
    give("@key", format!("downstream.{}.{number}.{when}", build.job_uid));
    give("@cause", format!("build {job}/{number}"));
    serde_json::to_vec(&members).map_err(|error| error.to_string())
}

/// Starts a build by the trigger at this path. A refusal says what the owner of `job` would see, and
/// no more.
fn trigger(path: &Path, body: &[u8], job: &str) -> tree::Result<String> {
    let file = tree::open_both(path).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => Trouble::Refused(format!(
            "the owner of {job} may not write its trigger, or it is switched off"
        )),
        io::ErrorKind::NotFound => Trouble::Refused("there is no such job".to_owned()),
        _ => Trouble::of_open(&format!("can't open {}", path.display()), &error),
    })?;
    tree::converse(file, path, body).map_err(|error| match error {
        Trouble::Refused(why) => {
            Trouble::Refused(tree::refusal(tree::open_to_read(&path.with_extension("error"))).unwrap_or(why))
        }
        other => other,
    })
}

/// Posts a ticket. Where somebody holds the queue's folder that stands: it holds up no other build.
fn post(tree: &Tree, queue: &str, body: Vec<u8>) -> tree::Result<String> {
    let (tree, name) = (tree.clone(), queue.to_owned());
    let posted = POSTS.call(queue, move || tree.post(&name, &body));
    posted.unwrap_or_else(|| Err(Trouble::Held(format!("tickets/{queue}: somebody holds the folder"))))
}

/// One line about the downstream jobs that were not triggered, by name with the reason each: all are named,
/// or the first and how many more.
fn not_triggered(refused: &[(&str, &str)]) -> Option<String> {
    let (first, why) = refused.first()?;
    if refused.len() == 1 {
        return Some(format!("job {first} could not be triggered: {why}"));
    }
    let mut names = (*first).to_owned();
    let mut left = refused.len() - 1;
    for (job, _) in &refused[1..] {
        if names.len() + job.len() > NAMES_BYTES_MAX {
            break;
        }
        left -= 1;
        names.push_str(", ");
        names.push_str(job);
    }
    if left > 0 {
        names.push_str(&format!(" and {left} more"));
    }
    let reasons: Vec<String> = refused
        .iter()
        .map(|(job, why)| format!("{job}: {}", why.replace('\n', " ")))
        .collect();
    Some(format!("jobs {names} could not be triggered: {}", reasons.join("; ")))
}

/// How a step ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Tickets are open.
    Waiting,
    /// There is more to do, when others have had their turn.
    More,
    /// The store is away: look again soon.
    Again,
    /// Somebody holds a file of it by a lease, and this says which: look again, ever more seldom.
    Held(String),
    /// It seems to be over: look at all of it.
    Doubtful,
    /// The result stands, or the build is somebody else's: forget it.
    Over,
}

/// A held build.
#[derive(Debug)]
pub struct Held {
    claimed: Claimed,
    /// Whether the claim was lost before its folder was entered: what has its name since is another's.
    lost: bool,
    /// The folder of the build.
    build: PathBuf,
    /// The record as it was read last, with what was read of its tasks since; nothing while it is not trusted.
    known: Option<Build>,
    /// Why no parameters are put into its tasks, if they come to too much.
    too_much: Option<String>,
    /// Tasks of it that ended since they were read.
    ended: BTreeSet<usize>,
    /// Who owns the build's job; nobody if that is not known.
    owner: u32,
    /// Tasks posted since the record was last trusted wholly.
    posted: BTreeSet<usize>,
    /// Tasks whose tickets can't be posted, with the reason.
    broken: BTreeMap<usize, String>,
    /// Downstream jobs that were triggered, or refused with this reason.
    triggered: BTreeMap<String, Option<String>>,
    trigger_tries: u32,
    /// How often its folder could not be entered for good.
    entries: u32,
}

/// Posts of all builds: a process may hold the folder of one queue.
static POSTS: LazyLock<Standing> = LazyLock::new(Standing::default);

impl Held {
    /// A build whose ticket was just claimed.
    pub fn new(tree: &Tree, id: &str, job: &str, build: u64) -> Self {
        let build = tree.build(job, build);
        let claimed = Claimed::to_be_entered(tree.ticket(QUEUE, id));
        let lost = matches!(claimed.enter(), Err(Trouble::Lost(_)));
        Held {
            claimed,
            lost,
            owner: std::fs::metadata(build.join("build.json")).map_or(u32::MAX, |meta| meta.uid()),
            build,
            known: None,
            too_much: None,
            ended: BTreeSet::new(),
            posted: BTreeSet::new(),
            broken: BTreeMap::new(),
            triggered: BTreeMap::new(),
            trigger_tries: 0,
            entries: 0,
        }
    }

    /// Who owns the build's job.
    pub fn owner(&self) -> u32 {
        self.owner
    }

    #[cfg(test)]
    pub(crate) fn posted(&self) -> usize {
        self.posted.len()
    }

    /// Trusts the record alone from now on: what it says is not posted is posted again.
    pub fn distrust(&mut self) {
        self.posted.clear();
        self.known = None;
    }

    /// Whether it has so many tasks that its whole record is read seldom.
    pub fn is_large(&self) -> bool {
        self.known.as_ref().is_some_and(|build| build.tasks.len() >= LARGE_MIN)
    }

    /// Takes note that a task ended; without one, that something else of the build changed.
    pub fn changed(&mut self, task: Option<usize>) {
        match task {
            Some(index) => drop(self.ended.insert(index)),
            None => self.known = None,
        }
    }

    /// The build as it is now, and whether all of it was read just now, and not what of it changed alone.
    fn read(&mut self) -> tree::Result<(Build, bool)> {
        let ended = std::mem::take(&mut self.ended);
        // Once the last has ended the whole is read anyway.
        let goes_on = |build: &Build| {
            let open = |task: &Task| !task.state.is_ended() && !ended.contains(&task.index);
            build.tasks.iter().any(open)
        };
        if let Some(mut build) = self.known.take().filter(goes_on)
            && ended.into_iter().all(|index| self.renew(&mut build, index).is_some())
        {
            return Ok((build, false));
        }
        let record = tree::read(&self.build.join("build.json"))?;
        let build = Build::parse(&record).map_err(Trouble::Refused)?;
        // What a task has recorded since the trigger may be put in, too.
        let uses = Uses::of(build.tasks.iter().map(|task| &task.params));
        let too_much = uses.check(|name| build.params.get(name).map_or(0, |value| plain(value).len()));
        self.too_much = too_much.err();
        Ok((build, true))
    }

    /// Reads a task of the build anew. `None`: all of it is to be read, as it added tasks or parameters, or its end is
    /// not to be seen yet.
    fn renew(&self, build: &mut Build, index: usize) -> Option<()> {
        let known = build.tasks.get_mut(index)?;
        let text = tree::read(&self.build.join("tasks").join(known.title()).join("task.json")).ok()?;
        let now = Task::parse(&text).ok()?;
        let alone = now.index == index && now.state.is_ended() && !now.adds && now.recorded.is_empty();
        *known = alone.then_some(now)?;
        Some(())
    }

    /// Gives the ticket back.
    pub fn give_back(&self) {
        self.claimed.give_back();
    }

    /// Does what is to be done now. Errors: only `Away`.
    pub fn step(&mut self, tree: &Tree) -> tree::Result<Step> {
        let over = match self.try_step(tree) {
            Ok(step) => return Ok(step),
            Err(Trouble::Away(why)) => return Err(Trouble::Away(why)),
            Err(Trouble::Lost(_)) => return Ok(Step::Over),
            Err(Trouble::Held(why)) => return Ok(Step::Held(self.claimed.told(&why))),
            Err(Trouble::Later(why) | Trouble::Full(why)) => {
                eprintln!("build-control: {}; trying again", self.claimed.told(&why));
                return Ok(Step::Again);
            }
            Err(Trouble::Refused(why)) => self.claimed.told(&why),
        };
        eprintln!("build-control: {over}");
        self.finish(TaskState::Error, &over)
    }

    fn try_step(&mut self, tree: &Tree) -> tree::Result<Step> {
        // Nothing is done by the name of a ticket, which may have been lost and claimed again. What can't be entered now
        // is tried again.
        if self.lost {
            return Ok(Step::Over);
        }
        match self.claimed.enter() {
            Err(Trouble::Refused(why)) => return Ok(self.unentered(&why)),
            entered => entered?,
        }
        let (mut build, whole) = match self.read() {
            // Writing the outcome tells whether the build was removed or was never there.
            Err(Trouble::Lost(why)) => {
                return self.finish(TaskState::Error, &format!("no such build: {why}"));
            }
            other => other?,
        };
        let step = self.go_on(tree, &mut build, whole)?;
        if step == Step::Waiting || step == Step::More {
            self.known = Some(build);
        }
        Ok(step)
    }

    /// The folder of a ticket that is ours can't be entered: that is tried again, and then the ticket is somebody else's.
    fn unentered(&mut self, why: &str) -> Step {
        self.entries += 1;
        if self.entries < ENTRIES_MAX {
            eprintln!("build-control: {why}; trying again");
            return Step::Again;
        }
        eprintln!("build-control: {why}; the ticket is given back");
        self.claimed.give_back_unentered();
        Step::Over
    }

    /// Does what there is to do in a build; `whole`: all of it was read just now.
    fn go_on(&mut self, tree: &Tree, build: &mut Build, whole: bool) -> tree::Result<Step> {
        self.overlay(build);
        let mut left = POSTS_MAX;
        // Each round posts or breaks at least one task, so there are no more rounds than tasks.
        for _ in 0..=build.tasks.len() {
            match plan(build) {
                Plan::Wait => return Ok(Step::Waiting),
                // Nothing ends on what was put together, and no clean-up begins on it: the build may be aborted by
                // now, and then a clean-up waits for the scripts that end.
                Plan::Finish(..) if !whole => return Ok(Step::Doubtful),
                Plan::Post(indexes) if !whole && build.has_always(&indexes) => return Ok(Step::Doubtful),
                Plan::Post(indexes) => {
                    for index in indexes {
                        if left == 0 {
                            return Ok(Step::More);
                        }
                        left -= 1;
                        self.post(tree, build, index)?;
                    }
                    self.overlay(build);
                }
                Plan::Finish(state, line) => {
                    let mut lines: Vec<String> = Some(line).filter(|l| !l.is_empty()).into_iter().collect();
                    if state == TaskState::Success {
                        lines.extend(self.trigger_downstream(build)?);
                    }
                    return self.finish(state, &lines.join("\n"));
                }
            }
        }
        Ok(Step::Again)
    }

    /// Lays what this process knows over a record that may not show it yet.
    fn overlay(&self, build: &mut Build) {
        let run = build.run;
        for task in &mut build.tasks {
            if let Some(why) = self.broken.get(&task.index) {
                task.state = TaskState::Error;
                task.message = Some(why.clone());
                task.run = Some(run);
            } else if self.posted.contains(&task.index)
                && (task.run.unwrap_or(0) < run || task.state == TaskState::Waiting)
            {
                task.state = TaskState::Posted;
                task.run = Some(run);
            }
        }
    }

    /// Posts a task, but not one into which parameters are put if those of the build come to too much.
    fn post(&mut self, tree: &Tree, build: &Build, index: usize) -> tree::Result<()> {
        let puts_in = build
            .tasks
            .get(index)
            .is_some_and(|task| !Uses::of([&task.params]).is_empty());
        let too_much = self.too_much.clone().filter(|_| puts_in);
        let fits = too_much.map_or(Ok(()), Err);
        let made = fits.and_then(|()| posting(build, index));
        let made = made.and_then(|p| serde_json::to_vec(&p).map_err(|e| e.to_string()));
        let queue = build.tasks.get(index).map(|t| t.kind.as_str()).unwrap_or_default();
        let refused = match made.map(|body| post(tree, queue, body)) {
            Ok(Ok(_)) => {
                self.posted.insert(index);
                return Ok(());
            }
            Ok(Err(Trouble::Refused(why))) | Err(why) => why,
            Ok(Err(other)) => return Err(other),
        };
        self.say(&format!("task {index} can't be posted: {refused}"));
        self.broken.insert(index, refused);
        Ok(())
    }

    /// Triggers each downstream job once, with the rights of the owner of this build's job: by the
    /// jobs that its ticket shows. Gives a line about those that refused.
    fn trigger_downstream(&mut self, build: &Build) -> tree::Result<Option<String>> {
        let depth = build.upstream_depth() + 1;
        if build.trust == UNTRUSTED && !build.downstream.is_empty() {
            return Ok(Some("no other job was triggered: it is a stranger's build".to_owned()));
        }
        if depth > DEPTH_MAX && !build.downstream.is_empty() {
            let line = format!(
                "{} not triggered: {DEPTH_MAX} builds stand before this one, each triggered by the one before; \
                 is it a circle?",
                build
                    .downstream
                    .iter()
                    .map(Downstream::job)
                    .collect::<Vec<_>>()
                    .join(", ")
            );
            self.say(&line);
            return Ok(Some(line));
        }
        for other in &build.downstream {
            if self.triggered.contains_key(other.job()) {
                continue;
            }
            let path = self.claimed.path("jobs").join(other.job()).join("trigger");
            let told = told(build, other, depth).map_err(Trouble::Refused);
            let why = match told.and_then(|body| trigger(&path, &body, &build.job)) {
                Ok(_) => None,
                Err(Trouble::Away(why)) => return Err(Trouble::Away(why)),
                Err(Trouble::Later(why) | Trouble::Held(why) | Trouble::Full(why))
                    if self.trigger_tries < TRIGGER_TRIES_MAX =>
                {
                    self.trigger_tries += 1;
                    return Err(Trouble::Later(why));
                }
                Err(
                    Trouble::Later(why)
                    | Trouble::Held(why)
                    | Trouble::Full(why)
                    | Trouble::Lost(why)
                    | Trouble::Refused(why),
                ) => {
                    let why = self.claimed.told(&why);
                    self.say(&format!("job {} could not be triggered: {why}", other.job()));
                    Some(why)
                }
            };
            self.triggered.insert(other.job().to_owned(), why);
        }
        let refused = self.triggered.iter();
        let refused: Vec<_> = refused
            .filter_map(|(job, why)| Some((job.as_str(), why.as_deref()?)))
            .collect();
        Ok(not_triggered(&refused))
    }

    /// Writes a line to the build's console; the result says it again, so an error here costs nothing.
    fn say(&self, line: &str) {
        let written =
            tree::open_console(&self.claimed.path("")).and_then(|mut f| f.write_all(format!("{line}\n").as_bytes()));
        if let Err(error) = written {
            eprintln!("build-control: {}: console: {error}", self.claimed.folder.display());
        }
    }

    fn finish(&self, state: TaskState, lines: &str) -> tree::Result<Step> {
        let text = format!("{}\n{lines}", state.as_str());
        match tree::commit(&self.claimed.path("result"), &format!("{}\n", text.trim_end())) {
            Err(Trouble::Away(why)) => Err(Trouble::Away(why)),
            Err(Trouble::Held(why)) => Ok(Step::Held(self.claimed.told(&why))),
            Err(Trouble::Later(why) | Trouble::Full(why)) => {
                eprintln!("build-control: {}; trying again", self.claimed.told(&why));
                Ok(Step::Again)
            }
            Err(Trouble::Refused(why)) => {
                eprintln!("build-control: {}; given up", self.claimed.told(&why));
                Ok(Step::Over)
            }
            Ok(()) | Err(Trouble::Lost(_)) => Ok(Step::Over),
        }
    }
}

#[cfg(test)]
mod tests;
