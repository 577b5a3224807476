//! What a delivery to the webhook receiver costs over the trigger itself, and how many it takes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use distcifs_tests::github::{Receiver, SECRET, fresh, fresh_id, job, push};
use distcifs_tests::{Mount, process};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::report::{Measure, median, milliseconds};

/// Each measure holds its mount for less.
const LIMIT: Duration = Duration::from_secs(120);

/// Deliveries measured one after another.
const RUNS: usize = 200;

/// Deliveries sent as fast as they are taken.
const MANY: usize = 10_000;

/// Clients at once, as a proxy has them.
const CLIENTS: usize = 16;

/// Deliveries before the first that counts.
const WARM_UP: usize = 20;

/// A connection that is kept, and a push.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
    payload: Value,
}

impl Client {
    pub(crate) fn new(receiver: &Receiver, payload: Value) -> Client {
        let stream = TcpStream::connect(("127.0.0.1", receiver.port())).expect("a receiver");
        stream.set_nodelay(true).expect("a socket");
        Client {
            stream: BufReader::new(stream),
            payload,
        }
    }

    /// Delivers; panics unless it is taken. The bytes are nobody else's: of those that came before no build is made.
    pub(crate) fn deliver(&mut self) {
        let body = fresh(&self.payload).to_string().into_bytes();
        let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("any length will do");
        mac.update(&body);
        let digest = mac.finalize().into_bytes();
        let signature: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let head = format!(
            "POST /github HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nX-GitHub-Event: push\r\n\
             X-GitHub-Delivery: {}\r\nX-Hub-Signature-256: sha256={signature}\r\nContent-Length: {}\r\n\r\n",
            fresh_id(),
            body.len()
        );
        let request = [head.as_bytes(), &body].concat();
        self.stream.get_mut().write_all(&request).expect("a request");
        let (mut status, mut length) = (String::new(), 0);
        self.stream.read_line(&mut status).expect("an answer");
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).expect("a head");
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer).expect("a body");
        assert!(status.contains(" 201 "), "{status}{}", String::from_utf8_lossy(&answer));
    }
}

/// A signed push of GitHub's size until its build is made, beside the trigger itself.
pub(crate) fn push_to_build() {
    let mount = Mount::with(&[], LIMIT);
    mount.job("a", &job(&json!({ "parameters": { "ref": "", "commit": "" } })));
    mount.job("b", r#"{"parameters": {"ref": "", "commit": ""}, "tasks": []}"#);
    let receiver = Receiver::start(&mount, &[]);
    let mut client = Client::new(&receiver, push("refs/heads/master"));
    let timed = |run: &mut dyn FnMut()| {
        let begun = Instant::now();
        run();
        milliseconds(begun.elapsed())
    };
    let mut deliver = || client.deliver();
    let mut trigger = || trigger(&mount);
    for _ in 0..WARM_UP {
        deliver();
        trigger();
    }
    // By turns, so that both meet the same machine.
    let both: Vec<(f64, f64)> = (0..RUNS).map(|_| (timed(&mut deliver), timed(&mut trigger))).collect();
    assert!(
        mount.has(&format!("jobs/a/builds/{}", WARM_UP + RUNS)),
        "each delivery makes a build"
    );
    let (delivered, triggered): (Vec<f64>, Vec<f64>) = both.into_iter().unzip();
    let (value, peer) = (median(&delivered), median(&triggered));
    Measure::new("webhook.push", value, "ms", "<= trigger + 10")
        .runs(&delivered)
        .peer("the trigger itself, with a key", peer)
        .note("over_the_trigger_ms", value - peer)
        .print();
}

/// Many deliveries at once: how many a second, and the receiver's memory after them.
pub(crate) fn many_deliveries() {
    let mount = Mount::with(&[], LIMIT);
    mount.job("a", &job(&json!({ "parameters": { "ref": "", "commit": "" } })));
    mount.job("b", r#"{"parameters": {"ref": "", "commit": ""}, "tasks": []}"#);
    let mut receiver = Receiver::start(&mount, &[]);
    let delivered = at_once(MANY, || {
        let mut client = Client::new(&receiver, push("refs/heads/master"));
        move || client.deliver()
    });
    assert!(
        mount.has(&format!("jobs/a/builds/{MANY}")),
        "each delivery makes a build"
    );
    let triggered = at_once(MANY / 4, || || trigger(&mount));
    let pid = receiver.worker().pid();
    Measure::new("webhook.load", delivered, "deliveries/s", ">= 500")
        .peer("triggers themselves, by as many threads", triggered)
        .note("deliveries", MANY)
        .note("clients", CLIENTS)
        .note("receiver_peak_rss_mib", process::peak_resident_mib(pid))
        .note("receiver_rss_target", "<= 64 MiB")
        .print();
}

/// The trigger that a delivery ends in.
fn trigger(mount: &Mount) {
    let text = format!("ref=refs/heads/master\ncommit=x\n@key={}", fresh_id());
    mount.trigger("b", &text);
}

/// Does something so many times, by some threads; how often a second.
fn at_once<Work: FnMut()>(count: usize, worker: impl Fn() -> Work + Sync) -> f64 {
    let (begun, next) = (Instant::now(), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut work = worker();
                while next.fetch_add(1, Ordering::Relaxed) < count {
                    work();
                }
            });
        }
    });
    count as f64 / begun.elapsed().as_secs_f64()
}
