//! README.md is true: its blocks run, in order, in one shell, and print what stands below them.

use std::fs;
use std::time::Duration;

use distcifs_tests::programs::project;
use distcifs_tests::{Folder, Output, Sh};

/// The tour takes seconds; this bounds one that hangs.
const LIMIT: Duration = Duration::from_secs(90);

/// Printed after each block.
const END: &str = "--- end of a block ---";

/// A block with what it must print, if that is said.
struct Step {
    script: String,
    expected: Option<String>,
}

/// The ```sh blocks of a page, each with the ```text block that follows it.
fn steps(page: &str) -> Vec<Step> {
    let (mut steps, mut fence): (Vec<Step>, Option<(&str, String)>) = (Vec::new(), None);
    for line in page.lines() {
        match (&mut fence, line.strip_prefix("```")) {
            (None, Some(language)) => fence = Some((language, String::new())),
            (Some((_, body)), None) => {
                body.push_str(line);
                body.push('\n');
            }
            (Some(_), Some(_)) => match (fence.take(), steps.last_mut()) {
                (Some(("sh", script)), _) => steps.push(Step { script, expected: None }),
                (Some(("text", text)), Some(step)) => step.expected = Some(text),
                (other, _) => panic!("a block of another kind: {other:?}"),
            },
            (None, None) => {}
        }
    }
    assert!(fence.is_none(), "a block is not closed");
    steps
}

fn run(folder: &Folder, steps: &[Step]) -> Output {
    let blocks = steps.iter().map(|step| format!("{}echo '{END}'\n", step.script));
    let script = folder.out().join("tour.sh");
    fs::write(&script, format!("set -eu\n{}", blocks.collect::<String>())).expect("own folder");
    let script = script.to_str().expect("a temporary path is text");
    Sh::start(&["dash", script], &folder.path(), &folder.out(), &[]).finish_within(LIMIT)
}

#[test]
fn the_readme_is_true() {
    let page = fs::read_to_string(project().join("README.md")).expect("the project has a README.md");
    let steps = steps(&page);
    assert!(steps.len() >= 8, "the tour has {} blocks", steps.len());
    let folder = Folder::new();
    let output = run(&folder, &steps);
    let printed: Vec<&str> = output
        .stdout
        .split(END)
        .map(|text| text.trim_start_matches('\n'))
        .collect();
    for (number, step) in steps.iter().enumerate() {
        let Some(text) = printed.get(number) else {
            panic!("block {number} was not reached: {output:#?}")
        };
        assert!(
            number + 1 < printed.len(),
            "block {number} failed:\n{}\n{output:#?}",
            step.script
        );
        if let Some(expected) = &step.expected {
            assert_eq!(
                text.trim_end(),
                expected.trim_end(),
                "block {number}:\n{}\n{}",
                step.script,
                output.stderr
            );
        }
    }
}

#[test]
fn every_link_of_the_pages_leads_somewhere() {
    for page in ["README.md", "CHANGELOG.md"] {
        let text = fs::read_to_string(project().join(page)).expect("the project has it");
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let local = !target.starts_with("http");
            assert!(
                !local || project().join(target).exists(),
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
