//! What one user takes of the node's disk, memory and descriptors hurts nobody else.

use std::fs::{self, File};
use std::process::Command;

use distcifs_tests::mount::{TEST_LIMIT, Words};
use distcifs_tests::{Mount, Repository, Worker};

/// A mount whose daemon may have so many descriptors.
fn with_descriptors(most: u32) -> (tempfile::TempDir, Mount) {
    let store = tempfile::tempdir().unwrap();
    let words = Words {
        before: ["prlimit", &format!("--nofile={most}:{most}")]
            .map(str::to_owned)
            .to_vec(),
        after: Vec::new(),
    };
    let repository = Repository::in_folder(store.path());
    let mount = Mount::of(&repository, "first", words, TEST_LIMIT);
    (store, mount)
}

/// "A workspace may hold any number of files, however few descriptors the daemon may have": they are made,
/// moved, stored with the result, and there for the next task; other jobs do not notice.
#[test]
fn a_workspace_has_more_files_than_the_daemon_descriptors() {
    let (_store, mount) = with_descriptors(256);
    mount.shell_job("small", &["seq 1 10 | xargs touch\n"]);
    let make =
        "mkdir a && cd a && seq 1 3000 | xargs touch && for i in $(seq 50); do mkdir -p d$i/e && mv $i d$i/e/f; done
mv ../a ../b; ls -R ../b | wc -l\n";
    let check = "[ \"$(find b -type f | wc -l)\" = 3000 ] && [ -e b/d50/e/f ] && rm -r b && [ -z \"$(ls)\" ]\n";
    mount.shell_job("many", &[make, check]);
    let _workers = Worker::usual(&mount, 2);
    let many = mount.trigger("many", "");
    for _ in 0..3 {
        mount.build("small", "", "success");
    }
    assert_eq!(
        mount.wait_state("many", many),
        "success",
        "{}",
        mount.console("many", many)
    );
    let limits = fs::read_to_string(format!("/proc/{}/limits", mount.daemon())).unwrap();
    assert!(
        limits
            .lines()
            .any(|line| line.starts_with("Max open files") && line.contains(" 256 "))
    );
}

/// "Who holds too many open is told so (EMFILE), and others open theirs."
#[test]
fn each_claim_has_a_share_of_the_descriptors() {
    let (store, mount) = with_descriptors(256);
    mount.shell_job("small", &["seq 1 10 | xargs touch\n"]);
    let _workers = Worker::usual(&mount, 1);
    mount.build("small", "", "success");
    mount.queue("q");
    let id = mount.post("q", &serde_json::json!({}));
    let _claim = mount.claim("q", &id);
    let place = mount.path(&format!("tickets/q/{id}/workspace"));
    let mut open = Vec::new();
    let refused = (0..300).find_map(|number| match File::create(place.join(number.to_string())) {
        Ok(file) => {
            open.push(file);
            None
        }
        Err(error) => error.raw_os_error(),
    });
    assert_eq!(refused, Some(nix::libc::EMFILE));
    assert!((40..100).contains(&open.len()), "{}", open.len());
    mount.build("small", "", "success");
    drop(open.split_off(10));
    File::create(place.join("again")).unwrap();
    let log = fs::read_to_string(store.path().join("log")).unwrap();
    assert!(log.contains("close some"), "{log}");
}

/// A workspace of folders nested thousands deep can't end the daemon, when it is thrown away or else.
#[test]
fn a_deep_workspace_hurts_nobody() {
    let mount = Mount::of_folder();
    mount.queue("q");
    let id = mount.post("q", &serde_json::json!({}));
    let claim = mount.claim("q", &id);
    let dig = "import os, sys\nos.chdir(sys.argv[1])\nfor _ in range(6000):\n    os.mkdir('d'); os.chdir('d')\n";
    let place = mount.path(&format!("tickets/q/{id}/workspace"));
    assert!(
        Command::new("python3")
            .args(["-c", dig])
            .arg(&place)
            .status()
            .unwrap()
            .success()
    );
    let daemon = mount.daemon();
    drop(claim);
    fs::remove_file(mount.path(&format!("tickets/q/{id}/claim"))).ok();
    let left = mount.own_folder();
    distcifs_tests::wait_for("the workspace to be thrown away", distcifs_tests::wait::USUAL, || {
        let found = Command::new("find")
            .arg(&left)
            .args(["-path", "*/d/d", "-print", "-quit"])
            .output()
            .unwrap();
        found.stdout.is_empty()
    });
    assert_eq!(mount.daemon(), daemon);
    assert_eq!(mount.list("jobs"), Vec::<String>::new());
}
