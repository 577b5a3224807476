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

#[cfg(test)]
mod tests {
    use super::*;

    /// A ticket that is posted twice is known again by the bytes of its JSON: the order of the members is a
    /// promise to tickets that an earlier version posted.
    #[test]
    fn a_tickets_json_byte_for_byte() {
        let of_build = r#"{"job": "hello", "build": 7, "task": 3, "run": 2, "labels": ["linux"], "params": {"a": [1], "script": "${x}"},
            "timeout": 60, "attempts": 1, "workspace": "WORKSPACE", "environment": {"B": "2", "A": "x y"},
            "isolation": "namespace", "image": "job:base", "limits": {"memory": 1024, "cpus": 0.5, "processes": 9, "disk": "1K"},
            "network": true, "console_limit": 5}"#;
        let of_build = of_build.replace("WORKSPACE", &"ab".repeat(32));
        let part = Part {
            job: "hello".into(),
            uid: "u".into(),
            build: 7,
            task: Some(3),
            run: 2,
        };
        let json = |request: &str, part: Option<&Part>| {
            let request = TicketRequest::read(request.as_bytes()).unwrap();
            let id = request.id.clone().unwrap();
            let queue = Name::new("execute-shell").unwrap();
            ticket_json(&TicketKey { queue, id }, &request, part).to_string()
        };
        let wanted = r#"{"id":"hello.7.3.r2","queue":"execute-shell","labels":["linux"],"params":{"a":[1],"script":"${x}"},"timeout":60,"attempts":1,"job":"hello","build":7,"task":3,"run":2,"workspace":"WORKSPACE","environment":{"B":"2","A":"x y"},"isolation":"namespace","image":"job:base","limits":{"cpus":0.5,"memory":1024,"processes":9,"disk":1024},"network":true,"console_limit":5}"#;
        let wanted = wanted.replace("WORKSPACE", &"ab".repeat(32));
        assert_eq!(json(&of_build, Some(&part)), wanted);
        assert_eq!(
            json(r#"{"id": "alone"}"#, None),
            r#"{"id":"alone","queue":"execute-shell","labels":[],"params":{},"timeout":null,"attempts":3,"environment":{},"isolation":"none","image":null,"limits":{},"network":false,"console_limit":null}"#
        );
    }
}
