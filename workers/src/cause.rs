//! What github-webhook says of a build in its cause, and whether a git-checkout is of that repository.

use distcifs_settings::git::is_commit;

/// The repository of `github push octo/hello 6113728f… refs/heads/main octocat`, in small letters, if that is the commit
/// that it names.
pub fn repository(cause: &str, commit: &str) -> Option<String> {
    let mut words = cause.split_ascii_whitespace();
    let (first, _, repository, told) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let named = repository
        .split_once('/')
        .is_some_and(|(owner, name)| !owner.is_empty() && !name.is_empty());
    (first == "github" && named && is_commit(told) && told.eq_ignore_ascii_case(commit))
        .then(|| repository.to_ascii_lowercase())
}

/// Host and path of a repository's address, in small letters: `https://host/path.git`,
/// `ssh://git@host:22/path`, `git@host:path`. `None`: one of another form, such as a folder.
pub fn address(text: &str) -> Option<(String, String)> {
    let (authority, path) = match text.split_once("://") {
        Some((_, rest)) => rest.split_once('/')?,
        None => text.split_once(':').filter(|(authority, _)| !authority.contains('/'))?,
    };
    let host = authority.rsplit('@').next()?;
    let host = host.split(':').next()?;
    let path = path.trim_matches('/');
    let path = path.strip_suffix(".git").unwrap_or(path);
    (!host.is_empty() && !path.is_empty()).then(|| (host.to_ascii_lowercase(), path.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_of_another_commit_or_kind_names_no_repository() {
        let (said, other) = ("ab".repeat(20), "cd".repeat(20));
        let of = |cause: &str| repository(cause, &said);
        let good = format!("github push Octo/hello {} refs/heads/main x", said.to_uppercase());
        assert_eq!(of(&good).as_deref(), Some("octo/hello"));
        for cause in [
            "",
            "cron 2026-01-01T00:00:00Z",
            "github create octo/hello - refs/tags/v1 x",
            &format!("github push octo/hello {other} refs/heads/main x"),
            &format!("gitlab push octo/hello {said} refs/heads/main x"),
            &format!("github push octo {said} refs/heads/main x"),
            &format!("github push /hello {said} refs/heads/main x"),
        ] {
            assert_eq!(of(cause), None, "{cause}");
        }
    }
}
