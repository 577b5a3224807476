//! cron: starts builds when their job's schedule says so.
//!
//! Any number of them may run: each start carries the scheduled time as its key, so that the first
//! one makes the build and the others find it made.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{SystemTime, UNIX_EPOCH};

use distcifs_schedule::{Schedule, readable};
use serde::Deserialize;

use crate::again::Again;
use crate::jobs::{self, Change};
use crate::lanes::Lanes;
use crate::record::nullable;
use crate::signals;
use crate::tree::{self, Tree, Trouble};

/// How far back a missed time is made up for, seconds: as long as the tree surely remembers the
/// key of a build that was made.
const CATCH_UP: i64 = 7 * 86_400;

/// What a configuration says of its schedule.
#[derive(Deserialize)]
struct CronSettings {
    #[serde(default)]
    cron: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    cron_catch_up: bool,
}

/// A job's schedule and how far it was carried out. Times are seconds since 1970.
#[derive(Debug)]
struct Planned {
    schedule: Schedule,
    /// How long after its time a build may still be started.
    window: i64,
    /// Times up to this one are done, or were before the configuration.
    after: i64,
    /// When to look again.
    next: i64,
    /// What is due and could not be started yet.
    pending: Option<i64>,
    /// What is being started, and whom is told how that ended.
    starting: Option<(i64, Receiver<tree::Result<Started>>)>,
}

/// How the start of a build ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Started {
    /// The build is there, or will never be.
    Done,
    /// It is to be tried again.
    Later,
    /// The same, but not at once: somebody holds the trigger by a lease.
    Held,
}

impl Planned {
    fn new(schedule: Schedule, window: i64, written: i64) -> Self {
        Planned {
            schedule,
            window,
            after: written,
            next: i64::MIN,
            pending: None,
            starting: None,
        }
    }

    /// The time for which a build is to be started now, if there is one: of several that were
    /// missed, the last.
    fn due(&mut self, now: i64) -> Option<i64> {
        let oldest = self.after.max(now.saturating_sub(self.window + 1));
        if let Some(found) = self.schedule.last(oldest, now) {
            self.after = found;
            self.pending = Some(found);
        }
        self.next = self.schedule.next(now.max(self.after)).unwrap_or(i64::MAX);
        self.pending = self
            .pending
            .filter(|pending| *pending >= now.saturating_sub(self.window));
        self.pending
    }

    /// The build for what was due is there, or will never be.
    fn done(&mut self) {
        self.pending = None;
    }

    /// How the start ended that was begun, if it has.
    fn started(&mut self) -> tree::Result<Option<Started>> {
        let Some((due, told)) = self.starting.take() else {
            return Ok(None);
        };
        let started = match told.try_recv() {
            Ok(started) => started?,
            Err(TryRecvError::Disconnected) => Started::Later,
            Err(TryRecvError::Empty) => {
                self.starting = Some((due, told));
                return Ok(None);
            }
        };
        if started == Started::Done && self.pending == Some(due) {
            self.done();
        }
        Ok(Some(started))
    }
}

/// Every job that has a schedule.
struct Table<'a> {
    tree: &'a Tree,
    late: i64,
    jobs: BTreeMap<String, Planned>,
    /// Before this moment nothing is due.
    earliest: i64,
    /// Whoever may write to a job's trigger can make others wait who do: these are none of ours.
    lanes: Lanes,
    /// Jobs whose configuration could not be read, as its owner holds it, and whether they were made then.
    unread: Again<(String, bool)>,
    /// Jobs whose trigger is held so.
    held: Again<String>,
}

impl Table<'_> {
    /// Reads the configurations of all jobs; what is known of a job that did not change is kept.
    fn read_all(&mut self) -> tree::Result<()> {
        let names = jobs::names(self.tree)?;
        self.jobs.retain(|job, _| names.contains(job));
        names.iter().try_for_each(|job| self.read(job))
    }

    /// Reads one job's configuration.
    fn read(&mut self, job: &str) -> tree::Result<()> {
        self.read_by(job, false)
    }

    /// Reads the configuration of a job that was made or came back from the trash: times at which it was not there
    /// are none that were missed.
    fn read_made(&mut self, job: &str) -> tree::Result<()> {
        self.read_by(job, true)
    }

    /// Reads those again that could not be read.
    fn read_again(&mut self) -> tree::Result<()> {
        for (job, made) in self.unread.due() {
            self.read_by(&job, made)?;
        }
        Ok(())
    }

    /// Reads one job's configuration. Of one that was made, and where times are spread, times from before it got its
    /// name don't count. While its owner holds the configuration by a lease, what it said before counts.
    fn read_by(&mut self, job: &str, made: bool) -> tree::Result<()> {
        let key = (job.to_owned(), made);
        let configuration = match jobs::configuration(self.tree, job) {
            Err(Trouble::Held(why)) => {
                if self.unread.put(&key) {
                    eprintln!("cron: {why}; its schedule is what it was, until it can be read");
                }
                return Ok(());
            }
            found => found?,
        };
        self.unread.done(&key);
        let since_named = |schedule: &Schedule| made || schedule.is_spread();
        let planned = configuration.and_then(|(text, written)| {
            let settings: CronSettings = serde_json::from_slice(&text).ok()?;
            let schedule = Schedule::parse(&settings.cron?, job);
            let schedule = schedule
                .inspect_err(|fault| eprintln!("cron: {job}: cron {fault}"))
                .ok()?;
            let window = if settings.cron_catch_up { CATCH_UP } else { self.late };
            // By another name it had other times: those of this name from before are none that were missed.
            let named = jobs::named(self.tree, job).filter(|_| since_named(&schedule));
            let since = named.map_or(written, |named| named.max(written));
            Some(Planned::new(schedule, window, seconds(since)))
        });
        let known = self.jobs.remove(job);
        if let Some(mut planned) = planned {
            if let Some(known) = known {
                // Done stays done, and due stays due.
                planned.after = known.after.max(planned.after);
                planned.pending = known.pending;
                planned.starting = known.starting;
            }
            self.jobs.insert(job.to_owned(), planned);
            self.earliest = i64::MIN;
        } else {
            self.held.done(&key.0);
        }
        Ok(())
    }

    /// A job got another name: what is known of it is known of that.
    fn rename(&mut self, from: &str, to: &str) -> tree::Result<()> {
        if let Some(known) = self.jobs.remove(from) {
            self.jobs.insert(to.to_owned(), known);
        }
        self.read(to)
    }

    /// Begins to start every build that is due. Errors: only `Away`.
    fn fire(&mut self, now: i64) -> tree::Result<()> {
        if now < self.earliest {
            return Ok(());
        }
        let mut again = false;
        for (job, planned) in &mut self.jobs {
            let started = planned.started()?;
            if started.is_some_and(|started| started != Started::Held) {
                self.held.done(job);
            }
            if started == Some(Started::Held) && self.held.put(job) {
                eprintln!("cron: {job}: no build yet: somebody holds its trigger by a lease");
            }
            let Some(due) = planned.due(now) else { continue };
            if signals::stopping() {
                return Ok(());
            }
            again = true;
            if planned.starting.is_some() || self.held.waits(job) {
                continue;
            }
            let (tree, name) = (self.tree.clone(), job.clone());
            let (tell, told) = channel();
            // Nobody may be there to be told any more: the job has no schedule now.
            let start = move || drop(tell.send(start(&tree, &name, due)));
            if self.lanes.begin(jobs::owner(self.tree, job), job, start) {
                planned.starting = Some((due, told));
            }
        }
        let next = self.jobs.values().map(|planned| planned.next).min();
        self.earliest = if again { now + 1 } else { next.unwrap_or(i64::MAX) };
        Ok(())
    }
}

/// Starts a job's build for a time. Errors: only `Away`.
fn start(tree: &Tree, job: &str, due: i64) -> tree::Result<Started> {
    let time = readable(due);
    match tree.trigger(
        job,
        format!("@key=cron.{due}\n@cause=cron {time}\n@event=schedule\n").as_bytes(),
    ) {
        Ok(build) => eprintln!("cron: {job}: build {build} for {time}"),
        Err(Trouble::Away(why)) => return Err(Trouble::Away(why)),
        Err(Trouble::Held(_)) => return Ok(Started::Held),
        // One that is lost was removed or renamed a moment ago, and its line in `.events` says which.
        Err(Trouble::Later(why) | Trouble::Full(why) | Trouble::Lost(why)) => {
            eprintln!("cron: {job}: no build yet for {time}: {why}");
            return Ok(Started::Later);
        }
        Err(Trouble::Refused(why)) => eprintln!("cron: {job}: no build for {time}: {why}"),
    }
    Ok(Started::Done)
}

/// Runs until TERM or INT (`Ok`) or until the tree is away (`Err`). A time that is at most `late`
/// seconds old when it is seen is on time.
pub fn run(tree: &Tree, late: u32) -> tree::Result<()> {
    let _wake = signals::install().map_err(|e| Trouble::Refused(format!("can't start: {e}")))?;
    // First, so that no change is lost between reading and following.
    let mut events = tree.events()?;
    let mut table = Table {
        tree,
        late: i64::from(late),
        jobs: BTreeMap::new(),
        earliest: i64::MIN,
        lanes: Lanes::default(),
        unread: Again::default(),
        held: Again::default(),
    };
    table.read_all()?;
    eprintln!("cron: {} jobs have a schedule", table.jobs.len());
    while !signals::stopping() {
        table.fire(now())?;
        // Within a second, if only with an empty line: that is the clock's tick.
        let line = events.next_line()?;
        match jobs::change(&line) {
            Change::None => {}
            Change::Job(job) => {
                // What was due before the change is done by what was said then.
                table.fire(now())?;
                table.read(job)?;
            }
            Change::Made(job) => {
                table.fire(now())?;
                table.read_made(job)?;
            }
            // What is due is done under the new name.
            Change::Renamed(from, to) => table.rename(from, to)?,
            Change::All => {
                table.fire(now())?;
                table.read_all()?;
            }
        }
        table.read_again()?;
    }
    Ok(())
}

fn now() -> i64 {
    seconds(SystemTime::now())
}

/// Seconds since 1970; 0 before.
fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-01-01T12:00:00Z.
    const NOON: i64 = 1_767_268_800;

    fn planned(text: &str, window: i64, written: i64) -> Planned {
        Planned::new(Schedule::parse(text, "job").unwrap(), window, written)
    }

    #[test]
    fn each_time_is_due_once() {
        let mut every = planned("* * * * *", 120, NOON);
        let due: Vec<i64> = (NOON..NOON + 300)
            .filter_map(|now| {
                let due = every.due(now);
                every.done();
                due
            })
            .collect();
        assert_eq!(due, [60, 120, 180, 240].map(|s| NOON + s));
    }

    #[test]
    fn what_could_not_be_started_stays_due_within_the_window() {
        let mut noon = planned("0 12 * * *", 120, 0);
        assert_eq!(noon.due(NOON - 1), None);
        for late in [0, 1, 60, 120] {
            assert_eq!(noon.due(NOON + late), Some(NOON), "{late} s late");
        }
        assert_eq!(noon.due(NOON + 121), None);
    }

    #[test]
    fn a_worker_that_comes_late_starts_the_last_one_only() {
        assert_eq!(planned("* * * * *", 120, 0).due(NOON + 130), Some(NOON + 120));
        assert_eq!(planned("0 12 * * *", 120, 0).due(NOON + 119), Some(NOON));
        assert_eq!(planned("0 12 * * *", 120, 0).due(NOON + 121), None);
        assert_eq!(planned("0 12 * * *", CATCH_UP, 0).due(NOON + 80_000), Some(NOON));
        assert_eq!(planned("0 12 1 * *", CATCH_UP, 0).due(NOON + CATCH_UP), Some(NOON));
        assert_eq!(planned("0 12 1 * *", CATCH_UP, 0).due(NOON + CATCH_UP + 1), None);
    }

    #[test]
    fn times_before_the_configuration_do_not_count() {
        assert_eq!(planned("0 12 * * *", CATCH_UP, NOON).due(NOON + 60), None);
        assert_eq!(planned("0 12 * * *", CATCH_UP, NOON - 1).due(NOON + 60), Some(NOON));
    }

    #[test]
    fn a_clock_that_jumps_starts_nothing_twice() {
        let mut noon = planned("0 12 * * *", 120, 0);
        assert_eq!(noon.due(NOON), Some(NOON));
        noon.done();
        assert_eq!(noon.due(NOON - 3600), None);
        assert_eq!(noon.due(NOON), None);
        assert_eq!(noon.due(NOON + 86_400), Some(NOON + 86_400));
    }

    /// "`mv` of a job: times of the new name from before the rename are none that were missed", whether cron
    /// ran meanwhile or not; what was due under the old name is done under the new one.
    #[test]
    fn a_job_with_another_name_has_missed_nothing() {
        let root = std::env::temp_dir().join(format!("distcifs-cron-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        let (old, new) = (root.join("jobs/nightly"), root.join("jobs/night"));
        std::fs::create_dir_all(&old).unwrap();
        let text = "{ \"cron\": \"H H * * *\", \"cron_catch_up\": true, \"tasks\": [] }";
        std::fs::write(old.join("config.json"), text).unwrap();
        let week_ago = SystemTime::now() - std::time::Duration::from_secs(6 * 86_400);
        let config = std::fs::File::options().append(true).open(old.join("config.json"));
        config.unwrap().set_modified(week_ago).unwrap();
        let tree = Tree::new(&root).unwrap();
        let table = || Table {
            tree: &tree,
            late: 120,
            jobs: BTreeMap::new(),
            earliest: i64::MIN,
            lanes: Lanes::default(),
            unread: Again::default(),
            held: Again::default(),
        };
        let begun = now();
        let mut follows = table();
        follows.read_all().unwrap();
        let known = follows.jobs.get_mut("nightly").unwrap();
        (known.after, known.pending) = (begun - 7200, Some(begun - 7200));
        std::fs::rename(&old, &new).unwrap();
        follows.rename("nightly", "night").unwrap();
        assert_eq!(follows.jobs.keys().collect::<Vec<_>>(), ["night"]);
        let known = follows.jobs.get_mut("night").unwrap();
        assert_eq!(known.due(begun), Some(begun - 7200));
        known.done();
        assert_eq!(known.due(begun), None);
        let mut later = table();
        later.read_all().unwrap();
        assert_eq!(later.jobs.get_mut("night").unwrap().due(begun), None);
        // Without H the times are the same, and their keys too.
        std::fs::write(new.join("config.json"), text.replace('H', "0")).unwrap();
        let config = std::fs::File::options().append(true).open(new.join("config.json"));
        config.unwrap().set_modified(week_ago).unwrap();
        let mut plain = table();
        plain.read_all().unwrap();
        assert!(plain.jobs.get_mut("night").unwrap().due(begun).is_some());
        // "A time at which the job lay in the trash is none that was missed."
        plain.jobs.clear();
        plain.read_made("night").unwrap();
        assert_eq!(plain.jobs.get_mut("night").unwrap().due(begun), None);
        std::fs::remove_dir_all(&root).unwrap();
    }
}
