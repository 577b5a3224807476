//! What can be seen of a build that does not end, for whoever reads that a test waited in vain.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;

use nix::unistd::Pid;

use crate::mount::Mount;
use crate::process;

/// How many of the last lines of each text are shown.
const LINES: usize = 12;

/// How many of a thread's innermost frames in the kernel are shown.
const FRAMES: usize = 8;

/// The build, the open tickets, what the test's programs said, and the processes with where in the
/// kernel each is. A worker that is not among them is dead.
pub fn report(mount: &Mount, job: &str, build: u64) -> String {
    let folder = mount.out();
    let folder = folder.parent().expect("it is in the mount's own");
    [
        of_build(mount, &format!("jobs/{job}/builds/{build}")),
        of_tickets(mount),
        said(&mount.out()),
        processes(folder),
    ]
    .concat()
}

fn of_build(mount: &Mount, build: &str) -> String {
    let mut files = vec!["state".to_owned(), "why".to_owned(), "console".to_owned()];
    for task in names(&mount.path(&format!("{build}/tasks"))) {
        files.extend(["state", "attempt"].map(|file| format!("tasks/{task}/{file}")));
    }
    let line = |file: &String| format!("{build}/{file}: {}\n", text(&mount.path(&format!("{build}/{file}"))));
    files.iter().map(line).collect()
}

fn of_tickets(mount: &Mount) -> String {
    let mut all = String::new();
    for queue in names(&mount.path("tickets")) {
        let queue = format!("tickets/{queue}");
        for id in names(&mount.path(&queue)) {
            for file in ["attempt", "claim"] {
                let file = format!("{queue}/{id}/{file}");
                let _ = writeln!(all, "{file}: {}", text(&mount.path(&file)));
            }
        }
    }
    all
}

/// What scripts and workers wrote to the files of `Sh`.
fn said(out: &Path) -> String {
    let files = names(out).into_iter().filter(|name| name.starts_with("script-"));
    let said = files.map(|name| (text(&out.join(&name)), name));
    said.filter(|(text, _)| !text.is_empty())
        .map(|(text, name)| format!("{name}: {text}\n"))
        .collect()
}

/// The names in a folder, sorted; none if it can't be read.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The last lines of a file, or why there are none.
fn text(path: &Path) -> String {
    match fs::read(path) {
        Ok(text) => last_lines(&String::from_utf8_lossy(&text)),
        Err(error) => format!("({error})"),
    }
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n  ")
}

/// The processes that were told this folder's name, with all below them.
fn processes(folder: &Path) -> String {
    let all: BTreeSet<Pid> = process::all().into_iter().collect();
    let mut children: BTreeMap<Pid, Vec<Pid>> = BTreeMap::new();
    for pid in &all {
        let parent = process::parent(*pid).unwrap_or(Pid::from_raw(0));
        children.entry(parent).or_default().push(*pid);
    }
    let told = |pid: &Pid| process::line(*pid).contains(&*folder.to_string_lossy());
    let mut tree = String::new();
    let mut seen = BTreeSet::new();
    // Who starts others has the lower number, but for once in some thousands.
    for top in all.iter().filter(|pid| told(pid)) {
        let mut below = vec![(*top, 0)];
        while let Some((pid, depth)) = below.pop() {
            if seen.insert(pid) {
                tree += &of_process(pid, depth);
                let children = children.get(&pid).into_iter().flatten();
                below.extend(children.map(|child| (*child, depth + 1)));
            }
        }
    }
    tree
}

fn of_process(pid: Pid, depth: usize) -> String {
    let indent = "  ".repeat(depth);
    let mut text = format!("{indent}{pid} {}\n", process::line(pid));
    for thread in names(Path::new(&format!("/proc/{pid}/task"))) {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/task/{thread}/{file}")).unwrap_or_default();
        let (stat, syscall, stack) = (read("stat"), read("syscall"), read("stack"));
        let state = stat.rsplit_once(") ").map_or("?", |(_, rest)| &rest[..1]);
        let frames: Vec<&str> = stack.lines().take(FRAMES).filter_map(function).collect();
        let _ = writeln!(
            text,
            "{indent}  {thread} {} {state} in system call {}: {}",
            read("comm").trim(),
            syscall.split_whitespace().next().unwrap_or("?"),
            frames.join(" < ")
        );
    }
    text
}

/// The function in a line of /proc/PID/stack: `[<0>] name+0x12/0x34`.
fn function(line: &str) -> Option<&str> {
    line.split(' ').nth(1)?.split('+').next()
}
