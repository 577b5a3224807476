//! The tree's shape, its names, and that walking all of it comes to an end.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use distcifs_tests::wait::USUAL;
use distcifs_tests::{Mount, Worker, errno, wait_for};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::Mode;
use serde_json::json;

/// "builds/<n>: state, why, by, build.json, config.json, params/, console, ctl, tasks/, workspace/,
/// artifacts/"; and its ticket: "ticket.json, params/, labels, attempt, build, console, result".
#[test]
fn a_build_and_its_ticket_have_what_the_page_draws() {
    let mount = Mount::new();
    mount.job("a", distcifs_tests::HELLO);
    assert_eq!(mount.trigger("a", ""), 1);
    let names = mount.list("jobs/a/builds/1");
    for name in [
        "artifacts",
        "base",
        "build.json",
        "by",
        "cause",
        "commit",
        "config.json",
        "console",
        "ctl",
        "event",
        "params",
        "plan.json",
        "ref",
        "state",
        "tasks",
        "why",
        "workspace",
    ] {
        assert!(names.iter().any(|n| n == name), "{name} is not in {names:?}");
    }
    assert_eq!(mount.state("a", 1), "pending");
    let build: serde_json::Value = serde_json::from_str(&mount.read("jobs/a/builds/1/build.json")).expect("JSON");
    assert!(build.is_object());
    assert_eq!(mount.list("tickets/build-control"), ["a.1.control"]);
    let ticket = mount.list("tickets/build-control/a.1.control");
    for name in ["attempt", "build", "labels", "params", "ticket.json"] {
        assert!(ticket.iter().any(|n| n == name), "{name} is not in {ticket:?}");
    }
    assert!(!ticket.iter().any(|n| n == "claim"), "absent until claimed");
    assert_eq!(mount.read("tickets/build-control/a.1.control/attempt"), "1");
    let link = mount.path("tickets/build-control/a.1.control/build");
    assert_eq!(fs::canonicalize(link).expect("a link"), mount.path("jobs/a/builds/1"));
}

/// "Jobs, queues, labels and parameters: [A-Za-z0-9_][A-Za-z0-9_.-]*, at most 128 bytes. Anything else is EINVAL
/// when it is made, and ENOENT when it is looked up. A name longer than NAME_MAX is ENAMETOOLONG."
#[test]
fn names_that_are_not_valid() {
    let mount = Mount::new();
    let long = [vec![b'a'; 129], vec![b'a'; 300]];
    let bad: [&[u8]; 8] = [
        b"-a",
        b".a",
        b"a b",
        b"a\nb",
        b"\xff\xfe",
        "é".as_bytes(),
        b"a:b",
        &long[0],
    ];
    for folder in ["jobs", "tickets"] {
        for name in bad {
            let path = mount.path(folder).join(OsStr::from_bytes(name));
            assert_eq!(errno(fs::create_dir(&path)), libc::EINVAL, "mkdir {}", path.display());
            assert_eq!(errno(fs::metadata(&path)), libc::ENOENT, "stat {}", path.display());
        }
        let path = mount.path(folder).join(OsStr::from_bytes(&long[1]));
        assert_eq!(errno(fs::create_dir(&path)), libc::ENAMETOOLONG);
        assert_eq!(errno(fs::metadata(&path)), libc::ENAMETOOLONG);
        let longest = format!("{folder}/{}", "a".repeat(128));
        fs::create_dir(mount.path(&longest)).expect("128 bytes are allowed");
        assert!(mount.has(&longest));
    }
    assert_eq!(
        errno(fs::create_dir(mount.path("jobs/.."))),
        libc::EEXIST,
        "the kernel's own answer"
    );
}

/// "The st_size of every listed readable file is exact"; so find, grep -r, tar and rsync over the
/// whole tree end and leave the same bytes.
#[test]
fn walking_the_whole_tree_ends_and_copies_the_same_bytes() {
    let mount = Mount::new();
    mount.job("a", distcifs_tests::HELLO);
    mount.trigger("a", "");
    mount.queue("lint");
    mount.post(
        "lint",
        &json!({"id": "t", "params": {"list": ["x", "y"], "one": "1"}, "labels": ["linux"]}),
    );
    let files = mount.run("find . -type f -size -100000k -readable | wc -l");
    assert!(files.parse::<u32>().expect("a number") > 15, "{files}");
    mount.run("grep -r nothing-has-this-word . > /dev/null || [ $? -eq 1 ]");
    // status and metrics count what goes on: they may differ between two reads, no other file may.
    let apart = "--exclude=status --exclude=metrics --exclude=nodes";
    mount.run(&format!("tar cf \"$OUT/all.tar\" {apart} ."));
    mount.run(&format!("tar df \"$OUT/all.tar\" {apart}"));
    mount.run(&format!(
        "rsync -a {apart} --exclude=trigger --exclude=ctl ./ \"$OUT/copy/\""
    ));
    mount.run("cmp jobs/a/config.json \"$OUT/copy/jobs/a/config.json\"; cmp tickets/lint/t/params/list \"$OUT/copy/tickets/lint/t/params/list\"");
    assert_eq!(mount.read("tickets/lint/t/params/list"), "x\ny");
}

/// Walks a folder, reads all files, and notes what a walk must not meet.
fn walk(folder: &Path, met: &Mutex<BTreeSet<String>>) -> BTreeSet<OsString> {
    let note = |what: &str, path: &Path, error: &std::io::Error| {
        if error.raw_os_error() != Some(libc::ENOENT) {
            let line = format!("{what} {}: {error}", path.display());
            met.lock().expect("no panic").insert(line);
        }
    };
    let mut names = BTreeSet::new();
    let listing = match fs::read_dir(folder) {
        Ok(listing) => listing,
        Err(error) => {
            note("opening", folder, &error);
            return names;
        }
    };
    for entry in listing {
        let path = match entry {
            Ok(entry) => entry.path(),
            Err(error) => {
                note("listing", folder, &error);
                break;
            }
        };
        if !names.insert(path.file_name().expect("a name").to_owned()) {
            note("twice", &path, &std::io::Error::other("it was listed before"));
        }
        let done = match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_dir() => {
                walk(&path, met);
                Ok(())
            }
            Ok(meta) if meta.is_symlink() => fs::read_link(&path).map(drop),
            Ok(meta) if meta.is_file() => fs::read(&path).map(drop),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            note("at", &path, &error);
        }
    }
    names
}

/// "What has vanished since its folder was listed is ENOENT, and there is no other error. No name stands twice
/// in a listing, and what is there all the while is in it": while builds begin, end and are removed, and claims
/// with their folders come and go.
#[test]
fn a_walk_meets_nothing_but_what_has_vanished() {
    let mount = Mount::new();
    let script = "mkdir -p d/e; for i in 1 2 3 4 5 6 7 8 9; do echo $i > d/e/$i; ln -s $i d/e/l$i; done; cp -r d \"$ARTIFACTS/\"";
    mount.shell_job("a", &[script, "rm -r d"]);
    mount.queue("q");
    let _workers = Worker::usual(&mount, 2);
    let hand = mount.start(
        "n=0; while ! [ -e \"$OUT/stop\" ]; do n=$((n + 1)); echo \"{\\\"id\\\": \\\"t$n\\\"}\" > tickets/q/.post
        dash -c \"cd tickets/q/t$n && echo \\$\\$ > claim && mkdir -p workspace/x/y artifacts/x && for i in 1 2 3 4 5 6 7 8 9; do
            echo > workspace/x/y/\\$i; done; if [ $((n % 2)) = 0 ]; then rm claim; else echo 0 > result; fi\"
        rmdir tickets/q/t$n; done",
    );
    let (met, over) = (Mutex::new(BTreeSet::new()), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let top = walk(Path::new(mount.root()), &met);
                    let jobs = walk(&mount.path("jobs"), &met);
                    if top.len() != 6 || !jobs.contains(OsStr::new("a")) {
                        met.lock()
                            .expect("no panic")
                            .insert(format!("not all of it: {top:?} {jobs:?}"));
                    }
                }
            });
        }
        let build = || {
            for n in 1..=12 {
                let build = mount.trigger("a", "");
                assert_eq!(mount.wait_state("a", build), "success");
                if n > 3 {
                    let removed = mount.path(&format!("jobs/a/builds/{}", n - 3));
                    wait_for("the removal of a build", USUAL, || fs::remove_dir(&removed).is_ok());
                }
            }
        };
        let built = std::panic::catch_unwind(std::panic::AssertUnwindSafe(build));
        over.store(true, Ordering::Relaxed);
        if let Err(panic) = built {
            std::panic::resume_unwind(panic);
        }
    });
    fs::write(mount.out().join("stop"), "").expect("own folder");
    hand.finish();
    assert_eq!(met.into_inner().expect("no panic"), BTreeSet::new());
}

/// The same for who goes by descriptors, as `grep -r`, `tar`, `find` and `rm` do; and "what is open answers fstat".
#[test]
fn who_walks_by_descriptors_meets_nothing_else() {
    let mount = Mount::new();
    mount.queue("q");
    for end in ["rm claim", "echo 0 > result"] {
        mount.post("q", &json!({"id": "t"}));
        let hand = mount.start(&format!(
            "cd tickets/q/t; echo $$ > claim; mkdir workspace/d; for i in 1 2 3 4; do echo x > workspace/d/$i; done
             touch $OUT/ready; until [ -e $OUT/go ]; do sleep 0.05; done; {end}; rm $OUT/go; until [ -e $OUT/stop ]; do sleep 0.05; done"
        ));
        let (ready, go) = (mount.out().join("ready"), mount.out().join("go"));
        wait_for("the claim", USUAL, || ready.exists());
        let folder = File::open(mount.path("tickets/q/t/workspace/d")).expect("it is there");
        let name = |name: &str| nix::fcntl::openat(&folder, name, OFlag::O_RDONLY, Mode::empty());
        let look = |name: &str| nix::sys::stat::fstatat(&folder, name, AtFlags::AT_SYMLINK_NOFOLLOW);
        for seen in ["1", "2", "3", "4"] {
            look(seen).expect("it is there");
        }
        let file = File::from(name("4").expect("it is there"));
        fs::write(&go, "").expect("own folder");
        wait_for("the end of the claim", USUAL, || !go.exists());
        let gone = Some(Errno::ENOENT);
        assert_eq!([name("1").err(), name("2").err(), look("3").err()], [gone; 3], "{end}");
        assert_eq!(file.metadata().expect("fstat of an open file").len(), 2);
        assert!(folder.metadata().expect("fstat of an open folder").is_dir());
        let listed = Dir::from_fd(folder.into()).map(|mut folder| folder.iter().find_map(Result::err));
        assert!(matches!(listed, Ok(None | Some(Errno::ENOENT))), "{end}: {listed:?}");
        fs::write(mount.out().join("stop"), "").expect("own folder");
        hand.finish();
        mount.run("rm $OUT/ready $OUT/stop; rm -r tickets/q/t");
    }
}

/// The same promise, file by file, through stat and read.
#[test]
fn sizes_are_exact() {
    let mount = Mount::new();
    mount.job("a", distcifs_tests::HELLO);
    mount.trigger("a", "");
    let listed = mount.run("find jobs tickets README -type f");
    for name in listed.lines() {
        let Ok(text) = fs::read(mount.path(name)) else {
            continue;
        };
        let size = fs::metadata(mount.path(name)).expect("it was listed").size();
        assert_eq!(size, text.len() as u64, "{name}");
    }
}

/// "In a job's folder any other name than the fixed ones is a scratch file: private to this mount,
/// gone at unmount."
#[test]
fn scratch_files_live_until_unmount() {
    let mount = Mount::new();
    mount.job("a", distcifs_tests::HELLO);
    mount.run("echo x > jobs/a/.swp; mv jobs/a/.swp jobs/a/note; ln -s who@host jobs/a/.#lock; cat jobs/a/note");
    assert_eq!(mount.read("jobs/a/note"), "x");
    assert_eq!(mount.run("readlink jobs/a/.#lock"), "who@host");
    mount.run("rm jobs/a/.#lock");
    mount.remount();
    assert!(!mount.has("jobs/a/note") && mount.has("jobs/a/config.json"));
}

/// ".events: one line for each change, from now on"; "within one second a read gives a line, or
/// an empty line for 'nothing yet'".
#[test]
fn events_tell_each_change() {
    let mount = Mount::new();
    let listener = mount.start("exec 3<.events; while read -r line <&3; do echo \"$line\"; done");
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert!(!listener.so_far().is_empty(), "an empty line within a second");
    mount.job("a", distcifs_tests::HELLO);
    let told = |line: &str| {
        let heard = || listener.so_far().lines().any(|seen| seen == line);
        distcifs_tests::wait_for(line, distcifs_tests::wait::USUAL, heard);
    };
    mount.trigger("a", "");
    // What follows at once may be all that is told of a ticket.
    told("build a/1 pending");
    let claim = mount.claim("build-control", "a.1.control").expect("it is open");
    told("ticket build-control/a.1.control claimed");
    mount
        .result("build-control", "a.1.control", "aborted")
        .expect("the claim holds");
    drop(claim);
    mount.run("rmdir jobs/a");
    let expected = [
        "job a created",
        "job a configured",
        "build a/1 pending",
        "ticket build-control/a.1.control open",
        "ticket build-control/a.1.control claimed",
        "ticket build-control/a.1.control finished",
        "build a/1 aborted",
        "job a removed",
    ];
    for line in expected {
        distcifs_tests::wait_for(
            &format!("the event {line:?} in\n{}", listener.so_far()),
            distcifs_tests::wait::USUAL,
            || listener.so_far().lines().any(|seen| seen == line),
        );
    }
}
