//! Jobs, builds and tickets, as a program without a library would handle them: the words of the
//! tests on real mounts (tests/src/job.rs), so that a test reads the same there and here.

use serde_json::Value;

use super::driver::{Fd, Fs};
use crate::tree::Result;

/// A job of one execute-shell task that says hello.
pub(super) const HELLO: &str = distcifs_tests::HELLO;

/// The errno of what must fail.
#[track_caller]
pub(super) fn errno<T>(result: Result<T>) -> i32 {
    match result {
        Ok(_) => panic!("it was done, though it must be refused"),
        Err(error) => crate::fuse::errno_of(&error),
    }
}

/// A text without its last line's end.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\n').to_owned()
}

impl Fs {
    /// The text of a file, without the last line's end.
    #[track_caller]
    pub(super) fn read(&self, path: &str) -> String {
        text(&self.bytes(path).unwrap_or_else(|error| panic!("{path}: {error}")))
    }

    /// Whether there is such a path.
    pub(super) fn has(&self, path: &str) -> bool {
        self.find(path).is_ok()
    }

    /// The names in a folder, sorted.
    #[track_caller]
    pub(super) fn list(&self, path: &str) -> Vec<String> {
        self.names(path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Makes a job with this configuration.
    pub(super) fn job(&self, name: &str, config: &str) {
        self.mkdir(&format!("jobs/{name}")).unwrap();
        self.configure(name, config);
    }

    /// Replaces a job's configuration.
    pub(super) fn configure(&self, name: &str, config: &str) {
        let path = format!("jobs/{name}/config.json");
        if let Err(error) = self.write(&path, config) {
            let why = self.read(&format!("jobs/{name}/config.error"));
            panic!("{path}: {error}: {why}");
        }
    }

    /// Writes a text and reads what it gives back, on one descriptor.
    pub(super) fn ask_of(&self, path: &str, body: &str) -> Result<String> {
        let mut file = self.open(path, libc::O_RDWR)?;
        file.write(format!("{body}\n").as_bytes())?;
        Ok(text(&file.read()?))
    }

    /// Triggers and gives the number, or why not.
    pub(super) fn try_trigger(&self, job: &str, body: &str) -> Result<u64> {
        let number = self.ask_of(&format!("jobs/{job}/trigger"), body)?;
        Ok(number
            .parse()
            .unwrap_or_else(|_| panic!("{number:?} is no number of a build")))
    }

    /// Triggers; panics unless it gives a number.
    #[track_caller]
    pub(super) fn trigger(&self, job: &str, body: &str) -> u64 {
        self.try_trigger(job, body)
            .unwrap_or_else(|error| panic!("jobs/{job}/trigger: {error}"))
    }

    /// Waits for a build's end, by `.wait`, and gives its final state.
    #[track_caller]
    pub(super) fn wait_state(&self, job: &str, build: u64) -> String {
        let path = format!("jobs/{job}/builds/{build}/.wait");
        let mut state = String::new();
        self.wait_for(&format!("{job}/{build} to end"), || {
            state = self.read(&path);
            !state.is_empty()
        });
        state
    }

    /// Makes a queue.
    pub(super) fn queue(&self, name: &str) {
        self.mkdir(&format!("tickets/{name}")).unwrap();
    }

    /// Posts a ticket and gives its id, or why not.
    pub(super) fn try_post(&self, queue: &str, ticket: &Value) -> Result<String> {
        self.ask_of(&format!("tickets/{queue}/.post"), &ticket.to_string())
    }

    /// Posts a ticket; panics unless it gives an id.
    #[track_caller]
    pub(super) fn post(&self, queue: &str, ticket: &Value) -> String {
        self.try_post(queue, ticket)
            .unwrap_or_else(|error| panic!("tickets/{queue}/.post: {error}"))
    }

    /// Claims a ticket for as long as the file given back is open.
    pub(super) fn claim(&self, queue: &str, id: &str) -> Result<Fd<'_>> {
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC;
        self.open(&format!("tickets/{queue}/{id}/claim"), flags)
    }

    /// Asks for work until there is some: the descriptor that holds the claim, and the ticket's id.
    pub(super) fn ask(&self, queue: &str, labels: &str) -> Result<(Fd<'_>, String)> {
        let mut next = self.open(&format!("tickets/{queue}/.next"), libc::O_RDWR)?;
        next.write(format!("{labels}\n").as_bytes())?;
        let mut id = String::new();
        self.wait_for("a ticket", || {
            id = text(&next.read().unwrap_or_else(|error| panic!("{queue}/.next: {error}")));
            !id.is_empty()
        });
        Ok((next, id))
    }

    /// Writes a result, looking at what the close says.
    pub(super) fn result(&self, queue: &str, id: &str, words: &str) -> Result<()> {
        self.write(&format!("tickets/{queue}/{id}/result"), format!("{words}\n"))
    }

    /// Claims, writes the result and lets go.
    #[track_caller]
    pub(super) fn finish(&self, queue: &str, id: &str, words: &str) {
        let claim = self
            .claim(queue, id)
            .unwrap_or_else(|error| panic!("claim of {queue}/{id}: {error}"));
        self.result(queue, id, words)
            .unwrap_or_else(|error| panic!("result of {queue}/{id}: {error}"));
        drop(claim);
    }
}
