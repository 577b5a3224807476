//! A node and the world around it, in network namespaces of their own: what the closed network of a stranger's script
//! reaches of them.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::Node;
use super::checks::with;
use crate::folder::Folder;
use crate::job::shell_task;
use crate::programs;
use crate::shell::Sh;
use crate::wait::{USUAL, wait_for};

/// Makes both, and answers in them. The node has a second address that is anybody's, of each kind; in the world stand
/// addresses that a network of the node's may have, and those that lead to others.
const SURROUNDINGS: &str = r#"
set -eu
reach=$1
ip link set lo up
unshare --net sleep 3600 & world=$!
until [ "$(cat /proc/$world/comm)" = sleep ]; do :; done
in_world() { nsenter --net --target "$world" -- "$@"; }
ip link add name outside type veth peer name node netns "$world"
for address in 11.22.44.2/24 11.22.33.44/32; do ip addr add "$address" dev outside; done
for address in 2a00:77::2/64 2a00:88::2/128; do ip addr add "$address" dev outside nodad; done
ip link set outside up
in_world ip link set lo up
for address in 9.9.9.9 10.9.9.9 10.53.53.53 169.254.169.254 2620:fe::9 fd12::9 64:ff9b::909:909 2002:909:909::9 \
	11.55.0.9 168.63.129.16; do
	in_world ip addr add "$address" dev lo
done
in_world ip addr add 11.22.44.1/24 dev node
in_world ip addr add 2a00:77::1/64 dev node nodad
in_world ip link set node up
in_world ip route add default via 11.22.44.2
in_world ip -6 route add default via 2a00:77::2
ip route add default via 11.22.44.1
ip route add 11.55.0.0/16 via 11.22.44.1
ip -6 route add default via 2a00:77::1
"$reach" serve 11.22.33.44 4480 127.0.0.1 4481 2a00:88::2 4480 &
in_world "$reach" serve 11.22.44.1 4480 9.9.9.9 4480 10.9.9.9 4480 169.254.169.254 4480 2620:fe::9 4480 fd12::9 4480 \
	64:ff9b::909:909 4480 2002:909:909::9 4480 11.55.0.9 4480 168.63.129.16 4480 &
in_world "$reach" names 10.53.53.53 9.9.9.9 &
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=world.test -keyout key -out cert 2>/dev/null
in_world openssl s_server -quiet -accept 9.9.9.9:443 -cert cert -key key -www >/dev/null 2>&1 &
for there in 127.0.0.1,4481 11.22.33.44,4480 11.22.44.1,4480 2a00:88::2,4480 9.9.9.9,4480 2620:fe::9,4480 \
	10.9.9.9,4480 169.254.169.254,4480 fd12::9,4480 64:ff9b::909:909,4480 2002:909:909::9,4480 \
	11.55.0.9,4480 168.63.129.16,4480; do
	until "$reach" to plain "${there%,*}" "${there#*,}" 2>/dev/null; do sleep 0.1; done
done
until openssl s_client -connect 9.9.9.9:443 </dev/null >/dev/null 2>&1; do sleep 0.1; done
echo 'nameserver 10.53.53.53' > resolv.conf
echo ready
wait
"#;

/// What must not be reached, by whatever means: a name, how, where, which weaker filter would let it through.
const ATTEMPTS: [(&str, &str, &str, &str); 15] = [
    ("a private address", "plain", "10.9.9.9 4480", "private"),
    ("a private address by a device", "device", "10.9.9.9 4480", "private"),
    (
        "a private address by IP_UNICAST_IF",
        "unicast_if",
        "10.9.9.9 4480",
        "private",
    ),
    ("a private address by IP_PKTINFO", "pktinfo", "10.9.9.9 4480", "private"),
    (
        "a private address in one of IPv6",
        "plain",
        "::ffff:10.9.9.9 4480",
        "private",
    ),
    ("the metadata address", "plain", "169.254.169.254 4480", "link"),
    (
        "the metadata address by a device",
        "device",
        "169.254.169.254 4480",
        "link",
    ),
    ("the router", "plain", "11.22.44.1 4480", "node"),
    ("the node's second address", "plain", "11.22.33.44 4480", "node"),
    ("the node's second address of IPv6", "plain", "2a00:88::2 4480", "node6"),
    ("a private address of IPv6", "plain", "fd12::9 4480", "world6"),
    (
        "an address of IPv4 by NAT64",
        "device",
        "64:ff9b::909:909 4480",
        "world6",
    ),
    ("an address of IPv4 by 6to4", "plain", "2002:909:909::9 4480", "ranges6"),
    ("a network behind a router", "plain", "11.55.0.9 4480", "node"),
    (
        "what a cloud tells its machines",
        "plain",
        "168.63.129.16 4480",
        "cloud",
    ),
];

/// The node's loopback: pasta, not the filter, would let it through.
const LOOPBACK: (&str, &str, &str, &str) = ("the node's loopback", "plain", "127.0.0.1 4481", "loopback");

/// What each weaker program lacks: a text of isolate.sh, and what stands for it.
const WEAKER: [(&str, &str, &str); 8] = [
    ("private", " 10.0.0.0/8 ", " "),
    ("link", " 169.254.0.0/16 ", " "),
    ("cloud", " 168.63.129.16/32", ""),
    ("node", "\t\t\t\tip daddr @node goto closed\n", ""),
    ("node6", "\t\t\t\tip6 daddr @node6 goto closed\n", ""),
    ("ranges6", "\t\t\t\tip6 daddr @ranges6 goto closed\n", ""),
    ("world6", "closed_world6=2000::/3", "closed_world6=::/0"),
    ("loopback", " -T none ", " -T 4481 "),
];

/// How often it is tried what a weaker program lets through.
const TRIES: u32 = 3;

/// What is reached all the same.
const WORLD: [(&str, &str, &str); 4] = [
    ("the world", "plain", "9.9.9.9 4480"),
    ("the world by UDP", "pktinfo", "9.9.9.9 4480"),
    ("the world by a device", "device", "9.9.9.9 4480"),
    ("the world by IPv6", "plain", "2620:fe::9 4480"),
];

/// A node whose worker is in such a network.
pub struct Surroundings {
    // In this order they go: the worker before its network.
    /// The node.
    pub node: Node,
    _networks: Sh,
    _folder: Folder,
}

impl Surroundings {
    /// Starts one that offers these isolations, and some of programs in `environments`.
    pub fn new(isolations: &str, environments: Option<&Path>) -> Self {
        let folder = Folder::new();
        let reach = folder.out().join("reach");
        programs::compile("reach.c", &["-static"], &reach);
        let reach = reach.display().to_string();
        let words = ["unshare", "--net", "--", "sh", "-c", SURROUNDINGS, "sh", &reach];
        let networks = Sh::start(&words, &folder.out(), &folder.out(), &[]);
        wait_for("the networks", USUAL, || networks.so_far().contains("ready"));
        let of_networks = format!("--net=/proc/{}/ns/net", networks.pid());
        let names = folder.out().join("resolv.conf").display().to_string();
        let script = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
        let within = [
            "nsenter",
            &of_networks,
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            script,
            &names,
        ];
        let mut options = Vec::new();
        if let Some(environments) = environments {
            options = vec!["--environments".to_owned(), environments.display().to_string()];
        }
        let node = Node::within(isolations, &within.map(str::to_owned), &options);
        fs::copy(&reach, node.mount.out().join("reach")).expect("own folder");
        Surroundings {
            node,
            _networks: networks,
            _folder: folder,
        }
    }

    /// What of these a script reaches, run as a task that is so labelled.
    fn reached(&self, job: &str, isolation: &Value, labels: &[&str], lines: &[String]) -> Vec<String> {
        let script = lines.join("\n") + "\necho all were tried\n";
        let task = with(&with(isolation, "network", json!(true)), "labels", json!(labels));
        let copy = shell_task("cp \"${PARAM_helper%/*}/reach\" reach");
        self.node.job(job, &[copy, super::isolated(&task, &script)]);
        let (state, why, console) = self.node.build(job);
        assert_eq!(state, "success", "{why}\n{console}");
        assert!(console.contains("all were tried"), "{console}");
        let reached = console.lines().filter_map(|line| line.strip_prefix("reached "));
        reached.map(str::to_owned).collect()
    }
}

fn attempt(name: &str, how: &str, place: &str) -> String {
    format!("if ./reach to {how} {place}; then echo \"reached {name}\"; fi")
}

/// "Its network reaches no address of the node, no loopback of it, no link-local and no private range. Names are asked
/// through the node."
#[track_caller]
pub fn only_the_world_is_reached(surroundings: &Surroundings, isolation: &Value, is_machine: bool) {
    let name = isolation.get("isolation").unwrap_or(isolation);
    let job = format!("closed-{}", name.as_str().expect("the name of an isolation"));
    let attempts = ATTEMPTS
        .iter()
        .chain([&LOOPBACK])
        .map(|(name, how, place, _)| attempt(name, how, place));
    let there = &WORLD[..WORLD.len() - usize::from(is_machine)];
    let world = there.iter().map(|(name, how, place)| attempt(name, how, place));
    let names = "if busybox nslookup world.test | grep -q 9.9.9.9; then echo 'reached a name'; fi".to_owned();
    let https = "if ! command -v curl || curl -sk --max-time 20 https://world.test/ | grep -q 'Cipher'; then echo 'reached https'; fi";
    // What is refused in a machine is silence, and IPv6 comes some time after its start.
    let patience = is_machine.then(|| "export PATIENCE=700".to_owned());
    let attempts = patience
        .into_iter()
        .chain(attempts)
        .chain(is_machine.then(|| "unset PATIENCE".to_owned()));
    let lines: Vec<String> = attempts.chain(world).chain([names, https.to_owned()]).collect();
    let reached = surroundings.reached(&job, isolation, &["untrusted", "untrusted.network"], &lines);
    let mut expected: Vec<&str> = there.iter().map(|(name, ..)| *name).collect();
    expected.extend(["a name", "https"]);
    assert_eq!(reached, expected);
    surroundings.node.wait_gone("no process of these words");
}

/// A script in the closed network.
pub fn closed(isolation: &Value) -> Value {
    with(&with(isolation, "network", json!(true)), "labels", json!(["untrusted"]))
}

/// Each attempt is real: a program whose filter lacks the line for it lets it through. So does the node's own network.
#[track_caller]
pub fn every_line_of_the_filter_is_needed(folder: &Path) {
    let programs: Vec<&str> = WEAKER.iter().map(|(name, ..)| *name).collect();
    weaken(folder);
    let surroundings = Surroundings::new(&format!("none,namespace,{}", programs.join(",")), Some(folder));
    for program in programs {
        let of_it = ATTEMPTS
            .iter()
            .chain([&LOOPBACK])
            .filter(|(.., weaker)| *weaker == program);
        let lines: Vec<String> = of_it
            .clone()
            .map(|(name, how, place, _)| attempt(name, how, place))
            .collect();
        let expected: Vec<&str> = of_it.map(|(name, ..)| *name).collect();
        let mut reached = Vec::new();
        // What is let through still takes longer than a try on a busy machine.
        for again in 0..TRIES {
            let job = format!("{program}-{again}");
            reached = surroundings.reached(&job, &json!(program), &["untrusted"], &lines);
            if reached == expected {
                break;
            }
        }
        assert_eq!(reached, expected, "{program}");
    }
    let lines: Vec<String> = [LOOPBACK, ATTEMPTS[0], ATTEMPTS[5], ATTEMPTS[8]]
        .map(|(name, how, place, _)| attempt(name, how, place))
        .into();
    assert_eq!(
        surroundings.reached("open", &json!("namespace"), &[], &lines).len(),
        lines.len()
    );
}

/// Makes programs like `namespace`, each with one thing less.
fn weaken(folder: &Path) {
    let project = programs::project().join("workers");
    let read = |path: PathBuf| fs::read_to_string(path).expect("a part of the project");
    let (program, shared) = (
        read(project.join("isolate/namespace")),
        read(project.join("isolate.sh")),
    );
    for (name, text, instead) in WEAKER {
        assert!(shared.contains(text), "isolate.sh has no {text:?}");
        let own = folder.join(format!("{name}.sh"));
        fs::write(&own, shared.replace(text, instead)).expect("own folder");
        let weaker = program.replace("\"${0%/*}/../isolate.sh\"", &own.display().to_string());
        assert_ne!(weaker, program, "it has a part that is shared");
        let path = folder.join(name);
        fs::write(&path, weaker).expect("own folder");
        fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("own folder");
    }
}
