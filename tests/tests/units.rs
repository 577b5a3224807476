//! The units of systemd in scripts/systemd: systemd takes them, and the programs take what they say.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use distcifs_tests::programs::{installed, project, worker};
use distcifs_tests::{Folder, Sh};

/// Where the units say that the programs are.
const FOLDER: &str = "/usr/local/lib/distcifs/";

fn units() -> Vec<(PathBuf, String)> {
    let entries = fs::read_dir(project().join("scripts/systemd")).expect("the project has units");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let units: Vec<(PathBuf, String)> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "service"))
        .map(|path| (path.clone(), fs::read_to_string(&path).expect("a unit is text")))
        .collect();
    assert!(units.len() >= 3, "{units:?}");
    units
}

/// The words of ExecStart: the program's name first.
fn command(unit: &str) -> Vec<String> {
    let line = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="))
        .expect("ExecStart");
    let line = line
        .strip_prefix(FOLDER)
        .unwrap_or_else(|| panic!("{line} is not in {FOLDER}"));
    line.split(' ').map(str::to_owned).collect()
}

/// `systemd-analyze verify` says nothing of any of them, with the programs where they were built.
#[test]
fn systemd_takes_each_unit() {
    if !installed("systemd-analyze") {
        return;
    }
    let folder = Folder::new();
    for (path, text) in units() {
        let program = worker(&command(&text)[0]);
        let built = program.parent().expect("a folder").to_str().expect("text");
        let copy = folder.path().join(path.file_name().expect("a name"));
        fs::write(&copy, text.replace(FOLDER.trim_end_matches('/'), built)).expect("own folder");
        let output = Command::new("systemd-analyze")
            .args(["verify", "--man=no"])
            .arg(&copy)
            .output();
        let output = output.expect("systemd-analyze runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let of_this = said
            .lines()
            .filter(|line| line.contains(".service"))
            .collect::<Vec<_>>();
        assert!(
            output.status.success() && of_this.is_empty(),
            "{}: {said}",
            path.display()
        );
    }
}

/// A unit with a fault is found: the check can fail.
#[test]
fn systemd_finds_a_fault() {
    if !installed("systemd-analyze") {
        return;
    }
    let folder = Folder::new();
    let unit = folder.path().join("bad.service");
    fs::write(&unit, "[Service]\nExecStart=/nonexistent/program\nRestrat=always\n").expect("own folder");
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(&unit)
        .output();
    let said = String::from_utf8_lossy(&output.expect("systemd-analyze runs").stderr).into_owned();
    assert!(
        said.contains("Restrat") && said.contains("/nonexistent/program"),
        "{said}"
    );
}

/// Each program takes the options of its unit: it does not end with 2, the status for those.
#[test]
fn the_programs_take_what_the_units_say() {
    for (path, text) in units() {
        let folder = Folder::new();
        let mut words = command(&text);
        words[0] = worker(&words[0]).to_str().expect("text").to_owned();
        for word in &mut words {
            *word = word
                .replace("${STATE_DIRECTORY}", folder.out().to_str().expect("text"))
                .replace("127.0.0.1:8080", "127.0.0.1:0");
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut running = Sh::start(&words, &folder.path(), &folder.out(), &[]);
        let begun = Instant::now();
        while running.alive() && begun.elapsed() < Duration::from_millis(500) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let (alive, said) = (running.alive(), running.complaints());
        // A receiver waits for the tree; the others end at once, as nothing is mounted there.
        let waits = said.contains("nothing is mounted");
        assert!(waits, "{}: alive {alive}: {said}", path.display());
        running.kill9();
    }
}
