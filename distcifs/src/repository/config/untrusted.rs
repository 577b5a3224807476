//! `untrusted`: what becomes of builds of what strangers wrote.

use super::fault::Faults;
use super::object::Object;
use crate::repository::names::Name;
use distcifs_settings::source::is_login;

/// Most senders that are named.
const SENDERS_MAX: usize = 1000;

/// What becomes of an untrusted build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// It waits for approval.
    #[default]
    Hold,
    /// It runs.
    Run,
    /// Its trigger is refused.
    Refuse,
}

/// What a configuration says of untrusted builds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Untrusted {
    /// What becomes of them.
    pub choice: Choice,
    /// Senders whose builds run.
    pub run_for: Vec<String>,
    /// Queues and environments of the user's own that they may use.
    pub types: Vec<Name>,
}

impl Untrusted {
    /// What becomes of a build of these senders: it runs if all of them are named, and somebody is.
    pub fn choice_for(&self, senders: &[String]) -> Choice {
        let named = |sender: &String| self.run_for.iter().any(|known| known.eq_ignore_ascii_case(sender));
        if !senders.is_empty() && senders.iter().all(named) {
            return Choice::Run;
        }
        self.choice
    }

    /// Reads what a configuration says.
    pub(super) fn read(top: &Object<'_>, faults: &mut Faults) -> Self {
        let choice = match top.string("untrusted", faults) {
            None | Some("hold") => Choice::Hold,
            Some("run") => Choice::Run,
            Some("refuse") => Choice::Refuse,
            Some(_) => {
                let at = top.get("untrusted").map_or(top.at, |value| value.at);
                faults.add(at, "untrusted must be hold, run or refuse");
                Choice::Hold
            }
        };
        let senders = top.strings("untrusted_run_for", faults).unwrap_or_default();
        if let Some((at, _)) = senders.get(SENDERS_MAX) {
            faults.add(*at, format!("untrusted_run_for has more than {SENDERS_MAX} senders"));
        }
        for (i, (at, sender)) in senders.iter().enumerate().take(SENDERS_MAX) {
            if !is_login(sender) {
                faults.add(*at, format!("untrusted_run_for[{i}] must be a login"));
            }
        }
        let types = top.names("untrusted_types", faults);
        Untrusted {
            choice,
            run_for: senders.into_iter().map(|(_, sender)| sender.to_owned()).collect(),
            types: types.into_iter().map(|(_, name)| name).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::config::json;

    fn read(text: &str) -> Result<Untrusted, Vec<String>> {
        let value = json::parse(text.as_bytes()).unwrap();
        let mut faults = Faults::default();
        let object = Object::new(&value, "", &mut faults).unwrap();
        let untrusted = Untrusted::read(&object, &mut faults);
        let found: Vec<String> = faults.into_sorted().iter().map(ToString::to_string).collect();
        if found.is_empty() { Ok(untrusted) } else { Err(found) }
    }

    /// "`untrusted`: `hold` (default), `run` or `refuse`; `untrusted_run_for` are logins."
    #[test]
    fn untrusted_builds_wait_unless_it_is_said() {
        assert_eq!(read("{}").unwrap(), Untrusted::default());
        assert_eq!(Untrusted::default().choice, Choice::Hold);
        let given = read(
            r#"{"untrusted": "refuse", "untrusted_run_for": ["octo-cat", "dependabot[bot]"], "untrusted_types": ["lint"]}"#,
        )
        .unwrap();
        assert_eq!(
            (given.choice, given.run_for.len(), given.types.len()),
            (Choice::Refuse, 2, 1)
        );
        for (text, words) in [
            (r#"{"untrusted": true}"#, "must be a string"),
            (r#"{"untrusted": "yes"}"#, "must be hold, run or refuse"),
            (r#"{"untrusted_run_for": "octocat"}"#, "must be a list of strings"),
            (
                r#"{"untrusted_run_for": ["a b"]}"#,
                "untrusted_run_for[0] must be a login",
            ),
            (r#"{"untrusted_run_for": [""]}"#, "must be a login"),
            (r#"{"untrusted_types": ["../x"]}"#, "untrusted_types[0] must be a name"),
        ] {
            let found = read(text).expect_err(text);
            assert!(found.len() == 1 && found[0].contains(words), "{text}: {found:?}");
        }
    }
}
