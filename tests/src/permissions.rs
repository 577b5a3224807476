//! Who may do what with each file of a tree: callers try it, and a table says how it went.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// What is tried, in the order of the letters in a cell.
const LETTERS: &str = "lrwckmau";

/// What stands in a cell for something that makes no sense for that kind of file, or that would
/// spoil the tree for the next caller.
const NOT_TRIED: char = '.';

/// Names that no folder lists.
const HIDDEN: [&str; 7] = [".drain", ".events", ".next", ".post", ".wait", "claim", "jobs"];

/// The names of the file and the folder that callers make and take away again.
const MADE_FILE: &str = "probe-file";
const MADE_FOLDER: &str = "probe-folder";

/// A process that tries things as somebody.
pub struct Caller {
    /// What its column is called.
    pub name: &'static str,
    /// Its user.
    pub uid: u32,
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

/// One file or folder that is tried.
#[derive(Debug, Clone)]
pub struct Item {
    /// Its path in the table.
    pub label: String,
    /// Its path on this machine.
    pub path: PathBuf,
    kind: Kind,
    mode: u32,
    /// Whether removing it would be felt by the next caller.
    kept: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Folder,
    File,
    /// It answers late, or does something when it is read.
    Odd,
    Link,
    /// Not there: it can be made.
    Absent,
}

impl Caller {
    /// Starts `probe` with these ids, in a session of its own; `before` are words of a command
    /// that runs another.
    pub fn start(name: &'static str, probe: &Path, ids: (u32, u32, &[u32]), before: &[&str]) -> Caller {
        let (uid, gid, groups) = ids;
        let groups = match groups {
            [] => "--clear-groups".to_owned(),
            some => format!(
                "--groups={}",
                some.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
            ),
        };
        let mut child = Command::new("setsid")
            .args(before)
            .arg("setpriv")
            .args([format!("--reuid={uid}"), format!("--regid={gid}"), groups])
            .arg(probe)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("setsid and setpriv run");
        let to = child.stdin.take().expect("a pipe");
        let from = BufReader::new(child.stdout.take().expect("a pipe"));
        Caller {
            name,
            uid,
            child,
            to,
            from,
        }
    }

    /// Tries it: 0, or the number of the error.
    pub fn try_it(&mut self, operation: &str, argument: &str, path: &Path) -> i32 {
        self.ask(operation, argument, path);
        self.answer(operation, path)
    }

    fn ask(&mut self, operation: &str, argument: &str, path: &Path) {
        writeln!(self.to, "{operation}\t{argument}\t{}", path.display()).expect("the probe reads");
    }

    fn answer(&mut self, operation: &str, path: &Path) -> i32 {
        let mut said = String::new();
        self.from.read_line(&mut said).expect("the probe answers");
        match said.trim_end() {
            "ok" => 0,
            text => text
                .parse()
                .unwrap_or_else(|_| panic!("{}: {operation} {}: {text:?}", self.name, path.display())),
        }
    }

    /// The cell of this caller and a file. All is asked before the first answer is read: on a busy machine
    /// each turn from one process to the other takes longer than what is tried.
    fn cell(&mut self, item: &Item) -> String {
        let mode = item.mode.to_string();
        let tried: Vec<_> = LETTERS
            .chars()
            .map(|letter| (letter, item.operation(letter, self.name)))
            .collect();
        for (operation, path) in tried.iter().filter_map(|(_, tried)| tried.as_ref()) {
            self.ask(operation, &mode, path);
        }
        let cell = tried.iter().map(|(letter, tried)| match tried {
            None => NOT_TRIED,
            Some((operation, path)) => match self.answer(operation, path) {
                0 => *letter,
                errno => sign(errno),
            },
        });
        cell.collect()
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The sign of an error in a cell.
fn sign(errno: i32) -> char {
    match errno {
        libc::EACCES => '-',
        libc::EPERM => 'P',
        libc::EROFS => 'R',
        libc::EEXIST => 'E',
        libc::EBUSY => 'B',
        libc::ESTALE => 'S',
        libc::ENOENT => 'N',
        libc::EINVAL => 'V',
        libc::EOPNOTSUPP => 'O',
        libc::ENOTEMPTY => 'T',
        libc::ENXIO => 'X',
        other => panic!("no sign for errno {other}: give it one, here and in doc/permissions.md"),
    }
}

impl Item {
    /// What stands there.
    pub fn there(label: &str, path: &Path) -> Item {
        let meta = fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let of = meta.file_type();
        let kind = if of.is_dir() {
            Kind::Folder
        } else if of.is_symlink() {
            Kind::Link
        } else if name.starts_with('.') || name == "trigger" || of.is_fifo() {
            Kind::Odd
        } else {
            Kind::File
        };
        Item {
            label: label.to_owned(),
            path: path.to_owned(),
            kind,
            mode: meta.permissions().mode() & 0o7777,
            kept: false,
        }
    }

    /// A name that is not there and may be made.
    pub fn absent(label: &str, path: &Path) -> Item {
        Item {
            label: label.to_owned(),
            path: path.to_owned(),
            kind: Kind::Absent,
            mode: 0,
            kept: false,
        }
    }

    /// What not even root may see there, as what it is; removing it is not tried.
    pub fn unseen(label: &str, path: &Path, folder: bool) -> Item {
        Item {
            kind: if folder { Kind::Folder } else { Kind::File },
            kept: true,
            mode: if folder { 0o750 } else { 0o640 },
            ..Item::absent(label, path)
        }
    }

    /// The same, without an attempt to remove it.
    #[must_use]
    pub fn kept(mut self) -> Item {
        self.kept = true;
        self
    }

    /// Everything below a path that root sees, listed or hidden, and the path itself. `stop` says
    /// of a label that nothing below it is looked at.
    pub fn walk(label: &str, path: &Path, stop: &dyn Fn(&str) -> bool) -> Vec<Item> {
        let item = Item::there(label, path);
        let mut found = vec![item.clone()];
        if item.kind != Kind::Folder || stop(label) {
            return found;
        }
        let listed = fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let listed = listed.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = listed.collect();
        let hidden = HIDDEN
            .iter()
            .filter(|name| fs::symlink_metadata(path.join(name)).is_ok());
        names.extend(hidden.map(|name| (*name).to_owned()));
        names.sort();
        names.dedup();
        for name in names {
            found.extend(Item::walk(&format!("{label}/{name}"), &path.join(&name), stop));
        }
        found
    }

    /// The probe's word and the path for a letter; `None`: not tried.
    fn operation(&self, letter: char, caller: &str) -> Option<(&'static str, PathBuf)> {
        let here = |word| Some((word, self.path.clone()));
        // A parameter that a claimant has recorded stays: each caller makes one of its own.
        let inside = |word, name| Some((word, self.path.join(format!("{name}-{caller}"))));
        match (letter, self.kind) {
            ('c', Kind::Absent) => here("create"),
            (_, Kind::Absent) => None,
            ('l', _) => here("stat"),
            ('r', Kind::Folder) => here("list"),
            ('r', Kind::File) => here("read"),
            ('r', Kind::Odd) => here("open"),
            ('r', Kind::Link) => here("readlink"),
            ('w', Kind::File | Kind::Odd) => here("write"),
            ('c', Kind::Folder) => inside("create", MADE_FILE),
            ('k', Kind::Folder) => inside("mkdir", MADE_FOLDER),
            ('u', _) if self.kept => None,
            ('u', Kind::Folder) => here("rmdir"),
            ('u', _) => here("unlink"),
            ('m' | 'a', Kind::Link) => None,
            ('m', _) => here("chmod"),
            ('a', _) => here("acl"),
            _ => None,
        }
    }

    /// Whether it is a file that can be searched to its end.
    pub fn is_text(&self) -> bool {
        self.kind == Kind::File
    }

    /// Its size, bytes, as root sees it.
    pub fn size(&self) -> u64 {
        fs::symlink_metadata(&self.path).map_or(0, |meta| meta.size())
    }
}

/// Rows of a table: for each path and variant of it, for each mode of the job, a row of cells.
#[derive(Default)]
pub struct Table {
    rows: BTreeMap<String, Variants>,
    columns: Vec<&'static str>,
}

/// Variant, then mode, then cells.
type Variants = BTreeMap<String, BTreeMap<String, String>>;

impl Table {
    /// Has all callers try an item; `which` variant of its path, in a job of which mode.
    pub fn add(&mut self, (which, mode): (&str, &str), item: &Item, callers: &mut [Caller]) {
        self.columns = callers.iter().map(|caller| caller.name).collect();
        let mut cells = String::new();
        for caller in callers {
            let _ = write!(cells, " {}", caller.cell(item));
        }
        let variants = self.rows.entry(item.label.clone()).or_default();
        let modes = variants.entry(which.to_owned()).or_default();
        modes.insert(mode.to_owned(), cells);
    }

    /// The table as text: what is the same for several files of a folder, variants or modes is said
    /// once.
    pub fn render(&self) -> String {
        let mut blocks: Vec<(&str, Vec<&str>, &Variants)> = Vec::new();
        for (label, variants) in &self.rows {
            let (folder, name) = label.rsplit_once('/').unwrap_or(("", label));
            let alike = |block: &&mut (&str, Vec<&str>, &Variants)| block.0 == folder && block.2 == variants;
            match blocks.iter_mut().find(alike) {
                Some((_, names, _)) => names.push(name),
                None => blocks.push((folder, vec![name], variants)),
            }
        }
        let mut text = format!("{:36}", "");
        self.columns
            .iter()
            .for_each(|name| text.push_str(&format!(" {name:8}")));
        for (folder, names, variants) in blocks {
            let name = match names.as_slice() {
                [name] => (*name).to_owned(),
                names => format!("{{{}}}", names.join(",")),
            };
            let _ = write!(text, "\n\n{folder}/{name}");
            for (which, modes, cells) in rows(variants) {
                let _ = write!(text, "\n  {which:20} {modes:13}{cells}");
            }
        }
        text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
    }
}

/// The rows of one file: which variants, which modes, the cells.
fn rows(variants: &Variants) -> Vec<(String, String, &str)> {
    let mut alike: Vec<(String, BTreeMap<&str, String>)> = Vec::new();
    for (which, modes) in variants {
        let mut groups: BTreeMap<&str, String> = BTreeMap::new();
        let all = modes.len() > 1 && modes.values().all(|cells| Some(cells) == modes.values().next());
        for (mode, cells) in modes {
            match groups.entry(cells) {
                Entry::Vacant(new) => _ = new.insert(if all { "all" } else { mode }.to_owned()),
                Entry::Occupied(mut known) if !all => join(known.get_mut(), mode),
                Entry::Occupied(_) => {}
            }
        }
        match alike.iter_mut().find(|(_, known)| *known == groups) {
            Some((names, _)) => join(names, which),
            None => alike.push((which.clone(), groups)),
        }
    }
    let mut found = Vec::new();
    for (which, groups) in alike {
        let mut rows: Vec<_> = groups
            .into_iter()
            .map(|(cells, modes)| (which.clone(), modes, cells))
            .collect();
        rows.sort_by(|a, b| a.1.cmp(&b.1));
        found.extend(rows);
    }
    found
}

fn join(list: &mut String, word: &str) {
    if !list.is_empty() {
        list.push(',');
    }
    list.push_str(word);
}
