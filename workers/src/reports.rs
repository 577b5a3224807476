//! Reports of tests that a task left in its workspace (doc/job.md, reports): what they say goes into its message and into
//! a file among its artifacts.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use distcifs_patterns::{Part, Rule, Together};
use distcifs_settings::fault::plain;
use rustix::fs::FileType;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::aside;
use crate::beneath::{self, Folder, shown};
use crate::ticket::Claimed;
use crate::tree::{self, Trouble};

mod junit;

use junit::{Counts, FAILED_MAX};

/// The folder among the artifacts.
const FOLDER: &str = "reports";

/// Longest report, bytes.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Most bytes of all of them.
const ALL_BYTES_MAX: u64 = 256 << 20;

/// Most reports of a task.
const FILES_MAX: usize = 1000;

/// Names that are looked at, and folders within folders.
const NAMES_MAX: usize = 1_000_000;
const DEPTH_MAX: usize = 128;

/// How long all of it may take; what was read by then counts.
const TIME_MAX: Duration = Duration::from_secs(20);

/// How long who does it is waited for: somebody may hold a file for ever, and a claim is over a minute after its timeout.
const STANDS: Duration = Duration::from_secs(30);

/// The word that makes the worker's program do it.
const WORD: &str = "--reports";

/// Faults that are told.
const FAULTS_MAX: usize = 20;

/// Characters of the message that names the tests which failed.
const MESSAGE_CHARS_MAX: usize = 400;

/// Names in it, each with its reason.
const NAMED_MAX: usize = 5;

/// What the reports of a task said.
#[derive(Debug, Default)]
pub struct Reports {
    counts: Counts,
    files: usize,
    bytes: u64,
    faults: Vec<String>,
}

/// What of that is told.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Said {
    /// How many tests failed, and which; empty if all went well.
    failed: String,
    /// What is wrong with them, a line each, for the console: of those that are right the message says enough, and the
    /// last lines of the console are the script's.
    pub lines: String,
}

impl Said {
    /// The message of the task with it.
    pub fn with(&self, message: &str) -> String {
        if self.failed.is_empty() {
            return message.to_owned();
        }
        let comma = if message.is_empty() { "" } else { "; " };
        format!("{message}{comma}{}", self.failed)
            .chars()
            .take(MESSAGE_CHARS_MAX)
            .collect()
    }

    fn wrong(what: &str) -> Self {
        let lines = format!("reports: {what}\n");
        Said {
            lines,
            ..Said::default()
        }
    }
}

/// Has a process read the reports that these patterns name in the workspace of a ticket, and lay what they say among its
/// artifacts: somebody may hold these files. What is wrong with them is told, and is no error: the task did what it did.
pub fn collect(claimed: &Claimed, patterns: &[String], task: &str) -> Said {
    let run = || -> io::Result<_> {
        let mut command = Command::new("/proc/self/exe");
        command
            .args([WORD, task])
            .args(patterns)
            .stdin(Stdio::from(claimed.open()?));
        aside::run(command, STANDS)
    };
    match run() {
        Ok(Some(wrote)) => {
            serde_json::from_slice(&wrote.bytes).unwrap_or_else(|_| Said::wrong("who reads them was ended"))
        }
        Ok(None) => Said::wrong(&format!(
            "they are not read: that takes more than {} s, or a process holds them",
            STANDS.as_secs()
        )),
        Err(error) => Said::wrong(&format!("no process to read them: {error}")),
    }
}

/// What that process does, if this is one: it has the ticket's folder as its standard input.
pub fn main(words: &[String]) -> Option<ExitCode> {
    let [_, word, task, patterns @ ..] = words else {
        return None;
    };
    if word != WORD {
        return None;
    }
    let said = match io::stdin().as_fd().try_clone_to_owned().map(Folder::of) {
        Ok(ticket) => read_all(&ticket, patterns, task).said(),
        Err(error) => Said::wrong(&error.to_string()),
    };
    let text = serde_json::to_vec(&said).unwrap_or_default();
    let written = io::stdout().lock().write_all(&text);
    Some(written.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS))
}

/// Reads them, and lays what they say among the artifacts.
fn read_all(ticket: &Folder, patterns: &[String], task: &str) -> Reports {
    let mut reports = Reports::default();
    let read = ticket
        .enter("workspace")
        .map_err(|error| Trouble::from_io("workspace", &error))
        .and_then(|workspace| reports.read(&workspace, patterns));
    if let Err(trouble) = read {
        reports.fault(trouble.to_string());
    }
    if let Err(error) = reports.publish(ticket, task) {
        reports.fault(format!("can't write {FOLDER}/{task}.json: {error}"));
    }
    reports
}

impl Reports {
    fn fault(&mut self, what: String) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(what);
        }
    }

    /// Walks through the workspace without following links.
    fn read(&mut self, workspace: &Folder, patterns: &[String]) -> tree::Result<()> {
        let mut together = Together::default();
        let rules: Result<Vec<Rule>, String> = patterns.iter().map(|text| together.parse(text)).collect();
        let rules = rules.map_err(Trouble::Refused)?;
        let (end, mut names) = (Instant::now() + TIME_MAX, 0);
        let mut open = vec![(
            workspace.again().map_err(|e| Trouble::from_io("workspace", &e))?,
            PathBuf::new(),
        )];
        while let Some((folder, way)) = open.pop() {
            let mut entries = match folder.entries() {
                Ok(entries) => entries,
                Err(error) => {
                    self.fault(format!("{}: {error}", shown(&way)));
                    continue;
                }
            };
            while let Ok(Some((name, kind))) = beneath::next_name(&mut entries) {
                names += 1;
                if names > NAMES_MAX || self.files >= FILES_MAX || Instant::now() > end {
                    self.fault(format!(
                        "there is more: at most {FILES_MAX} reports, {NAMES_MAX} names and {} s",
                        TIME_MAX.as_secs()
                    ));
                    return Ok(());
                }
                let path = way.join(&name);
                match kind {
                    FileType::Directory if path.components().count() < DEPTH_MAX => {
                        if leads(&rules, &path)
                            && let Ok(below) = folder.enter(&name)
                        {
                            open.push((below, path));
                        }
                    }
                    FileType::RegularFile if takes(&rules, &path) => self.file(&folder, &name, &path),
                    _ => {}
                }
            }
        }
        if self.files == 0 {
            self.fault(format!("no file in the workspace matches {}", patterns.join(" ")));
        }
        Ok(())
    }

    fn file(&mut self, folder: &Folder, name: &OsStr, path: &Path) {
        self.files += 1;
        let mut read = || -> Result<(), String> {
            let file = folder.read(name).map_err(|error| error.to_string())?;
            let facts = file.metadata().map_err(|error| error.to_string())?;
            if !facts.is_file() || facts.len() > FILE_BYTES_MAX {
                return Err(format!("it is no file of at most {FILE_BYTES_MAX} bytes"));
            }
            self.bytes = self.bytes.saturating_add(facts.len());
            if self.bytes > ALL_BYTES_MAX {
                return Err(format!("all reports have more than {ALL_BYTES_MAX} bytes"));
            }
            let mut bytes = Vec::new();
            file.take(FILE_BYTES_MAX)
                .read_to_end(&mut bytes)
                .map_err(|error| error.to_string())?;
            junit::read(&String::from_utf8_lossy(&bytes), &mut self.counts)
        };
        if let Err(why) = read() {
            self.fault(format!("{}: {why}", shown(path)));
        }
    }

    /// What it says, as JSON.
    fn json(&self, task: &str) -> Value {
        let counts = &self.counts;
        let failed: Vec<Value> = counts
            .failed
            .iter()
            .map(|one| json!({"name": one.name, "kind": one.kind, "message": one.message, "text": one.text}))
            .collect();
        json!({
            "task": task, "files": self.files, "tests": counts.tests, "failures": counts.failures,
            "errors": counts.errors, "skipped": counts.skipped, "seconds": counts.seconds, "failed": failed,
            "more": (counts.failures + counts.errors).saturating_sub(failed.len().min(FAILED_MAX) as u64),
            "faults": self.faults,
        })
    }

    fn publish(&self, ticket: &Folder, task: &str) -> io::Result<()> {
        let folder = ticket.enter("artifacts")?.make(FOLDER)?;
        let name = format!("{task}.json");
        match folder.remove(OsStr::new(&name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = folder.create(OsStr::new(&name), 0o644)?;
        let mut text = serde_json::to_vec_pretty(&self.json(task))?;
        text.push(b'\n');
        file.write_all(&text)
    }

    fn said(&self) -> Said {
        let line = |fault: &String| format!("reports: {}\n", plain(fault));
        let lines = self.faults.iter().map(line).collect();
        let bad = self.counts.failures + self.counts.errors;
        let mut failed = String::new();
        if bad > 0 {
            failed = format!("{bad} of {} tests failed", self.counts.tests);
        }
        for (at, one) in self.counts.failed.iter().take(NAMED_MAX).enumerate() {
            let before = if at == 0 { ": " } else { ", " };
            let reason = if one.message.is_empty() {
                String::new()
            } else {
                format!(" ({})", one.message)
            };
            failed.push_str(&format!("{before}{}{reason}", one.name));
        }
        let failed = failed.replace('\n', " ");
        Said { failed, lines }
    }
}

/// Whether a path is named: the last pattern that fits decides.
fn takes(rules: &[Rule], path: &Path) -> bool {
    let names = names(path);
    let fitting = rules.iter().rev().find(|rule| {
        rule.ways
            .iter()
            .any(|way| fits(&way.parts, &names, rule.excludes, false))
    });
    fitting.is_some_and(|rule| !rule.excludes)
}

/// Whether something in a folder may be.
fn leads(rules: &[Rule], path: &Path) -> bool {
    let names = names(path);
    let mut taking = rules.iter().filter(|rule| !rule.excludes);
    taking.any(|rule| rule.ways.iter().any(|way| fits(&way.parts, &names, false, true)))
}

fn names(path: &Path) -> Vec<&OsStr> {
    path.iter().collect()
}

/// Whether the parts of a pattern fit these names, or with `begin` may fit some that begin so. The parts that may be next
/// are followed together: with many `**` there are very many ways to one of them.
fn fits(parts: &[Part], names: &[&OsStr], excludes: bool, begin: bool) -> bool {
    // `**` may stand for no folder at all.
    let spread = |next: &mut Vec<bool>| {
        for (at, part) in parts.iter().enumerate() {
            next[at + 1] |= next[at] && *part == Part::Any;
        }
    };
    let mut next = vec![false; parts.len() + 1];
    next[0] = true;
    spread(&mut next);
    for name in names {
        let mut after = vec![false; parts.len() + 1];
        for (at, part) in parts.iter().enumerate().filter(|(at, _)| next[*at]) {
            if part.fits(name.as_bytes(), excludes) {
                after[if *part == Part::Any { at } else { at + 1 }] = true;
            }
        }
        spread(&mut after);
        next = after;
    }
    let whole = next.pop().unwrap_or(false);
    if begin { next.contains(&true) } else { whole }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Reads them here.
    fn collect(claimed: &Claimed, patterns: &[String], task: &str) -> Reports {
        read_all(&Folder::of(claimed.open().unwrap().into()), patterns, task)
    }

    const GOOD: &str = "<testsuite><testcase name=\"a\"/></testsuite>";
    const BAD: &str = "<testsuite name=\"s\"><testcase name=\"b\"><failure message=\"why\"/></testcase></testsuite>";

    fn ticket(name: &str) -> Claimed {
        let folder = std::env::temp_dir().join(format!("distcifs-reports-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        for place in ["workspace/target/deep", "workspace/.hidden", "artifacts"] {
            fs::create_dir_all(folder.join(place)).unwrap();
        }
        fs::write(folder.join("claim"), "").unwrap();
        Claimed::new(folder).unwrap()
    }

    /// "Counts and failing names go into `why` and into a file": of those files that the patterns name, and of no link.
    #[test]
    fn what_reports_say_is_told_and_kept() {
        let claimed = ticket("kept");
        let workspace = claimed.folder.join("workspace");
        for (path, text) in [
            ("junit.xml", GOOD),
            ("target/deep/junit-1.xml", BAD),
            ("target/other.xml", BAD),
            ("target/junit-old.xml", BAD),
            (".hidden/junit.xml", BAD),
        ] {
            fs::write(workspace.join(path), text).unwrap();
        }
        fs::write(claimed.folder.join("secret.xml"), BAD).unwrap();
        symlink("../secret.xml", workspace.join("junit-link.xml")).unwrap();
        symlink("..", workspace.join("up")).unwrap();
        nix::unistd::mkfifo(&workspace.join("junit-fifo.xml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let patterns = ["**/junit*.xml".to_owned(), "!**/junit-old.xml".to_owned()];
        let found = collect(&claimed, &patterns, "0-unit");
        assert_eq!(found.said().with("exit 1"), "exit 1; 1 of 2 tests failed: s.b (why)");
        assert_eq!(found.said().lines, "");
        let text = fs::read_to_string(claimed.folder.join("artifacts/reports/0-unit.json")).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&json["tests"], &json["failed"][0]["name"], &json["more"]),
            (&json!(2), &json!("s.b"), &json!(0))
        );
        // Once more, in the place of what stands there; and all that went well changes no message.
        fs::remove_file(workspace.join("target/deep/junit-1.xml")).unwrap();
        assert_eq!(collect(&claimed, &patterns, "0-unit").said().with(""), "");
        fs::remove_dir_all(&claimed.folder).unwrap();
    }

    /// Patterns are those of artifacts, and none takes long.
    #[test]
    fn patterns_are_those_of_artifacts() {
        let rules = |texts: &[&str]| -> Vec<Rule> { texts.iter().map(|text| Rule::parse(text).unwrap()).collect() };
        for (texts, path, expected) in [
            (&["**/junit*.xml"][..], "junit.xml", true),
            (&["**/junit*.xml"], "a/b/junit-1.xml", true),
            (&["**/junit*.xml"], "a/.b/junit.xml", false),
            (&["a/**"], "a/b/c", true),
            (&["a/**"], "b", false),
            (&["{a,b}/*.xml"], "b/x.xml", true),
            (&["*.xml", "!x.xml"], "x.xml", false),
            (&["*.xml", "!x.xml", "x.xml"], "x.xml", true),
        ] {
            assert_eq!(takes(&rules(texts), Path::new(path)), expected, "{texts:?} {path}");
        }
        assert!(leads(&rules(&["a/**/x.xml"]), Path::new("a/b")) && !leads(&rules(&["a/x.xml"]), Path::new("b")));
        let many = rules(&[&("**/a*/".repeat(80) + "x")]);
        let deep = "aa/".repeat(100) + "y";
        let begun = Instant::now();
        assert!(!takes(&many, Path::new(&deep)) && begun.elapsed() < Duration::from_secs(10));
    }

    /// "What is wrong with a report is told, and is no error": the others count.
    #[test]
    fn what_is_wrong_with_one_is_told() {
        let claimed = ticket("wrong");
        let workspace = claimed.folder.join("workspace");
        fs::write(workspace.join("a.xml"), BAD).unwrap();
        fs::write(workspace.join("b.xml"), b"<testsuite>\xff<oops").unwrap();
        let large = fs::File::create(workspace.join("c.xml")).unwrap();
        large.set_len(FILE_BYTES_MAX + 1).unwrap();
        let found = collect(&claimed, &["*.xml".to_owned()], "0-unit");
        assert_eq!(
            (found.files, found.counts.tests, found.faults.len()),
            (3, 1, 2),
            "{:?}",
            found.faults
        );
        assert!(
            found
                .said()
                .lines
                .contains("reports: 'c.xml': it is no file of at most")
                || found.said().lines.contains("c.xml: it is no file of at most"),
            "{}",
            found.said().lines
        );
        let none = collect(&claimed, &["*.txt".to_owned()], "0-unit");
        assert!(none.said().lines.contains("no file in the workspace matches *.txt"));
        // A script that left something else in their place.
        fs::remove_dir_all(claimed.folder.join("artifacts/reports")).unwrap();
        symlink("/tmp", claimed.folder.join("artifacts/reports")).unwrap();
        let refused = collect(&claimed, &["a.xml".to_owned()], "0-unit");
        assert!(
            refused.said().lines.contains("can't write reports/0-unit.json"),
            "{}",
            refused.said().lines
        );
        assert_eq!(refused.said().with(""), "1 of 1 tests failed: s.b (why)");
        fs::remove_dir_all(&claimed.folder).unwrap();
    }
}
