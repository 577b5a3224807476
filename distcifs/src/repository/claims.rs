//! Claims held by this mount: made, ended, finished with a result.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::about::{About, Counts};
use super::attempts::view::{Changes, View};
use super::attempts::{AttemptDirs, Folders, Kept};
use super::builds::Builds;
use super::configure::Configurations;
use super::consoles::{Appender, Consoles};
use super::core::{lock, now, random_id};
use super::deadline::Deadline;
use super::fresh::{Storing, is_refused};
use super::groups::Groups;
use super::jobs::Jobs;
use super::model::claim::{Cause, ClaimState, Claimant, Life};
use super::model::console::{attempt_console, scope_of};
use super::model::ops::Step;
use super::model::steps::group::TURN_OPS;
use super::model::steps::{self, Refused, Taken};
use super::model::ticket::{Posted, Ticket, TicketKey, TicketState};
use super::names::{Name, TicketId};
use super::one_by_one::Adders;
use super::people::People;
use super::store::Store;
use super::tickets::Tickets;
use super::wakers::Wakers;
use super::{Error, Result};
use crate::storage::{Commit, Entry};

mod abort;
mod adding;
mod console;
mod ending;
mod folders;
mod held;
mod indeterminate;
mod loss;
mod outcome;
mod posting;
mod recorded;
mod session;
mod slots;
mod stopped;
mod task_result;
mod untaken;

pub use adding::{TASKS_BYTES_MAX, Tasks};
pub use held::Held;
use indeterminate::IndeterminateResults;
use stopped::Stopped;
pub use task_result::TaskResult;
use untaken::Untaken;
pub use untaken::Writing;

/// A claim lives this much longer than its ticket's own timeout, so that the worker can end the
/// task by itself and say so.
const TIMEOUT_GRACE: Duration = Duration::from_secs(60);

/// The file of a ticket into which tasks are written, as messages call it.
const TASKS_FILE: &str = "tasks.json";

/// Most parameters that one claimant may record.
const RECORDED_MAX: usize = 16;

/// Longest recorded parameter, bytes: all of them stand in the ticket's entry.
pub const RECORDED_BYTES_MAX: usize = 1024;

/// How long the claim of a ticket that stands alone is held before that is followed: many are over by then,
/// and whoever takes one away is believed a little later.
const ATTEND_AFTER: Duration = Duration::from_millis(250);

/// Turns of a group that are lost before a claim is given up.
const TURNS_MAX: u32 = 100;

/// Longest wait for the kernel to write down what is stored in mappings.
const WRITE_BACK_MAX: Duration = Duration::from_secs(10);

/// A claim held by this mount.
pub struct Claim {
    /// The ticket.
    pub key: TicketKey,
    /// The ticket as it was claimed. The truth is its entry, which nobody else changes while the claim is held.
    pub ticket: Ticket,
    /// Tells this claim from every other.
    pub nonce: String,
    /// Whose it is.
    pub uid: u32,
    /// The claimant's group.
    pub gid: u32,
    /// The claimant's process.
    pub pid: u32,
    /// Whether the claimant has touched the ticket's folder since.
    pub touched: AtomicBool,
    /// Whether somebody was told of the claim.
    pub told: AtomicBool,
    /// Whether its console was opened to write.
    pub begun: AtomicBool,
    /// Whether it is to end because its build was aborted.
    pub(crate) aborting: AtomicBool,
    /// What it wrote into the file claim.
    pub text: Mutex<String>,
    /// The console it appends to.
    pub console: tokio::sync::Mutex<Appender>,
    /// Its folders.
    pub(crate) folders: Folders,
    /// What is stored for its result.
    pub(crate) storing: Storing,
    /// The session that it lives in.
    pub(crate) session: u64,
    version: u32,
    /// The ticket's place in the order of all tickets.
    created: u64,
    life: watch::Sender<Life>,
    recorded: Mutex<Vec<(String, String)>>,
    tasks: Mutex<Option<Tasks>>,
    untaken: Mutex<Untaken>,
    view: OnceLock<Arc<dyn View>>,
    at_end: Mutex<Option<AtEnd>>,
}

/// What is done when a claim is over.
type AtEnd = Box<dyn FnOnce(ClaimState) + Send>;

impl Claim {
    /// Where it stands.
    pub fn state(&self) -> ClaimState {
        self.life.borrow().state()
    }

    /// Whether its claimant gave it back.
    pub(crate) fn is_given_back(&self) -> bool {
        self.life.borrow().is_given_back()
    }

    /// Notices of where it stands.
    pub fn watch(&self) -> watch::Receiver<Life> {
        self.life.subscribe()
    }

    /// Waits until it is over, with a result or without, but no longer than this; whether it is.
    async fn is_over_within(&self, time: Duration) -> bool {
        let mut life = self.watch();
        let over = life.wait_for(|life| life.is_over());
        Deadline::after(time).wait(over).await.is_some()
    }

    /// Whether there is nothing to put into its workspace.
    pub(crate) fn starts_empty(&self) -> bool {
        self.folders.starts_empty()
    }

    /// The version of the ticket's entry that this claim made, while it is held.
    pub(crate) fn version(&self) -> Option<u32> {
        (self.state() == ClaimState::Live).then_some(self.version)
    }

    /// Whether it is held, and what was read of its ticket is later. One that was removed and posted again
    /// begins anew with its versions.
    pub(crate) fn precedes(&self, posted: &Posted) -> bool {
        self.version()
            .is_some_and(|version| (self.created, version) < (posted.created, posted.version))
    }

    /// Whose it is.
    pub(crate) fn who(&self) -> Claimant {
        Claimant {
            uid: self.uid,
            gid: self.gid,
            pid: self.pid,
        }
    }

    /// The ticket as it stands while this claim is held: nobody else can change it.
    pub(crate) fn posted(&self) -> Posted {
        Posted {
            ticket: self.ticket.clone(),
            version: self.version,
            created: self.created,
        }
    }

    /// Gives the claim the tree's view of its folders, once.
    pub fn set_view(&self, view: Arc<dyn View>) {
        if self.view.set(view.clone()).is_ok() && self.life.borrow().is_over() {
            view.kill();
        }
    }

    /// `Stale` unless the claim is held.
    pub fn check(&self) -> Result<()> {
        match self.state() {
            ClaimState::Live | ClaimState::Finishing => Ok(()),
            ClaimState::Finished | ClaimState::Lost => Err(Error::claim_lost(&self.key)),
        }
    }

    /// `Stale` if the claim is lost, `Exists` if it has its result.
    pub fn open_for_result(&self) -> Result<()> {
        match self.state() {
            ClaimState::Live => Ok(()),
            ClaimState::Finishing | ClaimState::Finished => {
                Err(Error::Exists(format!("{}: it has its result", self.key)))
            }
            ClaimState::Lost => Err(Error::claim_lost(&self.key)),
        }
    }

    /// Has what was stored through mappings written into the folders' files.
    pub(crate) async fn write_back(&self) {
        let Some(view) = self.view.get() else { return };
        let mut written = view.write_back();
        if Deadline::after(WRITE_BACK_MAX).wait(written.recv()).await.is_none() {
            tracing::warn!(ticket = %self.key, "the kernel has not written its mappings in time: their stores may miss");
        }
    }

    /// What was done below its folders so far.
    pub(crate) fn changes(&self) -> Changes {
        self.view.get().map_or_else(Changes::default, |view| view.changes())
    }

    /// What is to be said of its folders with a result that is no success.
    fn note(&self) -> Option<String> {
        self.view.get()?.note()
    }

    /// Whether its claimant has begun, as far as can be seen: something was changed below its folders,
    /// its console was opened to write, or a parameter was recorded.
    pub fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed) || self.changes().count > 0 || !self.recorded().is_empty()
    }

    /// Whether nothing was done below its folders since, and nothing is left open.
    pub(crate) fn is_quiet_since(&self, changes: &Changes) -> bool {
        self.view.get().is_none_or(|view| view.is_quiet_since(changes))
    }

    /// Ends it here, before anybody else learns of it.
    fn over(&self, with_result: bool) {
        self.life.send_modify(|life| life.over(with_result));
        if let Some(view) = self.view.get() {
            view.kill();
        }
        self.act_at_end();
    }

    /// Does something when it is over, at once if it is. For one who does so once.
    pub fn when_over(&self, act: impl FnOnce(ClaimState) + Send + 'static) {
        *lock(&self.at_end) = Some(Box::new(act));
        self.act_at_end();
    }

    fn act_at_end(&self) {
        let life = *self.life.borrow();
        if life.is_over() {
            let act = lock(&self.at_end).take();
            act.into_iter().for_each(|act| act(life.state()));
        }
    }
}

/// What is known beside the claims: of open tickets, and of the other mounts.
pub(crate) trait Outlook: Send + Sync {
    /// Notes that somebody here works on a queue.
    fn note_worked(&self, queue: &Name);
    /// Builds that wait for longer than the one of this ticket, at most `most`, in no order: of the job with this uid,
    /// those of strangers or the others, as far as is known here.
    fn older(&self, key: &TicketKey, of: (&str, bool), most: usize) -> Vec<TicketId>;
    /// Tickets of a queue that wait for a place of a group and are older than that, the oldest first, as far as is
    /// known here.
    fn waiting(&self, queue: &Name, group: &str, before: u64) -> Vec<TicketId>;
    /// Those of some tickets of a queue of which nothing is known here.
    fn unknown(&self, queue: &Name, ids: Vec<TicketId>) -> Vec<TicketId>;
    /// Those of some builds of the job with this uid of which nothing is known here.
    fn unknown_builds(&self, uid: &str, numbers: Vec<u64>) -> Vec<u64>;
    /// Whether a newer build makes an end of the one that a ticket is of, as far as is known here.
    fn is_superseded(&self, key: &TicketKey) -> bool;
    /// The tickets that one waits for, as their job's bound was another when they were triggered, the oldest first, as far
    /// as is known here.
    fn of_another_bound(&self, key: &TicketKey, posted: &Posted) -> Vec<TicketId>;
    /// How long to wait before a ticket is repaired here.
    fn repair_delay(&self, key: &TicketKey) -> Duration;
}

/// The claims of this mount, and what it must know beside them.
pub struct Claims {
    store: Arc<Store>,
    about: Arc<About>,
    pub(crate) jobs: Arc<Jobs>,
    configs: Arc<Configurations>,
    pub(crate) tickets: Arc<Tickets>,
    pub(crate) builds: Arc<Builds>,
    consoles: Arc<Consoles>,
    attempts: Arc<AttemptDirs>,
    wakers: Arc<Wakers>,
    people: Arc<People>,
    counts: Arc<Counts>,
    outlook: Arc<dyn Outlook>,
    pub(crate) groups: Arc<Groups>,
    /// Those that it holds.
    pub(crate) held: Arc<Held>,
    indeterminate: IndeterminateResults,
    pub(crate) stopped: Arc<Stopped>,
    /// Held while a result adds tasks to a build.
    adders: Adders,
}

impl Claims {
    /// On these builds' tickets, by this mount.
    pub(crate) fn new(
        builds: &Arc<Builds>,
        about: Arc<About>,
        wakers: Arc<Wakers>,
        held: Arc<Held>,
        outlook: Arc<dyn Outlook>,
    ) -> Arc<Self> {
        Arc::new(Claims {
            store: builds.store.clone(),
            about,
            jobs: builds.jobs.clone(),
            configs: builds.configs.clone(),
            tickets: builds.tickets.clone(),
            builds: builds.clone(),
            consoles: builds.consoles.clone(),
            attempts: builds.attempts.clone(),
            wakers,
            people: builds.people.clone(),
            counts: builds.counts.clone(),
            outlook,
            groups: Groups::new(builds.store.clone(), builds.jobs.clone()),
            held,
            indeterminate: IndeterminateResults::default(),
            stopped: Arc::default(),
            adders: Adders::default(),
        })
    }

    /// Claims an open ticket.
    ///
    /// # Errors
    /// `Exists` if somebody else has it, `NotFound` if there is none or it is finished, `Busy`
    /// if its group, or its job's `concurrency`, is used up.
    pub async fn claim(self: &Arc<Self>, key: &TicketKey, who: Claimant) -> Result<Arc<Claim>> {
        for _ in 0..TURNS_MAX {
            if let Some(claim) = self.try_to_claim(key, who).await? {
                return Ok(claim);
            }
        }
        Err(Error::Busy(format!("{key}: its group changes too fast: try again")))
    }

    /// The same; `None` if another ticket of its group was claimed at that moment.
    async fn try_to_claim(self: &Arc<Self>, key: &TicketKey, who: Claimant) -> Result<Option<Arc<Claim>>> {
        if self.store.shared {
            // A mount that was not let in, as its program is too old by now, could end nothing that it claims.
            drop(self.store.pin_epoch().await?);
        }
        let missing = || Error::NotFound(key.to_string());
        let mut posted = self.tickets.get(key).await?.ok_or_else(missing)?;
        if posted.ticket.state == TicketState::Claimed {
            // Nobody may have followed its queue when its claim went with a mount.
            self.reopen_orphan(key).await?;
            posted = self.tickets.get(key).await?.ok_or_else(missing)?;
        }
        let refused = |refused: Refused| match refused {
            Refused::Claimed => Error::Exists(format!("{key} is claimed already")),
            Refused::Finished | Refused::NotHeld => Error::NotFound(format!("{key} is finished")),
        };
        steps::may_claim(&posted.ticket).map_err(refused)?;
        if self.is_stopped(&posted.ticket).await? {
            // Whoever asked for that was cut short before it came to this one.
            self.heed_abort(key, posted.ticket.part.as_ref()).await?;
            return Err(Error::NotFound(format!("{key} is finished: its build is aborted")));
        }
        self.fence_earlier(key, &posted.ticket).await?;
        let session = self.store.current_session()?;
        let nonce = random_id();
        // What is seen of a group counts in this session only: one that goes on after an hour may meet another.
        let pin = match posted.ticket.group {
            Some(_) => Some(self.store.pin_epoch().await?),
            None => None,
        };
        let place = self.place_for(key, &posted).await?;
        let taken = Taken {
            nonce: nonce.clone(),
            node: self.about.node.to_string(),
            who,
            at: now(),
            by: self.people.person(who.uid).await,
            place,
        };
        // Of the operations of a claim, those come first that take its turn in the group.
        let turns = if place.is_some() && posted.ticket.group.is_some() {
            TURN_OPS
        } else {
            0
        };
        let Step { after, ops } = steps::claim(key, &posted, taken).map_err(refused)?;
        let ours = |entry: Option<&Entry>| entry.is_some_and(|e| has_nonce(e, &nonce));
        let committed = match &pin {
            Some(pin) => self.store.commit_pinned(pin, ops, &key.path(), ours).await,
            None => self.store.commit_settled(ops, &key.path(), ours).await,
        };
        match committed {
            Ok(Commit::Done) => self.hold(key.clone(), after, who, session).await.map(Some),
            Ok(Commit::Mismatch { index }) if index < turns => Ok(None),
            Ok(Commit::Mismatch { .. }) => Err(Error::Exists(format!("{key} was claimed by somebody else just now"))),
            Err(error) => {
                if matches!(error, Error::TimedOut(_)) {
                    self.disown(key.clone(), nonce);
                }
                Err(error)
            }
        }
    }

    /// Keeps a claim that was committed, and sees to its timeout.
    ///
    /// # Errors
    /// `Stale` if the session was lost meanwhile: then nobody knows in which one it was made.
    async fn hold(self: &Arc<Self>, key: TicketKey, posted: Posted, who: Claimant, session: u64) -> Result<Arc<Claim>> {
        let Posted {
            ticket,
            version,
            created,
        } = posted;
        let limit = ticket.time_limit() + TIMEOUT_GRACE;
        let claim = Arc::new(Claim {
            nonce: ticket.nonce.clone(),
            uid: who.uid,
            gid: who.gid,
            pid: who.pid,
            touched: AtomicBool::new(false),
            told: AtomicBool::new(false),
            begun: AtomicBool::new(false),
            aborting: AtomicBool::new(false),
            text: Mutex::default(),
            console: tokio::sync::Mutex::new(Appender::new(&key, &ticket)),
            folders: Folders::new(&ticket, who.uid),
            storing: self.attempts.storing(),
            session,
            version,
            created,
            life: watch::Sender::new(Life::default()),
            recorded: Mutex::default(),
            tasks: Mutex::default(),
            untaken: Mutex::default(),
            view: OnceLock::new(),
            at_end: Mutex::default(),
            key,
            ticket,
        });
        self.held.insert(&claim);
        self.outlook.note_worked(&claim.key.queue);
        self.look_for_abort_of(&claim);
        self.counts.claims.fetch_add(1, Ordering::Relaxed);
        if self.store.current_session().ok() != Some(session) {
            self.disown(claim.key.clone(), claim.nonce.clone());
            self.end_claim(&claim, Cause::Session).await;
            return Err(Error::claim_lost(&claim.key));
        }
        self.announce(&claim).await;
        let (claims, held) = (self.clone(), claim.clone());
        self.store.runtime.spawn(async move {
            // What becomes of a part of a build has to be heard, whoever made it so.
            if held.ticket.part.is_none() && held.is_over_within(ATTEND_AFTER).await {
                return;
            }
            // Whoever takes it away writes its ticket: so that is followed.
            let _subscription = claims.store.subscribe(&held.key.path()).await;
            if !held.is_over_within(limit).await {
                claims.end_claim(&held, Cause::TimedOut).await;
            }
        });
        Ok(claim)
    }

    /// Removes what was said of a notification, which is gone: what a crash leaves of that gc removes.
    fn remove_console_of_notification(&self, claim: &Claim) {
        if !claim.ticket.is_notification() {
            return;
        }
        let (consoles, names) = (self.consoles.clone(), scope_of(&claim.key, &claim.ticket));
        self.store.runtime.spawn(async move {
            if let Err(error) = consoles.remove(&names).await {
                tracing::debug!(%error, "the console of a notification is left to gc");
            }
        });
    }

    /// Lets go of the console of a claim that stands alone; a build's go with its record.
    fn forget_console(&self, claim: &Claim) {
        if claim.ticket.part.is_none() {
            self.consoles
                .forget(&[attempt_console(&claim.key, &claim.ticket, claim.ticket.ordinal())]);
        }
    }

    /// Commits a result: workspace, artifacts, console and outcome become visible as one.
    ///
    /// # Errors
    /// `Stale` if the claim is lost, `Exists` if there is a result; after any other the claim
    /// still holds and nothing is visible.
    pub async fn finish(self: &Arc<Self>, claim: &Arc<Claim>, result: TaskResult) -> Result<()> {
        let mut begun = Ok(());
        claim.life.send_if_modified(|life| {
            begun = life.begin_result();
            begun.is_ok()
        });
        match begun {
            Ok(()) => {}
            Err(ClaimState::Lost) => return Err(Error::claim_lost(&claim.key)),
            Err(_) => return Err(Error::Exists(format!("{}: it has its result", claim.key))),
        }
        let done = self.commit_result(claim, result).await;
        match done {
            Ok(kept) => {
                claim.over(true);
                self.held.remove(claim);
                self.forget_console(claim);
                self.remove_console_of_notification(claim);
                self.counts.results.fetch_add(1, Ordering::Relaxed);
                claim.storing.keep();
                let owner = (claim.uid, claim.gid);
                self.attempts
                    .retire_folders(&claim.folders, owner, kept, |then| claim.is_quiet_since(then));
                Ok(())
            }
            Err(Error::Stale(what)) => {
                self.give_up(claim, Cause::Taken).await;
                Err(Error::Stale(what))
            }
            Err(error) => {
                if is_refused(&error) {
                    claim.storing.take_back(&claim.key, claim.uid).await;
                }
                let mut ended = None;
                claim.life.send_modify(|life| ended = life.result_refused());
                if let Some(cause) = ended {
                    self.end_claim(claim, cause).await;
                }
                Err(error)
            }
        }
    }

    /// Writes what the claimant made, then the one commit.
    async fn commit_result(&self, claim: &Arc<Claim>, result: TaskResult) -> Result<Kept> {
        let (began, pin) = (Instant::now(), self.store.pin_epoch().await?);
        let kept = self.capture_folders(claim).await?;
        claim.console().await?.conclude(&self.consoles, claim).await?;
        let result = claim.refused(claim.counted(result));
        let (finished, commit) = self.commit_outcome(claim, &pin, &kept, result).await?;
        // It may have been committed, unknown to us, and be recorded and tidied up by now.
        let recorded = || async { self.is_recorded(claim).await.inspect_err(|_| claim.storing.keep()) };
        if commit? != Commit::Done && !recorded().await? {
            return Err(Error::claim_lost(&claim.key));
        }
        tracing::debug!(ticket = %claim.key, took = ?began.elapsed(), "result");
        // Whoever is in its folder may read how it ended when it is tidied up.
        self.tickets.tombstones.remember(&claim.key, finished);
        self.indeterminate.settle(&claim.key, claim.created);
        Ok(kept)
    }

    /// Whether the result of this very claim stands in its build's record.
    async fn is_recorded(&self, claim: &Claim) -> Result<bool> {
        let Some(part) = &claim.ticket.part else {
            return Ok(false);
        };
        // It may have another name by now; one that this mount has not heard of has the name of the ticket.
        let job = match self.jobs.by_uid(&part.uid) {
            Some(job) => Some(job),
            None => self.jobs.find(&part.job).await?.filter(|job| job.uid() == part.uid),
        };
        let Some(job) = job else { return Ok(false) };
        let Some(record) = self.builds.record(&job, part.build).await? else {
            return Ok(false);
        };
        let finisher = match part.task {
            Some(task) => record.tasks.get(task).map(|task| &task.nonce),
            None => Some(&record.finisher),
        };
        Ok(finisher == Some(&claim.nonce))
    }
}

/// Whether the entry is a ticket that carries this nonce.
fn has_nonce(entry: &Entry, nonce: &str) -> bool {
    serde_json::from_slice(&entry.data).is_ok_and(|ticket: Ticket| ticket.nonce == nonce)
}
