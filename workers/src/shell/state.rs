//! What workers keep on their node: a folder of its own for each worker that runs, and the images.
//!
//! A worker's folder belongs to whoever holds the lock on the file in it, which the kernel lets go
//! with the process. What has no owner is removed by the next worker that starts: the processes in
//! the control groups noted there, the groups, what is mounted below it, and the files.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, umount2};
use nix::unistd::geteuid;

use super::cgroup;
use super::confine;
use super::images::Images;

/// How long a worker waits for others that start or sweep at this moment.
const TURN_MAX: Duration = Duration::from_secs(30);

/// Pause between two looks meanwhile.
const TURN_PAUSE: Duration = Duration::from_millis(5);

/// Where root's workers keep their state.
const ROOT_FOLDER: &str = "/var/lib/distcifs/shell";

/// The folder of a node's workers.
#[derive(Debug, Clone)]
pub struct State {
    folder: PathBuf,
}

impl State {
    /// In this folder, which is made; without one in `/var/lib/distcifs/shell`, or for ordinary
    /// users in `$XDG_STATE_HOME/distcifs/shell` or `~/.local/state/distcifs/shell`.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn open(chosen: Option<&Path>) -> io::Result<Self> {
        let folder = match chosen {
            Some(folder) => std::path::absolute(folder)?,
            None if geteuid().is_root() => ROOT_FOLDER.into(),
            None => user_folder(),
        };
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", folder.display()));
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(folder.parent().unwrap_or(&folder))
            .map_err(named)?;
        make_own(&folder, passable()).map_err(named)?;
        for (inner, mode) in [("runs", passable()), ("cache", 0o700), ("images", 0o700)] {
            make_own(&folder.join(inner), mode).map_err(named)?;
        }
        Ok(State { folder })
    }

    /// The images of this node, with at most so many bytes.
    pub fn images(&self, bound: u64) -> Images {
        Images::new(self.folder.join("images"), bound)
    }

    /// Where environments keep what is of use again.
    pub fn cache(&self) -> PathBuf {
        self.folder.join("cache")
    }

    /// Removes what dead workers left.
    ///
    /// # Errors
    /// If it is not this worker's turn for half a minute, or the folder can't be read.
    pub fn sweep(&self) -> io::Result<()> {
        let _turn = self.turn()?;
        self.sweep_in_turn()
    }

    fn sweep_in_turn(&self) -> io::Result<()> {
        self.images(0).sweep()?;
        for entry in fs::read_dir(self.folder.join("runs"))? {
            let folder = entry?.path();
            let owned = match File::open(folder.join("lock")) {
                Ok(file) => try_lock(file)?.is_none(),
                // Its owner makes the lock within its turn, and this is ours.
                Err(_) => false,
            };
            if !owned && !remove_run(&folder) {
                eprintln!(
                    "execute-shell: {}: something left by a dead worker can't be removed yet",
                    folder.display()
                );
            }
        }
        Ok(())
    }

    /// A folder for this worker, after sweeping.
    ///
    /// # Errors
    /// As `sweep`, and if it can't be made.
    pub fn begin(&self) -> io::Result<Run> {
        let _turn = self.turn()?;
        self.sweep_in_turn()?;
        let folder = nix::unistd::mkdtemp(&self.folder.join("runs").join("XXXXXX"))?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(passable()))?;
        let lock = lock_file(&folder.join("lock"))?;
        let lock = try_lock(lock)?.ok_or_else(|| io::Error::other("somebody else locked our own folder"))?;
        let run = Run { folder, _lock: lock };
        run.make_folders()?;
        Ok(run)
    }

    /// Waits until no other worker starts or sweeps.
    fn turn(&self) -> io::Result<Flock<File>> {
        let bound = Instant::now() + TURN_MAX;
        let path = self.folder.join("lock");
        loop {
            if let Some(turn) = try_lock(lock_file(&path)?)? {
                return Ok(turn);
            }
            if Instant::now() >= bound {
                let why = format!("{} is locked by another worker for {TURN_MAX:?}", path.display());
                return Err(io::Error::new(io::ErrorKind::TimedOut, why));
            }
            thread::sleep(TURN_PAUSE);
        }
    }
}

/// The mode of folders on the way to a script: those whom root's scripts run as come to them by a name
/// that they are told, and see nothing else there.
fn passable() -> u32 {
    if geteuid().is_root() { 0o711 } else { 0o700 }
}

/// Where an ordinary user's state is.
fn user_folder() -> PathBuf {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let base = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    match base {
        Some(base) if base.exists() || base.ancestors().nth(2).is_some_and(Path::is_dir) => base.join("distcifs/shell"),
        _ => std::env::temp_dir().join(format!("distcifs-shell-{}", geteuid())),
    }
}

/// Makes a folder of this user's with this mode, or takes the one that is there if it is his.
fn make_own(folder: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = fs::symlink_metadata(folder)?;
    if !found.is_dir() || found.uid() != geteuid().as_raw() {
        return Err(io::Error::other("is not a folder of this user"));
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(mode))
}

fn lock_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

/// Locks a file that nobody else has locked.
pub fn try_lock(file: File) -> io::Result<Option<Flock<File>>> {
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno.into()),
    }
}

/// The folder of one worker, used for one script after the other.
#[derive(Debug)]
pub struct Run {
    folder: PathBuf,
    _lock: Flock<File>,
}

impl Run {
    fn make_folders(&self) -> io::Result<()> {
        for inner in [self.files(), self.space()] {
            DirBuilder::new().recursive(true).mode(0o700).create(inner)?;
        }
        Ok(())
    }

    /// A name that nothing else on this node has.
    pub fn name(&self) -> String {
        let name = self.folder.file_name().unwrap_or_default();
        format!("distcifs-{}-{}", std::process::id(), name.to_string_lossy())
    }

    /// It, which nobody but the worker can write to.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the script's environment shows it: the script, and what starts it.
    pub fn files(&self) -> PathBuf {
        self.folder.join("files")
    }

    /// Room for the environment itself.
    pub fn space(&self) -> PathBuf {
        self.folder.join("space")
    }

    /// Where the environment says why it can't do its work.
    pub fn error(&self) -> PathBuf {
        self.folder.join("error")
    }

    /// Writes a file into `files`.
    ///
    /// # Errors
    /// If there is no room.
    pub fn write(&self, name: &str, text: &[u8]) -> io::Result<PathBuf> {
        let path = self.files().join(name);
        // Something may have cleaned the folder.
        self.make_folders()?;
        let _ = fs::remove_file(&path);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o700)
            .open(&path)?;
        file.write_all(text)?;
        Ok(path)
    }

    /// Writes a file that no script sees.
    ///
    /// # Errors
    /// If there is no room.
    pub(super) fn write_own(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut open = OpenOptions::new();
        let mut file = open.write(true).create_new(true).mode(0o600).open(self.own(name))?;
        file.write_all(bytes)
    }

    /// Where such a file is.
    pub(super) fn own(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Lets other users come to what is in `files`, if it is theirs, by its name.
    ///
    /// # Errors
    /// Of the operating system.
    pub fn open_files(&self) -> io::Result<()> {
        chown(self.files(), Some(geteuid().as_raw()), None)?;
        fs::set_permissions(self.files(), fs::Permissions::from_mode(0o711))
    }

    /// Shows what is in `files` to a group, which can change nothing of it. A script that gets a descriptor of this
    /// folder from outside could change the modes of what its ids own, whatever confines it.
    ///
    /// # Errors
    /// Of the operating system.
    pub fn show_files(&self, gid: u32) -> io::Result<()> {
        let folder = self.files();
        let all = [("script", 0o550), ("start", 0o550), ("", 0o750)];
        all.iter().try_for_each(|(name, mode)| {
            let path = if name.is_empty() {
                folder.clone()
            } else {
                folder.join(name)
            };
            chown(&path, Some(geteuid().as_raw()), Some(gid))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(*mode))
        })
    }

    /// Notes a control group that is about to be made.
    ///
    /// # Errors
    /// If there is no room.
    pub fn note_group(&self, group: &Path) -> io::Result<()> {
        let mut notes = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(self.folder.join("groups"))?;
        notes.write_all(&[group.as_os_str().as_bytes(), b"\n"].concat())
    }

    /// Removes what the last script left. False if something would not go.
    pub fn clean(&self) -> bool {
        let groups = self.folder.join("groups");
        if groups.exists() {
            if !cgroup::remove(&noted(&self.folder)) {
                return false;
            }
            let _ = fs::remove_file(groups);
        }
        let _ = fs::remove_file(self.error());
        for name in ["script", "start", confine::NAME] {
            let _ = fs::remove_file(self.files().join(name));
        }
        let unused = fs::read_dir(self.space()).is_ok_and(|mut entries| entries.next().is_none());
        unused || (remove_tree(&self.space()) && self.make_folders().is_ok())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // What does not go now is swept by the next worker.
        remove_run(&self.folder);
    }
}

/// The control groups noted in a worker's folder.
fn noted(folder: &Path) -> Vec<PathBuf> {
    let text = fs::read(folder.join("groups")).unwrap_or_default();
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines
        .map(|line| PathBuf::from(std::ffi::OsStr::from_bytes(line)))
        .collect()
}

/// Removes a worker's folder with all that belongs to it; true if it is gone.
fn remove_run(folder: &Path) -> bool {
    cgroup::remove(&noted(folder)) && remove_tree(folder)
}

/// Removes a folder; what is mounted below it is detached first, and never looked into.
pub fn remove_tree(folder: &Path) -> bool {
    detach_below(folder);
    match fs::remove_dir_all(folder) {
        Ok(()) => return true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return true,
        Err(_) => open_up(folder),
    }
    // Folders within folders by the thousand use up the descriptors here, but not of rm.
    let status = Command::new("rm")
        .args(["-rf", "--"])
        .arg(folder)
        .stdin(Stdio::null())
        .status();
    let gone = status.is_ok_and(|status| status.success());
    if !gone {
        eprintln!("execute-shell: can't remove {}", folder.display());
    }
    gone
}

/// Makes every folder below writable for its owner.
fn open_up(folder: &Path) {
    // What can't be changed shows when it can't be removed.
    let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o700));
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        open_up(&entry.path());
    }
}

/// Detaches all mounts below a folder, the last one first.
fn detach_below(folder: &Path) {
    let Ok(folder) = folder.canonicalize() else { return };
    let text = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let points = text
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|b| *b == b' ').nth(4));
    let below: Vec<PathBuf> = points
        .map(unescaped)
        .filter(|point| point.starts_with(&folder))
        .collect();
    for point in below.iter().rev() {
        if let Err(errno) = umount2(point, MntFlags::MNT_DETACH) {
            eprintln!("execute-shell: can't unmount {}: {errno}", point.display());
        }
    }
}

/// A path of mountinfo: blanks, tabs, line ends and backslashes are in octal.
fn unescaped(text: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        let code = text.get(at + 1..at + 4).filter(|_| *byte == b'\\');
        let code = code.and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 8).ok());
        out.push(code.unwrap_or(*byte));
        at += if code.is_some() { 4 } else { 1 };
    }
    PathBuf::from(std::ffi::OsStr::from_bytes(&out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::cgroup::Cgroups;

    fn state(name: &str) -> State {
        let folder = std::env::temp_dir().join(format!("distcifs-state-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        State::open(Some(&folder)).unwrap()
    }

    /// What a confined script is shown never belongs to it: it could change modes by a descriptor from outside,
    /// for all tasks after it.
    #[test]
    fn what_a_script_is_shown_is_the_workers() {
        use std::os::unix::fs::MetadataExt;
        let state = state("shown");
        let run = state.begin().unwrap();
        for name in ["script", "start"] {
            run.write(name, b"true\n").unwrap();
        }
        // As a task before it may have left it.
        fs::set_permissions(run.files(), fs::Permissions::from_mode(0o777)).unwrap();
        let gid = nix::unistd::getegid().as_raw();
        run.show_files(gid).unwrap();
        for (name, mode) in [("script", 0o550), ("start", 0o550), ("", 0o750)] {
            let found = fs::metadata(run.files().join(name)).unwrap();
            let is = (found.uid(), found.gid(), found.mode() & 0o7777);
            assert_eq!(is, (geteuid().as_raw(), gid, mode), "{name}");
        }
        drop(run);
        fs::remove_dir_all(&state.folder).unwrap();
    }

    #[test]
    fn a_dead_workers_folder_is_removed_and_a_living_ones_is_not() {
        let state = state("sweep");
        let living = state.begin().unwrap();
        let dead = state.folder.join("runs/dead");
        fs::create_dir_all(dead.join("space/sub")).unwrap();
        fs::write(dead.join("lock"), "").unwrap();
        fs::write(dead.join("groups"), "/nowhere/at-all\n").unwrap();
        fs::set_permissions(dead.join("space"), fs::Permissions::from_mode(0o000)).unwrap();
        let second = state.begin().unwrap();
        assert!(living.files().is_dir() && second.files().is_dir() && !dead.exists());
        drop((living, second));
        assert_eq!(fs::read_dir(state.folder.join("runs")).unwrap().count(), 0);
        fs::remove_dir_all(&state.folder).unwrap();
    }

    /// What a worker leaves that is killed while it tries the control groups, which only root can.
    #[test]
    fn a_group_that_a_dead_worker_tried_is_removed() {
        let state = state("groups");
        let dead = state.folder.join("runs/dead");
        fs::create_dir_all(&dead).unwrap();
        let name = format!("distcifs-test-dead-{}", std::process::id());
        let mut made = Vec::new();
        // Where it is there already it can't be tried, and stays.
        Cgroups::find(&name, |group| {
            made.push(group.to_owned());
            fs::create_dir(group)
        });
        let lines: Vec<u8> = made
            .iter()
            .flat_map(|group| [group.as_os_str().as_bytes(), b"\n"].concat())
            .collect();
        fs::write(dead.join("groups"), lines).unwrap();
        drop(state.begin().unwrap());
        assert!(!dead.exists() && made.iter().all(|group| !group.exists()), "{made:?}");
        assert!(!made.is_empty() || !geteuid().is_root() || !Path::new("/sys/fs/cgroup").exists());
        fs::remove_dir_all(&state.folder).unwrap();
    }

    #[test]
    fn a_run_is_clean_for_the_next_script() {
        let state = state("clean");
        let run = state.begin().unwrap();
        fs::write(run.space().join("x"), "").unwrap();
        fs::write(run.error(), "why").unwrap();
        assert!(run.clean());
        assert!(run.space().is_dir() && !run.space().join("x").exists() && !run.error().exists());
        fs::remove_dir_all(run.files()).unwrap();
        let path = run.write("script", b"echo\n").unwrap();
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
        drop(run);
        fs::remove_dir_all(&state.folder).unwrap();
    }

    #[test]
    fn a_folder_of_somebody_else_is_not_taken() {
        let link = std::env::temp_dir().join(format!("distcifs-state-link-{}", std::process::id()));
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink("/tmp", &link).unwrap();
        assert!(State::open(Some(&link)).is_err());
        fs::remove_file(&link).unwrap();
    }

    #[test]
    fn paths_of_mountinfo() {
        assert_eq!(unescaped(br"/a\040b\134c"), Path::new("/a b\\c"));
        assert_eq!(unescaped(br"/a\9"), Path::new(r"/a\9"));
    }
}
