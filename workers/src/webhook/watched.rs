//! Which deliveries a job waits for: by its `github` entry, or else by its git-checkout tasks.

use distcifs_settings::expand::expand;
use distcifs_settings::matching::{self, fits};
use distcifs_settings::source::{Source, is_login};
use serde_json::{Map, Value};

use super::event::{Event, Repository};
use super::matrix::combinations;
use distcifs_settings::cause::address;

/// The host of repositories whose payload gives no address.
const HOST: &str = "github.com";

/// Parameters that an event can give, where a job declares them.
const PARAMETERS: [&str; 5] = ["ref", "commit", "repository", "sender", "pull_request"];

/// Of those the ones that say what is to be built.
const TELLING: [&str; 3] = ["ref", "commit", "pull_request"];

/// Bytes of a job's refs and addresses that count: a hundred jobs of somebody's must not fill the
/// memory of all.
const WANTED_BYTES_MAX: usize = 64 << 10;

/// Where pull requests are.
const PULLS: &str = "refs/pull/";

/// Longest word of a cause, characters: it is for people, and refs may be anything.
const WORD_CHARS_MAX: usize = 140;

/// A job that waits for deliveries.
#[derive(Debug, PartialEq, Eq)]
pub struct Watched {
    /// The secret that it wants deliveries to be signed with; absent: any that they may be.
    pub secret_file: Option<String>,
    declared: Vec<&'static str>,
    wanted: Wanted,
}

#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    /// `github`: full refs, `*` standing for anything; with `!` in front they take away.
    Entry { repository: String, refs: Vec<String> },
    /// git-checkout tasks.
    Checkouts(Vec<Checkout>),
}

#[derive(Debug, PartialEq, Eq)]
struct Checkout {
    host: String,
    path: String,
    name: Name,
}

/// The ref of a git-checkout.
#[derive(Debug, PartialEq, Eq)]
enum Name {
    /// `refs/…`.
    Full(String),
    /// A branch or tag.
    Short(String),
    /// What HEAD is.
    Default,
    /// A parameter that whoever triggers must give.
    AnyBranch,
}

impl Watched {
    /// Reads a configuration; `None` if it waits for no delivery.
    pub fn read(text: &[u8]) -> Option<Self> {
        let config: Value = serde_json::from_slice(&with_texts_for_numbers(text)).ok()?;
        let parameters = config.get("parameters").and_then(Value::as_object);
        let declared = |name: &&str| parameters.is_some_and(|all| all.contains_key(*name));
        let github = config.get("github");
        let wanted = match github {
            Some(github) => entry(github)?,
            None => Wanted::Checkouts(checkouts(&config, parameters)),
        };
        if wanted == Wanted::Checkouts(Vec::new()) {
            return None;
        }
        Some(Watched {
            secret_file: github.and_then(|github| Some(github.get("secret_file")?.as_str()?.to_owned())),
            declared: PARAMETERS.into_iter().filter(declared).collect(),
            wanted,
        })
    }

    /// Under which repositories it is to be found, `owner/name` in small letters.
    pub fn repositories(&self) -> Vec<String> {
        match &self.wanted {
            Wanted::Entry { repository, .. } => vec![repository.to_ascii_lowercase()],
            Wanted::Checkouts(all) => all.iter().map(|checkout| checkout.path.clone()).collect(),
        }
    }

    /// Whether it builds this. Commits from another repository are a stranger's: a pull request
    /// with such is only built by a job whose refs name pull requests.
    pub fn takes(&self, event: &Event) -> bool {
        match &self.wanted {
            Wanted::Entry { repository, refs } => {
                repository.eq_ignore_ascii_case(&event.repository.full_name)
                    && matching::takes(refs, |pattern, excludes| {
                        let base = event.base.as_deref().filter(|_| excludes || !event.foreign);
                        let mut names = std::iter::once(event.name.as_str()).chain(base);
                        names.any(|name| means(pattern, excludes, name))
                    })
            }
            Wanted::Checkouts(all) => {
                // What it checks out is fixed, unless it can be told.
                let told = event.base.is_none() || TELLING.iter().any(|name| self.declared.contains(name));
                told && !event.foreign && all.iter().any(|checkout| checkout.takes(event))
            }
        }
    }

    /// What is written to the job's trigger: the parameters that it declares, and the key.
    pub fn trigger(&self, event: &Event, key: &str) -> Vec<u8> {
        let mut text = Map::new();
        for name in &self.declared {
            let value = match *name {
                "ref" => Some(event.name.clone()),
                "commit" => event.commit.clone(),
                "repository" => Some(event.repository.full_name.clone()),
                "sender" => Some(event.sender.clone()),
                _ => event.pull_request.map(|number| number.to_string()),
            };
            text.extend(value.map(|value| ((*name).to_owned(), Value::String(value))));
        }
        text.insert("@key".into(), key.into());
        text.insert("@cause".into(), cause(event).into());
        text.extend(said(event).map(|(name, value)| (name.to_owned(), value.into())));
        if event.foreign {
            text.insert("@trust".into(), "untrusted".into());
            text.extend(senders(event).map(|senders| ("@sender".to_owned(), senders.into())));
        }
        Value::Object(text).to_string().into_bytes()
    }
}

/// The same JSON with each number as a string: as the tree does, which keeps the digits that it was written
/// with. 3.10 is no 3.1.
fn with_texts_for_numbers(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len());
    let (mut in_string, mut in_number) = (false, false);
    let mut bytes = json.iter().copied();
    while let Some(byte) = bytes.next() {
        let begins = byte == b'-' || byte.is_ascii_digit();
        let goes_on = begins || matches!(byte, b'+' | b'.' | b'e' | b'E');
        if !in_string && (in_number && !goes_on || !in_number && begins) {
            in_number = !in_number;
            out.push(b'"');
        }
        out.push(byte);
        match byte {
            b'"' => in_string = !in_string,
            b'\\' if in_string => out.extend(bytes.next()),
            _ => {}
        }
    }
    out
}

/// What the `@` values of a trigger say of an event. A name that the tree takes for none is left out: the job is built
/// all the same.
fn said(event: &Event) -> impl Iterator<Item = (&'static str, String)> {
    let kind = match event.kind {
        "push" if !event.name.starts_with("refs/tags/") => "push",
        "push" | "create" => "tag",
        other => other,
    };
    let commit = event.commit.clone().unwrap_or_default();
    let before = event.before.clone().unwrap_or_default();
    let base = event.base.clone().unwrap_or_default();
    let said = [
        ("@event", kind.to_owned()),
        ("@ref", event.name.clone()),
        ("@commit", commit),
        ("@before", before),
        ("@base", base),
    ];
    said.into_iter()
        .filter(|(name, value)| !value.is_empty() && Source::default().take(&name[1..], value) == Ok(true))
}

/// Who opened the pull request, whose repository its commits come from, and who sent it: a maintainer who reopens a
/// stranger's pull request sends what he did not write. Where one of them is not known all are left out, for the others
/// must not speak for him.
fn senders(event: &Event) -> Option<Vec<String>> {
    let mut senders: Vec<String> = Vec::new();
    // Last who sent it: of those who wait for approval his are counted.
    for login in [&event.sender, &event.from, &event.author] {
        if !senders.iter().any(|known| known.eq_ignore_ascii_case(login)) {
            senders.insert(0, login.clone());
        }
    }
    senders.iter().all(|sender| is_login(sender)).then_some(senders)
}

/// `github push octo/hello 6113728f… refs/heads/main octocat`: a line that programs can read, too.
fn cause(event: &Event) -> String {
    let commit = event.commit.as_deref().unwrap_or("-");
    let words = [
        event.kind,
        &event.repository.full_name,
        commit,
        &event.name,
        &event.sender,
    ];
    let plain = |c: char| if c.is_whitespace() || c.is_control() { '?' } else { c };
    let word = |word: &&str| word.chars().take(WORD_CHARS_MAX).map(plain).collect::<String>();
    // Characters may be of four bytes: cut so that the tree takes it.
    let mut line = format!("github {}", words.iter().map(word).collect::<Vec<_>>().join(" "));
    let end = (0..=line.len().min(512)).rev().find(|at| line.is_char_boundary(*at));
    line.truncate(end.unwrap_or(0));
    line
}

/// The `github` entry.
fn entry(github: &Value) -> Option<Wanted> {
    let refs = github.get("refs").and_then(Value::as_array);
    let mut room = WANTED_BYTES_MAX;
    let refs = match refs {
        Some(refs) => {
            let all: Vec<&str> = refs.iter().filter_map(Value::as_str).collect();
            let room = all.iter().take_while(|name| takes_room(&mut room, name.len())).count();
            let (kept, rest) = all.split_at(room);
            // What is not kept must take nothing away: a list without it would take more than was written.
            let whole = !rest.iter().any(|pattern| matching::split(pattern).1);
            kept.iter().filter(|_| whole).map(|&name| name.to_owned()).collect()
        }
        None => vec!["refs/heads/*".to_owned()],
    };
    Some(Wanted::Entry {
        repository: github.get("repository")?.as_str()?.to_owned(),
        refs,
    })
}

/// The git-checkout tasks whose repository has an address with a host.
fn checkouts(config: &Value, parameters: Option<&Map<String, Value>>) -> Vec<Checkout> {
    let tasks: Vec<&Value> = match config.get("tasks") {
        Some(Value::Array(tasks)) => tasks.iter().collect(),
        // The form of 2013.
        Some(Value::Object(tasks)) => tasks.values().collect(),
        _ => Vec::new(),
    };
    let none = Map::new();
    let parameters = parameters.unwrap_or(&none);
    let given = parameters.iter().filter(|(_, value)| !value.is_null());
    let mut values: Map<String, Value> = given.map(|(name, value)| (name.clone(), value.clone())).collect();
    let mut all: Vec<Checkout> = Vec::new();
    let mut room = WANTED_BYTES_MAX;
    for task in tasks.into_iter().filter(|task| is_checkout(task)) {
        let others = all.len();
        // No parameter has such a name.
        values.retain(|name, _| !name.starts_with("matrix."));
        for combination in combinations(task) {
            values.extend(combination);
            let one = checkout(task, parameters, &values);
            // Combinations may differ in other things.
            let new = one.filter(|one| !all[others..].contains(one));
            all.extend(new.filter(|one| takes_room(&mut room, one.len())));
        }
    }
    all
}

/// Takes so much room, and some for keeping it, if it is there.
fn takes_room(room: &mut usize, bytes: usize) -> bool {
    let rest = room.checked_sub(bytes + 32);
    *room = rest.unwrap_or(*room);
    rest.is_some()
}

fn is_checkout(task: &Value) -> bool {
    task.get("type").and_then(Value::as_str) == Some("git-checkout")
}

/// What a task checks out, with these values of its parameters and its matrix.
fn checkout(task: &Value, parameters: &Map<String, Value>, values: &Map<String, Value>) -> Option<Checkout> {
    let params = task.get("params")?;
    let (host, path) = address(&expand(params.get("repository")?.as_str()?, values).ok()?)?;
    let text = params.get("ref").and_then(Value::as_str).unwrap_or("HEAD");
    let parameter = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    let name = match parameter.and_then(|name| parameters.get(name)) {
        Some(Value::Null) => Name::AnyBranch,
        _ => name_of(expand(text, values).ok()?),
    };
    Some(Checkout { host, path, name })
}

fn name_of(text: String) -> Name {
    match text.as_str() {
        "HEAD" => Name::Default,
        name if name.starts_with("refs/") => Name::Full(text),
        _ => Name::Short(text),
    }
}

impl Checkout {
    /// Bytes of its texts.
    fn len(&self) -> usize {
        let name = match &self.name {
            Name::Full(name) | Name::Short(name) => name.len(),
            Name::Default | Name::AnyBranch => 0,
        };
        self.host.len() + self.path.len() + name
    }

    fn takes(&self, event: &Event) -> bool {
        let name = event.base.as_deref().unwrap_or(&event.name);
        let named = match &self.name {
            Name::Full(full) => full == name,
            Name::Short(short) => ["refs/", "refs/heads/", "refs/tags/"]
                .iter()
                .any(|folder| name.strip_prefix(folder) == Some(short)),
            Name::Default => {
                let branch = event.repository.default_branch.as_deref();
                branch.is_some_and(|branch| name.strip_prefix("refs/heads/") == Some(branch))
            }
            Name::AnyBranch => name.starts_with("refs/heads/"),
        };
        named && self.is_of(&event.repository)
    }

    /// Whether it is the repository that the delivery is signed for. Its name decides whose secrets and
    /// whose jobs count, so no address beside it stands for another one.
    fn is_of(&self, repository: &Repository) -> bool {
        if !self.path.eq_ignore_ascii_case(&repository.full_name) {
            return false;
        }
        let mut addresses = repository.addresses().filter_map(address).peekable();
        if addresses.peek().is_none() {
            return self.host == HOST;
        }
        addresses.any(|(host, path)| host == self.host && path == self.path)
    }
}

/// Whether a pattern of `refs` means a ref. The commits of a pull request are anybody's: only a
/// pattern that says so from its beginning means them, not one that happens to fit. What takes away needs not
/// say so.
fn means(pattern: &str, excludes: bool, name: &str) -> bool {
    (excludes || !name.starts_with(PULLS) || pattern.starts_with(PULLS)) && fits(pattern, name)
}

#[cfg(test)]
mod tests;
