//! `distcifs trash`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

pub(super) const HELP: &str = "\
NOTES
  rmdir and rm -r of a job or a build move it to jobs/.trash of the mount. It
  stays there for the days that trash_days says (distcifs mount --help), seven
  by default; then it is removed for good. Its owner, the owner of jobs and root
  may look at it, bring it back, or remove it. What is in the trash takes room
  until then, and until the next gc after it.

EXAMPLES
  distcifs trash list /ci
  distcifs trash restore /ci/jobs/hello             a job with its builds
  distcifs trash restore /ci/jobs/hello/builds/7    a build
  cd /ci; distcifs trash empty && distcifs gc /var/lib/distci

EXIT STATUS
  0  done
  1  refused or failed; standard error says why
  2  the command line is not valid";

const LIST_HELP: &str = "\
EXAMPLES
  distcifs trash list /ci
  cd /ci; distcifs trash list --json | jq -r '.[].id'

EXIT STATUS
  0  done, also if nothing is there
  1  refused or failed; standard error says why
  2  the command line is not valid";

const RESTORE_HELP: &str = "\
NOTES
  A job comes back with all that it had, and with its builds that were removed
  in the hour before it: rm -r removes these first. Of several removed jobs of
  one name the one that was removed last comes back; the others are named by
  their ids, which list shows.

EXAMPLES
  distcifs trash restore /ci/jobs/hello
  distcifs trash restore /ci hello world/7          a job, a build of another
  distcifs trash restore /ci hello --as hello-2     where a new job has the name

EXIT STATUS
  0  all of it is restored
  1  refused or failed; standard error says what and why
  2  the command line is not valid";

const EMPTY_HELP: &str = "\
NOTES
  Nobody can bring back what is removed so. Its room is free after the next gc.

EXAMPLES
  distcifs trash empty /ci            all that is yours
  distcifs trash empty /ci hello      the removed jobs of that name, with builds

EXIT STATUS
  0  done, also if nothing was there
  1  refused or failed; standard error says what and why
  2  the command line is not valid";

/// `distcifs trash`.
#[derive(Debug, Args)]
pub struct Trash {
    /// What to do.
    #[command(subcommand)]
    pub command: TrashCommand,
}

/// What can be done with the trash.
#[derive(Debug, Subcommand)]
pub enum TrashCommand {
    /// List what was removed and can be brought back: yours, or for root and the owner of jobs all.
    #[command(after_help = LIST_HELP)]
    List(List),
    /// Bring jobs and builds back.
    #[command(after_help = RESTORE_HELP)]
    Restore(Restored),
    /// Remove for good what is named, or all that is yours.
    #[command(after_help = EMPTY_HELP)]
    Empty(Empty),
}

/// `distcifs trash list`.
#[derive(Debug, Args)]
pub struct List {
    /// The mount point; by default the mount of the folder at hand.
    pub mountpoint: Option<PathBuf>,
    /// As a JSON list of objects.
    #[arg(long)]
    pub json: bool,
}

/// `distcifs trash restore`.
#[derive(Debug, Args)]
pub struct Restored {
    /// What to bring back, by its former path (/ci/jobs/hello, /ci/jobs/hello/builds/7), or by JOB,
    /// JOB/BUILD or its id in list; then the mount point may stand first.
    #[arg(required = true, value_name = "WHAT")]
    pub what: Vec<PathBuf>,
    /// Give the job this name.
    #[arg(long = "as", value_name = "NAME")]
    pub name: Option<String>,
}

/// `distcifs trash empty`.
#[derive(Debug, Args)]
pub struct Empty {
    /// What to remove, as in restore; without it all that is yours. The mount point may stand first.
    #[arg(value_name = "WHAT")]
    pub what: Vec<PathBuf>,
}
