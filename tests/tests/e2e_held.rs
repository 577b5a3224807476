//! Files that somebody holds up: their owners by leases, and whoever may write by a write that never ends. Of what is
//! written to each user has an inode of his own, so he meets nobody else; what is held up all the same holds up no other.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use distcifs_tests::github::{Receiver, fresh, job, push};
use distcifs_tests::job::shell_task;
use distcifs_tests::programs::{self, compile};
use distcifs_tests::shell::Sh;
use distcifs_tests::wait::USUAL;
use distcifs_tests::{Mount, Worker, wait_for};
use nix::mount::{MntFlags, umount2};
use serde_json::json;

/// A user of every Debian who is not root, and has tasks.
const MALLORY: u32 = 1;

/// What was held is looked at again every half minute at least.
const AGAIN: Duration = Duration::from_secs(90);

/// Two full minutes and what comes before.
const LIMIT: Duration = Duration::from_secs(300);

/// Who holds.
#[derive(Clone, Copy)]
enum By {
    /// The user of the programs that steer.
    Root,
    /// Another user.
    Mallory,
}

/// Compiles the program that holds files.
fn holder(mount: &Mount) -> String {
    let program = mount.out().join("hold");
    if !program.exists() {
        compile("hold.c", &[], &program);
    }
    program.display().to_string()
}

/// Holds files until it is dropped: by leases, or one by a write from a memory that never answers.
fn hold(mount: &Mount, by: By, how: &str, files: &[String]) -> Sh {
    let (program, id) = (holder(mount), MALLORY.to_string());
    // Such a memory is root's to make here; whoever may mount a FUSE has one without.
    let mut words = vec!["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"];
    words.extend(["--inh-caps", "+sys_ptrace", "--ambient-caps", "+sys_ptrace"]);
    words.retain(|_| matches!(by, By::Mallory));
    words.extend([program.as_str(), how]);
    words.extend(files.iter().map(String::as_str));
    let holder = mount.start_words(&words);
    wait_for("a holder", USUAL, || {
        assert!(holder.alive(), "{}", holder.complaints());
        holder.so_far().contains("held")
    });
    holder
}

/// A job becomes Mallory's, who switches it on.
fn to_mallory(mount: &Mount, job: &str) {
    mount.run(&format!(
        "chown {MALLORY}:{MALLORY} jobs/{job} && echo on > jobs/{job}/enabled"
    ));
}

fn builds(mount: &Mount, job: &str) -> usize {
    let names = mount.list(&format!("jobs/{job}/builds"));
    names.iter().filter(|name| name.parse::<u64>().is_ok()).count()
}

/// "A configuration that its owner holds by a lease holds up that job alone": the receiver follows all others, and the
/// job waits for what it did before.
#[test]
fn the_receiver_goes_on_when_a_configuration_is_leased() {
    let mount = Mount::new();
    mount.job("mine", &job(&json!({})));
    to_mallory(&mount, "mine");
    let receiver = Receiver::start(&mount, &["--owner", &MALLORY.to_string()]);
    receiver.wait_jobs(1);
    let holder = hold(&mount, By::Root, "lease", &["jobs/mine/config.json".to_owned()]);
    // A rename opens nothing of what it replaces.
    fs::write(mount.out().join("new"), json!({ "tasks": [] }).to_string()).expect("own folder");
    mount.run(&format!(
        "setpriv --reuid {MALLORY} --regid {MALLORY} --clear-groups \
         sh -c 'cp $OUT/new jobs/mine/new && mv jobs/mine/new jobs/mine/config.json'"
    ));
    wait_for("word of the lease", USUAL, || receiver.log().contains("by a lease"));
    mount.job("other", &job(&json!({})));
    receiver.wait_jobs(2);
    let answered = receiver.deliver("push", &fresh(&push("refs/heads/master")));
    assert_eq!((answered.status, answered.body), (201, json!({ "builds": 2 })));
    drop(holder);
    wait_for("the configuration that was held", AGAIN, || {
        receiver
            .get("/metrics")
            .1
            .lines()
            .any(|line| line == "github_webhook_jobs 1")
    });
}

/// "What is written to a trigger may be held up": a delivery builds all others of its repository.
#[test]
fn a_delivery_builds_what_is_not_held_up() {
    let mount = Mount::new();
    ["held", "stands", "other"]
        .iter()
        .for_each(|name| mount.job(name, &job(&json!({}))));
    to_mallory(&mount, "held");
    let receiver = Receiver::start(&mount, &["--owner", &MALLORY.to_string()]);
    receiver.wait_jobs(3);
    let _held = hold(&mount, By::Root, "lease", &["jobs/held/trigger".to_owned()]);
    let stands = hold(&mount, By::Root, "write", &["jobs/stands/trigger".to_owned()]);
    for count in 1..=2 {
        receiver.deliver("push", &fresh(&push("refs/heads/master")));
        assert_eq!((builds(&mount, "other"), builds(&mount, "held")), (count, 0));
    }
    assert!(receiver.log().contains("refused by held"), "{}", receiver.log());
    drop(stands);
    // It was only late.
    wait_for("the builds that stood", USUAL, || builds(&mount, "stands") == 2);
}

/// "A file that is held makes its own build wait": another's goes through meanwhile, and that one when it is let go.
#[test]
fn builds_go_on_while_others_are_leased() {
    let mount = Mount::new();
    let workers = Worker::usual(&mount, 1);
    let mut task = shell_task("true");
    task["labels"] = json!(["nowhere"]);
    mount.job_of("held", &[task]);
    to_mallory(&mount, "held");
    let held: Vec<u64> = (0..16).map(|_| mount.trigger("held", "")).collect();
    let records = held.iter().map(|n| format!("jobs/held/builds/{n}/build.json"));
    let holder = hold(&mount, By::Mallory, "lease", &records.collect::<Vec<_>>());
    wait_for("word of the leases", USUAL, || {
        workers[0].complaints().matches("by a lease").count() == 16
    });
    mount.shell_job("good", &["echo one", "echo two"]);
    for _ in 0..3 {
        mount.build("good", "", "success");
    }
    for n in &held {
        mount.run(&format!("echo abort > jobs/held/builds/{n}/ctl"));
    }
    drop(holder);
    for n in held {
        assert_eq!(mount.wait_state_within("held", n, AGAIN), "aborted");
    }
}

/// "A trigger that somebody holds, or holds up, is none that others wait for": cron starts the others at their time.
#[test]
fn the_schedule_of_others_goes_on() {
    let mount = Mount::with(&[], LIMIT);
    let every = json!({ "cron": "* * * * *", "tasks": [] }).to_string();
    ["a-held", "b-stands", "z-good"]
        .iter()
        .for_each(|name| mount.job(name, &every));
    to_mallory(&mount, "a-held");
    let cron = Worker::start(&mount, "cron", &[]);
    let held = hold(&mount, By::Root, "lease", &["jobs/a-held/trigger".to_owned()]);
    let stands = hold(&mount, By::Root, "write", &["jobs/b-stands/trigger".to_owned()]);
    wait_for("two minutes of the job that nobody holds", LIMIT / 2, || {
        builds(&mount, "z-good") >= 2
    });
    assert!(
        cron.alive() && cron.complaints().contains("by a lease"),
        "{}",
        cron.complaints()
    );
    drop((held, stands));
    wait_for("the builds that were held up", AGAIN, || {
        builds(&mount, "a-held") > 0 && builds(&mount, "b-stands") > 0
    });
}

/// "worker.sh reads them for 5 s at most", and goes on to the next ticket: a worker in sh, one ticket after the other.
#[test]
fn a_worker_in_sh_goes_on_to_the_next_ticket() {
    let mount = Mount::new();
    let _control = Worker::start(&mount, "build-control", &[]);
    ["mine", "good"]
        .iter()
        .for_each(|name| mount.job_of(name, &[json!({ "type": "toy" })]));
    to_mallory(&mount, "mine");
    let ticket = |job: &str| format!("tickets/toy/{job}.{}.0", mount.trigger(job, ""));
    let mine = ticket("mine");
    wait_for("the first ticket", USUAL, || mount.has(&mine));
    let files = ["timeout", "owner", ".wait"].map(|name| format!("{mine}/{name}"));
    let _holder = hold(&mount, By::Root, "lease", &files);
    let good = ticket("good");
    wait_for("the second ticket", USUAL, || mount.has(&good));
    let sh = programs::project().join("workers/worker.sh");
    let text = format!("queue=toy usage=toy\nwork() {{ echo good; }}\n. {}\n", sh.display());
    fs::write(mount.out().join("toy"), text).expect("own folder");
    let _toy = mount.start("exec sh $OUT/toy $M --as root");
    assert_eq!(mount.wait_state_within("good", 1, AGAIN / 2), "success");
}

/// "A user meets nobody but himself": who may post, trigger and steer holds up nobody else who does, and who owns a job
/// no program that reads it.
#[test]
fn whoever_may_write_holds_up_himself_alone() {
    let mount = Mount::new();
    mount.shell_job("good", &["echo one"]);
    mount.shell_job("mine", &["sleep 600"]);
    mount.job("stands", &json!({ "tasks": [] }).to_string());
    to_mallory(&mount, "mine");
    mount.run("chmod 777 tickets/execute-shell && chmod 666 jobs/stands/trigger");
    let _workers = Worker::usual(&mount, 2);
    let n = mount.trigger("mine", "");
    wait_for("the build that is held", USUAL, || mount.state("mine", n) == "running");
    let posts = "tickets/execute-shell/.post".to_owned();
    let triggers = "jobs/stands/trigger".to_owned();
    let words = format!("jobs/mine/builds/{n}/ctl");
    let _writes = [posts, triggers, words.clone()].map(|file| hold(&mount, By::Mallory, "write", &[file]));
    let leased = ["jobs/mine/config.json", "jobs/mine/enabled", "jobs/mine/trigger"].map(str::to_owned);
    let _leases = hold(&mount, By::Mallory, "lease", &leased);
    mount.build("good", "", "success");
    mount.build("stands", "", "success");
    mount.run(&format!("timeout 20 cat {} > /dev/null", leased[..2].join(" ")));
    mount.run(&format!("echo abort > {words}"));
    assert_eq!(mount.wait_state_within("mine", n, AGAIN), "aborted");
}

/// A FUSE whose files never answer, with who serves it.
struct Memory {
    folder: PathBuf,
    server: Option<Sh>,
}

impl Memory {
    fn new(mount: &Mount) -> Memory {
        let folder = mount.out().join("memory");
        fs::create_dir(&folder).expect("own folder");
        let server = mount.start_words(&[&holder(mount), "serve", &folder.display().to_string()]);
        wait_for("a memory", USUAL, || server.so_far().contains("held"));
        Memory {
            folder,
            server: Some(server),
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // With its server it answers that it is away.
        drop(self.server.take());
        umount2(&self.folder, MntFlags::MNT_DETACH).expect("it is mounted");
    }
}

/// A mount with a worker of root, a job of Mallory's whose script runs without isolation, and what it holds files by.
struct Without {
    // Before the mount: what stands in it is let go first.
    memory: Memory,
    /// Where the holders of the script say what they do.
    said: PathBuf,
    shell: Worker,
    _control: Worker,
    mount: Mount,
}

impl Without {
    fn new() -> Without {
        let mount = Mount::with(&[], LIMIT);
        let memory = Memory::new(&mount);
        let said = mount.out().join("said");
        fs::create_dir(&said).expect("own folder");
        mount.run(&format!("chmod a+rx $OUT $OUT/hold && chmod 777 {}", said.display()));
        let control = Worker::start(&mount, "build-control", &[]);
        let shell = Worker::start_as(&mount, "execute-shell", &["--isolation", "none", "--as", "root"]);
        Without {
            memory,
            said,
            shell,
            _control: control,
            mount,
        }
    }

    /// Runs a script in which `hold NAME FILE` writes to a file from memory that never answers, and goes on when it
    /// does; the number of its build.
    fn begin(&self, script: &str) -> u64 {
        let (program, memory, said) = (holder(&self.mount), self.memory.folder.display(), self.said.display());
        let script = format!(
            "hold() {{ {program} through {memory}/f \"$2\" >{said}/$1 2>&1 & until grep -q held {said}/$1; \
             do sleep 0.1; done; }}\n{script}"
        );
        let mut task = shell_task(&script);
        task["isolation"] = json!("none");
        let config = json!({ "allow": { "isolation": ["none"] }, "tasks": [task] }).to_string();
        self.mount.job("mine", &config);
        to_mallory(&self.mount, "mine");
        self.mount.trigger("mine", "")
    }

    /// What became of it; and the next task is done as ever.
    fn ends(&self, n: u64) -> String {
        let state = self.mount.wait_state_within("mine", n, 2 * AGAIN);
        self.mount.shell_job("good", &["echo good"]);
        self.mount.build("good", "", "success");
        assert!(self.shell.alive(), "{}", self.shell.complaints());
        format!("{state}: {}", self.mount.why("mine", n))
    }
}

/// The same of a claim: a script without isolation leaves writes behind that nobody can kill, to what its worker writes.
/// The worker ends the task and takes the next ticket.
#[test]
fn a_script_without_isolation_holds_up_no_worker() {
    let without = Without::new();
    // The ticket's folder is that of its working folder.
    let n = without.begin("cd ..; for file in console result; do hold $file $file; done; echo ended");
    let ended = without.ends(n);
    assert!(ended.starts_with("success"), "{ended}");
}

/// "What a script tells is taken by a process of its own, which is left behind": where somebody holds it the task is an
/// error, and the worker takes the next ticket.
#[test]
fn what_a_script_tells_and_holds_holds_up_no_worker() {
    let without = Without::new();
    let n = without.begin(": >\"$OUTPUTS\"; hold outputs \"$OUTPUTS\"; echo ended");
    let ended = without.ends(n);
    assert!(ended.starts_with("error") && ended.contains("OUTPUTS"), "{ended}");
}

/// "No thread that reads requests waits for a lock that a user may hold": a script that holds files of its workspace,
/// as many as there are such threads and more, and has them cut, is refused by a deadline; the mount answers all
/// others, the task ends, and so do those after it.
#[test]
fn files_of_a_workspace_that_are_held_hold_up_nobody() {
    let without = Without::new();
    let files = "1 2 3 4 5 6";
    let n = without.begin(&format!(
        "for i in {files}; do : >x$i; hold x$i x$i; done
         for i in {files}; do (: >x$i) & pids=\"$pids $!\"; done; touch {said}/cut; wait $pids || true; echo ended",
        said = without.said.display()
    ));
    wait_for("the files that are cut", AGAIN, || without.said.join("cut").exists());
    // Names that no kernel knows yet.
    for name in ["a", "b", "c"] {
        without.mount.run(&format!(
            "timeout 20 mkdir jobs/{name} && timeout 20 ls jobs/{name} >$OUT/null"
        ));
    }
    let ended = without.ends(n);
    assert!(ended.starts_with("success"), "{ended}");
}

/// "What stands in the system may still be done": after word that the cut of a held file failed nobody writes it, as
/// that would be taken away when the holder ends.
#[test]
fn a_file_whose_cut_stands_takes_no_writes() {
    let without = Without::new();
    let n = without.begin(
        "export LC_ALL=C; : >x; hold x x
         (: >x) 2>cut && exit 2; cat cut; (echo new >x) 2>written && exit 3; cat written
         (echo new >>x) 2>added && exit 4; cat added
         grep -q 'timed out' cut && grep -q busy written && grep -q busy added && echo ended",
    );
    let ended = without.ends(n);
    assert!(ended.starts_with("success"), "{ended}");
}
