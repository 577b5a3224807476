//! What payloads of GitHub tell.

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
        "head_commit": { "id": "6113728f27ae82c7b1a177c8d03f9e96e0adf246", "message": "Say hello" },
        "sender": { "login": "octocat" }
    })
}

fn pull_request() -> Value {
    json!({
        "action": "opened", "number": 2,
        "pull_request": {
            "number": 2, "title": "Say more", "head": { "sha": "ec26c3e57ca3a959ca5aad62de7213c562f8c821", "ref": "more",
            "user": { "login": "octo" }, "repo": { "full_name": "Octo/hello" } }, "base": { "ref": "main" }
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
    for (message, skip) in [
        ("x [skip ci]", true),
        ("[ci skip]\n\nx", true),
        ("[no ci]", true),
        ("x\n\n[skip actions]", true),
        ("[actions skip] x", true),
        ("x\n\nskip-checks: true", true),
        ("x\r\n\r\n\r\nskip-checks:true\r\n", true),
        ("x\n\nSigned-off-by: o\nSkip-Checks: true\nCo-authored-by: p\n", true),
        // Not in the last paragraph, not a trailer, not the whole of it.
        ("skip-checks: true", false),
        ("x\n\nskip-checks: true\n\ny", false),
        ("x\n\nto say skip-checks: true", false),
        ("x\n\nskip-checks: true-ish", false),
        ("skip actions", false),
    ] {
        let mut skipped = push();
        skipped["head_commit"]["message"] = message.into();
        assert_eq!(event("push", &skipped).skip, skip, "{message:?}");
    }
}

/// "`@before`, which every push has": a new branch has none, and neither has a pull request that is opened.
#[test]
fn a_push_says_what_the_ref_named_before() {
    let before = |kind: &str, mut body: Value, before: &str| {
        body["before"] = before.into();
        event(kind, &body).before
    };
    let (old, none) = ("ec26c3e57ca3a959ca5aad62de7213c562f8c821", "0".repeat(40));
    assert_eq!(before("push", push(), old).as_deref(), Some(old));
    assert_eq!(before("push", push(), &none), None);
    let mut more = pull_request();
    more["action"] = "synchronize".into();
    assert_eq!(before("pull_request", more, old).as_deref(), Some(old));
    assert_eq!(event("pull_request", &pull_request()).before, None);
    let mut odd = push();
    odd["before"] = "main; id".into();
    assert!(told("push", &odd).is_err());
}

#[test]
fn a_pull_request() {
    let found = event("pull_request", &pull_request());
    assert_eq!(
        (found.name.as_str(), found.base.as_deref()),
        ("refs/pull/2/head", Some("refs/heads/main"))
    );
    assert_eq!((found.pull_request, found.foreign), (Some(2), false));
    assert_eq!((found.from.as_str(), found.author.as_str()), ("octo", ""));
    for (repo, foreign) in [
        (json!({ "full_name": "stranger/hello" }), true),
        (Value::Null, true),
        (json!({ "full_name": "octo/hello" }), false),
        (json!({ "full_name": "" }), true),
        (json!({}), true),
    ] {
        let mut other = pull_request();
        other["pull_request"]["head"]["repo"] = repo.clone();
        assert_eq!(event("pull_request", &other).foreign, foreign, "{repo}");
    }
    let mut unknown = pull_request();
    unknown["pull_request"]["head"].as_object_mut().unwrap().remove("repo");
    assert!(event("pull_request", &unknown).foreign, "from where is not said");
    for action in ["closed", "edited", "labeled"] {
        let mut other = pull_request();
        other["action"] = action.into();
        assert!(matches!(told("pull_request", &other), Ok(Told::Nothing(_))), "{action}");
    }
    // "edited": another title is no reason to build, another base is.
    let mut edited = pull_request();
    edited["action"] = "edited".into();
    edited["changes"] = json!({ "title": { "from": "Say" } });
    assert!(matches!(told("pull_request", &edited), Ok(Told::Nothing(_))));
    edited["changes"]["base"] = json!({ "ref": { "from": "old" }, "sha": { "from": "ec26c3e5" } });
    assert_eq!(event("pull_request", &edited), found);
}

#[test]
fn a_tag_and_a_ping_and_others() {
    let mut tag = json!({ "ref": "v1.0", "ref_type": "tag", "master_branch": "main",
        "repository": { "full_name": "octo/hello" } });
    let found = event("create", &tag);
    assert_eq!((found.name.as_str(), found.commit), ("refs/tags/v1.0", None));
    tag["ref_type"] = "branch".into();
    assert!(matches!(told("create", &tag), Ok(Told::Nothing(_))));
    assert_eq!(
        told("ping", &json!({ "zen": "Keep it logically awesome." })),
        Ok(Told::Ping)
    );
    assert!(matches!(
        told("issues", &json!({ "action": "opened" })),
        Ok(Told::Nothing(_))
    ));
}

/// "`commit` is the commit, not the tag object."
#[test]
fn a_push_of_a_tag_tells_its_commit() {
    let (tag, commit) = ("a".repeat(40), "c".repeat(40));
    let mut body = push();
    body["ref"] = "refs/tags/v1".into();
    body["after"] = tag.into();
    body["head_commit"]["id"] = commit.clone().into();
    assert_eq!(event("push", &body).commit, Some(commit));
    // A tag of something else than a commit.
    body["head_commit"] = Value::Null;
    assert_eq!(event("push", &body).commit, None);
    body["ref"] = "refs/heads/main".into();
    assert_eq!(event("push", &body).commit, Some("a".repeat(40)));
}

/// "An event name that does not fit the body is refused."
#[test]
fn a_body_is_what_it_is_under_every_name() {
    let create =
        json!({ "ref": "v1", "ref_type": "tag", "master_branch": "main", "repository": { "full_name": "o/r" } });
    let delete = json!({ "ref": "v1", "ref_type": "tag", "pusher_type": "user", "repository": { "full_name": "o/r" } });
    let mut review = pull_request();
    review["review"] = json!({ "id": 1 });
    let bodies = [
        ("push", push()),
        ("pull_request", pull_request()),
        ("create", create),
        ("ping", json!({ "zen": "x", "repository": { "full_name": "o/r" } })),
        ("delete", delete),
        ("pull_request_review", review),
    ];
    let built = ["push", "pull_request", "create", "ping"];
    let others = ["delete", "issues", "Push", "push ", ""];
    let names: Vec<&str> = built.into_iter().chain(others).collect();
    for (own, body) in &bodies {
        assert!(told(own, body).is_ok(), "{own}");
        let ours = built.contains(own);
        for name in names.iter().filter(|name| *name != own) {
            let theirs = built.contains(name);
            // Between two that are not built there is no difference.
            assert_eq!(told(name, body).is_err(), ours || theirs, "{own} as {name}");
        }
    }
    let mut both = push();
    both["zen"] = "x".into();
    for name in names {
        assert!(told(name, &both).is_err(), "{name}");
    }
}

#[test]
fn what_goes_on_to_jobs_has_the_form_that_github_gives_it() {
    let changed = |path: &str, value: Value| {
        let mut body = push();
        *body.pointer_mut(path).unwrap() = value;
        told("push", &body)
    };
    for (path, value) in [
        ("/ref", "x".repeat(1025)),
        ("/head_commit/id", "HEAD".into()),
        ("/head_commit/id", "c".repeat(41)),
        ("/head_commit/id", "--upload-pack=x".into()),
        ("/repository/full_name", "x".repeat(257)),
        ("/sender/login", "x".repeat(257)),
    ] {
        assert!(changed(path, value.clone().into()).is_err(), "{path} {value}");
    }
    assert!(changed("/ref", "x".repeat(1024).into()).is_ok());
    assert!(changed("/head_commit/id", "C".repeat(64).into()).is_ok());
}

#[test]
fn payloads_that_lack_something_are_errors() {
    let lacking = told("push", &json!({ "ref": "refs/heads/x" })).unwrap_err();
    assert!(lacking.contains("the ref and after of a push"), "{lacking}");
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
