//! Commits come into workspaces: exactly those that were asked for.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{Bench, console, processes, until};

pub(crate) const CHECKOUT: &str = env!("CARGO_BIN_EXE_git-checkout");

/// Runs a script of git commands and gives what it says.
pub(crate) fn git(folder: &Path, script: &str) -> String {
    fs::create_dir_all(folder).unwrap();
    let made = Command::new("sh")
        .args(["-euc", script])
        .current_dir(folder)
        .envs([("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_CONFIG_NOSYSTEM", "1")])
        .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_NAME"), "a")))
        .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_EMAIL"), "a@b")))
        .output()
        .unwrap();
    assert!(made.status.success(), "{script}: {made:?}");
    String::from_utf8(made.stdout).unwrap().trim().to_owned()
}

/// A repository with one commit, which it gives, and the tag v1, which has a text.
pub(crate) fn repository(folder: &Path) -> String {
    git(
        folder,
        "git init -q -b main .; echo 1 >f; git add f; git commit -qm one; git tag -am text v1; git rev-parse HEAD",
    )
}

/// A further commit, which it gives.
fn commit(folder: &Path, file: &str, content: &str) -> String {
    fs::write(folder.join(file), content).unwrap();
    git(folder, "git add -A; git commit -qm more; git rev-parse HEAD")
}

pub(crate) fn recorded(ticket: &Path) -> String {
    fs::read_to_string(ticket.join("params/git_commit")).unwrap_or_default()
}

/// "`ref` (branch, tag, full ref or commit; default HEAD), `checkout-dir`. It records the commit it
/// took as the build parameter `git_commit`."
#[test]
fn a_commit_is_checked_out_and_recorded() {
    let bench = Bench::new(CHECKOUT, "refs");
    let upstream = bench.root.join("up");
    let commit = repository(&upstream);
    let names = [
        "HEAD",
        "",
        "main",
        "v1",
        "refs/heads/main",
        "refs/tags/v1",
        &commit,
        &commit[..9],
    ];
    for (id, (name, depth)) in names.iter().flat_map(|name| [(name, 0), (name, 1)]).enumerate() {
        let mut params = json!({ "repository": upstream, "ref": name, "checkout-dir": "a/src" });
        if depth > 0 {
            params["repository"] = format!("file://{}", upstream.display()).into();
            params["depth"] = depth.into();
        }
        let ticket = bench.ticket(&format!("t{id}"), params);
        let folder = ticket.join("workspace/a/src");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("f"), "in the way").unwrap();
        assert_eq!(bench.work(&ticket), "0", "{name}: {}", console(&ticket));
        assert_eq!(fs::read_to_string(folder.join("f")).unwrap(), "1\n");
        assert_eq!(recorded(&ticket), commit, "{name}");
        assert_eq!(git(&folder, "git rev-parse HEAD; git status --porcelain"), commit);
    }
    for (id, params, why) in [
        (
            "gone",
            json!({ "repository": "/nonexistent", "ref": "main" }),
            "can't read the repository /nonexistent",
        ),
        ("ref", json!({ "repository": upstream, "ref": "nope" }), "has no nope"),
        (
            "option",
            json!({ "repository": upstream, "ref": "--upload-pack=x" }),
            "not the name of a branch",
        ),
        (
            "ext",
            json!({ "repository": "ext::sh -c true", "ref": "main" }),
            "can't read the repository",
        ),
        (
            "fd",
            json!({ "repository": "fd::3" }),
            "'fd::' is no way to a repository",
        ),
        ("near", json!({ "repository": "up" }), "nor an absolute path"),
        ("none", json!({}), "params.repository is missing"),
        (
            "out",
            json!({ "repository": upstream, "checkout-dir": "../x" }),
            "must be a folder in the workspace",
        ),
        (
            "depth",
            json!({ "repository": upstream, "depth": "1x" }),
            "not a number",
        ),
    ] {
        let ticket = bench.ticket(id, params);
        let result = bench.work(&ticket);
        assert!(result.starts_with("1\n") && result.contains(why), "{result}");
        assert_eq!(recorded(&ticket), "");
    }
}

/// "`commit`, with `ref` or alone: what is checked out is that commit, or the task fails and says so."
#[test]
fn a_commit_is_the_one_that_was_asked_for() {
    let bench = Bench::new(CHECKOUT, "commits");
    let upstream = bench.root.join("up");
    let first = repository(&upstream);
    let second = commit(&upstream, "f", "2\n");
    let third = commit(&upstream, "f", "3\n");
    let side = git(
        &upstream,
        "git checkout -qb side HEAD~2; git commit -qm side --allow-empty; git rev-parse HEAD",
    );
    let tag = git(&upstream, "git checkout -q main; git rev-parse refs/tags/v1");
    assert_ne!(tag, first);
    let nowhere = "0123456789".repeat(4);
    let url = format!("file://{}", upstream.display());
    let cases = [
        (json!({ "ref": "main", "commit": third }), Ok(&third)),
        (json!({ "ref": "main", "commit": second }), Ok(&second)),
        (json!({ "ref": "main", "commit": first, "depth": 1 }), Ok(&first)),
        (json!({ "ref": "main", "commit": third, "depth": 1 }), Ok(&third)),
        (json!({ "ref": "v1", "commit": first }), Ok(&first)),
        (
            json!({ "ref": "refs/tags/v1", "commit": first, "depth": 1 }),
            Ok(&first),
        ),
        (json!({ "commit": second }), Ok(&second)),
        (json!({ "commit": side, "depth": 1 }), Ok(&side)),
        (json!({ "commit": third.to_uppercase(), "ref": "" }), Ok(&third)),
        (json!({ "commit": "", "ref": "side" }), Ok(&side)),
        (json!({ "commit": null }), Ok(&third)),
        (
            json!({ "ref": "main", "commit": side }),
            Err("does not have the commit"),
        ),
        (
            json!({ "ref": "main", "commit": side, "depth": 1 }),
            Err("does not have the commit"),
        ),
        (json!({ "ref": "v1", "commit": third }), Err("does not have the commit")),
        (
            json!({ "ref": "main", "commit": nowhere }),
            Err("does not have the commit"),
        ),
        (json!({ "ref": "nope", "commit": third }), Err("has no nope")),
        (json!({ "commit": nowhere }), Err("has no 0123")),
        (json!({ "commit": tag }), Err("names no commit")),
        (json!({ "ref": "v1", "commit": tag }), Err("does not have the commit")),
        (json!({ "commit": "main" }), Err("40 or 64 hexadecimal digits")),
        (json!({ "commit": &third[..12] }), Err("40 or 64 hexadecimal digits")),
    ];
    for (id, (mut params, expected)) in cases.into_iter().enumerate() {
        params["repository"] = url.clone().into();
        let said = params.to_string();
        let ticket = bench.ticket(&format!("t{id}"), params);
        let result = bench.work(&ticket);
        match expected {
            Ok(commit) => {
                assert_eq!(
                    (result.as_str(), &recorded(&ticket)),
                    ("0", commit),
                    "{said}: {}",
                    console(&ticket)
                );
                assert_eq!(&git(&ticket.join("workspace"), "git rev-parse HEAD"), commit);
            }
            Err(why) => {
                assert!(result.starts_with("1\n") && result.contains(why), "{said}: {result}");
                assert_eq!(recorded(&ticket), "", "{said}");
            }
        }
    }
}

/// A repository whose objects are named by SHA-256 is checked out like any other.
#[test]
fn the_names_of_commits_may_be_long() {
    let bench = Bench::new(CHECKOUT, "sha256");
    let upstream = bench.root.join("up");
    let long = git(
        &upstream,
        "git init -q -b main --object-format=sha256 .; echo 1 >f; git add f; git commit -qm one; git rev-parse HEAD",
    );
    for (id, params) in [
        json!({ "ref": "main" }),
        json!({}),
        json!({ "commit": long }),
        json!({ "ref": "main", "commit": long }),
        json!({ "ref": long, "depth": 1 }),
    ]
    .into_iter()
    .enumerate()
    {
        let mut params: Value = params;
        params["repository"] = upstream.to_str().unwrap().into();
        let ticket = bench.ticket(&format!("t{id}"), params);
        assert_eq!(bench.work(&ticket), "0", "{}", console(&ticket));
        assert_eq!(recorded(&ticket), long);
        assert_eq!(fs::read_to_string(ticket.join("workspace/f")).unwrap(), "1\n");
    }
}

/// Where an earlier checkout is, the files that it brought and that this commit does not have go; what
/// scripts made stays.
#[test]
fn a_checkout_over_another_leaves_nothing_of_it() {
    let bench = Bench::new(CHECKOUT, "over");
    let upstream = bench.root.join("up");
    repository(&upstream);
    fs::create_dir_all(upstream.join("old/deep")).unwrap();
    fs::write(upstream.join("old/kept"), "old").unwrap();
    let old = commit(&upstream, "old/deep/gone", "old");
    fs::remove_dir_all(upstream.join("old/deep")).unwrap();
    let new = commit(&upstream, "f", "new");
    let ticket = bench.ticket("t", json!({ "repository": upstream, "commit": old }));
    assert_eq!(bench.work(&ticket), "0", "{}", console(&ticket));
    let workspace = ticket.join("workspace");
    fs::write(workspace.join("made"), "by a script").unwrap();
    fs::write(workspace.join("f"), "changed").unwrap();
    let again = bench.ticket("again", json!({ "repository": upstream, "commit": new }));
    fs::remove_dir(again.join("workspace")).unwrap();
    fs::rename(&workspace, again.join("workspace")).unwrap();
    assert_eq!(bench.work(&again), "0", "{}", console(&again));
    let workspace = again.join("workspace");
    assert!(!workspace.join("old/deep").exists() && workspace.join("old/kept").exists());
    assert_eq!(fs::read_to_string(workspace.join("f")).unwrap(), "new");
    assert_eq!(git(&workspace, "git status --porcelain"), "?? made");
}

/// A server that says nothing, or little, holds a worker no longer than `timeout` and ten seconds.
#[test]
fn a_silent_server_ends_by_the_timeout() {
    let bench = Bench::new(CHECKOUT, "silent");
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let dripping = TcpListener::bind("127.0.0.1:0").unwrap();
    let drops = dripping.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in dripping.incoming().flatten() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
            while stream.write_all(b"X-Slow: 1\r\n").is_ok() {
                std::thread::sleep(Duration::from_millis(200));
            }
        }
    });
    for (id, url) in [
        ("http", format!("http://127.0.0.1:{port}/x.git")),
        ("git", format!("git://127.0.0.1:{port}/x.git")),
        ("drops", format!("http://127.0.0.1:{drops}/x.git")),
    ] {
        let ticket = bench.ticket_of(id, json!({ "timeout": 2, "params": { "repository": url } }));
        let begun = Instant::now();
        assert_eq!(bench.work(&ticket), "failure\ntimed out after 2 s");
        let took = begun.elapsed();
        assert!((2..12).contains(&took.as_secs()), "{id}: {took:?}");
        until("the end of git", || processes(&url).is_empty());
    }
}

/// What a client told a server that lets nobody in: the headers of its requests.
fn server_that_asks() -> (u16, Arc<Mutex<Vec<String>>>) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let told = Arc::new(Mutex::new(Vec::new()));
    let of_server = Arc::clone(&told);
    std::thread::spawn(move || {
        for mut stream in server.incoming().flatten() {
            let mut lines = BufReader::new(stream.try_clone().unwrap())
                .lines()
                .map_while(Result::ok);
            let mut status = "401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"";
            for line in lines.by_ref().take_while(|line| !line.is_empty()) {
                if line.to_lowercase().starts_with("authorization:") {
                    status = "403 Forbidden";
                }
                of_server.lock().unwrap().push(line);
            }
            let text = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let _ = stream.write_all(text.as_bytes());
        }
    });
    (port, told)
}

/// "A password in an address is told to its server and to nobody else."
#[test]
fn passwords_are_told_to_the_server_alone() {
    let bench = Bench::new(CHECKOUT, "password");
    let (port, told) = server_that_asks();
    for (id, userinfo, basic, secrets) in [
        (
            "plain",
            "user:hunter2secret",
            "dXNlcjpodW50ZXIyc2VjcmV0",
            &["hunter2secret"][..],
        ),
        (
            "coded",
            "user:hunter%2Fsecret",
            "dXNlcjpodW50ZXIvc2VjcmV0",
            &["hunter%2Fsecret", "hunter/secret"],
        ),
        ("token", "TOKEN4711", "VE9LRU40NzExOg==", &["TOKEN4711"]),
    ] {
        let address = format!("http://{userinfo}@127.0.0.1:{port}/x.git");
        let ticket = bench.ticket(id, json!({ "repository": address }));
        let result = bench.work(&ticket);
        assert!(
            result.contains(&format!("can't read the repository http://127.0.0.1:{port}/x.git")),
            "{result}"
        );
        let heard = told.lock().unwrap().join("\n");
        assert!(heard.contains(&format!("Authorization: Basic {basic}")), "{heard}");
        let config = fs::read_to_string(ticket.join("workspace/.git/config")).unwrap();
        assert!(config.contains(&format!("http://127.0.0.1:{port}/x.git")), "{config}");
        for secret in secrets.iter().chain([&basic]) {
            for text in [&result, &console(&ticket), &config] {
                assert!(!text.contains(secret), "{id}: {text}");
            }
        }
    }
    let address = format!("http://127.0.0.1:{port}/x.git?private_token=glpat4711");
    let ticket = bench.ticket("query", json!({ "repository": address }));
    let result = bench.work(&ticket);
    assert!(result.contains("TOKEN@host"), "{result}");
    for text in [result, console(&ticket)] {
        assert!(!text.contains("glpat4711"), "{text}");
    }
}

/// A server that sends everybody on to another; which, and who asked that one.
fn servers_that_send_on() -> (u16, u16, Arc<Mutex<Vec<String>>>) {
    let (other, asked) = server_that_asks();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in server.incoming().flatten() {
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let head: Vec<String> = lines
                .map_while(Result::ok)
                .take_while(|line| !line.is_empty())
                .collect();
            let path = head[0].split(' ').nth(1).unwrap();
            let text = format!(
                "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{other}{path}\r\nContent-Length: 0\r\nConnection: \
                 close\r\n\r\n"
            );
            let _ = stream.write_all(text.as_bytes());
        }
    });
    (port, other, asked)
}

/// "No redirection is followed: neither the server nor the protocol becomes another." "`why` says where the
/// server sends on to."
#[test]
fn a_server_is_the_one_that_was_named() {
    let (port, other, asked) = servers_that_send_on();
    let address = format!("http://127.0.0.1:{port}/x");
    let bench = Bench::new(CHECKOUT, "redirected");
    let result = bench.work(&bench.ticket("t", json!({ "repository": address })));
    let why = format!("can't read the repository {address}: its server sends on to http://127.0.0.1:{other}/x, ");
    assert!(result.starts_with("1\n") && result.contains(&why), "{result}");
    assert!(asked.lock().unwrap().is_empty(), "another server was asked");
}

/// A daemon of git for all repositories below a folder.
struct Daemon(Child, u16);

impl Daemon {
    fn new(folder: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("git")
            .args(["daemon", "--listen=127.0.0.1", "--export-all", "--reuseaddr"])
            .arg(format!("--port={port}"))
            .arg(format!("--base-path={}", folder.display()))
            .stderr(Stdio::null())
            .env("GIT_CONFIG_COUNT", "1")
            .env("GIT_CONFIG_KEY_0", "safe.directory")
            .env("GIT_CONFIG_VALUE_0", "*")
            .spawn()
            .unwrap();
        until("git's daemon", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Daemon(child, port)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(self.0.id().cast_signed()),
            nix::sys::signal::Signal::SIGTERM,
        );
        let _ = self.0.wait();
    }
}

/// `.gitmodules` and the entry of a submodule at `path`, committed.
fn submodule(parent: &Path, path: &str, url: &str, commit: &str, more: &str) {
    let text = format!("[submodule \"x/{path}\"]\n\tpath = {path}\n\turl = {url}\n{more}");
    fs::write(parent.join(".gitmodules"), text).unwrap();
    let script =
        format!("git add .gitmodules; git update-index --add --cacheinfo 160000,{commit},{path}; git commit -qm sub");
    git(parent, &script);
}

/// "Submodules come from servers, by addresses that may be said from their parent's; never from paths
/// of the node, and nothing that they name is run."
#[test]
fn submodules_are_checked_out_like_the_first() {
    let bench = Bench::new(CHECKOUT, "submodules");
    let served: PathBuf = bench.root.join("served");
    let inner = repository(&served.join("inner"));
    repository(&served.join("middle"));
    fs::write(served.join("middle/.gitattributes"), "*.bin filter=lfs\n").unwrap();
    git(&served.join("middle"), "git add .; git commit -qm lfs");
    submodule(&served.join("middle"), "lib/in", "../inner", &inner, "");
    let middle = git(&served.join("middle"), "git rev-parse HEAD");
    repository(&served.join("outer"));
    submodule(&served.join("outer"), "sub", "./../middle", &middle, "");
    let ran = bench.root.join("ran");
    let command = format!("\tupdate = !touch {}\n", ran.display());
    repository(&served.join("command"));
    submodule(&served.join("command"), "sub", "../inner", &inner, &command);
    let daemon = Daemon::new(&served);
    let url = format!("git://127.0.0.1:{}/outer", daemon.1);
    for (id, depth) in [("all", json!(null)), ("one", json!(1))] {
        let params = json!({ "repository": url, "checkout-dir": "src", "submodules": true, "depth": depth });
        let ticket = bench.ticket(id, params);
        // What a script left there steers nothing.
        let left = ticket.join("workspace/src/sub/.git");
        fs::create_dir_all(&left).unwrap();
        fs::write(
            left.join("config"),
            format!("[core]\n\tfsmonitor = touch {}\n", ran.display()),
        )
        .unwrap();
        fs::write(left.join("HEAD"), "ref: refs/heads/main\n").unwrap();
        assert_eq!(bench.work(&ticket), "0", "{}", console(&ticket));
        // "The console says so, of submodules too": of the one that has such files, and of no other.
        let said = console(&ticket);
        assert_eq!(said.matches("files of LFS").count(), 1, "{said}");
        assert!(
            said.contains("files of LFS in the submodule sub came as pointers"),
            "{said}"
        );
        let src = ticket.join("workspace/src");
        assert_eq!(fs::read_to_string(src.join("sub/lib/in/f")).unwrap(), "1\n");
        assert_eq!(git(&src, "git status --porcelain"), "");
        let status = git(&src, "git submodule status --recursive");
        assert!(status.lines().all(|line| !line.starts_with(['-', '+'])), "{status}");
        assert_eq!(recorded(&ticket), git(&served.join("outer"), "git rev-parse HEAD"));
    }
    let without = bench.ticket("without", json!({ "repository": url, "submodules": false }));
    assert_eq!(bench.work(&without), "0");
    assert!(fs::read_dir(without.join("workspace/sub")).unwrap().next().is_none());
    for (id, sub, why) in [
        ("path", "/etc", "a path of this node"),
        ("file", "file:///etc", "a path of this node"),
        ("ext", "ext::sh -c true", "no way"),
        ("up", "../../../../etc", "leads out"),
    ] {
        let parent = served.join(id);
        repository(&parent);
        submodule(&parent, "s", sub, &inner, "");
        let url = format!("git://127.0.0.1:{}/{id}", daemon.1);
        let ticket = bench.ticket(id, json!({ "repository": url, "submodules": true }));
        let result = bench.work(&ticket);
        assert!(result.contains("the submodule s: ") && result.contains(why), "{result}");
    }
    let url = format!("git://127.0.0.1:{}/command", daemon.1);
    let ticket = bench.ticket("command", json!({ "repository": url, "submodules": true }));
    assert_eq!(bench.work(&ticket), "0", "{}", console(&ticket));
    // From a parent of this node, a path that is said from it is a path of this node too.
    let local = served.join("outer");
    let ticket = bench.ticket("local", json!({ "repository": local, "submodules": true }));
    assert!(bench.work(&ticket).contains("a path of this node"));
    assert!(!ran.exists(), "nothing that a repository or a workspace names is run");
}

/// "git-checkout fetches for it by https or ssh, and only from addresses that config.json names, submodules too."
#[test]
fn a_stranger_names_no_server() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("ssh.{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    let inner = repository(&folder.join("inner"));
    let private = repository(&folder.join("private"));
    for (name, url, commit) in [
        ("good", "../inner", &inner),
        ("bad", "../private", &private),
        ("worse", "https://10.0.0.1/x", &inner),
    ] {
        repository(&folder.join(name));
        submodule(&folder.join(name), "sub", url, commit, "");
    }
    // What is called as ssh is given the server and a command, and runs that here.
    let ssh = folder.join("ssh");
    fs::write(&ssh, "#!/bin/sh\nfor last; do :; done\nexec sh -c \"$last\"\n").unwrap();
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).unwrap();
    let bench = Bench::with(CHECKOUT, "stranger", &[("GIT_SSH_COMMAND", &ssh)]);
    let at = |name: &str| format!("ssh://server.test{}/{name}", folder.display());
    let known = ["inner.git", "good", "bad", "worse"].map(at);
    let run = |id: &str, repository: &str, labels: &[&str], repositories: Option<&[String]>| {
        let params = json!({ "repository": repository, "submodules": true });
        let ticket = json!({
            "job": "j", "build": 1, "task": 0, "labels": labels, "params": params, "repositories": repositories,
        });
        let ticket = bench.ticket_of(id, ticket);
        (bench.work(&ticket), ticket.join("workspace"))
    };
    let (result, workspace) = run("good", &at("good"), &["untrusted"], Some(&known));
    assert_eq!(result, "0");
    assert!(workspace.join("sub/f").exists());
    for (id, name) in [("bad", "bad"), ("worse", "worse")] {
        let (result, workspace) = run(id, &at(name), &["untrusted"], Some(&known));
        assert!(
            result.contains("the submodule sub: ")
                && result.contains("no repository that the job's configuration names"),
            "{result}"
        );
        assert!(!workspace.join("sub/f").exists(), "{id}");
    }
    // Its own repository too: this one a stranger's file names, or what a build records.
    let (result, workspace) = run("own", &at("private"), &["untrusted"], Some(&known));
    assert!(
        result.starts_with("1\n") && result.contains("with no parameter in the address"),
        "{result}"
    );
    assert!(!workspace.join("f").exists());
    for (id, name, added) in [("trusted", "bad", "sub/f"), ("own-trusted", "private", "f")] {
        let (result, workspace) = run(id, &at(name), &[], None);
        assert_eq!(result, "0");
        assert!(workspace.join(added).exists());
    }
    // Of a task that was added the ticket names repositories too, and its submodules come from these.
    for (id, name, words) in [("added", "good", None), ("added-bad", "bad", Some("allow.submodules"))] {
        let (result, workspace) = run(id, &at(name), &[], Some(&known));
        assert!(words.map_or(result == "0", |words| result.contains(words)), "{result}");
        assert_eq!(workspace.join("sub/f").exists(), words.is_none(), "{id}");
    }
    let local = folder.join("inner").display().to_string();
    for (at, repository) in [local.as_str(), "http://127.0.0.1:1/x", "git://127.0.0.1:1/x"]
        .into_iter()
        .enumerate()
    {
        let (result, _) = run(&format!("way{at}"), repository, &["untrusted"], Some(&known));
        assert!(
            result.contains("an untrusted build fetches by https or ssh only"),
            "{repository}: {result}"
        );
    }
    fs::remove_dir_all(&folder).unwrap();
}
