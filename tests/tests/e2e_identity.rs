//! Whom a task runs as, by real processes of several users: with the rights of its job's owner and of
//! nobody else.

use std::process::Command;

use distcifs_tests::wait::USUAL;
use distcifs_tests::{Mount, Sh, Worker, wait_for};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// A user of every Debian who is not root: its name and number.
const OTHER: (&str, u32) = ("daemon", 1);

/// Whom jobs of root run as here.
const FOR_ROOT: (&str, u32) = ("games", 5);

/// A number that is nobody's.
const UNKNOWN: u32 = 3_999_999_999;

/// Without other users there is nothing to see, and to skip would be to promise what was not seen.
fn need_root() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "tasks of several users: run it as root"
    );
}

fn said(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output().expect("it runs");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

fn shell(script: &str) -> Value {
    json!({"type": "execute-shell", "params": {"script": script}})
}

/// A job of this user.
fn job_of(mount: &Mount, owner: u32, name: &str, tasks: &[Value]) {
    mount.job_of(name, tasks);
    mount.run(&format!("chown {owner} jobs/{name}"));
}

/// "A worker that is root hands the ticket to the job's owner and does as that user, with that user's
/// groups on this node, all that happens outside an isolation"; "jobs of root run as `--as USER`".
#[test]
fn a_script_is_the_owner_of_its_job() {
    need_root();
    let mount = Mount::new();
    let _control = Worker::start(&mount, "build-control", &[]);
    let _shell = Worker::start_as(&mount, "execute-shell", &["--as", FOR_ROOT.0]);
    // A descriptor that it inherits, a way back to root, its own words by a name.
    let script = "id -u; id -G; echo $HOME $USER $LOGNAME; echo kept >f; grep CapEff /proc/self/status\n\
                  echo words >/dev/stderr; ls /proc/self/fd | tr '\\n' ' '; ! cat /proc/$PPID/environ";
    for (owner, user) in [(0, FOR_ROOT), (OTHER.1, OTHER)] {
        let name = format!("of_{owner}");
        job_of(&mount, owner, &name, &[shell(script)]);
        let build = mount.build(&name, "", "success");
        let console = mount.console(&name, build);
        let home = said("sh", &["-c", &format!("getent passwd {} | cut -d: -f6", user.0)]);
        let expected = format!(
            "{}\n{}\n{home} {name} {name}\nCapEff:\t0000000000000000\nwords\n0 1 2 3 ",
            user.1,
            said("id", &["-G", user.0]),
            name = user.0
        );
        assert!(console.starts_with(&expected), "{console}");
        // "The result records all of it as of user and group 0", which are shown as the job's owner's.
        let owners = mount.run(&format!("stat -c %u:%g jobs/{name}/builds/{build}/workspace/f"));
        assert_eq!(owners.trim(), format!("{owner}:0"));
    }
}

/// "Handed over for work outside an isolation, everything in the folders belongs to the new user …
/// so tasks of different users can follow each other."
#[test]
fn what_an_isolated_script_left_is_the_owners_in_the_next_task() {
    need_root();
    let mount = Mount::new();
    let _control = Worker::start(&mount, "build-control", &[]);
    let _shell = Worker::start_as(&mount, "execute-shell", &["--as", FOR_ROOT.0]);
    let mut confined = shell("mkdir -p d; echo 1 >d/f; chmod 700 d; [ \"$(id -u)\" = 1000 ]");
    confined["isolation"] = json!("namespace");
    let again = shell("cat d/f; echo 2 >d/f; rm -r d; mkdir d; stat -c %U d");
    job_of(
        &mount,
        OTHER.1,
        "mixed",
        &[confined.clone(), again.clone(), confined, again],
    );
    let build = mount.build("mixed", "", "success");
    assert_eq!(mount.console("mixed", build), format!("1\n{0}\n1\n{0}", OTHER.0));
}

/// What one user's script may not do to another's, though one worker runs both.
#[test]
fn a_script_reaches_nothing_of_the_worker_or_of_other_scripts() {
    need_root();
    let mount = Mount::new();
    let _control = Worker::start(&mount, "build-control", &[]);
    let _shell = Worker::start_as(&mount, "execute-shell", &["--as", FOR_ROOT.0]);
    let state = mount.out().join("shell").display().to_string();
    let script = format!(
        "! ls {state} {state}/runs {state}/images {state}/cache\n! kill -TERM $PPID\n\
         d=$(dirname \"$(tr '\\0' '\\n' </proc/$$/cmdline | tail -n 1)\"); ! ls $d $d/../space; ! touch $d/x\n\
         (setsid sleep 98765 &)\n\
         read -r a b c d e session rest </proc/$$/stat; [ $session = $$ ]\n"
    );
    for (owner, name) in [(0, "a"), (OTHER.1, "b"), (0, "c")] {
        job_of(&mount, owner, name, &[shell(&script)]);
        mount.build(name, "", "success");
        assert!(
            !distcifs_tests::process::runs("sleep 98765"),
            "what {name} left still runs"
        );
    }
}

/// "A uid that the node does not know": a clear error, and never root.
#[test]
fn an_owner_without_an_account_is_an_error() {
    need_root();
    let mount = Mount::new();
    let _control = Worker::start(&mount, "build-control", &[]);
    let _shell = Worker::start_as(&mount, "execute-shell", &["--as", FOR_ROOT.0]);
    job_of(&mount, UNKNOWN, "lost", &[shell("id")]);
    let build = mount.build("lost", "", "error");
    let why = mount.why("lost", build);
    assert!(
        why.contains(&UNKNOWN.to_string()) && why.contains("no account"),
        "{why}"
    );
}

/// "A root worker without `--as` does not start", nor does one that is told nonsense; all workers of
/// tasks say so alike.
#[test]
fn a_worker_that_is_root_must_be_told_whom_jobs_of_root_run_as() {
    need_root();
    let mount = Mount::new();
    for name in ["execute-shell", "git-checkout", "publish-artifacts", "copy-artifacts"] {
        for (words, expected) in [
            (&[][..], "--as USER"),
            (&["--as", "no-such-user"], "no user of this name"),
            (&["--as", "root", "--shared"], "--shared"),
        ] {
            let worker = Worker::start_as(&mount, name, words);
            wait_for("its end", USUAL, || !worker.alive());
            assert!(
                worker.complaints().contains(expected),
                "{name}: {}",
                worker.complaints()
            );
        }
    }
}

/// "A worker that is not root works only for jobs of its own user, unless it is started with `--shared`":
/// what it isolates runs as its user too.
#[test]
fn a_worker_that_is_not_root_works_for_its_own_user() {
    need_root();
    let mount = Mount::new();
    let _control = Worker::start(&mount, "build-control", &[]);
    mount.run("chmod 777 tickets/execute-shell");
    let program = distcifs_tests::programs::worker("execute-shell").display().to_string();
    let isolate = distcifs_tests::programs::project()
        .join("workers")
        .display()
        .to_string();
    let out = mount.out().display().to_string();
    mount.run(&format!(
        "mkdir {out}/bin; cp {program} {out}/bin; cp -r {isolate}/isolate {isolate}/isolate.sh {out}/bin; chmod -R a+rX {out}/bin"
    ));
    let start = |more: &[&str]| {
        let (program, state) = (format!("{out}/bin/execute-shell"), format!("{out}/state"));
        let mut words = vec![
            "setpriv",
            "--reuid",
            OTHER.0,
            "--regid",
            OTHER.0,
            "--init-groups",
            &program,
        ];
        words.extend([mount.root_text(), "--state", &state, "--isolation", "none"]);
        words.extend(more);
        Sh::start(&words, &mount.out(), &mount.out(), &[])
    };
    for (owner, name) in [(OTHER.1, "own"), (FOR_ROOT.1, "foreign"), (0, "roots")] {
        job_of(&mount, owner, name, &[shell("id -u")]);
    }
    let alone = start(&[]);
    let build = mount.build("own", "", "success");
    assert_eq!(mount.console("own", build).trim(), OTHER.1.to_string());
    for name in ["foreign", "roots"] {
        let build = mount.build(name, "", "error");
        let why = mount.why(name, build);
        assert!(
            why.contains(OTHER.0) && why.contains("--shared") && why.contains("--as USER"),
            "{why}"
        );
        assert!(!mount.console(name, build).contains("\n1\n"), "it ran");
    }
    alone.signal(Signal::SIGTERM);
    assert!(alone.finish_within(USUAL).ok());
    let _shared = start(&["--shared"]);
    for name in ["foreign", "roots"] {
        let build = mount.build(name, "", "success");
        assert_eq!(mount.console(name, build).trim(), OTHER.1.to_string());
    }
}

/// "`none`, git, copying": git-checkout and copy-artifacts give a job what its owner may read, through
/// the ticket's `jobs/` and the node's files, and what they make belongs to him.
#[test]
fn checkouts_and_copies_have_the_owners_rights() {
    need_root();
    let mount = Mount::new();
    let _control = Worker::start(&mount, "build-control", &[]);
    let _workers = ["execute-shell", "git-checkout", "copy-artifacts", "publish-artifacts"]
        .map(|name| Worker::start_as(&mount, name, &["--as", FOR_ROOT.0]));
    let repository = |name: &str| {
        mount.run(&format!(
            "git init -q \"$OUT/{name}\"; cd \"$OUT/{name}\"; echo {name} >f; git add f; \
             git -c user.name=a -c user.email=a@b commit -qm one"
        ));
        mount.out().join(name)
    };
    let (open, closed) = (repository("open"), repository("closed"));
    mount.run("chmod 700 \"$OUT/closed\"");
    let publish = json!({"type": "publish-artifacts", "params": {"artifacts": ["*"]}});
    for (job, mode) in [("public", 755), ("private", 700)] {
        job_of(&mount, 0, job, &[shell("echo made >a"), publish.clone()]);
        mount.build(job, "", "success");
        mount.run(&format!("chmod {mode} jobs/{job}"));
    }
    let checkout = |path: &std::path::Path| json!({"type": "git-checkout", "params": {"repository": path}});
    let copy = |job: &str| json!({"type": "copy-artifacts", "params": {"job": job}});
    for (name, task, why) in [
        ("reads", checkout(&open), ""),
        ("spies", checkout(&closed), "may the owner of this job read it?"),
        ("copies", copy("public"), ""),
        ("steals", copy("private"), "the owner of this job may not read it"),
    ] {
        job_of(
            &mount,
            OTHER.1,
            name,
            &[task, shell("for f in *; do [ -O \"$f\" ]; done")],
        );
        let state = if why.is_empty() { "success" } else { "failure" };
        let build = mount.build(name, "", state);
        if why.is_empty() {
            let file = if name == "reads" { "f" } else { "a" };
            let owner = mount.run(&format!("stat -c %u jobs/{name}/builds/{build}/workspace/{file}"));
            assert_eq!(owner.trim(), OTHER.1.to_string());
        } else {
            assert!(mount.why(name, build).contains(why), "{}", mount.why(name, build));
        }
    }
}
