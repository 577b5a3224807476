//! A team that renames and reorders its jobs.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use distcifs_tests::job::shell_task;
use distcifs_tests::programs::installed;
use distcifs_tests::wait::USUAL;
use distcifs_tests::{HELLO, Mount, Worker, errno, wait_for};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::unistd::getuid;
use serde_json::json;

const ALICE: u32 = 4001;
const MALLORY: u32 = 4002;
/// A group of others.
const TEAM: u32 = 4100;

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
    let mut events = mount.listen();
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
    // "The change time of the job's folder is that of the rename."
    let (made, renamed) = ((now.mtime(), now.mtime_nsec()), (now.ctime(), now.ctime_nsec()));
    assert!(renamed > made, "{renamed:?} {made:?}");
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
    assert_eq!(rename(&mount, "jobs/a", "jobs/other/a", plain), libc::EPERM);
    let said = mount.sh("mv jobs/a jobs/other").stderr;
    assert!(said.contains("Operation not permitted"), "{said}");
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

/// "A folder with the set-group-id bit gives its group to what is made in it … A job and a queue have the bit
/// themselves then": as a plain folder beside the mount, where the same is done.
#[test]
fn a_folder_gives_its_group_to_what_is_made_in_it() {
    if !getuid().is_root() || !installed("setpriv") {
        return;
    }
    let mount = Mount::new();
    let plain = mount.out().join("plain");
    fs::create_dir_all(plain.join("jobs")).expect("own folder");
    fs::create_dir(plain.join("tickets")).expect("own folder");
    let script = format!(
        "cd \"$0\"; as='setpriv --reuid {ALICE} --regid {ALICE} --clear-groups'
         chgrp {TEAM} jobs tickets; chmod 2777 jobs tickets
         $as sh -c 'umask 002; mkdir jobs/s tickets/s; touch jobs/s/scratch; ln -s scratch jobs/s/link; umask 027; mkdir jobs/t'
         chmod g-s jobs tickets
         $as sh -c 'umask 022; mkdir jobs/u tickets/u; touch jobs/u/scratch'
         stat -c '%n %u %g %a' jobs/[stu] tickets/[su]
         stat -c '%n %u %g' jobs/s/scratch jobs/s/link jobs/u/scratch"
    );
    let done_in = |place: &Path| {
        let place = place.to_str().expect("a temporary path is text");
        let said = mount.start_words(&["dash", "-euc", &script, place]).finish();
        assert_eq!(said.stderr, "");
        said.stdout
    };
    let found = done_in(&mount.path(""));
    assert!(found.contains(&format!("jobs/s {ALICE} {TEAM} 2775\n")), "{found}");
    assert_eq!(found, done_in(&plain));
}

/// "Among tickets of equal priority the owners of the jobs take turns, whoever posted more": by order, as a
/// worker is given them. "A worker that writes `only:gpu` takes no ticket that does not need it."
#[test]
fn owners_take_turns() {
    if !getuid().is_root() || !installed("setpriv") {
        return;
    }
    let mount = Mount::new();
    mount.run("mkdir -m 777 tickets/q");
    for at in 0..20 {
        mount.post("q", &json!({ "id": format!("much{at:02}") }));
    }
    let (_first, id) = mount.ask("q", "").expect(".next");
    assert_eq!(id, "much00");
    by(
        &mount,
        ALICE,
        "for i in 1 2; do echo \"{ \\\"id\\\": \\\"little$i\\\" }\" > tickets/q/.post; done",
    );
    let mut held = Vec::new();
    let mut given = Vec::new();
    for _ in 0..4 {
        let (next, id) = mount.ask("q", "").expect(".next");
        held.push(next);
        given.push(id);
    }
    assert_eq!(given, ["little1", "much01", "little2", "much02"]);
    mount.post("q", &json!({ "id": "special", "labels": ["gpu"] }));
    let (_gpu, id) = mount.ask("q", "linux only:gpu").expect(".next");
    assert_eq!(id, "special");
    let refused = mount.sh("exec 3<>tickets/q/.next; printf 'only:\\n' >&3");
    assert!(!refused.ok(), "{refused:#?}");
}

/// "`priority`: the higher go first." "Only the owner of `jobs`, or root, raises it above 0; what he raised,
/// others may leave or lower." "`why` says in numbers what comes before it."
#[test]
fn a_priority_is_raised_by_the_owner_of_jobs_alone() {
    if !getuid().is_root() || !installed("setpriv") {
        return;
    }
    let mount = Mount::new();
    mount.run("chmod 1777 jobs; mkdir -m 777 tickets/q");
    let config = |priority: i32| format!("{{ \"priority\": {priority},\n \"tasks\": [ {{ \"type\": \"q\" }} ] }}");
    let write = |priority: i32| {
        fs::write(mount.out().join("config"), config(priority)).expect("own folder");
        by(&mount, ALICE, "cp \"$OUT/config\" jobs/a/config.json")
    };
    by(&mount, ALICE, "mkdir -m 755 jobs/a");
    assert!(write(1).contains("Invalid argument"));
    let why = mount.read("jobs/a/config.error");
    assert!(
        why.starts_with("config.json:1:15: priority: only the owner of jobs (user 0)"),
        "{why}"
    );
    assert_eq!(write(-10), "");
    assert!(write(11).contains("Invalid argument"), "it is from -10 to 10");
    mount.configure("a", &config(5));
    assert_eq!(write(5), "", "what was raised may stay");
    assert!(write(6).contains("Invalid argument"));
    mount.job("b", &config(0));
    let _control = Worker::start(&mount, "build-control", &[]);
    for (job, n) in [("b", 1), ("b", 2), ("a", 1)] {
        assert_eq!(mount.trigger(job, ""), n);
        let ticket = format!("tickets/q/{job}.{n}.0");
        wait_for("its task", USUAL, || mount.has(&ticket));
    }
    let ahead = "; tickets before it: 1 of a higher priority, 1 older of the same owner";
    wait_for("what comes before it", USUAL, || mount.why("b", 2).ends_with(ahead));
    // "`why` of a build whose ticket waits, and of the task".
    let task = mount.read("jobs/b/builds/2/tasks/0-q/why");
    assert!(task.trim_end().ends_with(ahead), "{task}");
    for expected in ["a.1.0", "b.1.0", "b.2.0"] {
        let (_next, id) = mount.ask("q", "").expect(".next");
        assert_eq!(id, expected);
        mount.result("q", &id, "success").expect("a result");
    }
}

/// "Tokens of different users never meet."
#[test]
fn equal_tokens_of_two_users_are_two() {
    if !getuid().is_root() || !installed("setpriv") {
        return;
    }
    let mount = Mount::new();
    mount.job("a", HELLO);
    mount.run("chmod 666 jobs/a/trigger");
    let trigger = "exec 3<>jobs/a/trigger; echo @key=nightly >&3; read -r n <&3; echo $n";
    let numbers = [MALLORY, ALICE, ALICE, MALLORY].map(|user| by(&mount, user, trigger));
    assert_eq!(numbers, ["1", "2", "2", "1"]);
    assert_eq!(mount.trigger("a", "@key=nightly"), 3, "root's is another");
    mount.remount();
    assert_eq!(by(&mount, ALICE, trigger), "2");
}

/// "`cp -r jobs/a jobs/b` makes a job with the configuration of the old one and its switch": no more private, and
/// no less.
#[test]
fn a_job_is_copied_as_a_folder() {
    let mount = Mount::new();
    mount.job("a", HELLO);
    mount.run("chmod 640 jobs/a/config.json; echo off > jobs/a/enabled");
    for (copy, how) in [
        ("b", "/usr/bin/env cp -r"),
        ("c", "/usr/bin/env cp -a"),
        ("d", "busybox cp -r"),
    ] {
        if !installed(how.split(' ').next().unwrap()) {
            continue;
        }
        let copied = mount.sh(&format!("{how} jobs/a jobs/{copy}"));
        assert!(!copied.ok(), "{how}: a trigger and a history are not copied");
        let complaints: Vec<&str> = copied.stderr.lines().collect();
        assert!(
            complaints
                .iter()
                .all(|line| line.contains("trigger") || line.contains("builds")),
            "{how}: {complaints:?}"
        );
        assert_eq!(
            mount.read(&format!("jobs/{copy}/config.json")),
            HELLO.trim_end(),
            "{how}"
        );
        let said = mount.run(&format!(
            "cat jobs/{copy}/enabled; stat -c %a jobs/{copy}/config.json; ls jobs/{copy}/builds; \
            echo on > jobs/{copy}/enabled"
        ));
        assert_eq!(said, "off\n640", "{how}");
        assert_eq!(mount.trigger(copy, ""), 1);
    }
    // Whoever else looks sees what is there, and who has written the configuration does too.
    let looks = "import os, subprocess
os.mkdir('jobs/e')
assert subprocess.run(['cat', 'jobs/e/enabled'], capture_output=True).stdout == b'on\\n'
open('jobs/e/config.json', 'w').write('{\"tasks\": []}')
assert open('jobs/e/enabled').read() == 'on\\n'
os.open('jobs/e/trigger', os.O_RDWR)";
    if installed("python3") {
        fs::write(mount.out().join("looks.py"), looks).expect("own folder");
        mount.run("python3 $OUT/looks.py");
    }
}

/// "`tar x` of a job ends with 2 and names what exists"; config.json and the switch are in force in whatever order
/// they come, onto a job that is there as well.
#[test]
fn a_job_is_unpacked_by_tar() {
    if !installed("tar") {
        return;
    }
    let mount = Mount::new();
    for job in ["a", "b"] {
        mount.job(job, HELLO);
        mount.run(&format!("echo off > jobs/{job}/enabled"));
    }
    // One has a build, which is unfinished as nobody works here.
    mount.run("echo on > jobs/b/enabled");
    mount.trigger("b", "");
    mount.run("mkdir tickets/q");
    mount.post("q", &json!({"id": "t"}));
    let unpack = |archive: &str, what: &str| {
        // What it asserts is that tar ends: the time is far more than that takes.
        let tar = mount.sh(&format!("LC_ALL=C timeout 50 tar xf $OUT/{archive}.tar -C {what}"));
        let code = tar.status.and_then(|status| status.code());
        assert_eq!(code, Some(2), "{archive}: {}", tar.stderr);
        tar.stderr
    };
    mount.run("tar cf $OUT/a.tar -C jobs a; tar cf $OUT/b.tar -C jobs b || :; tar cf $OUT/q.tar -C tickets q || :");
    mount.run("cd jobs; tar cf $OUT/reverse.tar --no-recursion a a/trigger a/builds a/enabled a/config.json");
    for archive in ["a", "reverse"] {
        mount.run("rm -r jobs/a");
        let complaints = unpack(archive, "jobs");
        let first = complaints.lines().next().unwrap_or_default();
        assert!(
            first.contains("a/trigger") && first.contains("File exists"),
            "{complaints}"
        );
        assert_eq!(mount.read("jobs/a/config.json"), HELLO, "{archive}");
        assert_eq!(mount.read("jobs/a/enabled"), "off", "{archive}");
    }
    mount.run("echo '{\"tasks\":[]}' > jobs/a/config.json; echo on > jobs/a/enabled");
    unpack("a", "jobs");
    assert_eq!(mount.read("jobs/a/config.json"), HELLO);
    assert_eq!(mount.read("jobs/a/enabled"), "off");
    let complaints = unpack("b", "jobs");
    assert!(
        complaints.contains("b/builds/1/state: Cannot open: File exists"),
        "{complaints}"
    );
    let complaints = unpack("q", "tickets");
    assert!(
        complaints.contains("q/t/ticket.json: Cannot open: File exists"),
        "{complaints}"
    );
    // Whoever walks on to the folder is told that all is removed, and it is.
    mount.run("rm -r jobs/a; cp -r jobs/b jobs/a || :; find jobs/a -depth -delete; [ ! -e jobs/a ]");
    if installed("python3") {
        let again = "import errno, os, shutil
os.mkdir('jobs/c')
os.unlink('jobs/c/trigger')
try:
    os.unlink('jobs/c/trigger')
    raise SystemExit('told twice')
except OSError as refused:
    assert refused.errno == errno.EBUSY
os.rmdir('jobs/c')
os.mkdir('jobs/c')
with open('jobs/c/config.json', 'w') as config:
    config.write('{\"tasks\": []}')
shutil.rmtree('jobs/c')
assert not os.path.exists('jobs/c')";
        fs::write(mount.out().join("again.py"), again).expect("own folder");
        mount.run("python3 $OUT/again.py");
    }
}

/// "A group is shared by all builds of one owner's jobs that name it. A task may have one of its own: only that task
/// waits, as a deployment does."
#[test]
fn deployments_of_two_jobs_run_one_after_another() {
    let mount = Mount::new();
    let _controls: Vec<Worker> = (0..3).map(|_| Worker::start(&mount, "build-control", &[])).collect();
    let _shells: Vec<Worker> = (0..3).map(|_| Worker::start(&mount, "execute-shell", &[])).collect();
    let out = mount.out().display().to_string();
    let mut deploy = shell_task(&format!("mkdir '{out}/alone'; sleep 0.2; rmdir '{out}/alone'"));
    deploy["concurrency"] = json!({"group": "deploy-${where}"});
    let config = json!({"parameters": {"where": "test"}, "tasks": [shell_task("true\n"), deploy]});
    for job in ["site", "api"] {
        mount.job(job, &config.to_string());
    }
    let builds = ["site", "api", "site", "api"].map(|job| (job, mount.trigger(job, "")));
    for (job, build) in builds {
        assert_eq!(mount.wait_state(job, build), "success", "{}", mount.console(job, build));
    }
}

/// "With `supersede` `running` a newer build of the job ends those that wait, and those that run too. What runs is
/// aborted as by `abort`, so its clean-up runs and holds the place."
#[test]
fn a_newer_push_makes_an_end_of_older_ones() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 2);
    let out = mount.out().display().to_string();
    let mut clean = shell_task(&format!("echo \"$BUILD_NUMBER\" >> '{out}/cleaned'"));
    clean["always"] = json!(true);
    let script = "echo begun; [ \"$PARAM_wait\" = no ] || exec sleep 60";
    let config = json!({
        "parameters": {"ref": "main", "wait": "yes"},
        "concurrency": {"group": "push-${ref}", "supersede": "running"},
        "tasks": [shell_task(script), clean],
    });
    mount.job("push", &config.to_string());
    let first = mount.trigger("push", "");
    wait_for("the script", USUAL, || mount.console("push", first).contains("begun"));
    let other = mount.trigger("push", "ref=other\nwait=no");
    let [second, third] = ["", "wait=no"].map(|body| mount.trigger("push", body));
    for (build, state) in [
        (first, "aborted"),
        (second, "aborted"),
        (third, "success"),
        (other, "success"),
    ] {
        assert_eq!(
            mount.wait_state("push", build),
            state,
            "{build}: {}",
            mount.console("push", build)
        );
    }
    assert!(mount.why("push", first).starts_with("superseded by build "));
    assert_eq!(mount.why("push", second), format!("superseded by build {third}"));
    let cleaned = fs::read_to_string(mount.out().join("cleaned")).expect("the scripts wrote it");
    assert!(cleaned.lines().any(|line| line == first.to_string()), "{cleaned}");
    let by = mount.read(&format!("jobs/push/builds/{second}/by"));
    assert!(by.lines().any(|line| line.starts_with("superseded ")), "{by}");
}
