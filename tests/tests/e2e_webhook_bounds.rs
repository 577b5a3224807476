//! The webhook receiver under bad input: bounded in time, memory and connections, and back when the
//! tree is.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use distcifs_tests::github::{Answered, Receiver, SECRET, fresh, fresh_id, job, push, sign};
use distcifs_tests::wait::USUAL;
use distcifs_tests::{Mount, process, wait_for};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// What the receiver may take, MiB.
const MEMORY_MIB: f64 = 64.0;

/// GitHub's own limit of a payload.
const BODY_MAX: usize = 25 << 20;

fn mount_with_job() -> Mount {
    let mount = Mount::new();
    mount.job("a", &job(&json!({})));
    mount
}

/// Sends a body with a right signature.
fn signed(receiver: &Receiver, content_type: &str, body: &[u8]) -> Answered {
    let (signature, id) = (sign(SECRET, body), fresh_id());
    let headers = [
        format!("X-Hub-Signature-256: {signature}"),
        format!("X-GitHub-Delivery: {id}"),
        format!("Content-Type: {content_type}"),
        "X-GitHub-Event: push".to_owned(),
    ];
    receiver.send("/github", &headers.each_ref().map(String::as_str), body)
}

fn resident(receiver: &mut Receiver) -> f64 {
    process::resident_mib(receiver.worker().pid())
}

/// "401 for a bad signature", whatever else is wrong: what is wrong is only told to who signed it.
#[test]
fn without_a_right_signature_there_is_nothing_to_learn() {
    let mount = mount_with_job();
    let receiver = Receiver::start(&mount, &[]);
    let body = push("refs/heads/master").to_string().into_bytes();
    let good = sign(SECRET, &body);
    let event = "X-GitHub-Event: push";
    for headers in [
        &[event][..],
        &[event, "X-Hub-Signature-256: "],
        &[event, "X-Hub-Signature-256: sha256=00"],
        &[event, &format!("X-Hub-Signature-256: {}", sign("other", &body))],
        &[
            event,
            &format!("X-Hub-Signature-256: {}", good.replace("sha256=", "sha1=")),
        ],
        &[event, &format!("X-Hub-Signature: {good}")],
    ] {
        let answered = receiver.send("/github", headers, &body);
        assert_eq!(answered.status, 401, "{headers:?}: {answered:?}");
    }
    let signature = format!("X-Hub-Signature-256: {good}");
    for body in [&b"not json"[..], b"", b"{}", &body[..body.len() - 1], b"[[[[[[[["] {
        let answered = receiver.send("/github", &[event, &signature], body);
        assert_eq!(answered.status, 401, "{answered:?}");
    }
    // Not a single build, and the whole of it works.
    assert_eq!(receiver.send("/github", &[event, &signature], &body).status, 201);
    assert_eq!(mount.list("jobs/a/builds"), ["1", "latest"]);
}

/// Bodies that are no payload are 400, of another type 415, without an event 400.
#[test]
fn bodies_that_are_no_payload() {
    let mount = mount_with_job();
    let receiver = Receiver::start(&mount, &[]);
    let deep = format!("{{\"ref\": {}{}}}", "[".repeat(1 << 20), "]".repeat(1 << 20));
    let long = format!("{{\"ref\": \"{}\"}}", "x".repeat(2 << 20));
    for (content_type, body, status) in [
        ("application/json", "not json", 400),
        ("application/json", "", 400),
        ("application/json", "{}", 400),
        ("application/json", "[]", 400),
        ("application/json", "{\"ref\": 7, \"after\": \"x\"}", 400),
        ("application/json", "{\"ref\": \"\u{0}\"}", 400),
        ("application/json", &deep, 400),
        ("application/json", &long, 400),
        ("application/x-www-form-urlencoded", "x={}", 400),
        ("application/x-www-form-urlencoded", "payload=%7", 400),
        ("text/plain", "{}", 415),
    ] {
        let answered = signed(&receiver, content_type, body.as_bytes());
        let shown = &body[..body.len().min(40)];
        assert!(
            answered.status == status && answered.body["error"].is_string(),
            "{shown}: {answered:?}"
        );
    }
    let body = push("refs/heads/master").to_string();
    let signature = format!("X-Hub-Signature-256: {}", sign(SECRET, body.as_bytes()));
    let json = "Content-Type: application/json";
    assert_eq!(
        receiver.send("/github", &[json, &signature], body.as_bytes()).status,
        400
    );
    assert_eq!(receiver.get("/github").0, 405);
    assert_eq!(receiver.get("/elsewhere").0, 404);
    assert_eq!(mount.list("jobs/a/builds"), Vec::<String>::new());
}

/// How long a body of 25 MB may be sent again and again.
const BODY_TAKEN_MAX: Duration = Duration::from_secs(90);

/// "413 over 25 MB", by a length that is told and by one that is not; 25 MB are taken; several at
/// once stay within the memory.
#[test]
fn large_bodies() {
    let mount = mount_with_job();
    let mut receiver = Receiver::start(&mount, &[]);
    let mut payload = push("refs/heads/master");
    payload["commits"] = (0..30).map(|_| json!({ "message": "x".repeat(1 << 20) })).collect();
    let body = payload.to_string().into_bytes();
    assert!(body.len() > 30 << 20);
    assert_eq!(signed(&receiver, "application/json", &body).status, 413);
    let chunked = [
        "X-GitHub-Event: push",
        "Transfer-Encoding: chunked",
        "Content-Type: application/json",
    ];
    assert_eq!(receiver.send("/github", &chunked, &body).status, 413);
    payload["commits"] = (0..24).map(|_| json!({ "message": "x".repeat(1 << 20) })).collect();
    let mut body = payload.to_string().into_bytes();
    body.resize(BODY_MAX, b' ');
    // 503 is "again, later", from a machine that has much else to do.
    let mut status = 503;
    wait_for("the body to be taken", BODY_TAKEN_MAX, || {
        status = signed(&receiver, "application/json", &body).status;
        status != 503
    });
    assert_eq!(status, 201);
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| signed(&receiver, "application/json", &body).status))
            .collect();
        all.into_iter().map(|one| one.join().expect("a status")).collect()
    });
    assert!(
        statuses.iter().all(|status| [201, 503].contains(status)),
        "{statuses:?}"
    );
    let memory = resident(&mut receiver);
    assert!(memory < MEMORY_MIB, "{memory} MiB");
    assert_eq!(receiver.deliver("push", &push("refs/heads/master")).status, 201);
    // What was answered 503 for want of time is still worked on for a moment.
    wait_for("the memory's return", USUAL, || {
        receiver.get("/metrics").1.contains("github_webhook_body_bytes 0\n")
    });
}

/// "A slow client that sends a byte a second": it is let go, and holds up nobody.
#[test]
fn slow_clients_are_let_go() {
    let mount = mount_with_job();
    let receiver = Receiver::start(&mount, &[]);
    let head = "POST /github HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n";
    let slow: Vec<TcpStream> = ["", head].iter().map(|begin| begin_slowly(&receiver, begin)).collect();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for mut stream in slow {
            scope.spawn(move || {
                stream.set_read_timeout(Some(Duration::from_secs(1))).expect("a socket");
                let mut answer = [0; 512];
                loop {
                    let written = stream.write_all(b"x");
                    match stream.read(&mut answer) {
                        Ok(count) if count == 0 || answer.starts_with(b"HTTP/1.1 408") => return,
                        Ok(_) => panic!("{}", String::from_utf8_lossy(&answer)),
                        Err(_) if written.is_err() => return,
                        Err(_) => assert!(begun.elapsed() < Duration::from_secs(20), "it is still served"),
                    }
                }
            });
        }
        assert_eq!(receiver.deliver("push", &push("refs/heads/master")).status, 201);
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "others wait for the slow ones"
        );
    });
}

fn begin_slowly(receiver: &Receiver, begin: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", receiver.port())).expect("a connection");
    stream.write_all(begin.as_bytes()).expect("a beginning");
    stream
}

/// "10,000 connections": all are taken, most are pushed out, memory stays bounded, and who comes
/// with a request is served at once.
#[test]
fn ten_thousand_connections() {
    let mount = mount_with_job();
    let mut receiver = Receiver::start(&mount, &[]);
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("up to the hard limit");
    let count = usize::try_from(most)
        .unwrap_or(usize::MAX)
        .saturating_sub(200)
        .min(10_000);
    let held: Vec<TcpStream> = (0..count)
        .map(|n| begin_slowly(&receiver, &"POST /github"[..n % 13]))
        .collect();
    let begun = Instant::now();
    assert_eq!(receiver.deliver("push", &push("refs/heads/master")).status, 201);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    let page = receiver.get("/metrics").1;
    let value = |name: &str| -> f64 {
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_default();
        line.trim().parse().unwrap_or_default()
    };
    assert!(value("github_webhook_connections ") <= 512.0, "{page}");
    assert!(
        value("github_webhook_connections_pushed_out_total ") >= count as f64 - 600.0,
        "{page}"
    );
    let memory = resident(&mut receiver);
    assert!(memory < MEMORY_MIB, "{memory} MiB");
    drop(held);
    assert_eq!(receiver.deliver("push", &push("refs/heads/master")).status, 201);
}

/// "503 with Retry-After while the tree is away": killed, and stopped; afterwards it goes on by
/// itself, and what is delivered again is made once.
#[test]
fn while_the_tree_is_away() {
    let mount = mount_with_job();
    let receiver = Receiver::start(&mount, &[]);
    let payload = push("refs/heads/master");
    let deliver = || receiver.deliver("push", &payload);
    assert_eq!(deliver().status, 201);
    mount.kill9();
    let answered = deliver();
    assert!(
        answered.status == 503 && answered.head.to_lowercase().contains("retry-after: 10"),
        "{answered:?}"
    );
    wait_for("unhealthy", USUAL, || receiver.get("/healthz").0 == 503);
    mount.mount();
    receiver.wait_healthy();
    assert_eq!(deliver().body["builds"], 1);
    assert_eq!(mount.list("jobs/a/builds"), ["1", "latest"]);
    process::signal(mount.daemon(), Signal::SIGSTOP);
    let begun = Instant::now();
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..40)
            .map(|_| scope.spawn(|| receiver.deliver("push", &payload).status))
            .collect();
        all.into_iter().map(|one| one.join().expect("a status")).collect()
    });
    let took = begun.elapsed();
    process::signal(mount.daemon(), Signal::SIGCONT);
    assert_eq!(statuses, [503; 40]);
    assert!(took < Duration::from_secs(15), "{took:?}");
    receiver.wait_healthy();
    wait_for("places", USUAL, || receiver.deliver("push", &payload).status == 201);
}

/// Killed at any moment, nothing that was answered is lost, and a delivery that was not answered
/// makes one build when it comes again. An honest end lets requests finish.
#[test]
fn killed_while_it_works() {
    let mount = mount_with_job();
    let payloads: Vec<Value> = (0..24).map(|_| fresh(&push("refs/heads/master"))).collect();
    let mut answered = 0;
    for (round, pause) in [3_u64, 10, 25, 60].into_iter().enumerate() {
        let mut receiver = Receiver::start(&mount, &[]);
        let pid = receiver.worker().pid();
        answered += std::thread::scope(|scope| {
            let mine = &payloads[round * 6..round * 6 + 6];
            let all: Vec<_> = mine
                .iter()
                .map(|payload| scope.spawn(|| receiver.deliver("push", payload).status == 201))
                .collect();
            std::thread::sleep(Duration::from_millis(pause));
            process::signal(pid, Signal::SIGKILL);
            all.into_iter()
                .filter(|_| true)
                .map(|one| one.join().expect("an answer"))
                .filter(|ok| *ok)
                .count()
        });
        receiver.worker().kill9();
    }
    let mut last = Receiver::start(&mount, &[]);
    for payload in &payloads {
        assert_eq!(last.deliver("push", payload).status, 201);
    }
    let builds = mount
        .list("jobs/a/builds")
        .iter()
        .filter(|name| name.parse::<u64>().is_ok())
        .count();
    assert_eq!(builds, payloads.len(), "{answered} were answered before");
    process::signal(last.worker().pid(), Signal::SIGTERM);
    wait_for("its end", USUAL, || !last.worker().alive());
}
