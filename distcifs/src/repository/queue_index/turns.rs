//! Whose ticket is next: by priority, then by turns among the owners, then by age.
//!
//! Who posts ten thousand tickets has no more turns than who posts one. An owner's turn is over when a
//! ticket of his was given or claimed, here or on another mount; whoever had none for the longest time is next.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::QueueIndex;
use crate::repository::core::lock;
use crate::repository::model::skills::Skills;
use crate::repository::model::ticket::{Ticket, TicketKey};
use crate::repository::names::TicketId;

/// Owners whose last turn is remembered, for each queue; past it those who have nothing open are forgotten.
const SERVED_MAX: usize = 4096;

/// Open tickets among which nobody has to choose but by age.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Lane {
    /// That of its job.
    pub(super) priority: i8,
    /// The owner of its job; of a ticket that stands alone whoever posted it.
    pub(super) owner: u32,
    /// What a worker must have, one a line.
    pub(super) needs: String,
}

impl Lane {
    pub(super) fn of(ticket: &Ticket) -> Self {
        Lane {
            priority: ticket.priority,
            owner: ticket.owner.unwrap_or(ticket.uid),
            needs: ticket.needs(),
        }
    }
}

/// The open tickets of a queue.
#[derive(Default)]
pub(super) struct Open {
    /// By their places in the order of all tickets; those of one commit have the same.
    lanes: HashMap<Lane, BTreeSet<(u64, TicketId)>>,
    /// When each owner had his last turn, counted in turns.
    served: HashMap<u32, u64>,
    turns: u64,
}

/// What comes before a ticket, of those that somebody may be given who may be given it too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ahead {
    /// Open tickets of a higher priority.
    pub higher: usize,
    /// Older ones of its owner, of the same priority.
    pub own: usize,
    /// Other owners with tickets of the same priority.
    pub owners: usize,
}

impl Open {
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.lanes.clear();
    }

    pub(super) fn insert(&mut self, lane: &Lane, created: u64, id: TicketId) {
        match self.lanes.get_mut(lane) {
            Some(open) => drop(open.insert((created, id))),
            None => drop(self.lanes.insert(lane.clone(), BTreeSet::from([(created, id)]))),
        }
    }

    /// Takes one out; whether it was there.
    pub(super) fn remove(&mut self, lane: &Lane, created: u64, id: &TicketId) -> bool {
        let Some(open) = self.lanes.get_mut(lane) else {
            return false;
        };
        let removed = open.remove(&(created, id.clone()));
        if open.is_empty() {
            self.lanes.remove(lane);
        }
        removed
    }

    /// An owner had his turn.
    pub(super) fn served(&mut self, owner: u32) {
        self.turns += 1;
        self.served.insert(owner, self.turns);
        if self.served.len() > SERVED_MAX {
            let waits: Vec<u32> = self.lanes.keys().map(|lane| lane.owner).collect();
            self.served.retain(|owner, _| waits.contains(owner));
        }
    }

    /// Whether one of them may go to a worker with these skills.
    pub(super) fn has_for(&self, skills: &Skills) -> bool {
        self.lanes.keys().any(|lane| skills.meet(&lane.needs))
    }

    /// The first `choice` of them for a worker with these skills: of the highest priority first, and of
    /// equal priority one of each owner, then a second of each, and so on.
    pub(super) fn first(&self, skills: &Skills, choice: usize) -> Vec<(u64, &TicketId, &Lane)> {
        let mut owned: BTreeMap<Reverse<i8>, BTreeMap<u32, Vec<_>>> = BTreeMap::new();
        for (lane, open) in self.lanes.iter().filter(|(lane, _)| skills.meet(&lane.needs)) {
            let owners = owned.entry(Reverse(lane.priority)).or_default();
            let oldest = open.iter().take(choice).map(|(created, id)| (*created, id, lane));
            owners.entry(lane.owner).or_default().extend(oldest);
        }
        let mut first = Vec::new();
        for owners in owned.into_values() {
            let turn = |owner: &u32| self.served.get(owner).copied().unwrap_or_default();
            let mut places = Vec::new();
            for (owner, mut tickets) in owners {
                tickets.sort_by_key(|(created, ..)| *created);
                let nth = tickets.into_iter().take(choice).enumerate();
                places.extend(nth.map(|(nth, ticket)| ((nth, turn(&owner), ticket.0), ticket)));
            }
            places.sort_by_key(|(place, _)| *place);
            first.extend(places.into_iter().map(|(_, ticket)| ticket));
            if first.len() >= choice {
                break;
            }
        }
        first.truncate(choice);
        first
    }

    /// What comes before a ticket of this lane and age, with these workers.
    fn ahead(&self, lane: &Lane, created: u64, workers: &[Skills]) -> Ahead {
        let able: Vec<&Skills> = workers.iter().filter(|skills| skills.meet(&lane.needs)).collect();
        let mut taken: HashMap<&str, bool> = HashMap::from([(lane.needs.as_str(), true)]);
        let (mut ahead, mut owners) = (
            Ahead {
                higher: 0,
                own: 0,
                owners: 0,
            },
            Vec::new(),
        );
        for (other, open) in &self.lanes {
            let by_them = || able.iter().any(|skills| skills.meet(&other.needs));
            if !*taken.entry(other.needs.as_str()).or_insert_with(by_them) {
                continue;
            }
            match other {
                other if other.priority > lane.priority => ahead.higher += open.len(),
                other if other.priority < lane.priority => {}
                other if other.owner == lane.owner => {
                    ahead.own += open.iter().take_while(|(at, _)| *at < created).count()
                }
                other => owners.push(other.owner),
            }
        }
        owners.sort_unstable();
        owners.dedup();
        ahead.owners = owners.len();
        ahead
    }
}

impl QueueIndex {
    /// What comes before an open ticket, as far as this mount follows its queue; with those who came for
    /// tickets lately, and these of other mounts.
    pub(crate) fn ahead(&self, key: &TicketKey, elsewhere: Vec<Skills>) -> Option<Ahead> {
        let queues = lock(&self.queues);
        let queue = queues.get(&key.queue)?;
        let summary = queue.tickets.get(&key.id)?;
        let mut workers = elsewhere;
        workers.extend(queue.lately.keys().map(|labels| Skills::new(labels.split(' '))));
        Some(queue.open.ahead(&summary.lane, summary.created, &workers))
    }
}

impl std::fmt::Display for Ahead {
    /// Numbers, for jobs have names that not everybody may know of.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut words = Vec::new();
        if self.higher > 0 {
            words.push(format!("{} of a higher priority", self.higher));
        }
        if self.own > 0 {
            words.push(format!("{} older of the same owner", self.own));
        }
        if !words.is_empty() {
            write!(f, "; tickets before it: {}", words.join(", "))?;
        }
        match self.owners {
            0 => Ok(()),
            1 => write!(f, "; 1 other owner takes turns with its owner"),
            owners => write!(f, "; {owners} other owners take turns with its owner"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: u32 = 1000;
    const BOB: u32 = 1001;

    fn lane(priority: i8, owner: u32) -> Lane {
        Lane {
            priority,
            owner,
            needs: "isolation.none".into(),
        }
    }

    fn id(text: &str) -> TicketId {
        TicketId::new(text).unwrap()
    }

    fn anybody() -> Skills {
        Skills::new(std::iter::empty())
    }

    /// Takes the next ticket, as a worker of the only mount does.
    fn next(open: &mut Open) -> String {
        let (created, id, lane) = {
            let first = open.first(&anybody(), 1);
            (first[0].0, first[0].1.clone(), first[0].2.clone())
        };
        open.served(lane.owner);
        assert!(open.remove(&lane, created, &id));
        id.to_string()
    }

    /// "10,000 tickets of one owner wait; another's first ticket starts after one task at most."
    #[test]
    fn who_posts_much_has_no_more_turns() {
        let mut open = Open::default();
        for at in 0..10_000 {
            open.insert(&lane(0, ALICE), at, id(&format!("a{at}")));
        }
        assert_eq!([next(&mut open), next(&mut open)], ["a0", "a1"]);
        open.insert(&lane(0, BOB), 20_000, id("b0"));
        open.insert(&lane(0, BOB), 20_001, id("b1"));
        let order: Vec<String> = (0..5).map(|_| next(&mut open)).collect();
        assert_eq!(order, ["b0", "a2", "b1", "a3", "a4"]);
        // Of many mounts each chooses among some: those of every owner are there.
        open.insert(&lane(0, BOB), 20_002, id("b2"));
        let first = open.first(&anybody(), 256);
        assert_eq!(first.len(), 256);
        assert_eq!(
            first[..3].iter().map(|(at, ..)| *at).collect::<Vec<_>>(),
            [20_002, 5, 6]
        );
    }

    /// One commit may make several, as the end of a build does: each is there.
    #[test]
    fn tickets_of_one_commit_are_all_given() {
        let mut open = Open::default();
        for name in ["b", "a", "c"] {
            open.insert(&lane(0, ALICE), 7, id(name));
        }
        assert!(!open.remove(&lane(0, ALICE), 7, &id("d")) && !open.remove(&lane(0, BOB), 7, &id("a")));
        assert_eq!([next(&mut open), next(&mut open), next(&mut open)], ["a", "b", "c"]);
        assert!(open.is_empty());
    }

    #[test]
    fn a_higher_priority_goes_before_all_turns() {
        let mut open = Open::default();
        open.insert(&lane(0, ALICE), 1, id("a"));
        open.insert(&lane(-10, BOB), 0, id("b"));
        open.insert(&lane(5, ALICE), 2, id("a-urgent"));
        open.insert(&lane(5, ALICE), 3, id("a-urgent-too"));
        let ahead = open.ahead(&lane(0, ALICE), 1, &[]);
        assert_eq!((ahead.higher, ahead.own, ahead.owners), (2, 0, 0));
        let order: Vec<String> = (0..4).map(|_| next(&mut open)).collect();
        assert_eq!(order, ["a-urgent", "a-urgent-too", "a", "b"]);
        assert!(open.is_empty());
    }

    #[test]
    fn what_comes_before_is_told_in_numbers() {
        let mut open = Open::default();
        for at in 0..3 {
            open.insert(&lane(0, ALICE), at, id(&format!("a{at}")));
        }
        open.insert(&lane(0, BOB), 9, id("b"));
        let ahead = open.ahead(&lane(0, ALICE), 2, &[]);
        assert_eq!(
            ahead.to_string(),
            "; tickets before it: 2 older of the same owner; 1 other owner takes turns with its owner"
        );
        assert_eq!(open.ahead(&lane(1, BOB), 9, &[]).to_string(), "");
    }

    /// "Tickets that nobody takes who may take this one stand not before it."
    #[test]
    fn what_others_work_is_not_before_a_ticket() {
        let needs = |owner, needs: &str| Lane {
            needs: format!("{needs}isolation.none"),
            ..lane(0, owner)
        };
        let mut open = Open::default();
        for at in 0..5 {
            open.insert(&needs(ALICE, "gpu\n"), at, id(&format!("g{at}")));
        }
        open.insert(&needs(ALICE, "linux\n"), 5, id("l"));
        open.insert(&needs(BOB, "arm\n"), 6, id("b"));
        open.insert(&lane(0, ALICE), 7, id("a"));
        let skills = |labels: &str| Skills::new(labels.split(' '));
        let ahead = |workers: &[&str]| {
            let workers: Vec<Skills> = workers.iter().map(|labels| skills(labels)).collect();
            let ahead = open.ahead(&lane(0, ALICE), 7, &workers);
            (ahead.own, ahead.owners)
        };
        assert_eq!(ahead(&[]), (0, 0));
        assert_eq!(ahead(&["linux"]), (1, 0));
        assert_eq!(ahead(&["linux", "arm"]), (1, 1));
        assert_eq!(ahead(&["linux gpu"]), (6, 0));
        assert_eq!(ahead(&["linux only:gpu"]), (0, 0), "it leaves this one alone");
    }

    #[test]
    fn owners_of_long_ago_are_forgotten() {
        let mut open = Open::default();
        open.insert(&lane(0, ALICE), 1, id("a"));
        open.served(ALICE);
        for owner in 0..2 * u32::try_from(SERVED_MAX).unwrap() {
            open.served(2000 + owner);
        }
        assert!(open.served.len() <= SERVED_MAX + 1 && open.served.contains_key(&ALICE));
    }
}
