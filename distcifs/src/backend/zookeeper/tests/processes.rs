//! Processes that are stopped or killed while they hold a session. The other process is this
//! program again, running the same test with a variable set.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{sleep, timeout};

use super::server::Ensemble;
use super::{PATIENCE, create, ephemeral, options, store};
use crate::backend::zookeeper::{Options, Zookeeper};
use crate::storage::{Coordination, Session};

/// The variable that tells a process that it is the other one, and its servers.
const HOSTS: &str = "DISTCIFS_TEST_HOSTS";

/// The variable with its session file, if it is to have one.
const SESSION_FILE: &str = "DISTCIFS_TEST_SESSION_FILE";

/// The variable with its session timeout, seconds.
const TIMEOUT: &str = "DISTCIFS_TEST_TIMEOUT";

/// The other process; killed with this.
struct Other(Child);

impl Other {
    fn start(test: &str, options: &Options) -> Other {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(env::current_exe().unwrap());
        let module = module_path!().split_once("::").unwrap().1;
        command.args(["--exact", "--ignored", &format!("{module}::{test}")]);
        command.env(HOSTS, options.hosts.join(","));
        command.env(TIMEOUT, options.session_timeout.as_secs().to_string());
        if let Some(file) = &options.session_file {
            command.env(SESSION_FILE, file);
        }
        Other(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }

    fn send(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), signal).unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// What the other process does, for as long as it is let: holds a claim and writes down all the
/// time which session it believes to have. `None` in the test itself.
async fn other_process() -> Option<()> {
    let hosts: Vec<String> = env::var(HOSTS).ok()?.split(',').map(str::to_owned).collect();
    let seconds = env::var(TIMEOUT).unwrap().parse().unwrap();
    let mut options = options(&hosts, Duration::from_secs(seconds));
    options.session_file = env::var_os(SESSION_FILE).map(PathBuf::from);
    let store = Zookeeper::connect(&options).await.unwrap();
    store.commit(vec![ephemeral("/claim")]).await.unwrap();
    let begun = Instant::now();
    for number in 0.. {
        // Not looked at in the condition, where it would stay borrowed and could not change.
        let session = *store.session().borrow();
        if let Session::Live { id } = session {
            // What becomes of it is seen in the store.
            let _ = store
                .commit(vec![create(&format!("/log/{number}"), &id.to_string())])
                .await;
        }
        sleep(Duration::from_millis(1)).await;
        if begun.elapsed() > Duration::from_secs(120) {
            break;
        }
    }
    Some(())
}

/// Waits until the entry is there or not.
async fn wait_for(store: &Zookeeper, path: &str, there: bool) {
    let begun = Instant::now();
    loop {
        store.sync().await.unwrap();
        if store.get(path).await.unwrap().is_some() == there {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{path} is not {there}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Sessions that the other process wrote down, with the position in the order of all commits.
async fn log(store: &Zookeeper) -> Vec<(u64, String)> {
    store.sync().await.unwrap();
    let mut log = Vec::new();
    for name in store.children("/log").await.unwrap() {
        let entry = store.get(&format!("/log/{name}")).await.unwrap().unwrap();
        log.push((entry.created, String::from_utf8(entry.data.to_vec()).unwrap()));
    }
    log.sort();
    log
}

/// A process that was stopped for longer than its session timeout, and whose claim another has
/// taken meanwhile, writes nothing more under its old session when it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ZooKeeper: scripts/test conformance"]
async fn a_stopped_process_is_fenced() {
    if other_process().await.is_some() {
        return;
    }
    let ensemble = Ensemble::start(1);
    let here = store(&ensemble.hosts(), Duration::from_secs(10)).await;
    here.commit(vec![create("/log", "")]).await.unwrap();
    let other = Other::start(
        "a_stopped_process_is_fenced",
        &options(&ensemble.hosts(), Duration::from_secs(1)),
    );
    wait_for(&here, "/claim", true).await;
    sleep(Duration::from_millis(300)).await;
    other.send(Signal::SIGSTOP);
    wait_for(&here, "/claim", false).await;
    here.commit(vec![create("/claim", "")]).await.unwrap();
    let taken = here.get("/claim").await.unwrap().unwrap().created;
    let before = log(&here).await;
    let (last, old) = before.last().expect("something was written");
    assert!(*last < taken);
    other.send(Signal::SIGCONT);
    let after = timeout(PATIENCE, async {
        loop {
            let after = log(&here).await;
            if after.last().unwrap().1 != *old {
                return after;
            }
            sleep(Duration::from_millis(20)).await;
        }
    });
    let after = after.await.expect("a new session comes by itself");
    let late = after
        .iter()
        .filter(|(created, session)| *created > taken && session == old);
    assert_eq!(late.count(), 0);
}

/// A mount that was killed leaves its session behind; when it comes again it ends that at once. It
/// leaves alone what is in use, what is another place's and what it can't read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ZooKeeper: scripts/test conformance"]
async fn a_restarted_mount_ends_its_former_session() {
    const NAME: &str = "a_restarted_mount_ends_its_former_session";
    if other_process().await.is_some() {
        return;
    }
    let ensemble = Ensemble::start(1);
    let here = store(&ensemble.hosts(), Duration::from_secs(10)).await;
    here.commit(vec![create("/log", "")]).await.unwrap();
    let file = ensemble.dir().join("session");
    let mut mount = options(&ensemble.hosts(), Duration::from_secs(60));
    mount.session_file = Some(file.clone());
    let claimed = async |wanted| wait_for(&here, "/claim", wanted).await;

    let other = Other::start(NAME, &mount);
    claimed(true).await;
    assert_eq!(mode(&file), 0o600);
    // It is in use.
    drop(Zookeeper::connect(&mount).await.unwrap());
    claimed(true).await;
    drop(other);

    // It is another place's.
    let line = std::fs::read(&file).unwrap();
    let mut elsewhere = mount.clone();
    elsewhere.chroot = "/".to_owned();
    Zookeeper::connect(&elsewhere).await.unwrap().close().await;
    claimed(true).await;

    // It is no session, and then one that is long gone.
    for odd in ["", "no session\n", "0x0000000000000001 somewhere\n"] {
        std::fs::write(&file, odd).unwrap();
        Zookeeper::connect(&mount).await.unwrap().close().await;
        claimed(true).await;
    }

    std::fs::write(&file, &line).unwrap();
    let begun = Instant::now();
    let again = Zookeeper::connect(&mount).await.unwrap();
    claimed(false).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    again.close().await;
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}
