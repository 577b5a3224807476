//! README.md and the pages with examples are true: their blocks run, in order, in one shell, and
//! print what stands below them.

use std::fs;
use std::time::Duration;

use distcifs_tests::page::{self, steps};
use distcifs_tests::programs::project;

/// A page takes seconds; this bounds one that hangs.
const LIMIT: Duration = Duration::from_secs(90);

#[test]
fn the_readme_is_true() {
    page::check("README.md", 8, LIMIT);
}

#[test]
fn the_examples_of_triggers_are_true() {
    page::check("doc/triggers.md", 10, LIMIT);
}

#[test]
fn every_link_of_the_pages_leads_somewhere() {
    let pages = [
        "README.md",
        "CHANGELOG.md",
        "doc/triggers.md",
        "doc/deploy.md",
        "doc/environments.md",
        "doc/permissions.md",
    ];
    for page in pages {
        let path = project().join(page);
        let text = fs::read_to_string(&path).expect("the project has it");
        let folder = path.parent().expect("a file has a folder");
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            let local = !target.starts_with("http");
            assert!(
                !local || folder.join(file).exists(),
                "{page} links to {target}, which is not there"
            );
        }
    }
}

#[test]
fn blocks_are_read_as_they_stand() {
    let found = steps("a\n```sh\necho 1\necho 2\n```\nb\n```text\n1\n2\n```\n```sh\ntrue\n```\n");
    assert_eq!(found.len(), 2);
    assert_eq!(
        (found[0].script.as_str(), found[0].expected.as_deref()),
        ("echo 1\necho 2\n", Some("1\n2\n"))
    );
    assert_eq!(
        (found[1].script.as_str(), found[1].expected.as_deref()),
        ("true\n", None)
    );
}
