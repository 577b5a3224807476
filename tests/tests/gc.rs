//! gc of a cluster that is mounted and builds: nothing that is needed goes, what was garbage goes, and
//! a mount that does not answer, or the death of gc, costs nothing.

use std::fs;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use distcifs_tests::job::shell_task;
use distcifs_tests::mount::{TEST_LIMIT, Words};
use distcifs_tests::{Cluster, Mount, Repository, Worker, process, programs, wait_for};
use nix::sys::signal::Signal;
use serde_json::json;

/// How long sessions outlive their mounts here.
const SESSION: &str = "session_timeout=4";

/// A session is over by then, whatever the machine does beside.
const SESSION_OVER: Duration = Duration::from_secs(15);

/// Builds in the first story, half on each mount.
const BUILDS: u64 = 12;

/// Most of them, where gc is slow.
const BUILDS_MAX: u64 = 120;

/// Builds that pruning leaves.
const KEPT: usize = 4;

/// Two mounts of a repository of their own.
struct Scene {
    cluster: &'static Cluster,
    repository: Repository,
    mounts: [Mount; 2],
}

impl Scene {
    fn new() -> Option<Scene> {
        let cluster = Cluster::available().then(Cluster::shared)?;
        let repository = Repository::on(cluster);
        let mount = |node| Mount::of(&repository, node, Words::after(&["-o", SESSION]), TEST_LIMIT);
        let mounts = [mount("n1"), mount("n2")];
        Some(Scene {
            cluster,
            repository,
            mounts,
        })
    }

    /// A command on the source.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(programs::distcifs());
        let state = self.mounts[0].out().join("state");
        let options = self.repository.options("nobody", &state).expect("a cluster has some");
        command.args(words).arg(self.repository.source());
        command.args(["-o", &options, "-o", SESSION]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, words: &[&str]) -> (bool, String) {
        said(self.command(words).output().expect("distcifs runs"))
    }

    /// Runs gc until it has its turn: what was killed keeps it as long as its session.
    fn gc(&self) -> String {
        let begun = Instant::now();
        loop {
            let (done, text) = self.run(&["gc"]);
            if done {
                return text;
            }
            let waits = text.contains("gc runs already") && begun.elapsed() < SESSION_OVER;
            assert!(waits, "gc: {text}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Chunks and folders in the pool.
    fn blobs(&self) -> usize {
        let options = self.repository.options("nobody", self.mounts[0].root());
        let options = options.expect("a cluster has some");
        let namespace = options.split(',').find_map(|option| option.strip_prefix("namespace="));
        let listed = self
            .cluster
            .rados(&["-N", namespace.expect("it is given"), "ls"])
            .expect("rados ls");
        let is_blob = |name: &&str| name.starts_with("chunk.") || name.starts_with("tree.");
        listed.lines().filter(is_blob).count()
    }

    /// Everything is whole, and nothing is left that nobody needs.
    fn assert_clean(&self) {
        let (good, text) = self.run(&["fsck"]);
        assert!(good && text.contains("nothing is wrong\n"), "{text}");
    }

    /// Makes a job, builds it and removes it: what it published is garbage.
    fn litter(&self, name: &str, files: u32) {
        let mount = &self.mounts[0];
        let script = format!(
            "for i in $(seq {files}); do echo \"{name} $i $(seq 800)\" > ../artifacts/$i; done; echo {name} > left"
        );
        mount.shell_job(name, &[&script]);
        mount.build(name, "", "success");
        mount.run(&format!("rm -r jobs/{name}; rm -f jobs/.trash/*"));
    }
}

fn said(output: Output) -> (bool, String) {
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// A job of two tasks: each publishes a file of this build, one that all builds have, and one in a
/// folder that both publish into; the second goes on in the workspace of the first, and fails at
/// the first try of each third build.
fn busy_job(mount: &Mount, name: &str, version: u64) {
    let marks = mount.out().display().to_string();
    let task = |i: u32, more: &str| {
        shell_task(&format!(
            "mkdir -p ../artifacts/both; seq $BUILD_NUMBER 20000 > ../artifacts/own{i}; seq 30000 > ../artifacts/all{i}; \
             echo {i} $BUILD_NUMBER > ../artifacts/both/{i}; echo {i} >> steps; {more}"
        ))
    };
    let fails = format!(
        "[ $((BUILD_NUMBER % 3)) -ne 0 ] || [ -e {marks}/{name}.$BUILD_NUMBER ] || {{ > {marks}/{name}.$BUILD_NUMBER; exit 1; }}"
    );
    let tasks = [task(0, "cp steps seen"), task(1, &fails)];
    let config =
        json!({ "tasks": tasks, "keep": { "builds": KEPT }, "parameters": { "VERSION": version.to_string() } });
    mount.configure(name, &config.to_string());
}

/// A build holds exactly what its two tasks published.
fn assert_whole(mount: &Mount, name: &str, build: u64) {
    let folder = format!("jobs/{name}/builds/{build}");
    for i in 0..2 {
        let lines = |from: u64, to: u64| (from..=to).map(|n| format!("{n}\n")).collect::<String>();
        assert!(mount.read(&format!("{folder}/artifacts/own{i}")) == lines(build, 20_000).trim_end());
        assert!(mount.read(&format!("{folder}/artifacts/all{i}")) == lines(1, 30_000).trim_end());
        assert_eq!(
            mount.read(&format!("{folder}/artifacts/both/{i}")),
            format!("{i} {build}")
        );
    }
    assert_eq!(mount.list(&format!("{folder}/artifacts/both")), ["0", "1"]);
    assert_eq!(mount.read(&format!("{folder}/workspace/steps")), "0\n1");
    assert_eq!(mount.read(&format!("{folder}/workspace/seen")), "0");
}

/// Builds one of a job on a mount; tries again what failed.
fn build_once(mount: &Mount, name: &str) -> u64 {
    let build = mount.trigger(name, "");
    if mount.wait_state(name, build) == "failure" {
        mount.run(&format!("echo retry > jobs/{name}/builds/{build}/ctl"));
        wait_for("the retry to begin", TEST_LIMIT, || {
            mount.state(name, build) != "failure"
        });
        mount.wait_state(name, build);
    }
    assert_eq!(mount.state(name, build), "success", "{}", mount.console(name, build));
    build
}

/// Builds, retries, prunings and configurations on two mounts while gc runs in a loop.
#[test]
fn builds_go_on_while_gc_runs_in_a_loop() {
    let Some(scene) = Scene::new() else { return };
    let _workers: Vec<Worker> = scene.mounts.iter().flat_map(|mount| Worker::usual(mount, 1)).collect();
    scene.litter("litter", 40);
    let littered = scene.blobs();
    let (over, scene) = (AtomicBool::new(false), &scene);
    let runs = &AtomicU64::new(0);
    std::thread::scope(|threads| {
        for (mount, name) in scene.mounts.iter().zip(["a", "b"]) {
            fs::create_dir(mount.path(&format!("jobs/{name}"))).expect("a job");
            busy_job(mount, name, 0);
        }
        let builders = scene.mounts.iter().zip(["a", "b"]).map(|(mount, name)| {
            threads.spawn(move || {
                // Where gc is slow they go on until it has run beside them.
                let beside = || runs.load(Ordering::SeqCst) >= 2;
                for turn in (1..=BUILDS_MAX / 2).take_while(|turn| *turn <= BUILDS / 2 || !beside()) {
                    let build = build_once(mount, name);
                    assert_whole(mount, name, build);
                    busy_job(mount, name, turn % 2);
                }
            })
        });
        let builders: Vec<_> = builders.collect();
        let collector = threads.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                scene.gc();
                runs.fetch_add(1, Ordering::SeqCst);
            }
        });
        let ended: Vec<_> = builders.into_iter().map(|builder| builder.join()).collect();
        over.store(true, Ordering::SeqCst);
        collector.join().expect("gc succeeds each time");
        assert!(ended.iter().all(Result::is_ok), "a builder failed, see above");
    });
    scene.gc();
    scene.assert_clean();
    let runs = runs.load(Ordering::SeqCst);
    assert!(runs >= 2, "gc ran {runs} times");
    assert!(scene.blobs() + 40 <= littered + 40 * KEPT, "the litter is still there");
    let [one, two] = &scene.mounts;
    for name in ["a", "b"] {
        let builds: Vec<u64> = one
            .list(&format!("jobs/{name}/builds"))
            .iter()
            .filter_map(|n| n.parse().ok())
            .collect();
        assert!(builds.len() >= KEPT && builds.len() <= KEPT + 1, "{builds:?}");
        for build in builds {
            assert_whole(one, name, build);
            assert_whole(two, name, build);
        }
    }
}

/// A stopped mount may be in the middle of anything: gc waits, and gives up without removing a
/// thing; once the mount's session is over it goes on. The mount comes back by itself.
#[test]
fn a_stopped_mount_is_waited_for_until_its_session_is_over() {
    let Some(scene) = Scene::new() else { return };
    let [one, two] = &scene.mounts;
    let _workers = Worker::usual(one, 1);
    scene.litter("litter", 10);
    let before = scene.blobs();
    let stopped = two.daemon();
    process::signal(stopped, Signal::SIGSTOP);
    let (done, text) = scene.run(&["gc", "--wait", "1"]);
    let blobs = scene.blobs();
    let waits = !done && text.contains("n2 has not ended within 1 s") && text.contains("nothing was removed");
    // The rest of the story needs the mount, whatever came of this.
    let (done, later) = scene.run(&["gc", "--wait", "60"]);
    process::signal(stopped, Signal::SIGCONT);
    assert!(waits, "{text}");
    assert_eq!(blobs, before);
    assert!(done && later.starts_with("freed "), "{later}");
    assert!(scene.blobs() + 10 <= before, "{later}");
    let again = Worker::usual(two, 1);
    wait_for("a job to be made there", SESSION_OVER, || {
        fs::create_dir(two.path("jobs/after")).is_ok()
    });
    busy_job(two, "after", 1);
    let build = build_once(two, "after");
    scene.gc();
    assert_whole(one, "after", build);
    scene.assert_clean();
    drop(again);
}

/// Killed at any moment gc loses nothing, and the next one goes on.
#[test]
fn gc_may_be_killed_at_any_moment() {
    let Some(scene) = Scene::new() else { return };
    let _workers = Worker::usual(&scene.mounts[0], 1);
    fs::create_dir(scene.mounts[0].path("jobs/a")).expect("a job");
    busy_job(&scene.mounts[0], "a", 0);
    let build = build_once(&scene.mounts[0], "a");
    scene.litter("litter", 150);
    let before = scene.blobs();
    for milliseconds in [150, 500, 900] {
        let mut killed: Child = scene.command(&["gc"]).spawn().expect("distcifs runs");
        std::thread::sleep(Duration::from_millis(milliseconds));
        killed.kill().expect("a child can be killed");
        let (_, text) = said(killed.wait_with_output().expect("it ends"));
        assert!(
            text.is_empty() || text.contains("freed") || text.contains("runs already"),
            "{text}"
        );
    }
    scene.gc();
    assert!(scene.blobs() + 100 <= before);
    assert_whole(&scene.mounts[1], "a", build);
    scene.assert_clean();
}
