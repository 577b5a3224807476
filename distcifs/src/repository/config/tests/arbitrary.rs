//! Bytes and values of any kind: no reader panics, and what one takes holds to the rules.

use proptest::prelude::*;

use super::*;

/// Values near to a configuration: the keys that are known, with anything behind them.
fn near_config() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        "[a-z${}.]{0,9}",
        Just("execute-shell".into()),
        Just("lint".into()),
        Just("${matrix.os}".into()),
        Just("H * * * *".into())
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i32>().prop_map(Into::into),
        text.prop_map(Value::from)
    ];
    let keys = prop::sample::select(vec![
        "tasks",
        "type",
        "params",
        "matrix",
        "os",
        "exclude",
        "include",
        "needs",
        "name",
        "labels",
        "script",
        "environment",
        "parameters",
        "github",
        "cron",
        "keep",
        "limits",
        "isolation",
        "job",
        "build",
        "task",
        "id",
        "artifacts",
        "1",
        "@key",
    ]);
    leaf.prop_recursive(6, 80, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::vec((keys.clone(), inner), 0..6).prop_map(|members| Value::Object(
                members
                    .into_iter()
                    .map(|(key, value)| (key.to_owned(), value))
                    .collect()
            )),
        ]
    })
}

/// Every reader reads it; what is taken holds to the rules.
fn read_by_all(bytes: &[u8]) -> Result<(), TestCaseError> {
    match JobConfig::read(bytes, Some(&name("hello"))) {
        Ok(config) => {
            prop_assert!(config.tasks.iter().enumerate().all(|(i, task)| task.index == i));
            prop_assert!(
                config
                    .tasks
                    .iter()
                    .flat_map(|task| task.needs.iter().flatten())
                    .all(|&need| need < config.tasks.len())
            );
        }
        Err(faults) => prop_assert!((1..=FAULTS_MAX).contains(&faults.len()) && faults.is_sorted()),
    }
    if let Ok(ticket) = TicketRequest::read(bytes) {
        ticket.params.values().for_each(|value| drop(param_file(value)));
    }
    let config = good(&of_tasks(json!([])));
    let trigger = TriggerRequest::read(bytes, &config, None);
    prop_assert!(trigger.map_or_else(
        |why| !why.is_empty(),
        |trigger| trigger.parameters.len() >= config.parameters.len()
    ));
    Ok(())
}

proptest! {
    #[test]
    fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        read_by_all(&bytes)?;
    }

    #[test]
    fn no_json_makes_a_reader_panic(value in near_config(), tasks in prop::collection::vec(near_config(), 0..4)) {
        read_by_all(value.to_string().as_bytes())?;
        read_by_all(json!({"tasks": tasks, "parameters": {"os": value}}).to_string().as_bytes())?;
    }
}
