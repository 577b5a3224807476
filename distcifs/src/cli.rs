//! Command line types (clap), nothing else.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

mod help;
mod top;
mod trash;

pub use top::Top;
pub use trash::{Empty, List, Restored, Trash, TrashCommand};

/// Continuous integration as a filesystem: no master, only files.
#[derive(Debug, Parser)]
#[command(name = "distcifs", version, after_help = help::ROOT, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mount a source.
    #[command(after_help = help::MOUNT)]
    Mount(Mount),
    /// Mount a source and run the workers on it, until it is told to end.
    #[command(after_help = help::UP)]
    Up(Up),
    /// Take no more work on a mount, and wait until what is worked there is finished.
    #[command(after_help = help::DRAIN)]
    Drain(Drain),
    /// Unmount, and wait until the source is free again.
    #[command(after_help = help::UMOUNT)]
    Umount(Umount),
    /// Make a repository in a cluster, once, before it is mounted.
    #[command(after_help = help::INIT)]
    Init(Init),
    /// Say how a source or a mount fares: stores, mounts, what waits.
    #[command(after_help = help::STATUS)]
    Status(Status),
    /// Show what runs, what waits and who works: on a terminal, or once.
    #[command(after_help = top::HELP)]
    Top(Top),
    /// Check job configurations without a mount.
    #[command(after_help = help::CHECK)]
    Check(Check),
    /// Run a pipeline of the working copy at hand, without a mount.
    #[command(after_help = help::RUN)]
    Run(Run),
    /// Check everything in a source: a folder or a cluster, mounted or not.
    #[command(after_help = help::FSCK)]
    Fsck(Source),
    /// Remove what nothing needs any more from a folder or a cluster, mounted or not.
    #[command(after_help = help::GC)]
    Gc(Gc),
    /// Save a folder, mounted or not, so that it can be restored as it was at one moment.
    #[command(after_help = help::BACKUP)]
    Backup(Backup),
    /// Make a folder of what was saved, and check all of it.
    #[command(after_help = help::RESTORE)]
    Restore(Restore),
    /// Look at what was removed, bring it back, or remove it for good.
    #[command(after_help = trash::HELP)]
    Trash(Trash),
    /// Print a completion script for a shell.
    #[command(after_help = help::COMPLETION)]
    Completion(Completion),
    /// Print the manual, or write its pages to a folder.
    #[command(after_help = help::MAN)]
    Man(Man),
    /// Run a program in a session of its own that ends with its parent.
    // The alias: an `up` of before starts its programs anew by whatever version is there by then.
    #[command(hide = true, alias = "leash")]
    Supervised(Supervised),
}

/// `distcifs mount`.
#[derive(Debug, Args)]
pub struct Mount {
    /// The folder that holds everything, made if its parent is there; or zk://HOST:PORT,.../PATH.
    pub source: PathBuf,
    /// An empty folder.
    pub mountpoint: PathBuf,
    /// Mount options, separated by commas; see below.
    #[arg(short = 'o', value_name = "KEY=VALUE,...", action = clap::ArgAction::Append)]
    pub options: Vec<String>,
    /// Stay in the foreground, log to standard error, and tell systemd when the mount answers.
    #[arg(short = 'f', long)]
    pub foreground: bool,
    /// Tells the parent on standard output when the mount answers, or why it doesn't.
    #[arg(long, hide = true, value_enum)]
    pub child: Option<Child>,
}

/// As whose child the serving process was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Child {
    /// Of `mount`, which ends when the mount answers.
    Background,
    /// Of `up`, which it does not outlive.
    Supervised,
}

/// `distcifs up`.
#[derive(Debug, Args)]
pub struct Up {
    /// The folder that holds everything, made if its parent is there; or zk://HOST:PORT,.../PATH.
    pub source: PathBuf,
    /// Where to mount; made if absent.
    pub mountpoint: PathBuf,
    /// How many workers of each of the five kinds (default: one for each processor).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub workers: Option<u16>,
    /// Labels of this machine's workers of tasks (default: system and processor, such as linux,x86_64).
    /// With `only:gpu` its shells take tickets that need gpu, and no others.
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub labels: Vec<String>,
    /// Isolations whose tickets this machine's workers take, and no others (default: all that work).
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub isolation: Vec<String>,
    /// Whom tasks of root's jobs run as, if root starts it (default: distci, or nobody if there is
    /// no distci; root must be named).
    #[arg(long = "as", value_name = "USER")]
    pub jobs_of_root: Option<String>,
    /// A further program to keep alive, with its arguments after the mount point; may be repeated.
    #[arg(long = "with", value_name = "PROGRAM [ARG...]")]
    pub with: Vec<String>,
    /// Also show the tree to browsers, at this address (127.0.0.1:8090).
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub web: Option<std::net::SocketAddr>,
    /// How long what is worked may take after USR1.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(..=86400))]
    pub drain_for: u64,
    /// Where the workers' programs are.
    #[arg(long, value_name = "DIR")]
    pub workers_dir: Option<PathBuf>,
    /// Mount options, as for `distcifs mount`.
    #[arg(short = 'o', value_name = "KEY=VALUE,...", action = clap::ArgAction::Append)]
    pub options: Vec<String>,
}

/// `distcifs drain`.
#[derive(Debug, Args)]
pub struct Drain {
    /// The mount point.
    pub mountpoint: PathBuf,
    /// How long to wait for what is worked there.
    #[arg(long = "for", value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(..=86400))]
    pub time: u64,
    /// Take work again instead.
    #[arg(long)]
    pub end: bool,
}

/// `distcifs umount`.
#[derive(Debug, Args)]
pub struct Umount {
    /// The mount point.
    pub mountpoint: PathBuf,
    /// Detach it even if it is busy.
    #[arg(short = 'l', long)]
    pub lazy: bool,
}

/// `distcifs init`.
#[derive(Debug, Args)]
pub struct Init {
    /// The cluster's address, zk://HOST:PORT,.../PATH, or a folder.
    pub source: PathBuf,
    /// Mount options, as for `distcifs mount`.
    #[arg(short = 'o', value_name = "KEY=VALUE,...", action = clap::ArgAction::Append)]
    pub options: Vec<String>,
    /// Take over a pool's contents of which ZooKeeper knows nothing, because it lost them.
    #[arg(long)]
    pub adopt: bool,
}

/// `distcifs status`.
#[derive(Debug, Args)]
pub struct Status {
    /// A cluster's address, or a mount point; by default the mount of the folder at hand.
    pub place: Option<PathBuf>,
    /// As one JSON object; what counts is a number, all else a text.
    #[arg(long)]
    pub json: bool,
    /// Mount options, as for `distcifs mount`.
    #[arg(short = 'o', value_name = "KEY=VALUE,...", action = clap::ArgAction::Append)]
    pub options: Vec<String>,
}

/// `distcifs check`.
#[derive(Debug, Args)]
pub struct Check {
    /// Configurations, as in config.json, and pipelines: .yaml, .toml, tasks.json and .distcifs.json. - is standard
    /// input. On a terminal each good one is said.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// All files are pipelines, whatever they are called.
    #[arg(long)]
    pub tasks: bool,
    /// The configuration of the job whose builds the pipelines are for: the parameters that it declares are known, and
    /// its tasks may be no more than it allows.
    #[arg(long, value_name = "CONFIG")]
    pub job: Option<PathBuf>,
    /// The faults as one JSON list of objects.
    #[arg(long)]
    pub json: bool,
}

/// `distcifs run`.
#[derive(Debug, Args)]
pub struct Run {
    /// The pipeline (default: .distcifs.yaml, .distcifs.toml or .distcifs.json of the working copy).
    pub file: Option<PathBuf>,
    /// This task alone, or those of its matrix, and what it waits for.
    #[arg(long, value_name = "NAME")]
    pub task: Option<String>,
    /// A parameter of the build, or what a trigger says with @; may be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    pub param: Vec<String>,
    /// The configuration of the job whose builds the pipeline is for: the parameters that it declares are known, and
    /// its tasks may be no more than it allows.
    #[arg(long, value_name = "CONFIG")]
    pub job: Option<PathBuf>,
    /// How many workers of each kind (default: one for each processor).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub workers: Option<u16>,
    /// Whom tasks run as, if root starts it (default: distci, or nobody if there is no distci).
    #[arg(long = "as", value_name = "USER")]
    pub jobs_of_root: Option<String>,
    /// Where the workers' programs are.
    #[arg(long, value_name = "DIR")]
    pub workers_dir: Option<PathBuf>,
}

/// A source.
#[derive(Debug, Args)]
pub struct Source {
    /// The folder that holds everything, or a cluster's address.
    pub source: PathBuf,
    /// Mount options, as for `distcifs mount`.
    #[arg(short = 'o', value_name = "KEY=VALUE,...", action = clap::ArgAction::Append)]
    pub options: Vec<String>,
}

/// `distcifs gc`.
#[derive(Debug, Args)]
pub struct Gc {
    /// What it is done to.
    #[command(flatten)]
    pub source: Source,
    /// How long to wait, twice, for what is under way on the mounts.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(..=86400))]
    pub wait: u64,
}

/// `distcifs backup`.
#[derive(Debug, Args)]
pub struct Backup {
    /// The folder that holds everything.
    pub source: PathBuf,
    /// Where to save it: a folder for its backups alone, made if its parent is there.
    pub dir: PathBuf,
    /// Copy all bytes that are new, also where names on the same file system would do.
    #[arg(long)]
    pub copy: bool,
    /// How long to wait for a gc that runs.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(..=86400))]
    pub wait: u64,
}

/// `distcifs restore`.
#[derive(Debug, Args)]
pub struct Restore {
    /// The folder of the backup.
    pub dir: PathBuf,
    /// The folder to make: an empty one, or none yet.
    pub source: PathBuf,
    /// Copy all bytes, also where names on the same file system would do.
    #[arg(long)]
    pub copy: bool,
}

/// `distcifs completion`.
#[derive(Debug, Args)]
pub struct Completion {
    /// The shell.
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Shells with completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU bash.
    Bash,
    /// zsh.
    Zsh,
    /// fish.
    Fish,
}

/// `distcifs man`.
#[derive(Debug, Args)]
pub struct Man {
    /// Where to write a page for each command; without it the main page is printed.
    pub dir: Option<PathBuf>,
}

/// `distcifs supervised`.
#[derive(Debug, Args)]
pub struct Supervised {
    /// The process that it must not outlive: its parent.
    pub parent: i32,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub program: Vec<OsString>,
}

/// Parses a command line; `args[0]` is the program.
pub fn parse(args: Vec<OsString>) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(as_mount_helper(args))
}

/// mount(8) and mount.fuse3 call `distcifs SOURCE MOUNTPOINT -o OPTIONS`: exactly that shape means
/// `distcifs mount`, so that a mistyped command is not taken for a source.
fn as_mount_helper(mut args: Vec<OsString>) -> Vec<OsString> {
    let is_flag = |arg: &OsString| arg.as_encoded_bytes().starts_with(b"-");
    if let [_, source, mountpoint, flag, _] = args.as_slice()
        && flag == "-o"
        && !is_flag(source)
        && !is_flag(mountpoint)
        && !Cli::command().get_subcommands().any(|known| source == known.get_name())
    {
        args.insert(1, "mount".into());
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, clap::Error> {
        parse(line.split(' ').map(OsString::from).collect()).map(|cli| cli.command)
    }

    #[test]
    fn the_types_hold_together() {
        Cli::command().debug_assert();
    }

    /// Wider lines would be broken wherever a terminal ends.
    #[test]
    fn what_help_says_fits_a_terminal() {
        let root = Cli::command();
        let commands = std::iter::once(&root).chain(root.get_subcommands().filter(|command| !command.is_hide_set()));
        for command in commands {
            let help = command.get_after_help().expect("each has more to say").to_string();
            let wide = help.lines().find(|line| line.chars().count() > 80);
            assert_eq!(wide, None, "{}", command.get_name());
        }
    }

    #[test]
    fn the_mount_helpers_form_is_a_mount_and_no_other_is() {
        let Ok(Command::Mount(mount)) = parsed("distcifs /var/lib/distci /ci -o rw,dev,suid") else {
            panic!()
        };
        assert_eq!(
            (mount.source, mount.mountpoint),
            ("/var/lib/distci".into(), "/ci".into())
        );
        assert_eq!(mount.options, ["rw,dev,suid"]);
        assert!(matches!(parsed("distcifs umount /ci"), Ok(Command::Umount(_))));
        assert!(parsed("distcifs chek file").is_err());
        assert!(parsed("distcifs a b -o").is_err());
        assert!(parsed("distcifs up /s /m -o ro").is_ok_and(|command| matches!(command, Command::Up(_))));
    }

    #[test]
    fn usage_errors_exit_with_2_and_help_with_0() {
        assert_eq!(parsed("distcifs mount").unwrap_err().exit_code(), 2);
        assert_eq!(parsed("distcifs up /s /m --workers 0").unwrap_err().exit_code(), 2);
        assert_eq!(parsed("distcifs mount --help").unwrap_err().exit_code(), 0);
        assert_eq!(parsed("distcifs -V").unwrap_err().exit_code(), 0);
    }
}
