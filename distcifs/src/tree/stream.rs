//! Held requests: `.wait`, `.next` and `.events`. None is held longer than a second.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{Mutex, MutexGuard, oneshot};

use super::claim::{Held, Holder};
use super::content::result_text;
use super::handles::{Asking, Following, OPEN_FILE, Open, OpenKind};
use super::node::Node;
use super::process;
use super::requests::Waker;
use super::rights::{Reader, SEARCH, WRITE};
use super::{Caller, Deadline, Error, Result, Tree};
use crate::repository::claims::Claim;
use crate::repository::core::lock;
use crate::repository::deadline::locked;
use crate::repository::model::build::live_path;
use crate::repository::model::claim::{Cause, Claimant};
use crate::repository::model::event::Event;
use crate::repository::model::skills::Skills;
use crate::repository::model::ticket::queue_path;
use crate::repository::names::Name;
use crate::repository::queue_index::Asker;
use crate::repository::store::Subscription;
use crate::repository::wakers::open_key;

/// Longest time that a request is held: a process waiting in one can't be killed before.
pub(crate) const HELD_MAX: Duration = Duration::from_millis(950);

/// Most labels that a worker may have.
const LABELS_MAX: usize = 64;

/// Longest wait of one poll(2): the kernel asks again when it is woken.
const POLL_MAX: Duration = Duration::from_secs(3600);

/// What a claimant reads whose build was aborted, while it still holds its claim.
const ABORTED: &[u8] = b"aborted\n";

/// The empty line that stands for "nothing yet".
const NOTHING_YET: Bytes = Bytes::from_static(b"\n");

impl Tree {
    /// Reads `.wait`: what there is at the end, or nothing within a second.
    pub(crate) async fn read_wait(&self, node: &Node, given: &Mutex<Option<Bytes>>, size: usize) -> Result<Bytes> {
        let deadline = Deadline::after(HELD_MAX);
        let Some(mut given) = in_turn(given, deadline).await else {
            return Ok(Bytes::new());
        };
        if let Some(rest) = &mut *given {
            return Ok(take(rest, size));
        }
        let _subscription = self.subscribe_end(node).await?;
        loop {
            let key = self.wait_key(node)?;
            let told = self.repository.wakers.waiter(&key);
            let told = told.notified();
            if let Some(end) = self.end_of(node).await? {
                let rest = given.insert(end);
                return Ok(take(rest, size));
            }
            // What is told again and again holds nobody up either.
            if deadline.wait(told).await.is_none() || deadline.passed() {
                return Ok(Bytes::new());
            }
        }
    }

    /// By what name who waits on a node is woken.
    fn wait_key(&self, node: &Node) -> Result<String> {
        match node {
            Node::TicketFile(ticket, _) => Ok(ticket.key.path()),
            Node::BuildFile(job, n, _) => Ok(live_path(&job.uid, *n)),
            _ => Err(Error::NotPermitted(".wait".into())),
        }
    }

    /// Follows the ticket whose end is the end of this node.
    async fn subscribe_end(&self, node: &Node) -> Result<Option<Subscription>> {
        let path = match node {
            Node::TicketFile(ticket, _) => Some(ticket.key.path()),
            Node::BuildFile(job, n, _) => self.build(job, *n).await?.control_path(),
            _ => None,
        };
        match path {
            Some(path) => Ok(Some(self.repository.store.subscribe(&path).await?)),
            None => Ok(None),
        }
    }

    /// The result of a ticket or the final state of a build, once there is one.
    async fn end_of(&self, node: &Node) -> Result<Option<Bytes>> {
        match node {
            Node::TicketFile(ticket, _) => {
                let claim = self.repository.claims.held.get(&ticket.key);
                if claim.is_some_and(|claim| claim.is_aborting() && claim.posted().created == ticket.created) {
                    return Ok(Some(Bytes::from_static(ABORTED)));
                }
                let posted = self.posted(ticket).await?;
                Ok(posted
                    .ticket
                    .outcome
                    .is_some()
                    .then(|| Bytes::from(result_text(&posted))))
            }
            Node::BuildFile(job, n, _) => {
                let build = self.build(job, *n).await?;
                Ok(build
                    .verdict()
                    .map(|verdict| Bytes::from(format!("{}\n", verdict.as_str()))))
            }
            _ => Err(Error::NotPermitted(".wait".into())),
        }
    }

    /// Takes the labels of a worker that asks for work.
    pub(crate) fn write_labels(&self, asking: &mut Asking, text: &[u8]) -> Result<()> {
        let text = std::str::from_utf8(text).map_err(|_| Error::Invalid(".next: labels are not UTF-8".into()))?;
        let labels: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        if let Some(word) = labels.iter().find(|word| !Skills::is_word(word)) {
            return Err(Error::Invalid(format!(
                ".next: {word:?} is no label, nor only: before one"
            )));
        }
        if labels.len() > LABELS_MAX {
            return Err(Error::TooBig(format!(".next: over {LABELS_MAX} labels")));
        }
        asking.labels = labels;
        Ok(())
    }

    /// Reads `.next`: the id of a ticket that is now claimed for the reader, or an empty line.
    pub(crate) async fn read_next(
        &self,
        open: &Arc<Open>,
        caller: Caller,
        queue: &Name,
        asking: &Mutex<Asking>,
        holder: &Arc<Holder>,
        size: usize,
    ) -> Result<Bytes> {
        let deadline = Deadline::after(HELD_MAX);
        let Some(mut asking) = in_turn(asking, deadline).await else {
            return Ok(NOTHING_YET);
        };
        if asking.rest.is_empty() {
            if asking.preparing.is_none() {
                let (labels, left) = (&asking.labels, deadline.left());
                asking.preparing = self.next_claim(open, caller, queue, labels, holder, left).await?;
            }
            asking.rest = self.prepared(caller, &mut asking, deadline).await?;
        }
        Ok(take(&mut asking.rest, size))
    }

    /// Waits for a ticket and begins to prepare its claimant's folders.
    async fn next_claim(
        &self,
        open: &Arc<Open>,
        caller: Caller,
        queue: &Name,
        labels: &[String],
        holder: &Arc<Holder>,
        time: Duration,
    ) -> Result<Option<(Arc<Held>, oneshot::Receiver<Result<()>>)>> {
        let who = Claimant {
            uid: open.caller.uid,
            gid: open.caller.gid,
            pid: holder.process().pid,
        };
        let reader = open.reader.clone();
        let asker = Asker {
            alive: Box::new(move |()| !process::is_killed(caller.tid)),
            may: Box::new(move |queue| reader.as_ref().is_some_and(|reader| reader.may(queue, WRITE | SEARCH))),
        };
        self.may_still(open, queue).await?;
        let Some(claim) = self.repository.dispatcher.next(queue, labels, who, asker, time).await? else {
            return Ok(None);
        };
        super::handles::remember_claim(open, &claim);
        let held = self.keep_claim(claim, holder.clone(), None, Vec::new());
        let (done, prepared) = oneshot::channel();
        if held.claim.starts_empty() {
            // Two folders are made as fast as anybody asks for them, and many never do.
            let _ = done.send(Ok(()));
        } else {
            let folders = self.folders(&held);
            self.runtime.spawn(async move {
                // Nobody waits any more: the claim is over, and its folders go with it.
                let _ = done.send(folders.prepare().await);
            });
        }
        Ok(Some((held, prepared)))
    }

    /// The line that tells of a claim once its folders are there; until then an empty one.
    async fn prepared(&self, caller: Caller, asking: &mut Asking, deadline: Deadline) -> Result<Bytes> {
        let Some((held, prepared)) = &mut asking.preparing else {
            return Ok(NOTHING_YET);
        };
        let Some(done) = deadline.wait(prepared).await else {
            return Ok(NOTHING_YET);
        };
        let claim = held.claim.clone();
        asking.preparing = None;
        match done.unwrap_or_else(|_| Err(Error::Io(".next: preparing the workspace ended without a word".into()))) {
            Ok(()) => {
                // What is answered to a process that is killed meanwhile, nobody reads.
                claim.told.fetch_or(!process::is_killed(caller.tid), Ordering::Relaxed);
                Ok(Bytes::from(format!("{}\n", claim.key.id)))
            }
            Err(error) => {
                // Nobody knows of the claim yet.
                self.repository.claims.end_claim(&claim, Cause::Unbegun).await;
                Err(error)
            }
        }
    }

    /// Ends the claims of a reader of `.next` when its process dies.
    pub(crate) fn follow_asker(&self, open: &Arc<Open>, holder: &Arc<Holder>) {
        let (open, process) = (Arc::downgrade(open), holder.process());
        let (repository, runtime) = (self.repository.clone(), self.runtime.clone());
        runtime.spawn(async move {
            // The file is let go of at its release: whoever looks a second later sees it.
            while Deadline::after(HELD_MAX).wait(process.ended()).await.is_none() {
                if open.strong_count() == 0 {
                    return;
                }
            }
            let Some(open) = open.upgrade() else { return };
            for claim in super::handles::claims_of(&open) {
                repository.claims.end_claim(&claim, cause_of_death(&claim)).await;
            }
        });
    }

    /// Ends the claims of a reader of `.next` when it closes it.
    pub(crate) fn asker_released(&self, open: &Arc<Open>, died: bool) {
        let repository = self.repository.clone();
        let open = open.clone();
        self.runtime.spawn(async move {
            for claim in super::handles::claims_of(&open) {
                let cause = if died {
                    cause_of_death(&claim)
                } else {
                    cause_of_close(&claim)
                };
                repository.claims.end_claim(&claim, cause).await;
            }
        });
    }

    /// Reads `.events`: a line of what its reader may read, or an empty one.
    pub(crate) async fn read_events(&self, following: &Mutex<Following>, size: usize) -> Result<Bytes> {
        let deadline = Deadline::after(HELD_MAX);
        let Some(mut following) = in_turn(following, deadline).await else {
            return Ok(NOTHING_YET);
        };
        let following = &mut *following;
        if following.rest.is_empty() {
            let mut text = String::new();
            while text.is_empty() {
                match deadline.wait(following.lines.recv()).await {
                    None => text.push('\n'),
                    Some(Ok(line)) => self.tell_line(&following.reader, &line, &mut text).await?,
                    Some(Err(RecvError::Lagged(_))) => text += "resync\n",
                    Some(Err(RecvError::Closed)) => return Ok(Bytes::new()),
                }
                // Lines that he may not read come as fast as others work.
                if text.is_empty() && deadline.passed() {
                    text.push('\n');
                }
            }
            // What is there already goes out in one read.
            while text.len() < size && !deadline.passed() {
                match following.lines.try_recv() {
                    Ok(line) => self.tell_line(&following.reader, &line, &mut text).await?,
                    Err(TryRecvError::Lagged(_)) => text += "resync\n",
                    Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                }
            }
            following.rest = Bytes::from(text);
        }
        Ok(take(&mut following.rest, size))
    }

    /// Adds a line to what a reader of `.events` gets, if it may read what the line tells of.
    async fn tell_line(&self, reader: &Reader, event: &Event, text: &mut String) -> Result<()> {
        if self.may_hear(reader, event).await? {
            text.push_str(&format!("{event}\n"));
        }
        Ok(())
    }

    /// Whether a held file can be read now; if not, `wake` is called once when it might.
    pub(crate) async fn poll_stream(&self, open: &Arc<Open>, wake: Option<Waker>) -> Result<bool> {
        match &open.kind {
            OpenKind::Next(asking, _) => {
                let Node::QueueFile(queue, _) = &open.node else {
                    return Ok(true);
                };
                let asking = locked(OPEN_FILE, asking).await?;
                let subscription = self.repository.store.subscribe(&queue_path(queue)).await?;
                let key = open_key(queue);
                let told = self.repository.wakers.waiter(&key).notified_owned();
                if !asking.rest.is_empty() || self.repository.queue_index.has_open(queue, &asking.labels) {
                    return Ok(true);
                }
                self.wake_later(open, wake, async move {
                    let _subscription = subscription;
                    told.await;
                });
                Ok(false)
            }
            OpenKind::Events(following) => {
                let following = locked(OPEN_FILE, following).await?;
                let mut lines = following.lines.resubscribe();
                if !following.rest.is_empty() || !following.lines.is_empty() {
                    return Ok(true);
                }
                self.wake_later(open, wake, async move {
                    // Any outcome is a reason to look again.
                    let _ = lines.recv().await;
                });
                Ok(false)
            }
            OpenKind::Wait(given) => {
                let subscription = self.subscribe_end(&open.node).await?;
                let told = self
                    .repository
                    .wakers
                    .waiter(&self.wait_key(&open.node)?)
                    .notified_owned();
                if locked(OPEN_FILE, given).await?.is_some() || self.end_of(&open.node).await?.is_some() {
                    return Ok(true);
                }
                self.wake_later(open, wake, async move {
                    let _subscription = subscription;
                    told.await;
                });
                Ok(false)
            }
            _ => Ok(true),
        }
    }

    /// Wakes whoever polls this open file after the event, which was watched for before the look
    /// that found nothing. One at a time: each poll(2) asks anew, and waking wakes all of them.
    fn wake_later(&self, open: &Open, wake: Option<Waker>, event: impl Future<Output = ()> + Send + 'static) {
        let Some(wake) = wake else { return };
        let task = self.runtime.spawn(async move {
            // Timing out wakes too: whoever polls looks again.
            let _ = Deadline::after(POLL_MAX).wait(event).await;
            wake();
        });
        if let Some(former) = lock(&open.polled).replace(task.abort_handle()) {
            former.abort();
        }
    }
}

/// A dead worker's claim counts as an attempt only if it had looked at it, or begun it in another way.
fn cause_of_death(claim: &Claim) -> Cause {
    if claim.touched.load(Ordering::Relaxed) || claim.has_begun() {
        Cause::Died
    } else {
        cause_of_close(claim)
    }
}

/// A claim that was let go of may have been begun once somebody knew of it.
fn cause_of_close(claim: &Claim) -> Cause {
    if claim.touched.load(Ordering::Relaxed) || claim.told.load(Ordering::Relaxed) {
        Cause::GivenBack
    } else {
        Cause::Unbegun
    }
}

/// The turn of one of many who read one open file; `None` if others have it for as long as a request is held.
async fn in_turn<T>(lock: &Mutex<T>, deadline: Deadline) -> Option<MutexGuard<'_, T>> {
    // The others may have kept it to the end of their time, which is ours.
    deadline.wait(lock.lock()).await.filter(|_| !deadline.passed())
}

/// Takes up to `size` bytes off the front.
pub(crate) fn take(rest: &mut Bytes, size: usize) -> Bytes {
    rest.split_to(rest.len().min(size))
}
