//! What is kept of a record that may be large: the first of a list, or nothing.

use std::fmt;
use std::ops::{Deref, DerefMut};

use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The first of a list, `MOST` at most, and how many more there are. It is written as a list of those.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Few<T, const MOST: usize> {
    first: Vec<T>,
    more: usize,
}

impl<T, const MOST: usize> Few<T, MOST> {
    /// Of these, and how many more.
    pub fn new(mut first: Vec<T>, more: usize) -> Self {
        let more = more.saturating_add(first.len().saturating_sub(MOST));
        first.truncate(MOST);
        Few { first, more }
    }

    /// How many there are beyond the first.
    pub fn more(&self) -> usize {
        self.more
    }
}

impl<T, const MOST: usize> Default for Few<T, MOST> {
    fn default() -> Self {
        Few::new(Vec::new(), 0)
    }
}

impl<T, const MOST: usize> Deref for Few<T, MOST> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.first
    }
}

impl<T, const MOST: usize> DerefMut for Few<T, MOST> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.first
    }
}

impl<T: Serialize, const MOST: usize> Serialize for Few<T, MOST> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.first.serialize(to)
    }
}

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for Few<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_seq(Firsts(Few::default()))
    }
}

/// Reads a list, and keeps the first.
struct Firsts<T, const MOST: usize>(Few<T, MOST>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for Firsts<T, MOST> {
    type Value = Few<T, MOST>;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Self::Value, A::Error> {
        while self.0.first.len() < MOST {
            match list.next_element()? {
                Some(one) => self.0.first.push(one),
                None => return Ok(self.0),
            }
        }
        while list.next_element::<IgnoredAny>()?.is_some() {
            self.0.more += 1;
        }
        Ok(self.0)
    }
}

/// What was read over, whatever it was. It is written as null.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Skipped;

impl Serialize for Skipped {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_none()
    }
}

impl<'de> Deserialize<'de> for Skipped {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(from).map(|_| Skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_are_kept_and_the_rest_is_counted() {
        for (text, first, more) in [
            ("[]", vec![], 0),
            ("[1]", vec![1], 0),
            ("[1,2]", vec![1, 2], 0),
            ("[1,2,{\"x\":[3]},null]", vec![1, 2], 2),
        ] {
            let few: Few<u64, 2> = serde_json::from_str(text).unwrap();
            assert_eq!((few.to_vec(), few.more()), (first, more), "{text}");
        }
        assert!(serde_json::from_str::<Few<u64, 2>>("[1,\"x\"]").is_err());
        assert_eq!(
            serde_json::to_string(&Few::<u64, 2>::new(vec![1, 2, 3], 0)).unwrap(),
            "[1,2]"
        );
        assert_eq!(serde_json::from_str::<Skipped>("[{\"a\":1}]").unwrap(), Skipped);
    }
}
