//! Command line types (clap), nothing else.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

/// Exit status, the same for every command.
const EXIT_STATUS: &str = "\
EXIT STATUS
  0  done
  1  refused or failed; standard error says why
  2  the command line is not valid";

const ROOT_HELP: &str = "\
EXAMPLES
  distcifs up /var/lib/distci /ci         a whole CI on this machine, until Ctrl-C
  distcifs mount /var/lib/distci /ci      only the mount, in the background
  mkdir /ci/jobs/hello; vi /ci/jobs/hello/config.json; echo > /ci/jobs/hello/trigger

EXIT STATUS
  0  done
  1  refused or failed; standard error says why
  2  the command line is not valid";

const MOUNT_HELP: &str = "\
OPTIONS OF -o
  allow_other[=yes|no]   other users may enter; the default for root. Others need the line
                         user_allow_other in /etc/fuse.conf
  passthrough=yes|no     the kernel reads and writes workspaces without asking, if it can (yes)
  node=NAME              the name of this mount among all mounts (the host's name)
  cache=DIR              where claimants' workspaces live (STATE/attempts)
  log=FILE               the log (STATE/log; standard error with -f)
  log_level=LEVEL        error, warn, info, debug or trace (info)
  ro, noexec, noatime    as for any mount. Options that only mean something in /etc/fstab
                         (noauto, nofail, _netdev, user, x-...) are taken and ignored. A mount
                         is always nodev and nosuid.

FOR A CLUSTER, a source of the form zk://HOST:PORT,HOST:PORT/PATH
  pool=NAME              the pool of Ceph that holds the contents (needed)
  namespace=NAME         the namespace in it (distcifs)
  ceph_conf=FILE         Ceph's configuration (where Ceph looks for it)
  ceph_user=NAME         the user of Ceph (admin)
  ceph_keyring=FILE      the user's key (where Ceph's configuration says)
  zk_auth=FILE           a line user:password for ZooKeeper
  zk_ca=FILE             certificates that sign the ZooKeeper servers': encrypts the connection
  zk_cert=FILE, zk_key=FILE
                         our own certificate and its key, where servers ask for them
  session_timeout=SECONDS
                         claims of a dead node are open again after it (10)
  state=DIR              where this mount keeps its log, session and workspaces
                         (/var/lib/distcifs/NODE-..., ~/.local/state/distcifs/NODE-...).
                         STATE is SOURCE itself where that is a folder

EXAMPLES
  distcifs mount /var/lib/distci /ci
  distcifs mount zk://a:2181,b:2181,c:2181/distci /ci -o pool=distci,ceph_user=distci
  distcifs mount /var/lib/distci /ci -f -o log_level=debug
  mount -t fuse.distcifs /var/lib/distci /ci
  in /etc/fstab:  /var/lib/distci  /ci  fuse.distcifs  _netdev,nofail  0  0

SIGNALS
  TERM, INT  unmount and end
  HUP        open the log anew

EXIT STATUS
  0  mounted, and it answers
  1  refused or failed; standard error says why
  2  the command line is not valid";

const UP_HELP: &str = "\
WHO RUNS WHAT
  Started by root, each task runs as the owner of its job, those of root's jobs as distci or
  nobody (--as), and isolated scripts as nobody's ids; started by anybody else, all runs as him.

WHERE WORKERS ARE
  Workers are looked for in --workers-dir, or else in $DISTCIFS_WORKERS (folders separated by
  colons), the folder of the program, ../lib/distcifs and ../../workers from there. So are the
  programs of --with; their lines are cut at spaces, without quoting.

EXAMPLES
  distcifs up /var/lib/distci /ci
  distcifs up ./state ./ci --workers 8 --labels linux,x86_64,gpu -o log_level=debug
  distcifs up /var/lib/distci /ci --isolation lxc,vm     no script runs unconfined here
  distcifs up /var/lib/distci /ci --as root              scripts of root's jobs are root here
  distcifs up /var/lib/distci /ci --with cron --with 'github-webhook --listen 127.0.0.1:8080'
  distcifs up /var/lib/distci /ci --with 'lint linux' --workers-dir /opt/ci     a worker of one's own

SIGNALS
  TERM, INT  give work back, unmount and end
  USR1       take no more work, finish what is worked for at most --drain-for, then end

EXIT STATUS
  0  ended by Ctrl-C (INT) or TERM, and unmounted
  1  refused or failed; standard error says why
  2  the command line is not valid
  3  ended after USR1 before all work was finished; standard error says what was left";

const DRAIN_HELP: &str = "\
NOTES
  Before a restart: no ticket is claimed any more on this mount, whoever its workers are; those
  that are claimed are worked to their end. build-control goes on meanwhile and begins no build;
  the builds that it steers go on where they stand, on another mount or after the restart. The
  mount stays drained until it is unmounted, or until drain --end.

EXAMPLES
  distcifs drain /ci && systemctl restart distcifs@ci
  distcifs drain --for 0 /ci; cat /ci/.drain      begin, and see what is still worked
  distcifs drain --end /ci

EXIT STATUS
  0  nothing is worked on this mount any more
  1  refused or failed; standard error says why
  2  the command line is not valid
  3  at the end of --for something is still worked; standard error says what";

const UMOUNT_HELP: &str = "\
EXAMPLES
  distcifs umount /ci
  distcifs umount --lazy /ci      even if it is busy; a dead mount is always detached

EXIT STATUS
  0  unmounted, and the source can be mounted again
  1  refused (busy: it says by whom) or failed
  2  the command line is not valid";

const INIT_HELP: &str = "\
EXAMPLES
  distcifs init zk://a:2181,b:2181,c:2181/distci -o pool=distci,ceph_user=distci
  distcifs init --adopt zk://a:2181/distci -o pool=distci    after ZooKeeper lost its entries

NOTES
  A folder needs no init: its first mount makes it.

EXIT STATUS
  0  the repository is there
  1  refused or failed; standard error says why
  2  the command line is not valid";

const STATUS_HELP: &str = "\
EXAMPLES
  distcifs status /ci
  cd /ci/jobs/hello && distcifs status --json | jq -r .version
  distcifs status zk://a:2181,b:2181,c:2181/distci -o pool=distci,ceph_user=distci

EXIT STATUS
  0  both stores answer
  1  one does not; standard error says which
  2  the command line is not valid";

const CHECK_HELP: &str = "\
EXAMPLES
  distcifs check ci/config.json && cp ci/config.json /ci/jobs/hello/config.json
  jq '.keep.days = 30' /ci/jobs/hello/config.json | distcifs check -

EXIT STATUS
  0  all files are valid
  1  one is not; each fault is a line FILE:LINE:COLUMN: WHAT
  2  the command line is not valid";

const GC_HELP: &str = "\
NOTES
  The source may be mounted and build meanwhile: for a folder the daemon does the work, at the
  wish of root or the user who mounted. What was removed while gc runs goes the next time.
  gc waits for results that are being stored when it begins; if one of them takes longer than
  --wait, or a mount is stopped, nothing is removed. It may be killed at any moment and run again.
  One gc runs at a time.

EXAMPLES
  distcifs gc /var/lib/distci
  distcifs gc zk://a:2181,b:2181,c:2181/distci -o pool=distci,ceph_user=distci

EXIT STATUS
  0  done
  1  refused or failed, and nothing more was removed; standard error says why
  2  the command line is not valid";

const BACKUP_HELP: &str = "\
NOTES
  The source may be mounted and build meanwhile. What is saved is the source as it was at one
  moment soon after the beginning: every configuration, build, ticket, console and file. The next
  backup into the same folder copies only what is new, and removes what is not needed any more.
  One that was interrupted leaves the former one as it was; the next goes on where it stood. On one
  file system what never changes is linked and takes no room: it does not outlive the disk then.

EXAMPLES
  distcifs backup /var/lib/distci /backup/distci
  distcifs fsck /backup/distci          reads all of it, and names what is damaged

EXIT STATUS
  0  saved
  1  refused or failed, and the former backup is as it was; standard error says why
  2  the command line is not valid";

const RESTORE_HELP: &str = "\
NOTES
  Afterwards the folder is as after the loss of its mount at the moment that was saved: claims are
  gone, and what was running begins anew when it is mounted.

EXAMPLES
  distcifs restore /backup/distci /var/lib/distci

EXIT STATUS
  0  restored, and everything in it is whole
  1  refused, failed or damaged; standard output names what is damaged
  2  the command line is not valid";

const MAN_HELP: &str = "\
EXAMPLES
  distcifs man | man -l -
  distcifs man /usr/local/share/man/man1

EXIT STATUS
  0  done
  1  a page could not be written
  2  the command line is not valid";

const COMPLETION_HELP: &str = "\
EXAMPLES
  distcifs completion bash > /etc/bash_completion.d/distcifs
  distcifs completion zsh > /usr/local/share/zsh/site-functions/_distcifs
  distcifs completion fish > ~/.config/fish/completions/distcifs.fish

EXIT STATUS
  0  done
  1  the script could not be written
  2  the command line is not valid";

/// Continuous integration as a filesystem: no master, only files.
#[derive(Debug, Parser)]
#[command(name = "distcifs", version, after_help = ROOT_HELP, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mount a source.
    #[command(after_help = MOUNT_HELP)]
    Mount(Mount),
    /// Mount a source and run the workers on it, until it is told to end.
    #[command(after_help = UP_HELP)]
    Up(Up),
    /// Take no more work on a mount, and wait until what is worked there is finished.
    #[command(after_help = DRAIN_HELP)]
    Drain(Drain),
    /// Unmount, and wait until the source is free again.
    #[command(after_help = UMOUNT_HELP)]
    Umount(Umount),
    /// Make a repository in a cluster, once, before it is mounted.
    #[command(after_help = INIT_HELP)]
    Init(Init),
    /// Say how a source or a mount fares: stores, mounts, what waits.
    #[command(after_help = STATUS_HELP)]
    Status(Status),
    /// Check job configurations without a mount.
    #[command(after_help = CHECK_HELP)]
    Check(Check),
    /// Check everything in a source: a folder or a cluster, mounted or not.
    #[command(after_help = EXIT_STATUS)]
    Fsck(Source),
    /// Remove what nothing needs any more from a folder or a cluster, mounted or not.
    #[command(after_help = GC_HELP)]
    Gc(Gc),
    /// Save a folder, mounted or not, so that it can be restored as it was at one moment.
    #[command(after_help = BACKUP_HELP)]
    Backup(Backup),
    /// Make a folder of what was saved, and check all of it.
    #[command(after_help = RESTORE_HELP)]
    Restore(Restore),
    /// Print a completion script for a shell.
    #[command(after_help = COMPLETION_HELP)]
    Completion(Completion),
    /// Print the manual, or write its pages to a folder.
    #[command(after_help = MAN_HELP)]
    Man(Man),
    /// Run a program in a session of its own that ends with its parent.
    #[command(hide = true)]
    Leash(Leash),
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
    /// As one JSON object; values stay strings.
    #[arg(long)]
    pub json: bool,
    /// Mount options, as for `distcifs mount`.
    #[arg(short = 'o', value_name = "KEY=VALUE,...", action = clap::ArgAction::Append)]
    pub options: Vec<String>,
}

/// `distcifs check`.
#[derive(Debug, Args)]
pub struct Check {
    /// Configurations, as in config.json; - is standard input. On a terminal each good one is said.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
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

/// `distcifs leash`.
#[derive(Debug, Args)]
pub struct Leash {
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
