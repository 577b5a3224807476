//! Every wait has its end, and it is a value: a `Deadline` (doc/decisions/051-deadlines.md).

use super::Source;
use super::layers::without_tests;

/// Where others wait by other means: a backend bounds each of its calls itself, below the type.
const ELSEWHERE: [&str; 3] = [
    "distcifs/src/backend/",
    "distcifs/src/storage/",
    "distcifs/src/repository/deadline.rs",
];

/// Reports waits of the daemon that are bounded by anything but a `Deadline`.
pub fn check(source: &Source, found: &mut Vec<String>) {
    let path = &source.path;
    let ours = path.starts_with("distcifs/src/") && !ELSEWHERE.iter().any(|room| path.starts_with(room));
    if !ours || path.contains("/tests/") || path.ends_with("/tests.rs") {
        return;
    }
    for (number, line) in without_tests(&source.code).lines().enumerate() {
        let taken = line.starts_with("use tokio::time::") && line.contains("timeout");
        if taken || line.contains("tokio::time::timeout") {
            found.push(format!(
                "{path}:{}: a wait without a Deadline: wait by repository/deadline.rs",
                number + 1
            ));
        }
    }
}
