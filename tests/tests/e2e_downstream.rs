//! Builds after builds: what the triggered build knows, what it may copy, and no circle.

use distcifs_tests::job::shell_task;
use distcifs_tests::wait::USUAL;
use distcifs_tests::{HELLO, Mount, Worker, errno, wait_for};
use nix::unistd::geteuid;
use serde_json::json;

/// A job that does nothing and triggers these.
fn before(jobs: &[&str]) -> String {
    json!({"tasks": [], "downstream_jobs": jobs}).to_string()
}

/// "copy-artifacts: build: upstream: the build that triggered this one", not the newest one.
#[test]
fn a_build_copies_from_the_one_that_triggered_it() {
    let mount = Mount::new();
    let mut workers = Worker::usual(&mount, 1);
    workers.extend(["publish-artifacts", "copy-artifacts"].map(|name| Worker::start(&mount, name, &[])));
    mount.job(
        "make",
        &json!({
            "tasks": [
                shell_task("echo \"of build $BUILD_NUMBER\" > made\n"),
                {"type": "publish-artifacts", "params": {"artifacts": ["made"]}},
            ],
            "downstream_jobs": ["use"],
        })
        .to_string(),
    );
    mount.job_of(
        "use",
        &[
            json!({"type": "copy-artifacts", "params": {"build": "upstream", "target_directory": "in"}}),
            shell_task("echo \"have: $(cat in/made), depth $PARAM_upstream_depth\"\n"),
        ],
    );
    for number in 1..=2 {
        mount.build("make", "", "success");
        wait_for("the build after it", USUAL, || {
            mount.has(&format!("jobs/use/builds/{number}"))
        });
        assert_eq!(
            mount.wait_state("use", number),
            "success",
            "{}",
            mount.console("use", number)
        );
        let said = mount.console("use", number);
        assert!(said.contains(&format!("have: of build {number}, depth 1")), "{said}");
    }
    mount.build("use", "", "failure");
    assert!(
        mount.why("use", 3).contains("no other build triggered this one"),
        "{}",
        mount.why("use", 3)
    );
}

/// "Which build triggered one is set by distcifs alone, by the ticket through whose `jobs/` the trigger
/// came": whoever may write a trigger, and a task of the build, can't say that it was another.
#[test]
fn nobody_says_which_build_triggered_one() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    mount.queue("note");
    for job in ["mal", "lib"] {
        mount.job_of(job, &[json!({"type": "note"})]);
        assert_eq!(mount.trigger(job, ""), 1);
        wait_for("the ticket", USUAL, || mount.has(&format!("tickets/note/{job}.1.0")));
    }
    mount.job_of("package", &[json!({"type": "note"})]);
    mount.job(
        "declares",
        &json!({"parameters": {"upstream_job": "nobody", "upstream_build": null}, "tasks": []}).to_string(),
    );
    for job in ["package", "declares"] {
        for text in [
            "upstream_job=mal\nupstream_build=1\n",
            "upstream_build=1\n",
            "{\"upstream_depth\": 0}\n",
        ] {
            let trigger = format!("jobs/{job}/trigger");
            assert_eq!(errno(mount.write(&trigger, text)), libc::EINVAL, "{job}: {text}");
            let said = mount.read(&format!("{trigger}.error"));
            assert!(said.contains("it is set where a build triggers this job"), "{said}");
        }
        assert_eq!(mount.list(&format!("jobs/{job}/builds")), Vec::<String>::new());
    }
    // A task of lib that triggers by hand, and says that it was mal.
    mount.run(
        "cd tickets/note/lib.1.0; exec 9> claim; for job in package declares; do \
         printf 'upstream_job=mal\\nupstream_build=7\\nupstream_depth=0\\n' > jobs/$job/trigger; done; echo 0 > result",
    );
    for job in ["package", "declares"] {
        wait_for("the build", USUAL, || mount.has(&format!("jobs/{job}/builds/1")));
        for (name, value) in [
            ("upstream_job", "lib"),
            ("upstream_build", "1"),
            ("upstream_depth", "1"),
        ] {
            let found = mount.read(&format!("jobs/{job}/builds/1/params/{name}"));
            assert_eq!(found, value, "{job}: {name}");
        }
    }
    // A task of the build itself.
    wait_for("the ticket", USUAL, || mount.has("tickets/note/package.1.0"));
    let said = mount.sh(
        "cd tickets/note/package.1.0; exec 9> claim; for name in job build depth; do \
         printf 9 > params/upstream_$name && exit 9; done; printf x > params/other; echo 0 > result",
    );
    assert!(said.ok(), "{said:?}");
    assert_eq!(mount.wait_state("package", 1), "success");
    assert_eq!(mount.read("jobs/package/builds/1/params/other"), "x");
    assert_eq!(mount.read("jobs/package/builds/1/params/upstream_job"), "lib");
}

/// "downstream_jobs may give parameters: `${name}` is replaced by what the build has, recorded ones too"; what
/// the other job did not declare is refused by its trigger, and said.
#[test]
fn a_build_gives_parameters_to_those_after_it() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    mount.job(
        "make",
        &json!({
            "parameters": {"ref": "main", "odd": "a\n${ref} \"b\""},
            "tasks": [{"type": "note", "params": {}}],
            "downstream_jobs": [
                {"job": "deploy", "parameters": {"ref": "${ref}", "text": "${odd}$${x}", "commit": "${git_commit}", "n": 3}},
                {"job": "strict", "parameters": {"nobody": "${ref}"}},
                "plain",
            ],
        })
        .to_string(),
    );
    mount.job(
        "deploy",
        &json!({"parameters": {"ref": null, "text": null, "commit": null, "n": "0"}, "tasks": []}).to_string(),
    );
    mount.job("strict", HELLO);
    mount.job("plain", &json!({"tasks": []}).to_string());
    mount.run("mkdir -p tickets/note");
    assert_eq!(mount.trigger("make", "ref=dev"), 1);
    wait_for("the ticket", USUAL, || mount.has("tickets/note/make.1.0"));
    mount.run("cd tickets/note/make.1.0; echo $$ > claim; printf 0123abcd > params/git_commit; echo 0 > result");
    assert_eq!(mount.wait_state("make", 1), "success", "{}", mount.console("make", 1));
    assert_eq!(mount.wait_state("deploy", 1), "success");
    for (name, value) in [
        ("ref", "dev"),
        ("text", "a\n${ref} \"b\"${x}"),
        ("commit", "0123abcd"),
        ("n", "3"),
        ("upstream_job", "make"),
        ("upstream_depth", "1"),
    ] {
        let found = mount.read(&format!("jobs/deploy/builds/1/params/{name}"));
        assert_eq!(found, value, "{name}");
    }
    let said = mount.console("make", 1);
    assert!(
        said.contains("job strict could not be triggered") && said.contains("the job has no parameter \"nobody\""),
        "{said}"
    );
    assert_eq!(mount.wait_state("plain", 1), "success");
}

/// "upstream_depth is 1 for a build that another triggered, 2 for what that one triggers …; after
/// 32 nothing more is triggered", and the build says so.
#[test]
fn builds_in_a_row_are_bounded() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    // Each triggers the next, and 32 of them stand after the first.
    mount.job("j33", r#"{"tasks":[]}"#);
    for n in (0..33).rev() {
        mount.job(&format!("j{n}"), &before(&[&format!("j{}", n + 1)]));
    }
    mount.build("j0", "", "success");
    for n in 1..=32 {
        let job = format!("j{n}");
        wait_for("the next in the row", USUAL, || {
            mount.has(&format!("jobs/{job}/builds/1"))
        });
        let depth = mount.read(&format!("jobs/{job}/builds/1/params/upstream_depth"));
        assert_eq!(depth, n.to_string());
    }
    assert_eq!(mount.read("jobs/j1/builds/1/cause"), "build j0/1");
    assert_eq!(mount.wait_state("j32", 1), "success");
    assert!(
        mount
            .why("j32", 1)
            .contains("j33 not triggered: 32 builds stand before"),
        "{}",
        mount.why("j32", 1)
    );
    assert!(mount.console("j32", 1).contains("is it a circle?"));
    assert!(!mount.has("jobs/j33/builds/1"));
}

/// "Triggering there needs the owner's right to write that `trigger`": `downstream_jobs` starts no
/// job that the owner of the upstream job may not start; the console and `why` say so, and the build
/// is no failure. What it starts, the owner started.
#[test]
fn only_jobs_that_the_owner_may_trigger_are_triggered() {
    const ALICE: u32 = 61_001;
    const MALLORY: u32 = 61_002;
    if !geteuid().is_root() {
        return;
    }
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    for (name, owner, mode) in [
        ("own", MALLORY, "700"),
        ("private", ALICE, "700"),
        ("seen", ALICE, "755"),
        ("of-root", 0, "755"),
        ("open", ALICE, "755"),
    ] {
        mount.job(name, r#"{"tasks":[]}"#);
        mount.run(&format!("chown {owner}:{owner} jobs/{name}; chmod {mode} jobs/{name}"));
    }
    mount.run("chmod 666 jobs/open/trigger");
    mount.job("up", &before(&["own", "private", "seen", "of-root", "open", "absent"]));
    mount.run(&format!("chown {MALLORY}:{MALLORY} jobs/up"));
    mount.build("up", "", "success");
    for job in ["own", "open"] {
        wait_for("the build after it", USUAL, || {
            mount.has(&format!("jobs/{job}/builds/1"))
        });
        let by = mount.read(&format!("jobs/{job}/builds/1/by"));
        assert!(by.starts_with(&format!("triggered {MALLORY} ")), "{job}: {by}");
        assert_eq!(mount.read(&format!("jobs/{job}/builds/1/cause")), "build up/1");
    }
    let said = mount.console("up", 1);
    for job in ["private", "seen", "of-root"] {
        let line = format!(
            "job {job} could not be triggered: the owner of up may not write its trigger, or it is switched off"
        );
        assert!(said.lines().any(|found| found == line), "{line}: {said}");
        assert_eq!(mount.list(&format!("jobs/{job}/builds")), Vec::<String>::new());
    }
    assert!(
        said.contains("job absent could not be triggered: there is no such job"),
        "{said}"
    );
    // "`why` names all of them."
    let why = mount.why("up", 1);
    assert!(
        why.contains("jobs absent, of-root, private, seen could not be triggered: absent: there is no such job; "),
        "{why}"
    );
}

/// A job that was removed and made again has builds of the same numbers; what they trigger is
/// not taken for what the old ones triggered.
#[test]
fn a_job_made_again_triggers_again() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    mount.job("down", r#"{"tasks":[]}"#);
    for number in 1..=2 {
        mount.job("up", &before(&["down"]));
        assert_eq!(mount.build("up", "", "success"), 1);
        wait_for("the build after it", USUAL, || {
            mount.has(&format!("jobs/down/builds/{number}"))
        });
        mount.run("rm -r jobs/up");
    }
}

/// "A retry triggers its downstream jobs once, whatever the job is called by then."
#[test]
fn a_retry_after_a_rename_triggers_nothing_again() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    mount.job("use", HELLO);
    mount.job("make", &before(&["use"]));
    mount.build("make", "", "success");
    wait_for("the build after it", USUAL, || mount.has("jobs/use/builds/1"));
    mount.run("mv jobs/make jobs/create; echo retry > jobs/create/builds/1/ctl");
    wait_for("the retry", USUAL, || {
        let record = mount.read("jobs/create/builds/1/build.json");
        record.contains("\"run\": 1") && mount.read("jobs/create/builds/1/state") == "success"
    });
    assert!(!mount.has("jobs/use/builds/2"));
    assert_eq!(mount.read("jobs/create/builds/1/why"), "all tasks ended well");
}
