//! README.md and the pages with examples are true: their blocks run, in order, in one shell, and
//! print what stands below them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use distcifs_tests::Folder;
use distcifs_tests::page::{self, Step, steps, steps_in};
use distcifs_tests::programs::{bin_dir, installed, project};

/// A page takes seconds; this bounds one that hangs.
const LIMIT: Duration = Duration::from_secs(90);

#[test]
fn the_readme_is_true() {
    page::check("README.md", 8, LIMIT);
}

#[test]
fn the_page_of_pipelines_is_true() {
    page::check("doc/pipelines.md", 4, LIMIT);
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

/// `scripts/setup --demo` names all that scripts/demo runs and Debian may lack: without root, sudo and apt-get, with
/// those tools and what every Debian has, it shows its build to the end.
#[test]
fn the_demo_needs_no_more_than_setup_says() {
    let run = |script: &str, path: &Path| {
        let mut sh = Command::new("/bin/sh");
        sh.args(["-c", script]).current_dir(project()).env("PATH", path);
        sh.output().expect("sh runs")
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let check = "/bin/sh scripts/setup --demo --no-cargo --check";
    let missing = run(check, Path::new("/nonexistent"));
    let missing = text(&missing.stdout);
    let mut asked: Vec<&str> = missing.split_whitespace().skip(2).collect();
    asked.sort_unstable();
    assert_eq!(
        asked,
        ["fuse3", "gcc", "git", "libc6-dev", "make", "rsync"],
        "{missing}"
    );

    let folder = Folder::new();
    let tools = folder.out().join("tools");
    fs::create_dir(&tools).expect("own folder");
    for name in DEBIAN.iter().chain(&DEMO).flat_map(|line| line.split(' ')) {
        let places = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(|folder| Path::new(folder).join(name));
        let program = places.iter().find(|program| program.exists());
        let program = program.unwrap_or_else(|| panic!("scripts/setup installs {name}"));
        symlink(program, tools.join(name)).expect("own folder");
    }
    assert!(run(check, &tools).status.success(), "nothing is missing");
    let rsync = fs::read_link(tools.join("rsync")).expect("it is there");
    fs::remove_file(tools.join("rsync")).expect("own folder");
    let told = run("/bin/sh scripts/setup --demo --no-cargo", &tools);
    let why = text(&told.stderr);
    assert!(
        !told.status.success() && why.contains("no apt-get here") && why.contains(" rsync "),
        "{told:?}"
    );
    symlink(rsync, tools.join("rsync")).expect("own folder");

    let step = Step {
        title: "The demo".to_owned(),
        script: format!(
            "'{}/scripts/demo' --bin '{}' >demo.out 2>&1 || {{ cat demo.out; exit 1; }}\ngrep -c '^hello from a build$' demo.out\n",
            project().display(),
            bin_dir().display()
        ),
        expected: Some("1".to_owned()),
    };
    let before = format!("set -eu\nPATH='{}'; export PATH\n", tools.display());
    page::check_steps(&["dash"], &before, &[step], LIMIT);
}

/// What scripts/demo takes from the packages that every Debian has.
const DEBIAN: [&str; 3] = [
    "sh dash cat chmod cp dirname basename env find grep head id ls",
    "mkdir mktemp mv rm sed sleep tail touch tr true",
    "sort uname wc",
];

/// What it takes from those that `scripts/setup --demo` installs, with what a compiler calls.
const DEMO: [&str; 2] = ["fusermount3 rsync git make", "gcc cc as ld"];

#[test]
fn the_examples_of_triggers_are_true() {
    page::check("doc/triggers.md", 10, LIMIT);
}

#[test]
fn every_link_of_the_pages_leads_somewhere() {
    let inside = |folder: &str| fs::read_dir(project().join(folder)).expect("the project has it");
    let all = ["", "doc", "doc/decisions"].into_iter().flat_map(inside);
    let paths = all.map(|entry| entry.expect("the project is readable").path());
    let pages: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|end| end == "md"))
        .collect();
    assert!(pages.len() > 20, "only {}", pages.len());
    for path in pages {
        let text = fs::read_to_string(&path).expect("the project has it");
        let folder = path.parent().expect("a file has a folder");
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.starts_with("http") {
                continue;
            }
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let there = if file.is_empty() {
                path.clone()
            } else {
                folder.join(file)
            };
            assert!(
                there.exists(),
                "{} links to {target}, which is not there",
                path.display()
            );
            let known = heading.is_empty() || headings(&there).iter().any(|known| known == heading);
            assert!(known, "{} links to {target}: no such heading", path.display());
        }
    }
}

/// The headings of a page, as links name them.
fn headings(page: &Path) -> Vec<String> {
    let text = fs::read_to_string(page).expect("the project has it");
    let lines = text.lines().filter(|line| line.starts_with('#'));
    let kept = |letter: &char| letter.is_alphanumeric() || "-_ ".contains(*letter);
    let name = |line: &str| {
        line.trim_start_matches('#')
            .trim()
            .chars()
            .filter(kept)
            .collect::<String>()
    };
    lines.map(|line| name(line).to_lowercase().replace(' ', "-")).collect()
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
