//! Limits of a script: what its job names, and what an isolated one has anyway.

use std::fs;

use distcifs_settings::task::Limits;

use super::cgroup::Cgroups;

/// Processes and threads of an isolated script whose job names no bound: more than builds need, and
/// few enough that the node goes on.
const PROCESSES_DEFAULT: u64 = 4096;

/// The part of the machine's memory that an isolated script has whose job names no bound.
const MEMORY_PART: u64 = 2;

/// Refuses what can't be enforced here: a limit that does not hold is none. An isolated script's
/// processes can be counted without a control group.
///
/// # Errors
/// For people: which, why, and what to do.
pub fn check(limits: &Limits, cgroups: &Cgroups, isolated: bool) -> Result<(), String> {
    let wanted = [
        ("cpu", "cpus", limits.cpus.is_some()),
        ("memory", "memory", limits.memory.is_some()),
        ("pids", "processes", limits.processes.is_some() && !isolated),
    ];
    match wanted
        .iter()
        .find(|(controller, _, wanted)| *wanted && !cgroups.has(controller))
    {
        Some((controller, name, _)) => Err(format!(
            "limits.{name} can't be enforced: {}",
            cgroups.why_not(controller)
        )),
        None => Ok(()),
    }
}

/// What holds for an isolated script: what was named, else what keeps the node alive.
#[must_use]
pub fn or_default(limits: Limits) -> Limits {
    Limits {
        memory: limits.memory.or_else(|| Some(machine_memory()? / MEMORY_PART)),
        processes: limits.processes.or(Some(PROCESSES_DEFAULT)),
        ..limits
    }
}

/// Memory of this machine, bytes.
fn machine_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_cannot_hold_is_refused_and_says_the_remedy() {
        let none = Cgroups::default();
        let memory = Limits {
            memory: Some(1),
            ..Limits::default()
        };
        let why = check(&memory, &none, true).unwrap_err();
        assert!(
            why.starts_with("limits.memory can't be enforced") && why.contains("Delegate=yes"),
            "{why}"
        );
        let processes = Limits {
            processes: Some(1),
            ..Limits::default()
        };
        assert!(check(&processes, &none, false).is_err());
        assert!(check(&processes, &none, true).is_ok());
        assert!(check(&Limits::default(), &none, true).is_ok());
    }

    #[test]
    fn an_isolated_script_is_bounded_anyway() {
        let limits = or_default(Limits::default());
        assert_eq!(limits.processes, Some(PROCESSES_DEFAULT));
        assert!(limits.memory.is_some_and(|bytes| bytes > 1 << 26));
        let named = Limits {
            memory: Some(5),
            ..Limits::default()
        };
        assert_eq!(or_default(named).memory, Some(5));
    }
}
