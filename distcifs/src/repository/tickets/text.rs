//! What a ticket's readers see, and how a build's ticket is called.

use serde_json::{Value, json};

use crate::repository::config::TicketRequest;
use crate::repository::model::ticket::{Part, TicketKey, part_key};
use crate::repository::names::{Name, TicketId};
use crate::repository::{Error, Result};

/// The ticket's JSON.
pub(super) fn ticket_json(key: &TicketKey, request: &TicketRequest, part: Option<&Part>) -> Value {
    let mut json = json!({
        "id": key.id.as_str(),
        "queue": key.queue.as_str(),
        "labels": request.labels.iter().map(Name::as_str).collect::<Vec<_>>(),
        "params": request.params,
        "timeout": request.timeout,
        "attempts": request.attempts,
    });
    if let (Some(part), Some(object)) = (part, json.as_object_mut()) {
        object.insert("job".into(), part.job.clone().into());
        object.insert("build".into(), part.build.into());
        object.insert("task".into(), part.task.into());
        object.insert("run".into(), part.run.into());
    }
    if let Some(object) = json.as_object_mut() {
        if let Some(digest) = &request.workspace {
            object.insert("workspace".into(), digest.to_string().into());
        }
        object.extend(request.settings());
    }
    json
}

/// The id that a request for a build's ticket must have.
pub(super) fn build_ticket_id(request: &TicketRequest) -> Result<TicketId> {
    let (Some(job), Some(build), Some(task)) = (&request.job, request.build, request.task) else {
        return Err(Error::Invalid("a build's ticket needs job, build and task".into()));
    };
    Ok(part_key("x", job.as_str(), build, &task.to_string(), request.run)?.id)
}
