//! What is removed, who may do what, and what outlives the mount.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use distcifs_tests::programs::skipped;
use distcifs_tests::{HELLO, Mount, Worker, errno};
use serde_json::json;

/// Words that run a script as the user nobody.
const NOBODY: [&str; 6] = [
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "dash",
    "-euc",
];

fn as_nobody(mount: &Mount, script: &str) -> distcifs_tests::Output {
    let words: Vec<&str> = NOBODY.into_iter().chain([script]).collect();
    mount.start_words(&words).finish()
}

/// Only root can become somebody else.
fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        skipped("only root can try what another user may do");
    }
    root
}

/// "rmdir of a build, a job or a finished ticket removes the whole object … So that `rm -r` works,
/// unlinking and rmdir of what is generated inside succeed and change nothing."
#[test]
fn rm_r_removes_jobs_builds_and_tickets() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    mount.job("a", HELLO);
    mount.build("a", "", "success");
    mount.build("a", "", "success");
    mount.run("rm jobs/a/builds/1/state; cat jobs/a/builds/1/state; rm -r jobs/a/builds/1");
    assert_eq!(mount.list("jobs/a/builds"), ["2", "last-success", "latest"]);
    assert_eq!(errno(fs::metadata(mount.path("jobs/a/builds/1"))), libc::ENOENT);
    mount.run("rm -r jobs/a");
    assert_eq!(mount.list("jobs"), Vec::<String>::new());
    mount.queue("q");
    mount.post("q", &json!({"id": "t"}));
    mount.finish("q", "t", "0");
    mount.run("rmdir tickets/q/t; rmdir tickets/q");
    mount.job("a", HELLO);
    assert_eq!(
        mount.build("a", "", "success"),
        1,
        "a new job, though it has an old name"
    );
}

/// "everything is checked before anything goes (EBUSY while something of it runs)".
#[test]
fn what_runs_is_not_removed() {
    let mount = Mount::new();
    mount.job("a", HELLO);
    mount.trigger("a", "");
    let control = mount.claim("build-control", "a.1.control").expect("the claim");
    assert_eq!(errno(fs::remove_dir(mount.path("jobs/a/builds/1"))), libc::EBUSY);
    assert_eq!(errno(fs::remove_dir(mount.path("jobs/a"))), libc::EBUSY);
    assert!(!mount.sh("rm -r jobs/a").ok());
    assert_eq!(mount.read("jobs/a/config.json"), HELLO);
    mount
        .result("build-control", "a.1.control", "aborted")
        .expect("the result");
    drop(control);
    assert_eq!(mount.wait_state("a", 1), "aborted");
    mount.run("rm -r jobs/a");
}

/// "EROFS: writing to what is published or generated".
#[test]
fn generated_files_are_not_written() {
    let mount = Mount::new();
    mount.job("a", HELLO);
    mount.trigger("a", "");
    for name in [
        "state",
        "why",
        "cause",
        "event",
        "ref",
        "commit",
        "base",
        "build.json",
        "by",
        "config.json",
        "console",
        "params/x",
        "workspace/x",
        "artifacts/x",
    ] {
        let result = mount.write(&format!("jobs/a/builds/1/{name}"), "x");
        let errno = errno(result);
        assert!(
            [libc::EROFS, libc::EACCES, libc::EPERM].contains(&errno),
            "{name}: {errno}"
        );
    }
}

/// "write on config.json to configure, on trigger to start, … ; A new job belongs to whoever made
/// it." The mount of root is open to others.
#[test]
fn another_user_may_what_the_modes_say() {
    if !is_root() {
        return;
    }
    let mount = Mount::new();
    mount.job("a", HELLO);
    as_nobody(&mount, "cat jobs/a/config.json > /dev/null; ls tickets > /dev/null").expect_ok();
    assert!(!as_nobody(&mount, "echo > jobs/a/trigger").ok());
    assert!(!as_nobody(&mount, "echo '{\"tasks\":[]}' > jobs/a/config.json").ok());
    assert!(!as_nobody(&mount, "mkdir tickets/mine").ok() || mount.run("stat -c %U tickets/mine") == "nobody");
    mount.run("chmod 666 jobs/a/trigger");
    as_nobody(&mount, "echo > jobs/a/trigger").expect_ok();
    mount.run("chmod 700 jobs/a");
    assert!(!as_nobody(&mount, "ls jobs/a").ok());
    assert!(!as_nobody(&mount, "cat jobs/a/builds/1/state").ok());
    mount.run("chmod 755 jobs/a; chown nobody jobs/a");
    assert_eq!(mount.run("stat -c '%U %a' jobs/a"), "nobody 755");
    mount.remount();
    assert_eq!(mount.run("stat -c '%U %a' jobs/a"), "nobody 755");
}

/// "So that `rm -r` works": for the owner, who need not be root. An old configuration is as secret
/// as the one in force.
#[test]
fn an_owner_removes_a_build_with_all_in_it() {
    if !is_root() {
        return;
    }
    let mount = Mount::new();
    mount.job("a", HELLO);
    mount.trigger("a", "");
    mount.finish("build-control", "a.1.control", "aborted");
    mount.trigger("a", "");
    mount.finish("build-control", "a.2.control", "aborted");
    mount.run("chown nobody jobs/a; chmod 600 jobs/a/config.json; stat jobs/a/builds/2 > /dev/null");
    assert_eq!(mount.run("stat -c %a jobs/a/builds/1/config.json"), "400");
    as_nobody(&mount, "rm -r jobs/a/builds/1").expect_ok();
    assert!(!mount.has("jobs/a/builds/1") && mount.has("jobs/a/builds/2/state"));
    let made = as_nobody(&mount, "touch jobs/a/builds/2/tasks/x");
    assert!(!made.ok() && made.stderr.contains("Read-only"), "{made:?}");
    mount.run("chmod 1777 jobs");
    as_nobody(&mount, "rm -r jobs/a").expect_ok();
    assert!(!mount.has("jobs/a"));
}

/// "A folder in `workspace` and `artifacts` there shows `u+rwx` beside the mode that its task left it with. The next
/// task … [has] the mode as it was left": Go's module cache has no `w` on its folders.
#[test]
fn an_owner_removes_folders_that_a_task_left_shut() {
    if !is_root() {
        return;
    }
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    let make = "mkdir -p mod/x shut; echo 1 > mod/x/y; echo 2 > shut/f; chmod -R a-w mod; chmod 0 shut
        cp -rp mod shut \"$ARTIFACTS\"; chmod 555 .";
    let check = "[ \"$(stat -c %a mod/x shut mod/x/y | xargs)\" = '555 0 444' ]";
    mount.shell_job("a", &[make, check]);
    mount.build("a", "", "success");
    mount.build("a", "", "success");
    // "`chown -R`, `chgrp -R` and `chmod -R u+w` of a job go through."
    mount.run("chown -R 65534:65534 jobs/a; chgrp -R 65534 jobs/a; [ $(stat -c %u:%g jobs/a) = 65534:65534 ]");
    as_nobody(&mount, "chmod -R u+w jobs/a/builds/1; chmod -R g+w jobs/a").expect_ok();
    let more = as_nobody(&mount, "chmod a+x jobs/a/builds/1/workspace/mod/x/y");
    assert!(more.stderr.contains("Read-only"), "{more:?}");
    for folder in ["workspace/mod/x", "artifacts/mod/x", "workspace/shut", "artifacts/shut"] {
        let shown = mount.run(&format!("stat -c %a jobs/a/builds/1/{folder}"));
        assert_eq!(shown, if folder.ends_with('x') { "755" } else { "700" }, "{folder}");
    }
    as_nobody(&mount, "rm -r jobs/a/builds/1").expect_ok();
    assert!(!mount.has("jobs/a/builds/1"));
    mount.run("chmod 1777 jobs");
    as_nobody(&mount, "rm -r jobs/a").expect_ok();
    assert!(!mount.has("jobs/a"));
    // The same of a ticket that stands alone.
    mount.queue("q");
    mount.post("q", &json!({"id": "t"}));
    mount.run("chown 65534:65534 tickets/q");
    as_nobody(
        &mount,
        "cd tickets/q/t; echo $$ > claim; mkdir -p workspace/mod; echo x > workspace/mod/x; chmod 555 workspace/mod; echo 0 > result",
    )
    .expect_ok();
    as_nobody(&mount, "rm -r tickets/q/t").expect_ok();
    assert!(!mount.has("tickets/q/t"));
}

/// "write and search on a queue's folder to claim from it. Ticket folders take the queue's owner
/// and mode, with the sticky bit."
#[test]
fn a_queue_is_open_to_whom_its_mode_lets_in() {
    if !is_root() {
        return;
    }
    let mount = Mount::new();
    mount.queue("q");
    mount.post("q", &json!({"id": "t"}));
    assert!(!as_nobody(&mount, "exec 9>tickets/q/t/claim").ok());
    mount.run("chmod 777 tickets/q; [ -k tickets/q/t ]");
    as_nobody(
        &mount,
        "cd tickets/q/t; echo $$ > claim; echo x > workspace/x; echo y > artifacts/y; echo 0 > result",
    )
    .expect_ok();
    assert_eq!(mount.read("tickets/q/t/artifacts/y"), "y");
}

/// Promise 1: what returned success is durable, over an unmount and over the daemon's death.
#[test]
fn everything_is_there_after_a_remount() {
    let mount = Mount::new();
    let workers = Worker::usual(&mount, 1);
    mount.shell_job("a", &["echo said; echo made > file; chmod 751 file"]);
    mount.build("a", "", "success");
    drop(workers);
    mount.trigger("a", "");
    mount.queue("q");
    mount.post("q", &json!({"id": "t", "params": {"p": "v"}}));
    let seen = |mount: &Mount| {
        mount.run("find jobs tickets \\( -name console -o -name ctl -o -name trigger \\) -prune -o -printf '%p %y %m %s %l\\n' | sort; cat jobs/a/builds/1/build.json jobs/a/builds/*/state jobs/a/builds/1/console")
    };
    let before = seen(&mount);
    mount.remount();
    assert_eq!(seen(&mount), before);
    mount.kill9();
    mount.mount();
    assert_eq!(seen(&mount), before);
    let _workers = Worker::usual(&mount, 1);
    assert_eq!(mount.wait_state("a", 2), "success");
}

/// "When the daemon dies: the mount point answers ENOTCONN. `distcifs mount` and `umount` detach
/// such a mount first"; a worker ends, whatever it held is open again.
#[test]
fn the_daemons_death() {
    let mount = Mount::new();
    mount.queue("q");
    mount.post("q", &json!({"id": "t"}));
    let claim = mount.claim("q", "t").expect("the claim");
    let inside = mount.start("cd tickets/q; sleep 60");
    let worker = Worker::start(&mount, "execute-shell", &[]);
    std::thread::sleep(std::time::Duration::from_millis(500));
    mount.kill9();
    assert_eq!(errno(fs::read_dir(mount.path("jobs"))), libc::ENOTCONN);
    distcifs_tests::wait_for("the worker to end", distcifs_tests::wait::USUAL, || !worker.alive());
    mount.mount();
    assert!(!mount.has("tickets/q/t/claim"), "open again");
    drop((claim, inside));
    drop(mount.claim("q", "t").expect("claimed anew"));
    mount.kill9();
    mount.unmount();
    assert!(!mount.is_mounted());
}

/// "The embedded store takes one mount at a time (a second gets a clear error)."
#[test]
fn a_second_mount_of_the_same_store_is_refused() {
    let mount = Mount::of_folder();
    let second = mount.out().join("second");
    fs::create_dir(&second).expect("own folder");
    let source = mount.repository().source().to_owned();
    let said = mount
        .start_words(&[
            "timeout",
            "10",
            "distcifs",
            "mount",
            &source,
            &second.display().to_string(),
        ])
        .finish();
    assert!(
        !said.ok() && said.status.and_then(|status| status.code()) != Some(124),
        "{said:?}"
    );
    let words = format!("{}{}", said.stdout, said.stderr);
    assert!(words.contains(&source), "it names the store: {words}");
    assert_eq!(mount.list("jobs"), Vec::<String>::new(), "the first is unharmed");
}

/// Users are outside: nothing of the store can be read or changed by another user, whatever the mode
/// of the folder that it was made in.
#[test]
fn the_store_is_shut() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    mount.shell_job("a", &["echo secret > file"]);
    mount.build("a", "", "success");
    let open = |path: &std::path::Path| {
        let mode = fs::metadata(path).expect("own store").permissions().mode();
        mode & 0o007 != 0
    };
    for entry in fs::read_dir(mount.own_folder()).expect("own store") {
        let path = entry.expect("own store").path();
        assert!(!open(&path), "{} is open to anybody", path.display());
    }
}
