//! The pages, files and addresses: what is shown of the tree and to whom.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::*;

#[test]
fn every_page_is_there_and_says_what_it_is_about() {
    let web = Web::start("pages", &[]);
    web.page_with("/", "/jobs/hello/builds/1");
    for (path, what) in [
        ("/jobs", "hello"),
        ("/?q=HELL", "/jobs/hello/builds/1"),
        ("/?q=absent", "No job fits"),
        ("/?state=failing", "/jobs/hello/builds/1"),
        ("/jobs/hello", "task 0-unit: exit 1"),
        ("/jobs/hello/builds/1", "the last line"),
        ("/jobs/hello/builds/1", "&#60;b&#62;main"),
        (
            "/jobs/hello/builds/1/console",
            "<span class=\"f1\">two &lt;script&gt;</span>",
        ),
        ("/jobs/hello/builds/1/console?q=needle", "<mark>needle</mark>"),
        ("/jobs/hello/builds/1/console?line=2", "id=\"L2\""),
        ("/jobs/hello/builds/1/tasks/0-unit/console", "of the task"),
        ("/jobs/hello/builds/1/artifacts", "page.html"),
        ("/tickets", "hello.1.0"),
        ("/tickets/execute-shell", "hello.1.0"),
        ("/nodes", "waiting"),
    ] {
        let got = web.page(path);
        assert_eq!(got.status, 200, "{path}");
        if path != "/nodes" {
            assert!(got.text().contains(what), "{what} is not in {path}:\n{}", got.text());
        }
        let policy = got.header("content-security-policy").unwrap();
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self'"),
            "{path}: {policy}"
        );
        assert_eq!(
            got.header("x-content-type-options").as_deref(),
            Some("nosniff"),
            "{path}"
        );
        assert!(!got.text().contains("style=\""), "{path}");
    }
    for (path, what) in [
        ("/badge/hello.svg", "failure"),
        ("/feed/hello.atom", "<title>hello 1: failure</title>"),
        ("/healthz", "ok"),
        ("/metrics", "web_tree_up 1"),
        ("/status", "store embedded"),
        ("/jobs/hello/builds/1/state", "failure"),
    ] {
        let got = web.ask(path, "");
        assert_eq!(
            (got.status, got.text().contains(what)),
            (200, true),
            "{path}: {}",
            got.text()
        );
    }
    let json = web.ask("/jobs/hello/builds/1", "Accept: application/json\r\n");
    let json: serde_json::Value = serde_json::from_slice(&json.body).unwrap();
    assert_eq!(json["tasks"][0]["exit"], 1);
    let badge = web.ask("/badge/hello.svg", "");
    assert_eq!(
        badge.header("cross-origin-resource-policy").as_deref(),
        Some("cross-origin")
    );
}

/// What reports of tests said stands on the pages of the build and the job, as text; what is no report is told so.
#[test]
fn tests_that_failed_are_named() {
    let web = Web::start("reports", &[]);
    let reports = web.tree("jobs/hello/builds/1/artifacts/reports");
    write(
        &reports.join("0.json"),
        r#"{"task":"0","files":2,"tests":120,"failures":51,"errors":1,"skipped":3,"seconds":12.34,
            "failed":[{"name":"a.B.<b>works","kind":"failure","message":"expected 1\u202e","text":"at <a>:7\nat b"},
            {"name":"second","kind":"error","message":"","text":""}],"more":50,"faults":["c.xml: <odd>"]}"#,
    );
    write(&reports.join("1.json"), "{\"tests\": 1,");
    write(&reports.join("x.json"), "{}");
    let page = web.page("/jobs/hello/builds/1").text();
    for what in [
        "120 tests, 51 failed, 1 could not be carried out, 3 skipped; 12.3 s",
        "a.B.&#60;b&#62;works</b> expected 1\\u{202e}",
        "at &#60;a&#62;:7\nat b</pre>",
        "50 more did not go well",
        "c.xml: &#60;odd&#62;",
        "can&#39;t be read: EOF",
    ] {
        assert!(page.contains(what), "{what} is not in:\n{page}");
    }
    assert!(web.page("/jobs/hello").text().contains("120 tests, 51 failed"));
    let json = web.ask("/jobs/hello/builds/1", "Accept: application/json\r\n");
    let json: serde_json::Value = serde_json::from_slice(&json.body).unwrap();
    assert_eq!(json["reports"][0]["failed"][1]["name"], "second");
    assert_eq!(json["build"], 1);
}

/// What differs between two builds is shown, and nothing else.
#[test]
fn two_builds_are_compared() {
    let web = Web::start("difference", &[]);
    let build = web.tree("jobs/hello/builds/2");
    write(
        &build.join("build.json"),
        r#"{"job":"hello","build":2,"state":"success","triggered":1796063284965,"finished":1796063291986,"commit":"<c0ffee>",
            "params":{"branch":"<b>main</b>","fast":true},"tasks":[{"index":0,"name":"unit","state":"success","exit":0}]}"#,
    );
    write(&build.join("state"), "success\n");
    write(&build.join("config.json"), "{\"tasks\": [1, 3], \"a\": 1}");
    write(
        &web.tree("jobs/hello/builds/1/config.json"),
        "{\"a\":1,\"tasks\":[1,2]}",
    );
    write(&build.join("artifacts/a.txt"), "0123456780");
    write(&build.join("artifacts/page.html"), "<script>alert(1)</script>");
    write(&build.join("artifacts/new/<x>"), "x");
    let page = web.page("/jobs/hello/builds/2?against=1");
    assert_eq!(page.status, 200);
    let page = page.text();
    for what in [
        "<td class=\"value\">failure, exit 1</td><td class=\"value\">success, exit 0</td>",
        "&#60;c0ffee&#62;",
        "<th scope=\"row\">fast</th><td class=\"value\">–</td><td class=\"value\">true</td>",
        "<td class=\"value\">10 bytes</td><td class=\"value\">10 bytes, other bytes</td>",
        "new/&#60;x&#62;",
        "-     2\n+     3\n",
    ] {
        assert!(page.contains(what), "{what} is not in:\n{page}");
    }
    assert!(!page.contains("page.html") && !page.contains(">branch<"), "{page}");
    assert!(web.page("/jobs/hello/builds/2").text().contains("?against=1"));
    assert_eq!(web.page("/jobs/hello/builds/2?against=9").status, 404);
    let json = web.ask("/jobs/hello/builds/2?against=2", "Accept: application/json\r\n");
    let json: serde_json::Value = serde_json::from_slice(&json.body).unwrap();
    for part in ["facts", "params", "config", "tasks", "artifacts"] {
        assert_eq!(json[part], serde_json::json!([]), "{part}");
    }
}

/// "Whoever mounted the tree himself must say `--token-file`", also if it was away when web began.
#[test]
fn who_mounted_shows_nothing_without_a_token() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("this needs root, who becomes somebody");
        return;
    }
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("web-own-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    let web = Web::on(folder, &["--user", "nobody"]);
    assert_eq!(web.page("/").status, 503);
    tree(&web.tree(""));
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    nix::unistd::chown(&web.tree(""), Some(nobody.uid), None).unwrap();
    for path in ["/", "/jobs/hello", "/jobs/hello/builds/1/console", "/healthz"] {
        let got = web.page(path);
        assert_eq!((got.status, got.text().contains("--token-file")), (503, true), "{path}");
    }
    nix::unistd::chown(&web.tree(""), Some(nix::unistd::Uid::from_raw(0)), None).unwrap();
    web.page_with("/", "/jobs/hello/builds/1");
}

/// A redirect leads to a path of ours, with the query that it came with, whatever names are in it.
#[test]
fn redirects_stay_here() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("web-redirects-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    tree(&folder.join("tree"));
    let token = folder.join("token").display().to_string();
    let user = nix::unistd::geteuid().is_root().then_some(["--user", "nobody"]);
    let mut words = vec!["--token-file", &token];
    words.extend(user.iter().flatten());
    let web = Web::on(folder, &words);
    let build = web.tree("jobs/h\u{f6} %2f/builds/3");
    write(&build.join("state"), "success\n");
    symlink("3", build.parent().unwrap().join("latest")).unwrap();
    for (path, to) in [
        (
            "/jobs/hello/builds/latest/console?line=2",
            "/jobs/hello/builds/1/console?line=2",
        ),
        (
            "/jobs/hello/builds/latest/console?end",
            "/jobs/hello/builds/1/console?end",
        ),
        (
            "/jobs/hello/builds/1/tasks/0-unit?q=a%20b",
            "/jobs/hello/builds/1/tasks/0-unit/console?q=a%20b",
        ),
        ("/jobs/h%C3%B6%20%252f/builds/latest", "/jobs/h%C3%B6%20%252f/builds/3"),
        ("/jobs/h%C3%B6%20%252f/builds", "/jobs/h%C3%B6%20%252f"),
    ] {
        let got = web.ask(path, "");
        assert_eq!(
            (got.status, got.header("location").as_deref()),
            (302, Some(to)),
            "{path}"
        );
    }
    let token = fs::read_to_string(web.folder.join("token")).unwrap();
    for (path, to) in [
        ("//evil.example/", "/"),
        ("/\\evil.example/", "/%5Cevil.example/"),
        ("/%5Cevil.example/", "/%5Cevil.example/"),
        ("/%2F%2Fevil.example/", "/"),
    ] {
        let got = web.ask(&format!("{path}?token={}", token.trim()), "");
        if got.status != 400 {
            assert_eq!(
                (got.status, got.header("location").as_deref()),
                (302, Some(to)),
                "{path}"
            );
        }
    }
}

/// "Files open without following links and without leaving the mount; no path that begins with a dot is ever opened."
#[test]
fn nothing_is_opened_but_what_is_listed() {
    let web = Web::start("closed", &[]);
    let artifacts = web.tree("jobs/hello/builds/1/artifacts");
    write(&web.folder.join("outside/secret"), "SECRET");
    write(&web.tree("jobs/.trash/x"), "SECRET");
    write(&web.tree(".events.old"), "SECRET");
    write(&artifacts.join(".hidden"), "SECRET");
    write(&web.tree("tickets/execute-shell/hello.1.0/params/password"), "SECRET");
    write(&web.tree("tickets/execute-shell/hello.1.0/ticket.json"), "SECRET");
    symlink(web.folder.join("outside/secret"), artifacts.join("link")).unwrap();
    symlink(web.folder.join("outside"), artifacts.join("folder")).unwrap();
    symlink("../../../../../../outside", artifacts.join("up")).unwrap();
    symlink("a.txt", artifacts.join("near")).unwrap();
    nix::unistd::mkfifo(&artifacts.join("fifo"), nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
    let place = "/jobs/hello/builds/1/artifacts";
    for path in [
        "/jobs/.trash",
        "/jobs/.trash/x",
        "/.events.old",
        "/%2eevents.old",
        "/jobs/../.events.old",
        "/jobs/hello/../../.events.old",
        "/jobs/%2e%2e/%2eevents.old",
        "/jobs/hello/builds/1/tasks/0-unit/../../state",
        "/tickets/execute-shell/hello.1.0",
        "/tickets/execute-shell/hello.1.0/ticket.json",
        "/tickets/execute-shell/hello.1.0/params/password",
        "/jobs/hello/trigger",
        "/jobs/hello/builds/1/ctl",
        "/jobs/hello/builds/01x",
        "/jobs/hello/builds/99999999999999999999999",
        "//etc/passwd",
        "/etc/passwd",
    ] {
        for accept in ["Accept: text/html\r\n", ""] {
            let got = web.ask(path, accept);
            assert!(matches!(got.status, 400 | 404), "{path}: {}", got.status);
            assert!(!got.text().contains("SECRET"), "{path}");
        }
    }
    for name in [
        "link",
        "folder",
        "folder/secret",
        "up",
        "up/secret",
        "near",
        "fifo",
        ".hidden",
        "%2ehidden",
        "..",
        "../state",
        "%2e%2e/state",
        "a.txt/x",
        "x%00y",
        "..%2f..%2fstate",
    ] {
        let got = web.ask(&format!("{place}/{name}"), "");
        assert!(matches!(got.status, 400 | 404), "{name}: {}", got.status);
        assert!(!got.text().contains("SECRET"), "{name}");
    }
    let list = web.page(place).text();
    assert!(list.contains("link, not followed") && !list.contains(".hidden"));
}

/// "Whoever it runs as, visitors see what `other` may read."
#[test]
fn what_is_closed_to_others_is_not_shown() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("this needs root: anybody else shows his own tree to who has a token");
        return;
    }
    let web = Web::start("modes", &[]);
    web.page_with("/", "/jobs/hello/builds/1");
    let mode = |path: &str, mode: u32| {
        fs::set_permissions(web.tree(path), PermissionsExt::from_mode(mode)).unwrap();
    };
    mode("jobs/hello/config.json", 0o640);
    mode("jobs/hello/builds/1/build.json", 0o640);
    assert_eq!(web.ask("/jobs/hello/config.json", "").status, 403);
    assert_eq!(web.ask("/jobs/hello/builds/1/build.json", "").status, 403);
    // What is open of it is shown all the same.
    web.page_with("/jobs/hello/builds/1", "task 0-unit: exit 1");
    assert!(!web.page("/jobs/hello/builds/1").text().contains("branch"));
    mode("jobs/hello", 0o750);
    for path in [
        "/jobs/hello",
        "/jobs/hello/builds/1",
        "/jobs/hello/builds/1/console",
        "/jobs/hello/builds/1/artifacts/a.txt",
        "/badge/hello.svg",
        "/feed/hello.atom",
    ] {
        assert_eq!(web.page(path).status, 403, "{path}");
    }
    let list = web.page_with("/", "closed to others");
    assert!(!list.contains("/jobs/hello/builds/1"));
}

#[test]
fn names_that_are_not_ours_and_tokens_that_are_wrong_are_refused() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("web-names-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    tree(&folder.join("tree"));
    let token = folder.join("token").display().to_string();
    let user = nix::unistd::geteuid().is_root().then_some(["--user", "nobody"]);
    let mut words = vec!["--host", "ci.example.org", "--base-path", "/ci", "--token-file", &token];
    words.extend(user.iter().flatten());
    let web = Web::on(folder, &words);
    let wrong =
        |headers: &str| parsed(&web.raw(format!("GET /ci/ HTTP/1.1\r\n{headers}Connection: close\r\n\r\n").as_bytes()));
    assert_eq!(wrong("Host: evil.example\r\n").status, 421);
    assert_eq!(wrong("").status, 421);
    assert_eq!(wrong("Host: ci.example.org\r\nHost: evil.example\r\n").status, 421);
    assert_eq!(wrong("Host: ci.example.org\r\n").status, 401);
    assert_eq!(
        wrong("Host: ci.example.org\r\nAuthorization: Bearer wrong\r\n").status,
        401
    );
    let got = web.ask("/ci/", "Host: ci.example.org\r\nAccept: text/html\r\n");
    assert_eq!(got.status, 200);
    assert!(got.text().contains("href=\"/ci/tickets\""));
    assert_eq!(web.ask("/jobs", "").status, 404);
    let said = fs::read_to_string(&token).unwrap();
    let host = format!("Host: 127.0.0.1:{}\r\n", web.port);
    let request = format!(
        "GET /ci/jobs?q=x&token={} HTTP/1.1\r\n{host}Connection: close\r\n\r\n",
        said.trim()
    );
    let got = parsed(&web.raw(request.as_bytes()));
    assert_eq!(
        (got.status, got.header("location").as_deref()),
        (302, Some("/ci/jobs?q=x"))
    );
    let cookie = got.header("set-cookie").unwrap();
    assert!(cookie.contains("HttpOnly; SameSite=Lax") && !cookie.contains(said.trim()));
    let cookie = format!("{host}Cookie: {}\r\n", cookie.split(';').next().unwrap());
    assert_eq!(wrong(&cookie).status, 200);
}

#[test]
fn files_come_whole_or_in_part_and_nothing_of_them_runs() {
    let web = Web::start("files", &[]);
    let place = "/jobs/hello/builds/1/artifacts";
    let got = web.ask(&format!("{place}/a.txt"), "Range: bytes=2-4\r\n");
    assert_eq!((got.status, got.text().as_str()), (206, "234"));
    assert_eq!(got.header("content-range").as_deref(), Some("bytes 2-4/10"));
    assert_eq!(web.ask(&format!("{place}/a.txt"), "Range: bytes=10-\r\n").status, 416);
    assert_eq!(
        web.ask(&format!("{place}/a.txt"), "Range: bytes=0-1,5-6\r\n").status,
        200
    );
    let whole = web.ask(&format!("{place}/a.txt"), "");
    let tag = whole.header("etag").unwrap();
    assert_eq!(
        web.ask(&format!("{place}/a.txt"), &format!("If-None-Match: {tag}\r\n"))
            .status,
        304
    );
    let stale = web.ask(&format!("{place}/a.txt"), "Range: bytes=2-4\r\nIf-Range: \"other\"\r\n");
    assert_eq!(stale.status, 200);
    let page = web.page(&format!("{place}/page.html"));
    assert!(
        page.header("content-security-policy")
            .unwrap()
            .starts_with("sandbox; default-src 'none'")
    );
    assert_eq!(page.header("x-content-type-options").as_deref(), Some("nosniff"));
    let odd = "a \"q\" <b> \u{202e}x.pdf";
    write(&web.tree(&format!("jobs/hello/builds/1/artifacts/{odd}")), "%PDF");
    let list = web.page(place).text();
    assert!(list.contains("&#60;b&#62; \\u{202e}x.pdf"), "{list}");
    assert!(list.contains("a%20%22q%22%20%3Cb%3E%20%E2%80%AEx.pdf"));
    let got = web.page(&format!("{place}/a%20%22q%22%20%3Cb%3E%20%E2%80%AEx.pdf"));
    assert!(got.header("content-disposition").unwrap().starts_with("attachment;"));
    assert_eq!(
        web.ask("/jobs/hello/builds/1/console", "Range: bytes=0-2\r\n").text(),
        "one"
    );
}

#[test]
fn requests_that_are_none_of_ours() {
    let web = Web::start("requests", &[]);
    let host = format!("Host: 127.0.0.1:{}\r\n", web.port);
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"] {
        let got = parsed(&web.raw(format!("{method} / HTTP/1.1\r\n{host}Content-Length: 0\r\n\r\n").as_bytes()));
        assert_eq!(got.status, 405, "{method}");
    }
    let long = format!("GET /{} HTTP/1.1\r\n{host}\r\n", "a".repeat(70_000));
    assert!(matches!(parsed(&web.raw(long.as_bytes())).status, 400 | 414 | 431));
    let many = format!("GET / HTTP/1.1\r\n{host}{}\r\n", "X-A: b\r\n".repeat(1000));
    assert!(matches!(parsed(&web.raw(many.as_bytes())).status, 400 | 431));
    for nonsense in [&b"\x16\x03\x01\x02\x00"[..], b"GET\r\n\r\n", b"\0\0\0\0\r\n\r\n"] {
        assert!(matches!(parsed(&web.raw(nonsense)).status, 0 | 400));
    }
    assert_eq!(web.page("/").status, 200);
}

/// A tree that goes is told, and comes back by itself; so does a build that is removed while it is looked at.
#[test]
fn a_tree_that_is_away_is_503_and_comes_back() {
    let web = Web::start("away", &[]);
    web.page_with("/", "/jobs/hello/builds/1");
    fs::rename(web.folder.join("tree"), web.folder.join("gone")).unwrap();
    let got = web.page("/jobs/hello");
    assert_eq!((got.status, got.header("retry-after").as_deref()), (503, Some("5")));
    assert!(got.text().contains("http-equiv=\"refresh\""));
    assert_eq!(web.ask("/healthz", "").status, 503);
    // What it was mounted on is there without it, and empty.
    fs::create_dir(web.folder.join("tree")).unwrap();
    assert_eq!(web.page("/").status, 503);
    fs::remove_dir(web.folder.join("tree")).unwrap();
    fs::rename(web.folder.join("gone"), web.folder.join("tree")).unwrap();
    assert_eq!(web.page("/jobs/hello").status, 200);
    fs::remove_dir_all(web.tree("jobs/hello/builds/1")).unwrap();
    assert_eq!(web.page("/jobs/hello/builds/1").status, 404);
    assert_eq!(web.page("/jobs/hello").status, 200);
}

/// Sizes are rounded and values are cut where they are shown, not where they are compared.
#[test]
fn what_looks_alike_is_not_the_same() {
    let web = Web::start("alike", &[]);
    let long = "x".repeat(500);
    let task = r#"{"index":0,"name":"a","state":"success","exit":0}"#;
    for (number, odd, end, bytes) in [
        (2, &b"\xff"[..], "one", 1_572_864),
        (3, &b"\\xff"[..], "two", 1_572_900),
    ] {
        let build = web.tree(&format!("jobs/hello/builds/{number}"));
        let tasks = vec![task; 1001].join(",");
        write(
            &build.join("build.json"),
            format!(
                r#"{{"job":"hello","build":{number},"state":"success","params":{{"long":"{long}{end}"}},"tasks":[{tasks}]}}"#
            ),
        );
        write(&build.join("state"), "success\n");
        write(&build.join("config.json"), "{}");
        write(&build.join("artifacts/app.bin"), "");
        let app = fs::File::options().write(true).open(build.join("artifacts/app.bin"));
        app.unwrap().set_len(bytes).unwrap();
        write(&build.join("artifacts").join(OsStr::from_bytes(odd)), "x");
    }
    let page = web.page("/jobs/hello/builds/3?against=2").text();
    for what in [
        "<td class=\"value\">1572864 bytes</td><td class=\"value\">1572900 bytes</td>",
        "xone&#34;</td>",
        "xtwo&#34;</td>",
        "<th scope=\"row\">\\xff</th><td class=\"value\">1 bytes</td><td class=\"value\">–</td>",
        "<th scope=\"row\">\\xff</th><td class=\"value\">–</td><td class=\"value\">1 bytes</td>",
        "Only the first 1000 tasks of each build are compared",
    ] {
        assert!(page.contains(what), "{what} is not in:\n{page}");
    }
}

/// One folder that others may not list does not keep them from all else.
#[test]
fn a_folder_that_is_closed_closes_no_comparison() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("this needs root: anybody else shows his own tree to who has a token");
        return;
    }
    let web = Web::start("closed-folder", &[]);
    let build = web.tree("jobs/hello/builds/2");
    write(
        &build.join("build.json"),
        r#"{"job":"hello","build":2,"state":"success"}"#,
    );
    write(&build.join("state"), "success\n");
    write(&build.join("artifacts/a.txt"), "012345678");
    write(&build.join("artifacts/closed/x"), "x");
    fs::set_permissions(build.join("artifacts/closed"), PermissionsExt::from_mode(0o711)).unwrap();
    let page = web.page("/jobs/hello/builds/2?against=1");
    assert_eq!(page.status, 200);
    let page = page.text();
    for what in ["<td class=\"value\">9 bytes</td>", "could not be looked at"] {
        assert!(page.contains(what), "{what} is not in:\n{page}");
    }
}
