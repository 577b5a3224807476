//! What one user takes of the node's disk, memory and descriptors hurts nobody else.

use std::fs::{self, File};
use std::process::Command;

use distcifs_tests::mount::{TEST_LIMIT, Words};
use distcifs_tests::programs::compile;
use distcifs_tests::wait::USUAL;
use distcifs_tests::{Mount, Repository, Worker, wait_for};

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
    assert!((20..60).contains(&open.len()), "{}", open.len());
    mount.build("small", "", "success");
    drop(open.split_off(10));
    File::create(place.join("again")).unwrap();
    let log = fs::read_to_string(store.path().join("log")).unwrap();
    assert!(log.contains("close some"), "{log}");
}

/// A workspace of folders nested as deep as they may (2,048) can't end the daemon, when it is thrown away or else.
#[test]
fn a_deep_workspace_hurts_nobody() {
    let mount = Mount::of_folder();
    mount.queue("q");
    let id = mount.post("q", &serde_json::json!({}));
    let claim = mount.claim("q", &id);
    let dig = "import os, sys\nos.chdir(sys.argv[1])\nfor _ in range(2048):\n    os.mkdir('d'); os.chdir('d')\n";
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

/// Runs a script of dash as this user.
fn as_user(mount: &Mount, uid: u32, script: &str) -> std::process::Output {
    Command::new("setpriv")
        .args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups"])
        .args(["dash", "-c", script])
        .env("M", mount.root())
        .output()
        .unwrap()
}

/// "Each user may hold as much of it as he leaves to all others": scratch files.
#[test]
fn who_fills_his_scratch_files_stops_nobodys_editor() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let mount = Mount::of_folder();
    for (job, owner) in [("of_alice", 4001), ("of_mallory", 4002)] {
        mount.job(job, r#"{ "description": "x", "tasks": [] }"#);
        std::os::unix::fs::chown(mount.path(&format!("jobs/{job}")), Some(owner), Some(owner)).unwrap();
    }
    let fill = "cd $M/jobs/of_mallory && for i in $(seq 30); do head -c 4194304 /dev/zero > s$i || exit 9; done";
    let filled = as_user(&mount, 4002, fill);
    let said = String::from_utf8_lossy(&filled.stderr).into_owned();
    assert_eq!(filled.status.code(), Some(9), "{said}");
    assert!(said.contains("Disk quota exceeded"), "{said}");
    let edit = "cd $M/jobs/of_alice && sed -i s/x/after/ config.json && grep -q after config.json";
    let edited = as_user(&mount, 4001, edit);
    assert!(edited.status.success(), "{}", String::from_utf8_lossy(&edited.stderr));
    distcifs_tests::wait_for("the log", distcifs_tests::wait::USUAL, || {
        mount.log_tail().contains("your scratch files hold your share")
    });
}

/// "A line of the log is one line": a name that somebody looks for forges none.
#[test]
fn nobody_forges_a_line_of_the_log() {
    let mount = Mount::of_folder();
    let forged = "2026-11-30T01:00:00.000000Z ERROR the store is away";
    let name = format!("{}\n{forged}\u{202e}", "x".repeat(250));
    let error = fs::metadata(mount.path(&format!("jobs/{name}"))).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::ENAMETOOLONG));
    distcifs_tests::wait_for("the log", distcifs_tests::wait::USUAL, || {
        mount.log_tail().contains(forged)
    });
    let log = mount.log_tail();
    assert!(!log.lines().any(|line| line.starts_with(forged)), "{log}");
    assert!(log.contains(&format!("\\n{forged}\\u{{202e}}")), "{log}");
}

/// "Other lines that a user causes are counted in the same way": who claims and lets go in a loop pushes nothing
/// else out of the log.
#[test]
fn claims_that_are_let_go_do_not_fill_the_log() {
    let mount = Mount::of_folder();
    mount.queue("q");
    for _ in 0..4 {
        let path = format!("tickets/q/{}/claim", mount.post("q", &serde_json::json!({})));
        mount.run(&format!("for i in 1 2 3 4 5 6; do (exec 9> {path}; rm {path}); done"));
    }
    distcifs_tests::wait_for("the log", distcifs_tests::wait::USUAL, || {
        mount.log_tail().contains("claim lost: … and ")
    });
    let log = mount.log_tail();
    let lines = log.lines().filter(|line| line.contains("claim lost ticket=")).count();
    assert!((1..24).contains(&lines), "{log}");
}

/// "The lock ends a minute after the last write or read through it; its holder gets ESTALE and nothing
/// of his is committed."
#[test]
fn a_lock_that_nobody_uses_ends() {
    use std::io::{Read, Write};
    let mount = Mount::of_folder();
    let (old, new) = (r#"{ "tasks": [] }"#, r#"{ "description": "new", "tasks": [] }"#);
    mount.job("forgotten", old);
    mount.job("used", old);
    let open = |job: &str| {
        let path = mount.path(&format!("jobs/{job}/config.json"));
        File::options().read(true).append(true).open(path).unwrap()
    };
    let (mut forgotten, mut used) = (open("forgotten"), open("used"));
    forgotten.write_all(b"nonsense").unwrap();
    let begun = std::time::Instant::now();
    while mount.write("jobs/forgotten/config.json", new).is_err() {
        assert!(begun.elapsed().as_secs() < 75, "the lock goes on");
        assert_eq!(used.read(&mut [0; 100]).map(|_| ()).ok(), Some(()));
    }
    assert!(
        begun.elapsed().as_secs() >= 55,
        "the lock ended after {:?}",
        begun.elapsed()
    );
    assert_eq!(
        forgotten.write_all(b"more").unwrap_err().raw_os_error(),
        Some(nix::libc::ESTALE)
    );
    assert_eq!(
        forgotten.sync_all().unwrap_err().raw_os_error(),
        Some(nix::libc::ESTALE)
    );
    assert_eq!(nix::unistd::close(forgotten), Err(nix::errno::Errno::ESTALE));
    assert_eq!(mount.read("jobs/forgotten/config.json"), new);
    assert!(!mount.has("jobs/forgotten/config.error"));
    used.write_all(b" ").unwrap();
    assert_eq!(nix::unistd::close(used), Ok(()), "who goes on using it keeps it");
    assert_eq!(mount.read("jobs/used/config.json"), format!("{old} "));
}

/// "Logging never ends a process": a worker whose standard error is a full disk, or closed, works on.
#[test]
fn a_worker_that_nobody_hears_works_on() {
    let mount = Mount::of_folder();
    mount.shell_job("hello", &["echo hello\n"]);
    let program = |name| distcifs_tests::programs::worker(name).display().to_string();
    let words = format!(
        "{} $M 2>/dev/full & {} $M --as root --state $OUT/s1 2>&- & sleep 60",
        program("build-control"),
        program("execute-shell")
    );
    let _workers = mount.start(&words);
    for round in 0..2 {
        let n = mount.build("hello", "", "success");
        assert_eq!(mount.console("hello", n), "hello", "{round}");
    }
    // A ticket that it has something to tell of.
    let id = mount.post("execute-shell", &serde_json::json!({ "params": { "script": 7 } }));
    distcifs_tests::wait_for("the odd ticket to end", distcifs_tests::wait::USUAL, || {
        !mount.read(&format!("tickets/execute-shell/{id}/result")).is_empty()
    });
    mount.build("hello", "", "success");
}

/// "Generated files that are open share memory: each version counts once", and who takes his whole share of
/// different ones leaves others theirs.
#[test]
fn a_generated_file_takes_memory_once_however_often_it_is_open() {
    let mount = Mount::of_folder();
    let text = |n: usize| format!(r#"{{ "description": "{}", "tasks": [] }}"#, "x".repeat(900_000 + n));
    for n in 0..70 {
        mount.job(&format!("j{n}"), &text(n));
    }
    let path = |n: usize| mount.path(&format!("jobs/j{n}/config.json"));
    drop(File::open(path(0)).unwrap());
    let before = distcifs_tests::process::resident_mib(mount.daemon());
    let held: Vec<File> = (0..300).map(|_| File::open(path(0)).unwrap()).collect();
    let grown = distcifs_tests::process::resident_mib(mount.daemon()) - before;
    assert!(grown < 40.0, "300 opens took {grown} MiB");
    drop(held);
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let all = "import os, sys\nheld = []\nfor n in range(70):\n    try: held.append(os.open(sys.argv[1] + '/jobs/j%d/config.json' % n, os.O_RDONLY))
    except OSError as e: print(len(held), e.errno, flush=True); break\nimport time; time.sleep(60)\n";
    let uid = ["--reuid=4002", "--regid=4002", "--clear-groups", "python3", "-uc", all];
    let _hog = mount.start_words(&[&["setpriv"][..], &uid[..], &[mount.root_text()]].concat());
    distcifs_tests::wait_for("its share to be used up", distcifs_tests::wait::USUAL, || {
        mount.log_tail().contains("your share of")
    });
    let read = as_user(&mount, 4001, "cat $M/jobs/j69/config.json | wc -c");
    assert!(String::from_utf8_lossy(&read.stdout).trim().parse::<usize>().unwrap() > 900_000);
}

/// "What claimants write stops before the disk is full": a task that fills it fails by itself, and jobs,
/// triggers, results and small tasks of others go on.
#[test]
fn a_task_that_fills_the_disk_fails_by_itself() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let disk = SmallDisk::new("96m");
    let store = disk.store();
    let repository = Repository::in_folder(&store);
    let mount = Mount::of(&repository, "first", Words::default(), TEST_LIMIT);
    let fill = "! fallocate -l 200M big && ! head -c 200M /dev/zero > more && ! cp more again && echo full; sleep 30\n";
    mount.shell_job("filler", &[fill]);
    mount.shell_job("small", &["echo ok > f\n"]);
    let _workers = Worker::usual(&mount, 2);
    let n = mount.trigger("filler", "");
    distcifs_tests::wait_for("the disk to be full", distcifs_tests::wait::USUAL, || {
        mount.console("filler", n).contains("full")
    });
    for round in 0..3 {
        mount.build("small", "", "success");
        mount.job(&format!("new{round}"), "{ \"tasks\": [] }");
    }
    mount.write(&format!("jobs/filler/builds/{n}/ctl"), "abort\n").unwrap();
    a_full_store_refuses_at_open(&mount, &store);
}

/// "What is laid out for them leaves as much": tasks that all start from one large workspace do not fill the disk. One for
/// which there is no room gets ENOSPC, nothing of it stays, and it goes on once there is room.
#[test]
fn workspaces_that_are_laid_out_leave_room_for_others() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let disk = SmallDisk::new("96m");
    let repository = Repository::in_folder(&disk.store());
    let mount = Mount::of(&repository, "first", Words::default(), TEST_LIMIT);
    mount.queue("q");
    let task = |name: &str, needs: &[&str]| serde_json::json!({"type": "q", "name": name, "needs": needs});
    let mut tasks = vec![task("first", &[])];
    tasks.extend((1..8).map(|number| task(&format!("x{number}"), &["first"])));
    mount.job_of("a", &tasks);
    let _control = Worker::start(&mount, "build-control", &[]);
    let build = mount.trigger("a", "");
    let claim = |number: usize| {
        let id = format!("a.{build}.{number}");
        wait_for(&id, USUAL, || mount.has(&format!("tickets/q/{id}")));
        let claim = mount.claim("q", &id).unwrap();
        (claim, mount.path(&format!("tickets/q/{id}/workspace")))
    };
    let (first, workspace) = claim(0);
    mount.run(&format!("head -c 15M /dev/urandom > {}/big", workspace.display()));
    mount.result("q", &format!("a.{build}.0"), "0").unwrap();
    drop(first);
    let claims: Vec<_> = (1..8).map(claim).collect();
    let (mut there, mut refused) = (Vec::new(), Vec::new());
    for (held, workspace) in claims {
        match fs::read_dir(&workspace) {
            Ok(names) => {
                assert_eq!(names.count(), 1);
                there.push((held, workspace));
            }
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(nix::libc::ENOSPC), "{error}");
                refused.push((held, workspace));
            }
        }
        assert!(disk.free_mib() >= 12, "{} MiB are free", disk.free_mib());
    }
    assert!(
        there.len() > 1 && refused.len() > 1,
        "{} and {}",
        there.len(),
        refused.len()
    );
    for (_, workspace) in &refused {
        assert_eq!(distcifs_tests::errno(fs::read_dir(workspace)), nix::libc::ENOSPC);
    }
    wait_for("what was begun to be removed", USUAL, || {
        let found = Command::new("find")
            .arg(disk.store())
            .args(["-name", "big"])
            .output()
            .unwrap();
        String::from_utf8_lossy(&found.stdout).lines().count() == there.len()
    });
    mount.job("other", r#"{ "tasks": [] }"#);
    mount.build("other", "", "success");
    for (_held, workspace) in there {
        fs::remove_file(workspace.with_file_name("claim")).unwrap();
    }
    wait_for("room for the next", USUAL, || fs::read_dir(&refused[0].1).is_ok());
}

/// "Who fills the disk by a file that the kernel writes loses his claim, and the file is cut": also where the file stays
/// open, or is mapped and closed, with a name or without.
#[test]
fn a_file_that_the_kernel_writes_does_not_fill_the_disk() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let mapped = |then: &str| {
        format!(
            "truncate -s 120M big; python3 -c 'import ctypes, os, time
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
file = os.open(\"big\", os.O_RDWR)
at = libc.mmap(None, 120 << 20, 3, 1, file, 0)
os.close(file)
{then}
for page in range(0, 120 << 20, 4096):
    ctypes.memset(at + page, 1, 1)
    if page % (1 << 20) == 0: time.sleep(0.02)'"
        )
    };
    let fills = [
        "exec 3>big; for i in $(seq 120); do head -c 1M /dev/zero >&3 || :; sleep 0.02; done".to_owned(),
        mapped(""),
        mapped("os.unlink(\"big\")"),
    ];
    for fill in fills {
        let disk = SmallDisk::new("128m");
        let repository = Repository::in_folder(&disk.store());
        let words = Words::after(&["-o", "passthrough=96M"]);
        let mount = Mount::of(&repository, "first", words, TEST_LIMIT);
        mount.job("other", r#"{ "tasks": [] }"#);
        let _control = Worker::start(&mount, "build-control", &[]);
        mount.queue("q");
        let id = mount.post("q", &serde_json::json!({"attempts": 1}));
        let filler = mount.start(&format!(
            "cd tickets/q/{id}; exec 9>claim; cd workspace; {fill}; while ! [ -e \"$OUT/go\" ]; do sleep 0.1; done"
        ));
        wait_for("the claim to end", 3 * USUAL, || {
            mount.read(&format!("tickets/q/{id}/result")).contains("error")
        });
        wait_for("room", USUAL, || disk.free_mib() > 60);
        mount.job("another", r#"{ "tasks": [] }"#);
        mount.build("other", "", "success");
        fs::write(mount.out().join("go"), "").unwrap();
        filler.finish();
        wait_for("the room of it all", USUAL, || disk.free_mib() > 100);
    }
}

/// "While there are such files, other writes are refused from there on": who is asked for room ends nobody else's claim.
#[test]
fn who_is_asked_for_room_ends_nobody_elses_claim() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let disk = SmallDisk::new("400m");
    let (repository, words) = (Repository::in_folder(&disk.store()), ["-o", "passthrough=360M"]);
    let mount = Mount::of(&repository, "first", Words::after(&words), TEST_LIMIT);
    mount.queue("q");
    let works = |ticket: serde_json::Value, bytes: &str, told: &str| {
        let id = mount.post("q", &ticket);
        let end = format!("touch $OUT/{told}; while ! [ -e $OUT/go ]; do sleep 0.1; done; echo 0 > ../result");
        let work =
            format!("cd tickets/q/{id}; exec 9>claim; cd workspace; head -c {bytes} /dev/zero > big || :; {end}");
        let process = mount.start(&work);
        wait_for(told, 2 * USUAL, || mount.out().join(told).exists());
        (id, process)
    };
    let victim = works(serde_json::json!({"attempts": 1}), "5M", "written");
    let filler = works(serde_json::json!({"limits": {"disk": "2G"}}), "600M", "full");
    assert!((88..100).contains(&disk.free_mib()), "{} MiB are free", disk.free_mib());
    fs::write(mount.out().join("go"), "").unwrap();
    for (id, process) in [victim, filler] {
        process.finish();
        assert!(mount.read(&format!("tickets/q/{id}/result")).starts_with('0'));
    }
}

/// A disk of its own, in memory.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(size: &str) -> SmallDisk {
        let disk = SmallDisk(tempfile::tempdir().unwrap());
        let made = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"])
            .arg(disk.0.path())
            .status();
        assert!(made.unwrap().success());
        fs::create_dir(disk.store()).unwrap();
        disk
    }

    fn store(&self) -> std::path::PathBuf {
        self.0.path().join("store")
    }

    fn free_mib(&self) -> u64 {
        let figures = nix::sys::statvfs::statvfs(self.0.path()).unwrap();
        (figures.blocks_available() * figures.fragment_size()) >> 20
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// "So do texts that are being written": what was refused as too big is let go, and does not stay as spare
/// room of a descriptor that counts next to nothing.
#[test]
fn a_refused_text_takes_no_memory() {
    let mount = Mount::of_folder();
    mount.job("many", r#"{ "tasks": [] }"#);
    let before = distcifs_tests::process::resident_mib(mount.daemon());
    let open = "ulimit -n 1024; for i in $(seq 10 600); do eval \"exec $i<>jobs/many/trigger\" || exit 9
        head -c 262144 /dev/zero >&$i; echo x >&$i && exit 8; printf y >&$i || exit 7; done; touch $OUT/opened; sleep 60";
    let _held = mount.start_words(&["bash", "-c", &format!("cd {} && {open} 2>/dev/null", mount.root_text())]);
    // 590 programs, one after another: a minute on a busy machine.
    distcifs_tests::wait_for("all to be written", 5 * distcifs_tests::wait::USUAL, || {
        mount.out().join("opened").exists()
    });
    let grown = distcifs_tests::process::resident_mib(mount.daemon()) - before;
    assert!(grown < 64.0, "{grown} MiB");
}

/// "A full store refuses at open and says so in `why` and `status`"; once there is room, all goes on.
fn a_full_store_refuses_at_open(mount: &Mount, store: &std::path::Path) {
    mount.job("waits", r#"{ "tasks": [ { "type": "nobodys" } ] }"#);
    let n = mount.trigger("waits", "");
    let fill = "head -c 200M /dev/zero > filling; true";
    let filled = Command::new("sh").args(["-c", fill]).current_dir(store).status();
    assert!(filled.unwrap().success());
    for file in [
        "jobs/small/trigger",
        "jobs/small/config.json",
        "tickets/execute-shell/.post",
    ] {
        let opened = fs::OpenOptions::new().write(true).open(mount.path(file));
        assert_eq!(distcifs_tests::errno(opened), nix::libc::ENOSPC, "{file}");
    }
    assert!(mount.read("jobs/small/trigger.error").contains("bytes are free"));
    assert!(
        mount.why("waits", n).contains("bytes are free"),
        "{}",
        mount.why("waits", n)
    );
    assert!(mount.read("status").contains("room no: "), "{}", mount.read("status"));
    fs::remove_file(store.join("filling")).unwrap();
    assert!(mount.read("status").contains("room yes"), "{}", mount.read("status"));
    mount.write(&format!("jobs/waits/builds/{n}/ctl"), "abort\n").unwrap();
    mount.build("small", "", "success");
}

/// "`\"limits\": { \"disk\": \"2G\" }` bounds what a task's workspace and artifacts take of the disk, together.
/// It may stand in a task of any type … Beyond it every write … is ENOSPC, and `why` … says …"; "What the
/// tasks before left in the workspace counts too".
#[test]
fn a_task_takes_no_more_of_the_disk_than_its_limit() {
    let mount = Mount::new();
    let task = |script: &str, disk: &str| {
        let mut task = distcifs_tests::job::shell_task(script);
        task["limits"] = serde_json::json!({"disk": disk});
        task
    };
    let floods = [
        "head -c 20M /dev/zero > big",
        "head -c 5M /dev/zero > half; cp half \"$ARTIFACTS/half\"",
        "fallocate -l 100M big",
        "i=0; while mkdir $(seq -f d%g $i $((i+199))); do i=$((i+200)); done; exit 1",
        "head -c 5M /dev/zero > a; rm a; head -c 5M /dev/zero > a; truncate -s 0 a; head -c 5M /dev/zero > a; ln a b; cp a c",
    ];
    for (number, flood) in floods.iter().enumerate() {
        mount.job_of(&format!("flood{number}"), &[task(flood, "8M")]);
    }
    let left = [
        task("head -c 6M /dev/zero > left", "8M"),
        task(
            "head -c 6M /dev/zero > more || { rm left; head -c 6M /dev/zero > more; }",
            "8M",
        ),
        task("cp more \"$ARTIFACTS/more\"", "9M"),
    ];
    mount.job_of("left", &left);
    let _workers = Worker::usual(&mount, 1);
    for number in 0..floods.len() {
        let job = format!("flood{number}");
        let build = mount.build(&job, "", "failure");
        let why = mount.why(&job, build);
        assert!(
            why.contains("its folder holds its limits.disk of 8 MiB"),
            "{job}: {why}"
        );
        assert!(mount.console(&job, build).contains("No space left"), "{job}");
    }
    let build = mount.build("left", "", "failure");
    let why = mount.why("left", build);
    assert!(why.contains("limits.disk of 9 MiB"), "{why}");
}

/// "Who takes all that he can get hinders nobody else": the kernel reads ahead for everybody with a few requests,
/// and asynchronous reads of a file that may wait a second take none of them.
#[test]
fn asynchronous_reads_of_a_stream_leave_artifacts_readable() {
    let store = tempfile::tempdir().unwrap();
    let mount = Mount::new();
    let program = store.path().join("aio");
    compile("aio.c", &[], &program);
    mount.shell_job("large", &["head -c 192M /dev/urandom > \"$ARTIFACTS/large\"\n"]);
    let _workers = Worker::usual(&mount, 1);
    mount.build("large", "", "success");
    mount.job("held", r#"{"tasks": [{"type": "nobody-works-here"}]}"#);
    let held = mount.trigger("held", "");
    let mut reader = mount.start(&format!("exec {} jobs/held/builds/{held}/.wait", program.display()));
    wait_for("the reads", USUAL, || reader.so_far().contains("asked"));
    // Without the others' reads it takes a second; beside them it took 48.
    let large = mount.path("jobs/large/builds/1/artifacts/large");
    let copied = Command::new("timeout")
        .args(["25", "dd", "bs=1M", "of=/dev/null", "status=none"])
        .arg(format!("if={}", large.display()))
        .status()
        .unwrap();
    assert!(copied.success(), "{copied}");
    reader.kill9();
}
