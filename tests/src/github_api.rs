//! A server that answers as GitHub's API documents it, in the order that a test says.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt::Linger};
use serde_json::{Value, json};

/// What a request is answered with.
#[derive(Debug, Clone)]
pub enum Reply {
    /// A status, header lines, and a message.
    Status(u16, Vec<String>, &'static str),
    /// The connection is reset.
    Reset,
    /// Nothing for some time, then the connection is closed.
    Silence(Duration),
}

impl Reply {
    /// A status with a message.
    pub fn of(status: u16, message: &'static str) -> Reply {
        Reply::Status(status, Vec::new(), message)
    }

    /// The same with header lines.
    pub fn with(status: u16, headers: &[String], message: &'static str) -> Reply {
        Reply::Status(status, headers.to_vec(), message)
    }
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Asked {
    /// `POST /repos/…`.
    pub line: String,
    /// The header lines, in small letters.
    pub headers: Vec<String>,
    /// The body.
    pub body: Value,
    /// When it came.
    pub when: Instant,
    /// What it was answered with; 0 for none.
    pub status: u16,
}

#[derive(Default)]
struct State {
    replies: VecDeque<Reply>,
    asked: Vec<Asked>,
}

/// The server; its thread ends with the process.
pub struct Api {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl Default for Api {
    fn default() -> Self {
        Api::new()
    }
}

impl Api {
    /// Starts one that answers 201 to everything it is not told otherwise.
    pub fn new() -> Api {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        Api { port, state }
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Answers the next requests with these.
    pub fn reply(&self, replies: &[Reply]) {
        self.state
            .lock()
            .expect("no panic")
            .replies
            .extend(replies.iter().cloned());
    }

    /// Everything that was asked.
    pub fn asked(&self) -> Vec<Asked> {
        self.state.lock().expect("no panic").asked.clone()
    }

    /// The states that were accepted, in order, as `job state`.
    pub fn told(&self) -> Vec<String> {
        let accepted = self.asked().into_iter().filter(|asked| asked.status == 201);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        accepted
            .map(|asked| {
                let context = text(&asked.body["context"]);
                format!(
                    "{} {}",
                    context.trim_start_matches("distcifs/"),
                    text(&asked.body["state"])
                )
            })
            .collect()
    }
}

/// Answers the requests of a connection until it ends.
fn serve(stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream);
    while let Some(asked) = read(&mut reader) {
        let reply = state.lock().expect("no panic").replies.pop_front();
        let reply = reply.unwrap_or_else(|| Reply::of(201, ""));
        let (status, headers, message) = match &reply {
            Reply::Status(status, headers, message) => (*status, headers.clone(), *message),
            _ => (0, Vec::new(), ""),
        };
        state.lock().expect("no panic").asked.push(Asked { status, ..asked });
        match reply {
            Reply::Reset => {
                let at_once = libc::linger {
                    l_onoff: 1,
                    l_linger: 0,
                };
                setsockopt(reader.get_ref(), Linger, &at_once).expect("a socket");
                return;
            }
            Reply::Silence(time) => return std::thread::sleep(time),
            Reply::Status(..) => {}
        }
        let body = json!({ "message": message, "documentation_url": "https://docs.github.com/rest" }).to_string();
        let mut head = format!("HTTP/1.1 {status} X\r\nContent-Type: application/json; charset=utf-8\r\n");
        headers.iter().for_each(|line| head.push_str(&format!("{line}\r\n")));
        head.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
        if reader.get_mut().write_all(head.as_bytes()).is_err() {
            return;
        }
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Asked> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let headers: Vec<String> = lines.iter().skip(1).map(|line| line.to_lowercase()).collect();
    let length = headers.iter().find_map(|line| line.strip_prefix("content-length:"));
    let mut body = vec![0; length.map_or(0, |length| length.trim().parse().expect("a length"))];
    reader.read_exact(&mut body).ok()?;
    Some(Asked {
        line: lines.first()?.clone(),
        headers,
        body: serde_json::from_slice(&body).unwrap_or_default(),
        when: Instant::now(),
        status: 0,
    })
}
