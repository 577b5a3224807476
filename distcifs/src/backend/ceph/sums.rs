//! Sums: by what a blob's bytes are known again at a fifth of what its digest costs
//! (doc/decisions/033-sums.md).
//!
//! Whoever puts a blob has computed its digest, and stores this sum beside the bytes in the same
//! operation. Bytes with the sum of their name are those that were put, but for an accident of one
//! in 2^64; all others are for the digest to decide.

use std::ffi::CStr;

use twox_hash::XxHash3_64;

use crate::storage::Digest;

/// The attribute with a blob's sum.
pub(super) const SUM: &CStr = c"sum";

/// A sum of bytes under a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sum(u64);

impl Sum {
    /// XXH3 of the bytes, 64 bits, with the start of the digest as its seed: so bytes that were copied
    /// to another blob together with their sum are not taken for that blob's.
    pub(super) fn of(digest: &Digest, bytes: &[u8]) -> Sum {
        let seed = digest
            .as_bytes()
            .first_chunk()
            .map_or(0, |start| u64::from_le_bytes(*start));
        Sum(XxHash3_64::oneshot_with_seed(seed, bytes))
    }

    /// From the attribute's text; `None` for what is no sum.
    pub(super) fn parse(text: &str) -> Option<Sum> {
        text.parse().ok().map(Sum)
    }

    /// The attribute's text, decimal like all others.
    pub(super) fn text(self) -> String {
        self.0.to_string()
    }
}
