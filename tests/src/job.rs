//! Jobs, builds and tickets, as a program without a library would handle them.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::time::Duration;

use serde_json::{Value, json};

use crate::mount::Mount;
use crate::stuck;
use crate::wait::{USUAL, look_for, wait_some};

impl Mount {
    /// Makes a job with this configuration.
    pub fn job(&self, name: &str, config: &str) {
        fs::create_dir(self.path(&format!("jobs/{name}"))).unwrap_or_else(|error| panic!("mkdir jobs/{name}: {error}"));
        self.configure(name, config);
    }

    /// Replaces a job's configuration.
    pub fn configure(&self, name: &str, config: &str) {
        let path = format!("jobs/{name}/config.json");
        if let Err(error) = self.write(&path, config) {
            let why = fs::read_to_string(self.path(&format!("jobs/{name}/config.error"))).unwrap_or_default();
            panic!("{path}: {error}: {why}");
        }
    }

    /// Makes a job of these tasks.
    pub fn job_of(&self, name: &str, tasks: &[Value]) {
        self.job(name, &json!({ "tasks": tasks }).to_string());
    }

    /// Makes a job whose tasks run these scripts, one after another.
    pub fn shell_job(&self, name: &str, scripts: &[&str]) {
        let tasks: Vec<Value> = scripts.iter().map(|script| shell_task(script)).collect();
        self.job_of(name, &tasks);
    }

    /// Triggers and gives the number, or why not.
    pub fn try_trigger(&self, job: &str, body: &str) -> io::Result<u64> {
        let mut file = File::options()
            .read(true)
            .write(true)
            .open(self.path(&format!("jobs/{job}/trigger")))?;
        file.write_all(format!("{body}\n").as_bytes())?;
        read_number(&mut file)
    }

    /// Triggers; panics unless it gives a number.
    pub fn trigger(&self, job: &str, body: &str) -> u64 {
        self.try_trigger(job, body)
            .unwrap_or_else(|error| panic!("jobs/{job}/trigger: {error}"))
    }

    /// Waits for a build's end, by `.wait`, and gives its final state.
    #[track_caller]
    pub fn wait_state(&self, job: &str, build: u64) -> String {
        self.wait_state_within(job, build, USUAL)
    }

    /// The same with another bound; after it, it panics with all that can be seen of the build.
    #[track_caller]
    pub fn wait_state_within(&self, job: &str, build: u64, bound: Duration) -> String {
        let path = self.path(&format!("jobs/{job}/builds/{build}/.wait"));
        let ended = look_for(bound, || {
            let state = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            Some(state.trim().to_owned()).filter(|state| !state.is_empty())
        });
        let Some(state) = ended else {
            let seen = stuck::report(self, job, build);
            panic!("waited {bound:?} in vain for: {job}/{build} to end\n{seen}");
        };
        state
    }

    /// Triggers, waits for the end and asserts the state; gives the number.
    pub fn build(&self, job: &str, body: &str, expected: &str) -> u64 {
        let build = self.trigger(job, body);
        let state = self.wait_state(job, build);
        assert_eq!(
            state,
            expected,
            "{job}/{build}: {}\n{}",
            self.why(job, build),
            self.console(job, build)
        );
        build
    }

    /// The file `why` of a build.
    pub fn why(&self, job: &str, build: u64) -> String {
        self.read(&format!("jobs/{job}/builds/{build}/why"))
    }

    /// The file `state` of a build.
    pub fn state(&self, job: &str, build: u64) -> String {
        self.read(&format!("jobs/{job}/builds/{build}/state"))
    }

    /// The console of a build.
    pub fn console(&self, job: &str, build: u64) -> String {
        self.read(&format!("jobs/{job}/builds/{build}/console"))
    }

    /// Makes a queue.
    pub fn queue(&self, name: &str) {
        fs::create_dir(self.path(&format!("tickets/{name}")))
            .unwrap_or_else(|error| panic!("mkdir tickets/{name}: {error}"));
    }

    /// Posts a ticket and gives its id, or why not.
    pub fn try_post(&self, queue: &str, ticket: &Value) -> io::Result<String> {
        let mut file = File::options()
            .read(true)
            .write(true)
            .open(self.path(&format!("tickets/{queue}/.post")))?;
        file.write_all(format!("{ticket}\n").as_bytes())?;
        let mut id = String::new();
        file.read_to_string(&mut id)?;
        Ok(id.trim().to_owned())
    }

    /// Posts a ticket; panics unless it gives an id.
    pub fn post(&self, queue: &str, ticket: &Value) -> String {
        self.try_post(queue, ticket)
            .unwrap_or_else(|error| panic!("tickets/{queue}/.post: {error}"))
    }

    /// Claims a ticket for as long as the file given back is open.
    pub fn claim(&self, queue: &str, id: &str) -> io::Result<File> {
        File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .open(self.path(&format!("tickets/{queue}/{id}/claim")))
    }

    /// Asks for work until there is some: the descriptor that holds the claim, and the ticket's id.
    pub fn ask(&self, queue: &str, labels: &str) -> io::Result<(File, String)> {
        let path = self.path(&format!("tickets/{queue}/.next"));
        let mut next = File::options().read(true).write(true).open(path)?;
        next.write_all(format!("{labels}\n").as_bytes())?;
        let id = wait_some("a ticket", USUAL, || {
            let mut line = [0_u8; 256];
            let length = next
                .read(&mut line)
                .unwrap_or_else(|error| panic!("{queue}/.next: {error}"));
            let id = String::from_utf8_lossy(&line[..length]).trim().to_owned();
            Some(id).filter(|id| !id.is_empty())
        });
        Ok((next, id))
    }

    /// Writes a result, looking at what the close says.
    pub fn result(&self, queue: &str, id: &str, words: &str) -> io::Result<()> {
        self.write(&format!("tickets/{queue}/{id}/result"), format!("{words}\n"))
    }

    /// Claims, writes the result and lets go.
    pub fn finish(&self, queue: &str, id: &str, words: &str) {
        let claim = self
            .claim(queue, id)
            .unwrap_or_else(|error| panic!("claim of {queue}/{id}: {error}"));
        self.result(queue, id, words)
            .unwrap_or_else(|error| panic!("result of {queue}/{id}: {error}"));
        drop(claim);
    }
}

/// A task that runs a script.
pub fn shell_task(script: &str) -> Value {
    json!({ "type": "execute-shell", "params": { "script": script } })
}

/// Reads a decimal number and a line's end.
fn read_number(file: &mut File) -> io::Result<u64> {
    let mut text = [0_u8; 64];
    let length = file.read(&mut text)?;
    let text = String::from_utf8_lossy(&text[..length]);
    Ok(text
        .trim()
        .parse()
        .unwrap_or_else(|_| panic!("{text:?} is no number of a build")))
}
