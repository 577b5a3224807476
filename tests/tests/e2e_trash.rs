//! What somebody removed by mistake, and how it comes back.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use distcifs_tests::wait::USUAL;
use distcifs_tests::{HELLO, Mount, Worker, errno, programs, wait_for};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::unistd::getuid;
use serde_json::Value;

const ALICE: u32 = 4001;
const MALLORY: u32 = 4002;

/// How long a mount with options of its own may live.
const LIMIT: Duration = Duration::from_secs(300);

fn said(output: &Output) -> (Option<i32>, String) {
    let text = [&output.stdout[..], &output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

/// `distcifs trash` with these words, from a folder.
fn trash_from(folder: &Path, words: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(programs::distcifs());
    command.arg("trash").args(words).current_dir(folder);
    said(&command.output().expect("distcifs runs"))
}

fn trash(mount: &Mount, words: &[&str]) -> (Option<i32>, String) {
    trash_from(mount.root(), words)
}

/// Does it, and says what it printed.
fn done(mount: &Mount, words: &[&str]) -> String {
    let (code, text) = trash(mount, words);
    assert_eq!(code, Some(0), "{words:?}: {text}");
    text
}

/// Fails, and says why.
fn fails(mount: &Mount, words: &[&str], why: &str) {
    let (code, text) = trash(mount, words);
    assert!(code == Some(1) && text.contains(why), "{words:?}: {code:?} {text}");
}

fn upkeep(mount: &Mount, command: &str) -> String {
    let output = Command::new(programs::distcifs())
        .args([command, mount.repository().source()])
        .output()
        .expect("distcifs runs");
    let (code, text) = said(&output);
    assert_eq!(code, Some(0), "{text}");
    text
}

/// A job that publishes, built twice.
fn built(mount: &Mount, name: &str) -> Vec<Worker> {
    mount.shell_job(name, &["echo $BUILD_NUMBER | tee ../artifacts/number"]);
    let workers = Worker::usual(mount, 1);
    for n in [1, 2] {
        assert_eq!(mount.build(name, "", "success"), n);
    }
    workers
}

fn assert_built(mount: &Mount, name: &str, builds: &[u64]) {
    for n in builds {
        let folder = format!("jobs/{name}/builds/{n}");
        assert_eq!(mount.read(&format!("{folder}/state")), "success");
        assert_eq!(mount.read(&format!("{folder}/artifacts/number")), n.to_string());
        assert_eq!(mount.console(name, *n).trim(), n.to_string());
    }
}

/// doc/tree.md: "A build or a job that is removed moves to `jobs/.trash`"; "What comes back is what was
/// removed"; "A job brings its builds back that were removed in the last hour before it, as `rm -r` does."
#[test]
fn a_job_comes_back_with_its_builds() {
    let mount = Mount::new();
    let workers = built(&mount, "a");
    mount.run("echo keep > jobs/a/builds/1/ctl; chmod 750 jobs/a; chmod 640 jobs/a/config.json");
    let before = mount.read("jobs/a/config.json");
    mount.run("rm -r jobs/a");
    assert_eq!(mount.list("jobs"), [""; 0]);
    assert_eq!(errno(fs::metadata(mount.path("jobs/a"))), libc::ENOENT);
    let listed = done(&mount, &["list"]);
    assert!(
        listed.starts_with("a\t2 builds\tremoved 20") && listed.lines().count() == 1,
        "{listed}"
    );
    assert_eq!(done(&mount, &["restore", "a"]), "restored jobs/a with 2 builds\n");
    assert_eq!(mount.list("jobs"), ["a"]);
    assert_built(&mount, "a", &[1, 2]);
    assert_eq!(mount.read("jobs/a/config.json"), before);
    assert!(mount.read("jobs/a/builds/1/build.json").contains("\"keep\": true"));
    let mode = |path: &str| fs::metadata(mount.path(path)).expect("it is back").mode() & 0o777;
    assert_eq!((mode("jobs/a"), mode("jobs/a/config.json")), (0o750, 0o640));
    assert_eq!(mount.build("a", "", "success"), 3, "no number is used twice");
    assert_eq!(done(&mount, &["list"]), "");
    fails(&mount, &["restore", "a"], "the job is there");
    // It goes on over a restart.
    mount.run("rm -r jobs/a");
    drop(workers);
    mount.remount();
    assert_eq!(mount.list("jobs"), [""; 0]);
    let place = format!("{}/jobs/a", mount.root_text());
    assert_eq!(done(&mount, &["restore", &place]), "restored jobs/a with 3 builds\n");
    assert_built(&mount, "a", &[1, 2, 3]);
}

/// "A job that is made under the same name is another"; "EEXIST where another job has the name: `--as NAME`".
/// "EINVAL if its `downstream_jobs` would then lead back to it."
#[test]
fn a_job_of_the_same_name_is_another() {
    let mount = Mount::new();
    let _workers = built(&mount, "a");
    mount.run("rm -r jobs/a");
    mount.job("a", HELLO);
    assert_eq!(mount.build("a", "", "success"), 1);
    fails(
        &mount,
        &["restore", "a"],
        "jobs/a exists: give another name with --as NAME",
    );
    done(&mount, &["restore", "a", "--as", "old"]);
    assert_eq!(mount.list("jobs"), ["a", "old"]);
    assert_built(&mount, "old", &[1, 2]);
    assert_eq!(mount.list("jobs/a/builds"), ["1", "last-success", "latest"]);
    // Of two of one name the last comes back; the other by its id.
    mount.run("rm -r jobs/a; mv jobs/old jobs/a; rm -r jobs/a");
    let ids: Vec<String> = mount.list("jobs/.trash");
    assert_eq!(ids.len(), 2, "{ids:?}");
    done(&mount, &["restore", "a"]);
    assert_built(&mount, "a", &[1, 2]);
    let [id] = mount.list("jobs/.trash").try_into().expect("one is left");
    done(&mount, &["restore", &id, "--as", "new"]);
    assert_eq!(mount.list("jobs"), ["a", "new"]);
    mount.configure("a", r#"{ "downstream_jobs": ["b"], "tasks": [] }"#);
    mount.run("rmdir jobs/a");
    mount.job("b", r#"{ "downstream_jobs": ["a"], "tasks": [] }"#);
    fails(&mount, &["restore", "a"], "downstream_jobs");
    fails(&mount, &["restore", "a", "--as", ".a"], "no valid name");
    assert_eq!(mount.list("jobs"), ["b", "new"]);
}

/// "A build comes back into its own job, under its number. While that job is in the trash itself, it is
/// restored first."
#[test]
fn a_build_comes_back_under_its_number() {
    let mount = Mount::new();
    let _workers = built(&mount, "a");
    mount.run("rm -r jobs/a/builds/2");
    assert_eq!(mount.list("jobs/a/builds"), ["1", "last-success", "latest"]);
    assert_eq!(mount.run("readlink jobs/a/builds/latest"), "1");
    assert_eq!(errno(fs::metadata(mount.path("jobs/a/builds/2"))), libc::ENOENT);
    let listed = done(&mount, &["list"]);
    assert!(listed.starts_with("a/2\tsuccess\t"), "{listed}");
    let mut events = mount.listen();
    let builds = mount.path("jobs/a/builds");
    let (code, text) = trash_from(&builds, &["restore", "2"]);
    assert_eq!((code, text.as_str()), (Some(0), "restored jobs/a/builds/2\n"));
    wait_for("the event", USUAL, || events.so_far().contains("build a/2 success\n"));
    events.kill9();
    assert_built(&mount, "a", &[1, 2]);
    assert_eq!(mount.run("readlink jobs/a/builds/latest"), "2");
    fails(&mount, &["restore", "a/2"], "the build is there");
    fails(
        &mount,
        &["restore", "a/7"],
        "nothing of yours is in the trash under that name",
    );
    mount.run("rm -r jobs/a/builds/1; rmdir jobs/a");
    fails(&mount, &["restore", "a/1"], "its job is in the trash: restore a first");
    fails(&mount, &["restore", "a/1", "a/2"], "its job is in the trash");
    assert_eq!(done(&mount, &["restore", "a"]), "restored jobs/a with 2 builds\n");
    assert_built(&mount, "a", &[1, 2]);
}

/// "What comes back is what was removed", also where somebody stands in the folder or reads a file in it: for
/// the kernel that one is dead.
#[test]
fn a_folder_comes_back_under_who_stands_in_it() {
    let mount = Mount::new();
    let _workers = built(&mount, "a");
    let inside = fs::File::open(mount.path("jobs/a/builds/1")).expect("a folder");
    let above = fs::File::open(mount.path("jobs/a")).expect("a folder");
    mount.run("rm -r jobs/a/builds/1");
    done(&mount, &["restore", "a/1"]);
    assert_built(&mount, "a", &[1, 2]);
    assert!(mount.list("jobs/a/builds/1").contains(&"state".to_owned()));
    mount.run("rm -r jobs/a");
    done(&mount, &["restore", "a"]);
    assert_built(&mount, "a", &[1, 2]);
    assert!(mount.list("jobs/a").contains(&"trigger".to_owned()));
    assert_eq!(mount.build("a", "", "success"), 3);
    mount.run("cd jobs/a && echo x > scratch && cat scratch && rm scratch");
    drop((inside, above));
    assert_built(&mount, "a", &[1, 2, 3]);
}

/// "The folder `jobs/.trash` has one file for each thing": listed by nobody's `ls`, found by name. "`mv` of
/// such a file restores. `rm` removes for good. Nothing else can be made or changed there."
#[test]
fn the_folder_takes_mv_and_rm_alone() {
    let mount = Mount::new();
    let _workers = built(&mount, "a");
    mount.run("rm -r jobs/a/builds/1");
    assert!(!mount.run("ls -a jobs; find . -name .trash").contains("trash"));
    let [build] = mount.list("jobs/.trash").try_into().expect("the build");
    let said: Value = serde_json::from_str(&mount.read(&format!("jobs/.trash/{build}"))).expect("JSON");
    assert_eq!(
        (&said["job"], &said["build"], &said["state"]),
        (&"a".into(), &1.into(), &"success".into())
    );
    assert_eq!(said["owner"], getuid().as_raw());
    assert!(said["until"].as_str() > said["removed"].as_str(), "{said}");
    let all: Value = serde_json::from_str(&done(&mount, &["list", "--json"])).expect("JSON");
    assert_eq!(all, Value::Array(vec![said]));
    let rename = |from: &str, to: &str, flags| {
        let (from, to) = (mount.path(from), mount.path(to));
        renameat2(AT_FDCWD, &from, AT_FDCWD, &to, flags).map_or_else(|errno| errno as i32, |()| 0)
    };
    let (plain, of_build) = (RenameFlags::empty(), format!("jobs/.trash/{build}"));
    assert_eq!(rename(&of_build, "jobs/a/builds/3", plain), libc::EINVAL);
    assert_eq!(rename(&of_build, "jobs/b", plain), libc::EINVAL);
    assert_eq!(rename(&of_build, "jobs/.trash/x", plain), libc::EINVAL);
    assert_eq!(rename("jobs/a", "jobs/.trash/a", plain), libc::EPERM);
    assert_eq!(errno(fs::write(mount.path("jobs/.trash/x"), "x")), libc::EROFS);
    assert_eq!(errno(fs::write(mount.path(&of_build), "x")), libc::EROFS);
    assert_eq!(errno(fs::create_dir(mount.path("jobs/.trash/x"))), libc::EROFS);
    assert_eq!(errno(fs::create_dir(mount.path("jobs/.trash"))), libc::EEXIST);
    assert_eq!(errno(fs::remove_dir(mount.path("jobs/.trash"))), libc::EPERM);
    let open = fs::Permissions::from_mode(0o777);
    assert_eq!(errno(fs::set_permissions(mount.path("jobs/.trash"), open)), libc::EPERM);
    mount.run(&format!("mv {of_build} jobs/a/builds/1"));
    assert_built(&mount, "a", &[1, 2]);
    mount.run("rm -r jobs/a/builds/1; mv jobs/.trash/a@* jobs/a/builds; rm -r jobs/a; mv jobs/.trash/a@* jobs");
    assert_built(&mount, "a", &[1, 2]);
    assert_eq!(mount.list("jobs"), ["a"]);
    mount.run("rm -r jobs/a; mv jobs/.trash/a@* jobs/b");
    assert_built(&mount, "b", &[1, 2]);
    assert_eq!(mount.run("stat -c %F jobs/b jobs/b/builds/1"), "directory\ndirectory");
    mount.run("rm -r jobs/b; rm jobs/.trash/*");
    assert_eq!(mount.list("jobs/.trash"), [""; 0]);
    fails(&mount, &["restore", "b"], "nothing of yours");
}

/// "The job's owner, the owner of `jobs` and root may do that, and nobody else sees it listed." "Restoring a
/// job takes write on `jobs`".
#[test]
fn only_its_owner_takes_it_from_the_trash() {
    assert!(getuid().is_root(), "several users are needed: run it as root");
    let mount = Mount::new();
    mount.run("chmod 1777 jobs");
    let program = programs::distcifs().display().to_string();
    let by = |user: u32, script: &str| {
        let id = user.to_string();
        let script = format!("distcifs() {{ '{program}' \"$@\"; }}; {script}");
        let words = [
            "setpriv",
            "--reuid",
            &id,
            "--regid",
            &id,
            "--clear-groups",
            "dash",
            "-c",
            &script,
        ];
        let said = mount.start_words(&words).finish();
        format!("{}{}", said.stdout, said.stderr).trim_end().to_owned()
    };
    assert_eq!(
        by(
            ALICE,
            "mkdir jobs/a jobs/b && rmdir jobs/a jobs/b && ls jobs/.trash | cut -d@ -f1"
        ),
        "a\nb"
    );
    let [a, _b] = mount.list("jobs/.trash").try_into().expect("both");
    assert_eq!(
        by(MALLORY, "ls jobs/.trash; distcifs trash list; distcifs trash empty"),
        ""
    );
    for script in ["cat X", "rm -f X", "mv X jobs/mine", "mv X X2"] {
        let said = by(MALLORY, &script.replace('X', &format!("jobs/.trash/{a}")));
        assert!(
            said.contains("denied") || said.contains("not permitted"),
            "{script}: {said}"
        );
    }
    let said = by(MALLORY, &format!("distcifs trash restore {a}"));
    assert!(said.contains("nothing of yours"), "{said}");
    assert_eq!(by(ALICE, "distcifs trash restore a"), "restored jobs/a with 0 builds");
    let owner = fs::metadata(mount.path("jobs/a")).expect("it is back").uid();
    assert_eq!(owner, ALICE);
    // Who may not make jobs restores none.
    mount.run("chmod 755 jobs");
    let said = by(ALICE, "distcifs trash restore b");
    assert!(said.contains("you need write on its folder"), "{said}");
    // The owner of jobs may.
    mount.run(&format!("chown {MALLORY} jobs"));
    assert_eq!(
        by(MALLORY, "distcifs trash list --json | grep -c '\"owner\": 4001'"),
        "1"
    );
    assert_eq!(
        by(MALLORY, "distcifs trash restore b && stat -c %u jobs/b"),
        "restored jobs/b with 0 builds\n4001"
    );
}

/// "With 0 it is gone at once." doc/storage.md: "gc, fsck and backups follow the lines of removed jobs and
/// builds as those of all others"; what was removed for good gc frees.
#[test]
fn gc_frees_what_the_trash_does_not_hold() {
    let mount = Mount::of_folder();
    let workers = built(&mount, "a");
    mount.run("rm -r jobs/a/builds/1");
    upkeep(&mount, "gc");
    assert!(upkeep(&mount, "fsck").contains("nothing is wrong\n"));
    done(&mount, &["restore", "a/1"]);
    mount.run("rm -r jobs/a");
    upkeep(&mount, "gc");
    let saved = mount.out().join("saved");
    let backup = Command::new(programs::distcifs())
        .args(["backup", mount.repository().source()])
        .arg(&saved)
        .output()
        .expect("distcifs runs");
    assert!(backup.status.success(), "{:?}", said(&backup));
    done(&mount, &["restore", "a"]);
    assert_built(&mount, "a", &[1, 2]);
    mount.run("rm -r jobs/a");
    assert_eq!(
        done(&mount, &["empty"]),
        "removed 1 thing for good; distcifs gc frees the room\n"
    );
    assert_eq!(done(&mount, &["empty"]), "");
    fails(&mount, &["restore", "a"], "nothing of yours");
    fails(&mount, &["empty", "a"], "nothing of yours");
    let freed = upkeep(&mount, "gc");
    assert!(freed.contains(" 0 chunks and folders are in use"), "{freed}");
    // The backup has it.
    drop(workers);
    mount.unmount();
    let folder = mount.out().join("again");
    let restore = Command::new(programs::distcifs())
        .arg("restore")
        .args([&saved, &folder])
        .output()
        .expect("distcifs runs");
    let (code, text) = said(&restore);
    assert!(code == Some(0), "{text}");
}

/// "`-o trash_days=DAYS`… With 0 it is gone at once."
#[test]
fn a_mount_may_have_no_trash() {
    let mount = Mount::with(&["-o", "trash_days=0"], LIMIT);
    let _workers = built(&mount, "a");
    mount.run("rm -r jobs/a/builds/1; rm -r jobs/a");
    assert_eq!((mount.list("jobs/.trash"), mount.list("jobs")), (vec![], vec![]));
    fails(&mount, &["restore", "a"], "nothing of yours");
}

/// The words of the command line: what is wrong with them is said, and the exit status is 2.
#[test]
fn the_command_says_what_it_wants() {
    let mount = Mount::new();
    let refused = |words: &[&str], code: i32, why: &str| {
        let (status, text) = trash_from(Path::new("/"), words);
        assert!(
            status == Some(code) && text.contains(why),
            "{words:?}: {status:?} {text}"
        );
    };
    let root = mount.root_text();
    refused(&["list"], 1, "name a mount point");
    refused(&["list", "/"], 1, "no mount of distcifs");
    refused(&["restore", "hello"], 1, "is in no mount of distcifs");
    refused(&["restore"], 2, "WHAT");
    refused(&["restore", root], 2, "name what is to be restored");
    refused(&["restore", root, "a", "b", "--as", "c"], 2, "one job");
    refused(&["restore", root, "a/x"], 2, "JOB/BUILD");
    refused(&["restore", root, "hello"], 1, "distcifs trash list shows");
    refused(&["empty", root], 0, "");
    refused(&["--help"], 0, "EXIT STATUS");
    refused(&["restore", "--help"], 0, "EXAMPLES");
}
