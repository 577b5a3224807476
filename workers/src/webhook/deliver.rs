//! One delivery, from its raw body to the builds: who signed it, what it tells, which jobs take it.
//!
//! It runs on a thread that may wait for the tree, one step after another.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::body::Whole;
use super::event::{Event, Payload, Told};
use super::payload::Form;
use super::signature::{Signature, digest};
use super::table::{Candidate, Table};
use crate::secret::secret;
use crate::tree::{Tree, Trouble};

/// Bytes hashed at most for a delivery that is of no job that we know, only to tell a stranger
/// from somebody who shares a secret with us: some tens of milliseconds.
const HASHED_FOR_NOBODY: usize = 64 << 20;

/// Longest id of a delivery, bytes: GitHub's have 36.
const ID_BYTES_MAX: usize = 100;

/// A request that arrived whole.
pub struct Delivery {
    /// The body as it came.
    pub body: Whole,
    /// X-GitHub-Event.
    pub event: Option<String>,
    /// X-GitHub-Delivery.
    pub id: Option<String>,
    /// X-Hub-Signature-256.
    pub signature: Option<Vec<u8>>,
    /// Content-Type.
    pub content_type: Option<Vec<u8>>,
    /// The one job that it is for, by its address.
    pub job: Option<String>,
}

/// What is answered.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Value,
    /// What it was about, for the log.
    pub about: String,
    /// How many builds were made or found made.
    pub builds: usize,
}

impl Answer {
    /// An answer without a build.
    pub fn new(status: u16, key: &str, why: impl Into<String>) -> Self {
        let why = why.into();
        Answer {
            status,
            body: json!({ key: why }),
            about: why,
            builds: 0,
        }
    }

    fn error(status: u16, why: impl Into<String>) -> Self {
        Answer::new(status, "error", why)
    }

    fn none(why: impl Into<String>) -> Self {
        Answer::new(202, "why", why)
    }
}

/// What deliveries are carried out with.
pub struct Deliverer {
    /// Where jobs are triggered.
    pub tree: Tree,
    /// The jobs.
    pub table: Table,
    /// The secret of jobs that have none of their own.
    pub secret_file: Option<PathBuf>,
}

impl Deliverer {
    /// Does what a delivery asks for.
    pub fn deliver(&self, delivery: &Delivery) -> Answer {
        self.try_deliver(delivery).unwrap_or_else(|refused| refused)
    }

    fn try_deliver(&self, delivery: &Delivery) -> Result<Answer, Answer> {
        let header = delivery.signature.as_deref();
        let header =
            header.ok_or_else(|| Answer::error(401, "X-Hub-Signature-256 is missing: give the webhook a secret"))?;
        let signature = Signature::parse(header)
            .ok_or_else(|| Answer::error(401, "X-Hub-Signature-256 must be sha256= and 64 hexadecimal digits"))?;
        let form = Form::of(delivery.content_type.as_deref());
        let payload = form
            .ok_or_else(|| {
                Answer::error(
                    415,
                    "Content-Type must be application/json or application/x-www-form-urlencoded",
                )
            })
            .and_then(|form| Payload::read(&delivery.body.bytes, form).map_err(|why| Answer::error(400, why)));
        let candidates = self.candidates(delivery, payload.as_ref().ok());
        let signed = self.signed(candidates, &signature, &delivery.body.bytes)?;
        // What is wrong with the body is only told to who signed it.
        let payload = payload?;
        if let Some(job) = &delivery.job
            && !self.has_job(job)
        {
            return Err(Answer::error(404, format!("there is no job {job}")));
        }
        let event = delivery.event.as_deref();
        let event = event.ok_or_else(|| Answer::error(400, "X-GitHub-Event is missing"))?;
        match payload.told(event).map_err(|why| Answer::error(400, why))? {
            Told::Ping => Ok(Answer::new(200, "ok", "pong")),
            Told::Nothing(why) => Ok(Answer::none(why)),
            Told::Event(event) => self.build(&signed, &event, &key(delivery)?),
        }
    }

    /// Whether there is such a job; its name came in an address.
    fn has_job(&self, job: &str) -> bool {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
        job.bytes().all(plain) && !job.starts_with(['.', '-']) && self.tree.job(job).is_dir()
    }

    /// The jobs that it may be for.
    fn candidates(&self, delivery: &Delivery, payload: Option<&Payload>) -> Vec<Candidate> {
        if let Some(job) = &delivery.job {
            return self.table.job(job).into_iter().collect();
        }
        let repository = payload.and_then(|payload| payload.repository.as_ref());
        repository.map_or_else(Vec::new, |repository| self.table.of_repository(&repository.full_name))
    }

    /// Those candidates whose secret made the signature; without a candidate, nobody, if it was made
    /// by any secret that is known here.
    fn signed(&self, candidates: Vec<Candidate>, signature: &Signature, body: &[u8]) -> Result<Vec<Candidate>, Answer> {
        let stranger = || {
            Answer::error(
                401,
                "the signature is not made with the secret of a job that this is for",
            )
        };
        let own = |(_, watched): &Candidate| watched.secret_file.clone().or_else(|| self.secret_file.clone());
        let is_by = |file: &Path| match secret(file) {
            Ok(secret) => signature.is_by(&secret, body),
            Err(why) => {
                eprintln!("github-webhook: {why}");
                false
            }
        };
        if candidates.is_empty() {
            let others: BTreeSet<PathBuf> = self
                .table
                .all()
                .iter()
                .filter_map(own)
                .chain(self.secret_file.clone())
                .collect();
            let most = HASHED_FOR_NOBODY / body.len().max(1) + 1;
            let known = others.iter().take(most).any(|file| is_by(file));
            return if known { Ok(Vec::new()) } else { Err(stranger()) };
        }
        let files: BTreeSet<PathBuf> = candidates.iter().filter_map(own).collect();
        let good: BTreeSet<PathBuf> = files.into_iter().filter(|file| is_by(file)).collect();
        let signed: Vec<Candidate> = candidates
            .into_iter()
            .filter(|candidate| own(candidate).is_some_and(|file| good.contains(&file)))
            .collect();
        if signed.is_empty() { Err(stranger()) } else { Ok(signed) }
    }

    /// Triggers the jobs that take an event.
    fn build(&self, signed: &[Candidate], event: &Event, key: &str) -> Result<Answer, Answer> {
        let what = format!(
            "{} of {}",
            event.name.escape_debug(),
            event.repository.full_name.escape_debug()
        );
        let taken: Vec<&Candidate> = signed.iter().filter(|(_, watched)| watched.takes(event)).collect();
        if taken.is_empty() {
            return Ok(Answer::none(format!("no job builds {what}")));
        }
        if event.skip {
            return Ok(Answer::none(format!("{what}: its author asked for no build")));
        }
        let (mut builds, mut refused, mut away) = (Vec::new(), Vec::new(), None);
        for (job, watched) in taken {
            match self.tree.trigger(job, &watched.trigger(event, key)) {
                Ok(build) => builds.push(json!({ "job": job, "build": build.parse::<u64>().unwrap_or_default() })),
                Err(Trouble::Lost(why) | Trouble::Refused(why)) => refused.push(json!({ "job": job, "why": why })),
                Err(Trouble::Away(why) | Trouble::Later(why) | Trouble::Full(why)) => away = Some(why),
            }
        }
        let status = match (&away, builds.is_empty()) {
            (Some(_), _) => 503,
            (None, false) => 201,
            (None, true) => 422,
        };
        let count = builds.len();
        let about = format!("{what}: {}", summary(&builds, &refused, away.as_deref()));
        let mut body = json!({ "builds": builds });
        if !refused.is_empty() {
            body["refused"] = refused.into();
        }
        if let Some(why) = away {
            body["error"] = why.into();
        }
        Ok(Answer {
            status,
            body,
            about,
            builds: count,
        })
    }
}

/// `hello/7, refused by other`, for the log.
fn summary(builds: &[Value], refused: &[Value], away: Option<&str>) -> String {
    let name = |value: &Value| value["job"].as_str().unwrap_or_default().to_owned();
    let mut parts: Vec<String> = builds.iter().map(|b| format!("{}/{}", name(b), b["build"])).collect();
    parts.extend(refused.iter().map(|r| format!("refused by {}: {}", name(r), r["why"])));
    parts.extend(away.map(str::to_owned));
    parts.join(", ")
}

/// The key by which the same delivery makes the same builds.
fn key(delivery: &Delivery) -> Result<String, Answer> {
    let Some(id) = &delivery.id else {
        return Ok(format!("github.body.{}", digest(&delivery.body.bytes)));
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if id.is_empty() || id.len() > ID_BYTES_MAX || !id.bytes().all(plain) {
        return Err(Answer::error(
            400,
            "X-GitHub-Delivery must be an id such as 72d3162e-cc78-11e3-81ab-4c9367dc0958",
        ));
    }
    Ok(format!("github.{id}"))
}
