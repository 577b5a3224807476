//! README.md and the pages with examples are true: their blocks run, in order, in one shell, and
//! print what stands below them.

use std::fs;
use std::time::Duration;

use distcifs_tests::Folder;
use distcifs_tests::page::{self, steps, steps_in};
use distcifs_tests::programs::{installed, project};

/// A page takes seconds; this bounds one that hangs.
const LIMIT: Duration = Duration::from_secs(90);

#[test]
fn the_readme_is_true() {
    page::check("README.md", 8, LIMIT);
}

/// README.md: "The tests run all of it in dash, bash, zsh and busybox's sh with its own applets."
#[test]
fn the_tour_is_the_same_in_other_shells() {
    let steps = steps(&page::read("README.md"));
    for shell in ["bash", "zsh"] {
        if installed(shell) {
            page::check_steps(&[shell], "set -eu\n", &steps, LIMIT);
        }
    }
}

#[test]
fn the_tour_needs_no_more_than_busybox() {
    if installed("busybox") {
        let folder = Folder::new();
        let before = format!("set -eu\n{}", page::only_busybox(&folder));
        page::check_steps(&["busybox", "sh"], &before, &steps(&page::read("README.md")), LIMIT);
    }
}

/// README.md: "In fish two blocks are the same, and doc/fish.md has the others in its words": with the same titles,
/// and they print the same.
#[test]
fn the_tour_in_fish() {
    if !installed("fish") {
        return;
    }
    let (folder, mut tour) = (Folder::new(), steps(&page::read("README.md")));
    let mut others = steps_in("fish", &page::read("doc/fish.md"));
    for step in &mut tour {
        let own = others.iter().position(|other| other.title == step.title);
        assert_eq!(
            page::is_fish(&folder, &step.script),
            own.is_none(),
            "{}: doc/fish.md has what fish does not understand, and nothing else",
            step.title
        );
        if let Some(own) = own {
            step.script = others.remove(own).script;
        }
    }
    assert!(others.is_empty(), "README.md has no such blocks: {others:#?}");
    page::check_steps(&["fish", "--no-config"], "", &tour, LIMIT);
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
        "doc/fish.md",
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
    let found = steps("a\n**Do it.** So\n```sh\necho 1\necho 2\n```\nb\n```text\n1\n2\n```\n```sh\ntrue\n```\n");
    assert_eq!(found.len(), 2);
    assert_eq!(
        (found[0].script.as_str(), found[0].expected.as_deref()),
        ("echo 1\necho 2\n", Some("1\n2\n"))
    );
    assert_eq!(
        (found[1].script.as_str(), found[1].expected.as_deref()),
        ("true\n", None)
    );
    assert_eq!(found[0].title, "Do it");
}
