//! A value as JSON with one line for each value and key, so that what is wrong in a line can be told where its author
//! wrote it, whatever format that was.

use crate::fault::Place;
use crate::json::{Kind, Value};

/// JSON, and where each of its lines comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The JSON.
    pub text: String,
    /// For each of its lines the place of what stands there.
    pub places: Vec<Place>,
}

impl Rendered {
    /// Where what stands in a line, from 1, was written.
    pub fn place(&self, line: u32) -> Option<Place> {
        let index = usize::try_from(line).ok()?.checked_sub(1)?;
        self.places.get(index).copied()
    }

    /// A line of `tasks.error`, `tasks.json:12:1: what`, with the author's file and place; a line of another form as
    /// it is, behind the file.
    pub fn told(&self, line: &str, file: &str) -> String {
        let of_file = line.strip_prefix("tasks.json:").unwrap_or(line);
        let parts = of_file.split_once(':').and_then(|(number, rest)| {
            let (column, what) = rest.split_once(':')?;
            column.parse::<u32>().ok()?;
            Some((self.place(number.parse().ok()?)?, what))
        });
        match parts {
            Some((at, what)) => format!("{file}:{}:{}:{what}", at.line, at.column),
            None => format!("{file}: {}", of_file.trim_start()),
        }
    }

    fn line(&mut self, at: Place, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
        self.places.push(at);
    }

    fn value(&mut self, value: &Value) {
        match &value.kind {
            Kind::Null => self.line(value.at, "null"),
            Kind::Bool(flag) => self.line(value.at, if *flag { "true" } else { "false" }),
            Kind::Number(number) => self.line(value.at, number.text()),
            Kind::String(text) => self.line(value.at, &string(text)),
            Kind::List(items) => {
                self.line(value.at, "[");
                for (i, item) in items.iter().enumerate() {
                    self.comma(i);
                    self.value(item);
                }
                self.line(value.at, "]");
            }
            Kind::Object(members) => {
                self.line(value.at, "{");
                for (i, member) in members.iter().enumerate() {
                    self.comma(i);
                    let key = string(&member.key);
                    self.line(member.at, &format!("{key}:"));
                    self.value(&member.value);
                }
                self.line(value.at, "}");
            }
        }
    }

    /// Between two values, in the line of the second.
    fn comma(&mut self, index: usize) {
        if index > 0 {
            self.text.push(',');
        }
    }
}

/// The text as a string of JSON.
fn string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

impl Value {
    /// The same value as JSON, with the digits that its numbers were written with.
    pub fn render_lines(&self) -> Rendered {
        let mut rendered = Rendered {
            text: String::new(),
            places: Vec::new(),
        };
        rendered.value(self);
        rendered
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    #[test]
    fn each_line_knows_where_it_comes_from() {
        let text = "{ \"a\": [1, \"x\\ny\"],\n  \"b\": { \"c\": 3.10 } }";
        let value = json::parse(text.as_bytes()).unwrap();
        let rendered = value.render_lines();
        assert_eq!(
            rendered.text,
            "{\n\"a\":\n[\n1\n,\"x\\ny\"\n]\n,\"b\":\n{\n\"c\":\n3.10\n}\n}\n"
        );
        let again = json::parse(rendered.text.as_bytes()).unwrap();
        assert_eq!(again.render_lines().text, rendered.text);
        assert_eq!(rendered.text.lines().count(), rendered.places.len());
        let at = |line: u32, column: u32| Place { line, column };
        let places = rendered.places;
        assert_eq!(
            places[..6],
            [at(1, 1), at(1, 3), at(1, 8), at(1, 9), at(1, 12), at(1, 8)]
        );
        assert_eq!(
            places[6..],
            [at(2, 3), at(2, 8), at(2, 10), at(2, 15), at(2, 8), at(1, 1)]
        );
    }

    /// "A fault is `path:line:column: what` in the lines that the author wrote."
    #[test]
    fn a_fault_of_tasks_json_is_told_in_the_authors_lines() {
        let value = crate::yaml::parse(b"tasks:\n- type: execute-shell\n  needs: a\n").unwrap();
        let rendered = value.render_lines();
        let line = rendered.text.lines().position(|line| line == "\"a\"").unwrap() + 1;
        assert_eq!(
            rendered.told(
                &format!("tasks.json:{line}:1: tasks[0].needs must be a list"),
                "ci/.distcifs.yaml"
            ),
            "ci/.distcifs.yaml:3:10: tasks[0].needs must be a list"
        );
        for (told, expected) in [
            ("tasks.json: can't be read", "f: can't be read"),
            ("tasks.json:999:1: x", "f: 999:1: x"),
            ("tasks.json:0:0: x", "f: 0:0: x"),
            ("something: else", "f: something: else"),
        ] {
            assert_eq!(rendered.told(told, "f"), expected);
        }
    }
}
