//! How long everybody waited.

use std::collections::BTreeMap;

use super::{Call, Case, Kind, Millis, Operation};

/// Promise 5: "nothing hangs for more than 10 s".
pub const REQUEST_MAX: Millis = 10_000;

/// A call of several requests, each of which is made only if the one before went well: two of them
/// may have waited for what is away or came back just then. (Who opens a config.json may wait for
/// its lock as well.)
pub const CALL_MAX: Millis = 2 * REQUEST_MAX;

/// For a machine whose processors are all busy: a request that is over may be told so late.
pub const GRACE: Millis = 3_000;

/// What a script writes for the mount that it works on.
const NO_NODE: &str = "-";

/// What the names of the workers begin with that run scripts.
const SCRIPTS: &str = "execute-shell";

/// A script writes down that it begins a moment before it dies with its worker.
const KILLED_BEFORE: Millis = 200;

impl Case<'_> {
    /// Each call was answered within its bound, and what was stopped could not answer.
    pub(super) fn waits(&mut self) {
        let history = self.history;
        let last = history
            .operations
            .iter()
            .filter_map(|operation| Some(operation.end.as_ref()?.0));
        let last = last.max().unwrap_or(0);
        for operation in &history.operations {
            let Some(bound) = bound(&operation.call) else { continue };
            if operation.end.is_none() && self.killed(operation) {
                continue;
            }
            let end = operation.ended().min(last);
            let waited = end.saturating_sub(operation.begin);
            if waited > bound && waited > bound + self.stopped(operation, end) {
                let Operation { who, node, call, .. } = operation;
                self.violates(Kind::Waited, format!("{call} by {who} on {node}: {waited} ms"));
            }
        }
    }

    /// For how long of a call its caller or its mount was stopped. A script does not say where it runs: it is on one
    /// node, with one worker of scripts, and so it is the longest time of one of them.
    fn stopped(&self, operation: &Operation, end: Millis) -> Millis {
        let script = operation.node == NO_NODE;
        let mut stopped: BTreeMap<&str, Millis> = BTreeMap::new();
        for fault in &self.history.operations {
            let Call::Fault { kind, target } = &fault.call else {
                continue;
            };
            let meets = match &kind[..] {
                "stop-mount" => script || *target == operation.node,
                "stop-worker" => *target == operation.who || script && target.starts_with(SCRIPTS),
                _ => false,
            };
            let (begin, end) = (fault.begin.max(operation.begin), fault.ended().min(end));
            if meets {
                *stopped.entry(if script { target } else { "" }).or_default() += end.saturating_sub(begin);
            }
        }
        stopped.into_values().max().unwrap_or(0)
    }

    /// Whether the caller was killed in the middle of it, as scripts of a build that is aborted are. A script does not
    /// say where it runs: it ends with any worker of scripts or mount that was killed at that moment.
    fn killed(&self, operation: &Operation) -> bool {
        let script = operation.node == NO_NODE;
        let latest = operation.begin + REQUEST_MAX + GRACE;
        let aborted =
            |call: &Call| matches!(call, Call::Before { ticket } if self.may_be_aborted(&ticket.job, ticket.build));
        if script && aborted(&operation.call) {
            return true;
        }
        self.history.operations.iter().any(|fault| match &fault.call {
            Call::Fault { kind, target } => {
                let own = kind == "kill-worker" && *target == operation.who;
                let below = kind == "kill-mount" || kind == "kill-worker" && target.starts_with(SCRIPTS);
                let at_that_moment =
                    fault.begin <= latest && fault.ended().saturating_add(KILLED_BEFORE) >= operation.begin;
                own && fault.ended() >= operation.begin || script && below && at_that_moment
            }
            _ => false,
        })
    }
}

/// How long a call may take; `None`: as long as it likes.
fn bound(call: &Call) -> Option<Millis> {
    match call {
        Call::Fault { .. } => None,
        Call::Next { .. } | Call::State { .. } | Call::Config { .. } | Call::Before { .. } => Some(REQUEST_MAX + GRACE),
        Call::Trigger { .. } | Call::Configure { .. } | Call::Line { .. } | Call::Result { .. } => {
            Some(CALL_MAX + GRACE)
        }
    }
}
