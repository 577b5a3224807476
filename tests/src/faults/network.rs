//! A network of its own for a test, without a way out, and one for each mount in it, so that a
//! mount can be cut off from one store or both.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};

use crate::programs;
use crate::wait::wait_for;

/// Making a namespace is a matter of milliseconds; this bounds a busy machine.
const MADE_WITHIN: Duration = Duration::from_secs(10);

/// Where the servers of a test listen: of the range that is kept for measuring networks.
pub const SERVERS: &str = "198.18.255.1";

/// Takes this thread, and whatever it starts from now on, into a network of its own that has nothing
/// but the address of the servers. It ends with the last process in it.
pub fn alone() {
    unshare(CloneFlags::CLONE_NEWNET).expect("root may make a network");
    run(&["ip", "link", "set", "lo", "up"], "");
    run(&["ip", "addr", "add", &format!("{SERVERS}/32"), "dev", "lo"], "");
}

/// A namespace, gone with this or with the thread that made it.
pub struct Network {
    holder: Child,
    here: String,
}

/// What a mount is cut off from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The coordinator, whose ports these are.
    Zookeeper,
    /// Everything but the coordinator.
    Ceph,
    /// The same, but what is sent arrives: only the answers are lost, as if on the way.
    Answers,
    /// All.
    Both,
}

impl Network {
    /// Whether namespaces can be made here; says so, loudly, if not.
    pub fn available() -> bool {
        if !nix::unistd::geteuid().is_root() {
            programs::skipped("a mount that is cut off: only root makes networks");
            return false;
        }
        ["ip", "nft", "nsenter", "unshare"].into_iter().all(programs::installed)
    }

    /// Makes one; `number`: its own, up to 250, in the network that this thread is in.
    pub fn new(number: usize) -> Network {
        let holder = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"])
            .stdin(Stdio::null())
            .spawn()
            .expect("setpriv of util-linux runs");
        let pid = holder.id();
        let own = std::fs::read_link("/proc/thread-self/ns/net").expect("we have one");
        wait_for("a namespace", MADE_WITHIN, || {
            let other = std::fs::read_link(format!("/proc/{pid}/ns/net"));
            other.is_ok_and(|other| other != own)
        });
        let here = format!("198.18.{number}.1");
        for line in [
            format!("ip link add mount{number} type veth peer name store netns {pid}"),
            format!("ip addr add {here}/30 dev mount{number}"),
            format!("ip link set mount{number} up"),
        ] {
            run(&line.split(' ').collect::<Vec<_>>(), "");
        }
        let network = Network { holder, here };
        network.run("ip link set lo up", "");
        network.run(&format!("ip addr add 198.18.{number}.2/30 dev store"), "");
        network.join();
        network
    }

    /// The words before a command that is to run inside.
    pub fn words(&self) -> Vec<String> {
        vec!["nsenter".into(), format!("--net=/proc/{}/ns/net", self.holder.id())]
    }

    /// Cuts it off: from now on not one packet comes through. `zookeepers`: their `address:port`.
    pub fn cut(&self, cut: Cut, zookeepers: &[String]) {
        let ports: Vec<&str> = zookeepers
            .iter()
            .filter_map(|host| Some(host.rsplit_once(':')?.1))
            .collect();
        let ports = ports.join(", ");
        let (to, from) = match cut {
            Cut::Both => return self.run("ip link set store down", ""),
            Cut::Zookeeper => (
                format!("tcp dport {{ {ports} }} drop;"),
                format!("tcp sport {{ {ports} }}"),
            ),
            Cut::Ceph => (
                format!("tcp dport != {{ {ports} }} drop;"),
                format!("tcp sport != {{ {ports} }}"),
            ),
            Cut::Answers => (String::new(), format!("tcp sport != {{ {ports} }}")),
        };
        let rules = format!(
            "table inet cut {{
                chain to {{ type filter hook output priority 0; {to} }}
                chain from {{ type filter hook input priority 0; {from} drop; }}
            }}\n"
        );
        self.run("nft -f -", &rules);
    }

    /// Undoes it.
    pub fn heal(&self, cut: Cut) {
        if cut == Cut::Both {
            self.join();
        } else {
            self.run("nft delete table inet cut", "");
        }
    }

    /// Its way to the servers, which goes with the link.
    fn join(&self) {
        self.run("ip link set store up", "");
        self.run(&format!("ip route add default via {}", self.here), "");
    }

    fn run(&self, line: &str, input: &str) {
        let words = self.words();
        let words: Vec<&str> = words.iter().map(String::as_str).chain(line.split(' ')).collect();
        run(&words, input);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The namespace goes when nothing is in it any more, and both cards with it.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn run(words: &[&str], input: &str) {
    let mut child = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{words:?}: {error}"));
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(input.as_bytes()).expect("the program reads it");
    drop(stdin);
    let status = child.wait().expect("a child can be waited for");
    assert!(status.success(), "{words:?}: {status}");
}
