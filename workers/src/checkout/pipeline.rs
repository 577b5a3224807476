//! A pipeline beside the code: the tasks of a file of the checkout are added to the build.
//!
//! The file is a stranger's, perhaps. It is read here, by a process of the job's owner that has nothing else, and what is
//! handed on is JSON with a line for each value. The daemon looks at that, and the worker tells its faults by the
//! places of the file.

use std::io::Read;

use distcifs_settings::fault::Place;
use distcifs_settings::json::{Kind, Member, Value};
use distcifs_settings::pipeline::{self, Format};

use crate::adding::TASKS_BYTES_MAX;
use crate::beneath::{Folder, inside, is, shown, trouble};
use crate::task::Tasks;
use crate::task::desk::{Desk, say};
use crate::tree::{self, Trouble};

use rustix::io::Errno;

/// The parameter that names the file, or several of which the first that is there counts.
const TASKS: &str = "tasks";

/// Whether none need be there.
const OPTIONAL: &str = "tasks_optional";

/// Where what no file says stands.
const START: Place = Place { line: 1, column: 1 };

/// Said where there is no room for what changed.
const TOO_MANY: &str = "git-checkout: too many paths changed to be told; tasks that ask for them run";

/// The member that says which paths changed, beside the tasks.
const CHANGED: &str = "changed";

/// The tasks of the file that the parameters name, with the paths that changed if they are known.
///
/// # Errors
/// `Refused` if there is none, or if it can't be read as what its ending says.
pub(super) fn find(desk: &Desk, checkout: &Folder, changed: Option<Vec<String>>) -> tree::Result<Option<Tasks>> {
    let files = desk.list(TASKS);
    let Some(first) = files.first() else {
        return Ok(changed.and_then(without_file));
    };
    if desk.ticket.task.is_none() {
        let why = "params.tasks: a ticket that stands alone has no build to which tasks could be added";
        return Err(Trouble::Refused(why.to_owned()));
    }
    let optional = match desk.param(OPTIONAL).as_deref() {
        None | Some("false" | "0" | "no") => false,
        Some("true" | "1" | "yes") => true,
        Some(other) => {
            let why = format!("params.tasks_optional '{other}' is neither true nor false");
            return Err(Trouble::Refused(why));
        }
    };
    for name in &files {
        if let Some(text) = text_of(checkout, name)? {
            let tasks = read(name, &text, changed)?;
            say(&format!("git-checkout: the tasks of {name} follow"));
            return Ok(Some(tasks));
        }
    }
    let missing = match files.len() {
        1 => format!("the commit has no {first}"),
        _ => format!("the commit has none of {}", files.join(", ")),
    };
    if optional {
        say(&format!("git-checkout: {missing}, so no tasks are added"));
        return Ok(changed.and_then(without_file));
    }
    Err(Trouble::Refused(format!(
        "{missing}: params.tasks looks for it; \"tasks_optional\": true goes on without"
    )))
}

/// The bytes of a file of the checkout; none if it is not there.
fn text_of(checkout: &Folder, name: &str) -> tree::Result<Option<Vec<u8>>> {
    let refused = |why: &str| Err(Trouble::Refused(format!("params.tasks '{name}' {why}")));
    let Some(path) = inside(name).filter(|path| path.file_name().is_some()) else {
        return refused("must be a file of the checkout: no leading / and no ..");
    };
    if Format::of(name).is_none() {
        return refused("must end with .yaml, .yml, .toml or .json");
    }
    let said = shown(&path);
    let file = match checkout.read(&path) {
        Err(error) if is(&error, Errno::NOENT) || is(&error, Errno::NOTDIR) => return Ok(None),
        other => other.map_err(|e| trouble(&said, &e))?,
    };
    if !file.metadata().map_err(|e| trouble(&said, &e))?.is_file() {
        return Err(Trouble::Refused(format!("{said}: not a file")));
    }
    let mut text = Vec::new();
    let read = file.take(TASKS_BYTES_MAX + 1).read_to_end(&mut text);
    read.map_err(|e| trouble(&said, &e))?;
    Ok(Some(text))
}

/// The tasks of a text in the format that its name says, and the paths that changed.
fn read(name: &str, text: &[u8], changed: Option<Vec<String>>) -> tree::Result<Tasks> {
    let format = Format::of(name).unwrap_or(Format::Json);
    let value = pipeline::read(text, format).map_err(|fault| Trouble::Refused(format!("{name}:{fault}")))?;
    if let Kind::Object(members) = &value.kind
        && let Some(own) = members.iter().find(|member| member.key == CHANGED)
    {
        // Which paths changed is not its author's to say.
        return Err(Trouble::Refused(format!(
            "{name}:{}:{}: unknown key",
            own.at.line, own.at.column
        )));
    }
    let rendered = value.render_lines();
    if rendered.text.len() as u64 > TASKS_BYTES_MAX {
        return Err(Trouble::Refused(format!("{name}: the tasks have more than 1 MiB")));
    }
    let Some(changed) = changed else {
        return Ok(Tasks::new(name, rendered));
    };
    let with = with_changed(value, changed).render_lines();
    if with.text.len() as u64 > TASKS_BYTES_MAX {
        say(TOO_MANY);
        return Ok(Tasks::new(name, rendered));
    }
    Ok(Tasks::new(name, with))
}

/// No tasks, and the paths that changed.
fn without_file(changed: Vec<String>) -> Option<Tasks> {
    let tasks = member(TASKS, Kind::List(Vec::new()));
    let value = Value {
        at: START,
        kind: Kind::Object(vec![tasks]),
    };
    let rendered = with_changed(value, changed).render_lines();
    if rendered.text.len() as u64 > TASKS_BYTES_MAX {
        say(TOO_MANY);
        return None;
    }
    Some(Tasks::new("tasks.json", rendered))
}

/// An object with the paths that changed as its last member.
fn with_changed(mut value: Value, changed: Vec<String>) -> Value {
    if let Kind::Object(members) = &mut value.kind {
        let path = |path| Value {
            at: START,
            kind: Kind::String(path),
        };
        members.push(member(CHANGED, Kind::List(changed.into_iter().map(path).collect())));
    }
    value
}

fn member(key: &str, kind: Kind) -> Member {
    Member {
        at: START,
        key: key.to_owned(),
        value: Value { at: START, kind },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn refused<T: std::fmt::Debug>(found: tree::Result<T>) -> String {
        match found {
            Err(Trouble::Refused(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    /// "The file is opened beneath the checkout: no links, regular, 1 MiB."
    #[test]
    fn only_a_plain_file_of_the_checkout_is_read() {
        let top = std::env::temp_dir().join(format!("distcifs-pipeline-{}", std::process::id()));
        let _ = fs::remove_dir_all(&top);
        fs::create_dir_all(top.join("checkout/ci/folder.yaml")).unwrap();
        fs::write(top.join("secret.yaml"), "tasks: []").unwrap();
        let checkout = top.join("checkout");
        fs::write(checkout.join("ci/a.yaml"), "tasks: []").unwrap();
        fs::write(checkout.join("long.json"), "x".repeat(2 << 20)).unwrap();
        symlink("../secret.yaml", checkout.join("out.yaml")).unwrap();
        symlink("ci/a.yaml", checkout.join("in.yaml")).unwrap();
        symlink("ci", checkout.join("link")).unwrap();
        nix::unistd::mkfifo(&checkout.join("fifo.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let folder = Folder::open(&checkout).unwrap();
        let read = |name: &str| text_of(&folder, name);
        assert_eq!(read("ci/a.yaml").unwrap().unwrap(), b"tasks: []");
        assert_eq!(read("./ci//a.yaml").unwrap().unwrap(), b"tasks: []");
        assert!(read("none.yaml").unwrap().is_none());
        assert!(read("ci/a.yaml/b.yaml").unwrap().is_none());
        assert_eq!(read("long.json").unwrap().unwrap().len(), (1 << 20) + 1);
        for (name, words) in [
            ("out.yaml", "out.yaml: a link"),
            ("in.yaml", "in.yaml: a link"),
            ("link/a.yaml", "link/a.yaml: a link"),
            ("fifo.yaml", "fifo.yaml: not a file"),
            ("ci/folder.yaml", "ci/folder.yaml: not a file"),
            ("../secret.yaml", "must be a file of the checkout"),
            ("/etc/passwd.yaml", "must be a file of the checkout"),
            ("ci/a", "must end with .yaml, .yml, .toml or .json"),
        ] {
            let why = refused(read(name));
            assert!(why.contains(words), "{name}: {why}");
        }
        fs::remove_dir_all(&top).unwrap();
    }

    /// "A fault is `path:line:column: what` in the lines that the author wrote."
    #[test]
    fn what_is_no_text_of_tasks_is_told_by_its_place() {
        assert_eq!(
            refused(read("ci/.distcifs.yaml", b"tasks:\n- type: a\n  type: b\n", None)),
            "ci/.distcifs.yaml:3:3: this key stands in its object already"
        );
        let long = read("a.json", "x".repeat(2 << 20).as_bytes(), None);
        assert_eq!(refused(long), "a.json:1:1: the text is longer than 1048576 bytes");
        // A line for each value takes more room than the file.
        let many = format!("{{\"tasks\": [{}1]}}", "1,".repeat(500_000));
        assert!(refused(read("a.json", many.as_bytes(), None)).contains("more than 1 MiB"));
        let tasks = read(".distcifs.toml", b"[[tasks]]\ntype = \"a\"\nneeds = 1\n", None).unwrap();
        let line = tasks
            .text()
            .lines()
            .position(|line| line == "1" || line == "\"1\"")
            .unwrap()
            + 1;
        assert_eq!(
            tasks.told(&format!("tasks.json:{line}:1: tasks[0].needs must be a list")),
            ".distcifs.toml:3:9: tasks[0].needs must be a list"
        );
    }

    /// What changed stands behind the tasks, which keep their places; no file says it by itself.
    #[test]
    fn the_paths_that_changed_stand_beside_the_tasks() {
        let changed = || Some(vec!["src/a \"b\"".to_owned()]);
        let file = b"tasks:\n- type: a\n  needs: 1\n";
        let tasks = read("a.yaml", file, changed()).unwrap();
        let value: serde_json::Value = serde_json::from_str(tasks.text()).unwrap();
        assert_eq!(value["changed"], serde_json::json!(["src/a \"b\""]));
        assert_eq!(value["tasks"][0]["type"], "a");
        let alone = read("a.yaml", file, None).unwrap();
        assert!(tasks.text().starts_with(alone.text().strip_suffix("}\n").unwrap()));
        let value: serde_json::Value =
            serde_json::from_str(without_file(vec!["a".to_owned()]).unwrap().text()).unwrap();
        assert_eq!(value, serde_json::json!({"tasks": [], "changed": ["a"]}));
        assert_eq!(
            refused(read("a.yaml", b"tasks: []\nchanged: [a]\n", changed())),
            "a.yaml:2:1: unknown key"
        );
        // Beside a text that is nearly as long as may be there is no room for them: nobody knows then.
        let many: Vec<String> = (0..9_000).map(|n| format!("{n:050}")).collect();
        let long = format!("{{\"tasks\": [{{\"type\": \"{}\"}}]}}", "x".repeat(700 << 10));
        let tasks = read("a.json", long.as_bytes(), Some(many)).unwrap();
        assert!(!tasks.text().contains("\"changed\""));
        assert!(without_file(vec!["\"".repeat(600 << 10)]).is_none());
    }
}
