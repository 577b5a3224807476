//! Plain data as JSON.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::repository::{Error, Failure, Result};

/// The JSON text of plain data of ours.
pub(crate) fn to_json<T: Serialize>(value: &T) -> Bytes {
    // Plain structs of strings and numbers: serialisation to memory cannot fail.
    Bytes::from(serde_json::to_vec(value).unwrap_or_default())
}

/// Plain data of ours out of an entry or record.
pub(crate) fn from_json<T: DeserializeOwned>(what: &str, data: &[u8]) -> Result<T> {
    serde_json::from_slice(data).map_err(|error| {
        let words = format!("{what}: damaged: {error}; run distcifs fsck");
        Error::Io(Failure::because(words, error))
    })
}

/// JSON for people too.
pub(crate) fn pretty(json: &serde_json::Value) -> String {
    serde_json::to_string_pretty(json).unwrap_or_default() + "\n"
}
