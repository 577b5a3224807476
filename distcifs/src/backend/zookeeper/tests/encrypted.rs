//! Encryption: both sides show certificates, and neither works with a stranger's.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::server::Ensemble;
use super::{PATIENCE, create, options};
use crate::backend::zookeeper::{Options, Tls, Zookeeper};
use crate::storage::{Commit, Coordination};

/// The port for encrypted connections.
const SECURE_PORT: u16 = 2281;

fn openssl(dir: &Path, line: &str) {
    let mut command = Command::new("openssl");
    command.args(line.split(' ')).current_dir(dir).stderr(Stdio::null());
    assert!(command.status().unwrap().success(), "openssl {line}");
}

/// A certificate and its key, signed by an authority of this name.
fn certify(dir: &Path, authority: &str, name: &str, extension: &str) {
    let ca = format!("{authority}.pem");
    if !dir.join(&ca).exists() {
        let new = format!(
            "req -x509 -newkey rsa:2048 -nodes -keyout {authority}.key -out {ca} -days 2 -subj /CN={authority}"
        );
        openssl(dir, &new);
    }
    fs::write(dir.join("extensions"), extension).unwrap();
    openssl(
        dir,
        &format!("req -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"),
    );
    openssl(
        dir,
        &format!(
            "x509 -req -in {name}.csr -CA {ca} -CAkey {authority}.key -CAcreateserial -days 2 -extfile extensions -out {name}.pem"
        ),
    );
}

/// What makes a server take encrypted connections from clients whose certificate the CA signed.
fn secure(dir: &Path, address: Ipv4Addr) -> String {
    certify(dir, "ca", "server", &format!("subjectAltName=IP:{address}"));
    certify(dir, "ca", "client", "basicConstraints=CA:FALSE");
    certify(dir, "strange", "stranger", "basicConstraints=CA:FALSE");
    let [key, chain] = ["server.key", "server.pem"].map(|name| fs::read_to_string(dir.join(name)).unwrap());
    fs::write(dir.join("server-both.pem"), key + &chain).unwrap();
    let dir = dir.display();
    format!(
        "secureClientPort={SECURE_PORT}\nsecureClientPortAddress={address}\n\
         serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory\n\
         ssl.keyStore.location={dir}/server-both.pem\nssl.keyStore.type=PEM\n\
         ssl.trustStore.location={dir}/ca.pem\nssl.trustStore.type=PEM\nssl.clientAuth=need\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ZooKeeper: scripts/test conformance"]
async fn both_sides_know_each_other_or_there_is_no_session() {
    let ensemble = Ensemble::start_with(1, secure);
    let host = ensemble.hosts()[0].replace(":2181", &format!(":{SECURE_PORT}"));
    let with = |ca: &str, identity: Option<&str>| {
        let mut options = options(std::slice::from_ref(&host), Duration::from_secs(10));
        let path = |name: &str| ensemble.dir().join(name);
        let identity = identity.map(|name| (path(&format!("{name}.pem")), path(&format!("{name}.key"))));
        options.tls = Some(Tls { ca: path(ca), identity });
        options
    };
    let known = with("ca.pem", Some("client"));
    // The first handshake of a Java process takes seconds where others are busy.
    let begun = Instant::now();
    while let Err(error) = Zookeeper::init(&known).await {
        assert!(begun.elapsed() < 2 * PATIENCE, "{error}");
    }
    let store = Zookeeper::connect(&known).await.unwrap();
    assert_eq!(store.commit(vec![create("/a", "")]).await, Ok(Commit::Done));

    let said = async |options: Options| {
        let begun = Instant::now();
        let said = Zookeeper::connect(&options)
            .await
            .err()
            .expect("no session")
            .to_string();
        assert!(begun.elapsed() < Duration::from_secs(10), "{said}");
        said
    };
    let unencrypted = options(std::slice::from_ref(&host), Duration::from_secs(10));
    let (strangers, unknown, nobody, plain, wrong) = tokio::join!(
        said(with("strange.pem", Some("client"))),
        said(with("ca.pem", Some("stranger"))),
        said(with("ca.pem", None)),
        said(unencrypted),
        said(with("ca.key", Some("client")))
    );
    for said in [strangers, unknown, nobody] {
        assert!(
            said.contains(&format!("{host}: no TLS with it; see whether each side")),
            "{said}"
        );
    }
    assert!(plain.contains("is no ZooKeeper or speaks TLS"), "{plain}");
    assert!(
        wrong.contains("ca.key: ") && wrong.contains("no valid tls trust anchor"),
        "{wrong}"
    );
}
