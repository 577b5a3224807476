//! What the queue index knows of groups: who waits for a place, and who makes an end of whom.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use tokio::sync::Notify;

use super::{Queue, QueueIndex, TicketSummary};
use crate::repository::config::Supersede;
use crate::repository::core::lock;
use crate::repository::model::group::{Unfinished, superseded};
use crate::repository::model::ticket::{CONTROL_QUEUE, Ticket, TicketKey, TicketState};
use crate::repository::names::{Name, TicketId};

/// What a ticket is of its group.
#[derive(Debug, Clone)]
pub(super) struct Grouped {
    /// The group.
    pub(super) digest: String,
    /// The group's name, for people.
    pub(super) name: String,
    /// Whether it is one of builds.
    pub(super) of_builds: bool,
    /// Whether it holds no place yet.
    pub(super) waits: bool,
    /// The number of its build.
    n: u64,
    /// What it wants of older ones.
    supersede: Supersede,
}

impl Grouped {
    pub(super) fn of(ticket: &Ticket) -> Option<Self> {
        let (member, part) = (ticket.group.as_ref()?, ticket.part.as_ref()?);
        Some(Grouped {
            digest: member.digest.clone(),
            name: member.name.clone(),
            of_builds: ticket.is_control(),
            waits: ticket.state == TicketState::Open && ticket.slot.is_none(),
            n: part.build,
            // Who retries an old build may roll back by it, and a newer one may run: it makes an end of none.
            supersede: if part.run > 0 || member.late {
                Supersede::No
            } else {
                member.supersede
            },
        })
    }
}

/// The builds of a job that share a group: its digest, and the job's uid.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Sides {
    group: String,
    uid: String,
}

/// A build that a newer one makes an end of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Its ticket.
    pub(crate) key: TicketKey,
    /// The number of the newer one.
    pub(crate) by: u64,
    /// Whether it ends though it has begun meanwhile.
    pub(crate) though_it_runs: bool,
}

/// Groups in which a newer build has come.
#[derive(Default)]
pub(super) struct Newer {
    sides: Mutex<HashSet<Sides>>,
    came: Notify,
}

impl TicketSummary {
    /// The job and the group that a build is of.
    pub(super) fn sides(&self) -> Option<Sides> {
        let (group, uid) = (self.group.as_ref()?.digest.clone(), self.job.clone()?);
        Some(Sides { group, uid })
    }
}

impl Queue {
    /// Tickets that wait for a place of a group and are older than that, the oldest first.
    fn waiting(&self, group: &str, before: u64) -> Vec<TicketId> {
        let waits = |summary: &TicketSummary| {
            let of = summary.group.as_ref().is_some_and(|of| of.waits && of.digest == group);
            of && summary.state == TicketState::Open && summary.created < before
        };
        let waiting = self.tickets.iter().filter(|(_, summary)| waits(summary));
        let mut waiting: Vec<_> = waiting.map(|(id, summary)| (summary.created, id.clone())).collect();
        waiting.sort_unstable();
        waiting.into_iter().map(|(_, id)| id).collect()
    }
}

impl QueueIndex {
    /// Tickets of a queue that wait for a place of a group and are older than that, the oldest first.
    pub(crate) fn waiting(&self, queue: &Name, group: &str, before: u64) -> Vec<TicketId> {
        let queues = lock(&self.queues);
        queues
            .get(queue)
            .map(|queue| queue.waiting(group, before))
            .unwrap_or_default()
    }

    /// Those of some tickets of a queue that are not known here.
    pub(crate) fn unknown(&self, queue: &Name, mut ids: Vec<TicketId>) -> Vec<TicketId> {
        if let Some(queue) = lock(&self.queues).get(queue) {
            ids.retain(|id| !queue.tickets.contains_key(id));
        }
        ids
    }

    /// Notes a build that may make an end of older ones.
    pub(super) fn note_newer(&self, summary: &TicketSummary) {
        if let Some(sides) = summary.sides()
            && summary.group.as_ref().is_some_and(|group| !group.supersede.is_no())
        {
            self.note_sides(sides);
        }
    }

    /// The same of all that this mount knows of: what was told of one may have been lost, or too early.
    pub(crate) fn note_all_sides(&self) {
        let mut known: HashMap<Sides, usize> = HashMap::new();
        let queues = lock(&self.queues);
        let summaries = queues.values().flat_map(|queue| queue.tickets.values());
        for summary in summaries.filter(|summary| summary.state != TicketState::Finished) {
            if let Some(sides) = summary.sides() {
                *known.entry(sides).or_default() += 1;
            }
        }
        drop(queues);
        let many = known.into_iter().filter(|(_, builds)| *builds > 1);
        many.for_each(|(sides, _)| self.note_sides(sides));
    }

    /// Whether a newer build makes an end of the one that this ticket is of.
    pub(crate) fn is_superseded(&self, key: &TicketKey) -> bool {
        let summary = |queues: &HashMap<Name, Queue>| queues.get(&key.queue)?.tickets.get(&key.id)?.sides();
        let sides = summary(&lock(&self.queues));
        sides.is_some_and(|sides| self.superseded(&sides).iter().any(|ended| ended.key == *key))
    }

    /// Has the builds of a job and a group looked at.
    pub(crate) fn note_sides(&self, sides: Sides) {
        lock(&self.newer.sides).insert(sides);
        self.newer.came.notify_one();
    }

    /// Waits until newer builds have come; where.
    pub(crate) async fn newer(&self) -> Vec<Sides> {
        loop {
            let sides: Vec<Sides> = lock(&self.newer.sides).drain().collect();
            if !sides.is_empty() {
                return sides;
            }
            self.newer.came.notified().await;
        }
    }

    /// The builds of a job and a group of which newer ones make an end.
    pub(crate) fn superseded(&self, sides: &Sides) -> Vec<Ended> {
        let Some(queue) = Name::new(CONTROL_QUEUE) else {
            return Vec::new();
        };
        let queues = lock(&self.queues);
        let Some(tickets) = queues.get(&queue).map(|queue| &queue.tickets) else {
            return Vec::new();
        };
        let of = |summary| {
            let summary: &TicketSummary = summary;
            let group = summary.group.as_ref().filter(|group| group.digest == sides.group)?;
            let ours = summary.state != TicketState::Finished && summary.job.as_deref() == Some(&sides.uid);
            ours.then_some(Unfinished {
                n: group.n,
                created: summary.created,
                waits: group.waits,
                supersede: group.supersede,
            })
        };
        let (ids, builds): (Vec<&TicketId>, Vec<Unfinished>) = tickets
            .iter()
            .filter_map(|(id, summary)| Some((id, of(summary)?)))
            .unzip();
        let key = |at: usize| TicketKey {
            queue: queue.clone(),
            id: ids[at].clone(),
        };
        let ended = superseded(&builds).into_iter().map(|ended| Ended {
            key: key(ended.at),
            by: ended.by,
            though_it_runs: ended.though_it_runs,
        });
        ended.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::Lane;
    use super::*;
    use crate::repository::model::skills::Skills;

    /// A job that was made again under its name has tickets of the same ids: one that has ended by the time it is first
    /// seen is told of, though the other had ended too. Else its build would never be recorded.
    #[test]
    fn another_ticket_of_the_same_id_was_not_known() {
        let queue_index = QueueIndex::new(Arc::default(), Arc::default());
        let key = TicketKey {
            queue: Name::new(CONTROL_QUEUE).unwrap(),
            id: TicketId::new("a.1.control").unwrap(),
        };
        let ended = |created| TicketSummary {
            state: TicketState::Finished,
            created,
            lane: Lane {
                priority: 0,
                owner: 1,
                needs: String::new(),
            },
            job: None,
            group: None,
            untrusted: false,
            build: None,
            told: false,
        };
        let over = Some(TicketState::Finished);
        assert_eq!(queue_index.place(&key, Some(ended(1))), None);
        assert_eq!(queue_index.place(&key, Some(ended(1))), over);
        assert_eq!(queue_index.place(&key, Some(ended(2))), None);
        assert_eq!(queue_index.place(&key, None), over);
    }

    /// "Builds of one bound and of another do not run beside each other": when the last of before has ended, all that
    /// waited for it are tried, as many as their group has places; those of one commit too.
    #[test]
    fn all_builds_of_groups_are_tried_when_one_of_another_bound_has_ended() {
        let queue_index = QueueIndex::new(Arc::default(), Arc::default());
        let queue = Name::new(CONTROL_QUEUE).unwrap();
        let key = |n: u64| TicketKey {
            queue: queue.clone(),
            id: TicketId::new(&format!("a.{n}.control")).unwrap(),
        };
        let grouped = |n| Grouped {
            digest: "deploy".to_owned(),
            name: "deploy".to_owned(),
            of_builds: true,
            waits: true,
            n,
            supersede: Supersede::No,
        };
        let summary = |n: u64, is_grouped: bool, state| TicketSummary {
            state,
            created: n.min(2),
            lane: Lane {
                priority: 0,
                owner: 1,
                needs: String::new(),
            },
            job: Some("uid".to_owned()),
            group: is_grouped.then(|| Box::new(grouped(n))),
            untrusted: false,
            build: None,
            told: false,
        };
        let parked = || {
            lock(&queue_index.queues)
                .get(&queue)
                .map_or(0, |queue| queue.parked.len())
        };
        queue_index.place(&key(1), Some(summary(1, false, TicketState::Claimed)));
        for n in 2..=4 {
            queue_index.place(&key(n), Some(summary(n, true, TicketState::Open)));
            queue_index.park(&key(n));
        }
        assert_eq!(parked(), 1);
        queue_index.place(&key(1), None);
        assert_eq!(parked(), 0);
        let queues = lock(&queue_index.queues);
        let open = queues[&queue].open.first(&Skills::new(std::iter::empty()), 9);
        assert_eq!(open.len(), 3);
    }
}
