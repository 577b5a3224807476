//! What an author wrote reaches the tasks as it was written, or is refused.

use super::*;

/// "Numbers keep their text": version 3.10 is not 3.1, and no digit of a long one is lost.
#[test]
fn numbers_keep_their_digits() {
    let text = r#"{"parameters": {"version": 3.10, "id": 12345678901234567890123, "e": 1E3, "n": -0},
        "tasks": [{"type": "own", "params": {"v": 3.10, "n": 7}}, {"type": "own", "name": "m", "matrix": {"v": [3.10, 4]}}]}"#;
    let config = JobConfig::read(text.as_bytes(), None).expect("a good configuration");
    let value = |name: &str| {
        let found = config.parameters.iter().find(|(known, _)| known.as_str() == name);
        found
            .and_then(|(_, value)| value.clone())
            .expect("a parameter with a default")
    };
    assert_eq!(
        ["version", "id", "e", "n"].map(value),
        ["3.10", "12345678901234567890123", "1E3", "-0"]
    );
    assert_eq!(config.tasks[0].params["v"], json!("3.10"));
    assert_eq!(config.tasks[0].params["n"], json!(7));
    assert_eq!(config.tasks[1].name.as_str(), "m.3.10");
    let trigger = TriggerRequest::read(br#"{"version": 2.50, "id": 1}"#, &config, None).expect("a good trigger");
    let version = trigger.parameters.iter().find(|(known, _)| known.as_str() == "version");
    assert_eq!(version.map(|(_, value)| value.as_str()), Some("2.50"));
}

/// "A script that makes a ticket too large is refused when the configuration is written."
#[test]
fn a_task_whose_ticket_would_be_too_large_is_refused() {
    let task = |bytes: usize| json!({"type": "execute-shell", "params": {"script": "x".repeat(bytes)}});
    good(&of_tasks(json!([task(REQUEST_BYTES_MAX - 4096)])));
    refused(task(REQUEST_BYTES_MAX), "tasks[0].params: its ticket would have");
    refused(
        task(REQUEST_BYTES_MAX),
        "put a long script into a file of the workspace",
    );
}

/// "`limits.disk` … may stand in a task of any type", and no other limit may.
#[test]
fn the_disk_is_bounded_whatever_the_type() {
    let checkout = |limits| json!({"type": "git-checkout", "params": {"repository": "https://x/y"}, "limits": limits});
    good(&json!({"tasks": [checkout(json!({"disk": "1G"}))]}));
    refused(checkout(json!({"disk": "1G", "memory": "1G"})), "can't be isolated");
    refused(checkout(json!({"disk": 0})), "limits.disk must be a number of bytes");
}
