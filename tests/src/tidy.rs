//! Style that matters, checked: the layers' edges, the rows inside the repository, the rooms of the client crates, a head line
//! on every module, bounded functions and files, no unfinished work, no machine's own paths; and the tests that
//! doc/security.md names.
//!
//! It reads text, not syntax: comments, strings and characters are blanked first, then a few
//! words and braces are enough.

pub mod blank;
pub mod layers;
mod locked;
mod named;
pub mod rows;
mod waits;

use std::fs;
use std::path::{Path, PathBuf};

/// Longest function, lines from its `fn` to its closing brace.
const FUNCTION_LINES_MAX: usize = 70;

/// Longest source file, lines.
const FILE_LINES_MAX: usize = 600;

/// Where Rust sources are.
const RUST_FOLDERS: [&str; 11] = [
    "beneath/src",
    "distcifs/src",
    "fuzz/libfuzzer/fuzz_targets",
    "fuzz/src",
    "fuzz/tests",
    "patterns/src",
    "schedule/src",
    "settings/src",
    "workers/src",
    "tests/src",
    "tests/tests",
];

/// Where shell scripts are.
const SHELL_FOLDERS: [&str; 4] = ["scripts", "workers", "tests/workers", ".ci"];

/// A source file: its path from the project's folder, its text, and that text with comments,
/// strings and characters blanked.
pub struct Source {
    /// From the project's folder.
    pub path: String,
    /// As it is.
    pub text: String,
    /// Blanked.
    pub code: String,
}

/// Everything that is untidy in the project at `root`, one line each: `path:line: what`.
pub fn check(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let rust = files(root, &RUST_FOLDERS, |path, _| path.ends_with(".rs"));
    let sources: Vec<Source> = rust
        .into_iter()
        .map(|(path, text)| Source {
            code: blank::blank(&text),
            path,
            text,
        })
        .collect();
    for source in &sources {
        check_source(source, &mut found);
        layers::check(source, &mut found);
        waits::check(source, &mut found);
    }
    rows::check(&sources, &mut found);
    rows::check_page(root, &mut found);
    for (path, text) in files(root, &SHELL_FOLDERS, is_shell) {
        check_shell(&path, &text, &mut found);
        check_words(&path, &text, &mut found);
    }
    named::check(root, &mut found);
    locked::check(root, &mut found);
    found.sort();
    found
}

/// The shell scripts of the project, for a checker that takes paths.
pub fn shell_scripts(root: &Path) -> Vec<PathBuf> {
    files(root, &SHELL_FOLDERS, is_shell)
        .into_iter()
        .map(|(path, _)| root.join(path))
        .collect()
}

fn is_shell(_: &str, text: &str) -> bool {
    let first = text.lines().next().unwrap_or_default();
    first.starts_with("#!") && (first.ends_with("sh") || first.contains("/sh "))
}

/// Files below the folders that `wanted` accepts by path and text; what is no text is left out.
fn files(root: &Path, folders: &[&str], wanted: impl Fn(&str, &str) -> bool) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = folders.iter().map(|folder| root.join(folder)).collect();
    while let Some(folder) = open.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                open.push(path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
                if wanted(&name, &text) {
                    found.push((name, text));
                }
            }
        }
    }
    found
}

fn check_source(source: &Source, found: &mut Vec<String>) {
    let Source { path, text, code } = source;
    if !text.starts_with("//!") {
        found.push(format!("{path}:1: a module begins with //! and says what it is"));
    }
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        found.push(format!(
            "{path}:{lines}: more than {FILE_LINES_MAX} lines: split it into a folder"
        ));
    }
    for (number, line) in code.lines().enumerate() {
        let untidy = |what: &str| format!("{path}:{}: {what}", number + 1);
        if line.contains("#[allow") || line.contains("#![allow") {
            found.push(untidy("allow: use #[expect(…, reason = …)]"));
        }
        if line.contains("todo!") || line.contains("unimplemented!") {
            found.push(untidy("unfinished work"));
        }
    }
    for (line, length) in long_functions(code) {
        found.push(format!(
            "{path}:{line}: a function of {length} lines, more than {FUNCTION_LINES_MAX}"
        ));
    }
    check_words(path, text, found);
}

/// Words that no committed file has: notes to oneself and paths of one machine.
fn check_words(path: &str, text: &str, found: &mut Vec<String>) {
    let note = concat!("FIX", "ME");
    let machines = [concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/wo", "rk/")];
    for (number, line) in text.lines().enumerate() {
        if line.contains(note) {
            found.push(format!("{path}:{}: unfinished work ({note})", number + 1));
        }
        for machine in machines.iter().filter(|machine| begins_a_path(line, machine)) {
            found.push(format!("{path}:{}: {machine} is a path of one machine", number + 1));
        }
    }
}

/// Whether the absolute path stands in the line by itself, not inside of a longer one.
fn begins_a_path(line: &str, path: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || "_.-})>*/".contains(c);
    line.match_indices(path)
        .any(|(at, _)| !line[..at].chars().next_back().is_some_and(inside))
}

fn check_shell(path: &str, text: &str, found: &mut Vec<String>) {
    let first = text
        .lines()
        .enumerate()
        .find(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    match first {
        Some((_, line)) if line.trim() == "set -eu" => {}
        other => {
            let number = other.map_or(1, |(number, _)| number + 1);
            found.push(format!("{path}:{number}: a script begins with set -eu after its head"));
        }
    }
}

/// Functions over the bound: the line of their `fn` and their length.
fn long_functions(code: &str) -> Vec<(usize, usize)> {
    let bytes = code.as_bytes();
    let word = |at: usize| at == 0 || !(bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    let line_of = |at: usize| bytes[..at].iter().filter(|b| **b == b'\n').count() + 1;
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ").filter(|(at, _)| word(*at)) {
        let Some(end) = body_end(&bytes[at..]) else {
            continue;
        };
        let length = line_of(at + end) - line_of(at) + 1;
        if length > FUNCTION_LINES_MAX {
            found.push((line_of(at), length));
        }
    }
    found
}

/// Where the body of the function that begins here ends; `None` if it has none.
fn body_end(code: &[u8]) -> Option<usize> {
    let (mut round, mut braces) = (0_i32, 0_i32);
    for (at, byte) in code.iter().enumerate() {
        match byte {
            b'(' | b'[' => round += 1,
            b')' | b']' => round -= 1,
            b';' if round == 0 && braces == 0 => return None,
            b'{' => braces += 1,
            b'}' => {
                braces -= 1;
                if braces == 0 {
                    return Some(at);
                }
                if braces < 0 {
                    return None;
                }
            }
            _ => {}
        }
    }
    None
}
