//! Triggering by shells and by many processes; what needs neither is in distcifs/src/tree/tests/trigger.rs.

use distcifs_tests::{HELLO, Mount};

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
