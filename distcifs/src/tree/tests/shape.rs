//! The tree's shape and its names (doc/tree.md).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::driver::Fs;
use super::verbs::{HELLO, errno};

on_both! {
    the_root_has_what_the_page_draws,
    status_is_lines_of_key_and_value,
    metrics_are_prometheus_text,
    a_new_job_has_its_fixed_names,
    a_build_and_its_ticket_have_what_the_page_draws,
    names_that_are_not_valid,
    nothing_else_is_made_beside_what_is_generated,
    hidden_files_are_there_by_name_only,
    who_only_reads_closes_without_a_request,
}

/// "/: README, status, metrics, nodes/<node>, jobs/, tickets/". The five kinds of task that come
/// with distcifs have their queues from the start.
fn the_root_has_what_the_page_draws(fs: Fs) {
    assert_eq!(fs.list(""), ["README", "jobs", "metrics", "nodes", "status", "tickets"]);
    assert_eq!(fs.list("nodes").len(), 1, "this mount, alive");
    let queues = fs.list("tickets");
    for queue in [
        "build-control",
        "copy-artifacts",
        "execute-shell",
        "git-checkout",
        "publish-artifacts",
    ] {
        assert!(queues.iter().any(|name| name == queue), "{queue} is not in {queues:?}");
    }
    assert!(fs.read("README").len() > 100);
}

/// "status: 'key value' lines: store, coordinator, session, node, version, counts".
fn status_is_lines_of_key_and_value(fs: Fs) {
    let status = fs.read("status");
    let value = |key: &str| {
        let mut lines = status.lines().filter_map(|line| line.split_once(' '));
        lines.find(|(known, value)| *known == key && !value.is_empty())
    };
    for key in ["store", "coordinator", "session", "node", "version"] {
        assert!(value(key).is_some(), "no {key} in:\n{status}");
    }
    let (_, node) = value("node").unwrap();
    assert!(fs.has(&format!("nodes/{node}")));
}

/// "metrics: the same and more as Prometheus text": each sample is a name, perhaps labels, a number.
fn metrics_are_prometheus_text(fs: Fs) {
    let metrics = fs.read("metrics");
    let told = |line: &&str| !line.starts_with('#') && !line.is_empty();
    let samples: Vec<&str> = metrics.lines().filter(told).collect();
    assert!(!samples.is_empty());
    for sample in samples {
        let (name, value) = sample.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{sample}");
        assert!(name.starts_with(|c: char| c.is_ascii_alphabetic()), "{sample}");
    }
}

/// "jobs/<job>: mkdir makes a job": config.json, trigger, builds/ with its three links once there
/// is a build; config.error only after a refused write.
fn a_new_job_has_its_fixed_names(fs: Fs) {
    fs.mkdir("jobs/a").unwrap();
    let names = fs.list("jobs/a");
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    assert!(has("trigger") && has("builds"), "{names:?}");
    assert!(!has("config.error"), "{names:?}");
    assert_eq!(fs.list("jobs/a/builds"), Vec::<String>::new());
    assert_eq!(errno(fs.mkdir("jobs/a")), libc::EEXIST);
    let again = fs.mkdir_at("jobs", OsString::from("a"));
    assert_eq!(errno(again), libc::EEXIST, "of two who make it at once");
}

/// "builds/<n>: state, why, by, build.json, config.json, params/, console, ctl, tasks/, workspace/,
/// artifacts/"; and its ticket: "ticket.json, params/, labels, attempt, build, console, result".
fn a_build_and_its_ticket_have_what_the_page_draws(fs: Fs) {
    fs.job("a", HELLO);
    assert_eq!(fs.trigger("a", ""), 1);
    let names = fs.list("jobs/a/builds/1");
    for name in [
        "artifacts",
        "base",
        "build.json",
        "by",
        "cause",
        "commit",
        "config.json",
        "console",
        "ctl",
        "event",
        "params",
        "ref",
        "state",
        "tasks",
        "why",
        "workspace",
    ] {
        assert!(names.iter().any(|known| known == name), "{name} is not in {names:?}");
    }
    assert_eq!(fs.read("jobs/a/builds/1/state"), "pending");
    let build: serde_json::Value = serde_json::from_str(&fs.read("jobs/a/builds/1/build.json")).unwrap();
    assert!(build.is_object());
    assert_eq!(fs.list("tickets/build-control"), ["a.1.control"]);
    let ticket = fs.list("tickets/build-control/a.1.control");
    for name in ["attempt", "build", "labels", "params", "ticket.json"] {
        assert!(ticket.iter().any(|known| known == name), "{name} is not in {ticket:?}");
    }
    assert!(!ticket.iter().any(|name| name == "claim"), "absent until claimed");
    assert_eq!(fs.read("tickets/build-control/a.1.control/attempt"), "1");
    let link = fs.find("tickets/build-control/a.1.control/build/.").unwrap();
    assert_eq!(link.at(), fs.find("jobs/a/builds/1").unwrap().at());
}

/// "Jobs, queues, labels and parameters: [A-Za-z0-9_][A-Za-z0-9_.-]*, at most 128 bytes. Anything else is EINVAL
/// when it is made, and ENOENT when it is looked up. A name longer than NAME_MAX is ENAMETOOLONG."
fn names_that_are_not_valid(fs: Fs) {
    let long = [vec![b'a'; 129], vec![b'a'; 300]];
    let bad: [&[u8]; 8] = [
        b"-a",
        b".a",
        b"a b",
        b"a\nb",
        b"\xff\xfe",
        "é".as_bytes(),
        b"a:b",
        &long[0],
    ];
    for folder in ["jobs", "tickets"] {
        for name in bad {
            let name = OsString::from_vec(name.to_vec());
            let made = fs.mkdir_at(folder, name.clone());
            assert_eq!(errno(made), libc::EINVAL, "mkdir {folder}/{name:?}");
            assert_eq!(
                errno(fs.look_at(folder, name.clone())),
                libc::ENOENT,
                "stat {folder}/{name:?}"
            );
        }
        let name = OsString::from_vec(long[1].clone());
        assert_eq!(errno(fs.mkdir_at(folder, name.clone())), libc::ENAMETOOLONG);
        assert_eq!(errno(fs.look_at(folder, name)), libc::ENAMETOOLONG);
        let longest = format!("{folder}/{}", "a".repeat(128));
        fs.mkdir(&longest).expect("128 bytes are allowed");
        assert!(fs.has(&longest));
    }
}

/// Only jobs and queues are made at these places: "EROFS: writing to what is published or
/// generated"; a file where jobs are is refused as well.
fn nothing_else_is_made_beside_what_is_generated(fs: Fs) {
    let create = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC;
    for path in ["x", "nodes/x", "jobs/x", "tickets/x"] {
        assert!(fs.open(path, create).is_err(), "{path} was made");
    }
    for path in ["x", "nodes/x"] {
        assert!(fs.mkdir(path).is_err(), "{path} was made");
    }
    for path in ["README", "status", "metrics"] {
        let opened = fs.open(path, libc::O_WRONLY);
        assert!(opened.is_err(), "{path} was opened for writing");
    }
}

/// "Not listed by readdir, so that find, grep -r, rsync and tar never run into them, but there by
/// name."
fn hidden_files_are_there_by_name_only(fs: Fs) {
    fs.job("a", HELLO);
    fs.trigger("a", "");
    for path in [
        ".events",
        "tickets/execute-shell/.next",
        "tickets/execute-shell/.post",
        "jobs/a/builds/1/.wait",
    ] {
        assert!(fs.has(path), "{path} is not there");
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        assert!(!fs.list(folder).iter().any(|known| known == name), "{path} is listed");
    }
}

/// Whoever writes hears at close(2) what became of it, and who held a claim is noticed. Nothing is to be told of what was
/// read, and each close would be a request.
fn who_only_reads_closes_without_a_request(fs: Fs) {
    fs.job("a", HELLO);
    fs.trigger("a", "");
    let read = [
        "status",
        "jobs/a/config.json",
        "jobs/a/builds/1/console",
        "jobs/a/builds/1/.wait",
    ];
    for path in read {
        let fd = fs.open(path, libc::O_RDONLY).unwrap();
        assert!(!fd.flushes, "{path}");
    }
    for path in ["jobs/a/config.json", "jobs/a/trigger", "tickets/execute-shell/.post"] {
        let fd = fs.open(path, libc::O_WRONLY).unwrap();
        assert!(fd.flushes, "{path}");
    }
    assert!(fs.open("tickets/execute-shell/.next", libc::O_RDWR).unwrap().flushes);
}
