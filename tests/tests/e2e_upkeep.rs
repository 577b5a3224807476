//! gc and fsck of a folder that is mounted and builds: what nothing needs goes, nothing else does,
//! and nobody but root and the mount's user may ask for it.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use distcifs_tests::job::shell_task;
use distcifs_tests::process;
use distcifs_tests::wait::USUAL;
use distcifs_tests::{Mount, Worker, programs, wait_for};
use nix::sys::signal::Signal;
use serde_json::json;

/// Builds that pruning leaves.
const KEPT: usize = 3;

/// A command on a mount's source.
fn command(mount: &Mount, words: &[&str]) -> Command {
    let mut command = Command::new(programs::distcifs());
    command.args(words).arg(mount.repository().source());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(mount: &Mount, words: &[&str]) -> (bool, String) {
    said(&command(mount, words).output().expect("distcifs runs"))
}

fn said(output: &Output) -> (bool, String) {
    let text = [&output.stdout[..], &output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// Chunks and folders in the store.
fn blobs(mount: &Mount) -> usize {
    let count = |kind| {
        let folders = fs::read_dir(mount.own_folder().join("objects").join(kind)).expect("a store");
        let inside = |folder: fs::DirEntry| fs::read_dir(folder.path()).expect("a folder").count();
        folders.map(|folder| inside(folder.expect("a folder"))).sum::<usize>()
    };
    count("chunk") + count("tree")
}

/// A job whose builds publish a file of their own and one that all have.
fn busy_job(mount: &Mount, name: &str) {
    let script = "seq $BUILD_NUMBER 20000 > ../artifacts/own; seq 30000 > ../artifacts/all; echo $BUILD_NUMBER > kept";
    let config =
        json!({ "tasks": [shell_task(script), shell_task("cp kept ../artifacts/seen")], "keep": { "builds": KEPT } });
    mount.job(name, &config.to_string());
}

fn assert_whole(mount: &Mount, name: &str, build: u64) {
    let lines = |from: u64, to: u64| (from..=to).map(|n| format!("{n}\n")).collect::<String>();
    let folder = format!("jobs/{name}/builds/{build}");
    assert!(mount.read(&format!("{folder}/artifacts/own")) == lines(build, 20_000).trim_end());
    assert!(mount.read(&format!("{folder}/artifacts/all")) == lines(1, 30_000).trim_end());
    assert_eq!(mount.read(&format!("{folder}/artifacts/seen")), build.to_string());
}

/// Makes garbage: a build's artifacts, whose job goes for good.
fn litter(mount: &Mount, files: u32) {
    let script = format!("for i in $(seq {files}); do echo \"litter $i $(seq 800)\" > ../artifacts/$i; done");
    mount.shell_job("litter", &[&script]);
    mount.build("litter", "", "success");
    mount.run("rm -r jobs/litter; rm jobs/.trash/*");
}

/// doc/storage.md: "Folder or cluster, builds go on. ... then it removes what neither reading needs and nobody
/// has put since."
#[test]
fn builds_go_on_while_gc_of_a_folder_runs_in_a_loop() {
    let mount = Mount::of_folder();
    let _workers = Worker::usual(&mount, 2);
    litter(&mount, 40);
    let littered = blobs(&mount);
    let over = AtomicBool::new(false);
    let mut runs = 0;
    std::thread::scope(|threads| {
        for name in ["a", "b"] {
            busy_job(&mount, name);
        }
        let builders: Vec<_> = ["a", "b"]
            .map(|name| {
                let mount = &mount;
                threads.spawn(move || {
                    for _ in 0..6 {
                        let build = mount.build(name, "", "success");
                        assert_whole(mount, name, build);
                    }
                })
            })
            .into();
        let collector = threads.spawn(|| {
            let mut runs = 0;
            while !over.load(Ordering::SeqCst) || runs == 0 {
                let (done, text) = run(&mount, &["gc"]);
                assert!(done && text.contains("freed "), "{text}");
                runs += 1;
            }
            runs
        });
        let ended: Vec<_> = builders.into_iter().map(|builder| builder.join()).collect();
        over.store(true, Ordering::SeqCst);
        runs = collector.join().expect("gc succeeds each time");
        assert!(ended.iter().all(Result::is_ok), "a builder failed, see above");
    });
    assert!(runs >= 2, "gc ran {runs} times");
    let (done, text) = run(&mount, &["gc"]);
    assert!(done, "{text}");
    assert!(blobs(&mount) + 40 <= littered + 10 * KEPT, "the litter is still there");
    // Beside the mount, and without it, everything is whole.
    let (good, text) = run(&mount, &["fsck"]);
    assert!(good && text.contains("nothing is wrong\n"), "{text}");
    let builds = |name: &str| mount.list(&format!("jobs/{name}/builds"));
    for name in ["a", "b"] {
        let builds: Vec<u64> = builds(name).iter().filter_map(|n| n.parse().ok()).collect();
        assert_eq!(builds.len(), KEPT, "{builds:?}");
        builds.into_iter().for_each(|build| assert_whole(&mount, name, build));
    }
    drop(_workers);
    mount.unmount();
    let (good, text) = run(&mount, &["fsck"]);
    assert!(good && text.contains("nothing is wrong\n"), "{text}");
}

/// doc/tree.md: `needs/` shows stored snapshots. Those that a task waits to read are no garbage.
#[test]
fn gc_leaves_what_a_waiting_task_needs() {
    let mount = Mount::of_folder();
    let _workers = Worker::usual(&mount, 1);
    mount.queue("q");
    let mut first = shell_task("seq 20000 > ../artifacts/all");
    first["name"] = json!("first");
    mount.job_of("a", &[first, json!({"type": "q", "name": "use", "params": {}})]);
    let build = mount.trigger("a", "");
    let id = format!("a.{build}.1");
    wait_for("the ticket", USUAL, || mount.has(&format!("tickets/q/{id}")));
    litter(&mount, 5);
    let (done, text) = run(&mount, &["gc"]);
    assert!(done, "{text}");
    let found = mount.read(&format!("tickets/q/{id}/needs/first/all"));
    assert_eq!(found.lines().count(), 20_000);
    mount.finish("q", &id, "success");
    assert_eq!(mount.wait_state("a", build), "success");
}

/// doc/decisions/012-gc-of-a-folder.md: "One gc at a time; the second says who runs the first".
#[test]
fn a_second_gc_says_that_one_runs_and_what_waits_is_told() {
    let mount = Mount::of_folder();
    process::signal(mount.daemon(), Signal::SIGSTOP);
    let mut waits = command(&mount, &["gc"]).spawn().expect("distcifs runs");
    std::thread::sleep(Duration::from_millis(300));
    assert!(
        waits.try_wait().expect("a child").is_none(),
        "a stopped daemon is waited for"
    );
    process::signal(mount.daemon(), Signal::SIGCONT);
    let (done, text) = said(&waits.wait_with_output().expect("it ends"));
    assert!(done && text.starts_with("freed "), "{text}");
    // Many at once: all succeed or say that another runs.
    let all: Vec<_> = (0..6)
        .map(|_| command(&mount, &["gc"]).spawn().expect("distcifs runs"))
        .collect();
    let mut good = 0;
    for child in all {
        let (done, text) = said(&child.wait_with_output().expect("it ends"));
        assert!(done || text.contains("gc runs already (gc, process"), "{text}");
        good += usize::from(done);
    }
    assert!(good >= 1);
}

/// doc/deploy.md: "they ask the daemon, by a socket in SOURCE that only root and the user who
/// mounted may use".
#[test]
fn the_socket_is_for_root_and_the_mounts_user() {
    let mount = Mount::of_folder();
    let socket = mount.own_folder().join("socket");
    let found = fs::symlink_metadata(&socket).expect("a socket");
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o7777, 0o600);
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let as_other = |words: &[&str]| {
        let mut line = vec!["--reuid", "54321", "--regid", "54321", "--clear-groups"];
        let program = programs::distcifs();
        line.push(program.to_str().expect("text"));
        line.extend(words);
        let source = mount.repository().source();
        said(
            &Command::new("setpriv")
                .args(line)
                .arg(source)
                .output()
                .expect("setpriv runs"),
        )
    };
    // Whatever the modes of folder and socket have become.
    for open in [false, true] {
        if open {
            fs::set_permissions(mount.own_folder(), fs::Permissions::from_mode(0o777)).unwrap();
            fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
        }
        let (done, text) = as_other(&["gc"]);
        assert!(!done && text.contains("only root and the user who mounted"), "{text}");
    }
    let (done, text) = run(&mount, &["gc"]);
    assert!(done, "{text}");
}

/// A socket of a dead daemon is no trouble, neither for gc nor for the next mount; a stranger's is
/// not believed.
#[test]
fn what_a_dead_daemon_leaves_is_no_trouble() {
    let mount = Mount::of_folder();
    mount.kill9();
    let socket = mount.own_folder().join("socket");
    assert!(socket.exists(), "a killed daemon leaves it");
    let (done, text) = run(&mount, &["gc"]);
    assert!(done && text.starts_with("freed "), "{text}");
    mount.mount();
    let (done, text) = run(&mount, &["gc"]);
    assert!(done && text.starts_with("freed "), "{text}");
    // A client that says nothing, or something else, holds nobody up.
    let silent: Vec<_> = (0..4)
        .map(|_| std::os::unix::net::UnixStream::connect(&socket).expect("root may"))
        .collect();
    {
        use std::io::Write;
        for mut stream in &silent[..2] {
            stream.write_all(&vec![b'x'; 100_000]).ok();
        }
    }
    let (done, text) = run(&mount, &["gc"]);
    assert!(done, "{text}");
    drop(silent);
    mount.unmount();
    assert!(!socket.exists(), "an unmount takes it along");
    let (done, text) = run(&mount, &["gc"]);
    assert!(done, "{text}");
    // Somebody has the folder and answers to nothing: bounded, and named.
    let lock = fs::File::open(mount.own_folder().join("lock")).expect("a lock");
    let held = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusiveNonblock).expect("nobody has it");
    let begun = Instant::now();
    let (done, text) = run(&mount, &["gc"]);
    assert!(!done && text.contains("is in use by"), "{text}");
    assert!(begun.elapsed() < Duration::from_secs(15));
    drop(held);
    if nix::unistd::geteuid().is_root() {
        let trap = UnixListener::bind(&socket).expect("a socket");
        drop(trap);
        let (done, text) = run(&mount, &["gc"]);
        assert!(done, "nobody listens there: {text}");
    }
}

/// doc/decisions/012-gc-of-a-folder.md: "A source that was moved while it was mounted is refused".
#[test]
fn a_source_that_was_moved_is_named_and_nothing_is_removed() {
    let mount = Mount::of_folder();
    let (here, there) = (mount.own_folder(), mount.out().join("moved"));
    fs::rename(&here, &there).expect("the same file system");
    let output = Command::new(programs::distcifs()).arg("gc").arg(&there).output();
    let (done, text) = said(&output.expect("distcifs runs"));
    fs::rename(&there, &here).expect("back");
    assert!(!done && text.contains("has been moved since"), "{text}");
    let (done, text) = run(&mount, &["gc"]);
    assert!(done, "{text}");
}

/// gc that is killed, or whose daemon is, costs nothing.
#[test]
fn gc_beside_a_mount_may_be_killed_at_any_moment() {
    let mount = Mount::of_folder();
    let workers = Worker::usual(&mount, 1);
    busy_job(&mount, "a");
    let build = mount.build("a", "", "success");
    litter(&mount, 150);
    let before = blobs(&mount);
    for milliseconds in [20, 60, 150] {
        let mut killed = command(&mount, &["gc"]).spawn().expect("distcifs runs");
        std::thread::sleep(Duration::from_millis(milliseconds));
        killed.kill().expect("a child can be killed");
        let (_, text) = said(&killed.wait_with_output().expect("it ends"));
        assert!(
            text.is_empty() || text.contains("freed") || text.contains("runs already"),
            "{text}"
        );
    }
    drop(workers);
    let last = command(&mount, &["gc"]).spawn().expect("distcifs runs");
    mount.kill9();
    let (_, text) = said(&last.wait_with_output().expect("it ends"));
    assert!(
        text.contains("freed") || text.contains("ended meanwhile") || text.contains("runs already"),
        "{text}"
    );
    mount.mount();
    wait_for("gc to have its turn", Duration::from_secs(20), || {
        run(&mount, &["gc"]).0
    });
    assert!(blobs(&mount) + 100 <= before);
    assert_whole(&mount, "a", build);
    let (good, text) = run(&mount, &["fsck"]);
    assert!(good && text.contains("nothing is wrong\n"), "{text}");
}
