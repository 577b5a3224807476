//! A ticket as the worker that holds it sees it.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use distcifs_settings::source::Source;
use distcifs_settings::task::TaskSettings;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::aside;
use crate::record::nullable;
use crate::signals;
use crate::tree::{self, Result, Trouble};

/// How often an operation is tried while the store is away or full, and how long is waited between:
/// half a minute together, then the ticket is given back for somebody else.
const TRIES_MAX: u32 = 10;
const TRY_AGAIN: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 3000 });

/// How often a result is tried while the store is away, a quarter of an hour together: the work is
/// done, and whoever did it again would be no sooner. The end of the claim ends this too.
const RESULT_TRIES_MAX: u32 = 300;

/// Longest message that goes with a result, characters: it is for people.
const MESSAGE_CHARS_MAX: usize = 4096;

/// How long what a task left may take to be removed: a million of files and more.
const REMOVAL_MAX: Duration = Duration::from_secs(600);

/// The label of a ticket that is of a stranger's build. The mount adds it, and a worker that offers it keeps the rules of
/// such builds.
pub const UNTRUSTED: &str = "untrusted";

/// `ticket.json`, as far as a worker needs it.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Ticket {
    /// The job; none for a ticket that stands alone.
    #[serde(default)]
    pub job: Option<String>,
    /// The build's number.
    #[serde(default)]
    pub build: Option<u64>,
    /// The task's place in the build.
    #[serde(default)]
    pub task: Option<usize>,
    /// Where its build comes from.
    #[serde(default)]
    pub source: Source,
    /// Whether this checkout is to say which paths changed.
    #[serde(default)]
    pub changed: bool,
    /// The user who owns the job, or who posted a ticket that stands alone.
    #[serde(default)]
    pub owner: Option<u32>,
    /// Repositories of servers that its checkout may fetch from; none said: any.
    #[serde(default)]
    pub repositories: Option<Vec<String>>,
    /// The task's parameters.
    #[serde(default, deserialize_with = "nullable")]
    pub params: Map<String, Value>,
    /// How it is worked on.
    #[serde(flatten)]
    pub settings: TaskSettings,
}

impl Ticket {
    /// How long its work may take from the claim on, if that is bounded.
    pub fn limit(&self) -> Option<Duration> {
        self.settings.timeout.map(Duration::from_secs)
    }

    /// Whether a stranger wrote what it is to do.
    pub fn is_untrusted(&self) -> bool {
        self.settings.labels.iter().any(|label| label.as_str() == UNTRUSTED)
    }

    /// The message of what took longer.
    pub fn timed_out(&self) -> String {
        format!("timed out after {} s", self.settings.timeout.unwrap_or_default())
    }
}

/// A claimed ticket's folder.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// `tickets/<queue>/<id>`.
    pub folder: PathBuf,
    /// The folder as it is for this claim: once that is lost, what is reached through it is ESTALE. Nothing is done by
    /// the folder's name instead, which may lead into the next claim's.
    at: Arc<OnceLock<OwnedFd>>,
}

/// Enters the folder of a ticket that was just claimed.
fn enter(folder: &Path) -> Result<OwnedFd> {
    // By this name the kernel may know the folder of another ticket still, which had the same id a moment ago. It
    // looks again for a path that leads into that, but not for the folder itself. What is there does not matter.
    // Its attributes are asked for, as the kernel may know of the name by itself.
    let _ = std::fs::symlink_metadata(folder.join("claim"));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(folder, flags, Mode::empty())
        .map_err(|e| Trouble::from_io(&format!("can't open {}", folder.display()), &e.into()))
}

/// What is called so in a folder that was never entered: nothing.
const NOWHERE: &str = "/proc/self/fd/none";

impl Claimed {
    /// A ticket that was just claimed, by a process that has one claim at a time. `None`: it is lost already, or its
    /// folder can't be entered, which is said, and then it is given back.
    pub fn new(folder: PathBuf) -> Option<Self> {
        let claimed = Claimed::to_be_entered(folder);
        match patiently(|| claimed.enter()) {
            Ok(()) => return Some(claimed),
            Err(Trouble::Lost(_)) => {}
            Err(trouble) => {
                eprintln!("{trouble}; the ticket is given back");
                claimed.give_back_unentered();
            }
        }
        None
    }

    /// The same for who must not wait, and enters it when it can.
    pub fn to_be_entered(folder: PathBuf) -> Self {
        let at = Arc::default();
        Claimed { folder, at }
    }

    /// Enters the folder if that was not done.
    ///
    /// # Errors
    /// `Lost` if it is not there; `Later` while the store is away or this process has no descriptor left.
    pub fn enter(&self) -> Result<()> {
        if self.at.get().is_none() {
            let entered = enter(&self.folder)?;
            // Who was faster has entered the same.
            let _ = self.at.set(entered);
        }
        Ok(())
    }

    /// What is called so in the folder while the claim is ours. It leads nowhere once that is another's, and before the
    /// folder is entered.
    pub fn path(&self, name: &str) -> PathBuf {
        match self.at.get() {
            Some(at) => format!("/proc/{}/fd/{}/{name}", std::process::id(), at.as_raw_fd()).into(),
            None => Path::new(NOWHERE).join(name),
        }
    }

    /// The folder, to be looked into and handed on.
    ///
    /// # Errors
    /// As open(2).
    pub fn open(&self) -> std::io::Result<File> {
        let at = self.at.get().ok_or_else(|| std::io::Error::from(Errno::STALE))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(at, ".", flags, Mode::empty())?))
    }

    /// A text for people, in which the folder has its name.
    pub fn told(&self, why: &str) -> String {
        why.replace(
            &*self.path("").to_string_lossy(),
            &format!("{}/", self.folder.display()),
        )
    }

    /// Whether the claim is known to be lost: what is begun now would be done beside whoever has the ticket by then.
    ///
    /// # Errors
    /// `Lost` if it is. A tree that does not answer says nothing.
    pub fn check(&self) -> Result<()> {
        // Of the name alone the kernel may know by itself: its attributes are asked for.
        let looked = std::fs::symlink_metadata(self.path("claim"))
            .map_err(|e| Trouble::from_io(&format!("{} is not begun", self.folder.display()), &e));
        match looked {
            Err(Trouble::Lost(why)) => Err(Trouble::Lost(why)),
            _ => Ok(()),
        }
    }

    /// Reads `ticket.json`.
    pub fn ticket(&self) -> Result<Ticket> {
        let read = || tree::read(&self.path("ticket.json")).map_err(|trouble| trouble.map(|why| self.told(&why)));
        let bytes = patiently(read)?;
        serde_json::from_slice(&bytes).map_err(|e| Trouble::Refused(format!("ticket.json: {e}")))
    }

    /// Writes the outcome (an exit status or a word) and a message. A ticket that has an outcome
    /// already, or another claimant, is let go silently. Where the store has no room for what the task
    /// left, or can't take it at all, that is removed and the outcome becomes `error`: the next attempt
    /// would come to the same. Where nothing can be written at all the ticket is given back. Both are
    /// done only while the claim is ours. Errors: only `Away`.
    pub fn finish(&self, outcome: &str, message: &str) -> Result<()> {
        let written = match tried(RESULT_TRIES_MAX, || self.write_result(outcome, message)) {
            Ok(Some(why)) | Err(Trouble::Full(why)) => {
                eprintln!("{why}; the workspace is removed");
                self.remove_output();
                let why = format!("the workspace could not be stored and is lost: {why}");
                // The kernel lets go of removed files a moment later.
                tried(RESULT_TRIES_MAX, || self.write_result("error", &why))
            }
            other => other,
        };
        match written {
            Err(Trouble::Away(why)) => Err(Trouble::Away(why)),
            Ok(Some(why))
            | Err(Trouble::Later(why) | Trouble::Held(why) | Trouble::Full(why) | Trouble::Refused(why)) => {
                eprintln!("{why}; the ticket is given back");
                self.give_back();
                Ok(())
            }
            Ok(None) | Err(Trouble::Lost(_)) => Ok(()),
        }
    }

    /// Removes what is in the workspace and among the artifacts; the folders themselves stay.
    fn remove_output(&self) {
        for folder in ["workspace", "artifacts"].map(|name| self.path(name)) {
            // By another process: who holds a file keeps it standing.
            let mut rm = Command::new("rm");
            rm.args(["-rf", "--"]).arg(&folder).stdin(Stdio::null());
            match aside::run(rm, REMOVAL_MAX) {
                Ok(Some(wrote)) if wrote.well => {}
                done => {
                    let held = matches!(done, Ok(None))
                        .then_some(": a process holds it")
                        .unwrap_or_default();
                    eprintln!(
                        "can't remove all of {} of {}{held}",
                        folder.display(),
                        self.folder.display()
                    );
                }
            }
        }
    }

    /// Writes it; where the store can never take what the task left, the reason.
    fn write_result(&self, outcome: &str, message: &str) -> Result<Option<String>> {
        let message: String = message.chars().take(MESSAGE_CHARS_MAX).collect();
        let text = format!("{outcome}\n{message}");
        // By the name of the folder it might end another claim that this process has made meanwhile.
        tree::commit_unless_too_big(&self.path("result"), &format!("{}\n", text.trim_end()))
            .map_err(|trouble| trouble.map(|why| self.told(&why)))
    }

    /// Gives the ticket back, so that another worker may claim it, unless one has already.
    pub fn give_back(&self) {
        give_back(&self.folder, &self.path("claim"));
    }

    /// The same of one whose folder was never entered, by its name. The tree refuses that to whoever lost the claim.
    pub fn give_back_unentered(&self) {
        give_back(&self.folder, &self.folder.join("claim"));
    }
}

fn give_back(folder: &Path, claim: &Path) {
    match std::fs::remove_file(claim).map_err(|e| Trouble::from_io("can't give the ticket back", &e)) {
        Ok(()) | Err(Trouble::Lost(_)) => {}
        Err(trouble) => eprintln!("{}: {trouble}", folder.display()),
    }
}

/// Tries again as for a result: what is at stake is work that is done.
pub fn as_a_result<T>(operation: impl Fn() -> Result<T>) -> Result<T> {
    tried(RESULT_TRIES_MAX, operation)
}

/// Tries again for half a minute while the store is away or full.
pub fn patiently<T>(operation: impl Fn() -> Result<T>) -> Result<T> {
    tried(TRIES_MAX, operation)
}

/// Tries again while the store is full, for half a minute, or away, up to `away_max` times; none
/// is made after the first half minute once this process is told to end.
fn tried<T>(away_max: u32, operation: impl Fn() -> Result<T>) -> Result<T> {
    let (mut full, mut away) = (0, 0);
    loop {
        let ended = operation();
        let (count, max, why) = match &ended {
            Err(Trouble::Full(why)) => (&mut full, TRIES_MAX, why),
            Err(Trouble::Later(why) | Trouble::Held(why)) => (&mut away, away_max, why),
            _ => return ended,
        };
        *count += 1;
        if *count >= max || (*count > TRIES_MAX && signals::stopping()) {
            return ended;
        }
        eprintln!("{why}; trying again");
        thread::sleep(TRY_AGAIN);
    }
}

/// Reads the parameters of the build that a ticket belongs to, and the name of its task.
pub fn of_build(claimed: &Claimed, task: Option<usize>) -> Result<(Map<String, Value>, Option<String>)> {
    #[derive(Deserialize)]
    struct BuildJson {
        #[serde(default, deserialize_with = "nullable")]
        params: Map<String, Value>,
        #[serde(default, deserialize_with = "nullable")]
        tasks: Vec<Named>,
    }
    #[derive(Default, Deserialize)]
    struct Named {
        #[serde(rename = "type")]
        kind: String,
        #[serde(default)]
        name: Option<String>,
    }
    let bytes = patiently(|| tree::read(&claimed.path("build/build.json")))?;
    let build: BuildJson = serde_json::from_slice(&bytes).map_err(|e| Trouble::Refused(format!("build.json: {e}")))?;
    let named = task.and_then(|i| build.tasks.into_iter().nth(i));
    Ok((build.params, named.map(|t| t.name.unwrap_or(t.kind))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn ticket(name: &str) -> Claimed {
        let folder = std::env::temp_dir().join(format!("distcifs-ticket-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("workspace")).unwrap();
        fs::write(folder.join("workspace/file"), "x").unwrap();
        fs::write(folder.join("claim"), "the first").unwrap();
        Claimed::new(folder).unwrap()
    }

    /// "The result is tried then for a quarter of an hour", and so is what is recorded with it: work that is done is not
    /// thrown away for an outage that other operations do not wait for.
    #[test]
    fn what_goes_with_a_result_is_tried_as_long() {
        let mut left = 20;
        let mut away = || {
            left -= 1;
            if left > 0 {
                Err(Trouble::Later("away".to_owned()))
            } else {
                Ok(())
            }
        };
        let cell = std::cell::RefCell::new(&mut away);
        assert!(matches!(patiently(|| (cell.borrow_mut())()), Err(Trouble::Later(_))));
        as_a_result(|| (cell.borrow_mut())()).unwrap();
    }

    /// "So does a workspace that can't be stored at all: EFBIG, and the same is done": no other refusal
    /// costs the workspace.
    #[test]
    fn a_refused_result_leaves_the_workspace() {
        let claimed = ticket("refused");
        // ELOOP: refused, and by nobody's rights.
        symlink("result", claimed.folder.join("result")).unwrap();
        claimed.finish("0", "").unwrap();
        assert!(claimed.folder.join("workspace/file").exists());
        assert!(!claimed.folder.join("claim").exists(), "given back");
        fs::remove_dir_all(&claimed.folder).unwrap();
    }

    /// "The workers remove and give back only in the folder of their own claim": another's begins with a
    /// folder of its own.
    #[test]
    fn who_lost_a_ticket_leaves_it_to_another() {
        let claimed = ticket("lost");
        let folder = claimed.folder.clone();
        let old = folder.with_extension("old");
        let _ = fs::remove_dir_all(&old);
        fs::rename(&folder, &old).unwrap();
        let again = ticket("lost");
        symlink("result", folder.join("result")).unwrap();
        claimed.check().unwrap();
        fs::remove_file(old.join("claim")).unwrap();
        assert!(matches!(claimed.check(), Err(Trouble::Lost(_))), "nothing is begun");
        claimed.finish("0", "").unwrap();
        claimed.remove_output();
        assert!(folder.join("workspace/file").exists());
        assert!(folder.join("claim").exists(), "not given back");
        assert!(!old.join("workspace/file").exists(), "its own is removed");
        again.give_back();
        assert!(!folder.join("claim").exists());
        fs::remove_dir_all(&folder).unwrap();
        fs::remove_dir_all(&old).unwrap();
    }

    /// A ticket whose folder can't be entered is given back. What was never entered is never reached by its name: there
    /// may be the next claim of the same process.
    #[test]
    fn a_ticket_that_can_not_be_entered_is_given_back() {
        let folder = ticket("unentered").folder;
        let later = Claimed::to_be_entered(folder.clone());
        later.give_back();
        later.finish("0", "").unwrap();
        later.remove_output();
        assert!(folder.join("workspace/file").exists() && folder.join("claim").exists());
        assert!(!folder.join("result").exists());
        assert!(matches!(later.check(), Err(Trouble::Lost(_))));
        let looped = folder.with_extension("loop");
        symlink(&looped, &looped).unwrap();
        assert!(Claimed::new(looped.clone()).is_none(), "ELOOP: it can't be entered");
        later.enter().unwrap();
        later.check().unwrap();
        later.give_back();
        assert!(!folder.join("claim").exists());
        fs::remove_file(&looped).unwrap();
        fs::remove_dir_all(&folder).unwrap();
    }
}
