//! Artifacts out of workspaces and into them.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use distcifs_workers::beneath::{DEPTH_MAX, Folder};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;

use crate::{Bench, PATIENCE, console};

pub(crate) const PUBLISH: &str = env!("CARGO_BIN_EXE_publish-artifacts");
const COPY: &str = env!("CARGO_BIN_EXE_copy-artifacts");

pub(crate) fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().next().is_none()
}

/// "`artifacts` is a list of patterns of paths in the workspace." "A pattern that matches nothing is told in the
/// console"; "If no file and no link is published the task fails."
#[test]
fn artifacts_keep_their_place_and_their_odd_names() {
    let bench = Bench::new(PUBLISH, "odd");
    let good = bench.ticket("good", json!({ "artifacts": ["dist/", "a b/*.txt", "-*"] }));
    let workspace = good.join("workspace");
    let names = ["dist/sub/x y", "a b/new\nline.txt", "-rf"];
    for name in names {
        fs::create_dir_all(workspace.join(name).parent().unwrap()).unwrap();
        fs::write(workspace.join(name), name).unwrap();
    }
    assert_eq!(bench.work(&good), "0");
    for name in names {
        assert_eq!(fs::read_to_string(good.join("artifacts").join(name)).unwrap(), name);
    }
    let some = bench.ticket("some", json!({ "artifacts": "*.log\nkept" }));
    fs::write(some.join("workspace/kept"), "").unwrap();
    assert_eq!(bench.work(&some), "0");
    assert!(some.join("artifacts/kept").exists());
    assert!(console(&some).contains("matches '*.log'"));
    for (id, patterns, why) in [
        ("none", json!(["nope*"]), "matches 'nope*'"),
        ("two", json!(["nope*", "never"]), "matches 'nope*' 'never'"),
        ("up", json!(["a/../../x"]), "no .."),
        ("root", json!(["/etc/passwd"]), "no leading /"),
        ("link", json!(["etc/pass*"]), "links are not followed"),
        ("wild", json!(["e*/passwd"]), "nothing in the workspace matches"),
        ("missing", json!([]), "params.artifacts is missing"),
    ] {
        let bad = bench.ticket(id, json!({ "artifacts": patterns }));
        symlink("/etc", bad.join("workspace/etc")).unwrap();
        let result = bench.work(&bad);
        assert!(result.starts_with("1\n") && result.contains(why), "{result}");
        assert!(console(&bad).contains(why), "the console says it too");
        assert!(is_empty(&bad.join("artifacts")));
    }
}

/// A folder that is copied in part keeps what it has beside its files, as one that is copied whole.
#[test]
fn a_folder_without_some_of_its_files_keeps_its_mode_and_time() {
    let bench = Bench::new(PUBLISH, "part");
    let ticket = bench.ticket("t", json!({ "artifacts": ["d", "!**/*.o"] }));
    let workspace = ticket.join("workspace");
    fs::create_dir_all(workspace.join("d/e")).unwrap();
    for file in ["d/a", "d/b.o", "d/e/c.o"] {
        fs::write(workspace.join(file), file).unwrap();
    }
    let old = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 5);
    for folder in ["d/e", "d"] {
        fs::set_permissions(workspace.join(folder), Permissions::from_mode(0o2750)).unwrap();
        File::open(workspace.join(folder)).unwrap().set_modified(old).unwrap();
    }
    assert_eq!(bench.work(&ticket), "0", "{}", console(&ticket));
    for folder in ["d/e", "d"] {
        let is = fs::metadata(ticket.join("artifacts").join(folder)).unwrap();
        assert_eq!((is.mode() & 0o7777, is.modified().unwrap()), (0o2750, old), "{folder}");
    }
    assert!(ticket.join("artifacts/d/a").exists() && is_empty(&ticket.join("artifacts/d/e")));
}

/// copy-artifacts: `build` is "a number, latest, last-success, or upstream …; default last-success", `artifacts`
/// are "patterns, as in publish-artifacts; default all".
#[test]
fn artifacts_of_another_build_are_copied() {
    let bench = Bench::new(COPY, "copied");
    let builds = bench.root.join("jobs/lib/builds");
    let from = builds.join("3/artifacts");
    fs::create_dir_all(from.join("dist")).unwrap();
    symlink("3", builds.join("last-success")).unwrap();
    symlink("/etc", builds.join("latest")).unwrap();
    fs::write(from.join("dist/a b"), "x").unwrap();
    fs::write(from.join(".hidden"), "y").unwrap();
    symlink("/etc", from.join("link")).unwrap();
    let all = bench.ticket("all", json!({ "job": "lib", "target_directory": "in/here" }));
    assert_eq!(bench.work(&all), "0", "{}", console(&all));
    let here = all.join("workspace/in/here");
    assert_eq!(fs::read_to_string(here.join("dist/a b")).unwrap(), "x");
    assert_eq!(fs::read_to_string(here.join(".hidden")).unwrap(), "y");
    assert_eq!(fs::read_link(here.join("link")).unwrap(), Path::new("/etc"));
    assert!(console(&all).contains("from build 3 of the job lib"));
    let number = bench.ticket("number", json!({ "job": "lib", "build": 3, "artifacts": ["dist/*"] }));
    assert_eq!(bench.work(&number), "0", "{}", console(&number));
    assert!(number.join("workspace/dist/a b").exists() && !number.join("workspace/.hidden").exists());
    for (id, params, why) in [
        ("job", json!({ "job": "../lib", "build": "1" }), "not the name of a job"),
        (
            "word",
            json!({ "job": "lib", "build": "first" }),
            "not a number, latest",
        ),
        (
            "build",
            json!({ "job": "lib", "build": "7" }),
            "the job lib has no build 7, or the owner of this job may not read it",
        ),
        ("odd", json!({ "job": "lib", "build": "latest" }), "has no build latest"),
        ("none", json!({ "job": "lib", "artifacts": ["nope"] }), "matches 'nope'"),
        (
            "through",
            json!({ "job": "lib", "artifacts": ["link/passwd"] }),
            "links are not followed",
        ),
        (
            "up",
            json!({ "job": "lib", "target_directory": "a/../../b" }),
            "must be a folder in the workspace",
        ),
        (
            "alone",
            json!({ "build": "upstream" }),
            "no other build triggered this one",
        ),
    ] {
        let result = bench.work(&bench.ticket(id, params));
        assert!(result.starts_with("1\n") && result.contains(why), "{result}");
    }
}

/// "upstream: the build that triggered this one, and `job` may be left out", looked for where the
/// ticket shows its owner's jobs.
#[test]
fn the_build_before_is_found_through_the_ticket() {
    let bench = Bench::new(COPY, "upstream");
    for (id, job, why) in [
        ("good", json!(null), ""),
        ("named", json!("lib"), ""),
        ("other", json!("libs"), "triggered by the job lib, not by libs"),
    ] {
        let params = json!({ "build": "upstream", "job": job });
        let ticket = bench.ticket_of(id, json!({ "job": "use", "build": 5, "params": params }));
        let jobs = ticket.join("jobs");
        fs::create_dir_all(jobs.join("lib/builds/2/artifacts")).unwrap();
        fs::write(jobs.join("lib/builds/2/artifacts/a"), "x").unwrap();
        let own = jobs.join("use/builds/5/params");
        fs::create_dir_all(&own).unwrap();
        fs::write(own.join("upstream_job"), "lib\n").unwrap();
        fs::write(own.join("upstream_build"), "2\n").unwrap();
        let result = bench.work(&ticket);
        if why.is_empty() {
            assert_eq!(result, "0", "{}", console(&ticket));
            assert_eq!(fs::read_to_string(ticket.join("workspace/a")).unwrap(), "x");
        } else {
            assert!(result.contains(why), "{result}");
        }
    }
}

/// Whatever links a script left, nothing is written outside of the workspace: folders that are links
/// are refused, and files that are links are replaced.
#[test]
fn links_in_the_workspace_lead_nowhere() {
    let bench = Bench::new(COPY, "links");
    let from = bench.root.join("jobs/lib/builds/1/artifacts");
    fs::create_dir_all(from.join("sub")).unwrap();
    fs::write(from.join("sub/new"), "new").unwrap();
    fs::write(from.join("file"), "new").unwrap();
    let victim = bench.root.join("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("file"), "original").unwrap();
    for (id, params, why) in [
        ("sub", json!({ "job": "lib", "build": 1 }), "'sub'"),
        (
            "part",
            json!({ "job": "lib", "build": 1, "artifacts": ["sub/*"] }),
            "'sub'",
        ),
        (
            "target",
            json!({ "job": "lib", "build": 1, "target_directory": "sub/x" }),
            "sub/x",
        ),
        ("file", json!({ "job": "lib", "build": 1, "artifacts": ["file"] }), ""),
    ] {
        let ticket = bench.ticket(id, params);
        symlink(&victim, ticket.join("workspace/sub")).unwrap();
        symlink(victim.join("file"), ticket.join("workspace/file")).unwrap();
        let result = bench.work(&ticket);
        if why.is_empty() {
            assert_eq!(result, "0");
            assert_eq!(fs::read_to_string(ticket.join("workspace/file")).unwrap(), "new");
            assert!(!ticket.join("workspace/file").is_symlink());
        } else {
            assert!(
                result.starts_with("1\n") && result.contains(why) && result.contains("links are not followed"),
                "{result}"
            );
        }
        assert_eq!(fs::read_dir(&victim).unwrap().count(), 1, "{id}");
        assert_eq!(fs::read_to_string(victim.join("file")).unwrap(), "original");
    }
}

/// Folders that become links while a copy is under way lead nowhere either.
#[test]
fn a_race_leads_nowhere() {
    let bench = Bench::new(COPY, "race");
    let from = bench.root.join("jobs/lib/builds/1/artifacts/d/e");
    fs::create_dir_all(&from).unwrap();
    for number in 0..300 {
        fs::write(from.join(format!("f{number}")), "new").unwrap();
    }
    let victim = bench.root.join("victim");
    fs::create_dir_all(victim.join("e")).unwrap();
    let over = AtomicBool::new(false);
    for round in 0..6 {
        let ticket = bench.ticket(
            &format!("t{round}"),
            json!({ "job": "lib", "build": 1, "target_directory": "in" }),
        );
        let inside = ticket.join("workspace/in");
        fs::create_dir_all(inside.join("d/e")).unwrap();
        symlink(&victim, inside.join("link")).unwrap();
        over.store(false, Ordering::Relaxed);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let exchange = |a: &str, b: &str| {
                    let _ = nix::fcntl::renameat2(
                        nix::fcntl::AT_FDCWD,
                        &inside.join(a),
                        nix::fcntl::AT_FDCWD,
                        &inside.join(b),
                        nix::fcntl::RenameFlags::RENAME_EXCHANGE,
                    );
                };
                while !over.load(Ordering::Relaxed) {
                    exchange("d", "link");
                }
            });
            let result = bench.work(&ticket);
            over.store(true, Ordering::Relaxed);
            assert!(
                result == "0" || result.contains("links are not followed") || result.contains("Resource temporarily"),
                "{result}"
            );
        });
        assert!(is_empty(&victim.join("e")), "round {round}");
        assert_eq!(fs::read_dir(&victim).unwrap().count(), 1, "round {round}");
    }
}

/// "Copies keep modes, times, links and holes."
#[test]
fn copies_are_whole() {
    let bench = Bench::new(PUBLISH, "whole");
    let ticket = bench.ticket("t", json!({ "artifacts": ["d", "second"] }));
    let workspace = ticket.join("workspace");
    fs::create_dir_all(workspace.join("d/closed")).unwrap();
    fs::write(workspace.join("d/run"), "#!").unwrap();
    fs::hard_link(workspace.join("d/run"), workspace.join("second")).unwrap();
    fs::hard_link(workspace.join("d/run"), workspace.join("d/closed/third")).unwrap();
    symlink("nowhere", workspace.join("d/dangling")).unwrap();
    nix::unistd::mkfifo(&workspace.join("d/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let sparse = File::create(workspace.join("d/sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    sparse.write_all_at(b"middle", 32 << 20).unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    for (name, mode) in [("d/run", 0o751), ("d/closed", 0o550), ("d", 0o2750)] {
        let path = workspace.join(name);
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        File::open(&path).unwrap().set_modified(old).unwrap();
    }
    assert_eq!(bench.work(&ticket), "0", "{}", console(&ticket));
    assert!(console(&ticket).contains("'d/fifo' is neither file, folder nor link"));
    let artifacts = ticket.join("artifacts");
    for name in ["d/run", "d/closed", "d", "d/sparse"] {
        let (was, is) = (
            fs::metadata(workspace.join(name)).unwrap(),
            fs::metadata(artifacts.join(name)).unwrap(),
        );
        assert_eq!(was.mode(), is.mode(), "{name}");
        assert_eq!(was.modified().unwrap(), is.modified().unwrap(), "{name}");
        assert_eq!(was.len().max(1), is.len().max(1), "{name}");
    }
    let node = |name: &str| fs::metadata(artifacts.join(name)).unwrap().ino();
    assert_eq!((node("d/run"), node("d/run")), (node("second"), node("d/closed/third")));
    assert_eq!(
        fs::read_link(artifacts.join("d/dangling")).unwrap(),
        Path::new("nowhere")
    );
    let sparse = File::open(artifacts.join("d/sparse")).unwrap();
    let mut middle = [0; 6];
    sparse.read_exact_at(&mut middle, 32 << 20).unwrap();
    assert_eq!(&middle, b"middle");
    assert!(sparse.metadata().unwrap().blocks() < 1000, "holes stay holes");
    fs::set_permissions(workspace.join("d/closed"), Permissions::from_mode(0o750)).unwrap();
    fs::set_permissions(artifacts.join("d/closed"), Permissions::from_mode(0o750)).unwrap();
}

/// Many files take one process and little time.
#[test]
fn many_files_are_quick() {
    let bench = Bench::new(PUBLISH, "many");
    let ticket = bench.ticket("many", json!({ "artifacts": ["d"] }));
    let folder = ticket.join("workspace/d");
    fs::create_dir(&folder).unwrap();
    for number in 0..5000 {
        fs::write(folder.join(number.to_string()), "x").unwrap();
    }
    let begun = Instant::now();
    assert_eq!(bench.work(&ticket), "0");
    assert_eq!(fs::read_dir(ticket.join("artifacts/d")).unwrap().count(), 5000);
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

/// "Patterns and copies reach as deep as a workspace nests, 2,048 folders": taken whole, or walked through,
/// and files that have names far apart stay one. What is deeper fails the task.
#[test]
fn folders_are_taken_as_deep_as_a_workspace_nests() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    if hard < 3 * DEPTH_MAX as u64 + 100 {
        eprintln!("SKIPPED: a process has {hard} descriptors here, and this takes 6,244");
        return;
    }
    // To take the folders away again.
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(hard.min(8192)), hard).unwrap();
    let bench = Bench::new(PUBLISH, "deep");
    let chain = |levels: usize| ["d"].repeat(levels).join("/");
    for (id, levels, patterns) in [
        ("whole", DEPTH_MAX, json!(["d"])),
        ("some", DEPTH_MAX, json!(["d/**/leaf"])),
        ("most", DEPTH_MAX, json!(["d", "!**/never"])),
        ("deeper", DEPTH_MAX + 1, json!(["d"])),
    ] {
        let ticket = bench.ticket(id, json!({ "artifacts": patterns }));
        let (workspace, artifacts) = (
            ticket.join("workspace"),
            Folder::open(&ticket.join("artifacts")).unwrap(),
        );
        let from = Folder::open(&workspace).unwrap();
        let bottom = from.make(chain(levels)).unwrap();
        bottom.create(OsStr::new("leaf"), 0o600).unwrap();
        let second = from.make("d").unwrap();
        second
            .hard_link(OsStr::new("leaf"), &bottom, OsStr::new("leaf"))
            .unwrap();
        bench.give(&ticket);
        let read = || fs::read_to_string(ticket.join("result")).unwrap();
        // So many levels take a busy machine long.
        let begun = Instant::now();
        while read().is_empty() {
            assert!(begun.elapsed() < PATIENCE * 4, "{id}: no result came");
            std::thread::sleep(Duration::from_millis(10));
        }
        let result = read().trim_end().to_owned();
        if levels > DEPTH_MAX {
            assert!(
                result.starts_with("1\n") && result.contains("nest deeper than 2048"),
                "{result}"
            );
        } else {
            assert_eq!(result, "0", "{id}: {}", console(&ticket));
            let published = artifacts.enter_far(Path::new(&chain(levels))).unwrap();
            let leaf = published.stat(OsStr::new("leaf")).unwrap();
            let first = artifacts.enter("d").unwrap().stat(OsStr::new("leaf")).unwrap();
            assert_eq!((leaf.st_ino, leaf.st_nlink), (first.st_ino, 2), "{id}");
        }
        // One level more than can be removed at once.
        if let Ok(below) = from.enter("d") {
            below.remove(OsStr::new("d")).unwrap();
        }
        artifacts.remove(OsStr::new("d")).unwrap();
    }
}

/// "Of a stranger's build only builds of strangers copy. For others `latest` is the newest build that is no stranger's."
#[test]
fn what_strangers_published_is_for_strangers() {
    let bench = Bench::new(COPY, "strangers");
    let builds = bench.root.join("jobs/lib/builds");
    for (number, trust) in [
        (1, None),
        (2, Some("trusted\n")),
        (4, Some("untrusted\n")),
        (5, Some("untrusted\n")),
    ] {
        let build = builds.join(number.to_string());
        fs::create_dir_all(build.join("artifacts")).unwrap();
        fs::write(build.join("artifacts/made"), number.to_string()).unwrap();
        if let Some(trust) = trust {
            fs::write(build.join("trust"), trust).unwrap();
        }
    }
    symlink("5", builds.join("latest")).unwrap();
    symlink("2", builds.join(".latest-trusted")).unwrap();
    for (id, build, labels, made) in [
        ("first", json!(1), json!([]), Some("1")),
        ("own", json!(2), json!([]), Some("2")),
        ("theirs", json!(4), json!([]), None),
        ("newest", json!("latest"), json!([]), Some("2")),
        ("of-stranger", json!(4), json!(["untrusted"]), Some("4")),
        ("newest-of-stranger", json!("latest"), json!(["untrusted"]), Some("5")),
    ] {
        let ticket = bench.ticket_of(
            id,
            json!({ "params": { "job": "lib", "build": build }, "labels": labels }),
        );
        let result = bench.work(&ticket);
        let copied = fs::read_to_string(ticket.join("workspace/made")).ok();
        assert_eq!(copied.as_deref(), made, "{id}: {result}");
        assert!(
            made.is_some() || result.contains("build 4 of the job lib is a stranger's"),
            "{id}: {result}"
        );
    }
}
