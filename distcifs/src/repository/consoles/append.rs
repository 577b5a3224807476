//! Appending: to a claim's own console byte for byte, and as lines to its build's.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use super::lines::{BEHIND_BYTES_MAX, HELD_FOR, Lines};
use super::{Consoles, End, RACES_MAX, Stream};
use crate::repository::config::CONSOLE_LIMIT_DEFAULT;
use crate::repository::core::{bounded, settled};
use crate::repository::model::console::{attempt_console, build_console};
use crate::repository::model::ticket::{Ticket, TicketKey};
use crate::repository::store::Store;
use crate::repository::{Error, Failure, Result};
use crate::storage::contents::SEALED;
use crate::storage::{Appended, Object};

/// Pause between two tries of a line that was held back and can't be appended.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// An append of which nobody knows whether it happened: where, and what.
type Doubt = Option<(End, Bytes)>;

/// The console of the build, as one claim writes to it.
struct OfBuild {
    name: String,
    lines: Lines,
    doubt: Doubt,
}

/// What lets a claimant append, as long as his claim holds.
pub trait Fence: Send + Sync {
    /// `Stale` once the claim is lost, whoever knows of it.
    fn admit(&self, store: &Store) -> Result<()>;
    /// The ticket of the claim.
    fn ticket(&self) -> &TicketKey;
}

/// What one claimant appends to.
pub struct Appender {
    own: String,
    limit: u64,
    written: u64,
    cut: bool,
    dirty: bool,
    doubt: Doubt,
    build: Option<OfBuild>,
    /// Whether somebody sees to it that lines that are held back or behind are not so for too long.
    watched: bool,
}

impl Appender {
    /// For the claim that this ticket stands at.
    pub(crate) fn new(key: &TicketKey, ticket: &Ticket) -> Self {
        let limit = ticket.console_limit.unwrap_or(CONSOLE_LIMIT_DEFAULT);
        let lines = Lines::new(&ticket.lines, limit);
        let build = ticket.part.as_ref().map(|part| build_console(&part.uid, part.build));
        Appender {
            own: attempt_console(key, ticket, ticket.ordinal()),
            limit,
            written: 0,
            cut: false,
            dirty: false,
            doubt: None,
            build: build.map(|name| OfBuild {
                name,
                lines,
                doubt: None,
            }),
            watched: false,
        }
    }

    /// Appends for the claim that this belongs to; past the limit a line says so once and the rest is
    /// dropped. The build's console may lack an incomplete line of it when this returns.
    ///
    /// # Errors
    /// `Stale` if the claim is lost, whoever knows of it: nothing is appended then.
    pub async fn append(&mut self, consoles: &Consoles, fence: &dyn Fence, bytes: &[u8]) -> Result<()> {
        fence.admit(&consoles.store)?;
        if self.cut || bytes.is_empty() {
            return Ok(());
        }
        // What is behind stays bounded: a caller who is refused tries again.
        if self.lines().is_some_and(|lines| lines.waiting() > BEHIND_BYTES_MAX) {
            self.put_lines(consoles, fence).await?;
        }
        let bytes = self.resolve(consoles, bytes).await?;
        let room = usize::try_from(self.limit.saturating_sub(self.written)).unwrap_or(usize::MAX);
        let kept = &bytes[..bytes.len().min(room)];
        self.put(consoles, fence, Bytes::copy_from_slice(kept)).await?;
        self.written += kept.len() as u64;
        if kept.len() < bytes.len() {
            self.cut = true;
            let line = format!(
                "\n[console cut at its limit of {} bytes; the rest is not kept]\n",
                self.limit
            );
            self.put(consoles, fence, Bytes::from(line)).await?;
        }
        Ok(())
    }

    /// Says something in the build's console, if it is a build's ticket.
    pub(crate) async fn announce(&mut self, consoles: &Consoles, fence: &dyn Fence, line: &str) -> Result<()> {
        if let Some(OfBuild { lines, .. }) = &mut self.build {
            lines.take_line(line);
        }
        self.put_lines(consoles, fence).await
    }

    /// Of an append that nobody knew of, finds out whether it happened; then the caller's bytes, if they are
    /// the same ones again, need not be appended once more.
    async fn resolve<'a>(&mut self, consoles: &Consoles, bytes: &'a [u8]) -> Result<&'a [u8]> {
        let Some((end, piece)) = &self.doubt else {
            return Ok(bytes);
        };
        let length = consoles.length_anew(&self.own).await?;
        let (happened, piece) = (length == end.total() + piece.len() as u64, piece.clone());
        self.doubt = None;
        if !happened {
            return Ok(bytes);
        }
        self.written += piece.len() as u64;
        if let Some(OfBuild { lines, .. }) = &mut self.build {
            lines.take(&piece);
        }
        Ok(bytes.strip_prefix(&piece[..]).unwrap_or(bytes))
    }

    /// Appends to the attempt's console; then the build's, which may be behind.
    async fn put(&mut self, consoles: &Consoles, fence: &dyn Fence, bytes: Bytes) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.dirty = true;
        let counted = &consoles.appended;
        counted.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        consoles
            .append(fence, &self.own, bytes.clone(), &mut self.doubt)
            .await?;
        if let Some(OfBuild { lines, .. }) = &mut self.build {
            lines.take(&bytes);
        }
        match self.put_lines(consoles, fence).await {
            // It was taken: refused, the caller would write it again. What is behind follows with the next.
            Err(error) if error.is_passing() => {
                tracing::debug!(ticket = %fence.ticket(), %error, "the build's console is behind");
                Ok(())
            }
            other => other,
        }
    }

    /// Appends to the build's console what is complete.
    async fn put_lines(&mut self, consoles: &Consoles, fence: &dyn Fence) -> Result<()> {
        match &mut self.build {
            Some(build) if build.lines.is_pending() => {
                self.dirty = true;
                consoles.append_lines(fence, build).await
            }
            _ => Ok(()),
        }
    }

    /// Returns when everything appended is durable. An incomplete line may still be held back.
    pub async fn settle(&mut self, consoles: &Consoles, fence: &dyn Fence) -> Result<()> {
        self.put_lines(consoles, fence).await?;
        if !self.dirty {
            return Ok(());
        }
        let mut objects = Vec::new();
        for name in [Some(&self.own), self.build.as_ref().map(|build| &build.name)]
            .into_iter()
            .flatten()
        {
            let stream = consoles.stream(name);
            let end = *stream.end().await?;
            // A burst may have crossed into a new part: the one before it too.
            objects.extend((end.part.saturating_sub(1)..=end.part).map(|part| stream.object(part)));
        }
        settled("console", || consoles.store.contents.sync(objects.clone())).await?;
        self.dirty = false;
        Ok(())
    }

    /// The same, and nothing is held back.
    pub(crate) async fn settle_all(&mut self, consoles: &Consoles, fence: &dyn Fence) -> Result<()> {
        if let Some(OfBuild { lines, .. }) = &mut self.build {
            lines.let_go();
        }
        self.settle(consoles, fence).await
    }

    /// The same when nothing more comes: the last line has its end.
    pub(crate) async fn conclude(&mut self, consoles: &Consoles, fence: &dyn Fence) -> Result<()> {
        self.resolve(consoles, &[]).await?;
        if let Some(OfBuild { lines, .. }) = &mut self.build {
            lines.let_go();
        }
        self.put_lines(consoles, fence).await?;
        if let Some(build) = &mut self.build {
            self.dirty |= consoles.end_line(fence, build).await?;
        }
        self.settle(consoles, fence).await
    }

    fn lines(&self) -> Option<&Lines> {
        self.build.as_ref().map(|build| &build.lines)
    }

    /// After how long somebody has to see to lines that are held back or behind ([`Appender::let_go`]);
    /// `None`: there are none, or somebody does.
    pub(crate) fn watch(&mut self) -> Option<Duration> {
        let left = |lines: &Lines| lines.holds_for().is_some() || lines.is_pending();
        let begins = self.lines().is_some_and(left) && !std::mem::replace(&mut self.watched, true);
        begins.then_some(HELD_FOR)
    }

    /// Appends incomplete lines that were held back long enough; how long to wait before this is to be done
    /// again, until there is none.
    pub(crate) async fn let_go(&mut self, consoles: &Consoles, fence: &dyn Fence) -> Option<Duration> {
        let holds = self.lines().and_then(Lines::holds_for);
        let behind = self.lines().is_some_and(Lines::is_pending);
        match holds {
            Some(rest) if !rest.is_zero() => return Some(rest),
            None if !behind => {
                self.watched = false;
                return None;
            }
            _ => {}
        }
        if let Some(OfBuild { lines, .. }) = &mut self.build {
            lines.let_go();
        }
        match self.put_lines(consoles, fence).await {
            Err(error) if error.is_passing() => Some(TRY_AGAIN),
            // The claim is over; or all is said.
            _ => {
                self.watched = false;
                None
            }
        }
    }
}

impl Consoles {
    /// Appends to a console, whoever else does, for as long as the claim holds.
    async fn append(&self, fence: &dyn Fence, name: &str, mut bytes: Bytes, doubt: &mut Doubt) -> Result<()> {
        let stream = self.stream(name);
        let mut end = stream.end().await?;
        let mut races = 0;
        while !bytes.is_empty() {
            let room = end.room();
            let (at, piece) = (*end, bytes.slice(..bytes.len().min(room)));
            match self.append_at(fence, &stream, &mut end, &piece).await {
                Ok(true) => bytes = bytes.slice(piece.len()..),
                Ok(false) => lose_race(&mut races, name)?,
                Err(error @ Error::TimedOut(_)) => {
                    *doubt = Some((at, piece));
                    return Err(error);
                }
                Err(error) => return Err(error),
            }
        }
        drop(end);
        self.wakers.notify(name);
        Ok(())
    }

    /// The same with lines: they begin behind the line of whoever wrote last.
    async fn append_lines(&self, fence: &dyn Fence, build: &mut OfBuild) -> Result<()> {
        let OfBuild { name, lines, doubt } = build;
        let stream = self.stream(name);
        let mut end = stream.end().await?;
        if let Some((at, piece)) = doubt {
            let read = self
                .store
                .contents
                .read(&stream.object(at.part), at.length, piece.len());
            if bounded(name, read).await?.is_some_and(|there| there == *piece) {
                lines.appended(piece, at.total(), at.last, at.total() + piece.len() as u64);
                (end.sequence, end.last) = (0, None);
            }
            *doubt = None;
        }
        let mut races = 0;
        while lines.is_pending() {
            let room = end.room();
            if !lines.continues(end.total()) && end.last.is_none() && end.total() > 0 {
                end.last = self.last_byte(&stream, *end).await?;
            }
            let at = *end;
            let piece = lines.piece(at.total(), at.last, room);
            match self.append_at(fence, &stream, &mut end, &piece).await {
                Ok(true) => lines.appended(&piece, at.total(), at.last, end.total()),
                Ok(false) => lose_race(&mut races, name)?,
                Err(error) => {
                    *doubt = matches!(error, Error::TimedOut(_)).then_some((at, piece));
                    return Err(error);
                }
            }
        }
        drop(end);
        self.wakers.notify(name);
        Ok(())
    }

    /// Ends the line that a claim wrote last, unless somebody else has by now; whether it did.
    async fn end_line(&self, fence: &dyn Fence, build: &mut OfBuild) -> Result<bool> {
        let stream = self.stream(&build.name);
        let mut end = stream.end().await?;
        end.room();
        let missing = build.lines.missing_end(end.total());
        let ended = !missing.is_empty()
            && self
                .append_at(fence, &stream, &mut end, &Bytes::from_static(missing))
                .await?;
        build.lines.ended();
        drop(end);
        if ended {
            self.wakers.notify(&build.name);
        }
        Ok(ended)
    }

    /// Appends a piece at the end that is known; `false` if that is somewhere else, which is known then.
    async fn append_at(&self, fence: &dyn Fence, stream: &Stream, end: &mut End, piece: &Bytes) -> Result<bool> {
        // Anew each time: who was refused after a long wait may not be whom the console is for.
        fence.admit(&self.store)?;
        let object = stream.object(end.part);
        match self.append_settled(&object, *end, piece).await? {
            Appended::Done { length, sequence } => {
                *end = End {
                    length,
                    sequence,
                    last: piece.last().copied(),
                    ..*end
                };
                Ok(true)
            }
            Appended::Mismatch { sequence: SEALED, .. } => {
                Err(Error::Stale(format!("{}: sealed, as the claim is lost", stream.name)))
            }
            Appended::Mismatch { length, sequence } => {
                *end = End {
                    length,
                    sequence,
                    last: None,
                    ..*end
                };
                Ok(false)
            }
        }
    }

    /// The last byte of a console that ends here.
    async fn last_byte(&self, stream: &Stream, end: End) -> Result<Option<u8>> {
        let at = end.total().saturating_sub(1);
        let (part, offset) = (at / super::PART_BYTES, at % super::PART_BYTES);
        let object = stream.object(part);
        let read = bounded(&stream.name, self.store.contents.read(&object, offset, 1)).await?;
        Ok(read.and_then(|bytes| bytes.first().copied()))
    }

    /// One guarded append; when nobody knows whether it happened, looks whether the bytes are there. As long
    /// as that can't be told either, it is `TimedOut`.
    async fn append_settled(&self, object: &Object, end: End, piece: &Bytes) -> Result<Appended> {
        let what = object.to_string();
        let append = || self.store.contents.append(object, end.sequence, piece.clone());
        match bounded(&what, append()).await {
            Err(Error::TimedOut(_)) => {}
            other => return other,
        }
        let look = async {
            let again = settled(&what, append).await?;
            let Appended::Mismatch { length, sequence } = again else {
                return Ok(again);
            };
            let read = || self.store.contents.read(object, end.length, piece.len());
            let there = settled(&what, read).await?;
            Ok(if there.is_some_and(|there| there == *piece) {
                Appended::Done { length, sequence }
            } else {
                again
            })
        };
        look.await.map_err(|error: Error| {
            if error.is_passing() {
                Error::TimedOut(Failure::of(error))
            } else {
                error
            }
        })
    }
}

/// Others were sooner once more.
fn lose_race(races: &mut u32, name: &str) -> Result<()> {
    *races += 1;
    if *races > RACES_MAX {
        return Err(Error::Busy(format!("{name}: too many others append to it")));
    }
    Ok(())
}
