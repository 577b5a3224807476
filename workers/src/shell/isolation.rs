//! Environments: programs that keep a script apart from its node (doc/environments.md).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use distcifs_settings::task::Limits;
use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, geteuid, getpid, getppid, setsid};

use super::confine::{self, Confine};
use super::environment::PATH_DEFAULT;
use super::idmap;
use super::ranges::Ids;
use super::state::Run;
use crate::aside;
use crate::identity::Whom;
use crate::keys;

/// The environment of a script that asks for none.
pub const NONE: &str = "none";

/// The environment that is a machine: no descriptor leads into it.
const MACHINE: &str = "vm";

/// What an environment is told to do with a script.
const RUN: &str = "run";

/// What it is asked whether it can have, and what it says then.
const CLOSED: &str = "closed";

/// The label by which the tickets of strangers' builds are asked for, and that for those which want a network.
const UNTRUSTED: [&str; 2] = [crate::ticket::UNTRUSTED, "untrusted.network"];

/// Our environments that hold a stranger, whatever his job says of it.
const HOLDING: [&str; 3] = ["namespace", "lxc", "vm"];

/// Where a node's owner puts environments of his own; what stands there goes before ours.
const OWN_FOLDER: &str = "/etc/distcifs/isolate";

/// How long environments may take to say whether they work here.
const CHECK_MAX: Duration = Duration::from_secs(20);

/// Longest reason that is taken from an environment, bytes.
const REASON_BYTES_MAX: u64 = 4096;

/// The environments that this worker offers, by name.
#[derive(Debug, Default)]
pub struct Isolations {
    programs: BTreeMap<String, PathBuf>,
    /// Where those lie that come with the worker.
    ours: Vec<PathBuf>,
    /// Whether ours can have the closed network.
    closes: bool,
}

/// What a script can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Itself.
    None,
    /// What the node reaches.
    Node,
    /// The world without the node and its surroundings: for what strangers wrote.
    Closed,
}

impl Network {
    fn word(self) -> &'static str {
        match self {
            Network::None => "",
            Network::Node => "true",
            Network::Closed => CLOSED,
        }
    }
}

impl Isolations {
    /// Those that are wanted, or without a wish all that work here.
    ///
    /// # Errors
    /// For people: a wanted one is not there, or does not work here.
    pub fn find(chosen: &[PathBuf], wanted: &[String], tools: &Tools<'_>) -> Result<Self, String> {
        let folders = folders(chosen, std::env::current_exe().ok().as_deref());
        let looked = || {
            let names: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
            names.join(", ")
        };
        let mut programs = BTreeMap::new();
        for name in wanted {
            let path = folders
                .iter()
                .map(|folder| folder.join(name))
                .find(|path| is_program(path));
            let path = path.ok_or_else(|| format!("isolation {name}: no program of this name in {}", looked()))?;
            programs.insert(name.clone(), path);
        }
        if wanted.is_empty() {
            for folder in folders.iter().rev() {
                let names = fs::read_dir(folder).into_iter().flatten().flatten();
                let names = names.filter(|entry| is_program(&entry.path()));
                programs.extend(names.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path()))));
            }
        }
        let refused = check(&programs, tools);
        if let Some((name, why)) = refused.iter().find(|_| !wanted.is_empty()) {
            return Err(format!("isolation {name} does not work here: {why}"));
        }
        programs.retain(|name, _| !refused.contains_key(name));
        if programs.is_empty() {
            // It would take tickets and have no way to run them.
            return Err(format!(
                "no isolation works here, not even none; looked in {}",
                looked()
            ));
        }
        let ours = folders.into_iter().skip(chosen.len() + 1).collect();
        let mut found = Isolations {
            programs,
            ours,
            closes: false,
        };
        found.closes = found.can_close(tools);
        if let Some(path) = found.impostor() {
            eprintln!(
                "execute-shell: no scripts of strangers are run here, as {} is none of distcifs's: give it another name, \
                 and have untrusted_types of the jobs name it that it holds a stranger for",
                path.display()
            );
        }
        Ok(found)
    }

    /// The labels by which tickets are asked for. Whoever runs nothing but scripts without an environment takes none of
    /// strangers, nor does one whose own program is called as one of ours: nobody said that it holds a stranger. Nor does
    /// who has no ids for them but his own (`own_ids`: he has some), unless he runs them in machines alone.
    pub fn labels(&self, own_ids: bool) -> impl Iterator<Item = String> {
        let [untrusted, network] = UNTRUSTED.map(str::to_owned);
        let names = self.programs.keys().map(String::as_str);
        let apart = keeps_apart(names, own_ids) && self.impostor().is_none();
        let named = self.programs.keys().map(|name| format!("isolation.{name}"));
        named
            .chain(apart.then_some(untrusted))
            .chain((apart && self.closes).then_some(network))
    }

    /// An environment of the user's own that a stranger's build could take for ours.
    fn impostor(&self) -> Option<&Path> {
        let ours = |path: &PathBuf| self.ours.iter().any(|folder| path.parent() == Some(folder));
        let known = HOLDING.iter().filter_map(|name| self.programs.get(*name));
        known.map(PathBuf::as_path).find(|path| !ours(&path.to_path_buf()))
    }

    /// Tries whether our environments can have the closed network, which is the same for all of them.
    fn can_close(&self, tools: &Tools<'_>) -> bool {
        let ours = |path: &&PathBuf| self.ours.iter().any(|folder| path.parent() == Some(folder));
        let apart = self.programs.iter().filter(|(name, _)| *name != NONE);
        let Some(program) = apart.map(|(_, path)| path).find(ours) else {
            return false;
        };
        let why = match tools.ask(program, CLOSED) {
            Ok(child) => match answer(child, Instant::now() + CHECK_MAX) {
                Ok(said) if said.trim() == CLOSED => return true,
                Ok(_) => "it does not say that it can".to_owned(),
                Err(why) => why,
            },
            Err(error) => error.to_string(),
        };
        eprintln!("execute-shell: scripts of strangers get no network here: {why}");
        false
    }

    /// Whether this is our own program for scripts that ask for no environment: it does nothing that
    /// the worker can't do without it.
    pub fn is_nothing(&self, program: &Path) -> bool {
        self.ours.iter().any(|folder| folder.join(NONE) == program)
    }

    /// The program of an environment.
    ///
    /// # Errors
    /// For people: what there is instead.
    pub fn program(&self, name: &str) -> Result<&Path, String> {
        self.programs.get(name).map(PathBuf::as_path).ok_or_else(|| {
            let known: Vec<&str> = self.programs.keys().map(String::as_str).collect();
            format!(
                "isolation '{name}' is not available on this worker, only {}",
                known.join(", ")
            )
        })
    }
}

/// The folders that are looked through, in order.
fn folders(chosen: &[PathBuf], program: Option<&Path>) -> Vec<PathBuf> {
    let absolute = |folder: &PathBuf| std::path::absolute(folder).unwrap_or_else(|_| folder.clone());
    let mut folders: Vec<PathBuf> = chosen.iter().map(absolute).collect();
    folders.push(OWN_FOLDER.into());
    let beside = program.and_then(Path::parent);
    folders.extend(beside.map(|folder| folder.join("isolate")));
    folders.extend(
        beside
            .and_then(Path::parent)
            .map(|above| above.join("lib/distcifs/isolate")),
    );
    let project = beside.and_then(Path::parent).and_then(Path::parent);
    folders.extend(project.map(|above| above.join("workers/isolate")));
    folders
}

/// Whether it can be started, and its name can be a label.
fn is_program(path: &Path) -> bool {
    let plain = |name: &str| {
        name.bytes()
            .enumerate()
            .all(|(at, b)| b.is_ascii_alphanumeric() || b == b'_' || (at > 0 && matches!(b, b'.' | b'-')))
    };
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let executable = |meta: fs::Metadata| meta.is_file() && meta.permissions().mode() & 0o111 != 0;
    !name.is_empty() && name.len() <= 64 && plain(name) && path.metadata().is_ok_and(executable)
}

/// What environments need of their worker, the same for all scripts.
#[derive(Debug, Clone, Copy)]
pub struct Tools<'a> {
    /// Whose ids an environment has.
    pub ids: Option<Ids>,
    /// Where they may keep what is of use again.
    pub cache: &'a Path,
    /// Begins the names of the files that say which system calls a script can't make; none if this
    /// processor has no such filter.
    pub filter: Option<&'a Path>,
    /// Whether images are shown with the ids of each task; else they are unpacked with them.
    pub idmap: bool,
    /// What stands before a script that must take nothing from outside; none if this kernel has no Landlock.
    pub confine: Option<&'a Confine>,
    /// Whether scripts are to be isolated without it.
    pub without_landlock: bool,
}

impl Tools<'_> {
    /// A call of an environment, with nothing of the worker's own variables but PATH: none that a
    /// job names may ever come near it.
    fn command(&self, program: &Path, verb: &str) -> Command {
        let mut command = Command::new(program);
        command.arg(verb);
        self.surround(command)
    }

    /// Starts it with a question.
    fn ask(&self, program: &Path, verb: &str) -> io::Result<Child> {
        let mut command = self.command(program, verb);
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
    }

    /// The same of an environment that sees this image.
    fn command_of_image(&self, program: &Path, image: &Path) -> Command {
        let Some(ids) = self.ids.filter(|_| self.idmap) else {
            return self.command(program, RUN);
        };
        let mut command = idmap::shown_to(program, image, ids);
        command.arg(RUN);
        self.surround(command)
    }

    /// The name of the program that stands before a script.
    fn confinement(&self) -> &'static str {
        match self.confine {
            Some(_) => confine::NAME,
            None if self.without_landlock => "none",
            None => "",
        }
    }

    fn surround(&self, mut command: Command) -> Command {
        let path = std::env::var_os("PATH").unwrap_or_else(|| PATH_DEFAULT.into());
        command
            .env_clear()
            .env("PATH", path)
            .env("LC_ALL", "C.UTF-8")
            .env("ISOLATE_CACHE", self.cache)
            .env("ISOLATE_SECCOMP", self.filter.unwrap_or(Path::new("")))
            .env("ISOLATE_CONFINE", self.confinement())
            .current_dir("/")
            .stdin(Stdio::null());
        if let Some(ids) = self.ids {
            command
                .env("ISOLATE_UID", ids.uid.to_string())
                .env("ISOLATE_GID", ids.gid.to_string());
        }
        command
    }
}

/// Asks all whether they work here, side by side; who does not, with the reason.
fn check(programs: &BTreeMap<String, PathBuf>, tools: &Tools<'_>) -> BTreeMap<String, String> {
    let start = |program: &PathBuf| tools.ask(program, "check");
    let started: Vec<_> = programs.iter().map(|(name, program)| (name, start(program))).collect();
    let bound = Instant::now() + CHECK_MAX;
    let verdict = |(name, child): (&String, io::Result<Child>)| {
        let why = match child {
            Ok(child) => answer(child, bound).err()?,
            Err(error) => error.to_string(),
        };
        Some((name.clone(), why))
    };
    started.into_iter().filter_map(verdict).collect()
}

/// What it says on its standard output; else why it says no.
fn answer(mut child: Child, bound: Instant) -> Result<String, String> {
    let group = Pid::from_raw(child.id().cast_signed());
    let Some(status) = aside::ended(&mut child, bound).map_err(|e| e.to_string())? else {
        let _ = killpg(group, Signal::SIGKILL);
        let _ = child.wait();
        return Err(format!("its check did not end within {CHECK_MAX:?}"));
    };
    // What it left would hold up the end of its words.
    let _ = killpg(group, Signal::SIGKILL);
    if status.success() {
        return Ok(said(child.stdout.take()));
    }
    let said = said(child.stderr.take());
    let line = said.lines().map(str::trim).rfind(|line| !line.is_empty());
    Err(line.map_or_else(|| status.to_string(), str::to_owned))
}

/// The beginning of what a program said that has ended.
fn said(stream: Option<impl Read>) -> String {
    let mut said = String::new();
    if let Some(stream) = stream {
        // Nobody to tell that it can't be read.
        let _ = stream.take(REASON_BYTES_MAX).read_to_string(&mut said);
    }
    said
}

/// What one script is run with.
#[derive(Debug)]
pub struct Call<'a> {
    /// The environment's program.
    pub program: &'a Path,
    /// Whether the script is kept apart at all.
    pub isolated: bool,
    /// The claimant's folders.
    pub workspace: &'a Path,
    /// The claimant's folder for artifacts.
    pub artifacts: &'a Path,
    /// What the tasks that this one waits for published; none for a ticket that is of no task.
    pub needs: Option<&'a Path>,
    /// An unpacked root file system.
    pub root: Option<&'a Path>,
    /// What the job names.
    pub limits: Limits,
    /// How many processes there may be.
    pub processes: Option<u64>,
    /// The file with that bound.
    pub pids_max: Option<&'a Path>,
    /// What it reaches.
    pub network: Network,
}

impl Call<'_> {
    /// The command for it.
    pub fn command(&self, run: &Run, tools: &Tools<'_>) -> Command {
        let mut command = match self.root {
            Some(image) => tools.command_of_image(self.program, image),
            None => tools.command(self.program, RUN),
        };
        command.envs(self.variables(run));
        command
    }

    /// The same as whoever the script is to be, where it is not kept apart.
    pub fn command_as(&self, whom: &Whom, run: &Run) -> Command {
        let program = whom.program(self.program, Path::new("/")).arg(RUN);
        program.envs(self.variables(run)).command()
    }

    /// What it is told.
    fn variables(&self, run: &Run) -> [(&'static str, OsString); 14] {
        let number = |value: Option<u64>| value.map(|n| n.to_string()).unwrap_or_default().into();
        let path = |path: Option<&Path>| path.map(OsString::from).unwrap_or_default();
        [
            ("ISOLATE_NAME", run.name().into()),
            ("ISOLATE_FILES", run.files().into()),
            ("ISOLATE_SPACE", run.space().into()),
            ("ISOLATE_ERROR", run.error().into()),
            ("ISOLATE_WORKSPACE", self.workspace.into()),
            ("ISOLATE_ARTIFACTS", self.artifacts.into()),
            ("ISOLATE_NEEDS", path(self.needs)),
            ("ISOLATE_ROOT", path(self.root)),
            ("ISOLATE_NETWORK", self.network.word().into()),
            ("ISOLATE_MEMORY", number(self.limits.memory)),
            ("ISOLATE_DISK", number(self.limits.disk)),
            ("ISOLATE_PROCESSES", number(self.processes)),
            ("ISOLATE_PIDS_MAX", path(self.pids_max)),
            (
                "ISOLATE_CPUS",
                self.limits.cpus.map(|n| n.to_string()).unwrap_or_default().into(),
            ),
        ]
    }
}

/// Makes a command ready: without input, in a session of its own, and what it starts in the control
/// groups behind these doors.
pub fn begin(mut command: Command, doors: Vec<File>, isolated: bool) -> Command {
    command.stdin(Stdio::null());
    enter(&mut command, doors, isolated);
    command
}

/// Has the command's process begin a session and enter its control groups before it begins. What isolates ends with the
/// worker, knows none of its keys and, if that is root, has a mount namespace of its own: its mounts
/// end with its last process.
#[expect(
    unsafe_code,
    reason = "between fork and exec there is no other way to do this in time"
)]
fn enter(command: &mut Command, doors: Vec<File>, isolated: bool) {
    let own_mounts = isolated && geteuid().is_root();
    let worker = getpid();
    let prepare = move || {
        // Its group has the number of the process too.
        setsid()?;
        for mut door in &doors {
            // 0 is whoever writes it.
            door.write_all(b"0")?;
        }
        if isolated {
            set_pdeathsig(Signal::SIGKILL)?;
            if getppid() != worker {
                // It died before: nobody is told of that any more.
                return Err(Errno::ESRCH.into());
            }
            keys::forget()?;
        }
        if own_mounts {
            let (root, none) = (c"/".as_ptr(), std::ptr::null());
            // SAFETY: the one string lives for ever; the others may be absent.
            let done = unsafe {
                libc::unshare(libc::CLONE_NEWNS) == 0
                    && libc::mount(none, root, none, libc::MS_REC | libc::MS_PRIVATE, std::ptr::null()) == 0
            };
            if !done {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: system calls only, which are safe after a fork; nothing is allocated.
    unsafe { command.pre_exec(prepare) };
}

/// Whether these isolations keep a stranger's script from what the worker's user owns: somebody on the node may hand it
/// a descriptor of that, and Landlock has no say in modes and owners. No descriptor leads into a machine.
fn keeps_apart<'a>(isolations: impl Iterator<Item = &'a str>, own_ids: bool) -> bool {
    let mut names = isolations.filter(|name| *name != NONE).peekable();
    names.peek().is_some() && names.all(|name| own_ids || name == MACHINE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environments_are_asked_whether_they_work() {
        let folder = std::env::temp_dir().join(format!("distcifs-isolate-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        for (name, program) in [
            ("good", "/bin/true"),
            ("none", "/bin/true"),
            ("bad", "/bin/date"),
            ("plain.txt", "/etc/passwd"),
            ("vm", "/bin/true"),
        ] {
            std::os::unix::fs::symlink(program, folder.join(name)).unwrap();
        }
        let tools = Tools {
            ids: None,
            cache: &folder,
            filter: None,
            idmap: false,
            confine: None,
            without_landlock: false,
        };
        let find = |wanted: &[&str]| {
            let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
            Isolations::find(std::slice::from_ref(&folder), &wanted, &tools)
        };
        let all = find(&[]).unwrap();
        assert!(all.program("good").is_ok());
        assert!(all.program("bad").unwrap_err().contains("'bad' is not available"));
        assert!(all.program("plain.txt").is_err());
        // Somebody's own is called, whatever it is called.
        assert!(!all.is_nothing(all.program(NONE).unwrap()));
        assert_eq!(
            find(&["good"]).unwrap().labels(true).collect::<Vec<_>>(),
            ["isolation.good", "untrusted"]
        );
        // "One that is called namespace, lxc or vm and is not ours is given to no stranger", nor is anything beside it.
        let labels: Vec<_> = find(&["good", "vm"]).unwrap().labels(true).collect();
        assert_eq!(labels, ["isolation.good", "isolation.vm"]);
        // "A worker that is not root takes no scripts of strangers": what a friend hands them would be its user's.
        let labels: Vec<_> = find(&["good"]).unwrap().labels(false).collect();
        assert_eq!(labels, ["isolation.good"]);
        assert!(keeps_apart([NONE, MACHINE].into_iter(), false) && keeps_apart(["namespace"].into_iter(), true));
        assert!(!keeps_apart([MACHINE, "namespace"].into_iter(), false) && !keeps_apart([NONE].into_iter(), true));
        // Not ours, so nobody knows what network it makes; and without an environment nothing of strangers is run.
        let labels: Vec<_> = find(&["none"]).unwrap().labels(true).collect();
        assert_eq!(labels, ["isolation.none"]);
        // What it says last is the reason: here that the verb that it was asked with is no date, wherever the test runs.
        let why = find(&["bad"]).unwrap_err();
        assert!(
            why.starts_with("isolation bad does not work here: ") && why.contains("check") && why.contains("date"),
            "{why}"
        );
        assert!(find(&["../good"]).unwrap_err().contains("no program"));
        for name in ["good", "none", "vm"] {
            fs::remove_file(folder.join(name)).unwrap();
        }
        assert!(find(&[]).unwrap_err().contains("no isolation works here"));
        fs::remove_dir_all(&folder).unwrap();
    }
}
