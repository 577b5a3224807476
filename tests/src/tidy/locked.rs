//! Where dependencies come from, and which there must not be, by deny.toml: cargo-deny is not on every machine.

use std::fs;
use std::path::Path;

/// What Cargo.lock has that deny.toml forbids.
pub(super) fn check(root: &Path, found: &mut Vec<String>) {
    let read = |name: &str| fs::read_to_string(root.join(name));
    let (Ok(lock), Ok(rules)) = (read("Cargo.lock"), read("deny.toml")) else {
        return;
    };
    let denied: Vec<&str> = rules.lines().filter_map(|line| after(line, "crate = ")).collect();
    let registries: Vec<&str> = rules
        .lines()
        .filter_map(|line| after(line, "allow-registry = ["))
        .collect();
    for (number, line) in lock.lines().enumerate() {
        let mut note = |what: String| found.push(format!("Cargo.lock:{}: {what}", number + 1));
        match (after(line, "name = "), after(line, "source = ")) {
            (Some(name), _) if denied.contains(&name) => note(format!("{name} is denied by deny.toml")),
            (_, Some(source))
                if !registries
                    .iter()
                    .any(|registry| source == format!("registry+{registry}")) =>
            {
                note(format!("{source} is no source of deny.toml"));
            }
            _ => {}
        }
    }
}

/// The text in quotes right after these words.
fn after<'a>(line: &'a str, words: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(words)?;
    rest.strip_prefix('"')?.split('"').next()
}
