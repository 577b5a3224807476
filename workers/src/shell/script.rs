//! What a task runs: its text or a file of the workspace, and the program that its `#!` line names.

use std::path::{Path, PathBuf};

use distcifs_settings::expand::plain;
use serde_json::{Map, Value};

use super::environment::quoted;
use crate::beneath::inside;
use crate::tree::{self, Trouble};

/// Shells that run a task's text with -e where its `#!` line has no option of its own.
const SHELLS: [&str; 7] = ["sh", "bash", "dash", "ash", "ksh", "mksh", "zsh"];

/// What some editors put in front of a text.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// What is run.
#[derive(Debug, PartialEq, Eq)]
pub enum Script {
    /// A text.
    Text(String),
    /// A file, by its path in the workspace. It is looked at inside, by whoever runs it.
    File(PathBuf),
}

/// The program that runs a script, and what it gets before the script's name.
#[derive(Debug, PartialEq, Eq)]
struct Interpreter {
    program: String,
    arguments: Vec<String>,
}

impl Script {
    /// Reads it out of a ticket's parameters.
    ///
    /// # Errors
    /// `Refused` if there is none, or two.
    pub fn read(params: &Map<String, Value>) -> tree::Result<Self> {
        let refused = |why: &str| Err(Trouble::Refused(why.to_owned()));
        let file = params.get("script_file").filter(|value| !value.is_null());
        let text = match params.get("script") {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text.clone()),
            Some(Value::Array(lines)) if lines.iter().all(Value::is_string) => {
                Some(lines.iter().map(|line| plain(line) + "\n").collect())
            }
            Some(_) => return refused("params.script is neither a string nor a list of lines"),
        };
        match (text, file) {
            (Some(_), Some(_)) => refused("params has both script and script_file"),
            (None, None) => refused("params.script is missing or no string"),
            (Some(text), None) if text.starts_with(BYTE_ORDER_MARK) => refused(
                "the script begins with a byte order mark, which a shell takes for a part of a word: take it away",
            ),
            (Some(text), None) => match carriage_return(&text) {
                Some(line) => Err(Trouble::Refused(format!(
                    "line {line} of the script ends with CR LF, which no shell takes for a line end: take the CR away"
                ))),
                None => Ok(Script::Text(text)),
            },
            (None, Some(file)) => match file.as_str().and_then(inside) {
                Some(path) if path.file_name().is_some() => Ok(Script::File(path)),
                _ => refused("params.script_file must be a file of the workspace: no leading / and no .."),
            },
        }
    }

    /// The text that is given to where the script runs; empty for a file.
    pub fn text(&self) -> &str {
        match self {
            Script::Text(text) => text,
            Script::File(_) => "",
        }
    }

    /// Whether `sh -e` runs it, and nothing else has to be found out.
    pub fn is_plain(&self) -> bool {
        matches!(self, Script::Text(text) if !text.starts_with("#!"))
    }

    /// Lines for a POSIX shell: they set its arguments to env, the script, its program and two words that
    /// that gets, or end with status 127 and a reason. `w` is the workspace; `path` is what the script will
    /// have as PATH, if it is not that of the shell.
    pub fn finding(&self, path: Option<&str>) -> Vec<u8> {
        let mut text = Vec::new();
        match self {
            Script::Text(script) => {
                text.extend(b"s=${0%/*}/script a= b=\nno() { echo \"execute-shell: the script $1\" >&2; exit 127; }\n");
                let of = Interpreter::of(script);
                for (name, value) in ["i", "a", "b"].iter().zip(of.words()) {
                    text.extend(name.as_bytes());
                    text.extend(b"=");
                    text.extend(quoted(value.as_bytes()));
                    text.extend(b"\n");
                }
            }
            Script::File(file) => {
                let name = file.as_os_str().as_encoded_bytes();
                let above = file.parent().unwrap_or(Path::new("")).as_os_str().as_encoded_bytes();
                for (variable, value) in [(&b"n="[..], name), (b"d=", above)] {
                    text.extend(variable);
                    text.extend(quoted(value));
                    text.extend(b"\n");
                }
                text.extend(OF_FILE.as_bytes());
            }
        }
        text.extend(b"p=$PATH\n");
        if let Some(path) = path {
            text.extend(b"p=");
            text.extend(quoted(path.as_bytes()));
            text.extend(b"\n");
        }
        text.extend(PROGRAM.as_bytes());
        text.extend(b"set -- \"$(command -v env)\" \"$s\" \"$i\" \"$a\" \"$b\"\n");
        text
    }
}

/// Looks at a file of the workspace, `n` in its folder `d`, and at its first line.
const OF_FILE: &str = r#"no() { echo "execute-shell: the script_file $n $1" >&2; exit 127; }
s=$w/$n a=-e b= i=/bin/sh
[ -e "$s" ] || [ -L "$s" ] || no 'is not in the workspace'
r=$(cd "$w" && pwd -P)${d:+/$d}
[ "$(cd "${s%/*}" && pwd -P)" = "$r" ] && [ ! -L "$s" ] || no 'is a link or behind one, and links are not followed'
[ -f "$s" ] || no 'is no file'
[ -r "$s" ] || no "can't be read by the user whom the task runs as"
c=$(printf '\r') t=$(printf '\t') e=$(printf '\177ELF') m=$(printf '\357\273\277') k=
if command -v grep >/dev/null 2>&1; then
	k=$(LC_ALL=C grep -n -m 1 "$c\$" "$s") || k=
	k=${k%%:*}
else
	j=0
	while IFS= read -r l || [ -n "$l" ]; do
		j=$((j + 1))
		case $l in *"$c") k=$j; break ;; esac
	done <"$s"
fi
case $k in
'' | *[!0-9]*) ;;
*) no "has CR LF at the end of line $k, which no shell takes for a line end: take the CR away" ;;
esac
IFS= read -r l <"$s" || :
case $l in
"$e"*) no 'is a program and no script: run it from a script' ;;
"$m"*) no 'begins with a byte order mark, which a shell takes for a part of a word: take it away' ;;
'#!'*)
	l=${l#??}
	while :; do case $l in ' '* | "$t"*) l=${l#?} ;; *' ' | *"$t") l=${l%?} ;; *) break ;; esac; done
	i=${l%%[ $t]*}
	a=${l#"$i"}
	while :; do case $a in ' '* | "$t"*) a=${a#?} ;; *) break ;; esac; done
	;;
esac
"#;

/// Looks whether the program is there.
const PROGRAM: &str = r#"case $i in /*) ;; *) no "must name a program by its whole path behind #!, such as #!/usr/bin/env python3" ;; esac
[ -f "$i" ] && [ -x "$i" ] || no "begins with #!$i, and there is no such program here"
case $i,$a in
*/env,-* | */env,*=* | */env,) ;;
*/env,*) (PATH=$p; command -v "$a" >/dev/null 2>&1) || no "begins with #!$i $a, and there is no program $a here" ;;
esac
"#;

impl Interpreter {
    /// What a text says: as the kernel does, which takes the rest of the line for one argument.
    fn of(script: &str) -> Self {
        let Some(line) = script
            .strip_prefix("#!")
            .map(|rest| rest.lines().next().unwrap_or_default())
        else {
            return Interpreter {
                program: "/bin/sh".to_owned(),
                arguments: vec!["-e".to_owned()],
            };
        };
        let blank = |c: char| c == ' ' || c == '\t';
        let line = line.trim_matches(blank);
        let (program, argument) = line.split_once(blank).unwrap_or((line, ""));
        let argument = argument.trim_matches(blank);
        let mut arguments: Vec<String> = Vec::new();
        if !argument.is_empty() {
            arguments.push(argument.to_owned());
        }
        let name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
        let runs = if name(program) == "env" {
            argument.to_owned()
        } else {
            name(program)
        };
        if SHELLS.contains(&runs.as_str()) && (argument.is_empty() || runs == argument) {
            arguments.push("-e".to_owned());
        }
        Interpreter {
            program: program.to_owned(),
            arguments,
        }
    }

    fn words(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.program.as_str()).chain(self.arguments.iter().map(String::as_str))
    }
}

/// The first line that ends with a carriage return, from 1.
fn carriage_return(text: &str) -> Option<usize> {
    text.split('\n').position(|line| line.ends_with('\r')).map(|at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_script_is_a_text_or_lines_or_a_file() {
        let read = |params: Value| Script::read(params.as_object().unwrap());
        let text = |text: &str| Script::Text(text.to_owned());
        assert_eq!(read(json!({"script": "a\nb"})).unwrap(), text("a\nb"));
        assert_eq!(read(json!({"script": ["a", "", "b"]})).unwrap(), text("a\n\nb\n"));
        assert_eq!(
            read(json!({"script_file": "./ci//x.sh"})).unwrap(),
            Script::File("ci/x.sh".into())
        );
        for (params, why) in [
            (json!({}), "missing"),
            (json!({"script": 1}), "neither"),
            (json!({"script": ["a", 1]}), "neither"),
            (json!({"script": "a", "script_file": "b"}), "both"),
            (json!({"script": "a\nb\r\nc"}), "line 2 of the script"),
            (json!({"script": ["a", "b", "c\r"]}), "line 3 of the script"),
            (json!({"script": "\u{feff}a\r\n"}), "byte order mark"),
            (json!({"script": ["\u{feff}#!/bin/sh", "a"]}), "byte order mark"),
            (json!({"script_file": "../x"}), "file of the workspace"),
            (json!({"script_file": "/x"}), "file of the workspace"),
            (json!({"script_file": ""}), "file of the workspace"),
            (json!({"script_file": 7}), "file of the workspace"),
        ] {
            let refused = read(params.clone()).unwrap_err().to_string();
            assert!(refused.contains(why), "{params}: {refused}");
        }
    }

    #[test]
    fn the_first_line_names_the_program_as_for_the_kernel() {
        for (script, words) in [
            ("echo", &["/bin/sh", "-e"][..]),
            ("#!/bin/bash", &["/bin/bash", "-e"]),
            ("#! /bin/bash -eu \nx", &["/bin/bash", "-eu"]),
            ("#!/usr/bin/env bash\n", &["/usr/bin/env", "bash", "-e"]),
            ("#!/usr/bin/env python3\n", &["/usr/bin/env", "python3"]),
            ("#!/usr/bin/env -S bash -x\n", &["/usr/bin/env", "-S bash -x"]),
            ("#!/usr/bin/python3 -u -B\n", &["/usr/bin/python3", "-u -B"]),
            ("#!/usr/bin/awk -f\n", &["/usr/bin/awk", "-f"]),
            ("#!\n", &[""]),
        ] {
            let of = Interpreter::of(script);
            assert_eq!(of.words().collect::<Vec<_>>(), words, "{script}");
        }
    }
}
