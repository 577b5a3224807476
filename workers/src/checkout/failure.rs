//! Why a fetch failed, by what git said: in a few words for people, and whether another try may help.

/// A kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// The repository has nothing of that name.
    NoSuchRef,
    /// The server does not answer as it should just now.
    Passing(&'static str),
    /// It will fail again.
    Lasting(&'static str),
    /// Git said nothing that is known.
    Unknown,
}

/// What git says, and what that is. The first that fits counts.
const SAID: [(&str, Failure); 23] = [
    ("couldn't find remote ref", Failure::NoSuchRef),
    ("not our ref", Failure::NoSuchRef),
    ("unadvertised object", Failure::NoSuchRef),
    ("ould not resolve host", Failure::Passing("its host is not known")),
    ("Unable to look up", Failure::Passing("its host is not known")),
    (
        "Host key verification failed",
        Failure::Lasting("the key of its host is not known to the owner of this job"),
    ),
    (
        "certificate",
        Failure::Lasting("the certificate of its server is not good"),
    ),
    (
        "Authentication failed",
        Failure::Lasting("its server wants a user and a password, and not these"),
    ),
    (
        "could not read Username",
        Failure::Lasting("its server wants a user and a password"),
    ),
    (
        "could not read Password",
        Failure::Lasting("its server wants a password"),
    ),
    (
        "Permission denied (",
        Failure::Lasting("its server takes no ssh key of the owner of this job"),
    ),
    (
        "returned error: 403",
        Failure::Lasting("its server refuses this user (403)"),
    ),
    (
        "returned error: 404",
        Failure::Lasting("its server has no such repository (404)"),
    ),
    ("not found", Failure::Lasting("there is no such repository")),
    (
        "onnection refused",
        Failure::Passing("its server refuses the connection"),
    ),
    ("No route to host", Failure::Passing("its server can't be reached")),
    ("etwork is unreachable", Failure::Passing("its server can't be reached")),
    ("too slow", Failure::Passing("its server sends less than 1 KB a second")),
    ("timed out", Failure::Passing("its server does not answer")),
    ("returned error: 5", Failure::Passing("its server has an error")),
    ("early EOF", Failure::Passing("its server broke off")),
    ("RPC failed", Failure::Passing("its server broke off")),
    ("hung up", Failure::Passing("its server broke off")),
];

impl Failure {
    pub(super) fn of(said: &str) -> Self {
        let known = SAID.iter().find(|(words, _)| said.contains(words));
        known.map_or(Failure::Unknown, |(_, failure)| *failure)
    }

    /// In words, if there are better ones than that it could not be read.
    pub(super) fn why(self) -> Option<&'static str> {
        match self {
            Failure::Passing(why) | Failure::Lasting(why) => Some(why),
            Failure::NoSuchRef | Failure::Unknown => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_git_says_has_a_reason() {
        for (said, why) in [
            (
                "fatal: unable to access 'https://x/': Could not resolve host: x",
                "not known",
            ),
            (
                "ssh: Could not resolve hostname x: Name or service not known",
                "not known",
            ),
            ("fatal: Authentication failed for 'https://x/'", "not these"),
            (
                "fatal: could not read Username for 'https://x': terminal prompts disabled",
                "a user and a password",
            ),
            ("x@y: Permission denied (publickey).", "ssh key"),
            ("SSL certificate problem: self-signed certificate", "certificate"),
            (
                "fatal: unable to access: Failed to connect to h port 1: Connection refused",
                "refuses the connection",
            ),
            ("Operation too slow. Less than 1000 bytes/sec", "less than 1 KB"),
            ("fatal: repository 'https://x/' not found", "no such repository"),
        ] {
            let failure = Failure::of(said);
            assert!(
                failure.why().is_some_and(|found| found.contains(why)),
                "{said}: {failure:?}"
            );
        }
        assert_eq!(Failure::of("fatal: couldn't find remote ref nope"), Failure::NoSuchRef);
        assert_eq!(Failure::of("odd").why(), None);
    }
}
