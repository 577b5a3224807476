//! A machine of its own: this system's files under an overlay that is thrown away, in namespaces of
//! their own, booted by its systemd. What is installed, enabled or broken in it is gone with it.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::unistd::{Pid, geteuid};
use tempfile::TempDir;

use crate::wait::wait_for;
use crate::{process, programs};

/// Seconds. A test that still has its machine after this hangs: everything in it is killed.
const LIFE_LIMIT: &str = "300";

/// systemd is through with its basic units in two seconds on an idle machine.
const BOOT_LIMIT: Duration = Duration::from_secs(60);

/// Seconds that one command in the machine may take.
const CALL_LIMIT: &str = "100";

/// Makes the machine's root in the folder `$1` and becomes its first process. Only units that are
/// started by name run there: which ones this system has enabled, and what was mounted here, must
/// not matter. What the kernel has for all (its settings, modules, clock) can't be changed from there.
const BOOT: &str = r#"
mount --make-rprivate /
mount -t tmpfs -o mode=755 machine "$1/disk"
mkdir "$1/disk/upper" "$1/disk/work" "$1/disk/root"
root=$1/disk/root
mount -t overlay -o "lowerdir=/,upperdir=$1/disk/upper,workdir=$1/disk/work" overlay "$root"
rm -rf "$root"/etc/systemd/system/*.wants "$root"/etc/fstab "$root"/etc/machine-id
rm -rf "$root"/etc/distcifs "$root"/var/lib/distci "$root"/var/lib/distcifs
: > "$root/etc/machine-id"
# Building the index of all manuals takes longer than the rest of an installation.
rm -f "$root/var/lib/man-db/auto-update"
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
# Where no /proc can be seen whole, no user namespace may mount one.
mkdir "$root/whole-proc"
mount -t proc proc "$root/whole-proc"
mount --bind "$root/whole-proc/sys/user" "$root/proc/sys/user"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
for folder in run tmp dev; do mount -t tmpfs -o mode=755 "$folder" "$root/$folder"; done
chmod 1777 "$root/tmp"
for device in null zero full random urandom tty fuse; do
    : > "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
mount -t tmpfs shm "$root/dev/shm"
mount --bind "$1/share" "$root/mnt"
# No chroot: whoever is in one makes no user namespace.
mkdir "$root/outside"
cd "$root"
pivot_root . outside
umount -l /outside
rmdir /outside
# As a system has it: credentials of a unit come from a namespace beside.
mount --make-rshared /
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    setpriv --bounding-set=-sys_module,-sys_time,-sys_rawio,-syslog /lib/systemd/systemd --unit=basic.target --show-status=no
"#;

/// A booted machine.
#[derive(Debug)]
pub struct Machine {
    folder: TempDir,
    outer: Child,
    group: PathBuf,
}

impl Machine {
    /// Whether this system can be booted in namespaces; says so, loudly, if not.
    pub fn available() -> bool {
        let file_systems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        let why = if !geteuid().is_root() {
            "a machine for a test needs root"
        } else if !fs::metadata("/lib/systemd/systemd").is_ok_and(|meta| meta.is_file()) {
            "no systemd here to boot a machine for a test; scripts/setup --package installs it"
        } else if !file_systems.lines().any(|line| line.ends_with("\toverlay")) {
            "a machine for a test needs overlayfs in the kernel"
        } else if unified_groups().is_none() {
            "a machine for a test needs the unified hierarchy of cgroups"
        } else {
            return true;
        };
        programs::skipped(why);
        false
    }

    /// Boots one.
    pub fn boot() -> Machine {
        let folder = tempfile::Builder::new()
            .prefix("distcifs-machine-")
            .tempdir()
            .expect("a temporary folder");
        for name in ["disk", "share"] {
            fs::create_dir(folder.path().join(name)).expect("own folder");
        }
        let name = folder.path().file_name().expect("a temporary folder has a name");
        let group = unified_groups().expect("asked before").join(name);
        fs::create_dir(&group).expect("a cgroup");
        let output = fs::File::create(folder.path().join("boot")).expect("own folder");
        // Who enters the group before the namespace is made sees it as the root of all groups.
        let outer = Command::new("sh")
            .args(["-euc", "echo $$ > \"$1/cgroup.procs\"; shift; exec \"$@\"", "sh"])
            .arg(&group)
            .args(["timeout", "--signal=KILL", LIFE_LIMIT, "unshare"])
            .args([
                "--mount",
                "--pid",
                "--uts",
                "--ipc",
                "--cgroup",
                "--fork",
                "--kill-child",
            ])
            .args(["sh", "-euc", BOOT, "boot"])
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a descriptor"))
            .stderr(output)
            .spawn()
            .expect("sh runs");
        let machine = Machine { folder, outer, group };
        wait_for("the machine to boot", BOOT_LIMIT, || machine.is_up());
        machine
    }

    /// A folder that is /mnt in the machine.
    pub fn share(&self) -> PathBuf {
        self.folder.path().join("share")
    }

    /// Runs a script as root in it; gives what it wrote, or panics with everything.
    #[track_caller]
    pub fn run(&self, script: &str) -> String {
        match self.try_run(script) {
            Ok(text) => text,
            Err(text) => panic!("in the machine:\n{script}\nfailed:\n{text}\n{}", self.journal()),
        }
    }

    /// The same; what it wrote all the same if it failed.
    pub fn try_run(&self, script: &str) -> Result<String, String> {
        let output = self.enter(&["sh", "-euc", script]).output().expect("nsenter runs");
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(text);
        }
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        Err(format!("{text}({})", output.status))
    }

    /// Waits until a script succeeds.
    #[track_caller]
    pub fn until(&self, what: &str, bound: Duration, script: &str) {
        let begun = std::time::Instant::now();
        while self.try_run(script).is_err() {
            assert!(
                begun.elapsed() < bound,
                "waited {bound:?} in vain for: {what}\n{}",
                self.journal()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The last lines of its journal, for a failing test.
    fn journal(&self) -> String {
        self.try_run("journalctl -n 60 --no-pager -o short-precise")
            .unwrap_or_else(|text| text)
    }

    fn is_up(&self) -> bool {
        self.first().is_some()
            && self
                .try_run("case $(systemctl is-system-running) in running|degraded) ;; *) exit 1 ;; esac")
                .is_ok()
    }

    /// Its first process, seen from outside: the child of unshare, which is timeout's.
    fn first(&self) -> Option<Pid> {
        let timeout = Pid::from_raw(self.outer.id().cast_signed());
        let unshare = *process::children(timeout).first()?;
        process::children(unshare).first().copied()
    }

    fn enter(&self, words: &[&str]) -> Command {
        let first = self.first().expect("the machine runs").to_string();
        let mut command = Command::new("timeout");
        command
            .args([CALL_LIMIT, "nsenter", "--target", &first])
            .args(["--mount", "--pid", "--uts", "--ipc", "--cgroup", "--root", "--wdns=/"])
            .args([
                "env",
                "-i",
                "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
                "LC_ALL=C.UTF-8",
                "HOME=/",
            ])
            .args(words)
            .stdin(Stdio::null());
        command
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The end of a first process is the end of all of its namespace.
        if let Some(pid) = self.first() {
            process::signal(pid, nix::sys::signal::Signal::SIGKILL);
        }
        let _ = self.outer.wait();
        remove_groups(&self.group);
    }
}

/// Where groups of the unified hierarchy are made.
fn unified_groups() -> Option<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = table.lines().find(|line| line.contains(" - cgroup2 "))?;
    line.split(' ').nth(4).map(PathBuf::from)
}

/// Groups without a process, from the innermost on.
fn remove_groups(group: &std::path::Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_groups(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}
