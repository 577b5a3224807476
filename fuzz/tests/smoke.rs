//! The corpus, and what a seeded generator makes of it, through every target: a short run that needs no fuzzer.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is not as it should be"
)]

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use distcifs_fuzz::TARGETS;

/// Inputs made for each target: enough to go through all that the corpus reaches, few enough for each run of the
/// tests. More with cargo-fuzz.
const ROUNDS: u64 = 30_000;

/// Longest input, bytes.
const BYTES_MAX: usize = 4096;

/// Words that mean something to one target or another.
const WORDS: [&[u8]; 22] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b":",
    b",",
    b"${",
    b"}",
    b"\\u0000",
    b"null",
    b"-1",
    b"1e400",
    b"\n",
    b"=",
    b"payload=",
    b"- ",
    b"&a ",
    b"*a",
    b"<<: ",
    b"[[",
    b"\"\"\"",
];

/// Numbers that are the same in each run (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound.max(1) as u64).unwrap()
    }

    /// One to eight changes of one input, with pieces of another.
    fn change(&mut self, one: &[u8], other: &[u8]) -> Vec<u8> {
        let mut bytes = one.to_vec();
        for _ in 0..=self.below(8) {
            let at = self.below(bytes.len() + 1);
            let end = (at + self.below(16)).min(bytes.len());
            match self.below(5) {
                0 if at < bytes.len() => bytes[at] = u8::try_from(self.below(256)).unwrap(),
                1 => drop(bytes.drain(at..end)),
                2 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
                3 => drop(bytes.splice(at..end, WORDS[self.below(WORDS.len())].to_vec())),
                _ => {
                    let from = self.below(other.len() + 1);
                    let to = (from + self.below(64)).min(other.len());
                    drop(bytes.splice(at..end, other[from..to].to_vec()));
                }
            }
        }
        bytes.truncate(BYTES_MAX);
        bytes
    }
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    // The hostile pipelines of the tests, and good ones beside them.
    let others = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/corpus/distcifs");
    let folders = [Some(own), (target == "pipeline").then_some(others)];
    let mut files: Vec<_> = folders
        .into_iter()
        .flatten()
        .flat_map(|folder| fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// "Nothing from outside may panic": whatever the bytes are.
#[test]
fn no_input_makes_a_target_panic() {
    for (name, target) in TARGETS {
        let corpus = corpus(name);
        assert!(!corpus.is_empty(), "{name} has no corpus");
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
        let run = |bytes: &[u8]| {
            let ended = catch_unwind(|| target(bytes));
            assert!(ended.is_ok(), "{name} does not take {}", bytes.escape_ascii());
        };
        corpus.iter().for_each(|bytes| run(bytes));
        for _ in 0..ROUNDS {
            let (one, other) = (numbers.below(corpus.len()), numbers.below(corpus.len()));
            run(&numbers.change(&corpus[one], &corpus[other]));
        }
    }
}
