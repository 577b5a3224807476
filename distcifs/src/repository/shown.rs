//! Texts of build.json that are kept: of a build of 1,000 tasks one has more than a megabyte, and whoever
//! lists a folder, opens a file or waits for a build asks for it again and again.

use std::collections::VecDeque;
use std::sync::Mutex;

use bytes::Bytes;

use super::core::lock;
use super::model::build::Build;

/// Bytes of the texts that are kept.
const BYTES_MAX: usize = 16 << 20;

/// Builds whose texts are kept.
const BUILDS_MAX: usize = 64;

/// The texts that were made last.
#[derive(Default)]
pub(crate) struct Shown(Mutex<Table>);

#[derive(Default)]
struct Table {
    texts: VecDeque<Text>,
    bytes: usize,
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
        let same = |text: &&Text| text.why == why && text.build.is_as(build);
        if let Some(text) = lock(&self.0).texts.iter().find(same) {
            return text.bytes.clone();
        }
        let bytes = Bytes::from(make());
        let mut table = lock(&self.0);
        let other = |text: &Text| text.build.n != build.n || text.build.job.uid() != build.job.uid();
        table.texts.retain(other);
        table.texts.push_back(Text {
            build: build.clone(),
            why: why.to_owned(),
            bytes: bytes.clone(),
        });
        table.bytes = table.texts.iter().map(|text| text.bytes.len()).sum();
        while table.bytes > BYTES_MAX || table.texts.len() > BUILDS_MAX {
            let oldest = table.texts.pop_front();
            table.bytes -= oldest.map_or(0, |text| text.bytes.len());
        }
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
