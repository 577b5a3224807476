//! The programs that steer, each as a user of its own: what the mount gives them by `-o control=` is
//! enough for private jobs of others.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::time::Duration;

use distcifs_tests::github::{COMMIT, SECRET, job, push, sign};
use distcifs_tests::github_api::Api;
use distcifs_tests::programs;
use distcifs_tests::shell::Sh;
use distcifs_tests::wait::{USUAL, wait_some};
use distcifs_tests::{Mount, wait_for};
use nix::unistd::geteuid;
use serde_json::json;

const ALICE: u32 = 61_001;
const WEBHOOK: u32 = 61_010;
const STATUS: u32 = 61_011;
const CRON: u32 = 61_012;

/// A folder of a user's, with a program that he may execute in it.
fn home(mount: &Mount, program: &str, user: u32) -> PathBuf {
    let folder = mount.out().join(format!("home-{program}"));
    fs::create_dir(&folder).expect("own folder");
    fs::copy(programs::worker(program), folder.join(program)).expect("a copy");
    fs::set_permissions(mount.out(), Permissions::from_mode(0o755)).expect("own folder");
    fs::set_permissions(&folder, Permissions::from_mode(0o755)).expect("own folder");
    chown(&folder, Some(user), Some(user)).expect("the tests run as root");
    folder
}

/// A secret file of that user's alone.
fn secret(path: &PathBuf, text: &str, user: u32) {
    fs::write(path, text).expect("own folder");
    fs::set_permissions(path, Permissions::from_mode(0o600)).expect("own file");
    chown(path, Some(user), Some(user)).expect("the tests run as root");
}

/// Starts a program as that user, without any group or capability.
fn start(mount: &Mount, program: &str, user: u32, words: &str) -> Sh {
    let folder = mount.out().join(format!("home-{program}"));
    let program = folder.join(program).display().to_string();
    let id = user.to_string();
    let mut line = vec![
        "setpriv",
        "--reuid",
        &id,
        "--regid",
        &id,
        "--clear-groups",
        &program,
        mount.root_text(),
    ];
    line.extend(words.split_whitespace());
    mount.start_words(&line)
}

/// A receiver of everything for Alice's jobs, and where it listens.
fn receiver(mount: &Mount) -> (Sh, String) {
    let folder = home(mount, "github-webhook", WEBHOOK);
    secret(&folder.join("hello"), SECRET, WEBHOOK);
    fs::write(folder.join("map"), format!("* hello {ALICE}\n")).expect("own folder");
    let words = format!(
        "--listen 127.0.0.1:0 --repositories {0}/map --secrets-dir {0}",
        folder.display()
    );
    let receiver = start(mount, "github-webhook", WEBHOOK, &words);
    let address = wait_some("its address", USUAL, || {
        let said = receiver.complaints();
        said.lines()
            .find_map(|line| Some(line.split_once("listening on ")?.1.to_owned()))
    });
    (receiver, address)
}

/// A worker that tells this server what that receiver began.
fn status(mount: &Mount, api: &Api) -> Sh {
    let folder = home(mount, "github-status", STATUS);
    secret(&folder.join("token"), "ghp_x", STATUS);
    let words = format!(
        "--state {0}/told --token-file {0}/token --api {1} --receiver {WEBHOOK}",
        folder.display(),
        api.url()
    );
    let status = start(mount, "github-status", STATUS, &words);
    wait_for("its state", USUAL, || folder.join("told").exists());
    status
}

/// Number, `by` and `cause` of each build of the job.
fn builds(mount: &Mount) -> Vec<(u64, String, String)> {
    let names = mount.list("jobs/a/builds");
    let numbers = names.iter().filter_map(|name| name.parse::<u64>().ok());
    let read = |n: u64, name: &str| mount.read(&format!("jobs/a/builds/{n}/{name}"));
    numbers.map(|n| (n, read(n, "by"), read(n, "cause"))).collect()
}

/// Delivers a push until it has made a build.
fn deliver(mount: &Mount, address: &str) {
    let body = push("refs/heads/master").to_string();
    fs::write(mount.out().join("body"), &body).expect("own folder");
    let script = format!(
        "curl -s -m 10 http://{address}/github -H 'X-GitHub-Event: push' -H 'Content-Type: application/json' \
         -H 'X-Hub-Signature-256: {}' --data-binary @$OUT/body",
        sign(SECRET, body.as_bytes())
    );
    wait_for("the push to be taken", USUAL, || {
        mount.run(&script).trim() == r#"{"builds":1}"#
    });
}

/// "An ACL gives these users search on jobs, read on config.json and builds, and write on `trigger`":
/// a push to a private job is built and told, and its schedule is kept.
#[test]
fn programs_that_steer_need_no_more_than_the_mount_gives_them() {
    if !geteuid().is_root() {
        return;
    }
    let control = format!("control={WEBHOOK}:{STATUS}:{CRON}");
    let mount = Mount::with(&["-o", &control], 6 * USUAL);
    let api = Api::new();
    mount.job("a", r#"{"tasks":[]}"#);
    mount.run(&format!(
        "chown {ALICE}:{ALICE} jobs/a; chmod 600 jobs/a/config.json; chmod 700 jobs/a"
    ));
    let (receiver, address) = receiver(&mount);
    let status = status(&mount, &api);
    home(&mount, "cron", CRON);
    let cron = start(&mount, "cron", CRON, "");
    wait_for("cron", USUAL, || cron.complaints().contains("0 jobs"));

    // They are told of what changes in a job that only its owner may enter.
    let checkout = json!([{ "type": "git-checkout", "params": { "repository": "/srv/git/hello" } }]);
    mount.configure("a", &job(&json!({ "tasks": checkout, "cron": "* * * * *" })));
    deliver(&mount, &address);
    let pushed = builds(&mount).into_iter().find(|(_, _, cause)| cause.contains(COMMIT));
    let (n, by, _) = pushed.expect("the build of the push");
    assert!(by.starts_with(&format!("triggered {WEBHOOK} ")), "{by}");
    let told = |state: &str| api.told().contains(&state.to_owned());
    // An end that comes before the beginning is told is told alone.
    wait_for("the beginning at GitHub", USUAL, || told("a pending"));
    mount.finish("build-control", &format!("a.{n}.control"), "failure\nhere");
    wait_for("the end at GitHub", USUAL, || told("a error"));
    wait_for("the full minute", Duration::from_secs(90), || {
        let by_cron = format!("triggered {CRON} ");
        let all = builds(&mount);
        all.iter()
            .any(|(_, by, cause)| by.starts_with(&by_cron) && cause.starts_with("cron "))
    });
    assert!(receiver.alive() && status.alive() && cron.alive());
    for program in [&receiver, &status, &cron] {
        let said = program.complaints();
        assert!(!said.contains("ermission denied"), "{said}");
    }
}
