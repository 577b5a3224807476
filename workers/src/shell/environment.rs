//! What a script finds: its variables, and the file that sets them and starts it.

use std::collections::BTreeMap;
use std::path::Path;

use distcifs_settings::expand::plain;
use serde_json::{Map, Value};

use super::script::Script;
use super::told;
use crate::identity::{Program, Whom};
use crate::ticket::Ticket;

/// Variables that a script takes from whoever starts it, if they are set.
const OFFERED: [&str; 5] = ["HOME", "USER", "LOGNAME", "LANG", "TZ"];

/// One that it takes if nothing stands between it and the node.
const OFFERED_ALSO: &str = "TMPDIR";

/// Variables that mean something to one shell or another, besides those that begin like its name.
const OF_SHELLS: [&str; 24] = [
    "_",
    "ATTY",
    "DIRSTACK",
    "ENV",
    "EUID",
    "FUNCNAME",
    "GROUPS",
    "HISTCMD",
    "IFS",
    "LINENO",
    "OLDPWD",
    "OPTARG",
    "OPTERR",
    "OPTIND",
    "PIPESTATUS",
    "POSIXLY_CORRECT",
    "PPID",
    "PWD",
    "RANDOM",
    "SECONDS",
    "SHELLOPTS",
    "SHLVL",
    "SRANDOM",
    "UID",
];

/// Where programs are looked for if nobody says otherwise.
pub use crate::identity::program::PATH_DEFAULT;

/// The script's folders inside an environment that says nothing of them.
const WORKSPACE: &str = "/workspace";
const ARTIFACTS: &str = "/artifacts";

/// Stands beside the workspace, wherever that is: what the tasks that this one waits for published.
const NEEDS: &str = "needs";

/// The variables of a script, but for those that depend on where it runs.
pub fn variables(ticket: &Ticket, params: &Map<String, Value>, task: Option<&str>) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (name, value) in params {
        let readable: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
            .collect();
        all.entry(format!("PARAM_{readable}")).or_insert_with(|| plain(value));
        all.insert(format!("PARAM_{name}"), plain(value));
    }
    all.extend(ticket.settings.environment.iter().cloned());
    for name in ["WORKSPACE", "ARTIFACTS"] {
        all.remove(name);
    }
    if ticket.task.is_some() {
        all.remove("NEEDS");
        for told in told::ALL {
            all.remove(told.variable);
        }
    }
    all.extend(ticket.job.clone().map(|job| ("JOB_NAME".to_owned(), job)));
    all.extend(ticket.build.map(|n| ("BUILD_NUMBER".to_owned(), n.to_string())));
    if ticket.build.is_some() {
        let said = ticket.source.words().into_iter().filter(|(_, word)| !word.is_empty());
        all.extend(said.map(|(name, word)| (format!("DISTCIFS_{}", name.to_uppercase()), word.to_owned())));
    }
    all.extend(task.map(|name| ("TASK_NAME".to_owned(), name.to_owned())));
    // The kernel has no way to pass these.
    all.retain(|name, value| !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0'));
    all
}

/// What is to be started.
pub struct Start<'a> {
    /// What is run.
    pub script: &'a Script,
    /// Its variables.
    pub variables: &'a BTreeMap<String, String>,
    /// Where it runs, below the workspace.
    pub folder: &'a Path,
    /// Whether it is in an environment.
    pub isolated: bool,
    /// Whether it is of a task, which has `needs/` and may tell parameters and tasks of the build.
    pub needs: bool,
    /// Processes that it may have, where nothing but the shell bounds them.
    pub processes: Option<u64>,
}

impl Start<'_> {
    /// The files in which it may tell something.
    fn told(&self) -> impl Iterator<Item = told::Told> {
        told::ALL.into_iter().filter(|_| self.needs)
    }

    /// The script as it is, where nothing is to stand between it and the node: fewer programs are
    /// started than by the file of `text`.
    pub fn program(&self, whom: &Whom, script: &Path, workspace: &Path, artifacts: &Path) -> Program {
        whom.program("/bin/sh", &workspace.join(self.folder))
            .arg("-e")
            .arg(script)
            .envs(self.variables)
            .env("WORKSPACE", workspace)
            .env("ARTIFACTS", artifacts)
            .envs(self.needs.then(|| ("NEEDS", workspace.with_file_name(NEEDS))))
            .envs(self.told().map(|told| (told.variable, artifacts.join(told.name))))
    }

    /// The text of the file that starts the script beside it, for any POSIX shell. Its arguments are
    /// the workspace and the artifacts, if these are not `/workspace` and `/artifacts`. What comes
    /// from outside stands in it as quoted words, each of them the whole value of a variable. Everybody on
    /// a node sees the arguments of every process, so only names that a shell can't set are given by them.
    pub fn text(&self) -> Vec<u8> {
        let mut text = format!("PATH=${{PATH:-{PATH_DEFAULT}}}\n");
        if self.isolated {
            // The one that it has is the node's, and would not be opened once more by /dev/stdin.
            text += "[ ! -c /dev/null ] || exec </dev/null\n";
        }
        text += &format!("w=${{1:-{WORKSPACE}}} o=${{2:-{ARTIFACTS}}}\n");
        // Again, with nothing of whoever started it.
        text += "[ \"${3-}\" = again ] || exec env -i PATH=\"$PATH\"";
        let also = (!self.isolated).then_some(OFFERED_ALSO);
        for name in OFFERED.into_iter().chain(also) {
            text += &format!(" ${{{name}:+\"{name}=${name}\"}}");
        }
        text += " /bin/sh \"$0\" \"$w\" \"$o\" again\n";
        if let Some(processes) = self.processes {
            // The letter is -p in dash and busybox, -u in bash.
            text += &format!("ulimit -p {processes} 2>/dev/null || ulimit -u {processes} || exit\n");
        }
        let mut text = text.into_bytes();
        text.extend(b"cd \"$w\"");
        if !self.folder.as_os_str().is_empty() {
            text.extend(b"/");
            text.extend(quoted(self.folder.as_os_str().as_encoded_bytes()));
        }
        text.extend(b" || exit\n");
        let plain_script = self.script.is_plain();
        text.extend(if plain_script {
            b"set -- \"$(command -v env)\" \"${0%/*}/script\"\n".to_vec()
        } else {
            self.script.finding(self.variables.get("PATH").map(String::as_str))
        });
        text.extend(b"export WORKSPACE=\"$w\" ARTIFACTS=\"$o\"\nunset OLDPWD\n");
        if self.needs {
            // An environment of somebody's own may not show it.
            let line = format!("[ ! -d \"${{w%/*}}/{NEEDS}\" ] || export NEEDS=\"${{w%/*}}/{NEEDS}\"\n");
            text.extend(line.as_bytes());
        }
        for told in self.told() {
            text.extend(format!("export {}=\"$o/{}\"\n", told.variable, told.name).as_bytes());
        }
        let (plain, odd): (Vec<_>, Vec<_>) = self.variables.iter().partition(|(name, _)| can_be_set(name));
        for (name, value) in plain {
            text.extend(format!("export {name}=").as_bytes());
            text.extend(quoted(value.as_bytes()));
            text.extend(b"\n");
        }
        text.extend(b"exec");
        if !odd.is_empty() {
            text.extend(b" \"$1\"");
        }
        for (name, value) in odd {
            text.extend(b" \\\n");
            text.extend(quoted(format!("{name}={value}").as_bytes()));
        }
        text.extend(if plain_script {
            &b" /bin/sh -e \"$2\"\n"[..]
        } else {
            b" \"$3\" ${4:+\"$4\"} ${5:+\"$5\"} \"$2\"\n"
        });
        text
    }
}

/// Whether every shell sets a variable of this name as it is: others are no names to it, or mean something
/// to it.
fn can_be_set(name: &str) -> bool {
    let plain = |(at, b): (usize, u8)| b == b'_' || b.is_ascii_alphabetic() || (at > 0 && b.is_ascii_digit());
    let own = ["BASH", "COMP_", "EPOCH"].iter().any(|begin| name.starts_with(begin));
    name.bytes().enumerate().all(plain) && !own && !OF_SHELLS.contains(&name)
}

/// A word for a shell that stands for just these bytes.
pub fn quoted(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![b'\''];
    for byte in bytes {
        match byte {
            b'\'' => out.extend(br"'\''"),
            byte => out.push(*byte),
        }
    }
    out.push(b'\'');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::process::Command;

    fn ticket(value: Value) -> Ticket {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_script_finds_what_its_ticket_says() {
        let source = json!({"event": "push", "ref": "refs/heads/main"});
        let ticket =
            ticket(json!({"job": "j", "build": 2, "source": source, "environment": {"A": "b", "WORKSPACE": "no"}}));
        let params = json!({"git-ref": "x", "git_ref": "y"});
        let found = variables(&ticket, params.as_object().unwrap(), Some("unit"));
        let expected = [
            ("A", "b"),
            ("BUILD_NUMBER", "2"),
            ("DISTCIFS_EVENT", "push"),
            ("DISTCIFS_REF", "refs/heads/main"),
            ("DISTCIFS_TRUST", "trusted"),
            ("JOB_NAME", "j"),
            ("PARAM_git-ref", "x"),
            ("PARAM_git_ref", "y"),
            ("TASK_NAME", "unit"),
        ];
        assert_eq!(found, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    }

    /// "Everybody on a node sees the arguments of every process": values are not among them.
    #[test]
    fn values_are_no_arguments_of_a_program() {
        let variables = BTreeMap::from([("PARAM_token".to_owned(), "s3cret".to_owned())]);
        let start = Start {
            script: &Script::Text("env -0; pwd".to_owned()),
            variables: &variables,
            folder: Path::new(""),
            isolated: true,
            needs: true,
            processes: None,
        };
        let text = String::from_utf8(start.text()).unwrap();
        let with: Vec<&str> = text.lines().filter(|line| line.contains("s3cret")).collect();
        assert_eq!(with, ["export PARAM_token='s3cret'"]);
        for name in ["", "1a", "a-b", "a b", "a=b", "é", "UID", "BASH_ENV", "IFS"] {
            assert!(!can_be_set(name) || name.is_empty(), "{name}");
        }
    }

    /// Whatever a value holds, it arrives as it is and nothing in it is carried out.
    #[test]
    fn values_arrive_in_every_shell_as_they_are() {
        let folder = std::env::temp_dir().join(format!("distcifs-start-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("it's $(x)")).unwrap();
        let odd = "a'b\"c $(touch hit) `touch hit`\n\\'; touch hit; '\t$HOME\u{e9}*";
        let names = ["PARAM_a_b", "PARAM_a-b", "w", "UID", "RANDOM", "IFS", "PATH_X", "PS4"];
        let variables: BTreeMap<_, _> = names.map(|name| (name.to_owned(), odd.to_owned())).into();
        let start = Start {
            script: &Script::Text("env -0; pwd".to_owned()),
            variables: &variables,
            folder: Path::new("it's $(x)"),
            isolated: true,
            needs: true,
            processes: Some(5000),
        };
        std::fs::write(folder.join("start"), start.text()).unwrap();
        std::fs::write(folder.join("script"), "env -0; pwd").unwrap();
        for shell in [&["dash"][..], &["bash"], &["busybox", "sh"]] {
            let Ok(output) = Command::new(shell[0])
                .args(&shell[1..])
                .arg(folder.join("start"))
                .args([&folder, &folder])
                .env_clear()
                .env("HOME", "/tmp/x")
                .env("UNWANTED", "1")
                .output()
            else {
                continue;
            };
            let said = String::from_utf8_lossy(&output.stdout);
            let lines: Vec<&str> = said.split('\0').collect();
            // dash takes over only what it can have in names.
            for name in names.iter().filter(|name| can_be_set(name)) {
                assert!(
                    lines.contains(&format!("{name}={odd}").as_str()),
                    "{name} in {shell:?}: {output:?}"
                );
            }
            assert!(
                lines.contains(&format!("WORKSPACE={}", folder.display()).as_str()),
                "{said}"
            );
            assert!(!said.contains("UNWANTED"), "{said}");
            assert!(lines.contains(&"HOME=/tmp/x"), "{said}");
            assert!(said.ends_with("it's $(x)\n"), "{said}");
            assert!(!folder.join("it's $(x)/hit").exists());
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
