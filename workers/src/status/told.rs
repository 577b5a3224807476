//! What has been told, and what is to be: kept in a file, so that nothing is lost over a restart.
//!
//! The file may be behind, never ahead: after a crash a status may be told twice, which changes
//! nothing at GitHub, and none is left out.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::github::Status;

/// Builds remembered: those told last are looked at again after a restart, as they may have been
/// retried meanwhile.
pub const BUILDS_MAX: usize = 10_000;

/// Jobs remembered that were removed, and may be restored from the trash.
const REMOVED_MAX: usize = 10_000;

/// Version of the file.
const VERSION: u32 = 1;

/// A build by its job and number.
pub type Key = (String, u64);

/// What is known of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// When it was made, milliseconds since 1970: tells it from another of the same name.
    pub made: u64,
    /// Builds up to this one were looked at.
    pub seen: u64,
}

/// A build that came from GitHub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// `owner/name`.
    pub repository: String,
    /// The commit, hexadecimal.
    pub commit: String,
    /// What GitHub knows.
    pub told: Option<Status>,
    /// Counts what may have changed it.
    pub changed: u64,
    /// As far as that was looked at.
    pub looked: u64,
    /// It was removed with its job.
    pub gone: bool,
    /// What its job was called when it was told first, if that is another name by now: GitHub knows it by that.
    pub called: Option<String>,
}

impl Build {
    /// Of a commit in a repository; to be looked at.
    pub fn new(repository: &str, commit: &str) -> Self {
        Build {
            repository: repository.to_owned(),
            commit: commit.to_owned(),
            told: None,
            changed: 1,
            looked: 0,
            gone: false,
            called: None,
        }
    }

    /// Whether its state may be another than what was told.
    pub fn is_due(&self) -> bool {
        self.changed != self.looked
    }

    /// Whether GitHub knows how it ended.
    fn is_over(&self) -> bool {
        !self.is_due() && self.told.is_some_and(|told| told != Status::Pending)
    }
}

/// Everything that is known.
#[derive(Debug, Default)]
pub struct Told {
    /// Jobs by name.
    pub jobs: BTreeMap<String, Job>,
    /// Jobs that were removed, by their last names, those removed last at the end: one that is restored has
    /// its old builds.
    pub removed: Vec<(String, Job)>,
    /// Builds by job and number.
    pub builds: BTreeMap<Key, Build>,
    /// Builds that were removed with their job, for which GitHub still waits. Another job may have
    /// that name by now.
    pub gone: Vec<(Key, Build)>,
    /// Whether the file is behind.
    pub dirty: bool,
}

/// The file's form.
#[derive(Serialize, Deserialize)]
struct Text {
    version: u32,
    jobs: BTreeMap<String, Job>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    removed: Vec<(String, Job)>,
    builds: Vec<Line>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    job: String,
    build: u64,
    repository: String,
    commit: String,
    told: Option<Status>,
    #[serde(default)]
    gone: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    called: Option<String>,
}

impl Told {
    /// Notes a build, and forgets the oldest if there are too many: first of those that are over.
    pub fn add(&mut self, key: Key, build: Build) {
        self.dirty = true;
        self.builds.insert(key, build);
        while self.builds.len() > BUILDS_MAX {
            let over = self.builds.iter().find(|(_, build)| build.is_over());
            let oldest = over
                .or_else(|| self.builds.first_key_value())
                .map(|(key, _)| key.clone());
            let Some(key) = oldest else { return };
            if let Some(build) = self.builds.remove(&key)
                && !build.is_over()
            {
                eprintln!(
                    "github-status: {}/{}: too many builds wait: its end is not told",
                    key.0, key.1
                );
            }
        }
    }

    /// A build may have changed.
    pub fn touch(&mut self, key: &Key) -> bool {
        let found = self.builds.get_mut(key);
        if let Some(build) = found {
            build.changed += 1;
            return true;
        }
        false
    }

    /// A job got another name: what is known of it is known of that.
    pub fn rename_job(&mut self, from: &str, to: &str) {
        let Some(job) = self.jobs.remove(from) else { return };
        // One of that name went before, however late that is told.
        self.forget_job(to);
        self.dirty = true;
        self.jobs.insert(to.to_owned(), job);
        let of_job = (from.to_owned(), 0)..=(from.to_owned(), u64::MAX);
        let numbers: Vec<u64> = self.builds.range(of_job).map(|((_, n), _)| *n).collect();
        for n in numbers {
            if let Some(build) = self.builds.remove(&(from.to_owned(), n)) {
                let was = build.told.map(|_| from.to_owned());
                let (changed, called) = (build.changed + 1, build.called.clone().or(was));
                let build = Build {
                    changed,
                    called,
                    ..build
                };
                self.builds.insert((to.to_owned(), n), build);
            }
        }
    }

    /// What is known of a job that was made at this moment. One that is not known may have been restored: under
    /// its name, or under another if no other was made then.
    pub fn known_job(&mut self, name: &str, made: u64) -> Job {
        if let Some(job) = self.jobs.get(name) {
            return *job;
        }
        let same: Vec<usize> = (0..self.removed.len())
            .filter(|at| self.removed[*at].1.made == made)
            .collect();
        let named = same.iter().rev().find(|at| self.removed[**at].0 == name);
        let alone = same.first().filter(|_| same.len() == 1);
        let job = match named.or(alone) {
            Some(at) => self.removed.remove(*at).1,
            None => Job { made, seen: 0 },
        };
        self.dirty = true;
        self.jobs.insert(name.to_owned(), job);
        job
    }

    /// A job is no more: what was not told of its builds never will be known. As far as they were looked at is,
    /// should it be restored.
    pub fn forget_job(&mut self, job: &str) {
        if let Some(known) = self.jobs.remove(job) {
            self.dirty = true;
            self.removed.push((job.to_owned(), known));
            let many = self.removed.len().saturating_sub(REMOVED_MAX);
            self.removed.drain(..many);
        }
        let of_job = (job.to_owned(), 0)..=(job.to_owned(), u64::MAX);
        let keys: Vec<Key> = self.builds.range(of_job).map(|(key, _)| key.clone()).collect();
        for key in keys {
            let build = self.builds.remove(&key);
            let waiting = build.filter(|build| build.told == Some(Status::Pending));
            self.gone
                .extend(waiting.map(|build| (key, Build { gone: true, ..build })));
        }
        let many = self.gone.len().saturating_sub(BUILDS_MAX);
        self.gone.drain(..many);
    }

    fn read(text: &[u8]) -> Result<Self, String> {
        let text: Text = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if text.version != VERSION {
            return Err(format!("it has version {}, not {VERSION}", text.version));
        }
        let build = |line: Line| {
            let build = Build {
                told: line.told,
                gone: line.gone,
                called: line.called,
                ..Build::new(&line.repository, &line.commit)
            };
            ((line.job, line.build), build)
        };
        let (gone, builds): (Vec<_>, Vec<_>) = text.builds.into_iter().map(build).partition(|(_, build)| build.gone);
        Ok(Told {
            jobs: text.jobs,
            removed: text.removed,
            builds: builds.into_iter().collect(),
            gone,
            dirty: false,
        })
    }

    fn text(&self) -> Vec<u8> {
        let line = |((job, build), known): (&Key, &Build)| Line {
            job: job.clone(),
            build: *build,
            repository: known.repository.clone(),
            commit: known.commit.clone(),
            told: known.told,
            gone: known.gone,
            called: known.called.clone(),
        };
        let gone = self.gone.iter().map(|(key, build)| (key, build));
        let text = Text {
            version: VERSION,
            jobs: self.jobs.clone(),
            removed: self.removed.clone(),
            builds: self.builds.iter().chain(gone).map(line).collect(),
        };
        serde_json::to_vec(&text).unwrap_or_default()
    }
}

/// The file, held against others for as long as the value lives.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Store {
    /// Takes the file and reads it; `None` if there is none yet.
    ///
    /// # Errors
    /// Another process has it, it can't be read or written, or it is damaged.
    pub fn open(path: &Path) -> Result<(Self, Option<Told>), String> {
        let bad = |why: String| format!("{}: {why}", path.display());
        let guard = beside(path, "lock");
        let file = File::options().create(true).append(true).open(&guard);
        let file = file.map_err(|error| format!("{}: {error}", guard.display()))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|_| bad("another github-status has it: give each a --state of its own".into()))?;
        let store = Store {
            path: path.to_owned(),
            _lock: lock,
        };
        match fs::read(path) {
            Ok(text) => {
                let told = Told::read(&text);
                let remedy = |why| {
                    bad(format!(
                        "{why}; remove it to begin anew: what happened until then is not told"
                    ))
                };
                told.map(|told| (store, Some(told))).map_err(remedy)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((store, None)),
            Err(error) => Err(bad(error.to_string())),
        }
    }

    /// Writes the file whole, or leaves the old one.
    pub fn save(&self, told: &mut Told) -> Result<(), String> {
        let new = beside(&self.path, "new");
        let save = || -> io::Result<()> {
            let mut file = File::create(&new)?;
            file.write_all(&told.text())?;
            file.sync_all()?;
            fs::rename(&new, &self.path)?;
            let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
        };
        save().map_err(|error| format!("{}: {error}", self.path.display()))?;
        told.dirty = false;
        Ok(())
    }
}

/// A file beside another.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(job: &str, build: u64) -> Key {
        (job.to_owned(), build)
    }

    #[test]
    fn what_is_saved_is_read_again_and_looked_at_again() {
        let dir = std::env::temp_dir().join(format!("distcifs-told-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("state");
        let (store, none) = Store::open(&path).unwrap();
        assert!(none.is_none());
        let mut told = Told::default();
        told.jobs.insert("a".into(), Job { made: 7, seen: 3 });
        told.add(key("a", 3), Build::new("o/r", "abc"));
        told.add(
            key("b", 1),
            Build {
                told: Some(Status::Pending),
                ..Build::new("o/r", "def")
            },
        );
        told.forget_job("b");
        told.add(key("b", 1), Build::new("o/r", "0ff"));
        let ended = told.builds.get_mut(&key("a", 3)).unwrap();
        (ended.told, ended.looked) = (Some(Status::Failure), 1);
        store.save(&mut told).unwrap();
        assert!(!told.dirty);
        assert!(Store::open(&path).unwrap_err().contains("another github-status"));
        drop(store);
        let (store, again) = Store::open(&path).unwrap();
        let again = again.unwrap();
        assert_eq!((again.jobs.clone(), again.builds.len()), (told.jobs.clone(), 2));
        assert_eq!(
            (
                again.builds[&key("b", 1)].commit.as_str(),
                again.gone[0].1.commit.as_str()
            ),
            ("0ff", "def")
        );
        let build = &again.builds[&key("a", 3)];
        assert!(build.is_due() && build.told == Some(Status::Failure));
        for damaged in ["", "{}", r#"{"version":2,"jobs":{},"builds":[]}"#, "{\"version\":1"] {
            fs::write(&path, damaged).unwrap();
            assert!(Told::read(damaged.as_bytes()).is_err(), "{damaged}");
        }
        drop(store);
        assert!(Store::open(&path).unwrap_err().contains("remove it to begin anew"));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn of_too_many_the_oldest_that_are_over_go_first() {
        let mut told = Told::default();
        for n in 0..BUILDS_MAX as u64 {
            told.add(key("a", n), Build::new("o/r", "abc"));
        }
        let over = told.builds.get_mut(&key("a", 7)).unwrap();
        (over.told, over.looked) = (Some(Status::Success), 1);
        told.add(key("b", 1), Build::new("o/r", "abc"));
        assert!(!told.builds.contains_key(&key("a", 7)) && told.builds.len() == BUILDS_MAX);
        told.add(key("b", 2), Build::new("o/r", "abc"));
        assert!(!told.builds.contains_key(&key("a", 0)) && told.builds.len() == BUILDS_MAX);
    }

    /// "`mv` of a job: what was told of its builds is not told again."
    #[test]
    fn a_job_with_another_name_is_the_same() {
        let mut told = Told::default();
        told.jobs.insert("a".into(), Job { made: 7, seen: 3 });
        told.jobs.insert("b".into(), Job { made: 5, seen: 9 });
        for (job, n, status) in [
            ("a", 1, Status::Success),
            ("a", 3, Status::Pending),
            ("b", 2, Status::Success),
        ] {
            let build = Build {
                told: Some(status),
                ..Build::new("o/r", "abc")
            };
            told.add(key(job, n), build);
        }
        told.rename_job("a", "b");
        assert_eq!(told.jobs, BTreeMap::from([("b".to_owned(), Job { made: 7, seen: 3 })]));
        let of: Vec<_> = told
            .builds
            .iter()
            .map(|(key, build)| (key.clone(), build.told))
            .collect();
        let expected = [
            (key("b", 1), Some(Status::Success)),
            (key("b", 3), Some(Status::Pending)),
        ];
        assert_eq!(of, expected);
        assert!(told.builds.values().all(|build| build.called.as_deref() == Some("a")));
        told.rename_job("b", "c");
        assert_eq!(told.builds[&key("c", 3)].called.as_deref(), Some("a"));
        assert_eq!(
            Told::read(&told.text()).unwrap().builds[&key("c", 3)].called.as_deref(),
            Some("a")
        );
        told.rename_job("nobody", "c");
        assert_eq!((told.builds.len(), told.gone.len()), (2, 0));
    }

    /// "What was told of a job's builds is not told again when the job comes back from the trash": under its name
    /// or another. Another job of that name is another.
    #[test]
    fn a_job_that_is_restored_is_the_same() {
        let mut told = Told::default();
        for (job, made) in [("a", 7), ("b", 8), ("c", 8), ("d", 9)] {
            told.jobs.insert(job.into(), Job { made, seen: 3 });
            told.forget_job(job);
        }
        let mut told = Told::read(&told.text()).unwrap();
        assert_eq!(told.known_job("a", 6), Job { made: 6, seen: 0 });
        assert_eq!(told.known_job("e", 7), Job { made: 7, seen: 3 });
        assert_eq!(told.known_job("f", 7), Job { made: 7, seen: 0 });
        assert_eq!(told.known_job("g", 8), Job { made: 8, seen: 0 });
        assert_eq!(told.known_job("b", 8), Job { made: 8, seen: 3 });
        assert_eq!(told.known_job("b", 8), Job { made: 8, seen: 3 });
        let left = [("c", 8), ("d", 9)].map(|(job, made)| (job.to_owned(), Job { made, seen: 3 }));
        assert_eq!(told.removed, left);
        for n in 0..=REMOVED_MAX {
            told.jobs.insert(
                "x".into(),
                Job {
                    made: 1,
                    seen: n as u64,
                },
            );
            told.forget_job("x");
        }
        assert_eq!((told.removed.len(), told.removed[0].1.seen), (REMOVED_MAX, 1));
    }

    #[test]
    fn a_job_that_is_gone_leaves_only_what_github_waits_for() {
        let mut told = Told::default();
        for (job, n, status) in [
            ("a", 1, Some(Status::Success)),
            ("a", 2, Some(Status::Pending)),
            ("a", 3, None),
            ("ab", 1, Some(Status::Success)),
        ] {
            told.add(
                key(job, n),
                Build {
                    told: status,
                    ..Build::new("o/r", "abc")
                },
            );
        }
        told.forget_job("a");
        assert_eq!(told.builds.keys().cloned().collect::<Vec<_>>(), [key("ab", 1)]);
        assert_eq!(told.gone.len(), 1);
        assert!(told.gone[0].0 == key("a", 2) && told.gone[0].1.gone && told.gone[0].1.is_due());
    }
}
