//! The Debian package and the units, on machines of their own with a real systemd.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use distcifs_tests::programs::{self, installed, project};
use distcifs_tests::wait::USUAL;
use distcifs_tests::{HELLO, Machine};

/// Units as an administrator of one machine enables them.
const WORKERS: &str = "distcifs-control@build-control distcifs-worker@execute-shell-1 distcifs-worker@execute-shell-2";

/// The package of the programs under test, made once for all tests, in the target folder.
fn first_package() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| package(Path::new(env!("CARGO_TARGET_TMPDIR")), 1))
}

/// Makes a package of the programs under test in a folder.
fn package(output: &Path, revision: u32) -> PathBuf {
    let made = Command::new(project().join("scripts/package"))
        .args(["--bin".as_ref(), programs::bin_dir().as_os_str()])
        .args(["--output".as_ref(), output.as_os_str()])
        .args(["--revision", &revision.to_string()])
        // Packed for a moment, not for a long way.
        .env("DPKG_DEB_COMPRESSOR_TYPE", "none")
        .output()
        .expect("scripts/package runs");
    assert!(made.status.success(), "no package: {made:?}");
    PathBuf::from(String::from_utf8_lossy(&made.stdout).trim_end())
}

/// The names of all programs that workers/ has.
fn workers() -> Vec<String> {
    let listed = |folder: &str| fs::read_dir(project().join(folder)).expect("the project has it");
    let built = listed("workers/src/bin").filter_map(|entry| {
        let path = entry.ok()?.path();
        Some(path.file_stem()?.to_str()?.to_owned())
    });
    let scripts = listed("workers").filter_map(|entry| {
        let path = entry.ok()?.path();
        let text = fs::read_to_string(&path).ok()?;
        let name = path.file_name()?.to_str()?.to_owned();
        text.starts_with("#!").then_some(name)
    });
    let found: Vec<String> = built.chain(scripts).collect();
    assert!(found.len() >= 5, "{found:?}");
    found
}

/// A machine with the package; `None`, and said so, where none can be booted.
fn machine() -> Option<Machine> {
    if !Machine::available() || !installed("dpkg-shlibdeps") {
        return None;
    }
    let machine = Machine::boot();
    fs::copy(first_package(), machine.share().join("first.deb")).expect("own folder");
    machine.run("dpkg -i /mnt/first.deb");
    Some(machine)
}

/// A machine with a mount on /ci and its workers, all by the units.
fn node() -> Option<Machine> {
    let machine = machine()?;
    machine.run(
        "cp /usr/share/doc/distcifs/examples/ci.conf /etc/distcifs/
         systemctl enable --now distcifs@ci
         chown distci-build-control: /ci/tickets/build-control",
    );
    machine.run(&format!("systemctl enable --now {WORKERS}"));
    machine.run(&format!(
        "mkdir /ci/jobs/a; printf %s '{HELLO}' > /ci/jobs/a/config.json"
    ));
    Some(machine)
}

/// A build of the job `a`, to its end.
fn build(machine: &Machine) -> String {
    let script = "exec 3<>/ci/jobs/a/trigger; echo >&3; read -r n <&3
        while s=$(cat /ci/jobs/a/builds/$n/.wait) && [ -z \"$s\" ]; do :; done; echo \"$s\"";
    machine.run(script).trim_end().to_owned()
}

fn main_pid(machine: &Machine, unit: &str) -> String {
    machine.run(&format!("systemctl show -P MainPID {unit}"))
}

/// Configures the job `slow`, starts a build of it, and waits until its script runs. The script
/// goes on when /tmp/go is there, as everybody sees it.
fn begin_slow_build(machine: &Machine) {
    let config =
        r#"{"tasks":[{"type":"execute-shell","params":{"script":"until [ -e /ci/jobs/a/go ]; do sleep 0.1; done"}}]}"#;
    machine.run(&format!(
        "mkdir -p /ci/jobs/slow; printf %s '{config}' > /ci/jobs/slow/config.json; echo > /ci/jobs/slow/trigger"
    ));
    let state = "[ \"$(cat /ci/jobs/slow/builds/latest/tasks/0-execute-shell/state)\" = running ]";
    machine.until("the slow build to run", USUAL, state);
}

/// Everything of the package is there, works, and goes again without a trace.
#[test]
fn it_installs_and_is_purged_without_a_trace() {
    let Some(machine) = machine() else { return };
    let version = machine.run("distcifs --version");
    assert!(version.starts_with("distcifs "), "{version}");
    machine.run("man -w distcifs distcifs-mount distcifs-fsck distcifs-cron > /dev/null");
    machine.run("man distcifs-mount | grep -q 'cache=DIR'");
    machine.run("dpkg --verify distcifs");
    machine.run(
        "/usr/lib/distcifs/build-control --help > /dev/null; /usr/share/doc/distcifs/examples/workers/lint --help > /dev/null",
    );
    for name in workers() {
        machine.run(&format!("test -x /usr/lib/distcifs/{name}"));
    }
    let files = machine.run("dpkg -L distcifs");
    assert!(files.lines().count() > 40, "{files}");
    machine.run(
        "mkdir -p /var/lib/distci /var/lib/distcifs/node-0123abcd/attempts; touch /etc/distcifs/mine.conf
        dpkg -r distcifs; dpkg -P distcifs",
    );
    let shared = |path: &str| Path::new(path).is_dir() && !path.contains("distcifs");
    let left: Vec<&str> = files
        .lines()
        .filter(|path| !shared(path) && machine.try_run(&format!("test ! -e '{path}'")).is_err())
        .collect();
    assert_eq!(
        left,
        ["/etc/distcifs"],
        "left after purge, beside what is the administrator's"
    );
    machine.run("rm -r /etc/distcifs");
    // Not in the folders of people, where somebody may be building meanwhile.
    let left = machine.run(
        "find /bin /boot /etc /lib* /opt /run /sbin /srv /usr /var -xdev -name '*distcifs*' -newer /etc/machine-id",
    );
    assert_eq!(left, "");
}

/// What scripts/install says, with a prefix and words; its status is good.
fn install(prefix: &Path, words: &[&str]) -> String {
    let ended = Command::new(project().join("scripts/install"))
        .args(["--bin".as_ref(), programs::bin_dir().as_os_str()])
        .args(words)
        .env("PREFIX", prefix)
        .env_remove("DESTDIR")
        .output()
        .expect("scripts/install runs");
    assert!(ended.status.success(), "{words:?}: {ended:?}");
    String::from_utf8_lossy(&ended.stdout).into_owned()
}

/// All below a folder, sorted.
fn all_below(folder: &Path) -> String {
    let found = Command::new("find").arg(folder).output().expect("find runs");
    let mut lines: Vec<String> = String::from_utf8_lossy(&found.stdout)
        .lines()
        .map(str::to_owned)
        .collect();
    lines.sort();
    lines.join("\n")
}

/// "Installs programs, workers, manual, completions and pages below PREFIX; done again it replaces what is
/// there; --uninstall removes what was installed there, and nothing else."
#[test]
fn scripts_install_puts_all_under_a_prefix_and_takes_it_away() {
    let dir = tempfile::tempdir().expect("a folder");
    let prefix = dir.path().join("of mine");
    fs::create_dir_all(prefix.join("bin")).expect("own folder");
    fs::write(prefix.join("bin/mine"), "").expect("own folder");
    let before = all_below(&prefix);
    let said = install(&prefix, &[]);
    assert!(
        said.contains("installing below") && said.contains("--uninstall"),
        "{said}"
    );
    let there = all_below(&prefix);
    for name in workers() {
        assert!(there.contains(&format!("lib/distcifs/{name}\n")), "{name}: {there}");
    }
    let built = fs::read_dir(project().join("workers/src/bin")).expect("the project has it");
    for worker in built.filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned())) {
        let page = format!("share/man/man8/distcifs-{worker}.8.gz");
        assert!(there.contains(&page), "{page}: {there}");
    }
    for file in [
        "share/man/man1/distcifs-mount.1.gz",
        "share/bash-completion/completions/distcifs",
        "share/zsh/site-functions/_distcifs",
        "share/fish/vendor_completions.d/distcifs.fish",
        "share/doc/distcifs/doc/tree.md",
        "share/doc/distcifs/examples/workers",
    ] {
        assert!(there.contains(file), "{file}: {there}");
    }
    // The workers are found where they are, and build.
    let script = r#"
        set -eu
        export PATH="$PREFIX/bin:$PATH"
        unset DISTCIFS_WORKERS
        mkdir mnt
        distcifs up store mnt > up 2>&1 & up=$!
        trap 'kill $up; wait $up' EXIT
        until grep -q ' is up' up; do kill -0 $up; sleep 0.1; done
        mkdir mnt/jobs/a
        echo '{"tasks":[{"type":"execute-shell","params":{"script":"echo built"}}]}' > mnt/jobs/a/config.json
        echo > mnt/jobs/a/trigger
        timeout 120 sh -c 'while [ -z "$(cat mnt/jobs/a/builds/1/.wait)" ]; do :; done'
        cat mnt/jobs/a/builds/1/console"#;
    let ran = Command::new("sh")
        .args(["-c", script])
        .current_dir(dir.path())
        .env("PREFIX", &prefix)
        .output()
        .expect("sh runs");
    assert!(String::from_utf8_lossy(&ran.stdout).contains("built"), "{ran:?}");

    let gone = prefix.join("lib/distcifs/of-before");
    fs::write(&gone, "").expect("own folder");
    let list = prefix.join("lib/distcifs/installed");
    let names = fs::read_to_string(&list).expect("a list");
    fs::write(&list, format!("{names}lib/distcifs/of-before\n")).expect("own file");
    install(&prefix, &[]);
    assert_eq!(
        all_below(&prefix),
        there,
        "again: the same, without what is no longer part of it"
    );
    install(&prefix, &["--uninstall"]);
    assert_eq!(all_below(&prefix), before);
}

/// A manual page for each worker that man understands, and no worker that does without its words.
#[test]
fn workers_have_manual_pages_and_completions() {
    for name in workers().iter().filter(|name| programs::bin_dir().join(name).is_file()) {
        let print = |words: &[&str]| {
            let ended = Command::new(programs::worker(name))
                .args(words)
                .output()
                .expect("it runs");
            assert!(ended.status.success(), "{name} {words:?}: {ended:?}");
            String::from_utf8_lossy(&ended.stdout).into_owned()
        };
        let page = print(&["--man"]);
        let title = name.replace('-', "\\-");
        assert!(page.contains(&format!(".SH NAME\ndistcifs\\-{title} \\- ")), "{page}");
        assert!(page.contains(".SH SYNOPSIS") && page.contains("MOUNT"), "{page}");
        let completion = print(&["--completion", "bash"]);
        let last = format!("-o bashdefault -o default {name}\n");
        assert!(completion.contains(&last), "{name}: {completion}");
        assert!(print(&["--version"]).starts_with(&format!("{name} ")), "{name}");
    }
}

#[test]
fn lintian_finds_nothing() {
    if !installed("lintian") || !installed("dpkg-shlibdeps") {
        return;
    }
    let found = Command::new("lintian")
        .args(["--allow-root", "--fail-on", "error,warning"])
        // As above.
        .args([
            "--suppress-tags",
            "uses-no-compression-for-control-tarball,uses-no-compression-for-data-tarball",
        ])
        .arg(first_package())
        .output()
        .expect("lintian runs");
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stdout));
}

/// systemd understands every line of every unit, in the version that is here.
#[test]
fn the_units_are_valid() {
    let Some(machine) = machine() else { return };
    let units = "distcifs@ci.service distcifs-worker@execute-shell-1.service distcifs-control@build-control.service \
                 distcifs-control@github-webhook.service distcifs-control@github-status.service \
                 distcifs-control@notify-mail.service distcifs-control@notify-webhook.service distcifs-control@web.service distcifs-gc@ci.service \
                 distcifs-gc@ci.timer";
    let said = machine.run(&format!("systemd-analyze verify {units} 2>&1"));
    assert_eq!(said, "");
    // A check that can't fail is none.
    machine
        .run("sed 's/^Type=notify/Type=notify\\nTypo=yes/' /lib/systemd/system/distcifs@.service > /tmp/typo@.service");
    let said = machine.run("systemd-analyze verify /tmp/typo@ci.service 2>&1 || true");
    assert!(said.contains("Typo"), "{said}");
}

/// What is told of the needrestart file holds for perl as well.
#[test]
fn services_are_left_alone_after_the_upgrade_of_a_library() {
    let script = "our %nrconf; do shift or die; exit((grep { 'distcifs@ci.service' =~ $_ } keys %{$nrconf{override_rc}}) ? 0 : 1)";
    let status = Command::new("perl")
        .args(["-e", script])
        .arg(project().join("scripts/systemd/needrestart.conf"))
        .status()
        .expect("perl runs");
    assert!(status.success());
}

/// A person with a job of their own, of which nobody else sees more than its name. Its script says
/// who runs it.
fn job_of_alice(machine: &Machine, name: &str, more: &str) {
    let config = format!(r#"{{"tasks":[{{"type":"execute-shell","params":{{"script":"id -un; id -Gn"}}}}]{more}}}"#);
    machine.run(&format!(
        "id alice > /dev/null 2>&1 || useradd --create-home alice
         mkdir -m 700 /ci/jobs/{name}; printf %s '{config}' > /ci/jobs/{name}/config.json; chown alice: /ci/jobs/{name}
         ! [ -e /ci/jobs/{name}/enabled ] || setpriv --reuid=alice --regid=alice --init-groups sh -c 'echo on > /ci/jobs/{name}/enabled'"
    ));
}

/// Triggers a job as alice, and gives the console when the build has succeeded.
fn build_of_alice(machine: &Machine, job: &str) -> String {
    machine.run(&format!(
        "setpriv --reuid=alice --regid=alice --init-groups sh -euc '
             exec 3<>/ci/jobs/{job}/trigger; echo >&3; read -r n <&3
             while s=$(cat /ci/jobs/{job}/builds/$n/.wait) && [ -z \"$s\" ]; do :; done
             [ \"$s\" = success ] || {{ cat /ci/jobs/{job}/builds/$n/why /ci/jobs/{job}/builds/$n/console >&2; exit 1; }}
             cat /ci/jobs/{job}/builds/$n/console'"
    ))
}

/// The mount and the workers are root's, and what a job says is done as its owner; who steers builds
/// is another user. Everything comes back by itself.
#[test]
fn a_node_builds_and_recovers() {
    let Some(machine) = node() else { return };
    assert_eq!(build(&machine), "success");
    let users = machine.run(
        "for unit in distcifs@ci distcifs-control@build-control distcifs-worker@execute-shell-1; do
        stat -c %U /proc/$(systemctl show -P MainPID $unit); done",
    );
    assert_eq!(users, "root\ndistci-build-control\nroot\n");
    job_of_alice(&machine, "private", "");
    assert_eq!(build_of_alice(&machine, "private"), "alice\nalice\n");
    machine.run(
        r#"mkdir /ci/jobs/roots; echo '{"tasks":[{"type":"execute-shell","params":{"script":"id -un"}}]}' > /ci/jobs/roots/config.json
        exec 3<>/ci/jobs/roots/trigger; echo >&3; read -r n <&3; while [ -z "$(cat /ci/jobs/roots/builds/1/.wait)" ]; do :; done
        grep -qx distci /ci/jobs/roots/builds/1/console"#,
    );

    let isolated = r#"mkdir /ci/jobs/isolated
        echo '{"tasks":[{"type":"execute-shell","isolation":"namespace","params":{"script":"id -un; ls /ci || true"}}]}' > /ci/jobs/isolated/config.json
        chown alice: /ci/jobs/isolated; [ ! -e /ci/jobs/isolated/enabled ] || setpriv --reuid=alice --regid=alice --init-groups sh -c 'echo on > /ci/jobs/isolated/enabled'
        echo > /ci/jobs/isolated/trigger; while [ -z "$(cat /ci/jobs/isolated/builds/1/.wait)" ]; do :; done
        cat /ci/jobs/isolated/builds/1/why /ci/jobs/isolated/builds/1/console"#;
    if installed("bwrap") {
        let said = machine.run(isolated);
        assert!(said.contains("\nci\n") && said.contains("No such file"), "{said}");
    }
    machine.run("kill -9 $(systemctl show -P MainPID distcifs@ci)");
    machine.until("the mount to come back", USUAL, "[ -e /ci/status ]");
    assert_eq!(build(&machine), "success");
    let worker = main_pid(&machine, "distcifs-worker@execute-shell-1");
    machine.run(&format!("kill -9 {worker}"));
    assert_eq!(build(&machine), "success");

    // "each night: frees what nothing needs, while the mount goes on and builds"
    let daemon = main_pid(&machine, "distcifs@ci");
    machine.run("systemctl start distcifs-gc@ci");
    assert_eq!(main_pid(&machine, "distcifs@ci"), daemon, "the mount goes on");
    assert_eq!(build(&machine), "success");
    machine.run("journalctl -u distcifs-gc@ci | grep -q freed");

    // All of a stopped node is stopped, and starts with its mount.
    machine.run("systemctl stop distcifs@ci");
    machine.run("! mountpoint -q /ci && ! pgrep -f '/usr/lib/distcif[s]/'");
    machine.run("systemctl start distcifs@ci");
    assert_eq!(build(&machine), "success");
}

/// "Each control program has a user of its own" without any right over the files of others, and yet
/// reaches private jobs: one is triggered by the build of another and by a delivery.
#[test]
fn control_programs_run_confined() {
    let Some(machine) = node() else { return };
    job_of_alice(&machine, "second", r#","github":{"repository":"octo/hello"}"#);
    job_of_alice(&machine, "first", r#","downstream_jobs":["second"]"#);
    machine.run(
        "cp /usr/share/doc/distcifs/examples/github-*.conf /etc/distcifs/
        sed -i s/127.0.0.1:8080/127.0.0.1:0/ /etc/distcifs/github-webhook.conf
        umask 077; mkdir /etc/distcifs/webhook.d; echo secret > /etc/distcifs/webhook.d/hello
        echo 'octo/hello hello alice' > /etc/distcifs/github-webhook.repositories
        echo token > /etc/distcifs/github-status.token
        ip link set lo up 2> /dev/null || true
        systemctl enable --now distcifs-control@cron distcifs-control@github-status distcifs-control@github-webhook",
    );
    build_of_alice(&machine, "first");
    let done = "[ \"$(cat /ci/jobs/second/builds/1/state)\" = success ]";
    machine.until("the downstream build", USUAL, done);
    let listening = "journalctl -o cat -u distcifs-control@github-webhook | sed -n 's/.*listening on //p' | grep -q .";
    machine.until("the receiver", USUAL, listening);
    machine.run(
        r#"address=$(journalctl -o cat -u distcifs-control@github-webhook | sed -n 's/.*listening on //p' | tail -n 1)
        body='{"ref":"refs/heads/main","after":"6113728f27ae82c7b1a177c8d03f9e96e0adf246","repository":{"full_name":"octo/hello"},"sender":{"login":"octo"}}'
        signature=$(printf %s "$body" | openssl dgst -sha256 -r -hmac secret | cut -d' ' -f1)
        curl -sf "http://$address/github" -H 'Content-Type: application/json' -H 'X-GitHub-Event: push' \
            -H "X-Hub-Signature-256: sha256=$signature" --data-binary "$body" > /dev/null"#,
    );
    let built = "[ \"$(cat /ci/jobs/second/builds/2/state)\" = success ]";
    machine.until("the build of the delivery", USUAL, built);
    let told = "journalctl -o cat -u distcifs-control@github-status | grep -q second/2";
    machine.until("the try to tell GitHub of it", USUAL, told);
    for program in ["build-control", "cron", "github-webhook", "github-status"] {
        let unit = format!("distcifs-control@{program}");
        let pid = main_pid(&machine, &unit);
        let pid = pid.trim();
        machine.run(&format!(
            "systemctl is-active {unit}; [ $(systemctl show -P NRestarts {unit}) = 0 ]
            [ $(stat -c %U /proc/{pid}) = distci-{program} ]
            grep -q '^NoNewPrivs:.1' /proc/{pid}/status
            [ $(grep -Ec '^Cap(Inh|Prm|Eff|Bnd|Amb):.0000000000000000$' /proc/{pid}/status) = 5 ]"
        ));
        // Whoever runs the scripts of root's jobs, and the program itself.
        let distci = "setpriv --reuid=distci --regid=distci --clear-groups";
        let itself = format!("nsenter --target {pid} --mount --root setpriv --reuid=distci-{program} --clear-groups");
        machine.run(&format!(
            "{distci} true; {itself} cat /ci/jobs/first/config.json > /dev/null"
        ));
        for refused in [
            format!("{distci} kill -0 {pid}"),
            format!("{distci} cat /proc/{pid}/environ"),
            format!("{distci} ls /run/credentials/{unit}.service"),
            format!("{itself} sh -c ': > /etc/mine'"),
            format!("{itself} sh -c ': > /ci/jobs/first/config.json'"),
            format!("{itself} ls /ci/jobs/first/builds/1/artifacts"),
            format!("{itself} cat /etc/distcifs/webhook.d/hello"),
        ] {
            assert!(machine.try_run(&refused).is_err(), "{refused}");
        }
    }
    machine.run("ls /run/credentials/distcifs-control@github-webhook.service/webhook.d_hello");
}

/// An upgrade touches nothing that runs; a reload takes the new programs when the script has ended.
#[test]
fn builds_survive_an_upgrade() {
    let Some(machine) = node() else { return };
    begin_slow_build(&machine);
    let before = [
        main_pid(&machine, "distcifs@ci"),
        main_pid(&machine, "distcifs-control@build-control"),
    ];
    package(&machine.share(), 2);
    machine.run("dpkg -i /mnt/distcifs_*-2_*.deb");
    let after = [
        main_pid(&machine, "distcifs@ci"),
        main_pid(&machine, "distcifs-control@build-control"),
    ];
    assert_eq!(before, after);
    machine.run("systemctl reload 'distcifs-worker@*'");
    assert_eq!(build(&machine), "success");
    machine.run("touch /ci/jobs/a/go");
    machine.until(
        "the slow build's end",
        USUAL,
        "[ \"$(cat /ci/jobs/slow/builds/1/state)\" = success ]",
    );
    assert_eq!(
        machine.run("cat /ci/jobs/slow/builds/1/tasks/0-execute-shell/attempt"),
        "1\n"
    );
    let both = "systemctl -q is-active distcifs-worker@execute-shell-1 && systemctl -q is-active distcifs-worker@execute-shell-2";
    machine.until("the new workers", USUAL, both);
    // As doc/deploy.md has it: what is worked is finished, then the mount anew.
    machine.run("distcifs drain /ci && systemctl restart distcifs@ci");
    machine.until("the workers to come back", USUAL, both);
    assert_eq!(build(&machine), "success");
}

/// Lines of /etc/fstab, and a removal while all runs.
#[test]
fn fstab_and_removal() {
    let Some(machine) = node() else { return };
    machine.run(
        "mkdir /other; echo '/var/lib/other /other fuse.distcifs nofail,x-systemd.mount-timeout=60 0 0' >> /etc/fstab
        systemctl daemon-reload; systemctl start other.mount; ls /other/jobs /other/status
        systemctl stop other.mount; ! mountpoint -q /other || exit 1
        mount /other; ls /other/status; umount /other",
    );
    begin_slow_build(&machine);
    machine.run("dpkg -r distcifs");
    machine.run("! mountpoint -q /ci && ! pgrep -f '/usr/lib/distcif[s]/'");
    machine.run("dpkg -P distcifs");
    let left = machine.run("find /etc -name '*distcifs*'");
    assert_eq!(left, "/etc/distcifs\n");
    // What was stored is there for another day.
    machine.run("dpkg -i /mnt/first.deb; distcifs mount /var/lib/distci /ci");
    machine.until(
        "the build to be open again",
        Duration::from_secs(5),
        "grep -q 'pending\\|running' /ci/jobs/slow/builds/1/state",
    );
    machine.run("distcifs umount /ci");
}
