//! `distcifs top`.

use std::path::PathBuf;

use clap::Args;

/// `distcifs top`.
#[derive(Debug, Args)]
pub struct Top {
    /// A mount point; by default the mount of the folder at hand.
    pub mountpoint: Option<PathBuf>,
    /// Print it once, in lines, and end; also where standard output is no terminal.
    #[arg(long)]
    pub once: bool,
    /// Print it once, as one JSON object.
    #[arg(long)]
    pub json: bool,
}

pub(super) const HELP: &str = "\
WHAT IT SHOWS
  Builds: what runs, is held or waits, the oldest first; then how the last build
  of each job ended, what failed first. Below it more of the build that is
  chosen. Queues: tickets that are open and worked, workers that wait, and what
  the oldest open ticket waits for. Nodes: their workers that wait. It shows
  what you may read, by the files of the mount alone, and follows its .events.

KEYS
  up, down, k, j        choose a build; in other parts: scroll
  PgUp, PgDn, g, G      a page, to the begin, to the end
  Tab                   the next part: builds, queues, nodes
  f, Enter              follow the console of the build
  a, r, p               abort it, retry it, approve its commit: it asks first,
                        and shows what the tree says of a refusal
  ?                     the keys
  q, Esc, Ctrl-C        quit; out of a console: back
  Ctrl-Z                stop, as any program

NOTES
  While the mount does not answer the screen says so, and since when. With
  NO_COLOR there are no colours. A terminal that shows lines only (TERM=dumb)
  has --once. Builds that were held before top began are looked for among the
  four newest of each job. --once looks for ten seconds at most, and says how
  much it did not come to.

EXAMPLES
  distcifs top /ci
  cd /ci && distcifs top --once
  distcifs top --json /ci | jq -r '.builds[] | select(.state==\"failure\").job'

SIGNALS
  TERM, INT, HUP, QUIT  give the terminal back and end

EXIT STATUS
  0  done
  1  refused or failed; standard error says why
  2  the command line is not valid
  128 and the signal's number  ended by a signal";
