//! What a cluster may be like on a bad day: addresses and keys that are wrong, objects that are
//! damaged or gone, clocks that are an hour apart.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use distcifs_tests::mount::{TEST_LIMIT, Words};
use distcifs_tests::wait::USUAL;
use distcifs_tests::{Cluster, Mount, Repository, Worker, programs, wait_for};
use serde_json::json;

/// A mount that can't be says so within this, and half of it again on a busy machine.
const REFUSED_WITHIN: Duration = Duration::from_secs(15);

/// Tickets of a dead mount are open again by then, whatever the machine does beside.
const AGAIN_WITHIN: Duration = Duration::from_secs(40);

/// The first build's artifacts, by name and bytes: each is one chunk.
const FILES: [(&str, usize); 3] = [("gone", 200_000), ("spoilt", 150_000), ("whole", 100_000)];

/// "One line that says which and what to do, within 10 s, and no mount."
#[test]
fn what_is_wrong_with_the_words_of_a_mount_is_said_in_a_line() {
    if !Cluster::available() {
        return;
    }
    let cluster = Cluster::shared();
    let repository = Repository::on(cluster);
    let folder = tempfile::tempdir().expect("a folder");
    let (place, state) = (folder.path().join("mnt"), folder.path().join("state"));
    fs::create_dir(&place).expect("a mount point");
    let (source, options) = (
        repository.source(),
        repository.options("odd", &state).expect("a cluster has some"),
    );
    let without = |option: &str| {
        let kept = options.split(',').filter(|word| !word.starts_with(option));
        kept.collect::<Vec<_>>().join(",")
    };
    let unused = format!("{}-unused", repository.source());
    let cases = [
        ("zk://127.0.0.1:1/x", options.clone(), "check the addresses"),
        (&unused, options.clone(), "distcifs init"),
        (source, format!("{},pool=unused", without("pool=")), "pool unused"),
        (
            source,
            format!("{},namespace=unused", without("namespace=")),
            "check pool= and namespace=",
        ),
        (
            source,
            format!("{},ceph_user=unused", without("ceph_user=")),
            "client.unused",
        ),
        (source, without("zk_auth="), "credentials"),
        (
            source,
            format!("{},ceph_keyring=/unused", without("ceph_keyring=")),
            "/unused",
        ),
        (
            source,
            format!("{},ceph_conf=/unused", without("ceph_conf=")),
            "/unused",
        ),
    ];
    for (source, options, word) in cases {
        let begun = Instant::now();
        let output = Command::new(programs::distcifs())
            .args(["mount", source])
            .arg(&place)
            .args(["-o", &options])
            .output()
            .expect("distcifs runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(word), "{word}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(begun.elapsed() < REFUSED_WITHIN, "{:?}: {said}", begun.elapsed());
        let mounts = fs::read_to_string("/proc/self/mounts").expect("the kernel tells");
        assert!(!mounts.contains(place.to_str().expect("text")), "{mounts}");
    }
}

/// "Objects damaged or missing in the pool: EIO on that file with a log line that names it, the rest
/// works, fsck finds and names them all."
#[test]
fn damaged_and_missing_objects_spoil_their_files_only() {
    if !Cluster::available() {
        return;
    }
    let cluster = Cluster::shared();
    let repository = Repository::on(cluster);
    let mount = Mount::of(&repository, "n1", Words::default(), TEST_LIMIT);
    let workers = Worker::usual(&mount, 1);
    let script = FILES.map(|(name, bytes)| format!("head -c {bytes} /dev/urandom > ../artifacts/{name}\n"));
    mount.shell_job("a", &[&script.concat()]);
    let build = mount.build("a", "", "success");
    drop(workers);
    let options = repository.options("nobody", mount.root()).expect("a cluster has some");
    let namespace = options.split(',').find_map(|word| word.strip_prefix("namespace="));
    let namespace = namespace.expect("it is given");
    let rados = |words: &[&str]| cluster.rados(&[&["-N", namespace], words].concat()).expect("rados");
    let chunks: Vec<String> = rados(&["ls"])
        .lines()
        .filter(|name| name.starts_with("chunk."))
        .map(str::to_owned)
        .collect();
    let [gone, spoilt, _] = FILES.map(|(_, bytes)| {
        let size = format!("size {bytes}");
        let found = chunks
            .iter()
            .find(|name| rados(&["stat", name]).trim().ends_with(&size));
        found.expect("a chunk of this length").clone()
    });
    rados(&["rm", &gone]);
    let garbage = mount.out().join("garbage");
    fs::write(&garbage, vec![7; FILES[1].1]).expect("own folder");
    rados(&["put", &spoilt, garbage.to_str().expect("text")]);
    let cold = Mount::of(&repository, "n2", Words::default(), TEST_LIMIT);
    let read = |name: &str| fs::read(cold.path(&format!("jobs/a/builds/{build}/artifacts/{name}")));
    for (name, object) in [("gone", &gone), ("spoilt", &spoilt)] {
        let error = read(name).expect_err("it can't be read");
        assert_eq!(error.raw_os_error(), Some(nix::libc::EIO), "{name}: {error}");
        assert!(cold.log_tail().contains(object.as_str()), "{}", cold.log_tail());
    }
    assert_eq!(read("whole").expect("it is whole").len(), FILES[2].1);
    assert_eq!(
        cold.list(&format!("jobs/a/builds/{build}/artifacts")).len(),
        FILES.len()
    );
    let state = mount.out().join("fsck");
    let fsck = Command::new(programs::distcifs())
        .args(["fsck", repository.source(), "-o"])
        .arg(repository.options("fsck", &state).expect("a cluster has some"))
        .output()
        .expect("distcifs runs");
    let said = String::from_utf8_lossy(&[fsck.stdout, fsck.stderr].concat()).into_owned();
    assert!(!fsck.status.success(), "{said}");
    for object in [&gone, &spoilt] {
        let line = said.lines().find(|line| line.contains(object.as_str()));
        let line = line.unwrap_or_else(|| panic!("{object} is not named: {said}"));
        assert!(line.contains(&format!("jobs/a/builds/{build}")), "{line}");
    }
}

/// "EBUSY while a build of it is not finished", on whichever mount; "other mounts see the new name within a
/// second", with all that the job has; their workers go on with it.
#[test]
fn a_job_is_renamed_under_the_eyes_of_another_mount() {
    if !Cluster::available() {
        return;
    }
    let repository = Repository::on(Cluster::shared());
    let [one, two] = ["n1", "n2"].map(|node| Mount::of(&repository, node, Words::default(), TEST_LIMIT));
    let gate = one.out().join("gate");
    let script = format!("until [ -e '{}' ]; do sleep 0.1; done; echo hello\n", gate.display());
    one.shell_job("a", &[&script]);
    let _workers = Worker::usual(&two, 1);
    let rename = |mount: &Mount, from: &str, to: &str| {
        let renamed = fs::rename(mount.path(&format!("jobs/{from}")), mount.path(&format!("jobs/{to}")));
        renamed.map_or_else(|error| error.raw_os_error().unwrap_or_default(), |()| 0)
    };
    let sees = |mount: &Mount, new: &str, old: &str| {
        wait_for("the new name elsewhere", USUAL, || mount.list("jobs") == [new]);
        assert!(mount.has(&format!("jobs/{new}")) && !mount.has(&format!("jobs/{old}")));
    };
    assert_eq!(one.trigger("a", ""), 1);
    wait_for("the task runs", USUAL, || {
        two.has("jobs/a/builds/1/tasks/0-execute-shell/state")
            && two.read("jobs/a/builds/1/tasks/0-execute-shell/state") == "running"
    });
    for mount in [&one, &two] {
        assert_eq!(rename(mount, "a", "b"), nix::libc::EBUSY, "{}", mount.node());
        assert_eq!(mount.list("jobs"), ["a"]);
    }
    fs::write(&gate, "").expect("own folder");
    assert_eq!(two.wait_state("a", 1), "success");
    // It is finished when it is recorded.
    wait_for("the rename", USUAL, || rename(&one, "a", "b") == 0);
    sees(&two, "b", "a");
    assert!(two.console("b", 1).contains("hello"), "{}", two.console("b", 1));
    assert_eq!(two.trigger("b", ""), 2);
    assert_eq!(one.wait_state("b", 2), "success");
    assert!(one.console("b", 2).contains("hello"), "{}", one.console("b", 2));
    wait_for("the way back", USUAL, || rename(&two, "b", "a") == 0);
    sees(&one, "a", "b");
    assert_eq!(one.trigger("a", ""), 3, "its numbers go on");
    assert_eq!(two.wait_state("a", 3), "success");
    assert_eq!(one.state("a", 1), "success");
}

/// "Clocks that differ by an hour between nodes: nothing breaks."
#[test]
fn clocks_an_hour_apart_break_nothing() {
    if !Cluster::available() {
        return;
    }
    assert!(
        Path::new("/usr/bin/faketime").exists(),
        "scripts/setup --cluster installs it"
    );
    let repository = Repository::on(Cluster::shared());
    let at = |node: &str, offset: &str| {
        let words = Words {
            before: ["faketime", "-m", "--exclude-monotonic", "-f", offset]
                .map(str::to_owned)
                .into(),
            after: ["-o", "session_timeout=4"].map(str::to_owned).into(),
        };
        Mount::of(&repository, node, words, TEST_LIMIT)
    };
    let (fast, slow) = (at("fast", "+1h"), at("slow", "-1h"));
    let mounts = [&fast, &slow];
    let seconds = |mount: &Mount| {
        let status = mount.read("status");
        status
            .lines()
            .find(|line| line.starts_with("since "))
            .map(str::to_owned)
    };
    assert_ne!(seconds(&fast), seconds(&slow), "both have a clock");
    let control = mounts.map(|mount| Worker::start(mount, "build-control", &[]));
    let keep = json!({"tasks": [{"type": "execute-shell", "timeout": 60, "params": {"script": "sleep 1; echo done\n"}}],
        "keep": {"days": 1, "builds": 50}});
    fast.job("a", &keep.to_string());
    // Each claims what the other posted, and neither takes it for an hour old, or not begun yet.
    for (worker, trigger) in [(&fast, &slow), (&slow, &fast)] {
        let worker = Worker::start(worker, "execute-shell", &[]);
        for mount in [trigger, trigger] {
            let build = mount.build("a", "", "success");
            assert!(
                mount.console("a", build).contains("done"),
                "{}",
                mount.console("a", build)
            );
        }
        drop(worker);
    }
    // A key that was used on one is known on the other.
    let first = fast.trigger("a", "@key=once");
    assert_eq!(slow.trigger("a", "@key=once"), first);
    // What a dead node held is done again by the other.
    let held = format!("a.{first}.0");
    wait_for("the ticket", AGAIN_WITHIN, || {
        slow.has(&format!("tickets/execute-shell/{held}"))
    });
    let claim = fast.claim("execute-shell", &held).expect("a claim");
    fast.kill9();
    drop(claim);
    let _worker = Worker::start(&slow, "execute-shell", &[]);
    assert_eq!(slow.wait_state_within("a", first, AGAIN_WITHIN), "success");
    assert_eq!(
        slow.list("jobs/a/builds")
            .iter()
            .filter(|name| name.parse::<u64>().is_ok())
            .count(),
        5
    );
    drop(control);
}
