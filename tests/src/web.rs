//! web on a mount, as a process, and what a client of HTTP sees of it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use nix::unistd::geteuid;

use crate::mount::Mount;
use crate::wait::{USUAL, wait_some};
use crate::worker::Worker;

/// How long one answer may take.
const BOUND: Duration = Duration::from_secs(60);

/// A running web.
pub struct Web {
    worker: Worker,
    port: u16,
    token: Option<String>,
}

impl Web {
    /// Starts one on a port of its own, and waits until it listens.
    pub fn start(mount: &Mount, more: &[&str]) -> Web {
        let file = mount.out().join("web.token");
        let text = file.display().to_string();
        let mut words = vec!["--listen", "127.0.0.1:0"];
        // Whoever mounted is asked for a token, unless he is root.
        if !geteuid().is_root() {
            words.extend(["--token-file", &text]);
        }
        words.extend(more);
        let worker = Worker::start(mount, "web", &words);
        let port = wait_some("web's port", USUAL, || {
            let said = worker.complaints();
            let line = said
                .lines()
                .find_map(|line| line.split_once("listening on http://127.0.0.1:"))?;
            line.1.split('/').next()?.trim().parse().ok()
        });
        let token = std::fs::read_to_string(&file).ok().map(|token| token.trim().to_owned());
        Web { worker, port, token }
    }

    /// Where it listens, at 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process.
    pub fn worker(&self) -> &Worker {
        &self.worker
    }

    /// The address of a path; with the token where there is one.
    pub fn address(&self, path: &str) -> String {
        let joint = if path.contains('?') { '&' } else { '?' };
        let token = self.token.as_ref().map(|token| format!("{joint}token={token}"));
        format!("http://127.0.0.1:{}{path}{}", self.port, token.unwrap_or_default())
    }

    fn open(&self, path: &str, headers: &str) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("it listens");
        stream.set_read_timeout(Some(BOUND)).expect("a socket");
        let token = self
            .token
            .as_ref()
            .map(|token| format!("Authorization: Bearer {token}\r\n"));
        let token = token.unwrap_or_default();
        let request = format!(
            "GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{}\r\n{token}{headers}\r\n",
            self.port
        );
        stream.write_all(request.as_bytes()).expect("it reads");
        stream
    }

    /// Status and body of an answer.
    pub fn get(&self, path: &str, headers: &str) -> (u16, Vec<u8>) {
        let mut answer = Vec::new();
        let _ = self.open(path, headers).read_to_end(&mut answer);
        let head = answer
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .unwrap_or(answer.len());
        let status = String::from_utf8_lossy(&answer[..head]);
        let status = status.split(' ').nth(1).and_then(|word| word.parse().ok());
        (status.unwrap_or(0), answer.split_off((head + 4).min(answer.len())))
    }

    /// A page as a browser asks for it.
    pub fn page(&self, path: &str) -> (u16, String) {
        let (status, body) = self.get(path, "Accept: text/html\r\n");
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    /// Waits until a page has this text.
    #[track_caller]
    pub fn page_with(&self, path: &str, what: &str) -> String {
        wait_some(&format!("{what} in {path}"), USUAL, || {
            Some(self.page(path).1).filter(|text| text.contains(what))
        })
    }

    /// A page or console as it changes.
    pub fn stream(&self, path: &str, headers: &str) -> Stream {
        let stream = self.open(path, &format!("{headers}Accept: text/event-stream\r\n"));
        Stream(BufReader::new(stream))
    }
}

/// A stream of events.
pub struct Stream(BufReader<TcpStream>);

impl Stream {
    /// Reads up to a line that has this text; gives back all that was read.
    #[track_caller]
    pub fn until(&mut self, what: &str) -> String {
        let (mut all, mut line) = (String::new(), Vec::new());
        loop {
            line.clear();
            match self.0.read_until(b'\n', &mut line) {
                Ok(count) if count > 0 => all.push_str(&String::from_utf8_lossy(&line)),
                other => panic!("{what} did not come: {other:?}\n{all}"),
            }
            if String::from_utf8_lossy(&line).contains(what) {
                return all;
            }
        }
    }
}
