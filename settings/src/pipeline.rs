//! A pipeline beside the code: a file of tasks in YAML, TOML or JSON, by its ending.

use crate::fault::Fault;
use crate::json::{self, Kind, Member, Value};
use crate::{toml, yaml};

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `.yaml` or `.yml`
    Yaml,
    /// `.toml`
    Toml,
    /// `.json`
    Json,
}

impl Format {
    /// By the ending of a name; `None`: another one.
    pub fn of(name: &str) -> Option<Self> {
        let (_, ending) = name.rsplit_once('.')?;
        match ending {
            "yaml" | "yml" => Some(Format::Yaml),
            "toml" => Some(Format::Toml),
            "json" => Some(Format::Json),
            _ => None,
        }
    }
}

/// Members of a task that are text, or lists of it.
const TASK_TEXTS: [&str; 7] = ["type", "name", "needs", "labels", "nodelabels", "isolation", "image"];

/// The same of params of the types that come with distcifs. Those of other queues stay as they are.
fn param_texts(kind: &str) -> &'static [&'static str] {
    match kind {
        "git-checkout" => &["repository", "ref", "commit", "checkout-dir", "tasks", "nodelabels"],
        "execute-shell" => &["script", "script_file", "working_directory", "nodelabels"],
        "publish-artifacts" => &["artifacts", "nodelabels"],
        "copy-artifacts" => &["job", "build", "artifacts", "target_directory", "nodelabels"],
        _ => &[],
    }
}

/// Reads a pipeline. What is wanted as text is text, with the characters that its author wrote: a branch 3.10 is no
/// number.
///
/// # Errors
/// The first fault, with its place; it quotes nothing of the text.
pub fn read(text: &[u8], format: Format) -> Result<Value, Fault> {
    let mut value = match format {
        Format::Yaml => yaml::parse(text),
        Format::Toml => toml::parse(text),
        Format::Json => json::parse_without_text(text),
    }?;
    if let Kind::List(tasks) = member(&mut value, "tasks").map_or(&mut Kind::Null, |tasks| &mut tasks.kind) {
        tasks.iter_mut().for_each(texts_of_task);
    }
    Ok(value)
}

fn texts_of_task(task: &mut Value) {
    TASK_TEXTS.iter().for_each(|key| as_texts(task, key));
    let kind = member(task, "type").and_then(|kind| kind.as_str().map(str::to_owned));
    if let (Some(kind), Some(params)) = (kind, member(task, "params")) {
        param_texts(&kind).iter().for_each(|key| as_texts(params, key));
    }
}

/// Makes a member text, and each item of it if it is a list.
fn as_texts(object: &mut Value, key: &str) {
    let Some(value) = member(object, key) else {
        return;
    };
    let values = match &mut value.kind {
        Kind::List(items) => items.as_mut_slice(),
        _ => std::slice::from_mut(value),
    };
    for value in values {
        if let Some(text) = value.to_text() {
            value.kind = Kind::String(text);
        }
    }
}

fn member<'a>(object: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    let Kind::Object(members) = &mut object.kind else {
        return None;
    };
    let found = |member: &&mut Member| member.key == key;
    members.iter_mut().find(found).map(|member| &mut member.value)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    const YAML: &str = "\
# One pipeline, three times.
x-shell: &shell { type: execute-shell, timeout: 600 }
tasks:
- type: git-checkout
  params: { repository: https://example.org/hello, ref: 3.10, depth: 1 }
- <<: *shell
  name: unit
  needs: [ git-checkout ]
  matrix: { python: [ 3.9, 3.10 ] }
  environment: { V: 1.0, ON: true }
  params:
    script: |
      echo \"$V\"
      make
- { type: lint, name: 7, params: { level: 7, strict: true, none: ~ } }
";

    const TOML: &str = r#"
[x-shell]
type = "execute-shell"
timeout = 600

[[tasks]]
type = "git-checkout"
params.repository = "https://example.org/hello"
params.ref = 3.10
params.depth = 1

[[tasks]]
name = "unit"
needs = ["git-checkout"]
matrix = { python = [3.9, 3.10] }
environment = { V = 1.0, ON = true }
type = "execute-shell"
timeout = 600
[tasks.params]
script = """
echo "$V"
make
"""

[[tasks]]
type = "lint"
name = 7
params = { level = 7, strict = true }
"#;

    const JSON: &str = r#"{
        "x-shell": { "type": "execute-shell", "timeout": 600 },
        "tasks": [
            { "type": "git-checkout", "params": { "repository": "https://example.org/hello", "ref": 3.10, "depth": 1 } },
            { "name": "unit", "needs": ["git-checkout"], "matrix": { "python": [3.9, 3.10] },
              "environment": { "V": 1.0, "ON": true }, "params": { "script": "echo \"$V\"\nmake\n" },
              "type": "execute-shell", "timeout": 600 },
            { "type": "lint", "name": 7, "params": { "level": 7, "strict": true } }
        ]
    }"#;

    /// The same without places, and with the members of objects in one order.
    fn plain(value: &Value) -> String {
        let mut lines = value.clone();
        sort(&mut lines);
        lines.render_lines().text
    }

    fn sort(value: &mut Value) {
        match &mut value.kind {
            Kind::List(items) => items.iter_mut().for_each(sort),
            Kind::Object(members) => {
                members.sort_by(|a, b| a.key.cmp(&b.key));
                members.iter_mut().for_each(|member| sort(&mut member.value));
            }
            _ => {}
        }
    }

    /// "YAML 1.2, TOML and JSON have the same members", and "3.10 stays 3.10".
    #[test]
    fn three_formats_of_one_file_are_one_value() {
        let yaml = YAML.replace(", none: ~", "");
        let read = |text: &str, format| plain(&read(text.as_bytes(), format).unwrap());
        let json = read(JSON, Format::Json);
        assert_eq!(read(&yaml, Format::Yaml), json);
        assert_eq!(read(TOML, Format::Toml), json);
        // Texts where text is wanted, else what they are.
        for line in ["\"3.10\"", "3.10", "\"7\"", "7", "1.0", "true"] {
            assert!(
                json.lines().any(|found| found.trim_start_matches(',') == line),
                "{line}: {json}"
            );
        }
    }

    /// "A fault is `path:line:column: what` in the lines that the author wrote": `faults` has those of each file of the
    /// corpus. What can be read, and is refused by the grammar, is read by the tests of the configuration.
    #[test]
    fn each_hostile_file_is_refused_at_its_place() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/corpus/distcifs");
        let expected = fs::read_to_string(corpus.join("faults")).unwrap();
        let mut refused = 0;
        for entry in fs::read_dir(&corpus).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let Some(format) = Format::of(&name) else { continue };
            let lines = || expected.lines().filter(|line| line.starts_with(&format!("{name}:")));
            match super::read(&fs::read(corpus.join(&name)).unwrap(), format) {
                Err(fault) => {
                    assert_eq!(lines().collect::<Vec<_>>(), [format!("{name}:{fault}")]);
                    refused += 1;
                }
                Ok(_) => assert!(lines().count() > 0, "{name} is refused nowhere"),
            }
        }
        assert!(refused > 100, "{refused}");
    }

    #[test]
    fn the_ending_says_the_format() {
        for (name, expected) in [
            (".distcifs.yaml", Some(Format::Yaml)),
            ("ci/a.yml", Some(Format::Yaml)),
            (".distcifs.toml", Some(Format::Toml)),
            ("tasks.json", Some(Format::Json)),
            ("Makefile", None),
            ("a.YAML", None),
            ("", None),
        ] {
            assert_eq!(Format::of(name), expected, "{name}");
        }
    }
}
