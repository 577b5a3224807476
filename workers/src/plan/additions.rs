//! Builds to which tasks add tasks while they run, and what is skipped in them.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// A task of a build: its state, what it needs, who added it, the workspace that it left.
type Row<'a> = (&'a str, &'a [usize], Option<usize>, Option<&'a str>);

fn build(rows: &[Row<'_>]) -> Build {
    let one = |(index, (state, needs, added_by, workspace)): (usize, &Row<'_>)| {
        json!({ "index": index, "type": "t", "state": state, "needs": needs, "added_by": added_by,
            "workspace": workspace })
    };
    let tasks: Vec<Value> = rows.iter().enumerate().map(one).collect();
    let text = json!({ "job": "j", "build": 7, "tasks": tasks }).to_string();
    Build::parse(text.as_bytes()).unwrap()
}

fn started_from(rows: &[Row<'_>], index: usize) -> Option<String> {
    let build = build(rows);
    let posted = serde_json::to_value(posting(&build, index).unwrap()).unwrap();
    posted["workspace"].as_str().map(str::to_owned)
}

/// "What waits for a task waits for all that it added as well, and for what those added. Tasks that it added wait for
/// the task alone."
#[test]
fn what_waits_for_a_task_waits_for_what_it_added() {
    // 0 added 2 and 3, 3 added 4; 1 waits for 0.
    let build_of = |two, three, four| {
        build(&[
            ("success", &[], None, None),
            ("waiting", &[0], None, None),
            (two, &[0], Some(0), None),
            (three, &[0], Some(0), None),
            (four, &[3], Some(3), None),
        ])
    };
    for (two, three, four, next) in [
        ("waiting", "waiting", "waiting", Plan::Post(vec![2, 3])),
        ("success", "running", "waiting", Plan::Wait),
        ("success", "success", "waiting", Plan::Post(vec![4])),
        ("success", "success", "posted", Plan::Wait),
        ("running", "success", "success", Plan::Wait),
        ("success", "success", "success", Plan::Post(vec![1])),
        ("success", "skipped", "success", Plan::Post(vec![1])),
    ] {
        assert_eq!(plan(&build_of(two, three, four)), next, "{two} {three} {four}");
    }
    let Plan::Finish(TaskState::Failure, line) = plan(&build_of("success", "success", "failure")) else {
        panic!("what was added failed");
    };
    assert_eq!(line, "task 4-t: failure");
}

/// A clean-up waits for what was added too, and begins though some of that never started.
#[test]
fn always_waits_for_what_was_added() {
    let rows = |two, three| {
        let mut build = build(&[
            ("success", &[], None, None),
            ("waiting", &[0], None, None),
            (two, &[0], Some(0), None),
            (three, &[2], Some(0), None),
        ]);
        build.tasks[1].always = true;
        build
    };
    assert_eq!(plan(&rows("running", "waiting")), Plan::Wait);
    assert_eq!(plan(&rows("failure", "waiting")), Plan::Post(vec![1]));
    assert_eq!(plan(&rows("success", "waiting")), Plan::Post(vec![3]));
}

/// The entry may be heard before the ticket of the task that added: what that added does not overtake it.
#[test]
fn what_is_added_begins_after_the_task_that_added_it() {
    let rows = [("running", &[][..], None, None), ("waiting", &[], Some(0), None)];
    assert_eq!(plan(&build(&rows)), Plan::Wait);
}

/// "A task that does not match ends as `skipped`, which counts as success for what waits for it and for the build."
#[test]
fn a_skipped_task_counts_as_success() {
    let rows = [
        ("skipped", &[][..], None, None),
        ("waiting", &[0], None, None),
        ("skipped", &[1], None, None),
    ];
    assert_eq!(plan(&build(&rows)), Plan::Post(vec![1]));
    let mut done = build(&rows);
    done.tasks[1].state = TaskState::Success;
    assert_eq!(plan(&done), Plan::Finish(TaskState::Success, String::new()));
    // In a retry too: no ticket of this run says so, because there is none.
    done.run = 3;
    done.tasks[1].run = Some(2);
    assert_eq!(plan(&done), Plan::Finish(TaskState::Success, String::new()));
    done.tasks[1].state = TaskState::Failure;
    assert_eq!(plan(&done), Plan::Post(vec![1]));
}

/// One that is skipped passes on what it would have started from: what waits for it waits for that too.
#[test]
fn who_waits_for_a_skipped_task_waits_for_what_stands_before_it() {
    let rows = |first| {
        build(&[
            (first, &[], None, None),
            ("skipped", &[2], None, None),
            ("skipped", &[0], None, None),
            ("waiting", &[1], None, None),
        ])
    };
    assert_eq!(plan(&rows("waiting")), Plan::Post(vec![0]));
    assert_eq!(plan(&rows("running")), Plan::Wait);
    assert_eq!(plan(&rows("success")), Plan::Post(vec![3]));
}

/// "What waits for it starts from the workspace of the last of them that left one, in the order of the texts. Else it
/// starts from the task's own."
#[test]
fn the_workspace_is_that_of_the_last_that_left_one() {
    // 0 adds 2 and 3; 2 adds 4, which has the highest index and stands before 3 in the order of the texts.
    let rows = |two, three, four| {
        started_from(
            &[
                ("success", &[], None, Some("w0")),
                ("waiting", &[0], None, None),
                ("success", &[0], Some(0), two),
                ("success", &[0], Some(0), three),
                ("success", &[2], Some(2), four),
            ],
            1,
        )
    };
    for (two, three, four, from) in [
        (Some("w2"), Some("w3"), Some("w4"), "w3"),
        (Some("w2"), None, Some("w4"), "w4"),
        (Some("w2"), None, None, "w2"),
        (None, None, None, "w0"),
    ] {
        assert_eq!(
            rows(two, three, four).as_deref(),
            Some(from),
            "{two:?} {three:?} {four:?}"
        );
    }
}

/// "A first task without `needs` starts from the task's workspace", whatever its neighbours left.
#[test]
fn what_was_added_starts_from_the_task_itself() {
    let rows = [
        ("success", &[][..], None, Some("w0")),
        ("success", &[0], Some(0), Some("w1")),
        ("waiting", &[0], Some(0), None),
        ("waiting", &[], Some(0), None),
        ("skipped", &[0], Some(0), None),
        ("waiting", &[4], Some(0), None),
        ("waiting", &[1], Some(0), None),
    ];
    for (index, from) in [(2, Some("w0")), (3, None), (5, Some("w0")), (6, Some("w1"))] {
        assert_eq!(started_from(&rows, index).as_deref(), from, "{index}");
    }
}

/// A skipped task passes on what it would have started from, with what was added before it.
#[test]
fn a_skipped_task_passes_the_workspace_on() {
    let rows = [
        ("success", &[][..], None, Some("w0")),
        ("skipped", &[0], None, None),
        ("waiting", &[1], None, None),
        ("success", &[0], Some(0), Some("w3")),
    ];
    assert_eq!(started_from(&rows, 2).as_deref(), Some("w3"));
}

/// What is drawn for one task that ends: which of those that run it is, how it ends, and how many tasks it adds with
/// what they need.
#[derive(Debug, Clone)]
struct Draw {
    which: usize,
    ends: u8,
    added: Vec<Vec<usize>>,
    leaves: bool,
}

fn draws() -> impl Strategy<Value = Vec<Draw>> {
    let needs = prop::collection::vec(any::<usize>(), 0..3);
    let added = prop::collection::vec(needs, 0..4);
    let one = (any::<usize>(), any::<u8>(), added, any::<bool>());
    let one = one.prop_map(|(which, ends, added, leaves)| Draw {
        which,
        ends,
        added,
        leaves,
    });
    prop::collection::vec(one, 0..60)
}

/// A build that runs as the draws say: what of it was posted when, and what it came to.
struct Run {
    build: Build,
    draws: std::vec::IntoIter<Draw>,
    ended: Vec<usize>,
}

/// Most levels of additions and most tasks here.
const LEVELS: usize = 4;
const TASKS: usize = 60;

impl Run {
    fn task(&mut self, needs: Vec<usize>, added_by: Option<usize>) {
        let index = self.build.tasks.len();
        let task = json!({ "index": index, "type": "t", "needs": needs, "added_by": added_by });
        self.build.tasks.push(serde_json::from_value(task).unwrap());
    }

    fn descendants(&self, of: usize) -> Vec<usize> {
        let tasks = &self.build.tasks;
        let children = tasks
            .iter()
            .filter(|task| task.added_by == Some(of))
            .map(|task| task.index);
        children
            .flat_map(|child| std::iter::once(child).chain(self.descendants(child)))
            .collect()
    }

    fn is_below(&self, index: usize, other: usize) -> bool {
        self.descendants(other).contains(&index)
    }

    /// All that must have ended when a task begins. Of one that is skipped that is what it would have waited for.
    fn waits_for(&self, index: usize) -> Vec<usize> {
        let task = &self.build.tasks[index];
        let of = |need: &usize| {
            let mut all = vec![*need];
            if !self.is_below(index, *need) {
                all.extend(self.descendants(*need));
            }
            all
        };
        let all = task.needs.iter().flat_map(of).chain(task.added_by);
        let (skipped, ran): (Vec<usize>, Vec<usize>) =
            all.partition(|index| self.build.tasks[*index].state == TaskState::Skipped);
        skipped
            .into_iter()
            .flat_map(|index| self.waits_for(index))
            .chain(ran)
            .collect()
    }

    /// The workspace that a task starts from, by the sentence of the contract.
    fn starts_from(&self, index: usize) -> Option<String> {
        let before = *self.build.tasks[index].needs.first()?;
        let mut order = vec![before];
        if !self.is_below(index, before) {
            order.extend(self.descendants(before));
        }
        let left = order
            .iter()
            .rev()
            .find_map(|index| self.build.tasks[*index].workspace.clone());
        left.or_else(|| self.starts_from(before))
    }

    fn post(&mut self, index: usize) {
        assert_eq!(
            self.build.tasks[index].state,
            TaskState::Waiting,
            "{index} is posted once"
        );
        for before in self.waits_for(index) {
            assert!(
                self.ended.contains(&before),
                "{index} is posted, and {before} has not ended"
            );
        }
        let posted = serde_json::to_value(posting(&self.build, index).unwrap()).unwrap();
        assert_eq!(
            posted["workspace"].as_str().map(str::to_owned),
            self.starts_from(index),
            "{index}"
        );
        self.build.tasks[index].state = TaskState::Posted;
        self.build.tasks[index].run = Some(0);
    }

    /// Ends one of those that are open, and adds what it adds.
    fn end_one(&mut self) {
        let open: Vec<usize> = self
            .build
            .tasks
            .iter()
            .filter(|t| t.state.is_open())
            .map(|t| t.index)
            .collect();
        let draw = self.draws.next().unwrap_or(Draw {
            which: 0,
            ends: 255,
            added: Vec::new(),
            leaves: true,
        });
        let index = open[draw.which % open.len()];
        let task = &mut self.build.tasks[index];
        task.state = match draw.ends {
            0..20 => TaskState::Failure,
            20..25 => TaskState::Error,
            _ => TaskState::Success,
        };
        task.allow_failure = draw.ends.is_multiple_of(2);
        task.workspace = draw.leaves.then(|| format!("w{index}"));
        let success = task.state == TaskState::Success;
        let before: Vec<usize> = task.needs.iter().copied().chain([index]).collect();
        self.ended.push(index);
        let level = above(&self.build, &self.build.tasks[index]).count();
        if !success || level >= LEVELS {
            return;
        }
        let first = self.build.tasks.len();
        for needs in draw.added.iter().take(TASKS.saturating_sub(first)) {
            let may: Vec<usize> = before.iter().copied().chain(first..self.build.tasks.len()).collect();
            let mut needs: Vec<usize> = needs.iter().map(|need| may[need % may.len()]).collect();
            needs.dedup();
            self.task(needs, Some(index));
        }
        // Some of them are left out at once, by their `when`.
        for added in first..self.build.tasks.len() {
            if (draw.ends as usize + added).is_multiple_of(7) {
                self.build.tasks[added].state = TaskState::Skipped;
            }
        }
    }
}

proptest! {
    /// Any tree of additions, any order of ends: the build ends, each task is posted once at most and after all that it
    /// waits for, and what ends well has run whole.
    #[test]
    fn every_build_ends_and_nothing_begins_too_early(
        first in prop::collection::vec(prop::collection::vec(any::<usize>(), 0..3), 1..6),
        draws in draws(),
    ) {
        let build = Build::parse(json!({ "job": "j", "build": 7 }).to_string().as_bytes()).unwrap();
        let mut run = Run { build, draws: draws.into_iter(), ended: Vec::new() };
        for (index, needs) in first.iter().enumerate() {
            let needs = if index == 0 { Vec::new() } else { needs.iter().map(|need| need % index).collect() };
            run.task(needs, None);
        }
        let mut end = None;
        // Each step posts at least one task, or ends one.
        for _ in 0..=2 * TASKS + 2 {
            match plan(&run.build) {
                Plan::Post(indexes) => indexes.into_iter().for_each(|index| run.post(index)),
                Plan::Wait => run.end_one(),
                Plan::Finish(state, line) => {
                    end = Some((state, line));
                    break;
                }
            }
        }
        let (state, line) = end.expect("the build ends");
        prop_assert!(!line.contains("can never start"), "{line}");
        if state == TaskState::Success {
            let ran = run.build.tasks.iter().filter(|task| task.state != TaskState::Skipped);
            prop_assert_eq!(run.ended.len(), ran.count());
        }
    }
}
