//! Who did what: builds and tasks name the people behind them, after the end too.

use distcifs_tests::programs::installed;
use distcifs_tests::wait::USUAL;
use distcifs_tests::{Mount, wait_for};
use nix::unistd::getuid;
use serde_json::{Value, json};

/// A user that every system has.
const NOBODY: &str = "65534 nobody";

/// Runs a script as nobody; nothing if that can't be done here.
fn as_nobody(mount: &Mount, script: &str) -> Option<String> {
    if !getuid().is_root() || !installed("setpriv") {
        return None;
    }
    let words = "setpriv --reuid 65534 --regid 65534 --clear-groups dash -euc"
        .split(' ')
        .chain([script])
        .collect::<Vec<_>>();
    Some(mount.start_words(&words).finish().expect_ok())
}

/// A job that everybody may use, of a task that people do.
fn by_hand() -> Mount {
    let mount = Mount::new();
    mount.queue("hand");
    mount.job("a", r#"{"tasks":[{"type":"hand"}]}"#);
    mount.run("chmod 0777 tickets/hand; chmod 0777 jobs/a");
    mount
}

/// "by: who triggered, aborted, retried, kept and unkept it, one a line, with user id and name"; the
/// same in build.json, while the build runs and when it is recorded.
#[test]
fn a_build_names_who_triggered_aborted_retried_and_kept_it() {
    let mount = by_hand();
    let Some(_) = as_nobody(&mount, "echo > jobs/a/trigger") else {
        return;
    };
    let by = || mount.read("jobs/a/builds/1/by");
    assert_eq!(by(), format!("triggered {NOBODY}"));
    mount.run("echo keep > jobs/a/builds/1/ctl; echo abort > jobs/a/builds/1/ctl");
    assert_eq!(mount.wait_state("a", 1), "aborted");
    let expected = format!("triggered {NOBODY}\nkept 0 root\naborted 0 root");
    assert_eq!(by(), expected);
    wait_for("the record", USUAL, || mount.list("tickets/build-control").is_empty());
    assert_eq!(by(), expected);
    as_nobody(
        &mount,
        "echo unkeep > jobs/a/builds/1/ctl; echo retry > jobs/a/builds/1/ctl",
    );
    let expected = format!("{expected}\nunkept {NOBODY}\nretried {NOBODY}");
    assert_eq!(by(), expected);
    mount.run("echo abort > jobs/a/builds/1/ctl");
    assert_eq!(mount.wait_state("a", 1), "aborted");
    assert_eq!(by(), format!("{expected}\naborted 0 root"));
    let record: Value = serde_json::from_str(&mount.read("jobs/a/builds/1/build.json")).expect("JSON");
    assert_eq!(
        (&record["by"][0], &record["by"][1]),
        (
            &json!({"did": "triggered", "uid": 65534, "name": "nobody"}),
            &json!({"did": "kept", "uid": 0, "name": "root"})
        )
    );
}

/// "tasks/<i>-<type>/by: who claimed it": of a task done by hand the person, also when it is over.
#[test]
fn a_task_names_who_did_it() {
    let mount = by_hand();
    let by = || mount.read("jobs/a/builds/1/tasks/0-hand/by");
    mount.trigger("a", "");
    let control = mount.claim("build-control", "a.1.control").expect("the control ticket");
    mount.post("hand", &json!({"id": "a.1.0", "job": "a", "build": 1, "task": 0}));
    assert_eq!(by(), "");
    let Some(_) = as_nobody(
        &mount,
        "cd tickets/hand/a.1.0; echo $$ > claim; cat ../../../jobs/a/builds/1/tasks/0-hand/by; echo 0 > result",
    ) else {
        return;
    };
    assert_eq!(by(), NOBODY);
    mount
        .result("build-control", "a.1.control", "success")
        .expect("the end");
    drop(control);
    assert_eq!(mount.wait_state("a", 1), "success");
    wait_for("the record", USUAL, || mount.list("tickets/build-control").is_empty());
    assert_eq!(by(), NOBODY);
    let record: Value = serde_json::from_str(&mount.read("jobs/a/builds/1/build.json")).expect("JSON");
    assert_eq!(record["tasks"][0]["by"], json!({"uid": 65534, "name": "nobody"}));
}
