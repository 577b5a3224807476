//! A disk that runs full while a result is under way (doc/tree.md).

use serde_json::json;

use super::driver::{Fs, Way};
use crate::repository::claims::TaskResult;
use crate::repository::core::lock;
use crate::repository::flood;
use crate::repository::model::claim::ClaimState;
use crate::repository::model::ticket::TicketKey;
use crate::repository::names::{Name, TicketId};
use crate::tree::scarce;
use crate::tree::work::Filler;

/// Bytes of the file that fills the disk.
const SIZE: usize = 1 << 20;

/// A user whose lines nothing else here causes.
const NOBODY_ELSE: u32 = 424_242;

fn key(id: &str) -> TicketKey {
    TicketKey {
        queue: Name::new("q").unwrap(),
        id: TicketId::new(id).unwrap(),
    }
}

/// A file in the workspace of a claimed ticket that the kernel has got to write, closed by now and not forgotten.
fn passed_file<'a>(fs: &'a Fs, ticket: &str) -> Way<'a> {
    let path = format!("tickets/q/{ticket}/workspace/f");
    fs.write(&path, vec![7; SIZE]).unwrap();
    let found = fs.find(&path).unwrap();
    let opened = fs.wait(fs.tree().open(fs.caller, found.at(), libc::O_RDWR)).unwrap();
    let backing = opened
        .backing
        .as_ref()
        .expect("a file of a workspace has one of the disk");
    opened.passed.as_ref().unwrap().mark(backing);
    fs.tree().release(found.at(), opened.handle);
    found
}

/// The claim of such a file as the guard of the disk finds it.
fn filler(fs: &Fs, file: &Way<'_>) -> Filler {
    let work = &fs.tree().work;
    work.filler(work.attempt_of(file.at()).unwrap(), SIZE as u64)
}

/// "Who fills the disk by such files loses his claim", and "what ends a claim while its result is being written waits
/// for that: if it is committed, it counts." The next task finds what the result has: whole files, in the folder that
/// was kept for it.
#[test]
fn a_result_under_way_decides_before_the_disk_does() {
    let fs = Fs::alone();
    fs.job("j", r#"{"tasks": [{"type": "q"}, {"type": "q"}]}"#);
    fs.queue("q");
    let control = format!("j.{}.control", fs.trigger("j", ""));
    let _control = fs.claim("build-control", &control).unwrap();
    let one = fs.post("q", &json!({"job": "j", "build": 1, "task": 0}));
    let held = fs.claim("q", &one).unwrap();
    let file = passed_file(&fs, &one);
    let repository = fs.tree().repository.clone();
    let claim = repository.claims.held.get(&key(&one)).unwrap();
    let found = lock(&fs.tree().held).get(&key(&one)).cloned().unwrap();
    // The result waits here, when its folders are stored.
    let console = fs.wait(claim.console.lock());
    let result = fs.begin({
        let (repository, claim) = (repository.clone(), claim.clone());
        async move { repository.claims.finish(&claim, TaskResult::read(b"0").unwrap()).await }
    });
    let contents = &repository.store.contents;
    fs.wait_for("the folders to be stored", || {
        !fs.wait(async { contents.list("tree").await.unwrap().next().await.unwrap() })
            .is_empty()
    });
    assert_eq!(claim.state(), ClaimState::Finishing);
    let ending = fs.begin({
        let filler = filler(&fs, &file);
        let (repository, work) = (repository.clone(), fs.tree().work.clone());
        async move { scarce::end(&repository, &found, filler, &work).await }
    });
    drop(console);
    fs.wait(result).unwrap().unwrap();
    fs.wait(ending).unwrap();
    assert_eq!(claim.state(), ClaimState::Finished);
    let posted = fs.wait(repository.tickets.get(&key(&one))).unwrap().unwrap();
    let workspace = posted.ticket.outcome.unwrap().workspace.unwrap();
    drop((held, claim, file));
    let two = fs.post("q", &json!({"job": "j", "build": 1, "task": 1, "workspace": workspace}));
    let _held = fs.claim("q", &two).unwrap();
    let path = format!("tickets/q/{two}/workspace/f");
    assert!(fs.bytes(&path).unwrap() == vec![7; SIZE], "the file is whole");
}

/// "Once less than a quarter of those 2 GiB is free, the claim ends … Its files are cut." Where no result is under way
/// nothing else decides.
#[test]
fn a_claim_that_fills_the_disk_is_lost() {
    let fs = Fs::alone();
    fs.queue("q");
    fs.post("q", &json!({"id": "one"}));
    let held = fs.claim("q", "one").unwrap();
    let file = passed_file(&fs, "one");
    let filler = filler(&fs, &file);
    let repository = fs.tree().repository.clone();
    let claim = repository.claims.held.get(&key("one")).unwrap();
    let path = claim.folders.workspace().unwrap().0.join("f");
    let kept = std::fs::File::open(path).unwrap();
    let found = lock(&fs.tree().held).get(&key("one")).cloned().unwrap();
    fs.wait(scarce::end(&repository, &found, filler, &fs.tree().work));
    assert_eq!(claim.state(), ClaimState::Lost);
    assert_eq!(kept.metadata().unwrap().len(), 0);
    drop(held);
}

/// "Other lines that a user causes are counted in the same way": that of a claim which fills the disk too.
#[test]
fn the_line_of_a_full_disk_is_counted() {
    let fs = Fs::alone();
    fs.queue("q");
    fs.post("q", &json!({"id": "one"}));
    let _held = fs.claim("q", "one").unwrap();
    let file = passed_file(&fs, "one");
    let filler = filler(&fs, &file);
    filler.attempt.set_owner(NOBODY_ELSE);
    // A span may end within a round, but none within the next.
    let bounded = (0..3).any(|_| {
        (0..10).for_each(|_| scarce::tell(&key("one"), &filler));
        !flood::has_line_of("a claim fills the disk", NOBODY_ELSE)
    });
    assert!(bounded);
}
