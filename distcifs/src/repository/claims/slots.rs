//! Places: in a group, or in a job's `concurrency`. Each is held from the claim of a ticket to its end.

use super::Claims;
use crate::repository::config::Task;
use crate::repository::core::bounded;
use crate::repository::model::build::{Live, live_path};
use crate::repository::model::group::{Holder, Kind, Member, Place, Sharing, has_names, is_bounded_otherwise, values};
use crate::repository::model::json::from_json;
use crate::repository::model::keys::{Key, UNTRUSTED_SLOTS};
use crate::repository::model::plan::Plan;
use crate::repository::model::ticket::{
    BuildRef, CONTROL_QUEUE, Posted, TicketKey, TicketState, control_key, queue_path,
};
use crate::repository::names::{Name, TicketId};
use crate::repository::work::READS_MAX;
use crate::repository::{Error, Result};

/// Builds and tasks that `why` names.
const NAMES_MAX: usize = 12;

/// What a ticket needs a place of.
#[derive(Clone, Copy)]
enum Wanted<'a> {
    /// A group.
    Group(&'a Member),
    /// The `concurrency` of its job.
    Slot(Slots<'a>),
}

/// The slots of a job's `concurrency`.
#[derive(Clone, Copy)]
struct Slots<'a> {
    build: &'a BuildRef,
    bound: u32,
    /// Whether they are those of strangers.
    untrusted: bool,
}

impl Claims {
    /// A free place for a ticket that needs one and holds none yet.
    ///
    /// What is known here is asked first: whoever waits need not have all waiting builds of all users listed for that.
    ///
    /// # Errors
    /// `Busy` if none is free, or an older one waits.
    pub(super) async fn place_for(&self, key: &TicketKey, posted: &Posted) -> Result<Option<Place>> {
        let ticket = &posted.ticket;
        if ticket.slot.is_some() {
            return Ok(None);
        }
        let Some(wanted) = self.wanted(key, posted).await? else {
            return Ok(None);
        };
        self.check_older(key, posted, wanted, Vec::new()).await?;
        match wanted {
            Wanted::Group(member) => {
                let place = self.groups.seen(&member.digest).await?.free(member.limit);
                let place = place.ok_or_else(|| no_place(key, member))?;
                let unheard = self.unheard(&key.queue).await?;
                self.check_older(key, posted, wanted, unheard).await?;
                Ok(Some(place))
            }
            Wanted::Slot(slots) => {
                let free = self.free_slots(slots).await?;
                if free.len() <= self.waiting_for_slots(key, posted, slots, free.len(), &[]).await? {
                    return Err(no_slot(slots));
                }
                let unheard = self.unheard_of_job(slots.build).await?;
                let wait = self.waiting_for_slots(key, posted, slots, free.len(), &unheard);
                let at = free.get(wait.await?).copied().ok_or_else(|| no_slot(slots))?;
                self.check_older(key, posted, wanted, unheard).await?;
                Ok(Some(Place { at, version: None }))
            }
        }
    }

    /// What a ticket needs a place of, if of anything.
    ///
    /// # Errors
    /// `Io` too if the entry of its build is damaged.
    async fn wanted<'a>(&self, key: &TicketKey, posted: &'a Posted) -> Result<Option<Wanted<'a>>> {
        let ticket = &posted.ticket;
        if let Some(member) = &ticket.group {
            if let Some(build) = &ticket.part {
                // Whoever took it could do nothing with it, and would hold the place.
                self.builds.check_entry(&build.uid, build.build).await?;
            }
            return Ok(Some(Wanted::Group(member)));
        }
        let build = ticket.part.as_ref().filter(|_| key.queue.as_str() == CONTROL_QUEUE);
        let Some(build) = build else { return Ok(None) };
        let slots = self.builds.concurrency_of(build).await?;
        Ok(slots.map(|(bound, untrusted)| {
            Wanted::Slot(Slots {
                build,
                bound,
                untrusted,
            })
        }))
    }

    /// Refuses a ticket that waits for an older one, among those that are known here and some that are not: one that is
    /// bounded otherwise, as the places of the one are none of the other's, and of a group one that waits for a place too.
    async fn check_older(
        &self,
        key: &TicketKey,
        posted: &Posted,
        wanted: Wanted<'_>,
        unheard: Vec<TicketId>,
    ) -> Result<()> {
        let known = self.outlook.of_another_bound(key, posted);
        let ids = unheard.iter().cloned().chain(known).collect();
        if let Some(older) = self.older_bounded_otherwise(key, posted, ids).await? {
            return Err(Error::Busy(format!(
                "{key}: it waits for {older}, as the concurrency or the owner of its job was another then"
            )));
        }
        let Wanted::Group(member) = wanted else { return Ok(()) };
        // Its end is on the way: it must not begin before that, and hold the place that the newer one waits for.
        if self.outlook.is_superseded(key) {
            return Err(no_place(key, member));
        }
        let known = self.outlook.waiting(&key.queue, &member.digest, posted.created);
        let ids = unheard.into_iter().chain(known).collect();
        let waits = |other: &Posted| other.ticket.waits_in(member);
        match self.first_older(key, posted, ids, waits).await? {
            Some(_) => Err(no_place(key, member)),
            None => Ok(()),
        }
    }

    /// The first of some tickets of the queue that is older, has not ended, and is bounded otherwise.
    async fn older_bounded_otherwise(
        &self,
        key: &TicketKey,
        posted: &Posted,
        ids: Vec<TicketId>,
    ) -> Result<Option<TicketKey>> {
        let otherwise = |other: &Posted| {
            other.ticket.state != TicketState::Finished && is_bounded_otherwise(&other.ticket, &posted.ticket)
        };
        self.first_older(key, posted, ids, otherwise).await
    }

    /// The tickets of a queue of which nothing is known here. Whoever sees a ticket sees those that were posted before
    /// it. What is known is to be asked after this: it may have become more meanwhile.
    async fn unheard(&self, queue: &Name) -> Result<Vec<TicketId>> {
        let path = queue_path(queue);
        let names = bounded(&path, self.store.coordination.children(&path)).await?;
        let ids = names.iter().filter_map(|name| TicketId::new(name)).collect();
        Ok(self.outlook.unknown(queue, ids))
    }

    /// The own tickets of other builds of a job of which nothing is known here; see [`Claims::unheard`].
    async fn unheard_of_job(&self, build: &BuildRef) -> Result<Vec<TicketId>> {
        let path = Key::Job(&build.uid).path();
        let names = bounded(&path, self.store.coordination.children(&path)).await?;
        let numbers = names.iter().filter_map(|name| name.parse().ok());
        let numbers = numbers.filter(|n| *n != build.build).collect();
        let mut ids = Vec::new();
        for n in self.outlook.unknown_builds(&build.uid, numbers) {
            let path = live_path(&build.uid, n);
            let entry = self.store.get(&path).await?;
            // One that is damaged stands before nobody.
            let live = entry.and_then(|entry| from_json::<Live>(&path, &entry.data).ok());
            if let Some(live) = live {
                ids.push(control_key(&build.job, n, live.run)?.id);
            }
        }
        Ok(ids)
    }

    /// The slots that nobody holds.
    async fn free_slots(&self, slots: Slots<'_>) -> Result<Vec<u32>> {
        let taken: Vec<String> = self.store.children(&Key::Job(&slots.build.uid).path()).await?;
        let first = if slots.untrusted { UNTRUSTED_SLOTS } else { 0 };
        let all = first..first.saturating_add(slots.bound);
        Ok(all.filter(|i| !taken.contains(&format!("slot-{i}"))).collect())
    }

    /// How many older builds wait for the slots that one waits for: so many of them at most, among those that are known
    /// here and some that are not.
    async fn waiting_for_slots(
        &self,
        key: &TicketKey,
        posted: &Posted,
        slots: Slots<'_>,
        most: usize,
        unheard: &[TicketId],
    ) -> Result<usize> {
        let of = (slots.build.uid.as_str(), slots.untrusted);
        let known = self.outlook.older(key, of, usize::MAX);
        if unheard.is_empty() && known.len() < most {
            return Ok(known.len());
        }
        let waits = |other: &Posted| {
            let build = other.ticket.part.as_ref();
            other.ticket.state == TicketState::Open
                && other.ticket.untrusted == slots.untrusted
                && build.is_some_and(|build| build.uid == slots.build.uid)
        };
        // What is known here lags: some of these may have begun.
        let mut wait = 0;
        let ids = known.into_iter().chain(unheard.iter().cloned()).collect();
        self.each_older(key, posted, ids, waits, |_| {
            wait += 1;
            wait < most
        })
        .await?;
        Ok(wait)
    }

    /// Which builds or tasks an open ticket waits for, as its group is used up or they are older, for people; `None`:
    /// it waits for none.
    pub(crate) async fn waits_in_group(&self, key: &TicketKey, posted: &Posted) -> Result<Option<String>> {
        let ticket = &posted.ticket;
        if ticket.slot.is_some() || ticket.state != TicketState::Open {
            return Ok(None);
        }
        let otherwise = self.outlook.of_another_bound(key, posted);
        if self.wanted(key, posted).await?.is_some()
            && let Some(older) = self.older_bounded_otherwise(key, posted, otherwise).await?
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

    /// The first of some tickets of the same queue that is older and is so.
    async fn first_older(
        &self,
        key: &TicketKey,
        posted: &Posted,
        ids: Vec<TicketId>,
        is: impl Fn(&Posted) -> bool,
    ) -> Result<Option<TicketKey>> {
        let mut found = None;
        self.each_older(key, posted, ids, is, |other| {
            found = Some(other);
            false
        })
        .await?;
        Ok(found)
    }

    /// Those of some tickets of the same queue that are older and are so, one by one, as long as more are asked for.
    async fn each_older(
        &self,
        key: &TicketKey,
        posted: &Posted,
        ids: Vec<TicketId>,
        is: impl Fn(&Posted) -> bool,
        mut take: impl FnMut(TicketKey) -> bool,
    ) -> Result<()> {
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
                let counts = other.created < posted.created && is(&other) && !self.never_begins(&other).await?;
                if counts && !take(other_key) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Whether a ticket is open and can't be claimed, as the entry of its build is damaged: it stands before nobody.
    async fn never_begins(&self, posted: &Posted) -> Result<bool> {
        let build = posted.ticket.part.as_ref();
        match build.filter(|_| posted.ticket.state == TicketState::Open) {
            Some(build) => self.builds.is_damaged(&build.uid, build.build).await,
            None => Ok(false),
        }
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

/// What is said to who needs a place of a group that he can't have.
fn no_place(key: &TicketKey, member: &Member) -> Error {
    Error::Busy(format!("{key}: it waits for a place in the group {}", member.name))
}

/// The same of a slot of a job.
fn no_slot(slots: Slots<'_>) -> Error {
    let Slots { build, bound, .. } = slots;
    Error::Busy(format!(
        "jobs/{}: {bound} builds run already, or wait for longer (concurrency)",
        build.job
    ))
}
