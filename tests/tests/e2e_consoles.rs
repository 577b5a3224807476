//! Consoles and folders of tasks: whose a line is, what is in order, and why a task failed.

use std::fs::{self, File};
use std::path::PathBuf;

use distcifs_tests::job::shell_task;
use distcifs_tests::mount::{TEST_LIMIT, Words};
use distcifs_tests::programs::compile;
use distcifs_tests::repository::Repository;
use distcifs_tests::wait::USUAL;
use distcifs_tests::{Mount, Worker, wait_for};
use serde_json::{Value, json};

/// A task of this name that waits for nothing.
fn beside(name: &str, script: &str) -> Value {
    let mut task = shell_task(script);
    (task["name"], task["needs"]) = (json!(name), json!([]));
    task
}

/// "Where two tasks of a build can run at the same time, each line of its console begins with the name of
/// its task, and is of that task alone. A task's own console is byte for byte what it wrote."
#[test]
fn lines_of_tasks_side_by_side_do_not_mix() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 2);
    let script = |text: &str, pause: &str| {
        format!(
            "for i in $(seq 20); do printf '{text}'; sleep {pause}; echo '{text}'; done; printf '{text}\\r{text}'\n"
        )
    };
    mount.job_of(
        "a",
        &[
            beside("first", &script("aaaa", "0.05")),
            beside("second", &script("bbbb", "0.03")),
        ],
    );
    let build = mount.build("a", "", "success");
    let folder = format!("jobs/a/builds/{build}");
    let console = mount.raw(&format!("{folder}/console"));
    assert!(console.ends_with('\n'), "{console}");
    for (task, text, other) in [("first", "aaaa", 'b'), ("second", "bbbb", 'a')] {
        let index = usize::from(task == "second");
        let own = mount.raw(&format!("{folder}/tasks/{index}-{task}/console"));
        assert_eq!(own, format!("{text}{text}\n").repeat(20) + text + "\r" + text);
        let name = format!("[{task}] ");
        let lines: Vec<&str> = console.lines().filter(|line| line.starts_with(&name)).collect();
        assert!(
            !lines.iter().any(|line| line.replace(&name, "").contains(other)),
            "{console}"
        );
        let said = lines.concat().replace(&name, "");
        assert_eq!(said, own.replace('\n', ""), "{console}");
    }
    let named = |line: &str| line.starts_with("[first] ") || line.starts_with("[second] ");
    assert!(console.lines().all(named), "{console}");
}

/// "Where tasks run one after another nothing stands before the lines. Each task begins a line of its own, and
/// one that ends without a line end is followed by one": the rest is byte for byte what they wrote.
#[test]
fn tasks_one_after_another_begin_lines_of_their_own() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    mount.shell_job(
        "a",
        &[
            "printf 'no line end'",
            "printf '\\000\\377\\r'",
            "printf 'progress\\r'; echo; echo other",
            "printf last",
        ],
    );
    let build = mount.build("a", "", "success");
    let path = mount.path(&format!("jobs/a/builds/{build}/console"));
    let console = std::fs::read(path).expect("it is there");
    assert_eq!(
        console.escape_ascii().to_string(),
        b"no line end\n\0\xff\r\nprogress\r\nother\nlast\n"
            .escape_ascii()
            .to_string()
    );
    assert_eq!(
        mount.raw("jobs/a/builds/1/tasks/0-execute-shell/console"),
        "no line end"
    );
}

/// "`tail -f` shows the lines in the order in which the console keeps them."
#[test]
fn what_is_shown_live_is_what_is_kept() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 2);
    let go = mount.out().join("go");
    let script = format!(
        "until [ -e '{}' ]; do sleep 0.05; done; for i in $(seq 50); do echo $i; printf .; done\n",
        go.display()
    );
    mount.job_of("a", &[beside("one", &script), beside("two", &script)]);
    mount.trigger("a", "");
    let tail = mount.start("exec tail -n +1 -f jobs/a/builds/1/console");
    File::create(&go).expect("own folder");
    assert_eq!(mount.wait_state("a", 1), "success");
    let kept = mount.raw("jobs/a/builds/1/console");
    wait_for("all of it", USUAL, || tail.so_far().len() >= kept.len());
    assert_eq!(tail.so_far(), kept);
}

/// "tasks/<i>-<name>/": unnamed ones are called by their type. "`name`", "`why`: … then the last lines of one
/// that failed", and `.events` calls them so, too.
#[test]
fn folders_of_tasks_have_their_names_and_say_why() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    let listener = mount.listen();
    let script = "for i in $(seq 30); do echo line $i; done; printf '10%%\\r20%%\\n'
        echo 'from https://me:secret@example.org/x'; printf '\\033[31mred\\033[0m\\007'; exit 4\n";
    let mut failing = shell_task(script);
    failing["name"] = json!("unit");
    let mut report = shell_task("true");
    report["always"] = json!(true);
    let mut never = shell_task("true");
    never["name"] = json!("deploy.prod");
    mount.job_of("a", &[shell_task("true"), failing, never, report]);
    let build = mount.build("a", "", "failure");
    let folder = format!("jobs/a/builds/{build}/tasks");
    let names = ["0-execute-shell", "1-unit", "2-deploy.prod", "3-execute-shell"];
    assert_eq!(mount.list(&folder), names);
    let read = |file: &str| mount.raw(&format!("{folder}/{file}"));
    assert_eq!(
        (read("0-execute-shell/name"), read("1-unit/name")),
        ("execute-shell\n".into(), "unit\n".into())
    );
    let lines: String = (24..=30).map(|line| format!("line {line}\n")).collect();
    assert_eq!(
        read("1-unit/why"),
        format!("exit 4\n{lines}20%\nfrom https://***@example.org/x\nred?\n")
    );
    assert_eq!(read("0-execute-shell/why"), "it ended well\n");
    assert_eq!(read("2-deploy.prod/why"), "the build ended without it\n");
    assert!(mount.why("a", build).contains("1-unit"), "{}", mount.why("a", build));
    wait_for("the events", USUAL, || {
        let seen = listener.so_far();
        seen.contains("task a/1/1-unit failure") && seen.contains("task a/1/3-execute-shell success")
    });
    assert!(!mount.has(&format!("{folder}/1-execute-shell")));
}

/// A disk that takes no sync for as long as this is there.
struct Held(PathBuf);

impl Drop for Held {
    fn drop(&mut self) {
        fs::remove_file(&self.0).expect("it is held by this");
    }
}

/// More than there are threads that answer the kernel.
const SYNCS: usize = 8;

/// Of what waits for a disk so much is under way for one owner; the rest waits for its turn.
const OF_ONE_OWNER: usize = 4;

/// "While the disk of a mount takes no sync, `ls`, `stat` and a read of a console on it are answered": so it
/// is whoever waits for the sync, and all of them go on with it.
#[test]
fn a_disk_that_takes_no_sync_holds_up_nobody_else() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (shim, held) = (folder.path().join("held.so"), folder.path().join("held"));
    compile("held.c", &["-shared", "-fPIC"], &shim);
    let before = [
        "env".to_owned(),
        format!("LD_PRELOAD={}", shim.display()),
        format!("HELD={}", held.display()),
    ];
    let words = Words {
        before: before.to_vec(),
        after: Vec::new(),
    };
    let repository = Repository::new(&folder.path().join("store"));
    let mount = Mount::of(&repository, "first", words, TEST_LIMIT);
    mount.job_of("a", &[shell_task("true\n")]);
    mount.queue("q");
    mount.post("q", &json!({"id": "t"}));
    let _claim = mount.claim("q", "t").expect("the ticket");
    mount.write("tickets/q/t/console", "a line\n").expect("the console");
    File::create(&held).expect("a file");
    let held = Held(held);
    let syncs = mount.start(&format!(
        "cd tickets/q/t/workspace; i=0
        while [ $i -lt {SYNCS} ]; do i=$((i+1)); {{ dd if=/dev/zero of=f$i bs=4k count=1 conv=fsync 2>/dev/null && echo done; }} & done
        wait"
    ));
    let waits = folder.path().join("held.waits");
    wait_for("syncs under way, and all files", USUAL, || {
        let files = mount.list("tickets/q/t/workspace");
        let written = |file: &String| mount.read(&format!("tickets/q/t/workspace/{file}")).len() == 4096;
        fs::metadata(&waits).is_ok_and(|waits| waits.len() >= OF_ONE_OWNER as u64)
            && files.len() == SYNCS
            && files.iter().all(written)
    });
    let answered = mount.run(
        "ls jobs; stat -c %F jobs/a/config.json; cat tickets/q/t/console
        cd tickets/q/t/workspace; ls | wc -l; stat -c %s f1; echo more > more; cat more",
    );
    let expected = format!("a\nregular file\na line\n{SYNCS}\n4096\nmore");
    assert_eq!(answered, expected);
    assert!(syncs.alive(), "they wait for the disk");
    drop(held);
    assert_eq!(syncs.finish().expect_ok(), ["done"; SYNCS].join("\n"));
}
