//! What a task of a stranger's build may be. The mount keeps this where the ticket is posted, whoever posts it.

use distcifs_settings::cause::{CHECKOUT, Pinned};
use distcifs_settings::expand::{expand, expand_params};
use distcifs_settings::names::Name;
use distcifs_settings::source::Source;
use serde_json::{Map, Value};

use super::config::{Choice, JobConfig, Task, TicketRequest};
use super::core::now;
use super::model::build::{Build, Live};
use super::model::hold::LABEL;
use super::model::plan::Plan;
use super::model::ticket::{Outcome, Ticket, TicketState, Verdict};
use super::{Error, Result};

/// The same of a script with a network: only workers offer it that can close that.
const NETWORK_LABEL: &str = "untrusted.network";

/// The queue of scripts.
const SHELL: &str = "execute-shell";

/// Other queues whose workers keep the rules.
const QUEUES: [&str; 3] = [CHECKOUT, "publish-artifacts", "copy-artifacts"];

/// Environments that hold a stranger.
const ISOLATIONS: [&str; 3] = ["namespace", "lxc", "vm"];

/// What becomes of a build of strangers by a configuration: whether it is held. `what` is asked for.
///
/// # Errors
/// `Access` if the job takes none.
pub(super) fn is_held(what: &str, config: &JobConfig, senders: &[String]) -> Result<bool> {
    match config.untrusted.choice_for(senders) {
        Choice::Run => Ok(false),
        Choice::Hold => Ok(true),
        Choice::Refuse => Err(Error::Access(format!(
            "{what}: the job takes no builds of strangers (\"untrusted\": \"refuse\")"
        ))),
    }
}

/// Has a ticket go only to workers that keep the rules.
pub(super) fn label(queue: &Name, request: &mut TicketRequest) {
    let network = queue.as_str() == SHELL && request.settings.network;
    let labels = &mut request.settings.labels;
    for label in [Some(LABEL), network.then_some(NETWORK_LABEL)].into_iter().flatten() {
        if !labels.iter().any(|known| known.as_str() == label) {
            labels.extend(Name::new(label));
        }
    }
}

/// Why a task may not be worked in a stranger's build; `types`: the queues and environments that its job's
/// configuration lets such builds use beside the known ones.
pub(super) fn forbidden(queue: &Name, isolation: &str, types: &[Name]) -> Option<String> {
    let let_in = |name: &str| types.iter().any(|known| known.as_str() == name);
    match queue.as_str() {
        SHELL if isolation == "none" => Some(
            "a script of an untrusted build runs in an isolation only: set its isolation, to namespace for one".into(),
        ),
        SHELL if ISOLATIONS.contains(&isolation) || let_in(isolation) => None,
        SHELL => Some(format!(
            "a script of an untrusted build runs in namespace, lxc or vm: name {isolation} in the job's \
             untrusted_types, if it holds a stranger"
        )),
        known if QUEUES.contains(&known) || let_in(known) => None,
        other => Some(format!(
            "an untrusted build has no task of type {other}: name it in the job's untrusted_types, if its workers are \
             safe from a stranger"
        )),
    }
}

/// Whether what a task of this type records may choose what others do: no script of a stranger wrote it.
pub(super) fn may_record(queue: &Name) -> bool {
    QUEUES.contains(&queue.as_str())
}

/// What is wrong with the queue and the params of a ticket of a task of a stranger's build: they are not those that
/// its plan gives with these parameters. Of a script only the queue counts: whoever wrote it sets the rest anyway.
pub(super) fn misfit(
    plan: &Plan,
    task: &Task,
    live: &Live,
    values: &[(String, String)],
    (queue, posted): (&Name, &Map<String, Value>),
) -> Option<String> {
    if *queue != task.kind {
        return Some(format!(
            "the task is of type {}, and its ticket was posted to {queue}",
            task.kind
        ));
    }
    if queue.as_str() == SHELL {
        return None;
    }
    let build = texts(values);
    let fitting = expand_params(&task.params, &build).and_then(|params| match queue.as_str() {
        CHECKOUT => pinned(plan, live.cause.as_deref(), &live.source, &build).put_into(params),
        _ => Ok(params),
    });
    match fitting {
        Err(why) => Some(why),
        Ok(fitting) if is_same(&fitting, posted) => None,
        Ok(fitting) => {
            let other = |name: &&String| fitting.get(*name) != posted.get(*name);
            let name = fitting.keys().chain(posted.keys()).find(other);
            Some(format!(
                "params.{} is not what the configuration and the trigger make it: in an untrusted build what a script \
                 recorded sets nothing of other tasks, and git-checkout takes the commit of the build",
                name.map_or("?", String::as_str)
            ))
        }
    }
}

/// Refuses to approve a commit that nothing would take.
///
/// # Errors
/// Why.
pub(super) fn binds(build: &Build) -> std::result::Result<(), String> {
    let values = texts(&build.params);
    let source = build.source();
    let pinned = pinned(&build.plan, Some(build.cause()), &source, &values);
    for task in checkouts(&build.plan) {
        let text = |name: &str| expand(task.params.get(name)?.as_str()?, &values).ok();
        let (repository, name) = (text("repository"), text("ref"));
        pinned
            .takes(repository.as_deref(), name.as_deref())
            .map_err(|why| format!("{}: {why}", task.folder()))?;
    }
    Ok(())
}

/// Which git-checkouts of a build take its commit.
fn pinned<'a>(plan: &Plan, cause: Option<&str>, source: &'a Source, values: &Map<String, Value>) -> Pinned<'a> {
    let put_in = |task: &Task| expand(task.params.get("repository")?.as_str()?, values).ok();
    Pinned::new(source, cause.unwrap_or_default(), checkouts(plan).map(put_in).collect())
}

/// The git-checkouts of a build's configuration.
fn checkouts(plan: &Plan) -> impl Iterator<Item = &Task> {
    plan.config().tasks.iter().filter(|task| task.kind.as_str() == CHECKOUT)
}

/// Parameters as they are put in.
fn texts(values: &[(String, String)]) -> Map<String, Value> {
    let one = |(name, value): &(String, String)| (name.clone(), Value::from(value.as_str()));
    values.iter().map(one).collect()
}

/// Whether two are the same: numbers by their values, as whoever posts may write them in other words.
fn is_same(one: &Map<String, Value>, other: &Map<String, Value>) -> bool {
    let same = |(name, value): (&String, &Value)| other.get(name).is_some_and(|known| is_same_value(value, known));
    one.len() == other.len() && one.iter().all(same)
}

fn is_same_value(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same_value(a, b)),
        (Value::Object(a), Value::Object(b)) => is_same(a, b),
        _ => one == other,
    }
}

/// Ends a ticket that is not to be worked, with the reason: it is posted so.
pub(super) fn refuse(ticket: &mut Ticket, why: String) {
    ticket.state = TicketState::Finished;
    ticket.outcome = Some(Outcome {
        verdict: Verdict::Error,
        exit: None,
        message: why,
        workspace: ticket.workspace.clone(),
        artifacts: None,
        recorded: Vec::new(),
        adds: false,
        finished: now(),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "It runs execute-shell in namespace, lxc or vm, git-checkout, publish-artifacts and copy-artifacts. Other queues
    /// and environments must stand in `untrusted_types`, else the task is `error`."
    #[test]
    fn what_holds_a_stranger_is_let() {
        let name = |text: &str| Name::new(text).unwrap();
        let types = [name("lint"), name("jail"), name("none")];
        for (queue, isolation, without, with) in [
            ("execute-shell", "namespace", true, true),
            ("execute-shell", "lxc", true, true),
            ("execute-shell", "vm", true, true),
            ("execute-shell", "none", false, false),
            ("execute-shell", "jail", false, true),
            ("execute-shell", "other", false, false),
            ("git-checkout", "none", true, true),
            ("publish-artifacts", "none", true, true),
            ("copy-artifacts", "none", true, true),
            ("lint", "none", false, true),
            ("deploy", "none", false, false),
            ("build-control", "none", false, false),
        ] {
            let may = |types: &[Name]| forbidden(&name(queue), isolation, types).is_none();
            assert_eq!((may(&[]), may(&types)), (without, with), "{queue} {isolation}");
        }
        let why = forbidden(&name("deploy"), "none", &[]).unwrap();
        assert!(why.contains("untrusted_types"), "{why}");
    }

    #[test]
    fn its_tickets_need_the_labels() {
        let labels = |queue: &str, text: &str| {
            let mut request = TicketRequest::read(text.as_bytes()).unwrap();
            label(&Name::new(queue).unwrap(), &mut request);
            let labels = request.settings.labels.iter().map(Name::to_string);
            labels.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(labels("execute-shell", r#"{"labels": ["linux"]}"#), "linux untrusted");
        let network = r#"{"isolation": "namespace", "network": true, "labels": ["untrusted"]}"#;
        assert_eq!(labels("execute-shell", network), "untrusted untrusted.network");
        assert_eq!(labels("git-checkout", "{}"), "untrusted");
    }
}
