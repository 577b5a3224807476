//! What patterns of artifacts take from a workspace, and what is told of them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::json;

use crate::artifacts::{PUBLISH, is_empty};
use crate::{Bench, console};

/// The files below a folder, sorted.
fn list(folder: &Path, way: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let way = way.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            list(&entry.path(), &way, found);
        } else {
            found.push(way.to_str().unwrap().to_owned());
        }
    }
    found.sort_unstable();
}

/// A pattern means what it means to a shell: names with a dot in front are only matched by such
/// patterns, and a name may look like a pattern.
#[test]
fn patterns_are_those_of_a_shell() {
    let bench = Bench::new(PUBLISH, "patterns");
    let files = [
        ".hidden", "a.txt", "b.txt", "c[1].txt", "d/.e/f", "d/g", "d/h/i", "{x,y}", "1.log",
    ];
    for (id, pattern, expected) in [
        ("star", "*.txt", &["a.txt", "b.txt", "c[1].txt"][..]),
        ("dot", ".h*", &[".hidden"]),
        ("literal", "c[1].txt", &["c[1].txt"]),
        ("folders", "*/*/*", &["d/h/i"]),
        ("class", "[[:digit:]].log", &["1.log"]),
        ("not", "[!a].txt", &["b.txt"]),
        ("braces", "{x,y}", &["{x,y}"]),
        ("whole", "./d//", &["d/.e/f", "d/g", "d/h/i"]),
        ("all", ".", &files),
    ] {
        let ticket = bench.ticket(id, json!({ "artifacts": [pattern] }));
        for file in files {
            fs::create_dir_all(ticket.join("workspace").join(file).parent().unwrap()).unwrap();
            fs::write(ticket.join("workspace").join(file), file).unwrap();
        }
        assert_eq!(bench.work(&ticket), "0", "{pattern}: {}", console(&ticket));
        let mut found = Vec::new();
        list(&ticket.join("artifacts"), Path::new(""), &mut found);
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(found, expected, "{pattern}");
    }
}

/// "`**` stands for folders at any depth, none too; … the last pattern that fits a path or a folder that it
/// is in decides." "`*`, `?` and `**` stand for no name with a dot in front, at no depth."
#[test]
fn patterns_go_to_any_depth_and_exclude() {
    let bench = Bench::new(PUBLISH, "depth");
    let files = [
        "top.jar",
        "m/one.jar",
        "m/b/two.jar",
        "m/b/x.war",
        "m/.d/hid.jar",
        "m/b/.env",
        ".env",
        "out/a",
        "out/.b",
        "out/tmp/c",
        "out/tmp/keep",
        "out/tmp/d/.e",
        "!odd",
        "s[1].txt",
        "key/.x.key",
    ];
    let visible = [
        "m/b/two.jar",
        "m/b/x.war",
        "m/one.jar",
        "out/a",
        "out/tmp/c",
        "out/tmp/keep",
        "top.jar",
    ];
    for (id, patterns, expected) in [
        ("any", json!(["**/*.jar"]), &["m/b/two.jar", "m/one.jar", "top.jar"][..]),
        ("none", json!(["m/**/b/**/two.jar"]), &["m/b/two.jar"]),
        ("dots", json!(["**/.env"]), &[".env", "m/b/.env"]),
        ("dotted", json!(["m/.d/**"]), &["m/.d/hid.jar"]),
        ("below", json!(["out/**"]), &["out/a", "out/tmp/c", "out/tmp/keep"]),
        ("star", json!(["*", "!\\!odd", "!s*"]), &visible),
        ("depths", json!(["**", "!\\!odd", "!s*"]), &visible),
        ("start", json!(["o*"]), &["out/a", "out/tmp/c", "out/tmp/keep"]),
        (
            "whole",
            json!(["o*", "out/tmp/d"]),
            &["out/a", "out/tmp/c", "out/tmp/d/.e", "out/tmp/keep"],
        ),
        (
            "both",
            json!(["out", "out/*"]),
            &["out/.b", "out/a", "out/tmp/c", "out/tmp/d/.e", "out/tmp/keep"],
        ),
        ("hides", json!(["*/.*"]), &["key/.x.key", "m/.d/hid.jar", "out/.b"]),
        (
            "hidden-any",
            json!(["k*", "**/.*"]),
            &[
                ".env",
                "key/.x.key",
                "m/.d/hid.jar",
                "m/b/.env",
                "out/.b",
                "out/tmp/d/.e",
            ],
        ),
        (
            "excluded",
            json!(["o*", "!out/a", "out/tmp/**/.e"]),
            &["out/tmp/c", "out/tmp/d/.e", "out/tmp/keep"],
        ),
        (
            "braces",
            json!(["m/**/*.{jar,war}", "{x,top}.jar"]),
            &["m/b/two.jar", "m/b/x.war", "m/one.jar", "top.jar"],
        ),
        ("less", json!(["out", "!out/tmp"]), &["out/.b", "out/a"]),
        (
            "again",
            json!(["out", "!out/tmp/", "out/tmp/keep"]),
            &["out/.b", "out/a", "out/tmp/keep"],
        ),
        (
            "order",
            json!(["m/b", "!m/b/x.war", "m/b/*.war"]),
            &["m/b/.env", "m/b/two.jar", "m/b/x.war"],
        ),
        (
            "hidden",
            json!(["out", "key", "!**/*.key", "!out/tmp/**"]),
            &["out/.b", "out/a"],
        ),
        (
            "all",
            json!([".", "!m", "!out", "!.env", "!key"]),
            &["!odd", "s[1].txt", "top.jar"],
        ),
        ("escaped", json!(["\\!odd"]), &["!odd"]),
        (
            "named",
            json!(["s[1].txt", "*.jar", "!s[1].t*"]),
            &["s[1].txt", "top.jar"],
        ),
        (
            "named-not",
            json!(["*", "!s[1].txt", "!out", "!m", "!key", "!\\!*"]),
            &["top.jar"],
        ),
        (
            "folders",
            json!(["*/"]),
            &[
                "m/b/two.jar",
                "m/b/x.war",
                "m/one.jar",
                "out/a",
                "out/tmp/c",
                "out/tmp/keep",
            ],
        ),
    ] {
        let ticket = bench.ticket(id, json!({ "artifacts": patterns }));
        let workspace = ticket.join("workspace");
        for file in files {
            fs::create_dir_all(workspace.join(file).parent().unwrap()).unwrap();
            fs::write(workspace.join(file), file).unwrap();
        }
        assert_eq!(bench.work(&ticket), "0", "{patterns}: {}", console(&ticket));
        assert!(
            !console(&ticket).contains("matches"),
            "{patterns}: {}",
            console(&ticket)
        );
        let mut found = Vec::new();
        list(&ticket.join("artifacts"), Path::new(""), &mut found);
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(found, expected, "{patterns}");
    }
}

/// "… never follows links": neither does `**`, and a task never ends well with nothing.
#[test]
fn any_depth_ends_at_links_and_nothing_is_no_success() {
    let bench = Bench::new(PUBLISH, "depth-links");
    let outside = bench.root.join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret.txt"), "x").unwrap();
    for (id, patterns, why) in [
        ("links", json!(["**/*.txt"]), ""),
        (
            "nothing",
            json!(["**/*.jar", "d/**/e/*"]),
            "nothing in the workspace matches '**/*.jar' 'd/**/e/*'",
        ),
        (
            "excluded",
            json!(["**/*.txt", "!d"]),
            "nothing in the workspace matches '**/*.txt' and is not excluded",
        ),
        ("unknown", json!(["**.txt"]), "** must stand alone"),
        ("first", json!(["!d", "*"]), "excludes nothing"),
        ("empty", json!(["d/empty/**"]), "nothing in the workspace matches"),
        (
            "bare",
            json!(["d/empty"]),
            "is only folders, with no file and no link in them",
        ),
    ] {
        let ticket = bench.ticket(id, json!({ "artifacts": patterns }));
        let workspace = ticket.join("workspace");
        fs::create_dir_all(workspace.join("d/empty")).unwrap();
        fs::write(workspace.join("d/a.txt"), "a").unwrap();
        symlink(&outside, workspace.join("d/out")).unwrap();
        symlink("..", workspace.join("d/up")).unwrap();
        symlink(outside.join("secret.txt"), workspace.join("d/l.txt")).unwrap();
        let result = bench.work(&ticket);
        if why.is_empty() {
            assert_eq!(result, "0", "{}", console(&ticket));
            let mut found = Vec::new();
            list(&ticket.join("artifacts"), Path::new(""), &mut found);
            assert_eq!(found, ["d/a.txt", "d/l.txt"]);
            assert!(ticket.join("artifacts/d/l.txt").is_symlink());
        } else {
            assert!(result.starts_with("1\n") && result.contains(why), "{result}");
            assert!(id == "bare" || is_empty(&ticket.join("artifacts")), "{id}");
        }
    }
}

/// "The console tells a pattern that excludes nothing, and a link that was published without what it leads
/// to."
#[test]
fn what_may_not_be_meant_is_told() {
    let bench = Bench::new(PUBLISH, "odd-lines");
    for (id, patterns, lines) in [
        (
            "top",
            json!(["out", "!*.key"]),
            &["'!*.key' excludes nothing: it stands for the topmost", "!**/*.key"][..],
        ),
        (
            "name",
            json!(["out", "!node_modules/"]),
            &["'!node_modules/' excludes nothing: ", "!**/node_modules/"],
        ),
        (
            "typo",
            json!(["out", "!out/secerts"]),
            &["'!out/secerts' excludes nothing\n"],
        ),
        ("other", json!(["out", "!web/a"]), &["'!web/a' excludes nothing\n"]),
        (
            "again",
            json!(["out", "!out/id.key", "out"]),
            &["'!out/id.key' excludes nothing\n"],
        ),
        ("key", json!(["out", "!**/*.key"]), &[]),
        ("folder", json!(["**/*.js", "!web"]), &[]),
        ("dots", json!(["out", "!**/.git"]), &[]),
        ("two", json!(["out", "!**/*.key", "!out/id.key"]), &[]),
        (
            "link",
            json!(["current"]),
            &["'current' is a link, and what it leads to, 'release-1.2', is not among"],
        ),
        ("links", json!(["c*", "release-1.2"]), &[]),
        ("deep", json!(["web/up", "release-1.2/f"]), &[]),
        ("away", json!(["abs"]), &["'abs' is a link"]),
        (
            "slash",
            json!(["out", "current/"]),
            &["'current' is a link, and a pattern that ends with /"],
        ),
    ] {
        let ticket = bench.ticket(id, json!({ "artifacts": patterns }));
        let workspace = ticket.join("workspace");
        for file in [
            "out/id.key",
            "out/b",
            "out/.git/x",
            "web/a",
            "web/x.js",
            "y.js",
            "release-1.2/f",
        ] {
            fs::create_dir_all(workspace.join(file).parent().unwrap()).unwrap();
            fs::write(workspace.join(file), file).unwrap();
        }
        symlink("release-1.2", workspace.join("current")).unwrap();
        symlink("../release-1.2/./f", workspace.join("web/up")).unwrap();
        symlink("/etc/passwd", workspace.join("abs")).unwrap();
        assert_eq!(bench.work(&ticket), "0", "{patterns}: {}", console(&ticket));
        let said = console(&ticket);
        for line in lines {
            assert!(said.contains(line), "{patterns}: {said}");
        }
        let odd = ["excludes nothing", "is a link"]
            .iter()
            .any(|words| said.contains(words));
        assert_eq!(odd, !lines.is_empty(), "{patterns}: {said}");
    }
}
