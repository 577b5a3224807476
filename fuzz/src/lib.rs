//! What reads bytes from outside, one function each: whatever the bytes are, it does not panic, and what it takes
//! holds to its promise.
//!
//! The test of this crate feeds them the corpus and what a seeded generator makes of it; `fuzz/libfuzzer` has the
//! same for cargo-fuzz, where that is installed.

use std::sync::LazyLock;

use distcifs::repository::config::{JobConfig, TaskSettings, TicketRequest, TriggerRequest, param_file, read_tasks};
use distcifs::repository::snapshot;
use distcifs_settings::json;
use distcifs_settings::pipeline::{self, Format};
use distcifs_workers::webhook::event::Payload;
use distcifs_workers::webhook::payload::Form;

/// A target: bytes of any kind.
pub type Target = fn(&[u8]);

/// All targets, with the names of their folders in the corpus.
pub const TARGETS: [(&str, Target); 6] = [
    ("configuration", configuration),
    ("pipeline", tasks),
    ("trigger", trigger),
    ("ticket", ticket),
    ("listing", listing),
    ("delivery", delivery),
];

/// config.json: what is taken can be shown in build.json, and the workers read its settings back from there.
pub fn configuration(bytes: &[u8]) {
    let Ok(config) = JobConfig::read(bytes, None) else {
        return;
    };
    for task in &config.tasks {
        let read: Result<TaskSettings, _> = serde_json::from_value(task.resolved());
        assert!(read.is_ok_and(|read| read == task.settings), "{task:?}");
    }
}

/// A pipeline in one of the three formats: what is taken is the same when it is read again as tasks.json, and each of
/// its lines has a place. The length chooses the format.
pub fn tasks(bytes: &[u8]) {
    let format = match bytes.len() % 3 {
        0 => Format::Json,
        1 => Format::Toml,
        _ => Format::Yaml,
    };
    let Ok(value) = pipeline::read(bytes, format) else {
        return;
    };
    let rendered = value.render_lines();
    assert_eq!(rendered.text.lines().count(), rendered.places.len());
    let again = json::parse_without_text(rendered.text.as_bytes());
    // A short text may stand for one that is too long to be read.
    if rendered.text.len() <= json::TEXT_BYTES_MAX {
        assert!(again.is_ok_and(|again| again.render_lines().text == rendered.text));
    }
    drop(read_tasks(&value, None));
}

/// `trigger`: lines or an object of somebody's, held against a configuration.
pub fn trigger(bytes: &[u8]) {
    static CONFIG: LazyLock<Option<JobConfig>> = LazyLock::new(|| {
        let text = br#"{"parameters": {"ref": "main", "n": null}, "tasks": []}"#;
        JobConfig::read(text, None).ok()
    });
    let Some(config) = CONFIG.as_ref() else {
        unreachable!("a configuration that is good");
    };
    if let Ok(trigger) = TriggerRequest::read(bytes, config, None) {
        assert!(trigger.parameters.len() >= config.parameters.len(), "{trigger:?}");
        assert!(
            TriggerRequest::check_beginning(bytes, config, None).is_ok(),
            "{trigger:?}"
        );
    }
}

/// `.post`: a ticket, of which each parameter becomes a file.
pub fn ticket(bytes: &[u8]) {
    let Ok(ticket) = TicketRequest::read(bytes) else {
        return;
    };
    ticket.params.values().for_each(|value| drop(param_file(value)));
    let members = ticket.settings.members();
    let read: Result<TaskSettings, _> = serde_json::from_value(members.into());
    assert!(read.is_ok_and(|read| read == ticket.settings), "{ticket:?}");
}

/// The listing of a folder, as a store has it.
pub fn listing(bytes: &[u8]) {
    assert!(snapshot::is_refused_or_whole(bytes), "a listing has one form");
}

/// The body of a webhook, plain or in a form, under any name of an event.
pub fn delivery(bytes: &[u8]) {
    for form in [Form::Json, Form::Fields] {
        for event in ["ping", "push", "create", "pull_request"] {
            if let Ok(payload) = Payload::read(bytes, form) {
                drop(payload.told(event));
            }
        }
    }
}
