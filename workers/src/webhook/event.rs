//! What a delivery tells of: a push, a pull request or a tag, of a repository.

use distcifs_settings::git::is_commit;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::payload::{self, Form};

/// What a delivery means to jobs.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    /// GitHub asks whether we are there.
    Ping,
    /// Something that jobs may wait for.
    Event(Box<Event>),
    /// Nothing that builds are made of, and why.
    Nothing(&'static str),
}

/// A repository as GitHub names it.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Repository {
    /// `owner/name`.
    #[serde(default)]
    pub full_name: String,
    /// The branch that HEAD is.
    #[serde(default)]
    pub default_branch: Option<String>,
    #[serde(default)]
    clone_url: Option<String>,
    #[serde(default)]
    ssh_url: Option<String>,
    #[serde(default)]
    html_url: Option<String>,
}

impl Repository {
    /// The addresses that it can be fetched from.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        let all = [&self.clone_url, &self.ssh_url, &self.html_url];
        all.into_iter().filter_map(|address| address.as_deref())
    }
}

/// Something that happened to a ref of a repository.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// The kind, in GitHub's word: push, pull_request, create.
    pub kind: &'static str,
    /// The repository.
    pub repository: Repository,
    /// The full ref that is to be built.
    pub name: String,
    /// Of a pull request: the full ref of the branch it is to be merged into.
    pub base: Option<String>,
    /// Of a pull request: whether its commits come from another repository.
    pub foreign: bool,
    /// Of a pull request: its number.
    pub pull_request: Option<u64>,
    /// The commit; a created tag does not tell it, nor does a pushed one that is of no commit.
    pub commit: Option<String>,
    /// What the ref named before; a new one named nothing.
    pub before: Option<String>,
    /// Who did it.
    pub sender: String,
    /// Who opened the pull request; empty if that is not said, and for a push.
    pub author: String,
    /// Whose repository the commits of a pull request come from; empty if that is not said, and for a push.
    pub from: String,
    /// Whether its author asked for no build.
    pub skip: bool,
}

/// Words in the message of the newest commit, or the title of a pull request, that ask for no build.
const SKIP: [&str; 5] = ["[skip ci]", "[ci skip]", "[no ci]", "[skip actions]", "[actions skip]"];

/// The trailer of a commit's message that asks for none.
const SKIP_TRAILER: (&str, &str) = ("skip-checks", "true");

/// Longest ref, bytes: git takes no part of one that is longer than a file's name.
const NAME_BYTES_MAX: usize = 1024;

/// Longest name of a repository or a user, bytes: GitHub's have 140 and 39.
const WORD_BYTES_MAX: usize = 256;

/// The members of a payload that matter; all others are skipped unread.
#[derive(Default, Deserialize)]
pub struct Payload {
    #[serde(default)]
    action: Option<String>,
    #[serde(default, rename = "ref")]
    name: Option<String>,
    #[serde(default)]
    ref_type: Option<String>,
    /// What tells a new ref from one that was deleted.
    #[serde(default)]
    master_branch: Option<IgnoredAny>,
    #[serde(default)]
    after: Option<String>,
    #[serde(default)]
    before: Option<String>,
    #[serde(default)]
    deleted: Option<bool>,
    #[serde(default)]
    head_commit: Option<Commit>,
    #[serde(default)]
    pull_request: Option<PullRequest>,
    /// What an edited pull request was before.
    #[serde(default)]
    changes: Option<Changes>,
    /// Of what is said about a pull request.
    #[serde(default)]
    review: Option<IgnoredAny>,
    #[serde(default)]
    comment: Option<IgnoredAny>,
    #[serde(default)]
    thread: Option<IgnoredAny>,
    #[serde(default)]
    zen: Option<IgnoredAny>,
    /// The repository; a ping of an organisation's webhook has none.
    #[serde(default)]
    pub repository: Option<Repository>,
    #[serde(default)]
    sender: Option<User>,
}

/// What a body is, by what stands in it: the name in the header is not signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ping,
    Push,
    Create,
    PullRequest,
    Other,
}

impl Kind {
    /// GitHub's word.
    fn word(self) -> &'static str {
        match self {
            Kind::Ping => "ping",
            Kind::Push => "push",
            Kind::Create => "create",
            Kind::PullRequest => "pull_request",
            Kind::Other => "another event",
        }
    }

    /// By what it is known.
    fn marks(self) -> &'static str {
        match self {
            Kind::Ping => "the zen of a ping",
            Kind::Push => "the ref and after of a push",
            Kind::Create => "the ref, ref_type and master_branch of a create",
            Kind::PullRequest => "the pull_request of a pull_request",
            Kind::Other => "what another event has",
        }
    }
}

#[derive(Deserialize)]
struct Commit {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    message: Option<String>,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    login: String,
}

#[derive(Deserialize)]
struct PullRequest {
    number: u64,
    #[serde(default)]
    title: Option<String>,
    /// Who opened it; null once that account is gone.
    #[serde(default)]
    user: Option<User>,
    head: Head,
    base: Base,
}

#[derive(Deserialize)]
struct Changes {
    /// The branch that it was to be merged into.
    #[serde(default)]
    base: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Head {
    sha: String,
    /// Whose repository it is in; null once that account is gone.
    #[serde(default)]
    user: Option<User>,
    /// Null once the fork it came from is gone.
    #[serde(default)]
    repo: Option<Repository>,
}

#[derive(Deserialize)]
struct Base {
    #[serde(rename = "ref")]
    name: String,
}

impl Payload {
    /// Reads a body.
    pub fn read(body: &[u8], form: Form) -> Result<Self, String> {
        payload::read(body, form)
    }

    /// What it is; the error names two things that it could be.
    fn kind(&self) -> Result<Kind, String> {
        let talk = self.review.is_some() || self.comment.is_some() || self.thread.is_some();
        let fits = [
            (Kind::Ping, self.zen.is_some()),
            (Kind::Push, self.name.is_some() && self.after.is_some()),
            (
                Kind::Create,
                self.name.is_some() && self.ref_type.is_some() && self.master_branch.is_some(),
            ),
            (Kind::PullRequest, self.pull_request.is_some() && !talk),
        ];
        let mut found = fits.into_iter().filter(|(_, fits)| *fits).map(|(kind, _)| kind);
        match (found.next(), found.next()) {
            (Some(one), Some(other)) => Err(format!(
                "the body could be that of {} and that of {}",
                one.word(),
                other.word()
            )),
            (found, _) => Ok(found.unwrap_or(Kind::Other)),
        }
    }

    /// What it tells, `event` being the header X-GitHub-Event. The error says what a payload of
    /// that kind would have.
    pub fn told(self, event: &str) -> Result<Told, String> {
        let kind = self.kind()?;
        let wanted = match event {
            "ping" => Kind::Ping,
            "push" => Kind::Push,
            "create" => Kind::Create,
            "pull_request" => Kind::PullRequest,
            _ => Kind::Other,
        };
        if kind != wanted {
            // Who caught a delivery must not make another of it.
            return Err(match kind {
                Kind::Other => format!("X-GitHub-Event is {event}, and the body has not {}", wanted.marks()),
                _ => format!("X-GitHub-Event is {event}, and the body is that of {}", kind.word()),
            });
        }
        let sender = self.sender.map(|user| user.login).unwrap_or_default();
        let repository = self.repository;
        let before = self.before.filter(|before| before.bytes().any(|digit| digit != b'0'));
        let event = match kind {
            Kind::Ping => return Ok(Told::Ping),
            Kind::Other => return Ok(Told::Nothing("only push, pull_request and create are built")),
            Kind::Push if self.deleted == Some(true) => return Ok(Told::Nothing("a deleted ref is not built")),
            Kind::Push => {
                let name = self.name.ok_or("a push has a ref")?;
                let (id, message) = self.head_commit.map_or((None, None), |head| (head.id, head.message));
                // `after` is what the ref names: of an annotated tag not the commit, but the tag.
                let after = self.after.filter(|_| !name.starts_with("refs/tags/"));
                Event {
                    kind: "push",
                    name,
                    commit: id.or(after),
                    before,
                    skip: message.is_some_and(|message| asks_for_none(&message) || has_trailer(&message)),
                    ..Event::default()
                }
            }
            Kind::Create if self.ref_type.as_deref() == Some("tag") => Event {
                kind: "create",
                name: format!("refs/tags/{}", self.name.ok_or("a created tag has a ref")?),
                ..Event::default()
            },
            Kind::Create => return Ok(Told::Nothing("a new branch is told by its push")),
            Kind::PullRequest => {
                let new_base = self.changes.is_some_and(|changes| changes.base.is_some());
                match self.action.as_deref() {
                    Some("opened" | "synchronize" | "reopened") => {}
                    Some("edited") if new_base => {}
                    _ => {
                        return Ok(Told::Nothing(
                            "of pull requests only opened, synchronize, reopened and edited with a new base are built",
                        ));
                    }
                }
                let pull = self.pull_request.ok_or("a pull_request has a pull_request")?;
                let event = pull.event(repository.as_ref());
                Event { before, ..event }
            }
        };
        let repository = repository.filter(|repository| !repository.full_name.is_empty());
        let event = Event {
            repository: repository.ok_or("the payload names no repository.full_name")?,
            sender,
            ..event
        };
        event.check()?;
        Ok(Told::Event(Box::new(event)))
    }
}

impl Event {
    /// Whether everything has the form that GitHub gives it: it goes on to jobs.
    fn check(&self) -> Result<(), String> {
        let long = |what: &str, text: &str, most: usize| {
            (text.len() > most).then(|| format!("{what} has more than {most} bytes"))
        };
        let base = self.base.as_deref().unwrap_or_default();
        let faults = [
            long("the ref", &self.name, NAME_BYTES_MAX),
            long("the ref", base, NAME_BYTES_MAX),
            long("repository.full_name", &self.repository.full_name, WORD_BYTES_MAX),
            long("sender.login", &self.sender, WORD_BYTES_MAX),
            long("pull_request.user.login", &self.author, WORD_BYTES_MAX),
            long("pull_request.head.user.login", &self.from, WORD_BYTES_MAX),
        ];
        if let Some(fault) = faults.into_iter().flatten().next() {
            return Err(fault);
        }
        match self.commit.iter().chain(&self.before).find(|commit| !is_commit(commit)) {
            Some(_) => Err("a commit has 40 or 64 hexadecimal digits".into()),
            None => Ok(()),
        }
    }
}

impl PullRequest {
    fn event(self, repository: Option<&Repository>) -> Event {
        let own = |head: &Repository| repository.is_some_and(|to| to.full_name.eq_ignore_ascii_case(&head.full_name));
        Event {
            kind: "pull_request",
            name: format!("refs/pull/{}/head", self.number),
            base: Some(format!("refs/heads/{}", self.base.name)),
            // Where it is not said from which repository it is, it is a stranger's.
            foreign: !self.head.repo.as_ref().is_some_and(own),
            pull_request: Some(self.number),
            author: self.user.map(|user| user.login).unwrap_or_default(),
            from: self.head.user.map(|user| user.login).unwrap_or_default(),
            commit: Some(self.head.sha),
            skip: self.title.is_some_and(|title| asks_for_none(&title)),
            ..Event::default()
        }
    }
}

fn asks_for_none(text: &str) -> bool {
    SKIP.iter().any(|word| text.contains(word))
}

/// Whether the last paragraph of a message, which is not its first, has the trailer.
fn has_trailer(message: &str) -> bool {
    let (name, value) = SKIP_TRAILER;
    let is_it = |line: &str| {
        let halves = line.split_once(':');
        halves.is_some_and(|(key, rest)| key.eq_ignore_ascii_case(name) && rest.trim().eq_ignore_ascii_case(value))
    };
    let trailers: Vec<&str> = message
        .trim_end()
        .lines()
        .rev()
        .take_while(|line| !line.trim().is_empty())
        .collect();
    trailers.len() < message.trim_end().lines().count() && trailers.into_iter().any(is_it)
}

#[cfg(test)]
mod tests;
