//! `limits`: what a task may use at most.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::fault::Faults;
use crate::json::Kind;
use crate::object::Object;

/// What a task may use at most.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>")]
pub struct Limits {
    /// Processors; 0.5 is half of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,
    /// Memory, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Processes and threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<u64>,
    /// Bytes of the disk that its workspace and artifacts may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<u64>,
}

impl Limits {
    /// Whether something else than the disk is bounded.
    pub fn bound_processes(&self) -> bool {
        let disk = self.disk;
        *self
            != Limits {
                disk,
                ..Limits::default()
            }
    }

    /// Reads and checks `limits` of a task.
    pub fn read(task: &Object<'_>, faults: &mut Faults) -> Self {
        let Some(object) = task.object("limits", faults) else {
            return Limits::default();
        };
        object.only(&["cpus", "memory", "processes", "disk"], faults);
        let cpus = object.get("cpus").and_then(|value| {
            let number = match &value.kind {
                Kind::Number(number) => number.as_f64().filter(|n| (0.01..=4096.0).contains(n)),
                _ => None,
            };
            if number.is_none() {
                faults.add(
                    value.at,
                    format!("{} must be a number from 0.01 to 4096", object.path_of("cpus")),
                );
            }
            number
        });
        Limits {
            cpus,
            memory: object.size("memory", 1 << 50, faults),
            processes: object.integer("processes", 1, 1 << 22, faults),
            disk: object.size("disk", 1 << 50, faults),
        }
    }
}

impl TryFrom<Map<String, Value>> for Limits {
    type Error = String;

    /// Those of a ticket.
    fn try_from(members: Map<String, Value>) -> Result<Self, String> {
        let whole = |name: &str| match members.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64() {
                Some(0) | None => Err(format!("limits.{name} must be a whole number from 1")),
                some => Ok(some),
            },
        };
        let cpus = members.get("cpus").filter(|value| !value.is_null());
        let cpus = cpus.map(|value| {
            let number = value.as_f64().filter(|n| n.is_finite() && *n > 0.0);
            number.ok_or("limits.cpus must be a number above 0")
        });
        Ok(Limits {
            cpus: cpus.transpose()?,
            memory: whole("memory")?,
            processes: whole("processes")?,
            disk: whole("disk")?,
        })
    }
}
