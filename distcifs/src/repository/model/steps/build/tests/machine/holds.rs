//! Builds of strangers among the others: held from their trigger on, approved, aborted, ended by time or by others,
//! while mounts see them as they were.

use super::*;
use crate::repository::model::hold::Approval;

/// The commit that they are of.
const COMMIT: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

impl Machine {
    /// What a trigger of a stranger's build makes of its entry.
    fn strangers(nonce: &str) -> Live {
        let mut live = live(nonce);
        live.held = true;
        live.source.untrusted = true;
        live.source.commit = COMMIT.into();
        live
    }

    pub(super) fn trigger_held(&mut self, actor: usize) {
        let few = self.begun.iter().filter(|(_, run)| *run == 0).count() < 4;
        let Some(counted) = self.mounts[actor].counter.clone().filter(|_| few) else {
            return;
        };
        let nonce = self.fresh();
        let step = trigger(&self.job, &counted, &Self::strangers(&nonce), begun(&nonce), None).unwrap();
        if self.world.commit(actor, step.ops) {
            assert!(self.begun.insert((step.after, 0)));
            self.strangers.insert(step.after, false);
        }
    }

    /// Lets a build run as it was seen, by the counter as it was seen.
    pub(super) fn approve(&mut self, actor: usize, n: u64) {
        let (Some(counted), Some(seen)) = (self.mounts[actor].counter.clone(), self.seen(actor, n)) else {
            return;
        };
        let approval = Approval {
            who: eve(),
            commit: COMMIT.into(),
            at: NOW,
        };
        let nonce = self.fresh();
        if let Ok(step) = held::approve(&self.job, &seen.build, &counted, approval, begun(&nonce))
            && self.world.commit(actor, step.ops)
        {
            let before = self.strangers.insert(n, true);
            assert_eq!(before, Some(false), "build {n}: approved twice, or by nobody's wish");
            assert!(!self.ends.contains_key(&(n, 0)), "build {n}: approved after its end");
        }
    }

    /// Ends a held build as it was seen.
    pub(super) fn end_held(&mut self, actor: usize, n: u64, cause: Dismissal) {
        let Some(live) = self.seen(actor, n).and_then(|seen| seen.build.live) else {
            return;
        };
        if let Some(step) = held::end("u", n, &live, cause, NOW, None)
            && self.world.commit(actor, step.ops)
        {
            self.ended_unapproved(n, cause);
        }
    }

    /// It has ended, once.
    pub(super) fn ended_unapproved(&mut self, n: u64, cause: Dismissal) {
        assert_eq!(self.strangers.get(&n), Some(&false), "build {n}: it was approved");
        let first = self.ends.insert((n, 0), cause.words()).is_none();
        assert!(first, "build {n}: two ends");
    }

    /// "Nobody can raise the trust of a build", and none runs that nobody approved.
    pub(super) fn check_trust(&self, n: u64, live: Option<&Live>, record: Option<&Record>) {
        let approved = self.strangers.get(&n);
        let sources = live
            .map(|live| &live.source)
            .into_iter()
            .chain(record.map(|record| &record.source));
        for source in sources {
            assert_eq!(source.untrusted, approved.is_some(), "build {n}: its trust changed");
        }
        let mark = self.world.nodes.contains_key(&held::mark_path("u", n));
        let waits = live.is_some_and(|live| live.held);
        assert_eq!(mark, waits, "build {n}: its mark");
        assert!(!waits || approved == Some(&false), "build {n}: held again");
        if let (Some(record), Some(approved)) = (record, approved) {
            assert_eq!(
                (record.held, record.approved.is_some()),
                (!approved, *approved),
                "build {n}"
            );
        }
        if approved == Some(&false) {
            assert!(
                self.world.ticket(&Self::key(n, None, 0)).is_none(),
                "build {n}: it runs unapproved"
            );
            assert!(!self.posted.contains_key(&(n, 0)) && !self.posted.contains_key(&(n, 1)));
        }
    }
}

/// "Of an approval and an abort at the same moment one wins."
#[test]
fn who_saw_it_held_after_it_was_approved_ends_nothing() {
    let (counter, held, look, approve, abort, one, ended) = (4, 34, 0, 35, 16, 29, 30);
    run([
        (counter, 0, 1, 0),
        (held, 0, 1, 0),
        (look, 0, 1, 0),
        (look, 1, 1, 0),
        (counter, 0, 1, 0),
        (approve, 0, 1, 0),
        (abort, 1, 1, 0),
        (one, 0, 1, 0),
        (ended, 0, 1, 0),
    ]);
}

/// An entry of a later run has the version that the held one had: who saw that one ends or approves nothing.
#[test]
fn who_saw_it_held_does_nothing_to_a_later_run() {
    let (counter, held, look, approve, one, ended, again, expire) = (4, 34, 0, 35, 29, 30, 31, 36);
    run([
        (counter, 0, 1, 0),
        (held, 0, 1, 0),
        (look, 0, 1, 0),
        (look, 1, 1, 0),
        (look, 2, 1, 0),
        (counter, 0, 1, 0),
        (approve, 0, 1, 0),
        (one, 0, 1, 0),
        (ended, 0, 1, 0),
        (again, 0, 1, 0),
        (counter, 2, 1, 0),
        (expire, 1, 1, 0),
        (approve, 2, 1, 0),
    ]);
}
