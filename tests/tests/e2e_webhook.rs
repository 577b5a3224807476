//! The webhook receiver: what GitHub sends makes the builds that it should, once.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use distcifs_tests::github::{COMMIT, Receiver, SECRET, create, fresh, fresh_id, job, ping, pull_request, push, sign};
use distcifs_tests::job::shell_task;
use distcifs_tests::programs::{installed, project};
use distcifs_tests::wait::USUAL;
use distcifs_tests::{Mount, Sh, Worker, wait_for};
use serde_json::{Value, json};

/// The parameters that a delivery can give, all declared.
fn all_parameters() -> Value {
    json!({ "ref": "", "commit": "", "repository": "", "sender": "", "pull_request": "" })
}

fn param(mount: &Mount, build: u64, name: &str) -> String {
    mount.read(&format!("jobs/a/builds/{build}/params/{name}"))
}

/// A push is built, and the build knows what was pushed.
#[test]
fn a_push_makes_a_build_that_knows_it() {
    let mount = Mount::new();
    mount.job("a", &job(&json!({ "parameters": all_parameters() })));
    let receiver = Receiver::start(&mount, &[]);
    let answered = receiver.deliver("push", &push("refs/heads/master"));
    assert_eq!((answered.status, &answered.body), (201, &json!({ "builds": 1 })));
    assert_eq!(param(&mount, 1, "ref"), "refs/heads/master");
    assert_eq!(param(&mount, 1, "commit"), COMMIT);
    assert_eq!(param(&mount, 1, "repository"), "Codertocat/Hello-World");
    assert_eq!(param(&mount, 1, "sender"), "Codertocat");
    assert_eq!(param(&mount, 1, "pull_request"), "");
    assert_eq!(
        mount.read("jobs/a/builds/1/cause"),
        format!("github push Codertocat/Hello-World {COMMIT} refs/heads/master Codertocat")
    );
    let (status, page) = receiver.get("/metrics");
    assert!(
        status == 200 && page.contains("github_webhook_deliveries_total{status=\"201\"} 1"),
        "{page}"
    );
    assert!(receiver.log().contains("201 push"), "{}", receiver.log());
}

/// Pull requests, tags and pings; what is none of these, or asks for no build, makes none.
#[test]
fn what_is_built_and_what_is_not() {
    let mount = Mount::new();
    let refs = json!({ "repository": "codertocat/hello-world", "refs": ["refs/heads/*", "refs/tags/*"] });
    mount.job("a", &job(&json!({ "parameters": all_parameters(), "github": refs })));
    let receiver = Receiver::start(&mount, &[]);
    for action in ["opened", "synchronize", "reopened"] {
        let answered = receiver.deliver("pull_request", &pull_request(action, "Codertocat/Hello-World"));
        assert_eq!(answered.status, 201, "{action}: {answered:?}");
    }
    assert_eq!(param(&mount, 3, "ref"), "refs/pull/2/head");
    assert_eq!(param(&mount, 3, "commit"), "ec26c3e57ca3a959ca5aad62de7213c562f8c821");
    assert_eq!(param(&mount, 3, "pull_request"), "2");
    assert_eq!(receiver.deliver("create", &create("tag", "simple-tag")).status, 201);
    assert_eq!(param(&mount, 4, "ref"), "refs/tags/simple-tag");
    assert_eq!(param(&mount, 4, "commit"), "");
    let answered = receiver.deliver("ping", &ping());
    assert_eq!((answered.status, answered.body["ok"].as_str()), (200, Some("pong")));
    let mut deleted = push("refs/heads/master");
    deleted["deleted"] = true.into();
    deleted["after"] = "0000000000000000000000000000000000000000".into();
    deleted["head_commit"] = Value::Null;
    let mut skipped = push("refs/heads/master");
    skipped["head_commit"]["message"] = "Mend a comment [skip ci]".into();
    let mut other = push("refs/heads/master");
    other["repository"]["full_name"] = "Codertocat/Other".into();
    let issue = json!({ "action": "opened", "issue": {}, "repository": push("x")["repository"] });
    for (event, payload) in [
        ("push", &deleted),
        ("push", &skipped),
        ("push", &other),
        ("push", &push("refs/notes/x")),
        ("create", &create("branch", "x")),
        ("pull_request", &pull_request("closed", "Codertocat/Hello-World")),
        ("pull_request", &pull_request("opened", "stranger/Hello-World")),
        ("issues", &issue),
    ] {
        let answered = receiver.deliver(event, payload);
        assert!(
            answered.status == 202 && answered.body["why"].is_string(),
            "{event}: {answered:?}"
        );
    }
    assert_eq!(mount.list("jobs/a/builds").len(), 5, "four builds and latest");
}

/// "The same body again, to this receiver or another, under whatever id and name of an event, is the
/// same build"; over the death of the tree as well.
#[test]
fn the_same_body_makes_one_build() {
    let mount = Mount::new();
    mount.job("a", &job(&json!({})));
    let receivers = [Receiver::start(&mount, &[]), Receiver::start(&mount, &[])];
    let payload = push("refs/heads/master");
    std::thread::scope(|scope| {
        for number in 0..12 {
            let (receivers, payload) = (&receivers, &payload);
            scope.spawn(move || {
                let answered = receivers[number % 2].deliver("push", payload);
                assert_eq!((answered.status, &answered.body["builds"]), (201, &json!(1)));
            });
        }
    });
    assert_eq!(mount.list("jobs/a/builds"), ["1", "latest"]);
    mount.kill9();
    mount.mount();
    receivers.iter().for_each(Receiver::wait_healthy);
    let body = payload.to_string();
    let signature = format!("X-Hub-Signature-256: {}", sign(SECRET, body.as_bytes()));
    for (receiver, event, path, want) in [
        (&receivers[0], "push", "/github", 201),
        (&receivers[1], "push", "/jobs/a/github-webhook", 201),
        (&receivers[0], "create", "/github", 400),
        (&receivers[1], "pull_request", "/github", 400),
        (&receivers[0], "ping", "/github", 400),
        (&receivers[1], "issues", "/github", 400),
        (&receivers[0], "Push", "/github", 400),
    ] {
        let event_header = format!("X-GitHub-Event: {event}");
        for id in ["", "X-GitHub-Delivery: another", "X-GitHub-Delivery: a b/c"] {
            for content_type in ["application/json", "application/x-www-form-urlencoded"] {
                let content_type = format!("Content-Type: {content_type}");
                let mut headers = vec![event_header.as_str(), &content_type, &signature];
                headers.extend(Some(id).filter(|id| !id.is_empty()));
                let answered = receiver.send(path, &headers, body.as_bytes());
                assert_eq!(answered.status, want, "{event} {id}: {answered:?}");
            }
        }
    }
    assert_eq!(mount.list("jobs/a/builds"), ["1", "latest"]);
    assert_eq!(receivers[1].deliver("push", &fresh(&payload)).status, 201);
    assert_eq!(mount.list("jobs/a/builds"), ["1", "2", "latest"], "another delivery");
}

/// DistCI's own: its address, a git-checkout task instead of an entry, a payload in a form.
#[test]
fn as_distci_did_it() {
    let mount = Mount::new();
    mount.job(
        "a",
        r#"{ "configuration-version": "2013-02-26", "tasks": { "1": { "type": "git-checkout", "params": {
            "repository": "https://github.com/codertocat/hello-world", "ref": "refs/heads/master", "checkout-dir": "x" } } } }"#,
    );
    let receiver = Receiver::start(&mount, &[]);
    let body = encode(&push("refs/heads/master").to_string());
    let signature = format!("X-Hub-Signature-256: {}", sign(SECRET, body.as_bytes()));
    let headers = [
        "X-GitHub-Event: push",
        "Content-Type: application/x-www-form-urlencoded",
        &signature,
    ];
    let answered = receiver.send("/jobs/a/github-webhook", &headers, body.as_bytes());
    assert_eq!((answered.status, &answered.body["builds"]), (201, &json!(1)));
    let answered = receiver.deliver_to(
        "/jobs/a/github-webhook",
        "push",
        &push("refs/heads/dev"),
        &fresh_id(),
        SECRET,
    );
    assert_eq!(answered.status, 202);
}

/// The text as a field of a form, the hard way: every byte with a percent sign.
fn encode(text: &str) -> String {
    let bytes: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
    format!("payload={bytes}")
}

/// "They reach scripts only as environment values and files, never as text that a shell reads."
#[test]
fn odd_refs_reach_scripts_as_they_are() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    let script = "printf '%s' \"$PARAM_ref\" > got; [ \"$PARAM_ref\" = \"$(cat got)\" ]; cat got\n";
    mount.job(
        "a",
        &job(&json!({ "parameters": { "ref": "" }, "tasks": [shell_task(script)] })),
    );
    let receiver = Receiver::start(&mount, &[]);
    let trap = mount.out().join("trap");
    let odd = [
        format!("refs/heads/$(touch {})", trap.display()),
        format!("refs/heads/`touch {}`;touch {};\"'&|", trap.display(), trap.display()),
        "refs/heads/../../../etc/passwd".to_owned(),
        "refs/heads/a\nsender=evil\n@key=x\ntouch y".to_owned(),
        "refs/heads/--upload-pack=touch -x *".to_owned(),
    ];
    for (build, name) in (1..).zip(&odd) {
        let answered = receiver.deliver("push", &push(name));
        assert_eq!((answered.status, &answered.body["builds"]), (201, &json!(1)), "{name}");
        assert_eq!(mount.wait_state("a", build), "success", "{}", mount.console("a", build));
        assert_eq!(&param(&mount, build, "ref"), name);
        assert!(
            mount.console("a", build).contains(name),
            "{}",
            mount.console("a", build)
        );
        assert_eq!(mount.list(&format!("jobs/a/builds/{build}/params")), ["ref"]);
    }
    assert!(!trap.exists());
}

/// "422: every job that it is for refused the trigger"; the log says which and why, and others are
/// triggered all the same.
#[test]
fn a_job_that_refuses_keeps_no_other_from_being_triggered() {
    let mount = Mount::new();
    mount.job("a", &job(&json!({ "parameters": { "token": null } })));
    let receiver = Receiver::start(&mount, &[]);
    let answered = receiver.deliver("push", &push("refs/heads/master"));
    assert_eq!(
        (answered.status, &answered.body),
        (422, &json!({ "builds": 0, "refused": 1 }))
    );
    assert!(receiver.log().contains("refused by a: "), "{}", receiver.log());
    mount.job("b", &job(&json!({})));
    receiver.wait_jobs(2);
    let answered = receiver.deliver("push", &push("refs/heads/master"));
    assert_eq!(
        (answered.status, &answered.body),
        (201, &json!({ "builds": 1, "refused": 1 }))
    );
    mount.run("rmdir jobs/a");
    receiver.wait_jobs(1);
    assert!(receiver.deliver("push", &push("refs/heads/master")).body["refused"].is_null());
    assert_eq!(mount.list("jobs/b/builds"), ["1", "latest"]);
}

/// nginx as doc/deploy.md configures it, with its own port, certificate and log.
fn nginx(folder: &Path, port: u16, receiver: u16) -> Sh {
    let page = fs::read_to_string(project().join("doc/deploy.md")).expect("the project's page");
    let begin = page.find("    limit_req_zone").expect("the page shows nginx");
    let lines = page[begin..]
        .lines()
        .take_while(|line| line.is_empty() || line.starts_with("    "));
    let block = lines.map(|line| format!("{line}\n")).collect::<String>();
    let certificates = "/etc/letsencrypt/live/ci.example.org";
    assert!(block.contains("listen 443 ssl;") && block.contains(certificates) && block.contains("127.0.0.1:8080;"));
    let block = block
        .replace("listen 443 ssl", &format!("listen 127.0.0.1:{port} ssl"))
        .replace(certificates, &folder.display().to_string())
        .replace("127.0.0.1:8080", &format!("127.0.0.1:{receiver}"));
    let here = folder.display();
    let kept: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {here}/{name};\n"))
        .concat();
    let text = format!(
        "daemon off;\nmaster_process off;\npid {here}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n{kept}{block}}}\n"
    );
    fs::write(folder.join("nginx.conf"), text).expect("own folder");
    let script = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ci.example.org -keyout privkey.pem -out fullchain.pem
        nginx -t -q -p . -c \"$PWD/nginx.conf\" && exec nginx -p . -c \"$PWD/nginx.conf\"";
    Sh::start(&["dash", "-c", script], folder, folder, &[])
}

/// Through nginx a delivery comes in, and its log names who sent it; nothing else is passed on.
#[test]
fn nginx_brings_deliveries() {
    if !installed("nginx") {
        return;
    }
    let mount = Mount::new();
    mount.job("a", &job(&json!({})));
    let receiver = Receiver::start(&mount, &["--proxy", "127.0.0.1"]);
    receiver.wait_jobs(1);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let port = port.expect("a port that is free now").port();
    let server = nginx(folder.path(), port, receiver.port());
    let address = format!("https://127.0.0.1:{port}");
    let status = |words: &[&str], path: &str| {
        let output = Command::new("curl")
            .args(["-sk", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}"])
            .args(words)
            .arg(format!("{address}{path}"))
            .output();
        String::from_utf8_lossy(&output.expect("curl runs; scripts/setup installs it").stdout).into_owned()
    };
    wait_for("nginx", USUAL, || {
        assert!(server.alive(), "nginx takes what the page says");
        status(&[], "/") == "404"
    });
    let body = push("refs/heads/main").to_string();
    let signature = format!("X-Hub-Signature-256: {}", sign(SECRET, body.as_bytes()));
    let delivery = format!("X-GitHub-Delivery: {}", fresh_id());
    let words = [
        "-H",
        "X-GitHub-Event: push",
        "-H",
        &delivery,
        "-H",
        &signature,
        "-d",
        &body,
    ];
    let words = [
        &words[..],
        &[
            "-H",
            "Content-Type: application/json",
            "-H",
            "X-Forwarded-For: 192.0.2.9",
        ],
    ]
    .concat();
    assert_eq!(status(&words, "/github"), "201");
    assert_eq!(status(&words, "/jobs/a/github-webhook"), "201", "the same again");
    let log = receiver.log();
    assert!(log.contains("127.0.0.1") && !log.contains("192.0.2.9"), "{log}");
    for (words, path, want) in [
        (&[][..], "/healthz", "404"),
        (&[], "/metrics", "404"),
        (&[], "/github", "403"),
    ] {
        assert_eq!(status(words, path), want, "{path}");
    }
    assert!(!mount.has("jobs/a/builds/2"));
}
