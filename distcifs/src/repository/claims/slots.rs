//! Places: in a group, or in a job's `concurrency`. Each is held from the claim of a ticket to its end.

use super::Claims;
use crate::repository::config::Task;
use crate::repository::core::bounded;
use crate::repository::model::build::Live;
use crate::repository::model::group::{Holder, Kind, Member, Place, Sharing, has_names, is_bounded_otherwise, values};
use crate::repository::model::keys::{Key, UNTRUSTED_SLOTS};
use crate::repository::model::plan::Plan;
use crate::repository::model::ticket::{BuildRef, CONTROL_QUEUE, Posted, TicketKey, TicketState, queue_path};
use crate::repository::names::{Name, TicketId};
use crate::repository::work::READS_MAX;
use crate::repository::{Error, Result};

/// Builds and tasks that `why` names.
const NAMES_MAX: usize = 12;

impl Claims {
    /// A free place for a ticket that needs one and holds none yet.
    ///
    /// # Errors
    /// `Busy` if none is free, or an older one waits.
    pub(super) async fn place_for(&self, key: &TicketKey, posted: &Posted) -> Result<Option<Place>> {
        let ticket = &posted.ticket;
        if ticket.slot.is_some() {
            return Ok(None);
        }
        if let Some(older) = self.bounded_otherwise(key, posted).await? {
            return Err(Error::Busy(format!(
                "{key}: it waits for {older}, as the concurrency or the owner of its job was another then"
            )));
        }
        if let Some(member) = &ticket.group {
            let place = self.place_in(key, posted, member).await?;
            let busy = || Error::Busy(format!("{key}: it waits for a place in the group {}", member.name));
            return Ok(Some(place.ok_or_else(busy)?));
        }
        let part = ticket.part.as_ref().filter(|_| key.queue.as_str() == CONTROL_QUEUE);
        let Some(part) = part else { return Ok(None) };
        let Some((bound, untrusted)) = self.builds.concurrency_of(part).await? else {
            return Ok(None);
        };
        match self.free_slot_of(key, part, bound, untrusted).await? {
            Some(at) => Ok(Some(Place { at, version: None })),
            None => Err(Error::Busy(format!(
                "jobs/{}: {bound} builds run already (concurrency)",
                part.job
            ))),
        }
    }

    /// The oldest build that one waits for that needs a place, as the bound of its job was another when that was
    /// triggered: the places of the one are none of the other's.
    async fn bounded_otherwise(&self, key: &TicketKey, posted: &Posted) -> Result<Option<TicketKey>> {
        let ticket = &posted.ticket;
        let is_bounded = match (&ticket.group, &ticket.part) {
            _ if !ticket.is_control() => false,
            (Some(_), _) => true,
            (None, Some(part)) => self.builds.concurrency_of(part).await?.is_some(),
            (None, None) => false,
        };
        if !is_bounded {
            return Ok(None);
        }
        let otherwise =
            |other: &Posted| other.ticket.state != TicketState::Finished && is_bounded_otherwise(&other.ticket, ticket);
        let known = || self.outlook.of_another_bound(key, posted);
        self.older_that_is(key, posted, known, otherwise).await
    }

    /// A slot of a job's `concurrency` for this ticket: a free one that no older build waits for.
    async fn free_slot_of(&self, key: &TicketKey, part: &BuildRef, bound: u32, untrusted: bool) -> Result<Option<u32>> {
        let taken: Vec<String> = self.store.children(&Key::Job(&part.uid).path()).await?;
        let first = if untrusted { UNTRUSTED_SLOTS } else { 0 };
        let of = (part.uid.as_str(), untrusted);
        let older = self
            .outlook
            .older(key, of, usize::try_from(bound).unwrap_or(usize::MAX));
        let free = (first..first.saturating_add(bound)).filter(|i| !taken.contains(&format!("slot-{i}")));
        let free: Vec<u32> = free.take(older.len() + 1).collect();
        if free.is_empty() || free.len() > older.len() {
            return Ok(free.last().copied());
        }
        // The queue index lags: some of these may have begun.
        let mut wait = 0;
        for id in self.outlook.older(key, of, usize::MAX) {
            let queue = key.queue.clone();
            let other = self.tickets.get_sound(&TicketKey { queue, id }).await?;
            wait += usize::from(other.is_some_and(|other| other.ticket.state == TicketState::Open));
            if wait >= free.len() {
                return Ok(None);
            }
        }
        Ok(free.get(wait).copied())
    }

    /// A place of a group for this ticket, unless an older one of its queue waits.
    async fn place_in(&self, key: &TicketKey, posted: &Posted, member: &Member) -> Result<Option<Place>> {
        // Its end is on the way: it must not begin before that, and hold the place that the newer one waits for.
        if self.outlook.is_superseded(key) || self.waits_before(key, posted, member).await? {
            return Ok(None);
        }
        Ok(self.groups.seen(&member.digest).await?.free(member.limit))
    }

    /// Which builds or tasks an open ticket waits for, as its group is used up or they are older, for people; `None`:
    /// it waits for none.
    pub(crate) async fn waits_in_group(&self, key: &TicketKey, posted: &Posted) -> Result<Option<String>> {
        let ticket = &posted.ticket;
        if ticket.slot.is_some() || ticket.state != TicketState::Open {
            return Ok(None);
        }
        if let Some(older) = self.bounded_otherwise(key, posted).await?
            && let Some(part) = self
                .tickets
                .get_sound(&older)
                .await?
                .and_then(|older| older.ticket.part)
        {
            let name = self.groups.name_of(&Holder::of(&older, &part));
            return Ok(Some(format!(
                "waits for {name} to end, which was triggered with another concurrency or owner of the job"
            )));
        }
        let Some(member) = &ticket.group else { return Ok(None) };
        let holders = self.groups.holders(&member.digest, NAMES_MAX).await?;
        let older = self.older_that_wait(key, posted, member).await?;
        if older.is_empty() && holders.len() < usize::try_from(member.limit).unwrap_or(usize::MAX).min(NAMES_MAX) {
            return Ok(None);
        }
        let (name, limit) = (&member.name, member.limit);
        let mut words = vec![format!("waits for a place in the group {name} (of {limit})")];
        if !holders.is_empty() {
            let name = |(place, holder): &(u32, Option<Holder>)| match holder {
                Some(holder) => self.groups.name_of(holder),
                None => format!("place {place}, which is damaged (run distcifs fsck)"),
            };
            let names: Vec<String> = holders.iter().map(name).collect();
            words.push(format!("held by {}", names.join(", ")));
        }
        if !older.is_empty() {
            words.push(format!("older ones that wait: {}", older.join(", ")));
        }
        Ok(Some(words.join("; ")))
    }

    /// Older tickets of the same queue that wait for a place of a group, for people: a dozen of them at most, and how
    /// many more.
    async fn older_that_wait(&self, key: &TicketKey, posted: &Posted, member: &Member) -> Result<Vec<String>> {
        let mut ids = self.outlook.waiting(&key.queue, &member.digest, posted.created);
        ids.retain(|id| *id != key.id);
        let more = ids.len().saturating_sub(NAMES_MAX);
        let mut names = Vec::new();
        for id in ids.into_iter().take(NAMES_MAX) {
            let queue = key.queue.clone();
            let key = TicketKey { queue, id };
            // The queue index may lag.
            let Some(posted) = self
                .tickets
                .get_sound(&key)
                .await?
                .filter(|posted| posted.ticket.waits_in(member))
            else {
                continue;
            };
            names.extend(
                posted
                    .ticket
                    .part
                    .map(|part| self.groups.name_of(&Holder::of(&key, &part))),
            );
        }
        names.extend((more > 0).then(|| format!("{more} more")));
        Ok(names)
    }

    /// Whether an older ticket of the same queue waits for a place of a group.
    async fn waits_before(&self, key: &TicketKey, posted: &Posted, member: &Member) -> Result<bool> {
        let known = || self.outlook.waiting(&key.queue, &member.digest, posted.created);
        let before = |other: &Posted| other.ticket.waits_in(member);
        Ok(self.older_that_is(key, posted, known, before).await?.is_some())
    }

    /// An older ticket of the same queue that is so: of those of which the queue index believes it, and of those that it has
    /// not heard of. Whoever sees a ticket sees those that were posted before it.
    async fn older_that_is(
        &self,
        key: &TicketKey,
        posted: &Posted,
        known: impl Fn() -> Vec<TicketId>,
        is: impl Fn(&Posted) -> bool,
    ) -> Result<Option<TicketKey>> {
        if let Some(found) = self.first_older(key, posted, known(), &is).await? {
            return Ok(Some(found));
        }
        let path = queue_path(&key.queue);
        let names = bounded(&path, self.store.coordination.children(&path)).await?;
        let ids = names.iter().filter_map(|name| TicketId::new(name)).collect();
        let mut ids = self.outlook.unknown(&key.queue, ids);
        // It may have heard of one since it was asked: that was not known then, and is not unknown now.
        ids.extend(known());
        self.first_older(key, posted, ids, &is).await
    }

    /// The first of some tickets of the same queue that is older and is so.
    async fn first_older(
        &self,
        key: &TicketKey,
        posted: &Posted,
        ids: Vec<TicketId>,
        is: impl Fn(&Posted) -> bool,
    ) -> Result<Option<TicketKey>> {
        let others = ids.into_iter().filter(|id| *id != key.id).map(|id| TicketKey {
            queue: key.queue.clone(),
            id,
        });
        let mut others = others.peekable();
        let mut most = 1;
        while others.peek().is_some() {
            // The first is the one, as a rule.
            let part: Vec<TicketKey> = others.by_ref().take(most).collect();
            most = READS_MAX;
            self.store.read_ahead(part.iter().map(TicketKey::path)).await?;
            for other_key in part {
                let Some(other) = self.tickets.get_sound(&other_key).await? else {
                    continue;
                };
                if other.created < posted.created && is(&other) {
                    return Ok(Some(other_key));
                }
            }
        }
        Ok(None)
    }

    /// Whether a ticket could be claimed as far as places go.
    pub(crate) async fn has_place(&self, key: &TicketKey, posted: &Posted) -> Result<bool> {
        match self.place_for(key, posted).await {
            Ok(_) => Ok(true),
            Err(Error::Busy(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The group in which a task needs a place, with what the tasks before it recorded put into the name, and its
    /// whole name.
    pub(super) async fn group_of_task(
        &self,
        part: &BuildRef,
        (live, plan): (&Live, &Plan),
        task: &Task,
    ) -> Result<Option<(Member, String)>> {
        let Some(group) = &task.group else { return Ok(None) };
        let missing = || Error::NotFound(format!("jobs/{}", part.job));
        let name = Name::new(&part.job).ok_or_else(missing)?;
        let job = self.jobs.find(name.as_str()).await?.filter(|job| job.uid() == part.uid);
        let job = job.ok_or_else(missing)?;
        let params = match has_names(&group.name) {
            true => self.builds.params_before(&job, part, live, plan, task.index).await?,
            false => Vec::new(),
        };
        let of = Sharing {
            owner: live.owner.unwrap_or(job.entry.access.uid),
            kind: Kind::Tasks,
            untrusted: live.source.untrusted,
        };
        let member = Member::of(group, of, &values(&params, &live.source));
        member.map(Some).map_err(Error::Invalid)
    }
}
