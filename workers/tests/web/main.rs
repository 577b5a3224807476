//! web over a plain folder that is laid out like the tree, by its program and over HTTP: what it shows, and what
//! becomes of hostile names, addresses, files and clients.

#![cfg(feature = "web")]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at the first thing that is not as it should be"
)]

mod bounds;
mod pages;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take here.
const BOUND: Duration = Duration::from_secs(60);

/// A folder like the tree, and web on it.
struct Web {
    folder: PathBuf,
    process: Child,
    port: u16,
}

/// What came back.
struct Got {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Got {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn header(&self, name: &str) -> Option<String> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    }
}

fn write(path: &Path, text: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A job with one build, open to all.
fn tree(folder: &Path) {
    let build = folder.join("jobs/hello/builds/1");
    write(&folder.join("jobs/hello/enabled"), "on\n");
    write(&folder.join("jobs/hello/config.json"), "{}\n");
    write(&build.join("state"), "failure\n");
    write(&build.join("why"), "task 0-unit: exit 1\n");
    write(
        &build.join("build.json"),
        r#"{"job":"hello","build":1,"state":"failure","why":"task 0-unit: exit 1","triggered":1796063184965,
            "finished":1796063191986,"params":{"branch":"<b>main</b>"},"cause":null,
            "tasks":[{"index":0,"type":"execute-shell","name":"unit","state":"failure","exit":1,"attempt":2,
            "started":1796063185965,"finished":1796063190000,"needs":[]}]}"#,
    );
    write(
        &build.join("console"),
        "one\n\x1b[31mtwo <script>\x1b[0m\nthree needle\n",
    );
    write(&build.join("tasks/0-unit/console"), "of the task\n");
    write(&build.join("tasks/0-unit/state"), "failure\n");
    write(&build.join("tasks/0-unit/why"), "exit 1\nthe last line\n");
    write(&build.join("artifacts/a.txt"), "0123456789");
    write(&build.join("artifacts/page.html"), "<script>alert(1)</script>");
    fs::create_dir_all(build.join("workspace")).unwrap();
    fs::create_dir_all(folder.join("tickets/execute-shell/hello.1.0")).unwrap();
    write(&folder.join("nodes/vm"), "node vm\nwaiting execute-shell 2 linux\n");
    write(&folder.join("status"), "store embedded\n");
    symlink("1", folder.join("jobs/hello/builds/latest")).unwrap();
}

impl Web {
    fn start(name: &str, more: &[&str]) -> Web {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("web-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        tree(&folder.join("tree"));
        Web::on(folder, more)
    }

    fn on(folder: PathBuf, more: &[&str]) -> Web {
        Web::by(Command::new(env!("CARGO_BIN_EXE_web")), folder, more)
    }

    /// By a command that becomes web.
    fn by(mut command: Command, folder: PathBuf, more: &[&str]) -> Web {
        // Root becomes somebody who must get there.
        for above in folder.ancestors() {
            let open = fs::metadata(above).is_ok_and(|facts| facts.permissions().mode() & 0o001 != 0);
            if !open && fs::set_permissions(above, PermissionsExt::from_mode(0o711)).is_err() {
                break;
            }
        }
        let mine = !nix::unistd::geteuid().is_root();
        let token = folder.join("token").display().to_string();
        let mut words = vec!["--listen", "127.0.0.1:0"];
        // Whoever has the folder is asked for a token; these tests bring it.
        if mine && !more.contains(&"--token-file") {
            words.extend(["--token-file", &token]);
        }
        words.extend(more);
        let mut process = command
            .arg(folder.join("tree"))
            .args(&words)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        let port = loop {
            line.clear();
            assert!(said.read_line(&mut line).unwrap() > 0, "web ended");
            if let Some((_, rest)) = line.split_once("127.0.0.1:") {
                break rest.split('/').next().unwrap().trim().parse().unwrap();
            }
        };
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Web { folder, process, port }
    }

    fn tree(&self, path: &str) -> PathBuf {
        self.folder.join("tree").join(path)
    }

    fn token(&self) -> String {
        let token = fs::read_to_string(self.folder.join("token"));
        token.map_or(String::new(), |token| {
            format!("Authorization: Bearer {}\r\n", token.trim())
        })
    }

    /// Sends a whole request and reads what comes until the other end closes.
    fn raw(&self, request: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(BOUND)).unwrap();
        stream.write_all(request).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer
    }

    fn ask(&self, path: &str, headers: &str) -> Got {
        let port = self.port;
        let (host, token) = match headers.contains("Host:") {
            true => (String::new(), self.token()),
            false => (format!("Host: 127.0.0.1:{port}\r\n"), self.token()),
        };
        let request = format!("GET {path} HTTP/1.1\r\n{host}{token}{headers}Connection: close\r\n\r\n");
        parsed(&self.raw(request.as_bytes()))
    }

    fn page(&self, path: &str) -> Got {
        self.ask(path, "Accept: text/html\r\n")
    }

    /// Waits until a page says something.
    fn page_with(&self, path: &str, what: &str) -> String {
        let begun = Instant::now();
        loop {
            let text = self.page(path).text();
            if text.contains(what) {
                return text;
            }
            assert!(begun.elapsed() < BOUND, "{what} is not in {path}:\n{text}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn parsed(answer: &[u8]) -> Got {
    let text = String::from_utf8_lossy(answer);
    let head = text.split("\r\n\r\n").next().unwrap_or_default().to_owned();
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    let body = answer.get(head.len() + 4..).unwrap_or_default();
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Got {
        status,
        body: if chunked { joined(body) } else { body.to_vec() },
        head,
    }
}

/// Without the lengths between chunks.
fn joined(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = body.windows(2).position(|two| two == b"\r\n") {
        let length = String::from_utf8_lossy(&body[..end]);
        let Ok(length) = usize::from_str_radix(length.trim(), 16) else {
            break;
        };
        let begin = end + 2;
        whole.extend(body.get(begin..begin + length).unwrap_or_default());
        body = body.get(begin + length + 2..).unwrap_or_default();
        if length == 0 {
            break;
        }
    }
    whole
}

/// Reads events of a stream until one has this text.
fn until(stream: &mut BufReader<TcpStream>, what: &str) -> String {
    let (mut all, mut line) = (String::new(), String::new());
    loop {
        line.clear();
        match stream.read_line(&mut line) {
            Ok(count) if count > 0 => all.push_str(&line),
            other => panic!("{what} did not come: {other:?}\n{all}"),
        }
        if line.contains(what) {
            return all;
        }
    }
}

impl Web {
    fn stream(&self, path: &str, headers: &str) -> BufReader<TcpStream> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(BOUND)).unwrap();
        let (port, token) = (self.port, self.token());
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{token}{headers}Accept: text/event-stream\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        BufReader::new(stream)
    }
}

#[test]
fn a_console_goes_on_where_it_was() {
    let web = Web::start("live", &[]);
    write(&web.tree("jobs/hello/builds/1/state"), "running\n");
    let console = web.tree("jobs/hello/builds/1/console");
    let append = |text: &str| {
        let mut file = fs::File::options().append(true).open(&console).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    };
    let size = fs::metadata(&console).unwrap().len();
    let path = format!("/jobs/hello/builds/1/console?after={size}");
    let mut live = web.stream(&path, "");
    // The number of the line that comes next.
    let begun = until(&mut live, "data: ");
    assert!(begun.ends_with("event: at\ndata: 4\n"), "{begun}");
    append("four\n<b>fi");
    until(&mut live, "id=\"L4\"");
    until(&mut live, "class=\"l part\" id=\"L5\"");
    append("ve\n");
    let text = until(&mut live, "id=\"L5\"");
    assert!(text.contains("&lt;b&gt;five"), "{text}");
    drop(live);
    append("six\nseven\n");
    // Whoever comes back says what he had last.
    let last = format!("Last-Event-ID: {}\r\n", size + "four\n<b>five\n".len() as u64);
    let mut live = web.stream(&path, &last);
    let text = until(&mut live, "seven");
    assert!(text.contains("id=\"L6\"") && !text.contains("five"), "{text}");
    write(&web.tree("jobs/hello/builds/1/state"), "success\n");
    append("eight\n");
    let text = until(&mut live, "event: end");
    assert!(text.contains("eight"), "{text}");
}

/// Who opens a page a moment after a line was written sees that line once, whenever others looked last.
#[test]
fn nobody_sees_a_line_twice() {
    let web = Web::start("twice", &[]);
    write(&web.tree("jobs/hello/builds/1/state"), "running\n");
    let console = web.tree("jobs/hello/builds/1/console");
    let append = |text: &str| {
        let mut file = fs::File::options().append(true).open(&console).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        fs::metadata(&console).unwrap().len()
    };
    let path = |after| format!("/jobs/hello/builds/1/console?after={after}");
    let mut first = web.stream(&path(append("")), "");
    until(&mut first, "event: at");
    for round in 0..20 {
        let size = append(&format!("old {round}\n"));
        let mut late = web.stream(&path(size), "");
        until(&mut late, "event: at");
        append(&format!("new {round}\n"));
        let text = until(&mut late, &format!("new {round}<"));
        assert!(!text.contains("old"), "{text}");
        until(&mut first, &format!("new {round}<"));
    }
}

#[test]
fn a_page_is_sent_again_when_it_has_changed() {
    let web = Web::start("page", &[]);
    let mut live = web.stream("/jobs/hello/builds/1", "");
    let first = until(&mut live, "</main>");
    let id = first
        .lines()
        .find_map(|line| line.strip_prefix("id: "))
        .unwrap()
        .to_owned();
    let build = web.tree("jobs/hello/builds/1/build.json");
    let text = fs::read_to_string(&build)
        .unwrap()
        .replace("task 0-unit: exit 1", "another end");
    fs::write(&build, text).unwrap();
    until(&mut live, "another end");
    drop(live);
    let mut live = web.stream("/jobs/hello/builds/1", &format!("Last-Event-ID: {id}\r\n"));
    until(&mut live, "another end");
    fs::remove_dir_all(web.tree("jobs/hello/builds/1")).unwrap();
    until(&mut live, "event: gone");
    assert_eq!(
        web.ask("/jobs/hello/builds/7", "Accept: text/event-stream\r\n").status,
        404
    );
}

/// Who holds connections open without asking for anything holds up nobody.
#[test]
fn slow_clients_hold_up_nobody() {
    let web = Web::start("slow", &["--connections", "32"]);
    let mut held = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(("127.0.0.1", web.port)).unwrap();
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nHo");
        held.push(stream);
    }
    // Streams that are never read from, more than there may be.
    for _ in 0..40 {
        held.push(web.stream("/jobs/hello/builds/1", "").into_inner());
    }
    let begun = Instant::now();
    assert_eq!(web.page("/jobs/hello").status, 200);
    assert!(begun.elapsed() < BOUND);
    let metrics = web.ask("/metrics", "").text();
    let count = metrics
        .lines()
        .find_map(|line| line.strip_prefix("web_streams "))
        .unwrap();
    assert!(count.parse::<usize>().unwrap() <= 16, "{count}");
}

/// A page says "live" when its stream is open again, so it is told anew that it is not.
#[test]
fn who_comes_back_while_the_tree_is_away_is_told_so() {
    let web = Web::start("away", &[]);
    let mut live = web.stream("/jobs/hello", "");
    until(&mut live, "</main>");
    fs::rename(web.folder.join("tree"), web.folder.join("gone")).unwrap();
    until(&mut live, "event: away");
    drop(live);
    let mut live = web.stream("/jobs/hello", "Last-Event-ID: away\r\n");
    let (mut line, mut said) = (String::new(), String::new());
    // A comment keeps a stream alive that has nothing to say.
    while !line.starts_with(':') && !line.starts_with("event: ") {
        line.clear();
        assert!(live.read_line(&mut line).unwrap() > 0, "{said}");
        said.push_str(&line);
    }
    assert_eq!(line, "event: away\n", "{said}");
}
