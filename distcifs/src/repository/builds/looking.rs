//! A build looked at: its entry, its tickets, its record.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Builds;
use crate::repository::model::build::{Build, BuildTicket, Live, live_path, put_all};
use crate::repository::model::job::Job;
use crate::repository::model::json::from_json;
use crate::repository::model::plan::Plan;
use crate::repository::model::ticket::{BuildRef, CONTROL_QUEUE, Posted, Ticket, TicketKey, part_key, ticket_of};
use crate::repository::model::when::LeftOut;
use crate::repository::work::join_all;
use crate::repository::{Error, Result};
use crate::storage::Entry;

/// Looks at a build that is tidied away meanwhile: once, or once for each retry that comes and goes.
const LOOKS_MAX: u32 = 100;

/// The tickets of a build that are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tickets {
    /// That of build-control, whose end is the build's.
    Own,
    /// That, and the one of this task.
    One(usize),
    /// Those of its tasks too.
    All,
    /// The same, of many mounts as the coordinator has them: nothing that was cached.
    Stored,
}

impl Tickets {
    fn are_all(self) -> bool {
        matches!(self, Tickets::All | Tickets::Stored)
    }
}

impl Builds {
    /// Everything known of a build.
    pub async fn build(&self, job: &Job, n: u64) -> Result<Build> {
        self.look(job, n, Tickets::All).await
    }

    /// A build without its parameters and the tickets of its tasks: its configuration, whose it is and why it
    /// is there, whether it has ended and when.
    pub async fn build_head(&self, job: &Job, n: u64) -> Result<Build> {
        self.look(job, n, Tickets::Own).await
    }

    /// A build as far as one of its tasks goes: with the tickets of that and of build-control alone. However many
    /// tasks it has, so it costs the same.
    pub async fn build_of_task(&self, job: &Job, n: u64, index: usize) -> Result<Build> {
        self.look(job, n, Tickets::One(index)).await
    }

    /// Whether the entry of a build is there and can't be read: it is no other when it is read again.
    pub(crate) async fn is_damaged(&self, uid: &str, n: u64) -> Result<bool> {
        Ok(self.reading(uid, n).await?.is_err())
    }

    /// Refuses a build whose entry is there and can't be read.
    ///
    /// # Errors
    /// `Io` with what is wrong with it.
    pub(crate) async fn check_entry(&self, uid: &str, n: u64) -> Result<()> {
        self.reading(uid, n).await?
    }

    async fn reading(&self, uid: &str, n: u64) -> Result<Result<()>> {
        let path = live_path(uid, n);
        let entry = self.store.get(&path).await?;
        Ok(entry.map_or(Ok(()), |entry| from_json::<Live>(&path, &entry.data).map(drop)))
    }

    /// A build for what is written of it for good. The entry and the tickets of a build that others tidy away go at
    /// once, and are told one after the other: who has heard of some of them sees tasks that never were.
    pub(crate) async fn build_as_stored(&self, job: &Job, n: u64) -> Result<Build> {
        self.look(job, n, Tickets::Stored).await
    }

    async fn look(&self, job: &Job, n: u64, which: Tickets) -> Result<Build> {
        let live_path = live_path(job.uid(), n);
        let uncached = which == Tickets::Stored && self.store.shared;
        let mut anew = false;
        for _ in 0..LOOKS_MAX {
            let before = match std::mem::take(&mut anew) {
                _ if uncached => self.store.get_uncached(&live_path).await?,
                false => self.store.get(&live_path).await?,
                true => self.store.get_anew(&live_path).await?,
            };
            let looked = &self.store.entry_cache.looked;
            // Of many mounts, each remembers the tickets themselves.
            let asked = before.as_ref().filter(|_| !self.store.shared && which.are_all());
            let asked = asked.map(|entry| looked.ask(job, n, entry.version));
            let (read, known) = match asked {
                Some(Ok(build)) => (None, Some(build)),
                Some(Err(read)) => (Some(read), None),
                None => (None, None),
            };
            let build = match known {
                Some(build) => Ok(build),
                None => {
                    let build = self.look_at_build(job, n, before.as_ref(), which).await;
                    // Its entry goes with its tickets: while it stands, none of them was tidied away. Of one ticket
                    // alone that is clear where it was there.
                    let has_own = build.as_ref().is_ok_and(|build| build.control.is_some());
                    let clear = which == Tickets::Own && (has_own || before.is_none());
                    let ended = build.as_ref().is_ok_and(|build| build.verdict().is_some());
                    if !clear && !self.stands(&live_path, before.as_ref(), uncached || ended).await? {
                        anew = true;
                        continue;
                    }
                    build
                }
            };
            // A ticket and its build's entry, which one commit changes, may be told one after the other.
            anew = build.as_ref().is_ok_and(Build::lacks_tasks);
            if anew {
                continue;
            }
            if let (Some(read), Ok(build)) = (read, &build) {
                looked.answer(&live_path, read, build);
            }
            if before.is_some() && build.as_ref().is_ok_and(|build| build.verdict().is_some()) {
                self.store.seen_for_good().await?;
            }
            return build;
        }
        Err(Error::Busy(format!(
            "jobs/{}/builds/{n}: it changes too fast: try again",
            job.name
        )))
    }

    /// Whether a build's entry is still this one. Tickets are tidied away of a build that has ended: then the
    /// coordinator is asked, for what is cached may not have heard of it.
    async fn stands(&self, live_path: &str, before: Option<&Entry>, tidied: bool) -> Result<bool> {
        let entry = if tidied && self.store.shared {
            self.store.get_uncached(live_path).await?
        } else {
            self.store.get(live_path).await?
        };
        Ok(entry.as_ref() == before)
    }

    /// One look at a build with this entry: the tickets first, the record second, so that nobody
    /// sees it go backwards.
    async fn look_at_build(&self, job: &Job, n: u64, live: Option<&Entry>, which: Tickets) -> Result<Build> {
        let live_path = live_path(job.uid(), n);
        let live = match live {
            Some(entry) => Some((from_json::<Live>(&live_path, &entry.data)?, entry.version)),
            None => None,
        };
        let Some((live, version)) = live else {
            let record = self
                .record(job, n)
                .await?
                .ok_or_else(|| Error::NotFound(format!("jobs/{}/builds/{n}", job.name)))?;
            let plan = self.configs.plan_of_record(&job.name, &record).await?;
            let params = record.params.clone();
            return Ok(Build {
                job: job.clone(),
                n,
                config: plan.config().clone(),
                plan,
                live: None,
                control: None,
                tickets: Arc::default(),
                record: Some(record),
                params,
                left_out: LeftOut::default(),
            });
        };
        let plan = self.configs.plan_of(&job.name, &live).await?;
        let (control, tickets) = match which {
            Tickets::All => self.build_tickets(job, n, &plan, live.run).await?,
            Tickets::Stored if !self.store.shared => self.build_tickets(job, n, &plan, live.run).await?,
            Tickets::Stored => self.stored_tickets(job, n, &plan, live.run).await?,
            Tickets::Own => {
                let control = self.build_ticket(CONTROL_QUEUE, job, n, "control".to_owned(), live.run);
                (control.await?, BTreeMap::new())
            }
            Tickets::One(index) => {
                let control = self.build_ticket(CONTROL_QUEUE, job, n, "control".to_owned(), live.run);
                let control = control.await?;
                let mut tickets = BTreeMap::new();
                if let Some(task) = plan.task(index) {
                    let build_ticket = self.build_ticket(task.kind.as_str(), job, n, index.to_string(), live.run);
                    tickets.extend(build_ticket.await?.map(|build_ticket| (index, build_ticket)));
                }
                (control, tickets)
            }
        };
        // One that is held has none, and no ticket.
        let record = if live.run > 0 || (control.is_none() && !live.held) {
            self.record(job, n).await?
        } else {
            None
        };
        let params = match which {
            Tickets::All | Tickets::Stored | Tickets::One(_) => self.live_params(&live).await?,
            Tickets::Own => Vec::new(),
        };
        Ok(Build {
            job: job.clone(),
            n,
            config: plan.config().clone(),
            plan,
            live: Some((live, version)),
            control,
            tickets: Arc::new(tickets),
            record,
            params,
            left_out: LeftOut::default(),
        })
    }

    /// The parameters of a build as a task of it has them that is to be posted: as triggered, then what was recorded in
    /// earlier runs, and by the tasks that come before it. However many others there are, so it costs the same.
    pub(crate) async fn params_before(
        &self,
        job: &Job,
        part: &BuildRef,
        live: &Live,
        plan: &Plan,
        index: usize,
    ) -> Result<Vec<(String, String)>> {
        let mut params = self.live_params(live).await?;
        if live.run > 0
            && let Some(record) = self.record(job, part.build).await?
        {
            put_all(&mut params, record.tasks.iter().flat_map(|task| &task.recorded));
        }
        let mut before = plan.before(index);
        before.sort_unstable();
        let tasks = before.into_iter().filter_map(|index| plan.task(index));
        let build_tickets = tasks.map(|task| {
            let (queue, index) = (task.kind.as_str(), task.index.to_string());
            self.build_ticket(queue, job, part.build, index, live.run)
        });
        for build_ticket in join_all(build_tickets).await {
            let outcome = build_ticket?.and_then(|build_ticket| build_ticket.posted.ticket.outcome);
            put_all(&mut params, outcome.iter().flat_map(|outcome| &outcome.recorded));
        }
        Ok(params)
    }

    /// The tickets of a build, read side by side: its own, and those of its tasks by index.
    async fn build_tickets(
        &self,
        job: &Job,
        n: u64,
        plan: &Plan,
        run: u32,
    ) -> Result<(Option<BuildTicket>, BTreeMap<usize, BuildTicket>)> {
        let control = self.build_ticket(CONTROL_QUEUE, job, n, "control".to_owned(), run);
        let tasks = plan
            .tasks()
            .map(|task| self.build_ticket(task.kind.as_str(), job, n, task.index.to_string(), run));
        let mut build_tickets = join_all(std::iter::once(control).chain(tasks)).await.into_iter();
        let control = build_tickets.next().transpose()?.flatten();
        let mut tickets = BTreeMap::new();
        for (task, build_ticket) in plan.tasks().zip(build_tickets) {
            if let Some(build_ticket) = build_ticket? {
                tickets.insert(task.index, build_ticket);
            }
        }
        Ok((control, tickets))
    }

    /// The same as the coordinator has them, read together.
    async fn stored_tickets(
        &self,
        job: &Job,
        n: u64,
        plan: &Plan,
        run: u32,
    ) -> Result<(Option<BuildTicket>, BTreeMap<usize, BuildTicket>)> {
        let key = |queue: &str, task: &str| part_key(queue, job.name.as_str(), n, task, run);
        let control = std::iter::once(key(CONTROL_QUEUE, "control"));
        let tasks = plan
            .tasks()
            .map(|task| key(task.kind.as_str(), &task.index.to_string()));
        let keys = control.chain(tasks).collect::<Result<Vec<_>>>()?;
        let entries = self
            .store
            .get_all_uncached(keys.iter().map(TicketKey::path).collect())
            .await?;
        let mut build_tickets = Vec::with_capacity(keys.len());
        for (key, entry) in keys.into_iter().zip(entries) {
            let posted = entry.map(|entry| ticket_of(&key.to_string(), &entry)).transpose()?;
            build_tickets.push(ours(job, key, posted));
        }
        let mut build_tickets = build_tickets.into_iter();
        let control = build_tickets.next().flatten();
        let indexed = plan.tasks().map(|task| task.index).zip(build_tickets);
        let tickets = indexed.filter_map(|(index, build_ticket)| Some((index, build_ticket?)));
        Ok((control, tickets.collect()))
    }

    /// One ticket of a build.
    async fn build_ticket(
        &self,
        queue: &str,
        job: &Job,
        n: u64,
        task: String,
        run: u32,
    ) -> Result<Option<BuildTicket>> {
        let key = part_key(queue, job.name.as_str(), n, &task, run)?;
        let posted = self.tickets.get(&key).await?;
        Ok(ours(job, key, posted))
    }
}

/// A ticket as one of a build, if it is of that job and no other of its name.
fn ours(job: &Job, key: TicketKey, posted: Option<Posted>) -> Option<BuildTicket> {
    let is_ours = |ticket: &Ticket| ticket.part.as_ref().is_some_and(|part| part.uid == job.uid());
    posted.filter(|p| is_ours(&p.ticket)).map(|posted| BuildTicket {
        queue: key.queue,
        posted,
    })
}
