//! What is said when there is no session to be had, and whose the entries are.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use zookeeper_client::{Acls, Client, CreateMode, Error as ClientError, Permission};

use super::proxy::{Mode, Proxy};
use super::server::Ensemble;
use super::{create, ephemeral, options};
use crate::backend::zookeeper::{Options, Zookeeper};
use crate::storage::{Commit, Coordination};

const TIMEOUT: Duration = Duration::from_secs(10);

/// The one line that is said of it, within 10 s.
async fn said(options: &Options) -> String {
    let begun = Instant::now();
    let said = Zookeeper::connect(options).await.err().expect("no session").to_string();
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}: {said}",
        begun.elapsed()
    );
    assert!(!said.contains('\n'), "{said}");
    said
}

/// A file with credentials.
fn credentials(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

#[test]
fn addresses_are_read_and_shown() {
    for (text, shown) in [
        ("zk://a:1,b,[::1]:3/x/y", "zk://a:1,b:2181,[::1]:3/x/y"),
        ("a", "zk://a:2181/"),
        ("zk://a.example.org/", "zk://a.example.org:2181/"),
        ("a:2181/x/", "zk://a:2181/x"),
    ] {
        let options = Options::parse(text).unwrap();
        assert_eq!(options.to_string(), shown);
        assert_eq!(Options::parse(shown).unwrap(), options);
    }
    for text in [
        "", "zk://", "/x", "a:b", "a:0", "a:70000", "a,,b", "a b", "a/x//y", "a/../x", "a:1:2", "u@a",
    ] {
        let said = Options::parse(text).unwrap_err().to_string();
        assert!(said.starts_with(text) && said.contains("give zk://host:port"), "{said}");
    }
    let many = vec!["a"; 65].join(",");
    assert!(
        Options::parse(&many)
            .unwrap_err()
            .to_string()
            .contains("64 hosts at most")
    );
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::parse("127.0.0.1:1").unwrap();
    options.credentials = Some(dir.path().join("none"));
    assert!(said(&options).await.contains("none: No such file"));
    for text in ["", "user", "user:", ":password", "\nuser:password"] {
        options.credentials = Some(credentials(dir.path(), "odd", text));
        assert!(
            said(&options)
                .await
                .ends_with("odd: the first line is not user:password")
        );
    }
    options.credentials = None;
    options.session_timeout = Duration::from_millis(10);
    assert!(said(&options).await.contains("a session timeout has 1 to 120 s"));
}

/// Nothing listens, nothing answers, something else answers.
#[tokio::test]
async fn hosts_that_give_no_session_say_why() {
    let said_of = async |host: &str| said(&Options::parse(host).unwrap()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = listener.local_addr().unwrap().to_string();
    let proxy = Proxy::start("127.0.0.1:1").await;
    proxy.set(Mode::Cut);
    let curt = proxy.hosts().remove(0);
    let (refused, unknown, silence, other) = tokio::join!(
        said_of("127.0.0.1:1,localhost:1/x"),
        said_of("no-such-host.invalid"),
        said_of(&silent),
        said_of(&curt)
    );
    let wanted = "zk://127.0.0.1:1,localhost:1/x: no ZooKeeper server gives a session";
    assert!(refused.starts_with(wanted), "{refused}");
    assert!(refused.contains("127.0.0.1:1: Connection refused"), "{refused}");
    assert!(refused.contains("localhost:1: Connection refused"), "{refused}");
    assert!(unknown.contains("no-such-host.invalid:2181: "), "{unknown}");
    for (host, said) in [(silent, silence), (curt, other)] {
        let wanted = format!("{host}: takes connections, but is no ZooKeeper or speaks TLS");
        assert!(said.contains(&wanted), "{said}");
    }
}

#[tokio::test]
#[ignore = "needs ZooKeeper: scripts/test conformance"]
async fn a_server_without_a_majority_says_so() {
    let mut ensemble = Ensemble::start(3);
    ensemble.kill(0);
    ensemble.kill(1);
    let line = said(&options(&ensemble.hosts()[2..], TIMEOUT)).await;
    assert!(line.contains("is not currently serving requests"), "{line}");
}

/// A chroot is made once, with those above it; without it the line says how to make it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ZooKeeper: scripts/test conformance"]
async fn a_missing_chroot_is_told_and_made() {
    let ensemble = Ensemble::start(1);
    let mut options = options(&ensemble.hosts(), TIMEOUT);
    options.chroot = "/a/b/ci".to_owned();
    let line = said(&options).await;
    let wanted = format!("{options}: there is no /a/b/ci; make it with: distcifs init {options}");
    assert_eq!(line, wanted);
    for _ in 0..2 {
        Zookeeper::init(&options).await.unwrap();
        let store = Zookeeper::connect(&options).await.unwrap();
        store.commit(vec![create("/entry", "")]).await.unwrap();
        store.commit(vec![super::delete("/entry")]).await.unwrap();
        store.close().await;
    }
    options.chroot = "/".to_owned();
    Zookeeper::init(&options).await.unwrap();
    let store = Zookeeper::connect(&options).await.unwrap();
    let whole = store.children("/a/b").await.unwrap();
    assert_eq!(whole, ["ci"]);
    assert_eq!(
        store.commit(vec![super::delete("/")]).await,
        Ok(Commit::Mismatch { index: 0 })
    );
}

/// What is made with credentials is its identity's alone; the wrong ones, and none, are told apart
/// from the right ones at once, and never shown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ZooKeeper: scripts/test conformance"]
async fn entries_belong_to_the_credentials_that_made_them() {
    let ensemble = Ensemble::start(1);
    let mut with = options(&ensemble.hosts(), TIMEOUT);
    with.credentials = Some(credentials(ensemble.dir(), "right", "ci:secret\n"));
    Zookeeper::init(&with).await.unwrap();
    let store = Zookeeper::connect(&with).await.unwrap();
    store
        .commit(vec![create("/kept", "x"), create("/kept/below", "")])
        .await
        .unwrap();
    store.commit(vec![ephemeral("/mine")]).await.unwrap();

    let target = format!("{}/distci", ensemble.hosts()[0]);
    let stranger = Client::connect(&target).await.unwrap();
    let open = CreateMode::Persistent.with_acls(Acls::anyone_all());
    for path in ["/", "/kept", "/kept/below", "/mine"] {
        assert_eq!(
            stranger.get_data(path).await.unwrap_err(),
            ClientError::NoAuth,
            "{path}"
        );
        assert_eq!(
            stranger.set_data(path, b"", None).await.unwrap_err(),
            ClientError::NoAuth,
            "{path}"
        );
        assert_eq!(
            stranger.list_children(path).await.unwrap_err(),
            ClientError::NoAuth,
            "{path}"
        );
        if path != "/" {
            let below = format!("{path}/new");
            assert_eq!(
                stranger.create(&below, b"", &open).await.unwrap_err(),
                ClientError::NoAuth,
                "{path}"
            );
        }
    }
    assert_eq!(
        stranger.delete("/kept/below", None).await.unwrap_err(),
        ClientError::NoAuth
    );
    let owner = Client::connector()
        .with_auth("digest", b"ci:secret")
        .connect(&target)
        .await
        .unwrap();
    let (acls, _) = owner.get_acl("/mine").await.unwrap();
    assert_eq!(acls.len(), 1, "{acls:?}");
    let acl = &acls[0];
    assert_eq!((acl.permission(), acl.scheme()), (Permission::ALL, "digest"));
    assert!(acl.id().starts_with("ci:"), "{acls:?}");

    let mut without = with.clone();
    without.credentials = None;
    let line = said(&without).await;
    assert!(line.contains("without credentials may not change /distci"), "{line}");
    let mut wrong = with.clone();
    wrong.credentials = Some(credentials(ensemble.dir(), "wrong", "ci:guess\n"));
    let line = said(&wrong).await;
    assert!(
        line.contains("user ci of ") && line.contains("/wrong may not change /distci"),
        "{line}"
    );
    assert!(!line.contains("guess"), "{line}");
    assert!(Zookeeper::init(&wrong).await.is_err());
}

/// Without credentials everybody may do everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ZooKeeper: scripts/test conformance"]
async fn entries_made_without_credentials_are_open() {
    let ensemble = Ensemble::start(1);
    let store = super::store(&ensemble.hosts(), TIMEOUT).await;
    store.commit(vec![create("/kept", "x")]).await.unwrap();
    let other = Client::connect(&format!("{}/distci", ensemble.hosts()[0]))
        .await
        .unwrap();
    assert_eq!(other.get_data("/kept").await.unwrap().0, b"x");
    other.delete("/kept", Some(0)).await.unwrap();
}
