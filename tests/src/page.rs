//! Pages whose examples are run: each ```sh block, in order, in one shell, prints the ```text block
//! that follows it.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::programs::{bin_dir, project};
use crate::{Folder, Output, Sh};

/// Printed after each block.
const END: &str = "--- end of a block ---";

/// A block with what it must print, if that is said.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// The words in bold that stood last above it.
    pub title: String,
    /// What is run.
    pub script: String,
    /// What it prints.
    pub expected: Option<String>,
}

/// The ```sh blocks of a page, each with the ```text block that follows it.
pub fn steps(page: &str) -> Vec<Step> {
    steps_in("sh", page)
}

/// The same of blocks in another language. Blocks of any other kind are a mistake.
pub fn steps_in(language: &str, page: &str) -> Vec<Step> {
    let (mut steps, mut fence): (Vec<Step>, Option<(&str, String)>) = (Vec::new(), None);
    let mut title = "";
    for line in page.lines() {
        match (&mut fence, line.strip_prefix("```")) {
            (None, Some(language)) => fence = Some((language, String::new())),
            (Some((_, body)), None) => {
                body.push_str(line);
                body.push('\n');
            }
            (Some(_), Some(_)) => match (fence.take(), steps.last_mut()) {
                (Some((of, script)), _) if of == language => steps.push(Step {
                    title: title.to_owned(),
                    script,
                    expected: None,
                }),
                (Some(("text", text)), Some(step)) => step.expected = Some(text),
                (other, _) => panic!("a block of another kind: {other:?}"),
            },
            (None, None) => {
                let bold = line.strip_prefix("**").and_then(|rest| rest.split_once("**"));
                title = bold.map_or(title, |(bold, _)| bold.trim_end_matches('.'));
            }
        }
    }
    assert!(fence.is_none(), "a block is not closed");
    steps
}

/// The text of a page of the project.
pub fn read(page: &str) -> String {
    fs::read_to_string(project().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"))
}

/// Runs the examples of a page of the project in an empty folder; panics unless all are true.
pub fn check(page: &str, least_blocks: usize, limit: Duration) {
    let steps = steps(&read(page));
    assert!(steps.len() >= least_blocks, "{page} has {} blocks", steps.len());
    check_steps(&["dash"], "set -eu\n", &steps, limit);
}

/// Runs examples in a shell, after some lines of its own; panics unless all are true.
pub fn check_steps(shell: &[&str], before: &str, steps: &[Step], limit: Duration) {
    let output = run(&Folder::new(), shell, before, steps, limit);
    let printed: Vec<&str> = output
        .stdout
        .split(END)
        .map(|text| text.trim_start_matches('\n'))
        .collect();
    for (number, step) in steps.iter().enumerate() {
        let Some(text) = printed.get(number) else {
            panic!("block {number} was not reached in {shell:?}: {output:#?}")
        };
        assert!(
            number + 1 < printed.len(),
            "block {number} failed in {shell:?}:\n{}\n{output:#?}",
            step.script
        );
        if let Some(expected) = &step.expected {
            assert_eq!(
                text.trim_end(),
                expected.trim_end(),
                "block {number} in {shell:?}:\n{}\n{}",
                step.script,
                output.stderr
            );
        }
    }
}

fn run(folder: &Folder, shell: &[&str], before: &str, steps: &[Step], limit: Duration) -> Output {
    let blocks = steps.iter().map(|step| format!("{}echo '{END}'\n", step.script));
    let script = folder.out().join("page.sh");
    fs::write(&script, format!("{before}{}", blocks.collect::<String>())).expect("own folder");
    let script = script.to_str().expect("a temporary path is text");
    let words: Vec<&str> = shell.iter().copied().chain([script]).collect();
    Sh::start(&words, &folder.path(), &folder.out(), &[]).finish_within(limit)
}

/// A line of sh after which the only programs are those of this busybox, distcifs and its workers. Whoever is not
/// root mounts by fusermount3.
pub fn only_busybox(folder: &Folder) -> String {
    let applets = folder.out().join("applets");
    fs::create_dir(&applets).expect("own folder");
    let link = "busybox=$(command -v busybox); for name in $(busybox --list); do ln -s \"$busybox\" \"$0/$name\"; done
        [ \"$(id -u)\" = 0 ] || ln -s \"$(command -v fusermount3)\" \"$0\"";
    let linked = Command::new("dash").args(["-euc", link]).arg(&applets).status();
    assert!(linked.is_ok_and(|status| status.success()), "busybox has applets");
    let workers = project().join("workers");
    let path = [&bin_dir(), &workers, &applets].map(|folder| folder.display().to_string());
    format!("PATH='{}'; export PATH\n", path.join(":"))
}

/// Whether fish understands a script as it stands.
pub fn is_fish(folder: &Folder, script: &str) -> bool {
    let file = folder.out().join("block.fish");
    fs::write(&file, script).expect("own folder");
    let mut fish = Command::new("fish");
    fish.args(["--no-config", "--no-execute"])
        .arg(&file)
        .stderr(Stdio::null());
    fish.status().expect("fish runs").success()
}
