//! Calls of git that nothing in a workspace or on the node can turn into something else.
//!
//! Of all configurations only what stands here counts: those of the node and of its users are not
//! read, the repository's own was made a moment before, and none of its hooks, filters, attributes or
//! helpers is known. Git runs as this process's user in a folder that is held open.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, pipe};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use super::address::{Address, Login, Way};
use super::bounds;
use crate::beneath::Folder;
use crate::task::OF_THE_NODE;
use crate::task::desk::say;
use crate::tree::{self, Trouble};

/// Variables that git gets from this process beside those of the node.
const OF_THE_USER: [&str; 7] = ["PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TZ", "XDG_RUNTIME_DIR"];

/// How ssh is called if the administrator does not say otherwise. A connection that is kept for others
/// would outlive the task.
const SSH: &str = "ssh -o BatchMode=yes -o ControlMaster=no -o ControlPath=none -o ConnectTimeout=30 \
    -o ServerAliveInterval=15 -o ServerAliveCountMax=4";

/// Settings of each call. Whatever git is told elsewhere, these win.
const SETTINGS: [(&str, &str); 20] = [
    ("core.hooksPath", "/dev/null"),
    ("core.attributesFile", "/dev/null"),
    ("core.excludesFile", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.untrackedCache", "false"),
    ("core.askPass", ""),
    // In front of what follows: no helper but ours is asked.
    ("credential.helper", ""),
    ("submodule.recurse", "false"),
    ("fetch.recurseSubmodules", "false"),
    ("diff.ignoreSubmodules", "all"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("protocol.allow", "never"),
    // Nobody but the administrator of the job says which server is asked.
    ("http.followRedirects", "false"),
    ("transfer.bundleURI", "false"),
    ("transfer.credentialsInUrl", "die"),
    // A server that sends less than 1 KB in a second for a minute is given up.
    ("http.lowSpeedLimit", "1000"),
    ("http.lowSpeedTime", "60"),
    ("init.defaultBranch", "master"),
    ("advice.detachedHead", "false"),
];

/// Tells git user and password when it asks; they stand in its environment, which only this user and
/// root can read.
const HELPER: &str = "!f() { test \"$1\" = get && \
    printf 'username=%s\\npassword=%s\\n' \"$DISTCIFS_GIT_USER\" \"$DISTCIFS_GIT_PASSWORD\"; }; f";

/// How upload-pack is called for a repository of this node that may be another user's: it is read with
/// the rights of this one. Nothing that such a repository's configuration names is run by it.
const UPLOAD_PACK: &str = "git -c 'safe.directory=*' upload-pack";

/// Longest line of git that is shown, bytes; what is beyond is left out.
const LINE_BYTES_MAX: u64 = 16 << 10;

/// Lines of git that are looked at when it failed.
const LINES_HEARD: usize = 12;

/// How long what git started may hold its output open after git's own end.
const DRAIN_BOUND: Duration = Duration::from_secs(1);

/// Git in one folder, for one address.
pub(super) struct Git<'a> {
    /// The work tree; its `.git` is the repository's.
    pub(super) folder: &'a Folder,
    pub(super) address: &'a Address,
}

impl Git<'_> {
    /// Runs a command of git whose output is for people; whether it succeeded.
    pub(super) fn run(&self, arguments: &[&str]) -> tree::Result<bool> {
        Ok(self.run_heard(arguments)?.0)
    }

    /// The same, and the last of what it said.
    pub(super) fn run_heard(&self, arguments: &[&str]) -> tree::Result<(bool, String)> {
        let (reader, writer) = pipe().map_err(cant)?;
        let mut command = self.command(arguments);
        command.stdout(writer.try_clone().map_err(cant)?).stderr(writer);
        let mut child = self.start(&mut command)?;
        // Its ends of the pipe would keep the other from ending.
        drop(command);
        let shown = self.show(reader, &mut child)?;
        let (status, said) = finish(child, &shown)?;
        Ok((status.success(), said))
    }

    /// Runs one whose output is looked at as it comes; whether it succeeded.
    pub(super) fn read(
        &self,
        arguments: &[&str],
        look: impl FnMut(&mut dyn BufRead) -> io::Result<()>,
    ) -> tree::Result<bool> {
        self.read_with(&[], arguments, look)
    }

    /// The same with variables.
    pub(super) fn read_with(
        &self,
        variables: &[(&str, &str)],
        arguments: &[&str],
        mut look: impl FnMut(&mut dyn BufRead) -> io::Result<()>,
    ) -> tree::Result<bool> {
        let (reader, writer) = pipe().map_err(cant)?;
        let mut command = self.command(arguments);
        command.envs(variables.iter().copied());
        command.stdout(Stdio::piped()).stderr(writer);
        let mut child = self.start(&mut command)?;
        drop(command);
        let shown = self.show(reader, &mut child)?;
        let mut looked = Ok(());
        if let Some(out) = child.stdout.take() {
            looked = look(&mut BufReader::new(out));
        }
        let (status, _) = finish(child, &shown)?;
        looked.map_err(cant)?;
        Ok(status.success())
    }

    /// The first line of what a command says, if it succeeds.
    pub(super) fn line(&self, arguments: &[&str]) -> tree::Result<Option<String>> {
        let mut line = String::new();
        let done = self.read(arguments, |out| {
            line = next_line(out)?.unwrap_or_default();
            // Who can say no more to anybody ends, and then it did not succeed.
            io::copy(out, &mut io::sink()).map(drop)
        })?;
        Ok(Some(line).filter(|line| done && !line.is_empty()))
    }

    /// Where the server says that the repository is, if it sends on. Git tells that to nobody but its trace,
    /// which is not shown.
    pub(super) fn sent_on_to(&self) -> tree::Result<Option<String>> {
        let mut command = self.command(&["ls-remote", "-q", "--", &self.address.url]);
        command.envs([("GIT_TRACE_CURL", "1"), ("GIT_TRACE_CURL_NO_DATA", "1")]);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = self.start(&mut command)?;
        let mut found = None;
        if let Some(said) = child.stderr.take() {
            let mut said = BufReader::new(said);
            while let Ok(Some(line)) = next_line(&mut said) {
                found = location(&line).map(str::to_owned).or(found);
            }
        }
        child.wait().map_err(cant)?;
        Ok(found.and_then(|place| self.address.sent_on_to(&place)))
    }

    /// The arguments that go before the address of a repository to read from it.
    pub(super) fn reading(&self) -> &'static [&'static str] {
        match self.address.way {
            Way::Server(_) => &[],
            Way::Local => &["--upload-pack", UPLOAD_PACK],
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("git");
        command.args(arguments).stdin(Stdio::null()).env_clear();
        let kept = OF_THE_USER.iter().chain(&OF_THE_NODE);
        command.envs(kept.filter_map(|name| Some((name, std::env::var_os(name)?))));
        let ways = match self.address.way {
            Way::Server(protocol) => protocol,
            Way::Local => "file",
        };
        command.envs([
            ("LC_ALL", "C"),
            ("GIT_DIR", ".git"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_SYSTEM", "/dev/null"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_ATTR_NOSYSTEM", "1"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ASKPASS", ""),
            ("SSH_ASKPASS", ""),
            ("GIT_NO_LAZY_FETCH", "1"),
            ("GIT_NO_REPLACE_OBJECTS", "1"),
            ("GIT_ADVICE", "0"),
            ("GIT_ALLOW_PROTOCOL", ways),
            bounds::HEAPS,
        ]);
        if std::env::var_os("GIT_SSH_COMMAND").is_none() {
            command.env("GIT_SSH_COMMAND", SSH);
        }
        let settings = SETTINGS.iter().chain(&bounds::SETTINGS);
        let mut settings: Vec<(String, &str)> = settings.map(|(key, value)| ((*key).to_owned(), *value)).collect();
        if let Some(Login { server, user, password }) = &self.address.login {
            settings.push((format!("credential.{server}.helper"), HELPER));
            command.env("DISTCIFS_GIT_USER", user);
            command.env("DISTCIFS_GIT_PASSWORD", password);
        }
        command.env("GIT_CONFIG_COUNT", settings.len().to_string());
        for (number, (key, value)) in settings.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{number}"), key);
            command.env(format!("GIT_CONFIG_VALUE_{number}"), value);
        }
        command
    }

    fn start(&self, command: &mut Command) -> tree::Result<Child> {
        // By the descriptor, not by a path: the folder stays this one whatever becomes of its name.
        nix::unistd::fchdir(self.folder).map_err(|errno| cant(errno.into()))?;
        bounds::start(command).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Trouble::Refused("git is not installed on this node".to_owned()),
            _ => cant(error),
        })
    }

    /// Shows what it says, without what is secret; tells when that is all. The thread begins after the process: for the
    /// moment in which that is started this one has its bounds, and may have no memory for a thread.
    fn show(&self, said: io::PipeReader, child: &mut Child) -> tree::Result<Receiver<String>> {
        let (done, ended) = mpsc::channel();
        let address = self.address.clone();
        let shown = thread::Builder::new().spawn(move || {
            let mut said = BufReader::new(said);
            let mut last = VecDeque::new();
            while let Ok(Some(line)) = next_line(&mut said) {
                let line = address.masked(&line);
                say(&line);
                last.push_back(line);
                if last.len() > LINES_HEARD {
                    last.pop_front();
                }
            }
            let _ = done.send(last.into_iter().collect::<Vec<_>>().join("\n"));
        });
        if let Err(error) = shown {
            // Nobody hears it.
            let _ = child.kill();
            let _ = child.wait();
            return Err(cant(error));
        }
        Ok(ended)
    }
}

/// Waits for its end, and for what it said.
fn finish(mut child: Child, shown: &Receiver<String>) -> tree::Result<(ExitStatus, String)> {
    let status = child.wait().map_err(cant)?;
    Ok((status, shown.recv_timeout(DRAIN_BOUND).unwrap_or_default()))
}

fn cant(error: io::Error) -> Trouble {
    Trouble::from_io("can't run git", &error)
}

/// The place that a line of git's trace says a server sent on to.
fn location(line: &str) -> Option<&str> {
    let (name, place) = line.split_once("Recv header: ")?.1.split_once(':')?;
    name.eq_ignore_ascii_case("location").then(|| place.trim())
}

/// The next line, cut to what a line may have.
fn next_line(from: &mut (impl BufRead + ?Sized)) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    if from.take(LINE_BYTES_MAX).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        from.skip_until(b'\n')?;
    }
    Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()))
}

/// The items of a list that ends each with NUL, up to so many bytes each.
pub(super) fn items(
    from: &mut dyn BufRead,
    bytes_max: u64,
    mut each: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    loop {
        let mut item = Vec::new();
        if from.take(bytes_max).read_until(0, &mut item)? == 0 {
            return Ok(());
        }
        if item.pop() != Some(0) {
            return Err(io::Error::other("git said more than can be"));
        }
        each(&item)?;
    }
}
