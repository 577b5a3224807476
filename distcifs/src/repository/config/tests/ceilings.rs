//! What tasks may be that are added to a build while it runs.

use serde_json::{Value, json};

use super::{good, name};
use crate::repository::config::common::Isolation;
use crate::repository::config::{Adding, Allow, Ceilings, JobConfig, Task, read_added, read_added_stored};

/// A job that names a repository, another by a parameter, a job to copy from and an image.
fn job() -> JobConfig {
    good(&json!({
        "parameters": {"repository": null, "ref": "main"},
        "console_limit": "1M",
        "tasks": [
            {"type": "git-checkout", "params": {"repository": "https://example.org/main.git"}},
            {"type": "git-checkout", "name": "other", "params": {"repository": "${repository}"}},
            {"type": "copy-artifacts", "params": {"job": "tools"}},
            {"type": "execute-shell", "isolation": "lxc", "image": "job:base", "labels": ["linux"],
                "concurrency": {"group": "test-${ref}"}, "params": {"script": "true"}},
        ]
    }))
}

fn ceilings_of(config: &JobConfig, untrusted: bool) -> Ceilings {
    let triggered = [("repository", "/srv/git/own"), ("ref", "main")];
    let triggered = triggered.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Ceilings::of(config, &name("hello"), &triggered, untrusted)
}

/// The tasks of a text, or its faults.
fn read(text: &str, config: &JobConfig, ceilings: &Ceilings) -> Result<Vec<Task>, Vec<String>> {
    let adding = Adding {
        taken: std::collections::HashSet::new(),
        config,
        before: vec!["git-checkout"],
        ceilings,
        added: 0,
        size: Default::default(),
        told: &[],
        tells_changed: false,
    };
    let read = read_added(text.as_bytes(), &adding);
    let read = read.map(|added| added.tasks);
    read.map_err(|faults| faults.iter().map(ToString::to_string).collect())
}

fn text_of(task: &Value) -> String {
    json!({"tasks": [task]}).to_string()
}

/// A script with these members beside it.
fn script(members: Value) -> Value {
    let mut task = json!({"type": "execute-shell", "params": {"script": "true"}});
    for (key, value) in members.as_object().unwrap() {
        task[key] = value.clone();
    }
    task
}

/// What is not named in `allow` has the defaults of its table, and what a task does not say is filled in.
#[test]
fn a_task_that_says_nothing_has_what_is_allowed() {
    let config = job();
    let ceilings = ceilings_of(&config, false);
    let tasks = read(&text_of(&script(json!({}))), &config, &ceilings).unwrap();
    let settings = &tasks[0].settings;
    assert_eq!(settings.isolation.as_str(), "namespace");
    assert_eq!(
        (settings.timeout, settings.attempts, settings.console_limit),
        (Some(3600), 3, Some(1 << 20))
    );
    assert_eq!(settings.limits, Default::default());
    // What can't be isolated has no isolation.
    let checkout = json!({"type": "git-checkout", "params": {"repository": "https://example.org/main"}});
    let tasks = read(&text_of(&checkout), &config, &ceilings).unwrap();
    assert!(tasks[0].settings.isolation.is_none());
    // A queue of one's own has one, too.
    let mut own = config.clone();
    own.allow.types.push(name("lint"));
    let ceilings = ceilings_of(&own, false);
    let tasks = read(r#"{"tasks": [{"type": "lint"}]}"#, &own, &ceilings).unwrap();
    assert_eq!(tasks[0].settings.isolation.as_str(), "namespace");
}

/// "`limits`: the highest values, and what a task without them has; for untrusted builds memory 4G, processes 4096, disk
/// 10G."
#[test]
fn limits_are_those_of_allow_and_strangers_always_have_some() {
    let mut config = job();
    let limits = |config: &JobConfig, untrusted, task: Value| {
        let ceilings = ceilings_of(config, untrusted);
        let tasks = read(&text_of(&task), config, &ceilings).unwrap();
        let limits = tasks[0].settings.limits;
        (limits.memory, limits.processes, limits.disk)
    };
    assert_eq!(limits(&config, false, script(json!({}))), (None, None, None));
    assert_eq!(
        limits(&config, true, script(json!({}))),
        (Some(4 << 30), Some(4096), Some(10 << 30))
    );
    let less = script(json!({"limits": {"memory": "1G"}}));
    assert_eq!(limits(&config, true, less), (Some(1 << 30), Some(4096), Some(10 << 30)));
    config.allow.limits.memory = Some(8 << 30);
    assert_eq!(limits(&config, false, script(json!({}))), (Some(8 << 30), None, None));
    assert_eq!(
        limits(&config, true, script(json!({}))),
        (Some(8 << 30), Some(4096), Some(10 << 30))
    );
    // Of what is no script only the disk is bounded.
    let checkout = json!({"type": "git-checkout", "params": {"repository": "/srv/git/own/"}});
    assert_eq!(limits(&config, true, checkout), (None, None, Some(10 << 30)));
}

/// Tasks, or what stands in one beside a script; where the fault of each begins, and its words.
const ABOVE: [(&str, &str, &str); 16] = [
    (
        r#"{"type": "paint"}"#,
        "\"paint\"",
        "type may be execute-shell, git-checkout, publish-artifacts, copy-artifacts: others need allow.types in the \
         job's config.json",
    ),
    (
        r#"{"isolation": "none"}"#,
        "\"none\"",
        "isolation may be namespace, lxc, vm: others need allow.isolation",
    ),
    (
        r#"{"isolation": "jail"}"#,
        "\"jail\"",
        "isolation may be namespace, lxc, vm",
    ),
    (
        r#"{"network": true}"#,
        "true}",
        "network must be false: a network needs allow.network",
    ),
    (
        r#"{"image": "job:secret"}"#,
        "\"job:secret\"",
        "image must name one that config.json names: others need allow.jobs",
    ),
    (
        r#"{"limits": {"memory": "5G"}}"#,
        "\"5G\"",
        "limits.memory must be at most 4294967296: more needs allow.limits",
    ),
    (
        r#"{"limits": {"processes": 4097}}"#,
        "4097",
        "limits.processes must be at most 4096",
    ),
    (
        r#"{"limits": {"disk": "11G"}}"#,
        "\"11G\"",
        "limits.disk must be at most 10737418240",
    ),
    (
        r#"{"timeout": 3601}"#,
        "3601",
        "timeout must be at most 3600: more needs allow.timeout",
    ),
    (
        r#"{"attempts": 4}"#,
        "4",
        "attempts must be at most 3: more needs allow.attempts",
    ),
    (
        r#"{"console_limit": "2M"}"#,
        "\"2M\"",
        "console_limit is more than it may be: more needs allow.console_limit",
    ),
    (
        r#"{"labels": ["linux", "gpu"]}"#,
        "\"gpu\"",
        "labels must be one that a task of config.json names: others need allow.labels",
    ),
    (
        r#"{"concurrency": {"group": "deploy"}}"#,
        "\"deploy\"",
        "concurrency.group must be one that a task of config.json names: others need allow.groups",
    ),
    (
        r#"{"type": "copy-artifacts", "params": {"job": "secret"}}"#,
        "\"secret\"",
        "params.job must name one",
    ),
    (
        r#"{"type": "copy-artifacts", "params": {"build": "upstream"}}"#,
        "{\"build\"",
        "params.job must name one",
    ),
    (
        r#"{"type": "git-checkout", "params": {"repository": "https://evil.test/a"}}"#,
        "\"https://evil",
        "params.repository must be one that config.json names: others need allow.repositories",
    ),
];

/// The same for a job that allows less than others: what it says of that, not all may read who read this.
const ABOVE_LESS: [(&str, &str, &str); 6] = [
    (
        r#"{"type": "paint"}"#,
        "\"paint",
        "type is none of those that it may be: others need allow.types",
    ),
    (
        r#"{"isolation": "namespace"}"#,
        "\"namespace",
        "isolation is none of those that it may be: others need allow.isolation",
    ),
    (
        r#"{"concurrency": {"group": "test-main"}}"#,
        "\"test-main",
        "concurrency.group is none of those that it may be: others need allow.groups",
    ),
    (
        r#"{"labels": ["linux", "gpu"]}"#,
        "\"gpu\"",
        "labels is none of those that it may be: others need allow.labels",
    ),
    (
        r#"{"nodelabels": ["arm"]}"#,
        "\"arm\"",
        "labels is none of those that it may be",
    ),
    (r#"{"attempts": 2}"#, "2", "attempts is more than it may be"),
];

/// Every ceiling: the fault has the place of the member, says what is right and which member of `allow` lifts it, and
/// quotes nothing.
#[test]
fn each_ceiling_is_told_with_its_place() {
    let config = job();
    let untrusted = ceilings_of(&config, true);
    let mut stricter = config.clone();
    stricter.allow = Allow {
        types: vec![name("execute-shell"), name("lint")],
        isolation: vec![Isolation::new("lxc").unwrap(), Isolation::new("jail").unwrap()],
        labels: Some(vec![name("linux")]),
        groups: Some(vec!["secret-*".to_owned()]),
        attempts: 1,
        ..Allow::default()
    };
    let strict = ceilings_of(&stricter, false);
    let rows = ABOVE.iter().map(|row| (&untrusted, row));
    for (ceilings, (members, at, words)) in rows.chain(ABOVE_LESS.iter().map(|row| (&strict, row))) {
        let members: Value = serde_json::from_str(members).unwrap();
        let mut members = members;
        if std::ptr::eq(ceilings, &raw const strict) && members.get("isolation").is_none() {
            members["isolation"] = json!("lxc");
        }
        let text = match members.get("type") {
            Some(_) => text_of(&members),
            None => text_of(&script(members)),
        };
        let column = text[..text.find(at).unwrap()].chars().count() + 1;
        let mut found = read(&text, &config, ceilings).expect_err(&text);
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        let found = found.remove(0);
        let head = format!("1:{column}: tasks[0].{words}");
        assert!(found.starts_with(&head), "wanted {head:?}, found {found:?}");
        for secret in ["secret", "evil", "gpu", "paint", "jail", "lint", "deploy"] {
            assert!(!found.contains(secret), "{found}");
        }
        // What was taken once is read again, whatever the rules are by now.
        let adding = Adding {
            taken: std::collections::HashSet::new(),
            config: &config,
            before: Vec::new(),
            ceilings,
            added: 500,
            size: Default::default(),
            told: &[],
            tells_changed: false,
        };
        assert!(read_added_stored(text.as_bytes(), &adding).is_ok(), "{text}");
    }
}

/// What is within the ceilings, and what only looks as if it were not.
#[test]
fn what_config_json_names_is_allowed() {
    let config = job();
    let ceilings = ceilings_of(&config, false);
    for task in [
        script(json!({"image": "job:base"})),
        script(json!({"image": "job:tools"})),
        script(json!({"image": "job:hello", "timeout": 3600, "attempts": 3, "labels": ["linux"], "always": true})),
        script(json!({"concurrency": {"group": "test-${ref}"}})),
        script(json!({"concurrency": {"group": "test-main"}})),
        // Which one that is shows when its ticket is posted.
        script(json!({"concurrency": {"group": "${ref}"}})),
        script(json!({"limits": {"memory": "64G"}})),
        json!({"type": "copy-artifacts", "params": {"job": "base"}}),
        json!({"type": "copy-artifacts", "params": {"job": "hello", "build": "latest"}}),
        json!({"type": "git-checkout", "params": {"repository": "https://user@EXAMPLE.org/main/"}}),
        json!({"type": "git-checkout", "params": {"repository": "/srv/git/own"}}),
        json!({"type": "git-checkout", "params": {"repository": "file:///srv/git/own"}}),
        // What a parameter brings is known when its ticket is posted.
        json!({"type": "git-checkout", "params": {"repository": "https://example.org/${ref}"}}),
        json!({"type": "copy-artifacts", "params": {"job": "${ref}"}}),
    ] {
        let text = text_of(&task);
        read(&text, &config, &ceilings).unwrap_or_else(|found| panic!("{text}: {found:?}"));
    }
}

/// "In an untrusted build only if `jobs` names it": what a job published strangers get no more than that of others.
#[test]
fn a_stranger_uses_his_job_only_if_it_is_named() {
    let mut config = job();
    let own = text_of(&json!({"type": "copy-artifacts", "params": {"job": "hello"}}));
    let of = |config: &JobConfig, untrusted| read(&own, config, &ceilings_of(config, untrusted));
    assert!(of(&config, false).is_ok());
    let found = of(&config, true).unwrap_err();
    assert!(found[0].contains("params.job must name one that"), "{found:?}");
    config.allow.jobs = vec![name("hello")];
    assert!(of(&config, true).is_ok());
}

/// "It is checked when the text is closed, and again when the ticket is posted, with its parameters put in": a repository
/// may come from a parameter.
#[test]
fn what_a_parameter_brings_is_held_against_them_at_the_post() {
    let config = job();
    let ceilings = ceilings_of(&config, false);
    let post = |kind: &str, params: Value, group: Option<(&str, &str)>| {
        let task = script(json!({}));
        let settings = read(&text_of(&task), &config, &ceilings).unwrap().remove(0).settings;
        ceilings.may_post(kind, params.as_object().unwrap(), &settings, group)
    };
    let checkout = |repository: &str| post("git-checkout", json!({"repository": repository}), None);
    assert_eq!(checkout("https://example.org/main"), Ok(()));
    for strange in [
        "https://example.org/other",
        "https://example.org/main/../other",
        "ssh://example.org/main",
        "https://evil.test?@example.org/main",
        "/srv/git/own/../other",
        "/srv/git",
        // By now this is no parameter, but what one brought.
        "https://evil.test/${ref}",
        "",
    ] {
        let refused = checkout(strange).unwrap_err();
        assert_eq!(
            refused,
            "params.repository must be one that config.json names: others need allow.repositories in the job's config.json"
        );
    }
    assert_eq!(post("copy-artifacts", json!({"job": "tools"}), None), Ok(()));
    for params in [
        json!({"job": "secret"}),
        json!({"job": ""}),
        json!({"build": "upstream"}),
    ] {
        assert!(
            post("copy-artifacts", params, None)
                .unwrap_err()
                .starts_with("params.job must name")
        );
    }
    assert!(
        post("build-control", json!({}), None)
            .unwrap_err()
            .starts_with("type may be")
    );
    // "Groups that tasks of config.json name": as they are written, or with the parameters of the trigger.
    for (written, group, fits) in [
        ("test-${ref}", "test-main", true),
        ("test-${ref}", "test-recorded", true),
        ("${ref}", "test-main", true),
        ("${ref}", "deploy", false),
        ("test-main", "test-main", true),
    ] {
        let posted = post("execute-shell", json!({"script": "true"}), Some((written, group)));
        assert_eq!(posted.is_ok(), fits, "{written} {group}: {posted:?}");
    }
    let mut grouped = config.clone();
    grouped.allow.groups = Some(vec!["test-*".to_owned(), "!test-x".to_owned()]);
    let grouped = ceilings_of(&grouped, false);
    let settings = read(&text_of(&script(json!({}))), &config, &ceilings)
        .unwrap()
        .remove(0)
        .settings;
    for (group, fits) in [("test-1", true), ("test-x", false), ("deploy", false)] {
        let posted = grouped.may_post("execute-shell", &Default::default(), &settings, Some((group, group)));
        assert_eq!(posted.is_ok(), fits, "{group}: {posted:?}");
    }
}

/// "`tasks`: 500 in a build": all that are added to it, whoever adds them.
#[test]
fn a_build_takes_so_many_added_tasks() {
    let mut config = job();
    config.allow.tasks = 3;
    let ceilings = ceilings_of(&config, false);
    let text = |n| json!({"tasks": vec![script(json!({})); n]}).to_string();
    let read = |n, added| {
        let adding = Adding {
            taken: std::collections::HashSet::new(),
            config: &config,
            before: Vec::new(),
            ceilings: &ceilings,
            added,
            size: Default::default(),
            told: &[],
            tells_changed: false,
        };
        let read = read_added(text(n).as_bytes(), &adding);
        read.map(|added| added.tasks).map_err(|faults| faults[0].to_string())
    };
    assert_eq!(read(3, 0).unwrap().len(), 3);
    assert_eq!(read(0, 3).unwrap().len(), 0);
    assert_eq!(
        read(2, 2).unwrap_err(),
        "1:10: tasks are too many: no more may be added to this build: more needs allow.tasks in the job's config.json"
    );
    let usual = Ceilings::of_defaults(&job(), None).room(499, 2).unwrap_err();
    assert!(
        usual.starts_with("tasks are too many: 500 may be added to this build, and 499 were: "),
        "{usual}"
    );
    assert!(read(1, usize::MAX).is_err());
}

/// "Submodules of an added checkout come from these repositories only, unless a git-checkout task of config.json checks
/// that repository out with its submodules, or `submodules` is true." A stranger's build fetches what config.json names
/// literally. Nobody's password stands there.
#[test]
fn an_added_checkout_fetches_from_what_config_json_names() {
    let mut config = job();
    config.allow.repositories = vec![
        "https://TOKEN@example.org/lib".to_owned(),
        "git@example.org:a.git".to_owned(),
    ];
    let params = |repository: &str| {
        json!({"repository": repository, "submodules": true})
            .as_object()
            .unwrap()
            .clone()
    };
    let main = params("https://example.org/main.git");
    let fetches = |config: &JobConfig, untrusted, added| ceilings_of(config, untrusted).fetches(&main, added);
    let literal = Some(vec!["https://example.org/main.git".to_owned()]);
    let all = [
        "https://example.org/lib.git",
        "https://example.org/main.git",
        "ssh://example.org/a.git",
    ];
    assert_eq!(fetches(&config, false, false), None);
    assert_eq!(fetches(&config, false, true), Some(all.map(str::to_owned).to_vec()));
    assert_eq!(
        (fetches(&config, true, false), fetches(&config, true, true)),
        (literal.clone(), literal.clone())
    );
    let mut lifted = config.clone();
    lifted.allow.submodules = true;
    assert_eq!(fetches(&lifted, false, true), None);
    assert_eq!(fetches(&lifted, true, true), literal, "it lets no stranger");
    // A checkout of the configuration that brings its submodules has those of this repository from anywhere already.
    for (on, any) in [
        (json!(true), true),
        (json!("${ref}"), false),
        (json!("false"), false),
        (json!("yes"), true),
    ] {
        let mut with = config.clone();
        with.tasks[0].params.insert("submodules".into(), on.clone());
        assert_eq!(fetches(&with, false, true).is_none(), any, "{on}");
        let other = ceilings_of(&with, false).fetches(&params("/srv/git/own"), true);
        assert!(other.is_some(), "{on}: of another repository nothing was said");
    }
}
