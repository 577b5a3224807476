//! The web page on a real mount: what builds do is seen there, what is closed is not, and it outlives the mount.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use distcifs_tests::folder::is_mounted;
use distcifs_tests::programs::compile;
use distcifs_tests::wait::USUAL;
use distcifs_tests::{Folder, HELLO, Mount, Sh, Web, Worker, process, wait_for};
use nix::sys::signal::Signal;
use nix::unistd::geteuid;

/// A build is followed from its trigger to its end, on every page that shows it.
#[test]
fn a_build_is_seen_as_it_goes_on() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    let web = Web::start(&mount, &[]);
    let go = mount.out().join("go");
    let script = format!(
        "echo first; printf 'half'; until [ -e {} ]; do sleep 0.05; done; echo ' line'; printf '\\033[31mred\\033[0m\\n'",
        go.display()
    );
    mount.shell_job("slow", &[&script]);
    let mut front = web.stream("/", "");
    front.until("</main>");
    let build = mount.trigger("slow", "");
    front.until("s-running");
    let place = format!("/jobs/slow/builds/{build}");
    let mut page = web.stream(&place, "");
    let mut console = web.stream(&format!("{place}/tasks/0-execute-shell/console?after=0"), "");
    console.until("first");
    console.until("l part");
    page.until("s-running");
    fs::write(&go, "").expect("own folder");
    let text = console.until("<span class=\"f1\">red</span>");
    assert!(text.contains("half line"), "{text}");
    console.until("event: end");
    page.until("s-success");
    front.until("s-success");
    assert_eq!(mount.wait_state("slow", build), "success");
    let (status, body) = web.get(&format!("{place}/console"), "");
    assert_eq!(
        (status, String::from_utf8_lossy(&body).into_owned()),
        (200, mount.raw(&format!("{}/console", &place[1..])))
    );
    let (_, json) = web.get(&place, "Accept: application/json\r\n");
    let json: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
    assert_eq!(
        (&json["state"], &json["tasks"][0]["state"]),
        (&"success".into(), &"success".into())
    );
    web.page_with("/nodes", "execute-shell");
    web.page_with("/jobs/slow", "s-success");
}

/// "Visitors see what `other` may read": of a job that is closed, its name alone.
#[test]
fn a_private_job_is_private() {
    if !geteuid().is_root() {
        return;
    }
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    mount.job("open", HELLO);
    mount.job("private", HELLO);
    let build = mount.build("private", "", "success");
    let web = Web::start(&mount, &[]);
    web.page_with("/", &format!("/jobs/private/builds/{build}"));
    let mode = |mode| fs::set_permissions(mount.path("jobs/private"), PermissionsExt::from_mode(mode));
    mode(0o750).expect("root may");
    for path in [
        "",
        "/builds/1",
        "/builds/1/console",
        "/builds/1/state",
        "/builds/1/artifacts",
        "/config.json",
    ] {
        assert_eq!(web.page(&format!("/jobs/private{path}")).0, 403, "{path}");
    }
    assert!(!web.page("/").1.contains("/jobs/private/builds"));
    for queue in ["/tickets", "/tickets/execute-shell"] {
        assert_eq!(web.page(queue).0, 200);
    }
    mode(0o755).expect("root may");
    web.page_with("/", &format!("/jobs/private/builds/{build}"));
    // It has no more rights than it shows.
    let owner = process::owner(web.worker().pid()).expect("it runs");
    assert!(owner != 0 && owner != 65_534, "web runs as {owner}");
}

/// The daemon dies and comes back, and so does the page; a build that is removed is gone, and the page says so.
#[test]
fn it_outlives_the_mount() {
    let mount = Mount::new();
    let workers = Worker::usual(&mount, 1);
    mount.job("hello", HELLO);
    let build = mount.build("hello", "", "success");
    let web = Web::start(&mount, &[]);
    let place = format!("/jobs/hello/builds/{build}");
    let mut page = web.stream(&place, "");
    page.until("</main>");
    drop(workers);
    // Its build waits for a worker, so nothing ends this console.
    let waits = mount.trigger("hello", "");
    let mut console = web.stream(&format!("/jobs/hello/builds/{waits}/console?after=0"), "");
    console.until("event: at");
    mount.kill9();
    page.until("event: away");
    console.until("event: away");
    assert_eq!(web.page(&place).0, 503);
    mount.remount();
    page.until("event: page");
    console.until("event: back");
    // The list of jobs links the newest one.
    web.page_with("/", &format!("/jobs/hello/builds/{waits}"));
    assert_eq!(web.page(&place).0, 200);
    fs::remove_dir_all(mount.path(&place[1..])).expect("it is over");
    page.until("event: gone");
    assert_eq!(web.page(&place).0, 404);
}

/// Who holds a file of his job by a lease holds up that job's row, and no other: nor is the tree away for that.
#[test]
fn what_somebody_holds_is_the_trouble_of_its_job_alone() {
    let mount = Mount::new();
    let _workers = Worker::usual(&mount, 1);
    for job in ["held", "free"] {
        mount.job(job, HELLO);
        assert_eq!(mount.build(job, "", "success"), 1);
    }
    let program = mount.out().join("hold");
    compile("hold.c", &[], &program);
    let program = program.display().to_string();
    let holder = mount.start_words(&[&program, "lease", "jobs/held/builds/1/state"]);
    wait_for("a holder", USUAL, || {
        assert!(holder.alive(), "{}", holder.complaints());
        holder.so_far().contains("held")
    });
    let web = Web::start(&mount, &[]);
    web.page_with("/", "builds/1/state: somebody holds it by a lease");
    let (status, list) = web.page("/");
    assert_eq!((status, list.contains("/jobs/free/builds/1")), (200, true), "{list}");
    let (status, page) = web.page("/jobs/held/builds/1/state");
    assert_eq!((status, page.contains("be read now")), (503, true), "{page}");
    assert_eq!(web.get("/healthz", "").0, 200);
    drop(holder);
    web.page_with("/", "/jobs/held/builds/1");
}

/// `distcifs up --web` starts it and keeps it alive.
#[test]
fn up_starts_it() {
    let folder = Folder::new();
    let repository = folder.repository();
    let mut words = vec!["distcifs", "up", "ci", "--workers", "1", "--web", "127.0.0.1:0"];
    words.splice(2..2, repository.iter().map(String::as_str));
    let home = folder.path();
    let environment = [("HOME", home.as_path()), ("XDG_STATE_HOME", home.as_path())];
    let up = Sh::start(&words, &folder.path(), &folder.out(), &environment);
    let listens = || {
        up.complaints()
            .lines()
            .filter(|line| line.starts_with("web: listening"))
            .count()
    };
    wait_for("web to listen", USUAL, || listens() == 1 || !up.alive());
    assert_eq!(listens(), 1, "{}", up.complaints());
    let mount_point = folder.mount_point();
    // Whoever keeps it does not stand in between.
    let webs = process::find(&format!("{} --listen 127.0.0.1:0", mount_point.display()));
    assert!(!webs.is_empty());
    webs.iter().for_each(|pid| process::signal(*pid, Signal::SIGKILL));
    wait_for("web to listen again", USUAL, || listens() >= 2);
    up.signal(Signal::SIGTERM);
    assert!(up.finish_within(Duration::from_secs(30)).ok());
    assert!(!is_mounted(&mount_point));
}
