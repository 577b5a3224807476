//! A stranger's pull request from its delivery to its end: what somebody approved is what is checked out.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use distcifs_tests::github::{Receiver, job, pull_request};
use distcifs_tests::{Mount, Worker};
use serde_json::json;

/// The ref of the pull request.
const PULL: &str = "refs/pull/2/head";

/// What stands in for ssh: it is given the server and a command, and runs that here.
const SSH: &str = "#!/bin/sh\nfor last; do :; done\nexec sh -c \"$last\"\n";

/// A server's repository with a pull request.
struct Pulled<'a>(&'a Path);

impl Pulled<'_> {
    fn git(&self, words: &[&str]) -> String {
        let output = Command::new("git")
            .arg("-C")
            .arg(self.0)
            .args([
                "-c",
                "user.name=eve",
                "-c",
                "user.email=e@ve",
                "-c",
                "init.defaultBranch=master",
            ])
            .args(words)
            .output()
            .expect("git runs; scripts/setup installs it");
        assert!(output.status.success(), "git {words:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Forces a commit to the pull request that stands upon nothing of it and has this in its file; its name.
    fn force(&self, text: &str) -> String {
        fs::write(self.0.join("f"), text).expect("own folder");
        self.git(&["add", "f"]);
        let tree = self.git(&["write-tree"]);
        let commit = self.git(&["commit-tree", &tree, "-m", text]);
        self.git(&["update-ref", PULL, &commit]);
        commit
    }
}

/// Delivers that the pull request of a fork has this commit; the build that is made.
fn deliver(mount: &Mount, receiver: &Receiver, action: &str, commit: &str) -> String {
    let mut payload = pull_request(action, "eve/Hello-World");
    payload["pull_request"]["head"]["sha"] = commit.into();
    payload["pull_request"]["head"]["user"] = json!({ "login": "eve" });
    let answered = receiver.deliver("pull_request", &payload);
    assert_eq!(
        (answered.status, &answered.body),
        (201, &json!({ "builds": 1 })),
        "{answered:?}"
    );
    let newest = fs::read_link(mount.path("jobs/a/builds/latest")).expect("a build");
    newest.to_str().expect("a number").to_owned()
}

/// "Delivery, held, approved, and exactly that commit runs"; "after a forced push what was approved runs or nothing does".
#[test]
fn what_was_approved_runs_and_nothing_else() {
    let mount = Mount::new();
    let server = mount.out().join("Hello-World");
    fs::create_dir(&server).expect("own folder");
    let pulled = Pulled(&server);
    pulled.git(&["init", "-q"]);
    let ssh = mount.out().join("ssh");
    fs::write(&ssh, SSH).expect("own folder");
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).expect("own folder");
    let _workers = [
        Worker::start(&mount, "build-control", &[]),
        Worker::with(&mount, "git-checkout", &[], &[("GIT_SSH_COMMAND", &ssh)]),
        Worker::start(&mount, "publish-artifacts", &[]),
    ];
    let repository = format!("ssh://git@server.test{}", server.display());
    mount.job(
        "a",
        &job(&json!({
            "parameters": { "ref": null },
            "github": { "repository": "Codertocat/Hello-World", "refs": ["refs/pull/*"] },
            "tasks": [
                { "type": "git-checkout", "params": { "repository": repository, "ref": "${ref}" } },
                { "type": "publish-artifacts", "params": { "artifacts": ["f"] } },
            ],
        })),
    );
    let receiver = Receiver::start(&mount, &[]);
    let state = |n: &str| mount.read(&format!("jobs/a/builds/{n}/state"));
    let approve = |n: &str, commit: &str| mount.write(&format!("jobs/a/builds/{n}/approve"), format!("{commit}\n"));
    let made = |n: &str| fs::read_to_string(mount.path(&format!("jobs/a/builds/{n}/artifacts/f"))).ok();

    let first = pulled.force("one");
    let n = deliver(&mount, &receiver, "opened", &first);
    assert_eq!(
        (state(&n).as_str(), mount.list("tickets/git-checkout").len()),
        ("held", 0)
    );
    approve(&n, &first).expect("it is held");
    assert_eq!(mount.wait_state("a", n.parse().expect("a number")), "success");
    assert_eq!(made(&n).as_deref(), Some("one"));

    // Nobody was told of the push between.
    let second = pulled.force("two");
    let n = deliver(&mount, &receiver, "synchronize", &second);
    pulled.force("three, which nobody saw");
    approve(&n, &second).expect("it is held");
    let ended = mount.wait_state("a", n.parse().expect("a number"));
    let why = mount.read(&format!("jobs/a/builds/{n}/why"));
    assert!(ended != "success" && why.contains(&second[..12]), "{ended}: {why}");
    assert_eq!(made(&n), None);

    // One that was told of: the older one is over, and its commit approves no other.
    let fourth = pulled.force("four");
    let older = deliver(&mount, &receiver, "synchronize", &fourth);
    let fifth = pulled.force("five");
    let newer = deliver(&mount, &receiver, "synchronize", &fifth);
    assert_eq!((state(&older).as_str(), state(&newer).as_str()), ("aborted", "held"));
    for n in [&older, &newer] {
        let refused = approve(n, &fourth).expect_err("it is of another commit, or over");
        assert_eq!(refused.raw_os_error(), Some(libc::ESTALE), "{n}: {refused}");
    }
    approve(&newer, &fifth).expect("it is held");
    assert_eq!(mount.wait_state("a", newer.parse().expect("a number")), "success");
    assert_eq!(made(&newer).as_deref(), Some("five"));
}
