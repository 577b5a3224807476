//! Plans as tables: what each text makes of one, and what is refused.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::repository::config::read_added;

/// The text of tasks, each script of which does something.
fn text_of(tasks: &Value) -> String {
    let mut tasks = tasks.clone();
    for task in tasks.as_array_mut().unwrap() {
        if task["type"] == "execute-shell" {
            task["params"] = json!({"script": "true"});
        }
    }
    json!({ "tasks": tasks }).to_string()
}

fn config(tasks: &Value) -> Arc<JobConfig> {
    let text = text_of(tasks);
    Arc::new(JobConfig::read(text.as_bytes(), None).unwrap())
}

fn ceilings(plan: &Plan) -> Ceilings {
    Ceilings::of(plan.config(), &Name::new("j").unwrap(), &[], false)
}

/// Lays a text on a plan as a result does.
fn add(plan: &mut Plan, by: usize, tasks: &Value) -> Result<(), String> {
    let text = text_of(tasks);
    let ceilings = ceilings(plan);
    let (mut adding, before) = plan.adding(by, &ceilings);
    adding.taken.clear();
    let added = read_added(text.as_bytes(), &adding).map_err(|faults| faults[0].to_string())?;
    plan.may_add(&Name::new("j").unwrap(), by, &added.tasks, text.len() as u64)?;
    plan.push(
        by,
        &before,
        added,
        (format!("text-{}", plan.texts().len()), text.len() as u64),
    );
    Ok(())
}

fn plan(tasks: &Value) -> Plan {
    Plan::of(config(tasks))
}

fn needs(plan: &Plan, index: usize) -> Vec<usize> {
    plan.task(index).unwrap().waits_for()
}

#[test]
fn lines_have_names_where_tasks_run_side_by_side() {
    let names = |plan: &Plan| plan.tasks().map(|task| plan.name_of_lines(task)).collect::<Vec<_>>();
    assert_eq!(
        names(&plan(&json!([{"type": "t"}, {"type": "t", "name": "u"}]))),
        ["", ""]
    );
    let beside = json!([{"type": "t"}, {"type": "t", "needs": []}, {"type": "t", "name": "u"}]);
    assert_eq!(names(&plan(&beside)), ["0-t", "1-t", "u"]);
    // Those that were added too.
    let mut grown = plan(&json!([{"type": "execute-shell", "name": "generate"}]));
    add(&mut grown, 0, &json!([{"type": "execute-shell", "name": "a"}])).unwrap();
    assert_eq!(names(&grown), ["", ""]);
    let two = json!([{"type": "execute-shell", "name": "b"}, {"type": "execute-shell", "name": "c", "needs": []}]);
    add(&mut grown, 1, &two).unwrap();
    assert_eq!(names(&grown), ["generate", "a", "b", "c"]);
}

/// "Added tasks have the indexes after the highest one." "`needs` in tasks.json names tasks of the same text, the task
/// itself, and those that it waited for. A first task without `needs` starts from the task's workspace."
#[test]
fn what_is_added_stands_after_all_others_and_needs_what_it_names() {
    let mut plan = plan(&json!([
        {"type": "git-checkout", "name": "source", "params": {"repository": "https://x/y"}},
        {"type": "execute-shell", "name": "generate"},
        {"type": "execute-shell", "name": "deploy"},
    ]));
    let text = json!([
        {"type": "execute-shell", "name": "first"},
        {"type": "execute-shell", "name": "second"},
        {"type": "execute-shell", "name": "fresh", "needs": []},
        {"type": "execute-shell", "name": "from-source", "needs": ["source"]},
        {"type": "execute-shell", "name": "joined", "needs": ["first", "generate", "source"]},
        {"type": "execute-shell", "name": "unit", "matrix": {"x": ["1", "2"]}},
    ]);
    add(&mut plan, 1, &text).unwrap();
    assert_eq!((plan.count(), plan.added()), (10, 7));
    let found: Vec<_> = (3..10)
        .map(|index| (plan.task(index).unwrap().index, needs(&plan, index)))
        .collect();
    let wanted = [
        (3, vec![1]),
        (4, vec![3]),
        (5, vec![]),
        (6, vec![0]),
        (7, vec![3, 1, 0]),
        (8, vec![7]),
        (9, vec![7]),
    ];
    assert_eq!(found, wanted);
    assert_eq!(
        (plan.added_by(2), plan.added_by(3), plan.added_by(9)),
        (None, Some(1), Some(1))
    );
    assert_eq!(plan.added_by(10), None);
    // What waits for the task waits for all of these, and they for it alone.
    assert_eq!(plan.waits_for(2), [1, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(plan.waits_for(3), [1]);
    // A task of the same text is not among those that it waited for.
    let refused = add(
        &mut plan,
        3,
        &json!([{"type": "execute-shell", "name": "odd", "needs": ["second"]}]),
    );
    assert!(
        refused.unwrap_err().contains("no task is called"),
        "second has not ended"
    );
    let deep = json!([{"type": "execute-shell", "name": "deep", "needs": ["generate", "first", "source"]}]);
    add(&mut plan, 3, &deep).unwrap();
    assert_eq!(needs(&plan, 10), [1, 3, 0]);
    assert_eq!(
        plan.waits_for(4),
        [3, 10],
        "what waits for the one that added waits for that too"
    );
    assert_eq!(plan.waits_for(10), [1, 3, 0]);
}

/// "A name that another task took meanwhile makes the outcome `error`."
#[test]
fn a_name_is_taken_once() {
    let mut plan = plan(&json!([{"type": "execute-shell", "name": "unit"}, {"type": "execute-shell"}]));
    let one = |name: &str| json!([{"type": "execute-shell", "name": name}]);
    assert_eq!(
        add(&mut plan, 1, &one("unit")),
        Err("another task is called unit already".into())
    );
    add(&mut plan, 0, &one("a")).unwrap();
    assert_eq!(
        add(&mut plan, 1, &one("a")),
        Err("another task is called a already (added by 0-unit)".into())
    );
    // A task without a name of its own is called as others may be.
    add(&mut plan, 0, &json!([{"type": "execute-shell"}])).unwrap();
    add(&mut plan, 1, &json!([{"type": "execute-shell"}])).unwrap();
}

/// "A text has at most 500 tasks with those of matrices. A build has at most 4,000 tasks, 1,000 such texts of 16 MiB
/// together, and 8 levels of them. Past a bound: EINVAL that names it."
#[test]
fn what_is_added_is_bounded() {
    let text = |from: usize, count: usize| {
        let one = |n| json!({"type": "execute-shell", "name": format!("t{n}")});
        Value::from((from..from + count).map(one).collect::<Vec<_>>())
    };
    let job = |tasks: usize| {
        let mut config = (*config(&json!([{"type": "execute-shell"}]))).clone();
        config.allow.tasks = tasks;
        Plan::of(Arc::new(config))
    };
    let mut plan = job(4000);
    let refused = |plan: &mut Plan, by, tasks: &Value, bound: &str| {
        let why = add(plan, by, tasks).unwrap_err();
        assert!(why.contains(bound), "{why}");
    };
    refused(&mut plan, 0, &text(0, 501), "more than 500");
    for from in (0..3500).step_by(500) {
        add(&mut plan, 0, &text(from, 500)).unwrap();
    }
    refused(&mut plan, 0, &text(3500, 500), "more than 4000 tasks");
    add(&mut plan, 0, &text(3500, 499)).unwrap();
    assert_eq!(plan.count(), TASKS_MAX);
    let mut plan = job(500);
    add(&mut plan, 0, &text(0, 500)).unwrap();
    assert!(
        add(&mut plan, 0, &text(500, 1)).is_err(),
        "a job allows 500 of them unless it says more"
    );
    let mut plan = job(500);
    for level in 0..LEVELS_MAX {
        add(&mut plan, level, &text(level, 1)).unwrap();
    }
    refused(&mut plan, LEVELS_MAX, &text(LEVELS_MAX, 1), "more than 8 levels");
    add(&mut plan, LEVELS_MAX - 1, &text(LEVELS_MAX, 1)).unwrap();
    let mut plan = job(4000);
    for n in 0..TEXTS_MAX {
        add(&mut plan, 0, &text(n, 1)).unwrap();
    }
    refused(&mut plan, 0, &text(TEXTS_MAX, 1), "more than 1000 texts");
    let mut plan = job(500);
    let long = vec![plan.task(0).unwrap().clone()];
    let name = Name::new("j").unwrap();
    for _ in 0..16 {
        plan.may_add(&name, 0, &long, 1 << 20).unwrap();
        let added = Added {
            tasks: long.clone(),
            changed: None,
        };
        plan.push(0, &[0], added, ("text".into(), 1 << 20));
    }
    assert!(
        plan.may_add(&name, 0, &long, 1)
            .unwrap_err()
            .contains("more than 16777216 bytes")
    );
}

/// "The first git-checkout of config.json tells which paths changed", and nobody else: else it would hang on who ends first.
#[test]
fn one_task_tells_what_changed() {
    let checkout = |name: &str| json!({"type": "git-checkout", "name": name, "params": {"repository": "/r"}});
    let script = json!({"type": "execute-shell", "name": "a", "params": {"script": "true"}});
    let asks =
        json!({"type": "execute-shell", "name": "b", "when": {"changed": "src/*"}, "params": {"script": "true"}});
    let plain = plan(&json!([script, checkout("first"), checkout("second")]));
    let asked = plan(&json!([script, checkout("first"), checkout("second"), asks]));
    for (index, tells) in [(0, false), (1, true), (2, false), (3, false)] {
        assert_eq!(asked.tells_changed(index, false), tells, "{index}");
        assert_eq!(plain.tells_changed(index, true), tells && index < 3, "{index}");
        assert!(!plain.tells_changed(index, false), "nobody asks: {index}");
    }
    let text = json!({"tasks": [], "changed": ["src/a", "b"]}).to_string();
    let told = |by: usize| {
        let ceilings = ceilings(&asked);
        let (adding, before) = asked.adding(by, &ceilings);
        let added = read_added(text.as_bytes(), &adding).map_err(|faults| faults[0].to_string())?;
        let mut plan = asked.clone();
        plan.push(by, &before, added, ("text".into(), 1));
        Ok::<_, String>(plan)
    };
    assert_eq!(asked.changed(), None);
    assert_eq!(told(1).unwrap().changed().unwrap(), ["src/a", "b"]);
    for by in [0, 2, 3] {
        let why = told(by).unwrap_err();
        assert!(why.contains("unknown key"), "{why}");
    }
}

/// What the end of a build removes is one commit of the coordinator, however its job and its queues are called.
#[test]
fn a_build_has_no_more_tasks_than_its_end_can_remove() {
    let job = plan(&json!([{"type": "execute-shell"}]));
    let long = |bytes| Name::new(&"x".repeat(bytes)).unwrap();
    let mut task = job.task(0).unwrap().clone();
    assert_eq!(job.may_add(&long(80), 0, &vec![task.clone(); 3999], 1), Ok(()));
    let refused = job.may_add(&long(128), 0, &vec![task.clone(); 3999], 1).unwrap_err();
    assert!(refused.contains("its end can remove"), "{refused}");
    (task.kind, task.name) = (long(128), long(128));
    assert!(job.may_add(&long(128), 0, &vec![task.clone(); 3000], 1).is_err());
    assert_eq!(job.may_add(&long(128), 0, &vec![task; 2000], 1), Ok(()));
}

/// "A task that does not wait for it, by itself or by others, runs": whichever ended first, it is the same.
#[test]
fn what_changed_counts_for_who_waits_for_it() {
    let asks = |name: &str, needs: Value| json!({"type": "execute-shell", "name": name, "needs": needs, "when": {"changed": "src/*"}});
    let mut plan = plan(&json!([
        {"type": "git-checkout", "name": "c", "params": {"repository": "/r"}},
        {"type": "execute-shell", "name": "free", "needs": []},
        asks("beside", json!(["free"])),
        {"type": "execute-shell", "name": "next", "needs": ["c"]},
        asks("behind", json!(["next", "free"])),
    ]));
    let behind = plan.waits_for(4);
    let told = Added {
        tasks: Vec::new(),
        changed: Some(vec!["doc/a".to_owned()]),
    };
    plan.push(0, &[0], told, ("text".into(), 1));
    assert_eq!(plan.waits_for(4), behind);
    let fits: Vec<bool> = (0..5).map(|index| plan.changed_fits(index)).collect();
    assert_eq!(fits, [true, true, true, true, false]);
    // What it adds itself knows, and is looked at though others were before.
    add(&mut plan, 3, &json!([asks("added", json!(["next"]))])).unwrap();
    assert!(!plan.changed_fits(5) && plan.changed_fits(2));
}

proptest! {
    /// Whatever is added by whom: no task waits for itself over any others, so that each build ends.
    #[test]
    fn no_circle_comes_of_what_is_added(
        texts in prop::collection::vec((any::<usize>(), prop::collection::vec(prop::option::of(any::<usize>()), 1..4)), 0..12),
    ) {
        let mut plan = plan(&json!([{"type": "execute-shell", "name": "c0"}, {"type": "execute-shell", "name": "c1"}]));
        for (n, (by, tasks)) in texts.into_iter().enumerate() {
            let by = by % plan.count();
            let before = plan.before(by);
            let names: Vec<String> = before.iter().map(|index| plan.task(*index).unwrap().name.to_string()).collect();
            let one = |(at, need): (usize, &Option<usize>)| {
                let mut task = json!({"type": "execute-shell", "name": format!("t{n}-{at}")});
                if let Some(need) = need {
                    task["needs"] = json!([names[need % names.len()]]);
                }
                task
            };
            let text = Value::from(tasks.iter().enumerate().map(one).collect::<Vec<_>>());
            let added = add(&mut plan, by, &text);
            prop_assert!(added.is_ok() || added.as_ref().is_err_and(|why| why.contains("8 levels")), "{:?}", added);
        }
        // What has ended, until nothing more can: a task begins when all has that it waits for, and who added it.
        let mut over = vec![false; plan.count()];
        for _ in 0..plan.count() {
            for index in 0..plan.count() {
                let waits = plan.waits_for(index).into_iter().chain(plan.added_by(index));
                over[index] = over[index] || waits.into_iter().all(|other| over[other]);
            }
        }
        prop_assert!(over.iter().all(|over| *over));
    }
}
