//! A program that runs as somebody else: this program starts again, becomes that user, and then
//! becomes the other program.
//!
//! Until it is the user it is root, so nothing that a job names may steer it: the variables of the
//! other program come under names that no loader and no library looks at (`LD_PRELOAD` is one that
//! they would), and its folder is entered by the user.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Pid, Uid, getegid, geteuid, getgroups, getppid, setgroups, setresgid, setresuid};

use super::{Account, Whom};
use crate::keys;
use crate::signals;

/// The word that makes a worker's program do this.
const WORD: &str = "--as-user";

/// Stands before the names of the other program's variables meanwhile.
const PREFIX: &str = "DISTCIFS_PASS_";

/// Where programs are looked for if nobody says otherwise.
pub const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables that are the node's and not a user's.
const OF_THE_NODE: [&str; 3] = ["PATH", "LANG", "TZ"];

/// Variables of a worker that no longer hold for another user.
const OF_THE_USER: [&str; 4] = ["HOME", "USER", "LOGNAME", "TMPDIR"];

/// What the status says if the other program could not be started, as shells have it.
const CANT_RUN: u8 = 126;

/// A program that is to run as somebody, built like a [`Command`].
#[derive(Debug)]
pub struct Program {
    whom: Whom,
    program: OsString,
    folder: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    supervised: bool,
}

impl Program {
    pub(super) fn new(whom: &Whom, program: OsString, folder: &Path) -> Self {
        let mut environment: Vec<(OsString, OsString)> = Vec::new();
        environment.push(("PATH".into(), PATH_DEFAULT.into()));
        let mut inherit = |names: &[&str]| {
            let found = names.iter().filter_map(|name| Some((name.into(), env::var_os(name)?)));
            environment.extend(found);
        };
        inherit(&OF_THE_NODE);
        match whom {
            Whom::Myself => inherit(&OF_THE_USER),
            Whom::Other(Account { name, home, .. }) => {
                environment.push(("HOME".into(), home.into()));
                environment.extend(["USER", "LOGNAME"].map(|variable| (variable.into(), name.into())));
            }
        }
        Program {
            whom: whom.clone(),
            program,
            folder: folder.to_owned(),
            arguments: Vec::new(),
            environment,
            supervised: false,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(self, argument: impl Into<OsString>) -> Self {
        self.args([argument.into()])
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<T: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.envs([(name.into(), value.into())])
    }

    /// Sets variables; the last one of a name counts.
    #[must_use]
    pub fn envs<N: Into<OsString>, V: Into<OsString>>(mut self, variables: impl IntoIterator<Item = (N, V)>) -> Self {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        self.environment.extend(variables);
        self
    }

    /// For the worker's own programs: nothing that they start gains rights (no_new_privs), and they
    /// get KILL when the thread that starts them ends. A script may do what its user may, `sudo` too.
    #[must_use]
    pub fn supervised(mut self) -> Self {
        self.supervised = true;
        self
    }

    /// The command, which inherits no descriptors but 0 to 2. Variables set on it beside these are
    /// seen by a process that is root and do not reach the program.
    pub fn command(self) -> Command {
        if self.whom == Whom::Myself && !self.supervised {
            let mut command = Command::new(self.program);
            command
                .args(self.arguments)
                .current_dir(self.folder)
                .env_clear()
                .envs(self.environment);
            return command;
        }
        let (uid, gid, groups) = match &self.whom {
            Whom::Myself => (geteuid(), getegid(), None),
            Whom::Other(account) => (account.uid, account.gid, Some(account.groups.as_slice())),
        };
        let groups = groups.map_or_else(
            || "-".to_owned(),
            |groups| {
                let numbers: Vec<String> = groups.iter().map(ToString::to_string).collect();
                numbers.join(",")
            },
        );
        let mut command = Command::new("/proc/self/exe");
        command
            .arg(WORD)
            .args([uid.to_string(), gid.to_string(), groups])
            .arg(if self.supervised {
                std::process::id().to_string()
            } else {
                "-".to_owned()
            })
            .arg(self.folder)
            .arg(self.program)
            .args(self.arguments)
            .current_dir("/")
            .env_clear()
            .envs(
                self.environment
                    .into_iter()
                    .map(|(name, value)| (prefixed(&name), value)),
            );
        command
    }
}

fn prefixed(name: &OsStr) -> OsString {
    OsString::from_vec([PREFIX.as_bytes(), name.as_bytes()].concat())
}

/// What such a call of this program does, if it is one: it returns only if it failed, with a status.
pub fn main() -> Option<u8> {
    let mut words = env::args_os().skip(1);
    if words.next()? != WORD {
        return None;
    }
    let words: Vec<OsString> = words.collect();
    let error = match Order::read(&words) {
        Some(order) => order.carry_out(),
        None => io::Error::other(format!("{WORD} is for this program itself")),
    };
    let program = words
        .get(5)
        .map_or_else(String::new, |p| p.to_string_lossy().into_owned());
    eprintln!("can't run {program}: {error}");
    Some(CANT_RUN)
}

/// What the words of such a call say.
struct Order<'a> {
    uid: Uid,
    gid: Gid,
    /// None: those of this process.
    groups: Option<Vec<Gid>>,
    /// Whose death ends it.
    parent: Option<Pid>,
    folder: &'a OsStr,
    program: &'a OsStr,
    arguments: &'a [OsString],
}

impl<'a> Order<'a> {
    fn read(words: &'a [OsString]) -> Option<Self> {
        let [uid, gid, groups, parent, folder, program, arguments @ ..] = words else {
            return None;
        };
        let groups = match groups.to_str()? {
            "-" => None,
            list => {
                let numbers: Result<Vec<u32>, _> = list.split(',').map(str::parse).collect();
                Some(numbers.ok()?.into_iter().map(Gid::from_raw).collect())
            }
        };
        let parent = match parent.to_str()? {
            "-" => None,
            pid => Some(Pid::from_raw(pid.parse().ok()?)),
        };
        Some(Order {
            uid: Uid::from_raw(uid.to_str()?.parse().ok()?),
            gid: Gid::from_raw(gid.to_str()?.parse().ok()?),
            groups,
            parent,
            folder,
            program,
            arguments,
        })
    }

    /// Becomes the user and then the program; returns only to say why not.
    fn carry_out(&self) -> io::Error {
        match self.turn() {
            Err(error) => error,
            Ok(()) => Command::new(self.program)
                .args(self.arguments)
                .env_clear()
                .envs(passed(env::vars_os()))
                .exec(),
        }
    }

    fn turn(&self) -> io::Result<()> {
        signals::seal_descriptors()?;
        if let Some(groups) = &self.groups {
            keys::forget()?;
            setgroups(groups)?;
            setresgid(self.gid, self.gid, self.gid)?;
            setresuid(self.uid, self.uid, self.uid)?;
            self.check(groups)?;
        }
        nix::unistd::chdir(self.folder)
            .map_err(|errno| io::Error::other(format!("{}: {errno}", self.folder.to_string_lossy())))?;
        if let Some(parent) = self.parent {
            prctl::set_no_new_privs()?;
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            // It may have died before the kernel was asked to tell.
            if getppid() != parent {
                return Err(io::Error::other("the worker is gone"));
            }
        }
        Ok(())
    }

    /// That nothing of root is left: more is at stake than a call that says it did its work.
    fn check(&self, wanted: &[Gid]) -> io::Result<()> {
        let (uids, gids) = (nix::unistd::getresuid()?, nix::unistd::getresgid()?);
        let groups = getgroups()?;
        let same = [uids.real, uids.effective, uids.saved] == [self.uid; 3]
            && [gids.real, gids.effective, gids.saved] == [self.gid; 3]
            && groups.iter().all(|group| wanted.contains(group));
        let back = !self.uid.is_root() && nix::unistd::setuid(Uid::from_raw(0)).is_ok();
        if same && !back {
            Ok(())
        } else {
            Err(io::Error::other("it did not become the user that it is to be"))
        }
    }
}

/// The variables of the other program under their own names.
fn passed(variables: impl Iterator<Item = (OsString, OsString)>) -> impl Iterator<Item = (OsString, OsString)> {
    variables.filter_map(|(name, value)| {
        let name = name.as_bytes().strip_prefix(PREFIX.as_bytes())?;
        Some((OsStr::from_bytes(name).to_owned(), value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Whom {
        Whom::Other(Account {
            name: "daemon".to_owned(),
            uid: Uid::from_raw(1),
            gid: Gid::from_raw(2),
            groups: vec![Gid::from_raw(2), Gid::from_raw(3)],
            home: "/usr/sbin".into(),
        })
    }

    /// While it is root, no variable of a job's is one that a loader or a library looks at.
    #[test]
    fn variables_pass_under_other_names_and_arrive_under_their_own() {
        let command = account()
            .program("/bin/true", Path::new("/tmp"))
            .env("LD_PRELOAD", "/evil.so")
            .env("A", "1")
            .env("A", "2")
            .command();
        let seen: Vec<(OsString, OsString)> = command
            .get_envs()
            .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
            .collect();
        assert!(
            seen.iter()
                .all(|(name, _)| name.as_bytes().starts_with(PREFIX.as_bytes()))
        );
        let arrived: std::collections::HashMap<OsString, OsString> = passed(seen.into_iter()).collect();
        for (name, value) in [
            ("LD_PRELOAD", "/evil.so"),
            ("A", "2"),
            ("HOME", "/usr/sbin"),
            ("USER", "daemon"),
        ] {
            assert_eq!(arrived[OsStr::new(name)], value);
        }
    }

    #[test]
    fn an_order_is_read_as_it_was_given() {
        let command = account()
            .program("sh", Path::new("/f"))
            .args(["-c", "x"])
            .supervised()
            .command();
        let words: Vec<OsString> = command.get_args().skip(1).map(OsStr::to_owned).collect();
        let order = Order::read(&words).unwrap();
        assert_eq!((order.uid.as_raw(), order.gid.as_raw()), (1, 2));
        assert_eq!(order.groups.unwrap().len(), 2);
        assert_eq!(order.parent.unwrap(), nix::unistd::getpid());
        assert_eq!(
            (order.folder, order.program, order.arguments.len()),
            (OsStr::new("/f"), OsStr::new("sh"), 2)
        );
        assert!(Order::read(&words[..5]).is_none());
        assert!(Order::read(&["x", "1", "-", "-", "/", "sh"].map(OsString::from)).is_none());
    }

    /// Who is himself and gives no right away needs nobody between.
    #[test]
    fn a_script_of_the_workers_own_user_is_started_as_it_is() {
        let command = Whom::Myself.program("/bin/sh", Path::new("/tmp")).arg("-e").command();
        assert_eq!(
            (command.get_program(), command.get_current_dir()),
            (OsStr::new("/bin/sh"), Some(Path::new("/tmp")))
        );
        let supervised = Whom::Myself
            .program("/bin/sh", Path::new("/tmp"))
            .supervised()
            .command();
        assert_eq!(supervised.get_args().next(), Some(OsStr::new(WORD)));
    }
}
