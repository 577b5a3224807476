//! `distcifs run`: what it does to the working copy, to other users of the machine and to what it leaves.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use distcifs_tests::folder::is_mounted;
use distcifs_tests::programs::{bin_dir, distcifs, installed};
use distcifs_tests::{Folder, process, wait_for};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getuid};
use serde_json::json;

/// A mount and a build are begun and ended within a fraction of it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A pipeline with one script of this text.
fn pipeline(script: &str) -> String {
    let params = json!({ "script": script });
    json!({ "tasks": [{ "type": "execute-shell", "name": "a", "isolation": "none", "params": params }] }).to_string()
}

/// A working copy of git's with a pipeline, and a folder for temporary files.
struct Code {
    folder: Folder,
    top: PathBuf,
    temporary: PathBuf,
}

impl Code {
    fn new(script: &str) -> Code {
        let folder = Folder::new();
        let (top, temporary) = (folder.path(), folder.out().join("tmp"));
        fs::create_dir(&temporary).expect("own folder");
        fs::write(top.join(".distcifs.json"), pipeline(script)).expect("own folder");
        let job = json!({ "allow": { "isolation": ["none"] }, "tasks": [] });
        fs::write(folder.out().join("job.json"), job.to_string()).expect("own folder");
        let code = Code { folder, top, temporary };
        code.git(&["init", "-q", "-b", "main", "."]);
        code
    }

    fn git(&self, words: &[&str]) {
        let status = Command::new("git").args(words).current_dir(&self.top).status();
        assert!(status.expect("git runs").success(), "{words:?}");
    }

    /// A run that takes a hangup as who has a terminal does, whatever these tests were started by.
    fn command(&self, words: &[&str]) -> Command {
        self.command_where("--default-signal=HUP", words)
    }

    fn command_where(&self, signal: &str, words: &[&str]) -> Command {
        let mut command = Command::new("/usr/bin/env");
        command
            .arg(signal)
            .arg(distcifs())
            .arg("run")
            .arg("--job")
            .arg(self.folder.out().join("job.json"));
        command.arg("--workers-dir").arg(bin_dir()).args(words);
        command.current_dir(&self.top).env("TMPDIR", &self.temporary);
        command
    }

    /// Runs it to its end: its status, and what it said on both outputs.
    fn run(&self, words: &[&str]) -> (Option<i32>, String) {
        let output = self.command(words).output().expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    }

    /// Starts it, and reads its output up to a line that has `ready`.
    fn start(&self, words: &[&str]) -> (Child, BufReader<ChildStdout>, String) {
        Self::started(self.command(words))
    }

    fn started(mut command: Command) -> (Child, BufReader<ChildStdout>, String) {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it runs");
        let mut output = BufReader::new(child.stdout.take().expect("its output"));
        let mut line = String::new();
        while !line.contains("ready") {
            line.clear();
            assert!(output.read_line(&mut line).expect("its output") > 0, "it ended before");
        }
        (child, output, line)
    }

    /// What is left in the folder for temporary files.
    fn left(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.temporary).expect("own folder");
        entries.map(|entry| entry.expect("own folder").path()).collect()
    }
}

fn signal(child: &Child, signal: Signal) {
    process::signal(Pid::from_raw(child.id().cast_signed()), signal);
}

/// How it ended, within its time.
fn ended(child: &mut Child) -> Option<i32> {
    let mut status = None;
    wait_for("the end of the run", PATIENCE, || {
        status = child.try_wait().expect("a child");
        status.is_some()
    });
    status.and_then(|status| status.code())
}

/// "What lies below a link is left out, as git does": a tracked folder was moved away, and a link stands in its place.
#[test]
fn nothing_outside_of_the_working_copy_is_touched() {
    let code = Code::new("ls data/; echo made > data/made");
    let outside = code.folder.out().join("big");
    fs::create_dir(code.top.join("data")).expect("own folder");
    fs::write(code.top.join("data/file"), "one\ntwo\n").expect("own folder");
    code.git(&["add", "."]);
    fs::rename(code.top.join("data"), &outside).expect("own folder");
    symlink(&outside, code.top.join("data")).expect("own folder");
    // The link is a script's to follow, as whoever it runs as: here it may read alone.
    let (status, said) = code.run(&[]);
    assert!(said.contains("file\n"), "{said}");
    assert_eq!(status, Some(if getuid().is_root() { 1 } else { 0 }), "{said}");
    assert_eq!(
        fs::read_to_string(outside.join("file")).expect("own folder"),
        "one\ntwo\n"
    );
    assert_eq!(code.left(), [] as [&Path; 0]);
}

/// "In a repository of which git does not speak nothing is run: what it ignores is not known."
#[test]
fn nothing_is_run_where_git_does_not_speak() {
    let code = Code::new("echo it ran; ls -a");
    fs::write(code.top.join(".gitignore"), ".env\n").expect("own folder");
    fs::write(code.top.join(".env"), "secret\n").expect("own folder");
    let (status, said) = code.run(&[]);
    assert!(status == Some(0) && !said.contains(".env"), "{said}");
    let refused = |mut command: Command| {
        let output = command.output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && output.stdout.is_empty(), "{said}");
        said
    };
    let mut command = code.command(&[]);
    command.env("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1");
    let said = refused(command);
    for words in [".git is there", "safe.directory"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    // Nor where there is no git.
    let mut command = code.command(&[]);
    command.env("PATH", code.folder.out());
    assert!(refused(command).contains("git can't be run"));
    assert_eq!(code.left(), [] as [&Path; 0]);
}

/// "The build and its files are shown to nobody else": not by root's run either, whose mount is for all users.
#[test]
fn a_build_is_shown_to_nobody_else() {
    if !getuid().is_root() || !installed("setpriv") {
        return;
    }
    let code = Code::new("echo ready $WORKSPACE; cat code; id -u; while [ ! -e go ]; do sleep 0.1; done");
    fs::write(code.top.join("code"), "the code\n").expect("own folder");
    let (mut child, mut output, line) = code.start(&["--as", "nobody"]);
    let mount = code.left().first().expect("the folder of the run").join("ci");
    let script = "cd \"$1\"; ls jobs tickets; for f in jobs/*/* jobs/*/builds/* jobs/*/builds/1/* jobs/*/builds/1/workspace/* \
         tickets/*/* tickets/*/*/* tickets/*/*/workspace/*; do cat \"$f\" 2> /dev/null; ls \"$f\" 2> /dev/null; done; true";
    let looked = Command::new("setpriv")
        .args([
            "--reuid",
            "2001",
            "--regid",
            "2001",
            "--clear-groups",
            "sh",
            "-c",
            script,
            "sh",
        ])
        .arg(&mount)
        .output()
        .expect("setpriv runs");
    let seen = String::from_utf8_lossy(&looked.stdout).into_owned();
    let names: Vec<&str> = seen.lines().collect();
    assert!(looked.status.success() && names.contains(&"execute-shell"), "{seen}");
    for secret in ["the code", "code", "config.json", "workspace", "console", "script"] {
        assert!(!names.contains(&secret), "{secret}: {seen}");
    }
    assert!(!seen.contains("ready"), "{seen}");
    let workspace = line.split("ready ").nth(1).map(|path| Path::new(path.trim()));
    let workspace = workspace.expect("the workspace is named");
    fs::write(workspace.join("go"), "").expect("root may");
    let mut said = String::new();
    output.read_to_string(&mut said).expect("its output");
    assert_eq!(ended(&mut child), Some(0), "{said}");
    assert!(said.contains("the code") && said.contains("65534"), "{said}");
}

/// "TERM, INT, HUP abort the build": the terminal may be gone. Nothing is left.
#[test]
fn a_hangup_ends_it_as_a_signal_does() {
    let code = Code::new("echo ready; while :; do sleep 0.1; done");
    let (mut child, _output, _) = code.start(&[]);
    signal(&child, Signal::SIGHUP);
    assert_eq!(ended(&mut child), Some(130));
    assert_eq!(code.left(), [] as [&Path; 0]);
}

/// Under nohup it goes on to its end.
#[test]
fn a_hangup_that_is_ignored_ends_nothing() {
    let code = Code::new("echo ready $WORKSPACE; while [ ! -e go ]; do sleep 0.1; done; echo went on");
    let (mut child, mut output, line) = Code::started(code.command_where("--ignore-signal=HUP", &[]));
    signal(&child, Signal::SIGHUP);
    let workspace = line.split("ready ").nth(1).expect("the workspace is named");
    fs::write(Path::new(workspace.trim()).join("go"), "").expect("own or root's");
    let mut said = String::new();
    output.read_to_string(&mut said).expect("its output");
    assert_eq!(ended(&mut child), Some(0), "{said}");
    assert!(said.contains("went on"), "{said}");
}

/// "Standard output that is gone aborts it too", and that is no task that failed.
#[test]
fn it_ends_when_nobody_reads_it_any_more() {
    let code = Code::new("echo ready; while :; do echo more; sleep 0.1; done");
    let (mut child, output, _) = code.start(&[]);
    drop(output);
    assert_eq!(ended(&mut child), Some(2));
    assert_eq!(code.left(), [] as [&Path; 0]);
}

/// "What a run leaves that is killed the next one removes", and not what belongs to one that lives.
#[test]
fn what_a_killed_run_leaves_is_swept_up() {
    let code = Code::new("echo ready; while [ ! -e go ]; do sleep 0.1; done");
    let (mut killed, _output, _) = code.start(&[]);
    let folder = code.left().first().expect("the folder of the run").clone();
    let (mut lives, _other, _) = code.start(&[]);
    let mut both = code.left();
    both.retain(|path| *path != folder);
    killed.kill().expect("a child");
    ended(&mut killed);
    wait_for("the end of the mount", PATIENCE, || !is_mounted(&folder.join("ci")));
    assert!(folder.join("store").exists());
    fs::write(code.top.join("go"), "").expect("own folder");
    let (status, said) = code.run(&[]);
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(code.left(), both);
    signal(&lives, Signal::SIGINT);
    assert_eq!(ended(&mut lives), Some(130));
    assert_eq!(code.left(), [] as [&Path; 0]);
}
