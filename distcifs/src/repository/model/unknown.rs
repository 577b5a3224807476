//! Members that a later version writes into what this one reads, changes and writes again.

use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

/// Most such members of one entry or record: a version brings a few.
const MEMBERS_MAX: usize = 64;

/// Members that this version does not know, as they were read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "Map<String, Value>")]
pub struct Unknown(Map<String, Value>);

impl TryFrom<Map<String, Value>> for Unknown {
    type Error = String;

    fn try_from(members: Map<String, Value>) -> Result<Self, String> {
        if members.len() > MEMBERS_MAX {
            let found = members.len();
            return Err(format!(
                "{found} members that this version does not know, more than {MEMBERS_MAX}"
            ));
        }
        Ok(Unknown(members))
    }
}

impl Serialize for Unknown {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(to)
    }
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;

    use super::*;
    use crate::repository::model::build::Live;
    use crate::repository::model::record::Record;
    use crate::repository::model::ticket::Ticket;

    /// What it is after it was read and written once.
    fn again<T: DeserializeOwned + Serialize>(text: &str) -> Value {
        let read: T = serde_json::from_str(text).unwrap();
        serde_json::to_value(read).unwrap()
    }

    const LIVE: &str = r#"{"config":{"digest":"d","size":1},"params":[],"run":0,"abort":false,"insist":false,"keep":false,"triggered":1,"uid":2,"nonce":"n"}"#;
    const TICKET: &str =
        r#"{"state":"open","attempt":1,"given":0,"nonce":"","labels":[],"attempts":3,"uid":2,"posted":1,"claimed":0}"#;
    const RECORD: &str = r#"{"state":"success","message":"","run":0,"triggered":1,"finished":2,"keep":false,"uid":2,"config":{"digest":"d","size":1},"params":[],"nonce":"n","finisher":"f","tasks":[],"lengths":{}}"#;

    /// "Fields of later versions are preserved": what a later version wrote is there after this one wrote again, and
    /// where it wrote nothing the bytes are those of before.
    #[test]
    fn what_is_not_known_is_written_again() {
        let written = |text: &str| {
            (
                serde_json::to_string(&serde_json::from_str::<Live>(text).ok()).unwrap(),
                serde_json::to_string(&serde_json::from_str::<Ticket>(text).ok()).unwrap(),
                serde_json::to_string(&serde_json::from_str::<Record>(text).ok()).unwrap(),
            )
        };
        assert_eq!(written(LIVE).0, LIVE);
        assert_eq!(written(TICKET).1, TICKET);
        assert_eq!(written(RECORD).2, RECORD);
        let later = |text: &str| text.replacen('{', r#"{"later":{"a":[1,2.5,"x",null]},"#, 1);
        for (text, read) in [
            (LIVE, again::<Live> as fn(&str) -> Value),
            (TICKET, again::<Ticket>),
            (RECORD, again::<Record>),
        ] {
            let (before, after) = (later(text), read(&later(text)));
            assert_eq!(after, serde_json::from_str::<Value>(&before).unwrap(), "{before}");
        }
    }

    #[test]
    fn there_are_not_any_number_of_them() {
        let of = |count: usize| {
            let members: Vec<String> = (0..count).map(|i| format!(r#""m{i}":1,"#)).collect();
            LIVE.replacen('{', &format!("{{{}", members.concat()), 1)
        };
        assert!(serde_json::from_str::<Live>(&of(MEMBERS_MAX)).is_ok());
        let error = serde_json::from_str::<Live>(&of(MEMBERS_MAX + 1)).unwrap_err();
        assert!(error.to_string().contains("more than 64"), "{error}");
    }
}
