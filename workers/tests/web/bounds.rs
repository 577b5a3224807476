//! What one job, build or client may take of web.

use super::*;

impl Web {
    /// The most memory that it ever had, KiB.
    fn peak(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

/// A record has up to 24 MiB. Lists keep a line of each, and a page its first tasks.
#[test]
fn large_records_are_not_kept_in_memory() {
    let web = Web::start("records", &[]);
    let long = "x".repeat(2 << 20);
    let task = r#"{"index":0,"type":"execute-shell","state":"failure","needs":[]}"#;
    let tasks = vec![task; 5000].join(",");
    for number in 2..14 {
        let build = web.tree(&format!("jobs/hello/builds/{number}"));
        write(&build.join("state"), "failure\n");
        let text = format!(
            r#"{{"job":"hello","build":{number},"state":"failure","why":"large","triggered":1,"finished":18446744073709551615,
                "params":{{"long":"{long}"}},"tasks":[{tasks}]}}"#
        );
        write(&build.join("build.json"), text);
    }
    web.page("/jobs/hello/builds/1");
    let before = web.peak();
    for path in ["/feed/hello.atom", "/jobs/hello"] {
        let text = web.page(path).text();
        assert!(text.contains("large"), "{path}: {text}");
    }
    let kept = web.peak() - before;
    assert!(kept < 8 << 10, "{kept} KiB more than before");
    let page = web.page("/jobs/hello/builds/2");
    assert_eq!(page.status, 200);
    assert!(page.text().contains("4000 more tasks are not shown"));
}

/// Of a build whose record is closed it is not known when it was triggered, if nothing of it has begun.
#[test]
fn no_time_is_shown_that_is_not_known() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("this needs root: anybody else shows his own tree to who has a token");
        return;
    }
    let web = Web::start("times", &[]);
    let build = web.tree("jobs/hello/builds/2");
    write(&build.join("state"), "aborted\n");
    write(&build.join("build.json"), "{}");
    write(&build.join("tasks/0-unit/state"), "waiting\n");
    fs::set_permissions(build.join("build.json"), PermissionsExt::from_mode(0o600)).unwrap();
    for path in ["/jobs/hello", "/jobs/hello/builds/2", "/feed/hello.atom"] {
        let text = web.page(path).text();
        assert!(text.contains("aborted") && !text.contains("1970"), "{path}: {text}");
        assert!(!text.contains("data-since=\"0\""), "{path}: {text}");
    }
}

/// One too many is told so, and not that the tree is away.
#[test]
fn who_finds_no_place_is_told_of_what_there_are_too_many() {
    let web = Web::start("busy", &["--connections", "3"]);
    let mut live = web.stream("/jobs/hello", "");
    until(&mut live, "</main>");
    let more = web.ask("/jobs/hello", "Accept: text/event-stream\r\n");
    assert_eq!((more.status, more.header("retry-after").as_deref()), (503, Some("5")));
    let text = more.text();
    assert!(text.contains("too many live pages") && !text.contains("away"), "{text}");
    assert_eq!(web.page("/jobs/hello").status, 200);
}

/// What is nested deeply is much longer with a line for each member: a configuration of 1 MiB, 65 MB.
#[test]
fn configurations_that_are_nested_take_bounded_memory() {
    let web = Web::start("nested", &[]);
    for (number, last) in [(2, 1), (3, 2)] {
        let build = web.tree(&format!("jobs/hello/builds/{number}"));
        write(&build.join("state"), "success\n");
        write(&build.join("build.json"), "{}");
        let numbers = vec!["1"; 520_000].join(",");
        let (open, close) = ("[".repeat(60), "]".repeat(60));
        write(
            &build.join("config.json"),
            format!("{{\"x-a\":{open}{numbers},{last}{close}}}"),
        );
    }
    web.page("/jobs/hello/builds/2");
    let before = web.peak();
    let page = web.page("/jobs/hello/builds/3?against=2").text();
    assert!(page.contains("too large to be compared"), "{page}");
    let taken = web.peak() - before;
    assert!(taken < 110 << 10, "{taken} KiB more than before");
}

/// Folders are held open one for each level, however many there are.
#[test]
fn many_folders_take_few_descriptors() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("web-folders-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    tree(&folder.join("tree"));
    let mut bounded = Command::new("sh");
    bounded.args(["-c", "ulimit -n 150 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_web")]);
    let web = Web::by(bounded, folder, &["--connections", "16"]);
    for number in 2..4 {
        let build = web.tree(&format!("jobs/hello/builds/{number}"));
        write(&build.join("state"), "success\n");
        write(&build.join("build.json"), "{}");
        for folder in 0..300 {
            write(&build.join(format!("artifacts/{folder}/x")), "x".repeat(number));
        }
    }
    let page = web.page("/jobs/hello/builds/3?against=2");
    assert_eq!(page.status, 200, "{}", page.text());
    let page = page.text();
    assert!(page.contains("299/x") && !page.contains("could not be"), "{page}");
}
