//! What jobs wait for, and what they are told.

use serde_json::json;

use super::*;
use crate::webhook::event::{Payload, Told};
use crate::webhook::payload::Form;

/// Commits.
const ABC: &str = "abcabcabcabcabcabcabcabcabcabcabcabcabca";
const DEF: &str = "defdefdefdefdefdefdefdefdefdefdefdefdefd";

fn event(kind: &str, payload: &Value) -> Event {
    let payload = Payload::read(payload.to_string().as_bytes(), Form::Json).unwrap();
    match payload.told(kind) {
        Ok(Told::Event(event)) => *event,
        other => panic!("{other:?}"),
    }
}

fn repository() -> Value {
    json!({
        "full_name": "Octo/hello", "default_branch": "main", "clone_url": "https://github.com/Octo/hello.git",
        "ssh_url": "git@github.com:Octo/hello.git", "html_url": "https://github.com/Octo/hello"
    })
}

fn push(name: &str) -> Event {
    event(
        "push",
        &json!({ "ref": name, "after": ABC, "head_commit": { "id": ABC }, "repository": repository(),
            "sender": { "login": "cat" } }),
    )
}

fn pull_request(from: &str) -> Event {
    let pull = json!({ "number": 7, "head": { "sha": DEF, "repo": { "full_name": from } }, "base": { "ref": "main" } });
    event(
        "pull_request",
        &json!({ "action": "opened", "pull_request": pull, "repository": repository(), "sender": { "login": "cat" } }),
    )
}

fn watched(config: &Value) -> Watched {
    Watched::read(config.to_string().as_bytes()).unwrap()
}

/// A job with a `github` entry of these refs.
fn entry_of(refs: Value) -> Watched {
    watched(&json!({ "tasks": [], "github": { "repository": "octo/Hello", "refs": refs } }))
}

/// A job that checks this out.
fn checkout(repository: &str, name: Value, parameters: Value) -> Option<Watched> {
    let mut params = json!({ "repository": repository });
    if !name.is_null() {
        params["ref"] = name;
    }
    let tasks = json!([{ "type": "lint" }, { "type": "git-checkout", "params": params }]);
    Watched::read(
        json!({ "tasks": tasks, "parameters": parameters })
            .to_string()
            .as_bytes(),
    )
}

#[test]
fn an_entry_takes_the_refs_that_it_names() {
    let plain = watched(&json!({ "tasks": [], "github": { "repository": "octo/Hello" } }));
    assert_eq!(plain.repositories(), ["octo/hello"]);
    for (name, takes) in [
        ("refs/heads/main", true),
        ("refs/heads/a/b", true),
        ("refs/tags/v1", false),
    ] {
        assert_eq!(plain.takes(&push(name)), takes, "{name}");
    }
    let releases = entry_of(json!(["refs/tags/v*", "refs/heads/release-*-fix"]));
    for (name, takes) in [
        ("refs/tags/v1", true),
        ("refs/tags/w1", false),
        ("refs/heads/release-1-fix", true),
        ("refs/heads/release--fix", true),
        ("refs/heads/release-fix", false),
        ("refs/heads/release-1-fix2", false),
    ] {
        assert_eq!(releases.takes(&push(name)), takes, "{name}");
    }
    let mut other = push("refs/heads/main");
    other.repository.full_name = "octo/hello2".into();
    assert!(!plain.takes(&other));
}

#[test]
fn a_strangers_pull_request_must_be_asked_for() {
    let branches = entry_of(json!(["refs/heads/*"]));
    assert!(branches.takes(&pull_request("octo/hello")), "by the branch it goes to");
    assert!(!branches.takes(&pull_request("stranger/hello")));
    assert!(!entry_of(json!(["refs/heads/other"])).takes(&pull_request("octo/hello")));
    for pattern in [
        "refs/*",
        "refs/**",
        "refs/p*",
        "refs/pull*",
        "refs/*/head",
        "*",
        "refs/*pull/*",
        "refs/pul*/7/head",
    ] {
        let wide = entry_of(json!([pattern]));
        assert!(
            !wide.takes(&pull_request("stranger/hello")),
            "{pattern} does not write them out"
        );
        assert!(!wide.takes(&push("refs/pull/7/head")), "{pattern}");
    }
    assert!(
        entry_of(json!(["refs/*"])).takes(&pull_request("octo/hello")),
        "by the branch it goes to"
    );
    assert!(!entry_of(json!(["refs/p*"])).takes(&pull_request("octo/hello")));
    assert!(entry_of(json!(["refs/pull/7/head"])).takes(&pull_request("stranger/hello")));
    assert!(!entry_of(json!(["refs/pull/8/*"])).takes(&pull_request("stranger/hello")));
    let pulls = entry_of(json!(["refs/pull/*"]));
    assert!(pulls.takes(&pull_request("octo/hello")));
    assert!(pulls.takes(&pull_request("stranger/hello")));
    assert!(!pulls.takes(&push("refs/heads/main")));
}

#[test]
fn a_checkout_takes_its_repository_and_ref() {
    let takes = |repository: &str, name: Value, event: &Event| {
        checkout(repository, name, json!({})).is_some_and(|watched| watched.takes(event))
    };
    let main = push("refs/heads/main");
    for address in [
        "https://github.com/octo/hello.git",
        "https://token@GitHub.com/Octo/Hello/",
        "git@github.com:octo/hello.git",
        "ssh://git@github.com:22/octo/hello",
        "git://github.com/octo/hello",
    ] {
        assert!(takes(address, json!("main"), &main), "{address}");
    }
    for address in [
        "https://github.com/octo/hello2",
        "https://example.org/octo/hello",
        "/srv/git/octo/hello",
        "file:///octo/hello",
        "octo/hello",
        "https://github.com",
        "",
    ] {
        assert!(!takes(address, json!("main"), &main), "{address}");
    }
    let hello = "https://github.com/octo/hello";
    for (name, takes_main, takes_tag) in [
        (json!(null), true, false),
        (json!("HEAD"), true, false),
        (json!("refs/heads/main"), true, false),
        (json!("refs/tags/main"), false, true),
        (json!("main"), true, true),
        (json!("other"), false, false),
        (json!("6113728f27ae82c7b1a177c8d03f9e96e0adf246"), false, false),
    ] {
        assert_eq!(takes(hello, name.clone(), &main), takes_main, "{name}");
        assert_eq!(takes(hello, name.clone(), &push("refs/tags/main")), takes_tag, "{name}");
    }
}

/// "Who signs with its secret speaks for its repositories": an address beside the name makes it no other.
#[test]
fn a_delivery_for_one_repository_does_not_speak_for_another() {
    let signed = |name: &str, address: &str| {
        let repository = json!({ "full_name": name, "default_branch": "main", "clone_url": address });
        event(
            "push",
            &json!({ "ref": "refs/heads/main", "after": ABC, "repository": repository, "sender": { "login": "cat" } }),
        )
    };
    let job = checkout("https://github.com/acme/app", json!("main"), json!({})).unwrap();
    assert!(job.takes(&signed("Acme/App", "https://github.com/acme/app.git")));
    for (name, address) in [
        ("mal/any", "https://github.com/acme/app"),
        ("acme/app", "https://github.com/mal/any"),
        ("acme/app", "https://example.org/acme/app"),
        ("mal/any", ""),
    ] {
        assert!(!job.takes(&signed(name, address)), "{name} {address}");
    }
}

#[test]
fn a_checkout_of_a_parameter_stands_for_its_default() {
    let hello = "https://github.com/${who}/hello";
    let job = |default: Value| checkout(hello, json!("${ref}"), json!({ "who": "octo", "ref": default })).unwrap();
    assert!(job(json!("refs/heads/main")).takes(&push("refs/heads/main")));
    assert!(!job(json!("refs/heads/main")).takes(&push("refs/heads/dev")));
    assert!(
        job(json!(null)).takes(&push("refs/heads/dev")),
        "whoever triggers must say it"
    );
    assert!(!job(json!(null)).takes(&push("refs/tags/v1")));
    assert!(checkout("https://github.com/${nobody}/hello", json!("x"), json!({})).is_none());
}

#[test]
fn a_checkout_stands_for_each_combination_of_its_matrix() {
    let task = json!({
        "type": "git-checkout",
        "params": { "repository": "https://github.com/octo/${matrix.what}", "ref": "${matrix.branch}-${to}" },
        "matrix": { "what": ["hello", "world"], "branch": ["main", 2],
            "exclude": [{ "what": "world", "branch": "2" }], "include": [{ "what": "hello", "branch": "x" }] }
    });
    let job = watched(&json!({ "tasks": [{ "type": "lint" }, task], "parameters": { "to": "fix" } }));
    let of = |what: &str, name: &str| {
        let repository = json!({ "full_name": format!("Octo/{what}"), "default_branch": "main" });
        let push = json!({ "ref": format!("refs/heads/{name}"), "after": ABC, "repository": repository,
            "sender": { "login": "cat" } });
        event("push", &push)
    };
    for (what, name, takes) in [
        ("hello", "main-fix", true),
        ("hello", "2-fix", true),
        ("hello", "x-fix", true),
        ("world", "main-fix", true),
        ("world", "2-fix", false),
        ("world", "x-fix", false),
        ("hello", "main", false),
        ("other", "main-fix", false),
    ] {
        assert_eq!(job.takes(&of(what, name)), takes, "{what} {name}");
    }
    // Three branches of one and one of the other.
    let mut repositories = job.repositories();
    repositories.sort();
    assert_eq!(repositories, ["octo/hello", "octo/hello", "octo/hello", "octo/world"]);
}

#[test]
fn a_checkout_builds_pull_requests_only_if_it_can_be_told() {
    let hello = "https://github.com/octo/hello";
    let own = pull_request("octo/hello");
    assert!(!checkout(hello, json!("main"), json!({})).unwrap().takes(&own));
    let told = checkout(hello, json!("${ref}"), json!({ "ref": "main" })).unwrap();
    assert!(told.takes(&own));
    assert!(!told.takes(&pull_request("stranger/hello")));
}

#[test]
fn an_entry_goes_before_the_tasks_and_the_form_of_2013_is_read() {
    let task = json!({ "type": "git-checkout", "params": { "repository": "https://github.com/octo/hello" } });
    let both = watched(&json!({ "tasks": [task], "github": { "repository": "octo/other" } }));
    assert!(!both.takes(&push("refs/heads/main")));
    let old = watched(&json!({ "tasks": { "1": task } }));
    assert!(old.takes(&push("refs/heads/main")));
    for none in ["{\"tasks\": []}", "{\"tasks\": [{\"type\": \"lint\"}]}", "{", ""] {
        assert_eq!(Watched::read(none.as_bytes()), None, "{none}");
    }
}

#[test]
fn a_trigger_has_what_the_job_declares() {
    let job = |parameters: Value| {
        watched(&json!({ "tasks": [], "github": { "repository": "octo/hello" }, "parameters": parameters }))
    };
    let trigger =
        |watched: &Watched, event: &Event| -> Value { serde_json::from_slice(&watched.trigger(event, "k")).unwrap() };
    let all = job(json!({ "ref": "", "commit": "", "repository": "", "sender": "", "pull_request": "", "other": "" }));
    assert_eq!(
        trigger(&all, &pull_request("octo/hello")),
        json!({ "ref": "refs/pull/7/head", "commit": DEF, "repository": "Octo/hello", "sender": "cat", "pull_request": "7",
            "@key": "k", "@cause": format!("github pull_request Octo/hello {DEF} refs/pull/7/head cat"),
            "@event": "pull_request", "@ref": "refs/pull/7/head", "@commit": DEF, "@base": "refs/heads/main" })
    );
    assert_eq!(
        trigger(&job(json!({})), &push("refs/heads/main")),
        json!({ "@key": "k", "@cause": format!("github push Octo/hello {ABC} refs/heads/main cat"),
            "@event": "push", "@ref": "refs/heads/main", "@commit": ABC })
    );
    let after_another = Event {
        before: Some(DEF.into()),
        ..push("refs/heads/main")
    };
    assert_eq!(trigger(&job(json!({})), &after_another)["@before"], DEF);
    let odd = "refs/heads/$(touch x)\n@key=y;`z`";
    let found = trigger(&job(json!({ "ref": "" })), &push(odd));
    assert_eq!(found["ref"], odd);
    assert_eq!(
        found["@cause"],
        format!("github push Octo/hello {ABC} refs/heads/$(touch?x)?@key=y;`z` cat")
    );
    let mut long = push(&"é".repeat(500));
    long.sender = "é".repeat(100);
    assert!(trigger(&all, &long)["@cause"].as_str().unwrap().len() <= 512);
    // What the tree would refuse is not said, so that the job is built all the same.
    for (event, ref_, what) in [
        (&long, None, "push"),
        (&push(odd), None, "push"),
        (&push("refs/tags/v1"), Some("refs/tags/v1"), "tag"),
    ] {
        let found = trigger(&all, event);
        assert_eq!(
            (found.get("@ref").and_then(Value::as_str), &found["@event"]),
            (ref_, &json!(what))
        );
    }
}

#[test]
fn a_job_takes_no_more_memory_than_its_share() {
    let size = |watched: &Watched| match &watched.wanted {
        Wanted::Entry { refs, .. } => refs.iter().map(String::len).sum::<usize>(),
        Wanted::Checkouts(all) => all.iter().map(Checkout::len).sum(),
    };
    let refs: Vec<String> = (0..100_000).map(|n| format!("refs/heads/{n}*")).collect();
    let many = entry_of(json!(refs));
    assert!(size(&many) < WANTED_BYTES_MAX && many.takes(&push("refs/heads/7x")));
    let long = entry_of(json!(["refs/heads/".to_owned() + &"x".repeat(1 << 20)]));
    assert_eq!(size(&long), 0);
    // One that makes a long text of a short one.
    let address = "https://github.com/".to_owned() + &"${long}".repeat(100_000);
    assert!(checkout(&address, json!("main"), json!({ "long": "x".repeat(64 << 10) })).is_none());
    let task = |n: usize| {
        json!({ "type": "git-checkout", "params": {
        "repository": format!("https://github.com/octo/{n}{}", "x".repeat(1000)) } })
    };
    let tasks: Vec<Value> = (0..1000).map(task).collect();
    assert!(size(&watched(&json!({ "tasks": tasks }))) < WANTED_BYTES_MAX);
}

/// "Of a list the last pattern that matches decides": of a pull request the branch that it is to be merged into counts
/// too.
#[test]
fn the_last_pattern_that_fits_decides() {
    let job = entry_of(json!(["refs/heads/*", "!refs/heads/wip/*", "refs/heads/wip/keep"]));
    for (name, want) in [("main", true), ("wip/a", false), ("wip/keep", true)] {
        assert_eq!(job.takes(&push(&format!("refs/heads/{name}"))), want, "{name}");
    }
    let mut pull = push("refs/pull/7/head");
    pull.base = Some("refs/heads/wip/a".into());
    for (refs, want) in [
        (json!(["refs/pull/*"]), true),
        (json!(["refs/pull/*", "!refs/heads/wip/*"]), false),
        (json!(["refs/heads/*"]), true),
        (json!(["refs/heads/*", "!refs/pull/*"]), false),
        (json!(["refs/heads/*", "!*"]), false),
    ] {
        assert_eq!(entry_of(refs.clone()).takes(&pull), want, "{refs}");
    }
    // A stranger's is left out by that branch as well, though it is not taken by it.
    pull.foreign = true;
    assert!(entry_of(json!(["refs/pull/*"])).takes(&pull));
    assert!(!entry_of(json!(["refs/pull/*", "!refs/heads/wip/*"])).takes(&pull));
}

/// "The first 64 KiB of a job's patterns count": a list whose rest takes something away counts in whole or not at all.
#[test]
fn no_exclusion_is_cut_off() {
    let mut refs: Vec<String> = (0..10_000).map(|n| format!("refs/heads/{n}*")).collect();
    assert!(entry_of(json!(refs)).takes(&push("refs/heads/7x")));
    refs.push("!refs/heads/7x".into());
    assert!(!entry_of(json!(refs)).takes(&push("refs/heads/7x")));
    assert!(!entry_of(json!(refs)).takes(&push("refs/heads/7y")));
}

/// "3.10 stays 3.10": a job waits for the refs that its tree makes of its numbers.
#[test]
fn numbers_keep_their_digits() {
    let config = |params: &str, beside: &str| {
        let checkout = format!("\"repository\": \"https://github.com/octo/hello\", {params}");
        let text = format!(
            "{{ \"tasks\": [{{ \"type\": \"git-checkout\", \"params\": {{ {checkout} }} {beside} }}], \
             \"parameters\": {{ \"v\": 3.10, \"long\": 12345678901234567890123, \"s\": \"\\\"7\" }} }}"
        );
        Watched::read(text.as_bytes()).unwrap()
    };
    for (params, beside, fits, not) in [
        (
            "\"ref\": \"release-${matrix.v}\"",
            ", \"matrix\": { \"v\": [3.9,3.10], \"exclude\": [{\"v\":3.9}] }",
            "release-3.10",
            "release-3.1",
        ),
        ("\"ref\": \"release-${v}\"", "", "release-3.10", "release-3.1"),
        ("\"ref\": \"r${long}\"", "", "r12345678901234567890123", "r1e22"),
        ("\"ref\": \"x${s}-1\", \"depth\": -1e5", "", "x\"7-1", "x7-1"),
    ] {
        let watched = config(params, beside);
        assert!(
            watched.takes(&push(&format!("refs/heads/{fits}"))),
            "{params}: {watched:?}"
        );
        assert!(!watched.takes(&push(&format!("refs/heads/{not}"))), "{params}");
    }
}

/// A name means what it means to git, which looks for it below refs/ as well.
#[test]
fn a_ref_may_begin_below_refs() {
    let job = checkout("https://github.com/octo/hello", json!("heads/main"), json!({})).unwrap();
    assert!(job.takes(&push("refs/heads/main")) && job.takes(&push("refs/heads/heads/main")));
    assert!(!job.takes(&push("refs/tags/main")));
}

/// "A pull request from another repository is a stranger's": its author, whose repository it is from and who sent it are
/// named.
#[test]
fn all_who_had_a_hand_in_it_are_named() {
    let watched = watched(&json!({ "tasks": [], "github": { "repository": "octo/hello" } }));
    let strangers = |author: &str, from: &str, sender: &str| {
        let [author, from, sender] = [author, from, sender].map(str::to_owned);
        let event = Event {
            foreign: true,
            author,
            from,
            sender,
            ..pull_request("octo/hello")
        };
        let found: Value = serde_json::from_slice(&watched.trigger(&event, "k")).unwrap();
        assert_eq!(found["@trust"], "untrusted");
        found["@sender"].clone()
    };
    assert_eq!(strangers("eve", "mallory", "cat"), json!(["eve", "mallory", "cat"]));
    assert_eq!(strangers("eve", "eve", "cat"), json!(["eve", "cat"]));
    assert_eq!(strangers("cat", "mallory", "cat"), json!(["mallory", "cat"]));
    assert_eq!(strangers("eve", "EVE", "Eve"), json!(["Eve"]));
    assert_eq!(
        strangers("dependabot[bot]", "octo", "cat"),
        json!(["dependabot[bot]", "octo", "cat"])
    );
    for (author, from, sender) in [
        ("", "eve", "cat"),
        ("eve", "", "cat"),
        ("eve", "eve", ""),
        ("e ve", "eve", "cat"),
    ] {
        assert_eq!(strangers(author, from, sender), Value::Null, "{author} {from} {sender}");
    }
}
