//! The web page in a real browser: Chromium, driven by WebDriver. Live consoles, search, links, a walk by keyboard, a
//! narrow screen, dark, without JavaScript, and what hostile builds write. With DISTCIFS_AXE=FILE (axe.min.js of
//! axe-core) each page is also held against WCAG 2.2 AA. Screenshots are kept in target/browser.

use std::fs;
use std::time::Duration;

use distcifs_tests::browser::{Browser, Driver, Look};
use distcifs_tests::programs::{installed, project};
use distcifs_tests::{Mount, Web, Worker};
use serde_json::json;

/// Text that would run, break out or hide, were it not shown as text.
const HOSTILE: &str = "<script>document.title='owned'</script><img src=x onerror=document.title='owned'>";

const WIDE: Look = Look {
    width: 1280,
    dark: false,
    script: true,
};

/// Keeps a picture, and sees that nothing is wider than the screen.
fn keep(browser: &Browser<'_>, name: &str) {
    let folder = project().join("target/browser");
    fs::create_dir_all(&folder).expect("own folder");
    let look = browser.look();
    let dark = if look.dark { "-dark" } else { "" };
    browser.picture(&folder.join(format!("{name}-{}{dark}.png", look.width)));
    if look.script {
        let wide = browser.run("return document.documentElement.scrollWidth - innerWidth");
        assert!(
            wide.as_i64().is_some_and(|wide| wide <= 0),
            "{name} is {wide} wider than the screen"
        );
    }
}

/// Holds a page against WCAG, where axe-core is at hand.
fn check(browser: &Browser<'_>, name: &str) {
    let Some(file) = std::env::var_os("DISTCIFS_AXE") else {
        return;
    };
    let axe = fs::read_to_string(file).expect("DISTCIFS_AXE names a file");
    browser.run(&format!("{axe};return 1"));
    let rules = "{runOnly:['wcag2a','wcag2aa','wcag21a','wcag21aa','wcag22aa']}";
    let script = format!(
        "const done = arguments[arguments.length - 1];
         axe.run(document, {rules}).then(r => done(r.violations.map(v => v.id + ': ' + v.nodes[0].html)))"
    );
    assert_eq!(
        browser.run_to_end(&script),
        json!([]),
        "{name} at {}",
        browser.look().width
    );
}

/// A mount with builds to look at: one that ended well, one that failed, one that is hostile, one that waits for a file.
struct Scene {
    mount: Mount,
    _workers: Vec<Worker>,
    web: Web,
}

impl Scene {
    fn new() -> Scene {
        let mount = Mount::new();
        let workers = Worker::usual(&mount, 2);
        let shell = |name: &str, needs: &[&str], script: &str| json!({ "type": "execute-shell", "name": name, "needs": needs, "params": { "script": script } });
        mount.job_of(
            "library",
            &[
                shell(
                    "compile",
                    &[],
                    "echo ::group::configure; seq -f 'checking header %g ... yes' 1 30; echo ::endgroup::
                     printf '\\033[32mok\\033[0m \\033[1;33mwarning:\\033[0m unused \\033[38;5;208mvalue\\033[0m\\n'
                     for n in 10 60 100; do printf '\\r%s %%' $n; done; echo",
                ),
                shell("unit", &["compile"], "sleep 0.4; seq -f 'test %g passed' 1 1200"),
                shell("docs", &["compile"], "sleep 0.2; echo pages written"),
                shell("package", &["unit", "docs"], "echo done"),
            ],
        );
        mount.shell_job("broken", &["echo begins; echo 'src/parse.c:17: expected ;'; exit 2"]);
        let hostile = format!("cat <<'EOF'\n{HOSTILE}\nEOF\nprintf '\\033]0;title\\007\\033[2Jx\\342\\200\\256y\\n'");
        mount.job_of(
            "hostile",
            &[shell(
                "a",
                &[],
                &format!(
                    "{hostile}\nmkdir out; echo '{}' > 'out/<b>.html'",
                    HOSTILE.replace('\'', "")
                ),
            )],
        );
        for job in ["library", "library", "hostile"] {
            mount.build(job, "", "success");
        }
        mount.build("broken", "", "failure");
        let web = Web::start(&mount, &[]);
        Scene {
            mount,
            _workers: workers,
            web,
        }
    }

    /// Names and addresses of pages.
    fn pages(&self) -> Vec<(&'static str, String)> {
        let address = |path: &str| self.web.address(path);
        vec![
            ("jobs", address("/")),
            ("job", address("/jobs/library")),
            ("build", address("/jobs/library/builds/2")),
            ("failed", address("/jobs/broken/builds/1")),
            ("console", address("/jobs/library/builds/2/tasks/0-compile/console")),
            ("search", address("/jobs/library/builds/2/console?q=header%201")),
            ("queues", address("/tickets")),
            ("nodes", address("/nodes")),
            ("absent", address("/jobs/absent")),
        ]
    }
}

/// Every page, wide and narrow, light and dark, with and without the script.
fn every_page(driver: &Driver, scene: &Scene) {
    for (width, dark, script) in [
        (1280, false, true),
        (1280, true, true),
        (360, false, true),
        (360, true, true),
        (360, false, false),
    ] {
        let browser = Browser::open(driver, Look { width, dark, script });
        for (name, address) in scene.pages() {
            browser.go(&address);
            assert!(!browser.text("h1").is_empty(), "{name}");
            let name = if script {
                name.to_owned()
            } else {
                format!("{name}-plain")
            };
            keep(&browser, &name);
            if script {
                check(&browser, &name);
            }
        }
    }
}

/// A console moves while it is looked at, is found by search, and is linked by lines.
fn consoles(driver: &Driver, scene: &Scene) {
    let browser = Browser::open(driver, WIDE);
    let go = scene.mount.out().join("go");
    let script = format!(
        "echo waits; until [ -e {} ]; do sleep 0.05; done; echo '{}'; seq 1 50",
        go.display(),
        "<b>bold</b>"
    );
    scene.mount.shell_job("live", &[&script]);
    let build = scene.mount.trigger("live", "");
    let place = format!("/jobs/live/builds/{build}/console");
    browser.go(&scene.web.address(&place));
    browser.until(
        "the first line",
        "document.getElementById('L1')?.innerText.includes('waits')",
    );
    keep(&browser, "live");
    fs::write(&go, "").expect("own folder");
    browser.until(
        "the last line",
        "document.getElementById('L52')?.innerText.includes('50')",
    );
    browser.until(
        "its end",
        "document.getElementById('state').innerText.includes('success')",
    );
    assert_eq!(
        browser.run("return document.querySelectorAll('#console b').length"),
        json!(0)
    );
    // A link to a line that is not on the page leads to the page that has it.
    let place = "/jobs/library/builds/2/tasks/1-unit/console";
    browser.go(&format!("{}#L1111", scene.web.address(&format!("{place}?line=1"))));
    browser.until(
        "the line",
        "document.querySelector('.at')?.innerText.includes('test 1111 passed')",
    );
    // Groups fold.
    browser.go(&scene.web.address("/jobs/library/builds/2/tasks/0-compile/console"));
    browser.run("document.querySelector('.gb button').click()");
    browser.until("a folded group", "document.getElementById('L5').hidden");
}

/// Jobs are found as one types; the keyboard alone leads to a build.
fn keyboard(driver: &Driver, scene: &Scene) {
    let browser = Browser::open(driver, WIDE);
    browser.go(&scene.web.address("/"));
    browser.until("jobs", "document.querySelectorAll('tbody tr').length >= 3");
    browser.keys("/");
    browser.keys("libr");
    browser.until("one job", "document.querySelectorAll('tbody tr').length === 1");
    browser.run("document.querySelector('tbody a').focus()");
    // Enter.
    browser.keys("\u{e007}");
    browser.until("the job", "document.querySelector('h1')?.innerText === 'library'");
    // Whatever is reached by tabs is seen to be.
    for _ in 0..12 {
        browser.keys("\u{e004}");
        let seen = "const s = getComputedStyle(document.activeElement); return s.outlineStyle !== 'none'";
        assert_eq!(browser.run(seen), json!(true));
    }
}

/// Nothing that a build writes runs, or gets out of its place.
fn hostile(driver: &Driver, scene: &Scene) {
    let browser = Browser::open(driver, WIDE);
    for path in [
        "/jobs/hostile/builds/1",
        "/jobs/hostile/builds/1/console",
        "/jobs/hostile/builds/1/console?q=%3Cscript%3E",
        "/jobs/hostile/builds/1/workspace/out",
        "/jobs/hostile/builds/1/workspace/out/%3Cb%3E.html",
    ] {
        browser.go(&scene.web.address(path));
        std::thread::sleep(Duration::from_millis(200));
        assert_ne!(browser.title(), "owned", "{path}");
    }
    browser.go(&scene.web.address("/jobs/hostile/builds/1/console"));
    assert_eq!(
        browser.run("return document.querySelectorAll('#console img, #console script').length"),
        json!(0)
    );
    keep(&browser, "hostile");
}

#[test]
fn people_see_what_they_should() {
    if !installed("chromedriver") || !installed("chromium") {
        return;
    }
    let (driver, scene) = (Driver::start(), Scene::new());
    every_page(&driver, &scene);
    consoles(&driver, &scene);
    keyboard(&driver, &scene);
    hostile(&driver, &scene);
}
