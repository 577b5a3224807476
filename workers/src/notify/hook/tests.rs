//! Servers that fail in every way that doc/notify.md has, and some that do not.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Instant;

use serde_json::json;

use super::super::news;
use super::*;
use crate::webhook::signature::Signature;

/// How long anything may take here.
const SOON: Duration = Duration::from_secs(20);

/// A server that does this with each connection; its address, and the requests that it got.
fn server_of(act: impl Fn(TcpStream) + Send + 'static) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (tell, requests) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            stream.set_read_timeout(Some(SOON)).unwrap();
            if tell.send(request(&mut stream)).is_err() {
                return;
            }
            act(stream);
        }
    });
    (address, requests)
}

/// Reads head and body of a request.
fn request(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut some = [0; 4096];
    loop {
        let seen = String::from_utf8_lossy(&text).into_owned();
        if let Some((head, body)) = seen.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return seen;
            }
        }
        match stream.read(&mut some) {
            Ok(count @ 1..) => text.extend(&some[..count]),
            _ => return seen,
        }
    }
}

/// One that answers this.
fn answering(answer: &'static str) -> (String, Receiver<String>) {
    server_of(move |mut stream| {
        let _ = stream.write_all(answer.as_bytes());
    })
}

fn failed(url: &str) -> News {
    news(json!({
        "job": "hello", "build": 7, "state": "failure", "events": ["failure", "changed"], "why": "a <b> & c",
        "url": url, "triggered": 5000, "ref": "refs/heads/main",
    }))
}

fn webhooks(private: bool) -> Webhooks {
    Webhooks::new(None, private, true, Some("https://ci.example.org/{job}/{build}".into()))
}

/// "JSON, signed as GitHub signs", with what is the same whenever it is sent again.
#[test]
fn what_is_sent_is_signed() {
    let (address, requests) = answering("HTTP/1.1 204 No Content\r\n\r\n");
    let dir = std::env::temp_dir().join(format!("distcifs-signed-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(
        dir.join("hooks"),
        format!("chat 1000 http://{address}/in?token=s3 key\n"),
    )
    .unwrap();
    std::fs::write(dir.join("key"), "s3cret\n").unwrap();
    let hooks = Webhooks::new(
        Some(dir.join("hooks")),
        true,
        false,
        Some("https://ci.example.org/{job}/{build}".into()),
    );
    assert_eq!(hooks.tell(&failed("chat")), Outcome::Told);
    let request = requests.recv_timeout(SOON).unwrap();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let header = |name: &str| {
        let of = |line: &str| {
            Some(line.split_once(": ")?)
                .filter(|(known, _)| known.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.to_owned())
        };
        head.lines().find_map(of).unwrap_or_default()
    };
    assert!(head.starts_with("POST /in?token=s3 HTTP/1.1\r\n"), "{head}");
    let signature = Signature::parse(header("x-hub-signature-256").as_bytes()).unwrap();
    assert!(signature.is_by(b"s3cret", body.as_bytes()));
    assert_eq!(header("x-distcifs-delivery"), "hello.7.0-0123456789abcdef");
    assert_eq!(
        (header("x-distcifs-event").as_str(), header("content-type").as_str()),
        ("failure", "application/json")
    );
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["text"], "hello/7: failure (changed): a &lt;b&gt; &amp; c");
    assert_eq!(
        (&body["build"], &body["target_url"]),
        (&json!(7), &json!("https://ci.example.org/hello/7"))
    );
    assert!(body.get("url").is_none());
    // Of others, and URLs, none is told here.
    assert!(matches!(
        hooks.tell(&failed(&format!("http://{address}/"))),
        Outcome::Never(_)
    ));
    assert!(matches!(hooks.tell(&failed("other")), Outcome::Never(_)));
    assert!(requests.try_recv().is_err());
    std::fs::remove_dir_all(&dir).unwrap();
}

/// "No redirects": wherever they lead, and none is asked for.
#[test]
fn no_redirect_is_followed() {
    let (inner, asked) = answering("HTTP/1.1 204 No Content\r\n\r\n");
    for status in ["301 Moved", "302 Found", "303 See", "307 Temporary", "308 Permanent"] {
        let (address, _requests) = server_of(move |mut stream| {
            let _ = write!(stream, "HTTP/1.1 {status}\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n");
        });
        let outcome = webhooks(true).tell(&failed(&format!("http://{address}/")));
        assert!(
            matches!(&outcome, Outcome::Never(why) if why.contains("redirects are not followed")),
            "{outcome:?}"
        );
    }
    let away = format!("HTTP/1.1 302 Found\r\nLocation: http://{inner}/\r\nContent-Length: 0\r\n\r\n");
    let (address, _requests) = server_of(move |mut stream| {
        let _ = stream.write_all(away.as_bytes());
    });
    assert!(matches!(
        webhooks(true).tell(&failed(&format!("http://{address}/"))),
        Outcome::Never(_)
    ));
    assert!(asked.try_recv().is_err());
}

/// "What a later try may change is tried again": not what the server has understood and does not want.
#[test]
fn answers_mean_now_later_or_never() {
    for (answer, expected) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", None),
        (
            "HTTP/1.1 500 Error\r\nContent-Length: 4\r\n\r\na\x1bb\n",
            Some(Some(None)),
        ),
        (
            "HTTP/1.1 503 Away\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n",
            Some(Some(Some(7))),
        ),
        (
            "HTTP/1.1 429 Slow\r\nRetry-After: soon\r\nContent-Length: 0\r\n\r\n",
            Some(Some(None)),
        ),
        ("HTTP/1.1 404 None\r\nContent-Length: 0\r\n\r\n", Some(Some(None))),
        ("HTTP/1.1 401 Who\r\nContent-Length: 0\r\n\r\n", Some(Some(None))),
        ("HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n", Some(None)),
        ("HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n", Some(None)),
        ("no HTTP at all\r\n\r\n", Some(Some(None))),
        ("", Some(Some(None))),
        ("HTTP/1.1 200 OK\r\nContent-Length: 99", Some(Some(None))),
    ] {
        let (address, _requests) = answering(answer);
        match (
            webhooks(true).tell(&failed(&format!("http://{address}/secret"))),
            expected,
        ) {
            (Outcome::Told, None) | (Outcome::Never(_), Some(None)) => {}
            (Outcome::Later(why, after), Some(Some(seconds))) => {
                assert_eq!(after, seconds.map(Duration::from_secs), "{answer}");
                assert!(!why.contains("secret") && !why.contains('\x1b'), "{why}");
            }
            (other, _) => panic!("{answer:?}: {other:?}"),
        }
    }
}

/// "A server that hangs is let go": before its answer, within it, and when it sends a byte now and then for ever.
#[test]
fn who_hangs_is_let_go() {
    let hangs: [fn(TcpStream); 2] = [
        |stream| {
            thread::sleep(SOON);
            drop(stream);
        },
        |mut stream| {
            let _ = stream.write_all(b"HTTP/1.1 500 Error\r\n");
            while stream.write_all(b"x: y\r\n").is_ok() {
                thread::sleep(Duration::from_millis(50));
            }
        },
    ];
    for hang in hangs {
        let (address, _requests) = server_of(hang);
        let begun = Instant::now();
        let outcome = webhooks(true).tell(&failed(&format!("http://{address}/")));
        assert!(matches!(outcome, Outcome::Later(..)), "{outcome:?}");
        assert!(begun.elapsed() < SOON);
    }
    // A body without an end: what is read of it is bounded.
    let (address, _requests) = server_of(|mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 500 Error\r\nConnection: close\r\n\r\n");
        while stream.write_all(&[b'a'; 65536]).is_ok() {}
    });
    let outcome = webhooks(true).tell(&failed(&format!("http://{address}/")));
    assert!(
        matches!(&outcome, Outcome::Later(why, _) if why.len() < 1000),
        "{outcome:?}"
    );
}

/// "No private addresses without `--private`", by number, by name, or by another notation; nobody is connected to.
#[test]
fn private_addresses_are_not_told() {
    let (address, requests) = answering("HTTP/1.1 204 No Content\r\n\r\n");
    let port = address.rsplit_once(':').unwrap().1;
    for host in [
        "127.0.0.1",
        "localhost",
        "127.1",
        "2130706433",
        "0x7f000001",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
    ] {
        let outcome = webhooks(false).tell(&failed(&format!("http://{host}:{port}/")));
        match &outcome {
            Outcome::Never(why) => assert!(why.contains("--private") || why.contains("bad URL"), "{host}: {why}"),
            Outcome::Later(why, _) => assert!(!why.contains("refused"), "{host}: {why}"),
            Outcome::Told => panic!("{host}"),
        }
    }
    assert!(requests.try_recv().is_err(), "nobody was asked");
    assert_eq!(
        webhooks(true).tell(&failed(&format!("http://{address}/"))),
        Outcome::Told
    );
}

/// Nobody listens, or there is no such server: later, without a word of the URL's path.
#[test]
fn who_is_not_there_may_come() {
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    for url in [
        format!("http://127.0.0.1:{port}/secret"),
        format!("https://127.0.0.1:{port}/secret"),
        "http://nobody.invalid/secret".into(),
    ] {
        match webhooks(true).tell(&failed(&url)) {
            Outcome::Later(why, None) => assert!(!why.contains("secret"), "{why}"),
            other => panic!("{url}: {other:?}"),
        }
    }
    let hooks = webhooks(true);
    assert_eq!(
        hooks.whom(&failed("https://h.example.org:8443/a/b?c")),
        "https://h.example.org:8443"
    );
    assert_eq!(hooks.whom(&failed("none")), "nobody");
}
