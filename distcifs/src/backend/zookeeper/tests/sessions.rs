//! Sessions: what a short cut costs, when a long one ends a session, and what comes after.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::time::{sleep, timeout};

use super::proxy::{Mode, Proxy};
use super::server::Ensemble;
use super::{PATIENCE, create, ephemeral, set, store};
use crate::backend::zookeeper::Zookeeper;
use crate::storage::{Change, Commit, Coordination, Error, Event, Session, Watch};

/// A session timeout that a test can wait for, and a busy machine does not miss.
const SHORT: Duration = Duration::from_secs(3);

/// How late a timer may be on a busy machine.
const LATE: Duration = Duration::from_millis(1500);

/// The next notice of a watch.
async fn next(watch: &mut Watch) -> Event {
    timeout(PATIENCE, watch.events.recv()).await.unwrap().unwrap()
}

/// Notices up to this one.
async fn until(watch: &mut Watch, wanted: &Event) {
    while next(watch).await != *wanted {}
}

fn changed(path: &str, change: Change) -> Event {
    let path = path.to_owned();
    Event::Changed { path, change }
}

/// Waits until the session stands like this; when it did.
async fn stands(store: &Zookeeper, wanted: impl Fn(&Session) -> bool) -> (Instant, Session) {
    let mut session = store.session();
    let session = timeout(PATIENCE, session.wait_for(|session| wanted(session))).await;
    (Instant::now(), *session.unwrap().unwrap())
}

/// A cut of the TCP connection alone costs neither the session nor what is ephemeral, and reads go
/// on; watches are set again, and whoever watches is told to look again before anything else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ZooKeeper: scripts/test conformance"]
async fn a_short_cut_costs_nothing_but_a_resync() {
    let ensemble = Ensemble::start(1);
    let proxy = Proxy::start(&ensemble.hosts()[0]).await;
    let other = store(&ensemble.hosts(), Duration::from_secs(10)).await;
    let here = store(&proxy.hosts(), Duration::from_secs(10)).await;
    let before = *here.session().borrow();
    let (watched, mine) = ("/watched", "/mine");
    other.commit(vec![create(watched, "")]).await.unwrap();
    here.commit(vec![ephemeral(mine)]).await.unwrap();
    let mut watch = here.watch(watched).await.unwrap();
    let mut second = here.watch(watched).await.unwrap();
    for round in 0..5 {
        proxy.set(Mode::Cut);
        let (cut, unseen) = (Instant::now(), round.to_string());
        let end = other.commit(vec![set(watched, &unseen)]).await;
        assert_eq!(end, Ok(Commit::Done));
        proxy.set(Mode::Pass);
        let read = here.get(watched).await.unwrap().unwrap();
        assert!(cut.elapsed() < PATIENCE);
        until(&mut watch, &Event::Resync).await;
        until(&mut second, &Event::Resync).await;
        here.sync().await.unwrap();
        let after = here.get(watched).await.unwrap().unwrap();
        assert!(read.version <= after.version);
        assert_eq!(after.data, unseen);
        other.commit(vec![set(watched, "seen")]).await.unwrap();
        assert_eq!(next(&mut watch).await, changed(watched, Change::Set));
        assert_eq!(next(&mut second).await, changed(watched, Change::Set));
    }
    assert_eq!(*here.session().borrow(), before);
    other.sync().await.unwrap();
    assert!(other.get(mine).await.unwrap().is_some());
}

/// A session of which nothing is heard is in doubt at two thirds of its timeout and lost at the
/// timeout, while the server still can't be asked; what was ephemeral goes, and a new session
/// comes by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ZooKeeper: scripts/test conformance"]
async fn a_long_stall_ends_the_session_on_time() {
    let ensemble = Ensemble::start(1);
    let proxy = Proxy::start(&ensemble.hosts()[0]).await;
    let other = store(&ensemble.hosts(), Duration::from_secs(10)).await;
    let here = store(&proxy.hosts(), SHORT).await;
    let Session::Live { id } = *here.session().borrow() else {
        panic!("no live session");
    };
    here.commit(vec![ephemeral("/mine")]).await.unwrap();
    let mut watch = here.watch("/").await.unwrap();
    proxy.set(Mode::Stall);
    let stalled = Instant::now();
    let (doubted, state) = stands(&here, |session| !matches!(session, Session::Live { .. })).await;
    assert_eq!(state, Session::Doubtful { id });
    let (lost, state) = stands(&here, |session| matches!(session, Session::Lost { .. })).await;
    assert_eq!(state, Session::Lost { id });
    // The last sign of life was asked for a sixth of the timeout before, at most.
    for (at, wanted) in [(doubted, SHORT * 2 / 3), (lost, SHORT)] {
        let after = at - stalled;
        assert!(after + SHORT / 6 + LATE / 10 > wanted, "{after:?}, not {wanted:?}");
        assert!(after < wanted + LATE, "{after:?}, not {wanted:?}");
    }
    let end = here.commit(vec![create("/late", "")]).await;
    assert!(matches!(end, Err(Error::Expired { .. })), "{end:?}");
    let begun = Instant::now();
    let end = here.get("/").await;
    assert!(matches!(end, Err(Error::Unavailable { .. })), "{end:?}");
    assert!(begun.elapsed() < Duration::from_secs(4), "known away, it fails at once");
    assert!(here.watch("/else").await.is_err());

    proxy.set(Mode::Pass);
    let (_, state) = stands(&here, |session| matches!(session, Session::Live { .. })).await;
    assert_ne!(state, Session::Live { id });
    until(&mut watch, &Event::Resync).await;
    other.sync().await.unwrap();
    assert_eq!(other.get("/mine").await.unwrap(), None);
    assert_eq!(other.get("/late").await.unwrap(), None);
    assert_eq!(here.commit(vec![create("/after", "")]).await, Ok(Commit::Done));
    until(&mut watch, &changed("/after", Change::Created)).await;
}

/// Doubt that ends in time costs nothing: the same session lives on with what it holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ZooKeeper: scripts/test conformance"]
async fn doubt_passes_when_the_server_is_heard_again() {
    let ensemble = Ensemble::start(1);
    let proxy = Proxy::start(&ensemble.hosts()[0]).await;
    let here = store(&proxy.hosts(), 3 * SHORT).await;
    let before = *here.session().borrow();
    here.commit(vec![ephemeral("/mine")]).await.unwrap();
    proxy.set(Mode::Stall);
    let (_, doubt) = stands(&here, |session| !matches!(session, Session::Live { .. })).await;
    assert!(matches!(doubt, Session::Doubtful { .. }), "{doubt:?}");
    proxy.set(Mode::Pass);
    let (_, after) = stands(&here, |session| !matches!(session, Session::Doubtful { .. })).await;
    assert_eq!(after, before);
    here.sync().await.unwrap();
    assert!(here.get("/mine").await.unwrap().is_some());
}

/// A server that is cut off from the others answers reads for some time. They prove nothing: the
/// others may have ended the session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ZooKeeper: scripts/test conformance"]
async fn a_server_that_is_cut_off_keeps_no_session_alive() {
    let ensemble = Ensemble::start(3);
    let follower = (ensemble.leader() + 1) % 3;
    let host = ensemble.hosts().swap_remove(follower);
    let bare = zookeeper_client::Client::connect(&host).await.unwrap();
    let here = store(&[host], SHORT).await;
    let stopped = Instant::now();
    for other in (0..3).filter(|server| *server != follower) {
        ensemble.signal(other, Signal::SIGSTOP);
    }
    let mut read = stopped;
    let lost = async {
        while !matches!(*here.session().borrow(), Session::Lost { .. }) {
            let reading = timeout(Duration::from_millis(100), bare.get_data("/"));
            if let Ok(Ok(_)) = reading.await {
                read = Instant::now();
            }
            sleep(Duration::from_millis(20)).await;
        }
        Instant::now()
    };
    let lost = timeout(PATIENCE, lost).await.unwrap();
    assert!(lost - stopped < SHORT + LATE, "{:?}", lost - stopped);
    assert!(
        read - stopped > SHORT / 2,
        "reads were answered for {:?} only",
        read - stopped
    );
    for other in (0..3).filter(|server| *server != follower) {
        ensemble.signal(other, Signal::SIGCONT);
    }
    stands(&here, |session| matches!(session, Session::Live { .. })).await;
}

/// While no server is there nothing hangs, and when they are back the mount recovers by itself.
/// The servers would count the timeout anew: but the former session is ended before the next
/// begins, and what it held is free at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ZooKeeper: scripts/test conformance"]
async fn an_outage_ends_the_session_and_then_all_goes_on() {
    let mut ensemble = Ensemble::start(1);
    let here = store(&ensemble.hosts(), SHORT).await;
    here.commit(vec![create("/kept", ""), ephemeral("/mine")])
        .await
        .unwrap();
    let mut watch = here.watch("/").await.unwrap();
    ensemble.kill(0);
    stands(&here, |session| matches!(session, Session::Lost { .. })).await;
    for _ in 0..3 {
        let begun = Instant::now();
        assert!(matches!(here.get("/kept").await, Err(Error::Unavailable { .. })));
        assert!(matches!(here.sync().await, Err(Error::Unavailable { .. })));
        assert!(matches!(here.watch("/kept").await, Err(Error::Unavailable { .. })));
        let end = here.commit(vec![set("/kept", "")]).await;
        assert!(matches!(end, Err(Error::Expired { .. })), "{end:?}");
        assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
    }
    ensemble.run(0);
    stands(&here, |session| matches!(session, Session::Live { .. })).await;
    assert_eq!(here.get("/mine").await.unwrap(), None);
    assert!(here.get("/kept").await.unwrap().is_some());
    until(&mut watch, &Event::Resync).await;
    assert_eq!(here.commit(vec![set("/kept", "1")]).await, Ok(Commit::Done));
    until(&mut watch, &changed("/kept", Change::Set)).await;
}

/// Whatever happens to the connection, a commit that is said to be done is there, and one that is
/// said not to have happened is not, then and ever after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ZooKeeper: scripts/test conformance"]
async fn what_is_said_of_a_commit_is_so() {
    const ROUNDS: u32 = 12;
    let ensemble = Ensemble::start(1);
    let proxy = Proxy::start(&ensemble.hosts()[0]).await;
    let other = store(&ensemble.hosts(), Duration::from_secs(10)).await;
    let here = store(&proxy.hosts(), SHORT).await;
    let writers: Vec<_> = (0..16)
        .map(|writer| {
            let here = here.clone();
            tokio::spawn(async move {
                let mut ends = Vec::new();
                let begun = Instant::now();
                while begun.elapsed() < Duration::from_secs(10) {
                    let path = format!("/w{writer}-{}", ends.len());
                    let end = here.commit(vec![create(&path, "")]).await;
                    if end.is_err() {
                        sleep(Duration::from_millis(20)).await;
                    }
                    ends.push((path, end));
                }
                ends
            })
        })
        .collect();
    for round in 0..ROUNDS {
        sleep(Duration::from_millis(300)).await;
        let (mode, pause) = match round % 4 {
            3 => (Mode::Stall, SHORT + Duration::from_millis(500)),
            2 => (Mode::Stall, Duration::from_millis(300)),
            _ => (Mode::Cut, Duration::from_millis(100)),
        };
        proxy.set(mode);
        sleep(pause).await;
        proxy.set(Mode::Pass);
    }
    let mut ends = Vec::new();
    for writer in writers {
        ends.extend(writer.await.unwrap());
    }
    stands(&here, |session| matches!(session, Session::Live { .. })).await;
    other.sync().await.unwrap();
    let there: std::collections::HashSet<String> = other.children("/").await.unwrap().into_iter().collect();
    let mut unknown = 0;
    for (path, end) in &ends {
        let is = there.contains(&path[1..]);
        match end {
            Ok(Commit::Done) => assert!(is, "{path} was acknowledged"),
            Err(Error::Indeterminate { .. }) => unknown += 1,
            Err(Error::Unavailable { .. } | Error::Expired { .. }) => assert!(!is, "{path}: {end:?}"),
            other => panic!("{path}: {other:?}"),
        }
    }
    let done = ends.iter().filter(|(_, end)| *end == Ok(Commit::Done)).count();
    assert!(
        done > 100 && unknown > 0,
        "{done} done, {unknown} unknown of {}",
        ends.len()
    );
}

/// Of three servers one may die, the leader too, while all write: what was acknowledged stays, and
/// the session with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ZooKeeper: scripts/test conformance"]
async fn the_death_of_the_leader_loses_nothing() {
    let mut ensemble = Ensemble::start(3);
    let here = store(&ensemble.hosts(), Duration::from_secs(20)).await;
    let before = *here.session().borrow();
    here.commit(vec![ephemeral("/mine")]).await.unwrap();
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let here = here.clone();
            tokio::spawn(async move {
                let (mut done, begun) = (Vec::new(), Instant::now());
                for number in 0.. {
                    let path = format!("/w{writer}-{number}");
                    match here.commit(vec![create(&path, "")]).await {
                        Ok(end) => done.push((path, end)),
                        Err(_) => sleep(Duration::from_millis(20)).await,
                    }
                    if begun.elapsed() > Duration::from_secs(15) {
                        break;
                    }
                }
                done
            })
        })
        .collect();
    for _ in 0..2 {
        sleep(Duration::from_secs(2)).await;
        let leader = ensemble.leader();
        ensemble.kill(leader);
        sleep(Duration::from_secs(3)).await;
        ensemble.run(leader);
        ensemble.wait();
    }
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    here.sync().await.unwrap();
    let there: std::collections::HashSet<String> = here.children("/").await.unwrap().into_iter().collect();
    for (path, end) in &acknowledged {
        assert_eq!(*end, Commit::Done);
        assert!(there.contains(&path[1..]), "{path} was acknowledged");
    }
    assert!(acknowledged.len() > 100, "{}", acknowledged.len());
    assert_eq!(*here.session().borrow(), before);
    assert!(there.contains("mine"));
}

/// Ending in peace ends the session, and what is ephemeral goes at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ZooKeeper: scripts/test conformance"]
async fn closing_ends_the_session_at_once() {
    let ensemble = Ensemble::start(1);
    let other = store(&ensemble.hosts(), Duration::from_secs(10)).await;
    let here = store(&ensemble.hosts(), Duration::from_secs(60)).await;
    let mut watch = here.watch("/").await.unwrap();
    here.commit(vec![ephemeral("/mine")]).await.unwrap();
    assert_eq!(next(&mut watch).await, changed("/mine", Change::Created));
    here.close().await;
    other.sync().await.unwrap();
    assert_eq!(other.get("/mine").await.unwrap(), None);
    assert_eq!(timeout(PATIENCE, watch.events.recv()).await, Ok(None));
    let end = here.commit(vec![create("/late", "")]).await;
    assert!(matches!(end, Err(Error::Expired { .. })), "{end:?}");
    assert!(matches!(*here.session().borrow(), Session::Lost { .. }));
}
