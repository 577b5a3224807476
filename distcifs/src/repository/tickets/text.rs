//! What a ticket's readers see, and how a build's ticket is called.

use distcifs_settings::source::Source;
use serde_json::{Map, Value};

use crate::repository::config::TicketRequest;
use crate::repository::model::ticket::{BuildRef, TicketKey, part_key};
use crate::repository::names::TicketId;
use crate::repository::{Error, Result};

/// Settings that stand in front of a ticket's place in its build: the order of the members is kept.
const FIRST: [&str; 2] = ["timeout", "attempts"];

/// The ticket's JSON. What its build comes from stands there if somebody said it.
pub(super) fn ticket_json(key: &TicketKey, request: &TicketRequest, part: Option<&BuildRef>, source: &Source) -> Value {
    let mut settings = request.settings.members();
    let mut json = Map::new();
    json.insert("id".into(), key.id.as_str().into());
    json.insert("queue".into(), key.queue.as_str().into());
    json.extend(settings.shift_remove_entry("labels"));
    json.insert("params".into(), request.params.clone().into());
    for key in FIRST {
        json.extend(settings.shift_remove_entry(key));
    }
    if let Some(part) = part {
        json.insert("job".into(), part.job.clone().into());
        json.insert("build".into(), part.build.into());
        json.insert("task".into(), part.task.into());
        json.insert("run".into(), part.run.into());
    }
    if let Some(digest) = &request.workspace {
        json.insert("workspace".into(), digest.to_string().into());
    }
    json.extend(settings);
    if !source.is_unsaid() {
        json.insert("source".into(), serde_json::to_value(source).unwrap_or_default());
    }
    json.into()
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
    use crate::repository::names::Name;

    /// A ticket that is posted twice is known again by the bytes of its JSON: the order of the members is a
    /// promise to tickets that an earlier version posted.
    #[test]
    fn a_tickets_json_byte_for_byte() {
        let of_build = r#"{"job": "hello", "build": 7, "task": 3, "run": 2, "labels": ["linux"], "params": {"a": [1], "script": "${x}"},
            "timeout": 60, "attempts": 1, "workspace": "WORKSPACE", "environment": {"B": "2", "A": "x y"},
            "isolation": "namespace", "image": "job:base", "limits": {"memory": 1024, "cpus": 0.5, "processes": 9, "disk": "1K"},
            "network": true, "console_limit": 5}"#;
        let of_build = of_build.replace("WORKSPACE", &"ab".repeat(32));
        let part = BuildRef {
            job: "hello".into(),
            uid: "u".into(),
            build: 7,
            task: Some(3),
            run: 2,
        };
        let json = |request: &str, part: Option<&BuildRef>, source: &Source| {
            let request = TicketRequest::read(request.as_bytes()).unwrap();
            let id = request.id.clone().unwrap();
            let queue = Name::new("execute-shell").unwrap();
            ticket_json(&TicketKey { queue, id }, &request, part, source).to_string()
        };
        let wanted = r#"{"id":"hello.7.3.r2","queue":"execute-shell","labels":["linux"],"params":{"a":[1],"script":"${x}"},"timeout":60,"attempts":1,"job":"hello","build":7,"task":3,"run":2,"workspace":"WORKSPACE","environment":{"B":"2","A":"x y"},"isolation":"namespace","image":"job:base","limits":{"cpus":0.5,"memory":1024,"processes":9,"disk":1024},"network":true,"console_limit":5}"#;
        let wanted = wanted.replace("WORKSPACE", &"ab".repeat(32));
        let (unsaid, mut pushed) = (Source::default(), Source::default());
        assert_eq!(json(&of_build, Some(&part), &unsaid), wanted);
        pushed.take("event", "push").unwrap();
        pushed.take("ref", "refs/heads/main").unwrap();
        let more = r#","source":{"event":"push","ref":"refs/heads/main"}}"#;
        let wanted = format!("{}{more}", wanted.strip_suffix('}').unwrap());
        assert_eq!(json(&of_build, Some(&part), &pushed), wanted);
        assert_eq!(
            json(r#"{"id": "alone"}"#, None, &unsaid),
            r#"{"id":"alone","queue":"execute-shell","labels":[],"params":{},"timeout":null,"attempts":3,"environment":{},"isolation":"none","image":null,"limits":{},"network":false,"console_limit":null}"#
        );
    }
}
