//! Backup and restore of a folder that is mounted and builds: a point in time, whatever is killed,
//! full, moved or removed meanwhile.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use distcifs_tests::job::shell_task;
use distcifs_tests::mount::{TEST_LIMIT, Words};
use distcifs_tests::{Mount, Repository, Worker, process, programs, wait_for};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::json;

fn command(words: &[&str]) -> Command {
    let mut command = Command::new(programs::distcifs());
    command.args(words).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn said(output: &Output) -> (bool, String) {
    let text = [&output.stdout[..], &output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

fn run(words: &[&str]) -> (bool, String) {
    said(&command(words).output().expect("distcifs runs"))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary path is text")
}

/// Saves a mount's source; panics if that is refused.
fn backup(mount: &Mount, dir: &Path) -> String {
    let (done, said) = run(&["backup", mount.repository().source(), text(dir)]);
    assert!(done && said.starts_with("saved: "), "{said}");
    said
}

/// Everything in a backup or source is whole.
fn assert_whole(dir: &Path) {
    let (good, said) = run(&["fsck", text(dir)]);
    assert!(good && said.contains("nothing is wrong"), "{said}");
}

/// A mount of what is restored from a backup.
fn restored(mount: &Mount, dir: &Path) -> Mount {
    let place = mount.out().join("restored");
    let (done, said) = run(&["restore", text(dir), text(&place)]);
    assert!(done && said.contains("nothing is wrong"), "{said}");
    Mount::of(&Repository::in_folder(&place), "restored", Words::default(), TEST_LIMIT)
}

/// A job whose builds publish a file of their own and one that all have.
fn busy_job(mount: &Mount, name: &str) {
    let script = "echo says $BUILD_NUMBER; seq $BUILD_NUMBER 20000 > ../artifacts/own; seq 30000 > ../artifacts/all";
    let config = json!({ "tasks": [shell_task(script), shell_task("echo $BUILD_NUMBER > ../artifacts/seen")] });
    mount.job(name, &config.to_string());
}

fn assert_build(mount: &Mount, name: &str, build: u64) {
    let lines = |from: u64, to: u64| (from..=to).map(|n| format!("{n}\n")).collect::<String>();
    let folder = format!("jobs/{name}/builds/{build}");
    assert_eq!(mount.state(name, build), "success");
    assert!(mount.read(&format!("{folder}/artifacts/own")) == lines(build, 20_000).trim_end());
    assert!(mount.read(&format!("{folder}/artifacts/all")) == lines(1, 30_000).trim_end());
    assert_eq!(mount.read(&format!("{folder}/artifacts/seen")), build.to_string());
    assert!(mount.console(name, build).contains(&format!("says {build}")));
}

fn builds(mount: &Mount, name: &str) -> Vec<u64> {
    let names = mount.list(&format!("jobs/{name}/builds"));
    let mut numbers: Vec<u64> = names.iter().filter_map(|n| n.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

/// doc/storage.md: "A backup is the source as it was at one moment."
#[test]
fn a_folder_that_builds_is_saved_and_restored_as_it_was_at_one_moment() {
    let mount = Mount::of_folder();
    let workers = Worker::usual(&mount, 2);
    busy_job(&mount, "a");
    let dir = mount.out().join("saved");
    mount.build("a", "", "success");
    std::thread::scope(|threads| {
        let builder = threads.spawn(|| (0..6).for_each(|_| _ = mount.build("a", "", "success")));
        while !builder.is_finished() {
            backup(&mount, &dir);
            assert_whole(&dir);
        }
        builder.join().expect("builds go on");
    });
    // One that runs, one that waits, and a ticket that stands alone.
    let gate = mount.out().join("gate");
    mount.shell_job(
        "slow",
        &[&format!("while [ ! -e {} ]; do sleep 0.1; done", gate.display())],
    );
    let runs = mount.trigger("slow", "");
    wait_for("it to run", Duration::from_secs(20), || {
        mount.state("slow", runs) == "running"
    });
    mount.queue("q");
    mount.post("q", &json!({ "id": "alone" }));
    let before = builds(&mount, "a");
    backup(&mount, &dir);
    // Nothing of what comes later is in it.
    let later = mount.build("a", "", "success");
    fs::write(&gate, "").expect("own folder");
    mount.wait_state("slow", runs);
    drop(workers);
    let modes = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(modes(&dir), 0o700, "it holds what the source holds");
    fs::remove_file(&gate).expect("own folder");
    let again = restored(&mount, &dir);
    assert_eq!(builds(&again, "a"), before);
    before.iter().for_each(|build| assert_build(&again, "a", *build));
    assert!(again.has("tickets/q/alone/ticket.json"));
    // "Afterwards the folder is as after the loss of its mount at that moment": it runs again.
    let workers = Worker::usual(&again, 1);
    fs::write(&gate, "").expect("own folder");
    assert_eq!(again.wait_state("slow", runs), "success");
    assert_eq!(again.build("a", "", "success"), later, "numbers go on from there");
    drop(workers);
    again.unmount();
    assert_whole(&mount.out().join("restored"));
}

/// doc/deploy.md: "chunks that DIR has already are not copied again, nor are consoles that did not
/// change; what is not needed any more is removed".
#[test]
fn only_what_is_new_is_copied_and_what_is_gone_is_removed() {
    let mount = Mount::of_folder();
    let workers = Worker::usual(&mount, 1);
    busy_job(&mount, "a");
    mount.build("a", "", "success");
    let dir = mount.out().join("saved");
    let first = backup(&mount, &dir);
    assert!(!first.contains("saved: 0 "), "{first}");
    let second = backup(&mount, &dir);
    assert!(
        second.contains("saved: 0 chunks and folders and 0 consoles brought (0 bytes)"),
        "{second}"
    );
    mount.build("a", "", "success");
    let third = backup(&mount, &dir);
    let bytes = |said: &str| -> u64 {
        let (_, rest) = said.split_once('(').expect("bytes");
        rest.split(' ').next().and_then(|n| n.parse().ok()).expect("a number")
    };
    assert!(bytes(&third) < bytes(&first), "what all builds have is there: {third}");
    mount.run("rm -r jobs/a/builds/1; rm jobs/.trash/*");
    let fourth = backup(&mount, &dir);
    assert!(fourth.contains("not needed any more removed"), "{fourth}");
    assert_whole(&dir);
    // With bytes of its own, and without the mount.
    let copies = mount.out().join("copies");
    let (done, said) = run(&["backup", "--copy", mount.repository().source(), text(&copies)]);
    assert!(done, "{said}");
    drop(workers);
    mount.unmount();
    let (done, said) = run(&["backup", mount.repository().source(), text(&copies)]);
    assert!(done && said.contains("saved: 0 "), "{said}");
    assert_whole(&copies);
    let again = restored(&mount, &copies);
    assert_build(&again, "a", 2);
    assert_eq!(builds(&again, "a"), [2]);
}

/// "One that was interrupted leaves the former one as it was; the next goes on where it stood."
#[test]
fn a_backup_may_be_killed_at_any_moment() {
    let mount = Mount::of_folder();
    let _workers = Worker::usual(&mount, 1);
    busy_job(&mount, "a");
    mount.build("a", "", "success");
    let dir = mount.out().join("saved");
    backup(&mount, &dir);
    let script = "for i in $(seq 300); do echo \"$BUILD_NUMBER $i $(seq 500)\" > ../artifacts/$i; done";
    mount.shell_job("many", &[script]);
    for turn in 0..12 {
        mount.build("many", "", "success");
        let mut killed = command(&["backup", "--copy", mount.repository().source(), text(&dir)])
            .spawn()
            .expect("distcifs runs");
        std::thread::sleep(Duration::from_millis(15 * turn));
        killed.kill().expect("a child can be killed");
        killed.wait().expect("it ends");
        assert_whole(&dir);
    }
    backup(&mount, &dir);
    assert_whole(&dir);
    assert!(
        fs::read_dir(dir.join("tmp")).expect("a folder").next().is_none(),
        "nothing is left of them"
    );
    // A restore as well: until it is whole nobody can mount it.
    let place = mount.out().join("restored");
    for turn in 0..4 {
        let mut killed = command(&["restore", "--copy", text(&dir), text(&place)])
            .spawn()
            .expect("distcifs runs");
        std::thread::sleep(Duration::from_millis(10 * turn));
        killed.kill().expect("a child can be killed");
        killed.wait().expect("it ends");
        if place.join("format").exists() {
            fs::remove_dir_all(&place).expect("own folder");
        } else if place.join("restoring").exists() {
            let (done, said) = run(&["gc", text(&place)]);
            assert!(!done, "{said}");
        }
    }
    let again = restored(&mount, &dir);
    assert_eq!(builds(&again, "many").len(), 12);
    assert_build(&again, "a", 1);
}

/// Starts a backup and stops it as soon as it has the index.
fn begin_and_stop(mount: &Mount, dir: &Path) -> std::process::Child {
    let child = command(&["backup", "--copy", mount.repository().source(), text(dir)])
        .spawn()
        .expect("distcifs runs");
    let log = mount.own_folder().join("log");
    wait_for("the backup to begin", Duration::from_secs(20), || {
        fs::read_to_string(&log).is_ok_and(|log| log.contains("Backup asked for"))
    });
    wait_for("its index", Duration::from_secs(20), || {
        dir.join("index.new").exists() || dir.join("format").exists()
    });
    process::signal(Pid::from_raw(child.id().cast_signed()), Signal::SIGSTOP);
    child
}

/// doc/decisions/035-backup.md: "What a backup needs stays until it has ended", and "gc and backups
/// exclude each other".
#[test]
fn what_is_removed_while_a_backup_runs_is_saved_all_the_same() {
    let mount = Mount::of_folder();
    let workers = Worker::usual(&mount, 1);
    busy_job(&mount, "a");
    (0..3).for_each(|_| _ = mount.build("a", "", "success"));
    let dir = mount.out().join("saved");
    let child = begin_and_stop(&mount, &dir);
    mount.run("rm -r jobs/a/builds/1 jobs/a/builds/2; rm jobs/.trash/*");
    let (done, said_by_gc) = run(&["gc", "--wait", "1", mount.repository().source()]);
    let refused = !done && said_by_gc.contains("backup, process") && said_by_gc.contains("nothing was done");
    process::signal(Pid::from_raw(child.id().cast_signed()), Signal::SIGCONT);
    let (done, text) = said(&child.wait_with_output().expect("it ends"));
    assert!(refused, "{said_by_gc}");
    assert!(done, "{text}");
    assert_whole(&dir);
    let (done, text) = run(&["gc", mount.repository().source()]);
    assert!(done, "{text}");
    assert!(
        !mount.own_folder().join("tmp/kept").exists(),
        "nothing is kept for nobody"
    );
    drop(workers);
    let again = restored(&mount, &dir);
    let saved = builds(&again, "a");
    // It was stopped after the moment that is saved or before it, and never in between.
    assert!([vec![1, 2, 3], vec![2, 3], vec![3]].contains(&saved), "{saved:?}");
    saved.iter().for_each(|build| assert_build(&again, "a", *build));
}

/// The death of the daemon in the middle costs at most a repetition.
#[test]
fn the_death_of_the_daemon_leaves_the_backup_whole() {
    let mount = Mount::of_folder();
    let workers = Worker::usual(&mount, 1);
    busy_job(&mount, "a");
    mount.build("a", "", "success");
    let dir = mount.out().join("saved");
    backup(&mount, &dir);
    mount.build("a", "", "success");
    fs::remove_file(mount.own_folder().join("log")).expect("it logs");
    process::signal(mount.daemon(), Signal::SIGHUP);
    let child = begin_and_stop(&mount, &dir);
    drop(workers);
    mount.kill9();
    process::signal(Pid::from_raw(child.id().cast_signed()), Signal::SIGCONT);
    let (done, text) = said(&child.wait_with_output().expect("it ends"));
    assert!(done || text.contains("the former backup in"), "{text}");
    assert_whole(&dir);
    mount.mount();
    backup(&mount, &dir);
    assert_whole(&dir);
    let again = restored(&mount, &dir);
    assert_eq!(builds(&again, "a"), [1, 2]);
}

/// Where a backup may be made, and where not.
#[test]
fn a_folder_that_is_something_else_is_refused() {
    let mount = Mount::of_folder();
    let source = mount.repository().source().to_owned();
    let refused = |dir: &Path, word: &str| {
        let (done, said) = run(&["backup", &source, text(dir)]);
        assert!(!done && said.contains(word), "{}: {said}", dir.display());
    };
    let out = mount.out();
    let (target, link) = (out.join("target"), out.join("link"));
    fs::create_dir(&target).expect("own folder");
    symlink(&target, &link).expect("own folder");
    refused(&link, "symbolic link");
    assert!(fs::read_dir(&target).expect("a folder").next().is_none());
    fs::write(target.join("precious"), "data").expect("own folder");
    refused(&target, "holds other files (precious)");
    refused(&target.join("precious"), "no folder");
    refused(&out.join("no/such"), "No such file");
    refused(&Path::new(&source).join("inside"), "inside the other");
    refused(Path::new(&source), "inside the other");
    if nix::unistd::geteuid().is_root() {
        let foreign = out.join("foreign");
        fs::create_dir(&foreign).expect("own folder");
        nix::unistd::chown(&foreign, Some(54321.into()), None).expect("root may");
        refused(&foreign, "belongs to user 54321");
    }
    // Another source's, and what is a backup is no source.
    let dir = out.join("saved");
    backup(&mount, &dir);
    let other = Mount::of_folder();
    let (done, said) = run(&["backup", other.repository().source(), text(&dir)]);
    assert!(!done && said.contains("is the backup of another source"), "{said}");
    assert_whole(&dir);
    for words in [["gc", text(&dir)], ["mount", text(&dir)]] {
        let mut line = words.to_vec();
        let place = out.join("target2");
        fs::create_dir_all(&place).expect("own folder");
        if words[0] == "mount" {
            line.push(text(&place));
        }
        let (done, said) = run(&line);
        assert!(!done && said.contains("is a backup; restore it elsewhere"), "{said}");
    }
    // Into what is there nothing is restored.
    let (done, said) = run(&["restore", text(&dir), &source]);
    assert!(!done && said.contains("holds a store or a backup already"), "{said}");
    let (done, said) = run(&["restore", text(&target), text(&out.join("new"))]);
    assert!(!done && said.contains("holds no finished backup"), "{said}");
}

/// A small file system of its own.
struct Small(PathBuf);

impl Small {
    fn new(at: PathBuf, size: &str) -> Option<Small> {
        fs::create_dir(&at).expect("own folder");
        let options = format!("size={size},mode=700");
        let made = mount(
            Some("small"),
            &at,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(options.as_str()),
        );
        made.is_ok().then_some(Small(at))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// A full DIR is named, and leaves the former backup.
#[test]
fn a_full_folder_leaves_the_former_backup() {
    let mount = Mount::of_folder();
    let _workers = Worker::usual(&mount, 1);
    busy_job(&mount, "a");
    mount.build("a", "", "success");
    let Some(small) = Small::new(mount.out().join("small"), "6m") else {
        return;
    };
    let dir = small.0.join("saved");
    backup(&mount, &dir);
    mount.shell_job(
        "large",
        &["dd if=/dev/urandom of=../artifacts/large bs=1M count=8 status=none"],
    );
    mount.build("large", "", "success");
    let (done, text) = run(&["backup", mount.repository().source(), self::text(&dir)]);
    assert!(
        !done && text.contains("No space left") && text.contains("the former backup in"),
        "{text}"
    );
    assert_whole(&dir);
    mount.run("rm -r jobs/large; rm jobs/.trash/*");
    backup(&mount, &dir);
    let again = restored(&mount, &dir);
    assert_build(&again, "a", 1);
    assert!(!again.has("jobs/large"));
}

/// What is damaged in a backup is named by fsck and by restore, and the rest is restored.
#[test]
fn damage_is_named_and_the_rest_restored() {
    let mount = Mount::of_folder();
    let _workers = Worker::usual(&mount, 1);
    busy_job(&mount, "a");
    mount.build("a", "", "success");
    mount.shell_job("b", &["echo only here > ../artifacts/b"]);
    mount.build("b", "", "success");
    let dir = mount.out().join("saved");
    let (done, text) = run(&["backup", "--copy", mount.repository().source(), self::text(&dir)]);
    assert!(done, "{text}");
    let mut broken = 0;
    for folder in fs::read_dir(dir.join("objects/tree")).expect("a store") {
        for file in fs::read_dir(folder.expect("a folder").path()).expect("a folder") {
            let path = file.expect("a file").path();
            let bytes = fs::read(&path).expect("root may");
            if bytes.windows(9).any(|part| part == b"only here") {
                fs::remove_file(&path).expect("own folder");
                fs::write(&path, vec![0; bytes.len()]).expect("own folder");
                broken += 1;
            }
        }
    }
    assert_eq!(broken, 1);
    let (good, text) = run(&["fsck", self::text(&dir)]);
    assert!(
        !good && text.contains("artifacts of task 0 of jobs/b/builds/1"),
        "{text}"
    );
    let place = mount.out().join("restored");
    let (good, text) = run(&["restore", self::text(&dir), self::text(&place)]);
    assert!(
        !good && text.contains("artifacts of task 0 of jobs/b/builds/1"),
        "{text}"
    );
    let again = Mount::of(&Repository::in_folder(&place), "restored", Words::default(), TEST_LIMIT);
    assert_build(&again, "a", 1);
}
