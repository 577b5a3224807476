//! The rows of modules inside of distcifs/src/repository (doc/architecture.md): who may name whom, that
//! nobody names another in a circle, and what may only get less.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::Source;
use super::layers::{heads_below, without_tests};

/// The rows from the top down. A module names modules of its own row and of the rows below.
const ROWS: [(&str, &[&str]); 8] = [
    (
        "service",
        &[
            "service",
            "dispatch",
            "notices",
            "control",
            "supersede",
            "held",
            "notify",
            "view",
            "needs",
            "schedules",
        ],
    ),
    ("maintain", &["maintain"]),
    ("schedule", &["queue_index", "nodes", "turns", "drain"]),
    ("claims", &["claims"]),
    (
        "catalog",
        &[
            "jobs",
            "groups",
            "configure",
            "enabled",
            "rename",
            "downstream",
            "tickets",
            "trust",
            "tops",
            "builds",
            "records",
            "shown",
            "trash",
            "summary",
            "people",
        ],
    ),
    (
        "workspace",
        &["snapshot", "attempts", "apart", "reserve", "consoles", "fresh"],
    ),
    (
        "store",
        &[
            "store",
            "cache",
            "core",
            "work",
            "deadline",
            "one_by_one",
            "looked",
            "format",
            "about",
            "lookups",
            "events",
            "wakers",
            "flood",
        ],
    ),
    ("model", &["model", "config", "names", "access", "error"]),
];

/// The page that draws the rows, and the heading above them.
const PAGE: &str = "doc/architecture.md";
const HEADING: &str = "### The rows of the repository";

/// Methods of the one struct that everything inside hangs on; move some to a struct of their own rather than
/// raise this.
pub const METHODS_MAX: usize = 26;

/// Fields of that struct.
pub const FIELDS_MAX: usize = 18;

/// How the paths of entries begin: they are made and read in model/keys.rs only.
const PATHS: [&str; 8] = [
    "\"/tickets",
    "\"/jobs",
    "\"/keys",
    "\"/locks",
    "\"/nodes",
    "\"/leases",
    "\"/epoch",
    "\"/groups",
];

/// Which modules each module names, and where it does so first.
type Edges = BTreeMap<String, BTreeMap<String, String>>;

/// Reports rows that the page draws otherwise. The order of a row's modules says nothing.
pub fn check_page(root: &Path, found: &mut Vec<String>) {
    let text = fs::read_to_string(root.join(PAGE)).unwrap_or_default();
    let Some((_, below)) = text.split_once(HEADING) else {
        return;
    };
    let drawn = below
        .lines()
        .skip_while(|line| !line.starts_with("    "))
        .take_while(|line| line.starts_with("    "));
    let drawn = bare(&drawn.collect::<Vec<_>>().join("\n"));
    let mut rows: Vec<(&str, BTreeSet<&str>)> = Vec::new();
    for line in drawn.lines() {
        let mut words = line.split([' ', ',']).filter(|word| !word.is_empty());
        if !line.starts_with("     ") {
            rows.push((words.next().unwrap_or_default(), BTreeSet::new()));
        }
        rows.last_mut().into_iter().for_each(|row| row.1.extend(words.by_ref()));
    }
    let held: Vec<(&str, BTreeSet<&str>)> = ROWS
        .iter()
        .map(|(row, modules)| (*row, modules.iter().copied().collect()))
        .collect();
    for (at, row) in held.iter().enumerate().filter(|(at, row)| rows.get(*at) != Some(*row)) {
        found.push(format!(
            "{PAGE}: row {} is held as {row:?}, and drawn as {:?}",
            at + 1,
            rows.get(at)
        ));
    }
    if rows.len() > held.len() {
        found.push(format!("{PAGE}: it draws more rows than are held"));
    }
}

/// Rows as they are drawn, without what is said of modules.
fn bare(drawn: &str) -> String {
    let mut depth = 0_usize;
    let outside = |letter: &char| {
        depth += usize::from(*letter == '(');
        let outside = depth == 0;
        depth -= usize::from(*letter == ')' && depth > 0);
        outside
    };
    drawn.chars().filter(outside).collect()
}

/// Reports edges that go up, modules in no row, circles, paths of entries, and a struct that grows.
pub fn check(sources: &[Source], found: &mut Vec<String>) {
    let (mut edges, mut methods) = (Edges::new(), 0);
    for source in sources {
        let Some(inside) = source.path.strip_prefix("distcifs/src/repository/") else {
            continue;
        };
        let parts: Vec<&str> = inside.trim_end_matches(".rs").split('/').collect();
        if parts.contains(&"tests") {
            continue;
        }
        let own = parts[0];
        let Some(row) = row_of(own) else {
            found.push(format!(
                "{}:1: repository/{own} is in no row of doc/architecture.md",
                source.path
            ));
            continue;
        };
        let code = without_tests(&source.code);
        let up = "super::".repeat(parts.len());
        for (line, other) in heads_below(code, &["crate::repository::", up.as_str()]) {
            let Some(below) = row_of(&other).filter(|_| other != own) else {
                continue;
            };
            let place = format!("{}:{line}", source.path);
            if below < row {
                found.push(format!("{place}: repository/{own} -> repository/{other} goes up"));
            }
            edges.entry(own.to_owned()).or_default().entry(other).or_insert(place);
        }
        // A type of the model or of a configuration may have that name: it is no facade.
        if row < ROWS.len() - 1 {
            methods += methods_of_repository(code);
        }
        check_fields(source, found);
        if own != "model" {
            check_paths(source, found);
        }
    }
    check_circles(&edges, found);
    if methods > METHODS_MAX {
        found.push(format!(
            "distcifs/src/repository: {methods} methods of Repository, more than {METHODS_MAX}"
        ));
    }
}

/// The number of a module's row, counted from the top.
fn row_of(module: &str) -> Option<usize> {
    ROWS.iter().position(|(_, modules)| modules.contains(&module))
}

/// Functions in the blocks `impl Repository`, which rustfmt indents by four blanks.
fn methods_of_repository(code: &str) -> usize {
    let mut inside = false;
    let mut methods = 0;
    for line in code.lines() {
        match line {
            "impl Repository {" => inside = true,
            "}" => inside = false,
            _ => {
                let function = |line: &str| line.starts_with("fn ") || line.contains(" fn ");
                let own = line.strip_prefix("    ").filter(|rest| !rest.starts_with(' '));
                methods += usize::from(inside && own.is_some_and(function));
            }
        }
    }
    methods
}

fn check_fields(source: &Source, found: &mut Vec<String>) {
    let Some((_, fields)) = source.code.split_once("pub struct Repository {\n") else {
        return;
    };
    let fields = fields.split("\n}").next().unwrap_or_default();
    let count = fields.lines().filter(|line| line.contains(": ")).count();
    if count > FIELDS_MAX {
        found.push(format!(
            "{}:1: {count} fields of Repository, more than {FIELDS_MAX}",
            source.path
        ));
    }
}

fn check_paths(source: &Source, found: &mut Vec<String>) {
    for (number, line) in without_tests(&source.text).lines().enumerate() {
        let comment = line.trim_start().starts_with("//");
        if !comment && PATHS.iter().any(|path| line.contains(path)) {
            found.push(format!(
                "{}:{}: a path of an entry: have it made by model/keys.rs",
                source.path,
                number + 1
            ));
        }
    }
}

/// Reports each circle of modules once, with the place where its first module names the next.
fn check_circles(edges: &Edges, found: &mut Vec<String>) {
    let mut told = BTreeSet::new();
    for (from, next) in edges {
        for (to, place) in next {
            let Some(mut circle) = way(edges, to, from) else {
                continue;
            };
            circle.insert(0, from.clone());
            let members: BTreeSet<String> = circle.iter().cloned().collect();
            if told.insert(members) {
                found.push(format!("{place}: a circle: {}", circle.join(" -> ")));
            }
        }
    }
}

/// The modules on the shortest way from one to another, both included.
fn way(edges: &Edges, from: &str, to: &str) -> Option<Vec<String>> {
    let mut open = vec![vec![from.to_owned()]];
    let mut seen = BTreeSet::from([from.to_owned()]);
    while !open.is_empty() {
        let mut longer = Vec::new();
        for path in open {
            let last = path.last().map(String::as_str).unwrap_or_default();
            if last == to {
                return Some(path);
            }
            for next in edges.get(last).into_iter().flat_map(BTreeMap::keys) {
                if seen.insert(next.clone()) {
                    let mut path = path.clone();
                    path.push(next.clone());
                    longer.push(path);
                }
            }
        }
        open = longer;
    }
    None
}
