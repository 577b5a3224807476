//! What a claimant writes into `result`.

use super::Claim;
use crate::repository::model::ticket::{MESSAGE_BYTES_MAX, Verdict, cut};
use crate::repository::{Error, Result};

/// A result as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskResult {
    /// How it ended.
    pub verdict: Verdict,
    /// The exit status, if a number was written.
    pub exit: Option<u8>,
    /// The lines after the first.
    pub message: String,
}

impl TaskResult {
    /// Reads what is written into `result`.
    pub fn read(text: &[u8]) -> Result<Self> {
        let wrong = |what: &str| {
            Error::Invalid(format!(
                "result {what:?}: write an exit status 0 to 255, or success, failure, error or aborted"
            ))
        };
        let text = std::str::from_utf8(text).map_err(|_| wrong("(not UTF-8)"))?;
        let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
        let word = first.trim();
        let message = cut(rest.trim(), MESSAGE_BYTES_MAX).to_owned();
        if let Some(verdict) = Verdict::parse(word) {
            return Ok(TaskResult {
                verdict,
                exit: None,
                message,
            });
        }
        let digits = word.len() <= 3 && !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
        let exit: u8 = digits
            .then(|| word.parse().ok())
            .flatten()
            .ok_or_else(|| wrong(cut(word, 40)))?;
        let verdict = if exit == 0 { Verdict::Success } else { Verdict::Failure };
        Ok(TaskResult {
            verdict,
            exit: Some(exit),
            message,
        })
    }
}

impl Claim {
    /// A result with what the tree knows of why it is no success.
    pub(super) fn noted(&self, mut result: TaskResult) -> TaskResult {
        let failed = matches!(result.verdict, Verdict::Failure | Verdict::Error);
        if let Some(note) = self.note().filter(|_| failed) {
            let joint = if result.message.is_empty() { "" } else { "; " };
            result.message = cut(&format!("{note}{joint}{}", result.message), MESSAGE_BYTES_MAX).to_owned();
        }
        result
    }
}
