//! Statuses told to GitHub: all of them, whatever it answers and whoever is killed.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use distcifs_tests::github::{COMMIT, Receiver, job, push};
use distcifs_tests::github_api::{Api, Reply};
use distcifs_tests::job::shell_task;
use distcifs_tests::wait::USUAL;
use distcifs_tests::{Mount, Worker, wait_for};
use nix::unistd::geteuid;
use serde_json::json;

/// The token that the worker has.
const TOKEN: &str = "ghp_notATokenOfAnybody";

/// What stands in the file of the token.
fn token_file(mount: &Mount) -> PathBuf {
    mount.out().join("token")
}

/// Starts a worker that tells this server.
fn start(mount: &Mount, api: &Api) -> Worker {
    start_with(mount, api, &[])
}

/// The same with more arguments.
fn start_with(mount: &Mount, api: &Api, more: &[&str]) -> Worker {
    if !token_file(mount).exists() {
        fs::write(token_file(mount), format!("{TOKEN}\n")).expect("own folder");
    }
    let state = mount.out().join("state");
    let (url, token) = (api.url(), token_file(mount));
    let words = [
        "--api",
        &url,
        "--token-file",
        token.to_str().expect("text"),
        "--state",
        state.to_str().expect("text"),
        "--target-url",
        "https://ci.example.org/{job}/{build}",
    ];
    let worker = Worker::start(mount, "github-status", &[&words[..], more].concat());
    wait_for("the state's file", USUAL, || state.exists() || !worker.alive());
    worker
}

/// A job of GitHub's repository that checks something out.
fn config() -> String {
    let checkout = json!({ "type": "git-checkout", "params": { "repository": "/srv/git/hello" } });
    job(&json!({ "tasks": [checkout] }))
}

/// A repository with a commit, and that commit.
fn repository(mount: &Mount) -> (String, String) {
    let folder = mount.out().join("hello");
    let script = "git init -q $OUT/hello && cd $OUT/hello && echo 1 > f && git add f
        git -c user.name=n -c user.email=n@localhost commit -qm c && chmod -R a+rX . && git rev-parse HEAD";
    (folder.display().to_string(), mount.run(script).trim().to_owned())
}

/// Ends a build by hand: its git-checkout brought this commit, and then it ended so.
fn end_of(mount: &Mount, job: &str, build: u64, commit: Option<&str>, word: &str) {
    let control = format!("{job}.{build}.control");
    let held = mount.claim("build-control", &control).expect("the control ticket");
    let id = format!("{job}.{build}.0");
    mount.post(
        "git-checkout",
        &json!({ "id": id, "job": job, "build": build, "task": 0 }),
    );
    let claim = mount.claim("git-checkout", &id).expect("its ticket");
    if let Some(commit) = commit {
        let path = mount.path(&format!("tickets/git-checkout/{id}/params/git_commit"));
        fs::write(path, commit).expect("a recorded parameter");
    }
    mount.result("git-checkout", &id, "0").expect("its result");
    drop(claim);
    mount
        .result("build-control", &control, word)
        .expect("the build's result");
    drop(held);
}

/// Ends a build that was of the commit that it was triggered for.
fn end(mount: &Mount, job: &str, build: u64, word: &str) {
    end_of(mount, job, build, Some(COMMIT), word);
}

fn wait_told(api: &Api, worker: &Worker, wanted: &[&str]) {
    let mut found = Vec::new();
    let begun = std::time::Instant::now();
    while begun.elapsed() < USUAL {
        found = api.told();
        if found == wanted {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!(
        "told {found:?}, not {wanted:?}: {}\n{:#?}",
        worker.complaints(),
        api.asked()
    );
}

/// Triggers a job as the receiver does.
fn trigger(mount: &Mount, job: &str) -> u64 {
    mount.trigger(
        job,
        &format!("@cause=github push Codertocat/Hello-World {COMMIT} refs/heads/master cat"),
    )
}

/// From the push to the end: pending, then how it ended, in GitHub's form.
#[test]
fn a_push_is_told_from_its_build_to_its_end() {
    let mount = Mount::new();
    let (api, _workers) = (Api::new(), Worker::usual(&mount, 1));
    let worker = start(&mount, &api);
    let go = mount.out().join("go");
    let slow = format!("until [ -e {} ]; do sleep 0.05; done; exit 3\n", go.display());
    let (source, commit) = repository(&mount);
    let _checkout = Worker::start(&mount, "git-checkout", &[]);
    let checkout = json!({ "type": "git-checkout", "params": { "repository": source, "ref": "${commit}" } });
    let tasks = json!([checkout, shell_task(&slow)]);
    mount.job("a", &job(&json!({ "tasks": tasks, "parameters": { "commit": null } })));
    let receiver = Receiver::start(&mount, &[]);
    let mut pushed = push("refs/heads/master");
    pushed["head_commit"]["id"] = commit.clone().into();
    assert_eq!(receiver.deliver("push", &pushed).status, 201);
    wait_told(&api, &worker, &["a pending"]);
    fs::write(&go, "").expect("own folder");
    wait_told(&api, &worker, &["a pending", "a failure"]);
    let asked = api.asked();
    assert_eq!(
        asked[1].line,
        format!("POST /repos/Codertocat/Hello-World/statuses/{commit} HTTP/1.1")
    );
    for header in [
        "authorization: bearer ghp_notatokenofanybody",
        "accept: application/vnd.github+json",
        "x-github-api-version: 2022-11-28",
    ] {
        assert!(
            asked[1].headers.iter().any(|line| line == header),
            "{header}: {asked:#?}"
        );
    }
    assert!(
        asked[1]
            .headers
            .iter()
            .any(|line| line.starts_with("user-agent: distcifs")),
        "{asked:#?}"
    );
    assert_eq!(
        asked[1].body,
        json!({ "state": "failure", "context": "distcifs/a", "target_url": "https://ci.example.org/a/1",
            "description": "task 1-execute-shell: exit 3" })
    );
    assert!(!worker.complaints().contains(TOKEN), "the token is in the log");
}

/// Every end has its state; builds that did not come from GitHub, or claim another repository, are
/// not told.
#[test]
fn only_builds_from_github_are_told() {
    let mount = Mount::new();
    let api = Api::new();
    mount.job("old", &config());
    trigger(&mount, "old");
    end(&mount, "old", 1, "success");
    let worker = start(&mount, &api);
    for name in ["success", "failure", "error", "aborted", "other"] {
        mount.job(name, &config());
        match name {
            "other" => drop(mount.trigger(name, &format!("@cause=github push evil/repo {COMMIT} x y"))),
            _ => drop(trigger(&mount, name)),
        }
        end(&mount, name, 1, name.replace("other", "success").as_str());
    }
    mount.trigger("success", "@cause=cron 2026-01-01T00:00:00Z");
    mount.trigger("success", "");
    wait_for("all", USUAL, || {
        let told = api.told();
        ["success success", "failure failure", "error error", "aborted error"]
            .iter()
            .all(|line| told.iter().any(|found| found == line))
    });
    std::thread::sleep(Duration::from_millis(1500));
    let told = api.told();
    let of = |job: &str| told.iter().filter(|line| line.starts_with(job)).count();
    assert_eq!((of("other"), of("old")), (0, 0), "{told:?}");
    assert!(
        told.iter()
            .filter(|line| line.starts_with("success"))
            .all(|line| line != "success error"),
        "{told:?}"
    );
    assert!(
        worker.complaints().contains("does not name evil/repo"),
        "{}",
        worker.complaints()
    );
    // Built again, it is told again; removed, nothing is.
    mount.run("echo retry > jobs/failure/builds/1/ctl");
    mount.finish("build-control", "failure.1.control.r1", "success");
    wait_for("the retry", USUAL, || {
        api.told().iter().any(|line| line == "failure success")
    });
    mount.run("rm -r jobs/failure");
    std::thread::sleep(Duration::from_millis(800));
    assert_eq!(
        api.told()
            .iter()
            .rfind(|line| line.starts_with("failure"))
            .map(String::as_str),
        Some("failure success")
    );
}

/// "Success and failure are only told of a commit that was built": what git-checkout recorded
/// decides, not what the trigger said.
#[test]
fn a_commit_that_was_not_built_is_no_success() {
    let mount = Mount::new();
    let api = Api::new();
    let worker = start(&mount, &api);
    for (name, commit, word) in [
        ("another", Some("0".repeat(40)), "success"),
        ("fails", Some("1".repeat(40)), "failure"),
        ("nothing", None, "success"),
        ("early", None, "failure"),
    ] {
        mount.job(name, &config());
        trigger(&mount, name);
        end_of(&mount, name, 1, commit.as_deref(), word);
        wait_for("its end", USUAL, || api.told().contains(&format!("{name} error")));
    }
    let told = api.told();
    let ends = told.iter().filter(|line| !line.ends_with(" pending"));
    assert_eq!(ends.count(), 4, "{told:?}");
    let says = |name: &str, words: &str| {
        let asked = api.asked();
        let of = asked
            .iter()
            .rfind(|asked| asked.body["context"] == format!("distcifs/{name}"));
        let said = of.expect("it was told").body["description"].to_string();
        assert!(said.contains(words), "{name}: {said}");
    };
    says("another", "another commit was built: 000000000000");
    says("fails", "another commit was built: 111111111111");
    says("nothing", "no git-checkout says that this commit was built");
    // A build that checks nothing out, and is told of not at all.
    mount.job("script", &job(&json!({ "tasks": [shell_task("true\n")] })));
    trigger(&mount, "script");
    wait_for("its word", USUAL, || {
        worker.complaints().contains("script/1: it has no git-checkout")
    });
    assert!(
        !api.told().iter().any(|line| line.starts_with("script")),
        "{:?}",
        api.told()
    );
}

/// "Only builds that github-webhook triggered": who may trigger a job, and writes the same cause, is
/// told of by nobody; `--receiver` says who is believed.
#[test]
fn a_cause_is_believed_of_the_receiver_only() {
    if !geteuid().is_root() {
        return;
    }
    let mount = Mount::new();
    let api = Api::new();
    mount.job("a", &config());
    mount.run("chmod 755 jobs/a && chmod 666 jobs/a/trigger");
    let worker = start(&mount, &api);
    let as_nobody = |text: &str| {
        let script = format!("printf '%s\\n' \"{text}\" > jobs/a/trigger");
        let words = [
            "setpriv",
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "dash",
            "-euc",
        ];
        mount
            .start_words(&[&words[..], &[&script]].concat())
            .finish()
            .expect_ok();
    };
    let cause = format!("@cause=github push Codertocat/Hello-World {COMMIT} refs/heads/master cat");
    as_nobody(&cause);
    end(&mount, "a", 1, "success");
    // What was done to it later changes nothing of who began it.
    mount.run("echo keep > jobs/a/builds/1/ctl");
    assert_eq!(trigger(&mount, "a"), 2);
    end(&mount, "a", 2, "failure");
    wait_for("the second", USUAL, || api.told().contains(&"a failure".to_owned()));
    assert!(!api.told().contains(&"a success".to_owned()), "{:?}", api.told());
    let said = worker.complaints();
    assert!(
        said.contains("a/1: it was not triggered by github-webhook (triggered 65534"),
        "{said}"
    );
    drop(worker);
    // The receiver is nobody, and root is not.
    let more = ["--receiver", "65534"];
    let worker = start_with(&mount, &api, &more);
    as_nobody(&cause);
    trigger(&mount, "a");
    end(&mount, "a", 3, "success");
    end(&mount, "a", 4, "success");
    wait_for("its word", USUAL, || {
        worker.complaints().contains("a/4: it was not triggered")
    });
    wait_for("the third", USUAL, || api.told().contains(&"a success".to_owned()));
    assert_eq!(api.told().iter().filter(|line| *line == "a success").count(), 1);
}

/// 500, 502, a reset connection, one that says nothing: tried again, and told in the end.
#[test]
fn what_passes_is_tried_again() {
    let mount = Mount::new();
    let api = Api::new();
    let worker = start(&mount, &api);
    mount.job("a", &config());
    api.reply(&[
        Reply::of(500, "Server Error"),
        Reply::Reset,
        Reply::of(502, "Bad Gateway"),
        Reply::Silence(Duration::from_millis(10)),
    ]);
    trigger(&mount, "a");
    wait_told(&api, &worker, &["a pending"]);
    assert_eq!(api.asked().len(), 5);
    assert!(
        worker.complaints().contains("500: Server Error; again in"),
        "{}",
        worker.complaints()
    );
}

/// The limits of GitHub are obeyed: x-ratelimit-reset, retry-after; nothing at all is asked meanwhile.
#[test]
fn limits_are_obeyed() {
    let mount = Mount::new();
    let api = Api::new();
    let worker = start(&mount, &api);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    let limit = [
        "x-ratelimit-limit: 5000".to_owned(),
        "x-ratelimit-remaining: 0".to_owned(),
        format!("x-ratelimit-reset: {}", now + 4),
    ];
    api.reply(&[
        Reply::with(403, &limit, "API rate limit exceeded for user ID 1."),
        Reply::with(
            429,
            &["retry-after: 2".to_owned()],
            "You have exceeded a secondary rate limit.",
        ),
    ]);
    for name in ["a", "b"] {
        mount.job(name, &config());
        trigger(&mount, name);
    }
    wait_told(&api, &worker, &["a pending", "b pending"]);
    let asked = api.asked();
    let since = |n: usize| asked[n].when.duration_since(asked[n - 1].when);
    assert_eq!(
        asked.iter().map(|asked| asked.status).collect::<Vec<_>>(),
        [403, 429, 201, 201]
    );
    assert!(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970")
            .as_secs()
            >= now + 4
    );
    assert!(since(2) >= Duration::from_secs(2), "{:?}", since(2));
    assert!(
        since(3) >= Duration::from_millis(300),
        "one after the other: {:?}",
        since(3)
    );
    assert!(worker.complaints().contains("waiting"), "{}", worker.complaints());
}

/// A token that is not taken is not sent again and again; a new one is used at once.
#[test]
fn a_new_token_is_used_at_once() {
    let mount = Mount::new();
    let api = Api::new();
    let worker = start(&mount, &api);
    mount.job("a", &config());
    api.reply(&[Reply::of(401, "Bad credentials")]);
    trigger(&mount, "a");
    wait_for("a request", USUAL, || !api.asked().is_empty());
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(api.asked().len(), 1, "the same token again");
    fs::remove_file(token_file(&mount)).expect("own folder");
    wait_for("its complaint", USUAL, || {
        worker.complaints().contains("token: No such file")
    });
    fs::write(token_file(&mount), "ghp_another").expect("own folder");
    wait_told(&api, &worker, &["a pending"]);
    let asked = api.asked();
    assert!(
        asked[1]
            .headers
            .iter()
            .any(|line| line == "authorization: bearer ghp_another"),
        "{asked:#?}"
    );
}

/// 404 and 403 may be mended by a permission, 422 never: neither holds up the others.
#[test]
fn what_is_refused_holds_up_nobody() {
    let mount = Mount::new();
    let api = Api::new();
    for name in ["a", "b", "c", "d"] {
        mount.job(name, &config());
    }
    let worker = start(&mount, &api);
    api.reply(&[
        Reply::of(404, "Not Found"),
        Reply::of(422, "No commit found for SHA"),
        Reply::with(
            403,
            &["x-ratelimit-remaining: 4000".to_owned()],
            "Resource not accessible by integration",
        ),
    ]);
    for name in ["a", "b", "c", "d"] {
        trigger(&mount, name);
    }
    wait_told(&api, &worker, &["d pending"]);
    assert_eq!(api.asked().len(), 4);
    let said = worker.complaints();
    for words in [
        "404: Not Found; again in",
        "pending is not told: 422: No commit",
        "403: Resource not accessible",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    // What ends is told again, though its beginning was not taken.
    end(&mount, "b", 1, "success");
    wait_told(&api, &worker, &["d pending", "b success"]);
}

/// A renamed repository leads on; the token never leaves the server.
#[test]
fn redirects_are_followed_on_the_same_server_only() {
    let mount = Mount::new();
    let (api, other) = (Api::new(), Api::new());
    let worker = start(&mount, &api);
    mount.job("a", &config());
    let to = |url: String| Reply::with(307, &[format!("location: {url}/repositories/1/statuses/x")], "Moved");
    api.reply(&[to(api.url())]);
    trigger(&mount, "a");
    wait_told(&api, &worker, &["a pending"]);
    assert_eq!(api.asked()[1].line, "POST /repositories/1/statuses/x HTTP/1.1");
    api.reply(&[to(other.url())]);
    end(&mount, "a", 1, "success");
    wait_for("its complaint", USUAL, || {
        worker.complaints().contains("success is not told: 307")
    });
    assert!(other.asked().is_empty());
}

/// "Nothing lost over its own restart": killed at every stage, and while it does not run builds
/// begin, end, are built again and are removed.
#[test]
fn killed_at_every_stage_nothing_is_lost() {
    let mount = Mount::new();
    let api = Api::new();
    for name in ["a", "b", "c", "d"] {
        mount.job(name, &config());
    }
    let mut worker = start(&mount, &api);
    trigger(&mount, "a");
    wait_told(&api, &worker, &["a pending"]);
    worker.kill9();
    // Meanwhile one ends, one begins and ends, one begins, and one is made in the place of another.
    end(&mount, "a", 1, "failure");
    trigger(&mount, "b");
    end(&mount, "b", 1, "success");
    trigger(&mount, "c");
    let mut worker = start(&mount, &api);
    let has = |line: &str| api.told().iter().any(|found| found == line);
    for line in ["a failure", "b success", "c pending"] {
        wait_for(line, USUAL, || has(line));
    }
    // Killed while a request is under way, and while it waits to try again.
    api.reply(&[Reply::Silence(Duration::from_secs(2))]);
    end(&mount, "c", 1, "success");
    wait_for("the request", USUAL, || {
        api.asked().iter().any(|asked| asked.status == 0)
    });
    worker.kill9();
    assert!(!has("c success"));
    api.reply(&[Reply::of(500, "Server Error")]);
    let mut worker = start(&mount, &api);
    wait_for("its complaint", USUAL, || {
        worker.complaints().contains("500: Server Error")
    });
    worker.kill9();
    let mut worker = start(&mount, &api);
    wait_for("c success", USUAL, || has("c success"));
    // Built again, and removed before its end was told.
    trigger(&mount, "d");
    wait_for("d pending", USUAL, || has("d pending"));
    std::thread::sleep(Duration::from_millis(1500));
    worker.kill9();
    mount.run("echo retry > jobs/a/builds/1/ctl");
    mount.finish("build-control", "a.1.control.r1", "success");
    end(&mount, "d", 1, "success");
    mount.run("rm -r jobs/d && mkdir jobs/d");
    mount.configure("d", &config());
    trigger(&mount, "d");
    let worker = start(&mount, &api);
    for line in ["a success", "d error"] {
        wait_for(line, USUAL, || has(line));
    }
    assert_eq!(mount.state("d", 1), "pending", "another build of the same number");
    wait_for("d again", USUAL, || {
        api.told().iter().filter(|line| *line == "d pending").count() == 2
    });
    assert!(worker.alive());
}

/// Two of them with one file tell everything twice: the second is refused.
#[test]
fn one_file_is_for_one_worker() {
    let mount = Mount::new();
    let api = Api::new();
    let first = start(&mount, &api);
    let second = start(&mount, &api);
    wait_for("its end", USUAL, || !second.alive());
    assert!(
        second.complaints().contains("another github-status has it"),
        "{}",
        second.complaints()
    );
    assert!(first.alive());
    drop(first);
    let ended = mount.sh("github-status $M --state $OUT/s --token-file /dev/null --api http://example.org; echo $?");
    assert!(
        ended.stdout == "1" && ended.stderr.contains("must begin with https://"),
        "{ended:?}"
    );
    fs::write(mount.out().join("s"), "x").expect("own folder");
    let ended = mount.sh("github-status $M --state $OUT/s --token-file /dev/null; echo $?");
    assert!(
        ended.stdout == "1" && ended.stderr.contains("remove it to begin anew"),
        "{ended:?}"
    );
}

/// "`mv` of a job: what was told is not told anew; builds from then on are told by the new name."
#[test]
fn a_job_that_is_renamed_is_not_told_anew() {
    let (mount, api) = (Mount::new(), Api::new());
    let worker = start(&mount, &api);
    mount.job("a", &config());
    trigger(&mount, "a");
    wait_told(&api, &worker, &["a pending"]);
    end(&mount, "a", 1, "success");
    wait_told(&api, &worker, &["a pending", "a success"]);
    mount.run("mv jobs/a jobs/b");
    trigger(&mount, "b");
    wait_told(&api, &worker, &["a pending", "a success", "b pending"]);
    end(&mount, "b", 2, "failure");
    drop(worker);
    mount.run("mv jobs/b jobs/c");
    let worker = start(&mount, &api);
    // What GitHub knows stays where it is: an end that was not told yet, and one that is built again.
    let mut told = vec!["a pending", "a success", "b pending", "b failure"];
    wait_told(&api, &worker, &told);
    mount.run("echo retry > jobs/c/builds/1/ctl");
    told.push("a pending");
    wait_told(&api, &worker, &told);
    trigger(&mount, "c");
    told.push("c pending");
    wait_told(&api, &worker, &told);
}
