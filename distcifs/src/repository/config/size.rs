//! What tasks take: a short text may stand for much, as a matrix does.

use std::io::{self, Write};
use std::mem::size_of;
use std::ops::{Add, AddAssign};

use serde_json::{Map, Value};

use super::Task;

/// Most bytes that the tasks of a build take in its build.json, as they are planned. What becomes of them stands there
/// besides, and whoever steers a build reads no more than 64 MiB of it.
pub const SHOWN_BYTES_MAX: usize = 16 << 20;

/// What each line of a task is indented by in build.json.
const INDENTED: usize = 4;

/// What an entry of a map, or of a list of pairs, takes beside its key and its value, bytes.
const ENTRY: usize = 64;

/// What tasks take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Size {
    /// Bytes of memory, about.
    pub memory: usize,
    /// Bytes of build.json, as they are planned.
    pub shown: usize,
}

impl Size {
    /// That of these tasks.
    pub fn of(tasks: &[Task]) -> Self {
        let sizes = tasks.iter().map(|task| Size {
            memory: memory_of(task),
            shown: shown_of(task),
        });
        sizes.fold(Size::default(), Add::add)
    }

    /// Whether a build that has these tasks can be shown with more. The error is a line for people.
    pub(super) fn and(self, more: Size) -> Result<(), String> {
        let bytes = (self + more).shown;
        if bytes <= SHOWN_BYTES_MAX {
            return Ok(());
        }
        Err(format!(
            "tasks are too much: those of the build would take {bytes} bytes of its build.json, and may take \
             {SHOWN_BYTES_MAX}: put long scripts into files of the workspace"
        ))
    }
}

impl Add for Size {
    type Output = Size;

    fn add(self, other: Size) -> Size {
        Size {
            memory: self.memory.saturating_add(other.memory),
            shown: self.shown.saturating_add(other.shown),
        }
    }
}

impl AddAssign for Size {
    fn add_assign(&mut self, other: Size) {
        *self = *self + other;
    }
}

fn memory_of(task: &Task) -> usize {
    let settings = &task.settings;
    let environment = settings.environment.iter();
    let environment: usize = environment.map(|(name, value)| ENTRY + name.len() + value.len()).sum();
    let labels: usize = settings.labels.iter().map(|label| ENTRY + label.as_str().len()).sum();
    let needs = task.needs.as_ref().map_or(0, |needs| needs.len() * size_of::<usize>());
    let when = written(&task.when.to_json(), 0);
    let group = task.group.as_ref().map_or(0, |group| group.name.len());
    size_of::<Task>() + members(&task.params) + environment + labels + needs + when + group
}

fn members(members: &Map<String, Value>) -> usize {
    members
        .iter()
        .map(|(key, value)| ENTRY + key.len() + memory_of_value(value))
        .sum()
}

fn memory_of_value(value: &Value) -> usize {
    let within = match value {
        Value::Null | Value::Bool(_) => 0,
        Value::Number(number) => number.to_string().len(),
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(memory_of_value).sum(),
        Value::Object(inner) => members(inner),
    };
    size_of::<Value>() + within
}

fn shown_of(task: &Task) -> usize {
    written(&task.resolved(), INDENTED)
}

/// The length of a value that is written for people, each line of it indented by so much more.
fn written(value: &Value, indented: usize) -> usize {
    struct Count {
        bytes: usize,
        indented: usize,
    }
    impl Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
            self.bytes += bytes.len() + lines * self.indented;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count {
        bytes: indented,
        indented,
    };
    match serde_json::to_writer_pretty(&mut count, value) {
        Ok(()) => count.bytes,
        // It can't fail, and what is not known is too much.
        Err(_) => usize::MAX,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::repository::config::JobConfig;
    use crate::repository::model::json::pretty;

    fn tasks(tasks: &Value) -> Vec<Task> {
        JobConfig::read(json!({ "tasks": tasks }).to_string().as_bytes(), None)
            .unwrap()
            .tasks
    }

    /// What is counted is what build.json has of them, to some bytes for each task.
    #[test]
    fn what_is_shown_is_counted() {
        let script = "\u{1}\n\t".repeat(1000);
        let tasks = tasks(&json!([
            {"type": "execute-shell", "params": {"script": "true\n"}, "environment": {"A": script.replace('\u{1}', "x")}},
            {"type": "own", "params": {"deep": [[[[0, 0, 0], [], {}]]], "text": script}, "matrix": {"x": [1, 2, 3]}},
        ]));
        let shown: Vec<Value> = tasks.iter().map(Task::resolved).collect();
        let text = pretty(&json!({ "tasks": shown }));
        let counted = Size::of(&tasks).shown;
        let around = 32 + 2 * tasks.len();
        assert!(
            counted <= text.len() && text.len() <= counted + around,
            "{counted} of {}",
            text.len()
        );
    }

    /// A matrix takes what its tasks take, not what its text has; and many small values are heavier than one long one.
    #[test]
    fn what_is_held_counts_however_short_its_text_is() {
        let script = "x".repeat(10_000);
        let one = Size::of(&tasks(&json!([{"type": "own", "params": {"text": script}}]))).memory;
        let values: Vec<usize> = (0..100).collect();
        let many = json!([{"type": "own", "params": {"text": script}, "matrix": {"x": values}}]);
        let many = Size::of(&tasks(&many)).memory;
        assert!(many >= 100 * one && one >= 10_000, "{one} {many}");
        let zeros = Size::of(&tasks(&json!([{"type": "own", "params": {"list": vec![0; 1000]}}]))).memory;
        assert!(zeros >= 1000 * size_of::<Value>(), "{zeros}");
    }
}
