//! How an entry and the key of a record's value are written in redb.

use bytes::Bytes;

use crate::backend::entries::Node;

/// Bytes before an entry's data: its version (4, little-endian) and its creation (8).
const HEAD_BYTES: usize = 12;

/// An entry as it is stored.
pub(super) fn encode(node: &Node) -> Vec<u8> {
    let mut row = Vec::with_capacity(HEAD_BYTES + node.data.len());
    row.extend_from_slice(&node.version.to_le_bytes());
    row.extend_from_slice(&node.created.to_le_bytes());
    row.extend_from_slice(&node.data);
    row
}

/// The entry stored in a row; `None` if it is too short to be one.
pub(super) fn decode(row: &[u8]) -> Option<Node> {
    let (version, rest) = row.split_first_chunk::<4>()?;
    let (created, data) = rest.split_first_chunk::<8>()?;
    Some(Node {
        data: Bytes::copy_from_slice(data),
        version: u32::from_le_bytes(*version),
        created: u64::from_le_bytes(*created),
        ephemeral: false,
    })
}

/// Where a record's key stands: no name and no key has a NUL, so records don't mix.
pub(super) fn key(name: &str, key: &str) -> String {
    format!("{name}\0{key}")
}
