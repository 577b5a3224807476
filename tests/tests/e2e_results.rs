//! Results, and what is left of an attempt that lost its claim.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;

use distcifs_tests::wait::USUAL;
use distcifs_tests::{Mount, errno, wait_for};
use serde_json::json;

fn mount_with_ticket() -> Mount {
    let mount = Mount::new();
    mount.queue("q");
    mount.post("q", &json!({"id": "t"}));
    mount
}

/// "A second result is EEXIST." "Scripts can read it back: empty means not committed." "A
/// finished ticket: ENOENT." Results end the claim.
#[test]
fn one_result_and_no_second() {
    let mount = mount_with_ticket();
    assert_eq!(mount.run("cat tickets/q/t/result || true"), "");
    let claim = mount.claim("q", "t").expect("the claim");
    mount.result("q", "t", "0").expect("the result");
    assert_eq!(errno(mount.result("q", "t", "1")), libc::EEXIST);
    assert!(!mount.has("tickets/q/t/claim"), "the result ends the claim");
    drop(claim);
    assert_eq!(errno(mount.claim("q", "t")), libc::ENOENT);
    assert!(!mount.sh("echo $$ > tickets/q/t/claim").ok());
    assert!(!mount.sh("touch tickets/q/t/claim").ok());
}

/// "Opening result or console for writing needs the claimant, a process below it or one of its
/// session: else EPERM."
#[test]
fn nobody_else_writes_a_result_or_the_console() {
    let mount = mount_with_ticket();
    assert_eq!(errno(mount.result("q", "t", "0")), libc::EPERM, "nobody has claimed it");
    let holder = mount.start("exec 9>tickets/q/t/claim; echo held; sleep 1; dash -c 'echo below > tickets/q/t/console; echo 0 > tickets/q/t/result'");
    wait_for("the claim", USUAL, || holder.so_far().contains("held"));
    assert_eq!(errno(mount.result("q", "t", "0")), libc::EPERM);
    assert_eq!(
        errno(File::options().append(true).open(mount.path("tickets/q/t/console"))),
        libc::EPERM
    );
    assert!(!mount.sh("echo 0 > tickets/q/t/result").ok(), "another session");
    holder.finish().expect_ok();
    assert_eq!(mount.read("tickets/q/t/result").lines().next(), Some("0"));
    assert!(mount.read("tickets/q/t/console").contains("below"));
}

/// "What they write there becomes visible to everyone at once when they write the result …; if the
/// claim is lost before, nothing of it is ever seen and the next claimant starts from the same
/// state as the first."
#[test]
fn a_lost_attempt_leaves_nothing() {
    let mount = mount_with_ticket();
    let mut first = mount.start("exec 9>tickets/q/t/claim; cd tickets/q/t; echo a > workspace/a; echo b > artifacts/b; mkdir workspace/d; sync workspace/a; echo held; exec sleep 60");
    wait_for("the first", USUAL, || first.so_far().contains("held"));
    assert_eq!(mount.list("tickets/q/t/workspace"), ["a", "d"]);
    first.kill9();
    wait_for("the claim's end", USUAL, || !mount.has("tickets/q/t/claim"));
    let claim = mount.claim("q", "t").expect("the second");
    assert_eq!(mount.list("tickets/q/t/workspace"), Vec::<String>::new());
    assert_eq!(mount.list("tickets/q/t/artifacts"), Vec::<String>::new());
    fs::write(mount.path("tickets/q/t/artifacts/c"), "c").expect("the second's own");
    mount.result("q", "t", "0").expect("the result");
    drop(claim);
    assert_eq!(mount.list("tickets/q/t/artifacts"), ["c"]);
    assert_eq!(
        errno(File::create(mount.path("tickets/q/t/artifacts/d"))),
        libc::EROFS,
        "then read-only"
    );
}

/// "After a claim is lost, path operations below the old ones, new opens, fsync and result answer ESTALE." "A
/// working directory there is below them."
#[test]
fn the_loser_is_fenced() {
    let mount = mount_with_ticket();
    let claim = mount.claim("q", "t").expect("the first");
    let old = mount.path("tickets/q/t/workspace");
    let mut open = File::create(old.join("open")).expect("the first's own");
    let inside = mount.start("cd tickets/q/t/workspace; echo inside; while ! [ -e \"$OUT/go\" ]; do sleep 0.05; done; echo x > late; echo \"status $?\"; ls . ; echo \"status $?\"; mkdir d; echo \"status $?\"");
    wait_for("the shell inside", USUAL, || inside.so_far().contains("inside"));
    let result = File::options()
        .write(true)
        .open(mount.path("tickets/q/t/result"))
        .expect("the claimant may");
    fs::remove_file(mount.path("tickets/q/t/claim")).expect("rm claim");
    drop(claim);
    let second = mount.claim("q", "t").expect("the second");
    fs::write(mount.out().join("go"), "").expect("own folder");
    let said = inside.finish();
    assert!(
        !said.stdout.contains("status 0") && said.stderr.to_lowercase().contains("stale"),
        "{said:?}"
    );
    let _ = open.write_all(b"too late");
    assert_eq!(errno(open.sync_all()), libc::ESTALE);
    let late = (&result)
        .write_all(b"0\n")
        .and_then(|()| Ok(nix::unistd::close(result)?));
    assert_eq!(errno(late), libc::ESTALE);
    assert_eq!(
        mount.list("tickets/q/t/workspace"),
        Vec::<String>::new(),
        "nothing of the first"
    );
    assert_eq!(mount.read("tickets/q/t/.wait"), "", "no result yet");
    mount.result("q", "t", "0").expect("the second's result");
    drop(second);
}

/// "Every unpublished byte of the lost attempt, console lines apart, is discarded."
#[test]
fn the_console_keeps_the_lines_of_a_lost_attempt() {
    let mount = mount_with_ticket();
    let mut first = mount.start("exec 9>tickets/q/t/claim; exec 8>tickets/q/t/console; echo first line >&8; exec 8>&-; echo held; exec sleep 60");
    wait_for("the first", USUAL, || first.so_far().contains("held"));
    first.kill9();
    wait_for("the claim's end", USUAL, || !mount.has("tickets/q/t/claim"));
    mount.run("cd tickets/q/t; echo $$ > claim; echo second line > console; echo 0 > result");
    assert!(mount.read("tickets/q/t/console").contains("second line"));
}

/// How many blobs a store has that is a folder.
fn blobs(mount: &Mount) -> usize {
    let list = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
    let objects = Path::new(mount.repository().source()).join("objects");
    let shards = ["chunk", "tree"].map(|kind| objects.join(kind));
    let shards = shards.iter().flat_map(|kind| list(kind));
    shards.map(|shard| list(&shard.path()).count()).sum()
}

/// "A workspace that can't be stored at all, with a folder of more than 64 MiB of names for instance: EFBIG"; the
/// claim still holds, what was stored is gone again, and without the folder the result is taken.
#[test]
fn a_workspace_that_can_not_be_stored_is_efbig() {
    let mount = mount_with_ticket();
    let claim = mount.claim("q", "t").expect("the claim");
    let workspace = mount.path("tickets/q/t/workspace");
    fs::write(workspace.join("other"), vec![7; 100_000]).expect("a file");
    let folder = workspace.join("long");
    fs::create_dir(&folder).expect("a folder");
    let first = folder.join("first");
    // With its target, each name has more than 4 KiB in the listing.
    symlink("x".repeat(4000), &first).expect("a link");
    for number in 0..16_500 {
        fs::hard_link(&first, folder.join(format!("{number:0>200}"))).expect("one more name");
    }
    let before = blobs(&mount);
    assert_eq!(errno(mount.result("q", "t", "0")), libc::EFBIG);
    wait_for("what was stored is gone", USUAL, || blobs(&mount) == before);
    assert_eq!(mount.run("cat tickets/q/t/result"), "");
    assert!(mount.has("tickets/q/t/claim"));
    fs::remove_dir_all(&folder).expect("it goes");
    mount.result("q", "t", "0").expect("the result");
    assert!(mount.read("tickets/q/t/result").starts_with('0'));
    drop(claim);
}
