//! `needs/` of a ticket: what the tasks that a task waits for published, each by itself.

use std::fs::File;

use distcifs_tests::job::shell_task;
use distcifs_tests::wait::USUAL;
use distcifs_tests::{Mount, Sh, Worker, wait_for};
use serde_json::{Value, json};

/// The owner of a job, who claims, and somebody else.
const OWNER: u32 = 54_101;
const WORKER: u32 = 54_102;
const STRANGER: u32 = 54_103;

/// A task that runs a script, of this name and after these.
fn task(name: &str, needs: &[&str], script: &str) -> Value {
    let mut task = shell_task(script);
    task["name"] = json!(name);
    task["needs"] = json!(needs);
    task
}

/// `needs/` "has a folder for each task that this one waits for, called by that task's name", in which is
/// "what that task published, and nothing of the others"; "it is read-only".
#[test]
fn a_task_has_the_artifacts_of_all_that_it_waits_for() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 2);
    let publish =
        "mkdir \"$ARTIFACTS/d\"; echo \"of $TASK_NAME\" > \"$ARTIFACTS/d/file\"; chmod 751 \"$ARTIFACTS/d/file\"
         ln \"$ARTIFACTS/d/file\" \"$ARTIFACTS/same\"; ln -s d/file \"$ARTIFACTS/link\"; [ -z \"$(ls \"$NEEDS\")\" ]";
    let collect = "[ \"$NEEDS\" -ef ../needs ]; cd \"$NEEDS\"; echo $(ls -A)
         cat */d/file; cat one/link; stat -c '%a %h' one/same; ls none | wc -l
         for what in 'touch one/new' 'rm -f one/same' 'rmdir none' 'rm one/d/file' 'mkdir new' 'mv one/same one/new' 'rm -r one/d' \
             'chmod 700 one/same' 'ln one/same one/new'; do
             ! $what 2> /dev/null || echo \"done: $what\"
         done
         (echo x > one/same) 2> /dev/null || echo refused
         cp -a one two \"$WORKSPACE\"; cmp one/same \"$WORKSPACE/one/d/file\"";
    let tasks = [
        task("one", &[], publish),
        task("two", &[], publish),
        task("none", &[], ":"),
        task("all", &["two", "one", "none"], collect),
        shell_task("ls \"$NEEDS\"; ls \"$NEEDS/all\" | wc -l"),
    ];
    mount.job_of("a", &tasks);
    let build = mount.build("a", "", "success");
    let console = |task: &str| mount.read(&format!("jobs/a/builds/{build}/tasks/{task}/console"));
    assert_eq!(
        console("3-all"),
        "none one two\nof one\nof two\nof one\n751 2\n0\nrefused"
    );
    // "Without `needs`, the task before it."
    assert_eq!(console("4-execute-shell"), "all\n0");
}

/// "A shell worker finds it in the ticket's folder"; "Who stands there since before a claim was lost gets
/// ESTALE, and the next claimant the same as the first".
#[test]
fn needs_are_the_claimants_and_those_of_the_next() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    mount.queue("q");
    let use_it = json!({"type": "q", "name": "use", "needs": ["first"], "params": {}});
    mount.job_of("a", &[task("first", &[], "echo one > \"$ARTIFACTS/f\""), use_it]);
    let build = mount.trigger("a", "");
    let ticket = format!("tickets/q/a.{build}.1");
    wait_for("the ticket", USUAL, || mount.has(&ticket));
    assert!(mount.list(&ticket).contains(&"needs".to_owned()));
    assert_eq!(mount.list(&format!("{ticket}/needs")), ["first"]);
    assert_eq!(mount.read(&format!("{ticket}/needs/first/f")), "one");
    assert!(!mount.has(&format!("{ticket}/needs/use")) && !mount.has(&format!("{ticket}/needs/..x")));
    let control = format!("tickets/build-control/a.{build}.control");
    assert!(!mount.has(&format!("{control}/needs")), "a build itself needs nothing");
    let lost = mount.start(&format!(
        "cd {ticket}; echo $$ > claim; cat needs/first/f > $OUT/before; : > $OUT/claimed
         until [ -e $OUT/go ]; do sleep 0.05; done; cat needs/first/f > $OUT/after 2>&1; ls needs >> $OUT/after 2>&1; echo over"
    ));
    wait_for("the first claim", USUAL, || mount.out().join("claimed").exists());
    mount.run(&format!("rm {ticket}/claim"));
    let claim = mount.claim("q", &format!("a.{build}.1")).expect("the second claim");
    mount.run("touch $OUT/go");
    assert_eq!(lost.finish().stdout.trim(), "over");
    assert_eq!(mount.run("cat $OUT/before").trim(), "one");
    let after = mount.run("cat $OUT/after");
    assert_eq!(after.matches("Stale file handle").count(), 2, "{after}");
    assert_eq!(mount.read(&format!("{ticket}/needs/first/f")), "one");
    mount
        .result("q", &format!("a.{build}.1"), "success")
        .expect("the claim");
    drop(claim);
    assert_eq!(mount.wait_state("a", build), "success");
}

/// "Of a build that was retried it is what was published last by the attempt that counts": what succeeded
/// before is kept, what failed then is not shown.
#[test]
fn after_a_retry_needs_are_of_the_attempts_that_count() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 2);
    let go = mount.out().join("go").display().to_string();
    let kept = task(
        "kept",
        &[],
        &format!("[ -e {go} ] && echo again > \"$ARTIFACTS/f\" || echo kept > \"$ARTIFACTS/f\""),
    );
    let fails = task(
        "fails",
        &["kept"],
        &format!("[ -e {go} ] && echo good > \"$ARTIFACTS/f\" || {{ echo bad > \"$ARTIFACTS/f\"; exit 1; }}"),
    );
    let then = task("then", &["kept", "fails"], "cat \"$NEEDS\"/*/f");
    let mut last = task("last", &["then", "fails"], "cat \"$NEEDS\"/*/f");
    last["always"] = json!(true);
    mount.job_of("a", &[kept, fails, then, last]);
    let build = mount.build("a", "", "failure");
    let console = |task: &str| mount.read(&format!("jobs/a/builds/{build}/tasks/{task}/console"));
    assert_eq!(console("3-last"), "bad", "what a task that failed published is there");
    mount.run(&format!("touch {go}; echo retry > jobs/a/builds/{build}/ctl"));
    wait_for("the retry's success", USUAL, || mount.state("a", build) == "success");
    assert_eq!(console("2-then"), "good\nkept");
}

/// In its second run the build is aborted before `fails` is done again: what it published in the first does
/// not count.
#[test]
fn what_an_earlier_run_left_when_it_failed_is_not_shown() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    let out = mount.out().display().to_string();
    let mut gate = task(
        "gate",
        &[],
        &format!("[ -e {out}/go ] || exit 1; : > {out}/blocked; sleep 60"),
    );
    gate["allow_failure"] = json!(true);
    let fails = task("fails", &["gate"], "echo bad > \"$ARTIFACTS/f\"; exit 1");
    // What succeeded would not be done again.
    let mut last = task("last", &["fails"], "ls -A \"$NEEDS/fails\"; echo end; exit 1");
    last["always"] = json!(true);
    mount.job_of("a", &[gate, fails, last]);
    let build = mount.build("a", "", "failure");
    let console = || mount.read(&format!("jobs/a/builds/{build}/tasks/2-last/console"));
    assert_eq!(console(), "f\nend");
    mount.run(&format!("touch {out}/go; echo retry > jobs/a/builds/{build}/ctl"));
    wait_for("the gate", USUAL, || mount.out().join("blocked").exists());
    mount.run(&format!("echo abort > jobs/a/builds/{build}/ctl"));
    wait_for("the end", USUAL, || mount.state("a", build) == "aborted");
    assert_eq!(console(), "f\nend\nend");
}

/// Runs a script as a user without further groups.
fn may(mount: &Mount, user: u32, script: &str) -> bool {
    let user = user.to_string();
    let words = [
        "setpriv",
        "--reuid",
        &user,
        "--regid",
        &user,
        "--clear-groups",
        "bash",
        "-ec",
        script,
    ];
    let sh: Sh = mount.start_words(&words);
    sh.finish().ok()
}

/// A build of a job of the owner's: its first task has published, the ticket of its second is open.
fn half_a_build(mount: &Mount, mode: &str) -> (File, String) {
    mount.queue("q");
    mount.run(&format!("chown {WORKER} tickets/q; chmod 755 tickets/q"));
    let step = |name: &str| json!({"type": "q", "name": name, "params": {}});
    mount.job_of("a", &[step("first"), step("second")]);
    mount.run(&format!("chown {OWNER}:{OWNER} jobs/a; chmod {mode} jobs/a"));
    let build = mount.trigger("a", "");
    let control = mount
        .claim("build-control", &format!("a.{build}.control"))
        .expect("the claim");
    let post = |task: u32| mount.post("q", &json!({"job": "a", "build": build, "task": task, "params": {}}));
    let first = post(0);
    let claim = mount.claim("q", &first).expect("the first");
    mount.run(&format!(
        "echo secret > tickets/q/{first}/artifacts/f; echo success > tickets/q/{first}/result"
    ));
    drop(claim);
    (control, post(1))
}

/// "Who may read the ticket's folder may read it, and nobody else": while it is claimed it belongs to
/// whoever runs the work, whoever owns the job.
#[test]
fn needs_have_the_readers_of_the_ticket() {
    let mount = Mount::new();
    let (_control, ticket) = half_a_build(&mount, "700");
    let read = format!("[ \"$(cat tickets/q/{ticket}/needs/first/f)\" = secret ]; ls tickets/q/{ticket}/needs/first");
    assert!(may(&mount, OWNER, &read) && may(&mount, WORKER, &read));
    assert!(!may(&mount, STRANGER, &format!("cat tickets/q/{ticket}/needs/first/f")));
    assert!(!may(&mount, STRANGER, &format!("ls tickets/q/{ticket}/needs")));
    let work = format!(
        "cd tickets/q/{ticket}; echo $$ > claim; [ \"$(stat -c %u needs/first needs/first/f | sort -u)\" = {WORKER} ]
         cp needs/first/f artifacts/g; echo success > result"
    );
    assert!(may(&mount, WORKER, &work));
}

/// "Whom the job's artifacts are closed to, these are": `chmod` of a build's artifacts holds for them, and
/// for the folder `artifacts` of a task's ticket that has ended.
#[test]
fn what_is_closed_of_artifacts_is_closed_in_needs() {
    let mount = Mount::new();
    let (_control, ticket) = half_a_build(&mount, "755");
    assert_eq!(ticket, "a.1.1");
    let places = [
        "jobs/a/builds/1/artifacts/f",
        "tickets/q/a.1.1/needs/first/f",
        "tickets/q/a.1.0/artifacts/f",
    ];
    for place in places {
        assert!(may(&mount, STRANGER, &format!("cat {place}")), "{place}");
    }
    mount.run("chmod 700 jobs/a/builds/1/artifacts");
    for place in places {
        assert!(!may(&mount, STRANGER, &format!("cat {place}")), "{place}");
        assert!(may(&mount, OWNER, &format!("cat {place}")), "{place}");
    }
}

/// A claimant in a few lines of sh: it writes a text that is wrong, reads why, puts it right, and ends its ticket.
const GENERATOR: &str = r#"
command exec 3<>tickets/generate/.next; echo linux >&3
while read -r id <&3 && [ -z "$id" ]; do :; done
cd "tickets/generate/$id"
echo '{ "tasks": [ { "type": "execute-shel" } ] }' > tasks.json
cat tasks.error
task='"type": "execute-shell", "isolation": "none"'
echo '{ "tasks": [
  { '"$task"', "name": "first", "params": { "script": "echo first > made; echo 1 > $ARTIFACTS/one" } },
  { '"$task"', "name": "second", "params": { "script": "echo second >> made; echo 2 > $ARTIFACTS/two" } } ] }' > tasks.json
[ ! -e tasks.error ]
echo success > result
"#;

/// "A task of a build may add tasks to it: whoever may record parameters writes `{ "tasks": [ … ] }` to tasks.json."
/// "What waits for a task waits for all that it added as well", "starts from the workspace of the last of them", and
/// has what they published in `needs/`.
#[test]
fn a_script_adds_tasks_and_what_waits_for_it_waits_for_them() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 2);
    mount.queue("generate");
    let deploy = task("deploy", &["generate"], "cat made; cat \"$NEEDS\"/*/*; ls \"$NEEDS\"");
    let config = json!({"allow": {"isolation": ["none"]}, "tasks": [{"type": "generate"}, deploy]});
    mount.job("a", &config.to_string());
    let build = mount.trigger("a", "");
    let said = mount.run(GENERATOR);
    assert!(said.starts_with("tasks.json:1:"), "{said}");
    assert_eq!(mount.wait_state("a", build), "success", "{}", mount.why("a", build));
    let names = mount.list(&format!("jobs/a/builds/{build}/tasks"));
    assert_eq!(names, ["0-generate", "1-deploy", "2-first", "3-second"]);
    let console = mount.read(&format!("jobs/a/builds/{build}/tasks/1-deploy/console"));
    let lines: Vec<&str> = console.lines().collect();
    assert_eq!(lines, ["first", "second", "1", "2", "first", "generate", "second"]);
    let plan: Value = serde_json::from_str(&mount.read(&format!("jobs/a/builds/{build}/plan.json"))).expect("JSON");
    assert_eq!(plan["tasks"][3]["added_by"], json!(0));
}
