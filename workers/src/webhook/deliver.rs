//! One delivery, from its raw body to the builds: who signed it, what it tells, which jobs take it.
//!
//! It runs on a thread that may wait for the tree, one step after another. What is answered goes to
//! whoever sent the body, who may have caught it: it names no job. The log says all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::body::Whole;
use super::event::{Event, Payload, Told};
use super::grants::{Grant, Grants};
use super::payload::Form;
use super::quiet::Quiet;
use super::signature::{Signature, digest};
use super::source::Source;
use super::table::Table;
use super::watched::Watched;
use crate::lanes::Lanes;
use crate::secret::Secret;
use crate::tree::{JobFolder, Tree, Trouble};

/// Bytes hashed at most for a delivery that names no repository, only to tell a stranger from
/// somebody who shares a secret with us: some tens of milliseconds.
const HASHED_FOR_NOBODY: usize = 64 << 20;

/// Secrets read at most for such a delivery.
const SECRETS_FOR_NOBODY: usize = 256;

/// What is tried in place of a secret that can't be read: nothing is ever signed with it, as what it
/// gives is thrown away.
const NO_SECRET: &[u8] = b"none";

/// How long jobs are triggered: the request is answered after 8 s whatever happens.
const TRIGGER_TIME: Duration = Duration::from_secs(7);

/// How often a trigger is tried that somebody holds by a lease, and the pause between.
const HELD_TRIES: u32 = 5;
const HELD_PAUSE: Duration = Duration::from_millis(200);

/// Jobs that a line of the log names, at most.
const NAMED_MAX: usize = 20;

/// A request that arrived whole.
pub struct Delivery {
    /// The body as it came.
    pub body: Whole,
    /// X-GitHub-Event.
    pub event: Option<String>,
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
    /// Whether it was signed, so that the log is told of it however often it comes.
    pub signed: bool,
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
            signed: matches!(status, 200..=202 | 422),
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
    /// Who signs for what, for whose jobs.
    pub source: Source,
    /// What the log is told of secrets that can't be read.
    pub faults: Quiet,
    /// Where triggers are written: whoever may write to one can make others wait who do.
    pub(super) lanes: Lanes,
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
        let repository = payload.as_ref().ok().and_then(|payload| payload.repository.as_ref());
        let repository = repository.map(|repository| repository.full_name.as_str());
        let body = &delivery.body.bytes;
        let signed = signed(&self.source.grants(), repository, &signature, body, &self.faults)?;
        // What is wrong with the body is only told to who signed it.
        let payload = payload?;
        let event = delivery.event.as_deref();
        let event = event.ok_or_else(|| Answer::error(400, "X-GitHub-Event is missing"))?;
        match payload.told(event).map_err(|why| Answer::error(400, why))? {
            Told::Ping => Ok(Answer::new(200, "ok", "pong")),
            Told::Nothing(why) => Ok(Answer::none(why)),
            Told::Event(event) => {
                let key = format!("github.{}", digest(&delivery.body.bytes));
                Ok(self.build(&signed, delivery.job.as_deref(), &event, &key))
            }
        }
    }

    /// Triggers the jobs that take an event. All that is built from it is found again by the key,
    /// which the body alone makes: not by what was said beside it.
    fn build(&self, signed: &[Arc<Grant>], job: Option<&str>, event: &Event, key: &str) -> Answer {
        let what = format!(
            "{} of {}",
            event.name.escape_debug(),
            event.repository.full_name.escape_debug()
        );
        let mut candidates = match job {
            Some(job) => self.table.job(job).into_iter().collect(),
            None => self.table.of_repository(&event.repository.full_name),
        };
        candidates.retain(|(_, watched)| watched.takes(event));
        let mut outcome = Outcome::default();
        let mut jobs = Vec::new();
        for (job, watched) in candidates {
            match self.tree.open_job(&job) {
                Ok(folder) if self.may(signed, &folder, &watched) => jobs.push((job, watched, folder)),
                Ok(_) => outcome.note(&job, Ok(None)),
                Err(trouble) => outcome.note(&job, Err(trouble)),
            }
        }
        // Of jobs whose owners may not use the repository nothing is told, so not that there are any either.
        if event.skip && !jobs.is_empty() {
            return Answer::none(format!("{what}: its author asked for no build"));
        }
        let (tell, told) = channel();
        let mut begun = BTreeSet::new();
        for (job, watched, folder) in jobs {
            let (tell, name, owner, text) = (tell.clone(), job.clone(), folder.owner(), watched.trigger(event, key));
            // Nobody is told any more when the request was answered.
            let trigger = move || drop(tell.send((name, patiently(&folder, &text))));
            if self.lanes.begin(owner, &job, trigger) {
                begun.insert(job);
            } else {
                let why = "somebody holds up what is written to its trigger".to_owned();
                outcome.note(&job, Err(Trouble::Held(why)));
            }
        }
        drop(tell);
        outcome.note_all(begun, &told);
        outcome.answer(&what)
    }

    /// Whether one of the lines whose secret made the signature is for jobs of this owner, and its
    /// secret the one that the job wants, if it wants a certain one.
    fn may(&self, signed: &[Arc<Grant>], folder: &JobFolder, watched: &Watched) -> bool {
        let wanted = watched.secret_file.as_deref().map(|path| self.source.named(path));
        signed.iter().any(|grant| {
            let secret = match &wanted {
                None => true,
                Some(wanted) => wanted.as_ref() == Some(&grant.secret),
            };
            secret && grant.owners.include(folder.owner())
        })
    }
}

/// Triggers a job. Who holds a lease and heeds the kernel gives it back at once.
fn patiently(folder: &JobFolder, text: &[u8]) -> Result<String, Trouble> {
    for _ in 1..HELD_TRIES {
        match folder.trigger(text) {
            Err(Trouble::Held(_)) => thread::sleep(HELD_PAUSE),
            triggered => return triggered,
        }
    }
    folder.trigger(text)
}

/// The lines for a repository whose secret made the signature; without a repository none, if any
/// secret did. It takes as long whether they are right or wrong, whether there are any or not, and
/// whether their secrets can be read: as many are tried as the repository with most of them has.
fn signed(
    grants: &Grants,
    repository: Option<&str>,
    signature: &Signature,
    body: &[u8],
    faults: &Quiet,
) -> Result<Vec<Arc<Grant>>, Answer> {
    let is_by = |secret: &Secret| match secret.read() {
        Ok(secret) => signature.is_by(&secret, body),
        Err(why) => {
            faults.say(&why);
            let _ = signature.is_by(NO_SECRET, body);
            false
        }
    };
    let stranger = || Answer::error(401, "the signature is not made with a secret of what this is about");
    let Some(repository) = repository else {
        let most = (HASHED_FOR_NOBODY / body.len().max(1) + 1).min(SECRETS_FOR_NOBODY);
        let good = grants.secrets().into_iter().take(most).filter(|secret| is_by(secret));
        return if good.count() > 0 {
            Ok(Vec::new())
        } else {
            Err(stranger())
        };
    };
    let found = grants.of(repository);
    let secrets: BTreeSet<&Secret> = found.iter().map(|grant| &grant.secret).collect();
    let missing = grants.most_secrets().saturating_sub(secrets.len());
    let good: BTreeSet<&Secret> = secrets.into_iter().filter(|secret| is_by(secret)).collect();
    if let Some(any) = grants.secrets().first() {
        for _ in 0..missing {
            let _ = is_by(any);
        }
    }
    if good.is_empty() {
        return Err(stranger());
    }
    let signed = found.iter().filter(|grant| good.contains(&grant.secret));
    Ok(signed.cloned().collect())
}

/// What became of the jobs that take an event.
#[derive(Default)]
struct Outcome {
    builds: BTreeMap<String, String>,
    refused: BTreeMap<String, String>,
    /// Jobs whose owner may not use the repository.
    strangers: BTreeSet<String>,
    away: Option<String>,
}

impl Outcome {
    /// Notes how these ended, as far as they do within the time that there is.
    fn note_all(&mut self, mut begun: BTreeSet<String>, told: &Receiver<(String, Result<String, Trouble>)>) {
        let until = Instant::now() + TRIGGER_TIME;
        while !begun.is_empty() {
            let Ok((job, triggered)) = told.recv_timeout(until.saturating_duration_since(Instant::now())) else {
                self.away = Some(format!("{TRIGGER_TIME:?} were not enough for all jobs"));
                return;
            };
            begun.remove(&job);
            self.note(&job, triggered.map(Some));
        }
    }

    fn note(&mut self, job: &str, triggered: Result<Option<String>, Trouble>) {
        match triggered {
            Ok(Some(build)) => drop(self.builds.insert(job.to_owned(), build)),
            Ok(None) => drop(self.strangers.insert(job.to_owned())),
            Err(Trouble::Lost(why) | Trouble::Refused(why) | Trouble::Held(why)) => {
                drop(self.refused.insert(job.to_owned(), why))
            }
            Err(Trouble::Away(why) | Trouble::Later(why) | Trouble::Full(why)) => self.away = Some(why),
        }
    }

    /// `hello/7; refused by other: …`, for the log.
    fn summary(&self) -> String {
        let mut parts: Vec<String> = self.builds.iter().map(|(job, n)| format!("{job}/{n}")).collect();
        parts.extend(self.refused.iter().map(|(job, why)| format!("refused by {job}: {why}")));
        let stranger = |job: &String| format!("{job} is not told, as its owner may not use the repository");
        parts.extend(self.strangers.iter().map(stranger));
        let more = parts.len().saturating_sub(NAMED_MAX);
        parts.truncate(NAMED_MAX);
        if more > 0 {
            parts.push(format!("and {more} more"));
        }
        parts.extend(self.away.clone());
        if parts.is_empty() {
            return "no job builds it".to_owned();
        }
        parts.join("; ")
    }

    /// What is answered: numbers only.
    fn answer(&self, what: &str) -> Answer {
        let about = format!("{what}: {}", self.summary());
        let (builds, refused) = (self.builds.len(), self.refused.len());
        let (status, body) = match (&self.away, builds, refused) {
            (Some(_), ..) => (
                503,
                json!({ "error": "the tree does not take all of it just now", "builds": builds }),
            ),
            (None, 0, 0) => (202, json!({ "why": format!("no job builds {what}") })),
            (None, 0, _) => (422, json!({ "builds": 0, "refused": refused })),
            (None, _, 0) => (201, json!({ "builds": builds })),
            (None, ..) => (201, json!({ "builds": builds, "refused": refused })),
        };
        Answer {
            status,
            body,
            about,
            builds,
            signed: true,
        }
    }
}
