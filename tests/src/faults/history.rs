//! Who called what when, and what they were told: a file of lines, so that shells and this process
//! write one together.
//!
//! A line is `TIME WHO NODE begin CALL…` or `TIME WHO NODE end ok|ERROR [VALUE]`, TIME being seconds of
//! /proc/uptime. Each WHO has one call under way at most; a call without an end is one whose caller
//! died in it, or was still waiting.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Milliseconds since this machine was started.
pub type Millis = u64;

/// The clock of all lines: that of /proc/uptime, which shells can read.
pub fn now() -> Millis {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has this clock");
    u64::try_from(Duration::from(time).as_millis()).expect("it counts from the start of the machine")
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// A build of a job, with this token as its parameter `token`; the answer is its number.
    Trigger {
        /// The job.
        job: String,
        /// Different in each call, but for calls that repeat one with a key.
        token: String,
        /// Whether the token was its key as well, so that it may be called again.
        keyed: bool,
    },
    /// A configuration that names this version.
    Configure {
        /// The job.
        job: String,
        /// The version.
        version: String,
    },
    /// A look at a configuration; the answer is the version that it names.
    Config {
        /// The job.
        job: String,
    },
    /// A look at a build's state; the answer is the word.
    State {
        /// The job.
        job: String,
        /// Its build.
        build: u64,
    },
    /// Work of a queue; the answer is the ticket's id, or nothing.
    Next {
        /// The queue.
        queue: String,
    },
    /// A look at what the tasks before left; the answer is their tokens, with commas between.
    Before {
        /// The ticket.
        ticket: Ticket,
    },
    /// A line of a console, written and synced.
    Line {
        /// The ticket whose console it is.
        ticket: Ticket,
        /// The line.
        text: String,
    },
    /// A result, with the token that everything of this attempt names.
    Result {
        /// The ticket.
        ticket: Ticket,
        /// The token.
        token: String,
    },
    /// Something done to the system, for as long as this is under way.
    Fault {
        /// What.
        kind: String,
        /// To whom.
        target: String,
    },
}

/// A task of a build, as its ticket is named.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket {
    /// The job.
    pub job: String,
    /// The build.
    pub build: u64,
    /// The task.
    pub task: u32,
}

impl Ticket {
    /// From an id of the form `JOB.BUILD.TASK`.
    pub fn parse(id: &str) -> Option<Ticket> {
        let mut parts = id.rsplitn(3, '.');
        let task = parts.next()?.parse().ok()?;
        let build = parts.next()?.parse().ok()?;
        let job = parts.next()?.to_owned();
        Some(Ticket { job, build, task })
    }
}

impl std::fmt::Display for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.job, self.build, self.task)
    }
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Well, with a value.
    Ok(String),
    /// Not, with an errno's name or a status.
    Failed(String),
}

/// A call with its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// The process or thread.
    pub who: String,
    /// The mount that it works on.
    pub node: String,
    /// What it asked for.
    pub call: Call,
    /// When.
    pub begin: Millis,
    /// When it was answered, and how; `None` if it never was.
    pub end: Option<(Millis, Answer)>,
}

impl Operation {
    /// The answer's value, if it ended well.
    pub fn told(&self) -> Option<&str> {
        match &self.end {
            Some((_, Answer::Ok(value))) => Some(value),
            _ => None,
        }
    }

    /// When it had ended, at the latest.
    pub fn ended(&self) -> Millis {
        self.end.as_ref().map_or(Millis::MAX, |(time, _)| *time)
    }
}

/// A call as its words.
impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Call::Trigger { job, token, keyed } => {
                write!(f, "trigger {job} {token} {}", if *keyed { "keyed" } else { "once" })
            }
            Call::Configure { job, version } => write!(f, "configure {job} {version}"),
            Call::Config { job } => write!(f, "config {job}"),
            Call::State { job, build } => write!(f, "state {job} {build}"),
            Call::Next { queue } => write!(f, "next {queue}"),
            Call::Before { ticket } => write!(f, "before {ticket}"),
            Call::Line { ticket, text } => write!(f, "line {ticket} {text}"),
            Call::Result { ticket, token } => write!(f, "result {ticket} {token}"),
            Call::Fault { kind, target } => write!(f, "fault {kind} {target}"),
        }
    }
}

impl Call {
    /// From its words.
    fn parse(words: &str) -> Option<Call> {
        let (verb, rest) = words.split_once(' ')?;
        let (first, more) = rest.split_once(' ').unwrap_or((rest, ""));
        let (first_text, more_text) = (first.to_owned(), more.to_owned());
        Some(match verb {
            "trigger" => {
                let (token, keyed) = more.split_once(' ')?;
                Call::Trigger {
                    job: first_text,
                    token: token.to_owned(),
                    keyed: keyed == "keyed",
                }
            }
            "configure" => Call::Configure {
                job: first_text,
                version: more_text,
            },
            "config" => Call::Config { job: first_text },
            "state" => Call::State {
                job: first_text,
                build: more.parse().ok()?,
            },
            "next" => Call::Next { queue: first_text },
            "before" => Call::Before {
                ticket: Ticket::parse(first)?,
            },
            "line" => Call::Line {
                ticket: Ticket::parse(first)?,
                text: more_text,
            },
            "result" => Call::Result {
                ticket: Ticket::parse(first)?,
                token: more_text,
            },
            "fault" => Call::Fault {
                kind: first_text,
                target: more_text,
            },
            _ => return None,
        })
    }
}

/// All that was called.
#[derive(Debug, Default)]
pub struct History {
    /// In order of their beginning.
    pub operations: Vec<Operation>,
}

impl History {
    /// Reads one. What can't be read is no line of ours, and a panic: a check must not pass over it.
    /// A last line that is cut short is one whose writer was killed in it.
    pub fn read(path: &Path) -> History {
        let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        History::parse(&text)
    }

    /// The same of a text.
    pub fn parse(text: &str) -> History {
        let mut history = History::default();
        let mut open: HashMap<&str, usize> = HashMap::new();
        for line in text.lines() {
            let read = || -> Option<_> {
                let mut words = line.splitn(5, ' ');
                let at = millis(words.next()?)?;
                Some((at, words.next()?, words.next()?, words.next()?, words.next()?))
            };
            let (at, who, node, side, rest) = read().unwrap_or_else(|| panic!("no line of a history: {line:?}"));
            match side {
                "begin" => {
                    open.insert(who, history.operations.len());
                    history.operations.push(Operation {
                        who: who.to_owned(),
                        node: node.to_owned(),
                        call: Call::parse(rest).unwrap_or_else(|| panic!("no call: {line:?}")),
                        begin: at,
                        end: None,
                    });
                }
                "end" => {
                    let call = open
                        .remove(who)
                        .unwrap_or_else(|| panic!("an end of nothing: {line:?}"));
                    let (word, value) = rest.split_once(' ').unwrap_or((rest, ""));
                    let answer = match word {
                        "ok" => Answer::Ok(value.trim().to_owned()),
                        _ => Answer::Failed(rest.to_owned()),
                    };
                    history.operations[call].end = Some((at, answer));
                }
                _ => panic!("neither begin nor end: {line:?}"),
            }
        }
        history.operations.sort_by_key(|operation| operation.begin);
        history
    }
}

/// Seconds with two or three digits behind the point, as milliseconds.
fn millis(seconds: &str) -> Option<Millis> {
    let (whole, part) = seconds.split_once('.')?;
    let part: Millis = format!("{part:0<3}").get(..3)?.parse().ok()?;
    Some(whole.parse::<Millis>().ok()? * 1000 + part)
}

/// Writes a history, from as many threads as there are.
#[derive(Debug, Clone)]
pub struct Recorder {
    path: PathBuf,
    file: Arc<Mutex<File>>,
}

impl Recorder {
    /// Begins one.
    pub fn new(path: &Path) -> Recorder {
        let file = File::options().create(true).append(true).open(path);
        let file = file.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Recorder {
            path: path.to_owned(),
            file: Arc::new(Mutex::new(file)),
        }
    }

    /// The file, for shells to append to.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a call: its beginning and its end are written.
    pub fn call<T: ToString>(
        &self,
        who: &str,
        node: &str,
        call: &Call,
        make: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        self.begin(who, node, call);
        let made = make();
        match &made {
            Ok(value) => self.end(who, node, &format!("ok {}", value.to_string())),
            Err(error) => self.end(who, node, &error.to_string().replace(['\n', ' '], "-")),
        }
        made
    }

    /// Writes that a call begins.
    pub fn begin(&self, who: &str, node: &str, call: &Call) {
        self.line(&format!("{who} {node} begin {call}"));
    }

    /// Writes that it has ended: `ok` and a value, or an error.
    pub fn end(&self, who: &str, node: &str, answer: &str) {
        self.line(&format!("{who} {node} end {answer}"));
    }

    fn line(&self, words: &str) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let at = now();
        // One write, so that lines of other processes come before or after it.
        let line = format!("{}.{:03} {words}\n", at / 1000, at % 1000);
        file.write_all(line.as_bytes()).expect("the history can be written");
    }
}
