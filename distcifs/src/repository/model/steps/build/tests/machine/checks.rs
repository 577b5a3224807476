//! What holds of builds at every moment, and that each can be ended from where it stands.

use super::*;

impl Machine {
    /// What holds at every moment.
    pub(super) fn check(&self) {
        let numbers: BTreeSet<u64> = self.begun.iter().map(|(n, _)| *n).collect();
        for n in numbers {
            let (live, record) = (self.live(n), self.stored(n));
            if let Some((live, _)) = &live {
                let key = Self::key(n, None, live.run);
                assert_eq!(self.world.ticket(&key).is_none(), live.held, "build {n}: its ticket");
                assert!(self.begun.contains(&(n, live.run)));
            }
            self.check_trust(n, live.as_ref().map(|(live, _)| live), record.as_ref());
            for run in self.begun.range((n, 0)..=(n, u32::MAX)) {
                self.check_run(*run, live.as_ref().map(|(live, _)| live.run));
            }
            if self.removed.contains(&n) {
                continue;
            }
            if let Some(record) = &record {
                let told = self.ends.get(&(n, record.run));
                assert_eq!(told, Some(&record.message), "build {n}: its end changed");
            }
            if live.is_none() {
                self.check_recorded(n, &record.expect("what ended is recorded"));
            }
        }
    }

    /// The tickets of a run.
    fn check_run(&self, run: Run, now: Option<u32>) {
        for task in [None, Some(0), Some(1)] {
            let key = Self::key(run.0, task, run.1);
            let Some(posted) = self.world.ticket(&key) else {
                continue;
            };
            assert_eq!(now, Some(run.1), "{key}: a ticket of a run that is over");
            let told = match task {
                None => self.ends.get(&run),
                Some(task) => self.results.get(&(run, task)),
            };
            let says = posted.ticket.outcome.as_ref().map(|outcome| &outcome.message);
            assert_eq!(says, told, "{key}: its outcome changed");
        }
    }

    /// A build without an entry: its record says all that was told, and it has its line.
    fn check_recorded(&self, n: u64, record: &Record) {
        let last = self.begun.range((n, 0)..=(n, u32::MAX)).next_back();
        assert_eq!(last, Some(&(n, record.run)), "build {n}: a run is forgotten");
        for task in 0..TASKS {
            let run = self.posted.get(&(n, task));
            if let Some(last) = run.and_then(|run| self.results.get(&((n, *run), task))) {
                assert_eq!(&record.tasks[task].message, last, "build {n}: a result is forgotten");
            }
        }
        let lines = (self.indexed(n).is_some(), self.trashed(n).is_some());
        assert!(lines.0 || lines.1, "build {n} is nowhere");
    }

    /// From any state, work that goes on ends and records every build in a few steps.
    pub(super) fn drain(&mut self) {
        let numbers: BTreeSet<u64> = self.begun.iter().map(|(n, _)| *n).collect();
        for n in numbers {
            for _ in 0..3 {
                let Some((live, _)) = self.live(n) else { break };
                if live.held && live.ended.is_none() {
                    self.look(0, n);
                    self.end_held(0, n, Dismissal::Expired);
                }
                for task in [Some(0), Some(1), None] {
                    self.drain_ticket(n, live.run, task);
                }
                self.look(0, n);
                self.record(0, n);
                self.tidy(0, n);
                self.check();
            }
            assert!(self.live(n).is_none(), "build {n} never ends");
            for actor in 0..ACTORS {
                self.look_after_trash(actor, n);
            }
            self.check();
        }
        let tickets = self.world.nodes.keys().filter(|path| path.starts_with("/tickets/"));
        assert_eq!(tickets.count(), 0, "tickets without a way to end");
    }

    fn drain_ticket(&mut self, n: u64, run: u32, task: Option<usize>) {
        let key = Self::key(n, task, run);
        for _ in 0..3 {
            self.look(0, n);
            let state = self.world.ticket(&key).map(|posted| posted.ticket.state);
            match (state, self.world.entry(&key)) {
                (None | Some(TicketState::Finished), _) => break,
                (Some(TicketState::Open), _) => self.claim(0, n, task),
                (Some(TicketState::Claimed), entry) => {
                    let nonce = entry.unwrap().nonce;
                    let held = self.made.iter().position(|made| made.posted.ticket.nonce == nonce);
                    self.finish(held.unwrap());
                }
            }
        }
    }
}
