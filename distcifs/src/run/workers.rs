//! The workers' programs: which, where, and how one is kept alive.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use super::Failure;
use super::mount::program;

/// The worker that does nobody's tasks.
const CONTROL: &str = "build-control";

/// Workers that do the tasks of jobs, as the owners of these, whatever labels this machine has.
const OF_TASKS: [&str; 3] = ["git-checkout", "publish-artifacts", "copy-artifacts"];

/// Tells a worker whom jobs of root run as.
const JOBS_OF_ROOT: &str = "DISTCIFS_AS";

/// The worker that has this machine's labels.
const SHELL: &str = "execute-shell";

/// The program that shows a mount to browsers.
const WEB: &str = "web";

/// Pause before a worker that died is started again: at first, and at most.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// A worker that lived that long has shown that it can: its pause begins anew.
const PROVEN_AFTER: Duration = Duration::from_secs(60);

/// A worker's command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// Its name, for messages.
    pub(super) name: String,
    /// Program and arguments.
    pub(super) line: Vec<OsString>,
    /// Whom it is to work as for jobs of root.
    jobs_of_root: Option<String>,
}

/// The workers of a mount: so many of each kind, those of tasks with these labels, and the programs
/// of the lines in `with`. `only:` keeps the shells alone for tickets of a label. All learn whom jobs of root run as: ours by an option, others by a variable.
pub(super) fn plans(
    folders: &[PathBuf],
    mountpoint: &Path,
    number: usize,
    words: &[String],
    with: &[String],
    jobs_of_root: Option<&str>,
) -> Result<Vec<Plan>, String> {
    let plan = |name: &str, arguments: &[&str]| -> Result<Plan, String> {
        let mut line = vec![find(folders, name)?.into_os_string(), mountpoint.into()];
        line.extend(arguments.iter().map(OsString::from));
        Ok(Plan {
            name: name.to_owned(),
            line,
            jobs_of_root: jobs_of_root.map(str::to_owned),
        })
    };
    let user = jobs_of_root.map(|user| format!("--as={user}"));
    let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
    words.extend(user.as_deref());
    let of_tasks: Vec<&str> = words.iter().filter_map(|word| of_any_task(word)).collect();
    let of_tasks = OF_TASKS.into_iter().map(|name| (name, of_tasks.as_slice()));
    let kinds = std::iter::once((CONTROL, [].as_slice())).chain(of_tasks);
    let kinds = kinds.chain([(SHELL, words.as_slice())]);
    let usual = kinds.flat_map(|(name, words)| (0..number).map(move |_| (name, words)));
    let usual = usual.map(|(name, words)| plan(name, words));
    let further = with.iter().map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [name, arguments @ ..] if !name.contains('/') => plan(name, arguments),
            _ => Err(format!(
                "--with {line:?} must begin with the name of a program, without a folder"
            )),
        }
    });
    usual.chain(further).collect()
}

/// The program that shows a mount to browsers; `token` is the file of what they must know.
pub(super) fn web(
    folders: &[PathBuf],
    mountpoint: &Path,
    address: std::net::SocketAddr,
    token: Option<&Path>,
) -> Result<Plan, String> {
    let mut line = vec![find(folders, WEB)?.into_os_string(), mountpoint.into()];
    line.extend(["--listen".into(), address.to_string().into()]);
    if let Some(token) = token {
        line.extend(["--token-file".into(), token.into()]);
    }
    Ok(Plan {
        name: WEB.to_owned(),
        line,
        jobs_of_root: None,
    })
}

/// What a worker of tasks that are no scripts is told of this word for the shells: labels add to what it
/// takes, and never keep it from anything.
fn of_any_task(word: &str) -> Option<&str> {
    let word = word.strip_prefix("only:").unwrap_or(word);
    (!word.starts_with("isolation.") && !word.starts_with("--isolation")).then_some(word)
}

/// Where a worker's program is.
fn find(folders: &[PathBuf], name: &str) -> Result<PathBuf, String> {
    let found = folders
        .iter()
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    found.ok_or_else(|| {
        let looked: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
        format!(
            "the worker {name} is not in {}; say where with --workers-dir DIR",
            looked.join(", ")
        )
    })
}

/// The folders that are looked through, in order.
pub(super) fn folders(chosen: Option<&Path>, variable: Option<OsString>, program: &Path) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = Vec::new();
    folders.extend(chosen.map(|folder| std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned())));
    folders.extend(
        variable
            .iter()
            .flat_map(std::env::split_paths)
            .filter(|path| path.is_absolute()),
    );
    if let Some(beside) = program.parent() {
        folders.push(beside.to_owned());
        folders.extend(beside.parent().map(|above| above.join("lib/distcifs")));
        folders.extend(
            beside
                .parent()
                .and_then(Path::parent)
                .map(|above| above.join("workers")),
        );
    }
    folders
}

/// A worker, alive or waiting for its next life.
pub(super) struct Worker {
    plan: Plan,
    life: Life,
    pause: Duration,
}

enum Life {
    Running { child: Child, since: Instant },
    Waiting { until: Instant },
}

impl Worker {
    /// To be started at the next [`Worker::tend`].
    pub(super) fn new(plan: Plan) -> Self {
        Worker {
            plan,
            life: Life::Waiting { until: Instant::now() },
            pause: PAUSE_MIN,
        }
    }

    /// Starts it if it is time; notices its death. Gives the moment of its next start, if any.
    pub(super) fn tend(&mut self) -> Option<Instant> {
        match &mut self.life {
            Life::Running { child, since } => {
                let status = reap(child)?;
                if since.elapsed() >= PROVEN_AFTER {
                    self.pause = PAUSE_MIN;
                }
                eprintln!(
                    "distcifs: {} ended ({status}); again in {:?}",
                    self.plan.name, self.pause
                );
                self.wait();
            }
            Life::Waiting { until } if *until > Instant::now() => {}
            Life::Waiting { .. } => match supervised(&self.plan.line).and_then(|mut command| {
                command.envs(self.plan.jobs_of_root.iter().map(|user| (JOBS_OF_ROOT, user)));
                command
                    .stdin(Stdio::null())
                    .spawn()
                    .map_err(|error| Failure::Refused(error.to_string()))
            }) {
                Ok(child) => {
                    self.life = Life::Running {
                        child,
                        since: Instant::now(),
                    }
                }
                Err(error) => {
                    eprintln!(
                        "distcifs: {} can't be started: {error}; again in {:?}",
                        self.plan.name, self.pause
                    );
                    self.wait();
                }
            },
        }
        match self.life {
            Life::Waiting { until } => Some(until),
            Life::Running { .. } => None,
        }
    }

    /// Sets the next start, and doubles the pause after it.
    fn wait(&mut self) {
        self.life = Life::Waiting {
            until: Instant::now() + self.pause,
        };
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    /// Asks it to end; its own programs are its own affair.
    pub(super) fn ask_to_end(&self) {
        if let Life::Running { child, .. } = &self.life {
            // It may have ended by itself.
            kill(pid(child), Signal::SIGTERM).ok();
        }
    }

    /// Whether it still runs; notices its death.
    pub(super) fn runs(&mut self) -> bool {
        let Life::Running { child, .. } = &mut self.life else {
            return false;
        };
        if reap(child).is_none() {
            return true;
        }
        self.life = Life::Waiting { until: Instant::now() };
        false
    }

    /// Ends it and all that it started.
    pub(super) fn kill(&mut self) {
        if let Life::Running { child, .. } = &mut self.life {
            killpg(pid(child), Signal::SIGKILL).ok();
            child.wait().ok();
        }
    }
}

/// A command that runs in a session of its own and gets TERM when this process dies.
pub(super) fn supervised(line: &[OsString]) -> Result<std::process::Command, Failure> {
    let mut command = program()?;
    command
        .arg("supervised")
        .arg(std::process::id().to_string())
        .arg("--")
        .args(line);
    Ok(command)
}

/// The id of a child, which is also that of its session and group.
pub(super) fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

/// If a child has ended: ends what it left behind in its group, and says how it ended.
pub(super) fn reap(child: &mut Child) -> Option<String> {
    // While the dead child is not taken from the kernel's table nobody else can have its id.
    let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    if matches!(waitid(Id::Pid(pid(child)), peek), Ok(WaitStatus::StillAlive)) {
        return None;
    }
    killpg(pid(child), Signal::SIGKILL).ok();
    Some(
        child
            .wait()
            .map_or_else(|error| error.to_string(), |status| status.to_string()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folders_stand_in_the_documented_order() {
        let variable = Some(OsString::from("/v1:/v2:relative"));
        let program = Path::new("/usr/local/bin/distcifs");
        let found = folders(Some(Path::new("/chosen")), variable, program);
        let expected = [
            "/chosen",
            "/v1",
            "/v2",
            "/usr/local/bin",
            "/usr/local/lib/distcifs",
            "/usr/workers",
        ];
        assert_eq!(found, expected.map(PathBuf::from));
    }

    #[test]
    fn a_missing_worker_is_named_with_where_it_was_looked_for() {
        let dir = tempfile::tempdir().unwrap();
        let error = plans(&[dir.path().into()], Path::new("/ci"), 1, &[], &[], None).unwrap_err();
        assert!(
            error.contains("build-control") && error.contains(&dir.path().display().to_string()),
            "{error}"
        );
    }

    #[test]
    fn so_many_of_each_and_the_shells_with_labels() {
        let dir = tempfile::tempdir().unwrap();
        for name in OF_TASKS.into_iter().chain([CONTROL, SHELL]) {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let plans = plans(
            &[dir.path().into()],
            Path::new("/ci"),
            3,
            &[
                "linux".into(),
                "only:gpu".into(),
                "isolation.vm".into(),
                "--isolation=vm".into(),
            ],
            &[],
            Some("distci"),
        )
        .unwrap();
        assert_eq!(plans.len(), 15);
        let last = &plans.last().unwrap().line;
        let expected = [
            "/ci",
            "linux",
            "only:gpu",
            "isolation.vm",
            "--isolation=vm",
            "--as=distci",
        ];
        assert_eq!(last[1..], expected.map(OsString::from));
        assert!(
            plans[..3].iter().all(|plan| plan.line.len() == 2),
            "it does nobody's tasks"
        );
        // "Those of the other tasks have the labels too, and take what needs none."
        let others = ["linux", "gpu", "--as=distci"];
        assert!(plans[3..12].iter().all(|plan| plan.line[2..] == others));
    }

    #[test]
    fn further_programs_get_their_arguments_after_the_mount_point() {
        let dir = tempfile::tempdir().unwrap();
        for name in OF_TASKS.into_iter().chain([CONTROL, SHELL, "lint"]) {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let with = |line: &str| plans(&[dir.path().into()], Path::new("/ci"), 1, &[], &[line.into()], None);
        let plans = with("lint  linux --fast").unwrap();
        let last = plans.last().unwrap();
        assert_eq!((last.name.as_str(), plans.len()), ("lint", 6));
        assert_eq!(last.line[1..], ["/ci", "linux", "--fast"].map(OsString::from));
        assert!(with("absent").unwrap_err().contains("absent is not in"));
        assert!(with("").unwrap_err().contains("must begin with the name"));
        assert!(with("../lint").is_err());
    }
}
