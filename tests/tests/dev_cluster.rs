//! scripts/dev-cluster: real servers that can be killed and started one by one, and of which
//! nothing is left afterwards, however their owner ends.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use distcifs_tests::cluster::{Cluster, SERVERS, dev_cluster, text};
use distcifs_tests::{process, wait_for};

/// The promise of dev-cluster: ready within this.
const READY: Duration = Duration::from_secs(60);

/// ZooKeeper elects another leader, Ceph gives up an OSD, a watcher notices its owner's end.
const NOTICED: Duration = Duration::from_secs(30);

/// Not the usual one, so that it is seen to be the only one.
const ADDRESS: &str = "127.0.0.2";

#[test]
fn servers_die_and_come_back_one_by_one() {
    if !Cluster::available() {
        return;
    }
    let begun = Instant::now();
    let cluster = Cluster::fresh_at(ADDRESS);
    assert!(begun.elapsed() < READY, "up took {:?}", begun.elapsed());
    promises_hold(&cluster);
    cluster
        .rados(&["put", "before", "/etc/hostname"])
        .expect("the user may write");

    let leader = cluster.leader().expect("there is a quorum");
    for name in [leader.as_str(), "osd1"] {
        let pid = cluster.pid(name);
        assert!(process::is_alive(pid));
        cluster.kill(name);
        assert!(!process::is_alive(pid), "{name} is killed");
    }
    let (all_live, status) = cluster.status();
    assert!(!all_live && status.contains(&format!("{leader} ")), "{status}");
    for name in SERVERS {
        let dead = status
            .lines()
            .any(|line| line.starts_with(name) && line.ends_with(" dead"));
        assert_eq!(dead, name == leader || name == "osd1", "{name} in {status}");
    }
    // Two of three go on.
    wait_for("another leader", NOTICED, || {
        cluster.leader().is_some_and(|other| other != leader)
    });
    cluster
        .rados(&["put", "meanwhile", "/etc/hostname"])
        .expect("two OSDs are enough");

    cluster.start("osd1");
    cluster.start(&leader);
    cluster.start(&leader); // and that of one that runs is no error
    wait_for("all to be well again", NOTICED, || {
        let (all_live, status) = cluster.status();
        all_live && status.contains("HEALTH_OK")
    });
    let objects = cluster.rados(&["ls"]).expect("the user may list");
    assert!(objects.contains("before") && objects.contains("meanwhile"), "{objects}");

    stops_and_comes_back(&cluster);
    let dir = cluster.dir().to_path_buf();
    drop(cluster);
    assert_nothing_left(&dir);
}

/// What DIR holds for others, and for whom.
fn promises_hold(cluster: &Cluster) {
    let dir = cluster.dir().display();
    assert_eq!(cluster.zookeepers().len(), 3, "{}", cluster.source());
    let zookeepers = cluster.zookeepers();
    assert!(zookeepers.iter().all(|host| host.starts_with(&format!("{ADDRESS}:"))));
    let source = format!("zk://{}/distci", zookeepers.join(","));
    assert_eq!(cluster.source(), source);
    let options = format!(
        "pool=distci,ceph_conf={dir}/ceph.conf,ceph_user=distci,\
         ceph_keyring={dir}/ceph.client.distci.keyring,zk_auth={dir}/zk.auth"
    );
    assert_eq!(cluster.options(), options);
    for secret in ["ceph.client.distci.keyring", "ceph.keyring", "zk.auth"] {
        let file = fs::metadata(cluster.dir().join(secret)).expect("a key");
        assert_eq!(file.permissions().mode() & 0o777, 0o600, "{secret}");
    }
    let auth = fs::read_to_string(cluster.dir().join("zk.auth")).expect("a credential");
    assert!(auth.lines().count() == 1 && auth.contains(':'), "user:password");

    let (all_live, status) = cluster.status();
    assert!(all_live && status.contains("HEALTH_OK"), "{status}");
    for name in SERVERS {
        let line = format!("{name} {} alive", cluster.pid(name));
        assert!(status.contains(&line), "{line} in {status}");
    }
    assert_eq!(status.matches(" leader").count(), 1, "{status}");
    assert_eq!(status.matches(" follower").count(), 2, "{status}");
    is_least_privileged(cluster);
}

/// The user of the mounts may do nothing but read and write in its pool.
fn is_least_privileged(cluster: &Cluster) {
    let other = ["osd", "pool", "create", "other", "1"];
    let refused = cluster.ceph(&[&["-n", "client.distci"][..], &other].concat());
    assert!(refused.is_err_and(|said| said.contains("EACCES")));
    cluster.ceph(&other).expect("the administrator may");
    let refused = cluster.rados(&["-p", "other", "put", "x", "/etc/hostname"]);
    assert!(refused.is_err_and(|said| said.contains("Operation not permitted")));
    cluster
        .ceph(&[
            "osd",
            "pool",
            "delete",
            "other",
            "other",
            "--yes-i-really-really-mean-it",
        ])
        .expect("a pool may be removed");
}

/// A cluster that is down keeps its contents and its addresses.
fn stops_and_comes_back(cluster: &Cluster) {
    let pids: Vec<_> = SERVERS.iter().map(|name| cluster.pid(name)).collect();
    for _ in 0..2 {
        let down = dev_cluster("down", cluster.dir(), &[]);
        assert!(down.status.success(), "{}", text(&down));
    }
    assert!(!pids.into_iter().any(process::is_alive));
    assert!(!cluster.status().0);
    let env = fs::read_to_string(cluster.dir().join("env")).expect("env stays");
    let owner = std::process::id().to_string();
    let up = dev_cluster("up", cluster.dir(), &["--watch", &owner]);
    assert!(up.status.success(), "{}", text(&up));
    assert!(text(&up).contains(cluster.source()) && text(&up).contains(cluster.options()));
    assert_eq!(env, fs::read_to_string(cluster.dir().join("env")).expect("env"));
    let object = cluster.rados(&["get", "before", "-"]).expect("it was kept");
    assert_eq!(object, fs::read_to_string("/etc/hostname").expect("a host has a name"));
}

/// The owner may die in the middle of up: whatever was started by then ends.
#[test]
fn a_cluster_ends_with_its_owner() {
    if !Cluster::available() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let dir = folder.path().join("c");
    let mut owner = sleeper();
    let mut up = Command::new(distcifs_tests::programs::project().join("scripts/dev-cluster"))
        .arg("up")
        .arg(&dir)
        .args(["--watch", &owner.id().to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the script runs");
    wait_for("the first server", READY, || {
        fs::read_to_string(dir.join("pids")).is_ok_and(|pids| !pids.is_empty())
    });
    owner.kill().and_then(|()| owner.wait()).expect("own child");
    wait_for("its folder to go", NOTICED, || !dir.exists());
    wait_for("up to end", NOTICED, || up.try_wait().expect("own child").is_some());
    assert_nothing_left(&dir);
}

#[test]
fn what_can_not_be_is_refused_in_words() {
    if !Cluster::available() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (none, used) = (folder.path().join("none"), folder.path().join("used"));
    fs::create_dir(&used).expect("own folder");
    fs::write(used.join("mine"), "").expect("own folder");
    let none_at = none.to_str().expect("text");
    for (command, dir, words, status, says) in [
        ("up", &used, &[][..], 1, "neither empty nor a whole cluster"),
        ("up", &none, &["--address", "203.0.113.1"], 1, "203.0.113.1"),
        (
            "up",
            &none,
            &["--address", "localhost"],
            1,
            "localhost: no IPv4 address",
        ),
        ("up", &none, &["--watch", "999999999"], 1, "no process 999999999"),
        ("up", &none, &["--purge"], 2, "up does not take '--purge'"),
        ("status", &none, &[], 1, none_at),
        ("kill", &none, &["zk1"], 1, none_at),
        ("down", &used, &["--purge"], 1, "no folder of dev-cluster"),
        ("burn", &used, &[], 2, "no command 'burn'"),
    ] {
        let output = dev_cluster(command, dir, words);
        assert_eq!(
            output.status.code(),
            Some(status),
            "{command} {words:?}: {}",
            text(&output)
        );
        assert!(text(&output).contains(says), "{command} {words:?}: {}", text(&output));
    }
    assert!(!none.exists() && used.join("mine").exists());
    // Nothing to stop is no error.
    assert!(dev_cluster("down", &none, &["--purge"]).status.success());
}

fn sleeper() -> Child {
    Command::new("sleep")
        .arg("987.3")
        .spawn()
        .expect("sleep of coreutils runs")
}

/// Neither the folder nor a process that names it.
fn assert_nothing_left(dir: &Path) {
    assert!(!dir.exists(), "{} is still there", dir.display());
    let name = format!("{}/", dir.display());
    wait_for("every process of it to end", NOTICED, || !process::runs(&name));
}
