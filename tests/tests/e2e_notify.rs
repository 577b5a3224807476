//! Notifications: told by mail and by webhook, whoever fails and whoever is killed (doc/notify.md).

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;

use distcifs_tests::programs::{installed, project};
use distcifs_tests::shell::Sh;
use distcifs_tests::wait::{USUAL, wait_some};
use distcifs_tests::{Mount, Worker, wait_for};
use serde_json::{Value, json};

/// A server of HTTP that answers as it is told, and remembers what it was sent.
struct Server {
    address: String,
    status: Arc<Mutex<&'static str>>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn new(status: &'static str) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let server = Server {
            address: listener.local_addr().expect("bound").to_string(),
            status: Arc::new(Mutex::new(status)),
            requests: Arc::default(),
        };
        let (status, requests) = (server.status.clone(), server.requests.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                answer(stream, &status, &requests);
            }
        });
        server
    }

    fn answer(&self, status: &'static str) {
        *self.status.lock().expect("no panic") = status;
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("no panic").clone()
    }
}

/// Takes one request, whole, and answers it.
fn answer(mut stream: TcpStream, status: &Mutex<&'static str>, requests: &Mutex<Vec<String>>) {
    let _ = stream.set_read_timeout(Some(USUAL));
    let (mut text, mut some) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&text).trim_end().ends_with('}') {
        match stream.read(&mut some) {
            Ok(count @ 1..) => text.extend(&some[..count]),
            _ => return,
        }
    }
    requests
        .lock()
        .expect("no panic")
        .push(String::from_utf8_lossy(&text).into_owned());
    let status = *status.lock().expect("no panic");
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
}

/// A job that tells so, and one build of it that fails.
fn failed(mount: &Mount, notify: &Value) {
    mount.job("a", &json!({ "tasks": [], "notify": notify }).to_string());
    mount.trigger("a", "@ref=refs/heads/main");
    mount.finish("build-control", "a.1.control", "failure\nit broke");
    mount.wait_state("a", 1);
    let entries = notify.as_array().expect("a list").iter();
    let concerned = entries.filter(|entry| entry["on"] != json!(["success"])).count();
    // They are made when the build is recorded, right after its end is seen.
    wait_for("the notifications", USUAL, || {
        mount.list("tickets/notify").len() == concerned
    });
}

/// Waits until nothing is left to tell.
fn all_told(mount: &Mount) {
    wait_for("the end of all notifications", USUAL, || {
        mount.list("tickets/notify").is_empty()
    });
}

/// The value of a header of a request or a message.
fn header(text: &str, name: &str) -> String {
    let of = |line: &str| {
        let (known, value) = line.split_once(':')?;
        known.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    };
    text.lines()
        .take_while(|line| !line.is_empty())
        .find_map(of)
        .unwrap_or_default()
}

/// Each of these requests of the first build says the same, under the same id.
fn assert_signed_and_the_same(requests: &[String]) {
    let ids: Vec<String> = requests
        .iter()
        .map(|request| header(request, "x-distcifs-delivery"))
        .collect();
    assert!(
        ids[0].starts_with("a.1.0-") && ids.iter().all(|id| *id == ids[0]),
        "{ids:?}"
    );
    assert!(header(&requests[0], "x-hub-signature-256").starts_with("sha256="));
    let body = requests[0].split_once("\r\n\r\n").expect("a body").1;
    let body: Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(
        (&body["text"], &body["ref"]),
        (&json!("a/1: failure (changed): it broke"), &json!("refs/heads/main"))
    );
}

/// "It is tried for a day, while it goes on with others", under the same id whoever tells it: a server that answers 500, a
/// worker that is killed, and one that hangs for ever beside them.
#[test]
fn a_webhook_is_told_though_its_server_fails_and_its_worker_is_killed() {
    let mount = Mount::new();
    let (failing, good) = (Server::new("500 Error"), Server::new("204 No Content"));
    let hanging = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let url = |address: &str| format!("http://{address}/in");
    let hung = hanging.local_addr().expect("bound").to_string();
    fs::write(
        mount.out().join("hooks"),
        format!("chat * {} key\n", url(&failing.address)),
    )
    .expect("own folder");
    fs::write(mount.out().join("key"), "s3cret\n").expect("own folder");
    let hooks = mount.out().join("hooks").display().to_string();
    failed(
        &mount,
        &json!([
            {"on": ["failure"], "type": "webhook", "url": "chat"},
            {"on": ["*"], "type": "webhook", "url": url(&hung)},
            {"on": ["*"], "type": "webhook", "url": url(&good.address)},
            {"on": ["success"], "type": "webhook", "url": url(&good.address)},
            {"on": ["*"], "type": "irc"},
        ]),
    );
    let start = || Worker::start(&mount, "notify-webhook", &["--private", "--hooks", &hooks]);
    let mut first = start();
    wait_for("a try, and the one that works", USUAL, || {
        !failing.requests().is_empty() && mount.list("tickets/notify").len() == 3
    });
    first.kill9();
    drop(first);
    let before = failing.requests().len();
    let second = start();
    wait_for("another try", USUAL, || failing.requests().len() > before);
    failing.answer("200 OK");
    wait_for("the end of the one that failed", USUAL, || {
        mount.list("tickets/notify").len() == 2
    });
    assert_signed_and_the_same(&failing.requests());
    assert_eq!(
        good.requests().len(),
        1,
        "the third was told once, and the fourth not at all"
    );
    assert!(
        second.alive() && !second.complaints().contains("/in"),
        "no URL in the log: {}",
        second.complaints()
    );
    drop(second);
    // What another kind of worker is to tell nobody else has taken.
    let mut left: Vec<String> = mount
        .list("tickets/notify")
        .iter()
        .map(|id| mount.read(&format!("tickets/notify/{id}/labels")))
        .collect();
    left.sort();
    assert_eq!(left, ["irc", "webhook"]);
}

/// "Then it is given up, with a line in the log": what is tried for too long, redirects, private addresses, and names that
/// nobody gave.
#[test]
fn what_can_not_be_told_is_given_up() {
    let mount = Mount::new();
    let (fails, leads) = (Server::new("500 Error"), Server::new("302 Found\r\nLocation: /in"));
    failed(
        &mount,
        &json!([
            {"on": ["*"], "type": "webhook", "url": format!("http://{}/secret", fails.address)},
            {"on": ["*"], "type": "webhook", "url": format!("http://{}/secret", leads.address)},
            {"on": ["*"], "type": "webhook", "url": "nobody"},
        ]),
    );
    let worker = Worker::start(&mount, "notify-webhook", &["--private", "--try-for", "1"]);
    all_told(&mount);
    let said = worker.complaints();
    for words in ["500", "redirects are not followed", "no webhook is called nobody"] {
        assert!(
            said.lines()
                .any(|line| line.contains("given up") && line.contains(words)),
            "{words}: {said}"
        );
    }
    assert!(!said.contains("secret"), "{said}");
    assert_eq!(leads.requests().len(), 1);
    drop(worker);
    // The same server, to a worker that is to tell nobody of this machine.
    let before = fails.requests().len();
    mount.trigger("a", "");
    mount.finish("build-control", "a.2.control", "failure");
    let worker = Worker::start(&mount, "notify-webhook", &[]);
    mount.wait_state("a", 2);
    wait_for("the end", USUAL, || {
        worker.complaints().matches("--private is not given").count() == 2
    });
    all_told(&mount);
    assert_eq!(fails.requests().len(), before);
}

/// A server of SMTP (Debian's aiosmtpd) that refuses the first recipient for now, as grey lists do; what it takes is kept
/// in a folder.
struct Smtp {
    server: Sh,
    folder: PathBuf,
    port: u16,
}

impl Smtp {
    fn new(mount: &Mount) -> Smtp {
        let folder = mount.out().join("mail");
        fs::create_dir_all(&folder).expect("own folder");
        let script = project().join("tests/programs/smtp.py");
        let words = [
            "/usr/bin/python3",
            script.to_str().expect("text"),
            folder.to_str().expect("text"),
        ];
        let server = mount.start_words(&words);
        let port = wait_some("its port", USUAL, || {
            fs::read_to_string(folder.join("port")).ok()?.trim().parse().ok()
        });
        Smtp { server, folder, port }
    }

    /// What it took, and what it refused.
    fn messages(&self) -> Vec<String> {
        let mut paths: Vec<PathBuf> = fs::read_dir(&self.folder)
            .expect("own folder")
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|end| end == "eml"))
            .collect();
        paths.sort();
        paths
            .iter()
            .map(|path| fs::read_to_string(path).expect("own file"))
            .collect()
    }
}

/// A sendmail (Debian's msmtp) that sends to this port.
fn sendmail(mount: &Mount, port: u16) -> String {
    let (settings, program) = (mount.out().join("msmtprc"), mount.out().join("sendmail"));
    let text = format!("defaults\nauth off\ntls off\naccount default\nhost 127.0.0.1\nport {port}\n");
    fs::write(&settings, text).expect("own folder");
    fs::write(
        &program,
        format!("#!/bin/sh\nexec msmtp -C {} \"$@\"\n", settings.display()),
    )
    .expect("own folder");
    mount.run("chmod 600 $OUT/msmtprc; chmod 755 $OUT/sendmail");
    program.display().to_string()
}

/// "By mail, by sendmail": to a real server of SMTP that is not there at first, and does not take it at once. What a build
/// says makes no header.
#[test]
fn mail_comes_by_a_real_server_once_it_takes_it() {
    if !installed("msmtp") || !works("/usr/bin/python3 -c 'import aiosmtpd'") {
        return;
    }
    let mount = Mount::new();
    // Nobody listens there.
    let nobody = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("loopback")
        .port();
    let program = sendmail(&mount, nobody);
    failed(
        &mount,
        &json!([
            {"on": ["failure"], "type": "mail", "to": ["team@example.org", "x+ci@example.org"]},
        ]),
    );
    let worker = Worker::start(
        &mount,
        "notify-mail",
        &[
            "--from",
            "ci@example.org",
            "--sendmail",
            &program,
            "--target-url",
            "https://ci.example.org/{job}/{build}",
        ],
    );
    wait_for("a try", USUAL, || worker.complaints().contains("again in"));
    let smtp = Smtp::new(&mount);
    sendmail(&mount, smtp.port);
    all_told(&mount);
    let messages = smtp.messages();
    assert_eq!(messages.len(), 1, "{messages:?} {}", worker.complaints());
    assert!(
        smtp.folder.join("refused").exists(),
        "the first recipient was refused for now"
    );
    let message = &messages[0];
    assert_eq!(header(message, "subject"), "[example.org] a/1: failure (changed)");
    assert_eq!(header(message, "x-recipients"), "team@example.org x+ci@example.org");
    assert_eq!(header(message, "x-sender"), "ci@example.org");
    assert!(header(message, "message-id").starts_with("<a.1.0-") && !header(message, "date").is_empty());
    assert!(
        message.contains("\nwhy: it broke\n") && message.contains("\nhttps://ci.example.org/a/1\n"),
        "{message}"
    );
    // One that a build would write headers with.
    mount.trigger("a", "@cause=x");
    mount.finish("build-control", "a.2.control", "error\nBcc: evil@example.org\n\nEvil");
    mount.configure(
        "a",
        &json!({"tasks": [], "notify": [{"on": ["error"], "type": "mail", "to": "team@example.org"}]}).to_string(),
    );
    mount.trigger("a", "");
    mount.finish(
        "build-control",
        "a.3.control",
        "error\nBcc: evil@example.org\r\n\r\nEvil",
    );
    mount.wait_state("a", 3);
    wait_for("another message", USUAL, || smtp.messages().len() == 2);
    let message = smtp.messages().remove(1);
    assert_eq!(header(&message, "bcc"), "");
    assert_eq!(header(&message, "x-recipients"), "team@example.org");
    all_told(&mount);
    drop(smtp.server);
}

/// Whether a command works here; says so if not.
fn works(command: &str) -> bool {
    let done = std::process::Command::new("sh")
        .args(["-c", command])
        .stderr(std::process::Stdio::null())
        .status();
    let works = done.is_ok_and(|status| status.success());
    if !works {
        distcifs_tests::programs::skipped(&format!(
            "{command} fails here; scripts/setup installs python3-aiosmtpd"
        ));
    }
    works
}
