//! Claims as the tree makes them: who the claimant is, how long it lives, what is its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, OnceCell};
use tokio::time::Instant;

use super::node::{Area, Node, TicketRef};
use super::process::{self, Process};
use super::published::{Place, Whose};
use super::shares::Lease;
use super::view::{Seen, Viewer};
use super::work::{Attempt, Work};
use super::{Caller, Deadline, Error, Ino, Invalidation, Result, Tree};
use crate::repository::Repository;
use crate::repository::access::Access;
use crate::repository::attempts::view::{Changes, View};
use crate::repository::claims::Claim;
use crate::repository::core::{lock, time_of};
use crate::repository::model::claim::{Cause, ClaimState, Claimant};
use crate::repository::model::ticket::{BuildRef, Posted};

/// A descriptor that is closed sooner than this after the claim was made belonged to one command
/// (`touch claim`, `echo $$ > claim`); one that is held longer is the claim.
const ONE_COMMAND: Duration = Duration::from_millis(500);

/// How long the release of a descriptor may follow the death of the process that closed it.
const RELEASE_LAG: Duration = Duration::from_millis(100);

/// The process that a claim lives by.
pub(crate) struct Holder {
    process: Mutex<Arc<Process>>,
    /// Whether it left on its own with the descriptor open.
    exiting: AtomicBool,
    /// Wakes whoever watches the former process.
    moved: Notify,
}

impl Holder {
    /// Held by this process.
    pub(crate) fn new(process: Process) -> Self {
        Holder {
            process: Mutex::new(Arc::new(process)),
            exiting: AtomicBool::new(false),
            moved: Notify::new(),
        }
    }

    /// The process it lives by now.
    pub(crate) fn process(&self) -> Arc<Process> {
        lock(&self.process).clone()
    }

    /// A copy of the descriptor was flushed: notes whether by this process on its way out, and not
    /// by a child that has a copy.
    pub(crate) fn flushed(&self, caller: Caller) {
        let process = self.process();
        let its_own = caller.tid == process.pid || process::process_of(caller.tid) == Some(process.pid);
        let exiting = || process::stat(caller.tid).map_or_else(|| process::is_gone(caller.tid), |stat| stat.exiting);
        if its_own && exiting() {
            self.exiting.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it ended with the descriptor open.
    pub(crate) fn died(&self) -> bool {
        self.exiting.load(Ordering::Relaxed)
    }

    /// From now on it lives by another.
    fn pass_to(&self, process: Process) {
        *lock(&self.process) = Arc::new(process);
        self.moved.notify_waiters();
    }
}

/// A claim of this mount, with its claimant and its folders. The truth is the repository's claim: one that is over
/// there answers ESTALE here.
pub(crate) struct Held {
    pub(crate) claim: Arc<Claim>,
    pub(crate) holder: Arc<Holder>,
    /// The leader of the session of the process that made it.
    leader: Mutex<Option<Process>>,
    /// The process named in the file, once one was.
    named: AtomicBool,
    /// Whether times were set on it: then it was made by one command, however slow.
    by_touch: AtomicBool,
    since: Instant,
    roots: OnceCell<Roots>,
    work: Arc<Work>,
    /// What holding on to its processes takes of the daemon's descriptors.
    _leases: Vec<Lease>,
}

/// The roots of a claimant's folders.
#[derive(Clone)]
struct Roots {
    attempt: Arc<Attempt>,
    workspace: Ino,
    artifacts: Ino,
}

impl Held {
    /// Its folders, once they are made.
    pub(crate) fn attempt(&self) -> Option<Arc<Attempt>> {
        self.roots.get().map(|roots| roots.attempt.clone())
    }
}

/// Ends path operations below a claim's folders when it is over.
struct AttemptView {
    work: Arc<Work>,
    attempt: Arc<Attempt>,
    invalidate: tokio::sync::mpsc::UnboundedSender<Invalidation>,
}

impl View for AttemptView {
    fn kill(&self) {
        for ino in self.work.kill(&self.attempt) {
            // Nobody to tell: the mount is ending.
            let _ = self.invalidate.send(Invalidation::Node(ino));
        }
    }

    fn write_back(&self) -> tokio::sync::mpsc::Receiver<()> {
        let (done, written) = tokio::sync::mpsc::channel(1);
        for ino in self.work.being_written(&self.attempt) {
            // Nobody to tell: the mount is ending.
            let _ = self.invalidate.send(Invalidation::Pages(ino, done.clone()));
        }
        written
    }

    fn changes(&self) -> Changes {
        self.attempt.changes()
    }

    fn note(&self) -> Option<String> {
        self.attempt.note()
    }

    fn is_held_up(&self) -> bool {
        self.attempt.is_held_up()
    }

    fn is_quiet_since(&self, changes: &Changes) -> bool {
        let still = self.attempt.change_count() == changes.count && !self.attempt.is_held_up();
        still && self.attempt.open_files() == 0
    }
}

/// A claimant's folders on their way.
pub(crate) struct Preparing {
    repository: Arc<Repository>,
    invalidate: tokio::sync::mpsc::UnboundedSender<Invalidation>,
    held: Arc<Held>,
}

impl Preparing {
    /// Prepares the claimant's folders, once.
    async fn roots(&self) -> Result<Roots> {
        let held = &self.held;
        let made = held.roots.get_or_try_init(|| async {
            let workspace = self.repository.claims.workspace_dir(&held.claim).await?;
            let artifacts = self.repository.claims.artifacts_dir(&held.claim).await?;
            let attempt = held.work.begin();
            attempt.set_owner(held.claim.ticket.owner.unwrap_or(held.claim.uid));
            attempt.set_name(name_of(&held.claim));
            let workspace = held.work.attach(&attempt, &workspace)?;
            let artifacts = held.work.attach(&attempt, &artifacts)?;
            if let Some(limit) = held.claim.ticket.disk {
                let (work, attempt) = (held.work.clone(), attempt.clone());
                let counted = tokio::task::spawn_blocking(move || work.limit(&attempt, limit));
                counted
                    .await
                    .map_err(|error| Error::Io(format!("counting a workspace: {error}").into()))??;
            }
            let (work, invalidate) = (held.work.clone(), self.invalidate.clone());
            held.claim.set_view(Arc::new(AttemptView {
                work,
                attempt: attempt.clone(),
                invalidate,
            }));
            Ok::<_, Error>(Roots {
                attempt,
                workspace,
                artifacts,
            })
        });
        made.await.cloned()
    }

    /// What they belong to.
    pub(crate) async fn attempt(&self) -> Result<Arc<Attempt>> {
        Ok(self.roots().await?.attempt)
    }

    /// Prepares them before anybody asks.
    pub(crate) async fn prepare(&self) -> Result<()> {
        self.roots().await.map(|_| ())
    }
}

impl Tree {
    /// Claims a ticket for the process that makes the file `claim`.
    pub(crate) async fn make_claim(&self, caller: Caller, ticket: &TicketRef) -> Result<Arc<Held>> {
        self.may_claim(caller, ticket).await?;
        let unseen = || Error::NotClaimant(format!("{}: your process can't be seen from here", ticket.key));
        // Most callers are the first thread of their process, which goes by the same number.
        let opener = Process::hold(caller.tid).or_else(|| Process::hold(process::process_of(caller.tid)?));
        let opener = opener.ok_or_else(unseen)?;
        let pid = opener.pid;
        let leader = if opener.session == pid {
            None
        } else {
            Process::hold(opener.session)
        };
        let leases = vec![self.lease_process(caller)?, self.lease_process(caller)?];
        let who = Claimant {
            uid: caller.uid,
            gid: caller.gid,
            pid,
        };
        let claiming = self.repository.nodes.begin_claim()?;
        let claim = self.repository.claims.claim(&ticket.key, who).await?;
        drop(claiming);
        claim.touched.store(true, Ordering::Relaxed);
        let held = self.keep_claim(claim, Arc::new(Holder::new(opener)), leader, leases);
        self.follow_holder(held.clone());
        Ok(held)
    }

    /// Keeps a claim with its holder until it is over.
    pub(crate) fn keep_claim(
        &self,
        claim: Arc<Claim>,
        holder: Arc<Holder>,
        leader: Option<Process>,
        leases: Vec<Lease>,
    ) -> Arc<Held> {
        let held = Arc::new(Held {
            claim: claim.clone(),
            holder,
            leader: Mutex::new(leader),
            named: AtomicBool::new(false),
            by_touch: AtomicBool::new(false),
            since: Instant::now(),
            roots: OnceCell::new(),
            work: self.work.clone(),
            _leases: leases,
        });
        lock(&self.held).insert(claim.key.clone(), held.clone());
        let (kept, all, past) = (held.clone(), self.held.clone(), self.past.clone());
        let (invalidate, queue) = (self.invalidate.clone(), Node::Queue(Arc::new(claim.key.queue.clone())));
        let queue = self.numbers.ino(&queue);
        let whose = self.descriptors.party(claim.ticket.owner.unwrap_or(claim.uid));
        claim.when_over(move |state| {
            let (key, nonce) = (&kept.claim.key, &kept.claim.nonce);
            let mut all = lock(&all);
            if all.get(key).is_some_and(|now| now.claim.nonce == *nonce) {
                all.remove(key);
            }
            drop(all);
            if state == ClaimState::Lost {
                // Who claims it next enters a folder of its own, not the one that the kernel remembers.
                let (parent, name) = (queue, key.id.as_str().into());
                let _ = invalidate.send(Invalidation::Name { parent, name });
            }
            past.remember(&kept.claim, whose, kept.holder.process(), state);
        });
        held
    }

    /// Ends a claim when the process that it lives by does.
    fn follow_holder(&self, held: Arc<Held>) {
        let repository = self.repository.clone();
        self.runtime.spawn(async move {
            let mut life = held.claim.watch();
            loop {
                let process = held.holder.process();
                let moved = held.holder.moved.notified();
                tokio::select! {
                    () = process.ended() => {}
                    () = moved => continue,
                    _ = life.wait_for(|life| life.is_over()) => return,
                }
                // A process that closed its descriptor and ended at once (touch): the release is
                // still on its way and passes the claim on.
                if !held.holder.died() {
                    let _ = Deadline::after(RELEASE_LAG).wait(held.holder.moved.notified()).await;
                }
                if held.holder.process().pid == process.pid {
                    repository.claims.end_claim(&held.claim, Cause::Died).await;
                    return;
                }
            }
        });
    }

    /// The last copy of the claim's descriptor was closed: the claim passes on, or ends.
    pub(crate) fn claim_released(&self, held: &Arc<Held>) {
        if held.named.load(Ordering::Relaxed) || held.claim.check().is_err() {
            return;
        }
        let died = held.holder.died();
        let cause = if died { Cause::Died } else { Cause::GivenBack };
        let one_command = held.by_touch.load(Ordering::Relaxed) || held.since.elapsed() < ONE_COMMAND;
        let brief = !died && one_command;
        match lock(&held.leader).take() {
            Some(leader) if brief => held.holder.pass_to(leader),
            // Without a living leader, the process that made it.
            None if brief => {}
            _ => {
                let (repository, claim) = (self.repository.clone(), held.claim.clone());
                self.runtime
                    .spawn(async move { repository.claims.end_claim(&claim, cause).await });
            }
        }
    }

    /// What the claimant writes into the file `claim`: a process id that it lives by from then
    /// on, or any words. The process must be of the user who opened the file; its id is one of the pid
    /// namespace of the thread that writes.
    pub(crate) async fn write_claim(&self, held: &Arc<Held>, opener: u32, writer: u32, text: &[u8]) -> Result<()> {
        held.claim.check()?;
        let text = String::from_utf8_lossy(text);
        let word = text.trim();
        if !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit()) {
            let process = match word.parse() {
                Ok(pid) => translated(writer, pid).await,
                Err(_) => None,
            };
            let living = process
                .and_then(Process::hold)
                .filter(|p| process::user_of(p.pid) == Some(opener) || opener == 0);
            let Some(living) = living else {
                // The writer believes that nothing was claimed: so be it, unless it has begun.
                self.repository
                    .claims
                    .end_claim(&held.claim, cause_of_end(&held.claim))
                    .await;
                return Err(Error::Invalid(format!(
                    "{}/claim: {word} is no living process of yours",
                    held.claim.key
                )));
            };
            held.named.store(true, Ordering::Relaxed);
            held.holder.pass_to(living);
        }
        let mut kept = lock(&held.claim.text);
        let room = CLAIM_TEXT_MAX.saturating_sub(kept.len());
        kept.push_str(text.get(..text.len().min(room)).unwrap_or_default());
        Ok(())
    }

    /// Gives a ticket back: its claimant may, root, and whoever the queue belongs to.
    pub(crate) async fn give_back(&self, caller: Caller, ticket: &TicketRef) -> Result<()> {
        // Who lost a claim means that one, root too: by the folder's name he comes to the next one's.
        if self.has_lost(caller, ticket) {
            return Err(Error::claim_lost(&ticket.key));
        }
        let held = lock(&self.held).get(&ticket.key).cloned();
        let owner = self.queue_access(&ticket.key.queue).await?.uid;
        let its_own = held.is_some_and(|held| held.holder.process().covers(caller.tid));
        if !its_own && caller.uid != 0 && caller.uid != owner {
            return Err(Error::NotClaimant(format!(
                "{}/claim: it is not yours to give back",
                ticket.key
            )));
        }
        let Some(claim) = self.repository.claims.held.get(&ticket.key) else {
            return Err(Error::Busy(format!("{}/claim: it is held on another node", ticket.key)));
        };
        // Who stands in the folder since before a claim was lost means that one.
        if !its_own && claim.posted().ticket.ordinal() != ticket.turn {
            return Err(Error::claim_lost(&ticket.key));
        }
        // What somebody else takes away may have begun without a trace.
        let cause = if its_own {
            cause_of_end(&claim)
        } else {
            Cause::GivenBack
        };
        self.repository.claims.end_claim(&claim, cause).await;
        Ok(())
    }

    /// Notes that the claimant looks into its ticket's folder.
    pub(crate) fn touch(&self, caller: Caller, ticket: &TicketRef) {
        let Some(claim) = self.repository.claims.held.get(&ticket.key) else {
            return;
        };
        if claim.touched.load(Ordering::Relaxed) {
            return;
        }
        let held = lock(&self.held).get(&ticket.key).cloned();
        if held.is_some_and(|held| held.holder.process().covers(caller.tid)) {
            claim.touched.store(true, Ordering::Relaxed);
        }
    }

    /// `workspace` or `artifacts` of a ticket: the claimant's own, or what was published.
    pub(crate) async fn ticket_area(&self, caller: Caller, ticket: &Arc<TicketRef>, area: Area) -> Result<Node> {
        self.touch(caller, ticket);
        let held = lock(&self.held).get(&ticket.key).cloned();
        if let Some(held) = held.filter(|held| held.claim.check().is_ok()) {
            let of_another = held.claim.posted().ticket.ordinal() != ticket.turn;
            if of_another && !held.holder.process().covers(caller.tid) || self.has_lost(caller, ticket) {
                return Err(Error::claim_lost(&ticket.key));
            }
            let roots = self.folders(&held).roots().await?;
            return Ok(Node::Work(match area {
                Area::Workspace => roots.workspace,
                Area::Artifacts => roots.artifacts,
            }));
        }
        // Who lost its claim would take what another made for the state that it was to begin from.
        let posted = self.area_for(caller, ticket).await?;
        let (access, _) = self
            .ticket_access(ticket, &posted, &Node::Ticket(ticket.clone()))
            .await?;
        let mut access = Access {
            mode: access.mode & 0o777,
            ..access
        };
        let job = self.job_of(&posted.ticket)?;
        if let (Area::Artifacts, Some(mode)) = (area, job.and_then(|job| job.entry.files.artifacts)) {
            // Whom the job's artifacts are closed to, those of one task are.
            access.mode &= mode;
        }
        let time = time_of(posted.ticket.posted);
        let digest = digest_of(&posted, area);
        let parent = self.numbers.ino(&Node::Ticket(ticket.clone()));
        let place = Place {
            whose: Whose::Ticket(ticket.clone(), area),
            access,
            viewer: None,
            time,
            parent,
        };
        Ok(match area {
            Area::Workspace => self.published_workspace(place, digest).await,
            Area::Artifacts => self.published_root(place, digest),
        })
    }

    /// What it takes to prepare a claimant's folders, also when nobody has asked for them yet.
    pub(crate) fn folders(&self, held: &Arc<Held>) -> Preparing {
        Preparing {
            repository: self.repository.clone(),
            invalidate: self.invalidate.clone(),
            held: held.clone(),
        }
    }

    /// `workspace` or `artifacts` of a build.
    pub(crate) async fn build_area(
        &self,
        build: &crate::repository::model::build::Build,
        area: Area,
        through: Option<(&Arc<TicketRef>, Viewer)>,
    ) -> Result<Node> {
        let entry = &build.job.entry;
        let time = match build.finished() {
            0 => build.triggered(),
            finished => finished,
        };
        let job = Arc::new(super::look::job_ref(&build.job));
        let (digest, mode) = match area {
            Area::Workspace => (build.workspace(), entry.access.mode & 0o777),
            Area::Artifacts => {
                let merged = self.repository.builds.merged_artifacts(build).await?;
                (merged, entry.files.artifacts.unwrap_or(entry.access.mode & 0o777))
            }
        };
        let access = Access { mode, ..entry.access };
        let folder = Node::Build(job.clone(), build.n);
        let (whose, parent, viewer) = match through {
            None => (Whose::Build(job, build.n, area), folder, None),
            Some((ticket, viewer)) => {
                let (ticket, node) = (ticket.clone(), folder);
                let whose = Whose::Seen(ticket.clone(), viewer.runner, job, build.n, area);
                (whose, Node::Seen(Arc::new(Seen { ticket, node })), Some(viewer))
            }
        };
        let place = Place {
            whose,
            access,
            viewer,
            time: time_of(time),
            parent: self.numbers.ino(&parent),
        };
        Ok(match area {
            Area::Workspace => self.published_workspace(place, digest.as_deref()).await,
            Area::Artifacts => self.published_root(place, digest.as_deref()),
        })
    }

    /// Notes that times were set on `claim`, as `touch` does; only the process that made it may.
    pub(crate) fn touched_claim(&self, caller: Caller, ticket: &TicketRef) -> bool {
        let held = lock(&self.held).get(&ticket.key).cloned();
        held.is_some_and(|held| {
            let pid = held.claim.pid;
            let opener = pid == caller.tid || process::process_of(caller.tid) == Some(pid);
            if opener {
                held.by_touch.store(true, Ordering::Relaxed);
            }
            opener
        })
    }
}

/// A claim's ticket and job, for the log.
fn name_of(claim: &Claim) -> String {
    let of_job = |part: &BuildRef| format!("{}, job {} build {}", claim.key, part.job, part.build);
    claim.ticket.part.as_ref().map_or_else(|| claim.key.to_string(), of_job)
}

/// How a claim ends that its claimant ends.
fn cause_of_end(claim: &Claim) -> Cause {
    if claim.has_begun() {
        Cause::GivenBack
    } else {
        Cause::Unbegun
    }
}

/// A process id as the writer sees it, in the ids of the daemon. It reads links below /proc/PID of
/// strangers, which may exec and wait for us: never on a thread that serves requests, nor for ever.
async fn translated(writer: u32, pid: u32) -> Option<u32> {
    let found = tokio::task::spawn_blocking(move || process::translate(writer, pid));
    Deadline::after(TRANSLATE_MAX).wait(found).await?.ok()?
}

/// Longest look for a process of another pid namespace.
const TRANSLATE_MAX: Duration = Duration::from_secs(5);

/// Longest text kept of what a claimant writes into `claim`, bytes.
const CLAIM_TEXT_MAX: usize = 1024;

/// The digest that an unclaimed ticket's folder shows.
fn digest_of(posted: &Posted, area: Area) -> Option<&str> {
    let outcome = posted.ticket.outcome.as_ref();
    match (area, outcome) {
        (Area::Workspace, Some(outcome)) => outcome.workspace.as_deref(),
        (Area::Workspace, None) => posted.ticket.workspace.as_deref(),
        (Area::Artifacts, outcome) => outcome.and_then(|outcome| outcome.artifacts.as_deref()),
    }
}
