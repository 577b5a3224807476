//! A whole cluster on this machine, by scripts/dev-cluster: real servers that never outlive the
//! test that made them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use nix::unistd::Pid;
use tempfile::TempDir;

use crate::programs;

/// The servers of a cluster, by the names that `kill` and `start` take.
pub const SERVERS: [&str; 8] = ["zk1", "zk2", "zk3", "mon", "mgr", "osd0", "osd1", "osd2"];

/// Names the folder of a cluster that runs already: `Cluster::up` and `Cluster::shared` use it as
/// it is, and leave it so.
const RUNNING: &str = "DISTCIFS_CLUSTER";

/// The pool, and the ZooKeeper path, of what dev-cluster prints.
const CHROOT: &str = "/distci";

/// Seconds for one call of dev-cluster, which bounds each of its waits by itself; this bounds a
/// machine on which all of them are used up.
const CALL_LIMIT: &str = "240";

/// A cluster, ready; one that was made here is gone with all its servers when this is dropped,
/// and when this process dies.
#[derive(Debug)]
pub struct Cluster {
    dir: PathBuf,
    source: String,
    options: String,
    owned: Option<TempDir>,
}

impl Cluster {
    /// Whether the servers are installed; says so, loudly, if not.
    pub fn available() -> bool {
        ["ceph-mon", "ceph-mgr", "ceph-osd", "rados", "java"]
            .into_iter()
            .all(programs::installed)
    }

    /// The cluster that `DISTCIFS_CLUSTER` names, or a new one.
    pub fn up() -> Cluster {
        match std::env::var_os(RUNNING) {
            Some(dir) => Cluster::at(dir.into(), None),
            None => Cluster::fresh(),
        }
    }

    /// One for all tests of this binary: started by the first that asks, gone with the process.
    pub fn shared() -> &'static Cluster {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(Cluster::up)
    }

    /// A new one, whatever the environment says.
    pub fn fresh() -> Cluster {
        Cluster::fresh_at("127.0.0.1")
    }

    /// The same at another address of this machine, which a network namespace can reach.
    pub fn fresh_at(address: &str) -> Cluster {
        let folder = tempfile::Builder::new()
            .prefix("distcifs-cluster-")
            .tempdir()
            .expect("a temporary folder");
        let dir = folder.path().to_path_buf();
        let owner = std::process::id().to_string();
        let output = dev_cluster("up", &dir, &["--watch", &owner, "--address", address]);
        assert!(output.status.success(), "no cluster: {}", text(&output));
        Cluster::at(dir, Some(folder))
    }

    fn at(dir: PathBuf, owned: Option<TempDir>) -> Cluster {
        let env = dir.join("env");
        let text = fs::read_to_string(&env).unwrap_or_else(|error| panic!("{}: {error}", env.display()));
        let value = |name: &str| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix("='"));
            let value = line.and_then(|rest| rest.strip_suffix('\''));
            value
                .unwrap_or_else(|| panic!("no {name} in {}", env.display()))
                .to_owned()
        };
        let (source, options) = (value("SOURCE"), value("OPTIONS"));
        Cluster {
            dir,
            source,
            options,
            owned,
        }
    }

    /// Its folder: logs, keys, `ceph.conf`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What `distcifs mount` takes as source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The same for another repository on these servers, so that tests can share them.
    pub fn source_named(&self, name: &str) -> String {
        let hosts = self.source.strip_suffix(CHROOT);
        format!("{}/{name}", hosts.expect("dev-cluster prints this chroot"))
    }

    /// What follows `-o`.
    pub fn options(&self) -> &str {
        &self.options
    }

    /// The addresses of the ZooKeeper servers, zk1 first.
    pub fn zookeepers(&self) -> Vec<String> {
        let hosts = self
            .source
            .strip_prefix("zk://")
            .and_then(|rest| rest.strip_suffix(CHROOT));
        let hosts = hosts.expect("dev-cluster prints such a source");
        hosts.split(',').map(str::to_owned).collect()
    }

    /// SIGKILL for a server; returns when it is gone.
    pub fn kill(&self, name: &str) {
        let output = dev_cluster("kill", &self.dir, &[name]);
        assert!(output.status.success(), "{name} was not killed: {}", text(&output));
    }

    /// Starts a server again; returns when it serves.
    pub fn start(&self, name: &str) {
        let output = dev_cluster("start", &self.dir, &[name]);
        assert!(output.status.success(), "{name} did not start: {}", text(&output));
    }

    /// The process of a server, dead or alive, for other signals.
    pub fn pid(&self, name: &str) -> Pid {
        let pids = fs::read_to_string(self.dir.join("pids")).expect("a cluster has its pids");
        let line = pids.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let pid = line.and_then(|pid| pid.parse().ok());
        Pid::from_raw(pid.unwrap_or_else(|| panic!("no {name} in: {pids}")))
    }

    /// Whether all servers live, and what `dev-cluster status` says.
    pub fn status(&self) -> (bool, String) {
        let output = dev_cluster("status", &self.dir, &[]);
        (output.status.success(), text(&output))
    }

    /// The ZooKeeper server that leads, if there is a quorum.
    pub fn leader(&self) -> Option<String> {
        let (_, status) = self.status();
        let line = status.lines().find(|line| line.ends_with(" leader"))?;
        line.split(' ').next().map(str::to_owned)
    }

    /// `rados` on the pool as the user that a mount is; gives what it wrote, or its complaint.
    pub fn rados(&self, words: &[&str]) -> Result<String, String> {
        self.ask(&[&["rados", "-n", "client.distci", "-p", "distci"], words])
    }

    /// `ceph` as the administrator, unless the words say otherwise; the same.
    pub fn ceph(&self, words: &[&str]) -> Result<String, String> {
        self.ask(&[&["ceph"], words])
    }

    fn ask(&self, words: &[&[&str]]) -> Result<String, String> {
        let output = Command::new("timeout")
            .arg(CALL_LIMIT)
            .args(words.concat())
            .env("CEPH_CONF", self.dir.join("ceph.conf"))
            .output()
            .expect("timeout of coreutils runs");
        let said = text(&output);
        if output.status.success() { Ok(said) } else { Err(said) }
    }

    /// Stops all servers and removes the folder, as dropping it does.
    fn down(&self) {
        let output = dev_cluster("down", &self.dir, &["--purge"]);
        if !output.status.success() {
            eprintln!("the cluster was not stopped: {}", text(&output));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.owned.is_some() {
            self.down();
        }
    }
}

/// Runs scripts/dev-cluster.
pub fn dev_cluster(command: &str, dir: &Path, words: &[&str]) -> Output {
    Command::new("timeout")
        .arg(CALL_LIMIT)
        .arg(programs::project().join("scripts/dev-cluster"))
        .arg(command)
        .arg(dir)
        .args(words)
        .output()
        .expect("timeout of coreutils runs")
}

/// All that a program wrote.
pub fn text(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    text
}
