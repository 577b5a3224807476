//! `tasks.json` of a ticket: the tasks that its claimant adds to the build, and what is wrong with them.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::handles::OpenKind;
use super::node::{TicketFile, TicketRef};
use super::texts::{hold_all, put_at};
use super::{Caller, Error, Result, Tree};
use crate::repository::claims::{TASKS_BYTES_MAX, Tasks, Writing};

/// A text of tasks that is being written.
pub(crate) struct TasksWrite {
    /// Noted while there is something that was not taken: only that is committed.
    writing: Writing,
    text: Vec<u8>,
    /// It was too large: nothing of it is kept until it begins anew.
    refused: bool,
}

impl TasksWrite {
    /// How long the text is after a write.
    pub(crate) fn size_after(&self, offset: u64, data: &[u8]) -> usize {
        let end = usize::try_from(offset).unwrap_or(usize::MAX).saturating_add(data.len());
        self.text.len().max(end.min(TASKS_BYTES_MAX))
    }

    /// Somebody writes: if that is refused, what he has to say is lost.
    pub(crate) fn begin(&mut self) {
        self.writing.begin();
    }

    /// Writes at an offset.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        self.begin();
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(data.len());
        self.check_size(end)?;
        put_at(&mut self.text, start, data);
        Ok(())
    }

    /// Cuts or extends; that alone says nothing.
    pub(crate) fn resize(&mut self, size: u64) -> Result<()> {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        self.refused &= size > 0;
        if size == 0 {
            self.writing.begin_anew();
        }
        self.check_size(size)?;
        self.text.resize(size, 0);
        self.text.shrink_to(size);
        Ok(())
    }

    /// What is written so far.
    pub(crate) fn text(&self) -> &[u8] {
        &self.text
    }

    fn check_size(&mut self, size: usize) -> Result<()> {
        if size > TASKS_BYTES_MAX {
            self.refused = true;
            self.text = Vec::new();
        }
        if self.refused && size > 0 {
            return Err(Error::TooBig(format!(
                "{}/tasks.json: over {TASKS_BYTES_MAX} bytes",
                self.writing.claim().key
            )));
        }
        Ok(())
    }
}

impl Tree {
    /// Opens tasks.json to write: its claimant alone does.
    pub(crate) async fn open_tasks(&self, caller: Caller, ticket: &TicketRef, flags: i32) -> Result<OpenKind> {
        let claim = self.claim_of(caller, ticket).await?;
        claim.part_that_adds()?;
        claim.begun.store(true, Ordering::Relaxed);
        let text = match claim.tasks() {
            Some(tasks) if flags & libc::O_TRUNC == 0 => tasks.text.to_vec(),
            _ => Vec::new(),
        };
        Ok(OpenKind::Tasks(tokio::sync::Mutex::new(TasksWrite {
            writing: Writing::new(claim),
            text,
            refused: false,
        })))
    }

    /// Takes what was written since, or says what is wrong with it. What is kept of it counts for whoever wrote it.
    pub(crate) async fn commit_tasks(&self, caller: Caller, write: &mut TasksWrite) -> Result<()> {
        if write.refused {
            return write.check_size(1);
        }
        if !write.writing.is_noted() {
            return Ok(());
        }
        let held: Arc<dyn Any + Send + Sync> = Arc::new(hold_all(self.texts.open(caller)?, write.text.len())?);
        let text = Bytes::copy_from_slice(&write.text);
        let claim = write.writing.claim().clone();
        let taken = self.repository.claims.write_tasks(&claim, text.clone(), held).await;
        // What is wrong with it stands beside it. After any other error the next flush tries again.
        let stands = claim.tasks().is_some_and(|tasks| tasks.text.as_ptr() == text.as_ptr());
        if taken.is_ok() || stands {
            write.writing.taken();
        }
        taken
    }

    /// unlink: takes back what the claimant wrote, and with it what was wrong.
    pub(crate) async fn withdraw_tasks(&self, caller: Caller, ticket: &TicketRef) -> Result<()> {
        self.claim_of(caller, ticket).await?.withdraw_tasks()
    }

    /// What a claimant of this mount has written, for who stands in its folder.
    pub(crate) fn tasks_of(&self, ticket: &TicketRef) -> Option<Tasks> {
        let claim = self.repository.claims.held.get(&ticket.key)?;
        (claim.ticket.ordinal() == ticket.turn).then(|| claim.tasks())?
    }

    /// Whether one of the two files is there.
    pub(crate) fn has_tasks(&self, ticket: &TicketRef, file: TicketFile) -> bool {
        let tasks = self.tasks_of(ticket);
        tasks.is_some_and(|tasks| file == TicketFile::Tasks || !tasks.error.is_empty())
    }
}
