//! Triggering: numbers, parameters, idempotence (doc/tree.md).

use serde_json::json;

use super::driver::Fs;
use super::verbs::{HELLO, errno};

on_both! {
    echo_starts_one_build,
    parameters_by_lines_and_by_json,
    parameters_that_are_refused,
    what_is_put_in_without_bound,
    without_a_configuration,
    a_key_gives_the_same_build_again,
    a_cause_is_shown,
    where_a_build_comes_from_is_shown,
    over_256_kib_is_too_big,
    a_build_keeps_the_configuration_of_its_trigger,
    a_race_with_one_key_makes_one_build,
    numbers_are_used_once,
}

/// A job with one parameter that has a default and one that is required.
const WITH: &str = r#"{"parameters":{"ref":"main","who":null},"tasks":[]}"#;

/// "`echo > trigger` starts a build without parameters"; "one command, one write".
fn echo_starts_one_build(fs: Fs) {
    fs.job("a", HELLO);
    fs.echo("jobs/a/trigger", "").unwrap();
    assert_eq!(fs.list("jobs/a/builds"), ["1", "latest"]);
    // What `: > trigger` and `exec 3>trigger; exec 3>&-` do.
    for flags in [libc::O_TRUNC | libc::O_CREAT, libc::O_TRUNC] {
        let file = fs.open("jobs/a/trigger", libc::O_WRONLY | flags).unwrap();
        file.close().unwrap();
    }
    assert_eq!(fs.list("jobs/a/builds"), ["1", "latest"], "no write, no build");
}

/// "key=value lines or one JSON object give parameters"; defaults come from the configuration.
fn parameters_by_lines_and_by_json(fs: Fs) {
    fs.job("a", WITH);
    fs.echo("jobs/a/trigger", "who=me").unwrap();
    assert_eq!(fs.read("jobs/a/builds/1/params/who"), "me");
    assert_eq!(fs.read("jobs/a/builds/1/params/ref"), "main");
    fs.trigger("a", r#"{"who": "x=y z", "ref": "dev"}"#);
    assert_eq!(fs.read("jobs/a/builds/2/params/who"), "x=y z");
    assert_eq!(fs.read("jobs/a/builds/2/params/ref"), "dev");
    fs.trigger("a", "who=a\nref=b=c");
    assert_eq!(fs.read("jobs/a/builds/3/params/ref"), "b=c");
}

/// "An unknown parameter is EINVAL too"; so is a required one that is missing. Nothing is made.
fn parameters_that_are_refused(fs: Fs) {
    fs.job("a", WITH);
    for body in [
        "who=me\nother=1",
        "",
        "who",
        "=x",
        "{\"who\":",
        "{\"who\":[1]}",
        "[\"who\"]",
    ] {
        assert_eq!(errno(fs.try_trigger("a", body)), libc::EINVAL, "{body:?}");
    }
    assert_eq!(fs.list("jobs/a/builds"), Vec::<String>::new());
    assert_eq!(fs.trigger("a", "who=me"), 1);
}

/// "What is put into the params of all tasks of a build is bounded by 16 MiB. A trigger that would make more is refused
/// (EINVAL), and `trigger.error` says by which parameter." Nothing is made.
fn what_is_put_in_without_bound(fs: Fs) {
    let task =
        r#"{"type": "copy-artifacts", "needs": [], "params": {"job": "x", "artifacts": ["${p}", "${p}", "${p}"]}}"#;
    let tasks = vec![task; 100].join(",");
    fs.job("a", &format!(r#"{{"parameters": {{"p": ""}}, "tasks": [{tasks}]}}"#));
    // 300 times 55,924 bytes are the last that fit.
    for (length, fits) in [(55_924, true), (55_925, false), (60_000, false)] {
        let body = json!({ "p": "x".repeat(length) }).to_string();
        let done = fs.try_trigger("a", &body);
        assert_eq!(done.is_ok(), fits, "{length}: {done:?}");
        if !fits {
            assert_eq!(errno(done), libc::EINVAL);
            let why = fs.read("jobs/a/trigger.error");
            let said = format!("${{p}}: {length} bytes, 300 times");
            assert!(why.contains(&said) && why.contains("may have 16777216"), "{why}");
        }
    }
    assert_eq!(
        fs.list("jobs/a/builds")
            .iter()
            .filter(|name| name.parse::<u64>().is_ok())
            .count(),
        1
    );
}

/// "Without a valid configuration: EINVAL at open", which a shell sees.
fn without_a_configuration(fs: Fs) {
    fs.mkdir("jobs/a").unwrap();
    assert_eq!(errno(fs.open("jobs/a/trigger", libc::O_WRONLY)), libc::EINVAL);
    assert_eq!(errno(fs.echo("jobs/a/trigger", "")), libc::EINVAL);
}

/// "A line `@key=<token>` (in JSON the member "@key") makes the trigger idempotent: the same token
/// again gives the same build", over a remount as well.
fn a_key_gives_the_same_build_again(mut fs: Fs) {
    fs.job("a", WITH);
    assert_eq!(fs.trigger("a", "who=me\n@key=t1"), 1);
    assert_eq!(fs.trigger("a", "who=me\n@key=t1"), 1);
    assert_eq!(fs.trigger("a", r#"{"who":"me","@key":"t1"}"#), 1);
    assert_eq!(fs.trigger("a", "who=me\n@key=t2"), 2);
    fs.remount();
    assert_eq!(fs.trigger("a", "who=me\n@key=t1"), 1);
    assert_eq!(fs.trigger("a", "who=me"), 3);
}

/// "A line `@cause=<text>` says why": it is shown while the build lives, after its end and after a
/// retry; one that is no line is refused.
fn a_cause_is_shown(mut fs: Fs) {
    fs.job("a", r#"{"tasks":[]}"#);
    fs.trigger("a", "@cause=somebody wanted é\n@key=k");
    fs.trigger("a", r#"{"@cause": "another", "@key": "k"}"#);
    let cause = |fs: &Fs| fs.read("jobs/a/builds/1/cause");
    assert_eq!(cause(&fs), "somebody wanted é");
    fs.finish("build-control", "a.1.control", "failure");
    assert_eq!(fs.wait_state("a", 1), "failure");
    assert_eq!(cause(&fs), "somebody wanted é");
    fs.remount();
    fs.echo("jobs/a/builds/1/ctl", "retry").unwrap();
    assert_eq!(fs.bytes("jobs/a/builds/1/cause").unwrap().len(), 19);
    assert_eq!(fs.stat("jobs/a/builds/1/cause").unwrap().size, 19);
    assert_eq!(cause(&fs), "somebody wanted é");
    for bad in [
        r#"{"@cause": "a\nb"}"#.to_owned(),
        "@cause=".into(),
        format!("@cause={}", "x".repeat(513)),
    ] {
        assert_eq!(errno(fs.try_trigger("a", &bad)), libc::EINVAL, "{bad}");
    }
    assert_eq!(fs.trigger("a", ""), 2);
    assert_eq!(fs.read("jobs/a/builds/2/cause"), "");
}

/// "The build shows each in a file without the `@`, and retries keep them." "What does not fit is EINVAL."
fn where_a_build_comes_from_is_shown(mut fs: Fs) {
    fs.job("a", r#"{"tasks":[]}"#);
    let commit = "ab".repeat(20);
    let said = format!("@event=pull_request\n@ref=refs/pull/7/head\n@base=refs/heads/main\n@commit={commit}");
    assert_eq!(fs.trigger("a", &said), 1);
    let shown =
        |fs: &Fs, n: u64| ["event", "ref", "commit", "base"].map(|f| fs.read(&format!("jobs/a/builds/{n}/{f}")));
    let wanted = ["pull_request", "refs/pull/7/head", commit.as_str(), "refs/heads/main"];
    assert_eq!(shown(&fs, 1), wanted);
    fs.finish("build-control", "a.1.control", "failure");
    assert_eq!(fs.wait_state("a", 1), "failure");
    assert_eq!(shown(&fs, 1), wanted);
    fs.remount();
    fs.echo("jobs/a/builds/1/ctl", "retry").unwrap();
    assert_eq!(shown(&fs, 1), wanted);
    let build: serde_json::Value = serde_json::from_str(&fs.read("jobs/a/builds/1/build.json")).unwrap();
    assert_eq!(
        ["event", "ref", "commit", "base"].map(|name| build[name].clone()),
        wanted
    );
    for bad in [
        "@event=deploy".to_owned(),
        // "Upstream is said by nobody: … for all others that is EINVAL."
        "@event=upstream".into(),
        r#"{"@event": "upstream"}"#.into(),
        "@ref=a b".into(),
        r#"{"@ref": "a\nb"}"#.into(),
        format!("@base={}", "x".repeat(257)),
        "@commit=main".into(),
        format!("@commit={commit}\n@commit={commit}"),
        "@who=me".into(),
    ] {
        assert_eq!(errno(fs.try_trigger("a", &bad)), libc::EINVAL, "{bad}");
    }
    assert_eq!(fs.trigger("a", "@ref=\n@commit="), 2);
    assert_eq!(shown(&fs, 2), ["manual", "", "", ""]);
    // "Only the job's owner, root, whoever mounted and control programs say it."
    fs.caller.uid = 4242;
    assert_eq!(errno(fs.try_trigger("a", &format!("@commit={commit}"))), libc::EACCES);
    // "What can be refused at open or at write is refused there, where a shell sees it."
    for said in [
        format!("@commit={commit}\n"),
        format!("{{\"@commit\": \"{commit}\"}}\n"),
    ] {
        let mut open = fs.open("jobs/a/trigger", libc::O_WRONLY).unwrap();
        assert_eq!(errno(open.write(said.as_bytes())), libc::EACCES, "{said}");
    }
    assert_eq!(fs.trigger("a", "@ref=refs/heads/main"), 3);
}

/// "EFBIG: a trigger or ticket over 256 KiB".
fn over_256_kib_is_too_big(fs: Fs) {
    fs.job("a", WITH);
    let body = format!("who={}", "x".repeat(256 << 10));
    assert_eq!(errno(fs.try_trigger("a", &body)), libc::EFBIG);
    assert_eq!(fs.list("jobs/a/builds"), Vec::<String>::new());
}

/// "Triggering makes the build, with the configuration as it is now."
fn a_build_keeps_the_configuration_of_its_trigger(fs: Fs) {
    fs.job("a", HELLO);
    fs.trigger("a", "");
    fs.configure("a", r#"{"tasks":[]}"#);
    assert_eq!(fs.read("jobs/a/builds/1/config.json"), HELLO);
}

/// Fifty at once, all with the same key: one build.
fn a_race_with_one_key_makes_one_build(fs: Fs) {
    fs.job("a", HELLO);
    let given: Vec<u64> = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..50).map(|_| scope.spawn(|| fs.trigger("a", "@key=same"))).collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    assert_eq!(given, [1; 50]);
    assert_eq!(fs.list("jobs/a/builds"), ["1", "latest"]);
}

/// "1, 2, 3 …; a number is never used twice": not by a race, not after a removal.
fn numbers_are_used_once(fs: Fs) {
    fs.job("a", HELLO);
    let mut numbers: Vec<u64> = std::thread::scope(|scope| {
        let five = || (0..5).map(|_| fs.trigger("a", "")).collect::<Vec<_>>();
        let racers: Vec<_> = (0..10).map(|_| scope.spawn(five)).collect();
        racers.into_iter().flat_map(|racer| racer.join().unwrap()).collect()
    });
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=50).collect::<Vec<u64>>());
    fs.finish("build-control", "a.50.control", "aborted");
    assert_eq!(fs.wait_state("a", 50), "aborted");
    fs.rmdir("jobs/a/builds/50").unwrap();
    assert_eq!(fs.trigger("a", ""), 51);
}
