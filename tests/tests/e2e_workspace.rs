//! Workspaces and artifacts: ordinary POSIX files that pass from task to task unchanged.

use std::fs;

use distcifs_tests::job::shell_task;
use distcifs_tests::programs::installed;
use distcifs_tests::{Mount, Worker};
use serde_json::json;

/// Makes a folder with everything that a snapshot must keep.
const MAKE: &str = "mkdir -p d/e 'odd name' && cd d
printf 'text' > plain; printf 'x' > \"$(printf 'bad\\377name')\"; printf 'n' > 'new
line'; : > empty
chmod 0751 plain; chmod 0700 e
ln -s ../nowhere dangling; ln -s plain link; ln plain hard; ln plain e/hard2
truncate -s 50M sparse; printf 'end' | dd of=sparse bs=1 seek=40000000 conv=notrunc 2>/dev/null
dd if=/dev/urandom of=random bs=1M count=3 2>/dev/null; mkdir -p deep/1/2/3/4/5/6/7/8; echo leaf > deep/1/2/3/4/5/6/7/8/leaf
chmod u+s random; touch -d '2001-02-03 04:05:06.789' plain; touch -h -d 1999-12-31 dangling e
touch -d '2010-10-10 10:10:10' deep/1/2 deep .";

/// "`git clone`, `make`, `tar x`, `rsync -a` in and out leave the same bytes, modes, times and
/// links"; sparse files stay sparse. The next task's claimant finds what the first left.
#[test]
fn a_workspace_passes_from_task_to_task_unchanged() {
    let mount = Mount::new();
    let reference = mount.out().join("ref").display().to_string();
    let check = format!(
        "changes=$(rsync -aHSn --checksum --delete --itemize-changes '{reference}/' d/); [ -z \"$changes\" ] || {{ echo \"$changes\"; exit 1; }}
        [ \"$(du -k d/sparse | cut -f1)\" -lt 10000 ]; [ \"$(stat -c %h d/plain)\" = 3 ]; [ d/plain -ef d/e/hard2 ]"
    );
    let copy = format!("{MAKE}\ncd ..; rsync -aHS d/ '{reference}/'");
    mount.shell_job("a", &[&copy, &check, &check]);
    let _workers = Worker::usual(&mount, 1);
    let build = mount.build("a", "", "success");
    let left =
        format!("rsync -aHSn --checksum --delete --itemize-changes '{reference}/' jobs/a/builds/{build}/workspace/d/");
    assert_eq!(mount.run(&left), "", "the build's read-only workspace");
    assert!(
        !mount
            .sh(&format!("echo x > jobs/a/builds/{build}/workspace/d/plain"))
            .ok(),
        "published files never change"
    );
}

/// The same through tar, in and out.
#[test]
fn tar_in_and_out_leaves_the_same() {
    let mount = Mount::new();
    mount.run(&format!("mkdir \"$OUT/src\"; cd \"$OUT/src\"; {MAKE}"));
    mount.queue("q");
    mount.post("q", &json!({"id": "t"}));
    mount.run(
        "cd tickets/q/t; echo $$ > claim; tar -C \"$OUT/src\" -cSf - . | tar -C workspace -xf -
        tar -C workspace -cSf \"$OUT/back.tar\" .; tar -C \"$OUT/src\" -df \"$OUT/back.tar\"; echo 0 > result",
    );
    mount.run("tar -C tickets/q/t/workspace -df \"$OUT/back.tar\"");
}

/// "If the claim is lost before … the next claimant starts from the same state as the first": from
/// what the task before left, not from what the lost attempt made of it.
#[test]
fn the_next_attempt_starts_from_the_same_state() {
    let mount = Mount::new();
    let out = mount.out().display().to_string();
    let second = format!(
        "cat file >> '{out}/seen'; echo changed > file; rm -rf keep; sync
        if ! [ -e '{out}/died' ]; then : > '{out}/died'; kill -9 $PPID; sleep 30; fi"
    );
    mount.shell_job(
        "a",
        &[
            "echo original > file; mkdir keep; echo k > keep/k",
            &second,
            "[ \"$(cat file)\" = changed ]; [ ! -e keep ]",
        ],
    );
    let _workers = Worker::usual(&mount, 3);
    mount.build("a", "", "success");
    assert_eq!(
        fs::read_to_string(mount.out().join("seen")).expect("the script wrote it"),
        "original\noriginal\n"
    );
}

/// POSIX as programs use it: rename over, O_EXCL, unlinked but open, append, locks, hard links,
/// thousands of files in one folder.
#[test]
fn ordinary_programs_work_in_a_workspace() {
    let mount = Mount::new();
    mount.queue("q");
    mount.post("q", &json!({"id": "t"}));
    mount.run(
        "cd tickets/q/t; echo $$ > claim; cd workspace
        echo a > a; echo b > b; mv b a; [ \"$(cat a)\" = b ]
        if (set -C; : > a) 2>/dev/null; then exit 1; fi
        exec 5>gone; rm gone; echo still >&5; exec 5>&-
        echo 1 > log; echo 2 >> log; [ \"$(wc -l < log)\" = 2 ]
        flock a true
        mkdir many; i=0; while [ $i -lt 2000 ]; do : > many/$i; i=$((i+1)); done; [ \"$(ls many | wc -l)\" = 2000 ]; rm -r many
        mkdir x y; mv x y/; [ -d y/x ]; if rmdir y 2>/dev/null; then exit 1; fi; rm -r y
        ln a hard; [ a -ef hard ]; ln -s a soft; [ \"$(readlink soft)\" = a ]
        truncate -s 1M a; [ \"$(stat -c %s hard)\" = 1048576 ]
        cp --reflink=auto a copy; cmp a copy
        cd ..; echo 0 > result",
    );
    assert_eq!(
        mount.list("tickets/q/t/workspace"),
        ["a", "copy", "hard", "log", "soft"]
    );
}

/// `git clone` and `make` in a workspace; the next task finds everything up to date.
#[test]
fn git_clone_and_make() {
    if !(installed("git") && installed("make") && installed("gcc")) {
        return;
    }
    let mount = Mount::new();
    mount.run(
        "mkdir \"$OUT/src\"; cd \"$OUT/src\"; git init -q .; printf 'int main(void){return 0;}\\n' > a.c
        printf 'a: a.c\\n\\t$(CC) -o $@ $<\\n' > Makefile; git add .; git -c user.name=a -c user.email=a@b commit -qm first",
    );
    let source = mount.out().join("src").display().to_string();
    let first = format!(
        "git clone -q '{source}' src; cd src; [ -z \"$(git status --porcelain)\" ]; make; ./a; make | grep 'up to date'; git fsck --strict"
    );
    mount.shell_job(
        "a",
        &[
            &first,
            "cd src; [ \"$(git status --porcelain)\" = '?? a' ]; make | grep 'up to date'; ./a",
        ],
    );
    let _workers = Worker::usual(&mount, 1);
    mount.build("a", "", "success");
}

/// "Fifos, sockets and devices are not carried over; the console says so."
#[test]
fn fifos_are_left_behind_and_it_is_said() {
    let mount = Mount::new();
    mount.shell_job("a", &["mkfifo pipe; echo x > file", "[ ! -e pipe ] && [ -e file ]"]);
    let _workers = Worker::usual(&mount, 1);
    let build = mount.build("a", "", "success");
    assert!(
        mount.console("a", build).contains("pipe"),
        "{}",
        mount.console("a", build)
    );
}

/// "artifacts/: the claimant's own, writable; published with the result", not before.
#[test]
fn artifacts_are_published_with_the_result() {
    let mount = Mount::new();
    mount.job_of("a", &[shell_task("true\n")]);
    mount.trigger("a", "");
    let control = mount.claim("build-control", "a.1.control").expect("the control ticket");
    mount.post(
        "execute-shell",
        &json!({"id": "a.1.0", "job": "a", "build": 1, "task": 0}),
    );
    let claim = mount.claim("execute-shell", "a.1.0").expect("the task's");
    fs::write(mount.path("tickets/execute-shell/a.1.0/artifacts/out.txt"), "made").expect("own");
    assert_eq!(mount.list("jobs/a/builds/1/artifacts"), Vec::<String>::new());
    mount.result("execute-shell", "a.1.0", "0").expect("the result");
    assert_eq!(mount.read("jobs/a/builds/1/artifacts/out.txt"), "made");
    drop(claim);
    mount
        .result("build-control", "a.1.control", "success")
        .expect("the end");
    drop(control);
    assert_eq!(mount.wait_state("a", 1), "success");
    assert_eq!(mount.read("jobs/a/builds/1/artifacts/out.txt"), "made");
}
