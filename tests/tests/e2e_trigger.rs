//! Triggering: numbers, parameters, idempotence.

use std::fs::File;
use std::time::Duration;

use distcifs_tests::{HELLO, Mount, errno};

/// A job with one parameter that has a default and one that is required.
const WITH: &str = r#"{"parameters":{"ref":"main","who":null},"tasks":[]}"#;

/// "On a descriptor opened for reading and writing, a read after the write gives the build's
/// number", in the form that the page prints, under each shell.
#[test]
fn the_number_is_read_back_by_a_shell() {
    let mount = Mount::new();
    mount.job("hello", r#"{"parameters":{"ref":null},"tasks":[]}"#);
    let script = "exec 3<>jobs/hello/trigger; echo ref=refs/heads/main >&3; read -r n <&3; echo \"$n\"";
    for (shell, number) in [("dash", "1"), ("bash", "2"), ("busybox sh", "3")] {
        assert_eq!(mount.sh_with(shell, script).expect_ok(), number, "{shell}");
    }
    assert_eq!(mount.read("jobs/hello/builds/2/params/ref"), "refs/heads/main");
    assert_eq!(mount.run("readlink jobs/hello/builds/latest"), "3");
}

/// "`echo > trigger` starts a build without parameters"; "one command, one write".
#[test]
fn echo_starts_one_build() {
    let mount = Mount::new();
    mount.job("a", HELLO);
    mount.run("echo > jobs/a/trigger");
    assert_eq!(mount.list("jobs/a/builds"), ["1", "latest"]);
    mount.run(": > jobs/a/trigger; exec 3>jobs/a/trigger; exec 3>&-");
    assert_eq!(mount.list("jobs/a/builds"), ["1", "latest"], "no write, no build");
}

/// "key=value lines or one JSON object give parameters"; defaults come from the configuration.
#[test]
fn parameters_by_lines_and_by_json() {
    let mount = Mount::new();
    mount.job("a", WITH);
    mount.run("echo who=me > jobs/a/trigger");
    assert_eq!(mount.read("jobs/a/builds/1/params/who"), "me");
    assert_eq!(mount.read("jobs/a/builds/1/params/ref"), "main");
    mount.trigger("a", r#"{"who": "x=y z", "ref": "dev"}"#);
    assert_eq!(mount.read("jobs/a/builds/2/params/who"), "x=y z");
    assert_eq!(mount.read("jobs/a/builds/2/params/ref"), "dev");
    mount.trigger("a", "who=a\nref=b=c");
    assert_eq!(mount.read("jobs/a/builds/3/params/ref"), "b=c");
}

/// "An unknown parameter is EINVAL too"; so is a required one that is missing. Nothing is made.
#[test]
fn parameters_that_are_refused() {
    let mount = Mount::new();
    mount.job("a", WITH);
    for body in [
        "who=me\nother=1",
        "",
        "who",
        "=x",
        "{\"who\":",
        "{\"who\":[1]}",
        "[\"who\"]",
    ] {
        assert_eq!(errno(mount.try_trigger("a", body)), libc::EINVAL, "{body:?}");
    }
    assert_eq!(mount.list("jobs/a/builds"), Vec::<String>::new());
    assert_eq!(mount.trigger("a", "who=me"), 1);
}

/// "Without a valid configuration: EINVAL at open", which a shell sees.
#[test]
fn without_a_configuration() {
    let mount = Mount::new();
    mount.run("mkdir jobs/a");
    assert_eq!(
        errno(File::options().write(true).open(mount.path("jobs/a/trigger"))),
        libc::EINVAL
    );
    assert!(!mount.sh("echo > jobs/a/trigger").ok());
}

/// "A line `@key=<token>` (in JSON the member "@key") makes the trigger idempotent: the same token
/// again gives the same build", over a remount as well.
#[test]
fn a_key_gives_the_same_build_again() {
    let mount = Mount::new();
    mount.job("a", WITH);
    assert_eq!(mount.trigger("a", "who=me\n@key=t1"), 1);
    assert_eq!(mount.trigger("a", "who=me\n@key=t1"), 1);
    assert_eq!(mount.trigger("a", r#"{"who":"me","@key":"t1"}"#), 1);
    assert_eq!(mount.trigger("a", "who=me\n@key=t2"), 2);
    mount.remount();
    assert_eq!(mount.trigger("a", "who=me\n@key=t1"), 1);
    assert_eq!(mount.trigger("a", "who=me"), 3);
}

/// "A line `@cause=<text>` says why": it is shown while the build lives, after its end and after a
/// retry; one that is no line is refused.
#[test]
fn a_cause_is_shown() {
    let mount = Mount::new();
    mount.job("a", r#"{"tasks":[]}"#);
    mount.trigger("a", "@cause=somebody wanted é\n@key=k");
    mount.trigger("a", r#"{"@cause": "another", "@key": "k"}"#);
    let cause = || mount.read("jobs/a/builds/1/cause");
    assert_eq!(cause(), "somebody wanted é");
    mount.finish("build-control", "a.1.control", "failure");
    assert_eq!(mount.wait_state("a", 1), "failure");
    assert_eq!(cause(), "somebody wanted é");
    mount.remount();
    mount.run("echo retry > jobs/a/builds/1/ctl; [ $(wc -c < jobs/a/builds/1/cause) = 19 ]");
    assert_eq!(cause(), "somebody wanted é");
    for bad in [
        r#"{"@cause": "a\nb"}"#.to_owned(),
        "@cause=".into(),
        format!("@cause={}", "x".repeat(513)),
    ] {
        assert_eq!(errno(mount.try_trigger("a", &bad)), libc::EINVAL, "{bad}");
    }
    assert_eq!(mount.trigger("a", ""), 2);
    assert_eq!(mount.read("jobs/a/builds/2/cause"), "");
}

/// Fifty at once, from as many processes, all with the same key: one build.
#[test]
fn a_race_with_one_key_makes_one_build() {
    let mount = Mount::new();
    mount.job("a", HELLO);
    let one = "exec 3<>jobs/a/trigger; echo @key=same >&3; read -r n <&3; echo \"$n\"";
    let running: Vec<_> = (0..50).map(|_| mount.start(one)).collect();
    for script in running {
        assert_eq!(script.finish().expect_ok(), "1");
    }
    assert_eq!(mount.list("jobs/a/builds"), ["1", "latest"]);
}

/// "1, 2, 3 …; a number is never used twice": not by a race, not after a removal.
#[test]
fn numbers_are_used_once() {
    let mount = Mount::new();
    mount.job("a", HELLO);
    let one = "for i in 1 2 3 4 5; do exec 3<>jobs/a/trigger; echo >&3; read -r n <&3; echo \"$n\"; exec 3>&-; done";
    let running: Vec<_> = (0..10).map(|_| mount.start(one)).collect();
    let mut numbers: Vec<u64> = Vec::new();
    for script in running {
        numbers.extend(
            script
                .finish()
                .expect_ok()
                .lines()
                .map(|line| line.parse::<u64>().expect("a number")),
        );
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=50).collect::<Vec<u64>>());
    mount.finish("build-control", "a.50.control", "aborted");
    assert_eq!(mount.wait_state("a", 50), "aborted");
    mount.run("rmdir jobs/a/builds/50");
    assert_eq!(mount.trigger("a", ""), 51);
}

/// "EFBIG: a trigger or ticket over 256 KiB".
#[test]
fn over_256_kib_is_too_big() {
    let mount = Mount::new();
    mount.job("a", WITH);
    assert_eq!(
        errno(mount.try_trigger("a", &format!("who={}", "x".repeat(256 << 10)))),
        libc::EFBIG
    );
    assert_eq!(mount.list("jobs/a/builds"), Vec::<String>::new());
}

/// "Triggering makes the build, with the configuration as it is now."
#[test]
fn a_build_keeps_the_configuration_of_its_trigger() {
    let mount = Mount::new();
    mount.job("a", HELLO);
    mount.trigger("a", "");
    mount.configure("a", r#"{"tasks":[]}"#);
    assert_eq!(mount.read("jobs/a/builds/1/config.json"), HELLO);
}

/// ".wait: a read answers within one second with the data or with end of file".
#[test]
fn wait_answers_within_a_second() {
    let mount = Mount::new();
    mount.job("a", HELLO);
    mount.trigger("a", "");
    let begun = std::time::Instant::now();
    assert_eq!(mount.read("jobs/a/builds/1/.wait"), "");
    assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
    let waiter = mount.start("cd jobs/a/builds/1; while s=$(cat .wait) && [ -z \"$s\" ]; do :; done; echo \"$s\"");
    mount.finish("build-control", "a.1.control", "failure");
    assert_eq!(waiter.finish().expect_ok(), "failure");
}
