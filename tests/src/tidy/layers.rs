//! The layers of distcifs and the edges between them (doc/architecture.md).

use super::Source;

/// Which module may name which others of the crate.
const EDGES: [(&str, &[&str]); 8] = [
    ("main", &["cli", "run"]),
    ("run", &["cli", "fuse", "tree", "repository", "storage", "backend"]),
    ("cli", &[]),
    ("fuse", &["tree"]),
    ("tree", &["repository"]),
    ("repository", &["storage"]),
    ("backend", &["storage"]),
    ("storage", &[]),
];

/// Client crates, each with the only room that may name it.
const ROOMS: [(&str, &[&str]); 5] = [
    ("fuser", &["distcifs/src/fuse.rs", "distcifs/src/fuse/"]),
    (
        "redb",
        &["distcifs/src/backend/embedded.rs", "distcifs/src/backend/embedded/"],
    ),
    (
        "zookeeper_client",
        &["distcifs/src/backend/zookeeper.rs", "distcifs/src/backend/zookeeper/"],
    ),
    ("ceph", &["distcifs/src/backend/ceph.rs", "distcifs/src/backend/ceph/"]),
    ("ratatui", &["distcifs/src/run/top/"]),
];

/// Reports edges that are not drawn and client crates outside their room.
pub fn check(source: &Source, found: &mut Vec<String>) {
    let path = &source.path;
    let Some(inside) = path.strip_prefix("distcifs/src/") else {
        return;
    };
    let modules: Vec<&str> = inside.trim_end_matches(".rs").split('/').collect();
    let own = modules[0];
    // A test may put a real store under any layer.
    let tests = modules.contains(&"tests");
    let code = without_tests(&source.code);
    for (krate, rooms) in ROOMS {
        let home = rooms.iter().any(|room| path.starts_with(room));
        for line in lines_naming(&source.code, krate).into_iter().filter(|_| !home) {
            found.push(format!("{path}:{line}: {krate} outside of its room"));
        }
    }
    let Some((_, allowed)) = EDGES.iter().find(|(name, _)| *name == own) else {
        return;
    };
    if tests {
        return;
    }
    let up = "super::".repeat(modules.len());
    for (line, other) in heads_below(code, &["crate::", "distcifs::", up.as_str()]) {
        let known = EDGES.iter().any(|(name, _)| *name == other);
        if known && other != own && !allowed.contains(&other.as_str()) {
            found.push(format!(
                "{path}:{line}: {own} -> {other} is no edge of doc/architecture.md"
            ));
        }
    }
}

/// The lines where a crate's name stands as the head of a path.
fn lines_naming(code: &str, krate: &str) -> Vec<usize> {
    let head = format!("{krate}::");
    let stands = |line: &str| {
        let inside = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        line.match_indices(&head)
            .any(|(at, _)| !line[..at].chars().next_back().is_some_and(inside))
            || line.trim_start().starts_with(&format!("use {krate};"))
    };
    code.lines()
        .enumerate()
        .filter(|(_, line)| stands(line))
        .map(|(number, _)| number + 1)
        .collect()
}

/// Code up to its module of tests.
pub(super) fn without_tests(code: &str) -> &str {
    code.split("#[cfg(test)]\nmod").next().unwrap_or_default()
}

/// What stands right below one of these roots wherever code names a path, with the lines.
pub(super) fn heads_below(code: &str, roots: &[&str]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for root in roots {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let line = code[..at].matches('\n').count() + 1;
            found.extend(heads(&code[at + root.len()..]).into_iter().map(|head| (line, head)));
        }
    }
    found
}

/// The first words after a path's root: one, or those of a group in braces.
fn heads(rest: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        text.trim_start()
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect()
    };
    let Some(group) = rest.strip_prefix('{') else {
        return vec![word(rest)];
    };
    let (mut depth, mut start, mut found) = (0_i32, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                found.push(word(&group[start..]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                found.push(word(&group[start..]));
                start = at + 1;
            }
            _ => {}
        }
    }
    found
}
