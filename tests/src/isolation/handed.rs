//! Descriptors that somebody outside hands to an isolated script: of no use to it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command};

use serde_json::{Value, json};

use super::checks::{escapes, with};
use super::{BUILD_MAX, Node, isolated};
use crate::job::shell_task;
use crate::wait::wait_for;

/// A folder in which anybody may do anything, with what the helper looks for, and the socket in it.
fn folder(node: &Node) -> (std::path::PathBuf, UnixListener) {
    let folder = node.mount.out().join("handed");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("inner")).expect("own folder");
    for name in ["there", "old"] {
        fs::write(folder.join(name), "of the node").expect("own folder");
    }
    fs::copy("/bin/true", folder.join("program")).expect("own folder");
    let socket = UnixListener::bind(folder.join("listens")).expect("own folder");
    let modes = [
        ("", 0o777),
        ("inner", 0o777),
        ("there", 0o666),
        ("program", 0o755),
        ("listens", 0o777),
    ];
    for (name, mode) in modes {
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(mode)).expect("own file");
    }
    (folder, socket)
}

/// What is done with it in which Landlock has no say, and everybody may: it is so by the modes alone.
const LET: [&str; 3] = [
    "attribute of what all may write",
    "time of now of what all may write",
    "connection to a socket that all may write",
];

/// The friend outside.
struct Friend(Child);

impl Friend {
    fn start(node: &Node, within: &Path, words: &[&str], folder: &Path) -> Friend {
        let mut command = Command::new(node.helper());
        command.current_dir(within).args(words).arg(folder);
        Friend(command.spawn().expect("the helper"))
    }
}

impl Drop for Friend {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// "What somebody outside hands to an isolated script, by a socket of its workspace or of its network, it can't
/// open": not what is there, and nothing new. "It has no say in modes, owners, times and attributes … nor in sockets":
/// there is nothing that the script's ids own, and what everybody may is let.
#[track_caller]
pub fn what_is_handed_to_it_is_of_no_use(node: &Node, isolation: &Value) {
    let open = with(isolation, "network", json!(true));
    let name = format!("@distcifs-handed-{}", std::process::id());
    for (job, isolation, takes, gives, socket) in [
        ("by-file", isolation, "handed", "hand", "s"),
        ("by-name", &open, "handed", "hand", name.as_str()),
        ("to-name", &open, "fetch", "offer", name.as_str()),
    ] {
        let (folder, _socket) = folder(node);
        let before = listing(&folder);
        let script = format!("echo begun; ./escape {takes} {socket}");
        node.job(
            job,
            &[shell_task("cp \"$PARAM_helper\" escape"), isolated(isolation, &script)],
        );
        let friend = |within: &Path| Friend::start(node, within, &[gives, socket], &folder);
        let offered = (gives == "offer").then(|| friend(&node.mount.out()));
        let build = node.mount.trigger(job, "");
        let waits = if offered.is_some() { "begun" } else { "waits" };
        wait_for("the script", BUILD_MAX, || {
            node.mount.console(job, build).contains(waits)
        });
        let workspace = node
            .mount
            .path(&format!("tickets/execute-shell/{job}.{build}.1/workspace"));
        let handed = offered.is_none().then(|| friend(&workspace));
        let state = node.mount.wait_state_within(job, build, BUILD_MAX);
        drop((offered, handed));
        let console = node.mount.console(job, build);
        assert_eq!(state, "success", "{job}: {console}");
        assert!(
            console.contains("used up") && !console.contains("odd:"),
            "{job}: {console}"
        );
        assert_eq!(escapes(&console), Vec::<&str>::new(), "{job}: {console}");
        let done: Vec<_> = console.lines().filter_map(|line| line.strip_prefix("let: ")).collect();
        assert!(done == LET || (gives == "offer" && done.is_empty()), "{job}: {console}");
        assert_eq!(listing(&folder), before, "{job}");
    }
}

/// What stands in a folder, with modes and owners.
fn listing(folder: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    let line = |entry: fs::DirEntry| {
        let found = entry.metadata().expect("an entry");
        format!(
            "{:?} {:o} {}:{} {}",
            entry.file_name(),
            found.mode(),
            found.uid(),
            found.gid(),
            found.len()
        )
    };
    let mut lines: Vec<String> = fs::read_dir(folder).expect("own folder").flatten().map(line).collect();
    lines.sort();
    lines
}

/// "What is inside goes on": files are made, moved and linked across folders, programs started, and sockets and
/// descriptors passed among the script's own processes.
#[track_caller]
pub fn what_is_inside_goes_on(node: &Node, isolation: &Value) {
    let script = "cd /tmp; mkdir a b; echo one > a/f; mv a/f b/g; ln b/g a/h; cat a/h; ln -s ../b/g a/l; cat a/l
        mkfifo p; (echo two > p &); cat p; cat /dev/stdin; echo three > /dev/stdout; [ \"$(tail -c 1 /dev/null)\" = '' ]
        printf '#!/bin/sh\\necho four\\n' > x; chmod 755 x; ./x
        cp a/h \"$WORKSPACE/../workspace/\"; rm h 2> /dev/null || rm \"$WORKSPACE/h\"
        mkdir c c/inner; chmod 777 c; echo > c/there; echo > c/old; cp \"$WORKSPACE/escape\" c/program
        for s in /tmp/s @inside; do
            \"$WORKSPACE/escape\" handed $s > said & \"$WORKSPACE/escape\" hand $s /tmp/c; wait
            grep -c '^escaped' said; rm -r c/made c/soft c/fifo c/suid c/socket; mv c/moved c/there; echo > c/old
        done
        if command -v gcc > /dev/null; then echo 'int main(void){return 5;}' > y.c; gcc y.c -o y; ./y || echo gcc $?; fi";
    node.job(
        "inside",
        &[shell_task("cp \"$PARAM_helper\" escape"), isolated(isolation, script)],
    );
    let (state, why, console) = node.build("inside");
    assert_eq!(state, "success", "{why}\n{console}");
    for line in ["one\none", "two", "three", "four", "15\n15"] {
        assert!(console.contains(line), "{line}: {console}");
    }
    assert!(!console.contains("odd:"), "{console}");
}

/// "A container has set-user-id programs", of its image and of its own.
#[track_caller]
pub fn programs_of_another_user_work(node: &Node, isolation: &Value) {
    let script = "cp escape /program; chmod 4755 /program; ls -l /program; ./escape as 1000 /program euid
        grep CapBnd /proc/self/status";
    node.job(
        "setuid",
        &[
            shell_task("cp \"$PARAM_helper\" escape; chmod 755 escape"),
            isolated(isolation, script),
        ],
    );
    let (state, why, console) = node.build("setuid");
    assert_eq!(state, "success", "{why}\n{console}");
    assert!(console.contains("user 0 by its file"), "{console}");
    let bounds = console.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let bounds = bounds.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    assert!(bounds.is_some_and(|bits| bits >> 21 & 1 == 0), "sys_admin: {console}");
}
