//! GitHub as a receiver of webhooks sees it: payloads in its format, signatures made by openssl,
//! deliveries sent by curl.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::mount::Mount;
use crate::wait::{USUAL, wait_some};
use crate::worker::Worker;

/// The commit of [`push`].
pub const COMMIT: &str = "6113728f27ae82c7b1a177c8d03f9e96e0adf246";

/// The secret that [`Receiver::start`] gives.
pub const SECRET: &str = "It's a Secret to Everybody";

/// The repository of all payloads.
pub fn repository() -> Value {
    json!({
        "id": 186_853_002, "name": "Hello-World", "full_name": "Codertocat/Hello-World", "private": false,
        "owner": { "login": "Codertocat", "id": 21_031_067, "type": "User" },
        "html_url": "https://github.com/Codertocat/Hello-World", "description": null, "fork": false,
        "url": "https://api.github.com/repos/Codertocat/Hello-World",
        "statuses_url": "https://api.github.com/repos/Codertocat/Hello-World/statuses/{sha}",
        "git_url": "git://github.com/Codertocat/Hello-World.git", "ssh_url": "git@github.com:Codertocat/Hello-World.git",
        "clone_url": "https://github.com/Codertocat/Hello-World.git", "default_branch": "master"
    })
}

fn sender() -> Value {
    json!({ "login": "Codertocat", "id": 21_031_067, "type": "User", "site_admin": false })
}

/// A push of a commit to this ref.
pub fn push(name: &str) -> Value {
    json!({
        "ref": name, "before": "0000000000000000000000000000000000000000", "after": COMMIT,
        "created": false, "deleted": false, "forced": false, "base_ref": null, "compare": "https://github.com/x",
        "commits": [], "head_commit": {
            "id": COMMIT, "message": "Say hello", "timestamp": "2019-05-15T15:20:30Z",
            "author": { "name": "Codertocat", "email": "cat@example.org", "username": "Codertocat" },
            "added": [], "removed": [], "modified": ["README.md"]
        },
        "repository": repository(), "pusher": { "name": "Codertocat", "email": "cat@example.org" }, "sender": sender()
    })
}

/// A pull request from this repository, with this action.
pub fn pull_request(action: &str, from: &str) -> Value {
    let mut head = repository();
    head["full_name"] = from.into();
    json!({
        "action": action, "number": 2,
        "pull_request": {
            "url": "https://api.github.com/repos/Codertocat/Hello-World/pulls/2", "id": 279_147_437, "number": 2,
            "state": "open", "title": "Update the README with new information.", "user": sender(), "body": "Simple.",
            "head": { "label": "Codertocat:changes", "ref": "changes", "user": sender(), "sha": "ec26c3e57ca3a959ca5aad62de7213c562f8c821", "repo": head },
            "base": { "label": "Codertocat:master", "ref": "master", "sha": "f95f852bd8fca8fcc58a9a2d6c842781e32a215e", "repo": repository() },
            "draft": false, "merged": false
        },
        "repository": repository(), "sender": sender()
    })
}

/// A new branch or tag.
pub fn create(ref_type: &str, name: &str) -> Value {
    json!({
        "ref": name, "ref_type": ref_type, "master_branch": "master", "description": null, "pusher_type": "user",
        "repository": repository(), "sender": sender()
    })
}

/// What GitHub sends when a webhook is made.
pub fn ping() -> Value {
    json!({
        "zen": "Anything added dilutes everything else.", "hook_id": 109_948_940,
        "hook": { "type": "Repository", "id": 109_948_940, "name": "web", "active": true, "events": ["push"],
            "config": { "content_type": "json", "url": "https://ci.example.org/github", "insecure_ssl": "0", "secret": "********" } },
        "repository": repository(), "sender": sender()
    })
}

/// A job for the repository, with these members beside.
pub fn job(more: &Value) -> String {
    let mut config = json!({ "tasks": [], "github": { "repository": "Codertocat/Hello-World" } });
    let more = more.as_object().expect("an object").clone();
    config.as_object_mut().expect("an object").extend(more);
    config.to_string()
}

/// An id of a delivery that nobody else has.
pub fn fresh_id() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("72d3162e-cc78-11e3-{:04x}-{number:012x}", std::process::id() & 0xffff)
}

/// The same payload as another delivery: bytes that nobody sent before.
pub fn fresh(payload: &Value) -> Value {
    let mut payload = payload.clone();
    payload["x_delivery"] = fresh_id().into();
    payload
}

/// The value of X-Hub-Signature-256, by openssl.
pub fn sign(secret: &str, body: &[u8]) -> String {
    let mut openssl = Command::new("openssl")
        .args(["dgst", "-sha256", "-r", "-hmac", secret])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("openssl runs; scripts/setup installs it");
    openssl
        .stdin
        .take()
        .expect("a pipe")
        .write_all(body)
        .expect("openssl reads");
    let output = openssl.wait_with_output().expect("openssl ends");
    let text = String::from_utf8_lossy(&output.stdout);
    format!("sha256={}", text.split(' ').next().expect("a digest"))
}

/// A receiver that runs.
pub struct Receiver {
    worker: Worker,
    port: u16,
    out: PathBuf,
}

/// What a receiver answered.
#[derive(Debug)]
pub struct Answered {
    /// The HTTP status; 0 if there was none.
    pub status: u16,
    /// The body.
    pub body: Value,
    /// The head as it came.
    pub head: String,
}

impl Receiver {
    /// Starts one on a port of its own, with [`SECRET`], and waits until it is healthy.
    pub fn start(mount: &Mount, more: &[&str]) -> Receiver {
        let file = mount.out().join("secret");
        fs::write(&file, format!("{SECRET}\n")).expect("own folder");
        let mut words = vec!["--secret-file", file.to_str().expect("text")];
        words.extend(more);
        Receiver::start_with(mount, &words)
    }

    /// The same with the arguments that say who signs for what.
    pub fn start_with(mount: &Mount, more: &[&str]) -> Receiver {
        let mut words = vec!["--listen", "127.0.0.1:0"];
        words.extend(more);
        let worker = Worker::start(mount, "github-webhook", &words);
        let port = wait_some("the receiver's port", USUAL, || {
            let said = worker.complaints();
            let line = said
                .lines()
                .find_map(|line| line.split_once("listening on 127.0.0.1:"))?;
            line.1.trim().parse().ok()
        });
        let receiver = Receiver {
            worker,
            port,
            out: mount.out(),
        };
        receiver.wait_healthy();
        receiver
    }

    /// Waits until it sees the tree.
    pub fn wait_healthy(&self) {
        wait_some("a healthy receiver", USUAL, || {
            (self.get("/healthz").0 == 200).then_some(())
        });
    }

    /// Waits until it knows so many jobs.
    pub fn wait_jobs(&self, count: usize) {
        let line = format!("github_webhook_jobs {count}");
        wait_some(&line, USUAL, || {
            self.get("/metrics").1.lines().any(|l| l == line).then_some(())
        });
    }

    /// The process.
    pub fn worker(&mut self) -> &mut Worker {
        &mut self.worker
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What it logged.
    pub fn log(&self) -> String {
        self.worker.complaints()
    }

    /// Status and body of a page.
    pub fn get(&self, path: &str) -> (u16, String) {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let output = Command::new("curl")
            .args(["-s", "-m", "10", "-w", "\n%{http_code}", &url])
            .output()
            .expect("curl runs; scripts/setup installs it");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').unwrap_or_default();
        (status.parse().unwrap_or_default(), body.to_owned())
    }

    /// Sends bytes with these headers to an address.
    pub fn send(&self, path: &str, headers: &[&str], body: &[u8]) -> Answered {
        self.send_within(path, headers, body, Duration::from_secs(30))
    }

    /// The same with a bound.
    pub fn send_within(&self, path: &str, headers: &[&str], body: &[u8], limit: Duration) -> Answered {
        let name = format!("{:?}", std::thread::current().id());
        let file = self
            .out
            .join(format!("body-{}-{}", self.port, name.replace(['(', ')'], "")));
        fs::write(&file, body).expect("own folder");
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let output = Command::new("curl")
            .args(["-s", "-i", "-H", "Expect:", "-m", &limit.as_secs().to_string()])
            .args(headers.iter().flat_map(|header| ["-H", header]))
            .args(["--data-binary", &format!("@{}", file.display()), &url])
            .output()
            .expect("curl runs; scripts/setup installs it");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
        Answered {
            status: status.unwrap_or_default(),
            body: serde_json::from_str(body).unwrap_or_default(),
            head: head.to_owned(),
        }
    }

    /// Delivers a payload as GitHub does, to an address, with this id and secret.
    pub fn deliver_to(&self, path: &str, event: &str, payload: &Value, id: &str, secret: &str) -> Answered {
        let body = payload.to_string().into_bytes();
        let headers = [
            format!("X-GitHub-Event: {event}"),
            format!("X-GitHub-Delivery: {id}"),
            format!("X-Hub-Signature-256: {}", sign(secret, &body)),
            "Content-Type: application/json".to_owned(),
            "User-Agent: GitHub-Hookshot/044aadd".to_owned(),
        ];
        self.send(path, &headers.each_ref().map(String::as_str), &body)
    }

    /// Delivers a payload to `/github` with a fresh id and [`SECRET`].
    pub fn deliver(&self, event: &str, payload: &Value) -> Answered {
        self.deliver_to("/github", event, payload, &fresh_id(), SECRET)
    }
}
