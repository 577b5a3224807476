//! Processes, by id, as /proc has them.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::time::ClockId;
use nix::unistd::Pid;

/// The daemons that serve this mount point: `distcifs mount` or `up` with it among the arguments.
pub fn daemons(mount_point: &Path) -> Vec<Pid> {
    let serves = |pid: &Pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|b| *b == 0).collect();
        let program = words.first().is_some_and(|word| word.ends_with(b"distcifs"));
        let verb = words.iter().any(|word| matches!(*word, b"mount" | b"up"));
        program && verb && words.contains(&mount_point.as_os_str().as_bytes()) && is_alive(*pid)
    };
    all().into_iter().filter(serves).collect()
}

/// Processes whose working directory is below this path.
pub fn working_below(path: &Path) -> Vec<Pid> {
    let below = |pid: &Pid| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(path));
    all().into_iter().filter(below).collect()
}

/// Whether the process runs: neither gone nor a zombie.
pub fn is_alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// Whether a process with these words in its command line runs.
pub fn runs(words: &str) -> bool {
    all().into_iter().any(|pid| line(pid).contains(words) && is_alive(pid))
}

/// The processes whose command line ends with these words and is no `distcifs`.
pub fn find(words: &str) -> Vec<Pid> {
    let is = |pid: &Pid| line(*pid).trim_end().ends_with(words) && !line(*pid).contains("distcifs ") && is_alive(*pid);
    all().into_iter().filter(is).collect()
}

/// The words of a process's command line.
pub fn line(pid: Pid) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ")
}

/// The processes of this name, of which the kernel keeps 15 bytes.
pub fn named(name: &str) -> Vec<Pid> {
    let is = |pid: &Pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == name);
    all().into_iter().filter(is).collect()
}

/// The user that a process is outside of all namespaces.
pub fn owner(pid: Pid) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// The children of a process.
pub fn children(pid: Pid) -> Vec<Pid> {
    all().into_iter().filter(|child| parent(*child) == Some(pid)).collect()
}

/// The parent of a process.
pub fn parent(pid: Pid) -> Option<Pid> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(1)?.parse().ok().map(Pid::from_raw)
}

/// Sends a signal; a process that is gone is no error.
pub fn signal(pid: Pid, signal: Signal) {
    let _ = kill(pid, signal);
}

/// Sends a signal to a process group; a group that is gone is no error.
pub fn signal_group(pid: Pid, signal: Signal) {
    let _ = killpg(pid, signal);
}

/// Processor time that a process took so far, seconds.
pub fn cpu_seconds(pid: Pid) -> f64 {
    // The clock of the scheduler: /proc/PID/stat counts ticks, and misses what is shorter than one.
    let clock = ClockId::pid_cpu_clock_id(pid);
    let time = clock.and_then(|clock| clock.now()).expect("the process lives");
    Duration::from(time).as_secs_f64()
}

/// Resident memory of a process, MiB.
pub fn resident_mib(pid: Pid) -> f64 {
    status_mib(pid, "VmRSS:")
}

/// The most that its resident memory ever was, MiB.
pub fn peak_resident_mib(pid: Pid) -> f64 {
    status_mib(pid, "VmHWM:")
}

fn status_mib(pid: Pid, key: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .unwrap_or_default()
        .to_owned();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or_default() / 1024.0
}

/// All processes.
pub fn all() -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok().map(Pid::from_raw))
        .collect()
}
