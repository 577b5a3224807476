//! Tests of the coordinator on real ZooKeeper servers: `scripts/test conformance` runs them.
//!
//! Each starts servers of its own, on a loopback address of its own, and ends them.

use std::time::Duration;

use bytes::Bytes;

use super::{Options, Zookeeper};
use crate::storage::{Op, conformance};

#[cfg(feature = "tls")]
mod encrypted;
mod limits;
mod opening;
mod processes;
pub(crate) mod proxy;
mod server;
mod sessions;
mod speed;

use server::Ensemble;

/// How long anything may take that is to happen by itself.
const PATIENCE: Duration = Duration::from_secs(20);

fn create(path: &str, data: &str) -> Op {
    Op::Create {
        path: path.to_owned(),
        data: Bytes::copy_from_slice(data.as_bytes()),
        ephemeral: false,
    }
}

fn ephemeral(path: &str) -> Op {
    Op::Create {
        path: path.to_owned(),
        data: Bytes::new(),
        ephemeral: true,
    }
}

fn set(path: &str, data: &str) -> Op {
    Op::Set {
        path: path.to_owned(),
        data: Bytes::copy_from_slice(data.as_bytes()),
        version: None,
    }
}

fn delete(path: &str) -> Op {
    let path = path.to_owned();
    Op::Delete { path, version: None }
}

/// How to reach servers, below a chroot.
fn options(hosts: &[String], timeout: Duration) -> Options {
    let mut options = Options::parse(&format!("{}/distci", hosts.join(","))).unwrap();
    options.session_timeout = timeout;
    options
}

/// A store below a new chroot.
async fn store(hosts: &[String], timeout: Duration) -> Zookeeper {
    let options = options(hosts, timeout);
    Zookeeper::init(&options).await.unwrap();
    Zookeeper::connect(&options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ZooKeeper: scripts/test conformance"]
async fn coordination_conforms() {
    let ensemble = Ensemble::start(1);
    let store = store(&ensemble.hosts(), Duration::from_secs(10)).await;
    conformance::all_coordination(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ZooKeeper: scripts/test conformance"]
async fn coordination_conforms_on_three_servers() {
    let ensemble = Ensemble::start(3);
    let store = store(&ensemble.hosts(), Duration::from_secs(10)).await;
    conformance::all_coordination(&store).await;
}
