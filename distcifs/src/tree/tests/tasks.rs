//! `tasks.json`: tasks that a task adds to its build (doc/tree.md).

use serde_json::{Value, json};

use super::driver::{Fd, Fs};
use super::verbs::errno;
use crate::repository::model::ticket::TicketKey;
use crate::repository::names::{Name, TicketId};

on_both! {
    a_task_adds_tasks_to_its_build,
    a_text_that_is_wrong_is_refused_when_it_is_closed,
    a_task_is_left_out_if_nothing_changed_that_it_asks_for,
    the_text_is_there_from_the_first_close_until_it_is_withdrawn,
    only_the_claimant_of_a_task_of_a_build_adds_tasks,
    a_text_is_bounded_and_comes_from_nowhere_else,
    a_claim_that_is_lost_takes_its_tasks_along,
    an_added_checkout_says_where_it_may_fetch_from,
    tasks_that_build_json_can_not_hold_are_refused,
    what_an_open_text_holds_counts_for_its_user,
    who_has_no_memory_left_claims_nothing,
    what_was_not_taken_stands_against_a_success,
    what_was_not_taken_is_taken_by_a_further_try,
    what_was_not_taken_counts_no_more_when_it_is_removed,
}

/// A job whose first task adds others before the second begins.
fn config() -> String {
    json!({ "tasks": [
        {"type": "execute-shell", "name": "generate", "params": {"script": "true"}},
        {"type": "execute-shell", "name": "deploy", "params": {"script": "true"}},
    ]})
    .to_string()
}

/// A text with a task of each name.
fn adds(names: &[&str]) -> String {
    let task = |name: &&str| json!({"type": "execute-shell", "name": name, "params": {"script": "true"}});
    json!({ "tasks": names.iter().map(task).collect::<Vec<_>>() }).to_string()
}

const TICKET: &str = "tickets/execute-shell/a.1.0";
const TASKS: &str = "tickets/execute-shell/a.1.0/tasks.json";
const ERROR: &str = "tickets/execute-shell/a.1.0/tasks.error";

/// A build whose first task is claimed: the claims of its own ticket and of that.
fn begun(fs: &Fs) -> (Fd<'_>, Fd<'_>) {
    fs.job("a", &config());
    fs.trigger("a", "");
    let control = fs.claim("build-control", "a.1.control").unwrap();
    let task = json!({"job": "a", "build": 1, "task": 0, "params": {"script": "true"}});
    assert_eq!(fs.post("execute-shell", &task), "a.1.0");
    (control, fs.claim("execute-shell", "a.1.0").unwrap())
}

fn tasks(fs: &Fs) -> Vec<String> {
    let mut names = fs.list("jobs/a/builds/1/tasks");
    names.sort();
    names
}

/// "It takes effect with the ticket's result, in the same commit, if the outcome is success." "plan.json shows all
/// tasks and which task added each."
fn a_task_adds_tasks_to_its_build(fs: Fs) {
    let (control, claim) = begun(&fs);
    fs.write(TASKS, adds(&["x", "y"])).unwrap();
    assert_eq!(tasks(&fs), ["0-generate", "1-deploy"]);
    fs.write(&format!("{TICKET}/result"), "success\n").unwrap();
    assert_eq!(tasks(&fs), ["0-generate", "1-deploy", "2-x", "3-y"]);
    let shown = |file: &str| -> Value { serde_json::from_str(&fs.read(&format!("jobs/a/builds/1/{file}"))).unwrap() };
    for file in ["plan.json", "build.json"] {
        let shown = shown(file);
        let of = |index: usize| {
            let task = &shown["tasks"][index];
            (task["name"].clone(), task["needs"].clone(), task["added_by"].clone())
        };
        assert_eq!(of(1), (json!("deploy"), json!([0]), Value::Null), "{file}");
        assert_eq!(of(2), (json!("x"), json!([0]), json!(0)), "{file}");
        assert_eq!(of(3), (json!("y"), json!([2]), json!(0)), "{file}");
    }
    assert!(shown("plan.json")["tasks"][0].get("state").is_none());
    // "builds/<n>/config.json stays as triggered."
    assert_eq!(fs.read("jobs/a/builds/1/config.json"), config());
    assert_eq!(fs.read("jobs/a/builds/1/tasks/2-x/state"), "waiting");
    assert_eq!(fs.read("jobs/a/builds/1/tasks/1-deploy/why"), "waits for 2-x, 3-y");
    drop((control, claim));
}

/// "`changed`: the task runs if the patterns take one of the paths." "The first git-checkout of config.json tells which
/// these are. A task that does not wait for it runs." "What is not known matches."
fn a_task_is_left_out_if_nothing_changed_that_it_asks_for(fs: Fs) {
    let asks = |name: &str, what: &str, needs: Value| json!({"type": "execute-shell", "name": name, "needs": needs, "when": {"changed": what}, "params": {"script": "true"}});
    let checkout = json!({"type": "git-checkout", "params": {"repository": "/r"}});
    let waits = || json!(["git-checkout"]);
    let config = json!({"tasks": [checkout, asks("src", "src/*", waits()), asks("doc", "doc/*", waits()), asks("early", "doc/*", json!([]))]});
    fs.job("a", &config.to_string());
    for told in [true, false] {
        let n = fs.trigger("a", "");
        let control = fs.claim("build-control", &format!("a.{n}.control")).unwrap();
        for (task, queue) in [(0, "git-checkout"), (3, "execute-shell")] {
            fs.post(queue, &json!({"job": "a", "build": n, "task": task, "params": {}}));
        }
        let early = fs.claim("execute-shell", &format!("a.{n}.3")).unwrap();
        fs.write(&format!("tickets/execute-shell/a.{n}.3/result"), "success\n")
            .unwrap();
        let claim = fs.claim("git-checkout", &format!("a.{n}.0")).unwrap();
        let ticket = format!("tickets/git-checkout/a.{n}.0");
        let json: Value = serde_json::from_str(&fs.read(&format!("{ticket}/ticket.json"))).unwrap();
        assert_eq!(json["changed"], true);
        if told {
            let text = json!({"tasks": [], "changed": ["src/a.c"]}).to_string();
            fs.write(&format!("{ticket}/tasks.json"), text).unwrap();
        }
        fs.write(&format!("{ticket}/result"), "success\n").unwrap();
        let state = |task: &str| fs.read(&format!("jobs/a/builds/{n}/tasks/{task}/state"));
        assert_eq!(state("1-src"), "waiting");
        assert_eq!(state("2-doc"), if told { "skipped" } else { "waiting" });
        assert_eq!(state("3-early"), "success");
        if told {
            assert_eq!(
                fs.read(&format!("jobs/a/builds/{n}/tasks/2-doc/why")),
                "its when leaves it out: none of the 1 paths that changed fits"
            );
        }
        drop((control, early, claim));
    }
}

/// "The text is checked when it is closed: EINVAL, and tasks.error has `tasks.json:line:column: what` for each fault."
/// "A `success` while tasks.error stands becomes `error` with its first line."
fn a_text_that_is_wrong_is_refused_when_it_is_closed(fs: Fs) {
    let (control, claim) = begun(&fs);
    let wrong = "{\"tasks\": [\n  {\"type\": \"build-control\"},\n  {\"nmae\": \"x\"}]}";
    assert_eq!(errno(fs.write(TASKS, wrong)), libc::EINVAL);
    let error = fs.read(ERROR);
    let mut places: Vec<_> = error
        .lines()
        .map(|line| line.splitn(4, ':').take(3).collect::<Vec<_>>().join(":"))
        .collect();
    places.dedup();
    assert_eq!(
        places,
        ["tasks.json:2:12", "tasks.json:3:3", "tasks.json:3:4"],
        "{error}"
    );
    fs.write(&format!("{TICKET}/result"), "success\n").unwrap();
    assert_eq!(fs.read("jobs/a/builds/1/tasks/0-generate/state"), "error");
    let why = fs.read("jobs/a/builds/1/tasks/0-generate/why");
    assert!(why.starts_with("tasks.json:2:12: "), "{why}");
    assert_eq!(tasks(&fs), ["0-generate", "1-deploy"]);
    drop((control, claim));
}

/// "absent until the claimant makes it"; "Unlinking it withdraws it", with what was wrong with it.
fn the_text_is_there_from_the_first_close_until_it_is_withdrawn(fs: Fs) {
    let (control, claim) = begun(&fs);
    assert!(!fs.has(TASKS) && !fs.has(ERROR));
    let open = fs.open(TASKS, libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC).unwrap();
    open.close().unwrap();
    assert!(!fs.has(TASKS), "who opens it alone says nothing");
    fs.write(TASKS, adds(&["x"])).unwrap();
    assert_eq!(fs.read(TASKS), adds(&["x"]));
    assert!(fs.list(TICKET).contains(&"tasks.json".to_owned()) && !fs.has(ERROR));
    assert_eq!(errno(fs.write(TASKS, "[]")), libc::EINVAL);
    assert!(fs.list(TICKET).contains(&"tasks.error".to_owned()));
    // What is put right is taken.
    fs.write(TASKS, adds(&["z"])).unwrap();
    assert!(!fs.has(ERROR));
    assert_eq!(errno(fs.write(TASKS, "[]")), libc::EINVAL);
    fs.unlink(TASKS).unwrap();
    assert!(!fs.has(TASKS) && !fs.has(ERROR));
    fs.write(&format!("{TICKET}/result"), "success\n").unwrap();
    assert_eq!(fs.read("jobs/a/builds/1/tasks/0-generate/state"), "success");
    assert_eq!(tasks(&fs), ["0-generate", "1-deploy"]);
    drop((control, claim));
}

/// "Whoever may record parameters writes" it. "A ticket that stands alone has none: EROFS."
fn only_the_claimant_of_a_task_of_a_build_adds_tasks(fs: Fs) {
    let (control, claim) = begun(&fs);
    let of_build = "tickets/build-control/a.1.control/tasks.json";
    assert_eq!(errno(fs.write(of_build, adds(&["x"]))), libc::EROFS);
    fs.queue("q");
    fs.post("q", &json!({"id": "t"}));
    assert_eq!(errno(fs.write("tickets/q/t/tasks.json", adds(&["x"]))), libc::EPERM);
    let alone = fs.claim("q", "t").unwrap();
    assert_eq!(errno(fs.write("tickets/q/t/tasks.json", adds(&["x"]))), libc::EROFS);
    assert!(!fs.has("tickets/q/t/tasks.json"));
    drop((control, claim, alone));
}

/// "More than 1 MiB is EFBIG. A rename onto it from another folder is EXDEV."
fn a_text_is_bounded_and_comes_from_nowhere_else(fs: Fs) {
    let (control, claim) = begun(&fs);
    let space = vec![b' '; (1 << 20) + 1];
    assert_eq!(errno(fs.write(TASKS, &space)), libc::EFBIG);
    assert!(!fs.has(TASKS));
    let mut most = adds(&["x"]).into_bytes();
    most.resize(1 << 20, b' ');
    fs.write(TASKS, &most).unwrap();
    fs.write("jobs/a/new", adds(&["y"])).unwrap();
    assert_eq!(errno(fs.rename("jobs/a/new", TASKS)), libc::EXDEV);
    fs.write(&format!("{TICKET}/workspace/new"), adds(&["y"])).unwrap();
    assert_eq!(errno(fs.rename(&format!("{TICKET}/workspace/new"), TASKS)), libc::EXDEV);
    drop((control, claim));
}

/// "With a claim that is lost, it is discarded": the next one begins without.
fn a_claim_that_is_lost_takes_its_tasks_along(fs: Fs) {
    let (control, claim) = begun(&fs);
    fs.write(TASKS, adds(&["x"])).unwrap();
    fs.unlink(&format!("{TICKET}/claim")).unwrap();
    drop(claim);
    let again = fs.claim("execute-shell", "a.1.0").unwrap();
    assert!(!fs.has(TASKS));
    fs.write(&format!("{TICKET}/result"), "success\n").unwrap();
    assert_eq!(tasks(&fs), ["0-generate", "1-deploy"]);
    drop((control, again));
}

/// "`repositories` of ticket.json names them": of a checkout that was added, where its submodules may come from.
fn an_added_checkout_says_where_it_may_fetch_from(fs: Fs) {
    let main = "https://TOKEN@example.org/main";
    let checkout = |name: &str| json!({"type": "git-checkout", "name": name, "params": {"repository": main}});
    let generate = json!({"type": "execute-shell", "name": "generate", "params": {"script": "true"}});
    fs.job("a", &json!({"tasks": [generate, checkout("own")]}).to_string());
    fs.trigger("a", "");
    let control = fs.claim("build-control", "a.1.control").unwrap();
    fs.post(
        "execute-shell",
        &json!({"job": "a", "build": 1, "task": 0, "params": {"script": "true"}}),
    );
    let claim = fs.claim("execute-shell", "a.1.0").unwrap();
    fs.write(TASKS, json!({"tasks": [checkout("more")]}).to_string())
        .unwrap();
    fs.write(&format!("{TICKET}/result"), "success\n").unwrap();
    let repositories = |task: usize| {
        fs.post(
            "git-checkout",
            &json!({"job": "a", "build": 1, "task": task, "params": {"repository": main}}),
        );
        let ticket = fs.read(&format!("tickets/git-checkout/a.1.{task}/ticket.json"));
        serde_json::from_str::<Value>(&ticket).unwrap()["repositories"].clone()
    };
    assert_eq!(repositories(1), Value::Null);
    assert_eq!(repositories(2), json!(["https://example.org/main.git"]));
    drop((control, claim));
}

/// "The tasks of a build take at most 16 MiB of its build.json": a short text may stand for much more.
fn tasks_that_build_json_can_not_hold_are_refused(fs: Fs) {
    let (control, claim) = begun(&fs);
    let values: Vec<usize> = (0..250).collect();
    let task = |name: &str, script: String| json!({"type": "execute-shell", "name": name, "params": {"script": script}, "matrix": {"x": values}});
    // Six bytes of JSON for each of the script.
    let much = json!({"tasks": [task("a", "\u{1}".repeat(12_000))]}).to_string();
    assert_eq!(errno(fs.write(TASKS, &much)), libc::EINVAL);
    let error = fs.read(ERROR);
    assert!(
        error.starts_with("tasks.json:1:10: tasks are too much: ") && error.contains("16777216"),
        "{error}"
    );
    let config = json!({"tasks": [task("a", "\u{1}".repeat(12_000))]}).to_string();
    fs.mkdir("jobs/b").unwrap();
    assert_eq!(errno(fs.write("jobs/b/config.json", config)), libc::EINVAL);
    assert!(fs.read("jobs/b/config.error").contains("tasks are too much"));
    fs.write(TASKS, json!({"tasks": [task("a", "x".repeat(12_000))]}).to_string())
        .unwrap();
    drop((control, claim));
}

/// "What open files hold is bounded for each user": a text that was there when it was opened, one that is extended, and
/// what was cut off no more.
fn what_an_open_text_holds_counts_for_its_user(fs: Fs) {
    let (control, claim) = begun(&fs);
    fs.write(TASKS, most()).unwrap();
    // 96 MiB is what all open files may hold.
    for (path, flags, extends) in [
        (TASKS, libc::O_RDWR, false),
        (TASKS, libc::O_RDWR | libc::O_TRUNC, true),
    ] {
        let mut open = Vec::new();
        let refused = loop {
            assert!(open.len() <= 96, "{extends}: {} are open", open.len());
            let one = fs.open(path, flags).and_then(|file| {
                if extends {
                    file.truncate(1 << 20)?;
                }
                Ok(file)
            });
            match one {
                Ok(file) => open.push(file),
                Err(error) => break Err::<(), _>(error),
            }
        };
        assert_eq!(errno(refused), libc::ENOMEM);
        assert!(open.len() > 10, "{}", open.len());
        let part = open[0].read().unwrap();
        assert!(part.starts_with(if extends { b"\0" } else { b"{" }));
        // What is cut off is free again.
        open[0].truncate(0).unwrap();
        let file = fs.open(path, libc::O_WRONLY | libc::O_TRUNC).unwrap();
        file.truncate(1 << 20).unwrap();
        file.truncate(0).unwrap();
        for file in &open {
            file.truncate(0).unwrap();
        }
    }
    drop((control, claim));
}

/// Open files that leave less than 1 MiB of the room of all.
fn without_room(fs: &Fs) -> Vec<Fd<'_>> {
    let mut open = Vec::new();
    loop {
        let one = fs.open(TASKS, libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC).unwrap();
        let held = one.truncate(1 << 20);
        if held.is_err() {
            assert_eq!(errno(held), libc::ENOMEM);
            return open;
        }
        open.push(one);
    }
}

/// The end of the task with a success, as its state and why say it.
fn succeeds(fs: &Fs) -> (String, String) {
    fs.write(&format!("{TICKET}/result"), "success\n").unwrap();
    let read = |file: &str| fs.read(&format!("jobs/a/builds/1/tasks/0-generate/{file}"));
    (read("state"), read("why"))
}

fn most() -> Vec<u8> {
    let mut most = adds(&["x"]).into_bytes();
    most.resize(1 << 20, b' ');
    most
}

/// "So does a `success` after something was written that was not taken": a close that fails for want of memory, and one
/// that never came.
fn what_was_not_taken_stands_against_a_success(fs: Fs) {
    let (control, claim) = begun(&fs);
    let mut file = fs.open(TASKS, libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC).unwrap();
    file.write(&most()).unwrap();
    let others = without_room(&fs);
    assert_eq!(errno(file.fsync()), libc::ENOMEM);
    assert_eq!(errno(file.close()), libc::ENOMEM);
    drop(others);
    assert!(!fs.has(TASKS));
    let (state, why) = succeeds(&fs);
    assert!(
        state == "error" && why.starts_with("tasks.json: what was written was not taken"),
        "{state}: {why}"
    );
    assert_eq!(tasks(&fs), ["0-generate", "1-deploy"]);
    drop((control, claim));
}

/// "After EIO, ETIMEDOUT and ENOMEM a further fsync or close of the same descriptor tries again."
fn what_was_not_taken_is_taken_by_a_further_try(fs: Fs) {
    let (control, claim) = begun(&fs);
    let mut file = fs.open(TASKS, libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC).unwrap();
    file.write(&most()).unwrap();
    let others = without_room(&fs);
    assert_eq!(errno(file.fsync()), libc::ENOMEM);
    drop(others);
    file.fsync().unwrap();
    file.close().unwrap();
    assert_eq!(succeeds(&fs).0, "success");
    assert_eq!(tasks(&fs), ["0-generate", "1-deploy", "2-x"]);
    drop((control, claim));
}

/// "It says so until tasks.json is written again and closed, or removed", or as long as it is open with something.
fn what_was_not_taken_counts_no_more_when_it_is_removed(fs: Fs) {
    let (control, claim) = begun(&fs);
    assert_eq!(errno(fs.write(TASKS, vec![b' '; (1 << 20) + 1])), libc::EFBIG);
    let key = TicketKey {
        queue: Name::new("execute-shell").unwrap(),
        id: TicketId::new("a.1.0").unwrap(),
    };
    let held = fs.tree().repository.claims.held.get(&key).unwrap();
    let against = || held.untaken().unwrap_or_default();
    assert!(against().contains("was not taken"), "{}", against());
    fs.write(TASKS, adds(&["x"])).unwrap();
    assert_eq!(against(), "");
    assert_eq!(errno(fs.write(TASKS, vec![b' '; (1 << 20) + 1])), libc::EFBIG);
    fs.unlink(TASKS).unwrap();
    assert_eq!(against(), "");
    let mut file = fs.open(TASKS, libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC).unwrap();
    assert_eq!(against(), "", "who opens it alone says nothing");
    file.write(b"{").unwrap();
    assert!(against().contains("it is open"), "{}", against());
    file.truncate(0).unwrap();
    assert_eq!(against(), "");
    drop(file);
    assert_eq!(succeeds(&fs).0, "success");
    assert_eq!(tasks(&fs), ["0-generate", "1-deploy"]);
    drop((control, claim));
}

/// "Who is told that it failed has nothing": neither a ticket that its session would hold, nor a number that nobody
/// forgets.
fn who_has_no_memory_left_claims_nothing(fs: Fs) {
    let (control, claim) = begun(&fs);
    fs.queue("q");
    fs.post("q", &json!({"id": "one"}));
    let open = without_room(&fs);
    let mut more = Vec::new();
    while let Ok(one) = fs.open(TASKS, libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC) {
        assert!(more.len() < 1 << 16, "there is no bound");
        more.push(one);
    }
    for _ in 0..3 {
        let refused = fs.open("tickets/q/one/claim", libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY);
        assert_eq!(errno(refused.map(drop)), libc::ENOMEM);
    }
    drop((more, open));
    drop(fs.claim("q", "one").unwrap());
    drop((control, claim));
}
