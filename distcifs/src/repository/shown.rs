//! Texts of build.json that are kept: of a build of 1,000 tasks one has more than a megabyte, and whoever
//! lists a folder, opens a file or waits for a build asks for it again and again.

use std::sync::Mutex;

use bytes::Bytes;

use super::cache::Cache;
use super::core::lock;
use super::model::build::Build;

/// Bytes of the texts that are kept, and of what they were made of.
const BYTES_MAX: usize = 64 << 20;

/// What a text counts at least, bytes: so the texts of 64 builds are kept.
const TEXT_BYTES_MIN: usize = BYTES_MAX / 64;

/// The texts that were used last, by uid and number. The truth is the build: a text counts while it is as it
/// was when that was made.
#[derive(Default)]
pub(crate) struct Shown(Mutex<Table>);

#[derive(Default)]
struct Table {
    texts: Cache<(String, u64), Text, BYTES_MAX>,
    #[cfg(test)]
    made: u64,
}

/// A text, and what it was made of.
struct Text {
    build: Build,
    why: String,
    bytes: Bytes,
}

impl Shown {
    /// The text of a build that is as it is now, and waits or ended for this reason.
    pub(crate) fn text(&self, build: &Build, why: &str, make: impl FnOnce() -> String) -> Bytes {
        let key = (build.job.uid().to_owned(), build.n);
        let same = |text: &&Text| text.why == why && text.build.is_as(build);
        if let Some(text) = lock(&self.0).texts.get(&key).filter(same) {
            return text.bytes.clone();
        }
        let bytes = Bytes::from(make());
        let mut table = lock(&self.0);
        let text = Text {
            build: build.clone(),
            why: why.to_owned(),
            bytes: bytes.clone(),
        };
        // It keeps the build alive, and that its plan.
        let weight = (bytes.len() + build.plan.size().memory).max(TEXT_BYTES_MIN);
        table.texts.keep_weighed(key, text, weight);
        #[cfg(test)]
        {
            table.made += 1;
        }
        bytes
    }

    /// How many texts were made so far.
    #[cfg(test)]
    pub(crate) fn made(&self) -> u64 {
        lock(&self.0).made
    }
}
