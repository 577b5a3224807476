//! A team that renames its jobs.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use distcifs_tests::programs::installed;
use distcifs_tests::wait::USUAL;
use distcifs_tests::{HELLO, Mount, Worker, errno, wait_for};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::unistd::getuid;

const ALICE: u32 = 4001;
const MALLORY: u32 = 4002;

/// What rename(2) says of two names below the mount.
fn rename(mount: &Mount, from: &str, to: &str, flags: RenameFlags) -> i32 {
    let (from, to) = (mount.path(from), mount.path(to));
    renameat2(AT_FDCWD, Path::new(&from), AT_FDCWD, Path::new(&to), flags).map_or_else(|errno| errno as i32, |()| 0)
}

/// What a user's script says, errors as well.
fn by(mount: &Mount, user: u32, script: &str) -> String {
    let id = user.to_string();
    let words = [
        "setpriv",
        "--reuid",
        &id,
        "--regid",
        &id,
        "--clear-groups",
        "dash",
        "-c",
        script,
    ];
    let said = mount.start_words(&words).finish();
    format!("{}{}", said.stdout, said.stderr)
}

/// "`mv jobs/a jobs/b` renames a job. All that it has goes along: its builds with their numbers, kept ones
/// too, the keys of its triggers, `enabled`, owner and modes." "Whoever stands in the folder, or has a file
/// of it open, goes on."
#[test]
fn a_renamed_job_is_the_same_job() {
    let mount = Mount::new();
    mount.job("a", HELLO);
    let workers = Worker::usual(&mount, 1);
    let n = mount.trigger("a", "@key=once");
    assert_eq!(mount.wait_state("a", n), "success");
    mount.run("echo keep > jobs/a/builds/1/ctl; chmod 750 jobs/a; chmod 640 jobs/a/config.json");
    let inode = fs::metadata(mount.path("jobs/a")).expect("the job").ino();
    let mut events = mount.start("exec cat .events");
    let mut console = File::open(mount.path("jobs/a/builds/1/console")).expect("a console");
    let said = mount.run(
        "cd jobs/a/builds; exec 3< ../config.json; mv ../../a ../../b
        cat 1/state; cat ../enabled; cat <&3 > /dev/null; echo > ../trigger; ls -d 2; cd -P ..; pwd -P | sed 's|.*/jobs|jobs|'",
    );
    assert_eq!(said, "success\non\n2\njobs/b");
    let said = std::io::read_to_string(&mut console).expect("a descriptor of before");
    assert!(said.contains("hello"), "{said}");
    assert_eq!(mount.wait_state("b", 2), "success");
    assert!(!mount.has("jobs/a"));
    assert_eq!(mount.list("jobs"), ["b"]);
    assert_eq!(mount.trigger("b", "@key=once"), 1, "the keys of its triggers go along");
    assert!(mount.read("jobs/b/builds/1/build.json").contains("\"keep\": true"));
    let now = fs::metadata(mount.path("jobs/b")).expect("the job");
    assert_eq!((now.ino(), now.mode() & 0o777), (inode, 0o750));
    wait_for("the event", USUAL, || events.so_far().contains("job a renamed b\n"));
    events.kill9();
    // A new job of the old name is another.
    mount.job("a", HELLO);
    assert_eq!(mount.build("a", "", "success"), 1);
    drop((workers, console));
    mount.remount();
    assert_eq!(mount.list("jobs"), ["a", "b"]);
    assert_eq!(mount.read("jobs/b/builds/2/state"), "success");
}

/// "EBUSY while a build of it is not finished", and the log says which; "EEXIST onto a job"; "two jobs can't
/// change places: EINVAL"; "a job can be moved nowhere else".
#[test]
fn what_a_rename_refuses() {
    let mount = Mount::new();
    mount.job("a", HELLO);
    mount.job("other", HELLO);
    let n = mount.trigger("a", "");
    let plain = RenameFlags::empty();
    assert_eq!(rename(&mount, "jobs/a", "jobs/b", plain), libc::EBUSY);
    wait_for("the reason", USUAL, || mount.log_tail().contains("build 1 is one"));
    mount.run(&format!("echo abort > jobs/a/builds/{n}/ctl"));
    assert_eq!(mount.wait_state("a", n), "aborted");
    for flags in [plain, RenameFlags::RENAME_NOREPLACE] {
        assert_eq!(rename(&mount, "jobs/a", "jobs/other", flags), libc::EEXIST);
    }
    assert_eq!(
        rename(&mount, "jobs/a", "jobs/other", RenameFlags::RENAME_EXCHANGE),
        libc::EINVAL
    );
    assert_eq!(
        rename(&mount, "jobs/a", "jobs/other/a", plain),
        libc::EEXIST,
        "what mv makes of it"
    );
    assert_eq!(rename(&mount, "jobs/a", "jobs/.b", plain), libc::EINVAL);
    assert_eq!(rename(&mount, "jobs/a", "tickets/a", plain), libc::EPERM);
    assert_eq!(rename(&mount, "jobs/a", "a", plain), libc::EPERM);
    assert_eq!(rename(&mount, "jobs/none", "jobs/b", plain), libc::ENOENT);
    assert_eq!(mount.list("jobs"), ["a", "other"]);
    assert_eq!(rename(&mount, "jobs/a", "jobs/b", RenameFlags::RENAME_NOREPLACE), 0);
    // A build upstream that names it by its former name says so.
    mount.job("up", r#"{ "downstream_jobs": ["a"], "tasks": [] }"#);
    let _workers = Worker::usual(&mount, 0);
    let n = mount.build("up", "", "success");
    let said = mount.console("up", n);
    assert!(
        said.contains("job a could not be triggered: there is no such job"),
        "{said}"
    );
    // By its new name it would trigger itself in a circle.
    mount.configure("b", r#"{ "downstream_jobs": ["c"], "tasks": [] }"#);
    assert_eq!(rename(&mount, "jobs/b", "jobs/c", plain), libc::EINVAL);
    wait_for("the reason", USUAL, || {
        mount.log_tail().contains("would trigger itself")
    });
}

/// "Renaming takes what rmdir and mkdir take": write on jobs/, and where that is sticky the job's own owner.
/// "`job_id` and `H` go by the name": texts are not changed, and what is stored stays readable.
#[test]
fn who_may_rename() {
    if !getuid().is_root() || !installed("setpriv") {
        return;
    }
    let mount = Mount::new();
    mount.run("chmod 1777 jobs");
    let config = r#"{ "job_id": "a", "cron": "H 3 H(29-31) 2 *", "tasks": [] }"#;
    fs::write(mount.out().join("config"), config.replace("H(29-31)", "29")).expect("own folder");
    let said = by(
        &mount,
        ALICE,
        "mkdir -m 755 jobs/a && cp \"$OUT/config\" jobs/a/config.json",
    );
    assert_eq!(said, "");
    let said = by(&mount, MALLORY, "mv jobs/a jobs/b");
    assert!(said.contains("not permitted"), "{said}");
    assert_eq!(
        by(
            &mount,
            ALICE,
            "mv jobs/a jobs/b && cat jobs/b/enabled && echo > jobs/b/trigger"
        ),
        "on"
    );
    assert_eq!(errno(mount.write("jobs/b/config.json", config)), libc::EINVAL);
    assert!(mount.read("jobs/b/config.error").contains("job_id is a"));
    mount.run("chmod 755 jobs");
    let said = by(&mount, ALICE, "mv jobs/b jobs/c");
    assert!(said.contains("Permission denied"), "{said}");
}
