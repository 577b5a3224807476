//! What pages name is there. Files: every path between backticks in those pages that say where things are, and one
//! for each entry of the glossary. Tests: `file::test` between backticks, where the file is one of
//! tests/tests, or a path from the project's folder, without its ending. Modules at its end may be
//! joined as in Rust: `distcifs/src/tree::work::test`.

use std::fs;
use std::path::Path;

/// The pages whose promises name the tests that hold them.
const PAGES: [&str; 2] = ["doc/security.md", "doc/architecture.md"];

/// The pages that say where things are.
const MAPS: [&str; 3] = ["CONTRIBUTING.md", "doc/architecture.md", GLOSSARY];

/// The page of which each entry names a file.
const GLOSSARY: &str = "doc/glossary.md";

/// With what a path from the project's folder begins.
const FOLDERS: [&str; 10] = [
    "beneath/",
    "distcifs/",
    "doc/",
    "fuzz/",
    "patterns/",
    "schedule/",
    "scripts/",
    "settings/",
    "tests/",
    "workers/",
];

/// What is wrong with the files and tests that pages name.
pub(super) fn check(root: &Path, found: &mut Vec<String>) {
    PAGES.iter().for_each(|page| check_tests(root, page, found));
    MAPS.iter().for_each(|page| check_files(root, page, found));
}

/// What stands between backticks: every second piece.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

fn check_files(root: &Path, page: &str, found: &mut Vec<String>) {
    let Ok(text) = fs::read_to_string(root.join(page)) else {
        return;
    };
    for (number, line) in text.lines().enumerate() {
        let named: Vec<&str> = quoted(line)
            .filter(|word| FOLDERS.iter().any(|folder| word.starts_with(folder)))
            .filter(|word| !word.contains(' ') && !word.contains("::"))
            .collect();
        for path in named.iter().filter(|path| !root.join(path).exists()) {
            found.push(format!("{page}:{}: there is no {path}", number + 1));
        }
        if page == GLOSSARY && line.starts_with("- ") && named.is_empty() {
            found.push(format!("{page}:{}: an entry names the file where it lives", number + 1));
        }
    }
}

fn check_tests(root: &Path, page: &str, found: &mut Vec<String>) {
    let Ok(text) = fs::read_to_string(root.join(page)) else {
        return;
    };
    for (number, line) in text.lines().enumerate() {
        for word in quoted(line) {
            // What only ends so is the name of a crate.
            let Some((file, test)) = word.rsplit_once("::").filter(|(_, test)| !test.is_empty()) else {
                continue;
            };
            if let Err(why) = is_there(root, &file.replace("::", "/"), test) {
                found.push(format!("{page}:{}: {word}: {why}", number + 1));
            }
        }
    }
}

fn is_there(root: &Path, file: &str, test: &str) -> Result<(), String> {
    let path = if file.contains('/') {
        format!("{file}.rs")
    } else {
        format!("tests/tests/{file}.rs")
    };
    let text = fs::read_to_string(root.join(&path)).map_err(|_| format!("there is no {path}"))?;
    let lines: Vec<&str> = text.lines().collect();
    let name = format!("fn {test}(");
    let at = lines
        .iter()
        .position(|line| line.contains(&name))
        .ok_or_else(|| format!("{path} has no function {test}"))?;
    let above = lines[..at].iter().rev().map(|line| line.trim_start());
    let attributes: Vec<&str> = above.take_while(|line| line.starts_with("#[")).collect();
    if attributes.iter().any(|line| line.starts_with("#[ignore")) {
        return Err("it is never run".to_owned());
    }
    if !attributes.iter().any(|line| line.contains("test")) && !is_on_both(&text, test) {
        return Err("it is no test".to_owned());
    }
    Ok(())
}

/// Whether the file makes two tests of a function, by the macro of distcifs/src/tree/tests.rs.
fn is_on_both(text: &str, test: &str) -> bool {
    let list = text
        .split("\non_both! {")
        .nth(1)
        .and_then(|rest| rest.split('}').next());
    list.is_some_and(|list| list.split(',').any(|name| name.trim() == test))
}
