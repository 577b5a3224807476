//! Environments of scripts: what a script finds in each, what it can't reach from there, which limits
//! hold, and that nothing is left of it.

use std::fs;

use distcifs_tests::isolation::checks::{
    EACH_AND_BOTH, a_node_survives_any_script, escapes, it_is_gone_after_every_end,
    it_is_gone_when_its_worker_is_killed, it_is_gone_whenever_its_worker_is_killed, leaves_the_same_as_none,
    limits_hold, make_image, node_with_image, nothing_leads_out, of_image, try_all,
};
use distcifs_tests::isolation::{BUILD_MAX, Node, isolated};
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
    distcifs_tests::page::check("doc/environments.md", 7, BUILD_MAX);
}

#[test]
fn namespace_leaves_the_same_as_none() {
    leaves_the_same_as_none(&Node::new("none,namespace"), &json!("namespace"));
}

#[test]
fn nothing_leads_out_of_a_namespace() {
    nothing_leads_out(&Node::new("none,namespace"), &json!("namespace"));
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
        "[ -e /bin/vi ]\n! touch /bin/new\nid -u",
    );
    assert_eq!(state, "success", "{why}\n{console}");
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
