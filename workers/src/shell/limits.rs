//! Limits of a script: what its job names, and what an isolated one has anyway.

use std::fs;

use serde_json::Value;

use super::cgroup::Cgroups;

/// Processes and threads of an isolated script whose job names no bound: more than builds need, and
/// few enough that the node goes on.
const PROCESSES_DEFAULT: u64 = 4096;

/// The part of the machine's memory that an isolated script has whose job names no bound.
const MEMORY_PART: u64 = 2;

/// What a script may use.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Limits {
    /// Processors.
    pub cpus: Option<f64>,
    /// Memory, bytes.
    pub memory: Option<u64>,
    /// Processes and threads.
    pub processes: Option<u64>,
}

impl Limits {
    /// Reads `limits` of a ticket.
    ///
    /// # Errors
    /// For people: what it must be.
    pub fn read(value: Option<&Value>) -> Result<Self, String> {
        let object = match value {
            None | Some(Value::Null) => return Ok(Limits::default()),
            Some(value) => value.as_object().ok_or("limits must be an object")?,
        };
        let whole = |name: &str| match object.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64() {
                Some(0) | None => Err(format!("limits.{name} must be a whole number from 1")),
                some => Ok(some),
            },
        };
        let cpus = object.get("cpus").filter(|value| !value.is_null());
        let cpus = cpus.map(|value| {
            let number = value.as_f64().filter(|n| n.is_finite() && *n > 0.0);
            number.ok_or("limits.cpus must be a number above 0")
        });
        Ok(Limits {
            cpus: cpus.transpose()?,
            memory: whole("memory")?,
            processes: whole("processes")?,
        })
    }

    /// Whether nothing is bounded.
    pub fn is_empty(&self) -> bool {
        *self == Limits::default()
    }

    /// Refuses what can't be enforced here: a limit that does not hold is none. An isolated script's
    /// processes can be counted without a control group.
    ///
    /// # Errors
    /// For people: which, why, and what to do.
    pub fn check(&self, cgroups: &Cgroups, isolated: bool) -> Result<(), String> {
        let wanted = [
            ("cpu", "cpus", self.cpus.is_some()),
            ("memory", "memory", self.memory.is_some()),
            ("pids", "processes", self.processes.is_some() && !isolated),
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
    pub fn or_default(self) -> Self {
        Limits {
            cpus: self.cpus,
            memory: self.memory.or_else(|| Some(machine_memory()? / MEMORY_PART)),
            processes: self.processes.or(Some(PROCESSES_DEFAULT)),
        }
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
    use serde_json::json;

    #[test]
    fn what_a_ticket_says() {
        let all = json!({"cpus": 0.5, "memory": 1024, "processes": 3});
        let read = Limits::read(Some(&all)).unwrap();
        assert_eq!(
            (read.cpus, read.memory, read.processes),
            (Some(0.5), Some(1024), Some(3))
        );
        assert!(Limits::read(None).unwrap().is_empty());
        assert!(Limits::read(Some(&json!({"memory": null}))).unwrap().is_empty());
        for bad in [
            json!(7),
            json!({"memory": "much"}),
            json!({"cpus": 0}),
            json!({"processes": 0}),
        ] {
            assert!(Limits::read(Some(&bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_limit_that_cannot_hold_is_refused_and_says_the_remedy() {
        let none = Cgroups::default();
        let limits = |value| Limits::read(Some(&value)).unwrap();
        let why = limits(json!({"memory": 1})).check(&none, true).unwrap_err();
        assert!(
            why.starts_with("limits.memory can't be enforced") && why.contains("Delegate=yes"),
            "{why}"
        );
        assert!(limits(json!({"processes": 1})).check(&none, false).is_err());
        assert!(limits(json!({"processes": 1})).check(&none, true).is_ok());
        assert!(Limits::default().check(&none, true).is_ok());
    }

    #[test]
    fn an_isolated_script_is_bounded_anyway() {
        let limits = Limits::default().or_default();
        assert_eq!(limits.processes, Some(PROCESSES_DEFAULT));
        assert!(limits.memory.is_some_and(|bytes| bytes > 1 << 26));
        let named = Limits {
            memory: Some(5),
            ..Limits::default()
        };
        assert_eq!(named.or_default().memory, Some(5));
    }
}
