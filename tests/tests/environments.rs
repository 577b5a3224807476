//! Environments of scripts: what a script finds in each, what it can't reach from there, which limits
//! hold, and that nothing is left of it.

use std::fs;
use std::time::{Duration, Instant};

use distcifs_tests::isolation::{BUILD_MAX, Node, SECRET, isolated};
use distcifs_tests::job::shell_task;
use distcifs_tests::{process, wait_for};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// Makes all kinds of things that a workspace may hold, with git and make where they are.
const WORK: &str = r#"
[ "$PWD" = "$WORKSPACE" ]
[ "$JOB_NAME $BUILD_NUMBER $TASK_NAME" = "work 1 $EXPECTED_TASK" ]
[ "$PARAM_odd" = "$(cat expected)" ]
[ "$EXTRA" = "x y" ]
[ "$(cat before/deep/file)" = old ]
echo new >> before/deep/file
mkdir -p made/sub
echo text > made/file
chmod 640 made/file
ln made/file made/hard
ln -s file made/soft
ln -s /nowhere made/sub/dangling
printf '#!/bin/sh\necho ran\n' > made/program
chmod 755 made/program
[ "$(made/program)" = ran ]
chmod 700 made/sub
TZ=UTC touch -d '2001-02-03 04:05:06' made/program
mv made/file made/moved
rm before/gone
echo artifact > "$ARTIFACTS/result"
if command -v git; then
    git init -q -b main repo
    cd repo
    printf 'all: out\nout: in\n\tcp in out\n' > Makefile
    echo in > in
    git add .
    git -c user.name=a -c user.email=a@b commit -qm first
    cd ..
    git clone -q repo clone
    cd clone
    [ -z "$(git status --porcelain)" ]
    if command -v make; then make -s; cmp in out; fi
    cd ..
    rm -rf repo
fi
"#;

/// What `WORK` starts from.
const BEFORE: &str =
    "mkdir -p before/deep; echo old > before/deep/file; echo x > before/gone; printf '%s' \"$PARAM_odd\" > expected";

/// Runs `WORK` and lists what it left, as the next task and the build's artifacts have it.
fn work(node: &Node, name: &str, isolation: &Value) -> String {
    let mut task = isolated(isolation, WORK);
    task["name"] = json!("unit");
    task["environment"] = json!({"EXTRA": "x y", "EXPECTED_TASK": "unit"});
    let list = "find . -path ./clone/.git -prune -o -printf '%P %y %m %n %u:%g %l\\n' | LC_ALL=C sort; \
                stat -c %Y made/program; cat before/deep/file; [ ! -d clone ] || git -C clone log --format=%s";
    let tasks = [shell_task(BEFORE), task, shell_task(list)];
    node.job("work", &tasks);
    let (state, why, console) = node.build("work");
    assert_eq!(state, "success", "{name}: {why}\n{console}");
    assert_eq!(
        node.mount.read("jobs/work/builds/1/artifacts/result"),
        "artifact",
        "{name}"
    );
    let list = node.mount.read("jobs/work/builds/1/tasks/2-execute-shell/console");
    fs::remove_dir_all(node.mount.path("jobs/work")).expect("rm -r of a job");
    list
}

/// A workspace comes back from each environment as it does without one.
#[track_caller]
fn leaves_the_same_as_none(node: &Node, isolation: &Value) {
    let plain = work(node, "none", &json!("none"));
    assert!(
        plain.contains("made/moved f 640 2 root:root") && plain.contains("981173106"),
        "{plain}"
    );
    assert_eq!(work(node, "isolated", isolation), plain);
    node.wait_gone("no process of these words");
}

/// What a script tries, and must not succeed in. `$1`: the words for the helper.
fn attempts(words: &str) -> String {
    format!(
        r#"
try() {{ what=$1; shift; if "$@" > /dev/null 2>&1; then echo "escaped: $what"; fi; }}
./escape {words}
try 'write to /sys' sh -c 'for f in /sys/kernel/mm/ksm/run /sys/kernel/profiling /sys/power/state; do [ -w $f ] && exit; done; exit 1'
try sysrq sh -c 'echo h > /proc/sysrq-trigger'
try sysctl sh -c 'cat /proc/sys/kernel/panic > /proc/sys/kernel/panic'
try 'core pattern' sh -c 'cat /proc/sys/kernel/core_pattern > /proc/sys/kernel/core_pattern'
for path in "$PARAM_store" "$PARAM_mount" "$PARAM_state" "$PARAM_helper" "$PARAM_mount/tickets"; do
    try "$path" ls "$path"
done
for pid in $PARAM_pids; do
    try "environ of $pid" grep -q '{SECRET}' "/proc/$pid/environ"
    try "files of $pid" ls "/proc/$pid/root/$PARAM_store"
done
try 'environ of any' sh -c 'cat /proc/[0-9]*/environ | grep -q {SECRET}'
try 'secret in a variable' sh -c 'env | grep -q {SECRET}'
for fd in 3 4 5 6 7 8 9 10 11 12 13; do try "descriptor $fd" readlink /proc/self/fd/$fd; done
for secret in /etc/shadow /var/lib/distcifs /etc/distcifs; do try "$secret" cat "$secret"; try "$secret" ls "$secret"; done
if [ -e /proc/1/root/proc/self ]; then try 'another root' ls /proc/1/root/"$PARAM_store"; fi
echo attempts are over
"#
    )
}

/// Lines that tell of an escape.
fn escapes(console: &str) -> Vec<&str> {
    console.lines().filter(|line| line.starts_with("escaped")).collect()
}

/// Runs all attempts in an environment.
fn try_all(node: &Node, job: &str, isolation: &Value) -> String {
    let helper = "raw mount . device . device /tmp root kernel keys handle . ptrace $PARAM_pids";
    node.job(
        job,
        &[
            shell_task("cp \"$PARAM_helper\" escape"),
            isolated(isolation, &attempts(helper)),
        ],
    );
    let (state, why, console) = node.build(job);
    assert_eq!(state, "success", "{why}\n{console}");
    assert!(
        console.contains("done\n") && console.contains("attempts are over"),
        "{console}"
    );
    console
}

/// The attempts are real: as root and without an environment most of them work.
#[test]
fn a_script_in_no_environment_can_do_what_its_worker_can() {
    let node = Node::new("none");
    let console = try_all(&node, "none", &json!("none"));
    let escapes = escapes(&console);
    for what in [
        "raw socket",
        "mount",
        "sysctl",
        "keyring",
        "file handle",
        "environ of",
        "ptrace",
        "/store",
    ] {
        assert!(escapes.iter().any(|line| line.contains(what)), "{what}: {escapes:?}");
    }
    // What a script inherits is bounded all the same.
    for what in ["descriptor", "variable"] {
        assert!(!escapes.iter().any(|line| line.contains(what)), "{what}: {escapes:?}");
    }
}

/// No way leads out, and outside the script is not root.
#[track_caller]
fn nothing_leads_out(node: &Node, isolation: &Value) {
    let console = try_all(node, "escape", isolation);
    assert_eq!(escapes(&console), Vec::<&str>::new(), "{console}");
    let build = {
        node.job("owner", &[isolated(isolation, "sleep 4551.1")]);
        node.mount.trigger("owner", "")
    };
    wait_for("the sleeper", BUILD_MAX, || process::runs("sleep 4551.1"));
    let owners: Vec<u32> = process::find("sleep 4551.1")
        .into_iter()
        .filter_map(process::owner)
        .collect();
    assert!(!owners.is_empty() && !owners.contains(&0), "{owners:?}");
    node.mount
        .write(&format!("jobs/owner/builds/{build}/ctl"), "abort\n")
        .expect("ctl");
    node.mount.wait_state("owner", build);
    node.wait_gone("sleep 4551.1");
}

/// A task's environment with one thing more.
fn with(isolation: &Value, key: &str, value: Value) -> Value {
    let mut all = match isolation {
        Value::Object(_) => isolation.clone(),
        name => json!({ "isolation": name }),
    };
    all[key] = value;
    all
}

/// Memory, processes and processor time have the bounds that the job names.
#[track_caller]
fn limits_hold(node: &Node, isolation: &Value) {
    let limited = |limits: Value| with(isolation, "limits", limits);
    let helper = shell_task("cp \"$PARAM_helper\" escape");
    let run = |name: &str, limits: Value, script: &str| {
        node.job(name, &[helper.clone(), isolated(&limited(limits), script)]);
        node.build(name)
    };
    let (state, why, console) = run("forks", json!({"processes": 40}), "./escape fork 100000");
    assert_eq!(state, "success", "{why}\n{console}");
    let count = console
        .lines()
        .find_map(|line| line.strip_prefix("processes: ")?.parse::<u32>().ok());
    // The shell, the helper and its children.
    assert_eq!(count, Some(38), "{console}");
    assert!(escapes(&console).is_empty(), "{console}");
    let (state, why, console) = run("memory", json!({"memory": "128M"}), "./escape memory 100000");
    assert_eq!(state, "failure", "{why}\n{console}");
    assert!(
        console.contains("memory: 64 MiB") && !console.contains("memory: 128 MiB"),
        "{console}"
    );
    assert!(why.contains("limit of memory"), "{why}");
    let busy = "p=; for i in 1 2 3 4; do (while :; do :; done) & p=\"$p $!\"; done; sleep 3; kill $p; wait $p || times > times; tail -n 1 times";
    let (state, why, console) = run("cpus", json!({"cpus": 0.3}), busy);
    assert_eq!(state, "success", "{why}\n{console}");
    let seconds = seconds_of(console.lines().last().unwrap_or_default());
    assert!(
        (0.3..1.7).contains(&seconds),
        "0.3 processors for 3 s, and {seconds} s were used: {console}"
    );
    node.wait_gone("escape fork");
}

/// The sum of a line of `times`: `0m0.41s 0m0.02s`.
fn seconds_of(line: &str) -> f64 {
    let one = |word: &str| {
        let (minutes, seconds) = word.trim_end_matches('s').split_once('m')?;
        Some(minutes.parse::<f64>().ok()? * 60.0 + seconds.parse::<f64>().ok()?)
    };
    line.split(' ').filter_map(one).sum()
}

/// Bounds that no job names hold all the same, so that the node lives on.
#[track_caller]
fn a_node_survives_any_script(node: &Node, isolation: &Value) {
    let helper = shell_task("cp \"$PARAM_helper\" escape");
    let script = "./escape fork 100000; echo begun; while [ ! -e \"$ARTIFACTS/never\" ]; do sleep 0.2; done";
    node.job("bomb", &[helper, isolated(isolation, script)]);
    let build = node.mount.trigger("bomb", "");
    wait_for("the bomb", BUILD_MAX, || {
        node.mount.console("bomb", build).contains("begun")
    });
    let console = node.mount.console("bomb", build);
    assert!(
        console.contains("processes: 40") && escapes(&console).is_empty(),
        "{console}"
    );
    // To use up half of the machine's memory would be no kindness to other tests.
    let bounds: Vec<u64> = node.left().iter().filter_map(|path| memory_bound(path)).collect();
    assert!(bounds.len() == 1 && bounds[0] < machine_memory() * 3 / 4, "{bounds:?}");
    node.mount
        .write(&format!("jobs/bomb/builds/{build}/ctl"), "abort\n")
        .expect("ctl");
    node.mount.wait_state("bomb", build);
    node.wait_gone("escape fork");
}

/// The bound of a control group, bytes.
fn memory_bound(group: &str) -> Option<u64> {
    let read = |file| fs::read_to_string(format!("{group}/{file}")).ok();
    read("memory.limit_in_bytes")
        .or_else(|| read("memory.max"))?
        .trim()
        .parse()
        .ok()
}

/// Memory of this machine, bytes.
fn machine_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").expect("/proc");
    let kib = text.lines().find_map(|line| {
        line.strip_prefix("MemTotal:")?
            .trim()
            .strip_suffix(" kB")?
            .parse::<u64>()
            .ok()
    });
    kib.expect("MemTotal") << 10
}

/// All of it is gone after success, failure, an abort and a timeout; TERM reaches the script first.
#[track_caller]
fn it_is_gone_after_every_end(node: &Node, isolation: &Value) {
    let begin = "(setsid sleep 4552.1 &) ; sleep 4552.2 & echo begun\n";
    for (name, script, expected) in [("good", "true", "success"), ("bad", "exit 7", "failure")] {
        let (state, why, _) = node.run(name, isolation, &format!("{begin}{script}"));
        assert_eq!(state, expected, "{why}");
        node.wait_gone("sleep 4552.");
    }
    assert!(node.mount.why("bad", 1).contains("exit 7"));
    let heeds = format!("{begin}trap 'echo heard; exit 1' TERM\nwhile :; do sleep 0.1; done");
    node.job("late", &[isolated(&with(isolation, "timeout", json!(3)), &heeds)]);
    let (state, why, console) = node.build("late");
    assert_eq!(state, "failure", "{why}");
    assert!(
        console.contains("heard") && why.contains("timed out after 3 s"),
        "{why}\n{console}"
    );
    node.wait_gone("sleep 4552.");
    node.job("aborted", &[isolated(isolation, &format!("{begin}wait"))]);
    let build = node.mount.trigger("aborted", "");
    wait_for("the sleepers", BUILD_MAX, || {
        node.mount.console("aborted", build).contains("begun")
    });
    node.mount
        .write(&format!("jobs/aborted/builds/{build}/ctl"), "abort\n")
        .expect("ctl");
    assert_eq!(node.mount.wait_state("aborted", build), "aborted");
    node.wait_gone("sleep 4552.");
}

/// All of it is gone after kill -9 of the worker, of its keeper, and of both at once.
#[track_caller]
fn it_is_gone_when_its_worker_is_killed(node: &mut Node, isolation: &Value) {
    let script = "[ -e again ] && exit; echo begun; (setsid sleep 4553.1 &); sleep 4553.2";
    for victims in [&[1][..], &[0], &[0, 1]] {
        let name = format!("killed-{}-{}", victims.len(), victims[0]);
        let task = isolated(&with(isolation, "attempts", json!(1)), script);
        node.job(&name, &[task]);
        let build = node.mount.trigger(&name, "");
        wait_for("the sleepers", BUILD_MAX, || {
            node.mount.console(&name, build).contains("begun")
        });
        let pids = node.pids();
        for victim in victims {
            process::signal(pids[*victim], Signal::SIGKILL);
        }
        let begun = Instant::now();
        wait_for("its end", Duration::from_secs(15), || !process::runs("sleep 4553."));
        wait_for("the worker's end", Duration::from_secs(15), || {
            pids.iter().all(|pid| !process::is_alive(*pid))
        });
        eprintln!("{name}: gone after {:?}", begun.elapsed());
        // What of it no process could remove is removed at the next start.
        let _ = node.mount.write(&format!("jobs/{name}/builds/{build}/ctl"), "abort\n");
        node.mount.wait_state(&name, build);
        node.start_worker();
        node.wait_gone("sleep 4553.");
    }
}

#[test]
fn the_examples_of_environments_are_true() {
    distcifs_tests::page::check("doc/environments.md", 7, BUILD_MAX);
}

#[test]
fn namespace_leaves_the_same_as_none() {
    leaves_the_same_as_none(&Node::new("none,namespace"), &json!("namespace"));
}

#[test]
fn nothing_leads_out_of_a_namespace() {
    nothing_leads_out(&Node::new("none,namespace"), &json!("namespace"));
}

#[test]
fn limits_hold_in_a_namespace() {
    let node = Node::new("none,namespace");
    limits_hold(&node, &json!("namespace"));
    a_node_survives_any_script(&node, &json!("namespace"));
}

#[test]
fn limits_hold_in_no_environment() {
    limits_hold(&Node::new("none"), &json!("none"));
}

#[test]
fn a_namespace_is_gone_after_every_end() {
    let mut node = Node::new("none,namespace");
    it_is_gone_after_every_end(&node, &json!("namespace"));
    it_is_gone_when_its_worker_is_killed(&mut node, &json!("namespace"));
}

/// The programs of the node can be read and nothing else; more only where its owner says so.
#[test]
fn a_namespace_without_an_image_has_the_nodes_programs() {
    let node = Node::new("none,namespace");
    let script = "touch /usr/escaped || echo read-only\n[ -x /usr/bin/gcc ]\n! ls /root /home\n! touch /opt/x\ntouch /tmp/x /var/tmp/x";
    let (state, why, console) = node.run("plain", &json!("namespace"), script);
    assert_eq!(state, "success", "{why}\n{console}");
    assert!(console.contains("read-only"), "{console}");
}

/// An image of a few megabytes: busybox, with git and make from this machine.
const IMAGE: &str = r#"
mkdir -p root/bin root/etc root/root root/tmp root/dev root/proc root/sys root/usr/bin
cp "$(command -v busybox)" root/bin/busybox
for applet in $(busybox --list); do [ -e "root/bin/$applet" ] || ln -s busybox "root/bin/$applet"; done
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' > root/etc/passwd
for program in git make; do
    path=$(readlink -f "$(command -v $program)")
    cp --parents "$path" root
    cp --parents -L $(ldd "$path" | grep -o '/[^ ]*') root
    [ -e "root/bin/$program" ] || ln -s "$path" "root/bin/$program"
done
mkdir -p "root$(git --exec-path)"
for name in git git-upload-pack; do ln -sf /bin/git "root$(git --exec-path)/$name"; done
mkdir root/owned; chown 33:33 root/owned; chmod 2750 root/owned
"#;

/// Makes the job `image` and builds it, as `pack` says.
fn make_image(node: &Node, pack: &str) {
    node.job("image", &[shell_task(&format!("{IMAGE}{pack}"))]);
    let (state, why, console) = node.build("image");
    assert_eq!(state, "success", "{why}\n{console}");
}

/// A node with an image.
fn node_with_image(isolations: &str) -> Node {
    let node = Node::new(isolations);
    make_image(&node, "tar -c -C root . | gzip -1 > \"$ARTIFACTS/root.tar.gz\"");
    node
}

/// A task's environment with that image.
fn of_image(isolation: &str) -> Value {
    json!({"isolation": isolation, "image": "job:image"})
}

#[test]
fn lxc_leaves_the_same_as_none() {
    leaves_the_same_as_none(&node_with_image("none,lxc"), &of_image("lxc"));
}

#[test]
fn nothing_leads_out_of_a_container() {
    nothing_leads_out(&node_with_image("none,lxc"), &of_image("lxc"));
}

#[test]
fn limits_hold_in_a_container() {
    let node = node_with_image("none,lxc");
    limits_hold(&node, &of_image("lxc"));
    a_node_survives_any_script(&node, &of_image("lxc"));
}

#[test]
fn a_container_is_gone_after_every_end() {
    let mut node = node_with_image("none,lxc");
    it_is_gone_after_every_end(&node, &of_image("lxc"));
    it_is_gone_when_its_worker_is_killed(&mut node, &of_image("lxc"));
}

/// What a container changes is thrown away, owners and modes of the image are what they were.
#[test]
fn a_container_is_made_anew_each_time() {
    let node = node_with_image("none,lxc,namespace");
    let script =
        "stat -c '%u:%g %a' /owned /bin/busybox\n[ ! -e /changed ]\ntouch /changed /bin/new\nrm /bin/vi\nid -u";
    for name in ["first", "second"] {
        let (state, why, console) = node.run(name, &of_image("lxc"), script);
        assert_eq!(state, "success", "{why}\n{console}");
        assert!(console.ends_with("33:33 2750\n0:0 755\n0"), "{console}");
        assert_eq!(console.contains("unpacking"), name == "first", "{console}");
    }
    // In a namespace the same image is there to be read.
    let (state, why, console) = node.run(
        "third",
        &of_image("namespace"),
        "[ -e /bin/vi ]\n! touch /bin/new\nid -u",
    );
    assert_eq!(state, "success", "{why}\n{console}");
}

/// A hundred containers one after another leave nothing behind.
#[test]
fn a_hundred_containers_leave_nothing() {
    let node = node_with_image("none,lxc");
    let before = (mounts(), leftovers(), node.left());
    let tasks: Vec<Value> = (0..100)
        .map(|_| isolated(&of_image("lxc"), "touch /x; (setsid sleep 4554.1 &)"))
        .collect();
    node.job("many", &tasks);
    let (state, why, console) = node.build("many");
    assert_eq!(state, "success", "{why}\n{console}");
    node.wait_gone("sleep 4554.1");
    assert_eq!((mounts(), leftovers(), node.left()), before);
}

/// Mounts of environments outside of their own namespaces.
fn mounts() -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").expect("/proc");
    let ours =
        |line: &&str| line.contains(" - tmpfs distcifs ") || line.contains(" - overlay ") || line.contains("lxc");
    text.lines().filter(ours).map(str::to_owned).collect()
}

/// What LXC is known to leave where it is run without care.
fn leftovers() -> Vec<String> {
    let mut found = Vec::new();
    for folder in [
        "/run/lxc",
        "/run/lxc/lock",
        "/var/lib/lxc",
        "/sys/fs/cgroup/pids",
        "/sys/fs/cgroup/unified",
        "/sys/fs/cgroup",
    ] {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let names = entries.map(|entry| format!("{folder}/{}", entry.file_name().to_string_lossy()));
        found.extend(names.filter(|name| name.contains("lxc")));
    }
    found.sort();
    found
}

/// An image may be a folder, or a tar that is packed in several ways; what is none is an error with
/// the reason in the console.
#[test]
fn images_that_are_good_and_bad() {
    let node = Node::new("none,lxc");
    let pack = |pack: &str| {
        if node.mount.has("jobs/image") {
            fs::remove_dir_all(node.mount.path("jobs/image")).expect("rm -r of a job");
        }
        make_image(&node, pack);
    };
    let good = [
        "cp -a root \"$ARTIFACTS\"",
        "cp -a root/. \"$ARTIFACTS\"",
        "tar -c -C root . | xz -0 > \"$ARTIFACTS/i\"",
        "tar -c -C root -f \"$ARTIFACTS/i\" .",
    ];
    for (number, how) in good.iter().enumerate() {
        pack(how);
        let (state, why, console) = node.run(&format!("good-{number}"), &of_image("lxc"), "git --version");
        assert_eq!(state, "success", "{how}: {why}\n{console}");
    }
    let bad = [
        (
            "tar -c -C root . | gzip -1 | head -c 100000 > \"$ARTIFACTS/i\"",
            "could not unpack it",
        ),
        ("head -c 100000 /dev/urandom > \"$ARTIFACTS/i\"", "could not unpack it"),
        ("tar -c -C root -f \"$ARTIFACTS/i\" etc", "no root file system"),
        (
            "echo x > \"$ARTIFACTS/a\"; echo x > \"$ARTIFACTS/b\"",
            "no root file system",
        ),
        ("true", "published no artifacts"),
        (
            "rm root/bin/sh; ln -s /no/such root/bin/sh; tar -c -C root -f \"$ARTIFACTS/i\" .",
            "no root file system",
        ),
        (
            "echo not > root/bin/busybox; tar -c -C root -f \"$ARTIFACTS/i\" .",
            "lxc: ",
        ),
    ];
    for (number, (how, reason)) in bad.iter().enumerate() {
        pack(how);
        let (state, why, console) = node.run(&format!("bad-{number}"), &of_image("lxc"), "true");
        assert_eq!(state, "error", "{how}: {why}\n{console}");
        assert!(
            why.contains(reason) && console.contains(reason),
            "{how}: {why}\n{console}"
        );
    }
    for (name, image, reason) in [
        ("no-job", "job:none-such", "no such job"),
        ("no-build", "job:empty", "no successful build"),
    ] {
        if name == "no-build" {
            node.job("empty", &[]);
        }
        let (state, why, console) = node.run(name, &json!({"isolation": "lxc", "image": image}), "true");
        assert_eq!(state, "error", "{why}\n{console}");
        assert!(why.contains(reason) && console.contains(reason), "{why}\n{console}");
    }
    let (state, why, _) = node.run("no-image", &json!("lxc"), "true");
    assert_eq!(state, "error");
    assert!(why.contains("needs an image"), "{why}");
}
