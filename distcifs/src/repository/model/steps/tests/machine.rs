//! Tickets under many actors that read at one time and write at another: commands in any order, each a step
//! made of what its actor saw last. Whatever they do, what was told stays so.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;

use super::world::World;
use super::{NOW, key, success, taken, ticket_alone, ticket_of_build};
use crate::repository::model::claim::Cause;
use crate::repository::model::ops::{Step, create, delete};
use crate::repository::model::steps::{abort, claim, finish, guard, lose, post, slot_path};
use crate::repository::model::ticket::{Outcome, Posted, Ticket, TicketKey, TicketState, Verdict};

/// Who acts: mounts with views of their own.
const ACTORS: usize = 3;

/// The bound of the job's `concurrency`.
const SLOTS: u32 = 1;

/// A claim that somebody made once; whoever made it never forgets.
struct Made {
    actor: usize,
    key: TicketKey,
    posted: Posted,
}

struct Machine {
    world: World,
    keys: [TicketKey; 5],
    /// What each actor saw last of each ticket.
    views: [BTreeMap<TicketKey, Posted>; ACTORS],
    made: Vec<Made>,
    /// How tickets ended, by their place in the order of all.
    outcomes: BTreeMap<u64, Outcome>,
    /// Tickets that a result ended.
    results: BTreeSet<u64>,
    /// The uid of the job `j` now: a job that is removed and made again has another.
    job: u32,
    next: u32,
}

impl Machine {
    fn new() -> Self {
        let keys = [
            key("build-control", "j.1.control"),
            key("build-control", "j.2.control"),
            key("q", "j.1.0"),
            key("q", "j.1.1"),
            key("q", "alone"),
        ];
        let mut machine = Machine {
            world: World::default(),
            keys,
            views: Default::default(),
            made: Vec::new(),
            outcomes: BTreeMap::new(),
            results: BTreeSet::new(),
            job: 0,
            next: 0,
        };
        machine.make_job();
        machine
    }

    fn uid(&self) -> String {
        format!("u{}", self.job)
    }

    fn make_job(&mut self) {
        self.job += 1;
        let keys = format!("/keys/{}", self.uid());
        assert!(self.world.commit(0, vec![create(keys, Bytes::new())]));
    }

    fn fresh(&mut self) -> String {
        self.next += 1;
        format!("{}", self.next)
    }

    /// The job goes with all that it has; one of its name is made.
    fn make_job_again(&mut self) {
        let keys = self.keys.clone();
        for key in keys.iter().filter(|key| key.id.as_str() != "alone") {
            self.world.nodes.remove(&key.path());
            self.world.nodes.remove(&key.claim_path());
        }
        let (uid, below) = (format!("/keys/{}", self.uid()), format!("/jobs/{}/", self.uid()));
        self.world
            .nodes
            .retain(|path, _| *path != uid && !path.starts_with(&below));
        self.make_job();
    }

    fn look(&mut self, actor: usize, key: &TicketKey) {
        match self.world.ticket(key) {
            Some(posted) => self.views[actor].insert(key.clone(), posted),
            None => self.views[actor].remove(key),
        };
    }

    /// Posts a ticket; of a task, under the control of its build as this actor holds it.
    fn post(&mut self, actor: usize, at: usize) {
        let key = self.keys[at].clone();
        let (mut under, uid) = (Vec::new(), self.uid());
        let ticket = match at {
            // Worn, so that one more restart would end it if it were any other's.
            0 | 1 => Ticket {
                given: 1000,
                ..ticket_of_build(&uid, None)
            },
            4 => ticket_alone(&self.fresh()),
            _ => {
                let control = self.keys[0].clone();
                let claim = |made: &&Made| made.actor == actor && made.key == control;
                let Some(made) = self.made.iter().rev().find(claim) else {
                    return;
                };
                under = guard(&control, &made.posted);
                let part = made.posted.ticket.part.as_ref();
                ticket_of_build(&part.unwrap().uid, Some(at))
            }
        };
        let ops = post(&key, ticket, under).ops;
        self.world.commit(actor, ops);
    }

    fn claim(&mut self, actor: usize, at: usize) {
        let key = self.keys[at].clone();
        let Some(view) = self.views[actor].get(&key).cloned() else {
            return;
        };
        let mut slot = None;
        if at < 2 && view.ticket.slot.is_none() {
            let uid = &view.ticket.part.as_ref().unwrap().uid;
            slot = (0..SLOTS).find(|slot| !self.world.nodes.contains_key(&slot_path(uid, *slot)));
            if slot.is_none() {
                return;
            }
        }
        let nonce = self.fresh();
        if let Ok(Step { after, ops }) = claim(&key, &view, taken(&nonce, slot))
            && self.world.commit(actor, ops)
        {
            let posted = self.world.ticket(&key).unwrap();
            assert_eq!(posted.ticket, after.ticket, "what a step says stands");
            assert_eq!(posted.version, after.version);
            self.made.push(Made { actor, key, posted });
        }
    }

    /// Whoever made a claim once gives its result, however long ago that was.
    fn finish(&mut self, pick: usize) {
        let Some(made) = self.made.get(pick % self.made.len().max(1)) else {
            return;
        };
        let (actor, key, posted) = (made.actor, made.key.clone(), made.posted.clone());
        let before = (self.world.ticket(&key), self.world.entry(&key));
        if self.world.commit(actor, finish(&key, &posted, success()).ops) {
            let (Some(held), Some(entry)) = before else {
                panic!("a result without a claim")
            };
            assert!(
                held.ticket.is_held_by(&posted.ticket.nonce),
                "a result of another claim"
            );
            assert_eq!((entry.nonce, held.created), (posted.ticket.nonce, posted.created));
            assert!(self.results.insert(posted.created), "two results");
        }
    }

    /// A claim is over without a result, as its mount sees it now or saw the ticket last.
    fn lose(&mut self, pick: usize, cause: Cause, fresh: bool) {
        let Some(made) = self.made.get(pick % self.made.len().max(1)) else {
            return;
        };
        let (actor, key, nonce) = (made.actor, made.key.clone(), made.posted.ticket.nonce.clone());
        if fresh {
            self.look(actor, &key);
        }
        let Some(view) = self.views[actor].get(&key).cloned() else {
            return;
        };
        let entry = self.world.nodes.contains_key(&key.claim_path());
        if let Ok(Step { after, ops }) = lose(&key, &view, Some(&nonce), cause, NOW, entry) {
            let won = self.world.commit(actor, ops);
            let meant = matches!(cause, Cause::TimedOut | Cause::Aborted);
            let control = view.ticket.is_control() && !meant;
            assert!(
                !(won && control) || after.ticket.outcome.is_none(),
                "a restart ended a build"
            );
        }
    }

    /// A mount is gone: what it held goes with its session.
    fn lose_session(&mut self, actor: usize) {
        self.world.nodes.retain(|_, node| node.of != Some(actor));
    }

    /// Somebody finds a claim without its entry.
    fn reopen_orphan(&mut self, actor: usize, key: &TicketKey) {
        let Some(view) = self.views[actor].get(key).cloned() else {
            return;
        };
        if self.world.entry(key).is_none()
            && let Ok(step) = lose(key, &view, None, Cause::Session, NOW, false)
        {
            self.world.commit(actor, step.ops);
        }
    }

    fn abort(&mut self, actor: usize, key: &TicketKey) {
        let Some(view) = self.views[actor].get(key).cloned() else {
            return;
        };
        let entry = self.world.entry(key).is_some();
        if let Ok(step) = abort(key, &view, NOW, entry) {
            self.world.commit(actor, step.ops);
        }
    }

    fn remove_alone(&mut self, actor: usize) {
        let key = self.keys[4].clone();
        if let Some(view) = self.views[actor].get(&key).cloned()
            && view.ticket.state != TicketState::Claimed
        {
            let mut ops = vec![delete(key.path(), Some(view.version))];
            ops.extend(view.ticket.post_path(&key).map(|path| delete(path, None)));
            self.world.commit(actor, ops);
        }
    }

    fn act(&mut self, (command, actor, at, pick): (u8, usize, usize, usize)) {
        let key = self.keys[at].clone();
        match command {
            0..=3 => self.look(actor, &key),
            4..=5 => self.post(actor, at),
            6..=8 => self.claim(actor, at),
            9..=10 => self.finish(pick),
            11 => self.lose(pick, Cause::Died, true),
            12 => self.lose(pick, Cause::GivenBack, pick % 2 == 0),
            13 => self.lose(pick, Cause::TimedOut, true),
            14 => self.lose_session(actor),
            15..=16 => self.reopen_orphan(actor, &key),
            17 => self.abort(actor, &key),
            18 => self.remove_alone(actor),
            _ if pick == 0 => self.make_job_again(),
            // Looks, claims and looks: the way on that chance alone finds seldom.
            _ => {
                self.look(actor, &key);
                self.claim(actor, at);
                self.look(actor, &key);
            }
        }
    }

    /// What holds at every moment.
    fn check(&mut self) {
        let uid = self.uid();
        let mut slots = BTreeSet::new();
        for key in &self.keys {
            let Some(posted) = self.world.ticket(key) else { continue };
            let Ticket {
                state, outcome, part, ..
            } = &posted.ticket;
            assert_eq!(*state == TicketState::Finished, outcome.is_some(), "{key}");
            if let Some(outcome) = outcome {
                let told = self.outcomes.entry(posted.created).or_insert_with(|| outcome.clone());
                assert_eq!(told, outcome, "{key}: an outcome changed");
            } else {
                assert!(!self.outcomes.contains_key(&posted.created), "{key}: an outcome went");
            }
            if let Some(entry) = self.world.entry(key) {
                assert!(
                    posted.ticket.is_held_by(&entry.nonce),
                    "{key}: a claim beside its ticket"
                );
            }
            if let Some(part) = part {
                assert_eq!(part.uid, uid, "{key}: a ticket of a job that is gone");
            }
            if let (Some(slot), None) = (posted.ticket.slot, outcome) {
                assert!(slots.insert(slot_path(&uid, slot)), "{key}: two builds in one place");
            }
        }
        let standing = self.world.nodes.keys().filter(|path| path.contains("/slot-"));
        assert_eq!(standing.cloned().collect::<BTreeSet<_>>(), slots, "places of builds");
    }

    /// From any state, work that goes on ends every ticket in a few steps.
    fn drain(&mut self) {
        let keys = self.keys.clone();
        // A build that waits for a place has it once the other is over.
        for key in keys.iter().chain(keys.iter()) {
            for _ in 0..3 {
                let Some(posted) = self.world.ticket(key) else { break };
                self.look(0, key);
                match (posted.ticket.state, self.world.entry(key)) {
                    (TicketState::Finished, _) => break,
                    (TicketState::Open, _) => self.claim(0, keys.iter().position(|k| k == key).unwrap()),
                    (TicketState::Claimed, None) => self.reopen_orphan(0, key),
                    (TicketState::Claimed, Some(entry)) => {
                        let holds = |made: &Made| made.posted.ticket.nonce == entry.nonce;
                        let pick = self.made.iter().position(holds).unwrap();
                        self.finish(pick);
                    }
                }
                self.check();
            }
        }
        for key in &keys {
            let state = self.world.ticket(key).map(|posted| posted.ticket.state);
            assert!(matches!(state, None | Some(TicketState::Finished)), "{key} never ends");
        }
        let errors = |outcome: &&Outcome| outcome.verdict == Verdict::Error;
        assert!(
            self.outcomes
                .values()
                .filter(errors)
                .all(|outcome| !outcome.message.is_empty())
        );
    }
}

fn run(commands: impl IntoIterator<Item = (u8, usize, usize, usize)>) {
    let mut machine = Machine::new();
    for command in commands {
        machine.act(command);
        machine.check();
    }
    machine.drain();
}

/// Found by the machine: a mount that was away while its job was removed and made again posted a task of the
/// former job, as the build of that number that another held had an entry of the same version.
#[test]
fn who_controls_a_build_of_a_former_job_posts_nothing() {
    let (post, claim, look, again, task) = (4, 6, 0, 19, 2);
    run([
        (post, 0, 0, 0),
        (again, 0, 0, 1),
        (again, 0, 0, 0),
        (post, 0, 0, 0),
        (look, 1, 0, 0),
        (claim, 1, 0, 0),
        (post, 0, task, 0),
    ]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    /// "Each ticket has one outcome, and it stays": whatever mounts do that look at one time and write at
    /// another, only the claim that holds a ticket ends it with a result, a ticket of another job or of an
    /// earlier post is nobody's, and each ticket can be ended from where it stands.
    #[test]
    fn many_that_see_the_past_agree_on_one_outcome(
        commands in prop::collection::vec((0..21_u8, 0..ACTORS, 0..5_usize, 0..12_usize), 1..160)
    ) {
        run(commands);
    }
}
