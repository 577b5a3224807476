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
        grace: Some(45),
        reports: vec!["**/junit*.xml".into()],
    };
    assert_eq!(all.members().keys().collect::<Vec<_>>(), TaskSettings::KEYS);
    for settings in [all, TaskSettings::default()] {
        let members = settings.members();
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

/// What a task says is read into its settings, or refused with the place.
fn checked(task: &Value) -> Result<TaskSettings, Vec<String>> {
    let value = json::parse(task.to_string().as_bytes()).unwrap();
    let mut faults = Faults::default();
    let object = Object::new(&value, "tasks[0]", &mut faults).unwrap();
    let settings = TaskSettings::read(&object, Vec::new(), &mut faults);
    match faults.into_sorted() {
        none if none.is_empty() => Ok(settings),
        faults => Err(faults.iter().map(ToString::to_string).collect()),
    }
}

/// "`reports`: at most 16 patterns as those of artifacts": absent where nothing is said, and in no ticket then.
#[test]
fn reports_are_patterns() {
    let given = checked(&json!({"reports": ["**/junit*.xml", "!old/*.xml"]})).unwrap();
    assert_eq!(given.reports, ["**/junit*.xml", "!old/*.xml"]);
    assert!(
        !checked(&json!({"reports": []}))
            .unwrap()
            .members()
            .contains_key("reports")
    );
    let many: Vec<String> = (0..17).map(|n| format!("{n}.xml")).collect();
    for (bad, words) in [
        (json!("junit.xml"), "must be a list of strings"),
        (json!(["/etc/x.xml"]), "no leading /"),
        (json!(["a/../x.xml"]), "no .."),
        (json!(["**.xml"]), "**/*.xml"),
        (json!(["!x.xml"]), "reports[0]"),
        (json!(["a\nb"]), "must be a line"),
        (json!(["a".repeat(257)]), "at most 256 bytes"),
        (json!(many), "more than 16 patterns"),
    ] {
        let said = checked(&json!({ "reports": bad })).unwrap_err();
        assert!(
            said[0].starts_with("1:") && said[0].contains(words),
            "{words}: {said:?}"
        );
    }
}

/// "`grace` … from 1 to 45": absent where nothing is said, and in no ticket then.
#[test]
fn grace_is_a_number_of_seconds() {
    assert_eq!(checked(&json!({"grace": 45})).unwrap().grace, Some(45));
    let without = checked(&json!({})).unwrap();
    assert!(without.grace.is_none() && !without.members().contains_key("grace"));
    for bad in [json!(0), json!(46), json!("10"), json!(1.5)] {
        let said = checked(&json!({"grace": bad})).unwrap_err();
        assert_eq!(said, ["1:10: tasks[0].grace must be a whole number from 1 to 45"]);
    }
}
