//! Parts of the environments, each alone, under each shell that is there, on a folder and with programs of the
//! test's own in place of those that need a node.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is not as it should be"
)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const SHELLS: [&[&str]; 3] = [&["dash"], &["bash"], &["busybox", "sh"]];

/// A folder of the test's own.
fn folder(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// What a script says that has the shared part of the environments; `None` if this shell is not there.
fn run(shell: &[&str], folder: &Path, script: &str) -> Option<String> {
    let isolate = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(shell[0])
        .args(&shell[1..])
        .args(["-euc", &format!(". \"$1\"/isolate.sh\n{script}"), "isolate"])
        .arg(isolate)
        .env("ISOLATE_SPACE", folder)
        .env("ISOLATE_CACHE", folder)
        .output()
        .ok()?;
    assert!(output.status.success(), "{shell:?}: {output:?}");
    Some(String::from_utf8(output.stdout).unwrap())
}

/// "That room is taken when the container begins": what one may still write is no room for the next.
#[test]
fn changes_of_a_container_take_their_room_at_once() {
    const BYTES: u64 = 16 << 20;
    // Whether the disk reserves is its own affair; where it does not, memory is taken.
    let script = format!(
        "ISOLATE_DISK={BYTES} stage=$ISOLATE_SPACE
         mount() {{ echo mounted; }}
         PATH=$ISOLATE_SPACE:$PATH
         changes_on_disk || echo in memory"
    );
    let folder = folder("changes");
    std::os::unix::fs::symlink("/bin/true", folder.join("mkfs.ext4")).unwrap();
    for shell in SHELLS {
        let Some(said) = run(shell, &folder, &script) else {
            continue;
        };
        let file = folder.join("changes");
        match said.trim() {
            "mounted" => {
                let made = fs::metadata(&file).unwrap();
                assert_eq!(made.len(), BYTES);
                assert!(made.blocks() * 512 >= BYTES, "{} blocks", made.blocks());
                fs::remove_file(file).unwrap();
            }
            other => assert_eq!(other, "in memory", "{shell:?}"),
        }
    }
    fs::remove_dir_all(&folder).unwrap();
}

/// "A no counts for an hour … So it does where qemu could not begin at all, and where the task had `limits`": what
/// is kept of one trial with this status and under these limits.
#[test]
fn what_a_trial_of_kvm_says_for_others() {
    let vm = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("isolate/vm")).unwrap();
    let begin = vm.find("try_kvm() {").unwrap();
    let end = begin + vm[begin..].find("\n}\n").unwrap() + 2;
    let hour = vm.lines().find(|line| line.starts_with("kvm_no=")).unwrap();
    let stubs = "stage=$ISOLATE_SPACE own=$ISOLATE_SPACE kvm_patience=1 cpus_default=1 kernel=/dev/null
        find_kernel() { :; }
        make_initramfs() { : >\"$2\"; }
        exec 3>&1
        in_ids() { : >\"$own/tried\"; echo tried >&3; return \"$status_of_it\"; }";
    let folder = folder("kvm");
    let kept = folder.join("kvm-works");
    let trial = |shell: &[&str], status: u32, limits: &str| {
        let script = format!(
            "{stubs}\n{hour}\n{}\nstatus_of_it={status} {limits}\ntry_kvm 2>/dev/null || echo no",
            &vm[begin..end]
        );
        run(shell, &folder, &script)
    };
    for shell in SHELLS {
        let _ = fs::remove_file(&kept);
        if trial(shell, 127, "").is_none() {
            continue;
        }
        for (status, limits) in [
            (1, ""),
            (125, ""),
            (126, ""),
            (127, ""),
            (137, "ISOLATE_CPUS=0.05"),
            (137, "ISOLATE_MEMORY=400000000"),
        ] {
            assert_eq!(trial(shell, status, limits).as_deref(), Some("tried\nno\n"), "{status}");
            assert!(!kept.exists(), "{shell:?}: {status} {limits} is kept for others");
        }
        assert_eq!(trial(shell, 137, "").as_deref(), Some("tried\nno\n"));
        assert_eq!(trial(shell, 0, "").as_deref(), Some("no\n"), "it counts");
        let text = fs::read_to_string(&kept).unwrap();
        let mut words: Vec<&str> = text.split_whitespace().collect();
        words[2] = "0";
        fs::write(&kept, words.join(" ") + "\n").unwrap();
        assert_eq!(
            trial(shell, 0, "ISOLATE_CPUS=0.05").as_deref(),
            Some("tried\n"),
            "an hour is over"
        );
        assert_eq!(
            trial(shell, 137, "").as_deref(),
            Some(""),
            "a yes counts until the node starts again"
        );
    }
    fs::remove_dir_all(&folder).unwrap();
}

/// "Where it does not work the worker offers neither `namespace` nor `lxc`. `--without-landlock` offers them all the
/// same."
#[test]
fn without_landlock_an_environment_is_refused() {
    let folder = folder("landlock");
    let script = "(ISOLATE_CONFINE=confine; set_confine; echo \"one $confine\")
         (ISOLATE_CONFINE=none; set_confine; echo \"two $confine\")
         (ISOLATE_CONFINE=; set_confine; echo \"three $confine\") 2>&1 || echo refused";
    for shell in SHELLS {
        let Some(said) = run(shell, &folder, script) else {
            continue;
        };
        assert!(said.starts_with("one /isolate/confine\ntwo \n"), "{said}");
        assert!(
            said.ends_with("refused\n") && said.contains("has no Landlock"),
            "{said}"
        );
        assert!(!said.contains("three"), "{said}");
    }
    // Both ask, as a check and before they run anything.
    for name in ["namespace", "lxc"] {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("isolate").join(name);
        let mut check = Command::new(program);
        let output = check
            .arg("check")
            .env("ISOLATE_CONFINE", "")
            .env("ISOLATE_UID", "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let missing = said.contains("install the package");
        assert!(
            !output.status.success() && (missing || said.contains("Landlock")),
            "{name}: {said}"
        );
    }
    fs::remove_dir_all(&folder).unwrap();
}

/// "None of a network that the node has a route to", behind a router too; "routes to much of the world do not count".
#[test]
fn a_network_behind_a_router_is_the_nodes() {
    let folder = folder("routes");
    let routes = folder.join("routes");
    fs::write(
        &routes,
        "default via 10.1.0.1 dev eth0 proto dhcp\n\
         0.0.0.0/1 via 10.8.0.1 dev tun0\n\
         128.0.0.0/1 dev tun0 scope link\n\
         9.0.0.0/8 via 10.1.0.9 dev eth0\n\
         10.1.0.0/24 dev eth0 proto kernel scope link src 10.1.0.4\n\
         11.5.0.0/16 proto bird metric 32\n\
         \tnexthop via 10.1.0.7 dev eth0 weight 1\n\
         168.63.129.16 via 10.1.0.1 dev eth0 proto dhcp\n\
         unreachable 12.0.0.0/8 metric 5\n\
         local 10.1.0.4 dev eth0 table local proto kernel\n\
         broadcast 10.1.0.255 dev eth0 table local\n",
    )
    .unwrap();
    let routes6 = folder.join("routes6");
    fs::write(
        &routes6,
        "2000::/3 via fe80::1 dev eth0\n2a00:77::/32 via fe80::1 dev eth0\ndefault via fe80::1 dev eth0\n",
    )
    .unwrap();
    let script = "ip() { case $1 in -4) cat \"$ISOLATE_SPACE/routes\" ;; *) cat \"$ISOLATE_SPACE/routes6\" ;; esac; }
        of_node -4
        echo
        of_node -6";
    let wanted = "10.1.0.0/24 10.1.0.1 10.1.0.4 10.1.0.7 10.1.0.9 10.8.0.1 11.5.0.0/16 168.63.129.16 9.0.0.0/8";
    let wanted6 = "2a00:77::/32 fe80::1";
    for shell in SHELLS {
        let Some(said) = run(shell, &folder, script) else {
            continue;
        };
        let (four, six) = said.split_once("\n\n").unwrap();
        let mut four: Vec<&str> = four.split_whitespace().collect();
        four.sort_unstable();
        assert_eq!(four.join(" "), wanted, "{shell:?}");
        assert_eq!(
            six.split_whitespace().collect::<Vec<_>>().join(" "),
            wanted6,
            "{shell:?}"
        );
    }
    fs::remove_dir_all(&folder).unwrap();
}
