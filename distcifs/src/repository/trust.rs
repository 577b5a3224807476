//! What a task of a stranger's build may be. The mount keeps this where the ticket is posted, whoever posts it.

use distcifs_settings::names::Name;

use super::config::{Choice, JobConfig, TicketRequest};
use super::core::now;
use super::model::hold::LABEL;
use super::model::ticket::{Outcome, Ticket, TicketState, Verdict};
use super::{Error, Result};

/// The same of a script with a network: only workers offer it that can close that.
const NETWORK_LABEL: &str = "untrusted.network";

/// The queue of scripts.
const SHELL: &str = "execute-shell";

/// Other queues whose workers keep the rules.
const QUEUES: [&str; 3] = ["git-checkout", "publish-artifacts", "copy-artifacts"];

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
