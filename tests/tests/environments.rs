//! Environments of scripts: what a script finds in each, what it can't reach from there, which limits
//! hold, and that nothing is left of it.

use std::fs;
use std::time::Duration;

use distcifs_tests::isolation::checks::{
    EACH_AND_BOTH, a_node_survives_any_script, abort, escapes, it_is_gone_after_every_end,
    it_is_gone_when_its_worker_is_killed, it_is_gone_whenever_its_worker_is_killed, leaves_the_same_as_none,
    limits_hold, make_image, node_with_image, nothing_leads_out, of_image, try_all, try_with, while_it_runs, with,
};
use distcifs_tests::isolation::{BUILD_MAX, GONE_MAX, Node, groups, isolated};
use distcifs_tests::job::shell_task;
use distcifs_tests::{Folder, Sh, process, wait_for};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// The attempts are real: as root and without an environment most of them work.
#[test]
fn a_script_in_no_environment_can_do_what_its_worker_can() {
    let node = Node::new("none");
    let console = try_all(&node, "none", &json!("none"));
    let escapes = escapes(&console);
    for what in [
        "network",
        "raw socket",
        "mount",
        "sysctl",
        "keyring",
        "file handle",
        "environ of",
        "ptrace",
        "/store",
    ] {
        assert!(escapes.iter().any(|line| line.contains(what)), "{what}: {escapes:?}");
    }
    // What a script inherits is bounded all the same.
    for what in ["descriptor", "variable"] {
        assert!(!escapes.iter().any(|line| line.contains(what)), "{what}: {escapes:?}");
    }
}

#[test]
fn the_examples_of_environments_are_true() {
    distcifs_tests::page::check("doc/environments.md", 8, BUILD_MAX);
}

#[test]
fn namespace_leaves_the_same_as_none() {
    leaves_the_same_as_none(&Node::new("none,namespace"), &json!("namespace"));
}

#[test]
fn nothing_leads_out_of_a_namespace() {
    nothing_leads_out(&Node::new("none,namespace"), &json!("namespace"));
}

/// "seccomp for `namespace`": these calls do not come as far as the kernel's own checks, whose faults
/// they would reach. Without the filter they do.
#[test]
fn calls_that_lead_out_are_refused_in_a_namespace() {
    let node = Node::new("none,namespace");
    let console = try_with(&node, "free", &json!("none"), "calls archs");
    for what in ["keyctl", "TIOCSTI", "bpf"] {
        assert!(
            escapes(&console).iter().any(|line| line.contains(what)),
            "{what}: {console}"
        );
    }
    let console = try_with(&node, "confined", &json!("namespace"), "calls archs");
    assert_eq!(escapes(&console), Vec::<&str>::new(), "{console}");
}

#[test]
fn calls_that_lead_out_are_refused_in_a_container() {
    let node = node_with_image("none,lxc");
    let console = try_with(&node, "confined", &of_image("lxc"), "calls");
    assert_eq!(escapes(&console), Vec::<&str>::new(), "{console}");
}

/// "Loopback with /etc/hosts inside, so a database on localhost works without `network`."
#[test]
fn a_server_on_localhost_works_without_a_network() {
    let node = node_with_image("none,namespace,lxc");
    let script = "grep -q '127.0.0.1.*localhost' /etc/hosts\n(echo data | nc -l -p 4471 >/dev/null &)\n\
                  for i in 1 2 3 4 5 6 7 8 9; do sleep 0.2; said=$(nc localhost 4471 </dev/null) && break; done\n[ \"$said\" = data ]";
    for (name, isolation) in [
        ("plain", json!("namespace")),
        ("rooted", of_image("namespace")),
        ("container", of_image("lxc")),
    ] {
        let script = match name {
            "plain" => script.replace("nc ", "busybox nc "),
            _ => script.to_owned(),
        };
        let (state, why, console) = node.run(name, &isolation, &script);
        assert_eq!(state, "success", "{name}: {why}\n{console}");
    }
}

/// A link among the files of an image means something of the image, and never the node's.
#[test]
fn no_link_of_an_image_shows_the_node() {
    let node = node_with_image("none,namespace");
    let secret = node.mount.out().join("for-nobody");
    fs::create_dir(&secret).expect("own folder");
    fs::write(secret.join("file"), "of the node").expect("own folder");
    for (name, link) in [("var", "var"), ("etc", "etc"), ("srv", "srv"), ("hosts", "etc/hosts")] {
        let image = format!("image_{name}");
        let script = format!(
            "mkdir -p root/bin root/{0}\nrm -r root/{link} 2>/dev/null || true\ncp /bin/busybox root/bin\n\
             for name in sh env cat ls; do ln -s busybox root/bin/$name; done\nln -s {1} root/{link}\n\
             tar -c -C root -f $ARTIFACTS/i.tar .",
            link.rsplit_once('/').map_or("tmp", |(folder, _)| folder),
            if name == "hosts" {
                format!("{}/file", secret.display())
            } else {
                secret.display().to_string()
            },
        );
        node.job(&image, &[shell_task(&script)]);
        assert_eq!(node.build(&image).0, "success");
        let isolation = with(&json!("namespace"), "image", json!(format!("job:{image}")));
        let script = format!("cat /{link}/* /{link} /{link}/file 2>&1 || true");
        let (_, why, console) = node.run(name, &isolation, &script);
        assert!(
            !console.contains("of the node") && !why.contains("of the node"),
            "{name}: {console}"
        );
    }
}

#[test]
fn limits_hold_in_a_namespace() {
    let node = Node::new("none,namespace");
    limits_hold(&node, &json!("namespace"));
    a_node_survives_any_script(&node, &json!("namespace"));
}

#[test]
fn limits_hold_in_no_environment() {
    limits_hold(&Node::new("none"), &json!("none"));
}

#[test]
fn a_namespace_is_gone_after_every_end() {
    let mut node = Node::new("none,namespace");
    it_is_gone_after_every_end(&node, &json!("namespace"));
    it_is_gone_when_its_worker_is_killed(&mut node, &json!("namespace"), &EACH_AND_BOTH);
    it_is_gone_whenever_its_worker_is_killed(&mut node, &json!("namespace"), &[5, 10, 15, 20, 30, 40]);
}

/// The programs of the node can be read and nothing else; more only where its owner says so.
#[test]
fn a_namespace_without_an_image_has_the_nodes_programs() {
    let node = Node::new("none,namespace");
    let script = "touch /usr/escaped || echo read-only\n[ -x /usr/bin/gcc ]\n! ls /root /home\n! touch /opt/x\ntouch /tmp/x /var/tmp/x";
    let (state, why, console) = node.run("plain", &json!("namespace"), script);
    assert_eq!(state, "success", "{why}\n{console}");
    assert!(console.contains("read-only"), "{console}");
}

#[test]
fn lxc_leaves_the_same_as_none() {
    leaves_the_same_as_none(&node_with_image("none,lxc"), &of_image("lxc"));
}

#[test]
fn nothing_leads_out_of_a_container() {
    nothing_leads_out(&node_with_image("none,lxc"), &of_image("lxc"));
}

#[test]
fn limits_hold_in_a_container() {
    let node = node_with_image("none,lxc");
    limits_hold(&node, &of_image("lxc"));
    a_node_survives_any_script(&node, &of_image("lxc"));
}

#[test]
fn a_container_is_gone_after_every_end() {
    let mut node = node_with_image("none,lxc");
    it_is_gone_after_every_end(&node, &of_image("lxc"));
    it_is_gone_when_its_worker_is_killed(&mut node, &of_image("lxc"), &EACH_AND_BOTH);
    it_is_gone_whenever_its_worker_is_killed(&mut node, &of_image("lxc"), &[5, 15, 25, 35, 45, 60, 80]);
}

/// What a container changes is thrown away, owners and modes of the image are what they were.
#[test]
fn a_container_is_made_anew_each_time() {
    let node = node_with_image("none,lxc,namespace");
    let script =
        "stat -c '%u:%g %a' /owned /bin/busybox\n[ ! -e /changed ]\ntouch /changed /bin/new\nrm /bin/vi\nid -u";
    for name in ["first", "second"] {
        let (state, why, console) = node.run(name, &of_image("lxc"), script);
        assert_eq!(state, "success", "{why}\n{console}");
        assert!(console.ends_with("33:33 2750\n0:0 755\n0"), "{console}");
        assert_eq!(console.contains("unpacking"), name == "first", "{console}");
    }
    // In a namespace the same image is there to be read.
    let (state, why, console) = node.run(
        "third",
        &of_image("namespace"),
        "[ -e /bin/vi ]\n! touch /bin/new\nid -un",
    );
    assert_eq!(state, "success", "{why}\n{console}");
    assert!(console.ends_with("\nci"), "{console}");
}

/// "What a container changes has 8 GiB of the disk, or as much as `limits.disk`."
#[test]
fn a_container_does_not_fill_the_disk() {
    let node = node_with_image("none,lxc");
    let limited = with(&of_image("lxc"), "limits", json!({ "disk": "64M" }));
    for (name, isolation, most) in [("a", of_image("lxc"), 8_u64 << 30), ("b", limited, 64 << 20)] {
        let script = format!("size=$(($(stat -f -c '%b * %S' /)))\necho $size\n[ $size -le {most} ]");
        let (state, why, console) = node.run(name, &isolation, &script);
        assert_eq!(state, "success", "{why}\n{console}");
    }
}

/// Containers one after another leave nothing behind; scripts/bench has a hundred of them.
#[test]
fn many_containers_leave_nothing() {
    let node = node_with_image("none,lxc");
    let before = (mounts(), leftovers(), node.left());
    let tasks: Vec<Value> = (0..20)
        .map(|_| isolated(&of_image("lxc"), "touch /x; (setsid sleep 4554.1 &)"))
        .collect();
    node.job("many", &tasks);
    let (state, why, console) = node.build("many");
    assert_eq!(state, "success", "{why}\n{console}");
    node.wait_gone("sleep 4554.1");
    assert_eq!((mounts(), leftovers(), node.left()), before);
}

/// Mounts of environments outside of their own namespaces.
fn mounts() -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").expect("/proc");
    let ours =
        |line: &&str| line.contains(" - tmpfs distcifs ") || line.contains(" - overlay ") || line.contains("lxc");
    text.lines().filter(ours).map(str::to_owned).collect()
}

/// What LXC is known to leave where it is run without care.
fn leftovers() -> Vec<String> {
    let mut found = Vec::new();
    for folder in [
        "/run/lxc",
        "/run/lxc/lock",
        "/var/lib/lxc",
        "/sys/fs/cgroup/pids",
        "/sys/fs/cgroup/unified",
        "/sys/fs/cgroup",
    ] {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let names = entries.map(|entry| format!("{folder}/{}", entry.file_name().to_string_lossy()));
        found.extend(names.filter(|name| name.contains("lxc")));
    }
    found.sort();
    found
}

/// An image may be a folder, or a tar that is packed in several ways; what is none is an error with
/// the reason in the console.
#[test]
fn images_that_are_good_and_bad() {
    let node = Node::new("none,lxc");
    let pack = |pack: &str| {
        if node.mount.has("jobs/image") {
            fs::remove_dir_all(node.mount.path("jobs/image")).expect("rm -r of a job");
        }
        make_image(&node, pack);
    };
    let good = [
        "cp -a root \"$ARTIFACTS\"",
        "cp -a root/. \"$ARTIFACTS\"",
        "tar -c -C root . | xz -0 > \"$ARTIFACTS/i\"",
        "tar -c -C root -f \"$ARTIFACTS/i\" .",
    ];
    for (number, how) in good.iter().enumerate() {
        pack(how);
        let (state, why, console) = node.run(&format!("good-{number}"), &of_image("lxc"), "git --version");
        assert_eq!(state, "success", "{how}: {why}\n{console}");
    }
    let bad = [
        (
            "tar -c -C root . | gzip -1 | head -c 100000 > \"$ARTIFACTS/i\"",
            "could not unpack it",
        ),
        ("head -c 100000 /dev/urandom > \"$ARTIFACTS/i\"", "could not unpack it"),
        ("tar -c -C root -f \"$ARTIFACTS/i\" etc", "no root file system"),
        (
            "echo x > \"$ARTIFACTS/a\"; echo x > \"$ARTIFACTS/b\"",
            "no root file system",
        ),
        ("true", "published no artifacts"),
        (
            "rm root/bin/sh; ln -s /no/such root/bin/sh; tar -c -C root -f \"$ARTIFACTS/i\" .",
            "no root file system",
        ),
        (
            "echo not > root/bin/busybox; tar -c -C root -f \"$ARTIFACTS/i\" .",
            "lxc: ",
        ),
    ];
    for (number, (how, reason)) in bad.iter().enumerate() {
        pack(how);
        let (state, why, console) = node.run(&format!("bad-{number}"), &of_image("lxc"), "true");
        assert_eq!(state, "error", "{how}: {why}\n{console}");
        assert!(
            why.contains(reason) && console.contains(reason),
            "{how}: {why}\n{console}"
        );
    }
    for (name, image, reason) in [
        ("no-job", "job:none-such", "no such job"),
        ("no-build", "job:empty", "no successful build"),
    ] {
        if name == "no-build" {
            node.job("empty", &[]);
        }
        let (state, why, console) = node.run(name, &json!({"isolation": "lxc", "image": image}), "true");
        assert_eq!(state, "error", "{why}\n{console}");
        assert!(why.contains(reason) && console.contains(reason), "{why}\n{console}");
    }
    let (state, why, _) = node.run("no-image", &json!("lxc"), "true");
    assert_eq!(state, "error");
    assert!(why.contains("needs an image"), "{why}");
}

#[test]
fn vm_leaves_the_same_as_none() {
    leaves_the_same_as_none(&node_with_image("none,vm"), &of_image("vm"));
}

/// In a machine the script is root, but of nothing else: the node is not there.
#[test]
fn nothing_leads_out_of_a_machine() {
    let node = node_with_image("none,vm");
    let console = try_with(&node, "escape", &of_image("vm"), "");
    let real: Vec<&str> = escapes(&console)
        .into_iter()
        .filter(|line| !of_its_own_kernel(line))
        .collect();
    assert_eq!(real, Vec::<&str>::new(), "{console}");
    while_it_runs(&node, &of_image("vm"), |pids| {
        let owners: Vec<u32> = pids.iter().copied().filter_map(process::owner).collect();
        assert!(!owners.is_empty() && !owners.contains(&0), "{owners:?}");
        // Root of a kernel of its own may ask for anything that is shared with it.
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", pids[0])).expect("of our own process");
        let image = mounts.lines().find(|line| line.contains(" /mnt/share/root "));
        assert!(
            image.is_some_and(|line| line.contains(" /mnt/share/root ro")),
            "{mounts}"
        );
    });
}

/// What a script may do to the kernel that is its own.
fn of_its_own_kernel(line: &str) -> bool {
    ["sysrq", "sysctl", "core pattern", "write to /sys"]
        .iter()
        .any(|what| line.ends_with(what))
}

/// A machine has the node's programs without an image, the memory and processes that it may have, and
/// a crash of its kernel is an error of the task and nothing else.
#[test]
fn a_machine_has_bounds_and_may_crash() {
    let node = Node::new("none,vm");
    let helper = shell_task("cp \"$PARAM_helper\" escape");
    let limits = json!({"isolation": "vm", "limits": {"memory": "512M", "processes": 40, "cpus": 1.5}});
    let script = "nproc; gcc --version | head -n 1; ./escape fork 100000; ./escape memory 100000 || echo killed";
    node.job("bounds", &[helper, isolated(&limits, script)]);
    let (state, why, console) = node.build("bounds");
    assert_eq!(state, "success", "{why}\n{console}");
    assert!(console.starts_with("2\n") && console.contains("gcc"), "{console}");
    assert!(
        console.contains("processes: 38") && escapes(&console).is_empty(),
        "{console}"
    );
    let mib = console
        .lines()
        .filter_map(|line| line.strip_prefix("memory: ")?.strip_suffix(" MiB")?.parse::<u32>().ok())
        .max();
    assert!(mib.is_some_and(|mib| (64..512).contains(&mib)), "{console}");
    assert!(
        console.contains("killed") && console.contains("the memory of the machine was used up"),
        "{console}"
    );
    let (state, why, console) = node.run(
        "crash",
        &json!("vm"),
        "echo begun; echo c > /proc/sysrq-trigger; sleep 60",
    );
    assert_eq!(state, "error", "{why}\n{console}");
    assert!(
        why.contains("the machine ended without a result") && why.contains("panic"),
        "{why}"
    );
    node.wait_gone("sysrq-trigger");
}

#[test]
fn a_machine_is_gone_after_every_end() {
    let mut node = node_with_image("none,vm");
    let isolation = of_image("vm");
    let heeds = "trap 'echo heard; exit 1' TERM\n(setsid sleep 4552.1 &); echo begun\nwhile :; do sleep 0.1; done";
    node.job("aborted", &[isolated(&with(&isolation, "timeout", json!(60)), heeds)]);
    let build = node.mount.trigger("aborted", "");
    wait_for("the machine", BUILD_MAX, || {
        node.mount.console("aborted", build).contains("begun")
    });
    process::signal(node.pids()[1], Signal::SIGTERM);
    wait_for("TERM in the machine", BUILD_MAX, || {
        node.mount.console("aborted", build).contains("heard")
    });
    abort(&node, "aborted", build);
    node.start_worker();
    node.wait_gone("qemu-system-x86_64 -nodefaults");
    it_is_gone_when_its_worker_is_killed(&mut node, &isolation, &[&[0, 1]]);
    it_is_gone_whenever_its_worker_is_killed(&mut node, &isolation, &[40, 90, 200, 1000]);
}

/// Adds the node's kernel to an image, with the modules that a machine needs.
const WITH_KERNEL: &str = r#"
kernel=$(ls /boot/vmlinuz-* | tail -n 1)
version=${kernel#/boot/vmlinuz-}
mkdir -p root/boot "root/lib/modules/$version"
cp "$kernel" root/boot
cp "/lib/modules/$version"/modules.* "root/lib/modules/$version"
for name in virtio_pci virtio_console virtiofs overlay virtio_net; do modprobe -S "$version" --show-depends $name; done |
    sed -n 's/^insmod //p' | xargs cp --parents -t root
ln -s /etc/passwd root/boot/vmlinuz-zzz
mkdir -p root/lib/modules/zzz
touch root/lib/modules/zzz/modules.dep
tar -c -C root -f "$ARTIFACTS/root.tar" .
"#;

/// A machine boots the kernel of its image, without one the node's, each with what it needs to begin
/// of its own; a kernel that leads out of the image is none. If asked for there is a network.
#[test]
fn a_machine_boots_the_kernel_of_its_image() {
    let node = Node::new("none,vm");
    make_image(&node, WITH_KERNEL);
    let script = "cat /proc/net/route /etc/resolv.conf || true; grep -c . /etc/passwd";
    let begins = || {
        let cache = fs::read_dir(node.state().join("cache")).expect("the cache");
        let names = cache.map(|entry| entry.expect("its entry").file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with("initramfs-")).count()
    };
    for (name, isolation, count) in [
        ("image", of_image("vm"), 1),
        ("node", json!("vm"), 2),
        ("again", of_image("vm"), 2),
    ] {
        let network = with(&isolation, "network", json!(name != "again"));
        let (state, why, console) = node.run(&format!("of-{name}"), &network, script);
        assert_eq!(state, "success", "{why}\n{console}");
        assert_eq!(console.contains("nameserver 10.0.2.3"), name != "again", "{console}");
        assert_eq!(console.contains("eth0"), name != "again", "{console}");
        assert_eq!(begins(), count, "{name}");
    }
}

/// A worker in a machine, which has control groups of version 2 only: root's, and one of an ordinary
/// user to whom a group is delegated. It works on a folder laid out like the tree.
const VERSION_2: &str = r#"
mount -t cgroup2 none /sys/fs/cgroup
export DISTCIFS_AS=root
give() {
    folder=/tmp/$who/tickets/execute-shell/$1
    mkdir -p "$folder/workspace" "$folder/artifacts"
    for name in console result claim .wait; do : > "$folder/$name"; done
    printf '{"owner": %s, "limits": %s, "params": {"script": "%s"}}' "$who" "$2" "$3" > "$folder/ticket.json"
    chown -R "$who" "/tmp/$who"
    echo "$1" >&3
    until [ -s "$folder/result" ]; do sleep 0.1; done
    echo "$who $1: $(tr '\n' ' ' < "$folder/result")"
}
for who in 0 1000; do
    mkdir -p "/tmp/$who/tickets/execute-shell" "/sys/fs/cgroup/of-$who"
    mkfifo "/tmp/$who/tickets/execute-shell/.next"
    chown -R "$who" "/tmp/$who" "/sys/fs/cgroup/of-$who"
    sh -c 'echo 0 > /sys/fs/cgroup/of-$0/cgroup.procs
        exec setpriv --reuid "$0" --clear-groups ./execute-shell "/tmp/$0" --isolation none --environments isolate --state "/tmp/$0/state"' "$who" &
    exec 3> "/tmp/$who/tickets/execute-shell/.next"
    give memory '{"memory": 52428800}' 'tail /dev/zero'
    give processes '{"processes": 20}' 'for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25; do sleep 9 & done'
    give all '{"cpus": 0.5, "memory": 52428800}' 'true'
    echo "$who left: $(find /sys/fs/cgroup -name 'distcifs-[0-9]*' | wc -l)"
done
"#;

#[test]
fn limits_hold_in_control_groups_of_version_2() {
    let node = Node::new("none,vm");
    let worker = distcifs_tests::programs::worker("execute-shell").display().to_string();
    let isolate = distcifs_tests::programs::project()
        .join("workers/isolate")
        .display()
        .to_string();
    let limits = json!({"isolation": "vm", "limits": {"memory": "1G"}, "timeout": 80});
    node.job(
        "two",
        &[
            shell_task(&format!("cp -r '{worker}' '{isolate}' .")),
            isolated(&limits, VERSION_2),
        ],
    );
    let (state, why, console) = node.build("two");
    assert_eq!(state, "success", "{why}\n{console}");
    for who in ["0", "1000"] {
        for line in [
            "memory: 137 exit 137; the kernel killed a process of it",
            "processes: 2 exit 2",
            "all: 0",
            "left: 0",
        ] {
            assert!(console.contains(&format!("{who} {line}")), "{who} {line}: {console}");
        }
    }
}

/// Whatever a worker tries when it is killed: the next one on the node removes it.
#[test]
fn nothing_is_left_of_a_worker_that_is_killed_as_it_starts() {
    let mut node = Node::new("none");
    for moment in [0, 3, 6, 10, 15, 20, 30] {
        node.start_worker();
        let pids = node.pids();
        // The moment is what is tried: there is nothing to wait for.
        std::thread::sleep(Duration::from_millis(moment));
        pids.iter().for_each(|pid| process::signal(*pid, Signal::SIGKILL));
        wait_for("their end", GONE_MAX, || {
            pids.iter().all(|pid| !process::is_alive(*pid))
        });
        node.start_worker();
        node.pids();
        let own = format!("distcifs-{}-", pids[1]);
        wait_for("its control groups to be gone", GONE_MAX, || groups(&own).is_empty());
    }
    assert_eq!(node.run("after", &json!("none"), "true").0, "success");
    wait_for("the folders of all but the one that runs to be gone", GONE_MAX, || {
        fs::read_dir(node.state().join("runs")).is_ok_and(|runs| runs.count() == 1)
    });
}

/// An ordinary user's worker, on a folder laid out like the tree.
const ORDINARY: &str = r#"
set -eu
worker=$1 isolate=$2
cp "$worker" execute-shell
cp -r "$isolate" "$isolate.sh" "${isolate%/*}/machine.sh" .
mkdir -p tree/tickets/execute-shell/one tree/tickets/execute-shell/two
mkfifo tree/tickets/execute-shell/.next
for ticket in tree/tickets/execute-shell/*; do
    mkdir "$ticket/workspace" "$ticket/artifacts"
    for name in console result claim .wait; do : > "$ticket/$name"; done
done
script='id -u; if ls /etc/shadow 2>&1; then exit 9; fi; echo made > made'
for pair in one:namespace two:vm; do
    printf '{"owner": 54321, "isolation": "%s", "params": {"script": "%s"}}' "${pair#*:}" "$script" > "tree/tickets/execute-shell/${pair%:*}/ticket.json"
done
chmod 755 . ..
chown -R 54321:54321 tree
setpriv --reuid 54321 --regid 54321 --clear-groups \
    ./execute-shell tree --isolation namespace,vm --environments isolate --state "$PWD/tree/state" & worker=$!
trap 'kill -9 $worker 2> /dev/null || true' EXIT
exec 3> tree/tickets/execute-shell/.next
for id in one two; do
    echo $id >&3
    ticket=tree/tickets/execute-shell/$id
    until [ -s "$ticket/result" ]; do kill -0 $worker; sleep 0.05; done
    echo "$id: $(tr '\n' ' ' < "$ticket/result")$(head -n 1 "$ticket/console") $(stat -c %u "$ticket/workspace/made")"
done
until [ -z "$(ls tree/state/runs/*/space)" ]; do sleep 0.05; done
"#;

/// Namespaces and machines need no root.
#[test]
fn environments_of_an_ordinary_user() {
    let folder = Folder::new();
    let worker = distcifs_tests::programs::worker("execute-shell").display().to_string();
    let isolate = distcifs_tests::programs::project()
        .join("workers/isolate")
        .display()
        .to_string();
    let words = ["dash", "-c", ORDINARY, "dash", &worker, &isolate];
    let output = Sh::start(&words, &folder.path(), &folder.out(), &[]).finish_within(BUILD_MAX);
    let said = output.stdout.as_str();
    assert!(
        output.ok() && said == "one: 0 1000 54321\ntwo: 0 0 54321",
        "{output:#?}"
    );
}
