//! Groups under mounts that look at one time and claim at another: commands in any order, each a step made of what
//! its mount saw last. Whoever holds a place found one free, and was the oldest that waited.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;

use super::remove;
use crate::repository::config::Supersede;
use crate::repository::model::claim::Cause;
use crate::repository::model::group::{Holder, Kind, Member, Place, Seen};
use crate::repository::model::keys::Key;
use crate::repository::model::ops::{Step, create};
use crate::repository::model::steps::tests::world::World;
use crate::repository::model::steps::tests::{NOW, key, shape, success, taken, ticket_of_build};
use crate::repository::model::steps::{abort, claim, finish, lose, post};
use crate::repository::model::ticket::{BuildRef, CONTROL_QUEUE, Posted, Ticket, TicketKey, TicketState};

/// Who acts: mounts with views of their own.
const ACTORS: usize = 3;

/// Builds, each of which has one task.
const BUILDS: usize = 6;

/// Groups of each kind.
const GROUPS: usize = 2;

fn member(kind: Kind, group: usize, limit: u32) -> Member {
    Member {
        digest: format!("{}{group}", if kind == Kind::Builds { "b" } else { "t" }),
        limit,
        supersede: Supersede::No,
        name: format!("{group}"),
        before: String::new(),
        late: false,
    }
}

/// A place, as long as the group's entry has this version.
fn place(at: u32, version: Option<u32>) -> Option<Place> {
    Some(Place { at, version })
}

fn of_group(task: Option<usize>, member: Member) -> Ticket {
    Ticket {
        group: Some(member),
        ..ticket_of_build("u", task)
    }
}

/// "A place is kept from the claim until the build, or the task, has ended."
#[test]
fn a_place_is_taken_with_the_claim_and_left_with_the_end() {
    let (key, ticket) = (key("q", "j.1.0"), of_group(Some(0), member(Kind::Tasks, 0, 2)));
    let open = Posted {
        ticket,
        version: 4,
        created: 9,
    };
    for (version, turn) in [(None, "create /groups/t0"), (Some(3), "set /groups/t0 @3")] {
        let with = super::super::Taken {
            place: place(1, version),
            ..taken("one", None)
        };
        let Step { after, ops } = claim(&key, &open, with).unwrap();
        let expected = [
            turn,
            "create /groups/t0/1",
            "hold /tickets/q/j.1.0/claim",
            "set /tickets/q/j.1.0 @4",
            "check /keys/u",
        ];
        assert_eq!(shape(&ops), expected);
        assert_eq!(after.ticket.slot, Some(1));
        let done = finish(&key, &after, success()).ops;
        let expected = [
            "set /tickets/q/j.1.0 @5",
            "delete /tickets/q/j.1.0/claim",
            "delete /groups/t0/1",
            "check /keys/u",
        ];
        assert_eq!(shape(&done), expected);
        // A claim that is lost keeps it, for the next one.
        let lost = lose(&key, &after, Some("one"), Cause::Died, NOW, true).unwrap();
        assert!(!shape(&lost.ops).iter().any(|op| op.contains("/groups")));
        let again = claim(&key, &lost.after, taken("two", None)).unwrap();
        assert!(!shape(&again.ops).iter().any(|op| op.contains("/groups")));
        assert_eq!(again.after.ticket.slot, Some(1));
    }
}

/// "Only another claim of the group refuses the first operations."
#[test]
fn the_turn_of_a_group_comes_first() {
    let part = BuildRef {
        job: "j".into(),
        uid: "u".into(),
        build: 1,
        task: None,
        run: 0,
    };
    let (key, member) = (key(CONTROL_QUEUE, "j.1.control"), member(Kind::Builds, 0, 1));
    let ticket = of_group(None, member.clone());
    let at = Place { at: 0, version: None };
    let ops = super::take(&key, &ticket, &part, &member, at);
    assert_eq!(ops.len(), super::TURN_OPS);
    let holder = Holder::of(&key, &part);
    assert_eq!(holder.ticket_path(), key.path());
}

/// What a mount saw last of a ticket and of its group, and whether an older one waited in its queue then.
#[derive(Clone)]
struct View {
    posted: Posted,
    older: bool,
    group: Seen,
}

struct Machine {
    world: World,
    views: [BTreeMap<TicketKey, View>; ACTORS],
    /// Claims that somebody made once.
    made: Vec<(usize, TicketKey, Posted)>,
    /// Tickets that were posted, in order, with what they are.
    posted: Vec<(TicketKey, Ticket)>,
    next: u32,
}

impl Machine {
    fn new() -> Self {
        let mut world = World::default();
        assert!(world.commit(0, vec![create("/keys/u", Bytes::new())]));
        Machine {
            world,
            views: Default::default(),
            made: Vec::new(),
            posted: Vec::new(),
            next: 0,
        }
    }

    /// Posts the ticket of a build, or that of its task, in one of the groups with a limit of its own.
    fn post(&mut self, n: usize, task: bool, pick: usize) {
        let (kind, limit) = (if task { Kind::Tasks } else { Kind::Builds }, 1 + pick as u32 % 3);
        let (key, index) = if task {
            // Of two queues.
            let queue = if n.is_multiple_of(2) { "q" } else { "r" };
            (key(queue, &format!("j.{n}.0")), Some(0))
        } else {
            (key(CONTROL_QUEUE, &format!("j.{n}.control")), None)
        };
        let mut ticket = of_group(index, member(kind, pick % GROUPS, limit));
        ticket.part.as_mut().unwrap().build = n as u64;
        if self.world.commit(0, post(&key, ticket.clone(), Vec::new()).ops) {
            self.posted.push((key, ticket));
        }
    }

    /// Tickets of the same group and queue that are older than this one and wait for a place.
    fn older(&self, key: &TicketKey, posted: &Posted) -> bool {
        self.posted.iter().any(|(other, _)| {
            let other = self.world.ticket(other).filter(|_| other.queue == key.queue);
            other.is_some_and(|other| {
                let same = other.ticket.group.as_ref().unwrap().digest == digest(posted);
                let waits = other.ticket.state == TicketState::Open && other.ticket.slot.is_none();
                same && waits && other.created < posted.created
            })
        })
    }

    /// The ticket first, then who waits, then the group: its entry, then its places.
    fn look(&mut self, actor: usize, key: &TicketKey) {
        let Some(posted) = self.world.ticket(key) else { return };
        let group = self.seen(&digest(&posted));
        let older = self.older(key, &posted);
        let view = View { posted, older, group };
        self.views[actor].insert(key.clone(), view);
    }

    fn seen(&self, digest: &str) -> Seen {
        let path = Key::Group(digest).path();
        let version = self.world.nodes.get(&path).map(|node| node.version);
        Seen::of(version, self.world.below(&path))
    }

    /// As a mount claims: with a place, if the ticket has none, that was free when it looked.
    fn claim(&mut self, actor: usize, key: &TicketKey) {
        let Some(view) = self.views[actor].get(key).cloned() else {
            return;
        };
        let ticket = &view.posted.ticket;
        let limit = ticket.group.as_ref().unwrap().limit;
        let mut place = None;
        if ticket.slot.is_none() {
            place = view.group.free(limit).filter(|_| !view.older);
            if place.is_none() {
                return;
            }
        }
        self.next += 1;
        let with = super::super::Taken {
            place,
            ..taken(&self.next.to_string(), None)
        };
        let before = self.seen(&digest(&view.posted)).taken.len() as u32;
        let older = self.older(key, &view.posted);
        if let Ok(Step { ops, .. }) = claim(key, &view.posted, with)
            && self.world.commit(actor, ops)
        {
            // What stands when it is committed, not what was seen.
            assert!(
                place.is_none() || before < limit,
                "{key}: {before} of {limit} were held"
            );
            assert!(place.is_none() || !older, "{key}: an older one waits");
            let posted = self.world.ticket(key).unwrap();
            self.made.push((actor, key.clone(), posted));
        }
    }

    fn finish(&mut self, pick: usize) {
        if let Some((actor, key, posted)) = self.made.get(pick % self.made.len().max(1)).cloned() {
            self.world.commit(actor, finish(&key, &posted, success()).ops);
        }
    }

    fn lose(&mut self, pick: usize, cause: Cause) {
        let Some((actor, key, claimed)) = self.made.get(pick % self.made.len().max(1)).cloned() else {
            return;
        };
        let Some(now) = self.world.ticket(&key) else { return };
        let entry = self.world.entry(&key).is_some();
        if let Ok(step) = lose(&key, &now, Some(&claimed.ticket.nonce), cause, NOW, entry) {
            self.world.commit(actor, step.ops);
        }
    }

    fn abort(&mut self, actor: usize, key: &TicketKey) {
        let Some(view) = self.views[actor].get(key).cloned() else {
            return;
        };
        let entry = self.world.entry(key).is_some();
        if let Ok(step) = abort(key, &view.posted, NOW, entry) {
            self.world.commit(actor, step.ops);
        }
    }

    /// An hour passes: whoever saw a group before that has made its claim or given it up. A group goes in which
    /// nobody has a place.
    fn sweep(&mut self, actor: usize, kind: Kind, group: usize) {
        self.views = Default::default();
        let digest = member(kind, group, 1).digest;
        if let Some(version) = self.seen(&digest).version {
            self.world.commit(actor, vec![remove(&digest, version)]);
        }
    }

    fn act(&mut self, (command, actor, n, pick): (u8, usize, usize, usize)) {
        let at = self
            .posted
            .get(pick % self.posted.len().max(1))
            .map(|(key, _)| key.clone());
        match (command, at) {
            (0..=3, _) => self.post(n, false, pick),
            (4..=6, _) => self.post(n, true, pick),
            (7..=9, Some(key)) => self.look(actor, &key),
            (10..=12, Some(key)) => self.claim(actor, &key),
            (13..=15, Some(key)) => {
                self.look(actor, &key);
                self.claim(actor, &key);
            }
            (16..=18, _) => self.finish(pick),
            (19, _) => self.lose(pick, Cause::Died),
            (20, _) => self.lose(pick, Cause::TimedOut),
            (21, Some(key)) => self.abort(actor, &key),
            (22, _) => self.sweep(actor, Kind::Builds, pick % GROUPS),
            (23, _) => self.sweep(actor, Kind::Tasks, pick % GROUPS),
            _ => {}
        }
    }

    /// What holds at every moment: each place is held by one ticket that has not ended, and each ticket that says
    /// so holds one.
    fn check(&self) {
        let mut held = BTreeSet::new();
        for (key, _) in &self.posted {
            let Some(Posted { ticket, .. }) = self.world.ticket(key) else {
                continue;
            };
            if let (Some(place), TicketState::Open | TicketState::Claimed) = (ticket.slot, ticket.state) {
                let path = Key::Place(&ticket.group.as_ref().unwrap().digest, place).path();
                let (holder, _): (Holder, u32) = self.world.read(&path).unwrap();
                assert_eq!(holder.ticket_path(), key.path());
                assert!(held.insert(path), "{key}: two in one place");
            }
        }
        let standing = self
            .world
            .nodes
            .keys()
            .filter(|path| matches!(Key::parse(path), Some(Key::Place(..))));
        assert_eq!(standing.cloned().collect::<BTreeSet<_>>(), held, "places of tickets");
    }

    /// Whether the build of this ticket has a task that has not ended.
    fn waits_for_its_task(&self, key: &TicketKey) -> bool {
        let of = self.posted.iter().find(|(known, _)| known == key);
        let build = |ticket: &Ticket| ticket.part.as_ref().map(|part| part.build);
        let task = self.posted.iter().find(|(_, ticket)| {
            !ticket.is_control() && of.is_some_and(|(_, of)| of.is_control() && build(ticket) == build(of))
        });
        let posted = task.and_then(|(key, _)| self.world.ticket(key));
        posted.is_some_and(|posted| posted.ticket.state != TicketState::Finished)
    }

    /// From any state, work that goes on ends every ticket, though a build ends after its task: what holds a place of
    /// a task never waits, and of those that wait the oldest has its turn.
    fn drain(&mut self) {
        let unfinished = |machine: &Machine| {
            let left = machine.posted.iter().filter(|(key, _)| {
                let posted = machine.world.ticket(key);
                posted.is_some_and(|posted| posted.ticket.state != TicketState::Finished)
            });
            left.map(|(key, _)| key.clone()).collect::<Vec<_>>()
        };
        loop {
            let left = unfinished(self);
            if left.is_empty() {
                return;
            }
            for key in &left {
                self.look(0, key);
                self.claim(0, key);
                let nonce = self.world.ticket(key).unwrap().ticket.nonce;
                let holds = |made: &(usize, TicketKey, Posted)| made.1 == *key && made.2.ticket.nonce == nonce;
                if let Some(pick) = self.made.iter().position(holds)
                    && !self.waits_for_its_task(key)
                {
                    self.finish(pick);
                }
                self.check();
            }
            assert!(unfinished(self).len() < left.len(), "nothing goes on of {left:?}");
        }
    }
}

fn digest(posted: &Posted) -> String {
    posted.ticket.group.as_ref().unwrap().digest.clone()
}

/// A group that was removed and made anew has the versions of the former one: without its places being entries of
/// their own, a claim of before would not meet the one that is there now.
#[test]
fn a_claim_of_before_meets_who_holds_a_group_that_was_made_anew() {
    let mut machine = Machine::new();
    (0..3).for_each(|n| machine.post(n, false, 0));
    let keys: Vec<TicketKey> = machine.posted.iter().map(|(key, _)| key.clone()).collect();
    machine.look(0, &keys[0]);
    machine.claim(0, &keys[0]);
    machine.finish(0);
    // The second sees the group of version 0 without a holder, and is slow.
    machine.look(1, &keys[1]);
    let slow = machine.views[1].clone();
    machine.sweep(0, Kind::Builds, 0);
    // Whoever aborts it for it to be out of the way of the third is of no matter.
    machine.look(0, &keys[1]);
    machine.abort(0, &keys[1]);
    machine.look(0, &keys[2]);
    machine.claim(0, &keys[2]);
    assert_eq!(machine.seen("b0").version, Some(0));
    assert_eq!(slow[&keys[1]].group, Seen::of(Some(0), []));
    let at = slow[&keys[1]].group.free(1).unwrap();
    let part = machine.posted[1].1.part.clone().unwrap();
    let ops = super::take(&keys[1], &machine.posted[1].1, &part, &member(Kind::Builds, 0, 1), at);
    assert!(!machine.world.commit(1, ops), "two hold a place of one");
    machine.check();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    /// "A build starts if fewer hold a place than its `limit`, and no older one of its group waits", whatever mounts
    /// do that look at one time and claim at another; and builds and tasks never wait for each other in a circle.
    #[test]
    fn no_place_is_held_twice_and_the_oldest_goes_first(
        commands in prop::collection::vec((0..24_u8, 0..ACTORS, 0..BUILDS, 0..12_usize), 1..160)
    ) {
        let mut machine = Machine::new();
        for command in commands {
            machine.act(command);
            machine.check();
        }
        machine.drain();
    }
}
