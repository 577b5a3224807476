//! A cluster, its mounts and whoever works on them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::clients::{JOBS, config};
use super::crew::{Crew, HAND};
use super::dice::Dice;
use super::history::{Call, Recorder};
use super::network::{Network, SERVERS, alone};
use crate::cluster::Cluster;
use crate::mount::{Mount, Words};
use crate::repository::Repository;

/// How long a session outlives its mount here.
pub const SESSION_TIMEOUT: Duration = Duration::from_secs(5);

/// Mounts; all but the first have a network of their own.
const NODES: usize = 3;

/// Between two looks whether a worker has died.
const TEND_EVERY: Duration = Duration::from_millis(300);

/// After the last fault every build must end within this: what was claimed by a mount that died
/// last is done again, with all that waited.
const ENDS_WITHIN: Duration = Duration::from_secs(120);

/// The words that a build ends with.
const FINAL: [&str; 4] = ["success", "failure", "error", "aborted"];

/// A mount with its workers.
pub struct Node {
    crew: Crew,
    mount: Mount,
    network: Option<Network>,
}

impl Node {
    /// Its name.
    pub fn name(&self) -> &str {
        self.mount.node()
    }

    /// Its mount.
    pub fn mount(&self) -> &Mount {
        &self.mount
    }

    /// Its workers.
    pub fn crew(&self) -> &Crew {
        &self.crew
    }

    /// Its network, if it can be cut off.
    pub fn network(&self) -> Option<&Network> {
        self.network.as_ref()
    }
}

/// Everything.
pub struct Farm {
    nodes: Vec<Node>,
    repository: Repository,
    cluster: Cluster,
    recorder: Recorder,
    builds: Mutex<BTreeMap<(String, u64), bool>>,
    closing: AtomicBool,
    over: AtomicBool,
}

impl Farm {
    /// Starts a cluster in a network of its own, which this thread is in from then on, and mounts it.
    /// `history` is a file that is not there yet; `limit` bounds all of it.
    pub fn new(history: PathBuf, limit: Duration) -> Farm {
        alone();
        let cluster = Cluster::fresh_at(SERVERS);
        let repository = Repository::on(&cluster);
        let nodes = (0..NODES).map(|number| {
            let network = (number > 0).then(|| Network::new(number));
            let name = format!("n{number}");
            let mount = Mount::of(&repository, &name, words(network.as_ref()), limit);
            let crew = Crew::new(&name);
            Node { crew, mount, network }
        });
        let farm = Farm {
            nodes: nodes.collect(),
            repository,
            cluster,
            recorder: Recorder::new(&history),
            builds: Mutex::default(),
            closing: AtomicBool::new(false),
            over: AtomicBool::new(false),
        };
        farm.furnish();
        farm
    }

    /// Jobs and a queue.
    fn furnish(&self) {
        let mount = self.nodes[0].mount();
        mount.queue(HAND);
        for job in JOBS {
            let call = Call::Configure {
                job: job.to_owned(),
                version: "first".to_owned(),
            };
            let done = self.recorder.call("furnish", self.nodes[0].name(), &call, || {
                mount.job(job, &config(job, &self.history(), "first"));
                Ok("")
            });
            done.expect("it can't fail");
        }
    }

    /// The mounts.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The servers.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// What is mounted.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The history.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Its file, as text.
    pub fn history(&self) -> String {
        self.recorder
            .path()
            .to_str()
            .expect("a temporary path is text")
            .to_owned()
    }

    /// A further mount, which sees nothing of the faults.
    pub fn judge(&self, limit: Duration) -> Mount {
        Mount::of(&self.repository, "judge", words(None), limit)
    }

    /// Notes a build that somebody was told of.
    pub(super) fn made(&self, job: &str, build: u64) {
        self.known().entry((job.to_owned(), build)).or_insert(false);
    }

    /// Notes what somebody saw.
    pub(super) fn saw(&self, job: &str, build: u64, word: &str) {
        if FINAL.contains(&word) {
            self.known().insert((job.to_owned(), build), true);
        }
    }

    /// Builds that were triggered and not seen to have ended.
    pub(super) fn under_way(&self) -> usize {
        self.known().values().filter(|over| !**over).count()
    }

    /// One of the builds, more often one that is under way.
    pub(super) fn any_build(&self, dice: &mut Dice) -> Option<(String, u64)> {
        let known = self.known();
        let under_way: Vec<_> = known
            .iter()
            .filter(|(_, over)| !**over)
            .map(|(build, _)| build)
            .collect();
        let all: Vec<_> = known.keys().collect();
        let among = if dice.below(3) > 0 && !under_way.is_empty() {
            under_way
        } else {
            all
        };
        dice.pick(&among).map(|build| (*build).clone())
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<(String, u64), bool>> {
        self.builds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing new is to be begun.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    /// Nothing new is begun from now on.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
    }

    /// Whether everybody is to end.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Everybody ends now.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    /// Keeps the workers alive until everybody ends, then ends them.
    pub(super) fn tend(&self) {
        while !self.is_over() {
            for node in &self.nodes {
                node.crew.tend(&node.mount, &self.recorder);
            }
            sleep(TEND_EVERY);
        }
        self.nodes.iter().for_each(|node| node.crew.end());
    }

    /// Waits until every build has ended and no ticket is left; says how long that took, `None` if
    /// it did not.
    pub(super) fn wait_ended(&self, judge: &Mount) -> Option<Duration> {
        let begun = Instant::now();
        while begun.elapsed() < ENDS_WITHIN {
            if all_ended(judge) {
                return Some(begun.elapsed());
            }
            sleep(TEND_EVERY);
        }
        None
    }
}

/// Whether every build that there is has ended, with all its tickets.
fn all_ended(judge: &Mount) -> bool {
    let names = |path: &str| -> Option<Vec<String>> {
        let entries = fs::read_dir(judge.path(path)).ok()?;
        entries
            .map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
            .collect()
    };
    let ended = |job: &str| -> Option<bool> {
        let builds = names(&format!("jobs/{job}/builds"))?;
        let numbers = builds.iter().filter(|name| name.parse::<u64>().is_ok());
        for number in numbers {
            let state = fs::read_to_string(judge.path(&format!("jobs/{job}/builds/{number}/state"))).ok()?;
            if !FINAL.contains(&state.trim()) {
                return Some(false);
            }
        }
        Some(true)
    };
    let quiet = |queue: &str| names(&format!("tickets/{queue}")).is_some_and(|ids| ids.is_empty());
    ["build-control", "execute-shell", HAND].into_iter().all(quiet)
        && JOBS.into_iter().all(|job| ended(job) == Some(true))
}

fn words(network: Option<&Network>) -> Words {
    let timeout = format!("session_timeout={}", SESSION_TIMEOUT.as_secs());
    Words {
        before: network.map(Network::words).unwrap_or_default(),
        after: vec!["-o".to_owned(), timeout],
    }
}
