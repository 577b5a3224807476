//! Opening: what is wrong is told in one line, in time, with the remedy; and the least rights do.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use distcifs_tests::cluster::Cluster;
use tempfile::TempDir;

use super::{Ceph, Options, cluster, options};
use crate::storage::conformance;

/// The contract's bound, and what a busy machine may add.
const BOUND: Duration = Duration::from_secs(11);

/// Why it can't be opened.
fn refusal(options: Options) -> String {
    let begun = Instant::now();
    let refused = Ceph::connect(options).err().expect("it opened").to_string();
    assert!(begun.elapsed() < BOUND, "{refused}: after {:?}", begun.elapsed());
    assert_eq!(refused.lines().count(), 1, "{refused}");
    refused
}

/// A copy of the cluster's configuration with other lines.
fn conf(cluster: &Cluster, dir: &Path, change: impl Fn(&str) -> Option<String>) -> PathBuf {
    let text = fs::read_to_string(cluster.dir().join("ceph.conf")).unwrap();
    let lines: Vec<String> = text
        .lines()
        .filter_map(|line| match line.starts_with("mon host") {
            true => change(line),
            false => Some(line.to_owned()),
        })
        .collect();
    let path = dir.join("ceph.conf");
    fs::write(&path, lines.join("\n") + "\n").unwrap();
    path
}

/// Makes a user with these rights; its keyring.
fn user(cluster: &Cluster, dir: &Path, name: &str, mon: &str, osd: &str) -> PathBuf {
    let path = dir.join(format!("{name}.keyring"));
    let client = format!("client.{name}");
    // One of a former run may have other rights.
    cluster.ceph(&["auth", "del", &client]).unwrap();
    let words = ["auth", "get-or-create", &client, "mon", mon, "osd", osd, "-o"];
    let done = cluster.ceph(&[&words[..], &[path.to_str().unwrap()]].concat());
    done.unwrap();
    path
}

#[test]
fn says_what_is_wrong_with_conf_user_and_key() {
    let Some(cluster) = cluster() else { return };
    let (dir, right) = (TempDir::new().unwrap(), options(cluster));
    let none = dir.path().join("none");
    let with_conf = |path: &Path| Options {
        conf: Some(path.to_owned()),
        ..right.clone()
    };
    let said = refusal(with_conf(&none));
    assert!(
        said.starts_with(&format!("ceph_conf {}: No such file", none.display())),
        "{said}"
    );
    assert!(said.ends_with("-o ceph_conf=FILE"), "{said}");
    let without = conf(cluster, dir.path(), |_| None);
    assert!(refusal(with_conf(&without)).contains("it names no monitor"));

    let with_key = |user: &str, path: &Path| Options {
        user: user.to_owned(),
        keyring: Some(path.to_owned()),
        ..right.clone()
    };
    let said = refusal(with_key("distci", &none));
    assert!(
        said.starts_with(&format!("ceph_keyring {}: No such file", none.display())),
        "{said}"
    );
    let said = refusal(with_key("nobody", right.keyring.as_ref().unwrap()));
    assert!(said.contains("no key of client.nobody there"), "{said}");
    let wrong = dir.path().join("wrong.keyring");
    let key = "[client.distci]\n\tkey = AQBQk1plAAAAABAAlrGfAvIxzmtnNnqpYmNQMw==\n";
    fs::write(&wrong, key).unwrap();
    let said = refusal(with_key("distci", &wrong));
    assert!(
        said.starts_with("ceph_user distci: the cluster at v2:127.0.0.1:"),
        "{said}"
    );
    fs::write(&wrong, "[client.distci]\n\tkey = nonsense\n").unwrap();
    let said = refusal(with_key("distci", &wrong));
    assert!(said.contains("not a keyring of Ceph"), "{said}");
}

#[test]
fn says_when_no_monitor_answers() {
    let Some(cluster) = cluster() else { return };
    let (dir, right) = (TempDir::new().unwrap(), options(cluster));
    // Nobody listens there, as this is closed again; and one that takes connections and says nothing.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    for port in [closed, silent.local_addr().unwrap().port()] {
        let conf = conf(cluster, dir.path(), |_| Some(format!("mon host = v2:127.0.0.1:{port}")));
        let said = refusal(Options {
            conf: Some(conf),
            ..right.clone()
        });
        assert!(
            said.contains(&format!("no monitor answers at v2:127.0.0.1:{port}")),
            "{said}"
        );
    }
}

#[test]
fn says_which_pool_is_missing_or_closed_to_us() {
    let Some(cluster) = cluster() else { return };
    let (dir, right) = (TempDir::new().unwrap(), options(cluster));
    let said = refusal(Options {
        pool: "none".to_owned(),
        ..right.clone()
    });
    assert!(said.starts_with("pool none: there is none of that name; make it: ceph osd pool create none"));
    let cases = [
        ("other", "allow rw pool=other", "client.other may not read there"),
        ("reader", "allow r pool=distci", "client.reader may not write there"),
    ];
    for (name, osd, wanted) in cases {
        let keyring = user(cluster, dir.path(), name, "allow r", osd);
        let said = refusal(Options {
            user: name.to_owned(),
            keyring: Some(keyring),
            ..right.clone()
        });
        assert!(said.contains(wanted) && said.contains("ceph auth caps"), "{said}");
    }
}

/// A user that may read the maps, and read and write in one namespace, can do all that is needed.
#[tokio::test(flavor = "multi_thread")]
async fn the_least_rights_do() {
    let Some(cluster) = cluster() else { return };
    let (dir, right) = (TempDir::new().unwrap(), options(cluster));
    let osd = format!("allow rw pool=distci namespace={}", right.namespace);
    let keyring = user(cluster, dir.path(), "least", "allow r", &osd);
    let options = Options {
        user: "least".to_owned(),
        keyring: Some(keyring),
        ..right
    };
    let elsewhere = Options {
        namespace: "elsewhere".to_owned(),
        ..options.clone()
    };
    let store = tokio::task::spawn_blocking(|| Ceph::connect(options))
        .await
        .unwrap()
        .unwrap();
    conformance::all_contents(&store).await;
    let said = tokio::task::spawn_blocking(|| refusal(elsewhere)).await.unwrap();
    assert!(said.contains("client.least may not read there"), "{said}");
}
