//! What a delivery tells of: a push, a pull request or a tag, of a repository.

use serde::{Deserialize, Deserializer};

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
    /// The commit; a created tag does not tell it.
    pub commit: Option<String>,
    /// Who did it.
    pub sender: String,
    /// Whether its author asked for no build.
    pub skip: bool,
}

/// Words in the message of the newest commit, or the title of a pull request, that ask for no build.
const SKIP: [&str; 3] = ["[skip ci]", "[ci skip]", "[no ci]"];

/// The members of a payload that matter; all others are skipped unread.
#[derive(Default, Deserialize)]
pub struct Payload {
    #[serde(default)]
    action: Option<String>,
    #[serde(default, rename = "ref")]
    name: Option<String>,
    #[serde(default)]
    ref_type: Option<String>,
    #[serde(default)]
    after: Option<String>,
    #[serde(default)]
    deleted: Option<bool>,
    #[serde(default)]
    head_commit: Option<Commit>,
    #[serde(default)]
    pull_request: Option<PullRequest>,
    /// The repository; a ping of an organisation's webhook has none.
    #[serde(default)]
    pub repository: Option<Repository>,
    #[serde(default)]
    sender: Option<User>,
}

#[derive(Deserialize)]
struct Commit {
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
    head: Head,
    base: Base,
}

#[derive(Deserialize)]
struct Head {
    sha: String,
    /// Null once the fork it came from is gone.
    #[serde(default, deserialize_with = "known")]
    repo: Option<Option<Repository>>,
}

#[derive(Deserialize)]
struct Base {
    #[serde(rename = "ref")]
    name: String,
}

/// Tells a member that is null from one that is absent.
fn known<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<Repository>>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

impl Payload {
    /// Reads a body.
    pub fn read(body: &[u8], form: Form) -> Result<Self, String> {
        payload::read(body, form)
    }

    /// What it tells, `event` being the header X-GitHub-Event. The error says what a payload of
    /// that kind would have.
    pub fn told(self, event: &str) -> Result<Told, String> {
        let sender = self.sender.map(|user| user.login).unwrap_or_default();
        let repository = self.repository;
        let event = match event {
            "ping" => return Ok(Told::Ping),
            "push" => {
                if self.deleted == Some(true) {
                    return Ok(Told::Nothing("a deleted ref is not built"));
                }
                let message = self.head_commit.and_then(|commit| commit.message);
                Event {
                    kind: "push",
                    name: self.name.ok_or("a push has a ref")?,
                    commit: Some(self.after.ok_or("a push has an after")?),
                    skip: asks_for_none(message.as_deref()),
                    ..Event::default()
                }
            }
            "create" if self.ref_type.as_deref() == Some("tag") => Event {
                kind: "create",
                name: format!("refs/tags/{}", self.name.ok_or("a created tag has a ref")?),
                ..Event::default()
            },
            "create" => return Ok(Told::Nothing("a new branch is told by its push")),
            "pull_request" => match self.action.as_deref() {
                Some("opened" | "synchronize" | "reopened") => {
                    let pull = self.pull_request.ok_or("a pull_request has a pull_request")?;
                    pull.event(repository.as_ref())
                }
                _ => {
                    return Ok(Told::Nothing(
                        "of pull requests only opened, synchronize and reopened are built",
                    ));
                }
            },
            _ => return Ok(Told::Nothing("only push, pull_request and create are built")),
        };
        let repository = repository.filter(|repository| !repository.full_name.is_empty());
        Ok(Told::Event(Box::new(Event {
            repository: repository.ok_or("the payload names no repository.full_name")?,
            sender,
            ..event
        })))
    }
}

impl PullRequest {
    fn event(self, repository: Option<&Repository>) -> Event {
        let own = |head: &Repository| repository.is_some_and(|to| to.full_name.eq_ignore_ascii_case(&head.full_name));
        Event {
            kind: "pull_request",
            name: format!("refs/pull/{}/head", self.number),
            base: Some(format!("refs/heads/{}", self.base.name)),
            foreign: self.head.repo.is_some_and(|head| !head.as_ref().is_some_and(own)),
            pull_request: Some(self.number),
            commit: Some(self.head.sha),
            skip: asks_for_none(self.title.as_deref()),
            ..Event::default()
        }
    }
}

fn asks_for_none(text: Option<&str>) -> bool {
    let text = text.unwrap_or_default();
    SKIP.iter().any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn told(event: &str, payload: &Value) -> Result<Told, String> {
        Payload::read(payload.to_string().as_bytes(), Form::Json)?.told(event)
    }

    fn event(kind: &str, payload: &Value) -> Event {
        match told(kind, payload) {
            Ok(Told::Event(event)) => *event,
            other => panic!("{other:?}"),
        }
    }

    fn push() -> Value {
        json!({
            "ref": "refs/heads/main", "after": "6113728f27ae82c7b1a177c8d03f9e96e0adf246", "deleted": false,
            "repository": { "full_name": "octo/hello", "default_branch": "main", "clone_url": "https://github.com/octo/hello.git" },
            "head_commit": { "message": "Say hello" }, "sender": { "login": "octocat" }
        })
    }

    fn pull_request() -> Value {
        json!({
            "action": "opened", "number": 2,
            "pull_request": {
                "number": 2, "title": "Say more", "head": { "sha": "ec26c3e57ca3a959ca5aad62de7213c562f8c821", "ref": "more",
                "repo": { "full_name": "Octo/hello" } }, "base": { "ref": "main" }
            },
            "repository": { "full_name": "octo/hello" }, "sender": { "login": "octocat" }
        })
    }

    #[test]
    fn a_push() {
        let found = event("push", &push());
        assert_eq!(
            (found.name.as_str(), found.sender.as_str(), found.skip),
            ("refs/heads/main", "octocat", false)
        );
        assert_eq!(
            found.commit.as_deref(),
            Some("6113728f27ae82c7b1a177c8d03f9e96e0adf246")
        );
        let mut deleted = push();
        deleted["deleted"] = true.into();
        assert!(matches!(told("push", &deleted), Ok(Told::Nothing(_))));
        for message in ["x [skip ci]", "[ci skip]\n\nx", "[no ci]"] {
            let mut skipped = push();
            skipped["head_commit"]["message"] = message.into();
            assert!(event("push", &skipped).skip, "{message}");
        }
    }

    #[test]
    fn a_pull_request() {
        let found = event("pull_request", &pull_request());
        assert_eq!(
            (found.name.as_str(), found.base.as_deref()),
            ("refs/pull/2/head", Some("refs/heads/main"))
        );
        assert_eq!((found.pull_request, found.foreign), (Some(2), false));
        for (repo, foreign) in [
            (json!({ "full_name": "stranger/hello" }), true),
            (Value::Null, true),
            (json!({ "full_name": "octo/hello" }), false),
        ] {
            let mut other = pull_request();
            other["pull_request"]["head"]["repo"] = repo.clone();
            assert_eq!(event("pull_request", &other).foreign, foreign, "{repo}");
        }
        for action in ["closed", "edited", "labeled"] {
            let mut other = pull_request();
            other["action"] = action.into();
            assert!(matches!(told("pull_request", &other), Ok(Told::Nothing(_))), "{action}");
        }
    }

    #[test]
    fn a_tag_and_a_ping_and_others() {
        let mut tag = json!({ "ref": "v1.0", "ref_type": "tag", "repository": { "full_name": "octo/hello" } });
        let found = event("create", &tag);
        assert_eq!((found.name.as_str(), found.commit), ("refs/tags/v1.0", None));
        tag["ref_type"] = "branch".into();
        assert!(matches!(told("create", &tag), Ok(Told::Nothing(_))));
        assert_eq!(
            told("ping", &json!({ "zen": "Keep it logically awesome." })),
            Ok(Told::Ping)
        );
        assert!(matches!(told("issues", &push()), Ok(Told::Nothing(_))));
    }

    #[test]
    fn payloads_that_lack_something_are_errors() {
        for (kind, member) in [
            ("push", "ref"),
            ("push", "after"),
            ("push", "repository"),
            ("pull_request", "pull_request"),
        ] {
            let mut payload = if kind == "push" { push() } else { pull_request() };
            payload.as_object_mut().unwrap().remove(member);
            assert!(told(kind, &payload).is_err(), "{kind} without {member}");
        }
        for text in [
            "",
            "[]",
            "7",
            "{\"ref\": 7}",
            "{\"ref\": \"a\", \"ref\": \"b\"}",
            "nonsense",
            "{",
        ] {
            let found = Payload::read(text.as_bytes(), Form::Json).and_then(|payload| payload.told("push"));
            assert!(found.is_err(), "{text}");
        }
    }
}
