//! Params of the types that come with distcifs: scripts and patterns.

use serde_json::json;

use super::{faults, good};
use crate::repository::config::JobConfig;

/// "`script` (a text, or a list of its lines) or `script_file`"; "CR LF is refused with its line".
#[test]
fn a_script_is_a_text_lines_or_a_file() {
    for (params, expected) in [
        (json!({}), "tasks[0].params.script is missing"),
        (json!({"script": 1}), "must be a string or a list of lines"),
        (json!({"script": ["a", 1]}), "must be a list of strings"),
        (json!({"script": "a\nb\r\n"}), "script: its line 2 ends with CR LF"),
        (
            json!({"script": ["a", "b", "c\r"]}),
            "script: its line 3 ends with CR LF",
        ),
        (
            json!({"script": "\u{feff}#!/bin/sh\n"}),
            "script begins with a byte order mark",
        ),
        (
            json!({"script": ["\u{feff}a", "b"]}),
            "script begins with a byte order mark",
        ),
        (
            json!({"script": ["a\nb"]}),
            "an item of a list can't contain a line end",
        ),
        (json!({"script": "a", "script_file": "b"}), "script is there already"),
        (json!({"script_file": "../b"}), "script_file must stay in the workspace"),
        (json!({"script_file": "./"}), "script_file must name a file"),
        (json!({"script_file": ["a"]}), "script_file must be a string"),
    ] {
        let found = faults(&json!({"tasks": [{"type": "execute-shell", "params": params}]}));
        assert!(
            found.iter().any(|fault| fault.contains(expected)),
            "{params}: {found:?}"
        );
    }
    let config = good(&json!({"parameters": {"ref": "x"}, "tasks": [
        {"type": "execute-shell", "params": {"script": ["echo ${nobody}", "", "printf 'a\r'"]}},
        {"type": "execute-shell", "params": {"script_file": "ci/${ref}.sh", "working_directory": "src"}}
    ]}));
    assert_eq!(config.tasks[0].params["script"][0], "echo ${nobody}");
    let text = "{ \"tasks\": [\n {\"type\": \"execute-shell\", \"params\": {\"script\": [\"a\",\n  \"b\\r\"]}}] }";
    let faults = JobConfig::read(text.as_bytes(), None).unwrap_err();
    assert!(
        faults[0]
            .to_string()
            .starts_with("3:3: tasks[0].params.script: its line 2"),
        "{}",
        faults[0]
    );
}

/// "Only `*` is known in `refs`; what no ref can have is refused", and a job has one schedule.
#[test]
fn what_would_never_fit_is_refused() {
    let of = |refs: serde_json::Value| json!({"tasks": [], "github": {"repository": "a/b", "refs": refs}});
    for (refs, expected) in [
        (json!([]), "github.refs must not be empty"),
        (json!(["refs/heads/*", "refs/heads/v?"]), "github.refs[1] has ?"),
        (json!(["refs/heads/v[0-9]"]), "github.refs[0] has ["),
        (json!(["refs/heads/a\\*"]), "github.refs[0] has \\"),
        (json!(["refs/heads/a~1"]), "github.refs[0] has ~"),
        (json!(["refs/heads/{main,dev}"]), "write an entry for each"),
        (json!(["main"]), "must be a full ref"),
        (json!(["!refs/heads/x"]), "takes nothing away"),
        (json!(["refs/*", "!main"]), "must be a full ref"),
        (json!(["refs/*", "!refs/a?"]), "has ?"),
    ] {
        let found = faults(&of(refs));
        assert!(found.len() == 1 && found[0].contains(expected), "{expected}: {found:?}");
    }
    good(&of(json!(["refs/heads/{a}", "refs/tags/**", "refs/pull/*/head"])));
    let found = faults(&json!({"tasks": [], "cron": ["0 9 * * *", "0 17 * * 5"]}));
    assert!(
        found.len() == 1 && found[0].contains("a job has one schedule"),
        "{found:?}"
    );
}

/// "`${name}` in a string of params is replaced": of those that are else a number or a bool, too.
#[test]
fn depth_and_submodules_may_be_given() {
    let task = |depth, submodules| {
        json!({"parameters": {"n": 1, "all": false}, "tasks": [{"type": "git-checkout",
            "params": {"repository": "https://x/y", "depth": depth, "submodules": submodules}}]})
    };
    good(&task(json!("${n}"), json!("${all}")));
    good(&task(json!(3), json!(true)));
    let found = faults(&task(json!("3"), json!("yes")));
    assert!(
        found.len() == 2 && found[0].contains("whole number") && found[1].contains("true or false"),
        "{found:?}"
    );
}

/// "What other tools know and this page does not is refused when the configuration is written."
#[test]
fn patterns_that_are_not_known_are_refused() {
    for kind in ["publish-artifacts", "copy-artifacts"] {
        for (patterns, expected) in [
            (
                json!(["a", "**.jar"]),
                "artifacts[1] has '**.jar', but ** must stand alone",
            ),
            (json!(["!a", "b"]), "artifacts[0] excludes nothing"),
            (json!(["!/etc"]), "artifacts[0] must stay in the workspace"),
            (json!(["@(a|b)"]), "write {a,b} for either"),
            (json!(["{1..3}"]), "sequences are not known"),
            (json!(["a", "!"]), "artifacts[1] must not be empty"),
        ] {
            let task = json!({"type": kind, "params": {"job": "a", "artifacts": patterns}});
            let found = faults(&json!({"tasks": [task]}));
            assert!(
                found.iter().any(|fault| fault.contains(expected)),
                "{patterns}: {found:?}"
            );
        }
    }
    good(&json!({"parameters": {"ref": "x"}, "tasks": [
        {"type": "publish-artifacts", "params": {"artifacts": ["**/*.{jar,war}", "!**/test/", "out/${ref}**"]}}
    ]}));
}
