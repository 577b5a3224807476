//! The workers of a mount: real ones, and those that write down what they are told. Who dies is
//! started again, as `distcifs up` does.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::unistd::Pid;

use super::found::ARTIFACT_LINES;
use super::history::Recorder;
use crate::mount::Mount;
use crate::process;
use crate::programs;
use crate::shell::Sh;

/// What works on each mount: enough that one of each kind is at work while another is stopped.
const KINDS: [&str; 5] = ["build-control", "execute-shell", "execute-shell", "hand", "hand"];

/// The queue of the workers that write down what they are told.
pub const HAND: &str = "hand";

/// A worker in one of its lives.
struct Life {
    kind: &'static str,
    name: String,
    process: Sh,
}

/// All workers of a mount.
pub struct Crew {
    node: String,
    lives: Mutex<Vec<Option<Life>>>,
    count: AtomicU32,
}

impl Crew {
    /// Nobody yet.
    pub fn new(node: &str) -> Crew {
        Crew {
            node: node.to_owned(),
            lives: Mutex::new(KINDS.iter().map(|_| None).collect()),
            count: AtomicU32::new(0),
        }
    }

    /// Starts whoever does not run, if the mount has a daemon.
    pub fn tend(&self, mount: &Mount, recorder: &Recorder) {
        if process::daemons(mount.root()).is_empty() {
            return;
        }
        let mut lives = self.lives.lock().unwrap_or_else(PoisonError::into_inner);
        for (life, kind) in lives.iter_mut().zip(KINDS) {
            if life.as_ref().is_none_or(|life| !life.process.alive()) {
                *life = Some(self.start(kind, mount, recorder));
            }
        }
    }

    fn start(&self, kind: &'static str, mount: &Mount, recorder: &Recorder) -> Life {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let name = format!("{kind}-{}-{number}", self.node);
        let (root, lines) = (mount.root_text().to_owned(), ARTIFACT_LINES.to_string());
        let history = recorder.path().to_str().expect("a temporary path is text").to_owned();
        let words = if kind == HAND {
            let program = programs::project().join("tests/workers/hand");
            let program = program.to_str().expect("the path is text").to_owned();
            let node = self.node.clone();
            vec![program, root, HAND.to_owned(), history, name.clone(), node, lines]
        } else {
            let program = programs::worker(kind);
            let mut words = vec![program.to_str().expect("the path is text").to_owned(), root];
            // The jobs are root's, and their scripts write where only root may.
            words.extend((kind == "execute-shell").then(|| "--as=root".to_owned()));
            words
        };
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let process = Sh::start(&words, &mount.out(), &mount.out(), &[]);
        Life { kind, name, process }
    }

    /// The living: kind, name, process.
    pub fn living(&self) -> Vec<(&'static str, String, Pid)> {
        let lives = self.lives.lock().unwrap_or_else(PoisonError::into_inner);
        let alive = lives.iter().flatten().filter(|life| life.process.alive());
        alive
            .map(|life| (life.kind, life.name.clone(), life.process.pid()))
            .collect()
    }

    /// Ends all of them.
    pub fn end(&self) {
        let mut lives = self.lives.lock().unwrap_or_else(PoisonError::into_inner);
        lives.iter_mut().for_each(|life| *life = None);
    }
}
