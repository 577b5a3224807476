//! execute-shell: runs the script of one ticket after the other.

use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Instant;

use crate::console::Shelf;
use crate::execute::{Ended, Over, Prepared, Runner};
use crate::identity::{self, Identity};
use crate::reports;
use crate::signals::{self, Wake};
use crate::supervise::{Exit, become_subreaper};
use crate::ticket::{Claimed, Ticket};
use crate::tree::{self, Tree, Trouble};

pub mod cgroup;
pub mod confine;
pub mod environment;
mod filter;
pub mod idmap;
pub mod images;
pub mod isolation;
pub mod limits;
mod names;
mod outputs;
mod prepare;
pub mod ranges;
mod script;
pub mod state;
pub mod told;
pub mod unpack;

use cgroup::Cgroups;
use confine::Confine;
use images::{Images, Lease, Source};
use isolation::{Isolations, Tools};
use prepare::Order;
use ranges::Ranges;
use state::{Run, State};

/// The queue of this worker.
pub const QUEUE: &str = "execute-shell";

/// Longest reason that an environment can give, bytes: it becomes the message of a result.
const REASON_BYTES_MAX: u64 = 4096;

/// The outcome of a script that ended well.
const SUCCESS: &str = "0";

/// How often an image is unpacked for one task: it may be removed again before it is used, on a node
/// with too little room.
const IMAGE_TRIES_MAX: u32 = 3;

/// How a worker is set up.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// What it has, besides its isolations.
    pub labels: Vec<String>,
    /// The isolations it takes; none named: all that work here.
    pub isolation: Vec<String>,
    /// Folders with environments, before the usual ones.
    pub environments: Vec<PathBuf>,
    /// Where it keeps its state; `None`: the usual folder.
    pub state: Option<PathBuf>,
    /// Whether it isolates scripts where the kernel has no Landlock.
    pub without_landlock: bool,
    /// Most bytes of unpacked images.
    pub image_bytes_max: u64,
    /// Whom it works as.
    pub identity: identity::Options,
}

/// Runs until TERM or INT, or to the end of a script after USR1 (`Ok`), or until the tree is away (`Err`).
///
/// # Errors
/// `Refused` if it can't work here at all, else `Away`.
pub fn run(tree: &Tree, setup: &Setup) -> tree::Result<()> {
    let cant = |e: io::Error| Trouble::Refused(format!("can't start: {e}"));
    let identity = Identity::find(&setup.identity).map_err(Trouble::Refused)?;
    let wake = signals::install().map_err(cant)?;
    become_subreaper().map_err(cant)?;
    let state = State::open(setup.state.as_deref()).map_err(cant)?;
    let run = state.begin().map_err(cant)?;
    let images = state.images(setup.image_bytes_max);
    let cache = state.cache();
    let filter = filter::write(&run);
    if let Err(error) = &filter {
        eprintln!("execute-shell: scripts have no filter of system calls: {error}");
    }
    let confine = Confine::find(&run);
    if let Err(why) = &confine {
        warn_of_descriptors(why, setup.without_landlock);
    }
    let ranges = Ranges::find();
    let ids = ranges.as_ref().map(Ranges::any);
    let tools = Tools {
        ids,
        idmap: ids.is_some_and(|ids| idmap::works(images.folder(), ids)),
        cache: &cache,
        filter: filter.as_deref().ok(),
        confine: confine.as_ref().ok(),
        without_landlock: setup.without_landlock,
    };
    let isolations = Isolations::find(&setup.environments, &setup.isolation, &tools).map_err(Trouble::Refused)?;
    let cgroups = Cgroups::find(&run.name(), |group| run.note_group(group));
    // What of it would not go now goes after the first script, or with the worker.
    run.clean();
    let labels: Vec<String> = setup
        .labels
        .iter()
        .cloned()
        .chain(isolations.labels(ids.is_some()))
        .collect();
    let mut next = tree.next(QUEUE, &labels)?;
    while !signals::stopping() && !signals::finishing() {
        let id = next.next_line()?;
        if id.is_empty() {
            continue;
        }
        let Some(claimed) = Claimed::new(tree.ticket(QUEUE, &id)) else {
            continue;
        };
        let shell = Shell {
            claimed,
            since: Instant::now(),
            images: &images,
            run: &run,
            tools,
            ranges: ranges.as_ref(),
            identity: &identity,
            isolations: &isolations,
            cgroups: &cgroups,
            wake: &wake,
        };
        shell.work()?;
    }
    Ok(())
}

/// Says what a node without Landlock does without.
fn warn_of_descriptors(why: &str, all_the_same: bool) {
    if all_the_same {
        eprintln!(
            "execute-shell: an isolated script that is handed a descriptor may leave with it (--without-landlock): {why}"
        );
    } else {
        eprintln!("execute-shell: no isolation namespace and lxc: {why}; --without-landlock has them all the same");
    }
}

/// Removes what workers that were killed left on this node.
pub fn sweep(setup: &Setup) {
    let swept = State::open(setup.state.as_deref()).and_then(|state| state.sweep());
    if let Err(error) = swept {
        eprintln!("execute-shell: what the killed worker left is not removed: {error}");
    }
}

/// One claimed ticket.
struct Shell<'a> {
    claimed: Claimed,
    since: Instant,
    images: &'a Images,
    run: &'a Run,
    tools: Tools<'a>,
    ranges: Option<&'a Ranges>,
    identity: &'a Identity,
    isolations: &'a Isolations,
    cgroups: &'a Cgroups,
    wake: &'a Wake,
}

impl Shell<'_> {
    /// Works on it to its end. Errors: only `Away`.
    fn work(&self) -> tree::Result<()> {
        if signals::stopping() {
            self.claimed.give_back();
            return Ok(());
        }
        let done = self.carry_out();
        if !self.run.clean() {
            eprintln!(
                "execute-shell: {}: something of it can't be removed yet",
                self.claimed.folder.display()
            );
        }
        match done {
            Ok(()) => Ok(()),
            Err(Trouble::Away(why)) => Err(Trouble::Away(why)),
            Err(Trouble::Lost(_)) => Ok(()),
            Err(Trouble::Later(why) | Trouble::Held(why) | Trouble::Full(why)) => {
                eprintln!("execute-shell: {why}; the ticket is given back");
                self.claimed.give_back();
                Ok(())
            }
            Err(Trouble::Refused(why)) => self.refuse(&why),
        }
    }

    /// The outcome `error`, with the reason in the console too.
    fn refuse(&self, why: &str) -> tree::Result<()> {
        let written = tree::open_console(&self.claimed.path(""))
            .and_then(|mut console| io::Write::write_all(&mut console, format!("{why}\n").as_bytes()));
        // The result says it as well.
        drop(written);
        self.claimed.finish("error", why)
    }

    fn runner<'a>(&'a self, ticket: &'a Ticket) -> Runner<'a> {
        Runner {
            worker: QUEUE,
            claimed: &self.claimed,
            wake: self.wake,
            shelf: Shelf {
                folder: self.run.folder().to_owned(),
                limit: ticket.settings.console_bytes(),
            },
            settings: &ticket.settings,
        }
    }

    fn carry_out(&self) -> tree::Result<()> {
        let order = self.order()?;
        let lease = match &order.ticket.settings.image {
            None => None,
            Some(image) => match self.image(image, &order)? {
                Ok(lease) => Some(lease),
                Err(ended) => return self.conclude(&ended, &order),
            },
        };
        if order.ticket.settings.attempts == 1 {
            self.begin()?;
        }
        let ended = self
            .prepare(&order, lease.as_ref())
            .and_then(|prepared| self.runner(&order.ticket).execute(prepared, order.deadline))?;
        self.conclude(&ended, &order)
    }

    /// Shows that the script begins from here on, whatever it does: opening the console says so. A ticket
    /// that may be tried once, the only one that is asked for it, is not open again then if it is given back.
    fn begin(&self) -> tree::Result<()> {
        let opened = tree::open_console(&self.claimed.path(""));
        opened
            .map(drop)
            .map_err(|e| Trouble::from_io("can't open the console", &e))
    }

    /// The image, unpacked if it was not; else how that ended.
    fn image(&self, image: &str, order: &Order<'_>) -> tree::Result<Result<Lease, Ended>> {
        let source = Source::find(
            &self.claimed.folder.join("jobs"),
            image,
            order.tools.ids.filter(|_| !order.tools.idmap),
        )?;
        for _ in 0..IMAGE_TRIES_MAX {
            let lease = self.images.lease(&source.key);
            if let Some(lease) = lease.map_err(|e| Trouble::Later(format!("image {image}: {e}")))? {
                return Ok(Ok(lease));
            }
            let unpack = Prepared::plain(unpack::command(self.images, &source, &order.tools, &self.run.error()));
            let ended = self.runner(&order.ticket).execute(unpack, order.deadline)?;
            if !matches!(ended.over, Over::Ended(Exit::Status(0))) || ended.dropped.is_some() {
                return Ok(Err(ended));
            }
        }
        Err(Trouble::Later(format!(
            "image {image}: removed as often as it was unpacked"
        )))
    }

    /// Writes what became of it.
    fn conclude(&self, ended: &Ended, order: &Order<'_>) -> tree::Result<()> {
        let (outcome, message) = match ended.over {
            Over::Lost => return Ok(()),
            // What its traps said stands in the console: only now it is over.
            Over::Aborted => {
                self.untold(order)?;
                ended.aborted()
            }
            Over::Stopped => {
                self.claimed.give_back();
                return Ok(());
            }
            Over::TimedOut => {
                let said = ended.unless_dropped("failure", &format!("timed out after {} s", order.timeout));
                self.reported(self.told(said, order)?, order)
            }
            Over::Ended(exit) => match self.reason() {
                Some(why) => {
                    self.untold(order)?;
                    ended.unless_dropped("error", &why)
                }
                None => self.reported(self.told(ended.outcome(exit), order)?, order),
            },
        };
        self.claimed.finish(&outcome, &message)
    }

    /// Does what a script told which was run. What it told wrongly is an error, however it ended.
    fn told(&self, (outcome, message): (String, String), order: &Order<'_>) -> tree::Result<(String, String)> {
        if order.ticket.task.is_none() {
            return Ok((outcome, message));
        }
        match self.heed(outcome == SUCCESS) {
            Ok(()) => Ok((outcome, message)),
            Err(Trouble::Refused(why)) if message.is_empty() => Err(Trouble::Refused(why)),
            Err(Trouble::Refused(why)) => Err(Trouble::Refused(format!("{why}; the script: {message}"))),
            Err(other) => Err(other),
        }
    }

    /// Reads the reports that a script left; what they say goes into the message.
    fn reported(&self, (outcome, message): (String, String), order: &Order<'_>) -> (String, String) {
        let patterns = &order.ticket.settings.reports;
        if patterns.is_empty() {
            return (outcome, message);
        }
        let task = order
            .ticket
            .task
            .map_or_else(|| "ticket".to_owned(), |index| index.to_string());
        let reports = reports::collect(&self.claimed, patterns, &task);
        let said = tree::open_console(&self.claimed.path(""))
            .and_then(|mut console| io::Write::write_all(&mut console, reports.lines.as_bytes()));
        // The file among the artifacts says it as well, if there is one.
        drop(said);
        (outcome, reports.with(&message))
    }

    /// Records parameters, and then adds tasks: these may name those. Tasks count only after success.
    fn heed(&self, success: bool) -> tree::Result<()> {
        if !told::any(&self.claimed)? {
            return Ok(());
        }
        let outputs = told::OUTPUTS.take(&self.claimed);
        let tasks = match success {
            true => told::TASKS.take(&self.claimed),
            false => told::TASKS.discard(&self.claimed).map(|()| None),
        };
        if let Some(text) = outputs? {
            outputs::record(&self.claimed, &text)?;
        }
        tasks?.map_or(Ok(()), |text| told::add_tasks(&self.claimed, &text))
    }

    /// Takes away what a script told whose outcome does not count.
    fn untold(&self, order: &Order<'_>) -> tree::Result<()> {
        if order.ticket.task.is_none() || !told::any(&self.claimed)? {
            return Ok(());
        }
        told::ALL.iter().try_for_each(|told| told.discard(&self.claimed))
    }

    /// Why the environment could not do its work, if it says so.
    fn reason(&self) -> Option<String> {
        let mut text = Vec::new();
        let file = fs::File::open(self.run.error()).ok()?;
        file.take(REASON_BYTES_MAX).read_to_end(&mut text).ok()?;
        let text = String::from_utf8_lossy(&text);
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }
}
