//! Triggers and tickets.

use super::*;
use crate::repository::names::TicketId;
use crate::storage::contents::Digest;

fn config() -> JobConfig {
    good(&json!({"parameters": {"ref": "main", "token": null}, "tasks": []}))
}

fn trigger(text: impl AsRef<[u8]>) -> Result<Vec<(String, String)>, String> {
    let request = TriggerRequest::read(text.as_ref(), &config(), None)?;
    let pair = |(name, value): (Name, String)| (name.to_string(), value);
    Ok(request
        .parameters
        .into_iter()
        .map(pair)
        .chain(request.key.map(|key| ("@key".into(), key)))
        .collect())
}

fn pairs(list: &[(&str, &str)]) -> Result<Vec<(String, String)>, String> {
    Ok(list
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect())
}

#[test]
fn a_trigger_of_nothing_takes_the_defaults() {
    let config = good(&json!({"parameters": {"ref": "main"}, "tasks": []}));
    for text in ["", "\n", " \t\n\n"] {
        let request = TriggerRequest::read(text.as_bytes(), &config, None).unwrap();
        assert_eq!(
            (request.parameters, request.key),
            (vec![(name("ref"), "main".to_owned())], None)
        );
    }
}

#[test]
fn a_trigger_is_lines_or_an_object() {
    assert_eq!(
        trigger("token= a=b \nref=x\r\n@key=abc 1\n"),
        pairs(&[("ref", "x\r"), ("token", " a=b "), ("@key", "abc 1")])
    );
    assert_eq!(trigger("token="), pairs(&[("ref", "main"), ("token", "")]));
    assert_eq!(
        trigger(r#" {"token": 5, "ref": true, "@key": "k"}"#),
        pairs(&[("ref", "true"), ("token", "5"), ("@key", "k")])
    );
}

/// "They are set where a build triggers the job"; what the trigger says of them is refused, or counts for
/// nothing.
#[test]
fn which_build_triggers_is_not_for_the_trigger_to_say() {
    let by = Upstream {
        job: name("base"),
        build: 7,
        depth: 2,
    };
    let declares = good(&json!({"parameters": {"upstream_build": null, "upstream_job": "x"}, "tasks": []}));
    for (config, text) in [
        (&config(), "token=t\nupstream_job=mal\nupstream_build=1"),
        (&config(), r#"{"upstream_depth": 0, "token": "t"}"#),
        (&declares, "upstream_build=1"),
        (&declares, "upstream_job=mal\n"),
        (&config(), "token=t\n@event=upstream\n"),
        (&config(), r#"{"@event": "upstream", "token": "t"}"#),
    ] {
        let refused = [
            TriggerRequest::read(text.as_bytes(), config, None).map(|_| ()),
            TriggerRequest::check_beginning(text.as_bytes(), config, None).map(|_| ()),
        ];
        for refused in refused {
            let why = refused.unwrap_err();
            assert!(
                why.contains("can't be given: ") && why.contains("(downstream_jobs)"),
                "{why}"
            );
        }
        let request = TriggerRequest::read(text.as_bytes(), config, Some(&by)).unwrap();
        for (known, value) in [
            ("upstream_job", "base"),
            ("upstream_build", "7"),
            ("upstream_depth", "2"),
        ] {
            let given = request.parameters.iter().filter(|(name, _)| name.as_str() == known);
            assert_eq!(
                given.map(|(_, value)| value.as_str()).collect::<Vec<_>>(),
                [value],
                "{text}"
            );
        }
    }
    let why = TriggerRequest::read(b"", &declares, None).unwrap_err();
    assert!(why.contains("upstream_build has no default: only a build"), "{why}");
}

#[test]
fn a_bad_trigger_is_refused_with_words() {
    let long = format!("token={}", "x".repeat(65_537));
    for (text, words) in [
        ("ref=x", "the parameter token must be given"),
        (
            "token=x\nreff=y",
            "the job has no parameter \"reff\"; did you mean ref?",
        ),
        ("token=x\ntoken=y", "parameter token is given twice"),
        ("token=x\nhello", "line 2: \"hello\" is not of the form key=value"),
        ("token=x\na b=c", "\"a b\" can't name a parameter"),
        ("token=x\0", "contains a NUL"),
        ("token=x\n@key=", "@key must be 1 to 200 printable"),
        ("token=x\n@key=ä", "@key must be 1 to 200 printable"),
        ("token=x\n@key=a\n@key=b", "@key is given twice"),
        (&long, "more than 65536 bytes"),
        (
            "{\"token\": []}",
            "1:11: \"token\" must be a string, a number or a bool",
        ),
        ("{\"token\": null}", "must be a string, a number or a bool"),
        ("{\"token\": 1} x", "something follows"),
    ] {
        let error = trigger(text).unwrap_err();
        assert!(error.contains(words), "{error:?} has no {words:?}");
    }
    assert!(trigger(b"token=\xff").unwrap_err().contains("UTF-8"));
    assert!(
        trigger("x".repeat(262_145))
            .unwrap_err()
            .contains("at most 262144 bytes")
    );
}

#[test]
fn all_parameters_together_are_bounded() {
    let value = "x".repeat(65_000);
    let config = good(&json!({"parameters": {"a": value, "b": value, "c": value, "d": "", "e": ""}, "tasks": []}));
    assert!(TriggerRequest::read(format!("d={value}").as_bytes(), &config, None).is_ok());
    let error = TriggerRequest::read(format!("d={value}\ne={value}").as_bytes(), &config, None).unwrap_err();
    assert_eq!(error, "the parameters have more than 262144 bytes in all");
    let found =
        faults(&json!({"parameters": {"a": value, "b": value, "c": value, "d": value, "e": value}, "tasks": []}));
    assert_eq!(found, ["parameters have more than 262144 bytes in all"]);
}

fn ticket(value: Value) -> Result<TicketRequest, String> {
    TicketRequest::read(value.to_string().as_bytes())
}

#[test]
fn a_ticket_is_read_whole() {
    let digest = Digest::of(b"workspace");
    let read = ticket(json!({
        "job": "hello", "build": 7, "task": 3, "run": 2, "labels": ["linux", "linux"], "params": {"a": [1], "script": "${x}"}, "timeout": 60,
        "attempts": 1, "workspace": digest.to_string(), "environment": {"A": "b"}, "isolation": "namespace", "network": true,
        "limits": {"memory": 1024}, "console_limit": 5
    }));
    let read = read.unwrap();
    assert_eq!(read.id.as_ref().map(TicketId::as_str), Some("hello.7.3.r2"));
    assert_eq!(
        (
            read.build,
            read.task,
            read.run,
            read.settings.timeout,
            read.settings.attempts
        ),
        (Some(7), Some(3), 2, Some(60), 1)
    );
    assert_eq!(
        (read.settings.labels, read.workspace, read.settings.network),
        (vec![name("linux")], Some(digest), true)
    );
    assert_eq!(
        (
            read.settings.isolation.as_str(),
            read.settings.limits.memory,
            read.settings.console_limit
        ),
        ("namespace", Some(1024), Some(5))
    );
    assert_eq!(read.params["script"], "${x}");
    let empty = ticket(json!({})).unwrap();
    assert_eq!(
        (
            empty.id,
            empty.settings.attempts,
            empty.settings.timeout,
            empty.settings.console_limit
        ),
        (None, 3, None, None)
    );
}

#[test]
fn a_bad_ticket_is_refused_with_words() {
    for (value, words) in [
        (json!([]), "the whole must be an object"),
        (json!({"id": "hello.7.3"}), "has the form kept for tickets of builds"),
        (
            json!({"id": "x", "job": "hello", "build": 7, "task": 3}),
            "id must be hello.7.3 for this task",
        ),
        (json!({"id": "a/b"}), "id must be a name"),
        (json!({"build": 7}), "build needs job beside it"),
        (json!({"job": "a", "task": 7}), "task needs build beside it"),
        (json!({"run": 1}), "run needs task beside it"),
        (
            json!({"job": "a", "build": 7, "task": 3, "workspace": "ABC"}),
            "64 lower-case hexadecimal digits",
        ),
        (
            json!({"workspace": Digest::of(b"of another").to_string()}),
            "workspace needs build beside it",
        ),
        (json!({"label": []}), "did you mean labels?"),
        (
            json!({"labels": 1, "timeout": 0}),
            "labels must be a list of names (and 1 more)",
        ),
        (
            json!({"params": {"..": 1}}),
            "is no name that a file in params/ could have",
        ),
    ] {
        let error = ticket(value).unwrap_err();
        assert!(error.contains(words), "{error:?} has no {words:?}");
    }
    assert!(
        TicketRequest::read(&[b' '; 262_145])
            .unwrap_err()
            .contains("at most 262144 bytes")
    );
}

#[test]
fn a_param_is_a_file() {
    let file = |value: Value| String::from_utf8(param_file(&value)).unwrap();
    assert_eq!(file(json!("a")), "a\n");
    assert_eq!(file(json!("a\nb\n")), "a\nb\n");
    assert_eq!(file(json!("")), "\n");
    assert_eq!(
        file(json!(["a b", 7, true, {"x": [1]}, "l\nm"])),
        "a b\n7\ntrue\n{\"x\":[1]}\n\"l\\nm\"\n"
    );
    assert_eq!(file(json!([])), "");
    assert_eq!(
        (file(json!(7.5)), file(json!(false)), file(json!(null))),
        ("7.5\n".into(), "false\n".into(), String::new())
    );
    assert_eq!(file(json!({"b": 1, "a": "x"})), "{\"b\":1,\"a\":\"x\"}\n");
}
