//! `${name}` in the parameters of a task.

use serde_json::{Map, Value};

/// The one parameter that is never expanded: what comes from outside must not become text that a shell reads.
const SCRIPT: &str = "script";

/// A build parameter as text: strings as they are, anything else as JSON.
pub fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Replaces each `${name}` by the build's parameter and `$${` by a literal `${`.
/// A `${` that is never closed stays; an unknown name is an error.
pub fn expand(text: &str, build: &Map<String, Value>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, from) = rest.split_at(start);
        if let Some(kept) = before.strip_suffix('$') {
            out.push_str(kept);
            out.push_str("${");
            rest = &from[2..];
            continue;
        }
        let Some(end) = from.find('}') else { break };
        let name = &from[2..end];
        let value = build
            .get(name)
            .ok_or_else(|| format!("no build parameter is called '{name}'"))?;
        out.push_str(before);
        out.push_str(&plain(value));
        rest = &from[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

/// Expands all strings of a task's parameters, in lists and objects too, but not the script.
pub fn expand_params(params: &Map<String, Value>, build: &Map<String, Value>) -> Result<Map<String, Value>, String> {
    let one = |(key, value): (&String, &Value)| {
        let value = if key == SCRIPT {
            value.clone()
        } else {
            expand_value(value, build)?
        };
        Ok((key.clone(), value))
    };
    params.iter().map(one).collect()
}

/// Depth is bounded by the JSON reader's own limit of 128.
fn expand_value(value: &Value, build: &Map<String, Value>) -> Result<Value, String> {
    Ok(match value {
        Value::String(text) => Value::String(expand(text, build)?),
        Value::Array(items) => Value::Array(items.iter().map(|v| expand_value(v, build)).collect::<Result<_, _>>()?),
        Value::Object(members) => {
            let one = |(k, v): (&String, &Value)| Ok((k.clone(), expand_value(v, build)?));
            Value::Object(members.iter().map(one).collect::<Result<_, String>>()?)
        }
        other => other.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn build() -> Map<String, Value> {
        json!({ "ref": "main", "n": 3, "evil": "${ref}" })
            .as_object()
            .unwrap()
            .clone()
    }

    #[test]
    fn names_are_replaced_once() {
        for (text, want) in [
            ("", ""),
            ("plain $x {y}", "plain $x {y}"),
            ("${ref}", "main"),
            ("a-${ref}-${n}.", "a-main-3."),
            ("${evil}", "${ref}"),
            ("$${ref} ${ref}", "${ref} main"),
            ("$$${ref}", "$${ref}"),
            ("${ref", "${ref"),
            ("é${ref}é", "émainé"),
        ] {
            assert_eq!(expand(text, &build()).as_deref(), Ok(want), "{text}");
        }
    }

    #[test]
    fn an_unknown_name_is_an_error() {
        assert!(expand("x ${nope}", &build()).unwrap_err().contains("'nope'"));
        assert!(expand("${}", &build()).is_err());
    }

    #[test]
    fn scripts_are_left_alone() {
        let params = json!({ "script": "echo ${nope}", "list": ["${ref}", 1], "o": { "script": "${n}" } });
        let got = expand_params(params.as_object().unwrap(), &build()).unwrap();
        assert_eq!(
            Value::Object(got),
            json!({ "script": "echo ${nope}", "list": ["main", 1], "o": { "script": "3" } })
        );
    }
}
