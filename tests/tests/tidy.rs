//! The project is tidy, and the checker that says so finds what it must.

use std::fs;
use std::path::Path;

use distcifs_tests::programs::project;
use distcifs_tests::tidy::rows::{FIELDS_MAX, METHODS_MAX};
use distcifs_tests::tidy::{blank, check};

#[test]
fn the_project_is_tidy() {
    let found = check(&project());
    assert!(found.is_empty(), "{} untidy places:\n{}", found.len(), found.join("\n"));
}

/// A test that no stage of scripts/test names is never run.
#[test]
fn every_test_has_its_stage() {
    let stages = fs::read_to_string(project().join("scripts/test")).expect("the project has it");
    let files = fs::read_dir(project().join("tests/tests")).expect("this very folder");
    for name in files.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        let Some(test) = name.strip_suffix(".rs") else {
            continue;
        };
        let named = stages.split_whitespace().collect::<Vec<_>>();
        let given = named
            .windows(2)
            .any(|pair| pair[0] == "--test" && pair[1].trim_end_matches(';') == test);
        assert!(given, "scripts/test has no stage with --test {test}");
    }
}

/// Each wait of the daemon is bounded by a value of one type.
#[test]
fn a_wait_that_is_bounded_otherwise_is_found() {
    let bare = "//! A.\n\nasync fn a() {\n    let _ = tokio::time::timeout(B, c()).await;\n}\n";
    assert_found("distcifs/src/tree/a.rs", bare, "a.rs:4: a wait without a Deadline");
    let taken = "//! A.\n\nuse tokio::time::{Instant, timeout_at};\n";
    assert_found("distcifs/src/run/a.rs", taken, "a.rs:3: a wait without a Deadline");
    assert_clean("distcifs/src/backend/ceph/a.rs", bare);
    let tests = format!("//! A.\n\n#[cfg(test)]\nmod tests {{\n    {}}}\n", &bare[8..]);
    assert_clean("distcifs/src/tree/b.rs", &tests);
}

/// A made-up project in which one file breaks one rule.
fn complaints(path: &str, text: &str) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join(path);
    fs::create_dir_all(file.parent().unwrap_or(Path::new("/"))).expect("own folder");
    fs::write(file, text).expect("own folder");
    check(folder.path())
}

#[track_caller]
fn assert_found(path: &str, text: &str, what: &str) {
    let found = complaints(path, text);
    assert_eq!(found.len(), 1, "{path}: {found:?}");
    assert!(
        found[0].starts_with(path) && found[0].contains(what),
        "{found:?} does not speak of {what:?}"
    );
}

#[track_caller]
fn assert_clean(path: &str, text: &str) {
    assert_eq!(complaints(path, text), Vec::<String>::new(), "{path}");
}

#[test]
fn an_edge_that_is_not_drawn_is_found() {
    assert_found(
        "distcifs/src/tree/a.rs",
        "//! A.\nuse crate::storage::Error;\n",
        "tree -> storage",
    );
    assert_found(
        "distcifs/src/fuse.rs",
        "//! A.\nuse crate::{tree::Tree, repository::Error};\n",
        "fuse -> repository",
    );
    assert_found(
        "distcifs/src/repository/jobs.rs",
        "//! A.\nfn a() { crate::tree::b() }\n",
        "repository -> tree",
    );
    assert_found(
        "distcifs/src/storage/a.rs",
        "//! A.\nuse super::super::backend::B;\n",
        "storage -> backend",
    );
    assert_found(
        "distcifs/src/backend/a.rs",
        "//! A.\nuse crate::repository::names::Name;\n",
        "backend -> repository",
    );
    assert_found(
        "distcifs/src/main.rs",
        "//! A.\nuse distcifs::tree::Tree;\n",
        "main -> tree",
    );
    assert_found("distcifs/src/cli.rs", "//! A.\nuse crate::run;\n", "cli -> run");
}

#[test]
fn a_drawn_edge_and_a_test_are_left_alone() {
    assert_clean(
        "distcifs/src/tree/a.rs",
        "//! A.\nuse crate::repository::{Error, names::Name};\nuse super::Ino;\n",
    );
    assert_clean("distcifs/src/run.rs", "//! A.\nuse crate::{backend, fuse, storage};\n");
    assert_clean(
        "distcifs/src/fuse/a.rs",
        "//! A. crate::storage\nuse crate::tree::Tree;\nuse fuser::Request;\n",
    );
    assert_clean(
        "distcifs/src/tree/a.rs",
        "//! A.\n#[cfg(test)]\nmod tests {\n    use crate::backend::embedded;\n}\n",
    );
    assert_clean("distcifs/src/tree/tests.rs", "//! A.\nuse crate::backend::embedded;\n");
}

/// "Inside the repository each module names its own row and the rows below."
#[test]
fn what_goes_up_inside_the_repository_is_found() {
    for (path, text, what) in [
        (
            "distcifs/src/repository/jobs.rs",
            "//! A.\nuse super::claims::Claim;\n",
            "repository/jobs -> repository/claims goes up",
        ),
        (
            "distcifs/src/repository/consoles/append.rs",
            "//! A.\nfn a(b: &crate::repository::claims::Claim) {}\n",
            "repository/consoles -> repository/claims",
        ),
        (
            "distcifs/src/repository/model/ticket.rs",
            "//! A.\nuse crate::repository::{Error, core::lock, names::Name};\n",
            "repository/model -> repository/core",
        ),
        (
            "distcifs/src/repository/core.rs",
            "//! A.\nfn a() { super::queue_index::b() }\n",
            "repository/core -> repository/queue_index",
        ),
        (
            "distcifs/src/repository/other.rs",
            "//! A.\nuse super::core::lock;\n",
            "repository/other is in no row",
        ),
    ] {
        assert_found(path, text, what);
    }
}

#[test]
fn what_goes_down_inside_the_repository_is_left_alone() {
    assert_clean(
        "distcifs/src/repository/claims/loss.rs",
        "//! A.\nuse super::Claim;\nuse crate::repository::{Error, Repository, consoles::Appender};\n",
    );
    assert_clean(
        "distcifs/src/repository/jobs.rs",
        "//! A. See super::claims.\nuse super::tickets::post;\n#[cfg(test)]\nmod tests {\n    use super::super::claims::Claim;\n}\n",
    );
    assert_clean(
        "distcifs/src/repository/maintain/tests.rs",
        "//! A.\nuse crate::repository::service::Setup;\n",
    );
}

/// A made-up project of these files.
fn complaints_of(files: &[(&str, &str)]) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (path, text) in files {
        let file = folder.path().join(path);
        fs::create_dir_all(file.parent().unwrap_or(Path::new("/"))).expect("own folder");
        fs::write(file, text).expect("own folder");
    }
    check(folder.path())
}

/// "No module names another in a circle, though both stand in one row."
#[test]
fn a_circle_in_a_row_is_found() {
    let found = complaints_of(&[
        (
            "distcifs/src/repository/jobs.rs",
            "//! A.\nuse super::trash::move_away;\n",
        ),
        (
            "distcifs/src/repository/trash.rs",
            "//! A.\nuse super::records::Index;\n",
        ),
        (
            "distcifs/src/repository/records/index.rs",
            "//! A.\n\nuse crate::repository::jobs::Line;\n",
        ),
        ("distcifs/src/repository/tickets.rs", "//! A.\nuse super::jobs::Line;\n"),
    ]);
    assert_eq!(
        found,
        ["distcifs/src/repository/jobs.rs:2: a circle: jobs -> trash -> records -> jobs"]
    );
}

/// "Every path of an entry is made and read in model/keys.rs."
#[test]
fn a_path_of_an_entry_that_is_made_elsewhere_is_found() {
    let jobs = "distcifs/src/repository/jobs.rs";
    assert_found(
        jobs,
        "//! A.\nfn a(b: u8) -> String {\n    format!(\"/jobs/{b}\")\n}\n",
        "model/keys.rs",
    );
    assert_clean(
        jobs,
        "//! A.\n/// As \"/jobs/u\".\nfn a() -> &'static str {\n    \"jobs/j\"\n}\n",
    );
    assert_clean(
        jobs,
        "//! A.\n#[cfg(test)]\nmod tests {\n    const A: &str = \"/jobs/u\";\n}\n",
    );
    assert_clean(
        "distcifs/src/repository/model/keys.rs",
        "//! A.\nconst A: &str = \"/jobs\";\n",
    );
}

#[test]
fn a_struct_that_everything_hangs_on_does_not_grow() {
    let methods = |count: usize| {
        let functions: String = (0..count)
            .map(|n| format!("    pub async fn a{n}(&self) {{\n        b();\n    }}\n"))
            .collect();
        format!("//! A.\nimpl Repository {{\n{functions}}}\n\nimpl Other {{\n    fn c() {{}}\n}}\n")
    };
    let halves = |count: usize| {
        complaints_of(&[
            ("distcifs/src/repository/jobs.rs", &methods(METHODS_MAX / 2)),
            ("distcifs/src/repository/tests.rs", &methods(5)),
            ("distcifs/src/repository/trash.rs", &methods(count - METHODS_MAX / 2)),
        ])
    };
    assert_eq!(halves(METHODS_MAX), Vec::<String>::new());
    let more = METHODS_MAX + 1;
    assert_eq!(
        halves(more),
        [format!(
            "distcifs/src/repository: {more} methods of Repository, more than {METHODS_MAX}"
        )]
    );
    let fields = |count: usize| {
        let fields: String = (0..count).map(|n| format!("    pub(crate) a{n}: u8,\n")).collect();
        format!("//! A.\n\n/// B.\npub struct Repository {{\n{fields}}}\n")
    };
    assert_clean("distcifs/src/repository/service.rs", &fields(FIELDS_MAX));
    assert_found(
        "distcifs/src/repository/service.rs",
        &fields(FIELDS_MAX + 1),
        &format!("{} fields of Repository", FIELDS_MAX + 1),
    );
}

#[test]
fn a_client_crate_outside_its_room_is_found() {
    assert_found("distcifs/src/tree.rs", "//! A.\nuse fuser::Request;\n", "fuser outside");
    assert_found(
        "distcifs/src/repository/jobs.rs",
        "//! A.\nfn a() -> redb::Error { b() }\n",
        "redb outside",
    );
    assert_found(
        "distcifs/src/backend/embedded.rs",
        "//! A.\nuse zookeeper_client::Client;\n",
        "zookeeper_client outside",
    );
    assert_clean("distcifs/src/backend/embedded/a.rs", "//! A.\nuse redb::Database;\n");
}

#[test]
fn a_module_without_a_head_is_found() {
    assert_found("workers/src/a.rs", "fn a() {}\n", "begins with //!");
}

#[test]
fn long_functions_and_files_are_found() {
    let body = |lines: usize| format!("//! A.\nfn a(b: [u8; 4]) {{\n{}}}\n", "    b();\n".repeat(lines - 2));
    assert_clean("workers/src/a.rs", &body(70));
    assert_found("workers/src/a.rs", &body(71), "a function of 71 lines");
    let file = |lines: usize| format!("//! A.\n{}", "const A: u8 = b'{';\n".repeat(lines - 1));
    assert_clean("workers/src/a.rs", &file(600));
    assert_found("workers/src/a.rs", &file(601), "more than 600 lines");
}

#[test]
fn unfinished_work_and_allow_are_found() {
    assert_found("workers/src/a.rs", "//! A.\n#[allow(dead_code)]\nfn a() {}\n", "allow");
    assert_found(
        "workers/src/a.rs",
        concat!("//! A.\nfn a() { todo", "!() }\n"),
        "unfinished",
    );
    assert_found(
        "workers/src/a.rs",
        concat!("//! A.\nfn a() { unimplemented", "!() }\n"),
        "unfinished",
    );
    assert_found(
        "workers/src/a.rs",
        concat!("//! A.\n// FIX", "ME: soon\n"),
        "unfinished",
    );
    assert_clean("workers/src/a.rs", "//! A. #[allow is what we never write, nor todo!\n");
}

/// doc/security.md names the test that holds each promise, doc/architecture.md that of what always holds.
#[test]
fn a_test_that_a_page_names_and_nobody_wrote_is_found() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (path, text) in [
        (
            "tests/tests/a.rs",
            "//! A.\n#[test]\nfn there() {}\nfn helper() {}\n#[test]\n#[ignore]\nfn idle() {}\n",
        ),
        ("workers/src/b.rs", "//! B.\n#[tokio::test]\nasync fn inside() {}\n"),
        (
            "distcifs/src/tree/tests/d.rs",
            "//! D.\non_both! {\n    twice,\n}\nfn twice(_: Fs) {}\nfn never(_: Fs) {}\n",
        ),
        (
            "doc/security.md",
            "`a::there` `workers/src/b::inside`\n`a::gone`\n`a::helper` and `c::there`\n`a::idle`\n\
             `distcifs/src/tree/tests/d::twice` `distcifs/src/tree/tests/d::never`\n",
        ),
        ("doc/architecture.md", "`redb::` in its room: `a::there`\n`a::lost`\n"),
    ] {
        fs::create_dir_all(folder.path().join(path).parent().expect("a folder")).expect("own folder");
        fs::write(folder.path().join(path), text).expect("own folder");
    }
    assert_eq!(
        check(folder.path()),
        [
            "doc/architecture.md:2: a::lost: tests/tests/a.rs has no function lost",
            "doc/security.md:2: a::gone: tests/tests/a.rs has no function gone",
            "doc/security.md:3: a::helper: it is no test",
            "doc/security.md:3: c::there: there is no tests/tests/c.rs",
            "doc/security.md:4: a::idle: it is never run",
            "doc/security.md:5: distcifs/src/tree/tests/d::never: it is no test",
        ]
    );
}

/// "The tidy test refuses an entry whose file is gone", and so it does for the other pages that say where
/// things are.
#[test]
fn a_file_that_a_page_names_and_nobody_has_is_found() {
    for page in ["CONTRIBUTING.md", "doc/architecture.md", "doc/glossary.md"] {
        assert_found(
            page,
            "- **a**: one. `workers/src/gone.rs`\n",
            "there is no workers/src/gone.rs",
        );
        let there = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir_all(there.path().join("doc/a")).expect("own folder");
        fs::write(there.path().join(page), "- **a**: `tickets/a`, `cargo doc`. `doc/a`\n").expect("own folder");
        assert_eq!(check(there.path()), Vec::<String>::new());
    }
    assert_found("doc/glossary.md", "# A\n\n- **a**: one.\n", "names the file");
}

/// The page draws the rows that are held, and no others.
#[test]
fn a_row_that_the_page_draws_otherwise_is_found() {
    let page = fs::read_to_string(project().join("doc/architecture.md")).expect("the project's page");
    let begin = page.find("### The rows of").expect("it has rows");
    let rows: Vec<&str> = page[begin..]
        .lines()
        .take_while(|line| !line.starts_with("- "))
        .collect();
    assert_clean("doc/architecture.md", &rows.join("\n"));
    let other = rows.join("\n").replace("turns, drain", "turns, lost");
    assert_found("doc/architecture.md", &other, "row 3 is held as");
}

/// deny.toml says what the project may depend on.
#[test]
fn a_dependency_that_deny_toml_forbids_is_found() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rules = "deny = [\n    { crate = \"bad\", reason = \"no\" },\n]\nallow-registry = [\"https://good\"]\n";
    let lock = "name = \"a\"\nsource = \"registry+https://good\"\nname = \"bad\"\nsource = \"git+https://good\"\n";
    for (path, text) in [("deny.toml", rules), ("Cargo.lock", lock)] {
        fs::write(folder.path().join(path), text).expect("own folder");
    }
    assert_eq!(
        check(folder.path()),
        [
            "Cargo.lock:3: bad is denied by deny.toml",
            "Cargo.lock:4: git+https://good is no source of deny.toml",
        ]
    );
}

#[test]
fn a_path_of_one_machine_is_found() {
    assert_found(
        "workers/src/a.rs",
        concat!("//! A.\nconst A: &str = \"/ho", "me/me/x\";\n"),
        "one machine",
    );
    assert_found(
        "scripts/a",
        concat!("#!/bin/sh\n# A.\nset -eu\ncd /ro", "ot/x\n"),
        "one machine",
    );
    assert_clean(
        "scripts/a",
        concat!(
            "#!/bin/sh\n# A.\nset -eu\ncd \"$dir/wo",
            "rk/x\" && cd \"${dir}/wo",
            "rk/x\"\n"
        ),
    );
}

#[test]
fn a_script_without_set_eu_is_found() {
    assert_found("workers/a", "#!/bin/sh\n# A.\n\necho a\n", "set -eu");
    assert_clean("workers/a", "#!/bin/sh\n# A.\n\nset -eu\necho a\n");
    assert_clean("scripts/notes.txt", "no script\n");
}

#[test]
fn comments_strings_and_characters_are_blanked() {
    let text = "a(\"}\\\"{\", '{', b'\\'', 'x'); // {\nlet b: &'a str = r#\"{\"# /* { /* */ { */;\n";
    let code = blank::blank(text);
    assert_eq!(code.chars().count(), text.chars().count());
    assert!(!code.contains(['{', '}', '"']), "{code}");
    assert!(code.contains("let b: &'a str ="), "{code}");
}
