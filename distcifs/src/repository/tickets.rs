//! Tickets: what stands with the coordinator, posting, reading, removing.

use std::sync::Arc;

use bytes::Bytes;

use super::attempts::AttemptDirs;
use super::config::TicketRequest;
use super::consoles::Consoles;
use super::core::{INLINE_BYTES_MAX, random_id};
use super::model::json::to_json;
use super::model::keys::TICKETS;
use super::model::ops::{Step, delete};
use super::model::steps;
use super::model::ticket::{BuildRef, OfBuild, Posted, Poster, Ticket, TicketKey, TicketState, queue_path, ticket_of};
use super::model::unknown::Unknown;
use super::names::{Name, TicketId};
use super::store::Store;
use super::work::{READS_MAX, in_parallel};
use super::{Error, Result, trust};
use crate::storage::{Commit, Digest, Entry, Op};

mod text;
mod tombstones;

use text::{build_ticket_id, ticket_json};
pub use tombstones::Tombstones;

/// What is known of tickets that are claimed here: more than is remembered of them.
pub(crate) trait Claimed: Send + Sync {
    /// A ticket as its claim made it, if that is held beyond doubt.
    fn held(&self, key: &TicketKey) -> Option<Posted>;
}

/// The tickets of all queues.
pub struct Tickets {
    store: Arc<Store>,
    consoles: Arc<Consoles>,
    attempts: Arc<AttemptDirs>,
    claimed: Arc<dyn Claimed>,
    /// Those that were tidied away lately.
    pub(crate) tombstones: Tombstones,
}

impl Tickets {
    /// Those of this store.
    pub(crate) fn new(
        store: Arc<Store>,
        consoles: Arc<Consoles>,
        attempts: Arc<AttemptDirs>,
        claimed: Arc<dyn Claimed>,
    ) -> Arc<Self> {
        Arc::new(Tickets {
            store,
            consoles,
            attempts,
            claimed,
            tombstones: Tombstones::default(),
        })
    }

    /// A ticket that somebody asks for by name, who will ask for more of it.
    pub async fn look_up(self: &Arc<Self>, key: &TicketKey) -> Result<Option<Posted>> {
        let _told = self.store.watch_to_cache(&queue_path(&key.queue));
        self.get(key).await
    }

    /// A ticket by its key.
    pub async fn get(&self, key: &TicketKey) -> Result<Option<Posted>> {
        if let Some(posted) = self.claimed.held(key) {
            return Ok(Some(posted));
        }
        let entry = self.store.get(&key.path()).await?;
        entry.map(|entry| ticket_of(&key.to_string(), &entry)).transpose()
    }

    /// The same where what others wait for must not hang on it: one that is damaged is as good as none.
    pub(crate) async fn get_sound(&self, key: &TicketKey) -> Result<Option<Posted>> {
        match self.get(key).await {
            Err(error) if !self.is_damaged(key).await => Err(error),
            Err(_) => Ok(None),
            found => found,
        }
    }

    /// Whether a ticket is there and can't be read: it is no other when it is read again.
    pub(crate) async fn is_damaged(&self, key: &TicketKey) -> bool {
        let entry = self.store.get(&key.path()).await;
        entry.is_ok_and(|entry| entry.is_some_and(|entry| ticket_of(&key.to_string(), &entry).is_err()))
    }

    /// The ticket's JSON.
    pub async fn body(&self, ticket: &Ticket) -> Result<Bytes> {
        match (&ticket.body, ticket.body_digest.as_deref().map(Digest::parse)) {
            (Some(body), _) => Ok(Bytes::from(body.clone())),
            (None, Some(Some(digest))) => self.store.body(digest).await,
            _ => Err(Error::Io("ticket: its body is missing".into())),
        }
    }

    /// Ids in a queue, those of finished parts of builds left out, oldest first.
    pub async fn ids(self: &Arc<Self>, queue: &Name) -> Result<Vec<TicketId>> {
        let path = queue_path(queue);
        self.store.watch_to_list(&path).await;
        let names = self.store.children(&path).await?;
        let ids = names.iter().filter_map(|name| TicketId::new(name));
        let keys: Vec<TicketKey> = ids
            .map(|id| TicketKey {
                queue: queue.clone(),
                id,
            })
            .collect();
        let mut ids = Vec::with_capacity(keys.len());
        for keys in keys.chunks(READS_MAX) {
            self.store.read_ahead(keys.iter().map(TicketKey::path)).await?;
            let tickets = self.clone();
            let looks = in_parallel(keys.to_vec(), move |key| {
                let tickets = tickets.clone();
                async move {
                    let posted = tickets.get(&key).await?;
                    let shown = posted.filter(|p| p.ticket.state != TicketState::Finished || p.ticket.part.is_none());
                    Ok::<_, Error>(shown.map(|posted| (posted.created, key.id)))
                }
            });
            for look in looks.await {
                ids.extend(look?);
            }
        }
        ids.sort();
        Ok(ids.into_iter().map(|(_, id)| id).collect())
    }

    /// Makes the entry, or finds that it was made by the same request before.
    async fn put(&self, key: &TicketKey, mut ticket: Ticket, guard: Vec<Op>, body: &Bytes) -> Result<()> {
        let pin = self.store.pin_epoch().await?;
        self.attempts.check_start(key, &ticket).await?;
        if body.len() <= INLINE_BYTES_MAX {
            ticket.body = Some(String::from_utf8_lossy(body).into_owned());
        } else {
            ticket.body_digest = Some(self.store.keep_body(body.clone()).await?.to_string());
        }
        if to_json(&ticket).len() > crate::storage::coordination::ENTRY_BYTES_MAX {
            return Err(Error::TooBig(format!("{key}: too many labels")));
        }
        let guarded = !guard.is_empty();
        let Step { after: ticket, ops } = steps::post(key, ticket, guard);
        let same = |known: &Ticket| (&known.body, &known.body_digest) == (&ticket.body, &ticket.body_digest);
        let ours = |entry: Option<&Entry>| {
            entry.is_some_and(|e| serde_json::from_slice(&e.data).is_ok_and(|known: Ticket| same(&known)))
        };
        if self.store.commit_pinned(&pin, ops, &key.path(), ours).await? == Commit::Done {
            return Ok(());
        }
        match self.get(key).await? {
            Some(posted) if self.body(&posted.ticket).await? == *body => Ok(()),
            Some(_) => Err(Error::Exists(format!("{key}: another ticket has this id"))),
            None if guarded => Err(Error::NotClaimant(format!(
                "{key}: its build's build-control ticket was lost"
            ))),
            None => Err(Error::NotFound(format!("tickets/{}", key.queue))),
        }
    }

    /// Removes a finished ticket that stands alone.
    pub async fn remove(&self, key: &TicketKey) -> Result<()> {
        let posted = self.get(key).await?.ok_or_else(|| Error::NotFound(key.to_string()))?;
        if posted.ticket.part.is_some() {
            return Err(Error::Busy(format!(
                "{key}: it belongs to a build; abort that with its ctl"
            )));
        }
        if posted.ticket.state == TicketState::Claimed {
            return Err(Error::Busy(format!("{key}: somebody is working on it")));
        }
        let mut ops: Vec<Op> = Vec::new();
        ops.extend(posted.ticket.post_path(key).map(|path| delete(path, None)));
        ops.push(delete(key.path(), Some(posted.version)));
        let removed = self
            .store
            .commit_settled(ops, &key.path(), |entry| entry.is_none())
            .await?;
        if removed != Commit::Done {
            return Err(Error::Busy(format!("{key}: it was claimed just now")));
        }
        self.consoles
            .remove(&super::model::console::scope_of(key, &posted.ticket))
            .await
    }

    /// The queues, in order of their names.
    pub async fn queues(&self) -> Result<Vec<Name>> {
        let mut names: Vec<Name> = self
            .store
            .children(TICKETS)
            .await?
            .iter()
            .filter_map(|n| Name::new(n))
            .collect();
        names.sort();
        Ok(names)
    }
}

/// What a request asks for, looked at before it is posted: whose it is, and who may post it so.
pub(crate) struct Checked {
    pub(crate) poster: Poster,
    pub(crate) part: Option<BuildRef>,
    pub(crate) of_build: OfBuild,
    /// What must still hold when it is posted.
    pub(crate) guard: Vec<Op>,
    /// Why a task of a stranger's build is an error at once.
    pub(crate) wrong: Option<String>,
}

impl Tickets {
    /// Posts a ticket. The same one twice is made once. Of a stranger's build one that may not be worked is posted with
    /// its end.
    pub(crate) async fn post(&self, key: &TicketKey, mut request: TicketRequest, checked: Checked) -> Result<()> {
        let Checked {
            poster,
            part,
            of_build: of,
            guard,
            wrong,
        } = checked;
        if of.source.untrusted {
            trust::label(&key.queue, &mut request);
        }
        let body = to_json(&ticket_json(key, &request, part.as_ref(), &of.source));
        let isolation = request.settings.isolation.clone();
        let mut ticket = posted(request, part, &of, poster.uid);
        let forbidden = || trust::forbidden(&key.queue, isolation.as_str(), &of.types);
        if let Some(why) = of.source.untrusted.then(forbidden).flatten().or(wrong) {
            trust::refuse(&mut ticket, why);
        }
        self.put(key, ticket, guard, &body).await
    }

    /// The id asked for, if it may be used, or one made up from the request's content.
    pub(crate) fn id_for(request: &TicketRequest) -> Result<TicketId> {
        match &request.id {
            Some(id) if id.is_build_shaped() && request.build.is_none() => Err(Error::Invalid(format!(
                "id {id}: names of the form job.build.task are kept for the tickets of builds"
            ))),
            Some(id) => Ok(id.clone()),
            None if request.build.is_some() => Tickets::id_in_build(request),
            None => TicketId::new(&format!("t{}", random_id())).ok_or_else(|| Error::Invalid("id".into())),
        }
    }

    /// The id that a request for a build's ticket must have.
    pub(crate) fn id_in_build(request: &TicketRequest) -> Result<TicketId> {
        build_ticket_id(request)
    }
}

/// The ticket that somebody asks for, as it is posted.
fn posted(request: TicketRequest, part: Option<BuildRef>, of: &OfBuild, uid: u32) -> Ticket {
    let settings = request.settings;
    Ticket {
        state: TicketState::Open,
        attempt: 1,
        given: 0,
        nonce: String::new(),
        post: part.is_none().then(random_id),
        part,
        notify: None,
        name: of.name.clone(),
        lines: of.lines.clone(),
        labels: settings.labels.iter().map(Name::to_string).collect(),
        isolation: (!settings.isolation.is_none()).then(|| settings.isolation.as_str().to_owned()),
        timeout: settings.timeout,
        attempts: settings.attempts,
        console_limit: settings.console_limit,
        disk: settings.limits.disk,
        workspace: request.workspace.map(|digest| digest.to_string()),
        body: None,
        body_digest: None,
        group: of.group.clone(),
        slot: None,
        uid,
        owner: of.owner,
        priority: of.priority,
        untrusted: of.source.untrusted,
        posted: super::core::now(),
        claimed: 0,
        node: String::new(),
        by: None,
        outcome: None,
        unknown: Unknown::default(),
    }
}
