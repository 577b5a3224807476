//! What every environment must show: that a script works in it, can't leave it, is bounded, and that
//! nothing is left of it.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::{BUILD_MAX, Node, SECRET, isolated};
use crate::job::shell_task;
use crate::process;
use crate::wait::wait_for;

/// Makes all kinds of things that a workspace may hold, with git and make where they are.
const WORK: &str = r#"
[ "$PWD" = "$WORKSPACE" ]
[ "$JOB_NAME $BUILD_NUMBER $TASK_NAME" = "same 1 $EXPECTED_TASK" ]
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
echo "told=$TASK_NAME = $EXTRA" >> "$OUTPUTS"
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
    node.job("same", &tasks);
    let (state, why, console) = node.build("same");
    assert_eq!(state, "success", "{name}: {why}\n{console}");
    assert_eq!(
        node.mount.read("jobs/same/builds/1/artifacts/result"),
        "artifact",
        "{name}"
    );
    assert_eq!(node.mount.list("jobs/same/builds/1/artifacts"), ["result"], "{name}");
    let record: Value = serde_json::from_str(&node.mount.read("jobs/same/builds/1/build.json")).expect("JSON");
    assert_eq!(record["params"]["told"], "unit = x y", "{name}");
    let list = node.mount.read("jobs/same/builds/1/tasks/2-execute-shell/console");
    fs::remove_dir_all(node.mount.path("jobs/same")).expect("rm -r of a job");
    list
}

/// A workspace comes back from each environment as it does without one.
#[track_caller]
pub fn leaves_the_same_as_none(node: &Node, isolation: &Value) {
    let plain = work(node, "none", &json!("none"));
    assert!(
        plain.contains("made/moved f 640 2 root:root") && plain.contains("981173106"),
        "{plain}"
    );
    assert_eq!(work(node, "isolated", isolation), plain);
    scripts_name_their_program(node, isolation);
    needs_are_there(node, isolation);
    node.wait_gone("no process of these words");
}

/// "A script that begins with `#!` is run by the program that the line names", a file of the workspace too,
/// and one whose program is not there says so.
fn scripts_name_their_program(node: &Node, isolation: &Value) {
    let make = "mkdir 'a b'; printf '#!/bin/sh -u\\necho file $-\\n' > 'a b/x'";
    let mut file = isolated(isolation, "");
    file["params"] = json!({ "script_file": "a b/x" });
    file["allow_failure"] = json!(true);
    let mut lines = isolated(isolation, "");
    lines["params"]["script"] = json!(["#!/bin/sh -u", "echo text $-"]);
    node.job(
        "programs",
        &[shell_task(make), file, lines, isolated(isolation, "#!/no/such\n")],
    );
    let (state, why, console) = node.build("programs");
    assert_eq!(state, "failure", "{console}");
    for said in ["file u", "text u", "the script begins with #!/no/such"] {
        assert!(console.contains(said), "{said}: {console}");
    }
    assert!(
        why.contains("begins with #!/no/such, and there is no such program here"),
        "{why}"
    );
    fs::remove_dir_all(node.mount.path("jobs/programs")).expect("rm -r of a job");
}

/// "`$NEEDS` is what the tasks that this one waits for published, read-only", whatever stands between.
fn needs_are_there(node: &Node, isolation: &Value) {
    let named = |name: &str, needs: &[&str], mut task: Value| {
        (task["name"], task["needs"]) = (json!(name), json!(needs));
        task
    };
    let publish = "mkdir \"$ARTIFACTS/d\"; echo \"$TASK_NAME\" > \"$ARTIFACTS/d/f\"; [ -z \"$(ls \"$NEEDS\")\" ]";
    let collect = "[ \"$NEEDS\" = /needs ]; cd \"$NEEDS\"; cat */d/f; cp -r one \"$WORKSPACE\"
         for what in 'touch one/new' 'rm two/d/f' 'mkdir new' 'mv one three'; do
             ! $what 2> /dev/null || echo \"done: $what\"
         done; (echo x > one/d/f) 2> /dev/null || echo refused";
    let tasks = [
        named("one", &[], isolated(isolation, publish)),
        named("two", &[], shell_task(publish)),
        named("all", &["one", "two"], isolated(isolation, collect)),
        shell_task("cat one/d/f"),
    ];
    node.job("fan", &tasks);
    let (state, why, console) = node.build("fan");
    assert_eq!(state, "success", "{why}\n{console}");
    let said = |task: &str| node.mount.read(&format!("jobs/fan/builds/1/tasks/{task}/console"));
    assert_eq!(said("2-all"), "one\ntwo\nrefused", "{console}");
    assert_eq!(said("3-execute-shell"), "one");
    fs::remove_dir_all(node.mount.path("jobs/fan")).expect("rm -r of a job");
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
try network sh -c "sed -e 1,2d -e '/^ *lo:/d' /proc/net/dev | grep -q ."
for fd in 3 4 5 6 7 8 9 10 11 12 13; do try "descriptor $fd" readlink /proc/self/fd/$fd; done
for secret in /etc/shadow /var/lib/distcifs /etc/distcifs; do try "$secret" cat "$secret"; try "$secret" ls "$secret"; done
if [ -e /proc/1/root/proc/self ]; then try 'another root' ls /proc/1/root/"$PARAM_store"; fi
echo attempts are over
"#
    )
}

/// Lines that tell of an escape.
pub fn escapes(console: &str) -> Vec<&str> {
    console.lines().filter(|line| line.starts_with("escaped")).collect()
}

/// Runs all attempts in an environment.
pub fn try_all(node: &Node, job: &str, isolation: &Value) -> String {
    try_with(
        node,
        job,
        isolation,
        "raw mount . device . device /tmp root kernel keys handle . ptrace $PARAM_pids",
    )
}

/// The same with other words for the helper.
pub fn try_with(node: &Node, job: &str, isolation: &Value, helper: &str) -> String {
    let copy = shell_task("cp \"$PARAM_helper\" escape");
    node.job(job, &[copy, isolated(isolation, &attempts(helper))]);
    let (state, why, console) = node.build(job);
    assert_eq!(state, "success", "{why}\n{console}");
    assert!(
        console.contains("done\n") && console.contains("attempts are over"),
        "{console}"
    );
    console
}

/// No way leads out, and outside the script is not root.
#[track_caller]
pub fn nothing_leads_out(node: &Node, isolation: &Value) {
    let console = try_all(node, "escape", isolation);
    assert_eq!(escapes(&console), Vec::<&str>::new(), "{console}");
    its_owner_is_nobody(node, isolation);
}

/// Whatever the script is inside, outside nothing of it is root.
#[track_caller]
pub fn its_owner_is_nobody(node: &Node, isolation: &Value) {
    while_it_runs(node, isolation, |pids| {
        let owners: Vec<u32> = pids.iter().copied().filter_map(process::owner).collect();
        assert!(!owners.is_empty() && !owners.contains(&0), "{owners:?}");
    });
}

/// Looks at a script that runs, or at the machine that it is in.
pub fn while_it_runs(node: &Node, isolation: &Value, look: impl FnOnce(&[Pid])) {
    node.job("sleeps", &[isolated(isolation, "echo begun; sleep 4551.1")]);
    let build = node.mount.trigger("sleeps", "");
    wait_for("the sleeper", BUILD_MAX, || {
        node.mount.console("sleeps", build).contains("begun")
    });
    let inside = || {
        let pids = process::find("sleep 4551.1").into_iter();
        let pids = pids.chain(process::named("qemu-system-x86"));
        pids.filter(|pid| node.holds(*pid)).collect::<Vec<_>>()
    };
    // It says that it has begun before its sleep is there.
    wait_for("its process", BUILD_MAX, || !inside().is_empty());
    look(&inside());
    abort(node, "sleeps", build);
    node.wait_gone("sleep 4551.1");
}

/// Aborts a build and waits for its end.
pub fn abort(node: &Node, job: &str, build: u64) -> String {
    let ctl = format!("jobs/{job}/builds/{build}/ctl");
    node.mount.write(&ctl, "abort\n").expect("ctl");
    node.mount.wait_state_within(job, build, BUILD_MAX)
}

/// A task's environment with one thing more.
pub fn with(isolation: &Value, key: &str, value: Value) -> Value {
    let mut all = match isolation {
        Value::Object(_) => isolation.clone(),
        name => json!({ "isolation": name }),
    };
    all[key] = value;
    all
}

/// Memory, processes and processor time have the bounds that the job names.
#[track_caller]
pub fn limits_hold(node: &Node, isolation: &Value) {
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
    let (state, why, console) = run(
        "disk",
        json!({"disk": "64M"}),
        "dd if=/dev/zero of=big bs=1048576 count=200",
    );
    assert_eq!(state, "failure", "{why}\n{console}");
    assert!(why.contains("limits.disk of 64 MiB"), "{why}\n{console}");
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
pub fn a_node_survives_any_script(node: &Node, isolation: &Value) {
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
    abort(node, "bomb", build);
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
pub fn it_is_gone_after_every_end(node: &Node, isolation: &Value) {
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
    assert_eq!(abort(node, "aborted", build), "aborted");
    node.wait_gone("sleep 4552.");
}

/// The worker, its keeper, and both at once.
pub const EACH_AND_BOTH: [&[usize]; 3] = [&[1], &[0], &[0, 1]];

/// All of it is gone after kill -9 of these: 0 is the keeper, 1 the worker.
#[track_caller]
pub fn it_is_gone_when_its_worker_is_killed(node: &mut Node, isolation: &Value, killed: &[&[usize]]) {
    let script = "[ -e again ] && exit; echo begun; (setsid sleep 4553.1 &); sleep 4553.2";
    for victims in killed {
        let name = format!("killed-{}-{}", victims.len(), victims[0]);
        let task = isolated(&with(isolation, "attempts", json!(1)), script);
        node.job(&name, &[task]);
        let build = node.mount.trigger(&name, "");
        wait_for("the sleepers", BUILD_MAX, || {
            node.mount.console(&name, build).contains("begun")
        });
        let pids = node.pids();
        for victim in *victims {
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

/// The same when both are killed so long after the trigger: while the environment is being made, too.
#[track_caller]
pub fn it_is_gone_whenever_its_worker_is_killed(node: &mut Node, isolation: &Value, moments: &[u64]) {
    let task = isolated(
        &with(isolation, "attempts", json!(1)),
        "(setsid sleep 4555.1 &); sleep 4555.2",
    );
    node.job("early", &[task]);
    for moment in moments {
        let build = node.mount.trigger("early", "");
        // The moment is what is tried: there is nothing to wait for.
        std::thread::sleep(Duration::from_millis(*moment));
        for pid in node.pids() {
            process::signal(pid, Signal::SIGKILL);
        }
        // It may be over by now: its worker died.
        let _ = node.mount.write(&format!("jobs/early/builds/{build}/ctl"), "abort\n");
        node.mount.wait_state_within("early", build, BUILD_MAX);
        node.start_worker();
        node.wait_gone("sleep 4555.");
    }
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
pub fn make_image(node: &Node, pack: &str) {
    node.job("image", &[shell_task(&format!("{IMAGE}{pack}"))]);
    let (state, why, console) = node.build("image");
    assert_eq!(state, "success", "{why}\n{console}");
}

/// A node with an image.
pub fn node_with_image(isolations: &str) -> Node {
    let node = Node::new(isolations);
    make_image(&node, "tar -c -C root . | gzip -1 > \"$ARTIFACTS/root.tar.gz\"");
    node
}

/// A task's environment with that image.
pub fn of_image(isolation: &str) -> Value {
    json!({"isolation": isolation, "image": "job:image"})
}
