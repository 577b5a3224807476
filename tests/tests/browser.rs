//! The web page in a real browser: Chromium, driven by WebDriver. Live consoles, search, links, a walk by keyboard, a
//! narrow screen, dark, without JavaScript, and what hostile builds write. With DISTCIFS_AXE=FILE (axe.min.js of
//! axe-core) each page is also held against WCAG 2.2 AA. Screenshots are kept in target/browser.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use distcifs_tests::browser::{Browser, Driver, Look};
use distcifs_tests::programs::{installed, project};
use distcifs_tests::wait::USUAL;
use distcifs_tests::{Mount, Web, Worker, wait_for};
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
        // Through a proxy it is reached by another port.
        let web = Web::start(&mount, &["--host", "127.0.0.1"]);
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
            ("difference", address("/jobs/library/builds/2?against=1")),
            ("queues", address("/tickets")),
            ("nodes", address("/nodes")),
            ("absent", address("/jobs/absent")),
        ]
    }
}

/// A proxy that can break: then all that it holds ends, and whoever asks gets 502.
struct Proxy {
    port: u16,
    state: Arc<ProxyState>,
}

#[derive(Default)]
struct ProxyState {
    /// What it holds; none while it is broken.
    open: Mutex<Option<Vec<TcpStream>>>,
    refused: AtomicUsize,
}

impl Proxy {
    fn start(to: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("it listens").port();
        let state = Arc::new(ProxyState::default());
        let serving = state.clone();
        std::thread::spawn(move || {
            listener
                .incoming()
                .flatten()
                .for_each(|client| serving.serve(client, to))
        });
        let proxy = Proxy { port, state };
        proxy.mend();
        proxy
    }

    fn mend(&self) {
        *self.state.open.lock().expect("nobody panics with it") = Some(Vec::new());
    }

    fn fail(&self) {
        let open = self.state.open.lock().expect("nobody panics with it").take();
        for stream in open.into_iter().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl ProxyState {
    fn serve(self: &Arc<Self>, mut client: TcpStream, to: u16) {
        let mut open = self.open.lock().expect("nobody panics with it");
        let Some(held) = open.as_mut() else {
            drop(open);
            let _ = client.read(&mut [0; 4096]);
            let _ = client.write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            self.refused.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let server = TcpStream::connect(("127.0.0.1", to)).expect("web listens");
        let again = |stream: &TcpStream| stream.try_clone().expect("a descriptor");
        held.extend([again(&client), again(&server)]);
        for (mut from, mut to) in [(again(&client), again(&server)), (server, client)] {
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Both);
            });
        }
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

/// A live console goes on where it was, also after a proxy had nothing but 502 for a while.
fn broken_connections(driver: &Driver, scene: &Scene) {
    let browser = Browser::open(driver, WIDE);
    let go = |number: u32| scene.mount.out().join(format!("step{number}"));
    let wait = |number| format!("until [ -e {} ]; do sleep 0.05; done", go(number).display());
    let script = format!("echo first; {}; echo second; {}; echo third", wait(1), wait(2));
    scene.mount.shell_job("steps", &[&script]);
    let build = scene.mount.trigger("steps", "");
    let proxy = Proxy::start(scene.web.port());
    let address = scene
        .web
        .address(&format!("/jobs/steps/builds/{build}/tasks/0-execute-shell/console"));
    browser.go(&address.replace(&format!(":{}/", scene.web.port()), &format!(":{}/", proxy.port)));
    let line = |number: u32, text: &str| format!("document.getElementById('L{number}')?.innerText.includes('{text}')");
    browser.until("the first line", &line(1, "first"));
    fs::write(go(1), "").expect("own folder");
    browser.until("the second line", &line(2, "second"));
    proxy.fail();
    // The browser gives up at the first refusal, and the page asks again.
    wait_for("refusals", USUAL, || proxy.state.refused.load(Ordering::Relaxed) > 1);
    assert!(browser.text("#link").contains("not connected"));
    proxy.mend();
    fs::write(go(2), "").expect("own folder");
    browser.until("the third line", &line(3, "third"));
    let lines = browser.run("return [...document.querySelectorAll('#console .l>span')].map(e => e.textContent)");
    assert_eq!(lines, json!(["first", "second", "third"]));
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
    // Keys of one letter can be switched off, and stay so.
    browser.run("document.getElementById('keys').click()");
    browser.go(&scene.web.address("/"));
    browser.keys("/");
    assert_eq!(browser.run("return document.activeElement.tagName"), json!("BODY"));
    browser.run("document.getElementById('keys').click()");
    browser.keys("/");
    assert_eq!(browser.run("return document.activeElement.tagName"), json!("INPUT"));
    // One tab leads to the lines of a console, arrows from one to the next, and Enter to the link.
    browser.go(&scene
        .web
        .address("/jobs/library/builds/2/tasks/0-compile/console?line=1"));
    browser.run("document.getElementById('console').focus()");
    browser.keys("\u{e004}");
    let at = "return document.activeElement.getAttribute('href')";
    assert_eq!(browser.run(at), json!("#L1"));
    // Down, down, up.
    for key in ["\u{e015}", "\u{e015}", "\u{e013}"] {
        browser.keys(key);
    }
    assert_eq!(browser.run(at), json!("#L2"));
    browser.keys("\u{e007}");
    browser.until(
        "the line's mark",
        "document.getElementById('L2').classList.contains('at')",
    );
    browser.go(&scene.web.address("/jobs/library"));
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
    broken_connections(&driver, &scene);
    keyboard(&driver, &scene);
    hostile(&driver, &scene);
}
