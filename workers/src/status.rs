//! github-status: tells GitHub how the builds stand that came from it.
//!
//! Only builds that the receiver triggered are told of, and only as what git-checkout says that they
//! were of. One thread follows the tree and notes what may have changed; another looks at each such build
//! and tells what is true at that moment. What was told is kept in a file.

pub mod built;
pub mod github;
pub mod origin;
pub mod sender;
pub mod told;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use crate::again::Again;
use crate::jobs;
use crate::signals;
use crate::ticket::patiently;
use crate::tree::{self, Result, Tree, Trouble};
use github::Api;
use origin::{Origin, checks_out};
use sender::Sender;
use told::{Build, Job, Key, Store, Told};

/// How long a request under way may still take when the worker is told to end.
const END_TIME: Duration = Duration::from_secs(5);

/// What the worker is told at its start.
pub struct Settings {
    /// The tree.
    pub tree: Tree,
    /// The users that github-webhook runs as.
    pub receivers: BTreeSet<u32>,
    /// Where it keeps what was told.
    pub state: PathBuf,
    /// GitHub.
    pub api: Api,
    /// The context of a status is this, a slash and the job.
    pub context: String,
    /// Where a build can be seen, with `{job}` and `{build}`.
    pub target_url: Option<String>,
}

/// What both threads share.
pub struct Shared {
    told: Mutex<Told>,
    /// Something changed, or the end.
    news: Condvar,
    store: Store,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the file if it is behind; what fails is tried again later.
    fn save(&self) {
        let mut told = self.lock();
        if told.dirty
            && let Err(why) = self.store.save(&mut told)
        {
            eprintln!("github-status: {why}");
        }
    }
}

/// Runs until TERM or INT (`Ok`) or until the tree is away (`Err`).
pub fn run(settings: Settings) -> Result<()> {
    let _wake = signals::install().map_err(|e| Trouble::Refused(format!("can't start: {e}")))?;
    let (store, known) = Store::open(&settings.state).map_err(Trouble::Refused)?;
    let first = known.is_none();
    let shared = Arc::new(Shared {
        told: Mutex::new(known.unwrap_or_default()),
        news: Condvar::new(),
        store,
    });
    let follower = Follower {
        tree: settings.tree.clone(),
        receivers: settings.receivers.clone(),
        shared: shared.clone(),
        again: RefCell::default(),
    };
    // First, so that no change is lost between reading and following.
    let mut events = settings.tree.events()?;
    follower.rescan(first)?;
    shared.lock().dirty |= first;
    shared.save();
    let sender = Sender::new(settings, shared.clone());
    let sending = thread::Builder::new()
        .name("send".into())
        .spawn(move || sender.run())
        .map_err(|e| Trouble::Refused(format!("can't start: {e}")))?;
    let mut ended = Ok(());
    while !signals::stopping() && !sending.is_finished() && ended.is_ok() {
        let taken = events.next_line().and_then(|line| follower.take(&line));
        ended = taken.and_then(|()| follower.refresh_again());
    }
    signals::stop();
    shared.news.notify_all();
    let begun = std::time::Instant::now();
    while !sending.is_finished() && begun.elapsed() < END_TIME {
        thread::sleep(Duration::from_millis(20));
    }
    shared.save();
    match sending.is_finished().then(|| sending.join()) {
        Some(Ok(sent)) => ended.and(sent),
        Some(Err(_)) => Err(Trouble::Later("the sender ended by a panic".into())),
        None => ended,
    }
}

/// Follows the tree.
struct Follower {
    tree: Tree,
    receivers: BTreeSet<u32>,
    shared: Arc<Shared>,
    /// Builds that somebody holds by a lease: of each job the one up to which it is looked at, and some that were
    /// built again.
    again: RefCell<Again<Key>>,
}

impl Follower {
    /// Notes what a line of `.events` says.
    fn take(&self, line: &str) -> Result<()> {
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("resync"), ..) => return self.rescan(false),
            (Some("job"), Some(job), Some("removed"), _) => {
                self.shared.lock().forget_job(job);
                self.shared.news.notify_all();
            }
            (Some("job"), Some(from), Some("renamed"), Some(to)) => {
                self.shared.lock().rename_job(from, to);
                self.shared.news.notify_all();
            }
            (Some("build"), Some(place), Some(state), _) => {
                let place = place
                    .split_once('/')
                    .and_then(|(job, n)| Some((job, n.parse::<u64>().ok()?)));
                if let Some((job, n)) = place {
                    return self.changed(job, n, state);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A build is in another state.
    fn changed(&self, job: &str, n: u64, state: &str) -> Result<()> {
        let key = (job.to_owned(), n);
        let known = {
            let mut told = self.shared.lock();
            if told.touch(&key) {
                self.shared.news.notify_all();
                return Ok(());
            }
            told.jobs.get(job).map(|job| job.seen)
        };
        let seen = match known {
            // It may have been restored.
            None => self.seen(job)?,
            known => known,
        };
        if seen.is_none_or(|seen| n > seen) {
            return self.refresh_new(job, n);
        }
        // One that was told long ago, and is built again.
        if matches!(state, "held" | "pending" | "running") {
            return self.refresh_unless_held(&key).map(drop);
        }
        Ok(())
    }

    /// Looks at those again that somebody held.
    fn refresh_again(&self) -> Result<()> {
        let due = self.again.borrow().due();
        for (job, n) in due {
            // Those that came after it were left, too.
            if let Some(newest) = self.newest(&job).filter(|newest| *newest > n) {
                self.changed(&job, newest, "running")?;
            }
            self.changed(&job, n, "running")?;
            if !self.again.borrow().waits(&(job.clone(), n)) {
                self.again.borrow_mut().done(&(job, n));
            }
        }
        Ok(())
    }

    /// Looks at a build; whether nobody holds it.
    fn refresh_unless_held(&self, key: &Key) -> Result<bool> {
        match self.refresh(key.clone()) {
            Err(Trouble::Held(why)) => {
                // Each takes a descriptor that its owner keeps open: there are not many.
                if self.again.borrow_mut().put(key) {
                    eprintln!("github-status: {why}; it is looked at again");
                }
                Ok(false)
            }
            looked => looked.map(|()| true),
        }
    }

    /// Looks for what happened while nobody followed. At the very first start what is there already
    /// is left alone, unless it changes.
    fn rescan(&self, first: bool) -> Result<()> {
        let names = jobs::names(&self.tree)?;
        self.find_renamed(&names)?;
        let gone: Vec<String> = {
            let told = self.shared.lock();
            let known = told.jobs.keys().chain(told.builds.keys().map(|(job, _)| job));
            known.filter(|job| !names.contains(job)).cloned().collect()
        };
        gone.iter().for_each(|job| self.shared.lock().forget_job(job));
        for job in &names {
            if signals::stopping() {
                return Ok(());
            }
            let Some(newest) = self.newest(job) else { continue };
            if first {
                let made = made(&self.tree, job)?.unwrap_or_default();
                let seen = Job { made, seen: newest };
                self.shared.lock().jobs.insert(job.clone(), seen);
            } else {
                self.refresh_new(job, newest)?;
            }
        }
        let mut told = self.shared.lock();
        told.builds.values_mut().for_each(|build| build.changed += 1);
        self.shared.news.notify_all();
        Ok(())
    }

    /// Finds jobs that got another name while nobody followed: they were made when they were.
    fn find_renamed(&self, names: &[String]) -> Result<()> {
        let (gone, new): (Vec<(String, u64)>, Vec<&String>) = {
            let told = self.shared.lock();
            let gone = told.jobs.iter().filter(|(job, _)| !names.contains(job));
            let new = names.iter().filter(|job| !told.jobs.contains_key(*job));
            (
                gone.map(|(job, known)| (job.clone(), known.made)).collect(),
                new.collect(),
            )
        };
        if gone.is_empty() {
            return Ok(());
        }
        let mut found: BTreeMap<u64, Vec<&String>> = BTreeMap::new();
        for job in new {
            if let Some(made) = made(&self.tree, job)? {
                found.entry(made).or_default().push(job);
            }
        }
        for (from, made) in &gone {
            let alone = gone.iter().filter(|(_, other)| other == made).count() == 1;
            if let Some([to]) = found.get(made).map(Vec::as_slice).filter(|_| alone) {
                self.shared.lock().rename_job(from, to);
            }
        }
        Ok(())
    }

    /// The number of a job's newest build.
    fn newest(&self, job: &str) -> Option<u64> {
        let link = self.tree.job(job).join("builds/latest");
        std::fs::read_link(link).ok()?.to_str()?.parse().ok()
    }

    /// The number up to which a job's builds were looked at; `None` if it is not there.
    fn seen(&self, job: &str) -> Result<Option<u64>> {
        let Some(made) = made(&self.tree, job)? else {
            return Ok(None);
        };
        let mut told = self.shared.lock();
        // Another job of that name was there before.
        if told.jobs.get(job).is_some_and(|known| known.made != made) {
            told.forget_job(job);
        }
        Ok(Some(told.known_job(job, made).seen))
    }

    /// Looks at each build of a job up to this one that was not looked at yet.
    fn refresh_new(&self, job: &str, newest: u64) -> Result<()> {
        let Some(seen) = self.seen(job)? else {
            return Ok(());
        };
        for n in seen + 1..=newest {
            // The job's others wait for that, and those of no other job.
            if !self.refresh_unless_held(&(job.to_owned(), n))? {
                return Ok(());
            }
            let mut told = self.shared.lock();
            told.dirty = true;
            if let Some(known) = told.jobs.get_mut(job) {
                known.seen = known.seen.max(n);
            }
            if signals::stopping() {
                break;
            }
        }
        Ok(())
    }

    /// Notes a build if it came from GitHub and says what it is of.
    fn refresh(&self, key: Key) -> Result<()> {
        let folder = self.tree.build(&key.0, key.1);
        // What somebody holds is no reason to keep all others waiting.
        let held = |found| match found {
            Err(Trouble::Held(why)) => Ok(Err(Trouble::Held(why))),
            found => found.map(Ok),
        };
        let read = |name: &str| there(patiently(|| held(tree::read(&folder.join(name)))).and_then(|found| found));
        let cause = read("cause")?.unwrap_or_default();
        // Most builds: nothing more needs to be looked at.
        if !cause.starts_with(b"github ") {
            return Ok(());
        }
        let by = read("by")?.unwrap_or_default();
        let (job, n) = &key;
        let Some(origin) = Origin::of(&by, &cause, &self.receivers) else {
            let by = String::from_utf8_lossy(&by)
                .lines()
                .next()
                .unwrap_or_default()
                .escape_debug()
                .to_string();
            eprintln!("github-status: {job}/{n}: it was not triggered by github-webhook ({by}), or not for a commit");
            return Ok(());
        };
        let config = read("config.json")?.unwrap_or_default();
        if !origin.is_of(&config) {
            eprintln!(
                "github-status: {job}/{n}: its configuration does not name {}",
                origin.repository
            );
            return Ok(());
        }
        if !checks_out(&config) {
            eprintln!("github-status: {job}/{n}: it has no git-checkout that says what was built");
            return Ok(());
        }
        let build = Build::new(&origin.repository, &origin.commit);
        self.shared.lock().add(key, build);
        self.shared.news.notify_all();
        Ok(())
    }
}

/// When a job was made, milliseconds since 1970; `None` if it is not there.
fn made(tree: &Tree, job: &str) -> Result<Option<u64>> {
    let path = tree.job(job);
    let made = path.metadata().and_then(|facts| facts.modified());
    let made = there(made.map_err(|e| Trouble::from_io(&format!("can't look at {}", path.display()), &e)))?;
    let since = made.map(|made| made.duration_since(UNIX_EPOCH).unwrap_or_default());
    Ok(since.map(|since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)))
}

/// What is there and may be read.
fn there<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(Trouble::Lost(_) | Trouble::Refused(_)) => Ok(None),
        Err(trouble) => Err(trouble),
    }
}

/// The text of a small file of a build, on one line.
fn line(path: &Path) -> Result<String> {
    let text = tree::read(path)?;
    Ok(String::from_utf8_lossy(&text).trim().to_owned())
}
