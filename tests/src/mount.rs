//! A real mount of a fresh repository, gone with the test that made it.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;
use nix::sys::statvfs::statvfs;
use tempfile::TempDir;

use crate::folder::is_mounted;
use crate::process;
use crate::programs;
use crate::repository::Repository;
use crate::shell::{Output, Sh};
use crate::wait::{USUAL, wait_for};

/// Longest time from a fork to its exec on a busy machine.
const EXEC_MAX: Duration = Duration::from_secs(2);

/// A mount takes milliseconds; this bounds a machine that is busy compiling.
const MOUNT_LIMIT: Duration = Duration::from_secs(20);

/// A daemon writes what is left and ends; beyond this it is killed.
const END_LIMIT: Duration = Duration::from_secs(10);

/// A test that still holds its mount after this hangs: its daemon is killed, so that every
/// request fails with ENOTCONN and the test ends.
pub const TEST_LIMIT: Duration = Duration::from_secs(180);

/// The name of the mount of a test that has one.
const FIRST: &str = "first";

/// What is the mount's own, in its folder.
const STATE: &str = "store";

/// How many lines of the daemon's log a failing test shows.
const LOG_LINES: usize = 40;

/// Words before `distcifs mount` and after it.
#[derive(Debug, Clone, Default)]
pub struct Words {
    /// A command that runs another, such as `nsenter --net=FILE`.
    pub before: Vec<String>,
    /// Further arguments.
    pub after: Vec<String>,
}

/// A mount, what it keeps for itself and a scratch folder beside it, all in one folder of their own.
pub struct Mount {
    folder: TempDir,
    root: PathBuf,
    repository: Repository,
    node: String,
    words: Words,
    _watchdog: Sender<()>,
}

impl Words {
    /// Further arguments only.
    pub fn after(words: &[&str]) -> Words {
        Words {
            before: Vec::new(),
            after: words.iter().map(|word| (*word).to_owned()).collect(),
        }
    }
}

impl Default for Mount {
    fn default() -> Self {
        Mount::new()
    }
}

impl Mount {
    /// Mounts a new, empty repository.
    pub fn new() -> Mount {
        Mount::with(&[], TEST_LIMIT)
    }

    /// The same with further arguments for `distcifs mount` and another limit for the test.
    pub fn with(options: &[&str], limit: Duration) -> Mount {
        Mount::at(new_folder(), Repository::new, FIRST, Words::after(options), limit)
    }

    /// Mounts a new repository in a folder, whatever the environment says.
    pub fn of_folder() -> Mount {
        Mount::at(new_folder(), Repository::in_folder, FIRST, Words::default(), TEST_LIMIT)
    }

    /// One of several mounts of a repository, by the name of its node.
    pub fn of(repository: &Repository, node: &str, words: Words, limit: Duration) -> Mount {
        Mount::at(new_folder(), |_| repository.clone(), node, words, limit)
    }

    fn at(
        folder: TempDir,
        repository: impl FnOnce(&Path) -> Repository,
        node: &str,
        words: Words,
        limit: Duration,
    ) -> Mount {
        let root = folder.path().join("mnt");
        let (keep, gone) = channel();
        watch(root.clone(), gone, limit);
        let mount = Mount {
            repository: repository(&folder.path().join(STATE)),
            node: node.to_owned(),
            words,
            folder,
            root,
            _watchdog: keep,
        };
        mount.mount();
        mount
    }

    /// Mounts, after an unmount or the daemon's death; panics if it can't.
    pub fn mount(&self) {
        self.try_mount().unwrap_or_else(|why| panic!("{why}"));
    }

    /// The same; or why not.
    pub fn try_mount(&self) -> Result<(), String> {
        let (out, started) = (self.out().join("mount.out"), Instant::now());
        let log = File::options()
            .create(true)
            .append(true)
            .open(&out)
            .expect("own folder");
        let mut child = self
            .command()
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .spawn()
            .expect("distcifs runs");
        loop {
            // A daemon goes into the background or stays: both are a mount.
            if let Some(status) = child.try_wait().expect("a child can be waited for")
                && !status.success()
            {
                let said = fs::read_to_string(&out).unwrap_or_default();
                return Err(format!("distcifs mount failed ({status}): {said}"));
            }
            if self.is_mounted() && fs::read_dir(self.path("jobs")).is_ok() {
                break;
            }
            if started.elapsed() > MOUNT_LIMIT {
                return Err(format!("no mount after {MOUNT_LIMIT:?}: {}", self.log_tail()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::spawn(move || child.wait());
        Ok(())
    }

    fn command(&self) -> Command {
        let distcifs = programs::distcifs().into_os_string();
        let mut line = self.words.before.iter().map(OsString::from).chain([distcifs]);
        let mut command = Command::new(line.next().expect("at least distcifs"));
        command.args(line).arg("mount").args(&self.words.after);
        let options = self.repository.options(&self.node, &self.own_folder());
        command.args(options.iter().flat_map(|options| ["-o", options]));
        command.arg(self.repository.source()).arg(&self.root);
        command
    }

    /// Unmounts with `distcifs umount` and waits for the daemon's end; panics if it refuses. What another
    /// test starts at this moment has copies of our descriptors until its exec.
    pub fn unmount(&self) {
        self.unmount_within(EXEC_MAX);
    }

    /// The same where somebody may still be on the way out.
    pub fn unmount_within(&self, patience: Duration) {
        let begun = Instant::now();
        loop {
            let output = Command::new(programs::distcifs())
                .arg("umount")
                .arg(&self.root)
                .output()
                .expect("distcifs runs");
            if output.status.success() {
                break;
            }
            assert!(begun.elapsed() < patience, "distcifs umount failed: {output:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
        wait_for("the daemon to end", END_LIMIT, || {
            process::daemons(&self.root).is_empty()
        });
        assert!(!self.is_mounted(), "umount said yes and it is still mounted");
    }

    /// Unmounts and mounts again.
    pub fn remount(&self) {
        self.unmount();
        self.mount();
    }

    /// SIGKILL for the daemon. The mount point answers ENOTCONN until the next `mount`.
    pub fn kill9(&self) {
        let daemons = process::daemons(&self.root);
        assert!(!daemons.is_empty(), "no daemon to kill");
        daemons.iter().for_each(|pid| process::signal(*pid, Signal::SIGKILL));
        // A process has no command line any more a moment before its files are closed.
        wait_for("the killed daemon to be gone", END_LIMIT, || {
            let gone = !self.is_mounted() || statvfs(&self.root) == Err(Errno::ENOTCONN);
            process::daemons(&self.root).is_empty() && gone
        });
    }

    /// The daemon's process id.
    pub fn daemon(&self) -> nix::unistd::Pid {
        // Whoever started it, before it in order, may not have ended yet.
        *process::daemons(&self.root).last().expect("a mount has a daemon")
    }

    /// The mount point.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The mount point as text.
    pub fn root_text(&self) -> &str {
        self.root.to_str().expect("a temporary path is text")
    }

    /// What is mounted.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The name of this mount among others.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The folder of what is this mount's own: log, workspaces, and the store if it is a folder.
    pub fn own_folder(&self) -> PathBuf {
        self.folder.path().join(STATE)
    }

    /// A folder outside the mount, writable by everybody.
    pub fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    /// A path below the mount point.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The text of a file of the mount, without the last line's end; panics if it can't be read.
    pub fn read(&self, name: &str) -> String {
        let text = fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        String::from_utf8_lossy(&text).trim_end_matches('\n').to_owned()
    }

    /// The whole text of a file of the mount; panics if it can't be read.
    pub fn raw(&self, name: &str) -> String {
        let text = fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Whether there is such a path; a path that can't be looked at is none.
    pub fn has(&self, name: &str) -> bool {
        fs::symlink_metadata(self.path(name)).is_ok()
    }

    /// Opens for writing with truncation, writes in one go and closes, looking at what close
    /// returns, as `cp` and an editor do.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> io::Result<()> {
        use std::io::Write;
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .open(self.path(name))?;
        file.write_all(text.as_ref())?;
        Ok(nix::unistd::close(file)?)
    }

    /// The names in a folder, sorted.
    pub fn list(&self, name: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Starts a script under `dash`, in a session of its own, with the mount point as its working
    /// directory, `$M` naming it and `$OUT` a scratch folder outside.
    pub fn start(&self, script: &str) -> Sh {
        self.start_words(&["dash", "-c", script])
    }

    /// Starts to read `.events`; what happens from now on will be there.
    pub fn listen(&self) -> Sh {
        let listener = self.start("exec 9<.events; touch $OUT/listens.$$; exec cat <&9");
        let listens = self.out().join(format!("listens.{}", listener.pid()));
        wait_for("a listener", USUAL, || listens.exists());
        listener
    }

    /// The same for any command.
    pub fn start_words(&self, words: &[&str]) -> Sh {
        Sh::start(
            words,
            &self.root,
            &self.out(),
            &[("M", &self.root), ("OUT", &self.out())],
        )
    }

    /// Runs a script under `dash` and gives what it left.
    pub fn sh(&self, script: &str) -> Output {
        self.start(script).finish()
    }

    /// Runs a script under another shell (`bash`, `busybox sh`).
    pub fn sh_with(&self, shell: &str, script: &str) -> Output {
        let mut words: Vec<&str> = shell.split(' ').collect();
        words.extend(["-c", script]);
        self.start_words(&words).finish()
    }

    /// Runs a script under `dash -eu`; panics unless it succeeds. Gives what it wrote.
    pub fn run(&self, script: &str) -> String {
        self.start_words(&["dash", "-euc", script]).finish().expect_ok()
    }

    /// Whether something is mounted at the mount point.
    pub fn is_mounted(&self) -> bool {
        is_mounted(&self.root)
    }

    /// The last lines of the daemon's log.
    pub fn log_tail(&self) -> String {
        let log = fs::read(self.own_folder().join("log")).unwrap_or_default();
        let said = fs::read(self.out().join("mount.out")).unwrap_or_default();
        let text = [String::from_utf8_lossy(&said), String::from_utf8_lossy(&log)].concat();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

/// The folder for one mount.
fn new_folder() -> TempDir {
    let folder = tempfile::Builder::new()
        .prefix("distcifs-test-")
        .tempdir()
        .expect("a temporary folder");
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("own folder");
    for name in ["mnt", STATE, "out"] {
        fs::create_dir(folder.path().join(name)).expect("own folder");
    }
    fs::set_permissions(folder.path().join("out"), Permissions::from_mode(0o777)).expect("own folder");
    folder
}

/// Kills the daemon if the test has not let go of its mount within the limit.
fn watch(root: PathBuf, gone: Receiver<()>, limit: Duration) {
    std::thread::spawn(move || {
        if let Err(RecvTimeoutError::Timeout) = gone.recv_timeout(limit) {
            eprintln!("the test holds its mount for more than {limit:?}: killing its daemon");
            process::daemons(&root)
                .into_iter()
                .for_each(|pid| process::signal(pid, Signal::SIGKILL));
        }
    });
}

impl Drop for Mount {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the daemon's last words:\n{}", self.log_tail());
        }
        // One that a test has stopped would have everything below wait for it.
        process::daemons(&self.root)
            .into_iter()
            .for_each(|pid| process::signal(pid, Signal::SIGCONT));
        process::working_below(&self.root)
            .into_iter()
            .for_each(|pid| process::signal(pid, Signal::SIGKILL));
        if self.is_mounted() && umount2(&self.root, MntFlags::empty()).is_err() {
            let _ = umount2(&self.root, MntFlags::MNT_DETACH);
            let _ = Command::new("fusermount3").args(["-uzq", self.root_text()]).status();
        }
        let begun = Instant::now();
        while !process::daemons(&self.root).is_empty() && begun.elapsed() < END_LIMIT {
            std::thread::sleep(Duration::from_millis(5));
        }
        process::daemons(&self.root)
            .into_iter()
            .for_each(|pid| process::signal(pid, Signal::SIGKILL));
    }
}
