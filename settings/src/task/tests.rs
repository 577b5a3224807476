//! Settings as tickets have them, and back.

use serde_json::json;

use super::*;

fn read(value: &Value) -> Result<TaskSettings, serde_json::Error> {
    serde_json::from_value(value.clone())
}

/// What is written is read back as it was, by the workers.
#[test]
fn settings_are_read_as_they_were_written() {
    let all = TaskSettings {
        labels: vec![Name::new("linux").unwrap()],
        timeout: Some(600),
        attempts: 1,
        environment: vec![("B".into(), "2".into()), ("A".into(), "x y".into())],
        isolation: Isolation::new("lxc").unwrap(),
        image: Some("job:base".into()),
        limits: Limits {
            cpus: Some(0.5),
            memory: Some(1 << 30),
            processes: Some(100),
            disk: Some(7),
        },
        network: true,
        console_limit: Some(5),
    };
    for settings in [all, TaskSettings::default()] {
        let members = settings.members();
        assert_eq!(members.keys().collect::<Vec<_>>(), TaskSettings::KEYS);
        assert_eq!(read(&members.into()).unwrap(), settings);
    }
}

#[test]
fn what_is_absent_or_null_is_a_default() {
    let null = json!({"labels": null, "timeout": null, "environment": null, "isolation": null, "image": null, "limits": null,
        "network": null, "console_limit": null});
    assert_eq!(read(&null).unwrap(), TaskSettings::default());
    assert_eq!(read(&json!({"more": 1})).unwrap(), TaskSettings::default());
    assert_eq!(TaskSettings::default().attempts, ATTEMPTS_DEFAULT);
}

#[test]
fn limits_of_a_ticket() {
    let read = |limits: Value| read(&json!({"limits": limits})).map(|settings| settings.limits);
    let limits = read(json!({"cpus": 0.5, "memory": 1024, "processes": 3, "disk": null})).unwrap();
    assert_eq!(
        (limits.cpus, limits.memory, limits.processes, limits.disk),
        (Some(0.5), Some(1024), Some(3), None)
    );
    assert!(!read(json!({"memory": null, "disk": 5})).unwrap().bound_processes());
    for bad in [
        json!(7),
        json!({"memory": "much"}),
        json!({"memory": 0.5}),
        json!({"cpus": 0}),
        json!({"processes": 0}),
    ] {
        assert!(read(bad.clone()).is_err(), "{bad}");
    }
    let said = read(json!({"memory": 0.5})).unwrap_err().to_string();
    assert!(said.contains("limits.memory must be a whole number from 1"), "{said}");
}

/// Whoever hands settings on takes nothing else along.
#[test]
fn given_settings_are_handed_on_as_they_stand() {
    let record = json!({"index": 0, "labels": [], "timeout": null, "limits": {"cpus": 0.5}, "state": "waiting", "network": false});
    let given: Given = serde_json::from_value(record).unwrap();
    let wanted = json!({"labels": [], "limits": {"cpus": 0.5}, "network": false});
    assert_eq!(serde_json::to_value(&given).unwrap(), wanted);
}
