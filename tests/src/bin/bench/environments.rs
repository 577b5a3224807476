//! What it costs that a script runs in an environment of its own.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use distcifs_tests::job::shell_task;
use distcifs_tests::wait::USUAL;
use distcifs_tests::{Mount, Worker, wait_for, wait_some};
use serde_json::{Value, json};

use crate::report::{Measure, median, milliseconds};

/// The measure holds its mount for less.
const LIMIT: Duration = Duration::from_secs(300);

/// Builds of each kind, in turns, so that all see the same machine.
const RUNS: usize = 30;

/// Machines started: each takes seconds where there is no KVM.
const MACHINES: usize = 5;

/// Containers one after another.
const MANY: usize = 100;

/// A machine that does not start within this is not measured.
const MACHINE_MAX: Duration = Duration::from_secs(60);

/// An image of busybox alone.
const IMAGE: &str = "mkdir -p root/bin root/tmp; cp \"$(command -v busybox)\" root/bin/busybox
for name in sh env true; do ln -s busybox root/bin/$name; done; tar -c -C root -f \"$ARTIFACTS/root.tar\" .";

/// A job for each environment, beside one without.
struct Bench {
    // They go before the mount, which they keep busy.
    _workers: Vec<Worker>,
    mount: Mount,
    offered: String,
}

impl Bench {
    fn new() -> Self {
        let mount = Mount::with(&[], LIMIT);
        let workers = Worker::usual(&mount, 1);
        let waits = |line: &str| line.starts_with("waiting execute-shell").then(|| line.to_owned());
        let offered = wait_some("execute-shell", USUAL, || {
            let nodes = fs::read_dir(mount.path("nodes")).ok()?.flatten();
            let texts = nodes.filter_map(|node| fs::read_to_string(node.path()).ok());
            texts
                .flat_map(|text| text.lines().filter_map(waits).collect::<Vec<_>>())
                .next()
        });
        mount.job_of("image", &[shell_task(IMAGE)]);
        mount.build("image", "", "success");
        Bench {
            mount,
            _workers: workers,
            offered,
        }
    }

    /// Whether this node has such an environment; says so if not.
    fn has(&self, isolation: &str) -> bool {
        let has = self.offered.contains(&format!(" isolation.{isolation} "))
            || self.offered.ends_with(&format!(" isolation.{isolation}"));
        if !has {
            eprintln!("bench: {isolation} does not work here; scripts/setup --environments");
        }
        has
    }

    /// A job of so many tasks in an environment.
    fn job(&self, name: &str, isolation: &str, script: &str, count: usize) {
        let mut task = shell_task(script);
        task["isolation"] = json!(isolation);
        if isolation == "lxc" {
            task["image"] = json!("job:image");
        }
        let tasks: Vec<Value> = vec![task; count];
        self.mount.job_of(name, &tasks);
    }

    /// From the trigger to the end of a build.
    fn once(&self, job: &str) -> f64 {
        let begun = Instant::now();
        let build = self.mount.trigger(job, "");
        let state = self.mount.wait_state_within(job, build, MACHINE_MAX);
        assert_eq!(state, "success", "{job}: {}", self.mount.console(job, build));
        milliseconds(begun.elapsed())
    }
}

/// What a build in a namespace and in a container takes longer than one without.
pub(crate) fn over_none() {
    let bench = Bench::new();
    bench.job("none", "none", "true", 1);
    for (isolation, target) in [("namespace", "<= 30"), ("lxc", "<= 150")] {
        if !bench.has(isolation) {
            continue;
        }
        bench.job(isolation, isolation, "true", 1);
        // The first one unpacks the image.
        bench.once(isolation);
        let (mut plain, mut isolated) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            plain.push(bench.once("none"));
            isolated.push(bench.once(isolation));
        }
        let more: Vec<f64> = isolated
            .iter()
            .zip(&plain)
            .map(|(with, without)| with - without)
            .collect();
        Measure::new(
            &format!("environment.{isolation}"),
            median(&isolated) - median(&plain),
            "ms",
            target,
        )
        .runs(&more)
        .peer("a build without an environment", median(&plain))
        .print();
    }
}

/// A hundred containers one after another, in one build.
pub(crate) fn containers() {
    let bench = Bench::new();
    if !bench.has("lxc") {
        return;
    }
    bench.job("first", "lxc", "true", 1);
    bench.once("first");
    bench.job("plain", "none", "true", MANY);
    bench.job("many", "lxc", "true", MANY);
    let (plain, many) = (bench.once("plain"), bench.once("many"));
    Measure::new("environment.lxc-100", many / MANY as f64, "ms each", "none")
        .peer("tasks without an environment", plain / MANY as f64)
        .print();
}

/// From the trigger to the first word of a script in a machine, beside qemu alone with the same
/// kernel and initramfs, until that is in user space.
pub(crate) fn machine() {
    let bench = Bench::new();
    if !bench.has("vm") {
        return;
    }
    bench.job("vm", "vm", "echo begun; true", 1);
    // Tries KVM and makes the initramfs.
    bench.once("vm");
    let once = || {
        let begun = Instant::now();
        let build = bench.mount.trigger("vm", "");
        wait_for("the script", MACHINE_MAX, || {
            bench.mount.console("vm", build).contains("begun")
        });
        let took = milliseconds(begun.elapsed());
        bench.mount.wait_state_within("vm", build, MACHINE_MAX);
        took
    };
    let (mut machines, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..MACHINES {
        machines.push(once());
        bare.push(alone(&bench));
    }
    Measure::new("environment.vm", median(&machines), "ms", "<= 1.2 times the peer")
        .runs(&machines)
        .peer("qemu alone, same kernel and initramfs, to user space", median(&bare))
        .note("accelerator", accelerator(&bench))
        .print();
}

/// How the machines ran, as the environment found out.
fn accelerator(bench: &Bench) -> &'static str {
    let tried = fs::read_to_string(bench.mount.out().join("shell/cache/kvm-works")).unwrap_or_default();
    if tried.trim_end().ends_with("yes") {
        "kvm"
    } else {
        "tcg"
    }
}

/// One start of qemu whose first process does nothing but end the machine.
fn alone(bench: &Bench) -> f64 {
    let cache = fs::read_dir(bench.mount.out().join("shell/cache")).expect("the cache");
    let paths: Vec<PathBuf> = cache.flatten().map(|entry| entry.path()).collect();
    let initramfs = paths.iter().find(|path| path.to_string_lossy().contains("/initramfs-"));
    let initramfs = initramfs.expect("the worker made one");
    let name = initramfs.file_name().expect("a name").to_string_lossy().into_owned();
    let mut kernels = fs::read_dir("/boot")
        .expect("/boot")
        .flatten()
        .map(|entry| entry.path());
    let version = |path: &PathBuf| path.to_string_lossy().strip_prefix("/boot/vmlinuz-").map(str::to_owned);
    let kernel = kernels
        .find(|path| version(path).is_some_and(|version| name.starts_with(&format!("initramfs-{version}-"))))
        .expect("its kernel");
    let (machine, cpu) = match accelerator(bench) {
        "kvm" => ("q35,accel=kvm", "host"),
        _ => ("q35,accel=tcg", "max"),
    };
    let begun = Instant::now();
    let status = Command::new("timeout")
        .args([
            "60",
            "qemu-system-x86_64",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ])
        .args([
            "-machine", machine, "-cpu", cpu, "-smp", "2", "-m", "2048", "-nic", "none", "-serial", "null",
        ])
        .args([
            "-append",
            "quiet loglevel=1 console=ttyS0 panic=-1 rdinit=/bin/reboot -- -f",
        ])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        .stdin(Stdio::null())
        .status();
    assert!(status.is_ok_and(|status| status.success()), "qemu alone");
    milliseconds(begun.elapsed())
}
