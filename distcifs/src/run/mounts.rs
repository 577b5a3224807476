//! The kernel's mount table, seen from here.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::statvfs::statvfs;

use crate::fuse::session::REQUEST_BYTES_MAX;

/// The type of our mounts in the mount table.
const TYPE: &str = "fuse.distcifs";

/// How long a mount may take to answer before it counts as silent.
const PROBE_TIME: Duration = Duration::from_secs(5);

/// What the kernel reads ahead, KiB: one request of the largest size. A large artifact takes a fifth
/// less of a processor so.
const READAHEAD_KIB: u32 = REQUEST_BYTES_MAX >> 10;

/// A line of /proc/self/mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MountEntry {
    /// Where it is mounted.
    pub(super) mountpoint: PathBuf,
    /// Its type.
    pub(super) kind: String,
    /// What is mounted.
    pub(super) source: PathBuf,
    /// Its device number, as `major:minor`.
    pub(super) device: String,
}

/// How a mount point answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probe {
    /// With anything, an error included.
    Alive,
    /// Not connected: its daemon is dead.
    Dead,
    /// Not in time.
    Silent,
}

impl MountEntry {
    /// Whether it is one of ours.
    pub(super) fn is_ours(&self) -> bool {
        self.kind == TYPE
    }
}

/// The uppermost mount on exactly this path.
pub(super) fn find(mountpoint: &Path) -> Result<Option<MountEntry>, String> {
    let table = fs::read("/proc/self/mountinfo").map_err(|error| format!("/proc/self/mountinfo: {error}"))?;
    let mut lines = table.split(|byte| *byte == b'\n').filter_map(parse);
    Ok(lines.rfind(|entry| entry.mountpoint == mountpoint))
}

/// Lets the kernel read ahead in requests as large as it agreed to: it takes 128 KiB for every new
/// file system, whatever that asks for, and only root can say otherwise.
pub(super) fn widen_readahead(mountpoint: &Path) -> Result<(), String> {
    let Some(entry) = find(mountpoint)? else { return Ok(()) };
    let knob = format!("/sys/class/bdi/{}/read_ahead_kb", entry.device);
    fs::write(&knob, READAHEAD_KIB.to_string()).map_err(|error| format!("{knob}: {error}"))
}

/// Reads a line; `None` if it has another form.
fn parse(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = String::from_utf8(fields.by_ref().nth(2)?.to_vec()).ok()?;
    let mountpoint = unescape(fields.nth(1)?);
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let kind = String::from_utf8(fields.next()?.to_vec()).ok()?;
    let source = unescape(fields.next()?);
    Some(MountEntry {
        mountpoint,
        kind,
        source,
        device,
    })
}

/// Space, tab, newline and backslash stand as `\` and three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let digit = |index: usize| {
            after
                .get(index)
                .filter(|byte| (b'0'..=b'7').contains(*byte))
                .map(|byte| byte - b'0')
        };
        match (first, digit(0), digit(1), digit(2)) {
            (b'\\', Some(high @ 0..=3), Some(middle), Some(low)) => {
                bytes.push(high * 64 + middle * 8 + low);
                rest = after.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// Asks a mount point for its figures (statfs is the one request that the kernel never answers from
/// what it remembers), in a thread of its own: a stuck daemon never answers.
pub(super) fn probe(mountpoint: &Path) -> Probe {
    probe_for(mountpoint, PROBE_TIME)
}

/// The same with a time limit.
pub(super) fn probe_for(mountpoint: &Path, limit: Duration) -> Probe {
    let (sender, receiver) = channel();
    let path = mountpoint.to_owned();
    // The thread of a silent mount stays behind until the kernel lets it go; it holds nothing.
    let asked = thread::Builder::new().name("probe".into()).spawn(move || {
        let answer = statvfs(&path);
        // Nobody listens any more when it took too long.
        sender.send(answer.err()).ok();
    });
    if asked.is_err() {
        return Probe::Silent;
    }
    match receiver.recv_timeout(limit) {
        Ok(Some(Errno::ENOTCONN | Errno::ECONNABORTED)) => Probe::Dead,
        Ok(_) => Probe::Alive,
        Err(_) => Probe::Silent,
    }
}

/// How a mount can be refused to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Somebody is inside.
    Busy,
    /// Anything else, in words.
    Other(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Busy => f.write_str("it is busy"),
            Refusal::Other(reason) => f.write_str(reason),
        }
    }
}

/// Unmounts; lazily means at once, though somebody may still be inside.
pub(super) fn unmount(mountpoint: &Path, lazy: bool) -> Result<(), Refusal> {
    let flags = if lazy { MntFlags::MNT_DETACH } else { MntFlags::empty() };
    match umount2(mountpoint, flags | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::EBUSY) => Err(Refusal::Busy),
        Err(Errno::EPERM) => by_fusermount(mountpoint, lazy),
        Err(error) => Err(Refusal::Other(format!(
            "can't unmount {}: {error}",
            mountpoint.display()
        ))),
    }
}

/// Whoever is not root unmounts through fuse3's helper.
fn by_fusermount(mountpoint: &Path, lazy: bool) -> Result<(), Refusal> {
    let mut command = Command::new("fusermount3");
    command
        .arg("-u")
        .args(lazy.then_some("-z"))
        .arg("--")
        .arg(mountpoint)
        .stdin(Stdio::null())
        .env("LC_ALL", "C");
    let output = command
        .output()
        .map_err(|error| Refusal::Other(format!("can't run fusermount3: {error}; install the package fuse3")))?;
    let text = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(()),
        false if text.contains("busy") => Err(Refusal::Busy),
        false => Err(Refusal::Other(text.trim().to_owned())),
    }
}

/// Detaches the dead mounts of ours that lie on a mount point.
pub(super) fn detach_dead(mountpoint: &Path) -> Result<(), String> {
    // Each turn removes one; that many on one another are made by nobody.
    for _ in 0..STACKED_MAX {
        match find(mountpoint)? {
            Some(entry) if entry.is_ours() && probe(mountpoint) == Probe::Dead => {}
            _ => return Ok(()),
        }
        unmount(mountpoint, true).map_err(|refusal| {
            format!(
                "{} holds a dead mount that can't be detached: {refusal}",
                mountpoint.display()
            )
        })?;
    }
    Err(format!("{} holds too many dead mounts", mountpoint.display()))
}

/// Dead mounts on one another that are detached before giving up.
const STACKED_MAX: usize = 16;

/// A process that keeps a mount busy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    /// Its process id.
    pub(super) pid: u32,
    /// Its name.
    pub(super) name: String,
}

/// At most `max` processes that have their working folder, their root, their program or an open
/// file there, as far as we may look. Nothing on the mount itself is asked, only the links' text.
pub(super) fn users(mountpoint: &Path, max: usize) -> Vec<User> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let using = pids.filter(|pid| uses(*pid, mountpoint));
    using.take(max).map(|pid| User { pid, name: name(pid) }).collect()
}

/// Whether a process is inside.
fn uses(pid: u32, mountpoint: &Path) -> bool {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let inside = |link: PathBuf| fs::read_link(link).is_ok_and(|target| target.starts_with(mountpoint));
    if ["cwd", "root", "exe"]
        .into_iter()
        .any(|link| inside(process.join(link)))
    {
        return true;
    }
    fs::read_dir(process.join("fd")).is_ok_and(|files| files.flatten().any(|file| inside(file.path())))
}

/// The `distcifs up` that would mount this again at once: the parent of a daemon that it has started there,
/// as far as we may look.
pub(super) fn keeper(mountpoint: &Path) -> Option<u32> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find_map(|pid| {
        let line = words(pid);
        let kept = line.windows(2).any(|two| two == [b"--child".as_slice(), b"supervised"]);
        if !kept || line.last()?.as_slice() != mountpoint.as_os_str().as_bytes() {
            return None;
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // After the name, which may hold anything: the state, then the parent.
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        words(parent).iter().any(|word| word == b"up").then_some(parent)
    })
}

/// The words of a process's command line.
fn words(pid: u32) -> Vec<Vec<u8>> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = line.strip_suffix(b"\0").unwrap_or(&line);
    line.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
}

/// The name of a process, without what would upset a terminal.
fn name(pid: u32) -> String {
    let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    String::from_utf8_lossy(&name).trim_end().replace(char::is_control, "?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_spaces_and_optional_fields_is_read() {
        let line = b"64 30 0:53 / /mnt/a\\040b\\134 rw,nosuid shared:9 master:1 - fuse.distcifs /var/lib/d\\011i rw,x";
        let entry = parse(line).unwrap();
        assert_eq!(entry.mountpoint, Path::new("/mnt/a b\\"));
        assert_eq!((entry.kind.as_str(), entry.device.as_str()), ("fuse.distcifs", "0:53"));
        assert_eq!(entry.source, Path::new("/var/lib/d\ti"));
        assert!(entry.is_ours());
    }

    #[test]
    fn odd_lines_are_passed_over() {
        for line in [
            &b""[..],
            b"1 2 3",
            b"64 30 0:53 / /mnt rw",
            b"64 30 0:53 / /mnt rw - fuse",
            b"\\",
            b"\\0 \\9",
        ] {
            assert_eq!(parse(line), None);
        }
        assert_eq!(unescape(b"a\\04"), Path::new("a\\04"));
        assert_eq!(unescape(b"\\777"), Path::new("\\777"));
    }

    #[test]
    fn the_root_is_found_and_is_not_ours() {
        let entry = find(Path::new("/")).unwrap().unwrap();
        assert!(!entry.is_ours());
        assert_eq!(find(Path::new("/no/such/mount")).unwrap(), None);
        assert_eq!(probe(Path::new("/")), Probe::Alive);
    }

    #[test]
    fn an_open_file_makes_its_process_a_user() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().canonicalize().unwrap();
        assert_eq!(users(&place, 5), []);
        let _open = fs::File::create(place.join("file")).unwrap();
        let found: Vec<u32> = users(&place, 5).into_iter().map(|user| user.pid).collect();
        assert_eq!(found, [std::process::id()]);
    }
}
