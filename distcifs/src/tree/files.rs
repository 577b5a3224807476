//! Opening, reading, writing, flushing and closing generated files.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::claim::Holder;
use super::content::{Content, result_text};
use super::handles::{Asking, Committing, Following, OPEN_FILE, Open, OpenKind};
use super::node::{BuildFile, JobFile, JobRef, Node, QueueFile, TicketFile, TicketRef, Top};
use super::process::{self, Process};
use super::rights::{READ, Reader};
use super::shares::{Lease, out_of_descriptors};
use super::stream::take;
use super::texts::{hold, hold_all};
use super::{Caller, Error, Ino, Opened, Result, Tree};
use crate::repository::claims::{Claim, RECORDED_BYTES_MAX, TaskResult};
use crate::repository::config::{TicketRequest, TriggerRequest, Upstream};
use crate::repository::control::Word;
use crate::repository::core::lock;
use crate::repository::deadline::locked;
use crate::repository::model::console::Extent;
use crate::repository::model::ticket::Poster;
use crate::repository::names::Name;

/// Largest text of a trigger, a ticket, a control word or a result, bytes.
const COMMIT_BYTES_MAX: usize = 256 << 10;

/// Largest text that is checked after each write already: many small writes of a larger one would
/// have it read over and over.
const EARLY_BYTES_MAX: usize = 16 << 10;

/// Whether a file takes words, each committed by its line's end or by a flush.
fn takes_words(node: &Node) -> bool {
    matches!(
        node,
        Node::QueueFile(_, QueueFile::Post)
            | Node::BuildFile(_, _, BuildFile::Ctl | BuildFile::Approve)
            | Node::Top(Top::Drain)
    )
}

impl Tree {
    /// Opens a generated file.
    pub(crate) async fn open_node(&self, caller: Caller, node: Node, flags: i32) -> Result<Opened> {
        let write = flags & libc::O_ACCMODE != libc::O_RDONLY;
        let both = flags & libc::O_ACCMODE == libc::O_RDWR;
        let kind = match &node {
            Node::Top(Top::Events) => {
                let lines = self.repository.events.listen();
                OpenKind::Events(tokio::sync::Mutex::new(Following {
                    _subscriptions: self.repository.store.subscribe_events().await?,
                    reader: Reader::of(caller),
                    lines,
                    rest: Bytes::new(),
                }))
            }
            Node::QueueFile(_, QueueFile::Next) => open_next(caller)?,
            Node::QueueFile(_, QueueFile::Post) if write => self.open_post().await?,
            words if write && takes_words(words) => OpenKind::Commit(Default::default()),
            Node::BuildFile(_, _, BuildFile::Wait) | Node::TicketFile(_, TicketFile::Wait) if !write => {
                OpenKind::Wait(Default::default())
            }
            Node::JobFile(job, JobFile::Trigger) if write => self.open_trigger(caller, &node, job, None).await?,
            Node::JobFile(_, JobFile::Enabled) if write => OpenKind::Commit(Default::default()),
            Node::JobFile(job, JobFile::Config) if write => {
                let (truncate, wait) = (flags & libc::O_TRUNC != 0, flags & libc::O_NONBLOCK == 0);
                OpenKind::Config(tokio::sync::Mutex::new(
                    self.open_config(caller, job, truncate, wait).await?,
                ))
            }
            Node::TicketFile(ticket, TicketFile::Claim) if write => {
                return Err(Error::Exists(format!("{} is claimed already", ticket.key)));
            }
            Node::TicketFile(ticket, TicketFile::Console) if write => {
                let claim = self.claim_of(caller, ticket).await?;
                claim.begun.store(true, Ordering::Relaxed);
                OpenKind::Append(claim)
            }
            Node::TicketFile(ticket, TicketFile::Result) if write => {
                // Bound to this claim: it writes no result of a later one.
                let claim = Some(self.claim_of(caller, ticket).await?);
                OpenKind::Commit(tokio::sync::Mutex::new(Committing {
                    claim,
                    ..Committing::default()
                }))
            }
            Node::TicketFile(ticket, TicketFile::Tasks) if write => self.open_tasks(caller, ticket, flags).await?,
            Node::TicketParam(ticket, at) if write => self.open_recorded(caller, ticket, *at).await?,
            Node::Scratch(id) => self.open_scratch(caller, *id, flags)?,
            Node::Seen(seen) => return self.open_seen(caller, seen, flags).await,
            Node::Published(id) if !write => {
                self.published.need(*id, READ)?;
                OpenKind::Published(self.published.file(*id)?)
            }
            _ if write => return Err(Error::ReadOnly("a generated or published file".into())),
            Node::TicketFile(ticket, TicketFile::Result) => {
                let posted = self.result_for(caller, ticket).await?;
                OpenKind::Bytes(self.texts.share(caller, &node, result_text(&posted).into())?)
            }
            _ => match self.content(&node).await? {
                Content::Bytes(bytes) => OpenKind::Bytes(self.texts.share(caller, &node, bytes)?),
                Content::Consoles(names) => self.open_consoles(names).await?,
            },
        };
        self.opened(caller, node, both, kind)
    }

    /// Opens a trigger to write, for somebody or for a build.
    pub(crate) async fn open_trigger(
        &self,
        caller: Caller,
        node: &Node,
        job: &JobRef,
        upstream: Option<Upstream>,
    ) -> Result<OpenKind> {
        let may = self.repository.builds.may_trigger(&self.job(job)?).await;
        self.heed_refusal(node, caller.uid, &may, false);
        may.map(|carried| {
            OpenKind::Commit(tokio::sync::Mutex::new(Committing {
                upstream,
                carried,
                ..Committing::default()
            }))
        })
    }

    /// Opens a scratch file, and cuts it if that is asked for.
    fn open_scratch(&self, caller: Caller, id: u64, flags: i32) -> Result<OpenKind> {
        if flags & libc::O_ACCMODE != libc::O_RDONLY {
            self.scratch.opened_to_write(id, caller.uid)?;
        }
        if flags & libc::O_TRUNC != 0 {
            let size = Some(0);
            let nothing = super::SetAttr {
                size,
                ..super::SetAttr::default()
            };
            self.scratch.change(id, &nothing, None)?;
        }
        Ok(OpenKind::Scratch(id))
    }

    /// Opens consoles to read; those that may grow are kept in mind.
    async fn open_consoles(&self, names: Vec<Extent>) -> Result<OpenKind> {
        let mut kept = Vec::new();
        for growing in names.iter().filter(|name| name.length.is_none()) {
            kept.push(self.repository.consoles.open(&growing.name).await?);
        }
        Ok(OpenKind::Consoles { names, _kept: kept })
    }

    /// A recorded parameter is written again by its claimant.
    async fn open_recorded(&self, caller: Caller, ticket: &TicketRef, at: usize) -> Result<OpenKind> {
        let claim = self.claim_of(caller, ticket).await?;
        let params = self.ticket_params(ticket).await?;
        let recorded = claim.recorded();
        let name = params
            .get(at)
            .map(|(name, _)| name.clone())
            .filter(|name| recorded.iter().any(|(known, _)| known == name));
        let name = name
            .as_deref()
            .and_then(Name::new)
            .ok_or_else(|| Error::ReadOnly(format!("{}/params", ticket.key)))?;
        Ok(OpenKind::Record(claim, name, Mutex::default()))
    }

    /// Keeps an open file.
    pub(crate) fn opened(&self, caller: Caller, node: Node, both: bool, mut kind: OpenKind) -> Result<Opened> {
        let published = matches!(kind, OpenKind::Published(..));
        let nonseekable = matches!(kind, OpenKind::Next(..) | OpenKind::Events(_) | OpenKind::Wait(_));
        let flushes = kind.flushes();
        let asker = match &kind {
            OpenKind::Next(_, holder) => Some(holder.clone()),
            _ => None,
        };
        let locks = matches!(kind, OpenKind::Config(_));
        let lease = match &kind {
            OpenKind::Next(..) => Some(self.lease_process(caller)?),
            _ => None,
        };
        let memory = hold_all(self.texts.open(caller)?, kind.holds())?;
        let reader = matches!(node, Node::QueueFile(..)).then(|| Reader::of(caller));
        let open = Open {
            node,
            caller,
            reader,
            both,
            claims: Mutex::default(),
            memory: Mutex::new(memory),
            _lease: lease,
            polled: Mutex::default(),
            kind,
        };
        let handle = self.handles.insert(open);
        if locks {
            self.follow_lock(&self.handles.get(handle)?);
        }
        if let Some(holder) = asker {
            self.follow_asker(&self.handles.get(handle)?, &holder);
        }
        Ok(Opened {
            handle,
            direct_io: !published,
            keep_cache: published,
            nonseekable,
            flushes,
            passes: true,
            passed: None,
            backing: None,
        })
    }

    /// Opens something in a claimant's folders, within the share that the claim has of the daemon's
    /// descriptors.
    pub(crate) async fn leased<T>(
        &self,
        ino: Ino,
        open: impl Future<Output = Result<T>>,
        handle: impl FnOnce(&T) -> u64,
    ) -> Result<T> {
        let attempt = self.work.attempt_of(ino);
        let attempt =
            attempt.ok_or_else(|| Error::Stale(format!("inode {:#x}: the mount no longer knows it", ino.0)))?;
        let lease = self.descriptors.take_of_claim(attempt.id(), attempt.owner(), 1);
        let lease = lease.ok_or_else(|| out_of_descriptors("the tasks of this claim hold"))?;
        let opened = open.await?;
        lock(&self.leases).insert(handle(&opened), lease);
        Ok(opened)
    }

    /// Takes a descriptor of the caller's share, to hold on to a process.
    pub(crate) fn lease_process(&self, caller: Caller) -> Result<Lease> {
        let lease = self.descriptors.take(caller.uid, 1);
        lease.ok_or_else(|| out_of_descriptors("you hold"))
    }

    /// read; `paged`: the kernel wants a page to keep, for splice or sendfile, which whoever else has the file open
    /// is given too. Of what can be read once there are no pages: whoever is refused them reads. Opened with
    /// O_DIRECT a file is spliced by reads (copy_splice_read).
    pub async fn read_by(
        &self,
        caller: Caller,
        ino: Ino,
        handle: u64,
        offset: u64,
        size: u32,
        paged: bool,
    ) -> Result<Bytes> {
        let once = |open: &Open| {
            matches!(
                open.kind,
                OpenKind::Next(..) | OpenKind::Events(_) | OpenKind::Commit(_)
            )
        };
        if paged && !self.work.owns(ino) && once(&*self.handles.get(handle)?) {
            return Err(Error::Invalid("splice: a stream is read by read(2)".into()));
        }
        self.read(caller, ino, handle, offset, size).await
    }

    /// Reads from an open generated file.
    pub(crate) async fn read_open(&self, caller: Caller, handle: u64, offset: u64, size: usize) -> Result<Bytes> {
        let open = self.handles.get(handle)?;
        match &open.kind {
            OpenKind::Bytes(text) => Ok(part(&text.bytes, offset, size)),
            OpenKind::Consoles { names, .. } => self.read_consoles(names, offset, size).await,
            OpenKind::Config(write) => {
                let mut write = locked(OPEN_FILE, write).await?;
                Ok(copy_of_part(write.text()?, offset, size))
            }
            OpenKind::Tasks(write) => {
                let write = locked(OPEN_FILE, write).await?;
                Ok(copy_of_part(write.text(), offset, size))
            }
            OpenKind::Commit(committing) => {
                let mut committing = locked(OPEN_FILE, committing).await?;
                if !committing.text.is_empty() && open.both {
                    self.commit(&open, &mut committing).await?;
                }
                Ok(take(&mut committing.answer, size))
            }
            OpenKind::Next(asking, holder) => {
                let Node::QueueFile(queue, _) = &open.node else {
                    return Ok(Bytes::new());
                };
                self.read_next(&open, caller, queue, asking, holder, size).await
            }
            OpenKind::Events(following) => self.read_events(following, size).await,
            OpenKind::Wait(given) => self.read_wait(&open.node, given, size).await,
            OpenKind::Scratch(id) => self.scratch.read(*id, offset, size),
            OpenKind::Published(entry) => Ok(self.repository.browser.read_file(entry, offset, size).await?),
            OpenKind::Claim(held) => match self.content(&open.node).await {
                Ok(Content::Bytes(bytes)) => Ok(part(&bytes, offset, size)),
                _ => Err(Error::claim_lost(&held.claim.key)),
            },
            OpenKind::Append(_) | OpenKind::Record(..) | OpenKind::Folder(_) => Ok(Bytes::new()),
        }
    }

    /// Reads across consoles that stand one after another.
    async fn read_consoles(&self, names: &[Extent], mut offset: u64, size: usize) -> Result<Bytes> {
        for (at, name) in names.iter().enumerate() {
            if at + 1 < names.len() {
                let length = self.repository.consoles.extent_length(name).await?;
                if offset >= length {
                    offset -= length;
                    continue;
                }
            }
            return self.repository.consoles.read(&name.name, offset, size).await;
        }
        Ok(Bytes::new())
    }

    /// Writes to an open generated file.
    pub(crate) async fn write_open(&self, caller: Caller, handle: u64, offset: u64, data: &Bytes) -> Result<()> {
        let open = self.handles.get(handle)?;
        match &open.kind {
            OpenKind::Config(write) => {
                let mut write = locked(OPEN_FILE, write).await?;
                hold(&open.memory, write.size_after(offset, data))?;
                write.write(offset, data)
            }
            OpenKind::Tasks(write) => {
                let mut write = locked(OPEN_FILE, write).await?;
                write.begin();
                hold(&open.memory, write.size_after(offset, data))?;
                write.write(offset, data)
            }
            OpenKind::Commit(committing) => {
                let mut committing = locked(OPEN_FILE, committing).await?;
                if committing.text.len() + data.len() > COMMIT_BYTES_MAX {
                    committing.text = Vec::new();
                    return Err(Error::TooBig(format!("over {COMMIT_BYTES_MAX} bytes")));
                }
                hold(&open.memory, committing.text.len() + data.len())?;
                committing.text.extend_from_slice(data);
                committing.answer = Bytes::new();
                let checked = self.check_early(&open, &mut committing).await;
                self.heed_refusal(&open.node, open.caller.uid, &checked, false);
                if checked.is_err() {
                    committing.text = Vec::new();
                }
                checked
            }
            OpenKind::Next(asking, _) => {
                let mut asking = locked(OPEN_FILE, asking).await?;
                self.write_labels(&mut asking, data)?;
                let labels = asking.labels.iter().map(|label| size_of::<String>() + label.len());
                hold(&open.memory, labels.sum()).inspect_err(|_| asking.labels.clear())
            }
            OpenKind::Claim(held) => self.write_claim(held, open.caller.uid, caller.tid, data).await,
            OpenKind::Append(claim) => self.repository.claims.append_output(claim, data).await,
            OpenKind::Record(claim, name, text) => {
                let mut text = lock(text);
                if text.len() + data.len() > RECORDED_BYTES_MAX {
                    return Err(Error::TooBig(format!(
                        "{}/params/{name}: over {RECORDED_BYTES_MAX} bytes",
                        claim.key
                    )));
                }
                hold(&open.memory, text.len() + data.len())?;
                text.extend_from_slice(data);
                let value =
                    std::str::from_utf8(&text).map_err(|_| Error::Invalid(format!("params/{name}: not UTF-8")))?;
                claim.record(name.as_str(), value.strip_suffix('\n').unwrap_or(value))
            }
            OpenKind::Scratch(id) => self.scratch.write(*id, offset, data),
            _ => Err(Error::ReadOnly("a generated or published file".into())),
        }
    }

    /// Refuses at the write what can be known to be wrong then: a shell sees that and not what
    /// close returns. A whole control word is done at once for the same reason.
    async fn check_early(&self, open: &Arc<Open>, committing: &mut Committing) -> Result<()> {
        let whole = committing.text.ends_with(b"\n");
        match &open.node {
            Node::BuildFile(_, _, BuildFile::Ctl | BuildFile::Approve)
            | Node::Top(Top::Drain)
            | Node::JobFile(_, JobFile::Enabled)
                if whole =>
            {
                self.commit(open, committing).await
            }
            Node::TicketFile(..) => {
                claim_behind(committing)?.open_for_result()?;
                if whole {
                    TaskResult::read(&committing.text).map(|_| ())
                } else {
                    Ok(())
                }
            }
            Node::JobFile(job, JobFile::Trigger) if whole && committing.text.len() <= EARLY_BYTES_MAX => {
                let config = match committing.carried.config() {
                    Some(config) => config,
                    None => self.repository.configs.current(&self.job(job)?).await?.1,
                };
                let upstream = committing.upstream.as_ref();
                let said = TriggerRequest::check_beginning(&committing.text, &config, upstream)
                    .map_err(|reason| Error::Invalid(format!("jobs/{}/trigger: {reason}", job.name)))?;
                let job = self.job(job)?;
                self.repository.builds.check_commit(&job, &said, open.caller.uid)
            }
            Node::QueueFile(..)
                if whole
                    && committing.text.len() <= EARLY_BYTES_MAX
                    && serde_json::from_slice::<serde_json::Value>(&committing.text).is_ok() =>
            {
                TicketRequest::read(&committing.text)
                    .map(|_| ())
                    .map_err(Error::Invalid)
            }
            _ => Ok(()),
        }
    }

    /// Commits what was written since the last commit, as whoever opened the file: a descriptor may be
    /// closed by a set-user-id program that inherited it.
    async fn commit(&self, open: &Arc<Open>, committing: &mut Committing) -> Result<()> {
        let text = std::mem::take(&mut committing.text);
        if text.is_empty() {
            return Ok(());
        }
        let done = self.commit_text(open, committing, &text).await;
        self.heed_refusal(&open.node, open.caller.uid, &done, true);
        if let (Node::QueueFile(..), Err(Error::Invalid(why))) = (&open.node, &done) {
            // For who reads once more: of a ticket no file says why it was refused.
            committing.answer = Bytes::from(format!("{why}\n"));
        }
        done
    }

    async fn commit_text(&self, open: &Arc<Open>, committing: &mut Committing, text: &[u8]) -> Result<()> {
        let caller = open.caller;
        let poster = Poster {
            uid: caller.uid,
            gid: caller.gid,
        };
        match &open.node {
            Node::JobFile(job, JobFile::Enabled) => {
                let on = switch_word(text)?;
                self.repository.configs.set_switch(&self.job(job)?, on, poster).await?;
            }
            Node::JobFile(job, _) => {
                let (job, by) = (self.job(job)?, committing.upstream.as_ref());
                let n = self
                    .repository
                    .builds
                    .trigger_by(&job, text, poster, by, &committing.carried)
                    .await?;
                committing.answer = Bytes::from(format!("{n}\n"));
            }
            Node::QueueFile(queue, _) => {
                let request = TicketRequest::read(text).map_err(Error::Invalid)?;
                self.may_still(open, queue).await?;
                let id = self.repository.claims.post(queue, request, poster).await?;
                committing.answer = Bytes::from(format!("{id}\n"));
            }
            Node::BuildFile(job, n, BuildFile::Approve) => {
                let commit = String::from_utf8_lossy(text);
                self.repository.approve(&self.job(job)?, *n, &commit, poster).await?;
            }
            Node::BuildFile(job, n, _) => {
                let word = Word::read(text)?;
                self.repository.control(&self.job(job)?, *n, word, poster).await?;
            }
            Node::Top(Top::Drain) => match text.trim_ascii() {
                b"begin" => self.repository.nodes.drain(true),
                b"end" => self.repository.nodes.drain(false),
                _ => return Err(Error::Invalid(".drain takes the words begin and end".into())),
            },
            Node::TicketFile(..) => {
                let claim = claim_behind(committing)?;
                claim.open_for_result()?;
                self.repository.claims.finish(&claim, TaskResult::read(text)?).await?;
            }
            _ => {}
        }
        Ok(())
    }

    /// A copy of the descriptor is closed.
    pub(crate) async fn flush_open(&self, caller: Caller, handle: u64) -> Result<()> {
        let open = self.handles.get(handle)?;
        match &open.kind {
            OpenKind::Config(write) => self.commit_config(&mut *locked(OPEN_FILE, write).await?).await,
            OpenKind::Tasks(write) => {
                self.commit_tasks(open.caller, &mut *locked(OPEN_FILE, write).await?)
                    .await
            }
            OpenKind::Commit(committing) => {
                let asks = matches!(open.node, Node::JobFile(_, JobFile::Trigger) | Node::QueueFile(..));
                if open.both && asks {
                    return Ok(());
                }
                self.commit(&open, &mut *locked(OPEN_FILE, committing).await?).await
            }
            OpenKind::Claim(held) => {
                held.holder.flushed(caller);
                Ok(())
            }
            OpenKind::Next(_, holder) => {
                holder.flushed(caller);
                Ok(())
            }
            OpenKind::Append(claim) => {
                let mut console = claim.console().await?;
                console.settle(&self.repository.consoles, claim).await
            }
            _ => Ok(()),
        }
    }

    /// What was written is durable, or refused.
    pub(crate) async fn fsync_open(&self, caller: Caller, handle: u64) -> Result<()> {
        let open = self.handles.get(handle)?;
        match &open.kind {
            OpenKind::Claim(_) | OpenKind::Next(..) => Ok(()),
            OpenKind::Append(claim) => {
                let mut console = claim.console().await?;
                console.settle_all(&self.repository.consoles, claim).await
            }
            _ => self.flush_open(caller, handle).await,
        }
    }

    /// The last copy of the descriptor is closed.
    pub(crate) fn release_open(&self, handle: u64) {
        let Some(open) = self.handles.remove(handle) else {
            return;
        };
        match &open.kind {
            OpenKind::Claim(held) => self.claim_released(held),
            OpenKind::Next(_, holder) => self.asker_released(&open, holder.died()),
            _ => {}
        }
    }
}

/// What is written into `enabled`.
pub(super) fn switch_word(text: &[u8]) -> Result<bool> {
    match text.trim_ascii() {
        b"on" => Ok(true),
        b"off" => Ok(false),
        other => {
            let other = String::from_utf8_lossy(other);
            let shown: String = other.chars().take(40).collect();
            Err(Error::Invalid(format!("enabled {shown:?}: write on or off")))
        }
    }
}

/// The claim that an open `result` belongs to.
fn claim_behind(committing: &Committing) -> Result<Arc<Claim>> {
    let claim = committing.claim.clone();
    claim.ok_or_else(|| Error::NotClaimant("result".into()))
}

/// A process asks for work: a claim made for it lives by it.
fn open_next(caller: Caller) -> Result<OpenKind> {
    let process = process::process_of(caller.tid).and_then(Process::hold);
    let process = process.ok_or_else(|| Error::NotClaimant(".next: your process can't be seen from here".into()))?;
    Ok(OpenKind::Next(
        tokio::sync::Mutex::new(Asking::default()),
        Arc::new(Holder::new(process)),
    ))
}

/// A piece of bytes.
fn part(bytes: &Bytes, offset: u64, size: usize) -> Bytes {
    bytes.slice(range(bytes.len(), offset, size))
}

/// The same of a text that may change: of that piece alone there is a copy.
fn copy_of_part(text: &[u8], offset: u64, size: usize) -> Bytes {
    Bytes::copy_from_slice(text.get(range(text.len(), offset, size)).unwrap_or_default())
}

fn range(length: usize, offset: u64, size: usize) -> std::ops::Range<usize> {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(length);
    start..start.saturating_add(size).min(length)
}
