//! A job whose `concurrency` becomes another while builds of it run.

use super::*;
use crate::backend::memory::Memory;
use crate::repository::model::group::{Member, is_bounded_otherwise};
use crate::repository::model::ticket::{CONTROL_QUEUE, Ticket};
use crate::repository::queue_index::{Asker, TicketSummary};

/// Builds that are bounded by a number, and by a group.
const NUMBERED: &str = r#"{"concurrency": 1, "tasks": [{"type": "execute-shell", "params": {"script": "true\n"}}]}"#;
const GROUPED: &str = r#"{"concurrency": {"group": "deploy"},
    "tasks": [{"type": "execute-shell", "params": {"script": "true\n"}}]}"#;

async fn reconfigure(repository: &Arc<Repository>, job: &Job, text: &'static str) {
    let mut held = repository.configs.lock(job, true).await.unwrap();
    let written = repository.configs.write(job, &mut held, text.into(), 0).await.unwrap();
    assert!(written.is_ok(), "{written:?}");
}

/// "Builds of one bound and of another do not run beside each other": neither where a number becomes a group, nor
/// where a group becomes a number. Whoever waits is woken.
#[test]
fn builds_of_before_end_before_those_of_another_bound_begin() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let stores = Stores::alone(&Memory::new().mount());
        let here = stores.open("here", dir.path()).await.unwrap();
        let job = configured(&here, "a", NUMBERED).await.unwrap();
        let trigger = async || here.builds.trigger(&job, b"", poster()).await.unwrap();
        let mut runs = here.claims.claim(&control_key(&job, trigger().await), claimant()).await;
        for text in [GROUPED, NUMBERED, GROUPED] {
            reconfigure(&here, &job, text).await;
            let n = trigger().await;
            let claimed = here.claims.claim(&control_key(&job, n), claimant()).await;
            assert!(matches!(claimed, Err(Error::Busy(_))), "{text}: {:?}", claimed.err());
            let build = here.builds.build(&job, n).await.unwrap();
            let words = format!(
                "the build waits for jobs/a/builds/{} to end, which was triggered",
                n - 1
            );
            let why = here.why(&build).await;
            assert!(why.starts_with(&words), "{why}");
            let waits = here.clone();
            let waits = tokio::spawn(async move {
                let asker = Asker {
                    alive: Box::new(|()| true),
                    may: Box::new(|_| true),
                };
                let queue = name(CONTROL_QUEUE);
                waits.dispatcher.next(&queue, &[], claimant(), asker, PATIENCE).await
            });
            here.claims.finish(&runs.unwrap(), success()).await.unwrap();
            // Sooner than all that waits is tried again.
            let given = tokio::time::timeout(PATIENCE, waits).await.unwrap().unwrap().unwrap();
            let given = given.unwrap();
            assert_eq!(given.ticket.part.as_ref().unwrap().build, n);
            runs = Ok(given);
        }
    });
}

/// "Older builds wait before younger ones" also where a mount has heard of none of them, as it follows no queue.
#[test]
fn the_order_of_a_number_holds_where_nothing_is_known() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let mount = Memory::new().mount();
        crate::repository::format::make(&mount.coordination(), &mount.contents(), false)
            .await
            .unwrap();
        let here = Repository::open(Setup {
            coordination: mount.coordination(),
            contents: mount.contents(),
            node: name("here"),
            attempts: dir.path().join("here"),
            store: "test".into(),
            coordinator: "test".into(),
            shared: true,
        });
        let here = here.await.unwrap();
        let job = configured(&here, "a", NUMBERED).await.unwrap();
        let mut keys = Vec::new();
        for _ in 0..2 {
            let n = here.builds.trigger(&job, b"", poster()).await.unwrap();
            keys.push(control_key(&job, n));
        }
        let younger = here.claims.claim(&keys[1], claimant()).await;
        assert!(matches!(younger, Err(Error::Busy(_))), "{:?}", younger.err());
        let older = here.claims.claim(&keys[0], claimant()).await.unwrap();
        here.claims.finish(&older, success()).await.unwrap();
        here.claims.claim(&keys[1], claimant()).await.unwrap();
    });
}

/// "Where the job gets another owner, builds of before and after do not run beside each other", nor do its tasks of one
/// group: by the tickets, and by what is known of them.
#[test]
fn what_has_another_owner_is_bounded_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let here = open(&Memory::new().mount(), dir.path()).await.unwrap();
        let job = configured(&here, "a", GROUPED).await.unwrap();
        let n = here.builds.trigger(&job, b"", poster()).await.unwrap();
        let _runs = here.claims.claim(&control_key(&job, n), claimant()).await.unwrap();
        post(&here, &job, n).await.unwrap();
        let ticket = async |key| here.tickets.get(&key).await.unwrap().unwrap().ticket;
        let (own, of_task) = (ticket(control_key(&job, n)).await, ticket(task_key(&job, n)).await);
        let member = own.group.clone().unwrap();
        let of = |ticket: &Ticket, owner: u32, group: &str| {
            let mut ticket = ticket.clone();
            let member = Member {
                name: group.to_owned(),
                digest: format!("{group} of {owner}"),
                ..member.clone()
            };
            (ticket.owner, ticket.group) = (Some(owner), Some(member).filter(|_| !group.is_empty()));
            ticket
        };
        let build = |owner, group| of(&own, owner, group);
        let task = |owner, group| of(&of_task, owner, group);
        for (one, other, otherwise) in [
            (build(1, "a"), build(1, "a"), false),
            (build(1, "a"), build(2, "b"), true),
            (build(1, "a"), build(1, ""), true),
            (build(1, ""), build(2, ""), false),
            (task(1, "a"), task(1, "a"), false),
            (task(1, "a"), task(2, "a"), true),
            (task(1, "a"), task(2, "b"), false),
            (task(1, "a"), task(2, ""), false),
            (task(1, "a"), build(2, "a"), false),
        ] {
            assert_eq!(is_bounded_otherwise(&one, &other), otherwise, "{one:?} {other:?}");
            let known = TicketSummary::of(&one, 1).is_bounded_otherwise(&TicketSummary::of(&other, 2));
            assert_eq!(known, otherwise, "{one:?} {other:?}");
        }
    });
}
