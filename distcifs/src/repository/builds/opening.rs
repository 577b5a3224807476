//! The ticket with which a build begins.

use crate::repository::core::{now, random_id};
use crate::repository::model::job::Job;
use crate::repository::model::ticket::{CONTROL_QUEUE, Part, Poster, Ticket, TicketState};

/// A new ticket for build-control.
pub(crate) fn control_ticket(job: &Job, n: u64, run: u32, who: Poster, priority: i8) -> Ticket {
    let part = Part {
        job: job.name.to_string(),
        uid: job.uid().to_owned(),
        build: n,
        task: None,
        run,
    };
    let id = random_id();
    let body = serde_json::json!({
        "id": format!("{}.{n}.control{}", job.name, if run == 0 { String::new() } else { format!(".r{run}") }),
        "queue": CONTROL_QUEUE,
        "job": part.job, "build": n, "run": run, "labels": [], "params": {}, "nonce": id,
    });
    Ticket {
        state: TicketState::Open,
        attempt: 1,
        given: 0,
        nonce: String::new(),
        part: Some(part),
        name: String::new(),
        lines: String::new(),
        labels: Vec::new(),
        isolation: None,
        timeout: Some(CONTROL_TIMEOUT_SECS),
        attempts: CONTROL_ATTEMPTS,
        console_limit: None,
        disk: None,
        workspace: None,
        body: Some(body.to_string()),
        body_digest: None,
        slot: None,
        uid: who.uid,
        owner: Some(job.entry.access.uid),
        priority,
        post: None,
        posted: now(),
        claimed: 0,
        node: String::new(),
        by: None,
        outcome: None,
    }
}

/// A build may take this long in all, seconds: ten days.
const CONTROL_TIMEOUT_SECS: u64 = 10 * 24 * 3600;

/// Deaths of build-control during one build before it is given up. Far more than of a task: each death
/// counts against all the builds that the process held, and a build may last for days.
const CONTROL_ATTEMPTS: u32 = 100;
