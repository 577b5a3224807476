//! Steps of builds as tables: what each makes of a build, and the operations in their order.

use std::sync::Arc;

use distcifs_settings::source::Source;
use distcifs_settings::state::TaskState;

use super::*;
use crate::repository::access::Access;
use crate::repository::config::JobConfig;
use crate::repository::model::build::{BuildTicket, ConfigEntry};
use crate::repository::model::job::{FileModes, JobEntry};
use crate::repository::model::plan::Plan;
use crate::repository::model::steps::abort;
use crate::repository::model::steps::tests::{NOW, key, shape, success, ticket_of_build};
use crate::repository::model::ticket::Outcome;
use crate::repository::model::when::LeftOut;
use crate::repository::names::Name;

mod machine;

/// Two tasks, the second of which runs whatever became of the first.
const CONFIG: &str = r#"{"tasks": [{"type": "q"}, {"type": "q", "always": true}]}"#;

pub(super) const WHO: Poster = Poster { uid: 5, gid: 6 };

pub(super) fn job(name: &str, uid: &str) -> Job {
    let access = Access {
        uid: 1,
        gid: 1,
        mode: 0o755,
    };
    let entry = JobEntry {
        uid: uid.into(),
        access,
        files: FileModes::default(),
        created: 1,
        named: None,
        off: false,
        former: None,
        vouched: None,
    };
    Job {
        name: Name::new(name).unwrap(),
        entry: Arc::new(entry),
    }
}

pub(super) fn live(nonce: &str) -> Live {
    Live {
        plan: None,
        config: ConfigEntry {
            digest: "d".into(),
            size: 1,
        },
        params: Some(Vec::new()),
        params_digest: None,
        run: 0,
        abort: false,
        insist: false,
        superseded: None,
        keep: false,
        triggered: NOW,
        uid: 5,
        owner: Some(1),
        by: Vec::new(),
        source: Source::default(),
        cause: None,
        given: String::new(),
        held: false,
        approved: None,
        ended: None,
        before: None,
        priority: 0,
        nonce: nonce.into(),
        unknown: Unknown::default(),
    }
}

pub(super) fn begun(nonce: &str) -> Begun {
    Begun {
        who: WHO,
        nonce: nonce.into(),
        at: NOW,
        group: None,
    }
}

pub(super) fn eve() -> Person {
    Person {
        uid: 5,
        name: "eve".into(),
    }
}

pub(super) fn config() -> Arc<JobConfig> {
    Arc::new(JobConfig::read_stored(CONFIG.as_bytes()).unwrap())
}

pub(super) fn with(params: &str) -> Again {
    Again {
        params: Some(vec![("p".into(), params.into())]),
        params_digest: None,
        by: eve(),
        priority: 0,
        nonce: "again".into(),
    }
}

fn counted(next: u64, name: Option<&str>) -> Counted {
    Counted {
        counter: Counter {
            next,
            name: name.map(str::to_owned),
        },
        version: 4,
    }
}

fn build_ticket(queue: &str, ticket: Ticket) -> BuildTicket {
    BuildTicket {
        queue: Name::new(queue).unwrap(),
        posted: Posted {
            ticket,
            version: 3,
            created: 9,
        },
    }
}

fn in_state(task: Option<usize>, state: TicketState) -> Ticket {
    let outcome = (state == TicketState::Finished).then(success);
    Ticket {
        state,
        outcome,
        ..ticket_of_build("u", task)
    }
}

/// A build whose own ticket and whose tasks' tickets are in these states.
pub(super) fn build(own: TicketState, tasks: &[(usize, TicketState)]) -> Build {
    let tickets = tasks
        .iter()
        .map(|(index, state)| (*index, build_ticket("q", in_state(Some(*index), *state))));
    Build {
        job: job("j", "u"),
        n: 1,
        config: config(),
        plan: Arc::new(Plan::of(config())),
        live: Some((live("one"), 2)),
        control: Some(build_ticket(CONTROL_QUEUE, in_state(None, own))),
        tickets: Arc::new(tickets.collect()),
        record: None,
        params: vec![("p".into(), "v".into())],
        left_out: LeftOut::default(),
    }
}

fn recorded() -> Record {
    let tasks = vec![TaskRecord::default(); 2];
    record(&build(TicketState::Finished, &[]), tasks, BTreeMap::new()).unwrap()
}

#[test]
fn a_trigger_takes_the_number_that_the_counter_has() {
    let token = "/keys/u/t";
    let step = trigger(
        &job("j", "u"),
        &counted(7, None),
        &live("one"),
        begun("two"),
        Some(&Token {
            path: token.to_owned(),
            version: None,
        }),
    )
    .unwrap();
    assert_eq!(step.after, 7);
    assert_eq!(
        shape(&step.ops),
        [
            "set /jobs/u @4",
            "create /jobs/u/7",
            "create /tickets/build-control/j.7.control",
            "create /keys/u/t",
        ]
    );
    let data = |op: &Op| match op {
        Op::Set { data, .. } | Op::Create { data, .. } => String::from_utf8(data.to_vec()).unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(data(&step.ops[0]), r#"{"next":8}"#);
    assert_eq!(data(&step.ops[3]), "[7,7000]");
    let ticket: Ticket = serde_json::from_str(&data(&step.ops[2])).unwrap();
    assert!(ticket.is_control() && ticket.state == TicketState::Open);
    assert_eq!((ticket.uid, ticket.owner, ticket.posted), (5, Some(1), NOW));
    let body = r#"{"id":"j.7.control","queue":"build-control","job":"j","build":7,"run":0,"labels":[],"params":{},"nonce":"two"}"#;
    assert_eq!(ticket.body.as_deref(), Some(body));
}

/// "Of a rename and a trigger one wins": who knows the job by another name than the counter begins nothing.
#[test]
fn a_build_begins_under_the_name_of_its_job_only() {
    let (job, live) = (job("j", "u"), live("one"));
    for (name, may) in [(None, true), (Some("j"), true), (Some("k"), false), (Some(""), false)] {
        let counted = counted(1, name);
        let triggered = trigger(&job, &counted, &live, begun("two"), None);
        assert_eq!(triggered.err(), (!may).then_some(Refused::Renamed), "{name:?}");
        let retried = retry(&job, 1, &counted, &live, begun("two"));
        assert_eq!(retried.err(), (!may).then_some(Refused::Renamed), "{name:?}");
    }
}

#[test]
fn a_retry_begins_what_was_recorded_with_its_state() {
    let record = Record {
        keep: true,
        cause: Some("why".into()),
        ..recorded()
    };
    let again = again(&record, with("w"));
    assert_eq!(
        (again.run, again.keep, again.abort, again.insist),
        (1, true, false, false)
    );
    assert_eq!((again.triggered, again.uid, again.owner), (NOW, 5, Some(1)));
    assert_eq!((again.cause.as_deref(), again.nonce.as_str()), (Some("why"), "again"));
    let did: Vec<Did> = again.by.iter().map(|deed| deed.did).collect();
    assert_eq!(did, [Did::Triggered, Did::Retried]);
    let step = retry(&job("j", "u"), 1, &counted(2, None), &again, begun("two")).unwrap();
    assert_eq!(
        shape(&step.ops),
        [
            "create /jobs/u/1",
            "create /tickets/build-control/j.1.control.r1",
            "set /jobs/u @4",
        ]
    );
}

#[test]
fn a_retry_is_of_the_same_owner_and_bounded() {
    let record = recorded();
    assert_eq!(may_retry(&record, 1), Ok(()));
    assert_eq!(may_retry(&record, 2), Err(Refused::Owner(1)));
    let of_before = Record { owner: None, ..record };
    assert_eq!(may_retry(&of_before, 2), Ok(()));
    let worn = Record {
        run: RETRIES_MAX,
        ..of_before
    };
    assert_eq!(may_retry(&worn, 2), Err(Refused::TooOften));
}

/// How a build's entry is changed: as that of this run, whose ticket stands.
const SET_LIVE: [&str; 2] = ["set /jobs/u/1 @2", "check /tickets/build-control/j.1.control"];

/// A first abort leaves what runs `always`, a second one does not, a third has nothing to ask for.
#[test]
fn an_abort_is_asked_for_twice_at_most() {
    let mut now = build(TicketState::Claimed, &[]);
    for (abort, insist) in [(true, false), (true, true)] {
        let step = ask_abort(&now, eve(), NOW).unwrap();
        assert_eq!(shape(&step.ops), SET_LIVE);
        assert_eq!((step.after.abort, step.after.insist), (abort, insist));
        now.live = Some((step.after, 2));
    }
    assert_eq!(ask_abort(&now, eve(), NOW).err(), Some(Refused::Insisted));
    assert_eq!(now.deeds().len(), 3, "the trigger and both");
    let over = build(TicketState::Finished, &[]);
    assert_eq!(ask_abort(&over, eve(), NOW).err(), Some(Refused::Over));
}

/// "A waiting build that is superseded ends in one commit": its entry and its ticket, each as it was seen. One that
/// has begun is asked to stop, once.
#[test]
fn a_newer_build_ends_one_that_waits_and_stops_one_that_runs() {
    use TicketState::{Claimed, Finished, Open};
    let newer = Newer { n: 3, by: eve() };
    let waits = build(Open, &[]);
    let step = supersede_waiting(&waits, &newer, NOW).unwrap();
    assert_eq!(
        shape(&step.ops),
        [
            "set /jobs/u/1 @2",
            "set /tickets/build-control/j.1.control @3",
            "check /keys/u"
        ]
    );
    assert_eq!((step.after.abort, step.after.superseded), (true, Some(3)));
    assert_eq!(step.after.by.last().unwrap().did, Did::Superseded);
    let Op::Set { data, .. } = &step.ops[1] else {
        panic!("{:?}", step.ops)
    };
    let ended: Ticket = serde_json::from_slice(data).unwrap();
    let outcome = ended.outcome.unwrap();
    assert_eq!(
        (outcome.verdict, outcome.message.as_str()),
        (Verdict::Aborted, "superseded by build 3")
    );
    let mut held = waits.clone();
    held.control.as_mut().unwrap().posted.ticket.slot = Some(0);
    for begun in [build(Claimed, &[]), build(Open, &[(0, Finished)]), held] {
        assert_eq!(supersede_waiting(&begun, &newer, NOW).err(), Some(Refused::Begun));
        for insist in [false, true] {
            let step = supersede_running(&begun, &newer, insist).unwrap();
            assert_eq!(shape(&step.ops), SET_LIVE);
            let live = &step.after;
            assert_eq!((live.abort, live.insist, live.superseded), (true, insist, Some(3)));
            // Who asked before, asked to let what runs always end.
            let asked = Build {
                live: Some((step.after, 3)),
                ..begun.clone()
            };
            assert_eq!(supersede_running(&asked, &newer, insist).err(), Some(Refused::Insisted));
        }
    }
    let over = build(Finished, &[]);
    assert_eq!(supersede_waiting(&over, &newer, NOW).err(), Some(Refused::Over));
    assert_eq!(supersede_running(&over, &newer, false).err(), Some(Refused::Over));
}

/// What is kept of a build says which newer one made an end of it, if that was its end.
#[test]
fn the_record_names_the_newer_build() {
    for (verdict, message) in [(Verdict::Aborted, "superseded by build 3"), (Verdict::Success, "")] {
        let mut now = build(TicketState::Finished, &[]);
        now.live.as_mut().unwrap().0.superseded = Some(3);
        let outcome = &mut now.control.as_mut().unwrap().posted.ticket.outcome;
        outcome.as_mut().unwrap().verdict = verdict;
        let record = record(&now, Vec::new(), BTreeMap::new()).unwrap();
        assert_eq!((record.state, record.message.as_str()), (verdict, message));
        assert_eq!(again(&record, with("w")).superseded, None);
    }
}

/// What ends with an abort, by how the build's own ticket and its tasks' stand: the tasks that end at once, those
/// that their claimants end, and whether the build ends.
#[test]
fn an_abort_ends_what_nobody_works_on() {
    use TicketState::{Claimed, Finished, Open};
    type Row<'a> = (
        TicketState,
        &'a [(usize, TicketState)],
        bool,
        &'a [&'a str],
        &'a [&'a str],
        bool,
    );
    let rows: [Row<'_>; 9] = [
        (Open, &[], false, &[], &[], true),
        (Claimed, &[], false, &[], &[], false),
        (Claimed, &[], true, &[], &[], true),
        (Claimed, &[(0, Open), (1, Open)], false, &["j.1.0"], &[], false),
        (Claimed, &[(0, Open), (1, Open)], true, &["j.1.0", "j.1.1"], &[], true),
        (Claimed, &[(0, Claimed), (1, Open)], true, &["j.1.1"], &["j.1.0"], false),
        (Claimed, &[(0, Finished), (1, Claimed)], false, &[], &["j.1.1"], false),
        (Open, &[(0, Finished)], false, &[], &[], false),
        (Open, &[(0, Finished)], true, &[], &[], true),
    ];
    for (own, tasks, insist, open, claimed, over) in rows {
        let stop = stop(&build(own, tasks), insist).unwrap().unwrap();
        let ids = |key: &TicketKey| key.id.as_str().to_owned();
        let opened: Vec<String> = stop.open.iter().map(|(key, _)| ids(key)).collect();
        assert_eq!(opened, open, "{own:?} {tasks:?} {insist}");
        assert_eq!(
            stop.claimed.iter().map(ids).collect::<Vec<_>>(),
            claimed,
            "{own:?} {tasks:?} {insist}"
        );
        assert_eq!(stop.own.is_some(), over, "{own:?} {tasks:?} {insist}");
        if let Some((key, posted)) = &stop.own {
            assert!(abort(key, posted, NOW, false).is_ok());
        }
    }
    assert!(stop(&build(Finished, &[(0, Open)]), true).unwrap().is_none());
}

#[test]
fn a_build_is_kept_before_and_after_its_end() {
    let now = build(TicketState::Open, &[]);
    let step = keep(&now, Did::Kept, eve()).unwrap();
    assert_eq!(shape(&step.ops), SET_LIVE);
    assert!(step.after.keep);
    let kept = keep_record(&recorded(), Did::Kept, eve());
    let unkept = keep_record(&kept, Did::Unkept, eve());
    assert_eq!((kept.keep, unkept.keep, unkept.by.len()), (true, false, 3));
    let over = Build { live: None, ..now };
    assert_eq!(keep(&over, Did::Kept, eve()).err(), Some(Refused::Over));
}

#[test]
fn a_build_is_recorded_when_its_own_ticket_has_its_outcome() {
    for state in [TicketState::Open, TicketState::Claimed] {
        assert!(record(&build(state, &[]), Vec::new(), BTreeMap::new()).is_none());
    }
    let mut over = build(TicketState::Finished, &[(0, TicketState::Finished)]);
    let tasks = vec![over.task(0), over.task(1)];
    let kept = record(&over, tasks, BTreeMap::new()).unwrap();
    assert_eq!((kept.state, kept.finished, kept.run), (Verdict::Success, NOW, 0));
    assert_eq!(kept.params, [("p".to_owned(), "v".to_owned())]);
    assert_eq!((kept.nonce.as_str(), kept.owner), ("one", Some(1)));
    let states: Vec<TaskState> = kept.tasks.iter().map(|task| task.state).collect();
    assert_eq!(states, [TaskState::Success, TaskState::Skipped]);
    over.live = None;
    assert!(record(&over, Vec::new(), BTreeMap::new()).is_none());
}

/// The tickets as they were recorded, and the entry last: what changed meanwhile is recorded once more.
#[test]
fn what_is_recorded_is_tidied_up_as_it_was_seen() {
    let tasks = [(0, TicketState::Finished), (1, TicketState::Claimed)];
    let step = tidy(&build(TicketState::Finished, &tasks), &[]).unwrap().unwrap();
    assert_eq!(
        shape(&step.ops),
        [
            "delete /tickets/q/j.1.0 @3",
            "delete /tickets/q/j.1.1/claim",
            "delete /tickets/q/j.1.1 @3",
            "delete /tickets/build-control/j.1.control @3",
            "delete /jobs/u/1 @2",
        ]
    );
    let keys: Vec<TicketKey> = step.after.into_iter().map(|(key, _)| key).collect();
    assert_eq!(
        keys,
        [key("q", "j.1.0"), key("q", "j.1.1"), key(CONTROL_QUEUE, "j.1.control")]
    );
    let gone = Build {
        live: None,
        ..build(TicketState::Finished, &[])
    };
    assert!(tidy(&gone, &[]).unwrap().is_none());
}

#[test]
fn a_build_goes_into_the_trash_and_comes_back_as_it_was() {
    let indexed = Indexed::of(&recorded());
    let trash = Removal {
        removed: 1,
        until: 2,
        by: eve(),
    };
    let keys = |changes: &Changes| {
        let key = |(key, value): &(String, Option<bytes::Bytes>)| format!("{key} {}", value.is_some());
        changes.iter().map(key).collect::<Vec<_>>()
    };
    let gone = into_trash(7, indexed, &trash);
    assert_eq!(
        keys(&gone),
        ["b00000000000000000007 false", "t00000000000000000007 true"]
    );
    let line: BuildLine = serde_json::from_slice(gone[1].1.as_ref().unwrap()).unwrap();
    assert_eq!((line.indexed, &line.trash), (indexed, &trash));
    let back = out_of_trash(7, line.indexed);
    assert_eq!(
        keys(&back),
        ["t00000000000000000007 false", "b00000000000000000007 true"]
    );
    let told: Indexed = serde_json::from_slice(back[1].1.as_ref().unwrap()).unwrap();
    assert_eq!(told, indexed);
}

/// An outcome that is told from every other by its message.
pub(super) fn outcome(message: String) -> Outcome {
    Outcome { message, ..success() }
}

/// job.md, when: "A value of more than 1 KiB matches no pattern." What is left out is looked at once for a build,
/// however often and of however many tasks it is asked.
#[test]
fn what_when_leaves_out_is_looked_at_once() {
    let config = r#"{"parameters": {"p": "", "q": ""}, "tasks": [
        {"type": "q", "when": {"p": "*"}}, {"type": "q", "when": {"q": ["*", "!*b"]}}, {"type": "q"},
        {"type": "q", "when": {"q": "*", "event": "push"}}, {"type": "q", "when": {"q": "a*"}}]}"#;
    let config = Arc::new(JobConfig::read(config.as_bytes(), None).unwrap());
    let long = "a".repeat(1025);
    let build = Build {
        plan: Arc::new(Plan::of(config.clone())),
        config,
        params: vec![("p".into(), long.clone()), ("q".into(), "b".into())],
        ..build(TicketState::Claimed, &[])
    };
    let another = build.clone();
    assert!(another.left_out.get().is_none());
    let misfits: Vec<_> = (0..6).map(|index| build.misfit(index)).collect();
    assert_eq!(
        misfits,
        [
            Some(("p", &*long)),
            Some(("q", "b")),
            None,
            Some(("event", "manual")),
            Some(("q", "b")),
            None
        ]
    );
    assert_eq!(another.left_out.get().map(Vec::len), Some(5));
    let fits = Build {
        params: vec![("p".into(), "a".repeat(1024)), ("q".into(), "ab".into())],
        left_out: LeftOut::default(),
        ..another
    };
    assert_eq!(fits.misfit(0), None);
    assert_eq!(fits.misfit(4), None);
    assert_eq!(fits.misfit(1), Some(("q", "ab")));
}
