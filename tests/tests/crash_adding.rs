//! The failure stories of builds that add tasks: build-control, the claimant or the daemon dies at each step, and every
//! added task runs once.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use distcifs_tests::programs::compile;
use distcifs_tests::shell::Sh;
use distcifs_tests::wait::USUAL;
use distcifs_tests::{Mount, Worker, process, wait_for};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// A dozen deaths with a mount and its workers started anew after each, on a cluster and a busy machine.
const LIMIT: Duration = Duration::from_secs(500);

/// What a dead mount held on a cluster is open again by then, and what build-control could not post is tried again.
const ENDS_WITHIN: Duration = Duration::from_secs(90);

/// Between two looks of a script at its gate.
const LOOK: &str = "sleep 0.02";

/// The tasks that are added: two for execute-shell, then two for a queue that can be held up.
const ADDED: [&str; 4] = ["x0", "x1", "y0", "y1"];

/// What the adding task is called, and the one that waits for all that it adds.
const OWN: [&str; 2] = ["add", "after"];

/// A queue of the user's own.
const LINT: &str = "lint";

/// Who adds the tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Adder {
    /// A program in sh that writes tasks.json.
    Hand,
    /// git-checkout, of a file in the repository.
    Checkout,
    /// execute-shell, of what a script left at `$TASKS`.
    Shell,
}

/// Who dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Control,
    Claimant,
    Daemon,
}

/// When.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// The task runs, and has written nothing yet.
    BeforeTheWrite,
    /// tasks.json is closed, and the result is not written.
    BeforeTheResult,
    /// The result stands, and nothing that it added is posted.
    BeforeThePosting,
    /// Some of what it added is posted.
    AmidThePosting,
}

const VICTIMS: [Victim; 3] = [Victim::Control, Victim::Claimant, Victim::Daemon];

const MOMENTS: [Moment; 4] = [
    Moment::BeforeTheWrite,
    Moment::BeforeTheResult,
    Moment::BeforeThePosting,
    Moment::AmidThePosting,
];

impl Adder {
    fn queue(self) -> &'static str {
        match self {
            Adder::Hand => "generate",
            Adder::Checkout => "git-checkout",
            Adder::Shell => "execute-shell",
        }
    }
}

/// A mount with jobs whose first task adds others, once its gate is open.
struct Story {
    mount: Mount,
    adder: Adder,
}

/// What adds, as a process.
enum Claimant {
    Worker(Worker),
    Script(Sh),
}

impl Claimant {
    /// SIGKILL for the process that has the claim, and whatever belongs to it.
    fn kill9(&mut self) {
        match self {
            Claimant::Worker(worker) => {
                // The one that was started only stands over it: were that killed, the worker would be told to end.
                let below = process::children(worker.pid());
                below.iter().for_each(|pid| process::signal(*pid, Signal::SIGKILL));
                wait_for("the end of the worker", USUAL, || {
                    !below.iter().any(|pid| process::is_alive(*pid)) && !process::is_alive(worker.pid())
                });
                worker.kill9();
            }
            Claimant::Script(script) => script.kill9(),
        }
    }
}

/// Those that work while the task adds.
struct Crew {
    control: Worker,
    claimant: Claimant,
}

impl Story {
    fn new(mount: Mount, adder: Adder) -> Story {
        let story = Story { mount, adder };
        story.mount.queue(LINT);
        compile("hold.c", &[], &story.out("hold"));
        fs::write(story.out("history"), "").expect("own folder");
        match adder {
            Adder::Hand => {
                story.mount.queue(adder.queue());
                fs::write(story.out("tasks"), story.added().to_string()).expect("own folder");
            }
            Adder::Checkout => story.make_repository(),
            Adder::Shell => {}
        }
        story
    }

    fn out(&self, name: &str) -> PathBuf {
        self.mount.out().join(name)
    }

    /// A script that notes which task runs it.
    fn notes(&self) -> String {
        let history = self.out("history");
        format!("echo \"$JOB_NAME $BUILD_NUMBER $TASK_NAME\" >> '{}'", history.display())
    }

    /// A script that notes its task and waits until the gate is open.
    fn waits(&self) -> String {
        let gate = self.out("gate");
        format!("{}\nuntil [ -e '{}' ]; do {LOOK}; done\n", self.notes(), gate.display())
    }

    /// The text of the tasks that are added.
    fn added(&self) -> Value {
        let task = |name: &&str| match name.strip_prefix('x') {
            Some(_) => json!({ "type": "execute-shell", "name": name, "needs": [], "isolation": "none",
                "labels": ["later"], "params": { "script": self.notes() } }),
            None => json!({ "type": LINT, "name": name, "needs": [], "isolation": "none" }),
        };
        json!({ "tasks": ADDED.iter().map(task).collect::<Vec<_>>() })
    }

    /// A repository with the tasks, and what stands in for ssh: it waits, and runs here what is to run there.
    fn make_repository(&self) {
        let folder = self.out("src");
        fs::create_dir(&folder).expect("own folder");
        fs::write(folder.join(".distcifs.json"), self.added().to_string()).expect("own folder");
        self.mount.run(
            "cd \"$OUT/src\"; git init -q -b main .; git add -A
            git -c user.name=a -c user.email=a@b commit -qm first",
        );
        let (history, gate) = (self.out("history"), self.out("gate"));
        let ssh = format!(
            "#!/bin/sh\nfor last; do :; done\necho connected >> '{}'\nuntil [ -e '{}' ]; do {LOOK}; done\nexec sh -c \"$last\"\n",
            history.display(),
            gate.display()
        );
        fs::write(self.out("ssh"), ssh).expect("own folder");
        fs::set_permissions(self.out("ssh"), fs::Permissions::from_mode(0o755)).expect("own folder");
    }

    /// The task that adds.
    fn adding(&self) -> Value {
        let params = match self.adder {
            Adder::Hand => json!({}),
            Adder::Checkout => {
                let repository = format!("ssh://git@server.test{}", self.out("src").display());
                json!({ "repository": repository, "tasks": ".distcifs.json" })
            }
            Adder::Shell => {
                let script = format!("{}cat > \"$TASKS\" <<'END'\n{}\nEND\n", self.waits(), self.added());
                return json!({ "type": "execute-shell", "name": OWN[0], "labels": ["first"],
                    "params": { "script": script } });
            }
        };
        json!({ "type": self.adder.queue(), "name": OWN[0], "params": params })
    }

    /// A job that adds tasks, with so many attempts for the task that does.
    fn job(&self, name: &str, attempts: u32) {
        let mut adding = self.adding();
        adding["attempts"] = attempts.into();
        let after = json!({ "type": "execute-shell", "name": OWN[1], "labels": ["later"],
            "params": { "script": self.notes() } });
        let allow = json!({ "types": ["execute-shell", LINT], "isolation": ["none"] });
        let config = json!({ "tasks": [adding, after], "allow": allow });
        self.mount.job(name, &config.to_string());
    }

    /// A worker in sh: for each ticket of the queue it runs the lines, in the ticket's folder.
    fn in_sh(&self, queue: &str, lines: &str) -> Sh {
        self.mount.start(&format!(
            "exec 3<>tickets/{queue}/.next; echo >&3
            while read -r id <&3; do
                [ -n \"$id\" ] || continue
                cd \"$M/tickets/{queue}/$id\" && {{ {lines}; }}
                cd \"$M\"; echo >&3
            done"
        ))
    }

    fn claimant(&self) -> Claimant {
        match self.adder {
            Adder::Hand => {
                let [history, gate, tasks] = ["history", "gate", "tasks"].map(|name| self.out(name));
                Claimant::Script(self.in_sh(
                    self.adder.queue(),
                    &format!(
                        "echo begun > console; echo \"$id\" >> '{}'; until [ -e '{}' ]; do {LOOK}; done
                        cat '{}' > tasks.json; echo success > result",
                        history.display(),
                        gate.display(),
                        tasks.display()
                    ),
                ))
            }
            Adder::Checkout => {
                let ssh = self.out("ssh");
                let environment = [("GIT_SSH_COMMAND", ssh.as_path())];
                Claimant::Worker(Worker::with(&self.mount, self.adder.queue(), &[], &environment))
            }
            Adder::Shell => Claimant::Worker(Worker::start(&self.mount, self.adder.queue(), &["first"])),
        }
    }

    fn crew(&self) -> Crew {
        Crew {
            control: Worker::start(&self.mount, "build-control", &[]),
            claimant: self.claimant(),
        }
    }

    /// Those that work what was added, and what waits for that.
    fn later(&self) -> (Worker, Sh) {
        let shell = Worker::start(&self.mount, "execute-shell", &["later"]);
        let history = self.out("history");
        let lint = self.in_sh(
            LINT,
            &format!("echo \"$id\" >> '{}'; echo success > result", history.display()),
        );
        (shell, lint)
    }

    /// What was noted so far, line by line.
    fn history(&self) -> Vec<String> {
        let text = fs::read_to_string(self.out("history")).expect("own folder");
        text.lines().map(str::to_owned).collect()
    }

    /// Holds a file of the mount by a lease until it is dropped.
    fn hold(&self, file: &str) -> Sh {
        let program = self.out("hold");
        let holder = self
            .mount
            .start_words(&[program.to_str().expect("the path is text"), "lease", file]);
        wait_for("a holder", USUAL, || {
            assert!(holder.alive(), "{file}: {}", holder.complaints());
            holder.so_far().contains("held")
        });
        holder
    }

    /// The state of a task of build 1 of this job, by its name; nothing if there is no such task.
    fn state(&self, job: &str, name: &str) -> Option<String> {
        let folder = self.task(job, name)?;
        fs::read_to_string(self.mount.path(&format!("{folder}/state")))
            .ok()
            .map(|state| state.trim().to_owned())
    }

    /// The folder of a task of build 1, by the task's name.
    fn task(&self, job: &str, name: &str) -> Option<String> {
        let tasks = format!("jobs/{job}/builds/1/tasks");
        let names = self.mount.list(&tasks);
        let found = names
            .into_iter()
            .find(|task| task.split_once('-').is_some_and(|(_, rest)| rest == name))?;
        Some(format!("{tasks}/{found}"))
    }

    fn states(&self, job: &str) -> Vec<Option<String>> {
        ADDED.iter().map(|name| self.state(job, name)).collect()
    }

    /// Brings a build that runs its first task to this moment. What holds it there is given back.
    fn reach(&self, job: &str, moment: Moment, crew: &Crew) -> Option<Sh> {
        let open = || fs::write(self.out("gate"), "").expect("own folder");
        let ticket = format!("tickets/{}/{job}.1.0", self.adder.queue());
        let waiting = |state: &Option<String>| state.as_deref() == Some("waiting");
        match moment {
            Moment::BeforeTheWrite => {
                assert!(!self.mount.has(&format!("{ticket}/tasks.json")));
                None
            }
            Moment::BeforeTheResult => {
                let holder = self.hold(&format!("{ticket}/result"));
                open();
                let text = self.mount.path(&format!("{ticket}/tasks.json"));
                wait_for("tasks.json", USUAL, || {
                    fs::read_to_string(&text).is_ok_and(|text| !text.is_empty())
                });
                if let Claimant::Worker(worker) = &crew.claimant {
                    wait_for("word of the lease", USUAL, || {
                        worker.complaints().contains("by a lease")
                    });
                }
                Some(holder)
            }
            Moment::BeforeThePosting => {
                crew.control.stop();
                open();
                wait_for("the result", USUAL, || {
                    self.state(job, OWN[0]).as_deref() == Some("success")
                });
                assert!(self.states(job).iter().all(waiting), "{:?}", self.states(job));
                None
            }
            Moment::AmidThePosting => {
                let holder = self.hold(&format!("tickets/{LINT}/.post"));
                open();
                wait_for("word of the lease", USUAL, || {
                    crew.control.complaints().contains("by a lease")
                });
                let states = self.states(job);
                assert!(
                    !states[..2].iter().any(|state| state.is_none() || waiting(state)),
                    "{states:?}"
                );
                assert!(states[2..].iter().all(waiting), "{states:?}");
                Some(holder)
            }
        }
    }

    /// Kills, and starts again who died. `held` is let go of once it is dead.
    fn strike(&self, victim: Victim, held: Option<Sh>, mut crew: Crew) -> Crew {
        match victim {
            Victim::Control => {
                crew.control.kill9();
                drop(held);
                crew.control = Worker::start(&self.mount, "build-control", &[]);
            }
            Victim::Claimant => {
                crew.claimant.kill9();
                drop(held);
                crew.claimant = self.claimant();
            }
            Victim::Daemon => {
                self.mount.kill9();
                drop(held);
                crew.control.kill9();
                crew.claimant.kill9();
                self.mount.mount();
                crew = self.crew();
            }
        }
        // One that was only stopped goes on.
        crew.control.cont();
        crew
    }

    /// One death, and all that has to be so in the end.
    fn death(&self, victim: Victim, moment: Moment) {
        let job = format!("{victim:?}-{moment:?}");
        self.job(&job, 3);
        let _ = fs::remove_file(self.out("gate"));
        fs::write(self.out("history"), "").expect("own folder");
        let crew = self.crew();
        assert_eq!(self.mount.trigger(&job, ""), 1);
        wait_for("the task that adds", USUAL, || !self.history().is_empty());
        let held = self.reach(&job, moment, &crew);
        let early = matches!(moment, Moment::BeforeTheWrite | Moment::BeforeTheResult);
        if early {
            assert_eq!(self.states(&job), [const { None::<String> }; 4], "{job}: too late");
        }
        let mut crew = self.strike(victim, held, crew);
        if moment == Moment::BeforeTheWrite {
            assert_eq!(self.states(&job), [const { None::<String> }; 4], "{job}: too late");
            fs::write(self.out("gate"), "").expect("own folder");
        }
        let (mut shell, mut lint) = self.later();
        let state = self.mount.wait_state_within(&job, 1, ENDS_WITHIN);
        assert_eq!(state, "success", "{job}: {}", self.mount.why(&job, 1));
        // A claim that goes with its mount is none that was lost by a worker's death.
        let again = early && victim == Victim::Claimant;
        self.assert_whole(&job, if again { 2 } else { 1 });
        shell.kill9();
        lint.kill9();
        crew.control.kill9();
        crew.claimant.kill9();
    }

    /// How often each added task, and the one that waits for them, ran.
    fn runs(&self, job: &str) -> BTreeMap<String, usize> {
        let mut runs = BTreeMap::new();
        let plan = self.plan(job);
        for line in self.history() {
            let name = match line.rsplit_once(' ') {
                Some((_, name)) => name.to_owned(),
                // A ticket's id: of the worker in sh.
                None => match line.rsplit_once('.').and_then(|(_, index)| index.parse::<usize>().ok()) {
                    Some(index) => plan[index].clone(),
                    None => continue,
                },
            };
            *runs.entry(name).or_insert(0) += 1;
        }
        runs.remove(OWN[0]);
        runs
    }

    /// The names of all tasks of build 1, as plan.json has them.
    fn plan(&self, job: &str) -> Vec<String> {
        names_in(&self.mount.read(&format!("jobs/{job}/builds/1/plan.json")))
    }

    /// Each added task ran once, and all that counts them agrees.
    fn assert_whole(&self, job: &str, attempts: u32) {
        let once: BTreeMap<String, usize> = ADDED
            .iter()
            .chain(&OWN[1..])
            .map(|name| ((*name).to_owned(), 1))
            .collect();
        assert_eq!(self.runs(job), once, "{job}: {:?}", self.history());
        let all: Vec<&str> = OWN.iter().chain(&ADDED).copied().collect();
        assert_eq!(self.plan(job), all, "{job}");
        let record = self.mount.read(&format!("jobs/{job}/builds/1/build.json"));
        assert_eq!(names_in(&record), all, "{job}");
        let record: Value = serde_json::from_str(&record).expect("JSON");
        for (index, name) in all.iter().enumerate() {
            let added_by = record["tasks"][index]["added_by"].as_u64();
            assert_eq!(added_by, ADDED.contains(name).then_some(0), "{job}: {name}");
            assert_eq!(self.state(job, name).as_deref(), Some("success"), "{job}: {name}");
        }
        assert_eq!(
            self.mount.list(&format!("jobs/{job}/builds/1/tasks")).len(),
            all.len(),
            "{job}"
        );
        let adding = self.task(job, OWN[0]).expect("it is there");
        assert_eq!(
            self.mount.read(&format!("{adding}/attempt")),
            attempts.to_string(),
            "{job}"
        );
        wait_for("the tickets to be tidied away", USUAL, || {
            let queues = self.mount.list("tickets");
            queues
                .iter()
                .all(|queue| self.mount.list(&format!("tickets/{queue}")).is_empty())
        });
    }
}

/// The names of the tasks of a plan or a record; a task without one is called as its type.
fn names_in(text: &str) -> Vec<String> {
    let value: Value = serde_json::from_str(text).expect("JSON");
    let tasks = value["tasks"].as_array().expect("a list of tasks");
    let name = |task: &Value| task["name"].as_str().or(task["type"].as_str()).map(str::to_owned);
    tasks.iter().map(|task| name(task).expect("a name")).collect()
}

fn all_deaths(adder: Adder) {
    let story = Story::new(Mount::with(&[], LIMIT), adder);
    for victim in VICTIMS {
        for moment in MOMENTS {
            story.death(victim, moment);
        }
    }
}

/// "It takes effect with the ticket's result, in the same commit": whoever dies before or after it, what tasks.json adds
/// runs once.
#[test]
fn tasks_json_adds_once_whoever_dies() {
    all_deaths(Adder::Hand);
}

/// The same of a pipeline in the repository.
#[test]
fn a_checkout_adds_once_whoever_dies() {
    all_deaths(Adder::Checkout);
}

/// The same of what a script left at `$TASKS`.
#[test]
fn a_script_adds_once_whoever_dies() {
    all_deaths(Adder::Shell);
}

/// "With `attempts` 1 a task is begun once: if its worker goes before it has ended, it ends as `error`." One that was to
/// add tasks adds none then; of those that were added only the one that its worker left is in error.
#[test]
fn with_one_attempt_nothing_runs_twice() {
    let story = Story::new(Mount::with(&[], LIMIT), Adder::Shell);
    story.job("adding", 1);
    let mut crew = story.crew();
    story.mount.trigger("adding", "");
    wait_for("the task that adds", USUAL, || !story.history().is_empty());
    let held = story.reach("adding", Moment::BeforeTheResult, &crew);
    assert_eq!(story.plan("adding"), OWN, "too late");
    crew = story.strike(Victim::Claimant, held, crew);
    assert_eq!(story.mount.wait_state_within("adding", 1, ENDS_WITHIN), "error");
    assert_eq!(story.state("adding", OWN[0]).as_deref(), Some("error"));
    assert_eq!(story.plan("adding"), OWN, "{}", story.mount.why("adding", 1));
    assert_eq!(story.history().len(), 1, "{:?}", story.history());

    let gate = story.out("later");
    let task = |name: &str, script: &str| {
        json!({ "type": "execute-shell", "name": name, "needs": [], "isolation": "none",
        "attempts": 1, "labels": ["later"], "params": { "script": format!("{}\n{script}", story.notes()) } })
    };
    let stands = format!("until [ -e '{}' ]; do {LOOK}; done", gate.display());
    let added = json!({ "tasks": [task("x0", &stands), task("x1", "")] });
    let adding = json!({ "type": "execute-shell", "name": OWN[0], "labels": ["first"],
        "params": { "script": format!("cat > \"$TASKS\" <<'END'\n{added}\nEND\n") } });
    let mut after = task(OWN[1], "");
    after.as_object_mut().expect("a task").remove("needs");
    after["always"] = json!(true);
    let config = json!({ "tasks": [adding, after], "allow": { "isolation": ["none"] } });
    story.mount.job("added", &config.to_string());
    fs::write(story.out("history"), "").expect("own folder");
    let (shell, _lint) = story.later();
    story.mount.trigger("added", "");
    wait_for("the task that stands", USUAL, || {
        story.history().iter().any(|line| line.ends_with(" x0"))
    });
    Claimant::Worker(shell).kill9();
    let _others = story.later();
    assert_eq!(story.mount.wait_state_within("added", 1, ENDS_WITHIN), "error");
    assert_eq!(story.state("added", "x0").as_deref(), Some("error"));
    assert_eq!(story.runs("added").get("x0"), Some(&1), "{:?}", story.history());
    // Whatever was begun beside it was begun once.
    assert!(
        story.runs("added").values().all(|runs| *runs == 1),
        "{:?}",
        story.history()
    );
    assert_eq!(
        story.state("added", OWN[1]).as_deref(),
        Some("success"),
        "it is to run always"
    );
    drop(crew);
}
