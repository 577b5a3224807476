//! Who signs for which repositories, and whose jobs may learn of it: the administrator's file
//! (doc/triggers.md). One line each: repository, secret, owners of jobs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::path::Path;
use std::sync::Arc;

use nix::unistd::{Uid, User};

use crate::secret::{SECRET_NAME, Secret};

/// Lines that count, at most.
const LINES_MAX: usize = 10_000;

/// Lines of one pattern, at most: for a delivery no more secrets are tried than three times as
/// many, because three patterns fit a repository.
const LINES_OF_PATTERN_MAX: usize = 16;

/// Owners of a line, at most.
const OWNERS_MAX: usize = 1000;

/// Faults that are told, at most.
const FAULTS_MAX: usize = 50;

/// The pattern that every repository fits.
const ALL: &str = "*";

/// Whose jobs may use something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owners {
    /// Those of anybody who may make jobs.
    Anybody,
    /// Those of these users.
    These(BTreeSet<u32>),
}

impl Owners {
    /// Whether a job of this user may.
    pub fn include(&self, uid: u32) -> bool {
        match self {
            Owners::Anybody => true,
            Owners::These(uids) => uids.contains(&uid),
        }
    }
}

/// What one line grants.
#[derive(Debug, PartialEq, Eq)]
pub struct Grant {
    /// The secret that its deliveries are signed with.
    pub secret: Secret,
    /// Whose jobs may learn of them.
    pub owners: Owners,
}

/// All lines.
#[derive(Debug, Default)]
pub struct Grants {
    /// By repository, organisation (`octo/*`) or `*`, in small letters.
    by_pattern: BTreeMap<String, Vec<Arc<Grant>>>,
    most_secrets: usize,
}

/// Something wrong with a line.
#[derive(Debug, PartialEq, Eq)]
struct Fault {
    line: usize,
    column: usize,
    what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.what)
    }
}

impl Grants {
    /// One secret for every repository.
    pub fn single(secret: Secret, owners: Owners) -> Self {
        let grant = Arc::new(Grant { secret, owners });
        Grants {
            by_pattern: BTreeMap::from([(ALL.to_owned(), vec![grant])]),
            most_secrets: 1,
        }
    }

    /// Reads the lines; `folder` is where secrets without a path are.
    ///
    /// # Errors
    /// Each fault on a line of its own, as `line:column: what`.
    pub fn parse(text: &[u8], folder: &Path) -> Result<Self, String> {
        let mut grants = Grants::default();
        let mut faults = Vec::new();
        let mut count = 0;
        for (line, bytes) in (1..).zip(text.split(|byte| *byte == b'\n')) {
            if faults.len() >= FAULTS_MAX {
                break;
            }
            let fault = |column, what: String| Fault { line, column, what };
            let Ok(text) = std::str::from_utf8(bytes) else {
                faults.push(fault(1, "it is not UTF-8".into()));
                continue;
            };
            let words = words(text);
            if words.is_empty() {
                continue;
            }
            count += 1;
            if count > LINES_MAX {
                faults.push(fault(1, format!("there are more than {LINES_MAX} lines")));
                break;
            }
            match read_line(&words, folder) {
                Ok((pattern, grant)) => {
                    let known = grants.by_pattern.entry(pattern).or_default();
                    known.push(Arc::new(grant));
                    if known.len() > LINES_OF_PATTERN_MAX {
                        let why = format!("{} has more than {LINES_OF_PATTERN_MAX} lines", words[0].1);
                        faults.push(fault(words[0].0, why));
                    }
                }
                Err(all) => faults.extend(all.into_iter().map(|(column, what)| fault(column, what))),
            }
        }
        if faults.is_empty() {
            grants.most_secrets = grants.count_secrets();
            return Ok(grants);
        }
        faults.truncate(FAULTS_MAX);
        let lines: Vec<String> = faults.iter().map(Fault::to_string).collect();
        Err(lines.join("\n"))
    }

    /// What is granted for a repository, `owner/name`.
    pub fn of(&self, repository: &str) -> Vec<Arc<Grant>> {
        let name = repository.to_ascii_lowercase();
        let organisation = name.split_once('/').map(|(owner, _)| format!("{owner}/*"));
        let patterns = [Some(name), organisation, Some(ALL.to_owned())];
        let found = patterns
            .iter()
            .flatten()
            .filter_map(|pattern| self.by_pattern.get(pattern));
        found.flatten().cloned().collect()
    }

    /// The secrets of all lines.
    pub fn secrets(&self) -> BTreeSet<&Secret> {
        self.by_pattern.values().flatten().map(|grant| &grant.secret).collect()
    }

    /// How many secrets the repository has that has most of them.
    pub fn most_secrets(&self) -> usize {
        self.most_secrets
    }

    fn count_secrets(&self) -> usize {
        let count = |pattern: &String| {
            let all: BTreeSet<Secret> = self.of(pattern).iter().map(|grant| grant.secret.clone()).collect();
            all.len()
        };
        self.by_pattern.keys().map(count).max().unwrap_or(0)
    }

    /// How many lines there are.
    pub fn len(&self) -> usize {
        self.by_pattern.values().map(Vec::len).sum()
    }

    /// Whether nothing is granted.
    pub fn is_empty(&self) -> bool {
        self.by_pattern.is_empty()
    }
}

/// The words of a line up to a `#`, each with its column in characters.
pub(crate) fn words(text: &str) -> Vec<(usize, &str)> {
    let mut all = Vec::new();
    let mut begin = None;
    for (column, (at, c)) in (1..).zip(text.char_indices().chain([(text.len(), ' ')])) {
        match (begin, c.is_ascii_whitespace()) {
            (None, false) if c == '#' => break,
            (None, false) => begin = Some((column, at)),
            (Some((column, start)), true) => {
                all.push((column, &text[start..at]));
                begin = None;
            }
            _ => {}
        }
    }
    all
}

/// Pattern and grant of a line that has words; or its faults by their columns.
fn read_line(words: &[(usize, &str)], folder: &Path) -> Result<(String, Grant), Vec<(usize, String)>> {
    let [(at, repository), rest @ ..] = words else {
        return Err(vec![(1, "it is empty".into())]);
    };
    let [(secret_at, secret), owners @ ..] = rest else {
        return Err(vec![(*at, format!("{repository} has no secret and no owners"))]);
    };
    let mut faults = Vec::new();
    if !is_pattern(repository) {
        let why = format!("{repository} must be owner/name, owner/* or *");
        faults.push((*at, why));
    }
    let secret = secret_of(secret, folder);
    if let Err(why) = &secret {
        faults.push((*secret_at, why.clone()));
    }
    if owners.is_empty() {
        faults.push((
            *secret_at,
            "after the secret come the users whose jobs may use the repository".into(),
        ));
    }
    if owners.len() > OWNERS_MAX {
        faults.push((*at, format!("there are more than {OWNERS_MAX} owners")));
        return Err(faults);
    }
    let mut uids = BTreeSet::new();
    for (at, owner) in owners.iter().filter(|(_, owner)| *owner != ALL) {
        match uid(owner) {
            Ok(uid) => drop(uids.insert(uid)),
            Err(why) => faults.push((*at, why)),
        }
    }
    let anybody = owners.iter().any(|(_, owner)| *owner == ALL);
    let owners = if anybody { Owners::Anybody } else { Owners::These(uids) };
    match secret {
        Ok(secret) if faults.is_empty() => Ok((repository.to_ascii_lowercase(), Grant { secret, owners })),
        _ => Err(faults),
    }
}

fn is_pattern(text: &str) -> bool {
    let plain = |part: &str| {
        let good = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
        !part.is_empty() && part.len() <= 100 && part.bytes().all(good) && part != "." && part != ".."
    };
    text == ALL
        || text
            .split_once('/')
            .is_some_and(|(owner, name)| plain(owner) && (name == ALL || plain(name)))
}

fn secret_of(word: &str, folder: &Path) -> Result<Secret, String> {
    if word.starts_with('/') {
        return Ok(Secret::at(folder, Path::new(word)));
    }
    Secret::in_folder(folder, word).ok_or_else(|| {
        format!(
            "the secret {word} must be the name of a file in {} ({SECRET_NAME}), or a whole path",
            folder.display()
        )
    })
}

/// Owners in one word: `*`, or users with commas between.
///
/// # Errors
/// One of them is no user here.
pub(crate) fn owners(word: &str) -> Result<Owners, String> {
    if word == ALL {
        return Ok(Owners::Anybody);
    }
    word.split(',').map(uid).collect::<Result<_, _>>().map(Owners::These)
}

/// The number of a user, by name or number.
///
/// # Errors
/// There is no such user.
pub fn uid(user: &str) -> Result<u32, String> {
    if let Ok(uid) = user.parse::<u32>() {
        return Ok(uid);
    }
    match User::from_name(user) {
        Ok(Some(found)) => Ok(found.uid.as_raw()),
        Ok(None) => Err(format!("there is no user {user} here")),
        Err(error) => Err(format!("can't look the user {user} up: {error}")),
    }
}

/// Who may use everything where nothing else is said: root, and the user that we run as.
pub fn own_users() -> BTreeSet<u32> {
    BTreeSet::from([0, Uid::effective().as_raw()])
}

/// The lines of an error with the file's name in front of each.
pub fn located(path: &Path, faults: &str) -> String {
    let mut text = String::new();
    for line in faults.lines() {
        // Writing to a string can't fail.
        let _ = writeln!(text, "{}:{line}", path.display());
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Grants, String> {
        Grants::parse(text.as_bytes(), Path::new("/etc/secrets"))
    }

    fn owners(grants: &Grants, repository: &str) -> Vec<(String, Owners)> {
        let one = |grant: Arc<Grant>| (grant.secret.path().display().to_string(), grant.owners.clone());
        grants.of(repository).into_iter().map(one).collect()
    }

    #[test]
    fn a_line_is_a_repository_its_secret_and_owners() {
        let text =
            "# who may what\n\nAcme/App  app  root 1000 # alice\n acme/*\t/srv/acme 7\n* all *\nacme/app new 8\n";
        let grants = parse(text).unwrap();
        assert_eq!((grants.len(), grants.secrets().len()), (4, 4));
        let these = |uids: &[u32]| Owners::These(uids.iter().copied().collect());
        assert_eq!(
            owners(&grants, "ACME/app"),
            [
                ("/etc/secrets/app".to_owned(), these(&[0, 1000])),
                ("/etc/secrets/new".to_owned(), these(&[8])),
                ("/srv/acme".to_owned(), these(&[7])),
                ("/etc/secrets/all".to_owned(), Owners::Anybody),
            ]
        );
        assert_eq!(owners(&grants, "acme/other").len(), 2);
        assert_eq!(owners(&grants, "acme2/app").len(), 1);
        assert_eq!(owners(&grants, "nonsense").len(), 1);
        assert!(these(&[7]).include(7) && !these(&[7]).include(0) && Owners::Anybody.include(9));
        assert!(parse("").unwrap().is_empty() && parse("# nothing\n").unwrap().of("a/b").is_empty());
    }

    #[test]
    fn faults_are_told_with_their_places_all_at_once() {
        let text = "acme/app ../x root\nacme s\n acme/app\n\nacme/app s nobody-of-this-name 0 x/y\nacme/app s\n";
        assert_eq!(
            parse(text).unwrap_err().lines().collect::<Vec<_>>(),
            [
                "1:10: the secret ../x must be the name of a file in /etc/secrets ([A-Za-z0-9_.-]+, no dot in front), or a whole path",
                "2:1: acme must be owner/name, owner/* or *",
                "2:6: after the secret come the users whose jobs may use the repository",
                "3:2: acme/app has no secret and no owners",
                "5:12: there is no user nobody-of-this-name here",
                "5:34: there is no user x/y here",
                "6:10: after the secret come the users whose jobs may use the repository",
            ]
        );
        for bad in [
            "*/x s 0",
            "a/b/c s 0",
            "a/.. s 0",
            "/ s 0",
            "a/b* s 0",
            "é/b s 0",
            "a/b .s 0",
            "a/b \u{0} 0",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(
            Grants::parse(b"a/b s 0\n\xff", Path::new("/x")).unwrap_err(),
            "2:1: it is not UTF-8"
        );
        assert_eq!(located(Path::new("/m"), "1:2: a\n3:4: b"), "/m:1:2: a\n/m:3:4: b");
    }

    /// So many are tried for each delivery, whatever repository it names.
    #[test]
    fn the_repository_with_most_secrets_is_known() {
        let most = |text: &str| parse(text).unwrap().most_secrets();
        assert_eq!(most(""), 0);
        assert_eq!(most("a/b s 0\na/b s 1\n"), 1, "one secret on two lines");
        assert_eq!(most("a/b s 0\na/* t 1\n* u 1\nc/d x 0\nc/d y 0\n"), 3);
    }

    #[test]
    fn there_are_bounds() {
        let many = "a/b s 0\n".repeat(LINES_OF_PATTERN_MAX + 1);
        assert_eq!(parse(&many).unwrap_err(), "17:1: a/b has more than 16 lines");
        let long: String = (0..=LINES_MAX).map(|n| format!("a/b{n} s 0\n")).collect();
        assert_eq!(parse(&long).unwrap_err(), "10001:1: there are more than 10000 lines");
        assert_eq!(parse(&"x\n".repeat(1000)).unwrap_err().lines().count(), FAULTS_MAX);
        assert!(parse(&format!("a/b s {}", "0 ".repeat(OWNERS_MAX + 1))).is_err());
    }
}
