//! The webhook receiver among strangers: whose jobs learn of a repository, by which secret, and what
//! somebody can find out who has a job, an account or a delivery that he caught.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use distcifs_tests::github::{Answered, Receiver, SECRET, fresh, job, ping, pull_request, push};
use distcifs_tests::wait::USUAL;
use distcifs_tests::{Mount, process, wait_for};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// Users without names.
const ALICE: u32 = 61_001;
const MALLORY: u32 = 61_002;

/// The administrator's folder and file, and jobs of users.
struct Ci {
    mount: Mount,
    secrets: PathBuf,
    file: PathBuf,
}

impl Ci {
    fn new() -> Ci {
        let mount = Mount::new();
        let secrets = mount.out().join("webhook.d");
        fs::create_dir(&secrets).expect("own folder");
        let file = mount.out().join("repositories");
        let ci = Ci { mount, secrets, file };
        ci.secret("hello", SECRET);
        ci
    }

    fn secret(&self, name: &str, text: &str) {
        let path = self.secrets.join(name);
        fs::write(&path, format!("{text}\n")).expect("own folder");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("own file");
    }

    fn lines(&self, text: &str) {
        fs::write(&self.file, text).expect("own folder");
    }

    fn start(&self) -> Receiver {
        let (file, secrets) = (self.file.to_str().expect("text"), self.secrets.to_str().expect("text"));
        Receiver::start_with(&self.mount, &["--repositories", file, "--secrets-dir", secrets])
    }

    /// A private job of a user.
    fn job(&self, name: &str, owner: u32, more: &Value) {
        self.mount.job(name, &job(more));
        self.mount
            .run(&format!("chown {owner}:{owner} jobs/{name} && chmod 700 jobs/{name}"));
    }

    fn builds(&self, job: &str) -> usize {
        let names = self.mount.list(&format!("jobs/{job}/builds"));
        names.iter().filter(|name| name.parse::<u64>().is_ok()).count()
    }
}

/// What whoever sent a request can see of the answer.
fn seen(answered: &Answered) -> (u16, String, Vec<String>) {
    let head = answered.head.lines().filter(|line| !line.starts_with("date:"));
    (
        answered.status,
        answered.body.to_string(),
        head.map(str::to_owned).collect(),
    )
}

fn push_by(receiver: &Receiver, path: &str, secret: &str, payload: &Value) -> Answered {
    receiver.deliver_to(path, "push", payload, "x", secret)
}

/// "A job learns of pushes to a repository only if its owner may use that repository: not because it
/// names it", nor because it has a git-checkout of it, nor by its own address.
#[test]
fn a_job_learns_of_a_repository_only_if_its_owner_may() {
    let ci = Ci::new();
    ci.lines(&format!("codertocat/hello-world hello {ALICE}\n"));
    ci.job("of-alice", ALICE, &json!({}));
    ci.job("of-mallory", MALLORY, &json!({}));
    ci.job("of-root", 0, &json!({}));
    let checkout = json!([{ "type": "git-checkout", "params": {
        "repository": "https://github.com/Codertocat/Hello-World", "ref": "master" } }]);
    ci.mount.job("by-checkout", &json!({ "tasks": checkout }).to_string());
    ci.mount.run(&format!("chown {MALLORY} jobs/by-checkout"));
    let receiver = ci.start();
    let answered = receiver.deliver("push", &fresh(&push("refs/heads/master")));
    assert_eq!((answered.status, answered.body), (201, json!({ "builds": 1 })));
    for job in ["of-mallory", "of-root", "by-checkout"] {
        let path = format!("/jobs/{job}/github-webhook");
        assert_eq!(
            push_by(&receiver, &path, SECRET, &fresh(&push("refs/heads/master"))).status,
            202
        );
        assert_eq!(ci.builds(job), 0, "{job}");
    }
    assert_eq!(ci.builds("of-alice"), 1);
    let log = receiver.log();
    assert!(
        log.contains("of-mallory is not told, as its owner may not use"),
        "{log}"
    );
    // Who owns it when the push comes decides.
    ci.mount.run(&format!(
        "chown {MALLORY} jobs/of-alice && chown {ALICE} jobs/by-checkout && echo on >jobs/by-checkout/enabled"
    ));
    receiver.deliver("push", &fresh(&push("refs/heads/master")));
    assert_eq!((ci.builds("of-alice"), ci.builds("by-checkout")), (1, 1));
}

/// "Only the users of the line whose secret made the signature": several lines of a repository, of an
/// organisation and of all; a new secret beside the old one; read again when the file changes, and on HUP.
#[test]
fn lines_are_read_again_and_each_stands_for_itself() {
    let ci = Ci::new();
    ci.secret("mine", "mallory's own");
    ci.lines(&format!("Codertocat/* hello {ALICE}\nmal/any mine {MALLORY}\n"));
    ci.job("of-alice", ALICE, &json!({}));
    ci.job("of-mallory", MALLORY, &json!({}));
    let mut receiver = ci.start();
    let push = push("refs/heads/master");
    let status = |receiver: &Receiver, secret: &str| push_by(receiver, "/github", secret, &fresh(&push)).status;
    // Who has a secret signs for nothing but its repositories.
    assert_eq!(
        (status(&receiver, SECRET), status(&receiver, "mallory's own")),
        (201, 401)
    );
    ci.lines(&format!(
        "Codertocat/* hello {ALICE}\nmal/any mine {MALLORY}\n* mine {MALLORY} # from now on\n"
    ));
    assert_eq!(
        (status(&receiver, SECRET), status(&receiver, "mallory's own")),
        (201, 201)
    );
    assert_eq!((ci.builds("of-alice"), ci.builds("of-mallory")), (2, 1));
    // A fault keeps what was there before in force.
    ci.lines("Codertocat/* hello\n");
    assert_eq!(
        (status(&receiver, SECRET), status(&receiver, "mallory's own")),
        (201, 201)
    );
    let place = format!("{}:1:14: after the secret come the users", ci.file.display());
    assert!(receiver.log().contains(&place), "{}", receiver.log());
    ci.lines(&format!("Codertocat/* hello {MALLORY}\n"));
    process::signal(receiver.worker().pid(), Signal::SIGHUP);
    wait_for("its word", USUAL, || receiver.log().contains("in force, with 1 lines"));
    assert_eq!(
        (status(&receiver, SECRET), status(&receiver, "mallory's own")),
        (201, 401)
    );
    assert_eq!((ci.builds("of-alice"), ci.builds("of-mallory")), (3, 3));
    assert!(receiver.worker().alive());
}

/// "The file is checked at the start: every fault with its place, and only root and the receiver's
/// user may be able to write it."
#[test]
fn a_file_with_faults_or_of_others_is_not_believed() {
    let ci = Ci::new();
    let start = || {
        let script = format!(
            "timeout 5 github-webhook $M --listen 127.0.0.1:0 --repositories {0} --secrets-dir {1}; echo $?",
            ci.file.display(),
            ci.secrets.display()
        );
        let ended = ci.mount.sh(&script);
        (ended.stdout.clone(), ended.stderr)
    };
    ci.lines("a/b hello 0\na/b/c hello 0\n\na/b ../hello 0 no-such-user\n");
    let (status, said) = start();
    let at = ci.file.display();
    assert_eq!(status, "1", "{said}");
    for place in [
        format!("{at}:2:1: a/b/c must be owner/name"),
        format!("{at}:4:5: the secret ../hello"),
        format!("{at}:4:16: there is no user"),
    ] {
        assert!(said.contains(&place), "{place}: {said}");
    }
    ci.lines("a/b hello 0\n");
    for (mode, owner, why) in [
        (0o666, 0, "chmod go-w"),
        (0o620, 0, "chmod go-w"),
        (0o600, ALICE, "chown root"),
    ] {
        fs::set_permissions(&ci.file, Permissions::from_mode(mode)).expect("own file");
        std::os::unix::fs::chown(&ci.file, Some(owner), None).expect("the tests run as root");
        let (status, said) = start();
        assert!(status == "1" && said.contains(why), "{mode:o} {owner}: {said}");
    }
    // A folder of secrets that others may write is none.
    std::os::unix::fs::chown(&ci.file, Some(0), None).expect("the tests run as root");
    ci.lines("* hello *\n");
    ci.mount.job("a", &job(&json!({})));
    let receiver = ci.start();
    assert_eq!(receiver.deliver("push", &push("refs/heads/master")).status, 201);
    fs::set_permissions(&ci.secrets, Permissions::from_mode(0o777)).expect("own folder");
    assert_eq!(receiver.deliver("push", &push("refs/heads/master")).status, 401);
    assert!(receiver.log().contains("chmod go-w"), "{}", receiver.log());
}

/// "`--secret-file` alone is for jobs of root and of the receiver's user; `--owner` names others."
#[test]
fn one_secret_for_all_is_not_for_everybodys_jobs() {
    let ci = Ci::new();
    ci.job("of-alice", ALICE, &json!({}));
    ci.job("of-mallory", MALLORY, &json!({}));
    ci.job("of-root", 0, &json!({}));
    let payload = push("refs/heads/master");
    let receiver = Receiver::start(&ci.mount, &[]);
    assert_eq!(receiver.deliver("push", &payload).body, json!({ "builds": 1 }));
    let builds = || ["of-alice", "of-mallory", "of-root"].map(|job| ci.builds(job));
    assert_eq!(builds(), [0, 0, 1]);
    let receiver = Receiver::start(&ci.mount, &["--owner", &ALICE.to_string()]);
    assert_eq!(receiver.deliver("push", &payload).body, json!({ "builds": 2 }));
    assert_eq!(builds(), [1, 0, 1], "the same body is the same build, for each job");
    for words in [
        "--owner no-such-user --secret-file /dev/null",
        "--owner root",
        "--secret-file /x --repositories /y",
    ] {
        let ended = ci.mount.sh(&format!(
            "timeout 5 github-webhook $M --listen 127.0.0.1:0 {words} || echo refused"
        ));
        assert_eq!(ended.stdout, "refused", "{words}: {}", ended.stderr);
    }
}

/// "`secret_file` only chooses among the secrets that the repository has: no file is read because a
/// job names it. A right and a wrong guess are answered the same."
#[test]
fn a_job_finds_nothing_out_by_secret_file() {
    let ci = Ci::new();
    ci.secret("other", "of another repository");
    let private = ci.mount.out().join("pin");
    fs::write(&private, "4711").expect("own folder");
    symlink(&private, ci.secrets.join("link")).expect("own folder");
    ci.lines(&format!(
        "Codertocat/Hello-World hello {MALLORY} {ALICE}\nacme/app other {ALICE}\nacme/app {} {ALICE}\n",
        private.display()
    ));
    let folder = ci.secrets.display().to_string();
    let guess = |path: String| json!({ "repository": "Codertocat/Hello-World", "secret_file": path });
    let named = [
        private.display().to_string(),
        format!("{folder}/link"),
        format!("{folder}/../pin"),
        format!("{folder}/other"),
        format!("{folder}/absent"),
        "/dev/zero".to_owned(),
        "/etc/passwd".to_owned(),
    ];
    for (number, path) in named.iter().enumerate() {
        ci.job(
            &format!("guess-{number}"),
            MALLORY,
            &json!({ "github": guess(path.clone()) }),
        );
    }
    ci.job("chosen", ALICE, &json!({ "github": guess(format!("{folder}/hello")) }));
    let receiver = ci.start();
    let payload = push("refs/heads/master");
    let guesses = ["4711", "of another repository", "0000", "", "x"];
    for number in 0..named.len() {
        for path in [format!("/jobs/guess-{number}/github-webhook"), "/github".to_owned()] {
            let answers = guesses.map(|secret| seen(&push_by(&receiver, &path, secret, &payload)));
            assert_eq!(answers[0].0, 401);
            assert!(
                answers.iter().all(|answer| *answer == answers[0]),
                "{path}: {answers:?}"
            );
        }
    }
    assert_eq!(receiver.deliver("push", &payload).body, json!({ "builds": 1 }));
    assert_eq!(ci.builds("chosen"), 1);
    assert!((0..named.len()).all(|number| ci.builds(&format!("guess-{number}")) == 0));
}

/// "Answers name no job and confirm no guess": with a secret of one's own or without any, a job that
/// is there, one that is not, and one of another are told apart by nothing.
#[test]
fn answers_name_no_job_and_confirm_no_guess() {
    let ci = Ci::new();
    ci.secret("mine", "mallory's own");
    ci.lines(&format!(
        "Codertocat/Hello-World hello {ALICE}\nmal/any mine {MALLORY}\n"
    ));
    ci.job("of-alice", ALICE, &json!({}));
    ci.job("picky", ALICE, &json!({ "parameters": { "token": null } }));
    let mine = json!({ "github": { "repository": "mal/any" } });
    ci.job("of-mallory", MALLORY, &mine);
    ci.job("hers-of-mine", ALICE, &mine);
    ci.mount.run("mkdir jobs/empty");
    let receiver = ci.start();
    let paths = [
        "of-alice",
        "picky",
        "empty",
        "absent",
        "hers-of-mine",
        "..",
        "%2e%2e%2fx",
        ".",
    ];
    let all = |secret: &str, event: &str, payload: &Value| {
        let answers: Vec<_> = paths
            .iter()
            .map(|job| {
                let path = format!("/jobs/{job}/github-webhook");
                (
                    path.clone(),
                    seen(&receiver.deliver_to(&path, event, payload, "x", secret)),
                )
            })
            // What is no address is none for everybody; curl makes one path of `..`.
            .filter(|(path, _)| !path.contains("/./") && !path.contains("/../"))
            .collect();
        let first = answers[0].1.clone();
        for (path, answer) in answers {
            assert_eq!(answer, first, "{path} {event}");
        }
        first.0
    };
    let theirs = push("refs/heads/master");
    let mut own = push("refs/heads/master");
    own["repository"]["full_name"] = "mal/any".into();
    let mut own_ping = ping();
    own_ping["repository"]["full_name"] = "mal/any".into();
    assert_eq!(all("wrong", "push", &theirs), 401);
    assert_eq!(all("mallory's own", "push", &theirs), 401);
    assert_eq!(all("mallory's own", "push", &own), 202);
    // Nor whether a job of somebody else waits for what its author asked no build of.
    let mut skipped = own.clone();
    skipped["head_commit"]["message"] = "not now [skip ci]".into();
    assert_eq!(all("mallory's own", "push", &skipped), 202);
    assert_eq!(all("mallory's own", "ping", &own_ping), 200);
    assert_eq!(all("mallory's own", "pull_request", &own), 400);
    assert_eq!(all("wrong", "push", &json!({})), 401);
    // Even to who may know it, numbers only.
    let answered = receiver.deliver("push", &theirs);
    assert_eq!(answered.body, json!({ "builds": 1, "refused": 1 }));
    let text = format!("{}{}", answered.head, answered.body);
    assert!(!text.contains("alice") && !text.contains("picky"), "{text}");
    let (_, page) = receiver.get("/metrics");
    for name in ["alice", "picky", "mallory", "Codertocat", "hello"] {
        assert!(!page.contains(name), "{name}: {page}");
    }
    assert_eq!((ci.builds("of-alice"), ci.builds("of-mallory")), (1, 0));
}

/// A repository that is there and one that is not are answered the same to who does not sign for it.
#[test]
fn answers_confirm_no_repository() {
    let ci = Ci::new();
    ci.secret("mine", "mallory's own");
    ci.lines(&format!(
        "Codertocat/Hello-World hello {ALICE}\nmal/any mine {MALLORY}\n"
    ));
    let receiver = ci.start();
    let mut nobodys = push("refs/heads/master");
    nobodys["repository"]["full_name"] = "no/such".into();
    for secret in ["wrong", "mallory's own"] {
        for path in ["/github", "/jobs/x/github-webhook"] {
            let theirs = push("refs/heads/master");
            let [one, other] = [&theirs, &nobodys].map(|payload| seen(&push_by(&receiver, path, secret, payload)));
            assert!(one == other && one.0 == 401, "{secret}: {one:?} {other:?}");
        }
    }
}

/// "Pull requests from another repository, or from one that is not told, only if a pattern begins
/// with refs/pull/"; "`commit` is the commit of an annotated tag".
#[test]
fn strangers_pull_requests_are_written_out() {
    let ci = Ci::new();
    ci.lines("* hello *\n");
    let of = |refs: Value| json!({ "github": { "repository": "Codertocat/Hello-World", "refs": refs }, "parameters": { "commit": "" } });
    ci.job("star", ALICE, &of(json!(["refs/*", "refs/**", "refs/pul*"])));
    ci.job("pulls", ALICE, &of(json!(["refs/pull/*"])));
    let receiver = ci.start();
    let mut gone = pull_request("opened", "x/y");
    gone["pull_request"]["head"]["repo"] = Value::Null;
    let mut untold = pull_request("reopened", "x/y");
    untold["pull_request"]["head"]
        .as_object_mut()
        .expect("an object")
        .remove("repo");
    let from_fork = pull_request("synchronize", "stranger/Hello-World");
    for (number, payload) in [(1, &gone), (2, &untold), (3, &from_fork)] {
        assert_eq!(receiver.deliver("pull_request", payload).body, json!({ "builds": 1 }));
        assert_eq!((ci.builds("star"), ci.builds("pulls")), (0, number));
    }
    let mut tag = push("refs/tags/v1");
    tag["after"] = "a".repeat(40).into();
    assert_eq!(receiver.deliver("push", &tag).body, json!({ "builds": 1 }));
    let commit = &tag["head_commit"]["id"];
    assert_eq!(&json!(ci.mount.read("jobs/star/builds/1/params/commit")), commit);
    let cause = ci.mount.read("jobs/star/builds/1/cause");
    assert!(
        cause.contains(commit.as_str().expect("text")) && !cause.contains("aaaa"),
        "{cause}"
    );
}
