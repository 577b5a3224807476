//! What somebody outside hands to a script in an environment, and what the script leaves outside: neither leads anywhere.

use distcifs_tests::isolation::Node;
use distcifs_tests::isolation::checks::{node_with_image, of_image};
use distcifs_tests::isolation::handed::{
    programs_of_another_user_work, what_is_handed_to_it_is_of_no_use, what_is_inside_goes_on,
};
use serde_json::json;

#[test]
fn what_is_handed_into_a_namespace_is_of_no_use() {
    let node = Node::new("none,namespace");
    what_is_handed_to_it_is_of_no_use(&node, &json!("namespace"));
    what_is_inside_goes_on(&node, &json!("namespace"));
}

#[test]
fn what_is_handed_into_a_container_is_of_no_use() {
    let node = node_with_image("none,lxc");
    what_is_handed_to_it_is_of_no_use(&node, &of_image("lxc"));
    what_is_inside_goes_on(&node, &of_image("lxc"));
    programs_of_another_user_work(&node, &of_image("lxc"));
}

/// "Of the node … nothing else": not even whether a file is there, by a link that its root leaves where we look.
#[test]
fn a_container_learns_nothing_by_links() {
    let node = node_with_image("none,lxc");
    let [there, nowhere] = ["/etc/shadow", "/nowhere/at/all"].map(|target| {
        let script = format!("rm -f /.distcifs\nln -s {target} /.distcifs\nexit 3");
        let (state, why, _) = node.run(&target.replace('/', "-")[1..], &of_image("lxc"), &script);
        (state, why)
    });
    assert_eq!(there, nowhere);
    assert!(there.0 == "failure" && there.1.contains("exit 3"), "{there:?}");
}
