//! Steps of jobs as tables.

use super::*;
use crate::repository::model::deed::Person;
use crate::repository::model::steps::tests::{NOW, shape};

mod machine;

pub(super) fn access(uid: u32) -> Access {
    Access {
        uid,
        gid: uid,
        mode: 0o755,
    }
}

fn entry(uid: &str) -> JobEntry {
    make(uid.into(), access(1), NOW).after
}

pub(super) fn named_job(name: &str, entry: JobEntry) -> Job {
    Job {
        name: Name::new(name).unwrap(),
        entry: entry.into(),
    }
}

fn head(by: u32, owner: u32) -> ConfigHead {
    ConfigHead {
        digest: "d".into(),
        size: 1,
        written: 7,
        by: Some(by),
        owner: Some(owner),
    }
}

pub(super) fn removal() -> Removal {
    let by = Person {
        uid: 1,
        name: String::new(),
    };
    Removal {
        removed: 1,
        until: 2,
        by,
    }
}

#[test]
fn a_job_is_made_with_its_counter_and_the_place_of_its_tokens() {
    let step = make("u".into(), access(5), NOW);
    assert_eq!(shape(&step.ops), ["create /jobs/u", "create /keys/u"]);
    assert_eq!(
        (step.after.access.uid, step.after.created, step.after.off),
        (5, NOW, false)
    );
    let Op::Create { data, .. } = &step.ops[0] else {
        panic!("{:?}", step.ops)
    };
    assert_eq!(data, &Bytes::from_static(br#"{"next":1}"#));
}

/// Each name that is written has a new version, so that a trigger that read the former one is refused; that nobody
/// knows the name need be written once.
#[test]
fn a_name_in_the_counter_changes_its_version() {
    let job = named_job("j", entry("u"));
    let read = |name: Option<&str>| Counted {
        counter: Counter {
            next: 3,
            name: name.map(str::to_owned),
        },
        version: 4,
    };
    for (before, name, written) in [
        (None, "k", true),
        (Some("j"), "k", true),
        (Some("k"), "k", true),
        (Some("j"), UNKNOWN, true),
        (Some(UNKNOWN), UNKNOWN, false),
    ] {
        let step = call(&job, &read(before), name);
        assert_eq!(step.is_some(), written, "{before:?} {name}");
        let Some(Step { after, ops }) = step else { continue };
        assert_eq!(shape(&ops), ["set /jobs/u @4"]);
        assert_eq!((after.version, after.counter.next), (5, 3));
        assert_eq!(after.counter.name.as_deref(), Some(name));
    }
}

/// What becomes of a move of the job `u`, by whose lines stand at both keys.
#[test]
fn a_line_moves_from_where_it_is_to_where_nobody_is() {
    for (here, there, wanted) in [
        (Some("u"), None, Ok(Shift::Due(entry("u")))),
        (Some("u"), Some("x"), Err(Refused::Taken)),
        (None, Some("u"), Ok(Shift::Done(entry("u")))),
        (Some("x"), Some("u"), Ok(Shift::Done(entry("u")))),
        (None, None, Err(Refused::Gone)),
        (None, Some("x"), Err(Refused::Gone)),
        (Some("x"), None, Err(Refused::Gone)),
        (Some("x"), Some("y"), Err(Refused::Gone)),
    ] {
        assert_eq!(
            shift("u", here.map(entry), there.map(entry)),
            wanted,
            "{here:?} {there:?}"
        );
    }
    let line = to_json(&named(entry("u"), 9));
    let changes = moved("a", "b", line.clone());
    assert_eq!(changes, [("a".to_owned(), None), ("b".to_owned(), Some(line.clone()))]);
    let entry: JobEntry = serde_json::from_slice(&line).unwrap();
    assert_eq!(entry.named, Some(9));
}

#[test]
fn a_job_in_the_trash_is_what_it_was_and_more() {
    let (key, line) = into_trash(entry("u"), &Name::new("j").unwrap(), 3, removal());
    assert_eq!(key, ".trash/u");
    let line: JobLine = serde_json::from_slice(&to_json(&line)).unwrap();
    let job = line.job().unwrap();
    assert_eq!(
        (job.name.as_str(), (*job.entry).clone(), line.builds),
        ("j", entry("u"), 3)
    );
}

/// "Only he, or root, switches it on": who switches what, by whose text is in force.
#[test]
fn what_was_given_is_switched_on_by_its_owner_or_root() {
    let mine = entry("u");
    for (by, on, user, wanted) in [
        (1, true, 7, Ok(())),
        (9, true, 1, Ok(())),
        (9, true, 0, Ok(())),
        (9, true, 7, Err(Refused::Given(1))),
        (9, false, 7, Ok(())),
    ] {
        assert_eq!(
            may_switch(&mine, Some(&head(by, 9)), on, user),
            wanted,
            "{by} {on} {user}"
        );
    }
    assert_eq!(may_switch(&mine, None, true, 7), Ok(()));
    // A job that is off, too, is looked at as it would be when it is on.
    let off = JobEntry { off: true, ..mine };
    assert_eq!(may_switch(&off, Some(&head(9, 9)), true, 7), Err(Refused::Given(1)));
}

#[test]
fn who_switches_a_job_on_vouches_for_what_he_saw() {
    let (mut job, head) = (entry("u"), head(9, 9));
    switched(&mut job, Some(&head), false, 1);
    assert_eq!((job.off, &job.vouched), (true, &None));
    // It was given away since he looked.
    switched(&mut job, Some(&head), true, 2);
    assert_eq!((job.off, &job.vouched), (false, &None));
    switched(&mut job, Some(&head), true, 1);
    assert_eq!(job.switch(Some(&head)), Switch::On);
    let given = changed(job, |job| {
        job.access = access(3);
        Ok::<(), ()>(())
    });
    let given = given.unwrap();
    assert_eq!((given.former, &given.vouched), (Some(1), &None));
    assert_eq!(given.switch(Some(&head)), Switch::Given);
    let kept = changed(given, |job| {
        job.access.mode = 0o700;
        Ok::<(), ()>(())
    });
    assert_eq!(kept.unwrap().former, Some(1), "its mode is no change of its owner");
    assert_eq!(changed(entry("u"), |_| Err("refused")), Err("refused"));
}

#[test]
fn a_job_goes_with_its_counter_and_as_many_tokens_as_a_commit_takes() {
    let job = named_job("j", entry("u"));
    let step = remove(&job, 4, &["t".into()]);
    assert_eq!(
        shape(&step.ops),
        ["delete /keys/u/t", "delete /keys/u", "delete /jobs/u @4"]
    );
    assert!(step.after.is_empty());
    let many: Vec<String> = (0..2 * TOKENS_AT_ONCE).map(|at| at.to_string()).collect();
    let step = remove(&job, 4, &many);
    assert_eq!(step.ops.len(), TOKENS_AT_ONCE + 1);
    assert_eq!(shape(&step.ops).last().unwrap(), "delete /jobs/u @4");
    let rest: Vec<usize> = step.after.iter().map(Vec::len).collect();
    assert_eq!(rest, [TOKENS_AT_ONCE, 1]);
    assert_eq!(shape(&step.after[1]), ["delete /keys/u"]);
}
