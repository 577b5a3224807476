//! What a script may leave in a workspace before a checkout, and what becomes of it: nothing runs,
//! nothing is followed, and the files are those of the commit.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use serde_json::json;

use crate::checkout::{CHECKOUT, git, recorded};
use crate::{Bench, console};

/// A configuration of which each entry would run something.
fn config(ran: &Path) -> String {
    let ran = ran.display();
    format!(
        "[core]\n\trepositoryformatversion = 0\n\tfsmonitor = \"touch {ran}/fsmonitor; false\"\n\
         \thooksPath = .git/hooks\n\tsshCommand = \"touch {ran}/ssh\"\n\tattributesFile = .git/attributes\n\
         \tgitProxy = \"touch {ran}/proxy\"\n\tpager = \"touch {ran}/pager\"\n\teditor = \"touch {ran}/editor\"\n\
         \talternateRefsCommand = \"touch {ran}/alternate\"\n\taskPass = {ran}/askpass\n\
         [filter \"x\"]\n\tsmudge = \"touch {ran}/smudge; cat\"\n\tclean = \"touch {ran}/clean; cat\"\n\
         \tprocess = \"touch {ran}/process\"\n\
         [credential]\n\thelper = \"!touch {ran}/helper\"\n\
         [uploadpack]\n\tpackObjectsHook = \"touch {ran}/pack\"\n\
         [remote \"origin\"]\n\tuploadpack = \"touch {ran}/uploadpack\"\n\turl = ext::touch {ran}/ext\n\
         [protocol]\n\tallow = always\n\
         [url \"ext::touch {ran}/instead \"]\n\tinsteadOf = /\n\tinsteadOf = file://\n\
         [include]\n\tpath = {ran}/included\n\
         [diff]\n\texternal = \"touch {ran}/diff\"\n\
         [submodule]\n\trecurse = true\n[gc]\n\tauto = 1\n"
    )
}

/// "git-checkout makes `.git` anew": whatever configuration, hooks, filters and attributes are there.
#[test]
fn nothing_that_was_left_runs() {
    let bench = Bench::new(CHECKOUT, "runs");
    let ran = bench.root.join("ran");
    fs::create_dir(&ran).unwrap();
    let upstream = bench.root.join("up");
    let commit = git(
        &upstream,
        "git init -q -b main .; echo 1 >f; echo '* filter=x diff=x' >.gitattributes; git add -A; \
         git commit -qm one; git rev-parse HEAD",
    );
    for id in ["folder", "file", "link", "closed", "worktree"] {
        let ticket = bench.ticket(id, json!({ "repository": upstream, "checkout-dir": "src" }));
        let src = ticket.join("workspace/src");
        let left = match id {
            "file" | "link" => ticket.join("workspace/elsewhere"),
            _ => src.join(".git"),
        };
        fs::create_dir_all(src.join("sub")).unwrap();
        git(&left, "git init -q .; mv .git/* .; rmdir .git");
        fs::create_dir_all(left.join("hooks")).unwrap();
        let mut text = config(&ran);
        if id == "worktree" {
            text += &format!("[core]\n\tworktree = {}\n", ran.display());
        }
        fs::write(left.join("config"), text).unwrap();
        fs::write(left.join("attributes"), "* filter=x\n").unwrap();
        for hook in [
            "post-checkout",
            "reference-transaction",
            "post-index-change",
            "pre-auto-gc",
        ] {
            let path = left.join("hooks").join(hook);
            fs::write(&path, format!("#!/bin/sh\ntouch {}/{hook}\n", ran.display())).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        match id {
            "file" => fs::write(src.join(".git"), "gitdir: ../elsewhere\n").unwrap(),
            "link" => symlink("../elsewhere", src.join(".git")).unwrap(),
            "closed" => fs::set_permissions(left.join("refs"), fs::Permissions::from_mode(0o000)).unwrap(),
            _ => {}
        }
        assert_eq!(bench.work(&ticket), "0", "{id}: {}", console(&ticket));
        assert_eq!(fs::read_dir(&ran).unwrap().count(), 0, "{id}: {:?}", fs::read_dir(&ran));
        assert_eq!(recorded(&ticket), commit);
        assert_eq!(fs::read_to_string(src.join("f")).unwrap(), "1\n");
        let now = fs::read_to_string(src.join(".git/config")).unwrap();
        assert!(!now.contains("touch") && src.join(".git").is_dir() && !src.join(".git").is_symlink());
        assert!(!src.join(".git/hooks/post-checkout").exists());
    }
}

/// Objects of another repository, and a state of files that only looks like the commit's, are not taken.
#[test]
fn files_are_those_of_the_commit() {
    let bench = Bench::new(CHECKOUT, "files");
    let upstream = bench.root.join("up");
    git(
        &upstream,
        "git init -q -b main .; echo right >f; mkdir d; echo right >d/g; git add -A; git commit -qm one",
    );
    let ticket = bench.ticket("t", json!({ "repository": upstream }));
    let workspace = ticket.join("workspace");
    // A list that says that the wrong file is the right one.
    git(
        &workspace,
        "git init -q .; mkdir d; echo right >f; echo right >d/g; git add -A; echo wrong >f; \
         git update-index --assume-unchanged f; git update-index --skip-worktree d/g; echo wrong >d/g; \
         echo '* text eol=crlf' >.gitattributes; echo '* text eol=crlf working-tree-encoding=UTF-16' >d/.gitattributes",
    );
    let other = bench.root.join("other");
    git(&other, "git init -q .; echo secret >s; git add s; git commit -qm s");
    let alternate = format!("{}\n", other.join(".git/objects").display());
    fs::write(workspace.join(".git/objects/info/alternates"), alternate).unwrap();
    fs::write(workspace.join(".git/info/attributes"), "* text eol=crlf\n").unwrap();
    assert_eq!(bench.work(&ticket), "0", "{}", console(&ticket));
    assert_eq!(fs::read_to_string(workspace.join("f")).unwrap(), "right\n");
    assert_eq!(fs::read_to_string(workspace.join("d/g")).unwrap(), "right\n");
    assert!(!workspace.join(".git/objects/info/alternates").exists());
    assert_eq!(git(&workspace, "git status --porcelain"), "");
}

/// Folders that are links lead nowhere, whichever part of the path they are; links in the place of
/// files are replaced.
#[test]
fn a_checkout_stays_in_the_workspace() {
    let bench = Bench::new(CHECKOUT, "links");
    let upstream = bench.root.join("up");
    git(
        &upstream,
        "git init -q -b main .; mkdir d; echo new >d/file; echo new >file; git add -A; git commit -qm one",
    );
    let victim = bench.root.join("victim");
    fs::create_dir_all(victim.join("src")).unwrap();
    fs::write(victim.join("file"), "original").unwrap();
    for (id, folder, link) in [
        ("itself", "src", "src"),
        ("above", "a/src", "a"),
        ("inside", "src", "src/d"),
    ] {
        let ticket = bench.ticket(id, json!({ "repository": upstream, "checkout-dir": folder }));
        let link = ticket.join("workspace").join(link);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(&victim, &link).unwrap();
        let result = bench.work(&ticket);
        if id == "inside" {
            symlink(victim.join("file"), ticket.join("workspace/file")).unwrap();
            assert_eq!(result, "0", "{}", console(&ticket));
            assert_eq!(fs::read_to_string(link.join("file")).unwrap(), "new\n");
            assert!(!link.is_symlink());
        } else {
            assert!(
                result.contains("params.checkout-dir") && result.contains("links are not followed"),
                "{result}"
            );
        }
        assert_eq!(fs::read_to_string(victim.join("file")).unwrap(), "original");
        assert_eq!(fs::read_dir(victim.join("src")).unwrap().count(), 0);
    }
}

/// What an earlier list of files says decides about files of the folder only.
#[test]
fn a_list_of_files_cannot_lead_out() {
    let bench = Bench::new(CHECKOUT, "list");
    let upstream = bench.root.join("up");
    git(
        &upstream,
        "git init -q -b main .; echo new >file; git add -A; git commit -qm one",
    );
    let victim = bench.root.join("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("kept"), "original").unwrap();
    let ticket = bench.ticket("t", json!({ "repository": upstream, "checkout-dir": "src" }));
    let src = ticket.join("workspace/src");
    git(
        &src,
        "git init -q .; mkdir d; echo x >d/kept; echo x >gone; git add -A; rm -r d",
    );
    symlink(&victim, src.join("d")).unwrap();
    assert_eq!(bench.work(&ticket), "0", "{}", console(&ticket));
    assert_eq!(fs::read_to_string(victim.join("kept")).unwrap(), "original");
    assert!(!src.join("gone").exists());
    for (id, bytes) in [
        ("empty", &b""[..]),
        ("wrong", b"DIRC\0\0\0\x02\xff\xff\xff\xff"),
        ("long", &[0x44; 4096]),
    ] {
        let ticket = bench.ticket(id, json!({ "repository": upstream }));
        fs::create_dir_all(ticket.join("workspace/.git")).unwrap();
        fs::write(ticket.join("workspace/.git/index"), bytes).unwrap();
        assert_eq!(bench.work(&ticket), "0", "{}", console(&ticket));
    }
}

/// workers.md: "git has bounds of memory and files … A commit that needs more fails the task, and says so": some objects
/// stand for half of a million of a million files. The bound of this worker is lower, so that the test takes little.
#[test]
fn a_few_objects_fill_no_memory() {
    let bench = Bench::with(CHECKOUT, "bomb", &[("DISTCIFS_GIT_MEMORY", Path::new("50331648"))]);
    let upstream = bench.root.join("up");
    let commit = git(
        &upstream,
        "git init -q -b main .; blob=$(echo x | git hash-object -w --stdin)
        tree=$(printf '100644 blob %s\\tf\\n' $blob | git mktree)
        for level in 1 2 3 4 5 6; do
            tree=$(for i in $(seq 10 99); do printf '040000 tree %s\\td%s\\n' $tree $i; done | git mktree)
        done
        commit=$(git commit-tree -m bomb $tree); git update-ref refs/heads/main $commit; echo $commit",
    );
    for (id, left, why) in [
        (
            "new",
            false,
            "git needs more memory for it than it may have on this node",
        ),
        ("there", true, "more than git-checkout looks at"),
    ] {
        let ticket = bench.ticket(id, json!({ "repository": upstream }));
        if left {
            fs::write(ticket.join("workspace/left"), "").unwrap();
        }
        let said = bench.work(&ticket);
        assert!(
            said.starts_with("1\n") && said.contains(why),
            "{id}: {said}\n{}",
            console(&ticket)
        );
        assert!(left || said.contains(&commit), "{said}");
        assert_eq!(recorded(&ticket), "");
    }
    // The worker goes on.
    let small = bench.root.join("small");
    let commit = git(
        &small,
        "git init -q -b main .; echo 1 >f; git add f; git commit -qm one; git rev-parse HEAD",
    );
    let ticket = bench.ticket("small", json!({ "repository": small }));
    assert_eq!(bench.work(&ticket), "0", "{}", console(&ticket));
    assert_eq!(recorded(&ticket), commit);
}

/// A list of files, of the version in which names share their beginnings: so many names of so many bytes.
fn list_of_long_names(count: u32, bytes: usize) -> Vec<u8> {
    let mut list = b"DIRC\0\0\0\x04".to_vec();
    list.extend(count.to_be_bytes());
    let digits = 8;
    for number in 0..count {
        let mut entry = [0; 62];
        entry[24..28].copy_from_slice(&0o100_644_u32.to_be_bytes());
        entry[40..60].fill(7);
        entry[60..].copy_from_slice(&0xfff_u16.to_be_bytes());
        list.extend(entry);
        // How much of the name before goes, then what comes instead.
        if number == 0 {
            list.push(0);
            list.extend(vec![b'x'; bytes - digits]);
        } else {
            list.push(u8::try_from(digits).unwrap());
        }
        list.extend(format!("{number:08}\0").as_bytes());
    }
    list.extend([0; 20]);
    list
}

/// workers.md: a list that a script left in `.git/index` is bounded as it is read. One of some megabytes stands for
/// names of gigabytes; here for 320 MB, where git and who reads it may have 420.
#[test]
fn a_list_of_files_fills_no_memory() {
    let bench = Bench::with(CHECKOUT, "names", &[("DISTCIFS_GIT_MEMORY", Path::new("440401920"))]);
    let upstream = bench.root.join("up");
    git(
        &upstream,
        "git init -q -b main .; echo new >file; git add -A; git commit -qm one",
    );
    let ticket = bench.ticket("t", json!({ "repository": upstream }));
    fs::create_dir_all(ticket.join("workspace/.git")).unwrap();
    let list = list_of_long_names(20_000, 16_000);
    assert!(list.len() < 2 << 20);
    fs::write(ticket.join("workspace/.git/index"), list).unwrap();
    assert_eq!(bench.work(&ticket), "0", "{}", console(&ticket));
    assert!(
        console(&ticket).contains("the files of an earlier checkout stay"),
        "{}",
        console(&ticket)
    );
    assert_eq!(fs::read_to_string(ticket.join("workspace/file")).unwrap(), "new\n");
}
