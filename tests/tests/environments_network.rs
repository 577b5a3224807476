//! The closed network of a script that a stranger wrote: it reaches the world, and nothing of the node and its
//! surroundings.

use distcifs_tests::Folder;
use distcifs_tests::isolation::checks::{
    EACH_AND_BOTH, it_is_gone_after_every_end, it_is_gone_when_its_worker_is_killed, make_image, of_image,
};
use distcifs_tests::isolation::network::{
    Surroundings, closed, every_line_of_the_filter_is_needed, only_the_world_is_reached,
};
use distcifs_tests::programs::installed;
use serde_json::json;

/// Whether the closed network can be made here at all.
fn can_close() -> bool {
    ["pasta", "nft", "ip"].iter().all(|name| installed(name))
}

#[test]
fn a_strangers_namespace_reaches_only_the_world() {
    if can_close() {
        only_the_world_is_reached(&Surroundings::new("none,namespace", None), &json!("namespace"), false);
    }
}

#[test]
fn a_strangers_container_and_machine_reach_only_the_world() {
    if can_close() {
        let surroundings = Surroundings::new("none,lxc,vm", None);
        make_image(
            &surroundings.node,
            "tar -c -C root . | gzip -1 > \"$ARTIFACTS/root.tar.gz\"",
        );
        only_the_world_is_reached(&surroundings, &of_image("lxc"), false);
        only_the_world_is_reached(&surroundings, &of_image("vm"), true);
    }
}

#[test]
fn every_line_of_the_closed_network_is_needed() {
    if can_close() {
        let folder = Folder::new();
        every_line_of_the_filter_is_needed(&folder.out());
    }
}

/// Its two processes end with their script too.
#[test]
fn a_closed_network_is_gone_after_every_end() {
    if can_close() {
        let mut surroundings = Surroundings::new("none,namespace", None);
        let isolation = closed(&json!("namespace"));
        it_is_gone_after_every_end(&surroundings.node, &isolation);
        it_is_gone_when_its_worker_is_killed(&mut surroundings.node, &isolation, &EACH_AND_BOTH);
    }
}

/// "Without an isolation it ends as error", whatever its job says of the network.
#[test]
fn a_strangers_script_without_an_isolation_is_not_run() {
    let node = distcifs_tests::isolation::Node::new("none,namespace");
    let task = json!({ "isolation": "none", "labels": ["untrusted"] });
    let (state, why, console) = node.run("bare", &task, "echo it runs");
    assert_eq!(state, "error", "{why}\n{console}");
    assert!(
        why.contains("set its isolation") && !console.contains("it runs"),
        "{why}\n{console}"
    );
}
