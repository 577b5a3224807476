//! What stands before a script: where it runs, with what, and in which environment.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use distcifs_settings::expand::plain;
use distcifs_settings::task::Limits;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use serde_json::Map;

use super::Shell;
use super::cgroup::Group;
use super::environment::{Start, variables};
use super::images::Lease;
use super::isolation::{Call, Network, Tools, begin};
use super::limits;
use super::ranges::{Ids, Taken};
use super::script::Script;
use crate::execute::Prepared;
use crate::identity::Whom;
use crate::ticket::{Ticket, of_build};
use crate::tree::{self, Trouble};

/// What a ticket asks for.
pub(super) struct Order<'a> {
    pub(super) ticket: Ticket,
    /// The environment's program.
    program: &'a Path,
    /// Whom the script runs as, if it is not kept apart from the node.
    whom: Option<Whom>,
    /// What its environment is given: the ids are its own.
    pub(super) tools: Tools<'a>,
    _ids: Option<Taken>,
    /// The limits that it names.
    named: Limits,
    /// Those that hold.
    limits: Limits,
    pub(super) deadline: Option<Instant>,
    /// Seconds.
    pub(super) timeout: u64,
}

impl Shell<'_> {
    /// Reads what is to be done; `Refused` becomes the outcome `error`.
    pub(super) fn order(&self) -> tree::Result<Order<'_>> {
        let ticket = self.claimed.ticket()?;
        let settings = &ticket.settings;
        let program = self.isolations.program(settings.isolation.as_str());
        let program = program.map_err(Trouble::Refused)?;
        let isolated = !settings.isolation.is_none();
        let whom = if isolated {
            self.identity.check(&ticket)?;
            None
        } else {
            Some(self.identity.whom(&ticket)?)
        };
        if settings.image.is_some() && !isolated {
            return Err(Trouble::Refused("image needs an isolation other than none".to_owned()));
        }
        if ticket.is_untrusted() && !isolated {
            let why =
                "a script of an untrusted build runs in an isolation only: set its isolation, to namespace for one";
            return Err(Trouble::Refused(why.to_owned()));
        }
        let named = settings.limits;
        limits::check(&named, self.cgroups, isolated).map_err(Trouble::Refused)?;
        let taken = self
            .ranges
            .filter(|_| isolated)
            .map(|ranges| ranges.take(self.tools.idmap));
        let taken = taken.transpose().map_err(|e| Trouble::Later(format!("no ids: {e}")))?;
        Ok(Order {
            program,
            whom,
            tools: Tools {
                ids: taken.as_ref().map(|taken| taken.ids),
                ..self.tools
            },
            _ids: taken,
            named,
            limits: if isolated { limits::or_default(named) } else { named },
            deadline: ticket.limit().and_then(|limit| self.since.checked_add(limit)),
            timeout: settings.timeout.unwrap_or_default(),
            ticket,
        })
    }

    /// Prepares the script and the call of its environment.
    pub(super) fn prepare(&self, order: &Order<'_>, image: Option<&Lease>) -> tree::Result<Prepared> {
        let workspace = self.claimed.folder.join("workspace");
        let artifacts = self.claimed.folder.join("artifacts");
        // A mount of an earlier version has none.
        let needs = order.ticket.task.map(|_| self.claimed.folder.join("needs"));
        let needs = needs.filter(|needs| order.whom.is_some() || needs.is_dir());
        let isolated = order.whom.is_none();
        let direct = self.write_files(order, &workspace, &artifacts)?;
        let owner = match &order.whom {
            Some(whom) => {
                whom.hand_over(&self.claimed)?;
                whom.ids()
            }
            None => {
                order.tools.ids.map_or(Ok(()), |ids| self.hand_over(ids))?;
                order.tools.ids.map(|Ids { uid, gid }| (uid, gid))
            }
        };
        let group = self.group(&order.limits)?;
        let doors = group.as_ref().map(Group::doors).transpose();
        let doors = doors.map_err(|e| Trouble::Later(format!("control group: {e}")))?;
        let call = Call {
            program: order.program,
            isolated,
            workspace: &workspace,
            artifacts: &artifacts,
            needs: needs.as_deref(),
            root: image.map(|image| image.root.as_path()),
            limits: order.named,
            processes: order.limits.processes,
            pids_max: group.as_ref().and_then(Group::pids_max),
            network: match order.ticket.settings.network {
                true if order.ticket.is_untrusted() => Network::Closed,
                true => Network::Node,
                false => Network::None,
            },
        };
        let command = match (direct, &order.whom) {
            (Some(command), _) => command,
            (None, Some(whom)) => call.command_as(whom, self.run),
            (None, None) => call.command(self.run, &order.tools),
        };
        let doors = doors.unwrap_or_default();
        let in_session = doors.is_empty() && !isolated;
        Ok(Prepared {
            command: if in_session {
                command
            } else {
                begin(command, doors, isolated)
            },
            in_session,
            isolated,
            owner,
            group,
            report: None,
        })
    }

    /// Writes the script, and the file that starts it for its environment; where none is between, the
    /// command that starts it.
    fn write_files(&self, order: &Order<'_>, workspace: &Path, artifacts: &Path) -> tree::Result<Option<Command>> {
        let ticket = &order.ticket;
        let text = Script::read(&ticket.params)?;
        let wanted = ticket.params.get("working_directory").map(plain).unwrap_or_default();
        let folder = working_directory(workspace, &wanted)?;
        let (params, name) = match &ticket.job {
            Some(_) => of_build(&self.claimed, ticket.task)?,
            None => (Map::new(), None),
        };
        let start = Start {
            script: &text,
            variables: &variables(ticket, &params, name.as_deref()),
            folder: &folder,
            isolated: order.whom.is_none(),
            needs: ticket.task.is_some(),
            processes: order.limits.processes.filter(|_| !self.cgroups.has("pids")),
        };
        let later = |e: io::Error| Trouble::Later(format!("can't write the script: {e}"));
        let script = self.run.write("script", text.text().as_bytes()).map_err(later)?;
        let plain = order
            .whom
            .as_ref()
            .filter(|_| self.isolations.is_nothing(order.program));
        if let Some(whom) = plain.filter(|_| start.processes.is_none() && text.is_plain()) {
            self.give_files(whom, &[&script])?;
            return Ok(Some(start.program(whom, &script, workspace, artifacts).command()));
        }
        let begin = self.run.write("start", &start.text()).map_err(later)?;
        if let Some(confine) = order.tools.confine.filter(|_| start.isolated) {
            confine.write(self.run).map_err(later)?;
        }
        if let Some(whom) = &order.whom {
            self.give_files(whom, &[&script, &begin])?;
        }
        // The folder of our own program may be closed to whoever runs the script.
        let program = plain.map(|whom| whom.program("/bin/sh", Path::new("/")).arg(&begin));
        Ok(program.map(|program| program.args([workspace, artifacts]).command()))
    }

    /// Gives what starts a script to the user whom it runs as.
    fn give_files(&self, whom: &Whom, files: &[&Path]) -> tree::Result<()> {
        let opened = if whom.ids().is_some() {
            self.run.open_files()
        } else {
            Ok(())
        };
        let given = opened.and_then(|()| files.iter().try_for_each(|path| whom.own(path)));
        given.map_err(cant_give)
    }

    /// Gives the workspace to those who stand for the inner root, and shows them the script.
    fn hand_over(&self, Ids { uid, gid }: Ids) -> tree::Result<()> {
        self.run.show_files(gid).map_err(cant_give)?;
        chown(self.claimed.path("."), Some(uid), Some(gid)).map_err(|error| {
            match error.kind() {
            io::ErrorKind::PermissionDenied => Trouble::Refused(
                "the ticket can't be handed over to another user: isolation needs a mount of root, or a worker that is \
                 not root"
                    .to_owned(),
            ),
            _ => Trouble::from_io("can't hand the ticket over", &error),
        }
        })
    }

    /// The control group for what is bounded; none if nothing is.
    fn group(&self, limits: &Limits) -> tree::Result<Option<Group>> {
        if !limits.bound_processes() {
            return Ok(None);
        }
        let note = |group: &Path| self.run.note_group(group);
        let made = self.cgroups.group(&self.run.name(), limits, note);
        made.map(Some).map_err(Trouble::Refused)
    }
}

fn cant_give(error: io::Error) -> Trouble {
    Trouble::Later(format!("can't give the script to its user: {error}"))
}

/// The folder to run in, below the workspace: inside it after all symbolic links. What a link names
/// outside is not even looked at: this may be root, and the answer would tell what there is.
fn working_directory(workspace: &Path, wanted: &str) -> tree::Result<PathBuf> {
    if wanted.is_empty() || wanted == "." {
        return Ok(PathBuf::new());
    }
    let refused = |why: &str| Trouble::Refused(format!("working_directory '{wanted}': {why}"));
    let io = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => refused("no such folder in the workspace"),
        _ => Trouble::from_io(&format!("working_directory '{wanted}'"), &error),
    };
    let root = File::open(workspace).map_err(|e| Trouble::from_io("workspace", &e))?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let found = match openat2(&root, wanted, how) {
        Ok(found) => found,
        Err(Errno::EXDEV) => return Err(refused("leads out of the workspace")),
        Err(Errno::ENOTDIR) => return Err(refused("not a folder")),
        Err(errno) => return Err(io(errno.into())),
    };
    let place = |fd: &dyn AsRawFd| fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    let (root, found) = place(&root).and_then(|root| Ok((root, place(&found)?))).map_err(io)?;
    let below = found.strip_prefix(&root).map(Path::to_owned);
    below.map_err(|_| refused("leads out of the workspace"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A link that leads out says the same whether there is something or not.
    #[test]
    fn a_working_directory_is_in_the_workspace_and_tells_nothing_of_what_is_not() {
        let workspace = std::env::temp_dir().join(format!("distcifs-working-{}", std::process::id()));
        let _ = fs::remove_dir_all(&workspace);
        fs::create_dir_all(workspace.join("a/b")).unwrap();
        fs::write(workspace.join("file"), "").unwrap();
        for (name, target) in [
            ("in", "a/../a/b"),
            ("out", "/etc"),
            ("nothing", "/no/such"),
            ("up", "../.."),
            ("loop", "loop"),
        ] {
            symlink(target, workspace.join(name)).unwrap();
        }
        let asked = |wanted: &str| match working_directory(&workspace, wanted) {
            Ok(below) => below.display().to_string(),
            Err(Trouble::Refused(why)) => why.rsplit(": ").next().unwrap_or_default().to_owned(),
            Err(other) => other.to_string(),
        };
        for (wanted, expected) in [
            (".", ""),
            ("a/b", "a/b"),
            ("in", "a/b"),
            ("out", "leads out of the workspace"),
            ("nothing", "leads out of the workspace"),
            ("up", "leads out of the workspace"),
            ("/etc", "leads out of the workspace"),
            ("../x", "leads out of the workspace"),
            ("file", "not a folder"),
            ("absent", "no such folder in the workspace"),
        ] {
            assert_eq!(asked(wanted), expected, "{wanted}");
        }
        assert!(working_directory(&workspace, "loop").is_err());
        fs::remove_dir_all(&workspace).unwrap();
    }
}
