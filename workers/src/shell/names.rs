//! How many names an image has: an empty file takes room on a disk too.

use std::io::{BufRead, BufReader, Read};
use std::process::ChildStdout;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

/// What each name in an image counts for, bytes: an empty file takes room too.
const NAME_BYTES: u64 = 4096;

/// Counts what a tar makes, by the names that it says: an entry of 512 bytes may make many folders.
pub(super) struct Names {
    count: Arc<AtomicU64>,
    reader: Option<JoinHandle<()>>,
}

/// Bytes of a name that are looked at together: a longer one counts for several.
const NAME_MAX: u64 = 64 << 10;

impl Names {
    /// Of what a tar says.
    pub(super) fn follow(said: Option<ChildStdout>) -> Self {
        let count = Arc::new(AtomicU64::new(0));
        let counted = count.clone();
        let reader = said.map(|said| {
            thread::spawn(move || {
                let mut before = Vec::new();
                let mut said = BufReader::new(said);
                loop {
                    let mut name = Vec::new();
                    if !matches!((&mut said).take(NAME_MAX).read_until(b'\n', &mut name), Ok(1..)) {
                        return;
                    }
                    counted.fetch_add(new_names(&before, &name), Ordering::Relaxed);
                    before = name;
                }
            })
        });
        Names { count, reader }
    }

    /// What they count for, so far.
    pub(super) fn bytes(&self) -> u64 {
        self.count.load(Ordering::Relaxed).saturating_mul(NAME_BYTES)
    }

    /// The same when all are said.
    pub(super) fn finish(mut self) -> u64 {
        // It has no way to fail.
        let _ = self.reader.take().map(JoinHandle::join);
        self.bytes()
    }
}

/// How many names of a path are not in the one before: at most so many things are made.
fn new_names(before: &[u8], name: &[u8]) -> u64 {
    let same = before.iter().zip(name).take_while(|(a, b)| a == b).count();
    let parts = name.iter().skip(same).filter(|byte| **byte == b'/').count();
    1 + parts as u64
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// "Each name in an image counts for 4096 bytes", and so do folders that are made on the way to it.
    #[test]
    fn names_count_too() {
        for (before, name, count) in [
            ("", "./\n", 2),
            ("./a/b\n", "./a/c\n", 1),
            ("./a/b\n", "./a/c/d/e\n", 3),
            ("./a/\n", "./x/y\n", 2),
        ] {
            assert_eq!(new_names(before.as_bytes(), name.as_bytes()), count, "{name:?}");
        }
        let said = Command::new("printf")
            .arg("a\nb\nc/d\n")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
            .stdout;
        assert_eq!(Names::follow(said).finish(), 4 * NAME_BYTES);
    }
}
