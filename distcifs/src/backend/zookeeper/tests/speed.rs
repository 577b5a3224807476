//! Measures commits beside the bare client's creates, on one server and on three:
//! `cargo test --release -p distcifs --lib zookeeper::tests::speed -- --ignored --nocapture`

use std::sync::Arc;
use std::time::{Duration, Instant};

use zookeeper_client::{Acls, Client, CreateMode};

use super::server::Ensemble;
use super::{create, options};
use crate::backend::zookeeper::Zookeeper;
use crate::storage::{Commit, Coordination, Fut};

/// How long each figure is taken for.
const SPAN: Duration = Duration::from_secs(3);

/// One who makes entries.
#[derive(Clone)]
enum Maker {
    Ours(Zookeeper),
    Bare(Client),
}

impl Maker {
    fn make(&self, path: String) -> Fut<'_, ()> {
        Box::pin(async move {
            match self {
                Maker::Ours(store) => assert_eq!(store.commit(vec![create(&path, "x")]).await, Ok(Commit::Done)),
                Maker::Bare(client) => {
                    let lasting = CreateMode::Persistent.with_acls(Acls::anyone_all());
                    client.create(&path, b"x", &lasting).await.unwrap();
                }
            }
            Ok(())
        })
    }
}

/// Median of the times, and makings a second, of `each` at a time by every maker.
async fn measure(makers: &[Maker], each: usize, name: &str) -> (Duration, f64) {
    let begun = Instant::now();
    let mut tasks = Vec::new();
    for (i, maker) in makers.iter().enumerate() {
        for task in 0..each {
            let (maker, name) = (maker.clone(), format!("/{name}-{i}-{task}"));
            tasks.push(tokio::spawn(async move {
                let mut times = Vec::new();
                while begun.elapsed() < SPAN {
                    let sent = Instant::now();
                    maker.make(format!("{name}-{}", times.len())).await.unwrap();
                    times.push(sent.elapsed());
                }
                times
            }));
        }
    }
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.unwrap());
    }
    times.sort();
    (
        times[times.len() / 2],
        times.len() as f64 / begun.elapsed().as_secs_f64(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures for a minute; asserts nothing about speed"]
async fn speed() {
    for servers in [1, 3] {
        let ensemble = Ensemble::start_with(servers, |_, _| "forceSync=yes\n".to_owned());
        let options = options(&ensemble.hosts(), Duration::from_secs(10));
        Zookeeper::init(&options).await.unwrap();
        let target = Arc::new(format!("{}{}", options.hosts.join(","), options.chroot));
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        for _ in 0..8 {
            ours.push(Maker::Ours(Zookeeper::connect(&options).await.unwrap()));
            bare.push(Maker::Bare(Client::connect(&target).await.unwrap()));
        }
        for (what, count, each) in [("alone", 1, 1), ("8 clients", 8, 1), ("64 in flight", 1, 64)] {
            for round in 0..2 {
                let (ours_time, ours_rate) =
                    measure(&ours[..count], each, &format!("ours-{count}-{each}-{round}")).await;
                let (bare_time, bare_rate) =
                    measure(&bare[..count], each, &format!("bare-{count}-{each}-{round}")).await;
                println!(
                    "{servers} servers, {what}: p50 {ours_time:.2?} (bare {bare_time:.2?}, {:.2} times), {ours_rate:.0}/s (bare {bare_rate:.0}/s, {:.2} times)",
                    ours_time.as_secs_f64() / bare_time.as_secs_f64(),
                    ours_rate / bare_rate,
                );
            }
        }
    }
}
