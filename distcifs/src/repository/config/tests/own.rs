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
