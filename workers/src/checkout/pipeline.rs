//! A pipeline beside the code: the tasks of a file of the checkout are added to the build.
//!
//! The file is a stranger's, perhaps. It is read here, by a process of the job's owner that has nothing else, and what is
//! handed on is JSON with a line for each value. The daemon looks at that, and the worker tells its faults by the
//! places of the file.

use std::io::Read;

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

/// The tasks of the file that the parameters name.
///
/// # Errors
/// `Refused` if there is none, or if it can't be read as what its ending says.
pub(super) fn find(desk: &Desk, checkout: &Folder) -> tree::Result<Option<Tasks>> {
    let files = desk.list(TASKS);
    let Some(first) = files.first() else {
        return Ok(None);
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
            let tasks = read(name, &text)?;
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
        return Ok(None);
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

/// The tasks of a text in the format that its name says.
fn read(name: &str, text: &[u8]) -> tree::Result<Tasks> {
    let format = Format::of(name).unwrap_or(Format::Json);
    let value = pipeline::read(text, format).map_err(|fault| Trouble::Refused(format!("{name}:{fault}")))?;
    let rendered = value.render_lines();
    if rendered.text.len() as u64 > TASKS_BYTES_MAX {
        return Err(Trouble::Refused(format!("{name}: the tasks have more than 1 MiB")));
    }
    Ok(Tasks::new(name, rendered))
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
            refused(read("ci/.distcifs.yaml", b"tasks:\n- type: a\n  type: b\n")),
            "ci/.distcifs.yaml:3:3: this key stands in its object already"
        );
        let long = read("a.json", "x".repeat(2 << 20).as_bytes());
        assert_eq!(refused(long), "a.json:1:1: the text is longer than 1048576 bytes");
        // A line for each value takes more room than the file.
        let many = format!("{{\"tasks\": [{}1]}}", "1,".repeat(500_000));
        assert!(refused(read("a.json", many.as_bytes())).contains("more than 1 MiB"));
        let tasks = read(".distcifs.toml", b"[[tasks]]\ntype = \"a\"\nneeds = 1\n").unwrap();
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
}
