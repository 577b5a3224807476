//! Notifications: made with what they tell of, and taken away where nobody sends them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use distcifs_settings::state::TaskState;

use super::access::Access;
use super::builds::Builds;
use super::config::Notify;
use super::core::now;
use super::model::build::{Build, Live};
use super::model::job::Job;
use super::model::json::to_json;
use super::model::notification::{Moment, NOTIFY_QUEUE, News, NotifyRef, compares};
use super::model::ops::delete;
use super::model::record::Record;
use super::model::ticket::{Posted, Ticket, TicketKey, TicketState, Verdict, queue_path};
use super::names::{Name, TicketId};
use super::view::{why_ended, why_held};
use super::{Result, format};

/// Finished builds that are looked at for the one before of the same ref.
const BEFORE_MAX: usize = 200;

/// Pause between two looks for notifications that nobody sends.
const SWEEP_PAUSE: Duration = Duration::from_secs(3600);

/// How long one waits for a worker, milliseconds: a week. Who hears of it later has seen it.
const UNSENT_TIME: u64 = 7 * 24 * 3600 * 1000;

/// Those of one owner that wait; of more the oldest go.
const UNSENT_MAX: usize = 1000;

impl Builds {
    /// The tickets that tell of the end of a build, with this record, for the commit that takes its entry away. They are
    /// the same whoever makes them: one of all that record it commits.
    pub(super) async fn notifications(&self, build: &Build, record: &Record) -> Result<Vec<(TicketKey, Ticket)>> {
        let notify = &build.config.notify;
        let Some((live, _)) = build.live.as_ref().filter(|_| !notify.is_empty()) else {
            return Ok(Vec::new());
        };
        let compared = compares(notify) && !record.source.untrusted && record.state != Verdict::Aborted;
        let before = if compared {
            self.ended_before(build, live).await?
        } else {
            None
        };
        let failed = |index: &usize| matches!(record.tasks[*index].state, TaskState::Failure | TaskState::Error);
        let failed = (0..record.tasks.len())
            .filter(failed)
            .filter_map(|index| build.plan.task(index));
        let news = News {
            of: reference(&build.job, build.n, live),
            owner: live.owner.unwrap_or(build.job.entry.access.uid),
            nonce: &live.nonce,
            moment: Moment::Ended(record.state, before),
            source: &record.source,
            cause: build.cause(),
            why: &why_ended(build),
            failed: failed.map(|task| task.name.to_string()).collect(),
            times: (record.triggered, record.finished),
            at: now(),
        };
        self.with_queue(news.tickets(notify)).await
    }

    /// The tickets that tell of a build that is held, for the commit of its trigger.
    pub(super) async fn told_of_held(
        &self,
        job: &Job,
        notify: &[Notify],
        n: u64,
        live: &Live,
    ) -> Result<Vec<(TicketKey, Ticket)>> {
        let news = News {
            of: reference(job, n, live),
            owner: live.owner.unwrap_or(job.entry.access.uid),
            nonce: &live.nonce,
            moment: Moment::Held,
            source: &live.source,
            cause: "",
            why: &why_held(n, &live.source),
            failed: Vec::new(),
            times: (live.triggered, 0),
            at: now(),
        };
        self.with_queue(news.tickets(notify)).await
    }

    /// How the build ended that this one is held against: the run before, of a retry; else the newest trusted one before
    /// it of the same ref. What somebody aborted does not count.
    async fn ended_before(&self, build: &Build, live: &Live) -> Result<Option<Verdict>> {
        let counts = |state: &Verdict| *state != Verdict::Aborted;
        if let Some(state) = live.before.filter(counts) {
            return Ok(Some(state));
        }
        let lines = self.indexed(&build.job).await?;
        let older = lines
            .iter()
            .rev()
            .filter(|(n, line)| *n < build.n && !line.untrusted && counts(&line.state));
        for (n, line) in older.take(BEFORE_MAX) {
            match self.record(&build.job, *n).await {
                Ok(Some(record)) if record.source.name == live.source.name => return Ok(Some(line.state)),
                Ok(_) => {}
                // A build is not left unrecorded for what another is called.
                Err(error) => tracing::warn!(job = %build.job.name, build = n, %error, "looking for the build before"),
            }
        }
        Ok(None)
    }

    /// Sees to the queue that they come into, if there are any: somebody may have removed it.
    async fn with_queue(&self, told: Vec<(TicketKey, Ticket)>) -> Result<Vec<(TicketKey, Ticket)>> {
        if let Some((key, _)) = told.first() {
            let path = queue_path(&key.queue);
            if self.store.get(&path).await?.is_none() {
                format::lay(&*self.store.coordination, &path, to_json(&Access::of_mounter())).await?;
            }
        }
        Ok(told)
    }

    /// Takes away what nobody sends, now and then.
    pub(super) async fn keep_unsent_swept(self: Arc<Self>) {
        loop {
            if let Err(error) = self.sweep_unsent(now()).await {
                tracing::warn!(%error, "looking at notifications that nobody sends; it is done again within the hour");
            }
            tokio::time::sleep(SWEEP_PAUSE).await;
        }
    }

    /// Does so once: those that wait for longer than a week, and of each owner all but the newest thousand.
    pub(super) async fn sweep_unsent(&self, now: u64) -> Result<()> {
        let Some(queue) = Name::new(NOTIFY_QUEUE) else {
            return Ok(());
        };
        let mut waiting: HashMap<u32, Vec<(TicketKey, Posted)>> = HashMap::new();
        for id in self.store.children(&queue_path(&queue)).await? {
            let Some(id) = TicketId::new(&id) else { continue };
            let queue = queue.clone();
            let key = TicketKey { queue, id };
            let Some(posted) = self.tickets.get_sound(&key).await? else {
                continue;
            };
            if posted.ticket.is_notification() && posted.ticket.state == TicketState::Open {
                waiting.entry(posted.ticket.uid).or_default().push((key, posted));
            }
        }
        for (owner, mut tickets) in waiting {
            tickets.sort_by_key(|(_, posted)| std::cmp::Reverse(posted.created));
            let old = |posted: &Posted| posted.ticket.posted.saturating_add(UNSENT_TIME) < now;
            let surplus = tickets.iter().enumerate();
            let surplus = surplus.filter(|(at, (_, posted))| *at >= UNSENT_MAX || old(posted));
            let mut gone = 0;
            for (_, (key, posted)) in surplus {
                // A mismatch: somebody works on it, or another mount was first.
                self.store
                    .commit(vec![delete(key.path(), Some(posted.version))])
                    .await?;
                gone += 1;
            }
            if gone > 0 {
                tracing::warn!(
                    owner,
                    gone,
                    "notifications given up: does a worker of the queue notify run?"
                );
            }
        }
        Ok(())
    }
}

fn reference(job: &Job, n: u64, live: &Live) -> NotifyRef {
    NotifyRef {
        job: job.name.to_string(),
        uid: job.uid().to_owned(),
        build: n,
        run: live.run,
    }
}
