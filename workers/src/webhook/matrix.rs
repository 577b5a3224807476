//! The combinations of a task's matrix: those that the tree makes tasks of (doc/job.md), which has
//! checked them when the configuration was written.

use distcifs_settings::expand::plain;
use serde_json::{Map, Value};

/// Most tasks that the tree makes of one matrix.
const COMBINATIONS_MAX: usize = 256;

/// Keys of a matrix that are no axes.
const TRIMS: [&str; 2] = ["exclude", "include"];

/// The values of one task, by the names that its strings have for them: `matrix.os`.
pub type Combination = Map<String, Value>;

/// The combinations of a task; one without values if it has no matrix.
pub fn combinations(task: &Value) -> Vec<Combination> {
    let none = Map::new();
    let matrix = task.get("matrix").and_then(Value::as_object).unwrap_or(&none);
    let mut all = vec![Map::new()];
    for (axis, values) in matrix.iter().filter(|(key, _)| !TRIMS.contains(&key.as_str())) {
        let values = values.as_array().map(Vec::as_slice).unwrap_or_default();
        all = all
            .iter()
            .flat_map(|head| values.iter().map(move |value| with(head.clone(), axis, value)))
            .take(COMBINATIONS_MAX)
            .collect();
    }
    for entry in entries(matrix, "exclude") {
        all.retain(|combination| !entry.iter().all(|(axis, value)| combination.get(axis) == Some(value)));
    }
    for entry in entries(matrix, "include") {
        if !all.contains(&entry) && all.len() < COMBINATIONS_MAX {
            all.push(entry);
        }
    }
    all
}

/// A combination with the value of one axis more.
fn with(mut head: Combination, axis: &str, value: &Value) -> Combination {
    head.insert(format!("matrix.{axis}"), plain(value).into());
    head
}

/// The objects of `exclude` or `include`.
fn entries(matrix: &Map<String, Value>, key: &str) -> Vec<Combination> {
    let items = matrix.get(key).and_then(Value::as_array).into_iter().flatten();
    let read = |item: &Map<String, Value>| {
        item.iter()
            .fold(Map::new(), |head, (axis, value)| with(head, axis, value))
    };
    items.filter_map(Value::as_object).map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn combinations_are_those_of_the_tree() {
        let found = |matrix: Value| combinations(&json!({ "matrix": matrix }));
        assert_eq!(combinations(&json!({})), [Map::new()]);
        let two = found(json!({ "os": ["a", "b"], "n": [1, 2, true],
            "exclude": [{ "os": "b", "n": "1" }, { "n": true }], "include": [{ "os": "c", "n": 9 }, { "os": "a", "n": 1 }] }));
        let values = |combination: &Combination| {
            let value = |axis| plain(combination.get(axis).unwrap());
            (value("matrix.os"), value("matrix.n"))
        };
        let want = [("a", "1"), ("a", "2"), ("b", "2"), ("c", "9")].map(|(os, n)| (os.to_owned(), n.to_owned()));
        assert_eq!(two.iter().map(values).collect::<Vec<_>>(), want);
        // What the tree would not take makes nothing, and no more than there may be.
        assert!(found(json!({ "os": "a" })).is_empty());
        let many: Vec<usize> = (0..300).collect();
        assert_eq!(found(json!({ "a": many, "b": many })).len(), COMBINATIONS_MAX);
    }
}
