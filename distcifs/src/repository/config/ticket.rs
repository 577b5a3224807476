//! What is written to `.post`: a ticket. And how its params look as files.

use serde_json::Map;

use super::common::{self, TaskSettings};
use super::fault::Faults;
use super::json;
use super::object::Object;
use crate::repository::names::{Name, TicketId};
use crate::storage::contents::Digest;

/// Longest trigger or ticket, bytes.
pub const REQUEST_BYTES_MAX: usize = 256 << 10;

/// Highest build number that is read.
const BUILD_MAX: u64 = (1 << 53) - 1;

/// Highest task or retry number that is read.
const INDEX_MAX: u64 = 999_999;

/// Keys of a ticket, but for those of its settings.
const KEYS: [&str; 7] = ["id", "job", "build", "task", "run", "params", "workspace"];

/// A ticket to be posted.
#[derive(Debug, Clone, PartialEq)]
pub struct TicketRequest {
    /// The id; of a build's ticket always there: `<job>.<build>.<task>`, `.r<run>` after it if
    /// `run` is not 0.
    pub id: Option<TicketId>,
    /// The job.
    pub job: Option<Name>,
    /// The build's number, from 1; needs a job.
    pub build: Option<u64>,
    /// The task's index in the build; absent for a ticket that stands alone.
    pub task: Option<usize>,
    /// Which retry of the task this is; 0: the first run.
    pub run: u32,
    /// What the worker is to do.
    pub params: Map<String, serde_json::Value>,
    /// How; a ticket without `timeout` has a day.
    pub settings: TaskSettings,
    /// The workspace to start from; `None`: an empty one.
    pub workspace: Option<Digest>,
}

impl TicketRequest {
    /// Reads and checks a ticket's JSON. The error is for people: the first fault, and how many
    /// more there are.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > REQUEST_BYTES_MAX {
            return Err(format!("a ticket has at most {REQUEST_BYTES_MAX} bytes"));
        }
        let value = json::parse(bytes).map_err(|fault| fault.to_string())?;
        let mut faults = Faults::default();
        let ticket = Object::new(&value, "", &mut faults).map(|object| read_ticket(&object, &mut faults));
        match (ticket, faults.into_sorted().as_slice()) {
            (Some(ticket), []) => Ok(ticket),
            (_, [only]) => Err(only.to_string()),
            (_, [first, rest @ ..]) => Err(format!("{first} (and {} more)", rest.len())),
            (None, []) => Err("a ticket is one object".into()),
        }
    }
}

fn read_ticket(object: &Object<'_>, faults: &mut Faults) -> TicketRequest {
    object.only(&[KEYS.as_slice(), &TaskSettings::KEYS].concat(), faults);
    let job = object.name("job", faults);
    let build = object.integer("build", 1, BUILD_MAX, faults);
    let task = object.integer("task", 0, INDEX_MAX, faults);
    let run = object.integer("run", 0, INDEX_MAX, faults).unwrap_or(0);
    check_belonging(object, faults);
    let id = read_id(object, build_id(job.as_ref(), build, task, run), faults);
    TicketRequest {
        id,
        job,
        build,
        task: task.and_then(|n| usize::try_from(n).ok()),
        run: u32::try_from(run).unwrap_or(u32::MAX),
        params: common::params(object, faults),
        settings: TaskSettings::read(object, Vec::new(), faults),
        workspace: workspace(object, faults),
    }
}

/// A build needs its job, a task its build, a retry its task; and only builds hand a workspace on: by its
/// digest anybody could claim the files of another's job.
fn check_belonging(object: &Object<'_>, faults: &mut Faults) {
    for (key, needed) in [
        ("build", "job"),
        ("task", "build"),
        ("run", "task"),
        ("workspace", "build"),
    ] {
        if let (Some(value), None) = (object.get(key), object.get(needed)) {
            faults.add(value.at, format!("{key} needs {needed} beside it"));
        }
    }
}

/// The id of a build's ticket.
fn build_id(job: Option<&Name>, build: Option<u64>, task: Option<u64>, run: u64) -> Option<TicketId> {
    let (job, build, task) = (job?, build?, task?);
    let retry = if run == 0 { String::new() } else { format!(".r{run}") };
    TicketId::new(&format!("{job}.{build}.{task}{retry}"))
}

/// `id`, which must be `wanted` for a build's ticket and must not look like one for others.
fn read_id(object: &Object<'_>, wanted: Option<TicketId>, faults: &mut Faults) -> Option<TicketId> {
    let Some(value) = object.get("id") else {
        return wanted;
    };
    let Some(id) = value.as_str().and_then(TicketId::new) else {
        faults.add(
            value.at,
            "id must be a name: letters, digits and _ . -, not first . or -, at most 200 bytes",
        );
        return wanted;
    };
    match &wanted {
        Some(wanted) if *wanted != id => faults.add(value.at, format!("id must be {wanted} for this task, or absent")),
        None if id.is_build_shaped() => {
            faults.add(value.at, format!("id {id} has the form kept for tickets of builds"))
        }
        _ => (),
    }
    Some(id)
}

fn workspace(object: &Object<'_>, faults: &mut Faults) -> Option<Digest> {
    let text = object.string("workspace", faults)?;
    let digest = Digest::parse(text);
    if digest.is_none() {
        let at = object.get("workspace").map_or(object.at, |value| value.at);
        faults.add(at, "workspace must be a digest: 64 lower-case hexadecimal digits");
    }
    digest
}

/// How a param looks as a file: a string with a line end after it unless it has one; a list with
/// one item a line; numbers and bools as text; objects as JSON on one line; null as an empty file.
pub fn param_file(value: &serde_json::Value) -> Vec<u8> {
    let text = match value {
        serde_json::Value::Null => String::new(),
        serde_json::Value::String(text) if text.ends_with('\n') => text.clone(),
        serde_json::Value::String(text) => format!("{text}\n"),
        serde_json::Value::Array(items) => items.iter().map(|item| format!("{}\n", line(item))).collect(),
        serde_json::Value::Bool(_) | serde_json::Value::Number(_) | serde_json::Value::Object(_) => {
            format!("{value}\n")
        }
    };
    text.into_bytes()
}

/// An item of a list as one line; what isn't a string on one line is JSON.
fn line(item: &serde_json::Value) -> String {
    match item {
        serde_json::Value::String(text) if !text.contains('\n') => text.clone(),
        _ => item.to_string(),
    }
}
