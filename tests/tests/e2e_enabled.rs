//! Who may start a job: the switch of a job, what a new owner means for it, and refusals that are seen.

use std::fs;

use distcifs_tests::job::shell_task;
use distcifs_tests::programs::installed;
use distcifs_tests::wait::USUAL;
use distcifs_tests::{HELLO, Mount, Worker, errno, wait_for};
use nix::unistd::getuid;
use serde_json::json;

const ALICE: u32 = 4001;
const MALLORY: u32 = 4002;

/// Whether users can be had here.
fn has_users() -> bool {
    getuid().is_root() && installed("setpriv")
}

/// What a script says that a user runs; errors as well.
fn by(mount: &Mount, user: u32, script: &str) -> String {
    let id = user.to_string();
    let words = [
        "setpriv",
        "--reuid",
        &id,
        "--regid",
        &id,
        "--clear-groups",
        "dash",
        "-c",
        script,
    ];
    let said = mount.start_words(&words).finish();
    format!("{}{}", said.stdout, said.stderr)
}

/// A mount where everybody may make jobs.
fn open_mount() -> Mount {
    let mount = Mount::new();
    mount.run("chmod 1777 jobs");
    mount
}

/// A job that a user made and wrote.
fn job_of(mount: &Mount, user: u32) {
    fs::write(mount.out().join("config"), HELLO).expect("own folder");
    let said = by(
        mount,
        user,
        "mkdir -m 755 jobs/a && cp \"$OUT/config\" jobs/a/config.json",
    );
    assert_eq!(said, "");
}

/// "`mv` from another filesystem", "`cp --backup`" and editors write `enabled` as they write config.json.
#[test]
fn the_switch_is_written_by_what_makes_files_anew() {
    let mount = Mount::new();
    mount.job("a", HELLO);
    for how in [
        "mv \"$OUT/new\" enabled",
        "/usr/bin/env cp --remove-destination \"$OUT/new\" enabled",
        "/usr/bin/env cp --backup=simple \"$OUT/new\" enabled; grep -qx on enabled~; rm enabled~",
        "/usr/bin/env install -b -m 644 \"$OUT/new\" enabled; rm enabled~",
        "rsync -a \"$OUT/new\" enabled",
    ] {
        let said = mount.run(&format!(
            "cd jobs/a; echo off > \"$OUT/new\"; {how}; cat enabled; echo on > enabled; ls"
        ));
        assert_eq!(said, "off\nbuilds\nconfig.json\nenabled\ntrigger", "{how}");
    }
}

/// "A descriptor from before the chown can't be used to slip one in": not even between the new owner's look at
/// the configuration and his `on`.
#[test]
fn a_descriptor_from_before_a_chown_writes_no_configuration() {
    if !has_users() {
        return;
    }
    let mount = open_mount();
    job_of(&mount, MALLORY);
    let config = mount.read("jobs/a/config.json");
    mount.run("chmod 1777 $OUT; sed 's/hello/evil!/' jobs/a/config.json > $OUT/evil; chmod 644 $OUT/evil");
    let script = "exec 3<>jobs/a/config.json; touch $OUT/open; while [ ! -e $OUT/given ]; do sleep 0.1; done
        cat $OUT/evil >&3; exec 3>&-";
    let id = MALLORY.to_string();
    let words = [
        "setpriv",
        "--reuid",
        &id,
        "--regid",
        &id,
        "--clear-groups",
        "dash",
        "-c",
        script,
    ];
    let former = mount.start_words(&words);
    wait_for("his descriptor", USUAL, || mount.out().join("open").exists());
    mount.run(&format!("chown {ALICE}:{ALICE} jobs/a; touch $OUT/given"));
    former.finish();
    assert_eq!(mount.read("jobs/a/config.json"), config);
    assert_eq!(by(&mount, ALICE, "cat jobs/a/config.json"), config);
    assert_eq!(by(&mount, ALICE, "echo on > jobs/a/enabled; cat jobs/a/enabled"), "on");
    let own = "cp \"$OUT/evil\" jobs/a/config.json && cat jobs/a/enabled";
    assert_eq!(by(&mount, ALICE, own), "on", "the new owner writes");
}

/// "`enabled`: write off or on; a trigger of one that is off is EACCES and says so", for root as well.
#[test]
fn a_job_that_is_off_is_not_triggered() {
    let mount = Mount::new();
    mount.job("a", HELLO);
    assert_eq!(mount.read("jobs/a/enabled"), "on");
    mount.trigger("a", "");
    mount.run("echo off > jobs/a/enabled");
    assert_eq!(mount.read("jobs/a/enabled"), "off");
    assert_eq!(errno(mount.write("jobs/a/trigger", "\n")), libc::EACCES);
    let why = mount.read("jobs/a/trigger.error");
    assert!(why.contains("switched off") && why.contains("jobs/a/enabled"), "{why}");
    wait_for("the log", USUAL, || mount.log_tail().contains("switched off"));
    assert_eq!(errno(mount.write("jobs/a/enabled", "maybe\n")), libc::EINVAL);
    assert_eq!(mount.read("jobs/a/enabled"), "off");
    // What was triggered before goes on.
    let workers = Worker::usual(&mount, 1);
    assert_eq!(mount.wait_state("a", 1), "success");
    wait_for("the record", USUAL, || mount.list("tickets/build-control").is_empty());
    assert_eq!(errno(mount.write("jobs/a/builds/1/ctl", "retry\n")), libc::EACCES);
    assert!(mount.read("jobs/a/builds/1/ctl.error").contains("switched off"));
    mount.run("echo on > jobs/a/enabled; echo > jobs/a/trigger");
    assert!(!mount.has("jobs/a/trigger.error"), "gone with the next good write");
    assert_eq!(mount.wait_state("a", 2), "success");
    mount.run("echo keep > jobs/a/builds/1/ctl");
    assert!(!mount.has("jobs/a/builds/1/ctl.error"));
    drop(workers);
    mount.remount();
    assert_eq!(mount.read("jobs/a/enabled"), "on");
}

/// "Whoever may write config.json may write `enabled`", and nobody else.
#[test]
fn the_switch_has_the_mode_of_the_configuration() {
    if !has_users() {
        return;
    }
    let mount = open_mount();
    job_of(&mount, ALICE);
    let said = by(&mount, MALLORY, "cat jobs/a/enabled; echo off > jobs/a/enabled");
    assert!(said.starts_with("on") && said.contains("Permission denied"), "{said}");
    by(&mount, ALICE, "chmod 600 jobs/a/config.json");
    let said = by(&mount, MALLORY, "cat jobs/a/enabled");
    assert!(said.contains("Permission denied"), "{said}");
    assert_eq!(
        by(&mount, ALICE, "echo off > jobs/a/enabled; cat jobs/a/enabled"),
        "off"
    );
    // "With `echo`, an editor or `sed -i`": by what is made beside it and renamed, and by the same people.
    assert_eq!(
        by(&mount, ALICE, "sed -i s/off/on/ jobs/a/enabled; cat jobs/a/enabled"),
        "on"
    );
    let said = by(&mount, ALICE, "sed -i s/on/perhaps/ jobs/a/enabled || echo refused");
    assert!(said.contains("Invalid argument") && said.contains("refused"), "{said}");
    assert_eq!(
        mount.run("ls jobs/a | grep -c ^sed || :").trim(),
        "0",
        "nothing is left beside it"
    );
    assert_eq!(mount.read("jobs/a/enabled"), "on");
    mount.run("chmod 777 jobs/a; sed -i s/on/off/ jobs/a/enabled; [ \"$(cat jobs/a/enabled)\" = off ]");
    let said = by(
        &mount,
        MALLORY,
        "echo on > jobs/a/mine; mv -f jobs/a/mine jobs/a/enabled",
    );
    assert!(said.contains("Permission denied"), "{said}");
    assert_eq!(mount.read("jobs/a/enabled"), "off");
}

/// "`chown` of a job switches it off until the new owner switches it on": what the former owner wrote
/// would run with the new one's rights. He can't switch it on himself, whatever he may write.
#[test]
fn a_job_that_is_given_away_is_off() {
    if !has_users() {
        return;
    }
    let mount = open_mount();
    job_of(&mount, MALLORY);
    by(&mount, MALLORY, "chmod 777 jobs/a");
    let open = fs::File::options()
        .write(true)
        .open(mount.path("jobs/a/config.json"))
        .expect("the lock");
    drop(open);
    // He keeps a descriptor that was opened while the job was his.
    let late = mount.start_words(&[
        "setpriv", "--reuid", "4002", "--regid", "4002", "--clear-groups", "dash", "-c",
        "exec 3<>jobs/a/config.json; echo opened; until [ -e \"$OUT/go\" ]; do sleep 0.05; done; cat \"$OUT/config\" >&3; exec 3>&-; : > \"$OUT/gone\"",
    ]);
    wait_for("the descriptor", USUAL, || late.so_far().contains("opened"));
    mount.run(&format!("chown {ALICE} jobs/a"));
    assert_eq!(mount.read("jobs/a/enabled"), "off");
    assert_eq!(errno(mount.write("jobs/a/trigger", "\n")), libc::EACCES);
    let why = mount.read("jobs/a/trigger.error");
    assert!(why.contains("was given to user 4001"), "{why}");
    let said = by(&mount, MALLORY, "echo on > jobs/a/enabled; echo > jobs/a/trigger");
    assert!(said.contains("echo:") && said.contains("Permission denied"), "{said}");
    assert_eq!(mount.read("jobs/a/enabled"), "off");
    assert_eq!(by(&mount, ALICE, "echo on > jobs/a/enabled; cat jobs/a/enabled"), "on");
    // What comes through the descriptor of before is not what she looked at: it is not put in force.
    let config = mount.read("jobs/a/config.json");
    mount.run("sed -i 's/hello/later/' $OUT/config");
    fs::write(mount.out().join("go"), "").expect("own folder");
    wait_for("the late write", USUAL, || mount.out().join("gone").exists());
    assert_eq!(mount.read("jobs/a/config.json"), config);
    assert_eq!(mount.read("jobs/a/enabled"), "on");
    by(&mount, ALICE, "cp \"$OUT/config\" jobs/a/config.json");
    assert_eq!(mount.read("jobs/a/enabled"), "on");
    // "A job is given away by a `chown` of its folder alone": a file of it gives nothing away.
    mount.run(&format!(
        "chown {MALLORY} jobs/a/config.json jobs/a/enabled jobs/a/trigger"
    ));
    assert_eq!(mount.read("jobs/a/enabled"), "on");
    mount.run(&format!("chown {MALLORY} jobs/a"));
    assert_eq!(mount.read("jobs/a/enabled"), "off");
}

/// "What root makes and gives away is on": mkdir, cp, chown, and it builds. Given on from there, it is
/// off.
#[test]
fn what_root_makes_for_somebody_is_on() {
    if !has_users() {
        return;
    }
    let mount = Mount::new();
    mount.job("a", HELLO);
    mount.run(&format!(
        "chown {ALICE}:{ALICE} jobs/a; chmod 755 jobs/a; echo > jobs/a/trigger"
    ));
    assert_eq!(mount.read("jobs/a/enabled"), "on");
    mount.run(&format!("chown {MALLORY} jobs/a"));
    assert_eq!(mount.read("jobs/a/enabled"), "off");
    by(&mount, MALLORY, "echo on > jobs/a/enabled");
    mount.run(&format!("chown {MALLORY} jobs/a; chmod 700 jobs/a"));
    assert_eq!(mount.read("jobs/a/enabled"), "on", "it is the same owner");
}

/// "A build goes on with the rights of who owned the job when it was triggered; it is not retried under
/// another."
#[test]
fn builds_of_the_former_owner_stay_his() {
    if !has_users() {
        return;
    }
    let mount = open_mount();
    job_of(&mount, MALLORY);
    mount.queue("hand");
    mount.trigger("a", "");
    mount.run(&format!("chown {ALICE} jobs/a"));
    let control = mount.claim("build-control", "a.1.control").expect("the control ticket");
    assert_eq!(mount.read("tickets/build-control/a.1.control/owner"), "4002");
    mount.post(
        "execute-shell",
        &json!({"id": "a.1.0", "job": "a", "build": 1, "task": 0}),
    );
    assert_eq!(mount.read("tickets/execute-shell/a.1.0/owner"), "4002");
    mount
        .result("build-control", "a.1.control", "failure")
        .expect("the end");
    drop(control);
    assert_eq!(mount.wait_state("a", 1), "failure");
    wait_for("the record", USUAL, || mount.list("tickets/build-control").is_empty());
    by(&mount, ALICE, "echo on > jobs/a/enabled");
    assert_eq!(errno(mount.write("jobs/a/builds/1/ctl", "retry\n")), libc::EACCES);
    assert!(
        mount
            .read("jobs/a/builds/1/ctl.error")
            .contains("when user 4002 owned the job")
    );
}

/// "downstream, cron and webhooks say so in their logs": a job that is off is named in the result of the
/// build that would trigger it, which ends all the same.
#[test]
fn a_downstream_job_that_is_off_is_named() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    mount.job("down", HELLO);
    mount.run("echo off > jobs/down/enabled");
    let up = json!({"tasks": [shell_task("true\n")], "downstream_jobs": ["down"]});
    mount.job("up", &up.to_string());
    let build = mount.build("up", "", "success");
    assert!(mount.console("up", build).contains("job down could not be triggered"));
    assert!(!mount.has("jobs/down/builds/1"));
}

/// "`builds/next` holds the time at which the job's schedule starts it next, in UTC"; "a second line has the
/// same time by the clock there"; "absent without a schedule, and while the job is off".
#[test]
fn next_says_when_the_schedule_starts_the_job() {
    let mount = Mount::new();
    let scheduled = |cron: &str| json!({ "cron": cron, "tasks": [] }).to_string();
    mount.job("plain", HELLO);
    mount.run("mkdir jobs/bare");
    let absent = |job: &str| {
        let listed = mount.list(&format!("jobs/{job}/builds"));
        !mount.has(&format!("jobs/{job}/builds/next")) && !listed.contains(&"next".to_owned())
    };
    assert!(absent("plain") && absent("bare"));
    mount.job("year", &scheduled("@yearly"));
    mount.job("zone", &scheduled("TZ=Europe/Berlin @yearly"));
    let yearly = |job: &str| {
        mount
            .read(&format!("jobs/{job}/builds/next"))
            .ends_with("-01-01T00:00:00Z")
    };
    assert!(yearly("year"), "{}", mount.read("jobs/year/builds/next"));
    let zone = mount.read("jobs/zone/builds/next");
    let (utc, local) = zone.split_once('\n').expect("two lines");
    assert!(utc.ends_with("-12-31T23:00:00Z"), "{zone}");
    assert!(local.ends_with("-01-01T00:00:00+01:00 Europe/Berlin"), "{zone}");
    mount.run(
        "cd jobs/zone/builds; ls | grep -qx next; test $(stat -c %s next) = $(cat next | wc -c)
         for job in year zone; do
            read -r first < ../../$job/builds/next
            coming=$(($(date -d \"$first\" +%s) - $(date +%s)))
            test $coming -gt -60 && test $coming -lt $((367 * 86400))
         done",
    );
    assert_eq!(errno(mount.write("jobs/year/builds/next", "x")), libc::EROFS);
    // What never comes is refused, and the schedule that there is stays in force.
    fs::write(mount.out().join("never"), scheduled("0 0 30 2 *")).expect("own folder");
    mount.run("cp $OUT/never jobs/year/config.json 2> /dev/null || grep -q 'never comes' jobs/year/config.error");
    assert!(yearly("year"));
    mount.run("echo off > jobs/year/enabled");
    assert!(absent("year"));
    mount.run("echo on > jobs/year/enabled; mv jobs/year jobs/annual");
    assert!(yearly("annual"));
    mount.configure("annual", HELLO);
    assert!(absent("annual"));
    mount.run("rm -r jobs/zone jobs/annual");
}
