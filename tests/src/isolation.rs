//! Environments of scripts: a mount whose worker offers them, and what must be gone after each.

pub mod checks;
pub mod handed;
pub mod network;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::job::shell_task;
use crate::mount::Mount;
use crate::process;
use crate::programs;
use crate::shell::Sh;
use crate::wait::{wait_for, wait_some};
use crate::worker::Worker;

/// A secret of the worker, which no script may see.
pub const SECRET: &str = "token-of-the-worker-1f7a";

/// The longest that a build in an environment takes here: a virtual machine without KVM boots for
/// seconds on a busy machine.
pub const BUILD_MAX: Duration = Duration::from_secs(90);

/// What a worker leaves behind is gone within this time; it is a fraction of a second mostly.
pub const GONE_MAX: Duration = Duration::from_secs(10);

/// A mount with build-control and one execute-shell that takes certain isolations.
pub struct Node {
    // In this order they go: the workers before the mount, which they keep busy.
    _control: Worker,
    shell: Option<Sh>,
    /// What isolations are offered, separated by commas.
    pub isolations: String,
    /// Words before those of the worker, and options after them.
    within: Vec<String>,
    options: Vec<String>,
    /// The mount.
    pub mount: Mount,
}

impl Node {
    /// Starts one; its worker has what a script must not see: a variable, a descriptor, a key.
    pub fn new(isolations: &str) -> Node {
        Node::within(isolations, &[], &[])
    }

    /// The same; the words lead to where its worker is to run.
    pub fn within(isolations: &str, words: &[String], options: &[String]) -> Node {
        let mount = Mount::with(&[], Duration::from_secs(300));
        let control = Worker::start(&mount, "build-control", &[]);
        let mut node = Node {
            mount,
            isolations: isolations.into(),
            within: words.to_vec(),
            options: options.to_vec(),
            _control: control,
            shell: None,
        };
        compile(&node.helper());
        node.start_worker();
        node
    }

    /// Starts the worker, after it was killed.
    pub fn start_worker(&mut self) {
        let program = crate::programs::worker("execute-shell").display().to_string();
        let (helper, state) = (self.helper().display().to_string(), self.state().display().to_string());
        let script = "exec 7</etc/hostname; exec \"$@\"";
        let secret = Path::new(SECRET);
        let mut words: Vec<&str> = self.within.iter().map(String::as_str).collect();
        words.extend([
            "sh",
            "-c",
            script,
            "sh",
            &helper,
            "with-key",
            &program,
            self.mount.root_text(),
            "--isolation",
            &self.isolations,
            "--state",
            &state,
            "--as=root",
        ]);
        words.extend(self.options.iter().map(String::as_str));
        let environment = [("SECRET_TOKEN", secret)];
        self.shell = Some(Sh::start(&words, &self.mount.out(), &self.mount.out(), &environment));
    }

    /// The program that tries to escape.
    pub fn helper(&self) -> PathBuf {
        self.mount.out().join("escape")
    }

    /// Where the worker keeps its state.
    pub fn state(&self) -> PathBuf {
        self.mount.out().join("shell")
    }

    /// The worker's keeper, and the worker itself.
    pub fn pids(&self) -> Vec<Pid> {
        let keeper = self.shell.as_ref().expect("it was started").pid();
        let worker = wait_some("the worker below its keeper", GONE_MAX, || {
            process::children(keeper).first().copied()
        });
        vec![keeper, worker]
    }

    /// Ends the worker with TERM and waits for it.
    pub fn stop_worker(&mut self) {
        let shell = self.shell.take().expect("it was started");
        shell.signal(nix::sys::signal::Signal::SIGTERM);
        wait_for("the worker to end", GONE_MAX, || !shell.alive());
    }

    /// A job of tasks that share a workspace, with what a script may want to know as parameters.
    pub fn job(&self, name: &str, tasks: &[Value]) {
        let pids: Vec<String> = self.pids().iter().map(|pid| pid.to_string()).collect();
        let parameters = json!({
            "store": self.mount.own_folder(), "mount": self.mount.root(), "state": self.state(),
            "helper": self.helper(), "pids": pids.join(" "), "odd": "a'b\"c $(exit 3) `x`\n; *",
        });
        let config = json!({ "parameters": parameters, "tasks": tasks });
        self.mount.job(name, &config.to_string());
    }

    /// Triggers a job and waits for its end: state, why and console.
    pub fn build(&self, job: &str) -> (String, String, String) {
        let build = self.mount.trigger(job, "");
        let state = self.mount.wait_state_within(job, build, BUILD_MAX);
        (state, self.mount.why(job, build), self.mount.console(job, build))
    }

    /// Runs one script in an environment and gives how it ended, why, and what it said.
    pub fn run(&self, job: &str, isolation: &Value, script: &str) -> (String, String, String) {
        self.job(job, &[isolated(isolation, script)]);
        self.build(job)
    }

    /// Whether a process is below this node's worker.
    pub fn holds(&self, pid: Pid) -> bool {
        let worker = self.pids()[1];
        std::iter::successors(Some(pid), |pid| process::parent(*pid)).any(|pid| pid == worker)
    }

    /// What the worker has left so far: control groups, mounts, files.
    pub fn left(&self) -> Vec<String> {
        let runs = fs::read_dir(self.state().join("runs")).into_iter().flatten().flatten();
        let runs: Vec<PathBuf> = runs.map(|entry| entry.path()).collect();
        let mut left = Vec::new();
        for run in &runs {
            let name = run.file_name().expect("a name").to_string_lossy().into_owned();
            left.extend(groups(&name));
            for inner in ["space", "error", "groups"] {
                let inner = run.join(inner);
                let used = if inner.is_dir() {
                    fs::read_dir(&inner).is_ok_and(|e| e.count() > 0)
                } else {
                    inner.exists()
                };
                left.extend(used.then(|| inner.display().to_string()));
            }
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let ours = self.state().display().to_string();
        left.extend(mounts.lines().filter(|line| line.contains(&ours)).map(str::to_owned));
        left
    }

    /// Waits until nothing is left and no process with these words runs.
    pub fn wait_gone(&self, words: &str) {
        wait_for(&format!("the end of {words}"), GONE_MAX, || !process::runs(words));
        wait_for("nothing to be left", GONE_MAX, || {
            let left = self.left();
            left.is_empty() || {
                eprintln!("left: {left:?}");
                false
            }
        });
    }
}

/// A task that runs a script in an environment; `isolation` is its name, or an object with more.
pub fn isolated(isolation: &Value, script: &str) -> Value {
    let mut task = shell_task(script);
    match isolation {
        Value::Object(more) => task.as_object_mut().expect("an object").extend(more.clone()),
        name => task["isolation"] = name.clone(),
    }
    task
}

/// Compiles the program that tries to escape.
fn compile(to: &Path) {
    programs::compile("escape.c", &["-static"], to);
}

/// Control groups in whose name this is.
pub fn groups(part: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = folders.pop() {
        let name = folder.file_name().unwrap_or_default();
        if name.to_string_lossy().contains(part) {
            found.push(folder.display().to_string());
        }
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        let inner = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.extend(inner.map(|entry| entry.path()));
    }
    found
}
