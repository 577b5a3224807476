//! Pipelines beside the code, and what `when` says of a task.

use std::fs;
use std::path::Path;

use distcifs_settings::pipeline::Format;
use serde_json::json;

use super::{faults, good, of_tasks};
use crate::repository::config::when::When;
use crate::repository::config::{Facts, JobConfig, Task, check_pipeline, read_tasks};

/// What a pipeline is, or its faults.
fn read(text: &str, job: Option<&JobConfig>) -> Result<Vec<Task>, Vec<String>> {
    let read = check_pipeline(&mut text.as_bytes(), Some(Format::Yaml), job.map(|job| (job, None)));
    read.map_err(|faults| faults.iter().map(ToString::to_string).collect())
}

/// "A fault is `path:line:column: what` in the lines that the author wrote and quotes no text of the file": `faults`
/// of the corpus has all of each file.
#[test]
fn each_hostile_file_is_refused_at_its_places() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/corpus/distcifs");
    let expected = fs::read_to_string(corpus.join("faults")).unwrap();
    let mut names: Vec<String> = fs::read_dir(&corpus)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "faults")
        .collect();
    names.sort();
    let mut found = String::new();
    for name in names {
        let text = fs::read(corpus.join(&name)).unwrap();
        let faults = check_pipeline(&mut text.as_slice(), Format::of(&name), None).expect_err(&name);
        for fault in faults {
            found.push_str(&format!("{name}:{fault}\n"));
        }
    }
    assert_eq!(found, expected);
}

/// "Top level: `tasks` and `x-…` only", and the grammar of config.json in it.
#[test]
fn a_pipeline_is_tasks_alone() {
    let text = "\
x-of-mine: 1
tasks:
- type: execute-shell
  name: unit
  needs: [ git-checkout ]
  when: { ref: [ refs/heads/*, '!refs/heads/wip/*' ], event: push, team: 3.10, changed: src/* }
  matrix: { python: [ 3.9, 3.10 ] }
  environment: { V: '${matrix.python}' }
  params: { script: make, working_directory: '${whatever}' }
- type: lint
";
    let tasks = read(text, None).unwrap();
    let names: Vec<_> = tasks.iter().map(|task| task.name.as_str()).collect();
    assert_eq!(names, ["unit.3.9", "unit.3.10", "lint"]);
    // What stands outside is counted on after the tasks of the text.
    assert_eq!(tasks[1].needs, Some(vec![3]));
    assert_eq!(tasks[2].needs, Some(vec![0, 1]));
    assert_eq!(tasks[2].waits_for(), [0, 1]);
    assert_eq!(tasks[1].settings.environment, [("V".to_owned(), "3.10".to_owned())]);
    assert_eq!(
        tasks[0].resolved()["when"],
        json!({"ref": ["refs/heads/*", "!refs/heads/wip/*"], "event": ["push"], "team": ["3.10"], "changed": ["src/*"]})
    );
}

/// "`needs` names tasks of the same text and those that the checkout waited for"; with the job its parameters are known.
#[test]
fn a_job_says_what_its_pipelines_may_name() {
    let job = good(&json!({
        "parameters": {"team": "a"},
        "tasks": [
            {"type": "lint", "name": "first"},
            {"type": "git-checkout", "name": "source", "params": {"repository": "https://x/y"}},
            {"type": "lint", "name": "beside", "needs": []}
        ]
    }));
    let of = |needs: &str, script: &str| {
        format!(
            "tasks:\n- type: execute-shell\n  needs: {needs}\n  when: {{ team: a }}\n  params: {{ script: x, working_directory: \
             '{script}' }}\n"
        )
    };
    assert!(read(&of("[ source, first ]", "${team} ${git_commit}"), Some(&job)).is_ok());
    assert_eq!(
        read(&of("[ beside ]", "${team}"), Some(&job)).unwrap_err(),
        ["3:12: tasks[0].needs: no task is called \"…\""]
    );
    assert_eq!(
        read(&of("[]", "${taem}"), Some(&job)).unwrap_err(),
        ["5:43: tasks[0].params.…: no parameter is called \"…\"; did you mean team?"]
    );
    // Without the job a name is only held to be one.
    assert!(read(&of("[ git-checkout ]", "${taem}"), None).is_ok());
    assert!(read(&of("[]", "${a b}"), None).is_err() && read(&of("[]", "${matrix.a}"), None).is_err());
    assert!(read(&of("[ source ]", ""), None).is_err());
}

/// "A first task without `needs` starts from the task's workspace"; one with an empty list from none.
#[test]
fn the_first_task_of_a_pipeline_follows_the_task_that_adds_it() {
    let needs = |text: &str| {
        let tasks = read(text, None).unwrap();
        tasks.into_iter().map(|task| task.needs).collect::<Vec<_>>()
    };
    assert_eq!(needs("tasks:\n- type: a\n- type: b\n"), [Some(vec![2]), None]);
    assert_eq!(needs("tasks:\n- { type: a, needs: [] }\n"), [Some(vec![])]);
    assert_eq!(
        needs("tasks:\n- { type: a, matrix: { x: [ 1, 2 ] } }\n- type: b\n"),
        [Some(vec![3]), Some(vec![3]), Some(vec![0, 1])]
    );
}

/// "A text has at most 500 tasks with those of matrices."
#[test]
fn a_pipeline_has_five_hundred_tasks() {
    let of = |n: usize| format!("tasks:\n{}", "- { type: lint }\n".repeat(n));
    assert_eq!(read(&of(500), None).unwrap().len(), 500);
    assert_eq!(read(&of(501), None).unwrap_err(), ["2:3: tasks are more than 500"]);
}

/// The same for JSON that is read already, as tasks.json is.
#[test]
fn tasks_are_read_from_a_value() {
    let value = crate::repository::config::json::parse(br#"{"tasks": [{"type": "a", "timeuot": 1}]}"#).unwrap();
    let faults = read_tasks(&value, None).unwrap_err();
    assert_eq!(
        faults[0].to_string(),
        "1:26: tasks[0]: unknown key \"…\"; did you mean timeout?"
    );
}

/// The first member that does not match, and what it looked at.
fn misfit<'a>(when: &'a When, facts: &Facts<'a>) -> Option<(&'a str, &'a str)> {
    let name = when.member(when.misfit(|name| facts.get(name), true)?)?;
    Some((name, facts.get(name)))
}

/// "`when`: every member must match. `event`, `ref` and `base` are what the trigger gave; without that, `ref` and
/// `base` are the parameters of these names. Other members name parameters."
#[test]
fn a_task_runs_if_every_member_of_its_when_matches() {
    let parameters = [
        ("ref".to_owned(), "main".to_owned()),
        ("team".to_owned(), "a/b".to_owned()),
    ];
    let said = Facts {
        event: "push",
        name: "refs/heads/main",
        base: "",
        parameters: &parameters,
    };
    let unsaid = Facts {
        event: "manual",
        name: "",
        ..said
    };
    for (when, of_said, of_unsaid) in [
        (json!({}), None, None),
        (json!({"ref": "refs/heads/*"}), None, Some(("ref", "main"))),
        (json!({"ref": "main"}), Some(("ref", "refs/heads/main")), None),
        (
            json!({"ref": ["*", "!refs/heads/main"]}),
            Some(("ref", "refs/heads/main")),
            None,
        ),
        (json!({"ref": ["*", "!*", "*main"]}), None, None),
        (json!({"event": "push"}), None, Some(("event", "manual"))),
        (json!({"event": ["tag", "manual"]}), Some(("event", "push")), None),
        (json!({"event": "p*", "team": "a*"}), None, Some(("event", "manual"))),
        (
            json!({"event": "*", "team": "a"}),
            Some(("team", "a/b")),
            Some(("team", "a/b")),
        ),
        (json!({"base": "*"}), None, None),
        (json!({"base": "refs/*"}), Some(("base", "")), Some(("base", ""))),
    ] {
        let job = good(&json!({
            "parameters": {"ref": "main", "team": "a"},
            "tasks": [{"type": "lint", "when": when}]
        }));
        let when = &job.tasks[0].when;
        assert_eq!(
            (misfit(when, &said), misfit(when, &unsaid)),
            (of_said, of_unsaid),
            "{when:?}"
        );
    }
}

#[test]
fn what_could_never_match_is_refused() {
    for (when, words) in [
        (json!("push"), "must be an object"),
        (json!({"ref": []}), "must not be empty"),
        (json!({"ref": {}}), "must be a pattern"),
        (json!({"ref": [null]}), "must be a pattern"),
        (json!({"ref": ["!main"]}), "takes nothing away"),
        (json!({"ref": "x".repeat(1025)}), "at most 1024 bytes"),
        (
            json!({"event": "puhs"}),
            "there is no event \"puhs\"; did you mean push?",
        ),
        (json!({"event": ["*", "!deploy"]}), "there is no event \"deploy\""),
        (
            json!({"reff": "main"}),
            "no parameter is called \"reff\"; did you mean ref?",
        ),
        (
            json!({"changed": ["!src/*"]}),
            "tasks[0].when.changed takes nothing away, because the last pattern that fits decides and this one is the first",
        ),
        (json!({"ref": vec!["a"; 65]}), "more than 64 patterns"),
    ] {
        let found = faults(&of_tasks(json!([{"type": "lint", "when": when}])));
        assert!(found.len() == 1 && found[0].contains(words), "{words}: {found:?}");
    }
    // It stands beside params, in the task.
    let task = json!({"type": "execute-shell", "params": {"script": "true", "when": {}}});
    assert!(faults(&of_tasks(json!([task])))[0].contains("belongs to the task"));
}

/// "git-checkout's parameter `tasks` is a path in the checkout or a list of which the first that exists counts."
#[test]
fn a_checkout_names_its_pipelines() {
    let checkout = |members: serde_json::Value| {
        let mut params = json!({"repository": "https://x/y"});
        for (key, value) in members.as_object().unwrap() {
            params[key] = value.clone();
        }
        of_tasks(json!([{"type": "git-checkout", "params": params}]))
    };
    for members in [
        json!({"tasks": "ci/a.yml"}),
        json!({"tasks": [".distcifs.yaml", ".distcifs.toml", ".distcifs.json"], "tasks_optional": true}),
        json!({"tasks": ["${ref}"]}),
    ] {
        good(&checkout(members));
    }
    for (members, words) in [
        (json!({"tasks": []}), "params.tasks must name from 1 to 16 files"),
        (
            json!({"tasks": vec!["a.json"; 17]}),
            "params.tasks must name from 1 to 16 files",
        ),
        (json!({"tasks": {}}), "params.tasks must be a path, or a list of them"),
        (
            json!({"tasks": "Makefile"}),
            "must end with .yaml, .yml, .toml or .json",
        ),
        (json!({"tasks": "../a.yaml"}), "must stay in the workspace"),
        (
            json!({"tasks_optional": true}),
            "params.tasks_optional needs tasks beside it",
        ),
        (json!({"tasks": "a.yaml", "tasks_optional": 1}), "must be true or false"),
    ] {
        let found = faults(&checkout(members));
        assert!(found.len() == 1 && found[0].contains(words), "{words}: {found:?}");
    }
}

/// "`concurrency` is a number, or a group."
#[test]
fn concurrency_is_a_number_still() {
    assert_eq!(good(&json!({"tasks": [], "concurrency": 2})).concurrency, Some(2));
}
