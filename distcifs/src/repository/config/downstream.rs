//! `downstream_jobs`: which jobs a build triggers, and what it gives them.

use std::collections::HashSet;

use super::fault::{Faults, Place, quoted};
use super::json::{Kind, Member, Value};
use super::object::{Object, as_list, as_name};
use super::trigger::UPSTREAM_PARAMETERS;
use super::{Downstream, PARAMETERS_BYTES_MAX, kinds};
use crate::repository::names::Name;

/// Reads the list. `job` has it, and `known` are the names that `${…}` may have.
pub(super) fn read(
    top: &Object<'_>,
    job: Option<&Name>,
    known: Option<&HashSet<&str>>,
    faults: &mut Faults,
) -> Vec<Downstream> {
    let items = top
        .get("downstream_jobs")
        .and_then(|value| as_list(value, "downstream_jobs", "names or objects", faults))
        .unwrap_or_default();
    let mut list: Vec<Downstream> = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let Some(found) = entry(item, &format!("downstream_jobs[{i}]"), known, faults) else {
            continue;
        };
        let (at, name) = (found.at, &found.job);
        if Some(name) == job {
            faults.add(at, format!("downstream_jobs: {name} would trigger itself for ever"));
        }
        match list.iter().find(|other| other.job == *name) {
            None => list.push(found),
            Some(other) if other.parameters.is_empty() && found.parameters.is_empty() => {}
            Some(_) => faults.add(
                at,
                format!("downstream_jobs: {name} stands twice; a build triggers it once"),
            ),
        }
    }
    list
}

/// A name, or an object with one and parameters.
fn entry(item: &Value, path: &str, known: Option<&HashSet<&str>>, faults: &mut Faults) -> Option<Downstream> {
    if !matches!(item.kind, Kind::Object(_)) {
        let job = as_name(item, path, faults)?;
        return Some(Downstream {
            at: item.at,
            job,
            parameters: Vec::new(),
        });
    }
    let object = Object::new(item, path, faults)?;
    object.only(&["job", "parameters"], faults);
    object.required("job", faults)?;
    let parameters = object.object("parameters", faults);
    let parameters = parameters.map(|given| given_parameters(&given, known, faults));
    Some(Downstream {
        at: item.at,
        job: object.name("job", faults)?,
        parameters: parameters.unwrap_or_default(),
    })
}

fn given_parameters(given: &Object<'_>, known: Option<&HashSet<&str>>, faults: &mut Faults) -> Vec<(Name, String)> {
    let mut parameters = Vec::new();
    let mut bytes = 0;
    for Member { at, key, value } in given.members {
        match parameter(key, *at, value, given, faults) {
            Some((name, text)) => {
                kinds::check_text(&text, value.at, &given.path_of(key), known, faults);
                bytes += key.len() + text.len();
                parameters.push((name, text));
            }
            None => continue,
        }
    }
    if bytes > PARAMETERS_BYTES_MAX {
        let what = format!("{} have more than {PARAMETERS_BYTES_MAX} bytes in all", given.path);
        faults.add(given.at, what);
    }
    parameters
}

/// One parameter, as the trigger of the other job takes it.
fn parameter(key: &str, at: Place, value: &Value, given: &Object<'_>, faults: &mut Faults) -> Option<(Name, String)> {
    let path = given.path_of(key);
    if UPSTREAM_PARAMETERS.contains(&key) {
        faults.add(at, format!("{path}: it is always given, with what it says"));
        return None;
    }
    let Some(name) = Name::new(key) else {
        faults.add(at, format!("{}: {} can't name a parameter", given.path, quoted(key)));
        return None;
    };
    let text = value.to_text();
    if text.is_none() {
        faults.add(value.at, format!("{path} must be a string, a number or a bool"));
    }
    Some((name, text?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::config::JobConfig;
    use serde_json::json;

    /// "downstream jobs get parameters": `${name}` of this job's, refused at writing if it is not known.
    #[test]
    fn downstream_jobs_with_parameters() {
        let text = json!({
            "parameters": {"ref": "main"},
            "tasks": [],
            "downstream_jobs": ["a", {"job": "b", "parameters": {"ref": "${ref}@${git_commit}", "n": 3.10, "on": true}}, {"job": "c"}, "a"],
        });
        let config = JobConfig::read(text.to_string().as_bytes(), None).unwrap();
        let found: Vec<_> = config
            .downstream_jobs
            .iter()
            .map(|d| (d.job.as_str(), d.parameters.len()))
            .collect();
        assert_eq!(found, [("a", 0), ("b", 3), ("c", 0)]);
        assert_eq!(config.downstream_jobs[1].parameters[0].1, "${ref}@${git_commit}");
        for (list, fault) in [
            (
                json!({"job": "a"}),
                "downstream_jobs must be a list of names or objects",
            ),
            (json!([7]), "downstream_jobs[0] must be a name"),
            (json!([{}]), "downstream_jobs[0].job is missing"),
            (json!([{"job": "a", "params": {}}]), "unknown key \"params\""),
            (
                json!([{"job": "a", "parameters": []}]),
                "downstream_jobs[0].parameters must be an object",
            ),
            (
                json!([{"job": "a", "parameters": {"x": "${reff}"}}]),
                "downstream_jobs[0].parameters.x: no parameter is called \"reff\"; did you mean ref?",
            ),
            (
                json!([{"job": "a", "parameters": {"x": "${ref"}}]),
                "without } after it",
            ),
            (
                json!([{"job": "a", "parameters": {"x": null}}]),
                "parameters.x must be a string, a number or a bool",
            ),
            (
                json!([{"job": "a", "parameters": {"@key": "x"}}]),
                "\"@key\" can't name a parameter",
            ),
            (
                json!([{"job": "a", "parameters": {"upstream_depth": "0"}}]),
                "parameters.upstream_depth: it is always given",
            ),
            (
                json!(["a", {"job": "a", "parameters": {"x": "1"}}]),
                "downstream_jobs: a stands twice; a build triggers it once",
            ),
            (json!([{"job": "hello"}]), "hello would trigger itself for ever"),
        ] {
            let text = json!({"parameters": {"ref": "main"}, "downstream_jobs": list, "tasks": []});
            let job = Name::new("hello").unwrap();
            let said = JobConfig::read(text.to_string().as_bytes(), Some(&job)).unwrap_err();
            let said = said.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
            assert!(said.contains(fault), "{list}: {said}");
        }
    }
}
