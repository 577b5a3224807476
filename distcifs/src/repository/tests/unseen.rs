//! Ends of builds and tasks that a mount learns of when their tickets are gone.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;
use tokio::sync::broadcast::Receiver;

use super::*;
use crate::backend::memory::{Memory, MemoryMount};
use crate::repository::format;
use crate::repository::model::event::Event;
use crate::storage::Fut;
use crate::storage::around::{Around, Asked, Wrapped};

/// Holds up each read of a ticket while it is shut.
#[derive(Default)]
struct Reads {
    shut: AtomicBool,
    opened: Notify,
}

impl Around for Arc<Reads> {
    /// Whether it is of a ticket.
    type Noted = bool;

    fn asked(&self, asked: &Asked<'_>) -> bool {
        matches!(asked, Asked::Get(path) if path.starts_with("/tickets/"))
    }

    fn pass<'a, T: Send + 'a>(&'a self, of_ticket: bool, call: Fut<'a, T>) -> Fut<'a, T> {
        Box::pin(async move {
            while of_ticket && self.shut.load(Ordering::SeqCst) {
                let opened = self.opened.notified();
                let _ = tokio::time::timeout(Duration::from_millis(5), opened).await;
            }
            call.await
        })
    }
}

/// Waits until all these lines were told; what was told until then.
async fn told(events: &mut Receiver<Event>, lines: &[&str]) -> Vec<String> {
    let (mut left, mut all) = (lines.to_vec(), Vec::new());
    while !left.is_empty() {
        let event = tokio::time::timeout(PATIENCE, events.recv()).await;
        let line = event
            .unwrap_or_else(|_| panic!("{left:?} were not told"))
            .unwrap()
            .to_string();
        left.retain(|wanted| *wanted != line);
        all.push(line);
    }
    all
}

/// "`.events`: one line for each change": a mount that was slow, and reads a ticket when another has recorded the build and
/// removed it, tells how the build and its task ended all the same.
#[test]
fn an_end_is_told_though_its_ticket_is_gone() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let memory = Memory::new();
        let mount = memory.mount();
        format::make(&mount.coordination(), &mount.contents(), false)
            .await
            .unwrap();
        let shared = |mount: &MemoryMount| Stores {
            shared: true,
            ..Stores::alone(mount)
        };
        let first = shared(&mount).open("first", dir.path()).await.unwrap();
        let (reads, slow) = (Arc::new(Reads::default()), shared(&memory.mount()));
        let slow = Stores {
            coordination: Arc::new(Wrapped::around(slow.coordination, reads.clone())),
            ..slow
        };
        let slow = slow.open("slow", dir.path()).await.unwrap();
        let mut events = slow.events.listen();
        let _follows = slow.store.subscribe_events().await.unwrap();
        let config = r#"{"tasks": [{"type": "execute-shell", "name": "unit", "params": {"script": "true"}}]}"#;
        let job = configured(&first, "a", config).await.unwrap();
        let n = first.builds.trigger(&job, b"", poster()).await.unwrap();
        let controller = claim(&first, &control_key(&job, n)).await.unwrap().unwrap();
        post_task(&first, &job, n, 0).await.unwrap();
        let task = claim(&first, &key_of(&job, n, 0)).await.unwrap().unwrap();
        told(&mut events, &["build a/1 running", "task a/1/0-unit running"]).await;
        reads.shut.store(true, Ordering::SeqCst);
        first.claims.finish(&task, success()).await.unwrap();
        let failure = TaskResult::read(b"failure").unwrap();
        first.claims.finish(&controller, failure).await.unwrap();
        let started = Instant::now();
        for key in [control_key(&job, n), key_of(&job, n, 0)] {
            while first.store.coordination.get(&key.path()).await.unwrap().is_some() {
                assert!(started.elapsed() < PATIENCE, "{key} is not tidied away");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        // It has heard of all of that, and reads it now.
        slow.store.coordination.sync().await.unwrap();
        reads.shut.store(false, Ordering::SeqCst);
        reads.opened.notify_waiters();
        let all = told(&mut events, &["task a/1/0-unit success", "build a/1 failure"]).await;
        assert!(
            !all.iter().any(|line| line.ends_with(" finished")),
            "an end was seen: {all:?}"
        );
    });
}
