//! What a held build does, on plain folders laid out like the tree.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;

use super::*;

/// "What is put into the params of all tasks of a build is bounded by 16 MiB", with what its tasks recorded since
/// the trigger: a task into which something is put is not begun then, others are.
#[test]
fn what_a_task_records_is_not_put_in_without_bound() {
    let folder = std::env::temp_dir().join(format!("distcifs-held-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("tickets/q")).unwrap();
    // What is written there is taken, and an answer comes.
    symlink("/dev/zero", folder.join("tickets/q/.post")).unwrap();
    let tree = Tree::new(&folder).unwrap();
    let record = tree.build("a", 1);
    fs::create_dir_all(&record).unwrap();
    let task = |index: usize| {
        let params = if index == 0 {
            json!({})
        } else {
            json!({ "p": vec!["${git_commit}"; 3] })
        };
        json!({ "index": index, "type": "q", "state": "waiting", "params": params })
    };
    let tasks: Vec<_> = (0..100).map(task).collect();
    let value = "x".repeat(60_000);
    let text = json!({ "job": "a", "build": 1, "params": { "git_commit": value }, "tasks": tasks });
    fs::write(record.join("build.json"), text.to_string()).unwrap();
    fs::create_dir_all(tree.ticket(QUEUE, "a.1")).unwrap();
    let mut held = Held::new(&tree, "a.1", "a", 1);
    // Once some have failed, the rest is not begun.
    assert_eq!(held.step(&tree).unwrap(), Step::More);
    assert_eq!(held.step(&tree).unwrap(), Step::Waiting);
    assert_eq!(held.posted.iter().collect::<Vec<_>>(), [&0]);
    let why = &held.broken[&7];
    assert!(why.contains("17820000 bytes") && why.contains("${git_commit}"), "{why}");
    fs::remove_dir_all(&folder).unwrap();
}

/// workers.md: "The workers write the result ... in the folder that they entered with their claim." A claim that
/// was lost leads into nothing of the next one, though the same process made that.
#[test]
fn a_build_of_a_lost_claim_is_not_ended() {
    let folder = std::env::temp_dir().join(format!("distcifs-held-lost-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    let tree = Tree::new(&folder).unwrap();
    let (ticket, lost) = (tree.ticket(QUEUE, "a.1.control"), folder.join("lost"));
    let enter = || {
        fs::create_dir_all(&ticket).unwrap();
        fs::write(ticket.join("result"), "").unwrap();
        fs::write(ticket.join("claim"), "1").unwrap();
        Held::new(&tree, "a.1.control", "a", 1)
    };
    fs::create_dir_all(tree.build("a", 1)).unwrap();
    let task = json!({ "index": 0, "type": "q", "state": "success", "params": {} });
    let text = json!({ "job": "a", "build": 1, "params": {}, "tasks": [task] });
    fs::write(tree.build("a", 1).join("build.json"), text.to_string()).unwrap();
    // One that was lost before it could be entered, and one that can't be entered yet.
    fs::create_dir_all(ticket.parent().unwrap()).unwrap();
    let mut unentered = Held::new(&tree, "a.1.control", "a", 1);
    symlink("a.1.control", &ticket).unwrap();
    let mut later = Held::new(&tree, "a.1.control", "a", 1);
    fs::remove_file(&ticket).unwrap();
    let mut former = enter();
    assert_eq!(unentered.step(&tree).unwrap(), Step::Over);
    assert!(fs::read(ticket.join("result")).unwrap().is_empty());
    fs::rename(&ticket, &lost).unwrap();
    let mut latter = enter();
    assert_eq!(former.step(&tree).unwrap(), Step::Over);
    former.give_back();
    let read = |folder: &Path| fs::read_to_string(folder.join("result")).unwrap();
    assert_eq!((read(&lost), read(&ticket)), ("success\n".to_owned(), String::new()));
    assert!(!lost.join("claim").exists() && ticket.join("claim").exists());
    assert_eq!(latter.step(&tree).unwrap(), Step::Over);
    assert_eq!(read(&ticket), "success\n");
    fs::write(ticket.join("result"), "").unwrap();
    assert_eq!(later.step(&tree).unwrap(), Step::Over);
    assert_eq!(read(&ticket), "success\n", "it entered the claim that this process has");
    fs::remove_dir_all(&folder).unwrap();
}

/// "It reads the whole record ... before it posts what runs `always`": the build may be aborted by now.
#[test]
fn a_clean_up_begins_on_the_whole_record() {
    let folder = std::env::temp_dir().join(format!("distcifs-held-always-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("tickets/q")).unwrap();
    symlink("/dev/zero", folder.join("tickets/q/.post")).unwrap();
    let tree = Tree::new(&folder).unwrap();
    let own = tree.build("a", 1).join("tasks/0-q");
    fs::create_dir_all(&own).unwrap();
    let first = |state: &str| json!({ "index": 0, "type": "q", "state": state, "needs": [], "run": 0 });
    let clean = json!({ "index": 1, "type": "q", "state": "waiting", "needs": [0], "always": true });
    let whole = |state: &str| {
        let text = json!({ "job": "a", "build": 1, "tasks": [first(state), clean] });
        fs::write(tree.build("a", 1).join("build.json"), text.to_string()).unwrap();
    };
    fs::create_dir_all(tree.ticket(QUEUE, "a.1")).unwrap();
    let mut held = Held::new(&tree, "a.1", "a", 1);
    whole("posted");
    assert_eq!(held.step(&tree).unwrap(), Step::Waiting);
    fs::write(own.join("task.json"), first("success").to_string()).unwrap();
    held.changed(Some(0));
    assert_eq!(held.step(&tree).unwrap(), Step::Doubtful);
    assert!(held.posted.is_empty(), "{:?}", held.posted);
    whole("success");
    held.changed(None);
    assert_eq!(held.step(&tree).unwrap(), Step::Waiting);
    assert!(held.posted.contains(&1));
    fs::remove_dir_all(&folder).unwrap();
}

/// "When a task has ended, and others have not, it reads that task's task.json alone. It reads the whole record if the task added tasks or
/// recorded parameters, before the build ends, and before it posts what runs `always`."
#[test]
fn of_a_task_that_ended_its_own_record_is_read() {
    let folder = std::env::temp_dir().join(format!("distcifs-held-task-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("tickets/q")).unwrap();
    // What is written there is taken, and an answer comes.
    symlink("/dev/zero", folder.join("tickets/q/.post")).unwrap();
    let tree = Tree::new(&folder).unwrap();
    let record = tree.build("a", 1);
    let task = |index: usize, state: &str| {
        let needs: Vec<usize> = index.checked_sub(1).into_iter().collect();
        json!({ "index": index, "type": "q", "state": state, "needs": needs, "run": 0 })
    };
    let whole = |states: &[&str]| {
        let tasks: Vec<_> = states
            .iter()
            .enumerate()
            .map(|(index, state)| task(index, state))
            .collect();
        let text = json!({ "job": "a", "build": 1, "tasks": tasks }).to_string();
        fs::create_dir_all(&record).unwrap();
        fs::write(record.join("build.json"), text).unwrap();
    };
    let alone = |value: serde_json::Value| {
        let own = record.join(format!("tasks/{}-q", value["index"]));
        fs::create_dir_all(&own).unwrap();
        fs::write(own.join("task.json"), value.to_string()).unwrap();
    };
    fs::create_dir_all(tree.ticket(QUEUE, "a.1")).unwrap();
    let mut held = Held::new(&tree, "a.1", "a", 1);
    whole(&["waiting", "waiting", "waiting", "waiting"]);
    assert_eq!(held.step(&tree).unwrap(), Step::Waiting);
    assert_eq!(held.posted.iter().collect::<Vec<_>>(), [&0]);
    // Whoever read the whole record would find no build any more.
    fs::remove_file(record.join("build.json")).unwrap();
    alone(task(0, "success"));
    held.changed(Some(0));
    assert_eq!(held.step(&tree).unwrap(), Step::Waiting);
    assert!(held.posted.contains(&1), "{:?}", held.posted);
    // One that added tasks, one that recorded, and one whose end is not seen yet.
    for (index, odd) in [
        (1, json!({"adds": true})),
        (2, json!({"recorded": [["a", "b"]]})),
        (3, json!({"state": "running"})),
    ] {
        let mut states = vec!["success"; index];
        states.resize(4, "waiting");
        whole(&states);
        held.changed(None);
        held.step(&tree).unwrap();
        states[index] = "success";
        whole(&states);
        let mut own = task(index, "success");
        own.as_object_mut().unwrap().extend(odd.as_object().unwrap().clone());
        alone(own);
        held.changed(Some(index));
        let known = held.read().unwrap();
        assert!(known.1, "{odd}: all of it is read");
    }
    // What seems to be over is looked at as a whole, and not as the last of its tasks first.
    whole(&["success", "success", "success", "running"]);
    held.changed(None);
    assert_eq!(held.step(&tree).unwrap(), Step::Waiting);
    alone(task(3, "success"));
    held.changed(Some(3));
    let (build, all) = held.read().unwrap();
    assert!(all && build.tasks[3].state == TaskState::Running);
    fs::remove_dir_all(&folder).unwrap();
}

/// "`why` names all of them, as far as they fit, and says how many more there are".
#[test]
fn all_jobs_that_were_not_triggered_are_named() {
    assert_eq!(not_triggered(&[]), None);
    let one = not_triggered(&[("a", "there is no such job")]).unwrap();
    assert_eq!(one, "job a could not be triggered: there is no such job");
    let three = not_triggered(&[("a", "no such job"), ("b", "it is off"), ("c", "no such job")]).unwrap();
    assert_eq!(
        three,
        "jobs a, b, c could not be triggered: a: no such job; b: it is off; c: no such job"
    );
    let names: Vec<String> = (100..400).map(|n| format!("a-long-name-of-a-job-{n}")).collect();
    let many: Vec<_> = names.iter().map(|name| (name.as_str(), "no such job")).collect();
    let line = not_triggered(&many).unwrap();
    let (named, _) = line.split_once(" more could not be triggered: ").unwrap();
    assert!(named.len() <= NAMES_BYTES_MAX + 40, "{named}");
    let (shown, more) = named.rsplit_once(" and ").unwrap();
    assert_eq!(shown.split(", ").count() + more.parse::<usize>().unwrap(), many.len());
}

/// A folder that can't be entered, for a reason that does not pass, is no build that is forgotten while its claim lives:
/// it is tried again, and then the ticket is given back.
#[test]
fn a_build_whose_folder_can_not_be_entered_is_given_back() {
    let folder = std::env::temp_dir().join(format!("distcifs-held-unentered-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    let tree = Tree::new(&folder).unwrap();
    let ticket = tree.ticket(QUEUE, "a.1.control");
    fs::create_dir_all(ticket.parent().unwrap()).unwrap();
    fs::create_dir_all(tree.build("a", 1)).unwrap();
    symlink("a.1.control", &ticket).unwrap();
    let mut held = Held::new(&tree, "a.1.control", "a", 1);
    for _ in 1..ENTRIES_MAX {
        assert_eq!(held.step(&tree).unwrap(), Step::Again);
    }
    assert_eq!(held.step(&tree).unwrap(), Step::Over);
    fs::remove_dir_all(&folder).unwrap();
}
