//! The one place that puts the layers together.

use std::fmt;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::sync::Arc;

use distcifs_settings::fault::plain_lines;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid, setsid};
use tokio::runtime::Handle;

mod ask;
mod backup;
mod check;
mod cluster;
mod daemon;
mod desk;
mod drain;
mod lock;
mod log;
mod maintain;
mod make;
mod mount;
mod mounts;
mod notify;
pub mod options;
mod pages;
mod pipeline;
mod progress;
mod status;
mod stores;
mod top;
mod trash;
mod umount;
mod up;
mod wire;
mod workers;

use crate::cli::{self, Cli};
use crate::repository::names::Name;
use crate::repository::{Repository, Setup};
use crate::tree::requests::Tree;
use options::MountOptions;
use stores::Stores;

/// How a command can fail.
#[derive(Debug)]
enum Failure {
    /// Exit status 1, with the reason.
    Refused(String),
    /// Exit status 2, with the reason.
    Usage(String),
    /// Exit status 1; the reason has been told already.
    Told,
    /// Exit status 3, with what is left to do.
    Left(String),
    /// This exit status; the reason has been told already.
    Ended(u8),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused(reason) | Failure::Usage(reason) | Failure::Left(reason) => f.write_str(reason),
            Failure::Told | Failure::Ended(_) => f.write_str("told already"),
        }
    }
}

/// What a command comes to.
type Outcome = Result<(), Failure>;

/// Runs a command.
pub fn run(cli: Cli) -> ExitCode {
    let outcome = match cli.command {
        cli::Command::Mount(arguments) => mount::mount(arguments),
        cli::Command::Up(arguments) => up::up(arguments),
        cli::Command::Drain(arguments) => drain::drain(&arguments),
        cli::Command::Umount(arguments) => umount::umount(&arguments),
        cli::Command::Init(arguments) => make::init(&arguments),
        cli::Command::Status(arguments) => status::status(&arguments),
        cli::Command::Top(arguments) => top::top(&arguments),
        cli::Command::Check(arguments) => check::check(&arguments),
        cli::Command::Run(arguments) => pipeline::run(&arguments),
        cli::Command::Fsck(arguments) => maintain::fsck(&arguments),
        cli::Command::Gc(arguments) => maintain::gc(&arguments),
        cli::Command::Backup(arguments) => backup::backup(&arguments),
        cli::Command::Restore(arguments) => backup::restore(&arguments),
        cli::Command::Trash(arguments) => trash::trash(&arguments),
        cli::Command::Completion(arguments) => pages::completion(&arguments),
        cli::Command::Man(arguments) => pages::man(&arguments),
        cli::Command::Supervised(arguments) => supervised(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Told) => ExitCode::from(1),
        Err(Failure::Ended(status)) => ExitCode::from(status),
        Err(Failure::Refused(reason)) => {
            tell(&reason);
            ExitCode::from(1)
        }
        Err(Failure::Left(reason)) => {
            tell(&reason);
            ExitCode::from(3)
        }
        Err(Failure::Usage(reason)) => {
            tell(&reason);
            ExitCode::from(2)
        }
    }
}

/// Tells standard error. Names of files and words of others stand in it.
fn tell(what: &str) {
    eprintln!("distcifs: {}", plain_lines(what));
}

/// Makes the tree on its stores.
fn open_tree(options: &MountOptions, stores: &Stores, runtime: &Handle) -> Result<Arc<Tree>, String> {
    let node = Name::new(&options.node)
        .ok_or_else(|| format!("node={}: no valid name: give one with -o node=NAME", options.node))?;
    let setup = Setup {
        coordination: stores.coordination.clone(),
        contents: stores.contents.clone(),
        node,
        attempts: options.cache.clone(),
        store: stores.store.clone(),
        coordinator: stores.coordinator.clone(),
        shared: stores.are_shared(),
    };
    let tree = runtime.block_on(async {
        let repository = Repository::open(setup).await?;
        repository.steered_by(options.control.clone());
        repository.builds.keep_trash_for(options.trash_days);
        let tree = Tree::new(repository, options.control.clone())?;
        options.pass_from.into_iter().for_each(|bytes| tree.pass_from(bytes));
        Ok::<_, crate::tree::Error>(tree)
    });
    tree.map(Arc::new).map_err(|error| error.to_string())
}

/// Becomes another program, in a session of its own, that gets TERM when its parent dies.
fn supervised(arguments: &cli::Supervised) -> Outcome {
    let explain = |error: nix::Error| Failure::Refused(format!("a session of its own: {error}"));
    setsid().map_err(explain)?;
    set_pdeathsig(Signal::SIGTERM).map_err(explain)?;
    // The parent may have died before we asked.
    if getppid() != Pid::from_raw(arguments.parent) {
        return Err(Failure::Refused("the process that started me is gone".into()));
    }
    let Some((program, rest)) = arguments.program.split_first() else {
        return Err(Failure::Usage("no program".into()));
    };
    let error = Command::new(program).args(rest).exec();
    Err(Failure::Refused(format!("{}: {error}", program.to_string_lossy())))
}
