//! What is written to `trigger`: parameters, and a token that makes it idempotent.

use std::collections::{HashMap, HashSet};

use distcifs_settings::source::{Event, Source};

use super::common::VALUE_BYTES_MAX;
use super::fault::quoted;
use super::json::{self, Kind};
use super::object::hint;
use super::ticket::REQUEST_BYTES_MAX;
use super::{JobConfig, PARAMETERS_BYTES_MAX};
use crate::repository::names::Name;

/// Longest idempotency token, bytes.
const TOKEN_BYTES_MAX: usize = 200;

/// Longest cause, bytes: a line for people.
const CAUSE_BYTES_MAX: usize = 512;

/// Parameters that say which build triggered this one. They are set here, and need not be declared.
pub const UPSTREAM_PARAMETERS: [&str; 3] = ["upstream_job", "upstream_build", "upstream_depth"];

/// Why a trigger that is none of a build's can't say that it is.
const UPSTREAM_IS_NOT_SAID: &str =
    "@event=upstream can't be given: a build has it that another build triggers (downstream_jobs)";

/// A build that triggers another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Its job.
    pub job: Name,
    /// Its number.
    pub build: u64,
    /// How many builds stand in a row up to and with it.
    pub depth: u64,
}

impl Upstream {
    /// The value of one of [`UPSTREAM_PARAMETERS`].
    fn value(&self, name: &str) -> String {
        match name {
            "upstream_job" => self.job.to_string(),
            "upstream_build" => self.build.to_string(),
            _ => self.depth.to_string(),
        }
    }
}

/// A trigger that holds to the job's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TriggerRequest {
    /// Every parameter of the build: those of the configuration in its order, defaults filled in,
    /// then upstream_job, upstream_build and upstream_depth where a build triggers it.
    pub parameters: Vec<(Name, String)>,
    /// The token of `@key`, 1 to 200 printable bytes.
    pub key: Option<String>,
    /// The line of `@cause`, 1 to 512 bytes: why the build was started.
    pub cause: Option<String>,
    /// What `@event`, `@ref`, `@commit`, `@before`, `@base`, `@trust` and `@sender` say.
    pub source: Source,
    /// Which of the parameters were given, in their order: the others have their defaults.
    pub given: Vec<bool>,
}

impl TriggerRequest {
    /// Reads `key=value` lines, one JSON object, or nothing at all, of a trigger by a build or by
    /// somebody. The error is for people.
    pub fn read(bytes: &[u8], config: &JobConfig, by: Option<&Upstream>) -> Result<Self, String> {
        if bytes.len() > REQUEST_BYTES_MAX {
            return Err(format!("a trigger has at most {REQUEST_BYTES_MAX} bytes"));
        }
        let given = Given::read(bytes)?;
        given.check(config, by, true)
    }

    /// Whether text that ends with a whole line can still become a good trigger when more is
    /// written after it, and where it says so far that the build comes from; if not, why.
    pub fn check_beginning(bytes: &[u8], config: &JobConfig, by: Option<&Upstream>) -> Result<Source, String> {
        let object = bytes.trim_ascii_start().first() == Some(&b'{');
        // An object that can't be read may not be whole yet.
        if object && json::parse(bytes).is_err() {
            return Ok(Source::default());
        }
        Given::read(bytes)?
            .check(config, by, object)
            .map(|request| request.source)
    }
}

/// Whether parameters come to no more than the bound.
fn check_bytes(parameters: &[(Name, String)]) -> Result<(), String> {
    let bytes = parameters.iter().map(|(name, value)| name.as_str().len() + value.len());
    if bytes.sum::<usize>() > PARAMETERS_BYTES_MAX {
        return Err(format!(
            "the parameters have more than {PARAMETERS_BYTES_MAX} bytes in all"
        ));
    }
    Ok(())
}

/// What was given, not yet held against a configuration.
#[derive(Default)]
struct Given {
    parameters: HashMap<String, String>,
    /// The same names in the order they came, so that of many faults the first is told.
    order: Vec<String>,
    key: Option<String>,
    cause: Option<String>,
    source: Source,
    /// Which of the words of `source` were given.
    said: HashSet<String>,
}

impl Given {
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut given = Given::default();
        match bytes.trim_ascii_start().first() {
            None => (),
            Some(b'{') => given.read_json(bytes)?,
            Some(_) => given.read_lines(bytes)?,
        }
        Ok(given)
    }

    fn read_json(&mut self, bytes: &[u8]) -> Result<(), String> {
        let value = json::parse(bytes).map_err(|fault| fault.to_string())?;
        let Kind::Object(members) = value.kind else {
            return Err("a trigger in JSON is one object".into());
        };
        for member in members {
            let (at, name) = (member.value.at, quoted(&member.key));
            if let ("@sender", Kind::List(senders)) = (member.key.as_str(), &member.value.kind) {
                for sender in senders {
                    let login = sender.to_text().filter(|_| matches!(sender.kind, Kind::String(_)));
                    self.add(&member.key, login.unwrap_or_default())?;
                }
                continue;
            }
            let text = member.value.to_text();
            let text =
                text.ok_or_else(|| format!("{}:{}: {name} must be a string, a number or a bool", at.line, at.column))?;
            self.add(&member.key, text)?;
        }
        Ok(())
    }

    fn read_lines(&mut self, bytes: &[u8]) -> Result<(), String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "a trigger must be UTF-8 text")?;
        for (i, line) in text.split('\n').enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let (name, value) = line
                .split_once('=')
                .ok_or_else(|| format!("line {}: {} is not of the form key=value", i + 1, quoted(line)))?;
            self.add(name, value.to_owned())?;
        }
        Ok(())
    }

    fn add(&mut self, name: &str, value: String) -> Result<(), String> {
        if value.contains('\0') {
            return Err(format!("the value of {} contains a NUL", quoted(name)));
        }
        if name == "@key" {
            let printable = value.bytes().all(|b| (0x20..=0x7e).contains(&b));
            if value.is_empty() || value.len() > TOKEN_BYTES_MAX || !printable {
                return Err(format!(
                    "@key must be 1 to {TOKEN_BYTES_MAX} printable ASCII characters"
                ));
            }
            return self
                .key
                .replace(value)
                .map_or(Ok(()), |_| Err("@key is given twice".into()));
        }
        if name == "@cause" {
            if value.is_empty() || value.len() > CAUSE_BYTES_MAX || value.chars().any(char::is_control) {
                return Err(format!("@cause must be one line of 1 to {CAUSE_BYTES_MAX} bytes"));
            }
            return self
                .cause
                .replace(value)
                .map_or(Ok(()), |_| Err("@cause is given twice".into()));
        }
        if let Some(word) = name.strip_prefix('@')
            && self.source.take(word, &value)?
        {
            let first = self.said.insert(word.to_owned());
            return if first || word == "sender" {
                Ok(())
            } else {
                Err(format!("{name} is given twice"))
            };
        }
        if Name::new(name).is_none() {
            return Err(format!("{} can't name a parameter", quoted(name)));
        }
        if value.len() > VALUE_BYTES_MAX {
            return Err(format!("the value of {name} has more than {VALUE_BYTES_MAX} bytes"));
        }
        if self.parameters.insert(name.to_owned(), value).is_some() {
            return Err(format!("parameter {name} is given twice"));
        }
        self.order.push(name.to_owned());
        Ok(())
    }

    /// Puts what was given and the defaults together; unless it is all, more may be given later.
    fn check(mut self, config: &JobConfig, by: Option<&Upstream>, all: bool) -> Result<TriggerRequest, String> {
        self.take_upstream(by)?;
        if self.source.event == Event::Upstream && by.is_none() {
            return Err(UPSTREAM_IS_NOT_SAID.into());
        }
        let (mut parameters, mut given) = (Vec::new(), Vec::new());
        let mut missing = Vec::new();
        for (name, default) in &config.parameters {
            let said = self.parameters.remove(name.as_str());
            given.push(said.is_some());
            match said.or_else(|| default.clone()) {
                Some(value) => parameters.push((name.clone(), value)),
                None => missing.push(name.as_str()),
            }
        }
        for name in UPSTREAM_PARAMETERS {
            let Some(value) = self.parameters.remove(name) else {
                continue;
            };
            parameters.extend(Name::new(name).map(|name| (name, value)));
            given.push(true);
        }
        if let Some(unknown) = self.order.iter().find(|name| self.parameters.contains_key(*name)) {
            let near = hint(unknown, config.parameters.iter().map(|(name, _)| name.as_str()));
            return Err(format!("the job has no parameter {}{near}", quoted(unknown)));
        }
        if let ([first, rest @ ..], true) = (missing.as_slice(), all) {
            if UPSTREAM_PARAMETERS.contains(first) {
                return Err(format!(
                    "{first} has no default: only a build that names this job in downstream_jobs can trigger it"
                ));
            }
            let more = if rest.is_empty() {
                String::new()
            } else {
                format!(" and {} more", rest.len())
            };
            return Err(format!(
                "the parameter {first}{more} must be given: there is no default"
            ));
        }
        check_bytes(&parameters)?;
        // What is given later may be shorter than a default.
        if all {
            let lengths = parameters.iter().map(|(name, value)| (name.as_str(), value.len()));
            let lengths: HashMap<_, _> = lengths.collect();
            config
                .uses
                .check(|name| lengths.get(name).copied().unwrap_or_default())?;
        }
        Ok(TriggerRequest {
            parameters,
            key: self.key,
            cause: self.cause,
            source: match by {
                Some(_) => Source {
                    event: Event::Upstream,
                    ..self.source
                },
                None => self.source,
            },
            given,
        })
    }

    /// Puts in which build triggers this one. What a trigger says of that itself is refused; only that of
    /// a build goes by, for an earlier build-control gives it, and counts for nothing.
    fn take_upstream(&mut self, by: Option<&Upstream>) -> Result<(), String> {
        let says = self
            .order
            .iter()
            .find(|name| UPSTREAM_PARAMETERS.contains(&name.as_str()));
        match (says, by) {
            (Some(name), None) => Err(format!(
                "{name} can't be given: it is set where a build triggers this job (downstream_jobs)"
            )),
            (_, None) => Ok(()),
            (_, Some(by)) => {
                for name in UPSTREAM_PARAMETERS {
                    self.parameters.insert(name.to_owned(), by.value(name));
                }
                Ok(())
            }
        }
    }
}
