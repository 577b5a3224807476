//! Pages whose examples are run: each ```sh block, in order, in one shell, prints the ```text block
//! that follows it.

use std::fs;
use std::time::Duration;

use crate::programs::project;
use crate::{Folder, Output, Sh};

/// Printed after each block.
const END: &str = "--- end of a block ---";

/// A block with what it must print, if that is said.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// What is run.
    pub script: String,
    /// What it prints.
    pub expected: Option<String>,
}

/// The ```sh blocks of a page, each with the ```text block that follows it. Blocks of another kind
/// are shown, not run.
pub fn steps(page: &str) -> Vec<Step> {
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

fn run(folder: &Folder, steps: &[Step], limit: Duration) -> Output {
    let blocks = steps.iter().map(|step| format!("{}echo '{END}'\n", step.script));
    let script = folder.out().join("page.sh");
    fs::write(&script, format!("set -eu\n{}", blocks.collect::<String>())).expect("own folder");
    let script = script.to_str().expect("a temporary path is text");
    Sh::start(&["dash", script], &folder.path(), &folder.out(), &[]).finish_within(limit)
}

/// Runs the examples of a page of the project in an empty folder; panics unless all are true.
pub fn check(page: &str, least_blocks: usize, limit: Duration) {
    let text = fs::read_to_string(project().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
    let steps = steps(&text);
    assert!(steps.len() >= least_blocks, "{page} has {} blocks", steps.len());
    let output = run(&Folder::new(), &steps, limit);
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
