//! `${name}` in the strings of params.

use serde_json::{Map, Value};

/// Most bytes that the strings of expanded params may have: what a ticket may have.
pub(super) const EXPANDED_BYTES_MAX: usize = 256 << 10;

/// What the strings of params are made of.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// Text that stands for itself.
    Text(&'a str),
    /// `$${`: a literal `${`.
    Literal,
    /// `${name}`.
    Name(&'a str),
    /// `${` without `}` after it.
    Open,
}

/// Cuts a text into pieces.
pub(super) fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(dollar) = rest.find("${") {
        let (before, after) = (
            rest.get(..dollar).unwrap_or_default(),
            rest.get(dollar + 2..).unwrap_or_default(),
        );
        if let Some(before) = before.strip_suffix('$') {
            pieces.extend([Piece::Text(before), Piece::Literal]);
            rest = after;
        } else if let Some((name, after)) = after.split_once('}') {
            pieces.extend([Piece::Text(before), Piece::Name(name)]);
            rest = after;
        } else {
            // No } follows, so nothing further on is a name either.
            pieces.extend([Piece::Text(before), Piece::Open, Piece::Text(after)]);
            return pieces;
        }
    }
    pieces.push(Piece::Text(rest));
    pieces
}

/// Replaces each `${name}` in the strings of `params`, lists and objects in it included, by its
/// value, and each `$${` by `${`. `script` stays as it is, and so does a name without a value.
/// The error says that the result has more than 256 KiB.
pub fn expand(
    params: &Map<String, Value>,
    values: &dyn Fn(&str) -> Option<String>,
) -> Result<Map<String, Value>, String> {
    let mut room = EXPANDED_BYTES_MAX;
    let expanded = |(key, value): (&String, &Value)| {
        let value = if key == "script" {
            value.clone()
        } else {
            expand_value(value, values, &mut room)?
        };
        Ok((key.clone(), value))
    };
    params.iter().map(expanded).collect()
}

/// Expands one value, taking the bytes of its strings out of `room`.
fn expand_value(value: &Value, values: &dyn Fn(&str) -> Option<String>, room: &mut usize) -> Result<Value, String> {
    Ok(match value {
        Value::String(text) => Value::String(expand_text(text, values, room)?),
        Value::Array(items) => Value::Array(
            items
                .iter()
                .map(|item| expand_value(item, values, room))
                .collect::<Result<_, _>>()?,
        ),
        Value::Object(members) => {
            let expanded = members
                .iter()
                .map(|(key, value)| Ok((key.clone(), expand_value(value, values, room)?)));
            Value::Object(expanded.collect::<Result<_, String>>()?)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    })
}

fn expand_text(text: &str, values: &dyn Fn(&str) -> Option<String>, room: &mut usize) -> Result<String, String> {
    let mut out = String::new();
    for piece in pieces(text) {
        let before = out.len();
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Literal | Piece::Open => out.push_str("${"),
            Piece::Name(name) => match values(name) {
                Some(value) => out.push_str(&value),
                None => out.extend(["${", name, "}"]),
            },
        }
        *room = room
            .checked_sub(out.len() - before)
            .ok_or_else(|| format!("params have more than {EXPANDED_BYTES_MAX} bytes once parameters are put in"))?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn expanded(params: Value) -> Result<Value, String> {
        let values = |name: &str| match name {
            "ref" => Some("main".to_owned()),
            "odd" => Some("${ref} $(x)".to_owned()),
            "big" => Some("x".repeat(64 << 10)),
            _ => None,
        };
        let Value::Object(params) = params else {
            panic!("an object")
        };
        expand(&params, &values).map(Value::Object)
    }

    #[test]
    fn names_are_replaced_once_and_scripts_are_left_alone() {
        let params = json!({"script": "echo ${ref} $${ref}", "a": "<${ref}>", "b": ["$${ref}", {"c": "${odd}${ref}"}], "n": 7, "u": "${nobody} ${ open $5 $$"});
        let wanted = json!({"script": "echo ${ref} $${ref}", "a": "<main>", "b": ["${ref}", {"c": "${ref} $(x)main"}], "n": 7, "u": "${nobody} ${ open $5 $$"});
        assert_eq!(expanded(params), Ok(wanted));
    }

    #[test]
    fn what_grows_beyond_the_bound_is_refused() {
        assert!(expanded(json!({"a": "${big}".repeat(3)})).is_ok());
        let error = expanded(json!({"a": "${big}".repeat(3), "b": ["${big}", "${big}"]})).unwrap_err();
        assert!(error.contains("more than 262144 bytes"), "{error}");
    }
}
