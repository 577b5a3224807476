//! Every name that is on disk, written out by hand; and that each is read as what it was made for.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::repository::access::Access;
use crate::repository::model::build::{build_record, live_path};
use crate::repository::model::console::{attempt_console, build_console, scope_of};
use crate::repository::model::job::{FileModes, Job, JobEntry, jobs_record};
use crate::repository::model::steps::slot_path;
use crate::repository::model::ticket::{BuildRef, Ticket, TicketKey, control_key, part_key, queue_path};
use crate::repository::names::{Name, TicketId};

/// "What is called so today is called so by every later version": a line that has to change here breaks every
/// repository that exists.
#[test]
fn what_is_on_disk_keeps_its_name() {
    for (key, path) in [
        (Key::Root, "/"),
        (Key::Format, "/format"),
        (Key::Nodes, "/nodes"),
        (Key::Node("n1"), "/nodes/n1"),
        (Key::Leases, "/leases"),
        (Key::Lease("0a"), "/leases/0a"),
        (Key::Epoch, "/epoch"),
        (Key::Locks, "/locks"),
        (Key::GcLock, "/locks/gc"),
        (Key::JobLock("3f9c"), "/locks/3f9c"),
        (Key::Groups, "/groups"),
        (Key::Group("d1"), "/groups/d1"),
        (Key::Place("d1", 2), "/groups/d1/2"),
        (Key::Keys, "/keys"),
        (Key::JobKeys("3f9c"), "/keys/3f9c"),
        (Key::Token("3f9c", "d1"), "/keys/3f9c/d1"),
        (Key::Jobs, "/jobs"),
        (Key::Job("3f9c"), "/jobs/3f9c"),
        (Key::Build("3f9c", 17), "/jobs/3f9c/17"),
        (Key::Slot("3f9c", 2), "/jobs/3f9c/slot-2"),
        (Key::HeldBuilds, "/held"),
        (Key::HeldOf("3f9c"), "/held/3f9c"),
        (Key::Held("3f9c", 17), "/held/3f9c/17"),
        (Key::Tickets, "/tickets"),
        (Key::Queue("execute-shell"), "/tickets/execute-shell"),
        (Key::Ticket("q", "j.1.0"), "/tickets/q/j.1.0"),
        (Key::Claim("q", "j.1.0"), "/tickets/q/j.1.0/claim"),
        (Key::Post("q", "t1", "ab"), "/tickets/q/t1/post-ab"),
    ] {
        assert_eq!(key.path(), path);
        assert_eq!(Key::parse(path), Some(key), "{path}");
    }
    let tops = [
        FORMAT, NODES, LEASES, EPOCH, LOCKS, GC_LOCK, GROUPS, KEYS, JOBS, HELD, TICKETS,
    ];
    let paths = "/format /nodes /leases /epoch /locks /locks/gc /groups /keys /jobs /held /tickets";
    assert_eq!(tops.join(" "), paths);
}

/// The same of records, and of the keys inside them.
#[test]
fn what_is_kept_keeps_its_name() {
    for (key, name) in [
        (RecordKey::Jobs, "jobs"),
        (RecordKey::Format, "format"),
        (RecordKey::Settings, "settings"),
        (RecordKey::Trash, "trash"),
        (RecordKey::Job("3f9c"), "job.3f9c"),
        (RecordKey::Build("3f9c", 17), "build.3f9c.17"),
    ] {
        assert_eq!(key.object(), Object::Record(name.into()));
        assert_eq!(RecordKey::parse(name), Some(key), "{name}");
    }
    for (line, key) in [
        (LineKey::Config, "config"),
        (LineKey::Record, "record"),
        (LineKey::RecordPage(7), "record.007"),
        (LineKey::Build(17), "b00000000000000000017"),
        (LineKey::RemovedBuild(17), "t00000000000000000017"),
        (LineKey::RemovedJob("3f9c"), ".trash/3f9c"),
    ] {
        assert_eq!(line.key(), key);
        assert_eq!(LineKey::parse(key), Some(line), "{key}");
    }
    let lines = [BUILD_LINES, REMOVED_BUILD_LINES, REMOVED_JOB_LINES];
    assert_eq!(lines, ["b", "t", ".trash/"]);
    for key in [
        "",
        "b",
        "b7",
        "t-1",
        "b+0000000000000000017",
        ".trash/",
        ".trash/a/b",
        "configs",
        "record.000",
        "record.7",
        "records",
        "name",
    ] {
        assert_eq!(LineKey::parse(key), None, "{key}");
    }
}

/// The same by way of those who make them.
#[test]
fn what_is_made_of_names_is_called_so() {
    let entry = JobEntry {
        uid: "3f9c".into(),
        access: Access {
            uid: 0,
            gid: 0,
            mode: 0o755,
        },
        files: FileModes::default(),
        created: 0,
        named: None,
        off: false,
        former: None,
        vouched: None,
    };
    let job = Job {
        name: Name::new("j").unwrap(),
        entry: Arc::new(entry),
    };
    let control = control_key("j", 17, 2).unwrap();
    let task = part_key("q", "j", 17, "3", 0).unwrap();
    for (made, path) in [
        (job.path(), "/jobs/3f9c"),
        (live_path("3f9c", 17), "/jobs/3f9c/17"),
        (slot_path("3f9c", 2), "/jobs/3f9c/slot-2"),
        (queue_path(&task.queue), "/tickets/q"),
        (control.path(), "/tickets/build-control/j.17.control.r2"),
        (task.path(), "/tickets/q/j.17.3"),
        (task.claim_path(), "/tickets/q/j.17.3/claim"),
    ] {
        assert_eq!(made, path);
    }
    assert_eq!(job.record(), Object::Record("job.3f9c".into()));
    assert_eq!(jobs_record(), Object::Record("jobs".into()));
    assert_eq!(build_record("3f9c", 17), Object::Record("build.3f9c.17".into()));
}

#[test]
fn consoles_are_called_by_what_wrote_them() {
    let alone = TicketKey {
        queue: Name::new("q").unwrap(),
        id: TicketId::new("t1").unwrap(),
    };
    let json = r#"{"state":"open","attempt":2,"given":1,"attempts":3,"uid":0,"posted":7}"#;
    let mut ticket: Ticket = serde_json::from_str(json).unwrap();
    // The first 24 digits of the digest of "tickets/q/t1 7".
    let digest = crate::storage::Digest::of(b"tickets/q/t1 7").to_string();
    let lone = format!("console.t{}.2", &digest[..24]);
    assert_eq!(attempt_console(&alone, &ticket, 2), lone);
    ticket.part = Some(BuildRef {
        job: "j".into(),
        uid: "3f9c".into(),
        build: 17,
        task: Some(3),
        run: 2,
    });
    let names = scope_of(&alone, &ticket);
    assert_eq!(
        names,
        [
            "console.3f9c.17.3-2.1",
            "console.3f9c.17.3-2.2",
            "console.3f9c.17.3-2.3"
        ]
    );
    ticket.part.as_mut().unwrap().task = None;
    assert_eq!(attempt_console(&alone, &ticket, 1), "console.3f9c.17.control-2.1");
    assert_eq!(build_console("3f9c", 17), "console.3f9c.17.all");
}

#[test]
fn what_is_of_no_form_is_nothing() {
    for path in [
        "",
        "tickets",
        "//",
        "/tickets/",
        "/other",
        "/jobs/u/x",
        "/jobs/u/01",
        "/jobs/u/+1",
        "/jobs/u/slot-",
        "/jobs/u/slot-4294967296",
        "/jobs/u/1/2",
        "/tickets/q/t/post-",
        "/tickets/q/t/other",
        "/tickets/q/t/claim/x",
        "/nodes/n/x",
    ] {
        assert_eq!(Key::parse(path), None, "{path}");
    }
    for name in ["", "job", "build.u", "build.u.01", "build.u.1.2", "jobs.x"] {
        assert_eq!(RecordKey::parse(name), None, "{name}");
    }
}

proptest! {
    #[test]
    fn each_key_is_read_as_it_was_made(
        a in "[a-z0-9][a-z0-9.-]{0,9}", b in "[a-z0-9.-]{1,9}", c in "[a-z0-9]{1,9}", n in any::<u64>(), slot in any::<u32>()
    ) {
        prop_assume!(a != "gc");
        for key in [
            Key::Node(&a), Key::Lease(&a), Key::JobLock(&a), Key::JobKeys(&a), Key::Token(&a, &b), Key::Job(&a),
            Key::Build(&a, n), Key::Slot(&a, slot), Key::Queue(&a), Key::Ticket(&a, &b), Key::Claim(&a, &b),
            Key::Post(&a, &b, &c),
        ] {
            let path = key.path();
            prop_assert_eq!(Key::parse(&path), Some(key));
        }
        for key in [RecordKey::Job(&c), RecordKey::Build(&c, n)] {
            let name = key.to_string();
            prop_assert_eq!(RecordKey::parse(&name), Some(key));
        }
    }

    /// A path that somebody else made is nothing, or is what it says.
    #[test]
    fn any_path_is_nothing_or_itself(path in "(/?(tickets|jobs|keys|locks|nodes|slot-|claim|post-|[0-9]{0,3}|.{0,4})){0,5}") {
        if let Some(key) = Key::parse(&path) {
            prop_assert_eq!(key.path(), path.clone());
        }
        if let Some(key) = RecordKey::parse(&path) {
            prop_assert_eq!(key.to_string(), path);
        }
    }
}
