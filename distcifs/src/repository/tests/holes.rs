//! Holes of which doc/storage.md speaks, as far as they need no cut network and no stopped process:
//! tests/tests/faults_named.rs has those.

use tokio::sync::watch;

use super::*;
use crate::backend::embedded::Embedded;
use crate::repository::core::delete;
use crate::repository::format;
use crate::storage::watcher::Watcher;
use crate::storage::{Commit, Entry, Fut, Op, Session, Watch};

/// A coordinator whose notices are on their way for ever.
struct Late {
    inner: Arc<dyn Coordination>,
    watchers: std::sync::Mutex<Vec<Watcher>>,
}

impl Coordination for Late {
    fn get(&self, path: &str) -> Fut<'_, Option<Entry>> {
        self.inner.get(path)
    }
    fn children(&self, path: &str) -> Fut<'_, Vec<String>> {
        self.inner.children(path)
    }
    fn commit(&self, ops: Vec<Op>) -> Fut<'_, Commit> {
        self.inner.commit(ops)
    }
    fn watch(&self, _: &str) -> Fut<'_, Watch> {
        let (watcher, watch) = Watcher::new();
        self.watchers.lock().unwrap().push(watcher);
        Box::pin(async { Ok(watch) })
    }
    fn sync(&self) -> Fut<'_, ()> {
        self.inner.sync()
    }
    fn session(&self) -> watch::Receiver<Session> {
        self.inner.session()
    }
}

/// The first of two mounts loses its claim and hears nothing of it; the second makes it again. Both
/// claims' entries have version 0, and the first still believes in its session: all that keeps its
/// result out is the version of the ticket.
pub(super) async fn a_claim_made_again([first, second]: [Stores; 2]) {
    let dir = tempfile::tempdir().unwrap();
    let late = Late {
        inner: first.coordination,
        watchers: std::sync::Mutex::default(),
    };
    let first = Stores {
        coordination: Arc::new(late),
        ..first
    };
    let first = first.open("first", dir.path()).await.unwrap();
    let second = second.open("second", dir.path()).await.unwrap();
    let request = TicketRequest::read(br#"{"id": "t"}"#).unwrap();
    let queue = name("execute-shell");
    let id = second.post(&queue, request, poster()).await.unwrap();
    let key = TicketKey { queue, id };
    first.coordination.sync().await.unwrap();
    let lost = first.claim(&key, claimant()).await.unwrap();
    work(&first, &lost).await.unwrap();
    // As the end of its session would.
    second.commit(vec![delete(key.claim_path(), None)]).await.unwrap();
    let held = claim(&second, &key).await.unwrap().unwrap();
    let refused = first.finish(&lost, success()).await;
    assert!(matches!(refused, Err(Error::Stale(_))), "{refused:?}");
    let entry = second.coordination.get(&key.claim_path()).await.unwrap().unwrap();
    assert_eq!(entry.version, 0);
    assert!(
        std::str::from_utf8(&entry.data).unwrap().contains(&held.nonce),
        "the second's claim stands"
    );
    work(&second, &held).await.unwrap();
    second.finish(&held, Verdicts::read(b"3").unwrap()).await.unwrap();
    let ticket = second.ticket(&key).await.unwrap().unwrap().ticket;
    assert_eq!((ticket.nonce, ticket.node.as_str()), (held.nonce.clone(), "second"));
    assert_eq!(ticket.outcome.unwrap().exit, Some(3));
}

#[test]
fn a_claim_that_was_made_again_by_another_is_fenced() {
    runtime().block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(&dir.path().join("store")).unwrap();
        format::make(&store.coordination(), &store.contents(), false)
            .await
            .unwrap();
        let stores = || Stores {
            shared: true,
            ..Stores::alone(&store)
        };
        a_claim_made_again([stores(), stores()]).await;
    });
}
