//! Random operations on a real mount beside a reference of plain maps: the same errno, and after
//! each the same tree. A failure that is found becomes a named test at the end of this file.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use distcifs_tests::{HELLO, Mount};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;

/// Cases, and operations in each: about a minute on two cores.
const CASES: u32 = 64;
const OPERATIONS: usize = 30;

/// The whole test holds one mount.
const LIMIT: Duration = Duration::from_secs(300);

/// One step. Jobs and tickets are few, so that the steps meet.
#[derive(Debug, Clone)]
enum Op {
    MakeJob(u8),
    Configure(u8, bool),
    Scratch(u8, bool),
    RenameScratch(u8),
    Trigger(u8, Option<u8>),
    RemoveJob(u8),
    RemoveBuild(u8, u8),
    Post(u8, u8),
    Claim(u8),
    GiveBack(u8),
    Write(u8, u8),
    Result(u8, &'static str),
    RemoveTicket(u8),
    WriteGenerated(u8),
}

fn op() -> impl Strategy<Value = Op> {
    let (job, ticket) = (0..3_u8, 0..4_u8);
    let words = prop::sample::select(vec!["0", "1", "success", "failure", "256", "-1", "maybe"]);
    prop_oneof![
        3 => job.clone().prop_map(Op::MakeJob),
        3 => (job.clone(), any::<bool>()).prop_map(|(j, good)| Op::Configure(j, good)),
        1 => (job.clone(), any::<bool>()).prop_map(|(j, good)| Op::Scratch(j, good)),
        1 => job.clone().prop_map(Op::RenameScratch),
        3 => (job.clone(), prop::option::of(0..2_u8)).prop_map(|(j, key)| Op::Trigger(j, key)),
        1 => job.clone().prop_map(Op::RemoveJob),
        1 => (job.clone(), 1..4_u8).prop_map(|(j, n)| Op::RemoveBuild(j, n)),
        3 => (ticket.clone(), 0..2_u8).prop_map(|(t, body)| Op::Post(t, body)),
        4 => ticket.clone().prop_map(Op::Claim),
        1 => ticket.clone().prop_map(Op::GiveBack),
        3 => (ticket.clone(), any::<u8>()).prop_map(|(t, byte)| Op::Write(t, byte)),
        3 => (ticket.clone(), words).prop_map(|(t, words)| Op::Result(t, words)),
        1 => ticket.prop_map(Op::RemoveTicket),
        1 => job.prop_map(Op::WriteGenerated),
    ]
}

#[derive(Debug, Default)]
struct Job {
    config: Option<String>,
    scratch: Option<bool>,
    last: u64,
    builds: BTreeMap<u64, &'static str>,
    keys: BTreeMap<u8, u64>,
}

#[derive(Debug, Default)]
struct Ticket {
    body: u8,
    claimed: bool,
    artifacts: BTreeMap<String, u8>,
    result: Option<&'static str>,
}

/// What must be there.
#[derive(Debug, Default)]
struct Reference {
    jobs: BTreeMap<u8, Job>,
    tickets: BTreeMap<u8, Ticket>,
}

/// 0 for done, or the errno.
type Outcome = i32;

impl Reference {
    fn apply(&mut self, op: &Op) -> Outcome {
        match op {
            Op::MakeJob(_)
            | Op::Configure(..)
            | Op::Scratch(..)
            | Op::RenameScratch(_)
            | Op::Trigger(..)
            | Op::RemoveJob(_)
            | Op::RemoveBuild(..)
            | Op::WriteGenerated(_) => self.apply_to_job(op),
            Op::Post(..) | Op::Claim(_) | Op::GiveBack(_) | Op::Write(..) | Op::Result(..) | Op::RemoveTicket(_) => {
                self.apply_to_ticket(op)
            }
        }
    }

    fn apply_to_job(&mut self, op: &Op) -> Outcome {
        if let Op::MakeJob(j) = op {
            if self.jobs.contains_key(j) {
                return libc::EEXIST;
            }
            self.jobs.insert(*j, Job::default());
            return 0;
        }
        let (Op::Configure(j, _)
        | Op::Scratch(j, _)
        | Op::RenameScratch(j)
        | Op::Trigger(j, _)
        | Op::RemoveJob(j)
        | Op::RemoveBuild(j, _)
        | Op::WriteGenerated(j)) = op
        else {
            return 0;
        };
        let Some(job) = self.jobs.get_mut(j) else {
            return libc::ENOENT;
        };
        match op {
            Op::Configure(_, true) => job.config = Some(HELLO.to_owned()),
            Op::Configure(_, false) => return libc::EINVAL,
            Op::Scratch(_, good) => job.scratch = Some(*good),
            Op::RenameScratch(_) => match job.scratch {
                None => return libc::ENOENT,
                Some(false) => return libc::EINVAL,
                Some(true) => {
                    job.scratch = None;
                    job.config = Some(HELLO.to_owned());
                }
            },
            Op::Trigger(_, key) => {
                if job.config.is_none() {
                    return libc::EINVAL;
                }
                if key.is_some_and(|key| job.keys.contains_key(&key)) {
                    return 0;
                }
                job.last += 1;
                job.builds.insert(job.last, "aborted");
                if let Some(key) = key {
                    job.keys.insert(*key, job.last);
                }
            }
            Op::RemoveBuild(_, n) => {
                return if job.builds.remove(&u64::from(*n)).is_some() {
                    0
                } else {
                    libc::ENOENT
                };
            }
            Op::WriteGenerated(_) => {
                return if job.builds.contains_key(&1) {
                    libc::EROFS
                } else {
                    libc::ENOENT
                };
            }
            _ => {
                self.jobs.remove(j);
            }
        }
        0
    }

    fn apply_to_ticket(&mut self, op: &Op) -> Outcome {
        if let Op::Post(t, body) = op {
            let ticket = self.tickets.entry(*t).or_insert_with(|| Ticket {
                body: *body,
                ..Ticket::default()
            });
            return if ticket.body == *body { 0 } else { libc::EEXIST };
        }
        let (Op::Claim(t) | Op::GiveBack(t) | Op::Write(t, _) | Op::Result(t, _) | Op::RemoveTicket(t)) = op else {
            return 0;
        };
        let Some(ticket) = self.tickets.get_mut(t) else {
            return libc::ENOENT;
        };
        match op {
            Op::Claim(_) if ticket.result.is_some() => return libc::ENOENT,
            Op::Claim(_) if ticket.claimed => return libc::EEXIST,
            Op::Claim(_) => ticket.claimed = true,
            Op::GiveBack(_) if !ticket.claimed => return libc::ENOENT,
            Op::GiveBack(_) => {
                ticket.claimed = false;
                ticket.artifacts.clear();
            }
            Op::Write(_, byte) => {
                ticket.artifacts.insert(format!("f{}", byte % 3), *byte);
            }
            Op::Result(_, _) if ticket.result.is_some() => return libc::EEXIST,
            Op::Result(_, "256" | "-1" | "maybe") => return libc::EINVAL,
            Op::Result(_, words) => {
                ticket.result = Some(words);
                ticket.claimed = false;
            }
            _ if ticket.claimed => return libc::EBUSY,
            _ => {
                self.tickets.remove(t);
            }
        }
        0
    }

    /// What is not promised by the page is not tried: writing without a claim, removing an open
    /// ticket.
    fn is_promised(&self, op: &Op) -> bool {
        let claimed = |t: &u8| self.tickets.get(t).is_none_or(|ticket| ticket.claimed);
        match op {
            Op::Write(t, _) => self.tickets.contains_key(t) && claimed(t),
            Op::Result(t, _) => claimed(t) || self.tickets[t].result.is_some(),
            Op::RemoveTicket(t) => self
                .tickets
                .get(t)
                .is_none_or(|ticket| ticket.claimed || ticket.result.is_some()),
            _ => true,
        }
    }
}

/// The real one: names of this case, and the descriptors of its claims.
struct Real<'a> {
    mount: &'a Mount,
    case: u32,
    claims: BTreeMap<u8, File>,
}

impl Real<'_> {
    fn job(&self, j: u8) -> String {
        format!("c{}-{j}", self.case)
    }

    fn queue(&self) -> String {
        format!("q{}", self.case)
    }

    fn apply(&mut self, op: &Op) -> Outcome {
        let errno = |result: io::Result<()>| result.err().map_or(0, |error| error.raw_os_error().unwrap_or(-1));
        let (mount, queue) = (self.mount, self.queue());
        let ticket = |t: u8| mount.path(&format!("tickets/{queue}/t{t}"));
        let text = |good: bool| if good { HELLO } else { "{\"tasks\":7}" };
        errno(match op {
            Op::MakeJob(j) => fs::create_dir(mount.path(&format!("jobs/{}", self.job(*j)))),
            Op::Configure(j, good) => mount.write(&format!("jobs/{}/config.json", self.job(*j)), text(*good)),
            Op::Scratch(j, good) => mount.write(&format!("jobs/{}/new", self.job(*j)), text(*good)),
            Op::RenameScratch(j) => {
                let folder = mount.path(&format!("jobs/{}", self.job(*j)));
                fs::rename(folder.join("new"), folder.join("config.json"))
            }
            Op::Trigger(j, key) => self.trigger(*j, *key),
            Op::RemoveJob(j) => fs::remove_dir(mount.path(&format!("jobs/{}", self.job(*j)))),
            Op::RemoveBuild(j, n) => fs::remove_dir(mount.path(&format!("jobs/{}/builds/{n}", self.job(*j)))),
            Op::WriteGenerated(j) => {
                let state = mount.path(&format!("jobs/{}/builds/1/state", self.job(*j)));
                File::options().write(true).open(state).map(drop)
            }
            Op::Post(t, body) => mount
                .try_post(
                    &queue,
                    &json!({"id": format!("t{t}"), "params": {"b": body.to_string()}}),
                )
                .map(drop),
            Op::Claim(t) => mount
                .claim(&queue, &format!("t{t}"))
                .map(|file| drop(self.claims.insert(*t, file))),
            Op::GiveBack(t) => fs::remove_file(ticket(*t).join("claim")),
            Op::Write(t, byte) => fs::write(ticket(*t).join(format!("artifacts/f{}", byte % 3)), [*byte]),
            Op::Result(t, words) => mount.result(&queue, &format!("t{t}"), words),
            Op::RemoveTicket(t) => fs::remove_dir(ticket(*t)),
        })
    }

    /// Triggers and brings the build to its end at once: nothing of it runs when the next step comes.
    fn trigger(&self, j: u8, key: Option<u8>) -> io::Result<()> {
        let job = self.job(j);
        let build = self
            .mount
            .try_trigger(&job, &key.map_or(String::new(), |key| format!("@key=k{key}")))?;
        // The same key gives a build that has ended, and its ticket goes a moment after that.
        if self.mount.state(&job, build) == "pending" {
            self.mount
                .finish("build-control", &format!("{job}.{build}.control"), "aborted");
        }
        Ok(())
    }

    fn compare(&self, reference: &Reference) {
        self.compare_jobs(reference);
        self.compare_tickets(reference);
    }

    fn compare_jobs(&self, reference: &Reference) {
        let (mount, prefix) = (self.mount, format!("c{}-", self.case));
        let jobs: Vec<String> = mount
            .list("jobs")
            .into_iter()
            .filter(|name| name.starts_with(&prefix))
            .collect();
        assert_eq!(jobs, reference.jobs.keys().map(|j| self.job(*j)).collect::<Vec<_>>());
        for (j, job) in &reference.jobs {
            let folder = format!("jobs/{}", self.job(*j));
            let config = fs::read_to_string(mount.path(&format!("{folder}/config.json")))
                .ok()
                .filter(|text| !text.is_empty());
            assert_eq!(config, job.config, "{folder}");
            assert_eq!(
                mount.has(&format!("{folder}/new")),
                job.scratch.is_some(),
                "{folder}/new"
            );
            let builds: Vec<u64> = mount
                .list(&format!("{folder}/builds"))
                .iter()
                .filter_map(|name| name.parse().ok())
                .collect();
            let mut expected: Vec<u64> = job.builds.keys().copied().collect();
            expected.sort_unstable_by_key(ToString::to_string);
            assert_eq!(builds, expected, "{folder}");
            for (build, state) in &job.builds {
                assert_eq!(mount.read(&format!("{folder}/builds/{build}/state")), *state);
            }
        }
    }

    fn compare_tickets(&self, reference: &Reference) {
        let (mount, queue) = (self.mount, self.queue());
        let tickets: Vec<String> = mount.list(&format!("tickets/{queue}"));
        assert_eq!(
            tickets,
            reference.tickets.keys().map(|t| format!("t{t}")).collect::<Vec<_>>()
        );
        for (t, ticket) in &reference.tickets {
            let folder = format!("tickets/{queue}/t{t}");
            assert_eq!(mount.has(&format!("{folder}/claim")), ticket.claimed, "{folder}");
            assert_eq!(mount.read(&format!("{folder}/params/b")), ticket.body.to_string());
            let result = fs::read_to_string(mount.path(&format!("{folder}/result"))).unwrap_or_default();
            assert_eq!(result.lines().next(), ticket.result, "{folder}");
            if ticket.claimed || ticket.result.is_some() {
                assert_eq!(
                    mount.list(&format!("{folder}/artifacts")),
                    ticket.artifacts.keys().cloned().collect::<Vec<_>>()
                );
                for (name, byte) in &ticket.artifacts {
                    assert_eq!(
                        fs::read(mount.path(&format!("{folder}/artifacts/{name}"))).ok(),
                        Some(vec![*byte])
                    );
                }
            }
        }
    }
}

/// Runs the steps on both and compares after each.
fn run_on(mount: &Mount, ops: &[Op]) {
    static CASE: AtomicU32 = AtomicU32::new(0);
    let mut real = Real {
        mount,
        case: CASE.fetch_add(1, Ordering::Relaxed),
        claims: BTreeMap::new(),
    };
    mount.queue(&real.queue());
    let mut reference = Reference::default();
    for (number, op) in ops.iter().enumerate() {
        if !reference.is_promised(op) {
            continue;
        }
        let expected = reference.apply(op);
        assert_eq!(
            real.apply(op),
            expected,
            "step {number}, {op:?}, before it: {:?}",
            &ops[..number]
        );
        real.compare(&reference);
    }
}

#[test]
fn random_operations() {
    let mount = Mount::with(&[], LIMIT);
    let config = Config {
        cases: CASES,
        max_shrink_iters: 200,
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner = TestRunner::new(config);
    let steps = prop::collection::vec(op(), 1..OPERATIONS);
    let outcome = runner.run(&steps, |ops| {
        run_on(&mount, &ops);
        Ok(())
    });
    assert!(
        outcome.is_ok(),
        "{}\n{}",
        outcome.err().map(|e| e.to_string()).unwrap_or_default(),
        mount.log_tail()
    );
}

/// A job made again after its removal starts anew: no number, key or configuration of the old.
#[test]
fn a_job_made_again() {
    run_on(
        &Mount::with(&[], LIMIT),
        &[
            Op::MakeJob(0),
            Op::Trigger(0, None),
            Op::Configure(0, true),
            Op::Trigger(0, Some(1)),
            Op::Trigger(0, Some(1)),
            Op::RemoveJob(0),
            Op::MakeJob(0),
            Op::Trigger(0, Some(1)),
            Op::Configure(0, false),
            Op::Scratch(0, true),
            Op::RenameScratch(0),
            Op::Trigger(0, Some(1)),
            Op::RemoveBuild(0, 1),
            Op::Trigger(0, None),
            Op::WriteGenerated(0),
        ],
    );
}

/// A ticket's whole life, with every refusal on the way.
#[test]
fn the_life_of_a_ticket() {
    run_on(
        &Mount::with(&[], LIMIT),
        &[
            Op::Claim(0),
            Op::Post(0, 0),
            Op::Post(0, 1),
            Op::Post(0, 0),
            Op::GiveBack(0),
            Op::Claim(0),
            Op::Claim(0),
            Op::Write(0, 1),
            Op::GiveBack(0),
            Op::Claim(0),
            Op::Write(0, 2),
            Op::RemoveTicket(0),
            Op::Result(0, "maybe"),
            Op::Result(0, "0"),
            Op::Result(0, "1"),
            Op::Claim(0),
            Op::RemoveTicket(0),
            Op::Post(0, 1),
            Op::Claim(0),
            Op::Result(0, "failure"),
        ],
    );
}
