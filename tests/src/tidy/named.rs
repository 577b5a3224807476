//! Tests that a page names are there: `file::test` between backticks, where the file is one of
//! tests/tests, or a path from the project's folder, without its ending. Modules at its end may be
//! joined as in Rust: `distcifs/src/tree::work::test`.

use std::fs;
use std::path::Path;

/// The page whose promises name the tests that hold them.
const PAGE: &str = "doc/security.md";

/// What is wrong with the tests that the page names.
pub(super) fn check(root: &Path, found: &mut Vec<String>) {
    let Ok(text) = fs::read_to_string(root.join(PAGE)) else {
        return;
    };
    for (number, line) in text.lines().enumerate() {
        // What stands between backticks is every second piece.
        for word in line.split('`').skip(1).step_by(2) {
            let Some((file, test)) = word.rsplit_once("::") else {
                continue;
            };
            if let Err(why) = is_there(root, &file.replace("::", "/"), test) {
                found.push(format!("{PAGE}:{}: {word}: {why}", number + 1));
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
